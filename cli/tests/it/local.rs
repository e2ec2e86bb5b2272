//! Vaults on local folders: how they are made, opened, shared between commands, and refused.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rusqlite::Connection;

use crate::sandbox::{PASSPHRASE, Ran, Sandbox, SmallDisk, text};
use crate::trees::{assert_same, fill, names, noise, skipped, write};

/// Every command that works on a vault.
const COMMANDS: [&str; 7] =
    ["push file", "pull latest --to out", "verify", "snapshots", "ls latest", "status", "servers"];

/// A push that holds the vault for as long as it is fed.
struct Holding(Child);

impl Holding {
    fn new(sandbox: &Sandbox) -> Self {
        let mut command = sandbox.command(["push", "-", "--as", "held"]);
        let command = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().unwrap();
        let note = format!("pid = {}\n", child.id());
        let began = Instant::now();
        while !fs::read_to_string(sandbox.path("vault/lock")).is_ok_and(|n| n.contains(&note)) {
            assert!(began.elapsed() < Duration::from_secs(60), "it never took the lock");
            std::thread::sleep(Duration::from_millis(5));
        }
        Self(child)
    }

    fn end(mut self) -> Option<i32> {
        self.0.stdin.take().unwrap().write_all(b"enough").unwrap();
        self.0.wait().unwrap().code()
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        // Both fail when it ended before.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn codes_without_parity_or_data_make_nothing() {
    let sandbox = Sandbox::new();
    for code in ["1+0", "4+0", "0+2", "200+100", "4", "four+two", "-1+2"] {
        sandbox.arc(["init", "vault", &format!("--code={code}")]).exits(2);
        assert!(!sandbox.path("vault").exists(), "{code}");
    }
}

#[test]
fn a_second_init_leaves_the_vault_as_it_is() {
    let sandbox = Sandbox::with_vault("2+1");
    write(sandbox.path("file"), "x");
    sandbox.arc(["push", "file"]).exits(0);
    let settings = fs::read(sandbox.path("vault/arc.toml")).unwrap();
    let ran = sandbox.arc(["init", "vault", "--code", "4+2"]).exits(2);
    assert!(ran.stderr().contains("has a vault already"), "{}", ran.stderr());
    assert_eq!(fs::read(sandbox.path("vault/arc.toml")).unwrap(), settings);
    sandbox.arc(["verify", "--level", "data"]).exits(0);
}

#[test]
fn a_vault_that_is_gone_is_10() {
    let sandbox = Sandbox::with_vault("2+1");
    fs::rename(sandbox.path("vault"), sandbox.path("moved")).unwrap();
    for command in COMMANDS {
        sandbox.arc(command.split(' ')).exits(10);
    }
    assert!(!sandbox.path("vault").exists(), "looking for it makes nothing");
    sandbox.arc(["--vault", "moved", "status"]).exits(0);
}

#[test]
fn a_wrong_passphrase_is_12_and_nothing_is_read_or_changed() {
    let sandbox = Sandbox::of_passphrase().vault("2+1");
    write(sandbox.path("file"), "x");
    sandbox.arc(["push", "file"]).exits(0);
    for command in ["push file", "pull latest --to out", "verify", "snapshots", "ls latest"] {
        let mut command = sandbox.command(command.split(' '));
        let ran = Ran(command.env("ARC_PASSPHRASE", "another").output().unwrap()).exits(12);
        assert!(ran.stderr().contains("does not open this vault"), "{}", ran.stderr());
        assert_eq!(ran.stdout(), "");
    }
    assert!(!sandbox.path("out").exists());
    assert_eq!(sandbox.arc(["--json", "snapshots"]).json_lines("snapshot").len(), 1);
}

#[test]
fn a_key_file_takes_the_place_of_a_passphrase() {
    let sandbox = Sandbox::of_passphrase();
    write(sandbox.path("key"), noise(1, 64));
    write(sandbox.path("other key"), noise(2, 64));
    write(sandbox.path("file"), "x");
    let run = |args: &[&str]| {
        let mut command = sandbox.command(args);
        Ran(command.env_remove("ARC_PASSPHRASE").output().unwrap())
    };
    run(&["init", "vault", "--code", "2+1", "--key-file", "key"]).exits(0);
    run(&["push", "file", "--key-file", "key"]).exits(0);
    run(&["verify", "--level", "data"]).exits(12);
    run(&["verify", "--key-file", "other key"]).exits(12);
    run(&["verify", "--key-file", "no key"]).exits(1);
    let mut from_environment = sandbox.command(["verify", "--level", "data"]);
    Ran(from_environment.env("ARC_KEY_FILE", "key").output().unwrap()).exits(0);
    sandbox.arc(["verify"]).exits(12);
}

#[test]
fn the_passphrase_stands_nowhere() {
    let sandbox = Sandbox::of_passphrase().vault("2+1");
    write(sandbox.path("file"), "x");
    let mut pushed = sandbox.command(["-vv", "push", "file"]);
    let said = Ran(pushed.output().unwrap()).exits(0);
    assert!(!said.stderr().contains(PASSPHRASE) && !said.stdout().contains(PASSPHRASE));
    for root in ["vault", "config"].map(|name| sandbox.path(name)) {
        for name in names(&root).iter().filter(|name| root.join(name).is_file()) {
            let bytes = fs::read(root.join(name)).unwrap();
            let found = bytes.windows(PASSPHRASE.len()).any(|part| part == PASSPHRASE.as_bytes());
            assert!(!found, "{}", name.display());
        }
    }
    let mode = |name: &str| sandbox.path(name).metadata().unwrap().permissions().mode() & 0o077;
    for name in
        ["config/arc/config.toml", "vault/coordinator/owner.token", "vault/coordinator/keys"]
    {
        assert_eq!(mode(name), 0, "{name} is for its owner only");
    }
}

#[test]
fn a_disk_that_is_missing_or_empty_is_asked_to_be_mounted() {
    let sandbox = Sandbox::with_vault("4+2");
    write(sandbox.path("file"), noise(3, 700_000));
    sandbox.arc(["push", "file"]).exits(0);
    for disk in ["1", "2"] {
        fs::rename(sandbox.path("vault/disks").join(disk), sandbox.path(disk)).unwrap();
    }
    fs::create_dir(sandbox.path("vault/disks/2")).unwrap();
    for (command, code) in [("status", 7), ("verify", 7), ("ls latest", 0)] {
        let said = sandbox.arc(command.split(' ')).exits(code).stderr();
        assert_eq!(said.matches("not mounted?").count(), 2, "{command}: {said}");
    }
    sandbox.pull(&sandbox.path("file"), &sandbox.path("back")).exits(0);
    let servers = sandbox.arc(["--json", "servers"]).exits(0).json_of("summary");
    let states = servers["servers"].as_array().unwrap().iter();
    let up = states.filter(|server| server["state"] == "up").count();
    assert_eq!(up, 4, "{servers}");
    assert!(!sandbox.path("vault/disks/1").exists(), "what is not mounted is not made");
    assert_eq!(names(&sandbox.path("vault/disks/2")).len(), 1, "nor is anything put there");
}

#[test]
fn disks_that_changed_places_are_known_by_their_server_id() {
    let sandbox = Sandbox::with_vault("2+1");
    let tree = sandbox.path("tree");
    fill(&tree, 60, 20_000);
    sandbox.arc(["push", text(&tree)]).exits(0);
    let at = |name: &str| sandbox.path("vault/disks").join(name);
    for (from, to) in [("1", "aside"), ("3", "1"), ("aside", "3")] {
        fs::rename(at(from), at(to)).unwrap();
    }
    sandbox.pull(&tree, &sandbox.path("back")).exits(0);
    assert_same(&tree, &sandbox.path("back"));
    sandbox.arc(["verify"]).exits(0);
}

#[test]
fn a_second_command_names_the_one_it_waits_for() {
    let sandbox = Sandbox::with_vault("2+1");
    write(sandbox.path("file"), "x");
    let held = Holding::new(&sandbox);
    let holder = format!("`arc push - --as held` (pid {}, since ", held.0.id());
    for command in COMMANDS {
        let ran = sandbox.arc(command.split(' ').chain(["--lock-wait", "100ms"])).exits(11);
        let said = ran.stderr();
        assert_eq!(said.matches(&holder).count(), 2, "waiting for it, and in the end: {said}");
        assert_eq!(said.matches("waiting for").count(), 1, "{said}");
        assert!(said.contains("nothing was done"), "{said}");
    }
    // One that waits for as long as it takes goes on where the first ends.
    let mut waiting = sandbox.command(["push", "file"]).stdout(Stdio::null()).spawn().unwrap();
    assert_eq!(held.end(), Some(0));
    assert_eq!(waiting.wait().unwrap().code(), Some(0));
    assert_eq!(sandbox.arc(["--json", "snapshots"]).json_lines("snapshot").len(), 2);
}

#[test]
fn a_holder_that_was_killed_holds_nothing() {
    let sandbox = Sandbox::with_vault("2+1");
    drop(Holding::new(&sandbox));
    sandbox.arc(["status", "--lock-wait", "0"]).exits(0);
}

#[test]
fn two_pushes_of_one_tree_at_once_come_after_each_other() {
    let sandbox = Sandbox::with_vault("2+1");
    let tree = sandbox.path("tree");
    fill(&tree, 100, 10_000);
    std::thread::scope(|scope| {
        let both = [0, 1].map(|_| scope.spawn(|| sandbox.pushed([text(&tree)])));
        let new = both.map(|push| push.join().unwrap()["stats"]["bytes_new"].as_u64().unwrap());
        assert!(new.contains(&0) || new.iter().any(|&new| new < 50_000), "{new:?}");
    });
    sandbox.arc(["verify", "--level", "data"]).exits(0);
}

#[test]
fn a_catalog_of_a_newer_arc_is_refused_and_left_alone() {
    let sandbox = Sandbox::with_vault("2+1");
    write(sandbox.path("file"), "x");
    sandbox.arc(["push", "file"]).exits(0);
    let catalog = sandbox.path("vault/coordinator/catalog.db");
    let version = |to: u32| {
        let connection = Connection::open(&catalog).unwrap();
        let before = connection.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap();
        connection.pragma_update(None, "user_version", to).unwrap();
        before
    };
    let known: u32 = version(999);
    let bytes = fs::read(&catalog).unwrap();
    for command in ["status", "push file", "pull latest --to out", "verify"] {
        let said = sandbox.arc(command.split(' ')).exits(1).stderr();
        assert!(said.contains("999") && said.contains(&known.to_string()), "{said}");
        assert!(said.contains("newer"), "{said}");
    }
    assert!(fs::read(&catalog).unwrap() == bytes, "it was changed");
    assert_eq!(version(known), 999);
    sandbox.arc(["verify"]).exits(0);
}

#[test]
fn a_catalog_that_is_none_is_refused_and_left_alone() {
    let sandbox = Sandbox::with_vault("2+1");
    let catalog = sandbox.path("vault/coordinator/catalog.db");
    for suffix in ["-wal", "-shm"] {
        // A clean end may have removed them.
        let _ = fs::remove_file(format!("{}{suffix}", text(&catalog)));
    }
    let garbage = noise(4, 40_000);
    fs::write(&catalog, &garbage).unwrap();
    let said = sandbox.arc(["status"]).exits(1).stderr();
    assert!(said.contains("not a database"), "{said}");
    assert!(fs::read(&catalog).unwrap() == garbage, "it was changed");
}

#[test]
fn settings_of_a_newer_arc_are_refused() {
    let sandbox = Sandbox::with_vault("2+1");
    let path = sandbox.path("vault/arc.toml");
    let settings = fs::read_to_string(&path).unwrap();
    fs::write(&path, settings.replace("version = 0", "version = 7")).unwrap();
    let said = sandbox.arc(["status"]).exits(2).stderr();
    assert!(said.contains("version 7") && said.contains("upgrade arc"), "{said}");
}

#[test]
fn i13_a_full_disk_of_the_vault_is_refused_before_it_is_filled() {
    let sandbox = Sandbox::new();
    let mount = |name: &str| SmallDisk::mount(&sandbox.path(name), "24m");
    let disks = ["red", "green", "blue"].map(mount);
    if disks.iter().any(Option::is_none) {
        return skipped("no small file systems can be mounted here");
    }
    write(sandbox.path("file"), noise(5, 60 << 20));
    sandbox.arc(["init", "vault", "--code", "2+1", "--disks", "red,green,blue"]).exits(0);
    let push = ["push", "file", "--wait-servers", "0", "--pack-size", "4M"];
    let said = sandbox.arc(push).exits(15).stderr();
    assert!(said.contains("are free beyond the reserve"), "{said}");
    assert!(said.contains("no snapshot was committed"), "{said}");
    let status = sandbox.arc(["--json", "status"]).exits(0).json_of("summary");
    assert_eq!(status["snapshots"], 0);
    sandbox.arc(["verify", "--level", "data"]).exits(0);
}

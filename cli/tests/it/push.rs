//! What a push takes, what it says of sources that fail it, and how it ends when it is killed.

use std::fs::{self, File, Permissions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::sandbox::{Ran, Sandbox, text};
use crate::shards;
use crate::trees::{assert_same, fill, names, noise, skipped, write};

/// Feeds `input` to the standard input of a command, and waits for its end.
fn fed(mut command: Command, input: &[u8]) -> Ran {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    Ran(child.wait_with_output().unwrap())
}

/// Waits for something that a command does meanwhile.
#[track_caller]
fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < Duration::from_secs(60), "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_path_that_is_not_there_is_14_and_nothing_is_stored() {
    let sandbox = Sandbox::with_vault("2+1");
    write(sandbox.path("there"), "x");
    let ran = sandbox.arc(["push", "there", "gone"]).exits(14);
    assert!(ran.stderr().contains("cannot push gone"), "{}", ran.stderr());
    assert!(ran.stderr().contains("nothing was stored"), "{}", ran.stderr());
    assert!(shards::all(&sandbox).is_empty());
}

#[test]
fn a_single_file_is_a_source() {
    let sandbox = Sandbox::with_vault("2+1");
    let file = sandbox.path("folder/file");
    write(&file, noise(1, 200_000));
    sandbox.arc(["push", "folder/file"]).exits(0);
    sandbox.pull(&file, &sandbox.path("back")).exits(0);
    assert_eq!(names(&sandbox.path("back")).len(), 2);
    assert_eq!(fs::read(sandbox.path("back/file")).unwrap(), noise(1, 200_000));
}

#[test]
fn standard_input_is_stored_under_its_name() {
    let sandbox = Sandbox::with_vault("2+1");
    let input = noise(2, 5_000_000);
    fed(sandbox.command(["push", "-", "--as", "dumps/shop.sql"]), &input).exits(0);
    let pulled = sandbox.arc(["pull", "latest:dumps/shop.sql", "--to", "-"]).exits(0);
    assert!(pulled.0.stdout == input);
    fed(sandbox.command(["push", "-", "--as", "empty"]), b"").exits(0);
    sandbox.arc(["pull", "latest", "--to", "back"]).exits(0);
    assert_eq!(fs::read(sandbox.path("back/empty")).unwrap(), b"");
    sandbox.arc(["push", "-"]).exits(2);
    sandbox.arc(["push", "-", "vault", "--as", "x"]).exits(2);
    sandbox.arc(["push", "vault", "--as", "x"]).exits(2);
    sandbox.arc(["push", "-", "--as", "../x"]).exits(2);
}

#[test]
fn excludes_leave_out_and_exclamation_marks_take_in_again() {
    let sandbox = Sandbox::with_vault("2+1");
    let tree = sandbox.path("tree");
    for name in ["keep.c", "drop.o", "keep.o", "build/x", "cache/y", "sub/cache/z", "sub/w.tmp"] {
        write(tree.join(name), name);
    }
    write(sandbox.path("patterns"), "# a comment\n\nbuild/\n*.tmp\n");
    let anchored = format!("{}/cache", text(&tree));
    let args = ["push", text(&tree), "--exclude", "*.o", "--exclude", "!keep.o"];
    let more = ["--exclude", &anchored, "--exclude-file", "patterns"];
    sandbox.arc(args.into_iter().chain(more)).exits(0);
    sandbox.pull(&tree, &sandbox.path("back")).exits(0);
    let mut found = names(&sandbox.path("back"));
    found.sort();
    let expected = ["", "keep.c", "keep.o", "sub", "sub/cache", "sub/cache/z"].map(Path::new);
    assert_eq!(found, expected);
    sandbox.arc(["push", text(&tree), "--exclude", "a[b"]).exits(2);
}

#[test]
fn tags_and_host_stand_in_the_snapshot() {
    let sandbox = Sandbox::with_vault("2+1");
    write(sandbox.path("file"), "x");
    sandbox.arc(["push", "file", "--tag", "weekly", "-t", "b", "--host", "elsewhere"]).exits(0);
    let snapshot = sandbox.arc(["--json", "snapshots"]).exits(0).json_of("snapshot");
    assert_eq!(snapshot["tags"], serde_json::json!(["weekly", "b"]));
    assert_eq!(snapshot["host"], "elsewhere");
    assert_eq!(snapshot["sources"], serde_json::json!([text(&sandbox.path("file"))]));
}

#[test]
fn a_dry_run_counts_and_stores_nothing() {
    let sandbox = Sandbox::with_vault("2+1");
    let tree = sandbox.path("tree");
    fill(&tree, 70, 1_000);
    let dry = sandbox.pushed(["--dry-run", text(&tree)]);
    assert_eq!(dry["stats"]["files_new"], 70);
    assert_eq!(dry["stats"]["bytes_new"], 70_000);
    assert!(shards::all(&sandbox).is_empty());
    assert_eq!(sandbox.arc(["--json", "snapshots"]).exits(0).json_lines("snapshot").len(), 0);
    let status = sandbox.arc(["--json", "status"]).exits(0).json_of("summary");
    assert_eq!(status["leases"], 0);
}

#[test]
fn a_file_that_says_it_is_empty_and_is_not_is_stored_whole() {
    let sandbox = Sandbox::with_vault("2+1");
    let source = Path::new("/proc/version");
    assert_eq!(fs::metadata(source).unwrap().len(), 0);
    sandbox.pushed([text(source)]);
    let pulled = sandbox.arc(["pull", "latest:/proc/version", "--to", "-"]).exits(0);
    assert_eq!(pulled.stdout(), fs::read_to_string(source).unwrap());
}

#[test]
fn a_local_vault_within_its_source_is_left_out_and_said() {
    let sandbox = Sandbox::with_vault("2+1");
    let tree = sandbox.path("");
    write(sandbox.path("file"), noise(1, 100_000));
    let ran = sandbox.arc(["--json", "push", text(&tree)]).exits(0);
    let warnings = ran.json_lines("warning");
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].to_string().contains("the vault that is pushed to"), "{warnings:?}");
    assert_eq!(ran.json_of("summary")["stats"]["warnings"], 0, "it leaves nothing out");
    let ls = sandbox.arc(["ls", "latest"]).exits(0).stdout();
    assert!(ls.contains("/file") && !ls.contains("arc.toml"), "{ls}");
}

#[test]
fn sizes_of_packs_have_bounds() {
    let sandbox = Sandbox::with_vault("2+1");
    let tree = sandbox.path("tree");
    fill(&tree, 40, 100_000);
    for size in ["0", "1023K", "2G"] {
        sandbox.arc(["push", text(&tree), "--pack-size", size]).exits(2);
    }
    assert!(shards::all(&sandbox).is_empty());
    let pushed = sandbox.pushed([text(&tree), "--pack-size", "1M"]);
    // 4 MB in packs of 1 MiB or a frame more, and the record.
    let stripes = pushed["stripes"].as_u64().unwrap();
    assert!((4..=6).contains(&stripes), "{pushed}");
    let again = sandbox.pushed(["--force", text(&tree)]);
    assert!(
        again["stats"]["bytes_new"].as_u64().unwrap() < 20_000,
        "packs of another size: {again}"
    );
}

#[test]
fn fewer_shards_are_7_only_where_they_are_allowed() {
    let sandbox = Sandbox::with_vault("4+2");
    write(sandbox.path("file"), noise(3, 600_000));
    let aside = |disk: &str| {
        fs::rename(sandbox.path("vault/disks").join(disk), sandbox.path(disk)).unwrap()
    };
    let push = |args: &[&str]| {
        sandbox.arc([&["--json", "push", "file", "--wait-servers", "0"], args].concat())
    };
    aside("1");
    push(&["--min-shards", "6"]).exits(6);
    let short = push(&[]).exits(7).json_of("summary");
    assert!(short["stripes_below_target"].as_u64().unwrap() > 0, "{short}");
    aside("2");
    write(sandbox.path("file"), noise(4, 600_000));
    let refused = push(&[]).exits(6);
    let what = refused.json_of("error")["what"].to_string();
    assert!(what.contains("needs at least 5"), "{what}");
    push(&["--min-shards", "4"]).exits(7);
    aside("3");
    write(sandbox.path("file"), noise(5, 600_000));
    push(&["--min-shards", "1"]).exits(6);
    let snapshots = sandbox.arc(["--json", "snapshots"]).exits(0).json_lines("snapshot");
    assert_eq!(snapshots.len(), 2, "a refused push leaves no snapshot");
}

#[test]
fn an_unreadable_file_is_named_and_the_rest_is_saved() {
    let sandbox = Sandbox::with_vault("2+1");
    let tree = sandbox.path("tree");
    for name in ["a", "closed", "folder/x", "z"] {
        write(tree.join(name), name);
    }
    fs::set_permissions(tree.join("closed"), Permissions::from_mode(0o0)).unwrap();
    fs::set_permissions(tree.join("folder"), Permissions::from_mode(0o0)).unwrap();
    let push = sandbox.command(["push", text(&tree)]);
    let ran = if rustix::process::geteuid().is_root() {
        let Some(command) = as_nobody(&sandbox, &push) else {
            return skipped("root, and no setpriv to become somebody else");
        };
        command
    } else {
        push
    };
    let ran = Ran({ ran }.output().unwrap()).exits(3);
    fs::set_permissions(tree.join("folder"), Permissions::from_mode(0o755)).unwrap();
    for name in ["closed", "folder"] {
        let named = format!("warning: {}/{name}: cannot open", text(&tree));
        assert!(ran.stderr().contains(&named), "{}", ran.stderr());
    }
    sandbox.pull(&tree, &sandbox.path("back")).exits(0);
    for name in ["a", "z"] {
        assert_eq!(fs::read(sandbox.path("back").join(name)).unwrap(), name.as_bytes());
    }
    assert!(!sandbox.path("back/closed").exists());
}

/// The same command without root's power to read everything, which is not to be had by an
/// other user alone: the sandbox stays root's.
fn as_nobody(sandbox: &Sandbox, command: &Command) -> Option<Command> {
    let powers = "-dac_override,-dac_read_search";
    let mut same = Command::new("setpriv");
    same.args(["--bounding-set", powers, "--inh-caps", powers])
        .arg(command.get_program())
        .args(command.get_args())
        .env_clear()
        .envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))))
        .current_dir(sandbox.path(""))
        .stdin(Stdio::null());
    Command::new("setpriv").arg("--version").output().is_ok().then_some(same)
}

#[test]
fn a_file_that_changes_while_it_is_read_is_named_and_stored() {
    let sandbox = Sandbox::with_vault("2+1");
    let tree = sandbox.path("tree");
    write(tree.join("log"), noise(5, 8 << 20));
    write(tree.join("quiet"), "x");
    let over = AtomicBool::new(false);
    let ran = std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut log = File::options().append(true).open(tree.join("log")).unwrap();
            while !over.load(Ordering::Relaxed) {
                log.write_all(b"one more line\n").unwrap();
            }
        });
        let ran = sandbox.arc(["push", text(&tree)]);
        over.store(true, Ordering::Relaxed);
        ran
    });
    let named = format!("warning: {}/log: changed while it was read", text(&tree));
    assert!(ran.exits(3).stderr().contains(&named));
    sandbox.pull(&tree, &sandbox.path("back")).exits(0);
    assert_eq!(fs::read(sandbox.path("back/quiet")).unwrap(), b"x");
    let stored = fs::read(sandbox.path("back/log")).unwrap();
    assert!(fs::read(tree.join("log")).unwrap().starts_with(&stored));
    assert!(stored.len() >= 8 << 20);
    let again = sandbox.pushed([text(&tree)]);
    assert_eq!(again["stats"]["warnings"], 0, "the next push has it as it is now");
}

#[test]
fn a_file_that_vanishes_meanwhile_is_named_and_the_rest_is_saved() {
    let sandbox = Sandbox::with_vault("2+1");
    let tree = sandbox.path("tree");
    // Takes long to read and no room; the names after it are listed by then.
    write(tree.join("a long file"), "");
    let long = File::options().write(true).open(tree.join("a long file")).unwrap();
    long.set_len(400 << 20).unwrap();
    write(tree.join("gone"), "x");
    write(tree.join("stays"), "y");
    let mut command = sandbox.command(["push", text(&tree)]);
    let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let open = format!("/proc/{}/fd", child.id());
    until("the long file is open", || {
        let handles = fs::read_dir(&open).unwrap().flatten();
        handles
            .filter_map(|handle| fs::read_link(handle.path()).ok())
            .any(|path| path.ends_with("a long file"))
    });
    fs::remove_file(tree.join("gone")).unwrap();
    let ran = Ran(child.wait_with_output().unwrap()).exits(3);
    let named = format!("warning: {}/gone: cannot look at: No such file", text(&tree));
    assert!(ran.stderr().starts_with(&named), "{}", ran.stderr());
    assert_eq!(ran.stderr().lines().count(), 1, "{}", ran.stderr());
    sandbox.pull(&tree.join("stays"), &sandbox.path("back")).exits(0);
    assert_eq!(fs::read(sandbox.path("back/stays")).unwrap(), b"y");
}

fn push_holds_lock(sandbox: &Sandbox) -> bool {
    fs::read_to_string(sandbox.path("vault/lock")).is_ok_and(|note| note.contains("arc push"))
}

/// A push of standard input of which half came, and was committed in part.
fn half_pushed(sandbox: &Sandbox, input: &[u8]) -> Child {
    let mut command = sandbox.command(["push", "-", "--as", "stream", "--pack-size", "1M"]);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(&input[..input.len() / 2]).unwrap();
    let disks = sandbox.path("vault/disks");
    until("some stripes are on all disks", || {
        (1..=3).all(|disk| {
            let list = |path| fs::read_dir(path).into_iter().flatten().flatten();
            let folders = list(disks.join(format!("{disk}/shards")));
            folders.flat_map(|folder| list(folder.path())).count() >= 6
        })
    });
    child.stdin = Some(stdin);
    child
}

#[test]
fn i14_a_push_that_was_killed_goes_on_from_what_it_committed() {
    let sandbox = Sandbox::with_vault("2+1");
    let tree = sandbox.path("tree");
    fill(&tree, 60, 10_000);
    sandbox.arc(["push", text(&tree)]).exits(0);
    let input = noise(6, 40 << 20);
    for _ in 0..2 {
        let mut killed = half_pushed(&sandbox, &input);
        killed.kill().unwrap();
        killed.wait().unwrap();
    }
    let snapshots = sandbox.arc(["--json", "snapshots"]).exits(0).json_lines("snapshot");
    assert_eq!(snapshots.len(), 1, "half a push is no snapshot");
    let ended = fed(sandbox.command(["--json", "push", "-", "--as", "stream"]), &input).exits(0);
    let new = ended.json_of("summary")["stats"]["bytes_new"].as_u64().unwrap();
    assert!(new < 38 << 20, "{new} bytes are sent again");
    let pulled = sandbox.arc(["pull", "latest:stream", "--to", "-"]).exits(0);
    assert!(pulled.0.stdout == input);
    sandbox.arc(["pull", &format!("latest~1:{}", text(&tree)), "--to", "back"]).exits(0);
    assert_same(&tree, &sandbox.path("back"));
    sandbox.arc(["verify", "--level", "data"]).exits(0);
}

#[test]
fn an_interrupted_push_says_so_and_ends_with_130() {
    let sandbox = Sandbox::with_vault("2+1");
    let mut command = sandbox.command(["push", "-", "--as", "stream"]);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    until("it works on the vault", || push_holds_lock(&sandbox));
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(said.contains("interrupted") && said.contains("run again"), "{said}");
}

#[test]
fn two_pushes_of_one_tree_at_once_both_end_well() {
    let sandbox = Sandbox::new();
    let coordinator = sandbox.coordinator("127.0.0.1:0");
    let _servers = ["a", "b", "c"].map(|name| sandbox.storage(&coordinator, name, name));
    let token = sandbox.path("coordinator/owner.token");
    let init = ["init", &coordinator.url, "--token-file", text(&token), "--code", "2+1"];
    sandbox.arc(init).exits(0);
    let tree = sandbox.path("tree");
    fill(&tree, 300, 20_000);
    let pushed: Vec<Value> = std::thread::scope(|scope| {
        let push = || sandbox.pushed([text(&tree), "--pack-size", "1M"]);
        let both = [scope.spawn(push), scope.spawn(push)];
        both.map(|push| push.join().unwrap()).into()
    });
    for (n, pushed) in pushed.iter().enumerate() {
        assert_eq!(pushed["stats"]["files"], 300);
        let back = sandbox.path(&format!("back {n}"));
        let snapshot = format!("{}:{}", pushed["snapshot"].as_str().unwrap(), text(&tree));
        sandbox.arc(["pull", &snapshot, "--to", text(&back)]).exits(0);
        assert_same(&tree, &back);
    }
    sandbox.arc(["verify", "--level", "data"]).exits(0);
}

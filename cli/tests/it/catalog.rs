//! The catalog can be lost (I11): it is made again out of what the servers hold.

use std::fs;
use std::path::Path;

use rusqlite::Connection;
use serde_json::{Value, json};

use crate::fleet::Fleet;
use crate::sandbox::{Ran, Sandbox, text};
use crate::source;
use crate::trees::{assert_same, noise, write};

/// Every file of a catalog goes.
fn lose_catalog(folder: &Path) {
    let mut lost = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        if entry.file_name().to_str().unwrap().starts_with("catalog.db") {
            fs::remove_file(entry.path()).unwrap();
            lost += 1;
        }
    }
    assert!(lost > 0, "there was none");
}

/// What `arc snapshots` says, every byte of it: ids, sequences, times.
fn listed(sandbox: &Sandbox) -> Vec<Value> {
    sandbox.arc(["--json", "snapshots"]).exits(0).json_lines("snapshot")
}

/// The stamps as the catalog has them: snapshot, sequence, receive time, source set, origin, state.
fn stamped(folder: &Path) -> Vec<[rusqlite::types::Value; 6]> {
    let db = Connection::open(folder.join("catalog.db")).unwrap();
    let sql = "SELECT s.id, n.sequence, n.received_ms, n.source_set, n.origin, n.state
               FROM snapshots n JOIN stripes s ON s.key = n.stripe ORDER BY n.sequence";
    let mut rows = db.prepare(sql).unwrap();
    let row = |r: &rusqlite::Row| Ok(std::array::from_fn(|column| r.get(column).unwrap()));
    rows.query_map([], row).unwrap().map(Result::unwrap).collect()
}

fn summary(ran: &Ran) -> Value {
    ran.json_of("summary")
}

impl Fleet {
    fn folder(&self) -> std::path::PathBuf {
        self.sandbox.path("coordinator")
    }

    /// Three snapshots, each of another tree; copies of these.
    fn three_snapshots(&self) -> Vec<std::path::PathBuf> {
        let copy = |n: usize| {
            write(self.source().join(format!("file {n}")), noise(n as u64 + 90, 300_000));
            write(self.source().join("changes"), format!("for the {n}. time"));
            self.push(&[]).exits(0);
            let copy = self.sandbox.path(&format!("copy-{n}"));
            copy_folder(&self.source(), &copy);
            copy
        };
        source::make(&self.source(), 80, 3);
        (0..3).map(copy).collect()
    }

    /// Pulls all snapshots and compares them with what was pushed, oldest first.
    #[track_caller]
    fn gives_back(&self, copies: &[std::path::PathBuf]) {
        for (back, copy) in copies.iter().rev().enumerate() {
            let to = self.target();
            self.sandbox.arc(self.pull_line(&format!("latest~{back}"), &to)).exits(0);
            assert_same(copy, &to);
        }
    }

    /// The coordinator dies, its catalog is lost, and a new one is made in its folder.
    #[track_caller]
    fn remake_catalog(&mut self) {
        self.kill_coordinator();
        lose_catalog(&self.folder());
        self.sandbox.arc(["catalog", "rebuild", text(&self.folder())]).exits(0);
        self.revive_coordinator();
    }
}

fn copy_folder(from: &Path, to: &Path) {
    let mut copy = std::process::Command::new("cp");
    assert!(copy.args(["-a", text(from), text(to)]).status().unwrap().success());
}

#[test]
fn i11_a_lost_catalog_is_made_again_of_what_the_servers_hold() {
    let mut fleet = Fleet::new("2+1", 3);
    let copies = fleet.three_snapshots();
    let before = listed(&fleet.sandbox);
    assert_eq!(before.len(), 3);
    fleet.kill_coordinator();
    let stamps = stamped(&fleet.folder());
    lose_catalog(&fleet.folder());
    // Nothing is begun anew over what was there.
    let start = ["serve", "coordinator", "--listen", "127.0.0.1:0", "--data"];
    let folder = fleet.folder();
    let start = || fleet.sandbox.arc(start.into_iter().chain([text(&folder)]));
    let said = start().exits(1).stderr();
    assert!(said.contains("is gone") && said.contains("arc catalog rebuild"), "{said}");
    assert!(!folder.join("catalog.db").exists());

    let rebuild = ["catalog", "rebuild", text(&folder)];
    fleet.sandbox.arc(rebuild).exits(0);
    let said = fleet.sandbox.arc(rebuild).exits(1).stderr();
    assert!(said.contains("catalog.db is there"), "{said}");
    fleet.revive_coordinator();
    fleet.until_up(3);
    // Until it knows what there is, it takes no push.
    let said = fleet.push(&[]).exits(12).stdout();
    assert!(said.contains("arc catalog rebuild"), "{said}");
    let said = fleet.sandbox.arc(["status"]).exits(7).stderr();
    assert!(said.contains("was rolled back") && said.contains("was made anew"), "{said}");
    let other = Sandbox::new();
    fleet.init(&other, None);
    let status = other.arc(["--json", "status"]).exits(7);
    let why = summary(&status)["catalog_old"].to_string();
    assert!(why.contains("was made anew") && why.contains("arc catalog rebuild"), "{why}");
    let source = fleet.source();
    let said = other.arc(["push", text(&source)]).exits(12).stderr();
    assert!(said.contains("was made anew"), "{said}");

    let rebuilt = fleet.sandbox.arc(["--json", "catalog", "rebuild"]).exits(0);
    let told = summary(&rebuilt);
    assert_eq!((&told["snapshots"], &told["restored"]), (&json!(3), &json!(3)), "{told}");
    assert_eq!((&told["facts"], &told["incomplete_stripes"]), (&json!(3), &json!(0)), "{told}");
    assert_eq!((&told["unstamped_snapshots"], &told["bad_shards"]), (&json!(0), &json!(0)));
    assert_eq!(listed(&fleet.sandbox), before);
    assert_eq!((stamped(&fleet.folder()), stamps.len()), (stamps, 3));
    fleet.gives_back(&copies);
    fleet.is_whole();
    fleet.sandbox.arc(["status"]).exits(0);
    // The next push sends nothing that is there, and is numbered after all.
    let pushed = summary(&fleet.push(&[]).exits(0));
    assert_eq!(pushed["stats"]["bytes_new"], 0, "{pushed}");
    let after = listed(&fleet.sandbox);
    assert_eq!(after[1..], before);
    assert!(after[0]["sequence"].as_u64() > before[0]["sequence"].as_u64());
    // And it can be lost again.
    fleet.remake_catalog();
    fleet.until_up(3);
    fleet.sandbox.arc(["catalog", "rebuild"]).exits(0);
    assert_eq!(listed(&fleet.sandbox), after);
}

#[test]
fn i11_a_server_that_is_dead_meanwhile_costs_nothing() {
    let mut fleet = Fleet::new("2+1", 3);
    let copies = fleet.three_snapshots();
    let before = listed(&fleet.sandbox);
    fleet.kill(1);
    fleet.remake_catalog();
    fleet.until_up(2);
    let rebuilt = fleet.sandbox.arc(["--json", "catalog", "rebuild"]).exits(7);
    let told = summary(&rebuilt);
    assert_eq!((&told["away"], &told["snapshots"]), (&json!(["b"]), &json!(3)), "{told}");
    assert!(told["below_target"].as_u64() > Some(0), "{told}");
    assert_eq!(listed(&fleet.sandbox), before);
    fleet.gives_back(&copies);
    fleet.revive(1);
    fleet.until_up(3);
    let merged = fleet.sandbox.arc(["--json", "catalog", "rebuild", "--merge"]).exits(0);
    assert!(summary(&merged)["adopted_shards"].as_u64() > Some(0));
    fleet.is_whole();
    assert_eq!(summary(&fleet.push(&[]).exits(0))["stats"]["bytes_new"], 0);
}

#[test]
fn with_too_few_servers_to_know_every_snapshot_none_is_known() {
    let mut fleet = Fleet::new("2+1", 3);
    source::make(&fleet.source(), 81, 2);
    fleet.push(&[]).exits(0);
    let before = listed(&fleet.sandbox);
    fleet.kill(1);
    fleet.kill(2);
    fleet.remake_catalog();
    fleet.until_up(1);
    let said = fleet.sandbox.arc(["catalog", "rebuild"]).exits(6).stderr();
    assert!(said.contains("did not answer"), "{said}");
    fleet.push(&[]).exits(12);
    fleet.revive(1);
    fleet.revive(2);
    fleet.until_up(3);
    fleet.sandbox.arc(["catalog", "rebuild"]).exits(0);
    assert_eq!(listed(&fleet.sandbox), before);
    fleet.is_whole();
}

#[test]
fn an_old_copy_of_the_catalog_takes_in_what_it_does_not_know() {
    let mut fleet = Fleet::new("2+1", 3);
    source::make(&fleet.source(), 82, 2);
    fleet.push(&[]).exits(0);
    assert_eq!(fleet.terminate_coordinator(), Some(0));
    let (catalog, copy) = (fleet.folder().join("catalog.db"), fleet.sandbox.path("old.db"));
    fs::copy(&catalog, &copy).unwrap();
    fleet.revive_coordinator();
    fleet.until_up(3);
    for n in 0..2 {
        write(fleet.source().join(format!("later {n}")), noise(n + 7, 400_000));
        fleet.push(&[]).exits(0);
    }
    let before = listed(&fleet.sandbox);
    // What this machine has seen of the vault is more than the copy knows.
    fleet.kill_coordinator();
    lose_catalog(&fleet.folder());
    fs::copy(&copy, &catalog).unwrap();
    fleet.revive_coordinator();
    for command in ["snapshots", "verify", "ls latest"] {
        let said = fleet.sandbox.arc(command.split(' ')).exits(12).stderr();
        assert!(said.contains("was rolled back") && said.contains("--accept-rollback"), "{said}");
    }
    let said = fleet.sandbox.arc(["servers"]).stderr();
    assert!(said.contains("was rolled back"), "{said}");
    // A machine that has seen nothing is told by the servers.
    let other = Sandbox::new();
    fleet.init(&other, None);
    crate::fleet::eventually("the servers say that they know more", || {
        other.arc(["status"]).code() == 7
    });
    let source = fleet.source();
    let said = other.arc(["push", text(&source)]).exits(12).stderr();
    assert!(said.contains("snapshots that this catalog does not"), "{said}");
    // Taken as it is, it is what the copy knows.
    let accepted = other.arc(["--json", "snapshots", "--accept-rollback"]).exits(0);
    assert_eq!(accepted.json_lines("snapshot"), before[2..]);

    fleet.sandbox.arc(["catalog", "rebuild"]).exits(1);
    let merged = summary(&fleet.sandbox.arc(["--json", "catalog", "rebuild", "--merge"]).exits(0));
    assert_eq!((&merged["restored"], &merged["snapshots"]), (&json!(2), &json!(3)), "{merged}");
    assert_eq!(listed(&fleet.sandbox), before);
    assert_eq!(listed(&other), before);
    fleet.pull_exact("latest");
    fleet.is_whole();
    assert_eq!(summary(&fleet.push(&[]).exits(0))["stats"]["bytes_new"], 0);
}

#[test]
fn what_a_killed_push_left_is_counted_and_its_snapshot_is_not_made_up() {
    let mut fleet = Fleet::new("2+1", 3);
    source::make(&fleet.source(), 83, 2);
    fleet.push(&[]).exits(0);
    let before = listed(&fleet.sandbox);
    // One shard of a stripe, as a push leaves it that was killed: the other two are gone.
    write(fleet.source().join("second"), noise(9, 600_000));
    fleet.push(&[]).exits(0);
    let second = listed(&fleet.sandbox)[0]["snapshot"].as_str().unwrap().to_owned();
    for shard in fleet.shards().iter().filter(|shard| shard.stripe == second) {
        fs::remove_file(&shard.path).unwrap();
    }
    fleet.remake_catalog();
    fleet.until_up(3);
    let rebuilt = fleet.sandbox.arc(["--json", "catalog", "rebuild"]).exits(5);
    let told = summary(&rebuilt);
    assert_eq!(
        (&told["missing_count"], &told["missing_snapshots"][0][0]),
        (&json!(1), &json!(second))
    );
    assert_eq!(told["restored"], 1, "{told}");
    assert_eq!(listed(&fleet.sandbox), before);
}

#[test]
fn i11_a_local_vault_is_rebuilt_in_one_go() {
    let sandbox = Sandbox::with_vault("2+1");
    let tree = sandbox.path("tree");
    for n in 0..3 {
        write(tree.join(format!("file {n}")), noise(n + 1, 400_000));
        sandbox.arc(["push", text(&tree)]).exits(0);
    }
    let before = listed(&sandbox);
    lose_catalog(&sandbox.path("vault/coordinator"));
    let said = sandbox.arc(["snapshots"]).exits(1).stderr();
    assert!(said.contains("arc catalog rebuild"), "{said}");
    let rebuilt = sandbox.arc(["--json", "catalog", "rebuild", "vault"]).exits(0);
    assert_eq!(summary(&rebuilt)["restored"], 3);
    assert_eq!(listed(&sandbox), before);
    sandbox.pull(&tree, &sandbox.path("back")).exits(0);
    assert_same(&tree, &sandbox.path("back"));
    sandbox.arc(["verify", "--level", "data"]).exits(0);
    assert_eq!(sandbox.pushed([text(&tree)])["stats"]["bytes_new"], 0);
}

#[test]
fn a_local_vault_that_was_rolled_back_is_refused_until_that_is_accepted() {
    let sandbox = Sandbox::with_vault("2+1");
    write(sandbox.path("file"), noise(1, 100_000));
    sandbox.arc(["push", "file"]).exits(0);
    let copy = sandbox.path("copy");
    copy_folder(&sandbox.path("vault"), &copy);
    write(sandbox.path("file"), noise(2, 100_000));
    sandbox.arc(["push", "file"]).exits(0);
    assert_eq!(listed(&sandbox).len(), 2);
    // All of it, so that the disks do not know better either.
    fs::remove_dir_all(sandbox.path("vault")).unwrap();
    copy_folder(&copy, &sandbox.path("vault"));
    let said = sandbox.arc(["verify"]).exits(12).stderr();
    assert!(said.contains("end with number 1, this machine has seen 2"), "{said}");
    sandbox.arc(["verify", "--accept-rollback"]).exits(0);
    assert_eq!(listed(&sandbox).len(), 1);
    // Another past of the same length is one too.
    sandbox.arc(["push", "file"]).exits(0);
    assert_eq!(listed(&sandbox).len(), 2);
    fs::remove_dir_all(sandbox.path("vault")).unwrap();
    copy_folder(&copy, &sandbox.path("vault"));
    sandbox.arc(["push", "file", "--accept-rollback"]).exits(0);
    sandbox.arc(["snapshots"]).exits(0);
    // What is remembered and makes no sense counts as nothing.
    let config = sandbox.path("config/arc/config.toml");
    let known = fs::read_to_string(&config).unwrap();
    assert!(known.contains("number = 2"), "{known}");
    fs::write(&config, known.replace("number = 2", "number = \"two\"")).unwrap();
    sandbox.arc(["verify"]).exits(0);
}

#[test]
fn i9_a_coordinator_killed_as_it_stamps_makes_one_snapshot_with_one_stamp() {
    let mut fleet = Fleet::new("2+1", 3);
    let facts = |fleet: &Fleet, number: u64| {
        let on = |server: &usize| {
            fleet.server_folder(*server).join("facts").join(number.to_string()).exists()
        };
        (0..3_usize).filter(on).count()
    };
    for round in 1..=4 {
        write(fleet.source().join(format!("file {round}")), noise(round, 100_000));
        let push = fleet.start_push(&[]);
        crate::fleet::eventually("a server has the stamp", || facts(&fleet, round) > 0);
        fleet.kill_coordinator();
        fleet.revive_coordinator();
        push.finish().exits(0);
        assert_eq!(fleet.snapshots() as u64, round);
    }
    crate::fleet::eventually("all servers have all stamps", || facts(&fleet, 4) == 3);
    assert_eq!(facts(&fleet, 5), 0);
    fleet.pull_exact("latest");
    fleet.is_whole();
}

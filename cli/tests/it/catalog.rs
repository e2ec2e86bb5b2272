//! The catalog can be lost (I11): it is made again out of what the servers hold.

use std::fs;
use std::path::Path;

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
    let status = fleet.sandbox.arc(["status"]).exits(7).stderr();
    assert!(status.contains("made anew"), "{status}");

    let rebuilt = fleet.sandbox.arc(["--json", "catalog", "rebuild"]).exits(0);
    let told = summary(&rebuilt);
    assert_eq!((&told["snapshots"], &told["restored"]), (&json!(3), &json!(3)), "{told}");
    assert_eq!((&told["facts"], &told["incomplete_stripes"]), (&json!(3), &json!(0)), "{told}");
    assert_eq!((&told["unstamped_snapshots"], &told["bad_shards"]), (&json!(0), &json!(0)));
    assert_eq!(listed(&fleet.sandbox), before);
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

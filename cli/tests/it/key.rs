//! The recovery key: made, used, replaced.

use std::fs;
use std::process::Command;

use codec::keys::VaultRecord;

use crate::fleet::{Fleet, eventually};
use crate::sandbox::{Ran, Sandbox, text};
use crate::trees::{assert_same, write};

/// A vault on disks with a small tree in it.
fn pushed() -> Sandbox {
    let sandbox = Sandbox::of_passphrase().vault("2+1");
    write(sandbox.path("tree/file"), "x");
    sandbox.arc(["push", text(&sandbox.path("tree"))]).exits(0);
    sandbox
}

/// The one line of stdout.
fn exported(ran: Ran) -> String {
    let out = ran.exits(0).stdout();
    assert_eq!(out.lines().count(), 1, "{out}");
    out.trim_end().to_owned()
}

fn without_passphrase<'a>(sandbox: &Sandbox, words: impl IntoIterator<Item = &'a str>) -> Command {
    let mut command = sandbox.command(words);
    command.env_remove("ARC_PASSPHRASE");
    command
}

/// Whether the recovery key in a file opens the vault.
fn opens(sandbox: &Sandbox, key: &str) -> i32 {
    fs::write(sandbox.path("key"), key).unwrap();
    let mut command = without_passphrase(sandbox, ["snapshots"]);
    Ran(command.env("ARC_RECOVERY_KEY_FILE", sandbox.path("key")).output().unwrap()).code()
}

#[test]
fn a_recovery_key_opens_what_the_passphrase_opens() {
    let sandbox = pushed();
    let key = exported(sandbox.arc(["key", "export"]));
    assert!(key.starts_with("ARCKEY-") && key.len() == 76, "{key}");
    assert_eq!(opens(&sandbox, &key), 0);
    assert_eq!(opens(&sandbox, &format!("{}\n", key.to_lowercase().replace('-', " "))), 0);
    let mut typed = without_passphrase(&sandbox, ["snapshots"]);
    Ran(typed.env("ARC_PASSPHRASE", &key).output().unwrap()).exits(0);
    sandbox.arc(["snapshots"]).exits(0);
    let other = if &key[10..11] == "A" { "B" } else { "A" };
    let wrong = [&key[..10], other, &key[11..]].concat();
    assert_eq!(opens(&sandbox, &wrong), 12);
    assert_eq!(opens(&sandbox, "a passphrase"), 2);
    let mut new = without_passphrase(&sandbox, ["init", "other", "--code", "2+1"]);
    Ran(new.env("ARC_PASSPHRASE", &key).output().unwrap()).exits(2);
    // It is with the shards, not only with the coordinator.
    fs::remove_dir_all(sandbox.path("vault/coordinator")).unwrap();
    fs::remove_dir_all(sandbox.path("vault/disks/1")).unwrap();
    let snapshot = format!("latest:{}", text(&sandbox.path("tree")));
    let line = ["rescue", "vault/disks", "--to", "out", "--snapshot", &snapshot];
    let mut rescue = without_passphrase(&sandbox, line);
    Ran(rescue.env("ARC_RECOVERY_KEY_FILE", sandbox.path("key")).output().unwrap()).exits(2);
    fs::write(sandbox.path("key"), &key).unwrap();
    let mut rescue = without_passphrase(&sandbox, line);
    Ran(rescue.env("ARC_RECOVERY_KEY_FILE", sandbox.path("key")).output().unwrap()).exits(0);
    assert_same(&sandbox.path("tree"), &sandbox.path("out"));
}

#[test]
fn another_recovery_key_takes_the_place_of_the_first_where_that_is_said() {
    let sandbox = pushed();
    let first = exported(sandbox.arc(["key", "export", "--replace"]));
    let refused = sandbox.arc(["key", "export"]).exits(2);
    assert_eq!(refused.stdout(), "");
    assert!(refused.stderr().contains("has a recovery key already"), "{}", refused.stderr());
    assert_eq!(opens(&sandbox, &first), 0);
    let ran = sandbox.arc(["--json", "key", "export", "--replace"]).exits(0);
    let second = ran.json_of("recovery_key")["key"].as_str().unwrap().to_owned();
    assert_eq!(ran.json_of("summary")["replaced"], true);
    assert_eq!(opens(&sandbox, &second), 0);
    assert_eq!(opens(&sandbox, &first), 12);
    sandbox.arc(["snapshots"]).exits(0);
}

#[test]
fn every_server_has_the_changed_record_and_one_that_was_away_gets_it() {
    let mut fleet = Fleet::new("2+1", 3);
    fleet.until_up(3);
    fleet.kill(2);
    let generation = |number: usize| {
        let record = fs::read(fleet.server_folder(number).join("vault.record")).unwrap();
        VaultRecord::decode(&record).unwrap().generation
    };
    let ran = fleet.sandbox.arc(["--json", "key", "export"]).exits(0);
    assert_eq!(ran.json_of("summary")["record_on"], 2);
    assert_eq!(ran.json_lines("warning").len(), 1);
    assert_eq!([0, 1, 2].map(generation), [2, 2, 1]);
    fleet.revive(2);
    let record = fleet.server_folder(2).join("vault.record");
    eventually("the server that was away has the record", || {
        let record = fs::read(&record).unwrap();
        VaultRecord::decode(&record).unwrap().generation == 2
    });
}

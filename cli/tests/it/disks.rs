//! Disks of a local vault: given up, added, scrubbed and mended at the end of pushes.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use codec::shard::Kind;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::fleet::eventually;
use crate::sandbox::{Ran, Sandbox, text};
use crate::shards::{self, ShardFile};
use crate::trees::{assert_same, noise, write};

/// A vault of `code` with a tree in a few stripes.
fn pushed(code: &str) -> (Sandbox, PathBuf) {
    let sandbox = Sandbox::with_vault(code);
    let tree = sandbox.path("tree");
    for n in 0..8 {
        write(tree.join(format!("file {n}")), noise(n + 1, 700_000));
    }
    push(&sandbox, &["--upkeep=0"]).exits(0);
    (sandbox, tree)
}

fn push(sandbox: &Sandbox, options: &[&str]) -> Ran {
    let tree = sandbox.path("tree");
    let line = ["--json", "push", text(&tree), "--pack-size=1M"];
    sandbox.arc(line.into_iter().chain(options.iter().copied()))
}

fn upkeep(ran: &Ran) -> Option<Value> {
    ran.json_lines("upkeep").into_iter().next()
}

fn whole(sandbox: &Sandbox) {
    let verified = sandbox.arc(["--json", "verify", "--level", "data"]).exits(0);
    assert_eq!(verified.json_of("summary")["bad_shards"], 0);
}

/// The shards on a disk.
fn on_disk(sandbox: &Sandbox, disk: u32) -> Vec<ShardFile> {
    let folder = sandbox.path(&format!("vault/disks/{disk}"));
    shards::all(sandbox).into_iter().filter(|shard| shard.path.starts_with(&folder)).collect()
}

fn listed(sandbox: &Sandbox) -> Vec<Value> {
    let listed = sandbox.arc(["--json", "disks"]).exits(0).json_of("summary");
    listed["disks"].as_array().unwrap().clone()
}

#[test]
fn a_disk_that_is_gone_is_replaced_and_all_is_whole_again() {
    let (sandbox, tree) = pushed("4+2");
    let disk = sandbox.path("vault/disks/3");
    fs::remove_dir_all(&disk).unwrap();
    assert_eq!(sandbox.arc(["verify"]).code(), 7);
    let rows = listed(&sandbox);
    assert_eq!(rows.len(), 6);
    let gone = rows.iter().find(|row| row["is_here"] == false).unwrap();
    assert_eq!((&gone["name"], &gone["state"]), (&json!("disk3"), &json!("away")));
    // A whole disk that is missing waits for a person.
    write(tree.join("more"), noise(99, 2_000_000));
    let short = push(&sandbox, &["--wait-servers=0"]).exits(7);
    assert_eq!(upkeep(&short), None);
    assert!(!disk.exists());

    let planned = sandbox.arc(["--json", "disks", "replace", "disk3", text(&disk), "--dry-run"]);
    assert_eq!(planned.exits(0).json_of("summary")["done"], false);
    assert!(!disk.exists(), "nothing is made");
    let replaced = sandbox.arc(["disks", "replace", "disk3", text(&disk)]).exits(0);
    let said = replaced.stderr();
    assert!(said.contains("disk3 is given up") && said.contains("the same device"), "{said}");
    assert!(on_disk(&sandbox, 3).is_empty());
    sandbox.arc(["repair-scan", "--fix"]).exits(0);
    assert!(!on_disk(&sandbox, 3).is_empty());
    whole(&sandbox);
    let status = sandbox.arc(["--json", "status"]).exits(0).json_of("summary");
    assert_eq!(status["servers"], json!([["up", 6]]), "the former one is forgotten");
    let back = sandbox.path("back");
    sandbox.pull(&tree, &back).exits(0);
    assert_same(&tree, &back);
}

#[test]
fn a_push_makes_again_what_a_replaced_disk_held() {
    let (sandbox, _) = pushed("2+1");
    fs::remove_dir_all(sandbox.path("vault/disks/2")).unwrap();
    let elsewhere = sandbox.path("elsewhere");
    sandbox.arc(["disks", "replace", "disk2", text(&elsewhere)]).exits(0);
    assert!(listed(&sandbox).iter().any(|row| row["folder"] == text(&elsewhere)));
    let kept = push(&sandbox, &[]);
    let kept = upkeep(&kept).expect("something was made");
    assert!(kept["made"].as_u64().unwrap() > 0 && kept["lacking_stripes"] == 0, "{kept}");
    whole(&sandbox);
}

#[test]
fn i1_a_push_stores_all_again_that_replaced_disks_took_with_them() {
    let (sandbox, tree) = pushed("2+1");
    for disk in [1, 2] {
        fs::remove_dir_all(sandbox.path(&format!("vault/disks/{disk}"))).unwrap();
    }
    for disk in [1, 2] {
        let (name, new) = (format!("disk{disk}"), sandbox.path(&format!("new{disk}")));
        sandbox.arc(["disks", "replace", &name, text(&new)]).exits(0);
    }
    let again = push(&sandbox, &["--upkeep=0"]);
    // The old stripes cannot be mended, and are still told of.
    assert!(matches!(again.code(), 0 | 7), "{}", again.stderr());
    let back = sandbox.path("back");
    sandbox.pull(&tree, &back).exits(0);
    assert_same(&tree, &back);
    // What is stored now survives the loss of any one more.
    let one_more = sandbox.path("new1");
    fs::rename(&one_more, sandbox.path("unplugged")).unwrap();
    let back = sandbox.path("back again");
    sandbox.pull(&tree, &back).exits(0);
    assert_same(&tree, &back);
}

#[test]
fn a_disk_that_is_needed_is_not_given_up_unless_it_is_gone() {
    let (sandbox, _) = pushed("2+1");
    let away = sandbox.path("vault/disks/1");
    fs::rename(&away, sandbox.path("unplugged")).unwrap();
    let new = sandbox.path("new");
    let line = ["--json", "disks", "replace", "disk2", text(&new)];
    let refused = sandbox.arc(line).exits(1).json_of("error");
    assert!(refused["what"].as_str().unwrap().contains("disk2 is needed"), "{refused}");
    fs::rename(sandbox.path("unplugged"), &away).unwrap();
    whole(&sandbox);
    // One that is here and not needed goes.
    sandbox.arc(["disks", "replace", "disk2", text(&new)]).exits(0);
    sandbox.arc(["repair-scan", "--fix"]).exits(0);
    whole(&sandbox);
    // Its folder is no disk's any more.
    fs::remove_dir_all(sandbox.path("vault/disks/2")).unwrap();
    whole(&sandbox);
}

#[test]
fn folders_that_are_in_use_and_unknown_disks_are_refused() {
    let (sandbox, tree) = pushed("2+1");
    let before = fs::read(sandbox.path("vault/arc.toml")).unwrap();
    let disk = sandbox.path("vault/disks/2");
    let new = sandbox.path("new");
    sandbox.arc(["disks", "add", text(&tree)]).exits(2);
    sandbox.arc(["disks", "add", text(&disk)]).exits(2);
    sandbox.arc(["disks", "replace", "disk1", text(&disk)]).exits(2);
    sandbox.arc(["disks", "replace", "disk9", text(&new)]).exits(2);
    sandbox.arc(["disks", "add", text(&new), "--name", "disk1"]).exits(2);
    sandbox.arc(["disks", "add", text(&new), "--name", "a b"]).exits(2);
    assert_eq!(fs::read(sandbox.path("vault/arc.toml")).unwrap(), before);
    whole(&sandbox);
}

#[test]
fn a_disk_that_is_added_takes_its_part_of_later_pushes() {
    let (sandbox, tree) = pushed("2+1");
    let new = sandbox.path("new");
    let added = sandbox.arc(["disks", "add", text(&new)]).exits(0);
    assert!(added.stderr().contains("the same device"), "{}", added.stderr());
    assert_eq!(listed(&sandbox).len(), 4);
    assert!(listed(&sandbox).iter().any(|row| row["name"] == "new" && row["state"] == "up"));
    for n in 0..12 {
        write(tree.join(format!("later {n}")), noise(100 + n, 700_000));
    }
    push(&sandbox, &["--upkeep=0"]).exits(0);
    assert!(shards_in(&new) > 0);
    whole(&sandbox);
}

#[test]
fn upkeep_moves_shards_to_a_disk_that_was_added() {
    let (sandbox, _) = pushed("2+1");
    let new = sandbox.path("new");
    sandbox.arc(["disks", "add", text(&new)]).exits(0);
    assert_eq!(shards_in(&new), 0);
    eventually("some have moved", || {
        push(&sandbox, &[]).exits(0);
        shards_in(&new) > 0
    });
    whole(&sandbox);
}

fn shards_in(disk: &Path) -> usize {
    let folders = fs::read_dir(disk.join("shards")).unwrap();
    folders.map(|folder| fs::read_dir(folder.unwrap().path()).unwrap().count()).sum()
}

#[test]
fn i8_what_rots_on_a_disk_is_found_and_mended_at_the_end_of_pushes() {
    let (sandbox, _) = pushed("2+1");
    // Parity, which no push reads.
    let mut hurt = shards::all(&sandbox);
    hurt.retain(|shard| shard.kind == Kind::Data && shard.index == 2);
    assert!(hurt.len() > 3);
    let whole_bytes: Vec<Vec<u8>> = hurt.iter().map(|s| fs::read(&s.path).unwrap()).collect();
    for shard in &hurt {
        shard.flip(shard.header_bytes + shard.body_bytes / 2, 3);
    }
    // Without upkeep nobody looks.
    assert_eq!(upkeep(&push(&sandbox, &["--upkeep=0", "--scrub-every=1s"]).exits(0)), None);
    let mut found = 0;
    let mut rotten: BTreeSet<usize> = (0..hurt.len()).collect();
    eventually("all of them are mended", || {
        if let Some(kept) = upkeep(&push(&sandbox, &["--scrub-every=1s"]).exits(0)) {
            found += kept["bad"].as_u64().unwrap();
            assert_eq!(kept["lacking_stripes"], 0, "{kept}");
        }
        rotten.retain(|&n| fs::read(&hurt[n].path).unwrap() != whole_bytes[n]);
        rotten.is_empty()
    });
    assert_eq!(found, hurt.len() as u64, "each is found once");
    assert_eq!(upkeep(&push(&sandbox, &["--scrub-every=1s"]).exits(0)), None);
    whole(&sandbox);
}

#[test]
fn a_healthy_vault_is_kept_up_in_silence_and_a_signal_ends_it_at_once() {
    let (sandbox, tree) = pushed("2+1");
    let quiet = sandbox.arc(["push", text(&tree)]).exits(0);
    assert_eq!(quiet.stderr(), "");
    assert_eq!(upkeep(&push(&sandbox, &["--upkeep=1h"]).exits(0)), None);
    // Passes follow each other without end.
    let endless = ["push", text(&tree), "--upkeep=1h", "--scrub-every=1ms"];
    let mut push = sandbox.command(endless).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(push.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("survives")), "it is saved before that");
    kill_process(Pid::from_child(&push), Signal::INT).unwrap();
    assert_eq!(push.wait().unwrap().code(), Some(130));
    whole(&sandbox);
}

#[test]
fn a_replacement_that_was_interrupted_is_carried_on_by_the_same_command() {
    let (sandbox, _) = pushed("2+1");
    // Killed once the place was written down.
    let toml = sandbox.path("vault/arc.toml");
    let new = sandbox.path("new");
    let written = fs::read_to_string(&toml).unwrap().replace("disks/1", text(&new));
    fs::write(&toml, written).unwrap();
    assert_eq!(sandbox.arc(["status"]).code(), 7);
    sandbox.arc(["disks", "replace", "disk1", text(&new)]).exits(0);
    sandbox.arc(["repair-scan", "--fix"]).exits(0);
    whole(&sandbox);
    // Killed once the former one was given up.
    let disk = sandbox.path("vault/disks/2");
    fs::remove_dir_all(&disk).unwrap();
    sandbox.arc(["servers", "replace", "disk2"]).exits(0);
    // Once what has a place is made, nothing can be, which is said.
    push(&sandbox, &["--wait-servers=0"]);
    let kept = upkeep(&push(&sandbox, &["--wait-servers=0"])).expect("that much is lacking");
    assert!(kept["made"] == 0 && kept["lacking_stripes"].as_u64().unwrap() > 0, "{kept}");
    // Killed between the claim of the folder and its `server.id`.
    fs::create_dir(&disk).unwrap();
    fs::write(disk.join("arc-first-start"), "").unwrap();
    fs::write(disk.join("lock"), "").unwrap();
    fs::write(disk.join("mine"), "").unwrap();
    sandbox.arc(["disks", "replace", "disk2", text(&disk)]).exits(2);
    fs::remove_file(disk.join("mine")).unwrap();
    sandbox.arc(["disks", "replace", "disk2", text(&disk)]).exits(0);
    sandbox.arc(["repair-scan", "--fix"]).exits(0);
    whole(&sandbox);
}

#[test]
fn a_disk_that_was_given_up_and_came_back_is_weighed_again() {
    let (sandbox, _) = pushed("2+1");
    // Killed once it was given up; its folder is found again.
    let (disk, away) = (sandbox.path("vault/disks/2"), sandbox.path("unplugged"));
    fs::rename(&disk, &away).unwrap();
    sandbox.arc(["servers", "replace", "disk2"]).exits(0);
    fs::rename(&away, &disk).unwrap();
    let other = sandbox.path("vault/disks/1");
    fs::rename(&other, &away).unwrap();
    let new = sandbox.path("new");
    let line = ["--json", "disks", "replace", "disk2", text(&new)];
    let refused = sandbox.arc(line).exits(1).json_of("error");
    assert!(refused["what"].as_str().unwrap().contains("disk2 is needed"), "{refused}");
    fs::rename(&away, &other).unwrap();
    sandbox.arc(["disks", "replace", "disk2", text(&new)]).exits(0);
    sandbox.arc(["repair-scan", "--fix"]).exits(0);
    whole(&sandbox);
    let status = sandbox.arc(["--json", "status"]).exits(0).json_of("summary");
    assert_eq!(status["servers"], json!([["up", 3]]), "the former one is forgotten");
}

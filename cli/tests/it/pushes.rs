//! Pushes that are killed, and pushes that meet each other.

use rustix::process::Signal;

use crate::fleet::{Fleet, Setup, eventually};
use crate::sandbox::{Sandbox, text};
use crate::source::{self, bytes_below};

const MIB: u64 = 1 << 20;
/// Stripes that a push has on their way at once.
const STRIPES_IN_FLIGHT: usize = 2;

#[test]
fn i14_a_push_killed_again_and_again_sends_little_twice_and_ends_well() {
    let fleet = Fleet::new("4+2", 6);
    source::make(&fleet.source(), 1, 60);
    let all_bytes = 60 * MIB * 6 / 4;
    for (kills, percent) in [10, 30, 50, 70, 90].into_iter().enumerate() {
        // What the stripes in flight had sent before counts for the push that was killed.
        let sent = all_bytes * percent / 100 - committed_bytes(&fleet);
        let left_over = fleet.stored_bytes() - committed_bytes(&fleet);
        fleet.push_until(sent.saturating_sub(left_over), &[]).kill();
        assert_eq!(fleet.snapshots(), 0, "killed at {percent} %");
        check_left_overs(&fleet, kills + 1);
    }
    fleet.push(&[]).exits(0);
    check_left_overs(&fleet, 5);
    // Nothing was committed twice: the vault is as long as after one push.
    let committed = committed_bytes(&fleet);
    assert!(committed < all_bytes + all_bytes / 50, "{committed} bytes for {all_bytes}");
    fleet.pull_exact("latest");
    fleet.is_whole();
}

/// Bytes of the shards that the catalog has.
fn committed_bytes(fleet: &Fleet) -> u64 {
    let status = fleet.sandbox.arc(["--json", "status"]).exits(0);
    status.json_of("summary")["shard_bytes"].as_u64().unwrap()
}

/// That no more shard files lie on the servers than the catalog has, and those of two stripes
/// for every push that was killed.
#[track_caller]
fn check_left_overs(fleet: &Fleet, kills: usize) {
    let servers = fleet.sandbox.arc(["--json", "servers"]).exits(0).json_of("summary");
    let shards = |row: &serde_json::Value| row["shards"].as_u64().unwrap() as usize;
    let known: usize = servers["servers"].as_array().unwrap().iter().map(shards).sum();
    let there = fleet.shards().len();
    assert!(there >= known, "{there} files for {known} shards");
    let most = kills * STRIPES_IN_FLIGHT * 6;
    assert!(there - known <= most, "{} shards sent in vain by {kills} kills", there - known);
}

#[test]
fn i14_a_push_that_slept_past_its_lease_goes_on_or_says_so() {
    let fleet = Fleet::of(Setup {
        code: "2+1",
        servers: 3,
        coordinator: &["--lease=3s"],
        ..Setup::default()
    });
    source::make(&fleet.source(), 4, 40);
    let push = fleet.push_until(10 * MIB, &[]);
    push.signal(Signal::STOP);
    eventually("its lease is over", || {
        let status = fleet.sandbox.arc(["--json", "status"]).exits(0).json_of("summary");
        status["leases"] == 0
    });
    push.signal(Signal::CONT);
    let ended = push.finish().code();
    if ended == 11 {
        assert_eq!(fleet.snapshots(), 0);
        fleet.push(&[]).exits(0);
    } else {
        assert_eq!(ended, 0);
    }
    fleet.pull_exact("latest");
    fleet.is_whole();
}

#[test]
fn the_lease_of_a_push_killed_in_a_local_vault_is_over_at_the_next_command() {
    let sandbox = Sandbox::with_vault("2+1");
    let (tree, disks) = (sandbox.path("tree"), sandbox.path("vault/disks"));
    source::make(&tree, 5, 40);
    let mut push = sandbox.start(["push", text(&tree), "--pack-size=1M"]);
    eventually("the push has stored something", || {
        assert!(push.runs(), "the push ended before it was killed");
        bytes_below(&disks) > 4 * MIB
    });
    push.kill();
    let status = sandbox.arc(["--json", "status"]).exits(0).json_of("summary");
    assert_eq!(status["leases"], 0, "{status}");
}

#[test]
fn two_pushes_of_one_tree_at_once_both_end_well() {
    let fleet = Fleet::new("4+2", 6);
    source::make(&fleet.source(), 2, 24);
    let other = Sandbox::new();
    fleet.init(&other, None);
    let first = fleet.start_push(&["--host", "one", "--tag", "first"]);
    let second = other.start(fleet.push_line(&["--host", "two", "--tag", "second"]));
    let snapshots = [first, second].map(|push| {
        let summary = push.finish().exits(0).json_of("summary");
        summary["snapshot"].as_str().unwrap().to_owned()
    });
    assert_ne!(snapshots[0], snapshots[1]);
    for snapshot in &snapshots {
        fleet.pull_exact(snapshot);
    }
    fleet.is_whole();
    let third = fleet.push(&["--host", "one"]).exits(0).json_of("summary");
    assert_eq!(third["stats"]["bytes_new"], 0, "{third}");
}

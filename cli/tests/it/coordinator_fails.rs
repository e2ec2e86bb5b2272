//! A coordinator that is killed, stopped, or away.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;

use crate::fleet::{Fleet, eventually};
use crate::sandbox::{Sandbox, text};
use crate::source::{self, assert_same, bytes_below};

const MIB: u64 = 1 << 20;

#[test]
fn i14_a_coordinator_killed_in_mid_push_and_restarted_costs_nothing() {
    let mut fleet = Fleet::new("4+2", 6);
    source::make(&fleet.source(), 20, 40);
    let push = fleet.push_until(10 * MIB, &[]);
    fleet.kill_coordinator();
    fleet.revive_coordinator();
    let summary = push.finish().exits(0).json_of("summary");
    assert_eq!(summary["stripes_below_target"], 0);
    fleet.pull_exact("latest");
    fleet.is_whole();
}

#[test]
fn one_killed_again_and_again_costs_a_push_no_more() {
    let mut fleet = Fleet::new("4+2", 6);
    source::make(&fleet.source(), 21, 40);
    let mut push = fleet.push_until(4 * MIB, &[]);
    for _ in 0..3 {
        let sent = fleet.stored_bytes();
        fleet.kill_coordinator();
        fleet.revive_coordinator();
        eventually("the push goes on", || fleet.stored_bytes() > sent + 5 * MIB || !push.runs());
    }
    push.finish().exits(0);
    fleet.pull_exact("latest");
    fleet.is_whole();
}

#[test]
fn a_coordinator_that_stays_away_ends_the_push_with_13_and_loses_nothing() {
    let mut fleet = Fleet::new("4+2", 6);
    source::make(&fleet.source(), 22, 30);
    fleet.push(&[]).exits(0);
    let first = fleet.snapshots();
    std::fs::write(fleet.source().join("more"), source::noise(23, 30 << 20)).unwrap();
    let push = fleet.push_until(10 * MIB, &["--wait-servers=1s"]);
    fleet.kill_coordinator();
    let error = push.finish().exits(13).json_of("error").to_string();
    assert!(error.contains(&fleet.url()), "{error}");
    fleet.revive_coordinator();
    assert_eq!(fleet.snapshots(), first);
    fleet.push(&[]).exits(0);
    fleet.pull_exact("latest");
    fleet.is_whole();
}

#[test]
fn one_that_hangs_for_a_while_is_waited_for() {
    let fleet = Fleet::new("4+2", 6);
    source::make(&fleet.source(), 26, 40);
    let mut push = fleet.push_until(6 * MIB, &[]);
    fleet.signal_coordinator(Signal::STOP);
    // Without it no third stripe is placed: the push comes to rest.
    let mut last = 0;
    eventually("the push stands still", || {
        std::thread::sleep(Duration::from_millis(300));
        std::mem::replace(&mut last, fleet.stored_bytes()) == last
    });
    assert!(push.runs());
    fleet.signal_coordinator(Signal::CONT);
    push.finish().exits(0);
    fleet.pull_exact("latest");
    fleet.is_whole();
}

#[test]
fn i7_a_coordinator_restarted_in_mid_pull_costs_nothing() {
    let mut fleet = Fleet::new("4+2", 6);
    source::make(&fleet.source(), 24, 40);
    fleet.push(&[]).exits(0);
    let to = fleet.target();
    let mut pull = fleet.sandbox.start(fleet.pull_line("latest", &to));
    eventually("the pull has some bytes", || {
        assert!(pull.runs(), "the pull ended before the coordinator was killed");
        bytes_below(&to) > 2 * MIB
    });
    fleet.kill_coordinator();
    fleet.revive_coordinator();
    pull.finish().exits(0);
    assert_same(&fleet.source(), &to);
}

#[test]
fn one_told_to_stop_in_mid_push_ends_with_0_and_the_push_goes_on_with_the_next() {
    let mut fleet = Fleet::new("4+2", 6);
    source::make(&fleet.source(), 25, 40);
    let push = fleet.push_until(10 * MIB, &[]);
    assert_eq!(fleet.terminate_coordinator(), Some(0));
    fleet.revive_coordinator();
    push.finish().exits(0);
    fleet.pull_exact("latest");
    fleet.is_whole();
}

#[test]
fn a_coordinator_restored_from_an_older_copy_works_at_once() {
    let mut fleet = Fleet::new("2+1", 3);
    source::make(&fleet.source(), 27, 2);
    fleet.push(&[]).exits(0);
    fleet.terminate_coordinator();
    let (data, copy) = (fleet.sandbox.path("coordinator"), fleet.sandbox.path("copy"));
    copy_folder(&data, &copy);
    for _ in 0..3 {
        fleet.revive_coordinator();
        fleet.until_up(3);
        fleet.terminate_coordinator();
    }
    std::fs::remove_dir_all(&data).unwrap();
    copy_folder(&copy, &data);
    fleet.revive_coordinator();
    fleet.pull_exact("latest");
    fleet.push(&["--force"]).exits(0);
    fleet.is_whole();
}

#[test]
fn a_local_vault_whose_catalog_was_restored_works_at_once() {
    let sandbox = Sandbox::with_vault("2+1");
    std::fs::write(sandbox.path("file"), source::noise(28, 100_000)).unwrap();
    sandbox.arc(["push", "file"]).exits(0);
    let (data, copy) = (sandbox.path("vault/coordinator"), sandbox.path("copy"));
    copy_folder(&data, &copy);
    for _ in 0..3 {
        sandbox.arc(["status"]).exits(0);
    }
    std::fs::remove_dir_all(&data).unwrap();
    copy_folder(&copy, &data);
    sandbox.arc(["verify", "--level", "data"]).exits(0);
    sandbox.arc(["push", "file"]).exits(0);
}

fn copy_folder(from: &Path, to: &Path) {
    let copied = Command::new("cp").args(["-a", text(from), text(to)]).status().unwrap();
    assert!(copied.success());
}

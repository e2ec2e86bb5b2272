//! Storage servers that are killed, hang, or are stopped.

use rustix::process::Signal;

use crate::fleet::{Fleet, Setup, eventually};
use crate::source::{self, assert_same, bytes_below};

const MIB: u64 = 1 << 20;

#[test]
fn i7_with_two_of_six_servers_dead_every_byte_comes_back() {
    let mut fleet = Fleet::new("4+2", 6);
    source::make(&fleet.source(), 10, 40);
    let summary = fleet.push(&[]).exits(0).json_of("summary");
    assert_eq!(summary["stripes_below_target"], 0);
    fleet.kill(1);
    fleet.kill(4);
    fleet.pull_exact("latest");
    let verified = fleet.sandbox.arc(["--json", "verify"]).exits(7).json_of("summary");
    assert_eq!(verified["unreachable_servers"].as_array().unwrap().len(), 2);
    assert_eq!(verified["lost_stripes"], 0);
    // A third one: nothing is known to be lost, and only what lies in copies can be read.
    fleet.kill(5);
    let to = fleet.target();
    let refused = fleet.sandbox.arc(fleet.pull_line("latest", &to)).exits(6);
    assert!(refused.stdout().contains("do not answer"), "{}", refused.stdout());
    let (pulled, all) = (source::files(&to), source::files(&fleet.source()));
    assert!(pulled.len() < all.len());
    for path in &pulled {
        let original = fleet.source().join(path.strip_prefix(&to).unwrap());
        assert!(std::fs::read(path).unwrap() == std::fs::read(original).unwrap());
    }
    for number in [1, 4, 5] {
        fleet.revive(number);
    }
    fleet.until_up(6);
    fleet.pull_exact("latest");
    fleet.is_whole();
}

#[test]
fn i1_a_server_killed_in_mid_push_and_back_in_time_costs_nothing() {
    let mut fleet = Fleet::new("4+2", 6);
    source::make(&fleet.source(), 11, 30);
    let push = fleet.push_until(10 * MIB, &[]);
    fleet.kill(2);
    fleet.revive(2);
    let summary = push.finish().exits(0).json_of("summary");
    assert_eq!(summary["stripes_below_target"], 0);
    fleet.is_whole();
    fleet.pull_exact("latest");
}

#[test]
fn a_server_that_stays_away_is_done_without_and_said() {
    let mut fleet = Fleet::new("4+2", 6);
    source::make(&fleet.source(), 12, 30);
    let push = fleet.push_until(10 * MIB, &["--wait-servers=2s"]);
    fleet.kill(2);
    let ran = push.finish().exits(7);
    let summary = ran.json_of("summary");
    assert!(summary["stripes_below_target"].as_u64().unwrap() > 0, "{summary}");
    assert!(
        ran.stdout().contains("\"warning\"") && ran.stdout().contains("c "),
        "{}",
        ran.stdout()
    );
    fleet.pull_exact("latest");
}

#[test]
fn with_two_servers_away_no_snapshot_is_committed_and_the_next_push_ends_well() {
    let mut fleet = Fleet::new("4+2", 6);
    source::make(&fleet.source(), 13, 30);
    let push = fleet.push_until(10 * MIB, &["--wait-servers=2s"]);
    fleet.kill(0);
    fleet.kill(3);
    let error = push.finish().exits(6).json_of("error").to_string();
    assert!(error.contains("no snapshot was committed"), "{error}");
    assert!(error.contains("a http://") || error.contains("a is suspect"), "{error}");
    assert_eq!(fleet.snapshots(), 0);
    let status = fleet.sandbox.arc(["--json", "status"]).json_of("summary");
    assert_eq!(status["leases"], 0, "a push that failed holds nothing");
    fleet.revive(0);
    fleet.revive(3);
    fleet.until_up(6);
    // A stripe that had all shards but one when the first server went was committed so.
    let status = fleet.sandbox.arc(["--json", "status"]).json_of("summary");
    let is_below = status["stripes_below_target"] != 0;
    fleet.push(&[]).exits(if is_below { 7 } else { 0 });
    fleet.pull_exact("latest");
    if !is_below {
        fleet.is_whole();
    }
}

#[test]
fn a_spare_takes_the_place_of_a_server_that_hangs_in_mid_push() {
    let fleet = Fleet::new("4+2", 7);
    source::make(&fleet.source(), 14, 30);
    let push = fleet.push_until(10 * MIB, &["--stall=1s"]);
    fleet.signal(3, Signal::STOP);
    let summary = push.finish().exits(0).json_of("summary");
    assert_eq!(summary["stripes_below_target"], 0);
    fleet.pull_exact("latest");
    fleet.signal(3, Signal::CONT);
    fleet.until_up(7);
    fleet.is_whole();
}

#[test]
fn without_a_spare_a_server_that_hangs_is_waited_for() {
    let fleet = Fleet::new("4+2", 6);
    source::make(&fleet.source(), 15, 20);
    let push = fleet.push_until(6 * MIB, &["--stall=1s", "--wait-servers=2s"]);
    fleet.signal(3, Signal::STOP);
    push.finish().exits(7);
    fleet.pull_exact("latest");
}

#[test]
fn a_push_with_a_server_away_from_the_start_names_it() {
    let mut fleet = Fleet::new("2+2", 4);
    source::make(&fleet.source(), 18, 4);
    fleet.kill(3);
    fleet.until_up(3);
    let summary = fleet.push(&["--wait-servers=0s"]).exits(7).json_of("summary");
    assert_eq!(summary["servers_away"], serde_json::json!(["d"]));
    fleet.pull_exact("latest");
}

#[test]
fn a_server_that_stays_away_is_lost_and_what_comes_back_is_up() {
    let short = ["--down-after=300ms", "--grace=600ms"];
    let setup = Setup { code: "2+1", servers: 3, coordinator: &short, ..Setup::default() };
    let mut fleet = Fleet::of(setup);
    source::make(&fleet.source(), 22, 2);
    fleet.push(&[]).exits(0);
    fleet.kill(2);
    eventually("the server is lost", || {
        let rows = fleet.sandbox.arc(["--json", "servers"]).exits(0).json_of("summary");
        rows["servers"][2]["state"] == "lost"
    });
    assert!(fleet.sandbox.arc(["servers"]).exits(0).stdout().contains("  lost  "));
    let status = fleet.sandbox.arc(["status"]).exits(7).stdout();
    assert!(status.contains("servers    2 up, 1 lost"), "{status}");
    fleet.pull_exact("latest");
    fleet.revive(2);
    fleet.until_up(3);
    fleet.is_whole();
    // Each state in its turn, however short it was.
    let log = std::fs::read_to_string(fleet.sandbox.path("services.log")).unwrap();
    let mut of_c = log.lines().filter(|line| line.contains("name=\"c\""));
    for state in ["up", "Suspect", "Down", "Lost", "Returned", "up"] {
        let said = format!("server is {state}");
        assert!(of_c.any(|line| line.contains(&said)), "{state} is missing or late: {log}");
    }
}

#[test]
fn servers_that_go_together_hold_up_repair_until_they_are_back() {
    let mut fleet = Fleet::new("2+2", 8);
    let brake =
        |fleet: &Fleet| fleet.sandbox.arc(["--json", "status"]).json_of("summary")["brake"].clone();
    assert!(brake(&fleet).is_null());
    (0..3).for_each(|server| fleet.kill(server));
    eventually("all three are missed", || {
        brake(&fleet)["servers"].as_array().map_or(0, Vec::len) == 3
    });
    let listed = fleet.sandbox.arc(["--json", "servers"]).exits(0).json_of("summary");
    assert_eq!(listed["brake"]["servers"], serde_json::json!(["a", "b", "c"]));
    for command in ["servers", "status"] {
        let said = fleet.sandbox.arc([command]).stdout();
        assert!(said.contains("many servers went together"), "{said}");
        assert!(said.contains("still away: a, b, c"), "{said}");
    }
    (0..3).for_each(|server| fleet.revive(server));
    fleet.until_up(8);
    assert!(brake(&fleet).is_null());
}

#[test]
fn i4_a_server_that_hangs_is_unknown_to_verify_and_nothing_is_lost() {
    let fleet = Fleet::new("4+2", 6);
    source::make(&fleet.source(), 19, 4);
    fleet.push(&[]).exits(0);
    fleet.signal(2, Signal::STOP);
    fleet.until_up(5);
    let verified = fleet.sandbox.arc(["--json", "verify"]).exits(7).json_of("summary");
    assert_eq!(verified["unreachable_servers"], serde_json::json!(["c"]));
    assert_eq!(verified["bad_shards"], 0);
    fleet.signal(2, Signal::CONT);
    fleet.until_up(6);
    fleet.is_whole();
}

#[test]
fn i7_more_servers_that_hang_than_the_code_bears_are_waited_for_once() {
    let fleet = Fleet::new("2+1", 3);
    source::make(&fleet.source(), 15, 12);
    fleet.push(&[]).exits(0);
    fleet.signal(0, Signal::STOP);
    fleet.signal(1, Signal::STOP);
    // A wait for each of the dozen stripes would take longer than `eventually` does.
    let to = fleet.target();
    let mut pull = fleet.sandbox.start(fleet.pull_line("latest", &to));
    eventually("the pull gives up", || !pull.runs());
    let said = pull.finish().exits(6).stdout();
    assert!(said.contains("do not answer: a, b") || said.contains("do not answer: b, a"), "{said}");
    fleet.signal(0, Signal::CONT);
    fleet.until_up(2);
    fleet.pull_exact("latest");
}

#[test]
fn i7_more_dead_servers_than_the_code_bears_are_waited_for_once() {
    let mut fleet = Fleet::new("2+2", 4);
    source::make(&fleet.source(), 20, 12);
    fleet.push(&[]).exits(0);
    (0..3).for_each(|server| fleet.kill(server));
    // A wait for each of the servers or stripes would take longer than `eventually` does.
    let to = fleet.target();
    let mut pull = fleet.sandbox.start(fleet.pull_line("latest", &to));
    eventually("the pull gives up", || !pull.runs());
    pull.finish().exits(6);
}

#[test]
fn i7_a_server_that_starts_again_in_mid_pull_is_waited_for() {
    let mut fleet = Fleet::new("2+1", 3);
    source::make(&fleet.source(), 21, 40);
    fleet.push(&[]).exits(0);
    fleet.kill(0);
    let to = fleet.target();
    let mut pull = fleet.sandbox.start(fleet.pull_line("latest", &to));
    eventually("the pull has some bytes", || {
        assert!(pull.runs(), "the pull ended before the server went");
        bytes_below(&to) > 4 * MIB
    });
    fleet.kill(1);
    assert!(pull.runs(), "the pull needs that server");
    fleet.revive(1);
    pull.finish().exits(0);
    assert_same(&fleet.source(), &to);
}

#[test]
fn i7_a_server_that_hangs_in_mid_pull_is_passed_over() {
    let fleet = Fleet::new("4+2", 6);
    source::make(&fleet.source(), 16, 40);
    fleet.push(&[]).exits(0);
    let to = fleet.target();
    let mut pull = fleet.sandbox.start(fleet.pull_line("latest", &to));
    eventually("the pull has some bytes", || {
        assert!(pull.runs(), "the pull ended before the server hung");
        bytes_below(&to) > 4 * MIB
    });
    fleet.signal(2, Signal::STOP);
    pull.finish().exits(0);
    assert_same(&fleet.source(), &to);
}

#[test]
fn a_server_told_to_stop_in_mid_push_finishes_what_it_has_begun() {
    let mut fleet = Fleet::new("4+2", 6);
    source::make(&fleet.source(), 17, 30);
    let push = fleet.push_until(10 * MIB, &[]);
    assert_eq!(fleet.terminate(1), Some(0));
    fleet.revive(1);
    push.finish().exits(0);
    fleet.is_whole();
    fleet.pull_exact("latest");
}

//! What happened is kept, over restarts, and told while it happens; a weight is carried.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::fleet::{Fleet, Setup, eventually};
use crate::{source, trees};

/// A command that goes on, what it says on stdout, and its end.
struct Follower {
    child: std::process::Child,
    said: PathBuf,
}

impl Follower {
    fn start(fleet: &Fleet, name: &str, args: &[&str]) -> Self {
        let said = fleet.sandbox.path(name);
        let mut command = fleet.sandbox.command(args);
        command.stdout(File::create(&said).unwrap()).stderr(Stdio::null());
        Self { child: command.spawn().unwrap(), said }
    }

    /// Whole lines so far of a type.
    fn lines(&self, kind: &str) -> Vec<Value> {
        lines(&self.said, kind)
    }

    /// Ctrl-C, and the exit code.
    fn interrupt(mut self) -> Option<i32> {
        kill_process(Pid::from_child(&self.child), Signal::INT).unwrap();
        self.child.wait().unwrap().code()
    }
}

fn lines(said: &Path, kind: &str) -> Vec<Value> {
    let text = fs::read_to_string(said).unwrap();
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let all = whole.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    all.filter(|line| line["type"] == kind).collect()
}

fn events(fleet: &Fleet, args: &[&str]) -> Vec<Value> {
    let line = ["--json", "events"].into_iter().chain(args.iter().copied());
    fleet.sandbox.arc(line).exits(0).json_lines("event")
}

fn has(events: &[Value], kind: &str, server: &str) -> bool {
    events.iter().any(|event| event["kind"] == kind && event["server"] == server)
}

#[test]
fn an_outage_and_its_repair_are_followed_and_stay_on_record_over_a_restart() {
    let coordinator = ["--down-after=300ms", "--grace=600ms", "--repair-every=100ms", "--brake=0s"];
    let mut fleet =
        Fleet::of(Setup { code: "2+1", servers: 4, coordinator: &coordinator, storage: &[] });
    let follower = Follower::start(&fleet, "followed", &["--json", "events", "--follow"]);
    source::make(&fleet.source(), 1, 3);
    fleet.push(&[]).exits(0);
    fleet.kill(2);
    eventually("the loss of c is told", || has(&follower.lines("event"), "lost", "c"));
    eventually("all is whole again", || {
        let status = fleet.sandbox.arc(["--json", "status"]).json_of("summary");
        status["repairs"]["needed"] == 0 && status["stripes"] == status["whole"]
    });
    fleet.terminate_coordinator();
    fleet.revive_coordinator();
    fleet.revive(2);
    eventually("c is up again, and that is told", || {
        let compared = |event: &Value| event["text"] == "what it holds was compared";
        follower.lines("event").iter().any(|event| event["server"] == "c" && compared(event))
    });
    eventually("the second start is told", || {
        let of = |kind| follower.lines("event").iter().filter(|e| e["kind"] == kind).count();
        of("started") == 2 && of("snapshot") == 1 && of("whole") >= 1
    });
    let followed = follower.lines("event");
    assert_eq!(follower.interrupt(), Some(130));

    let all = events(&fleet, &["-n", "5000"]);
    let numbers = |events: &[Value]| -> Vec<u64> {
        events.iter().map(|event| event["number"].as_u64().unwrap()).collect()
    };
    assert!(numbers(&all).is_sorted_by(|a, b| a < b), "{all:?}");
    assert!(numbers(&followed).is_sorted_by(|a, b| a < b), "{followed:?}");
    assert!(followed.iter().all(|event| all.contains(event)), "what was told is kept");
    for server in ["a", "b", "c", "d"] {
        assert!(has(&all, "joined", server) && has(&all, "up", server), "{server}: {all:?}");
    }
    // The order in which an outage goes.
    let of_c = events(&fleet, &["--server", "c", "--since", "1h"]);
    assert!(of_c.iter().all(|event| event["server"] == "c"));
    let kinds: Vec<&str> = of_c.iter().map(|event| event["kind"].as_str().unwrap()).collect();
    let at = |kind| kinds.iter().position(|k| *k == kind).unwrap();
    assert!(at("suspect") < at("down") && at("down") < at("lost"), "{kinds:?}");
    assert_eq!(numbers(&events(&fleet, &["-n", "2"])), numbers(&all)[all.len() - 2..]);

    // People read the same, a line each.
    let told = fleet.sandbox.arc(["events", "--server", "c"]).exits(0).stdout();
    let lost: Vec<&str> = told.lines().filter(|line| line.contains("  lost  ")).collect();
    assert!(lost[0].contains("  c         lost           no answer"), "{told}");
}

#[test]
fn what_goes_on_is_watched_through_a_loss_of_the_coordinator() {
    let mut fleet = Fleet::new("2+1", 3);
    source::make(&fleet.source(), 1, 1);
    fleet.push(&[]).exits(0);
    eventually("the snapshot is on record", || {
        events(&fleet, &[]).iter().any(|event| event["kind"] == "snapshot")
    });
    let watcher = Follower::start(&fleet, "watched", &["--json", "status", "--watch"]);
    eventually("a first look", || !watcher.lines("status").is_empty());
    let first = watcher.lines("status").remove(0);
    assert_eq!(first["stripes"], first["whole"]);
    assert_eq!(first["repairs"]["needed"], 0);
    assert_eq!(first["servers_now"].as_array().unwrap().len(), 3);
    assert!(first["servers_now"][0]["scrub"].is_object(), "{first}");
    let numbers = |of: &[Value]| of.iter().map(|e| e["number"].clone()).collect::<Vec<_>>();
    let (shown, all) = (first["events"].as_array().unwrap(), numbers(&events(&fleet, &[])));
    assert!(!shown.is_empty() && numbers(shown).iter().all(|number| all.contains(number)));
    assert!(first.get("chunks").is_none(), "nobody counts the chunks again and again");
    fleet.kill_coordinator();
    eventually("its loss is told", || !watcher.lines("warning").is_empty());
    fleet.revive_coordinator();
    let looks = watcher.lines("status").len();
    eventually("it goes on", || watcher.lines("status").len() > looks);
    assert_eq!(watcher.interrupt(), Some(130));
}

#[test]
fn a_local_vault_tells_what_was_done_and_cannot_be_followed() {
    let sandbox = crate::sandbox::Sandbox::with_vault("2+1");
    trees::fill(&sandbox.path("tree"), 1, 1 << 16);
    sandbox.arc(["push", "tree"]).exits(0);
    sandbox.arc(["status"]).exits(0);
    let events = sandbox.arc(["--json", "events"]).exits(0).json_lines("event");
    let kinds: Vec<&str> = events.iter().map(|event| event["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["joined", "joined", "joined", "snapshot"]);
    for line in [["events", "--follow"], ["status", "--watch"]] {
        let refused = sandbox.arc(line).exits(2);
        assert!(refused.stderr().contains("run inside each command"), "{}", refused.stderr());
    }
}

#[test]
fn a_weight_is_carried_shown_and_changed_by_another_start() {
    let mut fleet = Fleet::new("1+1", 3);
    let heavy = fleet.join(&["--weight=1.5"]);
    let of_d = |fleet: &Fleet| {
        let servers =
            fleet.sandbox.arc(["--json", "servers"]).json_of("summary")["servers"].clone();
        let shares = servers.as_array().unwrap().iter().map(|row| row["share"].as_f64().unwrap());
        assert!((shares.sum::<f64>() - 1.0).abs() < 1e-9, "{servers}");
        let d = servers.as_array().unwrap().iter().find(|row| row["name"] == "d").unwrap();
        (d["weight"].clone(), d["share"].as_f64().unwrap())
    };
    let (weight, share) = of_d(&fleet);
    // All four are on one disk, so its size is no matter.
    assert_eq!(weight, json!(1.5));
    assert!((share - 1.5 / 4.5).abs() < 1e-6, "{share}");
    let table = fleet.sandbox.arc(["servers"]).exits(0).stdout();
    assert!(table.contains("33.3 %, weight 1.5"), "{table}");
    fleet.terminate_coordinator();
    fleet.revive_coordinator();
    assert_eq!(of_d(&fleet).0, json!(1.5), "it was kept");
    fleet.terminate(heavy);
    fleet.revive(heavy);
    let (weight, share) = of_d(&fleet);
    assert_eq!(weight, json!(1.0));
    assert!((share - 0.25).abs() < 1e-6, "{share}");
    eventually("that is told", || has(&events(&fleet, &[]), "weight", "d"));
    let refused = fleet.sandbox.arc(["serve", "storage", "--weight", "0"]).exits(2);
    assert!(refused.stderr().contains("0.01 to 100"), "{}", refused.stderr());
}

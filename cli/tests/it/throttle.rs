//! How fast servers work in the background: set once, for all of them, over restarts.

use serde_json::{Value, json};

use crate::fleet::{Fleet, eventually};
use crate::source;

fn throttle(fleet: &Fleet, line: &[&str]) -> Value {
    let line = ["--json", "throttle"].iter().chain(line).copied();
    fleet.sandbox.arc(line).exits(0).json_of("summary")
}

fn set(status: &Value) -> [&Value; 3] {
    ["bytes_per_second", "per_server", "at_once"].map(|name| &status[name])
}

/// Every server has taken this pace.
fn taken(status: &Value, pace: Value) -> bool {
    let servers = status["servers"].as_array().unwrap();
    servers.iter().all(|server| server["taken"] == true && server["bytes_per_second"] == pace)
}

const MIB: u64 = 1 << 20;

#[test]
fn a_pace_is_set_shown_and_outlives_restarts_of_coordinator_and_server() {
    let mut fleet = Fleet::new("2+1", 4);
    let status = throttle(&fleet, &[]);
    assert_eq!(set(&status), [&Value::Null, &Value::Null, &json!(4)]);
    eventually("all have it", || taken(&throttle(&fleet, &[]), Value::Null));

    let status = throttle(&fleet, &["--bytes-per-second", "40M", "--per-server=30M"]);
    assert_eq!(set(&status), [&json!(40 * MIB), &json!(30 * MIB), &json!(4)]);
    assert!(taken(&status, json!(10 * MIB)), "each has its part at once: {status}");
    let said = fleet.sandbox.arc(["throttle"]).exits(0).stdout();
    assert!(said.contains("all servers together: 40.0 MiB a second"), "{said}");
    // It is one setting, whoever sets it.
    fleet.sandbox.arc(["repair", "--at-once=3", "--bytes-per-second=400M"]).exits(0);
    let status = throttle(&fleet, &[]);
    assert_eq!(set(&status), [&json!(400 * MIB), &json!(30 * MIB), &json!(3)]);
    assert!(taken(&status, json!(30 * MIB)), "{status}");

    fleet.kill_coordinator();
    fleet.revive_coordinator();
    fleet.until_up(4);
    let kept = || taken(&throttle(&fleet, &[]), json!(30 * MIB));
    eventually("all were told by the new one", kept);
    assert_eq!(set(&throttle(&fleet, &[])), set(&status));

    fleet.kill(1);
    eventually("it is missed", || {
        let rows = fleet.sandbox.arc(["--json", "servers"]).json_of("summary");
        rows["servers"][1]["state"] != "up"
    });
    fleet.revive(1);
    fleet.until_up(4);
    eventually("it was told again", || taken(&throttle(&fleet, &[]), json!(30 * MIB)));

    let status = throttle(&fleet, &["--bytes-per-second=none", "--per-server=none"]);
    assert_eq!(set(&status), [&Value::Null, &Value::Null, &json!(3)]);
    assert!(taken(&status, Value::Null), "{status}");
    fleet.sandbox.arc(["throttle", "--per-server=1K"]).exits(2);
}

/// Shards made since the coordinator's start, and those of them past the pace, after a shard of
/// each stripe is made again.
fn mended(code: &str, servers: usize) -> (u64, u64) {
    let fleet = Fleet::new(code, servers);
    source::make(&fleet.source(), 81, 8);
    fleet.push(&[]).exits(0);
    throttle(&fleet, &["--per-server=200M"]);
    for file in fleet.shards().into_iter().filter(|file| file.index == 0) {
        std::fs::remove_file(&file.path).unwrap();
    }
    fleet.sandbox.arc(["verify"]).exits(4);
    fleet.sandbox.arc(["repair-scan", "--fix"]).exits(0);
    let status = fleet.sandbox.arc(["--json", "repair"]).exits(0).json_of("summary");
    ["made_shards", "urgent_shards"].map(|name| status[name].as_u64().unwrap()).into()
}

#[test]
fn what_has_nothing_to_spare_goes_past_the_pace_and_all_else_does_not() {
    let (made, urgent) = mended("2+1", 3);
    assert!(made > 2 && urgent == made, "{urgent} of {made}");
    let (made, urgent) = mended("4+2", 6);
    assert!(made > 2 && urgent == 0, "{urgent} of {made}");
}

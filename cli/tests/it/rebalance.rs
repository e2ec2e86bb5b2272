//! Shards move to a server that joined, as was planned, when they may.

use serde_json::Value;

use crate::fleet::{Fleet, Setup, eventually};
use crate::trees::{noise, write};

fn rebalance(fleet: &Fleet, line: &[&str]) -> Value {
    let line = ["--json", "rebalance"].iter().chain(line).copied();
    fleet.sandbox.arc(line).exits(0).json_of("summary")
}

fn plan(fleet: &Fleet) -> Value {
    let summary = rebalance(fleet, &["--dry-run"]);
    assert_eq!(summary["done"], false);
    summary["plan"].clone()
}

fn bytes_on(fleet: &Fleet, server: usize) -> u64 {
    fleet.shards().iter().filter(|file| file.server == server).map(|file| file.bytes).sum()
}

#[test]
fn what_is_planned_moves_when_it_is_begun_and_nothing_before_or_else() {
    let heals = ["--repair-every=20ms"];
    let mut fleet =
        Fleet::of(Setup { code: "2+1", servers: 4, coordinator: &heals, ..Setup::default() });
    for n in 0..12 {
        write(fleet.source().join(n.to_string()), noise(n, 300_000));
        fleet.push(&[]).exits(0);
    }
    assert_eq!(plan(&fleet)["shards"], 0);
    assert_eq!(rebalance(&fleet, &["--pause"])["rebalances"], false);
    fleet.kill_coordinator();
    fleet.revive_coordinator();
    let joined = fleet.join(&[]);
    fleet.until_up(5);
    let planned = plan(&fleet);
    let (shards, bytes) = (planned["shards"].as_u64().unwrap(), planned["bytes"].as_u64().unwrap());
    assert!(shards > 0 && planned["moving"].as_u64().unwrap() <= shards, "{planned}");
    assert_eq!(planned["into"]["e"], bytes, "only to the newcomer: {planned}");
    assert_eq!((&planned["margin_before"], &planned["margin_after"]), (&0.into(), &0.into()));
    // It is paused, over the restart too: a round of repair has gone by without a move.
    let status = || fleet.sandbox.arc(["--json", "repair"]).exits(0).json_of("summary");
    assert_eq!(
        (&status()["settings"]["rebalances"], &status()["moved_shards"]),
        (&false.into(), &0.into())
    );
    assert_eq!((bytes_on(&fleet, joined), plan(&fleet)), (0, planned));

    let slow = fleet.sandbox.arc(["throttle", "--per-server=100M"]);
    slow.exits(0);
    let begun = rebalance(&fleet, &[]);
    assert_eq!((&begun["rebalances"], &begun["done"]), (&true.into(), &true.into()));
    assert!(begun["seconds"].as_u64().is_some(), "{begun}");
    eventually("it has moved", || bytes_on(&fleet, joined) == bytes && plan(&fleet)["shards"] == 0);
    assert_eq!(status()["moved_shards"], shards);
    fleet.is_whole();
}

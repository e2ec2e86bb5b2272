//! Restoring for practice, checking a part, and what is remembered of both.

use std::collections::BTreeSet;
use std::fs;

use serde_json::{Value, json};

use crate::fleet::{Fleet, ShardFile};
use crate::sandbox::{Ran, text};
use crate::source;

/// The size of the tree.
const MIB: usize = 12;

/// A fleet of 4+2 with a tree in a dozen stripes.
fn pushed() -> Fleet {
    let fleet = Fleet::new("4+2", 6);
    source::make(&fleet.source(), 7, MIB);
    fleet.push(&[]).exits(0);
    fleet
}

fn drill(fleet: &Fleet) -> Ran {
    fleet.sandbox.arc(["--json", "drill", "--subset", "100%"])
}

/// The shards of these indexes of stripes that have all of them.
fn of_indexes(fleet: &Fleet, indexes: std::ops::Range<u8>) -> Vec<ShardFile> {
    let all = fleet.shards();
    let is_wide = |stripe: &str| all.iter().filter(|s| s.stripe == stripe).count() == 6;
    let of = |s: &&ShardFile| indexes.contains(&s.index) && s.bytes > 100_000 && is_wide(&s.stripe);
    all.iter().filter(of).cloned().collect()
}

/// Flips a bit of every KiB of the body, so that no frame in it opens.
fn damage(shard: &ShardFile) {
    let mut bytes = fs::read(&shard.path).unwrap();
    let len = bytes.len();
    for at in (8192..len - 4096).step_by(1024) {
        bytes[at] ^= 1;
    }
    fs::write(&shard.path, bytes).unwrap();
}

fn stripes(shards: &[ShardFile]) -> BTreeSet<&str> {
    shards.iter().map(|shard| shard.stripe.as_str()).collect()
}

#[test]
fn a_drill_of_a_healthy_vault_restores_all_of_it_without_m_shards_of_each_stripe() {
    let fleet = pushed();
    let drilled = drill(&fleet).exits(0);
    let summary = drilled.json_of("summary");
    let pushed = fleet.sandbox.arc(["--json", "snapshots"]).json_of("snapshot");
    assert_eq!(summary["files"], pushed["stats"]["files"], "{summary}");
    assert_eq!(summary["bytes"], pushed["stats"]["bytes"]);
    assert_eq!((&summary["bad_shards"], &summary["result"]), (&json!(0), &json!("well")));
    // Small packs are copies on m+1 servers, of which m are withheld too.
    let (stripes, withheld) =
        (summary["stripes"].as_u64().unwrap(), summary["withheld_shards"].as_u64().unwrap());
    assert!(stripes > 8, "{summary}");
    assert_eq!(withheld, 2 * stripes);
    let status = fleet.sandbox.arc(["--json", "status"]).exits(0).json_of("summary");
    assert_eq!(status["last_drill"]["result"], "well");
    assert_eq!(status["last_drill"]["files"], summary["files"]);
    assert!(fleet.sandbox.arc(["status"]).exits(0).stdout().contains("; last drill "));
    let few = fleet.sandbox.arc(["drill", "--subset", "1%"]).exits(0);
    assert!(few.stdout().contains("restored ") && few.stdout().contains("all well"));
    assert!(few.stdout().lines().count() <= 6 && few.stderr().is_empty());
}

#[test]
fn a_drill_reads_parity_that_no_pull_of_whole_data_would_and_names_what_is_bad_there() {
    let fleet = pushed();
    let parity = of_indexes(&fleet, 4..6);
    assert!(stripes(&parity).len() >= 8);
    parity.iter().for_each(damage);
    let pulled = fleet.pull_exact("latest");
    assert!(pulled.json_lines("heal").is_empty(), "a pull has no need of parity");
    let drilled = drill(&fleet).exits(4);
    let summary = drilled.json_of("summary");
    assert_eq!(summary["result"], "repairable");
    let files =
        fleet.sandbox.arc(["--json", "snapshots"]).json_of("snapshot")["stats"]["files"].clone();
    assert_eq!(summary["files"], files, "all came back");
    let named = drilled.json_lines("heal");
    assert!(!named.is_empty());
    let is_damaged = |line: &Value| {
        parity.iter().any(|s| line["stripe"] == s.stripe.as_str() && line["index"] == s.index)
    };
    assert!(named.iter().all(is_damaged), "{named:?}");
}

#[test]
fn i8_restore_gives_withheld_shards_back_before_it_calls_anything_lost() {
    let fleet = pushed();
    // As many as may be lost, in the shards that are read first.
    of_indexes(&fleet, 0..2).iter().for_each(damage);
    assert_eq!(drill(&fleet).exits(4).json_of("summary")["lost_files"], 0);
    let verified =
        fleet.sandbox.arc(["--json", "verify", "--level", "restore"]).exits(4).json_of("summary");
    assert_eq!(
        (&verified["lost_stripes"], &verified["withheld_shards"].is_u64()),
        (&json!(0), &true)
    );
}

#[test]
fn a_drill_names_the_files_that_more_than_m_damaged_shards_cost() {
    let fleet = pushed();
    let hurt = of_indexes(&fleet, 0..3);
    let one = stripes(&hurt).into_iter().next().unwrap().to_owned();
    hurt.iter().filter(|shard| shard.stripe == one).for_each(damage);
    let drilled = drill(&fleet).exits(5);
    let summary = drilled.json_of("summary");
    assert_eq!(summary["result"], "lost");
    let lost = summary["lost_files"].as_u64().unwrap();
    let named = drilled.json_lines("warning");
    let named = named.iter().filter(|line| line["path"].is_string()).count() as u64;
    assert!(lost > 0 && named == lost, "{lost} lost, {named} named");
    let status = fleet.sandbox.arc(["--json", "status"]).json_of("summary");
    assert_eq!(status["last_drill"]["lost_files"], lost);
}

#[test]
fn with_m_servers_down_nothing_is_withheld_and_all_comes_back() {
    let mut fleet = pushed();
    let files =
        fleet.sandbox.arc(["--json", "snapshots"]).json_of("snapshot")["stats"]["files"].clone();
    fleet.kill(0);
    fleet.kill(3);
    fleet.until_up(4);
    let summary = drill(&fleet).exits(7).json_of("summary");
    assert_eq!(summary["files"], files);
    assert_eq!(summary["away"], json!(["a", "d"]));
    assert_eq!(summary["result"], "out-of-reach");
    let verified = fleet.sandbox.arc(["--json", "verify", "--level", "restore"]).exits(7);
    assert_eq!(verified.json_of("summary")["lost_stripes"], 0);
}

#[test]
fn a_lost_server_whose_shards_are_elsewhere_takes_nothing_from_a_drill() {
    let mut fleet = Fleet::new("4+2", 7);
    source::make(&fleet.source(), 7, MIB);
    fleet.push(&[]).exits(0);
    fleet.kill(0);
    fleet.until_up(6);
    assert_eq!(drill(&fleet).exits(7).json_of("summary")["away"], json!(["a"]));
    fleet.sandbox.arc(["servers", "replace", "a"]).exits(0);
    fleet.sandbox.arc(["repair-scan", "--fix"]).exits(0);
    fleet.sandbox.arc(["verify"]).exits(0);
    assert_eq!(drill(&fleet).exits(0).json_of("summary")["result"], "well");
}

#[test]
fn with_a_server_down_the_oldest_have_their_turn_too() {
    let mut fleet = pushed();
    fleet.kill(5);
    fleet.until_up(5);
    let look = || {
        let line = ["--json", "verify", "--level", "shards", "--subset", "oldest:20%"];
        fleet.sandbox.arc(line).exits(7);
    };
    (0..10).for_each(|_| look());
    let explained = fleet.sandbox.arc(["--json", "explain", text(&fleet.source())]);
    let lines = explained.json_lines("stripe");
    let unread = |line: &&Value| {
        let mut shards = line["shards"].as_array().unwrap().iter();
        shards.all(|shard| shard["last_read_whole_ms"].is_null())
    };
    assert!(lines.len() > 3, "{lines:?}");
    assert_eq!(lines.iter().filter(unread).count(), 0, "each was looked at");
}

#[test]
fn the_oldest_are_verified_first_until_every_stripe_was() {
    let fleet = pushed();
    let all = fleet.sandbox.arc(["--json", "status"]).exits(0).json_of("summary")["stripes"]
        .as_u64()
        .unwrap();
    let recently = || {
        let status = fleet.sandbox.arc(["--json", "status"]).exits(0).json_of("summary");
        status["read_recently"].as_u64().unwrap()
    };
    assert_eq!(recently(), 0);
    let mut before = 0;
    let mut turns = 0;
    while before < all {
        let line = ["--json", "verify", "--level", "data", "--subset", "oldest:20%"];
        let checked = fleet.sandbox.arc(line).exits(0).json_of("summary");
        assert_eq!(checked["of_stripes"], all);
        let now = recently();
        let looked_at = checked["stripes"].as_u64().unwrap();
        assert!(looked_at < all);
        assert_eq!(now, all.min(before + looked_at), "none is looked at twice before all were");
        before = now;
        turns += 1;
    }
    assert!((2..=10).contains(&turns), "{turns}");
    let file = fleet.source().join("large/0");
    let explained = fleet.sandbox.arc(["--json", "explain", text(&file)]).exits(0);
    assert!(explained.json_of("summary")["last_read_whole_ms"].is_u64());
    let shards = explained.json_lines("stripe");
    let shards = shards.iter().flat_map(|line| line["shards"].as_array().unwrap());
    assert!(shards.clone().count() > 0 && shards.clone().all(|s| s["last_read_whole_ms"].is_u64()));
    let said = fleet.sandbox.arc(["explain", text(&file)]).exits(0).stdout();
    assert!(said.contains("last read whole: 20") && said.contains(", read whole 20"), "{said}");
}

#[test]
fn a_random_subset_is_a_part_and_a_bad_share_is_a_usage_error() {
    let fleet = pushed();
    for level in ["map", "shards", "restore"] {
        let line = ["--json", "verify", "--level", level, "--subset", "30%"];
        let checked = fleet.sandbox.arc(line).exits(0).json_of("summary");
        let (part, all) =
            (checked["stripes"].as_u64().unwrap(), checked["of_stripes"].as_u64().unwrap());
        assert!(0 < part && part < all, "{level}: {part} of {all}");
    }
    let of_one = ["--json", "verify", "latest", "--subset", "oldest"];
    let checked = fleet.sandbox.arc(of_one).exits(0).json_of("summary");
    assert!(checked["stripes"].as_u64() < checked["of_stripes"].as_u64());
    for share in ["5", "0%", "200%", "newest"] {
        fleet.sandbox.arc(["verify", "--subset", share]).exits(2);
    }
    fleet.sandbox.arc(["drill", "--subset", "oldest"]).exits(2);
}

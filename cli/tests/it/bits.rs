//! Flipped bits in shards, on nine servers with 6+3.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use codec::shard::FOOTER_BYTES;
use serde_json::Value;

use crate::fleet::{Fleet, ShardFile, name};
use crate::source;

/// The parts of a shard file.
const PARTS: [&str; 4] = ["header", "hash table", "body", "footer"];

/// A place of a bit in each part of a shard file.
fn place(part: &str, file: &[u8]) -> usize {
    let header = codec::shard::Header::peek_bytes(file).unwrap();
    let parsed = codec::shard::Header::parse(&file[..header]).unwrap();
    let table = file.windows(32).position(|w| w == parsed.block_hashes[0].as_bytes()).unwrap();
    match part {
        // The block size.
        "header" => 40,
        "hash table" => table + 17,
        "body" => header + parsed.shard_bytes as usize / 3,
        "footer" => file.len() - FOOTER_BYTES / 2,
        _ => panic!("{part}"),
    }
}

fn flip(path: &Path, part: &str) {
    let mut file = fs::read(path).unwrap();
    let at = place(part, &file);
    file[at] ^= 0x10;
    fs::write(path, file).unwrap();
}

/// A vault with one snapshot, and the shards of one of its stripes of data, by index.
fn vault() -> (Fleet, Vec<ShardFile>) {
    let fleet = Fleet::new("6+3", 9);
    source::make(&fleet.source(), 30, 16);
    fleet.push(&[]).exits(0);
    let mut shards = fleet.shards();
    // Small packs and records lie on four servers: only stripes of data have a ninth shard.
    let ninths = shards.iter().filter(|shard| shard.index == 8);
    let longest = ninths.max_by_key(|shard| shard.bytes).unwrap().stripe.clone();
    shards.retain(|shard| shard.stripe == longest);
    shards.sort_by_key(|shard| shard.index);
    let stripe = shards;
    assert_eq!(stripe.len(), 9);
    (fleet, stripe)
}

/// The shards that lines of this type name: stripe, index, server.
fn named(lines: &[Value], kind: &str) -> BTreeSet<(String, u64, String)> {
    let of_kind = lines.iter().filter(|line| line["type"] == kind);
    let name = |line: &Value| {
        let text = |key: &str| line[key].as_str().unwrap().to_owned();
        (text("stripe"), line["index"].as_u64().unwrap(), text("server"))
    };
    of_kind.map(name).collect()
}

fn names(shards: &[&ShardFile]) -> BTreeSet<(String, u64, String)> {
    let name = |s: &&ShardFile| (s.stripe.clone(), u64::from(s.index), name(s.server));
    shards.iter().map(name).collect()
}

#[test]
fn i8_a_flipped_bit_in_any_part_of_three_shards_is_found_and_pulled_around() {
    let (fleet, stripe) = vault();
    // Two shards of data and one of parity.
    let damaged = [&stripe[1], &stripe[4], &stripe[7]];
    let sound = damaged.map(|shard| fs::read(&shard.path).unwrap());
    let mut found = 0;
    for part in PARTS {
        damaged.iter().for_each(|shard| flip(&shard.path, part));
        let met = named(&fleet.pull_exact("latest").json(), "heal");
        assert!(met.is_subset(&names(&damaged)), "{part}: {met:?}");
        // A healthy pull reads the bodies of data shards, and nothing else.
        if part == "body" {
            assert!(met.is_superset(&names(&damaged[..2])), "{met:?}");
        }
        let verified = fleet.sandbox.arc(["--json", "verify", "--level", "shards"]).exits(4);
        assert_eq!(named(&verified.json(), "damage"), names(&damaged), "{part}");
        found += damaged.len();
        fleet.pull_exact("latest");
        for (shard, file) in damaged.iter().zip(&sound) {
            fs::write(&shard.path, file).unwrap();
        }
        // I16: what is whole again is found to be whole.
        fleet.is_whole();
    }
    assert_eq!(found, 12);
}

#[test]
fn i8_each_flipped_bit_is_found_alone_too() {
    let (fleet, stripe) = vault();
    for (shard, part) in [0, 5, 8].into_iter().flat_map(|i| PARTS.map(|part| (&stripe[i], part))) {
        let sound = fs::read(&shard.path).unwrap();
        flip(&shard.path, part);
        let verified = fleet.sandbox.arc(["--json", "verify"]).exits(4);
        assert_eq!(named(&verified.json(), "damage"), names(&[shard]), "{part} of {}", shard.index);
        fs::write(&shard.path, sound).unwrap();
    }
    fleet.is_whole();
}

#[test]
fn i7_more_damage_than_the_code_bears_costs_the_files_it_hits_and_no_other() {
    let (fleet, stripe) = vault();
    // The whole of four bodies: every frame of the stripe is hit.
    for shard in &stripe[2..6] {
        let mut file = fs::read(&shard.path).unwrap();
        let header = codec::shard::Header::peek_bytes(&file).unwrap();
        let end = file.len() - FOOTER_BYTES;
        file[header..end].iter_mut().for_each(|byte| *byte ^= 0x80);
        fs::write(&shard.path, file).unwrap();
    }
    let to = fleet.target();
    let ran = fleet.sandbox.arc(fleet.pull_line("latest", &to)).exits(5);
    let lost: BTreeSet<String> = ran
        .json()
        .iter()
        .filter(|line| line["type"] == "warning")
        .filter_map(|line| Some(line["path"].as_str()?.to_owned()))
        .collect();
    assert!(!lost.is_empty(), "{}", ran.stdout());
    assert_eq!(ran.json_of("summary")["lost"], lost.len());
    assert_eq!(named(&ran.json(), "heal").len(), 4, "{}", ran.stdout());
    // All others are there and exact, and of the lost ones nothing.
    let mut others = 0;
    for path in source::files(&fleet.source()) {
        let below = path.strip_prefix(fleet.source()).unwrap();
        let is_lost = lost.iter().any(|l| Path::new(l).ends_with(below));
        assert_eq!(to.join(below).exists(), !is_lost, "{}", below.display());
        if !is_lost {
            assert!(fs::read(&path).unwrap() == fs::read(to.join(below)).unwrap());
            others += 1;
        }
    }
    assert!(others > lost.len(), "{others} of {} were pulled", others + lost.len());
    assert_eq!(source::files(&to).len(), others);
    let verified = fleet.sandbox.arc(["--json", "verify"]).exits(5);
    let summary = verified.json_of("summary");
    assert_eq!((&summary["lost_stripes"], &summary["lost_files"]), (&1.into(), &lost.len().into()));
    // The next push reads again what is lost, and heals it.
    let healed = fleet.push(&[]).exits(7).json_of("summary");
    assert_eq!(healed["stripes_below_target"], 1, "the stripe that is lost");
    fleet.pull_exact("latest");
}

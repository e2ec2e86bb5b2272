//! Where the shards of a file are, and what it survives.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::fleet::Fleet;
use crate::sandbox::{Sandbox, text};
use crate::shards::{self, data_stripes};
use crate::trees::{noise, write};

/// A vault on disks with files in several stripes.
fn pushed() -> (Sandbox, PathBuf) {
    let sandbox = Sandbox::with_vault("4+2");
    let tree = sandbox.path("tree");
    for n in 0..8 {
        write(tree.join(format!("file {n}")), noise(n + 1, 700_000));
    }
    fs::hard_link(tree.join("file 0"), tree.join("link to 0")).unwrap();
    sandbox.arc(["push", text(&tree), "--pack-size", "1M"]).exits(0);
    (sandbox, tree)
}

fn held(stripe: &Value) -> BTreeSet<(String, u64)> {
    let shards = stripe["shards"].as_array().unwrap();
    let of = |shard: &Value| {
        (shard["server"].as_str().unwrap().to_owned(), shard["index"].as_u64().unwrap())
    };
    shards.iter().map(of).collect()
}

#[test]
fn every_shard_that_a_file_needs_is_named_with_its_disk() {
    let (sandbox, tree) = pushed();
    let file = tree.join("file 3");
    let ran = sandbox.arc(["--json", "explain", text(&file)]).exits(0);
    let stripes = ran.json_lines("stripe");
    let on_disks = shards::all(&sandbox);
    for stripe in &stripes {
        let id = stripe["stripe"].as_str().unwrap();
        let disk = |file: &shards::ShardFile| {
            let disk = file.path.iter().rev().nth(3).unwrap().to_str().unwrap();
            (format!("disk{disk}"), file.index)
        };
        let of_stripe = on_disks.iter().filter(|file| file.stripe == id);
        assert_eq!(held(stripe), of_stripe.map(disk).collect(), "{stripe}");
        assert_eq!(stripe["survives_servers"], 2);
    }
    let holds: BTreeSet<&str> = stripes
        .iter()
        .flat_map(|stripe| stripe["holds"].as_array().unwrap())
        .map(|part| part.as_str().unwrap())
        .collect();
    assert_eq!(holds, BTreeSet::from(["contents", "pages", "record"]));
    let summary = ran.json_of("summary");
    let counts = (&summary["files"], &summary["bytes"], &summary["servers"], &summary["zones"]);
    assert_eq!(counts, (&json!(1), &json!(700_000), &json!(2), &json!(0)));
    assert_eq!(summary["last_read_whole_ms"], Value::Null);
    // Its stripes alone, and all of them: the whole snapshot needs every stripe of the vault.
    let whole = sandbox.arc(["--json", "explain", "latest:"]).exits(0);
    let ids = |lines: &[Value]| -> BTreeSet<String> {
        lines.iter().map(|line| line["stripe"].as_str().unwrap().to_owned()).collect()
    };
    let all: BTreeSet<String> = on_disks.into_iter().map(|file| file.stripe).collect();
    assert_eq!(ids(&whole.json_lines("stripe")), all);
    assert!(stripes.len() < all.len());
    // Another name of a file needs what the file needs.
    let of = |name: &str| {
        let path = format!("latest:{}", text(&tree.join(name)));
        ids(&sandbox.arc(["--json", "explain", &path]).exits(0).json_lines("stripe"))
    };
    assert_eq!(of("file 0"), of("link to 0"));
    sandbox.arc(["explain", text(&tree.join("nothing"))]).exits(14);
    sandbox.arc(["explain", "latest~7:/"]).exits(14);
}

#[test]
fn what_is_away_or_bad_is_not_counted_on() {
    let (sandbox, tree) = pushed();
    let explained = || sandbox.arc(["explain", text(&tree)]);
    let said = explained().exits(0).stdout();
    assert!(said.contains("survives the loss of any 2 servers, and of no whole zone\n"), "{said}");
    fs::rename(sandbox.path("vault/disks/2"), sandbox.path("away")).unwrap();
    let said = explained().exits(0).stdout();
    assert!(said.contains("survives the loss of any 1 server, and"), "{said}");
    assert!(said.contains("last read whole: not known\n"), "{said}");
    fs::rename(sandbox.path("away"), sandbox.path("vault/disks/2")).unwrap();
    let stripe = &data_stripes(&sandbox)[0];
    for (number, file) in stripe[..3].iter().enumerate() {
        fs::remove_file(&file.path).unwrap();
        let found = if number < 2 { 4 } else { 5 };
        sandbox.arc(["verify"]).exits(found);
        let said = explained();
        match number {
            0 => assert!(said.exits(0).stdout().contains("any 1 server")),
            1 => assert!(said.exits(0).stdout().contains("survives no loss of a server")),
            _ => assert!(said.exits(5).stdout().contains("is lost")),
        }
    }
    // A file that has nothing in that stripe is as safe as before.
    let is_safe = |n: u64| {
        let ran = sandbox.arc(["explain", text(&tree.join(format!("file {n}")))]);
        ran.code() == 0 && ran.stdout().contains("any 2 servers")
    };
    assert!((0..8).any(is_safe) && !(0..8).all(is_safe));
}

#[test]
fn servers_in_zones_of_their_own_are_as_safe_as_servers() {
    let mut fleet = Fleet::new("2+1", 3);
    fleet.until_up(3);
    write(fleet.source().join("file"), noise(1, 900_000));
    fleet.push(&[]).exits(0);
    let path = fleet.source().join("file");
    let ran = fleet.sandbox.arc(["--json", "explain", text(&path)]).exits(0);
    let survives = &ran.json_of("summary")["survives"];
    assert_eq!(survives, "survives the loss of any 1 server, or of any 1 zone");
    let zones = &ran.json_of("summary")["whole_zones"];
    assert_eq!(zones, &json!(["a", "b", "c"]));
    fleet.kill(0);
    fleet.until_up(2);
    let ran = fleet.sandbox.arc(["--json", "explain", text(&path)]).exits(0);
    assert_eq!(ran.json_of("summary")["survives"], "survives no loss of a server");
}

#[test]
fn too_few_servers_within_reach_are_no_loss() {
    let (sandbox, tree) = pushed();
    let files = shards::all(&sandbox);
    let disk = |file: &shards::ShardFile| -> u8 {
        file.path.iter().rev().nth(3).unwrap().to_str().unwrap().parse().unwrap()
    };
    // Of names and record there are three copies: one of each stays.
    let copies: Vec<_> = files
        .chunk_by(|a, b| a.stripe == b.stripe)
        .filter(|stripe| stripe.len() == 3)
        .map(|stripe| stripe.iter().map(disk).collect::<BTreeSet<u8>>())
        .collect();
    let threes = (0_u8..64).filter(|set| set.count_ones() == 3);
    let mut threes = threes.map(|set| (1..=6).filter(|n| set >> (n - 1) & 1 == 1).collect());
    let three: BTreeSet<u8> =
        threes.find(|three| copies.iter().all(|copies| !copies.is_subset(three))).unwrap();
    for number in three {
        let name = format!("vault/disks/{number}");
        fs::rename(sandbox.path(&name), sandbox.path(&format!("away{number}"))).unwrap();
    }
    let ran = sandbox.arc(["--json", "explain", text(&tree.join("file 3"))]).exits(7);
    let summary = ran.json_of("summary");
    assert_eq!((&summary["lost_stripes"], &summary["servers"]), (&json!(0), &Value::Null));
    assert_eq!(
        summary["survives"],
        "cannot be read just now: too few of its shards are within reach"
    );
}

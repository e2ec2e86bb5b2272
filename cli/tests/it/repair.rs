//! What is missing or damaged is made again, byte for byte, and nothing else is touched.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use serde_json::Value;

use crate::fleet::{Fleet, Setup, eventually};
use crate::sandbox::{Ran, Sandbox, text};
use crate::shards::{self, ShardFile};
use crate::source;
use crate::trees::{assert_same, noise, write};

fn fix(sandbox: &Sandbox, code: i32) -> Value {
    sandbox.arc(["--json", "repair-scan", "--fix"]).exits(code).json_of("summary")
}

fn verify(sandbox: &Sandbox) -> Ran {
    sandbox.arc(["--json", "verify"])
}

/// Nothing is lacking, and looking for it again does no work.
fn is_mended(sandbox: &Sandbox) {
    verify(sandbox).exits(0);
    let again = fix(sandbox, 0);
    assert_eq!((&again["needed"], &again["read_bytes"]), (&0.into(), &0.into()), "{again}");
}

/// All files and their contents.
fn contents(files: impl IntoIterator<Item = PathBuf>) -> BTreeMap<PathBuf, Vec<u8>> {
    files.into_iter().map(|path| (path.clone(), fs::read(path).unwrap())).collect()
}

/// A local vault with some stripes in it, and their shard files, stripe by stripe.
fn local(code: &str) -> (Sandbox, PathBuf, Vec<Vec<ShardFile>>) {
    let sandbox = Sandbox::with_vault(code);
    let tree = sandbox.path("tree");
    (0..6).for_each(|n| write(tree.join(format!("{n}")), noise(n, 900_000)));
    sandbox.arc(["push", text(&tree), "--pack-size", "1M"]).exits(0);
    let mut stripes: Vec<Vec<ShardFile>> = Vec::new();
    for file in shards::all(&sandbox) {
        match stripes.iter_mut().find(|files| files[0].stripe == file.stripe) {
            Some(files) => files.push(file),
            None => stripes.push(vec![file]),
        }
    }
    (sandbox, tree, stripes)
}

#[test]
fn i5_what_is_missing_or_damaged_comes_back_byte_for_byte_in_its_place() {
    let (sandbox, tree, stripes) = local("4+2");
    let all = || contents(shards::all(&sandbox).into_iter().map(|file| file.path));
    let before = all();
    for (number, stripe) in stripes.iter().enumerate() {
        let (a, b) = (&stripe[number % stripe.len()], &stripe[(number + 1) % stripe.len()]);
        fs::remove_file(&a.path).unwrap();
        match number % 3 {
            0 if stripe.len() > 3 => b.flip(b.header_bytes + 3, 1),
            1 if stripe.len() > 3 => b.flip(40, 2),
            _ => {}
        }
    }
    verify(&sandbox).exits(4);
    let scan = sandbox.arc(["--json", "repair-scan"]).exits(4);
    assert_eq!(scan.json_lines("deficit").len(), stripes.len());
    let margins: Vec<i64> =
        scan.json_lines("deficit").iter().map(|line| line["margin"].as_i64().unwrap()).collect();
    assert!(margins.is_sorted(), "the worst first: {margins:?}");
    let mended = fix(&sandbox, 0);
    assert_eq!((&mended["needed"], &mended["mended"]), (&stripes.len().into(), &mended["needed"]));
    assert_eq!(all(), before);
    is_mended(&sandbox);
    sandbox.pull(&tree, &sandbox.path("back")).exits(0);
    assert_same(&tree, &sandbox.path("back"));
}

#[test]
fn i16_a_damaged_block_costs_its_column_and_a_whole_vault_nothing() {
    let (sandbox, _, stripes) = local("2+1");
    is_mended(&sandbox);
    let hurt = &stripes[0][1];
    hurt.flip(hurt.header_bytes + 70_000, 5);
    verify(&sandbox).exits(4);
    let mended = fix(&sandbox, 0);
    let read = mended["read_bytes"].as_u64().unwrap();
    let headers = 2 * hurt.header_bytes;
    assert!(read < headers + hurt.body_bytes, "{read} of 2 x {} bytes", hurt.body_bytes);
    is_mended(&sandbox);
}

#[test]
fn a_stripe_that_is_lost_is_named_and_holds_up_no_other() {
    let (sandbox, _, stripes) = local("4+2");
    stripes[0][..3].iter().for_each(|file| fs::remove_file(&file.path).unwrap());
    stripes[1..3].iter().for_each(|stripe| fs::remove_file(&stripe[0].path).unwrap());
    verify(&sandbox).exits(5);
    let ran = sandbox.arc(["--json", "repair-scan", "--fix"]).exits(5);
    let summary = ran.json_of("summary");
    let counts = ["needed", "mended", "lacking", "lost"].map(|name| summary[name].as_u64());
    assert_eq!(counts, [Some(3), Some(2), Some(1), Some(1)], "{summary}");
    let warning = ran.json_of("warning").to_string();
    assert!(warning.contains(stripes[0][0].short()), "{warning}");
}

#[test]
fn shards_of_a_server_that_lost_its_files_go_back_there_and_i3_nothing_else_changes() {
    let fleet = Fleet::new("4+2", 7);
    source::make(&fleet.source(), 51, 24);
    fleet.push(&[]).exits(0);
    let all = || contents(fleet.shards().into_iter().map(|file| file.path));
    let before = all();
    let gone: Vec<_> = fleet.shards().into_iter().filter(|file| file.server == 2).collect();
    assert!(!gone.is_empty());
    gone.iter().for_each(|file| fs::remove_file(&file.path).unwrap());
    verify(&fleet.sandbox).exits(4);
    let mended = fix(&fleet.sandbox, 0);
    assert_eq!(mended["shards"], gone.len());
    assert_eq!(all(), before);
    is_mended(&fleet.sandbox);
    fleet.pull_exact("latest");
}

#[test]
fn i4_a_server_that_is_away_is_waited_for_and_nothing_is_moved() {
    let mut fleet = Fleet::new("4+2", 7);
    source::make(&fleet.source(), 52, 8);
    fleet.push(&[]).exits(0);
    let before = fleet.stored_bytes();
    let holder = fleet.shards()[0].server;
    fleet.kill(holder);
    let ran = fleet.sandbox.arc(["--json", "repair-scan", "--fix"]);
    let summary = ran.json_of("summary");
    assert!([0, 7].contains(&ran.code()), "not missed yet, or waited for: {summary}");
    assert_eq!((&summary["needed"], &summary["read_bytes"]), (&0.into(), &0.into()));
    assert_eq!(fleet.stored_bytes(), before);
}

#[test]
fn a_server_that_does_not_answer_makes_nothing_lost() {
    let mut fleet = Fleet::new("4+2", 6);
    source::make(&fleet.source(), 54, 8);
    fleet.push(&[]).exits(0);
    let shards = fleet.shards();
    let wide = shards.iter().find(|file| file.index == 5).unwrap().stripe.clone();
    let of_stripe = |index: u8| {
        shards
            .iter()
            .find(|file| file.stripe == wide && file.index.to_string() == index.to_string())
    };
    let [a, b, c] = [0, 1, 2].map(|index| of_stripe(index).unwrap());
    [a, b].into_iter().for_each(|file| fs::remove_file(&file.path).unwrap());
    verify(&fleet.sandbox).exits(4);
    // Three are left of four that are needed, and the fourth is only away.
    fleet.kill(c.server);
    let summary = fix(&fleet.sandbox, 7);
    assert_eq!((&summary["lost"], &summary["lacking"]), (&0.into(), &1.into()), "{summary}");
    fleet.revive(c.server);
    fleet.until_up(6);
    fix(&fleet.sandbox, 0);
    is_mended(&fleet.sandbox);
}

#[test]
fn what_a_lost_server_held_is_made_again_on_a_spare() {
    let short = ["--down-after=300ms", "--grace=300ms"];
    let mut fleet =
        Fleet::of(Setup { code: "4+2", servers: 7, coordinator: &short, ..Setup::default() });
    source::make(&fleet.source(), 53, 24);
    fleet.push(&[]).exits(0);
    let lost = fleet.shards()[0].server;
    fleet.kill(lost);
    fs::remove_dir_all(fleet.server_folder(lost).join("shards")).unwrap();
    eventually("the server is lost", || {
        let rows = fleet.sandbox.arc(["--json", "servers"]).exits(0).json_of("summary");
        rows["servers"][lost]["state"] == "lost"
    });
    let mended = fix(&fleet.sandbox, 0);
    assert!(mended["needed"].as_u64().unwrap() > 0, "{mended}");
    assert_eq!(mended["mended"], mended["needed"]);
    let again = fix(&fleet.sandbox, 0);
    assert_eq!((&again["needed"], &again["waiting"]), (&0.into(), &0.into()), "{again}");
    // Any two more may go.
    let others: Vec<usize> = (0..7).filter(|&number| number != lost).take(2).collect();
    others.into_iter().for_each(|number| fleet.kill(number));
    fleet.pull_exact("latest");
}

/// A fleet of 4+2 one of whose servers is lost, with shards of stripes of six.
fn lost_fleet(servers: usize) -> (Fleet, usize) {
    let short = ["--down-after=300ms", "--grace=300ms"];
    let mut fleet =
        Fleet::of(Setup { code: "4+2", servers, coordinator: &short, ..Setup::default() });
    source::make(&fleet.source(), 55, 12);
    fleet.push(&[]).exits(0);
    let lost = fleet.shards().into_iter().find(|file| file.index == 5).unwrap().server;
    fleet.kill(lost);
    eventually("the server is lost", || {
        let rows = fleet.sandbox.arc(["--json", "servers"]).exits(0).json_of("summary");
        rows["servers"][lost]["state"] == "lost"
    });
    (fleet, lost)
}

#[test]
fn a_lost_server_that_nothing_lacks_for_is_no_reason_for_7() {
    let (fleet, _) = lost_fleet(7);
    verify(&fleet.sandbox).exits(7);
    fix(&fleet.sandbox, 0);
    // It is in the fleet still, and its shards are in the map.
    let verified = verify(&fleet.sandbox).exits(0).json_of("summary");
    assert_eq!(verified["unreachable_servers"], serde_json::json!([]), "{verified}");
}

#[test]
fn a_lost_server_that_stripes_lack_for_is_a_reason_for_7() {
    let (fleet, _) = lost_fleet(6);
    fix(&fleet.sandbox, 4);
    verify(&fleet.sandbox).exits(7);
}

#[test]
fn a_fix_is_noted_in_the_ledger_with_counts_that_add_up_and_explained() {
    let fleet = Fleet::new("4+2", 6);
    source::make(&fleet.source(), 56, 24);
    fleet.push(&[]).exits(0);
    let shards = fleet.shards();
    let mut stripes: Vec<&str> =
        shards.iter().filter(|f| f.index == 5).map(|f| f.stripe.as_str()).collect();
    stripes.sort_unstable();
    assert!(stripes.len() > 4, "{stripes:?}");
    let hopeless = &stripes[..2];
    for file in shards.iter().filter(|file| stripes.contains(&file.stripe.as_str())) {
        let is_hopeless = hopeless.contains(&file.stripe.as_str());
        if file.index == 1 || is_hopeless && file.index < 3 {
            fs::remove_file(&file.path).unwrap();
        }
    }
    let why = |stripe: &str| fleet.sandbox.arc(["--json", "repair-scan", "--why", stripe]);
    assert_eq!(why(stripes[0]).exits(0).json_of("summary")["entry"], Value::Null);
    verify(&fleet.sandbox).exits(5);
    let ran = fleet.sandbox.arc(["--json", "repair-scan", "--fix"]).exits(5);
    let margins: Vec<i64> = ran
        .json_lines("deficit")
        .iter()
        .map(|line| line["worst_zone_margin"].as_i64().unwrap())
        .collect();
    assert!(margins.is_sorted() && margins.len() == stripes.len(), "{margins:?}");
    let summary = ran.json_of("summary");
    let counts = ["needed", "mended", "failed", "unknown", "lost"].map(|n| summary[n].as_u64());
    let needed = stripes.len() as u64;
    assert_eq!(counts, [needed, needed - 2, 2, 0, 2].map(Some), "{summary}");
    // The ledger has them too, and only them.
    let ledger = fleet.sandbox.arc(["--json", "repair"]).exits(4);
    let rows: Vec<String> = ledger
        .json_lines("stripe")
        .iter()
        .map(|row| row["stripe"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(rows.len(), 2, "{rows:?}");
    for stripe in hopeless {
        assert!(rows.iter().any(|row| row == stripe), "{rows:?}");
        let told = why(&stripe[..12]).exits(0).json_of("summary");
        assert_eq!(
            (&told["entry"]["state"], &told["entry"]["attempts"]),
            (&"failed".into(), &1.into())
        );
        assert_eq!((&told["margin"], &told["worst_zone_margin"]), (&(-1).into(), &(-2).into()));
        assert_eq!((told["shards"].as_array().unwrap().len(), &told["of"]), (6, &2.into()));
        let said = fleet.sandbox.arc(["repair-scan", "--why", stripe]).exits(0).stdout();
        assert!(said.contains("margin -1, -2 without its worst zone"), "{said}");
        assert!(said.contains("shard 1: missing or damaged, on "), "{said}");
    }
    // What backs off is tried again when a person asks.
    fix(&fleet.sandbox, 5);
    assert_eq!(why(hopeless[0]).exits(0).json_of("summary")["entry"]["attempts"], 2);
    fleet.sandbox.arc(["repair-scan", "--why", "x"]).exits(2);
    let unknown = "f".repeat(64);
    fleet.sandbox.arc(["repair-scan", "--why", &unknown]).exits(14);
}

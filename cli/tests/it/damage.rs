//! Damaged and missing shards: what a pull makes of them, and what verify says.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use codec::digest::BLOCK_BYTES;
use rusqlite::Connection;
use serde_json::{Value, json};

use crate::sandbox::{Ran, Sandbox, text};
use crate::shards::{self, ShardFile, data_stripes};
use crate::trees::{assert_no_parts, assert_same, differences, names, noise, write};

/// A tree in several data stripes.
fn pushed(code: &str) -> (Sandbox, PathBuf) {
    let sandbox = Sandbox::with_vault(code);
    let tree = sandbox.path("tree");
    for n in 0..16 {
        write(tree.join(format!("file {n}")), noise(n + 1, 700_000));
    }
    fs::hard_link(tree.join("file 0"), tree.join("link to 0")).unwrap();
    sandbox.arc(["push", text(&tree), "--pack-size", "1M"]).exits(0);
    (sandbox, tree)
}

fn verify(sandbox: &Sandbox, level: &str) -> Ran {
    sandbox.arc(["--json", "verify", "--level", level])
}

/// The shards that a verify named: stripe and index.
fn named(ran: &Ran) -> BTreeSet<(String, u64)> {
    ran.json_lines("damage").iter().map(id).collect()
}

fn id(line: &Value) -> (String, u64) {
    (line["stripe"].as_str().unwrap().into(), line["index"].as_u64().unwrap())
}

fn ids<'a>(files: impl IntoIterator<Item = &'a ShardFile>) -> BTreeSet<(String, u64)> {
    files.into_iter().map(|file| (file.stripe.clone(), file.index)).collect()
}

/// The ways in which a shard file goes wrong.
const DAMAGES: [fn(&ShardFile); 7] = [
    |file| fs::remove_file(&file.path).unwrap(),
    |file| file.change(Vec::clear),
    |file| file.change(|bytes| bytes.truncate(bytes.len() / 2)),
    |file| file.flip(20, 3),
    |file| file.flip(file.header_bytes + file.body_bytes / 2, 0),
    |file| file.change(|bytes| bytes[4096..].fill(0)),
    |file| file.change(|bytes| *bytes = noise(1, bytes.len())),
];

/// The one of them that is in the header alone.
const HEADER: usize = 3;

#[test]
fn i7_up_to_m_damaged_shards_are_got_around_and_told_once() {
    let (sandbox, tree) = pushed("2+1");
    let stripes = data_stripes(&sandbox);
    assert!(stripes.len() >= DAMAGES.len(), "{} stripes", stripes.len());
    // The shard that is read first, in each stripe another way.
    let hurt: Vec<_> =
        stripes.iter().zip(DAMAGES).map(|(stripe, damage)| (&stripe[0], damage)).collect();
    hurt.iter().for_each(|(file, damage)| damage(file));
    let back = sandbox.path("back");
    let source = format!("latest:{}", text(&tree));
    let ran = sandbox.arc(["--json", "pull", &source, "--to", text(&back)]).exits(0);
    assert_same(&tree, &back);
    assert_no_parts(&back);
    let healed = ran.json_lines("heal");
    assert_eq!(healed.len(), hurt.len() - 1, "each is told, and once: {healed:?}");
    let mut met: BTreeSet<_> = healed.iter().map(id).collect();
    assert_eq!(ran.json_of("exit")["codes"], json!([]));
    // A pull that finds sealed bytes sound has no need of the header; verify has.
    assert!(met.insert((hurt[HEADER].0.stripe.clone(), 0)));
    let hurt = ids(hurt.into_iter().map(|(file, _)| file));
    assert_eq!(met, hurt);
    assert_eq!(named(&verify(&sandbox, "shards").exits(4)), hurt);
}

/// The same in one stripe, for what is done often.
fn small(code: &str) -> (Sandbox, PathBuf) {
    let sandbox = Sandbox::with_vault(code);
    let tree = sandbox.path("tree");
    write(tree.join("a"), noise(1, 300_000));
    write(tree.join("b"), noise(2, 300_000));
    sandbox.arc(["push", text(&tree)]).exits(0);
    (sandbox, tree)
}

#[test]
fn what_is_healed_is_told_to_people_and_to_the_next_push() {
    let (sandbox, tree) = small("2+1");
    let stripe = first_stripe(&sandbox);
    stripe[0].flip(stripe[0].header_bytes + 10, 1);
    let said = sandbox.pull(&tree, &sandbox.path("back")).exits(0).stderr();
    let told = format!("stripe {} shard {} on disk", stripe[0].short(), stripe[0].index);
    assert_eq!(said.matches(&told).count(), 1, "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    let status = sandbox.arc(["--json", "status"]).exits(7).json_of("summary");
    assert_eq!(status["well"], false);
    let pushed = sandbox.arc(["--json", "push", text(&tree)]).exits(7).json_of("summary");
    assert_eq!(pushed["stripes_below_target"], 1, "{pushed}");
}

fn first_stripe(sandbox: &Sandbox) -> Vec<ShardFile> {
    let files = shards::all(sandbox);
    let stripe = files[0].stripe.clone();
    files.into_iter().filter(|file| file.stripe == stripe).collect()
}

/// Pulls over an older tree; the files that are said to be lost.
fn pull_the_rest(sandbox: &Sandbox, tree: &Path, back: &Path) -> BTreeSet<PathBuf> {
    let source = format!("latest:{}", text(tree));
    let words = ["--json", "pull", &source, "--to", text(back), "--overwrite", "always"];
    let ran = sandbox.arc(words).exits(5);
    assert_eq!(ran.json_of("exit")["codes"], json!([5]));
    let lost: BTreeSet<PathBuf> = ran
        .json_lines("warning")
        .iter()
        .map(|warning| {
            assert!(warning["what"].as_str().unwrap().starts_with("not restored"), "{warning}");
            warning["path"].as_str().unwrap().into()
        })
        .collect();
    assert_eq!(ran.json_of("summary")["lost"], lost.len());
    lost
}

#[test]
fn i7_more_than_m_damaged_shards_cost_their_files_and_no_other() {
    let damages: [fn(&ShardFile); 3] = [
        |file| fs::remove_file(&file.path).unwrap(),
        |file| file.change(|bytes| bytes.truncate(5_000)),
        // In every block.
        |file| {
            let body = file.header_bytes as usize..(file.header_bytes + file.body_bytes) as usize;
            file.change(|bytes| bytes[body].iter_mut().step_by(60_000).for_each(|byte| *byte ^= 1));
        },
    ];
    let (sandbox, tree) = pushed("2+1");
    let stripes = data_stripes(&sandbox);
    assert!(stripes.len() > damages.len() + 2, "{} stripes", stripes.len());
    let hurt: Vec<&ShardFile> = stripes[..3].iter().flat_map(|stripe| &stripe[1..]).collect();
    for (stripe, damage) in stripes.iter().zip(damages) {
        stripe[1..].iter().for_each(damage);
    }
    let back = sandbox.path("back");
    let lost = pull_the_rest(&sandbox, &tree, &back);
    assert!(lost.len() >= 3 && lost.len() < 14, "{lost:?}");
    let missing: BTreeSet<PathBuf> =
        names(&tree).into_iter().filter(|name| !back.join(name).exists()).collect();
    assert_eq!(lost, missing);
    let others: Vec<_> = differences(&tree, &back)
        .into_iter()
        .filter(|difference| !difference.ends_with(": only in the first"))
        .collect();
    assert_eq!(others, Vec::<String>::new());
    assert_no_parts(&back);

    let ran = verify(&sandbox, "shards").exits(5);
    assert_eq!(named(&ran), ids(hurt));
    let of_verify: BTreeSet<PathBuf> = ran
        .json_lines("warning")
        .iter()
        .filter_map(|warning| warning["path"].as_str())
        .map(|path| Path::new(path).strip_prefix(&tree).unwrap().to_owned())
        .collect();
    assert_eq!(of_verify, lost);
}

#[test]
fn i7_more_than_m_shards_damaged_in_different_blocks_cost_nothing() {
    let (sandbox, tree) = pushed("4+2");
    let stripe = &data_stripes(&sandbox)[0];
    for (number, file) in stripe[..4].iter().enumerate() {
        let byte = (number * BLOCK_BYTES + 7) as u64;
        assert!(byte < file.body_bytes);
        file.flip(file.header_bytes + byte, 0);
    }
    let back = sandbox.path("back");
    sandbox.pull(&tree, &back).exits(0);
    assert_same(&tree, &back);
    for level in ["shards", "data"] {
        let ran = verify(&sandbox, level).exits(4);
        assert_eq!(named(&ran), ids(&stripe[..4]), "{level}");
    }
    // One block of three shards: that is one too many.
    stripe[1].flip(stripe[1].header_bytes, 0);
    stripe[5].flip(stripe[5].header_bytes, 0);
    verify(&sandbox, "shards").exits(5);
    pull_the_rest(&sandbox, &tree, &back);
}

/// Pulls the whole newest snapshot, or gets it out of the disks; the files of `tree` that are said
/// to be lost. All others are exact.
fn all_but(sandbox: &Sandbox, tree: &Path, through: &str) -> BTreeSet<PathBuf> {
    let to = sandbox.path(through);
    let disks: Vec<PathBuf> =
        (1..=6).map(|disk| sandbox.path(&format!("vault/disks/{disk}"))).collect();
    let mut words = vec!["--json", through];
    match through {
        "pull" => words.push("latest"),
        _ => words.extend(disks.iter().map(|disk| text(disk)).chain(["--snapshot", "latest"])),
    }
    let ran = sandbox.arc(words.into_iter().chain(["--to", text(&to)])).exits(5);
    let below = tree.strip_prefix("/").unwrap();
    let lost: BTreeSet<PathBuf> = ran
        .json_lines("warning")
        .iter()
        .map(|warning| Path::new(warning["path"].as_str().unwrap()))
        .map(|path| path.strip_prefix("/").unwrap_or(path).strip_prefix(below).unwrap().to_owned())
        .collect();
    for name in names(tree).into_iter().filter(|name| tree.join(name).is_file()) {
        let came = fs::read(to.join(below).join(&name)).ok();
        let is_lost = lost.contains(&name);
        assert_eq!(came.is_none(), is_lost, "{} through {through}", name.display());
        assert!(is_lost || came == fs::read(tree.join(&name)).ok(), "{}", name.display());
    }
    assert_no_parts(&to);
    lost
}

/// A tree of files of 40,000 bytes in one stripe of ten blocks and more to a shard.
fn one_stripe() -> (Sandbox, PathBuf, Vec<ShardFile>) {
    let sandbox = Sandbox::with_vault("4+2");
    let tree = sandbox.path("tree");
    for n in 0..100 {
        write(tree.join(format!("file {n:02}")), noise(n + 1, 40_000));
    }
    sandbox.arc(["push", text(&tree)]).exits(0);
    let mut files = shards::all(&sandbox);
    files.retain(|file| file.body_bytes > 10 * BLOCK_BYTES as u64);
    assert_eq!(files.len(), 6, "the shards of one stripe");
    (sandbox, tree, files)
}

#[test]
fn i7_what_lies_in_sound_shards_of_a_lost_stripe_comes() {
    let (sandbox, tree, stripe) = one_stripe();
    for index in [0, 1, 4] {
        fs::remove_file(&stripe[index].path).unwrap();
    }
    let pulled = all_but(&sandbox, &tree, "pull");
    // A frame has about 26 of these files, and two of four shards are sound.
    assert!((40..=80).contains(&pulled.len()), "{pulled:?}");
    assert_eq!(all_but(&sandbox, &tree, "rescue"), pulled);
}

#[test]
fn i7_a_row_of_blocks_that_is_lost_costs_its_files_and_no_other() {
    let (sandbox, tree, stripe) = one_stripe();
    let byte = 5 * BLOCK_BYTES as u64 + 7;
    [0, 1, 4].iter().for_each(|&index| stripe[index].flip(stripe[index].header_bytes + byte, 0));
    let rescued = all_but(&sandbox, &tree, "rescue");
    // The two frames that have these blocks.
    assert!((20..=60).contains(&rescued.len()), "{rescued:?}");
    // From here on all of the three are in doubt.
    verify(&sandbox, "shards").exits(5);
    assert_eq!(all_but(&sandbox, &tree, "pull"), rescued);
}

#[test]
fn names_of_a_lost_file_are_not_linked_to_what_stood_there_before() {
    let (sandbox, tree) = pushed("2+1");
    // Two are on their way at once: "file 0" is in one of the first two.
    for stripe in &data_stripes(&sandbox)[..2] {
        stripe[..2].iter().for_each(|file| fs::remove_file(&file.path).unwrap());
    }
    let back = sandbox.path("back");
    write(back.join("file 0"), "older");
    let lost = pull_the_rest(&sandbox, &tree, &back);
    assert!(
        lost.contains(Path::new("file 0")) && lost.contains(Path::new("link to 0")),
        "{lost:?}"
    );
    assert_eq!(fs::read(back.join("file 0")).unwrap(), b"older");
    assert!(!back.join("link to 0").exists());
}

#[test]
fn rows_of_the_catalog_that_name_another_stripe_cost_their_files_and_are_found() {
    let (sandbox, tree) = pushed("2+1");
    let catalog = Connection::open(sandbox.path("vault/coordinator/catalog.db")).unwrap();
    let wrong = "WITH first AS (SELECT min(stripe) AS key FROM chunks)
        UPDATE chunks SET stripe = (SELECT min(stripe) FROM chunks, first WHERE stripe > key)
        WHERE stripe = (SELECT key FROM first)";
    assert!(catalog.execute(wrong, []).unwrap() > 0);
    drop(catalog);
    let back = sandbox.path("back");
    let lost = pull_the_rest(&sandbox, &tree, &back);
    assert!(!lost.is_empty() && lost.len() < 4, "{lost:?}");
    assert!(lost.iter().all(|name| !back.join(name).exists()));
    verify(&sandbox, "shards").exits(0);
    let of_verify = verify(&sandbox, "data").exits(5).json_of("summary");
    assert_eq!(of_verify["lost_stripes"], 1, "{of_verify}");
}

#[test]
fn a_push_sends_again_what_the_vault_has_lost() {
    let (sandbox, tree) = pushed("2+1");
    for file in &data_stripes(&sandbox)[0][..2] {
        fs::remove_file(&file.path).unwrap();
    }
    verify(&sandbox, "shards").exits(5);
    let again = sandbox.arc(["--json", "push", text(&tree)]).exits(7).json_of("summary");
    assert!(again["stats"]["bytes_new"].as_u64().unwrap() >= 700_000, "{again}");
    sandbox.pull(&tree, &sandbox.path("back")).exits(0);
    assert_same(&tree, &sandbox.path("back"));
}

#[test]
fn i16_verify_of_a_healthy_vault_reports_nothing() {
    let (sandbox, tree) = pushed("4+2");
    sandbox.arc(["push", text(&tree)]).exits(0);
    let shards = shards::all(&sandbox).len();
    for level in ["map", "shards", "data"] {
        for snapshot in [None, Some("latest")] {
            let args = ["--json", "verify", "--level", level].into_iter().chain(snapshot);
            let ran = sandbox.arc(args).exits(0);
            let types: Vec<Value> =
                ran.json().into_iter().map(|line| line["type"].clone()).collect();
            assert_eq!(types, ["start", "summary", "exit"], "{level}");
            let summary = ran.json_of("summary");
            for count in ["bad_shards", "below_target", "lost_stripes", "lost_files"] {
                assert_eq!(summary[count], 0, "{count} of {level}");
            }
            assert_eq!(summary["margin_min"], 2);
            if snapshot.is_none() {
                assert_eq!(summary["shards"], shards);
            }
        }
        let said = sandbox.arc(["verify", "--level", level]).exits(0);
        assert_eq!(said.stderr(), "");
        assert!(
            said.stdout().contains("survives the loss of any 2 more servers"),
            "{}",
            said.stdout()
        );
    }
}

#[test]
fn a_missing_disk_is_7_at_every_level() {
    let (sandbox, _) = small("2+1");
    fs::rename(sandbox.path("vault/disks/2"), sandbox.path("away")).unwrap();
    for level in ["map", "shards", "data"] {
        let ran = verify(&sandbox, level).exits(7);
        assert_eq!(ran.json_of("summary")["unreachable_servers"], json!(["disk2"]), "{level}");
        assert_eq!(named(&ran), BTreeSet::new(), "away is not gone");
    }
    fs::rename(sandbox.path("away"), sandbox.path("vault/disks/2")).unwrap();
    verify(&sandbox, "data").exits(0);
}

#[test]
fn a_missing_shard_is_found_at_every_level_and_a_damaged_one_where_it_is_read() {
    let (sandbox, _) = small("2+1");
    let stripe = first_stripe(&sandbox);
    fs::rename(&stripe[1].path, sandbox.path("aside")).unwrap();
    for level in ["map", "shards", "data"] {
        let ran = verify(&sandbox, level).exits(4);
        assert_eq!(named(&ran), ids(&stripe[1..2]), "{level}");
        assert_eq!(ran.json_of("summary")["margin_min"], 0, "{level}");
    }
    fs::rename(sandbox.path("aside"), &stripe[1].path).unwrap();
    verify(&sandbox, "shards").exits(0);
    stripe[2].flip(stripe[2].header_bytes + 1, 0);
    verify(&sandbox, "map").exits(0);
    for level in ["shards", "data"] {
        assert_eq!(named(&verify(&sandbox, level).exits(4)), ids(&stripe[2..3]), "{level}");
    }
}

#[test]
fn damage_that_was_found_is_not_forgotten_by_a_look_at_the_map() {
    let (sandbox, tree) = small("2+1");
    let stripe = first_stripe(&sandbox);
    let hurt = &stripe[..2];
    hurt.iter().for_each(|file| file.flip(file.header_bytes + 1, 0));
    verify(&sandbox, "shards").exits(5);
    for _ in 0..2 {
        let ran = verify(&sandbox, "map").exits(5);
        assert_eq!(named(&ran), ids(hurt));
        let what = ran.json_lines("damage")[0]["what"].to_string();
        assert!(what.contains("not read since"), "{what}");
    }
    let pushed = sandbox.arc(["--json", "push", text(&tree)]).exits(7).json_of("summary");
    assert!(pushed["stats"]["bytes_new"].as_u64().unwrap() >= 600_000, "{pushed}");
    // What is whole again was read.
    hurt.iter().for_each(|file| file.flip(file.header_bytes + 1, 0));
    verify(&sandbox, "shards").exits(0);
    verify(&sandbox, "map").exits(0);
}

#[test]
fn i8_any_flipped_bit_is_found_by_verify() {
    let (sandbox, _) = pushed("2+1");
    let files = shards::all(&sandbox);
    let mut seed = 20_260_701_u64;
    let mut random = |bound: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % bound
    };
    // One bit in each of all shards at once: in the header with its table, the body, the footer,
    // and anywhere.
    for region in 0..4 {
        let flipped: Vec<(u64, u32)> = files
            .iter()
            .map(|file| {
                let all = file.path.metadata().unwrap().len();
                let body = file.header_bytes..file.header_bytes + file.body_bytes;
                let byte = match region {
                    0 => random(body.start),
                    1 => body.start + random(file.body_bytes),
                    2 => body.end + random(all - body.end),
                    _ => random(all),
                };
                let bit = random(8) as u32;
                file.flip(byte, bit);
                (byte, bit)
            })
            .collect();
        let ran = verify(&sandbox, "shards");
        // Where the bits lie in blocks of their own, or in no block at all, nothing is lost.
        assert!([4, 5].contains(&ran.code()), "{}", ran.stdout());
        let found = named(&ran);
        for (file, (byte, bit)) in files.iter().zip(&flipped) {
            let id = (file.stripe.clone(), file.index);
            assert!(
                found.contains(&id),
                "bit {bit} of byte {byte} of {} was missed",
                file.path.display()
            );
        }
        for (file, (byte, bit)) in files.iter().zip(flipped) {
            file.flip(byte, bit);
        }
    }
    verify(&sandbox, "shards").exits(0);
}

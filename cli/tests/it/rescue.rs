//! Files out of bare shard folders, with nothing else but the passphrase.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, symlink};
use std::path::{Path, PathBuf};

use codec::digest::BLOCK_BYTES;
use codec::shard::Kind;
use serde_json::{Value, json};

use crate::fleet::Fleet;
use crate::sandbox::{Ran, Sandbox, text};
use crate::shards::{self, ShardFile};
use crate::trees::{assert_no_parts, assert_same, differences, names, noise, set_mtime, write};

/// A tree of all kinds of names in a vault 4+2 of several stripes.
fn pushed() -> (Sandbox, PathBuf) {
    let sandbox = Sandbox::of_passphrase().vault("4+2");
    let tree = sandbox.path("tree");
    for n in 0..12 {
        write(tree.join(format!("file {n}")), noise(n + 1, 700_000));
    }
    write(tree.join("of many chunks"), noise(99, 6 << 20));
    write(tree.join(OsStr::from_bytes(b"\xff not UTF-8/new\nline")), "odd");
    write(tree.join("empty"), "");
    fs::create_dir(tree.join("empty folder")).unwrap();
    fs::hard_link(tree.join("file 0"), tree.join("link to 0")).unwrap();
    symlink("nowhere", tree.join("dangling")).unwrap();
    let sparse = File::create(tree.join("sparse")).unwrap();
    sparse.set_len(8 << 20).unwrap();
    sparse.write_all_at(&noise(5, 100_000), 3 << 20).unwrap();
    set_mtime(&tree.join("file 1"), 1_234_567_890, 123_456_789);
    // xattrs where the file system has them.
    let _ = xattr::set(tree.join("file 2"), "user.name", b"value");
    sandbox.arc(["push", text(&tree), "--pack-size", "1M"]).exits(0);
    (sandbox, tree)
}

/// Nothing is left but the disks with these numbers; their folders.
fn left(sandbox: &Sandbox, disks: impl IntoIterator<Item = u8>) -> Vec<PathBuf> {
    let keep = sandbox.path("left");
    fs::create_dir_all(&keep).unwrap();
    let keep = |disk: u8| {
        let to = keep.join(disk.to_string());
        fs::rename(sandbox.path(&format!("vault/disks/{disk}")), &to).unwrap();
        to
    };
    let dirs = disks.into_iter().map(keep).collect();
    fs::remove_dir_all(sandbox.path("vault")).unwrap();
    fs::remove_dir_all(sandbox.path("config")).unwrap();
    dirs
}

fn rescue<'a>(
    sandbox: &Sandbox,
    dirs: &'a [PathBuf],
    more: impl IntoIterator<Item = &'a str>,
) -> Ran {
    let mut line = vec!["--json", "rescue"];
    line.extend(dirs.iter().map(|dir| text(dir)));
    line.extend(more);
    sandbox.arc(line)
}

/// Rescues what `tree` is in the newest snapshot.
fn rescue_tree(sandbox: &Sandbox, dirs: &[PathBuf], tree: &Path, more: &[&str]) -> Ran {
    let snapshot = format!("latest:{}", text(tree));
    let words = ["--to", "out", "--snapshot", &snapshot].into_iter().chain(more.iter().copied());
    rescue(sandbox, dirs, words)
}

/// Every name below some folders, with what a change of it changes.
fn state(dirs: &[PathBuf]) -> Vec<(PathBuf, i64, i64, u64)> {
    let of = |path: PathBuf| {
        let stat = path.symlink_metadata().unwrap();
        (path, stat.ctime(), stat.ctime_nsec(), stat.len())
    };
    let below =
        |dir: &PathBuf| names(dir).into_iter().map(|name| dir.join(name)).collect::<Vec<_>>();
    let mut all: Vec<_> = dirs.iter().flat_map(below).map(of).collect();
    all.sort();
    all
}

#[test]
fn i11_any_k_disks_give_every_snapshot_back() {
    let (sandbox, tree) = pushed();
    write(tree.join("later"), "of the second push");
    sandbox.arc(["push", text(&tree), "--pack-size", "1M"]).exits(0);
    let dirs = left(&sandbox, [1, 3, 4, 6]);
    let before = state(&dirs);
    let listed = rescue(&sandbox, &dirs, ["--list"]).exits(0);
    let listed: Vec<Value> = listed.json_lines("snapshot");
    assert_eq!(listed.len(), 2);
    assert_eq!(listed[0]["parent"], listed[1]["snapshot"], "the newest comes first");
    let ran = rescue(&sandbox, &dirs, ["--to", "out"]).exits(0);
    assert_eq!(state(&dirs), before, "the folders are only read");
    let summary = ran.json_of("summary");
    assert_eq!((&summary["restored"], &summary["lost"]), (&json!(2), &json!(0)), "{summary}");
    assert_eq!(summary["damaged_shards"], 0);
    let restored = ran.json_lines("restored");
    let of = |number: usize| {
        let folder = restored[number]["to"].as_str().unwrap();
        let id = listed[number]["snapshot"].as_str().unwrap();
        assert!(folder.starts_with(&format!("out/{}-2", &id[..8])), "{folder}");
        sandbox.path(folder).join(tree.strip_prefix("/").unwrap())
    };
    assert_same(&tree, &of(0));
    let missing: Vec<String> = differences(&of(0), &of(1))
        .into_iter()
        .filter(|difference| difference != ": mtime")
        .collect();
    assert_eq!(missing, ["later: only in the first"]);
    assert!(sandbox.path("out").join(of(0)).join("sparse").metadata().unwrap().blocks() < 4096);
    assert_no_parts(&sandbox.path("out"));
}

#[test]
fn copies_of_the_shards_alone_do_with_the_record() {
    let (sandbox, tree) = pushed();
    let dirs = left(&sandbox, [2, 3, 5, 6]);
    fs::rename(dirs[0].join("vault.record"), sandbox.path("record")).unwrap();
    // One folder as it was, one renamed, one without its inner folders, all in one place.
    let copies = sandbox.path("copies");
    fs::create_dir_all(copies.join("flat")).unwrap();
    fs::rename(dirs[0].join("shards"), copies.join("shards")).unwrap();
    fs::rename(dirs[1].join("shards"), copies.join("some disk")).unwrap();
    for (number, file) in below(&dirs[2].join("shards")).into_iter().enumerate() {
        fs::rename(file, copies.join(format!("flat/file{number}"))).unwrap();
    }
    fs::rename(dirs[3].join("shards"), copies.join("d")).unwrap();
    let dirs = [copies];
    let ran = rescue_tree(&sandbox, &dirs, &tree, &[]).exits(10);
    assert!(ran.stdout().contains("there is no vault record"), "{}", ran.stdout());
    rescue_tree(&sandbox, &dirs, &tree, &["--record", "record"]).exits(0);
    assert_same(&tree, &sandbox.path("out"));
}

fn below(root: &Path) -> Vec<PathBuf> {
    let paths = names(root).into_iter().map(|name| root.join(name));
    paths.filter(|path| path.is_file()).collect()
}

#[test]
fn i8_a_flipped_bit_in_every_shard_costs_nothing() {
    let (sandbox, tree) = pushed();
    let stripes = stripes(&sandbox);
    let block = |file: &ShardFile, number: u64| {
        let blocks = file.body_bytes.div_ceil(BLOCK_BYTES as u64);
        file.header_bytes + (number % blocks) * BLOCK_BYTES as u64 + 9
    };
    for stripe in &stripes {
        for (number, file) in (0_u64..).zip(stripe) {
            match number {
                // What is shared, the table, and the padding of the header.
                0 => file.flip(70, 1),
                1 => file.flip(64 + 32 + 64 + 32 * stripe.len() as u64, 1),
                3 => file.flip(file.header_bytes - 40, 1),
                // More blocks than m shards may lack, and only two of them in one column.
                _ if stripe.len() == 6 => file.flip(block(file, number), 1),
                _ => file.flip(file.header_bytes + file.body_bytes + 3, 1),
            }
        }
    }
    let dirs = left(&sandbox, 1..=6);
    let ran = rescue_tree(&sandbox, &dirs, &tree, &[]).exits(0);
    assert_same(&tree, &sandbox.path("out"));
    let headers: usize = stripes.iter().map(|stripe| if stripe.len() == 6 { 3 } else { 2 }).sum();
    let summary = ran.json_of("summary");
    assert_eq!(summary["damaged_headers"], headers, "{summary}");
    assert_eq!(summary["damaged_shards"], ran.json_lines("heal").len());
}

/// All stripes, their files by index.
fn stripes(sandbox: &Sandbox) -> Vec<Vec<ShardFile>> {
    let files = shards::all(sandbox);
    files.chunk_by(|a, b| a.stripe == b.stripe).map(<[_]>::to_vec).collect()
}

/// The number of the disk that has a file.
fn disk(file: &ShardFile) -> u8 {
    let mut parts = file.path.iter().rev();
    parts.nth(3).unwrap().to_str().unwrap().parse().unwrap()
}

/// The path that a line of JSON names.
fn path_of(line: &Value) -> PathBuf {
    use base64::Engine as _;
    use std::os::unix::ffi::OsStringExt as _;
    match line["path_b64"].as_str() {
        None => line["path"].as_str().unwrap().into(),
        Some(encoded) => {
            let bytes = base64::engine::general_purpose::STANDARD.decode(encoded).unwrap();
            std::ffi::OsString::from_vec(bytes).into()
        }
    }
}

#[test]
fn i7_with_a_folder_too_few_the_files_are_named_and_the_rest_restored() {
    let (sandbox, tree) = pushed();
    write(tree.join("small"), "in a stripe of copies");
    sandbox.arc(["push", text(&tree), "--pack-size", "1M"]).exits(0);
    let stripes = stripes(&sandbox);
    let has_all_copies = |disks: &BTreeSet<u8>| {
        let copies = stripes.iter().filter(|stripe| stripe.len() == 3);
        copies.clone().count() > 0
            && copies.clone().all(|stripe| stripe.iter().any(|file| disks.contains(&disk(file))))
    };
    let threes = (0_u8..64).map(|set| (1..=6).filter(|disk| set >> (disk - 1) & 1 == 1).collect());
    let threes = threes.filter(|disks: &BTreeSet<u8>| disks.len() == 3);
    let three = threes.into_iter().find(has_all_copies).unwrap();
    let fourth = (1..=6).find(|disk| !three.contains(disk)).unwrap();
    let all = left(&sandbox, three.into_iter().chain([fourth]));
    let ran = rescue_tree(&sandbox, &all[..3], &tree, &[]).exits(5);
    assert_eq!(ran.json_of("exit")["codes"], json!([5]));
    let named: BTreeSet<PathBuf> = ran
        .json_lines("warning")
        .iter()
        .map(|warning| {
            assert!(warning["what"].as_str().unwrap().starts_with("not restored"), "{warning}");
            path_of(warning)
        })
        .collect();
    let out = sandbox.path("out");
    let missing: BTreeSet<PathBuf> = names(&tree)
        .into_iter()
        .filter(|name| out.join(name).symlink_metadata().is_err())
        .collect();
    assert_eq!(named, missing);
    assert!(named.contains(Path::new("file 0")) && named.contains(Path::new("link to 0")));
    assert_eq!(fs::read(out.join("small")).unwrap(), b"in a stripe of copies");
    let summary = ran.json_of("summary");
    assert_eq!(summary["lost"], named.len());
    assert_no_parts(&out);
    // With the fourth, the rest comes.
    rescue_tree(&sandbox, &all, &tree, &["--overwrite", "never"]).exits(0);
    // Folders that were there keep what they have: files that came later changed their times.
    let folders = [": mtime", "\u{FFFD} not UTF-8: mtime"];
    let mut others = differences(&tree, &out);
    others.retain(|difference| !folders.contains(&difference.as_str()));
    assert_eq!(others, Vec::<String>::new());
    // Unless they are to become what they were.
    rescue_tree(&sandbox, &all, &tree, &["--overwrite", "if-changed"]).exits(0);
    assert_same(&tree, &out);
}

#[test]
fn stripes_that_no_snapshot_needs_are_no_loss() {
    let sandbox = Sandbox::with_vault("4+2");
    let (gone, kept) = (sandbox.path("gone"), sandbox.path("kept"));
    write(gone.join("file"), noise(1, 900_000));
    write(kept.join("file"), noise(2, 900_000));
    sandbox.arc(["push", text(&gone)]).exits(0);
    let first: BTreeSet<String> = shards::all(&sandbox).into_iter().map(|f| f.stripe).collect();
    sandbox.arc(["push", text(&kept)]).exits(0);
    // What a push leaves that was killed: no snapshot, and a shard of a stripe.
    for file in shards::all(&sandbox).into_iter().filter(|file| first.contains(&file.stripe)) {
        if file.kind == Kind::Snapshot || (file.kind == Kind::Data && file.index != 1) {
            fs::remove_file(&file.path).unwrap();
        }
    }
    let dirs = left(&sandbox, 1..=6);
    let ran = rescue(&sandbox, &dirs, ["--to", "out"]).exits(0);
    let summary = ran.json_of("summary");
    assert_eq!((&summary["unread_stripes"], &summary["restored"]), (&json!(1), &json!(1)));
    assert_eq!(ran.json_lines("unread").len(), 1);
    assert_eq!(ran.json_lines("warning"), Vec::<Value>::new());
    let to = ran.json_of("restored")["to"].as_str().unwrap().to_owned();
    assert_same(&kept, &sandbox.path(&to).join(kept.strip_prefix("/").unwrap()));
}

#[test]
fn a_snapshot_whose_record_is_lost_is_said_to_be() {
    let sandbox = Sandbox::with_vault("4+2");
    for name in ["one", "two"] {
        write(sandbox.path(name).join("file"), name);
        sandbox.arc(["push", text(&sandbox.path(name))]).exits(0);
    }
    let records = shards::all(&sandbox);
    let record = records.iter().find(|file| file.kind == Kind::Snapshot).unwrap();
    for file in records.iter().filter(|file| file.stripe == record.stripe) {
        file.flip(file.header_bytes + 5, 0);
    }
    let dirs = left(&sandbox, 1..=6);
    let ran = rescue(&sandbox, &dirs, ["--to", "out"]).exits(5);
    let summary = ran.json_of("summary");
    assert_eq!((&summary["restored"], &summary["lost_snapshots"]), (&json!(1), &json!(1)));
    assert_eq!(ran.json_of("lost_snapshot")["snapshot"], record.stripe);
    rescue(&sandbox, &dirs, ["--list"]).exits(5);
}

#[test]
fn what_cannot_be_meant_is_refused_before_anything_is_written() {
    let sandbox = Sandbox::of_passphrase().vault("2+1");
    write(sandbox.path("tree/file"), "x");
    sandbox.arc(["push", text(&sandbox.path("tree"))]).exits(0);
    let dirs = left(&sandbox, [1, 2]);
    let before = state(&dirs);
    let mut wrong = sandbox.command(["rescue", text(&dirs[0]), text(&dirs[1]), "--to", "out"]);
    Ran(wrong.env("ARC_PASSPHRASE", "another").output().unwrap()).exits(12);
    rescue(&sandbox, &dirs, []).exits(2);
    rescue(&sandbox, &dirs, ["--to", "left/1/out"]).exits(2);
    rescue(&sandbox, &[sandbox.path("nowhere")], ["--to", "out"]).exits(1);
    rescue(&sandbox, &[sandbox.path("left/1/vault.record")], ["--to", "out"]).exits(2);
    rescue(&sandbox, &[sandbox.path("tree")], ["--to", "out"]).exits(10);
    rescue(&sandbox, &dirs, ["--to", "out", "--snapshot", "0000"]).exits(14);
    let missing = format!("latest:{}/not there", text(&sandbox.path("tree")));
    rescue(&sandbox, &dirs, ["--to", "out", "--snapshot", &missing]).exits(14);
    assert!(!sandbox.path("out").exists());
    write(sandbox.path("full/file"), "mine");
    rescue(&sandbox, &dirs, ["--to", "full", "--snapshot", "latest"]).exits(2);
    // Of folders without shards, only the record is known.
    fs::create_dir(sandbox.path("bare")).unwrap();
    fs::copy(dirs[0].join("vault.record"), sandbox.path("bare/vault.record")).unwrap();
    rescue(&sandbox, &[sandbox.path("bare")], ["--list"]).exits(10);
    assert_eq!(state(&dirs), before);
    rescue(&sandbox, &dirs, ["--to", "out"]).exits(0);
    rescue(&sandbox, &dirs, ["--to", "out"]).exits(2);
    rescue(&sandbox, &dirs, ["--to", "out", "--overwrite", "if-changed"]).exits(0);
}

#[test]
fn folders_of_storage_servers_do_as_well() {
    let mut fleet = Fleet::new("2+1", 3);
    write(fleet.source().join("a"), noise(1, 900_000));
    write(fleet.source().join("b/c"), "small");
    fleet.push(&[]).exits(0);
    fleet.kill_coordinator();
    (0..3).for_each(|server| fleet.kill(server));
    fs::remove_dir_all(fleet.sandbox.path("coordinator")).unwrap();
    fs::remove_dir_all(fleet.server_folder(1)).unwrap();
    let dirs = [fleet.server_folder(0), fleet.server_folder(2)];
    let before = state(&dirs);
    rescue_tree(&fleet.sandbox, &dirs, &fleet.source(), &[]).exits(0);
    assert_same(&fleet.source(), &fleet.sandbox.path("out"));
    assert_eq!(state(&dirs), before);
}

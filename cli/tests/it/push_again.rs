//! The second push: what did not change is neither read nor sent.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::sandbox::{Sandbox, text};
use crate::trees::{assert_same, fill, noise, set_mtime, settle, skipped, write};

/// A vault, and a tree of 600 files that was pushed once, all of it older than two seconds.
fn pushed_once() -> (Sandbox, std::path::PathBuf) {
    let sandbox = Sandbox::with_vault("2+1");
    let tree = sandbox.path("tree");
    fill(&tree, 600, 4_000);
    write(tree.join("long"), noise(77, 5 << 20));
    fs::hard_link(tree.join("long"), tree.join("long too")).unwrap();
    settle(&tree);
    let pushed = sandbox.pushed([text(&tree)]);
    assert_eq!(pushed["stats"]["files_new"], 601);
    assert_eq!(pushed["parent"], Value::Null);
    (sandbox, tree)
}

#[track_caller]
fn assert_nothing_read(pushed: &Value) {
    let stats = &pushed["stats"];
    for count in ["files_new", "files_changed", "files_removed", "bytes_new"] {
        assert_eq!(stats[count], 0, "{count}: {pushed}");
    }
    assert_eq!(stats["files"], 601, "{pushed}");
}

#[test]
fn i16_an_unchanged_push_sends_one_record_and_reads_no_file() {
    let (sandbox, tree) = pushed_once();
    let first = sandbox.arc(["--json", "snapshots"]).exits(0).json_of("snapshot");
    let pushed = sandbox.pushed([text(&tree)]);
    assert_nothing_read(&pushed);
    assert_eq!(pushed["stripes"], 1, "{pushed}");
    assert_eq!(pushed["parent"], first["snapshot"]);
}

#[test]
fn an_unchanged_push_opens_no_file_of_the_source() {
    if Command::new("strace").arg("-V").output().is_err() {
        return skipped("no strace");
    }
    let (sandbox, tree) = pushed_once();
    let opened = |args: &[&str]| {
        let log = sandbox.path("opened");
        let arc = sandbox.command(["push", text(&tree)]);
        let mut strace = Command::new("strace");
        strace.args(["-f", "-y", "-e", "trace=open,openat,openat2", "-o", text(&log)]);
        strace.arg(arc.get_program()).args(arc.get_args()).args(args);
        strace.env_clear().current_dir(sandbox.path(""));
        strace.envs(arc.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let ran = strace.output().unwrap();
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
        // `-y` ends a line with what was opened: `= 7</the/path>`.
        let log = fs::read_to_string(log).unwrap();
        let opened = log.lines().filter_map(|line| line.rsplit_once("= ")?.1.split_once('<'));
        let opened = opened.map(|(_, path)| path.trim_end_matches('>').to_owned());
        let files =
            opened.filter(|path| path.starts_with(text(&tree)) && Path::new(path).is_file());
        files.collect::<Vec<_>>()
    };
    assert_eq!(opened(&[]), Vec::<String>::new());
    assert_eq!(opened(&["--force"]).len(), 601, "the trace sees what is opened");
}

#[test]
fn what_changed_is_what_is_sent() {
    let (sandbox, tree) = pushed_once();
    let changed: Vec<_> = (0..600).step_by(50).map(|n| (n, noise(10_000 + n, 4_000))).collect();
    for (n, bytes) in &changed {
        write(tree.join(format!("{}/{n}", n / 50)), bytes);
    }
    write(tree.join("new"), noise(20_000, 3_000));
    fs::remove_file(tree.join("3/151")).unwrap();
    let bytes = changed.len() as u64 * 4_000 + 3_000;
    let pushed = sandbox.pushed([text(&tree)]);
    let stats = &pushed["stats"];
    assert_eq!(stats["files_changed"], 12);
    assert_eq!(stats["files_new"], 1);
    assert_eq!(stats["files_removed"], 1);
    // What was new besides the files' bytes are the pages of the manifest with their names.
    let new = stats["bytes_new"].as_u64().unwrap();
    assert!((bytes..bytes + 150_000).contains(&new), "{new} for {bytes} changed");
    let stored = stats["bytes_stored"].as_u64().unwrap();
    assert!((bytes..bytes + 80_000).contains(&stored), "{stored} for {bytes} changed");
    sandbox.pull(&tree, &sandbox.path("back")).exits(0);
    assert_same(&tree, &sandbox.path("back"));
}

#[test]
fn an_insertion_into_a_long_file_is_cut_around() {
    // The chunks of the longer one are in a list of its own.
    for length in [12 << 20, 96 << 20] {
        let sandbox = Sandbox::with_vault("2+1");
        let tree = sandbox.path("tree");
        let mut bytes = noise(5, length);
        write(tree.join("long"), &bytes);
        sandbox.pushed([text(&tree)]);
        bytes.splice(3 << 20..3 << 20, *b"a few bytes more");
        bytes[length / 2] ^= 1;
        write(tree.join("long"), &bytes);
        let new = sandbox.pushed([text(&tree)])["stats"]["bytes_new"].as_u64().unwrap();
        // The two chunks that they fell into, and at most their neighbours.
        assert!((1..=16 << 20).contains(&new) && new < length as u64, "{new}");
        let anew = sandbox.pushed(["--force", text(&tree)])["stats"]["bytes_new"].as_u64().unwrap();
        assert!(anew < 64 << 10, "{anew}: without a parent the cuts are the same");
        sandbox.pull(&tree, &sandbox.path("back")).exits(0);
        assert_same(&tree, &sandbox.path("back"));
    }
}

#[test]
fn a_copy_is_read_unless_inode_and_ctime_are_ignored() {
    let (sandbox, tree) = pushed_once();
    // The copy takes the place of the tree: all inodes and change times are other ones.
    let aside = sandbox.path("aside");
    fs::rename(&tree, &aside).unwrap();
    let copied = Command::new("cp").args(["-a", text(&aside), text(&tree)]).status().unwrap();
    assert!(copied.success());
    settle(&tree);
    let dry = |args: &[&str]| {
        let words = [&["--dry-run"], args, &[text(&tree)]].concat();
        sandbox.pushed(words)["stats"]["files_changed"].as_u64().unwrap()
    };
    assert_eq!(dry(&[]), 601);
    assert_eq!(dry(&["--ignore-inode"]), 601);
    assert_eq!(dry(&["--ignore-ctime"]), 601);
    assert_nothing_read(&sandbox.pushed(["--ignore-inode", "--ignore-ctime", text(&tree)]));
    // It brought the manifest up to date: from now on nothing has to be ignored.
    assert_nothing_read(&sandbox.pushed([text(&tree)]));
}

#[test]
fn a_mode_that_changed_under_an_ignored_ctime_is_kept() {
    let (sandbox, tree) = pushed_once();
    fs::set_permissions(tree.join("2/100"), fs::Permissions::from_mode(0o640)).unwrap();
    settle(&tree);
    assert_nothing_read(&sandbox.pushed(["--ignore-ctime", text(&tree)]));
    sandbox.pull(&tree, &sandbox.path("back")).exits(0);
    assert_same(&tree, &sandbox.path("back"));
}

#[test]
fn force_reads_everything_and_sends_nothing_twice() {
    let (sandbox, tree) = pushed_once();
    // Same size, same times: only a reader notices.
    let path = tree.join("2/100");
    let mtime = fs::metadata(&path).unwrap().modified().unwrap();
    fs::write(&path, noise(1, 4_000)).unwrap();
    fs::File::options().write(true).open(&path).unwrap().set_modified(mtime).unwrap();
    let pushed = sandbox.pushed(["--force", text(&tree)]);
    assert_eq!(pushed["parent"], Value::Null);
    assert_eq!(pushed["stats"]["files_new"], 601);
    let new = pushed["stats"]["bytes_new"].as_u64().unwrap();
    assert!(new < 150_000, "{new}");
    sandbox.pull(&tree, &sandbox.path("back")).exits(0);
    assert_same(&tree, &sandbox.path("back"));
}

#[test]
fn the_parent_is_of_the_same_sources_or_the_one_that_is_named() {
    let sandbox = Sandbox::with_vault("2+1");
    let (tree, other) = (sandbox.path("tree"), sandbox.path("other"));
    fill(&tree, 80, 1_000);
    fill(&other, 3, 1_000);
    settle(&tree);
    let first = sandbox.pushed([text(&tree)]);
    let of_other = sandbox.pushed([text(&other)]);
    assert_eq!(of_other["parent"], Value::Null, "other sources have no parent here");
    let second = sandbox.pushed([text(&tree)]);
    assert_eq!(second["parent"], first["snapshot"]);
    let named = sandbox.pushed([text(&tree), "--parent", first["snapshot"].as_str().unwrap()]);
    assert_eq!(named["parent"], first["snapshot"]);
    assert_eq!(named["stats"]["files_changed"], 0);
    let of_another_host = sandbox.pushed([text(&tree), "--host", "elsewhere"]);
    assert_eq!(of_another_host["parent"], Value::Null);
    assert_eq!(of_another_host["stats"]["bytes_new"], 0, "and nothing is sent twice for that");
    sandbox.arc(["push", text(&tree), "--parent", "ffffffff"]).exits(14);
    sandbox.arc(["push", text(&tree), "--parent", "latest", "--force"]).exits(2);
}

#[test]
fn a_file_changed_within_the_clocks_grain_is_read_again() {
    let sandbox = Sandbox::with_vault("2+1");
    let tree = sandbox.path("tree");
    write(tree.join("file"), "one");
    let wrote = Instant::now();
    sandbox.pushed([text(&tree)]);
    let again = sandbox.pushed([text(&tree)]);
    // On a busy machine it may be old enough by then.
    if wrote.elapsed() < Duration::from_secs(2) {
        assert_eq!(again["stats"]["files_changed"], 1);
    }
    // A time in the future never gets old.
    set_mtime(&tree.join("file"), 4_000_000_000, 0);
    settle(&tree);
    sandbox.pushed([text(&tree)]);
    assert_eq!(sandbox.pushed([text(&tree)])["stats"]["files_changed"], 1);
}

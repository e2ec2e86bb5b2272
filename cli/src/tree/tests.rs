//! Trees that were captured and restored.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use codec::ChunkId;
use codec::manifest::{ChunkRef, Content, Entry, Node, show_path};
use rustix::fs::{CWD, FileType, Mode, Timespec, Timestamps, makedev};

use super::capture::{self, HardLinks};
use super::exclude::Excludes;
use super::restore::{Begun, Ended, Overwrite, Restorer};
use super::walk::{Walk, sources};
use super::*;

/// An entry and, of a file, what is in it.
type Kept = (Entry, Vec<u8>);

/// Captures a tree; paths become relative to it.
fn capture_tree(root: &Path) -> Vec<Kept> {
    let source = sources(&[root.to_path_buf()]).unwrap().remove(0);
    let (mut links, mut problems, mut kept) = (HardLinks::default(), Vec::new(), Vec::new());
    for found in Walk::new(vec![source.clone()], Excludes::default(), vec![]).skip(1) {
        let found = found.unwrap();
        let relative = |path: &[u8]| path[source.len() + 1..].to_vec();
        let first = links.first(&found.stat);
        let mut entry = capture::describe(&found, first, &mut problems).unwrap();
        links.stored(&entry, &found.stat);
        entry.path = relative(&entry.path);
        let mut contents = Vec::new();
        match &mut entry.node {
            Node::Hardlink { first } => *first = relative(first),
            Node::File { .. } => {
                let (file, stat) = capture::open(&found).unwrap();
                contents = vec![0; stat.bytes as usize];
                file.read_exact_at(&mut contents, 0).unwrap();
                entry.node = file_node(&contents, capture::holes(&file, &stat).unwrap());
            }
            _ => {}
        }
        kept.push((entry, contents));
    }
    assert!(problems.is_empty(), "{problems:?}");
    kept
}

fn file_node(contents: &[u8], holes: Vec<(u64, u64)>) -> Node {
    let chunks = contents.chunks(1 << 20);
    let chunks =
        chunks.map(|c| ChunkRef { id: ChunkId::default(), bytes: c.len() as u32 }).collect();
    Node::File { bytes: contents.len() as u64, content: Content::Chunks(chunks), holes }
}

/// Restores in pieces of odd lengths, files and links finished in reverse order at the end.
fn restore(kept: &[Kept], target: &Path, overwrite: Overwrite) -> (Vec<Vec<u8>>, Vec<Problem>) {
    let mut restorer = Restorer::new(target, overwrite, None).unwrap();
    let (mut skipped, mut problems) = (Vec::new(), Vec::new());
    let (mut files, mut links) = (Vec::new(), Vec::new());
    for (entry, contents) in kept {
        match restorer.begin(entry.clone()) {
            Ok(Begun::Done) => {}
            Ok(Begun::Skipped { .. }) => skipped.push(entry.path.clone()),
            Ok(Begun::File(file)) => {
                for (n, piece) in contents.chunks(100_003).enumerate() {
                    file.write_at(n as u64 * 100_003, piece).unwrap();
                }
                files.push(file);
            }
            Ok(Begun::Link(link)) => links.push((entry.path.clone(), link)),
            Err(problem) => problems.push(problem),
        }
    }
    let mut ended = |path: Vec<u8>, result| match result {
        Ok(Ended::Placed) => {}
        Ok(Ended::Skipped) => skipped.push(path),
        Err(problem) => problems.push(problem),
    };
    for file in files.into_iter().rev() {
        ended(file.entry().path.clone(), file.finish());
    }
    for (path, link) in links.into_iter().rev() {
        ended(path, link.finish());
    }
    problems.extend(restorer.finish());
    (skipped, problems)
}

fn set_mtime(path: &Path, seconds: i64, nanoseconds: i64) {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

/// Access control list of a file that user 1000 may read and write.
const ACL: [u8; 44] = [
    2, 0, 0, 0, // version
    1, 0, 6, 0, 255, 255, 255, 255, // owner rw
    2, 0, 6, 0, 232, 3, 0, 0, // user 1000 rw
    4, 0, 4, 0, 255, 255, 255, 255, // group r
    16, 0, 6, 0, 255, 255, 255, 255, // mask rw
    32, 0, 0, 0, 255, 255, 255, 255, // others none
];

fn every_kind_of_node(root: &Path) {
    let at = |name: &[u8]| root.join(OsStr::from_bytes(name));
    for folder in [&b"a"[..], b"a/deep", b"a/deep/er", b"empty", b"\xff\xfe"] {
        fs::create_dir(at(folder)).unwrap();
    }
    for (name, bytes) in
        [(&b"a/f"[..], 300_000), (b"a-b", 1), (b"zero", 0), (b"\xff\xfe/\x01 \n", 5)]
    {
        fs::write(at(name), vec![7; bytes]).unwrap();
        set_mtime(&at(name), 1_234_567_890 + bytes as i64, 123_456_789);
    }
    fs::write(at(b"a/before-1970"), b"old").unwrap();
    set_mtime(&at(b"a/before-1970"), -5, 1);
    fs::hard_link(at(b"a/f"), at(b"a/deep/link")).unwrap();
    fs::hard_link(at(b"a/f"), at(b"hard")).unwrap();
    symlink("nowhere/\u{e4}", at(b"a/soft")).unwrap();
    set_mtime(&at(b"a/soft"), 1_000_000_000, 5);
    rustix::fs::mknodat(CWD, at(b"pipe"), FileType::Fifo, Mode::from_raw_mode(0o640), 0).unwrap();
    fs::write(at(b"listed"), b"x").unwrap();
    xattr::set(at(b"listed"), "user.note", b"\0\xffvalue").unwrap();
    xattr::set(at(b"listed"), "system.posix_acl_access", &ACL).unwrap();
    xattr::set(at(b"empty"), "system.posix_acl_default", &ACL).unwrap();
    for (name, mode) in
        [(&b"a-b"[..], 0o4755), (b"zero", 0o400), (b"a/deep", 0o500), (b"empty", 0o1777)]
    {
        fs::set_permissions(at(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    if rustix::process::geteuid().is_root() {
        let device = makedev(1, 3);
        let mode = Mode::from_raw_mode(0o666);
        rustix::fs::mknodat(CWD, at(b"null"), FileType::CharacterDevice, mode, device).unwrap();
        rustix::fs::mknodat(CWD, at(b"disk"), FileType::BlockDevice, mode, makedev(7, 300))
            .unwrap();
        std::os::unix::fs::lchown(at(b"a/soft"), Some(1234), Some(5678)).unwrap();
        std::os::unix::fs::chown(at(b"a/deep"), Some(1234), Some(5678)).unwrap();
        std::os::unix::fs::chown(at(b"zero"), Some(1234), None).unwrap();
        xattr::set(at(b"pipe"), "trusted.note", b"pipe").unwrap();
    } else {
        println!("devices and owners skipped: not root");
    }
    for folder in [&b"a/deep/er"[..], b"a/deep", b"a", b"empty", b"\xff\xfe"] {
        set_mtime(&at(folder), 1_111_111_111, 999_999_999);
    }
}

/// All but what a restore cannot or must not bring back.
fn comparable(kept: &[Kept]) -> Vec<Kept> {
    let strip = |(entry, contents): &Kept| {
        let entry = Entry { ctime: (0, 0), inode: 0, device: 0, ..entry.clone() };
        (entry, contents.clone())
    };
    kept.iter().map(strip).collect()
}

fn assert_same_tree(left: &Path, right: &Path) {
    let (left, right) = (comparable(&capture_tree(left)), comparable(&capture_tree(right)));
    for (left, right) in left.iter().zip(&right) {
        assert_eq!(left.0, right.0);
        assert!(left.1 == right.1, "contents of {}", show_path(&left.0.path));
    }
    assert_eq!(left.len(), right.len());
}

fn folders() -> (tempfile::TempDir, PathBuf, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    fs::create_dir(&from).unwrap();
    (dir, from, to)
}

fn file(path: &str, contents: &[u8]) -> Kept {
    let entry = Entry {
        path: path.into(),
        node: file_node(contents, vec![]),
        mode: 0o644,
        uid: rustix::process::getuid().as_raw(),
        gid: rustix::process::getgid().as_raw(),
        mtime: (1_000_000_000, 7),
        ctime: (0, 0),
        inode: 0,
        device: 0,
        xattrs: vec![],
        read_again: false,
    };
    (entry, contents.to_vec())
}

fn node(path: &str, node: Node) -> Kept {
    (Entry { node, mode: 0o755, ..file(path, b"").0 }, vec![])
}

#[track_caller]
fn no_parts_below(root: &Path) {
    for (entry, _) in capture_tree(root) {
        assert!(!entry.path.ends_with(b".part"), "{} is left", show_path(&entry.path));
    }
}

#[test]
fn a_tree_of_every_kind_of_node_comes_back() {
    let (_dir, from, to) = folders();
    every_kind_of_node(&from);
    let kept = capture_tree(&from);
    assert!(kept.iter().all(|(entry, _)| entry.check().is_ok()));
    let (skipped, problems) = restore(&kept, &to, Overwrite::Never);
    assert!(skipped.is_empty() && problems.is_empty(), "{skipped:?} {problems:?}");
    assert_same_tree(&from, &to);
    let inode = |name: &str| fs::metadata(to.join(name)).unwrap().ino();
    assert!(inode("a/f") == inode("hard") && inode("a/f") == inode("a/deep/link"));
    // Once more over what is there: the same tree.
    for overwrite in [Overwrite::Always, Overwrite::IfChanged, Overwrite::Never] {
        let (_, problems) = restore(&kept, &to, overwrite);
        assert!(problems.is_empty(), "{overwrite:?}: {problems:?}");
        assert_same_tree(&from, &to);
    }
}

#[test]
fn holes_stay_holes_and_what_is_not_zero_is_written() {
    let (_dir, from, to) = folders();
    let sparse = File::create(from.join("sparse")).unwrap();
    sparse.set_len(40 << 20).unwrap();
    sparse.write_all_at(&[5; 4096], 20 << 20).unwrap();
    let mut kept = capture_tree(&from);
    let (_, problems) = restore(&kept, &to, Overwrite::Always);
    assert!(problems.is_empty(), "{problems:?}");
    assert_same_tree(&from, &to);
    let blocks = |root: &Path| fs::metadata(root.join("sparse")).unwrap().blocks();
    assert_eq!(blocks(&from), blocks(&to));
    // The file changed after its holes were found.
    kept[0].1[1_000_000] = 1;
    restore(&kept, &to, Overwrite::Always);
    assert!(fs::read(to.join("sparse")).unwrap() == kept[0].1);
}

#[test]
fn nothing_is_written_through_a_symlink() {
    let (dir, _, to) = folders();
    let outside = dir.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("file"), b"mine").unwrap();
    let target = outside.as_os_str().as_bytes().to_vec();
    let link = |path| node(path, Node::Symlink { target: target.clone() });
    let kept = [
        link("link"),
        file("link/file", b"theirs"),
        node("link/folder", Node::Directory),
        node("link/pipe", Node::Fifo),
        file("link/x/y", b"theirs"),
        node("m", Node::Hardlink { first: b"link/file".to_vec() }),
    ];
    for overwrite in [Overwrite::Never, Overwrite::IfChanged, Overwrite::Always] {
        let (_, problems) = restore(&kept, &to, overwrite);
        assert_eq!(problems.len(), 5, "{problems:?}");
        assert_eq!(fs::read(outside.join("file")).unwrap(), b"mine");
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
        assert!(fs::symlink_metadata(to.join("m")).is_err());
    }
    // Nor where a folder that is being filled is swapped for a link.
    let mut restorer = Restorer::new(&to, Overwrite::Always, None).unwrap();
    restorer.begin(node("swap", Node::Directory).0).unwrap();
    fs::rename(to.join("swap"), to.join("moved")).unwrap();
    symlink(&outside, to.join("swap")).unwrap();
    let Ok(Begun::File(writer)) = restorer.begin(file("swap/file", b"").0) else {
        panic!("a file")
    };
    writer.finish().unwrap();
    assert_eq!(fs::read(outside.join("file")).unwrap(), b"mine");
    assert!(to.join("moved/file").exists());
}

#[test]
fn entries_that_lead_outside_are_refused() {
    let (dir, _, to) = folders();
    let link = |first: &str| node("z", Node::Hardlink { first: first.into() });
    for (entry, contents) in [
        file("../out", b"x"),
        file("a/../../out", b"x"),
        file("/out", b"x"),
        link("../from"),
        file("", b""),
    ] {
        let (_, problems) = restore(&[(entry, contents)], &to, Overwrite::Always);
        assert_eq!(problems.len(), 1);
    }
    assert!(!dir.path().join("out").exists());
    assert_eq!(fs::read_dir(&to).unwrap().count(), 0);
}

#[test]
fn the_policy_decides_about_names_that_exist() {
    let (_dir, _, to) = folders();
    fs::create_dir_all(to.join("folder")).unwrap();
    let kept =
        [file("changed", b"new!"), file("folder", b"x"), file("new", b"n"), file("same", b"new!")];
    let run = |overwrite| {
        for name in ["changed", "same"] {
            fs::write(to.join(name), b"old!").unwrap();
            set_mtime(&to.join(name), 1_000_000_000, if name == "same" { 7 } else { 8 });
        }
        let _ = fs::remove_file(to.join("new"));
        let (skipped, problems) = restore(&kept, &to, overwrite);
        let read = |name| String::from_utf8(fs::read(to.join(name)).unwrap()).unwrap();
        no_parts_below(&to);
        let skipped = skipped.iter().map(|path| String::from_utf8_lossy(path).into_owned());
        (read("changed"), read("same"), read("new"), skipped.collect::<Vec<_>>(), problems.len())
    };
    let want = |changed: &str, same: &str, skipped: &[&str], problems| {
        let skipped = skipped.iter().map(|name| name.to_string()).collect();
        (changed.to_owned(), same.to_owned(), "n".to_owned(), skipped, problems)
    };
    assert_eq!(run(Overwrite::Never), want("old!", "old!", &["changed", "folder", "same"], 0));
    assert_eq!(run(Overwrite::IfChanged), want("new!", "old!", &["same"], 1));
    assert_eq!(run(Overwrite::Always), want("new!", "new!", &[], 1));
    assert!(to.join("folder").is_dir(), "a folder is never replaced");
}

#[test]
fn a_name_that_appears_meanwhile_stays_when_it_must() {
    let (_dir, _, to) = folders();
    let mut restorer = Restorer::new(&to, Overwrite::Never, None).unwrap();
    let Ok(Begun::File(writer)) = restorer.begin(file("f", b"x").0) else { panic!("a file") };
    writer.write_at(0, b"x").unwrap();
    fs::write(to.join("f"), b"theirs").unwrap();
    assert_eq!(writer.finish().unwrap(), Ended::Skipped);
    assert_eq!(fs::read(to.join("f")).unwrap(), b"theirs");
    no_parts_below(&to);
}

#[test]
fn an_unfinished_file_has_no_name() {
    let (_dir, _, to) = folders();
    let mut restorer = Restorer::new(&to, Overwrite::Always, None).unwrap();
    let mut begin = || match restorer.begin(file("f", b"12345").0) {
        Ok(Begun::File(writer)) => writer,
        other => panic!("{other:?}"),
    };
    let writer = begin();
    writer.write_at(0, b"123").unwrap();
    assert!(writer.write_at(3, b"456").is_err(), "past the end");
    assert!(writer.write_at(u64::MAX, b"45").is_err());
    assert!(writer.finish().unwrap_err().to_string().contains("3 of 5 bytes"));
    let dropped = begin();
    dropped.write_at(0, b"1").unwrap();
    let names: Vec<_> =
        fs::read_dir(&to).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(matches!(&names[..], [one] if one.as_bytes().starts_with(b".arc-")), "{names:?}");
    drop(dropped);
    assert_eq!(fs::read_dir(&to).unwrap().count(), 0);
}

#[test]
fn a_folder_is_closed_while_it_is_filled() {
    let (_dir, _, to) = folders();
    let mut restorer = Restorer::new(&to, Overwrite::Always, None).unwrap();
    restorer.begin(node("d", Node::Directory).0).unwrap();
    let Ok(Begun::File(writer)) = restorer.begin(file("d/f", b"").0) else { panic!("a file") };
    restorer.begin(node("e", Node::Directory).0).unwrap();
    let mode = || fs::metadata(to.join("d")).unwrap().mode() & 0o7777;
    assert_eq!(mode(), 0o700, "a file below is not finished");
    writer.finish().unwrap();
    assert_eq!(mode(), 0o755);
    assert_eq!(fs::metadata(to.join("d")).unwrap().mtime(), 1_000_000_000);
    assert!(restorer.finish().is_empty());
}

#[test]
fn folders_without_an_entry_are_made_on_the_way() {
    let (_dir, _, to) = folders();
    let (_, problems) = restore(&[file("a/b/c", b"1"), file("a/d", b"2")], &to, Overwrite::Never);
    assert!(problems.is_empty(), "{problems:?}");
    assert_eq!(fs::read(to.join("a/b/c")).unwrap(), b"1");
    assert_eq!(fs::read(to.join("a/d")).unwrap(), b"2");
}

#[test]
fn access_lists_that_the_target_hands_down_are_not_restored() {
    let (_dir, _, to) = folders();
    fs::create_dir(&to).unwrap();
    xattr::set(&to, "system.posix_acl_default", &ACL).unwrap();
    restore(&[node("d", Node::Directory), file("f", b"x")], &to, Overwrite::Never);
    for name in ["d", "f"] {
        let acls = xattr::list(to.join(name))
            .unwrap()
            .filter(|name| name.as_bytes().starts_with(b"system"));
        assert_eq!(acls.count(), 0, "{name}");
    }
    assert_eq!(fs::metadata(to.join("d")).unwrap().mode() & 0o7777, 0o755);
}

#[test]
fn a_path_longer_than_the_system_resolves_is_restored() {
    let (_dir, from, to) = folders();
    let name = "n".repeat(200);
    let deep: Vec<Kept> =
        (1..=25).map(|n| node(&vec![&name[..]; n].join("/"), Node::Directory)).collect();
    let (_, problems) = restore(&deep, &to, Overwrite::Never);
    assert!(problems.is_empty(), "{problems:?}");
    assert_eq!(capture_tree(&to).len(), 25);
    drop(from);
}

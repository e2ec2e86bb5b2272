//! What is pushed comes back the same, whatever it is.

use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{
    FileExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _, symlink,
};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;

use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};

use crate::sandbox::{Sandbox, text};
use crate::trees::{assert_no_parts, assert_same, fill, is_root, noise, set_mtime, skipped, write};

/// Pushes `source`, pulls it, and holds the two side by side.
#[track_caller]
fn there_and_back(source: &Path, sandbox: &Sandbox) {
    sandbox.arc(["push", text(source)]).exits(0);
    let back = sandbox.path("back");
    let ran = sandbox.pull(source, &back).exits(0);
    assert_eq!(ran.stderr(), "");
    assert_same(source, &back);
    assert_no_parts(&back);
}

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

#[test]
fn i7_files_folders_and_links_with_modes_times_and_names() {
    let sandbox = Sandbox::with_vault("4+2");
    let tree = sandbox.path("tree");
    let at = |name: &str| tree.join(name);
    write(at("text"), "the quick brown fox\n".repeat(5_000));
    write(at("noise"), noise(1, 3 << 20));
    write(at("empty file"), "");
    write(at("a/b"), "below a");
    write(at("a-b"), "between a and a/b in plain byte order");
    write(at(&format!("{}/deep", "d/".repeat(60))), "deep");
    fs::create_dir(at("empty folder")).unwrap();
    for name in
        [&b"\xff\xfe not UTF-8"[..], b"new\nline", b"back\\slash", b"-dash", b"\x1b[2J", b" "]
    {
        write(tree.join(OsStr::from_bytes(name)), name);
        let folder = [name, b" folder"].concat();
        write(tree.join(OsStr::from_bytes(&folder)).join(OsStr::from_bytes(name)), "inside");
    }
    write(at(&"n".repeat(255)), "a long name");
    for (name, bits) in
        [("setuid", 0o4755), ("setgid", 0o2755), ("read only", 0o444), ("open", 0o666)]
    {
        write(at(name), name);
        mode(&at(name), bits);
    }
    for (name, bits) in [("sticky", 0o1777), ("group", 0o2770), ("closed", 0o500)] {
        write(at(name).join("inside"), name);
        mode(&at(name), bits);
    }
    symlink("text", at("link")).unwrap();
    symlink("/nowhere/at all", at("dangling")).unwrap();
    symlink(OsStr::from_bytes(b"to \xff"), at("link to bytes")).unwrap();
    write(at("new year"), "");
    for (name, seconds, nanoseconds) in [
        ("text", 1_234_567_890, 123_456_789),
        ("new year", -86_400, 999_999_999),
        ("link", 1_000_000_000, 1),
        ("sticky", 1_500_000_000, 5),
        ("a", 1_600_000_000, 600),
    ] {
        set_mtime(&at(name), seconds, nanoseconds);
    }
    there_and_back(&tree, &sandbox);
}

#[test]
fn hard_links_come_back_as_links() {
    let sandbox = Sandbox::with_vault("2+1");
    let tree = sandbox.path("tree");
    write(tree.join("z first/file"), noise(2, 300_000));
    write(tree.join("long"), noise(3, 6 << 20));
    fs::create_dir(tree.join("a")).unwrap();
    fs::hard_link(tree.join("z first/file"), tree.join("a/other name")).unwrap();
    fs::hard_link(tree.join("z first/file"), tree.join("third")).unwrap();
    fs::hard_link(tree.join("long"), tree.join("long too")).unwrap();
    symlink("third", tree.join("link")).unwrap();
    fs::hard_link(tree.join("link"), tree.join("link too")).unwrap();
    there_and_back(&tree, &sandbox);
}

#[test]
fn extended_attributes_and_access_lists_come_back() {
    let sandbox = Sandbox::with_vault("2+1");
    let tree = sandbox.path("tree");
    let (file, folder) = (tree.join("file"), tree.join("folder"));
    write(&file, "x");
    write(folder.join("inside"), "y");
    if xattr::set(&file, "user.name", b"value").is_err() {
        return skipped("no extended attributes on this file system");
    }
    xattr::set(&file, "user.binary", &[0, 255, 10]).unwrap();
    xattr::set(&file, "user.long", &noise(4, 2_000)).unwrap();
    xattr::set(&folder, "user.empty", b"").unwrap();
    if is_root("trusted attributes") {
        xattr::set(&file, "trusted.arc", b"root only").unwrap();
        symlink("file", tree.join("link")).unwrap();
        xattr::set(tree.join("link"), "trusted.link", b"of the link itself").unwrap();
    }
    let set = |args: &[&str], path: &Path| {
        Command::new("setfacl").args(args).arg(path).status().is_ok_and(|status| status.success())
    };
    let listed = set(&["-m", "u:4242:r--"], &file)
        && set(&["-m", "g:4242:rwx"], &folder)
        && set(&["-d", "-m", "u:4242:rwx"], &folder);
    if !listed {
        skipped("no setfacl, or no access lists on this file system");
    }
    there_and_back(&tree, &sandbox);
}

#[test]
fn holes_come_back_as_holes() {
    const MIB: u64 = 1 << 20;
    let sandbox = Sandbox::with_vault("2+1");
    let tree = sandbox.path("tree");
    fs::create_dir(&tree).unwrap();
    let sparse = |name: &str, bytes: u64, data: &[(u64, usize)]| {
        let file = File::create(tree.join(name)).unwrap();
        file.set_len(bytes).unwrap();
        for &(offset, length) in data {
            file.write_all_at(&noise(offset + 1, length), offset).unwrap();
        }
    };
    sparse("nothing but a hole", 20 * MIB, &[]);
    sparse("a hole at both ends", 8 * MIB, &[(3 * MIB, 100_000)]);
    sparse("holes between", 12 * MIB, &[(0, 5_000), (5 * MIB, 70_000), (12 * MIB - 10, 10)]);
    there_and_back(&tree, &sandbox);
    for name in ["nothing but a hole", "a hole at both ends", "holes between"] {
        let blocks = |folder: &str| sandbox.path(folder).join(name).metadata().unwrap().blocks();
        assert!(blocks("tree") * 512 < MIB, "this file system has no holes");
        assert!(blocks("back") <= blocks("tree") + 32, "{name}: {} blocks", blocks("back"));
    }
}

#[test]
fn fifos_and_devices_come_back() {
    let sandbox = Sandbox::with_vault("2+1");
    let tree = sandbox.path("tree");
    fs::create_dir(&tree).unwrap();
    let make = |name: &str, kind, device| {
        mknodat(CWD, tree.join(name), kind, Mode::from_raw_mode(0o640), device)
    };
    make("fifo", FileType::Fifo, 0).unwrap();
    set_mtime(&tree.join("fifo"), 1_111_111_111, 11);
    fs::hard_link(tree.join("fifo"), tree.join("fifo too")).unwrap();
    if is_root("devices")
        && (make("null", FileType::CharacterDevice, makedev(1, 3)).is_err()
            || make("disk", FileType::BlockDevice, makedev(259, 70_000)).is_err())
    {
        skipped("root may not make devices here");
    }
    there_and_back(&tree, &sandbox);
}

#[test]
fn owners_come_back_to_root() {
    let sandbox = Sandbox::with_vault("2+1");
    let tree = sandbox.path("tree");
    write(tree.join("file"), "of somebody else");
    symlink("file", tree.join("link")).unwrap();
    if !is_root("other owners") {
        return;
    }
    std::os::unix::fs::chown(tree.join("file"), Some(4242), Some(2424)).unwrap();
    // A new owner clears these bits; they have to come after it.
    mode(&tree.join("file"), 0o6755);
    std::os::unix::fs::lchown(tree.join("link"), Some(4242), None).unwrap();
    std::os::unix::fs::chown(&tree, None, Some(2424)).unwrap();
    there_and_back(&tree, &sandbox);
}

#[test]
fn a_manifest_of_many_pages_comes_back() {
    let sandbox = Sandbox::with_vault("2+1");
    let tree = sandbox.path("tree");
    fill(&tree, 2_500, 40);
    write(tree.join("of many chunks"), noise(9, 90 << 20 >> 3));
    there_and_back(&tree, &sandbox);
}

#[test]
fn sockets_are_named_and_skipped() {
    let sandbox = Sandbox::with_vault("2+1");
    let tree = sandbox.path("tree");
    write(tree.join("file"), "x");
    let _socket = UnixListener::bind(tree.join("socket")).unwrap();
    let ran = sandbox.arc(["push", text(&tree)]).exits(0);
    let warned = format!("warning: {}/socket: cannot store: it is a socket\n", text(&tree));
    assert_eq!(ran.stderr(), warned);
    sandbox.pull(&tree, &sandbox.path("back")).exits(0);
    let missing = sandbox.path("back/socket").symlink_metadata().unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound);
    assert!(tree.join("socket").metadata().unwrap().file_type().is_socket());
}

#[test]
fn nested_and_repeated_sources_are_one() {
    let sandbox = Sandbox::with_vault("2+1");
    let tree = sandbox.path("tree");
    fill(&tree, 120, 500);
    write(sandbox.path("alone"), "a file as a source");
    let (inner, alone) = (tree.join("1"), sandbox.path("alone"));
    let pushed = sandbox.pushed([text(&inner), text(&alone), text(&tree), text(&inner)]);
    assert_eq!(pushed["stats"]["files"], 121);
    sandbox.pull(&tree, &sandbox.path("back")).exits(0);
    assert_same(&tree, &sandbox.path("back"));
    sandbox.arc(["pull", "latest", "--to", "all"]).exits(0);
    let below = |path: &Path| sandbox.path("all").join(path.strip_prefix("/").unwrap());
    assert_same(&tree, &below(&tree));
    assert_eq!(fs::read(below(&alone)).unwrap(), b"a file as a source");
}

//! What a pull takes and where it puts it.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use crate::sandbox::{Sandbox, SmallDisk, text};
use crate::trees::{assert_no_parts, assert_same, fill, names, noise, set_mtime, skipped, write};

/// A vault with `file` pushed three times, its content the number of the push.
fn three_snapshots() -> (Sandbox, Vec<String>) {
    let sandbox = Sandbox::with_vault("2+1");
    let push = |n: u8| {
        write(sandbox.path("file"), n.to_string());
        sandbox.pushed(["file"])["snapshot"].as_str().unwrap().to_owned()
    };
    let ids = [1, 2, 3].map(push).into();
    (sandbox, ids)
}

#[test]
fn a_snapshot_is_latest_or_one_before_it_or_digits_of_its_id() {
    let (sandbox, ids) = three_snapshots();
    let file = sandbox.path("file");
    let content = |snapshot: &str| {
        let what = format!("{snapshot}:{}", text(&file));
        sandbox.arc(["pull", &what, "--to", "-"]).exits(0).stdout()
    };
    assert_eq!(content("latest"), "3");
    assert_eq!(content("latest~0"), "3");
    assert_eq!(content("latest~2"), "1");
    assert_eq!(content(&ids[1]), "2");
    assert_eq!(content(&ids[0][..8]), "1");
    assert_eq!(content(&ids[2][..8].to_uppercase()), "3");
    let unknown = ["0000", "1111"].into_iter().find(|four| ids.iter().all(|id| &id[..4] != *four));
    for wrong in [&ids[0][..3], unknown.unwrap(), "latest~3", "latest~x", "newest", "", "zzzz"] {
        let ran = sandbox.arc(["pull", wrong, "--to", "out"]).exits(14);
        assert!(ran.stderr().contains("arc snapshots"), "{}", ran.stderr());
    }
    sandbox.arc(["verify", "latest~3"]).exits(14);
    sandbox.arc(["ls", "newest"]).exits(14);
    assert!(!sandbox.path("out").exists());
}

/// A tree of folders, files, and a hard link from one folder into another.
fn pushed_tree(code: &str) -> (Sandbox, PathBuf) {
    let sandbox = Sandbox::with_vault(code);
    let tree = sandbox.path("tree");
    fill(&tree.join("many"), 120, 9_000);
    write(tree.join("first/file"), noise(500, 3 << 20));
    fs::create_dir(tree.join("second")).unwrap();
    fs::hard_link(tree.join("first/file"), tree.join("second/link")).unwrap();
    fs::hard_link(tree.join("first/file"), tree.join("second/link too")).unwrap();
    symlink("link", tree.join("second/symlink")).unwrap();
    fs::set_permissions(tree.join("second"), Permissions::from_mode(0o750)).unwrap();
    set_mtime(&tree.join("second"), 1_000_000_000, 7);
    sandbox.arc(["push", text(&tree)]).exits(0);
    (sandbox, tree)
}

#[test]
fn the_content_of_a_path_lands_in_the_target() {
    let (sandbox, tree) = pushed_tree("2+1");
    let (many, back) = (tree.join("many"), sandbox.path("back"));
    sandbox.pull(&many, &back).exits(0);
    assert_same(&many, &back);
    // A folder above the sources is in no manifest, and can be asked for all the same.
    let above = tree.parent().unwrap();
    sandbox.pull(above, &sandbox.path("above")).exits(0);
    assert_same(&tree, &sandbox.path("above/tree"));
    sandbox.pull(&tree.join("many/0/7"), &sandbox.path("one")).exits(0);
    assert_eq!(names(&sandbox.path("one")), [Path::new(""), Path::new("7")]);
    assert_eq!(fs::read(sandbox.path("one/7")).unwrap(), noise(8, 9_000));
}

#[test]
fn names_of_a_file_whose_first_name_lies_outside_are_that_file() {
    let (sandbox, tree) = pushed_tree("2+1");
    let (second, back) = (tree.join("second"), sandbox.path("back"));
    sandbox.pull(&second, &back).exits(0);
    for name in ["link", "link too", "symlink"] {
        assert!(fs::read(back.join(name)).unwrap() == noise(500, 3 << 20), "{name}");
    }
    assert_eq!(fs::read_link(back.join("symlink")).unwrap(), Path::new("link"));
    let stat = back.metadata().unwrap();
    assert_eq!((stat.mode() & 0o7777, stat.mtime(), stat.mtime_nsec()), (0o750, 1_000_000_000, 7));
}

#[test]
fn a_path_that_is_not_there_is_14_and_nothing_is_written() {
    let (sandbox, tree) = pushed_tree("2+1");
    for path in ["gone", "many/0/7/8", "man", "first/file/", "../other"] {
        let gone = tree.join(path);
        let ran = sandbox.pull(&gone, &sandbox.path("out"));
        if path.ends_with('/') {
            // A slash at the end says nothing.
            ran.exits(0);
            fs::remove_dir_all(sandbox.path("out")).unwrap();
            continue;
        }
        assert!(ran.exits(14).stderr().contains("no path"), "{path}");
        assert!(!sandbox.path("out").exists(), "{path}");
        sandbox.arc(["ls", &format!("latest:{}", text(&gone))]).exits(14);
    }
}

#[test]
fn one_file_goes_to_standard_output() {
    let (sandbox, tree) = pushed_tree("2+1");
    for name in ["first/file", "second/link"] {
        let what = format!("latest:{}", text(&tree.join(name)));
        let ran = sandbox.arc(["pull", &what, "--to", "-"]).exits(0);
        assert!(ran.0.stdout == noise(500, 3 << 20), "{name}");
        assert_eq!(ran.stderr(), "");
    }
    let folder = format!("latest:{}", text(&tree));
    let ran = sandbox.arc(["pull", &folder, "--to", "-"]).exits(14);
    assert!(ran.stderr().contains("not a regular file"), "{}", ran.stderr());
    assert_eq!(ran.stdout(), "");
}

#[test]
fn a_target_that_is_not_empty_is_refused_without_overwrite() {
    let (sandbox, tree) = pushed_tree("2+1");
    write(sandbox.path("back/mine"), "mine");
    let ran = sandbox.pull(&tree, &sandbox.path("back")).exits(2);
    assert!(ran.stderr().contains("--overwrite"), "{}", ran.stderr());
    assert_eq!(names(&sandbox.path("back")).len(), 2);
    write(sandbox.path("a file"), "");
    sandbox.pull(&tree, &sandbox.path("a file")).exits(1);
}

#[test]
fn overwrite_says_what_becomes_of_what_is_there() {
    let (sandbox, tree) = pushed_tree("2+1");
    let back = sandbox.path("back");
    let source = format!("latest:{}", text(&tree));
    let pull = |when: &str| {
        let words = ["--json", "pull", &source, "--to", text(&back), "--overwrite", when];
        sandbox.arc(words).exits(0).json_of("summary")
    };
    pull("never");
    assert_same(&tree, &back);
    let all = names(&tree).len() as u64;
    // Another size; another time; and one that only a reader would tell from the saved one.
    fs::write(back.join("many/0/1"), "shorter").unwrap();
    set_mtime(&back.join("many/0/2"), 1, 0);
    let mtime = back.join("many/0/3").metadata().unwrap().modified().unwrap();
    fs::write(back.join("many/0/3"), noise(4_000, 9_000)).unwrap();
    let same_time = fs::File::options().write(true).open(back.join("many/0/3")).unwrap();
    same_time.set_modified(mtime).unwrap();
    write(back.join("mine"), "mine");
    let never = pull("never");
    assert_eq!(fs::read(back.join("many/0/1")).unwrap(), b"shorter");
    assert_eq!(never["files"], 0, "{never}");
    let changed = pull("if-changed");
    assert_eq!(changed["files"], 2, "{changed}");
    assert!(changed["skipped"].as_u64().unwrap() > 100, "{changed} of {all}");
    assert_eq!(fs::read(back.join("many/0/1")).unwrap(), noise(2, 9_000));
    assert_eq!(fs::read(back.join("many/0/3")).unwrap(), noise(4_000, 9_000));
    pull("always");
    assert_eq!(fs::read(back.join("mine")).unwrap(), b"mine", "what the snapshot has not, stays");
    fs::remove_file(back.join("mine")).unwrap();
    pull("always");
    assert_same(&tree, &back);
    assert_no_parts(&back);
}

#[test]
fn names_of_a_file_are_not_linked_to_another_one_that_was_left() {
    let (sandbox, tree) = pushed_tree("2+1");
    let back = sandbox.path("back");
    let source = format!("latest:{}", text(&tree));
    let words = ["pull", &source, "--to", text(&back), "--overwrite", "never"];
    write(back.join("first/file"), "somebody else's");
    fs::set_permissions(&back, Permissions::from_mode(0o711)).unwrap();
    let said = sandbox.arc(words).exits(1).stderr();
    assert!(said.contains("second/link: cannot link: something else stands"), "{said}");
    let mode = back.metadata().unwrap().mode() & 0o7777;
    assert_eq!(mode, 0o711, "a folder that was there stays as it was");
    assert_eq!(fs::read(back.join("first/file")).unwrap(), b"somebody else's");
    for link in ["second/link", "second/link too"] {
        assert!(back.join(link).symlink_metadata().is_err(), "{link}");
        write(back.join(link), "mine too");
    }
    sandbox.arc(words).exits(0);
    // One that is as it was saved, as after a pull that was stopped, is linked to.
    fs::remove_dir_all(&back).unwrap();
    sandbox.arc(words).exits(0);
    fs::remove_file(back.join("second/link")).unwrap();
    set_mtime(&back.join("second"), 1_000_000_000, 7);
    sandbox.arc(words).exits(0);
    let inode = |name: &str| back.join(name).metadata().unwrap().ino();
    assert_eq!(inode("second/link"), inode("first/file"));
}

#[test]
fn a_link_in_the_target_is_not_followed() {
    let (sandbox, tree) = pushed_tree("2+1");
    let (back, outside) = (sandbox.path("back"), sandbox.path("outside"));
    fs::create_dir_all(&back).unwrap();
    fs::create_dir(&outside).unwrap();
    write(sandbox.path("victim"), "victim");
    symlink(&outside, back.join("first")).unwrap();
    fs::create_dir_all(back.join("many/0")).unwrap();
    symlink("../../../victim", back.join("many/0/1")).unwrap();
    let source = format!("latest:{}", text(&tree));
    let ran = sandbox.arc(["pull", &source, "--to", text(&back), "--overwrite", "always"]);
    let said = ran.exits(1).stderr();
    assert!(said.contains("first: cannot enter the folder"), "{said}");
    assert_eq!(names(&outside).len(), 1, "nothing went through the link");
    assert_eq!(fs::read(sandbox.path("victim")).unwrap(), b"victim");
    assert_eq!(fs::read(back.join("many/0/1")).unwrap(), noise(2, 9_000), "the link was replaced");
}

/// Takes disks away as a disk goes: the mount point stays, empty.
fn take_away(sandbox: &Sandbox, disks: &[usize]) {
    for disk in disks {
        let disk = sandbox.path(&format!("vault/disks/{disk}"));
        fs::rename(&disk, disk.with_extension("away")).unwrap();
        fs::create_dir(&disk).unwrap();
    }
}

#[test]
fn i7_with_m_disks_away_every_byte_comes_back() {
    let (sandbox, tree) = pushed_tree("4+2");
    take_away(&sandbox, &[2, 5]);
    let back = sandbox.path("back");
    let ran = sandbox.pull(&tree, &back).exits(0);
    assert_eq!(ran.stderr().matches("not mounted?").count(), 2, "{}", ran.stderr());
    assert_same(&tree, &back);
    assert_no_parts(&back);
}

#[test]
fn i7_with_more_disks_away_there_are_exact_files_and_errors_and_nothing_between() {
    let (sandbox, tree) = pushed_tree("4+2");
    take_away(&sandbox, &[1, 3, 6]);
    let back = sandbox.path("back");
    let ran = sandbox.pull(&tree, &back).exits(6);
    for disk in ["disk1", "disk3", "disk6"] {
        assert!(ran.stderr().contains(disk), "{}", ran.stderr());
    }
    // Which files lie in the shards that are left is the placement's affair.
    let there = if back.exists() { names(&back) } else { Vec::new() };
    for name in there.iter().filter(|name| back.join(name).is_file()) {
        let same = fs::read(back.join(name)).unwrap() == fs::read(tree.join(name)).unwrap();
        assert!(same, "{} is half", name.display());
    }
    assert!(there.len() < names(&tree).len());
    let first = format!("latest:{}", text(&tree.join("first/file")));
    let ran = sandbox.arc(["pull", &first, "--to", "-"]).exits(6);
    assert!(ran.stderr().contains("arc servers"), "{}", ran.stderr());
}

#[test]
fn a_full_disk_is_15_and_leaves_no_half_file() {
    let (sandbox, tree) = pushed_tree("2+1");
    let back = sandbox.path("back");
    let Some(_disk) = SmallDisk::mount(&back, "2m") else {
        return skipped("no small file system can be mounted here");
    };
    let said = sandbox.pull(&tree, &back).exits(15).stderr();
    assert!(said.contains("No space left"), "{said}");
    for name in names(&back).iter().filter(|name| back.join(name).is_file()) {
        let same = fs::read(tree.join(name)).unwrap() == fs::read(back.join(name)).unwrap();
        assert!(same, "{} is half", name.display());
    }
    assert_no_parts(&back);
}

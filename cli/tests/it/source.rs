//! File trees to push, and their comparison.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

const MIB: usize = 1 << 20;

/// Makes a tree of about `mib` MiB that neither compresses nor repeats: files of 3 MiB and of
/// 64 KiB, one that can be run, an empty file and folder, a symlink.
pub(crate) fn make(at: &Path, seed: u64, mib: usize) {
    for folder in ["large", "small/deep", "empty"] {
        fs::create_dir_all(at.join(folder)).unwrap();
    }
    let small = mib / 4;
    let large = (mib - small).div_ceil(3);
    for n in 0..large {
        fs::write(at.join(format!("large/{n}")), noise(seed + n as u64, 3 * MIB)).unwrap();
    }
    for n in 0..small * 16 {
        let folder = if n % 2 == 0 { "small" } else { "small/deep" };
        let bytes = noise(seed + 1000 + n as u64, MIB / 16);
        fs::write(at.join(format!("{folder}/{n}")), bytes).unwrap();
    }
    fs::write(at.join("nothing"), b"").unwrap();
    fs::write(at.join("run"), b"#!/bin/sh\n").unwrap();
    fs::set_permissions(at.join("run"), Permissions::from_mode(0o750)).unwrap();
    symlink("large/0", at.join("link")).unwrap();
}

/// Bytes that follow from `seed` (SplitMix64).
pub(crate) fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x2545_F491_4F6C_DD1D);
    let mut made = Vec::with_capacity(bytes + 8);
    while made.len() < bytes {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        made.extend_from_slice(&(z ^ (z >> 31)).to_le_bytes());
    }
    made.truncate(bytes);
    made
}

/// What is compared of one name.
#[derive(Debug, PartialEq, Eq)]
struct Entry {
    mode: u32,
    mtime: (i64, i64),
    content: Content,
}

#[derive(PartialEq, Eq)]
enum Content {
    Folder,
    File(Vec<u8>),
    Link(PathBuf),
}

impl std::fmt::Debug for Content {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Folder => f.write_str("a folder"),
            Self::File(bytes) => write!(f, "{} bytes", bytes.len()),
            Self::Link(to) => write!(f, "a link to {}", to.display()),
        }
    }
}

/// That two trees have the same names with the same modes, times and bytes.
#[track_caller]
pub(crate) fn assert_same(source: &Path, result: &Path) {
    let (wanted, found) = (entries(source), entries(result));
    let names = |of: &BTreeMap<PathBuf, Entry>| of.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&wanted), names(&found));
    for (path, entry) in &wanted {
        assert!(found[path] == *entry, "{}: {:?} is {:?}", path.display(), entry, found[path]);
    }
}

fn entries(root: &Path) -> BTreeMap<PathBuf, Entry> {
    let read = |path: PathBuf| {
        let stat = path.symlink_metadata().unwrap();
        let content = match stat.file_type() {
            kind if kind.is_dir() => Content::Folder,
            kind if kind.is_symlink() => Content::Link(path.read_link().unwrap()),
            _ => Content::File(fs::read(&path).unwrap()),
        };
        let entry = Entry { mode: stat.mode(), mtime: (stat.mtime(), stat.mtime_nsec()), content };
        (path.strip_prefix(root).unwrap().to_owned(), entry)
    };
    walk(root).into_iter().map(read).collect()
}

/// Bytes of all files below `root`; files that go meanwhile are passed over.
pub(crate) fn bytes_below(root: &Path) -> u64 {
    let bytes = |path: PathBuf| path.symlink_metadata().map_or(0, |stat| stat.len());
    walk(root).into_iter().filter(|path| !path.is_dir()).map(bytes).sum()
}

/// The files below `root`, symlinks aside.
pub(crate) fn files(root: &Path) -> Vec<PathBuf> {
    let is_file = |path: &PathBuf| path.symlink_metadata().is_ok_and(|stat| stat.is_file());
    walk(root).into_iter().filter(is_file).collect()
}

fn walk(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        // A folder that is not there yet has nothing in it.
        for entry in folder.read_dir().into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                folders.push(entry.path());
            }
            found.push(entry.path());
        }
    }
    found
}

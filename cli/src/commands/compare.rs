//! Two trees, compared by a walk that shares nothing with push and pull.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

/// What a comparison found.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Compared {
    /// Entries that are in both, the two roots excepted.
    pub(super) entries: u64,
    /// Bytes of files that were read on both sides and are the same.
    pub(super) bytes: u64,
    /// What differs: path below the root, and how.
    pub(super) differences: Vec<(PathBuf, &'static str)>,
}

/// Compares names, types, modes, modification times, link targets and contents of everything
/// below `left` and `right`, leaving out entries of a name in `skip`.
pub(super) fn compare(left: &Path, right: &Path, skip: &[OsString]) -> io::Result<Compared> {
    let mut compared = Compared::default();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        let ours = names(&left.join(&folder), skip)?;
        let theirs = names(&right.join(&folder), skip)?;
        for name in ours.union(&theirs) {
            let path = folder.join(name);
            match (ours.contains(name), theirs.contains(name)) {
                (true, true) => {}
                (true, false) => {
                    compared.differences.push((path, "is missing"));
                    continue;
                }
                _ => {
                    compared.differences.push((path, "is not in the source"));
                    continue;
                }
            }
            let (a, b) = (left.join(&path), right.join(&path));
            let (a_meta, b_meta) = (fs::symlink_metadata(&a)?, fs::symlink_metadata(&b)?);
            compared.entries += 1;
            if let Some(how) = metadata_differs(&a_meta, &b_meta) {
                compared.differences.push((path, how));
            } else if a_meta.is_file() {
                match same_contents(&a, &b)? {
                    true => compared.bytes += a_meta.len(),
                    false => compared.differences.push((path, "has other contents")),
                }
            } else if a_meta.is_symlink() && fs::read_link(&a)? != fs::read_link(&b)? {
                compared.differences.push((path, "points elsewhere"));
            } else if a_meta.is_dir() {
                folders.push(path);
            }
        }
    }
    Ok(compared)
}

/// Sockets are never stored.
fn names(folder: &Path, skip: &[OsString]) -> io::Result<BTreeSet<OsString>> {
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if !skip.contains(&entry.file_name()) && !entry.file_type()?.is_socket() {
            names.insert(entry.file_name());
        }
    }
    Ok(names)
}

fn metadata_differs(a: &Metadata, b: &Metadata) -> Option<&'static str> {
    if a.file_type() != b.file_type() {
        return Some("is of another type");
    }
    // A link's own mode means nothing.
    if !a.is_symlink() && a.mode() != b.mode() {
        return Some("has another mode");
    }
    if a.is_file() && a.len() != b.len() {
        return Some("has another size");
    }
    if (a.mtime(), a.mtime_nsec()) != (b.mtime(), b.mtime_nsec()) {
        return Some("has another modification time");
    }
    (a.rdev() != b.rdev()).then_some("is another device")
}

fn same_contents(a: &Path, b: &Path) -> io::Result<bool> {
    let (mut a, mut b) = (File::open(a)?, File::open(b)?);
    let (mut a_piece, mut b_piece) = (vec![0; 256 * 1024], vec![0; 256 * 1024]);
    loop {
        let a_bytes = fill(&mut a, &mut a_piece)?;
        let b_bytes = fill(&mut b, &mut b_piece)?;
        if a_piece[..a_bytes] != b_piece[..b_bytes] {
            return Ok(false);
        }
        if a_bytes == 0 {
            return Ok(true);
        }
    }
}

/// Reads until the buffer is full or the file ends.
fn fill(file: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(bytes) => filled += bytes,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};
    use std::time::{Duration, SystemTime};

    use super::*;

    fn tree(root: &Path) {
        fs::create_dir_all(root.join("d/empty")).unwrap();
        fs::write(root.join("d/f"), b"contents").unwrap();
        symlink("f", root.join("d/l")).unwrap();
        fs::write(root.join("target"), b"skipped").unwrap();
        let then = SystemTime::UNIX_EPOCH + Duration::new(1_700_000_000, 123_456_789);
        for path in ["d/f", "d/empty", "d"] {
            File::open(root.join(path)).unwrap().set_modified(then).unwrap();
        }
    }

    /// The differences after `change` was made to one of two equal trees.
    fn after(change: impl FnOnce(&Path)) -> Vec<(String, &'static str)> {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        tree(&a);
        tree(&b);
        let then = fs::symlink_metadata(a.join("d/l")).unwrap();
        let times = rustix::fs::Timestamps {
            last_access: rustix::fs::Timespec { tv_sec: then.mtime(), tv_nsec: then.mtime_nsec() },
            last_modification: rustix::fs::Timespec {
                tv_sec: then.mtime(),
                tv_nsec: then.mtime_nsec(),
            },
        };
        let follow = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
        rustix::fs::utimensat(rustix::fs::CWD, b.join("d/l"), &times, follow).unwrap();
        change(&b);
        let skip = [OsString::from("target")];
        let compared = compare(&a, &b, &skip).unwrap();
        compared.differences.into_iter().map(|(p, how)| (p.display().to_string(), how)).collect()
    }

    #[test]
    fn equal_trees_have_no_difference() {
        assert_eq!(after(|_| ()), []);
        assert_eq!(after(|b| fs::write(b.join("target"), b"other").unwrap()), []);
    }

    #[test]
    fn one_byte_one_mode_one_mtime_and_one_name_are_each_noticed() {
        let keep_time = |path: PathBuf, change: &dyn Fn(&Path)| {
            let then = fs::metadata(&path).unwrap().modified().unwrap();
            change(&path);
            File::options().write(true).open(&path).unwrap().set_modified(then).unwrap();
        };
        let byte = after(|b| keep_time(b.join("d/f"), &|f| fs::write(f, b"c0ntents").unwrap()));
        assert_eq!(byte, [("d/f".into(), "has other contents")]);
        let mode = after(|b| {
            fs::set_permissions(b.join("d/f"), fs::Permissions::from_mode(0o600)).unwrap();
        });
        assert_eq!(mode, [("d/f".into(), "has another mode")]);
        let mtime = after(|b| {
            let then = SystemTime::UNIX_EPOCH + Duration::new(1_700_000_000, 123_456_790);
            File::open(b.join("d/f")).unwrap().set_modified(then).unwrap();
        });
        assert_eq!(mtime, [("d/f".into(), "has another modification time")]);
        let name = after(|b| fs::write(b.join("more"), b"").unwrap());
        assert_eq!(name, [("more".into(), "is not in the source")]);
    }
}

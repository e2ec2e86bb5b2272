//! Trees of files for tests, and a walk of their own that says whether two are the same.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_OMIT};

/// Bytes that do not compress, the same for the same seed.
pub(crate) fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut out = Vec::with_capacity(bytes + 8);
    while out.len() < bytes {
        // xorshift64
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.to_le_bytes());
    }
    out.truncate(bytes);
    out
}

/// Writes a file, and the folders above it.
pub(crate) fn write(path: impl AsRef<Path>, bytes: impl AsRef<[u8]>) {
    let path = path.as_ref();
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

/// Files `0` to `count - 1` of noise below `root`, in folders of 50.
pub(crate) fn fill(root: &Path, count: usize, bytes: usize) {
    for n in 0..count {
        write(root.join(format!("{}/{n}", n / 50)), noise(n as u64 + 1, bytes));
    }
}

/// Gives a name (not what a link leads to) a modification time.
pub(crate) fn set_mtime(path: &Path, seconds: i64, nanoseconds: i64) {
    let times = Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: seconds, tv_nsec: nanoseconds },
    };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

/// Waits until nothing below `root` was changed within the last two seconds: what is as young
/// as that when it is read is read again by the next push, whatever its times say.
pub(crate) fn settle(root: &Path) {
    let changed = |path: &Path| {
        let stat = path.symlink_metadata().unwrap();
        SystemTime::UNIX_EPOCH + Duration::new(stat.ctime() as u64, stat.ctime_nsec() as u32)
    };
    let newest = names(root).iter().map(|path| changed(&root.join(path))).max().unwrap();
    let settled = newest + Duration::from_millis(2_050);
    if let Ok(left) = settled.duration_since(SystemTime::now()) {
        std::thread::sleep(left);
    }
}

/// All names below `root`, itself included, relative to it.
pub(crate) fn names(root: &Path) -> Vec<PathBuf> {
    let mut names = vec![PathBuf::new()];
    let mut at = 0;
    while at < names.len() {
        let path = root.join(&names[at]);
        if path.symlink_metadata().unwrap().is_dir() {
            for child in fs::read_dir(&path).unwrap() {
                names.push(names[at].join(child.unwrap().file_name()));
            }
        }
        at += 1;
    }
    names
}

/// What a name is, as far as a pull promises it.
#[derive(PartialEq, Eq, Debug)]
struct Seen {
    kind: &'static str,
    /// Contents, the target of a link, or the number of a device.
    content: Vec<u8>,
    mode: u32,
    owner: (u32, u32),
    mtime: (i64, i64),
    xattrs: BTreeMap<OsString, Vec<u8>>,
    /// The first of its names, where it has several.
    first: Option<PathBuf>,
}

fn seen(root: &Path) -> BTreeMap<PathBuf, Seen> {
    let mut names = names(root);
    names.sort();
    let mut firsts = HashMap::new();
    names
        .into_iter()
        .map(|name| {
            let path = root.join(&name);
            let stat = path.symlink_metadata().unwrap();
            let kind = stat.file_type();
            let (kind, content) = match () {
                () if kind.is_file() => ("file", fs::read(&path).unwrap()),
                () if kind.is_dir() => ("folder", Vec::new()),
                () if kind.is_symlink() => {
                    let target = fs::read_link(&path).unwrap();
                    ("link", target.into_os_string().into_encoded_bytes())
                }
                () if kind.is_fifo() => ("fifo", Vec::new()),
                () if kind.is_char_device() => ("char", stat.rdev().to_le_bytes().into()),
                () if kind.is_block_device() => ("block", stat.rdev().to_le_bytes().into()),
                () => ("other", Vec::new()),
            };
            let several = stat.nlink() > 1 && kind != "folder";
            let first = several.then(|| {
                firsts.entry((stat.dev(), stat.ino())).or_insert_with(|| name.clone()).clone()
            });
            let xattrs = match xattr::list(&path) {
                Ok(names) => names
                    .map(|name| {
                        let value = xattr::get(&path, &name).unwrap().unwrap();
                        (name, value)
                    })
                    .collect(),
                Err(_) => BTreeMap::new(),
            };
            let seen = Seen {
                kind,
                content,
                mode: stat.permissions().mode(),
                owner: (stat.uid(), stat.gid()),
                mtime: (stat.mtime(), stat.mtime_nsec()),
                xattrs,
                first,
            };
            (name, seen)
        })
        .collect()
}

/// The names in which two trees differ, and how.
pub(crate) fn differences(a: &Path, b: &Path) -> Vec<String> {
    let (a, mut b) = (seen(a), seen(b));
    let mut found = Vec::new();
    for (name, a) in a {
        let Some(b) = b.remove(&name) else {
            found.push(format!("{}: only in the first", name.display()));
            continue;
        };
        let parts = [
            ("kind", a.kind != b.kind),
            ("content", a.content != b.content),
            ("mode", a.mode != b.mode),
            ("owner", a.owner != b.owner),
            ("mtime", a.mtime != b.mtime),
            ("xattrs", a.xattrs != b.xattrs),
            ("links", a.first != b.first),
        ];
        let parts = parts.into_iter().filter(|(_, differs)| *differs);
        found.extend(parts.map(|(part, _)| format!("{}: {part}", name.display())));
    }
    found.extend(b.into_keys().map(|name| format!("{}: only in the second", name.display())));
    found
}

/// Both trees have the same names, and each is the same in every respect.
#[track_caller]
pub(crate) fn assert_same(a: &Path, b: &Path) {
    assert_eq!(differences(a, b), Vec::<String>::new());
}

/// No temporary name of a pull is left.
#[track_caller]
pub(crate) fn assert_no_parts(root: &Path) {
    let parts: Vec<_> = names(root)
        .into_iter()
        .filter(|name| name.extension().is_some_and(|extension| extension == "part"))
        .collect();
    assert_eq!(parts, Vec::<PathBuf>::new());
}

/// Whether the tests run as root; where not, says what is skipped.
pub(crate) fn is_root(otherwise: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        skipped(&format!("not root: {otherwise}"));
    }
    root
}

/// Says what a test leaves out on this machine.
#[allow(clippy::print_stderr)] // the only way for a test to say so
pub(crate) fn skipped(why: &str) {
    eprintln!("skipped: {why}");
}

#[test]
fn a_difference_in_any_respect_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (dir.path().join("a"), dir.path().join("b"));
    for root in [&a, &b] {
        for name in ["content", "mode", "mtime", "linked"] {
            write(root.join(name), "same");
            set_mtime(&root.join(name), 1_000_000_000, 1);
        }
        set_mtime(root, 1_000_000_000, 2);
    }
    assert_same(&a, &b);
    fs::write(b.join("content"), "sane").unwrap();
    set_mtime(&b.join("content"), 1_000_000_000, 1);
    fs::set_permissions(b.join("mode"), fs::Permissions::from_mode(0o600)).unwrap();
    set_mtime(&b.join("mtime"), 1_000_000_000, 2);
    fs::hard_link(a.join("linked"), a.join("linked too")).unwrap();
    fs::copy(b.join("linked"), b.join("linked too")).unwrap();
    for root in [&a, &b] {
        set_mtime(&root.join("linked too"), 1_000_000_000, 1);
        set_mtime(root, 1_000_000_000, 2);
    }
    write(b.join("more"), "");
    set_mtime(&b, 1_000_000_000, 2);
    let found = differences(&a, &b);
    let expected = [
        "content: content",
        "linked: links",
        "linked too: links",
        "mode: mode",
        "mtime: mtime",
        "more: only in the second",
    ];
    assert_eq!(found, expected);
}

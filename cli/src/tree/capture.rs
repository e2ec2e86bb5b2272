//! What an entry says of a file, and whether it has to be read at all.

use std::collections::HashMap;
use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};

use codec::manifest::{
    Content, Entry, HOLES_MAX, Node, XATTR_VALUE_BYTES_MAX, XATTRS_BYTES_MAX, XATTRS_MAX, Xattr,
};
use rustix::fs::{FileType, OFlags, SeekFrom};
use rustix::io::Errno;

use super::walk::Found;
use super::{FileId, IS_SOCKET, Problem, Stat, open_name};

/// What the next push goes by besides size and modification time.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Trust {
    /// The inode may differ: network file systems, restored trees.
    pub(crate) ignore_inode: bool,
    /// The change time may differ.
    pub(crate) ignore_ctime: bool,
}

/// Whether the parent's entry still holds, so that nothing has to be read. True for no
/// hard link: which name comes first is decided anew.
pub(crate) fn is_unchanged(parent: &Entry, now: &Stat, trust: Trust) -> bool {
    let same_node = match (&parent.node, now.kind) {
        (Node::File { bytes, .. }, FileType::RegularFile) => *bytes == now.bytes,
        (Node::Directory, FileType::Directory)
        | (Node::Symlink { .. }, FileType::Symlink)
        | (Node::Fifo, FileType::Fifo) => true,
        (Node::CharDevice { device }, FileType::CharacterDevice)
        | (Node::BlockDevice { device }, FileType::BlockDevice) => *device == now.node_device,
        _ => false,
    };
    same_node
        && !parent.read_again
        && parent.mtime == now.mtime
        && (trust.ignore_ctime || parent.ctime == now.ctime)
        && (trust.ignore_inode || parent.inode == now.inode)
}

/// The first names of files that have several, until the last of them was seen.
#[derive(Debug, Default)]
pub(crate) struct HardLinks {
    open: HashMap<FileId, FirstName>,
}

/// What was stored under the first name, and how many names are still to come.
#[derive(Debug)]
struct FirstName {
    path: Vec<u8>,
    bytes: u64,
    mtime: (i64, u32),
    left: u64,
}

impl HardLinks {
    /// The name under which this file was stored before, if it was, as it is now: an inode's
    /// number may have passed to another file meanwhile.
    pub(crate) fn first(&mut self, now: &Stat) -> Option<Vec<u8>> {
        let first = self.open.get_mut(&now.file())?;
        if (first.bytes, first.mtime) != (now.bytes, now.mtime) {
            return None;
        }
        first.left = first.left.saturating_sub(1);
        if first.left > 0 {
            return Some(first.path.clone());
        }
        self.open.remove(&now.file()).map(|first| first.path)
    }

    /// Call this for each entry that is in the manifest, not before: another name must not
    /// refer to one that could not be read. `stat` is of what was stored: between the walk and
    /// the reading another file may have taken the name.
    pub(crate) fn stored(&mut self, entry: &Entry, stat: &Stat) {
        if stat.links > 1 && !matches!(entry.node, Node::Directory | Node::Hardlink { .. }) {
            let Stat { bytes, mtime, links, .. } = *stat;
            let first = FirstName { path: entry.path.clone(), bytes, mtime, left: links - 1 };
            self.open.insert(stat.file(), first);
        }
    }
}

/// The entry of a name, all but a file's contents (no chunks, no holes: the reader fills
/// both in and sets `bytes` to what it read). `first` is what [`HardLinks::first`] said.
/// Attributes that cannot be read, or do not fit, become problems.
pub(crate) fn describe(
    found: &Found,
    first: Option<Vec<u8>>,
    problems: &mut Vec<Problem>,
) -> Result<Entry, Problem> {
    let Found { path, stat, .. } = found;
    let node = match (first, stat.kind) {
        (Some(first), _) => Node::Hardlink { first },
        (None, FileType::RegularFile) => {
            Node::File { bytes: 0, content: Content::Chunks(Vec::new()), holes: Vec::new() }
        }
        (None, FileType::Directory) => Node::Directory,
        (None, FileType::Symlink) => Node::Symlink { target: symlink_target(found)? },
        (None, FileType::Fifo) => Node::Fifo,
        (None, FileType::CharacterDevice) => Node::CharDevice { device: stat.node_device },
        (None, FileType::BlockDevice) => Node::BlockDevice { device: stat.node_device },
        (None, FileType::Socket) => return Err(Problem::empty(path, IS_SOCKET)),
        (None, _) => return Err(Problem::new(path, "store", Errno::OPNOTSUPP)),
    };
    let xattrs = match node {
        Node::Hardlink { .. } => Vec::new(),
        _ => xattrs(found, problems),
    };
    Ok(Entry {
        path: path.clone(),
        node,
        mode: stat.mode,
        uid: stat.uid,
        gid: stat.gid,
        mtime: stat.mtime,
        ctime: stat.ctime,
        inode: stat.inode,
        device: stat.device,
        xattrs,
        read_again: false,
    })
}

fn symlink_target(found: &Found) -> Result<Vec<u8>, Problem> {
    let read = |name: CString| Ok(rustix::fs::readlinkat(&*found.folder, name, Vec::new())?);
    found
        .name()
        .and_then(read)
        .map(CString::into_bytes)
        .map_err(|error| Problem::new(&found.path, "read the link", error))
}

/// Opens a regular file to be read, and looks at it again: the entry is to hold the
/// answer from before the first read. It does not wait for a pipe that took its place.
pub(crate) fn open(found: &Found) -> Result<(File, Stat), Problem> {
    let problem = |error| Problem::new(&found.path, "open", error);
    let name = found.name().map_err(problem)?;
    let file = open_name(&*found.folder, &name, OFlags::NONBLOCK).map_err(|e| problem(e.into()))?;
    let stat = Stat::of(&file).map_err(problem)?;
    if stat.kind != FileType::RegularFile {
        return Err(problem(io::Error::other("it is no longer a regular file")));
    }
    Ok((File::from(file), stat))
}

/// The holes of an open file as (offset, length), none where there are more than
/// [`HOLES_MAX`] or the file system does not tell. Leaves the file at its start.
pub(crate) fn holes(file: &File, stat: &Stat) -> io::Result<Vec<(u64, u64)>> {
    if stat.allocated_bytes >= stat.bytes {
        return Ok(Vec::new());
    }
    let holes = find_holes(file, stat.bytes).or_else(|error| match error {
        Errno::INVAL | Errno::OPNOTSUPP | Errno::NOTTY => Ok(Vec::new()),
        error => Err(error),
    });
    rustix::fs::seek(file, SeekFrom::Start(0))?;
    Ok(holes?)
}

fn find_holes(file: impl AsFd, bytes: u64) -> Result<Vec<(u64, u64)>, Errno> {
    let mut holes = Vec::new();
    let mut at = 0;
    while at < bytes {
        let start = match rustix::fs::seek(&file, SeekFrom::Hole(at)) {
            // It became shorter meanwhile.
            Err(Errno::NXIO) => break,
            result => result?,
        };
        if start >= bytes {
            break;
        }
        let end = match rustix::fs::seek(&file, SeekFrom::Data(start)) {
            Ok(end) => end.min(bytes),
            Err(Errno::NXIO) => bytes,
            Err(error) => return Err(error),
        };
        if end > start {
            holes.push((start, end - start));
        }
        if holes.len() > HOLES_MAX {
            return Ok(Vec::new());
        }
        at = end.max(start + 1);
    }
    Ok(holes)
}

/// All extended attributes that can be read, access control lists and security labels
/// among them, by name.
fn xattrs(found: &Found, problems: &mut Vec<Problem>) -> Vec<Xattr> {
    let mut note = |error: io::Error| {
        problems.push(Problem::new(&found.path, "read the attributes of", error));
    };
    let Ok(name) = found.name() else { return Vec::new() };
    // There is no call that takes a folder and a name, and opening the file could block
    // or have effects; the folder's handle has a path, though.
    let mut path = format!("/proc/self/fd/{}/", found.folder.as_raw_fd()).into_bytes();
    path.extend_from_slice(name.as_bytes());
    let names = match list_xattrs(&path) {
        Ok(names) => names,
        Err(error) => {
            note(error.into());
            return Vec::new();
        }
    };
    let mut xattrs = Vec::new();
    let mut sum_bytes = 0;
    for name in names.split(|&byte| byte == 0).filter(|name| !name.is_empty()) {
        match get_xattr(&path, name) {
            Ok(value) => {
                sum_bytes += name.len() + value.len();
                if xattrs.len() == XATTRS_MAX || sum_bytes > XATTRS_BYTES_MAX {
                    note(io::Error::other("there are more than a manifest holds"));
                    break;
                }
                xattrs.push(Xattr { name: name.to_vec(), value });
            }
            // It went since it was listed.
            Err(Errno::NODATA) => {}
            Err(error) => note(error.into()),
        }
    }
    xattrs.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    xattrs
}

fn list_xattrs(path: &[u8]) -> Result<Vec<u8>, Errno> {
    let mut list = Vec::with_capacity(512);
    loop {
        list.clear();
        match rustix::fs::llistxattr(path, rustix::buffer::spare_capacity(&mut list)) {
            Ok(_) => return Ok(list),
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => return Ok(Vec::new()),
            // 64 KiB is the kernel's bound of a list and of a value.
            Err(Errno::RANGE) if list.capacity() < XATTR_VALUE_BYTES_MAX => {
                list.reserve(XATTR_VALUE_BYTES_MAX);
            }
            Err(error) => return Err(error),
        }
    }
}

fn get_xattr(path: &[u8], name: &[u8]) -> Result<Vec<u8>, Errno> {
    let mut value = Vec::with_capacity(512);
    loop {
        value.clear();
        match rustix::fs::lgetxattr(path, name, rustix::buffer::spare_capacity(&mut value)) {
            Ok(_) => return Ok(value),
            Err(Errno::RANGE) if value.capacity() < XATTR_VALUE_BYTES_MAX => {
                value.reserve(XATTR_VALUE_BYTES_MAX);
            }
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::FileExt;
    use std::path::Path;

    use rustix::fs::{CWD, Mode};

    use super::super::exclude::Excludes;
    use super::super::walk::{Walk, sources};
    use super::*;

    fn found(path: &Path) -> Found {
        let sources = sources(&[path.to_path_buf()]).unwrap();
        Walk::new(sources, Excludes::default(), vec![]).next().unwrap().unwrap()
    }

    fn described(found: &Found) -> Entry {
        let mut problems = Vec::new();
        let entry = describe(found, None, &mut problems).unwrap();
        assert!(problems.is_empty(), "{problems:?}");
        entry
    }

    #[test]
    fn size_times_and_inode_tell_what_changed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        fs::write(&path, b"12345").unwrap();
        let now = found(&path).stat;
        let mut parent = described(&found(&path));
        parent.node = Node::File { bytes: 5, content: Content::Chunks(vec![]), holes: vec![] };
        let same = |parent: &Entry, now: Stat| is_unchanged(parent, &now, Trust::default());
        assert!(same(&parent, now));
        assert!(!same(&parent, Stat { bytes: 6, ..now }));
        assert!(!same(&parent, Stat { mtime: (now.mtime.0, now.mtime.1 ^ 1), ..now }));
        assert!(!same(&parent, Stat { kind: FileType::Symlink, ..now }));
        assert!(!same(&Entry { read_again: true, ..parent.clone() }, now));
        let first = b"a".to_vec();
        assert!(!same(&Entry { node: Node::Hardlink { first }, ..parent.clone() }, now));
        let (ctime, inode) = (Stat { ctime: (0, 0), ..now }, Stat { inode: 0, ..now });
        assert!(!same(&parent, ctime) && !same(&parent, inode));
        let trust = Trust { ignore_ctime: true, ignore_inode: false };
        assert!(is_unchanged(&parent, &ctime, trust) && !is_unchanged(&parent, &inode, trust));
        let trust = Trust { ignore_ctime: false, ignore_inode: true };
        assert!(is_unchanged(&parent, &inode, trust) && !is_unchanged(&parent, &ctime, trust));
    }

    #[test]
    fn further_names_refer_to_the_first_that_was_stored() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        fs::write(&path, b"x").unwrap();
        fs::hard_link(&path, dir.path().join("b")).unwrap();
        fs::hard_link(&path, dir.path().join("c")).unwrap();
        let (now, mut links) = (found(&path).stat, HardLinks::default());
        assert_eq!(links.first(&now), None);
        let first = described(&found(&path));
        links.stored(&first, &now);
        assert_eq!(links.first(&now).as_ref(), Some(&first.path));
        let further =
            describe(&found(&dir.path().join("b")), Some(first.path.clone()), &mut vec![]);
        let further = further.unwrap();
        assert_eq!(further.node, Node::Hardlink { first: first.path.clone() });
        links.stored(&further, &now);
        assert_eq!(links.first(&now).as_ref(), Some(&first.path));
        assert!(links.open.is_empty(), "all three names were seen");
    }

    #[test]
    fn another_file_with_the_inode_of_a_first_name_is_not_one_of_its_names() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        fs::write(&path, b"x").unwrap();
        fs::hard_link(&path, dir.path().join("b")).unwrap();
        let (now, mut links) = (found(&path).stat, HardLinks::default());
        links.stored(&described(&found(&path)), &now);
        assert_eq!(links.first(&Stat { bytes: now.bytes + 1, ..now }), None);
        assert_eq!(links.first(&Stat { mtime: (now.mtime.0, now.mtime.1 ^ 1), ..now }), None);
        assert!(links.first(&now).is_some());
    }

    #[test]
    fn holes_are_found_and_the_file_is_left_at_its_start() {
        const MIB: u64 = 1 << 20;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sparse");
        let file = File::create(&path).unwrap();
        file.set_len(8 * MIB).unwrap();
        file.write_all_at(&[1; 65536], 2 * MIB).unwrap();
        file.write_all_at(&[1; 65536], 5 * MIB).unwrap();
        let (file, stat) = open(&found(&path)).unwrap();
        let mut want = vec![(0, 2 * MIB), (2 * MIB + 65536, 3 * MIB - 65536)];
        want.push((5 * MIB + 65536, 3 * MIB - 65536));
        assert_eq!(holes(&file, &stat).unwrap(), want);
        assert_eq!(rustix::fs::tell(&file).unwrap(), 0);
        fs::write(&path, [1; 5000]).unwrap();
        let (file, stat) = open(&found(&path)).unwrap();
        assert_eq!(holes(&file, &stat).unwrap(), []);
    }

    #[test]
    fn what_is_no_longer_a_file_is_not_opened() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        fs::write(&path, b"x").unwrap();
        let found = found(&path);
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
        assert!(open(&found).is_err());
        fs::remove_file(&path).unwrap();
        // A reader of this pipe would wait for a writer.
        rustix::fs::mknodat(CWD, &path, FileType::Fifo, Mode::RUSR, 0).unwrap();
        assert!(open(&found).unwrap_err().to_string().contains("no longer a regular file"));
    }

    #[test]
    fn attributes_are_read_in_order_and_beyond_the_bounds_reported() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        fs::write(&path, b"x").unwrap();
        for (name, value) in
            [("user.b", vec![0, 255]), ("user.a", vec![7; 2000]), ("user.c", vec![])]
        {
            xattr::set(&path, name, &value).unwrap();
        }
        let entry = described(&found(&path));
        let user: Vec<_> = entry.xattrs.iter().filter(|x| x.name.starts_with(b"user.")).collect();
        assert_eq!(
            user.iter().map(|x| &x.name[..]).collect::<Vec<_>>(),
            [b"user.a", b"user.b", b"user.c"]
        );
        assert_eq!(user.iter().map(|x| x.value.len()).collect::<Vec<_>>(), [2000, 2, 0]);
        assert_eq!(entry.check(), Ok(()));
    }
}

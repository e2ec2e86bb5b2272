//! The file tree: what a push reads from it and what a pull makes of it.
//!
//! Both sides work through folder handles and single names, so that no path is resolved
//! twice and nothing outside is reached by a link.

mod capture;
mod exclude;
mod restore;
#[cfg(test)]
mod tests;
mod walk;

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};

pub(crate) use capture::{HardLinks, Trust, describe, holes, is_unchanged, open};
pub(crate) use exclude::Excludes;
pub(crate) use restore::{Begun, Ended, FileWriter, LinkWriter, Overwrite, Restorer};
pub(crate) use walk::{Found, Walk, sources};

use codec::manifest::show_path;
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

/// Why a socket is not stored.
const IS_SOCKET: &str = "it is a socket";

/// Something that went wrong with one path while the rest goes on.
#[derive(Debug, thiserror::Error)]
#[error("could not {doing} {}: {error}", show_path(path))]
pub(crate) struct Problem {
    /// The path as in the manifest.
    pub(crate) path: Vec<u8>,
    /// What was tried, as in "could not open".
    pub(crate) doing: &'static str,
    /// What the system said, or what is wrong.
    pub(crate) error: io::Error,
}

impl Problem {
    fn new(path: &[u8], doing: &'static str, error: impl Into<io::Error>) -> Self {
        Self { path: path.to_vec(), doing, error: error.into() }
    }

    /// A name that is not stored since there is nothing to store of it.
    fn empty(path: &[u8], why: &'static str) -> Self {
        Self::new(path, "store", io::Error::new(io::ErrorKind::Unsupported, why))
    }

    /// Whether it is one of those: a snapshot without it is whole.
    pub(crate) fn leaves_nothing_out(&self) -> bool {
        // The system's own refusals have a number.
        self.error.kind() == io::ErrorKind::Unsupported && self.error.raw_os_error().is_none()
    }
}

/// Device and inode: what one file or folder is among all that are there.
pub(crate) type FileId = (u64, u64);

/// What the file system says of one name or open file; symbolic links are not followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stat {
    /// Regular file, folder, …
    pub(crate) kind: FileType,
    /// Length of a file, or of a symbolic link's target.
    pub(crate) bytes: u64,
    /// Bytes that it takes on its disk.
    pub(crate) allocated_bytes: u64,
    /// Permission, set-id and sticky bits.
    pub(crate) mode: u32,
    /// Owner.
    pub(crate) uid: u32,
    /// Group.
    pub(crate) gid: u32,
    /// Modification time: seconds and nanoseconds.
    pub(crate) mtime: (i64, u32),
    /// Change time: seconds and nanoseconds.
    pub(crate) ctime: (i64, u32),
    /// Inode.
    pub(crate) inode: u64,
    /// Device that it lies on.
    pub(crate) device: u64,
    /// Names that it has.
    pub(crate) links: u64,
    /// Major and minor number, of a device node.
    pub(crate) node_device: (u32, u32),
}

impl Stat {
    /// Which file it is of.
    pub(crate) fn file(&self) -> FileId {
        (self.device, self.inode)
    }

    /// Of a name in a folder.
    fn at(folder: impl AsFd, name: &CStr) -> Result<Self, Errno> {
        rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW).map(Self::from)
    }

    /// Of an open file.
    pub(crate) fn of(file: impl AsFd) -> io::Result<Self> {
        Ok(rustix::fs::fstat(file)?.into())
    }
}

impl From<rustix::fs::Stat> for Stat {
    // How wide the fields are differs between architectures.
    #[allow(clippy::unnecessary_cast)]
    fn from(stat: rustix::fs::Stat) -> Self {
        Self {
            kind: FileType::from_raw_mode(stat.st_mode),
            bytes: stat.st_size as u64,
            allocated_bytes: stat.st_blocks as u64 * 512,
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            mtime: (stat.st_mtime, stat.st_mtime_nsec as u32),
            ctime: (stat.st_ctime, stat.st_ctime_nsec as u32),
            inode: stat.st_ino,
            device: stat.st_dev,
            links: stat.st_nlink as u64,
            node_device: (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev)),
        }
    }
}

/// Opens a name in a folder for reading, following no link, without touching its access
/// time where that is allowed.
fn open_name(folder: impl AsFd, name: &CStr, flags: OFlags) -> Result<OwnedFd, Errno> {
    let flags = flags | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::openat(&folder, name, flags | OFlags::NOATIME, Mode::empty()) {
        Err(Errno::PERM) => rustix::fs::openat(&folder, name, flags, Mode::empty()),
        result => result,
    }
}

/// A manifest's path as people know it: with its leading slash.
pub(crate) fn absolute(path: &[u8]) -> Vec<u8> {
    [b"/", path].concat()
}

/// The last component of a path.
pub(crate) fn name(path: &[u8]) -> &[u8] {
    split(path).1
}

/// A path's folder (empty for none) and its name.
pub(crate) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&byte| byte == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (&[], path),
    }
}

/// A name for the system.
fn c_name(name: &[u8]) -> io::Result<CString> {
    CString::new(name).map_err(|_| io::Error::from(Errno::INVAL))
}

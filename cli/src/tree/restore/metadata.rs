//! Owner, attributes, mode and times of something that was restored.

use std::os::fd::{AsRawFd, BorrowedFd};

use codec::manifest::{Entry, Node};
use rustix::fs::{AtFlags, CWD, Gid, Mode, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags};
use rustix::io::Errno;

use super::folder::Folder;
use super::{Problem, Shared};

const SET_ID_BITS: u32 = 0o6000;

/// How to get at it: by a handle, never by a name that may be another's by now.
#[derive(Clone, Copy)]
pub(super) enum Place<'a> {
    /// A file or folder.
    Open(BorrowedFd<'a>),
    /// Anything else, by a handle that only says where it is (`O_PATH`).
    Handle(BorrowedFd<'a>),
}

/// Applies what the entry says to what was made in a folder, in an order in which nothing undoes what came before: a
/// new owner clears set-id bits and capabilities. What fails is noted and the rest goes
/// on. Owners that only root may give are not missed by others; without the right owner
/// set-id bits are not set.
pub(super) fn apply(place: Place, entry: &Entry, folder: &Folder) {
    apply_with(place, entry, &folder.shared, folder.hands_down);
}

/// The same of what has access lists, perhaps, that are not the entry's.
pub(super) fn apply_with(place: Place, entry: &Entry, shared: &Shared, has_lists: bool) {
    let note = |doing, result: Result<(), Errno>| {
        if let Err(error) = result {
            shared.note(Problem::new(&entry.path, doing, error));
        }
    };
    let owned = place.set_owner(Some(entry.uid), entry.gid);
    if shared.privileged {
        note("set the owner of", owned);
    } else if owned.is_err() {
        // A group of one's own may still be given.
        let _ = place.set_owner(None, entry.gid);
    }
    for xattr in &entry.xattrs {
        note("set an attribute of", place.set_xattr(&xattr.name, &xattr.value));
    }
    if has_lists {
        place.drop_inherited_acls(entry);
    }
    if !matches!(entry.node, Node::Symlink { .. }) {
        let mode = if owned.is_ok() { entry.mode } else { entry.mode & !SET_ID_BITS };
        note("set the mode of", place.set_mode(Mode::from_raw_mode(mode)));
    }
    note("set the time of", place.set_mtime(entry.mtime));
}

impl Place<'_> {
    fn set_owner(self, uid: Option<u32>, gid: u32) -> Result<(), Errno> {
        // All ones would mean "leave it".
        if uid == Some(u32::MAX) || gid == u32::MAX {
            return Err(Errno::INVAL);
        }
        let (uid, gid) = (uid.map(Uid::from_raw), Some(Gid::from_raw(gid)));
        match self {
            Self::Open(file) => rustix::fs::fchown(file, uid, gid),
            Self::Handle(node) => rustix::fs::chown(by_number(node), uid, gid),
        }
    }

    fn set_xattr(self, name: &[u8], value: &[u8]) -> Result<(), Errno> {
        let flags = XattrFlags::empty();
        match self {
            Self::Open(file) => rustix::fs::fsetxattr(file, name, value, flags),
            Self::Handle(node) => rustix::fs::setxattr(by_number(node), name, value, flags),
        }
    }

    /// What a folder of the target hands down to all that is made in it is not the entry's.
    fn drop_inherited_acls(self, entry: &Entry) {
        for acl in [c"system.posix_acl_access", c"system.posix_acl_default"] {
            if !entry.xattrs.iter().any(|xattr| xattr.name == acl.to_bytes()) {
                // Mostly there is none.
                let _ = match self {
                    Self::Open(file) => rustix::fs::fremovexattr(file, acl),
                    Self::Handle(node) => rustix::fs::removexattr(by_number(node), acl),
                };
            }
        }
    }

    fn set_mode(self, mode: Mode) -> Result<(), Errno> {
        match self {
            Self::Open(file) => rustix::fs::fchmod(file, mode),
            Self::Handle(node) => rustix::fs::chmod(by_number(node), mode),
        }
    }

    fn set_mtime(self, (seconds, nanoseconds): (i64, u32)) -> Result<(), Errno> {
        let times = Timestamps {
            last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
            last_modification: Timespec { tv_sec: seconds, tv_nsec: nanoseconds.into() },
        };
        match self {
            Self::Open(file) => rustix::fs::futimens(file, &times),
            Self::Handle(node) => {
                rustix::fs::utimensat(CWD, by_number(node), &times, AtFlags::empty())
            }
        }
    }
}

/// A path to what the handle has, and to nothing else: following it ends there, also at a
/// symbolic link. Handles of this kind take none of the calls themselves.
fn by_number(node: BorrowedFd) -> String {
    format!("/proc/self/fd/{}", node.as_raw_fd())
}

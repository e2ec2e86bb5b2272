//! A folder that is being filled.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use codec::manifest::Entry;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::metadata::{self, Place};
use super::{Overwrite, Problem, Shared};

/// An open folder of the target. When the last of those who fill it lets go of it, it
/// gets its metadata; it holds its parent, so the parent's turn comes after.
#[derive(Debug)]
pub(super) struct Folder {
    pub(super) path: Vec<u8>,
    pub(super) handle: OwnedFd,
    pub(super) shared: Arc<Shared>,
    /// It was made by this restore: what is in it, this restore made.
    pub(super) is_new: bool,
    /// It hands access lists down to what is made in it.
    pub(super) hands_down: bool,
    entry: Option<Entry>,
    _parent: Option<Arc<Folder>>,
}

impl Folder {
    /// The folder that all is restored below, which keeps its own metadata.
    pub(super) fn target(handle: OwnedFd, shared: Arc<Shared>, entry: Option<Entry>) -> Self {
        let hands_down = hands_down(&handle);
        Self { path: Vec::new(), handle, shared, is_new: false, hands_down, entry, _parent: None }
    }

    /// Makes a folder in another, or enters the one that is there: closed to others while
    /// it is filled, if an entry says what it will be.
    pub(super) fn make(
        parent: Arc<Folder>,
        name: &CStr,
        path: &[u8],
        entry: Option<Entry>,
    ) -> Result<Self, Problem> {
        let mode = Mode::from_raw_mode(if entry.is_some() { 0o700 } else { 0o777 });
        let made = match rustix::fs::mkdirat(&parent.handle, name, mode) {
            Ok(()) => true,
            Err(Errno::EXIST) => false,
            Err(error) => return Err(Problem::new(path, "make the folder", error)),
        };
        let handle = open(&parent.handle, name, OFlags::RDONLY).map_err(|error| {
            let error = match error {
                Errno::NOTDIR | Errno::LOOP => {
                    io::Error::other("there is something else by that name")
                }
                error => error.into(),
            };
            Problem::new(path, "enter the folder", error)
        })?;
        let shared = parent.shared.clone();
        let entry = entry.filter(|_| made || shared.overwrite != Overwrite::Never);
        if !made && entry.is_some() {
            open_to_owner(&handle);
        }
        let hands_down = (parent.hands_down || !made) && hands_down(&handle);
        Ok(Self {
            path: path.to_vec(),
            handle,
            shared,
            is_new: made,
            hands_down,
            entry,
            _parent: Some(parent),
        })
    }

    /// A handle of the folder at a path below this one, for linking only.
    pub(super) fn find(&self, path: &[u8]) -> io::Result<OwnedFd> {
        let mut folder = open(&self.handle, c".", OFlags::PATH)?;
        for name in path.split(|&byte| byte == b'/').filter(|name| !name.is_empty()) {
            folder = open(&folder, &super::c_name(name)?, OFlags::PATH)?;
        }
        Ok(folder)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Some(entry) = &self.entry {
            let place = Place::Open(self.handle.as_fd());
            metadata::apply_with(place, entry, &self.shared, !self.is_new || self.hands_down);
        }
    }
}

/// Whether what is made in a folder gets access lists from it.
fn hands_down(folder: &OwnedFd) -> bool {
    // Where there can be none, or none is: that is an error.
    let mut list = [0; 0];
    rustix::fs::fgetxattr(folder, c"system.posix_acl_default", &mut list).is_ok()
}

/// Lets the owner fill a folder that is there and closed; its metadata comes in the end.
fn open_to_owner(folder: &OwnedFd) {
    let owner = Mode::RWXU;
    if let Ok(stat) = rustix::fs::fstat(folder)
        && !Mode::from_raw_mode(stat.st_mode).contains(owner)
    {
        // Where this is not allowed, what is made in it says so.
        let _ = rustix::fs::fchmod(folder, Mode::from_raw_mode(stat.st_mode) | owner);
    }
}

/// Opens a folder by one name, never through a link.
fn open(parent: impl AsFd, name: &CStr, access: OFlags) -> Result<OwnedFd, Errno> {
    let flags = access | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::empty())
}

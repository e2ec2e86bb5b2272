//! Symbolic links, pipes, devices, and further names of files.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

use codec::manifest::{Entry, Node};
use rustix::fs::{AtFlags, FileType, Mode, makedev};
use rustix::io::Errno;

use super::folder::Folder;
use super::metadata::{self, Place};
use super::temporary::Temporary;
use super::{Ended, Overwrite, Problem, Stat, split};

/// Makes an entry that has no contents.
pub(super) fn make(folder: Arc<Folder>, name: &CStr, entry: &Entry) -> Result<Ended, Problem> {
    let shared = folder.shared.clone();
    let (temporary, ()) = Temporary::make(folder, |folder, name| make_node(folder, name, entry))
        .map_err(|error| Problem::new(&entry.path, "make", error))?;
    let place = Place::Named(temporary.folder.handle.as_fd(), &temporary.name);
    metadata::apply(place, entry, &shared);
    temporary.place(name).map_err(|error| Problem::new(&entry.path, "name", error))
}

fn make_node(folder: &Folder, name: &CStr, entry: &Entry) -> Result<(), Errno> {
    let mode = Mode::RUSR | Mode::WUSR;
    let node = |kind, (major, minor)| {
        rustix::fs::mknodat(&folder.handle, name, kind, mode, makedev(major, minor))
    };
    match &entry.node {
        Node::Symlink { target } => rustix::fs::symlinkat(&target[..], &folder.handle, name),
        Node::Fifo => node(FileType::Fifo, (0, 0)),
        Node::CharDevice { device } => node(FileType::CharacterDevice, *device),
        Node::BlockDevice { device } => node(FileType::BlockDevice, *device),
        Node::File { .. } | Node::Hardlink { .. } | Node::Directory => Err(Errno::INVAL),
    }
}

/// Another name of a file. Finish it when the file has its first name.
#[derive(Debug)]
pub(crate) struct LinkWriter {
    root: Arc<Folder>,
    folder: Arc<Folder>,
    name: CString,
    entry: Entry,
}

impl LinkWriter {
    pub(super) fn new(root: Arc<Folder>, folder: Arc<Folder>, name: CString, entry: Entry) -> Self {
        Self { root, folder, name, entry }
    }

    /// What is being restored.
    pub(crate) fn entry(&self) -> &Entry {
        &self.entry
    }

    /// Whether its own name exists and stays, whatever the file's first name leads to.
    pub(crate) fn stays(&self) -> bool {
        self.folder.shared.overwrite == Overwrite::Never
            && Stat::at(&self.folder.handle, &self.name).is_ok()
    }

    /// Makes the link.
    pub(crate) fn finish(self) -> Result<Ended, Problem> {
        let Self { root, folder, name, entry } = self;
        let problem = |error: io::Error| Problem::new(&entry.path, "link", error);
        let Node::Hardlink { first } = &entry.node else {
            return Err(problem(Errno::INVAL.into()));
        };
        let (parent, first) = split(first);
        let parent = root.find(parent).map_err(problem)?;
        let first = super::c_name(first).map_err(problem)?;
        let wanted = Stat::at(&parent, &first).map_err(|error| problem(error.into()))?;
        match Stat::at(&folder.handle, &name) {
            Ok(_) if folder.shared.overwrite == Overwrite::Never => return Ok(Ended::Skipped),
            // Renaming a name of a file to another of its names does nothing.
            Ok(there) if (there.device, there.inode) == (wanted.device, wanted.inode) => {
                return Ok(Ended::Skipped);
            }
            Ok(_) | Err(Errno::NOENT) => {}
            Err(error) => return Err(problem(error.into())),
        }
        let (temporary, ()) = Temporary::make(folder, |folder, name| {
            rustix::fs::linkat(&parent, &first, &folder.handle, name, AtFlags::empty())
        })
        .map_err(problem)?;
        temporary.place(&name).map_err(|error| problem(error.into()))
    }
}

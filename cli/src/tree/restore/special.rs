//! Symbolic links, pipes, devices, and further names of files.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use codec::manifest::{Entry, Node};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, makedev};
use rustix::io::Errno;

use super::folder::Folder;
use super::metadata::{self, Place};
use super::temporary::Temporary;
use super::{Ended, Overwrite, Problem, Stat, split};

/// Makes an entry that has no contents.
pub(super) fn make(folder: Arc<Folder>, name: &CStr, entry: &Entry) -> Result<Ended, Problem> {
    let problem = |error| Problem::new(&entry.path, "make", error);
    let (temporary, ()) =
        Temporary::make(folder, |folder, name| make_node(folder, name, entry)).map_err(problem)?;
    let made = open_made(&temporary.folder, &temporary.name, entry).map_err(problem)?;
    metadata::apply(Place::Handle(made.as_fd()), entry, &temporary.folder);
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

/// A handle of what was just made. Whoever may write to the folder can have put something else
/// under that name, which must not get the entry's owner and mode.
fn open_made(folder: &Folder, name: &CStr, entry: &Entry) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let made = rustix::fs::openat(&folder.handle, name, flags, Mode::empty())?;
    let stat = Stat::of(&made)?;
    let (kind, device) = match &entry.node {
        Node::Symlink { .. } => (FileType::Symlink, (0, 0)),
        Node::Fifo => (FileType::Fifo, (0, 0)),
        Node::CharDevice { device } => (FileType::CharacterDevice, *device),
        Node::BlockDevice { device } => (FileType::BlockDevice, *device),
        Node::File { .. } | Node::Hardlink { .. } | Node::Directory => {
            return Err(Errno::INVAL.into());
        }
    };
    // Something older under another name of it has more than one.
    if (stat.kind, stat.node_device, stat.links) == (kind, device, 1) {
        Ok(made)
    } else {
        Err(io::Error::other("somebody put something else in its place"))
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

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::super::Restorer;
    use super::*;

    #[test]
    fn what_was_put_in_the_place_of_a_pipe_keeps_its_mode() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("target");
        let restorer = Restorer::new(&target, Overwrite::Always, None).unwrap();
        let victim = dir.path().join("victim");
        fs::write(&victim, "").unwrap();
        fs::set_permissions(&victim, fs::Permissions::from_mode(0o600)).unwrap();
        symlink(&victim, target.join("link")).unwrap();
        fs::hard_link(&victim, target.join("name")).unwrap();
        let entry = |node| Entry {
            path: b"p".to_vec(),
            node,
            mode: 0o666,
            uid: rustix::process::getuid().as_raw(),
            gid: rustix::process::getgid().as_raw(),
            mtime: (1, 0),
            ctime: (1, 0),
            inode: 1,
            device: 1,
            xattrs: vec![],
            read_again: false,
        };
        let fifo = entry(Node::Fifo);
        for name in [c"link", c"name"] {
            assert!(open_made(&restorer.root, name, &fifo).is_err());
        }
        // A link that is swapped after it was looked at: the handle stays with what it was.
        make_node(&restorer.root, c"pipe", &fifo).unwrap();
        let made = open_made(&restorer.root, c"pipe", &fifo).unwrap();
        fs::rename(target.join("link"), target.join("pipe")).unwrap();
        metadata::apply(Place::Handle(made.as_fd()), &fifo, &restorer.root);
        let to_victim = entry(Node::Symlink { target: b"../victim".to_vec() });
        let made = open_made(&restorer.root, c"pipe", &to_victim).unwrap();
        metadata::apply(Place::Handle(made.as_fd()), &to_victim, &restorer.root);
        let mode = victim.metadata().unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode, 0o600);
        assert_eq!(Stat::at(&restorer.root.handle, c"pipe").unwrap().mtime, (1, 0));
        assert_ne!(Stat::at(&restorer.root.handle, c"name").unwrap().mtime, (1, 0));
    }
}

//! Makes files of entries, below one folder and nowhere else.
//!
//! Every step goes from a folder's handle by one name and follows no link, so neither a
//! manifest nor someone who swaps names meanwhile leads outside. What is not a folder is
//! made under a temporary name and renamed when it is complete: a stop at any time leaves
//! `.arc-….part` names at worst. Of a power cut the same is true up to the last
//! [`Restorer::sync`] only.

mod file;
mod folder;
mod metadata;
mod special;
mod temporary;

use std::collections::hash_map::RandomState;
use std::ffi::CStr;
use std::fs;
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};

use codec::manifest::{Entry, Node, is_within};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

use super::{Problem, Stat, c_name, split};
pub(crate) use file::FileWriter;
use folder::Folder;
pub(crate) use special::LinkWriter;

/// What to do about names that exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Overwrite {
    /// They stay, folders get no other metadata.
    Never,
    /// They stay where kind, size and modification time are the entry's.
    IfChanged,
    /// They are replaced; a folder never is, nor is anything replaced by one.
    Always,
}

/// What [`Restorer::begin`] made of an entry.
#[derive(Debug)]
pub(crate) enum Begun {
    /// It is there.
    Done,
    /// The name exists and stays; `same`: it is what the entry says, by kind, size and time.
    Skipped { same: bool },
    /// A file that waits for its contents.
    File(FileWriter),
    /// A hard link that waits for its first name to be there.
    Link(LinkWriter),
}

/// How a file or hard link ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// It has its final name.
    Placed,
    /// The name exists and stays.
    Skipped,
}

/// Restores entries in manifest order below a folder.
///
/// Folders get their metadata when the order has passed them and the last [`FileWriter`]
/// and [`LinkWriter`] below them is gone, so writers may be kept and finished in any
/// order, on any thread. Each keeps the folders above it open.
pub(crate) struct Restorer {
    /// From the target down to the folder of the entry that was begun last. Never empty.
    folders: Vec<Arc<Folder>>,
    /// The path of the last entry that is no folder.
    leaf: Option<Vec<u8>>,
    root: Arc<Folder>,
    shared: Arc<Shared>,
}

/// What all folders and writers of a restore know.
#[derive(Debug)]
struct Shared {
    overwrite: Overwrite,
    privileged: bool,
    /// Keeps the temporary names of two restores apart.
    run: u64,
    next_temporary: AtomicU64,
    problems: Mutex<Vec<Problem>>,
}

impl Restorer {
    /// Restores below `target`, which is made if need be, and gets the metadata of `entry`; not
    /// where something was in it and is to stay.
    pub(crate) fn new(
        target: &Path,
        overwrite: Overwrite,
        entry: Option<Entry>,
    ) -> io::Result<Self> {
        fs::create_dir_all(target)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let handle = rustix::fs::open(target, flags, Mode::empty())?;
        let shared = Arc::new(Shared {
            overwrite,
            privileged: rustix::process::geteuid().is_root(),
            run: RandomState::new().build_hasher().finish(),
            next_temporary: AtomicU64::new(0),
            problems: Mutex::default(),
        });
        let keeps = overwrite == Overwrite::Never && fs::read_dir(target)?.next().is_some();
        let entry = entry.filter(|_| !keeps);
        let root = Arc::new(Folder::target(handle, shared.clone(), entry));
        Ok(Self { folders: Vec::new(), leaf: None, root, shared })
    }

    /// Makes the next entry, or begins it. A problem is with this entry alone: go on.
    /// Folders above it that had no entry are made with default permissions.
    pub(crate) fn begin(&mut self, entry: Entry) -> Result<Begun, Problem> {
        entry.check().map_err(|error| {
            let error = io::Error::new(io::ErrorKind::InvalidData, error);
            Problem::new(&entry.path, "restore", error)
        })?;
        self.check_above(&entry)?;
        let (parent, name) = split(&entry.path);
        let folder = self.enter(parent)?;
        let name = c_name(name).map_err(|error| Problem::new(&entry.path, "name", error))?;
        match &entry.node {
            Node::Directory => {
                let path = entry.path.clone();
                self.folders.push(Arc::new(Folder::make(folder, &name, &path, Some(entry))?));
                Ok(Begun::Done)
            }
            Node::Hardlink { .. } => {
                Ok(Begun::Link(LinkWriter::new(self.root.clone(), folder, name, entry)))
            }
            _ => match self.shared.stays(&folder, &name, &entry)? {
                Some(same) => Ok(Begun::Skipped { same }),
                None if matches!(entry.node, Node::File { .. }) => {
                    FileWriter::begin(folder, name, entry).map(Begun::File)
                }
                None => special::make(folder, &name, &entry).map(|ended| match ended {
                    Ended::Placed => Begun::Done,
                    Ended::Skipped => Begun::Skipped { same: false },
                }),
            },
        }
    }

    /// Refuses an entry below one that is no folder: a file has no name yet when the next
    /// entries are made, so the target alone does not tell.
    fn check_above(&mut self, entry: &Entry) -> Result<(), Problem> {
        let below = |leaf: &Vec<u8>| entry.path != *leaf && is_within(&entry.path, leaf);
        if self.leaf.as_ref().is_some_and(below) {
            let error =
                io::Error::new(io::ErrorKind::InvalidData, "it lies below what is no folder");
            return Err(Problem::new(&entry.path, "restore", error));
        }
        let is_folder = matches!(entry.node, Node::Directory);
        self.leaf = (!is_folder).then(|| entry.path.clone());
        Ok(())
    }

    /// Flushes the target's file system: what was finished before survives a power cut.
    pub(crate) fn sync(&self) -> io::Result<()> {
        Ok(rustix::fs::syncfs(&self.root.handle)?)
    }

    /// Gives the last folders their metadata and returns what could not be restored
    /// although its entry was: owners, attributes, times. No writer may be left.
    pub(crate) fn finish(self) -> Vec<Problem> {
        let shared = self.shared.clone();
        drop(self);
        let mut problems = shared.problems.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *problems)
    }

    /// The folder at `path`: the nearest one that is open, and from there what is missing.
    fn enter(&mut self, path: &[u8]) -> Result<Arc<Folder>, Problem> {
        while self.folders.last().is_some_and(|folder| !is_within(path, &folder.path)) {
            self.folders.pop();
        }
        let mut folder = self.folders.last().unwrap_or(&self.root).clone();
        while folder.path.len() < path.len() {
            let start = folder.path.len() + usize::from(!folder.path.is_empty());
            let rest = &path[start..];
            let end = start + rest.iter().position(|&byte| byte == b'/').unwrap_or(rest.len());
            let name =
                c_name(&path[start..end]).map_err(|error| Problem::new(path, "name", error))?;
            folder = Arc::new(Folder::make(folder, &name, &path[..end], None)?);
            self.folders.push(folder.clone());
        }
        Ok(folder)
    }
}

impl Shared {
    /// Whether what is there under the entry's name is what the entry says; `None` where
    /// nothing is there that stays.
    fn stays(&self, folder: &Folder, name: &CStr, entry: &Entry) -> Result<Option<bool>, Problem> {
        // Whatever has the name by then is not replaced, or is.
        if folder.is_new && self.overwrite != Overwrite::IfChanged {
            return Ok(None);
        }
        let there = match Stat::at(&folder.handle, name) {
            Ok(there) => there,
            Err(Errno::NOENT) => return Ok(None),
            Err(error) => return Err(Problem::new(&entry.path, "look at", error)),
        };
        let same = is_same(&there, entry);
        let stays = match self.overwrite {
            Overwrite::Never => true,
            Overwrite::IfChanged => same,
            Overwrite::Always => false,
        };
        Ok(stays.then_some(same))
    }

    fn note(&self, problem: Problem) {
        self.problems.lock().unwrap_or_else(PoisonError::into_inner).push(problem);
    }
}

fn is_same(there: &Stat, entry: &Entry) -> bool {
    let same_node = match (&entry.node, there.kind) {
        (Node::File { bytes, .. }, FileType::RegularFile) => *bytes == there.bytes,
        (Node::Symlink { target }, FileType::Symlink) => target.len() as u64 == there.bytes,
        (Node::Fifo, FileType::Fifo) => true,
        (Node::CharDevice { device }, FileType::CharacterDevice)
        | (Node::BlockDevice { device }, FileType::BlockDevice) => *device == there.node_device,
        _ => false,
    };
    same_node && entry.mtime == there.mtime
}

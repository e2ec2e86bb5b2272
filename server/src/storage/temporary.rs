//! A file under a temporary name, on its way to a shard's.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::address::Address;
use super::fault::Fault;
use super::room::Room;
use super::shelf::Shelf;
use crate::wire::Code;
use crate::{Error, Result};

/// Removed on drop, unless it has its name by then.
pub(super) struct Temporary {
    pub(super) file: File,
    path: PathBuf,
    room: Arc<Room>,
}

impl Temporary {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn write_at(&self, bytes: &[u8], at: u64) -> Result<()> {
        let written = self.file.write_all_at(bytes, at);
        let full = |error: &io::Error| {
            matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
        };
        if written.as_ref().is_err_and(full) {
            return Err(Error::refuse(Code::NoSpace, "the disk is full"));
        }
        self.room.told(written.map_err(Error::io("cannot write", &self.path)))
    }
}

impl Shelf {
    /// A new file for the shard of `address`.
    pub(super) fn temporary(&self, address: Address) -> Result<Temporary> {
        let path = self.root.join("tmp").join(self.unique_name(address));
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path);
        let file = self.room.told_of_name(file.map_err(Error::io("cannot create", &path)))?;
        Ok(Temporary { file, path, room: Arc::clone(&self.room) })
    }

    /// Syncs the bytes of a file that is all written.
    pub(super) fn sync(&self, written: &Temporary) -> Result<()> {
        let synced = match self.fault {
            Some(Fault::SyncFails) => Err(io::Error::other("a planted failure")),
            _ => written.file.sync_all(),
        };
        self.room.told(synced.map_err(Error::io("cannot sync", &written.path)))
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        match fs::remove_file(&self.path) {
            // It has its name now.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => tracing::warn!(%error, "cannot remove {}", self.path.display()),
            Ok(()) => {}
        }
    }
}

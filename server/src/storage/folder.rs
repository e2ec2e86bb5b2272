//! A server's folder: its lock, its layout, and its small files.
//!
//! `server.id`, `keys`, `starts`, `epoch`, `vault.record` are replaced whole;
//! `shards/<2 hex>/` holds the shard files, `tmp/` what is being written,
//! `trash/<day>/` and `quarantine/` what was put aside.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::durable;
use crate::{Error, Result};

/// The small files are shorter than this; a longer one is not ours.
const SMALL_FILE_BYTES_MAX: u64 = 1024 * 1024;

/// A folder that this process alone uses.
pub(super) struct Folder {
    root: PathBuf,
    lock: File,
    /// Held while a small file is replaced: they share temporary names.
    writing: Mutex<()>,
}

impl Folder {
    /// Locks the folder. Only a `first_start` may make one or use one without `server.id`.
    pub(super) fn open(root: &Path, first_start: bool) -> Result<Self> {
        let known = root.join("server.id").try_exists().map_err(Error::io("cannot read", root))?;
        if !known && !first_start {
            return Err(Error::Config(format!(
                "{} has no server.id: is its disk not mounted? \
                 (a first start needs a join token)",
                root.display()
            )));
        }
        make_root(root)?;
        let path = root.join("lock");
        let lock = File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(Error::io("cannot open", &path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let root = root.display();
                return Err(Error::Config(format!("another arc server is using {root}")));
            }
            Err(TryLockError::Error(error)) => return Err(Error::io("cannot lock", path)(error)),
        }
        Ok(Self { root: root.into(), lock, writing: Mutex::new(()) })
    }

    /// Lets the next process have the folder.
    pub(super) fn unlock(&self) {
        if let Err(error) = self.lock.unlock() {
            tracing::warn!(%error, "cannot unlock {}", self.root.display());
        }
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Makes the subfolders that are missing, and removes what a crash left in `tmp`.
    pub(super) fn prepare(&self) -> Result<()> {
        for name in ["shards", "tmp", "trash", "quarantine"] {
            durable::make_dir(&self.root.join(name))?;
        }
        let shards = self.root.join("shards");
        (0..=255).try_for_each(|n| durable::make_dir(&shards.join(format!("{n:02x}"))))?;
        durable::sync_dir(&shards)?;
        durable::sync_dir(&self.root)?;
        let tmp = self.root.join("tmp");
        for entry in fs::read_dir(&tmp).map_err(Error::io("cannot list", &tmp))? {
            let path = entry.map_err(Error::io("cannot list", &tmp))?.path();
            fs::remove_file(&path).map_err(Error::io("cannot remove", &path))?;
        }
        Ok(())
    }

    /// A small file's bytes, if there is one.
    pub(super) fn read(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let path = self.root.join(name);
        let file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file.map_err(Error::io("cannot open", &path))?,
        };
        let mut bytes = Vec::new();
        let read = file.take(SMALL_FILE_BYTES_MAX).read_to_end(&mut bytes);
        read.map_err(Error::io("cannot read", &path))?;
        Ok(Some(bytes))
    }

    /// Replaces a small file durably.
    pub(super) fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let _alone = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        durable::write(&self.root.join(name), &self.root.join("tmp").join(name), bytes)
    }

    /// A number kept in a small file; 0 when there is none.
    pub(super) fn read_number(&self, name: &str) -> Result<u64> {
        let Some(bytes) = self.read(name)? else { return Ok(0) };
        let number = std::str::from_utf8(&bytes).ok().and_then(|text| text.trim().parse().ok());
        number.ok_or_else(|| {
            Error::Config(format!("{} is not a number", self.root.join(name).display()))
        })
    }

    /// Keeps a number.
    pub(super) fn write_number(&self, name: &str, number: u64) -> Result<()> {
        self.write(name, format!("{number}\n").as_bytes())
    }

    /// Keeps the vault record, unless it is the one that is there.
    pub(super) fn keep_record(&self, record: &[u8]) -> Result<()> {
        if self.read("vault.record")?.as_deref() == Some(record) {
            return Ok(());
        }
        self.write("vault.record", record)
    }
}

fn make_root(root: &Path) -> Result<()> {
    if root.is_dir() {
        return Ok(());
    }
    let make = fs::DirBuilder::new().mode(0o700).recursive(true).create(root);
    make.map_err(Error::io("cannot make the folder", root))?;
    let absolute = std::path::absolute(root).map_err(Error::io("cannot find", root))?;
    absolute.parent().map_or(Ok(()), durable::sync_dir)
}

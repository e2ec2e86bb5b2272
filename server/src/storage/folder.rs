//! A server's folder: its lock, its layout, and its small files.
//!
//! `server.id`, `keys`, `tls`, `starts`, `epoch`, `scrub`, `vault.record` are replaced whole;
//! `shards/<2 hex>/` holds the shard files, `bad/` which of them are bad, `facts/` what the
//! coordinator has on record, `tmp/`
//! what is being written, `trash/<day>/` and `quarantine/` what was put aside. Until `server.id` is
//! there, the empty file `arc-first-start` says whose folder it will be.

use std::ffi::OsString;
use std::fs::{self, File, TryLockError};
use std::io::{self, Read as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use codec::VaultId;
use codec::keys::VaultRecord;

use super::durable;
use crate::wire::Code;
use crate::{Error, Result};

/// The small files are shorter than this; a longer one is not ours.
const SMALL_FILE_BYTES_MAX: u64 = 1024 * 1024;

/// The mark of a first start that is under way: it is the first thing in the empty folder.
const FIRST_START: &str = "arc-first-start";
/// What a first start that was cut off may have left beside its mark.
const FIRST_LEFT: [&str; 8] =
    ["lock", "keys", "shards", "bad", "facts", "tmp", "trash", "quarantine"];

const RECORD_FILE: &str = "vault.record";

/// A folder that this process alone uses.
pub(super) struct Folder {
    root: PathBuf,
    lock: File,
    /// Held while a small file is replaced: they share temporary names.
    writing: Mutex<()>,
}

impl Folder {
    /// Locks the folder. Only a `first_start` may make one, or use one without `server.id`: an
    /// empty one, since what other files are in it would not be ours to replace.
    pub(super) fn open(root: &Path, first_start: bool) -> Result<Self> {
        let known = root.join("server.id").try_exists().map_err(Error::io("cannot read", root))?;
        match (known, first_start) {
            (true, _) => {}
            (false, true) => claim(root)?,
            (false, false) => {
                return Err(Error::Config(format!(
                    "{} has no server.id: is its disk not mounted? \
                     (a first start needs a join token)",
                    root.display()
                )));
            }
        }
        let path = root.join("lock");
        let lock = match File::options().write(true).create(true).truncate(false).open(&path) {
            // It can be locked all the same.
            Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => File::open(&path),
            lock => lock,
        };
        let lock = lock.map_err(Error::io("cannot open", &path))?;
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
        for name in ["shards", "bad", "facts", "tmp", "trash", "quarantine"] {
            durable::make_dir(&self.root.join(name))?;
        }
        let shards = self.root.join("shards");
        (0..=255).try_for_each(|n| durable::make_dir(&shards.join(format!("{n:02x}"))))?;
        durable::sync_dir(&shards)?;
        durable::sync_dir(&self.root)?;
        let tmp = self.root.join("tmp");
        let metadata = tmp.symlink_metadata().map_err(Error::io("cannot read", &tmp))?;
        if !metadata.is_dir() {
            let tmp = tmp.display();
            return Err(Error::Config(format!(
                "{tmp} is not a folder: what it holds is removed at every start, so it may not \
                 lead elsewhere; take it away"
            )));
        }
        for entry in fs::read_dir(&tmp).map_err(Error::io("cannot list", &tmp))? {
            let path = entry.map_err(Error::io("cannot list", &tmp))?.path();
            fs::remove_file(&path).map_err(Error::io("cannot remove", &path))?;
        }
        Ok(())
    }

    /// The folder has its `server.id`: the first start is over.
    pub(super) fn settle(&self) {
        let mark = self.root.join(FIRST_START);
        match fs::remove_file(&mark) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(%error, "cannot remove {}", mark.display());
            }
            _ => {}
        }
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
        let alone = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        self.replace(&alone, name, bytes)
    }

    fn replace(&self, _: &MutexGuard<'_, ()>, name: &str, bytes: &[u8]) -> Result<()> {
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

    /// Keeps the vault record; another vault's, and one older than the one kept, are refused.
    pub(super) fn keep_record(&self, vault: VaultId, bytes: &[u8]) -> Result<()> {
        let record = VaultRecord::decode(bytes)?;
        if record.vault != vault {
            let why = format!("a record of vault {}, not of {vault}", record.vault);
            return Err(Error::refuse(Code::Forbidden, why));
        }
        let alone = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = self.read(RECORD_FILE)?;
        if kept.as_deref() == Some(bytes) {
            return Ok(());
        }
        match kept.as_deref().map(VaultRecord::decode) {
            Some(Ok(kept)) if kept.generation > record.generation => {
                let (kept, given) = (kept.generation, record.generation);
                let why = format!("a vault record of generation {given}, {kept} is kept here");
                return Err(Error::refuse(Code::Conflict, why));
            }
            Some(Err(error @ codec::Error::Version { .. })) => return Err(error.into()),
            // What is kept may be damaged: then the coordinator's is better.
            _ => {}
        }
        self.replace(&alone, RECORD_FILE, bytes)
    }
}

/// Makes the folder of a first start, or marks an empty one. One that an earlier first start left
/// behind is taken, any other is refused and not touched.
fn claim(root: &Path) -> Result<()> {
    make_root(root)?;
    if let (_, Some(other)) = first_left(root)? {
        return Err(Error::Config(format!(
            "{} has no server.id and is not empty (it has {other:?}): give an empty or a new \
             folder for the first start",
            root.display()
        )));
    }
    let mark = root.join(FIRST_START);
    File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .open(&mark)
        .and_then(|file| file.sync_all())
        .map_err(Error::io("cannot make", &mark))?;
    durable::sync_dir(root)
}

/// Whether all in the folder is of a first start that was cut off.
pub(super) fn is_cut_off_start(root: &Path) -> Result<bool> {
    Ok(first_left(root)? == (true, None))
}

/// Whether a first start has marked the folder, and something in it that is not of one.
fn first_left(root: &Path) -> Result<(bool, Option<OsString>)> {
    let mut names = Vec::new();
    for entry in fs::read_dir(root).map_err(Error::io("cannot list", root))? {
        names.push(entry.map_err(Error::io("cannot list", root))?.file_name());
    }
    names.retain(|name| name != "lost+found");
    let marked = names.iter().any(|name| name == FIRST_START);
    let ours = |name: &OsString| name == FIRST_START || FIRST_LEFT.iter().any(|left| name == left);
    let other = names.into_iter().find(|name| !marked || !ours(name));
    Ok((marked, other))
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

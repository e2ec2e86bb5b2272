//! Files that are whole or absent after a crash: written under a temporary
//! name, synced, renamed, and the folder synced.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use crate::{Error, Result};

/// Replaces `path` by `bytes`, readable by the owner only. `temporary` is on the same file system.
pub(super) fn write(path: &Path, temporary: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(temporary)
        .map_err(Error::io("cannot create", temporary))?;
    file.write_all(bytes).map_err(Error::io("cannot write", temporary))?;
    file.sync_all().map_err(Error::io("cannot sync", temporary))?;
    fs::rename(temporary, path).map_err(Error::io("cannot make", path))?;
    path.parent().map_or(Ok(()), sync_dir)
}

/// Syncs the names in a folder.
pub(super) fn sync_dir(path: &Path) -> Result<()> {
    File::open(path).and_then(|dir| dir.sync_all()).map_err(Error::io("cannot sync", path))
}

/// Makes a folder unless it is there; its parent is the caller's to sync.
pub(super) fn make_dir(path: &Path) -> Result<()> {
    match fs::create_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(Error::io("cannot make the folder", path)(error))
        }
        _ => Ok(()),
    }
}

/// Renames `from` to `to` unless something is there already (`AlreadyExists`).
pub(super) fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // Some file systems do not know the flag; a link does not replace either.
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
            fs::hard_link(from, to)?;
            fs::remove_file(from)
        }
        done => Ok(done?),
    }
}

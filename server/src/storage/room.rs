//! Room on the disk: what is free beyond the reserve, less what is promised to
//! PUTs and rebuilds under way. A disk that failed a write or a sync has none.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::statvfs;
use rustix::io::Errno;

use crate::wire::Code;
use crate::{Error, Result};

const RESERVE_BYTES_MAX: u64 = 1024 * 1024 * 1024;

/// What a disk or a file system answers for bytes that it cannot give back.
const UNREADABLE: [Errno; 4] = [Errno::IO, Errno::UCLEAN, Errno::BADMSG, Errno::ILSEQ];

/// Whether the disk has the bytes but cannot give them back: they are as good as wrong.
pub(super) fn is_unreadable(error: &io::Error) -> bool {
    UNREADABLE.into_iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

/// Whether the disk fails or has become read-only, rather than being full.
fn is_failing(error: &Error) -> bool {
    let Error::Io { source, .. } = error else { return false };
    source.kind() == io::ErrorKind::ReadOnlyFilesystem || is_unreadable(source)
}

/// The room on one disk.
pub(super) struct Room {
    path: PathBuf,
    reserve_bytes: Option<u64>,
    promised_bytes: Mutex<u64>,
    trouble: Mutex<Option<String>>,
}

/// How much there is of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Space {
    pub(super) capacity_bytes: u64,
    /// Beyond the reserve.
    pub(super) free_bytes: u64,
}

/// Bytes promised to one PUT or rebuild, given back on drop.
pub(super) struct Promise {
    room: Arc<Room>,
    bytes: u64,
}

impl Room {
    pub(super) fn new(path: PathBuf, reserve_bytes: Option<u64>) -> Self {
        Self { path, reserve_bytes, promised_bytes: Mutex::default(), trouble: Mutex::default() }
    }

    /// The disk's space now, without regard to promises.
    pub(super) fn space(&self) -> Result<Space> {
        self.space_beyond(self.reserve_bytes)
    }

    fn space_beyond(&self, reserve_bytes: Option<u64>) -> Result<Space> {
        let disk = statvfs(&self.path)
            .map_err(|error| Error::io("cannot examine", &self.path)(error.into()))?;
        let capacity_bytes = disk.f_blocks.saturating_mul(disk.f_frsize);
        let available = disk.f_bavail.saturating_mul(disk.f_frsize);
        let reserve = reserve_bytes.unwrap_or((capacity_bytes / 50).min(RESERVE_BYTES_MAX));
        Ok(Space { capacity_bytes, free_bytes: available.saturating_sub(reserve) })
    }

    /// Promises `bytes` to a PUT, or refuses before any of them is read.
    pub(super) fn promise(self: &Arc<Self>, bytes: u64) -> Result<Promise> {
        self.promise_beyond(bytes, self.reserve_bytes)
    }

    /// The same for a repair, which the reserve is kept for.
    pub(super) fn promise_repair(self: &Arc<Self>, bytes: u64) -> Result<Promise> {
        self.promise_beyond(bytes, Some(0))
    }

    fn promise_beyond(self: &Arc<Self>, bytes: u64, reserve_bytes: Option<u64>) -> Result<Promise> {
        let mut promised = self.promised_bytes.lock().unwrap_or_else(PoisonError::into_inner);
        let free = self.space_beyond(reserve_bytes)?.free_bytes.saturating_sub(*promised);
        if bytes > free {
            let beyond = if reserve_bytes == Some(0) { "" } else { " beyond the reserve" };
            let why = format!("no room for {bytes} bytes: {free} are free{beyond}");
            return Err(Error::refuse(Code::NoSpace, why));
        }
        *promised += bytes;
        Ok(Promise { room: Arc::clone(self), bytes })
    }

    /// Refuses if the disk is in trouble.
    pub(super) fn require_sound(&self) -> Result<()> {
        match self.trouble() {
            None => Ok(()),
            Some(why) => Err(Error::refuse(Code::NoSpace, why)),
        }
    }

    /// Passes on how a write or a sync went; a failure puts the disk in trouble, and is never
    /// tried again.
    pub(super) fn told<T>(&self, done: Result<T>) -> Result<T> {
        done.map_err(|error| {
            self.report_trouble(&error);
            Error::refuse(Code::NoSpace, format!("nothing was stored: {error}"))
        })
    }

    /// Passes on how the making of a name went: it fails for many reasons, but a disk that fails
    /// or is read-only is in trouble by it.
    pub(super) fn told_of_name<T>(&self, done: Result<T>) -> Result<T> {
        match done {
            Err(error) if is_failing(&error) => self.told(Err(error)),
            done => done,
        }
    }

    /// From now on the disk takes no writes; the server must be started again, by someone who
    /// has looked at the disk.
    pub(super) fn report_trouble(&self, error: &Error) {
        tracing::error!(%error, "the disk takes no more writes");
        let why = format!("this server takes no writes since one failed: {error}");
        let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        trouble.get_or_insert(why);
    }

    /// Why the disk takes no writes, if it does not.
    pub(super) fn trouble(&self) -> Option<String> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        let mut promised = self.room.promised_bytes.lock().unwrap_or_else(PoisonError::into_inner);
        *promised -= self.bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_promised_is_not_promised_again() {
        let room = Arc::new(Room::new(std::env::temp_dir(), None));
        let most = room.space().unwrap().free_bytes / 3 * 2;
        let first = room.promise(most).unwrap();
        assert_eq!(room.promise(most).err().unwrap().code(), Some(Code::NoSpace));
        drop(first);
        room.promise(most).unwrap();
    }

    #[test]
    fn the_reserve_is_kept_for_repair() {
        let room = Arc::new(Room::new(std::env::temp_dir(), Some(u64::MAX)));
        assert_eq!(room.promise(1).err().unwrap().code(), Some(Code::NoSpace));
        room.promise_repair(1).unwrap();
    }
}

//! A name that goes away again unless it becomes a final one.

use std::ffi::{CStr, CString};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::fs::{AtFlags, RenameFlags};
use rustix::io::Errno;

use super::folder::Folder;
use super::{Ended, Overwrite, c_name};

const ATTEMPTS: usize = 100;

/// Something unfinished in a folder.
#[derive(Debug)]
pub(super) struct Temporary {
    pub(super) name: CString,
    placed: bool,
    pub(super) folder: Arc<Folder>,
}

impl Temporary {
    /// Has `make` make something under a name that was free; it must fail with `EEXIST`
    /// where it is not.
    pub(super) fn make<T>(
        folder: Arc<Folder>,
        mut make: impl FnMut(&Folder, &CStr) -> Result<T, Errno>,
    ) -> io::Result<(Self, T)> {
        for _ in 0..ATTEMPTS {
            let shared = &folder.shared;
            let number = shared.next_temporary.fetch_add(1, Ordering::Relaxed);
            let name = c_name(format!(".arc-{:016x}-{number}.part", shared.run).as_bytes())?;
            match make(&folder, &name) {
                Ok(made) => return Ok((Self { name, placed: false, folder }, made)),
                Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(Errno::EXIST.into())
    }

    /// Gives it its final name, in one step.
    pub(super) fn place(mut self, name: &CStr) -> Result<Ended, Errno> {
        let folder = &self.folder.handle;
        if self.folder.shared.overwrite != Overwrite::Never {
            rustix::fs::renameat(folder, &self.name, folder, name)?;
            self.placed = true;
            return Ok(Ended::Placed);
        }
        let flags = RenameFlags::NOREPLACE;
        match rustix::fs::renameat_with(folder, &self.name, folder, name, flags) {
            Ok(()) => self.placed = true,
            Err(Errno::EXIST) => return Ok(Ended::Skipped),
            // Not every file system knows the flag. A link replaces nothing either; the
            // temporary name goes when `self` does.
            Err(Errno::INVAL | Errno::NOSYS) => {
                match rustix::fs::linkat(folder, &self.name, folder, name, AtFlags::empty()) {
                    Ok(()) => {}
                    Err(Errno::EXIST) => return Ok(Ended::Skipped),
                    Err(error) => return Err(error),
                }
            }
            Err(error) => return Err(error),
        }
        Ok(Ended::Placed)
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.placed {
            // What cannot be removed has a name that says what it is.
            let _ = rustix::fs::unlinkat(&self.folder.handle, &self.name, AtFlags::empty());
        }
    }
}

//! A file that is being written.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use codec::manifest::{Content, Entry, Node};
use rustix::fs::{Mode, OFlags};

use super::folder::Folder;
use super::metadata::{self, Place};
use super::temporary::Temporary;
use super::{Ended, Problem};

/// A file under a temporary name, of all holes. Dropped unfinished, it is removed. One of a
/// single chunk is made and closed again when that is written.
#[derive(Debug)]
pub(crate) struct FileWriter {
    entry: Entry,
    name: CString,
    bytes: u64,
    written_bytes: AtomicU64,
    at: At,
}

#[derive(Debug)]
enum At {
    /// It takes its contents piece by piece.
    Open(Unnamed),
    /// It is open while it is written, which is mostly one call, in this folder.
    Once(Arc<Folder>, Mutex<Once>),
}

#[derive(Debug, Default)]
struct Once {
    begun: Option<Unnamed>,
    /// Complete but for its name.
    made: Option<Temporary>,
}

/// A file without its name.
#[derive(Debug)]
struct Unnamed {
    file: File,
    temporary: Temporary,
}

impl Unnamed {
    fn make(folder: Arc<Folder>) -> io::Result<Self> {
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let (temporary, file) = Temporary::make(folder, |folder, name| {
            let mode = Mode::RUSR | Mode::WUSR;
            rustix::fs::openat(&folder.handle, name, flags, mode)
        })?;
        Ok(Self { file: file.into(), temporary })
    }

    /// Of its full length, if it has holes, which may be at its end.
    fn with_holes(self, entry: &Entry) -> io::Result<Self> {
        if let Node::File { bytes, holes, .. } = &entry.node
            && !holes.is_empty()
        {
            self.file.set_len(*bytes)?;
        }
        Ok(self)
    }

    /// Gives it its metadata, and closes it.
    fn close(self, entry: &Entry) -> Temporary {
        let Self { file, temporary } = self;
        metadata::apply(Place::Open(file.as_fd()), entry, &temporary.folder);
        temporary
    }
}

impl FileWriter {
    pub(super) fn begin(folder: Arc<Folder>, name: CString, entry: Entry) -> Result<Self, Problem> {
        let Node::File { bytes, content, .. } = &entry.node else {
            return Err(Problem::new(&entry.path, "write", io::Error::other("it is not a file")));
        };
        if i64::try_from(*bytes).is_err() {
            let why = format!("{bytes} bytes are more than a file can have");
            return Err(Problem::new(&entry.path, "create", io::Error::other(why)));
        }
        let is_one = match content {
            Content::Chunks(chunks) => {
                *bytes == 0 || matches!(chunks[..], [chunk] if u64::from(chunk.bytes) == *bytes)
            }
            Content::List(_) => false,
        };
        let at = match is_one {
            true => At::Once(folder, Mutex::default()),
            false => At::Open(made(folder, &entry)?),
        };
        Ok(Self { name, bytes: *bytes, written_bytes: AtomicU64::new(0), at, entry })
    }

    /// Whether it holds a file open.
    pub(crate) fn is_open(&self) -> bool {
        matches!(self.at, At::Open(_))
    }

    /// What is being restored.
    pub(crate) fn entry(&self) -> &Entry {
        &self.entry
    }

    /// Writes contents at an offset, from any thread; each byte of the file once, holes
    /// as the zeros that they read as. Zeros in a hole stay a hole.
    pub(crate) fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), Problem> {
        let problem = |error| Problem::new(&self.entry.path, "write", error);
        let length = bytes.len() as u64;
        if offset.checked_add(length).is_none_or(|end| end > self.bytes) {
            let why = format!("{length} bytes at {offset} of a file of {}", self.bytes);
            return Err(problem(io::Error::new(io::ErrorKind::InvalidInput, why)));
        }
        match &self.at {
            At::Open(unnamed) => self.write(&unnamed.file, offset, bytes).map_err(problem)?,
            At::Once(folder, once) => {
                let mut once = once.lock().unwrap_or_else(PoisonError::into_inner);
                let unnamed = match once.begun.take() {
                    Some(unnamed) => unnamed,
                    None => made(Arc::clone(folder), &self.entry)?,
                };
                self.write(&unnamed.file, offset, bytes).map_err(problem)?;
                match self.written_bytes.load(Ordering::Relaxed) + length == self.bytes {
                    true => once.made = Some(unnamed.close(&self.entry)),
                    false => once.begun = Some(unnamed),
                }
            }
        }
        self.written_bytes.fetch_add(length, Ordering::Relaxed);
        Ok(())
    }

    fn write(&self, file: &File, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let holes = match &self.entry.node {
            Node::File { holes, .. } => &holes[..],
            _ => &[],
        };
        if holes.is_empty() {
            return file.write_all_at(bytes, offset);
        }
        for piece in pieces(holes, offset, bytes) {
            if !(piece.in_hole && piece.bytes.iter().all(|&byte| byte == 0)) {
                file.write_all_at(piece.bytes, piece.offset)?;
            }
        }
        Ok(())
    }

    /// Gives the complete file its metadata and then its name. A file of which not
    /// exactly every byte was written is refused and removed.
    pub(crate) fn finish(self) -> Result<Ended, Problem> {
        let written = self.written_bytes.into_inner();
        if written != self.bytes {
            let why = format!("{written} of {} bytes were written", self.bytes);
            return Err(Problem::new(&self.entry.path, "finish", io::Error::other(why)));
        }
        let temporary = match self.at {
            At::Open(unnamed) => unnamed.close(&self.entry),
            At::Once(folder, once) => {
                match once.into_inner().unwrap_or_else(PoisonError::into_inner).made {
                    Some(temporary) => temporary,
                    // It has no bytes, and so no chunk.
                    None => made(folder, &self.entry)?.close(&self.entry),
                }
            }
        };
        temporary.place(&self.name).map_err(|error| Problem::new(&self.entry.path, "name", error))
    }
}

fn made(folder: Arc<Folder>, entry: &Entry) -> Result<Unnamed, Problem> {
    let unnamed = Unnamed::make(folder).and_then(|unnamed| unnamed.with_holes(entry));
    unnamed.map_err(|error| Problem::new(&entry.path, "create", error))
}

/// A part of what is written that lies in a hole as a whole or not at all.
#[derive(Debug, PartialEq, Eq)]
struct Piece<'a> {
    offset: u64,
    bytes: &'a [u8],
    in_hole: bool,
}

/// Cuts `bytes` at the borders of holes, which ascend.
fn pieces<'a>(holes: &[(u64, u64)], mut offset: u64, mut bytes: &'a [u8]) -> Vec<Piece<'a>> {
    let first = holes.partition_point(|(start, length)| start + length <= offset);
    let mut pieces = Vec::new();
    let mut cut = |until: u64, in_hole: bool| {
        let length = until.saturating_sub(offset).min(bytes.len() as u64);
        if length > 0 {
            let (head, rest) = bytes.split_at(length as usize);
            pieces.push(Piece { offset, bytes: head, in_hole });
            (offset, bytes) = (offset + length, rest);
        }
        !bytes.is_empty()
    };
    for &(start, length) in &holes[first..] {
        if !(cut(start, false) && cut(start + length, true)) {
            return pieces;
        }
    }
    cut(u64::MAX, false);
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contents_are_cut_at_the_borders_of_holes() {
        let holes = [(2, 2), (4, 1), (8, 10)];
        let cut = |offset, length: usize| {
            pieces(&holes, offset, &[0; 20][..length])
                .iter()
                .map(|piece| (piece.offset, piece.bytes.len(), piece.in_hole))
                .collect::<Vec<_>>()
        };
        assert_eq!(
            cut(0, 9),
            [(0, 2, false), (2, 2, true), (4, 1, true), (5, 3, false), (8, 1, true)]
        );
        assert_eq!(cut(3, 1), [(3, 1, true)]);
        assert_eq!(cut(5, 3), [(5, 3, false)]);
        assert_eq!(cut(17, 3), [(17, 1, true), (18, 2, false)]);
        assert_eq!(cut(30, 4), [(30, 4, false)]);
        assert_eq!(cut(3, 0), []);
    }
}

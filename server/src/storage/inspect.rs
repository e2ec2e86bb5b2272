//! Looking at a shard file that lies on disk.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use codec::shard::{BodyCheck, Header, PEEK_BYTES};
use codec::{Digest, VaultId};

use super::address::Address;
use super::fault::Fault;
use super::room::is_unreadable;
use super::shelf::{Names, Shelf};
use crate::wire::{Found, Thoroughness};
use crate::{Error, Result};

/// Bytes that are read at a time.
pub(super) const PIECE_BYTES: usize = 128 * 1024;

/// What lies under an address.
#[derive(Debug)]
pub(super) enum Inspection {
    /// The shard, as sound as was asked, with the hash of its header.
    Good(Digest),
    /// Nothing.
    Missing,
    /// Not the shard, and why.
    Damaged(String),
}

impl From<Inspection> for Found {
    fn from(inspection: Inspection) -> Self {
        match inspection {
            Inspection::Good(_) => Self::Good,
            Inspection::Missing => Self::Missing,
            Inspection::Damaged(why) => Self::Damaged(why),
        }
    }
}

impl Shelf {
    /// Looks at the file of `address`, and remembers what is bad and what is good after all. An
    /// error says that nothing was learned about it.
    pub(super) fn inspect(&self, address: Address, how: Thoroughness) -> Result<Inspection> {
        let (file, inspection) = self.look(address, how);
        match (&inspection, &file) {
            (Ok(Inspection::Damaged(why)), file) => self.note_bad(address, file.as_ref(), why),
            (Ok(Inspection::Good(_)), Some(file)) if how == Thoroughness::Whole => {
                self.note_good(address, file);
            }
            _ => {}
        }
        inspection
    }

    /// The same, read whole, for whoever holds the folder.
    pub(super) fn inspect_in(&self, names: &mut Names, address: Address) -> Result<Inspection> {
        let (file, inspection) = self.look(address, Thoroughness::Whole);
        match (&inspection, &file) {
            (Ok(Inspection::Damaged(why)), file) => {
                self.note_bad_in(names, address, file.as_ref(), why);
            }
            (Ok(Inspection::Good(_)), Some(file)) => self.note_good_in(names, address, file),
            _ => {}
        }
        inspection
    }

    fn look(&self, address: Address, how: Thoroughness) -> (Option<File>, Result<Inspection>) {
        match self.open(address) {
            Ok(None) => (None, Ok(Inspection::Missing)),
            Err(error) => (None, inspection(Err(error))),
            Ok(Some(file)) => {
                let known = Some(address).filter(|_| how == Thoroughness::Present);
                let found = match known.and_then(|address| self.bad.reason(address)) {
                    Some(why) => Ok(Inspection::Damaged(format!("{why}; not read since"))),
                    None => inspection(self.examine(&file, address, how)),
                };
                (Some(file), found)
            }
        }
    }

    /// The header hash of an open file, if it is the shard of `address`.
    pub(super) fn examine(
        &self,
        file: &File,
        address: Address,
        how: Thoroughness,
    ) -> Result<Digest> {
        let mut reading = Reading::begin(self, file, address)?;
        match how {
            Thoroughness::Whole => {
                let mut piece = vec![0; PIECE_BYTES];
                while reading.step(self, file, &mut piece)? > 0 {}
                reading.finish()
            }
            Thoroughness::Present => self.require_readable(address).map(|()| reading.header_hash),
        }
    }

    /// That no read of the shard has failed.
    pub(super) fn require_readable(&self, address: Address) -> Result<()> {
        if self.bad.unreadable().contains(&address) {
            let why = "a read of it failed before";
            return Err(codec::Error::damaged("shard file", why).into());
        }
        Ok(())
    }
}

/// What an examination says of the shard.
pub(super) fn inspection(examined: Result<Digest>) -> Result<Inspection> {
    match examined.map_err(unreadable_is_damaged) {
        Ok(header_hash) => Ok(Inspection::Good(header_hash)),
        Err(Error::Codec(error)) => Ok(Inspection::Damaged(error.to_string())),
        Err(error) => Err(error),
    }
}

/// A shard file on its way through the checks, piece by piece.
pub(super) struct Reading {
    path: PathBuf,
    address: Address,
    header_hash: Digest,
    pub(super) file_bytes: u64,
    check: BodyCheck,
    at: u64,
}

impl Reading {
    /// Reads the header, which must be that of the shard of `address`, of a file as long as it.
    pub(super) fn begin(shelf: &Shelf, file: &File, address: Address) -> Result<Self> {
        let path = shelf.path(address);
        let file_bytes = file.metadata().map_err(Error::io("cannot read", &path))?.len();
        let header = read_header(file, &path, file_bytes)?;
        check_address(&header, shelf.vault, address)?;
        if header.file_bytes() != file_bytes {
            let why = format!("{file_bytes} bytes, not {}", header.file_bytes());
            return Err(codec::Error::damaged("shard file", why).into());
        }
        let (header_hash, at) = (header.header_hash, header.header_bytes());
        Ok(Self { path, address, header_hash, file_bytes, check: BodyCheck::new(&header), at })
    }

    /// Reads and checks what comes next, as much as `piece` takes; 0 bytes are the end.
    pub(super) fn step(&mut self, shelf: &Shelf, file: &File, piece: &mut [u8]) -> Result<usize> {
        let planted = shelf.reach_read(Fault::ReadFails, self.address);
        let read = planted.and_then(|()| {
            loop {
                match file.read_at(piece, self.at) {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    read => return read,
                }
            }
        });
        let read = read.map_err(Error::io("cannot read", &self.path))?;
        self.check.update(&piece[..read])?;
        self.at += read as u64;
        Ok(read)
    }

    /// Bytes that were not read yet.
    pub(super) fn left_bytes(&self) -> u64 {
        self.file_bytes.saturating_sub(self.at)
    }

    /// The hash of its header, if all of it was read and is right.
    pub(super) fn finish(self) -> Result<Digest> {
        self.check.finish()?;
        Ok(self.header_hash)
    }
}

/// A shard that the disk cannot give back is as good as a wrong one.
pub(super) fn unreadable_is_damaged(error: Error) -> Error {
    match error {
        Error::Io { source, .. } if is_unreadable(&source) => {
            codec::Error::damaged("shard file", format!("it cannot be read: {source}")).into()
        }
        other => other,
    }
}

/// The checked header of a shard file of `file_bytes`.
pub(super) fn read_header(file: &File, path: &Path, file_bytes: u64) -> Result<Header> {
    let read = |bytes: &mut [u8]| file.read_exact_at(bytes, 0);
    let mut prefix = [0; PEEK_BYTES];
    let header_bytes = if file_bytes < PEEK_BYTES as u64 {
        None
    } else {
        read(&mut prefix).map_err(Error::io("cannot read", path))?;
        Some(Header::peek_bytes(&prefix)?).filter(|&bytes| bytes as u64 <= file_bytes)
    };
    let Some(header_bytes) = header_bytes else {
        let why = format!("{file_bytes} bytes do not hold the header");
        return Err(codec::Error::damaged("shard file", why).into());
    };
    let mut bytes = vec![0; header_bytes];
    read(&mut bytes).map_err(Error::io("cannot read", path))?;
    Ok(Header::parse(&bytes)?)
}

/// Whether a header is that of the shard which belongs under `address`.
pub(super) fn check_address(header: &Header, vault: VaultId, address: Address) -> Result<()> {
    let held = Address { stripe: header.stripe, index: header.index };
    if (header.vault, held) == (vault, address) {
        return Ok(());
    }
    let why = format!("it is shard {held} of vault {}, not {address} of {vault}", header.vault);
    Err(codec::Error::damaged("shard file", why).into())
}

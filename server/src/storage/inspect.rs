//! Looking at a shard file that lies on disk.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use codec::shard::{BodyCheck, Header, PEEK_BYTES};
use codec::{Digest, VaultId};

use super::address::Address;
use super::fault::Fault;
use super::room::is_unreadable;
use super::shelf::Shelf;
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
    /// Looks at the file of `address`. An error says that nothing was learned about it.
    pub(super) fn inspect(&self, address: Address, how: Thoroughness) -> Result<Inspection> {
        let file = self.open(address);
        let examined =
            file.and_then(|file| file.map(|f| self.examine(&f, address, how)).transpose());
        match examined.map_err(unreadable_is_damaged) {
            Ok(Some(header_hash)) => {
                if how == Thoroughness::Whole {
                    self.unreadable().remove(&address);
                }
                Ok(Inspection::Good(header_hash))
            }
            Ok(None) => Ok(Inspection::Missing),
            Err(Error::Codec(error)) => Ok(Inspection::Damaged(error.to_string())),
            Err(error) => Err(error),
        }
    }

    /// The header hash of an open file, if it is the shard of `address`.
    pub(super) fn examine(
        &self,
        file: &File,
        address: Address,
        how: Thoroughness,
    ) -> Result<Digest> {
        let path = &self.path(address);
        let file_bytes = file.metadata().map_err(Error::io("cannot read", path))?.len();
        let header = read_header(file, path, file_bytes)?;
        check_address(&header, self.vault, address)?;
        if header.file_bytes() != file_bytes {
            let why = format!("{file_bytes} bytes, not {}", header.file_bytes());
            return Err(codec::Error::damaged("shard file", why).into());
        }
        match how {
            Thoroughness::Whole => {
                let planted = self.reach_read(Fault::ReadFails, address);
                planted.map_err(Error::io("cannot read", path))?;
                read_body(file, path, &header)?;
            }
            Thoroughness::Present => self.require_readable(address)?,
        }
        Ok(header.header_hash)
    }

    /// That no read of the shard has failed.
    pub(super) fn require_readable(&self, address: Address) -> Result<()> {
        if self.unreadable().contains(&address) {
            let why = "a read of it failed before";
            return Err(codec::Error::damaged("shard file", why).into());
        }
        Ok(())
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

fn read_body(file: &File, path: &Path, header: &Header) -> Result<()> {
    let mut check = BodyCheck::new(header);
    let mut at = header.header_bytes();
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        match file.read_at(&mut piece, at) {
            Ok(0) => return Ok(check.finish()?),
            Ok(read) => {
                check.update(&piece[..read])?;
                at += read as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Error::io("cannot read", path)(error)),
        }
    }
}

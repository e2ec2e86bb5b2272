//! Looking at a shard file that lies on disk.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use codec::shard::{BodyCheck, Header, PEEK_BYTES};
use codec::{Digest, VaultId};
use rustix::io::Errno;

use super::address::Address;
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

/// Looks at the file of `address`. An error says that nothing was learned about it.
pub(super) fn inspect(
    path: &Path,
    vault: VaultId,
    address: Address,
    thoroughness: Thoroughness,
) -> Result<Inspection> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Inspection::Missing),
        file => file.map_err(Error::io("cannot open", path))?,
    };
    match examine(&file, path, vault, address, thoroughness) {
        Ok(header_hash) => Ok(Inspection::Good(header_hash)),
        Err(Error::Codec(error)) => Ok(Inspection::Damaged(error.to_string())),
        // The disk could not give the bytes back: they are as good as wrong.
        Err(Error::Io { source, .. })
            if source.raw_os_error() == Some(Errno::IO.raw_os_error()) =>
        {
            Ok(Inspection::Damaged(format!("it cannot be read: {source}")))
        }
        Err(error) => Err(error),
    }
}

fn examine(
    file: &File,
    path: &Path,
    vault: VaultId,
    address: Address,
    thoroughness: Thoroughness,
) -> Result<Digest> {
    let file_bytes = file.metadata().map_err(Error::io("cannot read", path))?.len();
    let header = read_header(file, path, file_bytes)?;
    check_address(&header, vault, address)?;
    if header.file_bytes() != file_bytes {
        let why = format!("{file_bytes} bytes, not {}", header.file_bytes());
        return Err(codec::Error::damaged("shard file", why).into());
    }
    if thoroughness == Thoroughness::Whole {
        read_body(file, path, &header)?;
    }
    Ok(header.header_hash)
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

//! The shard file: header, block hashes, body, footer (docs/FORMAT.md).

mod header;

use serde::{Deserialize, Serialize};

pub use self::header::{Ends, Header, PEEK_BYTES};
pub(crate) use self::header::{check_pack_bytes, check_pack_key_bytes};
use crate::digest::BLOCK_BYTES;
use crate::seal::PACK_KEY_FIELD_BYTES_MAX;
use crate::{Digest, Error, Result};

/// Bytes of the footer.
pub const FOOTER_BYTES: usize = 96;
/// The header is padded to a multiple of this.
pub const HEADER_ALIGN_BYTES: usize = 4096;
/// The longest header that any valid shard has: of 1+254, the longest pack and pack key field.
pub const HEADER_BYTES_MAX: usize =
    header::header_bytes(255, PACK_KEY_FIELD_BYTES_MAX as u64, PACK_BYTES_MAX + 1) as usize;
/// The longest pack: 4 GiB minus one byte.
pub const PACK_BYTES_MAX: u64 = u32::MAX as u64;

/// What a stripe carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum Kind {
    /// File contents, and metadata beside them in a small pack.
    Data = 0,
    /// Manifest pages and chunk lists.
    Metadata = 1,
    /// One snapshot record.
    Snapshot = 2,
    /// Another record (a catalog backup, a stamp).
    Record = 3,
}

impl TryFrom<u8> for Kind {
    type Error = Error;

    fn try_from(byte: u8) -> Result<Self> {
        match byte {
            0 => Ok(Self::Data),
            1 => Ok(Self::Metadata),
            2 => Ok(Self::Snapshot),
            3 => Ok(Self::Record),
            _ => Err(Error::damaged("stripe kind", format!("{byte} is none of 0 to 3"))),
        }
    }
}

/// A whole shard file whose every byte was checked.
#[derive(Debug)]
pub struct Shard<'a> {
    /// Its header.
    pub header: Header,
    /// Its body.
    pub body: &'a [u8],
}

impl<'a> Shard<'a> {
    /// Reads a whole file that is in memory, by the checks that streams go through too:
    /// [`Header::parse`] and [`BodyCheck`]. Nothing else reads shard files.
    pub fn parse(file: &'a [u8]) -> Result<Self> {
        let header_bytes = Header::peek_bytes(file)?;
        let Some((header, rest)) = file.split_at_checked(header_bytes) else {
            let why = format!("{} bytes, the header alone has {header_bytes}", file.len());
            return Err(Error::damaged("shard file", why));
        };
        let header = Header::parse(header)?;
        if file.len() as u64 != header.file_bytes() {
            let why = format!("{} bytes, not {}", file.len(), header.file_bytes());
            return Err(Error::damaged("shard file", why));
        }
        let mut check = BodyCheck::new(&header);
        check.update(rest)?;
        check.finish()?;
        let body = &rest[..rest.len() - FOOTER_BYTES];
        Ok(Self { header, body })
    }
}

/// Checks a shard file's body and footer while they stream by, in pieces of any size.
#[derive(Debug)]
pub struct BodyCheck {
    block_hashes: Vec<Digest>,
    body_bytes: u64,
    footer: Vec<u8>,
    /// Bytes of body and footer seen.
    seen_bytes: u64,
    /// Over the seen bytes of the current block.
    block: blake3::Hasher,
    failed: Option<Error>,
}

impl BodyCheck {
    /// A check of what follows `header` in its file.
    pub fn new(header: &Header) -> Self {
        Self {
            block_hashes: header.block_hashes.clone(),
            body_bytes: header.shard_bytes,
            footer: header.footer(header.header_hash),
            seen_bytes: 0,
            block: blake3::Hasher::new(),
            failed: None,
        }
    }

    /// Takes the next bytes of body or footer; an error names the first bad block, and stays.
    pub fn update(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() && self.failed.is_none() {
            let taken = match self.body_bytes.checked_sub(self.seen_bytes) {
                Some(left) if left > 0 => self.take_body(bytes),
                _ => self.take_footer(bytes),
            };
            match taken {
                Ok(taken) => {
                    self.seen_bytes += taken as u64;
                    bytes = &bytes[taken..];
                }
                Err(error) => self.failed = Some(error),
            }
        }
        self.failed.clone().map_or(Ok(()), Err)
    }

    /// The file ends here: an error unless every block and the footer were seen and right.
    pub fn finish(self) -> Result<()> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let expected = self.body_bytes + FOOTER_BYTES as u64;
        if self.seen_bytes != expected {
            let why = format!("{} bytes of body and footer, not {expected}", self.seen_bytes);
            return Err(Error::damaged("shard file", why));
        }
        Ok(())
    }

    /// Takes bytes up to the end of the current block.
    fn take_body(&mut self, bytes: &[u8]) -> Result<usize> {
        let number = self.seen_bytes / BLOCK_BYTES as u64;
        let end = self.body_bytes.min((number + 1) * BLOCK_BYTES as u64);
        let missing = (end - self.seen_bytes) as usize;
        let taken = missing.min(bytes.len());
        self.block.update(&bytes[..taken]);
        if taken == missing {
            let hash = Digest(*self.block.finalize().as_bytes());
            if self.block_hashes.get(number as usize) != Some(&hash) {
                return Err(bad_block(number, self.block_hashes.len()));
            }
            self.block.reset();
        }
        Ok(taken)
    }

    fn take_footer(&mut self, bytes: &[u8]) -> Result<usize> {
        let at = (self.seen_bytes - self.body_bytes) as usize;
        let expected = &self.footer[at..];
        if bytes.len() > expected.len() {
            return Err(Error::damaged("shard file", "there are bytes after the footer"));
        }
        if !expected.starts_with(bytes) {
            return Err(Error::damaged("shard footer", "it does not repeat the header"));
        }
        Ok(bytes.len())
    }
}

fn bad_block(number: u64, blocks: usize) -> Error {
    Error::damaged("shard body", format!("the hash of block {number} of {blocks} does not hold"))
}

#[cfg(test)]
mod tests;

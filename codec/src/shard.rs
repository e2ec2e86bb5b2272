//! The shard file: header, block hashes, body, footer (docs/FORMAT.md).

use serde::{Deserialize, Serialize};

use crate::seal::PackKeyField;
use crate::{Digest, Geometry, Result, Root, StripeId, VaultId};

/// Bytes of the footer.
pub const FOOTER_BYTES: usize = 96;
/// The header is padded to a multiple of this.
pub const HEADER_ALIGN_BYTES: usize = 4096;
/// The longest header that any valid shard has.
pub const HEADER_BYTES_MAX: usize = 64 * 1024 * 1024;
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

/// The checked header of a shard. Holding one means: its hash is right, the
/// stripe id follows from its fields, and the block hashes give `roots[index]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// The vault that the shard belongs to.
    pub vault: VaultId,
    /// What the stripe carries.
    pub kind: Kind,
    /// The stripe's code.
    pub geometry: Geometry,
    /// Which shard of the stripe this is, below n.
    pub index: u8,
    /// Bytes of the pack.
    pub pack_bytes: u64,
    /// Bytes of each shard body.
    pub shard_bytes: u64,
    /// The stripe.
    pub stripe: StripeId,
    /// The wrapped pack key.
    pub pack_key: PackKeyField,
    /// The roots of all n shards.
    pub roots: Vec<Root>,
    /// The block hashes of this shard.
    pub block_hashes: Vec<Digest>,
    /// The hash over the whole padded header, which receipts name.
    pub header_hash: Digest,
}

impl Header {
    /// Bytes of the encoded, padded header: where the body begins.
    pub fn encoded_bytes(_geometry: Geometry, _pack_key_bytes: usize, _shard_bytes: u64) -> u64 {
        todo!()
    }

    /// Bytes of the header that begins with `prefix` (at least 64 bytes), bounded but unchecked.
    pub fn peek_bytes(_prefix: &[u8]) -> Result<usize> {
        todo!()
    }

    /// Reads and checks a whole padded header (exactly its bytes).
    pub fn parse(_bytes: &[u8]) -> Result<Self> {
        todo!()
    }

    /// Bytes of the whole shard file.
    pub fn file_bytes(&self) -> u64 {
        todo!()
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
    /// The only reader of whole shard files.
    pub fn parse(_file: &'a [u8]) -> Result<Self> {
        todo!()
    }
}

/// Checks a shard file's body and footer while they stream by, in pieces of any size.
pub struct BodyCheck {}

impl BodyCheck {
    /// A check of what follows `header` in its file.
    pub fn new(_header: &Header) -> Self {
        todo!()
    }

    /// Takes the next bytes of body or footer; an error names the first bad block.
    pub fn update(&mut self, _bytes: &[u8]) -> Result<()> {
        todo!()
    }

    /// The file ends here: an error unless every block and the footer were seen and right.
    pub fn finish(self) -> Result<()> {
        todo!()
    }
}

//! What stands around a shard's body: the header, and the footer that follows from it.
//!
//! What all shards of a stripe share stands in every header, so any header makes
//! any lost sibling's again, byte for byte, once that body is rebuilt.

use super::{FOOTER_BYTES, HEADER_ALIGN_BYTES, Kind, PACK_BYTES_MAX, bad_block};
use crate::digest::{self, BLOCK_BYTES};
use crate::seal::{PACK_KEY_FIELD_BYTES_MAX, PackKeyField};
use crate::{Digest, Error, FORMAT_VERSION, Geometry, Result, Root, StripeId, VaultId};

const MAGIC: [u8; 8] = *b"ARCSHARD";
const FOOTER_MAGIC: [u8; 8] = *b"ARCSHEND";
const FLAGS: u16 = 0;
/// Field polynomial 0x11D and reed-solomon-erasure's matrix.
const CODE_ID: u8 = 1;
/// BLAKE3.
const HASH_ID: u8 = 1;
const BLOCK_FIELD: u32 = BLOCK_BYTES as u32;

const STRIPE_DOMAIN: &str = "arc v0 stripe id";
const HEADER_DOMAIN: &str = "arc v0 shard header";
const FOOTER_DOMAIN: &str = "arc v0 shard footer";

/// Bytes of a header's start that [`Header::peek_bytes`] needs.
pub const PEEK_BYTES: usize = 64;

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

/// What stands around a shard's body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ends {
    /// The encoded header with its block hashes.
    pub header: Vec<u8>,
    /// The hash of that header.
    pub header_hash: Digest,
    /// The encoded footer.
    pub footer: Vec<u8>,
}

impl Header {
    /// Bytes of the encoded, padded header: where the body begins.
    pub fn encoded_bytes(geometry: Geometry, pack_key_bytes: usize, shard_bytes: u64) -> u64 {
        header_bytes(geometry.shards() as u64, pack_key_bytes as u64, shard_bytes)
    }

    /// Bytes of the header that begins with `prefix` (at least [`PEEK_BYTES`]). The lengths
    /// in it are bounded and fit each other; no hash is checked.
    pub fn peek_bytes(prefix: &[u8]) -> Result<usize> {
        Ok(Fixed::read(prefix)?.header_bytes)
    }

    /// Reads and checks a whole padded header (exactly its bytes).
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let fixed = Fixed::read(bytes)?;
        let Some((hashed, header_hash)) = bytes
            .split_last_chunk::<{ Digest::LEN }>()
            .filter(|_| bytes.len() == fixed.header_bytes)
        else {
            let why = format!("{} bytes, not {}", bytes.len(), fixed.header_bytes);
            return Err(damaged_header(why));
        };
        if blake3::derive_key(HEADER_DOMAIN, hashed) != *header_hash {
            return Err(damaged_header("its hash does not hold"));
        }
        let (mut header, mut rest) = Self::certified(&fixed, hashed)?;
        header.block_hashes =
            take_hashes(&mut rest, blocks(fixed.shard_bytes))?.map(Digest).collect();
        header.header_hash = Digest(*header_hash);
        if rest.iter().any(|&byte| byte != 0) {
            return Err(damaged_header("its padding is not zero"));
        }
        header.check_root(header.index, &header.block_hashes)?;
        Ok(header)
    }

    /// What all shards of a stripe share, out of a header that may be damaged elsewhere: the
    /// stripe id certifies it. It has no block hashes, and its index may be wrong; whole
    /// headers come of [`Header::sibling`].
    pub fn shared(bytes: &[u8]) -> Result<Self> {
        Ok(Self::certified(&Fixed::read(bytes)?, bytes)?.0)
    }

    /// The block hashes as they stand in a sibling's header, which may be damaged:
    /// [`Header::sibling`] refuses wrong ones.
    pub fn table_in(&self, bytes: &[u8]) -> Option<Vec<Digest>> {
        let before = PEEK_BYTES + StripeId::LEN + self.pack_key.0.len();
        let mut table = bytes.get(before + self.roots.len() * Root::LEN..)?;
        let hashes = take_hashes(&mut table, blocks(self.shard_bytes)).ok()?;
        Some(hashes.map(Digest).collect())
    }

    /// The fields that the stripe id covers, checked against it, and what follows them.
    fn certified<'a>(fixed: &Fixed, bytes: &'a [u8]) -> Result<(Self, &'a [u8])> {
        let mut rest = &bytes[PEEK_BYTES..];
        let header = Self {
            stripe: StripeId(*take(&mut rest)?),
            pack_key: PackKeyField(take_slice(&mut rest, fixed.pack_key_bytes)?.to_vec()),
            roots: take_hashes(&mut rest, fixed.geometry.shards())?.map(Root).collect(),
            block_hashes: Vec::new(),
            header_hash: Digest::default(),
            vault: fixed.vault,
            kind: fixed.kind,
            geometry: fixed.geometry,
            index: fixed.index,
            pack_bytes: fixed.pack_bytes,
            shard_bytes: fixed.shard_bytes,
        };
        if header.stripe_id() != header.stripe {
            return Err(damaged_header("the stripe id does not follow from its fields"));
        }
        Ok((header, rest))
    }

    /// The header of shard 0, from the block hashes of all n bodies. Everything is bounded already.
    pub(crate) fn first(
        vault: VaultId,
        kind: Kind,
        geometry: Geometry,
        pack_key: PackKeyField,
        pack_bytes: u64,
        block_hashes: &[Vec<Digest>],
    ) -> Self {
        let mut header = Self {
            vault,
            kind,
            geometry,
            index: 0,
            pack_bytes,
            shard_bytes: geometry.shard_bytes(pack_bytes),
            stripe: StripeId::default(),
            pack_key,
            roots: block_hashes.iter().map(|hashes| digest::root(hashes)).collect(),
            block_hashes: block_hashes.first().cloned().unwrap_or_default(),
            header_hash: Digest::default(),
        };
        header.stripe = header.stripe_id();
        header.header_hash = header.ends(0, &header.block_hashes).header_hash;
        header
    }

    /// Header and footer of any shard of this stripe, given the block hashes of its body
    /// ([`digest::block_hashes`]): around that body they make its file, byte for byte. An
    /// error when the stripe records another root, so a wrongly rebuilt body gets no header.
    pub fn sibling(&self, index: u8, block_hashes: &[Digest]) -> Result<Ends> {
        self.check_root(index, block_hashes)?;
        Ok(self.ends(index, block_hashes))
    }

    /// Checks one whole block of this shard's body, as a reader of a range must before it decodes.
    pub fn check_block(&self, number: usize, block: &[u8]) -> Result<()> {
        let Some(expected) = self.block_hashes.get(number) else {
            let why = format!("no block {number}, there are {}", self.block_hashes.len());
            return Err(Error::damaged("shard body", why));
        };
        let begin = number as u64 * BLOCK_BYTES as u64;
        let block_bytes = (self.shard_bytes - begin).min(BLOCK_BYTES as u64);
        if block.len() as u64 != block_bytes {
            let why = format!("block {number} of {} bytes, not {block_bytes}", block.len());
            return Err(Error::damaged("shard body", why));
        }
        if digest::block_hash(block) != *expected {
            return Err(bad_block(number as u64, self.block_hashes.len()));
        }
        Ok(())
    }

    /// Bytes of the encoded header: where the body begins.
    pub fn header_bytes(&self) -> u64 {
        Self::encoded_bytes(self.geometry, self.pack_key.0.len(), self.shard_bytes)
    }

    /// Bytes of the whole shard file.
    pub fn file_bytes(&self) -> u64 {
        self.header_bytes() + self.shard_bytes + FOOTER_BYTES as u64
    }

    fn check_root(&self, index: u8, block_hashes: &[Digest]) -> Result<()> {
        let recorded = self.roots.get(index as usize);
        if recorded == Some(&digest::root(block_hashes)) {
            return Ok(());
        }
        Err(damaged_header(format!("the block hashes do not give the root of shard {index}")))
    }

    fn ends(&self, index: u8, block_hashes: &[Digest]) -> Ends {
        let header_bytes = self.header_bytes() as usize;
        let mut header = Vec::with_capacity(header_bytes);
        header.extend(MAGIC);
        header.extend(FORMAT_VERSION.to_le_bytes());
        header.extend(FLAGS.to_le_bytes());
        header.extend((header_bytes as u32).to_le_bytes());
        header.extend(self.vault.0);
        let (k, m) = self.geometry.into();
        header.extend([self.kind as u8, CODE_ID, HASH_ID, k, m, index, 0, 0]);
        header.extend(BLOCK_FIELD.to_le_bytes());
        header.extend((self.pack_key.0.len() as u32).to_le_bytes());
        header.extend(self.pack_bytes.to_le_bytes());
        header.extend(self.shard_bytes.to_le_bytes());
        header.extend(self.stripe.0);
        header.extend(&self.pack_key.0);
        self.roots.iter().for_each(|root| header.extend(root.0));
        block_hashes.iter().for_each(|hash| header.extend(hash.0));
        header.resize(header_bytes - Digest::LEN, 0);
        let header_hash = Digest(blake3::derive_key(HEADER_DOMAIN, &header));
        header.extend(header_hash.0);
        Ends { header, header_hash, footer: self.footer(header_hash) }
    }

    pub(super) fn footer(&self, header_hash: Digest) -> Vec<u8> {
        let mut footer = Vec::with_capacity(FOOTER_BYTES);
        footer.extend(FOOTER_MAGIC);
        footer.extend(FORMAT_VERSION.to_le_bytes());
        footer.extend(FLAGS.to_le_bytes());
        footer.extend((self.header_bytes() as u32).to_le_bytes());
        footer.extend(self.pack_bytes.to_le_bytes());
        footer.extend(self.shard_bytes.to_le_bytes());
        footer.extend(header_hash.0);
        let footer_hash = blake3::derive_key(FOOTER_DOMAIN, &footer);
        footer.extend(footer_hash);
        footer
    }

    fn stripe_id(&self) -> StripeId {
        let (k, m) = self.geometry.into();
        let mut hasher = blake3::Hasher::new_derive_key(STRIPE_DOMAIN);
        hasher.update(&FORMAT_VERSION.to_le_bytes());
        hasher.update(&FLAGS.to_le_bytes());
        hasher.update(&self.vault.0);
        hasher.update(&[self.kind as u8, k, m, CODE_ID, HASH_ID]);
        hasher.update(&BLOCK_FIELD.to_le_bytes());
        hasher.update(&self.pack_bytes.to_le_bytes());
        hasher.update(&self.shard_bytes.to_le_bytes());
        hasher.update(&(self.pack_key.0.len() as u32).to_le_bytes());
        hasher.update(&self.pack_key.0);
        self.roots.iter().for_each(|root| {
            hasher.update(&root.0);
        });
        StripeId(*hasher.finalize().as_bytes())
    }
}

/// The fields that every header begins with, each in its bounds and all fitting each other.
struct Fixed {
    header_bytes: usize,
    vault: VaultId,
    kind: Kind,
    geometry: Geometry,
    index: u8,
    pack_key_bytes: usize,
    pack_bytes: u64,
    shard_bytes: u64,
}

impl Fixed {
    /// Reads the first [`PEEK_BYTES`] of `header`: magic, version and flags before all else.
    fn read(header: &[u8]) -> Result<Self> {
        let bytes = &mut &*header;
        if take(bytes)? != &MAGIC {
            return Err(damaged_header("it does not begin with ARCSHARD"));
        }
        let version = u16::from_le_bytes(*take(bytes)?);
        if version > FORMAT_VERSION {
            let known = FORMAT_VERSION;
            return Err(Error::Version { what: "shard header", found: version, known });
        }
        let flags = u16::from_le_bytes(*take(bytes)?);
        if flags != FLAGS {
            return Err(damaged_header(format!("unknown feature flags {flags:#06x}")));
        }
        let header_bytes = u32::from_le_bytes(*take(bytes)?);
        let vault = VaultId(*take(bytes)?);
        let [kind, code_id, hash_id, k, m, index, zero @ ..] = *take::<8>(bytes)?;
        let block_bytes = u32::from_le_bytes(*take(bytes)?);
        let pack_key_bytes = u32::from_le_bytes(*take(bytes)?);
        let pack_bytes = u64::from_le_bytes(*take(bytes)?);
        let shard_bytes = u64::from_le_bytes(*take(bytes)?);

        if (code_id, hash_id, block_bytes) != (CODE_ID, HASH_ID, BLOCK_FIELD) {
            return Err(damaged_header(format!(
                "code {code_id}, hash {hash_id}, blocks of {block_bytes} bytes are not known"
            )));
        }
        if zero != [0, 0] {
            return Err(damaged_header("its reserved field is not zero"));
        }
        let kind = Kind::try_from(kind)?;
        let geometry = Geometry::new(k, m).map_err(|error| damaged_header(error.to_string()))?;
        if index as usize >= geometry.shards() {
            return Err(damaged_header(format!("shard {index} of a {geometry} stripe")));
        }
        let pack_key_bytes = pack_key_bytes as usize;
        check_pack_bytes(pack_bytes)?;
        check_pack_key_bytes(pack_key_bytes)?;
        if shard_bytes != geometry.shard_bytes(pack_bytes) {
            let why = format!("{pack_bytes} bytes in {geometry} make no shards of {shard_bytes}");
            return Err(damaged_header(why));
        }
        let expected = Header::encoded_bytes(geometry, pack_key_bytes, shard_bytes);
        if u64::from(header_bytes) != expected {
            return Err(damaged_header(format!("{header_bytes} bytes long, not {expected}")));
        }
        let header_bytes = header_bytes as usize;
        Ok(Self {
            header_bytes,
            vault,
            kind,
            geometry,
            index,
            pack_key_bytes,
            pack_bytes,
            shard_bytes,
        })
    }
}

/// Refuses an empty pack, and one longer than the format allows.
pub(crate) fn check_pack_bytes(pack_bytes: u64) -> Result<()> {
    check_length("pack length", pack_bytes, PACK_BYTES_MAX)
}

/// Refuses an empty pack key field, and one longer than the format allows.
pub(crate) fn check_pack_key_bytes(pack_key_bytes: usize) -> Result<()> {
    check_length("pack key field length", pack_key_bytes as u64, PACK_KEY_FIELD_BYTES_MAX as u64)
}

fn check_length(what: &'static str, actual: u64, limit: u64) -> Result<()> {
    match actual {
        0 => Err(Error::damaged(what, "it is zero")),
        _ if actual > limit => Err(Error::Bound { what, actual, limit }),
        _ => Ok(()),
    }
}

/// Header bytes of n shards, with 32 for its own hash.
pub(super) const fn header_bytes(shards: u64, pack_key_bytes: u64, shard_bytes: u64) -> u64 {
    let hashes = shards + shard_bytes.div_ceil(BLOCK_BYTES as u64) + 1;
    let fields = (PEEK_BYTES + StripeId::LEN) as u64 + pack_key_bytes;
    (fields + hashes * Digest::LEN as u64).next_multiple_of(HEADER_ALIGN_BYTES as u64)
}

fn blocks(shard_bytes: u64) -> usize {
    shard_bytes.div_ceil(BLOCK_BYTES as u64) as usize
}

fn take<'a, const N: usize>(bytes: &mut &'a [u8]) -> Result<&'a [u8; N]> {
    let (taken, rest) = bytes.split_first_chunk().ok_or_else(ends_early)?;
    *bytes = rest;
    Ok(taken)
}

fn take_slice<'a>(bytes: &mut &'a [u8], count: usize) -> Result<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(count).ok_or_else(ends_early)?;
    *bytes = rest;
    Ok(taken)
}

fn take_hashes<'a>(
    bytes: &mut &'a [u8],
    count: usize,
) -> Result<impl Iterator<Item = [u8; 32]> + use<'a>> {
    let (hashes, _) = take_slice(bytes, count * Digest::LEN)?.as_chunks();
    Ok(hashes.iter().copied())
}

fn ends_early() -> Error {
    damaged_header("it ends within its fields")
}

fn damaged_header(why: impl Into<String>) -> Error {
    Error::damaged("shard header", why)
}

//! From a pack to the shards of its stripe, and back.

use rayon::prelude::*;

use crate::digest::{self, BLOCK_BYTES};
use crate::erasure::{self, Code};
use crate::seal::PackKeyField;
pub use crate::shard::Ends;
use crate::shard::{self, Header, Kind};
use crate::{Digest, Error, Geometry, Result, StripeId, VaultId};

/// A pack erasure-coded: shard i's file is `shards[i].header`, body i, `shards[i].footer`.
#[derive(Debug)]
pub struct Stripe {
    /// The stripe's id, which certifies all shards.
    pub id: StripeId,
    /// What it carries.
    pub kind: Kind,
    /// Its code.
    pub geometry: Geometry,
    /// Bytes of the pack.
    pub pack_bytes: u64,
    /// Bytes of each body.
    pub shard_bytes: u64,
    /// The wrapped pack key.
    pub pack_key: PackKeyField,
    /// What stands around each body, by index.
    pub shards: Vec<Ends>,
    /// The n bodies, one after the other.
    pub bodies: Vec<u8>,
}

impl Stripe {
    /// Codes `pack` (its buffer becomes `bodies`: it grows to n bodies, so reserve them).
    /// Parity and hashes are computed on the current rayon pool.
    pub fn encode(
        vault: VaultId,
        kind: Kind,
        geometry: Geometry,
        pack_key: PackKeyField,
        pack: Vec<u8>,
    ) -> Result<Self> {
        let pack_bytes = pack.len() as u64;
        shard::check_pack_bytes(pack_bytes)?;
        shard::check_pack_key_bytes(pack_key.0.len())?;
        let shard_bytes = geometry.shard_bytes(pack_bytes);

        let mut bodies = pack;
        bodies.resize(geometry.shards() * shard_bytes as usize, 0);
        let block_hashes = code_and_hash(geometry, &mut bodies, shard_bytes as usize)?;
        let first = Header::first(vault, kind, geometry, pack_key, pack_bytes, &block_hashes);
        let shards = (0..=u8::MAX)
            .zip(&block_hashes)
            .map(|(index, hashes)| first.sibling(index, hashes))
            .collect::<Result<_>>()?;
        let Header { stripe: id, pack_key, .. } = first;
        Ok(Self { id, kind, geometry, pack_bytes, shard_bytes, pack_key, shards, bodies })
    }

    /// The body of shard `index`.
    pub fn body(&self, index: usize) -> &[u8] {
        let len = self.shard_bytes as usize;
        &self.bodies[index * len..(index + 1) * len]
    }

    /// Bytes of each shard file.
    pub fn file_bytes(&self) -> u64 {
        Header::encoded_bytes(self.geometry, self.pack_key.0.len(), self.shard_bytes)
            + self.shard_bytes
            + shard::FOOTER_BYTES as u64
    }
}

/// The pack of a stripe from its k data bodies, in order. What they hold past the
/// pack's end must be zero.
pub fn join(geometry: Geometry, pack_bytes: u64, bodies: &[&[u8]]) -> Result<Vec<u8>> {
    shard::check_pack_bytes(pack_bytes)?;
    let shard_bytes = geometry.shard_bytes(pack_bytes);
    if bodies.len() != geometry.data() || bodies.iter().any(|body| body.len() as u64 != shard_bytes)
    {
        let why = format!("not {} data bodies of {shard_bytes} bytes", geometry.data());
        return Err(Error::damaged("stripe", why));
    }
    let mut pack = Vec::with_capacity(pack_bytes as usize);
    for body in bodies {
        let (inside, past) = body.split_at(body.len().min(pack_bytes as usize - pack.len()));
        pack.extend_from_slice(inside);
        if past.iter().any(|&byte| byte != 0) {
            return Err(Error::damaged(
                "stripe",
                "what its data bodies hold past the pack is not zero",
            ));
        }
    }
    Ok(pack)
}

/// Fills the parity among the n `bodies` and gives the block hashes of each: a column of
/// blocks is coded and hashed in one go, while it is in cache.
fn code_and_hash(
    geometry: Geometry,
    bodies: &mut [u8],
    shard_bytes: usize,
) -> Result<Vec<Vec<Digest>>> {
    let code = Code::new(geometry);
    let (data, parity) = bodies.split_at_mut(geometry.data() * shard_bytes);
    let columns: Vec<Vec<Digest>> =
        erasure::columns(parity.chunks_exact_mut(shard_bytes), shard_bytes)
            .into_par_iter()
            .enumerate()
            .map(|(number, mut parity)| {
                let begin = number * BLOCK_BYTES;
                let end = shard_bytes.min(begin + BLOCK_BYTES);
                let data: Vec<_> =
                    data.chunks_exact(shard_bytes).map(|body| &body[begin..end]).collect();
                code.encode(&data, &mut parity)?;
                let parity = parity.iter().map(|block| &**block);
                Ok(data.into_iter().chain(parity).map(digest::block_hash).collect())
            })
            .collect::<Result<_>>()?;
    let hashes_of = |index: usize| columns.iter().map(|column| column[index]).collect();
    Ok((0..geometry.shards()).map(hashes_of).collect())
}

#[cfg(test)]
mod tests;

//! From a pack to the shards of its stripe.

use crate::seal::PackKeyField;
use crate::shard::Kind;
use crate::{Digest, Geometry, Result, StripeId, VaultId};

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

/// What stands around a shard's body.
#[derive(Debug)]
pub struct Ends {
    /// The encoded header with its block hashes.
    pub header: Vec<u8>,
    /// The hash of that header.
    pub header_hash: Digest,
    /// The encoded footer.
    pub footer: Vec<u8>,
}

impl Stripe {
    /// Codes `pack` (its buffer becomes `bodies`: it grows to n bodies, so reserve them).
    /// Parity and hashes are computed on the current rayon pool.
    pub fn encode(
        _vault: VaultId,
        _kind: Kind,
        _geometry: Geometry,
        _pack_key: PackKeyField,
        _pack: Vec<u8>,
    ) -> Result<Self> {
        todo!()
    }

    /// The body of shard `index`.
    pub fn body(&self, index: usize) -> &[u8] {
        let len = self.shard_bytes as usize;
        &self.bodies[index * len..(index + 1) * len]
    }

    /// Bytes of each shard file.
    pub fn file_bytes(&self) -> u64 {
        todo!()
    }
}

//! The master key, what wraps it, and what follows from it; the vault record.

use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::{ChunkId, Digest, Geometry, Result, VaultId};

/// The 32 random bytes everything else follows from.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct MasterKey([u8; 32]);

/// What a person or a machine opens a vault with.
pub enum Secret {
    /// A passphrase, stretched by Argon2id.
    Passphrase(zeroize::Zeroizing<String>),
    /// The contents of a key file: at least 32 bytes of randomness.
    KeyFile(zeroize::Zeroizing<Vec<u8>>),
}

/// Cost of Argon2id, bounded before use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Argon2Cost {
    /// Memory in KiB.
    pub memory_kib: u32,
    /// Passes.
    pub passes: u32,
    /// Lanes.
    pub lanes: u32,
}

impl Argon2Cost {
    /// What `arc init` uses: 64 MiB, 3 passes, 1 lane.
    pub const DEFAULT: Self = Self { memory_kib: 64 * 1024, passes: 3, lanes: 1 };
}

/// The random bytes that making a vault record needs.
pub struct VaultRandom {
    /// The master key.
    pub master: [u8; 32],
    /// Salt of the first slot.
    pub salt: [u8; 32],
    /// Nonce of the first slot.
    pub nonce: [u8; 12],
    /// The X25519 private key of the vault's encryption key pair.
    pub private_key: [u8; 32],
    /// Nonce that wraps the private key.
    pub private_nonce: [u8; 12],
}

/// What is kept of a vault on the coordinator and every server: geometry, key slots,
/// the encryption key pair (its private half wrapped), MACed with the master key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VaultRecord {
    /// The vault.
    pub vault: VaultId,
    /// Raised with every change; a client refuses an older one than it saw.
    pub generation: u64,
    /// The code of its stripes.
    pub geometry: Geometry,
    // private: slots, public key, wrapped private key, MAC
}

impl VaultRecord {
    /// A new vault's record with one slot for `secret`.
    pub fn create(
        _vault: VaultId,
        _geometry: Geometry,
        _secret: &Secret,
        _cost: Argon2Cost,
        _random: VaultRandom,
    ) -> Result<(Self, VaultKeys)> {
        todo!()
    }

    /// CBOR, bounded.
    pub fn encode(&self) -> Vec<u8> {
        todo!()
    }

    /// Reads a record without a key: structure and bounds only, the MAC is checked by [`VaultRecord::unlock`].
    pub fn decode(_bytes: &[u8]) -> Result<Self> {
        todo!()
    }

    /// Opens a slot with `secret` and checks the MAC. `Error::Key` when no slot opens.
    pub fn unlock(&self, _secret: &Secret) -> Result<VaultKeys> {
        todo!()
    }
}

/// The keys derived from the master key (HKDF-SHA-256), held while a command runs.
#[derive(Clone)]
pub struct VaultKeys {
    // private
}

impl VaultKeys {
    /// The keyed id of a chunk.
    pub fn chunk_id(&self, _plaintext: &[u8]) -> ChunkId {
        todo!()
    }

    /// The chunker's seed.
    pub fn chunker_seed(&self) -> u64 {
        todo!()
    }

    /// The keyed name of what a push covers: host and source paths. The coordinator finds
    /// the parent snapshot by it without learning either.
    pub fn source_set(&self, _host: &str, _sources: &[Vec<u8>]) -> Digest {
        todo!()
    }
}

//! The master key, and what follows from it; what wraps it is in the vault record.
//!
//! Each subkey has one purpose and one HKDF info string (docs/FORMAT.md), so
//! that holding some of them, as a push-only client will, gives no other.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::{hkdf, hmac};
use sha2::Digest as _;
use sha2::Sha256;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::seal::Aead;
use crate::{ChunkId, Digest};

mod recovery;
mod secret;
mod vault_record;

pub use recovery::RecoveryKey;
pub use secret::{Argon2Cost, KEY_FILE_BYTES_MIN, Secret};
pub use vault_record::{SLOTS_MAX, VAULT_RECORD_BYTES_MAX, VaultRandom, VaultRecord};

/// The 32 random bytes everything else follows from.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct MasterKey([u8; 32]);

impl MasterKey {
    /// A master key from 32 fresh random bytes.
    pub fn new(random: [u8; 32]) -> Self {
        Self(random)
    }
}

/// The keys derived from the master key (HKDF-SHA-256), held while a command runs.
/// Clones share them.
#[derive(Clone)]
pub struct VaultKeys(Arc<Subkeys>);

struct Subkeys {
    master: MasterKey,
    chunk_id: ChunkIdKey,
    chunker_seed: Zeroizing<u64>,
    pack_wrap: Aead,
    private_key_wrap: Aead,
    vault_record: hmac::Key,
    source_set: hmac::Key,
    /// The private half of the vault's key pair, which is in the vault record.
    private_key: Option<Zeroizing<[u8; 32]>>,
}

impl VaultKeys {
    /// Derives all subkeys. The private key of the vault's key pair is not among them:
    /// [`VaultRecord::unlock`] gives keys that have it.
    pub fn derive(master: MasterKey) -> Self {
        Self::with_private_key(master, |_| None)
    }

    fn with_private_key(
        master: MasterKey,
        unwrap: impl FnOnce(&Aead) -> Option<Zeroizing<[u8; 32]>>,
    ) -> Self {
        let subkey = |info: &str| expand(b"arc v0 subkeys", &master.0, info.as_bytes());
        let mac = |info| hmac::Key::new(hmac::HMAC_SHA256, subkey(info).as_slice());
        let [s0, s1, s2, s3, s4, s5, s6, s7, ..] = *subkey("arc v0 chunker seed");
        let private_key_wrap = Aead::new(&subkey("arc v0 private key wrap"));
        Self(Arc::new(Subkeys {
            chunk_id: ChunkIdKey::new(&subkey("arc v0 chunk id")),
            chunker_seed: Zeroizing::new(u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7])),
            pack_wrap: Aead::new(&subkey("arc v0 pack wrap")),
            private_key: unwrap(&private_key_wrap),
            private_key_wrap,
            vault_record: mac("arc v0 vault record"),
            source_set: mac("arc v0 source set"),
            master,
        }))
    }

    /// The keyed id of a chunk.
    pub fn chunk_id(&self, plaintext: &[u8]) -> ChunkId {
        self.0.chunk_id.of(plaintext)
    }

    /// The chunker's seed.
    pub fn chunker_seed(&self) -> u64 {
        *self.0.chunker_seed
    }

    /// The keyed name of what a push covers: host and source paths, in the given order. The
    /// coordinator finds the parent snapshot by it without learning either.
    pub fn source_set(&self, host: &str, sources: &[Vec<u8>]) -> Digest {
        let mut mac = hmac::Context::with_key(&self.0.source_set);
        for field in std::iter::once(host.as_bytes()).chain(sources.iter().map(Vec::as_slice)) {
            mac.update(&(field.len() as u64).to_le_bytes());
            mac.update(field);
        }
        let mut out = Digest::default();
        out.0.copy_from_slice(mac.sign().as_ref());
        out
    }

    pub(crate) fn pack_wrap(&self) -> &Aead {
        &self.0.pack_wrap
    }

    pub(crate) fn private_key(&self) -> Option<&[u8; 32]> {
        self.0.private_key.as_deref()
    }
}

/// HMAC-SHA-256 with both padded keys hashed once, not per chunk.
struct ChunkIdKey {
    inner: Sha256,
    outer: Sha256,
}

impl ChunkIdKey {
    fn new(key: &[u8; 32]) -> Self {
        let padded = |pad: u8| {
            let mut block = Zeroizing::new([pad; 64]);
            block.iter_mut().zip(key).for_each(|(byte, key)| *byte ^= key);
            Sha256::new_with_prefix(block.as_slice())
        };
        Self { inner: padded(0x36), outer: padded(0x5c) }
    }

    fn of(&self, plaintext: &[u8]) -> ChunkId {
        let inner = self.inner.clone().chain_update(plaintext).finalize();
        ChunkId(self.outer.clone().chain_update(inner).finalize().into())
    }
}

/// HKDF-SHA-256 to 32 bytes.
// 32 bytes are far below HKDF's limit of 255 hashes, the one thing that makes it fail.
#[allow(clippy::expect_used)]
fn expand(salt: &[u8], secret: &[u8], info: &[u8]) -> Zeroizing<[u8; 32]> {
    let mut out = Zeroizing::new([0; 32]);
    hkdf::Salt::new(hkdf::HKDF_SHA256, salt)
        .extract(secret)
        .expand(&[info], hkdf::HKDF_SHA256)
        .and_then(|okm| okm.fill(out.as_mut_slice()))
        .expect("HKDF gives 32 bytes");
    out
}

/// Debug output that shows that there is a key, and nothing of it.
macro_rules! opaque {
    ($($name:ident),*) => {$(
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($name)).finish_non_exhaustive()
            }
        }
    )*};
}
opaque!(MasterKey, VaultKeys, Secret, RecoveryKey, VaultRandom);

#[cfg(test)]
mod tests;

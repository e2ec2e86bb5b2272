//! The master key, and what follows from it; what wraps it is in the vault record.
//!
//! Each subkey has one purpose and one HKDF info string (docs/FORMAT.md), so
//! that holding some of them, as a push-only client will, gives no other.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::{hkdf, hmac};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::seal::Aead;
use crate::{ChunkId, Digest};

mod chunk_id;
mod recovery;
mod secret;
mod vault_record;

use chunk_id::ChunkIdKey;
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

    /// The ids of chunks, in their order: those of two chunks of about one length take little more
    /// time than that of one.
    pub fn chunk_ids(&self, chunks: &[&[u8]]) -> Vec<ChunkId> {
        let mut ids = vec![ChunkId::default(); chunks.len()];
        let mut order: Vec<usize> = (0..chunks.len()).collect();
        order.sort_unstable_by_key(|&at| chunks[at].len());
        for pair in order.chunks(2) {
            match *pair {
                [a, b] => [ids[a], ids[b]] = self.0.chunk_id.of_two([chunks[a], chunks[b]]),
                _ => pair.iter().for_each(|&at| ids[at] = self.chunk_id(chunks[at])),
            }
        }
        ids
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

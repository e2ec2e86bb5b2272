//! What a vault is opened with, and the key that a slot makes of it.

use argon2::{Algorithm, Argon2, Block, Params, Version};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{RecoveryKey, expand};
use crate::{Error, Result};

/// A shorter key file is refused: it would be guessed.
pub const KEY_FILE_BYTES_MIN: usize = 32;

/// What a person or a machine opens a vault with.
pub enum Secret {
    /// A passphrase, stretched by Argon2id.
    Passphrase(Zeroizing<String>),
    /// The contents of a key file: at least 32 bytes of randomness.
    KeyFile(Zeroizing<Vec<u8>>),
    /// What was exported to be written down.
    RecoveryKey(RecoveryKey),
}

/// Cost of Argon2id, bounded before use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Argon2Cost {
    /// Memory in KiB.
    pub memory_kib: u32,
    /// Passes.
    pub passes: u32,
    /// Lanes.
    pub lanes: u32,
}

impl Argon2Cost {
    /// What `arc init` uses: 64 MiB, 3 passes, 4 lanes, RFC 9106's second choice. Each lane has a
    /// thread where there are as many.
    pub const DEFAULT: Self = Self { memory_kib: 64 * 1024, passes: 3, lanes: 4 };

    /// 1 to 8 lanes, 1 to 16 passes, 8 KiB per lane to 1 GiB of memory: a forged record
    /// can neither exhaust a client nor keep it busy for hours.
    pub(super) fn check(self) -> Result<()> {
        within("lanes of Argon2id", self.lanes, 1, 8)?;
        within("passes of Argon2id", self.passes, 1, 16)?;
        within("memory of Argon2id in KiB", self.memory_kib, 8 * self.lanes, 1024 * 1024)
    }
}

/// How a slot makes a key of a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Kdf {
    /// For passphrases.
    Argon2id(Argon2Cost),
    /// For key files, which need no stretching.
    Hkdf,
    /// For the recovery key, which needs none either.
    Recovery,
}

impl Kdf {
    /// The function that a new slot for `secret` uses.
    pub(super) fn for_secret(secret: &Secret, cost: Argon2Cost) -> Self {
        match secret {
            Secret::Passphrase(_) => Self::Argon2id(cost),
            Secret::KeyFile(_) => Self::Hkdf,
            Secret::RecoveryKey(_) => Self::Recovery,
        }
    }

    pub(super) fn check(self) -> Result<()> {
        match self {
            Self::Argon2id(cost) => cost.check(),
            Self::Hkdf | Self::Recovery => Ok(()),
        }
    }

    /// The key that `secret` gives; `None` when the slot is for another kind of secret.
    pub(super) fn key(self, secret: &Secret, salt: &[u8; 32]) -> Result<Option<SlotKey>> {
        match (self, secret) {
            (Self::Argon2id(cost), Secret::Passphrase(passphrase)) => {
                stretch(cost, passphrase.as_bytes(), salt).map(Some)
            }
            (Self::Hkdf, Secret::KeyFile(contents)) => {
                if contents.len() < KEY_FILE_BYTES_MIN {
                    let why = format!("{} bytes, not {KEY_FILE_BYTES_MIN} or more", contents.len());
                    return Err(Error::damaged("key file", why));
                }
                Ok(Some(expand(salt, contents, b"arc v0 key file")))
            }
            (Self::Recovery, Secret::RecoveryKey(key)) => {
                Ok(Some(expand(salt, key.as_bytes(), b"arc v0 recovery key")))
            }
            _ => Ok(None),
        }
    }
}

pub(super) type SlotKey = Zeroizing<[u8; 32]>;

fn stretch(cost: Argon2Cost, passphrase: &[u8], salt: &[u8; 32]) -> Result<SlotKey> {
    cost.check()?;
    let failed = |why: String| Error::damaged("key slot", format!("{cost:?}: {why}"));
    let mut key = Zeroizing::new([0; 32]);
    let params = Params::new(cost.memory_kib, cost.passes, cost.lanes, Some(key.len()))
        .map_err(|e| failed(e.to_string()))?;
    // The memory is ours, so that it is cleared and a lack of it is an error.
    let mut memory = Zeroizing::new(Vec::new());
    memory.try_reserve_exact(params.block_count()).map_err(|e| failed(e.to_string()))?;
    memory.resize(params.block_count(), Block::new());
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into_with_memory(passphrase, salt, key.as_mut_slice(), memory.as_mut_slice())
        .map_err(|e| failed(e.to_string()))?;
    Ok(key)
}

fn within(what: &'static str, actual: u32, least: u32, most: u32) -> Result<()> {
    if actual < least {
        return Err(Error::damaged("key slot", format!("{what}: {actual}, at least {least}")));
    }
    if actual > most {
        return Err(Error::Bound { what, actual: actual.into(), limit: most.into() });
    }
    Ok(())
}

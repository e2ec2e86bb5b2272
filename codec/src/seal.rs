//! Pack keys and the AEAD (AES-256-GCM) that seals frames.

use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::keys::VaultKeys;
use crate::{Result, VaultId};

/// Bytes that sealing adds: the tag.
pub const TAG_BYTES: usize = 16;
/// The longest pack key field of any slot.
pub const PACK_KEY_FIELD_BYTES_MAX: usize = 256;

/// The fresh random key of one pack.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct PackKey([u8; 32]);

/// A pack key wrapped for storage: in slot 1 under the vault's symmetric key,
/// in slot 2 (reserved) sealed to its public key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackKeyField(#[serde(with = "serde_bytes")] pub Vec<u8>);

impl PackKeyField {
    /// Bytes of a slot 1 field.
    pub const SLOT1_BYTES: usize = 64;
}

/// What a frame holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FrameKind {
    /// Chunks of file contents.
    Data = 0,
    /// Chunks that are manifest pages or chunk lists.
    Metadata = 1,
    /// The pack's directory: always the last frame.
    Directory = 2,
    /// The record of a snapshot or another record.
    Record = 3,
}

impl PackKey {
    /// A pack key from 32 fresh random bytes.
    pub fn new(random: [u8; 32]) -> Self {
        Self(random)
    }

    /// Wraps the key in slot 1; `nonce` is 12 fresh random bytes.
    pub fn wrap(&self, _keys: &VaultKeys, _vault: VaultId, _nonce: [u8; 12]) -> PackKeyField {
        todo!()
    }

    /// Opens a field of any slot that `keys` can open.
    pub fn unwrap_field(_field: &PackKeyField, _keys: &VaultKeys, _vault: VaultId) -> Result<Self> {
        todo!()
    }

    /// Seals `frame` in place and appends the tag. `number` is the frame's number in the pack.
    pub fn seal(&self, _vault: VaultId, _kind: FrameKind, _number: u32, _frame: &mut Vec<u8>) {
        todo!()
    }

    /// Opens a sealed frame in place and gives its plaintext part.
    pub fn open<'a>(
        &self,
        _vault: VaultId,
        _kind: FrameKind,
        _number: u32,
        _sealed: &'a mut [u8],
    ) -> Result<&'a mut [u8]> {
        todo!()
    }
}

//! Pack keys and the AEAD (AES-256-GCM) that seals frames.
//!
//! A pack's key seals its frames and nothing else, so a frame's number can be
//! its nonce. The associated data binds the vault, the kind, the number and
//! whether a frame is the pack's last: frames cannot be moved or left out unseen.

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::keys::VaultKeys;
use crate::{Error, Result, VaultId};

pub(crate) mod hpke;

/// Bytes that sealing adds: the tag.
pub const TAG_BYTES: usize = 16;
/// The longest pack key field of any slot.
pub const PACK_KEY_FIELD_BYTES_MAX: usize = 256;

/// The fresh random key of one pack.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct PackKey([u8; 32]);

/// A pack key wrapped for storage: in slot 1 under the vault's symmetric key,
/// in slot 2 sealed to its public key, which every server has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackKeyField(#[serde(with = "serde_bytes")] pub Vec<u8>);

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

impl TryFrom<u8> for FrameKind {
    type Error = Error;

    fn try_from(kind: u8) -> Result<Self> {
        let kinds = [Self::Data, Self::Metadata, Self::Directory, Self::Record];
        let known = kinds.get(usize::from(kind)).copied();
        known.ok_or_else(|| Error::damaged("frame", format!("kind {kind} is unknown")))
    }
}

const FRAME_CONTEXT: &[u8] = b"arc v0 frame";
const PACK_KEY_CONTEXT: &[u8] = b"arc v0 pack key";
/// Slot number and three zero bytes.
const SLOT1_HEAD: [u8; 4] = [1, 0, 0, 0];
const SLOT2_HEAD: [u8; 4] = [2, 0, 0, 0];

impl PackKey {
    /// A pack key from 32 fresh random bytes.
    pub fn new(random: [u8; 32]) -> Self {
        Self(random)
    }

    /// Wraps the key in slot 1; `nonce` is 12 fresh random bytes.
    pub fn wrap(&self, keys: &VaultKeys, vault: VaultId, nonce: [u8; 12]) -> PackKeyField {
        let wrapped = keys.pack_wrap().wrap(nonce, &pack_key_context(vault), &self.0);
        PackKeyField([&SLOT1_HEAD[..], &nonce, &wrapped].concat())
    }

    /// Seals the key to a vault's public key, in slot 2; `ephemeral` is 32 fresh random bytes.
    pub fn seal_to(
        &self,
        public_key: &[u8; 32],
        vault: VaultId,
        ephemeral: Zeroizing<[u8; 32]>,
    ) -> Result<PackKeyField> {
        let context = pack_key_context(vault);
        let (aead, nonce, sent) = hpke::sender(public_key, &ephemeral, &context)?;
        let sealed = aead.wrap(nonce, &[], &self.0);
        Ok(PackKeyField([&SLOT2_HEAD[..], &sent, &sealed].concat()))
    }

    /// Opens a field of slot 1: what its pack holds, a holder of the vault's keys sealed. One of
    /// slot 2 is refused, for everybody who has the vault's record can make it.
    pub fn unwrap_field(field: &PackKeyField, keys: &VaultKeys, vault: VaultId) -> Result<Self> {
        match field.0.first() {
            Some(2) => Err(Error::Foreign),
            _ => Self::unwrap_from_anyone(field, keys, vault),
        }
    }

    /// Opens a field of any slot that `keys` can open: who sealed its pack is not known. Only for
    /// records that prove otherwise where they come from.
    pub fn unwrap_from_anyone(
        field: &PackKeyField,
        keys: &VaultKeys,
        vault: VaultId,
    ) -> Result<Self> {
        let context = pack_key_context(vault);
        let key = match field.0.first() {
            Some(1) => {
                let (nonce, wrapped) = parts(&field.0, SLOT1_HEAD)?;
                keys.pack_wrap().unwrap(*nonce, &context, wrapped)
            }
            Some(2) => {
                let what = "a pack sealed to the public key";
                let private = keys.private_key().ok_or(Error::Key { what })?;
                let (sent, sealed) = parts(&field.0, SLOT2_HEAD)?;
                let (aead, nonce) = hpke::recipient(private, sent, &context)?;
                aead.unwrap(nonce, &[], sealed)
            }
            Some(slot) => return Err(damaged_field(&format!("slot {slot} is unknown"))),
            None => return Err(damaged_field("it is empty")),
        };
        Ok(Self(*key.ok_or(Error::Key { what: "the pack key field" })?))
    }

    /// Seals `frame` in place and appends the tag. `number` is the frame's number in the
    /// pack: the same number must never seal two different frames under one key.
    pub fn seal(&self, vault: VaultId, kind: FrameKind, number: u32, frame: &mut Vec<u8>) {
        Aead::new(&self.0).seal(frame_nonce(number), &frame_context(vault, kind, number), frame);
    }

    /// Opens a sealed frame in place and gives its plaintext part.
    pub fn open<'a>(
        &self,
        vault: VaultId,
        kind: FrameKind,
        number: u32,
        sealed: &'a mut [u8],
    ) -> Result<&'a mut [u8]> {
        let bytes = sealed.len();
        Aead::new(&self.0)
            .open(frame_nonce(number), &frame_context(vault, kind, number), sealed)
            .ok_or_else(|| {
                let why = format!("the tag of frame {number} ({kind:?}, {bytes} bytes) is wrong");
                Error::damaged("pack", why)
            })
    }
}

impl fmt::Debug for PackKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PackKey").finish_non_exhaustive()
    }
}

/// What follows the head of a field: `N` bytes, and the wrapped key.
fn parts<const N: usize>(field: &[u8], head: [u8; 4]) -> Result<(&[u8; N], &[u8; WRAPPED_BYTES])> {
    let rest = field.strip_prefix(&head).ok_or_else(|| damaged_field("reserved bits set"))?;
    let (first, wrapped) = rest.split_first_chunk().ok_or_else(|| damaged_field("it is cut"))?;
    let length = || damaged_field(&format!("it is not {} bytes long", 4 + N + WRAPPED_BYTES));
    Ok((first, wrapped.try_into().map_err(|_| length())?))
}

fn damaged_field(why: &str) -> Error {
    Error::damaged("pack key field", why)
}

fn frame_nonce(number: u32) -> [u8; 12] {
    let mut nonce = [0; 12];
    nonce[..4].copy_from_slice(&number.to_le_bytes());
    nonce
}

fn frame_context(vault: VaultId, kind: FrameKind, number: u32) -> Vec<u8> {
    let last = u8::from(kind == FrameKind::Directory);
    let number = number.to_le_bytes();
    [FRAME_CONTEXT, vault.as_bytes(), &[kind as u8], &number, &[last]].concat()
}

fn pack_key_context(vault: VaultId) -> Vec<u8> {
    [PACK_KEY_CONTEXT, vault.as_bytes()].concat()
}

/// Bytes of a wrapped 32-byte key.
pub(crate) const WRAPPED_BYTES: usize = 32 + TAG_BYTES;

/// AES-256-GCM under one key. Callers see to it that no nonce comes twice.
pub(crate) struct Aead(LessSafeKey);

// Sealing fails only above 64 GiB, and no frame is longer than 2^32 bytes.
#[allow(clippy::expect_used)]
impl Aead {
    pub(crate) fn new(key: &[u8; 32]) -> Self {
        Self(LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).expect("AES-256 takes 32 bytes")))
    }

    pub(crate) fn seal(&self, nonce: [u8; 12], context: &[u8], bytes: &mut Vec<u8>) {
        self.0
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(context),
                bytes,
            )
            .expect("shorter than 64 GiB");
    }

    pub(crate) fn open<'a>(
        &self,
        nonce: [u8; 12],
        context: &[u8],
        sealed: &'a mut [u8],
    ) -> Option<&'a mut [u8]> {
        let nonce = Nonce::assume_unique_for_key(nonce);
        self.0.open_in_place(nonce, Aad::from(context), sealed).ok()
    }

    pub(crate) fn wrap(
        &self,
        nonce: [u8; 12],
        context: &[u8],
        key: &[u8; 32],
    ) -> [u8; WRAPPED_BYTES] {
        let mut wrapped = [0; WRAPPED_BYTES];
        let (body, tag) = wrapped.split_at_mut(key.len());
        body.copy_from_slice(key);
        let nonce = Nonce::assume_unique_for_key(nonce);
        let sealed = self.0.seal_in_place_separate_tag(nonce, Aad::from(context), body);
        tag.copy_from_slice(sealed.expect("shorter than 64 GiB").as_ref());
        wrapped
    }

    pub(crate) fn unwrap(
        &self,
        nonce: [u8; 12],
        context: &[u8],
        wrapped: &[u8; WRAPPED_BYTES],
    ) -> Option<Zeroizing<[u8; 32]>> {
        let mut bytes = Zeroizing::new(*wrapped);
        let key = self.open(nonce, context, bytes.as_mut_slice())?;
        <[u8; 32]>::try_from(&*key).ok().map(Zeroizing::new)
    }
}

#[cfg(test)]
pub(crate) mod tests;

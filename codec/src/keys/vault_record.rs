//! The vault record: what is kept of a vault wherever its shards are.

use aws_lc_rs::hmac;
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::secret::{Argon2Cost, Kdf, Secret};
use super::{MasterKey, RecoveryKey, VaultKeys};
use crate::manifest::read_cbor;
use crate::seal::{Aead, WRAPPED_BYTES, hpke};
use crate::{Error, FORMAT_VERSION, Geometry, Result, VaultId};

/// The longest vault record.
pub const VAULT_RECORD_BYTES_MAX: usize = 16 * 1024;
/// The most key slots of a vault.
pub const SLOTS_MAX: usize = 16;

const MAC_BYTES: usize = 32;

/// The random bytes that making a vault record needs.
#[derive(Zeroize, ZeroizeOnDrop)]
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VaultRecord {
    version: u16,
    /// The vault.
    pub vault: VaultId,
    /// Raised with every change; a client refuses an older one than it saw.
    pub generation: u64,
    /// The code of its stripes.
    pub geometry: Geometry,
    slots: Vec<Slot>,
    #[serde(with = "serde_bytes")]
    public_key: [u8; 32],
    #[serde(with = "serde_bytes")]
    private_nonce: [u8; 12],
    #[serde(with = "serde_bytes")]
    private_key: [u8; WRAPPED_BYTES],
    /// Over the CBOR of all fields above.
    #[serde(skip)]
    mac: [u8; MAC_BYTES],
}

/// The master key, wrapped under the key that `kdf` makes of a secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Slot {
    kdf: Kdf,
    #[serde(with = "serde_bytes")]
    salt: [u8; 32],
    #[serde(with = "serde_bytes")]
    nonce: [u8; 12],
    #[serde(with = "serde_bytes")]
    wrapped: [u8; WRAPPED_BYTES],
}

impl VaultRecord {
    /// A new vault's record with one slot for `secret`.
    pub fn create(
        vault: VaultId,
        geometry: Geometry,
        secret: &Secret,
        cost: Argon2Cost,
        random: VaultRandom,
    ) -> Result<(Self, VaultKeys)> {
        let master = MasterKey::new(random.master);
        let slot = Slot::new(vault, &master, secret, cost, random.salt, random.nonce)?;
        let private_half = Zeroizing::new(random.private_key);
        let keys = VaultKeys::with_private_key(master, |_| Some(private_half));
        let private_key = keys.0.private_key_wrap.wrap(
            random.private_nonce,
            &private_key_context(vault),
            &random.private_key,
        );
        let mut record = Self {
            version: FORMAT_VERSION,
            vault,
            generation: 1,
            geometry,
            slots: vec![slot],
            public_key: hpke::public_half(&random.private_key)?,
            private_nonce: random.private_nonce,
            private_key,
            mac: [0; MAC_BYTES],
        };
        record.stamp(&keys);
        Ok((record, keys))
    }

    /// Adds a slot for another secret and raises the generation. `salt` and `nonce` are
    /// fresh random bytes; `cost` is for passphrases.
    pub fn add_slot(
        &mut self,
        keys: &VaultKeys,
        secret: &Secret,
        cost: Argon2Cost,
        salt: [u8; 32],
        nonce: [u8; 12],
    ) -> Result<()> {
        self.check(keys)?;
        slots_bounded(self.slots.len() + 1)?;
        self.slots.push(Slot::new(self.vault, &keys.0.master, secret, cost, salt, nonce)?);
        self.generation += 1;
        self.stamp(keys);
        Ok(())
    }

    /// Whether a recovery key opens it.
    pub fn has_recovery_key(&self) -> bool {
        self.slots.iter().any(|slot| slot.kdf == Kdf::Recovery)
    }

    /// Gives it a recovery key, and raises the generation; one that it had opens it no more.
    /// `salt` and `nonce` are fresh random bytes.
    pub fn set_recovery_key(
        &mut self,
        keys: &VaultKeys,
        key: RecoveryKey,
        salt: [u8; 32],
        nonce: [u8; 12],
    ) -> Result<()> {
        let mut record = self.clone();
        record.slots.retain(|slot| slot.kdf != Kdf::Recovery);
        let secret = Secret::RecoveryKey(key);
        self.check(keys)?;
        slots_bounded(record.slots.len() + 1)?;
        let cost = Argon2Cost::DEFAULT;
        record.slots.push(Slot::new(self.vault, &keys.0.master, &secret, cost, salt, nonce)?);
        record.generation += 1;
        record.stamp(keys);
        *self = record;
        Ok(())
    }

    /// CBOR and the MAC over it; at most [`VAULT_RECORD_BYTES_MAX`].
    pub fn encode(&self) -> Vec<u8> {
        let mut out = self.body();
        out.extend_from_slice(&self.mac);
        out
    }

    /// Reads a record without a key: structure and bounds only, the MAC is checked by [`VaultRecord::unlock`].
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        if bytes.len() > VAULT_RECORD_BYTES_MAX {
            let (actual, limit) = (bytes.len() as u64, VAULT_RECORD_BYTES_MAX as u64);
            return Err(Error::Bound { what: "the vault record in bytes", actual, limit });
        }
        let Some((body, mac)) = bytes.split_last_chunk::<MAC_BYTES>() else {
            return Err(damaged(format!("{} bytes hold no record", bytes.len())));
        };
        check_version(body)?;
        let record: Self = read_cbor("vault record", &mut &body[..])?;
        let record = Self { mac: *mac, ..record };
        slots_bounded(record.slots.len())?;
        record.slots.iter().try_for_each(|slot| slot.kdf.check())?;
        // One record has one encoding: nothing hides in unknown fields or behind the end.
        if record.body() != body {
            return Err(damaged("it is not in the canonical form".into()));
        }
        Ok(record)
    }

    /// Opens a slot with `secret` and checks the MAC. `Error::Key` when no slot opens.
    pub fn unlock(&self, secret: &Secret) -> Result<VaultKeys> {
        for slot in &self.slots {
            if let Some(master) = slot.open(self.vault, secret)? {
                let keys = VaultKeys::with_private_key(master, |wrap| self.unwrap_private(wrap));
                self.check(&keys)?;
                return Ok(keys);
            }
        }
        Err(Error::Key { what: "the vault" })
    }

    /// Checks the MAC of a record that came later than the keys: another generation, perhaps.
    pub fn check(&self, keys: &VaultKeys) -> Result<()> {
        hmac::verify(&keys.0.vault_record, &self.body(), &self.mac)
            .map_err(|_| damaged(format!("the MAC of generation {} is wrong", self.generation)))
    }

    /// The public half of the vault's encryption key pair (X25519).
    pub fn public_key(&self) -> &[u8; 32] {
        &self.public_key
    }

    /// The private half of the vault's encryption key pair.
    pub fn private_key(&self, keys: &VaultKeys) -> Result<Zeroizing<[u8; 32]>> {
        self.unwrap_private(&keys.0.private_key_wrap)
            .ok_or(Error::Key { what: "the vault's private key" })
    }

    fn unwrap_private(&self, wrap: &Aead) -> Option<Zeroizing<[u8; 32]>> {
        wrap.unwrap(self.private_nonce, &private_key_context(self.vault), &self.private_key)
    }

    /// What the MAC covers.
    // Writing to a vector cannot fail, and no field refuses to be serialized.
    #[allow(clippy::expect_used)]
    fn body(&self) -> Vec<u8> {
        let mut body = Vec::new();
        ciborium::into_writer(self, &mut body).expect("a record serializes");
        body
    }

    fn stamp(&mut self, keys: &VaultKeys) {
        let mac = hmac::sign(&keys.0.vault_record, &self.body());
        self.mac.copy_from_slice(mac.as_ref());
    }
}

impl Slot {
    fn new(
        vault: VaultId,
        master: &MasterKey,
        secret: &Secret,
        cost: Argon2Cost,
        salt: [u8; 32],
        nonce: [u8; 12],
    ) -> Result<Self> {
        let kdf = Kdf::for_secret(secret, cost);
        let key = kdf.key(secret, &salt)?.ok_or(Error::Key { what: "a new slot" })?;
        let wrapped = Aead::new(&key).wrap(nonce, &slot_context(vault), &master.0);
        Ok(Self { kdf, salt, nonce, wrapped })
    }

    fn open(&self, vault: VaultId, secret: &Secret) -> Result<Option<MasterKey>> {
        let Some(key) = self.kdf.key(secret, &self.salt)? else { return Ok(None) };
        let master = Aead::new(&key).unwrap(self.nonce, &slot_context(vault), &self.wrapped);
        Ok(master.map(|bytes| MasterKey::new(*bytes)))
    }
}

fn slot_context(vault: VaultId) -> Vec<u8> {
    [b"arc v0 master key", vault.as_bytes().as_slice()].concat()
}

fn private_key_context(vault: VaultId) -> Vec<u8> {
    [b"arc v0 private key", vault.as_bytes().as_slice()].concat()
}

/// The version comes first, so that a newer record is refused as such and not as damaged.
fn check_version(body: &[u8]) -> Result<()> {
    #[derive(Deserialize)]
    struct Probe {
        version: u16,
    }
    let Probe { version: found } = read_cbor("vault record", &mut &body[..])?;
    if found > FORMAT_VERSION {
        return Err(Error::Version { what: "the vault record", found, known: FORMAT_VERSION });
    }
    Ok(())
}

fn slots_bounded(slots: usize) -> Result<()> {
    if slots > SLOTS_MAX {
        let (actual, limit) = (slots as u64, SLOTS_MAX as u64);
        return Err(Error::Bound { what: "the number of key slots", actual, limit });
    }
    Ok(())
}

fn damaged(why: String) -> Error {
    Error::damaged("vault record", why)
}

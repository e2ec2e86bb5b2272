//! Facts: what the coordinator put on record beside its catalog, signed and chained.
//!
//! Each names the hash of the one before it, so that who knows one fact knows all before it, and
//! its number: 1, 2, 3 … without gaps.

use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use serde::{Deserialize, Serialize};

use crate::manifest::{read_cbor, write_cbor};
use crate::{Digest, Error, FORMAT_VERSION, Result, StripeId, VaultId};

/// The longest encoded fact.
pub const FACT_BYTES_MAX: usize = 1024;
/// Bytes of the Ed25519 signature at its end.
pub const SIGNATURE_BYTES: usize = 64;

const FACT: &str = "fact";
const HASH_DOMAIN: &str = "arc v0 fact";
const SIGNED_DOMAIN: &[u8] = b"arc v0 signed fact\0";

/// How far a chain of facts goes: the number of the last one and its hash, or 0 and zeros.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Head {
    /// The last fact's number, which is how many there are.
    pub number: u64,
    /// Its hash.
    pub hash: Digest,
}

/// One fact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fact {
    version: u16,
    /// The vault.
    pub vault: VaultId,
    /// From 1 on.
    pub number: u64,
    /// The hash of the fact before it, zeros for the first.
    pub previous: Digest,
    /// The coordinator's epoch when it was made; 0 for one of an older catalog's snapshots.
    pub epoch: u64,
    /// What it says.
    pub body: Body,
}

/// What a fact says. A reader refuses kinds that it does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Body {
    /// A snapshot was received and is kept.
    #[serde(rename = "stamp")]
    Stamp(Stamp),
}

/// The coordinator's stamp of a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    /// The stripe with its record.
    pub snapshot: StripeId,
    /// The catalog's logical clock.
    pub sequence: u64,
    /// When it was received, in the coordinator's time.
    pub received_ms: u64,
    /// Keyed name of host and sources.
    pub source_set: Digest,
    /// The token that it came by.
    pub origin: u64,
}

impl Head {
    /// The fact that follows.
    pub fn next(&self, vault: VaultId, epoch: u64, body: Body) -> Fact {
        let number = self.number.saturating_add(1);
        Fact { version: FORMAT_VERSION, vault, number, previous: self.hash, epoch, body }
    }

    /// The head after `fact`, which `bytes` encode; an error unless it follows this one.
    pub fn after(&self, fact: &Fact, bytes: &[u8]) -> Result<Self> {
        if self.number.checked_add(1) != Some(fact.number) {
            let why = format!("number {} does not follow {}", fact.number, self.number);
            return Err(Error::damaged(FACT, why));
        }
        if fact.previous != self.hash {
            let why = format!("number {} follows another {}", fact.number, self.number);
            return Err(Error::damaged(FACT, why));
        }
        Ok(Self { number: fact.number, hash: hash(bytes) })
    }
}

impl Fact {
    /// CBOR, and the signature over it that `sign` makes.
    pub fn encode(&self, sign: impl FnOnce(&[u8]) -> [u8; SIGNATURE_BYTES]) -> Result<Vec<u8>> {
        let mut bytes = self.claims()?;
        let signature = sign(&[SIGNED_DOMAIN, &bytes].concat());
        bytes.extend(signature);
        Ok(bytes)
    }

    /// Reads a fact and checks that the coordinator with this public key signed it.
    pub fn open(bytes: &[u8], public_key: &[u8]) -> Result<Self> {
        let (claims, signature) = split(bytes)?;
        UnparsedPublicKey::new(&ED25519, public_key)
            .verify(&[SIGNED_DOMAIN, claims].concat(), signature)
            .map_err(|_| Error::damaged(FACT, "its signature does not hold"))?;
        Self::read(claims)
    }

    /// Reads a fact without its signature: who goes by it knows its hash from elsewhere.
    pub fn peek(bytes: &[u8]) -> Result<Self> {
        Self::read(split(bytes)?.0)
    }

    fn read(claims: &[u8]) -> Result<Self> {
        #[derive(Deserialize)]
        struct Probe {
            version: u16,
        }
        let Probe { version: found } = read_cbor(FACT, &mut &claims[..])?;
        if found > FORMAT_VERSION {
            return Err(Error::Version { what: FACT, found, known: FORMAT_VERSION });
        }
        let fact: Self = read_cbor(FACT, &mut &claims[..])?;
        if fact.number == 0 {
            return Err(Error::damaged(FACT, "its number is 0"));
        }
        // One fact has one encoding: nothing hides in unknown fields or behind the end.
        if fact.claims()? != claims {
            return Err(Error::damaged(FACT, "it is not in the canonical form"));
        }
        Ok(fact)
    }

    fn claims(&self) -> Result<Vec<u8>> {
        let mut claims = Vec::new();
        write_cbor(FACT, self, &mut claims)?;
        Ok(claims)
    }
}

/// The hash of an encoded fact, which the next one names.
pub fn hash(bytes: &[u8]) -> Digest {
    Digest(blake3::derive_key(HASH_DOMAIN, bytes))
}

fn split(bytes: &[u8]) -> Result<(&[u8], &[u8; SIGNATURE_BYTES])> {
    if bytes.len() > FACT_BYTES_MAX {
        let (actual, limit) = (bytes.len() as u64, FACT_BYTES_MAX as u64);
        return Err(Error::Bound { what: "a fact in bytes", actual, limit });
    }
    let short = || Error::damaged(FACT, format!("{} bytes hold none", bytes.len()));
    bytes.split_last_chunk().ok_or_else(short)
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
    use proptest::prelude::*;

    use super::*;

    const VAULT: VaultId = VaultId([7; 16]);

    fn key(seed: u8) -> Ed25519KeyPair {
        Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap()
    }

    fn signed(fact: &Fact, key: &Ed25519KeyPair) -> Vec<u8> {
        fact.encode(|bytes| key.sign(bytes).as_ref().try_into().unwrap()).unwrap()
    }

    fn stamp(number: u64) -> Body {
        Body::Stamp(Stamp {
            snapshot: StripeId([number as u8; 32]),
            sequence: u64::MAX - number,
            received_ms: u64::MAX,
            source_set: Digest([9; 32]),
            origin: u64::MAX,
        })
    }

    /// The first `n` facts of a chain, encoded.
    fn chain(n: u64) -> (Vec<Vec<u8>>, Head) {
        let (mut head, mut all) = (Head::default(), Vec::new());
        for number in 1..=n {
            let fact = head.next(VAULT, number / 3, stamp(number));
            let bytes = signed(&fact, &key(1));
            head = head.after(&fact, &bytes).unwrap();
            all.push(bytes);
        }
        (all, head)
    }

    #[test]
    fn a_fact_reads_back_for_who_knows_the_key() {
        let fact = Head { number: u64::MAX - 1, hash: Digest([3; 32]) }.next(VAULT, 5, stamp(1));
        let bytes = signed(&fact, &key(1));
        assert!(bytes.len() < FACT_BYTES_MAX / 2, "{}", bytes.len());
        let public = |seed| key(seed).public_key().as_ref().to_vec();
        assert_eq!(Fact::open(&bytes, &public(1)), Ok(fact.clone()));
        assert_eq!(Fact::peek(&bytes), Ok(fact));
        assert!(Fact::open(&bytes, &public(2)).is_err());
        assert!(Fact::open(&vec![0; FACT_BYTES_MAX + 1], &public(1)).is_err());
        assert!(Fact::open(&[], &public(1)).is_err());
    }

    #[test]
    fn a_newer_version_and_an_unknown_kind_are_refused() {
        let fact = Head::default().next(VAULT, 5, stamp(1));
        let newer = signed(&Fact { version: FORMAT_VERSION + 1, ..fact.clone() }, &key(1));
        assert!(matches!(Fact::peek(&newer), Err(Error::Version { found: 1, .. })));
        let mut other = signed(&fact, &key(1));
        let at = other.windows(5).position(|word| word == b"stamp").unwrap();
        other[at..at + 5].copy_from_slice(b"stomp");
        assert!(matches!(Fact::peek(&other), Err(Error::Damaged { .. })));
        let zero = signed(&Fact { number: 0, ..fact }, &key(1));
        assert!(Fact::peek(&zero).is_err());
    }

    proptest! {
        #[test]
        fn only_the_chain_itself_follows_a_head(n in 2..12_u64, at in any::<prop::sample::Index>()) {
            let (facts, head) = chain(n);
            let follow = |facts: &[Vec<u8>]| {
                facts.iter().try_fold(Head::default(), |head, bytes| {
                    head.after(&Fact::peek(bytes)?, bytes)
                })
            };
            prop_assert_eq!(follow(&facts), Ok(head));
            let at = at.index(facts.len() - 1);
            let mut swapped = facts.clone();
            swapped.swap(at, at + 1);
            prop_assert!(follow(&swapped).is_err());
            let mut gap = facts.clone();
            gap.remove(at);
            prop_assert!(follow(&gap).is_err());
            // Another fact in its place, signed by the same key.
            let mut other = facts.clone();
            let fact = Fact { epoch: 99, ..Fact::peek(&facts[at]).unwrap() };
            other[at] = signed(&fact, &key(1));
            prop_assert!(follow(&other).is_err());
        }

        #[test]
        fn no_bit_of_a_fact_can_be_changed(at in any::<prop::sample::Index>(), bit in 0..8_u8, cut in any::<bool>()) {
            let (facts, _) = chain(1);
            let mut bytes = facts[0].clone();
            let at = at.index(bytes.len());
            if cut {
                bytes.truncate(at);
            } else {
                bytes[at] ^= 1 << bit;
            }
            let public = key(1).public_key().as_ref().to_vec();
            prop_assert!(Fact::open(&bytes, &public).is_err());
            prop_assert_ne!(hash(&bytes), hash(&facts[0]));
            // Without a key it may still be a fact, but never panics.
            let _ = Fact::peek(&bytes);
        }

        #[test]
        fn whatever_comes_is_refused_and_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
            prop_assert!(Fact::peek(&bytes).is_err());
        }
    }
}

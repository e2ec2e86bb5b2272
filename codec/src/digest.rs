//! Hashes and the identifiers made of them.
//!
//! Blocks and roots are BLAKE3; chunk ids are keyed and made in [`crate::keys`].
//! Each kind of identifier is a type of its own. In JSON an identifier is
//! lower-case hex, in CBOR a byte string.

use std::fmt;
use std::str::FromStr;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Bytes of a shard body that are hashed together; the last block may be short.
pub const BLOCK_BYTES: usize = 64 * 1024;

macro_rules! identifier {
    ($(#[$doc:meta])* $name:ident, $len:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub [u8; $len]);

        impl $name {
            /// Length in bytes.
            pub const LEN: usize = $len;

            /// The bytes.
            pub fn as_bytes(&self) -> &[u8; $len] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                // `{:.8}` prints the first eight digits, as for a git hash.
                let digits = f.precision().unwrap_or($len * 2).min($len * 2);
                for (i, byte) in self.0.iter().enumerate() {
                    match digits.saturating_sub(i * 2) {
                        0 => break,
                        1 => write!(f, "{:x}", byte >> 4)?,
                        _ => write!(f, "{byte:02x}")?,
                    }
                }
                Ok(())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }

        impl FromStr for $name {
            type Err = crate::Error;

            fn from_str(s: &str) -> crate::Result<Self> {
                parse_hex(s).map(Self)
            }
        }

        impl TryFrom<&[u8]> for $name {
            type Error = crate::Error;

            fn try_from(bytes: &[u8]) -> crate::Result<Self> {
                bytes.try_into().map(Self).map_err(|_| {
                    crate::Error::damaged("identifier", format!("{} bytes, not {}", bytes.len(), $len))
                })
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                if s.is_human_readable() { s.collect_str(self) } else { s.serialize_bytes(&self.0) }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                if d.is_human_readable() {
                    d.deserialize_str(ArrayVisitor::<$len>).map(Self)
                } else {
                    d.deserialize_bytes(ArrayVisitor::<$len>).map(Self)
                }
            }
        }
    };
}

identifier!(
    /// A BLAKE3 hash of a block or a header.
    Digest, 32
);
identifier!(
    /// BLAKE3 over the block hashes of one shard.
    Root, 32
);
identifier!(
    /// Names a stripe and certifies every byte of its shards.
    StripeId, 32
);
identifier!(
    /// Keyed name of a chunk: HMAC-SHA-256 of its plaintext under the vault's key.
    ChunkId, 32
);
identifier!(
    /// Random name of a vault, given at the coordinator's first start.
    VaultId, 16
);

fn parse_hex<const N: usize>(s: &str) -> crate::Result<[u8; N]> {
    let bad = || crate::Error::damaged("identifier", format!("not {} hex digits", N * 2));
    let digits = s.as_bytes();
    if digits.len() != N * 2 {
        return Err(bad());
    }
    let mut out = [0; N];
    for (byte, pair) in out.iter_mut().zip(digits.chunks_exact(2)) {
        let high = (pair[0] as char).to_digit(16).ok_or_else(bad)?;
        let low = (pair[1] as char).to_digit(16).ok_or_else(bad)?;
        *byte = (high * 16 + low) as u8;
    }
    Ok(out)
}

struct ArrayVisitor<const N: usize>;

impl<'de, const N: usize> Visitor<'de> for ArrayVisitor<N> {
    type Value = [u8; N];

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{N} bytes")
    }

    fn visit_bytes<E: de::Error>(self, v: &[u8]) -> Result<Self::Value, E> {
        v.try_into().map_err(|_| E::invalid_length(v.len(), &self))
    }

    fn visit_str<E: de::Error>(self, v: &str) -> Result<Self::Value, E> {
        parse_hex(v).map_err(E::custom)
    }
}

/// The hash of one block of a shard body.
pub fn block_hash(block: &[u8]) -> Digest {
    Digest(*blake3::hash(block).as_bytes())
}

/// The hashes of all blocks of a shard body.
pub fn block_hashes(body: &[u8]) -> Vec<Digest> {
    body.chunks(BLOCK_BYTES).map(block_hash).collect()
}

/// The root over a shard's block hashes.
pub fn root(block_hashes: &[Digest]) -> Root {
    let mut hasher = blake3::Hasher::new_derive_key("arc v0 shard root");
    for hash in block_hashes {
        hasher.update(&hash.0);
    }
    Root(*hasher.finalize().as_bytes())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde::de::IntoDeserializer;
    use serde::de::value::{Error as ValueError, StrDeserializer};

    use super::*;

    /// What a format for people, such as JSON, would hold between its quotes.
    struct AsText<'a, T>(&'a T);

    impl<T: Serialize> fmt::Display for AsText<'_, T> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            self.0.serialize(f)
        }
    }

    fn from_text(text: &str) -> Result<VaultId, ValueError> {
        let text: StrDeserializer<'_, ValueError> = text.into_deserializer();
        VaultId::deserialize(text)
    }

    fn to_cbor<T: Serialize>(value: &T) -> Vec<u8> {
        let mut cbor = Vec::new();
        ciborium::into_writer(value, &mut cbor).unwrap();
        cbor
    }

    proptest! {
        #[test]
        fn identifiers_round_trip(bytes: [u8; 16], precision in 0usize..40) {
            let id = VaultId(bytes);
            let hex = id.to_string();
            prop_assert_eq!(hex.len(), 32);
            prop_assert_eq!(hex.parse(), Ok(id));
            prop_assert_eq!(hex.to_uppercase().parse(), Ok(id));
            prop_assert_eq!(&format!("{id:.precision$}"), &hex[..precision.min(32)]);
            prop_assert_eq!(format!("{id:?}"), format!("VaultId({hex})"));
            prop_assert_eq!(VaultId::try_from(&bytes[..]), Ok(id));

            prop_assert_eq!(AsText(&id).to_string(), hex.clone());
            prop_assert_eq!(from_text(&hex), Ok(id));
            let cbor = to_cbor(&id);
            prop_assert_eq!(cbor[0], 0x50, "a byte string of 16");
            prop_assert_eq!(&cbor[1..], &bytes[..]);
            prop_assert_eq!(ciborium::from_reader::<VaultId, _>(&cbor[..]).unwrap(), id);
        }
    }

    #[test]
    fn other_lengths_and_digits_are_refused() {
        let hex = "00112233445566778899aabbccddeeff";
        assert_eq!(hex.parse::<VaultId>().unwrap().to_string(), hex);
        let longer = format!("{hex}00");
        let signed = hex.replacen('0', "+", 1);
        let wide = hex.replacen("00", "é", 1);
        for bad in ["", &hex[1..], &hex[2..], &longer, &signed, &wide, &hex.replace('f', "g")] {
            assert!(bad.parse::<VaultId>().is_err(), "{bad}");
            assert!(from_text(bad).is_err(), "{bad}");
        }
        assert!(VaultId::try_from(&[0; 15][..]).is_err());
        for wrong in [to_cbor(&Digest([0; 32])), to_cbor(&hex), to_cbor(&[0u8; 16])] {
            assert!(ciborium::from_reader::<VaultId, _>(&wrong[..]).is_err());
        }
    }

    #[test]
    fn blocks_are_hashed_by_themselves_and_the_last_may_be_short() {
        let body: Vec<u8> = (0..BLOCK_BYTES * 2 + 64).map(|x| (x / 64) as u8).collect();
        let hashes = block_hashes(&body);
        assert_eq!(hashes.len(), 3);
        assert_eq!(hashes[1], block_hash(&body[BLOCK_BYTES..2 * BLOCK_BYTES]));
        assert_eq!(hashes[2], block_hash(&body[2 * BLOCK_BYTES..]));
        assert_eq!(hashes[2].0, *blake3::hash(&body[2 * BLOCK_BYTES..]).as_bytes());
    }

    #[test]
    fn the_root_depends_on_order_and_number_and_is_no_block_hash() {
        let [a, b] = [Digest([1; 32]), Digest([2; 32])];
        let roots = [root(&[]), root(&[a]), root(&[a, b]), root(&[b, a]), root(&[a, b, b])];
        let unique: std::collections::HashSet<_> = roots.iter().collect();
        assert_eq!(unique.len(), roots.len());
        assert_ne!(root(&[a]).0, block_hash(&a.0).0);
    }
}

//! The shape of a code: k data shards and m parity shards.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::digest::BLOCK_BYTES;
use crate::{Error, Result};

/// Shard bodies are a multiple of this many bytes, so that kernels see whole vectors.
pub const SHARD_ALIGN_BYTES: u64 = 64;

/// A code `k+m`: any k of k+m shards give the pack back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "(u8, u8)", into = "(u8, u8)")]
pub struct Geometry {
    k: u8,
    m: u8,
}

impl Geometry {
    /// The code `k+m`; k and m are at least 1 and k+m at most 255.
    pub fn new(k: u8, m: u8) -> Result<Self> {
        match (k, m) {
            (0, _) => Err(Error::Geometry(format!("{k}+{m} has no data shard"))),
            (_, 0) => {
                Err(Error::Geometry(format!("{k}+{m} has no parity shard and survives nothing")))
            }
            _ if k as usize + m as usize > 255 => {
                Err(Error::Geometry(format!("{k}+{m} has more than 255 shards")))
            }
            _ => Ok(Self { k, m }),
        }
    }

    /// Data shards, k.
    pub fn data(self) -> usize {
        self.k.into()
    }

    /// Parity shards, m: as many as may be lost.
    pub fn parity(self) -> usize {
        self.m.into()
    }

    /// All shards of a stripe, k+m.
    pub fn shards(self) -> usize {
        self.data() + self.parity()
    }

    /// The code of small packs and of records: 1+m, copies that survive as much as this code.
    pub fn copies(self) -> Self {
        Self { k: 1, m: self.m }
    }

    /// The code for a pack of `pack_bytes`: [`Geometry::copies`] below k blocks.
    pub fn for_pack(self, pack_bytes: u64) -> Self {
        if pack_bytes < self.data() as u64 * BLOCK_BYTES as u64 { self.copies() } else { self }
    }

    /// Bytes of each shard body for a pack of `pack_bytes`.
    pub fn shard_bytes(self, pack_bytes: u64) -> u64 {
        pack_bytes.div_ceil(self.data() as u64).next_multiple_of(SHARD_ALIGN_BYTES)
    }
}

impl fmt::Display for Geometry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{}", self.k, self.m)
    }
}

impl FromStr for Geometry {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self> {
        let bad = || Error::Geometry(format!("{s:?} is not of the form k+m, such as 4+2"));
        let (k, m) = s.split_once('+').ok_or_else(bad)?;
        Self::new(k.trim().parse().map_err(|_| bad())?, m.trim().parse().map_err(|_| bad())?)
    }
}

impl TryFrom<(u8, u8)> for Geometry {
    type Error = Error;

    fn try_from((k, m): (u8, u8)) -> Result<Self> {
        Self::new(k, m)
    }
}

impl From<Geometry> for (u8, u8) {
    fn from(g: Geometry) -> Self {
        (g.k, g.m)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn texts_and_pairs_round_trip_or_are_no_code(k: u8, m: u8) {
            match Geometry::new(k, m) {
                Ok(geometry) => {
                    prop_assert!(k > 0 && m > 0 && geometry.shards() <= 255);
                    prop_assert_eq!((geometry.data(), geometry.parity()), (k.into(), m.into()));
                    prop_assert_eq!(geometry.to_string().parse(), Ok(geometry));
                    prop_assert_eq!(Geometry::try_from(<(u8, u8)>::from(geometry)), Ok(geometry));
                }
                Err(_) => prop_assert!(k == 0 || m == 0 || k as usize + m as usize > 255),
            }
        }

        #[test]
        fn shards_hold_the_pack_and_no_needless_step(
            k in 1u8..=254,
            pack_bytes in 1..=u64::from(u32::MAX),
        ) {
            let geometry = Geometry::new(k, 1).unwrap();
            let shard_bytes = geometry.shard_bytes(pack_bytes);
            let k = u64::from(k);
            prop_assert_eq!(shard_bytes % SHARD_ALIGN_BYTES, 0);
            prop_assert!(shard_bytes * k >= pack_bytes);
            prop_assert!((shard_bytes - SHARD_ALIGN_BYTES) * k < pack_bytes);
        }
    }

    #[test]
    fn texts_that_are_no_code_are_refused() {
        for text in ["", "4", "4+", "+2", "4+2+1", "4-2", "0+1", "1+0", "200+56", "256+1", "a+b"] {
            assert!(matches!(text.parse::<Geometry>(), Err(Error::Geometry(_))), "{text}");
        }
        assert_eq!(" 4 + 2 ".parse(), Geometry::new(4, 2));
    }

    #[test]
    fn packs_below_k_blocks_are_copied() {
        let code = Geometry::new(4, 2).unwrap();
        let copies = Geometry::new(1, 2).unwrap();
        let border = 4 * BLOCK_BYTES as u64;
        assert_eq!(code.for_pack(1), copies);
        assert_eq!(code.for_pack(border - 1), copies);
        assert_eq!(code.for_pack(border), code);
        assert_eq!(copies.for_pack(1), copies);
    }
}

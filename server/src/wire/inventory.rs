//! What a server holds, in short, and how it compares with the coordinator's map.

use codec::StripeId;
use serde::{Deserialize, Serialize};

use super::ServerId;

/// Shards are counted in so many buckets: those whose stripes' ids begin with the same byte.
pub const BUCKETS: usize = 256;
/// Shards that a comparison names of each sort at most; it counts all.
pub const NAMED_SHARDS_MAX: usize = 100;

const DIGEST_DOMAIN: &[u8] = b"arc v0 inventory\0";

/// The shards of one bucket, in short. Two that are equal hold the same shards.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bucket {
    /// How many there are, bad ones too.
    pub shards: u64,
    /// How many of them are known to be bad.
    pub bad: u64,
    /// The sum of their hashes, lane by lane and without carry: they may come and go in any order.
    pub sum: [u64; 4],
}

impl Bucket {
    /// The number of the bucket of a stripe's shards.
    pub fn of(stripe: StripeId) -> u8 {
        stripe.0[0]
    }

    /// Counts a shard in.
    pub fn add(&mut self, stripe: StripeId, index: u8, bad: bool) {
        self.shards = self.shards.saturating_add(1);
        self.bad = self.bad.saturating_add(bad.into());
        self.turn(stripe, index, bad, u64::wrapping_add);
    }

    /// Counts a shard out that was counted in.
    pub fn remove(&mut self, stripe: StripeId, index: u8, bad: bool) {
        self.shards = self.shards.saturating_sub(1);
        self.bad = self.bad.saturating_sub(bad.into());
        self.turn(stripe, index, bad, u64::wrapping_sub);
    }

    fn turn(&mut self, stripe: StripeId, index: u8, bad: bool, by: fn(u64, u64) -> u64) {
        let mut hasher = blake3::Hasher::new();
        hasher.update(DIGEST_DOMAIN);
        hasher.update(stripe.as_bytes());
        hasher.update(&[index, bad.into()]);
        let hash = hasher.finalize();
        let (lanes, _) = hash.as_bytes().as_chunks::<8>();
        for (sum, lane) in self.sum.iter_mut().zip(lanes) {
            *sum = by(*sum, u64::from_le_bytes(*lane));
        }
    }
}

/// The query of `GET /v1/inventory/digests` of a storage server, with a control ticket.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct DigestsQuery {
    /// Whether it shall look into its folders rather than say what it remembers.
    #[serde(default)]
    pub walk: bool,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digests {
    /// By number.
    pub buckets: Vec<Bucket>,
}

/// How the last comparison of a server's shards with the map went; one a server is the answer to
/// `POST /v1/reconcile`, which begins them, and `GET /v1/reconcile`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Comparison {
    /// The server.
    pub server: ServerId,
    /// Its name.
    pub name: String,
    /// Whether one is under way; the rest is of the one before.
    pub running: bool,
    /// When the last one ended, if one did since the coordinator's start.
    pub ended_ms: Option<u64>,
    /// Why that one did not get to its end.
    pub failed: Option<String>,
    /// What it found.
    pub found: Counts,
    /// Shards of stripes that the map has elsewhere, the first [`NAMED_SHARDS_MAX`]; kept.
    pub surplus: Vec<(StripeId, u8)>,
    /// Shards that nothing is on record of, as many; kept.
    pub unknown: Vec<(StripeId, u8)>,
}

/// Counts of shards, each of one sort.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// In the map, and whole as far as the server knows.
    pub good: u64,
    /// In the map, and not there.
    pub missing: u64,
    /// In the map, and damaged.
    pub damaged: u64,
    /// Of a stripe in the map, but not where the map has it.
    pub surplus: u64,
    /// Neither in the map nor ever asked for.
    pub unknown: u64,
    /// On their way: a push that still runs got a ticket for them.
    pub pending: u64,
    /// Left by pushes that are over, and moved to the trash.
    pub leftover: u64,
}

impl Counts {
    /// Shards that it looked at, wherever they were found.
    pub fn compared(&self) -> u64 {
        let Self { good, missing, damaged, surplus, unknown, pending, leftover } = *self;
        good + missing + damaged + surplus + unknown + pending + leftover
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stripe(n: u8) -> StripeId {
        StripeId([n; 32])
    }

    #[test]
    fn a_bucket_is_the_same_whatever_the_order_and_another_with_any_other_shard() {
        let of = |shards: &[(u8, u8, bool)]| {
            let mut bucket = Bucket::default();
            shards.iter().for_each(|&(n, index, bad)| bucket.add(stripe(n), index, bad));
            bucket
        };
        let some = of(&[(1, 0, false), (1, 1, true), (2, 0, false)]);
        assert_eq!(of(&[(2, 0, false), (1, 1, true), (1, 0, false)]), some);
        assert_eq!((some.shards, some.bad), (3, 1));
        for other in [
            &[(1, 0, false), (1, 1, true), (2, 1, false)][..],
            &[(1, 0, true), (1, 1, false), (2, 0, false)],
            &[(1, 0, false), (1, 1, true), (3, 0, false)],
            &[(1, 0, false), (1, 0, false), (1, 1, true)],
        ] {
            assert_ne!(of(other), some, "{other:?}");
        }
        let mut back = some;
        back.add(stripe(9), 4, true);
        assert_ne!(back, some);
        back.remove(stripe(9), 4, true);
        assert_eq!(back, some);
        [(1, 0, false), (1, 1, true), (2, 0, false)]
            .into_iter()
            .for_each(|(n, index, bad)| back.remove(stripe(n), index, bad));
        assert_eq!(back, Bucket::default());
    }
}

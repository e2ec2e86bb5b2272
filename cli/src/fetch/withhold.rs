//! Shards that are not read although they are there: as many as may be lost, chosen at random.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use codec::{Geometry, StripeId};
use server::auth;
use server::wire::StripeMap;

use super::shards::Candidate;
use super::trouble::Doubt;

/// What is withheld of each stripe that was read so far.
#[derive(Default)]
pub(super) struct Withholding {
    chosen: Mutex<HashMap<StripeId, Chosen>>,
}

#[derive(Default)]
struct Chosen {
    indexes: Vec<u8>,
    given_back: bool,
}

impl Withholding {
    /// The indexes that are withheld of a stripe; chosen when it is first asked for.
    pub(super) fn of(&self, map: &StripeMap, candidates: &[Candidate]) -> Vec<u8> {
        let choose = || {
            let good = candidates.iter().filter(|c| c.doubt == Doubt::None);
            let good = good.map(|c| c.holder.index).collect();
            Chosen { indexes: choose(map.geometry, good, dice), given_back: false }
        };
        let mut chosen = self.chosen();
        let chosen = chosen.entry(map.stripe).or_insert_with(choose);
        if chosen.given_back { Vec::new() } else { chosen.indexes.clone() }
    }

    /// Has all shards of the stripe read from here on.
    pub(super) fn give_back(&self, stripe: StripeId) {
        if let Some(chosen) = self.chosen().get_mut(&stripe) {
            chosen.given_back = true;
        }
    }

    /// Stripes of which some were withheld to the end, and how many shards in all.
    pub(super) fn counts(&self) -> (u64, u64) {
        let chosen = self.chosen();
        let kept = chosen.values().filter(|chosen| !chosen.given_back);
        let counts = kept.map(|chosen| chosen.indexes.len() as u64).filter(|count| *count > 0);
        counts.fold((0, 0), |(stripes, shards), count| (stripes + 1, shards + count))
    }

    fn chosen(&self) -> MutexGuard<'_, HashMap<StripeId, Chosen>> {
        self.chosen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// m of the good shards, or fewer, so that k are left.
fn choose(geometry: Geometry, mut good: Vec<u8>, mut dice: impl FnMut() -> u64) -> Vec<u8> {
    let spare = good.len().saturating_sub(geometry.data()).min(geometry.parity());
    for at in 0..spare {
        let other = at + (dice() % (good.len() - at) as u64) as usize;
        good.swap(at, other);
    }
    good.truncate(spare);
    good
}

/// Where the system gives no random bytes, the first shards are as good as any.
fn dice() -> u64 {
    auth::random().map(u64::from_le_bytes).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn at_most_m_good_shards_are_withheld_and_k_are_left(
            (k, m) in (1..20_u8, 1..10_u8),
            lacking in 0..29_u8,
            seed in any::<u64>(),
        ) {
            let geometry = Geometry::new(k, m).unwrap();
            let good: Vec<u8> = (0..(k + m).saturating_sub(lacking)).collect();
            let mut state = seed;
            let dice = || {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                state >> 11
            };
            let withheld: BTreeSet<u8> = choose(geometry, good.clone(), dice).into_iter().collect();
            prop_assert!(withheld.iter().all(|index| good.contains(index)));
            let expected = good.len().saturating_sub(k.into()).min(m.into());
            prop_assert_eq!(withheld.len(), expected);
        }
    }

    #[test]
    fn what_was_given_back_was_not_withheld() {
        let withholding = Withholding::default();
        for number in 1..=2 {
            let chosen = Chosen { indexes: vec![0, 3], given_back: false };
            withholding.chosen().insert(StripeId([number; 32]), chosen);
        }
        assert_eq!(withholding.counts(), (2, 4));
        withholding.give_back(StripeId([1; 32]));
        assert_eq!(withholding.counts(), (1, 2));
    }

    #[test]
    fn every_shard_has_its_turn() {
        let geometry = Geometry::new(4, 2).unwrap();
        let once = || choose(geometry, (0..6).collect(), dice);
        let ever: BTreeSet<u8> = (0..1000).flat_map(|_| once()).collect();
        assert_eq!(ever.len(), 6);
    }
}

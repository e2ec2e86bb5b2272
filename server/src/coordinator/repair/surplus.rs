//! Shards that could go, since their stripe is whole without them.

use std::collections::{BTreeMap, BTreeSet};

use codec::Geometry;

use super::risk::{Look, Standing};
use crate::wire::{Holder, ServerId, State};

/// Which shard of an index stays, and which of its copies, whole or not, goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::coordinator) struct Surplus {
    pub(in crate::coordinator) index: u8,
    pub(in crate::coordinator) kept: ServerId,
    pub(in crate::coordinator) dropped: ServerId,
}

/// What of a stripe could go: nothing, unless it has all its shards on servers that are up and
/// stay; and nothing that its server cannot be told, since a server that is away may come to be
/// needed. Of several whole copies the one in `wanted`, where a new stripe would have it, stays.
pub(in crate::coordinator) fn surplus<'a>(
    geometry: Geometry,
    shards: &[Holder],
    wanted: &BTreeSet<ServerId>,
    standing: impl Fn(ServerId) -> Option<Standing<'a>>,
) -> Vec<Surplus> {
    let order = |holder: &Holder| {
        let rank = standing(holder.server).map_or(u8::MAX, |at| at.rank());
        (holder.bad, rank, !wanted.contains(&holder.server), holder.server)
    };
    let mut kept: BTreeMap<u8, Holder> = BTreeMap::new();
    for holder in shards {
        let best = kept.entry(holder.index).or_insert(*holder);
        if order(holder) < order(best) {
            *best = *holder;
        }
    }
    let stay: Vec<Holder> = kept.values().copied().collect();
    if !Look::new(geometry, &stay, &standing).is_whole() {
        return Vec::new();
    }
    let is_up = |server| standing(server).is_some_and(|at| at.state == State::Up);
    let goes = |holder: &Holder| {
        let kept = kept.get(&holder.index)?.server;
        (holder.server != kept && is_up(holder.server)).then_some(Surplus {
            index: holder.index,
            kept,
            dropped: holder.server,
        })
    };
    shards.iter().filter_map(goes).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::Mode;

    fn holder(index: u8, server: u32, bad: bool) -> Holder {
        Holder { index, server: ServerId(server), bad }
    }

    fn of(shards: &[Holder], states: &[(State, Mode)], wanted: &[u32]) -> Vec<Surplus> {
        let wanted = wanted.iter().map(|&n| ServerId(n)).collect();
        surplus(Geometry::new(2, 1).unwrap(), shards, &wanted, |server| {
            let &(state, mode) = states.get(server.0 as usize)?;
            Some(Standing { state, mode, zone: "z" })
        })
    }

    const UP: (State, Mode) = (State::Up, Mode::Normal);

    #[test]
    fn the_copy_goes_that_a_new_stripe_would_not_have() {
        let twice = [0, 1, 2].map(|n| holder(n, n.into(), false));
        let twice = [&twice[..], &[holder(2, 3, false)]].concat();
        let goes = |wanted| of(&twice, &[UP; 4], wanted);
        assert_eq!(goes(&[2])[0].dropped, ServerId(3));
        assert_eq!(goes(&[3])[0].dropped, ServerId(2));
        let drained = [UP, UP, (State::Up, Mode::Draining), UP];
        assert_eq!(of(&twice, &drained, &[2])[0].dropped, ServerId(2));
    }

    #[test]
    fn nothing_goes_before_the_stripe_is_whole_without_it() {
        let shards = [holder(0, 0, false), holder(1, 1, false), holder(0, 3, false)];
        assert_eq!(of(&shards, &[UP; 4], &[]), []);
        let down = [UP, (State::Down, Mode::Normal), UP, UP];
        let shards = [&shards[..], &[holder(2, 2, false)]].concat();
        assert_eq!(of(&shards, &down, &[]), []);
        assert_eq!(of(&shards, &[UP; 4], &[]).len(), 1);
        // One that is away may be needed, and could not be told.
        let away = [UP, UP, UP, (State::Lost, Mode::Normal)];
        assert_eq!(of(&shards, &away, &[]), []);
    }

    #[test]
    fn a_damaged_copy_goes_once_the_shard_is_elsewhere() {
        let shards = [0, 1, 2].map(|n| holder(n, n.into(), false));
        let shards = [&shards[..], &[holder(1, 3, true)]].concat();
        let goes = of(&shards, &[UP; 4], &[3]);
        assert_eq!(goes, [Surplus { index: 1, kept: ServerId(1), dropped: ServerId(3) }]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(10_000))]

        #[test]
        fn i3_good_shards_within_reach_are_never_fewer_after(
            shards in prop::collection::btree_map(0u32..7, (0u8..3, any::<bool>()), 0..7),
            states in prop::collection::vec((0usize..6, 0usize..3), 7),
            wanted in prop::collection::vec(0u32..7, 0..4),
        ) {
            let shards: Vec<Holder> =
                shards.into_iter().map(|(server, (index, bad))| holder(index, server, bad)).collect();
            let modes = [Mode::Normal, Mode::Draining, Mode::ReadOnly];
            let states: Vec<(State, Mode)> =
                states.into_iter().map(|(s, m)| (State::ALL[s], modes[m])).collect();
            let goes = of(&shards, &states, &wanted);
            let good = |shards: &[Holder]| -> BTreeSet<u8> {
                let reached = |s: ServerId| matches!(states[s.0 as usize].0, State::Up | State::Returned);
                shards.iter().filter(|h| !h.bad && reached(h.server)).map(|h| h.index).collect()
            };
            let left: Vec<Holder> = shards
                .iter()
                .filter(|h| !goes.iter().any(|s| (s.index, s.dropped) == (h.index, h.server)))
                .copied()
                .collect();
            prop_assert_eq!(good(&left), good(&shards));
            if !goes.is_empty() {
                prop_assert_eq!(good(&left).len(), 3);
            }
        }
    }
}

//! What a stripe has, what it lacks, and how near that is to a loss.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use codec::Geometry;

use crate::coordinator::health::wait::Deficit;
use crate::wire::{Holder, Mode, ServerId, State};

/// A server, as far as its shards go by it.
#[derive(Debug, Clone, Copy)]
pub(in crate::coordinator) struct Standing<'a> {
    /// How it is doing.
    pub(in crate::coordinator) state: State,
    /// What is wanted of it.
    pub(in crate::coordinator) mode: Mode,
    /// Its failure domain.
    pub(in crate::coordinator) zone: &'a str,
}

impl Standing<'_> {
    fn is_within_reach(&self) -> bool {
        matches!(self.state, State::Up | State::Returned | State::Suspect)
    }

    /// How good it is to have the shard there; less is better.
    pub(super) fn rank(&self) -> u8 {
        match (self.state, self.mode) {
            (State::Up | State::Returned, Mode::Normal | Mode::ReadOnly) => 0,
            (State::Suspect, Mode::Normal | Mode::ReadOnly) => 1,
            (State::Up | State::Returned, Mode::Draining) => 2,
            (State::Suspect, Mode::Draining) => 3,
            (State::Unknown, _) => 4,
            (State::Down, _) => 5,
            (State::Lost, _) => 6,
        }
    }
}

/// What a stripe has: of each index the best good shard.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::coordinator) struct Look {
    /// Good shards within reach, minus k.
    pub(in crate::coordinator) margin: i32,
    /// The same without the zone that would be missed most.
    pub(in crate::coordinator) worst_zone_margin: i32,
    /// How many of these shards only a suspect server has.
    pub(in crate::coordinator) suspects: u32,
    /// The servers of good shards that are suspect or out of reach.
    pub(in crate::coordinator) away: Vec<ServerId>,
    /// How many indexes no server has good.
    pub(in crate::coordinator) bad: u32,
    /// How many good ones are only on servers that are being drained.
    pub(in crate::coordinator) leaving: u32,
    /// How many good ones are only on servers that are down, and on lost ones.
    down: u32,
    lost: u32,
    /// Good shards on servers that are not even suspect, minus k.
    sure_margin: i32,
}

impl Look {
    /// Looks at the shards of a stripe; a server without a standing is in the fleet no more.
    pub(in crate::coordinator) fn new<'a>(
        geometry: Geometry,
        shards: &[Holder],
        standing: impl Fn(ServerId) -> Option<Standing<'a>>,
    ) -> Self {
        let mut best: BTreeMap<u8, (u8, ServerId, Standing)> = BTreeMap::new();
        let mut zones: BTreeMap<u8, BTreeSet<&str>> = BTreeMap::new();
        for holder in shards.iter().filter(|holder| !holder.bad) {
            let Some(at) = standing(holder.server) else { continue };
            let one = (at.rank(), holder.server, at);
            let known = best.entry(holder.index).or_insert(one);
            if one.0 < known.0 {
                *known = one;
            }
            if at.is_within_reach() {
                zones.entry(holder.index).or_default().insert(at.zone);
            }
        }
        let k = geometry.data() as i32;
        let margin = zones.len() as i32 - k;
        let without = |zone| zones.values().filter(|of| of.iter().any(|z| *z != zone)).count();
        let worst = zones.values().flatten().map(|zone| without(*zone) as i32 - k).min();
        let (mut away, mut suspects, mut leaving, mut down, mut lost) = (Vec::new(), 0, 0, 0, 0);
        for (_, server, at) in best.values() {
            suspects += u32::from(at.state == State::Suspect);
            down += u32::from(at.state == State::Down);
            lost += u32::from(at.state == State::Lost);
            leaving += u32::from(at.is_within_reach() && at.mode == Mode::Draining);
            if !matches!(at.state, State::Up | State::Returned) {
                away.push(*server);
            }
        }
        Self {
            margin,
            worst_zone_margin: worst.unwrap_or(margin),
            suspects,
            bad: (geometry.shards() - best.len()) as u32,
            leaving,
            down,
            lost,
            sure_margin: best.len() as i32 - away.len() as i32 - k,
            away,
        }
    }

    /// Whether all its shards are where they shall be and within reach.
    pub(in crate::coordinator) fn is_whole(&self) -> bool {
        self.away.is_empty() && self.bad == 0 && self.leaving == 0
    }

    /// What waiting goes by.
    pub(in crate::coordinator) fn deficit(&self) -> Deficit<'_> {
        Deficit { margin: self.sure_margin, away: &self.away, bad: self.bad }
    }

    /// Whether a repair has something to make now.
    pub(in crate::coordinator) fn has_work(&self) -> bool {
        self.lacks() || self.leaving > 0 || (self.is_thin() && self.down > 0)
    }

    /// Whether it lacks what no server is going to bring back.
    pub(in crate::coordinator) fn lacks(&self) -> bool {
        self.bad + self.lost > 0
    }

    /// Whether nothing may be lost any more: servers that are down are then not waited for.
    pub(in crate::coordinator) fn is_thin(&self) -> bool {
        self.sure_margin <= 0
    }
}

/// What is repaired first: the least.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::coordinator) struct Risk {
    worst_zone_margin: i32,
    margin: i32,
    suspects: Reverse<u32>,
    tried_ms: Option<u64>,
    found_ms: u64,
}

impl Risk {
    /// That of a stripe which looks like this, was found lacking then and last tried then.
    pub(in crate::coordinator) fn new(look: &Look, found_ms: u64, tried_ms: Option<u64>) -> Self {
        Self {
            worst_zone_margin: look.worst_zone_margin,
            margin: look.margin,
            suspects: Reverse(look.suspects),
            tried_ms,
            found_ms,
        }
    }
}

/// The worst of many, in bounded memory.
pub(in crate::coordinator) struct Worst<T> {
    kept: BTreeMap<(Risk, i64), T>,
    limit: usize,
}

impl<T> Worst<T> {
    /// Keeps so many.
    pub(in crate::coordinator) fn new(limit: usize) -> Self {
        Self { kept: BTreeMap::new(), limit }
    }

    /// One more; `key` is its own.
    pub(in crate::coordinator) fn add(&mut self, risk: Risk, key: i64, one: T) {
        self.kept.insert((risk, key), one);
        if self.kept.len() > self.limit {
            self.kept.pop_last();
        }
    }

    /// The worst, worst first.
    pub(in crate::coordinator) fn into_sorted(self) -> impl Iterator<Item = T> {
        self.kept.into_values()
    }
}

#[cfg(test)]
#[path = "risk/tests.rs"]
mod tests;

#[cfg(test)]
#[path = "risk/histories.rs"]
mod histories;

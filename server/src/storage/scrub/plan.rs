//! Which shard a scrub reads when: decided from where it is, its rules and the time, which is
//! the coordinator's.
//!
//! A pass goes through the shards in the order of their addresses, which are random: a shard that
//! stands at a third of all addresses is due when a third of the period is over. So each is read
//! once a period, the one longest not read comes first, the work is spread evenly, and all that has
//! to be kept is an address. Passes follow each other without a pause; one that is behind, for
//! the server was off or many shards came, goes as fast as it may until it has caught up.

use serde::{Deserialize, Serialize};

use crate::storage::address::Address;
use crate::wire::{ScrubOrder, ScrubPass};

/// How a scrub goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rules {
    /// How long a pass takes; 0: none begins by itself.
    pub(super) every_ms: u64,
    /// Bytes read in a second at most.
    pub(super) bytes_per_second: u64,
}

/// Where it is; kept in the server's folder.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Position {
    #[serde(default)]
    pub(super) paused: bool,
    /// The pass under way.
    #[serde(default)]
    pub(super) pass: Option<ScrubPass>,
    /// The last that ended.
    #[serde(default)]
    pub(super) last: Option<ScrubPass>,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing, until it is told otherwise.
    Rest,
    /// A pass begins.
    Begin,
    /// The shard that comes next is read, when it is due.
    Go,
}

impl Position {
    pub(super) fn step(&self, rules: &Rules) -> Step {
        match &self.pass {
            _ if self.paused => Step::Rest,
            Some(pass) if pass.hurried => Step::Go,
            _ if rules.every_ms == 0 => Step::Rest,
            Some(_) => Step::Go,
            None => Step::Begin,
        }
    }

    /// Begins a pass.
    pub(super) fn begin(&mut self, now_ms: u64, hurried: bool) {
        self.pass = Some(ScrubPass { began_ms: now_ms, hurried, ..ScrubPass::default() });
    }

    /// The last shard that it is done with.
    pub(super) fn after(&self) -> Option<Address> {
        // What somebody else wrote there is no address: the pass begins anew.
        self.pass.as_ref()?.after.as_ref()?.parse().ok()
    }

    /// How much of the pass under way is done, by where it is; `None` between passes.
    pub(super) fn permille(&self) -> Option<u16> {
        self.pass.as_ref()?;
        let done = self.after().map_or(0, |after| {
            let [first, second, ..] = after.stripe.0;
            u32::from(u16::from_be_bytes([first, second])) * 1000 / (1 << 16)
        });
        // Below 1000.
        Some(done as u16)
    }

    /// How long from now the shard of `address` is due; `None`, the end of the pass.
    pub(super) fn due_in_ms(&self, address: Option<Address>, rules: &Rules, now_ms: u64) -> u64 {
        let Some(pass) = self.pass.as_ref().filter(|pass| !pass.hurried) else { return 0 };
        let share = address.map_or(1 << 64, |address| {
            let [a, b, c, d, e, f, g, h, ..] = address.stripe.0;
            u128::from(u64::from_be_bytes([a, b, c, d, e, f, g, h]))
        });
        // Less than the period, which is 64 bits.
        let into_ms = ((u128::from(rules.every_ms) * share) >> 64) as u64;
        pass.began_ms.saturating_add(into_ms).saturating_sub(now_ms)
    }

    /// Notes what was found of a shard: its bytes, and whether it is good, if that was learned.
    pub(super) fn pass_by(&mut self, address: Address, bytes: u64, good: Option<bool>) {
        let Some(pass) = &mut self.pass else { return };
        pass.after = Some(address.to_string());
        match good {
            None => pass.failed += 1,
            Some(good) => {
                pass.shards += 1;
                pass.bytes += bytes;
                pass.bad += u64::from(!good);
            }
        }
    }

    /// Ends the pass.
    pub(super) fn end(&mut self, now_ms: u64) {
        let ended = |pass| ScrubPass { ended_ms: Some(now_ms), after: None, ..pass };
        self.last = self.pass.take().map(ended);
    }

    /// Does what was ordered; the rules are changed too.
    pub(super) fn follow(&mut self, rules: &mut Rules, order: ScrubOrder, now_ms: u64) {
        self.paused = order.paused.unwrap_or(self.paused);
        rules.every_ms = order.every_ms.unwrap_or(rules.every_ms);
        rules.bytes_per_second =
            order.bytes_per_second.unwrap_or(rules.bytes_per_second).max(BYTES_PER_SECOND_MIN);
        if order.start_now {
            self.begin(now_ms, true);
        }
    }
}

/// Slower than this a shard takes hours, and a pass longer than any period.
pub(super) const BYTES_PER_SECOND_MIN: u64 = 64 * 1024;

#[cfg(test)]
mod tests {
    use codec::StripeId;

    use super::*;

    const DAY_MS: u64 = 24 * 3600 * 1000;
    const RULES: Rules = Rules { every_ms: 30 * DAY_MS, bytes_per_second: 1 << 25 };

    fn address(first: u8) -> Address {
        let mut id = [0; 32];
        id[0] = first;
        Address { stripe: StripeId(id), index: 0 }
    }

    #[test]
    fn each_shard_is_due_at_its_share_of_the_period_and_the_next_pass_follows() {
        let mut position = Position::default();
        assert_eq!(position.step(&RULES), Step::Begin);
        position.begin(1000, false);
        assert_eq!(position.step(&RULES), Step::Go);
        let due = |at, now_ms| position.due_in_ms(at, &RULES, now_ms);
        assert_eq!(due(Some(address(0)), 1000), 0);
        assert_eq!(due(Some(address(128)), 1000), 15 * DAY_MS);
        assert_eq!(due(Some(address(128)), 1000 + 14 * DAY_MS), DAY_MS);
        assert_eq!(due(Some(address(128)), 1000 + 20 * DAY_MS), 0, "behind, it does not wait");
        assert_eq!(due(None, 1000 + 29 * DAY_MS), DAY_MS);
        let end_ms = 1000 + 30 * DAY_MS;
        assert_eq!(due(None, end_ms), 0);
        position.end(end_ms);
        assert_eq!(position.step(&RULES), Step::Begin);
    }

    #[test]
    fn no_shard_waits_longer_than_a_period_whatever_happens_between() {
        // Times at which shards were read, over passes that are on time, late, or told to hurry.
        let shards = [0, 1, 77, 128, 255].map(address);
        let mut read_ms = [0_u64; 5];
        let (mut position, mut now_ms) = (Position::default(), 0);
        for pass in 0..20 {
            position.begin(now_ms, pass % 7 == 3);
            let away = if pass % 5 == 4 { 3 * DAY_MS } else { 0 };
            for (shard, read_ms) in shards.into_iter().zip(&mut read_ms) {
                now_ms += position.due_in_ms(Some(shard), &RULES, now_ms);
                if shard == address(77) {
                    now_ms += away;
                }
                let waited = now_ms - *read_ms;
                assert!(waited <= RULES.every_ms + away, "pass {pass}, {shard}: {waited}");
                (*read_ms, now_ms) = (now_ms, now_ms + 1);
                position.pass_by(shard, 10, Some(true));
            }
            now_ms += position.due_in_ms(None, &RULES, now_ms);
            position.end(now_ms);
        }
    }

    #[test]
    fn it_rests_when_it_is_off_or_paused_and_hurries_when_it_is_told() {
        let (mut position, mut rules) = (Position::default(), Rules { every_ms: 0, ..RULES });
        assert_eq!(position.step(&rules), Step::Rest);
        let now = ScrubOrder { start_now: true, ..ScrubOrder::default() };
        position.follow(&mut rules, now, 5);
        assert_eq!(position.step(&rules), Step::Go);
        assert_eq!(position.due_in_ms(Some(address(255)), &RULES, 5), 0);
        let paused = |paused| ScrubOrder { paused: Some(paused), ..ScrubOrder::default() };
        position.follow(&mut rules, paused(true), 6);
        assert_eq!(position.step(&rules), Step::Rest);
        position.follow(&mut rules, paused(false), 7);
        assert_eq!(position.step(&rules), Step::Go);
        position.end(8);
        assert_eq!(position.step(&rules), Step::Rest);
        let faster = ScrubOrder {
            every_ms: Some(DAY_MS),
            bytes_per_second: Some(0),
            ..ScrubOrder::default()
        };
        position.follow(&mut rules, faster, 9);
        assert_eq!((position.step(&rules), rules.every_ms), (Step::Begin, DAY_MS));
        assert_eq!(rules.bytes_per_second, BYTES_PER_SECOND_MIN);
    }

    #[test]
    fn what_it_kept_it_reads_back_and_counts_on() {
        let mut position = Position::default();
        position.begin(1, false);
        position.pass_by(address(1), 10, Some(true));
        position.pass_by(address(2), 20, Some(false));
        position.pass_by(address(3), 0, None);
        let text = serde_json::to_string(&position).unwrap();
        let mut back: Position = serde_json::from_str(&text).unwrap();
        assert_eq!(back, position);
        assert_eq!(back.after(), Some(address(3)));
        back.end(9);
        let last = back.last.unwrap();
        assert_eq!((last.shards, last.bytes, last.bad, last.failed), (2, 30, 1, 1));
        assert_eq!((last.began_ms, last.ended_ms), (1, Some(9)));
    }
}

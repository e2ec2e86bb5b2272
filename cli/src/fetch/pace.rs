//! How fast each server gives what it is asked for, and which is far slower than the others.
//! Pure: the time comes in.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use server::wire::ServerId;

/// Shorter reads say more of the way to a server than of its speed.
const METERED_BYTES_MIN: u64 = 64 * 1024;
/// When a server has given so much, what was long ago counts half.
const REMEMBERED_BYTES: u64 = 64 * 1024 * 1024;
/// A server that takes so many times as long as the others is slow,
const TIMES_SLOWER: u32 = 4;
/// unless that is no longer than this: anything can hold up one read.
const GRACE: Duration = Duration::from_millis(500);
/// Bytes each second that are waited for while it is not known what others give.
const UNKNOWN_PACE: u64 = 1024 * 1024;
/// A slow server is not read from for this long, where others can serve.
const AVOIDED_FOR: Duration = Duration::from_secs(60);

/// The pace of every server that was read from.
#[derive(Debug, Default)]
pub(super) struct Pace {
    servers: HashMap<ServerId, Meter>,
}

#[derive(Debug, Default)]
struct Meter {
    bytes: u64,
    took: Duration,
    slow_since: Option<Instant>,
}

impl Pace {
    /// Notes that a server gave `bytes` in a time; true when that makes it a slow one.
    pub(super) fn gave(
        &mut self,
        server: ServerId,
        bytes: u64,
        took: Duration,
        now: Instant,
    ) -> bool {
        let is_late = took > self.patience(server, bytes);
        let meter = self.servers.entry(server).or_default();
        if bytes >= METERED_BYTES_MIN {
            meter.bytes += bytes;
            meter.took += took;
            if meter.bytes > REMEMBERED_BYTES {
                (meter.bytes, meter.took) = (meter.bytes / 2, meter.took / 2);
            }
        }
        if is_late {
            return self.is_late(server, now);
        }
        false
    }

    /// How long a read may take before others are asked in the server's stead.
    pub(super) fn patience(&self, server: ServerId, bytes: u64) -> Duration {
        match self.others(server) {
            Some(nanos) => {
                let nanos = nanos.saturating_mul(u128::from(bytes)) >> SHIFT;
                let expected = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
                GRACE.saturating_add(expected.saturating_mul(TIMES_SLOWER))
            }
            None => TIMES_SLOWER * GRACE + Duration::from_secs(bytes / UNKNOWN_PACE),
        }
    }

    /// Notes that a server took longer than that; true when it was not known to be slow.
    pub(super) fn is_late(&mut self, server: ServerId, now: Instant) -> bool {
        let was_slow = self.is_slow(server, now);
        // What it gave before says nothing any more.
        let slow = Meter { slow_since: Some(now), ..Meter::default() };
        self.servers.insert(server, slow);
        !was_slow
    }

    /// Whether a server is to be avoided.
    pub(super) fn is_slow(&self, server: ServerId, now: Instant) -> bool {
        let since = self.servers.get(&server).and_then(|meter| meter.slow_since);
        since.is_some_and(|since| now.saturating_duration_since(since) < AVOIDED_FOR)
    }

    /// What the server in the middle of all others takes for a byte, in parts of a nanosecond.
    fn others(&self, server: ServerId) -> Option<u128> {
        let others = self.servers.iter().filter(|(id, meter)| **id != server && meter.bytes > 0);
        let mut times: Vec<u128> = others
            .map(|(_, meter)| (meter.took.as_nanos() << SHIFT) / u128::from(meter.bytes))
            .collect();
        times.sort_unstable();
        times.get(times.len() / 2).copied()
    }
}

/// Parts of a nanosecond, as a power of two.
const SHIFT: u32 = 20;

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1024 * 1024;

    fn after(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_server_far_behind_the_others_is_slow_and_has_another_chance_later() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        for server in 1..=3 {
            assert!(!pace.gave(ServerId(server), 4 * MIB, after(40), now));
        }
        let slow = ServerId(4);
        let patience = pace.patience(slow, 4 * MIB).as_micros();
        assert!((659_000..661_000).contains(&patience), "four times 40 ms more: {patience}");
        assert!(pace.gave(slow, 4 * MIB, after(700), now), "from here on");
        assert!(!pace.is_late(slow, now), "that was known");
        assert!(pace.is_slow(slow, now + after(59_000)) && !pace.is_slow(ServerId(1), now));
        assert!(!pace.is_slow(slow, now + after(60_000)));
    }

    #[test]
    fn where_all_are_slow_none_is() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        for server in (1..=6).cycle().take(30) {
            assert!(!pace.gave(ServerId(server), 4 * MIB, after(4_000), now));
        }
    }

    #[test]
    fn what_is_slow_does_not_say_how_fast_others_should_be() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        pace.gave(ServerId(1), 4 * MIB, after(10), now);
        pace.gave(ServerId(2), 4 * MIB, after(60_000), now);
        assert!(pace.is_slow(ServerId(2), now));
        assert!(pace.patience(ServerId(3), 4 * MIB) < after(600));
    }

    #[test]
    fn little_reads_and_short_delays_make_no_server_slow() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        for _ in 0..10 {
            assert!(!pace.gave(ServerId(1), 4 * MIB, after(1), now));
            assert!(!pace.gave(ServerId(2), 4 * MIB, after(400), now));
            assert!(!pace.gave(ServerId(3), 100, after(400), now));
        }
        assert!(pace.patience(ServerId(9), 1) >= GRACE);
    }

    #[test]
    fn a_server_that_nothing_can_be_held_against_is_waited_for() {
        let pace = Pace::default();
        assert_eq!(pace.patience(ServerId(1), 8 * MIB), after(10_000));
    }
}

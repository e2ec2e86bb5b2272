//! How fast each server gives what it is asked for, and which is far slower than the others.
//! Pure: the time comes in.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use server::wire::ServerId;

/// Shorter reads say more of the way to a server than of its speed: they do not count.
const METERED_BYTES_MIN: u64 = 64 * 1024;
/// When a server has given so much, what was long ago counts half.
const REMEMBERED_BYTES: u64 = 64 * 1024 * 1024;
/// A server that takes so many times as long as the others is slow,
const TIMES_SLOWER: u32 = 4;
/// unless that is no longer than this, of reads in a row together: anything can hold up one read.
const GRACE: Duration = Duration::from_millis(500);
/// A slow server is not read from for this long, where others can serve.
const AVOIDED_FOR: Duration = Duration::from_secs(60);

/// The pace of every server that was read from.
#[derive(Debug, Default)]
pub(super) struct Pace {
    servers: HashMap<ServerId, Meter>,
    /// Reads that are under way, of all servers: they may share one link.
    under_way: u32,
}

#[derive(Debug, Default)]
struct Meter {
    bytes: u64,
    took: Duration,
    /// Bytes, each as often as there were reads under way with its own.
    shared: u64,
    /// How much of the grace the last reads in a row have used up.
    late: Duration,
    slow_since: Option<Instant>,
}

/// A read that is under way.
#[derive(Debug)]
pub(super) struct Asked {
    server: ServerId,
    bytes: u64,
    /// Reads that were under way at once while this one was, at most.
    at_once: u32,
}

impl Pace {
    /// Notes that a server was asked for `bytes`. It is over at [`Pace::ended`].
    pub(super) fn asked(&mut self, server: ServerId, bytes: u64) -> Asked {
        self.under_way += u32::from(bytes >= METERED_BYTES_MIN);
        Asked { server, bytes, at_once: self.under_way }
    }

    /// Notes that a read came to its end, whatever that was.
    pub(super) fn ended(&mut self, asked: &Asked) {
        self.under_way -= u32::from(asked.bytes >= METERED_BYTES_MIN);
    }

    /// Whether a read takes so long that others should be asked in the server's stead.
    pub(super) fn is_late(&self, asked: &mut Asked, took: Duration) -> bool {
        asked.at_once = asked.at_once.max(self.under_way);
        self.patience(asked).is_some_and(|patience| took > patience)
    }

    /// Notes what a read took until it was done or cut off; true when that makes its server a slow
    /// one.
    pub(super) fn took(&mut self, asked: &mut Asked, took: Duration, now: Instant) -> bool {
        let is_late = self.is_late(asked, took);
        if asked.bytes < METERED_BYTES_MIN {
            return false;
        }
        let at_most = self.at_most(asked);
        let meter = self.servers.entry(asked.server).or_default();
        meter.late = match at_most.and_then(|at_most| took.checked_sub(at_most)) {
            Some(late) => meter.late.saturating_add(late).min(GRACE),
            None => Duration::ZERO,
        };
        meter.bytes += asked.bytes;
        meter.took += took;
        meter.shared += asked.bytes * u64::from(asked.at_once);
        if meter.bytes > REMEMBERED_BYTES {
            meter.bytes /= 2;
            meter.took /= 2;
            meter.shared /= 2;
        }
        if !is_late {
            return false;
        }
        let was_slow = self.is_slow(asked.server, now);
        self.servers.entry(asked.server).or_default().slow_since = Some(now);
        !was_slow
    }

    /// Until when a server that is slow from `now` on is to be avoided.
    pub(super) fn avoided_until(now: Instant) -> Instant {
        now + AVOIDED_FOR
    }

    /// Whether a server is to be avoided.
    pub(super) fn is_slow(&self, server: ServerId, now: Instant) -> bool {
        let since = self.servers.get(&server).and_then(|meter| meter.slow_since);
        since.is_some_and(|since| now.saturating_duration_since(since) < AVOIDED_FOR)
    }

    /// How long a read may take; `None` where nothing says how fast it should be.
    fn patience(&self, asked: &Asked) -> Option<Duration> {
        let late = self.servers.get(&asked.server).map(|meter| meter.late);
        let grace = GRACE.saturating_sub(late.unwrap_or_default());
        Some(grace.saturating_add(self.at_most(asked)?))
    }

    /// How long a read takes at most that is not far slower than those of others.
    fn at_most(&self, asked: &Asked) -> Option<Duration> {
        if asked.bytes < METERED_BYTES_MIN {
            return None;
        }
        let at_most = asked.bytes as f64 * self.others(asked)? * f64::from(TIMES_SLOWER);
        Some(Duration::try_from_secs_f64(at_most).unwrap_or(Duration::MAX))
    }

    /// What the server in the middle of all others takes for a byte, in seconds, with as many
    /// reads under way.
    fn others(&self, asked: &Asked) -> Option<f64> {
        let others = self.servers.iter().filter(|(id, _)| **id != asked.server);
        let seconds = |(_, meter): (_, &Meter)| {
            let bytes = meter.bytes as f64;
            let at_once = meter.shared as f64 / bytes;
            meter.took.as_secs_f64() / bytes * (f64::from(asked.at_once) / at_once).max(1.0)
        };
        let mut seconds: Vec<f64> = others.map(seconds).collect();
        seconds.sort_unstable_by(f64::total_cmp);
        seconds.get(seconds.len().saturating_sub(1) / 2).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1024 * 1024;

    fn after(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// One read alone; whether it makes its server slow.
    fn gave(pace: &mut Pace, server: u32, bytes: u64, ms: u64, now: Instant) -> bool {
        at_once(pace, &[(server, bytes, ms)], now)[0]
    }

    /// Reads that begin together, each of a server, bytes and milliseconds; which of them make
    /// their server slow.
    fn at_once(pace: &mut Pace, reads: &[(u32, u64, u64)], now: Instant) -> Vec<bool> {
        let asked: Vec<_> = reads.iter().map(|r| pace.asked(ServerId(r.0), r.1)).collect();
        let mut reads: Vec<_> = asked.into_iter().zip(reads).enumerate().collect();
        // As the time goes by: all are looked at before the first is done.
        for (_, (asked, _)) in &mut reads {
            assert!(!pace.is_late(asked, Duration::ZERO));
        }
        reads.sort_by_key(|(_, (_, (_, _, ms)))| *ms);
        let mut slow = vec![false; reads.len()];
        for (number, (mut asked, (_, _, ms))) in reads {
            slow[number] = pace.took(&mut asked, after(*ms), now);
            pace.ended(&asked);
        }
        slow
    }

    fn patience(pace: &mut Pace, server: u32, bytes: u64) -> Option<Duration> {
        let asked = pace.asked(ServerId(server), bytes);
        pace.ended(&asked);
        pace.patience(&asked)
    }

    #[test]
    fn a_server_far_behind_the_others_is_slow_and_has_another_chance_later() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        for server in 1..=3 {
            assert!(!gave(&mut pace, server, 4 * MIB, 40, now));
        }
        let patience = patience(&mut pace, 4, 4 * MIB).unwrap().as_micros();
        assert!((659_000..661_000).contains(&patience), "four times 40 ms more: {patience}");
        assert!(gave(&mut pace, 4, 4 * MIB, 700, now), "from here on");
        assert!(!gave(&mut pace, 4, 4 * MIB, 700, now), "that was known");
        let slow = ServerId(4);
        assert!(pace.is_slow(slow, now + after(59_000)) && !pace.is_slow(ServerId(1), now));
        assert!(!pace.is_slow(slow, now + after(60_000)));
    }

    #[test]
    fn where_all_are_slow_none_is() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        for server in (1..=6).cycle().take(30) {
            assert!(!gave(&mut pace, server, 4 * MIB, 4_000, now));
        }
        let mut pace = Pace::default();
        let reads: Vec<_> = (0..8).map(|n| (n % 6, 4 * MIB, 7_000 + u64::from(n))).collect();
        for _ in 0..10 {
            assert_eq!(at_once(&mut pace, &reads, now), [false; 8]);
        }
    }

    #[test]
    fn reads_that_share_a_link_may_take_as_much_longer() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        for server in 0..6 {
            assert!(!gave(&mut pace, server, 4 * MIB, 800, now));
        }
        let reads: Vec<_> = (0..8).map(|n| (n % 6, 4 * MIB, 6_400)).collect();
        for _ in 0..10 {
            assert_eq!(at_once(&mut pace, &reads, now), [false; 8]);
        }
    }

    #[test]
    fn one_at_a_tenth_of_the_others_is_slow_among_many_reads_too() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        let ms = |n| if n == 5 { 7_000 } else { 700 };
        let reads: Vec<_> = (0..8).map(|n| (n % 6, 4 * MIB, ms(n))).collect();
        for round in 0..10 {
            let slow = at_once(&mut pace, &reads, now);
            assert_eq!(slow.iter().filter(|slow| **slow).count(), usize::from(round == 0));
            assert_eq!(slow[5], round == 0);
            assert!((0..6).all(|n| pace.is_slow(ServerId(n), now) == (n == 5)));
        }
    }

    #[test]
    fn when_all_become_slower_that_is_soon_what_is_expected() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        for server in (0..6).cycle().take(60) {
            gave(&mut pace, server, 4 * MIB, 40, now);
        }
        for server in (0..6).cycle().take(60) {
            gave(&mut pace, server, 4 * MIB, 4_000, now);
        }
        let later = now + AVOIDED_FOR;
        for server in (0..6).cycle().take(60) {
            assert!(!gave(&mut pace, server, 4 * MIB, 4_000, later));
        }
    }

    #[test]
    fn what_is_slow_does_not_say_how_fast_others_should_be() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        gave(&mut pace, 1, 4 * MIB, 10, now);
        gave(&mut pace, 2, 4 * MIB, 60_000, now);
        assert!(pace.is_slow(ServerId(2), now));
        assert!(patience(&mut pace, 3, 4 * MIB).unwrap() < after(600));
    }

    #[test]
    fn little_reads_and_short_delays_make_no_server_slow() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        for _ in 0..10 {
            assert!(!gave(&mut pace, 1, 4 * MIB, 1, now));
            assert!(!gave(&mut pace, 2, 4 * MIB, 400, now));
            assert!(!gave(&mut pace, 2, 4 * MIB, 3, now));
            assert!(!gave(&mut pace, 3, 100, 400_000, now));
        }
        assert!(!pace.servers.contains_key(&ServerId(3)), "nor do they say how fast it is");
        assert!(patience(&mut pace, 9, METERED_BYTES_MIN).unwrap() >= GRACE);
    }

    #[test]
    fn short_delays_that_do_not_end_make_a_server_slow() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        gave(&mut pace, 1, MIB, 10, now);
        let slow = (0..10).map(|_| gave(&mut pace, 2, MIB, 100, now)).position(|slow| slow);
        assert_eq!(slow, Some(8), "60 ms late each time, and 500 ms are forgiven");
        assert!(gave(&mut pace, 2, MIB, 100, now + AVOIDED_FOR), "it is what it was");
        assert!(!gave(&mut pace, 2, MIB, 30, now + AVOIDED_FOR));
        assert!(!gave(&mut pace, 2, MIB, 100, now + 2 * AVOIDED_FOR), "it was better once");
    }

    #[test]
    fn a_server_that_nothing_can_be_held_against_is_waited_for() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        assert_eq!(patience(&mut pace, 1, 8 * MIB), None);
        assert!(!gave(&mut pace, 1, 8 * MIB, 3_600_000, now));
        assert_eq!(patience(&mut pace, 1, 8 * MIB), None, "it is no yardstick for itself");
    }
}

//! The coordinator's time, followed by this machine's monotonic clock, so that
//! a wrong wall clock refuses nothing.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustls::pki_types::UnixTime;
use rustls::time_provider::TimeProvider;

/// The latest known time of the coordinator. It never goes back.
#[derive(Debug, Default)]
pub(super) struct Clock(Mutex<Option<Known>>);

#[derive(Debug, Clone, Copy)]
struct Known {
    at: Instant,
    coordinator_ms: u64,
}

impl Known {
    fn ms(self, now: Instant) -> u64 {
        let elapsed_ms = now.saturating_duration_since(self.at).as_millis();
        self.coordinator_ms.saturating_add(elapsed_ms.try_into().unwrap_or(u64::MAX))
    }
}

impl Clock {
    /// The coordinator's time, once it is known.
    pub(super) fn now_ms(&self) -> Option<u64> {
        self.at(Instant::now())
    }

    /// The coordinator said that it is at least `coordinator_ms` now.
    pub(super) fn advance(&self, coordinator_ms: u64) {
        self.advance_at(coordinator_ms, Instant::now());
    }

    fn at(&self, now: Instant) -> Option<u64> {
        let known = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.map(|known| known.ms(now))
    }

    fn advance_at(&self, coordinator_ms: u64, now: Instant) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.is_none_or(|known| known.ms(now) < coordinator_ms) {
            *known = Some(Known { at: now, coordinator_ms });
        }
    }
}

/// What certificates are held against: this machine's clock only until the coordinator's time
/// is known.
impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        let known = self.now_ms().map(|ms| UnixTime::since_unix_epoch(Duration::from_millis(ms)));
        Some(known.unwrap_or_else(UnixTime::now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_go_by_the_coordinators_time_once_it_is_known() {
        let clock = Clock::default();
        let now_s = || clock.current_time().unwrap().as_secs();
        assert!(now_s() >= UnixTime::now().as_secs() - 1);
        clock.advance(5_000_000);
        assert!((5000..5900).contains(&now_s()));
    }

    #[test]
    fn it_follows_the_coordinator_forward_only() {
        let clock = Clock::default();
        let start = Instant::now();
        let later = start + Duration::from_secs(10);
        assert_eq!(clock.at(start), None);
        clock.advance_at(1000, start);
        assert_eq!(clock.at(later), Some(11_000));
        clock.advance_at(10_000, later);
        assert_eq!(clock.at(later), Some(11_000));
        clock.advance_at(20_000, later);
        assert_eq!(clock.at(later), Some(20_000));
    }
}

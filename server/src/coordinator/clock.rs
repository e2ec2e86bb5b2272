//! The coordinator's time: the wall clock at the start, then the monotonic clock, so that a
//! wall clock that is set later moves nothing; and never before the last time on record.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A clock that never goes backward, over restarts too.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    began: Instant,
    began_ms: u64,
}

impl Clock {
    /// A clock that goes on from `last_ms` or the wall clock, whichever is later.
    pub(super) fn after(last_ms: u64) -> Self {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, millis);
        Self { began: Instant::now(), began_ms: wall.max(last_ms) }
    }

    /// The time.
    pub(super) fn now_ms(self) -> u64 {
        self.began_ms.saturating_add(millis(self.began.elapsed()))
    }
}

/// Whole milliseconds of a duration.
pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_goes_on_from_the_last_time_on_record() {
        let future = Clock::after(0).now_ms() + 1_000_000;
        assert!(Clock::after(future).now_ms() >= future);
    }
}

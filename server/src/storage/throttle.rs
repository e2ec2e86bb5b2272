//! How fast work in the background may go.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What was not used is kept for so long.
const BURST: Duration = Duration::from_secs(1);

/// A token bucket that begins empty. Times are counted from any one beginning.
#[derive(Debug)]
pub(super) struct Bucket {
    bytes_per_second: u64,
    /// When all that was taken is paid for.
    paid: Duration,
}

impl Bucket {
    pub(super) fn new(bytes_per_second: u64) -> Self {
        Self { bytes_per_second: bytes_per_second.max(1), paid: Duration::ZERO }
    }

    /// Takes `bytes`, which may be used after the time that is given back.
    pub(super) fn take(&mut self, bytes: u64, now: Duration) -> Duration {
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(self.bytes_per_second);
        let cost = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        self.paid = self.paid.max(now.saturating_sub(BURST)).saturating_add(cost);
        self.paid.saturating_sub(now)
    }
}

/// One piece of work's pace, if it was given one.
pub(super) struct Pace {
    began: Instant,
    bucket: Option<Mutex<Bucket>>,
}

impl Pace {
    pub(super) fn new(bytes_per_second: Option<u64>) -> Self {
        let bucket = bytes_per_second.map(|pace| Mutex::new(Bucket::new(pace)));
        Self { began: Instant::now(), bucket }
    }

    /// Waits until `bytes` may be read or written.
    pub(super) async fn take(&self, bytes: u64) {
        let Some(bucket) = &self.bucket else { return };
        let now = self.began.elapsed();
        let wait = bucket.lock().unwrap_or_else(PoisonError::into_inner).take(bytes, now);
        tokio::time::sleep(wait).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_bucket_gives_its_pace_and_keeps_a_second() {
        let mut bucket = Bucket::new(1000);
        assert_eq!(bucket.take(500, ms(0)), ms(500));
        // Whoever comes at the same time waits for both.
        assert_eq!(bucket.take(250, ms(0)), ms(750));
        assert_eq!(bucket.take(250, ms(750)), ms(250));
        // After a pause: one second of it is there at once, not all of it.
        assert_eq!(bucket.take(1000, ms(100_000)), ms(0));
        assert_eq!(bucket.take(1000, ms(100_000)), ms(1000));
        assert_eq!(bucket.take(0, ms(200_000)), ms(0));
    }

    #[test]
    fn no_number_is_too_large_or_too_small() {
        let mut bucket = Bucket::new(0);
        assert_eq!(bucket.take(u64::MAX, ms(0)), Duration::from_nanos(u64::MAX));
        assert!(bucket.take(u64::MAX, ms(0)) > Duration::from_nanos(u64::MAX));
        assert_eq!(Bucket::new(u64::MAX).take(1, ms(0)), ms(0));
    }
}

//! How fast work in the background may go: one pace for all of it, which leaves a share to
//! requests of clients while there are any.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::wire::{BACKGROUND_BYTES_PER_SECOND_MIN, ThrottleStatus, Work};

/// What was not used is kept for so long.
const BURST: Duration = Duration::from_secs(1);
/// After a client's request has ended there may be another one.
const QUIET_AFTER: Duration = Duration::from_secs(1);
/// While there are requests of clients, work in the background has one part of so many.
const SHARE: u64 = 4;
/// Where no pace is set, that is a part of this: what a common disk reads in a second.
const DISK_BYTES_PER_SECOND: u64 = 128 << 20;
/// Who waits looks at least so often whether the pace has changed.
const LOOK_EVERY: Duration = Duration::from_millis(250);
const NANOS: u128 = 1_000_000_000;

/// A token bucket that begins empty, as a function of what happened when. Times are counted from
/// any one beginning, and do not go back. Whoever takes gets a place in the line, and may go on
/// once so much was let through.
#[derive(Debug)]
pub(super) struct Bucket {
    bytes_per_second: Option<u64>,
    /// Requests of clients under way, and when the last one ended.
    clients: u64,
    quiet_since: Option<Duration>,
    /// All that was taken so far.
    taken: u64,
    /// All that was let through so far, in billionths of a byte.
    passed: u128,
    at: Duration,
}

impl Bucket {
    pub(super) fn new(bytes_per_second: Option<u64>) -> Self {
        let (clients, quiet_since, taken, passed, at) = (0, None, 0, 0, Duration::ZERO);
        Self { bytes_per_second, clients, quiet_since, taken, passed, at }
    }

    /// Another pace from `now` on.
    pub(super) fn set(&mut self, bytes_per_second: Option<u64>, now: Duration) {
        self.advance(now);
        self.bytes_per_second = bytes_per_second;
    }

    /// A request of a client begins.
    pub(super) fn begin(&mut self, now: Duration) {
        self.advance(now);
        self.clients += 1;
    }

    /// One ends.
    pub(super) fn end(&mut self, now: Duration) {
        self.advance(now);
        self.clients = self.clients.saturating_sub(1);
        self.quiet_since = Some(now);
    }

    /// Takes `bytes`; gives the place in the line.
    pub(super) fn take(&mut self, bytes: u64, now: Duration) -> u64 {
        self.advance(now);
        self.taken = self.taken.saturating_add(bytes);
        self.taken
    }

    /// How long `place` has to wait from `now` on, as things are; not at all, once that is zero.
    pub(super) fn wait(&mut self, place: u64, now: Duration) -> Duration {
        self.advance(now);
        let missing = (u128::from(place) * NANOS).saturating_sub(self.passed);
        let rate = self.rate(self.yields(now));
        let nanos = rate.map_or(0, |rate| missing.div_ceil(rate.into()));
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// `place` waits no longer: what it exceeds the pace by is forgiven, lest others pay for it.
    pub(super) fn force(&mut self, place: u64, now: Duration) {
        self.advance(now);
        self.passed = self.passed.max(u128::from(place) * NANOS);
    }

    /// Whether there is a request of a client, or was one just now.
    pub(super) fn yields(&self, now: Duration) -> bool {
        self.yields_until().is_some_and(|until| now < until)
    }

    fn yields_until(&self) -> Option<Duration> {
        match self.clients {
            0 => self.quiet_since.map(|since| since.saturating_add(QUIET_AFTER)),
            _ => Some(Duration::MAX),
        }
    }

    fn rate(&self, yields: bool) -> Option<u64> {
        let least = BACKGROUND_BYTES_PER_SECOND_MIN;
        match yields {
            false => self.bytes_per_second.map(|all| all.max(least)),
            true => {
                Some((self.bytes_per_second.unwrap_or(DISK_BYTES_PER_SECOND) / SHARE).max(least))
            }
        }
    }

    /// Lets through what the time since the last look allows.
    fn advance(&mut self, now: Duration) {
        let until = self.yields_until().unwrap_or_default().min(now);
        if until > self.at {
            self.let_through(until, true);
        }
        if !self.yields(now) {
            self.let_through(now, false);
        }
    }

    fn let_through(&mut self, until: Duration, yields: bool) {
        let taken = u128::from(self.taken) * NANOS;
        let span = until.saturating_sub(self.at);
        self.at = self.at.max(until);
        let Some(rate) = self.rate(yields).map(u128::from) else {
            self.passed = self.passed.max(taken);
            return;
        };
        let kept = taken.saturating_add(rate * BURST.as_nanos());
        let more = self.passed.saturating_add(rate.saturating_mul(span.as_nanos()));
        self.passed = more.min(kept.max(self.passed));
    }
}

/// The pace of a server.
#[derive(Debug)]
pub(super) struct Throttle {
    began: Instant,
    bucket: Mutex<Bucket>,
    changed: Notify,
    paced_bytes: AtomicU64,
    urgent_bytes: AtomicU64,
}

impl Throttle {
    pub(super) fn new(bytes_per_second: Option<u64>) -> Self {
        Self {
            began: Instant::now(),
            bucket: Mutex::new(Bucket::new(bytes_per_second)),
            changed: Notify::new(),
            paced_bytes: AtomicU64::new(0),
            urgent_bytes: AtomicU64::new(0),
        }
    }

    /// Another pace, for who waits just now too.
    pub(super) fn set(&self, bytes_per_second: Option<u64>) {
        let now = self.began.elapsed();
        self.bucket().set(bytes_per_second, now);
        self.changed.notify_waiters();
    }

    pub(super) fn status(&self) -> ThrottleStatus {
        let now = self.began.elapsed();
        let bucket = self.bucket();
        ThrottleStatus {
            bytes_per_second: bucket.bytes_per_second,
            yields: bucket.yields(now),
            paced_bytes: self.paced_bytes.load(Ordering::Relaxed),
            urgent_bytes: self.urgent_bytes.load(Ordering::Relaxed),
        }
    }

    /// Waits until `bytes` may be read or written, for `longest` at most.
    pub(super) async fn take(&self, bytes: u64, longest: Duration) {
        let began = self.began.elapsed();
        let end = began.saturating_add(longest);
        let place = self.bucket().take(bytes, began);
        loop {
            let changed = self.changed.notified();
            let now = self.began.elapsed();
            let wait = self.bucket().wait(place, now);
            if wait.is_zero() {
                break;
            }
            if now >= end {
                self.bucket().force(place, now);
                break;
            }
            // Either way it looks again.
            let _ = tokio::time::timeout(wait.min(LOOK_EVERY).min(end - now), changed).await;
        }
        self.paced_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Whether nothing is waited for just now.
    pub(super) fn is_free(&self) -> bool {
        let now = self.began.elapsed();
        let bucket = self.bucket();
        bucket.rate(bucket.yields(now)).is_none()
    }

    /// The same for `work`, which waits for nothing if it is urgent.
    pub(super) async fn work(&self, work: Work, bytes: u64, longest: Duration) {
        match work {
            Work::Client => {}
            Work::Background => self.take(bytes, longest).await,
            Work::Urgent => drop(self.urgent_bytes.fetch_add(bytes, Ordering::Relaxed)),
        }
    }

    /// Notes a request: work in the background gives way to one of a client until what is given
    /// back is dropped.
    pub(super) fn serve(self: &Arc<Self>, work: Work) -> Served {
        let served = (work == Work::Client).then(|| Arc::clone(self));
        if served.is_some() {
            let now = self.began.elapsed();
            self.bucket().begin(now);
        }
        Served(served)
    }

    fn bucket(&self) -> MutexGuard<'_, Bucket> {
        self.bucket.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request under way.
#[derive(Debug)]
pub(super) struct Served(Option<Arc<Throttle>>);

impl Drop for Served {
    fn drop(&mut self) {
        if let Some(throttle) = &self.0 {
            let now = throttle.began.elapsed();
            throttle.bucket().end(now);
        }
    }
}

#[cfg(test)]
#[path = "throttle/tests.rs"]
mod tests;

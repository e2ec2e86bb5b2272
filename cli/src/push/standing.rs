//! How the servers stand with one push, all stripes together, and how long it waits
//! for those that are away.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use server::wire::ServerId;

/// A server that did not take a shard for this long is avoided by other stripes,
const SILENT_AFTER: Duration = Duration::from_secs(2);
/// and for this long.
const SILENT_FOR: Duration = Duration::from_secs(60);

/// What a push knows of its servers.
#[derive(Default)]
pub struct Standing {
    /// A server that was never late may be so late: anything can hold up one shard.
    patience: Duration,
    known: Mutex<BTreeMap<ServerId, Known>>,
}

#[derive(Default)]
struct Known {
    has_failed: bool,
    forges: bool,
    silent_since: Option<Instant>,
    /// How much of the patience its last PUTs in a row have used up.
    late: Duration,
}

impl Standing {
    /// Of servers that may be late by `patience` each.
    pub fn new(patience: Duration) -> Self {
        Self { patience, ..Self::default() }
    }

    /// How much longer than it should at most a server may take: the less, the later it was
    /// the last times in a row.
    pub fn patience(&self, server: ServerId) -> Duration {
        let late = self.known().get(&server).map(|known| known.late);
        self.patience - late.unwrap_or_default()
    }

    /// Notes how long a PUT took, and how long it should have taken at most, where that is known.
    pub fn took(&self, server: ServerId, took: Duration, at_most: Option<Duration>) {
        let Some(at_most) = at_most else { return };
        let mut known = self.known();
        let late = &mut known.entry(server).or_default().late;
        *late = match took.checked_sub(at_most) {
            Some(more) => late.saturating_add(more).min(self.patience),
            None => Duration::ZERO,
        };
    }

    /// A server is far slower than the others: other stripes go elsewhere until the moment that is
    /// returned.
    pub fn avoid(&self, server: ServerId, now: Instant) -> Instant {
        self.known().entry(server).or_default().silent_since = Some(now);
        now + SILENT_FOR
    }

    /// Whether this is the first failure of that server.
    pub fn is_first_failure(&self, server: ServerId) -> bool {
        let mut known = self.known();
        !std::mem::replace(&mut known.entry(server).or_default().has_failed, true)
    }

    /// Its receipts are not genuine: it is given nothing more.
    pub fn distrust(&self, server: ServerId) {
        self.known().entry(server).or_default().forges = true;
    }

    /// Notes how a PUT ended that was begun then. One that was refused at once cost nothing.
    pub fn note<T>(&self, server: ServerId, outcome: &server::Result<T>, began: Instant) {
        let mut known = self.known();
        let known = known.entry(server).or_default();
        match outcome {
            Ok(_) => known.silent_since = None,
            Err(server::Error::Unreachable { .. }) if began.elapsed() >= SILENT_AFTER => {
                known.silent_since = Some(Instant::now());
            }
            Err(_) => {}
        }
    }

    /// Servers that are given nothing more.
    pub fn forgers(&self) -> Vec<ServerId> {
        self.known().iter().filter(|(_, known)| known.forges).map(|(server, _)| *server).collect()
    }

    /// These, and those that were silent a short while ago: other stripes go elsewhere where
    /// they can, and do not wait for the same server again and again.
    pub fn avoided(&self, now: Instant) -> Vec<ServerId> {
        let silent = |known: &Known| {
            known.silent_since.is_some_and(|since| now.duration_since(since) < SILENT_FOR)
        };
        let known = self.known();
        let avoided = known.iter().filter(|(_, known)| known.forges || silent(known));
        avoided.map(|(server, _)| *server).collect()
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<ServerId, Known>> {
        // What stands there is whole after every statement.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long a push waits for servers, all stripes together: from the first time that one
/// is missed until all shards of a stripe find a place again.
pub struct Patience {
    wait: Duration,
    until: Mutex<Option<Instant>>,
}

impl Patience {
    /// A patience of `wait`.
    pub fn new(wait: Duration) -> Self {
        Self { wait, until: Mutex::default() }
    }

    /// Whether to wait on; the first time that is asked, the waiting begins.
    pub fn lasts(&self, now: Instant) -> bool {
        let mut until = self.until.lock().unwrap_or_else(PoisonError::into_inner);
        now < *until.get_or_insert(now + self.wait)
    }

    /// All servers are back.
    pub fn renew(&self) {
        *self.until.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_lasts_from_the_first_miss_until_all_are_back() {
        let patience = Patience::new(Duration::from_secs(60));
        let now = Instant::now();
        let after = |seconds| now + Duration::from_secs(seconds);
        assert!(patience.lasts(after(100)));
        assert!(patience.lasts(after(159)));
        assert!(!patience.lasts(after(160)));
        patience.renew();
        assert!(patience.lasts(after(200)));
        assert!(!Patience::new(Duration::ZERO).lasts(now));
    }

    #[test]
    fn a_server_that_was_waited_for_is_avoided_until_it_takes_a_shard() {
        let standing = Standing::default();
        let away = || server::Error::Unreachable { service: "a".into(), why: "silent".into() };
        let now = Instant::now();
        standing.note(ServerId(1), &Err::<(), _>(away()), now);
        assert!(standing.avoided(now).is_empty(), "it refused at once");
        let Some(before) = now.checked_sub(SILENT_AFTER) else { return };
        standing.note(ServerId(1), &Err::<(), _>(away()), before);
        assert_eq!(standing.avoided(Instant::now()), [ServerId(1)]);
        assert!(standing.avoided(Instant::now() + SILENT_FOR).is_empty());
        standing.note(ServerId(1), &Ok(()), now);
        assert!(standing.avoided(now).is_empty());
        standing.distrust(ServerId(2));
        assert_eq!(standing.avoided(now), [ServerId(2)]);
        assert_eq!(standing.forgers(), [ServerId(2)]);
    }

    #[test]
    fn a_server_that_is_late_again_and_again_is_waited_for_less_and_less() {
        let ms = Duration::from_millis;
        let standing = Standing::new(ms(1000));
        let (a, b) = (ServerId(1), ServerId(2));
        let took = |server, took| {
            standing.took(server, ms(took), Some(ms(400)));
            standing.patience(server).as_millis()
        };
        assert_eq!(took(a, 700), 700, "it was 300 ms late");
        assert_eq!(took(a, 700), 400);
        assert_eq!(took(a, 5000), 0);
        assert_eq!(took(a, 300), 1000, "in time once");
        assert_eq!(took(b, 400), 1000);
        standing.took(b, ms(60_000), None);
        assert_eq!(standing.patience(b), ms(1000), "nothing says what it should have taken");
        assert_eq!(standing.patience(ServerId(3)), ms(1000));
        let now = Instant::now();
        let until = standing.avoid(a, now);
        assert_eq!(standing.avoided(until - ms(1)), [a]);
        assert!(standing.avoided(until).is_empty());
    }

    #[test]
    fn a_server_fails_for_the_first_time_once() {
        let standing = Standing::default();
        assert!(standing.is_first_failure(ServerId(1)));
        assert!(!standing.is_first_failure(ServerId(1)));
    }
}

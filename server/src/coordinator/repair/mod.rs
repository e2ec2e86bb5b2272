//! Repair: what stripes lack is made again, worst first.
//!
//! `risk` says what a stripe has and which of two comes first, `entry` what becomes of one in the
//! ledger, `surplus` what could go; these are pure. `stripe` has one repaired, `trim` has what could
//! go trashed, `rebalance` has shards moved to servers that joined; `keeper` does all of it by itself.

mod entry;
mod keeper;
mod rebalance;
mod risk;
mod stripe;
mod surplus;
mod trim;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::{Extension, Json};
use codec::StripeId;
use tokio::sync::Notify;

use self::stripe::Manner;
use super::Core;
use super::router::{Body, Caller, List, bad_request, to_the_end};
use crate::Result;
use crate::wire::{
    LedgerRow, Page, REBUILD_BYTES_PER_SECOND_MIN, RepairRequest, RepairSettings, RepairStatus,
    Repaired, ServerId, SetRepair,
};

#[cfg(test)]
pub(super) use self::entry::Ended;
pub(super) use self::entry::Entry;
pub(super) use self::keeper::{keep, repair_due};
pub(super) use self::surplus::Surplus;
pub(super) use self::trim::trash;

/// How long a rebuild may take that somebody waits for: requests are bounded by a minute.
const REBUILD_TIMEOUT: Duration = Duration::from_secs(55);
/// How long a rebuild may take that nobody waits for, at full speed and at a pace: less than
/// tickets last.
const UNWATCHED: Duration = Duration::from_secs(3 * 60);
const UNWATCHED_PACED: Duration = Duration::from_secs(12 * 60);
/// A paced rebuild is given so much of the pack's length a second that it ends in time: it moves
/// about twice that length.
const PACED_SECONDS: u64 = 5 * 60;
/// A server that failed a rebuild takes no other for this long.
const SHUNNED: Duration = Duration::from_secs(2 * 60);
/// Stripes repaired at once, unless set: a rebuild waits for disks and the network most of its time.
const AT_ONCE: u32 = 4;
/// More would only wait for each other.
const AT_ONCE_MAX: u32 = 64;

/// What all repairs share.
pub(super) struct Repairs {
    inner: Mutex<Inner>,
    /// A stripe or a server is free again.
    freed: Notify,
    made_shards: AtomicU64,
    made_bytes: AtomicU64,
    read_bytes: AtomicU64,
    moved_shards: AtomicU64,
}

struct Inner {
    settings: RepairSettings,
    stripes: BTreeSet<StripeId>,
    targets: BTreeSet<ServerId>,
    /// Servers that failed a rebuild, and when.
    shunned: BTreeMap<ServerId, Instant>,
}

/// How long a rebuild at this pace may take that nobody waits for.
fn unwatched(bytes_per_second: Option<u64>) -> Duration {
    if bytes_per_second.is_some() { UNWATCHED_PACED } else { UNWATCHED }
}

impl Repairs {
    /// By what was set before.
    pub(super) fn new(settings: &[(String, u64)]) -> Self {
        let set = |wanted: &str| settings.iter().find(|(name, _)| name == wanted).map(|s| s.1);
        let settings = RepairSettings {
            paused: set("repair_paused").is_some_and(|value| value != 0),
            bytes_per_second: set("repair_bytes_per_second"),
            rebalances: set("rebalance") != Some(0),
            at_once: set("repair_at_once").and_then(|n| n.try_into().ok()).unwrap_or(AT_ONCE),
        };
        Self {
            inner: Mutex::new(Inner {
                settings,
                stripes: BTreeSet::new(),
                targets: BTreeSet::new(),
                shunned: BTreeMap::new(),
            }),
            freed: Notify::new(),
            made_shards: AtomicU64::new(0),
            made_bytes: AtomicU64::new(0),
            read_bytes: AtomicU64::new(0),
            moved_shards: AtomicU64::new(0),
        }
    }

    /// What people set.
    fn settings(&self) -> RepairSettings {
        self.lock().settings
    }

    /// Waits until nobody repairs `stripe`; nobody else does before the claim is dropped.
    async fn claim(&self, stripe: StripeId) -> Claim<'_> {
        loop {
            let freed = self.freed.notified();
            let mut freed = std::pin::pin!(freed);
            // From here on a wake is not missed.
            freed.as_mut().enable();
            if self.lock().stripes.insert(stripe) {
                return Claim { repairs: self, stripe };
            }
            freed.await;
        }
    }

    /// The server that does the work: the first of `places` that has none to do, or the first. One
    /// that has a damaged shard of its own to mend stands first.
    fn target(&self, places: &[(u8, ServerId)]) -> Target<'_> {
        let mut inner = self.lock();
        let idle = places.iter().find(|(_, server)| !inner.targets.contains(server));
        let server = idle.or(places.first()).map_or(ServerId(0), |(_, server)| *server);
        let is_first = inner.targets.insert(server);
        Target { repairs: self, server, is_first }
    }

    /// Notes that a server failed a rebuild.
    fn shun(&self, server: ServerId) {
        self.lock().shunned.insert(server, Instant::now());
    }

    /// The servers that failed one lately.
    fn shunned(&self) -> BTreeSet<ServerId> {
        let mut inner = self.lock();
        inner.shunned.retain(|_, since| since.elapsed() < SHUNNED);
        inner.shunned.keys().copied().collect()
    }

    /// Counts what was made.
    fn made(&self, shards: u64, file_bytes: u64, read_bytes: u64) {
        self.made_shards.fetch_add(shards, Ordering::Relaxed);
        self.made_bytes.fetch_add(shards * file_bytes, Ordering::Relaxed);
        self.read_bytes.fetch_add(read_bytes, Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Only its holder repairs the stripe.
struct Claim<'a> {
    repairs: &'a Repairs,
    stripe: StripeId,
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.repairs.lock().stripes.remove(&self.stripe);
        self.repairs.freed.notify_waiters();
    }
}

/// A server with work to do.
struct Target<'a> {
    repairs: &'a Repairs,
    server: ServerId,
    is_first: bool,
}

impl Drop for Target<'_> {
    fn drop(&mut self) {
        if self.is_first {
            self.repairs.lock().targets.remove(&self.server);
        }
    }
}

/// `POST /v1/repairs`
pub(super) async fn repair(
    State(core): State<Arc<Core>>,
    Extension(Caller(origin)): Extension<Caller>,
    Body(RepairRequest { stripe }): Body<RepairRequest>,
) -> Result<Json<Repaired>> {
    let manner = Manner { thin: false, bytes_per_second: None, timeout: REBUILD_TIMEOUT };
    // What is made is booked even if nobody waits for the answer any more.
    to_the_end(async move { stripe::repair_stripe(&core, origin, stripe, manner).await.map(Json) })
        .await
}

/// `GET /v1/repair`
pub(super) async fn status(State(core): State<Arc<Core>>) -> Result<Json<RepairStatus>> {
    let counts = core.catalog.ledger_counts().await?;
    let (settings, running) = {
        let inner = core.repairs.lock();
        (inner.settings, inner.stripes.iter().copied().collect())
    };
    let total = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    Ok(Json(RepairStatus {
        settings,
        automatic: !core.timings.repair_every.is_zero(),
        counts,
        running,
        brake: core.fleet.brake(core.catalog.clock.now_ms()),
        made_shards: total(&core.repairs.made_shards),
        made_bytes: total(&core.repairs.made_bytes),
        read_bytes: total(&core.repairs.read_bytes),
        moved_shards: total(&core.repairs.moved_shards),
    }))
}

/// `GET /v1/ledger`
pub(super) async fn ledger(
    State(core): State<Arc<Core>>,
    list: List,
) -> Result<Json<Page<LedgerRow>>> {
    Ok(Json(core.catalog.ledger(list.after()?.unwrap_or(0), list.limit).await?))
}

/// `PUT /v1/repair`
pub(super) async fn set(
    State(core): State<Arc<Core>>,
    Body(wanted): Body<SetRepair>,
) -> Result<Json<RepairStatus>> {
    let mut settings = core.repairs.settings();
    let mut changed = Vec::new();
    if let Some(paused) = wanted.paused {
        settings.paused = paused;
        changed.push(("repair_paused", paused.then_some(1)));
    }
    if let Some(pace) = wanted.bytes_per_second {
        if pace != 0 && !(REBUILD_BYTES_PER_SECOND_MIN..=i64::MAX as u64).contains(&pace) {
            let least = REBUILD_BYTES_PER_SECOND_MIN;
            return Err(bad_request(format!("{pace} bytes a second, {least} are the least")));
        }
        settings.bytes_per_second = (pace != 0).then_some(pace);
        changed.push(("repair_bytes_per_second", settings.bytes_per_second));
    }
    if let Some(rebalances) = wanted.rebalances {
        settings.rebalances = rebalances;
        changed.push(("rebalance", (!rebalances).then_some(0)));
    }
    if let Some(at_once) = wanted.at_once {
        if !(1..=AT_ONCE_MAX).contains(&at_once) {
            return Err(bad_request(format!("{at_once} at once, it is 1 to {AT_ONCE_MAX}")));
        }
        settings.at_once = at_once;
        changed.push(("repair_at_once", Some(at_once.into())));
    }
    let setting = Arc::clone(&core);
    to_the_end(async move {
        setting.catalog.set(changed).await?;
        setting.repairs.lock().settings = settings;
        if wanted.lift_brake {
            setting.fleet.resume(setting.catalog.clock.now_ms());
        }
        setting.fleet.has_changed();
        Ok(())
    })
    .await?;
    status(State(core)).await
}

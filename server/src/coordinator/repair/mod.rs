//! Repair: what stripes lack is made again, worst first.
//!
//! `risk` says what a stripe has and which of two comes first, `entry` what becomes of one in the
//! ledger, `surplus` what could go; these are pure. `stripe` has one repaired, `trim` has what could
//! go trashed, `rebalance` has shards moved to servers that joined, of which `plan` tells; `keeper` does all of it by itself,
//! `run` repairs what a person asks for, `order` says why a stripe comes when it does.

mod entry;
mod keeper;
mod order;
mod plan;
mod rebalance;
mod risk;
mod run;
mod stripe;
mod surplus;
mod trim;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::State;
use codec::StripeId;
use tokio::sync::Notify;

use self::run::Run;
use super::Core;
use super::events::of_settings;
use super::fleet::Member;
use super::router::{Body, List, bad_request, to_the_end};
use crate::Result;
use crate::wire::{
    BACKGROUND_BYTES_PER_SECOND_MIN, LedgerRow, Page, RepairSettings, RepairStatus, ServerId,
    ServerPace, SetRepair,
};

#[cfg(test)]
pub(super) use self::entry::Ended;
pub(super) use self::entry::Entry;
pub(super) use self::keeper::{keep, repair_due};
pub(super) use self::order::order;
pub(super) use self::plan::plan;
pub(super) use self::run::{begin, last, unmended};
pub(super) use self::surplus::Surplus;
pub(super) use self::trim::trash;

/// How long a rebuild may take, at full speed and at a pace: less than tickets last.
const UNWATCHED: Duration = Duration::from_secs(3 * 60);
const UNWATCHED_PACED: Duration = Duration::from_secs(12 * 60);
/// A server that failed a rebuild takes no other for this long.
const SHUNNED: Duration = Duration::from_secs(2 * 60);
/// Stripes repaired at once, unless set: a rebuild waits for disks and the network most of its time.
const AT_ONCE: u32 = 4;
/// More would only wait for each other.
const AT_ONCE_MAX: u32 = 64;
/// Rebuilds of a kind that one server does at once, as many as it takes: one reads while another
/// waits for the disk.
const OF_A_SERVER: usize = 2;

/// What all repairs share.
pub(super) struct Repairs {
    inner: Mutex<Inner>,
    run: Mutex<Option<Run>>,
    /// A stripe or a server is free again.
    freed: Notify,
    /// A person has set something: nobody rests any longer.
    asked: Arc<Notify>,
    made_shards: AtomicU64,
    urgent_shards: AtomicU64,
    made_bytes: AtomicU64,
    read_bytes: AtomicU64,
    moved_shards: AtomicU64,
    /// Somebody wants all stripes looked at once more.
    rebalances_anew: AtomicBool,
}

struct Inner {
    settings: RepairSettings,
    stripes: BTreeSet<StripeId>,
    /// Servers with work to do, urgent or not, and how many rebuilds of that kind.
    targets: BTreeMap<(ServerId, bool), usize>,
    /// How many stripes are being repaired or moved.
    at_once: u32,
    /// How many stripes are being repaired that have nothing to spare.
    urgent_at_once: u32,
    /// Servers that failed a rebuild, and when.
    shunned: BTreeMap<ServerId, Instant>,
}

impl Repairs {
    /// By what was set before.
    pub(super) fn new(settings: &[(String, u64)]) -> Self {
        let set = |wanted: &str| settings.iter().find(|(name, _)| name == wanted).map(|s| s.1);
        let settings = RepairSettings {
            paused: set("repair_paused").is_some_and(|value| value != 0),
            bytes_per_second: set("repair_bytes_per_second"),
            per_server: set("server_bytes_per_second"),
            rebalances: set("rebalance") != Some(0),
            at_once: set("repair_at_once").and_then(|n| n.try_into().ok()).unwrap_or(AT_ONCE),
        };
        Self {
            inner: Mutex::new(Inner {
                settings,
                stripes: BTreeSet::new(),
                targets: BTreeMap::new(),
                at_once: 0,
                urgent_at_once: 0,
                shunned: BTreeMap::new(),
            }),
            run: Mutex::new(None),
            freed: Notify::new(),
            asked: Arc::default(),
            made_shards: AtomicU64::new(0),
            urgent_shards: AtomicU64::new(0),
            made_bytes: AtomicU64::new(0),
            read_bytes: AtomicU64::new(0),
            moved_shards: AtomicU64::new(0),
            rebalances_anew: AtomicBool::new(false),
        }
    }

    /// What people set.
    pub(super) fn settings(&self) -> RepairSettings {
        self.lock().settings
    }

    /// What tells that a person has set something.
    fn asked(&self) -> Arc<Notify> {
        Arc::clone(&self.asked)
    }

    /// How long a rebuild may take.
    fn unwatched(&self, urgent: bool) -> Duration {
        let RepairSettings { bytes_per_second, per_server, .. } = self.settings();
        let is_paced = !urgent && bytes_per_second.or(per_server).is_some();
        if is_paced { UNWATCHED_PACED } else { UNWATCHED }
    }

    /// Waits until fewer stripes are repaired or moved than may be at once, whoever asked for it.
    /// What is urgent waits for what is urgent alone.
    async fn slot(&self, urgent: bool) -> Slot<'_> {
        self.until(|inner| {
            let most = inner.settings.at_once;
            let at_once = inner.at_once(urgent);
            let is_free = *at_once < most;
            *at_once += u32::from(is_free);
            is_free.then(|| Slot { repairs: self, urgent })
        })
        .await
    }

    /// Waits until `take` gives something.
    async fn until<T>(&self, mut take: impl FnMut(&mut Inner) -> Option<T>) -> T {
        loop {
            let freed = self.freed.notified();
            let mut freed = std::pin::pin!(freed);
            // From here on a wake is not missed.
            freed.as_mut().enable();
            let taken = take(&mut self.lock());
            if let Some(taken) = taken {
                return taken;
            }
            freed.await;
        }
    }

    /// Waits until nobody repairs `stripe`; nobody else does before the claim is dropped.
    async fn claim(&self, stripe: StripeId) -> Claim<'_> {
        let mine = |inner: &mut Inner| inner.stripes.insert(stripe);
        self.until(|inner| mine(inner).then(|| Claim { repairs: self, stripe })).await
    }

    /// Whether somebody repairs `stripe`.
    fn is_claimed(&self, stripe: StripeId) -> bool {
        self.lock().stripes.contains(&stripe)
    }

    /// The last run that a person asked for.
    fn run(&self) -> MutexGuard<'_, Option<Run>> {
        self.run.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins nothing more of what a person asked for.
    pub(super) fn stop(&self) {
        *self.run() = None;
    }

    /// The server that does the work: the first of `places` that has the least of the kind to do;
    /// none if all have enough. One that has a damaged shard of its own to mend stands first.
    fn target(&self, places: &[(u8, ServerId)], urgent: bool) -> Option<Target<'_>> {
        let server = self.lock().take_target(places, urgent)?;
        Some(Target { repairs: self, server, urgent })
    }

    /// The same, waited for.
    async fn idle_target(&self, places: &[(u8, ServerId)], urgent: bool) -> Target<'_> {
        let server = self.until(|inner| inner.take_target(places, urgent)).await;
        Target { repairs: self, server, urgent }
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
    fn made(&self, shards: u64, urgent: bool, file_bytes: u64, read_bytes: u64) {
        self.made_shards.fetch_add(shards, Ordering::Relaxed);
        self.urgent_shards.fetch_add(if urgent { shards } else { 0 }, Ordering::Relaxed);
        self.made_bytes.fetch_add(shards * file_bytes, Ordering::Relaxed);
        self.read_bytes.fetch_add(read_bytes, Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn at_once(&mut self, urgent: bool) -> &mut u32 {
        if urgent { &mut self.urgent_at_once } else { &mut self.at_once }
    }

    fn take_target(&mut self, places: &[(u8, ServerId)], urgent: bool) -> Option<ServerId> {
        let load = |server| self.targets.get(&(server, urgent)).copied().unwrap_or(0);
        let servers = places.iter().map(|(_, server)| *server);
        let server = servers.min_by_key(|server| load(*server))?;
        let is_free = load(server) < OF_A_SERVER;
        if is_free {
            *self.targets.entry((server, urgent)).or_default() += 1;
        }
        is_free.then_some(server)
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

/// One of the stripes that are repaired or moved at once.
struct Slot<'a> {
    repairs: &'a Repairs,
    urgent: bool,
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        *self.repairs.lock().at_once(self.urgent) -= 1;
        self.repairs.freed.notify_waiters();
    }
}

/// A server with work to do.
struct Target<'a> {
    repairs: &'a Repairs,
    server: ServerId,
    urgent: bool,
}

impl Drop for Target<'_> {
    fn drop(&mut self) {
        if let Some(load) = self.repairs.lock().targets.get_mut(&(self.server, self.urgent)) {
            *load -= 1;
        }
        self.repairs.freed.notify_waiters();
    }
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
        urgent_shards: total(&core.repairs.urgent_shards),
        made_bytes: total(&core.repairs.made_bytes),
        read_bytes: total(&core.repairs.read_bytes),
        moved_shards: total(&core.repairs.moved_shards),
        paces: paces(&core),
    }))
}

/// The pace of every server, as it was given and is to be.
fn paces(core: &Core) -> Vec<ServerPace> {
    let wanted = core.fleet.pace(&core.repairs.settings());
    let pace = |member: Member| ServerPace {
        taken: member.pace == Some(wanted),
        name: member.row.name,
        bytes_per_second: wanted,
    };
    core.fleet.members().into_iter().map(pace).collect()
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
    let before = settings;
    let mut changed = Vec::new();
    if let Some(paused) = wanted.paused {
        settings.paused = paused;
        changed.push(("repair_paused", paused.then_some(1)));
    }
    if let Some(pace) = wanted.bytes_per_second {
        settings.bytes_per_second = pace_of(pace)?;
        changed.push(("repair_bytes_per_second", settings.bytes_per_second));
    }
    if let Some(pace) = wanted.per_server {
        settings.per_server = pace_of(pace)?;
        changed.push(("server_bytes_per_second", settings.per_server));
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
        setting.journal.note(of_settings(&before, &settings), setting.catalog.clock.now_ms());
        if wanted.lift_brake {
            setting.fleet.resume(setting.catalog.clock.now_ms());
        }
        if wanted.rebalances == Some(true) {
            setting.repairs.rebalances_anew.store(true, Ordering::Relaxed);
        }
        setting.repairs.freed.notify_waiters();
        setting.repairs.asked.notify_one();
        setting.fleet.has_changed();
        setting.fleet.wake_all();
        Ok(())
    })
    .await?;
    // What runs goes at the new pace when this is answered; a server that is slow takes it later.
    core.fleet.paced(&settings, core.timings.probe_timeout).await;
    status(State(core)).await
}

/// A pace that a person set: 0 is none.
fn pace_of(bytes_per_second: u64) -> Result<Option<u64>> {
    let least = BACKGROUND_BYTES_PER_SECOND_MIN;
    if bytes_per_second != 0 && !(least..=i64::MAX as u64).contains(&bytes_per_second) {
        return Err(bad_request(format!(
            "{bytes_per_second} bytes a second, {least} are the least"
        )));
    }
    Ok((bytes_per_second != 0).then_some(bytes_per_second))
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn a_server_does_two_rebuilds_of_a_kind_at_a_time_and_the_next_waits_for_an_end() {
        let repairs = Repairs::new(&[]);
        let places = [(0, ServerId(7))];
        let paced = repairs.target(&places, false).unwrap();
        // The one with the least to do is taken.
        let both = [(0, ServerId(7)), (1, ServerId(8))];
        let other = repairs.target(&both, false).unwrap();
        assert_eq!(other.server, ServerId(8));
        let second = repairs.target(&both, false).unwrap();
        assert_eq!(second.server, ServerId(7));
        assert!(repairs.target(&places, false).is_none());
        let mut next = std::pin::pin!(repairs.idle_target(&places, false));
        assert!(next.as_mut().now_or_never().is_none());
        // What is urgent goes past it.
        assert!(repairs.target(&places, true).is_some());
        drop(paced);
        assert_eq!(next.now_or_never().map(|t| t.server), Some(ServerId(7)));
    }

    #[test]
    fn what_is_urgent_waits_for_no_slot_of_other_work() {
        let repairs = Repairs::new(&[("repair_at_once".to_owned(), 1)]);
        let _paced = repairs.slot(false).now_or_never().unwrap();
        assert!(repairs.slot(false).now_or_never().is_none());
        let urgent = repairs.slot(true).now_or_never();
        assert!(urgent.is_some() && repairs.slot(true).now_or_never().is_none());
    }
}

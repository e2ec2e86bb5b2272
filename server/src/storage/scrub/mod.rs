//! Goes through all shards of the server, reads each whole, and remembers which are bad.
//!
//! `plan` decides when which is read. What is found goes the way of every finding: into the bad
//! list, which the coordinator hears of with its next probe.

mod plan;

use std::collections::VecDeque;
use std::fs::File;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::Json;
use axum::body::Body;
use axum::http::HeaderMap;
use tokio::sync::Notify;

use self::plan::{Position, Rules, Step};
use super::address::Address;
use super::folder::Folder;
use super::inspect::{Inspection, Reading, inspection};
use super::router::{admit_coordinator, message};
use super::server::{Open, Server, blocking};
use super::shelf::Shelf;
use super::throttle::Throttle;
use crate::wire::{ScrubGlance, ScrubOrder, ScrubStatus};
use crate::{Error, Result};

/// The position in the server's folder.
const FILE: &str = "scrub";
/// Bytes that are read at a time.
const PIECE_BYTES: usize = 512 * 1024;
/// So much of a pass is done again at most after a crash; each time costs the disk a few syncs.
const KEEP_EVERY: Duration = Duration::from_secs(5);
/// While requests are served, a piece waits for so many pauses of so long at most.
const WAYS_GIVEN_MAX: u32 = 20;
const GIVE_WAY: Duration = Duration::from_millis(50);
/// How long it waits for a disk whose folders cannot be listed.
const RETRY: Duration = Duration::from_secs(10);
/// How often it looks whether the coordinator has said what time it is.
const LOOK_FOR_TIME: Duration = Duration::from_millis(100);
/// The coordinator's time may leap: no wait is longer.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// How a server goes through its own shards.
#[derive(Debug, Clone)]
pub struct ScrubRules {
    /// How long a pass over all of them takes: 30 days; none begins by itself, if 0.
    pub every: Duration,
    /// Bytes read in a second at most: 32 MiB.
    pub bytes_per_second: u64,
}

impl Default for ScrubRules {
    fn default() -> Self {
        Self { every: Duration::from_secs(30 * 24 * 3600), bytes_per_second: 32 << 20 }
    }
}

impl From<&ScrubRules> for Rules {
    fn from(rules: &ScrubRules) -> Self {
        Self {
            every_ms: u64::try_from(rules.every.as_millis()).unwrap_or(u64::MAX),
            bytes_per_second: rules.bytes_per_second.max(plan::BYTES_PER_SECOND_MIN),
        }
    }
}

/// The scrub of a server.
pub(super) struct Scrub {
    state: Mutex<State>,
    changed: Notify,
    /// Held while the position is written down, so that the last one stays.
    keeping: Mutex<()>,
    /// What was read since the process began.
    shards: AtomicU64,
    bytes: AtomicU64,
}

struct State {
    position: Position,
    rules: Rules,
    /// Counts orders, by which whoever reads sees that there was one.
    orders: u64,
}

impl Scrub {
    /// Where the last process was, as far as it is known.
    pub(super) fn open(folder: &Folder, rules: &ScrubRules) -> Result<Self> {
        let bytes = folder.read(FILE)?.unwrap_or_default();
        let position = serde_json::from_slice(&bytes).unwrap_or_else(|error| {
            if !bytes.is_empty() {
                tracing::warn!(%error, "where the scrub was is not known: it begins anew");
            }
            Position::default()
        });
        let state = State { position, rules: rules.into(), orders: 0 };
        Ok(Self {
            state: Mutex::new(state),
            changed: Notify::new(),
            keeping: Mutex::new(()),
            shards: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
        })
    }

    /// Shards read since the process began, and their bytes.
    pub(super) fn read(&self) -> (u64, u64) {
        (self.shards.load(Relaxed), self.bytes.load(Relaxed))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `GET /v1/scrub`
pub(super) async fn status(Open(server): Open, headers: HeaderMap) -> Result<Json<ScrubStatus>> {
    admit_coordinator(&server, &headers).await?;
    told(&server).await.map(Json)
}

/// `PUT /v1/scrub`
pub(super) async fn change(
    Open(server): Open,
    headers: HeaderMap,
    mut body: Body,
) -> Result<Json<ScrubStatus>> {
    admit_coordinator(&server, &headers).await?;
    let order: ScrubOrder = message(&server, &mut body).await?;
    let now_ms = server.gate.now_ms()?;
    {
        let state = &mut *server.scrub.state();
        state.position.follow(&mut state.rules, order, now_ms);
        state.orders += 1;
    }
    // A pause lasts, even if the answer is lost or the server killed.
    keep(&server).await?;
    server.scrub.changed.notify_one();
    told(&server).await.map(Json)
}

/// Where it is, without waiting for the disk.
pub(super) fn glance(server: &Server) -> ScrubGlance {
    let State { position, .. } = &*server.scrub.state();
    ScrubGlance {
        paused: position.paused,
        permille: position.permille(),
        bad_known: server.shelf.bad.count(),
    }
}

async fn told(server: &Arc<Server>) -> Result<ScrubStatus> {
    let shelf = Arc::clone(&server.shelf);
    let shards_of = blocking(move || shelf.shards()).await;
    let State { position, rules, .. } = &*server.scrub.state();
    Ok(ScrubStatus {
        paused: position.paused,
        every_ms: rules.every_ms,
        bytes_per_second: rules.bytes_per_second,
        pass: position.pass.clone(),
        last: position.last.clone(),
        shards_of,
        bad_known: server.shelf.bad.count(),
    })
}

/// Scrubs until the server stops.
pub(super) async fn run(server: Arc<Server>) {
    let mut walk = Walk::default();
    loop {
        let (rules, step) = {
            let State { position, rules, .. } = &*server.scrub.state();
            (*rules, position.step(rules))
        };
        let Some(now_ms) = server.gate.clock.now_ms() else {
            tokio::time::sleep(LOOK_FOR_TIME).await;
            continue;
        };
        let done = match step {
            Step::Rest => {
                server.scrub.changed.notified().await;
                Ok(())
            }
            Step::Begin => {
                server.scrub.state().position.begin(now_ms, false);
                keep(&server).await
            }
            Step::Go => match walk.step(&server, &rules, now_ms).await {
                Ok(due) if !due.is_zero() => {
                    // Either way it looks again.
                    let changed = server.scrub.changed.notified();
                    let _ = tokio::time::timeout(due.min(WAIT_MAX), changed).await;
                    Ok(())
                }
                went => went.map(drop),
            },
        };
        if let Err(error) = done {
            tracing::warn!(%error, "the scrub waits");
            tokio::time::sleep(RETRY).await;
        }
    }
}

/// Reads what is due by now, in the stead of a [`run`] that rests: it is not told these rules, or
/// it would begin to read beside this and after it.
pub(super) async fn due(server: &Arc<Server>, rules: &ScrubRules) -> Result<()> {
    let rules = Rules::from(rules);
    let mut walk = Walk::default();
    loop {
        let step = server.scrub.state().position.step(&rules);
        let Some(now_ms) = server.gate.clock.now_ms() else {
            tokio::time::sleep(LOOK_FOR_TIME).await;
            continue;
        };
        match step {
            Step::Rest => return Ok(()),
            Step::Begin => server.scrub.state().position.begin(now_ms, false),
            Step::Go if walk.step(server, &rules, now_ms).await?.is_zero() => {}
            Step::Go => return keep(server).await,
        }
    }
}

/// Where the shards of a pass are taken from.
#[derive(Default)]
struct Walk {
    /// The orders that this goes by.
    orders: u64,
    /// Of the folder that it is in, once it is in one.
    folder: Option<u8>,
    shards: VecDeque<Address>,
    kept: Option<Instant>,
}

impl Walk {
    /// Reads the next shard, or ends the pass; or gives how long it is until that is due.
    async fn step(&mut self, server: &Arc<Server>, rules: &Rules, now_ms: u64) -> Result<Duration> {
        let (orders, after) = {
            let State { position, orders, .. } = &*server.scrub.state();
            (*orders, position.after())
        };
        if orders != self.orders {
            *self = Self { orders, ..Self::default() };
        }
        let next = self.next(server, after).await?;
        let due_in_ms = server.scrub.state().position.due_in_ms(next, rules, now_ms);
        let due = Duration::from_millis(due_in_ms);
        if !due.is_zero() {
            return Ok(due);
        }
        let Some(address) = next else {
            self.end(server, now_ms).await?;
            return Ok(Duration::ZERO);
        };
        let (bytes, good) = read(server, rules, address).await;
        self.shards.pop_front();
        server.scrub.shards.fetch_add(1, Relaxed);
        server.scrub.bytes.fetch_add(bytes, Relaxed);
        {
            let state = &mut *server.scrub.state();
            if state.orders == self.orders {
                state.position.pass_by(address, bytes, good);
            }
        }
        if self.kept.is_none_or(|kept| kept.elapsed() >= KEEP_EVERY) {
            self.kept = Some(Instant::now());
            keep(server).await?;
        }
        Ok(Duration::ZERO)
    }

    /// The shard that comes after `after`.
    async fn next(&mut self, server: &Server, after: Option<Address>) -> Result<Option<Address>> {
        loop {
            if let Some(&address) = self.shards.front() {
                return Ok(Some(address));
            }
            let folder = match self.folder {
                Some(u8::MAX) => return Ok(None),
                Some(folder) => folder + 1,
                None => after.map_or(0, |address| address.folder()),
            };
            let shelf = Arc::clone(&server.shelf);
            self.shards = blocking(move || list(&shelf, folder, after)).await?.into();
            self.folder = Some(folder);
        }
    }

    async fn end(&mut self, server: &Arc<Server>, now_ms: u64) -> Result<()> {
        {
            let state = &mut *server.scrub.state();
            if state.orders == self.orders {
                state.position.end(now_ms);
            }
        }
        *self = Self { orders: self.orders, ..Self::default() };
        keep(server).await
    }
}

/// The shards in a folder behind `after`; the folder's digest is true to it from here on.
fn list(shelf: &Shelf, folder: u8, after: Option<Address>) -> Result<Vec<Address>> {
    shelf.bucket(folder, true)?;
    shelf.addresses(folder, after)
}

/// Reads a shard whole; gives its bytes, and whether it is good, if that was learned.
async fn read(server: &Arc<Server>, rules: &Rules, address: Address) -> (u64, Option<bool>) {
    match read_whole(server, rules, address).await {
        Ok((bytes, Inspection::Good(_))) => (bytes, Some(true)),
        Ok((bytes, Inspection::Damaged(_))) => (bytes, Some(false)),
        // It went since it was listed.
        Ok((_, Inspection::Missing)) => (0, None),
        Err(error) => {
            tracing::warn!(%error, "shard {address} was not read");
            (0, None)
        }
    }
}

async fn read_whole(
    server: &Arc<Server>,
    rules: &Rules,
    address: Address,
) -> Result<(u64, Inspection)> {
    let shelf = Arc::clone(&server.shelf);
    let (file, begun) = blocking(move || match shelf.open(address) {
        Ok(None) => (None, Ok(None)),
        Err(error) => (None, Err(error)),
        Ok(Some(file)) => {
            let begun = Reading::begin(&shelf, &file, address);
            (Some(Arc::new(file)), begun.map(Some))
        }
    })
    .await;
    let (bytes, examined) = match (&file, begun) {
        (Some(file), Ok(Some(reading))) => {
            (reading.file_bytes, through(server, rules, file, reading).await)
        }
        (_, Ok(_)) => return Ok((0, Inspection::Missing)),
        (_, Err(error)) => (0, Err(error)),
    };
    let found = inspection(examined)?;
    let shelf = Arc::clone(&server.shelf);
    blocking(move || {
        match (&found, file.as_deref()) {
            (Inspection::Good(_), Some(file)) => shelf.note_good(address, file),
            (Inspection::Damaged(why), file) => shelf.note_bad(address, file, why),
            _ => {}
        }
        Ok((bytes, found))
    })
    .await
}

/// Reads on to the end, at the pace that is set and when nobody else wants to.
async fn through(
    server: &Arc<Server>,
    rules: &Rules,
    file: &Arc<File>,
    mut reading: Reading,
) -> Result<codec::Digest> {
    let own = Throttle::new(Some(rules.bytes_per_second));
    let mut piece = vec![0; PIECE_BYTES.min(reading.file_bytes as usize).max(1)];
    loop {
        let next = reading.left_bytes().min(piece.len() as u64);
        own.take(next, Duration::MAX).await;
        server.throttle.take(next, Duration::MAX).await;
        give_way(server).await;
        let (shelf, file) = (Arc::clone(&server.shelf), Arc::clone(file));
        let step;
        (reading, piece, step) = blocking(move || {
            let step = reading.step(&shelf, &file, &mut piece);
            (reading, piece, step)
        })
        .await;
        if step? == 0 {
            return reading.finish();
        }
    }
}

/// Lets requests under way go first, for a while.
async fn give_way(server: &Server) {
    for _ in 0..WAYS_GIVEN_MAX {
        if !server.is_busy() {
            return;
        }
        tokio::time::sleep(GIVE_WAY).await;
    }
}

/// Keeps where it is for the next start, if it is anywhere.
pub(super) async fn stop(server: &Arc<Server>) {
    let is_under_way = server.scrub.state().position.pass.is_some();
    if is_under_way && let Err(error) = keep(server).await {
        tracing::warn!(%error, "the next start reads some shards again");
    }
}

/// Keeps where it is.
async fn keep(server: &Arc<Server>) -> Result<()> {
    let keeping = Arc::clone(server);
    blocking(move || {
        let _alone = keeping.scrub.keeping.lock().unwrap_or_else(PoisonError::into_inner);
        let position = keeping.scrub.state().position.clone();
        let bytes = serde_json::to_vec_pretty(&position)
            .map_err(|error| Error::Config(format!("cannot write {FILE}: {error}")))?;
        keeping.folder.write(FILE, &bytes)
    })
    .await
}

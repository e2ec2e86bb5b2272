//! A run of repair that a person asked for: all that lacks shards is tried once, worst first,
//! whatever it waited for. It goes through the ledger as everything does.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use codec::StripeId;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt as _, StreamExt as _};
use tokio::task::AbortHandle;

use super::entry::{BUSY_MS, CHANGES_MAX, Entry};
use super::keeper::{Known, Tried, Urgent, look_at, note_servers, sweep, try_one};
use super::risk::Risk;
use crate::Result;
use crate::coordinator::Core;
use crate::coordinator::catalog::{Ledgered, Which};
use crate::coordinator::health::wait::Wait;
use crate::coordinator::router::List;
use crate::wire::{LedgerCounts, LedgerState, Outcome, Page, RepairRun, Unmended};

/// Entries read at a time.
const PAGE_ENTRIES: usize = 1000;

/// The last run.
pub(super) struct Run {
    began_ms: u64,
    ended: bool,
    /// Every stripe of it, once.
    rows: BTreeMap<StripeId, Row>,
    made_shards: u64,
    made_bytes: u64,
    read_bytes: u64,
    why: Option<String>,
    task: Option<AbortHandle>,
}

/// A stripe of the run.
enum Row {
    /// Its turn is still to come.
    Waiting,
    Repaired,
    /// Failed or unknown.
    Unmended(Box<Unmended>),
}

impl Run {
    fn new(began_ms: u64) -> Self {
        let (ended, rows, why, task) = (false, BTreeMap::new(), None, None);
        Self { began_ms, ended, rows, made_shards: 0, made_bytes: 0, read_bytes: 0, why, task }
    }

    fn status(&self) -> RepairRun {
        let (mut counts, mut lost) = (LedgerCounts::default(), 0);
        for row in self.rows.values() {
            counts.needed += 1;
            match row {
                Row::Waiting => counts.waiting += 1,
                Row::Repaired => counts.repaired += 1,
                Row::Unmended(row) => {
                    lost += u64::from(row.lost);
                    match row.state {
                        LedgerState::Failed => counts.failed += 1,
                        _ => counts.unknown += 1,
                    }
                }
            }
        }
        RepairRun {
            began_ms: self.began_ms,
            ended: self.ended,
            counts,
            lost,
            made_shards: self.made_shards,
            made_bytes: self.made_bytes,
            read_bytes: self.read_bytes,
            why: self.why.clone(),
        }
    }

    fn note(&mut self, stripe: StripeId, tried: Tried) {
        let Tried { entry, repaired } = tried;
        if let Ok(repaired) = &repaired {
            self.made_shards += repaired.rebuilt.len() as u64;
            self.made_bytes += repaired.made_bytes;
            self.read_bytes += repaired.read_bytes;
        }
        let state = match entry.state {
            LedgerState::Repaired => {
                self.rows.insert(stripe, Row::Repaired);
                return;
            }
            LedgerState::Failed => LedgerState::Failed,
            LedgerState::Waiting | LedgerState::Unknown => LedgerState::Unknown,
        };
        let why = entry.why.unwrap_or_else(|| "it changed while it was repaired".to_owned());
        let (lost, lacking, unreachable) = match repaired {
            Ok(repaired) => {
                let too_few = repaired.outcome == Some(Outcome::TooFewSources);
                let lost = too_few && repaired.unreachable.is_empty();
                (lost, repaired.lacking, repaired.unreachable)
            }
            Err(_) => (false, Vec::new(), Vec::new()),
        };
        let row = Unmended { stripe, state, lost, why, lacking, unreachable };
        self.rows.insert(stripe, Row::Unmended(Box::new(row)));
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// `POST /v1/repairs`
pub(in crate::coordinator) async fn begin(
    State(core): State<Arc<Core>>,
) -> Result<Json<RepairRun>> {
    let mut last = core.repairs.run();
    if let Some(run) = last.as_ref().filter(|run| !run.ended) {
        return Ok(Json(run.status()));
    }
    // Two runs are never of the same time.
    let after = last.as_ref().map_or(0, |run| run.began_ms + 1);
    let run = last.insert(Run::new(core.catalog.clock.now_ms().max(after)));
    let working = Arc::clone(&core);
    let task = tokio::spawn(async move {
        // Whatever happens, the run has ended: no other begins before.
        let ended = AssertUnwindSafe(work(&working)).catch_unwind().await;
        if let Some(run) = &mut *working.repairs.run() {
            run.ended = true;
            run.why = match ended {
                Ok(ended) => ended.err().map(|error| error.to_string()),
                Err(_) => Some("it ended in a panic, which the log has".to_owned()),
            };
        }
    });
    run.task = Some(task.abort_handle());
    Ok(Json(run.status()))
}

/// `GET /v1/repairs`
pub(in crate::coordinator) async fn last(State(core): State<Arc<Core>>) -> Json<Option<RepairRun>> {
    Json(core.repairs.run().as_ref().map(Run::status))
}

/// `GET /v1/repairs/unmended`
pub(in crate::coordinator) async fn unmended(
    State(core): State<Arc<Core>>,
    list: List,
) -> Result<Json<Page<Unmended>>> {
    let from = list.after::<StripeId>()?.map_or(Bound::Unbounded, Bound::Excluded);
    let run = core.repairs.run();
    let rows = run.iter().flat_map(|run| run.rows.range((from, Bound::Unbounded)));
    let rows = rows.filter_map(|(_, row)| match row {
        Row::Unmended(row) => Some(row.as_ref().clone()),
        Row::Waiting | Row::Repaired => None,
    });
    let rows: Vec<Unmended> = rows.take(list.limit).collect();
    let next = rows.last().filter(|_| rows.len() == list.limit).map(|row| row.stripe.to_string());
    Ok(Json(Page { rows, next }))
}

/// Tries all that lacks shards once.
async fn work(core: &Core) -> Result<()> {
    core.fleet.probed(core.timings.probe_timeout).await;
    // As if all servers had just come: what backs off is due too.
    note_servers(core, &mut Known::default()).await?;
    core.catalog.note_deficits().await?;
    sweep(core).await?;
    let mut urgent = urgent(core).await?;
    urgent.sort_by_key(|(risk, urgent)| (*risk, urgent.key));
    if let Some(run) = &mut *core.repairs.run() {
        run.rows = urgent.iter().map(|(_, urgent)| (urgent.stripe, Row::Waiting)).collect();
    }
    let mut urgent = urgent.into_iter().map(|(_, urgent)| urgent);
    let mut running = FuturesUnordered::new();
    loop {
        while running.len() < core.repairs.settings().at_once as usize {
            let Some(next) = urgent.next() else { break };
            running.push(async move { (next.stripe, to_an_end(core, next).await) });
        }
        let Some((stripe, tried)) = running.next().await else { break };
        let tried = tried?;
        if let Some(run) = &mut *core.repairs.run() {
            run.note(stripe, tried);
        }
    }
    sweep(core).await
}

/// Tries one; again where it is due again at once, or soon: it changed meanwhile, or its target
/// failed or was busy.
async fn to_an_end(core: &Core, mut urgent: Urgent) -> Result<Tried> {
    let mut tries = 0;
    loop {
        let tried = try_one(core, urgent).await?;
        tries += 1;
        let Some(wait) = again(&tried.entry).filter(|_| tries <= CHANGES_MAX) else {
            return Ok(tried);
        };
        tokio::time::sleep(wait).await;
        urgent.attempts = tried.entry.attempts;
    }
}

/// How long to wait until a run tries the entry again; none if it does not.
fn again(entry: &Entry) -> Option<Duration> {
    let wait_ms = entry.due_ms.saturating_sub(entry.tried_ms.unwrap_or(0));
    let soon = entry.state != LedgerState::Repaired && wait_ms <= BUSY_MS;
    soon.then(|| Duration::from_millis(wait_ms))
}

/// Everything in the ledger that a repair has something to make of; what lacks nothing is struck
/// out.
async fn urgent(core: &Core) -> Result<Vec<(Risk, Urgent)>> {
    let now_ms = core.catalog.clock.now_ms();
    let (mut urgent, mut after) = (Vec::new(), 0);
    loop {
        let page = core.catalog.ledgered(Which::Open, after, PAGE_ENTRIES).await?;
        let Some(last) = page.last() else { return Ok(urgent) };
        after = last.key;
        let mut whole = Vec::new();
        for entry in page {
            let look = look_at(core, &entry);
            if look.is_whole() {
                whole.push(entry.key);
                continue;
            }
            // Servers that are merely down are waited for as ever.
            let thin = look.is_thin() && core.fleet.waits(look.deficit(), now_ms) == Wait::Urgent;
            if look.lacks() || (thin && look.has_work()) {
                let Ledgered { key, stripe, attempts, found_ms, tried_ms, .. } = entry;
                let risk = Risk::new(&look, found_ms, tried_ms);
                let one = Urgent { key, stripe, attempts, thin, urgent: look.is_thin() };
                urgent.push((risk, one));
            }
        }
        core.catalog.settle_ledger(whole, Vec::new()).await?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::coordinator::repair::entry::Ended;

    #[test]
    fn a_run_asks_another_target_at_once_and_leaves_what_cannot_be_made() {
        let again = |attempts, ended| again(&Entry::tried(attempts, ended, 7));
        assert_eq!(again(0, Ended::TargetFailed("gone".into())), Some(Duration::ZERO));
        assert_eq!(again(0, Ended::Changed), Some(Duration::ZERO));
        assert!(again(0, Ended::Busy("busy".into())).is_some());
        assert_eq!(again(CHANGES_MAX, Ended::TargetFailed("gone".into())), None);
        assert_eq!(again(0, Ended::Short("no".into())), None);
        assert_eq!(again(0, Ended::Whole), None);
    }
}

//! Compares what servers hold with the map: one request where nothing differs, page by page
//! where something does.
//!
//! A page is read first and the map's part of it after that, so that what is on record was stored
//! before. Whatever then differs is looked at once more by its server, and is booked as that finds
//! it, unless the stripe has changed since it was looked up. Absence books a shard as missing and
//! never removes anything; what nothing is on record of is kept.

mod compare;
mod due;
mod sort;

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use codec::StripeId;
use futures_util::FutureExt as _;
use futures_util::future::join_all;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

pub(super) use self::compare::look_again;
use self::compare::{Outcome, compare};
use self::due::{Look, Past, Seen};
use super::Core;
use super::clock::millis;
use super::events::of_comparison;
use super::fleet::Member;
use crate::wire::{Comparison, ServerId, State as Health};

/// Whoever asks for all comparisons gets an answer within this time, with what is under way then.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// A shard's address.
type Address = (StripeId, u8);

/// The comparisons of all servers.
pub(super) struct Comparisons {
    servers: Mutex<BTreeMap<ServerId, Entry>>,
    tasks: Mutex<JoinSet<()>>,
    /// Counts those that ended, for who waits for one.
    ended: watch::Sender<u64>,
    /// Held while all that the map has on a server is gone through: reads of clients go first.
    digesting: Semaphore,
}

#[derive(Default)]
struct Entry {
    past: Past,
    last: Option<Result<Outcome, String>>,
}

impl Comparisons {
    pub(super) fn new() -> Self {
        Self {
            servers: Mutex::default(),
            tasks: Mutex::default(),
            ended: watch::Sender::new(0),
            digesting: Semaphore::new(1),
        }
    }

    /// Ends those under way.
    pub(super) fn stop(&self) {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).abort_all();
    }

    /// Forgets a server that is of the vault no more.
    pub(super) fn forget(&self, server: ServerId) {
        self.servers().remove(&server);
    }

    fn servers(&self) -> MutexGuard<'_, BTreeMap<ServerId, Entry>> {
        self.servers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How the last one of each of `members` went.
    pub(super) fn told(&self, members: &[Member]) -> Vec<Comparison> {
        let servers = self.servers();
        let told = |member: &Member| {
            let entry = servers.get(&member.row.server);
            let last = entry.and_then(|entry| entry.last.clone());
            let failed = last.as_ref().and_then(|last| last.as_ref().err().cloned());
            let Outcome { found, surplus, unknown } = last.and_then(Result::ok).unwrap_or_default();
            Comparison {
                server: member.row.server,
                name: member.row.name.clone(),
                running: entry.is_some_and(|entry| entry.past.running),
                ended_ms: entry.and_then(|entry| entry.past.ended_ms),
                failed,
                found,
                surplus,
                unknown,
            }
        };
        members.iter().map(told).collect()
    }

    /// Waits until none of `servers` is being compared.
    async fn over(&self, servers: &[ServerId]) {
        let mut ended = self.ended.subscribe();
        let none_runs = |_: &u64| {
            let entries = self.servers();
            !servers.iter().any(|server| entries.get(server).is_some_and(|e| e.past.running))
        };
        // The sender lives as long as this.
        let _ = ended.wait_for(none_runs).await;
    }
}

/// `POST /v1/reconcile`
pub(super) async fn begin(State(core): State<Arc<Core>>) -> Json<Vec<Comparison>> {
    Json(all(&core, ANSWER_WITHIN).await)
}

/// `GET /v1/reconcile`
pub(super) async fn list(State(core): State<Arc<Core>>) -> Json<Vec<Comparison>> {
    Json(core.comparisons.told(&core.fleet.members()))
}

/// A server answered a probe: has it compared, if that is due.
pub(super) fn consider(core: &Arc<Core>, server: ServerId, state: Health, findings: u64) {
    let seen = Seen { returned: state == Health::Returned, findings };
    let (now_ms, every) = (core.catalog.clock.now_ms(), core.timings.compare_every);
    let every_ms = Some(millis(every)).filter(|&ms| ms > 0);
    let due = {
        let mut servers = core.comparisons.servers();
        let past = &mut servers.entry(server).or_default().past;
        past.due(seen, now_ms, every_ms).inspect(|_| past.begin(now_ms))
    };
    if let Some(look) = due {
        start(core, server, Some(findings), look);
    }
}

/// Has all servers compared that answer, by what lies in their folders now, and waits for that,
/// for `patience` at most.
async fn all(core: &Arc<Core>, patience: Duration) -> Vec<Comparison> {
    let answers = |m: &Member| matches!(m.health.state, Health::Up | Health::Returned);
    let (here, away): (Vec<Member>, Vec<Member>) =
        core.fleet.members().into_iter().partition(answers);
    {
        let mut servers = core.comparisons.servers();
        for member in away {
            let why = format!("it is {:?}", member.health.state).to_lowercase();
            let entry = servers.entry(member.row.server).or_default();
            if !entry.past.running {
                entry.last = Some(Err(why));
            }
        }
    }
    let each = here.iter().map(|member| async move {
        let server = member.row.server;
        // One under way may have passed by what somebody wants to be looked at.
        core.comparisons.over(&[server]).await;
        let begins = {
            let mut servers = core.comparisons.servers();
            let past = &mut servers.entry(server).or_default().past;
            let begins = !past.running;
            if begins {
                past.begin(core.catalog.clock.now_ms());
            }
            begins
        };
        if begins {
            start(core, server, None, Look::Anew);
        }
        core.comparisons.over(&[server]).await;
    });
    // Out of patience, the one who asked looks again later.
    let _ = tokio::time::timeout(patience, join_all(each)).await;
    core.comparisons.told(&core.fleet.members())
}

/// Compares a server in the background; its entry says already that it is being compared.
fn start(core: &Arc<Core>, server: ServerId, findings: Option<u64>, look: Look) {
    let comparing = Arc::clone(core);
    let mut tasks = core.comparisons.tasks.lock().unwrap_or_else(PoisonError::into_inner);
    while tasks.try_join_next().is_some() {}
    tasks.spawn(async move {
        let core = &comparing;
        let member = core.fleet.get(server);
        let compared = match &member {
            Some(member) => {
                // A server of which one never ended would never be compared again.
                let whole = AssertUnwindSafe(compare(core, member, look)).catch_unwind();
                whole.await.unwrap_or_else(|_| Err("the comparison itself failed".to_owned()))
            }
            None => Err("it is in the vault no more".to_owned()),
        };
        let now_ms = core.catalog.clock.now_ms();
        let ended = compared.as_ref().map(|outcome| &outcome.found).map_err(String::as_str);
        let told = member.map(|member| of_comparison(&member.row.name, ended));
        core.journal.note(told, now_ms);
        match &compared {
            Ok(_) => core.fleet.reconciled(server, now_ms),
            Err(why) => tracing::warn!(server = server.0, why, "server was not compared"),
        }
        {
            let mut servers = core.comparisons.servers();
            let entry = servers.entry(server).or_default();
            entry.past.end(now_ms, findings, compared.is_ok());
            entry.last = Some(compared);
        }
        core.comparisons.ended.send_modify(|n| *n += 1);
    });
}

//! The servers as they are now: what joined, and what was seen of them, in memory.

mod given;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::{Notify, watch};

use super::catalog::ServerRow;
use super::events::{self, Journal};
use super::health::brake::{self, Brake, Seen};
use super::health::wait::{self, Deficit, Wait};
use super::health::{self, Action, Event, Health};
use crate::wire::{self, Mode, ProbeAnswer, ScrubGlance, ServerId, State, Weight};

pub(super) use self::given::HasFacts;

/// A server and how it is doing.
#[derive(Debug, Clone)]
pub(super) struct Member {
    /// What the catalog has of it, with the last probe's numbers.
    pub(super) row: ServerRow,
    /// How it is doing.
    pub(super) health: Health,
    /// What is wanted of it.
    pub(super) mode: Mode,
    /// Why it takes no writes, if it does not.
    pub(super) trouble: Option<String>,
    /// Hash of the vault record that it was given.
    pub(super) record: Option<blake3::Hash>,
    /// What it has of the facts.
    pub(super) facts: HasFacts,
    /// How often it was given some.
    pub(super) given: u64,
    /// The pace that it was given, once it was given one.
    pub(super) pace: Option<Option<u64>>,
    /// Whether it has said since the start that it knows a later epoch.
    pub(super) outran: bool,
    /// Where its scrub is, as of its last answer.
    pub(super) scrub: Option<ScrubGlance>,
    /// Has it probed at once.
    pub(super) wake: Arc<Notify>,
}

impl Member {
    /// Whether what it holds can be had, and stays there.
    pub(super) fn counts(&self) -> bool {
        matches!(self.health.state, State::Up | State::Returned) && self.mode != Mode::Draining
    }

    /// What its share of all shards is in proportion to: its disk, as far as that counts.
    pub(super) fn heft(&self) -> f64 {
        self.row.capacity_bytes.max(1) as f64 * self.row.weight.factor()
    }

    /// Whether new shards go there.
    pub(super) fn takes_writes(&self) -> bool {
        self.health.state.takes_writes(self.mode) && self.trouble.is_none()
    }
}

/// When things change.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules {
    /// For each server.
    pub(super) health: health::Rules,
    /// For all of them together.
    pub(super) brake: brake::Rules,
    /// How long servers that are away are waited for by a stripe with nothing to spare.
    pub(super) thin_ms: u64,
}

/// All servers.
pub(super) struct Fleet {
    inner: Mutex<Inner>,
    rules: Rules,
    journal: Arc<Journal>,
    /// Counts probes, for who waits for one.
    probes: watch::Sender<u64>,
    /// Counts what repair goes by: states, modes, reports, settings.
    changes: watch::Sender<u64>,
}

#[derive(Default)]
struct Inner {
    members: BTreeMap<ServerId, Member>,
    brake: Brake,
}

impl Fleet {
    /// The fleet of a coordinator that starts: nothing is known yet.
    pub(super) fn new(
        rows: Vec<ServerRow>,
        rules: Rules,
        journal: Arc<Journal>,
        now_ms: u64,
    ) -> Self {
        let fleet = Self {
            inner: Mutex::default(),
            rules,
            journal,
            probes: watch::Sender::new(0),
            changes: watch::Sender::new(0),
        };
        for row in rows {
            fleet.add(row, now_ms);
        }
        fleet
    }

    /// Takes a server in; gives whether it is a new one rather than in the place of a former.
    pub(super) fn add(&self, row: ServerRow, now_ms: u64) -> bool {
        let member = Member {
            health: if row.lost {
                Health::lost(now_ms, &self.rules.health)
            } else {
                Health::unknown(now_ms, &self.rules.health)
            },
            mode: row.mode,
            trouble: None,
            record: None,
            facts: HasFacts::Unknown,
            given: 0,
            pace: None,
            outran: false,
            scrub: None,
            wake: Arc::default(),
            row,
        };
        let former = self.lock().members.insert(member.row.server, member);
        self.has_changed();
        // Whoever probes it looks anew.
        former.inspect(|former| former.wake.notify_one()).is_none()
    }

    /// Sees changes from now on.
    pub(super) fn changed(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Says that something changed which repair goes by.
    pub(super) fn has_changed(&self) {
        self.changes.send_modify(|n| *n += 1);
    }

    /// Looks at all of them without taking copies.
    pub(super) fn with_members<T>(&self, look: impl FnOnce(&BTreeMap<ServerId, Member>) -> T) -> T {
        look(&self.lock().members)
    }

    /// Notes what is wanted of a server from now on.
    pub(super) fn has_mode(&self, server: ServerId, mode: Mode) {
        if let Some(member) = self.lock().members.get_mut(&server) {
            member.mode = mode;
        }
        self.has_changed();
    }

    /// Lets a server go, whose prober ends with it.
    pub(super) fn remove(&self, server: ServerId) {
        let gone = self.lock().members.remove(&server);
        gone.inspect(|member| member.wake.notify_one());
        self.has_changed();
    }

    /// Gives a server another name and gives it up: another disk takes its place.
    pub(super) fn replace(&self, server: ServerId, name: String, now_ms: u64) {
        if let Some(member) = self.lock().members.get_mut(&server) {
            member.row.name = name;
            member.row.lost = true;
            member.health = Health::lost(now_ms, &self.rules.health);
        }
        self.has_changed();
    }

    /// Notes what the catalog has: whether a server is lost.
    pub(super) fn has_lost(&self, server: ServerId, lost: bool) {
        if let Some(member) = self.lock().members.get_mut(&server) {
            member.row.lost = lost;
        }
    }

    /// All of them, by number.
    pub(super) fn members(&self) -> Vec<Member> {
        self.lock().members.values().cloned().collect()
    }

    /// One of them.
    pub(super) fn get(&self, server: ServerId) -> Option<Member> {
        self.lock().members.get(&server).cloned()
    }

    /// Those that are up.
    pub(super) fn up(&self) -> Vec<ServerId> {
        let up = |m: &&Member| m.health.state == State::Up;
        self.lock().members.values().filter(up).map(|m| m.row.server).collect()
    }

    /// That repair waits, if it does.
    pub(super) fn brake(&self, now_ms: u64) -> Option<wire::Brake> {
        let inner = self.lock();
        held(&inner.brake, &inner.members, now_ms)
    }

    /// Has repair go on, whoever is away.
    pub(super) fn resume(&self, now_ms: u64) {
        let Inner { members, brake } = &mut *self.lock();
        turn(brake, members, brake::Event::Resume, now_ms, &self.rules.brake, &self.journal);
    }

    /// When what a stripe lacks is repaired.
    pub(super) fn waits(&self, deficit: Deficit, now_ms: u64) -> Wait {
        let inner = self.lock();
        let health_of = |server| inner.members.get(&server).map(|m| &m.health);
        wait::waits(deficit, health_of, &inner.brake, self.rules.thin_ms, now_ms)
    }

    /// A server says where it is now and what its disk counts for: probed at once, and given the
    /// vault record again.
    pub(super) fn moved(&self, server: ServerId, url: String, weight: Weight) {
        if let Some(member) = self.lock().members.get_mut(&server) {
            (member.row.url, member.row.weight) = (url, weight);
            (member.record, member.pace) = (None, None);
            member.wake.notify_one();
        }
    }

    /// Has all servers probed at once.
    pub(super) fn wake_all(&self) {
        self.lock().members.values().for_each(|m| m.wake.notify_one());
    }

    /// Notes that a server has said that it knows a later epoch.
    pub(super) fn has_outrun(&self, server: ServerId) {
        if let Some(member) = self.lock().members.get_mut(&server) {
            member.outran = true;
        }
    }

    /// Notes how a probe ended; gives the state after.
    pub(super) fn observe(
        &self,
        server: ServerId,
        answer: Option<ProbeAnswer>,
        now_ms: u64,
    ) -> Option<State> {
        let event = if answer.is_some() { Event::Good } else { Event::Missed };
        let mut inner = self.lock();
        if let (Some(member), Some(answer)) = (inner.members.get_mut(&server), answer) {
            // What the catalog's signed integers hold.
            member.row.capacity_bytes = answer.capacity_bytes.min(i64::MAX as u64);
            member.row.free_bytes = answer.free_bytes.min(i64::MAX as u64);
            member.row.last_seen_ms = Some(now_ms);
            member.trouble = answer.trouble;
            member.scrub = answer.scrub;
        }
        let before = inner.members.get(&server).map(|m| m.health.state);
        let state = inner.step(server, event, now_ms, &self.rules.health, &self.journal);
        inner.look(now_ms, &self.rules.brake, &self.journal);
        drop(inner);
        if before != state {
            self.has_changed();
        }
        self.probes.send_modify(|n| *n += 1);
        state
    }

    /// Somebody says that these servers failed a request.
    pub(super) fn failed(&self, servers: &[ServerId], now_ms: u64) {
        self.step_all(servers, Event::Failed, now_ms);
    }

    /// These servers gave genuine receipts.
    pub(super) fn served(&self, servers: &[ServerId], now_ms: u64) {
        self.step_all(servers, Event::Served, now_ms);
    }

    /// What a server holds was compared with the catalog.
    pub(super) fn reconciled(&self, server: ServerId, now_ms: u64) {
        self.step_all(&[server], Event::Reconciled, now_ms);
    }

    fn step_all(&self, servers: &[ServerId], event: Event, now_ms: u64) {
        let mut inner = self.lock();
        let states = |inner: &Inner| -> Vec<_> {
            servers.iter().map(|s| inner.members.get(s).map(|m| m.health.state)).collect()
        };
        let before = states(&inner);
        for &server in servers {
            inner.step(server, event, now_ms, &self.rules.health, &self.journal);
        }
        inner.look(now_ms, &self.rules.brake, &self.journal);
        if states(&inner) != before {
            self.has_changed();
        }
    }

    /// Waits until every server was probed once, for `patience` at most.
    pub(super) async fn probed(&self, patience: Duration) {
        self.noticed(patience, |m| m.health.probed()).await;
    }

    /// Waits until `is` holds for every server.
    async fn noticed(&self, patience: Duration, is: impl Fn(&Member) -> bool) {
        let mut probes = self.probes.subscribe();
        let all = || self.lock().members.values().all(&is);
        // Out of patience, the caller goes on with what is known.
        let _ = tokio::time::timeout(patience, probes.wait_for(|_| all())).await;
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl Inner {
    /// Notes what was seen of a server; gives its state after.
    fn step(
        &mut self,
        server: ServerId,
        event: Event,
        now_ms: u64,
        rules: &health::Rules,
        journal: &Journal,
    ) -> Option<State> {
        let member = self.members.get_mut(&server)?;
        let before = member.health.state;
        let (health, action) = health::step(member.health.clone(), event, now_ms, rules);
        let after = health.state;
        member.health = health;
        match action {
            Some(Action::Probe) => member.wake.notify_one(),
            None => {}
        }
        if before.is_away() && !after.is_away() {
            // While it was away it may have been given another disk, and started again.
            (member.record, member.pace) = (None, None);
        }
        if before != after {
            let name = &member.row.name;
            journal.note(events::of_health(name, before, &member.health, now_ms), now_ms);
            match after {
                State::Up => tracing::info!(name, ?before, "server is up"),
                _ => tracing::warn!(name, ?before, "server is {after:?}"),
            }
        }
        Some(after)
    }

    /// Has the brake look at everybody.
    fn look(&mut self, now_ms: u64, rules: &brake::Rules, journal: &Journal) {
        let Self { members, brake } = self;
        // One that never answered holds nothing that could be missed.
        let known = members.values().filter(|m| m.row.last_seen_ms.is_some());
        let all: Vec<Seen> = known
            .map(|m| Seen { server: m.row.server, zone: &m.row.zone, left_ms: m.health.left_ms })
            .collect();
        turn(brake, members, brake::Event::Look(&all), now_ms, rules, journal);
    }
}

/// Tells the brake, and the logs what became of it.
fn turn(
    brake: &mut Brake,
    members: &BTreeMap<ServerId, Member>,
    event: brake::Event,
    now_ms: u64,
    rules: &brake::Rules,
    journal: &Journal,
) {
    // Its time may be over since the last look.
    let before = held(brake, members, 0);
    *brake = brake::step(std::mem::take(brake), event, now_ms, rules);
    let after = held(brake, members, now_ms);
    journal.note(events::of_brake(before.as_ref(), after.as_ref()), now_ms);
    match after {
        Some(held) if before.is_none() => {
            let (servers, zones) = (held.servers.len(), &held.zones);
            tracing::warn!(servers, ?zones, "servers went together: repair waits");
        }
        None if before.is_some() => tracing::info!("repair goes on"),
        _ => {}
    }
}

/// That the brake holds, with the servers' names.
fn held(brake: &Brake, members: &BTreeMap<ServerId, Member>, now_ms: u64) -> Option<wire::Brake> {
    let held = brake.held(now_ms)?;
    let name = |server| members.get(server).map(|m| m.row.name.clone());
    Some(wire::Brake {
        since_ms: held.since_ms,
        until_ms: held.until_ms,
        zones: held.zones.iter().cloned().collect(),
        servers: held.servers.iter().filter_map(name).collect(),
    })
}

#[cfg(test)]
mod tests;

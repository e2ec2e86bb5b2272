//! The servers as they are now: what joined, and what the probes found, in memory.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::{Notify, watch};

use super::catalog::ServerRow;
use super::health::{self, Event, Health, Rules};
use crate::wire::{ProbeAnswer, ServerId, State};

/// A server and how it is doing.
#[derive(Debug, Clone)]
pub(super) struct Member {
    /// What the catalog has of it, with the last probe's numbers.
    pub(super) row: ServerRow,
    /// How it is doing.
    pub(super) health: Health,
    /// Why it takes no writes, if it does not.
    pub(super) trouble: Option<String>,
    /// Hash of the vault record that it was given.
    pub(super) record: Option<blake3::Hash>,
    /// Whether it has said since the start that it knows a later epoch.
    pub(super) outran: bool,
    /// Has it probed at once.
    pub(super) wake: Arc<Notify>,
}

/// All servers.
pub(super) struct Fleet {
    members: Mutex<BTreeMap<ServerId, Member>>,
    rules: Rules,
    /// Counts probes, for who waits for one.
    probes: watch::Sender<u64>,
}

impl Fleet {
    /// The fleet of a coordinator that starts: nothing is known yet.
    pub(super) fn new(rows: Vec<ServerRow>, rules: Rules, now_ms: u64) -> Self {
        let fleet = Self { members: Mutex::default(), rules, probes: watch::Sender::new(0) };
        for row in rows {
            fleet.add(row, now_ms);
        }
        fleet
    }

    /// Takes a server in; gives whether it is a new one rather than in the place of a former.
    pub(super) fn add(&self, row: ServerRow, now_ms: u64) -> bool {
        let member = Member {
            health: Health::unknown(now_ms),
            trouble: None,
            record: None,
            outran: false,
            wake: Arc::default(),
            row,
        };
        let former = self.lock().insert(member.row.server, member);
        // Whoever probes it looks anew.
        former.inspect(|former| former.wake.notify_one()).is_none()
    }

    /// All of them, by number.
    pub(super) fn members(&self) -> Vec<Member> {
        self.lock().values().cloned().collect()
    }

    /// One of them.
    pub(super) fn get(&self, server: ServerId) -> Option<Member> {
        self.lock().get(&server).cloned()
    }

    /// Those that are up.
    pub(super) fn up(&self) -> Vec<ServerId> {
        let up = |m: &&Member| m.health.state == State::Up;
        self.lock().values().filter(up).map(|m| m.row.server).collect()
    }

    /// A server says where it is now: probed at once, and given the vault record again.
    pub(super) fn moved(&self, server: ServerId, url: String) {
        if let Some(member) = self.lock().get_mut(&server) {
            member.row.url = url;
            member.record = None;
            member.wake.notify_one();
        }
    }

    /// Has all servers probed at once.
    pub(super) fn wake_all(&self) {
        self.lock().values().for_each(|m| m.wake.notify_one());
    }

    /// Notes that a server has the vault record with this hash.
    pub(super) fn has_record(&self, server: ServerId, hash: blake3::Hash) {
        if let Some(member) = self.lock().get_mut(&server) {
            member.record = Some(hash);
        }
    }

    /// Notes that a server has said that it knows a later epoch.
    pub(super) fn has_outrun(&self, server: ServerId) {
        if let Some(member) = self.lock().get_mut(&server) {
            member.outran = true;
        }
    }

    /// Notes how a probe ended; gives the states before and after.
    pub(super) fn observe(
        &self,
        server: ServerId,
        answer: Option<ProbeAnswer>,
        now_ms: u64,
    ) -> Option<(State, State)> {
        let mut members = self.lock();
        let member = members.get_mut(&server)?;
        let before = member.health.state;
        let event = if answer.is_some() { Event::Good } else { Event::Missed };
        member.health = health::step(member.health, event, now_ms, &self.rules);
        if let Some(answer) = answer {
            // What the catalog's signed integers hold.
            member.row.capacity_bytes = answer.capacity_bytes.min(i64::MAX as u64);
            member.row.free_bytes = answer.free_bytes.min(i64::MAX as u64);
            member.row.last_seen_ms = Some(now_ms);
            member.trouble = answer.trouble;
        }
        let after = member.health.state;
        if after == State::Up && before != after {
            // While it was away it may have been given another disk.
            member.record = None;
        }
        drop(members);
        self.probes.send_modify(|n| *n += 1);
        Some((before, after))
    }

    /// Waits until every server was probed once, for `patience` at most.
    pub(super) async fn probed(&self, patience: Duration) {
        let mut probes = self.probes.subscribe();
        let all = || self.lock().values().all(|m| m.health.probed());
        // Out of patience, the caller goes on with what is known.
        let _ = tokio::time::timeout(patience, probes.wait_for(|_| all())).await;
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<ServerId, Member>> {
        self.members.lock().unwrap_or_else(|e| e.into_inner())
    }
}

//! What the servers were given: the vault record, facts, their pace.

use std::time::Duration;

use super::{Fleet, Member};
use crate::wire::{RepairSettings, ServerId, State};

/// What a server has of the facts in the catalog.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::coordinator) enum HasFacts {
    /// It was not asked yet.
    Unknown,
    /// Its build is from before them.
    None,
    /// All up to this number.
    To(u64),
    /// Others, which the coordinator signed: the catalog is not whole.
    Others,
}

impl Fleet {
    /// Notes that a server has the vault record with this hash.
    pub(in crate::coordinator) fn has_record(&self, server: ServerId, hash: blake3::Hash) {
        if let Some(member) = self.lock().members.get_mut(&server) {
            member.record = Some(hash);
        }
        self.probes.send_modify(|n| *n += 1);
    }

    /// Notes what a server said that it has of the facts, unless it was given more since it was
    /// asked.
    pub(in crate::coordinator) fn has_facts(&self, server: ServerId, has: HasFacts, given: u64) {
        if let Some(member) = self.lock().members.get_mut(&server) {
            let is_less =
                matches!((member.facts, has), (HasFacts::To(a), HasFacts::To(b)) if b < a);
            if !is_less || member.given == given {
                member.facts = has;
            }
        }
    }

    /// Notes that a server was given the facts up to this number.
    pub(in crate::coordinator) fn gave_facts(&self, server: ServerId, number: u64) {
        if let Some(member) = self.lock().members.get_mut(&server) {
            member.facts = HasFacts::To(number);
            member.given += 1;
        }
    }

    /// Has all servers asked anew what they have of the facts: the catalog has more now.
    pub(in crate::coordinator) fn ask_facts(&self) {
        for member in self.lock().members.values_mut() {
            member.facts = HasFacts::Unknown;
            member.wake.notify_one();
        }
    }

    /// The pace of each server that work in the background may go on at.
    pub(in crate::coordinator) fn pace(&self, settings: &RepairSettings) -> Option<u64> {
        let gone = |m: &&Member| matches!(m.health.state, State::Down | State::Lost);
        let inner = self.lock();
        let there = inner.members.values().filter(|m| !gone(m)).count();
        settings.pace(there as u64)
    }

    /// Notes that a server took this pace.
    pub(in crate::coordinator) fn has_pace(&self, server: ServerId, pace: Option<u64>) {
        if let Some(member) = self.lock().members.get_mut(&server) {
            member.pace = Some(pace);
        }
        self.probes.send_modify(|n| *n += 1);
    }

    /// Waits until every server that is up has the pace of these settings, for `patience` at most.
    pub(in crate::coordinator) async fn paced(
        &self,
        settings: &RepairSettings,
        patience: Duration,
    ) {
        let wanted = self.pace(settings);
        let has = |m: &Member| m.health.state != State::Up || m.pace == Some(wanted);
        self.noticed(patience, has).await;
    }

    /// Waits until every server that is up has the vault record with this hash, for `patience` at
    /// most.
    pub(in crate::coordinator) async fn recorded(&self, hash: blake3::Hash, patience: Duration) {
        let has = |m: &Member| m.health.state != State::Up || m.record == Some(hash);
        self.noticed(patience, has).await;
    }
}

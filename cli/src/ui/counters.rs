//! What a pipeline has done so far: written by it, read by the display.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Shared by all stages of one command; every field only grows.
#[derive(Debug, Default)]
pub struct Counters {
    /// Entries that the walk has seen.
    pub scanned_files: AtomicU64,
    /// Bytes of these.
    pub scanned_bytes: AtomicU64,
    /// The walk is over: `scanned_*` are totals.
    pub scan_done: AtomicBool,
    /// Files of the source that are dealt with, read or found unchanged.
    pub read_files: AtomicU64,
    /// Bytes of these.
    pub read_bytes: AtomicU64,
    /// Files with chunks that were not stored before.
    pub new_files: AtomicU64,
    /// Bytes of these chunks.
    pub new_bytes: AtomicU64,
    /// The same compressed: bytes of packs.
    pub packed_bytes: AtomicU64,
    /// Files, stripes or shards that a pull, a verify or a repair has before it.
    pub total_files: AtomicU64,
    /// Bytes of these; 0 while unknown.
    pub total_bytes: AtomicU64,
    /// How many of them are done, the last flush included.
    pub done_files: AtomicU64,
    /// Bytes of these.
    pub done_bytes: AtomicU64,
    repair: Mutex<Option<RepairNumbers>>,
    sent: Mutex<BTreeMap<String, u64>>,
    limited_by: Mutex<String>,
}

/// How far a repair is; each number but the times is a count of stripes.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct RepairNumbers {
    /// All of the vault.
    pub stripes: u64,
    /// Those that lacked nothing.
    pub whole: u64,
    /// Those that wait for servers that are away.
    pub away: u64,
    /// Those that lack shards: the sum of the next four.
    pub needed: u64,
    /// They lack nothing any more.
    pub repaired: u64,
    /// Their turn is still to come.
    pub waiting: u64,
    /// They were tried in vain.
    pub failed: u64,
    /// They were tried, and servers did not answer.
    pub unknown: u64,
    /// How long the rest will take, once that can be said.
    pub eta_ms: Option<u64>,
    /// How much longer or shorter that may be.
    pub eta_spread_ms: Option<u64>,
}

/// The counters at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Numbers {
    /// See [`Counters`] for all of these.
    pub scanned_files: u64,
    /// Bytes.
    pub scanned_bytes: u64,
    /// The walk is over.
    pub scan_done: bool,
    /// Files.
    pub read_files: u64,
    /// Bytes.
    pub read_bytes: u64,
    /// Files.
    pub new_files: u64,
    /// Bytes.
    pub new_bytes: u64,
    /// Bytes.
    pub packed_bytes: u64,
    /// Files, stripes or shards.
    pub total_files: u64,
    /// Bytes.
    pub total_bytes: u64,
    /// Files, stripes or shards.
    pub done_files: u64,
    /// Bytes.
    pub done_bytes: u64,
    /// Bytes that went to or came from each server.
    pub sent_bytes: BTreeMap<String, u64>,
    /// What the command waits for most; empty while unknown.
    pub limited_by: String,
    /// How far a repair is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repair: Option<RepairNumbers>,
}

impl Counters {
    /// Counts bytes sent to (or, by a pull, received from) a server.
    pub fn sent(&self, server: &str, bytes: u64) {
        let mut sent = held(&self.sent);
        match sent.get_mut(server) {
            Some(sum) => *sum += bytes,
            None => drop(sent.insert(server.to_owned(), bytes)),
        }
    }

    /// Says what the command waits for most, as in "network to c".
    pub fn limited_by(&self, what: impl Into<String>) {
        *held(&self.limited_by) = what.into();
    }

    /// Says how far a repair is.
    pub fn repair(&self, numbers: RepairNumbers) {
        *held(&self.repair) = Some(numbers);
    }

    /// All of it, now.
    pub fn numbers(&self) -> Numbers {
        Numbers {
            scanned_files: self.scanned_files.load(Relaxed),
            scanned_bytes: self.scanned_bytes.load(Relaxed),
            scan_done: self.scan_done.load(Relaxed),
            read_files: self.read_files.load(Relaxed),
            read_bytes: self.read_bytes.load(Relaxed),
            new_files: self.new_files.load(Relaxed),
            new_bytes: self.new_bytes.load(Relaxed),
            packed_bytes: self.packed_bytes.load(Relaxed),
            total_files: self.total_files.load(Relaxed),
            total_bytes: self.total_bytes.load(Relaxed),
            done_files: self.done_files.load(Relaxed),
            done_bytes: self.done_bytes.load(Relaxed),
            sent_bytes: held(&self.sent).clone(),
            limited_by: held(&self.limited_by).clone(),
            repair: held(&self.repair).clone(),
        }
    }
}

/// The lock; what is behind it is whole after every statement, so a panic elsewhere is no matter.
fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

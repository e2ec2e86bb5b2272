//! The rest of the peers' shards on its way here, asked for once: what a rebuild reads next is
//! coming while it works on what it has.
//!
//! Each flow holds a slot of the server that it comes from. Rebuilds that wait for a slot and hold
//! others may wait for each other, so all flows of one end before it asks for anything else.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::client::ShardRange;
use crate::{Error, Result};

/// Flows of all rebuilds of a server at once: each takes up to 1.2 MiB, what came and waits, and what
/// blocks in use keep of it.
pub(in crate::storage) const FLOWS_MAX: usize = 12;

/// A server that has not begun by then has no slot to spare.
const BEGINS_WITHIN: Duration = Duration::from_secs(1);

/// The flows of one rebuild, by source; `None` once they are over.
pub(super) struct Flows(Mutex<Option<BTreeMap<usize, Flow>>>);

impl Default for Flows {
    fn default() -> Self {
        Self(Mutex::new(Some(BTreeMap::new())))
    }
}

impl Flows {
    pub(super) fn are_over(&self) -> bool {
        self.lock().is_none()
    }

    /// What comes of `source`, if it goes on from `at`.
    pub(super) fn take(&self, source: usize, at: u64) -> Option<Flow> {
        self.lock().as_mut()?.remove(&source).filter(|flow| flow.next == at)
    }

    /// Leaves what is still to come of `source` to the next read, unless all are over.
    pub(super) fn leave(&self, source: usize, flow: Flow) {
        if let Some(flows) = &mut *self.lock() {
            flows.insert(source, flow);
        }
    }

    /// Ends all that nobody reads just now, and these as soon as they were read.
    pub(super) fn end(&self) {
        *self.lock() = None;
    }

    fn lock(&self) -> MutexGuard<'_, Option<BTreeMap<usize, Flow>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is to come of a file.
pub(super) struct Flow {
    range: ShardRange,
    /// Where in the file it goes on.
    next: u64,
    _one_of_all: OwnedSemaphorePermit,
}

impl Flow {
    /// One that begins at `at`, as `range` opens it; `None` where it does not begin at once, for
    /// whatever reason: who asks again learns that.
    pub(super) async fn open(
        all: &Arc<Semaphore>,
        at: u64,
        range: impl Future<Output = Result<ShardRange>>,
    ) -> Option<Self> {
        let one_of_all = Arc::clone(all).try_acquire_owned().ok()?;
        let range = tokio::time::timeout(BEGINS_WITHIN, range).await.ok()?.ok()?;
        Some(Self { range, next: at, _one_of_all: one_of_all })
    }

    /// The next blocks, of these lengths; `None` where they do not come.
    ///
    /// # Errors
    ///
    /// Nothing moves.
    pub(super) async fn read(&mut self, lengths: &[usize]) -> Result<Option<Vec<Bytes>>> {
        match self.range.parts(lengths).await {
            Err(error @ Error::Unreachable { .. }) => Err(error),
            Err(_) => Ok(None),
            Ok(blocks) => {
                self.next += lengths.iter().sum::<usize>() as u64;
                Ok(Some(blocks))
            }
        }
    }
}

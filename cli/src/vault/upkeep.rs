//! What a local vault does for itself when a command has time: repair that is due, and what a
//! scrub of its disks has due.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use futures_util::future::join_all;
use server::client::CoordinatorClient;
use server::storage::ScrubRules;
use server::wire::{RepairStatus, ServerInfo, State};

use super::all_servers;
use super::local::Embedded;
use crate::exit::Failure;
use crate::ui::Counters;

/// A person waits for it: disks give what they can.
const BYTES_PER_SECOND: u64 = 1 << 30;
/// From one look at how far it is to the next.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// In the name of a server whose place another has taken.
const REPLACED: &str = ".replaced-";

/// What came of it.
#[derive(Debug, Clone, Default)]
pub struct Upkeep {
    /// Shards that were read and found bad since the command began.
    pub bad: u64,
    /// Shards that were made again.
    pub made: u64,
    /// Stripes that lack shards all the same.
    pub lacking: u64,
    /// What could not be done, and why.
    pub failed: Vec<String>,
}

impl Embedded {
    /// Repairs what is due, then reads what a pass over all shards in `scrub_every` has due, and
    /// repairs what is bad of it; for `time` at most.
    pub(super) async fn upkeep(
        &self,
        time: Duration,
        scrub_every: Duration,
        counters: &Counters,
    ) -> Upkeep {
        let mut upkeep = Upkeep::default();
        let work = self.keep_up(scrub_every, &mut upkeep);
        let watch = async {
            loop {
                let read = self.disks.iter().map(|(_, disk)| disk.scrubbed());
                let (shards, bytes) = read.fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1));
                counters.done_files.store(shards, Relaxed);
                counters.done_bytes.store(bytes, Relaxed);
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        let ended = tokio::time::timeout(time, async {
            tokio::select! {
                ended = work => ended,
                () = watch => Ok(()),
            }
        });
        if let Ok(Err(failure)) = ended.await {
            upkeep.failed.push(failure.what);
        }
        // Also where the time was over before it was done.
        upkeep.bad = self.found_bad();
        if let Err(failure) = self.count(&mut upkeep).await {
            upkeep.failed.push(failure.what);
        }
        upkeep
    }

    async fn keep_up(&self, scrub_every: Duration, upkeep: &mut Upkeep) -> Result<(), Failure> {
        self.coordinator.repair_due().await?;
        let rules = ScrubRules { every: scrub_every, bytes_per_second: BYTES_PER_SECOND };
        let scrubs = self.disks.iter().map(|(_, disk)| {
            let rules = &rules;
            async move { (&disk.name, disk.scrub_due(rules).await) }
        });
        for (name, scrubbed) in join_all(scrubs).await {
            if let Err(error) = scrubbed {
                upkeep.failed.push(format!("disk {name} was not scrubbed: {error}"));
            }
        }
        let client = self.client()?;
        if self.found_bad() > 0 {
            // The coordinator books what the disks found.
            client.reconcile().await?;
            self.coordinator.repair_due().await?;
        }
        forget_replaced(&client).await
    }

    async fn count(&self, upkeep: &mut Upkeep) -> Result<(), Failure> {
        let client = self.client()?;
        let RepairStatus { counts, made_shards, .. } = client.repair_status().await?;
        upkeep.made = made_shards;
        let servers = all_servers(&client).await?;
        let is_waited_for = |s: &ServerInfo| s.state.is_away() && s.state != State::Lost;
        // What only waits for a disk that is away is no news: the command has warned of that one.
        if upkeep.bad + upkeep.made > 0 || !servers.iter().any(is_waited_for) {
            upkeep.lacking = counts.failed + counts.unknown + counts.waiting;
        }
        Ok(())
    }

    /// Shards that were found bad so far. The coordinator has them made again at once.
    fn found_bad(&self) -> u64 {
        self.disks.iter().map(|(_, disk)| disk.found_bad()).sum()
    }
}

/// Forgets disks that others took the place of, once nothing is left that only they had.
pub async fn forget_replaced(client: &CoordinatorClient) -> Result<(), Failure> {
    for server in all_servers(client).await? {
        if server.state == State::Lost && server.name.contains(REPLACED) {
            match client.remove_server(server.server).await {
                // It is needed still.
                Err(error) if error.code() == Some(server::wire::Code::Conflict) => {}
                removed => removed?,
            }
        }
    }
    Ok(())
}

//! A push, from sources to a committed snapshot.
//!
//! `stages` joins them by bounded channels: `scan` (a thread: walk, compare, read, cut,
//! name) → `route` (`have?`, manifest pages) → `packer` (a thread: frames,
//! packs) → `send` (two stripes at a time: encode, place, PUT, commit) → the
//! snapshot record. A stage that fails ends the others by closing its channels.

mod limit;
mod packer;
mod parent;
mod read;
mod renewal;
mod route;
mod scan;
mod send;
mod shards;
mod stages;
mod standing;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use codec::manifest::PageRef;
use codec::snapshot::{Snapshot, Stats};
use codec::{Digest, Geometry, StripeId};
use server::client::StorageClient;
use server::wire::{BeginRequest, SnapshotRow};

use self::limit::Limit;
use self::read::now_ms;
use self::renewal::Renewal;
use self::send::Sender;
use self::stages::Push;
use self::standing::{Patience, Standing};
use crate::exit::{Exit, Failure};
use crate::fetch::Fetcher;
use crate::snapshots;
use crate::tree::{self, Excludes, Trust};
use crate::ui::{Counters, Ui};
use crate::vault::Vault;

/// Stripes on their way to the servers at once.
const STRIPES_IN_FLIGHT: usize = 2;
/// Bytes of a metadata pack.
const METADATA_PACK_BYTES: u64 = 16 * 1024 * 1024;
/// What a push needs beside its stripes: batches being read, compressors, connections, the program.
const WORKING_SET_BYTES: u64 = 112 * 1024 * 1024;
/// Sizes of data packs, the largest that fits the memory allowed is taken.
const PACK_BYTES: [u64; 7] = [64 << 20, 48 << 20, 32 << 20, 24 << 20, 16 << 20, 12 << 20, 8 << 20];

/// How long a push waits for its lease to be ended.
const END_PATIENCE: Duration = Duration::from_secs(5);

/// How late a server may be beside the others, several times in a row together, before a spare takes
/// its shard; never more than a third of the stall. Now and then a disk takes longer over a sync.
const SLOW_AFTER: Duration = Duration::from_secs(2);

/// What to push.
pub enum Source {
    /// Files and folders.
    Paths(Vec<PathBuf>),
    /// Standard input, as a file of this path.
    Stdin(Vec<u8>),
}

impl Source {
    /// What is said of it where the push waits for it.
    fn limit(&self) -> &'static str {
        match self {
            Self::Paths(_) => "source disk",
            Self::Stdin(_) => "source (standard input)",
        }
    }
}

/// How to push.
pub struct Options {
    /// What.
    pub source: Source,
    /// Names left out.
    pub excludes: Excludes,
    /// Tags of the snapshot.
    pub tags: Vec<String>,
    /// The machine's name in the snapshot.
    pub host: String,
    /// Compare only.
    pub dry_run: bool,
    /// The parent, instead of the newest snapshot of the same sources.
    pub parent: Option<StripeId>,
    /// Read everything.
    pub force: bool,
    /// What counts as unchanged.
    pub trust: Trust,
    /// The fewest shards of a stripe to be content with.
    pub min_shards: Option<u8>,
    /// How long to wait for servers that are away.
    pub wait_servers: Duration,
    /// A server to which nothing moves for this long has failed the shard.
    pub stall: Duration,
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// Bytes of a data pack, instead of what fits the memory.
    pub pack_bytes: Option<u64>,
}

/// What a push did.
pub struct Outcome {
    /// The snapshot; none after a dry run.
    pub snapshot: Option<SnapshotRow>,
    /// What was counted.
    pub stats: Stats,
    /// Stripes sent, the record's among them.
    pub stripes: u64,
    /// Stripes of the vault with fewer shards than their code has.
    pub stripes_below_target: u64,
    /// How long it took.
    pub took: Duration,
    /// The parent that was compared with.
    pub parent: Option<StripeId>,
}

/// The largest size of data packs at which two stripes on their way, one being filled and
/// the metadata pack fit `memory_bytes`.
pub fn pack_bytes(geometry: Geometry, memory_bytes: u64) -> u64 {
    let coded = |pack_bytes: u64| geometry.shard_bytes(pack_bytes) * geometry.shards() as u64;
    let fits = |&pack_bytes: &u64| {
        let buffers =
            (STRIPES_IN_FLIGHT as u64 + 1) * coded(pack_bytes) + coded(METADATA_PACK_BYTES);
        buffers + WORKING_SET_BYTES <= memory_bytes
    };
    PACK_BYTES.into_iter().find(fits).unwrap_or(PACK_BYTES[PACK_BYTES.len() - 1])
}

/// Pushes `options.source` into `vault`. The lease ends with the push, however that ends.
pub async fn push(
    vault: &Vault,
    options: Options,
    counters: Arc<Counters>,
    ui: &Ui,
) -> Result<Outcome, Failure> {
    let coordinator =
        vault.coordinator.with_patience(options.wait_servers.max(Duration::from_secs(5)));
    let sources = match &options.source {
        Source::Paths(paths) => tree::sources(paths)
            .map_err(|e| Failure::new(Exit::Usage, "cannot use the sources").why(e.to_string()))?,
        Source::Stdin(path) => vec![path.clone()],
    };
    let storage = StorageClient::new(options.stall, coordinator.trust());
    let source_set = vault.keys.source_set(&options.host, &sources);
    let lease = coordinator.begin(&BeginRequest { source_set, parent: options.parent }).await?;
    let renewing = Renewal::start(coordinator.clone(), &lease);
    let sender = Sender {
        vault: vault.record.vault,
        geometry: vault.record.geometry,
        lease: lease.lease,
        coordinator,
        storage,
        min_shards: options.min_shards,
        patience: Patience::new(options.wait_servers),
        standing: Standing::new(SLOW_AFTER.min(options.stall / 3)),
        limit: Arc::new(Limit::new(Arc::clone(&counters), options.source.limit())),
        counters: Arc::clone(&counters),
        ui: ui.clone(),
    };
    let push =
        Push { vault, options: &options, sender: Arc::new(sender), counters, ui, lease: &lease };
    let mut pushed = push.take_snapshot(sources, source_set).await;
    drop(renewing);
    let coordinator = vault.coordinator.with_patience(Duration::ZERO);
    let ended = tokio::time::timeout(END_PATIENCE, coordinator.end(lease.lease)).await;
    match (ended, &mut pushed) {
        // What was vouched for may have lost shards since the begin.
        (Ok(Ok(ended)), Ok(outcome)) if !options.dry_run => {
            outcome.stripes_below_target = ended.stripes_below_target;
        }
        // What is stored stands by itself: a lease that cannot be ended runs out.
        (Ok(Err(error)), _) => tracing::debug!(%error, "could not end the lease"),
        (Err(_), _) => tracing::debug!("could not end the lease in time"),
        _ => {}
    }
    pushed.map_err(|failure| match failure.state.is_empty() {
        true => failure.state("what is stored already is used by the next push"),
        false => failure,
    })
}

impl Push<'_> {
    async fn take_snapshot(
        &self,
        sources: Vec<Vec<u8>>,
        source_set: Digest,
    ) -> Result<Outcome, Failure> {
        let Self { vault, options, sender, lease, ui, .. } = self;
        let (began, began_ms) = (Instant::now(), now_ms());
        let fetcher = Arc::new(Fetcher::new(vault, Arc::default())?);
        let parent = if options.force { None } else { lease.parent.clone() };
        let manifest = parent_manifest(&fetcher, parent.as_ref(), ui).await;
        let parent = parent.map(|p| p.id);
        let lost = self.lost_chunks().await?;
        if options.dry_run {
            return Ok(Outcome {
                snapshot: None,
                stats: self.compare(&fetcher, manifest, lost, &sources).await?,
                stripes: 0,
                stripes_below_target: 0,
                took: began.elapsed(),
                parent,
            });
        }
        let (mut stats, root, totals) = self.run(&fetcher, manifest, lost, &sources).await?;
        stats.bytes_stored = totals.pack_bytes;
        stats.bytes_on_servers = totals.server_bytes;
        let record = Snapshot {
            manifest: root,
            host: options.host.clone(),
            user: std::env::var("USER").unwrap_or_default(),
            sources: sources.into_iter().map(Into::into).collect(),
            tags: options.tags.clone(),
            began_ms,
            ended_ms: now_ms(),
            parent,
            stats,
            program: concat!("arc ", env!("CARGO_PKG_VERSION")).to_owned(),
        };
        let (snapshot, sent) =
            sender.send_snapshot(&record.encode()?, &vault.keys, source_set).await?;
        let short = totals.below_target + u64::from(sent.committed.holders < sent.committed.target);
        Ok(Outcome {
            snapshot: Some(snapshot),
            stats,
            stripes: totals.stripes + 1,
            stripes_below_target: lease.stripes_below_target + short,
            took: began.elapsed(),
            parent,
        })
    }
}

/// The parent's manifest, or none when it cannot be had: then everything is read.
async fn parent_manifest(
    fetcher: &Fetcher,
    parent: Option<&SnapshotRow>,
    ui: &Ui,
) -> Option<PageRef> {
    match snapshots::record(fetcher, parent?).await {
        Ok(record) => Some(record.manifest),
        Err(error) => {
            ui.warn(
                &format!("the parent snapshot cannot be read, so everything is read anew: {error}"),
                None,
            );
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packs_are_as_large_as_the_memory_allows() {
        let code = Geometry::new(4, 2).unwrap();
        assert_eq!(pack_bytes(code, 256 << 20), 24 << 20);
        assert_eq!(pack_bytes(code, 512 << 20), 64 << 20);
        assert_eq!(pack_bytes(code, 1 << 20), 8 << 20);
        assert_eq!(pack_bytes(Geometry::new(2, 2).unwrap(), 256 << 20), 16 << 20);
    }
}

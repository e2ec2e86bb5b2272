//! A push, from sources to a committed snapshot.
//!
//! Stages joined by bounded channels: `scan` (a thread: walk, compare, read, cut,
//! name) → routing (here: `have?`, manifest pages) → `packer` (a thread: frames,
//! packs) → `send` (two stripes at a time: encode, place, PUT, commit) → the
//! snapshot record. A stage that fails ends the others by closing its channels.

mod packer;
mod renewal;
mod route;
mod scan;
mod send;
mod shards;
mod standing;

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use codec::chunker::Chunker;
use codec::manifest::PageRef;
use codec::seal::FrameKind;
use codec::shard::Kind;
use codec::snapshot::{Snapshot, Stats};
use codec::{ChunkId, Geometry, StripeId};
use server::client::StorageClient;
use server::wire::{BeginRequest, Lease, PageQuery, SnapshotRow};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

use self::packer::{Buffers, FinishedPack, Packer};
use self::renewal::Renewal;
use self::route::{Pending, Router, ToPacker};
use self::scan::{Batch, Parent, Scan};
use self::send::{Sender, Sent};
use self::standing::{Patience, Standing};
use crate::exit::{Exit, Failure};
use crate::fetch::{Entries, Fetcher};
use crate::snapshots;
use crate::tree::{self, Excludes, Trust, Walk};
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

/// What to push.
pub enum Source {
    /// Files and folders.
    Paths(Vec<PathBuf>),
    /// Standard input, as a file of this path.
    Stdin(Vec<u8>),
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

/// Pushes `options.source` into `vault`.
pub async fn push(
    vault: &Vault,
    options: Options,
    counters: Arc<Counters>,
    ui: &Ui,
) -> Result<Outcome, Failure> {
    let began = Instant::now();
    let began_ms = now_ms();
    let coordinator =
        vault.coordinator.with_patience(options.wait_servers.max(Duration::from_secs(5)));
    let sources = match &options.source {
        Source::Paths(paths) => tree::sources(paths)
            .map_err(|e| Failure::new(Exit::Usage, "cannot use the sources").why(e.to_string()))?,
        Source::Stdin(path) => vec![path.clone()],
    };
    let source_set = vault.keys.source_set(&options.host, &sources);
    let lease = coordinator.begin(&BeginRequest { source_set, parent: options.parent }).await?;
    let renewing = Renewal::start(coordinator.clone(), lease.clone());
    let fetcher = Arc::new(Fetcher::new(vault, Arc::default())?);
    let parent = if options.force { None } else { lease.parent.clone() };
    let manifest = parent_manifest(&fetcher, parent.as_ref(), ui).await;

    let sender = Sender {
        vault: vault.record.vault,
        geometry: vault.record.geometry,
        lease: lease.lease,
        coordinator: coordinator.clone(),
        storage: StorageClient::new(options.stall)?,
        min_shards: options.min_shards,
        patience: Patience::new(options.wait_servers),
        standing: Standing::default(),
        counters: Arc::clone(&counters),
        ui: ui.clone(),
    };
    let push =
        Push { vault, options: &options, sender: Arc::new(sender), counters, ui, lease: &lease };
    let lost = push.lost_chunks().await?;
    if options.dry_run {
        let stats = push.compare(&fetcher, manifest, lost, &sources).await?;
        coordinator.end(lease.lease).await?;
        let parent = parent.map(|p| p.id);
        return Ok(Outcome {
            snapshot: None,
            stats,
            stripes: 0,
            stripes_below_target: 0,
            took: began.elapsed(),
            parent,
        });
    }
    let (mut stats, root, totals) = push.run(&fetcher, manifest, lost, &sources).await?;

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
        parent: parent.as_ref().map(|p| p.id),
        stats,
        program: concat!("arc ", env!("CARGO_PKG_VERSION")).to_owned(),
    };
    let (snapshot, sent) =
        push.sender.send_snapshot(&record.encode()?, &vault.keys, source_set).await?;
    drop(renewing);
    // The snapshot is committed: a lease that cannot be ended ends by itself.
    if let Err(error) = coordinator.end(lease.lease).await {
        tracing::debug!(%error, "could not end the lease");
    }
    let short = totals.below_target + u64::from(sent.committed.holders < sent.committed.target);
    Ok(Outcome {
        snapshot: Some(snapshot),
        stats,
        stripes: totals.stripes + 1,
        stripes_below_target: lease.stripes_below_target + short,
        took: began.elapsed(),
        parent: parent.map(|p| p.id),
    })
}

/// What was sent, all stripes together.
#[derive(Debug, Clone, Copy, Default)]
struct Totals {
    stripes: u64,
    below_target: u64,
    pack_bytes: u64,
    server_bytes: u64,
}

impl Totals {
    fn add(&mut self, sent: &Sent) {
        self.stripes += 1;
        self.below_target += u64::from(sent.committed.holders < sent.committed.target);
        self.pack_bytes += sent.pack_bytes;
        self.server_bytes += sent.server_bytes;
    }
}

/// One push under way.
struct Push<'a> {
    vault: &'a Vault,
    options: &'a Options,
    sender: Arc<Sender>,
    counters: Arc<Counters>,
    ui: &'a Ui,
    lease: &'a Lease,
}

impl Push<'_> {
    /// Chunks of the parent that no stripe gives back any more.
    async fn lost_chunks(&self) -> Result<HashSet<ChunkId>, Failure> {
        let mut lost = HashSet::new();
        if self.lease.lost_chunks == 0 {
            return Ok(lost);
        }
        let mut query = PageQuery::default();
        loop {
            let page = self.sender.coordinator.lost_chunks(&query).await?;
            lost.extend(page.rows);
            query.after = page.next;
            if query.after.is_none() {
                return Ok(lost);
            }
        }
    }

    /// Runs all stages to their end.
    async fn run(
        &self,
        fetcher: &Arc<Fetcher>,
        manifest: Option<PageRef>,
        lost: HashSet<ChunkId>,
        sources: &[Vec<u8>],
    ) -> Result<(Stats, PageRef, Totals), Failure> {
        let pending = Pending::default();
        let (to_router, batches) = mpsc::channel(1);
        let (to_packer, chunks) = mpsc::channel(1);
        let (to_sender, packs) = mpsc::channel(1);
        let mut tasks = JoinSet::new();
        let parent = Parent::new(
            manifest.map(|root| Entries::new(Arc::clone(fetcher), root).pages(&mut tasks)),
        );
        let scanning = self.scan(parent, lost, sources, to_router);
        let router = Router {
            keys: self.vault.keys.clone(),
            lease: self.lease.lease,
            coordinator: self.sender.coordinator.clone(),
            pending: Arc::clone(&pending),
            counters: Arc::clone(&self.counters),
            out: to_packer,
        };
        let packing = self.pack(chunks, to_sender);
        let (stats, (root, bytes_new), (), totals) =
            tokio::try_join!(scanning, router.run(batches), packing, self.send(packs, pending))?;
        Ok((Stats { bytes_new: stats.bytes_new + bytes_new, ..stats }, root, totals))
    }

    /// A dry run: the scan alone, which then reads no file.
    async fn compare(
        &self,
        fetcher: &Arc<Fetcher>,
        manifest: Option<PageRef>,
        lost: HashSet<ChunkId>,
        sources: &[Vec<u8>],
    ) -> Result<Stats, Failure> {
        let mut tasks = JoinSet::new();
        let parent = Parent::new(
            manifest.map(|root| Entries::new(Arc::clone(fetcher), root).pages(&mut tasks)),
        );
        let (nowhere, _batches) = mpsc::channel(1);
        self.scan(parent, lost, sources, nowhere).await
    }

    fn scan(
        &self,
        parent: Parent,
        lost: HashSet<ChunkId>,
        sources: &[Vec<u8>],
        out: mpsc::Sender<Batch>,
    ) -> impl Future<Output = Result<Stats, Failure>> + use<> {
        let scan = Scan {
            keys: self.vault.keys.clone(),
            chunker: Chunker::new(self.vault.keys.chunker_seed()),
            trust: self.options.trust,
            parent,
            lost,
            dry_run: self.options.dry_run,
            counts: !self.ui.shows_progress(),
            counters: Arc::clone(&self.counters),
            ui: self.ui.clone(),
            out,
            stats: Stats::default(),
        };
        let thread = match &self.options.source {
            Source::Paths(_) => {
                let walk = Walk::new(sources.to_vec(), self.options.excludes.clone());
                if !scan.counts {
                    let ahead = Walk::new(sources.to_vec(), self.options.excludes.clone());
                    let counters = Arc::clone(&self.counters);
                    // It ends by itself, long before the scan.
                    drop(tokio::task::spawn_blocking(move || scan::count_ahead(ahead, &counters)));
                }
                tokio::task::spawn_blocking(move || Ok(scan.run(walk)))
            }
            Source::Stdin(path) => {
                let path = path.clone();
                tokio::task::spawn_blocking(move || scan.run_stream(path, std::io::stdin().lock()))
            }
        };
        joined(thread)
    }

    fn pack(
        &self,
        mut chunks: mpsc::Receiver<ToPacker>,
        out: mpsc::Sender<(Kind, FinishedPack)>,
    ) -> impl Future<Output = Result<(), Failure>> + use<> {
        let (vault, keys, geometry) =
            (self.vault.record.vault, self.vault.keys.clone(), self.vault.record.geometry);
        let data_bytes = self
            .options
            .pack_bytes
            .unwrap_or_else(|| pack_bytes(geometry, self.options.memory_bytes));
        let metadata_bytes = METADATA_PACK_BYTES.min(data_bytes);
        let packer = move |kind, bytes: u64, buffers| {
            let coded = geometry.shard_bytes(bytes) as usize * geometry.shards();
            Packer::new(vault, keys.clone(), kind, bytes, Buffers::new(buffers, coded))
        };
        let counters = Arc::clone(&self.counters);
        joined(tokio::task::spawn_blocking(move || {
            let mut data = packer(FrameKind::Data, data_bytes, STRIPES_IN_FLIGHT + 1);
            let mut metadata = packer(FrameKind::Metadata, metadata_bytes, 1);
            let closed = || Failure::new(Exit::Failed, "the push was stopped");
            let mut deliver_data =
                |pack| out.blocking_send((Kind::Data, pack)).map_err(|_| closed());
            let mut deliver_metadata =
                |pack| out.blocking_send((Kind::Metadata, pack)).map_err(|_| closed());
            let mut source = Duration::ZERO;
            let mut work = Duration::ZERO;
            loop {
                let began = Instant::now();
                let Some((kind, chunks)) = chunks.blocking_recv() else { break };
                source += began.elapsed();
                match kind {
                    FrameKind::Data => data.add(chunks, &mut deliver_data)?,
                    _ => metadata.add(chunks, &mut deliver_metadata)?,
                }
                work += began.elapsed();
                let servers = data.waited() + metadata.waited();
                counters.limited_by(limit(source, servers, work.saturating_sub(source + servers)));
            }
            data.absorb(&mut metadata, &mut deliver_data)?;
            data.finish(&mut deliver_data)?;
            metadata.finish(&mut deliver_metadata)
        }))
    }

    /// Sends packs as they come; ends when all are committed.
    async fn send(
        &self,
        mut packs: mpsc::Receiver<(Kind, FinishedPack)>,
        pending: Pending,
    ) -> Result<Totals, Failure> {
        let slots = Arc::new(Semaphore::new(STRIPES_IN_FLIGHT));
        let mut under_way: JoinSet<Result<Sent, Failure>> = JoinSet::new();
        let mut totals = Totals::default();
        loop {
            // A stripe that failed ends the push even when no pack comes for a long time.
            let (kind, pack) = tokio::select! {
                Some(sent) = under_way.join_next(), if !under_way.is_empty() => {
                    totals.add(&flat(sent)?);
                    continue;
                }
                pack = packs.recv() => match pack {
                    Some(pack) => pack,
                    None => break,
                },
            };
            let slot = Arc::clone(&slots).acquire_owned().await;
            let (sender, pending) = (Arc::clone(&self.sender), Arc::clone(&pending));
            under_way.spawn(async move {
                let _slot = slot;
                let ids: Vec<ChunkId> = pack.pack.chunks.iter().map(|(id, _)| *id).collect();
                let sent = sender.send_pack(pack, kind).await?;
                route::committed(&pending, &ids);
                Ok(sent)
            });
        }
        while let Some(sent) = under_way.join_next().await {
            totals.add(&flat(sent)?);
        }
        Ok(totals)
    }
}

/// Where the packing stage, which stands in the middle, spends most of its time.
fn limit(source: Duration, servers: Duration, work: Duration) -> &'static str {
    match source.max(servers).max(work) {
        longest if longest == servers => "servers and the network to them",
        longest if longest == work => "processor (compression)",
        _ => "source disk",
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

async fn joined<T>(thread: tokio::task::JoinHandle<Result<T, Failure>>) -> Result<T, Failure> {
    flat(thread.await)
}

fn flat<T>(joined: Result<Result<T, Failure>, tokio::task::JoinError>) -> Result<T, Failure> {
    match joined {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(error) => {
                Err(Failure::new(Exit::Failed, "the push was stopped").why(error.to_string()))
            }
        },
    }
}

fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as i64
}

/// Guards what several stages share; see [`route::Pending`].
type Shared<T> = Arc<Mutex<T>>;

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

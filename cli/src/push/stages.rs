//! The stages of one push, run side by side and joined by bounded channels.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use codec::ChunkId;
use codec::chunker::Chunker;
use codec::manifest::PageRef;
use codec::seal::FrameKind;
use codec::shard::Kind;
use codec::snapshot::Stats;
use server::wire::{Lease, PageQuery};
use tokio::sync::mpsc::error::TryRecvError;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

use super::packer::{Buffers, FinishedPack, Packer};
use super::parent::Parent;
use super::route::{self, Pending, Router, ToPacker};
use super::scan::{self, Batch, Scan};
use super::send::{Sender, Sent};
use super::{METADATA_PACK_BYTES, Options, STRIPES_IN_FLIGHT, Source, pack_bytes};
use crate::exit::{Exit, Failure};
use crate::fetch::{Entries, Fetcher};
use crate::tree::{FileId, Walk};
use crate::ui::{Counters, Ui};
use crate::vault::Vault;

/// What was sent, all stripes together.
#[derive(Debug, Clone, Copy, Default)]
pub struct Totals {
    /// Stripes.
    pub stripes: u64,
    /// Those with fewer shards than their code has.
    pub below_target: u64,
    /// Bytes of packs.
    pub pack_bytes: u64,
    /// Bytes of shard files on servers.
    pub server_bytes: u64,
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
pub struct Push<'a> {
    /// The vault.
    pub vault: &'a Vault,
    /// How to push.
    pub options: &'a Options,
    /// The last stage.
    pub sender: Arc<Sender>,
    /// For the display.
    pub counters: Arc<Counters>,
    /// For warnings.
    pub ui: &'a Ui,
    /// What it holds while it runs.
    pub lease: &'a Lease,
}

impl Push<'_> {
    /// Chunks of the parent that no stripe gives back any more.
    pub async fn lost_chunks(&self) -> Result<HashSet<ChunkId>, Failure> {
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
    pub async fn run(
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
        let scanning = self.scan(parent, fetcher, lost, sources, to_router);
        let router = Router {
            keys: self.vault.keys.clone(),
            lease: self.lease.lease,
            coordinator: self.sender.coordinator.clone(),
            pending: Arc::clone(&pending),
            counters: Arc::clone(&self.counters),
            limit: Arc::clone(&self.sender.limit),
            out: to_packer,
        };
        let packing = self.pack(chunks, to_sender);
        let (stats, (root, bytes_new), (), totals) =
            tokio::try_join!(scanning, router.run(batches), packing, self.send(packs, pending))?;
        Ok((Stats { bytes_new: stats.bytes_new + bytes_new, ..stats }, root, totals))
    }

    /// A dry run: the scan alone, which then reads no file.
    pub async fn compare(
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
        self.scan(parent, fetcher, lost, sources, nowhere).await
    }

    fn scan(
        &self,
        parent: Parent,
        fetcher: &Arc<Fetcher>,
        lost: HashSet<ChunkId>,
        sources: &[Vec<u8>],
        out: mpsc::Sender<Batch>,
    ) -> impl Future<Output = Result<Stats, Failure>> + use<> {
        let scan = Scan {
            keys: self.vault.keys.clone(),
            chunker: Chunker::new(self.vault.keys.chunker_seed()),
            trust: self.options.trust,
            parent,
            fetcher: Arc::clone(fetcher),
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
                let vault = folder_ids(&self.vault.folders());
                let walk =
                    || Walk::new(sources.to_vec(), self.options.excludes.clone(), vault.clone());
                if !scan.counts {
                    let ahead = walk();
                    let counters = Arc::clone(&self.counters);
                    // It ends by itself, long before the scan.
                    drop(tokio::task::spawn_blocking(move || scan::count_ahead(ahead, &counters)));
                }
                let walk = walk();
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
        let limit = Arc::clone(&self.sender.limit);
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
                // Nothing more may come for a long time: what is compressed is sent meanwhile.
                let next = match chunks.try_recv() {
                    Err(TryRecvError::Empty)
                        if data.append_oldest(&mut deliver_data)?
                            || metadata.append_oldest(&mut deliver_metadata)? =>
                    {
                        work += began.elapsed();
                        continue;
                    }
                    Err(TryRecvError::Empty) => chunks.blocking_recv(),
                    next => next.ok(),
                };
                let Some((kind, chunks)) = next else { break };
                source += began.elapsed();
                match kind {
                    FrameKind::Data => data.add(chunks, &mut deliver_data)?,
                    _ => metadata.add(chunks, &mut deliver_metadata)?,
                }
                work += began.elapsed();
                let stored = data.waited() + metadata.waited();
                limit.packing(source, stored, work.saturating_sub(source + stored));
            }
            limit.read();
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

/// Of those that are there.
fn folder_ids(folders: &[PathBuf]) -> Vec<FileId> {
    let id = |folder: &PathBuf| fs::metadata(folder).ok().map(|m| (m.dev(), m.ino()));
    folders.iter().filter_map(id).collect()
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

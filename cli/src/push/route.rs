//! Asks which chunks are new, sends these on to be packed, and builds the manifest.

use std::collections::HashSet;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use codec::ChunkId;
use codec::keys::VaultKeys;
use codec::manifest::{ManifestBuilder, PageRef};
use codec::seal::FrameKind;
use server::client::CoordinatorClient;
use server::wire::{CHUNKS_PER_REQUEST_MAX, LeaseId};
use tokio::sync::mpsc;

use super::limit::Limit;
use super::packer::Chunk;
use super::read::page_sink;
use super::scan::Batch;
use crate::exit::{Exit, Failure};
use crate::ui::Counters;

/// Manifest pages are asked for in groups of about this many bytes.
const PAGES_BYTES: usize = 4 * 1024 * 1024;

/// Chunks on their way: in no committed stripe yet.
pub type Pending = Arc<Mutex<HashSet<ChunkId>>>;
/// New chunks for the packer.
pub type ToPacker = (FrameKind, Vec<Chunk>);

/// Forgets chunks whose stripe is committed: `have?` knows them now.
pub fn committed(pending: &Pending, ids: &[ChunkId]) {
    let mut pending = lock(pending);
    for id in ids {
        pending.remove(id);
    }
}

fn lock(pending: &Pending) -> MutexGuard<'_, HashSet<ChunkId>> {
    // A set of ids is whole after every operation.
    pending.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The stage between reading and packing.
pub struct Router {
    /// The vault's keys.
    pub keys: VaultKeys,
    /// The push's lease.
    pub lease: LeaseId,
    /// The coordinator.
    pub coordinator: CoordinatorClient,
    /// Chunks on their way.
    pub pending: Pending,
    /// For the display.
    pub counters: Arc<Counters>,
    /// What the push waits for.
    pub limit: Arc<Limit>,
    /// Where new chunks go.
    pub out: mpsc::Sender<ToPacker>,
}

impl Router {
    /// Routes all batches; the manifest's root, and the bytes that were new.
    pub async fn run(self, mut batches: mpsc::Receiver<Batch>) -> Result<(PageRef, u64), Failure> {
        let mut manifest = ManifestBuilder::new();
        let mut pages: Vec<Chunk> = Vec::new();
        let mut bytes_new = 0;
        while let Some(batch) = batches.recv().await {
            bytes_new += self.offer(FrameKind::Data, batch.chunks).await?;
            pages.extend(batch.pages);
            for entry in &batch.entries {
                manifest.push::<codec::Error>(entry, &mut page_sink(&self.keys, &mut pages))?;
            }
            if pages.iter().map(|page| page.bytes.len()).sum::<usize>() >= PAGES_BYTES {
                self.offer(FrameKind::Metadata, std::mem::take(&mut pages)).await?;
            }
        }
        let root = manifest.finish::<codec::Error>(&mut page_sink(&self.keys, &mut pages))?;
        self.offer(FrameKind::Metadata, pages).await?;
        Ok((root, bytes_new))
    }

    /// Sends on those of `chunks` that neither the vault has nor this push has sent before.
    async fn offer(&self, kind: FrameKind, mut chunks: Vec<Chunk>) -> Result<u64, Failure> {
        {
            let pending = lock(&self.pending);
            let mut seen = HashSet::with_capacity(chunks.len());
            chunks.retain(|chunk| !pending.contains(&chunk.id) && seen.insert(chunk.id));
        }
        let mut new = Vec::with_capacity(chunks.len());
        while !chunks.is_empty() {
            let rest = chunks.split_off(chunks.len().min(CHUNKS_PER_REQUEST_MAX));
            let ids = chunks.iter().map(|chunk| chunk.id).collect();
            let began = Instant::now();
            let have = self.coordinator.have(self.lease, ids).await?;
            self.limit.looked_up(began.elapsed());
            new.extend(
                chunks.into_iter().zip(have).filter_map(|(chunk, have)| (!have).then_some(chunk)),
            );
            chunks = rest;
        }
        if new.is_empty() {
            return Ok(0);
        }
        let bytes: u64 = new.iter().map(|chunk| chunk.bytes.len() as u64).sum();
        if kind == FrameKind::Data {
            self.counters.new_bytes.fetch_add(bytes, Relaxed);
        }
        lock(&self.pending).extend(new.iter().map(|chunk| chunk.id));
        let stopped = |_| Failure::new(Exit::Failed, "the push was stopped");
        self.out.send((kind, new)).await.map_err(stopped)?;
        Ok(bytes)
    }
}

//! What is in stripes that a rebuild found by their shards: the coordinator is told, in batches.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use codec::StripeId;
use codec::pack::Directory;
use codec::shard::Kind;
use futures_util::StreamExt as _;
use server::client::CoordinatorClient;
use server::wire::{INDEX_STRIPES_MAX, Ids, PageQuery, StripeIndex, StripeMap};

use super::DIRECTORIES_IN_FLIGHT;
use crate::exit::Failure;
use crate::fetch::{FetchError, Fetcher};
use crate::ui::Counters;

/// Chunks in one request: with every field, some 4 MiB.
const CHUNKS_AT_ONCE: usize = 64 * 1024;

/// Reads the directory of every stripe that the coordinator knows by its shards alone, and tells it
/// what is in there. Gives the stripes that cannot be read, and why.
pub async fn index_adopted(
    fetcher: &Fetcher,
    coordinator: &CoordinatorClient,
    counters: &Counters,
) -> Result<BTreeMap<StripeId, FetchError>, Failure> {
    let mut unread = BTreeMap::new();
    let mut query = PageQuery::default();
    loop {
        let page = coordinator.unindexed(&query).await?;
        counters.total_files.fetch_add(page.rows.len() as u64, Relaxed);
        let read = |map: StripeMap| async move {
            let map = Arc::new(map);
            let directory = fetcher.directory(&map).await;
            (directory.and_then(|directory| acceptable(&map, directory)), map.stripe)
        };
        let directories = futures_util::stream::iter(page.rows).map(read);
        let mut directories = std::pin::pin!(directories.buffer_unordered(DIRECTORIES_IN_FLIGHT));
        let (mut batch, mut chunks) = (Vec::new(), 0);
        while let Some((directory, stripe)) = directories.next().await {
            counters.done_files.fetch_add(1, Relaxed);
            match directory {
                Ok(directory) => {
                    let index = index_of(stripe, directory);
                    if chunks + index.chunks.0.len() > CHUNKS_AT_ONCE && !batch.is_empty() {
                        coordinator.index(std::mem::take(&mut batch)).await?;
                        chunks = 0;
                    }
                    chunks += index.chunks.0.len();
                    batch.push(index);
                    if batch.len() == INDEX_STRIPES_MAX {
                        coordinator.index(std::mem::take(&mut batch)).await?;
                        chunks = 0;
                    }
                }
                // What cannot be had now is told as such; the others count all the same.
                Err(error @ FetchError::Coordinator(_)) => return Err(error.into()),
                Err(error) => drop(unread.insert(stripe, error)),
            }
        }
        if !batch.is_empty() {
            coordinator.index(batch).await?;
        }
        query.after = page.next;
        if query.after.is_none() {
            return Ok(unread);
        }
    }
}

/// Anybody can make a record: no chunk is in one.
fn acceptable(map: &StripeMap, directory: Directory) -> Result<Directory, FetchError> {
    if map.kind == Kind::Record && !directory.chunks.is_empty() {
        let count = directory.chunks.len();
        let why = format!("stripe {:.8}: a record that says it has {count} chunks", map.stripe);
        return Err(FetchError::Lost(why));
    }
    Ok(directory)
}

fn index_of(stripe: StripeId, directory: Directory) -> StripeIndex {
    let (chunks, chunk_frames) =
        directory.chunks.into_iter().map(|row| (row.chunk, row.frame)).unzip();
    let frames = directory.frames.into_iter().map(|(kind, end)| (kind as u8, end)).collect();
    StripeIndex { stripe, frames, chunks: Ids(chunks), chunk_frames }
}

//! Walks a snapshot's manifest: which stripes it needs, and which of its files some
//! chunk is missing for.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use codec::manifest::{Content, Entry, Node, PageRef};
use codec::{ChunkId, StripeId};
use server::wire::{SnapshotRow, StripeMap};

use crate::fetch::{ChunkList, Entries, Fetcher, Result};
use crate::snapshots;

/// Chunks that are looked up together.
const GROUP_CHUNKS: usize = 4096;

/// What a snapshot needs.
pub(super) struct Walked {
    /// Its stripes.
    pub(super) stripes: BTreeMap<StripeId, Arc<StripeMap>>,
    /// Files with a chunk that no stripe has.
    pub(super) lost_files: BTreeSet<Vec<u8>>,
}

/// All stripes of a snapshot.
pub(super) async fn walk(fetcher: &Arc<Fetcher>, row: &SnapshotRow) -> Result<Walked> {
    let none_lost = BTreeSet::new();
    let mut lookup = Lookup::new(fetcher, &none_lost);
    lookup.stripes.insert(row.stripe.stripe, Arc::new(row.stripe.clone()));
    lookup.snapshot(row).await?;
    Ok(Walked { stripes: lookup.stripes, lost_files: lookup.lost_files })
}

/// The files of a snapshot with a chunk that is in no stripe but `lost` ones.
pub(super) async fn lost_files(
    fetcher: &Arc<Fetcher>,
    row: &SnapshotRow,
    lost: &BTreeSet<StripeId>,
) -> Result<BTreeSet<Vec<u8>>> {
    let mut lookup = Lookup::new(fetcher, lost);
    lookup.snapshot(row).await?;
    Ok(lookup.lost_files)
}

struct Lookup<'a> {
    fetcher: &'a Arc<Fetcher>,
    lost: &'a BTreeSet<StripeId>,
    waiting: Vec<(ChunkId, Option<Arc<Vec<u8>>>)>,
    stripes: BTreeMap<StripeId, Arc<StripeMap>>,
    lost_files: BTreeSet<Vec<u8>>,
}

impl<'a> Lookup<'a> {
    fn new(fetcher: &'a Arc<Fetcher>, lost: &'a BTreeSet<StripeId>) -> Self {
        Self {
            fetcher,
            lost,
            waiting: Vec::new(),
            stripes: BTreeMap::new(),
            lost_files: BTreeSet::new(),
        }
    }

    async fn snapshot(&mut self, row: &SnapshotRow) -> Result<()> {
        let record = snapshots::record(self.fetcher, row).await?;
        let mut entries = Entries::new(Arc::clone(self.fetcher), record.manifest);
        while let Some(entry) = entries.next().await? {
            let pages = entries.take_read_pages();
            self.waiting.extend(pages.into_iter().map(|id| (id, None)));
            self.entry(entry).await?;
        }
        self.waiting.extend(entries.take_read_pages().into_iter().map(|id| (id, None)));
        self.flush().await
    }

    async fn entry(&mut self, entry: Entry) -> Result<()> {
        let Node::File { content, .. } = entry.node else { return Ok(()) };
        let path = Arc::new(entry.path);
        match content {
            Content::Chunks(chunks) => {
                self.waiting.extend(chunks.iter().map(|chunk| (chunk.id, Some(Arc::clone(&path)))));
            }
            Content::List(list) => self.list(list, &path).await?,
        }
        if self.waiting.len() >= GROUP_CHUNKS { self.flush().await } else { Ok(()) }
    }

    async fn list(&mut self, list: PageRef, path: &Arc<Vec<u8>>) -> Result<()> {
        let mut chunks = ChunkList::new(Arc::clone(self.fetcher), list);
        while let Some(chunk) = chunks.next().await? {
            let pages = chunks.take_read_pages();
            self.waiting.extend(pages.into_iter().map(|id| (id, Some(Arc::clone(path)))));
            self.waiting.push((chunk.id, Some(Arc::clone(path))));
            if self.waiting.len() >= GROUP_CHUNKS {
                self.flush().await?;
            }
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result<()> {
        let waiting = std::mem::take(&mut self.waiting);
        let ids: Vec<ChunkId> = waiting.iter().map(|(id, _)| *id).collect();
        let places = self.fetcher.locate(&ids).await?;
        for (id, path) in waiting {
            let rows = places.get(&id).map_or(&[][..], Vec::as_slice);
            for (map, _) in rows {
                self.stripes.entry(map.stripe).or_insert_with(|| Arc::clone(map));
            }
            let lost = rows.iter().all(|(map, _)| self.lost.contains(&map.stripe));
            if lost && let Some(path) = path {
                self.lost_files.insert(path.to_vec());
            }
        }
        Ok(())
    }
}

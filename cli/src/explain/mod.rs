//! Which stripes a file, or all below a folder, needs: those of its chunks, of the pages
//! that lead to them, and of the snapshot's record.

mod survival;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use codec::manifest::{Content, Entry, Node, is_within};
use codec::snapshot::Snapshot;
use codec::{ChunkId, StripeId};
use server::wire::{SnapshotRow, StripeMap};

use crate::exit::Failure;
use crate::fetch::{self, ChunkList, Entries, Fetcher};
use crate::{pull, snapshots};

pub use survival::{Held, Survival, of_stripe};

/// Chunks that are looked up together.
const GROUP_CHUNKS: usize = 4096;

/// What a stripe holds of what is explained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    /// The snapshot's record.
    Record,
    /// Pages with names, or with lists of chunks.
    Pages,
    /// Contents of files.
    Contents,
}

/// A stripe that is needed.
pub struct Used {
    /// Where its shards are.
    pub map: Arc<StripeMap>,
    /// What for.
    pub parts: BTreeSet<Part>,
}

/// What was found.
#[derive(Default)]
pub struct Explained {
    /// Regular files.
    pub files: u64,
    /// Bytes of these.
    pub bytes: u64,
    /// Their chunks, and pages; each as often as it is needed.
    pub chunks: u64,
    /// All stripes that are needed. Of a chunk in several stripes, the one that survives most.
    pub stripes: BTreeMap<StripeId, Used>,
    /// Chunks and pages that no stripe is known to have.
    pub lost_chunks: u64,
}

/// What `path` of a snapshot needs. `margin` is how many shards a stripe has to spare.
pub async fn explain(
    fetcher: &Arc<Fetcher>,
    row: &SnapshotRow,
    path: &[u8],
    margin: impl Fn(&StripeMap) -> i64,
) -> Result<Explained, Failure> {
    let record = snapshots::record(fetcher, row).await?;
    // Says in a person's words that it is not there.
    pull::find(fetcher, record.manifest, path).await?;
    let mut walk = Walk { fetcher, margin, waiting: Vec::new(), found: Explained::default() };
    walk.uses(&Arc::new(row.stripe.clone()), Part::Record);
    walk.below(&record, path).await?;
    walk.flush().await?;
    Ok(walk.found)
}

struct Walk<'a, F> {
    fetcher: &'a Arc<Fetcher>,
    margin: F,
    waiting: Vec<(ChunkId, Part)>,
    found: Explained,
}

impl<F: Fn(&StripeMap) -> i64> Walk<'_, F> {
    async fn below(&mut self, record: &Snapshot, path: &[u8]) -> fetch::Result<()> {
        let mut entries = Entries::new(Arc::clone(self.fetcher), record.manifest);
        entries.seek(path.to_vec());
        while let Some(entry) = entries.next().await? {
            self.pages(entries.take_read_pages());
            if !is_within(&entry.path, path) {
                break;
            }
            let is_all = entry.path == path && !matches!(entry.node, Node::Directory);
            match &entry.node {
                // Its contents stand at its first name, which may lie elsewhere.
                Node::Hardlink { first } if !is_within(first, path) => {
                    self.first_name(record, first).await?;
                }
                _ => self.entry(entry).await?,
            }
            if is_all {
                break;
            }
        }
        self.pages(entries.take_read_pages());
        Ok(())
    }

    async fn first_name(&mut self, record: &Snapshot, first: &[u8]) -> fetch::Result<()> {
        let mut entries = Entries::new(Arc::clone(self.fetcher), record.manifest);
        entries.seek(first.to_vec());
        let entry = entries.next().await?;
        self.pages(entries.take_read_pages());
        match entry.filter(|entry| entry.path == first) {
            Some(entry) => self.entry(entry).await,
            None => Ok(()),
        }
    }

    async fn entry(&mut self, entry: Entry) -> fetch::Result<()> {
        let Node::File { bytes, content, .. } = entry.node else { return Ok(()) };
        self.found.files += 1;
        self.found.bytes += bytes;
        match content {
            Content::Chunks(chunks) => {
                self.waiting.extend(chunks.iter().map(|chunk| (chunk.id, Part::Contents)));
            }
            Content::List(list) => {
                let mut chunks = ChunkList::new(Arc::clone(self.fetcher), list);
                while let Some(chunk) = chunks.next().await? {
                    self.waiting.push((chunk.id, Part::Contents));
                    self.flush_many().await?;
                }
                self.pages(chunks.take_read_pages());
            }
        }
        self.flush_many().await
    }

    fn pages(&mut self, pages: Vec<ChunkId>) {
        self.waiting.extend(pages.into_iter().map(|page| (page, Part::Pages)));
    }

    async fn flush_many(&mut self) -> fetch::Result<()> {
        if self.waiting.len() >= GROUP_CHUNKS { self.flush().await } else { Ok(()) }
    }

    async fn flush(&mut self) -> fetch::Result<()> {
        let waiting = std::mem::take(&mut self.waiting);
        let ids: Vec<ChunkId> = waiting.iter().map(|(id, _)| *id).collect();
        let places = self.fetcher.locate(&ids).await?;
        self.found.chunks += waiting.len() as u64;
        for (id, part) in waiting {
            let maps = places.get(&id).into_iter().flatten().map(|(map, _)| map);
            match maps.max_by_key(|map| (self.margin)(map)) {
                Some(map) => self.uses(map, part),
                None => self.found.lost_chunks += 1,
            }
        }
        Ok(())
    }

    fn uses(&mut self, map: &Arc<StripeMap>, part: Part) {
        let used = || Used { map: Arc::clone(map), parts: BTreeSet::new() };
        self.found.stripes.entry(map.stripe).or_insert_with(used).parts.insert(part);
    }
}

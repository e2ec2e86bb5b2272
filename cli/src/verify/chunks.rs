//! Walks a snapshot's manifest: which stripes it needs, and which of its files some
//! chunk is missing for.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use codec::manifest::{Content, Entry, Node, PageRef};
use codec::{ChunkId, StripeId};
use server::wire::{SnapshotRow, StripeMap};

use crate::exit::Failure;
use crate::fetch::{ChunkList, Entries, FetchError, Fetcher, Result};
use crate::snapshots::{self, Rows};

/// Chunks that are looked up together.
const GROUP_CHUNKS: usize = 4096;

/// Manifest pages that are remembered from one snapshot to the next: 32 bytes each.
const KNOWN_PAGES_MAX: usize = 1 << 18;

/// Pages of manifests all of whose files have all that they need. Most of a snapshot's pages are
/// the next one's too.
type KnownPages = Arc<HashSet<ChunkId>>;

/// What a snapshot needs.
#[derive(Default)]
pub(super) struct Walked {
    /// Its stripes.
    pub(super) stripes: BTreeMap<StripeId, Arc<StripeMap>>,
    /// Files with a chunk that no stripe has but lost ones, and their further names.
    pub(super) lost_files: BTreeSet<Vec<u8>>,
    /// Files of which too few servers answer to say what they need.
    pub(super) unknown_files: BTreeSet<Vec<u8>>,
    /// The path of the last entry that was read.
    pub(super) last: Vec<u8>,
    /// Pages with entries, none of which is a further name of a file: whether such a name is
    /// lost, other pages say.
    leaves: HashSet<ChunkId>,
}

impl Walked {
    /// Adds the pages that say nothing new in other snapshots to those `known`.
    fn note_known(&mut self, known: &mut KnownPages) {
        let leaves = std::mem::take(&mut self.leaves);
        if self.lost_files.is_empty() && self.unknown_files.is_empty() {
            let room = KNOWN_PAGES_MAX.saturating_sub(known.len());
            Arc::make_mut(known).extend(leaves.into_iter().take(room));
        }
    }
}

/// A snapshot, what was found of it, and what ended its walk early.
pub(super) type Walk = (StripeId, Walked, Result<()>);

/// Walks all snapshots of `rows`, as [`walk`] does, and keeps nothing of their stripes. What an
/// earlier one has shown to be whole is passed over in the others.
pub(super) async fn walk_all(
    fetcher: Arc<Fetcher>,
    mut rows: Rows,
    lost: BTreeSet<StripeId>,
) -> std::result::Result<Vec<Walk>, Failure> {
    let (mut known, mut walks) = (KnownPages::default(), Vec::new());
    while let Some(row) = rows.next().await? {
        let (id, mut walked, result) = walk_new(&fetcher, &row, &lost, &known).await;
        walked.stripes = BTreeMap::new();
        match result {
            Ok(()) => walked.note_known(&mut known),
            Err(_) => walked.leaves = HashSet::new(),
        }
        walks.push((id, walked, result));
    }
    Ok(walks)
}

/// Stripes of a snapshot, and its files with a chunk that is in no stripe but `lost` ones.
pub(super) async fn walk(
    fetcher: &Arc<Fetcher>,
    row: &SnapshotRow,
    lost: &BTreeSet<StripeId>,
) -> Walk {
    walk_new(fetcher, row, lost, &KnownPages::default()).await
}

/// The same but for what only `known` pages have.
async fn walk_new(
    fetcher: &Arc<Fetcher>,
    row: &SnapshotRow,
    lost: &BTreeSet<StripeId>,
    known: &KnownPages,
) -> Walk {
    let mut lookup = Lookup { fetcher, lost, waiting: Vec::new(), walked: Walked::default() };
    lookup.walked.stripes.insert(row.stripe.stripe, Arc::new(row.stripe.clone()));
    let walked = lookup.snapshot(row, known).await;
    let flushed = lookup.flush().await;
    (row.id, lookup.walked, walked.and(flushed))
}

/// What is looked up in its turn.
enum Waiting {
    /// A page of the manifest.
    Page(ChunkId),
    /// A chunk, or a page of the list of chunks, of a file.
    Chunk(ChunkId, Arc<Vec<u8>>),
    /// A further name of a file that came before.
    Link { path: Vec<u8>, first: Vec<u8> },
}

struct Lookup<'a> {
    fetcher: &'a Arc<Fetcher>,
    lost: &'a BTreeSet<StripeId>,
    waiting: Vec<Waiting>,
    walked: Walked,
}

impl Lookup<'_> {
    async fn snapshot(&mut self, row: &SnapshotRow, known: &KnownPages) -> Result<()> {
        let record = snapshots::record(self.fetcher, row).await?;
        let entries = Entries::new(Arc::clone(self.fetcher), record.manifest);
        let mut entries = entries.without(Arc::clone(known));
        let mut leaf = None;
        loop {
            let next = entries.next().await;
            let pages = entries.take_read_pages();
            // The last page that was read for an entry is the one that has it.
            leaf = pages.last().copied().or(leaf);
            let is_new = !pages.is_empty();
            self.waiting.extend(pages.into_iter().map(Waiting::Page));
            let Some(entry) = next? else { return Ok(()) };
            self.walked.last.clone_from(&entry.path);
            match leaf {
                Some(leaf) if matches!(entry.node, Node::Hardlink { .. }) => {
                    self.walked.leaves.remove(&leaf);
                }
                Some(leaf) if is_new => drop(self.walked.leaves.insert(leaf)),
                _ => {}
            }
            self.entry(entry).await?;
        }
    }

    async fn entry(&mut self, entry: Entry) -> Result<()> {
        match entry.node {
            Node::File { content: Content::Chunks(chunks), .. } => {
                let path = Arc::new(entry.path);
                let chunks = chunks.iter().map(|chunk| Waiting::Chunk(chunk.id, path.clone()));
                self.waiting.extend(chunks);
            }
            Node::File { content: Content::List(list), .. } => {
                self.list(list, &Arc::new(entry.path)).await?;
            }
            Node::Hardlink { first } => {
                self.waiting.push(Waiting::Link { path: entry.path, first });
            }
            _ => {}
        }
        self.flush_many().await
    }

    /// A page that cannot be read costs this file alone.
    async fn list(&mut self, list: PageRef, path: &Arc<Vec<u8>>) -> Result<()> {
        let mut chunks = ChunkList::new(Arc::clone(self.fetcher), list);
        loop {
            let next = chunks.next().await;
            let pages = chunks.take_read_pages().into_iter();
            self.waiting.extend(pages.map(|id| Waiting::Chunk(id, path.clone())));
            match next {
                Ok(Some(chunk)) => self.waiting.push(Waiting::Chunk(chunk.id, path.clone())),
                Ok(None) => return Ok(()),
                Err(FetchError::Lost(_)) => {
                    self.walked.lost_files.insert(path.to_vec());
                    return Ok(());
                }
                Err(FetchError::TooFewServers(_)) => {
                    self.walked.unknown_files.insert(path.to_vec());
                    return Ok(());
                }
                Err(error @ FetchError::Coordinator(_)) => return Err(error),
            }
            self.flush_many().await?;
        }
    }

    async fn flush_many(&mut self) -> Result<()> {
        if self.waiting.len() >= GROUP_CHUNKS { self.flush().await } else { Ok(()) }
    }

    async fn flush(&mut self) -> Result<()> {
        let waiting = std::mem::take(&mut self.waiting);
        let id = |waiting: &Waiting| match waiting {
            Waiting::Page(id) | Waiting::Chunk(id, _) => Some(*id),
            Waiting::Link { .. } => None,
        };
        let ids: Vec<ChunkId> = waiting.iter().filter_map(id).collect();
        let places = self.fetcher.locate(&ids).await?;
        let Walked { stripes, lost_files, unknown_files, .. } = &mut self.walked;
        for waiting in waiting {
            let rows = id(&waiting).and_then(|id| places.get(&id)).map_or(&[][..], Vec::as_slice);
            for (map, _) in rows {
                stripes.entry(map.stripe).or_insert_with(|| Arc::clone(map));
            }
            match waiting {
                Waiting::Chunk(_, path) => {
                    if rows.iter().all(|(map, _)| self.lost.contains(&map.stripe)) {
                        lost_files.insert(path.to_vec());
                    }
                }
                Waiting::Link { path, first } => {
                    if lost_files.contains(&first) {
                        lost_files.insert(path);
                    } else if unknown_files.contains(&first) {
                        unknown_files.insert(path);
                    }
                }
                Waiting::Page(_) => {}
            }
        }
        Ok(())
    }
}

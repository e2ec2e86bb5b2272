//! Walking a tree of pages: manifests and chunk lists, fetched a few pages ahead.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use codec::ChunkId;
use codec::manifest::{ChunkRef, Cursor, Entry, Item, PageRef, Step};
use codec::seal::FrameKind;

use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::{FetchError, Fetcher, Result};

/// Pages that are fetched in one go: each is 1 MiB at most, mostly far less.
const PAGES_AHEAD: usize = 16;

/// Items in one group of [`Tree::pages`].
const GROUP_ITEMS: usize = 512;
/// Groups that are read ahead.
const GROUPS_AHEAD: usize = 4;

/// Groups of items, in order.
pub type Pages<I> = mpsc::Receiver<Result<Vec<I>>>;

/// The items of a tree, in order.
pub struct Tree<I: Item> {
    fetcher: Arc<Fetcher>,
    cursor: Cursor<I>,
    ahead: HashMap<ChunkId, Vec<u8>>,
    read: Vec<ChunkId>,
    known: Arc<HashSet<ChunkId>>,
}

/// The entries of a manifest.
pub type Entries = Tree<Entry>;
/// The chunks of a long file.
pub type ChunkList = Tree<ChunkRef>;

impl<I: Item> Tree<I> {
    /// The items below `root`.
    pub fn new(fetcher: Arc<Fetcher>, root: PageRef) -> Self {
        Self {
            fetcher,
            cursor: Cursor::new(root),
            ahead: HashMap::new(),
            read: Vec::new(),
            known: Arc::default(),
        }
    }

    /// Passes over these pages, and all that is below them.
    pub fn without(self, known: Arc<HashSet<ChunkId>>) -> Self {
        Self { known, ..self }
    }

    /// Skips to `target`, see [`Cursor::seek`].
    pub fn seek(&mut self, target: impl Into<I::Extent>) {
        self.cursor.seek(target);
    }

    /// The next item.
    pub async fn next(&mut self) -> Result<Option<I>> {
        loop {
            let page = match self.cursor.step() {
                Step::Item(item) => return Ok(Some(item)),
                Step::End => return Ok(None),
                Step::Need(page) => page,
            };
            if self.known.contains(&page.id) {
                let passed = self.cursor.pass_over();
                passed.map_err(|error| FetchError::Lost(error.to_string()))?;
                continue;
            }
            let bytes = match self.ahead.remove(&page.id) {
                Some(bytes) => bytes,
                None => self.fetch(page).await?,
            };
            self.cursor
                .supply(&bytes)
                .map_err(|error| FetchError::Lost(format!("page {:.8}: {error}", page.id)))?;
            self.read.push(page.id);
        }
    }

    /// The pages that were read since this was asked last.
    pub fn take_read_pages(&mut self) -> Vec<ChunkId> {
        std::mem::take(&mut self.read)
    }

    /// The items in groups, read ahead by a task; an error ends them.
    pub fn pages(mut self, tasks: &mut JoinSet<()>) -> Pages<I>
    where
        I: Send + 'static,
        I::Extent: Send,
    {
        let (out, pages) = mpsc::channel(GROUPS_AHEAD);
        tasks.spawn(async move {
            let mut group = Vec::with_capacity(GROUP_ITEMS);
            loop {
                let next = self.next().await;
                let (end, error) = match next {
                    Ok(Some(item)) => {
                        group.push(item);
                        (false, None)
                    }
                    Ok(None) => (true, None),
                    Err(error) => (true, Some(error)),
                };
                // Nobody listens once the command was stopped.
                if (end || group.len() == GROUP_ITEMS)
                    && out.send(Ok(std::mem::take(&mut group))).await.is_err()
                {
                    return;
                }
                if let Some(error) = error {
                    let _ = out.send(Err(error)).await;
                }
                if end {
                    return;
                }
            }
        });
        pages
    }

    async fn fetch(&mut self, page: ChunkRef) -> Result<Vec<u8>> {
        let mut ids: Vec<ChunkId> =
            self.cursor.upcoming(PAGES_AHEAD).iter().map(|c| c.id).collect();
        ids.dedup();
        ids.retain(|id| !self.known.contains(id));
        if let Ok(pages) = self.fetcher.chunks(FrameKind::Metadata, &ids).await {
            self.ahead = pages;
        }
        match self.ahead.remove(&page.id) {
            Some(bytes) => Ok(bytes),
            // One of the pages ahead cannot be read; this one perhaps can.
            None => self.fetcher.chunk(FrameKind::Metadata, page).await,
        }
    }
}

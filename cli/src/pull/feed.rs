//! Reads entries and chunk lists, ahead of what is made of them.

use std::io;
use std::sync::Arc;

use codec::manifest::{ChunkRef, Content, Entry, Node, PageRef, is_within, show_path};
use tokio::sync::mpsc;

use super::{Lost, Missing, relative};
use crate::fetch::{ChunkList, Entries, FetchError, Fetcher, Result};
use crate::tree::Problem;

/// Chunks of a long file, or entries, that are handed on at once.
const GROUP_ITEMS: usize = 64;

/// What the windows are made of.
pub enum Item {
    /// The next entry.
    Entry(Box<Entry>),
    /// More chunks of the file that came last.
    Chunks(Vec<ChunkRef>),
    /// The other chunks of that file are not known.
    Broken(FetchError),
}

/// The reading end of a pull.
pub struct Feed {
    fetcher: Arc<Fetcher>,
    root: PageRef,
    path: Vec<u8>,
    out: mpsc::Sender<Vec<Item>>,
    items: Vec<Item>,
    fed: Fed,
}

/// What was not handed on.
#[derive(Default)]
pub struct Fed {
    /// Where the manifest could not be read on.
    pub missing: Option<Missing>,
    /// Names of files whose first names, elsewhere in the manifest, cannot be read.
    pub lost: Vec<Lost>,
    /// Names of files whose first names the manifest has not.
    pub problems: Vec<Problem>,
}

impl Feed {
    /// Of all entries at or below `path`; `out` takes them in groups.
    pub fn new(
        fetcher: Arc<Fetcher>,
        root: PageRef,
        path: Vec<u8>,
        out: mpsc::Sender<Vec<Item>>,
    ) -> Self {
        Self { fetcher, root, path, out, items: Vec::new(), fed: Fed::default() }
    }

    /// Sends all entries, and the chunks of long files after these; those before a page that
    /// cannot be read too.
    pub async fn run(mut self) -> Fed {
        let mut after = self.path.clone();
        let done = self.entries(&mut after).await;
        self.send().await;
        self.fed.missing = done.err().map(|why| Missing { after, why });
        self.fed
    }

    async fn entries(&mut self, after: &mut Vec<u8>) -> Result<()> {
        let mut entries = Entries::new(Arc::clone(&self.fetcher), self.root);
        entries.seek(self.path.clone());
        while let Some(entry) = entries.next().await? {
            if !is_within(&entry.path, &self.path) {
                break;
            }
            after.clone_from(&entry.path);
            let Some(entry) = self.whole(entry).await? else { continue };
            let list = match &entry.node {
                Node::File { content: Content::List(list), .. } => Some(*list),
                _ => None,
            };
            self.items.push(Item::Entry(Box::new(entry)));
            let listened = match list {
                Some(list) => self.list(list).await?,
                None => true,
            };
            if !listened || (self.items.len() >= GROUP_ITEMS && !self.send().await) {
                break;
            }
        }
        Ok(())
    }

    /// Sends the chunks of a long file; false when nobody listens any more. A page of its list
    /// that cannot be read costs this file alone.
    async fn list(&mut self, list: PageRef) -> Result<bool> {
        let mut chunks = ChunkList::new(Arc::clone(&self.fetcher), list);
        let mut group = Vec::with_capacity(GROUP_ITEMS);
        loop {
            match chunks.next().await {
                Ok(Some(chunk)) => group.push(chunk),
                Ok(None) => break,
                Err(error @ FetchError::Coordinator(_)) => return Err(error),
                Err(error) => {
                    self.items.push(Item::Broken(error));
                    return Ok(true);
                }
            }
            if group.len() == GROUP_ITEMS {
                self.items.push(Item::Chunks(std::mem::take(&mut group)));
                if !self.send().await {
                    return Ok(false);
                }
            }
        }
        self.items.push(Item::Chunks(group));
        Ok(true)
    }

    /// False when nobody listens any more.
    async fn send(&mut self) -> bool {
        self.out.send(std::mem::take(&mut self.items)).await.is_ok()
    }

    /// A name of a file whose first name lies outside of what is pulled is that file; `None`
    /// where this cannot be had.
    async fn whole(&mut self, entry: Entry) -> Result<Option<Entry>> {
        let Node::Hardlink { first } = &entry.node else { return Ok(Some(entry)) };
        if is_within(first, &self.path) {
            return Ok(Some(entry));
        }
        let mut entries = Entries::new(Arc::clone(&self.fetcher), self.root);
        entries.seek(first.clone());
        let path = relative(&entry.path, &self.path).to_vec();
        match entries.next().await {
            Ok(Some(target)) if target.path == *first && is_first_name(&target) => {
                Ok(Some(Entry { path: entry.path, ..target }))
            }
            Ok(_) => {
                let why =
                    format!("its first name, {}, is no file of the snapshot", show_path(first));
                let error = io::Error::new(io::ErrorKind::InvalidData, why);
                self.fed.problems.push(Problem { path, doing: "link", error });
                Ok(None)
            }
            Err(error @ FetchError::Coordinator(_)) => Err(error),
            Err(why) => {
                self.fed.lost.push(Lost { path, why });
                Ok(None)
            }
        }
    }
}

fn is_first_name(entry: &Entry) -> bool {
    !matches!(entry.node, Node::Hardlink { .. } | Node::Directory)
}

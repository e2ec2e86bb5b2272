//! A pull, from a manifest to files.
//!
//! `Feed` (a task) reads entries and chunk lists; `window` (a thread) makes folders,
//! begins files and groups their chunks; `deliver` (here) fetches a group's frames,
//! has each chunk written where it belongs, and finishes the files. One lost frame
//! costs the files that need it, no other.

mod deliver;
mod stdout;
mod window;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use codec::manifest::{ChunkRef, Content, Entry, Node, PageRef, is_within};
use futures_util::StreamExt as _;
use server::wire::SnapshotRow;
use tokio::sync::mpsc;

use self::deliver::{Deliver, Done, Lost};
use self::window::{Feeding, Window, Windows};
use crate::exit::{Exit, Failure};
use crate::fetch::{ChunkList, Entries, FetchError, Fetcher};
use crate::snapshots;
use crate::tree::{self, Overwrite, Problem, Restorer};
use crate::ui::Counters;

pub use self::stdout::to_stdout;

/// Windows whose frames are being fetched at once.
const WINDOWS_IN_FLIGHT: usize = 2;
/// Chunks of a long file that are handed on at once.
const LIST_CHUNKS: usize = 64;

/// What to pull, and where to.
pub struct Options {
    /// The snapshot.
    pub snapshot: SnapshotRow,
    /// The path in it, empty for all.
    pub path: Vec<u8>,
    /// The folder it lands in.
    pub to: PathBuf,
    /// What to do about names that exist.
    pub overwrite: Overwrite,
}

/// What a pull did.
#[derive(Default)]
pub struct Outcome {
    /// Entries that are there now.
    pub entries: u64,
    /// Regular files among them.
    pub files: u64,
    /// Bytes of these.
    pub bytes: u64,
    /// Entries left alone because something was there.
    pub skipped: u64,
    /// Entries that could not be made as they were, and why.
    pub problems: Vec<Problem>,
    /// Files that could not be read back.
    pub lost: Vec<Lost>,
}

/// Restores `options.path` of a snapshot.
pub async fn pull(
    fetcher: &Arc<Fetcher>,
    options: Options,
    counters: Arc<Counters>,
) -> Result<Outcome, Failure> {
    let record = snapshots::record(fetcher, &options.snapshot).await?;
    let top = find(fetcher, record.manifest, &options.path).await?;
    if options.path.is_empty() {
        counters.total_files.store(record.stats.files, Relaxed);
        counters.total_bytes.store(record.stats.bytes, Relaxed);
    }
    let root = top.filter(|entry| matches!(entry.node, Node::Directory));
    let restorer = Restorer::new(&options.to, options.overwrite, root)
        .map_err(Failure::io("cannot restore into", &options.to))?;

    let (feed, feeding) = mpsc::channel(4);
    let (windows, ready) = mpsc::channel::<Window>(1);
    let feed = Feed { fetcher: Arc::clone(fetcher), path: options.path.clone(), out: feed };
    let filling = {
        let windows = Windows::new(restorer, options.path, windows);
        tokio::task::spawn_blocking(move || windows.run(feeding))
    };
    let deliver = Deliver { fetcher: Arc::clone(fetcher), counters };
    let delivering = async {
        let mut done = Done::default();
        let fetched = futures_util::stream::unfold(ready, |mut ready| async {
            ready.recv().await.map(|w| (w, ready))
        })
        .map(|window| deliver.fetch(window))
        .buffered(WINDOWS_IN_FLIGHT);
        let mut fetched = std::pin::pin!(fetched);
        // Windows come out in order: when one is done, all before it are, and with them
        // the earlier parts of its files and the first names of its links.
        while let Some(fetched) = fetched.next().await {
            deliver.finish(fetched, &mut done).await;
        }
        done.outcome
    };
    let (fed, filled, mut outcome) = tokio::join!(feed.run(record.manifest), filling, delivering);
    let Feeding { restorer, made, skipped, problems } = match filled {
        Ok(filled) => filled,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    };
    outcome.entries += made;
    outcome.skipped += skipped;
    outcome.problems.extend(problems);
    let to = options.to.clone();
    let (flushed, problems) =
        tokio::task::spawn_blocking(move || (restorer.sync(), restorer.finish()))
            .await
            .unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
    flushed.map_err(Failure::io("cannot flush", &to))?;
    outcome.problems.extend(problems);
    if let Err(error) = fed {
        outcome.lost.push(Lost { path: options.snapshot.id.to_string().into_bytes(), why: error });
    }
    Ok(outcome)
}

/// The entry of `path` itself; none for the whole snapshot.
pub async fn find(
    fetcher: &Arc<Fetcher>,
    root: PageRef,
    path: &[u8],
) -> Result<Option<Entry>, Failure> {
    if path.is_empty() {
        return Ok(None);
    }
    let mut entries = Entries::new(Arc::clone(fetcher), root);
    entries.seek(path.to_vec());
    match entries.next().await? {
        Some(entry) if entry.path == path => Ok(Some(entry)),
        // A folder above the sources has no entry of its own.
        Some(entry) if is_within(&entry.path, path) => Ok(None),
        _ => Err(Failure::new(
            Exit::NoSnapshot,
            format!("the snapshot has no path /{}", String::from_utf8_lossy(path)),
        )
        .next("arc ls SNAPSHOT    what is in it")),
    }
}

/// What the windows are made of.
pub enum Item {
    /// The next entry.
    Entry(Box<Entry>),
    /// More chunks of the file that came last.
    Chunks(Vec<ChunkRef>),
    /// The other chunks of that file are not known.
    Broken(FetchError),
}

struct Feed {
    fetcher: Arc<Fetcher>,
    path: Vec<u8>,
    out: mpsc::Sender<Vec<Item>>,
}

impl Feed {
    /// Sends all entries at or below the path, and the chunks of long files after these; those
    /// before a page that cannot be read too.
    async fn run(self, root: PageRef) -> Result<(), FetchError> {
        let mut items = Vec::with_capacity(LIST_CHUNKS);
        let done = self.entries(root, &mut items).await;
        self.send(&mut items).await;
        done
    }

    async fn entries(&self, root: PageRef, items: &mut Vec<Item>) -> Result<(), FetchError> {
        let mut entries = Entries::new(Arc::clone(&self.fetcher), root);
        entries.seek(self.path.clone());
        while let Some(entry) = entries.next().await? {
            if !is_within(&entry.path, &self.path) {
                break;
            }
            let entry = self.whole(root, entry).await?;
            let list = match &entry.node {
                Node::File { content: Content::List(list), .. } => Some(*list),
                _ => None,
            };
            items.push(Item::Entry(Box::new(entry)));
            let listened = match list {
                Some(list) => self.list(list, items).await?,
                None => true,
            };
            if !listened || (items.len() >= LIST_CHUNKS && !self.send(items).await) {
                break;
            }
        }
        Ok(())
    }

    /// Sends the chunks of a long file; false when nobody listens any more. A page of its list
    /// that cannot be read costs this file alone.
    async fn list(&self, list: PageRef, items: &mut Vec<Item>) -> Result<bool, FetchError> {
        let mut chunks = ChunkList::new(Arc::clone(&self.fetcher), list);
        let mut group = Vec::with_capacity(LIST_CHUNKS);
        loop {
            match chunks.next().await {
                Ok(Some(chunk)) => group.push(chunk),
                Ok(None) => break,
                Err(error @ FetchError::Coordinator(_)) => return Err(error),
                Err(error) => {
                    items.push(Item::Broken(error));
                    return Ok(true);
                }
            }
            if group.len() == LIST_CHUNKS {
                items.push(Item::Chunks(std::mem::take(&mut group)));
                if !self.send(items).await {
                    return Ok(false);
                }
            }
        }
        items.push(Item::Chunks(group));
        Ok(true)
    }

    /// False when nobody listens any more.
    async fn send(&self, items: &mut Vec<Item>) -> bool {
        self.out.send(std::mem::take(items)).await.is_ok()
    }

    /// A name of a file whose first name lies outside of what is pulled is that file.
    async fn whole(&self, root: PageRef, entry: Entry) -> Result<Entry, FetchError> {
        let Node::Hardlink { first } = &entry.node else { return Ok(entry) };
        if is_within(first, &self.path) {
            return Ok(entry);
        }
        let mut entries = Entries::new(Arc::clone(&self.fetcher), root);
        entries.seek(first.clone());
        match entries.next().await? {
            Some(target) if target.path == *first => Ok(Entry { path: entry.path, ..target }),
            _ => Ok(entry),
        }
    }
}

/// The path of an entry below what is pulled: the content of a folder lands in the target,
/// a single file under its own name.
pub fn relative<'a>(path: &'a [u8], top: &[u8]) -> &'a [u8] {
    if path == top {
        return tree::name(path);
    }
    if top.is_empty() { path } else { &path[top.len() + 1..] }
}

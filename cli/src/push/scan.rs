//! The reading end of a push: walks the sources beside the parent's manifest, reads
//! what changed, and hands on entries in manifest order with their chunks.

mod former;
mod long;

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use codec::ChunkId;
use codec::chunker::Chunker;
use codec::keys::VaultKeys;
use codec::manifest::{Content, Entry, Node};
use codec::snapshot::Stats;
use rayon::prelude::*;
use tokio::sync::mpsc;

use super::packer::Chunk;
use super::parent::Parent;
use super::read::{Outcome, SMALL_FILE_BYTES, finish_small, name, read_small};
use crate::fetch::Fetcher;
use crate::tree::{self, FileId, Found, HardLinks, Problem, Stat, Trust, Walk};
use crate::ui::{Counters, Ui};

/// A batch is closed when its files and attributes have this many bytes,
const BATCH_BYTES: u64 = 4 * 1024 * 1024;
/// or when it has this many entries.
const BATCH_ENTRIES: usize = 1024;

/// What the scan hands on: entries in manifest order, and the chunks of these and of the
/// entries to come.
#[derive(Default)]
pub struct Batch {
    /// Entries, finished.
    pub entries: Vec<Entry>,
    /// Chunks of file contents.
    pub chunks: Vec<Chunk>,
    /// Chunk-list pages.
    pub pages: Vec<Chunk>,
}

/// Everything a scan needs.
pub struct Scan {
    /// The vault's keys.
    pub keys: VaultKeys,
    /// Its chunker.
    pub chunker: Chunker,
    /// What counts as unchanged.
    pub trust: Trust,
    /// The parent's entries.
    pub parent: Parent,
    /// Reads the parent's lists of chunks.
    pub fetcher: Arc<Fetcher>,
    /// Chunks that the vault has lost: files with them are read again.
    pub lost: HashSet<ChunkId>,
    /// Only compare, read nothing.
    pub dry_run: bool,
    /// Count names as they are met; otherwise [`count_ahead`] does.
    pub counts: bool,
    /// For the display.
    pub counters: Arc<Counters>,
    /// For warnings.
    pub ui: Ui,
    /// Where batches go; a closed end stops the scan.
    pub out: mpsc::Sender<Batch>,
    /// What was counted.
    pub stats: Stats,
}

/// Walks ahead of the scan and counts, so that the display knows the totals early.
pub fn count_ahead(walk: Walk, counters: &Counters) {
    for found in walk.flatten() {
        count_one(counters, &found);
    }
    counters.scan_done.store(true, Relaxed);
}

fn count_one(counters: &Counters, found: &Found) {
    counters.scanned_files.fetch_add(1, Relaxed);
    counters.scanned_bytes.fetch_add(file_bytes(&found.stat), Relaxed);
}

/// The receiver of batches went away: another stage failed and has said why.
struct Stopped;

/// An entry on its way into a batch.
enum Pending {
    Ready(Box<Entry>),
    Read(Box<ToRead>),
}

/// A file on its way to be read.
struct ToRead {
    found: Found,
    entry: Entry,
    /// What the parent has of it, where that helps to cut it.
    former: Option<Content>,
}

impl Pending {
    /// Bytes of memory that it takes, or will.
    fn bytes(&self) -> u64 {
        let (contents, entry) = match self {
            Self::Ready(entry) => (0, &**entry),
            Self::Read(read) => (read.found.stat.bytes, &read.entry),
        };
        let attributes = entry.xattrs.iter().map(|x| x.name.len() + x.value.len());
        contents + attributes.sum::<usize>() as u64
    }

    /// The file that other names may refer to once it is stored.
    fn linked(&self) -> Option<FileId> {
        match self {
            Self::Read(read) if read.found.stat.links > 1 => Some(read.found.stat.file()),
            _ => None,
        }
    }
}

impl Scan {
    /// Walks `walk` to its end. Blocks: run it on a thread of its own.
    pub fn run(mut self, walk: Walk) -> Stats {
        // A closed channel means that another stage failed; it says why.
        let _ = self.walk(walk);
        self.parent.drain();
        self.stats.files_removed = self.parent.files_removed;
        if self.counts {
            self.counters.scan_done.store(true, Relaxed);
        }
        if let Some(error) = &self.parent.failed {
            self.ui.warn(&format!("the parent's manifest could not be read to its end, so more was read anew: {error}"), None);
        }
        self.stats
    }

    fn walk(&mut self, walk: Walk) -> Result<(), Stopped> {
        let mut links = HardLinks::default();
        let mut pending: Vec<Pending> = Vec::new();
        let mut pending_bytes = 0;
        let mut pending_links: HashSet<FileId> = HashSet::new();
        for found in walk {
            let found = match found {
                Ok(found) => found,
                Err(problem) => {
                    self.problem(&problem);
                    continue;
                }
            };
            if self.counts {
                count_one(&self.counters, &found);
            }
            // Whether this is a further name is known once the first one was read.
            if pending_links.contains(&found.stat.file()) {
                self.flush(&mut pending, &mut links)?;
                (pending_bytes, pending_links) = (0, HashSet::new());
            }
            let Some(next) = self.decide(found, &mut links) else { continue };
            match next {
                Pending::Read(read) if read.found.stat.bytes > SMALL_FILE_BYTES => {
                    self.flush(&mut pending, &mut links)?;
                    (pending_bytes, pending_links) = (0, HashSet::new());
                    let ToRead { found, entry, former } = *read;
                    self.read_alone(found, entry, former.as_ref(), &mut links)?;
                }
                next => {
                    pending_bytes += next.bytes();
                    pending_links.extend(next.linked());
                    pending.push(next);
                }
            }
            if pending_bytes >= BATCH_BYTES || pending.len() >= BATCH_ENTRIES {
                self.flush(&mut pending, &mut links)?;
                (pending_bytes, pending_links) = (0, HashSet::new());
            }
        }
        self.flush(&mut pending, &mut links)
    }

    /// Whether a name has to be read, and its entry.
    fn decide(&mut self, found: Found, links: &mut HardLinks) -> Option<Pending> {
        let parent = self.parent.at(&found.path);
        let has_links = found.stat.links > 1 && !found.stat.kind.is_dir();
        let first = if has_links { links.first(&found.stat) } else { None };
        let is_name = first.is_some();
        if !is_name
            && let Some(parent) = &parent
            && tree::is_unchanged(parent, &found.stat, self.trust)
            && self.is_stored(parent)
        {
            let stat = &found.stat;
            let entry = match self.unchanged(&found, parent) {
                Ok(entry) => entry,
                Err(problem) => {
                    self.problem(&problem);
                    return None;
                }
            };
            links.stored(&entry, stat);
            self.counters.read_files.fetch_add(1, Relaxed);
            self.counters.read_bytes.fetch_add(file_bytes(stat), Relaxed);
            return Some(Pending::Ready(Box::new(entry)));
        }
        let entry = match self.describe(&found, first) {
            Ok(entry) => entry,
            Err(problem) => {
                self.problem(&problem);
                return None;
            }
        };
        if is_name || !found.stat.kind.is_file() {
            if has_links && !is_name {
                links.stored(&entry, &found.stat);
            }
            return Some(Pending::Ready(Box::new(entry)));
        }
        let former = match parent.map(|parent| parent.node) {
            Some(Node::File { content, .. }) => {
                self.stats.files_changed += 1;
                Some(content).filter(|_| found.stat.bytes > SMALL_FILE_BYTES)
            }
            _ => {
                self.stats.files_new += 1;
                None
            }
        };
        self.counters.new_files.fetch_add(1, Relaxed);
        if self.dry_run {
            self.stats.bytes_new += found.stat.bytes;
            self.stats.entries += 1;
            self.stats.files += 1;
            self.stats.bytes += found.stat.bytes;
            links.stored(&entry, &found.stat);
            return None;
        }
        Some(Pending::Read(Box::new(ToRead { found, entry, former })))
    }

    /// The parent's entry, under the inode and times of now. Where the change time may differ,
    /// owner, mode and attributes may too.
    fn unchanged(&mut self, found: &Found, parent: &Entry) -> Result<Entry, Problem> {
        let Stat { inode, device, ctime, .. } = found.stat;
        if parent.ctime == ctime {
            return Ok(Entry { inode, device, ..parent.clone() });
        }
        let described = self.describe(found, None)?;
        Ok(Entry { node: parent.node.clone(), ..described })
    }

    fn describe(&mut self, found: &Found, first: Option<Vec<u8>>) -> Result<Entry, Problem> {
        let mut problems = Vec::new();
        let described = tree::describe(found, first, &mut problems);
        problems.iter().for_each(|problem| self.problem(problem));
        described
    }

    /// Whether the vault still has all that an unchanged file refers to.
    fn is_stored(&self, entry: &Entry) -> bool {
        if self.lost.is_empty() {
            return true;
        }
        match &entry.node {
            Node::File { content: Content::Chunks(chunks), .. } => {
                chunks.iter().all(|c| !self.lost.contains(&c.id))
            }
            // Which chunks a list has is not looked up: something is lost, so it is read again.
            Node::File { content: Content::List(_), .. } => false,
            _ => true,
        }
    }

    fn flush(&mut self, pending: &mut Vec<Pending>, links: &mut HardLinks) -> Result<(), Stopped> {
        let (keys, chunker) = (&self.keys, &self.chunker);
        let read: Vec<_> = std::mem::take(pending)
            .into_par_iter()
            .map(|pending| match pending {
                Pending::Ready(entry) => (None, Some(*entry)),
                Pending::Read(read) => (Some((read_small(chunker, &read.found), read)), None),
            })
            .collect();
        // All together, so that there are two of about one length.
        let pieces = read.iter().filter_map(|(read, _)| read.as_ref()?.0.as_ref().ok());
        let pieces = pieces.flat_map(|read| read.made.iter().cloned()).collect();
        let mut named = name(keys, pieces).into_iter();
        let outcomes = read.into_iter().map(|(read, ready)| {
            let outcome = match read {
                Some((Ok(read), of)) => {
                    let chunks = named.by_ref().take(read.made.len()).collect();
                    finish_small(keys, &read, chunks, &of.found, of.entry)
                }
                Some((Err(problem), _)) => {
                    Outcome { files_read: 1, problem: Some(problem), ..Outcome::default() }
                }
                None => Outcome::default(),
            };
            (ready, outcome)
        });
        let outcomes: Vec<(Option<Entry>, Outcome)> = outcomes.collect();
        let mut batch = Batch::default();
        for (ready, outcome) in outcomes {
            self.note(&outcome);
            batch.chunks.extend(outcome.chunks);
            batch.pages.extend(outcome.pages);
            if let Some((entry, stat)) = &outcome.entry {
                links.stored(entry, stat);
            }
            if let Some(entry) = ready.or(outcome.entry.map(|(entry, _)| entry)) {
                self.count(&entry.node);
                batch.entries.push(entry);
            }
        }
        self.send(batch)
    }

    fn send(&self, batch: Batch) -> Result<(), Stopped> {
        if self.dry_run
            || (batch.entries.is_empty() && batch.chunks.is_empty() && batch.pages.is_empty())
        {
            return Ok(());
        }
        self.out.blocking_send(batch).map_err(|_| Stopped)
    }

    fn count(&mut self, node: &Node) {
        self.stats.entries += 1;
        if let Node::File { bytes, .. } = node {
            self.stats.files += 1;
            self.stats.bytes += bytes;
        }
    }

    fn note(&mut self, outcome: &Outcome) {
        if let Some(problem) = &outcome.problem {
            self.problem(problem);
        }
        if let Some(path) = &outcome.changed {
            self.changed(path);
        }
        self.counters.read_files.fetch_add(outcome.files_read, Relaxed);
        self.counters.read_bytes.fetch_add(outcome.bytes_read, Relaxed);
    }

    fn changed(&mut self, path: &[u8]) {
        self.warn("changed while it was read; stored as it was then".to_owned(), Some(path));
    }

    fn problem(&mut self, problem: &Problem) {
        let what = format!("cannot {}: {}", problem.doing, problem.error);
        if problem.leaves_nothing_out() {
            self.ui.warn(&what, Some(&tree::absolute(&problem.path)));
        } else {
            self.warn(what, Some(&problem.path));
        }
    }

    fn warn(&mut self, what: String, path: Option<&[u8]>) {
        self.stats.warnings += 1;
        self.ui.warn(&what, path.map(tree::absolute).as_deref());
    }
}

fn file_bytes(stat: &Stat) -> u64 {
    if stat.kind.is_file() { stat.bytes } else { 0 }
}

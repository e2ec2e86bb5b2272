//! The reading end of a push: walks the sources beside the parent's manifest, reads
//! what changed, and hands on entries in manifest order with their chunks.

use std::collections::{HashSet, VecDeque};
use std::fs::File;
use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use codec::ChunkId;
use codec::chunker::{CHUNK_BYTES_MAX, Chunker};
use codec::keys::VaultKeys;
use codec::manifest::{ChunkRef, Content, ContentBuilder, Entry, Node, path_order};
use codec::snapshot::Stats;
use rayon::prelude::*;
use tokio::sync::mpsc;

use super::packer::Chunk;
use crate::exit::Failure;
use crate::fetch::{FetchError, Pages};
use crate::tree::{self, Found, HardLinks, Problem, Stat, Trust, Walk};
use crate::ui::{Counters, Ui};

/// Files up to this are read side by side; longer ones one after the other, in pieces.
const SMALL_FILE_BYTES: u64 = CHUNK_BYTES_MAX as u64;
/// A batch is closed when its files have this many bytes,
const BATCH_BYTES: u64 = 4 * 1024 * 1024;
/// or when it has this many entries.
const BATCH_ENTRIES: usize = 1024;
/// Bytes of a long file that are read, cut and hashed at once.
const READ_BYTES: usize = 2 * CHUNK_BYTES_MAX;
/// Room for what a file has grown meanwhile.
const READ_BYTES_MIN: usize = 64 * 1024;
/// A file that was changed this short a time before it was read could have been changed
/// again without its times telling (coarse clocks): it is read again next time.
const RECENT_MS: i64 = 2_000;

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

/// The parent snapshot's entries beside the walk.
#[derive(Default)]
pub struct Parent {
    pages: Option<Pages<Entry>>,
    page: VecDeque<Entry>,
    files_removed: u64,
    failed: Option<FetchError>,
}

impl Parent {
    /// The parent whose pages come from `pages`.
    pub fn new(pages: Option<Pages<Entry>>) -> Self {
        Self { pages, ..Self::default() }
    }

    /// The parent's entry of `path`; those before it are gone from the source.
    fn at(&mut self, path: &[u8]) -> Option<Entry> {
        loop {
            let order = path_order(&self.front()?.path, path);
            if order.is_gt() {
                return None;
            }
            let entry = self.page.pop_front();
            if order.is_eq() {
                return entry;
            }
            self.files_removed +=
                entry.iter().filter(|e| matches!(e.node, Node::File { .. })).count() as u64;
        }
    }

    fn front(&mut self) -> Option<&Entry> {
        while self.page.is_empty() {
            match self.pages.as_mut()?.blocking_recv() {
                Some(Ok(page)) => self.page = page.into(),
                Some(Err(error)) => {
                    self.failed = Some(error);
                    self.pages = None;
                }
                None => self.pages = None,
            }
        }
        self.page.front()
    }

    fn drain(&mut self) {
        while self.front().is_some() {
            let files = self.page.drain(..).filter(|e| matches!(e.node, Node::File { .. }));
            self.files_removed += files.count() as u64;
        }
    }
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
    Read(Box<(Found, Entry)>),
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

    /// Stores what `input` gives as one file under `path`.
    pub fn run_stream(mut self, path: Vec<u8>, input: impl Read) -> Result<Stats, Failure> {
        let mut input = input;
        let now = now();
        let entry = stream_entry(path, now);
        let read = self
            .read_pieces(&mut input, READ_BYTES)
            .map_err(Failure::io("cannot read", "standard input"))?;
        let Some((content, bytes)) = read else { return Ok(self.stats) };
        let node = Node::File { bytes, content, holes: Vec::new() };
        self.stats.files_new += 1;
        self.count(&node);
        let batch = Batch { entries: vec![Entry { node, ..entry }], ..Batch::default() };
        // As in `run`.
        let _ = self.out.blocking_send(batch);
        Ok(self.stats)
    }

    fn walk(&mut self, walk: Walk) -> Result<(), Stopped> {
        let mut links = HardLinks::default();
        let mut pending: Vec<Pending> = Vec::new();
        let mut pending_bytes = 0;
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
            let Some(next) = self.decide(found, &mut links) else { continue };
            if let Pending::Read(read) = &next {
                let stat = read.0.stat;
                if stat.bytes > SMALL_FILE_BYTES || stat.links > 1 {
                    // Alone: because it is long, or because other names will refer to it
                    // only if it could be read.
                    self.flush(&mut pending)?;
                    pending_bytes = 0;
                    self.read_alone(read.0.clone(), read.1.clone(), &mut links)?;
                    continue;
                }
                pending_bytes += stat.bytes;
            }
            pending.push(next);
            if pending_bytes >= BATCH_BYTES || pending.len() >= BATCH_ENTRIES {
                self.flush(&mut pending)?;
                pending_bytes = 0;
            }
        }
        self.flush(&mut pending)
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
            let entry = Entry {
                inode: stat.inode,
                device: stat.device,
                ctime: stat.ctime,
                ..parent.clone()
            };
            links.stored(&entry, stat);
            self.counters.read_files.fetch_add(1, Relaxed);
            self.counters.read_bytes.fetch_add(file_bytes(stat), Relaxed);
            return Some(Pending::Ready(Box::new(entry)));
        }
        let mut problems = Vec::new();
        let described = tree::describe(&found, first, &mut problems);
        problems.iter().for_each(|problem| self.problem(problem));
        let entry = match described {
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
        match parent {
            Some(parent) if matches!(parent.node, Node::File { .. }) => {
                self.stats.files_changed += 1
            }
            _ => self.stats.files_new += 1,
        }
        self.counters.new_files.fetch_add(1, Relaxed);
        if self.dry_run {
            self.stats.bytes_new += found.stat.bytes;
            self.stats.entries += 1;
            self.stats.files += 1;
            self.stats.bytes += found.stat.bytes;
            return None;
        }
        Some(Pending::Read(Box::new((found, entry))))
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

    fn flush(&mut self, pending: &mut Vec<Pending>) -> Result<(), Stopped> {
        let (keys, chunker) = (&self.keys, &self.chunker);
        let outcomes: Vec<Outcome> = std::mem::take(pending)
            .into_par_iter()
            .map(|pending| match pending {
                Pending::Ready(entry) => Outcome { entry: Some(*entry), ..Outcome::default() },
                Pending::Read(read) => {
                    let (found, entry) = *read;
                    read_small(keys, chunker, &found, entry)
                }
            })
            .collect();
        let mut batch = Batch::default();
        for outcome in outcomes {
            self.note(&outcome);
            batch.chunks.extend(outcome.chunks);
            batch.pages.extend(outcome.pages);
            if let Some(entry) = outcome.entry {
                self.count(&entry.node);
                batch.entries.push(entry);
            }
        }
        self.send(batch)
    }

    /// Reads one file on this thread, piece by piece, and sends its entry in the end.
    fn read_alone(
        &mut self,
        found: Found,
        entry: Entry,
        links: &mut HardLinks,
    ) -> Result<(), Stopped> {
        let mut outcome = Outcome::default();
        for attempt in 0..2 {
            let began_ms = now_ms();
            let opened = tree::open(&found).and_then(|(file, before)| {
                let holes = tree::holes(&file, &before).map_err(|e| problem(&found, e))?;
                Ok((file, before, holes))
            });
            let (mut file, before, holes) = match opened {
                Ok(opened) => opened,
                Err(problem) => {
                    outcome.problem = Some(problem);
                    break;
                }
            };
            let (content, bytes) =
                match self.read_pieces(&mut file, READ_BYTES.min(before.bytes as usize + 1)) {
                    Ok(Some(read)) => read,
                    Ok(None) => return Err(Stopped),
                    Err(error) => {
                        outcome.problem = Some(problem(&found, error));
                        break;
                    }
                };
            let changed = Stat::of(&file)
                .map_or(true, |after| after != before_unread(&before, &after))
                || bytes != before.bytes;
            if changed && attempt == 0 {
                continue;
            }
            outcome.changed = changed.then(|| found.path.clone());
            outcome.entry =
                Some(finish_entry(&entry, &before, content, bytes, holes, changed, began_ms));
            break;
        }
        self.note(&outcome);
        let Some(entry) = outcome.entry else { return Ok(()) };
        links.stored(&entry, &found.stat);
        self.count(&entry.node);
        self.send(Batch { entries: vec![entry], ..Batch::default() })
    }

    /// Reads to the end, cuts, names and sends chunks; `None` when nobody takes them.
    fn read_pieces(
        &mut self,
        input: &mut impl Read,
        read_bytes: usize,
    ) -> io::Result<Option<(Content, u64)>> {
        let mut content = ContentBuilder::new();
        let mut rest: Bytes = Bytes::new();
        loop {
            let mut buffer = Vec::with_capacity(read_bytes.max(rest.len() + READ_BYTES_MIN));
            buffer.extend_from_slice(&rest);
            let room = buffer.capacity() - buffer.len();
            let read = input.by_ref().take(room as u64).read_to_end(&mut buffer)?;
            let end = read < room;
            let (chunks, left) = cut(&self.keys, &self.chunker, Bytes::from(buffer), end);
            rest = left;
            let mut batch = Batch::default();
            for chunk in chunks {
                let reference = ChunkRef { id: chunk.id, bytes: chunk.bytes.len() as u32 };
                content
                    .push(reference, &mut page_sink(&self.keys, &mut batch.pages))
                    .map_err(io::Error::other)?;
                batch.chunks.push(chunk);
            }
            self.counters.read_bytes.fetch_add(read as u64, Relaxed);
            if end {
                let bytes = content.bytes();
                let content = content
                    .finish(&mut page_sink(&self.keys, &mut batch.pages))
                    .map_err(io::Error::other)?;
                self.counters.read_files.fetch_add(1, Relaxed);
                return Ok(self.send(batch).is_ok().then_some((content, bytes)));
            }
            if self.send(batch).is_err() {
                return Ok(None);
            }
        }
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
            self.warn("changed while it was read; stored as it was then".to_owned(), Some(path));
        }
        self.counters.read_files.fetch_add(outcome.files_read, Relaxed);
        self.counters.read_bytes.fetch_add(outcome.bytes_read, Relaxed);
    }

    fn problem(&mut self, problem: &Problem) {
        let what = format!("cannot {}: {}", problem.doing, problem.error);
        match problem.error.kind() {
            // A socket has no contents: leaving it out leaves nothing out.
            io::ErrorKind::Unsupported => {
                self.ui.warn(&what, Some(&tree::absolute(&problem.path)));
            }
            _ => self.warn(what, Some(&problem.path)),
        }
    }

    fn warn(&mut self, what: String, path: Option<&[u8]>) {
        self.stats.warnings += 1;
        self.ui.warn(&what, path.map(tree::absolute).as_deref());
    }
}

/// What reading one small file gave.
#[derive(Default)]
struct Outcome {
    entry: Option<Entry>,
    chunks: Vec<Chunk>,
    pages: Vec<Chunk>,
    problem: Option<Problem>,
    changed: Option<Vec<u8>>,
    files_read: u64,
    bytes_read: u64,
}

fn read_small(keys: &VaultKeys, chunker: &Chunker, found: &Found, entry: Entry) -> Outcome {
    let mut outcome = Outcome { files_read: 1, ..Outcome::default() };
    for attempt in 0..2 {
        let began_ms = now_ms();
        let read = tree::open(found).and_then(|(file, before)| {
            let read = || -> io::Result<_> {
                let holes = tree::holes(&file, &before)?;
                Ok((holes, read_whole(&file, &before)?, Stat::of(&file)?))
            };
            read().map(|read| (before, read)).map_err(|e| problem(found, e))
        });
        let (before, (holes, bytes, after)) = match read {
            Ok(read) => read,
            Err(problem) => {
                outcome.problem = Some(problem);
                return outcome;
            }
        };
        let changed = after != before_unread(&before, &after) || bytes.len() as u64 != before.bytes;
        if changed && attempt == 0 {
            continue;
        }
        outcome.bytes_read = bytes.len() as u64;
        outcome.changed = changed.then(|| found.path.clone());
        let length = bytes.len() as u64;
        let (chunks, _) = cut(keys, chunker, Bytes::from(bytes), true);
        let mut content = ContentBuilder::new();
        let pushed: codec::Result<Content> = chunks
            .iter()
            .try_for_each(|chunk| {
                let reference = ChunkRef { id: chunk.id, bytes: chunk.bytes.len() as u32 };
                content.push(reference, &mut page_sink(keys, &mut outcome.pages))
            })
            .and_then(|()| content.finish(&mut page_sink(keys, &mut outcome.pages)));
        match pushed {
            Ok(content) => {
                outcome.entry =
                    Some(finish_entry(&entry, &before, content, length, holes, changed, began_ms));
                outcome.chunks = chunks;
            }
            Err(error) => outcome.problem = Some(problem(found, io::Error::other(error))),
        }
        return outcome;
    }
    outcome
}

/// The file's bytes; when it grows meanwhile, as much as it should have and one byte more.
fn read_whole(mut file: &File, before: &Stat) -> io::Result<Vec<u8>> {
    let limit = before.bytes.min(2 * SMALL_FILE_BYTES) + 1;
    let mut bytes = Vec::with_capacity(limit as usize);
    Read::by_ref(&mut file).take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// `before` with what reading itself may change. Links and the size on disk say nothing of contents.
fn before_unread(before: &Stat, after: &Stat) -> Stat {
    Stat { allocated_bytes: after.allocated_bytes, links: after.links, ..*before }
}

fn finish_entry(
    entry: &Entry,
    stat: &Stat,
    content: Content,
    bytes: u64,
    holes: Vec<(u64, u64)>,
    changed: bool,
    read_ms: i64,
) -> Entry {
    let recent = |(seconds, nanos): (i64, u32)| {
        seconds * 1_000 + i64::from(nanos / 1_000_000) > read_ms - RECENT_MS
    };
    let holes = holes.into_iter().filter(|(offset, length)| offset + length <= bytes).collect();
    Entry {
        path: entry.path.clone(),
        node: Node::File { bytes, content, holes },
        mode: stat.mode,
        uid: stat.uid,
        gid: stat.gid,
        mtime: stat.mtime,
        ctime: stat.ctime,
        inode: stat.inode,
        device: stat.device,
        xattrs: entry.xattrs.clone(),
        read_again: changed || recent(stat.mtime) || recent(stat.ctime),
    }
}

/// Cuts `bytes` into chunks and names them; unless this is the file's `end`, what may be cut
/// differently with more to come is left over.
fn cut(keys: &VaultKeys, chunker: &Chunker, bytes: Bytes, end: bool) -> (Vec<Chunk>, Bytes) {
    let mut rest = bytes;
    let mut pieces = Vec::new();
    while rest.len() >= CHUNK_BYTES_MAX || (end && !rest.is_empty()) {
        let length = chunker.cut(&rest);
        pieces.push(rest.split_to(length));
    }
    let name = |bytes: Bytes| Chunk { id: keys.chunk_id(&bytes), bytes };
    let chunks = if pieces.len() > 1 {
        pieces.into_par_iter().map(name).collect()
    } else {
        pieces.into_iter().map(name).collect()
    };
    (chunks, rest)
}

/// Names a page and keeps it with the others.
pub fn page_sink<'a>(
    keys: &'a VaultKeys,
    pages: &'a mut Vec<Chunk>,
) -> impl FnMut(Vec<u8>) -> codec::Result<ChunkRef> + 'a {
    move |page| {
        let chunk = Chunk { id: keys.chunk_id(&page), bytes: Bytes::from(page) };
        let reference = ChunkRef { id: chunk.id, bytes: chunk.bytes.len() as u32 };
        pages.push(chunk);
        Ok(reference)
    }
}

fn stream_entry(path: Vec<u8>, mtime: (i64, u32)) -> Entry {
    Entry {
        path,
        node: Node::Directory,
        mode: 0o600,
        uid: rustix::process::getuid().as_raw(),
        gid: rustix::process::getgid().as_raw(),
        mtime,
        ctime: mtime,
        inode: 0,
        device: 0,
        xattrs: Vec::new(),
        read_again: true,
    }
}

fn file_bytes(stat: &Stat) -> u64 {
    if stat.kind.is_file() { stat.bytes } else { 0 }
}

fn problem(found: &Found, error: io::Error) -> Problem {
    Problem { path: found.path.clone(), doing: "read", error }
}

fn now() -> (i64, u32) {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    (since.as_secs() as i64, since.subsec_nanos())
}

fn now_ms() -> i64 {
    let (seconds, nanos) = now();
    seconds * 1_000 + i64::from(nanos / 1_000_000)
}

//! Reading one file: whole when it is small, its chunks cut and named, its entry finished.

use std::fs::File;
use std::io::{self, Read as _};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use codec::ChunkId;
use codec::chunker::{CHUNK_BYTES_MAX, Chunker};
use codec::keys::VaultKeys;
use codec::manifest::{ChunkRef, Content, ContentBuilder, Entry, Node};
use rayon::prelude::*;

use super::packer::Chunk;
use crate::tree::{self, Found, Problem, Stat};

/// Files up to this are read side by side; longer ones one after the other, in pieces.
pub const SMALL_FILE_BYTES: u64 = CHUNK_BYTES_MAX as u64;
/// A file that was changed this short a time before it was read could have been changed
/// again without its times telling (coarse clocks): it is read again next time.
const RECENT_MS: i64 = 2_000;

/// What reading one small file gave.
#[derive(Default)]
pub struct Outcome {
    /// Its entry, and what the open file was.
    pub entry: Option<(Entry, Stat)>,
    pub chunks: Vec<Chunk>,
    pub pages: Vec<Chunk>,
    pub problem: Option<Problem>,
    pub changed: Option<Vec<u8>>,
    pub files_read: u64,
    pub bytes_read: u64,
}

/// A file that was read.
pub struct Read<T> {
    /// What reading made of it.
    pub made: T,
    /// What it was before.
    pub before: Stat,
    /// It changed while it was read, twice.
    pub changed: bool,
    holes: Vec<(u64, u64)>,
    began_ms: i64,
}

/// Opens a file and has `read` read it; once more when it changes meanwhile. `read` says
/// besides whether it got all that there was.
pub fn read_file<T>(
    found: &Found,
    mut read: impl FnMut(&File, &Stat) -> io::Result<(T, bool)>,
) -> Result<Read<T>, Problem> {
    let mut is_last_try = false;
    loop {
        let began_ms = now_ms();
        let (file, before) = tree::open(found)?;
        let mut look = || {
            let holes = tree::holes(&file, &before)?;
            let (made, all) = read(&file, &before)?;
            let after = Stat::of(&file)?;
            // Links and the size on disk say nothing of contents.
            let Stat { allocated_bytes, links, .. } = after;
            let changed = after != Stat { allocated_bytes, links, ..before } || !all;
            io::Result::Ok(Read { made, before, changed, holes, began_ms })
        };
        let read = look().map_err(|error| problem(found, error))?;
        if !read.changed || std::mem::replace(&mut is_last_try, true) {
            return Ok(read);
        }
    }
}

impl<T> Read<T> {
    /// The entry of the file, described at the walk, with these contents of `bytes` in all.
    pub fn entry(&self, described: Entry, content: Content, bytes: u64) -> Entry {
        let stat = &self.before;
        let recent = |(seconds, nanos): (i64, u32)| {
            seconds * 1_000 + i64::from(nanos / 1_000_000) > self.began_ms - RECENT_MS
        };
        // Attributes are as old as the walk: a later change time does not vouch for them.
        let is_older = described.ctime != stat.ctime;
        let holes = self.holes.iter().filter(|(offset, length)| offset + length <= bytes);
        Entry {
            node: Node::File { bytes, content, holes: holes.copied().collect() },
            mode: stat.mode,
            uid: stat.uid,
            gid: stat.gid,
            mtime: stat.mtime,
            ctime: stat.ctime,
            inode: stat.inode,
            device: stat.device,
            read_again: self.changed || is_older || recent(stat.mtime) || recent(stat.ctime),
            ..described
        }
    }
}

/// Reads a small file and cuts it.
pub fn read_small(chunker: &Chunker, found: &Found) -> Result<Read<Vec<Bytes>>, Problem> {
    let Read { made, before, changed, holes, began_ms } = read_file(found, read_whole)?;
    let (made, _) = cut(chunker, Bytes::from(made), true);
    Ok(Read { made, before, changed, holes, began_ms })
}

/// What becomes of a small file whose chunks have their names.
pub fn finish_small(
    keys: &VaultKeys,
    read: &Read<Vec<Bytes>>,
    chunks: Vec<Chunk>,
    found: &Found,
    entry: Entry,
) -> Outcome {
    let length = chunks.iter().map(|chunk| chunk.bytes.len() as u64).sum();
    let changed = read.changed.then(|| found.path.clone());
    let mut outcome = Outcome { files_read: 1, bytes_read: length, changed, ..Outcome::default() };
    let mut content = ContentBuilder::new();
    let finished = chunks
        .iter()
        .try_for_each(|chunk| {
            let reference = ChunkRef { id: chunk.id, bytes: chunk.bytes.len() as u32 };
            content.push(reference, &mut page_sink(keys, &mut outcome.pages))
        })
        .and_then(|()| content.finish(&mut page_sink(keys, &mut outcome.pages)))
        .map(|content| read.entry(entry, content, length))
        .and_then(|entry| entry.check().map(|()| entry));
    match finished {
        Ok(entry) => {
            outcome.entry = Some((entry, read.before));
            outcome.chunks = chunks;
        }
        Err(error) => outcome.problem = Some(problem(found, io::Error::other(error))),
    }
    outcome
}

/// The file's bytes. Some say that they have none, or fewer than they give: what is there
/// counts, up to a bound that a growing one cannot pass.
fn read_whole(mut file: &File, before: &Stat) -> io::Result<(Vec<u8>, bool)> {
    let mut bytes = Vec::with_capacity(before.bytes.min(SMALL_FILE_BYTES) as usize + 1);
    io::Read::by_ref(&mut file).take(2 * SMALL_FILE_BYTES).read_to_end(&mut bytes)?;
    let all = (bytes.len() as u64) < 2 * SMALL_FILE_BYTES;
    Ok((bytes, all))
}

/// Cuts `bytes` into chunks; unless this is the file's `end`, what only more bytes would cut is
/// left over.
pub fn cut(chunker: &Chunker, bytes: Bytes, end: bool) -> (Vec<Bytes>, Bytes) {
    let mut rest = bytes;
    let mut pieces = Vec::new();
    while let Some(length) = chunker.cut_some(&rest, end) {
        pieces.push(rest.split_to(length));
    }
    (pieces, rest)
}

/// Names chunks, several at once: two of about one length in little more time than one.
pub fn name(keys: &VaultKeys, pieces: Vec<Bytes>) -> Vec<Chunk> {
    let mut order: Vec<usize> = (0..pieces.len()).collect();
    order.sort_unstable_by_key(|&at| pieces[at].len());
    let named = order.par_chunks(2).flat_map_iter(|pair| {
        let chunks: Vec<&[u8]> = pair.iter().map(|&at| &pieces[at][..]).collect();
        pair.iter().copied().zip(keys.chunk_ids(&chunks))
    });
    let mut ids: Vec<(usize, ChunkId)> = named.collect();
    ids.sort_unstable_by_key(|(at, _)| *at);
    pieces.into_iter().zip(ids).map(|(bytes, (_, id))| Chunk { id, bytes }).collect()
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

pub fn stream_entry(path: Vec<u8>, mtime: (i64, u32)) -> Entry {
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

pub fn problem(found: &Found, error: io::Error) -> Problem {
    Problem { path: found.path.clone(), doing: "read", error }
}

pub fn now() -> (i64, u32) {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    (since.as_secs() as i64, since.subsec_nanos())
}

pub fn now_ms() -> i64 {
    let (seconds, nanos) = now();
    seconds * 1_000 + i64::from(nanos / 1_000_000)
}

//! Reading one file: whole when it is small, its chunks cut and named, its entry finished.

use std::fs::File;
use std::io::{self, Read};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
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
    pub entry: Option<Entry>,
    pub chunks: Vec<Chunk>,
    pub pages: Vec<Chunk>,
    pub problem: Option<Problem>,
    pub changed: Option<Vec<u8>>,
    pub files_read: u64,
    pub bytes_read: u64,
}

pub fn read_small(keys: &VaultKeys, chunker: &Chunker, found: &Found, entry: Entry) -> Outcome {
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
pub fn before_unread(before: &Stat, after: &Stat) -> Stat {
    Stat { allocated_bytes: after.allocated_bytes, links: after.links, ..*before }
}

pub fn finish_entry(
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
pub fn cut(keys: &VaultKeys, chunker: &Chunker, bytes: Bytes, end: bool) -> (Vec<Chunk>, Bytes) {
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

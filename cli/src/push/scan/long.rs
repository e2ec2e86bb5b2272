//! A long file or a stream: read piece by piece, its chunks cut, named and sent as they come.

use std::io::{self, Read};
use std::sync::atomic::Ordering::Relaxed;

use bytes::Bytes;
use codec::chunker::CHUNK_BYTES_MAX;
use codec::manifest::{ChunkRef, Content, ContentBuilder, Entry, Node};
use codec::snapshot::Stats;
use server::cpu::{self, Job};

use super::former::Former;
use super::{Batch, Scan, Stopped};
use crate::exit::Failure;
use crate::push::packer::Chunk;
use crate::push::read::{cut, name, now, page_sink, read_file, stream_entry};
use crate::tree::{Found, HardLinks};

/// Bytes of a long file that are read and cut at once.
const READ_BYTES: usize = 2 * CHUNK_BYTES_MAX;
/// Room for what a file has grown meanwhile.
const READ_BYTES_MIN: usize = 64 * 1024;

impl Scan {
    /// Stores what `input` gives as one file under `path`.
    pub fn run_stream(mut self, path: Vec<u8>, input: impl Read) -> Result<Stats, Failure> {
        let mut input = input;
        let now = now();
        let entry = stream_entry(path, now);
        let read = self
            .read_pieces(&mut input, READ_BYTES, false, None)
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

    /// Reads one file on this thread, piece by piece, and sends its entry in the end.
    pub(super) fn read_alone(
        &mut self,
        found: Found,
        entry: Entry,
        former: Option<&Content>,
        links: &mut HardLinks,
    ) -> Result<(), Stopped> {
        let read = read_file(&found, |file, before| {
            // No further than it was: one that grows as fast as it is read would never end.
            let read_bytes = READ_BYTES.min(before.bytes as usize + 1);
            let former = former.map(|content| Former::of(content, &self.fetcher));
            let read = self.read_pieces(&mut file.take(before.bytes), read_bytes, true, former)?;
            let all = read.as_ref().is_none_or(|(_, bytes)| *bytes == before.bytes);
            Ok((read, all))
        });
        let mut read = match read {
            Ok(read) => read,
            Err(problem) => {
                self.problem(&problem);
                return Ok(());
            }
        };
        let Some((content, bytes)) = read.made.take() else { return Err(Stopped) };
        if read.changed {
            self.changed(&found.path);
        }
        let entry = read.entry(entry, content, bytes);
        links.stored(&entry, &read.before);
        self.count(&entry.node);
        self.send(Batch { entries: vec![entry], ..Batch::default() })
    }

    /// Reads to the end, cuts, names and sends chunks; `None` when nobody takes them. `ahead` reads
    /// the next while they are named: not of what may give nothing more for a long time, nor where
    /// the names tell the cuts, as long as the `former` chunks come again.
    fn read_pieces(
        &mut self,
        input: &mut impl Read,
        read_bytes: usize,
        ahead: bool,
        mut former: Option<Former>,
    ) -> io::Result<Option<(Content, u64)>> {
        let mut content = ContentBuilder::new();
        let mut rest: Bytes = Bytes::new();
        let mut naming: Option<Job<Vec<Chunk>>> = None;
        loop {
            let mut buffer = Vec::with_capacity(read_bytes.max(rest.len() + READ_BYTES_MIN));
            buffer.extend_from_slice(&rest);
            let room = buffer.capacity() - buffer.len();
            let read = input.by_ref().take(room as u64).read_to_end(&mut buffer)?;
            let end = read < room;
            let buffer = Bytes::from(buffer);
            former = former.filter(|former| !former.is_over());
            let named;
            (named, rest) = match &mut former {
                Some(former) => former.cut(&self.chunker, &self.keys, buffer, end),
                None => {
                    let (pieces, left) = cut(&self.chunker, buffer, end);
                    let keys = self.keys.clone();
                    let next = cpu::begin(move || name(&keys, pieces));
                    let named = if ahead { naming.replace(next) } else { Some(next) };
                    (named.map(Job::wait).unwrap_or_default(), left)
                }
            };
            self.counters.read_bytes.fetch_add(read as u64, Relaxed);
            if self.send_named(named, &mut content)?.is_err() {
                return Ok(None);
            }
            if !end {
                continue;
            }
            let last = naming.map(Job::wait).unwrap_or_default();
            if self.send_named(last, &mut content)?.is_err() {
                return Ok(None);
            }
            let bytes = content.bytes();
            let mut batch = Batch::default();
            let content = content
                .finish(&mut page_sink(&self.keys, &mut batch.pages))
                .map_err(io::Error::other)?;
            self.counters.read_files.fetch_add(1, Relaxed);
            return Ok(self.send(batch).is_ok().then_some((content, bytes)));
        }
    }

    /// Sends chunks of a file's `content`, in their order.
    fn send_named(
        &self,
        chunks: Vec<Chunk>,
        content: &mut ContentBuilder,
    ) -> io::Result<Result<(), Stopped>> {
        let mut batch = Batch::default();
        for chunk in &chunks {
            let reference = ChunkRef { id: chunk.id, bytes: chunk.bytes.len() as u32 };
            content
                .push(reference, &mut page_sink(&self.keys, &mut batch.pages))
                .map_err(io::Error::other)?;
        }
        batch.chunks = chunks;
        Ok(self.send(batch))
    }
}

//! Packs: sealed frames back to back, a sealed directory of their chunks, a fixed footer.
//!
//! The directory is for rebuilding a catalog; readers that know a chunk's frame
//! do without. A record is a pack with one frame and no chunks.

use std::ops::Range;

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use crate::chunker::CHUNK_BYTES_MAX;
use crate::frame::{self, FRAME_BYTES_MAX, LEVEL, TABLE_ROW_BYTES};
use crate::manifest::{self, at_most};
use crate::seal::{FrameKind, PackKey, TAG_BYTES};
use crate::shard::PACK_BYTES_MAX;
use crate::{ChunkId, Error, Result, VaultId};

/// Bytes of the footer, found from the pack's length.
pub const PACK_FOOTER_BYTES: usize = 32;
/// The most chunks of any pack, and the most frames: a packer that goes by [`PackBuilder::bytes`] and closes
/// at 64 MiB stays below it even if every chunk is a single byte.
pub const PACK_CHUNKS_MAX: usize = 1 << 20;
/// The longest record.
pub const RECORD_BYTES_MAX: usize = FRAME_BYTES_MAX;

const FOOTER_MAGIC: [u8; 8] = *b"ARCPACK0";

/// A pack that is being filled.
pub struct PackBuilder {
    vault: VaultId,
    key: PackKey,
    bytes: Vec<u8>,
    directory: Directory,
}

/// A finished pack.
#[derive(Debug)]
pub struct Pack {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Kind of each frame, and where in `bytes` it ends. The directory is not among them.
    pub frames: Vec<(FrameKind, u32)>,
    /// Each chunk and the number of its frame.
    pub chunks: Vec<(ChunkId, u32)>,
}

impl PackBuilder {
    /// An empty pack in `buffer` (cleared; its capacity is kept, so that buffers can be used again).
    pub fn new(vault: VaultId, key: PackKey, mut buffer: Vec<u8>) -> Self {
        buffer.clear();
        let directory = Directory { frames: Vec::new(), chunks: Vec::new() };
        Self { vault, key, bytes: buffer, directory }
    }

    /// Seals and appends a frame made by [`crate::frame::encode`]. `chunks` gives, in order,
    /// the id and the bytes of each chunk in it. After an error the pack is as before.
    pub fn append(
        &mut self,
        kind: FrameKind,
        mut frame: Vec<u8>,
        chunks: &[(ChunkId, u32)],
    ) -> Result<()> {
        if kind == FrameKind::Directory {
            return Err(Error::damaged("pack", "only finishing it appends the directory"));
        }
        let directory = &mut self.directory;
        let frame_count = directory.frames.len() + 1;
        let chunk_count = directory.chunks.len() + chunks.len();
        let end = self.bytes.len() + frame.len() + TAG_BYTES;
        let pack_bytes = end as u64 + closing_bytes(frame_count, chunk_count);
        bounded("the number of a pack's frames", frame_count as u64, PACK_CHUNKS_MAX as u64)?;
        bounded("the number of a pack's chunks", chunk_count as u64, PACK_CHUNKS_MAX as u64)?;
        bounded("a pack in bytes", pack_bytes, PACK_BYTES_MAX)?;
        let number = directory.frames.len() as u32;
        self.key.seal(self.vault, kind, number, &mut frame);
        self.bytes.extend_from_slice(&frame);
        directory.frames.push((kind, end as u32));
        let row = |&(chunk, bytes)| DirectoryRow { chunk, frame: number, bytes };
        directory.chunks.extend(chunks.iter().map(row));
        Ok(())
    }

    /// Compresses, seals and appends a record. After an error the pack is as before.
    pub fn append_record(&mut self, record: &[u8]) -> Result<()> {
        bounded("a record in bytes", record.len() as u64, RECORD_BYTES_MAX as u64)?;
        self.append(FrameKind::Record, frame::compress(record, LEVEL), &[])
    }

    /// Bytes the pack would have if it were finished now; its directory may compress to less.
    pub fn bytes(&self) -> u64 {
        let Directory { frames, chunks } = &self.directory;
        self.bytes.len() as u64 + closing_bytes(frames.len(), chunks.len())
    }

    /// Whether it has no frame.
    pub fn is_empty(&self) -> bool {
        self.directory.frames.is_empty()
    }

    /// Seals the directory and closes the pack.
    pub fn finish(self) -> Result<Pack> {
        let Self { vault, key, mut bytes, directory } = self;
        let frame_count = directory.frames.len() as u32;
        let mut sealed = frame::compress(&directory.encode()?, LEVEL);
        key.seal(vault, FrameKind::Directory, frame_count, &mut sealed);
        let footer = Footer {
            directory_offset: bytes.len() as u32,
            directory_bytes: sealed.len() as u32,
            frame_count,
        };
        bytes.extend_from_slice(&sealed);
        bytes.extend_from_slice(&footer.encode());
        let Directory { frames, chunks } = directory;
        let chunks = chunks.into_iter().map(|row| (row.chunk, row.frame)).collect();
        Ok(Pack { bytes, frames, chunks })
    }
}

/// One row of a pack's directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectoryRow {
    /// The chunk.
    pub chunk: ChunkId,
    /// Number of its frame.
    pub frame: u32,
    /// Bytes of its plaintext.
    pub bytes: u32,
}

/// What a pack says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directory {
    /// Kind of each frame, and where it ends in the pack.
    pub frames: Vec<(FrameKind, u32)>,
    /// All chunks, in order.
    pub chunks: Vec<DirectoryRow>,
}

impl Directory {
    /// Opens the directory of a whole pack (`pack` holds exactly the pack's bytes).
    pub fn open(vault: VaultId, key: &PackKey, pack: &[u8]) -> Result<Self> {
        Self::open_tail(vault, key, pack.len() as u64, pack)
    }

    /// Where the sealed directory lies in a pack of `pack_bytes`, by the bytes at its end (at
    /// least [`PACK_FOOTER_BYTES`]). Nothing seals the footer: [`Directory::open_tail`] shows
    /// whether it is right.
    pub fn range(pack_bytes: u64, tail: &[u8]) -> Result<Range<u64>> {
        let footer = Footer::decode(pack_bytes, tail)?;
        let start = u64::from(footer.directory_offset);
        Ok(start..start + u64::from(footer.directory_bytes))
    }

    /// Opens the directory out of the end of a pack of `pack_bytes`: `tail` begins where the
    /// directory does, or before.
    pub fn open_tail(vault: VaultId, key: &PackKey, pack_bytes: u64, tail: &[u8]) -> Result<Self> {
        let footer = Footer::decode(pack_bytes, tail)?;
        let (offset, bytes) = (u64::from(footer.directory_offset), footer.directory_bytes as usize);
        let start = (offset + tail.len() as u64).checked_sub(pack_bytes).map(|at| at as usize);
        let sealed = start.and_then(|at| tail.get(at..at + bytes));
        let mut sealed =
            sealed.ok_or_else(|| damaged("it begins further in front".into()))?.to_vec();
        let opened = key.open(vault, FrameKind::Directory, footer.frame_count, &mut sealed)?;
        let plaintext = frame::decompress(DIRECTORY, opened, DIRECTORY_BYTES_MAX)?;
        Self::decode(&plaintext, &footer)
    }

    /// The byte range of frame `number` in the pack.
    pub fn frame_range(&self, number: u32) -> Option<Range<usize>> {
        let number = number as usize;
        let (_, end) = self.frames.get(number)?;
        let start = number.checked_sub(1).map_or(0, |before| self.frames[before].1);
        Some(start as usize..*end as usize)
    }

    fn encode(&self) -> Result<Vec<u8>> {
        let mut counts = vec![0; self.frames.len()];
        for row in &self.chunks {
            counts[row.frame as usize] += 1;
        }
        let frames = self.frames.iter().zip(counts);
        let mut ids = Vec::with_capacity(self.chunks.len() * ChunkId::LEN);
        let mut lengths = Vec::with_capacity(self.chunks.len() * LENGTH_BYTES);
        for row in &self.chunks {
            ids.extend_from_slice(row.chunk.as_bytes());
            lengths.extend_from_slice(&row.bytes.to_le_bytes());
        }
        let columns = Columns {
            frames: frames.map(|(&(kind, end), count)| (kind as u8, end, count)).collect(),
            ids: ByteBuf::from(ids),
            lengths: ByteBuf::from(lengths),
        };
        let mut out = Vec::new();
        ciborium::into_writer(&columns, &mut out).map_err(|e| damaged(e.to_string()))?;
        Ok(out)
    }

    fn decode(plaintext: &[u8], footer: &Footer) -> Result<Self> {
        let mut rest = plaintext;
        let columns: Columns = manifest::read_cbor(DIRECTORY, &mut rest)?;
        if !rest.is_empty() {
            return Err(damaged(format!("{} bytes too many", rest.len())));
        }
        Ok(Self { frames: columns.read_frames(footer)?, chunks: columns.read_chunks()? })
    }
}

/// Makes the pack of one record: one frame, no chunks. Its key must be fresh.
pub fn seal_record(vault: VaultId, key: PackKey, record: &[u8]) -> Result<Pack> {
    let mut builder = PackBuilder::new(vault, key, Vec::new());
    builder.append_record(record)?;
    builder.finish()
}

/// Opens what [`seal_record`] made; `pack` holds exactly the pack's bytes.
pub fn open_record(vault: VaultId, key: &PackKey, pack: &[u8]) -> Result<Vec<u8>> {
    let mut records = Vec::new();
    open_records(vault, key, pack, |record| {
        records.push(record);
        if records.len() > 1 { Err(not_one("several records".into())) } else { Ok(()) }
    })?;
    records.pop().ok_or_else(|| not_one("no record".into()))
}

/// Opens a pack of records, and of nothing else, and hands each of them on in order; `pack` holds
/// exactly the pack's bytes.
pub fn open_records(
    vault: VaultId,
    key: &PackKey,
    pack: &[u8],
    mut each: impl FnMut(Vec<u8>) -> Result<()>,
) -> Result<()> {
    let directory = Directory::open(vault, key, pack)?;
    if !directory.chunks.is_empty() {
        return Err(not_one(format!("{} chunks", directory.chunks.len())));
    }
    for (number, &(kind, _)) in (0..).zip(&directory.frames) {
        if kind != FrameKind::Record {
            return Err(not_one(format!("a frame of kind {kind:?}")));
        }
        // Its directory lies within the pack, and all frames before it.
        let range = directory.frame_range(number).and_then(|range| pack.get(range));
        let mut sealed = range.ok_or_else(|| damaged("a frame without a place".into()))?.to_vec();
        let opened = key.open(vault, kind, number, &mut sealed)?;
        each(frame::decompress("record", opened, RECORD_BYTES_MAX)?)?;
    }
    Ok(())
}

fn not_one(found: String) -> Error {
    Error::damaged("record", format!("it has {found}"))
}

const DIRECTORY: &str = "pack directory";
const LENGTH_BYTES: usize = 4;
/// The longest CBOR of a directory's frame: an array of three integers.
const FRAME_ROW_BYTES: usize = 12;
/// What closes any pack: footer, tag, head of the directory's frame, its CBOR without the rows.
const CLOSING_BYTES: usize = PACK_FOOTER_BYTES + 64;
/// The longest plaintext of a directory: as many frames as chunks.
const DIRECTORY_BYTES_MAX: usize =
    CLOSING_BYTES + PACK_CHUNKS_MAX * (FRAME_ROW_BYTES + TABLE_ROW_BYTES);

fn closing_bytes(frames: usize, chunks: usize) -> u64 {
    (CLOSING_BYTES + frames * FRAME_ROW_BYTES + chunks * (ChunkId::LEN + LENGTH_BYTES)) as u64
}

fn damaged(why: String) -> Error {
    Error::damaged(DIRECTORY, why)
}

fn bounded(what: &'static str, actual: u64, limit: u64) -> Result<()> {
    if actual > limit { Err(Error::Bound { what, actual, limit }) } else { Ok(()) }
}

/// A directory as it is written: by column, since ids do not compress and the rest does.
#[derive(Serialize, Deserialize)]
struct Columns {
    /// Kind, end in the pack and count of chunks of each frame.
    #[serde(deserialize_with = "at_most::<PACK_CHUNKS_MAX, _, _>")]
    frames: Vec<(u8, u32, u32)>,
    /// All chunk ids in order.
    ids: ByteBuf,
    /// All chunk lengths in order.
    lengths: ByteBuf,
}

impl Columns {
    fn read_frames(&self, footer: &Footer) -> Result<Vec<(FrameKind, u32)>> {
        let mut frames = Vec::with_capacity(self.frames.len());
        let mut start = 0;
        for &(kind, end, _) in &self.frames {
            let kind = FrameKind::try_from(kind)?;
            let sealed_bytes = end.saturating_sub(start) as usize;
            if kind == FrameKind::Directory || sealed_bytes <= TAG_BYTES {
                return Err(damaged(format!("a frame of kind {kind:?} at {start}..{end}")));
            }
            frames.push((kind, end));
            start = end;
        }
        if start != footer.directory_offset || frames.len() != footer.frame_count as usize {
            let count = frames.len();
            return Err(damaged(format!("{count} frames that end at {start}, not {footer:?}")));
        }
        Ok(frames)
    }

    fn read_chunks(&self) -> Result<Vec<DirectoryRow>> {
        let count: u64 = self.frames.iter().map(|&(_, _, chunks)| u64::from(chunks)).sum();
        bounded("the number of a pack's chunks", count, PACK_CHUNKS_MAX as u64)?;
        let count = count as usize;
        let (ids, lengths) = (self.ids.len(), self.lengths.len());
        if ids != count * ChunkId::LEN || lengths != count * LENGTH_BYTES {
            let why = format!("{count} chunks, {ids} bytes of ids, {lengths} of lengths");
            return Err(damaged(why));
        }
        let numbers = (0..)
            .zip(&self.frames)
            .flat_map(|(number, &(_, _, chunks))| std::iter::repeat_n(number, chunks as usize));
        let (ids, _) = self.ids.as_chunks();
        let (lengths, _) = self.lengths.as_chunks();
        let row = |((frame, id), bytes): ((u32, &[u8; 32]), &[u8; 4])| {
            let bytes = u32::from_le_bytes(*bytes);
            bounded("a chunk in bytes", bytes.into(), CHUNK_BYTES_MAX as u64)?;
            Ok(DirectoryRow { chunk: ChunkId(*id), frame, bytes })
        };
        numbers.zip(ids).zip(lengths).map(row).collect()
    }
}

/// Where the directory lies. The seal does not cover it; the directory it leads to does:
/// the count is the directory's frame number, the offset the end of its last frame.
#[derive(Debug)]
struct Footer {
    directory_offset: u32,
    directory_bytes: u32,
    frame_count: u32,
}

impl Footer {
    fn encode(&self) -> [u8; PACK_FOOTER_BYTES] {
        let mut out = [0; PACK_FOOTER_BYTES];
        out[..8].copy_from_slice(&FOOTER_MAGIC);
        out[8..12].copy_from_slice(&self.directory_offset.to_le_bytes());
        out[12..16].copy_from_slice(&self.directory_bytes.to_le_bytes());
        out[16..20].copy_from_slice(&self.frame_count.to_le_bytes());
        out
    }

    /// Reads the footer at the end of a pack; the directory lies between frames and footer.
    fn decode(pack_bytes: u64, tail: &[u8]) -> Result<Self> {
        let damaged = |why: String| Error::damaged("pack footer", why);
        let Some((_, bytes)) = tail.split_last_chunk::<PACK_FOOTER_BYTES>() else {
            return Err(damaged(format!("the pack has only {} bytes", tail.len())));
        };
        let field = |at: usize| {
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let footer =
            Self { directory_offset: field(8), directory_bytes: field(12), frame_count: field(16) };
        if footer.encode() != *bytes {
            return Err(damaged(format!("it begins with {:02x?}", &bytes[..8])));
        }
        let (frames, most) = (footer.frame_count.into(), PACK_CHUNKS_MAX as u64);
        bounded("the number of a pack's frames", frames, most)?;
        let end = u64::from(footer.directory_offset) + u64::from(footer.directory_bytes);
        if end + PACK_FOOTER_BYTES as u64 != pack_bytes {
            return Err(damaged(format!("{footer:?} in a pack of {pack_bytes} bytes")));
        }
        Ok(footer)
    }
}

#[cfg(test)]
mod tests;

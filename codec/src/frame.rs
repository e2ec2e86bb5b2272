//! Frames: consecutive chunks under one zstd window, or stored when compression does not pay.
//!
//! A frame's plaintext begins with its chunks' ids and lengths, so that a
//! reader that knows a chunk's frame needs no pack directory. What the seal
//! covers is a codec byte, the plaintext's length and the payload; directories
//! and records are laid out the same way, without the chunk table.

use std::cell::RefCell;
use std::io::Cursor;
use std::ops::Range;

use zstd::bulk::{Compressor, Decompressor};
use zstd::zstd_safe::{CParameter, find_frame_compressed_size};

use crate::chunker::CHUNK_BYTES_MAX;
use crate::seal::TAG_BYTES;
use crate::{ChunkId, Error, Result};

/// Plaintext after which a frame is closed; one chunk may exceed it.
pub const FRAME_BYTES_TARGET: usize = 1024 * 1024;
/// The longest plaintext (chunk table and chunks) of any frame.
pub const FRAME_BYTES_MAX: usize = 8 * 1024 * 1024;
/// The zstd level of all that is written, with tables of its own. On binaries level 1 takes about
/// 0.6 of its time and stores about 11 % more.
pub const LEVEL: i32 = 3;
/// Bytes that one chunk takes in a frame's table.
pub const TABLE_ROW_BYTES: usize = 36;

// A frame that lacks one byte to its target still takes the longest chunk.
const _: () = assert!(
    COUNT_BYTES + FRAME_BYTES_TARGET + TABLE_ROW_BYTES + CHUNK_BYTES_MAX <= FRAME_BYTES_MAX
);

/// Logarithms of the entries of [`LEVEL`]'s tables, half of what zstd has for it: 384 KiB stay in
/// a core's cache beside the frame (measured: 10 to 20 % less time, 0.6 % more bytes).
const TABLES_LOG: (u32, u32) = (16, 15);

const COUNT_BYTES: usize = 4;
const HEAD_BYTES: usize = 5;
const STORED: u8 = 0;
const ZSTD: u8 = 1;

/// Lays `chunks` out and compresses them at zstd `level`; what comes out goes to the seal.
/// Each thread keeps one zstd context for all its calls.
pub fn encode(chunks: &[(ChunkId, &[u8])], level: i32) -> Result<Vec<u8>> {
    let bytes = plaintext_bytes(chunks)?;
    let mut stored = head(STORED, bytes, bytes);
    stored.extend_from_slice(&(chunks.len() as u32).to_le_bytes());
    for (id, chunk) in chunks {
        stored.extend_from_slice(id.as_bytes());
        stored.extend_from_slice(&(chunk.len() as u32).to_le_bytes());
    }
    for (_, chunk) in chunks {
        stored.extend_from_slice(chunk);
    }
    Ok(squeeze(stored, level))
}

/// An opened frame: its chunks, in order.
#[derive(Debug)]
pub struct Frame {
    /// Id and range in `bytes` of each chunk.
    pub chunks: Vec<(ChunkId, Range<usize>)>,
    /// The plaintext, table included.
    pub bytes: Vec<u8>,
}

impl Frame {
    /// Reads what [`encode`] made, after the seal was opened. Allocates at most
    /// [`FRAME_BYTES_MAX`] and the list of chunks. Chunk ids are not checked.
    pub fn decode(opened: &[u8]) -> Result<Self> {
        Self::decode_in(opened, Vec::new())
    }

    /// The same in memory that was used before, which becomes [`Frame::bytes`].
    pub fn decode_in(opened: &[u8], buffer: Vec<u8>) -> Result<Self> {
        let bytes = decompress_in(buffer, "frame", opened, FRAME_BYTES_MAX)?;
        let chunks = read_table(&bytes)?;
        Ok(Self { chunks, bytes })
    }

    /// The chunk `id`, if the frame has it.
    pub fn chunk(&self, id: &ChunkId) -> Option<&[u8]> {
        let (_, range) = self.chunks.iter().find(|(chunk, _)| chunk == id)?;
        Some(&self.bytes[range.clone()])
    }
}

/// Lays out and compresses what has no chunk table: a directory or a record.
pub(crate) fn compress(plaintext: &[u8], level: i32) -> Vec<u8> {
    let mut stored = head(STORED, plaintext.len(), plaintext.len());
    stored.extend_from_slice(plaintext);
    squeeze(stored, level)
}

/// Reads what [`compress`] or [`encode`] laid out; the plaintext has at most `bytes_max`.
pub(crate) fn decompress(what: &'static str, opened: &[u8], bytes_max: usize) -> Result<Vec<u8>> {
    decompress_in(Vec::new(), what, opened, bytes_max)
}

fn decompress_in(
    mut buffer: Vec<u8>,
    what: &'static str,
    opened: &[u8],
    bytes_max: usize,
) -> Result<Vec<u8>> {
    let Some((&[codec, b0, b1, b2, b3], payload)) = opened.split_first_chunk::<HEAD_BYTES>() else {
        return Err(Error::damaged(what, format!("{} bytes hold no head", opened.len())));
    };
    let bytes = u32::from_le_bytes([b0, b1, b2, b3]) as usize;
    if bytes > bytes_max {
        let (actual, limit) = (bytes as u64, bytes_max as u64);
        return Err(Error::Bound { what: "the plaintext of a frame in bytes", actual, limit });
    }
    buffer.clear();
    let plaintext = match codec {
        STORED if payload.len() <= bytes_max => {
            buffer.reserve_exact(payload.len());
            buffer.extend_from_slice(payload);
            buffer
        }
        STORED => return Err(Error::damaged(what, format!("{} bytes stored", payload.len()))),
        ZSTD => inflate(buffer, what, payload, bytes)?,
        _ => return Err(Error::damaged(what, format!("codec {codec} is unknown"))),
    };
    match plaintext.len() {
        actual if actual == bytes => Ok(plaintext),
        actual => Err(Error::damaged(what, format!("{actual} bytes of plaintext, not {bytes}"))),
    }
}

fn plaintext_bytes(chunks: &[(ChunkId, &[u8])]) -> Result<usize> {
    let mut bytes = COUNT_BYTES + chunks.len() * TABLE_ROW_BYTES;
    for (_, chunk) in chunks {
        bounded("a chunk in bytes", chunk.len(), CHUNK_BYTES_MAX)?;
        bytes += chunk.len();
    }
    bounded("the plaintext of a frame in bytes", bytes, FRAME_BYTES_MAX)?;
    Ok(bytes)
}

fn bounded(what: &'static str, actual: usize, limit: usize) -> Result<()> {
    if actual > limit {
        return Err(Error::Bound { what, actual: actual as u64, limit: limit as u64 });
    }
    Ok(())
}

/// The head of an opened frame, with room for `payload_bytes` and the tag of the seal.
fn head(codec: u8, plaintext_bytes: usize, payload_bytes: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEAD_BYTES + payload_bytes + TAG_BYTES);
    out.push(codec);
    out.extend_from_slice(&(plaintext_bytes as u32).to_le_bytes());
    out
}

/// The compressed form of a stored frame, or the frame itself when that saves less than 1/32.
fn squeeze(stored: Vec<u8>, level: i32) -> Vec<u8> {
    let plaintext = &stored[HEAD_BYTES..];
    let payload_bytes_max = plaintext.len() - plaintext.len() / 32;
    let mut out = Cursor::new(head(ZSTD, plaintext.len(), payload_bytes_max));
    out.set_position(HEAD_BYTES as u64);
    match with_compressor(level, |zstd| zstd.compress_to_buffer(plaintext, &mut out)) {
        Ok(payload_bytes) if payload_bytes < payload_bytes_max => {
            let mut out = out.into_inner();
            out.shrink_to(out.len() + TAG_BYTES);
            out
        }
        // An error is usually that the output has no room, and storing is right after any.
        _ => stored,
    }
}

fn inflate(
    mut plaintext: Vec<u8>,
    what: &'static str,
    payload: &[u8],
    bytes: usize,
) -> Result<Vec<u8>> {
    let damaged = |why: &str| Error::damaged(what, format!("zstd: {why}"));
    if find_frame_compressed_size(payload).ok() != Some(payload.len()) {
        return Err(damaged("the payload is not one whole zstd frame"));
    }
    // In one call and into a buffer of the final size: zstd allocates no window of its own.
    plaintext.reserve_exact(bytes);
    with_decompressor(|zstd| zstd.decompress_to_buffer(payload, &mut plaintext))
        .map_err(|e| damaged(&e.to_string()))?;
    Ok(plaintext)
}

fn read_table(plaintext: &[u8]) -> Result<Vec<(ChunkId, Range<usize>)>> {
    let damaged = |why: String| Error::damaged("frame", why);
    let Some((count, rest)) = plaintext.split_first_chunk::<COUNT_BYTES>() else {
        return Err(damaged(format!("{} bytes of plaintext hold no table", plaintext.len())));
    };
    let count = u32::from_le_bytes(*count) as usize;
    if count > rest.len() / TABLE_ROW_BYTES {
        return Err(damaged(format!("{count} chunks in {} bytes", plaintext.len())));
    }
    let mut end = COUNT_BYTES + count * TABLE_ROW_BYTES;
    let mut chunks = Vec::with_capacity(count);
    for row in rest.chunks_exact(TABLE_ROW_BYTES).take(count) {
        let (id, bytes) = row.split_at(ChunkId::LEN);
        let start = end;
        end += u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) as usize;
        if end - start > CHUNK_BYTES_MAX || end > plaintext.len() {
            return Err(damaged(format!("a chunk at {start}..{end} of {}", plaintext.len())));
        }
        chunks.push((ChunkId::try_from(id)?, start..end));
    }
    if end != plaintext.len() {
        return Err(damaged(format!("chunks end at {end} of {}", plaintext.len())));
    }
    Ok(chunks)
}

fn with_compressor<T>(
    level: i32,
    run: impl FnOnce(&mut Compressor<'static>) -> std::io::Result<T>,
) -> std::io::Result<T> {
    thread_local!(static CONTEXT: RefCell<Option<Compressor<'static>>> = const { RefCell::new(None) });
    CONTEXT.with_borrow_mut(|context| {
        let zstd = match context {
            Some(zstd) => zstd,
            None => context.insert(Compressor::new(level)?),
        };
        zstd.set_compression_level(level)?;
        // Zero stands for the level's own.
        let (long, short) = if level == LEVEL { TABLES_LOG } else { (0, 0) };
        zstd.set_parameter(CParameter::HashLog(long))?;
        zstd.set_parameter(CParameter::ChainLog(short))?;
        run(zstd)
    })
}

fn with_decompressor<T>(
    run: impl FnOnce(&mut Decompressor<'static>) -> std::io::Result<T>,
) -> std::io::Result<T> {
    thread_local!(static CONTEXT: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) });
    CONTEXT.with_borrow_mut(|context| {
        let zstd = match context {
            Some(zstd) => zstd,
            None => context.insert(Decompressor::new()?),
        };
        run(zstd)
    })
}

#[cfg(test)]
mod tests;

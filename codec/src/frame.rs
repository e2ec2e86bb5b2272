//! Frames: consecutive chunks under one zstd window, or stored when compression does not pay.
//!
//! A frame's plaintext begins with its chunks' ids and lengths, so that a
//! reader that knows a chunk's frame needs no pack directory.

use crate::{ChunkId, Result};

/// Plaintext after which a frame is closed; one chunk may exceed it.
pub const FRAME_BYTES_TARGET: usize = 1024 * 1024;
/// The longest plaintext (chunk table and chunks) of any frame.
pub const FRAME_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Bytes that one chunk takes in a frame's table.
pub const TABLE_ROW_BYTES: usize = 36;

/// Lays `chunks` out and compresses them at zstd `level`; what comes out goes to the seal.
pub fn encode(_chunks: &[(ChunkId, &[u8])], _level: i32) -> Result<Vec<u8>> {
    todo!()
}

/// An opened frame: its chunks, in order.
#[derive(Debug)]
pub struct Frame {
    /// Id and range in `bytes` of each chunk.
    pub chunks: Vec<(ChunkId, std::ops::Range<usize>)>,
    /// The plaintext, table included.
    pub bytes: Vec<u8>,
}

impl Frame {
    /// Reads what [`encode`] made, after the seal was opened. Allocates at most [`FRAME_BYTES_MAX`].
    pub fn decode(_opened: &[u8]) -> Result<Self> {
        todo!()
    }

    /// The chunk `id`, if the frame has it.
    pub fn chunk(&self, id: &ChunkId) -> Option<&[u8]> {
        let (_, range) = self.chunks.iter().find(|(chunk, _)| chunk == id)?;
        Some(&self.bytes[range.clone()])
    }
}

//! Packs: sealed frames back to back, a sealed directory of their chunks, a fixed footer.

use crate::seal::{FrameKind, PackKey};
use crate::{ChunkId, Result, VaultId};

/// Bytes of the footer, found from the pack's length.
pub const PACK_FOOTER_BYTES: usize = 32;

/// A pack that is being filled.
pub struct PackBuilder {}

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
    pub fn new(_vault: VaultId, _key: PackKey, _buffer: Vec<u8>) -> Self {
        todo!()
    }

    /// Seals and appends a frame made by [`crate::frame::encode`]. `chunks` gives, in order,
    /// the id of each chunk in it and the offset and length in the frame's plaintext.
    pub fn append(
        &mut self,
        _kind: FrameKind,
        _frame: Vec<u8>,
        _chunks: &[(ChunkId, u32)],
    ) -> Result<()> {
        todo!()
    }

    /// Bytes the pack would have if it were finished now.
    pub fn bytes(&self) -> u64 {
        todo!()
    }

    /// Whether it has no frame.
    pub fn is_empty(&self) -> bool {
        todo!()
    }

    /// Seals the directory and closes the pack.
    pub fn finish(self) -> Result<Pack> {
        todo!()
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
    pub fn open(_vault: VaultId, _key: &PackKey, _pack: &[u8]) -> Result<Self> {
        todo!()
    }

    /// The byte range of frame `number` in the pack.
    pub fn frame_range(&self, _number: u32) -> Option<std::ops::Range<usize>> {
        todo!()
    }
}

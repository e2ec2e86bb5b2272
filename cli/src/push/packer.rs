//! From new chunks to finished packs: chunks are laid into frames, frames compressed
//! on the rayon pool, sealed in order, and packs closed at their size.

use bytes::Bytes;
use codec::keys::VaultKeys;
use codec::pack::{Pack, PackBuilder};
use codec::seal::{FrameKind, PackKey, PackKeyField, TAG_BYTES};
use codec::{ChunkId, VaultId, frame};
use rayon::prelude::*;
use server::auth::random;
use tokio::sync::mpsc;

use crate::exit::Failure;

/// The zstd level of all frames: as dense as level 3 makes them, at its speed.
const ZSTD_LEVEL: i32 = 3;

/// Plaintext that is new to the vault.
#[derive(Debug, Clone)]
pub struct Chunk {
    /// Its id.
    pub id: ChunkId,
    /// Its bytes.
    pub bytes: Bytes,
}

/// A pack on its way to the servers.
pub struct FinishedPack {
    /// The pack; its buffer has room for the parity.
    pub pack: Pack,
    /// Its key, wrapped.
    pub pack_key: PackKeyField,
    /// Goes back to the pool with the buffer.
    pub buffers: BufferReturn,
}

/// Where used buffers go back to.
pub type BufferReturn = mpsc::UnboundedSender<Vec<u8>>;

/// A fixed number of buffers: they bound the stripes that are in memory at once.
pub struct Buffers {
    free: mpsc::UnboundedReceiver<Vec<u8>>,
    back: BufferReturn,
}

impl Buffers {
    /// `count` buffers of `bytes` each; a page of one is taken from the system when it is first written.
    pub fn new(count: usize, bytes: usize) -> Self {
        let (back, free) = mpsc::unbounded_channel();
        for _ in 0..count {
            // The receiver stands beside it.
            let _ = back.send(Vec::with_capacity(bytes));
        }
        Self { free, back }
    }
}

/// Fills packs with frames of one kind, and at the end with what little another has left.
pub struct Packer {
    vault: VaultId,
    keys: VaultKeys,
    kind: FrameKind,
    pack_bytes: u64,
    buffers: Buffers,
    waiting: Vec<Chunk>,
    waiting_bytes: usize,
    pack: Option<(PackBuilder, PackKeyField)>,
}

/// Takes finished packs; false when nobody wants them any more.
type Deliver<'a> = &'a mut dyn FnMut(FinishedPack) -> Result<(), Failure>;

impl Packer {
    /// A packer of `kind` frames into packs of about `pack_bytes`.
    pub fn new(vault: VaultId, keys: VaultKeys, kind: FrameKind, pack_bytes: u64, buffers: Buffers) -> Self {
        Self { vault, keys, kind, pack_bytes, buffers, waiting: Vec::new(), waiting_bytes: 0, pack: None }
    }

    /// Takes chunks in order. Chunks that do not fill a frame wait for the next call.
    pub fn add(&mut self, chunks: Vec<Chunk>, deliver: Deliver<'_>) -> Result<(), Failure> {
        let mut frames = Vec::new();
        for chunk in chunks {
            self.waiting_bytes += chunk.bytes.len() + frame::TABLE_ROW_BYTES;
            self.waiting.push(chunk);
            if self.waiting_bytes >= frame::FRAME_BYTES_TARGET {
                frames.push(self.take_waiting());
            }
        }
        self.append(self.kind, frames, deliver)
    }

    /// Takes what `other` has not yet put into a pack, so that a quiet night is one small stripe.
    pub fn absorb(&mut self, other: &mut Packer, deliver: Deliver<'_>) -> Result<(), Failure> {
        if other.pack.is_none() && !other.waiting.is_empty() {
            let frame = other.take_waiting();
            self.flush_waiting(deliver)?;
            self.append(other.kind, vec![frame], deliver)?;
        }
        Ok(())
    }

    /// Closes and delivers what is left.
    pub fn finish(mut self, deliver: Deliver<'_>) -> Result<(), Failure> {
        self.flush_waiting(deliver)?;
        self.close(deliver)
    }

    fn take_waiting(&mut self) -> Vec<Chunk> {
        self.waiting_bytes = 0;
        std::mem::take(&mut self.waiting)
    }

    fn flush_waiting(&mut self, deliver: Deliver<'_>) -> Result<(), Failure> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        let frame = self.take_waiting();
        self.append(self.kind, vec![frame], deliver)
    }

    fn append(&mut self, kind: FrameKind, frames: Vec<Vec<Chunk>>, deliver: Deliver<'_>) -> Result<(), Failure> {
        let encoded: Vec<codec::Result<Vec<u8>>> = frames.par_iter().map(|chunks| encode(chunks)).collect();
        for (chunks, encoded) in frames.iter().zip(encoded) {
            let encoded = encoded?;
            let grown = |pack: &PackBuilder| pack.bytes() + (encoded.len() + TAG_BYTES) as u64;
            if self.pack.as_ref().is_some_and(|(pack, _)| !pack.is_empty() && grown(pack) > self.pack_bytes) {
                self.close(deliver)?;
            }
            let rows: Vec<(ChunkId, u32)> = chunks.iter().map(|c| (c.id, c.bytes.len() as u32)).collect();
            self.open()?.append(kind, encoded, &rows)?;
        }
        Ok(())
    }

    fn open(&mut self) -> Result<&mut PackBuilder, Failure> {
        if self.pack.is_none() {
            let key = PackKey::new(random()?);
            let field = key.wrap(&self.keys, self.vault, random()?);
            // All senders are gone only when the push failed, and this side holds one.
            let buffer = self.buffers.free.blocking_recv().unwrap_or_default();
            self.pack = Some((PackBuilder::new(self.vault, key, buffer), field));
        }
        match &mut self.pack {
            Some((pack, _)) => Ok(pack),
            None => unreachable!("a pack was opened above"),
        }
    }

    fn close(&mut self, deliver: Deliver<'_>) -> Result<(), Failure> {
        match self.pack.take() {
            Some((pack, pack_key)) if !pack.is_empty() => {
                let buffers = self.buffers.back.clone();
                deliver(FinishedPack { pack: pack.finish()?, pack_key, buffers })
            }
            _ => Ok(()),
        }
    }
}

fn encode(chunks: &[Chunk]) -> codec::Result<Vec<u8>> {
    let chunks: Vec<(ChunkId, &[u8])> = chunks.iter().map(|c| (c.id, &c.bytes[..])).collect();
    frame::encode(&chunks, ZSTD_LEVEL)
}

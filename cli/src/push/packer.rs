//! From new chunks to finished packs: chunks are laid into frames, frames compressed
//! on the rayon pool, sealed in order, and packs closed at their size.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;
use codec::keys::VaultKeys;
use codec::pack::{Pack, PackBuilder};
use codec::seal::{FrameKind, PackKey, PackKeyField, TAG_BYTES};
use codec::{ChunkId, VaultId, frame};
use server::auth::random;
use server::cpu::{self, Job};
use tokio::sync::mpsc;

use crate::exit::Failure;

/// A pack is closed at this many chunks: each takes its place in the directory, in the
/// commit and in memory, however small it is.
const CHUNKS_PER_PACK: usize = 64 * 1024;
const _: () = assert!(CHUNKS_PER_PACK <= server::wire::CHUNKS_PER_STRIPE_MAX);

/// Plaintext, chunk tables included, that is being compressed at once, so that no processor waits
/// for another's last frame; a single frame may be longer.
const COMPRESSING_BYTES: usize = 8 * 1024 * 1024;

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
    compressing: VecDeque<Compressing>,
    compressing_bytes: usize,
    open: Option<OpenPack>,
    waited: Duration,
}

/// A frame that is being compressed.
struct Compressing {
    kind: FrameKind,
    rows: Vec<(ChunkId, u32)>,
    bytes: usize,
    encoded: Job<codec::Result<Vec<u8>>>,
}

struct OpenPack {
    pack: PackBuilder,
    pack_key: PackKeyField,
    chunks: usize,
}

/// Takes finished packs; an error ends the packing.
type Deliver<'a> = &'a mut dyn FnMut(FinishedPack) -> Result<(), Failure>;

impl Packer {
    /// A packer of `kind` frames into packs of about `pack_bytes`.
    pub fn new(
        vault: VaultId,
        keys: VaultKeys,
        kind: FrameKind,
        pack_bytes: u64,
        buffers: Buffers,
    ) -> Self {
        Self {
            vault,
            keys,
            kind,
            pack_bytes,
            buffers,
            waiting: Vec::new(),
            waiting_bytes: 0,
            compressing: VecDeque::new(),
            compressing_bytes: 0,
            open: None,
            waited: Duration::ZERO,
        }
    }

    /// Takes chunks in order. Chunks that do not fill a frame wait for the next call.
    pub fn add(&mut self, chunks: Vec<Chunk>, deliver: Deliver<'_>) -> Result<(), Failure> {
        for chunk in chunks {
            self.waiting_bytes += chunk.bytes.len() + frame::TABLE_ROW_BYTES;
            self.waiting.push(chunk);
            if self.waiting_bytes >= frame::FRAME_BYTES_TARGET {
                self.compress_waiting();
                while self.compressing_bytes > COMPRESSING_BYTES {
                    self.append_oldest(deliver)?;
                }
            }
        }
        Ok(())
    }

    /// Puts the oldest frame that is being compressed into a pack; `false` where there is none.
    pub fn append_oldest(&mut self, deliver: Deliver<'_>) -> Result<bool, Failure> {
        let Some(oldest) = self.compressing.pop_front() else { return Ok(false) };
        self.compressing_bytes -= oldest.bytes;
        self.append(oldest, deliver)?;
        Ok(true)
    }

    /// How long it has waited for packs before this one to be stored.
    pub fn waited(&self) -> Duration {
        self.waited
    }

    /// Takes what `other` has not yet put into a pack, so that a quiet night is one small stripe.
    pub fn absorb(&mut self, other: &mut Packer, deliver: Deliver<'_>) -> Result<(), Failure> {
        if other.open.is_none() && other.compressing.is_empty() && !other.waiting.is_empty() {
            self.compress_waiting();
            self.compress(other.kind, std::mem::take(&mut other.waiting));
            self.append_all(deliver)?;
        }
        Ok(())
    }

    /// Closes and delivers what is left.
    pub fn finish(mut self, deliver: Deliver<'_>) -> Result<(), Failure> {
        self.compress_waiting();
        self.append_all(deliver)?;
        self.close(deliver)
    }

    fn compress_waiting(&mut self) {
        self.waiting_bytes = 0;
        let chunks = std::mem::take(&mut self.waiting);
        if !chunks.is_empty() {
            self.compress(self.kind, chunks);
        }
    }

    /// Begins a frame on the rayon pool.
    fn compress(&mut self, kind: FrameKind, chunks: Vec<Chunk>) {
        let rows: Vec<_> = chunks.iter().map(|c| (c.id, c.bytes.len() as u32)).collect();
        let bytes = chunks.iter().map(|c| c.bytes.len() + frame::TABLE_ROW_BYTES).sum();
        let encoded = cpu::begin(move || encode(&chunks));
        self.compressing_bytes += bytes;
        self.compressing.push_back(Compressing { kind, rows, bytes, encoded });
    }

    fn append_all(&mut self, deliver: Deliver<'_>) -> Result<(), Failure> {
        while self.append_oldest(deliver)? {}
        Ok(())
    }

    fn append(&mut self, frame: Compressing, deliver: Deliver<'_>) -> Result<(), Failure> {
        let Compressing { kind, rows, encoded, .. } = frame;
        let encoded = encoded.wait()?;
        let full = |open: &OpenPack| {
            let bytes = open.pack.bytes() + (encoded.len() + TAG_BYTES) as u64;
            !open.pack.is_empty()
                && (bytes > self.pack_bytes || open.chunks + rows.len() > CHUNKS_PER_PACK)
        };
        if self.open.as_ref().is_some_and(full) {
            self.close(deliver)?;
        }
        let open = self.open()?;
        open.pack.append(kind, encoded, &rows)?;
        open.chunks += rows.len();
        Ok(())
    }

    fn open(&mut self) -> Result<&mut OpenPack, Failure> {
        if self.open.is_none() {
            let key = PackKey::new(random()?);
            let field = key.wrap(&self.keys, self.vault, random()?);
            // All senders are gone only when the push failed, and this side holds one.
            let began = Instant::now();
            let buffer = self.buffers.free.blocking_recv().unwrap_or_default();
            self.waited += began.elapsed();
            let pack = PackBuilder::new(self.vault, key, buffer);
            self.open = Some(OpenPack { pack, pack_key: field, chunks: 0 });
        }
        match &mut self.open {
            Some(open) => Ok(open),
            None => unreachable!("a pack was opened above"),
        }
    }

    fn close(&mut self, deliver: Deliver<'_>) -> Result<(), Failure> {
        let Some(open) = self.open.take() else { return Ok(()) };
        let pack = open.pack.finish()?;
        let began = Instant::now();
        let buffers = self.buffers.back.clone();
        let delivered = deliver(FinishedPack { pack, pack_key: open.pack_key, buffers });
        self.waited += began.elapsed();
        delivered
    }
}

fn encode(chunks: &[Chunk]) -> codec::Result<Vec<u8>> {
    let chunks: Vec<(ChunkId, &[u8])> = chunks.iter().map(|c| (c.id, &c.bytes[..])).collect();
    frame::encode(&chunks, frame::LEVEL)
}

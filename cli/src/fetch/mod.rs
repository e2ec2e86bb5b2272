//! Reading chunks back: from chunk ids to plaintext, whatever is broken on the way.
//!
//! A healthy read takes byte ranges of data shards and trusts the AEAD tag. When
//! a shard is missing, slow or wrong, columns of any k shards are read, checked
//! block by block and decoded; where too few are whole, each block for itself. Slow is
//! what takes far longer than the others do: it is not read from for a while, unless
//! there are too few others. A
//! server that does not answer is waited for, once, where others cannot serve in its
//! stead. What was met on the way is reported to the coordinator once, for repair.

mod columns;
mod directory;
mod error;
mod limit;
mod memory;
mod origin;
mod pace;
mod shards;
mod span;
mod tree;
mod trouble;
mod withhold;

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use codec::frame::Frame;
use codec::keys::VaultKeys;
use codec::manifest::ChunkRef;
use codec::seal::{FrameKind, PackKey};
use codec::shard::Kind;
use codec::{ChunkId, StripeId, VaultId};
use futures_util::StreamExt as _;
use rayon::prelude::*;
use server::cpu;
use server::wire::{
    CHUNKS_PER_REQUEST_MAX, CheckAnswer, CheckRequest, Found, Holder, ReadTicket, StripeMap,
};
use tokio::sync::Semaphore;

use crate::config::Location;
use crate::rescue::Folders;
use crate::ui::Counters;
use crate::vault::Vault;

use self::columns::{ColumnCache, Reach, WHOLE_BYTES_MAX};
pub use self::directory::pack_key;
pub use self::error::{FetchError, Result};
use self::limit::Limit;
use self::memory::SpanMemory;
use self::origin::{Origin, STALL, Services};
use self::span::Span;
pub use self::tree::{ChunkList, Entries, Pages};
use self::trouble::Trouble;
pub use self::trouble::{Heal, PassedOver, Tickets};
use self::withhold::Withholding;

/// Bytes of spans, not opened yet, that are held or under way at once.
const SPANS_BYTES_MAX: u32 = 32 * 1024 * 1024;
/// Spans of one stripe that are under way at once.
const SPANS_AT_ONCE: usize = 4;

/// Memory of a frame that is longer is not kept: most have 1 MiB and a chunk.
const PLAINTEXT_KEPT_MAX: usize = 2 * 1024 * 1024;

thread_local! {
    /// The memory of the last frame that the thread opened: fresh memory costs as much as filling it.
    static PLAINTEXT: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Reads chunks of one vault.
pub struct Fetcher {
    vault: VaultId,
    keys: VaultKeys,
    origin: Arc<Origin>,
    trouble: Trouble,
    cache: ColumnCache,
    /// A permit for each byte of a span.
    room: Semaphore,
    memory: SpanMemory,
    withholding: Option<Withholding>,
    counters: Arc<Counters>,
    limit: Limit,
}

/// The frames of one stripe that hold wanted chunks.
#[derive(Debug, Clone)]
pub struct Want {
    /// The stripe.
    pub map: Arc<StripeMap>,
    /// Numbers of its frames, ascending.
    pub frames: Vec<u32>,
}

impl Fetcher {
    /// A reader of `vault`; what comes from each server is counted in `counters`.
    pub fn new(vault: &Vault, counters: Arc<Counters>) -> server::Result<Self> {
        // A disk that is not there when a command begins is not there when it ends.
        let patience = match vault.location {
            Location::Dir(_) => Duration::ZERO,
            Location::Url(_) => STALL,
        };
        let services = Services::new(vault.coordinator.clone(), patience);
        let origin = Origin::Services(services);
        Ok(Self::of(origin, vault.record.vault, vault.keys.clone(), counters))
    }

    /// A reader of the shards in `folders`.
    pub fn of_folders(
        folders: Arc<Folders>,
        vault: VaultId,
        keys: VaultKeys,
        counters: Arc<Counters>,
    ) -> Self {
        Self::of(Origin::Folders(folders), vault, keys, counters)
    }

    fn of(origin: Origin, vault: VaultId, keys: VaultKeys, counters: Arc<Counters>) -> Self {
        let origin = Arc::new(origin);
        let trouble = Trouble::new(Arc::clone(&origin));
        Self {
            vault,
            keys,
            origin,
            trouble,
            cache: ColumnCache::default(),
            room: Semaphore::new(SPANS_BYTES_MAX as usize),
            memory: SpanMemory::default(),
            withholding: None,
            limit: Limit::new(Arc::clone(&counters)),
            counters,
        }
    }

    /// Reads without m shards of each stripe, chosen at random, as long as it can.
    pub fn withholding(self) -> Self {
        Self { withholding: Some(Withholding::default()), ..self }
    }

    /// Stripes read in part or whole while shards of them were withheld, and how many shards.
    pub fn withheld(&self) -> (u64, u64) {
        self.withholding.as_ref().map(Withholding::counts).unwrap_or_default()
    }

    /// The vault.
    pub fn vault(&self) -> VaultId {
        self.vault
    }

    /// Its keys.
    pub fn keys(&self) -> &VaultKeys {
        &self.keys
    }

    /// What reading met and got around so far.
    pub fn heals(&self) -> Vec<Heal> {
        self.trouble.heals()
    }

    /// Servers that gave no usable answer so far, by name.
    pub fn passed_over(&self) -> Vec<PassedOver> {
        self.trouble.passed_over()
    }

    /// The tickets in use, with every server's name.
    pub async fn tickets(&self) -> Result<Arc<Tickets>> {
        self.trouble.tickets().await
    }

    /// Has a server look at its own shards; once more with a new ticket where it refuses the
    /// one it is given, as after a restart of the coordinator. An error says why not.
    pub async fn check(
        &self,
        ticket: &ReadTicket,
        request: &CheckRequest,
    ) -> Result<CheckAnswer, String> {
        let answer = self.origin.check(ticket, request).await;
        let answer = match answer {
            Err(error) if trouble::is_stale(&error) => {
                self.trouble.renew_tickets().await;
                let tickets = self.tickets().await.map_err(|error| error.to_string())?;
                match tickets.servers.get(&ticket.server) {
                    Some(renewed) => self.origin.check(renewed, request).await,
                    None => Err(error),
                }
            }
            answer => answer,
        };
        answer.map_err(|error| error.to_string())
    }

    /// Takes note of what a server said of one of its shards, and tells the coordinator.
    pub async fn note(&self, map: &StripeMap, holder: &Holder, found: Found) {
        match found {
            Found::Good => self.trouble.good_shard(map, holder).await,
            bad => drop(self.trouble.bad_shard(map, holder, bad).await),
        }
    }

    /// Whole chunks, by id. All of them are held in memory: ask for few.
    pub async fn chunks(
        &self,
        kind: FrameKind,
        ids: &[ChunkId],
    ) -> Result<HashMap<ChunkId, Vec<u8>>> {
        let mut found = HashMap::with_capacity(ids.len());
        for ids in ids.chunks(CHUNKS_PER_REQUEST_MAX) {
            let mut open: Vec<ChunkId> = ids.to_vec();
            let wanted: HashSet<ChunkId> = ids.iter().copied().collect();
            let each = Arc::new(move |_, frame: &mut Frame| {
                let wanted = frame.chunks.iter().filter(|(id, _)| wanted.contains(id));
                wanted
                    .map(|(id, range)| (*id, frame.bytes[range.clone()].to_vec()))
                    .collect::<Vec<_>>()
            });
            let places = self.locate(&open).await?;
            let mut failed: Option<FetchError> = None;
            // A chunk may have several places: when one cannot be read, the next is tried.
            for attempt in 0.. {
                let (wants, placeless) = wants(&open, &places, attempt);
                if let Some(id) = placeless.first() {
                    return Err(failed.unwrap_or_else(|| self.no_place(*id, attempt)));
                }
                for want in wants {
                    let frames = self.frames(kind, &want, &each).await;
                    found.extend(frames.made.into_iter().flatten());
                    for (_, error) in frames.failed {
                        failed = Some(match failed {
                            Some(before) => before.or(error),
                            None => error,
                        });
                    }
                }
                open.retain(|id| !found.contains_key(id));
                if open.is_empty() {
                    break;
                }
            }
        }
        Ok(found)
    }

    /// One chunk.
    pub async fn chunk(&self, kind: FrameKind, chunk: ChunkRef) -> Result<Vec<u8>> {
        let mut found = self.chunks(kind, &[chunk.id]).await?;
        match found.remove(&chunk.id) {
            Some(bytes) if bytes.len() == chunk.bytes as usize => Ok(bytes),
            Some(bytes) => Err(FetchError::Lost(format!(
                "chunk {:.8} has {} bytes, not {}",
                chunk.id,
                bytes.len(),
                chunk.bytes
            ))),
            None => Err(self.no_place(chunk.id, 0)),
        }
    }

    /// The newest maps of those of `stripes` that there are; none where nobody can tell.
    pub async fn maps(&self, stripes: Vec<StripeId>) -> Result<Vec<Arc<StripeMap>>> {
        Ok(self.origin.maps(stripes).await?.into_iter().map(Arc::new).collect())
    }

    /// All places of each chunk: stripe and frame.
    pub async fn locate(&self, ids: &[ChunkId]) -> Result<Places> {
        let began = Instant::now();
        let mut places = self.origin.locate(ids).await?;
        self.limit.located(began.elapsed());
        // Anybody can make a record: no chunk is in one.
        places.values_mut().for_each(|rows| rows.retain(|(map, _)| map.kind != Kind::Record));
        Ok(places)
    }

    /// Hands each frame of `want`, by its number, opened and decompressed, to `each` on the rayon
    /// pool, and returns what that made of them, in any order, and the frames that no set of good
    /// shards gives. Some spans are read while others are opened.
    pub async fn frames<T: Send + 'static>(
        &self,
        kind: FrameKind,
        want: &Want,
        each: &Arc<impl Fn(u32, &mut Frame) -> T + Send + Sync + 'static>,
    ) -> Frames<T> {
        let mut frames = Frames { made: Vec::with_capacity(want.frames.len()), failed: Vec::new() };
        let spans = match span::coalesce(&want.map, &want.frames) {
            Ok(spans) => spans,
            Err(error) => {
                return Frames {
                    failed: want.frames.iter().map(|n| (*n, error.clone())).collect(),
                    ..frames
                };
            }
        };
        // Of metadata, a page is wanted here and there.
        let is_whole = kind == FrameKind::Data
            && want.map.pack_bytes <= WHOLE_BYTES_MAX
            && span::are_many(&want.map, &spans)
            && !self.cache.had_to_drop(&want.map);
        let reach = if is_whole { Reach::Stripe } else { Reach::Span };
        let read = |span| self.frames_of_span(kind, &want.map, span, reach, each);
        let mut read = std::pin::pin!(
            futures_util::stream::iter(spans).map(read).buffer_unordered(SPANS_AT_ONCE)
        );
        while let Some(Frames { made, failed }) = read.next().await {
            frames.made.extend(made);
            frames.failed.extend(failed);
        }
        frames
    }

    async fn frames_of_span<T: Send + 'static>(
        &self,
        kind: FrameKind,
        map: &Arc<StripeMap>,
        span: Span,
        reach: Reach,
        each: &Arc<impl Fn(u32, &mut Frame) -> T + Send + Sync + 'static>,
    ) -> Frames<T> {
        let bytes = (span.pack.end - span.pack.start).min(SPANS_BYTES_MAX.into()) as u32;
        // Nobody closes it.
        let _room = self.room.acquire_many(bytes).await;
        let mut frames = Frames { made: Vec::with_capacity(span.frames.len()), failed: Vec::new() };
        let read = self.span_frames(kind, map, span, reach, each, &mut frames.made).await;
        let Err((left, _)) = read else { return frames };
        // Perhaps some of its frames lie in shards, or columns, that are whole.
        for span in left.single_frames() {
            let read = self.span_frames(kind, map, span, Reach::Frame, each, &mut frames.made);
            if let Err((left, error)) = read.await {
                frames.failed.extend(left.frames.iter().map(|(n, _)| (*n, error.clone())));
            }
        }
        frames
    }

    /// On an error, what is left of the span.
    async fn span_frames<T: Send + 'static>(
        &self,
        kind: FrameKind,
        map: &Arc<StripeMap>,
        span: Span,
        reach: Reach,
        each: &Arc<impl Fn(u32, &mut Frame) -> T + Send + Sync + 'static>,
        made: &mut Vec<T>,
    ) -> Result<(), (Span, FetchError)> {
        let mut left = span;
        let began = Instant::now();
        let direct = self.read_direct(map, &left, reach).await;
        self.limit.read(began.elapsed());
        match direct {
            Ok(Some(bytes)) => left = self.open(kind, map, left, bytes, each, made).await?,
            Ok(None) => {}
            Err(error) => return Err((left, error)),
        }
        if left.frames.is_empty() {
            return Ok(());
        }
        let began = Instant::now();
        let through_columns = self.read_through_columns(map, &left, reach).await;
        self.limit.read(began.elapsed());
        let bytes = match through_columns {
            Ok(bytes) => bytes,
            Err(error) => return Err((left, error)),
        };
        left = self.open(kind, map, left, bytes, each, made).await?;
        if left.frames.is_empty() {
            return Ok(());
        }
        let why = format!(
            "stripe {:.8}: its shards are whole, and yet a frame does not open",
            map.stripe
        );
        Err((left, FetchError::Lost(why)))
    }

    /// Opens the frames of a span; what comes back is the span with those that did not open.
    async fn open<T: Send + 'static>(
        &self,
        kind: FrameKind,
        map: &Arc<StripeMap>,
        mut span: Span,
        mut bytes: BytesMut,
        each: &Arc<impl Fn(u32, &mut Frame) -> T + Send + Sync + 'static>,
        made: &mut Vec<T>,
    ) -> Result<Span, (Span, FetchError)> {
        let key = match PackKey::unwrap_field(&map.pack_key, &self.keys, self.vault) {
            Ok(key) => key,
            Err(error) => {
                return Err((span, FetchError::Lost(format!("stripe {:.8}: {error}", map.stripe))));
            }
        };
        let (vault, frames, start) = (self.vault, span.frames.clone(), span.pack.start);
        let each = Arc::clone(each);
        let opened = cpu::run(move || {
            let mut rest = &mut bytes[..];
            let mut at = start;
            let mut sealed = Vec::with_capacity(frames.len());
            for (number, range) in frames {
                let (_, tail) = std::mem::take(&mut rest).split_at_mut((range.start - at) as usize);
                let (frame, tail) = tail.split_at_mut((range.end - range.start) as usize);
                (rest, at) = (tail, range.end);
                sealed.push((number, frame));
            }
            let open = |(number, sealed): (u32, &mut [u8])| {
                let frame = key
                    .open(vault, kind, number, sealed)
                    .and_then(|opened| Frame::decode_in(opened, PLAINTEXT.take()));
                let made = frame.map(|mut frame| {
                    let made = each(number, &mut frame);
                    if frame.bytes.capacity() <= PLAINTEXT_KEPT_MAX {
                        PLAINTEXT.set(frame.bytes);
                    }
                    made
                });
                made.map_err(|error| {
                    tracing::debug!(%error, number, "a frame does not open");
                    number
                })
            };
            let opened: Vec<Result<T, u32>> = sealed.into_par_iter().map(open).collect();
            (opened, bytes)
        });
        let mut closed = Vec::new();
        let began = Instant::now();
        let (opened, bytes) = opened.await;
        self.limit.opened(began.elapsed());
        self.memory.give(bytes);
        for result in opened {
            match result {
                Ok(value) => made.push(value),
                Err(number) => closed.push(number),
            }
        }
        span.frames.retain(|(number, _)| closed.contains(number));
        Ok(span)
    }

    /// What to say of a chunk that none of its `places` gave, or that has none.
    pub fn no_place(&self, id: ChunkId, places: usize) -> FetchError {
        FetchError::Lost(match places {
            0 => format!("chunk {id:.8} is {}", self.origin.no_place()),
            n => format!("chunk {id:.8} could be read from none of its {n} places"),
        })
    }
}

/// What became of some frames.
pub struct Frames<T> {
    /// What was made of those that opened.
    pub made: Vec<T>,
    /// The others.
    pub failed: Vec<(u32, FetchError)>,
}

/// All places of some chunks.
pub type Places = HashMap<ChunkId, Vec<(Arc<StripeMap>, u32)>>;

/// Groups chunks by the stripe of their `attempt`-th place, stripes in a stable order; the
/// second part are the chunks that have no such place.
pub fn wants(ids: &[ChunkId], places: &Places, attempt: usize) -> (Vec<Want>, Vec<ChunkId>) {
    let mut stripes: HashMap<StripeId, Want> = HashMap::new();
    let mut order: Vec<StripeId> = Vec::new();
    let mut placeless = Vec::new();
    for id in ids {
        let Some((map, frame)) = places.get(id).and_then(|rows| rows.get(attempt)) else {
            placeless.push(*id);
            continue;
        };
        let want = stripes.entry(map.stripe).or_insert_with(|| {
            order.push(map.stripe);
            Want { map: Arc::clone(map), frames: Vec::new() }
        });
        want.frames.push(*frame);
    }
    let wants = order.iter().filter_map(|id| stripes.remove(id)).map(|mut want| {
        want.frames.sort_unstable();
        want.frames.dedup();
        want
    });
    (wants.collect(), placeless)
}

//! Reading chunks back: from chunk ids to plaintext, whatever is broken on the way.
//!
//! A healthy read takes byte ranges of data shards and trusts the AEAD tag. When
//! a shard is missing, slow or wrong, columns of any k shards are read, checked
//! block by block and decoded. What was met on the way is reported to the
//! coordinator once, for repair.

mod columns;
mod span;
mod trouble;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use codec::frame::Frame;
use codec::keys::VaultKeys;
use codec::manifest::ChunkRef;
use codec::seal::{FrameKind, PackKey};
use codec::{ChunkId, StripeId, VaultId};
use server::client::{CoordinatorClient, StorageClient};
use server::cpu;
use server::wire::{CHUNKS_PER_REQUEST_MAX, StripeMap};

use self::columns::ColumnCache;
use self::span::Span;
use self::trouble::Trouble;
pub use self::trouble::{Heal, Tickets};

/// A server that sends nothing for this long is passed over while others can serve.
const HEDGE_AFTER: Duration = Duration::from_secs(2);
/// A server that sends nothing for this long does not answer.
const STALL: Duration = Duration::from_secs(30);

/// Why chunks could not be read.
#[derive(Debug, Clone, thiserror::Error)]
pub enum FetchError {
    /// More than m shards of a stripe are known to be missing or damaged, or no stripe is known to hold the chunk.
    #[error("{0}")]
    Lost(String),
    /// Too few servers answer; what they hold may be whole.
    #[error("{0}")]
    TooFewServers(String),
    /// The coordinator.
    #[error("{0}")]
    Coordinator(Arc<server::Error>),
}

impl From<server::Error> for FetchError {
    fn from(error: server::Error) -> Self {
        Self::Coordinator(Arc::new(error))
    }
}

/// The result of reading.
pub type Result<T, E = FetchError> = std::result::Result<T, E>;

/// Reads chunks of one vault.
pub struct Fetcher {
    vault: VaultId,
    keys: VaultKeys,
    coordinator: CoordinatorClient,
    quick: StorageClient,
    patient: StorageClient,
    trouble: Trouble,
    cache: ColumnCache,
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
    /// A reader of the vault behind `coordinator`.
    pub fn new(vault: VaultId, keys: VaultKeys, coordinator: CoordinatorClient) -> server::Result<Self> {
        Ok(Self {
            vault,
            keys,
            trouble: Trouble::new(coordinator.clone()),
            coordinator,
            quick: StorageClient::new(HEDGE_AFTER)?,
            patient: StorageClient::new(STALL)?,
            cache: ColumnCache::default(),
        })
    }

    /// What reading met and got around so far.
    pub fn heals(&self) -> Vec<Heal> {
        self.trouble.heals()
    }

    /// The tickets in use, with every server's name.
    pub async fn tickets(&self) -> Result<Arc<Tickets>> {
        self.trouble.tickets().await
    }

    /// The storage client that waits long.
    pub fn storage(&self) -> &StorageClient {
        &self.patient
    }

    /// Tells the coordinator what was found where a shard should be.
    pub async fn report(&self, map: &StripeMap, index: u8, found: server::wire::Found) {
        self.trouble.bad_shard(map, index, found).await;
    }

    /// Whole chunks, by id. All of them are held in memory: ask for few.
    pub async fn chunks(&self, kind: FrameKind, ids: &[ChunkId]) -> Result<HashMap<ChunkId, Vec<u8>>> {
        let mut found = HashMap::with_capacity(ids.len());
        for ids in ids.chunks(CHUNKS_PER_REQUEST_MAX) {
            let mut open: Vec<ChunkId> = ids.to_vec();
            let places = self.locate(&open).await?;
            // A chunk may have several places: when one cannot be read, the next is tried.
            for attempt in 0.. {
                let (wants, placeless) = wants(&open, &places, attempt);
                if let Some(id) = placeless.first() {
                    return Err(self.no_place(*id, attempt));
                }
                let mut last = None;
                for want in wants {
                    match self.frames(kind, &want).await {
                        Ok(frames) => {
                            for (_, frame) in &frames {
                                for (id, range) in &frame.chunks {
                                    if open.contains(id) {
                                        found.insert(*id, frame.bytes[range.clone()].to_vec());
                                    }
                                }
                            }
                        }
                        Err(error) => last = Some(error),
                    }
                }
                open.retain(|id| !found.contains_key(id));
                if open.is_empty() {
                    break;
                }
                let more = open.iter().all(|id| places[id].len() > attempt + 1);
                if !more && let Some(error) = last {
                    return Err(error);
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
            Some(bytes) => {
                Err(FetchError::Lost(format!("chunk {:.8} has {} bytes, not {}", chunk.id, bytes.len(), chunk.bytes)))
            }
            None => Err(self.no_place(chunk.id, 0)),
        }
    }

    /// All places of each chunk: stripe and frame.
    pub async fn locate(&self, ids: &[ChunkId]) -> Result<Places> {
        let mut places = Places::with_capacity(ids.len());
        for ids in ids.chunks(CHUNKS_PER_REQUEST_MAX) {
            let answer = self.coordinator.locate(ids.to_vec()).await?;
            let stripes: Vec<Arc<StripeMap>> = answer.stripes.into_iter().map(Arc::new).collect();
            for (id, rows) in ids.iter().zip(answer.places) {
                let rows = rows.into_iter().map(|(s, frame)| (Arc::clone(&stripes[s as usize]), frame));
                places.insert(*id, rows.collect());
            }
        }
        Ok(places)
    }

    /// The frames of `want`, opened and decompressed. A frame that no set of good shards
    /// gives is an error.
    pub async fn frames(&self, kind: FrameKind, want: &Want) -> Result<Vec<(u32, Frame)>> {
        let mut opened = Vec::with_capacity(want.frames.len());
        for span in span::coalesce(&want.map, &want.frames)? {
            opened.extend(self.span_frames(kind, &want.map, span).await?);
        }
        Ok(opened)
    }

    async fn span_frames(&self, kind: FrameKind, map: &Arc<StripeMap>, span: Span) -> Result<Vec<(u32, Frame)>> {
        let direct = self.read_direct(map, &span).await?;
        if let Some(bytes) = direct
            && let Ok(frames) = self.open(kind, map, &span, bytes).await
        {
            return Ok(frames);
        }
        let bytes = self.read_through_columns(map, &span).await?;
        self.open(kind, map, &span, bytes).await.map_err(|error| {
            FetchError::Lost(format!("stripe {:.8}: its shards are whole, and yet {error}", map.stripe))
        })
    }

    async fn open(
        &self,
        kind: FrameKind,
        map: &Arc<StripeMap>,
        span: &Span,
        mut bytes: Vec<u8>,
    ) -> codec::Result<Vec<(u32, Frame)>> {
        let key = PackKey::unwrap_field(&map.pack_key, &self.keys, self.vault)?;
        let (vault, span) = (self.vault, span.clone());
        cpu::run(move || {
            let start = span.pack.start;
            span.frames
                .iter()
                .map(|(number, range)| {
                    let sealed = &mut bytes[(range.start - start) as usize..(range.end - start) as usize];
                    let opened = key.open(vault, kind, *number, sealed)?;
                    Ok((*number, Frame::decode(opened)?))
                })
                .collect()
        })
        .await
    }

    fn no_place(&self, id: ChunkId, attempt: usize) -> FetchError {
        FetchError::Lost(match attempt {
            0 => format!("chunk {id:.8} is in no stripe that the coordinator knows"),
            n => format!("chunk {id:.8} could be read from none of its {n} places"),
        })
    }
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

//! The two ways to the bytes of a span: straight from the data shards, or by
//! columns of any k shards, checked and decoded.

use std::collections::{HashMap, HashSet, VecDeque};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::BytesMut;
use codec::StripeId;
use codec::digest::BLOCK_BYTES;
use codec::erasure::Code;
use futures_util::future::try_join_all;
use server::cpu;
use server::wire::{Holder, StripeMap};

use super::shards::{Failed, header_bytes};
use super::span::{Piece, Span, shard_bytes};
use super::trouble::Doubt;
use super::{FetchError, Fetcher, Result};

/// Bytes of decoded columns that are kept for the next spans, with those that are being read: the
/// packs that two windows of a pull, which follow each other, mostly have in common, or those of two
/// stripes of a verify. A stripe of 64 MiB that is decoded takes as much again where it has as many data
/// shards as parity shards: all in all 160 MiB.
const CACHED_BYTES_MAX: u64 = WHOLE_BYTES_MAX * 3 / 2;
/// Longer packs are never decoded as a whole where a part will do.
pub(super) const WHOLE_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// How far the reading of a span goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// Where a data shard must be made of others, all of the stripe: the rest is wanted as well.
    Stripe,
    /// What is wanted, and its columns.
    Span,
    /// The same for a frame that cannot be had with others: whatever may still have it is asked.
    Frame,
}

/// The data bodies of a stripe, or the same columns of each, decoded and checked.
#[derive(Debug)]
struct Columns {
    stripe: StripeId,
    range: Range<u64>,
    bodies: Vec<Vec<u8>>,
}

impl Columns {
    /// The bytes of a piece, which lies in these columns.
    fn of(&self, Piece { index, body }: &Piece) -> &[u8] {
        let (start, end) = (body.start - self.range.start, body.end - self.range.start);
        &self.bodies[*index as usize][start as usize..end as usize]
    }

    fn bytes(&self) -> u64 {
        self.bodies.iter().map(|body| body.len() as u64).sum()
    }
}

/// The columns decoded last.
#[derive(Debug, Default)]
pub(super) struct ColumnCache {
    turn: tokio::sync::Mutex<()>,
    /// Taken before that one, by whoever wants all of a stripe.
    stripe_turn: tokio::sync::Mutex<()>,
    kept: Mutex<VecDeque<Arc<Columns>>>,
    /// Stripes that were decoded as a whole, and are perhaps not here any more.
    wholes: Mutex<HashSet<StripeId>>,
    /// Stripes that cannot be decoded as a whole, and why.
    broken: Mutex<HashMap<StripeId, FetchError>>,
}

impl ColumnCache {
    fn find(&self, stripe: StripeId, range: &Range<u64>) -> Option<Arc<Columns>> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.iter()
            .find(|c| {
                c.stripe == stripe && c.range.start <= range.start && range.end <= c.range.end
            })
            .map(Arc::clone)
    }

    /// Whether a stripe was decoded as a whole and had to go. It will not be again: whoever reads
    /// many stripes in turn would have each read over and over.
    pub(super) fn had_to_drop(&self, map: &StripeMap) -> bool {
        let wholes = self.wholes.lock().unwrap_or_else(PoisonError::into_inner);
        wholes.contains(&map.stripe) && self.find(map.stripe, &(0..shard_bytes(map))).is_none()
    }

    /// The bytes of a span, if all of its pieces are here.
    fn bytes(&self, map: &StripeMap, span: &Span) -> Option<BytesMut> {
        let mut bytes = BytesMut::new();
        for piece in span.pieces(map) {
            bytes.extend_from_slice(self.find(map.stripe, &piece.body)?.of(&piece));
        }
        Some(bytes)
    }

    /// Drops the oldest, so that they are gone before so many bytes are read.
    fn make_room(&self, bytes: u64) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let mut room = CACHED_BYTES_MAX.saturating_sub(bytes);
        let fits = kept.iter().take_while(|columns| {
            let left = room.checked_sub(columns.bytes());
            room = left.unwrap_or(room);
            left.is_some()
        });
        let fits = fits.count();
        kept.truncate(fits);
    }

    fn keep(&self, columns: Arc<Columns>) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.push_front(columns);
    }

    fn broken(&self) -> MutexGuard<'_, HashMap<StripeId, FetchError>> {
        self.broken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Fetcher {
    /// The span's bytes from its data shards alone; `None` when one of them is in doubt or fails.
    pub(super) async fn read_direct(
        &self,
        map: &StripeMap,
        span: &Span,
        reach: Reach,
    ) -> Result<Option<BytesMut>> {
        if let Some(bytes) = self.cache.bytes(map, span) {
            return Ok(Some(bytes));
        }
        let tickets = self.trouble.tickets().await?;
        let mut candidates = self.candidates(map, &tickets);
        let is_last = reach == Reach::Frame;
        candidates.retain(|c| c.doubt == Doubt::None || is_last);
        let holder = |index| candidates.iter().find(|c| c.holder.index == index).map(|c| c.holder);
        // Where one data shard is to be made of others, these are read once, for all.
        if reach == Reach::Stripe
            && (0..map.geometry.data() as u8).any(|index| holder(index).is_none())
        {
            return Ok(None);
        }
        let pieces = span.pieces(map);
        let holders = pieces.iter().map(|piece| holder(piece.index)).collect::<Option<Vec<_>>>();
        let Some(holders) = holders else { return Ok(None) };
        let mut memory = self.memory.take((span.pack.end - span.pack.start) as usize);
        let reads =
            pieces.iter().zip(&holders).map(|(piece, holder)| {
                // Side by side in one memory: nothing is copied to join them.
                let rest = memory.split_off((piece.body.end - piece.body.start) as usize);
                let mut part = std::mem::replace(&mut memory, rest);
                async move {
                    self.read_piece(map, holder, piece, is_last, &mut part).await.map(|()| part)
                }
            });
        let Ok(parts) = try_join_all(reads).await else { return Ok(None) };
        Ok(parts.into_iter().chain([memory]).reduce(|mut bytes, part| {
            bytes.unsplit(part);
            bytes
        }))
    }

    /// The span's bytes out of columns of any k good shards.
    pub(super) async fn read_through_columns(
        &self,
        map: &Arc<StripeMap>,
        span: &Span,
        reach: Reach,
    ) -> Result<BytesMut> {
        let mut bytes = BytesMut::new();
        for piece in span.pieces(map) {
            let columns = match reach {
                Reach::Stripe => self.cached_stripe(map).await?,
                Reach::Span | Reach::Frame => self.cached_columns(map, piece.body.clone()).await?,
            };
            bytes.extend_from_slice(columns.of(&piece));
        }
        Ok(bytes)
    }

    /// All columns. That they cannot be had is found out once.
    async fn cached_stripe(&self, map: &Arc<StripeMap>) -> Result<Arc<Columns>> {
        let _turn = self.cache.stripe_turn.lock().await;
        if let Some(error) = self.cache.broken().get(&map.stripe) {
            return Err(error.clone());
        }
        let columns = self.cached_columns(map, 0..shard_bytes(map)).await;
        self.cache.wholes.lock().unwrap_or_else(PoisonError::into_inner).insert(map.stripe);
        if let Err(error) = &columns {
            self.cache.broken().insert(map.stripe, error.clone());
        }
        columns
    }

    /// One at a time: a stripe takes its size in memory, and whoever waits may want the same one.
    async fn cached_columns(
        &self,
        map: &Arc<StripeMap>,
        wanted: Range<u64>,
    ) -> Result<Arc<Columns>> {
        let _turn = self.cache.turn.lock().await;
        if let Some(columns) = self.cache.find(map.stripe, &wanted) {
            return Ok(columns);
        }
        self.cache.make_room((wanted.end - wanted.start) * map.geometry.data() as u64);
        let columns = Arc::new(self.decode_columns(map, wanted).await?);
        self.cache.keep(Arc::clone(&columns));
        Ok(columns)
    }

    /// The k data bodies of a stripe, from any k good shards: checked and decoded.
    pub async fn data_bodies(&self, map: &Arc<StripeMap>) -> Result<Vec<Vec<u8>>> {
        Ok(self.decode_columns(map, 0..shard_bytes(map)).await?.bodies)
    }

    async fn decode_columns(&self, map: &Arc<StripeMap>, wanted: Range<u64>) -> Result<Columns> {
        let block = BLOCK_BYTES as u64;
        let end = wanted.end.next_multiple_of(block).min(shard_bytes(map));
        let range = wanted.start / block * block..end;
        let mut bodies = vec![Vec::new(); map.geometry.data()];
        let mut parts = vec![range.clone()];
        while let Some(part) = parts.pop() {
            match self.decode_part(map, &part).await {
                // Mostly it is all of it.
                Ok(columns) if part == range => bodies = columns,
                Ok(columns) => {
                    bodies.iter_mut().zip(columns).for_each(|(body, part)| body.extend(part))
                }
                // Shards that are damaged in one block are good for others.
                Err(FetchError::Lost(_))
                    if part.end - part.start > block && !self.is_beyond_repair(map) =>
                {
                    let blocks = (part.end - part.start).div_ceil(block);
                    let middle = part.start + blocks / 2 * block;
                    parts.extend([middle..part.end, part.start..middle]);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(Columns { stripe: map.stripe, range, bodies })
    }

    /// The columns `range`, of whole blocks, of the data shards.
    async fn decode_part(&self, map: &Arc<StripeMap>, range: &Range<u64>) -> Result<Vec<Vec<u8>>> {
        let good = self.good_columns(map, range).await?;
        let geometry = map.geometry;
        let mut bodies: Vec<Option<Vec<u8>>> = vec![None; geometry.shards()];
        for (index, body) in good {
            bodies[index as usize] = Some(body);
        }
        let decoded = cpu::run(move || {
            Code::new(geometry).decode(&mut bodies).map(|()| {
                bodies.truncate(geometry.data());
                bodies.into_iter().flatten().collect::<Vec<_>>()
            })
        })
        .await;
        decoded.map_err(|error| FetchError::Lost(format!("stripe {:.8}: {error}", map.stripe)))
    }

    async fn read_piece(
        &self,
        map: &StripeMap,
        holder: &Holder,
        piece: &Piece,
        patient: bool,
        buffer: &mut BytesMut,
    ) -> Result<(), Failed> {
        let start = header_bytes(map);
        let range = start + piece.body.start..start + piece.body.end;
        self.read_range(map, holder, range, patient, buffer).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_columns_read_last_are_kept_beside_those_that_come() {
        let cache = ColumnCache::default();
        let stripe = |n: u8| StripeId([n; 32]);
        let has = |n| cache.find(stripe(n), &(5..10)).is_some();
        for n in 0..4 {
            let bodies = vec![vec![0; 10]; 2];
            cache.keep(Arc::new(Columns { stripe: stripe(n), range: 0..10, bodies }));
        }
        cache.make_room(CACHED_BYTES_MAX - 80);
        assert_eq!([0, 1, 2, 3].map(has), [true; 4]);
        cache.make_room(CACHED_BYTES_MAX - 79);
        assert_eq!([0, 1, 2, 3].map(has), [false, true, true, true]);
        assert!(cache.find(stripe(3), &(5..11)).is_none(), "other columns");
        cache.make_room(CACHED_BYTES_MAX - 20);
        assert_eq!([1, 2, 3].map(has), [false, false, true]);
        cache.make_room(CACHED_BYTES_MAX + 1);
        assert!(!has(3));
    }
}

//! The two ways to the bytes of a span: straight from the data shards, or by
//! columns of any k shards, checked and decoded.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
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

/// Stripes whose decoded columns are kept for the next span.
const CACHED_STRIPES: usize = 2;
/// Longer packs are never decoded as a whole where a part will do.
const WHOLE_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// The data bodies of a stripe, or the same columns of each, decoded and checked.
#[derive(Debug)]
struct Columns {
    stripe: StripeId,
    range: Range<u64>,
    bodies: Vec<Vec<u8>>,
}

impl Columns {
    /// The span's bytes, which lie in these columns.
    fn bytes(&self, map: &StripeMap, span: &Span) -> Vec<u8> {
        let parts = span.pieces(map).into_iter().map(|Piece { index, body }| {
            &self.bodies[index as usize]
                [(body.start - self.range.start) as usize..(body.end - self.range.start) as usize]
        });
        parts.collect::<Vec<_>>().concat()
    }
}

/// The columns decoded last.
#[derive(Debug, Default)]
pub(super) struct ColumnCache {
    turn: tokio::sync::Mutex<()>,
    kept: Mutex<VecDeque<Arc<Columns>>>,
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

    /// Drops the oldest, so that it is gone before the next is read.
    fn make_room(&self) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.truncate(CACHED_STRIPES - 1);
    }

    fn keep(&self, columns: Arc<Columns>) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.push_front(columns);
    }
}

impl Fetcher {
    /// The span's bytes from its data shards alone; `None` when one of them is in doubt or fails.
    pub(super) async fn read_direct(
        &self,
        map: &StripeMap,
        span: &Span,
    ) -> Result<Option<Vec<u8>>> {
        let wanted = self.columns_of(map, span);
        if let Some(columns) = self.cache.find(map.stripe, &wanted) {
            return Ok(Some(columns.bytes(map, span)));
        }
        let tickets = self.trouble.tickets().await?;
        let mut candidates = self.candidates(map, &tickets);
        candidates.retain(|c| c.doubt == Doubt::None);
        let holder = |index| candidates.iter().find(|c| c.holder.index == index).map(|c| c.holder);
        // Where one data shard is to be made of others, these are read once, for all.
        if wanted.end - wanted.start == shard_bytes(map)
            && (0..map.geometry.data() as u8).any(|index| holder(index).is_none())
        {
            return Ok(None);
        }
        let pieces = span.pieces(map);
        let holders = pieces.iter().map(|piece| holder(piece.index)).collect::<Option<Vec<_>>>();
        let Some(holders) = holders else { return Ok(None) };
        let reads =
            pieces.iter().zip(&holders).map(|(piece, holder)| self.read_piece(map, holder, piece));
        match try_join_all(reads).await {
            // Mostly it is one, which stays where it is.
            Ok(mut parts) if parts.len() == 1 => Ok(parts.pop().map(Vec::from)),
            Ok(parts) => Ok(Some(parts.concat())),
            Err(_) => Ok(None),
        }
    }

    /// The span's bytes out of columns of any k good shards.
    pub(super) async fn read_through_columns(
        &self,
        map: &Arc<StripeMap>,
        span: &Span,
    ) -> Result<Vec<u8>> {
        let columns = self.cached_columns(map, self.columns_of(map, span)).await?;
        Ok(columns.bytes(map, span))
    }

    /// The columns that are read for a span: all of them where the rest is wanted as well.
    fn columns_of(&self, map: &StripeMap, span: &Span) -> Range<u64> {
        match self.reads_all && map.pack_bytes <= WHOLE_BYTES_MAX {
            true => 0..shard_bytes(map),
            false => span.columns(map),
        }
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
        self.cache.make_room();
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
    ) -> Result<Bytes, Failed> {
        let start = header_bytes(map);
        let range = start + piece.body.start..start + piece.body.end;
        self.read_range(map, holder, range, false).await
    }
}

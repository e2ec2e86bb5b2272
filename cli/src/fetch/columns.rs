//! The two ways to the bytes of a span: straight from the data shards, or by
//! columns of any k shards, checked and decoded.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use codec::StripeId;
use codec::digest::BLOCK_BYTES;
use codec::erasure::Code;
use codec::shard::Header;
use futures_util::future::try_join_all;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use server::cpu;
use server::wire::{Code as Refused, Found, Holder, StripeMap};

use super::span::{Piece, Span, shard_bytes};
use super::trouble::{Doubt, Tickets, is_stale};
use super::{FetchError, Fetcher, Result};

/// Stripes whose decoded columns are kept for the next span.
const CACHED_STRIPES: usize = 2;

/// The data bodies of a stripe, or the same columns of each, decoded and checked.
#[derive(Debug)]
struct Columns {
    stripe: StripeId,
    range: Range<u64>,
    bodies: Vec<Vec<u8>>,
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

/// A shard that may be read, and what speaks against it.
struct Candidate {
    holder: Holder,
    doubt: Doubt,
}

impl Candidate {
    /// Whether it is the same shard on the same server.
    fn is_of(&self, other: &Self) -> bool {
        let of = |c: &Self| (c.holder.index, c.holder.server);
        of(self) == of(other)
    }
}

impl Fetcher {
    /// The span's bytes from its data shards alone; `None` when one of them is in doubt or fails.
    pub(super) async fn read_direct(
        &self,
        map: &StripeMap,
        span: &Span,
    ) -> Result<Option<Vec<u8>>> {
        let tickets = self.trouble.tickets().await?;
        let pieces = span.pieces(map);
        let mut holders = Vec::with_capacity(pieces.len());
        for piece in &pieces {
            match self.candidates(map, &tickets).into_iter().find(|c| c.holder.index == piece.index)
            {
                Some(Candidate { holder, doubt: Doubt::None }) => holders.push(holder),
                _ => return Ok(None),
            }
        }
        let reads = pieces
            .iter()
            .zip(&holders)
            .map(|(piece, holder)| self.read_piece(map, &tickets, holder, piece));
        match try_join_all(reads).await {
            Ok(parts) => Ok(Some(parts.concat())),
            Err(()) => Ok(None),
        }
    }

    /// The span's bytes out of columns of any k good shards.
    pub(super) async fn read_through_columns(
        &self,
        map: &Arc<StripeMap>,
        span: &Span,
    ) -> Result<Vec<u8>> {
        let columns = self.cached_columns(map, span.columns(map)).await?;
        let start = columns.range.start;
        let parts = span.pieces(map).into_iter().map(|Piece { index, body }| {
            &columns.bodies[index as usize]
                [(body.start - start) as usize..(body.end - start) as usize]
        });
        Ok(parts.collect::<Vec<_>>().concat())
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
        let good = self.good_columns(map, &range).await?;
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
        match decoded {
            Ok(bodies) => Ok(Columns { stripe: map.stripe, range, bodies }),
            Err(error) => Err(FetchError::Lost(format!("stripe {:.8}: {error}", map.stripe))),
        }
    }

    /// The columns `range` of k shards, every block checked against its shard's root. Shards
    /// without doubt come first; each one that fails is replaced by the next. Those that were
    /// only too slow, or refused an old ticket, are asked once more, patiently.
    async fn good_columns(
        &self,
        map: &Arc<StripeMap>,
        range: &Range<u64>,
    ) -> Result<Vec<(u8, Vec<u8>)>> {
        let needed = map.geometry.data();
        let mut good: Vec<(u8, Vec<u8>)> = Vec::with_capacity(needed);
        let tickets = self.trouble.tickets().await?;
        let mut candidates = self.candidates(map, &tickets);
        // Data shards need no decoding: they come first among equals.
        candidates.sort_by_key(|c| (c.doubt, c.holder.index));
        self.add_columns(map, range, &tickets, &candidates, &mut good).await;
        if good.len() < needed {
            let renewed = self.trouble.tickets().await?;
            let mut again = self.candidates(map, &renewed);
            again.retain(|c| good.iter().all(|(index, _)| *index != c.holder.index));
            if Arc::ptr_eq(&renewed, &tickets) {
                again.retain(|c| candidates.iter().any(|b| b.is_of(c) && b.doubt == Doubt::None));
            }
            again.iter_mut().for_each(|c| c.doubt = c.doubt.max(Doubt::Suspect));
            self.add_columns(map, range, &renewed, &again, &mut good).await;
        }
        if good.len() < needed {
            return Err(self.too_few(map, &tickets, good.len()));
        }
        Ok(good)
    }

    /// Reads candidates, in order, until there are k good columns or none is left.
    async fn add_columns(
        &self,
        map: &Arc<StripeMap>,
        range: &Range<u64>,
        tickets: &Tickets,
        candidates: &[Candidate],
        good: &mut Vec<(u8, Vec<u8>)>,
    ) {
        let needed = map.geometry.data();
        let mut next = candidates.iter();
        let mut under_way = FuturesUnordered::new();
        loop {
            while good.len() + under_way.len() < needed
                && let Some(candidate) = next.next()
            {
                let patient = candidate.doubt != Doubt::None;
                under_way.push(self.read_checked(map, tickets, &candidate.holder, range, patient));
            }
            match under_way.next().await {
                Some(column) => good.extend(column),
                None => return,
            }
        }
    }

    fn candidates(&self, map: &StripeMap, tickets: &Tickets) -> Vec<Candidate> {
        let mut candidates: Vec<Candidate> = Vec::with_capacity(map.shards.len());
        for holder in &map.shards {
            if self.trouble.is_bad(map.stripe, holder)
                || self.trouble.is_given_up(holder.server)
                || !tickets.servers.contains_key(&holder.server)
            {
                continue;
            }
            let doubt = self.trouble.doubt(tickets, holder.server, holder.bad);
            // An index can have two holders for a while: the better one counts.
            match candidates.iter_mut().find(|c| c.holder.index == holder.index) {
                Some(known) if known.doubt > doubt => *known = Candidate { holder: *holder, doubt },
                Some(_) => {}
                None => candidates.push(Candidate { holder: *holder, doubt }),
            }
        }
        candidates
    }

    async fn read_piece(
        &self,
        map: &StripeMap,
        tickets: &Tickets,
        holder: &Holder,
        piece: &Piece,
    ) -> Result<Bytes, ()> {
        let start = header_bytes(map);
        let range = start + piece.body.start..start + piece.body.end;
        self.read_range(map, tickets, holder, range, false).await
    }

    /// Header and blocks of one shard, checked; `None` when it cannot be had.
    async fn read_checked(
        &self,
        map: &Arc<StripeMap>,
        tickets: &Tickets,
        holder: &Holder,
        range: &Range<u64>,
        patient: bool,
    ) -> Option<(u8, Vec<u8>)> {
        let start = header_bytes(map);
        let (header, body) = futures_util::future::join(
            self.read_range(map, tickets, holder, 0..start, patient),
            self.read_range(map, tickets, holder, start + range.start..start + range.end, patient),
        )
        .await;
        let (header, body) = (header.ok()?, body.ok()?);
        let (map_, first) = (Arc::clone(map), range.start / BLOCK_BYTES as u64);
        let index = holder.index;
        let checked = cpu::run(move || {
            check_columns(&map_, index, &header, first, &body).map(|()| body.to_vec())
        })
        .await;
        match checked {
            Ok(body) => Some((index, body)),
            Err(error) => {
                self.trouble.bad_shard(map, holder, Found::Damaged(error.to_string())).await;
                None
            }
        }
    }

    async fn read_range(
        &self,
        map: &StripeMap,
        tickets: &Tickets,
        holder: &Holder,
        range: Range<u64>,
        patient: bool,
    ) -> Result<Bytes, ()> {
        let Some(ticket) = tickets.servers.get(&holder.server) else { return Err(()) };
        let client = if patient { &self.patient } else { &self.quick };
        match client.get_range(ticket, map.stripe, holder.index, range).await {
            Ok(bytes) => {
                self.counters.sent(&ticket.name, bytes.len() as u64);
                Ok(bytes)
            }
            Err(error) => {
                match error.code() {
                    Some(Refused::NotFound) => {
                        self.trouble.bad_shard(map, holder, Found::Missing).await
                    }
                    Some(Refused::Damaged | Refused::BadRequest) => {
                        let found = Found::Damaged(error.to_string());
                        self.trouble.bad_shard(map, holder, found).await;
                    }
                    _ if is_stale(&error) => self.trouble.renew_tickets().await,
                    // Nonsense is no answer of a server of ours and says nothing of the shard.
                    _ => self.trouble.pass_over(ticket, &error, patient),
                }
                tracing::debug!(%error, stripe = %map.stripe, index = holder.index, "read failed");
                Err(())
            }
        }
    }

    /// More than m shards known bad: lost. Otherwise servers are away, and the data may be whole.
    fn too_few(&self, map: &StripeMap, tickets: &Tickets, good: usize) -> FetchError {
        let geometry = map.geometry;
        let bad = self.trouble.bad_shards(map);
        let summary =
            format!("stripe {:.8}: {good} good shards, {} are needed", map.stripe, geometry.data());
        if bad > geometry.parity() {
            return FetchError::Lost(format!("{summary}; {bad} are missing or damaged"));
        }
        let away = map.shards.iter().map(|holder| holder.server);
        let away = away.filter(|server| self.trouble.is_passed_over(*server));
        let away: Vec<&str> =
            away.filter_map(|server| Some(tickets.servers.get(&server)?.name.as_str())).collect();
        FetchError::TooFewServers(format!(
            "{summary}; {bad} are bad, and these servers do not answer: {}",
            away.join(", ")
        ))
    }
}

/// Where the bodies of the stripe's shard files begin.
fn header_bytes(map: &StripeMap) -> u64 {
    Header::encoded_bytes(map.geometry, map.pack_key.0.len(), shard_bytes(map))
}

fn check_columns(
    map: &StripeMap,
    index: u8,
    header: &[u8],
    first: u64,
    body: &[u8],
) -> codec::Result<()> {
    let header = Header::parse(header)?;
    if header.stripe != map.stripe || header.index != index {
        return Err(codec::Error::damaged("shard", "the header is another shard's"));
    }
    if (header.geometry, header.pack_bytes) != (map.geometry, map.pack_bytes) {
        return Err(codec::Error::damaged("shard", "its stripe is of another shape"));
    }
    for (number, block) in (first..).zip(body.chunks(BLOCK_BYTES)) {
        header.check_block(number as usize, block)?;
    }
    Ok(())
}

//! Which shards of a stripe are read, in which order, and what comes of each.

use std::ops::{Range, RangeInclusive};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use codec::digest::BLOCK_BYTES;
use codec::shard::Header;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use server::cpu;
use server::wire::{Code as Refused, Found, Holder, ServerId, StripeMap};

use super::pace::Pace;
use super::span::shard_bytes;
use super::trouble::{Doubt, Tickets, is_stale};
use super::withhold::Withholding;
use super::{FetchError, Fetcher, Result};

/// The order in which shards are asked, by what speaks against them.
const STAGES: [RangeInclusive<Doubt>; 4] = [
    Doubt::None..=Doubt::None,
    // With them those that failed just now.
    Doubt::None..=Doubt::PassedOver,
    Doubt::Reported..=Doubt::Reported,
    Doubt::Damaged..=Doubt::Damaged,
];

/// The time of a read is counted in parts of this.
const PART: Duration = Duration::from_millis(125);

/// A shard that may be read, and what speaks against it.
pub(super) struct Candidate {
    pub(super) holder: Holder,
    pub(super) doubt: Doubt,
}

/// The same columns of some shards of a stripe, as they come.
#[derive(Default)]
struct Gathered {
    /// By index; every block was checked against its shard's root.
    good: Vec<(u8, Vec<u8>)>,
    /// Shards that are bad in these columns, and their holders.
    bad: Vec<(u8, ServerId)>,
}

/// Why a shard, or these columns of it, cannot be had.
pub(super) enum Failed {
    /// It is missing or damaged.
    Bad,
    /// Its server gave no usable answer, or none in time, or it was moved.
    Away,
}

impl Gathered {
    fn is_bad(&self, holder: &Holder) -> bool {
        self.bad.contains(&(holder.index, holder.server))
    }
}

impl Fetcher {
    /// The columns `range` of k shards, every block checked against its shard's root. Shards
    /// without doubt come first; each one that fails is replaced by the next. Servers in doubt
    /// are asked all at once, so that the wait for several is as long as that for one. What was
    /// moved meanwhile, so that there are too few, is read where it is now.
    pub(super) async fn good_columns(
        &self,
        map: &Arc<StripeMap>,
        range: &Range<u64>,
    ) -> Result<Vec<(u8, Vec<u8>)>> {
        let read = self.good_columns_of(map, range).await;
        if read.is_err() && self.trouble.any_moved(map) {
            match self.maps(vec![map.stripe]).await?.first() {
                Some(newest) => self.good_columns_of(newest, range).await,
                None => read,
            }
        } else {
            read
        }
    }

    async fn good_columns_of(
        &self,
        map: &Arc<StripeMap>,
        range: &Range<u64>,
    ) -> Result<Vec<(u8, Vec<u8>)>> {
        let needed = map.geometry.data();
        let mut gathered = Gathered::default();
        let withholds = self.withholds_any(map, &*self.trouble.tickets().await?);
        let turns = std::iter::once(false).chain(withholds.then_some(true));
        for (gives_back, number) in turns.flat_map(|turn| (0..STAGES.len()).map(move |n| (turn, n)))
        {
            let stage = &STAGES[number];
            // Before anything is called lost, what was withheld is read after all.
            if gives_back {
                self.give_back(map);
            }
            let tickets = self.trouble.tickets().await?;
            let mut candidates = self.candidates(map, &tickets);
            candidates.retain(|c| stage.contains(&c.doubt) && !gathered.is_bad(&c.holder));
            candidates.retain(|c| gathered.good.iter().all(|(index, _)| *index != c.holder.index));
            // Data shards need no decoding: they come first among equals.
            candidates.sort_by_key(|c| (c.doubt, c.holder.index));
            let (patient, at_once) = (number > 0, number == 1);
            self.add_columns(map, range, &candidates, patient, at_once, &mut gathered).await;
            if gathered.good.len() == needed {
                return Ok(gathered.good);
            }
        }
        let tickets = self.trouble.tickets().await?;
        Err(self.too_few(map, &tickets, &gathered))
    }

    /// Reads candidates, in order or all at once, until there are k good columns or none is left.
    async fn add_columns(
        &self,
        map: &Arc<StripeMap>,
        range: &Range<u64>,
        candidates: &[Candidate],
        patient: bool,
        at_once: bool,
        gathered: &mut Gathered,
    ) {
        let needed = map.geometry.data();
        let mut next = candidates.iter();
        let mut under_way = FuturesUnordered::new();
        while gathered.good.len() < needed {
            while (at_once || gathered.good.len() + under_way.len() < needed)
                && let Some(Candidate { holder, .. }) = next.next()
            {
                under_way.push(async move {
                    (holder, self.read_checked(map, holder, range, patient).await)
                });
            }
            match under_way.next().await {
                Some((holder, Ok(column))) => gathered.good.push((holder.index, column)),
                Some((holder, Err(Failed::Bad))) => {
                    gathered.bad.push((holder.index, holder.server));
                }
                Some((_, Err(Failed::Away))) => {}
                None => return,
            }
        }
    }

    /// The shards of a stripe that may be read, without those that are withheld.
    pub(super) fn candidates(&self, map: &StripeMap, tickets: &Tickets) -> Vec<Candidate> {
        let mut candidates = self.all_candidates(map, tickets);
        if let Some(withholding) = &self.withholding {
            let withheld = withholding.of(map, &candidates);
            candidates.retain(|c| !withheld.contains(&c.holder.index));
        }
        candidates
    }

    fn withholds_any(&self, map: &StripeMap, tickets: &Tickets) -> bool {
        let of = |w: &Withholding| !w.of(map, &self.all_candidates(map, tickets)).is_empty();
        self.withholding.as_ref().is_some_and(of)
    }

    fn give_back(&self, map: &StripeMap) {
        if let Some(withholding) = &self.withholding {
            withholding.give_back(map.stripe);
        }
    }

    /// Of each index the shard that least speaks against.
    fn all_candidates(&self, map: &StripeMap, tickets: &Tickets) -> Vec<Candidate> {
        let mut candidates: Vec<Candidate> = Vec::with_capacity(map.shards.len());
        for holder in &map.shards {
            let Some(doubt) = self.trouble.doubt(tickets, map.stripe, holder) else { continue };
            match candidates.iter_mut().find(|c| c.holder.index == holder.index) {
                Some(known) if known.doubt > doubt => *known = Candidate { holder: *holder, doubt },
                Some(_) => {}
                None => candidates.push(Candidate { holder: *holder, doubt }),
            }
        }
        candidates
    }

    /// Header and blocks of one shard, checked.
    async fn read_checked(
        &self,
        map: &Arc<StripeMap>,
        holder: &Holder,
        range: &Range<u64>,
        patient: bool,
    ) -> Result<Vec<u8>, Failed> {
        let start = header_bytes(map);
        let (mut header, mut body) = (BytesMut::new(), BytesMut::new());
        let columns = start + range.start..start + range.end;
        let (header_read, body_read) = futures_util::future::join(
            self.read_range(map, holder, 0..start, patient, &mut header),
            self.read_range(map, holder, columns, patient, &mut body),
        )
        .await;
        header_read.and(body_read)?;
        let (map_, first) = (Arc::clone(map), range.start / BLOCK_BYTES as u64);
        let index = holder.index;
        let checked = cpu::run(move || {
            check_columns(&map_, index, &header, first, &body).map(|()| Vec::from(body))
        })
        .await;
        match checked {
            Ok(body) => Ok(body),
            Err(error) => {
                self.trouble.bad_shard(map, holder, Found::Damaged(error.to_string())).await;
                Err(Failed::Bad)
            }
        }
    }

    /// Adds bytes of a shard file to `buffer`. Patiently: a server that does not answer is waited for, and given
    /// up when that was in vain; otherwise it is let go when it is far slower than others.
    pub(super) async fn read_range(
        &self,
        map: &StripeMap,
        holder: &Holder,
        range: Range<u64>,
        patient: bool,
        buffer: &mut BytesMut,
    ) -> Result<(), Failed> {
        let Holder { index, server, .. } = *holder;
        let wait = patient && !self.trouble.was_given_up(server);
        let mut renewed = false;
        loop {
            let tickets = self.trouble.tickets().await.map_err(|_| Failed::Away)?;
            let ticket = tickets.servers.get(&server).ok_or(Failed::Away)?;
            // A lost server may be back, but is not waited for.
            let wait = wait && !tickets.is_lost(server);
            let wanted = range.end.saturating_sub(range.start);
            let read = self.origin.read_range(ticket, map, holder, range.clone(), wait, buffer);
            let mut under_way = self.trouble.asked(server, wanted);
            let (read, took) = timed(read, |took| !patient && under_way.is_late(took)).await;
            let Some(read) = read else {
                if under_way.took(took) {
                    self.tell_slow(&ticket.name);
                }
                return Err(Failed::Away);
            };
            let error = match read {
                Ok(()) => {
                    self.counters.sent(&ticket.name, wanted);
                    self.limit.gave(&ticket.name, took);
                    if under_way.took(took) {
                        self.tell_slow(&ticket.name);
                    }
                    if patient {
                        self.trouble.answered(server);
                    }
                    return Ok(());
                }
                Err(error) => error,
            };
            drop(under_way);
            tracing::debug!(%error, stripe = %map.stripe, index, "read failed");
            match error.code() {
                Some(Refused::NotFound) => {
                    let is_bad = self.trouble.bad_shard(map, holder, Found::Missing).await;
                    return Err(if is_bad { Failed::Bad } else { Failed::Away });
                }
                Some(Refused::Damaged | Refused::BadRequest) => {
                    let found = Found::Damaged(error.to_string());
                    self.trouble.bad_shard(map, holder, found).await;
                    return Err(Failed::Bad);
                }
                _ if is_stale(&error) && !renewed => {
                    self.trouble.renew_tickets().await;
                    renewed = true;
                }
                // Its server broke off in the middle: perhaps at this shard only.
                _ if matches!(error, server::Error::Io { .. }) => {
                    if self.trouble.broke_off(map.stripe, holder, ticket, &error) {
                        return Err(Failed::Away);
                    }
                }
                // Nonsense is no answer of a server of ours and says nothing of the shard.
                _ => {
                    self.trouble.pass_over(ticket, &error, patient);
                    return Err(Failed::Away);
                }
            }
            if !patient {
                return Err(Failed::Away);
            }
        }
    }

    fn tell_slow(&self, server: &str) {
        tracing::info!(server, "it is far slower than the others, which are read in its stead");
        self.limit.without(server, Pace::avoided_until(Instant::now()));
    }

    /// More than m shards known bad in these columns, or on servers that are lost: lost. Otherwise servers are away, and the data may be whole.
    fn too_few(&self, map: &StripeMap, tickets: &Tickets, gathered: &Gathered) -> FetchError {
        let geometry = map.geometry;
        let bad = bad_shards(map, |holder| {
            gathered.is_bad(holder)
                || self.trouble.is_missing(map.stripe, holder)
                || (tickets.is_lost(holder.server) && self.trouble.is_passed_over(holder.server))
        });
        let summary = format!(
            "stripe {:.8}: {} good shards, {} are needed",
            map.stripe,
            gathered.good.len(),
            geometry.data()
        );
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

impl Fetcher {
    /// Whether too many shards are missing for any column to be had.
    pub(super) fn is_beyond_repair(&self, map: &StripeMap) -> bool {
        let missing = bad_shards(map, |holder| self.trouble.is_missing(map.stripe, holder));
        missing > map.geometry.parity()
    }
}

/// What a read gives, or nothing when that `is_late`, and how long it took. Counted in parts: while
/// nobody polls, nothing can come, and all of that time is one part.
async fn timed<T>(
    read: impl Future<Output = T>,
    mut is_late: impl FnMut(Duration) -> bool,
) -> (Option<T>, Duration) {
    let began = Instant::now();
    let mut waited = Duration::ZERO;
    let mut read = std::pin::pin!(read);
    loop {
        match tokio::time::timeout(PART, &mut read).await {
            Ok(read) => return (Some(read), began.elapsed().min(waited + PART)),
            Err(_) => waited += PART,
        }
        if is_late(waited) {
            return (None, waited);
        }
    }
}

/// How many of the stripe's shards are known to be nowhere: each of their holders is bad, or they
/// have none.
fn bad_shards(map: &StripeMap, is_bad: impl Fn(&Holder) -> bool) -> usize {
    let gone = |index: &u8| map.shards.iter().filter(|h| h.index == *index).all(&is_bad);
    (0..map.geometry.shards() as u8).filter(gone).count()
}

/// Where the bodies of the stripe's shard files begin.
pub(super) fn header_bytes(map: &StripeMap) -> u64 {
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

#[cfg(test)]
mod tests {
    use codec::seal::PackKeyField;
    use codec::shard::Kind;
    use codec::{Geometry, StripeId};

    use super::*;

    #[test]
    fn a_shard_is_gone_when_all_its_holders_are_bad_or_it_has_none() {
        let holder = |index, server| Holder { index, server: ServerId(server), bad: false };
        let map = StripeMap {
            stripe: StripeId([1; 32]),
            kind: Kind::Data,
            geometry: Geometry::new(2, 2).unwrap(),
            pack_bytes: 1,
            pack_key: PackKeyField(vec![0]),
            frames: vec![],
            shards: vec![holder(0, 1), holder(1, 2), holder(1, 3), holder(2, 4)],
        };
        let bad = |servers: &[i64]| bad_shards(&map, |h| servers.contains(&i64::from(h.server.0)));
        assert_eq!(bad(&[]), 1, "shard 3 has no holder");
        assert_eq!(bad(&[3]), 1, "shard 1 has another holder");
        assert_eq!(bad(&[2, 3]), 2);
    }
}

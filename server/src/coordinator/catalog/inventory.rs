//! What the map has on one server, to be compared with what lies there, and what becomes of the
//! difference.

use codec::StripeId;
use rusqlite::{Connection, OptionalExtension as _, Row, params};

use super::Catalog;
use super::push::open_leases;
use super::rows::{shards_changed, stripe_key, stripe_map};
use crate::Result;
use crate::wire::{BUCKETS, Bucket, ServerId, StripeMap};

/// How a shard is, by the map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::coordinator) enum Condition {
    Good,
    Missing,
    Damaged,
}

impl Condition {
    fn name(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Missing => "missing",
            Self::Damaged => "damaged",
        }
    }

    fn of(row: &Row, column: usize) -> rusqlite::Result<Self> {
        Ok(match row.get_ref(column)?.as_str()? {
            "good" => Self::Good,
            "missing" => Self::Missing,
            _ => Self::Damaged,
        })
    }
}

/// A shard that the map has on a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::coordinator) struct Mapped {
    pub(in crate::coordinator) stripe: StripeId,
    pub(in crate::coordinator) index: u8,
    pub(in crate::coordinator) condition: Condition,
    /// Its stripe's: another one says that something has changed since.
    pub(in crate::coordinator) version: u64,
}

/// The map's part of a server, in short.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::coordinator) struct MapDigests {
    /// Of what should lie there, by number.
    pub(in crate::coordinator) buckets: Vec<Bucket>,
    /// What is known not to lie there, by bucket.
    pub(in crate::coordinator) missing: Vec<u64>,
}

/// What a shard is that a server has and the map has not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::coordinator) enum Standing {
    /// Committed since, or of a stripe that a push under way has tickets for.
    Pending,
    /// Of a stripe that the map has without it.
    Surplus,
    /// Of a push that is over.
    LeftOver,
    /// Nothing is on record.
    Unknown,
}

impl Catalog {
    /// What should lie on a server, in short.
    pub(in crate::coordinator) async fn digests(&self, server: ServerId) -> Result<MapDigests> {
        self.read(move |db| {
            let mut digests =
                MapDigests { buckets: vec![Bucket::default(); BUCKETS], missing: vec![0; BUCKETS] };
            let mut rows = db.prepare_cached(
                "SELECT s.id, h.idx, h.state FROM shards h CROSS JOIN stripes s
                 WHERE h.server = ?1 AND s.key = h.stripe",
            )?;
            let mut rows = rows.query([server.0])?;
            while let Some(row) = rows.next()? {
                let (stripe, index) = (StripeId(row.get(0)?), row.get(1)?);
                let number = usize::from(Bucket::of(stripe));
                match Condition::of(row, 2)? {
                    Condition::Missing => digests.missing[number] += 1,
                    Condition::Good => digests.buckets[number].add(stripe, index, false),
                    Condition::Damaged => digests.buckets[number].add(stripe, index, true),
                }
            }
            Ok(digests)
        })
        .await
    }

    /// What the map has on a server of the stripes from one to another, in their order.
    pub(in crate::coordinator) async fn mapped(
        &self,
        server: ServerId,
        from: StripeId,
        to: StripeId,
    ) -> Result<Vec<Mapped>> {
        self.read(move |db| {
            let mut rows = db.prepare_cached(
                "SELECT s.id, h.idx, h.state, s.version FROM stripes s CROSS JOIN shards h
                 WHERE s.id BETWEEN ?2 AND ?3 AND h.stripe = s.key AND h.server = ?1
                 ORDER BY s.id",
            )?;
            let rows = rows.query_map(params![server.0, from.0, to.0], |r| {
                Ok(Mapped {
                    stripe: StripeId(r.get(0)?),
                    index: r.get(1)?,
                    condition: Condition::of(r, 2)?,
                    version: r.get(3)?,
                })
            })?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
        .await
    }

    /// The first good shard of a server from this stripe on, or from the beginning.
    pub(in crate::coordinator) async fn sample(
        &self,
        server: ServerId,
        from: StripeId,
    ) -> Result<Option<(StripeMap, Mapped)>> {
        self.read(move |db| {
            let any = "SELECT 1 FROM shards WHERE server = ?1 AND state = 'good'";
            if !db.prepare_cached(any)?.exists([server.0])? {
                return Ok(None);
            }
            let mut next = db.prepare_cached(
                "SELECT s.key, s.id, h.idx, s.version FROM stripes s CROSS JOIN shards h
                 WHERE s.id >= ?2 AND h.stripe = s.key AND h.server = ?1 AND h.state = 'good'
                 ORDER BY s.id LIMIT 1",
            )?;
            for from in [from, StripeId([0; StripeId::LEN])] {
                let found = next.query_row(params![server.0, from.0], |r| {
                    let condition = Condition::Good;
                    let (stripe, index) = (StripeId(r.get(1)?), r.get(2)?);
                    Ok((r.get(0)?, Mapped { stripe, index, condition, version: r.get(3)? }))
                });
                if let Some((key, mapped)) = found.optional()? {
                    return Ok(Some((stripe_map(db, key)?, mapped)));
                }
            }
            Ok(None)
        })
        .await
    }

    /// Books how shards were found; gives how many of them have changed since they were looked up,
    /// and are left as they are.
    pub(in crate::coordinator) async fn book(
        &self,
        server: ServerId,
        found: Vec<Mapped>,
    ) -> Result<usize> {
        self.write(move |db| {
            let mut changed = 0;
            for Mapped { stripe, index, condition, version } in found {
                let updated = db
                    .prepare_cached(
                        "UPDATE shards SET state = ?4, read_ms = iif(?4 = 'good', read_ms, NULL)
                         WHERE server = ?2 AND idx = ?3 AND stripe =
                             (SELECT key FROM stripes WHERE id = ?1 AND version = ?5)",
                    )?
                    .execute(params![stripe.0, server.0, index, condition.name(), version])?;
                match stripe_key(db, stripe)?.filter(|_| updated > 0) {
                    Some(key) => shards_changed(db, key)?,
                    None => changed += 1,
                }
            }
            Ok(changed)
        })
        .await
    }

    /// What shards are that lie on a server and are not in its part of the map.
    pub(in crate::coordinator) async fn standings(
        &self,
        server: ServerId,
        shards: Vec<(StripeId, u8)>,
    ) -> Result<Vec<Standing>> {
        let now_ms = self.clock.now_ms();
        self.read(move |db| {
            shards.iter().map(|&shard| standing(db, server, shard, now_ms)).collect()
        })
        .await
    }

    /// Has those of `shards` that are left over trashed: ends the leases that they were stored
    /// under, so that none of them is renewed, and keeps others from relying on them. Gives how
    /// many that are.
    pub(in crate::coordinator) async fn condemn(
        &self,
        server: ServerId,
        shards: Vec<(StripeId, u8)>,
    ) -> Result<u64> {
        let clock = self.clock;
        self.write(move |db| {
            let now_ms = clock.now_ms();
            let mut condemned = 0;
            for (stripe, index) in shards {
                // What was left over when it was looked up may have been taken over since.
                if standing(db, server, (stripe, index), now_ms)? != Standing::LeftOver {
                    continue;
                }
                let shard = params![stripe.0, server.0, index];
                db.prepare_cached(
                    "UPDATE leases SET state = 'closed' WHERE state = 'open' AND id IN
                         (SELECT lease FROM intents
                          WHERE stripe = ?1 AND server = ?2 AND idx = ?3)",
                )?
                .execute(shard)?;
                db.prepare_cached(
                    "INSERT INTO tombstones (stripe, server, idx, ordered_ms) VALUES (?1, ?2, ?3, 0)
                     ON CONFLICT DO NOTHING",
                )?
                .execute(shard)?;
                condemned += 1;
            }
            Ok(condemned)
        })
        .await
    }
}

/// Whether a shard of the stripe waits to be trashed there.
pub(super) fn is_condemned(db: &Connection, stripe: StripeId, server: ServerId) -> Result<bool> {
    let sql = "SELECT 1 FROM tombstones WHERE stripe = ?1 AND server = ?2";
    Ok(db.prepare_cached(sql)?.exists(params![stripe.0, server.0])?)
}

fn standing(
    db: &Connection,
    server: ServerId,
    (stripe, index): (StripeId, u8),
    now_ms: u64,
) -> Result<Standing> {
    if let Some(key) = stripe_key(db, stripe)? {
        let sql = "SELECT 1 FROM shards WHERE stripe = ?1 AND server = ?2 AND idx = ?3";
        let is_mapped = db.prepare_cached(sql)?.exists(params![key, server.0, index])?;
        if is_mapped || open_leases(db, stripe, now_ms)? {
            return Ok(Standing::Pending);
        }
        if is_condemned(db, stripe, server)? {
            return Ok(Standing::LeftOver);
        }
        // A repair that ended early, or a push whose shard was late.
        let is_left = is_intended(db, server, (stripe, index))?;
        return Ok(if is_left { Standing::LeftOver } else { Standing::Surplus });
    }
    if open_leases(db, stripe, now_ms)? {
        return Ok(Standing::Pending);
    }
    if is_condemned(db, stripe, server)? {
        return Ok(Standing::LeftOver);
    }
    let is_left = is_intended(db, server, (stripe, index))?;
    Ok(if is_left { Standing::LeftOver } else { Standing::Unknown })
}

/// Whether a ticket was given for the shard, by all that this catalog knows.
fn is_intended(db: &Connection, server: ServerId, (stripe, index): (StripeId, u8)) -> Result<bool> {
    let sql = "SELECT 1 FROM intents WHERE stripe = ?1 AND server = ?2 AND idx = ?3
                   AND epoch >= (SELECT whole_since_epoch FROM meta)";
    Ok(db.prepare_cached(sql)?.exists(params![stripe.0, server.0, index])?)
}

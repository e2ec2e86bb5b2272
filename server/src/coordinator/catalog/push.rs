//! What a push asks of the catalog before it commits: lease, have, intents.

use std::collections::{BTreeSet, HashMap};

use codec::{ChunkId, Digest, StripeId};
use rusqlite::{Connection, OptionalExtension as _, params};

use super::commit::holds;
use super::inventory::is_condemned;
use super::rows::{column, holders, kept_snapshot, stripe_key};
use super::{Catalog, tick};
use crate::coordinator::clock::millis;
use crate::coordinator::lease::Terms;
use crate::coordinator::push::being_trashed;
use crate::wire::{Code, Holder, LeaseId, NONCE_BYTES, ServerId, SnapshotRow};
use crate::{Error, Result};

/// What placing a stripe has to know of it.
#[derive(Debug)]
pub(in crate::coordinator) struct Placing {
    /// Its committed shards.
    pub(in crate::coordinator) holders: Vec<Holder>,
    /// What servers were ticketed for before, by any push.
    pub(in crate::coordinator) before: Vec<(u8, ServerId)>,
}

/// What is written before the tickets of a stripe leave.
#[derive(Debug)]
pub(in crate::coordinator) struct Intended {
    pub(in crate::coordinator) lease: LeaseId,
    pub(in crate::coordinator) stripe: StripeId,
    /// Shards that are stored already, maybe under an earlier lease.
    pub(in crate::coordinator) stored: Vec<(u8, ServerId)>,
    /// Shards to be stored.
    pub(in crate::coordinator) places: Vec<(u8, ServerId)>,
}

impl Catalog {
    /// The kept snapshot to compare a push with: the one `wanted`, or the newest of the same
    /// origin and source set.
    pub(in crate::coordinator) async fn parent(
        &self,
        origin: i64,
        source_set: Digest,
        wanted: Option<StripeId>,
    ) -> Result<Option<SnapshotRow>> {
        self.read(move |db| {
            if let Some(wanted) = wanted {
                let key = stripe_key(db, wanted)?;
                let parent = key.map(|key| kept_snapshot(db, key)).transpose()?.flatten();
                let unknown = || Error::refuse(Code::NotFound, format!("no snapshot {wanted:.12}"));
                return parent.ok_or_else(unknown).map(Some);
            }
            let newest = column(
                db,
                "SELECT stripe FROM snapshots
                 WHERE origin = ?1 AND source_set = ?2 AND state = 'kept'
                 ORDER BY sequence DESC LIMIT 1",
                params![origin, source_set.0],
            )?;
            newest.first().map(|&key| kept_snapshot(db, key)).transpose().map(Option::flatten)
        })
        .await
    }

    /// Opens a lease, or finds the one with this nonce; gives its number and end.
    pub(in crate::coordinator) async fn begin(
        &self,
        origin: i64,
        nonce: [u8; NONCE_BYTES],
        term: std::time::Duration,
    ) -> Result<(LeaseId, u64)> {
        let clock = self.clock;
        self.write(move |db| {
            let now_ms = clock.now_ms();
            let expires_ms = now_ms.saturating_add(millis(term));
            let sequence = tick(db)?;
            Ok(db.query_row(
                "INSERT INTO leases (token, nonce, begun_sequence, begun_ms, expires_ms, state)
                 VALUES (?1, ?2, ?3, ?4, ?5, 'open')
                 ON CONFLICT (token, nonce) DO UPDATE SET nonce = excluded.nonce
                 RETURNING id, expires_ms",
                params![origin, nonce, sequence, now_ms, expires_ms],
                |r| Ok((LeaseId(r.get(0)?), r.get(1)?)),
            )?)
        })
        .await
    }

    /// Gives a lease another term from now; gives its end.
    pub(in crate::coordinator) async fn renew(
        &self,
        origin: i64,
        lease: LeaseId,
        term: std::time::Duration,
    ) -> Result<u64> {
        let clock = self.clock;
        self.write(move |db| {
            let terms = terms(db, origin, lease)?;
            let renewed = terms.renewed(clock.now_ms(), millis(term));
            let expires_ms = renewed.ok_or_else(|| over(lease))?;
            let sql = "UPDATE leases SET expires_ms = ?2 WHERE id = ?1";
            db.execute(sql, params![lease.0, expires_ms])?;
            Ok(expires_ms)
        })
        .await
    }

    /// Ends a lease for good. Intents that became shards have done their service.
    pub(in crate::coordinator) async fn close_lease(
        &self,
        origin: i64,
        lease: LeaseId,
    ) -> Result<()> {
        self.write(move |db| {
            terms(db, origin, lease)?;
            db.execute("UPDATE leases SET state = 'closed' WHERE id = ?1", [lease.0])?;
            db.execute("DELETE FROM intents WHERE lease = ?1 AND committed = 1", [lease.0])?;
            Ok(())
        })
        .await
    }

    /// Ends the lease of a repair. What it made and could not book is left over; where there is no
    /// such thing, nothing is left of the lease.
    pub(in crate::coordinator) async fn end_repair(&self, lease: LeaseId) -> Result<()> {
        self.write(move |db| {
            db.execute("UPDATE leases SET state = 'closed' WHERE id = ?1", [lease.0])?;
            db.execute("DELETE FROM intents WHERE lease = ?1 AND committed = 1", [lease.0])?;
            db.execute(
                "DELETE FROM leases WHERE id = ?1 AND NOT EXISTS
                     (SELECT 1 FROM intents WHERE lease = ?1)",
                [lease.0],
            )?;
            Ok(())
        })
        .await
    }

    /// Which chunks some stripe can still give back. Touches these stripes before it says so.
    pub(in crate::coordinator) async fn have(
        &self,
        origin: i64,
        lease: LeaseId,
        chunks: Vec<ChunkId>,
    ) -> Result<Vec<bool>> {
        let clock = self.clock;
        let (have, vouched) = self
            .read(move |db| {
                open_lease(db, origin, lease, clock.now_ms())?;
                readable(db, &chunks)
            })
            .await?;
        if !vouched.is_empty() {
            self.touch(origin, lease, vouched).await?;
        }
        Ok(have)
    }

    /// Stamps stripes as in use now. One touch a lease is enough: collection spares whatever
    /// was touched since the oldest open lease began.
    async fn touch(&self, origin: i64, lease: LeaseId, stripes: BTreeSet<i64>) -> Result<()> {
        let clock = self.clock;
        self.write(move |db| {
            open_lease(db, origin, lease, clock.now_ms())?;
            let mut touch = db.prepare_cached(
                "UPDATE stripes SET touched_sequence = (SELECT sequence FROM meta)
                 WHERE key = ?1
                   AND touched_sequence < (SELECT begun_sequence FROM leases WHERE id = ?2)",
            )?;
            for key in stripes {
                touch.execute(params![key, lease.0])?;
            }
            Ok(())
        })
        .await
    }

    /// What placing `stripe` has to know; the lease must be open.
    pub(in crate::coordinator) async fn placing(
        &self,
        origin: i64,
        lease: LeaseId,
        stripe: StripeId,
    ) -> Result<Placing> {
        let clock = self.clock;
        self.read(move |db| {
            open_lease(db, origin, lease, clock.now_ms())?;
            let holders = match stripe_key(db, stripe)? {
                Some(key) => holders(db, key)?,
                None => Vec::new(),
            };
            let mut before = db.prepare_cached(
                "SELECT idx, server FROM intents WHERE stripe = ?1 ORDER BY lease DESC, idx",
            )?;
            let before = before
                .query_map([stripe.0], |r| Ok((r.get(0)?, ServerId(r.get(1)?))))?
                .collect::<Result<_, _>>()?;
            Ok(Placing { holders, before })
        })
        .await
    }

    /// Writes which shards may lie where from now on; gives the lease's terms for the tickets.
    pub(in crate::coordinator) async fn record_intent(
        &self,
        origin: i64,
        intended: Intended,
    ) -> Result<Terms> {
        let (clock, epoch) = (self.clock, self.epoch());
        self.write(move |db| {
            let Intended { lease, stripe, stored, places } = intended;
            let terms = open_lease(db, origin, lease, clock.now_ms())?;
            for &(_, server) in stored.iter().chain(&places) {
                if is_condemned(db, stripe, server)? {
                    return Err(being_trashed(stripe));
                }
            }
            for (index, server) in stored {
                adopt(db, lease, stripe, index, server)?;
            }
            let mut insert = db.prepare_cached(
                "INSERT INTO intents (lease, stripe, idx, server, epoch, committed)
                 VALUES (?1, ?2, ?3, ?4, ?5, 0)
                 ON CONFLICT (lease, stripe, idx, server) 
                     DO UPDATE SET epoch = excluded.epoch, committed = 0",
            )?;
            for (index, server) in places {
                insert.execute(params![lease.0, stripe.0, index, server.0, epoch])?;
            }
            Ok(terms)
        })
        .await
    }
}

/// Makes a shard stored under another lease one of this lease's, so that it is not trashed
/// with what the other one left over.
fn adopt(
    db: &Connection,
    lease: LeaseId,
    stripe: StripeId,
    index: u8,
    server: ServerId,
) -> Result<()> {
    let adopted = db
        .prepare_cached(
            "INSERT INTO intents (lease, stripe, idx, server, epoch, committed)
             SELECT ?1, stripe, idx, server, epoch, committed FROM intents
             WHERE stripe = ?2 AND idx = ?3 AND server = ?4 ORDER BY committed LIMIT 1
             ON CONFLICT (lease, stripe, idx, server) DO UPDATE SET idx = idx",
        )?
        .execute(params![lease.0, stripe.0, index, server.0])?;
    if adopted > 0 || holds(db, stripe, index, server)? {
        return Ok(());
    }
    Err(no_intent(stripe, index, server))
}

/// Which chunks are readable, and the stripes that they rely on.
fn readable(db: &Connection, chunks: &[ChunkId]) -> Result<(Vec<bool>, BTreeSet<i64>)> {
    let mut places = db.prepare_cached("SELECT stripe FROM chunks WHERE id = ?1")?;
    let mut health = db.prepare_cached("SELECT good >= k FROM stripes WHERE key = ?1")?;
    let mut known: HashMap<i64, bool> = HashMap::new();
    let mut vouched = BTreeSet::new();
    let mut have = Vec::with_capacity(chunks.len());
    for chunk in chunks {
        let mut readable = false;
        let mut rows = places.query([chunk.0])?;
        while let Some(row) = rows.next()? {
            let stripe: i64 = row.get(0)?;
            let good = match known.get(&stripe) {
                Some(&good) => good,
                None => {
                    let good = health.query_row([stripe], |r| r.get(0)).optional()?;
                    *known.entry(stripe).or_insert(good.unwrap_or(false))
                }
            };
            if good {
                vouched.insert(stripe);
                readable = true;
            }
        }
        have.push(readable);
    }
    Ok((have, vouched))
}

/// The terms of a lease of this origin.
fn terms(db: &Connection, origin: i64, lease: LeaseId) -> Result<Terms> {
    let sql = "SELECT expires_ms, state = 'closed' FROM leases WHERE id = ?1 AND token = ?2";
    let row = db.prepare_cached(sql)?.query_row(params![lease.0, origin], |r| {
        Ok(Terms { expires_ms: r.get(0)?, closed: r.get(1)? })
    });
    match row.optional() {
        Ok(Some(terms)) => Ok(terms),
        // A number beyond SQLite's integers is no lease's.
        Ok(None) | Err(rusqlite::Error::ToSqlConversionFailure(_)) => {
            Err(Error::refuse(Code::NotFound, format!("no lease {}", lease.0)))
        }
        Err(error) => Err(error.into()),
    }
}

/// The terms of a lease that must be open.
pub(super) fn open_lease(
    db: &Connection,
    origin: i64,
    lease: LeaseId,
    now_ms: u64,
) -> Result<Terms> {
    let terms = terms(db, origin, lease)?;
    if terms.is_open(now_ms) { Ok(terms) } else { Err(over(lease)) }
}

/// Whether an open lease has an intent for a shard of the stripe.
pub(super) fn open_leases(db: &Connection, stripe: StripeId, now_ms: u64) -> Result<bool> {
    let mut leases = db.prepare_cached(
        "SELECT expires_ms, state = 'closed' FROM leases
         WHERE id IN (SELECT lease FROM intents WHERE stripe = ?1)",
    )?;
    let leases = leases.query_map([stripe.0], |r| {
        Ok(Terms { expires_ms: r.get(0)?, closed: r.get(1)? }.is_open(now_ms))
    })?;
    Ok(leases.collect::<Result<Vec<bool>, _>>()?.contains(&true))
}

pub(super) fn no_intent(stripe: StripeId, index: u8, server: ServerId) -> Error {
    Error::refuse(
        Code::Conflict,
        format!(
            "no ticket was given for shard {index} of stripe {stripe:.12} on server {}",
            server.0
        ),
    )
}

fn over(lease: LeaseId) -> Error {
    Error::refuse(
        Code::LeaseOver,
        format!("lease {} is over; what was committed under it stays, run the push again", lease.0),
    )
}

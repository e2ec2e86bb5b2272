//! Facts: the snapshots' stamps as they are on record here and on servers.

use codec::fact::{self, Body, Fact, Head, Stamp};
use codec::{Digest, StripeId, VaultId};
use rusqlite::{Connection, OptionalExtension as _, params};

use super::Catalog;
use super::events::insert as insert_event;
use super::rows::stripe_key;
use crate::auth::TicketSigner;
use crate::coordinator::events::{self, Happened, Told};
use crate::wire::Code;
use crate::{Error, Result};

/// A fact that servers still have to be given: its number, and how many of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::coordinator) struct Unstored {
    pub(in crate::coordinator) number: u64,
    pub(in crate::coordinator) copies: usize,
}

impl Catalog {
    /// The head of all facts, and that of those that are stored.
    pub(in crate::coordinator) async fn heads(&self) -> Result<(Head, Head)> {
        self.read(|db| Ok((head(db, "true")?, head(db, "stored = 1")?))).await
    }

    /// Up to `limit` facts after the number `after`.
    pub(in crate::coordinator) async fn facts(
        &self,
        after: u64,
        limit: usize,
        stored_only: bool,
    ) -> Result<Vec<Vec<u8>>> {
        self.read(move |db| {
            let sql = "SELECT bytes FROM facts WHERE number > ?1 AND stored >= ?3
                       ORDER BY number LIMIT ?2";
            let after = i64::try_from(after).unwrap_or(i64::MAX);
            super::rows::column(db, sql, params![after, limit, stored_only])
        })
        .await
    }

    /// The hash of a fact.
    pub(in crate::coordinator) async fn fact_hash(&self, number: u64) -> Result<Option<Digest>> {
        if number == 0 {
            return Ok(Some(Digest::default()));
        }
        self.read(move |db| {
            let sql = "SELECT bytes FROM facts WHERE number = ?1";
            let bytes = db.prepare_cached(sql)?.query_row([number], |r| r.get::<_, Vec<u8>>(0));
            Ok(bytes.optional()?.map(|bytes| fact::hash(&bytes)))
        })
        .await
    }

    /// The facts that servers still have to be given, in order.
    pub(in crate::coordinator) async fn unstored(&self) -> Result<Vec<Unstored>> {
        self.read(|db| {
            let sql = "SELECT number, copies FROM facts WHERE stored = 0 ORDER BY number";
            let mut rows = db.prepare_cached(sql)?;
            let rows = rows
                .query_map([], |r| Ok(Unstored { number: r.get(0)?, copies: r.get(1)? }))?
                .collect::<rusqlite::Result<_>>()?;
            Ok(rows)
        })
        .await
    }

    /// Servers have the facts up to this number: their snapshots are kept.
    pub(in crate::coordinator) async fn facts_stored(&self, to: u64) -> Result<()> {
        self.write(move |db| {
            let sql = "SELECT bytes FROM facts WHERE stored = 0 AND number <= ?1 ORDER BY number";
            for bytes in super::rows::column::<Vec<u8>>(db, sql, [to])? {
                let Body::Stamp(stamp) = Fact::peek(&bytes)?.body;
                if keep(db, &stamp)? {
                    tell(db, &stamp)?;
                }
            }
            let sql = "UPDATE facts SET stored = 1 WHERE stored = 0 AND number <= ?1";
            db.execute(sql, [to])?;
            Ok(())
        })
        .await
    }

    /// Makes facts of the snapshots of a catalog from before there were facts.
    pub(in crate::coordinator) async fn stamp_kept(
        &self,
        signer: std::sync::Arc<TicketSigner>,
    ) -> Result<()> {
        let any = "SELECT 1 FROM snapshots WHERE state = 'kept'
                   AND NOT EXISTS (SELECT 1 FROM facts)";
        if !self.read(move |db| Ok(db.prepare(any)?.exists([])?)).await? {
            return Ok(());
        }
        let vault = self.vault;
        self.write(move |db| {
            let mut kept = db.prepare(
                "SELECT s.id, n.sequence, n.received_ms, n.source_set, n.origin, s.k + s.m,
                        (SELECT count(DISTINCT server) FROM shards WHERE stripe = s.key)
                 FROM snapshots n JOIN stripes s ON s.key = n.stripe
                 WHERE n.state = 'kept' ORDER BY n.sequence",
            )?;
            let mut rows = kept.query([])?;
            while let Some(row) = rows.next()? {
                let stamp = Stamp {
                    snapshot: StripeId(row.get(0)?),
                    sequence: row.get(1)?,
                    received_ms: row.get(2)?,
                    source_set: Digest(row.get(3)?),
                    origin: row.get(4)?,
                };
                let copies = row.get::<_, usize>(5)?.min(row.get(6)?).max(1);
                // Of no epoch: the same catalog gives the same facts whenever it is opened.
                append(db, vault, 0, stamp, copies, &signer)?;
            }
            Ok(())
        })
        .await
    }
}

/// Adds the stamp's fact to the chain; gives its number.
pub(super) fn append(
    db: &Connection,
    vault: VaultId,
    epoch: u64,
    stamp: Stamp,
    copies: usize,
    signer: &TicketSigner,
) -> Result<u64> {
    let fact = head(db, "true")?.next(vault, epoch, Body::Stamp(stamp));
    let bytes = signer.sign_fact(&fact)?;
    db.prepare_cached("INSERT INTO facts (number, bytes, copies, stored) VALUES (?1, ?2, ?3, 0)")?
        .execute(params![fact.number, bytes, copies])?;
    Ok(fact.number)
}

/// The number of the fact that stamps this snapshot, if servers still have to be given it.
pub(super) fn stamping(db: &Connection, snapshot: StripeId) -> Result<Option<u64>> {
    let sql = "SELECT bytes FROM facts WHERE stored = 0";
    for bytes in super::rows::column::<Vec<u8>>(db, sql, [])? {
        let fact = Fact::peek(&bytes)?;
        let Body::Stamp(stamp) = fact.body;
        if stamp.snapshot == snapshot {
            return Ok(Some(fact.number));
        }
    }
    Ok(None)
}

/// Makes a stamped snapshot one that is kept, if the stripe with its record is known; gives
/// whether it is new.
pub(super) fn keep(db: &Connection, stamp: &Stamp) -> Result<bool> {
    let Some(key) = stripe_key(db, stamp.snapshot)? else { return Ok(false) };
    let known = "SELECT 1 FROM tokens WHERE id = ?1";
    let is_known = |id: i64| Ok::<_, Error>(db.prepare_cached(known)?.exists([id])?);
    let origin = i64::try_from(stamp.origin).unwrap_or_default();
    let origin = if is_known(origin)? { origin } else { owner(db)? };
    let added = db
        .prepare_cached(
            "INSERT INTO snapshots (stripe, sequence, received_ms, source_set, origin, state)
             VALUES (?1, ?2, ?3, ?4, ?5, 'kept') ON CONFLICT (stripe) DO NOTHING",
        )?
        .execute(params![key, stamp.sequence, stamp.received_ms, stamp.source_set.0, origin])?;
    db.prepare_cached("UPDATE meta SET sequence = max(sequence, ?1)")?.execute([stamp.sequence])?;
    Ok(added > 0)
}

/// Adds to the event log that a snapshot is kept.
fn tell(db: &Connection, stamp: &Stamp) -> Result<()> {
    let sql = "SELECT t.role FROM tokens t JOIN snapshots n ON n.origin = t.id
               JOIN stripes s ON s.key = n.stripe WHERE s.id = ?1";
    let role: String = db.prepare_cached(sql)?.query_row([stamp.snapshot.0], |r| r.get(0))?;
    let text = format!("{:.8} by the {role}'s token", stamp.snapshot);
    let what = Told::of(events::Kind::Snapshot, text).in_stripe(stamp.snapshot);
    insert_event(db, &Happened { at_ms: stamp.received_ms, times: 1, what })
}

/// The id of the owner's token: what came by tokens that are not known any more counts as theirs.
pub(super) fn owner(db: &Connection) -> Result<i64> {
    let sql = "SELECT id FROM tokens WHERE role = 'owner'";
    let id = db.prepare_cached(sql)?.query_row([], |r| r.get(0)).optional()?;
    id.ok_or_else(|| Error::refuse(Code::Internal, "the catalog has no owner token"))
}

/// The last of the facts that are `which`.
pub(super) fn head(db: &Connection, which: &'static str) -> Result<Head> {
    let sql = format!("SELECT number, bytes FROM facts WHERE {which} ORDER BY number DESC LIMIT 1");
    let last = db.prepare_cached(&sql)?.query_row([], |r| {
        Ok(Head { number: r.get(0)?, hash: fact::hash(&r.get::<_, Vec<u8>>(1)?) })
    });
    Ok(last.optional()?.unwrap_or_default())
}

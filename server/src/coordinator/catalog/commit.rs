//! Making stripes and snapshots known. A repeated commit adds holders and removes nothing.

use std::sync::Arc;

use codec::fact::Stamp;
use codec::shard::Kind;
use codec::{ChunkId, Digest, Geometry, StripeId};
use rusqlite::{Connection, OptionalExtension as _, params};

use super::inventory::is_condemned;
use super::push::{no_intent, open_lease};
use super::rows::{
    encode_frames, kept_snapshot, note_found, shards_changed, stripe_key, stripe_map,
};
use super::{Catalog, facts, tick};
use crate::auth::TicketSigner;
use crate::wire::{Code, Committed, Found, FrameEnd, LeaseId, ServerId, SnapshotRow};
use crate::{Error, Result};

/// A chunk and the number of its frame.
pub(in crate::coordinator) type ChunkRow = (ChunkId, u32);

/// A stripe whose commit was checked: its fields agree and its receipts are genuine.
#[derive(Debug)]
pub(in crate::coordinator) struct NewStripe {
    pub(in crate::coordinator) stripe: StripeId,
    pub(in crate::coordinator) kind: Kind,
    pub(in crate::coordinator) geometry: Geometry,
    pub(in crate::coordinator) pack_bytes: u64,
    pub(in crate::coordinator) pack_key: Vec<u8>,
    pub(in crate::coordinator) frames: Vec<FrameEnd>,
    /// Sorted.
    pub(in crate::coordinator) chunks: Vec<ChunkRow>,
    /// Different indexes on different servers, each with a receipt.
    pub(in crate::coordinator) holders: Vec<(u8, ServerId)>,
}

/// What a rebuild met and made of a stripe.
#[derive(Debug)]
pub(in crate::coordinator) struct Mended {
    pub(in crate::coordinator) stripe: StripeId,
    /// That of the stripe when the rebuild was planned.
    pub(in crate::coordinator) version: u64,
    /// What it found where shards should be.
    pub(in crate::coordinator) found: Vec<(u8, ServerId, Found)>,
    /// Shards with a receipt.
    pub(in crate::coordinator) made: Vec<(u8, ServerId)>,
}

/// How far the commit of a snapshot is.
#[derive(Debug)]
pub(in crate::coordinator) enum Stamped {
    /// It is kept.
    Kept(Box<SnapshotRow>),
    /// Servers have to be given the fact of this number first.
    Stamping(u64),
}

impl Catalog {
    /// Makes a stripe, or more holders of a known one, part of the catalog.
    pub(in crate::coordinator) async fn commit_stripe(
        &self,
        origin: i64,
        lease: LeaseId,
        new: NewStripe,
    ) -> Result<Committed> {
        let clock = self.clock;
        self.write(move |db| {
            open_lease(db, origin, lease, clock.now_ms())?;
            let key = add_stripe(db, origin, lease, &new)?;
            let sql = "SELECT good, k + m FROM stripes WHERE key = ?1";
            Ok(db
                .prepare_cached(sql)?
                .query_row([key], |r| Ok(Committed { holders: r.get(0)?, target: r.get(1)? }))?)
        })
        .await
    }

    /// Books what a rebuild met and made, unless the stripe has changed since it was planned:
    /// another repair may have made the same elsewhere.
    pub(in crate::coordinator) async fn book_repair(
        &self,
        origin: i64,
        lease: LeaseId,
        mended: Mended,
    ) -> Result<()> {
        let clock = self.clock;
        self.write(move |db| {
            let Mended { stripe, version, found, made } = mended;
            open_lease(db, origin, lease, clock.now_ms())?;
            let sql = "SELECT key FROM stripes WHERE id = ?1 AND version = ?2";
            let key = db.prepare_cached(sql)?.query_row(params![stripe.0, version], |r| r.get(0));
            let changed =
                || Error::refuse(Code::Conflict, format!("stripe {stripe:.12} changed meanwhile"));
            let key: i64 = key.optional()?.ok_or_else(changed)?;
            let mut changes = 0;
            for (index, server, found) in &found {
                changes += note_found(db, key, *index, *server, found)?;
            }
            // What was found bad in its place and mended there is good in the end.
            for (index, server) in made {
                changes += add_holder(db, lease, stripe, key, index, server)?;
            }
            if changes > 0 {
                shards_changed(db, key)?;
            }
            Ok(())
        })
        .await
    }

    /// Makes the stripe with a snapshot's record and the snapshot's stamp part of the catalog, or
    /// neither; the snapshot is kept once that is stored. The same one again gives the first row,
    /// under a lease that is over too.
    pub(in crate::coordinator) async fn commit_snapshot(
        &self,
        origin: i64,
        lease: LeaseId,
        new: NewStripe,
        source_set: Digest,
        signer: Arc<TicketSigner>,
    ) -> Result<Stamped> {
        let (clock, vault, epoch) = (self.clock, self.vault, self.epoch());
        self.write(move |db| {
            let now_ms = clock.now_ms();
            let open = open_lease(db, origin, lease, now_ms);
            let known = stripe_key(db, new.stripe)?;
            if let Some(first) = known.map(|key| kept_snapshot(db, key)).transpose()?.flatten() {
                if open.is_ok() {
                    add_stripe(db, origin, lease, &new)?;
                }
                return Ok(Stamped::Kept(Box::new(first)));
            }
            if let Some(number) = facts::stamping(db, new.stripe)? {
                if open.is_ok() {
                    add_stripe(db, origin, lease, &new)?;
                }
                return Ok(Stamped::Stamping(number));
            }
            open?;
            let key = add_stripe(db, origin, lease, &new)?;
            if db.prepare_cached("SELECT 1 FROM snapshots WHERE stripe = ?1")?.exists([key])? {
                return Err(Error::refuse(Code::Conflict, "this snapshot was forgotten"));
            }
            let stamp = Stamp {
                snapshot: new.stripe,
                sequence: tick(db)?,
                received_ms: now_ms,
                source_set,
                origin: u64::try_from(origin).unwrap_or_default(),
            };
            // Its record's code is 1+m: a rebuild that misses m servers finds one that has it.
            let copies = new.geometry.shards();
            facts::append(db, vault, epoch, stamp, copies, &signer).map(Stamped::Stamping)
        })
        .await
    }

    /// A snapshot that is kept.
    pub(in crate::coordinator) async fn snapshot(&self, id: StripeId) -> Result<SnapshotRow> {
        self.read(move |db| {
            let key = stripe_key(db, id)?;
            let kept = key.map(|key| kept_snapshot(db, key)).transpose()?.flatten();
            kept.ok_or_else(|| Error::refuse(Code::NotFound, format!("no snapshot {id:.12}")))
        })
        .await
    }
}

/// Adds what is new of a stripe; gives its key.
pub(super) fn add_stripe(
    db: &Connection,
    origin: i64,
    lease: LeaseId,
    new: &NewStripe,
) -> Result<i64> {
    let key = match stripe_key(db, new.stripe)? {
        Some(key) => same_stripe(db, key, new)?,
        None => insert_stripe(db, origin, new)?,
    };
    let mut changed = 0;
    for &(index, server) in &new.holders {
        changed += add_holder(db, lease, new.stripe, key, index, server)?;
    }
    if changed > 0 {
        shards_changed(db, key)?;
    }
    Ok(key)
}

fn insert_stripe(db: &Connection, origin: i64, new: &NewStripe) -> Result<i64> {
    let k = new.geometry.data();
    if new.holders.len() < k {
        return Err(Error::refuse(
            Code::BadRequest,
            format!(
                "stripe {:.12} has {} receipts; fewer than {k} cannot be read back",
                new.stripe,
                new.holders.len()
            ),
        ));
    }
    let sequence = tick(db)?;
    let key = db
        .prepare_cached(
            "INSERT INTO stripes (id, kind, k, m, pack_bytes, shard_bytes, pack_key, frames,
                                  origin, created_sequence, touched_sequence, version, good,
                                  surplus)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?10, 0, 0, 0) RETURNING key",
        )?
        .query_row(
            params![
                new.stripe.0,
                new.kind as u8,
                k,
                new.geometry.parity(),
                new.pack_bytes,
                new.geometry.shard_bytes(new.pack_bytes),
                new.pack_key,
                encode_frames(&new.frames),
                origin,
                sequence
            ],
            |r| r.get(0),
        )?;
    insert_chunks(db, key, &new.chunks)?;
    Ok(key)
}

/// Notes what is in a stripe that was known by its shards alone.
pub(super) fn set_frames(
    db: &Connection,
    key: i64,
    frames: &[FrameEnd],
    chunks: &[ChunkRow],
) -> Result<()> {
    db.prepare_cached("UPDATE stripes SET frames = ?2 WHERE key = ?1")?
        .execute(params![key, encode_frames(frames)])?;
    insert_chunks(db, key, chunks)
}

fn insert_chunks(db: &Connection, key: i64, chunks: &[ChunkRow]) -> Result<()> {
    let mut insert = db.prepare_cached("INSERT OR IGNORE INTO chunks VALUES (?1, ?2, ?3)")?;
    for (chunk, frame) in chunks {
        insert.execute(params![chunk.0, key, frame])?;
    }
    Ok(())
}

/// The key of a known stripe, if `new` says the same of it.
fn same_stripe(db: &Connection, key: i64, new: &NewStripe) -> Result<i64> {
    let known = stripe_map(db, key)?;
    // One that was found by its shards alone: now it is known what is in it.
    let is_bare = known.frames.is_empty() && !new.frames.is_empty();
    let same = known.kind == new.kind
        && known.geometry == new.geometry
        && known.pack_bytes == new.pack_bytes
        && known.pack_key.0 == new.pack_key
        && (is_bare || known.frames == new.frames);
    let other =
        || format!("stripe {:.12} is known with another content; nothing was changed", new.stripe);
    if !same {
        return Err(Error::refuse(Code::Conflict, other()));
    }
    if is_bare {
        set_frames(db, key, &new.frames, &new.chunks)?;
    }
    Ok(key)
}

/// Notes that a server holds a shard, by its intent under this lease; gives how many rows that
/// changed. A receipt counts once: what was reported bad since its commit is good again by a
/// new place only. A server with another good shard of the stripe keeps that one: its new shard stays
/// uncommitted and is left over.
fn add_holder(
    db: &Connection,
    lease: LeaseId,
    stripe: StripeId,
    key: i64,
    index: u8,
    server: ServerId,
) -> Result<usize> {
    if holds(db, stripe, index, server)? {
        settle(db, lease, stripe, key, index, server)?;
        return Ok(0);
    }
    // What its server was told to trash is none, whatever receipt there is.
    if is_condemned(db, stripe, server)? {
        return Ok(0);
    }
    let intent = params![lease.0, stripe.0, index, server.0];
    let committed = db
        .prepare_cached(
            "SELECT committed FROM intents
             WHERE lease = ?1 AND stripe = ?2 AND idx = ?3 AND server = ?4",
        )?
        .query_row(intent, |r| r.get(0))
        .optional()?;
    match committed {
        None => return Err(no_intent(stripe, index, server)),
        Some(true) => return Ok(0),
        Some(false) => {}
    }
    let changed = db
        .prepare_cached(
            "INSERT INTO shards (stripe, server, idx, state) VALUES (?1, ?2, ?3, 'good')
             ON CONFLICT (stripe, server) DO UPDATE SET idx = excluded.idx, state = 'good', read_ms = NULL
             WHERE state <> 'good'",
        )?
        .execute(params![key, server.0, index])?;
    settle(db, lease, stripe, key, index, server)?;
    Ok(changed)
}

/// Marks the intent as committed, if its shard is the one that the catalog has.
fn settle(
    db: &Connection,
    lease: LeaseId,
    stripe: StripeId,
    key: i64,
    index: u8,
    server: ServerId,
) -> Result<()> {
    db.prepare_cached(
        "UPDATE intents SET committed = 1
         WHERE lease = ?1 AND stripe = ?2 AND idx = ?3 AND server = ?4 AND EXISTS
             (SELECT 1 FROM shards WHERE stripe = ?5 AND server = ?4 AND idx = ?3)",
    )?
    .execute(params![lease.0, stripe.0, index, server.0, key])?;
    Ok(())
}

/// Whether the catalog has this shard, and as good.
pub(super) fn holds(
    db: &Connection,
    stripe: StripeId,
    index: u8,
    server: ServerId,
) -> Result<bool> {
    let sql = "SELECT 1 FROM stripes s JOIN shards h ON h.stripe = s.key
               WHERE s.id = ?1 AND h.server = ?3 AND h.idx = ?2 AND h.state = 'good'";
    Ok(db.prepare_cached(sql)?.exists(params![stripe.0, index, server.0])?)
}

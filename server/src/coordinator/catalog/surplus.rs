//! Shards that go: struck out first, trashed then.

use codec::StripeId;
use rusqlite::{OptionalExtension as _, Row, params};

use super::Catalog;
use super::rows::{geometry_at, holders, shards_changed};
use crate::Result;
use crate::coordinator::repair::Surplus;
use crate::wire::{Holder, ServerId, file_bytes};

/// A stripe and where its shards are.
#[derive(Debug)]
pub(in crate::coordinator) struct Held {
    pub(in crate::coordinator) key: i64,
    pub(in crate::coordinator) stripe: StripeId,
    pub(in crate::coordinator) geometry: codec::Geometry,
    pub(in crate::coordinator) version: u64,
    /// Bytes of each shard file.
    pub(in crate::coordinator) file_bytes: u64,
    pub(in crate::coordinator) shards: Vec<Holder>,
}

impl Held {
    /// What [`Held::read`] takes one from; the shards are read apart.
    pub(super) const COLUMNS: &str = "key, id, k, m, version, pack_bytes, length(pack_key)";

    pub(super) fn read(r: &Row) -> rusqlite::Result<Self> {
        let geometry = geometry_at(r, 2)?;
        Ok(Self {
            key: r.get(0)?,
            stripe: StripeId(r.get(1)?),
            geometry,
            version: r.get(4)?,
            file_bytes: file_bytes(geometry, r.get(5)?, r.get(6)?),
            shards: Vec::new(),
        })
    }
}

impl Catalog {
    /// A page of the stripes with more shards than they need, after the key `after`.
    pub(in crate::coordinator) async fn surfeits(
        &self,
        after: i64,
        limit: usize,
    ) -> Result<Vec<Held>> {
        self.held("surplus > 0", after, limit).await
    }

    /// A page of all stripes, after the key `after`.
    pub(in crate::coordinator) async fn all_held(
        &self,
        after: i64,
        limit: usize,
    ) -> Result<Vec<Held>> {
        self.held("true", after, limit).await
    }

    async fn held(&self, which: &'static str, after: i64, limit: usize) -> Result<Vec<Held>> {
        self.read(move |db| {
            let mut rows = db.prepare_cached(&format!(
                "SELECT {} FROM stripes WHERE {which} AND key > ?1 ORDER BY key LIMIT ?2",
                Held::COLUMNS
            ))?;
            let rows = rows.query_map(params![after, limit], Held::read)?;
            let mut rows = rows.collect::<rusqlite::Result<Vec<_>>>()?;
            for row in &mut rows {
                row.shards = holders(db, row.key)?;
            }
            Ok(rows)
        })
        .await
    }

    /// Strikes shards of a stripe out, to be trashed, unless it has changed since it was looked
    /// at; gives whether it did.
    pub(in crate::coordinator) async fn strike_out(
        &self,
        key: i64,
        version: u64,
        surplus: Vec<Surplus>,
    ) -> Result<bool> {
        self.write(move |db| {
            let sql = "SELECT id FROM stripes WHERE key = ?1 AND version = ?2";
            let stripe = db.prepare_cached(sql)?.query_row(params![key, version], |r| r.get(0));
            let Some(stripe) = stripe.optional()?.map(StripeId) else { return Ok(false) };
            // A loss changes no version: what stays must not be lost since.
            let mut lost = db.prepare_cached("SELECT 1 FROM servers WHERE id = ?1 AND lost")?;
            for Surplus { kept, .. } in &surplus {
                if lost.exists([kept.0])? {
                    return Ok(false);
                }
            }
            for Surplus { index, dropped, .. } in surplus {
                db.prepare_cached(
                    "DELETE FROM shards WHERE stripe = ?1 AND server = ?2 AND idx = ?3",
                )?
                .execute(params![key, dropped.0, index])?;
                db.prepare_cached("INSERT OR REPLACE INTO tombstones VALUES (?1, ?2, ?3, 0)")?
                    .execute(params![dropped.0, stripe.0, index])?;
            }
            shards_changed(db, key)?;
            Ok(true)
        })
        .await
    }

    /// Up to `limit` shards to be trashed on `server`, whose last order left before `before_ms`;
    /// notes that one leaves at `now_ms`.
    pub(in crate::coordinator) async fn order_trash(
        &self,
        server: ServerId,
        before_ms: u64,
        now_ms: u64,
        limit: usize,
    ) -> Result<Vec<(StripeId, u8)>> {
        let due = move |db: &rusqlite::Connection| -> Result<Vec<(StripeId, u8)>> {
            let mut rows = db.prepare_cached(
                "SELECT stripe, idx FROM tombstones WHERE server = ?1 AND ordered_ms < ?2
                 ORDER BY stripe, idx LIMIT ?3",
            )?;
            let rows = rows.query_map(params![server.0, before_ms, limit], |r| {
                Ok((StripeId(r.get(0)?), r.get(1)?))
            })?;
            Ok(rows.collect::<rusqlite::Result<_>>()?)
        };
        if self.read(due).await?.is_empty() {
            return Ok(Vec::new());
        }
        self.write(move |db| {
            let shards = due(db)?;
            let mut note = db.prepare_cached(
                "UPDATE tombstones SET ordered_ms = ?4
                 WHERE server = ?1 AND stripe = ?2 AND idx = ?3",
            )?;
            for (stripe, index) in &shards {
                note.execute(params![server.0, stripe.0, index, now_ms])?;
            }
            Ok(shards)
        })
        .await
    }

    /// A server said that these are in its trash, or were not there: nothing is left of them.
    pub(in crate::coordinator) async fn buried(
        &self,
        server: ServerId,
        shards: Vec<(StripeId, u8)>,
    ) -> Result<()> {
        self.write(move |db| {
            for (stripe, index) in shards {
                for table in ["tombstones", "intents"] {
                    let sql = format!(
                        "DELETE FROM {table} WHERE stripe = ?1 AND server = ?2 AND idx = ?3"
                    );
                    db.prepare_cached(&sql)?.execute(params![stripe.0, server.0, index])?;
                }
            }
            Ok(())
        })
        .await
    }

    /// The servers that are to trash a shard of `stripe`.
    pub(in crate::coordinator) async fn entombed(&self, stripe: StripeId) -> Result<Vec<ServerId>> {
        self.read(move |db| {
            let sql = "SELECT server FROM tombstones WHERE stripe = ?1";
            Ok(super::rows::column(db, sql, [stripe.0])?.into_iter().map(ServerId).collect())
        })
        .await
    }
}

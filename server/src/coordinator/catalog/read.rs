//! Finding snapshots, stripes and chunks; noting what readers met.

use std::collections::HashMap;

use codec::{ChunkId, StripeId};
use rusqlite::{Connection, params};

use super::Catalog;
use super::rows::{column, kept_snapshot, note_found, shards_changed, stripe_key, stripe_map};
use crate::wire::{Code, LocateAnswer, Page, Report, SnapshotRow, StripeMap};
use crate::{Error, Result};

/// Stripes that can no longer be read, by the catalog. The first term is the index's.
const LOST_STRIPES: &str = "SELECT key FROM stripes WHERE good < k + m AND good < k";

impl Catalog {
    /// A page of the kept snapshots before `before`, newest first.
    pub(in crate::coordinator) async fn snapshots(
        &self,
        before: Option<u64>,
        limit: usize,
    ) -> Result<Page<SnapshotRow>> {
        self.read(move |db| {
            let keys: Vec<i64> = column(
                db,
                "SELECT stripe FROM snapshots WHERE state = 'kept' AND sequence < ?1
                 ORDER BY sequence DESC LIMIT ?2",
                params![before.map_or(i64::MAX, |s| i64::try_from(s).unwrap_or(i64::MAX)), limit],
            )?;
            let mut rows = Vec::with_capacity(keys.len());
            for key in keys {
                rows.extend(kept_snapshot(db, key)?);
            }
            Ok(page(rows, limit, |row| row.sequence.to_string()))
        })
        .await
    }

    /// A page of all stripes after the one with the key `after`.
    pub(in crate::coordinator) async fn stripes(
        &self,
        after: i64,
        limit: usize,
    ) -> Result<Page<StripeMap>> {
        self.read(move |db| {
            let sql = "SELECT key FROM stripes WHERE key > ?1 ORDER BY key LIMIT ?2";
            let keys: Vec<i64> = column(db, sql, params![after, limit])?;
            let maps: Vec<StripeMap> =
                keys.iter().map(|&key| stripe_map(db, key)).collect::<Result<_>>()?;
            let next = keys.last().filter(|_| keys.len() == limit).map(i64::to_string);
            Ok(Page { rows: maps, next })
        })
        .await
    }

    /// The maps of those of `stripes` that are known.
    pub(in crate::coordinator) async fn stripe_maps(
        &self,
        stripes: Vec<StripeId>,
    ) -> Result<Vec<StripeMap>> {
        self.read(move |db| {
            let mut maps = Vec::with_capacity(stripes.len());
            for stripe in stripes {
                if let Some(key) = stripe_key(db, stripe)? {
                    maps.push(stripe_map(db, key)?);
                }
            }
            Ok(maps)
        })
        .await
    }

    /// The map of a stripe and the version of its shards.
    pub(in crate::coordinator) async fn versioned_map(
        &self,
        stripe: StripeId,
    ) -> Result<Option<(StripeMap, u64)>> {
        self.read(move |db| {
            let Some(key) = stripe_key(db, stripe)? else { return Ok(None) };
            let sql = "SELECT version FROM stripes WHERE key = ?1";
            let version = db.prepare_cached(sql)?.query_row([key], |r| r.get(0))?;
            Ok(Some((stripe_map(db, key)?, version)))
        })
        .await
    }

    /// All places of `chunks`.
    pub(in crate::coordinator) async fn locate(
        &self,
        chunks: Vec<ChunkId>,
    ) -> Result<LocateAnswer> {
        self.read(move |db| {
            let mut rows = db.prepare_cached("SELECT stripe, frame FROM chunks WHERE id = ?1")?;
            let mut numbers: HashMap<i64, u32> = HashMap::new();
            let mut stripes = Vec::new();
            let mut places = Vec::with_capacity(chunks.len());
            for chunk in chunks {
                let mut found = Vec::new();
                let mut rows = rows.query([chunk.0])?;
                while let Some(row) = rows.next()? {
                    let (key, frame) = (row.get(0)?, row.get(1)?);
                    let number = match numbers.get(&key) {
                        Some(&number) => number,
                        None => {
                            stripes.push(stripe_map(db, key)?);
                            *numbers.entry(key).or_insert(stripes.len() as u32 - 1)
                        }
                    };
                    found.push((number, frame));
                }
                places.push(found);
            }
            Ok(LocateAnswer { places, stripes })
        })
        .await
    }

    /// A page of the chunks after `after` that no stripe gives back any more.
    pub(in crate::coordinator) async fn lost_chunks(
        &self,
        after: Option<ChunkId>,
        limit: usize,
    ) -> Result<Page<ChunkId>> {
        self.read(move |db| {
            let mut rows = Vec::new();
            if any_lost(db)? {
                let after = after.map(|id| id.0.to_vec()).unwrap_or_default();
                let sql =
                    format!("{} AND id > ?1 ORDER BY id LIMIT ?2", lost_chunks("DISTINCT id"));
                rows = column(db, &sql, params![after, limit])?.into_iter().map(ChunkId).collect();
            }
            Ok(page(rows, limit, ToString::to_string))
        })
        .await
    }

    /// How many chunks no stripe gives back any more, and how many stripes are below target.
    pub(in crate::coordinator) async fn deficits(&self) -> Result<(u64, u64)> {
        self.read(|db| {
            let mut lost = 0;
            if any_lost(db)? {
                let sql = lost_chunks("count(DISTINCT id)");
                lost = db.prepare_cached(&sql)?.query_row([], |r| r.get(0))?;
            }
            Ok((lost, below_target(db)?))
        })
        .await
    }

    /// Notes what a reader found where a shard should be; gives whether that is new.
    pub(in crate::coordinator) async fn report(&self, report: Report) -> Result<bool> {
        self.write(move |db| {
            let Report { stripe, index, server, found } = report;
            let unknown = || {
                let what = format!(
                    "the catalog has no shard {index} of stripe {stripe:.12} on server {}",
                    server.0
                );
                Error::refuse(Code::NotFound, what)
            };
            let key = stripe_key(db, stripe)?.ok_or_else(unknown)?;
            let shard = params![key, server.0, index];
            let known = "SELECT 1 FROM shards WHERE stripe = ?1 AND server = ?2 AND idx = ?3";
            if !db.prepare_cached(known)?.exists(shard)? {
                return Err(unknown());
            }
            let changed = note_found(db, key, index, server, &found)?;
            if changed > 0 {
                shards_changed(db, key)?;
            }
            Ok(changed > 0)
        })
        .await
    }
}

/// How many stripes have fewer good shards than they should.
pub(super) fn below_target(db: &Connection) -> Result<u64> {
    let sql = "SELECT count(*) FROM stripes WHERE good < k + m";
    Ok(db.prepare_cached(sql)?.query_row([], |r| r.get(0))?)
}

fn any_lost(db: &Connection) -> Result<bool> {
    Ok(db
        .prepare_cached(&format!("SELECT EXISTS ({LOST_STRIPES})"))?
        .query_row([], |r| r.get(0))?)
}

/// Selects `what` of the chunks all of whose stripes are lost.
fn lost_chunks(what: &str) -> String {
    format!(
        "WITH lost AS MATERIALIZED ({LOST_STRIPES})
         SELECT {what} FROM chunks c
         WHERE stripe IN lost AND NOT EXISTS
             (SELECT 1 FROM chunks o WHERE o.id = c.id AND o.stripe NOT IN lost)"
    )
}

/// A page of `rows`, which were asked for `limit` at a time.
fn page<T>(rows: Vec<T>, limit: usize, cursor: impl Fn(&T) -> String) -> Page<T> {
    let next = rows.last().filter(|_| rows.len() == limit).map(cursor);
    Page { rows, next }
}

//! Counts of all kinds, for `arc status`.

use rusqlite::{Connection, params};

use super::Catalog;
use super::ledger::ledger_counts;
use super::read::below_target;
use crate::Result;
use crate::wire::{LedgerCounts, ServerId};

/// What the catalog adds to a status.
#[derive(Debug)]
pub(in crate::coordinator) struct Counts {
    pub(in crate::coordinator) snapshots: u64,
    pub(in crate::coordinator) stripes: u64,
    pub(in crate::coordinator) chunks: Option<u64>,
    pub(in crate::coordinator) pack_bytes: u64,
    pub(in crate::coordinator) shard_bytes: u64,
    pub(in crate::coordinator) margins: Vec<(i32, u64)>,
    pub(in crate::coordinator) stripes_below_target: u64,
    pub(in crate::coordinator) repairs: LedgerCounts,
    pub(in crate::coordinator) whole: u64,
    pub(in crate::coordinator) leases: u64,
    pub(in crate::coordinator) leftover_shards: u64,
}

impl Catalog {
    /// The counts, with margins by the good shards on the servers in `up`; that of the chunks, for
    /// which the longest table is gone through, only where it is asked for.
    pub(in crate::coordinator) async fn counts(
        &self,
        up: Vec<ServerId>,
        with_chunks: bool,
    ) -> Result<Counts> {
        let now_ms = self.clock.now_ms();
        self.read(move |db| {
            let (stripes, pack_bytes) = db
                .prepare_cached("SELECT count(*), coalesce(sum(pack_bytes), 0) FROM stripes")?
                .query_row([], |r| Ok((r.get(0)?, r.get(1)?)))?;
            Ok(Counts {
                snapshots: number(db, "SELECT count(*) FROM snapshots WHERE state = 'kept'")?,
                stripes,
                chunks: with_chunks
                    .then(|| number(db, "SELECT count(*) FROM (SELECT DISTINCT id FROM chunks)"))
                    .transpose()?,
                pack_bytes,
                shard_bytes: number(
                    db,
                    "SELECT coalesce(sum(s.shard_bytes), 0)
                     FROM shards h JOIN stripes s ON s.key = h.stripe WHERE h.state <> 'missing'",
                )?,
                margins: margins(db, &up)?,
                stripes_below_target: below_target(db)?,
                repairs: ledger_counts(db)?,
                whole: number(
                    db,
                    "SELECT count(*) FROM stripes
                     WHERE NOT EXISTS (SELECT 1 FROM repairs WHERE stripe = key)",
                )?,
                leases: db
                    .prepare_cached(
                        "SELECT count(*) FROM leases WHERE state = 'open' AND expires_ms > ?1",
                    )?
                    .query_row([now_ms], |r| r.get(0))?,
                leftover_shards: leftovers(db, now_ms)?,
            })
        })
        .await
    }

    /// How many stripes have nothing to spare on the servers in `up`.
    pub(in crate::coordinator) async fn thin_stripes(&self, up: Vec<ServerId>) -> Result<u64> {
        let thin = |margins: Vec<(i32, u64)>| {
            margins.into_iter().filter(|(margin, _)| *margin <= 0).map(|(_, stripes)| stripes).sum()
        };
        self.read(move |db| Ok(thin(margins(db, &up)?))).await
    }
}

fn number(db: &Connection, sql: &str) -> Result<u64> {
    Ok(db.prepare_cached(sql)?.query_row([], |r| r.get(0))?)
}

/// (margin, stripes), ascending: different good shards on servers that are up, minus k.
fn margins(db: &Connection, up: &[ServerId]) -> Result<Vec<(i32, u64)>> {
    let up = serde_json::json!(up).to_string();
    let mut rows = db.prepare_cached(
        "WITH up AS MATERIALIZED (SELECT value FROM json_each(?1))
         SELECT margin, count(*) FROM
             (SELECT (SELECT count(DISTINCT idx) FROM shards
                      WHERE stripe = key AND state = 'good' AND server IN up) - k AS margin
              FROM stripes)
         GROUP BY margin ORDER BY margin",
    )?;
    let rows = rows.query_map([up], |r| Ok((r.get(0)?, r.get(1)?)))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Shards that pushes whose lease is over may have left: intended, not committed, and not
/// intended by a push that still runs.
fn leftovers(db: &Connection, now_ms: u64) -> Result<u64> {
    let mut count = db.prepare_cached(
        "WITH open AS MATERIALIZED
             (SELECT id FROM leases WHERE state = 'open' AND expires_ms > ?1)
         SELECT count(*) FROM
             (SELECT DISTINCT stripe, idx, server FROM intents i
              WHERE committed = 0 AND lease NOT IN open
                AND NOT EXISTS (SELECT 1 FROM intents o WHERE o.stripe = i.stripe
                    AND o.idx = i.idx AND o.server = i.server AND o.lease IN open)
                AND NOT EXISTS (SELECT 1 FROM stripes s JOIN shards h ON h.stripe = s.key
                    WHERE s.id = i.stripe AND h.server = i.server AND h.idx = i.idx))",
    )?;
    Ok(count.query_row(params![now_ms], |r| r.get(0))?)
}

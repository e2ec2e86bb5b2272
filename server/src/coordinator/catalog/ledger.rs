//! The ledger of repairs: stripes that lack shards, and what became of them.

use codec::{Geometry, StripeId};
use rusqlite::{Connection, OptionalExtension as _, Row, params};

use super::rows::{geometry_at, holders, lost_changed};
use super::{Catalog, HeldStripe};
use crate::coordinator::repair::Entry;
use crate::wire::{Code, Holder, LedgerCounts, LedgerRow, LedgerState, Page, ServerId};
use crate::{Error, Result};

/// An entry and the shards of its stripe.
#[derive(Debug)]
pub(in crate::coordinator) struct Ledgered {
    pub(in crate::coordinator) key: i64,
    pub(in crate::coordinator) stripe: StripeId,
    pub(in crate::coordinator) geometry: Geometry,
    pub(in crate::coordinator) shards: Vec<Holder>,
    pub(in crate::coordinator) found_ms: u64,
    pub(in crate::coordinator) tried_ms: Option<u64>,
    pub(in crate::coordinator) attempts: u32,
    pub(in crate::coordinator) due_ms: u64,
}

/// Which entries are asked for.
#[derive(Debug, Clone, Copy)]
pub(in crate::coordinator) enum Which {
    /// Those that were not, or not tried yet.
    Open,
    /// Those that were whole after their last try.
    Repaired,
}

impl Catalog {
    /// Takes stripes that have fewer good shards than they should into the ledger; gives whether
    /// there were any that it had not.
    pub(in crate::coordinator) async fn note_deficits(&self) -> Result<bool> {
        let clock = self.clock;
        let new = "SELECT key FROM stripes WHERE good < k + m AND NOT EXISTS
                       (SELECT 1 FROM repairs WHERE stripe = key AND state <> 'repaired')";
        let any = self.read(move |db| Ok(db.prepare_cached(new)?.exists([])?)).await?;
        if any {
            self.write(move |db| note(db, new, params![], clock.now_ms())).await?;
        }
        Ok(any)
    }

    /// Takes up to `limit` stripes of which `server` has a good shard into the ledger, those after
    /// the key `after`; gives the last one's key, or none at the end.
    pub(in crate::coordinator) async fn note_stripes_of(
        &self,
        server: ServerId,
        after: i64,
        limit: usize,
    ) -> Result<Option<i64>> {
        let clock = self.clock;
        self.write(move |db| {
            let some = "SELECT stripe FROM shards
                        WHERE server = ?2 AND stripe > ?3 AND state = 'good'
                        ORDER BY stripe LIMIT ?4";
            let last: Option<i64> = db
                .prepare_cached(
                    "SELECT max(stripe) FROM
                         (SELECT stripe FROM shards WHERE server = ?1 AND stripe > ?2
                          AND state = 'good' ORDER BY stripe LIMIT ?3)",
                )?
                .query_row(params![server.0, after, limit], |r| r.get(0))?;
            if last.is_some() {
                let sql = format!("SELECT stripe FROM ({some})");
                note(db, &sql, params![server.0, after, limit], clock.now_ms())?;
            }
            Ok(last)
        })
        .await
    }

    /// A page of entries after the one with the key `after`, by key.
    pub(in crate::coordinator) async fn ledgered(
        &self,
        which: Which,
        after: i64,
        limit: usize,
    ) -> Result<Vec<Ledgered>> {
        self.read(move |db| {
            let is = match which {
                Which::Open => "<>",
                Which::Repaired => "=",
            };
            let mut rows = db.prepare_cached(&format!(
                "SELECT r.stripe, s.id, s.k, s.m, r.found_ms, r.tried_ms, r.attempts, r.due_ms
                 FROM repairs r JOIN stripes s ON s.key = r.stripe
                 WHERE r.stripe > ?1 AND r.state {is} 'repaired' ORDER BY r.stripe LIMIT ?2"
            ))?;
            let rows = rows.query_map(params![after, limit], |r| {
                Ok(Ledgered {
                    key: r.get(0)?,
                    stripe: StripeId(r.get(1)?),
                    geometry: geometry_at(r, 2)?,
                    shards: Vec::new(),
                    found_ms: r.get(4)?,
                    tried_ms: r.get(5)?,
                    attempts: r.get(6)?,
                    due_ms: r.get(7)?,
                })
            })?;
            let mut rows = rows.collect::<rusqlite::Result<Vec<_>>>()?;
            for row in &mut rows {
                row.shards = holders(db, row.key)?;
            }
            Ok(rows)
        })
        .await
    }

    /// Notes what became of an entry.
    pub(in crate::coordinator) async fn note_tried(&self, key: i64, entry: Entry) -> Result<()> {
        self.write(move |db| {
            db.prepare_cached(
                "UPDATE repairs SET state = ?2, attempts = ?3, tried_ms = ?4, due_ms = ?5, why = ?6
                 WHERE stripe = ?1",
            )?
            .execute(params![
                key,
                state_name(entry.state),
                entry.attempts,
                entry.tried_ms,
                entry.due_ms,
                entry.why
            ])?;
            Ok(())
        })
        .await
    }

    /// Strikes out entries whose stripes lack nothing, and lets the others wait again.
    pub(in crate::coordinator) async fn settle_ledger(
        &self,
        whole: Vec<i64>,
        lacking: Vec<i64>,
    ) -> Result<()> {
        if whole.is_empty() && lacking.is_empty() {
            return Ok(());
        }
        self.write(move |db| {
            let mut strike = db.prepare_cached("DELETE FROM repairs WHERE stripe = ?1")?;
            for key in whole {
                strike.execute([key])?;
            }
            let mut again = db.prepare_cached(
                "UPDATE repairs SET state = 'waiting', due_ms = 0 WHERE stripe = ?1",
            )?;
            for key in lacking {
                again.execute([key])?;
            }
            Ok(())
        })
        .await
    }

    /// Lets what failed be tried at once: a server has come, or can take shards again. Gives whether
    /// anything had.
    pub(in crate::coordinator) async fn retry_repairs(&self) -> Result<bool> {
        let any = "SELECT 1 FROM repairs WHERE state IN ('failed', 'unknown') AND due_ms > 0";
        if !self.read(move |db| Ok(db.prepare_cached(any)?.exists([])?)).await? {
            return Ok(false);
        }
        self.write(move |db| {
            let sql = "UPDATE repairs SET due_ms = 0
                       WHERE state IN ('failed', 'unknown') AND due_ms > 0";
            db.prepare_cached(sql)?.execute([])?;
            Ok(true)
        })
        .await
    }

    /// Takes a stripe into the ledger that was committed on a server which does not count.
    pub(in crate::coordinator) async fn note_stripe(&self, stripe: StripeId) -> Result<()> {
        let clock = self.clock;
        self.write(move |db| {
            let sql = "SELECT key FROM stripes WHERE id = ?2";
            note(db, sql, params![stripe.0], clock.now_ms())
        })
        .await
    }

    /// When the next entry that waits for its time is due.
    pub(in crate::coordinator) async fn next_repair_ms(&self, now_ms: u64) -> Result<Option<u64>> {
        self.read(move |db| {
            let sql = "SELECT min(due_ms) FROM repairs WHERE due_ms > ?1 AND state <> 'repaired'";
            Ok(db.prepare_cached(sql)?.query_row([now_ms], |r| r.get(0)).optional()?.flatten())
        })
        .await
    }

    /// The entries, counted.
    pub(in crate::coordinator) async fn ledger_counts(&self) -> Result<LedgerCounts> {
        self.read(ledger_counts).await
    }

    /// A page of the entries after the key `after`.
    pub(in crate::coordinator) async fn ledger(
        &self,
        after: i64,
        limit: usize,
    ) -> Result<Page<LedgerRow>> {
        self.read(move |db| {
            let mut rows = db.prepare_cached(
                "SELECT r.stripe, s.id, r.state, r.found_ms, r.tried_ms, r.attempts, r.due_ms, r.why
                 FROM repairs r JOIN stripes s ON s.key = r.stripe
                 WHERE r.stripe > ?1 ORDER BY r.stripe LIMIT ?2",
            )?;
            let row = |r: &Row| Ok((r.get::<_, i64>(0)?, ledger_row(r)?));
            let rows = rows.query_map(params![after, limit], row)?;
            let rows = rows.collect::<rusqlite::Result<Vec<_>>>()?;
            let next = rows.last().filter(|_| rows.len() == limit).map(|(key, _)| key.to_string());
            Ok(Page { rows: rows.into_iter().map(|(_, row)| row).collect(), next })
        })
        .await
    }

    /// The one stripe with an id of `from` to `to`, and what the ledger has of it.
    pub(in crate::coordinator) async fn stripe_in_ledger(
        &self,
        from: StripeId,
        to: StripeId,
    ) -> Result<(HeldStripe, Option<LedgerRow>)> {
        self.read(move |db| {
            let mut rows = db.prepare_cached(&format!(
                "SELECT {} FROM stripes WHERE id BETWEEN ?1 AND ?2 ORDER BY id LIMIT 2",
                HeldStripe::COLUMNS
            ))?;
            let rows = rows.query_map(params![from.0, to.0], HeldStripe::read)?;
            let mut rows = rows.collect::<rusqlite::Result<Vec<_>>>()?;
            let Some(mut held) = rows.pop() else {
                return Err(Error::refuse(Code::NotFound, "no stripe's id begins so"));
            };
            if !rows.is_empty() {
                return Err(Error::refuse(Code::BadRequest, "the ids of several stripes begin so"));
            }
            held.shards = holders(db, held.key)?;
            let mut entry = db.prepare_cached(
                "SELECT r.stripe, s.id, r.state, r.found_ms, r.tried_ms, r.attempts, r.due_ms, r.why
                 FROM repairs r JOIN stripes s ON s.key = r.stripe WHERE r.stripe = ?1",
            )?;
            let entry = entry.query_row([held.key], ledger_row).optional()?;
            Ok((held, entry))
        })
        .await
    }

    /// Notes whether a server is lost: what it held is then made again elsewhere, after a restart
    /// too, and no push relies on it.
    pub(in crate::coordinator) async fn note_lost(
        &self,
        server: ServerId,
        lost: bool,
    ) -> Result<()> {
        self.write(move |db| {
            let sql = "UPDATE servers SET lost = ?2 WHERE id = ?1";
            db.prepare_cached(sql)?.execute(params![server.0, lost])?;
            lost_changed(db, server)
        })
        .await
    }

    /// The names of settings and what people set them to.
    pub(in crate::coordinator) async fn settings(&self) -> Result<Vec<(String, u64)>> {
        self.read(|db| {
            let mut rows = db.prepare_cached("SELECT name, value FROM settings")?;
            let rows = rows.query_map([], |r| Ok((r.get(0)?, r.get(1)?)))?;
            Ok(rows.collect::<rusqlite::Result<_>>()?)
        })
        .await
    }

    /// Sets settings, or with none takes them back.
    pub(in crate::coordinator) async fn set(
        &self,
        settings: Vec<(&'static str, Option<u64>)>,
    ) -> Result<()> {
        self.write(move |db| {
            for (name, value) in settings {
                db.execute("DELETE FROM settings WHERE name = ?1", [name])?;
                if let Some(value) = value {
                    db.execute("INSERT INTO settings VALUES (?1, ?2)", params![name, value])?;
                }
            }
            Ok(())
        })
        .await
    }
}

/// The entries, counted: each number is a count of rows of its own.
pub(super) fn ledger_counts(db: &Connection) -> Result<LedgerCounts> {
    let count = |state: &str| -> Result<u64> {
        let sql = "SELECT count(*) FROM repairs WHERE state = ?1";
        Ok(db.prepare_cached(sql)?.query_row([state], |r| r.get(0))?)
    };
    Ok(LedgerCounts {
        needed: db.prepare_cached("SELECT count(*) FROM repairs")?.query_row([], |r| r.get(0))?,
        repaired: count("repaired")?,
        failed: count("failed")?,
        waiting: count("waiting")?,
        unknown: count("unknown")?,
    })
}

/// Takes the stripes that `keys` selects into the ledger: as new ones, also where they were whole
/// after their last try. Parameters of `keys` begin at 2.
fn note(db: &Connection, keys: &str, of_keys: &[&dyn rusqlite::ToSql], now_ms: u64) -> Result<()> {
    let sql = format!(
        "INSERT INTO repairs (stripe, found_ms, state, attempts, due_ms)
         SELECT value, ?1, 'waiting', 0, 0 FROM (SELECT 0 AS value WHERE false UNION ALL {keys})
         WHERE true
         ON CONFLICT (stripe) DO UPDATE SET
             found_ms = excluded.found_ms, state = 'waiting', attempts = 0, due_ms = 0
         WHERE state = 'repaired'"
    );
    let all: Vec<&dyn rusqlite::ToSql> =
        std::iter::once(&now_ms as &dyn rusqlite::ToSql).chain(of_keys.iter().copied()).collect();
    db.prepare_cached(&sql)?.execute(&all[..])?;
    Ok(())
}

/// Of the columns stripe, id, state, found_ms, tried_ms, attempts, due_ms, why.
fn ledger_row(r: &Row) -> rusqlite::Result<LedgerRow> {
    let state: String = r.get(2)?;
    Ok(LedgerRow {
        stripe: StripeId(r.get(1)?),
        state: state_of(&state),
        found_ms: r.get(3)?,
        tried_ms: r.get(4)?,
        attempts: r.get(5)?,
        due_ms: r.get(6)?,
        why: r.get(7)?,
    })
}

fn state_name(state: LedgerState) -> &'static str {
    match state {
        LedgerState::Waiting => "waiting",
        LedgerState::Failed => "failed",
        LedgerState::Unknown => "unknown",
        LedgerState::Repaired => "repaired",
    }
}

fn state_of(name: &str) -> LedgerState {
    match name {
        "waiting" => LedgerState::Waiting,
        "failed" => LedgerState::Failed,
        "repaired" => LedgerState::Repaired,
        _ => LedgerState::Unknown,
    }
}

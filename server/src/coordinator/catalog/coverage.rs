//! When shards were last read whole and stripes last opened; drills.

use codec::StripeId;
use rusqlite::{OptionalExtension as _, params};

use super::Catalog;
use super::rows::{stripe_key, stripe_map};
use crate::Result;
use crate::wire::{
    Covered, Drill, DrillResult, Page, PastDrill, Proof, ServerId, StripeCoverage, StripeMap,
};

/// Drills that are kept.
const DRILLS_MAX: u64 = 1000;
/// Good shards on servers that are not lost: what was not found good is not covered by a look, and
/// what is gone would keep its stripe the oldest for ever.
const COUNTED: &str = "state = 'good' AND server NOT IN (SELECT id FROM servers WHERE lost)";

impl Catalog {
    /// Notes what was found good just now; what is not known, or was reported bad since, is passed
    /// over.
    pub(in crate::coordinator) async fn note_coverage(&self, stripes: Vec<Covered>) -> Result<()> {
        let now_ms = self.clock.now_ms();
        self.write(move |db| {
            let mut read = db.prepare_cached(
                "UPDATE shards SET read_ms = ?4
                 WHERE stripe = ?1 AND server = ?2 AND idx = ?3 AND state = 'good'",
            )?;
            let mut opened =
                db.prepare_cached("UPDATE stripes SET opened_ms = ?2 WHERE key = ?1")?;
            for covered in stripes {
                let Some(key) = stripe_key(db, covered.stripe)? else { continue };
                for (index, server) in covered.shards {
                    read.execute(params![key, server.0, index, now_ms])?;
                }
                if covered.opened {
                    opened.execute(params![key, now_ms])?;
                }
            }
            Ok(())
        })
        .await
    }

    /// A page of the stripes behind `after`, a time and a key, those first that were looked at
    /// longest ago. Looks at all of them. Only shards on servers that are `up` count: a look cannot
    /// reach others, and must put its stripe behind all the same. Stripes of which nothing can be
    /// read are last.
    pub(in crate::coordinator) async fn oldest(
        &self,
        proof: Proof,
        up: Vec<ServerId>,
        after: Option<(i64, i64)>,
        limit: usize,
    ) -> Result<Page<StripeMap>> {
        let when = match proof {
            Proof::Read => {
                "coalesce((SELECT min(coalesce(read_ms, 0)) FROM shards
                           WHERE stripe = key AND state = 'good' AND server IN up),
                          9223372036854775807)"
            }
            Proof::Opened => "coalesce(opened_ms, 0)",
        };
        self.read(move |db| {
            let up = serde_json::json!(up).to_string();
            let mut rows = db.prepare_cached(&format!(
                "WITH up AS MATERIALIZED (SELECT value FROM json_each(?4))
                 SELECT ms, key FROM (SELECT key, {when} AS ms FROM stripes)
                 WHERE (ms, key) > (?1, ?2) ORDER BY ms, key LIMIT ?3"
            ))?;
            let (ms, key) = after.unwrap_or((-1, 0));
            let rows =
                rows.query_map(params![ms, key, limit, up], |r| Ok((r.get(0)?, r.get(1)?)))?;
            let places: Vec<(i64, i64)> = rows.collect::<Result<_, _>>()?;
            let next = places.last().filter(|_| places.len() == limit);
            let next = next.map(|(ms, key)| format!("{ms}-{key}"));
            let rows = places.into_iter().map(|(_, key)| stripe_map(db, key));
            Ok(Page { rows: rows.collect::<Result<_>>()?, next })
        })
        .await
    }

    /// When those of `stripes` that are known were last looked at; of their shards, good ones on
    /// servers that are not lost.
    pub(in crate::coordinator) async fn coverage(
        &self,
        stripes: Vec<StripeId>,
    ) -> Result<Vec<StripeCoverage>> {
        self.read(move |db| {
            let mut opened = db.prepare_cached("SELECT opened_ms FROM stripes WHERE key = ?1")?;
            let mut shards = db.prepare_cached(&format!(
                "SELECT idx, server, read_ms FROM shards WHERE stripe = ?1 AND {COUNTED}
                 ORDER BY idx, server",
            ))?;
            let mut all = Vec::with_capacity(stripes.len());
            for stripe in stripes {
                let Some(key) = stripe_key(db, stripe)? else { continue };
                let shards =
                    shards.query_map([key], |r| Ok((r.get(0)?, ServerId(r.get(1)?), r.get(2)?)))?;
                all.push(StripeCoverage {
                    stripe,
                    opened_ms: opened.query_row([key], |r| r.get(0))?,
                    shards: shards.collect::<Result<_, _>>()?,
                });
            }
            Ok(all)
        })
        .await
    }

    /// How many stripes have had all their shards read whole since `ms`: good ones on servers that
    /// are not lost.
    pub(in crate::coordinator) async fn read_since(&self, ms: u64) -> Result<u64> {
        self.read(move |db| {
            let sql = format!(
                "SELECT count(*) FROM stripes s WHERE
                     EXISTS (SELECT 1 FROM shards WHERE stripe = s.key AND {COUNTED})
                     AND NOT EXISTS (SELECT 1 FROM shards WHERE stripe = s.key AND {COUNTED}
                                     AND coalesce(read_ms, -1) < ?1)"
            );
            Ok(db.prepare_cached(&sql)?.query_row([ms], |r| r.get(0))?)
        })
        .await
    }

    /// Notes a drill that was held just now.
    pub(in crate::coordinator) async fn note_drill(&self, drill: Drill) -> Result<()> {
        let now_ms = self.clock.now_ms();
        self.write(move |db| {
            let Drill { files, bytes, bad_shards, lost_files, result } = drill;
            db.execute(
                "INSERT OR REPLACE INTO drills VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                params![now_ms, files, bytes, bad_shards, lost_files, result.name()],
            )?;
            let sql = "DELETE FROM drills WHERE time_ms NOT IN
                           (SELECT time_ms FROM drills ORDER BY time_ms DESC LIMIT ?1)";
            db.execute(sql, [DRILLS_MAX])?;
            Ok(())
        })
        .await
    }

    /// The last drill.
    pub(in crate::coordinator) async fn last_drill(&self) -> Result<Option<PastDrill>> {
        self.read(move |db| {
            let sql = "SELECT time_ms, files, bytes, bad_shards, lost_files, result FROM drills
                       ORDER BY time_ms DESC LIMIT 1";
            let held = db.query_row(sql, [], |r| {
                let name: String = r.get(5)?;
                // The schema allows these names alone.
                let result = DrillResult::ALL.into_iter().find(|result| result.name() == name);
                let drill = Drill {
                    files: r.get(1)?,
                    bytes: r.get(2)?,
                    bad_shards: r.get(3)?,
                    lost_files: r.get(4)?,
                    result: result.unwrap_or(DrillResult::Lost),
                };
                Ok(PastDrill { time_ms: r.get(0)?, drill })
            });
            Ok(held.optional()?)
        })
        .await
    }
}

//! A catalog made anew: of the roster first, then of what servers hold.

use std::path::Path;

use codec::fact::{Body, Fact, Head};
use codec::shard::Kind;
use codec::{Geometry, StripeId};
use rusqlite::{Connection, params};

use super::commit::set_frames;
use super::facts::{head, keep, owner};
use super::inventory::is_condemned;
use super::rows::{column, shards_changed, stripe_key, stripe_map};
use super::servers::{mode_name, mode_of, role_name, role_of};
use super::{Catalog, IS_NEW, open, tick};
use crate::coordinator::roster::{Roster, RosterServer, RosterToken};
use crate::wire::{
    Blob, Code, FrameEnd, NAMED_STAMPS_MAX, Page, Restored, ServerId, StripeMap, Weight,
};
use crate::{Error, Result};

/// A stripe by the headers of its shards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::coordinator) struct Adopted {
    pub(in crate::coordinator) stripe: StripeId,
    pub(in crate::coordinator) kind: Kind,
    pub(in crate::coordinator) geometry: Geometry,
    pub(in crate::coordinator) pack_bytes: u64,
    pub(in crate::coordinator) pack_key: Vec<u8>,
    /// Where its good shards are.
    pub(in crate::coordinator) holders: Vec<(u8, ServerId)>,
}

/// What a pack says of itself, checked against its stripe's bounds.
#[derive(Debug)]
pub(in crate::coordinator) struct Indexed {
    pub(in crate::coordinator) stripe: StripeId,
    pub(in crate::coordinator) frames: Vec<FrameEnd>,
    /// Sorted.
    pub(in crate::coordinator) chunks: Vec<super::commit::ChunkRow>,
}

/// Makes a catalog of a roster and of the hashes of the tokens' secrets, where no file is.
pub(in crate::coordinator) fn make(
    path: &Path,
    roster: &Roster,
    hashes: &[[u8; 32]],
) -> Result<()> {
    open::make(path, roster.vault.0, |db| {
        db.execute(
            "UPDATE meta SET record = ?1, epoch = ?2, whole_since_epoch = ?2 + 1",
            params![roster.record.as_ref().map(|record| &record.0), roster.epoch],
        )?;
        for (token, hash) in roster.tokens.iter().zip(hashes) {
            db.execute(
                "INSERT INTO tokens (id, role, hash) VALUES (?1, ?2, ?3)",
                params![token.id, role_name(token.role), hash],
            )?;
        }
        for server in &roster.servers {
            db.execute(
                "INSERT INTO servers (id, name, zone, url, shared_key, starts, capacity_bytes,
                                      free_bytes, joined_sequence, lost, mode, weight)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, 0, 0, 0, ?7, ?8, ?9)",
                params![
                    server.server.0,
                    server.name,
                    server.zone,
                    server.url,
                    server.shared_key.0,
                    server.starts,
                    server.lost,
                    mode_name(server.mode),
                    server.weight.hundredths()
                ],
            )?;
        }
        let settings = "INSERT INTO settings VALUES ('last_server', ?1), (?2, 1)";
        db.execute(settings, params![roster.last_server, IS_NEW])?;
        Ok(())
    })
}

impl Catalog {
    /// What a new catalog would be made of.
    pub(in crate::coordinator) async fn roster(&self) -> Result<Roster> {
        self.read(|db| {
            let (vault, epoch, record) =
                db.query_row("SELECT vault, epoch, record FROM meta", [], |r| {
                    Ok((codec::VaultId(r.get(0)?), r.get(1)?, r.get(2)?))
                })?;
            let last = db.query_row(
                "SELECT max(coalesce((SELECT max(id) FROM servers), 0), coalesce(
                     (SELECT value FROM settings WHERE name = 'last_server'), 0))",
                [],
                |r| r.get(0),
            )?;
            let mut tokens = db.prepare("SELECT id, role FROM tokens ORDER BY id")?;
            let tokens = tokens.query_map([], |r| {
                Ok(RosterToken { id: r.get(0)?, role: role_of(&r.get::<_, String>(1)?) })
            })?;
            let tokens = tokens.collect::<rusqlite::Result<_>>()?;
            let mut servers = db.prepare(
                "SELECT id, name, zone, url, shared_key, mode, lost, starts, weight
                 FROM servers ORDER BY id",
            )?;
            let servers = servers.query_map([], |r| {
                Ok(RosterServer {
                    server: ServerId(r.get(0)?),
                    name: r.get(1)?,
                    zone: r.get(2)?,
                    url: r.get(3)?,
                    shared_key: Blob(r.get(4)?),
                    mode: mode_of(&r.get::<_, String>(5)?),
                    lost: r.get(6)?,
                    starts: r.get(7)?,
                    weight: Weight::try_from(r.get::<_, u32>(8)?).unwrap_or_default(),
                })
            })?;
            let servers = servers.collect::<rusqlite::Result<_>>()?;
            Ok(Roster::new(vault, epoch, last, record, tokens, servers))
        })
        .await
    }

    /// What was intended before this start is no reason to leave a shard out: the catalog may be a
    /// copy that was made before its push committed it. Such a push is over.
    pub(in crate::coordinator) async fn begin_adoption(&self) -> Result<()> {
        let epoch = self.epoch();
        self.write(move |db| {
            let sql = "UPDATE meta SET whole_since_epoch = max(whole_since_epoch, ?1)";
            db.execute(sql, [epoch])?;
            db.execute(
                "UPDATE leases SET state = 'closed' WHERE state = 'open'
                     AND id IN (SELECT lease FROM intents WHERE epoch < ?1)",
                [epoch],
            )?;
            Ok(())
        })
        .await
    }

    /// Takes facts that servers have into the chain, which ends with `from`. Their snapshots
    /// become known with [`Catalog::restore`].
    pub(in crate::coordinator) async fn adopt_facts(
        &self,
        from: Head,
        facts: Vec<Vec<u8>>,
    ) -> Result<()> {
        self.write(move |db| {
            if head(db, "true")? != from {
                return Err(Error::refuse(Code::Conflict, "a snapshot was committed meanwhile"));
            }
            let mut end = from;
            let mut insert = db.prepare_cached(
                "INSERT INTO facts (number, bytes, copies, stored) VALUES (?1, ?2, 1, 1)",
            )?;
            for bytes in facts {
                let fact = Fact::peek(&bytes)?;
                end = end.after(&fact, &bytes)?;
                let Body::Stamp(stamp) = fact.body;
                insert.execute(params![fact.number, bytes])?;
                db.prepare_cached("UPDATE meta SET sequence = max(sequence, ?1)")?
                    .execute([stamp.sequence])?;
            }
            // Who has a fact has all before it.
            db.execute("UPDATE facts SET stored = 1 WHERE stored = 0", [])?;
            // Their snapshots are not known before the rebuild got to its end.
            db.execute("INSERT OR REPLACE INTO settings VALUES (?1, 1)", [IS_NEW])?;
            Ok(())
        })
        .await
    }

    /// Takes stripes with k good shards or more into the map, and more shards of stripes that are
    /// there; gives how many stripes and shards are new, and how many stripes are incomplete.
    pub(in crate::coordinator) async fn adopt(
        &self,
        stripes: Vec<Adopted>,
    ) -> Result<(u64, u64, u64)> {
        self.write(move |db| {
            let (mut new, mut shards, mut incomplete) = (0, 0, 0);
            let owner = owner(db)?;
            for mut adopted in stripes {
                // What is on its way to the trash is none, and makes no stripe.
                let mut kept = Vec::with_capacity(adopted.holders.len());
                for (index, server) in adopted.holders {
                    if !is_condemned(db, adopted.stripe, server)? {
                        kept.push((index, server));
                    }
                }
                adopted.holders = kept;
                if adopted.holders.is_empty() {
                    continue;
                }
                let key = match stripe_key(db, adopted.stripe)? {
                    Some(key) => key,
                    None if different(&adopted.holders) < adopted.geometry.data() => {
                        incomplete += 1;
                        continue;
                    }
                    None => {
                        new += 1;
                        insert(db, owner, &adopted)?
                    }
                };
                let mut added = 0;
                for (index, server) in adopted.holders {
                    added += db
                        .prepare_cached(
                            "INSERT INTO shards (stripe, server, idx, state)
                             SELECT ?1, ?2, ?3, 'good'
                             WHERE EXISTS (SELECT 1 FROM servers WHERE id = ?2)
                             ON CONFLICT (stripe, server) DO UPDATE
                                 SET idx = excluded.idx, state = 'good', read_ms = NULL
                                 WHERE state <> 'good'",
                        )?
                        .execute(params![key, server.0, index])?;
                }
                if added > 0 {
                    shards_changed(db, key)?;
                }
                shards += added as u64;
            }
            Ok((new, shards, incomplete))
        })
        .await
    }

    /// A page of the stripes after the key `after` of which only the shards are known.
    pub(in crate::coordinator) async fn unindexed(
        &self,
        after: i64,
        limit: usize,
    ) -> Result<Page<StripeMap>> {
        self.read(move |db| {
            let sql = "SELECT key FROM stripes WHERE frames = x'' AND key > ?1
                       ORDER BY key LIMIT ?2";
            let keys: Vec<i64> = column(db, sql, params![after, limit])?;
            let rows = keys.iter().map(|&key| stripe_map(db, key)).collect::<Result<_>>()?;
            let next = keys.last().filter(|_| keys.len() == limit).map(i64::to_string);
            Ok(Page { rows, next })
        })
        .await
    }

    /// Notes what is in stripes that were adopted; the same again changes nothing.
    pub(in crate::coordinator) async fn index(&self, stripes: Vec<Indexed>) -> Result<()> {
        self.write(move |db| {
            for Indexed { stripe, frames, chunks } in stripes {
                let unknown = || Error::refuse(Code::NotFound, format!("no stripe {stripe:.12}"));
                let key = stripe_key(db, stripe)?.ok_or_else(unknown)?;
                let known = stripe_map(db, key)?;
                // Anybody can make a record: no chunk is in one.
                if known.kind == Kind::Record && !chunks.is_empty() {
                    let what = format!("stripe {stripe:.12} is a record and has no chunks");
                    return Err(Error::refuse(Code::BadRequest, what));
                }
                if known.frames == frames {
                    continue;
                }
                let last = frames.last().map_or(0, |frame| u64::from(frame.1));
                if !known.frames.is_empty() || last > known.pack_bytes {
                    let what = format!("stripe {stripe:.12} has other frames; nothing was changed");
                    return Err(Error::refuse(Code::Conflict, what));
                }
                set_frames(db, key, &frames, &chunks)?;
            }
            Ok(())
        })
        .await
    }

    /// Makes the stamped snapshots known again whose records were found; the catalog is new no
    /// more.
    pub(in crate::coordinator) async fn restore(&self) -> Result<Restored> {
        self.write(|db| {
            let mut restored = Restored::default();
            let mut facts =
                db.prepare("SELECT bytes FROM facts WHERE stored = 1 ORDER BY number")?;
            let mut facts = facts.query([])?;
            while let Some(row) = facts.next()? {
                let Body::Stamp(stamp) = Fact::peek(&row.get::<_, Vec<u8>>(0)?)?.body;
                restored.restored += u64::from(keep(db, &stamp)?);
                if stripe_key(db, stamp.snapshot)?.is_none() {
                    restored.missing_count += 1;
                    if restored.missing.len() < NAMED_STAMPS_MAX {
                        restored.missing.push((stamp.snapshot, stamp.received_ms));
                    }
                }
            }
            let count = |sql: &str, of: &[&dyn rusqlite::ToSql]| -> Result<u64> {
                Ok(db.query_row(sql, of, |r| r.get(0))?)
            };
            restored.snapshots = count("SELECT count(*) FROM snapshots WHERE state = 'kept'", &[])?;
            restored.unstamped = count(
                "SELECT count(*) FROM stripes WHERE kind = ?1
                     AND NOT EXISTS (SELECT 1 FROM snapshots WHERE stripe = key)",
                &[&(Kind::Snapshot as u8)],
            )?;
            let unstored = count("SELECT count(*) FROM facts WHERE stored = 0", &[])?;
            restored.unstamped = restored.unstamped.saturating_sub(unstored);
            restored.unindexed = count("SELECT count(*) FROM stripes WHERE frames = x''", &[])?;
            db.execute("DELETE FROM settings WHERE name = ?1", [IS_NEW])?;
            Ok(restored)
        })
        .await
    }
}

/// How many different shards these are.
fn different(holders: &[(u8, ServerId)]) -> usize {
    holders.iter().map(|holder| holder.0).collect::<std::collections::BTreeSet<_>>().len()
}

fn insert(db: &Connection, owner: i64, adopted: &Adopted) -> Result<i64> {
    let sequence = tick(db)?;
    Ok(db
        .prepare_cached(
            "INSERT INTO stripes (id, kind, k, m, pack_bytes, shard_bytes, pack_key, frames,
                                  origin, created_sequence, touched_sequence, version, good,
                                  surplus)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, x'', ?8, ?9, ?9, 0, 0, 0) RETURNING key",
        )?
        .query_row(
            params![
                adopted.stripe.0,
                adopted.kind as u8,
                adopted.geometry.data(),
                adopted.geometry.parity(),
                adopted.pack_bytes,
                adopted.geometry.shard_bytes(adopted.pack_bytes),
                adopted.pack_key,
                owner,
                sequence
            ],
            |r| r.get(0),
        )?)
}

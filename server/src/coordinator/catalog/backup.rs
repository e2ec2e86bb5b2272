//! The catalog in backups: the copy that goes into one, and the backups that were made.

use std::path::{Path, PathBuf};

use codec::shard::Kind;
use codec::{StripeId, VaultId};
use rusqlite::{Connection, InterruptHandle, OpenFlags, OptionalExtension as _, params};

use super::commit::{NewStripe, add_stripe};
use super::open::{self, SCHEMA_VERSION};
use super::push::open_lease;
use super::rows::column;
use super::{Catalog, IS_NEW, tick_now};
use crate::wire::{BackupInfo, Code, LeaseId};
use crate::{Error, Result};

/// A copy of the catalog.
#[derive(Debug, Clone, Copy)]
pub(in crate::coordinator) struct Copied {
    pub(in crate::coordinator) epoch: u64,
    pub(in crate::coordinator) sequence: u64,
    /// When it was begun: it is no newer.
    pub(in crate::coordinator) made_ms: u64,
}

/// A backup whose stripes are on the servers.
#[derive(Debug)]
pub(in crate::coordinator) struct NewBackup {
    /// The last is that of its record.
    pub(in crate::coordinator) stripes: Vec<NewStripe>,
    /// Of the catalog's copy in it.
    pub(in crate::coordinator) sequence: u64,
    pub(in crate::coordinator) made_ms: u64,
    pub(in crate::coordinator) bytes: u64,
}

/// What the catalog knows of backups.
#[derive(Debug)]
pub(in crate::coordinator) struct Backed {
    pub(in crate::coordinator) last: Option<BackupInfo>,
    /// Whether something was committed since.
    pub(in crate::coordinator) changed: bool,
}

impl Catalog {
    /// Writes a copy of the catalog to `to`, an empty file, as it is at one moment; pushes go on
    /// meanwhile; of the backups in it the `keep` newest. Ends early if nobody waits for it any more.
    pub(in crate::coordinator) async fn copy(&self, to: PathBuf, keep: usize) -> Result<Copied> {
        let (path, made_ms) = (self.path.clone(), self.clock.now_ms());
        let db = tokio::task::spawn_blocking(move || open::reader(&path));
        let failed = |_| Error::refuse(Code::Internal, "the catalog could not be copied");
        let db = db.await.map_err(failed)??;
        let _interrupt = Interrupt(db.get_interrupt_handle());
        tokio::task::spawn_blocking(move || copy(&db, &to, keep, made_ms)).await.map_err(failed)?
    }

    /// The last backup, and whether there is something that it lacks.
    pub(in crate::coordinator) async fn backed(&self) -> Result<Backed> {
        self.read(|db| {
            let mut last = db.prepare_cached(
                "SELECT s.id, b.made_ms, b.bytes,
                        (SELECT count(*) FROM backup_stripes WHERE record = b.record),
                        b.sequence < (SELECT sequence FROM meta)
                 FROM backups b JOIN stripes s ON s.key = b.record
                 ORDER BY b.sequence DESC LIMIT 1",
            )?;
            let last = last.query_row([], |r| {
                let (record, made_ms) = (StripeId(r.get(0)?), r.get(1)?);
                let info = BackupInfo { record, made_ms, bytes: r.get(2)?, stripes: r.get(3)? };
                Ok((info, r.get(4)?))
            });
            Ok(match last.optional()? {
                Some((info, changed)) => Backed { last: Some(info), changed },
                None => Backed { last: None, changed: true },
            })
        })
        .await
    }

    /// Makes all stripes of a backup part of the catalog, or none.
    pub(in crate::coordinator) async fn commit_backup(
        &self,
        origin: i64,
        lease: LeaseId,
        new: NewBackup,
    ) -> Result<()> {
        let clock = self.clock;
        self.write(move |db| {
            open_lease(db, origin, lease, clock.now_ms())?;
            let before = tick_now(db)?;
            let mut keys = Vec::with_capacity(new.stripes.len());
            for stripe in &new.stripes {
                keys.push(add_stripe(db, origin, lease, stripe)?);
            }
            let Some(&record) = keys.last() else {
                return Err(Error::refuse(Code::BadRequest, "a backup without a record"));
            };
            // Its lease was one tick.
            let own = tick_now(db)? - before + 1;
            db.execute(
                "INSERT INTO backups (record, sequence, made_ms, bytes) VALUES (?1, ?2, ?3, ?4)",
                params![record, new.sequence + own, new.made_ms, new.bytes],
            )?;
            let mut insert =
                db.prepare_cached("INSERT INTO backup_stripes (stripe, record) VALUES (?1, ?2)")?;
            for key in keys {
                insert.execute([key, record])?;
            }
            Ok(())
        })
        .await
    }

    /// Strikes out all backups but the `keep` newest, to be trashed after `from_ms`; gives how many
    /// stripes.
    pub(in crate::coordinator) async fn thin_backups(
        &self,
        keep: usize,
        from_ms: u64,
    ) -> Result<usize> {
        self.write(move |db| thin(db, keep, from_ms)).await
    }
}

fn thin(db: &Connection, keep: usize, from_ms: u64) -> Result<usize> {
    let old = "SELECT record FROM backups ORDER BY sequence DESC LIMIT -1 OFFSET ?1";
    let mut struck = 0;
    for record in column::<i64>(db, old, [keep])? {
        let of_record = "SELECT stripe FROM backup_stripes WHERE record = ?1";
        let stripes = column::<i64>(db, of_record, [record])?;
        db.execute("DELETE FROM backup_stripes WHERE record = ?1", [record])?;
        db.execute("DELETE FROM backups WHERE record = ?1", [record])?;
        for key in &stripes {
            strike_out(db, *key, from_ms)?;
        }
        struck += stripes.len();
    }
    // Those that a rebuild took in are known by their stripes alone, and older.
    let adopted = "SELECT key FROM stripes WHERE kind = ?1
                   AND key < (SELECT min(stripe) FROM backup_stripes)
                   AND (SELECT count(*) FROM backups) >= ?2";
    for key in column::<i64>(db, adopted, params![Kind::Record as u8, keep])? {
        strike_out(db, key, from_ms)?;
        struck += 1;
    }
    Ok(struck)
}

/// Takes a whole stripe out of the catalog; all its shards are to be trashed.
fn strike_out(db: &Connection, key: i64, from_ms: u64) -> Result<()> {
    let bury = "INSERT OR IGNORE INTO tombstones (server, stripe, idx, ordered_ms)
                SELECT h.server, s.id, h.idx, ?2
                FROM shards h JOIN stripes s ON s.key = h.stripe WHERE h.stripe = ?1";
    db.prepare_cached(bury)?.execute(params![key, from_ms])?;
    for (table, column) in [("shards", "stripe"), ("repairs", "stripe"), ("stripes", "key")] {
        let sql = format!("DELETE FROM {table} WHERE {column} = ?1");
        db.prepare_cached(&sql)?.execute([key])?;
    }
    Ok(())
}

/// Ends a copy that nobody waits for: it would hold up the end of the process.
struct Interrupt(InterruptHandle);

impl Drop for Interrupt {
    fn drop(&mut self) {
        self.0.interrupt();
    }
}

fn copy(db: &Connection, to: &Path, keep: usize, made_ms: u64) -> Result<Copied> {
    let text = to.to_str().ok_or_else(|| {
        Error::Config(format!("{} is no UTF-8, as SQLite needs it", to.display()))
    })?;
    db.execute("VACUUM INTO ?1", [text])?;
    let copy = Connection::open(to)?;
    // A copy that is cut short is thrown away.
    copy.pragma_update(None, "journal_mode", "OFF")?;
    copy.pragma_update(None, "synchronous", "OFF")?;
    // Whoever starts with this copy knows nothing of what is committed from here on: what it has
    // tickets for may be committed by then, and what was to be trashed be needed again.
    copy.execute("UPDATE meta SET whole_since_epoch = epoch + 1", [])?;
    // What is struck out once this backup stands is not there when somebody starts with it.
    thin(&copy, keep, 0)?;
    copy.execute("DELETE FROM tombstones", [])?;
    // How old it is by then, it cannot know: it takes no push before it looked.
    copy.execute("INSERT OR REPLACE INTO settings VALUES (?1, 1)", [IS_NEW])?;
    Ok(copy.query_row("SELECT epoch, sequence FROM meta", [], |r| {
        Ok(Copied { epoch: r.get(0)?, sequence: r.get(1)?, made_ms })
    })?)
}

/// That the file at `path` is a whole catalog of `vault` that this arc can open: every page of it
/// is read.
pub fn check_catalog(path: &Path, vault: VaultId) -> Result<()> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let db = Connection::open_with_flags(path, flags)?;
    let found: String = db.query_row("PRAGMA integrity_check(1)", [], |r| r.get(0))?;
    let damaged = |why: String| Error::from(codec::Error::damaged("catalog", why));
    if found != "ok" {
        return Err(damaged(found));
    }
    let version: i32 = db.pragma_query_value(None, "user_version", |r| r.get(0))?;
    if version > SCHEMA_VERSION {
        return Err(damaged(format!("its schema {version} is that of a newer arc")));
    }
    match VaultId(db.query_row("SELECT vault FROM meta", [], |r| r.get(0))?) {
        of if of == vault => Ok(()),
        of => Err(damaged(format!("it is that of vault {of:.8}"))),
    }
}

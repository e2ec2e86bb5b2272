//! Opening the catalog: the database file, its settings, its schema and version.

use std::fs::{self, OpenOptions, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use codec::VaultId;
use rusqlite::{Connection, OpenFlags, params};

use super::rows::{column, lost_changed};
use crate::coordinator::clock::Clock;
use crate::coordinator::lease::Terms;
use crate::wire::ServerId;
use crate::{Error, Result, auth};

/// The schema that this build writes.
const SCHEMA: &str = include_str!("../../../../schema.sql");
/// Its number, in `user_version`: one more than there are [`MIGRATIONS`].
pub(super) const SCHEMA_VERSION: i32 = 3;
/// What makes the schema of version n + 1 of that of version n, from 1 on; only ever added to.
const MIGRATIONS: [&str; 2] = [include_str!("migrations/2.sql"), include_str!("migrations/3.sql")];
/// Older ones can lose commits when the WAL is reset.
const SQLITE_VERSION_MIN: i32 = 3_051_003;
/// Memory for pages: the writer's, and that of each reader.
const WRITER_CACHE_KIB: i32 = 32 * 1024;
const READER_CACHE_KIB: i32 = 8 * 1024;
/// Pages of the WAL (32 MiB) before they go into the database: chunk rows lie anywhere in
/// their table, and a page that many commits change is then written back once.
const WAL_PAGES: i32 = 8192;

/// What SQLite appends to the database's name for each of its files.
const FILES: [&str; 3] = ["", "-wal", "-shm"];

/// What stands in the catalog's one row of `meta` after this start.
pub(super) struct Opened {
    pub(super) db: Connection,
    pub(super) vault: VaultId,
    pub(super) epoch: u64,
    pub(super) clock: Clock,
    pub(super) record: Option<Vec<u8>>,
}

/// Opens the catalog at `path` for writing, or makes it, for its owner only; raises the epoch;
/// prolongs or ends the leases that were open.
pub(super) fn writer(path: &Path, pushes_outlive: bool) -> Result<Opened> {
    if rusqlite::version_number() < SQLITE_VERSION_MIN {
        return Err(Error::Config(format!(
            "SQLite {} can lose commits; 3.51.3 or newer is needed",
            rusqlite::version()
        )));
    }
    make_private(path)?;
    let mut db = Connection::open(path)?;
    db.pragma_update(None, "journal_mode", "WAL")?;
    db.pragma_update(None, "synchronous", "FULL")?;
    db.pragma_update(None, "wal_autocheckpoint", WAL_PAGES)?;
    settings(&db, WRITER_CACHE_KIB)?;
    make_schema(&mut db, path)?;
    begin_epoch(db, pushes_outlive)
}

/// Makes the database's files readable for their owner only, whatever the umask; SQLite gives
/// those beside it the mode of the first.
fn make_private(path: &Path) -> Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(0o600);
    options.open(path).map_err(Error::io("cannot open", path))?;
    for suffix in FILES {
        let path = with_suffix(path, suffix);
        match fs::set_permissions(&path, Permissions::from_mode(0o600)) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(Error::io("cannot make private", path)(error));
            }
            _ => {}
        }
    }
    Ok(())
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut path = path.as_os_str().to_owned();
    path.push(suffix);
    path.into()
}

/// Opens the catalog at `path` for reading only.
pub(super) fn reader(path: &Path) -> Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let db = Connection::open_with_flags(path, flags)?;
    settings(&db, READER_CACHE_KIB)?;
    Ok(db)
}

fn settings(db: &Connection, cache_kib: i32) -> Result<()> {
    db.pragma_update(None, "foreign_keys", true)?;
    db.pragma_update(None, "busy_timeout", 10_000)?;
    // A disk that fails under a mapped page kills the process; a read says so.
    db.pragma_update(None, "mmap_size", 0)?;
    db.pragma_update(None, "cache_size", -cache_kib)?;
    db.set_prepared_statement_cache_capacity(64);
    Ok(())
}

fn make_schema(db: &mut Connection, path: &Path) -> Result<()> {
    let version: i32 = db.pragma_query_value(None, "user_version", |r| r.get(0))?;
    match version {
        SCHEMA_VERSION => Ok(()),
        0 => {
            let vault = auth::random::<16>()?;
            let tx = db.transaction()?;
            tx.execute_batch(SCHEMA)?;
            tx.execute("INSERT INTO meta VALUES (1, ?1, NULL, 0, 0, 0, 0)", [vault])?;
            tx.pragma_update(None, "user_version", SCHEMA_VERSION)?;
            Ok(tx.commit()?)
        }
        1..SCHEMA_VERSION => {
            let tx = db.transaction()?;
            for migration in MIGRATIONS.iter().skip(version as usize - 1) {
                tx.execute_batch(migration)?;
            }
            tx.pragma_update(None, "user_version", SCHEMA_VERSION)?;
            tx.commit()?;
            tracing::info!(
                from = version,
                to = SCHEMA_VERSION,
                "the catalog's schema is newer now"
            );
            Ok(())
        }
        newer => Err(Error::Config(format!(
            "{} was written by a newer arc: its schema is {newer}, this arc knows \
             {SCHEMA_VERSION}; run the newer one",
            path.display()
        ))),
    }
}

/// Makes a catalog of `vault` at `path`, where none is: whole, or not at all.
pub(super) fn make(
    path: &Path,
    vault: [u8; 16],
    fill: impl FnOnce(&Connection) -> Result<()>,
) -> Result<()> {
    if let Some(file) = present(path) {
        let file = file.display();
        return Err(Error::Config(format!(
            "{file} is there: if it is bad, move it away yourself, with all files whose names \
             begin with catalog.db; nothing was changed"
        )));
    }
    let temporary = path.with_extension("new");
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(Error::io("cannot remove", temporary)(error));
        }
        _ => {}
    }
    make_private(&temporary)?;
    let mut db = Connection::open(&temporary)?;
    db.pragma_update(None, "synchronous", "FULL")?;
    let tx = db.transaction()?;
    tx.execute_batch(SCHEMA)?;
    tx.execute("INSERT INTO meta VALUES (1, ?1, NULL, 0, 0, 0, 0)", [vault])?;
    fill(&tx)?;
    tx.pragma_update(None, "user_version", SCHEMA_VERSION)?;
    tx.commit()?;
    db.close().map_err(|(_, error)| error)?;
    fs::rename(&temporary, path).map_err(Error::io("cannot make", path))?;
    let folder = path.parent().unwrap_or(Path::new("."));
    let sync = fs::File::open(folder).and_then(|folder| folder.sync_all());
    sync.map_err(Error::io("cannot sync", folder))
}

/// One of the catalog's files, if any is there: what one is left of is not taken for another's.
pub(super) fn present(path: &Path) -> Option<PathBuf> {
    let all = FILES.map(|suffix| with_suffix(path, suffix));
    all.into_iter().find(|path| path.symlink_metadata().is_ok())
}

fn begin_epoch(mut db: Connection, pushes_outlive: bool) -> Result<Opened> {
    let tx = db.transaction()?;
    let (vault, record, epoch, stopped_ms) =
        tx.query_row("SELECT vault, record, epoch, time_ms FROM meta", [], |r| {
            Ok((VaultId(r.get(0)?), r.get(1)?, r.get::<_, u64>(2)? + 1, r.get::<_, u64>(3)?))
        })?;
    let clock = Clock::after(stopped_ms);
    let now_ms = clock.now_ms();
    tx.execute("UPDATE meta SET epoch = ?1, time_ms = ?2", params![epoch, now_ms])?;
    // An older arc counted what lost servers held.
    for lost in column(&tx, "SELECT id FROM servers WHERE lost", [])? {
        lost_changed(&tx, ServerId(lost))?;
    }
    // Orders of an earlier epoch are followed no more.
    tx.execute("UPDATE tombstones SET ordered_ms = 0", [])?;
    let mut open = tx.prepare("SELECT id, expires_ms FROM leases WHERE state = 'open'")?;
    let leases: Vec<(i64, u64)> =
        open.query_map([], |r| Ok((r.get(0)?, r.get(1)?)))?.collect::<Result<_, _>>()?;
    drop(open);
    for (lease, expires_ms) in leases {
        let terms = Terms { expires_ms, closed: false };
        let expires_ms = terms.after_restart(stopped_ms, now_ms, pushes_outlive);
        tx.execute("UPDATE leases SET expires_ms = ?2 WHERE id = ?1", params![lease, expires_ms])?;
    }
    tx.commit()?;
    Ok(Opened { db, vault, epoch, clock, record })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema_of(db: &Connection) -> Vec<(String, String)> {
        let sql = "SELECT name, sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY name";
        let mut rows = db.prepare(sql).unwrap();
        rows.query_map([], |r| Ok((r.get(0)?, r.get(1)?))).unwrap().map(Result::unwrap).collect()
    }

    #[test]
    fn a_new_catalog_has_the_schema_of_schema_sql() {
        let folder = tempfile::tempdir().unwrap();
        let db = writer(&folder.path().join("catalog.db"), true).unwrap().db;
        let truth = Connection::open_in_memory().unwrap();
        truth.execute_batch(SCHEMA).unwrap();
        assert_eq!(schema_of(&db), schema_of(&truth));
        assert!(schema_of(&db).len() > 10);
        for (pragma, value) in [
            ("synchronous", 2),
            ("foreign_keys", 1),
            ("mmap_size", 0),
            ("user_version", SCHEMA_VERSION.into()),
        ] {
            let actual: i64 = db.pragma_query_value(None, pragma, |r| r.get(0)).unwrap();
            assert_eq!(actual, value, "{pragma}");
        }
        let mode: String = db.pragma_query_value(None, "journal_mode", |r| r.get(0)).unwrap();
        assert_eq!(mode, "wal");
    }

    #[test]
    fn every_table_is_strict_and_has_its_reason_above_it() {
        let lines: Vec<&str> = SCHEMA.lines().collect();
        for (n, line) in lines.iter().enumerate().filter(|(_, l)| l.starts_with("CREATE ")) {
            assert!(lines[n - 1].starts_with("-- "), "{line}");
        }
        let tables = SCHEMA.matches("CREATE TABLE").count();
        assert_eq!(SCHEMA.matches("\n) STRICT").count(), tables);
    }

    #[test]
    fn a_catalog_of_an_older_arc_gets_every_column_and_table_and_keeps_its_rows() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("catalog.db");
        let old = Connection::open(&path).unwrap();
        old.execute_batch(include_str!("migrations/1.sql")).unwrap();
        old.execute_batch(
            "INSERT INTO meta VALUES (1, zeroblob(16), NULL, 6, 0, 0);
             INSERT INTO tokens VALUES (1, 'owner', zeroblob(32));
             INSERT INTO servers VALUES (1, 'a', 'z', 'u', zeroblob(32), 1, 1, 1, NULL, 1);
             INSERT INTO servers VALUES (2, 'b', 'z', 'u', zeroblob(32), 1, 1, 1, NULL, 1);
             INSERT INTO stripes VALUES
                 (1, zeroblob(32), 0, 2, 1, 9, 9, x'00', x'', 1, 1, 1, 1, 1);
             INSERT INTO shards VALUES (1, 1, 0, 'good'), (1, 2, 0, 'good');
             PRAGMA user_version = 1;",
        )
        .unwrap();
        drop(old);
        let opened = writer(&path, true).unwrap();
        let truth = Connection::open_in_memory().unwrap();
        truth.execute_batch(SCHEMA).unwrap();
        let columns = |db: &Connection| -> Vec<(String, String)> {
            let sql = "SELECT m.name, c.name FROM sqlite_schema m, pragma_table_info(m.name) c
                       WHERE m.type = 'table' UNION SELECT name, 'index' FROM sqlite_schema
                       WHERE type = 'index' ORDER BY 1, 2";
            let mut rows = db.prepare(sql).unwrap();
            let rows = rows.query_map([], |r| Ok((r.get(0)?, r.get(1)?))).unwrap();
            rows.map(Result::unwrap).collect()
        };
        assert_eq!(columns(&opened.db), columns(&truth));
        let sql = "SELECT whole_since_epoch, (SELECT surplus FROM stripes),
                          (SELECT group_concat(mode || lost) FROM servers) FROM meta";
        let row = opened.db.query_row(sql, [], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?)));
        assert_eq!(row.unwrap(), (0, 1, "normal0,normal0".to_owned()));
    }

    #[test]
    fn a_catalog_is_made_anew_only_where_nothing_is_left_of_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("catalog.db");
        let made = |epoch: u64| {
            make(&path, [7; 16], |db| {
                db.execute("UPDATE meta SET epoch = ?1", [epoch])?;
                Ok(())
            })
        };
        for suffix in FILES {
            let left = with_suffix(&path, suffix);
            fs::write(&left, b"left").unwrap();
            let error = made(1).unwrap_err().to_string();
            assert!(error.contains("move it away yourself"), "{error}");
            assert_eq!(fs::read(&left).unwrap(), b"left");
            fs::remove_file(left).unwrap();
        }
        // One that was cut off, and one that fails, leave nothing under the name.
        fs::write(path.with_extension("new"), b"half of one").unwrap();
        assert!(make(&path, [7; 16], |_| Err(Error::Config("no".into()))).is_err());
        assert_eq!(present(&path), None);
        made(5).unwrap();
        let opened = writer(&path, true).unwrap();
        assert_eq!((opened.epoch, opened.vault), (6, VaultId([7; 16])));
    }

    #[test]
    fn a_catalog_of_a_newer_arc_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("catalog.db");
        let opened = writer(&path, true).unwrap();
        opened.db.pragma_update(None, "user_version", SCHEMA_VERSION + 1).unwrap();
        drop(opened);
        let error = writer(&path, true).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("written by a newer arc"), "{error}");
    }

    #[test]
    fn a_start_raises_the_epoch_and_prolongs_open_leases_by_the_time_away() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("catalog.db");
        let first = writer(&path, true).unwrap();
        let past = first.clock.now_ms() - 1_000_000;
        first
            .db
            .execute_batch(&format!(
                "INSERT INTO tokens VALUES (1, 'owner', zeroblob(32));
                 UPDATE meta SET time_ms = {past};
                 INSERT INTO leases VALUES (1, 1, zeroblob(16), 0, 0, {past} + 10, 'open');
                 INSERT INTO leases VALUES (2, 1, randomblob(16), 0, 0, {past} - 10, 'open');
                 INSERT INTO leases VALUES (3, 1, randomblob(16), 0, 0, {past} + 10, 'closed');"
            ))
            .unwrap();
        drop(first.db);
        let second = writer(&path, true).unwrap();
        assert_eq!((second.epoch, second.vault), (first.epoch + 1, first.vault));
        let mut rows = second.db.prepare("SELECT expires_ms FROM leases ORDER BY id").unwrap();
        let ends: Vec<u64> = rows.query_map([], |r| r.get(0)).unwrap().flatten().collect();
        assert!((past + 1_000_010..=second.clock.now_ms() + 10).contains(&ends[0]), "{ends:?}");
        assert_eq!(ends[1..], [past - 10, past + 10]);
    }

    #[test]
    fn a_catalog_is_for_its_owner_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("catalog.db");
        let modes = || {
            FILES.map(|suffix| {
                let mode = fs::metadata(with_suffix(&path, suffix)).unwrap().permissions().mode();
                mode & 0o777
            })
        };
        let first = writer(&path, true).unwrap();
        assert_eq!(modes(), [0o600; 3]);
        for suffix in FILES {
            let open = fs::Permissions::from_mode(0o644);
            fs::set_permissions(with_suffix(&path, suffix), open).unwrap();
        }
        // What a coordinator that was killed leaves: all three files.
        let _second = writer(&path, true).unwrap();
        assert_eq!(modes(), [0o600; 3]);
        drop(first);
    }
}

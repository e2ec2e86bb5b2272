//! The catalog: all SQL of the coordinator, behind verbs of intent.
//!
//! One thread writes ([`writer`]), a few read-only connections read; each read sees one
//! consistent state. What the tables are for stands in schema.sql.

mod anew;
mod backup;
mod commit;
mod coverage;
mod events;
mod facts;
mod inventory;
mod ledger;
mod open;
mod push;
mod read;
mod rows;
mod servers;
mod status;
mod surplus;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use codec::VaultId;
use rusqlite::Connection;
use tokio::sync::Semaphore;

use self::writer::Writer;
use super::clock::Clock;
use crate::wire::Code;
use crate::{Error, Result};

pub(super) use self::anew::{Adopted, Indexed, make};
pub use self::backup::check_catalog;
pub(super) use self::backup::{Backed, Copied, NewBackup};
pub(super) use self::commit::{Mended, NewStripe, Stamped};
pub(super) use self::inventory::{Condition, MapDigests, Mapped, Standing};
pub(super) use self::ledger::{Ledgered, Which};
pub(super) use self::push::{Intended, Placing};
pub(super) use self::servers::{ServerRow, TokenRow};
pub(super) use self::surplus::Held as HeldStripe;

/// Reads that run at once.
const READERS: usize = 3;
/// An epoch farther ahead than this was never reached by starts.
const EPOCH_LEAP_MAX: u64 = 1 << 32;
/// The setting of a catalog that was made anew and waits for what servers hold.
pub(super) const IS_NEW: &str = "is_new";

/// The open catalog.
pub(super) struct Catalog {
    /// The vault that it is of.
    pub(super) vault: VaultId,
    /// The coordinator's time.
    pub(super) clock: Clock,
    epoch: AtomicU64,
    path: PathBuf,
    writer: Writer,
    readers: Arc<Mutex<Vec<Connection>>>,
    reading: Arc<Semaphore>,
}

impl Catalog {
    /// Opens the catalog at `path`, or makes it, and begins a new epoch; gives the vault
    /// record too, if there is one.
    pub(super) fn open(path: &Path, pushes_outlive: bool) -> Result<(Self, Option<Vec<u8>>)> {
        let opened = open::writer(path, pushes_outlive)?;
        let catalog = Self {
            vault: opened.vault,
            epoch: AtomicU64::new(opened.epoch),
            clock: opened.clock,
            path: path.to_owned(),
            writer: Writer::start(opened.db, opened.clock)?,
            readers: Arc::default(),
            reading: Arc::new(Semaphore::new(READERS)),
        };
        Ok((catalog, opened.record))
    }

    /// The epoch: that of this start, or the one after the highest that a server has seen.
    pub(super) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// Goes on with the epoch after `seen`, unless that is passed already; `false` where it is
    /// farther ahead than any number of starts could have brought it.
    pub(super) async fn raise_epoch(&self, seen: u64) -> Result<bool> {
        if seen.saturating_sub(self.epoch()) > EPOCH_LEAP_MAX {
            return Ok(false);
        }
        let epoch = self
            .write(move |db| {
                let sql = "UPDATE meta SET epoch = max(epoch, ?1 + 1),
                               whole_since_epoch = max(whole_since_epoch, ?1 + 1) RETURNING epoch";
                Ok(db.query_row(sql, [seen], |r| r.get(0))?)
            })
            .await?;
        self.epoch.fetch_max(epoch, Ordering::AcqRel);
        Ok(true)
    }

    /// Waits for the reads that go on, closes their connections, commits what waits and closes the
    /// database for writing: another may open it then, whoever still holds this.
    pub(super) async fn close(&self) {
        let _all = self.reading.acquire_many(READERS as u32).await;
        self.readers.lock().unwrap_or_else(|e| e.into_inner()).clear();
        self.writer.stop().await;
    }

    async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.writer.write(work).await
    }

    async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let busy = || Error::refuse(Code::Busy, "the coordinator is stopping");
        let slot = Arc::clone(&self.reading).acquire_owned().await.map_err(|_| busy())?;
        let (readers, path) = (Arc::clone(&self.readers), self.path.clone());
        let reading = tokio::task::spawn_blocking(move || {
            let _slot = slot;
            let idle = readers.lock().unwrap_or_else(|e| e.into_inner()).pop();
            let db = idle.map_or_else(|| open::reader(&path), Ok)?;
            let outcome = db.unchecked_transaction().map_err(Error::from).and_then(|_tx| work(&db));
            readers.lock().unwrap_or_else(|e| e.into_inner()).push(db);
            outcome
        });
        reading.await.map_err(|_| Error::refuse(Code::Internal, "a read of the catalog failed"))?
    }
}

/// The next value of the logical clock.
fn tick(db: &Connection) -> Result<u64> {
    let sql = "UPDATE meta SET sequence = sequence + 1 RETURNING sequence";
    Ok(db.prepare_cached(sql)?.query_row([], |r| r.get(0))?)
}

/// The present value of the logical clock.
fn tick_now(db: &Connection) -> Result<u64> {
    Ok(db.prepare_cached("SELECT sequence FROM meta")?.query_row([], |r| r.get(0))?)
}

#[cfg(test)]
mod tests;

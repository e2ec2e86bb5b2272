//! Backups of the coordinator's folder on its own storage servers, sealed to the vault's public
//! key: the coordinator cannot read back what it wrote.
//!
//! `due` says when, `bundle` reads the folder, `store` gets its stripes onto servers. All of them
//! are committed at once, the record's too: until then a backup does not exist, and its shards are
//! left-overs of its lease.

mod bundle;
mod due;
mod store;

use std::fs::{self, OpenOptions};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use codec::backup::{BackupRecord, PIECE_BYTES, STRIPES_MAX, piece};
use codec::keys::VaultRecord;
use codec::pack::{Pack, PackBuilder, seal_record};
use codec::seal::{PackKey, PackKeyField};
use tokio::sync::Notify;

use self::bundle::{Bundle, beside_catalog};
use self::due::Past;
use self::store::Store;
use super::Core;
use super::catalog::{Backed, Copied, NewBackup};
use super::clock::millis;
use super::push::{note_short, servers_of};
use super::repair;
use crate::client::StorageClient;
use crate::wire::{BackupBegun, BackupStatus, Code, LeaseId, State as Health};
use crate::{Error, Result, auth, cpu};

/// Backups that are kept.
const KEPT: usize = 7;
/// Plaintext of a stripe; about three times as much is in memory.
const STRIPE_BYTES: usize = 8 * PIECE_BYTES;
/// What was struck out stays on the servers for so long: a verify may be about to look at it.
const THINNED_FOR: Duration = Duration::from_secs(10 * 60);
/// A server where nothing moves for so long is given up.
const SILENCE: Duration = Duration::from_secs(10);
/// The pause after the catalog could not be read.
const RETRY: Duration = Duration::from_secs(60);
/// With no schedule it waits to be asked.
const NEVER: Duration = Duration::from_secs(365 * 86_400);

/// How backups stand.
pub(super) struct Backups {
    inner: Mutex<Inner>,
    asked: Arc<Notify>,
}

#[derive(Default)]
struct Inner {
    /// Runs begun, ended, and asked for.
    begun: u64,
    ended: u64,
    wanted: u64,
    past: Past,
    /// Why the last run failed.
    why: Option<String>,
}

impl Backups {
    pub(super) fn new(now_ms: u64) -> Self {
        let past = Past { started_ms: now_ms, ..Past::default() };
        Self { inner: Mutex::new(Inner { past, ..Inner::default() }), asked: Arc::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `POST /v1/backup`: what has come before is in the backup of that run.
pub(super) async fn begin(State(core): State<Arc<Core>>) -> Result<Json<BackupBegun>> {
    core.facts.must_be_current(&core.fleet)?;
    let run = {
        let mut inner = core.backups.lock();
        inner.wanted = inner.begun + 1;
        inner.wanted
    };
    core.backups.asked.notify_one();
    Ok(Json(BackupBegun { epoch: core.catalog.epoch(), run }))
}

/// `GET /v1/backup`
pub(super) async fn status(State(core): State<Arc<Core>>) -> Result<Json<BackupStatus>> {
    Ok(Json(told(&core).await?))
}

/// How backups stand, for a status.
pub(super) async fn told(core: &Core) -> Result<BackupStatus> {
    // In this order: whoever sees that a run has ended sees its backup.
    let (running, ended, failed) = {
        let inner = core.backups.lock();
        (inner.begun > inner.ended, inner.ended, inner.why.clone())
    };
    let Backed { last, .. } = core.catalog.backed().await?;
    Ok(BackupStatus {
        epoch: core.catalog.epoch(),
        now_ms: core.catalog.clock.now_ms(),
        every_ms: millis(core.timings.backup_every),
        last,
        running,
        ended,
        failed,
    })
}

/// Makes backups as they are due or asked for, until the coordinator is gone.
pub(super) async fn keep(core: Weak<Core>) {
    // What was left behind is long: it goes now, not with the next backup.
    if let Some(core) = core.upgrade()
        && let Err(error) = remove(&copy_in(core.folder.path()))
    {
        tracing::warn!(%error, "a copy of the catalog was left behind");
    }
    loop {
        let Some(here) = core.upgrade() else { return };
        let rest = match look_after(&here).await {
            Ok(rest) => rest,
            Err(error) => {
                tracing::warn!(%error, "backups could not go on");
                RETRY
            }
        };
        let asked = Arc::clone(&here.backups.asked);
        drop(here);
        let _ = tokio::time::timeout(rest, asked.notified()).await;
    }
}

/// Makes one, if one is due or asked for; gives how long to rest.
async fn look_after(core: &Arc<Core>) -> Result<Duration> {
    let Backed { last, changed } = core.catalog.backed().await?;
    // Without a vault there is no key to seal it to, and nothing in it. One of a catalog that does
    // not know all would be taken for the newest.
    let changed = changed
        && core.record.borrow().is_some()
        && core.facts.must_be_current(&core.fleet).is_ok();
    let now_ms = core.catalog.clock.now_ms();
    let is_asked = {
        let mut inner = core.backups.lock();
        inner.past.made_ms = last.map(|last| last.made_ms);
        let is_asked = inner.wanted > inner.begun;
        if !is_asked {
            match inner.past.due_ms(millis(core.timings.backup_every)) {
                None => return Ok(NEVER),
                Some(due_ms) if due_ms > now_ms => {
                    return Ok(Duration::from_millis(due_ms - now_ms));
                }
                Some(_) if !changed => {
                    (inner.past.looked_ms, inner.past.failed) = (Some(now_ms), None);
                    return Ok(Duration::ZERO);
                }
                Some(_) => {}
            }
        }
        inner.begun += 1;
        is_asked
    };
    let made = make(core).await;
    let ended_ms = core.catalog.clock.now_ms();
    let mut inner = core.backups.lock();
    inner.ended = inner.begun;
    match made {
        Ok(bytes) => {
            tracing::info!(bytes, is_asked, "backed up");
            (inner.why, inner.past.failed) = (None, None);
        }
        Err(error) => {
            tracing::warn!(%error, "the coordinator's folder was not backed up");
            let tries = inner.past.failed.map_or(1, |(tries, _)| tries.saturating_add(1));
            (inner.why, inner.past.failed) = (Some(told_why(error)), Some((tries, ended_ms)));
        }
    }
    Ok(Duration::ZERO)
}

fn told_why(error: Error) -> String {
    match error {
        error @ (Error::Unreachable { .. } | Error::Refused { .. } | Error::Io { .. }) => {
            error.to_string()
        }
        error => error.into_refusal().message,
    }
}

/// Makes one now; gives the bytes in it.
async fn make(core: &Arc<Core>) -> Result<u64> {
    let record = core.record.borrow().clone();
    let no_vault = || Error::refuse(Code::NoVault, "there is no vault yet");
    let record = VaultRecord::decode(&record.ok_or_else(no_vault)?)?;
    core.facts.must_be_current(&core.fleet)?;
    let copy = Copy::new(core.folder.path())?;
    let copied = core.catalog.copy(copy.path.clone(), KEPT - 1).await?;
    // Only now, so that the copy knows nothing of it.
    let origin = core.tokens[0].id;
    let (lease, _) = core.catalog.begin(origin, auth::random()?, core.timings.lease).await?;
    let made = store(core, &record, origin, lease, copied, &copy.path).await;
    core.catalog.end_repair(lease).await?;
    let bytes = made?;
    thin(core).await;
    Ok(bytes)
}

async fn store(
    core: &Arc<Core>,
    record: &VaultRecord,
    origin: i64,
    lease: LeaseId,
    Copied { epoch, sequence, made_ms }: Copied,
    copy: &Path,
) -> Result<u64> {
    let client = StorageClient::new(SILENCE, &core.certifier.trust(core.catalog.clock));
    let store = Store { core, client: &client, origin, lease };
    let vault = core.catalog.vault;
    let mut files = beside_catalog(core.folder.path())?;
    files.push(("catalog.db".to_owned(), copy.to_owned()));
    let mut bundle = Bundle::open(files)?;
    let mut stripes = Vec::new();
    loop {
        let read = tokio::task::spawn_blocking(move || {
            let bytes = bundle.read(STRIPE_BYTES);
            (bundle, bytes)
        });
        let failed = |_| Error::refuse(Code::Internal, "the folder could not be read");
        let (back, bytes) = read.await.map_err(failed)?;
        bundle = back;
        let bytes = bytes?;
        if bytes.is_empty() {
            break;
        }
        if stripes.len() == STRIPES_MAX {
            return Err(Error::refuse(Code::TooLarge, "the catalog is too long for a backup"));
        }
        let (key, pack_key) = fresh_key(core, record)?;
        let pack: Pack = cpu::run(move || {
            let mut builder = PackBuilder::new(vault, key, Vec::new());
            bytes.chunks(PIECE_BYTES).try_for_each(|p| builder.append_record(&piece(p)?))?;
            builder.finish()
        })
        .await?;
        let geometry = record.geometry.for_pack(pack.bytes.len() as u64);
        stripes.push(store.store(pack, pack_key, geometry).await?);
    }
    let files = bundle.files();
    let bytes = files.iter().map(|file| file.bytes).sum();
    let ids = stripes.iter().map(|stripe| stripe.stripe).collect();
    let list = BackupRecord { epoch, sequence, made_ms, files, stripes: ids };
    let (key, pack_key) = fresh_key(core, record)?;
    let pack = seal_record(vault, key, &core.signer.sign_backup(vault, list.encode()?))?;
    stripes.push(store.store(pack, pack_key, record.geometry.copies()).await?);

    let short: Vec<_> = stripes
        .iter()
        .map(|new| (new.stripe, servers_of(new), new.holders.len() < new.geometry.shards()))
        .collect();
    let new = NewBackup { stripes, sequence, made_ms, bytes };
    core.catalog.commit_backup(origin, lease, new).await?;
    for (stripe, holders, is_short) in short {
        note_short(core, stripe, &holders, is_short).await?;
    }
    Ok(bytes)
}

fn fresh_key(core: &Core, record: &VaultRecord) -> Result<(PackKey, PackKeyField)> {
    let key = PackKey::new(auth::random()?);
    let ephemeral = auth::random()?.into();
    let sealed = key.seal_to(record.public_key(), core.catalog.vault, ephemeral)?;
    Ok((key, sealed))
}

/// Has those trashed that are too old, and were struck out some time ago: the new one stands, so a
/// failure is only told.
async fn thin(core: &Core) {
    let thinned = async {
        let from_ms = core.catalog.clock.now_ms().saturating_add(millis(THINNED_FOR));
        core.catalog.thin_backups(KEPT, from_ms).await?;
        for member in core.fleet.members() {
            if member.health.state == Health::Up {
                repair::trash(core, member.row.server).await?;
            }
        }
        Ok::<(), Error>(())
    };
    if let Err(error) = thinned.await {
        tracing::warn!(%error, "old backups were not trashed, they will be");
    }
}

/// The catalog's copy, for as long as it is needed; one that was left behind makes way.
struct Copy {
    path: PathBuf,
}

impl Copy {
    fn new(folder: &Path) -> Result<Self> {
        let path = copy_in(folder);
        remove(&path)?;
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(0o600);
        options.open(&path).map_err(Error::io("cannot make", &path))?;
        Ok(Self { path })
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.path) {
            tracing::warn!(%error, "a copy of the catalog was left behind");
        }
    }
}

fn copy_in(folder: &Path) -> PathBuf {
    folder.join("catalog.copy")
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io("cannot remove", path)(error))
        }
        _ => Ok(()),
    }
}

//! The shard files of a server: each is made once, whole and synced, and is
//! moved aside rather than removed. Everything here blocks.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use codec::VaultId;
use rustix::io::Errno;

use super::address::Address;
use super::bad::Bad;
use super::durable;
use super::fail_points::FailPoint;
use super::fault::Fault;
use super::inspect::Inspection;
use super::room::Room;
use crate::fail_point::{FailAt, Planted};
use crate::wire::Bucket;
use crate::{Error, Result};

/// The names in a folder of shards, which nobody else changes while this is held, and the digest
/// of what they name, once they were counted.
pub(super) type Names = Option<Bucket>;

/// The folder of shard files.
pub(super) struct Shelf {
    pub(super) root: PathBuf,
    pub(super) vault: VaultId,
    pub(super) room: Arc<Room>,
    pub(super) fault: Option<Fault>,
    pub(super) planted: Planted<FailPoint>,
    /// How often the server has started, and a count since: together unique names.
    starts: u64,
    count: AtomicU64,
    /// The shards that are known to be bad.
    pub(super) bad: Bad,
    /// Held while the names in a folder of shards change.
    folders: Vec<Mutex<Names>>,
}

impl Shelf {
    pub(super) fn new(
        root: PathBuf,
        vault: VaultId,
        room: Arc<Room>,
        starts: u64,
        (fault, fail_at): (Option<Fault>, Option<FailAt<FailPoint>>),
    ) -> Result<Self> {
        let folders = (0..=u8::MAX).map(|_| Mutex::default()).collect();
        let (count, bad) = (AtomicU64::new(0), Bad::open(&root, starts)?);
        let planted = Planted::new(fail_at);
        Ok(Self { root, vault, room, fault, planted, starts, count, bad, folders })
    }

    /// Where the shard of `address` lies, or would.
    pub(super) fn path(&self, address: Address) -> PathBuf {
        self.folder(address.folder()).join(address.to_string())
    }

    /// One of the 256 folders of shards.
    pub(super) fn folder(&self, folder: u8) -> PathBuf {
        self.root.join("shards").join(format!("{folder:02x}"))
    }

    /// A name that was never used before.
    pub(super) fn unique_name(&self, address: Address) -> String {
        let count = self.count.fetch_add(1, Ordering::Relaxed);
        format!("{address}.{}-{count}", self.starts)
    }

    /// Has the names in a folder stay as they are.
    pub(super) fn lock(&self, folder: u8) -> MutexGuard<'_, Names> {
        let folder = &self.folders[usize::from(folder)];
        folder.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The file of `address`, if there is one.
    pub(super) fn open(&self, address: Address) -> Result<Option<File>> {
        let path = self.path(address);
        let opened = File::open(&path).and_then(|file| {
            self.reach_read(Fault::OpenFails, address)?;
            Ok(file)
        });
        match opened {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.require_folder(address).map(|()| None)
            }
            opened => opened.map(Some).map_err(Error::io("cannot open", path)),
        }
    }

    /// An error if not even the folder is there that `address` would be in: its disk may be gone,
    /// and what it holds is unknown.
    pub(super) fn require_folder(&self, address: Address) -> Result<()> {
        let folder = self.folder(address.folder());
        fs::metadata(&folder).map(drop).map_err(Error::io("cannot find", folder))
    }

    /// What lies at `address`, read whole; a good shard's name is synced.
    pub(super) fn stored(&self, address: Address) -> Result<Inspection> {
        let mut names = self.lock(address.folder());
        let inspection = self.inspect_in(&mut names, address)?;
        if let Inspection::Good(_) = inspection {
            self.sync_or_trouble(&self.folder(address.folder()))?;
        }
        Ok(inspection)
    }

    /// Gives a whole and synced file its name. Something damaged there goes to quarantine; the
    /// same shard there, from another PUT at the same time, stays.
    pub(super) fn publish(&self, written: &Path, address: Address) -> Result<()> {
        let mut names = self.lock(address.folder());
        self.room.require_sound()?;
        let path = self.path(address);
        let made = match durable::rename_new(written, &path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                self.replace_damaged(&mut names, written, address)?
            }
            renamed => {
                self.named(renamed, &path)?;
                self.note_arrival(&mut names, address, false);
                true
            }
        };
        self.planted.reach(FailPoint::PutNamed);
        self.sync_or_trouble(&self.folder(address.folder())).inspect_err(|_| {
            if !made {
                return;
            }
            // The name may not last, and no receipt was given for it.
            match fs::remove_file(&path) {
                Ok(()) => self.note_departure(&mut names, address),
                Err(error) => tracing::error!(%error, "cannot remove {}", path.display()),
            }
        })
    }

    /// Whether `written` took the place; not when a good shard has it.
    fn replace_damaged(&self, names: &mut Names, written: &Path, address: Address) -> Result<bool> {
        let path = self.path(address);
        match self.inspect_in(names, address)? {
            Inspection::Good(_) => return Ok(false),
            Inspection::Missing => {}
            Inspection::Damaged(why) => {
                tracing::warn!("shard {address} goes to quarantine: {why}");
                let aside = self.root.join("quarantine");
                let to = aside.join(self.unique_name(address));
                self.named(durable::rename_new(&path, &to), &to)?;
                self.note_departure(names, address);
                self.sync_or_trouble(&aside)?;
                self.planted.reach(FailPoint::PutDamagedAside);
            }
        }
        self.named(durable::rename_new(written, &path), &path)?;
        self.note_arrival(names, address, false);
        Ok(true)
    }

    /// Gives a whole, synced and verified file its name, in the stead of whatever lies there: that
    /// is the same shard, byte for byte, or less of it than this. At no moment is there nothing.
    pub(super) fn replace(&self, written: &Path, address: Address) -> Result<()> {
        let mut names = self.lock(address.folder());
        self.room.require_sound()?;
        let path = self.path(address);
        let replaced = path.symlink_metadata().is_ok();
        self.named(fs::rename(written, &path), &path)?;
        self.note_arrival(&mut names, address, replaced);
        self.planted.reach(FailPoint::OwnNamed);
        self.sync_or_trouble(&self.folder(address.folder()))
    }

    /// Moves shards to the trash of `day`, as long as the order `stands` when it is their turn; says
    /// how many were there.
    pub(super) fn trash(
        &self,
        addresses: &[Address],
        day: u64,
        stands: impl Fn() -> Result<()>,
    ) -> Result<u32> {
        self.room.require_sound()?;
        let trash = self.root.join("trash");
        let bin = trash.join(day.to_string());
        self.room.told_of_name(durable::make_dir(&bin))?;
        self.sync_or_trouble(&trash)?;
        self.planted.reach(FailPoint::TrashBegun);
        let mut trashed = 0;
        let mut touched = BTreeSet::new();
        let mut ended = Ok(());
        for &address in addresses {
            let mut names = self.lock(address.folder());
            ended = stands();
            if ended.is_err() {
                break;
            }
            let to = bin.join(self.unique_name(address));
            match durable::rename_new(&self.path(address), &to) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    self.require_folder(address)?;
                }
                renamed => {
                    self.named(renamed, &to)?;
                    self.note_departure(&mut names, address);
                    self.planted.reach(FailPoint::TrashMoved);
                    trashed += 1;
                    touched.insert(address.folder());
                }
            }
        }
        if trashed > 0 {
            self.sync_or_trouble(&bin)?;
        }
        touched.into_iter().try_for_each(|folder| self.sync_or_trouble(&self.folder(folder)))?;
        self.planted.reach(FailPoint::TrashSynced);
        ended.map(|()| trashed)
    }

    fn named(&self, renamed: io::Result<()>, to: &Path) -> Result<()> {
        self.room.told_of_name(renamed.map_err(Error::io("cannot make", to)))
    }

    fn sync_or_trouble(&self, dir: &Path) -> Result<()> {
        self.room.told(durable::sync_dir(dir))
    }

    /// Fails as a bad disk does if a test planted that for this shard.
    pub(super) fn reach_read(&self, point: Fault, address: Address) -> io::Result<()> {
        if self.fault == Some(point) && address.index == 0 {
            return Err(Errno::IO.into());
        }
        Ok(())
    }
}

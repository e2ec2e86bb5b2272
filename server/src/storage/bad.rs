//! Which shards here are known to be bad: `bad/` has a small file for each, named like the shard,
//! with the reason in it. The shard itself stays where it is, for what is whole of it.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use codec::StripeId;

use super::address::Address;
use super::durable;
use crate::{Error, Result};

/// A reason is cut off here.
const REASON_BYTES_MAX: usize = 200;

/// The bad shards; 33 bytes of memory each.
pub(super) struct Bad {
    dir: PathBuf,
    list: Mutex<BTreeSet<Address>>,
    /// Those of which a read failed since the start, since they were stored, or last read whole.
    unreadable: Mutex<BTreeSet<Address>>,
    findings: AtomicU64,
    /// Shards added since the start.
    added: AtomicU64,
}

impl Bad {
    /// Those that the folder has, at start number `starts`.
    pub(super) fn open(root: &Path, starts: u64) -> Result<Self> {
        let dir = root.join("bad");
        let mut list = BTreeSet::new();
        match fs::read_dir(&dir) {
            // It could not be made on a disk that is read-only.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            entries => {
                for entry in entries.map_err(Error::io("cannot list", &dir))? {
                    let name = entry.map_err(Error::io("cannot list", &dir))?.file_name();
                    list.extend(name.to_str().and_then(|name| name.parse::<Address>().ok()));
                }
            }
        }
        // With every start the number is another.
        let findings = AtomicU64::new(starts << 32);
        Ok(Self {
            dir,
            list: Mutex::new(list),
            unreadable: Mutex::default(),
            findings,
            added: AtomicU64::new(0),
        })
    }

    fn list(&self) -> MutexGuard<'_, BTreeSet<Address>> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn unreadable(&self) -> MutexGuard<'_, BTreeSet<Address>> {
        self.unreadable.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn contains(&self, address: Address) -> bool {
        self.list().contains(&address)
    }

    pub(super) fn count(&self) -> u64 {
        self.list().len() as u64
    }

    /// Those in one folder of shards.
    pub(super) fn in_folder(&self, folder: u8) -> Vec<Address> {
        let stripe = |rest| {
            let mut id = [rest; StripeId::LEN];
            id[0] = folder;
            StripeId(id)
        };
        let first = Address { stripe: stripe(0), index: 0 };
        let last = Address { stripe: stripe(u8::MAX), index: u8::MAX };
        self.list().range(first..=last).copied().collect()
    }

    /// Why a shard is bad, if it is known to be.
    pub(super) fn reason(&self, address: Address) -> Option<String> {
        if !self.contains(address) {
            return None;
        }
        let mut bytes = Vec::new();
        let read = File::open(self.dir.join(address.to_string()))
            .and_then(|file| file.take(REASON_BYTES_MAX as u64).read_to_end(&mut bytes));
        Some(match read {
            Ok(1..) => String::from_utf8_lossy(&bytes).into_owned(),
            _ => "it was found damaged before".to_owned(),
        })
    }

    /// Remembers a shard as bad, over restarts too; `false` if it was before. Where the disk does
    /// not take that any more, it is remembered until the process ends.
    pub(super) fn add(&self, address: Address, why: &str, temporary: &Path) -> bool {
        if !self.list().insert(address) {
            return false;
        }
        let why = &why[..why.floor_char_boundary(REASON_BYTES_MAX)];
        let path = self.dir.join(address.to_string());
        if let Err(error) = durable::write(&path, temporary, why.as_bytes()) {
            tracing::error!(%error, "that shard {address} is bad is forgotten at the next start");
        }
        self.added.fetch_add(1, Ordering::Relaxed);
        self.found();
        true
    }

    /// How many were added since the start, whatever became of them.
    pub(super) fn added(&self) -> u64 {
        self.added.load(Ordering::Relaxed)
    }

    /// Takes a shard for good, or for gone; `false` if it was not known to be bad.
    pub(super) fn remove(&self, address: Address) -> bool {
        self.unreadable().remove(&address);
        if !self.list().remove(&address) {
            return false;
        }
        let path = self.dir.join(address.to_string());
        let removed = match fs::remove_file(&path) {
            // It could not be written.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed.map_err(Error::io("cannot remove", path)),
        };
        if let Err(error) = removed.and_then(|()| durable::sync_dir(&self.dir)) {
            tracing::warn!(%error, "shard {address} counts as bad again after the next start");
        }
        self.found();
        true
    }

    /// Something is otherwise than it was known to be.
    pub(super) fn found(&self) {
        self.findings.fetch_add(1, Ordering::Relaxed);
    }

    /// How often that was, and which start this is.
    pub(super) fn findings(&self) -> u64 {
        self.findings.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_bad_is_known_after_a_restart_until_it_is_not() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("bad")).unwrap();
        fs::write(root.path().join("bad/stray"), "x").unwrap();
        let address = |n, index| Address { stripe: StripeId([n; 32]), index };
        let open = |starts| Bad::open(root.path(), starts).unwrap();
        let bad = open(1);
        assert_eq!((bad.count(), bad.findings()), (0, 1 << 32));
        let temporary = root.path().join("temporary");
        assert!(bad.add(address(7, 1), &"ä".repeat(200), &temporary));
        assert!(!bad.add(address(7, 1), "again", &temporary));
        assert!(bad.add(address(8, 0), "why", &temporary));
        assert_eq!((bad.count(), bad.findings(), bad.added()), (2, (1 << 32) + 2, 2));

        let bad = open(2);
        assert_eq!(bad.in_folder(7), [address(7, 1)]);
        assert_eq!(bad.reason(address(8, 0)).as_deref(), Some("why"));
        assert_eq!(bad.reason(address(7, 1)), Some("ä".repeat(100)));
        assert_eq!(bad.reason(address(7, 0)), None);
        assert!(bad.remove(address(8, 0)) && !bad.remove(address(8, 0)));
        assert_eq!((open(3).count(), open(3).findings()), (1, 3 << 32));
        assert_eq!(open(3).added(), 0);
    }
}

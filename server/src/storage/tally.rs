//! What is known of the shards that lie here: which are bad, and the digest of each folder.
//! All of it changes together with the names, under the folder's lock.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;

use super::address::Address;
use super::room::is_unreadable;
use super::shelf::{Names, Shelf};
use crate::Result;
use crate::wire::Bucket;

impl Shelf {
    /// The shard of `address` was found bad in `file`, or could not even be opened.
    pub(super) fn note_bad(&self, address: Address, file: Option<&File>, why: &str) {
        if !self.bad.contains(address) {
            self.note_bad_in(&mut self.lock(address.folder()), address, file, why);
        }
    }

    /// A read of the shard of `address` failed in the middle of something.
    pub(super) fn note_unreadable(&self, address: Address, file: &File, error: &io::Error) {
        self.bad.unreadable().insert(address);
        self.note_bad(address, Some(file), &format!("it cannot be read: {error}"));
    }

    pub(super) fn note_bad_in(
        &self,
        names: &mut Names,
        address: Address,
        file: Option<&File>,
        why: &str,
    ) {
        // What was read may have been replaced by a good one since.
        if !self.lies_there(address, file) {
            return;
        }
        let temporary = self.root.join("tmp").join(self.unique_name(address));
        if self.bad.add(address, why, &temporary) {
            tracing::warn!("shard {address} is bad: {why}");
            turn(names, address, true);
        }
    }

    /// The shard of `address` was read whole in `file`, and is good.
    pub(super) fn note_good(&self, address: Address, file: &File) {
        if self.bad.contains(address) || self.bad.unreadable().contains(&address) {
            self.note_good_in(&mut self.lock(address.folder()), address, file);
        }
    }

    pub(super) fn note_good_in(&self, names: &mut Names, address: Address, file: &File) {
        if self.lies_there(address, Some(file)) && self.bad.remove(address) {
            turn(names, address, false);
        }
    }

    /// A good shard has the name now, in the stead of another if one was `replaced`.
    pub(super) fn note_arrival(&self, names: &mut Names, address: Address, replaced: bool) {
        let Address { stripe, index } = address;
        // What was bad was counted, even if somebody else has taken it away since.
        let was_bad = self.bad.remove(address);
        if let Some(bucket) = names.as_mut() {
            if replaced || was_bad {
                bucket.remove(stripe, index, was_bad);
            }
            bucket.add(stripe, index, false);
        }
    }

    /// The shard was moved away.
    pub(super) fn note_departure(&self, names: &mut Names, address: Address) {
        let was_bad = self.bad.remove(address);
        if let Some(bucket) = names.as_mut() {
            bucket.remove(address.stripe, address.index, was_bad);
        }
    }

    /// The digest of a folder; by what lies there now if `anew`.
    pub(super) fn bucket(&self, folder: u8, anew: bool) -> Result<Bucket> {
        let mut names = self.lock(folder);
        match *names {
            Some(bucket) if !anew => Ok(bucket),
            known => {
                let bucket = self.count(folder)?;
                if known.is_some_and(|known| known != bucket) {
                    self.bad.found();
                }
                *names = Some(bucket);
                Ok(bucket)
            }
        }
    }

    /// How many shards are here, once all folders were counted.
    pub(super) fn shards(&self) -> Option<u64> {
        (0..=u8::MAX).map(|folder| self.lock(folder).map(|bucket| bucket.shards)).sum()
    }

    fn count(&self, folder: u8) -> Result<Bucket> {
        let mut bucket = Bucket::default();
        let addresses = self.addresses(folder, None)?;
        for bad in self.bad.in_folder(folder) {
            if addresses.binary_search(&bad).is_err() {
                self.bad.remove(bad);
            }
        }
        for address in addresses {
            bucket.add(address.stripe, address.index, self.bad.contains(address));
        }
        Ok(bucket)
    }

    /// Whether the name of `address` is still that of `file`.
    fn lies_there(&self, address: Address, file: Option<&File>) -> bool {
        let identity = |stat: fs::Metadata| (stat.dev(), stat.ino());
        match (fs::symlink_metadata(self.path(address)), file.map(File::metadata)) {
            (Ok(there), Some(Ok(read))) => identity(there) == identity(read),
            (Ok(_), None) => true,
            (Err(error), _) | (_, Some(Err(error))) => is_unreadable(&error),
        }
    }
}

/// Counts a shard as bad that was good, or the other way round.
fn turn(names: &mut Names, Address { stripe, index }: Address, bad: bool) {
    if let Some(bucket) = names.as_mut() {
        bucket.remove(stripe, index, !bad);
        bucket.add(stripe, index, bad);
    }
}

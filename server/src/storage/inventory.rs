//! What a server holds, page by page, one folder of shards in memory at a time.

use std::fs;
use std::io;

use super::address::Address;
use super::fault::Fault;
use super::room::is_unreadable;
use super::shelf::Shelf;
use crate::wire::{InventoryRow, Page};
use crate::{Error, Result};

impl Shelf {
    /// Up to `limit` rows behind `after`, ordered by stripe and index.
    pub(super) fn inventory(
        &self,
        after: Option<Address>,
        limit: usize,
    ) -> Result<Page<InventoryRow>> {
        let mut rows: Vec<InventoryRow> = Vec::new();
        let first = after.map_or(0, |address| address.folder());
        for folder in first..=u8::MAX {
            for address in self.addresses(folder, after)? {
                if let Some(last) = rows.last().filter(|_| rows.len() == limit) {
                    let last = Address { stripe: last.stripe, index: last.index };
                    return Ok(Page { next: Some(last.to_string()), rows });
                }
                rows.extend(self.row(address)?);
            }
        }
        Ok(Page { rows, next: None })
    }

    /// The shards in one folder behind `after`, in order. Files with other names are not ours.
    pub(super) fn addresses(&self, folder: u8, after: Option<Address>) -> Result<Vec<Address>> {
        let path = self.folder(folder);
        let mut addresses = Vec::new();
        for entry in fs::read_dir(&path).map_err(Error::io("cannot list", &path))? {
            let name = entry.map_err(Error::io("cannot list", &path))?.file_name();
            let address = name.to_str().and_then(|name| name.parse::<Address>().ok());
            addresses.extend(address.filter(|&address| after.is_none_or(|after| address > after)));
        }
        addresses.sort_unstable();
        Ok(addresses)
    }

    /// The row of a shard, unless it went since it was listed.
    fn row(&self, address: Address) -> Result<Option<InventoryRow>> {
        let path = self.path(address);
        let Address { stripe, index } = address;
        let planted = self.reach_read(Fault::OpenFails, address);
        let (file_bytes, damaged) = match planted.and_then(|()| fs::symlink_metadata(&path)) {
            Ok(metadata) => (metadata.len(), self.bad.reason(address)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return self.require_folder(address).map(|()| None);
            }
            Err(error) if is_unreadable(&error) => (0, Some(format!("it cannot be read: {error}"))),
            Err(error) => return Err(Error::io("cannot read", path)(error)),
        };
        Ok(Some(InventoryRow { stripe, index, file_bytes, damaged }))
    }
}

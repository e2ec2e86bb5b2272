//! The missing shards of a stripe while they are made: one temporary file each,
//! laid out as the shard's file, the header last.

use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use bytes::Bytes;
use codec::Digest;
use codec::digest::BLOCK_BYTES;
use codec::shard::Ends;
use futures_util::{Stream, stream};
use rustix::fs::{Advice, fadvise};
use tokio::sync::OwnedSemaphorePermit;

use super::pace::Pace;
use crate::Result;
use crate::storage::address::Address;
use crate::storage::fail_points::FailPoint;
use crate::storage::inspect::PIECE_BYTES;
use crate::storage::room::Promise;
use crate::storage::server::blocking;
use crate::storage::shelf::Shelf;
use crate::storage::temporary::Temporary;
use crate::wire::{RebuildRequest, Thoroughness};

/// Gone on drop, but for what was kept; the rebuild's turn lasts until then, whoever still writes.
pub(super) struct Spools {
    shelf: Arc<Shelf>,
    spools: Vec<(Address, Temporary)>,
    header_bytes: u64,
    file_bytes: u64,
    _promise: Promise,
    _slot: OwnedSemaphorePermit,
}

impl Spools {
    /// Empty ones for the shards `indexes`, if there is room for all of them.
    pub(super) fn create(
        shelf: Arc<Shelf>,
        order: &RebuildRequest,
        indexes: &[u8],
        slot: OwnedSemaphorePermit,
    ) -> Result<Self> {
        let (header_bytes, file_bytes) = (order.header_bytes(), order.file_bytes());
        let bytes = file_bytes.saturating_mul(indexes.len() as u64);
        let promise = shelf.room.promise_repair(bytes)?;
        let spool = |&index: &u8| {
            let address = Address { stripe: order.stripe, index };
            Ok((address, shelf.temporary(address)?))
        };
        let spools = indexes.iter().map(spool).collect::<Result<_>>()?;
        shelf.planted.reach(FailPoint::SpoolsMade);
        Ok(Self { shelf, spools, header_bytes, file_bytes, _promise: promise, _slot: slot })
    }

    /// See [`Planted::reach`](crate::fail_point::Planted::reach).
    pub(super) fn reach(&self, point: FailPoint) {
        self.shelf.planted.reach(point);
    }

    /// Writes the columns of blocks from number `first` on: one block of each spool.
    pub(super) fn write<'a>(
        &self,
        first: usize,
        columns: impl Iterator<Item = &'a [Bytes]>,
    ) -> Result<()> {
        for (number, column) in (first as u64..).zip(columns) {
            let at = self.header_bytes + number * BLOCK_BYTES as u64;
            for ((_, file), block) in self.spools.iter().zip(column) {
                file.write_at(block, at)?;
            }
        }
        self.shelf.planted.reach(FailPoint::ColumnsWritten);
        Ok(())
    }

    /// Writes what stands around the bodies.
    pub(super) fn close(&self, ends: &[Ends]) -> Result<()> {
        for ((_, file), ends) in self.spools.iter().zip(ends) {
            file.write_at(&ends.header, 0)?;
            file.write_at(&ends.footer, self.file_bytes - ends.footer.len() as u64)?;
        }
        self.shelf.planted.reach(FailPoint::RootsChecked);
        Ok(())
    }

    /// Has spool `nth` synced, reads it back whole, and puts it on the shelf.
    pub(super) fn keep(&self, nth: usize) -> Result<Digest> {
        let (address, file) = &self.spools[nth];
        self.shelf.sync(file)?;
        self.shelf.planted.reach(FailPoint::OwnSynced);
        // Read from the disk, where the system lets go of what it has in memory.
        let _ = fadvise(&file.file, 0, None, Advice::DontNeed);
        let read = self.shelf.examine(&file.file, *address, Thoroughness::Whole);
        let header_hash = self.shelf.room.told(read)?;
        self.shelf.planted.reach(FailPoint::OwnReadBack);
        self.shelf.replace(file.path(), *address)?;
        self.shelf.planted.reach(FailPoint::OwnKept);
        Ok(header_hash)
    }

    /// Spool `nth` as it is read, at `pace`.
    pub(super) fn pieces(
        self: Arc<Self>,
        nth: usize,
        pace: Arc<Pace>,
    ) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
        stream::try_unfold(0, move |at| {
            let (spools, pace) = (Arc::clone(&self), Arc::clone(&pace));
            async move {
                let bytes = (spools.file_bytes - at).min(PIECE_BYTES as u64);
                if bytes == 0 {
                    return Ok(None);
                }
                pace.take(bytes).await;
                let piece = blocking(move || {
                    let mut piece = vec![0; bytes as usize];
                    spools.spools[nth].1.file.read_exact_at(&mut piece, at).map(|()| piece)
                });
                Ok(Some((Bytes::from(piece.await?), at + bytes)))
            }
        })
    }
}

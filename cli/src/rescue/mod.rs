//! A vault out of the bare folders of its servers: no coordinator, no catalog, no network.
//!
//! `scan` reads the header of every shard file, `index` the directory of every pack;
//! with both, `fetch` and `pull` read from the folders as they do from servers. The
//! folders are only read. In memory are 40 bytes a chunk, and about 1 KiB a stripe.

pub mod backup;
mod dirs;
mod folders;
mod index;
mod packs;
mod pins;
mod records;
mod scan;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use codec::pack::Directory;
use codec::shard::Kind;
use codec::snapshot::Snapshot;
use codec::{Digest, StripeId};
use futures_util::StreamExt as _;
use server::wire::{SnapshotRow, StripeMap};

use crate::fetch::{FetchError, Fetcher};
use crate::snapshots;
use crate::ui::Counters;

pub use dirs::{check_dirs, must_be_elsewhere};
pub use folders::Folders;
pub use index::Index;
pub use packs::index_adopted;
pub use pins::coordinator_key;
pub use records::find as find_records;
pub use scan::{Scan, scan};

/// Directories that are read at once.
const DIRECTORIES_IN_FLIGHT: usize = 8;

/// What the packs say of themselves.
#[derive(Default)]
pub struct Indexed {
    /// Where each chunk lies.
    pub index: Index,
    /// Stripes of which too little is left to say what they hold, and why. Whether anything needs
    /// them, nobody knows: a push that did not end leaves such.
    pub unread: BTreeMap<StripeId, FetchError>,
}

/// A snapshot, and what its record says.
pub struct Found {
    /// As the coordinator would name it; the time is that of the machine that pushed.
    pub row: SnapshotRow,
    /// Its record.
    pub record: Snapshot,
}

/// Reads the directory of every pack with chunks.
pub async fn index(
    fetcher: &Fetcher,
    stripes: impl Iterator<Item = StripeMap>,
    counters: &Counters,
) -> Indexed {
    let read = |map: StripeMap| async move {
        let map = Arc::new(map);
        (fetcher.directory(&map).await, map)
    };
    let has_chunks = |map: &StripeMap| matches!(map.kind, Kind::Data | Kind::Metadata);
    let directories = futures_util::stream::iter(stripes.filter(has_chunks));
    let mut directories =
        std::pin::pin!(directories.map(read).buffer_unordered(DIRECTORIES_IN_FLIGHT));
    let mut indexed = Indexed::default();
    while let Some((directory, map)) = directories.next().await {
        counters.done_files.fetch_add(1, Relaxed);
        match directory {
            Ok(Directory { frames, chunks }) => {
                let frames = frames.into_iter().map(|(kind, end)| (kind as u8, end)).collect();
                let map = StripeMap { frames, ..Arc::unwrap_or_clone(map) };
                indexed.index.add(Arc::new(map), &chunks);
            }
            Err(error) => drop(indexed.unread.insert(map.stripe, error)),
        }
    }
    Indexed { index: indexed.index.finish(), ..indexed }
}

/// The snapshots among `stripes`, newest first by the clocks of the machines that pushed, and those
/// whose record cannot be read.
pub async fn find_snapshots(
    fetcher: &Fetcher,
    stripes: impl Iterator<Item = StripeMap>,
) -> (Vec<Found>, BTreeMap<StripeId, FetchError>) {
    let (mut found, mut lost) = (Vec::new(), BTreeMap::new());
    for stripe in stripes.filter(|map| map.kind == Kind::Snapshot) {
        let mut row = SnapshotRow {
            id: stripe.stripe,
            sequence: 0,
            received_ms: 0,
            source_set: Digest::default(),
            stripe,
        };
        match snapshots::record(fetcher, &row).await {
            Ok(record) => {
                row.received_ms = record.ended_ms.max(0) as u64;
                found.push(Found { row, record });
            }
            Err(error) => drop(lost.insert(row.id, error)),
        }
    }
    found.sort_by_key(|Found { row, record }| (std::cmp::Reverse(record.began_ms), row.id));
    (found, lost)
}

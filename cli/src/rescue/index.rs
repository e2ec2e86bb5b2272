//! Where each chunk lies, out of the directories of all packs.

use std::sync::Arc;

use codec::ChunkId;
use codec::pack::DirectoryRow;
use server::wire::StripeMap;

/// All chunks, sorted: 40 bytes each.
#[derive(Default)]
pub struct Index {
    rows: Vec<Row>,
    maps: Vec<Arc<StripeMap>>,
}

struct Row {
    chunk: ChunkId,
    /// In `maps`.
    stripe: u32,
    frame: u32,
}

impl Index {
    /// Adds the chunks of a stripe; its map has its frames.
    pub fn add(&mut self, map: Arc<StripeMap>, chunks: &[DirectoryRow]) {
        // There are not so many files on any disk.
        let stripe = self.maps.len() as u32;
        let row = |row: &DirectoryRow| Row { chunk: row.chunk, stripe, frame: row.frame };
        self.rows.extend(chunks.iter().map(row));
        self.maps.push(map);
    }

    /// Sorts what was added: before that [`Index::places`] finds nothing.
    pub fn finish(mut self) -> Self {
        self.rows.shrink_to_fit();
        self.rows.sort_unstable_by_key(|row| (row.chunk, row.stripe, row.frame));
        self
    }

    /// How many chunks it has, each counted once for every place.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// All places of a chunk.
    pub(super) fn places(&self, chunk: &ChunkId) -> Vec<(Arc<StripeMap>, u32)> {
        let first = self.rows.partition_point(|row| row.chunk < *chunk);
        let rows = self.rows[first..].iter().take_while(|row| row.chunk == *chunk);
        rows.map(|row| (Arc::clone(&self.maps[row.stripe as usize]), row.frame)).collect()
    }
}

#[cfg(test)]
mod tests {
    use codec::seal::PackKeyField;
    use codec::shard::Kind;
    use codec::{Geometry, StripeId};

    use super::*;

    #[test]
    fn a_chunk_is_found_in_all_its_places() {
        let map = |number: u8| {
            Arc::new(StripeMap {
                stripe: StripeId([number; 32]),
                kind: Kind::Data,
                geometry: Geometry::new(2, 1).unwrap(),
                pack_bytes: 1,
                pack_key: PackKeyField(vec![0]),
                frames: vec![],
                shards: vec![],
            })
        };
        let row =
            |chunk: u8, frame: u32| DirectoryRow { chunk: ChunkId([chunk; 32]), frame, bytes: 1 };
        let mut index = Index::default();
        index.add(map(1), &[row(9, 0), row(3, 0), row(5, 1)]);
        index.add(map(2), &[row(3, 7)]);
        let index = index.finish();
        let places = |chunk: u8| {
            let places = index.places(&ChunkId([chunk; 32]));
            places.iter().map(|(map, frame)| (map.stripe.0[0], *frame)).collect::<Vec<_>>()
        };
        assert_eq!(index.len(), 4);
        assert_eq!(places(3), [(1, 0), (2, 7)]);
        assert_eq!(places(5), [(1, 1)]);
        assert_eq!(places(9), [(1, 0)]);
        assert!(places(1).is_empty() && places(4).is_empty() && places(10).is_empty());
    }
}

//! Content-defined cutting of plaintext: FastCDC v2020, seeded by the vault's key.
//!
//! Where chunks end decides only what is found again, never what can be read:
//! other cuts would store a file once more.

use std::array;
use std::ops::Range;

use fastcdc::v2020::{Normalization, get_gear_with_seed, select_masks};

/// No chunk of a longer file is shorter, except its last.
pub const CHUNK_BYTES_MIN: usize = 256 * 1024;
/// The usual length of a chunk.
pub const CHUNK_BYTES_AVG: usize = 1024 * 1024;
/// No chunk is longer.
pub const CHUNK_BYTES_MAX: usize = 4 * 1024 * 1024;

/// The hash is shifted by a bit with each byte: of one further back it has nothing left.
const WINDOW_BYTES: usize = u64::BITS as usize;
/// Runs that are hashed side by side, since each step of one waits for the step before it.
const LANES: usize = 4;
/// Bytes of one run: many beside the window that is hashed before it, few beside a chunk.
const LANE_BYTES: usize = 4096;
const STRETCH_BYTES: usize = LANES * LANE_BYTES;

/// Finds where chunks end.
pub struct Chunker {
    gear: [u64; 256],
    /// Applies before the usual length: one cut in 2^22 bytes.
    mask_strict: u64,
    /// Applies after it: one cut in 2^18 bytes.
    mask_loose: u64,
}

impl Chunker {
    /// A chunker with the vault's seed.
    // Level 2 finds more again after scattered edits than level 1, whose chunks vary more
    // (measured twice: of 384 MiB with 23 insertions 29 and 30 MiB are new, not 46 and 33).
    pub fn new(seed: u64) -> Self {
        let (table, _) = get_gear_with_seed(seed);
        let (mask_strict, mask_loose) = select_masks(CHUNK_BYTES_AVG, Normalization::Level2);
        Self { gear: array::from_fn(|byte| table[byte]), mask_strict, mask_loose }
    }

    /// Length of the first chunk of `bytes`, which hold at least
    /// [`CHUNK_BYTES_MAX`] bytes or all that is left of the file. Not 0 unless `bytes` is empty.
    pub fn cut(&self, bytes: &[u8]) -> usize {
        let bytes = &bytes[..bytes.len().min(CHUNK_BYTES_MAX)];
        // FastCDC takes two bytes at a time, and no last one alone.
        let end = bytes.len() & !1;
        let usual = CHUNK_BYTES_AVG.min(end);
        self.find(bytes, CHUNK_BYTES_MIN..usual, self.mask_strict)
            .or_else(|| self.find(bytes, usual.max(CHUNK_BYTES_MIN)..end, self.mask_loose))
            .unwrap_or(bytes.len())
    }

    /// The first place in `range` whose hash has no bit of `mask`.
    fn find(&self, bytes: &[u8], range: Range<usize>, mask: u64) -> Option<usize> {
        let mut rest = range;
        while !rest.is_empty() {
            let end = rest.end.min(rest.start + STRETCH_BYTES);
            let stretch = rest.start..end;
            // Most have none, which is seen sooner than where the first one is.
            if stretch.len() < STRETCH_BYTES || self.any(bytes, stretch.start, mask) {
                let mut hash = self.hash_before(bytes, stretch.start);
                for at in stretch {
                    hash = self.roll(hash, bytes[at]);
                    if hash & mask == 0 {
                        return Some(at);
                    }
                }
            }
            rest.start = end;
        }
        None
    }

    /// Whether there is such a place in the [`STRETCH_BYTES`] from `start` on.
    fn any(&self, bytes: &[u8], start: usize, mask: u64) -> bool {
        let starts: [usize; LANES] = array::from_fn(|lane| start + lane * LANE_BYTES);
        let mut hashes = starts.map(|start| self.hash_before(bytes, start));
        let lanes = starts.map(|start| &bytes[start..start + LANE_BYTES]);
        for at in 0..LANE_BYTES {
            for (hash, lane) in hashes.iter_mut().zip(lanes) {
                *hash = self.roll(*hash, lane[at]);
                if *hash & mask == 0 {
                    return true;
                }
            }
        }
        false
    }

    /// The hash of what is before `at`, from the shortest length on.
    fn hash_before(&self, bytes: &[u8], at: usize) -> u64 {
        let window = CHUNK_BYTES_MIN.max(at - WINDOW_BYTES)..at;
        bytes[window].iter().fold(0, |hash, &byte| self.roll(hash, byte))
    }

    #[inline]
    fn roll(&self, hash: u64, byte: u8) -> u64 {
        (hash << 1).wrapping_add(self.gear[usize::from(byte)])
    }

    /// Length of the first chunk of `bytes`, which more follow unless this is the file's `end`;
    /// `None` where only those would tell it, or where there are none.
    pub fn cut_some(&self, bytes: &[u8], end: bool) -> Option<usize> {
        let length = self.cut(bytes);
        // A cut that was found depends on nothing behind it.
        let is_found = length < bytes.len() || length == CHUNK_BYTES_MAX;
        (length > 0 && (is_found || end)).then_some(length)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use fastcdc::v2020::cut_gear;
    use proptest::prelude::*;

    use super::*;

    const MIB: usize = 1024 * 1024;

    fn noise(seed: u64, bytes: usize) -> Vec<u8> {
        let mut out = vec![0; bytes];
        blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut out);
        out
    }

    fn chunks<'a>(chunker: &Chunker, mut bytes: &'a [u8]) -> Vec<&'a [u8]> {
        let mut chunks = Vec::new();
        while !bytes.is_empty() {
            let (chunk, rest) = bytes.split_at(chunker.cut(bytes));
            chunks.push(chunk);
            bytes = rest;
        }
        chunks
    }

    fn lengths(seed: u64, bytes: &[u8]) -> Vec<usize> {
        chunks(&Chunker::new(seed), bytes).iter().map(|chunk| chunk.len()).collect()
    }

    /// The lengths that come out when the file is read in pieces of the given sizes.
    fn lengths_streamed(seed: u64, mut file: &[u8], reads: &[usize]) -> Vec<usize> {
        let chunker = Chunker::new(seed);
        let (mut buffer, mut lengths) = (Vec::new(), Vec::new());
        let mut reads = reads.iter().cycle();
        loop {
            let (read, rest) = file.split_at(file.len().min(*reads.next().unwrap()));
            buffer.extend_from_slice(read);
            file = rest;
            while let Some(length) = chunker.cut_some(&buffer, file.is_empty()) {
                lengths.push(length);
                buffer.drain(..length);
            }
            if file.is_empty() {
                return lengths;
            }
        }
    }

    #[test]
    fn nothing_is_cut_from_nothing() {
        assert_eq!(Chunker::new(1).cut(&[]), 0);
        assert_eq!(Chunker::new(1).cut_some(&[], true), None);
        assert_eq!(Chunker::new(0).cut(&[7]), 1);
    }

    #[test]
    fn the_cuts_of_known_bytes_stay_where_they_are() {
        let bytes = noise(0, 8 * MIB);
        assert_eq!(lengths(0x0123_4567_89ab_cdef, &bytes), GOLDEN_LENGTHS);
    }

    const GOLDEN_LENGTHS: &[usize] =
        &[473164, 1089094, 1061222, 511950, 1071265, 1300521, 1569135, 566418, 745839];

    #[test]
    fn bytes_that_never_match_are_cut_at_the_maximum() {
        assert_eq!(lengths(3, &vec![0; 9 * MIB]), [CHUNK_BYTES_MAX, CHUNK_BYTES_MAX, MIB]);
    }

    #[test]
    fn most_chunks_are_near_the_usual_length() {
        let lengths = lengths(5, &noise(5, 64 * MIB));
        let mean = 64 * MIB / lengths.len();
        assert!((MIB * 3 / 4..MIB * 3 / 2).contains(&mean), "mean {mean}");
        assert!(lengths.iter().filter(|&&length| length == CHUNK_BYTES_MAX).count() <= 1);
    }

    #[test]
    fn an_insertion_changes_only_the_chunks_around_it() {
        let before = noise(7, 32 * MIB);
        let mut after = before.clone();
        after.splice(16 * MIB..16 * MIB, *b"a few bytes more");
        let chunker = Chunker::new(7);
        let known: HashSet<&[u8]> = chunks(&chunker, &before).into_iter().collect();
        let new = chunks(&chunker, &after).iter().filter(|chunk| !known.contains(*chunk)).count();
        assert!((1..=3).contains(&new), "{new} new chunks");
    }

    #[test]
    fn another_seed_cuts_elsewhere() {
        let bytes = noise(9, 16 * MIB);
        let ends = |seed| -> HashSet<usize> {
            let sum = |end: &mut usize, length| {
                *end += length;
                Some(*end)
            };
            lengths(seed, &bytes).into_iter().scan(0, sum).collect()
        };
        assert_eq!(ends(1).intersection(&ends(2)).count(), 1, "only the end of the file is shared");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn cuts_are_within_bounds_and_lose_nothing(seed: u64, bytes in 0..12 * MIB) {
            let file = noise(seed, bytes);
            let chunks = chunks(&Chunker::new(seed), &file);
            prop_assert!(chunks.concat() == file);
            if let Some((last, others)) = chunks.split_last() {
                prop_assert!(last.len() <= CHUNK_BYTES_MAX);
                for chunk in others {
                    prop_assert!((CHUNK_BYTES_MIN..=CHUNK_BYTES_MAX).contains(&chunk.len()));
                }
            }
        }

        #[test]
        fn cuts_are_those_of_fastcdc(
            seed: u64,
            bytes in 0..6 * MIB,
            same in 0..2 * MIB,
            alphabet in prop::sample::select(vec![1, 2, 3, 16, 255]),
        ) {
            // Noise, then bytes of few kinds, whose hashes match often or never.
            let mut file = noise(seed, bytes);
            file.iter_mut().skip(same).for_each(|byte| *byte %= alphabet);
            let (gear, gear_shifted) = get_gear_with_seed(seed);
            let (strict, loose) = select_masks(CHUNK_BYTES_AVG, Normalization::Level2);
            let chunker = Chunker::new(seed);
            let mut rest = &file[..];
            while !rest.is_empty() {
                let (_, expected) = cut_gear(
                    rest, CHUNK_BYTES_MIN, CHUNK_BYTES_AVG, CHUNK_BYTES_MAX,
                    strict, loose, strict << 1, loose << 1, &gear, &gear_shifted,
                );
                prop_assert_eq!(chunker.cut(rest), expected);
                rest = &rest[expected..];
            }
        }

        #[test]
        fn cuts_do_not_depend_on_how_the_file_is_read(
            seed: u64,
            bytes in 0..12 * MIB,
            reads in prop::collection::vec(64 * 1024..6 * MIB, 1..8),
        ) {
            let file = noise(seed, bytes);
            prop_assert_eq!(lengths_streamed(seed, &file, &reads), lengths(seed, &file));
        }
    }
}

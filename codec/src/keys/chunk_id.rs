//! Chunk ids: HMAC-SHA-256. One hash waits for its own last step most of the time, so two
//! chunks are hashed in turns where the processor has SHA instructions.

use sha2::block_api::compress256;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::ChunkId;

#[cfg(target_arch = "x86_64")]
mod pair;

const BLOCK_BYTES: usize = 64;

/// What SHA-256 knows after some whole blocks.
type State = [u32; 8];
type Block = [u8; BLOCK_BYTES];

/// The state before the first block (FIPS 180-4, 5.3.3).
const INITIAL: State = [
    0x6a09_e667,
    0xbb67_ae85,
    0x3c6e_f372,
    0xa54f_f53a,
    0x510e_527f,
    0x9b05_688c,
    0x1f83_d9ab,
    0x5be0_cd19,
];

/// HMAC-SHA-256 with both padded keys hashed once, not per chunk.
#[derive(Zeroize, ZeroizeOnDrop)]
pub(super) struct ChunkIdKey {
    inner: State,
    outer: State,
}

impl ChunkIdKey {
    pub(super) fn new(key: &[u8; 32]) -> Self {
        let padded = |pad: u8| {
            let mut block: Zeroizing<Block> = Zeroizing::new([pad; BLOCK_BYTES]);
            block.iter_mut().zip(key).for_each(|(byte, key)| *byte ^= key);
            let mut state = INITIAL;
            compress256(&mut state, &[*block]);
            state
        };
        Self { inner: padded(0x36), outer: padded(0x5c) }
    }

    pub(super) fn of(&self, chunk: &[u8]) -> ChunkId {
        let (blocks, rest) = chunk.as_chunks();
        let mut state = self.inner;
        compress256(&mut state, blocks);
        self.finish(state, rest, chunk.len())
    }

    /// The ids of two chunks, in little more than half the time where they are of about one length.
    pub(super) fn of_two(&self, chunks: [&[u8]; 2]) -> [ChunkId; 2] {
        let [(first, first_rest), (second, second_rest)] = chunks.map(|chunk| chunk.as_chunks());
        let both = first.len().min(second.len());
        let mut states = [self.inner; 2];
        compress_two(&mut states, [&first[..both], &second[..both]]);
        let [first_state, second_state] = &mut states;
        compress256(first_state, &first[both..]);
        compress256(second_state, &second[both..]);
        [
            self.finish(states[0], first_rest, chunks[0].len()),
            self.finish(states[1], second_rest, chunks[1].len()),
        ]
    }

    /// Ends the inner hash, whose `rest` is less than a block, and makes the outer one.
    fn finish(&self, inner: State, rest: &[u8], chunk_bytes: usize) -> ChunkId {
        let hashed = digest(inner, rest, BLOCK_BYTES + chunk_bytes);
        ChunkId(digest(self.outer, &hashed, BLOCK_BYTES + hashed.len()))
    }
}

/// The hash of what `state` has seen and of `rest`, less than a block: `bytes` in all.
fn digest(mut state: State, rest: &[u8], bytes: usize) -> [u8; 32] {
    let mut end = [0; 2 * BLOCK_BYTES];
    end[..rest.len()].copy_from_slice(rest);
    end[rest.len()] = 0x80;
    // The mark and the length take nine bytes.
    let end_bytes = if rest.len() + 9 <= BLOCK_BYTES { BLOCK_BYTES } else { 2 * BLOCK_BYTES };
    end[end_bytes - 8..end_bytes].copy_from_slice(&(bytes as u64 * 8).to_be_bytes());
    compress256(&mut state, end[..end_bytes].as_chunks().0);
    let mut hash = [0; 32];
    for (bytes, word) in hash.chunks_exact_mut(4).zip(state) {
        bytes.copy_from_slice(&word.to_be_bytes());
    }
    hash
}

/// Takes equally many blocks into each of two states.
fn compress_two(states: &mut [State; 2], blocks: [&[Block]; 2]) {
    #[cfg(target_arch = "x86_64")]
    if pair::is_available() {
        return pair::compress(states, blocks);
    }
    for (state, blocks) in states.iter_mut().zip(blocks) {
        compress256(state, blocks);
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::hmac;
    use proptest::prelude::*;

    use super::*;

    fn noise(bytes: usize, seed: u64) -> Vec<u8> {
        let mut out = vec![0; bytes];
        blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut out);
        out
    }

    fn expected(key: &[u8; 32], chunk: &[u8]) -> Vec<u8> {
        hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), chunk).as_ref().to_vec()
    }

    #[test]
    fn ids_are_hmac_sha_256_at_every_length_around_a_block() {
        let key = ChunkIdKey::new(&[7; 32]);
        for bytes in 0..300 {
            let (a, b) = (noise(bytes, 1), noise(299 - bytes, 2));
            let ids = key.of_two([&a, &b]);
            assert_eq!(ids, [key.of(&a), key.of(&b)], "{bytes}");
            assert_eq!(ids[0].0[..], expected(&[7; 32], &a), "{bytes}");
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    #[allow(clippy::print_stderr)]
    fn two_at_once_give_what_each_gives_alone() {
        if !pair::is_available() {
            eprintln!("skipped: this processor has no SHA instructions");
            return;
        }
        let (a, b) = (noise(64 * 33, 3), noise(64 * 33, 4));
        let (a, b) = (a.as_chunks().0, b.as_chunks().0);
        for count in [0, 1, 2, 33] {
            let mut states = [INITIAL, [1, 2, 3, 4, 5, 6, 7, u32::MAX]];
            let mut alone = states;
            pair::compress(&mut states, [&a[..count], &b[..count]]);
            compress256(&mut alone[0], &a[..count]);
            compress256(&mut alone[1], &b[..count]);
            assert_eq!(states, alone, "{count} blocks");
        }
    }

    proptest! {
        #[test]
        fn pairs_of_any_lengths_get_their_own_ids(
            key: [u8; 32], seed: u64, a in 0..20_000usize, b in 0..20_000usize,
        ) {
            let (a, b) = (noise(a, seed), noise(b, !seed));
            let [first, second] = ChunkIdKey::new(&key).of_two([&a, &b]);
            prop_assert_eq!(first.0.to_vec(), expected(&key, &a));
            prop_assert_eq!(second.0.to_vec(), expected(&key, &b));
        }
    }
}

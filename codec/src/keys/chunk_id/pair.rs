//! Two SHA-256 in turns with the SHA instructions of x86-64: while the rounds of one wait for each
//! other, those of the other run.

#![allow(unsafe_code)]
#![warn(clippy::undocumented_unsafe_blocks)]

use std::arch::x86_64::{
    __m128i, _mm_add_epi32, _mm_alignr_epi8, _mm_blend_epi16, _mm_loadu_si128, _mm_set_epi64x,
    _mm_sha256msg1_epu32, _mm_sha256msg2_epu32, _mm_sha256rnds2_epu32, _mm_shuffle_epi8,
    _mm_shuffle_epi32, _mm_storeu_si128,
};

use super::{BLOCK_BYTES, Block, State};

/// The constants of the 64 rounds (FIPS 180-4, 4.2.2).
#[rustfmt::skip]
static ROUNDS: [u32; 64] = [
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
];

pub(super) fn is_available() -> bool {
    is_x86_feature_detected!("sha")
        && is_x86_feature_detected!("sse4.1")
        && is_x86_feature_detected!("ssse3")
}

/// Takes equally many blocks into each of two states.
pub(super) fn compress(states: &mut [State; 2], blocks: [&[Block]; 2]) {
    assert!(is_available(), "a processor with SHA instructions");
    // SAFETY: the processor has what the function is compiled for.
    unsafe { compress_blocks(states, blocks) }
}

#[target_feature(enable = "sha,sse4.1,ssse3")]
fn compress_blocks(states: &mut [State; 2], blocks: [&[Block]; 2]) {
    let [first, second] = states;
    let mut lanes = [Lane::load(first), Lane::load(second)];
    for (a, b) in blocks[0].iter().zip(blocks[1]) {
        let before = lanes;
        let mut words = [load_block(a), load_block(b)];
        for four in 0..16 {
            let constants = load(&ROUNDS[4 * four..]);
            for (lane, words) in lanes.iter_mut().zip(&mut words) {
                lane.rounds(_mm_add_epi32(words[0], constants));
                // For the rounds 16 on, where there are any.
                let next = if four < 12 { schedule(words) } else { words[0] };
                *words = [words[1], words[2], words[3], next];
            }
        }
        for (lane, before) in lanes.iter_mut().zip(before) {
            lane.abef = _mm_add_epi32(lane.abef, before.abef);
            lane.cdgh = _mm_add_epi32(lane.cdgh, before.cdgh);
        }
    }
    lanes[0].store(first);
    lanes[1].store(second);
}

/// A state as the instructions want it.
#[derive(Clone, Copy)]
struct Lane {
    abef: __m128i,
    cdgh: __m128i,
}

impl Lane {
    #[inline]
    #[target_feature(enable = "sha,sse4.1,ssse3")]
    fn load(state: &State) -> Self {
        let cdab = _mm_shuffle_epi32::<0xB1>(load(&state[..4]));
        let efgh = _mm_shuffle_epi32::<0x1B>(load(&state[4..]));
        let abef = _mm_alignr_epi8::<8>(cdab, efgh);
        Self { abef, cdgh: _mm_blend_epi16::<0xF0>(efgh, cdab) }
    }

    #[inline]
    #[target_feature(enable = "sha,sse4.1,ssse3")]
    fn store(self, state: &mut State) {
        let feba = _mm_shuffle_epi32::<0x1B>(self.abef);
        let dchg = _mm_shuffle_epi32::<0xB1>(self.cdgh);
        let dcba = _mm_blend_epi16::<0xF0>(feba, dchg);
        let hgfe = _mm_alignr_epi8::<8>(dchg, feba);
        let (low, high) = state.split_at_mut(4);
        for (half, words) in [(low, dcba), (high, hgfe)] {
            assert_eq!(half.len(), 4);
            // SAFETY: four words of four bytes are there, and the store needs no alignment.
            unsafe { _mm_storeu_si128(half.as_mut_ptr().cast(), words) };
        }
    }

    /// Four rounds, with the sums of words and constants.
    #[inline]
    #[target_feature(enable = "sha,sse4.1,ssse3")]
    fn rounds(&mut self, sums: __m128i) {
        self.cdgh = _mm_sha256rnds2_epu32(self.cdgh, self.abef, sums);
        self.abef = _mm_sha256rnds2_epu32(self.abef, self.cdgh, _mm_shuffle_epi32::<0x0E>(sums));
    }
}

/// The next four words of the message schedule, out of the last sixteen.
#[inline]
#[target_feature(enable = "sha,sse4.1,ssse3")]
fn schedule(words: &[__m128i; 4]) -> __m128i {
    let sum = _mm_add_epi32(
        _mm_sha256msg1_epu32(words[0], words[1]),
        _mm_alignr_epi8::<4>(words[3], words[2]),
    );
    _mm_sha256msg2_epu32(sum, words[3])
}

#[inline]
#[target_feature(enable = "sha,sse4.1,ssse3")]
fn load_block(block: &Block) -> [__m128i; 4] {
    let big_endian = _mm_set_epi64x(0x0C0D_0E0F_0809_0A0B, 0x0405_0607_0001_0203);
    let word = |at: usize| {
        assert!(at + 16 <= BLOCK_BYTES);
        // SAFETY: sixteen bytes are there from `at` on, and the load needs no alignment.
        let words = unsafe { _mm_loadu_si128(block.as_ptr().add(at).cast()) };
        _mm_shuffle_epi8(words, big_endian)
    };
    [word(0), word(16), word(32), word(48)]
}

#[inline]
#[target_feature(enable = "sha,sse4.1,ssse3")]
fn load(words: &[u32]) -> __m128i {
    assert!(words.len() >= 4);
    // SAFETY: four words of four bytes are there, and the load needs no alignment.
    unsafe { _mm_loadu_si128(words.as_ptr().cast()) }
}

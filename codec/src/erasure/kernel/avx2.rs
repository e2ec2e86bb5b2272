//! AVX2: the product of a byte is the sum of the products of its two halves, and PSHUFB looks 32
//! halves up at once in a table of 16.

#![allow(unsafe_code)]
#![warn(clippy::undocumented_unsafe_blocks)]

use std::arch::x86_64::{
    __m256i, _mm_loadu_si128, _mm256_and_si256, _mm256_broadcastsi128_si256, _mm256_loadu_si256,
    _mm256_set1_epi8, _mm256_setzero_si256, _mm256_shuffle_epi8, _mm256_srli_epi64,
    _mm256_storeu_si256, _mm256_xor_si256,
};
use std::ops::Range;

use super::tables::{HALVES, Halves};
use super::{PIECE_BYTES, Sum, portable};

const LANE_BYTES: usize = 32;
/// Outputs of one pass, and lanes that are worked on at once: 16 registers have no room for more.
const ROWS: usize = 4;
const LANES: usize = 2;
const STEP_BYTES: usize = LANES * LANE_BYTES;
const _: () = assert!(PIECE_BYTES.is_multiple_of(STEP_BYTES));

pub(super) fn is_available() -> bool {
    is_x86_feature_detected!("avx2")
}

pub(super) fn combine(mut sum: Sum<'_, '_>) {
    assert!(is_available(), "a processor with AVX2");
    let whole = sum.bytes / STEP_BYTES * STEP_BYTES;
    let tail = whole..sum.bytes;
    portable::fill(&mut sum, tail);
    sum.bytes = whole;
    sum.passes(ROWS, &HALVES, |halves, inputs, outputs, bytes| {
        // SAFETY: the processor has the feature, as asserted. A Sum has inputs and outputs of one
        // length and gives ranges within it.
        unsafe {
            match outputs.len() {
                1 => pass::<1>(halves, inputs, outputs, bytes),
                2 => pass::<2>(halves, inputs, outputs, bytes),
                3 => pass::<3>(halves, inputs, outputs, bytes),
                _ => pass::<ROWS>(halves, inputs, outputs, bytes),
            }
        }
    });
}

/// Fills `bytes` of R outputs, but for what is left of the last step.
///
/// # Safety
/// All slices of `inputs` and `outputs` must have `bytes`.
#[target_feature(enable = "avx2")]
unsafe fn pass<const R: usize>(
    halves: &[Halves],
    inputs: &[&[u8]],
    outputs: &mut [&mut [u8]],
    bytes: Range<usize>,
) {
    let (halves, _) = halves.as_chunks::<R>();
    for step in 0..bytes.len() / STEP_BYTES {
        let at = bytes.start + step * STEP_BYTES;
        let mut sums = [[_mm256_setzero_si256(); LANES]; R];
        for (input, halves) in inputs.iter().zip(halves) {
            let mut factors = [_mm256_setzero_si256(); LANES];
            for (lane, factor) in factors.iter_mut().enumerate() {
                // SAFETY: the step from `at` on is in `bytes`, which all inputs have.
                *factor = unsafe {
                    _mm256_loadu_si256(input.as_ptr().add(at + lane * LANE_BYTES).cast())
                };
            }
            for (sums, halves) in sums.iter_mut().zip(halves) {
                for (sum, factor) in sums.iter_mut().zip(factors) {
                    *sum = plus_product(*sum, factor, halves);
                }
            }
        }
        for (output, sums) in outputs.iter_mut().zip(sums) {
            for (lane, sum) in sums.into_iter().enumerate() {
                // SAFETY: the step from `at` on is in `bytes`, which all outputs have.
                unsafe {
                    _mm256_storeu_si256(output.as_mut_ptr().add(at + lane * LANE_BYTES).cast(), sum)
                };
            }
        }
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn plus_product(sum: __m256i, factor: __m256i, [lower, upper]: &Halves) -> __m256i {
    let half = _mm256_set1_epi8(0x0F);
    let lower = _mm256_shuffle_epi8(table(lower), _mm256_and_si256(factor, half));
    let factor = _mm256_srli_epi64::<4>(factor);
    let upper = _mm256_shuffle_epi8(table(upper), _mm256_and_si256(factor, half));
    _mm256_xor_si256(sum, _mm256_xor_si256(lower, upper))
}

/// The same 16 bytes twice, since PSHUFB looks up within 128 bits.
#[inline]
#[target_feature(enable = "avx2")]
fn table(half: &[u8; 16]) -> __m256i {
    // SAFETY: these are 16 bytes.
    _mm256_broadcastsi128_si256(unsafe { _mm_loadu_si128(half.as_ptr().cast()) })
}

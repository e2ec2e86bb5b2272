//! GFNI with AVX-512: to multiply by a constant is linear in the bits of a byte, and GF2P8AFFINEQB
//! multiplies 64 bytes by a matrix of 8 by 8 bits.

#![allow(unsafe_code)]
#![warn(clippy::undocumented_unsafe_blocks)]

use std::arch::x86_64::{
    __m512i, _mm512_gf2p8affine_epi64_epi8, _mm512_loadu_si512, _mm512_mask_storeu_epi8,
    _mm512_maskz_loadu_epi8, _mm512_set1_epi64, _mm512_setzero_si512, _mm512_storeu_si512,
    _mm512_xor_si512,
};
use std::ops::Range;

use super::Sum;
use super::tables::product;

const LANE_BYTES: usize = 64;
/// Outputs of one pass, and lanes that are worked on at once: 16 sums, 4 inputs and a matrix take
/// 21 of 32 registers.
const ROWS: usize = 4;
const LANES: usize = 4;
/// Inputs of one pass: of more streams the processor does not fetch all lines in time (measured on
/// data that is not in cache).
const INPUTS: usize = 8;

static MATRICES: [u64; 256] = {
    let mut matrices = [0; 256];
    let mut constant = 0;
    while constant < 256 {
        matrices[constant] = matrix(constant as u8);
        constant += 1;
    }
    matrices
};

/// The matrix of `constant`: bit j of byte 7 - i says whether bit j of a factor flips bit i of
/// the product.
const fn matrix(constant: u8) -> u64 {
    let (mut matrix, mut bit) = (0, 0);
    while bit < 64 {
        let (i, j) = (7 - bit / 8, bit % 8);
        let flips = product(constant, 1 << j) >> i & 1;
        matrix |= (flips as u64) << bit;
        bit += 1;
    }
    matrix
}

pub(super) fn is_available() -> bool {
    is_x86_feature_detected!("gfni")
        && is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
}

pub(super) fn combine(sum: Sum<'_, '_>) {
    assert!(is_available(), "a processor with GFNI and AVX-512");
    sum.passes(ROWS, &MATRICES, |matrices, inputs, outputs, bytes| {
        let group = inputs.len().div_ceil(inputs.len().div_ceil(INPUTS));
        let groups = inputs.chunks(group).zip(matrices.chunks(group * outputs.len()));
        for (number, (inputs, matrices)) in groups.enumerate() {
            let (bytes, add) = (bytes.clone(), number > 0);
            // SAFETY: the processor has the features, as asserted. A Sum has inputs and outputs of
            // one length and gives ranges within it.
            unsafe {
                match outputs.len() {
                    1 => pass::<1>(matrices, inputs, outputs, bytes, add),
                    2 => pass::<2>(matrices, inputs, outputs, bytes, add),
                    3 => pass::<3>(matrices, inputs, outputs, bytes, add),
                    _ => pass::<ROWS>(matrices, inputs, outputs, bytes, add),
                }
            }
        }
    });
}

/// Fills `bytes` of R outputs, or adds to what is there.
///
/// # Safety
/// All slices of `inputs` and `outputs` must have `bytes`.
#[target_feature(enable = "gfni,avx512f,avx512bw")]
unsafe fn pass<const R: usize>(
    matrices: &[u64],
    inputs: &[&[u8]],
    outputs: &mut [&mut [u8]],
    bytes: Range<usize>,
    add: bool,
) {
    let (matrices, _) = matrices.as_chunks::<R>();
    let mut at = bytes.start;
    while bytes.end - at >= LANES * LANE_BYTES {
        let mut sums = [[_mm512_setzero_si512(); LANES]; R];
        if add {
            for (output, sums) in outputs.iter().zip(&mut sums) {
                for (lane, sum) in sums.iter_mut().enumerate() {
                    // SAFETY: LANES lanes from `at` on are in `bytes`, which all outputs have.
                    *sum = unsafe {
                        _mm512_loadu_si512(output.as_ptr().add(at + lane * LANE_BYTES).cast())
                    };
                }
            }
        }
        for (input, matrices) in inputs.iter().zip(matrices) {
            let mut factors = [_mm512_setzero_si512(); LANES];
            for (lane, factor) in factors.iter_mut().enumerate() {
                // SAFETY: LANES lanes from `at` on are in `bytes`, which all inputs have.
                *factor = unsafe {
                    _mm512_loadu_si512(input.as_ptr().add(at + lane * LANE_BYTES).cast())
                };
            }
            for (sums, &matrix) in sums.iter_mut().zip(matrices) {
                for (sum, factor) in sums.iter_mut().zip(factors) {
                    *sum = plus_product(*sum, factor, matrix);
                }
            }
        }
        for (output, sums) in outputs.iter_mut().zip(sums) {
            for (lane, sum) in sums.into_iter().enumerate() {
                // SAFETY: LANES lanes from `at` on are in `bytes`, which all outputs have.
                unsafe {
                    _mm512_storeu_si512(
                        output.as_mut_ptr().add(at + lane * LANE_BYTES).cast(),
                        sum,
                    );
                }
            }
        }
        at += LANES * LANE_BYTES;
    }
    while at < bytes.end {
        let left = LANE_BYTES.min(bytes.end - at);
        let mask = u64::MAX >> (LANE_BYTES - left);
        let mut sums = [_mm512_setzero_si512(); R];
        if add {
            for (output, sum) in outputs.iter().zip(&mut sums) {
                // SAFETY: the mask has the `left` bytes from `at` on, which all outputs have.
                *sum = unsafe { _mm512_maskz_loadu_epi8(mask, output.as_ptr().add(at).cast()) };
            }
        }
        for (input, matrices) in inputs.iter().zip(matrices) {
            // SAFETY: the mask has the `left` bytes from `at` on, which all inputs have.
            let factor = unsafe { _mm512_maskz_loadu_epi8(mask, input.as_ptr().add(at).cast()) };
            for (sum, &matrix) in sums.iter_mut().zip(matrices) {
                *sum = plus_product(*sum, factor, matrix);
            }
        }
        for (output, sum) in outputs.iter_mut().zip(sums) {
            // SAFETY: the mask has the `left` bytes from `at` on, which all outputs have.
            unsafe { _mm512_mask_storeu_epi8(output.as_mut_ptr().add(at).cast(), mask, sum) };
        }
        at += left;
    }
}

#[inline]
#[target_feature(enable = "gfni,avx512f,avx512bw")]
fn plus_product(sum: __m512i, factor: __m512i, matrix: u64) -> __m512i {
    let matrix = _mm512_set1_epi64(matrix.cast_signed());
    _mm512_xor_si512(sum, _mm512_gf2p8affine_epi64_epi8::<0>(factor, matrix))
}

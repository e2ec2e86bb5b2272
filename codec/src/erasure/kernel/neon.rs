//! NEON, on every 64-bit ARM: like AVX2, with TBL on 16 bytes.

#![allow(unsafe_code)]
#![warn(clippy::undocumented_unsafe_blocks)]

use std::arch::aarch64::{
    uint8x16_t, vandq_u8, vdupq_n_u8, veorq_u8, vld1q_u8, vqtbl1q_u8, vshrq_n_u8, vst1q_u8,
};
use std::ops::Range;

use super::tables::{HALVES, Halves};
use super::{PIECE_BYTES, Sum, portable};

const LANE_BYTES: usize = 16;
/// Outputs of one pass, and lanes that are worked on at once: 16 sums, 4 inputs and two tables take
/// 22 of 32 registers.
const ROWS: usize = 4;
const LANES: usize = 4;
const STEP_BYTES: usize = LANES * LANE_BYTES;
const _: () = assert!(PIECE_BYTES.is_multiple_of(STEP_BYTES));

pub(super) fn is_available() -> bool {
    std::arch::is_aarch64_feature_detected!("neon")
}

pub(super) fn combine(mut sum: Sum<'_, '_>) {
    assert!(is_available(), "a processor with NEON");
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
#[target_feature(enable = "neon")]
unsafe fn pass<const R: usize>(
    halves: &[Halves],
    inputs: &[&[u8]],
    outputs: &mut [&mut [u8]],
    bytes: Range<usize>,
) {
    let (halves, _) = halves.as_chunks::<R>();
    for step in 0..bytes.len() / STEP_BYTES {
        let at = bytes.start + step * STEP_BYTES;
        let mut sums = [[vdupq_n_u8(0); LANES]; R];
        for (input, halves) in inputs.iter().zip(halves) {
            let mut factors = [vdupq_n_u8(0); LANES];
            for (lane, factor) in factors.iter_mut().enumerate() {
                // SAFETY: the step from `at` on is in `bytes`, which all inputs have.
                *factor = unsafe { vld1q_u8(input.as_ptr().add(at + lane * LANE_BYTES)) };
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
                unsafe { vst1q_u8(output.as_mut_ptr().add(at + lane * LANE_BYTES), sum) };
            }
        }
    }
}

#[inline]
#[target_feature(enable = "neon")]
fn plus_product(sum: uint8x16_t, factor: uint8x16_t, [lower, upper]: &Halves) -> uint8x16_t {
    let lower = vqtbl1q_u8(table(lower), vandq_u8(factor, vdupq_n_u8(0x0F)));
    let upper = vqtbl1q_u8(table(upper), vshrq_n_u8::<4>(factor));
    veorq_u8(sum, veorq_u8(lower, upper))
}

#[inline]
#[target_feature(enable = "neon")]
fn table(half: &[u8; 16]) -> uint8x16_t {
    // SAFETY: these are 16 bytes.
    unsafe { vld1q_u8(half.as_ptr()) }
}

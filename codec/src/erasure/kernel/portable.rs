//! Any processor: reed-solomon-erasure's own products, a piece that stays in cache at a time.

use std::ops::Range;

use reed_solomon_erasure::galois_8;

use super::{PIECE_BYTES, Sum};

pub(super) fn combine(mut sum: Sum<'_, '_>) {
    let all = 0..sum.bytes;
    fill(&mut sum, all);
}

/// Fills only `bytes` of the outputs.
pub(super) fn fill(sum: &mut Sum<'_, '_>, bytes: Range<usize>) {
    for start in bytes.clone().step_by(PIECE_BYTES) {
        let piece = start..bytes.end.min(start + PIECE_BYTES);
        for (row, output) in sum.rows.iter().zip(sum.outputs.iter_mut()) {
            let output = &mut output[piece.clone()];
            output.fill(0);
            for (&coefficient, input) in row.iter().zip(sum.inputs) {
                galois_8::mul_slice_xor(coefficient, &input[piece.clone()], output);
            }
        }
    }
}

//! Linear combinations of bodies over GF(2^8) with the polynomial 0x11D: the outputs of a pass are
//! summed up in registers, so that what is not in cache is read and written once.
//!
//! The levels give the same bytes; which of them runs is decided by the processor, at run time.
//! `unsafe` stands in their files alone.

use std::ops::Range;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod gfni;
#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod tables;

/// Where the outputs take more than one pass, inputs are worked on in pieces of this many bytes,
/// which stay in the cache from one pass to the next.
const PIECE_BYTES: usize = 16 * 1024;

/// How products are computed. All levels give the same bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Tables of reed-solomon-erasure, byte by byte, on any processor.
    Portable,
    /// Tables of half a byte in registers, 32 bytes at once.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// Tables of half a byte in registers, 16 bytes at once.
    #[cfg(target_arch = "aarch64")]
    Neon,
    /// Matrices of 8 by 8 bits, 64 bytes at once: GFNI with AVX-512.
    #[cfg(target_arch = "x86_64")]
    Gfni,
}

impl Level {
    /// All levels of this architecture, the slowest first.
    pub const ALL: &[Self] = &[
        Self::Portable,
        #[cfg(target_arch = "x86_64")]
        Self::Avx2,
        #[cfg(target_arch = "x86_64")]
        Self::Gfni,
        #[cfg(target_arch = "aarch64")]
        Self::Neon,
    ];

    /// Whether this processor has it.
    pub fn is_available(self) -> bool {
        match self {
            Self::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => avx2::is_available(),
            #[cfg(target_arch = "x86_64")]
            Self::Gfni => gfni::is_available(),
            #[cfg(target_arch = "aarch64")]
            Self::Neon => neon::is_available(),
        }
    }

    /// The fastest that this processor has.
    pub fn best() -> Self {
        let available = |level: &Self| level.is_available();
        Self::ALL.iter().copied().rfind(available).unwrap_or(Self::Portable)
    }
}

/// Sets each of `outputs` to the sum of all `inputs`, each times its coefficient in that output's
/// row.
///
/// # Panics
/// When rows and outputs, or coefficients and inputs, are not equally many, when the slices are not
/// of one length, and when the processor has not got `level`.
pub(super) fn combine(level: Level, rows: &[Vec<u8>], inputs: &[&[u8]], outputs: &mut [&mut [u8]]) {
    let sum = Sum::new(rows, inputs, outputs);
    match level {
        Level::Portable => portable::combine(sum),
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => avx2::combine(sum),
        #[cfg(target_arch = "x86_64")]
        Level::Gfni => gfni::combine(sum),
        #[cfg(target_arch = "aarch64")]
        Level::Neon => neon::combine(sum),
    }
}

/// What [`combine`] is asked for. Having one means that counts and lengths agree, which the levels
/// rely on when they read and write without further checks.
struct Sum<'a, 'b> {
    rows: &'a [Vec<u8>],
    inputs: &'a [&'a [u8]],
    outputs: &'a mut [&'b mut [u8]],
    bytes: usize,
}

impl<'a, 'b> Sum<'a, 'b> {
    fn new(rows: &'a [Vec<u8>], inputs: &'a [&'a [u8]], outputs: &'a mut [&'b mut [u8]]) -> Self {
        let bytes = inputs.first().map_or(0, |input| input.len());
        assert_eq!(rows.len(), outputs.len(), "a row for each output");
        assert!(rows.iter().all(|row| row.len() == inputs.len()), "a coefficient for each input");
        assert!(inputs.iter().all(|input| input.len() == bytes), "inputs of one length");
        assert!(outputs.iter().all(|output| output.len() == bytes), "outputs as long as inputs");
        Self { rows, inputs, outputs, bytes }
    }

    /// Calls `pass` for at most `max` outputs at a time, with what `table` has for their
    /// coefficients (those of the first input, then of the second, …), the outputs and the bytes
    /// that it shall fill.
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    fn passes<T: Copy>(
        self,
        max: usize,
        table: &[T; 256],
        mut pass: impl FnMut(&[T], &[&[u8]], &mut [&mut [u8]], Range<usize>),
    ) {
        let Self { rows, inputs, outputs, bytes } = self;
        let of_group = |rows: &[Vec<u8>]| -> Vec<T> {
            let at = |input: usize| rows.iter().map(move |row| table[usize::from(row[input])]);
            (0..inputs.len()).flat_map(at).collect()
        };
        let tables: Vec<Vec<T>> = rows.chunks(max).map(of_group).collect();
        let step = if tables.len() > 1 { PIECE_BYTES } else { bytes.max(1) };
        for start in (0..bytes).step_by(step) {
            for (table, outputs) in tables.iter().zip(outputs.chunks_mut(max)) {
                pass(table, inputs, outputs, start..bytes.min(start + step));
            }
        }
    }
}

#[cfg(test)]
mod tests;

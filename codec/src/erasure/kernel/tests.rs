//! Every level of this machine beside reed-solomon-erasure.

use proptest::prelude::*;
use reed_solomon_erasure::galois_8::{self, ReedSolomon};

use super::*;
use crate::erasure::Code;
use crate::{Geometry, digest::BLOCK_BYTES};

fn levels() -> impl Iterator<Item = Level> {
    Level::ALL.iter().copied().filter(|level| level.is_available())
}

/// Bytes without a pattern, the same for the same seed.
fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (state ^ state >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        ((mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB) >> 56) as u8
    };
    (0..bytes).map(|_| next()).collect()
}

/// `count` rooms that begin at different offsets from an alignment, with guard bytes around the
/// `bytes` in the middle of each.
fn rooms(count: usize, bytes: usize, seed: u64) -> Vec<(Vec<u8>, Range<usize>)> {
    (0..count)
        .map(|i| {
            let before = 64 + (seed as usize + i * 7) % 64;
            (noise(seed ^ (i as u64) << 32, before + bytes + 64), before..before + bytes)
        })
        .collect()
}

/// Compares a sum at `level` with one product at a time by the crate, guard bytes included.
fn check(level: Level, outputs: usize, inputs: usize, bytes: usize, seed: u64) {
    let coefficients = noise(!seed, outputs * inputs);
    let rows: Vec<Vec<u8>> = coefficients.chunks(inputs).map(<[u8]>::to_vec).collect();
    let sources = rooms(inputs, bytes, seed);
    let mut made = rooms(outputs, bytes, seed + 1);
    let mut expected = made.clone();
    for ((room, at), row) in expected.iter_mut().zip(&rows) {
        room[at.clone()].fill(0);
        for (&coefficient, (source, from)) in row.iter().zip(&sources) {
            galois_8::mul_slice_xor(coefficient, &source[from.clone()], &mut room[at.clone()]);
        }
    }

    let sources: Vec<&[u8]> = sources.iter().map(|(room, at)| &room[at.clone()]).collect();
    let mut outputs: Vec<&mut [u8]> =
        made.iter_mut().map(|(room, at)| &mut room[at.clone()]).collect();
    combine(level, &rows, &sources, &mut outputs);
    assert!(made == expected, "{level:?}: {} x {inputs}, {bytes} bytes, seed {seed}", rows.len());
}

/// The crate's n bodies of `data`.
fn stripe_of_the_crate(crates: &ReedSolomon, data: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut parity = vec![vec![0; data[0].len()]; crates.parity_shard_count()];
    crates.encode_sep(data, &mut parity).unwrap();
    data.iter().cloned().chain(parity).collect()
}

/// Codes, loses, decodes and rebuilds at every level, beside the crate.
fn check_code(k: u8, m: u8, bytes: usize, lost: &[usize], seed: u64) {
    let geometry = Geometry::new(k, m).unwrap();
    let crates = ReedSolomon::new(k.into(), m.into()).unwrap();
    let data: Vec<Vec<u8>> = (0..u64::from(k)).map(|i| noise(seed ^ i << 32, bytes)).collect();
    let whole = stripe_of_the_crate(&crates, &data);
    let mut left: Vec<Option<Vec<u8>>> = whole.iter().cloned().map(Some).collect();
    lost.iter().for_each(|&index| left[index] = None);

    for level in levels() {
        let context = format!("{level:?}: {geometry}, {bytes} bytes, lost {lost:?}, seed {seed}");
        let code = Code::at_level(geometry, level);
        let mut parity = vec![vec![0xEE; bytes]; m.into()];
        let data_rows: Vec<&[u8]> = data.iter().map(Vec::as_slice).collect();
        let mut parity_rows: Vec<&mut [u8]> = parity.iter_mut().map(Vec::as_mut_slice).collect();
        code.encode(&data_rows, &mut parity_rows).unwrap();
        assert!(parity == whole[k.into()..], "encode at {context}");

        let mut decoded = left.clone();
        code.decode(&mut decoded).unwrap();
        assert!(decoded[..k.into()].iter().flatten().eq(&data), "decode at {context}");
        assert!(decoded[k.into()..] == left[k.into()..], "decode leaves parity at {context}");
        let mut rebuilt = left.clone();
        code.rebuild(&mut rebuilt).unwrap();
        assert!(rebuilt.iter().flatten().eq(&whole), "rebuild at {context}");
    }
}

/// Every constant times every byte.
#[test]
fn every_product() {
    let all: Vec<u8> = (0..=255).collect();
    for level in levels() {
        for constant in 0..=255 {
            let mut made = [0xEE; 256];
            combine(level, &[vec![constant]], &[&all], &mut [&mut made]);
            let expected = all.iter().map(|&byte| galois_8::mul(constant, byte));
            assert!(made.into_iter().eq(expected), "{level:?} times {constant}");
        }
    }
}

#[test]
fn lengths_around_every_step() {
    for level in levels() {
        for bytes in (0..=300).chain([511, 512, 513, 4095, 4096, 4097, 65535, 65601]) {
            for outputs in [1, 2, 3, 4, 5, 9] {
                check(level, outputs, 3, bytes, bytes as u64);
            }
        }
        for bytes in (0..=130).chain((PIECE_BYTES - 65)..=(PIECE_BYTES + 65)) {
            for outputs in [1, 2, 3, 4, 6] {
                check(level, outputs, 11, bytes, bytes as u64);
            }
        }
    }
}

#[test]
fn codes_small_and_large() {
    for (k, m) in [(1, 1), (2, 1), (4, 2), (6, 3), (10, 4), (17, 3), (200, 55), (1, 254), (254, 1)]
    {
        let lost: Vec<usize> = (0..m).map(|i| usize::from(i) * 3 % usize::from(k + m)).collect();
        for bytes in [1, 63, 64, 65, 1000] {
            check_code(k, m, bytes, &lost, bytes as u64);
        }
    }
    check_code(4, 2, 2 * BLOCK_BYTES + 64, &[0, 5], 1);
    check_code(17, 3, BLOCK_BYTES + 1, &[0, 1, 16], 2);
}

#[test]
#[should_panic(expected = "outputs as long as inputs")]
fn a_short_output_is_refused() {
    combine(Level::best(), &[vec![1]], &[&[0; 64]], &mut [&mut [0; 63]]);
}

#[test]
#[should_panic(expected = "inputs of one length")]
fn a_short_input_is_refused() {
    combine(Level::best(), &[vec![1, 1]], &[&[0; 64], &[0; 63]], &mut [&mut [0; 64]]);
}

#[test]
#[should_panic(expected = "a coefficient for each input")]
fn a_short_row_is_refused() {
    combine(Level::best(), &[vec![1]], &[&[0; 64], &[0; 64]], &mut [&mut [0; 64]]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn sums_are_those_of_the_crate(
        (outputs, inputs) in (1usize..12, 1usize..24),
        bytes in prop_oneof![0usize..700, (PIECE_BYTES - 100)..(PIECE_BYTES + 100)],
        seed: u64,
    ) {
        levels().for_each(|level| check(level, outputs, inputs, bytes, seed >> 8));
    }

    #[test]
    fn codes_are_those_of_the_crate(
        (k, m) in (1u8..24, 1u8..12),
        bytes in prop_oneof![1usize..700, (BLOCK_BYTES - 65)..(BLOCK_BYTES + 66)],
        order in Just((0..36usize).collect::<Vec<_>>()).prop_shuffle(),
        losses in 0usize..12,
        seed: u64,
    ) {
        let n = usize::from(k + m);
        let lost: Vec<usize> = order.into_iter().filter(|&index| index < n).collect();
        check_code(k, m, bytes, &lost[..losses.min(m.into())], seed >> 8);
    }
}

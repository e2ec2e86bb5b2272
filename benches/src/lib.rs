//! Measurements of arc: what its benches share. The peer comparison is `benches/peers.sh`.

use codec::digest::BLOCK_BYTES;
use rustix::time::{ClockId, clock_gettime};

/// Runs of each, in turns, of which the median counts.
pub const ROUNDS: usize = 7;
/// Data of one run; also of all bodies together where they shall not be in cache.
const DATA_BYTES: usize = 256_000_000;
/// Bytes of each body that stays in cache.
const CACHED_BODY_BYTES: usize = 16 * 1024;

/// Who fills parity from data.
pub type Encode = Box<dyn Fn(&[&[u8]], &mut [&mut [u8]])>;

/// GB/s (10^9 bytes of data) of each of those that encode at k+m. Bodies lie one after the other
/// and are coded a column of blocks at a time, as a push does it. All must give the same parity.
pub fn encode_rates(k: usize, m: usize, in_cache: bool, encoders: &[(String, Encode)]) -> Vec<f64> {
    // An odd number of lines, so that bodies do not compete for the same sets of the cache.
    let cold_bytes = (DATA_BYTES / k).next_multiple_of(64) | 64;
    let body_bytes = if in_cache { CACHED_BODY_BYTES } else { cold_bytes };
    let times = DATA_BYTES.div_ceil(body_bytes * k);
    let mut bodies = noise((k + m) * body_bytes);
    let (data, parity) = bodies.split_at_mut(k * body_bytes);
    let mut expected: Option<Vec<u8>> = None;
    let mut seconds = vec![Vec::new(); encoders.len()];
    for round in 0..=ROUNDS {
        for (place, (name, encode)) in encoders.iter().enumerate() {
            parity.fill(0xEE);
            let start = cpu_seconds();
            for _ in 0..times {
                columns(data, parity, body_bytes, encode);
            }
            let taken = cpu_seconds() - start;
            // The first round warms up and compares.
            if round > 0 {
                seconds[place].push(taken);
            } else {
                let expected = expected.get_or_insert_with(|| parity.to_vec());
                assert!(*expected == *parity, "{name} gives other parity at {k}+{m}");
            }
        }
    }
    let coded = (times * k * body_bytes) as f64;
    seconds.into_iter().map(|seconds| coded / 1e9 / median(seconds)).collect()
}

fn columns(data: &[u8], parity: &mut [u8], body_bytes: usize, encode: &Encode) {
    let mut cuts: Vec<_> =
        parity.chunks_mut(body_bytes).map(|body| body.chunks_mut(BLOCK_BYTES)).collect();
    for begin in (0..body_bytes).step_by(BLOCK_BYTES) {
        let end = body_bytes.min(begin + BLOCK_BYTES);
        let data: Vec<&[u8]> = data.chunks(body_bytes).map(|body| &body[begin..end]).collect();
        let mut parity: Vec<&mut [u8]> = cuts.iter_mut().filter_map(Iterator::next).collect();
        encode(&data, &mut parity);
    }
}

/// What this process has run, all threads: what else the machine does counts less than on a clock.
pub fn cpu_seconds() -> f64 {
    let ran = clock_gettime(ClockId::ProcessCPUTime);
    ran.tv_sec as f64 + ran.tv_nsec as f64 / 1e9
}

/// The middle one of `values`, of which there is at least one.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Bytes without a pattern.
pub fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 1u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..bytes.div_ceil(8)).flat_map(|_| next()).take(bytes).collect()
}

//! Reed-Solomon encoding at every level of this processor, beside reed-solomon-erasure and, where
//! `ISAL=` names its shared library, Intel ISA-L. One thread; a Markdown table.

#![allow(clippy::print_stdout, clippy::unwrap_used)]

use codec::Geometry;
use codec::digest::BLOCK_BYTES;
use codec::erasure::{Code, Level};
use reed_solomon_erasure::galois_8::ReedSolomon;
use rustix::time::{ClockId, clock_gettime};

mod isal;

const GEOMETRIES: [(u8, u8); 4] = [(4, 2), (6, 3), (10, 4), (17, 3)];
/// Data of one run; also of all bodies together where they shall not be in cache.
const DATA_BYTES: usize = 256_000_000;
/// Bytes of each body that stays in cache.
const CACHED_BODY_BYTES: usize = 16 * 1024;
const ROUNDS: usize = 7;

/// Who fills parity from data.
type Encode = Box<dyn Fn(&[&[u8]], &mut [&mut [u8]])>;

fn main() {
    // `cargo test --all-targets` runs benches too, and does not want to wait.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    println!(
        "Data in GB/s (10^9 bytes), one thread, medians of {ROUNDS} runs in turns; in brackets"
    );
    println!("how many times reed-solomon-erasure.");
    for (title, in_cache) in [("Not in cache", false), ("In cache", true)] {
        println!("\n{title}:\n");
        for (number, (k, m)) in GEOMETRIES.into_iter().enumerate() {
            let contenders = contenders(Geometry::new(k, m).unwrap());
            if number == 0 {
                let names: Vec<&str> = contenders.iter().map(|(name, _)| name.as_str()).collect();
                println!("| code | {} |", names.join(" | "));
                println!("|---|{}", "---|".repeat(names.len()));
            }
            let speeds = measure(k.into(), m.into(), in_cache, &contenders);
            let cells: Vec<String> = speeds
                .iter()
                .map(|speed| format!("{speed:.1} ({:.1})", speed / speeds[0]))
                .collect();
            println!("| {k}+{m} | {} |", cells.join(" | "));
        }
    }
    if std::env::var_os("ISAL").is_none() {
        println!("\nIntel ISA-L was not there: ISAL= names its shared library.");
    }
}

/// Those that this machine has, the crate first.
fn contenders(geometry: Geometry) -> Vec<(String, Encode)> {
    let crates = ReedSolomon::new(geometry.data(), geometry.parity()).unwrap();
    let crates: Encode = Box::new(move |data, parity| crates.encode_sep(data, parity).unwrap());
    let mut all = vec![("reed-solomon-erasure".to_owned(), crates)];
    for &level in Level::ALL.iter().filter(|level| level.is_available()) {
        let code = Code::at_level(geometry, level);
        let encode: Encode = Box::new(move |data, parity| code.encode(data, parity).unwrap());
        all.push((format!("{level:?}"), encode));
    }
    if let Some(path) = std::env::var_os("ISAL") {
        let isal = isal::Isal::open(&path, &parity_rows(geometry));
        let encode: Encode = Box::new(move |data, parity| isal.encode(data, parity));
        all.push(("ISA-L".to_owned(), encode));
    }
    all
}

/// The matrix, which is what the code makes of the k unit vectors.
fn parity_rows(geometry: Geometry) -> Vec<Vec<u8>> {
    let k = geometry.data();
    let units: Vec<Vec<u8>> =
        (0..k).map(|i| (0..k).map(|at| u8::from(at == i)).collect()).collect();
    let units: Vec<&[u8]> = units.iter().map(Vec::as_slice).collect();
    let mut rows = vec![vec![0; k]; geometry.parity()];
    let mut rooms: Vec<&mut [u8]> = rows.iter_mut().map(Vec::as_mut_slice).collect();
    Code::at_level(geometry, Level::Portable).encode(&units, &mut rooms).unwrap();
    rows
}

/// GB/s of each contender. Bodies lie one after the other and are coded a column of blocks at a
/// time, as a push does it. All must give the same parity.
fn measure(k: usize, m: usize, in_cache: bool, contenders: &[(String, Encode)]) -> Vec<f64> {
    // An odd number of lines, so that bodies do not compete for the same sets of the cache.
    let cold_bytes = (DATA_BYTES / k).next_multiple_of(64) | 64;
    let body_bytes = if in_cache { CACHED_BODY_BYTES } else { cold_bytes };
    let times = DATA_BYTES.div_ceil(body_bytes * k);
    let mut bodies = noise((k + m) * body_bytes);
    let (data, parity) = bodies.split_at_mut(k * body_bytes);
    let mut expected: Option<Vec<u8>> = None;
    let mut seconds = vec![Vec::new(); contenders.len()];
    for round in 0..=ROUNDS {
        for (place, (name, encode)) in contenders.iter().enumerate() {
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

/// What this thread has run: what else the machine does counts less than on a clock.
fn cpu_seconds() -> f64 {
    let ran = clock_gettime(ClockId::ThreadCPUTime);
    ran.tv_sec as f64 + ran.tv_nsec as f64 / 1e9
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Bytes without a pattern.
fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 1u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..bytes.div_ceil(8)).flat_map(|_| next()).take(bytes).collect()
}

//! Reed-Solomon encoding at every level of this processor, beside reed-solomon-erasure and, where
//! `ISAL=` names its shared library, Intel ISA-L. One thread; a Markdown table.

#![allow(clippy::print_stdout, clippy::unwrap_used)]

use arc_benches::{Encode, ROUNDS, encode_rates};
use codec::Geometry;
use codec::erasure::{Code, Level};
use reed_solomon_erasure::galois_8::ReedSolomon;

mod isal;

const GEOMETRIES: [(u8, u8); 4] = [(4, 2), (6, 3), (10, 4), (17, 3)];

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
            let speeds = encode_rates(k.into(), m.into(), in_cache, &contenders);
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

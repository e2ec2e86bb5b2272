//! What arc is built of, each part by itself: GB/s (10^9 bytes) on one core, as a Markdown table
//! beside what others reach, and as JSON lines with `--json FILE`.
//!
//! `BENCH_SET=DIR` has the real files (else /usr/lib), `BENCH_WHERE=DIR` the disk to write to.

#![allow(clippy::print_stdout, clippy::unwrap_used)]

use std::fs::File;
use std::io::Write as _;
use std::time::Instant;

use arc_benches::{ROUNDS, cpu_seconds, median};

mod compute;
mod sample;
mod system;

/// One part: what it is called, and how to run it once.
struct Block {
    /// Name in the JSON.
    name: String,
    what: String,
    /// Printed beside it.
    note: String,
    /// Where it is about whole files: bytes of each, to tell the time that one takes.
    file_bytes: Option<usize>,
    /// What others reach at it, in GB/s where nothing else is said.
    others: &'static str,
    /// It waits for a disk or runs two threads: its speed is that of the clock.
    waits: bool,
    run: Box<dyn FnMut() -> Run>,
}

/// What one run took.
struct Run {
    bytes: usize,
    cpu_seconds: f64,
    wall_seconds: f64,
}

impl Run {
    /// Of `work` on so many bytes.
    fn of(bytes: usize, work: impl FnOnce()) -> Self {
        let (began, cpu_began) = (Instant::now(), cpu_seconds());
        work();
        let cpu_seconds = cpu_seconds() - cpu_began;
        Self { bytes, cpu_seconds, wall_seconds: began.elapsed().as_secs_f64() }
    }
}

impl Block {
    fn new(name: impl Into<String>, what: impl Into<String>, others: &'static str) -> Self {
        let run = Box::new(|| Run { bytes: 0, cpu_seconds: 0.0, wall_seconds: 0.0 });
        let (name, what, note) = (name.into(), what.into(), String::new());
        Self { name, what, note, file_bytes: None, others, waits: false, run }
    }

    fn waiting(self) -> Self {
        Self { waits: true, ..self }
    }

    fn noted(self, note: String) -> Self {
        Self { note, ..self }
    }

    fn per_file(self, bytes: usize) -> Self {
        Self { file_bytes: Some(bytes), ..self }
    }

    fn runs(self, run: impl FnMut() -> Run + 'static) -> Self {
        Self { run: Box::new(run), ..self }
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    // `cargo test --all-targets` runs benches too, and does not want to wait.
    if !arguments.iter().any(|argument| argument == "--bench") {
        return;
    }
    let json = arguments.iter().position(|argument| argument == "--json");
    let mut json = json.map(|at| File::create(arguments.get(at + 1).unwrap()).unwrap());
    let set = std::env::var_os("BENCH_SET").unwrap_or("/usr/lib".into());
    let place = std::env::var_os("BENCH_WHERE").unwrap_or(std::env::temp_dir().into());
    let place = tempfile::tempdir_in(place).unwrap();

    let frames = sample::frames(set.as_ref());
    let mut blocks = compute::on_noise();
    blocks.extend(compute::on_files(&frames));
    blocks.extend(system::blocks(frames.concat(), place.path()));
    let mut runs: Vec<Vec<Run>> = blocks.iter().map(|_| Vec::new()).collect();
    for round in 0..=ROUNDS {
        for (block, runs) in blocks.iter_mut().zip(&mut runs) {
            let run = (block.run)();
            // The first round warms up.
            if round > 0 {
                runs.push(run);
            }
        }
    }

    println!("GB/s (10^9 bytes) on one core, medians of {ROUNDS} runs in turns: for each second");
    println!("that the processor ran, and on the clock where it waits. Files: {set:?}.");
    println!("The last column was measured on a 2-core Zen 4, see RESULTS.md.\n");
    println!("| | GB/s of CPU | on the clock | | others |\n|---|---|---|---|---|");
    for (block, runs) in blocks.iter().zip(&runs) {
        let rate = |seconds: fn(&Run) -> f64| {
            median(runs.iter().map(|run| run.bytes as f64 / 1e9 / seconds(run)).collect())
        };
        let (cpu, wall) = (rate(|run| run.cpu_seconds), rate(|run| run.wall_seconds));
        let Block { name, what, others, .. } = block;
        let note = match block.file_bytes {
            Some(bytes) => format!("{:.1} ms a file", bytes as f64 / 1e6 / wall),
            None => block.note.clone(),
        };
        let clock = if block.waits { format!("{wall:.2}") } else { String::new() };
        println!("| {what} | {cpu:.2} | {clock} | {note} | {others} |");
        let speed = if block.waits { wall } else { cpu };
        let besides =
            if block.waits { format!(r#","cpu_gb_per_s":{cpu:.4}"#) } else { String::new() };
        if let Some(json) = &mut json {
            writeln!(json, r#"{{"block":"{name}","gb_per_s":{speed:.4}{besides}}}"#).unwrap();
        }
    }
    for (code, speed, others) in compute::encode_speeds() {
        println!("| Reed-Solomon encode {code}, not in cache | {speed:.2} | | | {others} |");
        // Scripts that know one code know the usual one.
        let name = if code == "4+2" { "encode".into() } else { format!("encode_{code}") };
        if let Some(json) = &mut json {
            writeln!(json, r#"{{"block":"{name}","gb_per_s":{speed:.4}}}"#).unwrap();
        }
    }
}

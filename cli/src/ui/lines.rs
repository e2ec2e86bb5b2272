//! Progress as text: pure functions of what was counted and how fast it grows.

use std::collections::BTreeMap;
use std::time::Duration;

use super::counters::{Numbers, RepairNumbers};
use super::text::{bytes_text, count_text, duration_text, plural};

/// Which command is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum View {
    /// scan, read, new, send.
    Push,
    /// files, and where they come from.
    Pull,
    /// What was checked.
    Verify,
    /// Shards that leave a server that is drained.
    Repair,
    /// All that the vault lacks, until it is whole.
    Mend,
    /// Shard files that were found.
    Scan,
    /// Stripes whose directories were read.
    Index,
    /// Shards that a scrub read.
    Upkeep,
}

impl View {
    /// Lines that [`lines`] makes for it.
    pub(super) fn height(self) -> usize {
        if self == Self::Push { 5 } else { 3 }
    }

    fn verb(self) -> &'static str {
        match self {
            Self::Push => "read",
            Self::Pull => "pull",
            Self::Verify => "check",
            Self::Repair => "mend",
            Self::Mend => "repair",
            Self::Scan => "scan",
            Self::Index => "index",
            Self::Upkeep => "upkeep",
        }
    }
}

/// Bytes a second, smoothed over a few seconds.
#[derive(Debug, Clone, Default)]
pub(super) struct Meter {
    at: Duration,
    last: Numbers,
    /// Of the bytes that the command is about.
    pub(super) main: f64,
    /// Of the bytes to or from each server.
    pub(super) servers: BTreeMap<String, f64>,
    scan_took: Option<Duration>,
}

/// Rates follow a change within about this many seconds.
const SMOOTHING_SECONDS: f64 = 3.0;

impl Meter {
    /// Takes in the counters as they stand `at` that long after the start.
    pub(super) fn update(&mut self, view: View, at: Duration, numbers: Numbers) {
        let seconds = at.saturating_sub(self.at).as_secs_f64();
        if seconds <= 0.0 {
            return;
        }
        // The first rates are those since the start.
        let weight =
            if self.at.is_zero() { 1.0 } else { 1.0 - (-seconds / SMOOTHING_SECONDS).exp() };
        let blend = |old: f64, before: u64, now: u64| {
            old + weight * (now.saturating_sub(before) as f64 / seconds - old)
        };
        self.main = blend(self.main, done_bytes(view, &self.last), done_bytes(view, &numbers));
        for (server, &now) in &numbers.sent_bytes {
            let before = self.last.sent_bytes.get(server).copied().unwrap_or(0);
            let rate = self.servers.entry(server.clone()).or_default();
            *rate = blend(*rate, before, now);
        }
        if numbers.scan_done && self.scan_took.is_none() {
            self.scan_took = Some(at);
        }
        self.at = at;
        self.last = numbers;
    }

    fn eta(&self, view: View) -> Option<Duration> {
        let left = total_bytes(view, &self.last)?.checked_sub(done_bytes(view, &self.last))?;
        let seconds = left as f64 / self.main;
        // A rate near zero gives no useful forecast.
        (seconds < 100.0 * 86_400.0).then(|| Duration::from_secs_f64(seconds))
    }
}

fn done_bytes(view: View, numbers: &Numbers) -> u64 {
    if view == View::Push { numbers.read_bytes } else { numbers.done_bytes }
}

fn total_bytes(view: View, numbers: &Numbers) -> Option<u64> {
    match view {
        View::Push => numbers.scan_done.then_some(numbers.scanned_bytes),
        _ => (numbers.total_bytes > 0).then_some(numbers.total_bytes),
    }
}

fn done_share(view: View, numbers: &Numbers) -> Option<f64> {
    let total = total_bytes(view, numbers)?;
    Some(if total == 0 { 1.0 } else { (done_bytes(view, numbers) as f64 / total as f64).min(1.0) })
}

/// The display of a terminal, [`View::height`] lines.
pub(super) fn lines(view: View, meter: &Meter, warnings: u64) -> Vec<String> {
    let numbers = &meter.last;
    if view == View::Mend {
        let repair = numbers.repair.clone().unwrap_or_default();
        let warnings = format!("{:<60} {}", "", plural(warnings, "warning"));
        return vec![mend_line(&repair, meter.main), counts_line(&repair), warnings];
    }
    let mut lines = match view {
        View::Push => vec![scan_line(meter), main_line(view, meter), new_line(numbers)],
        _ => vec![main_line(view, meter)],
    };
    let label = if view == View::Push { "send" } else { "from" };
    lines.push(format!(" {label:<6} {}", server_rates(&meter.servers)));
    let limit = match numbers.limited_by.as_str() {
        "" => String::new(),
        what => format!(" limited by: {what}"),
    };
    lines.push(format!("{limit:<60} {}", plural(warnings, "warning")));
    lines
}

/// One line with the same, for logs and SIGUSR1.
pub(super) fn plain_line(view: View, meter: &Meter, warnings: u64) -> String {
    let numbers = &meter.last;
    let line = match (view, &numbers.repair) {
        (View::Mend, Some(repair)) => {
            format!("{} {}", mend_line(repair, meter.main), counts_line(repair))
        }
        _ => main_line(view, meter),
    };
    let mut line = line.trim_start().replace(['█', '░'], "");
    if view == View::Push {
        line += &format!(", {} to servers", bytes_text(numbers.sent_bytes.values().sum()));
    }
    if !numbers.limited_by.is_empty() {
        line += &format!(", limited by {}", numbers.limited_by);
    }
    if warnings > 0 {
        line += &format!(", {}", plural(warnings, "warning"));
    }
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The fields of a JSON `progress` line.
pub(super) fn progress_json(view: View, meter: &Meter) -> serde_json::Value {
    let eta_ms = meter.eta(view).map(|eta| eta.as_millis() as u64);
    let mut value = serde_json::json!({
        "elapsed_ms": meter.at.as_millis() as u64,
        "bytes_per_second": meter.main as u64,
        "eta_ms": eta_ms,
    });
    if let (Some(to), Ok(serde_json::Value::Object(from))) =
        (value.as_object_mut(), serde_json::to_value(&meter.last))
    {
        to.extend(from);
    }
    value
}

fn scan_line(meter: &Meter) -> String {
    let numbers = &meter.last;
    let state = match meter.scan_took {
        Some(took) => format!("done in {}", duration_text(took)),
        None => "…".to_owned(),
    };
    let found =
        format!("{}  {}", plural(numbers.scanned_files, "file"), bytes_text(numbers.scanned_bytes));
    format!(" scan   {found:<36} {state}")
}

fn main_line(view: View, meter: &Meter) -> String {
    let numbers = &meter.last;
    let done = bytes_text(done_bytes(view, numbers));
    let rate = format!("{}/s", bytes_text(meter.main as u64));
    let noun = match view {
        View::Index => "stripe",
        View::Upkeep => "shard",
        _ => "file",
    };
    let of = |done: u64, total: u64| match total {
        0 => plural(done, noun),
        total => format!("{}/{} {noun}s", count_text(done), count_text(total)),
    };
    let files = match view {
        View::Push => of(numbers.read_files, 0),
        _ => of(numbers.done_files, numbers.total_files),
    };
    let verb = view.verb();
    let Some((share, total)) = done_share(view, numbers).zip(total_bytes(view, numbers)) else {
        return format!(" {verb:<6} {files}  {done}  {rate}");
    };
    let eta = match meter.eta(view) {
        Some(eta) if share < 1.0 => format!("  ETA {}", duration_text(eta)),
        _ => String::new(),
    };
    let percent = (share * 100.0) as u64;
    format!(
        " {verb:<6} {} {percent:>3}%  {done} of {}  {files}  {rate}{eta}",
        bar(share, 20),
        bytes_text(total)
    )
}

fn mend_line(repair: &RepairNumbers, bytes_per_second: f64) -> String {
    let share = match repair.needed {
        0 => 1.0,
        needed => (needed - repair.waiting.min(needed)) as f64 / needed as f64,
    };
    let eta = match (repair.eta_ms, repair.eta_spread_ms) {
        (Some(eta), Some(spread)) => {
            let [eta, spread] = [eta, spread].map(|ms| duration_text(Duration::from_millis(ms)));
            format!("  whole again in {eta} ± {spread}")
        }
        _ => String::new(),
    };
    let (percent, rate) = ((share * 100.0) as u64, bytes_text(bytes_per_second as u64));
    format!(" repair {} {percent:>3}%  {rate}/s{eta}", bar(share, 20))
}

/// `needed` is the sum of what follows it.
fn counts_line(repair: &RepairNumbers) -> String {
    let [stripes, whole, needed, repaired, waiting, failed, unknown] = [
        repair.stripes,
        repair.whole,
        repair.needed,
        repair.repaired,
        repair.waiting,
        repair.failed,
        repair.unknown,
    ]
    .map(count_text);
    let away = match repair.away {
        0 => String::new(),
        away => format!("   away {}", count_text(away)),
    };
    format!(
        " stripes {stripes}   whole {whole}{away}   needed {needed} = repaired {repaired} + \
         waiting {waiting} + failed {failed} + unknown {unknown}"
    )
}

fn new_line(numbers: &Numbers) -> String {
    let known = numbers.read_bytes.saturating_sub(numbers.new_bytes);
    let dedup = match numbers.read_bytes {
        0 => String::new(),
        read => format!("   dedup {}%", (known as f64 / read as f64 * 100.0) as u64),
    };
    format!(
        " new    {} {} → {} compressed → {} on servers{dedup}",
        plural(numbers.new_files, "file"),
        bytes_text(numbers.new_bytes),
        bytes_text(numbers.packed_bytes),
        bytes_text(numbers.sent_bytes.values().sum()),
    )
}

fn server_rates(rates: &BTreeMap<String, f64>) -> String {
    if rates.is_empty() {
        return String::new();
    }
    let fastest = rates.values().copied().fold(1.0, f64::max);
    let of = |(server, &rate): (&String, &f64)| {
        let name: String = server.chars().take(12).collect();
        format!("{name} {} {:.0}", gauge(rate / fastest), rate / (1024.0 * 1024.0))
    };
    format!("{} MiB/s", rates.iter().map(of).collect::<Vec<_>>().join("  "))
}

fn bar(share: f64, width: usize) -> String {
    let full = (share * width as f64) as usize;
    "█".repeat(full.min(width)) + &"░".repeat(width.saturating_sub(full))
}

fn gauge(share: f64) -> String {
    let full = ((share * 4.0).round() as usize).min(4);
    "▇".repeat(full) + &"▂".repeat(4 - full)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1024 * 1024;

    fn push_halfway() -> Meter {
        let mut meter = Meter::default();
        let numbers = Numbers {
            scanned_files: 2000,
            scanned_bytes: 100 * MIB,
            scan_done: true,
            read_files: 900,
            read_bytes: 50 * MIB,
            new_files: 3,
            new_bytes: 5 * MIB,
            packed_bytes: 2 * MIB,
            sent_bytes: [("a".to_owned(), 10 * MIB), ("b".to_owned(), 5 * MIB)].into(),
            limited_by: "network to b".into(),
            ..Numbers::default()
        };
        meter.update(View::Push, Duration::from_secs(10), numbers);
        meter
    }

    #[test]
    fn a_push_shows_scan_read_new_and_each_server() {
        assert_eq!(
            lines(View::Push, &push_halfway(), 2),
            [
                " scan   2,000 files  100.0 MiB               done in 10 s",
                " read   ██████████░░░░░░░░░░  50%  50.0 MiB of 100.0 MiB  900 files  5.0 MiB/s  ETA 10 s",
                " new    3 files 5.0 MiB → 2.0 MiB compressed → 15.0 MiB on servers   dedup 90%",
                " send   a ▇▇▇▇ 1  b ▇▇▂▂ 0 MiB/s",
                " limited by: network to b                                    2 warnings",
            ]
        );
    }

    #[test]
    fn a_view_has_the_lines_it_says() {
        for view in [View::Push, View::Pull, View::Verify, View::Repair, View::Scan, View::Index] {
            assert_eq!(lines(view, &Meter::default(), 0).len(), view.height());
        }
        assert_eq!(lines(View::Mend, &Meter::default(), 0).len(), View::Mend.height());
    }

    #[test]
    fn a_repair_shows_counts_that_add_up_and_when_it_ends() {
        let repair = RepairNumbers {
            stripes: 128_402,
            whole: 128_011,
            away: 0,
            needed: 391,
            repaired: 214,
            waiting: 175,
            failed: 2,
            unknown: 0,
            eta_ms: Some(552_000),
            eta_spread_ms: Some(120_000),
        };
        let numbers = Numbers { done_bytes: 310 * MIB, repair: Some(repair), ..Numbers::default() };
        let mut meter = Meter::default();
        meter.update(View::Mend, Duration::from_secs(1), numbers);
        assert_eq!(
            lines(View::Mend, &meter, 0)[..2],
            [
                " repair ███████████░░░░░░░░░  55%  310.0 MiB/s  whole again in 9:12 ± 2:00",
                " stripes 128,402   whole 128,011   needed 391 = repaired 214 + waiting 175 + \
                 failed 2 + unknown 0",
            ]
        );
        let json = progress_json(View::Mend, &meter);
        assert_eq!(
            (&json["repair"]["needed"], &json["repair"]["failed"]),
            (&391.into(), &2.into())
        );
        assert!(
            plain_line(View::Mend, &meter, 0).starts_with("repair 55% 310.0 MiB/s whole again")
        );
    }

    #[test]
    fn a_log_gets_the_same_in_one_line() {
        assert_eq!(
            plain_line(View::Push, &push_halfway(), 0),
            "read 50% 50.0 MiB of 100.0 MiB 900 files 5.0 MiB/s ETA 10 s, 15.0 MiB to servers, \
             limited by network to b"
        );
    }

    #[test]
    fn rates_follow_what_changes() {
        let mut meter = push_halfway();
        let still = meter.last.clone();
        meter.update(View::Push, Duration::from_secs(40), still);
        assert!(meter.main < MIB as f64 / 100.0, "{}", meter.main);
        let json = progress_json(View::Push, &meter);
        assert_eq!(json["read_bytes"], 50 * MIB);
        assert_eq!(json["sent_bytes"]["a"], 10 * MIB);
    }
}

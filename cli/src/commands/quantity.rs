//! Sizes and durations as people type them: `256M`, `64MiB`, `30m`, `1h30m`.

use std::time::Duration;

/// Bytes: a whole number, then nothing or one of K, M, G, T, P with an optional `iB` or `B`.
/// All of them are powers of 1024.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let bad = || format!("{text:?} is not a size such as 256M, 64MiB or 1048576");
    let (number, unit) = split(text);
    let unit = unit.trim_start().to_ascii_lowercase();
    let letters = unit.strip_suffix("ib").or(unit.strip_suffix('b')).unwrap_or(&unit);
    let power = match letters {
        "" if unit == "ib" => return Err(bad()),
        "" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        "p" => 5,
        _ => return Err(bad()),
    };
    let number: u64 = number.parse().map_err(|_| bad())?;
    number.checked_mul(1024_u64.pow(power)).ok_or_else(|| format!("{text:?} is too large a size"))
}

/// A duration: numbers with ms, s, m, h or d, as in `500ms`, `30m` or `1h30m`; a bare `0` too.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let bad = || format!("{text:?} is not a duration such as 500ms, 120s, 30m or 1h30m");
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let mut total_ms: u64 = 0;
    let mut rest = text;
    loop {
        let (number, tail) = split(rest);
        let unit_len = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_len);
        let unit_ms = match unit {
            "ms" => 1,
            "s" => 1000,
            "m" | "min" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(bad()),
        };
        let number: u64 = number.parse().map_err(|_| bad())?;
        let part = number.checked_mul(unit_ms);
        total_ms = part.and_then(|ms| total_ms.checked_add(ms)).ok_or_else(bad)?;
        rest = tail;
        if rest.is_empty() {
            return Ok(Duration::from_millis(total_ms));
        }
    }
}

/// The digits at the beginning, and what follows.
fn split(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_powers_of_1024() {
        for (text, bytes) in [
            ("0", 0),
            ("1048576", 1 << 20),
            ("10B", 10),
            ("256M", 256 << 20),
            ("64MiB", 64 << 20),
            ("64 MB", 64 << 20),
            ("2g", 2 << 30),
            ("3T", 3 << 40),
        ] {
            assert_eq!(parse_bytes(text), Ok(bytes), "{text}");
        }
        for text in ["", "M", "1.5G", "-1", "12X", "1iB", "16384P", "99999999999999999999"] {
            assert!(parse_bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn durations_add_up() {
        for (text, ms) in [
            ("0", 0),
            ("500ms", 500),
            ("120s", 120_000),
            ("30m", 1_800_000),
            ("1h30m", 5_400_000),
            ("7d", 604_800_000),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for text in ["", "30", "m", "5 s", "1h30", "1y", "-3s", "99999999999999999999d", "1hé"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }
}

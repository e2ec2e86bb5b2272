//! Numbers, times and paths as a person reads them.

use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::time::Duration;

const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];

/// `212.4 GiB`; below 1 KiB plain bytes.
pub fn bytes_text(bytes: u64) -> String {
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    // 1023.95 would be printed as 1024.0.
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// `1,204,331`.
pub fn count_text(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1 file`, `2 files`.
pub fn plural(count: u64, noun: &str) -> String {
    let s = if count == 1 { "" } else { "s" };
    format!("{} {noun}{s}", count_text(count))
}

/// `0.4 s`, `41 s`, `8:52`, `2:08:52`, `3 d 2:08:52`.
pub fn duration_text(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (d, h, m, s) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    match (d, h, m) {
        (0, 0, 0) if seconds < 10 => format!("{:.1} s", duration.as_secs_f64()),
        (0, 0, 0) => format!("{s} s"),
        (0, 0, _) => format!("{m}:{s:02}"),
        (0, _, _) => format!("{h}:{m:02}:{s:02}"),
        _ => format!("{d} d {h}:{m:02}:{s:02}"),
    }
}

/// `41 s`, `8 min`, `3 h`, `12 d`: how long ago something was.
pub fn age_text(age: Duration) -> String {
    let seconds = age.as_secs();
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// `2026-07-01 09:15:02` in the machine's time zone; milliseconds since 1970 come in.
pub fn time_text(ms: i64) -> String {
    match jiff::Timestamp::from_millisecond(ms) {
        Ok(time) => {
            let zoned = time.to_zoned(jiff::tz::TimeZone::system());
            zoned.strftime("%Y-%m-%d %H:%M:%S").to_string()
        }
        Err(_) => format!("{ms} ms"),
    }
}

/// A path as text without anything that could fool a terminal or a reader.
pub fn path_text(path: &Path) -> String {
    escaped(path.as_os_str().as_bytes())
}

/// Bytes of a name as text: what is not UTF-8 as `\xff`, control and direction-changing
/// characters as `\n` or `\u{202e}`, and a backslash as `\\`, so that it stays unambiguous.
pub fn escaped(name: &[u8]) -> String {
    let mut text = String::with_capacity(name.len());
    for piece in name.utf8_chunks() {
        for c in piece.valid().chars() {
            match c {
                '\\' => text.push_str("\\\\"),
                '\n' | '\r' | '\t' => text.extend(c.escape_default()),
                c if c.is_ascii_control() => push_hex(&mut text, c as u8),
                c if c.is_control() || turns_text(c) => text.extend(c.escape_unicode()),
                c => text.push(c),
            }
        }
        for byte in piece.invalid() {
            push_hex(&mut text, *byte);
        }
    }
    text
}

/// A word for a shell, quoted where that is needed: suggested commands work when pasted.
pub fn shell_word(word: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "/._-+:@%=,".contains(c);
    match !word.is_empty() && word.chars().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', "'\\''")),
    }
}

fn push_hex(text: &mut String, byte: u8) {
    // Writing to a String does not fail.
    let _ = write!(text, "\\x{byte:02x}");
}

/// Characters that reorder or hide their neighbours.
fn turns_text(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_short_and_binary() {
        assert_eq!(bytes_text(0), "0 B");
        assert_eq!(bytes_text(1023), "1023 B");
        assert_eq!(bytes_text(1536), "1.5 KiB");
        assert_eq!(bytes_text(1024 * 1024 - 1), "1.0 MiB");
        assert_eq!(bytes_text(228_062_760_960), "212.4 GiB");
        assert_eq!(bytes_text(u64::MAX), "16.0 EiB");
    }

    #[test]
    fn counts_have_commas_and_plurals() {
        assert_eq!(count_text(1_204_331), "1,204,331");
        assert_eq!(count_text(999), "999");
        assert_eq!(plural(1, "file"), "1 file");
        assert_eq!(plural(12_000, "file"), "12,000 files");
    }

    #[test]
    fn durations_read_like_a_clock() {
        assert_eq!(duration_text(Duration::from_millis(420)), "0.4 s");
        assert_eq!(duration_text(Duration::from_secs(41)), "41 s");
        assert_eq!(duration_text(Duration::from_secs(532)), "8:52");
        assert_eq!(duration_text(Duration::from_secs(7732)), "2:08:52");
        assert_eq!(duration_text(Duration::from_secs(3 * 86_400 + 7732)), "3 d 2:08:52");
    }

    #[test]
    fn words_survive_a_shell() {
        assert_eq!(shell_word("/srv/vault-1"), "/srv/vault-1");
        assert_eq!(shell_word("My Files"), "'My Files'");
        assert_eq!(shell_word("it's"), "'it'\\''s'");
        assert_eq!(shell_word(""), "''");
    }

    #[test]
    fn names_cannot_fool_a_terminal() {
        assert_eq!(escaped(b"a\nb\x1b[2J\xff"), "a\\nb\\x1b[2J\\xff");
        assert_eq!(escaped("säge \u{202e}gpj.exe".as_bytes()), "säge \\u{202e}gpj.exe");
        assert_eq!(escaped(b"back\\slash"), "back\\\\slash");
        assert_eq!(escaped(b"\xff"), "\\xff");
        assert_ne!(escaped(b"\xff"), escaped(b"\\xff"));
    }
}

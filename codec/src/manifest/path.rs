//! Paths as the manifest has them: bytes, relative to `/`, compared component by component.

use std::cmp::Ordering;
use std::fmt::Write;

use super::at_most_count;
use crate::{Error, Result};

/// No path is longer.
pub const PATH_BYTES_MAX: usize = 64 * 1024;

/// Compares paths (bytes, components separated by `/`) component by component: the
/// order of a depth-first walk of sorted directories, `a`, `a/b`, `a-b`.
pub fn path_order(a: &[u8], b: &[u8]) -> Ordering {
    match a.iter().zip(b).position(|(x, y)| x != y) {
        // A component that ends is smaller than one that goes on, so the separator
        // comes before every other byte.
        Some(at) => (a[at] != b'/', a[at]).cmp(&(b[at] != b'/', b[at])),
        None => a.len().cmp(&b.len()),
    }
}

/// Whether `path` is `folder` or lies below it. The empty folder is `/`, it holds all.
pub fn is_within(path: &[u8], folder: &[u8]) -> bool {
    match path.strip_prefix(folder) {
        Some(rest) => folder.is_empty() || rest.is_empty() || rest[0] == b'/',
        None => false,
    }
}

/// Refuses what an entry's path cannot be: empty, absolute, with an empty, `.` or `..`
/// component, with a NUL, or too long. Nothing else keeps a restore inside its target,
/// so readers and writers both ask.
pub fn check_path(path: &[u8]) -> Result<()> {
    at_most_count("bytes of a path", path.len(), PATH_BYTES_MAX)?;
    let bad = |why: &str| Err(Error::damaged("path", format!("{} {why}", show_path(path))));
    if path.contains(&0) {
        return bad("contains a NUL byte");
    }
    for component in path.split(|&byte| byte == b'/') {
        match component {
            b"" => return bad("has an empty component"),
            b"." | b".." => return bad("has a component `.` or `..`"),
            _ => {}
        }
    }
    Ok(())
}

/// A path for people: quoted, control characters and bytes that are not UTF-8 escaped,
/// the middle of a very long one left out.
pub fn show_path(path: &[u8]) -> String {
    const SHOWN_BYTES_MAX: usize = 512;
    if path.len() <= SHOWN_BYTES_MAX {
        return format!("`{}`", escape(path));
    }
    let (head, tail) = (&path[..SHOWN_BYTES_MAX / 2], &path[path.len() - SHOWN_BYTES_MAX / 2..]);
    format!("`{}…{}` ({} bytes)", escape(head), escape(tail), path.len())
}

fn escape(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c.is_control() || c == '\\' {
                out.extend(c.escape_default());
            } else {
                out.push(c);
            }
        }
        for byte in chunk.invalid() {
            // Writing to a String cannot fail.
            let _ = write!(out, "\\x{byte:02x}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_separator_sorts_before_every_other_byte() {
        let mut paths: Vec<&[u8]> = vec![
            b"a\xff", b"a", b"a-b", b"a/b", b"a\x01", b"a.", b"a/b/c", b"a/b-", b"b", b"a/\x01",
        ];
        paths.sort_by(|a, b| path_order(a, b));
        let want: Vec<&[u8]> = vec![
            b"a", b"a/\x01", b"a/b", b"a/b/c", b"a/b-", b"a\x01", b"a-b", b"a.", b"a\xff", b"b",
        ];
        assert_eq!(paths, want);
    }

    #[test]
    fn paths_that_could_leave_the_target_are_refused() {
        for path in [&b""[..], b"/", b"/a", b"a/", b"a//b", b".", b"..", b"a/../b", b"a/.", b"a\0b"]
        {
            assert!(check_path(path).is_err(), "{}", show_path(path));
        }
        assert!(check_path(&vec![b'a'; PATH_BYTES_MAX + 1]).is_err());
        for path in [&b"a"[..], b"...", b"..a/.b", b"a/\xff\n", &[b'a'; 300]] {
            assert_eq!(check_path(path), Ok(()), "{}", show_path(path));
        }
    }

    #[test]
    fn within_goes_by_components() {
        assert!(is_within(b"a/b", b"a") && is_within(b"a", b"a") && is_within(b"a", b""));
        assert!(!is_within(b"ab", b"a") && !is_within(b"a", b"a/b"));
    }

    #[test]
    fn shown_paths_hold_no_control_characters() {
        assert_eq!(show_path(b"a\nb\xff\\\x1b[0m\xc3\xa4"), r"`a\nb\xff\\\u{1b}[0mä`");
        assert!(show_path(&vec![b'a'; 5000]).len() < 600);
    }
}

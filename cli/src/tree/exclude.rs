//! Which paths a push leaves out.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use globset::{Candidate, GlobBuilder, GlobSet, GlobSetBuilder};

/// Patterns in the manner of restic and gitignore:
/// - without a slash a pattern is for the name of anything at any depth: `*.o`;
/// - with a leading slash it is for an absolute path: `/home/*/.cache`;
/// - with a slash elsewhere, for the end of a path: `target/debug`;
/// - with a trailing slash, for folders alone: `build/`;
/// - `*` and `?` stay within a name, `**` does not; `[a-z]` and `{a,b}` work;
/// - `!` before a pattern takes things back in, the last pattern that matches decides.
///
/// Nothing below a folder that is left out is looked at.
#[derive(Debug, Default, Clone)]
pub(crate) struct Excludes {
    globs: GlobSet,
    rules: Vec<Rule>,
}

#[derive(Debug, Clone)]
struct Rule {
    excludes: bool,
    folders_only: bool,
}

impl Excludes {
    /// Reads the patterns; the error names the one that is not understood.
    pub(crate) fn new(patterns: &[impl AsRef<str>]) -> Result<Self, globset::Error> {
        let mut globs = GlobSetBuilder::new();
        let mut rules = Vec::new();
        for pattern in patterns {
            let (excludes, pattern) = match pattern.as_ref().strip_prefix('!') {
                Some(rest) => (false, rest),
                None => (true, pattern.as_ref()),
            };
            let (folders_only, pattern) = match pattern.strip_suffix('/') {
                Some(rest) => (true, rest),
                None => (false, pattern),
            };
            let glob = match pattern.strip_prefix('/') {
                Some(anchored) => anchored.to_owned(),
                None => format!("**/{pattern}"),
            };
            globs.add(
                GlobBuilder::new(&glob).literal_separator(true).backslash_escape(true).build()?,
            );
            rules.push(Rule { excludes, folders_only });
        }
        Ok(Self { globs: globs.build()?, rules })
    }

    /// Whether to leave out a path, given as in the manifest.
    pub(crate) fn leave_out(&self, path: &[u8], is_folder: bool) -> bool {
        if self.rules.is_empty() {
            return false;
        }
        let candidate = Candidate::new(OsStr::from_bytes(path));
        let matching = self.globs.matches_candidate(&candidate);
        let decisive = matching
            .iter()
            .rev()
            .map(|&at| &self.rules[at])
            .find(|rule| is_folder || !rule.folders_only);
        decisive.is_some_and(|rule| rule.excludes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(patterns: &[&str], left_out: &[&str], kept: &[&str]) {
        let excludes = Excludes::new(patterns).unwrap();
        // A trailing slash in the table marks a folder.
        let asked = |path: &str| {
            excludes.leave_out(path.trim_end_matches('/').as_bytes(), path.ends_with('/'))
        };
        for path in left_out {
            assert!(asked(path), "{path} is left out by {patterns:?}");
        }
        for path in kept {
            assert!(!asked(path), "{path} is kept by {patterns:?}");
        }
    }

    #[test]
    fn a_pattern_without_a_slash_is_for_names_at_any_depth() {
        check(
            &["*.o", "cache"],
            &["a.o", "x/y/a.o", "cache", "x/cache/"],
            &["a.oo", "x/cache2", "cached/x"],
        );
    }

    #[test]
    fn a_leading_slash_anchors_and_a_middle_one_does_not() {
        check(&["/home/*/.cache"], &["home/a/.cache/"], &["x/home/a/.cache", "home/a/b/.cache"]);
        check(
            &["target/debug"],
            &["target/debug", "x/target/debug"],
            &["target/x/debug", "atarget/debug"],
        );
    }

    #[test]
    fn two_stars_cross_folders() {
        check(&["/a/**/z"], &["a/z", "a/b/z", "a/b/c/z"], &["z", "b/a/z"]);
        check(&["a/**"], &["a/b", "a/b/c"], &["a/"]);
    }

    #[test]
    fn a_trailing_slash_is_for_folders() {
        check(&["build/"], &["x/build/"], &["x/build"]);
    }

    #[test]
    fn the_last_match_decides() {
        check(&["*.log", "!keep.log"], &["a.log"], &["x/keep.log"]);
        check(&["!keep.log", "*.log"], &["keep.log"], &[]);
    }

    #[test]
    fn names_that_are_not_utf8_match_too() {
        let excludes = Excludes::new(&["*.o"]).unwrap();
        assert!(excludes.leave_out(b"x/\xff.o", false));
        assert!(!excludes.leave_out(b"x/\xff.c", false));
    }

    #[test]
    fn a_pattern_that_is_not_understood_is_named() {
        let error = Excludes::new(&["ok", "a[b"]).err().unwrap();
        assert!(error.to_string().contains("a[b"), "{error}");
    }
}

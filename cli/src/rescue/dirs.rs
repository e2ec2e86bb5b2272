//! The folders that are read, and that nothing is written into them.

use std::path::{Path, PathBuf};

use crate::exit::{Exit, Failure};
use crate::ui::path_text;

/// The folders that were given, each once, and none inside another.
pub fn check_dirs(given: &[PathBuf]) -> Result<Vec<PathBuf>, Failure> {
    let mut found = Vec::new();
    for dir in given {
        let path = dir.canonicalize().map_err(Failure::io("cannot find", dir))?;
        if !path.is_dir() {
            let what = format!("{} is not a folder", path_text(dir));
            return Err(Failure::new(Exit::Usage, what).state("nothing was read or written"));
        }
        found.push(path);
    }
    // Whatever lies inside another comes after it.
    found.sort();
    let mut outer: Vec<PathBuf> = Vec::new();
    for dir in found {
        if !outer.iter().any(|other| dir.starts_with(other)) {
            outer.push(dir);
        }
    }
    Ok(outer)
}

/// The folders are only read: what is restored goes elsewhere.
pub fn must_be_elsewhere(to: &Path, dirs: &[PathBuf]) -> Result<(), Failure> {
    let mut place = std::path::absolute(to).map_err(Failure::io("cannot find", to))?;
    while !place.exists() && place.pop() {}
    let place = place.canonicalize().map_err(Failure::io("cannot find", to))?;
    match dirs.iter().find(|dir| place.starts_with(dir)) {
        None => Ok(()),
        Some(dir) => {
            let what = format!("{} is inside {}", path_text(to), path_text(dir));
            Err(Failure::new(Exit::Usage, what)
                .why("the folders with shards are only read")
                .state("nothing was read or written")
                .next("name a folder elsewhere"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_folder_is_read_once_and_none_is_written_into() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        let at = |path: &str| root.join(path);
        for path in ["a/b", "a-b", "c"] {
            std::fs::create_dir_all(at(path)).unwrap();
        }
        std::os::unix::fs::symlink(at("a"), at("link")).unwrap();
        let dirs = check_dirs(&[at("c"), at("a/b"), at("a"), at("a-b"), at("link"), at("c")]);
        let dirs = dirs.unwrap();
        assert_eq!(dirs, [at("a"), at("a-b"), at("c")]);
        let refused = |to: &str| must_be_elsewhere(&at(to), &dirs).is_err();
        for to in ["a", "a/new/folder", "link/new", "a/../c/x"] {
            assert!(refused(to), "{to}");
        }
        for to in ["d", "d/new", "a-c"] {
            assert!(!refused(to), "{to}");
        }
        assert!(check_dirs(&[at("nowhere")]).is_err());
    }
}

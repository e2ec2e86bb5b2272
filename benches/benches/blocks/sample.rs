//! Real files as a push would lay them into frames: a few, from everywhere in a folder.

use std::collections::BTreeMap;
use std::fs::{DirEntry, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use codec::frame::FRAME_BYTES_TARGET;

/// About so many bytes are taken.
const SAMPLE_BYTES: u64 = 128_000_000;

/// A part of a file.
#[derive(Clone)]
pub(crate) struct Piece {
    pub(crate) path: PathBuf,
    pub(crate) offset: u64,
    pub(crate) bytes: usize,
}

impl Piece {
    /// Fills as much of `buffer` as the piece has.
    pub(crate) fn read(&self, buffer: &mut [u8]) {
        let file = File::open(&self.path).unwrap();
        file.read_exact_at(&mut buffer[..self.bytes], self.offset).unwrap();
    }
}

/// The files below `folder` end to end, cut into frames, of which one in so many is taken: the
/// pieces of files that each of these holds.
pub(crate) fn frames(folder: &Path) -> Vec<Vec<Piece>> {
    let mut files = Vec::new();
    walk(folder, &mut files);
    let frame_bytes = FRAME_BYTES_TARGET as u64;
    let all_bytes: u64 = files.iter().map(|(_, bytes)| bytes).sum();
    let step = all_bytes.div_ceil(SAMPLE_BYTES).max(1);
    let mut frames: BTreeMap<u64, Vec<Piece>> = BTreeMap::new();
    let mut begin = 0;
    for (path, bytes) in files {
        let end = begin + bytes;
        let numbers = begin / frame_bytes..end.div_ceil(frame_bytes);
        for number in numbers.filter(|number| number % step == 0) {
            let from = begin.max(number * frame_bytes);
            let to = end.min((number + 1) * frame_bytes);
            let (offset, bytes) = (from - begin, (to - from) as usize);
            frames.entry(number).or_default().push(Piece { path: path.clone(), offset, bytes });
        }
        begin = end;
    }
    assert!(!frames.is_empty(), "BENCH_SET= has no files: {}", folder.display());
    frames.into_values().collect()
}

/// Path and bytes of each file that can be read and is not empty, in order of names.
fn walk(folder: &Path, files: &mut Vec<(PathBuf, u64)>) {
    let Ok(entries) = folder.read_dir() else { return };
    let mut entries: Vec<_> = entries.flatten().collect();
    entries.sort_by_key(DirEntry::file_name);
    for entry in entries {
        let Ok(kind) = entry.file_type() else { continue };
        if kind.is_dir() {
            walk(&entry.path(), files);
        } else if kind.is_file() && File::open(entry.path()).is_ok() {
            files.extend(entry.metadata().map(|about| (entry.path(), about.len())).ok());
        }
    }
    files.retain(|&(_, bytes)| bytes > 0);
}

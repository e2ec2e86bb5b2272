//! The files of the coordinator's folder, read one after the other as one stream.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use codec::backup::{BackupFile, FileHasher};

use crate::{Error, Result};

/// Bytes read at a time.
const READ_BYTES: usize = 1024 * 1024;

/// What of the stream is still to be read.
pub(super) struct Bundle {
    /// The last comes first.
    ahead: Vec<Source>,
    /// Read to their ends.
    files: Vec<BackupFile>,
}

/// A file that is open: whatever becomes of its name, these are the bytes.
struct Source {
    path: String,
    from: PathBuf,
    file: File,
    bytes: u64,
    hash: FileHasher,
}

impl Bundle {
    /// Opens the files: where each lies in the backup, and where it is now.
    pub(super) fn open(files: Vec<(String, PathBuf)>) -> Result<Self> {
        let open = |(path, from): (String, PathBuf)| {
            let file = File::open(&from).map_err(Error::io("cannot open", &from))?;
            Ok(Source { path, from, file, bytes: 0, hash: FileHasher::default() })
        };
        let ahead = files.into_iter().rev().map(open).collect::<Result<_>>()?;
        Ok(Self { ahead, files: Vec::new() })
    }

    /// The next bytes, exactly so many unless the end comes first.
    pub(super) fn read(&mut self, bytes: usize) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        while out.len() < bytes
            && let Some(source) = self.ahead.last_mut()
        {
            let (start, more) = (out.len(), READ_BYTES.min(bytes - out.len()));
            let read = source.file.by_ref().take(more as u64).read_to_end(&mut out);
            let read = read.map_err(Error::io("cannot read", &source.from))?;
            source.bytes += read as u64;
            source.hash.update(&out[start..]);
            if read == 0 {
                let done = self.ahead.pop();
                self.files.extend(done.map(|Source { path, bytes, hash, .. }| BackupFile {
                    path,
                    bytes,
                    hash: hash.finish(),
                }));
            }
        }
        Ok(out)
    }

    /// The files, all of which were read.
    pub(super) fn files(self) -> Vec<BackupFile> {
        self.files
    }
}

/// What lies in a coordinator's folder beside the catalog and belongs into a backup.
pub(super) fn beside_catalog(folder: &Path) -> Result<Vec<(String, PathBuf)>> {
    let mut found = Vec::new();
    let keys = folder.join("keys");
    for entry in keys.read_dir().map_err(Error::io("cannot list", &keys))? {
        let name = entry.map_err(Error::io("cannot list", &keys))?.file_name();
        // What is being written has another name until it is whole.
        let name = name.to_str().filter(|name| !name.ends_with(".new"));
        found.extend(name.map(|name| format!("keys/{name}")));
    }
    found.sort();
    found.extend(["owner.token", "join.token", "servers"].map(str::to_owned));
    let at = |path: String| (folder.join(&path), path);
    let files = found.into_iter().map(at).filter(|(from, _)| from.is_file());
    Ok(files.map(|(from, path)| (path, from)).collect())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn files_come_as_one_stream_and_are_hashed_each() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("keys")).unwrap();
        let long = vec![7; READ_BYTES + 5];
        let contents: [(&str, &[u8]); 6] = [
            ("keys/ca.pem", b"ca"),
            ("keys/ticket.key", b""),
            ("join.token", &long),
            ("servers", b"names"),
            ("keys/ca.new", b"half"),
            ("lock", b"x"),
        ];
        contents.iter().for_each(|(path, bytes)| fs::write(dir.path().join(path), bytes).unwrap());
        let mut bundle = Bundle::open(beside_catalog(dir.path()).unwrap()).unwrap();
        let mut all = bundle.read(1).unwrap();
        assert_eq!(all, b"c");
        loop {
            match bundle.read(500_000).unwrap() {
                piece if piece.is_empty() => break,
                piece => all.extend(piece),
            }
        }
        assert_eq!(all, [b"ca", long.as_slice(), b"names"].concat());
        let files = bundle.files();
        let told = files.iter().map(|f| (f.path.as_str(), f.bytes)).collect::<Vec<_>>();
        let ends = [
            ("keys/ca.pem", 2),
            ("keys/ticket.key", 0),
            ("join.token", long.len() as u64),
            ("servers", 5),
        ];
        assert_eq!(told, ends);
        assert_eq!(files[2].hash.0, *blake3::hash(&long).as_bytes());
    }
}

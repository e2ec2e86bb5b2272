//! A backup of the coordinator's folder: its files back to back, cut into pieces, in stripes of
//! kind record that are sealed to the vault's public key; and the record that lists them, which is
//! written last: without it there is no backup.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::manifest::{self, at_most, at_most_count};
use crate::pack::RECORD_BYTES_MAX;
use crate::{Digest, Error, FORMAT_VERSION, Result, StripeId};

/// Plaintext of a piece; the last of a stripe may be shorter.
pub const PIECE_BYTES: usize = 1024 * 1024;
/// Stripes of a backup at most.
pub const STRIPES_MAX: usize = 1 << 16;
/// Files of a backup at most.
pub const FILES_MAX: usize = 64;
/// Bytes of a file's path at most.
pub const PATH_BYTES_MAX: usize = 255;

const RECORD: &str = "backup record";
const PIECE: &str = "piece of a backup";

/// What says where a backup is, and what must come out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupRecord {
    /// The coordinator's epoch. Of two backups the one of the higher epoch is newer, and of one
    /// epoch the one of the higher sequence.
    pub epoch: u64,
    /// The catalog's sequence.
    pub sequence: u64,
    /// When it was made, by the coordinator's clock: ms since 1970.
    pub made_ms: u64,
    /// The files, in the order of their bytes.
    #[serde(deserialize_with = "at_most::<FILES_MAX, _, _>")]
    pub files: Vec<BackupFile>,
    /// The stripes with their bytes, in order.
    #[serde(deserialize_with = "at_most::<STRIPES_MAX, _, _>")]
    pub stripes: Vec<StripeId>,
}

/// A file of a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupFile {
    /// Where it lies in the coordinator's folder: plain names, with slashes between them.
    pub path: String,
    /// Its bytes.
    pub bytes: u64,
    /// BLAKE3 of them.
    pub hash: Digest,
}

/// Hashes a file while it goes by.
#[derive(Debug, Clone, Default)]
pub struct FileHasher(blake3::Hasher);

impl FileHasher {
    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The hash of all of them.
    pub fn finish(&self) -> Digest {
        Digest(*self.0.finalize().as_bytes())
    }
}

impl BackupRecord {
    /// What it is, the format version, then the record as a map, all CBOR.
    pub fn encode(&self) -> Result<Vec<u8>> {
        self.check()?;
        let mut bytes = Vec::new();
        manifest::write_cbor(RECORD, &RECORD, &mut bytes)?;
        manifest::write_cbor(RECORD, &FORMAT_VERSION, &mut bytes)?;
        manifest::write_cbor(RECORD, self, &mut bytes)?;
        at_most_count("bytes of a backup record", bytes.len(), RECORD_BYTES_MAX)?;
        Ok(bytes)
    }

    /// Whether `bytes` begin as the record of a backup does.
    pub fn begins(bytes: &[u8]) -> bool {
        after(RECORD, bytes).is_some()
    }

    /// Reads a record, bounded; `None` where `bytes` is a record of something else.
    pub fn decode(bytes: &[u8]) -> Result<Option<Self>> {
        at_most_count("bytes of a backup record", bytes.len(), RECORD_BYTES_MAX)?;
        let Some(mut rest) = after(RECORD, bytes) else { return Ok(None) };
        let found: u16 = manifest::read_cbor(RECORD, &mut rest)?;
        if found > FORMAT_VERSION {
            return Err(Error::Version { what: RECORD, found, known: FORMAT_VERSION });
        }
        let record: Self = manifest::read_cbor(RECORD, &mut rest)?;
        if !rest.is_empty() {
            return Err(Error::damaged(RECORD, format!("{} bytes follow it", rest.len())));
        }
        record.check()?;
        Ok(Some(record))
    }

    fn check(&self) -> Result<()> {
        at_most_count("stripes of a backup", self.stripes.len(), STRIPES_MAX)?;
        at_most_count("files of a backup", self.files.len(), FILES_MAX)?;
        if let Some(file) = self.files.iter().find(|file| !is_plain(&file.path)) {
            return Err(Error::damaged(RECORD, format!("a file at {:?}", file.path)));
        }
        let paths: BTreeSet<&str> = self.files.iter().map(|file| file.path.as_str()).collect();
        if paths.len() < self.files.len() {
            return Err(Error::damaged(RECORD, "two files at one path"));
        }
        Ok(())
    }
}

/// Whether a path stays below the folder that it is joined to, and needs no care elsewhere.
fn is_plain(path: &str) -> bool {
    let plain = |name: &str| {
        let byte = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        !name.is_empty() && !name.starts_with('.') && name.bytes().all(byte)
    };
    path.len() <= PATH_BYTES_MAX && path.split('/').all(plain)
}

/// The record of a piece.
pub fn piece(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut record = Vec::with_capacity(bytes.len() + 2 + PIECE.len());
    manifest::write_cbor(PIECE, &PIECE, &mut record)?;
    record.extend_from_slice(bytes);
    Ok(record)
}

/// The bytes of a piece.
pub fn open_piece(record: &[u8]) -> Result<&[u8]> {
    after(PIECE, record).ok_or_else(|| Error::damaged(PIECE, "it is another record"))
}

/// What follows the text that says what a record is.
fn after<'a>(what: &str, bytes: &'a [u8]) -> Option<&'a [u8]> {
    let mut named = Vec::new();
    manifest::write_cbor(RECORD, &what, &mut named).ok()?;
    bytes.strip_prefix(named.as_slice())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn record() -> BackupRecord {
        let file = |path: &str| BackupFile { path: path.into(), bytes: 7, hash: Digest([3; 32]) };
        BackupRecord {
            epoch: 2,
            sequence: 300,
            made_ms: 1_700_000_000_000,
            files: vec![file("keys/ca.pem"), file("catalog.db")],
            stripes: vec![StripeId([1; 32]), StripeId([2; 32])],
        }
    }

    #[test]
    fn a_record_reads_back_and_is_no_piece() {
        let bytes = record().encode().unwrap();
        assert_eq!(BackupRecord::decode(&bytes), Ok(Some(record())));
        assert!(open_piece(&bytes).is_err());
        assert!(BackupRecord::begins(&bytes));
        let piece = piece(&bytes).unwrap();
        assert_eq!(BackupRecord::decode(&piece), Ok(None));
        assert_eq!(open_piece(&piece).unwrap(), bytes);
        assert!(BackupRecord::decode(&[&bytes[..], &[0]].concat()).is_err());
    }

    #[test]
    fn a_newer_record_is_refused_as_such() {
        let mut bytes = record().encode().unwrap();
        let version = 1 + RECORD.len();
        assert_eq!(bytes[version], FORMAT_VERSION as u8);
        bytes[version] += 1;
        assert!(matches!(BackupRecord::decode(&bytes), Err(Error::Version { found: 1, .. })));
    }

    #[test]
    fn paths_stay_in_the_folder() {
        for path in ["", "/a", "a/", "a//b", "..", "a/../b", ".", ".hidden", "a b", "a\0", "ä"] {
            let mut record = record();
            record.files[0].path = path.into();
            assert!(record.encode().is_err(), "{path:?}");
        }
        let mut twice = record();
        twice.files[1].path = twice.files[0].path.clone();
        assert!(twice.encode().is_err());
    }

    #[test]
    fn too_many_files_are_refused_while_they_are_read() {
        let mut many = record();
        many.files = vec![many.files[0].clone(); FILES_MAX + 1];
        assert!(many.encode().is_err());
    }

    proptest! {
        #[test]
        fn damaged_records_never_panic(at in any::<prop::sample::Index>(), bit in 0..8u8, cut in any::<bool>()) {
            let mut bytes = record().encode().unwrap();
            let at = at.index(bytes.len());
            if cut {
                bytes.truncate(at);
                prop_assert!(!matches!(BackupRecord::decode(&bytes), Ok(Some(_))));
            } else {
                bytes[at] ^= 1 << bit;
                if let Ok(Some(read)) = BackupRecord::decode(&bytes) {
                    prop_assert!(read.encode().is_ok());
                }
            }
        }
    }
}

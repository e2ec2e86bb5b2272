//! The snapshot record: what one push stored.

use serde::{Deserialize, Serialize};

use crate::manifest::{
    self, PageRef, at_most, at_most_count, check_path, is_within, path_order, show_path,
};
use crate::pack::RECORD_BYTES_MAX;
use crate::{Error, FORMAT_VERSION, Result, StripeId};

/// Bytes of an encoded record: what [`crate::pack::seal_record`] takes.
pub const SNAPSHOT_BYTES_MAX: usize = RECORD_BYTES_MAX;
/// Sources of a snapshot.
pub const SOURCES_MAX: usize = 4096;
/// Tags of a snapshot.
pub const TAGS_MAX: usize = 256;
/// Bytes of a host, user, tag or program name.
pub const TEXT_BYTES_MAX: usize = 64 * 1024;

const RECORD: &str = "snapshot record";

/// One push. A snapshot's id is the id of the 1+m stripe that carries its record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Root of the manifest.
    pub manifest: PageRef,
    /// The machine it came from.
    pub host: String,
    /// The user who ran the push.
    pub user: String,
    /// The sources: absolute paths without the leading slash in manifest order, none
    /// inside another. `/` is the empty path.
    #[serde(deserialize_with = "at_most::<SOURCES_MAX, _, _>")]
    pub sources: Vec<serde_bytes::ByteBuf>,
    /// Tags.
    #[serde(deserialize_with = "at_most::<TAGS_MAX, _, _>")]
    pub tags: Vec<String>,
    /// When the push began and ended, by the client's clock: ms since 1970.
    pub began_ms: i64,
    /// See `began_ms`.
    pub ended_ms: i64,
    /// The snapshot that it was compared with.
    pub parent: Option<StripeId>,
    /// What it counted.
    pub stats: Stats,
    /// The program and version that wrote it.
    pub program: String,
}

/// What a push counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// All entries.
    pub entries: u64,
    /// Regular files.
    pub files: u64,
    /// Bytes of regular files.
    pub bytes: u64,
    /// Files that the parent did not have.
    pub files_new: u64,
    /// Files that differ from the parent's.
    pub files_changed: u64,
    /// Files of the parent that are gone.
    pub files_removed: u64,
    /// Bytes of chunks that were not stored before.
    pub bytes_new: u64,
    /// Bytes of packs sent, before parity.
    pub bytes_stored: u64,
    /// Bytes on servers, with parity and headers.
    pub bytes_on_servers: u64,
    /// Sources that could not be read, or changed while they were.
    pub warnings: u64,
}

impl Snapshot {
    /// CBOR: the format version, then the record as a map. Fails where the record is
    /// more than [`Snapshot::decode`] would read.
    pub fn encode(&self) -> Result<Vec<u8>> {
        self.check()?;
        let mut bytes = Vec::new();
        manifest::write_cbor(RECORD, &FORMAT_VERSION, &mut bytes)?;
        manifest::write_cbor(RECORD, self, &mut bytes)?;
        at_most_count("bytes of a snapshot record", bytes.len(), SNAPSHOT_BYTES_MAX)?;
        Ok(bytes)
    }

    /// Reads a record, bounded.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        at_most_count("bytes of a snapshot record", bytes.len(), SNAPSHOT_BYTES_MAX)?;
        let mut rest = bytes;
        let found: u16 = manifest::read_cbor(RECORD, &mut rest)?;
        if found > FORMAT_VERSION {
            return Err(Error::Version { what: RECORD, found, known: FORMAT_VERSION });
        }
        let snapshot: Self = manifest::read_cbor(RECORD, &mut rest)?;
        if !rest.is_empty() {
            return Err(Error::damaged(RECORD, format!("{} bytes follow it", rest.len())));
        }
        snapshot.check()?;
        Ok(snapshot)
    }

    fn check(&self) -> Result<()> {
        at_most_count("sources of a snapshot", self.sources.len(), SOURCES_MAX)?;
        at_most_count("tags of a snapshot", self.tags.len(), TAGS_MAX)?;
        for text in [&self.host, &self.user, &self.program].into_iter().chain(&self.tags) {
            at_most_count("bytes of a text in a snapshot", text.len(), TEXT_BYTES_MAX)?;
        }
        for source in self.sources.iter().filter(|source| !source.is_empty()) {
            check_path(source)?;
        }
        for pair in self.sources.windows(2) {
            if path_order(&pair[0], &pair[1]).is_ge() || is_within(&pair[1], &pair[0]) {
                let (first, second) = (show_path(&pair[0]), show_path(&pair[1]));
                return Err(Error::damaged(RECORD, format!("source {second} after {first}")));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ChunkId;
    use crate::manifest::ChunkRef;
    use proptest::prelude::*;
    use serde_bytes::ByteBuf;

    fn snapshot() -> Snapshot {
        let chunk = ChunkRef { id: ChunkId([7; 32]), bytes: 1000 };
        Snapshot {
            manifest: PageRef { chunk, height: 2, count: 123_456 },
            host: "host".into(),
            user: "user".into(),
            sources: vec![ByteBuf::from(*b"etc"), ByteBuf::from(*b"home/\xff")],
            tags: vec!["daily".into(), "ä".into()],
            began_ms: 1_700_000_000_000,
            ended_ms: -1,
            parent: Some(StripeId([9; 32])),
            stats: Stats { entries: 1, warnings: u64::MAX, ..Stats::default() },
            program: "arc 0.0.1".into(),
        }
    }

    #[test]
    fn a_record_reads_back() {
        let mut want = snapshot();
        assert_eq!(Snapshot::decode(&want.encode().unwrap()), Ok(want.clone()));
        want.parent = None;
        want.sources = vec![ByteBuf::new()];
        assert_eq!(Snapshot::decode(&want.encode().unwrap()), Ok(want));
    }

    #[test]
    fn a_newer_version_and_trailing_bytes_are_refused() {
        let bytes = snapshot().encode().unwrap();
        let newer = [&[FORMAT_VERSION as u8 + 1], &bytes[1..]].concat();
        assert!(matches!(Snapshot::decode(&newer), Err(Error::Version { found: 1, .. })));
        assert!(Snapshot::decode(&[&bytes[..], &[0]].concat()).is_err());
    }

    #[test]
    fn what_could_not_be_read_is_not_written() {
        let refused = |change: fn(&mut Snapshot)| {
            let mut snapshot = snapshot();
            change(&mut snapshot);
            assert!(snapshot.encode().is_err());
        };
        refused(|s| s.tags = vec![String::new(); TAGS_MAX + 1]);
        refused(|s| s.sources = vec![ByteBuf::new(); SOURCES_MAX + 1]);
        refused(|s| s.host = "h".repeat(TEXT_BYTES_MAX + 1));
        refused(|s| s.sources = vec![ByteBuf::from(*b"a"), ByteBuf::from(*b"a/b")]);
        refused(|s| s.sources = vec![ByteBuf::from(*b"b"), ByteBuf::from(*b"a")]);
        refused(|s| s.sources = vec![ByteBuf::from(*b"/etc")]);
        refused(|s| s.sources = vec![ByteBuf::new(), ByteBuf::from(*b"a")]);
    }

    #[test]
    fn too_many_tags_are_refused_while_they_are_read() {
        let mut bytes = snapshot().encode().unwrap();
        let tags = bytes.windows(5).position(|w| w == b"\x64tags").unwrap();
        // The array of 2 becomes one of 2^24 - 1, all empty texts.
        bytes.splice(tags + 5..tags + 6, [0x9a, 0x00, 0xff, 0xff, 0xff]);
        bytes.truncate(tags + 10);
        bytes.resize(bytes.len() + 1_000_000, 0x60);
        let refusal = Snapshot::decode(&bytes).unwrap_err().to_string();
        assert!(refusal.contains("at most 256"), "{refusal}");
    }

    proptest! {
        #[test]
        fn damaged_records_never_panic(at in any::<prop::sample::Index>(), bit in 0..8u8, cut in any::<bool>()) {
            let want = snapshot();
            let mut bytes = want.encode().unwrap();
            let at = at.index(bytes.len());
            if cut {
                bytes.truncate(at);
                prop_assert!(Snapshot::decode(&bytes).is_err());
            } else {
                bytes[at] ^= 1 << bit;
                // It may still be a record, even the same one, such as with a path written as
                // text: the seal tells, not the decoder. What is read can be written.
                if let Ok(read) = Snapshot::decode(&bytes) {
                    prop_assert!(read.encode().is_ok());
                }
            }
        }
    }
}

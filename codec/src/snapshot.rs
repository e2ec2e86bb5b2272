//! The snapshot record: what one push stored.

use serde::{Deserialize, Serialize};

use crate::manifest::PageRef;
use crate::{Result, StripeId};

/// One push. A snapshot's id is the id of the 1+m stripe that carries its record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Root of the manifest.
    pub manifest: PageRef,
    /// The machine it came from.
    pub host: String,
    /// The user who ran the push.
    pub user: String,
    /// The sources: absolute paths without the leading slash, sorted, none inside another.
    pub sources: Vec<serde_bytes::ByteBuf>,
    /// Tags.
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
    /// CBOR.
    pub fn encode(&self) -> Vec<u8> {
        todo!()
    }

    /// Reads a record, bounded.
    pub fn decode(_bytes: &[u8]) -> Result<Self> {
        todo!()
    }
}

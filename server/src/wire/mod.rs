//! Every type that crosses HTTP, and the paths they go to.
//!
//! Control messages are JSON; shard files travel as they lie on disk. Hashes
//! are hex, long lists of ids one base64 string ([`Ids`]). Times are
//! milliseconds of the coordinator's clock. Lists come in pages.

mod backup;
mod coverage;
mod events;
mod facts;
mod inventory;
mod ledger;
mod push;
mod read;
mod repair;
mod scrub;
mod servers;
mod storage;
mod throttle;
mod vault;
mod weight;

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use codec::ChunkId;
use serde::{Deserialize, Serialize};

pub use backup::*;
pub use coverage::*;
pub use events::*;
pub use facts::*;
pub use inventory::*;
pub use ledger::*;
pub use push::*;
pub use read::*;
pub use repair::*;
pub use scrub::*;
pub use servers::*;
pub use storage::*;
pub use throttle::*;
pub use vault::*;
pub use weight::*;

/// The protocol that this build speaks, sent in [`PROTOCOL_HEADER`] with every request.
pub const PROTOCOL: u32 = 0;
/// Header with [`PROTOCOL`].
pub const PROTOCOL_HEADER: &str = "arc-protocol";
/// Header with the program's version, for messages only.
pub const BUILD_HEADER: &str = "arc-build";
/// Chunk ids in one request of `have` or `locate` at most.
pub const CHUNKS_PER_REQUEST_MAX: usize = 8192;
/// Bytes of any request to the coordinator at most.
pub const REQUEST_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Chunks of one stripe at most: its commit, with every chunk's id, is one request.
pub const CHUNKS_PER_STRIPE_MAX: usize = 1 << 18;
/// Rows in one page of any list at most.
pub const PAGE_ROWS_MAX: u32 = 1000;

/// Why a service refused. The codes are stable; clients branch on them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Code {
    /// No or wrong credentials.
    Unauthorized,
    /// Credentials that do not allow this.
    Forbidden,
    /// A ticket past its time.
    Expired,
    /// A ticket of an epoch before the coordinator's present one: ask `place` again.
    StaleEpoch,
    /// A receipt that its server did not give; the refusal names the server.
    BadReceipt,
    /// No such shard, snapshot, lease or server.
    NotFound,
    /// Something else stands there already.
    Conflict,
    /// A malformed request.
    BadRequest,
    /// Longer than the bound.
    TooLarge,
    /// Bytes whose hashes do not hold.
    Damaged,
    /// The disk has no room beyond its reserve.
    NoSpace,
    /// Too much at once; try again after a while.
    Busy,
    /// The lease ended; run the push again.
    LeaseOver,
    /// A server of that name has joined before.
    NameTaken,
    /// The coordinator has no vault record yet: `arc init`.
    NoVault,
    /// It has one already.
    VaultExists,
    /// Fewer servers are up than the stripe needs.
    TooFewServers,
    /// The two sides speak different protocols.
    Protocol,
    /// The server does not know the coordinator's time yet.
    NotReady,
    /// Servers know of snapshots that the catalog does not: it is an older copy, or a new one.
    CatalogOld,
    /// Unforeseen; the service's log has more.
    Internal,
}

impl Code {
    /// The HTTP status that goes with it.
    pub fn status(self) -> u16 {
        match self {
            Self::Unauthorized | Self::Expired => 401,
            Self::Forbidden | Self::BadReceipt => 403,
            Self::NotFound | Self::NoVault => 404,
            Self::Conflict
            | Self::StaleEpoch
            | Self::NameTaken
            | Self::VaultExists
            | Self::CatalogOld => 409,
            Self::LeaseOver => 410,
            Self::TooLarge => 413,
            Self::BadRequest | Self::Damaged => 422,
            Self::Protocol => 426,
            Self::Internal => 500,
            Self::Busy | Self::NotReady | Self::TooFewServers => 503,
            Self::NoSpace => 507,
        }
    }
}

/// The body of every answer that is not a success.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// What to branch on.
    pub code: Code,
    /// What to tell a person.
    pub message: String,
    /// The storage server that is to blame, where one is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<ServerId>,
    /// With [`Code::StaleEpoch`]: the highest epoch that the server has seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u64>,
}

impl Refusal {
    /// A refusal that blames no storage server.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), server: None, epoch: None }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// A server's number in its vault's catalog.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ServerId(pub u32);

/// A lease's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LeaseId(pub u64);

/// Chunk ids back to back, as one base64 string.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ids(pub Vec<ChunkId>);

impl Serialize for Ids {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let bytes: Vec<u8> = self.0.iter().flat_map(|id| id.0).collect();
        s.serialize_str(&BASE64.encode(bytes))
    }
}

impl<'de> Deserialize<'de> for Ids {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let bytes = Blob::deserialize(d)?.0;
        let (rows, rest) = bytes.as_chunks::<{ ChunkId::LEN }>();
        if !rest.is_empty() {
            return Err(serde::de::Error::custom("not a whole number of chunk ids"));
        }
        Ok(Self(rows.iter().copied().map(ChunkId).collect()))
    }
}

/// Bytes, as base64.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Blob(pub Vec<u8>);

impl Serialize for Blob {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&BASE64.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Blob {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(d)?;
        BASE64.decode(text.as_ref()).map(Self).map_err(serde::de::Error::custom)
    }
}

/// One page of a list. `next` goes into the next request's `after`; `None` is the end.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Page<T> {
    /// The rows.
    pub rows: Vec<T>,
    /// Where the next page begins.
    pub next: Option<String>,
}

/// The query of every list: `?after=…&limit=…`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct PageQuery {
    /// `next` of the page before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    /// Rows wanted, at most [`PAGE_ROWS_MAX`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

#[cfg(test)]
mod tests {
    use codec::seal::PackKeyField;
    use codec::shard::Kind;
    use codec::{Digest, Geometry, StripeId};

    use super::*;

    #[test]
    fn the_longest_commit_of_a_stripe_is_one_request() {
        let n = CHUNKS_PER_STRIPE_MAX;
        // A frame has dozens of chunks at least where there are so many.
        let frames = (0..n as u32 / 16).map(|frame| (0, u32::MAX - frame)).collect();
        let commit = CommitStripe {
            lease: LeaseId(u64::MAX),
            stripe: StripeId([0xff; 32]),
            kind: Kind::Metadata,
            geometry: Geometry::new(127, 128).unwrap(),
            pack_bytes: u64::MAX,
            pack_key: PackKeyField(vec![0xff; 1024]),
            frames,
            chunks: Ids(vec![ChunkId([0xff; 32]); n]),
            chunk_frames: vec![n as u32 / 16; n],
            receipts: vec![
                Receipt {
                    stripe: StripeId([0xff; 32]),
                    index: 255,
                    server: ServerId(u32::MAX),
                    header_hash: Digest([0xff; 32]),
                    epoch: u64::MAX,
                    mac: Blob(vec![0xff; 32]),
                };
                255
            ],
        };
        let bytes = serde_json::to_vec(&commit).unwrap().len();
        assert!(bytes < REQUEST_BYTES_MAX, "{bytes}");
    }

    #[test]
    fn a_stripe_map_that_readers_cannot_compute_with_is_not_sound() {
        let sound = StripeMap {
            stripe: StripeId([1; 32]),
            kind: Kind::Data,
            geometry: Geometry::new(2, 1).unwrap(),
            pack_bytes: 100,
            pack_key: PackKeyField(vec![1]),
            frames: vec![(0, 40), (1, 100)],
            shards: vec![Holder { index: 2, server: ServerId(1), bad: false }],
        };
        assert!(sound.is_sound());
        let bend = |bend: fn(&mut StripeMap)| {
            let mut map = sound.clone();
            bend(&mut map);
            map.is_sound()
        };
        assert!(!bend(|map| map.pack_bytes = 0));
        assert!(!bend(|map| map.pack_bytes = 99));
        assert!(!bend(|map| map.pack_bytes = u64::MAX));
        assert!(!bend(|map| map.pack_key.0.clear()));
        assert!(!bend(|map| map.frames[1].1 = 40));
        assert!(!bend(|map| map.shards[0].index = 3));
    }
}

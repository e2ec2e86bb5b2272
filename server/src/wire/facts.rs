//! Facts, and the rebuild of a catalog from what servers hold.

use codec::StripeId;
use serde::{Deserialize, Serialize};

use super::{Blob, FrameEnd, Ids};

pub use codec::fact::Head;

/// Facts in one request or answer at most.
pub const FACTS_PER_PAGE_MAX: usize = 256;
/// Stripes in one [`IndexRequest`] at most.
pub const INDEX_STRIPES_MAX: usize = 256;
/// Things of one sort that [`Restored`] names at most; it counts all.
pub const NAMED_STAMPS_MAX: usize = 1000;

/// `PUT /v1/facts` of a storage server, with a control ticket: facts that follow each other. Those
/// that it has are passed over. The answer is its [`Head`] after that; `Conflict` says that it has
/// another one of that number.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PutFacts {
    /// Encoded, at most [`FACTS_PER_PAGE_MAX`].
    pub facts: Vec<Blob>,
}

/// The query of `GET /v1/facts`: of a storage server with a control ticket, of the coordinator with
/// the owner token.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct FactsQuery {
    /// The facts after this number are asked for.
    #[serde(default)]
    pub after: u64,
    /// How many, at most [`FACTS_PER_PAGE_MAX`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

/// The answer: facts in order without gaps; none is the end.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FactsPage {
    /// Encoded.
    pub facts: Vec<Blob>,
}

/// `POST /v1/adoption`: have the catalog take in what servers hold and it does not know.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Adopt {
    /// Also where the catalog is no new one.
    pub merge: bool,
}

/// How that goes, or went: the answer to it, and to `GET /v1/adoption`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Adoption {
    /// Whether it is under way.
    pub running: bool,
    /// Why it did not get to its end.
    pub failed: Option<String>,
    /// Shards looked at.
    pub shards: u64,
    /// Those taken into the catalog.
    pub adopted_shards: u64,
    /// Those that are damaged, or are not what their name says.
    pub bad_shards: u64,
    /// Stripes taken into the catalog.
    pub stripes: u64,
    /// Stripes of which fewer than k good shards were found: an unfinished push, or a loss.
    pub incomplete: u64,
    /// Facts taken into the catalog.
    pub facts: u64,
    /// Names of servers that were asked.
    pub asked: Vec<String>,
    /// Names of servers that did not answer, and why. Those given up for lost are not among them.
    pub away: Vec<(String, String)>,
}

/// `POST /v1/index`: what the packs of adopted stripes say of themselves.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct IndexRequest {
    /// At most [`INDEX_STRIPES_MAX`].
    pub stripes: Vec<StripeIndex>,
}

/// One pack's directory.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StripeIndex {
    /// The stripe.
    pub stripe: StripeId,
    /// Its frames.
    pub frames: Vec<FrameEnd>,
    /// Its chunks.
    pub chunks: Ids,
    /// The frame of each chunk.
    pub chunk_frames: Vec<u32>,
}

/// `POST /v1/adoption/finish`: what became of the snapshots that the stamps name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restored {
    /// Snapshots that are known again by this.
    pub restored: u64,
    /// All kept snapshots now.
    pub snapshots: u64,
    /// Stamped snapshots without a readable record: (id, received), the first
    /// [`NAMED_STAMPS_MAX`].
    pub missing: Vec<(StripeId, u64)>,
    /// How many these are.
    pub missing_count: u64,
    /// Records without a stamp: their pushes were never told that they are saved.
    pub unstamped: u64,
    /// Adopted stripes whose chunks are not known yet.
    pub unindexed: u64,
}

//! What is asked of a storage server.

use codec::{StripeId, VaultId};
use serde::{Deserialize, Serialize};

use super::{Head, ScrubGlance, ServerId};

/// `POST /v1/probe` of a storage server, with a control ticket.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Probe {
    /// The coordinator's epoch.
    pub epoch: u64,
    /// The coordinator's time.
    pub now_ms: u64,
}

/// How a storage server is doing.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ProbeAnswer {
    /// Who answers.
    pub server: ServerId,
    /// The vault it belongs to.
    pub vault: VaultId,
    /// Bytes of its disk.
    pub capacity_bytes: u64,
    /// Bytes free beyond its reserve.
    pub free_bytes: u64,
    /// Why it takes no writes (a failed sync), if it does not.
    pub trouble: Option<String>,
    /// Rises with every shard that is found to be bad or was mended, and with every start: what it
    /// holds is worth comparing again.
    #[serde(default)]
    pub findings: u64,
    /// The facts that it has; builds from before them say nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub facts: Option<Head>,
    /// Where its scrub is.
    #[serde(default)]
    pub scrub: Option<ScrubGlance>,
}

/// How thorough a check is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Thoroughness {
    /// The file is there with its full length and a sound header.
    Present,
    /// Every byte is read and hashed.
    Whole,
}

/// `POST /v1/check` of a storage server, with a read ticket.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CheckRequest {
    /// The shards, at most [`super::PAGE_ROWS_MAX`].
    pub shards: Vec<(StripeId, u8)>,
    /// How thoroughly.
    pub thoroughness: Thoroughness,
}

/// What was found, in the order asked.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CheckAnswer {
    /// A finding a shard.
    pub found: Vec<Found>,
}

/// What was found where a shard should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "is", content = "why")]
pub enum Found {
    /// The shard, as sound as was asked.
    Good,
    /// Nothing.
    Missing,
    /// Something else: why it is not the shard.
    Damaged(String),
}

/// One row of `GET /v1/inventory` of a storage server, with a control ticket; ordered by stripe and index.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InventoryRow {
    /// The stripe.
    pub stripe: StripeId,
    /// Index of the shard.
    pub index: u8,
    /// Bytes of the file; 0 when the disk cannot say.
    pub file_bytes: u64,
    /// Why it is not good, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub damaged: Option<String>,
}

/// `POST /v1/trash` of a storage server, with a control ticket: never ticketed to clients.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TrashRequest {
    /// The shards.
    pub shards: Vec<(StripeId, u8)>,
}

/// How many of them were moved to the trash (the others were not there).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TrashAnswer {
    /// Shards moved.
    pub trashed: u32,
}

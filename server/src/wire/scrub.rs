//! How a storage server goes through its own shards, and what may be changed of it meanwhile.

use serde::{Deserialize, Serialize};

/// `PUT /v1/scrub` of a storage server, with a control ticket: what is not given stays as it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScrubOrder {
    /// Whether it waits until it is told to go on; kept over restarts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused: Option<bool>,
    /// How long a pass takes; 0: none begins. Until the next start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub every_ms: Option<u64>,
    /// Bytes read in a second at most. Until the next start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_per_second: Option<u64>,
    /// Begins a pass at once that waits for nothing but the limit above, in the stead of the one
    /// under way.
    #[serde(default)]
    pub start_now: bool,
}

/// The answer to it, and to `GET /v1/scrub`. Times are the coordinator's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScrubStatus {
    /// Whether it waits to be told to go on.
    pub paused: bool,
    /// How long a pass takes; 0: none begins.
    pub every_ms: u64,
    /// Bytes read in a second at most.
    pub bytes_per_second: u64,
    /// The pass under way.
    pub pass: Option<ScrubPass>,
    /// When the last pass ended, and what it came to.
    pub last: Option<ScrubPass>,
    /// Shards that the server holds, once they were counted.
    pub shards_of: Option<u64>,
    /// Shards that are known to be bad, however that was found.
    pub bad_known: u64,
}

/// Where a scrub is, with each answer to a probe.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScrubGlance {
    /// Whether it waits to be told to go on.
    pub paused: bool,
    /// How much of the pass under way is done, in thousandths; none between passes.
    pub permille: Option<u16>,
    /// Shards that are known to be bad.
    pub bad_known: u64,
}

/// One pass.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScrubPass {
    /// When it began.
    pub began_ms: u64,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_ms: Option<u64>,
    /// Whether it was told to begin, and hurries.
    #[serde(default)]
    pub hurried: bool,
    /// The shard that it has come to, as `<stripe>.<index>`; none at its beginning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    /// Shards read whole.
    pub shards: u64,
    /// Bytes of their files.
    pub bytes: u64,
    /// Shards that were found to be bad, known before or not.
    pub bad: u64,
    /// Shards of which nothing could be learned.
    pub failed: u64,
}

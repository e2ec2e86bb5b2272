//! What was last read whole and when, and drills.

use codec::StripeId;
use serde::{Deserialize, Serialize};

use super::ServerId;

/// What was read within this time counts as read recently: 30 days, as long as a scrub takes.
pub const RECENT_MS: u64 = 30 * 24 * 3600 * 1000;
/// Stripes in one request about coverage at most.
pub const COVERAGE_STRIPES_MAX: usize = 256;

/// How thoroughly something was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Proof {
    /// Its server read every byte of a shard.
    Read,
    /// A client read, decoded and opened the stripe.
    Opened,
}

/// What was found good in one stripe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Covered {
    /// The stripe.
    pub stripe: StripeId,
    /// Shards that their servers read whole, and found good.
    pub shards: Vec<(u8, ServerId)>,
    /// Whether all of it was read, decoded and opened.
    pub opened: bool,
}

/// `POST /v1/coverage`: what was found good just now.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Coverage {
    /// At most [`COVERAGE_STRIPES_MAX`].
    pub stripes: Vec<Covered>,
}

/// The query of `GET /v1/coverage/oldest`: stripes, those first that were looked at longest ago.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct OldestQuery {
    /// What counts as looking. Of a stripe's good shards on servers that are up, the one counts
    /// that was read longest ago.
    pub proof: Proof,
    /// Where the page begins: the `next` of the one before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    /// Rows of a page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

/// `POST /v1/coverage/stripes`: when were these last looked at? Unknown ones are left out.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CoverageRequest {
    /// At most [`COVERAGE_STRIPES_MAX`].
    pub stripes: Vec<StripeId>,
}

/// When a stripe was last looked at, in the coordinator's time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StripeCoverage {
    /// The stripe.
    pub stripe: StripeId,
    /// When it was last opened.
    pub opened_ms: Option<u64>,
    /// Its good shards on servers that are not lost: index, server, when it was last read whole.
    pub shards: Vec<(u8, ServerId, Option<u64>)>,
}

/// How a drill went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DrillResult {
    /// Every byte came back, and nothing was found bad.
    Well,
    /// Every byte came back, though something was found bad.
    Repairable,
    /// Servers are away.
    OutOfReach,
    /// Something could not be had back.
    Lost,
}

impl DrillResult {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Well, Self::Repairable, Self::OutOfReach, Self::Lost];

    /// Its name, on the wire and in the catalog.
    pub fn name(self) -> &'static str {
        match self {
            Self::Well => "well",
            Self::Repairable => "repairable",
            Self::OutOfReach => "out-of-reach",
            Self::Lost => "lost",
        }
    }
}

/// `POST /v1/drills`: what a drill came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drill {
    /// Files restored, and compared byte for byte with what was pushed.
    pub files: u64,
    /// Bytes of these.
    pub bytes: u64,
    /// Shards found missing or damaged.
    pub bad_shards: u64,
    /// Files that could not be had back.
    pub lost_files: u64,
    /// How it went.
    pub result: DrillResult,
}

/// A drill that was held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PastDrill {
    /// When it ended, in the coordinator's time.
    pub time_ms: u64,
    /// What it came to.
    #[serde(flatten)]
    pub drill: Drill,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_called_on_the_wire_as_in_the_catalog() {
        for result in DrillResult::ALL {
            assert_eq!(serde_json::to_value(result).unwrap(), result.name());
        }
    }
}

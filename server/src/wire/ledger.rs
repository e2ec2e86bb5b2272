//! How repair is doing, and what people may set of it.

use std::collections::BTreeMap;

use codec::{Geometry, StripeId};
use serde::{Deserialize, Serialize};

use super::{BACKGROUND_BYTES_PER_SECOND_MIN, Brake, Mode, ServerPace, State};

/// How an entry of the ledger stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LedgerState {
    /// For its turn, or for servers that are away.
    Waiting,
    /// The last try left shards lacking.
    Failed,
    /// The last try could not tell: servers that may have what it lacks did not answer.
    Unknown,
    /// The last try left nothing lacking; struck out once it was looked at again.
    Repaired,
}

/// The entries of the ledger, each number a count of rows of its own: `needed` is the sum of the
/// others.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerCounts {
    /// All of them.
    pub needed: u64,
    /// Those in [`LedgerState::Repaired`].
    pub repaired: u64,
    /// Those in [`LedgerState::Failed`].
    pub failed: u64,
    /// Those in [`LedgerState::Waiting`].
    pub waiting: u64,
    /// Those in [`LedgerState::Unknown`].
    pub unknown: u64,
}

/// One row of `GET /v1/ledger`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerRow {
    /// The stripe.
    pub stripe: StripeId,
    /// How it stands.
    pub state: LedgerState,
    /// When it was found lacking shards.
    pub found_ms: u64,
    /// When it was last tried.
    pub tried_ms: Option<u64>,
    /// Tries that failed in a row.
    pub attempts: u32,
    /// It is not tried before.
    pub due_ms: u64,
    /// Why the last try failed.
    pub why: Option<String>,
}

/// `POST /v1/repairs` has all that lacks shards tried once, now, worst first, whatever it waited
/// for, and gives the run that does it: a new one, unless one is under way. `GET` gives the last
/// one, if there was any since the coordinator's start.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepairRun {
    /// When it began, which names it.
    pub began_ms: u64,
    /// Whether all of it was tried.
    pub ended: bool,
    /// Its stripes: waiting are those whose turn is still to come.
    pub counts: LedgerCounts,
    /// Of those that failed, stripes with too few shards left, none of them on a server that did
    /// not answer.
    pub lost: u64,
    /// Shards that it made.
    pub made_shards: u64,
    /// Bytes of their files.
    pub made_bytes: u64,
    /// Bytes that went over the network to make them.
    pub read_bytes: u64,
    /// Why it ended before all was tried.
    pub why: Option<String>,
}

/// One row of `GET /v1/repairs/unmended`: a stripe that the run tried and that lacks shards still.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unmended {
    /// The stripe.
    pub stripe: StripeId,
    /// Failed or unknown.
    pub state: LedgerState,
    /// Whether it counts as lost.
    pub lost: bool,
    /// Why.
    pub why: String,
    /// What it lacks, and why each was not made, where that is known.
    pub lacking: Vec<(u8, String)>,
    /// Servers, by name, that hold a shard of it and did not give it.
    pub unreachable: Vec<String>,
}

/// `GET /v1/stripes/{digits}/repair`: what one stripe has and lacks, and when it is repaired.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepairOrder {
    /// The stripe.
    pub stripe: StripeId,
    /// Its code.
    pub geometry: Geometry,
    /// Every shard that the catalog has, by index.
    pub shards: Vec<StandingShard>,
    /// Good shards within reach, minus k.
    pub margin: i32,
    /// The same without the zone that would be missed most.
    pub worst_zone_margin: i32,
    /// How many of these shards only a suspect server has.
    pub suspects: u32,
    /// What the ledger has of it, if it is in it.
    pub entry: Option<LedgerRow>,
    /// Entries that would be repaired before it.
    pub before: u64,
    /// All that are to be repaired.
    pub of: u64,
    /// Whether it is being repaired.
    pub running: bool,
    /// Until when servers that are away are waited for; none where nothing is.
    pub waits_until_ms: Option<u64>,
    /// Whether that is since servers went together.
    pub braked: bool,
}

/// A shard and how its server is doing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StandingShard {
    /// Its index.
    pub index: u8,
    /// The server's name.
    pub server: String,
    /// Its failure domain.
    pub zone: String,
    /// How it is doing.
    pub state: State,
    /// What is wanted of it.
    pub mode: Mode,
    /// Whether the shard is known to be missing or damaged.
    pub bad: bool,
}

/// `GET /v1/repair`: how repair is doing.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RepairStatus {
    /// What is set.
    pub settings: RepairSettings,
    /// Whether the coordinator repairs by itself at all.
    pub automatic: bool,
    /// The entries of the ledger.
    pub counts: LedgerCounts,
    /// The stripes that are being repaired.
    pub running: Vec<StripeId>,
    /// Why stripes wait, if servers went together.
    pub brake: Option<Brake>,
    /// Shards made since the coordinator's start.
    pub made_shards: u64,
    /// Those of them that went past the servers' pace, of stripes with nothing to spare.
    #[serde(default)]
    pub urgent_shards: u64,
    /// Bytes of their files.
    pub made_bytes: u64,
    /// Bytes that went over the network to make them.
    pub read_bytes: u64,
    /// Shards that were moved to where new ones would go.
    pub moved_shards: u64,
    /// The pace of each server.
    #[serde(default)]
    pub paces: Vec<ServerPace>,
}

/// One page of `GET /v1/rebalance`: what some stripes have elsewhere than new ones would.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RebalancePage {
    /// Stripes that were looked at.
    pub stripes: u64,
    /// Those of them with shards to be moved.
    pub moving: u64,
    /// These shards.
    pub shards: u64,
    /// Bytes of their files.
    pub bytes: u64,
    /// Servers, by name, and the bytes that go to each.
    pub into: BTreeMap<String, u64>,
    /// The least margin, without the worst zone, of those stripes as they lie.
    pub margin_before: Option<i32>,
    /// The same once they have moved.
    pub margin_after: Option<i32>,
    /// Servers that are not well: nothing moves while there is one.
    pub unwell: Vec<String>,
    /// Where the next page begins, unless this is the last.
    pub next: Option<String>,
}

/// What people set of repair. It outlives a restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepairSettings {
    /// No repair is begun.
    pub paused: bool,
    /// Bytes a second that all servers together read and write for scrub, repair and rebalance; a
    /// stripe with nothing to spare is repaired at full speed all the same.
    pub bytes_per_second: Option<u64>,
    /// The same for each server.
    #[serde(default)]
    pub per_server: Option<u64>,
    /// Stripes repaired or moved at once.
    pub at_once: u32,
    /// Shards are moved to servers that joined.
    pub rebalances: bool,
}

impl RepairSettings {
    /// The pace of each of so many servers: its own, and its part of all.
    pub fn pace(&self, servers: u64) -> Option<u64> {
        let part = self.bytes_per_second.map(|all| all / servers.max(1));
        let least = [part, self.per_server].into_iter().flatten().min();
        least.map(|pace| pace.max(BACKGROUND_BYTES_PER_SECOND_MIN))
    }

    /// Whether shards are moved that nothing is wrong with.
    pub fn may_move(&self) -> bool {
        self.rebalances && !self.paused
    }
}

/// `PUT /v1/repair`: what is none stays as it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetRepair {
    /// Whether repair is held.
    pub paused: Option<bool>,
    /// The new pace of all servers together; 0 is no limit.
    pub bytes_per_second: Option<u64>,
    /// The new pace of each; 0 is no limit.
    #[serde(default)]
    pub per_server: Option<u64>,
    /// Stripes repaired at once.
    pub at_once: Option<u32>,
    /// Whether shards are moved to servers that joined.
    #[serde(default)]
    pub rebalances: Option<bool>,
    /// Has repair go on, whoever went together.
    #[serde(default)]
    pub lift_brake: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_has_its_own_pace_and_its_part_of_all() {
        let pace = |bytes_per_second, per_server, servers| {
            let (paused, at_once, rebalances) = (false, 4, true);
            let set = RepairSettings { paused, bytes_per_second, per_server, at_once, rebalances };
            set.pace(servers)
        };
        const MIB: u64 = 1 << 20;
        assert_eq!(pace(None, None, 5), None);
        assert_eq!(pace(Some(10 * MIB), None, 5), Some(2 * MIB));
        assert_eq!(pace(None, Some(3 * MIB), 5), Some(3 * MIB));
        assert_eq!(pace(Some(10 * MIB), Some(3 * MIB), 5), Some(2 * MIB));
        assert_eq!(pace(Some(20 * MIB), Some(3 * MIB), 5), Some(3 * MIB));
        assert_eq!(pace(Some(MIB), None, 1000), Some(BACKGROUND_BYTES_PER_SECOND_MIN));
        assert_eq!(pace(Some(MIB), None, 0), Some(MIB));
    }
}

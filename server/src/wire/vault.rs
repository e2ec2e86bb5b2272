//! The vault as a whole.

use codec::VaultId;
use serde::{Deserialize, Serialize};

use super::{BackupStatus, Blob, Brake, Head, LedgerCounts, PastDrill, State};

/// `GET /v1/vault`, with the owner token.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct VaultInfo {
    /// The vault.
    pub vault: VaultId,
    /// Its record, once `arc init` made one.
    pub record: Option<Blob>,
    /// The coordinator's epoch.
    pub epoch: u64,
    /// The coordinator's time.
    pub now_ms: u64,
    /// Servers that have joined.
    pub servers: u32,
    /// Zones among them.
    pub zones: u32,
    /// Those of them that have said since the coordinator's start that they have the record.
    #[serde(default)]
    pub record_on: u32,
    /// The stamps that are stored; older coordinators have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head: Option<Head>,
    /// Why the catalog takes no pushes, if it is an older copy or a new one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub catalog_old: Option<String>,
}

/// `PUT /v1/vault`: the first record, by `arc init`, refused with `VaultExists` when there is one; or
/// a changed one, of the next generation, refused with `Conflict` when there is another of it. Once
/// it is answered, every server that is up has it, or did not take it within some seconds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PutVault {
    /// The encoded vault record.
    pub record: Blob,
}

/// `GET /v1/status?…`: what of it takes long.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusQuery {
    /// Whether to count the chunks: that goes through all of them.
    #[serde(default)]
    pub chunks: bool,
}

/// The answer to it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Status {
    /// The vault.
    pub vault: VaultId,
    /// The coordinator's epoch.
    pub epoch: u64,
    /// The coordinator's time.
    pub now_ms: u64,
    /// Kept snapshots.
    pub snapshots: u64,
    /// Stripes committed.
    pub stripes: u64,
    /// Chunks known, where it was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chunks: Option<u64>,
    /// Bytes of all packs, before parity.
    pub pack_bytes: u64,
    /// Bytes of all shard bodies that the catalog has.
    pub shard_bytes: u64,
    /// How many stripes have how many good shards on servers that are up, minus k: (margin, stripes), ascending.
    pub margins: Vec<(i32, u64)>,
    /// Stripes with fewer recorded good shards than n.
    pub stripes_below_target: u64,
    /// Leases that are open.
    pub leases: u64,
    /// Shards that unfinished pushes whose lease is over may have left, by their intents.
    pub leftover_shards: u64,
    /// Servers by state.
    pub servers: Vec<(State, u32)>,
    /// That repair waits, if it does.
    #[serde(default)]
    pub brake: Option<Brake>,
    /// The entries of the ledger of repair.
    #[serde(default)]
    pub repairs: LedgerCounts,
    /// Why the catalog takes no pushes, if it is an older copy or a new one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub catalog_old: Option<String>,
    /// Stripes that have none.
    #[serde(default)]
    pub whole: u64,
    /// Stripes all of whose shards were read whole, and found good, within [`super::RECENT_MS`].
    #[serde(default)]
    pub read_recently: u64,
    /// The last drill.
    #[serde(default)]
    pub last_drill: Option<PastDrill>,
    /// How backups of the coordinator's folder stand.
    #[serde(default)]
    pub backup: BackupStatus,
}

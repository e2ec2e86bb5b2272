//! Servers: how they join, say that they are back, and how they are doing.

use codec::VaultId;
use serde::{Deserialize, Serialize};

use super::{Blob, ServerId};

/// `POST /v1/join`, with the join token: a storage server's first start.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct JoinRequest {
    /// The name people know it by, unique in the vault.
    pub name: String,
    /// Its failure domain.
    pub zone: String,
    /// Where clients and the coordinator reach it.
    pub url: String,
    /// Bytes of its disk.
    pub capacity_bytes: u64,
    /// Bytes free on its disk.
    pub free_bytes: u64,
}

/// What a server keeps of its join.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct JoinAnswer {
    /// Its number.
    pub server: ServerId,
    /// The vault it belongs to.
    pub vault: VaultId,
    /// The key that server and coordinator share (32 bytes): for receipts and hellos.
    pub shared_key: Blob,
    /// The coordinator's Ed25519 public key, which tickets are checked by.
    pub ticket_key: Blob,
}

/// `POST /v1/hello`: a server that joined before says that it is back, and where.
/// Authenticated by [`crate::auth::hello_mac`] in `mac`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Hello {
    /// Its number.
    pub server: ServerId,
    /// Where it is reached now.
    pub url: String,
    /// How often it has started: a hello with a lower number than was seen is a replay.
    pub starts: u64,
    /// The MAC over the rest.
    pub mac: Blob,
}

/// The answer to a hello, authenticated by [`crate::auth::hello_answer_mac`] in `mac`: whoever
/// listens at the coordinator's address while it is away cannot give one.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct HelloAnswer {
    /// The coordinator's epoch.
    pub epoch: u64,
    /// The coordinator's time.
    pub now_ms: u64,
    /// The vault record, if there is one.
    pub record: Option<Blob>,
    /// The MAC over the hello's and the rest.
    pub mac: Blob,
}

/// How a server is doing, by the coordinator's probes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Not probed since the coordinator started.
    Unknown,
    /// Answers.
    Up,
    /// Missed three probes: avoided.
    Suspect,
    /// Silent for longer.
    Down,
}

/// One row of `GET /v1/servers`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ServerInfo {
    /// Its number.
    pub server: ServerId,
    /// Its name.
    pub name: String,
    /// Its failure domain.
    pub zone: String,
    /// Where it is.
    pub url: String,
    /// How it is doing.
    pub state: State,
    /// When it last answered, if ever since the catalog was made.
    pub last_seen_ms: Option<u64>,
    /// Bytes of its disk.
    pub capacity_bytes: u64,
    /// Bytes free on its disk, as of its last answer.
    pub free_bytes: u64,
    /// Shards that the catalog has on it.
    pub shards: u64,
    /// Bytes of these.
    pub shard_bytes: u64,
}

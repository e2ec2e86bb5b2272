//! Backups of the coordinator's folder.

use codec::StripeId;
use serde::{Deserialize, Serialize};

/// `GET /v1/backup`, and in a status.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupStatus {
    /// The coordinator's epoch: runs are counted from 0 again in each.
    pub epoch: u64,
    /// The coordinator's time.
    pub now_ms: u64,
    /// From one backup to the next; 0: only those that are asked for.
    pub every_ms: u64,
    /// The newest.
    pub last: Option<BackupInfo>,
    /// Whether one is being made.
    pub running: bool,
    /// How many runs ended, one way or the other.
    pub ended: u64,
    /// Why the last run failed, if it did.
    pub failed: Option<String>,
}

/// A backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupInfo {
    /// The stripe with its record.
    pub record: StripeId,
    /// When it was made.
    pub made_ms: u64,
    /// Bytes of the files in it.
    pub bytes: u64,
    /// Its stripes, that of its record too.
    pub stripes: u64,
}

/// `POST /v1/backup`: one is made from now on.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BackupBegun {
    /// The coordinator's epoch.
    pub epoch: u64,
    /// The number of its run: it is over when so many have ended.
    pub run: u64,
}

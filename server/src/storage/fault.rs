//! Failures that tests plant, to see what is left behind.

use std::str::FromStr;

use crate::Error;

/// Where a server fails while it stores or reads a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The sync of the shard's file fails (`sync-fails`).
    SyncFails,
    /// The process aborts when the bytes are written (`abort-before-sync`).
    AbortBeforeSync,
    /// It aborts when they are synced, under a temporary name (`abort-before-rename`).
    AbortBeforeRename,
    /// It aborts when they have their name, before the receipt (`abort-after-rename`).
    AbortAfterRename,
    /// Shards of index 0 that are there cannot be opened (`open-fails`).
    OpenFails,
    /// Their bodies cannot be read (`read-fails`).
    ReadFails,
}

impl FromStr for Fault {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        Ok(match name {
            "sync-fails" => Self::SyncFails,
            "abort-before-sync" => Self::AbortBeforeSync,
            "abort-before-rename" => Self::AbortBeforeRename,
            "abort-after-rename" => Self::AbortAfterRename,
            "open-fails" => Self::OpenFails,
            "read-fails" => Self::ReadFails,
            _ => return Err(Error::Config(format!("{name:?} is not a fault that can be planted"))),
        })
    }
}

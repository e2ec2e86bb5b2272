//! Failures that tests plant, to see what is left behind.

use std::str::FromStr;

use crate::Error;

/// What fails while a server stores or reads a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The sync of the shard's file fails (`sync-fails`).
    SyncFails,
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
            "open-fails" => Self::OpenFails,
            "read-fails" => Self::ReadFails,
            _ => return Err(Error::Config(format!("{name:?} is not a fault that can be planted"))),
        })
    }
}

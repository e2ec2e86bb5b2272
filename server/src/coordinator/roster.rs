//! `DIR/servers`: who the vault's servers are, beside the catalog, so that they can be reached when
//! that is gone. Written before a join, a hello or an order that changes it is answered.

use std::path::Path;

use codec::VaultId;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use super::Core;
use super::folder::write_durably;
use crate::auth::Role;
use crate::wire::{Blob, Mode, ServerId, Weight};
use crate::{Error, Result};

/// The file's name in the coordinator's folder.
pub(super) const FILE: &str = "servers";
/// The version of the file.
const FORMAT: u16 = 0;
/// A roster is shorter than this: of thousands of servers.
const BYTES_MAX: u64 = 16 * 1024 * 1024;

/// What the file says.
#[derive(Serialize, Deserialize)]
pub(super) struct Roster {
    pub(super) format: u16,
    pub(super) vault: VaultId,
    /// That of the last start, or a later one.
    pub(super) epoch: u64,
    /// The highest number that a server ever had.
    pub(super) last_server: u32,
    /// The vault record, once there is one.
    pub(super) record: Option<Blob>,
    /// The origins that stamps name.
    pub(super) tokens: Vec<RosterToken>,
    pub(super) servers: Vec<RosterServer>,
}

/// A token that was made; its secret is in a file of its own.
#[derive(Serialize, Deserialize)]
pub(super) struct RosterToken {
    pub(super) id: i64,
    pub(super) role: Role,
}

/// A server that has joined.
#[derive(Serialize, Deserialize)]
pub(super) struct RosterServer {
    pub(super) server: ServerId,
    pub(super) name: String,
    pub(super) zone: String,
    pub(super) url: String,
    pub(super) shared_key: Blob,
    pub(super) mode: Mode,
    pub(super) lost: bool,
    /// The highest start number that a hello named.
    pub(super) starts: u64,
    #[serde(default)]
    pub(super) weight: Weight,
}

impl Roster {
    pub(super) fn new(
        vault: VaultId,
        epoch: u64,
        last_server: u32,
        record: Option<Vec<u8>>,
        tokens: Vec<RosterToken>,
        servers: Vec<RosterServer>,
    ) -> Self {
        Self {
            format: FORMAT,
            vault,
            epoch,
            last_server,
            record: record.map(Blob),
            tokens,
            servers,
        }
    }

    /// The roster in a coordinator's folder.
    pub(super) fn read(folder: &Path) -> Result<Self> {
        let path = folder.join(FILE);
        let not = |why: String| Error::Config(format!("{} cannot be used: {why}", path.display()));
        let length = path.metadata().map_err(Error::io("cannot read", &path))?.len();
        if length > BYTES_MAX {
            return Err(not(format!("it has {length} bytes")));
        }
        let bytes = std::fs::read(&path).map_err(Error::io("cannot read", &path))?;
        let roster: Self = serde_json::from_slice(&bytes).map_err(|e| not(e.to_string()))?;
        if roster.format > FORMAT {
            let format = roster.format;
            return Err(not(format!("it has format {format}, this arc reads up to {FORMAT}")));
        }
        Ok(roster)
    }
}

/// What was last written.
#[derive(Default)]
pub(super) struct Written(Mutex<Vec<u8>>);

/// Writes the roster down, if it has changed.
pub(super) async fn write(core: &Core) -> Result<()> {
    let mut written = core.roster.0.lock().await;
    let roster = core.catalog.roster().await?;
    let bytes = serde_json::to_vec_pretty(&roster)
        .map_err(|error| Error::Config(format!("cannot write {FILE}: {error}")))?;
    if bytes == *written {
        return Ok(());
    }
    let (path, kept) = (core.folder.path().join(FILE), bytes.clone());
    let writing = tokio::task::spawn_blocking(move || write_durably(&path, &kept));
    let failed = |_| Error::Config(format!("{FILE} was not written"));
    writing.await.map_err(failed)??;
    *written = bytes;
    Ok(())
}

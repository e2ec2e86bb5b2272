//! Who a server is: `server.id`, made once at its join, and `keys`.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use codec::VaultId;
use rustix::fs::{statfs, statvfs};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::folder::Folder;
use crate::wire::{Blob, JoinAnswer, ServerId};
use crate::{Error, Result};

/// The version of the folder's layout.
const FORMAT: u16 = 0;
const FILE: &str = "server.id";
const KEYS_FILE: &str = "keys";

/// What `server.id` says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Identity {
    pub(super) format: u16,
    pub(super) vault: VaultId,
    pub(super) server: ServerId,
    pub(super) name: String,
    pub(super) zone: String,
    /// The coordinator's Ed25519 public key.
    pub(super) ticket_key: Blob,
    /// The disk that the folder was made on; without it the present one is taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) disk: Option<Disk>,
}

/// What `keys` holds.
#[derive(Serialize, Deserialize)]
pub(super) struct Keys {
    /// Shared with the coordinator: for receipts and hellos.
    pub(super) shared_key: Blob,
}

/// The file system that a folder is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Disk {
    /// The kind of file system: `statfs`'s `f_type`.
    kind: u64,
    /// Its id: `statvfs`'s `f_fsid`.
    id: u64,
    /// The device number, for people: it may change with every boot.
    device: u64,
}

/// ext2 to ext4, btrfs, zfs, bcachefs: their id is made of a UUID on the disk.
const LASTING_IDS: [u64; 4] = [0xef53, 0x9123_683e, 0x2fc1_2fc1, 0xca45_1a4e];

impl Disk {
    pub(super) fn of(path: &Path) -> Result<Self> {
        let fail = |error: rustix::io::Errno| Error::io("cannot examine", path)(error.into());
        let kind = statfs(path).map_err(fail)?.f_type as u64;
        let id = statvfs(path).map_err(fail)?.f_fsid;
        let device = path.metadata().map_err(Error::io("cannot examine", path))?.dev();
        Ok(Self { kind, id, device })
    }

    /// Whether this may be the disk that was `recorded`. Elsewhere than on file systems with
    /// lasting ids (on xfs, tmpfs, overlay) the id follows the device number or the mount, changes
    /// at a boot, and says nothing; there only the kind is compared.
    fn may_be(&self, recorded: &Self) -> bool {
        self.kind == recorded.kind && (!LASTING_IDS.contains(&self.kind) || self.id == recorded.id)
    }
}

impl Identity {
    /// The identity in `folder`, if it has one and is on the disk it was made on.
    pub(super) fn read(folder: &Folder) -> Result<Option<(Self, Keys)>> {
        let Some(mut identity) = read_json::<Self>(folder, FILE)? else { return Ok(None) };
        let path = folder.root().display();
        if identity.format > FORMAT {
            return Err(Error::Config(format!(
                "{path} has format {}, this build reads up to {FORMAT}: upgrade arc",
                identity.format
            )));
        }
        let present = Disk::of(folder.root())?;
        match &identity.disk {
            Some(recorded) if !present.may_be(recorded) => {
                return Err(Error::Config(format!(
                    "{path} is not on the disk that server {:?} was made on: is this a copy, or \
                     is another disk mounted here? If it was moved on purpose and the old one is \
                     gone, take `disk` out of server.id",
                    identity.name
                )));
            }
            Some(_) => {}
            None => {
                identity.disk = Some(present);
                if let Err(error) = write_json(folder, FILE, &identity) {
                    tracing::warn!(%error, "the next start asks for the disk again");
                }
            }
        }
        let keys = read_json(folder, KEYS_FILE)?.ok_or_else(|| {
            Error::Config(format!("{path} has a server.id, but its file `keys` is gone"))
        })?;
        Ok(Some((identity, keys)))
    }

    /// Keeps what the coordinator answered to a join. `server.id` comes last: with it the
    /// folder is a server's.
    pub(super) fn keep(
        folder: &Folder,
        name: String,
        zone: String,
        answer: &JoinAnswer,
    ) -> Result<(Self, Keys)> {
        let identity = Self {
            format: FORMAT,
            vault: answer.vault,
            server: answer.server,
            name,
            zone,
            ticket_key: answer.ticket_key.clone(),
            disk: Some(Disk::of(folder.root())?),
        };
        let keys = Keys { shared_key: answer.shared_key.clone() };
        write_json(folder, KEYS_FILE, &keys)?;
        write_json(folder, FILE, &identity)?;
        Ok((identity, keys))
    }
}

fn read_json<T: DeserializeOwned>(folder: &Folder, name: &str) -> Result<Option<T>> {
    let Some(bytes) = folder.read(name)? else { return Ok(None) };
    let path = folder.root().join(name);
    serde_json::from_slice(&bytes).map(Some).map_err(|error| {
        Error::Config(format!("{} does not hold what it should: {error}", path.display()))
    })
}

fn write_json(folder: &Folder, name: &str, value: &impl Serialize) -> Result<()> {
    let bytes = serde_json::to_vec_pretty(value)
        .map_err(|error| Error::Config(format!("cannot write {name}: {error}")))?;
    folder.write(name, &bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_disk_is_noticed_where_ids_last() {
        let disk = |kind, id, device| Disk { kind, id, device };
        let (ext4, tmpfs) = (0xef53, 0x0102_1994);
        for (recorded, present, same) in [
            (disk(ext4, 1, 1), disk(ext4, 1, 9), true),
            (disk(ext4, 1, 1), disk(ext4, 2, 1), false),
            (disk(ext4, 1, 1), disk(tmpfs, 1, 1), false),
            (disk(tmpfs, 1, 1), disk(tmpfs, 2, 2), true),
        ] {
            assert_eq!(present.may_be(&recorded), same, "{recorded:?} {present:?}");
        }
    }
}

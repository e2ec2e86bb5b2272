//! Whose signature a backup must have: the coordinator's key, as servers pinned it at their join.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use codec::VaultId;
use serde::Deserialize;
use server::wire::Blob;

use super::records::near;

/// Where a server pins it, and how long that file is at most.
const NAME: &str = "server.id";
const BYTES_MAX: u64 = 64 * 1024;

/// Of `server.id`, what matters here.
#[derive(Deserialize)]
struct Pin {
    vault: VaultId,
    ticket_key: Blob,
}

/// The key of the coordinator of `vault` that most of the folders have pinned: one server alone could
/// name any.
pub fn coordinator_key(dirs: &[PathBuf], vault: VaultId) -> Option<Vec<u8>> {
    let mut counts: BTreeMap<Vec<u8>, usize> = BTreeMap::new();
    for pin in near(dirs, NAME).iter().filter_map(|path| read(path)) {
        if pin.vault == vault {
            *counts.entry(pin.ticket_key.0).or_default() += 1;
        }
    }
    counts.into_iter().max_by_key(|(_, count)| *count).map(|(key, _)| key)
}

fn read(path: &Path) -> Option<Pin> {
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(BYTES_MAX).read_to_end(&mut bytes).ok()?;
    serde_json::from_slice(&bytes).ok()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::json;

    use super::*;

    #[test]
    fn the_key_that_most_servers_pinned_counts() {
        let dir = tempfile::tempdir().unwrap();
        let vault = VaultId([1; 16]);
        let pin = |name: &str, vault: VaultId, key: u8| {
            let folder = dir.path().join(name);
            fs::create_dir_all(folder.join("shards")).unwrap();
            let id = json!({ "vault": vault, "ticket_key": Blob(vec![key; 32]), "name": name });
            fs::write(folder.join("server.id"), id.to_string()).unwrap();
        };
        let dirs = [dir.path().to_owned()];
        assert_eq!(coordinator_key(&dirs, vault), None);
        pin("disks/a", vault, 9);
        pin("disks/b", vault, 3);
        pin("disks/c", vault, 3);
        ["d", "e", "f"].iter().for_each(|name| pin(name, VaultId([2; 16]), 7));
        fs::create_dir(dir.path().join("g")).unwrap();
        fs::write(dir.path().join("g/server.id"), "nonsense").unwrap();
        assert_eq!(coordinator_key(&dirs, vault), Some(vec![3; 32]));
        let alone = [dir.path().join("disks/a/shards")];
        assert_eq!(coordinator_key(&alone, vault), Some(vec![9; 32]));
    }
}

//! Whose signature a backup must have: the coordinator's key, as servers pinned it at their join.
//!
//! A server's folder is all its own doing, so it has one vote, whatever lies in it. Which folders are
//! servers' is said by whoever gives them: each one that is given has a vote. Where only one is given
//! that has pins, and it is no server's own, each folder in it has a vote.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};

use codec::VaultId;
use serde::Deserialize;
use server::wire::Blob;

use super::records::DEPTH_MAX;
use crate::exit::{Exit, Failure};
use crate::ui::path_text;

/// Where a server pins it, and how long that file is at most.
const NAME: &str = "server.id";
const BYTES_MAX: u64 = 64 * 1024;
/// Folders that a failure names for each key.
const NAMED_MAX: usize = 8;

/// Of `server.id`, what matters here.
#[derive(Deserialize)]
struct Pin {
    vault: VaultId,
    ticket_key: Blob,
}

/// A folder, and what it says of the key.
struct Voter {
    path: PathBuf,
    keys: BTreeSet<Vec<u8>>,
    /// The folders in it that say so; none where it is a server's own.
    within: Vec<Voter>,
}

impl Voter {
    /// `None`: nothing is pinned there for this vault.
    fn of(dir: &Path, vault: VaultId, depth: u32) -> Option<Self> {
        let path = dir.to_owned();
        let own = dir.join(NAME);
        // What else lies in a server's folder is no other server's.
        if own.exists() {
            let pin = read(&own).filter(|pin| pin.vault == vault)?;
            return Some(Self { path, keys: [pin.ticket_key.0].into(), within: Vec::new() });
        }
        if dir.ends_with("shards") || depth == DEPTH_MAX {
            return None;
        }
        let mut within = Vec::new();
        // A folder that cannot be listed is told of when its shards are looked for.
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                within.extend(Self::of(&entry.path(), vault, depth + 1));
            }
        }
        let keys: BTreeSet<_> = within.iter().flat_map(|voter| voter.keys.clone()).collect();
        (!keys.is_empty()).then_some(Self { path, keys, within })
    }
}

/// The key of the coordinator of `vault` that most of the folders have pinned: one server alone could
/// name any. A folder that is not of one mind may count for any key, so it counts against each.
pub fn coordinator_key(dirs: &[PathBuf], vault: VaultId) -> Result<Option<Vec<u8>>, Failure> {
    let above = |dir: &PathBuf| match dir.parent() {
        Some(above) if dir.ends_with("shards") => above.join(NAME).exists().then(|| above.into()),
        _ => Some(dir.clone()),
    };
    // Each once.
    let dirs: BTreeSet<PathBuf> = dirs.iter().filter_map(above).collect();
    let mut voters: Vec<Voter> = dirs.iter().filter_map(|dir| Voter::of(dir, vault, 0)).collect();
    while let [only] = &mut voters[..]
        && !only.within.is_empty()
    {
        voters = std::mem::take(&mut only.within);
    }
    let mut votes: BTreeMap<&Vec<u8>, Vec<&Path>> = BTreeMap::new();
    let mut unsure = Vec::new();
    for Voter { path, keys, .. } in &voters {
        match keys.first() {
            Some(key) if keys.len() == 1 => votes.entry(key).or_default().push(path),
            _ => unsure.push(path.as_path()),
        }
    }
    let mut ranked: Vec<_> = votes.into_iter().collect();
    ranked.sort_by_key(|(_, paths)| std::cmp::Reverse(paths.len()));
    let next = ranked.get(1).map_or(0, |(_, paths)| paths.len()) + unsure.len();
    match ranked.first() {
        None if unsure.is_empty() => Ok(None),
        Some((key, paths)) if paths.len() > next => Ok(Some(key.to_vec())),
        _ => Err(undecided(&ranked, &unsure)),
    }
}

fn undecided(ranked: &[(&Vec<u8>, Vec<&Path>)], unsure: &[&Path]) -> Failure {
    let named = |paths: &[&Path]| {
        let some: Vec<_> = paths.iter().take(NAMED_MAX).map(|path| path_text(path)).collect();
        let more = if paths.len() > some.len() { " and more" } else { "" };
        format!("{}{more}", some.join(", "))
    };
    let what = "these folders do not agree on whose backups count";
    let failure = Failure::new(Exit::Usage, what)
        .why("the coordinator's key is the one that most servers have pinned, one vote a folder");
    let failure = ranked.iter().take(NAMED_MAX).fold(failure, |failure, (key, paths)| {
        let digits: String = key.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
        failure.why(format!("the key {digits}… is in {}", named(paths)))
    });
    let failure = match unsure {
        [] => failure,
        _ => failure.why(format!("several keys are in {}", named(unsure))),
    };
    failure
        .state("nothing was read or written")
        .next("give each server's folder by itself: a folder of several counts as one")
        .next("give more servers' folders, or leave out those that you do not trust")
}

fn read(path: &Path) -> Option<Pin> {
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(BYTES_MAX).read_to_end(&mut bytes).ok()?;
    serde_json::from_slice(&bytes).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const VAULT: VaultId = VaultId([1; 16]);

    struct Root(tempfile::TempDir);

    impl Root {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn pin(&self, name: &str, key: u8) {
            let folder = self.0.path().join(name);
            fs::create_dir_all(folder.join("shards")).unwrap();
            let id = json!({ "vault": VAULT, "ticket_key": Blob(vec![key; 32]), "name": name });
            fs::write(folder.join("server.id"), id.to_string()).unwrap();
        }

        /// The first byte of the key; an error: undecided.
        fn key(&self, dirs: &[&str]) -> Result<Option<u8>, Exit> {
            let dirs: Vec<_> = dirs.iter().map(|dir| self.0.path().join(dir)).collect();
            let key = coordinator_key(&dirs, VAULT).map_err(|failure| failure.code)?;
            Ok(key.map(|key| key[0]))
        }
    }

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
        let coordinator_key = |dirs: &[PathBuf], vault| coordinator_key(dirs, vault).unwrap();
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

    #[test]
    fn whatever_lies_in_one_servers_folder_it_has_one_vote() {
        for own in [true, false] {
            let root = Root::new();
            ["disks/a", "disks/b"].iter().for_each(|name| root.pin(name, 3));
            (0..99).for_each(|n| root.pin(&format!("disks/c/x{n}"), 9));
            if own {
                root.pin("disks/c", 9);
            }
            let each = ["disks/a", "disks/b", "disks/c"];
            for dirs in [&["disks"][..], &["."], &each, &["disks/a/shards", each[1], each[2]]] {
                assert_eq!(root.key(dirs), Ok(Some(3)), "{dirs:?}, {own}");
            }
            // Nor does it count twice by its parts, or for a key besides that of its own.
            root.pin("disks/c/y/z", 5);
            for dirs in [&["disks"][..], &each] {
                assert_eq!(root.key(dirs), Ok(Some(3)), "{dirs:?}, {own}");
            }
        }
    }

    #[test]
    fn a_tie_is_not_decided() {
        let root = Root::new();
        root.pin("disks/a", 3);
        root.pin("disks/b", 9);
        assert_eq!(root.key(&["disks"]), Err(Exit::Usage));
        assert_eq!(root.key(&["disks/a", "disks/b"]), Err(Exit::Usage));
        root.pin("other/c", 3);
        assert_eq!(root.key(&["disks/a", "disks/b", "other/c"]), Ok(Some(3)));
        // A folder of two minds could be of either.
        assert_eq!(root.key(&["disks", "other/c"]), Err(Exit::Usage));
        root.pin("more/d", 3);
        assert_eq!(root.key(&["disks", "other", "more"]), Ok(Some(3)));
    }
}

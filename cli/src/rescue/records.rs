//! The vault record beside the shards.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};

use codec::VaultId;
use codec::keys::{VAULT_RECORD_BYTES_MAX, VaultRecord};

use crate::exit::{Exit, Failure};
use crate::ui::path_text;

/// What a server calls it.
const NAME: &str = "vault.record";
/// It lies so many folders below what was given at most: `disks/1` of a local vault, and one more.
pub(super) const DEPTH_MAX: u32 = 3;

/// The records in `file`, or in and near `dirs`: the newest first, and of one generation the one
/// that most folders have. All are of one vault.
pub fn find(dirs: &[PathBuf], file: Option<&Path>) -> Result<Vec<VaultRecord>, Failure> {
    if let Some(file) = file {
        return Ok(vec![read(file)?]);
    }
    let (found, refused): (Vec<_>, Vec<_>) =
        near(dirs, NAME).iter().map(|path| read(path)).partition(Result::is_ok);
    let found: Vec<VaultRecord> = found.into_iter().filter_map(Result::ok).collect();
    let Some(first) = found.first() else {
        return Err(refused.into_iter().find_map(Result::err).unwrap_or_else(|| none(dirs)));
    };
    let vault = first.vault;
    match found.iter().find(|record| record.vault != vault) {
        None => Ok(ranked(found)),
        Some(other) => Err(two_vaults(vault, other.vault)),
    }
}

/// Each once.
fn ranked(found: Vec<VaultRecord>) -> Vec<VaultRecord> {
    let mut counted: Vec<(u64, usize, VaultRecord)> = Vec::new();
    for record in found {
        match counted.iter_mut().find(|(_, _, known)| *known == record) {
            Some((_, count, _)) => *count += 1,
            None => counted.push((record.generation, 1, record)),
        }
    }
    counted.sort_by_key(|(generation, count, _)| std::cmp::Reverse((*generation, *count)));
    counted.into_iter().map(|(_, _, record)| record).collect()
}

/// The files of this name beside the shards.
fn near(dirs: &[PathBuf], name: &str) -> Vec<PathBuf> {
    let mut paths = Vec::new();
    for dir in dirs {
        collect(dir, name, 0, &mut paths);
        if dir.ends_with("shards") {
            paths.extend(dir.parent().map(|above| above.join(name)));
        }
    }
    paths.retain(|path| path.is_file());
    paths
}

/// A folder that cannot be listed is told of when its shards are looked for.
fn collect(dir: &Path, name: &str, depth: u32, paths: &mut Vec<PathBuf>) {
    paths.push(dir.join(name));
    if depth == DEPTH_MAX {
        return;
    }
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if is_dir && entry.file_name() != "shards" {
            collect(&entry.path(), name, depth + 1, paths);
        }
    }
}

fn read(path: &Path) -> Result<VaultRecord, Failure> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(VAULT_RECORD_BYTES_MAX as u64 + 1).read_to_end(&mut bytes))
        .map_err(Failure::io("cannot read", path))?;
    VaultRecord::decode(&bytes).map_err(|error| {
        Failure::new(Exit::NoVault, format!("{} cannot be used", path_text(path)))
            .why(error.to_string())
            .state("nothing was read or written")
            .next("--record FILE    with the vault.record of another server")
    })
}

fn none(dirs: &[PathBuf]) -> Failure {
    let failure = Failure::new(Exit::NoVault, "there is no vault record in these folders").why(format!(
        "{NAME} lies beside `shards` in the folder of every server and disk; the passphrase opens \
         nothing without it"
    ));
    let closed = dirs.iter().filter_map(|dir| Some((dir, fs::read_dir(dir).err()?)));
    closed
        .fold(failure, |failure, (dir, error)| {
            failure.why(format!("{} cannot be listed: {error}", path_text(dir)))
        })
        .state("nothing was read or written")
        .next("arc rescue DIR… --to OUT --record FILE    with a copy of it")
}

fn two_vaults(one: VaultId, other: VaultId) -> Failure {
    Failure::new(Exit::Usage, "these folders are of several vaults")
        .why(format!("there is a record of {one:.8} and one of {other:.8}"))
        .state("nothing was read or written")
        .next("give the folders of one of them, or its record with --record FILE")
}

#[cfg(test)]
mod tests {
    use codec::keys::{Argon2Cost, Secret, VaultRandom};

    use super::*;

    fn record(vault: u8, generation: u64) -> VaultRecord {
        let random = VaultRandom {
            master: [1; 32],
            salt: [2; 32],
            nonce: [3; 12],
            private_key: [4; 32],
            private_nonce: [5; 12],
        };
        let cost = Argon2Cost { memory_kib: 8, passes: 1, lanes: 1 };
        let secret = Secret::KeyFile(vec![9; 32].into());
        let vault = VaultId([vault; 16]);
        let code = "4+2".parse().unwrap();
        let (mut record, _) = VaultRecord::create(vault, code, &secret, cost, random).unwrap();
        record.generation = generation;
        record
    }

    #[test]
    fn the_newest_record_is_found_beside_the_shards() {
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &str| dir.path().join(path);
        let put = |path: &str, bytes: &[u8]| {
            fs::create_dir_all(at(path).join("shards/ab")).unwrap();
            fs::write(at(path).join(NAME), bytes).unwrap();
        };
        let failed = |dirs: &[PathBuf]| find(dirs, None).map(drop).unwrap_err().code;
        fs::create_dir_all(at("empty")).unwrap();
        assert_eq!(failed(&[at("empty")]), Exit::NoVault);
        put("v/disks/1", &record(1, 1).encode());
        put("v/disks/2", &record(1, 2).encode());
        put("v/disks/3", &record(1, 1).encode());
        put("v/disks/4", b"rotten");
        let generations = |dirs: &[PathBuf]| -> Vec<u64> {
            find(dirs, None).unwrap().iter().map(|record| record.generation).collect()
        };
        assert_eq!(generations(&[at("v")]), [2, 1]);
        assert_eq!(generations(&[at("v/disks/1/shards"), at("v/disks/4")]), [1]);
        assert_eq!(failed(&[at("v/disks/4")]), Exit::NoVault);
        assert_eq!(find(&[], Some(&at("v/disks/1/vault.record"))).unwrap().len(), 1);
        put("other", &record(2, 1).encode());
        assert_eq!(failed(&[at("v"), at("other")]), Exit::Usage);
    }
}

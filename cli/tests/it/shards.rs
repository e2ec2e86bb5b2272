//! The shard files of a local vault, to be damaged.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use codec::shard::{Kind, Shard};

use crate::sandbox::Sandbox;

/// One file below `vault/disks/`.
#[derive(Debug, Clone)]
pub(crate) struct ShardFile {
    pub(crate) path: PathBuf,
    /// Its stripe's id.
    pub(crate) stripe: String,
    /// Its index in the stripe.
    pub(crate) index: u64,
    /// Of which kind its stripe is.
    pub(crate) kind: Kind,
    /// Bytes before its body.
    pub(crate) header_bytes: u64,
    /// Bytes of its body.
    pub(crate) body_bytes: u64,
    /// When it was written, in nanoseconds.
    written: i128,
}

impl ShardFile {
    /// Reads the file, changes it, and writes it back.
    pub(crate) fn change(&self, change: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = fs::read(&self.path).unwrap();
        change(&mut bytes);
        fs::write(&self.path, bytes).unwrap();
    }

    /// Flips one bit.
    pub(crate) fn flip(&self, byte: u64, bit: u32) {
        self.change(|bytes| bytes[byte as usize] ^= 1 << bit);
    }

    /// The first eight digits of its stripe, as shown.
    pub(crate) fn short(&self) -> &str {
        &self.stripe[..8]
    }
}

/// All shard files of the vault at `vault/`, stripes in the order in which they were written.
pub(crate) fn all(sandbox: &Sandbox) -> Vec<ShardFile> {
    let list = |path: PathBuf| -> Vec<PathBuf> {
        fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).collect()
    };
    let folders = list(sandbox.path("vault/disks"))
        .into_iter()
        .filter(|disk| disk.join("shards").exists())
        .flat_map(|disk| list(disk.join("shards")));
    let mut files: Vec<ShardFile> = folders.flat_map(list).map(shard_file).collect();
    let began = |stripe: &str| {
        let of_stripe = files.iter().filter(|file| file.stripe == stripe);
        of_stripe.map(|file| file.written).min()
    };
    let order: Vec<_> =
        files.iter().map(|file| (began(&file.stripe), file.stripe.clone(), file.index)).collect();
    let mut keyed: Vec<_> = order.into_iter().zip(files.drain(..)).collect();
    keyed.sort_by(|(a, _), (b, _)| a.cmp(b));
    keyed.into_iter().map(|(_, file)| file).collect()
}

/// The data stripes but for the last, each with its files by index: they have no page of the
/// manifest.
pub(crate) fn data_stripes(sandbox: &Sandbox) -> Vec<Vec<ShardFile>> {
    let mut files = all(sandbox);
    files.retain(|file| file.kind == Kind::Data);
    let mut stripes: Vec<Vec<ShardFile>> =
        files.chunk_by(|a, b| a.stripe == b.stripe).map(<[_]>::to_vec).collect();
    stripes.pop();
    stripes
}

fn shard_file(path: PathBuf) -> ShardFile {
    let bytes = fs::read(&path).unwrap();
    let header = Shard::parse(&bytes).unwrap().header;
    let stat = path.metadata().unwrap();
    ShardFile {
        stripe: header.stripe.to_string(),
        index: header.index.into(),
        kind: header.kind,
        header_bytes: header.header_bytes(),
        body_bytes: header.shard_bytes,
        written: i128::from(stat.mtime()) * 1_000_000_000 + i128::from(stat.mtime_nsec()),
        path,
    }
}

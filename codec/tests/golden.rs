//! Formats ever written stay readable: every file in testdata/golden is read, by its extension.
//!
//! Until 0.1 the files may be written anew, in a commit that says so:
//! `cargo test -p arc-codec --test golden regenerate -- --ignored`
// The codec does no I/O; its tests may.
#![allow(clippy::disallowed_methods, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use arc_codec::erasure::Code;
use arc_codec::seal::PackKeyField;
use arc_codec::shard::{Kind, Shard};
use arc_codec::stripe::{self, Stripe};
use arc_codec::{Geometry, VaultId};

/// File contents by file name, `STEM.EXTENSION` or `STEM.NUMBER.EXTENSION`.
type Files = BTreeMap<String, Vec<u8>>;

#[test]
fn every_golden_file_is_readable() {
    let files = golden_files();
    assert!(!files.is_empty(), "testdata/golden is empty");
    for (name, bytes) in &files {
        match extension(name) {
            "shard" => read_shard(name, bytes, &files),
            "pack" => read_pack(name, &files),
            _ => panic!("{name}: no arm of this match reads such files"),
        }
    }
}

/// A shard is whole, and with its siblings gives the pack beside them; so does every
/// choice of k of them in a row.
fn read_shard(name: &str, bytes: &[u8], files: &Files) {
    let header = Shard::parse(bytes).unwrap_or_else(|error| panic!("{name}: {error}")).header;
    let geometry = header.geometry;
    let (n, k) = (geometry.shards(), geometry.data());
    let mut bodies = vec![None; n];
    for shard in with_extension("shard", files).map(|bytes| Shard::parse(bytes).unwrap()) {
        if shard.header.stripe == header.stripe {
            bodies[shard.header.index as usize] = Some(shard.body.to_vec());
        }
    }
    let pack = &files[&format!("{}.pack", stem(name))];
    for first in 0..n {
        let mut bodies = bodies.clone();
        (k..n).for_each(|lost| bodies[(first + lost) % n] = None);
        Code::new(geometry).decode(&mut bodies).unwrap_or_else(|error| panic!("{name}: {error}"));
        let data: Vec<&[u8]> = bodies[..k].iter().flatten().map(Vec::as_slice).collect();
        let joined = stripe::join(geometry, header.pack_bytes, &data).unwrap();
        assert!(joined == *pack, "{name}: the pack differs");
    }
}

/// A pack lies beside the shards of its stripe.
fn read_pack(name: &str, files: &Files) {
    let beside = |other: &&String| extension(other) == "shard" && stem(other) == stem(name);
    assert!(files.keys().any(|other| beside(&other)), "{name} has no shards");
}

#[test]
fn stripes_are_still_written_the_same() {
    let files = golden_files();
    for (name, bytes) in stripe_files() {
        assert!(files.get(&name) == Some(&bytes), "{name} is written differently now");
    }
}

#[test]
#[ignore = "writes testdata/golden"]
fn regenerate() {
    for (name, bytes) in stripe_files() {
        std::fs::write(folder().join(name), bytes).unwrap();
    }
}

/// A small pack in 4+2, and one of two blocks in copies.
fn stripe_files() -> Files {
    let mut files = Files::new();
    for (stem, kind, (k, m), pack_bytes) in
        [("data-4-2", Kind::Data, (4, 2), 4_000), ("record-1-2", Kind::Record, (1, 2), 65_601)]
    {
        let pack: Vec<u8> = (0..pack_bytes).map(|x: u32| (x * 31 + x / 251) as u8).collect();
        let vault = VaultId([0x56; 16]);
        let geometry = Geometry::new(k, m).unwrap();
        let pack_key = PackKeyField(vec![7; 64]);
        let stripe = Stripe::encode(vault, kind, geometry, pack_key, pack.clone()).unwrap();
        files.insert(format!("{stem}.pack"), pack);
        for (index, ends) in stripe.shards.iter().enumerate() {
            let file = [&ends.header, stripe.body(index), &ends.footer].concat();
            files.insert(format!("{stem}.{index}.shard"), file);
        }
    }
    files
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/golden")
}

fn golden_files() -> Files {
    let entries = std::fs::read_dir(folder()).unwrap().map(Result::unwrap);
    let read = |path: PathBuf| std::fs::read(path).unwrap();
    entries.map(|entry| (entry.file_name().into_string().unwrap(), read(entry.path()))).collect()
}

fn with_extension<'a>(wanted: &'a str, files: &'a Files) -> impl Iterator<Item = &'a [u8]> {
    files.iter().filter(move |(name, _)| extension(name) == wanted).map(|(_, bytes)| &bytes[..])
}

fn stem(name: &str) -> &str {
    name.split_once('.').map_or(name, |(stem, _)| stem)
}

fn extension(name: &str) -> &str {
    name.rsplit_once('.').map_or("", |(_, extension)| extension)
}

//! Formats ever written stay readable: every file in testdata/golden is read, by its extension.
//!
//! Until 0.1 the files may be written anew, in a commit that says so:
//! `cargo test -p arc-codec --test golden regenerate -- --ignored`
// The codec does no I/O; its tests may.
#![allow(clippy::disallowed_methods, clippy::unwrap_used)]

#[path = "golden/made.rs"]
mod made;
mod pack;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use arc_codec::erasure::Code;
use arc_codec::keys::{VaultKeys, VaultRecord};
use arc_codec::manifest::{ChunkRef, Content, Cursor, Entry, Item, Node, PageRef, Step};
use arc_codec::pack::open_record;
use arc_codec::seal::{FrameKind, PackKey};
use arc_codec::shard::{Header, Kind, Shard};
use arc_codec::snapshot::Snapshot;
use arc_codec::stripe;
use arc_codec::{ChunkId, Geometry};

/// File contents by file name, `STEM.EXTENSION` or `STEM.NUMBER.EXTENSION`.
type Files = BTreeMap<String, Vec<u8>>;

const EXTENSIONS: [&str; 5] = ["page", "pack", "shard", "snapshot", "vault"];

#[test]
fn every_golden_file_is_readable() {
    let files = golden_files();
    for known in EXTENSIONS {
        assert!(with_extension(known, &files).next().is_some(), "no .{known} in testdata/golden");
    }
    for (name, bytes) in &files {
        match extension(name) {
            "page" => read_page(name, bytes, &files),
            "pack" => read_pack(name, bytes, &files),
            "shard" => read_shard(name, bytes, &files),
            "snapshot" => read_snapshot(name, bytes, &files),
            "vault" => read_vault(name, bytes),
            _ => panic!("{name}: no arm of this match reads such files"),
        }
    }
}

/// A vault record opens by each of the secrets.
fn read_vault(name: &str, bytes: &[u8]) {
    let record = VaultRecord::decode(bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
    assert_eq!((record.vault, record.geometry), (made::VAULT, Geometry::new(4, 2).unwrap()));
    for secret in made::secrets() {
        let keys = record.unlock(&secret).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(*record.private_key(&keys).unwrap(), [4; 32], "{name}");
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

/// A pack opens by the field in its shards' headers: all chunks of all frames, or its one
/// record, which is the snapshot beside it if it is one.
fn read_pack(name: &str, bytes: &[u8], files: &Files) {
    let (header, key) = pack_key(name, files);
    match header.kind {
        Kind::Data | Kind::Metadata => {
            let found = pack::read(header.vault, &keys(files), &key, bytes);
            let kinds: BTreeSet<u8> = found.iter().map(|(kind, ..)| *kind as u8).collect();
            assert_eq!(kinds, BTreeSet::from([FrameKind::Data as u8, FrameKind::Metadata as u8]));
        }
        Kind::Snapshot => {
            let record = open_record(header.vault, &key, bytes).unwrap();
            assert_eq!(record, files[&format!("{}.snapshot", stem(name))], "{name}");
        }
        Kind::Record => {
            let record = open_record(header.vault, &key, bytes).unwrap();
            assert!(!record.is_empty(), "{name}");
        }
    }
}

/// A page belongs to a snapshot, and is a chunk of a pack.
fn read_page(name: &str, bytes: &[u8], files: &Files) {
    let id = keys(files).chunk_id(bytes);
    let mut asked = with_extension("snapshot", files).flat_map(|bytes| walk(bytes, files).asked);
    assert!(asked.any(|page| page == id), "{name} is in no tree");
    assert_eq!(chunks(files)[&id], bytes, "{name}");
}

/// A snapshot gives all its entries, with every type of node; the chunks of its files are in packs.
fn read_snapshot(name: &str, bytes: &[u8], files: &Files) {
    let walk = walk(bytes, files);
    let types = ["file", "list", "hardlink", "folder", "symlink", "fifo", "char", "block"];
    assert_eq!(walk.types, BTreeSet::from(types), "{name}");
    let stored = chunks(files);
    for chunk in walk.chunks {
        assert_eq!(stored[&chunk.id].len(), chunk.bytes as usize, "{name}");
    }
}

/// What a snapshot leads to.
#[derive(Default)]
struct Walk {
    /// Pages that were asked for.
    asked: Vec<ChunkId>,
    types: BTreeSet<&'static str>,
    chunks: Vec<ChunkRef>,
}

fn walk(snapshot: &[u8], files: &Files) -> Walk {
    let mut walk = Walk::default();
    let manifest = Snapshot::decode(snapshot).unwrap().manifest;
    for entry in items::<Entry>(manifest, files, &mut walk.asked) {
        let node_type = match entry.node {
            Node::File { content: Content::Chunks(chunks), .. } => {
                walk.chunks.extend(chunks);
                "file"
            }
            Node::File { content: Content::List(root), bytes, .. } => {
                let list = items::<ChunkRef>(root, files, &mut walk.asked);
                assert_eq!(list.iter().map(|chunk| u64::from(chunk.bytes)).sum::<u64>(), bytes);
                walk.chunks.extend(list);
                "list"
            }
            Node::Hardlink { .. } => "hardlink",
            Node::Directory => "folder",
            Node::Symlink { .. } => "symlink",
            Node::Fifo => "fifo",
            Node::CharDevice { .. } => "char",
            Node::BlockDevice { .. } => "block",
        };
        walk.types.insert(node_type);
    }
    walk
}

/// All items below `root`, from the pages among the files. There are inner pages in each tree.
fn items<I: Item>(root: PageRef, files: &Files, asked: &mut Vec<ChunkId>) -> Vec<I> {
    let keys = keys(files);
    let page_of = |id| with_extension("page", files).find(|page| keys.chunk_id(page) == id);
    let (mut cursor, mut items) = (Cursor::<I>::new(root), Vec::new());
    assert!(root.height > 0);
    loop {
        match cursor.step() {
            Step::Item(item) => items.push(item),
            Step::End => break,
            Step::Need(page) => {
                asked.push(page.id);
                cursor.supply(page_of(page.id).unwrap()).unwrap();
            }
        }
    }
    assert_eq!(items.len() as u64, root.count);
    items
}

/// The chunks of all packs.
fn chunks(files: &Files) -> BTreeMap<ChunkId, Vec<u8>> {
    let mut chunks = BTreeMap::new();
    for (name, bytes) in files.iter().filter(|(name, _)| extension(name) == "pack") {
        let (header, key) = pack_key(name, files);
        if matches!(header.kind, Kind::Data | Kind::Metadata) {
            let found = pack::read(header.vault, &keys(files), &key, bytes);
            chunks.extend(found.into_iter().map(|(_, id, bytes)| (id, bytes)));
        }
    }
    chunks
}

/// The header of a pack's first shard, and the key that its field wraps.
fn pack_key(pack: &str, files: &Files) -> (Header, PackKey) {
    let header = Shard::parse(&files[&format!("{}.0.shard", stem(pack))]).unwrap().header;
    let key = PackKey::unwrap_field(&header.pack_key, &keys(files), header.vault).unwrap();
    (header, key)
}

fn keys(files: &Files) -> VaultKeys {
    let record = with_extension("vault", files).next().unwrap();
    VaultRecord::decode(record).unwrap().unlock(&made::secrets()[0]).unwrap()
}

// What zstd compressed may come out differently one day; all else may not.
#[test]
fn plain_files_and_the_shards_of_packs_are_still_written_the_same() {
    let files = golden_files();
    for (name, bytes) in made::plain_files().into_iter().chain(made::shards(&files)) {
        assert!(files.get(&name) == Some(&bytes), "{name} is written differently now");
    }
}

#[test]
fn packs_are_still_written_readable() {
    let mut files = made::plain_files();
    files.extend(made::packs());
    files.extend(made::shards(&files));
    let packs = files.iter().filter(|(name, _)| extension(name) == "pack");
    packs.for_each(|(name, bytes)| read_pack(name, bytes, &files));
}

#[test]
#[ignore = "writes testdata/golden"]
fn regenerate() {
    let mut files = made::plain_files();
    files.extend(made::packs());
    files.extend(made::shards(&files));
    for (name, bytes) in files {
        std::fs::write(folder().join(name), bytes).unwrap();
    }
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

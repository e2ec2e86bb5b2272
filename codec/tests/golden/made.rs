//! A small vault, always the same: what the golden files are written from.

use arc_codec::frame;
use arc_codec::keys::{Argon2Cost, Secret, VaultKeys, VaultRandom, VaultRecord};
use arc_codec::manifest::{
    ChunkRef, Content, ContentBuilder, Entry, ManifestBuilder, Node, PageRef, Xattr,
};
use arc_codec::pack::{PackBuilder, seal_record};
use arc_codec::seal::{FrameKind, PackKey};
use arc_codec::shard::Kind;
use arc_codec::snapshot::{Snapshot, Stats};
use arc_codec::stripe::Stripe;
use arc_codec::{ChunkId, Geometry, Result, StripeId, VaultId};
use serde_bytes::ByteBuf;

use super::Files;

/// The vault of all golden files.
pub(super) const VAULT: VaultId = VaultId([7; 16]);
/// Each stripe's name, kind, code, and the byte that its pack's key is made of.
const STRIPES: [(&str, Kind, (u8, u8), u8); 3] = [
    ("data-4-2", Kind::Data, (4, 2), 1),
    ("record-1-2", Kind::Record, (1, 2), 2),
    ("snapshot-1-2", Kind::Snapshot, (1, 2), 3),
];

/// What opens the vault: a passphrase and a key file.
pub(super) fn secrets() -> [Secret; 2] {
    let passphrase = Secret::Passphrase("correct horse battery staple".to_owned().into());
    [passphrase, Secret::KeyFile(vec![6; 32].into())]
}

/// The files whose bytes no version of a library may change: vault record, pages, snapshot.
pub(super) fn plain_files() -> Files {
    let (record, keys) = vault();
    let content = content(&keys);
    let mut files = Files::from([
        ("vault.vault".to_owned(), record.encode()),
        ("snapshot-1-2.snapshot".to_owned(), content.snapshot),
    ]);
    files.extend(content.pages.into_iter().map(|(name, _, page)| (name, page)));
    files
}

/// The packs, parts of which zstd compressed.
pub(super) fn packs() -> Files {
    let keys = vault().1;
    let content = content(&keys);
    let mut noise = vec![0; 65_550];
    blake3::Hasher::new().finalize_xof().fill(&mut noise);
    let [data, record, snapshot] = STRIPES.map(|(_, _, _, key)| PackKey::new([key; 32]));
    let packs = [
        data_pack(data, &content),
        seal_record(VAULT, record, &noise).unwrap().bytes,
        seal_record(VAULT, snapshot, &content.snapshot).unwrap().bytes,
    ];
    STRIPES.iter().zip(packs).map(|((stem, ..), pack)| (format!("{stem}.pack"), pack)).collect()
}

/// The shards of `packs`, the bytes of which follow from the packs'.
pub(super) fn shards(packs: &Files) -> Files {
    let keys = vault().1;
    let mut files = Files::new();
    for (stem, kind, (k, m), key) in STRIPES {
        let geometry = Geometry::new(k, m).unwrap();
        let field = PackKey::new([key; 32]).wrap(&keys, VAULT, [key + 1; 12]);
        let pack = packs[&format!("{stem}.pack")].clone();
        let stripe = Stripe::encode(VAULT, kind, geometry, field, pack).unwrap();
        for (index, ends) in stripe.shards.iter().enumerate() {
            let file = [&ends.header, stripe.body(index), &ends.footer].concat();
            files.insert(format!("{stem}.{index}.shard"), file);
        }
    }
    files
}

/// A record with a slot for each secret.
fn vault() -> (VaultRecord, VaultKeys) {
    let [passphrase, key_file] = secrets();
    let cost = Argon2Cost { memory_kib: 8, passes: 1, lanes: 1 };
    let random = VaultRandom {
        master: [1; 32],
        salt: [2; 32],
        nonce: [3; 12],
        private_key: [4; 32],
        private_nonce: [5; 12],
    };
    let geometry = Geometry::new(4, 2).unwrap();
    let (mut record, keys) =
        VaultRecord::create(VAULT, geometry, &passphrase, cost, random).unwrap();
    record.add_slot(&keys, &key_file, cost, [8; 32], [9; 12]).unwrap();
    (record, keys)
}

/// What one push stores.
#[derive(Default)]
struct PushContent {
    chunks: Vec<(ChunkId, Vec<u8>)>,
    /// With the file name of each.
    pages: Vec<(String, ChunkId, Vec<u8>)>,
    snapshot: Vec<u8>,
}

impl PushContent {
    fn chunk(&mut self, keys: &VaultKeys, bytes: &[u8]) -> ChunkRef {
        let id = keys.chunk_id(bytes);
        self.chunks.push((id, bytes.to_vec()));
        ChunkRef { id, bytes: bytes.len() as u32 }
    }

    /// Takes the pages of one tree and numbers them.
    fn emit(&mut self, keys: &VaultKeys, tree: &str) -> impl FnMut(Vec<u8>) -> Result<ChunkRef> {
        let mut number = 0;
        move |page| {
            let (id, bytes) = (keys.chunk_id(&page), page.len() as u32);
            self.pages.push((format!("{tree}.{number}.page"), id, page));
            number += 1;
            Ok(ChunkRef { id, bytes })
        }
    }
}

fn content(keys: &VaultKeys) -> PushContent {
    let mut content = PushContent::default();
    let manifest = manifest(keys, &mut content);
    let snapshot = Snapshot {
        manifest,
        host: "host".into(),
        user: "user".into(),
        sources: vec![ByteBuf::from(*b"dev"), ByteBuf::from(*b"home/\xff")],
        tags: vec!["daily".into(), "ä".into()],
        began_ms: 1_700_000_000_000,
        ended_ms: 1_700_000_060_000,
        parent: Some(StripeId([9; 32])),
        stats: Stats { entries: manifest.count, files: 3, warnings: 1, ..Stats::default() },
        program: "arc 0.0.1".into(),
    };
    content.snapshot = snapshot.encode().unwrap();
    content
}

/// Every type of node, on two leaves and an inner page: the first leaf ends at the first
/// border that 64 entries allow.
fn manifest(keys: &VaultKeys, content: &mut PushContent) -> PageRef {
    let nodes = nodes(keys, content);
    let folder = |name: String| entry(home(&name), Node::Directory);
    let fillers: Vec<Entry> =
        (nodes.len()..63).map(|number| folder(format!("w{number:02}"))).collect();
    let border = (0..).map(|number| folder(format!("x{number:04}")));
    let border = border.into_iter().find(|entry| blake3::hash(&entry.path).as_bytes()[0] == 0);
    let last = [border.unwrap(), folder("y".into()), folder("z".into())];

    let mut builder = ManifestBuilder::new();
    let mut emit = content.emit(keys, "manifest");
    for entry in nodes.iter().chain(&fillers).chain(&last) {
        builder.push(entry, &mut emit).unwrap();
    }
    builder.finish(&mut emit).unwrap()
}

fn nodes(keys: &VaultKeys, content: &mut PushContent) -> Vec<Entry> {
    let text = "a line that comes again and again\n".repeat(200);
    let chunks = vec![content.chunk(keys, text.as_bytes()), content.chunk(keys, &[0; 5_000])];
    let bytes = text.len() as u64 + 5_000;
    let holes = vec![(text.len() as u64, 4_000), (bytes - 500, 500)];
    let sparse = Node::File { bytes, content: Content::Chunks(chunks), holes };
    let empty = Node::File { bytes: 0, content: Content::Chunks(vec![]), holes: vec![] };
    let mut read_again = entry(home("empty"), empty);
    read_again.read_again = true;
    read_again.mtime = (-1, 999_999_999);
    read_again.mode = 0o6_755;
    let mut attributes = entry(home("sparse"), sparse);
    let xattr = |name: &[u8], value: &[u8]| Xattr { name: name.into(), value: value.into() };
    attributes.xattrs = vec![xattr(b"user.a", b""), xattr(b"user.b", b"\0\xff")];
    vec![
        entry("dev", Node::Directory),
        entry("dev/disk", Node::BlockDevice { device: (259, 1) }),
        entry("dev/link", Node::Symlink { target: b"../etc/\xff".to_vec() }),
        entry("dev/null", Node::CharDevice { device: (1, 3) }),
        entry("dev/pipe", Node::Fifo),
        read_again,
        entry(home("long"), long_file(keys, content)),
        entry(home("other"), Node::Hardlink { first: home("long") }),
        attributes,
    ]
}

/// A file of 66 chunks, on two leaves of a chunk list and an inner page: the 64th id is a border.
fn long_file(keys: &VaultKeys, content: &mut PushContent) -> Node {
    let border = (100u32..).find(|n| keys.chunk_id(&n.to_le_bytes()).0[0] == 0).unwrap();
    let numbers = (0..63).chain([border, 64, 65]);
    let chunks: Vec<_> = numbers.map(|number| content.chunk(keys, &number.to_le_bytes())).collect();
    let mut builder = ContentBuilder::new();
    let mut emit = content.emit(keys, "list");
    for chunk in chunks {
        builder.push(chunk, &mut emit).unwrap();
    }
    let bytes = builder.bytes();
    Node::File { bytes, content: builder.finish(&mut emit).unwrap(), holes: vec![] }
}

/// A path that is not UTF-8.
fn home(name: &str) -> Vec<u8> {
    [b"home/\xff/", name.as_bytes()].concat()
}

fn entry(path: impl Into<Vec<u8>>, node: Node) -> Entry {
    Entry {
        path: path.into(),
        node,
        mode: 0o755,
        uid: 1000,
        gid: 100,
        mtime: (1_700_000_000, 123_456_789),
        ctime: (1_700_000_001, 0),
        inode: 1_234_567,
        device: 65_025,
        xattrs: vec![],
        read_again: false,
    }
}

/// The chunks of files in two data frames, then the pages in a metadata frame.
fn data_pack(key: PackKey, content: &PushContent) -> Vec<u8> {
    let chunks: Vec<_> = content.chunks.iter().map(|(id, bytes)| (*id, &bytes[..])).collect();
    let pages: Vec<_> = content.pages.iter().map(|(_, id, page)| (*id, &page[..])).collect();
    let (few, many) = chunks.split_at(40);
    let mut builder = PackBuilder::new(VAULT, key, Vec::new());
    for (kind, chunks) in
        [(FrameKind::Data, few), (FrameKind::Data, many), (FrameKind::Metadata, &pages)]
    {
        let rows: Vec<_> = chunks.iter().map(|(id, chunk)| (*id, chunk.len() as u32)).collect();
        builder.append(kind, frame::encode(chunks, 3).unwrap(), &rows).unwrap();
    }
    builder.finish().unwrap().bytes
}

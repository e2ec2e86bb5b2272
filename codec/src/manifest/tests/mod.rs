//! Properties of whole trees: what was written is read, and what was not is noticed.

mod pages;

use std::collections::{BTreeMap, HashMap};

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::Digest;
use crate::digest::block_hash;

/// Pages by id, as a vault would keep them: equal pages once.
#[derive(Default)]
struct Pages(HashMap<ChunkId, Vec<u8>>);

impl Pages {
    fn emit(&mut self) -> impl FnMut(Vec<u8>) -> Result<ChunkRef> + '_ {
        |page| {
            let Digest(hash) = block_hash(&page);
            let chunk = ChunkRef { id: ChunkId(hash), bytes: page.len() as u32 };
            self.0.insert(chunk.id, page);
            Ok(chunk)
        }
    }

    fn write<I: Item>(&mut self, items: &[I]) -> Result<PageRef> {
        let mut builder = Builder::new();
        for item in items {
            builder.push(item, &mut self.emit())?;
        }
        builder.finish(&mut self.emit())
    }

    /// All items from where the cursor stands, and the pages that were asked for.
    fn read<I: Item>(&self, cursor: &mut Cursor<I>) -> Result<(Vec<I>, Vec<ChunkRef>)> {
        let (mut items, mut asked) = (Vec::new(), Vec::new());
        loop {
            match cursor.step() {
                Step::Item(item) => items.push(item),
                Step::End => return Ok((items, asked)),
                Step::Need(chunk) => {
                    assert_eq!(cursor.upcoming(1), [chunk]);
                    asked.push(chunk);
                    // A damaged page may ask for any.
                    let page = self.0.get(&chunk.id).map(Vec::as_slice);
                    cursor.supply(page.ok_or(Error::damaged("page", "nobody has it"))?)?;
                }
            }
        }
    }
}

fn entry(path: impl Into<Vec<u8>>) -> Entry {
    Entry {
        path: path.into(),
        node: Node::Directory,
        mode: 0o755,
        uid: 1000,
        gid: 1000,
        mtime: (1_700_000_000, 123_456_789),
        ctime: (1_700_000_001, 987_654_321),
        inode: 1_234_567,
        device: 65_025,
        xattrs: Vec::new(),
        read_again: false,
    }
}

fn chunk(n: u64, bytes: u32) -> ChunkRef {
    ChunkRef { id: ChunkId(block_hash(&n.to_le_bytes()).0), bytes }
}

fn file(path: impl Into<Vec<u8>>, n: u64) -> Entry {
    let content = Content::Chunks(vec![chunk(n, 5000)]);
    Entry { node: Node::File { bytes: 5000, content, holes: vec![] }, ..entry(path) }
}

/// The paths of a home folder, in order.
fn files(count: u64) -> Vec<Entry> {
    (0..count)
        .map(|n| file(format!("home/user/projects/{:04}/src/module_{:06}.rs", n / 100, n), n))
        .collect()
}

fn a_path() -> impl Strategy<Value = Vec<u8>> {
    let hostile = prop::sample::select(vec![
        &b"a"[..],
        b"a-b",
        b"a.",
        b"a\x01",
        b"a\x01b",
        b"b",
        b"\xff",
        b"\xc3\xa4",
        b"..a",
        b"a b",
        b"-",
    ]);
    let name = prop_oneof![
        4 => hostile.prop_map(<[u8]>::to_vec),
        1 => vec(prop_oneof![1..=46u8, 48..=255u8], 3..300),
    ];
    vec(name, 1..5).prop_map(|names| names.join(&b'/'))
}

fn a_node(path: Vec<u8>) -> impl Strategy<Value = Node> {
    prop_oneof![
        (vec((any::<u64>(), 1..=4096u32), 0..=64), vec((1..100u64, 1..100u64), 0..4)).prop_map(
            |(chunks, gaps)| {
                let chunks: Vec<_> = chunks.into_iter().map(|(n, bytes)| chunk(n, bytes)).collect();
                let bytes = chunks.iter().map(|chunk| u64::from(chunk.bytes)).sum();
                let mut end = 0;
                let mut holes = Vec::new();
                for (gap, length) in gaps {
                    holes.push((end + gap, length));
                    end += gap + length;
                }
                holes.retain(|(offset, length)| offset + length <= bytes);
                Node::File { bytes, content: Content::Chunks(chunks), holes }
            }
        ),
        (any::<u8>(), any::<u64>(), 1..=PAGE_HEIGHT_MAX).prop_map(|(n, count, height)| {
            let content = Content::List(PageRef { chunk: chunk(n.into(), 77), height, count });
            Node::File { bytes: count, content, holes: vec![] }
        }),
        Just(Node::Directory),
        Just(Node::Fifo),
        any::<(u32, u32)>().prop_map(|device| Node::CharDevice { device }),
        any::<(u32, u32)>().prop_map(|device| Node::BlockDevice { device }),
        vec(1..=255u8, 1..100).prop_map(|target| Node::Symlink { target }),
        Just(match check_path(&path[..path.len() - 1]) {
            Ok(()) => Node::Hardlink { first: path[..path.len() - 1].to_vec() },
            Err(_) => Node::Fifo,
        }),
    ]
}

fn an_entry() -> impl Strategy<Value = Entry> {
    let time = || (any::<i64>(), 0..1_000_000_000u32);
    let xattrs = prop::collection::btree_map(vec(1..=255u8, 1..20), vec(any::<u8>(), 0..50), 0..4);
    let fields = (0..=0o7777u32, any::<(u32, u32, u64, u64, bool)>(), time(), time(), xattrs);
    a_path().prop_flat_map(|path| (a_node(path.clone()), Just(path))).prop_flat_map(
        move |(node, path)| {
            fields.clone().prop_map(
                move |(mode, (uid, gid, inode, device, read_again), mtime, ctime, xattrs)| {
                    let xattrs =
                        xattrs.into_iter().map(|(name, value)| Xattr { name, value }).collect();
                    let (path, node) = (path.clone(), node.clone());
                    Entry {
                        path,
                        node,
                        mode,
                        uid,
                        gid,
                        mtime,
                        ctime,
                        inode,
                        device,
                        xattrs,
                        read_again,
                    }
                },
            )
        },
    )
}

fn sorted(mut entries: Vec<Entry>) -> Vec<Entry> {
    entries.sort_by(|a, b| path_order(&a.path, &b.path));
    entries.dedup_by(|a, b| a.path == b.path);
    entries
}

/// The order in which a walk that sorts the names of each folder comes by these paths.
fn walk_order(paths: &[Vec<u8>]) -> Vec<Vec<u8>> {
    #[derive(Default)]
    struct Folder {
        listed: bool,
        children: BTreeMap<Vec<u8>, Folder>,
    }
    fn walk(folder: &Folder, path: &[u8], out: &mut Vec<Vec<u8>>) {
        for (name, child) in &folder.children {
            let path = if path.is_empty() { name.clone() } else { [path, b"/", name].concat() };
            if child.listed {
                out.push(path.clone());
            }
            walk(child, &path, out);
        }
    }
    let mut root = Folder::default();
    for path in paths {
        let mut at = &mut root;
        for name in path.split(|&byte| byte == b'/') {
            at = at.children.entry(name.to_vec()).or_default();
        }
        at.listed = true;
    }
    let mut out = Vec::new();
    walk(&root, b"", &mut out);
    out
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn what_was_written_is_read(entries in vec(an_entry(), 0..300)) {
        let entries = sorted(entries);
        let mut pages = Pages::default();
        let root = pages.write(&entries)?;
        prop_assert_eq!(root.count, entries.len() as u64);
        prop_assert_eq!(pages.read(&mut ManifestCursor::new(root))?.0, entries);
    }

    #[test]
    fn walk_and_manifest_have_one_order(mut paths in vec(a_path(), 0..200)) {
        let want = walk_order(&paths);
        paths.sort_by(|a, b| path_order(a, b));
        paths.dedup();
        prop_assert_eq!(paths, want);
    }

    #[test]
    fn damaged_pages_never_panic(
        entries in vec(an_entry(), 1..100), at in any::<prop::sample::Index>(), bit in 0..8u8, cut in any::<bool>(),
    ) {
        let entries = sorted(entries);
        let mut pages = Pages::default();
        let root = pages.write(&entries)?;
        let page = pages.0.get_mut(&root.chunk.id).unwrap();
        let at = at.index(page.len());
        if cut {
            page.truncate(at);
        } else {
            page[at] ^= 1 << bit;
        }
        match pages.read(&mut ManifestCursor::new(root)) {
            // A changed number or letter is still a page: the chunk id tells, not the decoder.
            Ok((read, _)) => prop_assert!(!cut && read.len() == entries.len()),
            Err(error) => prop_assert!(!error.to_string().is_empty()),
        }
    }

    #[test]
    fn a_seek_finds_the_first_path_that_is_not_smaller(paths in vec(a_path(), 0..300), targets in vec(a_path(), 1..4)) {
        let entries: Vec<_> = walk_order(&paths).into_iter().map(entry).collect();
        let mut pages = Pages::default();
        let root = pages.write(&entries)?;
        let mut cursor = ManifestCursor::new(root);
        for target in walk_order(&targets) {
            cursor.seek(target.clone());
            let mut ahead = ManifestCursor::new(root);
            ahead.seek(target.clone());
            let want = entries.partition_point(|entry| path_order(&entry.path, &target).is_lt());
            prop_assert_eq!(&pages.read(&mut ahead)?.0[..], &entries[want..]);
        }
        let last = walk_order(&targets).pop().unwrap();
        let want = entries.partition_point(|entry| path_order(&entry.path, &last).is_lt());
        prop_assert_eq!(&pages.read(&mut cursor)?.0[..], &entries[want..]);
    }
}

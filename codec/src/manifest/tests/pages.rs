//! Where pages end, what they hold, and which ones a reader refuses.

use std::slice;

use super::*;

#[test]
fn an_empty_manifest_is_one_empty_page() {
    let mut pages = Pages::default();
    let root = pages.write::<Entry>(&[]).unwrap();
    assert_eq!((root.height, root.count, pages.0.len()), (0, 0, 1));
    assert_eq!(pages.read(&mut ManifestCursor::new(root)).unwrap().0, []);
}

#[test]
fn the_bytes_of_a_page_are_the_documented_ones() {
    let mut pages = Pages::default();
    let mut entries = [entry("a"), file("a/b", 1)];
    entries[1].xattrs = vec![Xattr { name: b"user.x".to_vec(), value: vec![0xff] }];
    let root = pages.write(&entries).unwrap();
    let page: String = pages.0[&root.chunk.id].iter().map(|byte| format!("{byte:02x}")).collect();
    let owner_and_times = "1903e81903e8821a6553f1001a075bcd15821a6553f1011a3ade68b1";
    let content =
        "a16163818258201a0d12016999e47689dae5744d2b8c1903faf7ca2886a658150083100ef2c8ee191388";
    let want = [
        "00830000028b4161",
        "61641901ed",
        owner_and_times,
        "1a0012d68719fe0180f4",
        "8b43612f62",
        "a16166a36162191388",
        "6163",
        content,
        "616880",
        "1901ed",
        owner_and_times,
        "1a0012d68719fe01818246757365722e7841fff4",
    ];
    assert_eq!(page, want.concat());
}

#[test]
fn a_changed_or_new_entry_changes_its_page_and_those_above() {
    let mut entries = files(20_000);
    let mut before = Pages::default();
    before.write(&entries).unwrap();
    let mut changed = entries.clone();
    changed[12_345].mtime.0 += 1;
    entries.insert(7000, file([&entries[6999].path[..], b"~"].concat(), 1 << 40));
    for (entries, leaves_max) in [(changed, 1), (entries, 2)] {
        let mut after = Pages::default();
        let root = after.write(&entries).unwrap();
        let new: Vec<_> = after.0.iter().filter(|(id, _)| !before.0.contains_key(id)).collect();
        // Version, then an array of kind, height and count.
        let leaves = new.iter().filter(|(_, page)| page[3] == 0).count();
        assert!(leaves <= leaves_max, "{leaves} new leaf pages");
        assert!(new.len() <= leaves + usize::from(root.height), "{} new pages", new.len());
    }
}

#[test]
fn pages_keep_their_bounds() {
    let wide = |n: u64| {
        let chunks: Vec<_> = (0..64).map(|i| chunk(n * 64 + i, 4096)).collect();
        let content = Content::Chunks(chunks);
        Entry {
            node: Node::File { bytes: 64 * 4096, content, holes: vec![] },
            ..entry(format!("{n:09}"))
        }
    };
    let long = |n: u64| entry([format!("{n:09}").as_bytes(), &[b'x'; 60_000]].concat());
    for (entries, leaf_entries) in [
        (files(5000), PAGE_ENTRIES_MIN..=PAGE_ENTRIES_MAX),
        ((0..1500).map(wide).collect::<Vec<_>>(), PAGE_ENTRIES_MIN..=450),
        ((0..100).map(long).collect(), 17..=17),
    ] {
        let mut pages = Pages::default();
        let root = pages.write(&entries).unwrap();
        assert!(root.height > 0);
        assert!(pages.0.values().all(|page| page.len() <= PAGE_BYTES_MAX));
        let (read, asked) = pages.read(&mut ManifestCursor::new(root)).unwrap();
        assert!(read == entries);
        let counts: Vec<u64> = asked
            .iter()
            .filter(|page| pages.0[&page.id][3] == 0)
            .map(|page| {
                ciborium::from_reader::<(u8, u8, u64), _>(&pages.0[&page.id][1..]).unwrap().2
            })
            .collect();
        let (_, all_but_the_last) = counts.split_last().unwrap();
        assert!(
            all_but_the_last.iter().all(|n| leaf_entries.contains(&(*n as usize))),
            "{counts:?}"
        );
    }
}

#[test]
fn the_largest_entry_fits_a_page() {
    let entry = Entry {
        path: vec![b'p'; PATH_BYTES_MAX],
        node: Node::File {
            bytes: u64::MAX,
            content: Content::List(PageRef {
                chunk: chunk(1, 1000),
                height: PAGE_HEIGHT_MAX,
                count: u64::MAX,
            }),
            holes: (1..=HOLES_MAX as u64).map(|n| ((1 << 40) + (n << 33), (1 << 33) - 1)).collect(),
        },
        xattrs: (0..XATTRS_MAX)
            .map(|n| {
                let bytes = XATTRS_BYTES_MAX / XATTRS_MAX;
                Xattr { name: format!("{n:04}").into(), value: vec![1; bytes - 4] }
            })
            .collect(),
        ..entry("")
    };
    let mut pages = Pages::default();
    let root = pages.write(slice::from_ref(&entry)).unwrap();
    assert!(root.chunk.bytes > 900_000, "{} bytes", root.chunk.bytes);
    assert!(pages.read(&mut ManifestCursor::new(root)).unwrap().0 == [entry]);
}

#[test]
fn entries_out_of_order_or_twice_are_refused() {
    for pair in [["b", "a"], ["a", "a"], ["a-b", "a/b"]] {
        let entries = pair.map(entry);
        assert!(Pages::default().write(&entries).is_err(), "{pair:?}");
    }
}

#[test]
fn entries_that_no_manifest_may_hold_are_refused() {
    let refused = |change: fn(&mut Entry)| {
        let mut entry = file("b/c", 1);
        assert_eq!(entry.check(), Ok(()));
        change(&mut entry);
        assert!(entry.check().is_err(), "{entry:?}");
        assert!(Pages::default().write(&[entry]).is_err());
    };
    let sparse =
        |holes| Node::File { bytes: 10, content: Content::Chunks(vec![chunk(1, 10)]), holes };
    let _ = sparse(vec![]);
    refused(|e| e.path = b"b/../c".to_vec());
    refused(|e| e.mode = 0o10000);
    refused(|e| e.mtime.1 = 1_000_000_000);
    refused(|e| e.node = Node::Hardlink { first: b"b/d".to_vec() });
    refused(|e| e.node = Node::Hardlink { first: b"b/c".to_vec() });
    refused(|e| e.node = Node::Hardlink { first: b"../b".to_vec() });
    refused(|e| e.node = Node::Symlink { target: vec![] });
    refused(|e| e.node = Node::Symlink { target: vec![0] });
    let xattr = |name: &str| Xattr { name: name.into(), value: vec![] };
    let _ = xattr("");
    refused(|e| e.xattrs = vec![Xattr { name: vec![], value: vec![] }]);
    refused(|e| e.xattrs = vec![Xattr { name: b"a".to_vec(), value: vec![] }; 2]);
    refused(|e| {
        e.xattrs = vec![Xattr { name: b"a".to_vec(), value: vec![0; XATTR_VALUE_BYTES_MAX + 1] }]
    });
    for holes in [
        vec![(0, 0)],
        vec![(5, 6)],
        vec![(4, 2), (0, 2)],
        vec![(0, 5), (4, 2)],
        vec![(u64::MAX, 2)],
    ] {
        let entry = Entry { node: sparse(holes.clone()), ..entry("b") };
        assert!(entry.check().is_err(), "{holes:?}");
    }
    for chunks in [vec![chunk(1, 9)], vec![chunk(1, 0), chunk(2, 10)], vec![]] {
        let node = Node::File { bytes: 10, content: Content::Chunks(chunks), holes: vec![] };
        assert!(Entry { node, ..entry("b") }.check().is_err());
    }
}

#[test]
fn another_page_than_the_wanted_one_is_refused() {
    let entries = files(20_000);
    let mut pages = Pages::default();
    let root = pages.write(&entries).unwrap();
    let leaves = pages.read(&mut ManifestCursor::new(root)).unwrap().1;
    let supply = |root, page: &[u8]| {
        let mut cursor = ManifestCursor::new(root);
        let before = cursor.step();
        let refusal = cursor.supply(page);
        assert_eq!(cursor.step(), before, "a refused page changes nothing");
        refusal.unwrap_err().to_string()
    };
    let page = &pages.0[&root.chunk.id];
    // Every other page, even one that claims the same length.
    for other in leaves.iter().filter(|other| other.id != root.chunk.id) {
        supply(root, &pages.0[&other.id]);
        supply(PageRef { chunk: *other, ..root }, &pages.0[&other.id]);
    }
    assert!(supply(PageRef { count: root.count + 1, ..root }, page).contains("count"));
    assert!(supply(PageRef { height: 0, ..root }, page).contains("height"));
    let longer = ChunkRef { bytes: root.chunk.bytes + 1, ..root.chunk };
    assert!(
        supply(PageRef { chunk: longer, ..root }, &[&page[..], &[0]].concat()).contains("follow")
    );
    let newer = [&[1], &page[1..]].concat();
    assert!(supply(root, &newer).contains("version"));
    let list = pages.write(&(0..100).map(|n| chunk(n, 7)).collect::<Vec<_>>()).unwrap();
    let mut cursor = ManifestCursor::new(list);
    assert!(cursor.supply(&pages.0[&list.chunk.id]).unwrap_err().to_string().contains("kind"));
}

#[test]
fn a_sibling_with_the_same_count_is_refused_by_its_paths() {
    let entries = files(20_000);
    let mut pages = Pages::default();
    let root = pages.write(&entries).unwrap();
    let mut cursor = ManifestCursor::new(root);
    cursor.supply(&pages.0[&root.chunk.id]).unwrap();
    let Step::Need(first) = cursor.step() else { panic!("a leaf is needed") };
    let mut page = pages.0[&first.id].clone();
    // The last path, and then the first, become another of the same length.
    let end = page.windows(7).rposition(|w| w == b"module_").unwrap();
    page[end] = b'n';
    assert!(cursor.supply(&page).unwrap_err().to_string().contains("does not end"));
    page[end] = b'm';
    let start = page.windows(7).position(|w| w == b"module_").unwrap();
    page[start] = b'z';
    assert!(cursor.supply(&page).unwrap_err().to_string().contains("does not come after"));
    page[start] = b'm';
    cursor.supply(&page).unwrap();
}

#[test]
fn a_seek_asks_for_one_page_a_level_and_prefetch_knows_the_rest() {
    let entries = files(50_000);
    let mut pages = Pages::default();
    let root = pages.write(&entries).unwrap();
    let all = pages.read(&mut ManifestCursor::new(root)).unwrap().1;
    let mut cursor = ManifestCursor::new(root);
    cursor.seek(entries[40_000].path.clone());
    let mut asked = 0;
    let found = loop {
        match cursor.step() {
            Step::Need(chunk) => cursor.supply(&pages.0[&chunk.id]).unwrap(),
            Step::Item(entry) => break entry,
            Step::End => panic!("it is there"),
        }
        asked += 1;
    };
    assert_eq!((found, asked), (entries[40_000].clone(), usize::from(root.height) + 1));
    let upcoming = cursor.upcoming(usize::MAX);
    assert!(!upcoming.is_empty() && all.ends_with(&upcoming));
    assert_eq!(cursor.upcoming(2), upcoming[..2]);
    cursor.seek(b"home/user/projects/0000".to_vec());
    assert_eq!(cursor.step(), Step::Item(entries[40_001].clone()), "it never moves back");
}

#[test]
fn a_page_that_is_passed_over_lacks_and_all_others_are_read() {
    let entries = files(20_000);
    let mut pages = Pages::default();
    let root = pages.write(&entries).unwrap();
    let mut cursor = ManifestCursor::new(root);
    let (mut read, mut leaves, mut lacking) = (Vec::new(), 0, 0);
    loop {
        match cursor.step() {
            Step::Item(entry) => read.push(entry),
            Step::End => break,
            Step::Need(page) => {
                let bytes = &pages.0[&page.id];
                leaves += usize::from(bytes[3] == 0);
                if bytes[3] == 0 && leaves % 3 == 1 {
                    lacking += ciborium::from_reader::<(u8, u8, u64), _>(&bytes[1..]).unwrap().2;
                    cursor.pass_over().unwrap();
                } else {
                    cursor.supply(bytes).unwrap();
                }
            }
        }
    }
    assert!(leaves > 3 && lacking > 0);
    assert_eq!(read.len() as u64 + lacking, 20_000);
    let known: std::collections::BTreeSet<_> = entries.iter().map(|entry| &entry.path).collect();
    assert!(read.iter().all(|entry| known.contains(&entry.path)));
    assert!(read.is_sorted_by(|a, b| a.path < b.path));
}

#[test]
fn long_files_keep_their_chunks_in_pages() {
    for count in [0, 1, 64, 65, 1000, 100_000] {
        let chunks: Vec<_> = (0..count).map(|n| chunk(n, 1 + (n % 4096) as u32)).collect();
        let mut pages = Pages::default();
        let mut builder = ContentBuilder::new();
        for chunk in &chunks {
            builder.push(*chunk, &mut pages.emit()).unwrap();
        }
        assert_eq!(builder.bytes(), chunks.iter().map(|chunk| u64::from(chunk.bytes)).sum::<u64>());
        let content = builder.finish(&mut pages.emit()).unwrap();
        match content {
            Content::Chunks(few) => assert!(count <= 64 && few == chunks),
            Content::List(root) => {
                assert!(count > 64 && root.count == count);
                assert!(pages.read(&mut ChunkListCursor::new(root)).unwrap().0 == chunks);
                let mut cursor = ChunkListCursor::new(root);
                let start: u64 = chunks[..60].iter().map(|chunk| u64::from(chunk.bytes)).sum();
                cursor.seek(start + 3);
                while let Step::Need(page) = cursor.step() {
                    assert_eq!(*cursor.position(), 0, "the first page is the one");
                    cursor.supply(&pages.0[&page.id]).unwrap();
                }
                let passed = start + u64::from(chunks[60].bytes);
                assert_eq!(*cursor.position(), passed, "the chunk at 60 was returned");
            }
        }
    }
}

#[test]
fn an_inserted_chunk_changes_few_pages() {
    let mut chunks: Vec<_> = (0..100_000).map(|n| chunk(n, 1 << 20)).collect();
    let mut before = Pages::default();
    before.write(&chunks).unwrap();
    chunks.insert(50_000, chunk(1 << 40, 1 << 19));
    let mut after = Pages::default();
    let root = after.write(&chunks).unwrap();
    let new = after.0.keys().filter(|id| !before.0.contains_key(id)).count();
    assert!(new <= 2 + usize::from(root.height), "{new} new pages");
}

#[test]
fn a_failure_to_store_a_page_stops_the_builder() {
    let refuse = &mut |_| Err(Error::damaged("store", "full"));
    assert!(Builder::<Entry>::new().finish(refuse).is_err());
    let mut builder = Builder::new();
    let refused = files(2000).iter().any(|entry| builder.push(entry, refuse).is_err());
    assert!(refused);
}

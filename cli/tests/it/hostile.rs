//! Manifests that no arc writes: whoever has the keys can store them, and a pull must not be
//! led outside of its target by one.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use codec::manifest::{ChunkRef, Content, Entry, Node, PageRef};
use codec::seal::FrameKind;

use crate::anything::{Chunks, Hostile, page};
use crate::sandbox::{Ran, text};
use crate::trees::{names, write};

impl Hostile {
    /// Pulls a snapshot into `out/target`, beside which stands `out/victim/file`.
    fn pull(&self, snapshot: &str) -> Ran {
        let _ = fs::remove_dir_all(self.sandbox.path("out"));
        write(self.sandbox.path("out/victim/file"), "victim");
        self.sandbox.arc(["pull", snapshot, "--to", "out/target"])
    }

    /// What is in the target; outside of it nothing was touched.
    #[track_caller]
    fn target(&self) -> BTreeSet<PathBuf> {
        let out = self.sandbox.path("out");
        let mut found: BTreeSet<PathBuf> = names(&out).into_iter().collect();
        for name in ["", "victim", "victim/file"] {
            assert!(found.remove(&PathBuf::from(name)), "{name} is gone");
        }
        assert_eq!(fs::read(out.join("victim/file")).unwrap(), b"victim");
        assert!(out.join("victim").symlink_metadata().unwrap().is_dir());
        let inside = |name: PathBuf| {
            let inside = name.strip_prefix("target");
            inside.unwrap_or_else(|_| panic!("{} is outside", name.display())).to_owned()
        };
        found.into_iter().map(inside).filter(|name| name.as_os_str() != "").collect()
    }
}

pub(crate) fn entry(path: &str, node: Node) -> Entry {
    Entry {
        path: path.into(),
        node,
        mode: 0o644,
        uid: rustix::process::getuid().as_raw(),
        gid: rustix::process::getgid().as_raw(),
        mtime: (1_000_000_000, 0),
        ctime: (1_000_000_000, 0),
        inode: 1,
        device: 1,
        xattrs: vec![],
        read_again: false,
    }
}

fn link(path: &str, target: &str) -> Entry {
    entry(path, Node::Symlink { target: target.into() })
}

fn hard_link(path: &str, first: &str) -> Entry {
    entry(path, Node::Hardlink { first: first.into() })
}

const EVIL: &[u8] = b"evil";
const EVIL_CHUNK: Chunks<'static> = &[(FrameKind::Data, EVIL)];

impl Hostile {
    /// An entry of a file of [`EVIL`].
    fn file(&self, path: &str) -> Entry {
        let content = Content::Chunks(vec![self.chunk_ref(EVIL)]);
        entry(path, Node::File { bytes: EVIL.len() as u64, content, holes: vec![] })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn paths_that_lead_outside_are_refused_with_their_page() {
    let hostile = Hostile::new().await;
    let folder = |path: &str| entry(path, Node::Directory);
    let file = |path: &str| hostile.file(path);
    let outside = text(&hostile.sandbox.path("out/victim/file")).to_owned();
    let cases: Vec<(&str, Vec<Entry>)> = vec![
        ("a parent", vec![file("../victim/file")]),
        ("a parent further in", vec![folder("a"), file("a/../../victim/file")]),
        ("only a parent", vec![folder("..")]),
        ("an absolute path", vec![file(&outside)]),
        ("the folder itself", vec![file("./x")]),
        ("an empty path", vec![file("")]),
        ("an empty name", vec![file("a//x")]),
        ("a NUL", vec![file("a\0b")]),
        ("a duplicate", vec![file("a"), file("a")]),
        ("a duplicate that was a link", vec![link("a", "../victim/file"), file("a")]),
        ("another order", vec![file("b"), file("a")]),
        ("a hard link to a parent", vec![file("a"), hard_link("b", "../victim/file")]),
        ("an absolute hard link", vec![file("a"), hard_link("b", &outside)]),
        ("a hard link to itself", vec![hard_link("a", "a")]),
        ("a link to nothing", vec![link("a", "")]),
        ("more than permission bits", vec![Entry { mode: 0o100_644, ..file("a") }]),
        ("a path that is too long", vec![file(&"x/".repeat(40_000))]),
    ];
    for (what, entries) in cases {
        let snapshot = hostile.snapshot(&entries, EVIL_CHUNK).await;
        let ran = hostile.pull(&snapshot).exits(5);
        assert!(
            ran.stderr().contains("damaged") || ran.stderr().contains("allows at most"),
            "{what}: {}",
            ran.stderr()
        );
        assert_eq!(hostile.target(), BTreeSet::new(), "{what}");
    }
    let listed = hostile.sandbox.arc(["ls", "latest"]).exits(5);
    assert_eq!(listed.stdout(), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_written_or_linked_through_a_link() {
    let hostile = Hostile::new().await;
    let file = |path: &str| hostile.file(path);
    let outside = text(&hostile.sandbox.path("out/victim")).to_owned();
    let cases: Vec<(&str, Vec<Entry>, &[&str])> = vec![
        (
            "a file through a link",
            vec![link("a", "../victim"), file("a/file"), file("b")],
            &["a", "b"],
        ),
        (
            "through an absolute one",
            vec![link("a", &outside), file("a/new"), file("b")],
            &["a", "b"],
        ),
        (
            "a folder through a link",
            vec![link("a", "../victim"), entry("a/folder", Node::Directory), file("a/folder/x")],
            &["a"],
        ),
        ("a folder that is a link", vec![link("a", ".."), link("a/b", "x")], &["a"]),
        ("a file below a file", vec![file("a"), file("a/b")], &["a"]),
        ("a fifo through a link", vec![link("a", "../victim"), entry("a/p", Node::Fifo)], &["a"]),
        (
            "a hard link to what is behind a link",
            vec![link("a", "../victim"), hard_link("b", "a/file")],
            &["a"],
        ),
        (
            "a hard link made behind a link",
            vec![file("a"), link("b", "../victim"), hard_link("b/c", "a")],
            &["a", "b"],
        ),
        ("a hard link to a name that is not there", vec![file("b"), hard_link("c", "a")], &["b"]),
    ];
    for (what, entries, expected) in cases {
        let snapshot = hostile.snapshot(&entries, EVIL_CHUNK).await;
        let said = hostile.pull(&snapshot).exits(1).stderr();
        assert!(said.starts_with("warning: "), "{what}: {said}");
        let expected: BTreeSet<PathBuf> = expected.iter().map(PathBuf::from).collect();
        assert_eq!(hostile.target(), expected, "{what}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn names_of_a_file_that_was_not_begun_are_not_linked_to_what_is_there() {
    let hostile = Hostile::new().await;
    let entries = [link("a", "x"), hostile.file("a/b"), hard_link("c", "a/b")];
    let snapshot = hostile.snapshot(&entries, EVIL_CHUNK).await;
    let target = hostile.sandbox.path("target");
    write(target.join("a/b"), "mine");
    let words = ["pull", &snapshot, "--to", text(&target), "--overwrite"];
    for when in ["never", "if-changed", "always"] {
        let said = hostile.sandbox.arc(words.into_iter().chain([when])).exits(1).stderr();
        assert!(said.contains("c: cannot link: "), "{when}: {said}");
        assert!(target.join("c").symlink_metadata().is_err(), "{when}");
        assert_eq!(fs::read(target.join("a/b")).unwrap(), b"mine");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn first_names_outside_of_what_is_pulled_are_files_or_problems() {
    let hostile = Hostile::new().await;
    let folder = |path: &str| entry(path, Node::Directory);
    let entries = [
        hostile.file("a"),
        hard_link("aa", "a"),
        folder("ab"),
        folder("b"),
        hostile.file("b/1"),
        hard_link("b/2", "a"),
        hard_link("b/3", "aa"),
        hard_link("b/4", "ab"),
        hard_link("b/5", "ac"),
        hostile.file("b/6"),
    ];
    let snapshot = hostile.snapshot(&entries, EVIL_CHUNK).await;
    let said = hostile.pull(&format!("{snapshot}:b")).exits(1).stderr();
    for (name, first) in [("3", "aa"), ("4", "ab"), ("5", "ac")] {
        let told = format!("{name}: cannot link: its first name, `{first}`, is no file");
        assert!(said.contains(&told), "{said}");
    }
    assert_eq!(hostile.target(), ["1", "2", "6"].map(PathBuf::from).into());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_after_a_page_that_is_gone_is_said_to_be_missing() {
    let hostile = Hostile::new().await;
    let leaf = |name: &str| {
        let page = page(0, 0, &[hostile.file(name)]);
        let root = PageRef { chunk: hostile.chunk_ref(&page), height: 0, count: 1 };
        (page, (root, ciborium::Value::Bytes(name.into())))
    };
    let ((first, a), (_, b)) = (leaf("a"), leaf("b"));
    let inner = page(0, 1, &[a, b]);
    let root = PageRef { chunk: hostile.chunk_ref(&inner), height: 1, count: 2 };
    let metadata = |page| (FrameKind::Metadata, page);
    let chunks = [EVIL_CHUNK, &[metadata(&first[..]), metadata(&inner[..])]].concat();
    let snapshot = hostile.snapshot_of(root, &chunks).await;
    let ran = hostile.pull(&snapshot).exits(5);
    assert_eq!(hostile.target(), [PathBuf::from("a")].into());
    assert!(ran.stdout().contains("everything after /a is missing\n"), "{}", ran.stdout());
    let words = ["--json", "pull", &snapshot, "--to", "again"];
    let summary = hostile.sandbox.arc(words).exits(5).json_of("summary");
    assert_eq!((&summary["missing_after"], &summary["lost"]), (&"/a".into(), &0.into()));
    let verified = hostile.sandbox.arc(["--json", "verify", &snapshot]).exits(5);
    let summary = verified.json_of("summary");
    assert_eq!(summary["stripes"], 2, "what comes before it is verified: {summary}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_of_chunks_that_cannot_be_read_costs_a_verify_its_file_alone() {
    let hostile = Hostile::new().await;
    let no_list = PageRef { chunk: hostile.chunk_ref(EVIL), height: 0, count: 1 };
    let unknown = hostile.chunk_ref(b"never stored");
    let file = |path, bytes, content| entry(path, Node::File { bytes, content, holes: vec![] });
    let entries = [
        file("a", 4, Content::List(no_list)),
        file("b", 12, Content::Chunks(vec![unknown])),
        hostile.file("c"),
        hard_link("d", "a"),
        hard_link("e", "c"),
    ];
    let snapshot = hostile.snapshot(&entries, EVIL_CHUNK).await;
    let ran = hostile.sandbox.arc(["--json", "verify", &snapshot, "--level=data"]).exits(5);
    let lost = ran.json_lines("warning");
    let lost: Vec<_> = lost.iter().map(|line| line["path"].as_str().unwrap()).collect();
    assert_eq!(lost, ["/a", "/b", "/d"]);
    let summary = ran.json_of("summary");
    assert_eq!((&summary["stripes"], &summary["lost_files"]), (&2.into(), &3.into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_shorter_than_its_entry_says_is_no_file_on_standard_output() {
    let hostile = Hostile::new().await;
    let page = page(1, 0, &[hostile.chunk_ref(EVIL)]);
    let list = PageRef { chunk: hostile.chunk_ref(&page), height: 0, count: 1 };
    let of = |bytes| entry("a", Node::File { bytes, content: Content::List(list), holes: vec![] });
    for (bytes, code) in [(4, 0), (9, 5)] {
        let chunks = [EVIL_CHUNK, &[(FrameKind::Metadata, &page[..])]].concat();
        let snapshot = hostile.snapshot(&[of(bytes)], &chunks).await;
        let words = ["pull", &format!("{snapshot}:a"), "--to", "-"];
        let ran = hostile.sandbox.arc(words);
        assert_eq!(ran.0.stdout, EVIL, "{}", ran.stderr());
        ran.exits(code);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_are_not_what_their_entry_says_are_not_made() {
    let hostile = Hostile::new().await;
    let chunk = hostile.chunk_ref(EVIL);
    let of = |bytes: u64, chunks: Vec<ChunkRef>| {
        entry("a", Node::File { bytes, content: Content::Chunks(chunks), holes: vec![] })
    };
    let list = |bytes: u64| {
        let root = PageRef { chunk, height: 0, count: 1 };
        entry("a", Node::File { bytes, content: Content::List(root), holes: vec![] })
    };
    let longer = ChunkRef { bytes: 9, ..chunk };
    let unknown = hostile.chunk_ref(b"never stored");
    let cases: Vec<(&str, Entry, i32)> = vec![
        ("more bytes than its chunks", of(5, vec![chunk]), 5),
        ("a chunk that is shorter than it says", of(9, vec![longer]), 5),
        ("a chunk that nobody stored", of(12, vec![unknown]), 5),
        ("a chunk list that is none", list(4), 5),
        ("a file longer than any can be", list(u64::MAX), 1),
    ];
    for (what, entry, code) in cases {
        let snapshot = hostile.snapshot(&[entry], EVIL_CHUNK).await;
        let ran = hostile.pull(&snapshot);
        assert!(!ran.stderr().is_empty(), "{what}");
        ran.exits(code);
        assert_eq!(hostile.target(), BTreeSet::new(), "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_that_are_none_are_refused() {
    let hostile = Hostile::new().await;
    let mut huge = Vec::new();
    ciborium::into_writer(&codec::FORMAT_VERSION, &mut huge).unwrap();
    // A page that says it has 2^60 entries.
    ciborium::into_writer(&(0_u8, 0_u8, 1_u64 << 60), &mut huge).unwrap();
    let mut newer = Vec::new();
    ciborium::into_writer(&(codec::FORMAT_VERSION + 1), &mut newer).unwrap();
    let noise = crate::trees::noise(1, 5_000);
    for (what, page) in [("noise", &noise[..]), ("too many", &huge), ("a newer version", &newer)] {
        for height in [0, 1, 8] {
            let root = PageRef { chunk: hostile.chunk_ref(page), height, count: 3 };
            let snapshot = hostile.snapshot_of(root, &[(FrameKind::Metadata, page)]).await;
            hostile.pull(&snapshot).exits(5);
            assert_eq!(hostile.target(), BTreeSet::new(), "{what}");
        }
    }
}

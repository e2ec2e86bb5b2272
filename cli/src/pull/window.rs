//! Makes folders and special files, begins files, and groups their chunks into windows.

use std::sync::Arc;

use codec::manifest::{ChunkRef, Content, Entry, Node};
use tokio::sync::mpsc;

use super::feed::Item;
use super::{is_taken, relative};
use crate::fetch::FetchError;
use crate::tree::{self, Begun, FileWriter, LinkWriter, Problem, Restorer};

/// A window is closed when its chunks and entries have this many bytes,
const WINDOW_BYTES: u64 = 24 * 1024 * 1024;
/// of which those of an entry count so often: they are held, in several windows, and more than
/// once, which a chunk is not;
const ENTRY_WEIGHT: u64 = 4;
/// or this many chunks, which can be of a byte each,
const WINDOW_PIECES: usize = 16_384;
/// or this many files and links, which can be empty,
const WINDOW_FILES: usize = 8192;
/// or when so many files and folders of it are open.
const WINDOW_OPEN: usize = 512;

/// Chunks that are fetched together, and the files and links that are complete with them.
#[derive(Default)]
pub struct Window {
    /// Where each chunk goes.
    pub pieces: Vec<Piece>,
    /// Files whose last chunk is in this window or before it.
    pub files: Vec<Arc<FileWriter>>,
    /// Hard links to files that are complete with this window.
    pub links: Vec<LinkWriter>,
    /// Files, by path, whose list of chunks cannot be had, and why.
    pub broken: Vec<(Vec<u8>, FetchError)>,
    /// Names under which nothing was made.
    pub unmade: Vec<(Vec<u8>, Unmade)>,
    bytes: u64,
    /// Files and folders that it holds open, at most.
    open: usize,
}

impl Window {
    fn is_full(&self) -> bool {
        self.bytes >= WINDOW_BYTES || self.pieces.len() >= WINDOW_PIECES
    }

    fn has_many_files(&self) -> bool {
        self.files.len() + self.links.len() >= WINDOW_FILES || self.open >= WINDOW_OPEN
    }

    /// Lets go of the pieces, and with them of the files that they hold.
    pub fn without_pieces(mut self) -> Self {
        self.pieces = Vec::new();
        self
    }
}

/// Why nothing was made under a name: further names of its file cannot be links to it.
pub enum Unmade {
    /// It cannot be read back.
    Lost(FetchError),
    /// It could not be made.
    Failed,
    /// Something else was there, and stays.
    Left,
}

/// A chunk of a file.
pub struct Piece {
    /// The chunk.
    pub chunk: ChunkRef,
    /// The file.
    pub file: Arc<FileWriter>,
    /// Its offset there, in bytes.
    pub offset: u64,
}

/// The state of filling windows.
pub struct Windows {
    restorer: Restorer,
    top: Vec<u8>,
    is_empty: bool,
    out: mpsc::Sender<Window>,
    window: Window,
    /// The path of the folder of the entry that came last.
    folder: Vec<u8>,
    /// The file whose chunks come in lists, and how far they have come.
    long: Option<(Arc<FileWriter>, u64)>,
    made: u64,
    skipped: u64,
    problems: Vec<Problem>,
}

/// What is left when all windows were sent.
pub struct Feeding {
    /// Still to be finished.
    pub restorer: Restorer,
    /// Entries made that have no contents.
    pub made: u64,
    /// Entries left alone.
    pub skipped: u64,
    /// Entries that could not be begun.
    pub problems: Vec<Problem>,
}

impl Windows {
    /// Windows of what lies at or below `top`, in a folder that was empty or not.
    pub fn new(
        restorer: Restorer,
        top: Vec<u8>,
        is_empty: bool,
        out: mpsc::Sender<Window>,
    ) -> Self {
        Self {
            restorer,
            top,
            is_empty,
            out,
            window: Window::default(),
            folder: Vec::new(),
            long: None,
            made: 0,
            skipped: 0,
            problems: Vec::new(),
        }
    }

    /// Fills windows from `items` to their end. Blocks: run it on a thread of its own.
    pub fn run(mut self, mut items: mpsc::Receiver<Vec<Item>>) -> Feeding {
        while let Some(group) = items.blocking_recv() {
            for item in group {
                match item {
                    Item::Entry(entry) => self.entry(*entry),
                    Item::Chunks(chunks) => self.more(&chunks),
                    Item::Broken(why) => self.broken(why),
                }
                if self.window.is_full() || self.window.has_many_files() {
                    self.close();
                }
            }
        }
        self.end_long();
        self.close();
        Feeding {
            restorer: self.restorer,
            made: self.made,
            skipped: self.skipped,
            problems: self.problems,
        }
    }

    fn entry(&mut self, mut entry: Entry) {
        self.end_long();
        if entry.path == self.top && matches!(entry.node, Node::Directory) {
            // It is the target folder itself.
            self.made += 1;
            return;
        }
        entry.path = relative(&entry.path, &self.top).to_vec();
        if let Node::Hardlink { first } = &mut entry.node {
            *first = relative(first, &self.top).to_vec();
        }
        let folder = tree::split(&entry.path).0;
        if folder != self.folder {
            self.folder = folder.to_vec();
            self.window.open += 1;
        }
        self.window.bytes += held_bytes(&entry) * ENTRY_WEIGHT;
        let path = entry.path.clone();
        match self.restorer.begin(entry) {
            Ok(Begun::Done) => self.made += 1,
            Ok(Begun::Skipped { same }) => {
                if self.is_empty {
                    self.problems.push(is_taken(path.clone()));
                } else {
                    self.skipped += 1;
                }
                if !same {
                    self.window.unmade.push((path, Unmade::Left));
                }
            }
            Ok(Begun::Link(link)) => self.window.links.push(link),
            Ok(Begun::File(file)) => self.file(Arc::new(file)),
            Err(problem) => {
                self.window.unmade.push((path, Unmade::Failed));
                self.problems.push(problem);
            }
        }
    }

    fn file(&mut self, file: Arc<FileWriter>) {
        self.window.open += usize::from(file.is_open());
        let chunks = match &file.entry().node {
            Node::File { content: Content::Chunks(chunks), .. } => chunks.clone(),
            _ => {
                self.long = Some((file, 0));
                return;
            }
        };
        self.place(&file, 0, &chunks);
        self.window.files.push(file);
    }

    fn more(&mut self, chunks: &[ChunkRef]) {
        // None: the file was skipped or could not be begun.
        if let Some((file, offset)) = self.long.take() {
            let end = self.place(&file, offset, chunks);
            self.long = Some((file, end));
        }
    }

    fn broken(&mut self, why: FetchError) {
        if let Some((file, _)) = &self.long {
            self.window.broken.push((file.entry().path.clone(), why));
        }
    }

    fn end_long(&mut self) {
        self.window.files.extend(self.long.take().map(|(file, _)| file));
    }

    fn place(&mut self, file: &Arc<FileWriter>, mut offset: u64, chunks: &[ChunkRef]) -> u64 {
        for &chunk in chunks {
            self.window.pieces.push(Piece { chunk, file: Arc::clone(file), offset });
            offset += u64::from(chunk.bytes);
            self.window.bytes += u64::from(chunk.bytes);
            if self.window.is_full() {
                self.close();
            }
        }
        offset
    }

    fn close(&mut self) {
        // Nobody takes windows any more: the pull was stopped, the files go with them.
        let _ = self.out.blocking_send(std::mem::take(&mut self.window));
    }
}

/// What an entry takes beside its chunks.
fn held_bytes(entry: &Entry) -> u64 {
    let first = match &entry.node {
        Node::Hardlink { first } => first.len(),
        _ => 0,
    };
    let xattrs: usize = entry.xattrs.iter().map(|x| x.name.len() + x.value.len()).sum();
    (entry.path.len() + first + xattrs) as u64
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use codec::ChunkId;
    use codec::manifest::{PageRef, Xattr};

    use super::*;
    use crate::tree::Overwrite;

    fn entry(path: &str, node: Node) -> Entry {
        Entry {
            path: path.into(),
            node,
            mode: 0o644,
            uid: rustix::process::getuid().as_raw(),
            gid: rustix::process::getgid().as_raw(),
            mtime: (1, 0),
            ctime: (1, 0),
            inode: 1,
            device: 1,
            xattrs: vec![],
            read_again: false,
        }
    }

    /// The windows of some items in an empty folder, by how many pieces they have.
    fn windows(target: &Path, items: Vec<Item>) -> (Vec<usize>, Feeding) {
        let restorer = Restorer::new(target, Overwrite::Never, None).unwrap();
        let (feed, feeding) = mpsc::channel(1);
        let (out, mut ready) = mpsc::channel(1_000);
        feed.blocking_send(items).unwrap_or_else(|_| panic!("it listens"));
        drop(feed);
        let fed = Windows::new(restorer, Vec::new(), true, out).run(feeding);
        let windows = std::iter::from_fn(|| ready.blocking_recv());
        (windows.map(|window| window.pieces.len()).collect(), fed)
    }

    #[test]
    fn a_window_of_tiny_chunks_is_closed() {
        let dir = tempfile::tempdir().unwrap();
        let chunk = ChunkRef { id: ChunkId::default(), bytes: 1 };
        let list = PageRef { chunk, height: 0, count: 1 };
        let long = Node::File { bytes: 1 << 20, content: Content::List(list), holes: vec![] };
        let items =
            vec![Item::Entry(Box::new(entry("f", long))), Item::Chunks(vec![chunk; 40_000])];
        let (pieces, _) = windows(dir.path(), items);
        assert_eq!(pieces, [WINDOW_PIECES, WINDOW_PIECES, 40_000 - 2 * WINDOW_PIECES]);
    }

    #[test]
    fn a_window_of_long_attributes_is_closed() {
        let dir = tempfile::tempdir().unwrap();
        let empty = Node::File { bytes: 0, content: Content::Chunks(vec![]), holes: vec![] };
        let xattr = |bytes| vec![Xattr { name: b"user.a".to_vec(), value: vec![0; bytes] }];
        let items = |bytes| {
            let entry =
                |n: u32| Entry { xattrs: xattr(bytes), ..entry(&n.to_string(), empty.clone()) };
            (0..200).map(|n| Item::Entry(Box::new(entry(n)))).collect()
        };
        assert_eq!(windows(dir.path(), items(60_000)).0.len(), 2, "48 MB");
        assert_eq!(windows(dir.path(), items(60)).0.len(), 1);
    }

    #[test]
    fn a_name_that_another_one_has_taken_is_a_problem() {
        let dir = tempfile::tempdir().unwrap();
        // As where the folder makes no difference between this name and one restored before.
        std::fs::write(dir.path().join("name"), "").unwrap();
        let items = vec![Item::Entry(Box::new(entry("name", Node::Fifo)))];
        let (_, fed) = windows(dir.path(), items);
        assert_eq!((fed.made, fed.skipped), (0, 0));
        assert_eq!(fed.problems.iter().map(|p| &p.path[..]).collect::<Vec<_>>(), [b"name"]);
    }
}

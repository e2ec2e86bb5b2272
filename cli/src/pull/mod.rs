//! A pull, from a manifest to files.
//!
//! `Feed` (a task) reads entries and chunk lists; `window` (a thread) makes folders,
//! begins files and groups their chunks; `deliver` (here) fetches a group's frames,
//! has each chunk written where it belongs, and finishes the files. One lost frame
//! costs the files that need it, no other.

mod deliver;
mod feed;
mod stdout;
mod window;

use std::io;
use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use codec::manifest::{Entry, Node, PageRef, is_within};
use futures_util::StreamExt as _;
use server::wire::SnapshotRow;
use tokio::sync::mpsc;

use self::deliver::{Deliver, Done};
use self::feed::{Fed, Feed};
use self::window::{Feeding, Window, Windows};
use crate::exit::{Exit, Failure};
use crate::fetch::{Entries, FetchError, Fetcher};
use crate::snapshots;
use crate::tree::{self, Overwrite, Problem, Restorer};
use crate::ui::Counters;

pub use self::stdout::to_stdout;

/// Windows whose frames are being fetched at once.
const WINDOWS_IN_FLIGHT: usize = 2;

/// What to pull, and where to.
pub struct Options {
    /// The snapshot.
    pub snapshot: SnapshotRow,
    /// The path in it, empty for all.
    pub path: Vec<u8>,
    /// The folder it lands in.
    pub to: PathBuf,
    /// What to do about names that exist.
    pub overwrite: Overwrite,
    /// Nothing is in that folder: a name that exists is another name of the snapshot.
    pub is_empty: bool,
}

/// What a pull did.
#[derive(Default)]
pub struct Outcome {
    /// Entries that are there now.
    pub entries: u64,
    /// Regular files among them.
    pub files: u64,
    /// Bytes of these.
    pub bytes: u64,
    /// Entries left alone because something was there.
    pub skipped: u64,
    /// Entries that could not be made as they were, and why.
    pub problems: Vec<Problem>,
    /// Files that could not be read back.
    pub lost: Vec<Lost>,
    /// Where the manifest could not be read on.
    pub missing: Option<Missing>,
}

/// Of two names that are the same to the target, as where case makes no difference, one is left.
fn is_taken(path: Vec<u8>) -> Problem {
    let why = "another name of the snapshot is the same name there";
    Problem { path, doing: "restore", error: io::Error::other(why) }
}

/// A file that could not be read back, and why.
pub struct Lost {
    /// Its path below the target.
    pub path: Vec<u8>,
    /// Why.
    pub why: FetchError,
}

/// All that comes after an entry, not even known by name, and why.
pub struct Missing {
    /// The last path that was read, as in the manifest.
    pub after: Vec<u8>,
    /// Why.
    pub why: FetchError,
}

/// Restores `options.path` of a snapshot.
pub async fn pull(
    fetcher: &Arc<Fetcher>,
    options: Options,
    counters: Arc<Counters>,
) -> Result<Outcome, Failure> {
    let record = snapshots::record(fetcher, &options.snapshot).await?;
    let top = find(fetcher, record.manifest, &options.path).await?;
    if options.path.is_empty() {
        counters.total_files.fetch_add(record.stats.files, Relaxed);
        counters.total_bytes.fetch_add(record.stats.bytes, Relaxed);
    }
    let root = top.filter(|entry| matches!(entry.node, Node::Directory));
    let restorer = Restorer::new(&options.to, options.overwrite, root)
        .map_err(Failure::io("cannot restore into", &options.to))?;

    let (out, feeding) = mpsc::channel(4);
    let (windows, ready) = mpsc::channel::<Window>(1);
    let feed = Feed::new(Arc::clone(fetcher), record.manifest, options.path.clone(), out);
    let filling = {
        let windows = Windows::new(restorer, options.path, options.is_empty, windows);
        tokio::task::spawn_blocking(move || windows.run(feeding))
    };
    let deliver = Deliver { fetcher: Arc::clone(fetcher), counters, is_empty: options.is_empty };
    let (written, mut to_finish) = mpsc::channel(1);
    let fetching = async {
        let fetched = futures_util::stream::unfold(ready, |mut ready| async {
            ready.recv().await.map(|w| (w, ready))
        })
        .map(|window| deliver.fetch(window))
        .buffered(WINDOWS_IN_FLIGHT);
        let mut fetched = std::pin::pin!(fetched);
        while let Some(fetched) = fetched.next().await {
            // `finishing` takes all of them.
            let _ = written.send(fetched).await;
        }
        drop(written);
    };
    let finishing = async {
        let mut done = Done::default();
        // Windows come out in order: when one is done, all before it are, and with them
        // the earlier parts of its files and the first names of its links.
        while let Some(fetched) = to_finish.recv().await {
            deliver.finish(fetched, &mut done).await;
        }
        done.outcome
    };
    let (fed, filled, (), mut outcome) = tokio::join!(feed.run(), filling, fetching, finishing);
    let Feeding { restorer, made, skipped, problems } = match filled {
        Ok(filled) => filled,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    };
    outcome.entries += made;
    outcome.skipped += skipped;
    outcome.problems.extend(problems);
    let Fed { missing, lost, problems } = fed;
    outcome.missing = missing;
    outcome.lost.extend(lost);
    outcome.problems.extend(problems);
    let (flushed, problems) =
        tokio::task::spawn_blocking(move || (restorer.sync(), restorer.finish()))
            .await
            .unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
    outcome.problems.extend(problems);
    if let Err(error) = flushed {
        let path = options.to.into_os_string().into_vec();
        outcome.problems.push(Problem { path, doing: "flush", error });
    }
    Ok(outcome)
}

/// The entry of `path` itself; none for the whole snapshot.
pub async fn find(
    fetcher: &Arc<Fetcher>,
    root: PageRef,
    path: &[u8],
) -> Result<Option<Entry>, Failure> {
    if path.is_empty() {
        return Ok(None);
    }
    let mut entries = Entries::new(Arc::clone(fetcher), root);
    entries.seek(path.to_vec());
    match entries.next().await? {
        Some(entry) if entry.path == path => Ok(Some(entry)),
        // A folder above the sources has no entry of its own.
        Some(entry) if is_within(&entry.path, path) => Ok(None),
        _ => Err(Failure::new(
            Exit::NoSnapshot,
            format!("the snapshot has no path /{}", String::from_utf8_lossy(path)),
        )
        .next("arc ls SNAPSHOT    what is in it")),
    }
}

/// The path of an entry below what is pulled: the content of a folder lands in the target,
/// a single file under its own name.
pub fn relative<'a>(path: &'a [u8], top: &[u8]) -> &'a [u8] {
    if path == top {
        return tree::name(path);
    }
    if top.is_empty() { path } else { path.get(top.len() + 1..).unwrap_or_default() }
}

//! Fetches the chunks of a window, writes them where they belong, finishes files.

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};

use codec::frame::Frame;
use codec::manifest::Node;
use codec::seal::FrameKind;
use codec::{ChunkId, StripeId};
use futures_util::{StreamExt as _, stream};
use rayon::prelude::*;
use server::cpu;

use super::window::{Piece, Unmade, Window};
use super::{Lost, Outcome, is_taken};
use crate::fetch::{self, FetchError, Fetcher, Places, Want};
use crate::tree::{Ended, FileWriter, LinkWriter, Problem};
use crate::ui::Counters;

/// Stripes of a window that are read from at once.
const STRIPES_AT_ONCE: usize = 4;

/// A window whose chunks were written, and what went wrong with some of its files.
pub struct Fetched {
    window: Window,
    broken: Broken,
}

/// Files that will not be whole, by path, and why.
type Broken = HashMap<Vec<u8>, Why>;

/// Why a file will not be whole.
enum Why {
    /// Its chunks cannot be had.
    Fetch(FetchError),
    /// It cannot be written.
    Write(Problem),
}

/// What came of the windows so far.
#[derive(Default)]
pub struct Done {
    /// What the pull did.
    pub outcome: Outcome,
    /// Files of windows to come that will not be whole.
    broken: Broken,
    unmade: HashMap<Vec<u8>, Unmade>,
}

/// The delivering end of a pull.
pub struct Deliver {
    /// Where chunks come from.
    pub fetcher: Arc<Fetcher>,
    /// For the display.
    pub counters: Arc<Counters>,
    /// See [`super::Options`].
    pub is_empty: bool,
}

impl Deliver {
    /// Fetches and writes all chunks of a window.
    pub async fn fetch(&self, window: Window) -> Fetched {
        let Window { pieces, .. } = &window;
        let mut open: Vec<ChunkId> = Vec::new();
        let mut seen = HashSet::new();
        open.extend(pieces.iter().map(|piece| piece.chunk.id).filter(|id| seen.insert(*id)));
        let mut broken: Broken = window
            .broken
            .iter()
            .map(|(path, why)| (path.clone(), Why::Fetch(why.clone())))
            .collect();
        let errors = match self.fetcher.locate(&open).await {
            Ok(places) => self.write_all(pieces, open, &places, &mut broken).await,
            Err(error) => open.into_iter().map(|id| (id, error.clone())).collect(),
        };
        for piece in pieces {
            if let Some(error) = errors.get(&piece.chunk.id) {
                broken.insert(piece.file.entry().path.clone(), Why::Fetch(error.clone()));
            }
        }
        // The pieces hold their files; what is left are the window's own handles.
        Fetched { window: window.without_pieces(), broken }
    }

    /// Tries the places of the chunks in turn; returns the chunks that none gives.
    async fn write_all(
        &self,
        pieces: &[Piece],
        mut open: Vec<ChunkId>,
        places: &Places,
        broken: &mut Broken,
    ) -> HashMap<ChunkId, FetchError> {
        let mut errors: HashMap<ChunkId, FetchError> = HashMap::new();
        let written = Arc::<Mutex<HashSet<ChunkId>>>::default();
        let each = Arc::new(self.writer(pieces, Arc::clone(&written)));
        for attempt in 0.. {
            let (wants, placeless) = fetch::wants(&open, places, attempt);
            for id in placeless {
                errors.entry(id).or_insert_with(|| self.fetcher.no_place(id, 0));
            }
            let mut failed: HashMap<(StripeId, u32), FetchError> = HashMap::new();
            let each = &each;
            let read = |want: Want| async move {
                (want.map.stripe, self.fetcher.frames(FrameKind::Data, &want, each).await)
            };
            let mut read =
                std::pin::pin!(stream::iter(wants).map(read).buffer_unordered(STRIPES_AT_ONCE));
            while let Some((stripe, frames)) = read.next().await {
                for problem in frames.made.into_iter().flatten() {
                    broken.insert(problem.path.clone(), Why::Write(problem));
                }
                failed.extend(frames.failed.into_iter().map(|(n, error)| ((stripe, n), error)));
            }
            let written = written.lock().unwrap_or_else(PoisonError::into_inner);
            open.retain(|id| {
                if written.contains(id) {
                    errors.remove(id);
                    return false;
                }
                let place = places.get(id).and_then(|rows| rows.get(attempt));
                let Some((map, frame)) = place else { return false };
                let error = failed.get(&(map.stripe, *frame)).cloned();
                let error = error.unwrap_or_else(|| not_there(*id, map.stripe, *frame));
                let error = match errors.remove(id) {
                    Some(before) => before.or(error),
                    None => error,
                };
                errors.insert(*id, error);
                true
            });
            if open.is_empty() {
                break;
            }
        }
        errors
    }

    /// Writes the chunks of a frame to all places in files that want them, and notes them in
    /// `written`.
    fn writer(
        &self,
        pieces: &[Piece],
        written: Arc<Mutex<HashSet<ChunkId>>>,
    ) -> impl Fn(u32, &mut Frame) -> Vec<Problem> + Send + Sync + use<> {
        let mut targets: HashMap<ChunkId, Vec<(Arc<FileWriter>, u64, u32)>> = HashMap::new();
        for piece in pieces {
            let target = (Arc::clone(&piece.file), piece.offset, piece.chunk.bytes);
            targets.entry(piece.chunk.id).or_default().push(target);
        }
        let counters = Arc::clone(&self.counters);
        move |_, frame| {
            let mut problems = Vec::new();
            for (id, range) in &frame.chunks {
                let bytes = &frame.bytes[range.clone()];
                let targets = targets.get(id).into_iter().flatten();
                // A file that wants another length than the rest stays short, which its end
                // notices.
                let fitting: Vec<_> =
                    targets.filter(|(_, _, wanted)| *wanted as usize == bytes.len()).collect();
                // Two frames that are read can have the same chunk; it is written once.
                if fitting.is_empty()
                    || !written.lock().unwrap_or_else(PoisonError::into_inner).insert(*id)
                {
                    continue;
                }
                for (file, offset, _) in fitting {
                    match file.write_at(*offset, bytes) {
                        Ok(()) => drop(counters.done_bytes.fetch_add(bytes.len() as u64, Relaxed)),
                        Err(problem) => problems.push(problem),
                    }
                }
            }
            problems
        }
    }

    /// Finishes the files and links of a window, after those before it.
    pub async fn finish(&self, fetched: Fetched, done: &mut Done) {
        let Done { outcome, broken, unmade } = done;
        let window = fetched.window;
        broken.extend(fetched.broken);
        unmade.extend(window.unmade);
        let mut whole = Vec::with_capacity(window.files.len());
        for file in window.files {
            let path = &file.entry().path;
            match broken.remove(path) {
                Some(Why::Fetch(why)) => {
                    unmade.insert(path.clone(), Unmade::Lost(why.clone()));
                    outcome.lost.push(Lost { path: path.clone(), why });
                }
                Some(Why::Write(problem)) => {
                    unmade.insert(path.clone(), Unmade::Failed);
                    outcome.problems.push(problem);
                }
                None => whole.push(file),
            }
        }
        let ended = cpu::run(move || {
            let finish = |file: Arc<FileWriter>| {
                let entry = file.entry();
                let bytes = match entry.node {
                    Node::File { bytes, .. } => bytes,
                    _ => 0,
                };
                let path = entry.path.clone();
                // Earlier windows let go of it when they were done.
                let ended = Arc::try_unwrap(file)
                    .map_err(|file| Problem {
                        path: file.entry().path.clone(),
                        doing: "finish",
                        error: io::Error::other("it is still being written"),
                    })
                    .and_then(FileWriter::finish);
                (path, bytes, ended)
            };
            whole.into_par_iter().map(finish).collect::<Vec<_>>()
        })
        .await;
        for (path, bytes, ended) in ended {
            match ended {
                Ok(Ended::Placed) => {
                    outcome.entries += 1;
                    outcome.files += 1;
                    outcome.bytes += bytes;
                    self.counters.done_files.fetch_add(1, Relaxed);
                }
                Ok(Ended::Skipped) => {
                    self.skip(&path, outcome);
                    unmade.insert(path, Unmade::Left);
                }
                Err(problem) => {
                    unmade.insert(path, Unmade::Failed);
                    outcome.problems.push(problem);
                }
            }
        }
        self.finish_links(window.links, unmade, outcome);
    }

    fn skip(&self, path: &[u8], outcome: &mut Outcome) {
        if self.is_empty {
            outcome.problems.push(is_taken(path.to_vec()));
        } else {
            outcome.skipped += 1;
        }
    }

    /// A further name of a file that was not made shares its fate: what may stand under the
    /// file's name in the target is something else.
    fn finish_links(
        &self,
        links: Vec<LinkWriter>,
        unmade: &HashMap<Vec<u8>, Unmade>,
        outcome: &mut Outcome,
    ) {
        for link in links {
            let path = link.entry().path.clone();
            let first = match &link.entry().node {
                Node::Hardlink { first } => unmade.get(first),
                _ => None,
            };
            let why = match first {
                Some(Unmade::Lost(why)) => {
                    outcome.lost.push(Lost { path, why: why.clone() });
                    continue;
                }
                Some(Unmade::Left) if link.stays() => {
                    self.skip(&path, outcome);
                    continue;
                }
                Some(Unmade::Left) => {
                    "something else stands under the file's first name, and was left as it was"
                }
                Some(Unmade::Failed) => "the file itself could not be restored",
                None => {
                    match link.finish() {
                        Ok(Ended::Placed) => outcome.entries += 1,
                        Ok(Ended::Skipped) => self.skip(&path, outcome),
                        Err(problem) => outcome.problems.push(problem),
                    }
                    continue;
                }
            };
            outcome.problems.push(Problem { path, doing: "link", error: io::Error::other(why) });
        }
    }
}

/// The catalog names a frame for the chunk that opens, and has no such chunk.
fn not_there(id: ChunkId, stripe: StripeId, frame: u32) -> FetchError {
    FetchError::Lost(format!(
        "chunk {id:.8} is not in frame {frame} of stripe {stripe:.8}, or of another length"
    ))
}

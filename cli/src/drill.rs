//! A drill: files at random out of random snapshots are read as a pull reads them, without m
//! random shards of each stripe, and every byte is checked. Nothing is written.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use codec::manifest::{ChunkRef, Content, Entry, Node};
use codec::seal::FrameKind;
use codec::{ChunkId, Digest, StripeId};
use rayon::prelude::*;
use server::cpu;
use server::wire::{self, DrillResult, SnapshotRow, State};

use crate::exit::Failure;
use crate::fetch::{ChunkList, Entries, FetchError, Fetcher, Heal};
use crate::snapshots::{self, Rows};
use crate::ui::Counters;
use crate::vault::Vault;
use crate::verify::{Draw, Share, offer};

/// Chunks that are read together, and their bytes.
const GROUP_CHUNKS: usize = 4096;
const GROUP_BYTES: u64 = 32 << 20;

/// What a drill came to.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Snapshots that files were taken from.
    pub snapshots: Vec<StripeId>,
    /// Files restored, every byte of them checked.
    pub files: u64,
    /// Bytes of these.
    pub bytes: u64,
    /// Stripes of which shards were withheld.
    pub stripes: u64,
    /// How many shards that were.
    pub withheld: u64,
    /// Shards that are missing or damaged.
    pub bad: Vec<Heal>,
    /// Servers that are away, or do not answer as a sound server does, and why.
    pub away: BTreeMap<String, String>,
    /// Files that cannot be had back, with the snapshot that has them.
    pub lost: BTreeSet<(StripeId, Vec<u8>)>,
    /// Files that too few servers answer for.
    pub unread: BTreeSet<(StripeId, Vec<u8>)>,
    /// Snapshots whose record or manifest cannot be read on: why, and whether that is for good.
    pub unread_snapshots: BTreeMap<StripeId, (String, bool)>,
}

impl Outcome {
    /// How it went.
    pub fn result(&self) -> DrillResult {
        let is_lost = |(_, lost): &(String, bool)| *lost;
        if !self.lost.is_empty() || self.unread_snapshots.values().any(is_lost) {
            return DrillResult::Lost;
        }
        if !(self.unread.is_empty() && self.unread_snapshots.is_empty() && self.away.is_empty()) {
            return DrillResult::OutOfReach;
        }
        if self.bad.is_empty() { DrillResult::Well } else { DrillResult::Repairable }
    }

    /// What the coordinator keeps of it.
    pub fn kept(&self) -> wire::Drill {
        wire::Drill {
            files: self.files,
            bytes: self.bytes,
            bad_shards: self.bad.len() as u64,
            lost_files: self.lost.len() as u64,
            result: self.result(),
        }
    }
}

/// Restores files that make `share` of the bytes of a snapshot: of the one that is given, or of one
/// drawn among those of each host and sources.
pub async fn drill(
    vault: &Vault,
    snapshot: Option<SnapshotRow>,
    share: Share,
    counters: &Arc<Counters>,
) -> Result<Outcome, Failure> {
    let fetcher = Arc::new(Fetcher::new(vault, Arc::clone(counters))?.withholding());
    let rows = match snapshot {
        Some(row) => vec![row],
        None => drawn(vault).await?,
    };
    let mut drill = Drill {
        fetcher,
        counters,
        waiting: Vec::new(),
        waiting_bytes: 0,
        outcome: Outcome::default(),
    };
    for row in rows {
        drill.outcome.snapshots.push(row.id);
        drill.snapshot(&row, share).await?;
    }
    drill.flush().await?;
    let Drill { fetcher, mut outcome, .. } = drill;
    (outcome.stripes, outcome.withheld) = fetcher.withheld();
    outcome.bad = fetcher.heals();
    // What a lost one held is made elsewhere; the files that it costs are named anyway.
    let is_waited_for = |state: State| state.is_away() && state != State::Lost;
    for ticket in fetcher.tickets().await?.servers.values().filter(|t| is_waited_for(t.state)) {
        outcome.away.insert(ticket.name.clone(), "it is away".to_owned());
    }
    for server in fetcher.passed_over().into_iter().filter(|server| server.is_nonsense) {
        outcome.away.insert(server.server, server.why);
    }
    Ok(outcome)
}

/// Of each host and sources one snapshot, each with the same chance.
async fn drawn(vault: &Vault) -> Result<Vec<SnapshotRow>, Failure> {
    let mut rows = Rows::new(vault.coordinator.clone());
    let mut drawn: HashMap<Digest, (u64, SnapshotRow)> = HashMap::new();
    while let Some(row) = rows.next().await? {
        match drawn.get_mut(&row.source_set) {
            None => drop(drawn.insert(row.source_set, (1, row))),
            Some((seen, chosen)) => {
                *seen += 1;
                let dice = u64::from_le_bytes(server::auth::random()?);
                if dice.is_multiple_of(*seen) {
                    *chosen = row;
                }
            }
        }
    }
    let mut rows: Vec<SnapshotRow> = drawn.into_values().map(|(_, row)| row).collect();
    rows.sort_by_key(|row| row.sequence);
    Ok(rows)
}

/// A file that was drawn.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct File {
    snapshot: StripeId,
    path: Vec<u8>,
}

/// What is left of a file's way through the drill.
enum Waiting {
    Chunk(ChunkRef, Arc<File>),
    /// All its chunks came before.
    End(Arc<File>),
}

/// One drill under way.
struct Drill<'a> {
    fetcher: Arc<Fetcher>,
    counters: &'a Counters,
    waiting: Vec<Waiting>,
    /// Bytes of the chunks that wait.
    waiting_bytes: u64,
    outcome: Outcome,
}

impl Drill<'_> {
    async fn snapshot(&mut self, row: &SnapshotRow, share: Share) -> Result<(), Failure> {
        let record = match snapshots::record(&self.fetcher, row).await {
            Ok(record) => record,
            Err(error) => return self.unread_snapshot(row.id, error),
        };
        self.counters.total_bytes.fetch_add(share.of(record.stats.bytes), Relaxed);
        let mut draw = Draw::new(share, record.stats.bytes);
        let mut entries = Entries::new(Arc::clone(&self.fetcher), record.manifest);
        loop {
            let entry = match entries.next().await {
                Ok(Some(entry)) => entry,
                Ok(None) => break,
                Err(error) => {
                    self.unread_snapshot(row.id, error)?;
                    break;
                }
            };
            if let Node::File { bytes, .. } = entry.node
                && let Some(entry) = offer(&mut draw, entry, bytes)?
            {
                self.file(row.id, entry).await?;
            }
        }
        match draw.rest() {
            Some(entry) => self.file(row.id, entry).await,
            None => Ok(()),
        }
    }

    fn unread_snapshot(&mut self, id: StripeId, error: FetchError) -> Result<(), Failure> {
        let is_lost = match &error {
            FetchError::Lost(_) => true,
            FetchError::TooFewServers(_) => false,
            FetchError::Coordinator(_) => return Err(error.into()),
        };
        self.outcome.unread_snapshots.insert(id, (error.to_string(), is_lost));
        Ok(())
    }

    async fn file(&mut self, snapshot: StripeId, entry: Entry) -> Result<(), Failure> {
        let file = Arc::new(File { snapshot, path: entry.path });
        match entry.node {
            Node::File { content: Content::Chunks(chunks), .. } => {
                for chunk in chunks {
                    self.chunk(chunk, &file).await?;
                }
            }
            Node::File { content: Content::List(list), .. } => {
                let mut chunks = ChunkList::new(Arc::clone(&self.fetcher), list);
                loop {
                    match chunks.next().await {
                        Ok(Some(chunk)) => self.chunk(chunk, &file).await?,
                        Ok(None) => break,
                        Err(error) => {
                            self.unread(&file, error)?;
                            break;
                        }
                    }
                }
            }
            _ => return Ok(()),
        }
        self.waiting.push(Waiting::End(file));
        Ok(())
    }

    async fn chunk(&mut self, chunk: ChunkRef, file: &Arc<File>) -> Result<(), Failure> {
        self.waiting.push(Waiting::Chunk(chunk, Arc::clone(file)));
        self.waiting_bytes += u64::from(chunk.bytes);
        if self.waiting_bytes < GROUP_BYTES && self.waiting.len() < GROUP_CHUNKS {
            return Ok(());
        }
        self.flush().await
    }

    /// Reads what waits, and checks every byte of it.
    async fn flush(&mut self) -> Result<(), Failure> {
        let waiting = std::mem::take(&mut self.waiting);
        self.waiting_bytes = 0;
        let chunk = |waiting: &Waiting| match waiting {
            Waiting::Chunk(chunk, _) => Some(*chunk),
            Waiting::End(_) => None,
        };
        let mut ids: Vec<ChunkId> = waiting.iter().filter_map(chunk).map(|c| c.id).collect();
        ids.sort_unstable();
        ids.dedup();
        let mut failed: HashMap<ChunkId, FetchError> = HashMap::new();
        let good = match self.good(&ids, &mut failed).await {
            Ok(good) => good,
            // One of them cannot be had; the others perhaps can.
            Err(_) => {
                let mut good = HashMap::new();
                for id in ids {
                    match self.good(&[id], &mut failed).await {
                        Ok(one) => good.extend(one),
                        Err(error) => drop(failed.insert(id, error)),
                    }
                }
                good
            }
        };
        for waiting in waiting {
            match waiting {
                Waiting::Chunk(chunk, file) => match good.get(&chunk.id) {
                    Some(&bytes) if bytes == chunk.bytes as usize => {
                        self.outcome.bytes += bytes as u64;
                        self.counters.done_bytes.fetch_add(bytes as u64, Relaxed);
                    }
                    found => {
                        let error = failed.get(&chunk.id).cloned().unwrap_or_else(|| {
                            let found = found.copied().unwrap_or_default();
                            let why = format!("{found} bytes, not {}", chunk.bytes);
                            FetchError::Lost(format!("chunk {:.8} has {why}", chunk.id))
                        });
                        self.unread(&file, error)?;
                    }
                },
                Waiting::End(file) => {
                    let key = (file.snapshot, file.path.clone());
                    if !self.outcome.lost.contains(&key) && !self.outcome.unread.contains(&key) {
                        self.outcome.files += 1;
                        self.counters.done_files.fetch_add(1, Relaxed);
                    }
                }
            }
        }
        Ok(())
    }

    /// How long each chunk is, once its id was computed from its bytes.
    async fn good(
        &self,
        ids: &[ChunkId],
        failed: &mut HashMap<ChunkId, FetchError>,
    ) -> Result<HashMap<ChunkId, usize>, FetchError> {
        let chunks = self.fetcher.chunks(FrameKind::Data, ids).await?;
        let keys = self.fetcher.keys().clone();
        let checked = cpu::run(move || {
            let check =
                |(id, bytes): (ChunkId, Vec<u8>)| (id, bytes.len(), keys.chunk_id(&bytes) == id);
            chunks.into_par_iter().map(check).collect::<Vec<_>>()
        });
        let mut good = HashMap::with_capacity(ids.len());
        for (id, bytes, is_good) in checked.await {
            if is_good {
                good.insert(id, bytes);
            } else {
                let why = format!("chunk {id:.8} has other bytes than its id");
                failed.insert(id, FetchError::Lost(why));
            }
        }
        Ok(good)
    }

    fn unread(&mut self, file: &File, error: FetchError) -> Result<(), Failure> {
        let key = (file.snapshot, file.path.clone());
        match error {
            FetchError::Lost(_) => drop(self.outcome.lost.insert(key)),
            FetchError::TooFewServers(_) => drop(self.outcome.unread.insert(key)),
            FetchError::Coordinator(_) => return Err(error.into()),
        }
        Ok(())
    }
}

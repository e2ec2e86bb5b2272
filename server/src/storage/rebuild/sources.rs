//! The shards that a rebuild reads: their headers first, which certify the tables that blocks
//! can be checked against, then blocks.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use codec::digest::{self, BLOCK_BYTES};
use codec::shard::Header;
use futures_util::{StreamExt as _, stream};

use super::flow::{FLOWS_MAX, Flow, Flows};
use super::grid::Cell;
use super::pace::Pace;
use crate::client::StorageClient;
use crate::storage::address::Address;
use crate::storage::buffers::Buffers;
use crate::storage::fault::Fault;
use crate::storage::inspect::{check_address, read_header, unreadable_is_damaged};
use crate::storage::room::is_unreadable;
use crate::storage::server::{Server, blocking};
use crate::storage::shelf::Shelf;
use crate::wire::{Code, Found, ReadTicket, RebuildRequest, ServerId};
use crate::{Error, Result};

/// Headers that are fetched at once.
const HEADERS_AT_ONCE: usize = 16;

/// The sources of one rebuild.
pub(super) struct Sources {
    pub(super) order: Arc<RebuildRequest>,
    pub(super) all: Vec<Source>,
    server: Arc<Server>,
    /// For what is read from other servers.
    peers: StorageClient,
    pace: Arc<Pace>,
    flows: Flows,
    buffers: Mutex<Buffers>,
    seen: Mutex<Seen>,
}

/// A shard that something can be read of.
pub(super) struct Source {
    pub(super) index: u8,
    holder: ServerId,
    at: At,
    pub(super) header: Arc<Header>,
}

enum At {
    Own(Arc<File>),
    Peer(ReadTicket),
}

/// What was met so far.
#[derive(Default)]
pub(super) struct Seen {
    pub(super) found: BTreeMap<(u8, ServerId), Found>,
    pub(super) unreachable: BTreeMap<ServerId, String>,
    /// Servers that are not asked again.
    gone: BTreeSet<ServerId>,
    pub(super) read_bytes: u64,
    pub(super) own_bytes: u64,
}

impl Sources {
    pub(super) fn new(
        server: Arc<Server>,
        order: Arc<RebuildRequest>,
        (peers, pace): (StorageClient, Arc<Pace>),
    ) -> Self {
        let (flows, buffers, seen) = (Flows::default(), Mutex::default(), Mutex::default());
        Self { order, all: Vec::new(), server, peers, pace, flows, buffers, seen }
    }

    pub(super) fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Any header; each certifies the whole stripe.
    pub(super) fn certified(&self) -> Option<Arc<Header>> {
        self.all.first().map(|source| Arc::clone(&source.header))
    }

    /// Whether nothing is known to be amiss with any of them, and none is a shard that is `wanted`:
    /// that one is made again because of what is amiss with it.
    pub(super) fn are_sound(&self, wanted: &[u8]) -> bool {
        self.seen().found.is_empty() && self.all.iter().all(|s| !wanted.contains(&s.index))
    }

    /// Reads the headers of all sources, and of what lies here where shard `own_place`
    /// shall be. Refuses an order that says something else of the stripe than they do.
    pub(super) async fn open(&mut self, own_place: Option<u8>) -> Result<()> {
        let own = self.server.gate.identity.server;
        let (listed, peers): (Vec<_>, Vec<_>) =
            self.order.sources.iter().partition(|source| source.at.server == own);
        let headers: Vec<_> = peers.iter().map(|peer| self.peer(peer.index, &peer.at)).collect();
        let headers: Vec<_> = stream::iter(headers).buffered(HEADERS_AT_ONCE).collect().await;
        let mut all: Vec<Source> = headers.into_iter().flatten().collect();
        let mut tableless = Vec::new();
        let own_indexes: BTreeSet<u8> =
            listed.iter().map(|source| source.index).chain(own_place).collect();
        for index in own_indexes {
            let must_be_there = listed.iter().any(|source| source.index == index);
            match self.open_own(index, must_be_there).await? {
                Some((file, Some(header))) => all.push(self.own(index, file, header)),
                Some((file, None)) => tableless.push((index, file)),
                None => {}
            }
        }
        if let Some(certified) = all.first().map(|source| Arc::clone(&source.header)) {
            for (index, file) in tableless {
                if let Some(header) = self.header_of_body(index, &file, &certified).await {
                    all.push(self.own(index, file, header));
                }
            }
            check_order(&self.order, &certified)?;
        }
        self.all = all;
        Ok(())
    }

    fn own(&self, index: u8, file: Arc<File>, header: Header) -> Source {
        let holder = self.server.gate.identity.server;
        Source { index, holder, at: At::Own(file), header: Arc::new(header) }
    }

    fn address(&self, index: u8) -> Address {
        Address { stripe: self.order.stripe, index }
    }

    async fn peer(&self, index: u8, at: &ReadTicket) -> Option<Source> {
        let header_bytes = self.order.header_bytes();
        let bytes = self.read_peer(index, at, 0..header_bytes).await?;
        let header = Header::parse(&bytes).map_err(Error::from).and_then(|header| {
            check_address(&header, self.server.shelf.vault, self.address(index))?;
            Ok(header)
        });
        match (header, Header::peek_bytes(&bytes)) {
            (Ok(header), _) => {
                let (holder, at) = (at.server, At::Peer(at.clone()));
                Some(Source { index, holder, at, header: Arc::new(header) })
            }
            // Lengths that fit each other, only not those of the order: no sign of damage.
            (Err(_), Ok(said)) if said as u64 != header_bytes => {
                let why = format!("a header of {said} bytes, by the order it has {header_bytes}");
                self.seen().unreachable.insert(at.server, why);
                None
            }
            (Err(error), _) => {
                self.note(index, at.server, error);
                None
            }
        }
    }

    /// The file that lies here, with its header if that is right.
    async fn open_own(
        &self,
        index: u8,
        must_be_there: bool,
    ) -> Result<Option<(Arc<File>, Option<Header>)>> {
        let (own, address) = (self.server.gate.identity.server, self.address(index));
        let shelf = Arc::clone(&self.server.shelf);
        let opened = blocking(move || {
            let Some(file) = shelf.open(address)? else { return Ok(None) };
            let path = shelf.path(address);
            let metadata = file.metadata().map_err(Error::io("cannot read", &path))?;
            let header = read_header(&file, &path, metadata.len()).and_then(|header| {
                check_address(&header, shelf.vault, address)?;
                Ok(header)
            });
            let header = header.map_err(unreadable_is_damaged);
            if let Err(error @ Error::Codec(_)) = &header {
                shelf.note_bad(address, Some(&file), &error.to_string());
            }
            Ok(Some((Arc::new(file), header)))
        });
        match opened.await.map_err(unreadable_is_damaged) {
            Ok(Some((file, Ok(header)))) => Ok(Some((file, Some(header)))),
            Ok(Some((file, Err(error)))) => {
                self.note(index, own, error);
                Ok(Some((file, None)))
            }
            Ok(None) => {
                if must_be_there {
                    self.seen().found.insert((index, own), Found::Missing);
                }
                Ok(None)
            }
            Err(error @ Error::Codec(_)) => {
                self.note(index, own, error);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// The header of a body whose own is damaged: a table that gives the recorded root is right.
    async fn header_of_body(
        &self,
        index: u8,
        file: &Arc<File>,
        certified: &Arc<Header>,
    ) -> Option<Header> {
        let (file, certified) = (Arc::clone(file), Arc::clone(certified));
        let (shelf, address) = (Arc::clone(&self.server.shelf), self.address(index));
        let header = blocking(move || {
            let block = |number| {
                let range = body_range(&certified, number..number + 1);
                let mut block = vec![0; (range.end - range.start) as usize];
                let read = read_own(&shelf, address, &file, range.start, &mut block);
                read.map(|()| digest::block_hash(&block))
            };
            let hashes =
                (0..certified.block_hashes.len()).map(block).collect::<io::Result<Vec<_>>>();
            let ends = certified.sibling(index, &hashes.ok()?).ok()?;
            Header::parse(&ends.header).ok()
        });
        header.await
    }

    /// The usable sources, those to be asked first in front: own disk and peers.
    pub(super) fn preferred(&self) -> (Vec<usize>, Vec<usize>) {
        let seen = self.seen();
        let rank = |&at: &usize| {
            let Source { index, holder, .. } = self.all[at];
            let bad = seen.found.contains_key(&(index, holder));
            (bad || seen.unreachable.contains_key(&holder), index)
        };
        let usable = |&at: &usize| {
            let Source { index, holder, .. } = self.all[at];
            let missing = seen.found.get(&(index, holder)) == Some(&Found::Missing);
            !missing && !seen.gone.contains(&holder)
        };
        let mut sources: Vec<usize> = (0..self.all.len()).filter(usable).collect();
        sources.sort_by_key(rank);
        sources.into_iter().partition(|&at| matches!(self.all[at].at, At::Own(_)))
    }

    /// Blocks `run` of a source, none of them checked. What comes after them `is_next`.
    pub(super) async fn read(&self, source: usize, run: Range<usize>, is_next: bool) -> Vec<Cell> {
        let Source { index, ref at, ref header, .. } = self.all[source];
        let ticket = match at {
            At::Own(file) => return self.read_own(index, file, header, run).await,
            At::Peer(ticket) => ticket,
        };
        let flows = self.order.geometry.data() <= FLOWS_MAX && self.pace.is_free();
        if is_next && flows && !self.is_gone(ticket) {
            match self.read_on(source, ticket, run.clone()).await {
                Ok(Some(blocks)) => return blocks.into_iter().map(Cell::Read).collect(),
                Ok(None) => {}
                Err(error) => {
                    self.note(index, ticket.server, error);
                    return vec![Cell::Failed; run.len()];
                }
            }
        }
        self.flows.end();
        match self.read_peer(index, ticket, body_range(header, run.clone())).await {
            Some(bytes) => blocks(&bytes),
            None => vec![Cell::Failed; run.len()],
        }
    }

    /// Blocks of a peer's shard out of what it sends of all that is left, which it is asked for
    /// once; `None` where they do not come.
    async fn read_on(
        &self,
        source: usize,
        at: &ReadTicket,
        run: Range<usize>,
    ) -> Result<Option<Vec<Bytes>>> {
        let Source { index, ref header, .. } = self.all[source];
        let blocks = header.block_hashes.len();
        let (all, part) = (body_range(header, 0..blocks), body_range(header, run));
        let flow = match self.flows.take(source, part.start) {
            None if part.start == all.start && !self.flows.are_over() => {
                let all = self.peers.open_range(at, self.order.stripe, index, all);
                Flow::open(&self.server.flows, part.start, all).await
            }
            flow => flow,
        };
        let Some(mut flow) = flow else { return Ok(None) };
        let bytes = part.end - part.start;
        let length = |at: u64| (part.end - at).min(BLOCK_BYTES as u64) as usize;
        let lengths: Vec<usize> = part.clone().step_by(BLOCK_BYTES).map(length).collect();
        let Some(blocks) = flow.read(&lengths).await? else { return Ok(None) };
        self.flows.leave(source, flow);
        self.pace.take(bytes).await;
        self.seen().read_bytes += bytes;
        Ok(Some(blocks))
    }

    /// Takes note that blocks of a source are not what they should be.
    pub(super) async fn note_bad(&self, source: usize, errors: Vec<codec::Error>) {
        let Source { index, holder, ref at, .. } = self.all[source];
        if let (At::Own(file), Some(error)) = (at, errors.first()) {
            let (shelf, file) = (Arc::clone(&self.server.shelf), Arc::clone(file));
            let (address, why) = (self.address(index), error.to_string());
            blocking(move || shelf.note_bad(address, Some(&file), &why)).await;
        }
        errors.into_iter().for_each(|error| self.note(index, holder, error.into()));
    }

    /// Blocks of a file here, one by one: an unreadable sector costs its block only.
    async fn read_own(
        &self,
        index: u8,
        file: &Arc<File>,
        header: &Header,
        run: Range<usize>,
    ) -> Vec<Cell> {
        let range = body_range(header, run);
        let bytes = range.end - range.start;
        self.pace.take(bytes).await;
        let mut buffer = self.buffers().of(bytes as usize);
        let (file, shelf) = (Arc::clone(file), Arc::clone(&self.server.shelf));
        let address = self.address(index);
        let (read, buffer) = blocking(move || {
            let blocks = (range.start..).step_by(BLOCK_BYTES).zip(buffer.chunks_mut(BLOCK_BYTES));
            let read = blocks.map(|(at, block)| read_own(&shelf, address, &file, at, block));
            (read.collect::<Vec<_>>(), buffer)
        })
        .await;
        let own = self.server.gate.identity.server;
        let taken = |(cell, read): (Cell, io::Result<()>)| match (cell, read) {
            (Cell::Read(block), Ok(())) => {
                self.seen().own_bytes += block.len() as u64;
                Cell::Read(block)
            }
            (_, Err(error)) => {
                let why = format!("it cannot be read: {error}");
                self.note(index, own, codec::Error::damaged("shard file", why).into());
                Cell::Failed
            }
            (cell, Ok(())) => cell,
        };
        let bytes = self.buffers().give(buffer);
        blocks(&bytes).into_iter().zip(read).map(taken).collect()
    }

    async fn read_peer(&self, index: u8, at: &ReadTicket, range: Range<u64>) -> Option<Bytes> {
        if self.is_gone(at) {
            return None;
        }
        let bytes = range.end - range.start;
        self.pace.take(bytes).await;
        match self.peers.get_range(at, self.order.stripe, index, range).await {
            Ok(read) => {
                self.seen().read_bytes += bytes;
                Some(read)
            }
            Err(error) => {
                self.note(index, at.server, error);
                None
            }
        }
    }

    fn is_gone(&self, at: &ReadTicket) -> bool {
        self.seen().gone.contains(&at.server)
    }

    fn buffers(&self) -> MutexGuard<'_, Buffers> {
        self.buffers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers why a read gave nothing, and what that says of the shard or of its server.
    pub(super) fn note(&self, index: u8, holder: ServerId, error: Error) {
        let mut seen = self.seen();
        let found = match (error.code(), error) {
            (Some(Code::NotFound), _) => Found::Missing,
            (_, Error::Codec(error)) => Found::Damaged(error.to_string()),
            (Some(Code::Damaged), Error::Refused { refusal, .. }) => {
                Found::Damaged(refusal.message)
            }
            (code, error) => {
                // The rest of an answer that broke off, or a turn, may be had later.
                let later = matches!(code, Some(Code::Busy | Code::NotReady));
                if !later && !matches!(error, Error::Io { .. }) {
                    seen.gone.insert(holder);
                }
                seen.unreachable.entry(holder).or_insert_with(|| error.to_string());
                return;
            }
        };
        seen.found.entry((index, holder)).or_insert(found);
    }
}

/// Whether the order says of the stripe what its id certifies.
fn check_order(order: &RebuildRequest, certified: &Header) -> Result<()> {
    let said = (order.geometry, order.pack_bytes, usize::from(order.pack_key_bytes));
    let is = (certified.geometry, certified.pack_bytes, certified.pack_key.0.len());
    if said == is {
        return Ok(());
    }
    let why = format!("the order is for (code, pack, key) {said:?}, the stripe has {is:?}");
    Err(Error::refuse(Code::BadRequest, why))
}

/// Where blocks of the body lie in the file.
pub(super) fn body_range(header: &Header, blocks: Range<usize>) -> Range<u64> {
    let at = |number: usize| {
        header.header_bytes() + header.shard_bytes.min(number as u64 * BLOCK_BYTES as u64)
    };
    at(blocks.start)..at(blocks.end)
}

/// What was read, as blocks that nobody has checked.
fn blocks(bytes: &Bytes) -> Vec<Cell> {
    let block = |from| bytes.slice(from..bytes.len().min(from + BLOCK_BYTES));
    (0..bytes.len()).step_by(BLOCK_BYTES).map(|from| Cell::Read(block(from))).collect()
}

fn read_own(
    shelf: &Shelf,
    address: Address,
    file: &File,
    at: u64,
    block: &mut [u8],
) -> io::Result<()> {
    let planted = shelf.reach_read(Fault::ReadFails, address);
    planted.and_then(|()| file.read_exact_at(block, at)).inspect_err(|error| {
        if is_unreadable(error) {
            shelf.note_unreadable(address, file, error);
        }
    })
}

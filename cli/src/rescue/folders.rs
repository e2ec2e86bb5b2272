//! Shard files in bare folders: where each of them lies, and reading them.

use std::collections::{HashMap, VecDeque};
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use bytes::Bytes;
use codec::digest::{self, BLOCK_BYTES};
use codec::shard::Header;
use codec::{ChunkId, Digest, StripeId};
use server::wire::{Code, Holder, ReadTicket, ReadTickets, ServerId, State, StripeMap};
use server::{Error, Result};

use super::index::Index;
use crate::ui::path_text;

/// Headers made again that are kept for the next read.
const RECOVERED_KEPT: usize = 32;
/// Nothing here runs out.
const TICKETS_LAST_MS: u64 = 365 * 86_400_000;

/// A shard, and the place that has it.
pub(super) type Address = (StripeId, u8, ServerId);

/// The folders that have shards, by the number that stands for a server's in a stripe's map.
/// They are only read.
#[derive(Default)]
pub struct Folders {
    pub(super) places: Vec<Place>,
    /// Names of files that are not called after their shard.
    pub(super) odd: HashMap<Address, OsString>,
    recovered: Mutex<VecDeque<(Address, Bytes)>>,
    index: OnceLock<Index>,
}

/// A folder with shard files.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Place {
    pub(super) dir: PathBuf,
    /// They lie in folders of their first two digits.
    pub(super) is_split: bool,
    /// One folder may have several files of one shard: then it counts as several places.
    pub(super) copy: u32,
}

impl Place {
    /// As a person knows it: the server's folder above its `shards`.
    fn name(&self) -> String {
        let above = self.dir.parent().filter(|_| self.dir.ends_with("shards"));
        path_text(above.unwrap_or(&self.dir))
    }
}

impl Folders {
    /// From here on [`Folders::places`] answers by `index`.
    pub fn set_index(&self, index: Index) {
        // The first one stays: there is one.
        let _ = self.index.set(index);
    }

    /// All places of a chunk: stripe and frame.
    pub fn places(&self, chunk: &ChunkId) -> Vec<(Arc<StripeMap>, u32)> {
        self.index.get().map(|index| index.places(chunk)).unwrap_or_default()
    }

    /// A ticket for each place.
    pub fn tickets(&self) -> ReadTickets {
        let ticket = |(number, place): (u32, &Place)| ReadTicket {
            server: ServerId(number),
            name: place.name(),
            zone: String::new(),
            url: String::new(),
            state: State::Up,
            ticket: String::new(),
        };
        let servers = (0..).zip(&self.places).map(ticket).collect();
        ReadTickets { servers, expires_ms: TICKETS_LAST_MS, now_ms: 0 }
    }

    /// Bytes of a shard file. A damaged header is made again where that can be done.
    pub async fn read(
        self: &Arc<Self>,
        map: &StripeMap,
        holder: Holder,
        range: Range<u64>,
    ) -> Result<Bytes> {
        let (folders, stripe) = (Arc::clone(self), map.stripe);
        let read = match range.start {
            0 => {
                let all = map.shards.clone();
                let header = move || folders.header(stripe, &holder, &all, range.end);
                tokio::task::spawn_blocking(header)
            }
            _ => tokio::task::spawn_blocking(move || folders.body(stripe, &holder, range)),
        };
        read.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
    }

    fn body(&self, stripe: StripeId, holder: &Holder, range: Range<u64>) -> Result<Bytes> {
        let path = self.path(stripe, holder);
        let mut bytes = vec![0; (range.end - range.start) as usize];
        File::open(&path)
            .and_then(|file| file.read_exact_at(&mut bytes, range.start))
            .map_err(|error| told(&path, &error))?;
        Ok(bytes.into())
    }

    /// The header, of so many bytes, of one of `all` shards of a stripe.
    fn header(
        &self,
        stripe: StripeId,
        holder: &Holder,
        all: &[Holder],
        header_bytes: u64,
    ) -> Result<Bytes> {
        let path = self.path(stripe, holder);
        let file = File::open(&path).map_err(|error| told(&path, &error))?;
        let address = (stripe, holder.index, holder.server);
        if let Some(header) = self.kept(&address) {
            return Ok(header);
        }
        let mut bytes = vec![0; header_bytes as usize];
        // What cannot be read is damaged, and made again too.
        let _ = file.read_exact_at(&mut bytes, 0);
        let is_right = Header::parse(&bytes)
            .is_ok_and(|header| (header.stripe, header.index) == (stripe, holder.index));
        if is_right {
            return Ok(bytes.into());
        }
        let header = self.recover(stripe, holder, all, &file, &bytes).ok_or_else(|| {
            let why = format!("{}: its header is damaged", path_text(&path));
            Error::refuse(Code::Damaged, why)
        })?;
        let mut recovered = self.recovered.lock().unwrap_or_else(PoisonError::into_inner);
        recovered.truncate(RECOVERED_KEPT - 1);
        recovered.push_front((address, header.clone()));
        Ok(header)
    }

    fn kept(&self, address: &Address) -> Option<Bytes> {
        let recovered = self.recovered.lock().unwrap_or_else(PoisonError::into_inner);
        recovered.iter().find(|(of, _)| of == address).map(|(_, header)| header.clone())
    }

    /// The header of a shard whose own, `bytes`, is damaged: what it shares with its siblings
    /// comes from any of them, and a table that gives the recorded root is right, be it the
    /// file's or made of its body.
    fn recover(
        &self,
        stripe: StripeId,
        holder: &Holder,
        all: &[Holder],
        file: &File,
        bytes: &[u8],
    ) -> Option<Bytes> {
        let of_sibling = |sibling: &Holder| {
            let mut bytes = vec![0; bytes.len()];
            let file = File::open(self.path(stripe, sibling)).ok()?;
            file.read_exact_at(&mut bytes, 0).ok()?;
            Some(bytes)
        };
        let siblings = all.iter().filter(|other| *other != holder);
        let shared = std::iter::once(bytes.to_vec())
            .chain(siblings.filter_map(of_sibling))
            .filter_map(|bytes| Header::shared(&bytes).ok())
            .find(|header| header.stripe == stripe)?;
        let by_table = |table: Vec<Digest>| shared.sibling(holder.index, &table).ok();
        let ends = shared
            .table_in(bytes)
            .and_then(by_table)
            .or_else(|| by_table(hash_body(file, &shared).ok()?))?;
        Some(ends.header.into())
    }

    fn path(&self, stripe: StripeId, holder: &Holder) -> PathBuf {
        let Some(place) = self.places.get(holder.server.0 as usize) else { return PathBuf::new() };
        let name = match self.odd.get(&(stripe, holder.index, holder.server)) {
            Some(odd) => odd.clone(),
            None => format!("{stripe}.{}", holder.index).into(),
        };
        match place.is_split {
            true => place.dir.join(format!("{stripe:.2}")).join(name),
            false => place.dir.join(name),
        }
    }
}

/// The hashes of the blocks of a body.
fn hash_body(file: &File, header: &Header) -> io::Result<Vec<Digest>> {
    let (start, end) = (header.header_bytes(), header.header_bytes() + header.shard_bytes);
    let mut block = vec![0; BLOCK_BYTES];
    let hash = |at: u64| {
        let block = &mut block[..(end - at).min(BLOCK_BYTES as u64) as usize];
        file.read_exact_at(block, at)?;
        Ok(digest::block_hash(block))
    };
    (start..end).step_by(BLOCK_BYTES).map(hash).collect()
}

/// Why a file could not be read, as a server would say it: of this shard, not of the others.
fn told(path: &Path, error: &io::Error) -> Error {
    let code = match error.kind() {
        io::ErrorKind::NotFound => Code::NotFound,
        _ => Code::Damaged,
    };
    Error::refuse(code, format!("{}: {error}", path_text(path)))
}

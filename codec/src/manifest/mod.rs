//! Manifests: all entries of a snapshot in order, cut into pages, pages hashed into a tree.
//!
//! A page ends where the hash of an entry's path says so, and a page of pages where the
//! id of a child says so: a change touches its own page and the few above it, and every
//! other page is a chunk that the vault already has. The chunks of a long file are kept
//! in a tree of the same make. Nothing here does I/O: a [`Builder`] hands finished pages
//! out, a [`Cursor`] says which page it needs next.

mod bounded;
mod build;
mod cbor;
mod chunk_list;
mod cursor;
mod entry;
mod page;
mod path;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

use crate::chunker::CHUNK_BYTES_MAX;
use crate::{ChunkId, Error, Result};

pub(crate) use bounded::at_most;
pub use build::Builder;
pub(crate) use cbor::{read as read_cbor, write as write_cbor};
pub use chunk_list::ContentBuilder;
pub use cursor::{Cursor, Step};
pub use entry::{
    Content, Entry, HOLES_MAX, Node, XATTR_VALUE_BYTES_MAX, XATTRS_BYTES_MAX, XATTRS_MAX, Xattr,
};
pub use page::Item;
pub use path::{PATH_BYTES_MAX, check_path, is_within, path_order, show_path};

/// Chunk references that an entry holds itself; longer lists become chunk-list pages.
pub const CHUNKS_PER_ENTRY_MAX: usize = 64;
/// A page has at least this many entries (the last one of a tree, and one that would
/// exceed [`PAGE_BYTES_MAX`], excepted).
pub const PAGE_ENTRIES_MIN: usize = 64;
/// And at most this many.
pub const PAGE_ENTRIES_MAX: usize = 1024;
/// And at most this many bytes. Any entry that passes [`Entry::check`] fits.
pub const PAGE_BYTES_MAX: usize = 1024 * 1024;
/// No page is higher: even pages cut short by the longest paths hold 15 children, 15^8 of them.
pub const PAGE_HEIGHT_MAX: u8 = 8;

/// Writes a manifest: entries in, pages out.
pub type ManifestBuilder = Builder<Entry>;
/// Reads a manifest in order.
pub type ManifestCursor = Cursor<Entry>;
/// Reads the chunks of a long file in order.
pub type ChunkListCursor = Cursor<ChunkRef>;

/// A chunk and the bytes of its plaintext: 1 up to [`CHUNK_BYTES_MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "(ChunkId, u32)", try_from = "(ChunkId, u32)")]
pub struct ChunkRef {
    /// The chunk.
    pub id: ChunkId,
    /// Bytes of plaintext.
    pub bytes: u32,
}

/// A page of a tree (manifest or chunk list), itself stored as a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "(ChunkRef, u8, u64)", try_from = "(ChunkRef, u8, u64)")]
pub struct PageRef {
    /// The page's chunk.
    pub chunk: ChunkRef,
    /// 0 for a page of entries (or chunk references), above that for a page of pages.
    pub height: u8,
    /// Entries (or chunk references) below it.
    pub count: u64,
}

impl From<ChunkRef> for (ChunkId, u32) {
    fn from(chunk: ChunkRef) -> Self {
        (chunk.id, chunk.bytes)
    }
}

impl TryFrom<(ChunkId, u32)> for ChunkRef {
    type Error = Error;

    fn try_from((id, bytes): (ChunkId, u32)) -> Result<Self> {
        let chunk = Self { id, bytes };
        chunk.check()?;
        Ok(chunk)
    }
}

impl ChunkRef {
    fn check(&self) -> Result<()> {
        if self.bytes == 0 {
            return Err(Error::damaged("chunk reference", "a chunk of 0 bytes"));
        }
        at_most_count("bytes of a chunk", self.bytes as usize, CHUNK_BYTES_MAX)
    }
}

impl From<PageRef> for (ChunkRef, u8, u64) {
    fn from(page: PageRef) -> Self {
        (page.chunk, page.height, page.count)
    }
}

impl TryFrom<(ChunkRef, u8, u64)> for PageRef {
    type Error = Error;

    fn try_from((chunk, height, count): (ChunkRef, u8, u64)) -> Result<Self> {
        at_most_count("bytes of a page", chunk.bytes as usize, PAGE_BYTES_MAX)?;
        at_most_count("height of a page", height.into(), PAGE_HEIGHT_MAX.into())?;
        Ok(Self { chunk, height, count })
    }
}

/// Refuses a count or length above what the format allows.
pub(crate) fn at_most_count(what: &'static str, actual: usize, limit: usize) -> Result<()> {
    if actual > limit {
        return Err(Error::Bound { what, actual: actual as u64, limit: limit as u64 });
    }
    Ok(())
}

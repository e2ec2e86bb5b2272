//! Manifests: all entries of a snapshot in order, cut into pages, pages hashed into a tree.

use std::cmp::Ordering;

use serde::{Deserialize, Serialize};

use crate::{ChunkId, Result};

/// Chunk references that an entry holds itself; longer lists become chunk-list pages.
pub const CHUNKS_PER_ENTRY_MAX: usize = 64;
/// A page has at least this many entries (the last one excepted).
pub const PAGE_ENTRIES_MIN: usize = 64;
/// And at most this many.
pub const PAGE_ENTRIES_MAX: usize = 1024;
/// And at most this many bytes.
pub const PAGE_BYTES_MAX: usize = 1024 * 1024;

/// Compares paths (bytes, components separated by `/`) component by component: the
/// order of a depth-first walk of sorted directories.
pub fn path_order(_a: &[u8], _b: &[u8]) -> Ordering {
    todo!()
}

/// A chunk and the bytes of its plaintext.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkRef {
    /// The chunk.
    pub id: ChunkId,
    /// Bytes of plaintext.
    pub bytes: u32,
}

/// One file, folder or special file of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Absolute path without the leading slash: bytes, never empty, no `.`, `..` or empty component, no NUL.
    #[serde(with = "serde_bytes")]
    pub path: Vec<u8>,
    /// What it is.
    pub node: Node,
    /// Permission bits, set-id and sticky bits included (07777).
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time, seconds since 1970 and nanoseconds.
    pub mtime: (i64, u32),
    /// Change time when it was read: never restored, tells the next push whether to look.
    pub ctime: (i64, u32),
    /// Inode when it was read, for the same purpose.
    pub inode: u64,
    /// Device when it was read: with the inode it names a hard-link set.
    pub device: u64,
    /// Extended attributes, sorted by name.
    pub xattrs: Vec<Xattr>,
    /// The next push reads it again even when it looks unchanged (it changed while it was
    /// read, or was changed within 2 s of the read).
    pub read_again: bool,
}

/// One extended attribute.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Xattr {
    /// Name.
    #[serde(with = "serde_bytes")]
    pub name: Vec<u8>,
    /// Value.
    #[serde(with = "serde_bytes")]
    pub value: Vec<u8>,
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Node {
    /// A regular file.
    File {
        /// Bytes of the file.
        bytes: u64,
        /// Its contents.
        content: Content,
        /// Holes as (offset, length) in bytes, ascending: zeros that take no room.
        holes: Vec<(u64, u64)>,
    },
    /// Another name of a file that came earlier in the order.
    Hardlink {
        /// The path of the first name.
        #[serde(with = "serde_bytes")]
        first: Vec<u8>,
    },
    /// A folder.
    Directory,
    /// A symbolic link.
    Symlink {
        /// Its target: bytes.
        #[serde(with = "serde_bytes")]
        target: Vec<u8>,
    },
    /// A named pipe.
    Fifo,
    /// A character device.
    CharDevice {
        /// Major and minor number.
        device: (u32, u32),
    },
    /// A block device.
    BlockDevice {
        /// Major and minor number.
        device: (u32, u32),
    },
}

/// The contents of a file: its chunks in order. Holes take part as zeros (they are read as such).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Content {
    /// Up to [`CHUNKS_PER_ENTRY_MAX`] chunks.
    Chunks(Vec<ChunkRef>),
    /// The root of a tree of chunk-list pages.
    List(PageRef),
}

/// A page of a tree (manifest or chunk list), itself stored as a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PageRef {
    /// The page's chunk.
    pub chunk: ChunkRef,
    /// 0 for a page of entries (or chunk references), above that for a page of pages.
    pub height: u8,
    /// Entries (or chunk references) below it.
    pub count: u64,
}

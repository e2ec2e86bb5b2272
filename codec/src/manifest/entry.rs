//! An entry: one file, folder or special file, as it was when it was read.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_bytes::{ByteBuf, Bytes};

use super::page::Item;
use super::{
    CHUNKS_PER_ENTRY_MAX, ChunkRef, PATH_BYTES_MAX, PageRef, at_most, at_most_count, check_path,
    path_order, show_path,
};
use crate::{Error, Result};

/// Holes that an entry records; a file with more has none on record.
pub const HOLES_MAX: usize = 32_768;
/// Extended attributes of an entry.
pub const XATTRS_MAX: usize = 1024;
/// Bytes of one extended attribute's value, which is also Linux's bound.
pub const XATTR_VALUE_BYTES_MAX: usize = 64 * 1024;
/// Bytes of all names and values of an entry's extended attributes.
pub const XATTRS_BYTES_MAX: usize = 256 * 1024;

const XATTR_NAME_BYTES_MAX: usize = 255;
const NANOSECONDS: u32 = 1_000_000_000;

/// One file, folder or special file of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Absolute path without the leading slash: bytes, never empty, no `.`, `..` or empty component, no NUL.
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
    /// Extended attributes, strictly ascending by name.
    pub xattrs: Vec<Xattr>,
    /// The next push reads it again even when it looks unchanged (it changed while it was
    /// read, or was changed within 2 s of the read).
    pub read_again: bool,
}

/// One extended attribute.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "(ByteBuf, ByteBuf)", from = "(ByteBuf, ByteBuf)")]
pub struct Xattr {
    /// Name.
    pub name: Vec<u8>,
    /// Value.
    pub value: Vec<u8>,
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Node {
    /// A regular file.
    #[serde(rename = "f")]
    File {
        /// Bytes of the file: the sum of its chunks.
        #[serde(rename = "b")]
        bytes: u64,
        /// Its contents.
        #[serde(rename = "c")]
        content: Content,
        /// Holes as (offset, length) in bytes, ascending: zeros that take no room.
        #[serde(rename = "h", deserialize_with = "at_most::<HOLES_MAX, _, _>")]
        holes: Vec<(u64, u64)>,
    },
    /// Another name of a file that came earlier in the order.
    #[serde(rename = "l")]
    Hardlink {
        /// The path of the first name.
        #[serde(rename = "p", with = "serde_bytes")]
        first: Vec<u8>,
    },
    /// A folder.
    #[serde(rename = "d")]
    Directory,
    /// A symbolic link.
    #[serde(rename = "s")]
    Symlink {
        /// Its target: bytes.
        #[serde(rename = "t", with = "serde_bytes")]
        target: Vec<u8>,
    },
    /// A named pipe.
    #[serde(rename = "p")]
    Fifo,
    /// A character device.
    #[serde(rename = "C")]
    CharDevice {
        /// Major and minor number.
        #[serde(rename = "n")]
        device: (u32, u32),
    },
    /// A block device.
    #[serde(rename = "B")]
    BlockDevice {
        /// Major and minor number.
        #[serde(rename = "n")]
        device: (u32, u32),
    },
}

/// The contents of a file: its chunks in order. Holes take part as zeros (they are read as such).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Content {
    /// Up to [`CHUNKS_PER_ENTRY_MAX`] chunks.
    #[serde(rename = "c", deserialize_with = "at_most::<CHUNKS_PER_ENTRY_MAX, _, _>")]
    Chunks(Vec<ChunkRef>),
    /// The root of a tree of chunk-list pages.
    #[serde(rename = "t")]
    List(PageRef),
}

impl Entry {
    /// Refuses what no manifest may hold. Writers and readers both ask, so an entry that
    /// came from a [`super::ManifestCursor`] passed. Not checked: that names are unique
    /// and in order (the cursor does), and the chunks of a [`Content::List`].
    pub fn check(&self) -> Result<()> {
        check_path(&self.path)?;
        let bad =
            |why: String| Err(Error::damaged("entry", format!("{}: {why}", show_path(&self.path))));
        if self.mode > 0o7777 {
            return bad(format!("mode {:o} has more than permission bits", self.mode));
        }
        if self.mtime.1 >= NANOSECONDS || self.ctime.1 >= NANOSECONDS {
            return bad("a time with a second or more of nanoseconds".into());
        }
        self.check_xattrs()?;
        match &self.node {
            Node::File { bytes, content, holes } => {
                if let Content::Chunks(chunks) = content {
                    at_most_count("chunks of an entry", chunks.len(), CHUNKS_PER_ENTRY_MAX)?;
                    chunks.iter().try_for_each(ChunkRef::check)?;
                    let sum: u64 = chunks.iter().map(|chunk| u64::from(chunk.bytes)).sum();
                    if sum != *bytes {
                        return bad(format!("{bytes} bytes, its chunks have {sum}"));
                    }
                }
                self.check_holes(holes, *bytes)
            }
            Node::Hardlink { first } => {
                check_path(first)?;
                if path_order(first, &self.path).is_ge() {
                    return bad(format!("a hard link to {}, which comes later", show_path(first)));
                }
                Ok(())
            }
            Node::Symlink { target } => {
                at_most_count("bytes of a symlink's target", target.len(), PATH_BYTES_MAX)?;
                if target.is_empty() || target.contains(&0) {
                    return bad("a symlink's target that is empty or contains a NUL byte".into());
                }
                Ok(())
            }
            Node::Directory | Node::Fifo | Node::CharDevice { .. } | Node::BlockDevice { .. } => {
                Ok(())
            }
        }
    }

    fn check_holes(&self, holes: &[(u64, u64)], bytes: u64) -> Result<()> {
        at_most_count("holes of an entry", holes.len(), HOLES_MAX)?;
        let mut end = 0u64;
        for &(offset, length) in holes {
            match offset.checked_add(length) {
                Some(next) if offset >= end && length > 0 && next <= bytes => end = next,
                _ => {
                    return Err(Error::damaged(
                        "entry",
                        format!(
                            "{}: a hole of {length} bytes at {offset} in {bytes} bytes, after {end}",
                            show_path(&self.path)
                        ),
                    ));
                }
            }
        }
        Ok(())
    }

    fn check_xattrs(&self) -> Result<()> {
        at_most_count("extended attributes of an entry", self.xattrs.len(), XATTRS_MAX)?;
        let mut sum_bytes = 0;
        for Xattr { name, value } in &self.xattrs {
            at_most_count("bytes of an attribute's name", name.len(), XATTR_NAME_BYTES_MAX)?;
            at_most_count("bytes of an attribute's value", value.len(), XATTR_VALUE_BYTES_MAX)?;
            if name.is_empty() || name.contains(&0) {
                return Err(Error::damaged(
                    "entry",
                    "an attribute's name is empty or contains a NUL byte",
                ));
            }
            sum_bytes += name.len() + value.len();
        }
        at_most_count("bytes of an entry's attributes", sum_bytes, XATTRS_BYTES_MAX)?;
        if !self.xattrs.is_sorted_by(|a, b| a.name < b.name) {
            return Err(Error::damaged("entry", "its attributes are not in order of their names"));
        }
        Ok(())
    }
}

impl Item for Entry {
    type Extent = ByteBuf;
    const KIND: u8 = 0;
    const PAGE: &'static str = "manifest page";

    fn check(&self) -> Result<()> {
        Entry::check(self)
    }

    fn ends_page(&self) -> bool {
        blake3::hash(&self.path).as_bytes()[0] == 0
    }

    fn pass(&self, position: &mut ByteBuf) -> Result<()> {
        pass(&self.path, position)
    }

    fn pass_all(last_path: &ByteBuf, position: &mut ByteBuf) -> Result<()> {
        pass(last_path, position)
    }

    fn reaches(position: &ByteBuf, target: &ByteBuf) -> bool {
        path_order(position, target).is_ge()
    }
}

fn pass(path: &[u8], position: &mut ByteBuf) -> Result<()> {
    if path_order(path, position).is_le() {
        return Err(Error::damaged(
            "order of entries",
            format!("{} does not come after {}", show_path(path), show_path(position)),
        ));
    }
    position.clear();
    position.extend_from_slice(path);
    Ok(())
}

/// An entry is a CBOR array of 11, in this order. A million entries without field names.
type Fields<Path, Node, Xattrs> =
    (Path, Node, u32, u32, u32, (i64, u32), (i64, u32), u64, u64, Xattrs, bool);

impl Serialize for Entry {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let fields: Fields<_, _, _> = (
            Bytes::new(&self.path),
            &self.node,
            self.mode,
            self.uid,
            self.gid,
            self.mtime,
            self.ctime,
            self.inode,
            self.device,
            &self.xattrs,
            self.read_again,
        );
        fields.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Entry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (path, node, mode, uid, gid, mtime, ctime, inode, device, xattrs, read_again) =
            Fields::<ByteBuf, Node, Xattrs>::deserialize(deserializer)?;
        let (path, xattrs) = (path.into_vec(), xattrs.0);
        Ok(Self { path, node, mode, uid, gid, mtime, ctime, inode, device, xattrs, read_again })
    }
}

#[derive(Deserialize)]
struct Xattrs(#[serde(deserialize_with = "at_most::<XATTRS_MAX, _, _>")] Vec<Xattr>);

impl From<Xattr> for (ByteBuf, ByteBuf) {
    fn from(Xattr { name, value }: Xattr) -> Self {
        (name.into(), value.into())
    }
}

impl From<(ByteBuf, ByteBuf)> for Xattr {
    fn from((name, value): (ByteBuf, ByteBuf)) -> Self {
        Self { name: name.into_vec(), value: value.into_vec() }
    }
}

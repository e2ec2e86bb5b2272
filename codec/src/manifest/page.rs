//! One page: format version, kind, height and count, then its items, all as CBOR.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::cbor::{read, write};
use super::{PAGE_BYTES_MAX, PAGE_ENTRIES_MAX, PageRef, at_most_count};
use crate::{ChunkId, Error, FORMAT_VERSION, Result};

/// Bytes of a page before its items, at most.
pub(super) const HEADER_BYTES_MAX: usize = 16;

/// What a tree of pages is made of: the entries of a manifest, or the chunks of a file.
pub trait Item: Clone + Serialize + DeserializeOwned {
    /// What a page says about the items below each child: for entries the last path, for
    /// chunks their bytes. Also a position in the tree, the default being its start.
    type Extent: Clone + Default + PartialEq + Serialize + DeserializeOwned;
    /// The kind of page, as in its header.
    const KIND: u8;
    /// The page's name in errors.
    const PAGE: &'static str;

    /// Refuses an item that the format does not allow.
    fn check(&self) -> Result<()>;
    /// Whether a page that is long enough ends after this item.
    fn ends_page(&self) -> bool;
    /// Moves a position past this item; refuses one that comes too early.
    fn pass(&self, position: &mut Self::Extent) -> Result<()>;
    /// Moves a position past all items below a child.
    fn pass_all(below: &Self::Extent, position: &mut Self::Extent) -> Result<()>;
    /// Whether something that ends at `position` holds `target` or what follows it.
    fn reaches(position: &Self::Extent, target: &Self::Extent) -> bool;
}

/// A page below another, and its extent.
pub(super) type Child<X> = (PageRef, X);

/// What a page holds.
pub(super) enum Page<I: Item> {
    Leaf(Vec<I>),
    Inner(Vec<Child<I::Extent>>),
}

/// Whether a page of pages that is long enough ends after the child of this id, about 1 in 256.
pub(super) fn ends_page(id: &ChunkId) -> bool {
    id.0[0] == 0
}

/// Puts the header before the items.
pub(super) fn encode<I: Item>(height: u8, items: usize, body: &[u8]) -> Result<Vec<u8>> {
    let mut page = Vec::with_capacity(HEADER_BYTES_MAX + body.len());
    write(I::PAGE, &FORMAT_VERSION, &mut page)?;
    write(I::PAGE, &(I::KIND, height, items), &mut page)?;
    page.extend_from_slice(body);
    Ok(page)
}

/// Reads the page that `wanted` refers to: its length, version, kind and height must be
/// the ones asked for, every item allowed, and nothing may follow them.
pub(super) fn decode<I: Item>(wanted: &PageRef, bytes: &[u8]) -> Result<Page<I>> {
    at_most_count("bytes of a page", bytes.len(), PAGE_BYTES_MAX)?;
    if bytes.len() != wanted.chunk.bytes as usize {
        return Err(wrong::<I>("bytes", bytes.len(), wanted.chunk.bytes));
    }
    let mut rest = bytes;
    let version: u16 = read(I::PAGE, &mut rest)?;
    if version > FORMAT_VERSION {
        return Err(Error::Version { what: I::PAGE, found: version, known: FORMAT_VERSION });
    }
    let (kind, height, items): (u8, u8, usize) = read(I::PAGE, &mut rest)?;
    if kind != I::KIND {
        return Err(wrong::<I>("kind", kind, I::KIND));
    }
    if height != wanted.height {
        return Err(wrong::<I>("height", height, wanted.height));
    }
    at_most_count("items of a page", items, PAGE_ENTRIES_MAX)?;
    let page = if height == 0 {
        Page::Leaf(read_all::<I, I>(items, &mut rest)?)
    } else {
        Page::Inner(read_all::<I, _>(items, &mut rest)?)
    };
    if !rest.is_empty() {
        return Err(Error::damaged(I::PAGE, format!("{} bytes follow its items", rest.len())));
    }
    page.check(wanted)?;
    Ok(page)
}

fn read_all<I: Item, T: DeserializeOwned>(items: usize, rest: &mut &[u8]) -> Result<Vec<T>> {
    (0..items).map(|_| read(I::PAGE, rest)).collect()
}

impl<I: Item> Page<I> {
    fn check(&self, wanted: &PageRef) -> Result<()> {
        let count = match self {
            Page::Leaf(items) => {
                items.iter().try_for_each(I::check)?;
                Some(items.len() as u64)
            }
            Page::Inner(children) => {
                for (child, _) in children {
                    if child.height + 1 != wanted.height {
                        return Err(wrong::<I>(
                            "height of a child",
                            child.height,
                            wanted.height - 1,
                        ));
                    }
                    if child.count == 0 {
                        return Err(Error::damaged(I::PAGE, "a child holds nothing"));
                    }
                }
                children.iter().try_fold(0u64, |sum, (child, _)| sum.checked_add(child.count))
            }
        };
        match count {
            Some(count) if count == wanted.count => Ok(()),
            Some(count) => Err(wrong::<I>("count", count, wanted.count)),
            None => Err(Error::damaged(I::PAGE, "its counts overflow")),
        }
    }

    /// Where a reader that stands at `position` is after this page. Fails where its items
    /// are out of order.
    pub(super) fn end(&self, mut position: I::Extent) -> Result<I::Extent> {
        match self {
            Page::Leaf(items) => {
                items.iter().try_for_each(|item| item.pass(&mut position))?;
            }
            Page::Inner(children) => {
                children.iter().try_for_each(|(_, extent)| I::pass_all(extent, &mut position))?;
            }
        }
        Ok(position)
    }
}

fn wrong<I: Item>(
    what: &str,
    found: impl std::fmt::Display,
    wanted: impl std::fmt::Display,
) -> Error {
    Error::damaged(I::PAGE, format!("{what} is {found}, its parent says {wanted}"))
}

//! Writing a tree of pages.

use std::mem;

use super::cbor::write;
use super::page::{self, Child, HEADER_BYTES_MAX, Item};
use super::{
    ChunkRef, PAGE_BYTES_MAX, PAGE_ENTRIES_MAX, PAGE_ENTRIES_MIN, PAGE_HEIGHT_MAX, PageRef,
    at_most_count,
};
use crate::{Error, Result};

/// Takes items in order and hands finished pages to `emit`, children before parents. The
/// same items give the same pages. Holds one unfinished page per level.
///
/// `emit` names and stores a page; where it fails, the tree is not worth finishing.
pub struct Builder<I: Item> {
    position: I::Extent,
    levels: Vec<Level<I>>,
}

/// The page that is being filled at one height.
struct Level<I: Item> {
    body: Vec<u8>,
    items: usize,
    count: u64,
    extent: I::Extent,
    /// The page that was added last, on levels above the leaves.
    child: Option<PageRef>,
}

/// An item, or a finished page on its way into its parent.
struct Added<I: Item> {
    bytes: Vec<u8>,
    count: u64,
    extent: I::Extent,
    child: Option<PageRef>,
    ends_page: bool,
}

impl<I: Item> Default for Builder<I> {
    fn default() -> Self {
        Self { position: I::Extent::default(), levels: vec![Level::default()] }
    }
}

impl<I: Item> Default for Level<I> {
    fn default() -> Self {
        Self { body: Vec::new(), items: 0, count: 0, extent: I::Extent::default(), child: None }
    }
}

impl<I: Item> Builder<I> {
    /// An empty tree.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the next item; one that is not allowed or out of order is refused.
    pub fn push<E: From<Error>>(
        &mut self,
        item: &I,
        emit: &mut dyn FnMut(Vec<u8>) -> Result<ChunkRef, E>,
    ) -> Result<(), E> {
        item.check()?;
        item.pass(&mut self.position)?;
        let mut extent = I::Extent::default();
        item.pass(&mut extent)?;
        let mut bytes = Vec::new();
        write(I::PAGE, item, &mut bytes)?;
        let ends_page = item.ends_page();
        self.add(0, Added { bytes, count: 1, extent, child: None, ends_page }, emit)
    }

    /// Emits what is left and returns the root. A single page is its own root; an empty
    /// tree is one empty page.
    pub fn finish<E: From<Error>>(
        mut self,
        emit: &mut dyn FnMut(Vec<u8>) -> Result<ChunkRef, E>,
    ) -> Result<PageRef, E> {
        let mut height = 0;
        while height + 1 < self.levels.len() {
            if self.levels[height].items > 0 {
                self.close(height, emit)?;
            }
            height += 1;
        }
        match &self.levels[height] {
            Level { items: 1, child: Some(only), .. } => Ok(*only),
            _ => Ok(self.emit_page(height, emit)?.0),
        }
    }

    fn add<E: From<Error>>(
        &mut self,
        height: usize,
        added: Added<I>,
        emit: &mut dyn FnMut(Vec<u8>) -> Result<ChunkRef, E>,
    ) -> Result<(), E> {
        if self.levels.len() == height {
            self.levels.push(Level::default());
        }
        let full = PAGE_BYTES_MAX - HEADER_BYTES_MAX;
        at_most_count("bytes of an entry", added.bytes.len(), full)?;
        if self.levels[height].body.len() + added.bytes.len() > full {
            self.close(height, emit)?;
        }
        let level = &mut self.levels[height];
        level.body.extend_from_slice(&added.bytes);
        level.items += 1;
        level.count += added.count;
        level.child = added.child;
        I::pass_all(&added.extent, &mut level.extent)?;
        let long_enough = level.items >= PAGE_ENTRIES_MIN;
        if (long_enough && added.ends_page) || level.items == PAGE_ENTRIES_MAX {
            self.close(height, emit)?;
        }
        Ok(())
    }

    fn close<E: From<Error>>(
        &mut self,
        height: usize,
        emit: &mut dyn FnMut(Vec<u8>) -> Result<ChunkRef, E>,
    ) -> Result<(), E> {
        let child = self.emit_page(height, emit)?;
        let mut bytes = Vec::new();
        write(I::PAGE, &child, &mut bytes)?;
        let (page, extent) = child;
        let ends_page = page::ends_page(&page.chunk.id);
        let added = Added { bytes, count: page.count, extent, child: Some(page), ends_page };
        self.add(height + 1, added, emit)
    }

    fn emit_page<E: From<Error>>(
        &mut self,
        height: usize,
        emit: &mut dyn FnMut(Vec<u8>) -> Result<ChunkRef, E>,
    ) -> Result<Child<I::Extent>, E> {
        at_most_count("height of a page", height, PAGE_HEIGHT_MAX.into())?;
        let level = mem::take(&mut self.levels[height]);
        let bytes = page::encode::<I>(height as u8, level.items, &level.body)?;
        let page = PageRef { chunk: emit(bytes)?, height: height as u8, count: level.count };
        Ok((page, level.extent))
    }
}

//! Reading a tree of pages in order, without doing the reading.

use std::collections::VecDeque;

use super::page::{self, Child, Item, Page};
use super::{ChunkRef, PageRef};
use crate::{Error, Result};

/// What a [`Cursor`] says next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step<I> {
    /// Fetch this page and [`Cursor::supply`] it.
    Need(ChunkRef),
    /// The next item.
    Item(I),
    /// There are no more.
    End,
}

/// Walks the items below a root in order. Holds one page per level.
///
/// It checks that each page is what its parent said: length, height, count, extent, and
/// that items ascend across pages. It does not check chunk ids: whoever fetches does.
pub struct Cursor<I: Item> {
    /// Where the next item begins: past the last one that was returned or skipped.
    position: I::Extent,
    /// Nothing that ends before it is returned.
    target: I::Extent,
    /// The page to be supplied, and its extent unless it is the root.
    wanted: Option<(PageRef, Option<I::Extent>)>,
    /// What is left of the page at each level above the leaves, the root's first.
    inner: Vec<VecDeque<Child<I::Extent>>>,
    leaf: VecDeque<I>,
}

impl<I: Item> Cursor<I> {
    /// A cursor before the first item.
    pub fn new(root: PageRef) -> Self {
        Self {
            position: I::Extent::default(),
            target: I::Extent::default(),
            wanted: Some((root, None)),
            inner: Vec::new(),
            leaf: VecDeque::new(),
        }
    }

    /// The next item, or the page that is needed to know it; the same page until it is supplied.
    pub fn step(&mut self) -> Step<I> {
        if let Some((page, _)) = &self.wanted {
            return Step::Need(page.chunk);
        }
        if let Some(item) = self.leaf.pop_front() {
            // `supply` saw it pass.
            let _ = item.pass(&mut self.position);
            return Step::Item(item);
        }
        while let Some(level) = self.inner.last_mut() {
            if let Some((page, extent)) = level.pop_front() {
                self.wanted = Some((page, Some(extent)));
                return Step::Need(page.chunk);
            }
            self.inner.pop();
        }
        Step::End
    }

    /// Takes the page that was asked for. One that is refused changes nothing: another
    /// copy may be supplied.
    pub fn supply(&mut self, page: &[u8]) -> Result<()> {
        let Some((wanted, extent)) = &self.wanted else {
            return Err(Error::damaged(I::PAGE, "a page that was not asked for"));
        };
        let page: Page<I> = page::decode(wanted, page)?;
        let end = page.end(self.position.clone())?;
        if let Some(extent) = extent {
            let mut expected = self.position.clone();
            I::pass_all(extent, &mut expected)?;
            if end != expected {
                return Err(Error::damaged(I::PAGE, "it does not end where its parent says"));
            }
        }
        self.wanted = None;
        match page {
            Page::Leaf(items) => self.leaf = items.into(),
            Page::Inner(children) => self.inner.push(children.into()),
        }
        self.skip();
        Ok(())
    }

    /// Goes past the page that is asked for, unread, with all that is below it.
    pub fn pass_over(&mut self) -> Result<()> {
        if let Some((_, Some(extent))) = self.wanted.take() {
            I::pass_all(&extent, &mut self.position)?;
        }
        Ok(())
    }

    /// Moves forward to the first item that holds or follows `target`: for entries the
    /// first path not before it, for chunks the one with the byte at that offset. Pages
    /// that end before it are not asked for. Never moves back.
    pub fn seek(&mut self, target: impl Into<I::Extent>) {
        self.target = target.into();
        self.skip();
    }

    /// Where the next item begins: for entries after this path, for chunks at this byte.
    pub fn position(&self) -> &I::Extent {
        &self.position
    }

    /// Up to `limit` pages that will be needed next, in order, as far as they are known.
    /// The first is the one that [`Cursor::step`] asks for.
    pub fn upcoming(&self, limit: usize) -> Vec<ChunkRef> {
        let wanted = self.wanted.iter().map(|(page, _)| page.chunk);
        let known = self.inner.iter().rev().flatten().map(|(page, _)| page.chunk);
        wanted.chain(known).take(limit).collect()
    }

    /// Drops what ends before the target.
    fn skip(&mut self) {
        if let Some((_, Some(extent))) = &self.wanted {
            match self.end_if_before_target(|position| I::pass_all(extent, position)) {
                Some(end) => (self.position, self.wanted) = (end, None),
                None => return,
            }
        }
        while let Some(item) = self.leaf.front() {
            match self.end_if_before_target(|position| item.pass(position)) {
                Some(end) => self.position = end,
                None => return,
            }
            self.leaf.pop_front();
        }
        while let Some(level) = self.inner.last() {
            if let Some((_, extent)) = level.front() {
                match self.end_if_before_target(|position| I::pass_all(extent, position)) {
                    Some(end) => self.position = end,
                    None => return,
                }
            }
            if self.inner.last_mut().is_some_and(|level| level.pop_front().is_none()) {
                self.inner.pop();
            }
        }
    }

    /// The end of what comes next, if that is before the target.
    fn end_if_before_target(
        &self,
        pass: impl FnOnce(&mut I::Extent) -> Result<()>,
    ) -> Option<I::Extent> {
        let mut end = self.position.clone();
        // What does not pass was refused by `supply`.
        pass(&mut end).ok()?;
        (!I::reaches(&end, &self.target)).then_some(end)
    }
}

//! The parent snapshot's entries beside the walk: two ordered streams, merged.

use std::collections::VecDeque;

use codec::manifest::{Entry, Node, path_order};

use crate::fetch::{FetchError, Pages};

/// The parent snapshot's entries beside the walk.
#[derive(Default)]
pub struct Parent {
    pages: Option<Pages<Entry>>,
    page: VecDeque<Entry>,
    /// Files of the parent that are gone.
    pub files_removed: u64,
    /// Why the parent could not be read to its end.
    pub failed: Option<FetchError>,
}

impl Parent {
    /// The parent whose pages come from `pages`.
    pub fn new(pages: Option<Pages<Entry>>) -> Self {
        Self { pages, ..Self::default() }
    }

    /// The parent's entry of `path`; those before it are gone from the source.
    pub fn at(&mut self, path: &[u8]) -> Option<Entry> {
        loop {
            let order = path_order(&self.front()?.path, path);
            if order.is_gt() {
                return None;
            }
            let entry = self.page.pop_front();
            if order.is_eq() {
                return entry;
            }
            self.files_removed +=
                entry.iter().filter(|e| matches!(e.node, Node::File { .. })).count() as u64;
        }
    }

    fn front(&mut self) -> Option<&Entry> {
        while self.page.is_empty() {
            match self.pages.as_mut()?.blocking_recv() {
                Some(Ok(page)) => self.page = page.into(),
                Some(Err(error)) => {
                    self.failed = Some(error);
                    self.pages = None;
                }
                None => self.pages = None,
            }
        }
        self.page.front()
    }

    pub fn drain(&mut self) {
        while self.front().is_some() {
            let files = self.page.drain(..).filter(|e| matches!(e.node, Node::File { .. }));
            self.files_removed += files.count() as u64;
        }
    }
}

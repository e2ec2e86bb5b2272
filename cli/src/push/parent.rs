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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use codec::manifest::Content;
    use proptest::prelude::*;

    use super::super::read::stream_entry;
    use super::*;

    /// Names whose order is easily got wrong: bytes around the separator.
    fn path() -> impl Strategy<Value = Vec<u8>> {
        let name = prop::collection::vec(prop::sample::select(&b"\x01\n-.0aA\xff"[..]), 1..4);
        prop::collection::vec(name, 1..4).prop_map(|names| names.join(&b'/'))
    }

    fn in_order(paths: &BTreeSet<Vec<u8>>) -> Vec<Vec<u8>> {
        let mut paths: Vec<_> = paths.iter().cloned().collect();
        paths.sort_by(|a, b| path_order(a, b));
        paths
    }

    proptest! {
        #[test]
        fn a_merge_of_walk_and_manifest_pairs_equal_paths(
            parent in prop::collection::btree_set(path(), 0..60),
            current in prop::collection::btree_set(path(), 0..60),
        ) {
            let content = Content::Chunks(vec![]);
            let node = Node::File { bytes: 0, content, holes: vec![] };
            let entry = |path| Entry { node: node.clone(), ..stream_entry(path, (0, 0)) };
            let page = in_order(&parent).into_iter().map(entry).collect();
            let mut merged = Parent { page, ..Parent::default() };
            for path in in_order(&current) {
                let found = merged.at(&path).map(|entry| entry.path);
                prop_assert_eq!(found, parent.get(&path).cloned());
            }
            merged.drain();
            prop_assert_eq!(merged.files_removed, parent.difference(&current).count() as u64);
        }
    }
}

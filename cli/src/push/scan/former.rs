//! How the last version of a long file was cut. A cut depends on the bytes of its chunk alone: where
//! the same bytes come again, which their ids tell, so do the cuts, and need not be looked for.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use codec::chunker::{CHUNK_BYTES_MAX, Chunker};
use codec::keys::VaultKeys;
use codec::manifest::{ChunkRef, Content};
use tokio::task::JoinSet;

use crate::fetch::{ChunkList, Fetcher, Pages};
use crate::push::packer::Chunk;
use crate::push::read::{cut, name};

/// Chunks that are known ahead: about 1 GiB. What was moved or removed in one piece may be as long.
const AHEAD: usize = 1024;
/// After so many new chunks in a row it is another file.
const NEW_MAX: usize = 64;

/// The chunks of a long file's last version that may come again.
pub(super) struct Former {
    coming: VecDeque<ChunkRef>,
    pages: Option<Pages<ChunkRef>>,
    /// Reads these pages.
    _tasks: JoinSet<()>,
    /// The last chunk was one of them, or of the same length.
    follows: bool,
    /// New chunks in a row.
    new: usize,
}

impl Former {
    /// The chunks of `content`. Needs a runtime.
    pub(super) fn of(content: &Content, fetcher: &Arc<Fetcher>) -> Self {
        let mut tasks = JoinSet::new();
        let (coming, pages) = match content {
            Content::Chunks(chunks) => (chunks.clone(), None),
            Content::List(list) => {
                let list = ChunkList::new(Arc::clone(fetcher), *list);
                (Vec::new(), Some(list.pages(&mut tasks)))
            }
        };
        Self { coming: coming.into(), pages, _tasks: tasks, follows: true, new: 0 }
    }

    /// Whether nothing of it is to be expected any more.
    pub(super) fn is_over(&self) -> bool {
        self.new > NEW_MAX || (self.coming.is_empty() && self.pages.is_none())
    }

    /// The first chunks of `bytes`, named, and what is left over because only more bytes would cut
    /// it: nothing at the file's `end`. They are those that `chunker` alone would cut.
    pub(super) fn cut(
        &mut self,
        chunker: &Chunker,
        keys: &VaultKeys,
        bytes: Bytes,
        end: bool,
    ) -> (Vec<Chunk>, Bytes) {
        let (mut chunks, mut rest) = (Vec::new(), bytes);
        while let Some(next) = self.next(rest.len(), end) {
            if next.is_empty() {
                return (chunks, rest);
            }
            let mut left = rest.clone();
            let pieces = next.iter().map(|chunk| left.split_to(chunk.bytes as usize)).collect();
            for (expected, chunk) in next.iter().zip(name(keys, pieces)) {
                let length = chunk.bytes.len();
                let is_same = chunk.id == expected.id;
                if !is_same && chunker.cut_some(&rest, end) != Some(length) {
                    self.follows = false;
                    break;
                }
                self.new = if is_same { 0 } else { self.new + 1 };
                self.coming.pop_front();
                rest = rest.slice(length..);
                chunks.push(chunk);
            }
        }
        let (pieces, rest) = cut(chunker, rest, end);
        let named = name(keys, pieces);
        named.iter().for_each(|chunk| self.meet(chunk));
        chunks.extend(named);
        (chunks, rest)
    }

    /// The chunks that come next in `bytes` bytes, where nothing has changed; none of them where more
    /// bytes are needed. `None`: they must be looked for.
    fn next(&mut self, bytes: usize, end: bool) -> Option<Vec<ChunkRef>> {
        self.fill();
        // The last chunk ended with the file: it says nothing of a cut.
        let last = usize::from(self.pages.is_none());
        let count = self.coming.len().saturating_sub(last);
        if !self.follows || count == 0 || bytes == 0 {
            return None;
        }
        let mut left = bytes;
        let fits = |chunk: &&ChunkRef| {
            let rest = left.checked_sub(chunk.bytes as usize);
            left = rest.unwrap_or(left);
            rest.is_some() && (1..=CHUNK_BYTES_MAX).contains(&(chunk.bytes as usize))
        };
        let next: Vec<ChunkRef> =
            self.coming.iter().take(count).take_while(fits).copied().collect();
        (!next.is_empty() || (!end && bytes < CHUNK_BYTES_MAX)).then_some(next)
    }

    /// Takes note of a chunk that was cut.
    fn meet(&mut self, chunk: &Chunk) {
        let place = self.coming.iter().position(|coming| coming.id == chunk.id);
        self.follows = place.is_some();
        match place {
            Some(place) => {
                self.coming.drain(..=place);
                self.new = 0;
            }
            None => self.new += 1,
        }
    }

    fn fill(&mut self) {
        while self.coming.len() < AHEAD
            && let Some(pages) = &mut self.pages
        {
            match pages.blocking_recv() {
                Some(Ok(chunks)) => self.coming.extend(chunks),
                // It costs time, no more.
                Some(Err(_)) => (self.coming, self.pages) = (VecDeque::new(), None),
                None => self.pages = None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::fetch::FetchError;
    use codec::keys::MasterKey;
    use proptest::prelude::*;

    use super::*;

    fn noise(seed: u64, bytes: usize) -> Vec<u8> {
        let mut state = seed | 1;
        let word = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()
        };
        std::iter::repeat_with(word).flatten().take(bytes).collect()
    }

    fn keys() -> VaultKeys {
        VaultKeys::derive(MasterKey::new([5; 32]))
    }

    fn cut_all(chunker: &Chunker, file: &[u8]) -> Vec<ChunkRef> {
        let (pieces, _) = cut(chunker, Bytes::copy_from_slice(file), true);
        let named = name(&keys(), pieces).into_iter();
        named.map(|c| ChunkRef { id: c.id, bytes: c.bytes.len() as u32 }).collect()
    }

    /// The chunks of `file` by what is known of `before`, read in pieces as a scan does, and how many
    /// of them had to be looked for.
    fn cut_after(
        chunker: &Chunker,
        before: &[u8],
        mut file: &[u8],
        read: usize,
    ) -> (Vec<ChunkRef>, usize) {
        let mut former = Former {
            coming: cut_all(chunker, before).into(),
            pages: None,
            _tasks: JoinSet::new(),
            follows: true,
            new: 0,
        };
        let (mut all, mut rest, mut sought) = (Vec::new(), Bytes::new(), 0);
        loop {
            let mut buffer = rest.to_vec();
            let (piece, later) = file.split_at(file.len().min(read));
            buffer.extend_from_slice(piece);
            file = later;
            let (chunks, left) = former.cut(chunker, &keys(), buffer.into(), file.is_empty());
            sought += usize::from(!former.follows);
            rest = left;
            all.extend(chunks.iter().map(|c| ChunkRef { id: c.id, bytes: c.bytes.len() as u32 }));
            if file.is_empty() {
                assert!(rest.is_empty());
                return (all, sought);
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]

        #[test]
        fn the_cuts_are_those_that_would_be_made_without_it(
            seed: u64,
            length in 0..24usize << 20,
            edits in prop::collection::vec((0..24usize << 20, 0..3, 1..2usize << 20), 0..4),
            read in (256 << 10)..(8usize << 20),
        ) {
            let before = noise(seed, length);
            let mut after = before.clone();
            for (at, kind, bytes) in edits {
                let at = at.min(after.len());
                let end = (at + bytes).min(after.len());
                match kind {
                    0 => after[at..end].fill(7),
                    1 => drop(after.drain(at..end)),
                    _ => drop(after.splice(at..at, noise(bytes as u64, bytes))),
                }
            }
            let chunker = Chunker::new(seed);
            let (chunks, _) = cut_after(&chunker, &before, &after, read);
            prop_assert_eq!(chunks, cut_all(&chunker, &after));
        }
    }

    #[test]
    fn nothing_is_sought_where_nothing_has_changed_and_little_around_a_change() {
        let (chunker, before) = (Chunker::new(3), noise(3, 48 << 20));
        let sought = |after: &[u8]| cut_after(&chunker, &before, after, 4 << 20).1;
        assert_eq!(sought(&before), 0);
        let mut after = before.clone();
        after[20 << 20] ^= 1;
        assert!(sought(&after) <= 1);
        after.splice(30 << 20..30 << 20, [1, 2, 3]);
        assert!(sought(&after) <= 3);
    }

    #[test]
    fn what_comes_in_lists_is_met_until_a_list_cannot_be_read() {
        let (chunker, file) = (Chunker::new(3), noise(3, 24 << 20));
        let chunks = cut_all(&chunker, &file);
        for broken in [false, true] {
            let (out, pages) = tokio::sync::mpsc::channel(chunks.len() + 1);
            for group in chunks.chunks(3) {
                out.blocking_send(Ok(group.to_vec())).unwrap();
            }
            if broken {
                out.blocking_send(Err(FetchError::Lost("it".to_owned()))).unwrap();
            }
            drop(out);
            let (coming, _tasks) = (VecDeque::new(), JoinSet::new());
            let mut former = Former { coming, pages: Some(pages), _tasks, follows: true, new: 0 };
            let (again, rest) = former.cut(&chunker, &keys(), file.clone().into(), true);
            assert_eq!(
                again.iter().map(|c| c.id).collect::<Vec<_>>(),
                chunks.iter().map(|c| c.id).collect::<Vec<_>>()
            );
            assert!(rest.is_empty() && former.is_over());
            assert_eq!(former.follows, !broken);
        }
    }

    #[test]
    fn another_file_is_soon_known_as_one() {
        let chunker = Chunker::new(3);
        let chunks = cut_all(&chunker, &noise(1, 8 << 20)).into();
        let mut former =
            Former { coming: chunks, pages: None, _tasks: JoinSet::new(), follows: true, new: 0 };
        let mut rest = Bytes::new();
        for seed in 2..40 {
            assert_eq!(former.is_over(), former.new > NEW_MAX);
            let bytes = [&rest[..], &noise(seed, 4 << 20)].concat();
            rest = former.cut(&chunker, &keys(), bytes.into(), false).1;
        }
        assert!(former.is_over());
    }
}

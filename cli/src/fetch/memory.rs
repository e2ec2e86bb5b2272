//! Memory of spans that were opened, for the next ones: fresh memory costs as much as filling it.

use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::BytesMut;

use super::span::SPAN_BYTES_TARGET;

/// What a long span gets: most have their target and a part of a frame.
const LONG_BYTES: usize = SPAN_BYTES_TARGET as usize + 2 * 1024 * 1024;
/// Shorter spans have fresh memory: a directory, a page of a manifest.
const SHORT_BYTES_MAX: usize = 256 * 1024;
/// As many wait while others are read or opened.
const KEPT_MAX: usize = 4;

/// Some memory that is not in use.
#[derive(Debug, Default)]
pub(super) struct SpanMemory {
    kept: Mutex<Vec<BytesMut>>,
}

impl SpanMemory {
    /// Empty, with room for `bytes`.
    pub(super) fn take(&self, bytes: usize) -> BytesMut {
        match bytes {
            ..=SHORT_BYTES_MAX | LONG_BYTES.. => BytesMut::with_capacity(bytes),
            _ => self.kept().pop().unwrap_or_else(|| BytesMut::with_capacity(LONG_BYTES)),
        }
    }

    /// Keeps memory of [`Self::take`], whatever is in it, where it is of use.
    pub(super) fn give(&self, mut memory: BytesMut) {
        let mut kept = self.kept();
        if memory.capacity() == LONG_BYTES && kept.len() < KEPT_MAX {
            memory.clear();
            kept.push(memory);
        }
    }

    /// What is kept is whole, whatever another thread did.
    fn kept(&self) -> MutexGuard<'_, Vec<BytesMut>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: usize = SPAN_BYTES_TARGET as usize;

    #[test]
    fn the_memory_of_a_span_whose_parts_were_joined_is_used_again() {
        let spans = SpanMemory::default();
        let mut first = spans.take(LONG);
        let address = first.as_ptr();
        let mut rest = first.split_off(1000);
        let tail = rest.split_off(LONG - 1000);
        first.extend_from_slice(&[1; 1000]);
        rest.extend_from_slice(&[2; LONG - 1000]);
        first.unsplit(rest);
        first.unsplit(tail);
        assert_eq!((first.len(), first[999], first[1000]), (LONG, 1, 2));
        spans.give(first);
        let again = spans.take(LONG / 2);
        assert_eq!((again.as_ptr(), again.len()), (address, 0));
        assert_ne!(spans.take(LONG).as_ptr(), address, "it is in use");
    }

    #[test]
    fn little_is_kept() {
        let spans = SpanMemory::default();
        for bytes in [1, SHORT_BYTES_MAX, LONG_BYTES + 1, 2 * LONG_BYTES] {
            let memory = spans.take(bytes);
            assert!(memory.capacity() >= bytes);
            spans.give(memory);
        }
        assert!(spans.kept().is_empty(), "too short and too long");
        let many: Vec<BytesMut> = (0..2 * KEPT_MAX).map(|_| spans.take(LONG)).collect();
        many.into_iter().for_each(|memory| spans.give(memory));
        assert_eq!(spans.kept().len(), KEPT_MAX);
    }
}

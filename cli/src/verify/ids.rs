//! Chunks of frames against their ids, two at once: one that a frame has over waits for the next.

use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use codec::ChunkId;
use codec::frame::Frame;
use codec::keys::VaultKeys;

/// Checks ids under one vault's keys. Frames may come from several threads.
pub struct Ids {
    keys: VaultKeys,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    /// Chunks that wait, and the bytes of their frames: one, or one for each thread at once.
    waiting: Vec<(ChunkId, Range<usize>, Vec<u8>)>,
    /// Memory of frames that were waited for.
    spare: Vec<Vec<u8>>,
}

impl Ids {
    /// With no chunk that waits.
    pub fn new(keys: VaultKeys) -> Self {
        Self { keys, kept: Mutex::default() }
    }

    /// Checks all chunks of `frame` but perhaps its last, and perhaps one of a frame before it. Of a
    /// frame with a chunk that waits, the bytes are taken and others given, of no meaning. An error
    /// names a chunk whose bytes are not those of its id.
    pub fn check(&self, frame: &mut Frame) -> Result<(), String> {
        let is_odd = frame.chunks.len() % 2 == 1;
        let before = if is_odd { self.kept().waiting.pop() } else { None };
        let over = if is_odd && before.is_none() { frame.chunks.pop() } else { None };
        let chunks = frame.chunks.iter().map(|(id, range)| (*id, &frame.bytes[range.clone()]));
        let waited = before.iter().map(|(id, range, bytes)| (*id, &bytes[range.clone()]));
        self.compare(&chunks.chain(waited).collect::<Vec<_>>())?;
        let mut kept = self.kept();
        kept.spare.extend(before.map(|(_, _, bytes)| bytes));
        if let Some((id, range)) = over {
            let other = kept.spare.pop().unwrap_or_default();
            kept.waiting.push((id, range, std::mem::replace(&mut frame.bytes, other)));
        }
        Ok(())
    }

    /// Checks what still waits.
    pub fn finish(&self) -> Result<(), String> {
        let waiting = std::mem::take(&mut self.kept().waiting);
        let waiting = waiting.iter().map(|(id, range, bytes)| (*id, &bytes[range.clone()]));
        self.compare(&waiting.collect::<Vec<_>>())
    }

    /// What is kept is whole or not there at all, whatever another thread did.
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn compare(&self, chunks: &[(ChunkId, &[u8])]) -> Result<(), String> {
        let bytes: Vec<&[u8]> = chunks.iter().map(|(_, bytes)| *bytes).collect();
        let is = self.keys.chunk_ids(&bytes);
        match chunks.iter().zip(is).find(|((id, _), is)| id != is) {
            None => Ok(()),
            Some(((id, _), _)) => Err(format!("chunk {id:.8} has other bytes than its id")),
        }
    }
}

#[cfg(test)]
mod tests {
    use codec::frame::encode;
    use codec::keys::MasterKey;

    use super::*;

    /// A frame of chunks with these bytes; `None` is one whose id is of other bytes.
    fn frame(keys: &VaultKeys, chunks: &[Option<u8>]) -> Frame {
        let bytes: Vec<Vec<u8>> = chunks.iter().map(|b| vec![b.unwrap_or(0); 100]).collect();
        let ids = chunks.iter().map(|b| keys.chunk_id(&[b.unwrap_or(255); 100]));
        let chunks: Vec<_> = ids.zip(bytes.iter().map(Vec::as_slice)).collect();
        Frame::decode(&encode(&chunks, 1).unwrap()).unwrap()
    }

    #[test]
    fn a_chunk_with_other_bytes_than_its_id_is_found_wherever_it_stands() {
        let keys = VaultKeys::derive(MasterKey::new([5; 32]));
        // Frames of one, two and three chunks, with one wrong chunk at every place in turn.
        let lengths = [1, 2, 3, 1, 1];
        let all: usize = lengths.iter().sum();
        for wrong in 0..=all {
            let ids = Ids::new(keys.clone());
            let mut at = 0;
            let mut results = Vec::new();
            for length in lengths {
                let chunks: Vec<_> =
                    (at..at + length).map(|n| (n != wrong).then_some(n as u8)).collect();
                at += length;
                results.push(ids.check(&mut frame(&keys, &chunks)));
            }
            results.push(ids.finish());
            let failed = results.iter().filter(|result| result.is_err()).count();
            assert_eq!(failed, usize::from(wrong < all), "{wrong} of {all}");
            assert_eq!(ids.finish(), Ok(()), "nothing waits twice");
        }
    }
}

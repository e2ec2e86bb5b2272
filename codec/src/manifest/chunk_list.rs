//! The chunks of one file: in its entry while they are few, else in a tree of their own.

use super::page::{self, Item};
use super::{Builder, CHUNKS_PER_ENTRY_MAX, ChunkRef, Content};
use crate::{Error, Result};

impl Item for ChunkRef {
    type Extent = u64;
    const KIND: u8 = 1;
    const PAGE: &'static str = "chunk-list page";

    fn check(&self) -> Result<()> {
        ChunkRef::check(self)
    }

    fn ends_page(&self) -> bool {
        page::ends_page(&self.id)
    }

    fn pass(&self, position: &mut u64) -> Result<()> {
        pass(self.bytes.into(), position)
    }

    fn pass_all(bytes: &u64, position: &mut u64) -> Result<()> {
        pass(*bytes, position)
    }

    fn reaches(position: &u64, target: &u64) -> bool {
        position > target
    }
}

fn pass(bytes: u64, position: &mut u64) -> Result<()> {
    *position = match position.checked_add(bytes) {
        Some(end) if bytes > 0 => end,
        _ => return Err(Error::damaged("chunk list", format!("{bytes} bytes after {position}"))),
    };
    Ok(())
}

/// Takes the chunks of one file in order and gives the [`Content`] of its entry.
#[derive(Default)]
pub struct ContentBuilder {
    few: Vec<ChunkRef>,
    list: Option<Builder<ChunkRef>>,
    bytes: u64,
}

impl ContentBuilder {
    /// An empty file.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the next chunk. `emit` is called for pages as in [`Builder::push`], so only
    /// for a file of more than [`CHUNKS_PER_ENTRY_MAX`] chunks.
    pub fn push<E: From<Error>>(
        &mut self,
        chunk: ChunkRef,
        emit: &mut dyn FnMut(Vec<u8>) -> Result<ChunkRef, E>,
    ) -> Result<(), E> {
        self.bytes += u64::from(chunk.bytes);
        if let Some(list) = &mut self.list {
            return list.push(&chunk, emit);
        }
        self.few.push(chunk);
        if self.few.len() > CHUNKS_PER_ENTRY_MAX {
            let list = self.list.insert(Builder::new());
            for chunk in self.few.drain(..) {
                list.push(&chunk, emit)?;
            }
        }
        Ok(())
    }

    /// Bytes of the file so far: what [`super::Node::File`] says.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The content of the entry.
    pub fn finish<E: From<Error>>(
        self,
        emit: &mut dyn FnMut(Vec<u8>) -> Result<ChunkRef, E>,
    ) -> Result<Content, E> {
        match self.list {
            None => Ok(Content::Chunks(self.few)),
            Some(list) => Ok(Content::List(list.finish(emit)?)),
        }
    }
}

//! A range of a shard file as it comes from a server, read part by part.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};

use super::storage::{broken_off, stall_error, stalled};
use super::{accepted, nonsense, unreachable};
use crate::Result;

/// A piece in memory is at most so many times what is used of it.
const FAR_LONGER: usize = 4;

/// What is still to come of a range. It goes on coming while nobody reads, as far as the
/// connection holds it; dropped before its end, it closes the connection.
pub struct ShardRange {
    name: String,
    response: reqwest::Response,
    /// What came and was not read yet, and how much came with it.
    piece: Bytes,
    piece_bytes: usize,
    left_bytes: u64,
    stall: Duration,
}

impl ShardRange {
    /// Sends `request` for a range of `bytes` to server `name`.
    pub(super) async fn open(
        name: String,
        request: reqwest::RequestBuilder,
        bytes: u64,
        stall: Duration,
    ) -> Result<Self> {
        let answer = async {
            let response = request.send().await.map_err(|e| unreachable(&name, &e))?;
            let response = accepted(&name, response).await?;
            if response.status() != reqwest::StatusCode::PARTIAL_CONTENT {
                return Err(nonsense(&name, format!("status {} to a range", response.status())));
            }
            Ok(response)
        };
        let moved = AtomicU64::new(0);
        let response = tokio::select! {
            biased;
            response = answer => response?,
            () = stalled(&moved, stall) => return Err(stall_error(&name, stall)),
        };
        Ok(Self { name, response, piece: Bytes::new(), piece_bytes: 0, left_bytes: bytes, stall })
    }

    /// Adds the next `bytes` to `buffer`, exactly these.
    ///
    /// # Errors
    ///
    /// Nothing moved for too long; [`crate::Error::Io`] where the answer broke off in the middle.
    pub async fn read(&mut self, buffer: &mut BytesMut, bytes: usize) -> Result<()> {
        let moved = AtomicU64::new(0);
        let (name, stall) = (self.name.clone(), self.stall);
        tokio::select! {
            biased;
            read = self.take(buffer, bytes, &moved) => read,
            () = stalled(&moved, stall) => Err(stall_error(&name, stall)),
        }
    }

    /// The next parts, of `lengths` bytes each. A part that came within a far longer piece is not
    /// copied: it keeps that piece in memory.
    ///
    /// # Errors
    ///
    /// Those of [`Self::read`].
    pub async fn parts(&mut self, lengths: &[usize]) -> Result<Vec<Bytes>> {
        let moved = AtomicU64::new(0);
        let (name, stall) = (self.name.clone(), self.stall);
        let parts = async {
            let mut parts = Vec::with_capacity(lengths.len());
            for &bytes in lengths {
                parts.push(self.part(bytes, &moved).await?);
            }
            Ok(parts)
        };
        tokio::select! {
            biased;
            parts = parts => parts,
            () = stalled(&moved, stall) => Err(stall_error(&name, stall)),
        }
    }

    async fn part(&mut self, bytes: usize, moved: &AtomicU64) -> Result<Bytes> {
        if self.piece.is_empty() {
            self.fill(moved).await?;
        }
        if bytes < self.piece.len() && FAR_LONGER * bytes <= self.piece_bytes {
            return Ok(self.piece.split_to(bytes));
        }
        let mut part = BytesMut::with_capacity(bytes);
        self.take(&mut part, bytes, moved).await?;
        Ok(part.freeze())
    }

    async fn take(&mut self, buffer: &mut BytesMut, bytes: usize, moved: &AtomicU64) -> Result<()> {
        let mut wanted = bytes;
        while wanted > 0 {
            if self.piece.is_empty() && !self.fill(moved).await? {
                let came = bytes - wanted;
                return Err(nonsense(&self.name, format!("{came} bytes of {bytes}")));
            }
            let part = wanted.min(self.piece.len());
            buffer.extend_from_slice(&self.piece[..part]);
            self.piece.advance(part);
            wanted -= part;
        }
        // To its end, where the connection is free for another.
        if self.left_bytes == 0 && self.piece.is_empty() {
            self.next(moved).await?;
        }
        Ok(())
    }

    /// Takes the next piece, which may be empty; `false` where there is none.
    async fn fill(&mut self, moved: &AtomicU64) -> Result<bool> {
        let Some(piece) = self.next(moved).await? else { return Ok(false) };
        (self.piece_bytes, self.piece) = (piece.len(), piece);
        Ok(true)
    }

    async fn next(&mut self, moved: &AtomicU64) -> Result<Option<Bytes>> {
        let piece = self.response.chunk().await.map_err(|e| broken_off(&self.name, &e))?;
        let bytes = piece.as_ref().map_or(0, Bytes::len) as u64;
        moved.fetch_add(bytes, Ordering::Relaxed);
        match self.left_bytes.checked_sub(bytes) {
            Some(left) => self.left_bytes = left,
            None => return Err(nonsense(&self.name, "more bytes than asked for")),
        }
        Ok(piece)
    }
}

impl std::fmt::Debug for ShardRange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes of {}", self.left_bytes, self.name)
    }
}

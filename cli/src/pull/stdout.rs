//! One file to standard output.

use std::io::{self, Write as _};
use std::sync::Arc;

use codec::manifest::{ChunkRef, Content, Node};
use codec::seal::FrameKind;
use server::wire::SnapshotRow;

use super::find;
use crate::exit::{Exit, Failure};
use crate::fetch::{ChunkList, Fetcher};
use crate::snapshots;

/// Chunks that are fetched at once.
const CHUNKS_AHEAD: usize = 16;

/// Writes the file at `path` of a snapshot to standard output, to its end or until nobody reads
/// on; the bytes written.
pub async fn to_stdout(
    fetcher: &Arc<Fetcher>,
    snapshot: &SnapshotRow,
    path: &[u8],
) -> Result<u64, Failure> {
    let record = snapshots::record(fetcher, snapshot).await?;
    let mut entry = find(fetcher, record.manifest, path).await?;
    if let Some(Node::Hardlink { first }) = entry.as_ref().map(|entry| &entry.node) {
        entry = find(fetcher, record.manifest, first).await?;
    }
    let (content, bytes) = match entry.map(|entry| entry.node) {
        Some(Node::File { content, bytes, .. }) => (content, bytes),
        _ => {
            let what = format!("/{} is not a regular file", String::from_utf8_lossy(path));
            return Err(Failure::new(Exit::NoSnapshot, what)
                .next("arc pull SNAPSHOT:PATH --to DIR    for a folder"));
        }
    };
    let mut written = 0;
    match content {
        Content::Chunks(chunks) => {
            for chunks in chunks.chunks(CHUNKS_AHEAD) {
                if !write(fetcher, chunks, &mut written).await? {
                    return Ok(written);
                }
            }
        }
        Content::List(list) => {
            let mut list = ChunkList::new(Arc::clone(fetcher), list);
            let mut group = Vec::with_capacity(CHUNKS_AHEAD);
            let mut is_more = true;
            while is_more {
                match list.next().await? {
                    Some(chunk) => group.push(chunk),
                    None => is_more = false,
                }
                if group.len() == CHUNKS_AHEAD || !is_more {
                    if !write(fetcher, &group, &mut written).await? {
                        return Ok(written);
                    }
                    group.clear();
                }
            }
        }
    }
    if written != bytes {
        let what = format!("{written} bytes were written of a file of {bytes}");
        return Err(Failure::new(Exit::Lost, what).why("its list of chunks is not the file's"));
    }
    Ok(written)
}

/// Writes chunks and counts their bytes; false when whoever read them has gone, which is no
/// failure.
async fn write(fetcher: &Fetcher, chunks: &[ChunkRef], written: &mut u64) -> Result<bool, Failure> {
    let ids: Vec<_> = chunks.iter().map(|chunk| chunk.id).collect();
    let found = fetcher.chunks(FrameKind::Data, &ids).await?;
    let mut bytes = Vec::new();
    for chunk in chunks {
        match found.get(&chunk.id) {
            Some(plaintext) if plaintext.len() == chunk.bytes as usize => {
                bytes.extend_from_slice(plaintext);
            }
            _ => {
                return Err(Failure::new(
                    Exit::Lost,
                    format!("chunk {:.8} of the file is not what it should be", chunk.id),
                ));
            }
        }
    }
    let length = bytes.len() as u64;
    // On a thread of its own: a reader that is slow must not hold up the signals.
    let wrote = tokio::task::spawn_blocking(move || {
        let mut out = io::stdout().lock();
        out.write_all(&bytes).and_then(|()| out.flush())
    });
    match wrote.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic())) {
        Ok(()) => *written += length,
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(false),
        Err(error) => return Err(Failure::io("cannot write to", "standard output")(error)),
    }
    Ok(true)
}

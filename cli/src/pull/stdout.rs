//! One file to standard output.

use std::io::Write as _;
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

/// Writes the file at `path` of a snapshot to standard output; its bytes.
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
    let content = match entry.map(|entry| entry.node) {
        Some(Node::File { content, .. }) => content,
        _ => {
            let what = format!("/{} is not a regular file", String::from_utf8_lossy(path));
            return Err(Failure::new(Exit::NoSnapshot, what)
                .next("arc pull SNAPSHOT:PATH --to DIR    for a folder"));
        }
    };
    match content {
        Content::Chunks(chunks) => {
            let mut bytes = 0;
            for chunks in chunks.chunks(CHUNKS_AHEAD) {
                bytes += write(fetcher, chunks).await?;
            }
            Ok(bytes)
        }
        Content::List(list) => {
            let mut list = ChunkList::new(Arc::clone(fetcher), list);
            let mut group = Vec::with_capacity(CHUNKS_AHEAD);
            let mut bytes = 0;
            while let Some(chunk) = list.next().await? {
                group.push(chunk);
                if group.len() == CHUNKS_AHEAD {
                    bytes += write(fetcher, &group).await?;
                    group.clear();
                }
            }
            Ok(bytes + write(fetcher, &group).await?)
        }
    }
}

async fn write(fetcher: &Fetcher, chunks: &[ChunkRef]) -> Result<u64, Failure> {
    let ids: Vec<_> = chunks.iter().map(|chunk| chunk.id).collect();
    let found = fetcher.chunks(FrameKind::Data, &ids).await?;
    let mut bytes = 0;
    let mut out = std::io::stdout().lock();
    for chunk in chunks {
        match found.get(&chunk.id) {
            Some(plaintext) if plaintext.len() == chunk.bytes as usize => {
                out.write_all(plaintext)
                    .map_err(Failure::io("cannot write to", "standard output"))?;
                bytes += plaintext.len() as u64;
            }
            _ => {
                return Err(Failure::new(
                    Exit::Lost,
                    format!("chunk {:.8} of the file is not what it should be", chunk.id),
                ));
            }
        }
    }
    out.flush().map_err(Failure::io("cannot write to", "standard output"))?;
    Ok(bytes)
}

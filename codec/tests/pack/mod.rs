//! Reading a whole pack.

use arc_codec::frame::Frame;
use arc_codec::keys::VaultKeys;
use arc_codec::pack::{Directory, DirectoryRow};
use arc_codec::seal::{FrameKind, PackKey};
use arc_codec::{ChunkId, VaultId};

/// A chunk, and the kind of frame that it was found in.
pub(crate) type Found = (FrameKind, ChunkId, Vec<u8>);

/// Opens directory and all frames of `pack`. Each frame holds what the directory says, and
/// each chunk has the id of its bytes.
pub(crate) fn read(vault: VaultId, keys: &VaultKeys, key: &PackKey, pack: &[u8]) -> Vec<Found> {
    let directory = Directory::open(vault, key, pack).unwrap();
    let mut chunks = Vec::new();
    let mut rows = Vec::new();
    for (number, &(kind, _)) in (0..).zip(&directory.frames) {
        let mut sealed = pack[directory.frame_range(number).unwrap()].to_vec();
        let opened = key.open(vault, kind, number, &mut sealed).unwrap();
        let frame = Frame::decode(opened).unwrap();
        for (chunk, range) in frame.chunks {
            let bytes = frame.bytes[range].to_vec();
            assert_eq!(keys.chunk_id(&bytes), chunk, "frame {number}");
            rows.push(DirectoryRow { chunk, frame: number, bytes: bytes.len() as u32 });
            chunks.push((kind, chunk, bytes));
        }
    }
    assert_eq!(rows, directory.chunks);
    chunks
}

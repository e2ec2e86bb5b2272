//! The parts that only compute: copies, hashes, ciphers, cuts, codes.

use std::hint::black_box;
use std::rc::Rc;

use arc_benches::{Encode, encode_rates, noise};
use codec::chunker::Chunker;
use codec::digest::{BLOCK_BYTES, block_hash};
use codec::erasure::Code;
use codec::frame::{self, FRAME_BYTES_TARGET, Frame, LEVEL};
use codec::keys::{MasterKey, VaultKeys};
use codec::seal::{FrameKind, PackKey, PackKeyField, TAG_BYTES};
use codec::shard::{Kind, Shard};
use codec::stripe::Stripe;
use codec::{ChunkId, Geometry, VaultId};
use rayon::ThreadPoolBuilder;

use crate::sample::Piece;
use crate::{Block, Run};

/// More than any cache has.
const DATA_BYTES: usize = 256 << 20;
/// Pack of the stripe: shards of 6 MiB.
const PACK_BYTES: usize = 24 << 20;
const VAULT: VaultId = VaultId([7; 16]);

fn keys() -> VaultKeys {
    VaultKeys::derive(MasterKey::new([1; 32]))
}

/// Those for which all bytes are alike.
pub(crate) fn on_noise() -> Vec<Block> {
    let data = Rc::new(noise(DATA_BYTES));
    let mut blocks = vec![copy(data.clone())];
    blocks.extend(hash(data.clone()));
    blocks.extend(id(data.clone()));
    blocks.extend(seal_and_open());
    blocks.push(cut(data));
    blocks.extend(stripe_and_parse());
    blocks
}

fn copy(data: Rc<Vec<u8>>) -> Block {
    let mut target = vec![1; data.len()];
    Block::new("copy", "memory copy, not in cache", "10.5").runs(move || {
        Run::of(data.len(), || black_box(&mut target).copy_from_slice(black_box(&data)))
    })
}

/// Blocks are hashed while they are in cache, since they were just coded or received.
fn hash(data: Rc<Vec<u8>>) -> [Block; 2] {
    let block = data[..BLOCK_BYTES].to_vec();
    let cached = move || {
        let hash = || {
            for _ in 0..DATA_BYTES / BLOCK_BYTES {
                black_box(block_hash(black_box(&block)));
            }
        };
        Run::of(DATA_BYTES, hash)
    };
    let cold = move || {
        let hash = || {
            for block in data.chunks(BLOCK_BYTES) {
                black_box(block_hash(block));
            }
        };
        Run::of(data.len(), hash)
    };
    [
        Block::new("hash", "block hash (BLAKE3), in cache", "6.5").runs(cached),
        Block::new("hash_cold", "block hash, not in cache", "3.9").runs(cold),
    ]
}

fn id(data: Rc<Vec<u8>>) -> [Block; 2] {
    let keys = keys();
    let (two_keys, two) = (keys.clone(), Rc::clone(&data));
    let one = move || {
        let name = || {
            for chunk in data.chunks(1 << 20) {
                black_box(keys.chunk_id(chunk));
            }
        };
        Run::of(data.len(), name)
    };
    let two = move || {
        let chunks: Vec<&[u8]> = two.chunks(1 << 20).collect();
        Run::of(two.len(), || drop(black_box(two_keys.chunk_ids(&chunks))))
    };
    [
        Block::new("id", "chunk id (HMAC-SHA-256), 1 MiB, two at once", "SHA-256: 1.78").runs(two),
        Block::new("id_one", "chunk id, one by itself", "SHA-256: 1.78").runs(one),
    ]
}

fn seal_and_open() -> [Block; 2] {
    const FRAMES: usize = 64;
    let frames = || vec![vec![5; FRAME_BYTES_TARGET]; FRAMES];
    let bytes = FRAMES * FRAME_BYTES_TARGET;
    fn seal(key: &PackKey, frames: &mut [Vec<u8>]) {
        for (number, frame) in (0..).zip(frames) {
            key.seal(VAULT, FrameKind::Data, number, frame);
        }
    }
    let (key, mut plain) = (PackKey::new([3; 32]), frames());
    plain.iter_mut().for_each(|frame| frame.reserve_exact(TAG_BYTES));
    let sealing = move || {
        plain.iter_mut().for_each(|frame| frame.truncate(FRAME_BYTES_TARGET));
        Run::of(bytes, || seal(&key, &mut plain))
    };
    let (key, mut sealed) = (PackKey::new([4; 32]), frames());
    let opening = move || {
        sealed.iter_mut().for_each(|frame| frame.truncate(FRAME_BYTES_TARGET));
        seal(&key, &mut sealed);
        let open = || {
            for (number, frame) in (0..).zip(&mut sealed) {
                black_box(key.open(VAULT, FrameKind::Data, number, frame).unwrap());
            }
        };
        Run::of(bytes, open)
    };
    let others = "AES-256-GCM: 9.7, RustCrypto 1.6";
    [
        Block::new("seal", "seal frames of 1 MiB (AES-256-GCM)", others).runs(sealing),
        Block::new("open", "open them", others).runs(opening),
    ]
}

fn cut(data: Rc<Vec<u8>>) -> Block {
    let chunker = Chunker::new(keys().chunker_seed());
    let others = "fastcdc v2020 2.5, gearhash 3.5, mincdc 16";
    Block::new("cut", "cut into chunks", others).runs(move || {
        let cut = || {
            let mut rest = &data[..];
            while !rest.is_empty() {
                rest = &rest[black_box(chunker.cut(rest))..];
            }
        };
        Run::of(data.len(), cut)
    })
}

fn stripe_and_parse() -> [Block; 2] {
    let geometry = Geometry::new(4, 2).unwrap();
    let pool = ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    let encode = move |pack| {
        let key = PackKeyField(vec![1; 64]);
        pool.install(|| Stripe::encode(VAULT, Kind::Data, geometry, key, pack).unwrap())
    };
    let stripe = encode(noise(PACK_BYTES));
    let file = |(index, ends): (usize, &codec::stripe::Ends)| {
        [&ends.header, stripe.body(index), &ends.footer].concat()
    };
    let files: Vec<Vec<u8>> = stripe.shards.iter().enumerate().map(file).collect();
    let parse = move || {
        let bytes = files.iter().map(Vec::len).sum();
        Run::of(bytes, || files.iter().for_each(|file| drop(black_box(Shard::parse(file)))))
    };
    let mut bodies = stripe.bodies;
    let encode = move || {
        let mut pack = std::mem::take(&mut bodies);
        pack.truncate(PACK_BYTES);
        Run::of(PACK_BYTES, || bodies = encode(pack).bodies)
    };
    [
        Block::new("stripe", "stripe at 4+2: code and hash all shards", "").runs(encode),
        Block::new("parse", "check a shard file of 6 MiB", "").runs(parse),
    ]
}

/// The chunks of a frame.
type Chunks = Vec<(ChunkId, Vec<u8>)>;

/// zstd on frames of real files, by level.
pub(crate) fn on_files(frames: &[Vec<Piece>]) -> Vec<Block> {
    let keys = keys();
    let chunk = |piece: &Piece| {
        let mut bytes = vec![0; piece.bytes];
        piece.read(&mut bytes);
        (keys.chunk_id(&bytes), bytes)
    };
    let frames: Vec<Chunks> =
        frames.iter().map(|pieces| pieces.iter().map(chunk).collect()).collect();
    let bytes = frames.iter().flatten().map(|(_, chunk)| chunk.len()).sum();
    let frames = Rc::new(frames);
    [1, 2, LEVEL].into_iter().flat_map(|level| zstd(frames.clone(), bytes, level)).collect()
}

fn zstd(frames: Rc<Vec<Chunks>>, bytes: usize, level: i32) -> [Block; 2] {
    let encode_frame = move |frame: &Chunks| {
        let chunks: Vec<(ChunkId, &[u8])> = frame.iter().map(|(id, b)| (*id, &b[..])).collect();
        frame::encode(&chunks, level).unwrap()
    };
    let encoded: Vec<Vec<u8>> = frames.iter().map(encode_frame).collect();
    let ratio = encoded.iter().map(Vec::len).sum::<usize>() as f64 / bytes as f64;
    let encode = move || {
        Run::of(bytes, || frames.iter().for_each(|frame| drop(black_box(encode_frame(frame)))))
    };
    let decode = move || {
        Run::of(bytes, || encoded.iter().for_each(|frame| drop(black_box(Frame::decode(frame)))))
    };
    let number = if level == LEVEL { String::new() } else { format!("{level}") };
    let others = match level {
        1 => "text 0.36, binaries 0.44",
        LEVEL => "text 0.33, binaries 0.25",
        _ => "",
    };
    [
        Block::new(format!("zstd{number}"), format!("zstd {level}, frames of files"), others)
            .noted(format!("ratio {ratio:.3}"))
            .runs(encode),
        Block::new(format!("unzstd{number}"), format!("decode zstd {level}"), "1.1 to 1.4")
            .runs(decode),
    ]
}

/// Codes, and what others reach at them.
const CODES: [(&str, (u8, u8), &str); 4] = [
    (
        "4+2",
        (4, 2),
        "ISA-L 15 to 17, klauspost 14, reed-solomon-simd 7.7, reed-solomon-erasure 1.7",
    ),
    ("6+3", (6, 3), ""),
    (
        "10+4",
        (10, 4),
        "ISA-L 12 to 14, klauspost 16, reed-solomon-simd 5, reed-solomon-erasure 0.8",
    ),
    ("17+3", (17, 3), ""),
];

/// Name, GB/s of data and what others reach at each code.
pub(crate) fn encode_speeds() -> impl Iterator<Item = (&'static str, f64, &'static str)> {
    CODES.into_iter().map(|(name, (k, m), others)| {
        let code = Code::new(Geometry::new(k, m).unwrap());
        let encode: Encode = Box::new(move |data, parity| code.encode(data, parity).unwrap());
        let speeds = encode_rates(k.into(), m.into(), false, &[(name.to_owned(), encode)]);
        (name, speeds[0], others)
    })
}

//! Chunks become a pack, a stripe and files; the files that are left give the chunks back.
#![allow(clippy::unwrap_used)]

mod pack;

use arc_codec::erasure::Code;
use arc_codec::keys::{MasterKey, VaultKeys};
use arc_codec::pack::PackBuilder;
use arc_codec::seal::{FrameKind, PackKey};
use arc_codec::shard::{Kind, Shard};
use arc_codec::stripe::{self, Stripe};
use arc_codec::{ChunkId, Error, Geometry, Result, VaultId, frame};
use proptest::prelude::*;

const VAULT: VaultId = VaultId([7; 16]);

fn keys() -> VaultKeys {
    VaultKeys::derive(MasterKey::new([1; 32]))
}

/// The shard files of one stripe with all `chunks`, so many to a frame.
fn write(geometry: Geometry, chunks: &[Vec<u8>], chunks_per_frame: usize) -> Vec<Vec<u8>> {
    let (keys, key) = (keys(), PackKey::new([1; 32]));
    let field = key.wrap(&keys, VAULT, [2; 12]);
    let mut builder = PackBuilder::new(VAULT, key, Vec::new());
    let kinds = [FrameKind::Data, FrameKind::Metadata].into_iter().cycle();
    for (chunks, kind) in chunks.chunks(chunks_per_frame).zip(kinds) {
        let named: Vec<(ChunkId, &[u8])> =
            chunks.iter().map(|chunk| (keys.chunk_id(chunk), chunk.as_slice())).collect();
        let lengths: Vec<_> = named.iter().map(|(id, chunk)| (*id, chunk.len() as u32)).collect();
        builder.append(kind, frame::encode(&named, 3).unwrap(), &lengths).unwrap();
    }
    let pack = builder.finish().unwrap().bytes;
    let stripe = Stripe::encode(VAULT, Kind::Data, geometry, field, pack).unwrap();
    let file = |(index, ends): (usize, &stripe::Ends)| {
        [&ends.header, stripe.body(index), &ends.footer].concat()
    };
    stripe.shards.iter().enumerate().map(file).collect()
}

/// The chunks, from the shard files that are left and the vault's keys alone.
fn read(files: &[Vec<u8>]) -> Result<Vec<Vec<u8>>> {
    let shards: Vec<Shard<'_>> = files.iter().map(|file| Shard::parse(file).unwrap()).collect();
    let header = &shards[0].header;
    let geometry = header.geometry;
    let mut bodies = vec![None; geometry.shards()];
    for shard in &shards {
        assert_eq!(shard.header.stripe, header.stripe);
        bodies[shard.header.index as usize] = Some(shard.body.to_vec());
    }
    Code::new(geometry).decode(&mut bodies)?;
    let data: Vec<&[u8]> = bodies.iter().take(geometry.data()).flatten().map(|b| &b[..]).collect();
    let pack = stripe::join(geometry, header.pack_bytes, &data)?;
    let keys = keys();
    let key = PackKey::unwrap_field(&header.pack_key, &keys, header.vault)?;
    let found = pack::read(header.vault, &keys, &key, &pack);
    Ok(found.into_iter().map(|(_, _, bytes)| bytes).collect())
}

/// Bytes that compress well, or not at all.
fn a_chunk() -> impl Strategy<Value = Vec<u8>> {
    let bytes = prop_oneof![4 => 1..2_000usize, 1 => 50_000..90_000usize];
    (any::<bool>(), any::<u64>(), bytes).prop_map(|(noise, seed, bytes)| {
        if !noise {
            return format!("{seed}, ").into_bytes().into_iter().cycle().take(bytes).collect();
        }
        let mut chunk = vec![0; bytes];
        blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut chunk);
        chunk
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn chunks_come_back_from_any_k_shards_and_from_fewer_not(
        (k, m) in prop::sample::select(vec![(1, 1), (1, 2), (2, 1), (4, 2), (5, 3), (16, 4)]),
        chunks in prop::collection::vec(a_chunk(), 0..30),
        chunks_per_frame in 1..10usize,
        order in Just((0..20usize).collect::<Vec<_>>()).prop_shuffle(),
        losses: prop::sample::Index,
    ) {
        let geometry = Geometry::new(k, m).unwrap();
        let (n, m) = (geometry.shards(), geometry.parity());
        let files = write(geometry, &chunks, chunks_per_frame);
        let left = |losses: usize| -> Vec<Vec<u8>> {
            let order = order.iter().filter(|&&index| index < n);
            order.skip(losses).map(|&index| files[index].clone()).collect()
        };
        for losses in [losses.index(m + 1), m] {
            prop_assert!(read(&left(losses)).unwrap() == chunks, "{losses} shards lost");
        }
        if geometry.data() > 1 {
            let (good, needed) = (geometry.data() - 1, geometry.data());
            prop_assert_eq!(read(&left(m + 1)), Err(Error::TooFewShards { good, needed }));
        }
    }
}

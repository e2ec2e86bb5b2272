use proptest::prelude::*;

use super::*;
use crate::seal::PACK_KEY_FIELD_BYTES_MAX;
use crate::shard::{FOOTER_BYTES, PACK_BYTES_MAX, Shard};

const VAULT: VaultId = VaultId([3; 16]);

fn geometry(k: u8, m: u8) -> Geometry {
    Geometry::new(k, m).unwrap()
}

fn pack_of(pack_bytes: usize, seed: u8) -> Vec<u8> {
    (0..pack_bytes).map(|x| (x * 31 + x / 251) as u8 ^ seed).collect()
}

fn encode(geometry: Geometry, pack: &[u8]) -> Stripe {
    let pack_key = PackKeyField(vec![7; 64]);
    Stripe::encode(VAULT, Kind::Metadata, geometry, pack_key, pack.to_vec()).unwrap()
}

fn file(stripe: &Stripe, index: usize) -> Vec<u8> {
    let Ends { header, footer, .. } = &stripe.shards[index];
    [header, stripe.body(index), footer].concat()
}

/// Loses the shards `lost`, and from the other files alone makes the pack and them again.
fn check_losses(geometry: Geometry, pack: &[u8], lost: &[usize]) -> Result<()> {
    let stripe = encode(geometry, pack);
    assert_eq!(stripe.bodies.len() as u64, stripe.shard_bytes * geometry.shards() as u64);
    let files: Vec<Vec<u8>> = (0..geometry.shards()).map(|index| file(&stripe, index)).collect();
    assert!(files.iter().all(|file| file.len() as u64 == stripe.file_bytes()));

    let survivors: Vec<Option<Shard<'_>>> = (0..files.len())
        .map(|index| (!lost.contains(&index)).then(|| Shard::parse(&files[index]).unwrap()))
        .collect();
    let header = survivors.iter().flatten().next().unwrap().header.clone();
    assert_eq!((header.stripe, header.vault, header.kind), (stripe.id, VAULT, Kind::Metadata));
    assert_eq!((header.geometry, header.pack_key), (geometry, stripe.pack_key.clone()));

    let mut bodies: Vec<Option<Vec<u8>>> =
        survivors.iter().map(|shard| shard.as_ref().map(|shard| shard.body.to_vec())).collect();
    let code = Code::new(geometry);
    let mut decoded = bodies.clone();
    code.decode(&mut decoded)?;
    let data: Vec<&[u8]> = decoded[..geometry.data()].iter().flatten().map(Vec::as_slice).collect();
    assert!(join(geometry, header.pack_bytes, &data)? == pack, "another pack");

    code.rebuild(&mut bodies)?;
    let header = &survivors.iter().flatten().next_back().unwrap().header;
    for &index in lost {
        let body = bodies[index].as_deref().unwrap();
        let ends = header.sibling(index as u8, &digest::block_hashes(body))?;
        assert!([&ends.header, body, &ends.footer].concat() == files[index], "shard {index}");
    }
    Ok(())
}

fn any_case() -> impl Strategy<Value = (u8, u8, usize)> {
    let small = (1u8..=16, 1u8..=8);
    let large = prop_oneof![Just((200u8, 55u8)), Just((1, 254)), Just((128, 127)), Just((254, 1))];
    prop_oneof![
        4 => small.prop_flat_map(|(k, m)| {
            let (data, body) = (k as usize, BLOCK_BYTES);
            let border = (0..3usize, 1..=data).prop_map(move |(off, bodies)| bodies * body + off - 1);
            let pack_bytes = prop_oneof![1..70usize, Just(63), Just(64), Just(65), border, 1..300_000usize];
            (Just(k), Just(m), pack_bytes)
        }),
        1 => (large, 1..3_000usize).prop_map(|((k, m), pack_bytes)| (k, m, pack_bytes)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_m_losses_give_pack_and_shards_back_and_one_more_none(
        (k, m, pack_bytes) in any_case(),
        order in Just((0..255usize).collect::<Vec<_>>()).prop_shuffle(),
        losses: prop::sample::Index,
        seed: u8,
    ) {
        let (geometry, pack) = (geometry(k, m), pack_of(pack_bytes, seed));
        let order: Vec<usize> = order.into_iter().filter(|&i| i < geometry.shards()).collect();
        let losses = losses.index(geometry.parity() + 1);
        for losses in [losses, geometry.parity()] {
            prop_assert_eq!(check_losses(geometry, &pack, &order[..losses]), Ok(()));
        }
        if k > 1 {
            let result = check_losses(geometry, &pack, &order[..=geometry.parity()]);
            let needed = geometry.data();
            prop_assert_eq!(result, Err(Error::TooFewShards { good: needed - 1, needed }));
        }
    }
}

#[test]
fn every_loss_of_4_2_at_the_borders_of_blocks() {
    for pack_bytes in
        [1, 63, 64, 65, 255, 256, 257, 4 * BLOCK_BYTES - 1, 4 * BLOCK_BYTES, 4 * BLOCK_BYTES + 1]
    {
        let pack = pack_of(pack_bytes, 0xA5);
        for first in 0..6 {
            for second in 0..6 {
                assert_eq!(check_losses(geometry(4, 2), &pack, &[first, second]), Ok(()));
            }
        }
    }
}

#[test]
fn the_layout_is_contiguous_and_the_tail_is_zero() {
    let pack = pack_of(1_000, 1);
    let stripe = encode(geometry(3, 1), &pack);
    assert_eq!(stripe.shard_bytes, 384);
    assert_eq!(stripe.bodies[..1_000], pack);
    assert!(stripe.bodies[1_000..3 * 384].iter().all(|&byte| byte == 0));
    assert_eq!(stripe.body(2), &stripe.bodies[768..1_152]);
}

#[test]
fn a_reserved_buffer_is_not_moved() {
    let mut pack = Vec::with_capacity(6 * 64);
    pack.extend_from_slice(&[5; 200]);
    let before = pack.as_ptr();
    let key = PackKeyField(vec![1]);
    let stripe = Stripe::encode(VAULT, Kind::Data, geometry(4, 2), key, pack).unwrap();
    assert_eq!(stripe.bodies.as_ptr(), before);
}

#[test]
fn the_stripe_id_follows_from_every_argument() {
    let key = |byte: u8, count: usize| PackKeyField(vec![byte; count]);
    let id = |vault, kind, geometry, key, pack: &[u8]| {
        Stripe::encode(VaultId([vault; 16]), kind, geometry, key, pack.to_vec()).unwrap().id
    };
    let ids = [
        id(1, Kind::Data, geometry(2, 1), key(1, 64), &[1, 2]),
        id(2, Kind::Data, geometry(2, 1), key(1, 64), &[1, 2]),
        id(1, Kind::Record, geometry(2, 1), key(1, 64), &[1, 2]),
        id(1, Kind::Data, geometry(2, 2), key(1, 64), &[1, 2]),
        id(1, Kind::Data, geometry(3, 1), key(1, 64), &[1, 2]),
        id(1, Kind::Data, geometry(2, 1), key(2, 64), &[1, 2]),
        id(1, Kind::Data, geometry(2, 1), key(1, 63), &[1, 2]),
        id(1, Kind::Data, geometry(2, 1), key(1, 64), &[1, 3]),
        id(1, Kind::Data, geometry(2, 1), key(1, 64), &[1, 2, 0]),
    ];
    let unique: std::collections::HashSet<_> = ids.iter().collect();
    assert_eq!(unique.len(), ids.len());
    assert_eq!(ids[0], id(1, Kind::Data, geometry(2, 1), key(1, 64), &[1, 2]));
}

#[test]
fn packs_and_keys_outside_the_format_are_refused() {
    let encode = |pack_key_bytes, pack| {
        let key = PackKeyField(vec![0; pack_key_bytes]);
        Stripe::encode(VAULT, Kind::Data, geometry(2, 1), key, pack).map(|stripe| stripe.pack_bytes)
    };
    assert!(matches!(encode(64, vec![]), Err(Error::Damaged { what: "pack length", .. })));
    assert!(matches!(encode(0, vec![1]), Err(Error::Damaged { .. })));
    assert_eq!(encode(PACK_KEY_FIELD_BYTES_MAX, vec![1]), Ok(1));
    let actual = PACK_KEY_FIELD_BYTES_MAX as u64 + 1;
    let limit = PACK_KEY_FIELD_BYTES_MAX as u64;
    let what = "pack key field length";
    assert_eq!(encode(actual as usize, vec![1]), Err(Error::Bound { what, actual, limit }));
}

#[test]
fn joining_refuses_what_encoding_does_not_make() {
    let (a, b): ([u8; 64], [u8; 64]) = ([1; 64], [0; 64]);
    assert_eq!(join(geometry(2, 1), 64, &[&a, &b]).unwrap(), a);
    assert_eq!(join(geometry(2, 1), 65, &[&a, &b]).unwrap().len(), 65);
    let damaged = |pack_bytes, bodies: &[&[u8]]| {
        matches!(join(geometry(2, 1), pack_bytes, bodies), Err(Error::Damaged { .. }))
    };
    assert!(damaged(63, &[&a, &b]), "a byte past the pack");
    assert!(damaged(64, &[&b, &a]), "bytes past the pack");
    assert!(damaged(64, &[&a]));
    assert!(damaged(64, &[&a, &b, &b]));
    assert!(damaged(64, &[&a, &b[1..]]));
    assert!(damaged(0, &[&a, &b]));
    assert!(damaged(129, &[&a, &b]));
    let too_long = join(geometry(2, 1), PACK_BYTES_MAX + 1, &[&a, &b]);
    assert!(matches!(too_long, Err(Error::Bound { .. })));
    assert!(matches!(join(geometry(2, 1), u64::MAX, &[&a, &b]), Err(Error::Bound { .. })));
}

#[test]
fn a_file_is_its_three_parts() {
    let stripe = encode(geometry(1, 1), &[1]);
    assert_eq!(stripe.file_bytes(), 4_096 + 64 + FOOTER_BYTES as u64);
    assert_eq!(Shard::parse(&file(&stripe, 1)).unwrap().header.file_bytes(), stripe.file_bytes());
}

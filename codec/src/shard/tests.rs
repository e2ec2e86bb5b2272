use proptest::prelude::*;

use super::*;
use crate::seal::PackKeyField;
use crate::stripe::Stripe;
use crate::{FORMAT_VERSION, Geometry, StripeId, VaultId, digest};

/// The files of a stripe of `pack_bytes`.
fn files(k: u8, m: u8, pack_bytes: usize) -> Vec<Vec<u8>> {
    let pack = (0..pack_bytes).map(|x| (x * 13 + x / 251) as u8 | 1).collect();
    let geometry = Geometry::new(k, m).unwrap();
    let pack_key = PackKeyField(vec![7; 64]);
    let stripe = Stripe::encode(VaultId([9; 16]), Kind::Data, geometry, pack_key, pack).unwrap();
    (0..geometry.shards())
        .map(|i| [&stripe.shards[i].header, stripe.body(i), &stripe.shards[i].footer].concat())
        .collect()
}

/// Reads a file the streaming way: header first, then the rest in pieces of these sizes.
fn stream(file: &[u8], pieces: &[usize]) -> Result<()> {
    let prefix = file.get(..PEEK_BYTES).unwrap_or(file);
    let header_bytes = Header::peek_bytes(prefix)?;
    let header = Header::parse(file.get(..header_bytes).unwrap_or(file))?;
    let mut check = BodyCheck::new(&header);
    let mut rest = &file[header_bytes..];
    for &piece in pieces.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (now, later) = rest.split_at(piece.min(rest.len()));
        check.update(now)?;
        rest = later;
    }
    check.finish()
}

fn refused_both_ways(file: &[u8], pieces: &[usize]) {
    assert!(Shard::parse(file).is_err());
    assert!(stream(file, pieces).is_err());
}

#[derive(Debug, Clone)]
enum Harm {
    Flip { at: usize, bit: u8 },
    Cut { at: usize },
    Zero { at: usize, count: usize },
    Append { byte: u8 },
    Insert { at: usize, byte: u8 },
}

impl Harm {
    /// The file with this done to it, positions taken modulo its length.
    fn to(&self, file: &[u8]) -> Vec<u8> {
        let mut harmed = file.to_vec();
        let len = file.len();
        match *self {
            Self::Flip { at, bit } => harmed[at % len] ^= 1 << bit,
            Self::Cut { at } => harmed.truncate(at % len),
            Self::Zero { at, count } => {
                let at = at % len;
                let end = len.min(at + count);
                harmed[at..end].fill(0);
            }
            Self::Append { byte } => harmed.push(byte),
            Self::Insert { at, byte } => harmed.insert(at % len, byte),
        }
        harmed
    }
}

fn any_harm() -> impl Strategy<Value = Harm> {
    // Positions near the start, where the fields are, and anywhere.
    let at = || prop_oneof![0usize..512, any::<usize>()];
    prop_oneof![
        (at(), 0u8..8).prop_map(|(at, bit)| Harm::Flip { at, bit }),
        at().prop_map(|at| Harm::Cut { at }),
        (at(), 1usize..100_000).prop_map(|(at, count)| Harm::Zero { at, count }),
        any::<u8>().prop_map(|byte| Harm::Append { byte }),
        (at(), any::<u8>()).prop_map(|(at, byte)| Harm::Insert { at, byte }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn any_harm_is_noticed_whole_and_in_pieces(
        geometry in prop_oneof![Just((1u8, 2u8)), Just((2, 1)), Just((4, 2))],
        pack_bytes in prop_oneof![1usize..300, 60_000usize..200_000],
        index: prop::sample::Index,
        harm in any_harm(),
        pieces in prop::collection::vec(prop_oneof![1usize..100, 4_000usize..150_000], 1..8),
    ) {
        let files = files(geometry.0, geometry.1, pack_bytes);
        let file = index.get(&files);
        prop_assert!(Shard::parse(file).is_ok());
        prop_assert_eq!(stream(file, &pieces), Ok(()));

        let harmed = harm.to(file);
        prop_assume!(harmed != *file);
        prop_assert!(Shard::parse(&harmed).is_err());
        prop_assert!(stream(&harmed, &pieces).is_err());
    }

    #[test]
    fn arbitrary_bytes_are_refused_quietly(
        bytes in prop::collection::vec(any::<u8>(), 0..5_000),
        genuine in 0usize..64,
    ) {
        let file = files(2, 1, 100).remove(0);
        let mut bytes = bytes;
        let genuine = genuine.min(bytes.len());
        bytes[..genuine].copy_from_slice(&file[..genuine]);
        if let Ok(header_bytes) = Header::peek_bytes(&bytes) {
            prop_assert!(header_bytes <= HEADER_BYTES_MAX);
        }
        prop_assert!(Header::parse(&bytes).is_err());
        prop_assert!(Shard::parse(&bytes).is_err());
    }
}

#[test]
fn every_bit_of_a_small_file_counts() {
    let file = files(1, 1, 1).remove(1);
    for at in 0..file.len() {
        let mut harmed = file.clone();
        harmed[at] ^= 1 << (at % 8);
        refused_both_ways(&harmed, &[4_000]);
    }
}

#[test]
fn a_first_error_stays() {
    let mut file = files(1, 1, 70_000).remove(0);
    let header_bytes = Header::peek_bytes(&file).unwrap();
    let header = Header::parse(&file[..header_bytes]).unwrap();
    let body = &mut file[header_bytes..];
    body[3] ^= 1;
    let mut check = BodyCheck::new(&header);
    let error = check.update(&body[..BLOCK_BYTES]).unwrap_err();
    assert_eq!(error.to_string(), "shard body is damaged: the hash of block 0 of 2 does not hold");
    body[3] ^= 1;
    assert_eq!(check.update(body), Err(error.clone()));
    assert_eq!(check.finish(), Err(error));
}

#[test]
fn a_block_is_checked_by_itself() {
    let files = files(1, 1, 2 * BLOCK_BYTES + 5);
    let Shard { header, body } = Shard::parse(&files[0]).unwrap();
    let blocks: Vec<&[u8]> = body.chunks(BLOCK_BYTES).collect();
    for (number, block) in blocks.iter().enumerate() {
        header.check_block(number, block).unwrap();
        header.check_block(number, &block[1..]).unwrap_err();
        header.check_block(number ^ 1, block).unwrap_err();
    }
    header.check_block(3, &[]).unwrap_err();
    header.check_block(usize::MAX, blocks[0]).unwrap_err();
}

#[test]
fn a_sibling_makes_the_lost_file_again() {
    let files = files(2, 2, 3 * BLOCK_BYTES);
    for survivor in &files {
        let survivor = Shard::parse(survivor).unwrap();
        for (index, lost) in (0..=u8::MAX).zip(&files) {
            let body = Shard::parse(lost).unwrap().body;
            let hashes = digest::block_hashes(body);
            let ends = survivor.header.sibling(index, &hashes).unwrap();
            assert_eq!(&[&ends.header, body, &ends.footer].concat(), lost);
            assert_eq!(Header::parse(&ends.header).unwrap().header_hash, ends.header_hash);
            assert_eq!(ends.header.len() as u64, survivor.header.header_bytes());
        }
        let last = survivor.header.index == 3;
        let other = if last { 0 } else { 3 };
        survivor.header.sibling(other, &survivor.header.block_hashes).unwrap_err();
        survivor.header.sibling(4, &survivor.header.block_hashes).unwrap_err();
    }
}

/// A header of 1+1 whose hashes all hold, with `bytes` put at `at` before hashing:
/// what somebody could write who knows the format but keeps to no bound.
fn hostile(at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut header = files(1, 1, 1).remove(0);
    header.truncate(HEADER_ALIGN_BYTES);
    header[at..at + bytes.len()].copy_from_slice(bytes);

    let pack_key = &header[96..160];
    let roots = &header[160..224];
    let mut hasher = blake3::Hasher::new_derive_key("arc v0 stripe id");
    hasher.update(&header[8..12]).update(&header[16..32]).update(&header[32..33]);
    hasher.update(&header[35..37]).update(&header[33..35]).update(&header[40..44]);
    hasher.update(&header[48..64]).update(&header[44..48]).update(pack_key).update(roots);
    let stripe = *hasher.finalize().as_bytes();
    if !(64..96).contains(&at) {
        header[64..96].copy_from_slice(&stripe);
    }
    let end = header.len() - 32;
    let header_hash = blake3::derive_key("arc v0 shard header", &header[..end]);
    header[end..].copy_from_slice(&header_hash);
    header
}

#[test]
fn rehashed_hostile_fields_are_refused() {
    let honest = hostile(16, &[8; 16]);
    assert_eq!(Header::parse(&honest).unwrap().vault, VaultId([8; 16]));

    let cases: [(usize, &[u8], &str); 26] = [
        (0, b"ARCSHART", "begin with ARCSHARD"),
        (8, &[1, 0], "format version 1, this build reads up to 0"),
        (10, &[1, 0], "feature flags 0x0001"),
        (10, &[0, 0x80], "feature flags 0x8000"),
        (12, &[0; 4], "0 bytes long, not 4096"),
        (12, &[0, 0x20, 0, 0], "8192 bytes long, not 4096"),
        (12, &[0xFF; 4], "4294967295 bytes long, not 4096"),
        (32, &[4], "4 is none of 0 to 3"),
        (33, &[2], "code 2, hash 1"),
        (34, &[2], "code 1, hash 2"),
        (35, &[0], "no data shard"),
        (35, &[255], "more than 255 shards"),
        (36, &[0], "no parity shard"),
        (36, &[200], "4096 bytes long, not 8192"),
        (37, &[2], "shard 2 of a 1+1 stripe"),
        (38, &[0, 1], "reserved field"),
        (40, &[0, 0, 2, 0], "blocks of 131072 bytes"),
        (44, &[0; 4], "pack key field length is damaged"),
        (44, &[1, 1, 0, 0], "pack key field length is 257, the format allows at most 256"),
        (44, &[0xFF; 4], "pack key field length is 4294967295"),
        (48, &[0; 8], "pack length is damaged"),
        (48, &[0xFF; 8], "pack length is 18446744073709551615"),
        (48, &[0, 0, 0, 0, 1, 0, 0, 0], "pack length is 4294967296"),
        (56, &[128], "1 bytes in 1+1 make no shards of 128"),
        (64, &[0; 32], "stripe id does not follow"),
        (300, &[1], "padding is not zero"),
    ];
    for (at, bytes, why) in cases {
        let header = hostile(at, bytes);
        let error = Header::parse(&header).unwrap_err().to_string();
        assert!(error.contains(why), "{error:?} at {at}, not {why:?}");
        assert_eq!(Shard::parse(&header).unwrap_err().to_string(), error);
    }
    // All lengths at their largest, in agreement: bounded, and the bytes are not there.
    let mut vast = hostile(12, &(HEADER_BYTES_MAX as u32).to_le_bytes());
    vast[36] = 254;
    vast[44..64].copy_from_slice(
        &[&[0, 1, 0, 0][..], &PACK_BYTES_MAX.to_le_bytes(), &(PACK_BYTES_MAX + 1).to_le_bytes()]
            .concat(),
    );
    assert_eq!(Header::peek_bytes(&vast), Ok(HEADER_BYTES_MAX));
    Header::parse(&vast).unwrap_err();
    Shard::parse(&vast).unwrap_err();
}

#[test]
fn block_hashes_that_give_another_root_are_refused() {
    let error = Header::parse(&hostile(224, &[1; 32])).unwrap_err();
    assert!(error.to_string().contains("do not give the root of shard 0"), "{error}");
}

#[test]
fn version_and_flags_come_before_everything_else() {
    let mut prefix = [0xFF; PEEK_BYTES];
    prefix[..8].copy_from_slice(b"ARCSHARD");
    prefix[8..10].copy_from_slice(&7u16.to_le_bytes());
    let newer = Error::Version { what: "shard header", found: 7, known: FORMAT_VERSION };
    assert_eq!(Header::peek_bytes(&prefix), Err(newer));
    prefix[8..10].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
    let error = Header::peek_bytes(&prefix).unwrap_err().to_string();
    assert!(error.contains("feature flags"), "{error}");
}

#[test]
fn a_header_needs_exactly_its_bytes() {
    let file = files(1, 1, 1).remove(0);
    let header = &file[..HEADER_ALIGN_BYTES];
    assert!(Header::parse(header).is_ok());
    Header::parse(&header[..HEADER_ALIGN_BYTES - 1]).unwrap_err();
    Header::parse(&file[..HEADER_ALIGN_BYTES + 1]).unwrap_err();
    Header::peek_bytes(&header[..PEEK_BYTES - 1]).unwrap_err();
    assert_eq!(Header::peek_bytes(&header[..PEEK_BYTES]), Ok(HEADER_ALIGN_BYTES));
}

#[test]
fn a_shard_with_the_header_of_another_stripe_is_refused() {
    let (ours, theirs) = (files(1, 1, 100), files(1, 1, 101));
    let mixed = [&theirs[0][..HEADER_ALIGN_BYTES], &ours[0][HEADER_ALIGN_BYTES..]].concat();
    assert_eq!(mixed.len(), ours[0].len());
    refused_both_ways(&mixed, &[50]);
    let stripe = |file: &[u8]| -> StripeId { Shard::parse(file).unwrap().header.stripe };
    assert_eq!(stripe(&ours[0]), stripe(&ours[1]));
    assert_ne!(stripe(&ours[0]), stripe(&theirs[0]));
}

#[test]
fn kinds_are_the_bytes_of_the_format() {
    for kind in [Kind::Data, Kind::Metadata, Kind::Snapshot, Kind::Record] {
        assert_eq!(Kind::try_from(kind as u8), Ok(kind));
    }
    Kind::try_from(4).unwrap_err();
}

#[test]
fn the_longest_header_follows_from_the_bounds() {
    let longest = (1..=254u8).map(|k| {
        let geometry = Geometry::new(k, 255 - k).unwrap();
        let shard_bytes = geometry.shard_bytes(PACK_BYTES_MAX);
        Header::encoded_bytes(geometry, PACK_KEY_FIELD_BYTES_MAX, shard_bytes)
    });
    assert_eq!(longest.max(), Some(HEADER_BYTES_MAX as u64));
}

#[test]
fn a_damaged_header_gives_what_its_stripe_id_certifies() {
    let file = &files(2, 1, 300_000)[1];
    let header = Shard::parse(file).unwrap().header;
    let header_bytes = header.header_bytes() as usize;
    let table = 64 + 32 + 64 + 3 * 32;
    for at in [table, table + 32, header_bytes - 40, header_bytes - 1] {
        let mut bytes = file[..header_bytes].to_vec();
        bytes[at] ^= 1;
        assert!(Header::parse(&bytes).is_err());
        let shared = Header::shared(&bytes).unwrap();
        assert_eq!((shared.stripe, &shared.roots), (header.stripe, &header.roots));
        let in_table = (table..table + 3 * 32).contains(&at);
        let found = shared.table_in(&bytes).unwrap();
        assert_eq!(found == header.block_hashes, !in_table, "{at}");
        assert_eq!(shared.sibling(1, &found).is_err(), in_table, "{at}");
        let ends = shared.sibling(1, &header.block_hashes).unwrap();
        assert_eq!(ends.header, file[..header_bytes]);
    }
    for at in [33, 48, 64, 100, 170] {
        let mut bytes = file[..header_bytes].to_vec();
        bytes[at] ^= 1;
        assert!(Header::shared(&bytes).is_err(), "{at}");
    }
    assert!(Header::shared(&file[..table - 1]).is_err());
    assert!(header.table_in(&file[..table + 10]).is_none());
}

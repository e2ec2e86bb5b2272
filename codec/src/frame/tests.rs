use proptest::prelude::*;

use super::*;
use crate::seal::tests::damage;

fn noise(bytes: usize) -> Vec<u8> {
    let mut out = vec![0; bytes];
    blake3::Hasher::new().finalize_xof().fill(&mut out);
    out
}

fn id(byte: u8) -> ChunkId {
    ChunkId([byte; 32])
}

/// An opened frame of zstd's making, whatever its plaintext is.
fn opened(plaintext: &[u8], declared: u32) -> Vec<u8> {
    let payload = zstd::bulk::compress(plaintext, 1).unwrap();
    [&[ZSTD][..], &declared.to_le_bytes(), &payload].concat()
}

#[test]
fn chunks_are_found_by_id() {
    let chunks = [(id(1), &b"one"[..]), (id(2), b""), (id(3), b"three")];
    let frame = Frame::decode(&encode(&chunks, 3).unwrap()).unwrap();
    assert_eq!(frame.chunk(&id(3)), Some(&b"three"[..]));
    assert_eq!(frame.chunk(&id(2)), Some(&b""[..]));
    assert_eq!(frame.chunk(&id(4)), None);
}

#[test]
fn incompressible_chunks_are_stored() {
    let chunk = noise(100_000);
    let opened = encode(&[(id(1), &chunk)], 3).unwrap();
    assert_eq!(opened[0], STORED);
    assert_eq!(opened.len(), HEAD_BYTES + COUNT_BYTES + TABLE_ROW_BYTES + chunk.len());
    assert_eq!(Frame::decode(&opened).unwrap().chunk(&id(1)).unwrap(), chunk);
}

#[test]
fn memory_that_was_used_before_leaves_nothing_in_a_frame() {
    for (chunk, used) in [(vec![7; 50_000], 100), (vec![7; 50_000], 200_000), (noise(50), 90_000)] {
        let opened = encode(&[(id(1), &chunk)], 3).unwrap();
        let used = Frame::decode_in(&opened, vec![9; used]).unwrap();
        let fresh = Frame::decode(&opened).unwrap();
        assert_eq!((used.bytes, used.chunks), (fresh.bytes, fresh.chunks));
    }
    // What inflates to more than its head says does not, whatever the memory has room for.
    assert!(Frame::decode_in(&opened(&[0; 100], 50), vec![9; 200]).is_err());
}

#[test]
fn a_saving_of_two_percent_is_not_worth_a_window() {
    let encoded = |zeros: usize| {
        let mut chunk = noise(100_000);
        chunk[..zeros].fill(0);
        encode(&[(id(1), &chunk)], 3).unwrap()[0]
    };
    assert_eq!(encoded(2_000), STORED);
    assert_eq!(encoded(5_000), ZSTD);
}

#[test]
fn chunks_of_a_frame_share_a_window() {
    let chunk = noise(100_000);
    let opened = encode(&[(id(1), &chunk), (id(2), &chunk)], 3).unwrap();
    assert!(opened.len() < 101_000, "{} bytes", opened.len());
}

#[test]
fn the_level_is_the_callers_each_time() {
    let text: Vec<u8> = (0..40_000u32).flat_map(|i| format!("{i} ").into_bytes()).collect();
    let bytes = |level| encode(&[(id(1), &text)], level).unwrap().len();
    let (fast, best) = (bytes(1), bytes(19));
    assert!(best < fast, "{best} bytes at level 19, {fast} at level 1");
    assert_eq!(bytes(1), fast);
}

#[test]
fn the_longest_frame_of_a_packer_fits() {
    let (small, large) =
        (vec![1; FRAME_BYTES_TARGET - 2 * TABLE_ROW_BYTES], noise(CHUNK_BYTES_MAX));
    let frame = encode(&[(id(1), &small), (id(2), &large)], 1).unwrap();
    assert_eq!(Frame::decode(&frame).unwrap().chunk(&id(2)).unwrap(), large);
}

#[test]
fn what_would_not_be_read_is_not_written() {
    let large = vec![0; CHUNK_BYTES_MAX + 1];
    assert!(matches!(encode(&[(id(1), &large)], 1), Err(Error::Bound { .. })));
    let chunk = &large[..CHUNK_BYTES_MAX];
    assert!(matches!(encode(&[(id(1), chunk), (id(2), chunk)], 1), Err(Error::Bound { .. })));
}

#[test]
fn a_bomb_is_refused_by_what_it_declares() {
    let error = Frame::decode(&opened(&vec![0; 64 << 20], 64 << 20)).unwrap_err();
    assert!(matches!(error, Error::Bound { actual, .. } if actual == 64 << 20), "{error}");
}

#[test]
fn a_bomb_that_lies_about_its_length_is_refused() {
    for declared in [0, 100, FRAME_BYTES_MAX as u32] {
        let error = Frame::decode(&opened(&vec![0; 64 << 20], declared)).unwrap_err();
        assert!(matches!(error, Error::Damaged { .. }), "{error}");
    }
}

#[test]
fn a_plaintext_shorter_than_declared_is_refused() {
    let table = &table(1, &[5], 5)[HEAD_BYTES..];
    assert!(Frame::decode(&opened(table, table.len() as u32)).is_ok());
    assert!(Frame::decode(&opened(table, table.len() as u32 + 1)).is_err());
}

#[test]
fn nothing_follows_the_zstd_frame() {
    let table = &table(1, &[5], 5)[HEAD_BYTES..];
    let frame = opened(table, table.len() as u32);
    assert!(Frame::decode(&frame).is_ok());
    let empty_zstd_frame = zstd::bulk::compress(b"", 1).unwrap();
    assert!(Frame::decode(&[&frame[..], &empty_zstd_frame].concat()).is_err());
    assert!(Frame::decode(&[&frame[..], &[0]].concat()).is_err());
}

/// A stored frame with this count, these lengths in its table, and `bytes` behind it.
fn table(count: u32, lengths: &[u32], bytes: usize) -> Vec<u8> {
    let mut plaintext = count.to_le_bytes().to_vec();
    for length in lengths {
        plaintext.extend_from_slice(&[0; 32]);
        plaintext.extend_from_slice(&length.to_le_bytes());
    }
    plaintext.resize(plaintext.len() + bytes, 1);
    [&[STORED][..], &(plaintext.len() as u32).to_le_bytes(), &plaintext].concat()
}

#[test]
fn tables_that_do_not_add_up_are_refused() {
    assert!(Frame::decode(&table(2, &[3, 4], 7)).is_ok());
    for (what, frame) in [
        ("bytes too many", table(2, &[3, 4], 8)),
        ("bytes too few", table(2, &[3, 4], 6)),
        ("a row too many", table(3, &[3, 4], 7)),
        ("a count beyond the frame", table(u32::MAX, &[3, 4], 7)),
        ("a length beyond the frame", table(2, &[3, u32::MAX], 7)),
        (
            "a chunk that is too long",
            table(1, &[(CHUNK_BYTES_MAX + 1) as u32], CHUNK_BYTES_MAX + 1),
        ),
    ] {
        assert!(matches!(Frame::decode(&frame), Err(Error::Damaged { .. })), "{what}");
    }
}

#[test]
fn an_unknown_codec_is_refused() {
    let mut frame = table(1, &[1], 1);
    frame[0] = 2;
    assert!(Frame::decode(&frame).is_err());
}

proptest! {
    #[test]
    fn frames_round_trip(
        chunks in prop::collection::vec((any::<[u8; 32]>(), prop::collection::vec(0..4u8, 0..3000)), 0..20),
        level in 1..6,
    ) {
        let chunks: Vec<_> = chunks.iter().map(|(id, b)| (ChunkId(*id), b.as_slice())).collect();
        let frame = Frame::decode(&encode(&chunks, level).unwrap()).unwrap();
        let read: Vec<_> = frame.chunks.iter().map(|(id, r)| (*id, &frame.bytes[r.clone()])).collect();
        prop_assert_eq!(read, chunks);
    }

    #[test]
    fn a_broken_zstd_frame_gives_no_more_than_it_declares(damage in damage(), zeros in 0..100_000usize) {
        let valid = table(1, &[zeros as u32], zeros)[HEAD_BYTES..].to_vec();
        let bytes = valid.len();
        if let Some(payload) = damage.apply(&opened(&valid, 0)[HEAD_BYTES..])
            && let Ok(plaintext) = inflate(Vec::new(), "frame", &payload, bytes)
        {
            prop_assert!(plaintext.capacity() == bytes);
        }
    }

    #[test]
    fn any_bytes_may_come_as_a_frame(codec in 0..3u8, bytes in 0..200u32, payload: Vec<u8>) {
        let _ = Frame::decode(&payload);
        let _ = Frame::decode(&[&[codec][..], &bytes.to_le_bytes(), &payload].concat());
        let _ = Frame::decode(&opened(&payload, payload.len() as u32));
    }
}

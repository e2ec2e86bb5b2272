use proptest::prelude::*;

use super::*;
use crate::frame::Frame;
use crate::seal::tests::damage;

const VAULT: VaultId = VaultId([7; 16]);

fn key() -> PackKey {
    PackKey::new([1; 32])
}

fn id(number: u32) -> ChunkId {
    ChunkId(*blake3::hash(&number.to_le_bytes()).as_bytes())
}

/// A pack with a frame for each list of chunk lengths.
fn pack(frames: &[(FrameKind, Vec<u32>)]) -> Pack {
    let mut builder = PackBuilder::new(VAULT, key(), vec![9; 100]);
    let mut next = 0;
    for (kind, lengths) in frames {
        let bodies: Vec<(ChunkId, Vec<u8>)> = lengths
            .iter()
            .map(|&bytes| {
                next += 1;
                (id(next), vec![next as u8; bytes as usize])
            })
            .collect();
        let chunks: Vec<_> = bodies.iter().map(|(id, bytes)| (*id, bytes.as_slice())).collect();
        let rows: Vec<_> = bodies.iter().map(|(id, bytes)| (*id, bytes.len() as u32)).collect();
        builder.append(*kind, frame::encode(&chunks, 1).unwrap(), &rows).unwrap();
    }
    let (bytes, most) = (builder.bytes(), 48 + 12 * frames.len() as u64 + 36 * u64::from(next));
    let pack = builder.finish().unwrap();
    assert!(pack.bytes.len() as u64 <= bytes, "{} bytes, not {bytes}", pack.bytes.len());
    assert!(pack.bytes.len() as u64 + most >= bytes);
    pack
}

fn sample() -> Pack {
    pack(&[(FrameKind::Data, vec![10, 2000]), (FrameKind::Metadata, vec![300])])
}

/// Seals `columns` as the directory of a pack with one frame of 100 bytes.
fn with_directory(columns: &Columns) -> Vec<u8> {
    let mut plaintext = Vec::new();
    ciborium::into_writer(columns, &mut plaintext).unwrap();
    let mut sealed = frame::compress(&plaintext, LEVEL);
    key().seal(VAULT, FrameKind::Directory, 1, &mut sealed);
    let directory_bytes = sealed.len() as u32;
    let footer = Footer { directory_offset: 100, directory_bytes, frame_count: 1 };
    [&[0; 100][..], &sealed, &footer.encode()].concat()
}

#[test]
fn the_end_of_a_pack_has_its_directory() {
    let Pack { bytes, frames, .. } = sample();
    let pack_bytes = bytes.len() as u64;
    let range = Directory::range(pack_bytes, &bytes[bytes.len() - PACK_FOOTER_BYTES..]).unwrap();
    assert_eq!(range.start, u64::from(frames[1].1));
    assert_eq!(range.end, pack_bytes - PACK_FOOTER_BYTES as u64);
    let whole = Directory::open(VAULT, &key(), &bytes).unwrap();
    let open = |from: usize| Directory::open_tail(VAULT, &key(), pack_bytes, &bytes[from..]);
    let start = range.start as usize;
    for from in [0, start - 1, start] {
        assert_eq!(open(from).unwrap(), whole);
    }
    for from in [start + 1, bytes.len() - PACK_FOOTER_BYTES, bytes.len()] {
        assert!(open(from).is_err());
    }
    assert!(Directory::open_tail(VAULT, &key(), pack_bytes + 1, &bytes).is_err());
    assert!(Directory::range(pack_bytes - 1, &bytes).is_err());
}

#[test]
fn a_pack_says_what_it_holds() {
    let pack = sample();
    let directory = Directory::open(VAULT, &key(), &pack.bytes).unwrap();
    assert_eq!(directory.frames, pack.frames);
    let rows: Vec<_> = directory.chunks.iter().map(|r| (r.chunk, r.frame, r.bytes)).collect();
    assert_eq!(rows, [(id(1), 0, 10), (id(2), 0, 2000), (id(3), 1, 300)]);
    assert_eq!(pack.chunks, [(id(1), 0), (id(2), 0), (id(3), 1)]);
}

#[test]
fn chunks_are_read_through_the_directory() {
    let pack = sample();
    let directory = Directory::open(VAULT, &key(), &pack.bytes).unwrap();
    let mut sealed = pack.bytes[directory.frame_range(1).unwrap()].to_vec();
    let opened = key().open(VAULT, FrameKind::Metadata, 1, &mut sealed).unwrap();
    assert_eq!(Frame::decode(opened).unwrap().chunk(&id(3)).unwrap(), [3; 300]);
    assert_eq!(directory.frame_range(0).unwrap().start, 0);
    assert_eq!(directory.frame_range(0).unwrap().end, directory.frame_range(1).unwrap().start);
    assert_eq!(directory.frame_range(2), None);
}

#[test]
fn the_directory_opens_only_with_its_vault_and_key() {
    let pack = sample().bytes;
    assert!(Directory::open(VaultId([8; 16]), &key(), &pack).is_err());
    assert!(Directory::open(VAULT, &PackKey::new([2; 32]), &pack).is_err());
}

#[test]
fn the_bytes_of_a_pack_stay_what_they_are() {
    let record = seal_record(VAULT, key(), b"a record").unwrap();
    assert_eq!(
        blake3::hash(&record.bytes).to_hex().as_str(),
        "9b19b5c3e95a17dd8d07fe84db3b814fe081aa7ae45ecf9c8989f02b64a32ed1"
    );
}

#[test]
fn a_buffer_keeps_its_capacity() {
    let builder = PackBuilder::new(VAULT, key(), Vec::with_capacity(1 << 20));
    assert!(builder.is_empty());
    assert!(builder.finish().unwrap().bytes.capacity() >= 1 << 20);
}

#[test]
fn a_directory_is_not_appended() {
    let mut builder = PackBuilder::new(VAULT, key(), Vec::new());
    assert!(builder.append(FrameKind::Directory, vec![0; 10], &[]).is_err());
    assert!(builder.is_empty());
}

#[test]
fn a_pack_takes_no_more_chunks_than_a_reader() {
    let mut builder = PackBuilder::new(VAULT, key(), Vec::new());
    let rows = vec![(id(1), 1); PACK_CHUNKS_MAX];
    builder.append(FrameKind::Data, vec![0; 10], &rows).unwrap();
    let before = builder.bytes();
    let error = builder.append(FrameKind::Data, vec![0; 10], &rows[..1]).unwrap_err();
    assert!(matches!(error, Error::Bound { .. }), "{error}");
    assert_eq!(builder.bytes(), before);
    let pack = builder.finish().unwrap();
    let directory = Directory::open(VAULT, &key(), &pack.bytes).unwrap();
    assert_eq!(directory.chunks.len(), PACK_CHUNKS_MAX);
}

#[test]
fn directories_that_contradict_themselves_are_refused() {
    let columns = |frames: &[(u8, u32, u32)], ids: usize, lengths: &[u32]| {
        let lengths: Vec<u8> = lengths.iter().flat_map(|bytes| bytes.to_le_bytes()).collect();
        let (ids, lengths) = (ByteBuf::from(vec![5; ids]), ByteBuf::from(lengths));
        with_directory(&Columns { frames: frames.to_vec(), ids, lengths })
    };
    let opened = Directory::open(VAULT, &key(), &columns(&[(0, 100, 2)], 64, &[1, 2])).unwrap();
    assert_eq!(opened.chunks.len(), 2);
    for (what, pack) in [
        ("an unknown kind", columns(&[(4, 100, 2)], 64, &[1, 2])),
        ("a directory within", columns(&[(2, 100, 2)], 64, &[1, 2])),
        ("an end before the directory", columns(&[(0, 99, 2)], 64, &[1, 2])),
        ("an end behind the directory", columns(&[(0, 101, 2)], 64, &[1, 2])),
        ("a frame too many", columns(&[(0, 50, 1), (0, 100, 1)], 64, &[1, 2])),
        ("no frame", columns(&[], 0, &[])),
        ("an empty frame", columns(&[(0, 16, 2)], 64, &[1, 2])),
        ("an id too few", columns(&[(0, 100, 2)], 32, &[1, 2])),
        ("half an id", columns(&[(0, 100, 2)], 65, &[1, 2])),
        ("a length too few", columns(&[(0, 100, 2)], 64, &[1])),
        ("a chunk too few", columns(&[(0, 100, 3)], 64, &[1, 2])),
        ("more chunks than there can be", columns(&[(0, 100, u32::MAX)], 64, &[1, 2])),
        ("a chunk that is too long", columns(&[(0, 100, 2)], 64, &[1, u32::MAX])),
    ] {
        assert!(Directory::open(VAULT, &key(), &pack).is_err(), "{what}");
    }
}

#[test]
fn a_directory_is_bounded_while_it_is_read() {
    let columns = |frames: usize| {
        let frames = vec![(0, 100, 0); frames];
        let columns = Columns { frames, ids: ByteBuf::new(), lengths: ByteBuf::new() };
        let mut plaintext = Vec::new();
        ciborium::into_writer(&columns, &mut plaintext).unwrap();
        plaintext
    };
    let footer = Footer { directory_offset: 100, directory_bytes: 50, frame_count: 1 };
    let refusal = |plaintext: &[u8]| Directory::decode(plaintext, &footer).unwrap_err().to_string();
    assert!(refusal(&columns(PACK_CHUNKS_MAX + 1)).contains("at most 1048576 items"));
    let many = Footer { frame_count: PACK_CHUNKS_MAX as u32 + 1, ..footer };
    let error = Footer::decode(182, &many.encode()).unwrap_err();
    assert!(matches!(error, Error::Bound { .. }), "{error}");

    // A field that is not known, so deep.
    let nested = |depth: usize| {
        let mut plaintext = columns(1);
        assert_eq!(plaintext[0], 0xa3, "a map of three");
        plaintext[0] = 0xa4;
        plaintext.extend_from_slice(b"\x61x");
        plaintext.extend(vec![0x81; depth]);
        plaintext.push(0);
        plaintext
    };
    assert!(Directory::decode(&nested(10), &footer).is_ok());
    assert!(refusal(&nested(20)).contains("RecursionLimitExceeded"));
}

#[test]
fn frames_in_another_order_are_refused() {
    let columns = |frames: &[(u8, u32, u32)]| Columns {
        frames: frames.to_vec(),
        ids: ByteBuf::new(),
        lengths: ByteBuf::new(),
    };
    let footer = Footer { directory_offset: 100, directory_bytes: 50, frame_count: 2 };
    assert!(columns(&[(0, 50, 0), (1, 100, 0)]).read_frames(&footer).is_ok());
    assert!(columns(&[(0, 100, 0), (1, 50, 0)]).read_frames(&footer).is_err());
    assert!(columns(&[(0, 100, 0), (1, 100, 0)]).read_frames(&footer).is_err());
}

#[test]
fn a_record_is_a_pack_of_its_own_kind() {
    let pack = seal_record(VAULT, key(), b"a record").unwrap();
    assert_eq!(open_record(VAULT, &key(), &pack.bytes).unwrap(), b"a record");
    assert_eq!((pack.frames.len(), pack.chunks.len()), (1, 0));
    assert!(open_record(VAULT, &key(), &sample().bytes).is_err());
    assert!(open_record(VaultId([8; 16]), &key(), &pack.bytes).is_err());
    assert!(open_record(VAULT, &PackKey::new([2; 32]), &pack.bytes).is_err());
}

#[test]
fn a_record_that_would_not_be_read_is_not_written() {
    let record = vec![0; RECORD_BYTES_MAX + 1];
    assert!(matches!(seal_record(VAULT, key(), &record), Err(Error::Bound { .. })));
    let pack = seal_record(VAULT, key(), &record[1..]).unwrap();
    assert_eq!(open_record(VAULT, &key(), &pack.bytes).unwrap(), &record[1..]);
}

fn kinds() -> impl Strategy<Value = FrameKind> {
    prop_oneof![Just(FrameKind::Data), Just(FrameKind::Metadata)]
}

#[test]
fn records_come_out_of_a_pack_in_order_and_one_alone_is_read_as_one() {
    let mut builder = PackBuilder::new(VAULT, key(), Vec::new());
    let long = vec![0; 3 << 20];
    let records: [&[u8]; 3] = [b"first", &long, b""];
    records.iter().for_each(|record| builder.append_record(record).unwrap());
    let pack = builder.finish().unwrap();
    assert!(pack.chunks.is_empty() && pack.frames.len() == 3);
    let opened = |pack: &[u8]| -> Result<Vec<Vec<u8>>> {
        let mut out = Vec::new();
        open_records(VAULT, &key(), pack, |record| {
            out.push(record);
            Ok(())
        })?;
        Ok(out)
    };
    assert_eq!(opened(&pack.bytes).unwrap(), records);
    assert!(open_record(VAULT, &key(), &pack.bytes).is_err());
    assert!(opened(&sample().bytes).is_err(), "frames of data");
    let mut damaged = pack.bytes;
    damaged[2] ^= 1;
    assert!(opened(&damaged).is_err());
}

proptest! {
    #[test]
    fn packs_round_trip(
        frames in prop::collection::vec((kinds(), prop::collection::vec(0..5000u32, 0..8)), 0..8),
    ) {
        let pack = pack(&frames);
        let directory = Directory::open(VAULT, &key(), &pack.bytes).unwrap();
        prop_assert_eq!(&directory.frames, &pack.frames);
        let mut lengths: Vec<Vec<u32>> = vec![Vec::new(); frames.len()];
        directory.chunks.iter().for_each(|row| lengths[row.frame as usize].push(row.bytes));
        let written: Vec<_> = frames.iter().map(|(_, lengths)| lengths.clone()).collect();
        prop_assert_eq!(lengths, written);
        let chunks: Vec<_> = directory.chunks.iter().map(|row| (row.chunk, row.frame)).collect();
        prop_assert_eq!(chunks, pack.chunks);
    }

    #[test]
    fn damage_to_directory_or_footer_is_noticed(damage in damage()) {
        let pack = sample();
        let start = pack.frames[1].1 as usize;
        if let Some(bytes) = damage.apply(&pack.bytes[start..]) {
            let bytes = [&pack.bytes[..start], &bytes].concat();
            prop_assert!(Directory::open(VAULT, &key(), &bytes).is_err());
        }
    }

    #[test]
    fn damage_to_a_record_is_noticed(damage in damage()) {
        let pack = seal_record(VAULT, key(), b"a record").unwrap();
        if let Some(bytes) = damage.apply(&pack.bytes) {
            prop_assert!(open_record(VAULT, &key(), &bytes).is_err());
        }
    }

    #[test]
    fn a_longer_pack_is_noticed(more in prop::collection::vec(any::<u8>(), 1..100)) {
        let bytes = [sample().bytes, more].concat();
        prop_assert!(Directory::open(VAULT, &key(), &bytes).is_err());
    }

    #[test]
    fn any_bytes_may_come_as_a_pack(bytes: Vec<u8>, fields: [u32; 3]) {
        let [directory_offset, directory_bytes, frame_count] = fields;
        let footer = Footer { directory_offset, directory_bytes, frame_count }.encode();
        let _ = open_record(VAULT, &key(), &bytes);
        let _ = open_record(VAULT, &key(), &[&bytes[..], &footer].concat());
    }

    #[test]
    fn any_bytes_may_come_as_a_directory(plaintext: Vec<u8>) {
        let footer = Footer { directory_offset: 0, directory_bytes: 0, frame_count: 0 };
        let _ = Directory::decode(&plaintext, &footer);
    }
}

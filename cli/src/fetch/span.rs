//! Which bytes of a pack, and of which data shards, hold some frames. Pure.

use std::ops::Range;

use codec::frame::FRAME_BYTES_MAX;
use server::wire::StripeMap;

use super::{FetchError, Result};

/// Frames further apart than this are not read in one go.
const GAP_BYTES_MAX: u64 = 64 * 1024;
/// A span is closed when it has this many bytes.
pub(super) const SPAN_BYTES_TARGET: u64 = 4 * 1024 * 1024;

/// No sealed frame is longer: its plaintext, stored, with a little around it.
const SEALED_BYTES_MAX: u64 = FRAME_BYTES_MAX as u64 + 64;

/// A run of a pack's bytes with the frames wanted from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Span {
    /// Bytes of the pack.
    pub(super) pack: Range<u64>,
    /// Number and bytes of each frame in it.
    pub(super) frames: Vec<(u32, Range<u64>)>,
}

/// A part of one data shard's body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Piece {
    /// Index of the shard.
    pub(super) index: u8,
    /// Bytes of its body.
    pub(super) body: Range<u64>,
}

/// Bytes of each shard body of `map`.
pub(super) fn shard_bytes(map: &StripeMap) -> u64 {
    map.geometry.shard_bytes(map.pack_bytes)
}

/// The spans that hold `frames` (ascending) of `map`.
pub(super) fn coalesce(map: &StripeMap, frames: &[u32]) -> Result<Vec<Span>> {
    let mut spans: Vec<Span> = Vec::new();
    for &number in frames {
        let range = frame_range(map, number)?;
        match spans.last_mut() {
            Some(span)
                if range.start.saturating_sub(span.pack.end) <= GAP_BYTES_MAX
                    && span.pack.end - span.pack.start < SPAN_BYTES_TARGET =>
            {
                span.pack.end = range.end;
                span.frames.push((number, range));
            }
            _ => spans.push(Span { pack: range.clone(), frames: vec![(number, range)] }),
        }
    }
    Ok(spans)
}

fn frame_range(map: &StripeMap, number: u32) -> Result<Range<u64>> {
    let end = |n: usize| map.frames.get(n).map(|&(_, end)| u64::from(end));
    let n = number as usize;
    let start = if n == 0 { Some(0) } else { end(n - 1) };
    match (start, end(n)) {
        (Some(start), Some(end))
            if start < end && end <= map.pack_bytes && end - start <= SEALED_BYTES_MAX =>
        {
            Ok(start..end)
        }
        _ => Err(FetchError::Lost(format!("stripe {:.8} has no frame {number}", map.stripe))),
    }
}

/// Whether so much of the pack is wanted at once that the rest will be. A pull wants 24 MiB of
/// plaintext at a time, which is less than half of a pack of 24 MiB, and a tenth of it where files
/// compress well: of a stripe that is read in parts, the shards that stand in for a missing one are
/// read twice.
pub(super) fn are_many(map: &StripeMap, spans: &[Span]) -> bool {
    let frames = spans.iter().flat_map(|span| &span.frames);
    let wanted: u64 = frames.map(|(_, range)| range.end - range.start).sum();
    wanted >= map.pack_bytes.div_ceil(10)
}

impl Span {
    /// The parts of data shards that make up the span, in order.
    pub(super) fn pieces(&self, map: &StripeMap) -> Vec<Piece> {
        let len = shard_bytes(map);
        let mut pieces = Vec::new();
        let mut at = self.pack.start;
        while at < self.pack.end {
            let index = at / len;
            let end = self.pack.end.min((index + 1) * len);
            // n is at most 255, and the span lies inside the pack.
            pieces.push(Piece { index: index as u8, body: at - index * len..end - index * len });
            at = end;
        }
        pieces
    }

    /// Each frame as a span of its own.
    pub(super) fn single_frames(self) -> impl Iterator<Item = Span> {
        self.frames
            .into_iter()
            .map(|(number, range)| Span { pack: range.clone(), frames: vec![(number, range)] })
    }
}

#[cfg(test)]
mod tests {
    use codec::seal::PackKeyField;
    use codec::shard::Kind;
    use codec::{Geometry, StripeId};

    use super::*;

    fn map(frames: &[u32]) -> StripeMap {
        StripeMap {
            stripe: StripeId([1; 32]),
            kind: Kind::Data,
            geometry: Geometry::new(4, 2).unwrap(),
            pack_bytes: 400_000,
            pack_key: PackKeyField(vec![0; 64]),
            frames: frames.iter().map(|&end| (0, end)).collect(),
            shards: vec![],
        }
    }

    #[test]
    fn near_frames_are_read_in_one_go_and_far_ones_are_not() {
        let map = map(&[1_000, 2_000, 90_000, 91_000]);
        let spans = coalesce(&map, &[0, 1, 3]).unwrap();
        assert_eq!(
            spans.iter().map(|s| s.pack.clone()).collect::<Vec<_>>(),
            [0..2_000, 90_000..91_000]
        );
        assert!(coalesce(&map, &[4]).is_err());
    }

    #[test]
    fn frames_that_no_pack_has_are_refused_before_they_are_read() {
        let long = SEALED_BYTES_MAX as u32;
        let map = StripeMap { pack_bytes: u64::from(u32::MAX), ..map(&[long, 2 * long + 1, 9]) };
        assert!(coalesce(&map, &[0]).is_ok());
        assert!(coalesce(&map, &[1]).is_err(), "too long");
        assert!(coalesce(&map, &[2]).is_err(), "it ends before it begins");
        assert!(coalesce(&map, &[3]).is_err());
    }

    #[test]
    fn a_tenth_of_a_pack_is_many_frames_and_gaps_between_them_do_not_count() {
        let map = map(&[20_000, 60_000, 80_000, 120_000, 139_999, 400_000]);
        let are_many = |frames: &[u32]| are_many(&map, &coalesce(&map, frames).unwrap());
        assert!(are_many(&[1]));
        assert!(are_many(&[0, 2]));
        assert!(!are_many(&[0, 4]), "one span over 139,999 bytes, of which 39,999 are wanted");
    }

    #[test]
    fn a_span_over_a_border_is_cut_into_pieces_of_each_shard() {
        let map = map(&[99_000, 301_000]);
        let span = &coalesce(&map, &[1]).unwrap()[0];
        let pieces = span.pieces(&map);
        assert_eq!(pieces.iter().map(|p| p.index).collect::<Vec<_>>(), [0, 1, 2, 3]);
        assert_eq!(pieces.iter().map(|p| p.body.end - p.body.start).sum::<u64>(), 202_000);
    }
}

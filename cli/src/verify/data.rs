//! Reads every stripe's pack, opens every frame and computes every chunk's id.

use std::ops::Range;
use std::sync::Arc;

use codec::frame::Frame;
use codec::pack::{self, Directory, DirectoryRow};
use codec::seal::FrameKind;
use codec::shard::Kind;
use codec::{ChunkId, stripe};
use futures_util::{StreamExt as _, stream};
use server::cpu;
use server::wire::{CHUNKS_PER_REQUEST_MAX, StripeMap};

use super::Verify;
use super::ids::Ids;
use crate::exit::Failure;
use crate::fetch::{FetchError, Want, pack_key};

/// Stripes that are read at once: one's directory while another's frames are opened.
const STRIPES_AT_ONCE: usize = 2;

impl Verify<'_> {
    pub(super) async fn read_data(&mut self, maps: &[Arc<StripeMap>]) -> Result<(), Failure> {
        let verify = &*self;
        let maps = maps.iter().filter(|map| !verify.outcome.lost.contains_key(&map.stripe));
        let read = |map| async move { (map, verify.read_stripe(map).await) };
        let read: Vec<_> =
            stream::iter(maps).map(read).buffer_unordered(STRIPES_AT_ONCE).collect().await;
        for (map, read) in read {
            match read {
                Ok(()) => self.covers(map.stripe).opened = true,
                Err(error) => self.outcome.unread(map.stripe, "its data", error)?,
            }
        }
        Ok(())
    }

    async fn read_stripe(&self, map: &Arc<StripeMap>) -> Result<(), FetchError> {
        if matches!(map.kind, Kind::Snapshot | Kind::Record) {
            return self.read_record(map).await;
        }
        let directory = self.fetcher.directory(map).await?;
        let catalog_agrees = directory.frames.len() == map.frames.len()
            && directory.frames.iter().zip(&map.frames).all(|(a, b)| (a.0 as u8, a.1) == *b);
        if !catalog_agrees {
            let why = "the catalog has other frames than the pack's directory";
            return Err(FetchError::Lost(why.to_owned()));
        }
        if directory.frames.iter().any(|frame| frame.0 == FrameKind::Record) {
            return Err(FetchError::Lost("a frame of a record among those of chunks".to_owned()));
        }
        let directory = Arc::new(directory);
        let mut failed = None;
        for kind in [FrameKind::Data, FrameKind::Metadata] {
            let numbers = (0..).zip(&directory.frames).filter(|(_, frame)| frame.0 == kind);
            let frames: Vec<u32> = numbers.map(|(number, _)| number).collect();
            let ids = Arc::new(Ids::new(self.fetcher.keys().clone()));
            let (checked, rows) = (Arc::clone(&ids), Arc::clone(&directory));
            let each = Arc::new(move |number, frame: &mut Frame| {
                check_frame(&rows, number, frame).and_then(|()| checked.check(frame))
            });
            let want = Want { map: Arc::clone(map), frames };
            let read = self.fetcher.frames(kind, &want, &each).await;
            let rest = cpu::run(move || ids.finish()).await;
            let made = read.made.into_iter().chain([rest]);
            made.collect::<Result<(), String>>().map_err(FetchError::Lost)?;
            failed =
                worst(failed.into_iter().chain(read.failed.into_iter().map(|(_, error)| error)));
        }
        if let Some(error) = failed {
            return Err(error);
        }
        self.look_up(map, &directory.chunks).await
    }

    async fn read_record(&self, map: &Arc<StripeMap>) -> Result<(), FetchError> {
        let bodies = self.fetcher.data_bodies(map).await?;
        let (vault, keys) = (self.fetcher.vault(), self.fetcher.keys().clone());
        let map = Arc::clone(map);
        let opened = cpu::run(move || {
            let bodies: Vec<&[u8]> = bodies.iter().map(Vec::as_slice).collect();
            let bytes = stripe::join(map.geometry, map.pack_bytes, &bodies)?;
            let key = pack_key(&map, &keys, vault)?;
            match map.kind {
                Kind::Snapshot => pack::open_record(vault, &key, &bytes).map(drop),
                _ => pack::open_records(vault, &key, &bytes, |_| Ok(())),
            }
        });
        opened.await.map_err(|error| FetchError::Lost(error.to_string()))
    }

    /// A pull goes by the catalog's rows, not by the directory.
    async fn look_up(&self, map: &StripeMap, rows: &[DirectoryRow]) -> Result<(), FetchError> {
        for rows in rows.chunks(CHUNKS_PER_REQUEST_MAX) {
            let ids: Vec<ChunkId> = rows.iter().map(|row| row.chunk).collect();
            let places = self.fetcher.locate(&ids).await?;
            let is_listed = |row: &&DirectoryRow| {
                let places = places.get(&row.chunk).map_or(&[][..], Vec::as_slice);
                places.iter().any(|(m, frame)| (m.stripe, *frame) == (map.stripe, row.frame))
            };
            if let Some(row) = rows.iter().find(|row| !is_listed(row)) {
                return Err(FetchError::Lost(format!(
                    "chunk {:.8} is in frame {}, and the catalog says otherwise",
                    row.chunk, row.frame
                )));
            }
        }
        Ok(())
    }
}

/// What to say of a stripe some of whose frames cannot be read: that one is lost stays so whatever
/// the servers say that do not answer now.
fn worst(errors: impl Iterator<Item = FetchError>) -> Option<FetchError> {
    errors.reduce(|worst, error| match (&worst, &error) {
        (FetchError::Lost(_), _) => worst,
        (_, FetchError::Lost(_)) => error,
        _ => worst,
    })
}

/// That a frame has the chunks that its directory says.
fn check_frame(directory: &Directory, number: u32, frame: &Frame) -> Result<(), String> {
    let rows = directory.chunks[rows_of(&directory.chunks, number)].iter();
    match rows.map(|row| row.chunk).eq(frame.chunks.iter().map(|(id, _)| *id)) {
        true => Ok(()),
        false => Err(format!("frame {number} has other chunks than its directory")),
    }
}

/// Which of a directory's rows, which ascend by frame, are of this one.
fn rows_of(rows: &[DirectoryRow], number: u32) -> Range<usize> {
    let start = rows.partition_point(|row| row.frame < number);
    start..start + rows[start..].partition_point(|row| row.frame == number)
}

#[cfg(test)]
mod tests {
    use codec::frame::encode;

    use super::*;

    fn row(chunk: u8, frame: u32) -> DirectoryRow {
        DirectoryRow { chunk: ChunkId([chunk; 32]), frame, bytes: 1 }
    }

    #[test]
    fn a_stripe_is_lost_where_one_frame_is_lost_and_servers_are_away_for_others() {
        let lost = || FetchError::Lost("lost".to_owned());
        let away = || FetchError::TooFewServers("away".to_owned());
        for errors in [vec![away(), lost(), away()], vec![lost(), away()], vec![away(), lost()]] {
            assert!(matches!(worst(errors.into_iter()), Some(FetchError::Lost(_))));
        }
        let errors = vec![away(), away()];
        assert!(matches!(worst(errors.into_iter()), Some(FetchError::TooFewServers(_))));
        assert!(worst(std::iter::empty()).is_none());
    }

    #[test]
    fn a_frame_has_the_chunks_of_its_directory() {
        let frame = |chunks: &[(u8, &[u8])]| {
            let chunks: Vec<_> = chunks.iter().map(|(id, b)| (ChunkId([*id; 32]), *b)).collect();
            Frame::decode(&encode(&chunks, 1).unwrap()).unwrap()
        };
        let chunks = vec![row(1, 0), row(2, 0), row(3, 1), row(4, 3)];
        let directory = Directory { frames: Vec::new(), chunks };
        let check = |number, frame: &Frame| check_frame(&directory, number, frame);
        assert_eq!(check(0, &frame(&[(1, &[1]), (2, &[2])])), Ok(()));
        assert_eq!(check(1, &frame(&[(3, &[3])])), Ok(()));
        assert_eq!(check(2, &frame(&[])), Ok(()));
        assert!(check(1, &frame(&[(4, &[4])])).unwrap_err().contains("other chunks"));
        assert!(check(0, &frame(&[(1, &[1])])).unwrap_err().contains("other chunks"));
    }
}

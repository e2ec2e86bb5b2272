//! Reads k shards of each stripe, decodes, opens every frame and computes every chunk's id.

use std::sync::Arc;

use codec::keys::VaultKeys;
use codec::pack::{self, Directory, DirectoryRow};
use codec::shard::Kind;
use codec::{ChunkId, Error, VaultId, frame, stripe};
use rayon::prelude::*;
use server::cpu;
use server::wire::StripeMap;

use super::Verify;
use crate::exit::Failure;
use crate::fetch::{FetchError, pack_key};

impl Verify<'_> {
    pub(super) async fn read_data(&mut self, maps: &[Arc<StripeMap>]) -> Result<(), Failure> {
        // Whole stripes are in memory: one at a time.
        for map in maps {
            if self.outcome.lost.contains_key(&map.stripe) {
                continue;
            }
            match self.read_stripe(map).await {
                Ok(()) => self.covers(map.stripe).opened = true,
                Err(error) => self.outcome.unread(map.stripe, "its data", error)?,
            }
        }
        Ok(())
    }

    async fn read_stripe(&self, map: &Arc<StripeMap>) -> Result<(), FetchError> {
        let bodies = self.fetcher.data_bodies(map).await?;
        let (vault, keys, map) =
            (self.fetcher.vault(), self.fetcher.keys().clone(), Arc::clone(map));
        let stripe = map.stripe;
        let rows = cpu::run(move || open_all(vault, &keys, &map, &bodies))
            .await
            .map_err(|error| FetchError::Lost(error.to_string()))?;
        // A pull goes by the catalog's rows, not by the directory.
        let ids: Vec<ChunkId> = rows.iter().map(|row| row.chunk).collect();
        let places = self.fetcher.locate(&ids).await?;
        let is_listed = |row: &&DirectoryRow| {
            let places = places.get(&row.chunk).map_or(&[][..], Vec::as_slice);
            places.iter().any(|(map, frame)| (map.stripe, *frame) == (stripe, row.frame))
        };
        match rows.iter().find(|row| !is_listed(row)) {
            None => Ok(()),
            Some(row) => Err(FetchError::Lost(format!(
                "chunk {:.8} is in frame {}, and the catalog says otherwise",
                row.chunk, row.frame
            ))),
        }
    }
}

/// Opens a whole pack: its records, or its directory and every frame, with every chunk's id. Where
/// each chunk is.
fn open_all(
    vault: VaultId,
    keys: &VaultKeys,
    map: &StripeMap,
    bodies: &[Vec<u8>],
) -> codec::Result<Vec<DirectoryRow>> {
    let bodies: Vec<&[u8]> = bodies.iter().map(Vec::as_slice).collect();
    let bytes = stripe::join(map.geometry, map.pack_bytes, &bodies)?;
    let key = pack_key(map, keys, vault)?;
    match map.kind {
        Kind::Snapshot => return pack::open_record(vault, &key, &bytes).map(|_| Vec::new()),
        Kind::Record => {
            return pack::open_records(vault, &key, &bytes, |_| Ok(())).map(|()| Vec::new());
        }
        Kind::Data | Kind::Metadata => {}
    }
    let directory = Directory::open(vault, &key, &bytes)?;
    let catalog_agrees = directory.frames.len() == map.frames.len()
        && directory.frames.iter().zip(&map.frames).all(|(a, b)| (a.0 as u8, a.1) == *b);
    if !catalog_agrees {
        return Err(Error::damaged(
            "stripe",
            "the catalog has other frames than the pack's directory",
        ));
    }
    (0..directory.frames.len() as u32).into_par_iter().try_for_each(|number| {
        let range = directory
            .frame_range(number)
            .ok_or_else(|| Error::damaged("pack", "a frame without a place"))?;
        let mut sealed = bytes[range].to_vec();
        let kind = directory.frames[number as usize].0;
        let frame = frame::Frame::decode(key.open(vault, kind, number, &mut sealed)?)?;
        let rows = directory.chunks.iter().filter(|row| row.frame == number);
        if !rows.map(|row| row.chunk).eq(frame.chunks.iter().map(|(id, _)| *id)) {
            return Err(Error::damaged(
                "pack",
                format!("frame {number} has other chunks than its directory"),
            ));
        }
        for (id, range) in &frame.chunks {
            if keys.chunk_id(&frame.bytes[range.clone()]) != *id {
                return Err(Error::damaged(
                    "pack",
                    format!("chunk {id:.8} has other bytes than its id"),
                ));
            }
        }
        Ok(())
    })?;
    Ok(directory.chunks)
}

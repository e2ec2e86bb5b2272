//! How rows of the catalog become the types of the wire.

use codec::seal::PackKeyField;
use codec::shard::Kind;
use codec::{Digest, Geometry, StripeId};
use rusqlite::{Connection, OptionalExtension as _, Row, params};

use crate::wire::{Found, FrameEnd, Holder, ServerId, SnapshotRow, StripeMap};
use crate::{Error, Result};

/// Bytes of one frame in a stripe's `frames`.
const FRAME_ROW_BYTES: usize = 5;

/// The frames as the catalog keeps them.
pub(super) fn encode_frames(frames: &[FrameEnd]) -> Vec<u8> {
    let bytes = |&(kind, end): &FrameEnd| {
        let [a, b, c, d] = end.to_le_bytes();
        [kind, a, b, c, d]
    };
    frames.iter().flat_map(bytes).collect()
}

/// The frames that [`encode_frames`] wrote.
pub(super) fn decode_frames(bytes: &[u8]) -> Vec<FrameEnd> {
    let (rows, _) = bytes.as_chunks::<FRAME_ROW_BYTES>();
    rows.iter().map(|&[kind, a, b, c, d]| (kind, u32::from_le_bytes([a, b, c, d]))).collect()
}

/// The inner key of a stripe.
pub(super) fn stripe_key(db: &Connection, stripe: StripeId) -> Result<Option<i64>> {
    let sql = "SELECT key FROM stripes WHERE id = ?1";
    Ok(db.prepare_cached(sql)?.query_row([stripe.0], |r| r.get(0)).optional()?)
}

/// The map of the stripe with this key.
pub(super) fn stripe_map(db: &Connection, key: i64) -> Result<StripeMap> {
    let mut stripes = db.prepare_cached(
        "SELECT id, kind, k, m, pack_bytes, pack_key, frames FROM stripes WHERE key = ?1",
    )?;
    let mut map = stripes.query_row([key], |r| {
        Ok(StripeMap {
            stripe: StripeId(r.get(0)?),
            kind: kind_of(r.get(1)?),
            geometry: geometry_at(r, 2)?,
            pack_bytes: r.get(4)?,
            pack_key: PackKeyField(r.get(5)?),
            frames: decode_frames(r.get_ref(6)?.as_blob()?),
            shards: Vec::new(),
        })
    })?;
    map.shards = holders(db, key)?;
    Ok(map)
}

/// The shards of the stripe with this key, by index.
pub(super) fn holders(db: &Connection, key: i64) -> Result<Vec<Holder>> {
    let mut shards = db.prepare_cached(
        "SELECT idx, server, state <> 'good' FROM shards WHERE stripe = ?1 ORDER BY idx, server",
    )?;
    let shards = shards.query_map([key], |r| {
        Ok(Holder { index: r.get(0)?, server: ServerId(r.get(1)?), bad: r.get(2)? })
    })?;
    Ok(shards.collect::<Result<_, _>>()?)
}

/// Notes what was found where the catalog has a shard; gives how many rows that changed.
pub(super) fn note_found(
    db: &Connection,
    key: i64,
    index: u8,
    server: ServerId,
    found: &Found,
) -> Result<usize> {
    let state = match found {
        Found::Good => "good",
        Found::Missing => "missing",
        Found::Damaged(_) => "damaged",
    };
    let sql = "UPDATE shards SET state = ?4, read_ms = iif(?4 = 'good', read_ms, NULL)
               WHERE stripe = ?1 AND server = ?2 AND idx = ?3 AND state <> ?4";
    Ok(db.prepare_cached(sql)?.execute(params![key, server.0, index, state])?)
}

/// How many different shards of a stripe are good, on servers that are not lost.
const GOOD: &str = "(SELECT count(DISTINCT idx) FROM shards
                     WHERE stripe = key AND state = 'good'
                       AND server NOT IN (SELECT id FROM servers WHERE lost))";

/// Keeps the stripe with this key true to its shards, of which some were changed.
pub(super) fn shards_changed(db: &Connection, key: i64) -> Result<()> {
    let sql = format!(
        "UPDATE stripes SET version = version + 1, good = {GOOD},
             surplus = (SELECT count(*) - count(DISTINCT idx) FROM shards WHERE stripe = key)
         WHERE key = ?1"
    );
    db.prepare_cached(&sql)?.execute([key])?;
    Ok(())
}

/// Keeps the stripes with shards on `server` true to whether it is lost, which was changed. Their
/// versions stay: no shard changed, and a repair under way is as right as before.
pub(super) fn lost_changed(db: &Connection, server: ServerId) -> Result<()> {
    let sql = format!(
        "UPDATE stripes SET good = {GOOD}
         WHERE key IN (SELECT stripe FROM shards WHERE server = ?1) AND good <> {GOOD}"
    );
    db.prepare_cached(&sql)?.execute([server.0])?;
    Ok(())
}

/// The snapshot whose record is in the stripe with this key, if that is one and is kept.
pub(super) fn kept_snapshot(db: &Connection, key: i64) -> Result<Option<SnapshotRow>> {
    let mut snapshots = db.prepare_cached(
        "SELECT sequence, received_ms, source_set FROM snapshots
         WHERE stripe = ?1 AND state = 'kept'",
    )?;
    let row = snapshots.query_row([key], |r| Ok((r.get(0)?, r.get(1)?, Digest(r.get(2)?))));
    let Some((sequence, received_ms, source_set)) = row.optional()? else { return Ok(None) };
    let stripe = stripe_map(db, key)?;
    Ok(Some(SnapshotRow { id: stripe.stripe, sequence, received_ms, source_set, stripe }))
}

/// k and m from two columns; what stands there was checked when it came in.
pub(super) fn geometry_at(row: &Row, column: usize) -> rusqlite::Result<Geometry> {
    Geometry::new(row.get(column)?, row.get(column + 1)?).map_err(|e| {
        let integer = rusqlite::types::Type::Integer;
        rusqlite::Error::FromSqlConversionFailure(column, integer, Box::new(e))
    })
}

fn kind_of(number: u8) -> Kind {
    match number {
        0 => Kind::Data,
        1 => Kind::Metadata,
        2 => Kind::Snapshot,
        _ => Kind::Record,
    }
}

/// Collects what a query of one column gives.
pub(super) fn column<T: rusqlite::types::FromSql>(
    db: &Connection,
    sql: &str,
    params: impl rusqlite::Params,
) -> Result<Vec<T>> {
    let mut rows = db.prepare_cached(sql)?;
    let rows = rows.query_map(params, |r| r.get(0))?;
    rows.collect::<Result<_, _>>().map_err(Error::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_survive_the_catalog() {
        let frames = vec![(0, 1), (1, 70_000), (3, u32::MAX)];
        assert_eq!(decode_frames(&encode_frames(&frames)), frames);
    }

    #[test]
    fn kinds_survive_the_catalog() {
        for kind in [Kind::Data, Kind::Metadata, Kind::Snapshot, Kind::Record] {
            assert_eq!(kind_of(kind as u8), kind);
        }
    }
}

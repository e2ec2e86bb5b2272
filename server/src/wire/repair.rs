//! What the coordinator asks of the server that rebuilds a stripe's missing shards.

use std::collections::BTreeSet;

use codec::seal::PACK_KEY_FIELD_BYTES_MAX;
use codec::shard::{FOOTER_BYTES, Header, PACK_BYTES_MAX};
use codec::{Geometry, StripeId};
use serde::{Deserialize, Serialize};

use super::{Found, Place, ReadTicket, Receipt, ServerId};

/// `POST /v1/rebuild` of a storage server, with a control ticket: make the shards of `places`
/// again from any k of `sources`, keep the one whose place is this server, PUT the others. It goes
/// at the server's pace, unless [`super::WORK_HEADER`] says that it is urgent.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RebuildRequest {
    /// The stripe.
    pub stripe: StripeId,
    /// Its code.
    pub geometry: Geometry,
    /// Bytes of the pack.
    pub pack_bytes: u64,
    /// Bytes of the pack key field: with these three the length of the header is known.
    pub pack_key_bytes: u16,
    /// The epoch of all tickets, that of the order itself included.
    pub epoch: u64,
    /// Where shards of the stripe are, each index once; damaged ones too: what is whole of them is
    /// used. This server may be among them: it reads its own disk.
    pub sources: Vec<Source>,
    /// Where the missing shards shall be: each index and each server once. The ticket of this
    /// server's own place is not looked at, the order's is enough.
    pub places: Vec<Place>,
}

/// A shard that a rebuild may read.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Source {
    /// Index of the shard.
    pub index: u8,
    /// The server that holds it, with a ticket for reading that lasts as long as the rebuild may.
    pub at: ReadTicket,
}

impl RebuildRequest {
    /// Bytes of each shard's header.
    pub fn header_bytes(&self) -> u64 {
        let shard_bytes = self.geometry.shard_bytes(self.pack_bytes);
        Header::encoded_bytes(self.geometry, self.pack_key_bytes.into(), shard_bytes)
    }

    /// Bytes of each shard file.
    pub fn file_bytes(&self) -> u64 {
        file_bytes(self.geometry, self.pack_bytes, self.pack_key_bytes.into())
    }

    /// Why it cannot be followed, if a field is out of its bounds or does not fit the others.
    pub fn check(&self) -> Result<(), String> {
        let n = self.geometry.shards();
        let each_once = |what: &str, indexes: Vec<u8>| {
            let mut known = BTreeSet::new();
            match indexes.iter().find(|&&index| usize::from(index) >= n || !known.insert(index)) {
                Some(index) => Err(format!("index {index} among the {what} of {n} shards")),
                None => Ok(()),
            }
        };
        if !(1..=PACK_BYTES_MAX).contains(&self.pack_bytes) {
            return Err(format!("a pack of {} bytes", self.pack_bytes));
        }
        if !(1..=PACK_KEY_FIELD_BYTES_MAX).contains(&usize::from(self.pack_key_bytes)) {
            return Err(format!("a pack key field of {} bytes", self.pack_key_bytes));
        }
        each_once("sources", self.sources.iter().map(|source| source.index).collect())?;
        each_once("places", self.places.iter().map(|place| place.index).collect())?;
        let servers: BTreeSet<_> = self.places.iter().map(|place| place.server).collect();
        if servers.is_empty() || servers.len() < self.places.len() {
            return Err("no place, or two on one server".to_owned());
        }
        Ok(())
    }
}

/// Bytes of each shard file of a stripe.
pub(crate) fn file_bytes(geometry: Geometry, pack_bytes: u64, pack_key_bytes: usize) -> u64 {
    let shard_bytes = geometry.shard_bytes(pack_bytes);
    let header_bytes = Header::encoded_bytes(geometry, pack_key_bytes, shard_bytes);
    header_bytes + shard_bytes + FOOTER_BYTES as u64
}

/// How a rebuild ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// The shards were made; `receipts` and `failed` say what became of each.
    Rebuilt,
    /// Some column has fewer than k whole blocks; nothing was stored.
    TooFewSources,
    /// What the code gives is not what the stripe's id certifies: its parity never was the code of
    /// its data. Nothing was stored, and the same again would end the same.
    Inconsistent,
}

/// What a rebuild did and met.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RebuildAnswer {
    /// How it ended.
    pub outcome: Outcome,
    /// Proofs: of the shard kept here (also when it was whole before), and of the other places.
    pub receipts: Vec<Receipt>,
    /// Places that could not be stored, and why; the others stand.
    pub failed: Vec<(u8, ServerId, String)>,
    /// Shards that are not good, wherever one was met.
    pub found: Vec<(u8, ServerId, Found)>,
    /// Sources that did not answer, or not each time, and why.
    pub unreachable: Vec<(ServerId, String)>,
    /// Bytes that came from other servers.
    pub read_bytes: u64,
    /// Bytes that the code took from this server's own disk.
    pub own_bytes: u64,
}

impl RebuildAnswer {
    /// One with nothing in it yet.
    pub fn new(outcome: Outcome) -> Self {
        Self {
            outcome,
            receipts: Vec::new(),
            failed: Vec::new(),
            found: Vec::new(),
            unreachable: Vec::new(),
            read_bytes: 0,
            own_bytes: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::State;

    fn source(index: u8) -> Source {
        let server = ServerId(index.into());
        let (name, zone) = ("a".to_owned(), "z".to_owned());
        let (url, ticket) = ("http://a".to_owned(), "t".to_owned());
        Source { index, at: ReadTicket { server, name, zone, url, state: State::Up, ticket } }
    }

    fn place(index: u8, server: u32) -> Place {
        let (name, url, ticket) = ("a".to_owned(), "http://a".to_owned(), "t".to_owned());
        Place { index, server: ServerId(server), name, url, ticket }
    }

    #[test]
    fn an_order_out_of_its_bounds_is_not_followed() {
        let sound = RebuildRequest {
            stripe: StripeId([1; 32]),
            geometry: Geometry::new(2, 1).unwrap(),
            pack_bytes: 100,
            pack_key_bytes: 64,
            epoch: 1,
            sources: vec![source(0), source(1), source(2)],
            places: vec![place(2, 7), place(1, 8)],
        };
        assert_eq!(sound.check(), Ok(()));
        let bent: [fn(&mut RebuildRequest); 10] = [
            |order| order.pack_bytes = 0,
            |order| order.pack_bytes = u64::MAX,
            |order| order.pack_key_bytes = 0,
            |order| order.pack_key_bytes = 257,
            |order| order.sources.push(source(3)),
            |order| order.sources.push(source(1)),
            |order| order.places.clear(),
            |order| order.places.push(place(3, 9)),
            |order| order.places.push(place(2, 9)),
            |order| order.places.push(place(0, 7)),
        ];
        for (case, bend) in bent.into_iter().enumerate() {
            let mut order = sound.clone();
            bend(&mut order);
            assert!(order.check().is_err(), "{case}");
        }
    }
}

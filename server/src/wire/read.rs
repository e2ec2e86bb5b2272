//! What reading asks the coordinator.

use codec::seal::{PACK_KEY_FIELD_BYTES_MAX, PackKeyField};
use codec::shard::{Kind, PACK_BYTES_MAX};
use codec::{Geometry, StripeId};
use serde::{Deserialize, Serialize};

use super::{Found, FrameEnd, Ids, ServerId, State};

/// Where a stripe's shards are and how to open its pack.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StripeMap {
    /// The stripe.
    pub stripe: StripeId,
    /// What it carries.
    pub kind: Kind,
    /// Its code.
    pub geometry: Geometry,
    /// Bytes of the pack.
    pub pack_bytes: u64,
    /// The wrapped pack key.
    pub pack_key: PackKeyField,
    /// Its frames.
    pub frames: Vec<FrameEnd>,
    /// Its shards.
    pub shards: Vec<Holder>,
}

impl StripeMap {
    /// Bytes of each of its shard files.
    pub fn file_bytes(&self) -> u64 {
        super::repair::file_bytes(self.geometry, self.pack_bytes, self.pack_key.0.len())
    }

    /// Whether its fields are in their bounds and fit each other, so that readers may compute
    /// with them. What a shard's header says of the stripe is checked when it is read.
    pub fn is_sound(&self) -> bool {
        let n = self.geometry.shards();
        let last = self.frames.last().map_or(0, |frame| u64::from(frame.1));
        (1..=PACK_BYTES_MAX).contains(&self.pack_bytes)
            && (1..=PACK_KEY_FIELD_BYTES_MAX).contains(&self.pack_key.0.len())
            && self.frames.is_sorted_by(|a, b| a.1 < b.1)
            && last <= self.pack_bytes
            && self.shards.iter().all(|holder| usize::from(holder.index) < n)
    }
}

/// A server that holds a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Index of the shard.
    pub index: u8,
    /// The server.
    pub server: ServerId,
    /// Whether it was reported as missing or damaged there.
    pub bad: bool,
}

/// `POST /v1/locate`: where are these chunks?
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LocateRequest {
    /// The chunks, at most [`super::CHUNKS_PER_REQUEST_MAX`].
    pub chunks: Ids,
}

/// The places of chunks.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LocateAnswer {
    /// For each chunk, in the order asked, all its places: (index into `stripes`, frame number). Empty: unknown.
    pub places: Vec<Vec<(u32, u32)>>,
    /// The stripes named there.
    pub stripes: Vec<StripeMap>,
}

/// `POST /v1/stripe-maps`: the maps of these stripes; unknown ones are left out.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StripeMapsRequest {
    /// The stripes, at most [`super::PAGE_ROWS_MAX`].
    pub stripes: Vec<StripeId>,
}

/// `POST /v1/read-tickets`: one ticket a server, good for reading and checking any shard there.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ReadTickets {
    /// All servers that have joined.
    pub servers: Vec<ReadTicket>,
    /// When they end, in the coordinator's time.
    pub expires_ms: u64,
    /// The coordinator's time.
    pub now_ms: u64,
}

/// Access to one server.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ReadTicket {
    /// The server.
    pub server: ServerId,
    /// Its name.
    pub name: String,
    /// Its failure domain.
    pub zone: String,
    /// Its URL.
    pub url: String,
    /// How it is doing.
    pub state: State,
    /// The ticket.
    pub ticket: String,
}

/// `POST /v1/reports`: a client met a shard that is missing or damaged, or found it whole after all.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Report {
    /// The stripe.
    pub stripe: StripeId,
    /// Index of the shard.
    pub index: u8,
    /// The server.
    pub server: ServerId,
    /// What was found.
    pub found: Found,
}

//! What a push asks the coordinator.

use codec::seal::PackKeyField;
use codec::shard::Kind;
use codec::{Digest, Geometry, StripeId};
use serde::{Deserialize, Serialize};

use super::{Blob, Ids, LeaseId, ServerId, StripeMap};

/// `POST /v1/leases`: a push begins. The same again, its answer being lost, gives the same lease.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Begin {
    /// [`NONCE_BYTES`] random bytes.
    pub nonce: Blob,
    /// What begins.
    #[serde(flatten)]
    pub request: BeginRequest,
}

/// Bytes of the nonce that tells one begin from another.
pub const NONCE_BYTES: usize = 16;

/// The push that begins.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BeginRequest {
    /// Keyed name of host and sources; finds the parent.
    pub source_set: Digest,
    /// The parent wanted instead of the newest one of the same source set.
    pub parent: Option<StripeId>,
}

/// A lease, and what to compare with.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Lease {
    /// Its number.
    pub lease: LeaseId,
    /// When it ends, in the coordinator's time.
    pub expires_ms: u64,
    /// The coordinator's time.
    pub now_ms: u64,
    /// The coordinator's epoch.
    pub epoch: u64,
    /// The newest kept snapshot of the same token and source set, or the one asked for.
    pub parent: Option<SnapshotRow>,
    /// Chunks whose every stripe has fewer than k good shards: read them from
    /// `GET /v1/lost-chunks` and send their files again.
    pub lost_chunks: u64,
    /// Stripes with fewer recorded good shards than n.
    pub stripes_below_target: u64,
}

/// The answer to `POST /v1/leases/{id}/renew`.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Renewed {
    /// When the lease ends now, in the coordinator's time.
    pub expires_ms: u64,
    /// The coordinator's time.
    pub now_ms: u64,
}

/// The answer to `DELETE /v1/leases/{id}`.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Ended {
    /// Stripes with fewer recorded good shards than n: those that the push committed so, and
    /// those that it relies on.
    pub stripes_below_target: u64,
}

/// `POST /v1/have`: which of these chunks are stored and readable?
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct HaveRequest {
    /// The push that asks.
    pub lease: LeaseId,
    /// The chunks, at most [`super::CHUNKS_PER_REQUEST_MAX`].
    pub chunks: Ids,
}

/// One character a chunk, in the order asked: `1` stored, `0` not.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct HaveAnswer {
    /// The characters.
    pub have: String,
}

/// `POST /v1/place`: where shall the shards of this stripe go? Writes the intent before it answers.
/// Asked again for the same stripe (a server failed, an epoch passed) it keeps what `stored` says.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PlaceRequest {
    /// The push that asks.
    pub lease: LeaseId,
    /// The stripe.
    pub stripe: StripeId,
    /// Its code.
    pub geometry: Geometry,
    /// Bytes of each shard file.
    pub file_bytes: u64,
    /// Shards that have a receipt already: (index, server).
    pub stored: Vec<(u8, ServerId)>,
    /// Servers that failed this stripe: not named again for it.
    pub avoid: Vec<ServerId>,
    /// The fewest shards that the push is content with (those stored included).
    pub min_shards: u8,
}

/// Where to put one shard.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Place {
    /// Index of the shard.
    pub index: u8,
    /// The server.
    pub server: ServerId,
    /// Its name, for messages.
    pub name: String,
    /// Its URL.
    pub url: String,
    /// The ticket for this PUT.
    pub ticket: String,
}

/// Places for the shards that are not stored yet; fewer than asked for when servers are short,
/// `TooFewServers` when not even `min_shards` can be had.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Placement {
    /// The epoch of the tickets.
    pub epoch: u64,
    /// The places.
    pub places: Vec<Place>,
    /// Further servers that could take a shard in the stead of one that fails.
    pub spares: u32,
}

/// A server's proof that it holds a shard, synced: the MAC is [`crate::auth::receipt_mac`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// The stripe.
    pub stripe: StripeId,
    /// Index of the shard.
    pub index: u8,
    /// The server.
    pub server: ServerId,
    /// Hash of the shard's header, which certifies all its bytes.
    pub header_hash: Digest,
    /// The epoch of the ticket that it came by.
    pub epoch: u64,
    /// The MAC over the rest and the vault.
    pub mac: Blob,
}

/// One frame of a pack: its kind (`codec::seal::FrameKind` as a number) and where it ends.
pub type FrameEnd = (u8, u32);

/// `POST /v1/stripes`: these shards are stored; make the stripe known. Idempotent: a second
/// commit adds holders and never removes one.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CommitStripe {
    /// The push.
    pub lease: LeaseId,
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
    /// Its chunks.
    pub chunks: Ids,
    /// The frame of each chunk.
    pub chunk_frames: Vec<u32>,
    /// Proofs: at least k of a stripe that is not known yet. With how many a push is content is
    /// its own to say.
    pub receipts: Vec<Receipt>,
}

/// The answer to a stripe's commit.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Committed {
    /// Shards that the catalog now has of it.
    pub holders: u8,
    /// Shards it should have.
    pub target: u8,
}

/// `POST /v1/snapshots`: the stripe of the record, and the snapshot, in one transaction.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CommitSnapshot {
    /// The stripe with the record, of kind snapshot.
    pub stripe: CommitStripe,
    /// Keyed name of host and sources.
    pub source_set: Digest,
}

/// A snapshot as the coordinator knows it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SnapshotRow {
    /// Its id: that of the stripe with its record.
    pub id: StripeId,
    /// The catalog's logical clock at its commit.
    pub sequence: u64,
    /// When the coordinator received it.
    pub received_ms: u64,
    /// Keyed name of host and sources.
    pub source_set: Digest,
    /// Where the record is.
    pub stripe: StripeMap,
}

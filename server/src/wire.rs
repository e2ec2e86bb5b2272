//! Every type that crosses HTTP, and the paths they go to.
//!
//! Control messages are JSON; shard files travel as they lie on disk. Hashes
//! are hex, long lists of ids one base64 string ([`Ids`]). Times are
//! milliseconds of the coordinator's clock. Lists come in pages.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use codec::seal::{PACK_KEY_FIELD_BYTES_MAX, PackKeyField};
use codec::shard::{Kind, PACK_BYTES_MAX};
use codec::{ChunkId, Digest, Geometry, StripeId, VaultId};
use serde::{Deserialize, Serialize};

/// The protocol that this build speaks, sent in [`PROTOCOL_HEADER`] with every request.
pub const PROTOCOL: u32 = 0;
/// Header with [`PROTOCOL`].
pub const PROTOCOL_HEADER: &str = "arc-protocol";
/// Header with the program's version, for messages only.
pub const BUILD_HEADER: &str = "arc-build";
/// Chunk ids in one request of `have` or `locate` at most.
pub const CHUNKS_PER_REQUEST_MAX: usize = 8192;
/// Bytes of any request to the coordinator at most.
pub const REQUEST_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Chunks of one stripe at most: its commit, with every chunk's id, is one request.
pub const CHUNKS_PER_STRIPE_MAX: usize = 1 << 18;
/// Rows in one page of any list at most.
pub const PAGE_ROWS_MAX: u32 = 1000;

/// Why a service refused. The codes are stable; clients branch on them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Code {
    /// No or wrong credentials.
    Unauthorized,
    /// Credentials that do not allow this.
    Forbidden,
    /// A ticket past its time.
    Expired,
    /// A ticket of an epoch before the coordinator's present one: ask `place` again.
    StaleEpoch,
    /// A receipt that its server did not give; the refusal names the server.
    BadReceipt,
    /// No such shard, snapshot, lease or server.
    NotFound,
    /// Something else stands there already.
    Conflict,
    /// A malformed request.
    BadRequest,
    /// Longer than the bound.
    TooLarge,
    /// Bytes whose hashes do not hold.
    Damaged,
    /// The disk has no room beyond its reserve.
    NoSpace,
    /// Too much at once; try again after a while.
    Busy,
    /// The lease ended; run the push again.
    LeaseOver,
    /// A server of that name has joined before.
    NameTaken,
    /// The coordinator has no vault record yet: `arc init`.
    NoVault,
    /// It has one already.
    VaultExists,
    /// Fewer servers are up than the stripe needs.
    TooFewServers,
    /// The two sides speak different protocols.
    Protocol,
    /// The server does not know the coordinator's time yet.
    NotReady,
    /// Unforeseen; the service's log has more.
    Internal,
}

impl Code {
    /// The HTTP status that goes with it.
    pub fn status(self) -> u16 {
        match self {
            Self::Unauthorized | Self::Expired => 401,
            Self::Forbidden | Self::BadReceipt => 403,
            Self::NotFound | Self::NoVault => 404,
            Self::Conflict | Self::StaleEpoch | Self::NameTaken | Self::VaultExists => 409,
            Self::LeaseOver => 410,
            Self::TooLarge => 413,
            Self::BadRequest | Self::Damaged => 422,
            Self::Protocol => 426,
            Self::Internal => 500,
            Self::Busy | Self::NotReady | Self::TooFewServers => 503,
            Self::NoSpace => 507,
        }
    }
}

/// The body of every answer that is not a success.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// What to branch on.
    pub code: Code,
    /// What to tell a person.
    pub message: String,
    /// The storage server that is to blame, where one is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<ServerId>,
}

impl Refusal {
    /// A refusal that blames no storage server.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), server: None }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// A server's number in its vault's catalog.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ServerId(pub u32);

/// A lease's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LeaseId(pub u64);

/// Chunk ids back to back, as one base64 string.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ids(pub Vec<ChunkId>);

impl Serialize for Ids {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let bytes: Vec<u8> = self.0.iter().flat_map(|id| id.0).collect();
        s.serialize_str(&BASE64.encode(bytes))
    }
}

impl<'de> Deserialize<'de> for Ids {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let bytes = Blob::deserialize(d)?.0;
        let (rows, rest) = bytes.as_chunks::<{ ChunkId::LEN }>();
        if !rest.is_empty() {
            return Err(serde::de::Error::custom("not a whole number of chunk ids"));
        }
        Ok(Self(rows.iter().copied().map(ChunkId).collect()))
    }
}

/// Bytes, as base64.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Blob(pub Vec<u8>);

impl Serialize for Blob {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&BASE64.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Blob {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(d)?;
        BASE64.decode(text.as_ref()).map(Self).map_err(serde::de::Error::custom)
    }
}

/// One page of a list. `next` goes into the next request's `after`; `None` is the end.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Page<T> {
    /// The rows.
    pub rows: Vec<T>,
    /// Where the next page begins.
    pub next: Option<String>,
}

/// The query of every list: `?after=…&limit=…`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct PageQuery {
    /// `next` of the page before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    /// Rows wanted, at most [`PAGE_ROWS_MAX`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

// ---------------------------------------------------------------- coordinator: servers

/// `POST /v1/join`, with the join token: a storage server's first start.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct JoinRequest {
    /// The name people know it by, unique in the vault.
    pub name: String,
    /// Its failure domain.
    pub zone: String,
    /// Where clients and the coordinator reach it.
    pub url: String,
    /// Bytes of its disk.
    pub capacity_bytes: u64,
    /// Bytes free on its disk.
    pub free_bytes: u64,
}

/// What a server keeps of its join.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct JoinAnswer {
    /// Its number.
    pub server: ServerId,
    /// The vault it belongs to.
    pub vault: VaultId,
    /// The key that server and coordinator share (32 bytes): for receipts and hellos.
    pub shared_key: Blob,
    /// The coordinator's Ed25519 public key, which tickets are checked by.
    pub ticket_key: Blob,
    /// The coordinator's epoch.
    pub epoch: u64,
    /// The coordinator's time.
    pub now_ms: u64,
    /// The vault record, if there is one already.
    pub record: Option<Blob>,
}

/// `POST /v1/hello`: a server that joined before says that it is back, and where.
/// Authenticated by [`crate::auth::hello_mac`] in `mac`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Hello {
    /// Its number.
    pub server: ServerId,
    /// Where it is reached now.
    pub url: String,
    /// How often it has started: a hello with a lower number than was seen is a replay.
    pub starts: u64,
    /// The MAC over the rest.
    pub mac: Blob,
}

/// The answer to a hello.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct HelloAnswer {
    /// The coordinator's epoch.
    pub epoch: u64,
    /// The coordinator's time.
    pub now_ms: u64,
    /// The vault record, if there is one.
    pub record: Option<Blob>,
}

/// How a server is doing, by the coordinator's probes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Not probed since the coordinator started.
    Unknown,
    /// Answers.
    Up,
    /// Missed three probes: avoided.
    Suspect,
    /// Silent for longer.
    Down,
}

/// One row of `GET /v1/servers`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ServerInfo {
    /// Its number.
    pub server: ServerId,
    /// Its name.
    pub name: String,
    /// Its failure domain.
    pub zone: String,
    /// Where it is.
    pub url: String,
    /// How it is doing.
    pub state: State,
    /// When it last answered, if ever since the catalog was made.
    pub last_seen_ms: Option<u64>,
    /// Bytes of its disk.
    pub capacity_bytes: u64,
    /// Bytes free on its disk, as of its last answer.
    pub free_bytes: u64,
    /// Shards that the catalog has on it.
    pub shards: u64,
    /// Bytes of these.
    pub shard_bytes: u64,
}

// ---------------------------------------------------------------- coordinator: vault, status

/// `GET /v1/vault`, with the owner token.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct VaultInfo {
    /// The vault.
    pub vault: VaultId,
    /// Its record, once `arc init` made one.
    pub record: Option<Blob>,
    /// The coordinator's epoch.
    pub epoch: u64,
    /// The coordinator's time.
    pub now_ms: u64,
    /// Servers that have joined.
    pub servers: u32,
    /// Zones among them.
    pub zones: u32,
}

/// `PUT /v1/vault`: `arc init`. Refused with `VaultExists` when there is one.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PutVault {
    /// The encoded vault record.
    pub record: Blob,
}

/// `GET /v1/status`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Status {
    /// The vault.
    pub vault: VaultId,
    /// The coordinator's epoch.
    pub epoch: u64,
    /// The coordinator's time.
    pub now_ms: u64,
    /// Kept snapshots.
    pub snapshots: u64,
    /// Stripes committed.
    pub stripes: u64,
    /// Chunks known.
    pub chunks: u64,
    /// Bytes of all packs, before parity.
    pub pack_bytes: u64,
    /// Bytes of all shard bodies that the catalog has.
    pub shard_bytes: u64,
    /// How many stripes have how many good shards on servers that are up, minus k: (margin, stripes), ascending.
    pub margins: Vec<(i32, u64)>,
    /// Stripes with fewer recorded good shards than n.
    pub stripes_below_target: u64,
    /// Leases that are open.
    pub leases: u64,
    /// Shards that unfinished pushes whose lease is over may have left, by their intents.
    pub leftover_shards: u64,
    /// Servers by state.
    pub servers: Vec<(State, u32)>,
}

// ---------------------------------------------------------------- coordinator: push

/// `POST /v1/leases`: a push begins.
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

/// `POST /v1/have`: which of these chunks are stored and readable?
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct HaveRequest {
    /// The push that asks.
    pub lease: LeaseId,
    /// The chunks, at most [`CHUNKS_PER_REQUEST_MAX`].
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
    /// Proofs, at least `max(k+1, n-1)` or what the push asked for.
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

// ---------------------------------------------------------------- coordinator: reading

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
    /// The chunks, at most [`CHUNKS_PER_REQUEST_MAX`].
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
    /// The stripes, at most [`PAGE_ROWS_MAX`].
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

// ---------------------------------------------------------------- storage

/// `POST /v1/probe` of a storage server, with a control ticket.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Probe {
    /// The coordinator's epoch.
    pub epoch: u64,
    /// The coordinator's time.
    pub now_ms: u64,
}

/// How a storage server is doing.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ProbeAnswer {
    /// Who answers.
    pub server: ServerId,
    /// The vault it belongs to.
    pub vault: VaultId,
    /// Bytes of its disk.
    pub capacity_bytes: u64,
    /// Bytes free beyond its reserve.
    pub free_bytes: u64,
    /// Why it takes no writes (a failed sync), if it does not.
    pub trouble: Option<String>,
}

/// How thorough a check is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Thoroughness {
    /// The file is there with its full length and a sound header.
    Present,
    /// Every byte is read and hashed.
    Whole,
}

/// `POST /v1/check` of a storage server, with a read ticket.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CheckRequest {
    /// The shards, at most [`PAGE_ROWS_MAX`].
    pub shards: Vec<(StripeId, u8)>,
    /// How thoroughly.
    pub thoroughness: Thoroughness,
}

/// What was found, in the order asked.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CheckAnswer {
    /// A finding a shard.
    pub found: Vec<Found>,
}

/// What was found where a shard should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "is", content = "why")]
pub enum Found {
    /// The shard, as sound as was asked.
    Good,
    /// Nothing.
    Missing,
    /// Something else: why it is not the shard.
    Damaged(String),
}

/// One row of `GET /v1/inventory` of a storage server, with a control ticket; ordered by stripe and index.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InventoryRow {
    /// The stripe.
    pub stripe: StripeId,
    /// Index of the shard.
    pub index: u8,
    /// Bytes of the file.
    pub file_bytes: u64,
}

/// `POST /v1/trash` of a storage server, with a control ticket: never ticketed to clients.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TrashRequest {
    /// The shards.
    pub shards: Vec<(StripeId, u8)>,
}

/// How many of them were moved to the trash (the others were not there).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TrashAnswer {
    /// Shards moved.
    pub trashed: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_commit_of_a_stripe_is_one_request() {
        let n = CHUNKS_PER_STRIPE_MAX;
        // A frame has dozens of chunks at least where there are so many.
        let frames = (0..n as u32 / 16).map(|frame| (0, u32::MAX - frame)).collect();
        let commit = CommitStripe {
            lease: LeaseId(u64::MAX),
            stripe: StripeId([0xff; 32]),
            kind: Kind::Metadata,
            geometry: Geometry::new(127, 128).unwrap(),
            pack_bytes: u64::MAX,
            pack_key: PackKeyField(vec![0xff; 1024]),
            frames,
            chunks: Ids(vec![ChunkId([0xff; 32]); n]),
            chunk_frames: vec![n as u32 / 16; n],
            receipts: vec![
                Receipt {
                    stripe: StripeId([0xff; 32]),
                    index: 255,
                    server: ServerId(u32::MAX),
                    header_hash: Digest([0xff; 32]),
                    epoch: u64::MAX,
                    mac: Blob(vec![0xff; 32]),
                };
                255
            ],
        };
        let bytes = serde_json::to_vec(&commit).unwrap().len();
        assert!(bytes < REQUEST_BYTES_MAX, "{bytes}");
    }

    #[test]
    fn a_stripe_map_that_readers_cannot_compute_with_is_not_sound() {
        let sound = StripeMap {
            stripe: StripeId([1; 32]),
            kind: Kind::Data,
            geometry: Geometry::new(2, 1).unwrap(),
            pack_bytes: 100,
            pack_key: PackKeyField(vec![1]),
            frames: vec![(0, 40), (1, 100)],
            shards: vec![Holder { index: 2, server: ServerId(1), bad: false }],
        };
        assert!(sound.is_sound());
        let bend = |bend: fn(&mut StripeMap)| {
            let mut map = sound.clone();
            bend(&mut map);
            map.is_sound()
        };
        assert!(!bend(|map| map.pack_bytes = 0));
        assert!(!bend(|map| map.pack_bytes = 99));
        assert!(!bend(|map| map.pack_bytes = u64::MAX));
        assert!(!bend(|map| map.pack_key.0.clear()));
        assert!(!bend(|map| map.frames[1].1 = 40));
        assert!(!bend(|map| map.shards[0].index = 3));
    }
}

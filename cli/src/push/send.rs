//! From a finished pack to a committed stripe: encode, place, PUT to n servers at
//! once, commit with the receipts. A server that fails loses its shard to another;
//! when there is none, the push waits for as long as it was told, then is content
//! with fewer.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use codec::keys::VaultKeys;
use codec::pack::{self, Pack};
use codec::seal::{PackKey, PackKeyField};
use codec::shard::Kind;
use codec::stripe::Stripe;
use codec::{Geometry, VaultId};
use futures_util::future::join_all;
use server::auth::random;
use server::client::{CoordinatorClient, PutShard, StorageClient};
use server::cpu;
use server::wire::{
    Code, CommitSnapshot, CommitStripe, Committed, Ids, LeaseId, Place, PlaceRequest, Receipt,
    ServerId, SnapshotRow,
};

use super::packer::{BufferReturn, FinishedPack};
use crate::exit::{Exit, Failure};
use crate::ui::{Counters, Ui};

/// The pause before servers that failed are asked again.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// Sends the stripes of one push.
pub struct Sender {
    /// The vault.
    pub vault: VaultId,
    /// Its code.
    pub geometry: Geometry,
    /// The push's lease.
    pub lease: LeaseId,
    /// The coordinator.
    pub coordinator: CoordinatorClient,
    /// The servers.
    pub storage: StorageClient,
    /// The fewest shards of a stripe to be content with, where it was said.
    pub min_shards: Option<u8>,
    /// Until when to wait for servers that are away.
    pub wait_until: WaitBudget,
    /// Servers that failed so far.
    pub failing: Failing,
    /// For the display.
    pub counters: Arc<Counters>,
    /// For warnings.
    pub ui: Ui,
}

/// Servers that failed a push, all stripes together.
#[derive(Default)]
pub struct Failing {
    told: Mutex<BTreeSet<ServerId>>,
    forgers: Mutex<BTreeSet<ServerId>>,
}

impl Failing {
    /// Whether nothing was said of this server before.
    fn is_first(&self, server: ServerId) -> bool {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).insert(server)
    }

    fn distrust(&self, server: ServerId) {
        self.forgers.lock().unwrap_or_else(PoisonError::into_inner).insert(server);
    }

    /// Those whose receipts are not genuine: they are given nothing more.
    fn forgers(&self) -> Vec<ServerId> {
        let forgers = self.forgers.lock().unwrap_or_else(PoisonError::into_inner);
        forgers.iter().copied().collect()
    }
}

/// How long a push waits for servers, all stripes together.
pub struct WaitBudget {
    left: Mutex<Duration>,
}

impl WaitBudget {
    /// A budget of `wait`.
    pub fn new(wait: Duration) -> Self {
        Self { left: Mutex::new(wait) }
    }

    /// Takes a pause from the budget; false when it is used up.
    async fn pause(&self) -> bool {
        {
            let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
            if left.is_zero() {
                return false;
            }
            *left = left.saturating_sub(RETRY_PAUSE);
        }
        tokio::time::sleep(RETRY_PAUSE).await;
        true
    }
}

/// What became of a stripe.
#[derive(Debug, Clone, Copy)]
pub struct Sent {
    /// Bytes of its pack.
    pub pack_bytes: u64,
    /// Bytes of its shard files that are on servers.
    pub server_bytes: u64,
    /// Shards on servers, and how many there should be.
    pub committed: Committed,
}

impl Sender {
    /// Stores a pack of chunks and commits its stripe.
    pub async fn send_pack(&self, finished: FinishedPack, kind: Kind) -> Result<Sent, Failure> {
        let FinishedPack { pack, pack_key, buffers } = finished;
        let geometry = self.geometry.for_pack(pack.bytes.len() as u64);
        let (mut stripe, shards) =
            self.encode(pack, pack_key, kind, geometry, Some(buffers)).await?;
        loop {
            self.put_shards(&shards, &mut stripe.receipts).await?;
            match self.coordinator.commit_stripe(&stripe).await {
                Ok(committed) => return Ok(shards.sent(&stripe, committed)),
                Err(error) => self.distrust(error, &mut stripe.receipts)?,
            }
        }
    }

    /// Stores a snapshot record on m+1 servers and commits the snapshot.
    pub async fn send_snapshot(
        &self,
        record: &[u8],
        keys: &VaultKeys,
        source_set: codec::Digest,
    ) -> Result<(SnapshotRow, Sent), Failure> {
        let key = PackKey::new(random()?);
        let pack_key = key.wrap(keys, self.vault, random()?);
        let pack = pack::seal_record(self.vault, key, record)?;
        let geometry = self.geometry.copies();
        let (stripe, shards) = self.encode(pack, pack_key, Kind::Snapshot, geometry, None).await?;
        let mut commit = CommitSnapshot { stripe, source_set };
        loop {
            let receipts = &mut commit.stripe.receipts;
            self.put_shards(&shards, receipts).await?;
            let holders = receipts.len() as u8;
            match self.coordinator.commit_snapshot(&commit).await {
                Ok(row) => {
                    let committed = Committed { holders, target: geometry.shards() as u8 };
                    return Ok((row, shards.sent(&commit.stripe, committed)));
                }
                Err(error) => self.distrust(error, &mut commit.stripe.receipts)?,
            }
        }
    }

    /// Encodes a pack; its commit, still without receipts, and its shards.
    async fn encode(
        &self,
        pack: Pack,
        pack_key: PackKeyField,
        kind: Kind,
        geometry: Geometry,
        buffers: Option<BufferReturn>,
    ) -> Result<(CommitStripe, Shards), Failure> {
        let Pack { bytes, frames, chunks } = pack;
        let vault = self.vault;
        let stripe =
            cpu::run(move || Stripe::encode(vault, kind, geometry, pack_key, bytes)).await?;
        let (ids, chunk_frames) = chunks.into_iter().unzip();
        let commit = CommitStripe {
            lease: self.lease,
            stripe: stripe.id,
            kind,
            geometry,
            pack_bytes: stripe.pack_bytes,
            pack_key: stripe.pack_key.clone(),
            frames: frames.into_iter().map(|(kind, end)| (kind as u8, end)).collect(),
            chunks: Ids(ids),
            chunk_frames,
            receipts: Vec::new(),
        };
        self.counters.packed_bytes.fetch_add(stripe.pack_bytes, Ordering::Relaxed);
        Ok((commit, Shards::new(stripe, buffers)))
    }

    /// Gets as many of the shards that are not `stored` yet stored as can be had.
    async fn put_shards(&self, shards: &Shards, stored: &mut Vec<Receipt>) -> Result<(), Failure> {
        let target = shards.geometry.shards();
        let enough = self.enough(shards.geometry);
        let mut avoid = self.failing.forgers();
        let mut asked_again: BTreeSet<ServerId> = BTreeSet::new();
        let mut errors: Vec<(Option<Code>, String)> = Vec::new();
        loop {
            let request = PlaceRequest {
                lease: self.lease,
                stripe: shards.stripe,
                geometry: shards.geometry,
                file_bytes: shards.file_bytes,
                stored: stored.iter().map(|r| (r.index, r.server)).collect(),
                avoid: avoid.clone(),
                min_shards: enough as u8,
            };
            let (epoch, places) = match self.coordinator.place(&request).await {
                Ok(placement) => (placement.epoch, placement.places),
                Err(error) if error.code() == Some(Code::TooFewServers) => {
                    push_new(&mut errors, (error.code(), error.to_string()));
                    (0, Vec::new())
                }
                Err(error) => return Err(error.into()),
            };
            let asked = places.len();
            for (server, outcome) in
                join_all(places.iter().map(|place| self.put(place, epoch, shards))).await
            {
                match outcome {
                    Ok(receipt) => stored.push(receipt),
                    // The coordinator or the server started anew: a new ticket may do, once.
                    Err(error) if is_stale(&error) && asked_again.insert(server) => {}
                    Err(error) => {
                        avoid.push(server);
                        self.tell_once(server, &error.to_string());
                        push_new(&mut errors, (error.code(), error.to_string()));
                    }
                }
            }
            if stored.len() == target {
                return Ok(());
            }
            // Another server may take the place of one that failed just now; else wait for one.
            let spare_may_help = asked > 0;
            if spare_may_help && avoid.len() < target {
                continue;
            }
            if self.wait_until.pause().await {
                avoid = self.failing.forgers();
                asked_again.clear();
                continue;
            }
            if stored.len() >= enough {
                return Ok(());
            }
            return Err(self.too_few(stored.len(), enough, target, errors));
        }
    }

    /// After a commit that was refused for the receipt of one server: does without that server
    /// from here on. Every other refusal is a failure.
    fn distrust(&self, error: server::Error, stored: &mut Vec<Receipt>) -> Result<(), Failure> {
        let forger = error.blamed().filter(|blamed| stored.iter().any(|r| r.server == *blamed));
        let Some(forger) = forger else { return Err(error.into()) };
        stored.retain(|receipt| receipt.server != forger);
        self.failing.distrust(forger);
        self.tell_once(forger, &error.to_string());
        Ok(())
    }

    /// Warns of a server when it fails this push for the first time.
    fn tell_once(&self, server: ServerId, error: &str) {
        if self.failing.is_first(server) {
            self.ui.warn(&format!("{error}; its shards wait, or go to other servers"), None);
        }
    }

    async fn put(
        &self,
        place: &Place,
        epoch: u64,
        shards: &Shards,
    ) -> (ServerId, server::Result<Receipt>) {
        let (counters, name) = (Arc::clone(&self.counters), place.name.clone());
        let on_sent = Arc::new(move |bytes| counters.sent(&name, bytes));
        let outcome = match shards.shard(place.index, on_sent) {
            Some(shard) => self.storage.put_shard(place, epoch, shard).await,
            None => Err(server::Error::Nonsense {
                service: format!("coordinator {}", self.coordinator.url()),
                why: format!("a place for shard {} of {}", place.index, shards.geometry),
            }),
        };
        (place.server, outcome)
    }

    /// The fewest shards to be content with: `--min-shards`, or one short of all, but
    /// never without one to spare.
    fn enough(&self, geometry: Geometry) -> usize {
        let (k, n) = (geometry.data(), geometry.shards());
        match self.min_shards {
            Some(min) => usize::from(min).clamp(k, n),
            None => (n - 1).max(k + 1).min(n),
        }
    }

    fn too_few(
        &self,
        stored: usize,
        enough: usize,
        target: usize,
        errors: Vec<(Option<Code>, String)>,
    ) -> Failure {
        let what = format!(
            "only {stored} of {target} shards of a stripe could be stored; {} needs at least {enough} to accept a push",
            self.geometry
        );
        let full = !errors.is_empty() && errors.iter().all(|(c, _)| *c == Some(Code::NoSpace));
        let exit = if full { Exit::NoSpace } else { Exit::TooFewServers };
        let failure = Failure::new(exit, what)
            .state("no snapshot was committed; what is stored already is used by the next push");
        let failure = match full {
            true => failure.next("arc servers    # how full each one is"),
            false => failure
                .next("arc servers                      # which servers are down")
                .next("arc push --wait-servers 30m …    # waits for them longer"),
        };
        errors.into_iter().fold(failure, |failure, (_, line)| failure.why(line))
    }
}

/// A stripe's shards, ready to be sent any number of times without a copy.
struct Shards {
    stripe: codec::StripeId,
    geometry: Geometry,
    file_bytes: u64,
    body_bytes: usize,
    ends: Vec<(Bytes, codec::Digest, Bytes)>,
    bodies: Bytes,
}

impl Shards {
    fn new(stripe: Stripe, buffers: Option<BufferReturn>) -> Self {
        Self {
            stripe: stripe.id,
            geometry: stripe.geometry,
            file_bytes: stripe.file_bytes(),
            body_bytes: stripe.shard_bytes as usize,
            ends: stripe
                .shards
                .into_iter()
                .map(|ends| (Bytes::from(ends.header), ends.header_hash, Bytes::from(ends.footer)))
                .collect(),
            bodies: Bytes::from_owner(Lent { buffer: stripe.bodies, buffers }),
        }
    }

    fn sent(&self, stripe: &CommitStripe, committed: Committed) -> Sent {
        let server_bytes = self.file_bytes * u64::from(committed.holders);
        Sent { pack_bytes: stripe.pack_bytes, server_bytes, committed }
    }

    fn shard(&self, index: u8, on_sent: Arc<dyn Fn(u64) + Send + Sync>) -> Option<PutShard> {
        let at = usize::from(index);
        let (header, header_hash, footer) = self.ends.get(at)?;
        Some(PutShard {
            stripe: self.stripe,
            header: header.clone(),
            header_hash: *header_hash,
            body: self.bodies.slice(at * self.body_bytes..(at + 1) * self.body_bytes),
            footer: footer.clone(),
            on_sent,
        })
    }
}

/// A pool's buffer while its bytes are being sent; goes back when the last of them is let go.
struct Lent {
    buffer: Vec<u8>,
    buffers: Option<BufferReturn>,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.buffer
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(buffers) = &self.buffers {
            // The pool is gone when the push is over.
            let _ = buffers.send(std::mem::take(&mut self.buffer));
        }
    }
}

fn is_stale(error: &server::Error) -> bool {
    matches!(error.code(), Some(Code::StaleEpoch | Code::Expired | Code::NotReady | Code::Busy))
}

fn push_new<T: PartialEq>(list: &mut Vec<T>, item: T) {
    if !list.contains(&item) {
        list.push(item);
    }
}

//! From a finished pack to a committed stripe: encode, place, PUT to n servers at
//! once, commit with the receipts. A server that fails loses its shard to another;
//! when there is none, the push waits for as long as it was told, then is content
//! with fewer.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

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
use crate::ui::Counters;

/// The pause before servers that failed are asked again.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// A server may put a shard off this often (it has just started, it is busy); then it failed it.
const PUT_OFFS_MAX: usize = 5;
/// A server that did not take a shard for this long is avoided by other stripes,
const SILENT_AFTER: Duration = Duration::from_secs(2);
/// and for this long.
const SILENT_FOR: Duration = Duration::from_secs(60);

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
    /// How long to wait for servers that are away.
    pub wait_until: WaitBudget,
    /// Servers that other stripes gave up.
    pub silent: SilentServers,
    /// For the display.
    pub counters: Arc<Counters>,
}

/// How long a push waits for servers, all stripes together.
pub struct WaitBudget {
    left: std::sync::Mutex<Duration>,
}

impl WaitBudget {
    /// A budget of `wait`.
    pub fn new(wait: Duration) -> Self {
        Self { left: std::sync::Mutex::new(wait) }
    }

    /// Pauses, and takes that from the budget with what was `spent` waiting in vain; false when
    /// it is used up.
    async fn pause(&self, spent: Duration) -> bool {
        let paid = self.take(RETRY_PAUSE + spent);
        if paid {
            tokio::time::sleep(RETRY_PAUSE).await;
        }
        paid
    }

    fn take(&self, wait: Duration) -> bool {
        let mut left = self.left.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let had = !left.is_zero();
        *left = left.saturating_sub(wait);
        had
    }
}

/// Servers that did not take a shard lately: other stripes go elsewhere where they can, and do
/// not wait for the same server again and again.
#[derive(Default)]
pub struct SilentServers(std::sync::Mutex<HashMap<ServerId, Instant>>);

impl SilentServers {
    /// Notes how a PUT ended that was begun then. One that was refused at once cost nothing.
    fn note<T>(&self, server: ServerId, outcome: &server::Result<T>, began: Instant) {
        let mut since = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match outcome {
            Ok(_) => drop(since.remove(&server)),
            Err(server::Error::Unreachable { .. }) if began.elapsed() >= SILENT_AFTER => {
                since.insert(server, Instant::now());
            }
            Err(_) => {}
        }
    }

    fn now(&self) -> Vec<ServerId> {
        let mut since = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        since.retain(|_, at| at.elapsed() < SILENT_FOR);
        since.keys().copied().collect()
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
        let (commit, receipts) = self.store(pack, pack_key, kind, geometry, Some(buffers)).await?;
        let file_bytes = receipts.file_bytes;
        let request = CommitStripe { receipts: receipts.receipts, ..commit };
        let committed = self.coordinator.commit_stripe(&request).await?;
        Ok(Sent {
            pack_bytes: request.pack_bytes,
            server_bytes: file_bytes * u64::from(committed.holders),
            committed,
        })
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
        let (commit, stored) = self.store(pack, pack_key, Kind::Snapshot, geometry, None).await?;
        let holders = stored.receipts.len() as u8;
        let stripe = CommitStripe { receipts: stored.receipts, ..commit };
        let sent = Sent {
            pack_bytes: stripe.pack_bytes,
            server_bytes: stored.file_bytes * u64::from(holders),
            committed: Committed { holders, target: geometry.shards() as u8 },
        };
        let row = self.coordinator.commit_snapshot(&CommitSnapshot { stripe, source_set }).await?;
        Ok((row, sent))
    }

    /// Encodes a pack and has its shards stored; the commit without its receipts, and these.
    async fn store(
        &self,
        pack: Pack,
        pack_key: PackKeyField,
        kind: Kind,
        geometry: Geometry,
        buffers: Option<BufferReturn>,
    ) -> Result<(CommitStripe, Stored), Failure> {
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
        let file_bytes = stripe.file_bytes();
        let receipts = self.put_shards(Shards::new(stripe, buffers)).await?;
        Ok((commit, Stored { file_bytes, receipts }))
    }

    /// Gets as many of the shards stored as can be had.
    async fn put_shards(&self, shards: Shards) -> Result<Vec<Receipt>, Failure> {
        let target = shards.geometry.shards();
        let enough = self.enough(shards.geometry);
        let mut stored: Vec<Receipt> = Vec::with_capacity(target);
        let mut avoid: Vec<ServerId> = self.silent.now();
        let mut avoids_early = !avoid.is_empty();
        let mut put_off: Vec<ServerId> = Vec::new();
        let mut in_vain = Duration::ZERO;
        let mut errors: Vec<String> = Vec::new();
        loop {
            let (began, had, put_offs) = (Instant::now(), stored.len(), put_off.len());
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
                    push_new(&mut errors, error.to_string());
                    (0, Vec::new())
                }
                Err(error) => return Err(error.into()),
            };
            let asked = places.len();
            for (server, outcome) in
                join_all(places.iter().map(|place| self.put(place, epoch, &shards))).await
            {
                match outcome {
                    Ok(receipt) => stored.push(receipt),
                    // The coordinator started anew in between (`place` gives new tickets), or
                    // the server did, or it is busy.
                    Err(error)
                        if is_passing(&error)
                            && put_off.iter().filter(|s| **s == server).count() < PUT_OFFS_MAX =>
                    {
                        put_off.push(server);
                        push_new(&mut errors, error.to_string());
                    }
                    Err(error) => {
                        avoid.push(server);
                        push_new(&mut errors, error.to_string());
                    }
                }
            }
            if stored.len() == target {
                return Ok(stored);
            }
            if put_off.len() > put_offs {
                tokio::time::sleep(RETRY_PAUSE).await;
                continue;
            }
            if stored.len() == had {
                in_vain += began.elapsed();
            }
            // Another server may take the place of one that failed just now; else wait for one.
            let spare_may_help = asked > 0;
            if spare_may_help && avoid.len() < target {
                continue;
            }
            if self.wait_until.pause(std::mem::take(&mut in_vain)).await {
                (avoid, avoids_early) = (Vec::new(), false);
                continue;
            }
            if stored.len() >= enough {
                return Ok(stored);
            }
            // It may have come back since.
            if std::mem::take(&mut avoids_early) {
                avoid.clear();
                continue;
            }
            return Err(self.too_few(stored.len(), enough, target, errors));
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
        let began = Instant::now();
        let outcome = match shards.shard(place.index, on_sent) {
            Some(shard) => self.storage.put_shard(place, epoch, shard).await,
            None => Err(server::Error::Nonsense {
                service: format!("coordinator {}", self.coordinator.url()),
                why: format!("a place for shard {} of {}", place.index, shards.geometry),
            }),
        };
        self.silent.note(place.server, &outcome, began);
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

    fn too_few(&self, stored: usize, enough: usize, target: usize, errors: Vec<String>) -> Failure {
        let what = format!(
            "only {stored} of {target} shards of a stripe could be stored; {} needs at least {enough} to accept a push",
            self.geometry
        );
        let failure = Failure::new(Exit::TooFewServers, what)
            .state("no snapshot was committed; what is stored already is used by the next push")
            .next("arc servers                      which servers are down")
            .next("arc push --wait-servers 30m …    to wait for them longer");
        errors.into_iter().fold(failure, Failure::why)
    }
}

struct Stored {
    file_bytes: u64,
    receipts: Vec<Receipt>,
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

fn is_passing(error: &server::Error) -> bool {
    matches!(error.code(), Some(Code::StaleEpoch | Code::Expired | Code::NotReady | Code::Busy))
}

fn push_new(lines: &mut Vec<String>, line: String) {
    if !lines.contains(&line) {
        lines.push(line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_in_vain_uses_the_budget_up() {
        let budget = WaitBudget::new(Duration::from_secs(60));
        assert!(budget.take(Duration::from_secs(31)));
        assert!(budget.take(Duration::from_secs(31)));
        assert!(!budget.take(RETRY_PAUSE));
    }

    #[test]
    fn a_server_that_was_waited_for_is_avoided_until_it_takes_a_shard() {
        let silent = SilentServers::default();
        let away = || server::Error::Unreachable { service: "a".into(), why: "silent".into() };
        let now = Instant::now();
        silent.note(ServerId(1), &Err::<(), _>(away()), now);
        assert!(silent.now().is_empty(), "it refused at once");
        let Some(before) = now.checked_sub(SILENT_AFTER) else { return };
        silent.note(ServerId(1), &Err::<(), _>(away()), before);
        assert_eq!(silent.now(), [ServerId(1)]);
        silent.note(ServerId(1), &Ok(()), now);
        assert!(silent.now().is_empty());
    }
}

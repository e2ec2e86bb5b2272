//! From a finished pack to a committed stripe: encode, place, PUT to n servers at
//! once, commit with the receipts. A server that fails loses its shard to another;
//! when there is none, the push waits for as long as it was told, then is content
//! with fewer.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use codec::keys::VaultKeys;
use codec::pack::{self, Pack};
use codec::seal::{PackKey, PackKeyField};
use codec::shard::Kind;
use codec::stripe::Stripe;
use codec::{Geometry, VaultId};
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use server::auth::random;
use server::client::{CoordinatorClient, StorageClient};
use server::cpu;
use server::wire::{
    Code, CommitSnapshot, CommitStripe, Committed, Ids, LeaseId, Place, PlaceRequest, Placement,
    Receipt, ServerId, SnapshotRow,
};

use super::limit::Limit;
use super::packer::{BufferReturn, FinishedPack};
use super::shards::Shards;
use super::standing::{Patience, Standing};
use crate::exit::{Exit, Failure};
use crate::ui::{Counters, Ui};

/// The pause before servers that failed are asked again.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// A server may put a shard off this often (it has just started, it is busy); then it failed it.
const PUT_OFFS_MAX: usize = 5;
/// A server that takes this many times as long again as all the others did is far slower.
const FAR_SLOWER: u32 = 4;

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
    pub patience: Patience,
    /// How servers fared so far.
    pub standing: Standing,
    /// What the push waits for.
    pub limit: Arc<Limit>,
    /// For the display.
    pub counters: Arc<Counters>,
    /// For warnings.
    pub ui: Ui,
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
            let began = Instant::now();
            let committed = self.coordinator.commit_stripe(&stripe).await;
            self.limit.asked(began.elapsed());
            match committed {
                Ok(committed) => return Ok(sent(&shards, &stripe, committed)),
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
            let committed = loop {
                match self.coordinator.commit_snapshot(&commit).await {
                    // It is stored, and its stamp on too few servers yet.
                    Err(error)
                        if error.code() == Some(Code::TooFewServers)
                            && self.patience.lasts(Instant::now()) =>
                    {
                        tokio::time::sleep(RETRY_PAUSE).await;
                    }
                    committed => break committed,
                }
            };
            match committed {
                Ok(row) => {
                    let committed = Committed { holders, target: geometry.shards() as u8 };
                    return Ok((row, sent(&shards, &commit.stripe, committed)));
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
        let began = Instant::now();
        let stripe =
            cpu::run(move || Stripe::encode(vault, kind, geometry, pack_key, bytes)).await?;
        self.limit.encoded(began.elapsed());
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
        let mut avoid = self.standing.avoided(Instant::now());
        let mut avoids_early = !avoid.is_empty();
        let mut put_off: Vec<ServerId> = Vec::new();
        let mut errors: Vec<(Option<Code>, String)> = Vec::new();
        // The last time that there was no place says how things stand.
        let mut refused = None;
        let mut slowest = None;
        loop {
            let placement = self.place(shards, stored, &avoid, enough, &mut refused).await?;
            let put_offs = put_off.len();
            for (server, outcome) in self.put_all(&placement, shards, &mut slowest).await {
                match outcome {
                    Ok(receipt) => stored.push(receipt),
                    Err(error) if is_passing(&error) && may_put_off(&put_off, server) => {
                        put_off.push(server);
                        push_new(&mut errors, (error.code(), error.to_string()));
                    }
                    Err(error) => {
                        avoid.push(server);
                        self.tell_once(server, &error.to_string());
                        push_new(&mut errors, (error.code(), error.to_string()));
                    }
                }
            }
            if stored.len() == target {
                self.patience.renew();
                return Ok(());
            }
            if put_off.len() > put_offs {
                tokio::time::sleep(RETRY_PAUSE).await;
                continue;
            }
            // Another server may take the place of one that failed just now; else wait for one.
            // Each round stores a shard or avoids one server more, so there is a last one.
            if !placement.places.is_empty() {
                continue;
            }
            if self.patience.lasts(Instant::now()) {
                tokio::time::sleep(RETRY_PAUSE).await;
                (avoid, avoids_early) = (self.standing.forgers(), false);
                continue;
            }
            if stored.len() >= enough {
                return Ok(());
            }
            // It may have come back since.
            if std::mem::take(&mut avoids_early) {
                avoid = self.standing.forgers();
                continue;
            }
            errors.extend(refused);
            return Err(self.too_few(stored.len(), enough, target, errors));
        }
    }

    /// Places for the shards that are not stored; none where there are too few servers.
    async fn place(
        &self,
        shards: &Shards,
        stored: &[Receipt],
        avoid: &[ServerId],
        enough: usize,
        refused: &mut Option<(Option<Code>, String)>,
    ) -> Result<Placement, Failure> {
        let request = PlaceRequest {
            lease: self.lease,
            stripe: shards.stripe,
            geometry: shards.geometry,
            file_bytes: shards.file_bytes,
            stored: stored.iter().map(|r| (r.index, r.server)).collect(),
            avoid: avoid.to_vec(),
            min_shards: enough as u8,
        };
        let began = Instant::now();
        let placement = self.coordinator.place(&request).await;
        self.limit.asked(began.elapsed());
        match placement {
            Ok(placement) => Ok(placement),
            Err(error) if matches!(error.code(), Some(Code::TooFewServers | Code::NoSpace)) => {
                *refused = Some((error.code(), error.to_string()));
                Ok(Placement { epoch: 0, places: Vec::new(), spares: 0 })
            }
            Err(error) => Err(error.into()),
        }
    }

    /// After a commit that was refused for the receipt of one server: does without that server
    /// from here on. Every other refusal is a failure.
    fn distrust(&self, error: server::Error, stored: &mut Vec<Receipt>) -> Result<(), Failure> {
        let forger = error.blamed().filter(|blamed| stored.iter().any(|r| r.server == *blamed));
        let Some(forger) = forger else { return Err(error.into()) };
        stored.retain(|receipt| receipt.server != forger);
        self.standing.distrust(forger);
        self.tell_once(forger, &error.to_string());
        Ok(())
    }

    /// Warns of a server when it fails this push for the first time.
    fn tell_once(&self, server: ServerId, error: &str) {
        if self.standing.is_first_failure(server) {
            self.ui.warn(&format!("{error}; its shards wait, or go to other servers"), None);
        }
    }

    /// PUTs to all places at once. A server that takes far longer than the `slowest` of the others,
    /// those of earlier rounds among them, is not waited for where spares can take what is left.
    async fn put_all(
        &self,
        placement: &Placement,
        shards: &Shards,
        slowest: &mut Option<Duration>,
    ) -> Vec<(ServerId, server::Result<Receipt>)> {
        let Placement { epoch, places, spares } = placement;
        let began = Instant::now();
        let mut puts: FuturesUnordered<_> =
            places.iter().map(|place| self.put(place, *epoch, shards)).collect();
        let mut done: Vec<(ServerId, server::Result<Receipt>)> = Vec::with_capacity(places.len());
        let (mut took, mut alone) = (Duration::ZERO, Duration::ZERO);
        loop {
            let is_rest = puts.len() <= shards.geometry.parity();
            let far = slowest.filter(|_| is_rest).map(|slowest| slowest * FAR_SLOWER);
            let patience = left(places, &done).map(|p| self.standing.patience(p.server)).max();
            // Those that failed want spares too.
            let failed = done.iter().filter(|(_, outcome)| outcome.is_err()).count();
            let can_do_without = puts.len() + failed <= *spares as usize;
            let bound = far.zip(patience).filter(|_| can_do_without).map(|(far, p)| far + p);
            let rest = bound.map(|bound| bound.saturating_sub(began.elapsed()));
            let put = tokio::time::timeout(rest.unwrap_or(Duration::MAX), puts.next()).await;
            if !matches!(put, Ok(None)) {
                alone = began.elapsed() - took;
                took += alone;
            }
            match put {
                Ok(Some((server, Ok(receipt)))) => {
                    self.standing.took(server, took, far);
                    *slowest = (*slowest).max(Some(took));
                    done.push((server, Ok(receipt)));
                }
                Ok(Some(failed)) => done.push(failed),
                Ok(None) => break,
                Err(_) => {
                    drop(puts);
                    self.do_without(places, took, far, &mut done);
                    break;
                }
            }
        }
        let last = done.last().and_then(|(s, _)| places.iter().find(|place| place.server == *s));
        if let Some(last) = last {
            self.limit.put(took, &last.name, alone);
        }
        done
    }

    /// What is not done after it `took` so long, which is more than `far`, goes to spares.
    fn do_without(
        &self,
        places: &[Place],
        took: Duration,
        far: Option<Duration>,
        done: &mut Vec<(ServerId, server::Result<Receipt>)>,
    ) {
        let slow: Vec<&Place> = left(places, done).collect();
        for Place { server, name, url, .. } in slow {
            self.standing.took(*server, took, far);
            self.limit.without(name, self.standing.avoid(*server, Instant::now()));
            let service = format!("{name} {url}");
            let why = "it is far slower than the other servers".to_owned();
            done.push((*server, Err(server::Error::Unreachable { service, why })));
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
        self.standing.note(place.server, &outcome, began);
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

/// Places that nothing came of yet.
fn left<'a, T>(places: &'a [Place], done: &[(ServerId, T)]) -> impl Iterator<Item = &'a Place> {
    places.iter().filter(|place| done.iter().all(|(server, _)| *server != place.server))
}

/// Whether to ask again: the coordinator started anew in between (`place` gives new tickets), or
/// the server did, or it is busy.
fn is_passing(error: &server::Error) -> bool {
    matches!(error.code(), Some(Code::StaleEpoch | Code::Expired | Code::NotReady | Code::Busy))
}

fn sent(shards: &Shards, stripe: &CommitStripe, committed: Committed) -> Sent {
    let server_bytes = shards.file_bytes * u64::from(committed.holders);
    Sent { pack_bytes: stripe.pack_bytes, server_bytes, committed }
}

fn may_put_off(put_off: &[ServerId], server: ServerId) -> bool {
    put_off.iter().filter(|s| **s == server).count() < PUT_OFFS_MAX
}

fn push_new<T: PartialEq>(list: &mut Vec<T>, item: T) {
    if !list.contains(&item) {
        list.push(item);
    }
}

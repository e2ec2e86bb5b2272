//! An open storage server: what its handlers share.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::body::{Body, HttpBody as _};
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use bytes::Bytes;
use codec::Digest;
use http_body_util::BodyExt as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::address::Address;
use super::clock::Clock;
use super::facts::Facts;
use super::folder::Folder;
use super::gate::Gate;
use super::identity::{Identity, Keys};
use super::papers::Papers;
use super::rebuild::FLOWS_MAX;
use super::room::Room;
use super::scrub::Scrub;
use super::shelf::Shelf;
use super::throttle::Throttle;
use super::{Config, Limits};
use crate::auth::{hello_answer_mac, hello_mac, receipt_mac, same};
use crate::client::StorageClient;
use crate::wire::{Blob, Code, Hello, HelloAnswer, Receipt, Weight, Work};
use crate::{Error, Result};

const STARTS_FILE: &str = "starts";
/// Shards read whole for checks at once.
const CHECKS: usize = 2;
/// A read from another server that is busy or away is repeated no longer than this.
const PEER_PATIENCE_MAX: Duration = Duration::from_secs(5);
/// A peer waits no longer than this for the pace here.
const PEER_WAIT_MAX: Duration = Duration::from_secs(5);
/// Refused bodies read to their end at once.
const DRAINS: usize = 8;
/// A refused body is read no further than this.
const DRAIN_BYTES_MAX: usize = 256 * 1024 * 1024;

pub(super) struct Server {
    pub(super) folder: Arc<Folder>,
    pub(super) gate: Gate,
    pub(super) shelf: Arc<Shelf>,
    pub(super) room: Arc<Room>,
    pub(super) facts: Arc<Facts>,
    pub(super) limits: Limits,
    pub(super) scrub: Scrub,
    /// The pace of all work in the background.
    pub(super) throttle: Arc<Throttle>,
    pub(super) checks: Arc<Semaphore>,
    /// For what is read from, and sent to, other servers.
    pub(super) peers: StorageClient,
    puts: Arc<Semaphore>,
    gets: Arc<Semaphore>,
    rebuilds: Arc<Semaphore>,
    urgent_rebuilds: Arc<Semaphore>,
    /// What rebuilds have coming from their sources.
    pub(super) flows: Arc<Semaphore>,
    drains: Arc<Semaphore>,
    keys: Keys,
    papers: Arc<Papers>,
    weight: Weight,
    starts: u64,
}

impl Server {
    /// Counts this start, and opens the shelf. Where the count cannot be kept (the disk is full or
    /// read-only) nothing is stored: names made with it would come again.
    pub(super) fn open(
        folder: Arc<Folder>,
        (identity, keys): (Identity, Keys),
        (papers, clock): (Arc<Papers>, Arc<Clock>),
        room: Arc<Room>,
        config: &Config,
    ) -> Result<Self> {
        let starts = folder.read_number(STARTS_FILE)? + 1;
        if let Err(error) = folder.write_number(STARTS_FILE, starts) {
            room.report_trouble(&error);
        }
        let root = folder.root().to_owned();
        let limits = config.limits.clone();
        let planted = (config.fault, config.fail_at);
        let shelf = Shelf::new(root, identity.vault, Arc::clone(&room), starts, planted)?;
        let (root, key) = (folder.root(), identity.ticket_key.0.clone());
        let facts = Facts::open(root, identity.vault, key, Arc::clone(&room), starts)?;
        let patience = limits.busy_wait.min(PEER_PATIENCE_MAX);
        let peers = StorageClient::new(limits.client_silence, &papers.trust);
        Ok(Self {
            scrub: Scrub::open(&folder, &config.scrub)?,
            throttle: Arc::new(Throttle::new(None)),
            peers: peers.with_patience(patience),
            gate: Gate::open(Arc::clone(&folder), identity, clock)?,
            folder,
            shelf: Arc::new(shelf),
            facts: Arc::new(facts),
            room,
            checks: Arc::new(Semaphore::new(CHECKS)),
            puts: Arc::new(Semaphore::new(limits.puts)),
            gets: Arc::new(Semaphore::new(limits.gets)),
            rebuilds: Arc::new(Semaphore::new(limits.rebuilds)),
            urgent_rebuilds: Arc::new(Semaphore::new(limits.rebuilds)),
            flows: Arc::new(Semaphore::new(FLOWS_MAX)),
            drains: Arc::new(Semaphore::new(DRAINS)),
            limits,
            keys,
            papers,
            weight: config.weight,
            starts,
        })
    }

    /// A slot for a PUT, or a refusal after a while.
    pub(super) async fn put_slot(&self) -> Result<OwnedSemaphorePermit> {
        self.slot(&self.puts, "too many shards are on their way here").await
    }

    /// A slot for a GET, or a refusal after a while.
    pub(super) async fn get_slot(&self) -> Result<OwnedSemaphorePermit> {
        self.slot(&self.gets, "too many shards are being read here").await
    }

    /// How many GETs are answered just now.
    pub(super) fn gets_now(&self) -> u64 {
        (self.limits.gets - self.gets.available_permits()) as u64
    }

    /// A slot for a rebuild, or a refusal after a while. What is urgent does not wait for one that
    /// goes at a pace.
    pub(super) async fn rebuild_slot(&self, work: Work) -> Result<OwnedSemaphorePermit> {
        let slots = if work == Work::Urgent { &self.urgent_rebuilds } else { &self.rebuilds };
        self.slot(slots, "another stripe is being rebuilt here").await
    }

    /// Whether a shard is being written, read or rebuilt for somebody.
    pub(super) fn is_busy(&self) -> bool {
        let Limits { puts, gets, rebuilds, .. } = self.limits;
        let slots = [
            (&self.puts, puts),
            (&self.gets, gets),
            (&self.rebuilds, rebuilds),
            (&self.urgent_rebuilds, rebuilds),
        ];
        slots.into_iter().any(|(slots, all)| slots.available_permits() < all)
    }

    /// How long a peer's rebuild waits for the pace here, piece by piece, before it would take this
    /// server for dead.
    pub(super) fn peer_wait(&self) -> Duration {
        PEER_WAIT_MAX.min(self.limits.client_silence / 4)
    }

    async fn slot(&self, slots: &Arc<Semaphore>, busy: &str) -> Result<OwnedSemaphorePermit> {
        let slot = Arc::clone(slots).acquire_owned();
        match tokio::time::timeout(self.limits.busy_wait, slot).await {
            Ok(Ok(slot)) => Ok(slot),
            _ => Err(Error::refuse(Code::Busy, busy)),
        }
    }

    /// Waits until no PUT and no rebuild writes any more, and lets none begin; `false` if one
    /// still does.
    pub(super) async fn finish_writes(&self, wait: Duration) -> bool {
        let all = async |slots: &Semaphore, count: usize| {
            let all = u32::try_from(count).unwrap_or(u32::MAX);
            slots.acquire_many(all).await.map(|slots| slots.forget()).is_ok()
        };
        let both = async {
            all(&self.puts, self.limits.puts).await
                && all(&self.rebuilds, self.limits.rebuilds).await
                && all(&self.urgent_rebuilds, self.limits.rebuilds).await
        };
        let finished = tokio::time::timeout(wait, both).await.unwrap_or(false);
        if !finished {
            tracing::warn!("the disk is slow: a shard is still being written");
        }
        finished
    }

    /// The proof that a shard is held.
    pub(super) fn receipt(&self, address: Address, header_hash: Digest, epoch: u64) -> Receipt {
        let Address { stripe, index } = address;
        let server = self.gate.identity.server;
        let mac = Blob::default();
        let mut receipt = Receipt { stripe, index, server, header_hash, epoch, mac };
        receipt.mac.0 = receipt_mac(&self.keys.shared_key.0, self.gate.identity.vault, &receipt);
        receipt
    }

    /// The hello that says where this server is reached.
    pub(super) fn hello(&self, url: &str) -> Hello {
        let server = self.gate.identity.server;
        let (url, mac, tls) = (url.to_owned(), Blob::default(), Some(self.papers.wish()));
        let (starts, weight) = (self.starts, self.weight);
        let mut hello = Hello { server, url, starts, tls, weight, mac };
        hello.mac.0 = hello_mac(&self.keys.shared_key.0, &hello);
        hello
    }

    /// Takes note of the answer to `hello`, if the coordinator gave it.
    pub(super) async fn answered(&self, hello: &Hello, answer: HelloAnswer) -> Result<()> {
        let mac = hello_answer_mac(&self.keys.shared_key.0, hello, &answer);
        if !same(&mac, &answer.mac.0) {
            let service = "what listens at the coordinator's address".to_owned();
            let why = "an answer to the hello that the coordinator did not sign".to_owned();
            return Err(Error::Nonsense { service, why });
        }
        self.heard(answer.epoch, answer.now_ms).await;
        if let Some(tls) = answer.tls
            && let Err(error) = self.papers.take(tls).await
        {
            tracing::error!(%error, "the coordinator's certificate is of no use");
        }
        let Some(Blob(record)) = answer.record else { return Ok(()) };
        if let Err(error) = self.keep_record(record).await {
            tracing::error!(%error, "the coordinator's vault record is not kept");
        }
        Ok(())
    }

    /// How long until another hello is due, for a new certificate; `None` for none.
    pub(super) fn until_renewal(&self) -> Option<Duration> {
        let (due_ms, now_ms) = (self.papers.renew_ms()?, self.gate.clock.now_ms());
        Some(Duration::from_millis(due_ms.saturating_sub(now_ms.unwrap_or(0))))
    }

    /// Takes note of the coordinator's epoch and time.
    pub(super) async fn heard(&self, epoch: u64, now_ms: u64) {
        self.gate.raise_epoch(epoch).await;
        self.gate.clock.advance(now_ms);
    }

    /// Keeps the vault record, unless it is another vault's or older than the one that is there.
    pub(super) async fn keep_record(&self, record: Vec<u8>) -> Result<()> {
        let (folder, vault) = (Arc::clone(&self.folder), self.gate.identity.vault);
        blocking(move || folder.keep_record(vault, &record)).await
    }

    /// Reads what is left of a refused request, in the background: closing the connection under
    /// a client that is still sending would take its answer away.
    pub(super) fn drain(&self, mut body: Body) {
        if body.is_end_stream() {
            return;
        }
        // Beyond the bounds it is the client that has to bear it.
        let Ok(slot) = Arc::clone(&self.drains).try_acquire_owned() else { return };
        let longest = self.limits.client_silence;
        tokio::spawn(async move {
            let _slot = slot;
            let all = async {
                let mut drained = 0;
                while drained < DRAIN_BYTES_MAX
                    && let Ok(Some(piece)) = next_piece(&mut body, longest).await
                {
                    drained += piece.len();
                }
            };
            // A timeout drops the body, which closes the connection, as the end of this task does.
            let _ = tokio::time::timeout(longest, all).await;
        });
    }
}

/// The next bytes of a request's body; `None` at its end.
pub(super) async fn next_piece(body: &mut Body, silence: Duration) -> Result<Option<Bytes>> {
    loop {
        match tokio::time::timeout(silence, body.frame()).await {
            Ok(None) => return Ok(None),
            Ok(Some(Ok(frame))) => {
                // Trailers mean nothing here.
                if let Ok(piece) = frame.into_data() {
                    return Ok(Some(piece));
                }
            }
            Ok(Some(Err(error))) => {
                let why = format!("the request's body was cut off: {error}");
                return Err(Error::refuse(Code::BadRequest, why));
            }
            Err(_) => {
                let why = format!("no bytes came for {} s", silence.as_secs());
                return Err(Error::refuse(Code::BadRequest, why));
            }
        }
    }
}

/// Runs `work` where it may wait for a disk. A panic of `work` is resumed here.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is shutting down and will not poll this again.
            Err(_) => std::future::pending().await,
        },
    }
}

/// The server behind the router; empty until it has joined.
pub(super) type Door = Arc<OnceLock<Arc<Server>>>;

/// The open server, for handlers.
pub(super) struct Open(pub(super) Arc<Server>);

impl FromRequestParts<Door> for Open {
    type Rejection = Error;

    async fn from_request_parts(_: &mut Parts, door: &Door) -> Result<Self> {
        let server = door.get().map(Arc::clone);
        server.map(Self).ok_or_else(|| Error::refuse(Code::NotReady, "this server is starting"))
    }
}

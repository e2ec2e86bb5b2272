//! A coordinator, servers that answer probes, and the steps of a push.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_server::auth::{random, receipt_mac, verify_ticket};
use arc_server::coordinator::{self, Config, Coordinator, Timings};
use arc_server::serve::{self, Listen, Running, Transport};
use arc_server::wire::*;
use axum::extract::State as Shared;
use axum::routing::{post, put};
use axum::{Json, Router};
use codec::keys::{Argon2Cost, RecoveryKey, Secret, VaultRandom, VaultRecord};
use codec::seal::PackKeyField;
use codec::shard::Kind;
use codec::{ChunkId, Digest, Geometry, StripeId, VaultId};
use reqwest::Method;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::watch;

use crate::shelf::Shelf;

/// Plenty for a busy machine; nothing waits this long unless it fails.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) fn timings() -> Timings {
    Timings {
        probe_every: Duration::from_millis(20),
        probe_timeout: Duration::from_secs(5),
        repair_every: Duration::ZERO,
        drain: Duration::from_secs(5),
        // Tests of it have it begin.
        compare_every: Duration::ZERO,
        audit_every: Duration::ZERO,
        ..Timings::default()
    }
}

pub(crate) fn listen() -> Listen {
    Listen { address: ([127, 0, 0, 1], 0).into(), transport: Transport::Usual }
}

/// A coordinator in a folder of its own.
pub(crate) struct Fixture {
    pub(crate) folder: TempDir,
    pub(crate) coordinator: Coordinator,
    pub(crate) servers: Vec<FakeServer>,
    http: reqwest::Client,
}

/// What an error of the coordinator says.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) status: u16,
    pub(crate) refusal: Refusal,
}

impl Fixture {
    pub(crate) async fn start() -> Self {
        Self::start_with(timings()).await
    }

    pub(crate) async fn start_with(timings: Timings) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let coordinator = start_in(&folder, timings).await;
        let mut headers = reqwest::header::HeaderMap::new();
        headers.insert(PROTOCOL_HEADER, PROTOCOL.into());
        arc_server::tls::install_provider();
        let http =
            reqwest::Client::builder().no_proxy().tls_certs_only([]).default_headers(headers);
        let http = http.build().unwrap();
        Self { folder, coordinator, servers: Vec::new(), http }
    }

    /// One with servers s1, s2, … in these zones, all up, and a lease.
    pub(crate) async fn with_servers(zones: &[&str]) -> (Self, Lease) {
        let mut fixture = Self::start().await;
        for (n, zone) in zones.iter().enumerate() {
            fixture.join(&format!("s{}", n + 1), zone).await;
        }
        let lease = fixture.begin().await;
        (fixture, lease)
    }

    pub(crate) async fn restart(&mut self, timings: Timings) {
        self.restart_with(timings, || ()).await;
    }

    /// The same, and `between` while none runs.
    pub(crate) async fn restart_with(&mut self, timings: Timings, between: impl FnOnce()) {
        // The old one must let the folder go before the new one takes it.
        let placeholder = tempfile::tempdir().unwrap();
        let other = start_in(&placeholder, timings.clone()).await;
        std::mem::replace(&mut self.coordinator, other).stop().await;
        between();
        let again = start_in(&self.folder, timings).await;
        std::mem::replace(&mut self.coordinator, again).stop().await;
    }

    /// Sends a request with any token; the body is `null` unless given.
    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        token: Option<&str>,
        body: &impl Serialize,
    ) -> Result<Value, Refused> {
        let url = format!("{}{path}", self.coordinator.running.url());
        let mut request = self.http.request(method, url).json(body);
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        let response = request.send().await.unwrap();
        let status = response.status().as_u16();
        let bytes = response.bytes().await.unwrap();
        if status == 200 {
            let bytes = if bytes.is_empty() { &b"null"[..] } else { &bytes };
            return Ok(serde_json::from_slice(bytes).unwrap());
        }
        let refusal: Refusal = serde_json::from_slice(&bytes)
            .unwrap_or_else(|e| panic!("{path}: status {status} without a refusal: {e}"));
        assert_eq!(status, refusal.code.status(), "{path}: {refusal:?}");
        Err(Refused { status, refusal })
    }

    /// Sends a request as the owner.
    pub(crate) async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, Refused> {
        let answer = self.send(method, path, Some(&self.coordinator.owner.secret), body).await?;
        Ok(serde_json::from_value(answer).unwrap())
    }

    pub(crate) async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, Refused> {
        self.ask(Method::POST, path, body).await
    }

    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> T {
        self.ask(Method::GET, path, &()).await.unwrap()
    }

    /// A new server that answers probes.
    pub(crate) async fn join(&mut self, name: &str, zone: &str) -> &FakeServer {
        let fake = FakeServer::start(name).await;
        let answer = self.send_join(name, zone, &fake.url()).await.unwrap();
        fake.belong_to(&answer);
        self.servers.push(fake);
        self.state_becomes(name, State::Up).await;
        self.servers.last().unwrap()
    }

    pub(crate) async fn send_join(
        &self,
        name: &str,
        zone: &str,
        url: &str,
    ) -> Result<JoinAnswer, Refused> {
        let request = JoinRequest {
            name: name.into(),
            zone: zone.into(),
            url: url.into(),
            capacity_bytes: 1 << 40,
            free_bytes: 1 << 40,
            weight: Weight::ONE,
        };
        let secret = &self.coordinator.join.secret;
        let answer = self.send(Method::POST, "/v1/join", Some(secret), &request).await?;
        Ok(serde_json::from_value(answer).unwrap())
    }

    /// Waits until the coordinator sees a server in a state.
    pub(crate) async fn state_becomes(&self, name: &str, state: State) {
        let reached = async {
            loop {
                let page: Page<ServerInfo> = self.get("/v1/servers").await;
                if page.rows.iter().any(|s| s.name == name && s.state == state) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let timeout = tokio::time::timeout(PATIENCE, reached).await;
        timeout.unwrap_or_else(|_| panic!("{name} never was {state:?}"));
    }

    pub(crate) async fn status(&self) -> Status {
        self.get("/v1/status?chunks=true").await
    }

    pub(crate) async fn begin(&self) -> Lease {
        self.post("/v1/leases", &begin_of(9, None)).await.unwrap()
    }

    pub(crate) async fn have(&self, lease: &Lease, chunks: &[ChunkId]) -> String {
        let request = HaveRequest { lease: lease.lease, chunks: Ids(chunks.to_vec()) };
        self.post::<HaveAnswer>("/v1/have", &request).await.unwrap().have
    }

    pub(crate) async fn place(&self, request: &PlaceRequest) -> Result<Placement, Refused> {
        self.post("/v1/place", request).await
    }

    pub(crate) async fn commit(&self, commit: &CommitStripe) -> Result<Committed, Refused> {
        self.post("/v1/stripes", commit).await
    }

    /// The receipt of the server that a place names.
    pub(crate) fn receipt(&self, stripe: StripeId, place: &Place, epoch: u64) -> Receipt {
        let fake = self.servers.iter().find(|s| s.id() == place.server).unwrap();
        fake.receipt(stripe, place.index, epoch)
    }

    /// Places a stripe with two chunks and gives its commit with all receipts.
    pub(crate) async fn stored(&self, lease: &Lease, number: u8, code: (u8, u8)) -> CommitStripe {
        let request = place_request(lease, number, code);
        let placement = self.place(&request).await.unwrap();
        let receipts = placement
            .places
            .iter()
            .map(|p| self.receipt(request.stripe, p, placement.epoch))
            .collect();
        commit_of(&request, receipts)
    }

    /// Stores and commits a stripe.
    pub(crate) async fn push(&self, lease: &Lease, number: u8, code: (u8, u8)) -> CommitStripe {
        let commit = self.stored(lease, number, code).await;
        self.commit(&commit).await.unwrap();
        commit
    }

    /// Stores and commits a snapshot.
    pub(crate) async fn snapshot(
        &self,
        lease: &Lease,
        number: u8,
    ) -> (CommitSnapshot, SnapshotRow) {
        let mut stripe = self.stored(lease, number, (1, 1)).await;
        stripe.kind = Kind::Snapshot;
        let commit = CommitSnapshot { stripe, source_set: Digest([9; 32]) };
        let row = self.post("/v1/snapshots", &commit).await.unwrap();
        (commit, row)
    }
}

pub(crate) async fn start_in(folder: &TempDir, timings: Timings) -> Coordinator {
    let data = folder.path().join("coordinator");
    let config = Config { data, listen: listen(), advertise: None, timings, fail_at: None };
    coordinator::start(config).await.unwrap()
}

pub(crate) fn stripe(number: u8) -> StripeId {
    StripeId([number; 32])
}

/// The begin of a push of these sources, unlike all others.
pub(crate) fn begin_of(source_set: u8, parent: Option<StripeId>) -> Begin {
    let nonce = Blob(random::<NONCE_BYTES>().unwrap().to_vec());
    Begin { nonce, request: BeginRequest { source_set: Digest([source_set; 32]), parent } }
}

/// A vault record of `generation` 1 with a key file of these bytes.
pub(crate) fn vault_record(vault: VaultId, key: u8) -> Vec<u8> {
    let secret = Secret::KeyFile(vec![key; 32].into());
    let random = VaultRandom {
        master: [key; 32],
        salt: [2; 32],
        nonce: [3; 12],
        private_key: [4; 32],
        private_nonce: [5; 12],
    };
    let code = Geometry::new(2, 1).unwrap();
    let made = VaultRecord::create(vault, code, &secret, Argon2Cost::DEFAULT, random);
    made.unwrap().0.encode()
}

/// The same record as it is after so many changes.
pub(crate) fn changed(record: &[u8], key: u8, changes: u8) -> Vec<u8> {
    let mut record = VaultRecord::decode(record).unwrap();
    let keys = record.unlock(&Secret::KeyFile(vec![key; 32].into())).unwrap();
    for change in 1..=changes {
        let key = RecoveryKey::new([change; 32]);
        record.set_recovery_key(&keys, key, [change; 32], [9; 12]).unwrap();
    }
    record.encode()
}

/// The chunks of stripe `number`.
pub(crate) fn chunks(number: u8) -> [ChunkId; 2] {
    // Out of order, as a client may send them.
    [ChunkId([number.wrapping_mul(37) ^ 0xff; 32]), ChunkId([number; 32])]
}

pub(crate) fn place_request(lease: &Lease, number: u8, (k, m): (u8, u8)) -> PlaceRequest {
    PlaceRequest {
        lease: lease.lease,
        stripe: stripe(number),
        geometry: Geometry::new(k, m).unwrap(),
        file_bytes: 1 << 20,
        stored: vec![],
        avoid: vec![],
        min_shards: k + m,
    }
}

pub(crate) fn commit_of(request: &PlaceRequest, receipts: Vec<Receipt>) -> CommitStripe {
    CommitStripe {
        lease: request.lease,
        stripe: request.stripe,
        kind: Kind::Data,
        geometry: request.geometry,
        pack_bytes: 1_000_000,
        pack_key: PackKeyField(vec![7; 64]),
        frames: vec![(0, 400_000), (0, 900_000)],
        chunks: Ids(chunks(request.stripe.0[0]).to_vec()),
        chunk_frames: vec![1, 0],
        receipts,
    }
}

/// A storage server that only answers what the coordinator asks of it.
pub(crate) struct FakeServer {
    pub(crate) name: String,
    /// What it holds: the shards that it gave receipts for, unless a test takes some away.
    pub(crate) shelf: Arc<Shelf>,
    running: Running,
    inner: Arc<Inner>,
}

struct Inner {
    identity: Mutex<Option<JoinAnswer>>,
    /// What it says to a probe instead of its numbers, if not all is well.
    answers: Mutex<Answers>,
    /// The vault record that it was given.
    record: watch::Sender<Option<Vec<u8>>>,
    /// The facts that it was given.
    facts: Mutex<Vec<Vec<u8>>>,
}

#[derive(Clone)]
pub(crate) struct Answers {
    pub(crate) silent: bool,
    pub(crate) free_bytes: u64,
    pub(crate) trouble: Option<String>,
    pub(crate) findings: u64,
    /// The highest epoch that it has seen.
    pub(crate) epoch: u64,
    /// Whether it takes facts.
    pub(crate) takes_facts: bool,
}

impl FakeServer {
    pub(crate) async fn start(name: &str) -> Self {
        let answers = Answers {
            silent: false,
            free_bytes: 1 << 40,
            trouble: None,
            findings: 0,
            epoch: 0,
            takes_facts: true,
        };
        let inner = Arc::new(Inner {
            identity: Mutex::default(),
            answers: Mutex::new(answers),
            record: watch::Sender::new(None),
            facts: Mutex::default(),
        });
        let router = Router::new()
            .route("/v1/probe", post(probe))
            .route("/v1/vault-record", put(take_record))
            .route("/v1/facts", put(take_facts).get(give_facts))
            .with_state(Arc::clone(&inner));
        let shelf = Shelf::new();
        let router = router.merge(shelf.router());
        let running = serve::start(listen().address, None, router).await.unwrap();
        Self { name: name.into(), shelf, running, inner }
    }

    pub(crate) fn url(&self) -> String {
        self.running.url()
    }

    pub(crate) fn belong_to(&self, answer: &JoinAnswer) {
        *self.inner.identity.lock().unwrap() = Some(answer.clone());
        self.shelf.belong_to(answer);
    }

    pub(crate) fn identity(&self) -> JoinAnswer {
        self.inner.identity.lock().unwrap().clone().unwrap()
    }

    pub(crate) fn id(&self) -> ServerId {
        self.identity().server
    }

    pub(crate) fn answer(&self, change: impl FnOnce(&mut Answers)) {
        change(&mut self.inner.answers.lock().unwrap());
    }

    /// Waits for a vault record.
    pub(crate) async fn record(&self) -> Vec<u8> {
        let mut record = self.inner.record.subscribe();
        let given = tokio::time::timeout(PATIENCE, record.wait_for(Option::is_some)).await;
        given.expect("no vault record came").unwrap().clone().unwrap()
    }

    /// The facts that it has, which a test may change.
    pub(crate) fn facts(&self) -> std::sync::MutexGuard<'_, Vec<Vec<u8>>> {
        self.inner.facts.lock().unwrap()
    }

    pub(crate) fn forget_record(&self) {
        self.inner.record.send_replace(None);
    }

    pub(crate) fn receipt(&self, stripe: StripeId, index: u8, epoch: u64) -> Receipt {
        self.shelf.hold(stripe, index, false);
        let identity = self.identity();
        let (server, header_hash) = (identity.server, Digest([index; 32]));
        let mut receipt = Receipt { stripe, index, server, header_hash, epoch, mac: Blob(vec![]) };
        receipt.mac = Blob(receipt_mac(&identity.shared_key.0, identity.vault, &receipt));
        receipt
    }
}

async fn probe(
    Shared(inner): Shared<Arc<Inner>>,
    headers: axum::http::HeaderMap,
    Json(probe): Json<Probe>,
) -> Result<Json<ProbeAnswer>, Refusal> {
    let nobody = Refusal::new(Code::NotReady, "nobody");
    let identity = inner.identity.lock().unwrap().clone().ok_or(nobody.clone())?;
    let answers = inner.answers.lock().unwrap().clone();
    if answers.silent || !controlled(&identity, &headers, Some(probe.epoch)) {
        return Err(nobody);
    }
    if probe.epoch < answers.epoch {
        let stale = Refusal::new(Code::StaleEpoch, "of an epoch before");
        return Err(Refusal { epoch: Some(answers.epoch), ..stale });
    }
    Ok(Json(ProbeAnswer {
        server: identity.server,
        vault: identity.vault,
        capacity_bytes: 1 << 40,
        free_bytes: answers.free_bytes,
        trouble: answers.trouble,
        findings: answers.findings,
        facts: Some(head_of(&inner.facts.lock().unwrap())),
        scrub: None,
    }))
}

async fn take_record(
    Shared(inner): Shared<Arc<Inner>>,
    headers: axum::http::HeaderMap,
    Json(PutVault { record }): Json<PutVault>,
) -> axum::http::StatusCode {
    let identity = inner.identity.lock().unwrap().clone();
    if !identity.is_some_and(|identity| controlled(&identity, &headers, None)) {
        return axum::http::StatusCode::UNAUTHORIZED;
    }
    inner.record.send_replace(Some(record.0));
    axum::http::StatusCode::OK
}

fn head_of(facts: &[Vec<u8>]) -> Head {
    let hash = facts.last().map(|bytes| codec::fact::hash(bytes)).unwrap_or_default();
    Head { number: facts.len() as u64, hash }
}

async fn take_facts(
    Shared(inner): Shared<Arc<Inner>>,
    headers: axum::http::HeaderMap,
    Json(PutFacts { facts }): Json<PutFacts>,
) -> Result<Json<Head>, Refusal> {
    let identity = inner.identity.lock().unwrap().clone();
    let takes = inner.answers.lock().unwrap().takes_facts;
    if !takes || !identity.is_some_and(|identity| controlled(&identity, &headers, None)) {
        return Err(Refusal::new(Code::Busy, "not now"));
    }
    let mut kept = inner.facts.lock().unwrap();
    for Blob(bytes) in facts {
        let number = codec::fact::Fact::peek(&bytes).unwrap().number as usize;
        match kept.get(number - 1) {
            Some(known) if *known == bytes => {}
            Some(_) => return Err(Refusal::new(Code::Conflict, "another one")),
            None if number == kept.len() + 1 => kept.push(bytes),
            None => return Err(Refusal::new(Code::BadRequest, "a gap")),
        }
    }
    Ok(Json(head_of(&kept)))
}

async fn give_facts(
    Shared(inner): Shared<Arc<Inner>>,
    axum::extract::Query(query): axum::extract::Query<FactsQuery>,
) -> Json<FactsPage> {
    let facts = inner.facts.lock().unwrap();
    let after = facts.iter().skip(query.after as usize);
    Json(FactsPage { facts: after.cloned().map(Blob).collect() })
}

/// Whether a request came with the coordinator's control ticket for this server.
fn controlled(identity: &JoinAnswer, headers: &axum::http::HeaderMap, epoch: Option<u64>) -> bool {
    let header = headers.get("authorization").and_then(|v| v.to_str().ok()).unwrap_or_default();
    let ticket = header.strip_prefix("Ticket ").unwrap_or_default();
    verify_ticket(ticket, &identity.ticket_key.0).is_ok_and(|ticket| {
        ticket.grant == arc_server::auth::Grant::Control
            && (ticket.server, ticket.vault) == (identity.server, identity.vault)
            && epoch.is_none_or(|epoch| epoch == ticket.epoch)
    })
}

pub(crate) fn vault_of(fixture: &Fixture) -> VaultId {
    fixture.servers[0].identity().vault
}

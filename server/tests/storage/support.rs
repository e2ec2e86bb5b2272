//! What the tests share: a coordinator's answers and tickets, shards, and one server.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_server::auth::{
    Grant, Role, Ticket, TicketSigner, Token, hello_answer_mac, hello_mac, same,
};
use arc_server::serve::{self, Listen, Running, Transport};
use arc_server::storage::{self, Config, Limits, ScrubRules, Storage};
use arc_server::wire::*;
use arc_server::{Error, Result};
use axum::extract::State;
use axum::http::HeaderMap;
use axum::routing::post;
use axum::{Json, Router};
use codec::keys::{Argon2Cost, Secret, VaultRandom, VaultRecord};
use codec::seal::PackKeyField;
use codec::shard::Kind;
use codec::stripe::Stripe;
use codec::{Geometry, StripeId, VaultId};
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tempfile::TempDir;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

pub(crate) const VAULT: VaultId = VaultId([9; 16]);
pub(crate) const SHARED_KEY: [u8; 32] = [3; 32];
/// Bytes of the pack key fields.
pub(crate) const PACK_KEY_BYTES: usize = 64;
/// Far from any wall clock.
pub(crate) const NOW_MS: u64 = 86_400_000 * 5;

pub(crate) struct Coordinator {
    signer: TicketSigner,
    secret: String,
    pub(crate) epoch: AtomicU64,
    pub(crate) deaf: AtomicBool,
    pub(crate) hellos: Mutex<Vec<Hello>>,
    /// The vault record in its answers.
    pub(crate) record: Mutex<Vec<u8>>,
    /// The key that signs these.
    pub(crate) hello_key: Mutex<[u8; 32]>,
    joined: Mutex<Vec<JoinRequest>>,
}

impl Coordinator {
    pub(crate) fn ticket(&self, grant: Grant) -> Ticket {
        Ticket {
            grant,
            vault: VAULT,
            server: ServerId(1),
            epoch: self.epoch.load(Ordering::Relaxed),
            issued_ms: NOW_MS,
            expires_ms: NOW_MS + 600_000,
        }
    }

    pub(crate) fn sign(&self, ticket: &Ticket) -> String {
        self.signer.sign(ticket).unwrap()
    }
}

type Shared = State<Arc<Coordinator>>;

async fn join(
    State(coordinator): Shared,
    headers: HeaderMap,
    Json(request): Json<JoinRequest>,
) -> Result<Json<JoinAnswer>> {
    if headers["authorization"] != format!("Bearer {}", coordinator.secret) {
        return Err(Error::refuse(Code::Unauthorized, "not a join token"));
    }
    let mut joined = coordinator.joined.lock().unwrap();
    if joined.iter().any(|other| other.name == request.name) {
        return Err(Error::refuse(Code::NameTaken, "a server of that name has joined"));
    }
    joined.push(request);
    Ok(Json(JoinAnswer {
        server: ServerId(joined.len() as u32),
        vault: VAULT,
        shared_key: Blob(SHARED_KEY.to_vec()),
        ticket_key: Blob(coordinator.signer.public_key()),
    }))
}

async fn hello(State(coordinator): Shared, Json(hello): Json<Hello>) -> Result<Json<HelloAnswer>> {
    if !same(&hello.mac.0, &hello_mac(&SHARED_KEY, &hello)) {
        return Err(Error::refuse(Code::Unauthorized, "not that server"));
    }
    if coordinator.deaf.load(Ordering::Relaxed) {
        coordinator.hellos.lock().unwrap().push(hello);
        return Err(Error::refuse(Code::NotReady, "not yet"));
    }
    let epoch = coordinator.epoch.load(Ordering::Relaxed);
    let record = Some(Blob(coordinator.record.lock().unwrap().clone()));
    let mut answer = HelloAnswer { epoch, now_ms: NOW_MS, record, tls: None, mac: Blob::default() };
    let key = *coordinator.hello_key.lock().unwrap();
    answer.mac.0 = hello_answer_mac(&key, &hello, &answer);
    coordinator.hellos.lock().unwrap().push(hello);
    Ok(Json(answer))
}

/// A folder and a coordinator; servers come and go.
pub(crate) struct World {
    pub(crate) dir: TempDir,
    pub(crate) coordinator: Arc<Coordinator>,
    service: Running,
    pub(crate) http: Client,
}

impl World {
    pub(crate) async fn new() -> Self {
        let token = Token::generate(Role::Join, "http://unused".into()).unwrap();
        let coordinator = Arc::new(Coordinator {
            signer: TicketSigner::from_seed(&[7; 32]).unwrap(),
            secret: token.secret,
            epoch: AtomicU64::new(4),
            deaf: AtomicBool::new(false),
            hellos: Mutex::default(),
            record: Mutex::new(record(VAULT, 1)),
            hello_key: Mutex::new(SHARED_KEY),
            joined: Mutex::default(),
        });
        let router = Router::new()
            .route("/v1/join", post(join))
            .route("/v1/hello", post(hello))
            .with_state(Arc::clone(&coordinator));
        let service = serve::start(anywhere().address, None, router).await.unwrap();
        arc_server::tls::install_provider();
        let http = Client::builder().no_proxy().tls_certs_only([]).build().unwrap();
        Self { dir: TempDir::new().unwrap(), coordinator, service, http }
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// How a server is started in this world, with a join token.
    pub(crate) fn config(&self) -> Config {
        Config {
            data: self.data(),
            listen: anywhere(),
            coordinator: self.service.url(),
            join_token: Some(Token {
                role: Role::Join,
                url: self.service.url(),
                ca: String::new(),
                secret: self.coordinator.secret.clone(),
            }),
            name: Some("disk-1".into()),
            zone: Some("here".into()),
            advertise: None,
            weight: Weight::ONE,
            reserve_bytes: Some(0),
            drain: Duration::from_secs(10),
            limits: Limits::default(),
            scrub: ScrubRules { every: Duration::ZERO, ..ScrubRules::default() },
            fault: None,
            fail_at: None,
        }
    }

    pub(crate) async fn server(&self) -> Server<'_> {
        self.server_with(|_| ()).await
    }

    pub(crate) async fn server_with(&self, change: impl FnOnce(&mut Config)) -> Server<'_> {
        let mut config = self.config();
        change(&mut config);
        let data = config.data.clone();
        let storage = storage::start(config).await.unwrap();
        Server { world: self, storage, data }
    }
}

pub(crate) fn anywhere() -> Listen {
    Listen { address: ([127, 0, 0, 1], 0).into(), transport: Transport::Usual }
}

/// A running server, and the requests that can be made of it.
pub(crate) struct Server<'a> {
    pub(crate) world: &'a World,
    pub(crate) storage: Storage,
    pub(crate) data: PathBuf,
}

impl Server<'_> {
    pub(crate) fn request(&self, method: Method, path: &str, ticket: &str) -> RequestBuilder {
        let url = format!("{}{path}", self.storage.running.url());
        let request = self.world.http.request(method, url).header(PROTOCOL_HEADER, PROTOCOL);
        request.header("authorization", format!("Ticket {ticket}"))
    }

    pub(crate) fn sign(&self, grant: Grant) -> String {
        let coordinator = &self.world.coordinator;
        coordinator.sign(&Ticket { server: self.storage.server, ..coordinator.ticket(grant) })
    }

    pub(crate) async fn put(&self, shard: &TestShard) -> Result<Receipt, Refusal> {
        let ticket = self.sign(shard.grant());
        self.put_bytes(shard, &ticket, shard.file.clone()).await
    }

    pub(crate) async fn put_bytes(
        &self,
        shard: &TestShard,
        ticket: &str,
        bytes: Vec<u8>,
    ) -> Result<Receipt, Refusal> {
        let request = self.request(Method::PUT, &shard.url_path(), ticket).body(bytes);
        answer(request.send().await.unwrap()).await
    }

    pub(crate) async fn get(&self, shard: &TestShard, range: Option<&str>) -> Response {
        let ticket = self.sign(Grant::Read);
        let mut request = self.request(Method::GET, &shard.url_path(), &ticket);
        if let Some(range) = range {
            request = request.header("range", range);
        }
        request.send().await.unwrap()
    }

    pub(crate) async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        grant: Grant,
        message: &impl Serialize,
    ) -> Result<T, Refusal> {
        let request = self.request(Method::POST, path, &self.sign(grant)).json(message);
        answer(request.send().await.unwrap()).await
    }

    /// What the coordinator gets from there.
    pub(crate) async fn fetch<T: DeserializeOwned>(&self, path: &str) -> Result<T, Refusal> {
        let request = self.request(Method::GET, path, &self.sign(Grant::Control));
        answer(request.send().await.unwrap()).await
    }

    pub(crate) async fn probe(&self) -> Result<ProbeAnswer, Refusal> {
        let epoch = self.world.coordinator.epoch.load(Ordering::Relaxed);
        self.post("/v1/probe", Grant::Control, &Probe { epoch, now_ms: NOW_MS }).await
    }

    pub(crate) async fn found(&self, shard: &TestShard, thoroughness: Thoroughness) -> Found {
        let request = CheckRequest { shards: vec![(shard.stripe, shard.index)], thoroughness };
        let answer: CheckAnswer = self.post("/v1/check", Grant::Read, &request).await.unwrap();
        answer.found[0].clone()
    }

    /// A PUT of which only the head and `bytes` were sent so far.
    pub(crate) async fn half_put(&self, shard: &TestShard, bytes: &[u8]) -> TcpStream {
        let mut stream = TcpStream::connect(self.storage.running.address).await.unwrap();
        let head = format!(
            "PUT {} HTTP/1.1\r\nhost: x\r\n{PROTOCOL_HEADER}: {PROTOCOL}\r\n\
             authorization: Ticket {}\r\ncontent-length: {}\r\n\r\n",
            shard.url_path(),
            self.sign(shard.grant()),
            shard.file.len()
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        stream
    }

    pub(crate) fn path(&self, shard: &TestShard) -> PathBuf {
        let name = format!("{}.{}", shard.stripe, shard.index);
        self.data.join("shards").join(&name[..2]).join(name)
    }

    /// Waits until a PUT has begun to write.
    pub(crate) async fn writing(&self) {
        eventually(|| !names(&self.data.join("tmp")).is_empty()).await;
    }

    /// Holds that no shard and no part of one is there, once the server is done with it.
    pub(crate) async fn holds_nothing(&self, case: &str) {
        let files = || -> Vec<PathBuf> {
            let shards = self.data.join("shards");
            let folders = names(&shards).into_iter().map(|name| shards.join(name));
            folders.flat_map(|folder| names(&folder)).map(PathBuf::from).collect()
        };
        eventually(|| names(&self.data.join("tmp")).is_empty()).await;
        assert_eq!(files(), Vec::<PathBuf>::new(), "{case}");
    }
}

/// The names in a folder.
pub(crate) fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// Waits for what must come; never says no before 20 s are over.
pub(crate) async fn eventually(mut holds: impl FnMut() -> bool) {
    let wait = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), wait).await.expect("it never came about");
}

pub(crate) async fn answer<T: DeserializeOwned>(response: Response) -> Result<T, Refusal> {
    let status = response.status();
    let retry_after = response.headers().contains_key("retry-after");
    let bytes = response.bytes().await.unwrap();
    if status.is_success() {
        return Ok(serde_json::from_slice(&bytes).unwrap());
    }
    assert_eq!(retry_after, status == StatusCode::SERVICE_UNAVAILABLE);
    let refusal: Refusal = serde_json::from_slice(&bytes).unwrap();
    assert_eq!(refusal.code.status(), status.as_u16());
    Err(refusal)
}

/// A vault record of that generation.
pub(crate) fn record(vault: VaultId, generation: u64) -> Vec<u8> {
    let random = VaultRandom {
        master: [1; 32],
        salt: [2; 32],
        nonce: [3; 12],
        private_key: [4; 32],
        private_nonce: [5; 12],
    };
    let cost = Argon2Cost { memory_kib: 8, passes: 1, lanes: 1 };
    let geometry = Geometry::new(2, 1).unwrap();
    let secret = || Secret::KeyFile(vec![6; 32].into());
    let (mut record, keys) = VaultRecord::create(vault, geometry, &secret(), cost, random).unwrap();
    while record.generation < generation {
        record.add_slot(&keys, &secret(), cost, [7; 32], [8; 12]).unwrap();
    }
    record.encode()
}

/// One shard file.
#[derive(Clone)]
pub(crate) struct TestShard {
    pub(crate) stripe: StripeId,
    pub(crate) index: u8,
    pub(crate) header_hash: codec::Digest,
    pub(crate) header_bytes: usize,
    pub(crate) file: Vec<u8>,
}

impl TestShard {
    pub(crate) fn url_path(&self) -> String {
        format!("/v1/shards/{}/{}", self.stripe, self.index)
    }

    pub(crate) fn grant(&self) -> Grant {
        let file_bytes = self.file.len() as u64;
        Grant::Put { stripe: self.stripe, index: self.index, file_bytes }
    }
}

/// The three shards of a 2+1 stripe.
pub(crate) fn stripe(vault: VaultId, pack_bytes: usize, seed: u8) -> Vec<TestShard> {
    stripe_of(Geometry::new(2, 1).unwrap(), vault, pack_bytes, seed)
}

/// The shards of a stripe.
pub(crate) fn stripe_of(
    geometry: Geometry,
    vault: VaultId,
    pack_bytes: usize,
    seed: u8,
) -> Vec<TestShard> {
    let mut pack = Vec::with_capacity(pack_bytes * 2);
    pack.extend((0..pack_bytes).map(|at| (at / 7) as u8 ^ (at >> 13) as u8 ^ seed));
    let key = PackKeyField(vec![seed; PACK_KEY_BYTES]);
    let stripe = Stripe::encode(vault, Kind::Data, geometry, key, pack).unwrap();
    let file = |index: usize| {
        let ends = &stripe.shards[index];
        [&ends.header, stripe.body(index), &ends.footer].concat()
    };
    let shard = |index: usize| TestShard {
        stripe: stripe.id,
        index: index as u8,
        header_hash: stripe.shards[index].header_hash,
        header_bytes: stripe.shards[index].header.len(),
        file: file(index),
    };
    (0..geometry.shards()).map(shard).collect()
}

/// One shard with a body of `body_bytes`.
pub(crate) fn shard(body_bytes: usize) -> TestShard {
    stripe(VAULT, body_bytes * 2, 1).swap_remove(1)
}

pub(crate) fn flipped(bytes: &[u8], at: usize) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[at] ^= 0x10;
    bytes
}

//! Servers with the shards of one stripe, and what can be wrong with them.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use arc_server::auth::{Grant, receipt_mac, same};
use arc_server::serve;
use arc_server::storage::Config;
use arc_server::wire::*;
use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use bytes::Bytes;
use codec::Geometry;
use codec::digest::{self, BLOCK_BYTES};
use futures_util::{StreamExt as _, stream};
use reqwest::Method;
use tokio::sync::watch;

use super::support::*;

/// 21 blocks a shard, the last of them short: five groups of columns of 4+2.
pub(crate) const PACK_BYTES: usize = 4 * (20 * BLOCK_BYTES + 5000) - 99;

/// As many servers as a stripe has shards, each with its own.
pub(crate) struct Fleet<'a> {
    geometry: Geometry,
    pack_bytes: usize,
    pub(crate) shards: Vec<TestShard>,
    pub(crate) servers: Vec<Server<'a>>,
}

/// Servers by number, with the shards of a stripe.
pub(crate) async fn fleet(world: &World, (k, m): (u8, u8), pack_bytes: usize) -> Fleet<'_> {
    fleet_with(world, (k, m), pack_bytes, |_, _| ()).await
}

pub(crate) async fn fleet_with(
    world: &World,
    (k, m): (u8, u8),
    pack_bytes: usize,
    change: impl Fn(usize, &mut Config),
) -> Fleet<'_> {
    let geometry = Geometry::new(k, m).unwrap();
    let shards = stripe_of(geometry, VAULT, pack_bytes, 1);
    let mut servers = Vec::new();
    for shard in &shards {
        let number = servers.len();
        let server = world.server_with(|config| {
            config.name = Some(format!("disk-{number}"));
            config.data = world.dir.path().join(format!("data-{number}"));
            change(number, config);
        });
        let server = server.await;
        server.put(shard).await.unwrap();
        servers.push(server);
    }
    Fleet { geometry, pack_bytes, shards, servers }
}

impl Fleet<'_> {
    pub(crate) fn id(&self, number: u8) -> ServerId {
        self.servers[usize::from(number)].storage.server
    }

    pub(crate) fn remove(&self, index: u8) {
        std::fs::remove_file(self.path(index)).unwrap();
    }

    pub(crate) fn path(&self, index: u8) -> std::path::PathBuf {
        self.servers[usize::from(index)].path(&self.shards[usize::from(index)])
    }

    /// Flips a bit in blocks of a shard.
    pub(crate) fn damage(&self, index: u8, blocks: &[usize]) {
        let shard = &self.shards[usize::from(index)];
        let mut file = shard.file.clone();
        blocks.iter().for_each(|block| file[shard.header_bytes + block * BLOCK_BYTES + 9] ^= 4);
        std::fs::write(self.path(index), file).unwrap();
    }

    /// An order to make the shards `places` again where they were, from `sources`.
    pub(crate) fn order(
        &self,
        sources: impl IntoIterator<Item = u8>,
        places: &[u8],
    ) -> RebuildRequest {
        let source = |index: u8| source(&self.servers[usize::from(index)], index);
        let place = |&index: &u8| {
            let server = &self.servers[usize::from(index)];
            Place {
                index,
                server: server.storage.server,
                name: server.storage.name.clone(),
                url: server.storage.running.url(),
                ticket: server.sign(self.shards[usize::from(index)].grant()),
            }
        };
        RebuildRequest {
            stripe: self.shards[0].stripe,
            geometry: self.geometry,
            pack_bytes: self.pack_bytes as u64,
            pack_key_bytes: PACK_KEY_BYTES as u16,
            epoch: 4,
            sources: sources.into_iter().map(source).collect(),
            places: places.iter().map(place).collect(),
        }
    }

    pub(crate) async fn rebuild(
        &self,
        target: u8,
        order: &RebuildRequest,
    ) -> Result<RebuildAnswer, Refusal> {
        self.servers[usize::from(target)].post("/v1/rebuild", Grant::Control, order).await
    }

    /// The same, not waiting until no client has asked for anything for a while.
    pub(crate) async fn rebuild_urgently(
        &self,
        target: u8,
        order: &RebuildRequest,
    ) -> Result<RebuildAnswer, Refusal> {
        let target = &self.servers[usize::from(target)];
        let request = target.request(Method::POST, "/v1/rebuild", &target.sign(Grant::Control));
        let request = request.header(WORK_HEADER, "urgent").json(order);
        answer(request.send().await.unwrap()).await
    }

    /// Holds that those shards, and no others, were stored as they were coded; that every receipt
    /// is right; and that nothing is left behind.
    pub(crate) async fn holds(&self, target: u8, answer: &RebuildAnswer, places: &[u8]) {
        assert_eq!(answer.outcome, Outcome::Rebuilt, "{answer:?}");
        assert_eq!(answer.failed, [], "{answer:?}");
        let stored: Vec<u8> = answer.receipts.iter().map(|receipt| receipt.index).collect();
        assert_eq!(stored, places);
        for receipt in &answer.receipts {
            let shard = &self.shards[usize::from(receipt.index)];
            assert_eq!((receipt.stripe, receipt.epoch), (shard.stripe, 4));
            assert_eq!(receipt.server, self.id(receipt.index));
            assert_eq!(receipt.header_hash, shard.header_hash);
            assert!(same(&receipt.mac.0, &receipt_mac(&SHARED_KEY, VAULT, receipt)));
            assert!(std::fs::read(self.path(receipt.index)).unwrap() == shard.file);
        }
        self.left_nothing(target).await;
    }

    pub(crate) async fn left_nothing(&self, target: u8) {
        let tmp = self.servers[usize::from(target)].data.join("tmp");
        eventually(|| names(&tmp).is_empty()).await;
    }

    pub(crate) fn body_bytes(&self) -> u64 {
        self.geometry.shard_bytes(self.pack_bytes as u64)
    }

    pub(crate) fn header_bytes(&self) -> u64 {
        self.shards[0].header_bytes as u64
    }
}

/// A shard that may be read at `server`.
pub(crate) fn source(server: &Server<'_>, index: u8) -> Source {
    let at = ReadTicket {
        server: server.storage.server,
        name: server.storage.name.clone(),
        zone: "here".into(),
        url: server.storage.running.url(),
        state: State::Up,
        ticket: server.sign(Grant::Read),
    };
    Source { index, at }
}

pub(crate) fn damaged(answer: &RebuildAnswer) -> Vec<u8> {
    let damaged = |found: &Found| matches!(found, Found::Damaged(_));
    answer.found.iter().filter(|row| damaged(&row.2)).map(|row| row.0).collect()
}

/// The shards of a 2+1 stripe whose parity is not the code of its data, though every hash holds.
pub(crate) fn inconsistent(pack_bytes: usize) -> Vec<TestShard> {
    let mut shards = stripe(VAULT, pack_bytes, 1);
    let header_bytes = shards[0].header_bytes;
    let footer_at = shards[0].file.len() - 96;
    shards[2].file[header_bytes + 1] ^= 1;
    let tables: Vec<Vec<codec::Digest>> =
        shards.iter().map(|s| digest::block_hashes(&s.file[header_bytes..footer_at])).collect();
    for (shard, table) in shards.iter_mut().zip(&tables) {
        let (key_at, roots_at) = (96, 96 + PACK_KEY_BYTES);
        let table_at = roots_at + 3 * 32;
        let file = &mut shard.file;
        for (number, table) in tables.iter().enumerate() {
            let at = roots_at + number * 32;
            file[at..at + 32].copy_from_slice(&digest::root(table).0);
        }
        for (number, hash) in table.iter().enumerate() {
            let at = table_at + number * 32;
            file[at..at + 32].copy_from_slice(&hash.0);
        }
        // docs/FORMAT.md: the fields that the stripe's id follows from, in its order.
        let fields = [8..12, 16..33, 35..37, 33..35, 40..44, 48..64, 44..48, key_at..table_at];
        let fields: Vec<u8> = fields.into_iter().flat_map(|at| file[at].to_vec()).collect();
        let id = blake3::derive_key("arc v0 stripe id", &fields);
        file[64..96].copy_from_slice(&id);
        let end = header_bytes - 32;
        let hash = blake3::derive_key("arc v0 shard header", &file[..end]);
        file[end..header_bytes].copy_from_slice(&hash);
        let footer = &mut file[footer_at..];
        footer[32..64].copy_from_slice(&hash);
        let hash = blake3::derive_key("arc v0 shard footer", &footer[..64]);
        footer[64..].copy_from_slice(&hash);
        shard.stripe = codec::StripeId(id);
        codec::shard::Shard::parse(&shard.file).unwrap();
    }
    shards
}

/// A server that gives the header of a shard so many times, and then hangs.
pub(crate) async fn hanging(shard: &TestShard, answers: usize) -> serve::Running {
    let header = shard.file[..shard.header_bytes].to_vec();
    let asked = Arc::new(AtomicUsize::new(0));
    answering(move || {
        let (header, number) = (header.clone(), asked.fetch_add(1, Ordering::Relaxed));
        async move {
            if number >= answers {
                std::future::pending::<()>().await;
            }
            (StatusCode::PARTIAL_CONTENT, header).into_response()
        }
    })
    .await
}

/// A server that notes which ranges of a shard it is asked for. It gives them; but of one that is
/// longer than `longest` only so much, and nothing more.
pub(crate) async fn noting(
    shard: &TestShard,
    longest: usize,
) -> (serve::Running, Arc<Mutex<Vec<String>>>) {
    let (file, asked) = (shard.file.clone(), Arc::new(Mutex::new(Vec::new())));
    let noted = Arc::clone(&asked);
    let answer = async move |headers: HeaderMap| {
        let (text, range) = asked_for(&headers);
        noted.lock().unwrap().push(text);
        let part = file[range.start..range.end.min(range.start.saturating_add(longest))].to_vec();
        (StatusCode::PARTIAL_CONTENT, part).into_response()
    };
    let router = Router::new().route("/v1/shards/{stripe}/{index}", get(answer));
    (serve::start(anywhere().address, None, router).await.unwrap(), asked)
}

/// Two servers with a shard each and one slot between them. The first begins at once with what is
/// longer than `longest`, and keeps the slot as long as somebody wants more of that; the second gives
/// its header at once, and all else once the first one's slot is free.
pub(crate) async fn with_one_slot(shards: [&TestShard; 2], longest: usize) -> [serve::Running; 2] {
    let (freed, is_free) = watch::channel(false);
    let [first, second] = shards.map(|shard| Bytes::from(shard.file.clone()));
    let freed = Arc::new(freed);
    let first = async move |headers: HeaderMap| {
        let part = first.slice(asked_for(&headers).1);
        let mut body = Body::from(part.slice(..part.len().min(longest)));
        if part.len() > longest {
            let held = Held(Arc::clone(&freed));
            let never = stream::once(async move {
                let _held = held;
                std::future::pending().await
            });
            body = Body::from_stream(body.into_data_stream().chain(never));
        }
        (StatusCode::PARTIAL_CONTENT, body).into_response()
    };
    let second = async move |headers: HeaderMap| {
        let (_, range) = asked_for(&headers);
        if range.start > 0 {
            let _ = is_free.clone().wait_for(|&is_free| is_free).await;
        }
        (StatusCode::PARTIAL_CONTENT, second.slice(range)).into_response()
    };
    let path = "/v1/shards/{stripe}/{index}";
    let (first, second) =
        (Router::new().route(path, get(first)), Router::new().route(path, get(second)));
    let address = anywhere().address;
    [
        serve::start(address, None, first).await.unwrap(),
        serve::start(address, None, second).await.unwrap(),
    ]
}

/// A slot that is free once this is dropped.
struct Held(Arc<watch::Sender<bool>>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.send_replace(true);
    }
}

/// The range of a request, as it stands there and as bytes of the file.
fn asked_for(headers: &HeaderMap) -> (String, std::ops::Range<usize>) {
    let text = headers["range"].to_str().unwrap().to_owned();
    let (first, last) = text.strip_prefix("bytes=").unwrap().split_once('-').unwrap();
    let (first, last): (usize, usize) = (first.parse().unwrap(), last.parse().unwrap());
    (text, first..last + 1)
}

/// A server that has no shard, and says so as soon as `told` is true.
pub(crate) async fn hesitating(told: watch::Receiver<bool>) -> serve::Running {
    answering(move || {
        let mut told = told.clone();
        async move {
            let _ = told.wait_for(|&told| told).await;
            Refusal::new(Code::NotFound, "no shard here").into_response()
        }
    })
    .await
}

async fn answering<F: Future<Output = Response> + Send + 'static>(
    answer: impl Fn() -> F + Clone + Send + Sync + 'static,
) -> serve::Running {
    let router = Router::new().route("/v1/shards/{stripe}/{index}", get(answer));
    serve::start(anywhere().address, None, router).await.unwrap()
}

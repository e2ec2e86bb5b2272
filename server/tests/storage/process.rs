//! A server in a process of its own: how much memory it takes, and what a crash leaves.

use std::process::{Child, Command, Stdio};

use arc_server::auth::Grant;
use arc_server::storage;
use arc_server::wire::*;
use reqwest::{Method, RequestBuilder};

use super::fleet::source;
use super::support::*;

const KIB_MAX: u64 = 64 * 1024;
const DATA: &str = "ARC_TEST_STORAGE_DATA";
const COORDINATOR: &str = "ARC_TEST_STORAGE_COORDINATOR";
const SECRET: &str = "ARC_TEST_STORAGE_SECRET";
const FAIL_AT: &str = "ARC_TEST_STORAGE_FAIL_AT";

/// The other process: serves until it is killed.
#[tokio::test]
#[ignore = "run by the tests below"]
async fn serve_until_killed() {
    let Ok(data) = std::env::var(DATA) else { return };
    let world = World::new().await;
    let mut config = storage::Config { data: data.into(), ..world.config() };
    config.coordinator = std::env::var(COORDINATOR).unwrap();
    if let Some(token) = &mut config.join_token {
        token.secret = std::env::var(SECRET).unwrap();
    }
    config.fail_at = std::env::var(FAIL_AT).ok().map(|name| name.parse().unwrap());
    let storage = storage::start(config.clone()).await.unwrap();
    let url = config.data.join("url");
    std::fs::write(url.with_extension("new"), storage.running.url()).unwrap();
    std::fs::rename(url.with_extension("new"), url).unwrap();
    std::future::pending::<()>().await;
}

pub(crate) struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The most memory that a process ever had.
fn peak_kib(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

pub(crate) async fn start_process(world: &World, fail_at: Option<&str>) -> (Killed, String) {
    let data = world.data();
    let config = world.config();
    let process = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "process::serve_until_killed", "--ignored"])
        .env(DATA, &data)
        .envs(fail_at.map(|name| (FAIL_AT, name)))
        .env(COORDINATOR, config.coordinator)
        .env(SECRET, config.join_token.unwrap().secret)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let url = data.join("url");
    eventually(|| url.exists()).await;
    (Killed(process), std::fs::read_to_string(url).unwrap())
}

fn request(
    world: &World,
    method: Method,
    url: &str,
    shard: &TestShard,
    grant: Grant,
) -> RequestBuilder {
    let ticket = world.coordinator.sign(&world.coordinator.ticket(grant));
    world
        .http
        .request(method, format!("{url}{}", shard.url_path()))
        .header(PROTOCOL_HEADER, PROTOCOL)
        .header("authorization", format!("Ticket {ticket}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn dozens_of_requests_at_once_fit_in_64_mib() {
    let world = World::new().await;
    let (process, url) = start_process(&world, None).await;
    let shards: Vec<_> = (0..16).flat_map(|seed| stripe(VAULT, 8 << 20, seed)).collect();
    let request = |method, shard: &TestShard, grant| request(&world, method, &url, shard, grant);
    let put = async |shard: &TestShard| {
        loop {
            let request = request(Method::PUT, shard, shard.grant()).body(shard.file.clone());
            match answer::<Receipt>(request.send().await.unwrap()).await {
                Err(refusal) if refusal.code == Code::Busy => {}
                done => return drop(done.unwrap()),
            }
        }
    };
    futures_util::future::join_all(shards.iter().map(put)).await;
    let puts_kib = peak_kib(process.0.id());
    let get = async |shard: &TestShard| {
        let whole = loop {
            let response = request(Method::GET, shard, Grant::Read).send().await.unwrap();
            if response.status().is_success() {
                break response.bytes().await.unwrap();
            }
        };
        assert!(whole == shard.file);
    };
    futures_util::future::join_all(shards.iter().map(get)).await;
    let gets_kib = peak_kib(process.0.id());
    println!("{puts_kib} KiB at most for PUTs, {gets_kib} KiB with GETs");
    assert!(gets_kib < KIB_MAX, "{puts_kib} KiB at most for PUTs, {gets_kib} KiB with GETs");
}

#[tokio::test]
async fn a_crash_leaves_the_whole_shard_or_nothing() {
    for (point, left, found) in [
        ("put-written", 1, Found::Missing),
        ("put-synced", 1, Found::Missing),
        ("put-named", 0, Found::Good),
    ] {
        let world = World::new().await;
        let shard = shard(1 << 20);
        let (process, url) = start_process(&world, Some(point)).await;
        let put = request(&world, Method::PUT, &url, &shard, shard.grant());
        assert!(put.body(shard.file.clone()).send().await.is_err(), "{point}");
        drop(process);
        assert_eq!(names(&world.data().join("tmp")).len(), left, "{point}");

        let server = world.server().await;
        assert_eq!(names(&world.data().join("tmp")).len(), 0, "{point}");
        assert_eq!(server.found(&shard, Thoroughness::Whole).await, found, "{point}");
        let receipt = server.put(&shard).await.unwrap();
        assert_eq!(receipt.header_hash, shard.header_hash, "{point}");
        assert_eq!(server.found(&shard, Thoroughness::Whole).await, Found::Good, "{point}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_leaves_the_rebuilt_shard_or_what_was_there() {
    let pack_bytes = 2 << 20;
    let shards = stripe(VAULT, pack_bytes, 1);
    let shard = &shards[2];
    let damage = flipped(&shard.file, shard.header_bytes + 200_000);
    for (point, left, whole) in
        [("roots-checked", 1, false), ("own-synced", 1, false), ("own-named", 0, true)]
    {
        let world = World::new().await;
        let (process, url) = start_process(&world, Some(point)).await;
        let (mut sources, mut others) = (Vec::new(), Vec::new());
        for shard in &shards[..2] {
            let server = world.server_with(|config| {
                config.name = Some(format!("other-{}", shard.index));
                config.data = world.dir.path().join(format!("other-{}", shard.index));
            });
            let server = server.await;
            server.put(shard).await.unwrap();
            sources.push(source(&server, shard.index));
            others.push(server);
        }
        let name = format!("{}.2", shard.stripe);
        let path = world.data().join("shards").join(&name[..2]).join(&name);
        std::fs::write(&path, &damage).unwrap();
        let (name, ticket) = ("disk-1".to_owned(), String::new());
        let order = RebuildRequest {
            stripe: shard.stripe,
            geometry: codec::Geometry::new(2, 1).unwrap(),
            pack_bytes: pack_bytes as u64,
            pack_key_bytes: PACK_KEY_BYTES as u16,
            epoch: 4,
            sources,
            places: vec![Place { index: 2, server: ServerId(1), name, url: url.clone(), ticket }],
        };
        let ticket = world.coordinator.sign(&world.coordinator.ticket(Grant::Control));
        let rebuild = world.http.post(format!("{url}/v1/rebuild"));
        let rebuild = rebuild.header(PROTOCOL_HEADER, PROTOCOL);
        let rebuild = rebuild.header("authorization", format!("Ticket {ticket}")).json(&order);
        assert!(rebuild.send().await.is_err(), "{point}");
        drop(process);
        assert_eq!(names(&world.data().join("tmp")).len(), left, "{point}");

        let server = world.server().await;
        assert_eq!(names(&world.data().join("tmp")).len(), 0, "{point}");
        let expected = if whole { &shard.file } else { &damage };
        assert!(std::fs::read(&path).unwrap() == *expected, "{point}");
        let answer: RebuildAnswer =
            server.post("/v1/rebuild", Grant::Control, &order).await.unwrap();
        assert_eq!(answer.receipts[0].header_hash, shard.header_hash, "{point}");
        assert!(std::fs::read(&path).unwrap() == shard.file, "{point}");
    }
}

//! A server reads all its shards by itself, and finds what is bad.

use std::collections::BTreeSet;

use arc_server::auth::Grant;
use arc_server::storage::Fault;
use arc_server::wire::*;
use codec::StripeId;
use reqwest::Method;

use super::process::start_process;
use super::support::*;

impl Server<'_> {
    async fn scrub(&self) -> ScrubStatus {
        self.fetch("/v1/scrub").await.unwrap()
    }

    async fn order(&self, order: &ScrubOrder) -> ScrubStatus {
        let ticket = self.sign(Grant::Control);
        let request = self.request(Method::PUT, "/v1/scrub", &ticket).json(order);
        answer(request.send().await.unwrap()).await.unwrap()
    }

    /// Waits until a pass has ended that was ordered.
    async fn scrubbed(&self) -> ScrubPass {
        let started = self.order(&start_now()).await.pass.unwrap();
        assert!(started.hurried);
        self.ended().await
    }

    /// Waits for the end of the pass under way.
    async fn ended(&self) -> ScrubPass {
        let wait = async {
            loop {
                let status = self.scrub().await;
                if status.pass.is_none() {
                    return status.last.unwrap();
                }
                tokio::time::sleep(std::time::Duration::from_millis(2)).await;
            }
        };
        let patience = std::time::Duration::from_secs(60);
        tokio::time::timeout(patience, wait).await.expect("the pass never ended")
    }

    async fn bad(&self) -> BTreeSet<(StripeId, u8)> {
        let page: Page<InventoryRow> = self.fetch("/v1/inventory").await.unwrap();
        let bad = page.rows.into_iter().filter(|row| row.damaged.is_some());
        bad.map(|row| (row.stripe, row.index)).collect()
    }
}

fn start_now() -> ScrubOrder {
    ScrubOrder { start_now: true, ..ScrubOrder::default() }
}

/// Shards of about 40 KiB, in the order of their addresses.
fn shards(stripes: u8) -> Vec<TestShard> {
    let mut shards: Vec<_> = (0..stripes).flat_map(|seed| stripe(VAULT, 70_000, seed)).collect();
    shards.sort_by_key(|shard| (shard.stripe, shard.index));
    shards
}

#[tokio::test]
async fn i8_a_flipped_bit_in_every_tenth_shard_is_found_there_and_nowhere_else() {
    let world = World::new().await;
    let server = world.server().await;
    let shards = shards(40);
    for shard in &shards {
        server.put(shard).await.unwrap();
    }
    let whole = server.scrubbed().await;
    assert_eq!((whole.shards, whole.bad, whole.failed), (120, 0, 0));
    assert_eq!(whole.bytes, shards.iter().map(|shard| shard.file.len() as u64).sum::<u64>());
    let mut flipped_shards = BTreeSet::new();
    for (count, shard) in shards.iter().enumerate().step_by(10) {
        // Header, body, footer.
        let at = [20, shard.header_bytes + 30_000, shard.file.len() - 3][count / 10 % 3];
        std::fs::write(server.path(shard), flipped(&shard.file, at)).unwrap();
        flipped_shards.insert((shard.stripe, shard.index));
    }
    let findings = server.probe().await.unwrap().findings;
    let pass = server.scrubbed().await;
    assert_eq!((pass.shards, pass.bad, pass.failed), (120, 12, 0));
    assert_eq!(server.bad().await, flipped_shards);
    assert_eq!(server.probe().await.unwrap().findings, findings + 12);
    let status = server.scrub().await;
    assert_eq!((status.shards_of, status.bad_known), (Some(120), 12));

    server.storage.stop().await;
    let server = world.server().await;
    assert_eq!(server.bad().await, flipped_shards);
    assert_eq!(server.scrub().await.last, Some(pass));
    // What came right is found to be right.
    for shard in &shards {
        std::fs::write(server.path(shard), &shard.file).unwrap();
    }
    assert_eq!(server.scrubbed().await.bad, 0);
    assert_eq!(server.bad().await, BTreeSet::new());
}

#[tokio::test]
async fn what_the_disk_cannot_give_back_is_bad_too_and_what_is_gone_is_noticed() {
    let world = World::new().await;
    let server = world.server_with(|config| config.fault = Some(Fault::ReadFails)).await;
    let shards = shards(4);
    for shard in &shards {
        server.put(shard).await.unwrap();
    }
    server.fetch::<Digests>("/v1/inventory/digests").await.unwrap();
    let gone = shards.iter().find(|shard| shard.index == 1).unwrap();
    std::fs::remove_file(server.path(gone)).unwrap();
    let findings = server.probe().await.unwrap().findings;
    let pass = server.scrubbed().await;
    assert_eq!((pass.shards, pass.bad), (11, 4));
    let unreadable: BTreeSet<_> =
        shards.iter().filter(|s| s.index == 0).map(|s| (s.stripe, s.index)).collect();
    assert_eq!(server.bad().await, unreadable);
    assert_eq!(server.probe().await.unwrap().findings, findings + 5);
    assert_eq!(server.scrub().await.shards_of, Some(11));
}

#[tokio::test]
async fn a_pause_lasts_until_it_is_ended_over_restarts_too() {
    let world = World::new().await;
    let server = world.server().await;
    let shards = shards(10);
    for shard in &shards[..15] {
        server.put(shard).await.unwrap();
    }
    let paused = |paused| ScrubOrder { paused: Some(paused), ..ScrubOrder::default() };
    assert!(server.order(&ScrubOrder { start_now: true, ..paused(true) }).await.paused);
    server.storage.stop().await;
    let server = world.server().await;
    for shard in &shards[15..] {
        server.put(shard).await.unwrap();
    }
    let status = server.scrub().await;
    assert!(status.paused);
    assert_eq!((status.pass.unwrap().shards, status.last), (0, None));
    server.order(&paused(false)).await;
    assert_eq!(server.ended().await.shards, 30);
}

#[tokio::test]
async fn passes_follow_each_other_by_themselves_when_they_are_due() {
    let world = World::new().await;
    let server = world.server().await;
    for shard in &shards(3) {
        server.put(shard).await.unwrap();
    }
    assert_eq!(server.scrub().await.pass, None, "it is off");
    let order = ScrubOrder { every_ms: Some(300), ..ScrubOrder::default() };
    assert_eq!(server.order(&order).await.every_ms, 300);
    let mut ends = BTreeSet::new();
    while ends.len() < 3 {
        if let Some(ScrubPass { began_ms, ended_ms: Some(ended_ms), shards, hurried, .. }) =
            server.scrub().await.last
        {
            assert_eq!((shards, hurried), (9, false));
            assert!(ended_ms >= began_ms + 300, "spread over the period");
            ends.insert(ended_ms);
        }
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn a_killed_server_goes_on_where_it_was() {
    let world = World::new().await;
    let (process, url) = start_process(&world, None).await;
    let control = |method, path: &str| {
        let ticket = world.coordinator.sign(&world.coordinator.ticket(Grant::Control));
        let request = world.http.request(method, format!("{url}{path}"));
        let request = request.header(PROTOCOL_HEADER, PROTOCOL);
        request.header("authorization", format!("Ticket {ticket}"))
    };
    let shards = shards(8);
    for shard in &shards {
        let ticket = world.coordinator.sign(&world.coordinator.ticket(shard.grant()));
        let put = world.http.put(format!("{url}{}", shard.url_path()));
        let put = put.header(PROTOCOL_HEADER, PROTOCOL).body(shard.file.clone());
        let put = put.header("authorization", format!("Ticket {ticket}"));
        answer::<Receipt>(put.send().await.unwrap()).await.unwrap();
    }
    // About half a second a shard.
    let slow = ScrubOrder { bytes_per_second: Some(1), ..start_now() };
    let started = control(Method::PUT, "/v1/scrub").json(&slow).send().await.unwrap();
    assert_eq!(answer::<ScrubStatus>(started).await.unwrap().bytes_per_second, 64 << 10);
    let position = world.data().join("scrub");
    let kept = || -> u64 {
        let text = std::fs::read_to_string(&position).unwrap();
        let kept: serde_json::Value = serde_json::from_str(&text).unwrap();
        kept["pass"]["shards"].as_u64().unwrap()
    };
    eventually(|| kept() >= 2).await;
    drop(process);
    assert!(kept() < 24, "{}", kept());

    // It does not look again at what it has passed by.
    let path = |shard: &TestShard| {
        let name = format!("{}.{}", shard.stripe, shard.index);
        world.data().join("shards").join(&name[..2]).join(name)
    };
    for shard in [&shards[0], &shards[23]] {
        std::fs::write(path(shard), flipped(&shard.file, 20)).unwrap();
    }
    let server = world.server().await;
    let pass = server.ended().await;
    assert_eq!((pass.shards, pass.bad, pass.hurried), (24, 1, true));
    let last = &shards[23];
    assert_eq!(server.bad().await, BTreeSet::from([(last.stripe, last.index)]));
}

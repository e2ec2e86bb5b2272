//! What a server says that it holds, in short, and which of it is bad.

use std::collections::BTreeSet;

use arc_server::auth::Grant;
use arc_server::wire::*;
use codec::StripeId;

use super::fleet::fleet;
use super::support::*;

type Shards = BTreeSet<(StripeId, u8)>;

/// The digests by what a test knows of the shards.
fn digests_of(held: &Shards, bad: &Shards) -> Digests {
    let mut buckets = vec![Bucket::default(); BUCKETS];
    for shard @ &(stripe, index) in held {
        let number = usize::from(Bucket::of(stripe));
        buckets[number].add(stripe, index, bad.contains(shard));
    }
    Digests { buckets }
}

impl Server<'_> {
    async fn digests(&self, walk: bool) -> Digests {
        self.fetch(&format!("/v1/inventory/digests?walk={walk}")).await.unwrap()
    }

    /// Holds that it says `held` and `bad` of itself, remembered and looked up, row by row too.
    async fn says(&self, case: &str, held: &Shards, bad: &Shards) {
        for walk in [false, true] {
            assert!(self.digests(walk).await == digests_of(held, bad), "{case}, walk: {walk}");
        }
        let page: Page<InventoryRow> = self.fetch("/v1/inventory").await.unwrap();
        let rows = |rows: &mut dyn Iterator<Item = &InventoryRow>| -> Shards {
            rows.map(|row| (row.stripe, row.index)).collect()
        };
        assert_eq!(rows(&mut page.rows.iter()), *held, "{case}");
        assert_eq!(rows(&mut page.rows.iter().filter(|r| r.damaged.is_some())), *bad, "{case}");
    }
}

fn key(shard: &TestShard) -> (StripeId, u8) {
    (shard.stripe, shard.index)
}

#[tokio::test]
async fn the_digests_follow_whatever_becomes_of_a_shard() {
    let world = World::new().await;
    let server = world.server().await;
    let shards: Vec<TestShard> = (0..5).flat_map(|seed| stripe(VAULT, 200_000, seed)).collect();
    let (mut held, mut bad) = (Shards::new(), Shards::new());
    server.put(&shards[0]).await.unwrap();
    held.insert(key(&shards[0]));
    // The folders are counted by the first who asks.
    server.says("one", &held, &bad).await;
    for shard in &shards[1..] {
        server.put(shard).await.unwrap();
        held.insert(key(shard));
    }
    server.put(&shards[3]).await.unwrap();
    server.says("all, and one again", &held, &bad).await;

    let findings = async || server.probe().await.unwrap().findings;
    let before = findings().await;
    let path = server.path(&shards[4]);
    let damage = flipped(&shards[4].file, shards[4].header_bytes + 70_000);
    std::fs::write(&path, damage).unwrap();
    server.says("damaged, and not met", &held, &bad).await;
    assert_eq!(findings().await, before);
    for _ in 0..2 {
        server.found(&shards[4], Thoroughness::Whole).await;
    }
    bad.insert(key(&shards[4]));
    server.says("found damaged", &held, &bad).await;
    assert_eq!(findings().await, before + 1, "once");

    server.put(&shards[4]).await.unwrap();
    bad.clear();
    server.says("stored again", &held, &bad).await;
    assert!(findings().await > before + 1);

    std::fs::write(&path, b"short").unwrap();
    server.found(&shards[4], Thoroughness::Present).await;
    bad.insert(key(&shards[4]));
    server.says("cut", &held, &bad).await;
    std::fs::write(&path, &shards[4].file).unwrap();
    server.found(&shards[4], Thoroughness::Whole).await;
    bad.clear();
    server.says("right after all", &held, &bad).await;

    std::fs::write(&path, b"").unwrap();
    server.found(&shards[4], Thoroughness::Whole).await;
    let order = TrashRequest { shards: vec![key(&shards[4]), key(&shards[7])] };
    server.post::<TrashAnswer>("/v1/trash", Grant::Control, &order).await.unwrap();
    held.retain(|shard| !order.shards.contains(shard));
    server.says("trashed", &held, &bad).await;

    // What a stranger takes away is noticed when it looks.
    let before = findings().await;
    std::fs::remove_file(server.path(&shards[8])).unwrap();
    assert!(server.digests(false).await == digests_of(&held, &bad));
    held.remove(&key(&shards[8]));
    server.digests(true).await;
    assert!(findings().await > before);
    server.says("taken away", &held, &bad).await;
}

#[tokio::test]
async fn a_restart_forgets_nothing_of_what_is_bad() {
    let world = World::new().await;
    let server = world.server().await;
    let shards: Vec<TestShard> = (0..3).flat_map(|seed| stripe(VAULT, 100_000, seed)).collect();
    for shard in &shards {
        server.put(shard).await.unwrap();
    }
    let mut held: Shards = shards.iter().map(key).collect();
    for shard in &shards[..4] {
        std::fs::write(server.path(shard), flipped(&shard.file, 300)).unwrap();
        server.found(shard, Thoroughness::Whole).await;
    }
    // One that is gone is not bad, only gone.
    std::fs::remove_file(server.path(&shards[0])).unwrap();
    held.remove(&key(&shards[0]));
    let findings = server.probe().await.unwrap().findings;
    server.storage.stop().await;
    let server = world.server().await;
    assert!(server.probe().await.unwrap().findings > findings);
    server.says("after a restart", &held, &shards[1..4].iter().map(key).collect()).await;
    let found = server.found(&shards[1], Thoroughness::Present).await;
    assert!(matches!(found, Found::Damaged(_)), "{found:?}");
}

#[tokio::test]
async fn a_rebuild_that_mends_a_shard_takes_it_for_good_again() {
    let world = World::new().await;
    let fleet = fleet(&world, (2, 1), 3_000_000).await;
    let (shard, server) = (&fleet.shards[1], &fleet.servers[1]);
    let held = Shards::from([key(shard)]);
    server.says("whole", &held, &Shards::new()).await;
    let damage = flipped(&shard.file, shard.header_bytes + 900_000);
    std::fs::write(server.path(shard), damage).unwrap();
    let before = server.probe().await.unwrap().findings;
    let order = fleet.order([0, 2], &[1]);
    let answer = fleet.rebuild(1, &order).await.unwrap();
    assert_eq!(answer.receipts.len(), 1);
    server.says("mended", &held, &Shards::new()).await;
    assert!(server.probe().await.unwrap().findings > before + 1, "found, and mended");
    assert_eq!(names(&server.data.join("bad")), Vec::<String>::new());
}

#[tokio::test]
async fn a_damaged_block_that_another_rebuild_reads_is_remembered() {
    let world = World::new().await;
    let fleet = fleet(&world, (2, 2), 3_000_000).await;
    let (shard, server) = (&fleet.shards[1], &fleet.servers[1]);
    let damage = flipped(&shard.file, shard.header_bytes + 900_000);
    std::fs::write(server.path(shard), damage).unwrap();
    // It holds shard 1, and makes shard 2 for another from what it has.
    let order = fleet.order([0, 1, 3], &[2]);
    fleet.rebuild(1, &order).await.unwrap();
    let held = Shards::from([key(shard)]);
    server.says("met", &held, &held).await;
}

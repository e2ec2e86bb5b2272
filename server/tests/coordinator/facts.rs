//! A snapshot is kept once its stamp is on servers, and by none before; a catalog that servers know
//! more than takes no push.

use arc_server::wire::*;
use codec::fact::{self, Body, Fact};
use codec::shard::Kind;
use codec::{Digest, StripeId};

use crate::fixture::{FakeServer, Fixture, begin_of, timings};

impl FakeServer {
    fn takes_facts(&self, takes: bool) {
        self.answer(|answers| answers.takes_facts = takes);
    }

    /// The snapshots that its facts stamp.
    fn stamped(&self) -> Vec<StripeId> {
        let key = self.identity().ticket_key.0;
        let open = |bytes: &Vec<u8>| {
            let Body::Stamp(stamp) = Fact::open(bytes, &key).unwrap().body;
            stamp.snapshot
        };
        self.facts().iter().map(open).collect()
    }
}

impl Fixture {
    async fn snapshot_commit(&self, lease: &Lease, number: u8) -> CommitSnapshot {
        let mut stripe = self.stored(lease, number, (1, 1)).await;
        stripe.kind = Kind::Snapshot;
        CommitSnapshot { stripe, source_set: Digest([9; 32]) }
    }

    async fn snapshots(&self) -> Vec<SnapshotRow> {
        self.get::<Page<SnapshotRow>>("/v1/snapshots").await.rows
    }
}

/// Waits for what comes by itself.
async fn until(is: impl AsyncFn() -> bool) {
    let done = async {
        while !is().await {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(30), done).await.expect("it never came");
}

#[tokio::test]
async fn every_server_gets_the_stamps_in_order_and_the_head_is_their_end() {
    let (mut fixture, lease) = Fixture::with_servers(&["a", "b", "c"]).await;
    for number in 1..=3 {
        fixture.snapshot(&lease, number).await;
    }
    let ids = [1, 2, 3].map(|n| StripeId([n; 32]));
    let whole = async |fixture: &Fixture| fixture.servers.iter().all(|s| s.stamped() == ids);
    until(async || whole(&fixture).await).await;
    let head = Head { number: 3, hash: fact::hash(&fixture.servers[0].facts()[2]) };
    assert_eq!(fixture.get::<VaultInfo>("/v1/vault").await.head, Some(head));
    let page: FactsPage = fixture.get("/v1/facts?after=1").await;
    let facts: Vec<Vec<u8>> = page.facts.into_iter().map(|fact| fact.0).collect();
    assert_eq!(facts, fixture.servers[0].facts()[1..]);
    // One that joins gets them all, and one that lost some gets those again.
    fixture.join("s4", "d").await;
    fixture.servers[0].facts().truncate(1);
    until(async || whole(&fixture).await).await;
}

#[tokio::test]
async fn a_snapshot_is_kept_once_enough_servers_have_its_stamp() {
    let (mut fixture, lease) = Fixture::with_servers(&["a", "b"]).await;
    fixture.servers[1].takes_facts(false);
    let commit = fixture.snapshot_commit(&lease, 1).await;
    for _ in 0..2 {
        let refused = fixture.post::<SnapshotRow>("/v1/snapshots", &commit).await.unwrap_err();
        assert_eq!(refused.refusal.code, Code::TooFewServers, "{refused:?}");
    }
    assert!(fixture.snapshots().await.is_empty());
    assert_eq!(fixture.status().await.snapshots, 0);
    assert_eq!(fixture.get::<VaultInfo>("/v1/vault").await.head, Some(Head::default()));
    let parent = fixture.post::<Lease>("/v1/leases", &begin_of(9, None)).await.unwrap().parent;
    assert!(parent.is_none());

    // A restart finishes it, and whoever asks again hears what was decided then.
    fixture.restart(timings()).await;
    assert!(fixture.snapshots().await.is_empty());
    fixture.servers[1].takes_facts(true);
    until(async || fixture.snapshots().await.len() == 1).await;
    let row: SnapshotRow = fixture.post("/v1/snapshots", &commit).await.unwrap();
    assert_eq!(serde_json::json!(row), serde_json::json!(fixture.snapshots().await[0]));
    assert_eq!(fixture.servers[0].stamped(), [row.id], "one snapshot is stamped once");
}

#[tokio::test]
async fn snapshots_at_once_are_all_stamped_in_one_chain() {
    let (fixture, lease) = Fixture::with_servers(&["a", "b", "c"]).await;
    let mut commits = Vec::new();
    for number in 1..=8 {
        commits.push(fixture.snapshot_commit(&lease, number).await);
    }
    let posts = commits.iter().map(|commit| fixture.post::<SnapshotRow>("/v1/snapshots", commit));
    let rows = futures_util::future::join_all(posts).await;
    let mut rows: Vec<SnapshotRow> = rows.into_iter().map(Result::unwrap).collect();
    rows.sort_by_key(|row| row.sequence);
    let ids: Vec<StripeId> = rows.iter().map(|row| row.id).collect();
    until(async || fixture.servers.iter().all(|server| server.stamped() == ids)).await;
    let mut head = Head::default();
    for bytes in fixture.servers[0].facts().iter() {
        head = head.after(&Fact::peek(bytes).unwrap(), bytes).unwrap();
    }
    assert_eq!(fixture.get::<VaultInfo>("/v1/vault").await.head, Some(head));
}

#[tokio::test]
async fn a_catalog_that_servers_know_more_than_takes_no_push() {
    let (mut fixture, lease) = Fixture::with_servers(&["a", "b"]).await;
    fixture.snapshot(&lease, 1).await;
    let copy = fixture.folder.path().join("copy.db");
    let catalog = fixture.folder.path().join("coordinator/catalog.db");
    fixture.restart(timings()).await;
    let late = fixture.snapshot_commit(&lease, 3).await;
    // While it runs, the log beside it has the rest: a copy through SQLite has all.
    let db = rusqlite::Connection::open(&catalog).unwrap();
    db.execute("VACUUM INTO ?1", [copy.to_str().unwrap()]).unwrap();
    drop(db);
    fixture.snapshot(&lease, 2).await;
    let before = fixture.servers[0].facts().clone();
    fixture
        .restart_with(timings(), || {
            for suffix in ["-wal", "-shm"] {
                let _ = std::fs::remove_file(format!("{}{suffix}", catalog.display()));
            }
            std::fs::copy(&copy, &catalog).unwrap();
        })
        .await;
    until(async || fixture.status().await.catalog_old.is_some()).await;
    let refused = fixture.post::<Lease>("/v1/leases", &begin_of(9, None)).await.unwrap_err();
    assert_eq!(refused.refusal.code, Code::CatalogOld);
    assert!(refused.refusal.message.contains("arc catalog rebuild --merge"), "{refused:?}");
    // A push that began before is no better off.
    let refused = fixture.post::<SnapshotRow>("/v1/snapshots", &late).await.unwrap_err();
    assert_eq!(refused.refusal.code, Code::CatalogOld);
    assert_eq!(*fixture.servers[0].facts(), before, "nothing was stamped over them");
    // A server that makes a claim without the coordinator's signature is not believed.
    for server in &fixture.servers {
        server.facts().truncate(1);
        server.facts().push(b"made up".to_vec());
    }
    until(async || fixture.status().await.catalog_old.is_none()).await;
}

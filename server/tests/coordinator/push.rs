//! A push, step by step, and every way in which its steps may come wrong, twice or late.

use std::collections::BTreeMap;
use std::time::Duration;

use arc_server::auth::{Grant, verify_ticket};
use arc_server::coordinator::Timings;
use arc_server::wire::*;
use codec::shard::Kind;
use codec::{ChunkId, Digest};
use reqwest::Method;

use crate::fixture::{
    Fixture, Refused, begin_of, chunks, commit_of, place_request, stripe, timings, vault_of,
};

#[tokio::test]
async fn what_is_pushed_is_found() {
    let (fixture, lease) = Fixture::with_servers(&["a", "a", "b", "b", "c", "c"]).await;
    assert!(lease.parent.is_none() && lease.expires_ms > lease.now_ms);
    let unknown = ChunkId([0x55; 32]);
    let asked = [chunks(1)[0], unknown, chunks(1)[1]];
    assert_eq!(fixture.have(&lease, &asked).await, "000");

    let request = place_request(&lease, 1, (4, 2));
    let placement = fixture.place(&request).await.unwrap();
    let mut zones: BTreeMap<ServerId, &str> = BTreeMap::new();
    for (n, place) in placement.places.iter().enumerate() {
        let server = fixture.servers.iter().find(|s| s.id() == place.server).unwrap();
        let ticket = verify_ticket(&place.ticket, &server.identity().ticket_key.0).unwrap();
        let (stripe, file_bytes) = (request.stripe, request.file_bytes);
        assert_eq!(ticket.grant, Grant::Put { stripe, index: n as u8, file_bytes });
        assert_eq!((ticket.server, ticket.epoch), (server.id(), placement.epoch));
        assert_eq!(ticket.vault, vault_of(&fixture));
        assert!(ticket.issued_ms < ticket.expires_ms && ticket.expires_ms <= lease.expires_ms);
        assert_eq!((&place.name, place.url.clone()), (&server.name, server.url()));
        zones.insert(place.server, &server.name);
    }
    assert_eq!(zones.len(), 6, "one shard a server");

    let commit = fixture.stored(&lease, 1, (4, 2)).await;
    let committed = fixture.commit(&commit).await.unwrap();
    assert_eq!((committed.holders, committed.target), (6, 6));
    assert_eq!(fixture.have(&lease, &asked).await, "101");

    let locate = LocateRequest { chunks: Ids(asked.to_vec()) };
    let located: LocateAnswer = fixture.post("/v1/locate", &locate).await.unwrap();
    assert_eq!(located.places, [vec![(0, 1)], vec![], vec![(0, 0)]]);
    let map = &located.stripes[0];
    assert_eq!((map.stripe, map.kind, map.geometry), (commit.stripe, commit.kind, commit.geometry));
    assert_eq!((&map.pack_key, &map.frames), (&commit.pack_key, &commit.frames));
    assert_eq!(map.pack_bytes, commit.pack_bytes);
    let holders: Vec<_> = commit
        .receipts
        .iter()
        .map(|r| Holder { index: r.index, server: r.server, bad: false })
        .collect();
    assert_eq!(map.shards, holders);

    let (_, row) = fixture.snapshot(&lease, 2).await;
    assert_eq!((row.id, row.source_set), (stripe(2), Digest([9; 32])));
    let next = fixture.begin().await;
    assert_eq!(next.parent.map(|p| p.id), Some(row.id));
    assert_eq!((next.lost_chunks, next.stripes_below_target), (0, 0));

    let status = fixture.status().await;
    assert_eq!((status.snapshots, status.stripes, status.chunks), (1, 2, Some(4)));
    assert_eq!(status.margins, [(1, 1), (2, 1)]);
    assert_eq!(status.pack_bytes, 2_000_000);
    let body = |c: (u8, u8)| codec::Geometry::new(c.0, c.1).unwrap().shard_bytes(1_000_000);
    assert_eq!(status.shard_bytes, 6 * body((4, 2)) + 2 * body((1, 1)));
    assert_eq!((status.stripes_below_target, status.leftover_shards), (0, 0));
    assert_eq!((status.leases, &status.servers[..]), (2, &[(State::Up, 6)][..]));
    let page: Page<ServerInfo> = fixture.get("/v1/servers").await;
    assert_eq!(page.rows.iter().map(|s| s.shards).sum::<u64>(), 8);
    assert_eq!(page.rows.iter().map(|s| s.shard_bytes).sum::<u64>(), status.shard_bytes);
}

#[tokio::test]
async fn the_parent_is_the_newest_of_the_same_sources_or_the_one_asked_for() {
    let (fixture, lease) = Fixture::with_servers(&["a", "b"]).await;
    let (_, first) = fixture.snapshot(&lease, 1).await;
    let (_, second) = fixture.snapshot(&lease, 2).await;
    assert!(first.sequence < second.sequence && first.received_ms <= second.received_ms);
    let begin = async |source_set, parent| {
        fixture.post::<Lease>("/v1/leases", &begin_of(source_set, parent)).await
    };
    let parent = |lease: Result<Lease, Refused>| lease.unwrap().parent.map(|p| p.id);
    assert_eq!(parent(begin(9, None).await), Some(second.id));
    assert_eq!(parent(begin(8, None).await), None);
    assert_eq!(parent(begin(8, Some(first.id)).await), Some(first.id));
    let refused = begin(9, Some(stripe(77))).await.unwrap_err();
    assert_eq!(refused.refusal.code, Code::NotFound);
}

#[tokio::test]
async fn a_begin_whose_answer_was_lost_leaves_one_lease() {
    let fixture = Fixture::start().await;
    let mut begin = begin_of(9, None);
    let first: Lease = fixture.post("/v1/leases", &begin).await.unwrap();
    let again: Lease = fixture.post("/v1/leases", &begin).await.unwrap();
    assert_eq!((again.lease, again.expires_ms), (first.lease, first.expires_ms));
    assert_ne!(fixture.begin().await.lease, first.lease);
    assert_eq!(fixture.status().await.leases, 2);
    begin.nonce.0.pop();
    let refused = fixture.post::<Lease>("/v1/leases", &begin).await.unwrap_err();
    assert_eq!(refused.refusal.code, Code::BadRequest);
}

#[tokio::test]
async fn receipts_are_proofs_or_nothing_changes() {
    let (fixture, lease) = Fixture::with_servers(&["a", "b", "c", "d"]).await;
    let good = fixture.stored(&lease, 1, (2, 1)).await;
    let spare =
        fixture.servers.iter().find(|s| good.receipts.iter().all(|r| r.server != s.id())).unwrap();
    let at = |index: usize| {
        let server = good.receipts[index].server;
        fixture.servers.iter().find(|s| s.id() == server).unwrap()
    };
    let epoch = good.receipts[0].epoch;
    let changed = |change: &dyn Fn(&mut CommitStripe)| {
        let mut commit = good.clone();
        change(&mut commit);
        commit
    };
    let cases = [
        ("wrong mac", Code::BadReceipt, changed(&|c| c.receipts[0].mac.0[3] ^= 1)),
        ("no mac", Code::BadReceipt, changed(&|c| c.receipts[0].mac.0.clear())),
        ("other header", Code::BadReceipt, changed(&|c| c.receipts[0].header_hash.0[0] ^= 1)),
        ("server of no ticket", Code::Conflict, {
            changed(&|c| c.receipts[0] = spare.receipt(c.stripe, 0, epoch))
        }),
        ("index of no ticket", Code::BadRequest, {
            changed(&|c| c.receipts[0] = at(0).receipt(c.stripe, 7, epoch))
        }),
        ("index of another", Code::Conflict, {
            changed(&|c| {
                c.receipts.pop();
                c.receipts[0] = at(0).receipt(c.stripe, 2, epoch);
            })
        }),
        ("epoch to come", Code::BadReceipt, {
            changed(&|c| c.receipts[0] = at(0).receipt(c.stripe, 0, epoch + 1))
        }),
        ("other stripe", Code::BadRequest, {
            changed(&|c| c.receipts[0] = at(0).receipt(stripe(2), 0, epoch))
        }),
        ("unknown server", Code::NotFound, changed(&|c| c.receipts[0].server.0 = 99)),
        ("twice", Code::BadRequest, changed(&|c| c.receipts[1] = c.receipts[0].clone())),
        ("too few", Code::BadRequest, changed(&|c| c.receipts.truncate(1))),
        ("record kind", Code::BadRequest, changed(&|c| c.kind = Kind::Record)),
        ("snapshot kind", Code::BadRequest, changed(&|c| c.kind = Kind::Snapshot)),
        ("no pack", Code::BadRequest, changed(&|c| c.pack_bytes = 0)),
        ("long pack", Code::BadRequest, changed(&|c| c.pack_bytes = 1 << 32)),
        ("no key", Code::BadRequest, changed(&|c| c.pack_key.0.clear())),
        ("long key", Code::BadRequest, changed(&|c| c.pack_key.0.resize(257, 0))),
        ("frames in disorder", Code::BadRequest, changed(&|c| c.frames.reverse())),
        ("frames beyond", Code::BadRequest, changed(&|c| c.frames[1].1 = 1_000_001)),
        ("frame kind", Code::BadRequest, changed(&|c| c.frames[1].0 = 4)),
        ("chunk without frame", Code::BadRequest, changed(&|c| c.chunk_frames[0] = 2)),
        ("counts", Code::BadRequest, changed(&|c| c.chunk_frames.push(0))),
    ];
    for (what, code, commit) in cases {
        let refused = fixture.commit(&commit).await.unwrap_err();
        assert_eq!(refused.refusal.code, code, "{what}: {}", refused.refusal);
        let blamed = (code == Code::BadReceipt).then_some(good.receipts[0].server);
        assert_eq!(refused.refusal.server, blamed, "{what}");
    }
    let status = fixture.status().await;
    assert_eq!((status.stripes, status.chunks, status.shard_bytes), (0, Some(0), 0));
    fixture.commit(&good).await.unwrap();
}

#[tokio::test]
async fn i9_duplicate_late_and_reordered_commits_change_nothing() {
    let (fixture, lease) = Fixture::with_servers(&["a", "b", "c"]).await;
    let whole = fixture.stored(&lease, 1, (1, 2)).await;
    let mut part = whole.clone();
    part.receipts.truncate(1);
    let committed = fixture.commit(&part).await.unwrap();
    assert_eq!((committed.holders, committed.target), (1, 3));
    assert_eq!(fixture.status().await.stripes_below_target, 1);
    // A second commit adds holders.
    assert_eq!(fixture.commit(&whole).await.unwrap().holders, 3);
    let (snapshot, row) = fixture.snapshot(&lease, 2).await;

    let state = async || {
        let stripes: serde_json::Value = fixture.get("/v1/stripes").await;
        let snapshots: serde_json::Value = fixture.get("/v1/snapshots").await;
        (stripes, snapshots)
    };
    let before = state().await;
    // An earlier, shorter one late; the same again; the snapshot before and after.
    let mut turned = whole.clone();
    turned.receipts.reverse();
    turned.chunks.0.reverse();
    turned.chunk_frames.reverse();
    for commit in [&part, &whole, &turned] {
        assert_eq!(fixture.commit(commit).await.unwrap().holders, 3);
        let again: SnapshotRow = fixture.post("/v1/snapshots", &snapshot).await.unwrap();
        assert_eq!((again.sequence, again.received_ms), (row.sequence, row.received_ms));
    }
    assert_eq!(state().await, before);

    // A shard is found bad, and then comes the same again.
    let Receipt { stripe, index, server, .. } = whole.receipts[1];
    let found = Found::Damaged("block 1".into());
    fixture.post::<()>("/v1/reports", &Report { stripe, index, server, found }).await.unwrap();
    let before = state().await;
    for commit in [&part, &whole, &turned] {
        assert_eq!(fixture.commit(commit).await.unwrap().holders, 2);
    }
    assert_eq!(state().await, before);

    let mut other = whole.clone();
    other.pack_bytes += 1;
    let refused = fixture.commit(&other).await.unwrap_err();
    assert_eq!(refused.refusal.code, Code::Conflict);
    assert_eq!(state().await, before);
}

#[tokio::test]
async fn a_snapshot_and_its_stripe_are_committed_together_or_not_at_all() {
    let (fixture, lease) = Fixture::with_servers(&["a", "b"]).await;
    let mut stripe = fixture.stored(&lease, 1, (1, 1)).await;
    let as_data = CommitSnapshot { stripe: stripe.clone(), source_set: Digest([9; 32]) };
    let refused = fixture.post::<SnapshotRow>("/v1/snapshots", &as_data).await.unwrap_err();
    assert_eq!(refused.refusal.code, Code::BadRequest);
    stripe.kind = Kind::Snapshot;
    let whole = CommitSnapshot { stripe, source_set: Digest([9; 32]) };
    let mut forged = whole.clone();
    let elsewhere = forged.stripe.receipts[0].server;
    let elsewhere = fixture.servers.iter().find(|s| s.id() == elsewhere).unwrap();
    forged.stripe.receipts[1] = elsewhere.receipt(forged.stripe.stripe, 1, 1);
    fixture.post::<SnapshotRow>("/v1/snapshots", &forged).await.unwrap_err();
    let status = fixture.status().await;
    assert_eq!((status.stripes, status.snapshots), (0, 0));
    fixture.post::<SnapshotRow>("/v1/snapshots", &whole).await.unwrap();
    let status = fixture.status().await;
    assert_eq!((status.stripes, status.snapshots), (1, 1));
}

#[tokio::test]
async fn place_asked_again_keeps_what_is_stored() {
    let (fixture, lease) = Fixture::with_servers(&["a", "b", "c", "d"]).await;
    let mut request = place_request(&lease, 1, (2, 1));
    let first = fixture.place(&request).await.unwrap();
    let servers = |p: &Placement| p.places.iter().map(|p| (p.index, p.server)).collect::<Vec<_>>();
    assert_eq!(servers(&fixture.place(&request).await.unwrap()), servers(&first));

    // The server of shard 1 fails: a spare takes its place, nothing else moves.
    let [zero, one, two] = servers(&first)[..] else { panic!("{first:?}") };
    request.stored = vec![zero, two];
    request.avoid = vec![one.1];
    let second = fixture.place(&request).await.unwrap();
    let [(1, spare)] = servers(&second)[..] else { panic!("{second:?}") };
    assert!(servers(&first).iter().all(|(_, s)| *s != spare));
    let receipts = [&first.places[0], &second.places[0], &first.places[2]]
        .map(|p| fixture.receipt(request.stripe, p, first.epoch));
    let commit = commit_of(&request, receipts.to_vec());
    assert_eq!(fixture.commit(&commit).await.unwrap().holders, 3);

    // The shard at the server that failed is left over once the push is done.
    assert_eq!(fixture.status().await.leftover_shards, 0);
    let path = format!("/v1/leases/{}", lease.lease.0);
    fixture.ask::<Ended>(Method::DELETE, &path, &()).await.unwrap();
    assert_eq!(fixture.status().await.leftover_shards, 1);

    // Committed shards are held: nothing to place.
    let lease = fixture.begin().await;
    let placement = fixture.place(&place_request(&lease, 1, (2, 1))).await.unwrap();
    assert_eq!(placement.places.len(), 0);
}

#[tokio::test]
async fn another_push_takes_over_what_was_stored() {
    let (fixture, lease) = Fixture::with_servers(&["a", "b", "c"]).await;
    let mut commit = fixture.stored(&lease, 1, (2, 1)).await;
    let path = format!("/v1/leases/{}", lease.lease.0);
    fixture.ask::<Ended>(Method::DELETE, &path, &()).await.unwrap();
    assert_eq!(fixture.status().await.leftover_shards, 3);

    let lease = fixture.begin().await;
    commit.lease = lease.lease;
    let refused = fixture.commit(&commit).await.unwrap_err();
    assert_eq!(refused.refusal.code, Code::Conflict, "no tickets under this lease");
    let mut request = place_request(&lease, 1, (2, 1));
    request.stored = commit.receipts.iter().map(|r| (r.index, r.server)).collect();
    assert_eq!(fixture.place(&request).await.unwrap().places.len(), 0);
    assert_eq!(fixture.status().await.leftover_shards, 0);
    assert_eq!(fixture.commit(&commit).await.unwrap().holders, 3);

    // What nobody was ticketed for is no stored shard.
    let mut request = place_request(&lease, 2, (2, 1));
    request.stored = vec![(0, fixture.servers[0].id())];
    let refused = fixture.place(&request).await.unwrap_err();
    assert_eq!(refused.refusal.code, Code::Conflict);
}

#[tokio::test]
async fn a_lease_that_is_over_takes_no_commit() {
    let (fixture, lease) = Fixture::with_servers(&["a", "b"]).await;
    let mut commit = fixture.stored(&lease, 1, (1, 1)).await;
    let (snapshot, row) = fixture.snapshot(&lease, 2).await;
    let path = format!("/v1/leases/{}", lease.lease.0);
    for _ in 0..2 {
        fixture.ask::<Ended>(Method::DELETE, &path, &()).await.unwrap();
    }
    let over = |refused: Refused| assert_eq!(refused.refusal.code, Code::LeaseOver);
    over(fixture.commit(&commit).await.unwrap_err());
    over(fixture.place(&place_request(&lease, 3, (1, 1))).await.unwrap_err());
    over(fixture.post::<Renewed>(&format!("{path}/renew"), &()).await.unwrap_err());
    let have = HaveRequest { lease: lease.lease, chunks: Ids(chunks(2).to_vec()) };
    over(fixture.post::<HaveAnswer>("/v1/have", &have).await.unwrap_err());
    commit.kind = Kind::Snapshot;
    let new = CommitSnapshot { stripe: commit, source_set: Digest([9; 32]) };
    over(fixture.post::<SnapshotRow>("/v1/snapshots", &new).await.unwrap_err());
    // The answer to a snapshot may have been lost: it is given again.
    let again: SnapshotRow = fixture.post("/v1/snapshots", &snapshot).await.unwrap();
    assert_eq!(again.sequence, row.sequence);
    let status = fixture.status().await;
    assert_eq!((status.stripes, status.leases), (1, 0));
}

#[tokio::test]
async fn a_lease_that_ran_out_can_be_renewed() {
    let mut fixture = Fixture::start_with(Timings { lease: Duration::ZERO, ..timings() }).await;
    fixture.join("s1", "a").await;
    fixture.join("s2", "b").await;
    let lease = fixture.begin().await;
    let refused = fixture.place(&place_request(&lease, 1, (1, 1))).await.unwrap_err();
    assert_eq!(refused.refusal.code, Code::LeaseOver);
    fixture.restart(timings()).await;
    let path = format!("/v1/leases/{}/renew", lease.lease.0);
    let renewed: Renewed = fixture.post(&path, &()).await.unwrap();
    assert!(renewed.expires_ms > renewed.now_ms + 1000);
    fixture.push(&lease, 1, (1, 1)).await;
}

#[tokio::test]
async fn tickets_end_with_their_lease() {
    let short = Timings { lease: Duration::from_secs(60), ..timings() };
    let mut fixture = Fixture::start_with(short).await;
    fixture.join("s1", "a").await;
    fixture.join("s2", "b").await;
    let lease = fixture.begin().await;
    let placement = fixture.place(&place_request(&lease, 1, (1, 1))).await.unwrap();
    let key = fixture.servers[0].identity().ticket_key.0;
    let ticket = verify_ticket(&placement.places[0].ticket, &key).unwrap();
    assert_eq!(ticket.expires_ms, lease.expires_ms);
}

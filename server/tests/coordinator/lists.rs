//! Lists in pages, tickets for reading, and what readers report.

use std::collections::BTreeSet;

use arc_server::auth::{Grant, verify_ticket};
use arc_server::wire::*;
use codec::ChunkId;
use serde::de::DeserializeOwned;

use crate::fixture::{Fixture, chunks, stripe};

/// All rows of a list, asked for in pages of `limit`.
async fn all<T: DeserializeOwned>(fixture: &Fixture, path: &str, limit: usize) -> Vec<T> {
    let mut rows = Vec::new();
    let mut query = format!("{path}?limit={limit}");
    loop {
        let page: Page<T> = fixture.get(&query).await;
        assert!(page.rows.len() <= limit);
        rows.extend(page.rows);
        match page.next {
            None => return rows,
            Some(after) => query = format!("{path}?limit={limit}&after={after}"),
        }
    }
}

#[tokio::test]
async fn pages_give_every_row_once_and_in_order() {
    let (fixture, lease) = Fixture::with_servers(&["a", "b", "c"]).await;
    for number in 1..=3 {
        fixture.push(&lease, number, (1, 1)).await;
    }
    for number in 4..=7 {
        fixture.snapshot(&lease, number).await;
    }
    for limit in [1, 2, 3, 4, 5, 1000] {
        let stripes: Vec<StripeMap> = all(&fixture, "/v1/stripes", limit).await;
        let ids: Vec<_> = stripes.iter().map(|s| s.stripe).collect();
        assert_eq!(ids, (1..=7).map(stripe).collect::<Vec<_>>(), "limit {limit}");
        let snapshots: Vec<SnapshotRow> = all(&fixture, "/v1/snapshots", limit).await;
        let ids: Vec<_> = snapshots.iter().map(|s| s.id).collect();
        assert_eq!(ids, (4..=7).rev().map(stripe).collect::<Vec<_>>(), "limit {limit}");
        assert!(snapshots.iter().all(|s| s.stripe.shards.len() == 2));
        let servers: Vec<ServerInfo> = all(&fixture, "/v1/servers", limit).await;
        let names: Vec<_> = servers.iter().map(|s| s.name.as_str()).collect();
        assert_eq!(names, ["s1", "s2", "s3"], "limit {limit}");
    }
    let maps: Vec<StripeMap> = fixture
        .post(
            "/v1/stripe-maps",
            &StripeMapsRequest { stripes: vec![stripe(5), stripe(99), stripe(1)] },
        )
        .await
        .unwrap();
    let ids: Vec<_> = maps.iter().map(|m| m.stripe).collect();
    assert_eq!(ids, [stripe(5), stripe(1)]);
}

#[tokio::test]
async fn read_tickets_open_every_server() {
    let (fixture, _) = Fixture::with_servers(&["a", "b"]).await;
    fixture.servers[1].answer(|a| a.silent = true);
    fixture.state_becomes("s2", State::Suspect).await;
    let tickets: ReadTickets = fixture.post("/v1/read-tickets", &()).await.unwrap();
    assert_eq!(tickets.servers.len(), 2);
    assert!(tickets.expires_ms > tickets.now_ms);
    for (row, server) in tickets.servers.iter().zip(&fixture.servers) {
        let ticket = verify_ticket(&row.ticket, &server.identity().ticket_key.0).unwrap();
        assert_eq!((ticket.grant, ticket.server), (Grant::Read, server.id()));
        assert_eq!(ticket.expires_ms, tickets.expires_ms);
        assert_eq!((&row.name, &row.url), (&server.name, &server.url()));
    }
    assert_eq!(tickets.servers[1].state, State::Suspect);
}

#[tokio::test]
async fn chunks_are_lost_when_no_stripe_gives_them_back() {
    let (fixture, lease) = Fixture::with_servers(&["a", "b", "c"]).await;
    let one = fixture.push(&lease, 1, (2, 1)).await;
    // A second stripe has one of its chunks too.
    let mut two = fixture.stored(&lease, 2, (2, 1)).await;
    two.chunks.0[0] = chunks(1)[0];
    fixture.commit(&two).await.unwrap();
    let report = async |commit: &CommitStripe, n: usize, found: Found| {
        let Receipt { stripe, index, server, .. } = commit.receipts[n];
        fixture.post::<()>("/v1/reports", &Report { stripe, index, server, found }).await
    };
    let lost = async || -> BTreeSet<ChunkId> {
        all::<ChunkId>(&fixture, "/v1/lost-chunks", 1).await.into_iter().collect()
    };
    let asked = [chunks(1)[0], chunks(1)[1], chunks(2)[1]];

    report(&one, 0, Found::Missing).await.unwrap();
    assert!(lost().await.is_empty());
    assert_eq!(fixture.begin().await.stripes_below_target, 1);
    assert_eq!(fixture.have(&lease, &asked).await, "111");
    assert_eq!(fixture.status().await.margins, [(0, 1), (1, 1)]);

    report(&one, 1, Found::Damaged("block 3".into())).await.unwrap();
    assert_eq!(lost().await, BTreeSet::from([chunks(1)[1]]));
    assert_eq!(fixture.begin().await.lost_chunks, 1);
    assert_eq!(fixture.have(&lease, &asked).await, "101", "the other has a second place");
    let locate = LocateRequest { chunks: Ids(asked.to_vec()) };
    let located: LocateAnswer = fixture.post("/v1/locate", &locate).await.unwrap();
    assert_eq!(located.places[0].len(), 2);
    let bad: Vec<bool> = located.stripes[0].shards.iter().map(|h| h.bad).collect();
    assert_eq!(bad, [true, true, false]);

    report(&two, 0, Found::Missing).await.unwrap();
    report(&two, 2, Found::Missing).await.unwrap();
    assert_eq!(lost().await.len(), 3);
    assert_eq!(fixture.begin().await.lost_chunks, 3);
    assert_eq!(fixture.status().await.margins, [(-1, 2)]);

    // Whole after all, or pushed again to where it was.
    report(&one, 1, Found::Good).await.unwrap();
    report(&two, 2, Found::Good).await.unwrap();
    assert!(lost().await.is_empty());
    assert_eq!(fixture.commit(&one).await.unwrap().holders, 2, "a receipt counts once");
    assert_eq!(fixture.push(&lease, 1, (2, 1)).await.receipts.len(), 1, "it is stored again");
    assert_eq!(fixture.begin().await.stripes_below_target, 1);

    let mut other = one.clone();
    other.receipts[0].index = 9;
    let refused = report(&other, 0, Found::Missing).await.unwrap_err();
    assert_eq!(refused.refusal.code, Code::NotFound);
}

#[tokio::test]
async fn margins_count_servers_that_are_up_and_have_counts_what_is_stored() {
    let (fixture, lease) = Fixture::with_servers(&["a", "b", "c"]).await;
    fixture.push(&lease, 1, (2, 1)).await;
    for n in [0, 1] {
        fixture.servers[n].answer(|a| a.silent = true);
        fixture.state_becomes(&fixture.servers[n].name, State::Suspect).await;
    }
    assert_eq!(fixture.status().await.margins, [(-1, 1)]);
    assert_eq!(fixture.have(&lease, &chunks(1)).await, "11");
    assert_eq!(fixture.begin().await.lost_chunks, 0, "absence is not loss");
}

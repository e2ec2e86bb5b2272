//! What servers hold is compared with the catalog, and what differs is booked as it is found.

use std::collections::BTreeSet;
use std::time::Duration;

use arc_server::coordinator::Timings;
use arc_server::wire::*;
use codec::StripeId;
use reqwest::Method;

use crate::fixture::{FakeServer, Fixture, commit_of, place_request, stripe, timings};

impl Fixture {
    /// Compares all servers to the end, and gives what came of s1.
    async fn compared(&self) -> Comparison {
        let mut all: Vec<Comparison> = self.post("/v1/reconcile", &()).await.unwrap();
        assert!(all.iter().all(|comparison| !comparison.running), "{all:?}");
        all.swap_remove(0)
    }

    async fn found(&self) -> Counts {
        let compared = self.compared().await;
        assert_eq!(compared.failed, None);
        compared.found
    }

    /// The shards that the map has as bad.
    async fn bad(&self) -> BTreeSet<(StripeId, u8)> {
        let page: Page<StripeMap> = self.get("/v1/stripes").await;
        let bad = |map: StripeMap| {
            let bad = map.shards.into_iter().filter(|holder| holder.bad);
            bad.map(move |holder| (map.stripe, holder.index)).collect::<Vec<_>>()
        };
        page.rows.into_iter().flat_map(bad).collect()
    }

    /// The shards that the map has on a server, and whether as bad.
    async fn mapped(&self, server: ServerId) -> Vec<(StripeId, u8, bool)> {
        let page: Page<StripeMap> = self.get("/v1/stripes").await;
        let of_server = |map: &StripeMap| {
            let holder = map.shards.iter().find(|holder| holder.server == server);
            holder.map(|holder| (map.stripe, holder.index, holder.bad))
        };
        page.rows.iter().filter_map(of_server).collect()
    }

    /// Waits until the map has these as bad, and no others.
    async fn bad_become(&self, shards: &[(StripeId, u8)]) {
        let shards: BTreeSet<_> = shards.iter().copied().collect();
        let wait = async {
            while self.bad().await != shards {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), wait).await.expect("they never were");
    }

    async fn end(&self, lease: &Lease) {
        let path = format!("/v1/leases/{}", lease.lease.0);
        self.ask::<Ended>(Method::DELETE, &path, &()).await.unwrap();
    }
}

/// The shards of a server.
fn held(server: &FakeServer) -> Vec<(StripeId, u8)> {
    server.shelf.held()
}

const NONE: Counts =
    Counts { good: 0, missing: 0, damaged: 0, surplus: 0, unknown: 0, pending: 0, leftover: 0 };

#[tokio::test]
async fn a_server_that_holds_what_the_map_says_costs_one_request() {
    let (fixture, lease) = Fixture::with_servers(&["a", "b", "c"]).await;
    for number in 1..6 {
        fixture.push(&lease, number, (2, 1)).await;
    }
    let shelf = &fixture.servers[0].shelf;
    shelf.asked();
    assert_eq!(fixture.found().await, Counts { good: 5, ..NONE });
    assert_eq!(shelf.asked(), ["digests"]);
}

#[tokio::test]
async fn what_is_missing_damaged_or_back_is_booked_after_a_check() {
    let (fixture, lease) = Fixture::with_servers(&["a", "b", "c"]).await;
    for number in 1..8 {
        fixture.push(&lease, number, (2, 1)).await;
    }
    let shelf = &fixture.servers[0].shelf;
    let shards = held(&fixture.servers[0]);
    let [gone, bad, said, ..] = shards[..] else { panic!("{shards:?}") };
    shelf.lose(gone.0, gone.1);
    shelf.rot(bad.0, bad.1);
    for (stripe, index) in [bad, said] {
        shelf.hold(stripe, index, true);
    }
    let found = fixture.found().await;
    assert_eq!(found, Counts { good: 5, missing: 1, damaged: 1, ..NONE });
    assert_eq!(
        fixture.bad().await,
        BTreeSet::from([gone, bad]),
        "one was said to be bad, and is not"
    );
    assert_eq!(fixture.status().await.stripes_below_target, 2);
    // Compared again: nothing differs, and nothing is asked but that.
    shelf.asked();
    assert_eq!(fixture.found().await, found);
    assert_eq!(shelf.asked(), ["digests"]);

    // What is there again is good when it was read.
    shelf.hold(gone.0, gone.1, false);
    shelf.asked();
    assert_eq!(fixture.found().await, Counts { good: 6, damaged: 1, ..NONE });
    assert!(shelf.asked().contains(&"check".to_owned()));
    assert_eq!(fixture.bad().await, BTreeSet::from([bad]));
    shelf.lose(bad.0, bad.1);
    assert_eq!(fixture.found().await, Counts { good: 6, missing: 1, ..NONE });
}

#[tokio::test]
async fn what_a_server_finds_is_noticed_with_its_next_probe() {
    let (fixture, lease) = Fixture::with_servers(&["a", "b", "c"]).await;
    fixture.push(&lease, 1, (2, 1)).await;
    let server = &fixture.servers[0];
    let shard = held(server)[0];
    server.shelf.rot(shard.0, shard.1);
    server.shelf.hold(shard.0, shard.1, true);
    assert_eq!(fixture.bad().await, BTreeSet::new());
    server.answer(|a| a.findings += 1);
    fixture.bad_become(&[shard]).await;
}

#[tokio::test]
async fn a_start_compares_all_servers() {
    let (mut fixture, lease) = Fixture::with_servers(&["a", "b", "c"]).await;
    fixture.push(&lease, 1, (2, 1)).await;
    let shard = held(&fixture.servers[1])[0];
    fixture.servers[1].shelf.lose(shard.0, shard.1);
    fixture.restart(Timings { compare_every: Duration::from_secs(3600), ..timings() }).await;
    fixture.bad_become(&[shard]).await;
}

#[tokio::test]
async fn a_server_that_is_back_is_up_only_when_it_was_compared() {
    let timings = Timings { down_after: Duration::from_millis(1), ..timings() };
    let mut fixture = Fixture::start_with(timings).await;
    for (name, zone) in [("s1", "a"), ("s2", "b"), ("s3", "c")] {
        fixture.join(name, zone).await;
    }
    let lease = fixture.begin().await;
    fixture.push(&lease, 1, (2, 1)).await;
    let server = &fixture.servers[0];
    server.answer(|a| a.silent = true);
    fixture.state_becomes("s1", State::Down).await;
    let shard = held(server)[0];
    server.shelf.lose(shard.0, shard.1);
    server.shelf.refuse(Some("inventory"));
    server.answer(|a| a.silent = false);
    fixture.state_becomes("s1", State::Returned).await;
    let compared = fixture.compared().await;
    assert!(compared.failed.unwrap().contains("not now"));
    fixture.state_becomes("s1", State::Returned).await;
    server.shelf.refuse(None);
    fixture.state_becomes("s1", State::Up).await;
    assert_eq!(fixture.bad().await, BTreeSet::from([shard]));
}

#[tokio::test]
async fn a_shard_that_comes_after_its_page_was_read_is_not_missing() {
    let (fixture, lease) = Fixture::with_servers(&["a", "b", "c"]).await;
    fixture.push(&lease, 1, (2, 1)).await;
    let shelf = &fixture.servers[0].shelf;
    // Something differs, so that the bucket is read.
    shelf.hold(stripe(2), 9, false);
    let (reached, go_on) = shelf.gate("inventory");
    let late = async {
        reached.await;
        fixture.push(&lease, 2, (2, 1)).await;
        go_on.send(()).unwrap();
    };
    let (found, ()) = tokio::join!(fixture.found(), late);
    assert_eq!((found.good, found.missing), (2, 0));
    assert_eq!(fixture.bad().await, BTreeSet::new());
}

#[tokio::test]
async fn what_changes_while_it_is_checked_is_looked_at_again() {
    let (fixture, lease) = Fixture::with_servers(&["a", "b", "c"]).await;
    let commit = fixture.push(&lease, 1, (2, 1)).await;
    let server = &fixture.servers[0];
    let (stripe, index) = held(server)[0];
    server.shelf.lose(stripe, index);
    let (reached, go_on) = server.shelf.gate("check");
    let repaired = async {
        // It was found to be missing; it is reported, placed again, stored and committed.
        reached.await;
        let report = Report { stripe, index, server: server.id(), found: Found::Missing };
        fixture.post::<()>("/v1/reports", &report).await.unwrap();
        let placement = fixture.place(&place_request(&lease, 1, (2, 1))).await.unwrap();
        assert_eq!(placement.places.len(), 1);
        let receipt = server.receipt(stripe, index, placement.epoch);
        let again = CommitStripe { receipts: vec![receipt], ..commit.clone() };
        assert_eq!(fixture.commit(&again).await.unwrap().holders, 3);
        go_on.send(()).unwrap();
    };
    let (found, ()) = tokio::join!(fixture.found(), repaired);
    assert_eq!(found, Counts { good: 1, ..NONE });
    assert_eq!(fixture.bad().await, BTreeSet::new());
}

/// A stripe right before or behind stripe 1.
fn beside(last: u8) -> StripeId {
    let mut id = [1; 32];
    (id[1], id[31]) = (last % 2 * 2, last);
    StripeId(id)
}

#[tokio::test]
async fn i4_what_nothing_is_on_record_of_is_counted_listed_and_kept() {
    let (fixture, lease) = Fixture::with_servers(&["a", "b", "c", "d"]).await;
    fixture.push(&lease, 1, (2, 1)).await;
    fixture.end(&lease).await;
    let server = fixture.servers.iter().find(|s| held(s).is_empty()).unwrap();
    // s1 comes first in the answer.
    let first = &fixture.servers[0];
    for fake in [server, first] {
        for number in 100..105 {
            fake.shelf.hold(stripe(number), 3, false);
        }
        fake.shelf.hold(stripe(1), 7, false);
        // In the bucket of what it should hold, so many that they come in pages.
        for last in 0..5 {
            fake.shelf.hold(beside(last), 0, false);
            fake.shelf.hold(beside(last), 1, true);
        }
    }
    let before = held(first);
    let compared = fixture.compared().await;
    let Counts { unknown, surplus, leftover, missing, .. } = compared.found;
    assert_eq!((unknown, surplus, leftover, missing), (15, 1, 0, 0));
    assert_eq!(compared.found.compared(), before.len() as u64);
    let near = [0, 2, 4, 1, 3].into_iter().flat_map(|last| [(beside(last), 0), (beside(last), 1)]);
    let far = (100..105).map(|number| (stripe(number), 3));
    assert_eq!(compared.unknown, near.chain(far).collect::<Vec<_>>());
    assert_eq!(compared.surplus, [(stripe(1), 7)]);
    assert_eq!(held(first), before);
}

#[tokio::test]
async fn i14_what_a_push_left_is_trashed_when_its_lease_is_over_and_not_before() {
    let (mut fixture, lease) = Fixture::with_servers(&["a", "b", "c"]).await;
    fixture.push(&lease, 1, (2, 1)).await;
    fixture.stored(&lease, 2, (2, 1)).await;
    let before = held(&fixture.servers[0]);
    assert_eq!(fixture.found().await, Counts { good: 1, pending: 1, ..NONE });
    assert_eq!(held(&fixture.servers[0]), before);

    // It ran out, and could still be renewed.
    fixture.restart(Timings { pushes_outlive: false, ..timings() }).await;
    for name in ["s1", "s2", "s3"] {
        fixture.state_becomes(name, State::Up).await;
    }
    assert_eq!(fixture.status().await.leftover_shards, 3);
    assert_eq!(fixture.found().await, Counts { good: 1, leftover: 1, ..NONE });
    for server in &fixture.servers {
        assert_eq!(held(server).len(), 1, "{}", server.name);
    }
    assert_eq!(fixture.status().await.leftover_shards, 0);
    let path = format!("/v1/leases/{}/renew", lease.lease.0);
    let refused = fixture.post::<Renewed>(&path, &()).await.unwrap_err();
    assert_eq!(refused.refusal.code, Code::LeaseOver);
    assert_eq!(fixture.found().await, Counts { good: 1, ..NONE });
    assert_eq!(fixture.bad().await, BTreeSet::new());
}

#[tokio::test]
async fn nobody_relies_on_what_is_being_trashed() {
    let (mut fixture, lease) = Fixture::with_servers(&["a"]).await;
    fixture.join("s2", "b").await;
    let commit = fixture.stored(&lease, 1, (1, 1)).await;
    fixture.end(&lease).await;
    let server = &fixture.servers[0];
    let shard = held(server)[0];
    // The order gets lost: it stays given, over a restart too.
    server.shelf.refuse(Some("trash"));
    assert!(fixture.compared().await.failed.is_some());
    assert_eq!(held(server), [shard]);
    fixture.restart(timings()).await;
    for name in ["s1", "s2"] {
        fixture.state_becomes(name, State::Up).await;
    }
    let lease = fixture.begin().await;
    let mut request = place_request(&lease, 1, (1, 1));
    for stored in [vec![], commit.receipts.iter().map(|r| (r.index, r.server)).collect()] {
        request.stored = stored;
        let refused = fixture.place(&request).await.unwrap_err();
        assert_eq!(refused.refusal.code, Code::Busy);
    }
    let server = &fixture.servers[0];
    server.shelf.refuse(None);
    assert_eq!(fixture.found().await, NONE);
    assert_eq!(held(server), []);
    // What was stored is gone, and can be stored again.
    let refused = fixture.place(&request).await.unwrap_err();
    assert_eq!(refused.refusal.code, Code::Conflict);
    request.stored = vec![];
    let placement = fixture.place(&request).await.unwrap();
    let receipts = placement.places.iter();
    let receipts = receipts.map(|p| fixture.receipt(request.stripe, p, placement.epoch)).collect();
    assert_eq!(fixture.commit(&commit_of(&request, receipts)).await.unwrap().holders, 2);
}

/// A small generator: the same numbers for the same seed.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as usize) % bound
    }
}

#[tokio::test]
async fn whatever_became_of_the_shards_the_map_has_it_after_one_comparison() {
    let (fixture, lease) = Fixture::with_servers(&["a", "b", "c"]).await;
    for number in 1..25 {
        fixture.push(&lease, number, (2, 1)).await;
    }
    for seed in 0..40 {
        let mut random = Random(seed);
        let mut truth = BTreeSet::new();
        for server in &fixture.servers {
            let shelf = &server.shelf;
            let mapped = fixture.mapped(server.id()).await;
            for &(stripe, index, bad) in &mapped {
                match random.below(8) {
                    0 => drop(shelf.remove(stripe, index)),
                    1 => {
                        shelf.rot(stripe, index);
                        shelf.hold(stripe, index, true);
                    }
                    // Said to be bad, and good: only who thinks otherwise has it looked at.
                    2 if !bad => {
                        shelf.heal(stripe, index);
                        shelf.hold(stripe, index, true);
                    }
                    2 | 3 => {
                        shelf.heal(stripe, index);
                        shelf.hold(stripe, index, false);
                    }
                    // Somebody has met something else than what is there.
                    4 => {
                        let found = [Found::Missing, Found::Damaged("why".into()), Found::Good];
                        let found = found[random.below(3)].clone();
                        let server = server.id();
                        let report = Report { stripe, index, server, found };
                        fixture.post::<()>("/v1/reports", &report).await.unwrap();
                    }
                    _ => {}
                }
            }
            let all = mapped.into_iter().map(|(stripe, index, _)| (stripe, index));
            truth.extend(all.filter(|&shard| !shelf.is_good(shard)));
        }
        let all: Vec<Comparison> = fixture.post("/v1/reconcile", &()).await.unwrap();
        assert_eq!(fixture.bad().await, truth, "seed {seed}: {all:?}");
        let sum = |of: fn(&Counts) -> u64| all.iter().map(|one| of(&one.found)).sum::<u64>();
        assert_eq!(sum(|found| found.missing + found.damaged), truth.len() as u64, "seed {seed}");
        assert_eq!(sum(Counts::compared), 24 * 3, "seed {seed}: {all:?}");
    }
}

mod backup;

use std::time::Duration;

use codec::shard::Kind;
use codec::{ChunkId, Geometry, StripeId};

use super::*;
use crate::auth::{self, Role};
use crate::coordinator::repair::{Ended, Entry, Surplus};
use crate::wire::{JoinRequest, LeaseId, ServerId};

const TERM: Duration = Duration::from_secs(3600);

struct Fixture {
    _folder: tempfile::TempDir,
    catalog: Catalog,
    owner: i64,
    servers: Vec<ServerId>,
}

impl Fixture {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (catalog, _) = Catalog::open(&folder.path().join("catalog.db"), true).unwrap();
        let owner = catalog.set_token(Role::Owner, [1; 32]).await.unwrap().id;
        let mut servers = Vec::new();
        for name in ["a", "b"] {
            let request = JoinRequest {
                name: name.into(),
                zone: name.into(),
                url: "http://127.0.0.1:9".into(),
                capacity_bytes: 1,
                free_bytes: 1,
                weight: crate::wire::Weight::ONE,
            };
            servers.push(catalog.join(request, [2; 32], false).await.unwrap().server);
        }
        Self { _folder: folder, catalog, owner, servers }
    }

    async fn begin(&self) -> LeaseId {
        self.catalog.begin(self.owner, auth::random().unwrap(), TERM).await.unwrap().0
    }

    async fn commit(&self, lease: LeaseId, number: u8) -> Result<()> {
        let stripe = StripeId([number; 32]);
        let holders = vec![(0, self.servers[0]), (1, self.servers[1])];
        let (stored, places) = (vec![], holders.clone());
        let intended = Intended { lease, stripe, stored, places };
        self.catalog.record_intent(self.owner, intended).await?;
        let new = NewStripe {
            stripe,
            kind: Kind::Data,
            geometry: Geometry::new(1, 1).unwrap(),
            pack_bytes: 100,
            pack_key: vec![0; 64],
            frames: vec![(0, 90)],
            chunks: vec![(ChunkId([number; 32]), 0)],
            holders,
        };
        self.catalog.commit_stripe(self.owner, lease, new).await.map(drop)
    }

    /// (created, touched, version) of each stripe.
    async fn stamps(&self) -> Vec<(u64, u64, u64)> {
        let read = self.catalog.read(|db| {
            let sql = "SELECT created_sequence, touched_sequence, version FROM stripes";
            let mut rows = db.prepare(sql)?;
            let rows = rows.query_map([], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?)))?;
            Ok(rows.collect::<Result<_, _>>()?)
        });
        read.await.unwrap()
    }
}

#[tokio::test]
async fn a_stripe_is_touched_when_have_vouches_for_it() {
    let fixture = Fixture::new().await;
    let first = fixture.begin().await;
    fixture.commit(first, 1).await.unwrap();
    fixture.commit(first, 2).await.unwrap();
    let before = fixture.stamps().await;
    assert!(before.iter().all(|(created, touched, version)| created == touched && *version == 1));

    let second = fixture.begin().await;
    let asked = vec![ChunkId([1; 32]), ChunkId([9; 32])];
    let have = fixture.catalog.have(fixture.owner, second, asked).await.unwrap();
    assert_eq!(have, [true, false]);
    let after = fixture.stamps().await;
    assert!(after[0].1 > before[1].1, "touched after all that was before the lease");
    assert_eq!((after[0].0, after[0].2), (before[0].0, before[0].2));
    assert_eq!(after[1], before[1], "nobody asked for it");
}

#[tokio::test]
async fn every_push_is_stamped_later_than_the_one_before() {
    let fixture = Fixture::new().await;
    let lease = fixture.begin().await;
    for number in 0..5 {
        fixture.commit(lease, number).await.unwrap();
    }
    let created: Vec<u64> = fixture.stamps().await.iter().map(|s| s.0).collect();
    assert!(created.is_sorted_by(|a, b| a < b), "{created:?}");
}

#[tokio::test]
async fn a_lease_is_of_its_token() {
    let fixture = Fixture::new().await;
    let lease = fixture.begin().await;
    let error = fixture.catalog.close_lease(fixture.owner + 1, lease).await.unwrap_err();
    assert_eq!(error.code(), Some(Code::NotFound));
    fixture.catalog.close_lease(fixture.owner, lease).await.unwrap();
    let error = fixture.commit(lease, 1).await.unwrap_err();
    assert_eq!(error.code(), Some(Code::LeaseOver));
    assert!(fixture.stamps().await.is_empty());
}

#[tokio::test]
async fn many_jobs_at_once_are_all_committed() {
    let fixture = Fixture::new().await;
    let lease = fixture.begin().await;
    let commits = (0..100).map(|number| fixture.commit(lease, number));
    for outcome in futures_util::future::join_all(commits).await {
        outcome.unwrap();
    }
    fixture.catalog.close().await;
    assert_eq!(fixture.stamps().await.len(), 100);
    let error = fixture.commit(lease, 200).await.unwrap_err();
    assert_eq!(error.code(), Some(Code::Busy));
}

#[tokio::test]
async fn the_ledger_adds_up_by_counting_and_a_row_that_is_broken_shows() {
    let fixture = Fixture::new().await;
    let lease = fixture.begin().await;
    let adds_up = async |fixture: &Fixture| {
        let counts = fixture.catalog.ledger_counts().await.unwrap();
        let sum = counts.repaired + counts.failed + counts.waiting + counts.unknown;
        (counts.needed, counts.needed == sum)
    };
    for number in 1..=4 {
        fixture.commit(lease, number).await.unwrap();
    }
    let last = fixture.catalog.note_stripes_of(fixture.servers[0], 0, 3).await.unwrap().unwrap();
    assert_eq!(adds_up(&fixture).await, (3, true), "a page of them");
    let end = fixture.catalog.note_stripes_of(fixture.servers[0], last, 3).await.unwrap();
    assert!(end.is_some_and(|key| key > last));
    assert_eq!(adds_up(&fixture).await, (4, true));

    let due = fixture.catalog.ledgered(Which::Open, 0, 10).await.unwrap();
    let keys: Vec<i64> = due.iter().map(|entry| entry.key).collect();
    assert_eq!((due[0].shards.len(), due[0].attempts), (2, 0));
    let note = async |key, ended| {
        fixture.catalog.note_tried(key, Entry::tried(0, ended, 1000)).await.unwrap();
        assert_eq!(adds_up(&fixture).await, (4, true));
    };
    note(keys[0], Ended::Whole).await;
    note(keys[1], Ended::Short("no".into())).await;
    note(keys[2], Ended::Unknown("a".into())).await;
    let open = fixture.catalog.ledgered(Which::Open, 0, 10).await.unwrap();
    let due: Vec<i64> = open.iter().filter(|e| e.due_ms <= 1000).map(|e| e.key).collect();
    assert_eq!((open.len(), &due[..]), (3, &keys[3..]), "the others back off");
    assert_eq!(fixture.catalog.next_repair_ms(1000).await.unwrap(), Some(61_000));
    // The same server again: only what was repaired is looked at anew.
    fixture.catalog.note_stripes_of(fixture.servers[0], 0, 10).await.unwrap();
    let counts = fixture.catalog.ledger_counts().await.unwrap();
    assert_eq!((counts.waiting, counts.failed, counts.unknown), (2, 1, 1));

    let breaks = "PRAGMA ignore_check_constraints = true;
                  UPDATE repairs SET state = 'mended' WHERE state = 'failed'";
    fixture.catalog.write(|db| Ok(db.execute_batch(breaks)?)).await.unwrap();
    assert_eq!(adds_up(&fixture).await, (4, false));
}

#[tokio::test]
async fn what_is_struck_out_is_trashed_once_and_holds_its_place_until_then() {
    let fixture = Fixture::new().await;
    let lease = fixture.begin().await;
    fixture.commit(lease, 1).await.unwrap();
    let [kept, dropped] = [fixture.servers[0], fixture.servers[1]];
    let stripe = StripeId([1; 32]);
    let (_, version) = fixture.catalog.versioned_map(stripe).await.unwrap().unwrap();
    let surplus = || vec![Surplus { index: 1, kept, dropped }];
    assert!(!fixture.catalog.strike_out(1, version + 1, surplus()).await.unwrap());
    assert!(fixture.catalog.strike_out(1, version, surplus()).await.unwrap());
    assert!(!fixture.catalog.strike_out(1, version, surplus()).await.unwrap(), "it changed");
    let (map, _) = fixture.catalog.versioned_map(stripe).await.unwrap().unwrap();
    assert_eq!(map.shards.len(), 1);
    assert_eq!(fixture.catalog.entombed(stripe).await.unwrap(), [dropped]);

    let order = async |before_ms, now_ms| {
        fixture.catalog.order_trash(dropped, before_ms, now_ms, 9).await.unwrap()
    };
    assert_eq!(order(940, 1000).await, [(stripe, 1)]);
    assert_eq!(order(941, 1001).await, [], "its answer may come yet");
    assert_eq!(order(1001, 1061).await, [(stripe, 1)]);
    fixture.catalog.buried(dropped, vec![(stripe, 1)]).await.unwrap();
    assert_eq!(order(5000, 5000).await, []);
    assert_eq!(fixture.catalog.entombed(stripe).await.unwrap(), []);
}

#[tokio::test]
async fn i4_an_older_copy_takes_nothing_for_left_over_that_it_may_have_forgotten() {
    let fixture = Fixture::new().await;
    let (catalog, server) = (&fixture.catalog, fixture.servers[0]);
    let intend = async |number| {
        let lease = fixture.begin().await;
        let (stripe, places) = (StripeId([number; 32]), vec![(0, server)]);
        let intended = Intended { lease, stripe, stored: vec![], places };
        catalog.record_intent(fixture.owner, intended).await.unwrap();
        catalog.close_lease(fixture.owner, lease).await.unwrap();
    };
    let standings = async || {
        let shards = [1, 2].map(|number| (StripeId([number; 32]), 0));
        catalog.standings(server, shards.to_vec()).await.unwrap()
    };
    intend(1).await;
    assert_eq!(standings().await, [Standing::LeftOver, Standing::Unknown]);
    // A server has seen a later epoch: what was committed in it is not in here.
    let seen = catalog.epoch() + 3;
    assert!(catalog.raise_epoch(seen).await.unwrap());
    intend(2).await;
    assert_eq!(standings().await, [Standing::Unknown, Standing::LeftOver]);
    let both = [1, 2].map(|number| (StripeId([number; 32]), 0)).to_vec();
    assert_eq!(catalog.condemn(server, both).await.unwrap(), 1);
}

#[tokio::test]
async fn snapshots_from_before_stamps_get_them_in_order_and_the_same_each_time() {
    let fixture = Fixture::new().await;
    let lease = fixture.begin().await;
    for number in 1..=3 {
        fixture.commit(lease, number).await.unwrap();
    }
    let kept = "INSERT INTO snapshots VALUES
                    (1, 70, 5, zeroblob(32), 1, 'kept'), (2, 60, 6, zeroblob(32), 1, 'kept'),
                    (3, 65, 7, zeroblob(32), 1, 'forgotten')";
    fixture.catalog.write(|db| Ok(db.execute_batch(kept)?)).await.unwrap();
    let signer = || Arc::new(crate::auth::TicketSigner::from_seed(&[1; 32]).unwrap());
    let stamp = async || {
        fixture.catalog.stamp_kept(signer()).await.unwrap();
        fixture.catalog.facts(0, 10, false).await.unwrap()
    };
    let first = stamp().await;
    let ids = first.iter().map(|bytes| {
        let codec::fact::Body::Stamp(stamp) = codec::fact::Fact::peek(bytes).unwrap().body;
        (stamp.snapshot.0[0], stamp.sequence)
    });
    assert_eq!(ids.collect::<Vec<_>>(), [(2, 60), (1, 70)]);
    assert_eq!(stamp().await, first);
    // An older copy that is opened anew in a later epoch has the same.
    fixture.catalog.raise_epoch(99).await.unwrap();
    fixture.catalog.write(|db| Ok(db.execute_batch("DELETE FROM facts")?)).await.unwrap();
    assert_eq!(stamp().await, first);
    // They are kept all the while.
    fixture.catalog.facts_stored(2).await.unwrap();
    assert_eq!(fixture.catalog.snapshots(None, 10).await.unwrap().rows.len(), 2);
    assert_eq!(fixture.catalog.unstored().await.unwrap(), []);
}

#[tokio::test]
async fn what_was_adopted_is_vouched_for_once_it_is_known_what_is_in_it() {
    let fixture = Fixture::new().await;
    let (catalog, [a, b]) = (&fixture.catalog, [fixture.servers[0], fixture.servers[1]]);
    let adopted = |number, k, holders: &[(u8, ServerId)]| Adopted {
        stripe: StripeId([number; 32]),
        kind: Kind::Data,
        geometry: Geometry::new(k, 1).unwrap(),
        pack_bytes: 100,
        pack_key: vec![0; 64],
        holders: holders.to_vec(),
    };
    let all = || vec![adopted(1, 1, &[(0, a), (1, b)]), adopted(2, 2, &[(0, a)])];
    assert_eq!(catalog.adopt(all()).await.unwrap(), (1, 2, 1));
    assert_eq!(catalog.adopt(all()).await.unwrap(), (0, 0, 1), "again, nothing is new");
    // Two shards of one index do not make two.
    let copies = vec![adopted(2, 2, &[(0, a), (0, b)])];
    assert_eq!(catalog.adopt(copies).await.unwrap(), (0, 0, 1));

    let lease = fixture.begin().await;
    let have = async |number: u8| {
        let asked = vec![ChunkId([number; 32])];
        catalog.have(fixture.owner, lease, asked).await.unwrap()[0]
    };
    let bare = async || catalog.unindexed(0, 10).await.unwrap().rows.len();
    let indexed = |number: u8, end| Indexed {
        stripe: StripeId([number; 32]),
        frames: vec![(0, end)],
        chunks: vec![(ChunkId([number; 32]), 0)],
    };
    assert_eq!((have(1).await, bare().await), (false, 1));
    let beyond = catalog.index(vec![indexed(1, 101)]).await.unwrap_err();
    assert_eq!(beyond.code(), Some(Code::Conflict));
    for _ in 0..2 {
        catalog.index(vec![indexed(1, 90)]).await.unwrap();
        assert_eq!((have(1).await, bare().await), (true, 0));
    }
    let other = catalog.index(vec![indexed(1, 80)]).await.unwrap_err();
    assert_eq!(other.code(), Some(Code::Conflict));
    assert_eq!(catalog.index(vec![indexed(9, 9)]).await.unwrap_err().code(), Some(Code::NotFound));
    let record = Adopted { kind: Kind::Record, ..adopted(4, 1, &[(0, a), (1, b)]) };
    assert_eq!(catalog.adopt(vec![record]).await.unwrap(), (1, 2, 0));
    let forged = catalog.index(vec![indexed(4, 90)]).await.unwrap_err();
    assert_eq!((forged.code(), have(4).await), (Some(Code::BadRequest), false));
    catalog.index(vec![Indexed { chunks: Vec::new(), ..indexed(4, 90) }]).await.unwrap();

    // A push that commits what was adopted meanwhile says what is in it.
    let late = || vec![adopted(3, 1, &[(0, a), (1, b)])];
    assert_eq!(catalog.adopt(late()).await.unwrap(), (1, 2, 0));
    fixture.commit(lease, 3).await.unwrap();
    assert_eq!((have(3).await, bare().await), (true, 0));

    // What is on its way to the trash is not relied on.
    let stripe = StripeId([1; 32]);
    let (_, version) = catalog.versioned_map(stripe).await.unwrap().unwrap();
    let surplus = vec![Surplus { index: 1, kept: a, dropped: b }];
    assert!(catalog.strike_out(1, version, surplus).await.unwrap());
    assert_eq!(catalog.adopt(all()).await.unwrap(), (0, 0, 1));
}

#[tokio::test]
async fn what_an_older_copy_intended_is_no_reason_to_leave_a_shard_out() {
    let fixture = Fixture::new().await;
    let (catalog, server) = (&fixture.catalog, fixture.servers[0]);
    let lease = fixture.begin().await;
    let (stripe, places) = (StripeId([1; 32]), vec![(0, server)]);
    let intended = Intended { lease, stripe, stored: vec![], places };
    catalog.record_intent(fixture.owner, intended).await.unwrap();
    let standing = async || catalog.standings(server, vec![(stripe, 0)]).await.unwrap()[0];
    catalog.begin_adoption().await.unwrap();
    assert_eq!(standing().await, Standing::Pending, "it is of this start");
    // The copy is opened again: its push is over, and may have been committed elsewhere.
    assert!(catalog.raise_epoch(catalog.epoch()).await.unwrap());
    catalog.begin_adoption().await.unwrap();
    assert_eq!(standing().await, Standing::Unknown);
    let error = fixture.commit(lease, 1).await.unwrap_err();
    assert_eq!(error.code(), Some(Code::LeaseOver));
}

#[tokio::test]
async fn what_was_looked_at_longest_ago_comes_first_and_bad_shards_are_not_covered() {
    use crate::wire::{Covered, Found, Proof, Report};
    let fixture = Fixture::new().await;
    let (catalog, servers) = (&fixture.catalog, &fixture.servers);
    let lease = fixture.begin().await;
    for number in 1..=3 {
        fixture.commit(lease, number).await.unwrap();
    }
    let id = |number: u8| StripeId([number; 32]);
    let oldest_on = async |proof, up: &[ServerId]| -> Vec<u8> {
        let mut order = Vec::new();
        let mut after = None;
        loop {
            let page = catalog.oldest(proof, up.to_vec(), after, 2).await.unwrap();
            order.extend(page.rows.iter().map(|map| map.stripe.0[0]));
            let Some(next) = page.next else { return order };
            let (ms, key) = next.split_once('-').unwrap();
            after = Some((ms.parse().unwrap(), key.parse().unwrap()));
        }
    };
    let oldest = async |proof| oldest_on(proof, servers).await;
    let read = |number, which: &[u8], opened| {
        let shards = which.iter().map(|&i| (i, servers[usize::from(i)])).collect();
        Covered { stripe: id(number), shards, opened }
    };
    assert_eq!(oldest(Proof::Read).await, [1, 2, 3]);
    let first = vec![read(1, &[0, 1], true), read(2, &[0], false), read(9, &[0], true)];
    catalog.note_coverage(first).await.unwrap();
    assert_eq!(oldest(Proof::Read).await, [2, 3, 1], "a shard of 2 was not read");
    assert_eq!(oldest(Proof::Opened).await, [2, 3, 1]);
    assert_eq!(catalog.read_since(0).await.unwrap(), 1);
    assert_eq!(catalog.read_since(u64::MAX >> 1).await.unwrap(), 0);
    let report = |found| Report { stripe: id(1), index: 1, server: servers[1], found };
    catalog.report(report(Found::Missing)).await.unwrap();
    catalog.note_coverage(vec![read(1, &[1], false)]).await.unwrap();
    let known = catalog.coverage(vec![id(1), id(9)]).await.unwrap();
    assert_eq!(known.len(), 1);
    assert!(known[0].opened_ms.is_some() && known[0].shards[0].2.is_some());
    assert_eq!(known[0].shards.len(), 1, "the other is missing");
    assert_eq!(catalog.read_since(0).await.unwrap(), 1, "what is left of it was read");
    catalog.report(report(Found::Good)).await.unwrap();
    assert_eq!(catalog.read_since(0).await.unwrap(), 0, "nobody read it since");

    // What no look can reach does not keep its stripe at the front.
    let up = &servers[..1];
    assert_eq!(oldest_on(Proof::Read, up).await, [3, 1, 2]);
    assert_eq!(oldest_on(Proof::Read, &[]).await, [1, 2, 3]);
    catalog.note_coverage(vec![read(3, &[0], false)]).await.unwrap();
    assert_eq!(oldest_on(Proof::Read, up).await, [1, 2, 3], "a look puts it behind the others");
    assert_eq!(oldest(Proof::Read).await, [1, 2, 3]);
    catalog.give_up(servers[1], "b.gone".into()).await.unwrap();
    assert_eq!(catalog.read_since(0).await.unwrap(), 3);
    let known = catalog.coverage(vec![id(3)]).await.unwrap();
    assert_eq!(known[0].shards.len(), 1, "the other is lost");
}

#[tokio::test]
async fn the_last_drill_is_told() {
    use crate::wire::{Drill, DrillResult};
    let fixture = Fixture::new().await;
    assert_eq!(fixture.catalog.last_drill().await.unwrap(), None);
    let drill =
        Drill { files: 3, bytes: 4, bad_shards: 1, lost_files: 0, result: DrillResult::Repairable };
    fixture.catalog.note_drill(drill).await.unwrap();
    assert_eq!(fixture.catalog.last_drill().await.unwrap().unwrap().drill, drill);
}

#[tokio::test]
async fn i1_nothing_vouches_for_what_lost_servers_held_until_they_are_back() {
    let fixture = Fixture::new().await;
    let (catalog, servers) = (&fixture.catalog, &fixture.servers);
    let lease = fixture.begin().await;
    fixture.commit(lease, 1).await.unwrap();
    let have = async || {
        let asked = vec![ChunkId([1; 32])];
        catalog.have(fixture.owner, lease, asked).await.unwrap()[0]
    };
    let deficits = async || catalog.deficits().await.unwrap();
    let version = fixture.stamps().await[0].2;
    catalog.give_up(servers[0], "a-former".into()).await.unwrap();
    assert_eq!((have().await, deficits().await), (true, (0, 1)));
    catalog.note_lost(servers[1], true).await.unwrap();
    assert_eq!((have().await, deficits().await), (false, (1, 1)));
    // A change of its shards counts as a loss does.
    catalog.write(|db| rows::shards_changed(db, 1)).await.unwrap();
    assert_eq!((have().await, deficits().await), (false, (1, 1)));
    catalog.note_lost(servers[1], false).await.unwrap();
    assert_eq!((have().await, deficits().await), (true, (0, 1)));
    assert_eq!(fixture.stamps().await[0].2, version + 1, "no shard changed with a loss");
}

#[tokio::test]
async fn a_start_counts_what_lost_servers_held_no_more_and_no_copy_is_struck_out_for_a_lost_one() {
    let fixture = Fixture::new().await;
    let (catalog, [kept, dropped]) = (&fixture.catalog, [fixture.servers[0], fixture.servers[1]]);
    let lease = fixture.begin().await;
    fixture.commit(lease, 1).await.unwrap();
    // As an older arc left it.
    let lost = "UPDATE servers SET lost = 1 WHERE name = 'a'";
    catalog.write(move |db| Ok(db.execute_batch(lost)?)).await.unwrap();
    assert_eq!(catalog.deficits().await.unwrap(), (0, 0));
    let surplus = vec![Surplus { index: 1, kept, dropped }];
    assert!(!catalog.strike_out(1, 1, surplus).await.unwrap());
    let path = fixture._folder.path().join("catalog.db");
    let (opened, _) = Catalog::open(&path, true).unwrap();
    assert_eq!(opened.deficits().await.unwrap(), (0, 1));
}

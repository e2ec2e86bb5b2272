//! What is gone or rots on a server is noticed without anybody reading it, and nothing is removed
//! that somebody may want.

use std::collections::BTreeSet;
use std::fs;

use codec::StripeId;
use codec::shard::Header;
use server::auth::Token;
use server::client::CoordinatorClient;
use server::tls::Trust;
use server::wire::{Comparison, Counts, PageQuery};

use crate::fleet::{Fleet, Setup, ShardFile, eventually, name};
use crate::source;

impl Fleet {
    pub(crate) fn client(&self) -> CoordinatorClient {
        let token = self.sandbox.path("coordinator/owner.token");
        let token: Token = fs::read_to_string(token).unwrap().trim().parse().unwrap();
        let trust = Trust::of(&token).unwrap();
        CoordinatorClient::new(&self.url(), &token.secret, &trust).unwrap()
    }

    /// Compares all servers with the map; each gets to its end.
    #[track_caller]
    fn compared(&self) -> Vec<Comparison> {
        let all = wait_for(self.client().reconcile()).unwrap();
        let ended = |c: &Comparison| c.failed.is_none() && !c.running && c.ended_ms.is_some();
        assert!(all.iter().all(ended), "{all:?}");
        all
    }

    fn compared_server(&self, number: usize) -> Comparison {
        let is_it = |comparison: &Comparison| comparison.name == name(number);
        self.compared().into_iter().find(is_it).unwrap()
    }

    /// Shards that the map has as bad.
    fn bad(&self) -> BTreeSet<(StripeId, u8)> {
        let query = PageQuery { limit: Some(1000), ..PageQuery::default() };
        let page = wait_for(self.client().stripes(&query)).unwrap();
        assert_eq!(page.next, None);
        let stripes = page.rows.iter();
        let bad = stripes.flat_map(|map| {
            map.shards.iter().filter(|h| h.bad).map(|holder| (map.stripe, holder.index))
        });
        bad.collect()
    }

    fn shards_of(&self, number: usize) -> Vec<ShardFile> {
        self.shards().into_iter().filter(|shard| shard.server == number).collect()
    }
}

pub(crate) fn wait_for<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(work)
}

fn key(shard: &ShardFile) -> (StripeId, u8) {
    (shard.stripe.parse().unwrap(), shard.index)
}

#[test]
fn what_was_taken_away_is_missing_and_good_again_when_it_is_put_back() {
    let fleet = Fleet::new("2+1", 3);
    source::make(&fleet.source(), 61, 12);
    fleet.push(&[]).exits(0);
    let held = fleet.shards_of(1);
    let whole = Counts { good: held.len() as u64, ..Counts::default() };
    assert_eq!(fleet.compared_server(1).found, whole);

    let away: Vec<_> = held.iter().step_by(2).collect();
    let aside = fleet.sandbox.path("aside");
    fs::create_dir(&aside).unwrap();
    for shard in &away {
        fs::rename(&shard.path, aside.join(&shard.stripe)).unwrap();
    }
    let missing = away.len() as u64;
    let found = fleet.compared_server(1).found;
    assert_eq!(found, Counts { good: whole.good - missing, missing, ..Counts::default() });
    assert_eq!(fleet.bad(), away.iter().map(|shard| key(shard)).collect());
    let scan = fleet.sandbox.arc(["--json", "repair-scan"]).exits(4).json_of("summary");
    assert_eq!(scan["needed"], missing);

    for shard in &away {
        fs::rename(aside.join(&shard.stripe), &shard.path).unwrap();
    }
    assert_eq!(fleet.compared_server(1).found, whole);
    assert_eq!(fleet.bad(), BTreeSet::new());
}

#[test]
fn what_is_gone_while_the_coordinator_is_away_is_missing_after_its_start() {
    let mut fleet = Fleet::new("2+1", 3);
    source::make(&fleet.source(), 62, 4);
    fleet.push(&[]).exits(0);
    fleet.compared();
    let gone = &fleet.shards_of(0)[0];
    assert_eq!(fleet.terminate_coordinator(), Some(0));
    fs::remove_file(&gone.path).unwrap();
    fleet.revive_coordinator();
    eventually("it is missing", || fleet.bad() == BTreeSet::from([key(gone)]));
}

#[test]
fn a_flipped_bit_is_found_without_any_client_and_mended_by_its_column() {
    let mut fleet = Fleet::bare(&[]);
    for _ in 0..3 {
        fleet.join(&["--scrub-every=1s"]);
    }
    fleet.init(&fleet.sandbox, Some("2+1"));
    source::make(&fleet.source(), 63, 12);
    fleet.push(&[]).exits(0);
    let shards = fleet.shards_of(2);
    let hurt: Vec<&ShardFile> = shards.iter().step_by(3).collect();
    for shard in &hurt {
        let mut bytes = fs::read(&shard.path).unwrap();
        let at = bytes.len() / 2;
        bytes[at] ^= 4;
        fs::write(&shard.path, bytes).unwrap();
    }
    let expected: BTreeSet<_> = hurt.iter().map(|shard| key(shard)).collect();
    eventually("the scrub has found them", || fleet.bad() == expected);
    let fixed = fleet.sandbox.arc(["--json", "repair-scan", "--fix"]).exits(0).json_of("summary");
    assert_eq!(fixed["mended"], hurt.len());
    // Whatever the scrub says now, they stay good.
    let good = shards.len() as u64;
    assert_eq!(fleet.compared_server(2).found, Counts { good, ..Counts::default() });
    assert_eq!(fleet.bad(), BTreeSet::new());
    fleet.is_whole();
}

#[test]
fn i14_what_a_killed_push_left_is_trashed_when_its_lease_is_over_and_not_before() {
    let lease = ["--lease=10s"];
    let fleet =
        Fleet::of(Setup { code: "2+1", servers: 3, coordinator: &lease, ..Setup::default() });
    source::make(&fleet.source(), 64, 200);
    let counts = |of: fn(&Counts) -> u64| -> u64 {
        fleet.compared().iter().map(|comparison| of(&comparison.found)).sum()
    };
    // A push may be killed between two stripes, and leave nothing.
    let (mut pending, mut before) = (0, 0);
    eventually("a push is killed in the middle of a stripe", || {
        fleet.push_until(1_000_000, &[]).kill();
        (before, pending) = (fleet.shards().len(), counts(|found| found.pending));
        pending > 0
    });
    assert_eq!(counts(|found| found.leftover), 0);
    assert!(fleet.shards().len() >= before);
    let trashed = || -> usize {
        let trash = |n| fleet.server_folder(n).join("trash");
        let days = (0..3).flat_map(|n| fs::read_dir(trash(n)).unwrap());
        days.map(|day| fs::read_dir(day.unwrap().path()).unwrap().count()).sum()
    };
    eventually("no shard is of a push that may go on", || counts(|found| found.pending) == 0);
    assert_eq!(trashed() as u64, pending);
    assert_eq!(counts(|found| found.missing + found.unknown + found.surplus), 0);
    assert_eq!(fleet.bad(), BTreeSet::new());
    fleet.push(&[]).exits(0);
    fleet.is_whole();
    fleet.pull_exact("latest");
}

#[test]
fn i4_a_shard_of_nobody_is_counted_and_kept() {
    let fleet = Fleet::new("2+1", 3);
    source::make(&fleet.source(), 65, 2);
    fleet.push(&[]).exits(0);
    let stripe = StripeId([0xab; 32]);
    let path = fleet.server_folder(0).join("shards/ab").join(format!("{stripe}.4"));
    fs::write(&path, b"whatever it is").unwrap();
    for _ in 0..2 {
        let compared = fleet.compared_server(0);
        assert_eq!((compared.found.unknown, &compared.unknown), (1, &vec![(stripe, 4)]));
        assert_eq!(fs::read(&path).unwrap(), b"whatever it is");
    }
}

/// The shard that an audit of its server draws most often: what is drawn is the next from a random
/// id on. One that follows closely on another may not come for minutes.
fn often_drawn(mut shards: Vec<ShardFile>) -> ShardFile {
    let place = |shard: &ShardFile| u64::from_str_radix(&shard.stripe[..16], 16).unwrap();
    shards.sort_by_key(place);
    let places: Vec<u64> = shards.iter().map(place).collect();
    let before = |nth: usize| places[nth.checked_sub(1).unwrap_or(places.len() - 1)];
    let widest = (0..places.len()).max_by_key(|&nth| places[nth].wrapping_sub(before(nth)));
    shards.swap_remove(widest.unwrap())
}

#[test]
fn an_audit_finds_what_a_server_does_not_know_of_itself() {
    let audits = ["--audit-every=50ms", "--compare-every=0"];
    let fleet =
        Fleet::of(Setup { code: "2+1", servers: 3, coordinator: &audits, ..Setup::default() });
    source::make(&fleet.source(), 66, 4);
    fleet.push(&[]).exits(0);
    // Every block of one, so that whichever is drawn is wrong; another is gone.
    let (hurt, gone) = (&often_drawn(fleet.shards_of(0)), &often_drawn(fleet.shards_of(1)));
    let mut bytes = fs::read(&hurt.path).unwrap();
    let body_at = Header::peek_bytes(&bytes).unwrap();
    bytes[body_at..].iter_mut().step_by(1000).for_each(|byte| *byte ^= 1);
    fs::write(&hurt.path, bytes).unwrap();
    fs::remove_file(&gone.path).unwrap();
    let expected = BTreeSet::from([key(hurt), key(gone)]);
    eventually("both were drawn", || fleet.bad() == expected);
}

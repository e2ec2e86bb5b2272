//! `kill -9` of the coordinator, and of a storage server, at every step of a repair: the steps are
//! fail points that the program lists, and the walks go along its lists. After each, all shards on
//! all servers are read.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use codec::shard::Shard;
use server::wire::{PageQuery, StripeMap};

use crate::fleet::{Fleet, Setup, ShardFile, eventually, name};
use crate::reconcile::wait_for;
use crate::sandbox::text;
use crate::source;
use crate::trees::{noise, write};

/// Four more than shards, since what is being trashed keeps its server from taking another.
const SERVERS: usize = 10;
/// One that is silent for 0.6 s is lost. The leases of repairs that were cut short end soon.
const HASTY: [&str; 7] = [
    "--repair-every=20ms",
    "--down-after=300ms",
    "--grace=300ms",
    "--grace-thin=300ms",
    "--grace-max=300ms",
    "--brake=0s",
    "--lease=10s",
];

/// A shard of a stripe, wherever it is.
type Key = (String, u8);

/// What gives a service something to do at a fail point.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Work {
    /// Shards of two servers are gone or damaged.
    Damage,
    /// A server is gone, with all that it has.
    Loss,
    /// A server is drained: what it has is made elsewhere and then trashed.
    Drain,
    /// It is no more: what it had is moved back.
    Undrain,
}

/// Which of them leads there. A point that it does not lead to is waited for in vain.
fn work_for(point: &str) -> Work {
    match point {
        "loss-noted" | "absence-noted" => Work::Loss,
        "kept-checked" | "surplus-struck-out" => Work::Drain,
        _ if point.starts_with("trash-") => Work::Drain,
        _ if point.starts_with("move-") => Work::Undrain,
        _ => Work::Damage,
    }
}

struct Walk {
    fleet: Fleet,
    /// Every shard as it was stored first.
    stored: BTreeMap<Key, Vec<u8>>,
}

fn points(fleet: &Fleet, role: &str) -> Vec<String> {
    let listed = fleet.sandbox.arc(["serve", role, "--list-fail-points"]).exits(0).stdout();
    let points: Vec<String> = listed.lines().map(str::to_owned).collect();
    assert!(points.len() > 15, "{points:?}");
    points
}

impl Walk {
    /// A fleet with stripes of one group of columns, and of more.
    fn new() -> Self {
        let fleet = Fleet::of(Setup {
            code: "4+2",
            servers: SERVERS,
            coordinator: &HASTY,
            ..Setup::default()
        });
        source::make(&fleet.source(), 81, 8);
        fleet.push(&[]).exits(0);
        let large = fleet.sandbox.path("large");
        write(large.join("file"), noise(82, 4_000_000));
        fleet.sandbox.arc(["push", text(&large), "--pack-size=4M"]).exits(0);
        let files = fleet.shards();
        let stored: BTreeMap<Key, Vec<u8>> =
            files.iter().map(|file| (key(file), fs::read(&file.path).unwrap())).collect();
        assert_eq!(stored.len(), files.len());
        let walk = Self { fleet, stored };
        assert_eq!(walk.good().len(), walk.stored.len());
        walk
    }

    /// The shards that are good on a disk, by all their bytes: parsed against the roots that their
    /// headers certify, and the same as at first.
    fn good(&self) -> BTreeMap<Key, BTreeSet<usize>> {
        let mut good: BTreeMap<Key, BTreeSet<usize>> = BTreeMap::new();
        for file in self.fleet.shards() {
            // It may have gone to the trash just now.
            let Ok(bytes) = fs::read(&file.path) else { continue };
            let Ok(Shard { header, .. }) = Shard::parse(&bytes) else { continue };
            let key = key(&file);
            assert_eq!((header.stripe.to_string(), header.index), key);
            assert!(self.stored.get(&key) == Some(&bytes), "i5: {key:?} is not what it was");
            good.entry(key).or_default().insert(file.server);
        }
        good
    }

    /// Hurts the shards of a server: every second one is gone, the others have a flipped bit. Gives
    /// what is still good.
    fn damage(&self, servers: &[usize]) -> BTreeSet<Key> {
        let mut good = self.good();
        let hurt = self.fleet.shards().into_iter().filter(|file| servers.contains(&file.server));
        for (nth, file) in hurt.enumerate() {
            if let Some(holders) = good.get_mut(&key(&file)) {
                holders.remove(&file.server);
            }
            if nth % 2 == 0 {
                fs::remove_file(&file.path).unwrap();
            } else {
                let mut bytes = fs::read(&file.path).unwrap();
                let middle = bytes.len() / 2;
                bytes[middle] ^= 4;
                // A rebuild may put the whole one there meanwhile: this is no way to write there.
                fs::write(file.path.with_extension("hurt"), bytes).unwrap();
                fs::rename(file.path.with_extension("hurt"), &file.path).unwrap();
            }
        }
        good.into_iter().filter(|(_, holders)| !holders.is_empty()).map(|(key, _)| key).collect()
    }

    /// I3: none of what was good is good nowhere now.
    fn still_has(&self, before: &BTreeSet<Key>, point: &str) {
        let now = self.good();
        let gone: Vec<&Key> = before.iter().filter(|key| !now.contains_key(key)).collect();
        assert!(gone.is_empty(), "i3: after {point}, gone: {gone:?}");
    }

    fn maps(&self) -> Vec<StripeMap> {
        let query = PageQuery { limit: Some(1000), ..PageQuery::default() };
        wait_for(self.fleet.client().stripes(&query)).unwrap().rows
    }

    /// Until all is repaired: I5, every stripe has all its shards, as they were; and I4, what the
    /// catalog counts on is there.
    fn until_whole(&self, point: &str) {
        eventually(&format!("nothing is to be repaired after {point}"), || {
            let status = wait_for(self.fleet.client().repair_status()).unwrap();
            if status.counts.needed > 0 {
                return false;
            }
            let (before, good, after) = (self.maps(), self.good(), self.maps());
            let listed = |maps: &[StripeMap]| -> BTreeSet<(Key, usize)> {
                let holders = |map: &StripeMap| {
                    let of =
                        |h: &server::wire::Holder| ((map.stripe.to_string(), h.index), h.server.0);
                    map.shards.iter().filter(|h| !h.bad).map(of).collect::<Vec<_>>()
                };
                let all = maps.iter().flat_map(holders);
                all.map(|(key, server)| (key, server as usize - 1)).collect()
            };
            let (before, after) = (listed(&before), listed(&after));
            let stands = |(key, server): &(Key, usize)| {
                good.get(key).is_some_and(|holders| holders.contains(server))
            };
            before == after && after.iter().all(stands) && good.len() == self.stored.len()
        });
    }

    /// Each shard is where the catalog has it and nowhere else, and nothing is left of any repair.
    fn until_tidy(&self) {
        eventually("the leases of what was cut short are over", || {
            wait_for(self.fleet.client().status(server::wire::StatusQuery::default()))
                .unwrap()
                .leases
                == 0
        });
        eventually("each shard is stored once", || {
            let compared = wait_for(self.fleet.client().reconcile()).unwrap();
            let strange = |c: &server::wire::Comparison| {
                c.found.surplus + c.found.unknown + c.found.pending + c.found.leftover > 0
            };
            !compared.iter().any(strange) && self.fleet.shards().len() == self.stored.len()
        });
        self.until_whole("all");
        self.fleet.sandbox.arc(["verify"]).exits(0);
        self.fleet.pull_exact(&self.first_snapshot());
    }

    fn first_snapshot(&self) -> String {
        let listed = self.fleet.sandbox.arc(["--json", "snapshots"]).exits(0);
        let source = text(&self.fleet.source()).to_owned();
        let rows = listed.json_lines("snapshot");
        let of_source = |row: &&serde_json::Value| row["sources"].to_string().contains(&source);
        rows.iter().find(of_source).unwrap()["snapshot"].as_str().unwrap().to_owned()
    }

    /// Whether a server dies before all is made again.
    fn dies_of_repair(&mut self, server: usize, point: &str) -> bool {
        let mut died = false;
        eventually(&format!("it dies at {point} or all is made again"), || {
            died = self.fleet.has_died(server);
            died || self.good().len() == self.stored.len()
        });
        died
    }

    fn set_mode(&self, mode: &str, server: usize) {
        self.fleet.sandbox.arc(["servers", mode, &name(server)]).exits(0);
    }

    fn until_empty(&self, server: usize) {
        let has = |file: &ShardFile| file.server == server;
        eventually("the server is drained", || !self.fleet.shards().iter().any(has));
    }
}

fn key(file: &ShardFile) -> Key {
    (file.stripe.clone(), file.index)
}

#[test]
fn i3_i4_i5_a_coordinator_killed_at_any_step_of_a_repair_goes_on_after_it() {
    let mut walk = Walk::new();
    for (nth, point) in points(&walk.fleet, "coordinator").iter().enumerate() {
        let (work, x, y) = (work_for(point), nth % SERVERS, (nth + 3) % SERVERS);
        if work == Work::Undrain {
            walk.set_mode("drain", x);
            walk.until_empty(x);
        }
        walk.fleet.kill_coordinator();
        walk.fleet.revive_coordinator_with(&[&format!("--fail-at={point}")]);
        let mut before: BTreeSet<Key> = walk.good().into_keys().collect();
        let mut scan = None;
        match work {
            Work::Damage => {
                before = walk.damage(&[x, y]);
                scan = Some(walk.fleet.sandbox.start(["verify"]));
            }
            Work::Loss => walk.fleet.kill(x),
            // The coordinator may be dead before it can say that it is.
            Work::Drain | Work::Undrain => {
                let mode = if work == Work::Drain { "drain" } else { "undrain" };
                scan = Some(walk.fleet.sandbox.start(["servers", mode, &name(x)]));
            }
        }
        walk.fleet.until_coordinator_died(point);
        scan.into_iter().for_each(|scan| scan.kill());
        walk.still_has(&before, point);
        walk.fleet.revive_coordinator();
        match work {
            Work::Damage => walk.fleet.verify_any(),
            Work::Loss => walk.fleet.revive(x),
            Work::Drain | Work::Undrain => walk.set_mode("undrain", x),
        }
        walk.fleet.until_up(SERVERS);
        walk.until_whole(point);
    }
    walk.until_tidy();
}

#[test]
fn i3_i4_i5_a_storage_server_killed_at_any_step_of_a_repair_is_no_loss() {
    let mut walk = Walk::new();
    for (nth, point) in points(&walk.fleet, "storage").iter().enumerate() {
        let (work, x) = (work_for(point), nth % SERVERS);
        walk.fleet.kill(x);
        walk.fleet.revive_with(x, &[&format!("--fail-at={point}")]);
        let mut before: BTreeSet<Key> = walk.good().into_keys().collect();
        if work == Work::Damage {
            walk.fleet.until_up(SERVERS);
            // Some of the others makes a shard for it, and not the other way round.
            for other in 1.. {
                before = walk.damage(&[x, (x + other) % SERVERS]);
                walk.fleet.sandbox.arc(["verify"]);
                if walk.dies_of_repair(x, point) {
                    break;
                }
                assert!(other + 1 < SERVERS, "no repair comes by {point}");
            }
        } else {
            walk.set_mode("drain", x);
            eventually(&format!("it dies at {point}"), || walk.fleet.has_died(x));
        }
        walk.still_has(&before, point);
        walk.fleet.revive(x);
        // What failed is tried again after a minute, and the server shunned for two; but by the
        // next coordinator at once.
        walk.fleet.kill_coordinator();
        walk.fleet.revive_coordinator();
        walk.fleet.until_up(SERVERS);
        if work == Work::Damage {
            walk.fleet.verify_any();
        } else {
            walk.set_mode("undrain", x);
        }
        walk.until_whole(point);
    }
    walk.until_tidy();
}

use proptest::prelude::*;

use super::*;

const MINUTE: u64 = 60_000;
const RULES: Rules = Rules { within_ms: 10 * MINUTE, hold_ms: 60 * MINUTE };

/// Servers 0, 1, …, each in the zone that its letter names.
struct Servers {
    zones: Vec<String>,
    left: BTreeMap<usize, u64>,
    brake: Brake,
    now_ms: u64,
    rules: Rules,
}

impl Servers {
    fn new(zones: &str) -> Self {
        Self {
            zones: zones.chars().map(String::from).collect(),
            left: BTreeMap::new(),
            brake: Brake::default(),
            now_ms: 1000 * MINUTE,
            rules: RULES,
        }
    }

    fn all(&self) -> Vec<Seen<'_>> {
        let seen = |(n, zone)| Seen { server: id(n), zone, left_ms: self.left.get(&n).copied() };
        self.zones.iter().map(String::as_str).enumerate().map(seen).collect()
    }

    fn look(&mut self) {
        let brake = std::mem::take(&mut self.brake);
        self.brake = step(brake, Event::Look(&self.all()), self.now_ms, &self.rules);
    }

    fn resume(&mut self) {
        let brake = std::mem::take(&mut self.brake);
        self.brake = step(brake, Event::Resume, self.now_ms, &self.rules);
    }

    fn go(&mut self, servers: impl IntoIterator<Item = usize>) {
        for server in servers {
            self.left.entry(server).or_insert(self.now_ms);
        }
        self.look();
    }

    fn come(&mut self, servers: impl IntoIterator<Item = usize>) {
        for server in servers {
            self.left.remove(&server);
        }
        self.look();
    }

    fn wait(&mut self, minutes: u64) {
        self.now_ms += minutes * MINUTE;
        self.look();
    }

    /// Since and until when, in minutes from the beginning, and for whom.
    fn held(&self) -> Option<(u64, u64, Vec<u32>)> {
        let minute = |ms| ms / MINUTE - 1000;
        self.brake.held(self.now_ms).map(|held| {
            let servers = held.servers.iter().map(|s| s.0).collect();
            (minute(held.since_ms), minute(held.until_ms), servers)
        })
    }

    fn zones_held(&self) -> Vec<String> {
        let held = self.brake.held(self.now_ms);
        held.map(|held| held.zones.iter().cloned().collect()).unwrap_or_default()
    }
}

fn id(n: usize) -> ServerId {
    ServerId(n as u32)
}

#[test]
fn it_holds_when_more_than_a_quarter_of_eight_go_within_ten_minutes() {
    for (zones, gone, holds) in [
        ("abcdefgh", 2, false),
        ("abcdefgh", 3, true),
        ("aaaaaaaa", 3, true),
        ("abcdefg", 6, false),
        ("abcdefghijkl", 3, false),
        ("abcdefghijkl", 4, true),
    ] {
        let mut servers = Servers::new(zones);
        servers.go(0..gone);
        assert_eq!(servers.held().is_some(), holds, "{gone} of {zones}");
        assert_eq!(servers.zones_held(), [""; 0]);
        let mut servers = Servers::new(zones);
        for server in 0..gone {
            servers.go([server]);
            servers.wait(4);
        }
        assert_eq!(servers.held().is_some(), holds && gone == 3, "{gone} of {zones}, slowly");
        let mut servers = Servers::new(zones);
        for server in 0..gone {
            servers.go([server]);
            servers.wait(5);
        }
        assert_eq!(servers.held(), None, "{gone} of {zones}, more slowly");
    }
}

#[test]
fn it_holds_when_a_whole_zone_of_several_goes() {
    for (zones, gone, holds) in [
        ("aabb", vec![0, 1], true),
        ("aabb", vec![0, 2], false),
        ("aaabbb", vec![0, 1], false),
        ("aaaa", vec![0, 1, 2, 3], false),
        // One server is an outage, not the end of a zone.
        ("abc", vec![0], false),
        ("abc", vec![0, 1], false),
        ("aabbc", vec![4], false),
    ] {
        let mut servers = Servers::new(zones);
        servers.go(gone.clone());
        assert_eq!(servers.held().is_some(), holds, "{gone:?} of {zones}");
        assert_eq!(servers.zones_held(), if holds { vec!["a"] } else { vec![] });
    }
    // One that was away before does not keep the others from going as a zone.
    let mut servers = Servers::new("aaabbb");
    servers.go([0]);
    servers.wait(500);
    servers.go([1, 2]);
    assert_eq!(servers.held(), Some((500, 560, vec![1, 2])));
}

#[test]
fn it_lifts_after_an_hour_and_not_again_for_the_same() {
    let mut servers = Servers::new("aabb");
    servers.go([0, 1]);
    assert_eq!(servers.held(), Some((0, 60, vec![0, 1])));
    servers.wait(59);
    assert_eq!(servers.held(), Some((0, 60, vec![0, 1])));
    servers.now_ms += MINUTE;
    assert_eq!(servers.held(), None, "without a look, too");
    servers.wait(0);
    servers.wait(1000);
    assert_eq!(servers.held(), None);
    servers.come([0, 1]);
    servers.go([0, 1]);
    assert_eq!(servers.held(), Some((1060, 1120, vec![0, 1])));
}

#[test]
fn it_lifts_when_the_last_is_back_or_a_person_says_so() {
    let mut servers = Servers::new("aabb");
    servers.go([0, 1]);
    servers.come([0]);
    assert_eq!(servers.held(), Some((0, 60, vec![1])));
    servers.come([1]);
    assert_eq!(servers.held(), None);

    servers.go([0, 1]);
    servers.resume();
    assert_eq!(servers.held(), None);
    servers.wait(1);
    assert_eq!(servers.held(), None, "what was said holds for those that are away");
    servers.go([2, 3]);
    assert_eq!(servers.held(), Some((1, 61, vec![2, 3])));
}

#[test]
fn who_follows_soon_went_too_and_who_goes_later_did_not() {
    let mut servers = Servers::new("aabbcccc");
    servers.go([0, 1]);
    servers.wait(9);
    servers.go([4]);
    assert_eq!(servers.held(), Some((0, 60, vec![0, 1, 4])));
    servers.wait(2);
    servers.go([2]);
    assert_eq!(servers.held(), Some((0, 60, vec![0, 1, 4])));
    // The second of its zone makes it another event.
    servers.wait(2);
    servers.go([3]);
    assert_eq!(servers.held(), Some((0, 73, vec![0, 1, 2, 3, 4])));
    assert_eq!(servers.zones_held(), ["a", "b"]);
}

#[test]
fn a_brake_of_no_time_never_holds() {
    let mut servers = Servers::new("aabb");
    servers.rules.hold_ms = 0;
    servers.go([0, 1]);
    assert_eq!(servers.brake, Brake::default());
}

#[derive(Debug, Clone)]
enum Happening {
    Go(usize),
    GoAll(usize),
    Come(usize),
    ComeAll,
    Resume,
    Wait,
}

fn happenings() -> impl Strategy<Value = Vec<(u64, Happening)>> {
    let happening = prop_oneof![
        8 => (0..12usize).prop_map(Happening::Go),
        2 => (0..4usize).prop_map(Happening::GoAll),
        6 => (0..12usize).prop_map(Happening::Come),
        1 => Just(Happening::ComeAll),
        1 => Just(Happening::Resume),
        2 => Just(Happening::Wait),
    ];
    let minutes = prop_oneof![6 => 0..4u64, 2 => 0..15u64, 1 => 0..70u64];
    prop::collection::vec((minutes, happening), 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    #[test]
    fn it_holds_exactly_when_its_rule_says(zones in "[a-d]{1,12}", history in happenings()) {
        let mut servers = Servers::new(&zones);
        let n = servers.zones.len();
        // Those for whom it held in their present absence.
        let mut told: BTreeSet<usize> = BTreeSet::new();
        for (minutes, happening) in history {
            let before = servers.brake.held.clone();
            servers.now_ms += minutes * MINUTE;
            match happening {
                Happening::Go(server) if server < n => servers.go([server]),
                Happening::Come(server) if server < n => servers.come([server]),
                Happening::GoAll(zone) => {
                    let zone = char::from(b'a' + zone as u8).to_string();
                    let of_zone: Vec<usize> = (0..n).filter(|&s| servers.zones[s] == zone).collect();
                    servers.go(of_zone);
                }
                Happening::ComeAll => servers.come(0..n),
                Happening::Resume => {
                    servers.resume();
                    prop_assert_eq!(servers.held(), None);
                    continue;
                }
                _ => servers.look(),
            }
            let (now, left) = (servers.now_ms, &servers.left);
            told.retain(|server| left.contains_key(server));
            let still: BTreeSet<usize> = match &before {
                Some(held) if now < held.until_ms => {
                    held.servers.iter().map(|s| s.0 as usize).filter(|s| left.contains_key(s)).collect()
                }
                _ => BTreeSet::new(),
            };
            let before = before.filter(|_| !still.is_empty());
            let newly = |server: &&usize| now - left[*server] < RULES.within_ms && !told.contains(*server);
            let (follow, alone): (BTreeSet<usize>, BTreeSet<usize>) =
                left.keys().filter(newly).partition(|&&server| {
                    before.as_ref().is_some_and(|held| left[&server] < held.since_ms + RULES.within_ms)
                });
            let together = |zone: char| {
                let of_zone: Vec<usize> = (0..n).filter(|&s| zones[s..].starts_with(zone)).collect();
                of_zone.len() < n
                    && of_zone.iter().all(|s| left.contains_key(s))
                    && of_zone.iter().filter(|s| alone.contains(s)).count() > 1
            };
            let trips = (n >= 8 && 4 * alone.len() > n) || ('a'..='d').any(together);

            let expected = match (&before, trips) {
                (Some(held), false) => Some((held.since_ms, held.until_ms)),
                (Some(held), true) => Some((held.since_ms, now + RULES.hold_ms)),
                (None, true) => Some((now, now + RULES.hold_ms)),
                (None, false) => None,
            };
            let mut whom = &still | &follow;
            if trips {
                whom.extend(alone);
            }
            let after = servers.brake.held(now);
            prop_assert_eq!(after.map(|held| (held.since_ms, held.until_ms)), expected);
            let held_for: BTreeSet<usize> =
                after.iter().flat_map(|held| held.servers.iter().map(|s| s.0 as usize)).collect();
            if after.is_some() {
                prop_assert_eq!(&held_for, &whom);
            }
            told.extend(held_for);
        }
    }
}

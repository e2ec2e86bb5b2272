use proptest::prelude::*;

use super::*;

fn candidates(zones: &[usize]) -> Vec<Candidate> {
    let zone_of = zones.iter().enumerate().flat_map(|(zone, &n)| std::iter::repeat_n(zone, n));
    zone_of
        .enumerate()
        .map(|(n, zone)| Candidate {
            server: ServerId(n as u32 + 1),
            zone: format!("zone{zone}"),
            rate: 1.0,
            room_bytes: 1 << 40,
        })
        .collect()
}

fn stripe(n: u32) -> StripeId {
    StripeId(*blake3::hash(&n.to_le_bytes()).as_bytes())
}

struct Case<'a> {
    stripe: StripeId,
    geometry: (u8, u8),
    candidates: &'a [Candidate],
    held: Vec<(u8, u32)>,
    avoid: Vec<u32>,
    before: Vec<(u8, u32)>,
}

impl Case<'_> {
    fn place(&self) -> Vec<(u8, ServerId)> {
        self.ask(place)
    }

    fn spares(&self) -> usize {
        self.ask(|question| spares(question, place(question).len()))
    }

    fn ask<T>(&self, ask: impl FnOnce(&Question) -> T) -> T {
        let zone = |id: u32| {
            let found = self.candidates.iter().find(|c| c.server.0 == id);
            found.map_or_else(|| "elsewhere".into(), |c| c.zone.clone())
        };
        let held: Vec<Held> = self
            .held
            .iter()
            .map(|&(index, id)| Held { index, server: ServerId(id), zone: zone(id) })
            .collect();
        let before: Vec<_> = self.before.iter().map(|&(i, id)| (i, ServerId(id))).collect();
        ask(&Question {
            stripe: self.stripe,
            geometry: Geometry::new(self.geometry.0, self.geometry.1).unwrap(),
            file_bytes: 1 << 20,
            candidates: self.candidates,
            held: &held,
            avoid: &self.avoid.iter().copied().map(ServerId).collect(),
            before: &before,
        })
    }
}

#[test]
fn spares_are_the_servers_that_could_still_take_a_shard() {
    let candidates = candidates(&[3, 3, 3]);
    let case = |held, avoid| Case {
        stripe: stripe(1),
        geometry: (4, 2),
        candidates: &candidates,
        held,
        avoid,
        before: vec![],
    };
    assert_eq!(case(vec![], vec![]).spares(), 3);
    assert_eq!(case(vec![(0, 1)], vec![2]).spares(), 2, "9, one holds, one is avoided, 5 taken");
    assert_eq!(case(vec![], vec![1, 2, 3, 4]).spares(), 0);
}

fn fresh(stripe: StripeId, geometry: (u8, u8), candidates: &[Candidate]) -> Vec<(u8, ServerId)> {
    let (held, avoid, before) = (vec![], vec![], vec![]);
    Case { stripe, geometry, candidates, held, avoid, before }.place()
}

/// Shards in each zone, fullest first.
fn fill(candidates: &[Candidate], servers: impl IntoIterator<Item = ServerId>) -> Vec<usize> {
    let mut zones: BTreeMap<&str, usize> = BTreeMap::new();
    for server in servers {
        let candidate = candidates.iter().find(|c| c.server == server).unwrap();
        *zones.entry(&candidate.zone).or_default() += 1;
    }
    let mut fill: Vec<usize> = zones.into_values().collect();
    fill.sort_unstable_by(|a, b| b.cmp(a));
    fill
}

#[test]
fn zones_hold_at_most_m_or_are_even() {
    for (zones, geometry, expected) in [
        (&[1, 1, 1, 1, 1, 1][..], (4, 2), &[1, 1, 1, 1, 1, 1][..]),
        (&[2, 2, 2], (4, 2), &[2, 2, 2]),
        (&[9, 2, 2], (4, 2), &[2, 2, 2]),
        (&[9, 9], (4, 2), &[3, 3]),
        (&[10, 2], (4, 2), &[4, 2]),
        (&[9, 9, 9], (6, 2), &[3, 3, 2]),
        (&[9], (4, 2), &[6]),
        (&[9, 9], (1, 2), &[2, 1]),
    ] {
        let candidates = candidates(zones);
        for n in 0..50 {
            let servers = fresh(stripe(n), geometry, &candidates).into_iter().map(|p| p.1);
            assert_eq!(fill(&candidates, servers), expected, "{zones:?} {geometry:?} {n}");
        }
    }
}

#[test]
fn servers_without_room_or_to_avoid_are_not_named() {
    let mut candidates = candidates(&[1; 8]);
    candidates[0].room_bytes = 100;
    let (held, avoid, before) = (vec![], vec![2], vec![]);
    let places =
        Case { stripe: stripe(1), geometry: (4, 2), candidates: &candidates, held, avoid, before }
            .place();
    let named: Vec<u32> = places.iter().map(|p| p.1.0).collect();
    assert_eq!(places.len(), 6);
    assert!(!named.contains(&1) && !named.contains(&2), "{named:?}");
}

#[test]
fn asked_again_a_server_keeps_its_index() {
    let candidates = candidates(&[1; 6]);
    let first = fresh(stripe(7), (4, 2), &candidates[..6]);
    let before: Vec<(u8, u32)> = first.iter().map(|&(i, s)| (i, s.0)).collect();
    // The server of index 2 fails; the others, not stored yet, are named for what they had.
    let avoid = vec![before[2].1];
    let again = Case {
        stripe: stripe(7),
        geometry: (4, 2),
        candidates: &candidates,
        held: vec![before[0]],
        avoid,
        before: before.clone(),
    }
    .place();
    let expected: Vec<_> = first.iter().copied().filter(|p| p.0 != 0 && p.0 != 2).collect();
    assert_eq!(again, expected);
}

#[test]
fn a_newcomer_takes_its_share_and_no_more() {
    let fifteen = candidates(&[1; 16]);
    let (mut moved, mut kept, mut shards) = (0, 0, 0);
    for n in 0..2000 {
        let old: BTreeSet<ServerId> =
            fresh(stripe(n), (4, 2), &fifteen[..15]).into_iter().map(|p| p.1).collect();
        let new: BTreeSet<ServerId> =
            fresh(stripe(n), (4, 2), &fifteen).into_iter().map(|p| p.1).collect();
        shards += 6;
        kept += old.intersection(&new).count();
        moved += new.difference(&old).count();
        assert!(new.difference(&old).all(|s| s.0 == 16), "only the newcomer gains");
    }
    assert_eq!(moved + kept, shards);
    let share = moved as f64 / shards as f64;
    assert!((0.05..0.075).contains(&share), "{share} of all shards moved, not 1/16");
}

/// Candidates of these weights, each in a zone of its own, with their rates for n shards.
fn weighted(weights: &[f64], n: usize) -> Vec<Candidate> {
    let mut candidates = candidates(&vec![1; weights.len()]);
    let servers: Vec<_> =
        candidates.iter().map(|c| c.server).zip(weights.iter().copied()).collect();
    let rates = solve(&servers, n);
    candidates.iter_mut().for_each(|c| c.rate = rates[&c.server]);
    candidates
}

/// How many of `stripes` stripes each candidate has a shard of.
fn load(stripes: u32, geometry: (u8, u8), candidates: &[Candidate]) -> Vec<f64> {
    let mut shards = vec![0.0; candidates.len()];
    for n in 0..stripes {
        for (_, server) in fresh(stripe(n), geometry, candidates) {
            shards[server.0 as usize - 1] += 1.0;
        }
    }
    shards
}

#[test]
fn shares_are_within_2_percent_of_their_targets() {
    const STRIPES: u32 = 100_000;
    for ratio in [1.0, 2.0, 4.0] {
        let weights: Vec<f64> = (0..12).map(|i| if i % 2 == 0 { 1.0 } else { ratio }).collect();
        let targets = shares::targets(&weights, 6);
        let load = load(STRIPES, (4, 2), &weighted(&weights, 6));
        for (shards, target) in load.iter().zip(&targets) {
            let off = shards / (target * f64::from(STRIPES)) - 1.0;
            assert!(off.abs() < 0.02, "1:{ratio}: {off:+.4} of {target}");
        }
    }
}

#[test]
fn a_server_of_weight_2_gets_twice_the_shards_in_a_small_fleet() {
    const STRIPES: u32 = 40_000;
    let weights = [1.0, 1.0, 2.0, 1.0, 1.0, 1.0];
    let load = load(STRIPES, (2, 1), &weighted(&weights, 3));
    let share = shares_of(&weights, 3)[2];
    assert!((share - 2.0 / 7.0).abs() < 1e-9, "{share}");
    for (server, shards) in load.iter().enumerate().filter(|(server, _)| *server != 2) {
        let times = load[2] / shards;
        assert!((1.95..2.05).contains(&times), "{times} times that of {server}");
    }
    // In a fleet of as many servers as shards each has one of every stripe, whatever its weight.
    assert!(shares_of(&weights, 6).iter().all(|share| (share - 1.0 / 6.0).abs() < 1e-9));
}

#[test]
fn servers_that_hold_of_every_stripe_take_turns_with_its_parity() {
    let candidates = weighted(&[1.0; 6], 6);
    let mut parity = [0; 6];
    for n in 0..600 {
        for (index, server) in fresh(stripe(n), (4, 2), &candidates) {
            parity[server.0 as usize - 1] += usize::from(index >= 4);
        }
    }
    assert!(parity.iter().all(|shards| (130..270).contains(shards)), "{parity:?}");
}

#[test]
fn a_newcomer_of_any_weight_moves_little_more_than_its_share() {
    const STRIPES: u32 = 100_000;
    for newcomer in [1.0, 2.0, 4.0] {
        let mut weights: Vec<f64> = (0..15).map(|i| [1.0, 2.0, 4.0][i % 3]).collect();
        let old = weighted(&weights, 6);
        weights.push(newcomer);
        let new = weighted(&weights, 6);
        let mut moved = 0.0;
        for n in 0..STRIPES {
            let set = |candidates: &[Candidate]| -> BTreeSet<ServerId> {
                fresh(stripe(n), (4, 2), candidates).into_iter().map(|p| p.1).collect()
            };
            moved += set(&new).difference(&set(&old)).count() as f64;
        }
        let target = shares::targets(&weights, 6)[15] * f64::from(STRIPES);
        assert!((moved / target - 1.0).abs() < 0.1, "{moved} shards moved for {target}");
    }
}

proptest! {
    #[test]
    fn one_shard_a_server_and_every_index_once(
        seed in any::<u32>(),
        k in 1u8..8,
        m in 1u8..4,
        zones in proptest::collection::vec(1usize..5, 1..6),
        held in 0usize..6,
        avoid in proptest::collection::vec(1u32..20, 0..4),
    ) {
        let candidates = candidates(&zones);
        let n = usize::from(k + m);
        let held: Vec<(u8, u32)> = (0..held.min(n).min(candidates.len()))
            .map(|i| ((n - 1 - i) as u8, i as u32 + 1))
            .collect();
        let case = Case {
            stripe: stripe(seed),
            geometry: (k, m),
            candidates: &candidates,
            held: held.clone(),
            avoid: avoid.clone(),
            before: vec![],
        };
        let places = case.place();
        prop_assert_eq!(&places, &case.place(), "the same question, the same answer");

        let all: Vec<(u8, u32)> =
            held.iter().copied().chain(places.iter().map(|p| (p.0, p.1.0))).collect();
        let indexes: BTreeSet<u8> = all.iter().map(|p| p.0).collect();
        let servers: BTreeSet<u32> = all.iter().map(|p| p.1).collect();
        prop_assert_eq!(indexes.len(), all.len());
        prop_assert_eq!(servers.len(), all.len());
        prop_assert!(indexes.iter().all(|&i| usize::from(i) < n));
        prop_assert!(places.iter().all(|p| !avoid.contains(&p.1.0)));

        let taken = |c: &&Candidate| servers.contains(&c.server.0);
        let open: Vec<&Candidate> = candidates
            .iter()
            .filter(|c| !taken(c) && !avoid.contains(&c.server.0))
            .collect();
        prop_assert!(all.len() == n || open.is_empty(), "short although servers are left");
        let filled = |zone: &str| candidates.iter().filter(|c| c.zone == zone).filter(taken).count();
        for place in &places {
            let zone = &candidates.iter().find(|c| c.server == place.1).unwrap().zone;
            // A zone beyond m is only right if no other zone could have taken the shard.
            for other in &open {
                let fuller = filled(zone) > filled(&other.zone) + 1;
                prop_assert!(filled(zone) <= usize::from(m) || !fuller);
            }
        }
    }
}

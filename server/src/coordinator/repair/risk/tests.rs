use proptest::prelude::*;

use super::*;

const ZONES: [&str; 4] = ["a", "b", "c", "d"];

fn holder(index: u8, server: u32, bad: bool) -> Holder {
    Holder { index, server: ServerId(server), bad }
}

/// Server n is in zone n mod 4.
fn standing(states: &[State], server: ServerId) -> Option<Standing<'static>> {
    let state = *states.get(server.0 as usize)?;
    Some(Standing { state, mode: Mode::Normal, zone: ZONES[server.0 as usize % 4] })
}

fn look(states: &[State], shards: &[Holder]) -> Look {
    let geometry = Geometry::new(2, 2).unwrap();
    Look::new(geometry, shards, |server| standing(states, server))
}

#[test]
fn a_stripe_is_as_good_as_the_best_holder_of_each_index() {
    use State::*;
    let all: Vec<Holder> = (0..4).map(|n| holder(n, n.into(), false)).collect();
    let whole = look(&[Up, Up, Returned, Up], &all);
    assert!(whole.is_whole() && !whole.has_work());
    assert_eq!((whole.margin, whole.worst_zone_margin), (2, 1));

    let away = look(&[Up, Suspect, Down, Lost], &all);
    assert_eq!((away.margin, away.suspects, away.bad), (0, 1, 0));
    assert_eq!(away.away, [1, 2, 3].map(ServerId));
    assert!(away.has_work() && away.is_thin());

    // A copy elsewhere is as good; a damaged one is none.
    let mut copied = all.clone();
    copied.push(holder(3, 4, false));
    assert_eq!(look(&[Up, Up, Up, Lost, Up], &copied).away, []);
    copied[0].bad = true;
    let hurt = look(&[Up, Up, Up, Lost, Up], &copied);
    assert_eq!((hurt.bad, hurt.margin), (1, 1));
    // Servers that left the fleet hold nothing.
    assert_eq!(look(&[Up, Up], &all).bad, 2);
}

#[test]
fn a_down_server_makes_no_work_as_long_as_more_can_be_borne() {
    use State::*;
    let all: Vec<Holder> = (0..4).map(|n| holder(n, n.into(), false)).collect();
    let one = look(&[Up, Up, Up, Down], &all);
    assert!(!one.is_whole() && !one.has_work());
    let two = look(&[Up, Up, Down, Down], &all);
    assert!(two.has_work());
}

#[test]
fn what_is_being_drained_is_work_and_no_danger() {
    let all: Vec<Holder> = (0..4).map(|n| holder(n, n.into(), false)).collect();
    let look = Look::new(Geometry::new(2, 2).unwrap(), &all, |server| {
        let mode = if server.0 == 1 { Mode::Draining } else { Mode::Normal };
        Some(Standing { state: State::Up, mode, zone: ZONES[server.0 as usize] })
    });
    assert_eq!((look.margin, look.leaving, look.bad), (2, 1, 0));
    assert!(!look.is_whole() && look.has_work());
}

fn any_state() -> impl Strategy<Value = State> {
    prop::sample::select(State::ALL.to_vec())
}

fn any_shards() -> impl Strategy<Value = Vec<Holder>> {
    let one = (0u8..4, 0u32..9, prop::bool::weighted(0.2));
    prop::collection::vec(one.prop_map(|(i, s, bad)| holder(i, s, bad)), 0..9)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    #[test]
    fn one_more_loss_never_makes_a_stripe_look_better(
        states in prop::collection::vec(any_state(), 8),
        shards in any_shards(),
        gone in 0usize..8,
    ) {
        let before = look(&states, &shards);
        let mut fewer = states.clone();
        fewer[gone] = State::Lost;
        let after = look(&fewer, &shards);
        prop_assert!(after.margin <= before.margin);
        prop_assert!(after.worst_zone_margin <= before.worst_zone_margin);
        prop_assert!(!after.is_whole() || before.is_whole() || states[gone] == State::Suspect);
        // Each index is counted once: here, away, or bad.
        let here = after.margin + 2;
        let reach = after.away.iter().filter(|s| fewer[s.0 as usize] != State::Suspect).count();
        prop_assert_eq!(here as usize + reach + after.bad as usize, 4);
        prop_assert!(after.worst_zone_margin <= after.margin);
    }

    #[test]
    fn the_worst_are_kept_and_come_first(
        stripes in prop::collection::vec((-3i32..4, -3i32..4, 0u32..3, 0u64..5), 1..200),
        limit in 1usize..20,
    ) {
        let risk = |&(margin, zone, suspects, found_ms): &(i32, i32, u32, u64)| Risk {
            worst_zone_margin: zone,
            margin,
            suspects: Reverse(suspects),
            tried_ms: None,
            found_ms,
        };
        let mut worst = Worst::new(limit);
        for (key, stripe) in (0..).zip(&stripes) {
            worst.add(risk(stripe), key, key);
        }
        let kept: Vec<i64> = worst.into_sorted().collect();
        let mut all: Vec<(Risk, i64)> = stripes.iter().map(risk).zip(0..).collect();
        all.sort_unstable();
        let expected: Vec<i64> = all.iter().take(limit).map(|(_, key)| *key).collect();
        prop_assert_eq!(kept, expected);
    }
}

/// Stripes of 6+3 on 16 servers in four zones, three of which die together. `at_once` rebuilds
/// a tick; a fourth server dies when half of the thinnest stripes could be whole again. Gives
/// how many stripes are lost.
fn lost_after_a_fourth(worst_first: bool, stripes: u32) -> usize {
    let geometry = Geometry::new(6, 3).unwrap();
    let zone = |server: u32| ZONES[server as usize / 4];
    // A fixed shuffle, so that each stripe has nine of the sixteen.
    let mut seed = 7u64;
    let mut draw = |n: u32| {
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((seed >> 33) % u64::from(n)) as u32
    };
    let mut maps: Vec<Vec<u32>> = (0..stripes)
        .map(|_| {
            let mut servers: Vec<u32> = (0..16).collect();
            (0..9).map(|_| servers.swap_remove(draw(servers.len() as u32) as usize)).collect()
        })
        .collect();
    let mut dead: BTreeSet<u32> = [0, 5, 10].into();
    let look = |map: &[u32], dead: &BTreeSet<u32>| {
        let shards: Vec<Holder> =
            (0u8..).zip(map).map(|(n, &server)| holder(n, server, false)).collect();
        Look::new(geometry, &shards, |server| {
            let state = if dead.contains(&server.0) { State::Lost } else { State::Up };
            Some(Standing { state, mode: Mode::Normal, zone: zone(server.0) })
        })
    };
    let mut worst = Worst::new(stripes as usize);
    for (key, map) in (0..).zip(&maps) {
        let look = look(map, &dead);
        if look.has_work() {
            let risk = if worst_first { Risk::new(&look, 0, None) } else { Risk::new_equal() };
            worst.add(risk, key, key as usize);
        }
    }
    let thinnest = maps.iter().filter(|map| look(map, &dead).margin == 0).count();
    for stripe in worst.into_sorted().take(thinnest / 2) {
        let spare: Vec<u32> =
            (0..16).filter(|s| !dead.contains(s) && !maps[stripe].contains(s)).collect();
        let mut spare = spare.into_iter();
        for server in maps[stripe].iter_mut().filter(|server| dead.contains(server)) {
            *server = spare.next().unwrap();
        }
    }
    dead.insert(15);
    maps.iter().filter(|map| look(map, &dead).margin < 0).count()
}

impl Risk {
    /// First come, first served.
    fn new_equal() -> Self {
        let (worst_zone_margin, margin, suspects) = (0, 0, Reverse(0));
        Self { worst_zone_margin, margin, suspects, tried_ms: None, found_ms: 0 }
    }
}

#[test]
fn worst_first_loses_half_of_what_first_come_first_served_loses() {
    let (worst, first) = (lost_after_a_fourth(true, 20_000), lost_after_a_fourth(false, 20_000));
    assert!(worst > 0 && worst * 10 < first * 6, "{worst} against {first}");
}

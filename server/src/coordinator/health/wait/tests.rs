use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::super::Rules;
use super::super::brake::{self, Seen};
use super::*;

const MINUTE: u64 = 60_000;
const THIN: u64 = 5 * MINUTE;
const NOW: u64 = 1000 * MINUTE;

fn health(state: State, minutes_away: u64) -> Health {
    let rules = Rules {
        misses: 3,
        good: 3,
        down_after_ms: 2 * MINUTE,
        grace_ms: 15 * MINUTE,
        grace_max_ms: 240 * MINUTE,
        listen_ms_max: 12_000,
    };
    let since = NOW - minutes_away * MINUTE;
    let left_ms = state.is_away().then_some(since);
    Health { state, left_ms, ..Health::unknown(since, &rules) }
}

/// A brake that has held for these servers since a minute ago.
fn braked(servers: &[u32]) -> Brake {
    let of = |&n| Seen { server: ServerId(n), zone: "z", left_ms: Some(NOW - 2 * MINUTE) };
    let mut seen: Vec<Seen> = BTreeSet::from_iter(servers).into_iter().map(of).collect();
    seen.push(Seen { server: ServerId(1000), zone: "other", left_ms: None });
    let rules = brake::Rules { within_ms: 10 * MINUTE, hold_ms: 60 * MINUTE };
    brake::step(Brake::default(), brake::Event::Look(&seen), NOW - MINUTE, &rules)
}

/// How a deficit waits whose servers are in these states for so many minutes.
fn ask(margin: i32, away: &[(State, u64)], bad: u32, brake: &Brake) -> Wait {
    let fleet: BTreeMap<ServerId, Health> = (0..)
        .zip(away)
        .map(|(n, &(state, minutes))| (ServerId(n), health(state, minutes)))
        .collect();
    let servers: Vec<ServerId> = fleet.keys().copied().collect();
    let deficit = Deficit { margin, away: &servers, bad };
    waits(deficit, |server| fleet.get(&server), brake, THIN, NOW)
}

fn until(minutes: u64) -> Wait {
    Wait::Until(NOW + minutes * MINUTE)
}

#[test]
fn servers_that_are_down_are_waited_for() {
    use State::{Down, Lost, Returned, Suspect, Unknown, Up};
    for (margin, away, bad, expected) in [
        (1, vec![(Down, 3)], 0, until(12)),
        (1, vec![(Down, 3), (Down, 9)], 0, until(6)),
        (1, vec![(Suspect, 1), (Down, 9)], 0, until(6)),
        (1, vec![(Down, 15)], 0, Wait::Urgent),
        (0, vec![(Down, 3)], 0, until(2)),
        (-1, vec![(Down, 3), (Suspect, 0)], 0, until(5)),
        // The five minutes begin with the last, and the first has its grace at most.
        (0, vec![(Down, 1), (Down, 14)], 0, until(1)),
        (0, vec![(Down, 5), (Down, 7)], 0, Wait::Urgent),
        (2, vec![(Lost, 16)], 0, Wait::Urgent),
        (2, vec![(Down, 3), (Lost, 16)], 0, Wait::Urgent),
        (2, vec![(Down, 3)], 1, Wait::Urgent),
        (2, vec![], 1, Wait::Urgent),
        (1, vec![(Unknown, 0)], 0, until(15)),
        (1, vec![(Up, 0), (Returned, 0)], 0, Wait::Until(u64::MAX)),
        (1, vec![], 0, Wait::Until(u64::MAX)),
    ] {
        let what = format!("{margin} {away:?} {bad}");
        assert_eq!(ask(margin, &away, bad, &Brake::default()), expected, "{what}");
    }
}

#[test]
fn under_the_brake_all_waits_but_what_is_lost_or_bad_elsewhere() {
    use State::{Down, Lost};
    let brake = braked(&[0, 1]);
    let braked = Wait::Braked(NOW + 59 * MINUTE);
    for (margin, away, bad, expected) in [
        (1, vec![(Down, 3)], 0, braked),
        (-1, vec![(Down, 30), (Down, 30), (Down, 30)], 0, braked),
        (0, vec![(Lost, 30), (Lost, 30)], 0, braked),
        (0, vec![(Lost, 30), (Down, 3), (Lost, 30)], 0, Wait::Urgent),
        (2, vec![(Down, 3)], 1, Wait::Urgent),
        (2, vec![], 1, Wait::Urgent),
    ] {
        assert_eq!(ask(margin, &away, bad, &brake), expected, "{margin} {away:?} {bad}");
    }
}

#[test]
fn a_shard_on_a_server_that_is_no_more_is_missing() {
    let deficit = Deficit { margin: 2, away: &[ServerId(7)], bad: 0 };
    assert_eq!(waits(deficit, |_| None, &Brake::default(), THIN, NOW), Wait::Urgent);
}

fn states() -> impl Strategy<Value = Vec<(State, u64)>> {
    let state = prop_oneof![
        6 => Just(State::Down),
        2 => Just(State::Suspect),
        1 => Just(State::Lost),
        1 => prop::sample::select(State::ALL.to_vec()),
    ];
    prop::collection::vec((state, 0..30u64), 0..6)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    #[test]
    fn it_waits_exactly_as_its_rule_says(
        margin in -2..3i32,
        away in states(),
        bad in prop_oneof![5 => Just(0u32), 1 => 1..3u32],
        held_for in prop::collection::vec(0..6u32, 0..4),
    ) {
        let brake = braked(&held_for);
        let held = brake.held(NOW).is_some();
        prop_assert_eq!(held, BTreeSet::from_iter(&held_for).len() > 1);
        let wait = ask(margin, &away, bad, &brake);
        let elsewhere = (0..).zip(&away).any(|(n, (state, _))| {
            *state == State::Lost && !(held && held_for.contains(&n))
        });
        let waited: Vec<u64> = away
            .iter()
            .filter(|(state, _)| !matches!(state, State::Up | State::Returned))
            .map(|(_, minutes)| *minutes)
            .collect();
        match wait {
            Wait::Urgent if bad > 0 || elsewhere => {}
            Wait::Urgent => {
                let (first, last) = (waited.iter().max(), waited.iter().min());
                prop_assert!(!held);
                prop_assert!(first >= Some(&15) || (margin <= 0 && last >= Some(&5)));
            }
            Wait::Until(u64::MAX) => prop_assert!(bad == 0 && !elsewhere && waited.is_empty()),
            Wait::Until(at) => {
                prop_assert!(bad == 0 && !elsewhere && !held && at > NOW);
                let longest = if margin <= 0 { THIN } else { 15 * MINUTE };
                prop_assert!(at - NOW <= longest);
            }
            Wait::Braked(at) => {
                prop_assert!(bad == 0 && !elsewhere && held && at > NOW && !waited.is_empty());
            }
        }
        // Less margin, or more that is bad, never waits for longer.
        let urgency = |wait| match wait {
            Wait::Urgent => 0,
            Wait::Until(at) | Wait::Braked(at) => at,
        };
        prop_assert!(urgency(ask(margin - 1, &away, bad, &brake)) <= urgency(wait));
        prop_assert_eq!(ask(margin, &away, bad + 1, &brake), Wait::Urgent);
    }
}

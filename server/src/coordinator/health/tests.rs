use proptest::prelude::*;

use super::*;

const MINUTE: u64 = 60_000;
const RULES: Rules = Rules {
    misses: 3,
    good: 3,
    down_after_ms: 2 * MINUTE,
    grace_ms: 15 * MINUTE,
    grace_max_ms: 240 * MINUTE,
    listen_ms_max: 12_000,
};

/// One server's history.
struct Watched {
    health: Health,
    now_ms: u64,
    rules: Rules,
}

impl Watched {
    fn new(rules: Rules) -> Self {
        Self { health: Health::unknown(0, &rules), now_ms: 0, rules }
    }

    fn see(&mut self, event: Event) -> Option<Action> {
        let (health, action) = step(self.health.clone(), event, self.now_ms, &self.rules);
        self.health = health;
        action
    }

    /// Probes at an interval for some time.
    fn probe(&mut self, event: Event, every_ms: u64, for_ms: u64) -> State {
        for _ in 0..for_ms / every_ms {
            self.now_ms += every_ms;
            self.see(event);
        }
        self.health.state
    }
}

/// An event every 3 s: `+` good, `-` missed, `f` failed, `s` served, `r` reconciled. One letter
/// a state: `?` unknown, `U`, `S`, `D`, `L`, `R`.
fn run(events: &str) -> String {
    let mut watched = Watched::new(RULES);
    let letter = |event| {
        watched.now_ms += 3000;
        watched.see(match event {
            '+' => Event::Good,
            '-' => Event::Missed,
            'f' => Event::Failed,
            's' => Event::Served,
            _ => Event::Reconciled,
        });
        match watched.health.state {
            State::Unknown => '?',
            State::Up => 'U',
            State::Suspect => 'S',
            State::Down => 'D',
            State::Lost => 'L',
            State::Returned => 'R',
        }
    };
    events.chars().map(letter).collect()
}

#[test]
fn states_follow_the_probes() {
    for (probes, states) in [
        ("+", "U"),
        ("-+", "?U"),
        ("---", "??S"),
        ("+--+--", "UUUUUU"),
        ("+---", "UUUS"),
        ("+---++-+++", "UUUSSSSSSU"),
        ("+---+++", "UUUSSSU"),
    ] {
        assert_eq!(run(probes), states, "{probes}");
    }
}

#[test]
fn what_others_say_counts_as_one_miss_and_decides_nothing() {
    for (events, states) in [
        ("+ffffffff", "UUUUUUUUU"),
        ("+f--", "UUUS"),
        ("+ff-+--", "UUUUUUU"),
        ("+f-f-", "UUUUS"),
        // Failed requests do not keep back a server that answers.
        ("+---f+f+f+", "UUUSSSSSSU"),
        ("ssss", "????"),
        ("+--s--s--", "UUUUUUUUU"),
        ("+---sss", "UUUSSSS"),
        ("r+r---r", "?UUUUSS"),
    ] {
        assert_eq!(run(events), states, "{events}");
    }
    // A receipt is an answer: two minutes of silence begin with it.
    let served = format!("+{}s{}", "-".repeat(39), "-".repeat(40));
    assert_eq!(run(&served), format!("UUU{}D", "S".repeat(77)));
}

#[test]
fn a_silent_server_is_down_then_lost_and_returns() {
    let away = |misses: usize| format!("UUU{}{}", "S".repeat(37), "D".repeat(misses - 39));
    assert_eq!(run(&format!("+{}+++r", "-".repeat(40))), away(40) + "DDRU");
    assert_eq!(run(&format!("+{}+++---+++r", "-".repeat(40))), away(40) + "DDRRRSSSRU");
    assert_eq!(run(&format!("+{}++-+++r", "-".repeat(301))), away(299) + "LLLLLLLRU");
    // An answer now and then puts off what silence decides.
    let long = format!("+{}+{}+", "-".repeat(298), "-".repeat(298));
    assert!(!run(&long).contains('L'));
}

#[test]
fn nobody_is_down_or_lost_sooner_after_a_restart() {
    let mut watched = Watched::new(RULES);
    watched.health = Health::unknown(1000 * MINUTE, &RULES);
    watched.now_ms = 1000 * MINUTE;
    assert_eq!(watched.probe(Event::Missed, 3000, 2 * MINUTE - 3000), State::Suspect);
    assert_eq!(watched.probe(Event::Missed, 3000, 3000), State::Down);
    assert_eq!(watched.probe(Event::Missed, 3000, 13 * MINUTE - 3000), State::Down);
    assert_eq!(watched.probe(Event::Missed, 3000, 3000), State::Lost);
}

#[test]
fn the_grace_doubles_with_each_time_it_was_down_in_a_day() {
    let mut watched = Watched::new(RULES);
    let mut graces = Vec::new();
    for hour in 0..7 {
        watched.probe(Event::Good, 3000, 57 * MINUTE);
        watched.see(Event::Reconciled);
        // Short ones do not count.
        let minutes = if hour == 0 { 1 } else { 3 };
        watched.probe(Event::Missed, 3000, minutes * MINUTE);
        graces.push(watched.health.grace_ms / MINUTE);
    }
    assert_eq!(graces, [15, 15, 30, 60, 120, 240, 240]);
    // A day later they are forgotten, while it is away they are not.
    assert_eq!(watched.probe(Event::Missed, 3000, 236 * MINUTE), State::Down);
    assert_eq!(watched.probe(Event::Missed, 3000, 2 * MINUTE), State::Lost);
    watched.probe(Event::Good, MINUTE, 25 * 60 * MINUTE);
    watched.see(Event::Reconciled);
    watched.probe(Event::Missed, 3000, MINUTE);
    assert_eq!(watched.health.grace_ms, RULES.grace_ms);
}

#[test]
fn a_grace_beyond_all_numbers_is_for_ever() {
    let rules = Rules { grace_ms: u64::MAX, grace_max_ms: 0, ..RULES };
    assert_eq!([0, 1, 64, 1000].map(|n| rules.grace_after(n)), [u64::MAX; 4]);
    let rules = Rules { grace_ms: 1, grace_max_ms: u64::MAX, ..RULES };
    assert_eq!([0, 1, 63, 64].map(|n| rules.grace_after(n)), [1, 2, 1 << 63, 1 << 63]);
    assert_eq!(Rules { grace_ms: 0, ..rules }.grace_after(9), 0);
}

#[test]
fn a_coordinator_that_slept_did_not_listen() {
    let mut watched = Watched::new(RULES);
    watched.see(Event::Good);
    watched.now_ms += 600 * MINUTE;
    assert_eq!(watched.probe(Event::Missed, 3000, 105_000), State::Suspect);
    watched.now_ms += 600 * MINUTE;
    assert_eq!(watched.probe(Event::Missed, 3000, 3000), State::Down);
    watched.now_ms += 600 * MINUTE;
    assert_eq!(watched.probe(Event::Missed, 3000, 12 * MINUTE), State::Down);
    // Nor has whoever waits for it waited meanwhile.
    let left_ms = watched.health.left_ms.unwrap();
    assert_eq!(watched.now_ms - left_ms, 855_000 - 18_000);
}

fn events() -> impl Strategy<Value = Vec<(Event, u64, u64)>> {
    let event = prop_oneof![
        4 => Just(Event::Good),
        6 => Just(Event::Missed),
        2 => Just(Event::Failed),
        1 => Just(Event::Served),
        1 => Just(Event::Reconciled),
    ];
    let every_ms = prop_oneof![8 => 0..4000u64, 1 => 0..600_000u64];
    let run = (event, 1..25u64, every_ms);
    prop::collection::vec(run, 1..25)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    #[test]
    fn no_state_is_left_without_its_reason(
        runs in events(),
        late_ms in prop::collection::vec(0..3000u64, 8),
    ) {
        // Short enough for all states to be met.
        let rules =
            Rules { down_after_ms: 20_000, grace_ms: 60_000, grace_max_ms: 200_000, ..RULES };
        let mut watched = Watched::new(rules);
        let (mut misses, mut good, mut hearsay) = (0, 0, 0);
        let (mut heard_ms, mut was_down, mut clock_ms) = (0, false, 0);
        let steps = runs.iter().flat_map(|&(e, n, ms)| (0..n).map(move |_| (e, ms)));
        for (n, (event, after_ms)) in steps.enumerate() {
            clock_ms += after_ms;
            // Whoever brings an event may be overtaken by another.
            watched.now_ms = clock_ms - late_ms[n % 8].min(clock_ms);
            let before = watched.health.clone();
            let action = watched.see(event);
            let after = &watched.health;
            match event {
                Event::Good => (misses, good, hearsay) = (0, good + 1, 0),
                Event::Missed => (misses, good, hearsay) = (misses + 1, 0, 0),
                Event::Failed => hearsay += 1,
                Event::Served => misses = 0,
                Event::Reconciled => {}
            }
            // Between two probes the first of it counts, and all of it asks for one probe.
            let counts = event == Event::Failed && hearsay == 1;
            prop_assert_eq!(action, counts.then_some(Action::Probe));
            misses += u32::from(counts);
            if matches!(event, Event::Good | Event::Served) {
                heard_ms = heard_ms.max(watched.now_ms);
            }
            let silent_ms = watched.now_ms.saturating_sub(heard_ms);
            match (before.state, after.state) {
                (a, b) if a == b => {}
                (State::Unknown, State::Up) => prop_assert_eq!(event, Event::Good),
                (State::Unknown | State::Up | State::Returned, State::Suspect) => {
                    prop_assert!(event == Event::Missed && misses >= 3);
                }
                (State::Suspect, State::Down) => {
                    prop_assert!(event == Event::Missed && silent_ms >= rules.down_after_ms);
                    was_down = true;
                }
                (State::Down, State::Lost) => {
                    prop_assert!(event == Event::Missed && silent_ms >= before.grace_ms);
                }
                (State::Suspect, State::Up) => {
                    prop_assert!(event == Event::Good && good >= 3 && !was_down);
                }
                (State::Suspect | State::Down | State::Lost, State::Returned) => {
                    prop_assert!(event == Event::Good && good >= 3 && was_down);
                }
                (State::Returned, State::Up) => {
                    prop_assert_eq!(event, Event::Reconciled);
                    was_down = false;
                }
                (a, b) => prop_assert!(false, "{:?} to {:?}", a, b),
            }
            prop_assert_eq!(after.left_ms.is_some(), after.state.is_away());
            prop_assert!(after.left_ms <= Some(clock_ms) && after.heard_ms <= clock_ms);
            prop_assert!((rules.grace_ms..=rules.grace_max_ms).contains(&after.grace_ms));
            prop_assert!(after.heard_ms >= heard_ms.max(before.heard_ms));
            if before.state.is_away() && after.state.is_away() {
                prop_assert_eq!(before.grace_ms, after.grace_ms);
                prop_assert!(before.left_ms <= after.left_ms);
            }
        }
    }

    #[test]
    fn a_server_that_flaps_is_never_lost(
        phases in prop::collection::vec((1..31u64, 3..40u64), 20),
    ) {
        // A probe every 30 s, so that an outage may last for 15 min.
        let mut watched = Watched::new(Rules { listen_ms_max: MINUTE, ..RULES });
        for (misses, good) in phases {
            for (event, count) in [(Event::Missed, misses.min(29)), (Event::Good, good)] {
                for _ in 0..count {
                    prop_assert_ne!(watched.probe(event, 30_000, 30_000), State::Lost);
                }
            }
            watched.see(Event::Reconciled);
            prop_assert_eq!(watched.health.state, State::Up);
        }
    }

    #[test]
    fn an_outage_of_a_minute_is_never_down(
        outages in prop::collection::vec((0..21u64, 0..10u64, any::<bool>()), 1..10),
    ) {
        let mut watched = Watched::new(RULES);
        watched.see(Event::Good);
        for (misses, good, failed) in outages {
            for _ in 0..misses.min(20) {
                if failed {
                    watched.see(Event::Failed);
                }
                prop_assert_ne!(watched.probe(Event::Missed, 3000, 3000), State::Down);
            }
            // One answer is enough to have been heard.
            watched.probe(Event::Good, 3000, 3000 * (good + 1));
        }
    }

    #[test]
    fn a_server_that_stays_silent_is_lost_after_its_grace(
        history in events(),
        every_ms in 500..4000u64,
    ) {
        let mut watched = Watched::new(RULES);
        for (event, count, after_ms) in history {
            for _ in 0..count.min(4) {
                watched.now_ms += after_ms;
                watched.see(event);
            }
        }
        watched.see(Event::Good);
        let began_ms = watched.now_ms;
        while watched.health.state != State::Lost {
            watched.probe(Event::Missed, every_ms, every_ms);
            let silent_ms = watched.now_ms - began_ms;
            // The probe that says so is the first after the grace; each state takes one.
            prop_assert!(silent_ms < RULES.grace_max_ms + 6 * every_ms, "{:?}", watched.health);
        }
    }
}

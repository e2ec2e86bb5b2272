//! How a server is doing: a pure state machine fed by probes.

use crate::wire::State;

/// What the prober saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event {
    /// The right server answered.
    Good,
    /// No answer in time, or not the right one.
    Missed,
}

/// When states change.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules {
    /// Misses in a row that make a server suspect.
    pub(super) misses: u32,
    /// Good probes in a row that bring a suspect back.
    pub(super) good: u32,
    /// Silence that makes a suspect down.
    pub(super) down_after_ms: u64,
}

/// A server's state and what it follows from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Health {
    /// The state.
    pub(super) state: State,
    /// When it last answered, or was first watched.
    pub(super) heard_ms: u64,
    /// Probes missed in a row.
    pub(super) misses: u32,
    /// Probes answered in a row.
    pub(super) good: u32,
}

impl Health {
    /// That of a server not probed yet.
    pub(super) fn unknown(now_ms: u64) -> Self {
        Self { state: State::Unknown, heard_ms: now_ms, misses: 0, good: 0 }
    }

    /// Whether a probe has ended since it is watched.
    pub(super) fn probed(&self) -> bool {
        self.misses + self.good > 0
    }
}

/// The health after `event`.
pub(super) fn step(before: Health, event: Event, now_ms: u64, rules: &Rules) -> Health {
    let (misses, good) = match event {
        Event::Good => (0, before.good.saturating_add(1)),
        Event::Missed => (before.misses.saturating_add(1), 0),
    };
    let heard_ms = if event == Event::Good { now_ms } else { before.heard_ms };
    let silent_ms = now_ms.saturating_sub(heard_ms);
    let state = match (before.state, event) {
        (State::Unknown, Event::Good) => State::Up,
        (State::Suspect | State::Down, Event::Good) if good >= rules.good => State::Up,
        (State::Unknown | State::Up, Event::Missed) if misses >= rules.misses => State::Suspect,
        (State::Suspect, Event::Missed) if silent_ms >= rules.down_after_ms => State::Down,
        (same, _) => same,
    };
    Health { state, heard_ms, misses, good }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RULES: Rules = Rules { misses: 3, good: 3, down_after_ms: 120_000 };

    /// Probes every 3 s: `+` good, `-` missed. One letter a state: `?` unknown, `U`, `S`, `D`.
    fn run(probes: &str) -> String {
        let mut health = Health::unknown(0);
        let mut states = String::new();
        for (n, probe) in probes.chars().enumerate() {
            let event = if probe == '+' { Event::Good } else { Event::Missed };
            health = step(health, event, (n as u64 + 1) * 3000, &RULES);
            states.push(match health.state {
                State::Unknown => '?',
                State::Up => 'U',
                State::Suspect => 'S',
                State::Down => 'D',
            });
        }
        states
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
    fn a_server_is_down_after_two_minutes_of_silence_and_comes_back() {
        let silent = run(&format!("+{}+++", "-".repeat(40)));
        assert_eq!(silent, format!("UUU{}D{}U", "S".repeat(37), "D".repeat(2)));
    }

    proptest! {
        #[test]
        fn no_state_is_left_without_its_reason(probes in "[+-]{1,200}") {
            let states = format!("?{}", run(&probes));
            let letters: Vec<char> = states.chars().collect();
            for (n, pair) in letters.windows(2).enumerate() {
                let until = &probes[..=n];
                match (pair[0], pair[1]) {
                    (a, b) if a == b => {}
                    ('?', 'U') => prop_assert!(until.ends_with('+')),
                    ('?' | 'U', 'S') => prop_assert!(until.ends_with("---")),
                    ('S', 'D') => prop_assert!(until.ends_with(&"-".repeat(39))),
                    ('S' | 'D', 'U') => prop_assert!(until.ends_with("+++")),
                    (a, b) => prop_assert!(false, "{a} to {b}"),
                }
            }
        }
    }
}

//! A server's health through the coordinator's restarts, of which only that it was lost survives.

use proptest::prelude::*;

use super::*;

const RULES: Rules = Rules {
    misses: 3,
    good: 3,
    down_after_ms: 20_000,
    grace_ms: 60_000,
    grace_max_ms: 200_000,
    listen_ms_max: 12_000,
};

#[derive(Debug, Clone, Copy)]
enum Next {
    /// So many events of a kind, one every so many ms.
    Events(Event, u32, u64),
    /// The coordinator is away for so long.
    Restart(u64),
    /// Its clock jumps ahead, or it slept.
    Jump(u64),
}

fn history() -> impl Strategy<Value = Vec<Next>> {
    let event = prop_oneof![
        4 => Just(Event::Good),
        6 => Just(Event::Missed),
        1 => Just(Event::Failed),
        1 => Just(Event::Served),
        1 => Just(Event::Reconciled),
    ];
    let next = prop_oneof![
        8 => (event, 1..25u32, 0..4000u64).prop_map(|(e, n, ms)| Next::Events(e, n, ms)),
        2 => (0..1_000_000u64).prop_map(Next::Restart),
        1 => (0..600_000u64).prop_map(Next::Jump),
    ];
    prop::collection::vec(next, 1..30)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    #[test]
    fn neither_a_restart_nor_a_jump_of_the_clock_gives_a_server_up(history in history()) {
        let mut health = Health::unknown(0, &RULES);
        let mut now_ms = 10_000_000u64;
        // Silence that this coordinator, since its start, heard itself.
        let (mut silent_ms, mut probed_ms) = (0u64, None::<u64>);
        let mut was_lost = false;
        for next in history {
            let (event, count, every_ms) = match next {
                Next::Restart(away_ms) => {
                    now_ms += away_ms;
                    was_lost = health.state == State::Lost;
                    health = if was_lost {
                        Health::lost(now_ms, &RULES)
                    } else {
                        Health::unknown(now_ms, &RULES)
                    };
                    (silent_ms, probed_ms) = (0, None);
                    continue;
                }
                Next::Jump(by_ms) => {
                    now_ms += by_ms;
                    continue;
                }
                Next::Events(event, count, every_ms) => (event, count, every_ms),
            };
            for _ in 0..count {
                now_ms += every_ms;
                if matches!(event, Event::Good | Event::Missed) {
                    let since = probed_ms.map_or(RULES.listen_ms_max, |at| now_ms.saturating_sub(at));
                    silent_ms += since.min(RULES.listen_ms_max);
                    probed_ms = Some(now_ms);
                }
                let before = health.state;
                health = step(health, event, now_ms, &RULES).0;
                if matches!(event, Event::Good | Event::Served) {
                    silent_ms = 0;
                }
                match (before, health.state) {
                    (State::Suspect, State::Down) => prop_assert!(silent_ms >= RULES.down_after_ms),
                    (State::Down, State::Lost) => prop_assert!(silent_ms >= RULES.grace_ms),
                    // What was given up is taken back by answers alone.
                    (State::Lost, now) if now != State::Lost => {
                        prop_assert!(now == State::Returned && event == Event::Good);
                        was_lost = false;
                    }
                    _ => {}
                }
                prop_assert!(!was_lost || health.state == State::Lost);
                prop_assert!(health.left_ms.is_some() == health.state.is_away());
            }
        }
    }
}

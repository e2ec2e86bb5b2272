//! What a change says, as an event: of before and after, without I/O and clock.

use codec::StripeId;
use serde::Serialize;
use serde_json::Value;

use crate::coordinator::health::Health;
use crate::wire::{Brake, Counts, Mode, State};

/// What an event may be about; the names are stable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::coordinator) enum Kind {
    /// The coordinator started.
    Started,
    /// A server joined.
    Joined,
    /// What a server's state is now.
    Up,
    /// See [`State`].
    Suspect,
    /// See [`State`].
    Down,
    /// See [`State`].
    Lost,
    /// See [`State`].
    Returned,
    /// What a server holds was compared with the map.
    Compared,
    /// Shards were found to be missing or damaged.
    Damage,
    /// An audit got a wrong answer.
    Audit,
    /// A server's mode was set.
    Mode,
    /// A server's weight changed.
    Weight,
    /// A server was given up for another of its name.
    Replaced,
    /// A server was forgotten.
    Removed,
    /// Servers went together: repair waits.
    Brake,
    /// It goes on.
    BrakeOff,
    /// The repair of a stripe with nothing to spare began.
    RepairBegun,
    /// It is whole.
    Repaired,
    /// A stripe could not be repaired.
    RepairFailed,
    /// A stripe's parity never was the code of its data.
    Inconsistent,
    /// So many stripes were made whole.
    Whole,
    /// A snapshot was committed.
    Snapshot,
    /// Settings of repair changed.
    Settings,
    /// A certificate could not be made, or a server not be trusted.
    Certificate,
    /// Events were dropped, since the catalog could not take them.
    Dropped,
}

impl Kind {
    /// Its name in the log.
    pub(in crate::coordinator) fn name(self) -> &'static str {
        match self {
            Self::Started => "started",
            Self::Joined => "joined",
            Self::Up => "up",
            Self::Suspect => "suspect",
            Self::Down => "down",
            Self::Lost => "lost",
            Self::Returned => "returned",
            Self::Compared => "compared",
            Self::Damage => "damage",
            Self::Audit => "audit",
            Self::Mode => "mode",
            Self::Weight => "weight",
            Self::Replaced => "replaced",
            Self::Removed => "removed",
            Self::Brake => "brake",
            Self::BrakeOff => "brake-off",
            Self::RepairBegun => "repair-begun",
            Self::Repaired => "repaired",
            Self::RepairFailed => "repair-failed",
            Self::Inconsistent => "inconsistent",
            Self::Whole => "whole",
            Self::Snapshot => "snapshot",
            Self::Settings => "settings",
            Self::Certificate => "certificate",
            Self::Dropped => "dropped",
        }
    }

    /// Whether it is seen rather than done: it may come any number of times, and does not count
    /// where the services run for one command only.
    pub(super) fn is_observed(self) -> bool {
        match self {
            Self::Up | Self::Suspect | Self::Down | Self::Lost | Self::Returned => true,
            Self::Compared | Self::Damage | Self::Audit | Self::Certificate => true,
            Self::RepairBegun | Self::Repaired | Self::RepairFailed | Self::Inconsistent => true,
            Self::Started | Self::Joined | Self::Mode | Self::Weight | Self::Replaced => false,
            Self::Removed | Self::Brake | Self::BrakeOff | Self::Whole | Self::Snapshot => false,
            Self::Settings | Self::Dropped => false,
        }
    }
}

/// What is told of one thing that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::coordinator) struct Told {
    /// What it is about.
    pub(in crate::coordinator) kind: Kind,
    /// The server's name.
    pub(in crate::coordinator) server: Option<String>,
    /// The stripe.
    pub(in crate::coordinator) stripe: Option<StripeId>,
    /// For a person.
    pub(in crate::coordinator) text: String,
}

/// Bytes of a text at most: some of it comes from servers.
const TEXT_BYTES_MAX: usize = 500;

impl Told {
    /// One about no server and no stripe.
    pub(in crate::coordinator) fn of(kind: Kind, text: impl Into<String>) -> Self {
        let mut text: String = text.into();
        text.truncate(text.floor_char_boundary(TEXT_BYTES_MAX));
        Self { kind, server: None, stripe: None, text }
    }

    /// The same about a server.
    pub(in crate::coordinator) fn on(self, server: &str) -> Self {
        Self { server: Some(server.to_owned()), ..self }
    }

    /// The same about a stripe.
    pub(in crate::coordinator) fn in_stripe(self, stripe: StripeId) -> Self {
        Self { stripe: Some(stripe), ..self }
    }
}

/// What a server's change of health says: nothing, if its state is the same.
pub(in crate::coordinator) fn of_health(
    name: &str,
    before: State,
    after: &Health,
    now_ms: u64,
) -> Option<Told> {
    if before == after.state {
        return None;
    }
    let silent = match now_ms.saturating_sub(after.heard_ms) / 1000 {
        0 => "no answer".to_owned(),
        seconds => format!("no answer for {}", span_text(seconds)),
    };
    let (kind, text) = match after.state {
        State::Up if before == State::Returned => {
            (Kind::Up, "what it holds was compared".to_owned())
        }
        State::Up if before == State::Unknown => (Kind::Up, "answers".to_owned()),
        State::Up => (Kind::Up, "answers again".to_owned()),
        State::Suspect => (Kind::Suspect, silent),
        State::Down => {
            let grace = span_text(after.grace_ms / 1000);
            (Kind::Down, format!("{silent}; waited for until that is {grace}"))
        }
        State::Lost => (Kind::Lost, format!("{silent}; what it held is made again elsewhere")),
        State::Returned => {
            (Kind::Returned, "answers again; what it holds is compared first".to_owned())
        }
        // A server is unknown at a start only.
        State::Unknown => return None,
    };
    Some(Told::of(kind, text).on(name))
}

/// What a change of the brake says.
pub(in crate::coordinator) fn of_brake(
    before: Option<&Brake>,
    after: Option<&Brake>,
) -> Option<Told> {
    match (before, after) {
        (None, Some(brake)) => {
            let who = match &brake.zones[..] {
                [] => plural(brake.servers.len() as u64, "server"),
                zones => format!("all of {}", zones.join(", ")),
            };
            let names = brake.servers.join(", ");
            Some(Told::of(Kind::Brake, format!("{who} went together, repair waits: {names}")))
        }
        (Some(_), None) => Some(Told::of(Kind::BrakeOff, "repair goes on")),
        _ => None,
    }
}

/// How a comparison ended.
pub(in crate::coordinator) fn of_comparison(name: &str, compared: Result<&Counts, &str>) -> Told {
    let text = match compared {
        Err(why) => format!("not to the end: {why}"),
        Ok(counts) => {
            let Counts { good, missing, damaged, surplus, unknown, pending, leftover } = *counts;
            let others = [
                (missing, "missing"),
                (damaged, "damaged"),
                (leftover, "left over, trashed"),
                (surplus, "surplus"),
                (unknown, "unknown"),
                (pending, "on their way"),
            ];
            let mut text = format!("{good} good");
            for (count, what) in others.into_iter().filter(|(count, _)| *count > 0) {
                text.push_str(&format!(", {count} {what}"));
            }
            text
        }
    };
    Told::of(Kind::Compared, text).on(name)
}

/// What was found of shards that the map had as good.
pub(in crate::coordinator) fn of_damage(name: &str, missing: u64, damaged: u64) -> Option<Told> {
    let counts = [(missing, "missing"), (damaged, "damaged")];
    let counts: Vec<String> = counts
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| format!("{} {what}", plural(count, "shard")))
        .collect();
    (!counts.is_empty()).then(|| Told::of(Kind::Damage, counts.join(", ")).on(name))
}

/// What is wanted of a server now.
pub(in crate::coordinator) fn of_mode(name: &str, before: Mode, after: Mode) -> Option<Told> {
    let text = match after {
        _ if before == after => return None,
        Mode::Normal => "normal: takes shards again",
        Mode::Draining => "draining: what it holds moves to others",
        Mode::ReadOnly => "read-only: keeps what it has and takes no more",
    };
    Some(Told::of(Kind::Mode, text).on(name))
}

/// Which settings changed, by their names on the wire.
pub(in crate::coordinator) fn of_settings(
    before: &impl Serialize,
    after: &impl Serialize,
) -> Option<Told> {
    let (Ok(Value::Object(before)), Ok(Value::Object(after))) =
        (serde_json::to_value(before), serde_json::to_value(after))
    else {
        return None;
    };
    let changed: Vec<String> = after
        .iter()
        .filter(|(name, value)| before.get(*name) != Some(value))
        .map(|(name, value)| {
            let was = before.get(name).unwrap_or(&Value::Null);
            format!("{} {} → {}", name.replace('_', "-"), value_text(was), value_text(value))
        })
        .collect();
    (!changed.is_empty())
        .then(|| Told::of(Kind::Settings, format!("repair: {}", changed.join(", "))))
}

fn value_text(value: &Value) -> String {
    match value {
        Value::Null => "none".to_owned(),
        Value::Bool(true) => "yes".to_owned(),
        Value::Bool(false) => "no".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// `9 s`, `15 min`, `4 h`.
fn span_text(seconds: u64) -> String {
    match seconds {
        0..180 => format!("{seconds} s"),
        180..10_800 => format!("{} min", seconds / 60),
        _ => format!("{} h", seconds / 3600),
    }
}

/// `1 stripe`, `2 stripes`.
pub(super) fn plural(count: u64, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

/// `1.2 GiB`.
pub(super) fn bytes_text(bytes: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let (mut value, mut unit) = (bytes as f64 / 1024.0, 0);
    while value >= 1023.95 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", units[unit])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::coordinator::health::{self, Event, Rules};
    use crate::wire::RepairSettings;

    const RULES: Rules = Rules {
        misses: 3,
        good: 2,
        down_after_ms: 120_000,
        grace_ms: 900_000,
        grace_max_ms: 900_000,
        listen_ms_max: u64::MAX,
    };

    #[test]
    fn an_outage_is_told_from_its_beginning_to_its_end() {
        let mut health = Health::unknown(0, &RULES);
        let mut told = Vec::new();
        let mut step = |event, now_ms| {
            let (before, after) =
                (health.state, health::step(health.clone(), event, now_ms, &RULES).0);
            told.extend(of_health("c", before, &after, now_ms).map(|t| (t.kind.name(), t.text)));
            health = after;
        };
        step(Event::Good, 0);
        (1..=330).for_each(|n| step(Event::Missed, n * 3000));
        [1_000_000, 1_003_000].into_iter().for_each(|at| step(Event::Good, at));
        step(Event::Reconciled, 1_004_000);
        (1..=3).for_each(|n| step(Event::Missed, 1_004_000 + n * 3000));
        [1_020_000, 1_023_000].into_iter().for_each(|at| step(Event::Good, at));
        let told: Vec<(&str, &str)> = told.iter().map(|(k, t)| (*k, t.as_str())).collect();
        assert_eq!(
            told,
            [
                ("up", "answers"),
                ("suspect", "no answer for 9 s"),
                ("down", "no answer for 120 s; waited for until that is 15 min"),
                ("lost", "no answer for 15 min; what it held is made again elsewhere"),
                ("returned", "answers again; what it holds is compared first"),
                ("up", "what it holds was compared"),
                ("suspect", "no answer for 10 s"),
                ("up", "answers again"),
            ]
        );
    }

    proptest! {
        #[test]
        fn every_change_of_state_is_told_once_and_nothing_else(
            steps in prop::collection::vec((0u8..5, 0u64..200_000), 0..200),
        ) {
            let (mut health, mut now_ms) = (Health::unknown(0, &RULES), 0);
            for (event, wait) in steps {
                now_ms += wait;
                let event = [
                    Event::Good, Event::Missed, Event::Failed, Event::Served, Event::Reconciled,
                ][usize::from(event)];
                let before = health.state;
                health = health::step(health, event, now_ms, &RULES).0;
                let told = of_health("c", before, &health, now_ms);
                let name = serde_json::to_value(health.state).unwrap();
                let is = told.map(|told| Value::from(told.kind.name()));
                prop_assert_eq!(is, (before != health.state).then_some(name));
            }
        }
    }

    #[test]
    fn the_brake_is_told_when_it_begins_and_when_it_ends() {
        let brake = |zones: &[&str]| Brake {
            since_ms: 0,
            until_ms: 1,
            zones: zones.iter().map(|&zone| zone.to_owned()).collect(),
            servers: vec!["a".to_owned(), "b".to_owned()],
        };
        let text = |before, after| of_brake(before, after).map(|told| told.text);
        let (quarter, zone) = (brake(&[]), brake(&["rack"]));
        assert_eq!(
            text(None, Some(&quarter)).unwrap(),
            "2 servers went together, repair waits: a, b"
        );
        assert_eq!(
            text(None, Some(&zone)).unwrap(),
            "all of rack went together, repair waits: a, b"
        );
        assert_eq!(text(Some(&quarter), Some(&zone)), None);
        assert_eq!(text(Some(&zone), None).unwrap(), "repair goes on");
        assert_eq!(text(None, None), None);
    }

    #[test]
    fn settings_modes_comparisons_and_damage_say_what_is_otherwise() {
        let before = RepairSettings {
            paused: false,
            bytes_per_second: None,
            per_server: None,
            at_once: 4,
            rebalances: true,
        };
        let after = RepairSettings { paused: true, bytes_per_second: Some(5000), ..before };
        let text = of_settings(&before, &after).unwrap().text;
        assert_eq!(text, "repair: bytes-per-second none → 5000, paused no → yes");
        assert_eq!(of_settings(&after, &after), None);
        assert_eq!(of_mode("c", Mode::Normal, Mode::Normal), None);
        let drain = of_mode("c", Mode::Normal, Mode::Draining).unwrap();
        assert!(drain.text.starts_with("draining"), "{drain:?}");
        let counts = Counts { good: 7, missing: 1, unknown: 2, ..Counts::default() };
        assert_eq!(of_comparison("c", Ok(&counts)).text, "7 good, 1 missing, 2 unknown");
        assert_eq!(of_comparison("c", Err("it is down")).text, "not to the end: it is down");
        assert_eq!(of_damage("c", 0, 0), None);
        assert_eq!(of_damage("c", 1, 3).unwrap().text, "1 shard missing, 3 shards damaged");
        let long = Told::of(Kind::Damage, "ä".repeat(400));
        assert_eq!(long.text.len(), TEXT_BYTES_MAX);
    }
}

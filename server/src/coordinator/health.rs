//! How a server is doing: a pure state machine, fed by probes and by what others met there.
//!
//! ```text
//! unknown ──good──▶ up ◀──reconciled── returned
//!    │              │▲                  │   ▲
//!    │        misses││good probes       │   │good probes
//!    └────misses──▶ suspect ◀──misses───┘   │
//!                   │ silent for down_after │
//!                   ▼                       │
//!                  down ────────────────────┤
//!                   │ silent for the grace  │
//!                   ▼                       │
//!                  lost ────────────────────┘
//! ```
//!
//! `brake` looks at all servers together, `wait` says when what a stripe lacks is repaired.

pub(super) mod brake;
pub(super) mod wait;

use crate::wire::State;

/// An outage longer ago than this says nothing about the next one.
const OUTAGES_MS: u64 = 24 * 3600 * 1000;
/// Outages remembered; with these the grace has doubled beyond any number.
const OUTAGES_MAX: usize = 64;

/// What was seen of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event {
    /// The right server answered a probe.
    Good,
    /// No answer to a probe in time, or not the right one.
    Missed,
    /// Somebody says that it failed a request. Hearsay: it brings the next probe forward.
    Failed,
    /// It did what it was asked, and a receipt proves it.
    Served,
    /// What it holds was compared with the catalog.
    Reconciled,
}

/// What an event asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    /// A probe at once.
    Probe,
}

/// When states change.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules {
    /// Misses in a row that make a server suspect.
    pub(super) misses: u32,
    /// Good probes in a row that bring it back.
    pub(super) good: u32,
    /// Silence that makes a suspect down.
    pub(super) down_after_ms: u64,
    /// Silence after which one that is down is lost; doubled for each time that it was down in
    /// the 24 h before.
    pub(super) grace_ms: u64,
    /// What the grace grows to at most.
    pub(super) grace_max_ms: u64,
    /// So much of the time between two probes counts as silence at most: a coordinator that
    /// slept did not listen.
    pub(super) listen_ms_max: u64,
}

impl Rules {
    /// The grace after so many outages.
    fn grace_after(&self, outages: usize) -> u64 {
        let doubled = self.grace_ms.saturating_mul(1 << outages.min(63));
        doubled.min(self.grace_max_ms.max(self.grace_ms))
    }
}

/// A server's state and what it follows from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Health {
    /// The state.
    pub(super) state: State,
    /// Since when it is silent: when it was last heard or first watched, and later by the time
    /// in which nobody listened.
    pub(super) heard_ms: u64,
    /// When it was no longer found, and later by the time in which nobody listened: while it is
    /// suspect, down or lost.
    pub(super) left_ms: Option<u64>,
    /// The grace of this absence, or of the last one.
    pub(super) grace_ms: u64,
    /// Misses in a row: probes, and what others said between two of them as one.
    misses: u32,
    /// Probes answered in a row.
    good: u32,
    /// When the last probe ended.
    probed_ms: Option<u64>,
    /// Whether somebody said since that it failed.
    doubted: bool,
    /// Whether it has been down since its inventory was last compared.
    unconfirmed: bool,
    /// When it went down, in the last 24 h before it last left.
    outages: Vec<u64>,
}

impl Health {
    /// That of a server not probed yet.
    pub(super) fn unknown(now_ms: u64, rules: &Rules) -> Self {
        Self {
            state: State::Unknown,
            heard_ms: now_ms,
            left_ms: None,
            grace_ms: rules.grace_ms,
            misses: 0,
            good: 0,
            probed_ms: None,
            doubted: false,
            unconfirmed: false,
            outages: Vec::new(),
        }
    }

    /// That of a server that was lost before the coordinator stopped.
    pub(super) fn lost(now_ms: u64, rules: &Rules) -> Self {
        // It left long ago: the brake takes it for no outage of now.
        let left_ms = Some(0);
        Self { state: State::Lost, left_ms, unconfirmed: true, ..Self::unknown(now_ms, rules) }
    }

    /// Whether a probe has ended since it is watched.
    pub(super) fn probed(&self) -> bool {
        self.probed_ms.is_some()
    }

    fn count(&mut self, event: Event) {
        match event {
            Event::Good => {
                (self.misses, self.good, self.doubted) = (0, self.good.saturating_add(1), false)
            }
            Event::Missed => {
                (self.misses, self.good, self.doubted) = (self.misses.saturating_add(1), 0, false);
            }
            Event::Failed if !self.doubted => {
                (self.misses, self.doubted) = (self.misses.saturating_add(1), true);
            }
            Event::Served => self.misses = 0,
            Event::Failed | Event::Reconciled => {}
        }
    }

    fn listen(&mut self, event: Event, now_ms: u64, rules: &Rules) {
        if matches!(event, Event::Good | Event::Missed) {
            let since = self.heard_ms.max(self.probed_ms.unwrap_or(0));
            let unheeded = now_ms.saturating_sub(since).saturating_sub(rules.listen_ms_max);
            self.heard_ms += unheeded;
            self.left_ms = self.left_ms.map(|left| left + unheeded);
            self.probed_ms = self.probed_ms.max(Some(now_ms));
        }
        if matches!(event, Event::Good | Event::Served) {
            self.heard_ms = self.heard_ms.max(now_ms);
        }
    }

    fn enter(&mut self, state: State, now_ms: u64, rules: &Rules) {
        match state {
            State::Suspect => {
                self.left_ms = Some(now_ms);
                self.outages.retain(|&ms| now_ms.saturating_sub(ms) <= OUTAGES_MS);
                self.grace_ms = rules.grace_after(self.outages.len());
            }
            State::Down => {
                self.unconfirmed = true;
                if self.outages.len() == OUTAGES_MAX {
                    self.outages.remove(0);
                }
                self.outages.push(now_ms);
            }
            State::Up => (self.left_ms, self.unconfirmed) = (None, false),
            State::Returned => self.left_ms = None,
            State::Lost | State::Unknown => {}
        }
        self.state = state;
    }
}

/// The health after `event`.
pub(super) fn step(
    mut health: Health,
    event: Event,
    now_ms: u64,
    rules: &Rules,
) -> (Health, Option<Action>) {
    let was_doubted = health.doubted;
    health.count(event);
    health.listen(event, now_ms, rules);
    let silent_ms = now_ms.saturating_sub(health.heard_ms);
    let state = match (health.state, event) {
        (State::Unknown, Event::Good) => State::Up,
        (State::Suspect | State::Down | State::Lost, Event::Good) if health.good >= rules.good => {
            if health.unconfirmed {
                State::Returned
            } else {
                State::Up
            }
        }
        (State::Returned, Event::Reconciled) => State::Up,
        (State::Unknown | State::Up | State::Returned, Event::Missed)
            if health.misses >= rules.misses =>
        {
            State::Suspect
        }
        (State::Suspect, Event::Missed) if silent_ms >= rules.down_after_ms => State::Down,
        (State::Down, Event::Missed) if silent_ms >= health.grace_ms => State::Lost,
        (same, _) => same,
    };
    if state != health.state {
        health.enter(state, now_ms, rules);
    }
    let action = (event == Event::Failed && !was_doubted).then_some(Action::Probe);
    (health, action)
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod histories;

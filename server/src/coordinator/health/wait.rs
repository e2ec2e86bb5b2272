//! When what a stripe lacks is repaired: at once, or later, since servers that are away mostly
//! come back.

use super::Health;
use super::brake::Brake;
use crate::wire::{ServerId, State};

/// What a stripe lacks.
#[derive(Debug, Clone, Copy)]
pub(in crate::coordinator) struct Deficit<'a> {
    /// Good shards on servers that are not away, minus k.
    pub(in crate::coordinator) margin: i32,
    /// The servers of its other good shards: suspect, down or lost.
    pub(in crate::coordinator) away: &'a [ServerId],
    /// Shards that are damaged, missing from their server, or on none.
    pub(in crate::coordinator) bad: u32,
}

/// When it is repaired. Times lie ahead; by then the question is asked again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::coordinator) enum Wait {
    /// At once.
    Urgent,
    /// Not before this time; `u64::MAX` where nothing is lacking, or it is waited for ever.
    Until(u64),
    /// When the brake lifts, at this time at the latest.
    Braked(u64),
}

/// When `deficit` is repaired.
///
/// What is bad, or lost elsewhere than the brake holds for, is urgent, brake or not. All else
/// waits while it holds. Servers that are away are waited for until the first of them has been
/// away for its grace, at margin 0 or less for `thin_ms` since the last of them left.
pub(in crate::coordinator) fn waits<'a>(
    deficit: Deficit,
    health_of: impl Fn(ServerId) -> Option<&'a Health>,
    brake: &Brake,
    thin_ms: u64,
    now_ms: u64,
) -> Wait {
    let held = brake.held(now_ms);
    let (mut due, mut last_left) = (u64::MAX, None);
    for server in deficit.away {
        // A server that is in the fleet no more does not come back.
        let Some(health) = health_of(*server) else { return Wait::Urgent };
        let left = match health.state {
            State::Lost if held.is_none_or(|held| !held.servers.contains(server)) => {
                return Wait::Urgent;
            }
            State::Up | State::Returned => continue,
            State::Unknown => health.heard_ms,
            State::Suspect | State::Down | State::Lost => health.left_ms.unwrap_or(health.heard_ms),
        };
        due = due.min(left.saturating_add(health.grace_ms));
        last_left = last_left.max(Some(left));
    }
    if deficit.bad > 0 {
        return Wait::Urgent;
    }
    let Some(last_left) = last_left else { return Wait::Until(u64::MAX) };
    if let Some(held) = held {
        return Wait::Braked(held.until_ms);
    }
    if deficit.margin <= 0 {
        due = due.min(last_left.saturating_add(thin_ms));
    }
    if due <= now_ms { Wait::Urgent } else { Wait::Until(due) }
}

#[cfg(test)]
mod tests;

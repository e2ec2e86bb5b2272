//! An entry of the ledger: what became of a stripe that lacks shards, and when it is tried again.

use crate::wire::LedgerState;

/// The first pause after a try that failed; each one doubles it.
const BACKOFF_MS: u64 = 60_000;
/// The longest pause.
const BACKOFF_MS_MAX: u64 = 64 * BACKOFF_MS;
/// How long a server that was busy is left to it.
pub(super) const BUSY_MS: u64 = 5_000;
/// A stripe that changed, or whose target failed, so often while it was repaired is tried again
/// later.
pub(super) const CHANGES_MAX: u32 = 3;

/// How a try ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::coordinator) enum Ended {
    /// It lacks nothing any more.
    Whole,
    /// It changed meanwhile.
    Changed,
    /// It lacks shards still.
    Short(String),
    /// Servers that may have what it lacks did not answer.
    Unknown(String),
    /// The server that was to make it failed; it is not asked again soon, another may do it.
    TargetFailed(String),
    /// The server that was to make it has other work.
    Busy(String),
}

/// What the ledger has of a stripe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::coordinator) struct Entry {
    /// How it stands.
    pub(in crate::coordinator) state: LedgerState,
    /// Tries that failed in a row.
    pub(in crate::coordinator) attempts: u32,
    /// When it was last tried.
    pub(in crate::coordinator) tried_ms: Option<u64>,
    /// It is not tried before.
    pub(in crate::coordinator) due_ms: u64,
    /// Why the last try failed.
    pub(in crate::coordinator) why: Option<String>,
}

impl Entry {
    /// The entry after a try that ended now.
    pub(in crate::coordinator) fn tried(attempts: u32, ended: Ended, now_ms: u64) -> Self {
        let failed = attempts.saturating_add(1);
        let later = now_ms.saturating_add(backoff_ms(failed));
        let (state, attempts, due_ms, why) = match ended {
            Ended::Whole => (LedgerState::Repaired, 0, 0, None),
            Ended::Changed if failed <= CHANGES_MAX => (LedgerState::Waiting, failed, now_ms, None),
            Ended::Changed => (LedgerState::Waiting, failed, later, None),
            Ended::Short(why) => (LedgerState::Failed, failed, later, Some(why)),
            Ended::Busy(why) => {
                (LedgerState::Unknown, attempts, now_ms.saturating_add(BUSY_MS), Some(why))
            }
            Ended::Unknown(why) => (LedgerState::Unknown, failed, later, Some(why)),
            Ended::TargetFailed(why) => {
                let due_ms = if failed <= CHANGES_MAX { now_ms } else { later };
                (LedgerState::Unknown, failed, due_ms, Some(why))
            }
        };
        Self { state, attempts, tried_ms: Some(now_ms), due_ms, why }
    }
}

/// The pause after so many tries that failed in a row: 60 s, doubled each time, 64 min at most.
fn backoff_ms(attempts: u32) -> u64 {
    let doubled = 1u64.checked_shl(attempts.saturating_sub(1)).unwrap_or(u64::MAX);
    BACKOFF_MS.saturating_mul(doubled).min(BACKOFF_MS_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stripe_that_fails_backs_off_from_a_minute_to_64() {
        let mut now_ms = 1000;
        let mut pauses = Vec::new();
        let mut attempts = 0;
        for _ in 0..9 {
            let entry = Entry::tried(attempts, Ended::Short("no".into()), now_ms);
            pauses.push((entry.due_ms - now_ms) / 60_000);
            (attempts, now_ms) = (entry.attempts, entry.due_ms);
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 64, 64, 64]);
        assert_eq!(backoff_ms(u32::MAX), BACKOFF_MS_MAX);
        let whole = Entry::tried(attempts, Ended::Whole, now_ms);
        assert_eq!((whole.state, whole.attempts), (LedgerState::Repaired, 0));
    }

    #[test]
    fn a_stripe_that_changes_all_the_time_backs_off_too() {
        let due = |attempts| Entry::tried(attempts, Ended::Changed, 5).due_ms;
        assert_eq!([0, 1, 2].map(due), [5; 3]);
        assert_eq!(due(3), 5 + 8 * 60_000);
        assert_eq!(Entry::tried(3, Ended::Unknown("x".into()), 5).due_ms, 5 + 8 * 60_000);
    }

    #[test]
    fn a_server_that_is_busy_makes_no_stripe_back_off() {
        for attempts in [0, 9] {
            let tried = Entry::tried(attempts, Ended::Busy("busy".into()), 5);
            assert_eq!((tried.attempts, tried.due_ms), (attempts, 5 + BUSY_MS));
        }
    }

    #[test]
    fn another_server_is_asked_at_once_where_one_failed_but_not_for_ever() {
        let tried = |attempts| Entry::tried(attempts, Ended::TargetFailed("gone".into()), 5);
        assert_eq!([0, 1, 2].map(|n| tried(n).due_ms), [5; 3]);
        assert_eq!(tried(3).due_ms, 5 + 8 * 60_000);
        assert_eq!((tried(0).state, tried(0).why), (LedgerState::Unknown, Some("gone".into())));
    }
}

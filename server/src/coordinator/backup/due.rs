//! When the next backup is due.

/// After a start, and where nothing had changed, it is looked again this much later.
const LOOK_MS: u64 = 10 * 60_000;
/// The pause after a failure; doubled with each.
const RETRY_MS: u64 = 60_000;
const RETRY_MS_MAX: u64 = 3_600_000;

/// What is known of the past.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Past {
    /// When the coordinator started.
    pub(super) started_ms: u64,
    /// When the last backup was made.
    pub(super) made_ms: Option<u64>,
    /// When it last turned out that there was nothing to do.
    pub(super) looked_ms: Option<u64>,
    /// How many tries failed in a row, and when the last one did.
    pub(super) failed: Option<(u32, u64)>,
}

impl Past {
    /// When the next one is due; none, if they are made on request only.
    pub(super) fn due_ms(&self, every_ms: u64) -> Option<u64> {
        if every_ms == 0 {
            return None;
        }
        let look_ms = LOOK_MS.min(every_ms);
        if let Some((tries, at_ms)) = self.failed {
            let pause_ms = RETRY_MS << (tries.saturating_sub(1)).min(10);
            return Some(at_ms.saturating_add(pause_ms.min(RETRY_MS_MAX).min(every_ms)));
        }
        let made_ms = self.made_ms.map_or(0, |ms| ms.saturating_add(every_ms));
        let looked_ms = self.looked_ms.map_or(0, |ms| ms.saturating_add(look_ms));
        Some(made_ms.max(looked_ms).max(self.started_ms.saturating_add(look_ms)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 86_400_000;

    #[test]
    fn the_first_comes_soon_after_the_start_and_each_a_day_after_the_last() {
        let past = Past { started_ms: 1000, ..Past::default() };
        assert_eq!(past.due_ms(DAY), Some(1000 + LOOK_MS));
        assert_eq!(past.due_ms(50), Some(1050));
        assert_eq!(past.due_ms(0), None);
        let past = Past { made_ms: Some(500), ..past };
        assert_eq!(past.due_ms(DAY), Some(500 + DAY));
        let restarted = Past { started_ms: 10 * DAY, ..past };
        assert_eq!(restarted.due_ms(DAY), Some(10 * DAY + LOOK_MS));
    }

    #[test]
    fn where_nothing_had_changed_it_is_looked_again_later() {
        let past = Past { made_ms: Some(DAY), looked_ms: Some(2 * DAY), ..Past::default() };
        assert_eq!(past.due_ms(DAY), Some(2 * DAY + LOOK_MS));
    }

    #[test]
    fn failures_back_off_and_never_beyond_the_schedule() {
        let after = |tries| Past { failed: Some((tries, DAY)), ..Past::default() };
        let pause = |tries, every| after(tries).due_ms(every).unwrap() - DAY;
        assert_eq!([1, 2, 3].map(|tries| pause(tries, DAY)), [60_000, 120_000, 240_000]);
        assert_eq!([7, 99, u32::MAX].map(|tries| pause(tries, DAY)), [RETRY_MS_MAX; 3]);
        assert_eq!(pause(5, 1000), 1000);
    }
}

//! When a server is compared again.

/// A comparison that found something, or failed, is not followed by another one for as long as it
/// took, but for this time at most.
const REST_MS_MAX: u64 = 60_000;

/// What a probe said.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen {
    /// Whether it is back after it was down.
    pub(super) returned: bool,
    /// Rises when it finds or mends something, and with its starts.
    pub(super) findings: u64,
}

/// How a server is asked what it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    /// As it remembers.
    Remembered,
    /// By what lies in its folders now: somebody else may have taken something away.
    Anew,
}

/// What is known of a server's comparisons.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Past {
    pub(super) running: bool,
    began_ms: u64,
    /// When the last one ended, whole or not.
    pub(super) ended_ms: Option<u64>,
    /// When the last one began that got to its end.
    whole_ms: Option<u64>,
    /// The server's findings that were seen before that.
    findings: Option<u64>,
}

impl Past {
    /// Whether to compare it now, and how. Without `every_ms` only what it finds since it was first
    /// seen, and its return, are reasons.
    pub(super) fn due(&mut self, seen: Seen, now_ms: u64, every_ms: Option<u64>) -> Option<Look> {
        if every_ms.is_none() {
            self.findings.get_or_insert(seen.findings);
        }
        if self.running {
            return None;
        }
        if let Some(ended_ms) = self.ended_ms {
            let rest_ms = ended_ms.saturating_sub(self.began_ms).min(REST_MS_MAX);
            if now_ms < ended_ms.saturating_add(rest_ms) {
                return None;
            }
        }
        let is_old = |every_ms: u64| {
            self.whole_ms.is_none_or(|whole_ms| now_ms >= whole_ms.saturating_add(every_ms))
        };
        if seen.returned || every_ms.is_some_and(is_old) {
            return Some(Look::Anew);
        }
        (self.findings != Some(seen.findings)).then_some(Look::Remembered)
    }

    /// One begins.
    pub(super) fn begin(&mut self, now_ms: u64) {
        (self.running, self.began_ms) = (true, now_ms);
    }

    /// It ended; `findings` are those seen before it began.
    pub(super) fn end(&mut self, now_ms: u64, findings: Option<u64>, whole: bool) {
        (self.running, self.ended_ms) = (false, Some(now_ms));
        if whole {
            self.whole_ms = Some(self.began_ms);
            self.findings = findings.or(self.findings);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY_MS: u64 = 24 * 3600 * 1000;

    fn seen(findings: u64) -> Seen {
        Seen { returned: false, findings }
    }

    #[test]
    fn a_server_is_compared_first_daily_when_it_found_something_and_when_it_is_back() {
        let mut past = Past::default();
        let every = Some(DAY_MS);
        assert_eq!(past.due(seen(5), 1000, every), Some(Look::Anew));
        past.begin(1000);
        assert_eq!(past.due(seen(6), 1500, every), None, "one at a time");
        past.end(2000, Some(5), true);
        assert_eq!(past.due(seen(5), 9000, every), None);
        assert_eq!(past.due(seen(6), 9000, every), Some(Look::Remembered));
        let back = Seen { returned: true, ..seen(5) };
        assert_eq!(past.due(back, 9000, every), Some(Look::Anew));
        assert_eq!(past.due(seen(5), 1000 + DAY_MS, every), Some(Look::Anew));
        // As long as it took, it rests.
        assert_eq!(past.due(seen(6), 2999, every), None);
        assert_eq!(past.due(seen(6), 3000, every), Some(Look::Remembered));
    }

    #[test]
    fn one_that_failed_is_tried_again() {
        let mut past = Past::default();
        past.begin(1000);
        past.end(1_000_000, Some(5), false);
        let every = Some(DAY_MS);
        assert_eq!(past.due(seen(5), 1_000_000 + REST_MS_MAX - 1, every), None);
        assert_eq!(past.due(seen(5), 1_000_000 + REST_MS_MAX, every), Some(Look::Anew));
    }

    #[test]
    fn where_none_begins_by_itself_what_is_found_later_begins_one() {
        let mut past = Past::default();
        assert_eq!(past.due(seen(5), 1000, None), None);
        assert_eq!(past.due(seen(5), u64::MAX, None), None);
        assert_eq!(past.due(seen(6), 1000, None), Some(Look::Remembered));
        let back = Seen { returned: true, ..seen(5) };
        assert_eq!(past.due(back, 1000, None), Some(Look::Anew));
    }
}

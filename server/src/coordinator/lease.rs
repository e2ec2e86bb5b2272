//! When a lease is open, over, or may be renewed: pure rules.

/// A lease as the catalog has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Terms {
    /// When it ends unless it is renewed.
    pub(super) expires_ms: u64,
    /// Ended for good: by its push, or because its left-overs were trashed.
    pub(super) closed: bool,
}

impl Terms {
    /// Whether commits are taken under it.
    pub(super) fn is_open(self, now_ms: u64) -> bool {
        !self.closed && now_ms < self.expires_ms
    }

    /// Its end after a renewal, if it may still be renewed. It never ends sooner than before.
    pub(super) fn renewed(self, now_ms: u64, term_ms: u64) -> Option<u64> {
        (!self.closed).then(|| self.expires_ms.max(now_ms.saturating_add(term_ms)))
    }

    /// Its end after a restart. One that was open when the coordinator stopped is given back
    /// the time that it was away, which makes no more than a full term from now; or it ends
    /// now, if no push `outlives` the coordinator.
    pub(super) fn after_restart(self, stopped_ms: u64, now_ms: u64, outlives: bool) -> u64 {
        match (self.is_open(stopped_ms), outlives) {
            (true, true) => self.expires_ms.saturating_add(now_ms.saturating_sub(stopped_ms)),
            (true, false) => self.expires_ms.min(now_ms),
            (false, _) => self.expires_ms,
        }
    }

    /// When a ticket given now ends: never after the lease.
    pub(super) fn ticket_end(self, now_ms: u64, ticket_ms: u64) -> u64 {
        self.expires_ms.min(now_ms.saturating_add(ticket_ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPEN: Terms = Terms { expires_ms: 100, closed: false };
    const CLOSED: Terms = Terms { expires_ms: 100, closed: true };

    #[test]
    fn a_lease_is_open_until_its_end_or_its_close() {
        assert!(OPEN.is_open(99));
        assert!(!OPEN.is_open(100));
        assert!(!CLOSED.is_open(0));
    }

    #[test]
    fn one_that_ran_out_can_be_renewed_and_a_closed_one_cannot() {
        assert_eq!(OPEN.renewed(500, 50), Some(550));
        assert_eq!(OPEN.renewed(10, 50), Some(100), "never sooner than before");
        assert_eq!(CLOSED.renewed(10, 50), None);
    }

    #[test]
    fn a_restart_gives_back_the_time_away_to_what_was_open() {
        assert_eq!(OPEN.after_restart(70, 5000, true), 5030);
        assert_eq!(OPEN.after_restart(70, 70, true), 100);
        assert_eq!(OPEN.after_restart(100, 5000, true), 100);
        assert_eq!(CLOSED.after_restart(0, 5000, true), 100);
    }

    #[test]
    fn where_no_push_outlives_the_coordinator_a_restart_ends_its_lease() {
        assert!(!Terms { expires_ms: OPEN.after_restart(70, 80, false), ..OPEN }.is_open(80));
        assert_eq!(OPEN.after_restart(100, 5000, false), 100);
    }

    #[test]
    fn a_ticket_ends_before_its_lease() {
        assert_eq!(OPEN.ticket_end(10, 50), 60);
        assert_eq!(OPEN.ticket_end(90, 50), 100);
    }
}

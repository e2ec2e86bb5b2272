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

    /// Its end after a restart: the full term again if it was open when the coordinator stopped.
    pub(super) fn after_restart(self, stopped_ms: u64, now_ms: u64, term_ms: u64) -> u64 {
        if self.is_open(stopped_ms) {
            self.expires_ms.max(now_ms.saturating_add(term_ms))
        } else {
            self.expires_ms
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
    fn a_restart_gives_the_full_term_to_what_was_open() {
        assert_eq!(OPEN.after_restart(99, 5000, 50), 5050);
        assert_eq!(OPEN.after_restart(100, 5000, 50), 100);
        assert_eq!(CLOSED.after_restart(0, 5000, 50), 100);
    }

    #[test]
    fn a_ticket_ends_before_its_lease() {
        assert_eq!(OPEN.ticket_end(10, 50), 60);
        assert_eq!(OPEN.ticket_end(90, 50), 100);
    }
}

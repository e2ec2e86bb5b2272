//! Prolongs a push's lease for as long as the push runs.

use std::time::Duration;

use server::client::CoordinatorClient;
use server::wire::{Lease, LeaseId, Renewed};
use tokio::task::AbortHandle;

/// A lease is renewed no more often than this,
const PAUSE_MIN: Duration = Duration::from_millis(200);
/// and after a failure no later.
const RETRY_PAUSE: Duration = Duration::from_secs(30);

/// Renews until it is dropped.
pub struct Renewal(AbortHandle);

impl Renewal {
    /// Begins with `lease` as it was given.
    pub fn start(coordinator: CoordinatorClient, lease: &Lease) -> Self {
        let Lease { lease, expires_ms, now_ms, .. } = *lease;
        let term = Renewed { expires_ms, now_ms };
        Self(tokio::spawn(renew(coordinator, lease, term)).abort_handle())
    }
}

impl Drop for Renewal {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn renew(coordinator: CoordinatorClient, lease: LeaseId, mut term: Renewed) {
    let mut failed = false;
    loop {
        tokio::time::sleep(pause(term, failed)).await;
        match coordinator.renew(lease).await {
            Ok(renewed) => (term, failed) = (renewed, false),
            // The next request under this lease says so to the person.
            Err(error) => {
                tracing::debug!(%error, "could not renew the lease");
                failed = true;
            }
        }
    }
}

/// Half of what the lease had left; after a failure soon again.
fn pause(term: Renewed, failed: bool) -> Duration {
    let half = Duration::from_millis(term.expires_ms.saturating_sub(term.now_ms)) / 2;
    let longest = if failed { RETRY_PAUSE } else { Duration::MAX };
    half.min(longest).max(PAUSE_MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_that_was_not_renewed_is_tried_again_soon_and_never_without_a_pause() {
        let day_ms = 24 * 3600 * 1000;
        let term = |expires_ms| Renewed { expires_ms, now_ms: 1000 };
        let day = term(1000 + day_ms);
        assert_eq!(pause(day, false), Duration::from_secs(12 * 3600));
        assert_eq!(pause(day, true), RETRY_PAUSE);
        assert_eq!(pause(term(0), true), PAUSE_MIN);
    }
}

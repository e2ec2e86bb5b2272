//! The pace of one rebuild: the server's, but for what is urgent.

use std::sync::Arc;
use std::time::Duration;

use crate::storage::throttle::Throttle;
use crate::wire::Work;

/// Moving as much as the pack is long takes no longer: the coordinator waits three times that.
const LONGEST: Duration = Duration::from_secs(4 * 60);

pub(super) struct Pace {
    throttle: Arc<Throttle>,
    work: Work,
    pack_bytes: u64,
}

impl Pace {
    pub(super) fn new(throttle: &Arc<Throttle>, work: Work, pack_bytes: u64) -> Self {
        Self { throttle: Arc::clone(throttle), work, pack_bytes }
    }

    /// Waits until `bytes` may be read or written.
    pub(super) async fn take(&self, bytes: u64) {
        let share = bytes as f64 / self.pack_bytes.max(1) as f64;
        self.throttle.work(self.work, bytes, LONGEST.mul_f64(share.min(1.0))).await;
    }

    /// Whether nothing is waited for just now.
    pub(super) fn is_free(&self) -> bool {
        self.work == Work::Urgent || self.throttle.is_free()
    }
}

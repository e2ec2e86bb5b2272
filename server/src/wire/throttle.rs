//! How fast a storage server does work in the background: scrub, rebuilds, audits.

use serde::{Deserialize, Serialize};

/// Header of requests to storage servers that are work in the background. Those without it are
/// somebody's who waits, and such work gives way to them.
pub const WORK_HEADER: &str = "arc-work";

/// The slowest pace: below it the other side of a PUT would take it for dead.
pub const BACKGROUND_BYTES_PER_SECOND_MIN: u64 = 64 * 1024;

/// Whose work a request is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Work {
    /// Somebody waits for it.
    #[default]
    Client,
    /// It goes at the server's pace.
    Background,
    /// It has nothing to spare, and goes at full speed.
    Urgent,
}

impl Work {
    /// What stands in [`WORK_HEADER`]; nothing for a client's.
    pub fn header(self) -> Option<&'static str> {
        match self {
            Self::Client => None,
            Self::Background => Some("background"),
            Self::Urgent => Some("urgent"),
        }
    }

    /// By what stands in the header; what is not known is a client's.
    pub fn of_header(value: Option<&[u8]>) -> Self {
        match value {
            Some(b"background") => Self::Background,
            Some(b"urgent") => Self::Urgent,
            _ => Self::Client,
        }
    }
}

/// `PUT /v1/throttle` of a storage server, with a control ticket. It lasts until the next start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetThrottle {
    /// Bytes that all work in the background reads and writes in a second; none: no limit.
    pub bytes_per_second: Option<u64>,
}

/// The answer to it, and to `GET /v1/throttle`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ThrottleStatus {
    /// The pace that is set.
    pub bytes_per_second: Option<u64>,
    /// Whether a share of it is left to requests of clients just now.
    pub yields: bool,
    /// Bytes that went at the pace since the start.
    pub paced_bytes: u64,
    /// Bytes of urgent work, which went past it.
    pub urgent_bytes: u64,
}

/// The pace of one server, in [`super::RepairStatus`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerPace {
    /// Its name.
    pub name: String,
    /// Whether it has taken what is set.
    pub taken: bool,
    /// Its share; none: no limit.
    pub bytes_per_second: Option<u64>,
}

//! The coordinator: the catalog and what decides by it.

use std::path::PathBuf;
use std::time::Duration;

use crate::Result;
use crate::auth::Token;
use crate::serve::{Listen, Running};

/// How a coordinator is set up.
#[derive(Debug, Clone)]
pub struct Config {
    /// Its folder: catalog.db, keys/, owner.token, join.token.
    pub data: PathBuf,
    /// Where it listens.
    pub listen: Listen,
    /// The URL that goes into tokens, when it is not the one it listens on.
    pub advertise: Option<String>,
    /// Timings.
    pub timings: Timings,
}

/// The coordinator's timings; the defaults are the design's.
#[derive(Debug, Clone)]
pub struct Timings {
    /// From one probe of a server to the next: 3 s.
    pub probe_every: Duration,
    /// How long a probe waits for its answer: 1 s.
    pub probe_timeout: Duration,
    /// Misses in a row that make a server suspect: 3.
    pub misses: u32,
    /// Good probes in a row that bring it back: 3.
    pub good: u32,
    /// Silence that makes a suspect server down: 120 s.
    pub down_after: Duration,
    /// How long a lease lasts: 24 h.
    pub lease: Duration,
    /// How long a ticket lasts: 15 min; never beyond its lease.
    pub ticket: Duration,
    /// How long requests under way may take to finish when it stops.
    pub drain: Duration,
}

impl Default for Timings {
    fn default() -> Self {
        Self {
            probe_every: Duration::from_secs(3),
            probe_timeout: Duration::from_secs(1),
            misses: 3,
            good: 3,
            down_after: Duration::from_secs(120),
            lease: Duration::from_secs(24 * 3600),
            ticket: Duration::from_secs(15 * 60),
            drain: Duration::from_secs(30),
        }
    }
}

/// A running coordinator.
pub struct Coordinator {
    /// Its HTTP service.
    pub running: Running,
    /// What a client needs.
    pub owner: Token,
    /// What a joining server needs.
    pub join: Token,
}

/// Starts the coordinator: opens (or makes) its folder, takes its lock, raises the epoch, listens, probes.
pub async fn start(_config: Config) -> Result<Coordinator> {
    todo!()
}

impl Coordinator {
    /// Stops probing and serving, and closes the catalog.
    pub async fn stop(self) {
        todo!()
    }
}

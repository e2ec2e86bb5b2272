//! What happened, as the coordinator keeps it.

use codec::StripeId;
use serde::{Deserialize, Serialize};

/// One row of `GET /v1/events`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Its number: later ones are higher.
    pub number: u64,
    /// When it happened, the last time if it did so several times.
    pub at_ms: u64,
    /// The stable name of its kind, as in `suspect` or `repair-failed`.
    pub kind: String,
    /// The name that the server had then, if it is about one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    /// The stripe, if it is about one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stripe: Option<StripeId>,
    /// What it was, for a person.
    pub text: String,
    /// How often it happened within a minute.
    pub times: u32,
}

/// `GET /v1/events?…`, with the owner token: which of them, the oldest first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventsQuery {
    /// Only those after this number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<u64>,
    /// Only those of so many milliseconds before now, by the coordinator's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub within_ms: Option<u64>,
    /// Only those about the server of this name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    /// Rows wanted, at most [`super::PAGE_ROWS_MAX`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// Whether, of more than these, the newest are wanted rather than the oldest.
    #[serde(default)]
    pub newest: bool,
}

/// The answer to it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Events {
    /// The events asked for, the oldest first.
    pub rows: Vec<Event>,
    /// Where the next page begins: all up to this number were looked at. Lower than what was asked
    /// for where the catalog is an older copy.
    pub seen: u64,
    /// Whether there are more.
    pub more: bool,
}

//! The services of arc and their typed client.
//!
//! `wire` has every type that crosses HTTP, `auth` who may ask for what,
//! `client` how either service is asked, with timeouts and retries, `storage`
//! one server on one disk, `coordinator` the catalog and what decides by it,
//! `tls` who either of them is, `fail_point` where either can be made to end.
//! Shard bytes flow between clients and servers, never through the coordinator, its own backups
//! excepted.

pub mod auth;
pub mod client;
pub mod coordinator;
pub mod cpu;
pub mod error;
pub mod fail_point;
pub mod serve;
pub mod storage;
pub mod tls;
pub mod wire;

pub use error::{Error, Result};

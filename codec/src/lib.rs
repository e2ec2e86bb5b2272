//! The bytes of arc: chunks, frames, packs, stripes, shards, manifests.
//!
//! Everything here is pure: no I/O, no clock, no randomness and no threads of
//! its own. Time, random bytes and keys come in as arguments; `docs/FORMAT.md`
//! has the layouts. Whatever comes from outside is bounded before it is used,
//! and holding a parsed value means that its hashes were checked.

pub mod backup;
pub mod chunker;
pub mod digest;
pub mod erasure;
pub mod error;
pub mod fact;
pub mod frame;
pub mod geometry;
pub mod keys;
pub mod manifest;
pub mod pack;
pub mod seal;
pub mod shard;
pub mod snapshot;
pub mod stripe;

pub use digest::{ChunkId, Digest, Root, StripeId, VaultId};
pub use error::{Error, Result};
pub use geometry::Geometry;

/// The version of every format in this crate. Until 0.1 is tagged it is 0 and
/// the golden files may be regenerated.
pub const FORMAT_VERSION: u16 = 0;

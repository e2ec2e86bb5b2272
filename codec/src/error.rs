//! What can be wrong with bytes.

/// The result of every fallible function of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why bytes were refused. The variants are what a caller branches on; the
/// fields are for the person who reads the message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A hash, a tag, a length or a structure does not hold.
    #[error("{what} is damaged: {why}")]
    Damaged {
        /// The structure, as in docs/FORMAT.md.
        what: &'static str,
        /// What was found, with the numbers.
        why: String,
    },
    /// Written by a newer arc.
    #[error("{what} has format version {found}, this build reads up to {known}")]
    Version {
        /// The structure.
        what: &'static str,
        /// The version in the bytes.
        found: u16,
        /// The newest version this build reads.
        known: u16,
    },
    /// A count or length from outside is larger than the format allows.
    #[error("{what} is {actual}, the format allows at most {limit}")]
    Bound {
        /// The count or length.
        what: &'static str,
        /// Its value.
        actual: u64,
        /// The bound.
        limit: u64,
    },
    /// A key or passphrase does not open it.
    #[error("the key does not open {what}")]
    Key {
        /// What stayed closed.
        what: &'static str,
    },
    /// A pack that anybody could have made, where only those with the vault's keys may.
    #[error("it was sealed by somebody without the vault's key")]
    Foreign,
    /// Fewer than k good shards.
    #[error("{good} good shards, {needed} are needed")]
    TooFewShards {
        /// Shards at hand.
        good: usize,
        /// k.
        needed: usize,
    },
    /// Not a usable code such as 4+2.
    #[error("not a usable code: {0}")]
    Geometry(String),
}

impl Error {
    /// Shorthand for [`Error::Damaged`].
    pub fn damaged(what: &'static str, why: impl Into<String>) -> Self {
        Self::Damaged { what, why: why.into() }
    }
}

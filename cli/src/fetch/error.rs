//! Why reading failed.

use std::sync::Arc;

use crate::exit::{Exit, Failure};

/// Why chunks could not be read.
#[derive(Debug, Clone, thiserror::Error)]
pub enum FetchError {
    /// More than m shards of a stripe are known to be missing or damaged, or no stripe is known to hold the chunk.
    #[error("{0}")]
    Lost(String),
    /// Too few servers answer; what they hold may be whole.
    #[error("{0}")]
    TooFewServers(String),
    /// The coordinator.
    #[error("{0}")]
    Coordinator(Arc<server::Error>),
}

impl FetchError {
    /// What to say of a chunk when one of its places failed with this and another with `other`:
    /// it is lost only where all are.
    pub fn or(self, other: Self) -> Self {
        if matches!(self, Self::Lost(_)) { other } else { self }
    }
}

impl From<server::Error> for FetchError {
    fn from(error: server::Error) -> Self {
        Self::Coordinator(Arc::new(error))
    }
}

impl From<FetchError> for Failure {
    fn from(error: FetchError) -> Self {
        let what = error.to_string();
        match error {
            FetchError::Lost(_) => Self::new(Exit::Lost, what),
            FetchError::TooFewServers(_) => {
                Self::new(Exit::TooFewServers, what).next("arc servers    which servers are down")
            }
            FetchError::Coordinator(error) => Self::from(&*error),
        }
    }
}

/// The result of reading.
pub type Result<T, E = FetchError> = std::result::Result<T, E>;

#[cfg(test)]
mod tests {
    use server::wire::Code;

    use super::*;

    #[test]
    fn an_error_that_several_chunks_met_keeps_its_exit_code() {
        let error = FetchError::from(server::Error::refuse(Code::Unauthorized, "no"));
        for error in [error.clone(), error] {
            assert_eq!(Failure::from(error).code, Exit::WrongKey);
        }
    }
}

//! What can go wrong in a service or in talking to one.

use std::io::ErrorKind;
use std::path::PathBuf;

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

use crate::wire::{Code, Refusal, ServerId};

/// The result of every fallible function of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failure, told to the one who can act on it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A service said no; the refusal has a stable code.
    #[error("{service}: {refusal}")]
    Refused {
        /// Which service, as a person knows it: a server's name or `coordinator`, with its URL.
        service: String,
        /// What it said.
        refusal: Refusal,
    },
    /// No answer: not listening, cut off, or silent for longer than the bound.
    #[error("{service} does not answer: {why}")]
    Unreachable {
        /// Which service.
        service: String,
        /// What happened.
        why: String,
    },
    /// Somebody else than it should be, or who cannot show otherwise; nothing was sent there.
    #[error("{service} is not trusted: {why}")]
    Untrusted {
        /// Which service.
        service: String,
        /// What it lacks.
        why: String,
    },
    /// An answer that no sound service gives.
    #[error("{service} answered nonsense: {why}")]
    Nonsense {
        /// Which service.
        service: String,
        /// What was wrong with it.
        why: String,
    },
    /// A file or folder.
    #[error("{doing} {}: {source}", path.display())]
    Io {
        /// What was tried, as in "cannot write".
        doing: &'static str,
        /// On which path.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The catalog's database.
    #[error("catalog: {0}")]
    Catalog(#[from] rusqlite::Error),
    /// Bytes that do not hold.
    #[error(transparent)]
    Codec(#[from] codec::Error),
    /// A request that cannot be granted as things stand.
    #[error("{0}")]
    Refuse(Refusal),
    /// A setting or a state on disk with which a service cannot start.
    #[error("{0}")]
    Config(String),
}

impl Error {
    /// Refuses a request with `code` and a message for a person.
    pub fn refuse(code: Code, message: impl Into<String>) -> Self {
        Self::Refuse(Refusal::new(code, message))
    }

    /// For `map_err` on file operations.
    pub fn io(
        doing: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { doing, path, source }
    }

    /// The stable code, where a service gave one.
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::Refused { refusal, .. } | Self::Refuse(refusal) => Some(refusal.code),
            _ => None,
        }
    }

    /// Whether the same request may be granted a little later: nobody answered, or not yet.
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Unreachable { .. })
            || matches!(self.code(), Some(Code::Busy | Code::NotReady))
    }

    /// The storage server that a service blames, where it does.
    pub fn blamed(&self) -> Option<ServerId> {
        match self {
            Self::Refused { refusal, .. } | Self::Refuse(refusal) => refusal.server,
            _ => None,
        }
    }

    /// What a service answers for this error. Inner texts of unforeseen errors go to the log only.
    pub fn into_refusal(self) -> Refusal {
        match self {
            Self::Refuse(refusal) => refusal,
            Self::Codec(error) => Refusal::new(Code::Damaged, error.to_string()),
            Self::Io { source, .. }
                if matches!(source.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded) =>
            {
                Refusal::new(Code::NoSpace, "the disk is full")
            }
            Self::Catalog(error)
                if error.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull) =>
            {
                Refusal::new(Code::NoSpace, "the coordinator's disk is full")
            }
            other => {
                tracing::error!(error = %other, "request failed");
                Refusal::new(Code::Internal, "internal error, see the service's log")
            }
        }
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        self.into_refusal().into_response()
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status =
            StatusCode::from_u16(self.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, Json(self)).into_response()
    }
}

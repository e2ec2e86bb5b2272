//! The typed client of both services: timeouts and retries live here only.

/// A coordinator, spoken to with one token.
#[derive(Clone)]
pub struct CoordinatorClient {}

/// The storage servers, spoken to with tickets.
#[derive(Clone)]
pub struct StorageClient {}

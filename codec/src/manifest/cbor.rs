//! CBOR items read from and written to the front of a buffer.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{Error, Result};

/// The records of this crate nest 6 deep.
const DEPTH_MAX: usize = 16;

/// Appends one item.
pub(crate) fn write<T: Serialize>(what: &'static str, value: &T, out: &mut Vec<u8>) -> Result<()> {
    ciborium::into_writer(value, out).map_err(|e| Error::damaged(what, e.to_string()))
}

/// Takes one item off the front. What it allocates is bounded by the bytes that are there.
pub(crate) fn read<T: DeserializeOwned>(what: &'static str, bytes: &mut &[u8]) -> Result<T> {
    ciborium::de::from_reader_with_recursion_limit(bytes, DEPTH_MAX)
        .map_err(|e| Error::damaged(what, e.to_string()))
}

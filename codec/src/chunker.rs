//! Content-defined cutting of plaintext: FastCDC v2020, seeded by the vault's key.

/// No chunk of a longer file is shorter, except its last.
pub const CHUNK_BYTES_MIN: usize = 256 * 1024;
/// The usual length of a chunk.
pub const CHUNK_BYTES_AVG: usize = 1024 * 1024;
/// No chunk is longer.
pub const CHUNK_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Finds where chunks end.
pub struct Chunker {}

impl Chunker {
    /// A chunker with the vault's seed.
    pub fn new(_seed: u64) -> Self {
        todo!()
    }

    /// Length of the first chunk of `bytes`, which hold at least
    /// [`CHUNK_BYTES_MAX`] bytes or all that is left of the file. Not 0 unless `bytes` is empty.
    pub fn cut(&self, _bytes: &[u8]) -> usize {
        todo!()
    }
}

//! Reed-Solomon over GF(2^8), field polynomial 0x11D, behind three functions.
//!
//! The matrix is reed-solomon-erasure's (Vandermonde times the inverse of its
//! top square); for k = 1 it is all ones, so 1+m is copies. The code neither
//! notices nor corrects wrong bytes: **only verified bytes may come in here**.

use crate::{Geometry, Result};

/// The coder of one geometry; building it inverts a k by k matrix.
pub struct Code {
    _geometry: Geometry,
}

impl Code {
    /// The coder of `geometry`.
    pub fn new(_geometry: Geometry) -> Self {
        todo!()
    }

    /// Fills the m `parity` bodies from the k `data` bodies, all of one length.
    pub fn encode(&self, _data: &[&[u8]], _parity: &mut [&mut [u8]]) -> Result<()> {
        todo!()
    }

    /// Fills the missing data bodies (index < k) of `bodies`, which has n places.
    pub fn decode(&self, _bodies: &mut [Option<Vec<u8>>]) -> Result<()> {
        todo!()
    }

    /// Fills all missing bodies, data and parity.
    pub fn rebuild(&self, _bodies: &mut [Option<Vec<u8>>]) -> Result<()> {
        todo!()
    }
}

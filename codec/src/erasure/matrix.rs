//! The coefficients of a code. They are reed-solomon-erasure's by construction: what a linear
//! function does to the k unit vectors is its matrix, so the crate is asked to code those.

use reed_solomon_erasure::galois_8::ReedSolomon;

use crate::Geometry;

/// Rows of coefficients, one for each body that is made, with k of them in each.
pub(super) type Rows = Vec<Vec<u8>>;

/// The matrix of one geometry.
#[derive(Debug)]
pub(super) struct Matrix {
    geometry: Geometry,
    crates: ReedSolomon,
    parity: Rows,
}

impl Matrix {
    /// Costs a k by k inversion.
    // A Geometry has 1 <= k, 1 <= m and k + m <= 255, which is all that the crate asks for; k
    // vectors of k bytes and m of k bytes are what it then encodes.
    #[allow(clippy::expect_used)]
    pub(super) fn new(geometry: Geometry) -> Self {
        let k = geometry.data();
        let crates = ReedSolomon::new(k, geometry.parity()).expect("k and m are bounded");
        let units: Rows = (0..k).map(|position| unit(position, k)).collect();
        let mut parity = vec![vec![0; k]; geometry.parity()];
        crates.encode_sep(&units, &mut parity).expect("counts and lengths are the code's");
        Self { geometry, crates, parity }
    }

    pub(super) fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// What makes the m parity bodies from the k data bodies.
    pub(super) fn parity(&self) -> &Rows {
        &self.parity
    }

    /// What makes the bodies `wanted` from the k bodies `present`, in this order; both are indexes
    /// in ascending order, without one in common. `None` when these are not k indexes of the code.
    pub(super) fn rows(&self, present: &[usize], wanted: &[usize]) -> Option<Rows> {
        let k = self.geometry.data();
        let mut units = vec![None; self.geometry.shards()];
        for (position, &index) in present.iter().enumerate() {
            *units.get_mut(index)? = Some(unit(position, k));
        }
        let filled = match wanted.last() {
            Some(&last) if last < k => self.crates.reconstruct_data(&mut units),
            _ => self.crates.reconstruct(&mut units),
        };
        filled.ok()?;
        wanted.iter().map(|&index| units.get_mut(index)?.take()).collect()
    }
}

fn unit(position: usize, k: usize) -> Vec<u8> {
    (0..k).map(|at| u8::from(at == position)).collect()
}

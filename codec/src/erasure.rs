//! Reed-Solomon over GF(2^8), field polynomial 0x11D, behind three functions.
//!
//! The matrix is reed-solomon-erasure's (Vandermonde times the inverse of its
//! top square); for k = 1 it is all ones, so 1+m is copied and not multiplied. The code
//! neither notices nor corrects wrong bytes: **only verified bytes may come in here**.

use std::sync::{Arc, Mutex, PoisonError};

use rayon::prelude::*;

use self::matrix::{Matrix, Rows};
use crate::digest::BLOCK_BYTES;
use crate::{Error, Geometry, Result};

mod kernel;
mod matrix;

pub use kernel::Level;

/// Matrices kept for later stripes: a vault needs two, one of 200+55 takes 60 KB.
const MATRICES_KEPT: usize = 4;
static MATRICES: Mutex<Vec<Arc<Matrix>>> = Mutex::new(Vec::new());

/// Bytes of a body that are there or were made: `Vec<u8>`, or what shares them.
pub trait Body: AsRef<[u8]> + From<Vec<u8>> {}

impl<B: AsRef<[u8]> + From<Vec<u8>>> Body for B {}

/// The coder of one geometry. Its matrix costs a k by k inversion and is kept for the next one.
#[derive(Debug, Clone)]
pub struct Code {
    geometry: Geometry,
    matrix: Arc<Matrix>,
    level: Level,
}

impl Code {
    /// The coder of `geometry`, as fast as this processor can.
    pub fn new(geometry: Geometry) -> Self {
        Self::at_level(geometry, Level::best())
    }

    /// The coder of `geometry` at one level, for tests and measurements. It panics at a level that
    /// this processor has not got.
    pub fn at_level(geometry: Geometry, level: Level) -> Self {
        assert!(level.is_available(), "a level of this processor");
        Self { geometry, matrix: matrix_of(geometry), level }
    }

    /// Fills the m `parity` bodies from the k `data` bodies, all of one length.
    pub fn encode(&self, data: &[&[u8]], parity: &mut [&mut [u8]]) -> Result<()> {
        check_count("data bodies", data.len(), self.geometry.data())?;
        check_count("parity bodies", parity.len(), self.geometry.parity())?;
        let data_bytes = data.iter().map(|body| body.len());
        common_length(data_bytes.chain(parity.iter().map(|body| body.len())))?;

        match data {
            [only] => parity.iter_mut().for_each(|copy| copy.copy_from_slice(only)),
            _ => kernel::combine(self.level, self.matrix.parity(), data, parity),
        }
        Ok(())
    }

    /// Fills the missing data bodies (index < k) of `bodies`, which has n places.
    /// Runs on the current rayon pool, bodies of one block on the thread that calls; on an error
    /// nothing is filled.
    pub fn decode<B: Body>(&self, bodies: &mut [Option<B>]) -> Result<()> {
        self.fill(bodies, |index| index < self.geometry.data())
    }

    /// Fills all missing bodies, data and parity; else like [`Code::decode`].
    pub fn rebuild<B: Body>(&self, bodies: &mut [Option<B>]) -> Result<()> {
        self.fill(bodies, |_| true)
    }

    /// Fills what is missing of the bodies that are `wanted`, by index; else like [`Code::decode`].
    pub fn fill<B: Body>(
        &self,
        bodies: &mut [Option<B>],
        wanted: impl Fn(usize) -> bool,
    ) -> Result<()> {
        let needed = self.geometry.data();
        check_count("bodies", bodies.len(), self.geometry.shards())?;
        let (mut present, missing): (Vec<usize>, Vec<usize>) =
            (0..bodies.len()).partition(|&index| bodies[index].is_some());
        if present.len() < needed {
            return Err(Error::TooFewShards { good: present.len(), needed });
        }
        let body_bytes = common_length(bodies.iter().flatten().map(|b| b.as_ref().len()))?;
        present.truncate(needed);
        let missing: Vec<usize> = missing.into_iter().filter(|&index| wanted(index)).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let inputs: Vec<&[u8]> = bodies.iter().flatten().map(AsRef::as_ref).take(needed).collect();
        let filled = match inputs[..] {
            [only] => vec![only.to_vec(); missing.len()],
            _ => {
                let rows = self.matrix.rows(&present, &missing).ok_or_else(refused)?;
                self.multiply(&rows, &inputs, body_bytes)
            }
        };
        for (index, body) in missing.into_iter().zip(filled) {
            bodies[index] = Some(body.into());
        }
        Ok(())
    }

    /// The bodies that `rows` make of `inputs`.
    fn multiply(&self, rows: &Rows, inputs: &[&[u8]], body_bytes: usize) -> Vec<Vec<u8>> {
        let mut made = vec![vec![0; body_bytes]; rows.len()];
        columns(made.iter_mut().map(Vec::as_mut_slice), body_bytes)
            .into_par_iter()
            .enumerate()
            .for_each(|(number, mut outputs)| {
                let begin = number * BLOCK_BYTES;
                let end = body_bytes.min(begin + BLOCK_BYTES);
                let inputs: Vec<_> = inputs.iter().map(|body| &body[begin..end]).collect();
                kernel::combine(self.level, rows, &inputs, &mut outputs);
            });
        made
    }
}

/// The matrix of `geometry`, from those kept or made now.
fn matrix_of(geometry: Geometry) -> Arc<Matrix> {
    let mut kept = MATRICES.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(matrix) = kept.iter().find(|matrix| matrix.geometry() == geometry) {
        return matrix.clone();
    }
    let matrix = Arc::new(Matrix::new(geometry));
    kept.truncate(MATRICES_KEPT - 1);
    kept.insert(0, matrix.clone());
    matrix
}

/// Cuts bodies into columns, each with one block of every body: small enough for the
/// cache, and what the pool's threads share the work by.
pub(crate) fn columns<'a>(
    bodies: impl Iterator<Item = &'a mut [u8]>,
    body_bytes: usize,
) -> Vec<Vec<&'a mut [u8]>> {
    let mut cuts: Vec<_> = bodies.map(|body| body.chunks_mut(BLOCK_BYTES)).collect();
    let mut column = || cuts.iter_mut().map(|cut| cut.next().unwrap_or_default()).collect();
    (0..body_bytes.div_ceil(BLOCK_BYTES)).map(|_| column()).collect()
}

fn check_count(what: &str, actual: usize, expected: usize) -> Result<()> {
    if actual == expected {
        return Ok(());
    }
    Err(Error::damaged("stripe", format!("{actual} {what} where the code has {expected}")))
}

/// The one length that all bodies have.
fn common_length(mut lengths: impl Iterator<Item = usize>) -> Result<usize> {
    let first = lengths.next().unwrap_or_default();
    if first == 0 {
        return Err(Error::damaged("stripe", "a body has no bytes"));
    }
    match lengths.find(|&length| length != first) {
        None => Ok(first),
        Some(other) => {
            Err(Error::damaged("stripe", format!("bodies of {first} and of {other} bytes")))
        }
    }
}

/// For what the matrix itself refuses. Counts and lengths were checked before, so nothing is left
/// that it could refuse.
fn refused() -> Error {
    Error::damaged("stripe", "the code refused its bodies")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn code(k: u8, m: u8) -> Code {
        Code::new(Geometry::new(k, m).unwrap())
    }

    /// The n bodies of `data`.
    fn stripe(code: &Code, data: &[Vec<u8>]) -> Vec<Option<Vec<u8>>> {
        let mut parity = vec![vec![0xEE; data[0].len()]; code.geometry.parity()];
        let data_rows: Vec<&[u8]> = data.iter().map(Vec::as_slice).collect();
        let mut parity_rows: Vec<&mut [u8]> = parity.iter_mut().map(Vec::as_mut_slice).collect();
        code.encode(&data_rows, &mut parity_rows).unwrap();
        data.iter().cloned().chain(parity).map(Some).collect()
    }

    fn product(mut a: u8, mut b: u8) -> u8 {
        let mut sum = 0;
        while b != 0 {
            if b & 1 != 0 {
                sum ^= a;
            }
            a = (a << 1) ^ if a & 0x80 != 0 { 0x1D } else { 0 };
            b >>= 1;
        }
        sum
    }

    fn quotient(a: u8, b: u8) -> u8 {
        (0..=255).find(|&q| product(q, b) == a).unwrap()
    }

    /// docs/FORMAT.md in code: the polynomial of degree < k through (i, data[i]), at `x`.
    fn interpolated(data: &[u8], x: u8) -> u8 {
        let product_of_differences = |from: u8, i: usize| {
            let others = (0..data.len()).filter(|&j| j != i);
            others.fold(1, |all, j| product(all, from ^ j as u8))
        };
        data.iter().enumerate().fold(0, |sum, (i, &byte)| {
            let above = product_of_differences(x, i);
            let below = product_of_differences(i as u8, i);
            sum ^ product(byte, quotient(above, below))
        })
    }

    /// Bytes that no change of a dependency may alter: stripes of old depend on them.
    #[test]
    fn parity_of_a_known_stripe() {
        let data = [
            vec![1, 0, 0, 0, 0xDE, 0xFF, 0x00, 1],
            vec![0, 1, 0, 0, 0xAD, 0xFF, 0x80, 2],
            vec![0, 0, 1, 0, 0xBE, 0xFF, 0x1D, 3],
            vec![0, 0, 0, 1, 0xEF, 0xFF, 0x8E, 4],
        ];
        let bodies = stripe(&code(4, 2), &data);
        let parity = |index: usize| bodies[index].as_deref().unwrap();
        assert_eq!(parity(4), [0x1B, 0x1C, 0x12, 0x14, 0xAE, 0xFF, 0x5B, 0x45]);
        assert_eq!(parity(5), [0x1C, 0x1B, 0x14, 0x12, 0x11, 0xFF, 0xB1, 0x5E]);
    }

    #[test]
    fn parity_is_the_polynomial_of_the_format() {
        for (k, m) in [(1, 1), (2, 1), (4, 2), (10, 4), (16, 8), (200, 55)] {
            let data: Vec<Vec<u8>> =
                (0..k).map(|i: u8| vec![i.wrapping_mul(89) ^ 0x5A, i, 255 - i]).collect();
            let bodies = stripe(&code(k, m), &data);
            for index in [k, k + m - 1] {
                for x in 0..3 {
                    let column: Vec<u8> = data.iter().map(|body| body[x]).collect();
                    let expected = interpolated(&column, index);
                    assert_eq!(
                        bodies[index as usize].as_ref().unwrap()[x],
                        expected,
                        "{k}+{m} {index}"
                    );
                }
            }
        }
    }

    #[test]
    fn one_data_body_is_copied() {
        let (code, data) = (code(1, 3), b"the same everywhere".to_vec());
        let whole = stripe(&code, std::slice::from_ref(&data));
        assert_eq!(whole, vec![Some(data.clone()); 4]);
        for left in 0..4 {
            let mut bodies = vec![None; 4];
            bodies[left] = Some(data.clone());
            code.decode(&mut bodies).unwrap();
            assert_eq!(bodies[0], whole[0]);
            assert_eq!(bodies[1..].iter().flatten().count(), usize::from(left > 0));
            code.rebuild(&mut bodies).unwrap();
            assert_eq!(bodies, whole);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn up_to_m_losses_are_filled_and_one_more_is_refused(
            (k, m) in (1u8..20, 1u8..10),
            body_bytes in prop_oneof![1usize..200, (BLOCK_BYTES - 1)..(BLOCK_BYTES + 2)],
            order in Just((0..30usize).collect::<Vec<_>>()).prop_shuffle(),
            seed: u8,
        ) {
            let code = code(k, m);
            let n = (k + m) as usize;
            let data: Vec<Vec<u8>> = (0..k)
                .map(|i| (0..body_bytes).map(|x| (x * 7 + x / 256) as u8 ^ i.wrapping_mul(31) ^ seed).collect())
                .collect();
            let whole = stripe(&code, &data);
            let order: Vec<usize> = order.into_iter().filter(|&index| index < n).collect();

            for losses in 0..=m as usize {
                let mut bodies = whole.clone();
                order[..losses].iter().for_each(|&index| bodies[index] = None);
                let mut decoded = bodies.clone();
                code.decode(&mut decoded).unwrap();
                prop_assert_eq!(&decoded[..k as usize], &whole[..k as usize]);
                prop_assert_eq!(&decoded[k as usize..], &bodies[k as usize..]);
                code.rebuild(&mut bodies).unwrap();
                prop_assert_eq!(&bodies, &whole);
            }

            let mut bodies = whole.clone();
            order[..=m as usize].iter().for_each(|&index| bodies[index] = None);
            let left = bodies.clone();
            let too_few = Err(Error::TooFewShards { good: k as usize - 1, needed: k as usize });
            prop_assert_eq!(code.decode(&mut bodies), too_few.clone());
            prop_assert_eq!(code.rebuild(&mut bodies), too_few);
            prop_assert_eq!(bodies, left);
        }
    }

    #[test]
    fn wrong_counts_and_lengths_are_refused() {
        let code = code(2, 1);
        let damaged = |result: Result<()>| matches!(result, Err(Error::Damaged { .. }));
        let (a, b): (&[u8], &[u8]) = (&[1, 2], &[3, 4]);
        assert!(damaged(code.encode(&[a], &mut [&mut [0, 0]])));
        assert!(damaged(code.encode(&[a, b, a], &mut [&mut [0, 0]])));
        assert!(damaged(code.encode(&[a, b], &mut [])));
        assert!(damaged(code.encode(&[a, b], &mut [&mut [0]])));
        assert!(damaged(code.encode(&[a, &b[..1]], &mut [&mut [0, 0]])));
        assert!(damaged(code.encode(&[&[], &[]], &mut [&mut []])));
        assert!(damaged(code.decode(&mut [Some(vec![1]), None])));
        assert!(damaged(code.decode(&mut [Some(vec![1]), None, Some(vec![1, 2])])));
        assert!(damaged(code.rebuild(&mut [Some(vec![]), Some(vec![]), None])));
    }

    #[test]
    fn the_matrices_kept_are_few() {
        for m in 1..20 {
            assert_eq!(Code::new(Geometry::new(3, m).unwrap()).matrix.parity().len(), m as usize);
        }
        assert!(MATRICES.lock().unwrap().len() <= MATRICES_KEPT);
    }
}

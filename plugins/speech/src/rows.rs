//! One row at a time, in loops that the compiler turns into vector instructions.

use half::{f16, slice::HalfFloatSliceExt as _};
use rayon::prelude::*;

/// Numbers that a vector instruction works on at once, at most.
const LANES: usize = 16;
/// Rows of a matrix that one thread multiplies at a time.
const STRIDE: usize = 64;

/// A matrix in half precision, as the file has it, for one row at a time: what it costs is to read it.
#[derive(Debug, Clone)]
pub(crate) struct Matrix {
    pub(crate) columns: usize,
    pub(crate) numbers: Vec<f16>,
}

impl Matrix {
    /// The products of a row with each row of this matrix, a bias added where there is one.
    pub(crate) fn times(&self, row: &[f32], bias: Option<&[f32]>, out: &mut [f32]) {
        let columns = self.columns;
        let strips = self.numbers.par_chunks(STRIDE * columns).zip(out.par_chunks_mut(STRIDE));
        strips.for_each_init(
            || vec![0.0; columns],
            |wide, (strip, out)| {
                for (out, weights) in out.iter_mut().zip(strip.chunks_exact(columns)) {
                    weights.convert_to_f32_slice(wide);
                    *out = dot(wide, row);
                }
            },
        );
        if let Some(bias) = bias {
            for (out, bias) in out.iter_mut().zip(bias) {
                *out += bias;
            }
        }
    }

    /// One of its rows.
    pub(crate) fn row(&self, at: usize, out: &mut [f32]) {
        if let Some(row) = self.numbers.get(at * self.columns..(at + 1) * self.columns) {
            row.convert_to_f32_slice(out);
        }
    }
}

pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0_f32; LANES];
    let (a, a_rest) = a.as_chunks::<LANES>();
    let (b, b_rest) = b.as_chunks::<LANES>();
    for (a, b) in a.iter().zip(b) {
        for ((lane, a), b) in lanes.iter_mut().zip(a).zip(b) {
            *lane += a * b;
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    lanes.iter().sum::<f32>() + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_matrix_of_half_precision_multiplies_like_a_wide_one() {
        let numbers = (0..130 * 48_u16).map(|at| f16::from_f32(f32::from(at % 13) - 6.0)).collect();
        let matrix = Matrix { columns: 48, numbers };
        let row: Vec<f32> = (0..48_u8).map(|at| f32::from(at) * 0.25).collect();
        let bias = vec![1.0; 130];
        let mut out = vec![0.0; 130];
        matrix.times(&row, Some(&bias), &mut out);
        let mut wide = vec![0.0; 48];
        for (at, found) in out.iter().enumerate() {
            matrix.row(at, &mut wide);
            let expected: f32 = 1.0 + wide.iter().zip(&row).map(|(a, b)| a * b).sum::<f32>();
            assert!((found - expected).abs() < 1e-3, "{at}: {found}, not {expected}");
        }
    }
}

//! Rows of mean 0 and variance 1.

use pulp::{Simd, WithSimd};

/// The scale and shift of a norm.
#[derive(Debug, Clone)]
pub struct Norm {
    /// What each number is multiplied with.
    pub weight: Vec<f32>,
    /// What is added then.
    pub shift: Vec<f32>,
    /// Keeps from dividing by nothing.
    pub epsilon: f32,
}

/// Adds other rows, if there are, and norms the sums.
#[derive(Debug)]
pub struct AddNorm<'a> {
    /// Rows of the norm's width.
    pub rows: &'a mut [f32],
    /// As many, or none.
    pub with: &'a [f32],
    /// The norm.
    pub by: &'a Norm,
}

impl WithSimd for AddNorm<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let width = self.by.weight.len();
        let mut with = self.with.chunks_exact(width);
        for row in self.rows.chunks_exact_mut(width) {
            if let Some(with) = with.next() {
                row.iter_mut().zip(with).for_each(|(number, other)| *number += other);
            }
            normalise(simd, row, self.by);
        }
    }
}

#[inline(always)]
fn normalise<S: Simd>(simd: S, row: &mut [f32], by: &Norm) {
    #[expect(clippy::cast_precision_loss, reason = "a row has a few thousand numbers")]
    let count = row.len() as f32;
    let (vectors, rest) = S::as_simd_f32s(row);
    // In vectors: in order, a sum of floats cannot use them.
    let mut sum = simd.splat_f32s(0.0);
    for vector in vectors {
        sum = simd.add_f32s(sum, *vector);
    }
    let mean = (simd.reduce_sum_f32s(sum) + rest.iter().sum::<f32>()) / count;
    let middle = simd.splat_f32s(mean);
    let mut squares = simd.splat_f32s(0.0);
    for vector in vectors {
        let apart = simd.sub_f32s(*vector, middle);
        squares = simd.mul_add_e_f32s(apart, apart, squares);
    }
    let rest = rest.iter().map(|number| (number - mean) * (number - mean)).sum::<f32>();
    let variance = (simd.reduce_sum_f32s(squares) + rest) / count;
    let scale = 1.0 / (variance + by.epsilon).sqrt();
    for ((number, weight), shift) in row.iter_mut().zip(&by.weight).zip(&by.shift) {
        *number = (*number - mean) * scale * weight + shift;
    }
}

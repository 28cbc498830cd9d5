//! Rows of scores into rows of weights.

use pulp::{Simd, WithSimd};

use crate::exp::exp;

/// Makes the numbers of each row positive, and their sum 1. A score far below the largest of its row
/// gets next to nothing, not nothing.
#[derive(Debug)]
pub struct Softmax<'a> {
    /// The rows.
    pub values: &'a mut [f32],
    /// Numbers of a row, at least 1.
    pub width: usize,
}

impl WithSimd for Softmax<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        for row in self.values.chunks_exact_mut(self.width) {
            let (row, rest) = S::as_mut_simd_f32s(row);
            let mut most = simd.splat_f32s(f32::MIN);
            for score in &*row {
                most = simd.max_f32s(most, *score);
            }
            let most = rest.iter().copied().fold(simd.reduce_max_f32s(most), f32::max);
            let most = simd.splat_f32s(most);
            let mut sum = simd.splat_f32s(0.0);
            for score in &mut *row {
                *score = exp(simd, simd.sub_f32s(*score, most));
                sum = simd.add_f32s(sum, *score);
            }
            let last = exp(simd, simd.sub_f32s(simd.partial_load_f32s(rest), most));
            simd.partial_store_f32s(rest, last);
            let share = 1.0 / (simd.reduce_sum_f32s(sum) + rest.iter().sum::<f32>());
            for weight in rest {
                *weight *= share;
            }
            let share = simd.splat_f32s(share);
            for weight in row {
                *weight = simd.mul_f32s(*weight, share);
            }
        }
    }
}

//! Rows of scores into rows of weights.

use pulp::{Simd, WithSimd};

use crate::exp::exp;

/// Makes the numbers of each row positive, and their sum 1.
pub(crate) struct Softmax<'a> {
    pub(crate) values: &'a mut [f32],
    /// Numbers of a row: whole vectors.
    pub(crate) width: usize,
}

impl WithSimd for Softmax<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        for row in self.values.chunks_exact_mut(self.width) {
            let (row, _) = S::as_mut_simd_f32s(row);
            let mut most = simd.splat_f32s(f32::MIN);
            for score in &*row {
                most = simd.max_f32s(most, *score);
            }
            let most = simd.splat_f32s(simd.reduce_max_f32s(most));
            let mut sum = simd.splat_f32s(0.0);
            for score in &mut *row {
                *score = exp(simd, simd.sub_f32s(*score, most));
                sum = simd.add_f32s(sum, *score);
            }
            let share = simd.splat_f32s(1.0 / simd.reduce_sum_f32s(sum));
            for weight in row {
                *weight = simd.mul_f32s(*weight, share);
            }
        }
    }
}

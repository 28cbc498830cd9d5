//! A convolution of each channel by itself.

use pulp::{Simd, WithSimd};

use crate::bend::Bend;

/// Convolves one row, each channel by itself, with a kernel of 3 × 3.
#[derive(Debug)]
pub struct EachRow<'a> {
    /// By place in the kernel, then by channel.
    pub weight: &'a [f32],
    /// One per channel.
    pub bias: &'a [f32],
    /// Three rows of inputs, from the left neighbour of the first pixel.
    pub rows: [&'a [f32]; 3],
    /// 1 or 2.
    pub stride: usize,
    /// What follows.
    pub bend: Bend,
    /// The outputs of the row's pixels.
    pub out: &'a mut [f32],
}

impl WithSimd for EachRow<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let channels = self.bias.len();
        if channels.is_multiple_of(S::F32_LANES) {
            self.vectors(simd);
        } else {
            self.numbers();
            self.bend.over(simd, self.out);
        }
    }
}

impl EachRow<'_> {
    #[inline(always)]
    fn vectors<S: Simd>(&mut self, simd: S) {
        let (weight, _) = S::as_simd_f32s(self.weight);
        let (bias, _) = S::as_simd_f32s(self.bias);
        let rows = self.rows.map(|row| S::as_simd_f32s(row).0);
        let (out, _) = S::as_mut_simd_f32s(self.out);
        let width = bias.len();
        for lane in 0..width {
            let weight: [_; 9] = std::array::from_fn(|place| weight[place * width + lane]);
            let bias = bias[lane];
            for (pixel, out) in out.chunks_exact_mut(width).enumerate() {
                let at = pixel * self.stride * width + lane;
                let mut sums = [bias, simd.splat_f32s(0.0), simd.splat_f32s(0.0)];
                for (line, row) in rows.iter().enumerate() {
                    let row = &row[at..=at + 2 * width];
                    for place in 0..3 {
                        let value = row[place * width];
                        sums[line] =
                            simd.mul_add_e_f32s(value, weight[3 * line + place], sums[line]);
                    }
                }
                let sum = simd.add_f32s(simd.add_f32s(sums[0], sums[1]), sums[2]);
                out[lane] = self.bend.apply(simd, sum);
            }
        }
    }

    /// For numbers of channels that fill no whole vectors.
    #[inline(always)]
    fn numbers(&mut self) {
        let channels = self.bias.len();
        for (pixel, out) in self.out.chunks_exact_mut(channels).enumerate() {
            let at = pixel * self.stride * channels;
            out.copy_from_slice(self.bias);
            for (place, weight) in self.weight.chunks_exact(channels).enumerate() {
                let row = &self.rows[place / 3][at + place % 3 * channels..][..channels];
                for ((out, weight), value) in out.iter_mut().zip(weight).zip(row) {
                    *out += weight * value;
                }
            }
        }
    }
}

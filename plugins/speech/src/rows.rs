//! Small steps between the large multiplications, over rows in place: loops that the compiler turns into
//! vector instructions.

use half::{f16, slice::HalfFloatSliceExt as _};
use rayon::prelude::*;

/// Numbers that a vector instruction works on at once, at most.
const LANES: usize = 16;
/// Rows of a matrix that one thread multiplies at a time.
const STRIDE: usize = 64;

/// The scale and shift of a norm.
#[derive(Debug, Clone)]
pub(crate) struct Norm {
    pub(crate) weight: Vec<f32>,
    pub(crate) shift: Vec<f32>,
}

/// Whisper's norms keep this much between them and a division by nothing.
const EPSILON: f32 = 1e-5;

impl Norm {
    /// Brings a row to mean 0 and variance 1, then to where the layer learnt to want it.
    pub(crate) fn apply(&self, row: &[f32], out: &mut [f32]) {
        #[expect(clippy::cast_precision_loss, reason = "a row has a few thousand numbers")]
        let count = row.len() as f32;
        let mean = sum(row, |number| number) / count;
        let variance = sum(row, |number| (number - mean) * (number - mean)) / count;
        let scale = 1.0 / (variance + EPSILON).sqrt();
        let by = self.weight.iter().zip(&self.shift);
        for ((out, number), (weight, shift)) in out.iter_mut().zip(row).zip(by) {
            *out = (number - mean) * scale * weight + shift;
        }
    }
}

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

/// A row as probabilities.
pub(crate) fn softmax(row: &mut [f32]) {
    let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    for number in row.iter_mut() {
        *number = exp(*number - most);
    }
    let scale = 1.0 / sum(row, |number| number);
    for number in row {
        *number *= scale;
    }
}

/// e to a power that is not above 0: off by less than 3e-7 of itself, and without a branch or a call. What
/// is too small for a number is the smallest one.
pub(crate) fn exp(x: f32) -> f32 {
    // 2ⁿ · 2ᶠ with f from -½ to ½, as Taylor's polynomial of degree 6.
    const TERMS: [f32; 7] =
        [1.540_353e-4, 1.333_355_8e-3, 9.618_129e-3, 5.550_411e-2, 2.402_265e-1, 6.931_472e-1, 1.0];
    let power = (x * std::f32::consts::LOG2_E).max(-126.0);
    let whole = power.round_ties_even();
    let part = power - whole;
    let fraction = TERMS.iter().fold(0.0, |value, term| value * part + term);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from -126 to 0")]
    let exponent = (whole as i32 + 127) as u32;
    fraction * f32::from_bits(exponent << 23)
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

/// A sum in sixteen lanes: in order, a sum of floats cannot use vector instructions.
pub(crate) fn sum(row: &[f32], of: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0.0_f32; LANES];
    let (chunks, rest) = row.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, number) in lanes.iter_mut().zip(chunk) {
            *lane += of(*number);
        }
    }
    lanes.iter().sum::<f32>() + rest.iter().map(|number| of(*number)).sum::<f32>()
}

/// x · Φ(x).
pub(crate) fn gelu(x: f32) -> f32 {
    0.5 * x * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2))
}

/// A minimax quotient on [-4, 4], off by less than 1e-6; beyond, the function is ±1 in single precision.
fn erf(x: f32) -> f32 {
    const ABOVE: [f32; 7] = [
        -2.726_142_3e-10,
        2.770_681_5e-8,
        -2.101_024e-6,
        -5.692_506_4e-5,
        -7.349_906e-4,
        -2.954_6e-3,
        -1.609_603_3e-2,
    ];
    const BELOW: [f32; 5] =
        [-1.456_607_2e-5, -2.133_740_6e-4, -1.682_827e-3, -7.373_329e-3, -1.426_473_9e-2];
    let x = x.clamp(-4.0, 4.0);
    let square = x * x;
    let above = ABOVE.iter().fold(0.0, |value, factor| value * square + factor);
    let below = BELOW.iter().fold(0.0, |value, factor| value * square + factor);
    x * above / below
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exponential_is_right_to_five_places() {
        for at in 0..=1_000_u16 {
            let x = -f32::from(at) / 12.0;
            let (found, expected) = (exp(x), x.exp());
            assert!((found - expected).abs() <= 5e-6 * expected + 1e-37, "{x}: {found} {expected}");
        }
        assert!(exp(-1e30) < 1e-37);
    }

    #[test]
    fn a_row_becomes_probabilities() {
        let mut row: Vec<f32> = (0..100_u8).map(|at| f32::from(at % 7)).collect();
        row[3] = f32::NEG_INFINITY;
        softmax(&mut row);
        assert!((row.iter().sum::<f32>() - 1.0).abs() < 1e-5);
        assert!(row[3] < 1e-30 && row[0] < row[6]);
    }

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

    #[test]
    fn the_gaussian_error_linear_unit_is_the_exact_one() {
        assert!((gelu(1.0) - 0.841_344_7).abs() < 1e-6);
        assert!((gelu(-0.5) + 0.154_268_8).abs() < 1e-6);
        assert!(gelu(-9.0).abs() < 1e-6);
    }
}

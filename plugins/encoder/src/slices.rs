//! Small steps between the large multiplications, over rows in place: no allocation, and loops that the
//! compiler turns into vector instructions.

use candle_core::{CpuStorage, InplaceOp1, InplaceOp2, Layout, Result, Tensor};

/// Adds a bias to each row.
pub(crate) struct Bias<'a>(pub(crate) &'a [f32]);

/// Adds a bias to each row and bends it by the Gaussian error linear unit.
pub(crate) struct BiasGelu<'a>(pub(crate) &'a [f32]);

/// Adds the stream to each row and brings it to mean 0 and variance 1.
pub(crate) struct AddNorm<'a> {
    pub(crate) bias: &'a [f32],
    pub(crate) weight: &'a [f32],
    pub(crate) shift: &'a [f32],
    pub(crate) epsilon: f32,
}

fn floats<'a>(storage: &'a mut CpuStorage, layout: &Layout) -> Result<&'a mut [f32]> {
    let CpuStorage::F32(numbers) = storage else { candle_core::bail!("rows are of f32") };
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&mut numbers[start..end]),
        None => candle_core::bail!("rows lie one after the other"),
    }
}

impl InplaceOp1 for Bias<'_> {
    fn name(&self) -> &'static str {
        "bias"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        for row in floats(storage, layout)?.chunks_exact_mut(self.0.len()) {
            for (number, bias) in row.iter_mut().zip(self.0) {
                *number += bias;
            }
        }
        Ok(())
    }
}

impl InplaceOp1 for BiasGelu<'_> {
    fn name(&self) -> &'static str {
        "bias-gelu"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        for row in floats(storage, layout)?.chunks_exact_mut(self.0.len()) {
            for (number, bias) in row.iter_mut().zip(self.0) {
                *number = gelu(*number + bias);
            }
        }
        Ok(())
    }
}

impl InplaceOp2 for AddNorm<'_> {
    fn name(&self) -> &'static str {
        "add-norm"
    }

    fn cpu_fwd(
        &self,
        to: &mut CpuStorage,
        at: &Layout,
        with: &CpuStorage,
        of: &Layout,
    ) -> Result<()> {
        let CpuStorage::F32(stream) = with else { candle_core::bail!("rows are of f32") };
        let Some((start, end)) = of.contiguous_offsets() else {
            candle_core::bail!("rows lie one after the other")
        };
        let width = self.weight.len();
        let rows = floats(to, at)?.chunks_exact_mut(width);
        for (row, stream) in rows.zip(stream[start..end].chunks_exact(width)) {
            for ((number, other), bias) in row.iter_mut().zip(stream).zip(self.bias) {
                *number += other + bias;
            }
            normalise(row, self);
        }
        Ok(())
    }
}

/// Brings one row to mean 0 and variance 1, then to where the layer learnt to want it.
pub(crate) fn normalise(row: &mut [f32], by: &AddNorm<'_>) {
    #[expect(clippy::cast_precision_loss, reason = "a row has a few thousand numbers")]
    let count = row.len() as f32;
    let mean = sum(row, |number| number) / count;
    let variance = sum(row, |number| (number - mean) * (number - mean)) / count;
    let scale = 1.0 / (variance + by.epsilon).sqrt();
    for ((number, weight), shift) in row.iter_mut().zip(by.weight).zip(by.shift) {
        *number = (*number - mean) * scale * weight + shift;
    }
}

/// A sum in sixteen lanes: in order, a sum of floats cannot use vector instructions.
fn sum(row: &[f32], of: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0.0_f32; 16];
    let (chunks, rest) = row.as_chunks::<16>();
    for chunk in chunks {
        for (lane, number) in lanes.iter_mut().zip(chunk) {
            *lane += of(*number);
        }
    }
    lanes.iter().sum::<f32>() + rest.iter().map(|number| of(*number)).sum::<f32>()
}

/// x · Φ(x), with the error function as a quotient of polynomials: off by less than 1e-6, and without a
/// branch or a call.
fn gelu(x: f32) -> f32 {
    0.5 * x * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2))
}

/// A minimax quotient on [-4, 4]; beyond, the function is ±1 in single precision.
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

/// Adds a bias to the rows of a tensor.
pub(crate) fn add_bias(rows: &Tensor, bias: &[f32]) -> Result<()> {
    rows.inplace_op1(&Bias(bias))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_function_is_right_to_six_places() {
        // From tables.
        let known =
            [(0.0, 0.0), (0.5, 0.520_499_9), (1.0, 0.842_700_8), (2.0, 0.995_322_3), (3.5, 1.0)];
        for (x, value) in known {
            assert!((erf(x) - value).abs() < 1e-6, "erf({x}) = {}", erf(x));
            assert!((erf(-x) + value).abs() < 1e-6);
        }
        assert!((gelu(1.0) - 0.841_344_7).abs() < 1e-6);
        assert!(gelu(-9.0).abs() < 1e-6, "{}", gelu(-9.0));
    }

    #[test]
    fn a_row_is_normalised_whatever_its_length() {
        for length in [1_u16, 15, 16, 17, 384] {
            let mut row: Vec<f32> = (0..length).map(|at| f32::from(at) * 0.5 - 3.0).collect();
            let ones = vec![1.0; row.len()];
            let zeros = vec![0.0; row.len()];
            let by = AddNorm { bias: &zeros, weight: &ones, shift: &zeros, epsilon: 1e-12 };
            normalise(&mut row, &by);
            let mean: f32 = row.iter().sum::<f32>() / f32::from(length);
            let square: f32 =
                row.iter().map(|number| number * number).sum::<f32>() / f32::from(length);
            assert!(mean.abs() < 1e-5, "{length}: {mean}");
            assert!(length == 1 || (square - 1.0).abs() < 1e-4, "{length}: {square}");
        }
    }
}

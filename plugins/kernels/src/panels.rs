//! Weights as the multiplication reads them.

use std::ops::Range;

use pulp::{Simd, WithSimd};

/// Vectors of outputs that are computed at a time, where there are as many.
pub(crate) const VECTORS: usize = 2;

/// How wide the machine computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Numbers of a vector.
    pub lanes: usize,
}

impl Shape {
    /// Outputs of a panel.
    #[must_use]
    pub const fn panel(self) -> usize {
        VECTORS * self.lanes
    }
}

/// Asks for the [`Shape`] of this machine.
#[derive(Debug)]
pub struct AskShape;

impl WithSimd for AskShape {
    type Output = Shape;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> Shape {
        Shape { lanes: S::F32_LANES }
    }
}

/// Weights that mix the numbers of a row, or of a pixel, in panels of two vectors of outputs: within a panel
/// by place in the kernel, by input, by output. Missing outputs are zeros. The last panel has one vector if
/// that is enough.
#[derive(Debug, Default)]
pub struct Panels {
    /// Inputs of a row at each place.
    pub inputs: usize,
    /// Outputs of a row.
    pub outputs: usize,
    /// Places in the kernel: 1 where rows are multiplied with a matrix.
    pub places: usize,
    pub(crate) lanes: usize,
    pub(crate) weight: Vec<f32>,
    pub(crate) bias: Vec<f32>,
}

impl Panels {
    /// Lays out weights `[outputs, inputs, places]`.
    #[must_use]
    pub fn new(weight: &[f32], bias: &[f32], inputs: usize, shape: Shape) -> Self {
        let outputs = bias.len();
        let places = weight.len() / (outputs * inputs);
        let lanes = shape.lanes;
        let padded = outputs.next_multiple_of(lanes);
        let mut laid = Vec::with_capacity(padded * places * inputs);
        for first in (0..padded).step_by(shape.panel()) {
            let panel = first..(first + shape.panel()).min(padded);
            for place in 0..places {
                for input in 0..inputs {
                    let number = |output| (output * inputs + input) * places + place;
                    laid.extend(
                        panel.clone().map(|output| {
                            if output < outputs { weight[number(output)] } else { 0.0 }
                        }),
                    );
                }
            }
        }
        let mut bias = bias.to_vec();
        bias.resize(padded, 0.0);
        Self { inputs, outputs, places, lanes, weight: laid, bias }
    }

    /// Zeros of one place, to be filled by [`Self::set_output`] or [`Self::set_input`].
    pub(crate) fn empty(inputs: usize, outputs: usize, lanes: usize) -> Self {
        let padded = outputs.next_multiple_of(lanes);
        let (weight, bias) = (vec![0.0; padded * inputs], vec![0.0; padded]);
        Self { inputs, outputs, places: 1, lanes, weight, bias }
    }

    /// What an output is made of.
    pub(crate) fn set_output(&mut self, output: usize, inputs: &[f32]) {
        let width = VECTORS * self.lanes;
        let first = output / width * width;
        let panel = &mut self.weight[first * self.inputs..];
        let step = width.min(self.bias.len() - first);
        for (row, input) in panel.chunks_exact_mut(step).zip(inputs) {
            row[output - first] = *input;
        }
    }

    /// What an input goes into.
    pub(crate) fn set_input(&mut self, input: usize, outputs: &[f32]) {
        let width = VECTORS * self.lanes;
        let panels = self.weight.chunks_mut(width * self.inputs);
        for (panel, outputs) in panels.zip(outputs.chunks(width)) {
            let step = panel.len() / self.inputs;
            panel[input * step..][..outputs.len()].copy_from_slice(outputs);
        }
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.bias.len().div_ceil(VECTORS * self.lanes)
    }

    /// The outputs of some of them.
    #[must_use]
    pub fn columns(&self, panels: &Range<usize>) -> Range<usize> {
        let width = VECTORS * self.lanes;
        (panels.start * width).min(self.outputs)..(panels.end * width).min(self.outputs)
    }

    /// What is added to the outputs.
    #[must_use]
    pub fn bias(&self) -> &[f32] {
        &self.bias[..self.outputs]
    }

    /// The weights again, by input and then by output, of a kernel of one place.
    #[must_use]
    pub fn plain(&self) -> Vec<f32> {
        let mut plain = vec![0.0; self.inputs * self.outputs];
        let width = VECTORS * self.lanes;
        for (index, panel) in self.weight.chunks(width * self.inputs).enumerate() {
            let columns = self.columns(&(index..index + 1));
            let from = panel.chunks_exact(panel.len() / self.inputs);
            for (row, from) in plain.chunks_exact_mut(self.outputs).zip(from) {
                row[columns.clone()].copy_from_slice(&from[..columns.len()]);
            }
        }
        plain
    }
}

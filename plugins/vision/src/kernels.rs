//! The arithmetic of the processor's own path: pixels of a row times weights, with the channels of
//! a pixel side by side, so that every vector holds neighbouring output channels.
//!
//! [`pulp`] picks the widest vectors of the machine at run time; on one with none the same code
//! computes number by number.

use pulp::{Simd, WithSimd};

mod sigmoid;

pub use sigmoid::{Sigmoid, Silu};

use sigmoid::silu;

/// Vectors of output channels that are computed at a time, where there are as many.
const VECTORS: usize = 2;

/// Width of a vector in numbers, and how many pixels are computed at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Numbers of a vector.
    pub lanes: usize,
}

/// Asks for the [`Shape`] of this machine.
pub struct AskShape;

impl WithSimd for AskShape {
    type Output = Shape;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> Shape {
        Shape { lanes: S::F32_LANES }
    }
}

/// Weights of a convolution that mixes channels, in panels of [`VECTORS`] vectors of outputs:
/// within a panel by place in the kernel, by input, by output. Missing outputs are zeros. The last panel
/// has one vector if that is enough.
pub struct Panels {
    /// Inputs of a pixel.
    pub inputs: usize,
    /// Outputs of a pixel.
    pub outputs: usize,
    /// Places in the kernel.
    pub places: usize,
    lanes: usize,
    weight: Vec<f32>,
    bias: Vec<f32>,
}

impl Panels {
    /// Lays out weights `[outputs, inputs, places]`.
    pub fn new(weight: &[f32], bias: &[f32], inputs: usize, shape: Shape) -> Self {
        let outputs = bias.len();
        let places = weight.len() / (outputs * inputs);
        let lanes = shape.lanes;
        let padded = outputs.next_multiple_of(lanes);
        let mut laid = Vec::with_capacity(padded * places * inputs);
        for first in (0..padded).step_by(VECTORS * lanes) {
            let panel = first..(first + VECTORS * lanes).min(padded);
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
}

/// Computes one row of outputs.
pub struct MixRow<'a> {
    /// The weights.
    pub panels: &'a Panels,
    /// For each place in the kernel the row of inputs, from where the first pixel's are.
    pub rows: &'a [&'a [f32]],
    /// From the inputs of one pixel to those of the next.
    pub step: usize,
    /// Whether SiLU follows.
    pub silu: bool,
    /// The outputs of the row's pixels.
    pub out: &'a mut [f32],
}

impl WithSimd for MixRow<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        // As many sums as the machine has registers for, with some left for weights and inputs.
        if S::REGISTER_COUNT >= 32 {
            mix::<S, 12>(simd, self);
        } else {
            mix::<S, 6>(simd, self);
        }
    }
}

#[inline(always)]
fn mix<S: Simd, const PIXELS: usize>(simd: S, task: MixRow<'_>) {
    let MixRow { panels, rows, step, silu, out } = task;
    let pixels = out.len() / panels.outputs;
    let width = VECTORS * panels.lanes;
    let whole = width * panels.places * panels.inputs;
    for (index, weight) in panels.weight.chunks(whole).enumerate() {
        let first = index * width;
        let bias = &panels.bias[first..(first + width).min(panels.bias.len())];
        let tile = Tile { panels, rows, step, weight, bias, first, silu };
        if bias.len() == width {
            tile.along::<S, VECTORS, PIXELS>(simd, pixels, out);
        } else {
            tile.along::<S, 1, PIXELS>(simd, pixels, out);
        }
    }
}

struct Tile<'a> {
    panels: &'a Panels,
    rows: &'a [&'a [f32]],
    step: usize,
    weight: &'a [f32],
    bias: &'a [f32],
    first: usize,
    silu: bool,
}

impl Tile<'_> {
    /// One panel's outputs of all pixels of the row.
    #[inline(always)]
    fn along<S: Simd, const WIDE: usize, const PIXELS: usize>(
        &self,
        simd: S,
        pixels: usize,
        out: &mut [f32],
    ) {
        // In shares that are as equal as can be: a single pixel that is left over would wait for each of
        // its sums, and take as long as five.
        let tiles = pixels.div_ceil(PIXELS);
        for tile in 0..tiles {
            let (at, end) = (tile * pixels / tiles, (tile + 1) * pixels / tiles);
            match end - at {
                12 => self.compute::<S, WIDE, 12>(simd, at, out),
                11 => self.compute::<S, WIDE, 11>(simd, at, out),
                10 => self.compute::<S, WIDE, 10>(simd, at, out),
                9 => self.compute::<S, WIDE, 9>(simd, at, out),
                8 => self.compute::<S, WIDE, 8>(simd, at, out),
                7 => self.compute::<S, WIDE, 7>(simd, at, out),
                6 => self.compute::<S, WIDE, 6>(simd, at, out),
                5 => self.compute::<S, WIDE, 5>(simd, at, out),
                4 => self.compute::<S, WIDE, 4>(simd, at, out),
                3 => self.compute::<S, WIDE, 3>(simd, at, out),
                2 => self.compute::<S, WIDE, 2>(simd, at, out),
                _ => self.compute::<S, WIDE, 1>(simd, at, out),
            }
        }
    }

    /// One panel's outputs of some pixels, from pixel `at`.
    #[inline(always)]
    fn compute<S: Simd, const WIDE: usize, const PIXELS: usize>(
        &self,
        simd: S,
        at: usize,
        out: &mut [f32],
    ) {
        let inputs = self.panels.inputs;
        let (bias, _) = S::as_simd_f32s(self.bias);
        let bias: [_; WIDE] = std::array::from_fn(|vector| bias[vector]);
        let mut sums = [bias; PIXELS];
        let places = self.weight.chunks_exact(inputs * self.bias.len());
        for (row, weight) in self.rows.iter().zip(places) {
            let (weight, _) = S::as_simd_f32s(weight);
            let (weight, _) = weight.as_chunks::<WIDE>();
            let weight = &weight[..inputs];
            let pixels: [&[f32]; PIXELS] =
                std::array::from_fn(|pixel| &row[(at + pixel) * self.step..][..inputs]);
            for (input, weight) in weight.iter().enumerate() {
                for (sums, pixel) in sums.iter_mut().zip(&pixels) {
                    let value = simd.splat_f32s(pixel[input]);
                    // No loop: an index that varies would keep the sums out of registers.
                    sums[0] = simd.mul_add_e_f32s(value, weight[0], sums[0]);
                    if WIDE == VECTORS {
                        let last = VECTORS - 1;
                        sums[last] = simd.mul_add_e_f32s(value, weight[last], sums[last]);
                    }
                }
            }
        }
        let outputs = self.panels.outputs;
        let present = (outputs - self.first).min(self.bias.len());
        for (pixel, sums) in sums.iter().enumerate() {
            let from = (at + pixel) * outputs + self.first;
            let out = &mut out[from..from + present];
            let mut sums = *sums;
            if self.silu {
                for sum in &mut sums {
                    *sum = silu(simd, *sum);
                }
            }
            if present == self.bias.len() {
                let (out, _) = S::as_mut_simd_f32s(out);
                out.copy_from_slice(&sums);
            } else {
                let (head, tail) = out.split_at_mut(present.min(S::F32_LANES));
                simd.partial_store_f32s(head, sums[0]);
                if !tail.is_empty() {
                    simd.partial_store_f32s(tail, sums[WIDE - 1]);
                }
            }
        }
    }
}

/// Convolves one row, each channel by itself, with a kernel of 3 × 3.
pub struct EachRow<'a> {
    /// By place in the kernel, then by channel.
    pub weight: &'a [f32],
    /// One per channel.
    pub bias: &'a [f32],
    /// Three rows of inputs, from the left neighbour of the first pixel.
    pub rows: [&'a [f32]; 3],
    /// 1 or 2.
    pub stride: usize,
    /// Whether SiLU follows.
    pub silu: bool,
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
            if self.silu {
                Silu(self.out).with_simd(simd);
            }
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
                out[lane] = if self.silu { silu(simd, sum) } else { sum };
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

//! The small operations between the matrix products, written so that the compiler can use the
//! vector unit: fixed groups of 16 lanes and no reordering of sums behind our back.

use pulp::{Arch, NullaryFnOnce};

use crate::shape::{Activation, Rope};

const LANES: usize = 16;

/// Σ a·b.
#[inline(always)]
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0f32; LANES];
    let (a_groups, b_groups) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest: f32 = a_groups.remainder().iter().zip(b_groups.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in a_groups.zip(b_groups) {
        for lane in 0..LANES {
            lanes[lane] += a[lane] * b[lane];
        }
    }
    lanes.iter().sum::<f32>() + rest
}

/// to += from · factor.
#[inline(always)]
pub fn add_scaled(to: &mut [f32], from: &[f32], factor: f32) {
    for (to, from) in to.iter_mut().zip(from) {
        *to += from * factor;
    }
}

/// Root-mean-square norm of each row of `weight.len()` values, in place.
pub fn norm(values: &mut [f32], weight: &[f32], epsilon: f32) {
    vectorised(Norm { values, weight, epsilon });
}

struct Norm<'a> {
    values: &'a mut [f32],
    weight: &'a [f32],
    epsilon: f32,
}

impl NullaryFnOnce for Norm<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        for row in self.values.chunks_exact_mut(self.weight.len()) {
            let scale = 1.0 / (dot(row, row) / row.len() as f32 + self.epsilon).sqrt();
            for (value, weight) in row.iter_mut().zip(self.weight) {
                *value *= scale * weight;
            }
        }
    }
}

/// As [`norm`], into a new vector.
pub fn normed(values: &[f32], weight: &[f32], epsilon: f32) -> Vec<f32> {
    let mut out = values.to_vec();
    norm(&mut out, weight, epsilon);
    out
}

/// Cosines and sines of a set of positions, shared by all layers of one step.
pub struct Angles {
    table: Vec<(f32, f32)>,
    pairs: usize,
    neighbours: bool,
}

impl Angles {
    /// Computes the angles of these positions.
    pub fn new(rope: &Rope, positions: &[usize]) -> Self {
        let table = positions
            .iter()
            .flat_map(|position| {
                rope.frequencies.iter().map(|f| {
                    let (sin, cos) = (*position as f32 * f).sin_cos();
                    (cos, sin)
                })
            })
            .collect();
        Self { table, pairs: rope.frequencies.len(), neighbours: rope.neighbours }
    }

    /// Turns every head of the `index`-th position's row.
    pub fn turn(&self, row: &mut [f32], head: usize, index: usize) {
        let angles = &self.table[index * self.pairs..][..self.pairs];
        for values in row.chunks_exact_mut(head) {
            if self.neighbours {
                for (pair, (cos, sin)) in values.chunks_exact_mut(2).zip(angles) {
                    let (a, b) = (pair[0], pair[1]);
                    pair[0] = a * cos - b * sin;
                    pair[1] = a * sin + b * cos;
                }
            } else {
                let (first, second) = values.split_at_mut(self.pairs);
                for ((a, b), (cos, sin)) in first.iter_mut().zip(second).zip(angles) {
                    (*a, *b) = (*a * cos - *b * sin, *a * sin + *b * cos);
                }
            }
        }
    }
}

/// activation(gate) · up, where each row holds the gate and then the up half.
pub fn gated(rows: &[f32], inner: usize, activation: Activation) -> Vec<f32> {
    let mut out = vec![0f32; rows.len() / 2];
    vectorised(Gated { rows, inner, activation, out: &mut out });
    out
}

struct Gated<'a> {
    rows: &'a [f32],
    inner: usize,
    activation: Activation,
    out: &'a mut [f32],
}

impl NullaryFnOnce for Gated<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let rows = self.rows.chunks_exact(2 * self.inner);
        for (row, out) in rows.zip(self.out.chunks_exact_mut(self.inner)) {
            let (gate, up) = row.split_at(self.inner);
            let values = out.iter_mut().zip(gate.iter().zip(up));
            match self.activation {
                Activation::Silu => values.for_each(|(out, (g, u))| *out = g / (1.0 + exp(-g)) * u),
                Activation::Gelu => values.for_each(|(out, (g, u))| {
                    // tanh(z) = 1 − 2 / (e^{2z} + 1)
                    let z = 0.797_884_6 * (g + 0.044_715 * g * g * g);
                    *out = g * (1.0 - 1.0 / (exp(2.0 * z) + 1.0)) * u;
                }),
            }
        }
    }
}

/// eˣ to about 2 units in the last place, in operations that the vector unit has: the power of
/// two comes from the exponent bits, the rest from a polynomial on ±ln 2 / 2.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "x is held within ±87")]
pub fn exp(x: f32) -> f32 {
    let x = x.clamp(-87.0, 88.0);
    let power = (x * std::f32::consts::LOG2_E).round_ties_even();
    let r = x - power * 0.693_359_4 + power * 2.121_944_4e-4;
    let series = 1.0
        + r * (1.0
            + r * (0.5
                + r * (0.166_666_55
                    + r * (0.041_665_795 + r * (0.008_333_452 + r * 0.001_388_889)))));
    series * f32::from_bits(((power as i32 + 127) as u32) << 23)
}

/// a · b + c, in one instruction where this build knows that there is one.
#[inline(always)]
pub fn fused(a: f32, b: f32, c: f32) -> f32 {
    if cfg!(any(target_feature = "fma", target_arch = "aarch64")) {
        a.mul_add(b, c)
    } else {
        a * b + c
    }
}

/// Runs an operation with the best instruction set of this processor.
pub fn vectorised<R>(operation: impl NullaryFnOnce<Output = R>) -> R {
    Arch::new().dispatch(operation)
}

//! Activations in 8 bits.

use pulp::NullaryFnOnce;

use super::{BLOCK, LINES, QUAD, ROWS};

/// The largest quantised activation.
const ACTIVATION_MAX: f32 = 127.0;

/// The largest magnitude of a block.
#[inline(always)]
pub(super) fn largest(values: &[f32]) -> f32 {
    let mut lanes = [0f32; ROWS];
    for half in values.chunks_exact(ROWS) {
        for lane in 0..ROWS {
            lanes[lane] = lanes[lane].max(half[lane].abs());
        }
    }
    lanes.iter().fold(0f32, |m, v| m.max(*v))
}

/// 32 values of a row. What a product needs of them lies together: a group of rows is read as one
/// stream each.
#[derive(Clone, Copy, Default)]
pub(super) struct Values {
    /// Whole numbers, four each as the multiplier takes them.
    pub(super) quads: [[i8; QUAD]; LINES],
    /// The width of a step.
    pub(super) scale: f32,
    /// The sum of the values.
    pub(super) sum: f32,
}

/// Rows of activations in 8 bits with a scale per 32 values.
pub struct Activations {
    pub(super) rows: usize,
    blocks: usize,
    values: Vec<Values>,
}

impl Activations {
    /// Quantises whole rows of `columns` values.
    pub fn quantise(values: &[f32], columns: usize) -> Self {
        let mut quantised = vec![Values::default(); values.len() / BLOCK];
        pulp::Arch::new().dispatch(Quantise { values, to: &mut quantised });
        Self { rows: values.len() / columns, blocks: columns / BLOCK, values: quantised }
    }

    /// Rows below each other, of parts that are as wide.
    pub fn stack(parts: Vec<Self>) -> Self {
        let mut parts = parts.into_iter();
        let Some(mut all) = parts.next() else { return Self::quantise(&[], BLOCK) };
        for part in parts {
            all.rows += part.rows;
            all.values.extend_from_slice(&part.values);
        }
        all
    }

    pub(super) fn row(&self, row: usize) -> &[Values] {
        &self.values[row * self.blocks..][..self.blocks]
    }
}

struct Quantise<'a> {
    values: &'a [f32],
    to: &'a mut [Values],
}

impl NullaryFnOnce for Quantise<'_> {
    type Output = ();

    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "within ±127 by its scale")]
    fn call(self) {
        for (values, to) in self.values.chunks_exact(BLOCK).zip(self.to) {
            let largest = largest(values);
            to.scale = largest / ACTIVATION_MAX;
            let inverse = if largest > 0.0 { ACTIVATION_MAX / largest } else { 0.0 };
            let mut whole = [0i32; BLOCK];
            for lane in 0..BLOCK {
                whole[lane] = (values[lane] * inverse).round_ties_even() as i32;
            }
            to.sum = whole.iter().sum::<i32>() as f32 * to.scale;
            let bytes = to.quads.as_flattened_mut();
            for lane in 0..BLOCK {
                bytes[lane] = whole[lane] as i8;
            }
        }
    }
}

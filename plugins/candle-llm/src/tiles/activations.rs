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

/// Rows of activations in 8 bits with a scale per 32 values.
pub struct Activations {
    pub(super) rows: usize,
    blocks: usize,
    /// Four values each, as the multiplier takes them.
    quads: Vec<[i8; QUAD]>,
    scales: Vec<f32>,
    /// The sum of a block's whole numbers.
    sums: Vec<i32>,
}

/// One row of them.
#[derive(Clone, Copy)]
pub(super) struct Row<'a> {
    pub(super) quads: &'a [[i8; QUAD]],
    pub(super) scales: &'a [f32],
    pub(super) sums: &'a [i32],
}

impl Activations {
    /// Quantises whole rows of `columns` values.
    pub fn quantise(values: &[f32], columns: usize) -> Self {
        let blocks = values.len() / BLOCK;
        let mut all = Self {
            rows: values.len() / columns,
            blocks: columns / BLOCK,
            quads: vec![[0; QUAD]; blocks * LINES],
            scales: vec![0.0; blocks],
            sums: vec![0; blocks],
        };
        pulp::Arch::new().dispatch(Quantise { values, to: &mut all });
        all
    }

    /// Rows below each other, of parts that are as wide.
    pub fn stack(parts: Vec<Self>) -> Self {
        let mut parts = parts.into_iter();
        let Some(mut all) = parts.next() else { return Self::quantise(&[], BLOCK) };
        for part in parts {
            all.rows += part.rows;
            all.quads.extend_from_slice(&part.quads);
            all.scales.extend_from_slice(&part.scales);
            all.sums.extend_from_slice(&part.sums);
        }
        all
    }

    pub(super) fn row(&self, row: usize) -> Row<'_> {
        let from = row * self.blocks;
        Row {
            quads: &self.quads[from * LINES..][..self.blocks * LINES],
            scales: &self.scales[from..][..self.blocks],
            sums: &self.sums[from..][..self.blocks],
        }
    }
}

struct Quantise<'a> {
    values: &'a [f32],
    to: &'a mut Activations,
}

impl NullaryFnOnce for Quantise<'_> {
    type Output = ();

    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "within ±127 by its scale")]
    fn call(self) {
        let blocks = self.values.chunks_exact(BLOCK);
        let targets = self.to.quads.chunks_exact_mut(LINES);
        let targets = targets.zip(self.to.scales.iter_mut().zip(&mut self.to.sums));
        for (values, (quads, (scale, sum))) in blocks.zip(targets) {
            let largest = largest(values);
            *scale = largest / ACTIVATION_MAX;
            let inverse = if largest > 0.0 { ACTIVATION_MAX / largest } else { 0.0 };
            let mut whole = [0i32; BLOCK];
            for lane in 0..BLOCK {
                whole[lane] = (values[lane] * inverse).round_ties_even() as i32;
            }
            *sum = whole.iter().sum();
            let bytes = quads.as_flattened_mut();
            for lane in 0..BLOCK {
                bytes[lane] = whole[lane] as i8;
            }
        }
    }
}

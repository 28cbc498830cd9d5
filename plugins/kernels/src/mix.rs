//! Rows times weights: a matrix multiplication, or a convolution that mixes channels.

use std::ops::Range;

use pulp::{Simd, WithSimd};

use crate::{
    bend::Bend,
    panels::{Panels, VECTORS},
    rows::Rows,
};

/// Computes outputs of rows.
#[derive(Debug)]
pub struct Mix<'a, O> {
    /// The weights.
    pub panels: &'a Panels,
    /// Which of the panels; the first one's outputs are the first of a row of `out`.
    pub part: Range<usize>,
    /// For each place in the kernel the inputs, from where the first row's are.
    pub rows: &'a [&'a [f32]],
    /// From the inputs of one row to those of the next.
    pub step: usize,
    /// What follows.
    pub bend: Bend,
    /// The rows' outputs.
    pub out: O,
}

impl<O: Rows> WithSimd for Mix<'_, O> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        // As many sums as the machine has registers for, with some left for weights and inputs; but a
        // loop over more than eight rows is not unrolled, and would keep the sums out of registers.
        if S::REGISTER_COUNT >= 32 {
            mix::<S, O, 8>(simd, self);
        } else {
            mix::<S, O, 6>(simd, self);
        }
    }
}

#[inline(always)]
fn mix<S: Simd, O: Rows, const ROWS: usize>(simd: S, task: Mix<'_, O>) {
    let Mix { panels, part, rows, step, bend, mut out } = task;
    let width = VECTORS * panels.lanes;
    let whole = width * panels.places * panels.inputs;
    // The outer loop is that of the panels: one stays near the processor while the rows pass by.
    let weights = panels.weight.chunks(whole).zip(panels.bias.chunks(width));
    let weights = weights.skip(part.start).take(part.len());
    for (index, (weight, bias)) in weights.enumerate() {
        let first = index * width;
        let present = (panels.outputs - part.start * width - first).min(bias.len());
        let tile = Tile { inputs: panels.inputs, rows, step, weight, bias, first, present, bend };
        if bias.len() == width {
            tile.along::<S, O, VECTORS, ROWS>(simd, &mut out);
        } else {
            tile.along::<S, O, 1, ROWS>(simd, &mut out);
        }
    }
}

struct Tile<'a> {
    inputs: usize,
    rows: &'a [&'a [f32]],
    step: usize,
    weight: &'a [f32],
    bias: &'a [f32],
    first: usize,
    present: usize,
    bend: Bend,
}

impl Tile<'_> {
    /// One panel's outputs of all rows.
    #[inline(always)]
    fn along<S: Simd, O: Rows, const WIDE: usize, const ROWS: usize>(&self, simd: S, out: &mut O) {
        // In shares that are as equal as can be: a single row that is left over would wait for each of
        // its sums, and take as long as five.
        let count = out.count();
        let tiles = count.div_ceil(ROWS);
        for tile in 0..tiles {
            let (at, end) = (tile * count / tiles, (tile + 1) * count / tiles);
            match end - at {
                8 if ROWS == 8 => self.compute::<S, O, WIDE, 8>(simd, at, out),
                7 if ROWS == 8 => self.compute::<S, O, WIDE, 7>(simd, at, out),
                6 => self.compute::<S, O, WIDE, 6>(simd, at, out),
                5 => self.compute::<S, O, WIDE, 5>(simd, at, out),
                4 => self.compute::<S, O, WIDE, 4>(simd, at, out),
                3 => self.compute::<S, O, WIDE, 3>(simd, at, out),
                2 => self.compute::<S, O, WIDE, 2>(simd, at, out),
                _ => self.compute::<S, O, WIDE, 1>(simd, at, out),
            }
        }
    }

    /// One panel's outputs of some rows, from row `at`.
    #[inline(always)]
    fn compute<S: Simd, O: Rows, const WIDE: usize, const ROWS: usize>(
        &self,
        simd: S,
        at: usize,
        out: &mut O,
    ) {
        let (bias, _) = S::as_simd_f32s(self.bias);
        let bias: [_; WIDE] = std::array::from_fn(|vector| bias[vector]);
        let mut sums = [bias; ROWS];
        let places = self.weight.chunks_exact(self.inputs * self.bias.len());
        for (rows, weight) in self.rows.iter().zip(places) {
            let (weight, _) = S::as_simd_f32s(weight);
            let (weight, _) = weight.as_chunks::<WIDE>();
            let weight = &weight[..self.inputs];
            let rows: [&[f32]; ROWS] =
                std::array::from_fn(|row| &rows[(at + row) * self.step..][..self.inputs]);
            for (input, weight) in weight.iter().enumerate() {
                for (sums, row) in sums.iter_mut().zip(&rows) {
                    let value = simd.splat_f32s(row[input]);
                    // No loop: an index that varies would keep the sums out of registers.
                    sums[0] = simd.mul_add_e_f32s(value, weight[0], sums[0]);
                    if WIDE == VECTORS {
                        let last = VECTORS - 1;
                        sums[last] = simd.mul_add_e_f32s(value, weight[last], sums[last]);
                    }
                }
            }
        }
        for (row, sums) in sums.iter().enumerate() {
            let out = &mut out.row(at + row)[self.first..][..self.present];
            if self.present == self.bias.len() {
                let (out, _) = S::as_mut_simd_f32s(out);
                out.copy_from_slice(sums);
            } else {
                let (head, tail) = out.split_at_mut(self.present.min(S::F32_LANES));
                simd.partial_store_f32s(head, sums[0]);
                if !tail.is_empty() {
                    simd.partial_store_f32s(tail, sums[WIDE - 1]);
                }
            }
        }
        // In a loop of its own: one with so much in it is not unrolled, and would keep the sums out of
        // registers for all of the above.
        if self.bend != Bend::Straight {
            for row in at..at + ROWS {
                self.bend.over(simd, &mut out.row(row)[self.first..][..self.present]);
            }
        }
    }
}

//! Where a kernel writes its rows, and how rows are cut so that several threads may write them.

use std::ops::Range;

/// Rows that outputs are written to.
pub trait Rows {
    /// How many there are.
    fn count(&self) -> usize;
    /// A row from its first number on.
    fn row(&mut self, at: usize) -> &mut [f32];
}

/// Rows that lie in one piece of memory.
#[derive(Debug)]
pub struct Whole<'a> {
    /// From the first row's first number.
    pub values: &'a mut [f32],
    /// From one row's first number to the next row's.
    pub step: usize,
}

impl Rows for Whole<'_> {
    #[inline(always)]
    fn count(&self) -> usize {
        self.values.len().div_ceil(self.step)
    }

    #[inline(always)]
    fn row(&mut self, at: usize) -> &mut [f32] {
        &mut self.values[at * self.step..]
    }
}

/// Some columns of wider rows, as [`cut`] cuts them.
#[derive(Debug)]
pub struct Columns<'a, 'b> {
    /// The rows' parts.
    pub rows: &'a mut [&'b mut [f32]],
    /// Where in them the outputs begin.
    pub from: usize,
}

impl Rows for Columns<'_, '_> {
    #[inline(always)]
    fn count(&self) -> usize {
        self.rows.len()
    }

    #[inline(always)]
    fn row(&mut self, at: usize) -> &mut [f32] {
        &mut self.rows[at][self.from..]
    }
}

/// Cuts rows of some width into parts: by rows, and within those by columns. Neither may leave a gap; what is
/// behind the last of them is left out.
pub fn cut<'a>(
    values: &'a mut [f32],
    width: usize,
    rows: &[Range<usize>],
    columns: &[Range<usize>],
) -> Vec<Vec<&'a mut [f32]>> {
    let mut parts = Vec::with_capacity(rows.len() * columns.len());
    let mut all = values.chunks_exact_mut(width);
    for rows in rows {
        let first = parts.len();
        parts.extend(columns.iter().map(|_| Vec::with_capacity(rows.len())));
        for mut row in all.by_ref().take(rows.len()) {
            for (part, columns) in parts[first..].iter_mut().zip(columns) {
                let (own, rest) = row.split_at_mut(columns.len());
                part.push(own);
                row = rest;
            }
        }
    }
    parts
}

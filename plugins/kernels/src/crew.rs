//! The steps of a layer, shared out to threads.

use std::ops::Range;

use pulp::Arch;
use rayon::prelude::*;

use crate::{AddNorm, Attend, Bend, Columns, Mix, Norm, Panels, cut};

/// Numbers below which sharing out a small step costs more than it brings.
const WORTH_SHARING: usize = 1 << 14;

/// So many of the threads in whose pool the steps are asked for.
#[derive(Clone, Copy, Debug)]
pub struct Crew {
    /// The machine's vectors.
    pub arch: Arch,
    /// With one of them nothing is shared out.
    pub threads: usize,
}

/// Parts that are as equal as can be.
fn parts(count: usize, parts: usize) -> Vec<Range<usize>> {
    (0..parts).map(|part| part * count / parts..(part + 1) * count / parts).collect()
}

/// By how many parts of the rows, and of the panels, a multiplication is shared out: those of which the
/// largest is smallest, and few parts of the rows, for each of them reads the weights once more.
fn grid(rows: usize, panels: usize, threads: usize) -> (usize, usize) {
    let ways = (1..=threads.min(panels)).map(|by_panels| {
        let by_rows = (threads / by_panels).clamp(1, rows.max(1));
        (by_rows, by_panels)
    });
    let largest = |way: &(usize, usize)| (rows.div_ceil(way.0) * panels.div_ceil(way.1), way.0);
    ways.min_by_key(largest).unwrap_or((1, 1))
}

impl Crew {
    /// Multiplies rows with a matrix.
    pub fn multiply(&self, from: &[f32], by: &Panels, bend: Bend, to: &mut [f32]) {
        let rows = from.len() / by.inputs;
        let (by_rows, by_panels) = grid(rows, by.count(), self.threads);
        let (by_rows, by_panels) = (parts(rows, by_rows), parts(by.count(), by_panels));
        let columns: Vec<_> = by_panels.iter().map(|part| by.columns(part)).collect();
        self.share_out(cut(to, by.outputs, &by_rows, &columns), |at, out| {
            let first = by_rows[at / columns.len()].start;
            self.arch.dispatch(Mix {
                panels: by,
                part: by_panels[at % columns.len()].clone(),
                rows: &[&from[first * by.inputs..]],
                step: by.inputs,
                bend,
                out: Columns { rows: out, from: 0 },
            });
        });
    }

    /// What the tokens of each text hear of each other. `wide` has the queries, the keys and the values of
    /// all heads.
    pub fn attend(&self, wide: &[f32], lengths: &[usize], heads: usize, heard: &mut [f32]) {
        let tokens = lengths.iter().sum::<usize>();
        if tokens == 0 {
            return;
        }
        let hidden = heard.len() / tokens;
        let by_heads = if 2 * self.threads <= lengths.len() { 1 } else { self.threads.min(heads) };
        let by_heads = parts(heads, by_heads);
        let size = hidden / heads;
        let columns: Vec<_> =
            by_heads.iter().map(|part| part.start * size..part.end * size).collect();
        let mut end = 0;
        let texts = lengths.iter().map(|length| {
            end += length;
            end - length..end
        });
        let texts: Vec<_> = texts.collect();
        self.share_out(cut(heard, hidden, &texts, &columns), |at, out| {
            let text = &texts[at / columns.len()];
            let wide = &wide[3 * hidden * text.start..3 * hidden * text.end];
            let part = by_heads[at % columns.len()].clone();
            self.arch.dispatch(Attend { wide, heads, part, out });
        });
    }

    /// Norms rows.
    pub fn norm(&self, rows: &mut [f32], by: &Norm) {
        let part = self.part(rows.len(), by);
        let parts = rows.chunks_mut(part);
        self.share_out(parts.collect(), |_, rows| {
            self.arch.dispatch(AddNorm { rows, with: &[], by });
        });
    }

    /// Adds others to rows and norms the sums.
    pub fn add_norm(&self, rows: &mut [f32], with: &[f32], by: &Norm) {
        let part = self.part(rows.len(), by);
        let parts = rows.chunks_mut(part).zip(with.chunks(part));
        self.share_out(parts.collect(), |_, (rows, with)| {
            self.arch.dispatch(AddNorm { rows, with, by });
        });
    }

    /// Numbers of a part of rows to be normed.
    fn part(&self, numbers: usize, by: &Norm) -> usize {
        let parts = if numbers < WORTH_SHARING { 1 } else { self.threads };
        let width = by.weight.len();
        (numbers / width).div_ceil(parts).max(1) * width
    }

    fn share_out<T: Send>(&self, mut parts: Vec<T>, work: impl Fn(usize, &mut T) + Sync) {
        if self.threads == 1 || parts.len() == 1 {
            parts.iter_mut().enumerate().for_each(|(at, part)| work(at, part));
        } else {
            parts.par_iter_mut().enumerate().with_max_len(1).for_each(|(at, part)| work(at, part));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_rows_are_shared_out_by_their_columns() {
        assert_eq!(grid(32, 24, 2), (1, 2));
        assert_eq!(grid(32, 24, 16), (2, 8));
        assert_eq!(grid(1, 24, 16), (1, 12));
        assert_eq!(grid(0, 24, 2), (1, 1));
    }
}

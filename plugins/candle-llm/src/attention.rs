//! Attention over pages of keys and values, several rows and heads against each page at a time.
//!
//! Keys lie with the tokens of a page side by side, so a query meets 32 tokens at once and nothing
//! is added across a vector. Every query is computed in the same order however many stand beside it:
//! a reply does not depend on who else is answered in the same step.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use pulp::NullaryFnOnce;

use crate::ops;
use crate::pages::{Lanes, Layout, PAGE, Page};
use crate::pool::{Cursor, Task};
use crate::shape::Shape;

/// Rows of a prompt that meet a page together.
pub(crate) const ROWS_TOGETHER: usize = 8;
/// Queries that are held in registers at a time.
const QUERIES: usize = 4;
/// Components of a value that are summed at a time.
const WIDTH: usize = 16;

/// One head of keys and values and a few rows that follow each other.
pub(crate) struct Piece {
    /// Which conversation.
    pub(crate) table: usize,
    /// Which head of keys and values.
    pub(crate) head: usize,
    /// Which rows of the step.
    pub(crate) rows: Range<usize>,
    /// Tokens that the first of the rows sees, itself included; each further row sees one more.
    pub(crate) seen: usize,
    pub(crate) out: Mutex<Vec<f32>>,
}

/// The attention of one layer in one step.
pub(crate) struct Attention {
    pub(crate) shape: Arc<Shape>,
    pub(crate) layout: Layout,
    pub(crate) layer: usize,
    /// Tokens that a row sees at most.
    pub(crate) window: usize,
    /// Queries, keys and values of all rows.
    pub(crate) qkv: Vec<f32>,
    pub(crate) tables: Vec<Vec<Arc<Page>>>,
    pub(crate) pieces: Vec<Piece>,
    pub(crate) cursor: Cursor,
}

impl Task for Attention {
    fn work(&self, _thread: usize) {
        let mut scores = Vec::new();
        while let Some(index) = self.cursor.next(self.pieces.len()) {
            let piece = &self.pieces[index];
            let out = ops::vectorised(Attend { of: self, piece, scores: &mut scores });
            *piece.out.lock().unwrap_or_else(PoisonError::into_inner) = out;
        }
    }
}

impl Attention {
    /// The rows' results, each with all heads.
    pub(crate) fn results(&self, rows: usize) -> Vec<f32> {
        let width = self.shape.heads * self.shape.head;
        let group = width / self.shape.kv_heads;
        let mut out = vec![0f32; rows * width];
        for piece in &self.pieces {
            let part = piece.out.lock().unwrap_or_else(PoisonError::into_inner);
            for (row, part) in piece.rows.clone().zip(part.chunks_exact(group)) {
                out[row * width + piece.head * group..][..group].copy_from_slice(part);
            }
        }
        out
    }
}

struct Attend<'a> {
    of: &'a Attention,
    piece: &'a Piece,
    /// For each query, the scores of each page.
    scores: &'a mut Vec<Lanes>,
}

/// A query and the tokens that it sees.
struct Query<'a> {
    values: &'a [f32],
    seen: Range<usize>,
}

impl NullaryFnOnce for Attend<'_> {
    type Output = Vec<f32>;

    #[inline(always)]
    fn call(self) -> Vec<f32> {
        let Self { of, piece, scores } = self;
        let queries = of.queries(piece);
        let head = of.shape.head;
        let end = piece.seen + piece.rows.len() - 1;
        let first = piece.seen.saturating_sub(of.window) / PAGE;
        let pages = &of.tables[piece.table][first..end.div_ceil(PAGE)];
        scores.clear();
        scores.resize(queries.len() * pages.len(), [0.0; PAGE]);
        let mut out = vec![0f32; queries.len() * head];
        let groups = queries.chunks(QUERIES).zip(scores.chunks_mut(QUERIES * pages.len()));
        for ((queries, scores), out) in groups.zip(out.chunks_mut(QUERIES * head)) {
            let block = Block { of, head: piece.head, pages, from: first * PAGE, end };
            match queries.len() {
                1 => block.attend::<1>(queries, scores, out),
                2 => block.attend::<2>(queries, scores, out),
                3 => block.attend::<3>(queries, scores, out),
                _ => block.attend::<QUERIES>(queries, scores, out),
            }
        }
        out
    }
}

impl Attention {
    #[inline(always)]
    fn queries(&self, piece: &Piece) -> Vec<Query<'_>> {
        let shape = &*self.shape;
        let (width, key) = (shape.heads * shape.head, shape.kv_heads * shape.head);
        let group = width / shape.kv_heads;
        let mut queries = Vec::with_capacity(piece.rows.len() * group / shape.head);
        for (offset, row) in piece.rows.clone().enumerate() {
            let end = piece.seen + offset;
            let seen = end.saturating_sub(self.window)..end;
            let own = &self.qkv[row * (width + 2 * key) + piece.head * group..][..group];
            let heads = own.chunks_exact(shape.head);
            queries.extend(heads.map(|values| Query { values, seen: seen.clone() }));
        }
        queries
    }
}

/// A few queries against the pages of one head.
struct Block<'a> {
    of: &'a Attention,
    head: usize,
    pages: &'a [Arc<Page>],
    /// The first token of the first page, and the end of what any query sees.
    from: usize,
    end: usize,
}

impl Block<'_> {
    #[inline(always)]
    fn attend<const N: usize>(&self, queries: &[Query<'_>], scores: &mut [Lanes], out: &mut [f32]) {
        let count = self.pages.len();
        let values: [&[f32]; N] = std::array::from_fn(|query| queries[query].values);
        for (at, page) in self.pages.iter().enumerate() {
            let keys = page.keys(self.of.layout, self.of.layer, self.head);
            let found = score(values, keys);
            for (query, found) in found.into_iter().enumerate() {
                scores[query * count + at] = found;
            }
        }
        let mut inverse = [0f32; N];
        for (query, scores) in scores.chunks_exact_mut(count).enumerate() {
            inverse[query] = 1.0 / self.weigh(&queries[query].seen, scores);
        }
        let head = self.of.shape.head;
        for from in (0..head).step_by(WIDTH) {
            let sums = self.sum::<N>(scores, from);
            for query in 0..N {
                let out = &mut out[query * head + from..][..WIDTH];
                for lane in 0..WIDTH {
                    out[lane] = sums[query][lane] * inverse[query];
                }
            }
        }
    }

    /// Turns scores into weights and returns their sum. What is not seen weighs nothing.
    #[inline(always)]
    fn weigh(&self, seen: &Range<usize>, scores: &mut [Lanes]) -> f32 {
        let tokens = |at: usize| self.from + at * PAGE..self.from + (at + 1) * PAGE;
        let mut largest = [f32::NEG_INFINITY; PAGE];
        for (at, lanes) in scores.iter_mut().enumerate() {
            let tokens = tokens(at);
            if tokens.start < seen.start || seen.end < tokens.end {
                for (token, lane) in tokens.zip(lanes.iter_mut()) {
                    if !seen.contains(&token) {
                        *lane = f32::NEG_INFINITY;
                    }
                }
            }
            for lane in 0..PAGE {
                largest[lane] = largest[lane].max(lanes[lane]);
            }
        }
        let largest = largest.iter().fold(f32::NEG_INFINITY, |m, v| m.max(*v));
        let mut sum = [0f32; PAGE];
        for lanes in scores.iter_mut() {
            for lane in 0..PAGE {
                let weight = ops::exp(lanes[lane] - largest);
                let hidden = lanes[lane] == f32::NEG_INFINITY;
                lanes[lane] = if hidden { 0.0 } else { weight };
                sum[lane] += lanes[lane];
            }
        }
        sum.iter().sum()
    }

    /// The weighted sums of some components of the values.
    #[inline(always)]
    fn sum<const N: usize>(&self, weights: &[Lanes], from: usize) -> [[f32; WIDTH]; N] {
        let (head, count) = (self.of.shape.head, self.pages.len());
        let mut sums = [[0f32; WIDTH]; N];
        for (at, page) in self.pages.iter().enumerate() {
            let values = page.values(self.of.layout, self.of.layer, self.head);
            let tokens = PAGE.min(self.end - self.from - at * PAGE);
            for token in 0..tokens {
                let value = &values[token * head + from..][..WIDTH];
                for query in 0..N {
                    let weight = weights[query * count + at][token];
                    for lane in 0..WIDTH {
                        sums[query][lane] = ops::fused(weight, value[lane], sums[query][lane]);
                    }
                }
            }
        }
        sums
    }
}

/// The products of a few queries with the 32 keys of a page.
#[inline(always)]
fn score<const N: usize>(queries: [&[f32]; N], keys: &[Lanes]) -> [Lanes; N] {
    let mut scores = [[0f32; PAGE]; N];
    for (component, keys) in keys.iter().enumerate() {
        for query in 0..N {
            let factor = queries[query][component];
            for lane in 0..PAGE {
                scores[query][lane] = ops::fused(factor, keys[lane], scores[query][lane]);
            }
        }
    }
    scores
}

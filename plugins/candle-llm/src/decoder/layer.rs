//! One layer of one step. Matrix products, attention and the work on rows between them are shared
//! out to the threads; what lies between two products is done in one pass over the rows.

use std::ops::Range;
use std::sync::{Arc, Mutex};

use super::Span;
use crate::attention::{Attention, Piece, ROWS_TOGETHER};
use crate::ops::{self, Angles};
use crate::pages::{Layout, PAGE};
use crate::pool::{Cursor, Pool, Task, by_rows};
use crate::shape::Shape;
use crate::tiles::{Activations, Matrix, Product, multiply};

/// Below this many multiplications attention is not worth waking the threads for.
const ATTENTION_WORTH_SHARING: usize = 60_000;

/// The weights of a norm.
pub(super) type Norm = Arc<[f32]>;

pub(super) struct Layer {
    pub(super) attention_norm: Norm,
    /// Queries, keys and values in one matrix.
    pub(super) qkv: Arc<Matrix>,
    pub(super) qkv_bias: Option<Vec<f32>>,
    pub(super) query_norm: Option<Vec<f32>>,
    pub(super) key_norm: Option<Vec<f32>>,
    pub(super) out: Arc<Matrix>,
    pub(super) after_attention_norm: Option<Norm>,
    pub(super) inner_norm: Norm,
    /// Gate and up in one matrix.
    pub(super) gate_up: Arc<Matrix>,
    pub(super) down: Arc<Matrix>,
    pub(super) after_inner_norm: Option<Norm>,
}

/// What runs through the layers.
pub(super) struct Stream {
    pub(super) rows: Vec<f32>,
    /// The same, normed and quantised for the next product.
    pub(super) entering: Option<Activations>,
}

/// One layer of one step.
pub(super) struct Step<'a> {
    pub(super) shape: &'a Arc<Shape>,
    pub(super) pool: &'a Pool,
    pub(super) layer: &'a Arc<Layer>,
    pub(super) index: usize,
    /// Whether this layer sees a window only.
    pub(super) window: bool,
    /// The norm of the layer that follows.
    pub(super) next: Option<&'a Norm>,
}

impl Step<'_> {
    pub(super) fn run(
        &self,
        stream: Stream,
        angles: &Arc<Angles>,
        spans: &mut [Span<'_>],
    ) -> Stream {
        let layer = self.layer;
        let Stream { rows, entering } = stream;
        let entering = match entering {
            Some(entering) => entering,
            None => self.normed(&rows, &layer.attention_norm),
        };
        let qkv = self.turned(multiply(self.pool, entering, &layer.qkv), angles);
        let attended = self.quantised(self.attend(qkv, spans));
        let out = multiply(self.pool, attended, &layer.out);
        let after = layer.after_attention_norm.as_ref();
        let Stream { rows, entering } = self.merged(rows, out, after, Some(&layer.inner_norm));
        let entering = match entering {
            Some(entering) => entering,
            None => self.normed(&rows, &layer.inner_norm),
        };
        let halves = multiply(self.pool, entering, &layer.gate_up);
        let out = multiply(self.pool, self.gated(halves), &layer.down);
        self.merged(rows, out, layer.after_inner_norm.as_ref(), self.next)
    }

    fn normed(&self, rows: &[f32], weight: &Norm) -> Activations {
        let normed = ops::normed(rows, weight, self.shape.epsilon);
        Activations::quantise(&normed, weight.len())
    }

    fn quantised(&self, rows: Vec<f32>) -> Activations {
        let width = self.shape.heads * self.shape.head;
        let parts = by_rows(self.pool, rows.len() / width, move |range| {
            Activations::quantise(&rows[range.start * width..range.end * width], width)
        });
        Activations::stack(parts)
    }

    /// Queries, keys and values with their bias, norms and angles.
    fn turned(&self, product: Product, angles: &Arc<Angles>) -> Vec<f32> {
        let (shape, layer) = (Arc::clone(self.shape), Arc::clone(self.layer));
        let angles = Arc::clone(angles);
        let parts = by_rows(self.pool, product.rows(), move |range| {
            let mut rows = vec![0f32; range.len() * product.width()];
            for (index, row) in range.zip(rows.chunks_exact_mut(product.width())) {
                product.read(index, row);
                turn(&shape, &layer, &angles, index, row);
            }
            rows
        });
        joined(parts)
    }

    /// Adds a product to the stream and prepares the sum for the next product, if its norm is
    /// known.
    fn merged(
        &self,
        rows: Vec<f32>,
        product: Product,
        after: Option<&Norm>,
        next: Option<&Norm>,
    ) -> Stream {
        let (after, next) = (after.cloned(), next.cloned());
        let (hidden, epsilon) = (self.shape.hidden, self.shape.epsilon);
        let parts = by_rows(self.pool, product.rows(), move |range: Range<usize>| {
            let mut own = rows[range.start * hidden..range.end * hidden].to_vec();
            let mut added = vec![0f32; hidden];
            for (index, row) in range.zip(own.chunks_exact_mut(hidden)) {
                product.read(index, &mut added);
                if let Some(weight) = &after {
                    ops::norm(&mut added, weight, epsilon);
                }
                ops::add_scaled(row, &added, 1.0);
            }
            let entering = next
                .as_ref()
                .map(|weight| Activations::quantise(&ops::normed(&own, weight, epsilon), hidden));
            (own, entering)
        });
        let (rows, entering): (Vec<_>, Vec<_>) = parts.into_iter().unzip();
        let entering: Option<Vec<_>> = entering.into_iter().collect();
        Stream { rows: joined(rows), entering: entering.map(Activations::stack) }
    }

    fn gated(&self, halves: Product) -> Activations {
        let (inner, activation) = (self.shape.inner, self.shape.activation);
        let parts = by_rows(self.pool, halves.rows(), move |range| {
            let mut rows = vec![0f32; range.len() * 2 * inner];
            for (index, row) in range.zip(rows.chunks_exact_mut(2 * inner)) {
                halves.read(index, row);
            }
            Activations::quantise(&ops::gated(&rows, inner, activation), inner)
        });
        Activations::stack(parts)
    }

    /// Writes the new keys and values into the pages and attends over them. The pages travel into
    /// the task and back, since its threads own what they read.
    fn attend(&self, qkv: Vec<f32>, spans: &mut [Span<'_>]) -> Vec<f32> {
        let shape = &**self.shape;
        let window = if self.window { shape.window } else { usize::MAX };
        let layout = Layout::new(shape);
        let (mut tables, mut pieces, mut work, mut row) = (Vec::new(), Vec::new(), 0, 0);
        for (table, span) in spans.iter_mut().enumerate() {
            self.write(&qkv, row, span, layout);
            let (past, count) = (span.cache.length, span.tokens.len());
            for from in (0..count).step_by(ROWS_TOGETHER) {
                let rows = row + from..row + count.min(from + ROWS_TOGETHER);
                let seen = past + from + 1;
                work += rows.len() * seen.min(window) * shape.heads * shape.head;
                pieces.extend((0..shape.kv_heads).map(|head| Piece {
                    table,
                    head,
                    rows: rows.clone(),
                    seen,
                    out: Mutex::default(),
                }));
            }
            row += count;
            tables.push(std::mem::take(&mut span.cache.table.pages));
        }
        let cursor = Cursor::default();
        let shape = Arc::clone(self.shape);
        let layer = self.index;
        let attention = Attention { shape, layout, layer, window, qkv, tables, pieces, cursor };
        let done = if work < ATTENTION_WORTH_SHARING {
            attention.work(0);
            attention
        } else {
            self.pool.run(attention)
        };
        let out = done.results(row);
        for (span, pages) in spans.iter_mut().zip(done.tables) {
            span.cache.table.pages = pages;
        }
        out
    }

    fn write(&self, qkv: &[f32], first: usize, span: &mut Span<'_>, layout: Layout) {
        let shape = &**self.shape;
        let (query, key) = (shape.heads * shape.head, shape.kv_heads * shape.head);
        let rows = qkv.chunks_exact(query + 2 * key).skip(first).take(span.tokens.len());
        for (token, row) in (span.cache.length..).zip(rows) {
            let page = span.cache.table.page_mut(token);
            let (keys, values) = row[query..].split_at(key);
            let heads = keys.chunks_exact(shape.head).zip(values.chunks_exact(shape.head));
            for (head, (key, value)) in heads.enumerate() {
                page.write(layout, (self.index, head), token % PAGE, key, value);
            }
        }
    }
}

fn turn(shape: &Shape, layer: &Layer, angles: &Angles, index: usize, row: &mut [f32]) {
    let (query, key) = (shape.heads * shape.head, shape.kv_heads * shape.head);
    if let Some(bias) = &layer.qkv_bias {
        ops::add_scaled(row, bias, 1.0);
    }
    let (queries, rest) = row.split_at_mut(query);
    let keys = &mut rest[..key];
    if let Some(weight) = &layer.query_norm {
        ops::norm(queries, weight, shape.epsilon);
    }
    if let Some(weight) = &layer.key_norm {
        ops::norm(keys, weight, shape.epsilon);
    }
    angles.turn(queries, shape.head, index);
    angles.turn(keys, shape.head, index);
    let scale = 1.0 / (shape.head as f32).sqrt();
    queries.iter_mut().for_each(|value| *value *= scale);
}

/// Parts one after the other, without a copy where there is one only.
fn joined(mut parts: Vec<Vec<f32>>) -> Vec<f32> {
    if parts.len() == 1 { parts.swap_remove(0) } else { parts.concat() }
}

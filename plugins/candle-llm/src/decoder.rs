//! One decoder for the four families: they differ in biases, in norms on queries and keys, in
//! the way positions turn into angles, and in the function of the feed-forward block.
//!
//! A step takes tokens of any number of conversations at once: all matrix products run over all
//! tokens together, only attention looks at each conversation's own keys and values. This is what
//! lets two people chat at the same time for little more than the price of one.

use std::sync::{Arc, Mutex, PoisonError};

use crate::error::LoadError;
use crate::gguf::Gguf;
use crate::ops::{self, Angles, Attend};
use crate::pool::{Cursor, Pool, Task};
use crate::shape::Shape;
use crate::tensors::Placed;
use crate::tiles::{Activations, Matrix, ROWS, multiply};

/// Below this many multiplications attention is not worth waking the threads for.
const ATTENTION_WORTH_SHARING: usize = 60_000;
/// Rows that one piece of loading work converts.
const LOAD_ROWS: usize = 16 * ROWS;

/// The weights, ready to compute.
pub struct Decoder {
    shape: Arc<Shape>,
    embeddings: Arc<Matrix>,
    layers: Vec<Layer>,
    last_norm: Vec<f32>,
    head: Arc<Matrix>,
}

struct Layer {
    attention_norm: Vec<f32>,
    /// Queries, keys and values in one matrix.
    qkv: Arc<Matrix>,
    qkv_bias: Option<Vec<f32>>,
    query_norm: Option<Vec<f32>>,
    key_norm: Option<Vec<f32>>,
    out: Arc<Matrix>,
    after_attention_norm: Option<Vec<f32>>,
    inner_norm: Vec<f32>,
    /// Gate and up in one matrix.
    gate_up: Arc<Matrix>,
    down: Arc<Matrix>,
    after_inner_norm: Option<Vec<f32>>,
}

/// Keys and values of one conversation.
#[derive(Default)]
pub struct Cache {
    layers: Vec<LayerCache>,
    /// The same on a device, per layer.
    pub(crate) placed: Vec<Placed>,
    length: usize,
}

#[derive(Default)]
struct LayerCache {
    keys: Vec<f32>,
    values: Vec<f32>,
}

impl Cache {
    /// Tokens in the cache.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether nothing is cached.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Counts tokens whose keys and values a device has taken.
    pub(crate) fn grow(&mut self, tokens: usize) {
        self.length += tokens;
    }

    /// Forgets everything after the first `length` tokens.
    pub fn truncate(&mut self, length: usize) {
        if length >= self.length {
            return;
        }
        for layer in &mut self.layers {
            let width = layer.keys.len() / self.length;
            layer.keys.truncate(length * width);
            layer.values.truncate(length * width);
        }
        self.length = length;
    }
}

/// Tokens of one conversation in a step; they follow what its cache holds.
pub struct Span<'a> {
    /// The tokens.
    pub tokens: &'a [u32],
    /// The conversation's cache, which grows by these tokens.
    pub cache: &'a mut Cache,
    /// Whether the logits after the last token are wanted.
    pub logits: bool,
}

impl Decoder {
    /// Reads and re-quantises all weights. `progress` hears of each layer: done, of how many.
    ///
    /// # Errors
    /// [`LoadError`] when a tensor is absent or has another shape than the metadata says.
    pub fn load(
        gguf: &Arc<Gguf>,
        shape: Arc<Shape>,
        pool: &Pool,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Self, LoadError> {
        let loader = Loader { gguf, pool };
        let tied = gguf.shape("output.weight").is_none();
        let embeddings =
            Arc::new(loader.matrix("token_embd.weight", shape.vocabulary, shape.hidden)?);
        let head = if tied {
            Arc::clone(&embeddings)
        } else {
            Arc::new(loader.matrix("output.weight", shape.vocabulary, shape.hidden)?)
        };
        let mut layers = Vec::with_capacity(shape.layers);
        for index in 0..shape.layers {
            layers.push(loader.layer(&shape, index)?);
            progress(index + 1, shape.layers);
        }
        let last_norm = gguf.vector("output_norm.weight", shape.hidden)?;
        Ok(Self { shape, embeddings, layers, last_norm, head })
    }

    /// The model's dimensions.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// Bytes of all weights.
    pub fn bytes(&self) -> usize {
        let layers = self.layers.iter().flat_map(|l| [&l.qkv, &l.out, &l.gate_up, &l.down]);
        let own_head = (!Arc::ptr_eq(&self.head, &self.embeddings)).then_some(&self.head);
        layers.chain([&self.embeddings]).chain(own_head).map(|matrix| matrix.bytes()).sum()
    }

    /// Runs the tokens of all spans through the model. Returns, per span, the logits after its
    /// last token if it asked for them.
    pub fn forward(&self, pool: &Pool, spans: &mut [Span<'_>]) -> Vec<Option<Vec<f32>>> {
        let shape = &*self.shape;
        let tokens: Vec<u32> = spans.iter().flat_map(|span| span.tokens.iter().copied()).collect();
        let mut stream = vec![0f32; tokens.len() * shape.hidden];
        for (row, token) in stream.chunks_exact_mut(shape.hidden).zip(&tokens) {
            self.embeddings.row(*token as usize % shape.vocabulary, row);
            row.iter_mut().for_each(|value| *value *= shape.embedding_scale);
        }
        for span in spans.iter_mut() {
            span.cache.layers.resize_with(shape.layers, LayerCache::default);
        }
        let positions: Vec<usize> = spans
            .iter()
            .flat_map(|span| span.cache.length..span.cache.length + span.tokens.len())
            .collect();
        let angles = Angles::new(&shape.rope, &positions);
        let local_angles = shape.local_rope.as_ref().map(|rope| Angles::new(rope, &positions));
        for (index, layer) in self.layers.iter().enumerate() {
            let local = local_angles.as_ref().filter(|_| shape.is_local(index));
            let step = Step { shape: &self.shape, pool, index, window: local.is_some() };
            let attended = step.attention(layer, &stream, local.unwrap_or(&angles), spans);
            add(&mut stream, &attended);
            let transformed = step.feed_forward(layer, &stream);
            add(&mut stream, &transformed);
        }
        for span in spans.iter_mut() {
            span.cache.length += span.tokens.len();
        }
        self.logits(pool, &stream, spans)
    }

    fn logits(&self, pool: &Pool, stream: &[f32], spans: &[Span<'_>]) -> Vec<Option<Vec<f32>>> {
        let mut wanted = Vec::new();
        let mut end = 0;
        for span in spans {
            end += span.tokens.len();
            if span.logits && !span.tokens.is_empty() {
                wanted.extend_from_slice(
                    &stream[(end - 1) * self.shape.hidden..][..self.shape.hidden],
                );
            }
        }
        ops::norm(&mut wanted, &self.last_norm, self.shape.epsilon);
        let logits = product(pool, &wanted, &self.head);
        let mut rows = logits.chunks_exact(self.head.rows()).map(<[f32]>::to_vec);
        spans
            .iter()
            .map(|span| if span.logits && !span.tokens.is_empty() { rows.next() } else { None })
            .collect()
    }
}

fn product(pool: &Pool, rows: &[f32], matrix: &Arc<Matrix>) -> Vec<f32> {
    if rows.is_empty() {
        return Vec::new();
    }
    multiply(pool, &Arc::new(Activations::quantise(rows, matrix.columns())), matrix)
}

fn add(to: &mut [f32], from: &[f32]) {
    ops::add_scaled(to, from, 1.0);
}

/// One layer of one step.
struct Step<'a> {
    shape: &'a Arc<Shape>,
    pool: &'a Pool,
    index: usize,
    window: bool,
}

impl Step<'_> {
    fn attention(
        &self,
        layer: &Layer,
        stream: &[f32],
        angles: &Angles,
        spans: &mut [Span<'_>],
    ) -> Vec<f32> {
        let shape = &**self.shape;
        let rows = ops::normed(stream, &layer.attention_norm, shape.epsilon);
        let mut qkv = product(self.pool, &rows, &layer.qkv);
        let (query, key) = (shape.heads * shape.head, shape.kv_heads * shape.head);
        let scale = 1.0 / (shape.head as f32).sqrt();
        for (row_index, row) in qkv.chunks_exact_mut(query + 2 * key).enumerate() {
            if let Some(bias) = &layer.qkv_bias {
                add(row, bias);
            }
            let (queries, rest) = row.split_at_mut(query);
            let keys = &mut rest[..key];
            if let Some(weight) = &layer.query_norm {
                ops::norm(queries, weight, shape.epsilon);
            }
            if let Some(weight) = &layer.key_norm {
                ops::norm(keys, weight, shape.epsilon);
            }
            angles.turn(queries, shape.head, row_index);
            angles.turn(keys, shape.head, row_index);
            queries.iter_mut().for_each(|value| *value *= scale);
        }
        let attended = self.attend(qkv, spans);
        let mut out = product(self.pool, &attended, &layer.out);
        if let Some(weight) = &layer.after_attention_norm {
            ops::norm(&mut out, weight, shape.epsilon);
        }
        out
    }

    /// Appends the new keys and values to the caches and attends over them. The caches travel
    /// into the task and back, since its threads own what they read.
    fn attend(&self, qkv: Vec<f32>, spans: &mut [Span<'_>]) -> Vec<f32> {
        let shape = &**self.shape;
        let (query, key) = (shape.heads * shape.head, shape.kv_heads * shape.head);
        let mut rows = qkv.chunks_exact(query + 2 * key);
        let (mut caches, mut pieces, mut work) = (Vec::new(), Vec::new(), 0);
        for (cache, span) in spans.iter_mut().enumerate() {
            let mut own = std::mem::take(&mut span.cache.layers[self.index]);
            for (offset, row) in rows.by_ref().take(span.tokens.len()).enumerate() {
                own.keys.extend_from_slice(&row[query..query + key]);
                own.values.extend_from_slice(&row[query + key..]);
                let end = span.cache.length + offset + 1;
                let start = if self.window { end.saturating_sub(shape.window) } else { 0 };
                work += (end - start) * query;
                pieces.push(Piece { cache, seen: start..end, out: Mutex::default() });
            }
            caches.push(own);
        }
        let attention = Attention {
            shape: Arc::clone(self.shape),
            qkv,
            caches,
            pieces,
            cursor: Cursor::default(),
        };
        let done = if work < ATTENTION_WORTH_SHARING {
            attention.work(0);
            attention
        } else {
            self.pool.run(attention)
        };
        for (span, cache) in spans.iter_mut().zip(done.caches) {
            span.cache.layers[self.index] = cache;
        }
        let mut out = Vec::with_capacity(done.pieces.len() * query);
        for piece in done.pieces {
            out.extend(piece.out.into_inner().unwrap_or_else(PoisonError::into_inner));
        }
        out
    }

    fn feed_forward(&self, layer: &Layer, stream: &[f32]) -> Vec<f32> {
        let shape = self.shape;
        let rows = ops::normed(stream, &layer.inner_norm, shape.epsilon);
        let halves = product(self.pool, &rows, &layer.gate_up);
        let inner = ops::gated(&halves, shape.inner, shape.activation);
        let mut out = product(self.pool, &inner, &layer.down);
        if let Some(weight) = &layer.after_inner_norm {
            ops::norm(&mut out, weight, shape.epsilon);
        }
        out
    }
}

/// All heads of one token.
struct Piece {
    cache: usize,
    seen: std::ops::Range<usize>,
    out: Mutex<Vec<f32>>,
}

struct Attention {
    shape: Arc<Shape>,
    qkv: Vec<f32>,
    caches: Vec<LayerCache>,
    pieces: Vec<Piece>,
    cursor: Cursor,
}

impl Task for Attention {
    fn work(&self, _thread: usize) {
        let shape = &*self.shape;
        let (query, key) = (shape.heads * shape.head, shape.kv_heads * shape.head);
        let per_key = shape.heads / shape.kv_heads;
        let mut weights = Vec::new();
        while let Some(index) = self.cursor.next(self.pieces.len()) {
            let piece = &self.pieces[index];
            let cache = &self.caches[piece.cache];
            let queries = &self.qkv[index * (query + 2 * key)..][..query];
            let mut out = vec![0f32; query];
            let heads = queries.chunks_exact(shape.head).zip(out.chunks_exact_mut(shape.head));
            for (head, (query, out)) in heads.enumerate() {
                ops::vectorised(Attend {
                    query,
                    keys: &cache.keys,
                    values: &cache.values,
                    stride: key,
                    offset: head / per_key * shape.head,
                    seen: piece.seen.clone(),
                    weights: &mut weights,
                    out,
                });
            }
            *piece.out.lock().unwrap_or_else(PoisonError::into_inner) = out;
        }
    }
}

struct Loader<'a> {
    gguf: &'a Arc<Gguf>,
    pool: &'a Pool,
}

impl Loader<'_> {
    fn layer(&self, shape: &Shape, index: usize) -> Result<Layer, LoadError> {
        let name = |part: &str| format!("blk.{index}.{part}");
        let (query, key) = (shape.heads * shape.head, shape.kv_heads * shape.head);
        let matrix = |part: &str, rows, columns| self.matrix(&name(part), rows, columns);
        let vector = |part: &str, length| self.gguf.vector(&name(part), length);
        let maybe = |part: &str, length| match self.gguf.shape(&name(part)) {
            Some(_) => vector(part, length).map(Some),
            None => Ok(None),
        };
        let qkv_bias = match maybe("attn_q.bias", query)? {
            Some(mut bias) => {
                bias.extend(vector("attn_k.bias", key)?);
                bias.extend(vector("attn_v.bias", key)?);
                Some(bias)
            }
            None => None,
        };
        Ok(Layer {
            attention_norm: vector("attn_norm.weight", shape.hidden)?,
            qkv: Arc::new(Matrix::stack([
                matrix("attn_q.weight", query, shape.hidden)?,
                matrix("attn_k.weight", key, shape.hidden)?,
                matrix("attn_v.weight", key, shape.hidden)?,
            ])),
            qkv_bias,
            query_norm: maybe("attn_q_norm.weight", shape.head)?,
            key_norm: maybe("attn_k_norm.weight", shape.head)?,
            out: Arc::new(matrix("attn_output.weight", shape.hidden, query)?),
            after_attention_norm: maybe("post_attention_norm.weight", shape.hidden)?,
            inner_norm: vector("ffn_norm.weight", shape.hidden)?,
            gate_up: Arc::new(Matrix::stack([
                matrix("ffn_gate.weight", shape.inner, shape.hidden)?,
                matrix("ffn_up.weight", shape.inner, shape.hidden)?,
            ])),
            down: Arc::new(matrix("ffn_down.weight", shape.hidden, shape.inner)?),
            after_inner_norm: maybe("post_ffw_norm.weight", shape.hidden)?,
        })
    }

    /// Reads a matrix in pieces of rows, so that only a few rows exist as full numbers at a time.
    fn matrix(&self, name: &str, rows: usize, columns: usize) -> Result<Matrix, LoadError> {
        self.gguf.expect(name, &[rows, columns])?;
        let pieces = rows.div_ceil(LOAD_ROWS);
        let done = self.pool.run(Convert {
            gguf: Arc::clone(self.gguf),
            name: name.to_owned(),
            rows,
            columns,
            cursor: Cursor::default(),
            pieces: (0..pieces).map(|_| Mutex::new(None)).collect(),
        });
        let parts = done
            .pieces
            .into_iter()
            .filter_map(|piece| piece.into_inner().unwrap_or_else(PoisonError::into_inner))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Matrix::stack(parts))
    }
}

struct Convert {
    gguf: Arc<Gguf>,
    name: String,
    rows: usize,
    columns: usize,
    cursor: Cursor,
    pieces: Vec<Mutex<Option<Result<Matrix, LoadError>>>>,
}

impl Task for Convert {
    fn work(&self, _thread: usize) {
        while let Some(piece) = self.cursor.next(self.pieces.len()) {
            let from = piece * LOAD_ROWS;
            let count = LOAD_ROWS.min(self.rows - from);
            let part = self
                .gguf
                .rows(&self.name, from, count)
                .map(|values| Matrix::quantise(&values, self.columns));
            *self.pieces[piece].lock().unwrap_or_else(PoisonError::into_inner) = Some(part);
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;

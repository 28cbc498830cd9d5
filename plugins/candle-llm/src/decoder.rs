//! One decoder for the four families: they differ in biases, in norms on queries and keys, in
//! the way positions turn into angles, and in the function of the feed-forward block.
//!
//! A step takes tokens of any number of conversations at once: all matrix products run over all
//! tokens together, only attention looks at each conversation's own keys and values. This is what
//! lets two people chat at the same time for little more than the price of one.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use crate::error::LoadError;
use crate::gguf::{self, Gguf};
use crate::ops::{self, Angles};
use crate::packing;
use crate::pages::{Layout, Table};
use crate::pool::{Cursor, Pool, Task};
use crate::shape::Shape;
use crate::tensors::Placed;
use crate::tiles::{Activations, BLOCK, Matrix, ROWS, multiply};

use layer::{Layer, Norm, Step, Stream};

mod layer;

/// Rows that one piece of loading work converts.
const LOAD_ROWS: usize = 16 * ROWS;
/// Such pieces at a time, for each thread.
const PIECES_PER_THREAD: usize = 4;

/// The weights, ready to compute.
pub struct Decoder {
    shape: Arc<Shape>,
    embeddings: Arc<Matrix>,
    layers: Vec<Arc<Layer>>,
    last_norm: Vec<f32>,
    head: Arc<Matrix>,
}

/// Keys and values of one conversation.
#[derive(Default)]
pub struct Cache {
    /// In the machine's memory.
    pub(crate) table: Table,
    /// The same on a device, per layer.
    pub(crate) placed: Vec<Placed>,
    length: usize,
}

impl Cache {
    /// A cache that begins with pages of others.
    pub(crate) fn with_table(table: Table) -> Self {
        Self { table, placed: Vec::new(), length: 0 }
    }

    /// Tokens in the cache.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether nothing is cached.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Counts tokens whose keys and values are there.
    pub(crate) fn grow(&mut self, tokens: usize) {
        self.length += tokens;
    }

    /// Forgets everything after the first `length` tokens of a cache on a device: they are
    /// written over. Pages are never taken back in part, see [`crate::pages`].
    pub(crate) fn truncate(&mut self, length: usize) {
        self.length = self.length.min(length);
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
            layers.push(Arc::new(loader.layer(&shape, index)?));
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
        let mut rows = vec![0f32; tokens.len() * shape.hidden];
        for (row, token) in rows.chunks_exact_mut(shape.hidden).zip(&tokens) {
            self.embeddings.row(*token as usize % shape.vocabulary, row);
            row.iter_mut().for_each(|value| *value *= shape.embedding_scale);
        }
        let layout = Layout::new(shape);
        for span in spans.iter_mut() {
            span.cache.table.cover(span.cache.length + span.tokens.len(), layout);
        }
        let positions: Vec<usize> = spans
            .iter()
            .flat_map(|span| span.cache.length..span.cache.length + span.tokens.len())
            .collect();
        let angles = Arc::new(Angles::new(&shape.rope, &positions));
        let local_angles =
            shape.local_rope.as_ref().map(|rope| Arc::new(Angles::new(rope, &positions)));
        let mut stream = Stream { rows, entering: None };
        for (index, layer) in self.layers.iter().enumerate() {
            let local = local_angles.as_ref().filter(|_| shape.is_local(index));
            let next = self.layers.get(index + 1).map(|layer| &layer.attention_norm);
            let window = local.is_some();
            let step = Step { shape: &self.shape, pool, layer, index, window, next };
            stream = step.run(stream, local.unwrap_or(&angles), spans);
        }
        for span in spans.iter_mut() {
            span.cache.length += span.tokens.len();
        }
        self.logits(pool, &stream.rows, spans)
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
        if wanted.is_empty() {
            return spans.iter().map(|_| None).collect();
        }
        ops::norm(&mut wanted, &self.last_norm, self.shape.epsilon);
        let activations = Activations::quantise(&wanted, self.head.columns());
        let logits = multiply(pool, activations, &self.head);
        let mut rows = (0..logits.rows()).map(|row| {
            let mut out = vec![0f32; logits.width()];
            logits.read(row, &mut out);
            out
        });
        spans
            .iter()
            .map(|span| if span.logits && !span.tokens.is_empty() { rows.next() } else { None })
            .collect()
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
        let norm = |part: &str| vector(part, shape.hidden).map(Norm::from);
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
            attention_norm: norm("attn_norm.weight")?,
            qkv: Arc::new(self.stack([
                (&name("attn_q.weight"), query, shape.hidden),
                (&name("attn_k.weight"), key, shape.hidden),
                (&name("attn_v.weight"), key, shape.hidden),
            ])?),
            qkv_bias,
            query_norm: maybe("attn_q_norm.weight", shape.head)?,
            key_norm: maybe("attn_k_norm.weight", shape.head)?,
            out: Arc::new(matrix("attn_output.weight", shape.hidden, query)?),
            after_attention_norm: maybe("post_attention_norm.weight", shape.hidden)?
                .map(Norm::from),
            inner_norm: norm("ffn_norm.weight")?,
            gate_up: Arc::new(self.stack([
                (&name("ffn_gate.weight"), shape.inner, shape.hidden),
                (&name("ffn_up.weight"), shape.inner, shape.hidden),
            ])?),
            down: Arc::new(matrix("ffn_down.weight", shape.hidden, shape.inner)?),
            after_inner_norm: maybe("post_ffw_norm.weight", shape.hidden)?.map(Norm::from),
        })
    }

    fn matrix(&self, name: &str, rows: usize, columns: usize) -> Result<Matrix, LoadError> {
        self.stack([(name, rows, columns)])
    }

    /// Reads matrices, each by its name, rows and columns, on top of each other into one.
    fn stack<const N: usize>(&self, parts: [(&str, usize, usize); N]) -> Result<Matrix, LoadError> {
        let rows = parts.iter().map(|(_, rows, _)| rows).sum();
        let mut whole = Matrix::with_room_for(rows);
        for (name, rows, columns) in parts {
            self.append(&mut whole, name, rows, columns)?;
        }
        Ok(whole)
    }

    /// Reads a matrix in pieces of rows, a few at a time, so that hardly anything exists twice.
    fn append(
        &self,
        whole: &mut Matrix,
        name: &str,
        rows: usize,
        columns: usize,
    ) -> Result<(), LoadError> {
        self.gguf.expect(name, &[rows, columns])?;
        let round = LOAD_ROWS * PIECES_PER_THREAD * self.pool.threads();
        for first in (0..rows).step_by(round) {
            let last = rows.min(first + round);
            let done = self.pool.run(Convert {
                gguf: Arc::clone(self.gguf),
                name: name.to_owned(),
                rows: first..last,
                columns,
                cursor: Cursor::default(),
                pieces: (first..last).step_by(LOAD_ROWS).map(|_| Mutex::new(None)).collect(),
            });
            for piece in done.pieces {
                if let Some(part) = piece.into_inner().unwrap_or_else(PoisonError::into_inner) {
                    whole.append(part?);
                }
            }
        }
        Ok(())
    }
}

struct Convert {
    gguf: Arc<Gguf>,
    name: String,
    rows: Range<usize>,
    columns: usize,
    cursor: Cursor,
    pieces: Vec<Mutex<Option<Result<Matrix, LoadError>>>>,
}

impl Task for Convert {
    fn work(&self, _thread: usize) {
        while let Some(piece) = self.cursor.next(self.pieces.len()) {
            let from = self.rows.start + piece * LOAD_ROWS;
            let count = LOAD_ROWS.min(self.rows.end - from);
            let part = self.convert(from, count);
            *self.pieces[piece].lock().unwrap_or_else(PoisonError::into_inner) = Some(part);
        }
    }
}

impl Convert {
    /// Types that the tiles can hold keep their codes, the others are quantised to 8 bits.
    fn convert(&self, from: usize, count: usize) -> Result<Matrix, LoadError> {
        let (kind, width, bytes) = self.gguf.packed_rows(&self.name, from, count)?;
        match packing::kept(kind) {
            Some((bits, has_least)) => {
                let weights = packing::unpack(kind, &bytes);
                Ok(Matrix::pack(bits, has_least, &weights, self.columns / BLOCK))
            }
            None => {
                let values = gguf::plain(kind, width, count, bytes)?;
                Ok(Matrix::quantise(&values, self.columns))
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;

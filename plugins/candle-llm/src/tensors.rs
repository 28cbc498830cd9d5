//! The decoder on a device with memory of its own. The weights stay quantised as the file has
//! them, and candle's kernels multiply with them; the keys and values of a conversation have
//! their place on the device from its first token on.
//!
//! As in [`crate::decoder`], all matrix products run over the tokens of all conversations
//! together, and only attention looks at each conversation alone. On the CPU this computes what
//! the other decoder computes, only slower, which is how it is tested without a GPU.

use std::sync::Arc;

use candle_core::quantized::{QMatMul, QTensor};
use candle_core::{D, Device, Module, Result, Tensor};
use candle_nn::{ops, rotary_emb};

use crate::decoder::{Cache, Span};
use crate::error::LoadError;
use crate::gguf::Gguf;
use crate::shape::{Activation, Rope, Shape};

/// The weights on a device.
pub struct TensorDecoder {
    shape: Arc<Shape>,
    device: Device,
    context: usize,
    /// In the machine's memory: a step needs a few rows of it.
    embeddings: QTensor,
    layers: Vec<Layer>,
    last_norm: Tensor,
    head: QMatMul,
    angles: Angles,
    local_angles: Option<Angles>,
}

/// Keys and values of one layer of one conversation: heads × context × width of a head.
pub(crate) type Placed = (Tensor, Tensor);

struct Layer {
    attention_norm: Tensor,
    query: Projection,
    key: Projection,
    value: Projection,
    query_norm: Option<Tensor>,
    key_norm: Option<Tensor>,
    out: QMatMul,
    after_attention_norm: Option<Tensor>,
    inner_norm: Tensor,
    gate: QMatMul,
    up: QMatMul,
    down: QMatMul,
    after_inner_norm: Option<Tensor>,
}

struct Projection {
    weight: QMatMul,
    bias: Option<Tensor>,
}

impl Projection {
    fn forward(&self, rows: &Tensor) -> Result<Tensor> {
        let product = self.weight.forward(rows)?;
        match &self.bias {
            Some(bias) => product.broadcast_add(bias),
            None => Ok(product),
        }
    }
}

/// Cosines and sines of every position of the context.
struct Angles {
    cos: Tensor,
    sin: Tensor,
    neighbours: bool,
}

impl Angles {
    fn new(rope: &Rope, context: usize, device: &Device) -> Result<Self> {
        let turns = (0..context).flat_map(|position| {
            rope.frequencies.iter().map(move |frequency| (position as f32 * frequency).sin_cos())
        });
        let (sin, cos): (Vec<f32>, Vec<f32>) = turns.unzip();
        let shape = (context, rope.frequencies.len());
        Ok(Self {
            cos: Tensor::from_vec(cos, shape, device)?,
            sin: Tensor::from_vec(sin, shape, device)?,
            neighbours: rope.neighbours,
        })
    }

    /// Turns the heads (1 × heads × tokens × width) of tokens that begin at `from`.
    fn turn(&self, heads: &Tensor, from: usize) -> Result<Tensor> {
        let (tokens, width) = (heads.dim(2)?, heads.dim(3)?);
        let cos = self.cos.narrow(0, from, tokens)?;
        let sin = self.sin.narrow(0, from, tokens)?;
        let turning = 2 * cos.dim(1)?;
        let first = heads.narrow(D::Minus1, 0, turning)?.contiguous()?;
        let turned = if self.neighbours {
            rotary_emb::rope_i(&first, &cos, &sin)?
        } else {
            rotary_emb::rope(&first, &cos, &sin)?
        };
        if turning == width {
            return Ok(turned);
        }
        let rest = heads.narrow(D::Minus1, turning, width - turning)?;
        Tensor::cat(&[&turned, &rest.contiguous()?], D::Minus1)
    }
}

impl TensorDecoder {
    /// Copies all weights to `device`. `progress` hears of each layer: done, of how many.
    ///
    /// # Errors
    /// [`LoadError`] when a tensor is absent or has another shape than the metadata says, or the
    /// device has no room for it.
    pub fn load(
        gguf: &Gguf,
        shape: Arc<Shape>,
        context: usize,
        device: Device,
        progress: &mut dyn FnMut(usize, usize),
    ) -> std::result::Result<Self, LoadError> {
        let loader = Loader { gguf, device: &device };
        let (vocabulary, hidden) = (shape.vocabulary, shape.hidden);
        gguf.expect("token_embd.weight", &[vocabulary, hidden])?;
        let embeddings = gguf.quantised("token_embd.weight", &Device::Cpu)?;
        let tied = gguf.shape("output.weight").is_none();
        let head = if tied { "token_embd.weight" } else { "output.weight" };
        let head = loader.matrix(head, vocabulary, hidden)?;
        let mut layers = Vec::with_capacity(shape.layers);
        for index in 0..shape.layers {
            layers.push(loader.layer(&shape, index)?);
            progress(index + 1, shape.layers);
        }
        let last_norm = loader.vector("output_norm.weight", hidden)?;
        let angles = Angles::new(&shape.rope, context, &device)?;
        let local_angles = match &shape.local_rope {
            Some(rope) => Some(Angles::new(rope, context, &device)?),
            None => None,
        };
        Ok(Self {
            shape,
            device,
            context,
            embeddings,
            layers,
            last_norm,
            head,
            angles,
            local_angles,
        })
    }

    /// Runs the tokens of all spans through the model. Returns, per span, the logits after its
    /// last token if it asked for them.
    ///
    /// # Errors
    /// What the device says, such as that its memory is full. The caches then hold what they
    /// held before.
    pub fn forward(&self, spans: &mut [Span<'_>]) -> Result<Vec<Option<Vec<f32>>>> {
        let shape = &*self.shape;
        let last = u32::try_from(shape.vocabulary - 1).unwrap_or(u32::MAX);
        let tokens: Vec<u32> = spans
            .iter()
            .flat_map(|span| span.tokens.iter().map(|token| *token.min(&last)))
            .collect();
        let ids = Tensor::new(tokens.as_slice(), &Device::Cpu)?;
        let embedded = self.embeddings.embedding(&ids)?.to_device(&self.device)?;
        let mut stream = (embedded * f64::from(shape.embedding_scale))?;
        for span in spans.iter_mut() {
            self.place(span.cache)?;
        }
        for (index, layer) in self.layers.iter().enumerate() {
            let local = self.local_angles.as_ref().filter(|_| shape.is_local(index));
            let window = if local.is_some() { shape.window } else { usize::MAX };
            let angles = local.unwrap_or(&self.angles);
            let rows = self.norm(&stream, &layer.attention_norm)?;
            let attended = self.attention(layer, index, &rows, angles, window, spans)?;
            let attended = self.maybe_norm(attended, layer.after_attention_norm.as_ref())?;
            stream = (stream + attended)?;
            let rows = self.norm(&stream, &layer.inner_norm)?;
            let transformed =
                self.maybe_norm(self.feed_forward(layer, &rows)?, layer.after_inner_norm.as_ref())?;
            stream = (stream + transformed)?;
        }
        let logits = self.logits(&stream, spans)?;
        for span in spans.iter_mut() {
            span.cache.grow(span.tokens.len());
        }
        Ok(logits)
    }

    /// Gives a new conversation its place on the device.
    fn place(&self, cache: &mut Cache) -> Result<()> {
        if cache.placed.is_empty() {
            let size = (self.shape.kv_heads, self.context, self.shape.head);
            let zeros = || Tensor::zeros(size, candle_core::DType::F32, &self.device);
            cache.placed =
                self.layers.iter().map(|_| Ok((zeros()?, zeros()?))).collect::<Result<_>>()?;
        }
        Ok(())
    }

    fn norm(&self, rows: &Tensor, weight: &Tensor) -> Result<Tensor> {
        ops::rms_norm(rows, weight, self.shape.epsilon)
    }

    fn maybe_norm(&self, rows: Tensor, weight: Option<&Tensor>) -> Result<Tensor> {
        match weight {
            Some(weight) => self.norm(&rows, weight),
            None => Ok(rows),
        }
    }

    fn attention(
        &self,
        layer: &Layer,
        index: usize,
        rows: &Tensor,
        angles: &Angles,
        window: usize,
        spans: &[Span<'_>],
    ) -> Result<Tensor> {
        let (queries, keys) = (layer.query.forward(rows)?, layer.key.forward(rows)?);
        let values = layer.value.forward(rows)?;
        let mut outs = Vec::with_capacity(spans.len());
        let mut row = 0;
        for span in spans.iter().filter(|span| !span.tokens.is_empty()) {
            let (count, past) = (span.tokens.len(), span.cache.len());
            let heads = |all: &Tensor, heads: usize, norm: Option<&Tensor>| {
                let own = all.narrow(0, row, count)?.reshape((1, count, heads, self.shape.head))?;
                self.maybe_norm(own.contiguous()?, norm)?.transpose(1, 2)?.contiguous()
            };
            let query = heads(&queries, self.shape.heads, layer.query_norm.as_ref())?;
            let key = heads(&keys, self.shape.kv_heads, layer.key_norm.as_ref())?;
            let value = heads(&values, self.shape.kv_heads, None)?;
            let (query, key) = (angles.turn(&query, past)?, angles.turn(&key, past)?);
            let (all_keys, all_values) = &span.cache.placed[index];
            all_keys.slice_set(&key.squeeze(0)?, 1, past)?;
            all_values.slice_set(&value.squeeze(0)?, 1, past)?;
            outs.push(self.attend(&query, &span.cache.placed[index], past, window)?);
            row += count;
        }
        layer.out.forward(&Tensor::cat(&outs, 0)?)
    }

    /// Attention of one conversation: `query` is 1 × heads × tokens × width. The query heads that
    /// share a key head stand below each other, so that keys are not copied.
    fn attend(
        &self,
        query: &Tensor,
        placed: &Placed,
        past: usize,
        window: usize,
    ) -> Result<Tensor> {
        let shape = &*self.shape;
        let count = query.dim(2)?;
        let end = past + count;
        let start = (past + 1).saturating_sub(window);
        let per_key = shape.heads / shape.kv_heads;
        let keys = placed.0.narrow(1, start, end - start)?;
        let values = placed.1.narrow(1, start, end - start)?;
        let query = query.reshape((shape.kv_heads, per_key * count, shape.head))?;
        let query = (query * (1.0 / (shape.head as f64).sqrt()))?;
        let mut scores = query.matmul(&keys.transpose(1, 2)?)?;
        if count > 1 {
            let mask = self.mask(past, count, start, window)?;
            scores = scores
                .reshape((shape.kv_heads, per_key, count, end - start))?
                .broadcast_add(&mask)?
                .reshape((shape.kv_heads, per_key * count, end - start))?;
        }
        let attended = ops::softmax_last_dim(&scores)?.matmul(&values)?;
        attended
            .reshape((shape.heads, count, shape.head))?
            .transpose(0, 1)?
            .reshape((count, shape.heads * shape.head))
    }

    /// What each of `count` tokens does not see: what follows it, and what its window has left.
    fn mask(&self, past: usize, count: usize, start: usize, window: usize) -> Result<Tensor> {
        let end = past + count;
        let hidden = (past..end).flat_map(|own| {
            (start..end).map(move |seen| {
                if seen > own || own - seen >= window { f32::NEG_INFINITY } else { 0.0 }
            })
        });
        Tensor::from_vec(hidden.collect(), (count, end - start), &self.device)
    }

    fn feed_forward(&self, layer: &Layer, rows: &Tensor) -> Result<Tensor> {
        let gate = layer.gate.forward(rows)?;
        let gate = match self.shape.activation {
            Activation::Silu => gate.silu()?,
            Activation::Gelu => gate.gelu()?,
        };
        layer.down.forward(&(gate * layer.up.forward(rows)?)?)
    }

    fn logits(&self, stream: &Tensor, spans: &[Span<'_>]) -> Result<Vec<Option<Vec<f32>>>> {
        let mut wanted = Vec::new();
        let mut end = 0;
        for span in spans {
            end += span.tokens.len();
            if span.logits && !span.tokens.is_empty() {
                wanted.push(stream.narrow(0, end - 1, 1)?);
            }
        }
        if wanted.is_empty() {
            return Ok(spans.iter().map(|_| None).collect());
        }
        let rows = self.norm(&Tensor::cat(&wanted, 0)?, &self.last_norm)?;
        let mut rows = self.head.forward(&rows)?.to_vec2()?.into_iter();
        let asked = |span: &Span<'_>| span.logits && !span.tokens.is_empty();
        Ok(spans.iter().map(|span| if asked(span) { rows.next() } else { None }).collect())
    }
}

struct Loader<'a> {
    gguf: &'a Gguf,
    device: &'a Device,
}

impl Loader<'_> {
    fn layer(&self, shape: &Shape, index: usize) -> std::result::Result<Layer, LoadError> {
        let name = |part: &str| format!("blk.{index}.{part}");
        let (query, key) = (shape.heads * shape.head, shape.kv_heads * shape.head);
        let matrix = |part: &str, rows, columns| self.matrix(&name(part), rows, columns);
        let vector = |part: &str, length| self.vector(&name(part), length);
        let maybe = |part: &str, length| match self.gguf.shape(&name(part)) {
            Some(_) => vector(part, length).map(Some),
            None => Ok(None),
        };
        let projection = |letter: &str, rows| -> std::result::Result<_, LoadError> {
            Ok(Projection {
                weight: matrix(&format!("attn_{letter}.weight"), rows, shape.hidden)?,
                bias: maybe(&format!("attn_{letter}.bias"), rows)?,
            })
        };
        Ok(Layer {
            attention_norm: vector("attn_norm.weight", shape.hidden)?,
            query: projection("q", query)?,
            key: projection("k", key)?,
            value: projection("v", key)?,
            query_norm: maybe("attn_q_norm.weight", shape.head)?,
            key_norm: maybe("attn_k_norm.weight", shape.head)?,
            out: matrix("attn_output.weight", shape.hidden, query)?,
            after_attention_norm: maybe("post_attention_norm.weight", shape.hidden)?,
            inner_norm: vector("ffn_norm.weight", shape.hidden)?,
            gate: matrix("ffn_gate.weight", shape.inner, shape.hidden)?,
            up: matrix("ffn_up.weight", shape.inner, shape.hidden)?,
            down: matrix("ffn_down.weight", shape.hidden, shape.inner)?,
            after_inner_norm: maybe("post_ffw_norm.weight", shape.hidden)?,
        })
    }

    fn matrix(
        &self,
        name: &str,
        rows: usize,
        columns: usize,
    ) -> std::result::Result<QMatMul, LoadError> {
        self.gguf.expect(name, &[rows, columns])?;
        Ok(QMatMul::from_qtensor(self.gguf.quantised(name, self.device)?)?)
    }

    fn vector(&self, name: &str, length: usize) -> std::result::Result<Tensor, LoadError> {
        Ok(Tensor::from_vec(self.gguf.vector(name, length)?, length, self.device)?)
    }
}

#[cfg(test)]
mod tests;

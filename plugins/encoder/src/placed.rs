//! The layers on a device with memory of its own, by candle's plain operations. Texts of a batch are
//! filled up to the longest, and nobody hears the filling. On the processor this computes what
//! [`crate::layer`] computes, only slower, which is how it is tested without a GPU.

use candle_core::{DType, Device, Result as Computed, Tensor};
use candle_nn::ops::{layer_norm, softmax_last_dim};

use qudao_kernels::Norm;

use crate::layer::{Layer, Linear};

/// What a filled-up place weighs in the attention, before the softmax.
const UNHEARD: f32 = -1e9;
/// Bytes of a batch's intermediate results, at most: sixteen texts of 512 tokens, whose heads look at
/// each other.
pub(crate) const BATCH_BYTES: u64 = 512 << 20;

struct PlacedLinear {
    weight: Tensor,
    bias: Tensor,
}

struct PlacedNorm {
    weight: Tensor,
    shift: Tensor,
    epsilon: f32,
}

struct PlacedLayer {
    attention: PlacedLinear,
    mixed: PlacedLinear,
    mixed_norm: PlacedNorm,
    up: PlacedLinear,
    down: PlacedLinear,
    norm: PlacedNorm,
}

/// Layers on a device.
pub(crate) struct Placed {
    device: Device,
    heads: usize,
    layers: Vec<PlacedLayer>,
}

fn vector(numbers: &[f32], device: &Device) -> Computed<Tensor> {
    Tensor::new(numbers, device)
}

impl PlacedLinear {
    fn new(from: &Linear, device: &Device) -> Computed<Self> {
        Ok(Self { weight: from.weight()?.to_device(device)?, bias: vector(from.0.bias(), device)? })
    }

    /// Rows of any number of texts: text, token, number.
    fn forward(&self, rows: &Tensor) -> Computed<Tensor> {
        let (texts, length, numbers) = rows.dims3()?;
        let flat = rows.reshape((texts * length, numbers))?.matmul(&self.weight)?;
        flat.broadcast_add(&self.bias)?.reshape((texts, length, self.bias.dim(0)?))
    }
}

impl PlacedNorm {
    fn new(from: &Norm, device: &Device) -> Computed<Self> {
        let (weight, shift) = (vector(&from.weight, device)?, vector(&from.shift, device)?);
        Ok(Self { weight, shift, epsilon: from.epsilon })
    }

    fn forward(&self, rows: &Tensor) -> Computed<Tensor> {
        layer_norm(&rows.contiguous()?, &self.weight, &self.shift, self.epsilon)
    }
}

impl PlacedLayer {
    fn new(from: &Layer, device: &Device) -> Computed<Self> {
        Ok(Self {
            attention: PlacedLinear::new(&from.attention, device)?,
            mixed: PlacedLinear::new(&from.mixed, device)?,
            mixed_norm: PlacedNorm::new(&from.mixed_norm, device)?,
            up: PlacedLinear::new(&from.up, device)?,
            down: PlacedLinear::new(&from.down, device)?,
            norm: PlacedNorm::new(&from.norm, device)?,
        })
    }

    fn forward(&self, stream: &Tensor, mask: &Tensor, heads: usize) -> Computed<Tensor> {
        let (texts, length, hidden) = stream.dims3()?;
        let wide = self.attention.forward(stream)?;
        let wide = wide.reshape((texts, length, 3, heads, hidden / heads))?;
        // Text, head, token, number.
        let part = |at: usize| wide.narrow(2, at, 1)?.squeeze(2)?.transpose(1, 2)?.contiguous();
        let (queries, keys, values) = (part(0)?, part(1)?, part(2)?);
        let weights = queries.matmul(&keys.t()?.contiguous()?)?.broadcast_add(mask)?;
        let heard = softmax_last_dim(&weights)?.matmul(&values)?;
        let heard = heard.transpose(1, 2)?.contiguous()?.reshape((texts, length, hidden))?;
        let mixed = self.mixed_norm.forward(&(self.mixed.forward(&heard)? + stream)?)?;
        let inner = self.up.forward(&mixed)?.gelu_erf()?;
        self.norm.forward(&(self.down.forward(&inner)? + mixed)?)
    }
}

impl Placed {
    pub(crate) fn new(layers: &[Layer], heads: usize, device: Device) -> Computed<Self> {
        let layers =
            layers.iter().map(|layer| PlacedLayer::new(layer, &device)).collect::<Computed<_>>()?;
        Ok(Self { device, heads, layers })
    }

    /// The mean of each text's tokens after each of the layers `taps`, one after the other. `first` holds
    /// a row for each token, text after text.
    pub(crate) fn means(
        &self,
        first: &[f32],
        lengths: &[usize],
        taps: &[usize],
    ) -> Computed<Vec<Vec<f32>>> {
        let tokens: usize = lengths.iter().sum();
        let hidden = first.len() / tokens.max(1);
        let longest = lengths.iter().copied().max().unwrap_or(0);
        let texts = lengths.len();
        let mut rows = vec![0.0; texts * longest * hidden];
        let (mut mask, mut share) = (vec![UNHEARD; texts * longest], vec![0.0; texts * longest]);
        let mut from = first;
        for (text, length) in lengths.iter().enumerate() {
            let (own, rest) = from.split_at(length * hidden);
            from = rest;
            let at = text * longest;
            rows[at * hidden..at * hidden + own.len()].copy_from_slice(own);
            mask[at..at + length].fill(0.0);
            #[expect(clippy::cast_precision_loss, reason = "a text has a few hundred tokens")]
            share[at..at + length].fill(1.0 / (*length).max(1) as f32);
        }
        let mut stream = Tensor::from_vec(rows, (texts, longest, hidden), &self.device)?;
        let mask = Tensor::from_vec(mask, (texts, 1, 1, longest), &self.device)?;
        let share = Tensor::from_vec(share, (texts, 1, longest), &self.device)?;
        let mut means = vec![Vec::with_capacity(taps.len() * hidden); texts];
        for (at, layer) in self.layers.iter().enumerate() {
            stream = layer.forward(&stream, &mask, self.heads)?;
            if taps.contains(&(at + 1)) {
                let pooled = share.matmul(&stream)?.squeeze(1)?.to_dtype(DType::F32)?;
                for (mean, pooled) in means.iter_mut().zip(pooled.to_vec2::<f32>()?) {
                    mean.extend(pooled);
                }
            }
        }
        Ok(means)
    }
}

//! One layer of the network.

use candle_core::{Device, Result as Computed, Tensor};
use candle_nn::ops::softmax_last_dim;

use crate::{
    error::EncoderError,
    file::{File, Network},
    slices::{AddNorm, BiasGelu, add_bias},
};

/// A matrix that rows are multiplied with, and what is added.
pub(crate) struct Linear {
    /// Columns by rows of the file: ready to stand on the right.
    pub(crate) weight: Tensor,
    pub(crate) bias: Vec<f32>,
}

/// The scale and shift of a norm.
pub(crate) struct Norm {
    pub(crate) weight: Vec<f32>,
    pub(crate) shift: Vec<f32>,
    pub(crate) epsilon: f32,
}

/// Attention and what follows it.
pub(crate) struct Layer {
    /// Queries, keys and values side by side; the queries are scaled already.
    pub(crate) attention: Linear,
    pub(crate) mixed: Linear,
    pub(crate) mixed_norm: Norm,
    pub(crate) up: Linear,
    pub(crate) down: Linear,
    pub(crate) norm: Norm,
}

/// Texts of one length that lie one after the other.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Group {
    /// Row of the first token.
    pub(crate) start: usize,
    pub(crate) texts: usize,
    /// Tokens of each.
    pub(crate) length: usize,
}

impl Linear {
    fn new(weight: Vec<f32>, rows: usize, columns: usize, bias: Vec<f32>) -> Computed<Self> {
        let weight = Tensor::from_vec(weight, (rows, columns), &Device::Cpu)?.t()?.contiguous()?;
        Ok(Self { weight, bias })
    }

    fn read(
        file: &File<'_>,
        name: &str,
        rows: usize,
        columns: usize,
    ) -> Result<Self, EncoderError> {
        let weight = file.rows(&format!("{name}.weight"), rows, columns)?.all(rows);
        let bias = file.numbers(&format!("{name}.bias"), rows)?;
        Ok(Self::new(weight, rows, columns, bias)?)
    }
}

impl Norm {
    pub(crate) fn read(file: &File<'_>, name: &str) -> Result<Self, EncoderError> {
        let hidden = file.network.hidden;
        let weight = file.numbers(&format!("{name}.weight"), hidden)?;
        let shift = file.numbers(&format!("{name}.bias"), hidden)?;
        #[expect(clippy::cast_possible_truncation, reason = "the network computes in f32")]
        Ok(Self { weight, shift, epsilon: file.network.epsilon as f32 })
    }

    /// Adds a bias and the stream first.
    pub(crate) fn after<'a>(&'a self, bias: &'a [f32]) -> AddNorm<'a> {
        AddNorm { bias, weight: &self.weight, shift: &self.shift, epsilon: self.epsilon }
    }
}

impl Layer {
    pub(crate) fn read(file: &File<'_>, at: usize) -> Result<Self, EncoderError> {
        let Network { hidden, heads, inner, .. } = file.network;
        let name = |part: &str| format!("encoder.layer.{at}.{part}");
        #[expect(clippy::cast_precision_loss, reason = "a head has a few dozen numbers")]
        let scale = 1.0 / ((hidden / heads) as f32).sqrt();
        let (mut weight, mut bias) = (Vec::new(), Vec::new());
        for part in ["query", "key", "value"] {
            let part = name(&format!("attention.self.{part}"));
            let factor = if weight.is_empty() { scale } else { 1.0 };
            let rows = file.rows(&format!("{part}.weight"), hidden, hidden)?.all(hidden);
            weight.extend(rows.into_iter().map(|number| number * factor));
            let numbers = file.numbers(&format!("{part}.bias"), hidden)?;
            bias.extend(numbers.into_iter().map(|number| number * factor));
        }
        Ok(Self {
            attention: Linear::new(weight, 3 * hidden, hidden, bias)?,
            mixed: Linear::read(file, &name("attention.output.dense"), hidden, hidden)?,
            mixed_norm: Norm::read(file, &name("attention.output.LayerNorm"))?,
            up: Linear::read(file, &name("intermediate.dense"), inner, hidden)?,
            down: Linear::read(file, &name("output.dense"), hidden, inner)?,
            norm: Norm::read(file, &name("output.LayerNorm"))?,
        })
    }

    /// The stream after this layer.
    pub(crate) fn forward(
        &self,
        stream: &Tensor,
        groups: &[Group],
        heads: usize,
    ) -> Computed<Tensor> {
        let wide = stream.matmul(&self.attention.weight)?;
        add_bias(&wide, &self.attention.bias)?;
        let parts = groups.iter().map(|group| attend(&wide, *group, heads));
        let heard = Tensor::cat(&parts.collect::<Computed<Vec<_>>>()?, 0)?;
        let mixed = heard.matmul(&self.mixed.weight)?;
        mixed.inplace_op2(stream, &self.mixed_norm.after(&self.mixed.bias))?;
        let inner = mixed.matmul(&self.up.weight)?;
        inner.inplace_op1(&BiasGelu(&self.up.bias))?;
        let out = inner.matmul(&self.down.weight)?;
        out.inplace_op2(&mixed, &self.norm.after(&self.down.bias))?;
        Ok(out)
    }
}

/// What the tokens of each text of a group hear of each other.
fn attend(wide: &Tensor, group: Group, heads: usize) -> Computed<Tensor> {
    let Group { start, texts, length } = group;
    let columns = wide.dim(1)?;
    let rows = wide.narrow(0, start, texts * length)?;
    let rows = rows.reshape((texts, length, 3, heads, columns / 3 / heads))?;
    let part = |at: usize| {
        // Text, head, token, number.
        rows.narrow(2, at, 1)?.squeeze(2)?.transpose(1, 2)?.contiguous()
    };
    let (queries, keys, values) = (part(0)?, part(1)?, part(2)?);
    let weights = softmax_last_dim(&queries.matmul(&keys.t()?)?)?;
    let heard = weights.matmul(&values)?;
    heard.transpose(1, 2)?.reshape((texts * length, columns / 3))
}

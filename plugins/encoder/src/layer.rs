//! One layer of the network.

use candle_core::{Device, Result as Computed, Tensor};
use qudao_kernels::{Bend, Crew, Norm, Panels, Shape};

use crate::{
    error::EncoderError,
    file::{File, Network},
};

/// A matrix that rows are multiplied with, and what is added.
pub(crate) struct Linear(pub(crate) Panels);

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

/// Rows of the texts that are computed together. Their memory is used again.
#[derive(Default)]
pub(crate) struct Sheet {
    /// What goes into a layer, and what comes out of it.
    pub(crate) stream: Vec<f32>,
    wide: Vec<f32>,
    heard: Vec<f32>,
    mixed: Vec<f32>,
    inner: Vec<f32>,
}

impl Sheet {
    /// Makes room for so many tokens.
    pub(crate) fn fit(&mut self, tokens: usize, network: &Network) {
        let Network { hidden, inner, .. } = *network;
        self.stream.resize(tokens * hidden, 0.0);
        self.wide.resize(tokens * 3 * hidden, 0.0);
        self.heard.resize(tokens * hidden, 0.0);
        self.mixed.resize(tokens * hidden, 0.0);
        self.inner.resize(tokens * inner, 0.0);
    }
}

impl Linear {
    fn read(
        file: &File<'_>,
        name: &str,
        rows: usize,
        columns: usize,
        shape: Shape,
    ) -> Result<Self, EncoderError> {
        let weight = file.rows(&format!("{name}.weight"), rows, columns)?.all(rows);
        let bias = file.numbers(&format!("{name}.bias"), rows)?;
        Ok(Self(Panels::new(&weight, &bias, columns, shape)))
    }

    /// The matrix for candle, ready to stand on the right. It is made of the panels each time, so that there
    /// is one copy of the weights in memory.
    pub(crate) fn weight(&self) -> Computed<Tensor> {
        Tensor::from_vec(self.0.plain(), (self.0.inputs, self.0.outputs), &Device::Cpu)
    }
}

/// Reads the scale and shift of a norm.
pub(crate) fn norm(file: &File<'_>, name: &str) -> Result<Norm, EncoderError> {
    let hidden = file.network.hidden;
    let weight = file.numbers(&format!("{name}.weight"), hidden)?;
    let shift = file.numbers(&format!("{name}.bias"), hidden)?;
    #[expect(clippy::cast_possible_truncation, reason = "the network computes in f32")]
    Ok(Norm { weight, shift, epsilon: file.network.epsilon as f32 })
}

impl Layer {
    pub(crate) fn read(file: &File<'_>, at: usize, shape: Shape) -> Result<Self, EncoderError> {
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
            attention: Linear(Panels::new(&weight, &bias, hidden, shape)),
            mixed: Linear::read(file, &name("attention.output.dense"), hidden, hidden, shape)?,
            mixed_norm: norm(file, &name("attention.output.LayerNorm"))?,
            up: Linear::read(file, &name("intermediate.dense"), inner, hidden, shape)?,
            down: Linear::read(file, &name("output.dense"), hidden, inner, shape)?,
            norm: norm(file, &name("output.LayerNorm"))?,
        })
    }

    /// Brings the stream of texts of these lengths through this layer.
    pub(crate) fn forward(&self, sheet: &mut Sheet, lengths: &[usize], heads: usize, by: &Crew) {
        let Sheet { stream, wide, heard, mixed, inner } = sheet;
        by.multiply(stream, &self.attention.0, Bend::Straight, wide);
        by.attend(wide, lengths, heads, heard);
        by.multiply(heard, &self.mixed.0, Bend::Straight, mixed);
        by.add_norm(mixed, stream, &self.mixed_norm);
        by.multiply(mixed, &self.up.0, Bend::Gelu, inner);
        by.multiply(inner, &self.down.0, Bend::Straight, stream);
        by.add_norm(stream, mixed, &self.norm);
    }
}

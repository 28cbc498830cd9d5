//! How a result depends on each token: the network once more, in steps that candle can differentiate.

use candle_core::{D, Device, Result, Tensor, Var};
use candle_nn::ops::softmax;

use qudao_kernels::Norm;

use crate::{
    error::EncoderError,
    layer::{Layer, Linear},
    model::Encoder,
};

impl Encoder {
    /// For each token of a text: how much a weighted sum of the layers' means changes with it, to first
    /// order (gradient × input). `weights` has the numbers of [`Encoder::means`] for the same `taps`.
    ///
    /// # Errors
    /// [`EncoderError::Compute`].
    pub fn gradient_input(
        &self,
        text: &[u32],
        taps: &[usize],
        weights: &[f32],
    ) -> std::result::Result<Vec<f32>, EncoderError> {
        let hidden = self.network.hidden;
        let mut first = vec![0.0; text.len() * hidden];
        self.first_rows(&[text], &mut first);
        let input = Var::from_vec(first, (text.len(), hidden), &Device::Cpu)?;
        let weights = Tensor::new(weights, &Device::Cpu)?;
        let mut stream = input.as_tensor().clone();
        let mut sum: Option<Tensor> = None;
        let mut seen = 0;
        for (at, layer) in self.layers.iter().enumerate() {
            stream = forward(layer, &stream, self.network.heads)?;
            if taps.contains(&(at + 1)) {
                let part = weights.narrow(0, seen * hidden, hidden)?;
                let weighted = (stream.mean(0)? * part)?.sum_all()?;
                sum = Some(match sum {
                    Some(sum) => (sum + weighted)?,
                    None => weighted,
                });
                seen += 1;
            }
        }
        let Some(sum) = sum else { return Ok(vec![0.0; text.len()]) };
        let gradients = sum.backward()?;
        let Some(gradient) = gradients.get(&input) else { return Ok(vec![0.0; text.len()]) };
        Ok((gradient * input.as_tensor())?.sum(D::Minus1)?.to_vec1()?)
    }
}

fn linear(rows: &Tensor, by: &Linear) -> Result<Tensor> {
    let bias = Tensor::new(by.0.bias(), &Device::Cpu)?;
    rows.matmul(&by.weight()?)?.broadcast_add(&bias)
}

fn norm(rows: &Tensor, by: &Norm) -> Result<Tensor> {
    let mean = rows.mean_keepdim(D::Minus1)?;
    let centred = rows.broadcast_sub(&mean)?;
    let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
    let scaled = centred.broadcast_div(&(variance + f64::from(by.epsilon))?.sqrt()?)?;
    let weight = Tensor::new(by.weight.as_slice(), &Device::Cpu)?;
    let shift = Tensor::new(by.shift.as_slice(), &Device::Cpu)?;
    scaled.broadcast_mul(&weight)?.broadcast_add(&shift)
}

fn forward(layer: &Layer, stream: &Tensor, heads: usize) -> Result<Tensor> {
    let wide = linear(stream, &layer.attention)?;
    let (length, columns) = wide.dims2()?;
    let rows = wide.reshape((length, 3, heads, columns / 3 / heads))?;
    let part = |at: usize| rows.narrow(1, at, 1)?.squeeze(1)?.transpose(0, 1)?.contiguous();
    let (queries, keys, values) = (part(0)?, part(1)?, part(2)?);
    let weights = softmax(&queries.matmul(&keys.t()?)?, D::Minus1)?;
    let heard = weights.matmul(&values)?.transpose(0, 1)?.reshape((length, columns / 3))?;
    let mixed = norm(&(linear(&heard, &layer.mixed)? + stream)?, &layer.mixed_norm)?;
    let inner = linear(&mixed, &layer.up)?.gelu_erf()?;
    norm(&(linear(&inner, &layer.down)? + mixed)?, &layer.norm)
}

//! The side of the network that listens: half a minute becomes 1,500 places, computed with candle.

use candle_core::{Device, Result as Computed, Tensor};

use crate::{
    error::LoadError,
    file::{File, Network},
    mel::ROWS,
    rows::{Bias, BiasAdd, BiasGelu, Norm, Softmax},
};

/// Rows that a convolution sees at once.
const SEEN: usize = 3;

/// A matrix that rows are multiplied with, and what is added.
struct Linear {
    /// Columns by rows of the file: ready to stand on the right.
    weight: Tensor,
    bias: Vec<f32>,
}

struct Layer {
    attention_norm: Norm,
    /// Queries, keys and values side by side; the queries are scaled already.
    attention: Linear,
    mixed: Linear,
    norm: Norm,
    up: Linear,
    down: Linear,
}

/// The listening side.
pub(crate) struct Encoder {
    network: Network,
    first: Linear,
    second: Linear,
    places: Tensor,
    layers: Vec<Layer>,
    norm: Norm,
}

impl Linear {
    /// From a matrix as the file has it, rows by columns.
    fn new(weight: Vec<f32>, rows: usize, columns: usize, bias: Vec<f32>) -> Computed<Self> {
        let weight = Tensor::from_vec(weight, (rows, columns), &Device::Cpu)?.t()?.contiguous()?;
        Ok(Self { weight, bias })
    }

    fn read(file: &File<'_>, name: &str, rows: usize, columns: usize) -> Result<Self, LoadError> {
        let weight = file.numbers(&format!("{name}.weight"), &[rows, columns])?;
        let bias = file.numbers(&format!("{name}.bias"), &[rows])?;
        Ok(Self::new(weight, rows, columns, bias)?)
    }

    /// A convolution over three rows, as a matrix for those rows one after the other.
    fn convolution(file: &File<'_>, name: &str, inputs: usize) -> Result<Self, LoadError> {
        let hidden = file.network.hidden;
        let weight = file.numbers(&format!("{name}.weight"), &[hidden, inputs, SEEN])?;
        let bias = file.numbers(&format!("{name}.bias"), &[hidden])?;
        let weight = Tensor::from_vec(weight, (hidden, inputs, SEEN), &Device::Cpu)?;
        let weight = weight.permute((2, 1, 0))?.reshape((SEEN * inputs, hidden))?.contiguous()?;
        Ok(Self { weight, bias })
    }
}

impl Layer {
    fn read(file: &File<'_>, at: usize) -> Result<Self, LoadError> {
        let Network { hidden, heads, .. } = file.network;
        let name = |part: &str| format!("model.encoder.layers.{at}.{part}");
        #[expect(clippy::cast_precision_loss, reason = "a head has a few dozen numbers")]
        let scale = 1.0 / ((hidden / heads) as f32).sqrt();
        let (mut weight, mut bias) = (Vec::new(), Vec::new());
        for (part, factor) in [("q", scale), ("k", 1.0), ("v", 1.0)] {
            let part = name(&format!("self_attn.{part}_proj"));
            let numbers = file.numbers(&format!("{part}.weight"), &[hidden, hidden])?;
            weight.extend(numbers.into_iter().map(|number| number * factor));
            if part.ends_with("k_proj") {
                bias.resize(2 * hidden, 0.0);
            } else {
                let numbers = file.numbers(&format!("{part}.bias"), &[hidden])?;
                bias.extend(numbers.into_iter().map(|number| number * factor));
            }
        }
        Ok(Self {
            attention_norm: file.norm(&name("self_attn_layer_norm"))?,
            attention: Linear::new(weight, 3 * hidden, hidden, bias)?,
            mixed: Linear::read(file, &name("self_attn.out_proj"), hidden, hidden)?,
            norm: file.norm(&name("final_layer_norm"))?,
            up: Linear::read(file, &name("fc1"), 4 * hidden, hidden)?,
            down: Linear::read(file, &name("fc2"), hidden, 4 * hidden)?,
        })
    }

    fn forward(&self, stream: &Tensor, heads: usize) -> Computed<Tensor> {
        let wide = self.attention_norm.rows(stream)?.matmul(&self.attention.weight)?;
        wide.inplace_op1(&Bias(&self.attention.bias))?;
        let mixed = attend(&wide, heads)?.matmul(&self.mixed.weight)?;
        mixed.inplace_op2(stream, &BiasAdd(&self.mixed.bias))?;
        let inner = self.norm.rows(&mixed)?.matmul(&self.up.weight)?;
        inner.inplace_op1(&BiasGelu(&self.up.bias))?;
        let out = inner.matmul(&self.down.weight)?;
        out.inplace_op2(&mixed, &BiasAdd(&self.down.bias))?;
        Ok(out)
    }
}

impl Encoder {
    pub(crate) fn read(file: &File<'_>) -> Result<Self, LoadError> {
        let network = file.network;
        let Network { layers, hidden, mels, positions, .. } = network;
        let places = file.numbers("model.encoder.embed_positions.weight", &[positions, hidden])?;
        Ok(Self {
            network,
            first: Linear::convolution(file, "model.encoder.conv1", mels)?,
            second: Linear::convolution(file, "model.encoder.conv2", hidden)?,
            places: Tensor::from_vec(places, (positions, hidden), &Device::Cpu)?,
            layers: (0..layers).map(|at| Layer::read(file, at)).collect::<Result<_, _>>()?,
            norm: file.norm("model.encoder.layer_norm")?,
        })
    }

    /// What is heard in half a minute of a picture: places by the network's width.
    pub(crate) fn listen(&self, picture: &[f32]) -> Computed<Tensor> {
        let Network { mels, hidden, heads, .. } = self.network;
        let seen = gather(picture, mels, ROWS, 1);
        let rows = Tensor::from_vec(seen, (ROWS, SEEN * mels), &Device::Cpu)?;
        let rows = rows.matmul(&self.first.weight)?;
        rows.inplace_op1(&BiasGelu(&self.first.bias))?;
        let seen = gather(&rows.flatten_all()?.to_vec1::<f32>()?, hidden, ROWS / 2, 2);
        let rows = Tensor::from_vec(seen, (ROWS / 2, SEEN * hidden), &Device::Cpu)?;
        let rows = rows.matmul(&self.second.weight)?;
        rows.inplace_op1(&BiasGelu(&self.second.bias))?;
        let mut stream = (rows + &self.places)?;
        for layer in &self.layers {
            stream = layer.forward(&stream, heads)?;
        }
        self.norm.rows(&stream)
    }
}

/// For each row of the result the rows before, at and after its place, one after the other; zeros beyond
/// the ends. Places are `stride` rows apart.
fn gather(rows: &[f32], width: usize, count: usize, stride: usize) -> Vec<f32> {
    let mut seen = vec![0.0; count * SEEN * width];
    for (at, out) in seen.chunks_exact_mut(SEEN * width).enumerate() {
        for (part, out) in out.chunks_exact_mut(width).enumerate() {
            let Some(row) = (at * stride + part).checked_sub(1) else { continue };
            if let Some(row) = rows.get(row * width..(row + 1) * width) {
                out.copy_from_slice(row);
            }
        }
    }
    seen
}

/// What the places hear of each other.
fn attend(wide: &Tensor, heads: usize) -> Computed<Tensor> {
    let (length, columns) = wide.dims2()?;
    let rows = wide.reshape((length, 3, heads, columns / 3 / heads))?;
    let part = |at: usize| {
        // Head, place, number.
        rows.narrow(1, at, 1)?.squeeze(1)?.transpose(0, 1)?.contiguous()
    };
    let (queries, keys, values) = (part(0)?, part(1)?, part(2)?);
    let weights = queries.matmul(&keys.t()?)?;
    weights.inplace_op1(&Softmax)?;
    let heard = weights.matmul(&values)?;
    heard.transpose(0, 1)?.reshape((length, columns / 3))
}

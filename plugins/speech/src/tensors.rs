//! The network on candle's tensors, on any device that candle knows. On the processor this computes what
//! [`crate::encoder`] and [`crate::decoder`] compute, only slower, which is how it is tested without a GPU.

use candle_core::{Device, Result as Computed, Tensor};
use candle_nn::{Conv1d, Conv1dConfig, LayerNorm, Module as _, ops::softmax_last_dim};

use crate::{
    error::LoadError,
    file::{EPSILON, File, Measures},
    mel::ROWS,
    network::Network,
};

/// Rows that a convolution sees at once.
const SEEN: usize = 3;

/// A matrix, transposed, and what is added.
struct Linear {
    weight: Tensor,
    bias: Option<Tensor>,
}

/// Queries over keys and values, of the same stream or of another.
struct Attention {
    query: Linear,
    key: Linear,
    value: Linear,
    mixed: Linear,
}

struct Layer {
    attention_norm: LayerNorm,
    attention: Attention,
    /// Of the speaking side: what it looks for in what was heard.
    heard: Option<(LayerNorm, Attention)>,
    norm: LayerNorm,
    up: Linear,
    down: Linear,
}

/// Both sides on a device.
pub(crate) struct Tensors {
    measures: Measures,
    device: Device,
    first: Conv1d,
    second: Conv1d,
    places: Tensor,
    listening: Vec<Layer>,
    listening_norm: LayerNorm,
    tokens: Tensor,
    text_places: Tensor,
    speaking: Vec<Layer>,
    speaking_norm: LayerNorm,
}

/// Keys and values by head, then by place.
type Pair = (Tensor, Tensor);

/// What was said so far.
#[derive(Clone)]
pub(crate) struct Said {
    layers: Vec<Option<Pair>>,
    length: usize,
}

/// Reads tensors of a file to a device.
struct Reader<'a> {
    file: &'a File<'a>,
    device: &'a Device,
}

impl Reader<'_> {
    fn tensor(&self, name: &str, shape: &[usize]) -> Result<Tensor, LoadError> {
        Ok(Tensor::from_vec(self.file.numbers(name, shape)?, shape, self.device)?)
    }

    fn norm(&self, name: &str) -> Result<LayerNorm, LoadError> {
        let hidden = [self.file.measures.hidden];
        let part = |part: &str| self.tensor(&format!("{name}.{part}"), &hidden);
        Ok(LayerNorm::new(part("weight")?, part("bias")?, f64::from(EPSILON)))
    }

    fn linear(&self, name: &str, rows: usize, columns: usize) -> Result<Linear, LoadError> {
        let bias = Some(self.tensor(&format!("{name}.bias"), &[rows])?);
        Ok(Linear { bias, ..self.unbiased(name, rows, columns)? })
    }

    fn unbiased(&self, name: &str, rows: usize, columns: usize) -> Result<Linear, LoadError> {
        let weight = self.tensor(&format!("{name}.weight"), &[rows, columns])?;
        Ok(Linear { weight: weight.t()?.contiguous()?, bias: None })
    }

    fn convolution(&self, name: &str, inputs: usize, stride: usize) -> Result<Conv1d, LoadError> {
        let hidden = self.file.measures.hidden;
        let weight = self.tensor(&format!("{name}.weight"), &[hidden, inputs, SEEN])?;
        let bias = self.tensor(&format!("{name}.bias"), &[hidden])?;
        let config = Conv1dConfig { padding: SEEN / 2, stride, ..Conv1dConfig::default() };
        Ok(Conv1d::new(weight, Some(bias), config))
    }

    fn attention(&self, name: &str) -> Result<Attention, LoadError> {
        let hidden = self.file.measures.hidden;
        let part = |part: &str| self.linear(&format!("{name}.{part}_proj"), hidden, hidden);
        Ok(Attention {
            query: part("q")?,
            key: self.unbiased(&format!("{name}.k_proj"), hidden, hidden)?,
            value: part("v")?,
            mixed: part("out")?,
        })
    }

    fn layer(&self, side: &str, at: usize) -> Result<Layer, LoadError> {
        let hidden = self.file.measures.hidden;
        let name = |part: &str| format!("model.{side}.layers.{at}.{part}");
        let heard = (side == "decoder").then(|| {
            let norm = self.norm(&name("encoder_attn_layer_norm"))?;
            Ok::<_, LoadError>((norm, self.attention(&name("encoder_attn"))?))
        });
        Ok(Layer {
            attention_norm: self.norm(&name("self_attn_layer_norm"))?,
            attention: self.attention(&name("self_attn"))?,
            heard: heard.transpose()?,
            norm: self.norm(&name("final_layer_norm"))?,
            up: self.linear(&name("fc1"), 4 * hidden, hidden)?,
            down: self.linear(&name("fc2"), hidden, 4 * hidden)?,
        })
    }

    fn side(&self, side: &str) -> Result<Vec<Layer>, LoadError> {
        (0..self.file.measures.layers).map(|at| self.layer(side, at)).collect()
    }
}

impl Linear {
    fn forward(&self, rows: &Tensor) -> Computed<Tensor> {
        let product = rows.matmul(&self.weight)?;
        match &self.bias {
            Some(bias) => product.broadcast_add(bias),
            None => Ok(product),
        }
    }
}

/// Rows as heads, then places.
fn by_head(rows: &Tensor, heads: usize) -> Computed<Tensor> {
    let (places, hidden) = rows.dims2()?;
    rows.reshape((places, heads, hidden / heads))?.transpose(0, 1)?.contiguous()
}

impl Attention {
    fn pair(&self, rows: &Tensor, heads: usize) -> Computed<Pair> {
        let part = |linear: &Linear| by_head(&linear.forward(rows)?, heads);
        Ok((part(&self.key)?, part(&self.value)?))
    }

    /// What rows find in keys and values.
    fn look(&self, rows: &Tensor, (keys, values): &Pair, heads: usize) -> Computed<Tensor> {
        let (places, hidden) = rows.dims2()?;
        #[expect(clippy::cast_precision_loss, reason = "a head has a few dozen numbers")]
        let scale = 1.0 / ((hidden / heads) as f64).sqrt();
        let queries = (by_head(&self.query.forward(rows)?, heads)? * scale)?;
        let weights = queries.matmul(&keys.transpose(1, 2)?.contiguous()?)?;
        let found = softmax_last_dim(&weights)?.matmul(values)?;
        self.mixed.forward(&found.transpose(0, 1)?.contiguous()?.reshape((places, hidden))?)
    }
}

impl Layer {
    fn bend(&self, stream: &Tensor) -> Computed<Tensor> {
        let inner = self.up.forward(&self.norm.forward(stream)?)?.gelu_erf()?;
        stream + self.down.forward(&inner)?
    }
}

impl Tensors {
    pub(crate) fn read(file: &File<'_>, device: &Device) -> Result<Self, LoadError> {
        let read = Reader { file, device };
        let measures = file.measures;
        let Measures { hidden, mels, positions, text_positions, vocabulary, .. } = measures;
        let tokens = read.tensor("model.decoder.embed_tokens.weight", &[vocabulary, hidden])?;
        Ok(Self {
            measures,
            device: device.clone(),
            first: read.convolution("model.encoder.conv1", mels, 1)?,
            second: read.convolution("model.encoder.conv2", hidden, 2)?,
            places: read.tensor("model.encoder.embed_positions.weight", &[positions, hidden])?,
            listening: read.side("encoder")?,
            listening_norm: read.norm("model.encoder.layer_norm")?,
            tokens,
            text_places: read
                .tensor("model.decoder.embed_positions.weight", &[text_positions, hidden])?,
            speaking: read.side("decoder")?,
            speaking_norm: read.norm("model.decoder.layer_norm")?,
        })
    }

    fn hear(&self, picture: &[f32]) -> Computed<Tensor> {
        let Measures { mels, heads, .. } = self.measures;
        let picture = Tensor::from_slice(picture, (1, ROWS, mels), &self.device)?;
        let rows = self.first.forward(&picture.transpose(1, 2)?.contiguous()?)?.gelu_erf()?;
        let rows = self.second.forward(&rows)?.gelu_erf()?;
        let mut stream = (rows.squeeze(0)?.t()?.contiguous()? + &self.places)?;
        for layer in &self.listening {
            let normed = layer.attention_norm.forward(&stream)?;
            let pair = layer.attention.pair(&normed, heads)?;
            stream = (stream + layer.attention.look(&normed, &pair, heads)?)?;
            stream = layer.bend(&stream)?;
        }
        self.listening_norm.forward(&stream)
    }
}

impl Network for Tensors {
    /// By layer.
    type Memory = Vec<Pair>;
    type Said = Said;

    fn listen(&self, picture: &[f32]) -> Computed<Self::Memory> {
        let heard = self.hear(picture)?;
        let attentions = self.speaking.iter().filter_map(|layer| layer.heard.as_ref());
        attentions.map(|(_, attention)| attention.pair(&heard, self.measures.heads)).collect()
    }

    fn begin(&self) -> Said {
        Said { layers: vec![None; self.speaking.len()], length: 0 }
    }

    fn say(
        &self,
        token: u32,
        said: &mut Said,
        memory: &Self::Memory,
    ) -> Computed<Option<Vec<f32>>> {
        let Measures { heads, text_positions, .. } = self.measures;
        if text_positions <= said.length {
            return Ok(None);
        }
        let token = Tensor::new(&[token], &self.device)?;
        let place = self.text_places.narrow(0, said.length, 1)?;
        let mut stream = (self.tokens.index_select(&token, 0)? + place)?;
        for ((layer, before), heard) in self.speaking.iter().zip(&mut said.layers).zip(memory) {
            let normed = layer.attention_norm.forward(&stream)?;
            let (key, value) = layer.attention.pair(&normed, heads)?;
            let pair = match before.take() {
                Some((keys, values)) => {
                    (Tensor::cat(&[&keys, &key], 1)?, Tensor::cat(&[&values, &value], 1)?)
                }
                None => (key, value),
            };
            stream = (stream + layer.attention.look(&normed, &pair, heads)?)?;
            *before = Some(pair);
            if let Some((norm, attention)) = &layer.heard {
                let normed = norm.forward(&stream)?;
                stream = (stream + attention.look(&normed, heard, heads)?)?;
            }
            stream = layer.bend(&stream)?;
        }
        said.length += 1;
        let normed = self.speaking_norm.forward(&stream)?;
        normed.matmul(&self.tokens.t()?)?.squeeze(0)?.to_vec1().map(Some)
    }
}

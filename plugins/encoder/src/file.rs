//! The file of an encoder: safetensors with the tokenizer and the network's measures in its metadata.
//! Tensors of bytes hold rows of Q4_0 blocks.

use std::{fs, path::Path};

use half::f16;
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde::Deserialize;

use crate::error::EncoderError;

/// Numbers of a Q4_0 block, and its bytes.
const BLOCK: usize = 32;
const BLOCK_BYTES: usize = 18;

/// The network's measures.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
pub struct Network {
    /// Layers.
    pub layers: usize,
    /// Numbers per token between the layers.
    pub hidden: usize,
    /// Heads of the attention.
    pub heads: usize,
    /// Numbers per token inside a layer.
    pub inner: usize,
    /// Tokens of the longest text that it was trained for.
    pub positions: usize,
    /// Pieces that it knows.
    pub vocabulary: usize,
    /// Keeps the norms from dividing by nothing.
    pub epsilon: f64,
}

impl Network {
    /// Bytes of the layers' weights in single precision.
    pub(crate) fn weight_bytes(&self) -> u64 {
        let Self { layers, hidden, inner, .. } = *self;
        let layer = 4 * hidden * hidden + 2 * hidden * inner + 9 * hidden + inner;
        (layers * layer * size_of::<f32>()) as u64
    }
}

/// How the model card wants it to be asked.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Card {
    /// Tokens of a text that are read, those that mark its ends included.
    pub max_tokens: usize,
    /// What is put before a text that is searched with.
    #[serde(default)]
    pub query: String,
    /// What is put before a text that is to be found.
    #[serde(default)]
    pub passage: String,
}

/// A file as it was read.
pub(crate) struct File<'a> {
    path: &'a Path,
    tensors: SafeTensors<'a>,
    pub(crate) network: Network,
    pub(crate) card: Card,
    pub(crate) tokenizer: String,
}

/// The bytes of a file.
///
/// # Errors
/// [`EncoderError::Read`].
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, EncoderError> {
    fs::read(path).map_err(|source| EncoderError::Read { path: path.to_owned(), source })
}

impl<'a> File<'a> {
    /// Looks at the header.
    ///
    /// # Errors
    /// [`EncoderError::Form`].
    pub(crate) fn parse(path: &'a Path, bytes: &'a [u8]) -> Result<Self, EncoderError> {
        let form = |reason: String| EncoderError::Form { path: path.to_owned(), reason };
        let (_, header) =
            SafeTensors::read_metadata(bytes).map_err(|error| form(error.to_string()))?;
        let metadata = header.metadata().clone().unwrap_or_default();
        let entry = |key: &str| {
            let advice = "it was not put together by `qudao model pull`";
            metadata.get(key).ok_or_else(|| form(format!("no {key} in its header: {advice}")))
        };
        let network: Network = serde_json::from_str(entry("qudao.network")?)
            .map_err(|error| form(format!("network: {error}")))?;
        let card: Card = serde_json::from_str(entry("qudao.card")?)
            .map_err(|error| form(format!("card: {error}")))?;
        let tokenizer = entry("qudao.tokenizer")?.clone();
        check(&network, &card).map_err(form)?;
        let tensors = SafeTensors::deserialize(bytes).map_err(|error| form(error.to_string()))?;
        Ok(Self { path, tensors, network, card, tokenizer })
    }

    fn form(&self, reason: String) -> EncoderError {
        EncoderError::Form { path: self.path.to_owned(), reason }
    }

    fn tensor(&self, name: &str) -> Result<TensorView<'a>, EncoderError> {
        self.tensors.tensor(name).map_err(|error| self.form(format!("{name}: {error}")))
    }

    /// The rows of a matrix, as they lie in the file.
    ///
    /// # Errors
    /// [`EncoderError::Form`] if it has another shape.
    pub(crate) fn rows(
        &self,
        name: &str,
        rows: usize,
        columns: usize,
    ) -> Result<Rows, EncoderError> {
        let tensor = self.tensor(name)?;
        let width = match tensor.dtype() {
            Dtype::U8 => columns / BLOCK * BLOCK_BYTES,
            Dtype::F16 | Dtype::F32 => columns,
            other => return Err(self.form(format!("{name} holds {other:?}"))),
        };
        if tensor.shape() != [rows, width] {
            return Err(self.form(format!("{name} is {:?}, not {rows} by {width}", tensor.shape())));
        }
        let kind = tensor.dtype();
        Ok(Rows { kind, columns, bytes: tensor.data().to_vec() })
    }

    /// A list of numbers of which the file may hold more.
    ///
    /// # Errors
    /// [`EncoderError::Form`] if it has fewer.
    pub(crate) fn numbers(&self, name: &str, count: usize) -> Result<Vec<f32>, EncoderError> {
        let tensor = self.tensor(name)?;
        let (kind, bytes) = (tensor.dtype(), tensor.data());
        let mut numbers = vec![0.0; count];
        let size = match kind {
            Dtype::F32 => 4,
            Dtype::F16 => 2,
            other => return Err(self.form(format!("{name} holds {other:?}"))),
        };
        let Some(bytes) = bytes.get(..count * size) else {
            return Err(self.form(format!("{name} has fewer than {count} numbers")));
        };
        unpack(kind, bytes, &mut numbers);
        Ok(numbers)
    }
}

/// Nothing that a header says may make a loader overflow or divide by zero.
fn check(network: &Network, card: &Card) -> Result<(), String> {
    let Network { layers, hidden, heads, inner, positions, vocabulary, .. } = *network;
    let sane = (1..=64).contains(&layers)
        && (1..=8192).contains(&hidden)
        && (1..=65_536).contains(&inner)
        && (4..=65_536).contains(&positions)
        && (1..=1 << 21).contains(&vocabulary)
        && hidden.is_multiple_of(BLOCK)
        && inner.is_multiple_of(BLOCK)
        && heads != 0
        && hidden.is_multiple_of(heads);
    if !sane {
        return Err(format!("a network with impossible measures: {network:?}"));
    }
    if !(4..=positions).contains(&card.max_tokens) {
        return Err(format!("{} tokens do not fit {positions} positions", card.max_tokens));
    }
    Ok(())
}

/// A matrix that is unpacked where it is needed: a quarter of a million pieces' rows take a seventh of
/// the memory this way, and a text needs few of them.
#[derive(Debug)]
pub(crate) struct Rows {
    kind: Dtype,
    columns: usize,
    bytes: Vec<u8>,
}

impl Rows {
    /// Writes one row.
    pub(crate) fn row(&self, at: usize, to: &mut [f32]) {
        let width = match self.kind {
            Dtype::U8 => self.columns / BLOCK * BLOCK_BYTES,
            Dtype::F16 => self.columns * 2,
            _ => self.columns * 4,
        };
        unpack(self.kind, &self.bytes[at * width..(at + 1) * width], to);
    }

    /// All of them.
    pub(crate) fn all(&self, rows: usize) -> Vec<f32> {
        let mut numbers = vec![0.0; rows * self.columns];
        unpack(self.kind, &self.bytes, &mut numbers);
        numbers
    }
}

fn unpack(kind: Dtype, bytes: &[u8], to: &mut [f32]) {
    match kind {
        Dtype::U8 => {
            let (blocks, _) = bytes.as_chunks::<BLOCK_BYTES>();
            for (block, to) in blocks.iter().zip(to.chunks_exact_mut(BLOCK)) {
                let scale = f16::from_le_bytes([block[0], block[1]]).to_f32();
                let (low, high) = to.split_at_mut(BLOCK / 2);
                for ((pair, low), high) in block[2..].iter().zip(low).zip(high) {
                    *low = (f32::from(pair & 15) - 8.0) * scale;
                    *high = (f32::from(pair >> 4) - 8.0) * scale;
                }
            }
        }
        Dtype::F16 => {
            let (halves, _) = bytes.as_chunks::<2>();
            for (half, to) in halves.iter().zip(to) {
                *to = f16::from_le_bytes(*half).to_f32();
            }
        }
        _ => {
            let (floats, _) = bytes.as_chunks::<4>();
            for (float, to) in floats.iter().zip(to) {
                *to = f32::from_le_bytes(*float);
            }
        }
    }
}

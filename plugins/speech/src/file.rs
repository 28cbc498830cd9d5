//! The file of a Whisper: safetensors with the tokenizer and the network's measures in its metadata.

use std::path::{Path, PathBuf};

use half::{f16, slice::HalfFloatSliceExt as _};
use qudao_kernels::Norm;
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;

use crate::{error::LoadError, rows::Matrix};

/// Whisper's norms keep this much between them and a division by nothing.
pub(crate) const EPSILON: f32 = 1e-5;
/// No Whisper is larger in any measure.
const MEASURE_MAX: usize = 1 << 20;

/// The network's measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct Measures {
    /// Layers of each side.
    pub layers: usize,
    /// Numbers per place between the layers.
    pub hidden: usize,
    /// Heads of the attention.
    pub heads: usize,
    /// Bands of the picture.
    pub mels: usize,
    /// Places of what is heard.
    pub positions: usize,
    /// Places of what is said.
    pub text_positions: usize,
    /// Tokens that it knows.
    pub vocabulary: usize,
}

/// Which tokens are never said.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Card {
    /// Anywhere: signs of what is no speech.
    #[serde(default)]
    pub suppress: Vec<u32>,
    /// At the beginning.
    #[serde(default)]
    pub suppress_first: Vec<u32>,
}

/// A file as it was read.
pub(crate) struct File<'a> {
    path: PathBuf,
    tensors: SafeTensors<'a>,
    pub(crate) measures: Measures,
    pub(crate) card: Card,
    pub(crate) tokenizer: String,
}

impl<'a> File<'a> {
    /// Looks at the header.
    ///
    /// # Errors
    /// [`LoadError::Form`].
    pub(crate) fn parse(path: &Path, bytes: &'a [u8]) -> Result<Self, LoadError> {
        let form = |reason: String| LoadError::Form { path: path.to_owned(), reason };
        let (_, header) =
            SafeTensors::read_metadata(bytes).map_err(|error| form(error.to_string()))?;
        let metadata = header.metadata().clone().unwrap_or_default();
        let entry =
            |key: &str| metadata.get(key).ok_or_else(|| form(format!("no {key} in its header")));
        let measures: Measures = serde_json::from_str(entry("qudao.network")?)
            .map_err(|error| form(format!("network: {error}")))?;
        let card: Card = serde_json::from_str(entry("qudao.card")?)
            .map_err(|error| form(format!("card: {error}")))?;
        let tokenizer = entry("qudao.tokenizer")?.clone();
        let Measures { layers, hidden, heads, mels, positions, text_positions, vocabulary } =
            measures;
        let all = [layers, hidden, heads, mels, positions, text_positions, vocabulary];
        let possible = all.iter().all(|measure| (1..MEASURE_MAX).contains(measure));
        if !possible || !hidden.is_multiple_of(heads) || positions * 2 != crate::mel::ROWS {
            return Err(form(format!("its measures are impossible: {measures:?}")));
        }
        let tensors = SafeTensors::deserialize(bytes).map_err(|error| form(error.to_string()))?;
        Ok(Self { path: path.to_owned(), tensors, measures, card, tokenizer })
    }

    /// Bytes of a device's memory that the network takes in single precision, with the largest of what
    /// lies between its layers: every place of half a minute looks at every other, before and after the
    /// softmax, and the widest layer has four times the network's width.
    pub(crate) fn device_bytes(&self) -> u64 {
        let numbers = |count: usize| 4 * count as u64;
        let weights: usize =
            self.tensors.iter().map(|(_, one)| one.shape().iter().product::<usize>()).sum();
        let Measures { hidden, heads, positions, .. } = self.measures;
        numbers(weights)
            + numbers(3 * heads * positions * positions)
            + numbers(12 * positions * hidden)
    }

    pub(crate) fn form(&self, reason: String) -> LoadError {
        LoadError::Form { path: self.path.clone(), reason }
    }

    /// Numbers in half precision, as the file has them or nearly.
    ///
    /// # Errors
    /// [`LoadError::Form`] if the tensor is missing, or of another shape.
    fn halves(&self, name: &str, shape: &[usize]) -> Result<Vec<f16>, LoadError> {
        let tensor =
            self.tensors.tensor(name).map_err(|error| self.form(format!("{name}: {error}")))?;
        if tensor.shape() != shape {
            return Err(self.form(format!("{name} is {:?}, not {shape:?}", tensor.shape())));
        }
        match tensor.dtype() {
            Dtype::F16 => {
                let (pairs, _) = tensor.data().as_chunks::<2>();
                Ok(pairs.iter().map(|pair| f16::from_le_bytes(*pair)).collect())
            }
            Dtype::F32 => {
                let (fours, _) = tensor.data().as_chunks::<4>();
                let numbers = fours.iter().map(|four| f32::from_le_bytes(*four));
                Ok(numbers.map(f16::from_f32).collect())
            }
            other => Err(self.form(format!("{name} holds {other:?}"))),
        }
    }

    /// Numbers in single precision.
    ///
    /// # Errors
    /// As [`Self::matrix`].
    pub(crate) fn numbers(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, LoadError> {
        Ok(self.halves(name, shape)?.to_f32_vec())
    }

    /// A matrix of so many rows and columns.
    ///
    /// # Errors
    /// [`LoadError::Form`] if it is missing, or of another shape.
    pub(crate) fn matrix(
        &self,
        name: &str,
        rows: usize,
        columns: usize,
    ) -> Result<Matrix, LoadError> {
        Ok(Matrix { columns, numbers: self.halves(name, &[rows, columns])? })
    }

    /// A norm over the network's width.
    ///
    /// # Errors
    /// As [`Self::matrix`].
    pub(crate) fn norm(&self, name: &str) -> Result<Norm, LoadError> {
        let hidden = [self.measures.hidden];
        Ok(Norm {
            weight: self.numbers(&format!("{name}.weight"), &hidden)?,
            shift: self.numbers(&format!("{name}.bias"), &hidden)?,
            epsilon: EPSILON,
        })
    }
}

//! One file out of the pieces of an encoder: weights, tokenizer and what its model card says, as
//! safetensors whose header's metadata hold the rest. So that a model is one file with one checksum.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::catalogue::{Encoder, WeightsForm};
use crate::e5s1;
use crate::error::ModelsError;

/// Bytes of a header at most: a tokenizer of a quarter of a million pieces has 17 million.
const HEADER_MAX: usize = 90 << 20;

/// A tensor on its way into the file.
#[derive(Debug)]
pub(crate) struct Tensor<'a> {
    pub(crate) name: String,
    /// As safetensors calls it. `U8` holds rows of Q4_0 blocks: 32 numbers in 18 bytes.
    pub(crate) kind: &'static str,
    pub(crate) shape: Vec<usize>,
    pub(crate) bytes: &'a [u8],
}

/// What a loader has to know of the network, as it stands in the metadata.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Network {
    pub(crate) layers: usize,
    pub(crate) hidden: usize,
    pub(crate) heads: usize,
    pub(crate) inner: usize,
    pub(crate) positions: usize,
    pub(crate) vocabulary: usize,
    pub(crate) epsilon: f64,
}

/// The files of an encoder.
pub(crate) struct Pieces<'a> {
    pub(crate) weights: &'a [u8],
    pub(crate) tokenizer: &'a [u8],
    /// Hugging Face's `config.json`; absent where the weights say it themselves.
    pub(crate) config: Option<&'a [u8]>,
}

/// Puts an encoder together at `to`.
///
/// # Errors
/// [`ModelsError::Assemble`] for pieces that are not what they should be, [`ModelsError::File`].
pub(crate) fn assemble(
    pieces: &Pieces<'_>,
    form: WeightsForm,
    card: &Encoder,
    to: &Path,
) -> Result<(), ModelsError> {
    let failed = |reason: String| ModelsError::Assemble { path: to.to_owned(), reason };
    let (network, mut tensors) = match form {
        WeightsForm::E5s1 => e5s1::read(pieces.weights).map_err(failed)?,
        WeightsForm::Safetensors => {
            let config =
                pieces.config.ok_or_else(|| failed("config.json is missing".to_owned()))?;
            (network(config).map_err(failed)?, tensors(pieces.weights).map_err(failed)?)
        }
    };
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    let tokenizer = std::str::from_utf8(pieces.tokenizer).map_err(|e| failed(e.to_string()))?;
    let metadata: BTreeMap<&str, String> = BTreeMap::from([
        ("format", "pt".to_owned()),
        ("qudao.network", ordered(json!(network))),
        ("qudao.card", ordered(json!(card))),
        ("qudao.tokenizer", tokenizer.to_owned()),
    ]);
    write(&metadata, &tensors, to)
}

/// JSON whose keys stand in their order, also where another part of the program makes `serde_json` keep
/// them as they came: a file's checksum is the same everywhere.
pub(crate) fn ordered(mut value: Value) -> String {
    value.sort_all_objects();
    value.to_string()
}

/// Writes safetensors: the metadata, then the tensors in this order.
///
/// # Errors
/// [`ModelsError::File`].
pub(crate) fn write(
    metadata: &BTreeMap<&str, String>,
    tensors: &[Tensor<'_>],
    to: &Path,
) -> Result<(), ModelsError> {
    let io = |source| ModelsError::File { path: to.to_owned(), source };
    let mut header = serde_json::Map::new();
    header.insert("__metadata__".to_owned(), json!(metadata));
    let mut at = 0;
    for tensor in tensors {
        let end = at + tensor.bytes.len();
        let entry =
            json!({ "dtype": tensor.kind, "shape": tensor.shape, "data_offsets": [at, end] });
        header.insert(tensor.name.clone(), entry);
        at = end;
    }
    let mut header = ordered(Value::Object(header)).into_bytes();
    // The numbers begin at a multiple of eight.
    header.resize(header.len().next_multiple_of(8), b' ');
    let mut out = BufWriter::new(File::create(to).map_err(io)?);
    out.write_all(&(header.len() as u64).to_le_bytes()).map_err(io)?;
    out.write_all(&header).map_err(io)?;
    for tensor in tensors {
        out.write_all(tensor.bytes).map_err(io)?;
    }
    out.into_inner().map_err(|error| io(error.into_error()))?.sync_all().map_err(io)
}

/// What Hugging Face's `config.json` says of a BERT.
fn network(config: &[u8]) -> Result<Network, String> {
    let config: Value = serde_json::from_slice(config).map_err(|error| error.to_string())?;
    let number = |key: &str| {
        let value = config.get(key).and_then(Value::as_u64);
        value
            .and_then(|value| usize::try_from(value).ok())
            .ok_or_else(|| format!("config.json has no {key}"))
    };
    let kind = config.get("model_type").and_then(Value::as_str).unwrap_or_default();
    let activation = config.get("hidden_act").and_then(Value::as_str).unwrap_or_default();
    if (kind, activation) != ("bert", "gelu") {
        return Err(format!("a {kind} with {activation} is not known: a bert with gelu is"));
    }
    Ok(Network {
        layers: number("num_hidden_layers")?,
        hidden: number("hidden_size")?,
        heads: number("num_attention_heads")?,
        inner: number("intermediate_size")?,
        positions: number("max_position_embeddings")?,
        vocabulary: number("vocab_size")?,
        epsilon: config.get("layer_norm_eps").and_then(Value::as_f64).unwrap_or(1e-12),
    })
}

/// The tensors of a safetensors file that an encoder needs.
fn tensors(file: &[u8]) -> Result<Vec<Tensor<'_>>, String> {
    #[derive(Deserialize)]
    struct Entry {
        dtype: String,
        shape: Vec<usize>,
        data_offsets: (usize, usize),
    }
    let broken = || "the weights are no safetensors".to_owned();
    let (length, rest) = file.split_first_chunk::<8>().ok_or_else(broken)?;
    let length = usize::try_from(u64::from_le_bytes(*length)).map_err(|_| broken())?;
    if HEADER_MAX < length {
        return Err(broken());
    }
    let (header, data) = rest.split_at_checked(length).ok_or_else(broken)?;
    let header: BTreeMap<String, Value> = serde_json::from_slice(header).map_err(|_| broken())?;
    let mut found = Vec::new();
    for (name, entry) in header {
        // The pooler is a head that sentence encoders do not use; the positions count from 0.
        let unused = name.starts_with("pooler.") || name.ends_with("position_ids");
        if name == "__metadata__" || unused {
            continue;
        }
        let Entry { dtype, shape, data_offsets: (start, end) } =
            serde_json::from_value(entry).map_err(|_| broken())?;
        let (kind, size) = match dtype.as_str() {
            "F32" => ("F32", 4),
            "F16" => ("F16", 2),
            other => return Err(format!("{name} holds {other}: F32 and F16 are known")),
        };
        let bytes = data.get(start..end).ok_or_else(broken)?;
        if shape.iter().product::<usize>().checked_mul(size) != Some(bytes.len()) {
            return Err(broken());
        }
        found.push(Tensor { name, kind, shape, bytes });
    }
    Ok(found)
}

#[cfg(test)]
mod tests;

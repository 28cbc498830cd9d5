//! One file out of the pieces of a Whisper: weights as `CTranslate2` keeps them, tokenizer and settings, as
//! safetensors with Hugging Face's names whose header's metadata hold the rest.

use std::{collections::BTreeMap, path::Path};

use serde::Serialize;
use serde_json::{Value, json};

use crate::{
    assemble::{Tensor, ordered, write},
    ct2::{self, Numbers, Variable},
    error::ModelsError,
};

/// Numbers of an attention's head, in every Whisper.
const HEAD: usize = 64;

/// The files of a Whisper.
pub(crate) struct Pieces<'a> {
    pub(crate) weights: &'a [u8],
    pub(crate) tokenizer: &'a [u8],
    /// `config.json` of the conversion: which tokens are never said.
    pub(crate) config: &'a [u8],
}

/// What a loader has to know of the network, as it stands in the metadata.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Network {
    layers: usize,
    hidden: usize,
    heads: usize,
    mels: usize,
    positions: usize,
    text_positions: usize,
    vocabulary: usize,
}

/// Puts a Whisper together at `to`.
///
/// # Errors
/// [`ModelsError::Assemble`] for pieces that are not what they should be, [`ModelsError::File`].
pub(crate) fn assemble(pieces: &Pieces<'_>, to: &Path) -> Result<(), ModelsError> {
    let failed = |reason: String| ModelsError::Assemble { path: to.to_owned(), reason };
    let (network, mut tensors) = tensors(pieces.weights).map_err(failed)?;
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    let tokenizer = std::str::from_utf8(pieces.tokenizer).map_err(|e| failed(e.to_string()))?;
    let settings: Value =
        serde_json::from_slice(pieces.config).map_err(|error| failed(error.to_string()))?;
    let list = |key: &str| settings.get(key).cloned().unwrap_or_else(|| json!([]));
    let card = json!({
        "suppress": list("suppress_ids"),
        "suppress_first": list("suppress_ids_begin"),
    });
    let metadata: BTreeMap<&str, String> = BTreeMap::from([
        ("format", "pt".to_owned()),
        ("qudao.network", ordered(json!(network))),
        ("qudao.card", ordered(card)),
        ("qudao.tokenizer", tokenizer.to_owned()),
    ]);
    write(&metadata, &tensors, to)
}

/// The variables by name, and the tensors that were made of them.
struct Renamed<'a> {
    variables: BTreeMap<&'a str, Variable<'a>>,
    tensors: Vec<Tensor<'a>>,
}

impl<'a> Renamed<'a> {
    fn find(&self, name: &str) -> Result<&Variable<'a>, String> {
        let found = self.variables.get(name).ok_or_else(|| format!("the weights lack {name}"))?;
        let count = found.shape.iter().product::<usize>();
        if found.numbers == Numbers::Other
            || count.checked_mul(found.numbers.size()) != Some(found.bytes.len())
        {
            return Err(format!("{name} is not in half or single precision"));
        }
        Ok(found)
    }

    fn shape<const N: usize>(&self, name: &str) -> Result<[usize; N], String> {
        let shape = &self.find(name)?.shape;
        <[usize; N]>::try_from(shape.as_slice())
            .map_err(|_| format!("{name} has {} dimensions, not {N}", shape.len()))
    }

    fn take(&mut self, to: String, from: &str) -> Result<(), String> {
        let Variable { shape, numbers, bytes, .. } = self.find(from)?.clone();
        self.tensors.push(Tensor { name: to, kind: numbers.name(), shape, bytes });
        Ok(())
    }

    /// The `at`-th of `of` equal parts, along the first dimension.
    fn part(&mut self, to: String, from: &str, at: usize, of: usize) -> Result<(), String> {
        let Variable { mut shape, numbers, bytes, .. } = self.find(from)?.clone();
        let odd = || format!("{from} is not made of {of} parts");
        let first = shape.first_mut().filter(|rows| rows.is_multiple_of(of)).ok_or_else(odd)?;
        *first /= of;
        let length = bytes.len() / of;
        let bytes = bytes.get(at * length..(at + 1) * length).ok_or_else(odd)?;
        self.tensors.push(Tensor { name: to, kind: numbers.name(), shape, bytes });
        Ok(())
    }

    fn linear(&mut self, to: &str, from: &str) -> Result<(), String> {
        self.take(format!("{to}.weight"), &format!("{from}/weight"))?;
        self.take(format!("{to}.bias"), &format!("{from}/bias"))
    }

    fn norm(&mut self, to: &str, from: &str) -> Result<(), String> {
        self.take(format!("{to}.weight"), &format!("{from}/gamma"))?;
        self.take(format!("{to}.bias"), &format!("{from}/beta"))
    }

    /// Queries, keys and values that lie in one matrix. Keys have no bias, which is zeros there.
    fn stacked(&mut self, to: &str, from: &str, parts: &[&str]) -> Result<(), String> {
        for (at, part) in parts.iter().enumerate() {
            let weight = format!("{to}.{part}_proj.weight");
            self.part(weight, &format!("{from}/weight"), at, parts.len())?;
            if *part != "k" {
                let bias = format!("{to}.{part}_proj.bias");
                self.part(bias, &format!("{from}/bias"), at, parts.len())?;
            }
        }
        Ok(())
    }

    fn layer(&mut self, side: &str, at: usize) -> Result<(), String> {
        let (from, to) = (format!("{side}/layer_{at}"), format!("model.{side}.layers.{at}"));
        let (attention, named) = (format!("{from}/self_attention"), format!("{to}.self_attn"));
        self.stacked(&named, &format!("{attention}/linear_0"), &["q", "k", "v"])?;
        self.linear(&format!("{named}.out_proj"), &format!("{attention}/linear_1"))?;
        self.norm(&format!("{named}_layer_norm"), &format!("{attention}/layer_norm"))?;
        if side == "decoder" {
            let (attention, named) = (format!("{from}/attention"), format!("{to}.encoder_attn"));
            self.linear(&format!("{named}.q_proj"), &format!("{attention}/linear_0"))?;
            self.stacked(&named, &format!("{attention}/linear_1"), &["k", "v"])?;
            self.linear(&format!("{named}.out_proj"), &format!("{attention}/linear_2"))?;
            self.norm(&format!("{named}_layer_norm"), &format!("{attention}/layer_norm"))?;
        }
        self.linear(&format!("{to}.fc1"), &format!("{from}/ffn/linear_0"))?;
        self.linear(&format!("{to}.fc2"), &format!("{from}/ffn/linear_1"))?;
        self.norm(&format!("{to}.final_layer_norm"), &format!("{from}/ffn/layer_norm"))
    }
}

fn tensors(file: &[u8]) -> Result<(Network, Vec<Tensor<'_>>), String> {
    let container = ct2::read(file)?;
    if container.spec != "WhisperSpec" {
        return Err(format!("the weights are of a {}, not of a Whisper", container.spec));
    }
    let variables = container.variables.into_iter().map(|variable| (variable.name, variable));
    let mut all = Renamed { variables: variables.collect(), tensors: Vec::new() };
    let [hidden, mels, _] = all.shape("encoder/conv1/weight")?;
    let [positions, _] = all.shape("encoder/position_encodings/encodings")?;
    let [text_positions, _] = all.shape("decoder/position_encodings/encodings")?;
    let [vocabulary, _] = all.shape("decoder/embeddings/weight")?;
    for conv in ["conv1", "conv2"] {
        all.linear(&format!("model.encoder.{conv}"), &format!("encoder/{conv}"))?;
    }
    for side in ["encoder", "decoder"] {
        let positions = format!("model.{side}.embed_positions.weight");
        all.take(positions, &format!("{side}/position_encodings/encodings"))?;
        all.norm(&format!("model.{side}.layer_norm"), &format!("{side}/layer_norm"))?;
    }
    all.take("model.decoder.embed_tokens.weight".to_owned(), "decoder/embeddings/weight")?;
    let has = |all: &Renamed<'_>, layer: usize| {
        let name = format!("encoder/layer_{layer}/self_attention/linear_0/weight");
        all.variables.contains_key(name.as_str())
    };
    let mut layers = 0;
    while has(&all, layers) {
        all.layer("encoder", layers)?;
        all.layer("decoder", layers)?;
        layers += 1;
    }
    if layers == 0 || hidden == 0 || !hidden.is_multiple_of(HEAD) {
        return Err("the weights have no layers that a Whisper has".to_owned());
    }
    let heads = hidden / HEAD;
    let network = Network { layers, hidden, heads, mels, positions, text_positions, vocabulary };
    Ok((network, all.tensors))
}

#[cfg(test)]
mod tests;

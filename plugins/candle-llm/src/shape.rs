//! The model's dimensions, read from the metadata of the GGUF.

use crate::error::LoadError;
use crate::gguf::Gguf;
use crate::tiles::BLOCK;

/// The families that this plugin serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Llama and what shares its layout: SmolLM2, Mistral, TinyLlama.
    Llama,
    /// Qwen 2 and 2.5.
    Qwen2,
    /// Qwen 3.
    Qwen3,
    /// Gemma 3.
    Gemma3,
}

/// The function between the two halves of the feed-forward block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// x · σ(x).
    Silu,
    /// The tanh approximation of GELU.
    Gelu,
}

/// How positions are turned into angles.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// Angle per position, one for each pair of values.
    pub frequencies: Vec<f32>,
    /// Whether a pair is two neighbours (llama) or one value of each half (all others).
    pub neighbours: bool,
}

/// Everything about a model that is not a weight.
#[derive(Clone, Debug)]
pub struct Shape {
    /// Which family.
    pub family: Family,
    /// Layers.
    pub layers: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width inside the feed-forward block.
    pub inner: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Width of a head.
    pub head: usize,
    /// Number of tokens.
    pub vocabulary: usize,
    /// Context the model was trained for, in tokens.
    pub trained_context: usize,
    /// Guards the norms against a division by zero.
    pub epsilon: f32,
    /// Function in the feed-forward block.
    pub activation: Activation,
    /// Factor on the embeddings.
    pub embedding_scale: f32,
    /// Angles of the layers that see the whole context.
    pub rope: Rope,
    /// Angles of the layers that see a window only.
    pub local_rope: Option<Rope>,
    /// Window of the local layers, in tokens.
    pub window: usize,
    /// Every n-th layer sees the whole context, the others a window; 1 = all of them do.
    pub global_every: usize,
}

impl Shape {
    /// Reads the metadata.
    ///
    /// # Errors
    /// [`LoadError::Architecture`] for another family, [`LoadError::Missing`] for an absent or
    /// impossible value.
    pub fn read(gguf: &Gguf) -> Result<Self, LoadError> {
        let name = gguf
            .text("general.architecture")
            .ok_or_else(|| LoadError::Missing("general.architecture".to_owned()))?;
        let family = match name {
            "llama" => Family::Llama,
            "qwen2" => Family::Qwen2,
            "qwen3" => Family::Qwen3,
            "gemma3" => Family::Gemma3,
            other => return Err(LoadError::Architecture(other.to_owned())),
        };
        if gguf.number(&format!("{name}.expert_count")).unwrap_or(0) > 0 {
            return Err(LoadError::Architecture(format!("{name} with experts")));
        }
        let size = |key: &str| optional(gguf, &format!("{name}.{key}"));
        let need = |key: &str| size(key).ok_or_else(|| LoadError::Missing(format!("{name}.{key}")));
        let (hidden, heads) = (need("embedding_length")?, need("attention.head_count")?);
        let kv_heads = size("attention.head_count_kv").unwrap_or(heads);
        let head = size("attention.key_length").unwrap_or(hidden / heads);
        let vocabulary = gguf
            .shape("token_embd.weight")
            .and_then(|shape| shape.first().copied())
            .ok_or_else(|| LoadError::Missing("token_embd.weight".to_owned()))?;
        let epsilon =
            gguf.fraction(&format!("{name}.attention.layer_norm_rms_epsilon")).ok_or_else(
                || LoadError::Missing(format!("{name}.attention.layer_norm_rms_epsilon")),
            )?;
        let gemma = family == Family::Gemma3;
        let shape = Self {
            family,
            layers: need("block_count")?,
            hidden,
            inner: need("feed_forward_length")?,
            heads,
            kv_heads,
            head,
            vocabulary,
            trained_context: size("context_length").unwrap_or(2048),
            epsilon,
            activation: if gemma { Activation::Gelu } else { Activation::Silu },
            embedding_scale: if gemma { (hidden as f32).sqrt() } else { 1.0 },
            rope: read_rope(gguf, name, family, head)?,
            local_rope: gemma.then(|| local_rope(gguf, name, head)),
            window: size("attention.sliding_window").unwrap_or(usize::MAX),
            global_every: if gemma {
                size("attention.sliding_window_type").unwrap_or(6)
            } else {
                1
            },
        };
        shape.check()
    }

    /// The engine's tiles and vector code put conditions on the widths; every published model of
    /// the four families meets them.
    fn check(self) -> Result<Self, LoadError> {
        let conditions = [
            (self.hidden <= 1 << 17, "embedding_length (at most 131072)"),
            (self.inner <= 1 << 20, "feed_forward_length (at most 1048576)"),
            (self.layers <= 1 << 10, "block_count (at most 1024)"),
            (self.heads <= 1 << 10, "attention.head_count (at most 1024)"),
            (self.head <= HEAD_MAX, "attention.key_length (at most 4096)"),
            (self.vocabulary <= 1 << 22, "token_embd.weight (at most 4194304 tokens)"),
            (self.trained_context <= 1 << 28, "context_length (at most 268435456)"),
            (self.epsilon.is_finite() && 0.0 < self.epsilon, "attention.layer_norm_rms_epsilon"),
            (self.hidden.is_multiple_of(BLOCK), "embedding_length (a multiple of 32)"),
            (self.inner.is_multiple_of(BLOCK), "feed_forward_length (a multiple of 32)"),
            (self.head.is_multiple_of(16), "attention.key_length (a multiple of 16)"),
            ((self.head * self.heads).is_multiple_of(BLOCK), "attention.head_count"),
            (
                self.kv_heads > 0 && self.heads.is_multiple_of(self.kv_heads),
                "attention.head_count_kv",
            ),
            (self.layers > 0 && self.vocabulary > 0 && self.global_every > 0, "block_count"),
        ];
        match conditions.iter().find(|(holds, _)| !holds) {
            Some((_, what)) => Err(LoadError::Missing((*what).to_owned())),
            None => Ok(self),
        }
    }

    /// Whether a layer sees a window only.
    pub fn is_local(&self, layer: usize) -> bool {
        !(layer + 1).is_multiple_of(self.global_every)
    }

    /// Bytes that one token of one conversation takes in the cache of keys and values.
    pub fn cache_bytes_per_token(&self) -> usize {
        2 * self.layers * self.kv_heads * self.head * size_of::<f32>()
    }
}

/// Widths of a head above this belong to no model.
const HEAD_MAX: usize = 1 << 12;

fn optional(gguf: &Gguf, key: &str) -> Option<usize> {
    gguf.number(key).and_then(|v| usize::try_from(v).ok()).filter(|v| *v > 0)
}

fn frequencies(base: f32, width: usize) -> Vec<f32> {
    (0..width / 2).map(|pair| base.powf(-2.0 * pair as f32 / width as f32)).collect()
}

/// Angles with the two stretchings that published files use: factors per frequency (Llama 3.1
/// and later ship them as a tensor) and one linear factor (larger Gemma 3).
fn read_rope(gguf: &Gguf, name: &str, family: Family, head: usize) -> Result<Rope, LoadError> {
    let default = if family == Family::Llama { 10_000.0 } else { 1_000_000.0 };
    let base = gguf.fraction(&format!("{name}.rope.freq_base")).unwrap_or(default);
    if !base.is_finite() || base <= 0.0 {
        return Err(LoadError::Missing(format!("{name}.rope.freq_base")));
    }
    let width = optional(gguf, &format!("{name}.rope.dimension_count")).unwrap_or(head);
    if width > head || head > HEAD_MAX || !width.is_multiple_of(2) {
        return Err(LoadError::Missing(format!("{name}.rope.dimension_count")));
    }
    let mut frequencies = frequencies(base, width);
    if gguf.shape("rope_freqs.weight").is_some() {
        let factors = gguf.vector("rope_freqs.weight", frequencies.len())?;
        frequencies.iter_mut().zip(factors).for_each(|(f, factor)| *f /= factor);
    }
    if gguf.text(&format!("{name}.rope.scaling.type")) == Some("linear") {
        let factor = gguf.fraction(&format!("{name}.rope.scaling.factor")).unwrap_or(1.0);
        frequencies.iter_mut().for_each(|f| *f /= factor);
    }
    Ok(Rope { frequencies, neighbours: family == Family::Llama })
}

fn local_rope(gguf: &Gguf, name: &str, head: usize) -> Rope {
    let base = gguf.fraction(&format!("{name}.rope.local_freq_base")).unwrap_or(10_000.0);
    Rope { frequencies: frequencies(base, head), neighbours: false }
}

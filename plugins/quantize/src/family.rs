//! The families: what their settings mean, and what their tensors are called on the other side.

use serde_json::Value;

use crate::error::QuantizeError;
use crate::gguf::Meta;
use crate::source::Source;

/// What has to happen to a tensor's numbers on the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// Nothing.
    None,
    /// Rows of queries or keys stand in halves of a head here, and in pairs there.
    Pair {
        /// Heads of the matrix.
        heads: usize,
    },
    /// The scale of a norm is written less one here.
    AddOne,
}

/// How much a matrix's rounding is felt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Weight {
    /// As most.
    Plain,
    /// More: the vocabulary, and what is added to the stream.
    Felt,
}

/// A tensor of the file that is made.
#[derive(Clone, Debug)]
pub(crate) struct Planned {
    pub(crate) from: String,
    pub(crate) to: String,
    pub(crate) shape: Vec<usize>,
    pub(crate) change: Change,
    pub(crate) weight: Weight,
}

/// A conversion before a number of it is read.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) metadata: Vec<(String, Meta)>,
    pub(crate) tensors: Vec<Planned>,
    /// Factors by which long wavelengths are stretched, if they are.
    pub(crate) stretch: Option<Vec<f32>>,
    pub(crate) vocabulary: usize,
}

/// The measures of a network.
struct Shape {
    architecture: &'static str,
    hidden: usize,
    inner: usize,
    layers: usize,
    heads: usize,
    kv_heads: usize,
    head: usize,
    vocabulary: usize,
    tied: bool,
}

fn unknown<T>(reason: impl Into<String>) -> Result<T, QuantizeError> {
    Err(QuantizeError::Unknown(reason.into()))
}

fn size(config: &Value, key: &str) -> Option<usize> {
    config[key].as_u64().and_then(|value| usize::try_from(value).ok()).filter(|value| *value > 0)
}

fn need(config: &Value, key: &str) -> Result<usize, QuantizeError> {
    size(config, key).map_or_else(|| unknown(format!("config.json has no {key}")), Ok)
}

#[expect(clippy::cast_possible_truncation, reason = "networks compute in f32")]
fn fraction(config: &Value, key: &str) -> Option<f32> {
    config[key].as_f64().map(|value| value as f32).filter(|value| value.is_finite())
}

fn number(value: usize) -> Result<Meta, QuantizeError> {
    let number = u32::try_from(value);
    number
        .map_or_else(|_| unknown(format!("{value} is impossible")), |value| Ok(Meta::Number(value)))
}

/// Where the tensors of the text begin, and where its vocabulary's head is.
const PREFIXES: [&str; 3] = ["model.language_model.", "language_model.model.", "model."];
const HEADS: [&str; 2] = ["lm_head.weight", "language_model.lm_head.weight"];

impl Plan {
    pub(crate) fn of(source: &Source) -> Result<Self, QuantizeError> {
        // Models that also see keep the settings of what they say in a part of their own.
        let outer = &source.config;
        let config = if outer["text_config"].is_object() { &outer["text_config"] } else { outer };
        if !outer["quantization_config"].is_null() {
            return unknown("its weights are compressed already");
        }
        let prefix = PREFIXES
            .into_iter()
            .find(|prefix| source.shape(&format!("{prefix}embed_tokens.weight")).is_some());
        let Some(prefix) = prefix else {
            return unknown("it has no tensor model.embed_tokens.weight");
        };
        let shape = Shape::read(source, config, outer, prefix)?;
        let stretch = stretch(config, shape.head)?;
        let mut metadata = shape.metadata(config)?;
        metadata.extend(angles(config, &shape)?);
        metadata.push(("general.name".to_owned(), Meta::Text(source.name())));
        let tensors = shape.tensors(source, prefix)?;
        Ok(Self { metadata, tensors, stretch, vocabulary: shape.vocabulary })
    }
}

impl Shape {
    fn read(
        source: &Source,
        config: &Value,
        outer: &Value,
        prefix: &str,
    ) -> Result<Self, QuantizeError> {
        let kind = config["model_type"].as_str().unwrap_or_default();
        let architecture = match kind {
            "llama" | "mistral" => "llama",
            "qwen2" => "qwen2",
            "qwen3" => "qwen3",
            "gemma3_text" | "gemma3" => "gemma3",
            other => {
                return unknown(format!(
                    "`{other}` is none of llama, mistral, qwen2, qwen3, gemma3"
                ));
            }
        };
        let gemma = architecture == "gemma3";
        check(config, gemma)?;
        let rows = |name: &str| {
            let name = format!("{prefix}{name}");
            match source.shape(&name) {
                Some(&[rows, columns]) => Ok((rows, columns)),
                _ => unknown(format!("it has no matrix {name}")),
            }
        };
        let (vocabulary, hidden) = rows("embed_tokens.weight")?;
        let (queries, _) = rows("layers.0.self_attn.q_proj.weight")?;
        let (keys, _) = rows("layers.0.self_attn.k_proj.weight")?;
        let (inner, _) = rows("layers.0.mlp.gate_proj.weight")?;
        let head = match size(config, "head_dim") {
            Some(head) => head,
            // What the published library takes where the settings are silent.
            None if gemma => 256,
            None => hidden / need(config, "num_attention_heads")?,
        };
        if head == 0 || !queries.is_multiple_of(head) || !keys.is_multiple_of(head) {
            return unknown("its heads do not fit its matrices");
        }
        if gemma && size(config, "query_pre_attn_scalar").unwrap_or(head) != head {
            return unknown("its attention is scaled by another number than its heads' width");
        }
        let has_head = HEADS.iter().any(|name| source.shape(name).is_some());
        let said = [config, outer].iter().find_map(|it| it["tie_word_embeddings"].as_bool());
        Ok(Self {
            architecture,
            hidden,
            inner,
            layers: need(config, "num_hidden_layers")?,
            heads: queries / head,
            kv_heads: keys / head,
            head,
            vocabulary,
            tied: !has_head || said.unwrap_or(gemma),
        })
    }

    fn metadata(&self, config: &Value) -> Result<Vec<(String, Meta)>, QuantizeError> {
        let name = self.architecture;
        // A window on all layers is not computed; within it there is no difference.
        let window = size(config, "sliding_window").filter(|_| name == "llama");
        let trained = need(config, "max_position_embeddings")?.min(window.unwrap_or(usize::MAX));
        let epsilon = fraction(config, "rms_norm_eps").unwrap_or(1e-6);
        let sizes = [
            ("context_length", trained),
            ("embedding_length", self.hidden),
            ("block_count", self.layers),
            ("feed_forward_length", self.inner),
            ("attention.head_count", self.heads),
            ("attention.head_count_kv", self.kv_heads),
            ("attention.key_length", self.head),
            ("attention.value_length", self.head),
            ("rope.dimension_count", self.head),
            ("vocab_size", self.vocabulary),
        ];
        let mut metadata = vec![("general.architecture".to_owned(), Meta::Text(name.to_owned()))];
        for (key, value) in sizes {
            metadata.push((format!("{name}.{key}"), number(value)?));
        }
        let key = format!("{name}.attention.layer_norm_rms_epsilon");
        metadata.push((key, Meta::Fraction(epsilon)));
        Ok(metadata)
    }

    fn tensors(&self, source: &Source, prefix: &str) -> Result<Vec<Planned>, QuantizeError> {
        let plan = Tensors { shape: self, source, prefix, planned: Vec::new() };
        let planned = plan.all()?;
        // What is left over would be missed.
        let known = |name: &str| {
            planned.iter().any(|tensor| tensor.from == name)
                || HEADS.contains(&name) && self.tied
                || name.ends_with("rotary_emb.inv_freq")
                || [
                    "vision_tower.",
                    "multi_modal_projector.",
                    "model.vision_tower.",
                    "model.multi_modal_projector.",
                ]
                .iter()
                .any(|eyes| name.starts_with(eyes))
        };
        match source.names().find(|name| !known(name)) {
            Some(stranger) => unknown(format!("nobody knows what its tensor {stranger} is for")),
            None => Ok(planned),
        }
    }
}

/// What is computed otherwise than the families compute.
fn check(config: &Value, gemma: bool) -> Result<(), QuantizeError> {
    let activation = config["hidden_activation"].as_str().or(config["hidden_act"].as_str());
    let wanted = if gemma { "gelu_pytorch_tanh" } else { "silu" };
    if activation.is_some_and(|found| found != wanted) {
        return unknown(format!("it computes with {}", activation.unwrap_or_default()));
    }
    if ["num_experts", "num_local_experts"].iter().any(|key| size(config, key).is_some()) {
        return unknown("it has experts");
    }
    if config["use_sliding_window"] == true {
        return unknown("some of its layers look through a window");
    }
    if ["final_logit_softcapping", "attn_logit_softcapping"]
        .iter()
        .any(|key| !config[key].is_null())
    {
        return unknown("it caps its logits");
    }
    Ok(())
}

/// The settings of the angles: older files have them at the top, newer ones in a part of their own, and
/// for Gemma in one for each kind of layer.
fn rope<'a>(config: &'a Value, layers: &str) -> &'a Value {
    let parameters = &config["rope_parameters"];
    if parameters[layers].is_object() { &parameters[layers] } else { parameters }
}

fn scaling(config: &Value) -> &Value {
    let older = &config["rope_scaling"];
    if older.is_object() { older } else { rope(config, "full_attention") }
}

fn angles(config: &Value, shape: &Shape) -> Result<Vec<(String, Meta)>, QuantizeError> {
    let name = shape.architecture;
    let gemma = name == "gemma3";
    let whole = rope(config, "full_attention");
    let base = fraction(config, "rope_theta").or_else(|| fraction(whole, "rope_theta"));
    let base = base.unwrap_or(if gemma { 1e6 } else { 1e4 });
    let mut metadata = vec![(format!("{name}.rope.freq_base"), Meta::Fraction(base))];
    let mut say = |key: &str, value: Meta| metadata.push((format!("{name}.{key}"), value));
    let scaling = scaling(config);
    let kind = scaling["rope_type"].as_str().or(scaling["type"].as_str()).unwrap_or("default");
    match kind {
        // The last one goes into a tensor of its own.
        "default" | "llama3" => {}
        "linear" => {
            let factor = fraction(scaling, "factor").unwrap_or(1.0);
            say("rope.scaling.type", Meta::Text(kind.to_owned()));
            say("rope.scaling.factor", Meta::Fraction(factor));
        }
        other => return unknown(format!("its angles are stretched by `{other}`")),
    }
    if gemma {
        let local = fraction(config, "rope_local_base_freq")
            .or_else(|| fraction(rope(config, "sliding_attention"), "rope_theta"))
            .unwrap_or(1e4);
        // Under the names that the one and the other reader look for.
        say("rope.local_freq_base", Meta::Fraction(local));
        say("rope.freq_base_swa", Meta::Fraction(local));
        say("attention.sliding_window", number(size(config, "sliding_window").unwrap_or(4096))?);
        say("attention.sliding_window_type", number(pattern(config)?)?);
    }
    Ok(metadata)
}

/// Every how many layers one sees the whole context.
fn pattern(config: &Value) -> Result<usize, QuantizeError> {
    let said = size(config, "sliding_window_pattern").unwrap_or(6);
    let Some(layers) = config["layer_types"].as_array() else { return Ok(said) };
    let whole = |kind: &Value| kind == "full_attention";
    let Some(first) = layers.iter().position(whole) else { return Ok(layers.len() + 1) };
    let every = first + 1;
    let fits = |(at, kind): (usize, &Value)| whole(kind) == (at + 1).is_multiple_of(every);
    if layers.iter().enumerate().all(fits) {
        Ok(every)
    } else {
        unknown("its layers follow no pattern")
    }
}

/// Llama 3.1 stretches long wavelengths, leaves short ones and goes over from one to the other between.
fn stretch(config: &Value, head: usize) -> Result<Option<Vec<f32>>, QuantizeError> {
    let scaling = scaling(config);
    let kind = scaling["rope_type"].as_str().or(scaling["type"].as_str());
    if kind != Some("llama3") {
        return Ok(None);
    }
    let get = |key: &str| match fraction(scaling, key) {
        Some(value) if 0.0 < value => Ok(value),
        _ => unknown(format!("its rope_scaling has no {key}")),
    };
    let (factor, low, high) = (get("factor")?, get("low_freq_factor")?, get("high_freq_factor")?);
    let original = get("original_max_position_embeddings")?;
    let base = fraction(config, "rope_theta")
        .or_else(|| fraction(rope(config, "full_attention"), "rope_theta"))
        .unwrap_or(1e4);
    #[expect(clippy::cast_precision_loss, reason = "a head has a few hundred numbers")]
    let of_pair = |pair: usize| {
        let frequency = base.powf(-2.0 * pair as f32 / head as f32);
        let wavelength = std::f32::consts::TAU / frequency;
        if wavelength < original / high {
            return 1.0;
        }
        if original / low < wavelength {
            return factor;
        }
        let smooth = (original / wavelength - low) / (high - low);
        1.0 / ((1.0 - smooth) / factor + smooth)
    };
    Ok(Some((0..head / 2).map(of_pair).collect()))
}

/// Collects the tensors of a network in the order in which they are needed.
struct Tensors<'a> {
    shape: &'a Shape,
    source: &'a Source,
    prefix: &'a str,
    planned: Vec<Planned>,
}

impl Tensors<'_> {
    fn all(mut self) -> Result<Vec<Planned>, QuantizeError> {
        let &Shape { hidden, vocabulary, layers, .. } = self.shape;
        let named = |name: &str| format!("{}{name}", self.prefix);
        let (embeddings, last) = (named("embed_tokens.weight"), named("norm.weight"));
        self.matrix(embeddings, "token_embd.weight", [vocabulary, hidden], Change::None)?;
        self.felt(self.shape.tied);
        self.norm(last, "output_norm.weight", hidden)?;
        if !self.shape.tied {
            let head = HEADS.iter().find(|name| self.source.shape(name).is_some());
            let head = head.copied().unwrap_or(HEADS[0]).to_owned();
            self.matrix(head, "output.weight", [vocabulary, hidden], Change::None)?;
            self.felt(true);
        }
        for layer in 0..layers {
            self.layer(layer)?;
        }
        Ok(self.planned)
    }

    fn layer(&mut self, layer: usize) -> Result<(), QuantizeError> {
        let &Shape { architecture, hidden, inner, layers, heads, kv_heads, head, .. } = self.shape;
        let prefix = self.prefix;
        let from = |name: &str| format!("{prefix}layers.{layer}.{name}");
        let to = |name: &str| format!("blk.{layer}.{name}");
        let gemma = architecture == "gemma3";
        let pair =
            |heads| if architecture == "llama" { Change::Pair { heads } } else { Change::None };
        let more = more_bits(layer, layers);
        self.norm(from("input_layernorm.weight"), &to("attn_norm.weight"), hidden)?;
        for (theirs, ours, heads, change) in [
            ("q_proj", "attn_q", heads, pair(heads)),
            ("k_proj", "attn_k", kv_heads, pair(kv_heads)),
            ("v_proj", "attn_v", kv_heads, Change::None),
        ] {
            let (weight, bias) =
                (format!("self_attn.{theirs}.weight"), format!("self_attn.{theirs}.bias"));
            self.matrix(
                from(&weight),
                &to(&format!("{ours}.weight")),
                [heads * head, hidden],
                change,
            )?;
            self.felt(more && ours == "attn_v");
            if self.source.shape(&from(&bias)).is_some() {
                self.vector(from(&bias), &to(&format!("{ours}.bias")), heads * head, change)?;
            }
        }
        let out = from("self_attn.o_proj.weight");
        self.matrix(out, &to("attn_output.weight"), [hidden, heads * head], Change::None)?;
        if gemma || architecture == "qwen3" {
            self.norm(from("self_attn.q_norm.weight"), &to("attn_q_norm.weight"), head)?;
            self.norm(from("self_attn.k_norm.weight"), &to("attn_k_norm.weight"), head)?;
        }
        if gemma {
            let after = from("post_attention_layernorm.weight");
            self.norm(after, &to("post_attention_norm.weight"), hidden)?;
            self.norm(from("pre_feedforward_layernorm.weight"), &to("ffn_norm.weight"), hidden)?;
            let after = from("post_feedforward_layernorm.weight");
            self.norm(after, &to("post_ffw_norm.weight"), hidden)?;
        } else {
            self.norm(from("post_attention_layernorm.weight"), &to("ffn_norm.weight"), hidden)?;
        }
        for (theirs, ours, shape) in [
            ("gate_proj", "ffn_gate", [inner, hidden]),
            ("up_proj", "ffn_up", [inner, hidden]),
            ("down_proj", "ffn_down", [hidden, inner]),
        ] {
            let name = from(&format!("mlp.{theirs}.weight"));
            self.matrix(name, &to(&format!("{ours}.weight")), shape, Change::None)?;
            self.felt(more && ours == "ffn_down");
        }
        Ok(())
    }

    fn matrix(
        &mut self,
        from: String,
        to: &str,
        shape: [usize; 2],
        change: Change,
    ) -> Result<(), QuantizeError> {
        self.add(from, to, &shape, change)
    }

    fn vector(
        &mut self,
        from: String,
        to: &str,
        width: usize,
        change: Change,
    ) -> Result<(), QuantizeError> {
        self.add(from, to, &[width], change)
    }

    fn norm(&mut self, from: String, to: &str, width: usize) -> Result<(), QuantizeError> {
        let gemma = self.shape.architecture == "gemma3";
        self.add(from, to, &[width], if gemma { Change::AddOne } else { Change::None })
    }

    /// Whether rounding of the tensor that was added last is felt more than others'.
    fn felt(&mut self, felt: bool) {
        if let Some(last) = self.planned.last_mut().filter(|_| felt) {
            last.weight = Weight::Felt;
        }
    }

    fn add(
        &mut self,
        from: String,
        to: &str,
        shape: &[usize],
        change: Change,
    ) -> Result<(), QuantizeError> {
        match self.source.shape(&from) {
            Some(found) if found == shape => {
                let (to, shape) = (to.to_owned(), shape.to_vec());
                self.planned.push(Planned { from, to, shape, change, weight: Weight::Plain });
                Ok(())
            }
            Some(found) => unknown(format!("its tensor {from} is {found:?} and not {shape:?}")),
            None => unknown(format!("it has no tensor {from}")),
        }
    }
}

/// The layers in which some matrices keep six bits, as llama.cpp's mixture Q4_K_M chooses them: the first
/// and the last eighth, and every third between.
fn more_bits(layer: usize, layers: usize) -> bool {
    let eighth = layers / 8;
    layer < eighth || 7 * layers / 8 <= layer || (layer - eighth) % 3 == 2
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_layers_with_more_bits_are_the_outer_ones_and_every_third_between() {
        let chosen: Vec<usize> = (0..16).filter(|layer| more_bits(*layer, 16)).collect();
        assert_eq!(chosen, [0, 1, 4, 7, 10, 13, 14, 15]);
    }

    #[test]
    fn a_pattern_of_layers_is_read_from_either_form_and_others_are_refused() {
        let kinds = |text: &str| {
            let kind = |c| if c == 'f' { "full_attention" } else { "sliding_attention" };
            json!({ "layer_types": text.chars().map(kind).collect::<Vec<_>>() })
        };
        assert_eq!(pattern(&json!({ "sliding_window_pattern": 4 })).unwrap(), 4);
        assert_eq!(pattern(&kinds("sssssfssssssfs")).map_err(|e| e.to_string()).ok(), None);
        assert_eq!(pattern(&kinds("ssfssfs")).unwrap(), 3);
        assert_eq!(pattern(&kinds("ss")).unwrap(), 3);
    }

    #[test]
    fn long_wavelengths_are_stretched_by_the_factor_and_short_ones_are_not() {
        let config = json!({ "rope_theta": 500_000.0, "rope_scaling": {
            "rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 8192 } });
        let factors = stretch(&config, 64).unwrap().unwrap();
        assert_eq!((factors.len(), factors[0], factors[31]), (32, 1.0, 32.0));
        assert!(factors.windows(2).all(|pair| pair[0] <= pair[1]), "{factors:?}");
        assert!(factors.iter().any(|factor| 1.0 < *factor && *factor < 32.0));
        assert_eq!(stretch(&json!({}), 64).unwrap(), None);
    }
}

//! Small random models of every family, written as they are published, converted, and computed by
//! candle's implementations of both forms.

#![expect(clippy::unwrap_used, reason = "a failed test panics")]

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use candle_core::quantized::gguf_file::Content;
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::{
    gemma3, llama, quantized_gemma3, quantized_llama, quantized_qwen2, quantized_qwen3, qwen2,
    qwen3,
};
use qudao_plugin_candle_llm::{gguf::Gguf, shape::Shape, tokens::Origin, tokens::Tokens};
use qudao_quantize::{Kind, QuantizeError, Summary, convert};
use serde_json::{Value, json};

const HIDDEN: usize = 256;
const INNER: usize = 512;
const VOCABULARY: usize = 80;
const LAYERS: usize = 3;
const HEADS: usize = 4;
const KV_HEADS: usize = 2;

struct Random(u32);

impl Random {
    fn tensor(&mut self, shape: &[usize], around: f32, spread: f32) -> Tensor {
        let values: Vec<f32> = (0..shape.iter().product())
            .map(|_| {
                self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                around + spread * ((self.0 >> 8) as f32 / (1 << 23) as f32 - 1.0)
            })
            .collect();
        Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
    }
}

/// A family as its settings name it, with the width of its heads.
#[derive(Clone, Copy)]
struct Family {
    name: &'static str,
    head: usize,
    tied: bool,
}

const FAMILIES: [Family; 4] = [
    Family { name: "llama", head: 64, tied: false },
    Family { name: "qwen2", head: 64, tied: true },
    Family { name: "qwen3", head: 32, tied: false },
    Family { name: "gemma3_text", head: 32, tied: true },
];

impl Family {
    fn config(self) -> Value {
        let gemma = self.name == "gemma3_text";
        json!({
            "model_type": self.name,
            "hidden_size": HIDDEN, "intermediate_size": INNER, "num_hidden_layers": LAYERS,
            "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "head_dim": self.head,
            "vocab_size": VOCABULARY, "max_position_embeddings": 512, "rms_norm_eps": 1e-5,
            "rope_theta": 10_000.0, "rope_local_base_freq": 5_000.0,
            "tie_word_embeddings": self.tied, "attention_bias": false,
            "hidden_act": if gemma { "gelu_pytorch_tanh" } else { "silu" },
            "query_pre_attn_scalar": self.head, "sliding_window": if gemma { json!(512) } else { Value::Null },
            "sliding_window_pattern": 2, "bos_token_id": 1, "eos_token_id": [2, 3],
        })
    }

    fn tensors(self) -> BTreeMap<String, Tensor> {
        let mut random = Random(7919);
        let mut all = BTreeMap::new();
        let gemma = self.name == "gemma3_text";
        let mut matrix = |name: String, shape: &[usize]| {
            all.insert(name, random.tensor(shape, 0.0, 0.12));
        };
        matrix("model.embed_tokens.weight".to_owned(), &[VOCABULARY, HIDDEN]);
        if !self.tied {
            matrix("lm_head.weight".to_owned(), &[VOCABULARY, HIDDEN]);
        }
        for layer in 0..LAYERS {
            let name = |part: &str| format!("model.layers.{layer}.{part}");
            matrix(name("self_attn.q_proj.weight"), &[HEADS * self.head, HIDDEN]);
            matrix(name("self_attn.k_proj.weight"), &[KV_HEADS * self.head, HIDDEN]);
            matrix(name("self_attn.v_proj.weight"), &[KV_HEADS * self.head, HIDDEN]);
            matrix(name("self_attn.o_proj.weight"), &[HIDDEN, HEADS * self.head]);
            matrix(name("mlp.gate_proj.weight"), &[INNER, HIDDEN]);
            matrix(name("mlp.up_proj.weight"), &[INNER, HIDDEN]);
            matrix(name("mlp.down_proj.weight"), &[HIDDEN, INNER]);
            if self.name == "qwen2" {
                matrix(name("self_attn.q_proj.bias"), &[HEADS * self.head]);
                matrix(name("self_attn.k_proj.bias"), &[KV_HEADS * self.head]);
                matrix(name("self_attn.v_proj.bias"), &[KV_HEADS * self.head]);
            }
        }
        // Gemma's norms are written less one.
        let around = if gemma { 0.0 } else { 1.0 };
        let mut norm = |name: String, width: usize| {
            all.insert(name, random.tensor(&[width], around, 0.3));
        };
        norm("model.norm.weight".to_owned(), HIDDEN);
        for layer in 0..LAYERS {
            let name = |part: &str| format!("model.layers.{layer}.{part}.weight");
            norm(name("input_layernorm"), HIDDEN);
            norm(name("post_attention_layernorm"), HIDDEN);
            if gemma {
                norm(name("pre_feedforward_layernorm"), HIDDEN);
                norm(name("post_feedforward_layernorm"), HIDDEN);
            }
            if gemma || self.name == "qwen3" {
                norm(name("self_attn.q_norm"), self.head);
                norm(name("self_attn.k_norm"), self.head);
            }
        }
        all
    }

    /// The tokenizer that its publisher's has the form of.
    fn tokenizer(self) -> Value {
        if self.name == "gemma3_text" {
            return pieces();
        }
        let regex = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
        json!({
            "added_tokens": [
                { "id": 1, "content": "<|begin|>", "special": true, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false },
                { "id": 2, "content": "<|im_end|>", "special": true, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false },
                { "id": 3, "content": "<|endoftext|>", "special": true, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false },
                { "id": 4, "content": "<tool>", "special": false, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false },
            ],
            "pre_tokenizer": { "type": "Sequence", "pretokenizers": [
                { "type": "Split", "pattern": { "Regex": regex }, "behavior": "Isolated", "invert": false },
                { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false },
            ] },
            "model": { "type": "BPE", "vocab": { "a": 0, "b": 5, "c": 6, "ab": 7, "abc": 8, "Ġ": 9, "Ġab": 10 },
                       "merges": [["a", "b"], ["ab", "c"], ["Ġ", "ab"]] },
        })
    }
}

fn pieces() -> Value {
    json!({
        "added_tokens": [
            { "id": 1, "content": "<bos>", "special": true, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false },
            { "id": 2, "content": "<end_of_turn>", "special": true, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false },
        ],
        "normalizer": { "type": "Replace", "pattern": { "String": " " }, "content": "▁" },
        "post_processor": { "type": "TemplateProcessing", "single": [
            { "SpecialToken": { "id": "<bos>", "type_id": 0 } }, { "Sequence": { "id": "A", "type_id": 0 } }],
            "pair": [{ "Sequence": { "id": "A", "type_id": 0 } }, { "Sequence": { "id": "B", "type_id": 1 } }],
            "special_tokens": { "<bos>": { "id": "<bos>", "ids": [1], "tokens": ["<bos>"] } } },
        "model": { "type": "BPE", "byte_fallback": true, "unk_token": "<unk>",
            "vocab": { "<unk>": 0, "<0xE4>": 3, "<0xBD>": 4, "<0xA0>": 5, "a": 6, "b": 7, "▁": 8, "ab": 9, "▁ab": 10 },
            "merges": [["a", "b"], ["▁", "ab"]] },
    })
}

/// Writes tensors as safetensors, in two files with an index if asked.
fn write(folder: &Path, family: Family, kind: DType, sharded: bool) {
    let tensors = family.tensors();
    let mut halves = [HashMap::new(), HashMap::new()];
    let mut map = BTreeMap::new();
    for (at, (name, tensor)) in tensors.iter().enumerate() {
        let half = if sharded { at % 2 } else { 0 };
        map.insert(name.clone(), format!("model-0000{}-of-00002.safetensors", half + 1));
        halves[half].insert(name.clone(), tensor.to_dtype(kind).unwrap());
    }
    if sharded {
        for (at, half) in halves.iter().enumerate() {
            let path = folder.join(format!("model-0000{}-of-00002.safetensors", at + 1));
            candle_core::safetensors::save(half, path).unwrap();
        }
        let index = json!({ "metadata": {}, "weight_map": map }).to_string();
        std::fs::write(folder.join("model.safetensors.index.json"), index).unwrap();
    } else {
        candle_core::safetensors::save(&halves[0], folder.join("model.safetensors")).unwrap();
    }
    let put =
        |name: &str, value: &Value| std::fs::write(folder.join(name), value.to_string()).unwrap();
    put("config.json", &family.config());
    put("tokenizer.json", &family.tokenizer());
    put(
        "tokenizer_config.json",
        &json!({ "chat_template": "{{ messages[0].content }}", "eos_token": family_end(family) }),
    );
}

fn family_end(family: Family) -> &'static str {
    if family.name == "gemma3_text" { "<end_of_turn>" } else { "<|im_end|>" }
}

fn prompt() -> Tensor {
    let tokens: Vec<u32> = (0..19).map(|i| (i * 37 + 11) % 80).collect();
    Tensor::new(tokens, &Device::Cpu).unwrap().unsqueeze(0).unwrap()
}

fn list(logits: &Tensor) -> Vec<f32> {
    logits.flatten_all().unwrap().to_vec1().unwrap()
}

/// The logits after the prompt, computed from what was published.
fn original(family: Family) -> Vec<f32> {
    let tensors = family.tensors().into_iter().collect();
    let weights = VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu);
    let mut config = family.config();
    // What some of candle's settings insist on. And its GGUF form of Gemma 3 computes with SiLU, whatever
    // the file says, so that its other form has to.
    config["hidden_activation"] = json!("silu");
    config["max_window_layers"] = json!(LAYERS);
    config["use_sliding_window"] = json!(false);
    if family.name == "qwen2" {
        config["sliding_window"] = json!(512);
    }
    let text = config.to_string();
    let input = prompt();
    let logits = match family.name {
        "llama" => {
            let config: llama::LlamaConfig = serde_json::from_str(&text).unwrap();
            let config = config.into_config(false);
            let mut cache = llama::Cache::new(false, DType::F32, &config, &Device::Cpu).unwrap();
            llama::Llama::load(weights, &config).unwrap().forward(&input, 0, &mut cache)
        }
        "qwen2" => {
            let config: qwen2::Config = serde_json::from_str(&text).unwrap();
            qwen2::ModelForCausalLM::new(&config, weights).unwrap().forward(&input, 0)
        }
        "qwen3" => {
            let config: qwen3::Config = serde_json::from_str(&text).unwrap();
            qwen3::ModelForCausalLM::new(&config, weights).unwrap().forward(&input, 0)
        }
        _ => {
            let config: gemma3::Config = serde_json::from_str(&text).unwrap();
            // A token at a time: its cache takes no prompt of several in this form.
            let mut model = gemma3::Model::new(false, &config, weights).unwrap();
            let steps = 0..input.dim(1).unwrap();
            let step =
                |at| model.forward(&input.narrow(1, at, 1).unwrap().contiguous().unwrap(), at);
            steps.map(step).last().unwrap()
        }
    };
    list(&logits.unwrap())
}

/// The same, computed from the file that was made.
fn converted(family: Family, path: &Path) -> Vec<f32> {
    let mut file = std::fs::File::open(path).unwrap();
    let content = Content::read(&mut file).unwrap();
    let (input, cpu) = (prompt(), Device::Cpu);
    let logits = match family.name {
        "llama" => quantized_llama::ModelWeights::from_gguf(content, &mut file, &cpu)
            .unwrap()
            .forward(&input, 0),
        "qwen2" => quantized_qwen2::ModelWeights::from_gguf(content, &mut file, &cpu)
            .unwrap()
            .forward(&input, 0),
        "qwen3" => quantized_qwen3::ModelWeights::from_gguf(content, &mut file, &cpu)
            .unwrap()
            .forward(&input, 0),
        _ => quantized_gemma3::ModelWeights::from_gguf(content, &mut file, &cpu)
            .unwrap()
            .forward(&input, 0),
    };
    list(&logits.unwrap())
}

/// How far apart two lists of logits are: the root of the squares' mean, in proportion to the first's.
fn distance(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let square = |values: &mut dyn Iterator<Item = f32>| values.map(|v| v * v).sum::<f32>().sqrt();
    let size = square(&mut a.iter().copied());
    assert!(size > 0.1, "the logits are all about zero");
    square(&mut a.iter().zip(b).map(|(a, b)| a - b)) / size
}

fn make(
    family: Family,
    kind: Kind,
    published: DType,
    sharded: bool,
) -> (tempfile::TempDir, PathBuf, Summary) {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), family, published, sharded);
    let path = folder.path().join("made.gguf");
    let mut heard = Vec::new();
    let summary =
        convert(folder.path(), &path, kind, &mut |done, of| heard.push((done, of))).unwrap();
    assert_eq!(heard.last(), Some(&(summary.tensors, summary.tensors)));
    (folder, path, summary)
}

#[test]
fn every_family_computes_after_the_conversion_what_it_computed_before() {
    // Random weights of two layers amplify every rounding: of weights here, and of candle's activations.
    for family in FAMILIES {
        let before = original(family);
        for (kind, bound) in [(Kind::Q8_0, 0.09), (Kind::Q4K, 0.5)] {
            let (_folder, path, summary) = make(family, kind, DType::F32, false);
            let found = distance(&before, &converted(family, &path));
            assert!(found < bound, "{} {kind:?}: {found}", family.name);
            assert_eq!(summary.bytes, std::fs::metadata(&path).unwrap().len());
            let share = summary.bytes as f64 / summary.source_bytes as f64;
            let most = if kind == Kind::Q8_0 { 0.28 } else { 0.2 };
            assert!(share < most, "{} {kind:?}: {share}", family.name);
        }
    }
}

#[test]
fn halves_of_numbers_and_parts_of_files_make_the_same_model() {
    for family in FAMILIES {
        let before = original(family);
        for published in [DType::BF16, DType::F16] {
            let (_folder, path, _) = make(family, Kind::Q8_0, published, true);
            let found = distance(&before, &converted(family, &path));
            assert!(found < 0.09, "{} {published:?}: {found}", family.name);
        }
        let (_one, whole, _) = make(family, Kind::Q4K, DType::BF16, false);
        let (_two, parts, _) = make(family, Kind::Q4K, DType::BF16, true);
        let strip = |path: &Path| {
            // The folder's name is in it.
            let mut file = std::fs::File::open(path).unwrap();
            let content = Content::read(&mut file).unwrap();
            std::fs::read(path)
                .unwrap()
                .split_off(usize::try_from(content.tensor_data_offset).unwrap())
        };
        assert!(strip(&whole) == strip(&parts), "{}", family.name);
    }
}

#[test]
fn the_plugin_reads_the_shape_and_the_tokenizer_of_what_is_made() {
    for family in FAMILIES {
        let (_folder, path, _) = make(family, Kind::Q8_0, DType::BF16, false);
        let gguf = Gguf::open(&path).unwrap();
        let shape = Shape::read(&gguf).unwrap();
        let read = (shape.layers, shape.hidden, shape.heads, shape.kv_heads, shape.head);
        assert_eq!(read, (LAYERS, HIDDEN, HEADS, KV_HEADS, family.head), "{}", family.name);
        assert_eq!((shape.vocabulary, shape.trained_context), (VOCABULARY, 512));
        let tokens = Tokens::load(&gguf).unwrap();
        let gemma = family.name == "gemma3_text";
        let expected: &[u32] = if gemma { &[9, 10] } else { &[7, 10] };
        assert_eq!(tokens.encode("ab ab", Origin::Message), expected, "{}", family.name);
        assert_eq!(tokens.prefix(), gemma.then_some(1));
        assert!(tokens.is_end(2) && !tokens.is_end(10));
        assert_eq!(gguf.text("tokenizer.chat_template"), Some("{{ messages[0].content }}"));
        if gemma {
            assert_eq!(tokens.encode("你", Origin::Message), [3, 4, 5]);
            assert_eq!((shape.global_every, shape.window), (2, 512));
            let local = shape.local_rope.unwrap().frequencies[1];
            assert!((local - 5_000f32.powf(-2.0 / 32.0)).abs() < 1e-6, "{local}");
        }
    }
}

#[test]
fn what_nobody_could_compute_right_is_refused_before_a_number_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let to = folder.path().join("made.gguf");
    let family = FAMILIES[0];
    let refused = |change: &dyn Fn(&mut Value)| {
        write(folder.path(), family, DType::F32, false);
        let mut config = family.config();
        change(&mut config);
        std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
        let error = convert(folder.path(), &to, Kind::Q8_0, &mut |_, _| ()).unwrap_err();
        assert!(matches!(error, QuantizeError::Unknown(_)), "{error}");
        assert!(!to.exists());
        error.to_string()
    };
    assert!(refused(&|c| c["model_type"] = json!("mamba")).contains("`mamba`"));
    assert!(refused(&|c| c["num_local_experts"] = json!(8)).contains("experts"));
    assert!(refused(&|c| c["hidden_act"] = json!("relu")).contains("relu"));
    assert!(refused(&|c| c["rope_scaling"] = json!({ "rope_type": "yarn" })).contains("yarn"));
    assert!(refused(&|c| c["quantization_config"] = json!({})).contains("compressed already"));
    assert!(refused(&|c| c["num_hidden_layers"] = json!(2)).contains("layers.2"));
    assert!(refused(&|c| c["num_hidden_layers"] = json!(4)).contains("layers.3"));
    assert!(refused(&|c| c["head_dim"] = json!(60)).contains("heads"));
}

#[test]
fn hostile_folders_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let to = folder.path().join("made.gguf");
    let run = || convert(folder.path(), &to, Kind::Q8_0, &mut |_, _| ()).unwrap_err();
    assert!(run().to_string().contains("config.json"));
    write(folder.path(), FAMILIES[0], DType::F32, false);
    let weights = folder.path().join("model.safetensors");
    let whole = std::fs::read(&weights).unwrap();
    for length in [0, 7, 100, whole.len() / 2, whole.len() - 1] {
        std::fs::write(&weights, &whole[..length]).unwrap();
        assert!(!matches!(run(), QuantizeError::Compute { .. }), "{length}");
    }
    let mut huge = whole.clone();
    huge[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    std::fs::write(&weights, &huge).unwrap();
    assert!(run().to_string().contains("impossible"));
    std::fs::write(&weights, &whole).unwrap();
    let index = json!({ "weight_map": { "x": "../../etc/passwd" } }).to_string();
    std::fs::write(folder.path().join("model.safetensors.index.json"), index).unwrap();
    assert!(run().to_string().contains("leads elsewhere"));
    assert!(!to.exists());
}

//! Small random models of every family, with candle's own implementations as the oracle.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::quantized::gguf_file::{Content, Value, write};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use candle_transformers::models::{
    quantized_gemma3, quantized_llama, quantized_qwen2, quantized_qwen3,
};

use super::*;
use crate::shape::Activation;

const HIDDEN: usize = 64;
const INNER: usize = 96;
const VOCABULARY: usize = 80;
const LAYERS: usize = 2;
const HEADS: usize = 4;
const KV_HEADS: usize = 2;

struct Random(u32);

impl Random {
    fn tensor(&mut self, shape: &[usize], around: f32, spread: f32) -> Tensor {
        let count = shape.iter().product();
        let values: Vec<f32> = (0..count)
            .map(|_| {
                self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                around + spread * ((self.0 >> 8) as f32 / (1 << 23) as f32 - 1.0)
            })
            .collect();
        Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
    }
}

/// Writes a model. `head` is the width of a head, `kind` the quantisation of the matrices;
/// without one they have values of 8 bits, written in full, so that nobody rounds anything.
pub(crate) fn write_model(
    path: &Path,
    family: &str,
    head: usize,
    kind: impl Into<Option<GgmlDType>>,
) {
    let extent = Extent { vocabulary: VOCABULARY, context: 256 };
    write_with(path, family, head, kind.into(), extent, &[]);
}

/// How large a model is beside its matrices.
#[derive(Clone, Copy)]
pub(crate) struct Extent {
    pub(crate) vocabulary: usize,
    pub(crate) context: usize,
}

/// As [`write_model`], with more metadata.
pub(crate) fn write_with(
    path: &Path,
    family: &str,
    head: usize,
    kind: Option<GgmlDType>,
    extent: Extent,
    extra: &[(&str, Value)],
) {
    let mut random = Random(7919);
    let mut tensors: BTreeMap<String, QTensor> = BTreeMap::new();
    let mut matrix = |random: &mut Random, name: String, rows: usize, columns: usize| {
        let tensor = random.tensor(&[rows, columns], 0.0, 0.25);
        let quantised = QTensor::quantize(&tensor, kind.unwrap_or(GgmlDType::Q8_0)).unwrap();
        let full = || {
            QTensor::quantize(&quantised.dequantize(&Device::Cpu).unwrap(), GgmlDType::F32).unwrap()
        };
        let stored = if kind.is_none() { full() } else { quantised };
        tensors.insert(name, stored);
    };
    matrix(&mut random, "token_embd.weight".to_owned(), extent.vocabulary, HIDDEN);
    matrix(&mut random, "output.weight".to_owned(), extent.vocabulary, HIDDEN);
    for layer in 0..LAYERS {
        let name = |part: &str| format!("blk.{layer}.{part}.weight");
        matrix(&mut random, name("attn_q"), HEADS * head, HIDDEN);
        matrix(&mut random, name("attn_k"), KV_HEADS * head, HIDDEN);
        matrix(&mut random, name("attn_v"), KV_HEADS * head, HIDDEN);
        matrix(&mut random, name("attn_output"), HIDDEN, HEADS * head);
        matrix(&mut random, name("ffn_gate"), INNER, HIDDEN);
        matrix(&mut random, name("ffn_up"), INNER, HIDDEN);
        matrix(&mut random, name("ffn_down"), HIDDEN, INNER);
    }
    let mut vector = |name: String, width: usize, around: f32| {
        let tensor = random.tensor(&[width], around, 0.3);
        tensors.insert(name, QTensor::quantize(&tensor, GgmlDType::F32).unwrap());
    };
    vector("output_norm.weight".to_owned(), HIDDEN, 1.0);
    for layer in 0..LAYERS {
        let name = |part: &str| format!("blk.{layer}.{part}");
        vector(name("attn_norm.weight"), HIDDEN, 1.0);
        vector(name("ffn_norm.weight"), HIDDEN, 1.0);
        if family == "qwen2" {
            vector(name("attn_q.bias"), HEADS * head, 0.0);
            vector(name("attn_k.bias"), KV_HEADS * head, 0.0);
            vector(name("attn_v.bias"), KV_HEADS * head, 0.0);
        }
        if family == "qwen3" || family == "gemma3" {
            vector(name("attn_q_norm.weight"), head, 1.0);
            vector(name("attn_k_norm.weight"), head, 1.0);
        }
        if family == "gemma3" {
            vector(name("post_attention_norm.weight"), HIDDEN, 1.0);
            vector(name("post_ffw_norm.weight"), HIDDEN, 1.0);
        }
    }
    let number = |value: usize| Value::U32(u32::try_from(value).unwrap());
    let metadata = [
        ("embedding_length", number(HIDDEN)),
        ("feed_forward_length", number(INNER)),
        ("block_count", number(LAYERS)),
        ("attention.head_count", number(HEADS)),
        ("attention.head_count_kv", number(KV_HEADS)),
        ("attention.key_length", number(head)),
        ("attention.value_length", number(head)),
        ("attention.layer_norm_rms_epsilon", Value::F32(1e-5)),
        ("attention.sliding_window", number(512)),
        ("context_length", number(extent.context)),
        ("rope.dimension_count", number(head)),
        ("rope.freq_base", Value::F32(10_000.0)),
    ];
    let metadata: Vec<(String, Value)> =
        metadata.into_iter().map(|(key, value)| (format!("{family}.{key}"), value)).collect();
    let architecture = Value::String(family.to_owned());
    let mut all: Vec<(&str, &Value)> =
        metadata.iter().map(|(key, value)| (key.as_str(), value)).collect();
    all.push(("general.architecture", &architecture));
    all.extend(extra.iter().map(|(key, value)| (*key, value)));
    let tensors: Vec<(&str, &QTensor)> =
        tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    write(&mut std::fs::File::create(path).unwrap(), &all, &tensors).unwrap();
}

/// candle's logits after the last token.
pub(crate) fn oracle(path: &Path, family: &str, tokens: &[u32]) -> Vec<f32> {
    let mut file = std::fs::File::open(path).unwrap();
    let content = Content::read(&mut file).unwrap();
    let input = Tensor::new(tokens, &Device::Cpu).unwrap().unsqueeze(0).unwrap();
    let device = Device::Cpu;
    let logits = match family {
        "llama" => quantized_llama::ModelWeights::from_gguf(content, &mut file, &device)
            .unwrap()
            .forward(&input, 0),
        "qwen2" => quantized_qwen2::ModelWeights::from_gguf(content, &mut file, &device)
            .unwrap()
            .forward(&input, 0),
        "qwen3" => quantized_qwen3::ModelWeights::from_gguf(content, &mut file, &device)
            .unwrap()
            .forward(&input, 0),
        _ => quantized_gemma3::ModelWeights::from_gguf(content, &mut file, &device)
            .unwrap()
            .forward(&input, 0),
    };
    logits.unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

pub(crate) fn load(path: &Path, pool: &Pool, change: fn(&mut Shape)) -> Decoder {
    let gguf = Arc::new(Gguf::open(path).unwrap());
    let mut shape = Shape::read(&gguf).unwrap();
    change(&mut shape);
    Decoder::load(&gguf, Arc::new(shape), pool, &mut |_, _| ()).unwrap()
}

pub(crate) fn logits(
    decoder: &Decoder,
    pool: &Pool,
    cache: &mut Cache,
    tokens: &[u32],
) -> Vec<f32> {
    decoder.forward(pool, &mut [Span { tokens, cache, logits: true }]).remove(0).unwrap()
}

/// Largest difference, in proportion to the largest logit.
pub(crate) fn difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let scale = b.iter().fold(0f32, |m, v| m.max(v.abs()));
    assert!(scale > 0.1, "the logits are all about zero");
    a.iter().zip(b).fold(0f32, |m, (a, b)| m.max((a - b).abs())) / scale
}

pub(crate) const FAMILIES: [(&str, usize); 4] =
    [("llama", 16), ("qwen2", 16), ("qwen3", 32), ("gemma3", 32)];

pub(crate) fn prompt(length: u32) -> Vec<u32> {
    (0..length).map(|i| (i * 37 + 11) % 80).collect()
}

#[test]
fn every_family_computes_what_candle_computes() {
    let home = tempfile::tempdir().unwrap();
    let pool = Pool::new(2).unwrap();
    for (family, head) in FAMILIES {
        let path = home.path().join(format!("{family}.gguf"));
        write_model(&path, family, head, None);
        // candle 0.11 computes Gemma 3 with SiLU; the published model wants GELU.
        let decoder = load(&path, &pool, |shape| shape.activation = Activation::Silu);
        let tokens = prompt(23);
        let ours = logits(&decoder, &pool, &mut Cache::default(), &tokens);
        let found = difference(&ours, &oracle(&path, family, &tokens));
        // Activations in 8 bits here, and in full there.
        assert!(found < 0.04, "{family}: {found}");
    }
}

#[test]
fn slow_quantisations_give_the_same_logits_after_conversion() {
    let home = tempfile::tempdir().unwrap();
    let pool = Pool::new(1).unwrap();
    for kind in [
        GgmlDType::Q4_0,
        GgmlDType::Q4_1,
        GgmlDType::Q5_0,
        GgmlDType::Q5_1,
        GgmlDType::F16,
        GgmlDType::F32,
    ] {
        let path = home.path().join("model.gguf");
        write_model(&path, "llama", 16, kind);
        let decoder = load(&path, &pool, |_| ());
        let tokens = prompt(9);
        let ours = logits(&decoder, &pool, &mut Cache::default(), &tokens);
        let found = difference(&ours, &oracle(&path, "llama", &tokens));
        // candle rounds activations to 8 bits, we the weights.
        assert!(found < 0.06, "{kind:?}: {found}");
    }
}

#[test]
fn a_prompt_in_pieces_and_conversations_side_by_side_change_nothing() {
    let home = tempfile::tempdir().unwrap();
    let pool = Pool::new(2).unwrap();
    for (family, head) in FAMILIES {
        let path = home.path().join(format!("{family}.gguf"));
        write_model(&path, family, head, GgmlDType::Q8_0);
        let decoder = load(&path, &pool, |_| ());
        let (first, second) = (prompt(20), prompt(33)[7..].to_vec());
        let expected_first = logits(&decoder, &pool, &mut Cache::default(), &first);
        let expected_second = logits(&decoder, &pool, &mut Cache::default(), &second);
        let (mut a, mut b) = (Cache::default(), Cache::default());
        let mut step = |x: &[u32], y: &[u32]| {
            let mut spans = [
                Span { tokens: x, cache: &mut a, logits: true },
                Span { tokens: y, cache: &mut b, logits: true },
            ];
            decoder.forward(&pool, &mut spans)
        };
        step(&first[..13], &second[..1]);
        let mut last = Vec::new();
        for index in 0..7 {
            let piece = if index == 6 { &second[7..] } else { &second[1 + index..2 + index] };
            last = step(&first[13 + index..14 + index], piece);
        }
        let found =
            |index: usize, expected: &[f32]| difference(last[index].as_ref().unwrap(), expected);
        assert!(found(0, &expected_first) < 1e-4, "{family}");
        assert!(found(1, &expected_second) < 1e-4, "{family}");
    }
}

#[test]
fn every_family_computes_what_candle_computes_with_the_same_rounding() {
    let home = tempfile::tempdir().unwrap();
    let pool = Pool::new(2).unwrap();
    for (family, head) in FAMILIES {
        let path = home.path().join(format!("{family}.gguf"));
        write_model(&path, family, head, GgmlDType::Q8_0);
        let decoder = load(&path, &pool, |shape| shape.activation = Activation::Silu);
        let tokens = prompt(50);
        let ours = logits(&decoder, &pool, &mut Cache::default(), &tokens);
        let found = difference(&ours, &oracle(&path, family, &tokens));
        // Both round activations to 8 bits; candle rounds their scales too.
        assert!(found < 0.03, "{family}: {found}");
    }
}

#[test]
fn a_row_of_a_batch_is_the_same_to_the_bit() {
    let home = tempfile::tempdir().unwrap();
    let pool = Pool::new(2).unwrap();
    for (family, head) in FAMILIES {
        let path = home.path().join(format!("{family}.gguf"));
        write_model(&path, family, head, GgmlDType::Q4_1);
        let decoder = load(&path, &pool, |_| ());
        let tokens = prompt(75);
        let whole = logits(&decoder, &pool, &mut Cache::default(), &tokens);
        let (mut cache, mut other) = (Cache::default(), Cache::default());
        for piece in [0..40, 40..41, 41..66, 66..67] {
            logits(&decoder, &pool, &mut cache, &tokens[piece]);
        }
        let mut spans = [
            Span { tokens: &tokens[..33], cache: &mut other, logits: true },
            Span { tokens: &tokens[67..], cache: &mut cache, logits: true },
        ];
        assert_eq!(decoder.forward(&pool, &mut spans).remove(1).unwrap(), whole, "{family}");
    }
}

#[test]
fn a_window_hides_what_lies_before_it() {
    let home = tempfile::tempdir().unwrap();
    let pool = Pool::new(1).unwrap();
    let path = home.path().join("model.gguf");
    write_model(&path, "gemma3", 32, GgmlDType::Q8_0);
    // Two local layers of 4 tokens see 7 tokens back at most.
    let narrow = load(&path, &pool, |shape| shape.window = 4);
    let whole = load(&path, &pool, |_| ());
    let mut tokens = prompt(20);
    let run =
        |decoder: &Decoder, tokens: &[u32]| logits(decoder, &pool, &mut Cache::default(), tokens);
    let (before_narrow, before_whole) = (run(&narrow, &tokens), run(&whole, &tokens));
    tokens[12] = 5;
    assert!(difference(&run(&narrow, &tokens), &before_narrow) < 1e-6);
    assert!(difference(&run(&whole, &tokens), &before_whole) > 1e-3);
}

#[test]
fn an_unknown_architecture_and_a_missing_tensor_are_refused() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("model.gguf");
    write_model(&path, "mamba", 16, GgmlDType::Q8_0);
    let error = Shape::read(&Gguf::open(&path).unwrap()).unwrap_err();
    assert!(error.to_string().contains("`mamba`"), "{error}");
    write_model(&path, "llama", 16, GgmlDType::Q8_0);
    let gguf = Arc::new(Gguf::open(&path).unwrap());
    let mut shape = Shape::read(&gguf).unwrap();
    shape.layers = 3;
    let error = Decoder::load(&gguf, Arc::new(shape), &Pool::new(1).unwrap(), &mut |_, _| ())
        .err()
        .unwrap();
    assert!(matches!(&error, LoadError::Missing(name) if name.starts_with("blk.2")), "{error}");
    let error = crate::tokens::Tokens::load(&gguf).err().unwrap();
    assert!(error.to_string().contains("tokenizer"), "{error}");
}

//! The encoders of the catalogue, on their real weights, against vectors that ONNX Runtime made of the same weights
//! (tests/peers/encoders/vectors.py).

#![expect(clippy::unwrap_used, reason = "a failed test panics")]

use std::{path::PathBuf, sync::OnceLock};

use proptest::prelude::*;
use qudao_encoder::Encoder;
use serde::Deserialize;

#[derive(Deserialize)]
struct Known {
    purpose: String,
    text: String,
    tokens: usize,
    vector: Vec<f32>,
}

fn pulled(name: &str) -> PathBuf {
    #[expect(clippy::disallowed_methods, reason = "where the tests' weights are is no setting")]
    let variable = |name: &str| std::env::var(name).ok().map(PathBuf::from);
    let directory = variable("QUDAO_MODELS_DIR")
        .or_else(|| variable("HOME").map(|home| home.join(".cache/qudao/models")))
        .unwrap_or_else(|| std::env::temp_dir().join("qudao-models"));
    let puller = qudao_models::Puller::new(qudao_models::Catalogue::built_in().unwrap());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(puller.pull(name, &directory, &|_, _, _| ())).unwrap().path
}

fn e5() -> &'static Encoder {
    static ENCODER: OnceLock<Encoder> = OnceLock::new();
    ENCODER.get_or_init(|| Encoder::load(&pulled("multilingual-e5-small")).unwrap())
}

fn cosine(a: &[f32], b: &[f32]) -> f32 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

fn compare(encoder: &Encoder, known: &str) {
    let known: Vec<Known> = serde_json::from_str(known).unwrap();
    assert_eq!(known.len(), 20);
    let card = encoder.card();
    let prefix = |purpose: &str| if purpose == "query" { &card.query } else { &card.passage };
    let read: Vec<_> =
        known.iter().map(|k| encoder.read(prefix(&k.purpose), &k.text).unwrap()).collect();
    let ids: Vec<&[u32]> = read.iter().map(|read| read.ids.as_slice()).collect();
    let means = encoder.means(&ids, &[encoder.network().layers]).unwrap();
    for ((known, read), mean) in known.iter().zip(&read).zip(&means) {
        let about = known.text.chars().take(40).collect::<String>();
        assert_eq!(read.ids.len(), known.tokens, "{about}");
        let cosine = cosine(mean, &known.vector);
        assert!(0.999_99 < cosine, "{about}: {cosine}");
        assert_eq!(read.truncated, known.tokens == card.max_tokens, "{about}");
    }
}

#[test]
fn multilingual_e5_small_agrees_with_onnx_runtime() {
    compare(e5(), include_str!("vectors-multilingual-e5-small.json"));
}

#[test]
fn all_minilm_l6_v2_agrees_with_onnx_runtime() {
    let encoder = Encoder::load(&pulled("all-minilm-l6-v2")).unwrap();
    compare(&encoder, include_str!("vectors-all-minilm-l6-v2.json"));
}

#[test]
fn the_operations_of_a_device_compute_the_same() {
    for (name, known) in [
        ("multilingual-e5-small", include_str!("vectors-multilingual-e5-small.json")),
        ("all-minilm-l6-v2", include_str!("vectors-all-minilm-l6-v2.json")),
    ] {
        let mut encoder = Encoder::load(&pulled(name)).unwrap();
        encoder.place(candle_core::Device::Cpu).unwrap();
        compare(&encoder, known);
    }
}

#[test]
fn a_device_that_is_not_there_is_refused_and_the_processor_is_not() {
    let path = pulled("all-minilm-l6-v2");
    let refusal = Encoder::load_on(&path, "cuda:97").unwrap_err().to_string();
    assert!(refusal.contains("cuda:97"), "{refusal}");
    assert!(Encoder::load_on(&path, "cpu").is_ok());
}

#[test]
fn words_stand_where_they_are_in_the_text() {
    let text = "It's  great — 我很满意，thanks!";
    let read = e5().read("query: ", text).unwrap();
    let letters: Vec<char> = text.chars().collect();
    for word in &read.words {
        assert_eq!(letters[word.start..word.end].iter().collect::<String>(), word.text);
        assert!(!word.tokens.is_empty() && word.tokens.end < read.ids.len());
    }
    let words: Vec<_> = read.words.iter().map(|word| word.text.as_str()).collect();
    assert_eq!(words[..2], ["It's", "great"], "{words:?}");
    assert!(
        words.contains(&"thanks") && words.iter().any(|word| word.contains("满意")),
        "{words:?}"
    );
}

#[test]
fn every_token_has_a_slope() {
    let encoder = e5();
    let read = encoder.read("query: ", "not a good day but a good meal").unwrap();
    let mean = encoder.means(&[&read.ids], &[12]).unwrap().remove(0);
    let slopes = encoder.gradient_input(&read.ids, &[12], &mean).unwrap();
    assert_eq!(slopes.len(), read.ids.len());
    assert!(
        slopes.iter().all(|slope| slope.is_finite()) && slopes.iter().any(|slope| *slope != 0.0)
    );
}

#[test]
fn a_file_that_is_no_encoder_is_refused_in_words() {
    let folder = std::env::temp_dir().join(format!("qudao-encoder-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join("model.safetensors");
    let header = br#"{"__metadata__":{"format":"pt"}}"#;
    let mut plain = (header.len() as u64).to_le_bytes().to_vec();
    plain.extend(header);
    let long = b"\xff\xff\xff\xff\xff\xff\xff\x7f".to_vec();
    for (bytes, words) in
        [(plain, "qudao model pull"), (long, "no encoder"), (Vec::new(), "no encoder")]
    {
        std::fs::write(&path, bytes).unwrap();
        let refusal = Encoder::load(&path).unwrap_err().to_string();
        assert!(refusal.contains(words), "{refusal}");
    }
    std::fs::remove_dir_all(folder).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn a_batch_of_n_equals_n_singles(
        texts in prop::collection::vec("[a-z 好坏不很！]{1,60}|\\PC{1,20}", 1..9),
    ) {
        let encoder = e5();
        let read: Vec<_> = texts.iter().map(|text| encoder.read("query: ", text).unwrap()).collect();
        let ids: Vec<&[u32]> = read.iter().map(|read| read.ids.as_slice()).collect();
        let together = encoder.means(&ids, &[6, 12]).unwrap();
        for (ids, together) in ids.iter().zip(&together) {
            let alone = encoder.means(&[ids], &[6, 12]).unwrap().remove(0);
            let apart = alone.iter().zip(together).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            prop_assert!(apart < 1e-4, "{apart}");
        }
    }
}

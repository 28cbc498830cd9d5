//! The plugin on its real weights in the real host: vectors as ONNX Runtime makes them of the same weights
//! (plugins/encoder/tests), whoever asks beside, and what is refused.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a failed test panics")]

use std::{path::PathBuf, time::Duration};

use qudao_plugin_api::wire::{EmbedRequest, Embedded, ErrorKind, Purpose, Usage};
use qudao_plugin_host::{
    Call, CallError, Event, HostSettings, InstanceSettings, ModelEntry, ModelKind, ModelState,
    Placement, PluginHost, Sandbox, Trace, pack, protections,
};
use serde::Deserialize;
use serde_json::json;

const SECRET: [u8; 32] = [9; 32];
const E5: &str = "multilingual-e5-small";
const MINILM: &str = "all-minilm-l6-v2";
const DIMENSIONS: usize = 384;

/// A text and its vector, as `tests/peers/encoders/vectors.py` wrote them.
#[derive(Deserialize)]
struct Known {
    purpose: Purpose,
    text: String,
    tokens: u32,
    vector: Vec<f32>,
}

fn known(model: &str) -> Vec<Known> {
    let text = match model {
        E5 => include_str!("../../encoder/tests/vectors-multilingual-e5-small.json"),
        _ => include_str!("../../encoder/tests/vectors-all-minilm-l6-v2.json"),
    };
    serde_json::from_str(text).unwrap()
}

fn built() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.parent().and_then(std::path::Path::parent).unwrap().to_owned()
}

async fn weights(model: &str) -> PathBuf {
    #[expect(clippy::disallowed_methods, reason = "where the tests' weights are is no setting")]
    let variable = |name: &str| std::env::var(name).ok().map(PathBuf::from);
    let directory = variable("QUDAO_MODELS_DIR")
        .or_else(|| variable("HOME").map(|home| home.join(".cache/qudao/models")))
        .unwrap_or_else(|| std::env::temp_dir().join("qudao-models"));
    let puller = qudao_models::Puller::new(qudao_models::Catalogue::built_in().unwrap());
    puller.pull(model, &directory, &|_, _, _| ()).await.unwrap().path
}

async fn start(model: &str, placement: Placement) -> (tempfile::TempDir, PluginHost) {
    let folder = tempfile::tempdir().unwrap();
    let dist = folder.path().join("plugins");
    let template = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("plugin.toml");
    pack(&template, &built(), &dist, &SECRET).unwrap();
    let instance = InstanceSettings {
        placement,
        config: json!({ "path": weights(model).await }),
        models: vec![ModelEntry::of_kind("vectors", ModelKind::Embed)],
        ..InstanceSettings::new("vectors", "embedder", "vectors")
    };
    let host = PluginHost::start(HostSettings {
        plugin_dirs: vec![dist],
        state_dir: folder.path().join("state"),
        host_binary: built().join("qudao-plugin-host"),
        allow_unsigned: true,
        trusted_keys: vec![qudao_plugin_api::manifest::public_key(&SECRET)],
        sandbox: match placement {
            // A library in this process cannot be confined.
            Placement::Inproc => Sandbox::BestEffort,
            _ if protections().1.is_empty() => Sandbox::Required,
            _ => Sandbox::BestEffort,
        },
        instances: vec![instance],
        ..HostSettings::default()
    })
    .await;
    loop {
        match host.model("vectors").unwrap().state {
            ModelState::Ready => return (folder, host),
            ModelState::Loading { .. } => tokio::time::sleep(Duration::from_millis(20)).await,
            other => panic!("{other:?}"),
        }
    }
}

fn call(kind: ModelKind, payload: Vec<u8>) -> Call {
    Call { kind, payload, timeout: Duration::from_secs(120), trace: Trace::NONE }
}

fn request(texts: &[&str], purpose: Option<Purpose>) -> EmbedRequest {
    let texts = texts.iter().map(|text| (*text).to_owned()).collect();
    EmbedRequest { purpose, ..EmbedRequest::new("vectors", texts) }
}

/// The vectors in the order of the texts.
async fn ask(host: &PluginHost, request: &EmbedRequest) -> (Vec<Embedded>, Usage) {
    let payload = serde_json::to_vec(request).unwrap();
    let mut stream = host.call("vectors", call(ModelKind::Embed, payload)).unwrap();
    let mut found: Vec<Embedded> = Vec::new();
    loop {
        match stream.next().await.unwrap() {
            Event::Data(value) => found.push(serde_json::from_value(value).unwrap()),
            Event::End { usage, .. } => {
                found.sort_by_key(|one| one.index);
                let places: Vec<_> = found.iter().map(|one| one.index as usize).collect();
                assert_eq!(places, (0..request.texts.len()).collect::<Vec<_>>());
                return (found, usage);
            }
            other => panic!("{other:?}"),
        }
    }
}

async fn one(host: &PluginHost, text: &str, purpose: Option<Purpose>) -> Embedded {
    ask(host, &request(&[text], purpose)).await.0.remove(0)
}

fn cosine(a: &[f32], b: &[f32]) -> f32 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

fn length(vector: &[f32]) -> f32 {
    vector.iter().map(|number| number * number).sum::<f32>().sqrt()
}

/// All known texts of one purpose in one request, longest last and first.
async fn compare(model: &str, longest: u32, placement: Placement) {
    let (_folder, host) = start(model, placement).await;
    for purpose in [Purpose::Query, Purpose::Passage] {
        let known: Vec<_> =
            known(model).into_iter().filter(|known| known.purpose == purpose).collect();
        let texts: Vec<_> = known.iter().map(|known| known.text.as_str()).collect();
        let (found, usage) = ask(&host, &request(&texts, Some(purpose))).await;
        for (known, found) in known.iter().zip(&found) {
            let about = known.text.chars().take(40).collect::<String>();
            assert_eq!(found.embedding.len(), DIMENSIONS);
            let cosine = cosine(&known.vector, &found.embedding);
            assert!(0.999 < cosine, "{model} {placement:?} {about}: {cosine}");
            assert!((length(&found.embedding) - 1.0).abs() < 1e-5, "{about}");
            assert_eq!(found.truncated, known.tokens == longest, "{about}");
        }
        let tokens: u32 = known.iter().map(|known| known.tokens).sum();
        assert_eq!((usage.input_tokens, usage.output_tokens), (tokens, 0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn multilingual_e5_small_gives_the_vectors_of_onnx_runtime() {
    for placement in [Placement::Process, Placement::Inproc] {
        compare(E5, 512, placement).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_minilm_l6_v2_gives_the_vectors_of_onnx_runtime() {
    compare(MINILM, 256, Placement::Process).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_text_is_for_matters_as_the_model_card_says() {
    let text = "Returns are free within 30 days.";
    let (_folder, host) = start(E5, Placement::Process).await;
    let query = one(&host, text, Some(Purpose::Query)).await.embedding;
    let passage = one(&host, text, Some(Purpose::Passage)).await.embedding;
    assert!(cosine(&query, &passage) < 0.999, "each has its own prefix");
    assert_eq!(one(&host, text, None).await.embedding, query, "a query if nobody says");
    // The prefix is put before the text, and is not a part of what the caller has to know.
    let written = one(&host, &format!("query: {text}"), None).await.embedding;
    assert!(cosine(&query, &written) < 0.999);

    let (_folder, host) = start(MINILM, Placement::Process).await;
    let query = one(&host, text, Some(Purpose::Query)).await.embedding;
    assert_eq!(one(&host, text, Some(Purpose::Passage)).await.embedding, query, "it knows none");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_finds_its_answer_in_both_languages() {
    let (_folder, host) = start(E5, Placement::Process).await;
    let answers = [
        "Parcels arrive within three working days.",
        "You can send the goods back within 30 days, free of charge.",
        "Our shop is open from nine to six, and closed on Sundays.",
    ];
    let (passages, _) = ask(&host, &request(&answers, Some(Purpose::Passage))).await;
    for (question, wanted) in [
        ("How long until my parcel arrives?", 0),
        ("I want my money back", 1),
        ("几点关门？", 2),
        ("怎么退货？", 1),
    ] {
        let query = one(&host, question, Some(Purpose::Query)).await.embedding;
        let close = |at: usize| cosine(&query, &passages[at].embedding);
        let best = (0..answers.len()).max_by(|a, b| close(*a).total_cmp(&close(*b))).unwrap();
        assert_eq!(best, wanted, "{question}: {:?}", [close(0), close(1), close(2)]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_after_the_longest_text_that_it_reads_changes_nothing() {
    let (_folder, host) = start(E5, Placement::Process).await;
    let long = "word ".repeat(700);
    let found =
        ask(&host, &request(&[&long, &format!("{long} and nobody reads this")], None)).await;
    assert_eq!(found.1.input_tokens, 2 * 512);
    assert!(found.0.iter().all(|one| one.truncated));
    let apart = 1.0 - cosine(&found.0[0].embedding, &found.0[1].embedding);
    assert!(apart < 1e-5, "{apart}");
    let short = one(&host, &"word ".repeat(500), None).await;
    assert!(!short.truncated, "504 tokens are not too many");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_of_n_equals_n_singles_and_callers_do_not_feel_each_other() {
    let (_folder, host) = start(E5, Placement::Process).await;
    let long = "很长的一段话。".repeat(60);
    let texts =
        ["Hello", "我的快递还没到", &long, "a", "Ich möchte bestellen", "👍", "12 × 15.90 €"];
    let (together, usage) = ask(&host, &request(&texts, None)).await;
    let mut tokens = 0;
    for (text, together) in texts.iter().zip(&together) {
        let (alone, usage) = ask(&host, &request(&[text], None)).await;
        tokens += usage.input_tokens;
        let apart = alone[0].embedding.iter().zip(&together.embedding);
        let apart = apart.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(apart < 1e-4, "{text}: {apart}");
    }
    assert_eq!(usage.input_tokens, tokens);
    let calls = (0..24).map(|at| {
        let (host, text) = (host.clone(), texts[at % texts.len()].to_owned());
        async move { one(&host, &text, None).await.embedding }
    });
    for (at, crowd) in futures_util::future::join_all(calls).await.iter().enumerate() {
        assert!(0.999_99 < cosine(crowd, &together[at % texts.len()].embedding));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_texts_have_vectors_and_what_is_no_request_is_refused_in_words() {
    let (_folder, host) = start(E5, Placement::Process).await;
    let odd = [
        "\u{0}\u{1}\u{7f}",
        "\u{202e}txet",
        "👩🏽‍🚀🏳️‍🌈",
        &"\u{301}".repeat(5_000),
        &"🙂".repeat(5_000),
        "\u{fffd}\u{ffff}",
    ];
    for found in ask(&host, &request(&odd, None)).await.0 {
        assert!(found.embedding.iter().all(|number| number.is_finite()), "{}", found.index);
        assert!((length(&found.embedding) - 1.0).abs() < 1e-5, "{}", found.index);
    }
    let wrong: [&[u8]; 5] = [
        br#"{"model":"vectors"}"#,
        br#"{"model":"vectors","texts":[]}"#,
        br#"{"model":"vectors","texts":[1,2]}"#,
        br#"{"model":"vectors","texts":["a"],"purpose":"guess"}"#,
        b"\xff\x00 no JSON",
    ];
    for payload in wrong {
        let mut stream = host.call("vectors", call(ModelKind::Embed, payload.to_vec())).unwrap();
        match stream.next().await.unwrap() {
            Event::Error(CallError::Provider { kind: ErrorKind::BadRequest, message, .. }) => {
                assert!(!message.is_empty());
            }
            other => panic!("{}: {other:?}", String::from_utf8_lossy(payload)),
        }
    }
    let refused = host.call("vectors", call(ModelKind::Classify, b"{}".to_vec())).unwrap_err();
    assert!(matches!(refused, CallError::WrongKind { .. }), "{refused}");
    assert_eq!(one(&host, "still here", None).await.embedding.len(), DIMENSIONS);
}

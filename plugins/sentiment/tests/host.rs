//! The plugin on its real weights in the real host: classes, words, and many callers at once.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a failed test panics")]

use std::{path::PathBuf, time::Duration};

use qudao_plugin_api::wire::{Classified, ClassifyRequest, Usage};
use qudao_plugin_host::{
    Call, CallError, Event, HostSettings, InstanceSettings, ModelEntry, ModelKind, ModelState,
    Placement, PluginHost, Sandbox, Trace, pack, protections,
};
use serde_json::json;

const SECRET: [u8; 32] = [9; 32];

fn built() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.parent().and_then(std::path::Path::parent).unwrap().to_owned()
}

async fn weights() -> PathBuf {
    #[expect(clippy::disallowed_methods, reason = "where the tests' weights are is no setting")]
    let variable = |name: &str| std::env::var(name).ok().map(PathBuf::from);
    let directory = variable("QUDAO_MODELS_DIR")
        .or_else(|| variable("HOME").map(|home| home.join(".cache/qudao/models")))
        .unwrap_or_else(|| std::env::temp_dir().join("qudao-models"));
    let puller = qudao_models::Puller::new(qudao_models::Catalogue::built_in().unwrap());
    puller.pull("multilingual-e5-small", &directory, &|_, _, _| ()).await.unwrap().path
}

async fn start(placement: Placement) -> (tempfile::TempDir, PluginHost) {
    let folder = tempfile::tempdir().unwrap();
    let dist = folder.path().join("plugins");
    let template = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("plugin.toml");
    pack(&template, &built(), &dist, &SECRET).unwrap();
    let instance = InstanceSettings {
        placement,
        config: json!({ "path": weights().await }),
        models: vec![ModelEntry::of_kind("mood", ModelKind::Classify)],
        ..InstanceSettings::new("mood", "sentiment", "mood")
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
        match host.model("mood").unwrap().state {
            ModelState::Ready => return (folder, host),
            ModelState::Loading { .. } => tokio::time::sleep(Duration::from_millis(20)).await,
            other => panic!("{other:?}"),
        }
    }
}

async fn ask(host: &PluginHost, request: &ClassifyRequest) -> (Vec<Classified>, Usage) {
    let call = Call {
        kind: ModelKind::Classify,
        payload: serde_json::to_vec(request).unwrap(),
        timeout: Duration::from_secs(120),
        trace: Trace::NONE,
    };
    let mut stream = host.call("mood", call).unwrap();
    let mut found = Vec::new();
    loop {
        match stream.next().await.unwrap() {
            Event::Data(value) => found.push(serde_json::from_value(value).unwrap()),
            Event::End { usage, .. } => {
                found.sort_by_key(|one: &Classified| one.index);
                return (found, usage);
            }
            other => panic!("{other:?}"),
        }
    }
}

fn request(texts: &[&str]) -> ClassifyRequest {
    ClassifyRequest::new("mood", texts.iter().map(|text| (*text).to_owned()).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn clear_sentences_are_judged_in_both_languages() {
    let texts = [
        "Thank you so much, everything works perfectly now!",
        "This is terrible, it broke after one day and nobody helps.",
        "What are your opening hours on Saturday?",
        "非常满意，客服态度特别好！",
        "太差了，等了一个月还没有收到货。",
        "请问周六几点开门？",
    ];
    let labels = ["positive", "negative", "neutral", "positive", "negative", "neutral"];
    for placement in [Placement::Process, Placement::Inproc] {
        let (_folder, host) = start(placement).await;
        let (found, usage) = ask(&host, &request(&texts)).await;
        let named: Vec<_> =
            found.iter().map(|one| one.label.as_deref().unwrap_or("none")).collect();
        assert_eq!(named, labels, "{placement:?}");
        assert!(found.iter().all(|one| {
            (one.scores.iter().map(|score| score.probability).sum::<f32>() - 1.0).abs() < 1e-4
        }));
        assert!(50 < usage.input_tokens && usage.output_tokens == 0, "{usage:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_word_that_decided_has_the_largest_weight() {
    let (_folder, host) = start(Placement::Process).await;
    let asked = ClassifyRequest { explain: true, ..request(&["The meal was awful last night"]) };
    let (found, usage) = ask(&host, &asked).await;
    let words = &found[0].words;
    assert_eq!(words.len(), 6, "{words:?}");
    assert_eq!(usage.output_tokens, 6);
    let first = words.iter().max_by(|a, b| a.weight.total_cmp(&b.weight)).unwrap();
    assert_eq!((first.text.as_str(), first.start, first.end), ("awful", 13, 18), "{words:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_callers_share_batches_and_each_gets_its_own_answer() {
    let (_folder, host) = start(Placement::Process).await;
    let texts = ["I love it", "I hate it", "It is a box"];
    let (alone, _) = ask(&host, &request(&texts)).await;
    let calls = (0..24).map(|at| {
        let (host, text) = (host.clone(), texts[at % 3]);
        async move { ask(&host, &request(&[text])).await.0.remove(0) }
    });
    let together = futures_util::future::join_all(calls).await;
    for (at, one) in together.iter().enumerate() {
        for (a, b) in one.scores.iter().zip(&alone[at % 3].scores) {
            assert!((a.probability - b.probability).abs() < 1e-4 && a.label == b.label);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_it_is_not_made_for_is_refused() {
    let (_folder, host) = start(Placement::Process).await;
    let call = |kind, payload: &[u8]| Call {
        kind,
        payload: payload.to_vec(),
        timeout: Duration::from_secs(20),
        trace: Trace::NONE,
    };
    let refused = host.call("mood", call(ModelKind::Embed, b"{}")).unwrap_err();
    assert!(matches!(refused, CallError::WrongKind { .. }), "{refused}");
    let mut stream = host.call("mood", call(ModelKind::Classify, b"{\"model\":\"mood\"}")).unwrap();
    let end = stream.next().await.unwrap();
    assert!(matches!(end, Event::Error(CallError::Provider { .. })), "{end:?}");
}

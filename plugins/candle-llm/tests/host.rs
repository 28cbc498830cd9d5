//! The built library in the real host, in a child process, on the real weights of SmolLM2 135M.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a failed test panics")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use qudao_plugin_api::manifest::public_key;
use qudao_plugin_api::wire::{ChatMessage, ChatRequest, ErrorKind, FinishReason, Role, Usage};
use qudao_plugin_host::{
    Call, CallError, Event, EventStream, HostSettings, InstanceSettings, ModelKind, ModelState,
    PluginHost, Sandbox, pack, probe, protections,
};
use serde_json::{Value, json};
use tempfile::TempDir;

const SECRET: [u8; 32] = [9; 32];
const MODEL: &str = "smollm2";

/// The folder with the built library and the host's child program, of the same profile as this
/// test.
fn built() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let test = std::env::current_exe().unwrap();
        let profile = test.parent().and_then(Path::parent).unwrap();
        let is_built = std::env::var_os("QUDAO_BUILT").is_some();
        if is_built {
            return profile.to_owned();
        }
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args([
            "build",
            "--quiet",
            "-p",
            "qudao-plugin-candle-llm",
            "-p",
            "qudao-plugin-host",
        ]);
        cargo.arg("--target-dir").arg(profile.parent().unwrap());
        if profile.ends_with("release") {
            cargo.arg("--release");
        }
        assert!(cargo.current_dir(env!("CARGO_MANIFEST_DIR")).status().unwrap().success());
        profile.to_owned()
    })
}

async fn weights() -> PathBuf {
    #[expect(clippy::disallowed_methods, reason = "where the tests' weights are is no setting")]
    let variable = |name: &str| std::env::var(name).ok().map(PathBuf::from);
    let directory = variable("QUDAO_MODELS_DIR")
        .or_else(|| variable("HOME").map(|home| home.join(".cache/qudao/models")))
        .unwrap_or_else(|| std::env::temp_dir().join("qudao-models"));
    let puller = qudao_models::Puller::new(qudao_models::Catalogue::built_in().unwrap());
    puller.pull("smollm2-135m-instruct", &directory, &|_, _, _| ()).await.unwrap().path
}

/// A packed and signed plugin, and an instance with this configuration.
fn stage(config: Value) -> (TempDir, HostSettings) {
    let folder = tempfile::tempdir().unwrap();
    let dist = folder.path().join("plugins");
    let template = Path::new(env!("CARGO_MANIFEST_DIR")).join("plugin.toml");
    pack(&template, built(), &dist, &SECRET).unwrap();
    let mut instance = InstanceSettings::new("local", "candle-llm", MODEL);
    instance.config = config;
    let settings = HostSettings {
        plugin_dirs: vec![dist],
        state_dir: folder.path().join("state"),
        host_binary: built().join("qudao-plugin-host"),
        trusted_keys: vec![public_key(&SECRET)],
        allow_unsigned: false,
        instances: vec![instance],
        // With all that this kernel offers, or it would not be known that the plugin can do with it.
        sandbox: if protections().1.is_empty() { Sandbox::Required } else { Sandbox::BestEffort },
        ..HostSettings::default()
    };
    (folder, settings)
}

fn config(path: &Path) -> Value {
    json!({ "path": path, "context_tokens": 512, "threads": 1 })
}

/// Waits until the model serves or has failed.
async fn settled(host: &PluginHost) -> ModelState {
    for _ in 0..6_000 {
        let state = host.model(MODEL).unwrap().state;
        if !matches!(state, ModelState::Loading { .. }) {
            return state;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the model is still loading");
}

async fn ready() -> (TempDir, PluginHost) {
    let (folder, settings) = stage(config(&weights().await));
    let host = PluginHost::start(settings).await;
    let state = settled(&host).await;
    assert!(state.serves(), "{state:?}");
    (folder, host)
}

fn request(question: &str, max_tokens: u32) -> ChatRequest {
    let mut request = ChatRequest::new(MODEL, vec![ChatMessage::text(Role::User, question)]);
    request.params.max_tokens = Some(max_tokens);
    request.params.temperature = Some(0.0);
    request
}

fn call(host: &PluginHost, question: &str, max_tokens: u32) -> EventStream {
    send(host, &request(question, max_tokens))
}

fn send(host: &PluginHost, request: &ChatRequest) -> EventStream {
    let payload = serde_json::to_vec(request).unwrap();
    let timeout = Duration::from_secs(120);
    host.call(
        MODEL,
        Call { kind: ModelKind::Chat, payload, timeout, trace: qudao_plugin_host::Trace::NONE },
    )
    .unwrap()
}

struct Answer {
    text: String,
    events: usize,
    finish: Result<(FinishReason, Usage), CallError>,
}

async fn read(mut stream: EventStream) -> Answer {
    let (mut text, mut events) = (String::new(), 0);
    loop {
        match stream.next().await.unwrap() {
            Event::Token { text: token, .. } => {
                text.push_str(&token);
                events += 1;
            }
            Event::End { finish_reason, usage } => {
                return Answer { text, events, finish: Ok((finish_reason, usage)) };
            }
            Event::Error(error) => return Answer { text, events, finish: Err(error) },
            _ => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_probe_finds_the_library_usable() {
    let (_folder, settings) = stage(json!({}));
    let report = probe(&settings.plugin_dirs[0].join("candle-llm/plugin.toml"), &settings);
    assert!(report.is_usable(), "{report:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_streams_and_two_callers_are_served_at_once() {
    let (_folder, host) = ready().await;
    let answer = read(call(&host, "What is the capital of France?", 40)).await;
    let (finish, usage) = answer.finish.unwrap();
    assert!(answer.text.contains("France"), "{}", answer.text);
    assert_eq!(finish, FinishReason::Stop);
    assert!(answer.events > 3 && usage.input_tokens > 10 && usage.output_tokens > 3);

    let mut long = call(&host, "Write a long story about a river.", 200);
    assert!(matches!(long.next().await, Some(Event::Token { .. })), "the story begins");
    let short = read(call(&host, "What is the capital of France?", 40)).await;
    assert!(short.text.contains("France"), "{}", short.text);
    assert_eq!(host.model(MODEL).unwrap().in_flight, 1, "the story is still being told");
    assert_eq!(read(long).await.finish.unwrap().1.output_tokens, 200);
    host.shutdown(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_form_is_kept_to_with_probabilities_and_a_wrong_one_is_a_bad_request() {
    let (_folder, host) = ready().await;
    let mut asked = request("Is the sky blue? Answer in JSON.", 60);
    let format = |schema: Value| {
        Some(json!({ "type": "json_schema", "json_schema": { "name": "n", "schema": schema } }))
    };
    asked.response_format = format(json!({
        "type": "object",
        "properties": { "answer": { "enum": ["yes", "no"] } },
        "required": ["answer"],
        "additionalProperties": false,
    }));
    asked.params.logprobs = Some(true);
    asked.params.top_logprobs = Some(2);
    let (mut stream, mut text, mut told) = (send(&host, &asked), String::new(), Vec::new());
    let finish = loop {
        match stream.next().await.unwrap() {
            Event::Token { text: token, logprob, .. } => {
                assert!(logprob < 0.0);
                text.push_str(&token);
            }
            Event::Data(data) => {
                told.extend(data["logprobs"]["content"].as_array().unwrap().clone());
            }
            Event::End { finish_reason, .. } => break finish_reason,
            Event::Error(error) => panic!("{error}"),
            _ => {}
        }
    };
    assert_eq!(finish, FinishReason::Stop);
    let value: Value = serde_json::from_str(&text).unwrap();
    assert!(["yes", "no"].contains(&value["answer"].as_str().unwrap()), "{text}");
    let tokens: String = told.iter().map(|entry| entry["token"].as_str().unwrap()).collect();
    assert_eq!(tokens, text);
    assert!(told.iter().all(|entry| entry["top_logprobs"].as_array().unwrap().len() == 2));

    asked.response_format = format(json!({ "type": "no such type" }));
    match read(send(&host, &asked)).await.finish {
        Err(CallError::Provider { kind: ErrorKind::BadRequest, message, .. }) => {
            assert!(message.starts_with("response_format: "), "{message}");
        }
        other => panic!("{other:?}"),
    }
    host.shutdown(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_answer_ends_soon_and_its_place_is_free_again() {
    let (_folder, host) = ready().await;
    let mut story = call(&host, "Write a long story about a river.", 400);
    assert!(matches!(story.next().await, Some(Event::Token { .. })), "the story begins");
    story.cancel();
    let rest = tokio::time::timeout(Duration::from_secs(10), read(story)).await.unwrap();
    match rest.finish {
        Ok((finish, usage)) => {
            assert_eq!(finish, FinishReason::Cancelled);
            assert!(usage.output_tokens < 400, "{usage:?}");
        }
        Err(error) => assert_eq!(error, CallError::Cancelled),
    }
    let generation = host.model(MODEL).unwrap().generation;
    let answer = read(call(&host, "What is the capital of France?", 40)).await;
    assert!(answer.text.contains("France"), "{}", answer.text);
    assert_eq!(host.model(MODEL).unwrap().generation, generation, "the child was not replaced");
    host.shutdown(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_truncated_file_is_refused_with_the_reason_in_the_report() {
    let whole = weights().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("half.gguf");
    let bytes = std::fs::read(whole).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    let (_folder, settings) = stage(config(&path));
    let host = PluginHost::start(settings).await;
    let state = settled(&host).await;
    assert!(
        matches!(&state, ModelState::Failed { reason } if reason.contains("is truncated")),
        "{state:?}"
    );
    host.shutdown(Duration::from_secs(5)).await;
}

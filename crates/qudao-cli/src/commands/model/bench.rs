//! `qudao model bench`: a model in its plugin, as the platform runs it, with the clock beside it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use qudao_domain::{Clock as _, SystemClock};
use qudao_models::{Catalogue, Measured, detectors, file_of};
use qudao_plugin_api::wire::{
    ChatMessage, ChatRequest, DetectRequest, EmbedRequest, Role, TranscribeRequest, Usage,
};
use qudao_plugin_host::{
    Call, Event, InstanceSettings, ModelEntry, ModelKind, ModelState, PluginHost, Trace,
};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::{
    args::BenchOptions, context::Context, instances::catalogue, serve::settings::plugin_host,
    terminal,
};

/// What the instance and its model are called while they are measured.
const NAME: &str = "bench";
/// No call takes longer.
const PATIENCE: Duration = Duration::from_secs(600);
/// A prompt of a conversation with a long persona has about so many words.
const PROMPT_WORDS: usize = 400;
/// Each figure is the middle one of so many runs.
const RUNS: usize = 3;
/// Short texts and pictures are counted for so long.
const WINDOW: Duration = Duration::from_secs(3);
/// What a person writes to a shop.
const TEXT: &str = "Where is my parcel? It should have been here two days ago.";
/// A grey square in PNG: how long a look takes does not depend on what is in the picture.
const PICTURE: &str = "iVBORw0KGgoAAAANSUhEUgAAACAAAAAgCAAAAABWESUoAAAAFklEQVR42mMoIgAYRhWMKhhVMFIVAAC7NMgQNNvlHQAAAABJRU5ErkJggg==";

/// What is printed.
#[derive(Debug, Serialize)]
struct Report {
    name: String,
    path: PathBuf,
    plugin: &'static str,
    /// The artifact that ran.
    variant: String,
    /// What else ran, by the system's account before the run.
    load_average: String,
    /// Replies at once in the last part.
    #[serde(skip_serializing_if = "Option::is_none")]
    streams: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tokens_per_s_of_streams: Option<f64>,
    measured: Measured,
}

pub(super) async fn run(
    options: BenchOptions,
    context: &Context,
    json: bool,
) -> anyhow::Result<ExitCode> {
    let path = find(&options.name, context)?;
    let (plugin, kind) = served_by(&path, &catalogue(context)?);
    let recording = recording(&options, kind)?;
    let load_average = load_average();
    let mut settings = plugin_host(context, &[])?;
    settings.instances = vec![instance(&options, &path, plugin, kind)];
    let begun = Instant::now();
    let host = PluginHost::start(settings).await;
    let variant = ready(&host).await?;
    let load_s = round(begun.elapsed().as_secs_f64());
    terminal::say(&format!("{}: loaded in {load_s} s ({plugin}, {variant})", options.name));
    let mut report = Report {
        name: options.name.clone(),
        path,
        plugin,
        variant,
        load_average,
        streams: None,
        tokens_per_s_of_streams: None,
        measured: Measured {
            machine: machine(),
            date: SystemClock.now().to_string().chars().take(10).collect(),
            threads: options.threads.unwrap_or_else(cores),
            load_s: Some(load_s),
            ..Measured::default()
        },
    };
    let outcome = match kind {
        ModelKind::Chat => chat(&host, &options, &mut report).await,
        ModelKind::Embed => embed(&host, &mut report.measured).await,
        ModelKind::Transcribe => listen(&host, &recording, &mut report.measured).await,
        _ => look(&host, &mut report.measured).await,
    };
    report.measured.memory_mib = host.child_pid(NAME).and_then(most_memory);
    host.shutdown(Duration::from_secs(5)).await;
    outcome?;
    show(&report, json);
    Ok(ExitCode::SUCCESS)
}

fn find(name: &str, context: &Context) -> anyhow::Result<PathBuf> {
    let dir = context.models_dir();
    let here = file_of(name, &catalogue(context)?, &dir);
    let path = here.or_else(|| Some(PathBuf::from(name)).filter(|path| path.is_file()));
    let path = path.with_context(|| {
        format!("there is no model {name} in {}: qudao model pull {name}", dir.display())
    })?;
    std::path::absolute(&path).context("resolving the file")
}

/// The plugin that serves a file of this kind.
fn served_by(path: &Path, catalogue: &Catalogue) -> (&'static str, ModelKind) {
    if path.extension().is_some_and(|ending| ending == "gguf") {
        return ("candle-llm", ModelKind::Chat);
    }
    let folder = path.parent().unwrap_or(Path::new("."));
    if detectors(folder).values().any(|detector| detector == path) {
        return ("vision", ModelKind::Detect);
    }
    let mut listening = catalogue.models.iter().filter(|model| model.listens());
    if listening.any(|model| path.ends_with(model.file_name())) {
        return ("speech", ModelKind::Transcribe);
    }
    ("embedder", ModelKind::Embed)
}

/// The recording for a model that listens, in base64; how long it takes depends on what is said.
fn recording(options: &BenchOptions, kind: ModelKind) -> anyhow::Result<String> {
    if kind != ModelKind::Transcribe {
        return Ok(String::new());
    }
    let Some(file) = &options.recording else {
        bail!("{} listens: name a recording of speech with --recording FILE", options.name);
    };
    let sound = fs::read(file).with_context(|| format!("reading {}", file.display()))?;
    Ok(STANDARD.encode(sound))
}

fn instance(
    options: &BenchOptions,
    path: &Path,
    plugin: &str,
    kind: ModelKind,
) -> InstanceSettings {
    let mut config = json!({ "path": path });
    if kind == ModelKind::Chat {
        config["context_tokens"] = json!(2048);
        config["max_sequences"] = json!(options.streams.max(1));
    }
    if let Some(threads) = options.threads
        && kind != ModelKind::Embed
    {
        config["threads"] = json!(threads);
    }
    if let Some(device) = &options.device {
        config["device"] = json!(device);
    }
    let mut settings = InstanceSettings::new(NAME, plugin, NAME);
    settings.config = config;
    settings.models = vec![ModelEntry::of_kind(NAME, kind)];
    // A GPU's libraries may lie where only this tells.
    settings.env = vec!["LD_LIBRARY_PATH".to_owned()];
    settings
}

/// Waits until the model serves. The artifact that does.
async fn ready(host: &PluginHost) -> anyhow::Result<String> {
    loop {
        let report = host.model(NAME).context("the instance was not set up")?;
        match report.state {
            ModelState::Ready | ModelState::Degraded => return Ok(report.variant),
            ModelState::Loading { .. } => tokio::time::sleep(Duration::from_millis(5)).await,
            ModelState::Failed { reason } | ModelState::Quarantined { reason } => {
                bail!("the model does not start: {reason}")
            }
        }
    }
}

/// What one call took.
struct Took {
    /// Until the first word, or the end where there was none.
    first: Duration,
    /// From the first word to the end.
    rest: Duration,
    usage: Usage,
}

async fn call(host: &PluginHost, kind: ModelKind, payload: &Value) -> anyhow::Result<Took> {
    let payload = serde_json::to_vec(payload)?;
    let begun = Instant::now();
    let mut first = None;
    let mut events =
        host.call(NAME, Call { kind, payload, timeout: PATIENCE, trace: Trace::NONE })?;
    while let Some(event) = events.next().await {
        match event {
            Event::Token { .. } => {
                first.get_or_insert_with(|| begun.elapsed());
            }
            Event::End { usage, .. } => {
                let whole = begun.elapsed();
                let first = first.unwrap_or(whole);
                return Ok(Took { first, rest: whole - first, usage });
            }
            Event::Error(error) => bail!("the model failed: {error}"),
            _ => {}
        }
    }
    bail!("the model ended without an end")
}

fn conversation(text: String, max_tokens: u32) -> Value {
    let mut request = ChatRequest::new(NAME, vec![ChatMessage::text(Role::User, text)]);
    request.params.max_tokens = Some(max_tokens);
    request.params.temperature = Some(0.0);
    json!(request)
}

/// Begins with a number of its own, so that no prompt is the beginning of another.
fn long_prompt(number: usize) -> String {
    let words = ["order", "parcel", "refund", "address", "invoice", "size", "colour", "delay"];
    let said = (0..PROMPT_WORDS).map(|at| words[(at * 7 + number * 3 + at / 8) % words.len()]);
    format!("{number} {}. Summarise that.", said.collect::<Vec<_>>().join(" "))
}

fn story(number: u32) -> String {
    format!("{number} ships left a harbour. Tell a long story about what happened to them at sea.")
}

async fn chat(
    host: &PluginHost,
    options: &BenchOptions,
    report: &mut Report,
) -> anyhow::Result<()> {
    // The first call pays for what is made on demand.
    call(host, ModelKind::Chat, &conversation("Hello.".to_owned(), 4)).await?;
    let (mut reading, mut writing) = (Vec::new(), Vec::new());
    for run in 0..RUNS {
        let took = call(host, ModelKind::Chat, &conversation(long_prompt(run), 1)).await?;
        reading.push(rate(took.usage.input_tokens, took.first));
    }
    for run in 0..RUNS {
        let number = u32::try_from(run).unwrap_or(0) + 100;
        let asked = conversation(story(number), options.tokens);
        let took = call(host, ModelKind::Chat, &asked).await?;
        writing.push(rate(took.usage.output_tokens.saturating_sub(1), took.rest));
    }
    let measured = &mut report.measured;
    measured.prompt_tokens_per_s = Some(middle(reading));
    measured.tokens_per_s = Some(middle(writing));
    if 1 < options.streams {
        let together = together(host, options).await?;
        report.streams = Some(options.streams);
        report.tokens_per_s_of_streams = Some(together);
        if options.streams == 4 {
            report.measured.tokens_per_s_of_four = Some(together);
        }
    }
    Ok(())
}

/// Tokens per second of several replies at once, from the first word of any to the last of all.
async fn together(host: &PluginHost, options: &BenchOptions) -> anyhow::Result<f64> {
    let mut calls = JoinSet::new();
    let begun = Instant::now();
    for number in 0..options.streams {
        let (host, asked) = (host.clone(), conversation(story(200 + number), options.tokens));
        calls.spawn(async move { call(&host, ModelKind::Chat, &asked).await });
    }
    let (mut tokens, mut first) = (0, Duration::MAX);
    while let Some(took) = calls.join_next().await {
        let took = took??;
        tokens += took.usage.output_tokens;
        first = first.min(took.first);
    }
    Ok(rate(tokens, begun.elapsed().saturating_sub(first)))
}

async fn embed(host: &PluginHost, measured: &mut Measured) -> anyhow::Result<()> {
    measured.texts_per_s = Some(texts(host, 1).await?);
    measured.texts_per_s_of_32 = Some(texts(host, 32).await?);
    Ok(())
}

async fn texts(host: &PluginHost, batch: u32) -> anyhow::Result<f64> {
    let texts = (0..batch).map(|at| format!("{at}. {TEXT}")).collect();
    let asked = json!(EmbedRequest::new(NAME, texts));
    counted(host, ModelKind::Embed, &asked, batch).await
}

async fn look(host: &PluginHost, measured: &mut Measured) -> anyhow::Result<()> {
    let asked = json!(DetectRequest::new(NAME, PICTURE));
    measured.pictures_per_s = Some(counted(host, ModelKind::Detect, &asked, 1).await?);
    Ok(())
}

async fn listen(host: &PluginHost, recording: &str, measured: &mut Measured) -> anyhow::Result<()> {
    let asked = json!(TranscribeRequest::new(NAME, recording));
    // The first call pays for what is made on demand, and says how long the recording is.
    let seconds = call(host, ModelKind::Transcribe, &asked).await?.usage.input_tokens;
    let speed = counted(host, ModelKind::Transcribe, &asked, seconds).await?;
    measured.speech_s_per_s = Some(speed);
    Ok(())
}

/// Things per second, asked one call after the other.
async fn counted(
    host: &PluginHost,
    kind: ModelKind,
    asked: &Value,
    each: u32,
) -> anyhow::Result<f64> {
    call(host, kind, asked).await?;
    let (begun, mut done) = (Instant::now(), 0);
    while begun.elapsed() < WINDOW {
        call(host, kind, asked).await?;
        done += each;
    }
    Ok(rate(done, begun.elapsed()))
}

fn rate(count: u32, time: Duration) -> f64 {
    round(f64::from(count) / time.as_secs_f64().max(1e-9))
}

/// To a figure that means something.
fn round(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

fn middle(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

/// The most memory that a process has held, in MiB.
fn most_memory(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib = line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?;
    Some(kib / 1024)
}

fn cores() -> u32 {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    u32::try_from(cores).unwrap_or(u32::MAX)
}

fn machine() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let named = info.lines().find_map(|line| line.strip_prefix("model name"));
    let name = named.and_then(|rest| rest.split_once(':')).map_or("a processor", |(_, name)| name);
    format!("{}, {} cores", name.trim(), cores())
}

fn load_average() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or("?").to_owned()
}

fn show(report: &Report, json: bool) {
    if json {
        terminal::print_json(&json!(report));
        return;
    }
    let Measured { machine, threads, .. } = &report.measured;
    let say = |what: &str, value: Option<f64>, unit: &str| {
        if let Some(value) = value {
            terminal::print(&format!("{what:<36} {value:>9.2} {unit}"));
        }
    };
    terminal::print(&format!("{} in {} ({})", report.name, report.plugin, report.variant));
    terminal::print(&format!("{machine}; {threads} threads; load {}", report.load_average));
    say("loading", report.measured.load_s, "s");
    if let Some(mib) = report.measured.memory_mib {
        terminal::print(&format!("{:<36} {mib:>9} MiB", "memory at most"));
    }
    say("reading a prompt", report.measured.prompt_tokens_per_s, "tokens/s");
    say("writing one reply", report.measured.tokens_per_s, "tokens/s");
    let streams = format!("writing {} replies at once", report.streams.unwrap_or(0));
    say(&streams, report.tokens_per_s_of_streams, "tokens/s");
    say("texts, one a request", report.measured.texts_per_s, "texts/s");
    say("texts, 32 a request", report.measured.texts_per_s_of_32, "texts/s");
    say("pictures", report.measured.pictures_per_s, "pictures/s");
    say("writing down speech", report.measured.speech_s_per_s, "s/s");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_prompt_of_the_measurement_is_the_beginning_of_another() {
        let prompts: Vec<String> = (0..RUNS).map(long_prompt).collect();
        for (at, prompt) in prompts.iter().enumerate() {
            assert!(PROMPT_WORDS < prompt.split(' ').count());
            assert!(prompts[..at].iter().all(|other| other[..4] != prompt[..4]), "{prompts:?}");
        }
    }

    #[test]
    fn a_figure_is_the_middle_one_and_a_rate_is_per_second() {
        assert_eq!(middle(vec![9.0, 1.0, 4.0]), 4.0);
        assert_eq!(rate(30, Duration::from_millis(1500)), 20.0);
        assert!(rate(1, Duration::ZERO).is_finite());
    }

    #[test]
    fn this_process_has_held_some_memory() {
        assert!(most_memory(std::process::id()).is_some_and(|mib| 0 < mib && mib < 1 << 20));
        assert!(machine().contains("core"));
    }

    #[test]
    fn the_file_says_which_plugin_serves_it() {
        let catalogue = Catalogue::built_in().unwrap();
        let by = |path| served_by(Path::new(path), &catalogue);
        assert_eq!(by("/m/a.gguf"), ("candle-llm", ModelKind::Chat));
        assert_eq!(by("/m/a.safetensors"), ("embedder", ModelKind::Embed));
        assert_eq!(by("/m/whisper-base.safetensors"), ("speech", ModelKind::Transcribe));
    }
}

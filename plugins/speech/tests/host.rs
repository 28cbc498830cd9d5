//! The plugin on real weights and recordings in the real host, in a child process.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a failed test panics")]

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use qudao_models::{Catalogue, Packages, Part, Puller};
use qudao_plugin_api::wire::{Segment, TranscribeRequest, Usage};
use qudao_plugin_host::{
    Call, CallError, Event, HostSettings, InstanceSettings, ModelEntry, ModelKind, ModelState,
    PluginHost, Sandbox, Trace, pack, protections,
};
use serde_json::json;
use tokio::sync::Mutex;

const SECRET: [u8; 32] = [9; 32];
/// Recordings of people, out of a package that is under the MIT licence.
const RECORDINGS: (&str, &str, &str) =
    ("f5-tts", "1.1.22", "f0505dfb5463645caa526bace346ed1c89bcc9acb9ef42fdffd56c2c4c0a09d1");

/// What is said in the English one, as both models write it.
const SENTENCE: &str = "Some call me nature. Others call me Mother Nature.";

fn built() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.parent().and_then(Path::parent).unwrap().to_owned()
}

fn directory() -> PathBuf {
    #[expect(clippy::disallowed_methods, reason = "where the tests' weights are is no setting")]
    let variable = |name: &str| std::env::var(name).ok().map(PathBuf::from);
    variable("QUDAO_MODELS_DIR")
        .or_else(|| variable("HOME").map(|home| home.join(".cache/qudao/models")))
        .unwrap_or_else(|| std::env::temp_dir().join("qudao-models"))
}

async fn weights(name: &str) -> PathBuf {
    let puller = Puller::new(Catalogue::built_in().unwrap());
    puller.pull(name, &directory(), &|_, _, _| ()).await.unwrap().path
}

/// What somebody says in a language, as a WAV file of 24,000 samples a second.
async fn recording(language: &str) -> Vec<u8> {
    static FETCHING: Mutex<()> = Mutex::const_new(());
    let _one_at_a_time = FETCHING.lock().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("recording.wav");
    let (package, version, archive_sha256) = RECORDINGS;
    let part = Part {
        package: package.to_owned(),
        version: version.to_owned(),
        member: format!("f5_tts/infer/examples/basic/basic_ref_{language}.wav"),
        archive_sha256: archive_sha256.to_owned(),
    };
    Packages::default().fetch(&[part], &file, &|_, _, _| ()).await.unwrap();
    std::fs::read(file).unwrap()
}

/// The samples of a WAV file with a plain header.
fn samples(wav: &[u8]) -> &[u8] {
    let at = wav.windows(4).position(|window| window == b"data").unwrap();
    &wav[at + 8..]
}

/// A WAV file of 24,000 16-bit samples a second.
fn wav(samples: &[u8]) -> Vec<u8> {
    let length = u32::try_from(samples.len()).unwrap();
    let mut file = b"RIFF".to_vec();
    file.extend((36 + length).to_le_bytes());
    file.extend(b"WAVEfmt \x10\0\0\0\x01\0\x01\0");
    file.extend(24_000_u32.to_le_bytes());
    file.extend(48_000_u32.to_le_bytes());
    file.extend(b"\x02\0\x10\0data");
    file.extend(length.to_le_bytes());
    file.extend(samples);
    file
}

async fn start(model: &str) -> (tempfile::TempDir, PluginHost) {
    start_on("auto", model).await
}

async fn start_on(device: &str, model: &str) -> (tempfile::TempDir, PluginHost) {
    let folder = tempfile::tempdir().unwrap();
    let dist = folder.path().join("plugins");
    let template = Path::new(env!("CARGO_MANIFEST_DIR")).join("plugin.toml");
    pack(&template, &built(), &dist, &SECRET).unwrap();
    let instance = InstanceSettings {
        config: json!({ "path": weights(model).await, "max_seconds": 60, "device": device }),
        models: vec![ModelEntry::of_kind("ear", ModelKind::Transcribe)],
        ..InstanceSettings::new("ear", "speech", "ear")
    };
    let host = PluginHost::start(HostSettings {
        plugin_dirs: vec![dist],
        state_dir: folder.path().join("state"),
        host_binary: built().join("qudao-plugin-host"),
        trusted_keys: vec![qudao_plugin_api::manifest::public_key(&SECRET)],
        sandbox: if protections().1.is_empty() { Sandbox::Required } else { Sandbox::BestEffort },
        instances: vec![instance],
        ..HostSettings::default()
    })
    .await;
    loop {
        match host.model("ear").unwrap().state {
            ModelState::Ready => return (folder, host),
            ModelState::Loading { .. } => tokio::time::sleep(Duration::from_millis(20)).await,
            other => panic!("{other:?}"),
        }
    }
}

async fn ask(
    host: &PluginHost,
    sound: &[u8],
    language: Option<&str>,
) -> Result<(Vec<Segment>, Usage), CallError> {
    let request = TranscribeRequest {
        language: language.map(str::to_owned),
        ..TranscribeRequest::new("ear", STANDARD.encode(sound))
    };
    let call = Call {
        kind: ModelKind::Transcribe,
        payload: serde_json::to_vec(&request).unwrap(),
        timeout: Duration::from_secs(300),
        trace: Trace::NONE,
    };
    let mut stream = host.call("ear", call).unwrap();
    let mut found = Vec::new();
    loop {
        match stream.next().await.unwrap() {
            Event::Data(value) => found.push(serde_json::from_value(value).unwrap()),
            Event::End { usage, .. } => return Ok((found, usage)),
            Event::Error(error) => return Err(error),
            other => panic!("{other:?}"),
        }
    }
}

fn text(segments: &[Segment]) -> String {
    let texts: Vec<&str> = segments.iter().map(|segment| segment.text.as_str()).collect();
    texts.join(" ")
}

#[tokio::test(flavor = "multi_thread")]
async fn english_and_chinese_are_told_apart_and_written_down() {
    let (_folder, host) = start("whisper-base").await;
    let (said, usage) = ask(&host, &recording("en").await, None).await.unwrap();
    assert_eq!(text(&said), SENTENCE);
    assert_eq!(said[0].language.as_deref(), Some("en"));
    // 5.3 seconds, begun ones counted.
    assert_eq!((usage.input_tokens, usage.output_tokens), (6, 0));
    let end = said.last().unwrap().end_ms;
    assert!(said[0].start_ms < 1_000 && (4_000..=5_400).contains(&end), "{said:?}");
    let (said, _) = ask(&host, &recording("zh").await, None).await.unwrap();
    assert_eq!(said[0].language.as_deref(), Some("zh"));
    // 对，这就是我，万人敬仰的太乙真人。 The name is beyond this model; the script is what was asked.
    let heard = text(&said);
    assert!(heard.contains("这就是我") && heard.contains("万人"), "{heard}");
}

/// What a GPU would compute, computed by the processor: the same words at the same times, as sure.
#[tokio::test(flavor = "multi_thread")]
async fn candles_own_operations_understand_the_same() {
    let (_folder, own) = start("whisper-base").await;
    let (_other_folder, plain) = start_on("tensors", "whisper-base").await;
    for language in ["en", "zh"] {
        let sound = recording(language).await;
        let (expected, _) = ask(&own, &sound, None).await.unwrap();
        let (said, _) = ask(&plain, &sound, None).await.unwrap();
        assert!(!said.is_empty() && said.len() == expected.len(), "{said:?}");
        for (said, expected) in said.iter().zip(&expected) {
            assert_eq!((&said.text, said.start_ms), (&expected.text, expected.start_ms));
            assert_eq!((said.end_ms, &said.language), (expected.end_ms, &expected.language));
            let (a, b) = (said.confidence.unwrap(), expected.confidence.unwrap());
            assert!((a.mean_logprob - b.mean_logprob).abs() < 1e-3, "{a:?} {b:?}");
            assert!((a.nothing_said - b.nothing_said).abs() < 1e-3, "{a:?} {b:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_and_noise_make_no_words() {
    let (_folder, host) = start("whisper-base").await;
    let quiet = wav(&vec![0; 48_000 * 3]);
    assert_eq!(ask(&host, &quiet, None).await.unwrap().0, []);
    // The silence that a microphone gives.
    let mut state = 1_u32;
    let mut noise = |loud: i16| -> Vec<u8> {
        let samples = (0..24_000 * 4).flat_map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let sample = i16::try_from(state >> 16 & 0xff).unwrap() - 128;
            (sample * loud / 128).to_le_bytes()
        });
        samples.collect()
    };
    for loud in [8, 60, 255] {
        let (said, _) = ask(&host, &wav(&noise(loud)), None).await.unwrap();
        assert_eq!(said, [], "{loud}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_sound_is_written_down_window_by_window_with_its_times() {
    let (_folder, host) = start("whisper-base").await;
    let said = recording("en").await;
    let (said, pause) = (samples(&said), vec![0_u8; 48_000 * 30]);
    let long = wav(&[said, &pause, said].concat());
    let (segments, usage) = ask(&host, &long, Some("en")).await.unwrap();
    assert_eq!(text(&segments), format!("{SENTENCE} {SENTENCE}"));
    assert!(segments[0].end_ms < 7_000 && 35_000 < segments.last().unwrap().start_ms);
    assert!(segments.windows(2).all(|pair| pair[0].end_ms <= pair[1].start_ms));
    assert_eq!(usage.input_tokens, 41);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_listened_to_is_refused_with_a_code() {
    let (_folder, host) = start("whisper-tiny.en").await;
    let english = recording("en").await;
    let tiny = text(&ask(&host, &english, None).await.unwrap().0);
    assert_eq!(tiny, SENTENCE);
    let long = wav(&vec![1; 48_000 * 61]);
    for (sound, language, code) in [
        (&b""[..], None, "unknown_format"),
        (b"%PDF-1.7", None, "unknown_format"),
        (&english[..english.len() / 2], None, "damaged"),
        (&long, None, "too_long"),
        (&english, Some("zh"), "unknown_language"),
    ] {
        match ask(&host, sound, language).await {
            Err(CallError::Provider { message, .. }) => {
                assert!(message.starts_with(code), "{code}: {message}");
            }
            other => panic!("{code}: {other:?}"),
        }
    }
    // A plugin that refused serves on.
    assert!(ask(&host, &english, Some("en")).await.is_ok());
}

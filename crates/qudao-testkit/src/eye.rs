//! A model that sees what a test says, in whatever picture.

use std::time::{Duration, Instant};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use qudao_plugin_api::{
    Completion, Host, ModelPlugin, PluginError, Sink,
    wire::{DetectRequest, Detected, Object, PicturePart, Usage},
};
use qudao_plugin_host::{DataClass, InstanceSettings, ModelEntry, ModelKind, PluginHost};
use serde_json::json;

/// A model without a library: it is part of the test. A picture is a token. With nothing to see it fails.
#[derive(Debug)]
pub struct Eye(Vec<(String, f32)>);

impl Eye {
    /// Registers it under this name and waits until it serves.
    ///
    /// # Panics
    /// If it does not serve within ten seconds.
    pub async fn register(host: &PluginHost, name: &str, sees: &[(&str, f32)]) {
        Self::serve(host, ModelEntry::of_kind(name, ModelKind::Detect), sees).await;
    }

    /// As [`Self::register`], as a model by which pictures leave the machine.
    ///
    /// # Panics
    /// As [`Self::register`].
    pub async fn register_remote(host: &PluginHost, name: &str, sees: &[(&str, f32)]) {
        let entry = ModelEntry::of_kind(name, ModelKind::Detect);
        Self::serve(host, ModelEntry { data_class: DataClass::Remote, ..entry }, sees).await;
    }

    async fn serve(host: &PluginHost, entry: ModelEntry, sees: &[(&str, f32)]) {
        let name = entry.name.clone();
        let name = name.as_str();
        let settings = InstanceSettings {
            config: json!(sees),
            models: vec![entry],
            ..InstanceSettings::new(name, "eye", name)
        };
        host.register_static::<Self>(settings);
        let begun = Instant::now();
        while !host.model(name).is_some_and(|report| report.state.serves()) {
            assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", host.model(name));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

impl ModelPlugin for Eye {
    type Config = Vec<(String, f32)>;

    fn create(_: Host, sees: Self::Config) -> Result<Self, PluginError> {
        Ok(Self(sees))
    }

    fn detect(&self, request: DetectRequest, sink: &Sink<'_>) -> Result<Completion, PluginError> {
        if self.0.is_empty() {
            return Err(PluginError::bad_request("the picture is damaged, as the test says"));
        }
        let least = request.threshold.unwrap_or_default();
        let seen: Vec<_> = self.0.iter().filter(|(_, score)| least <= *score).collect();
        let objects = seen.iter().map(|(label, score)| Object {
            label: label.clone(),
            score: *score,
            left: 1.0,
            top: 2.0,
            width: 3.0,
            height: 4.0,
        });
        sink.data(&Detected { width: 40, height: 20, objects: objects.collect() })?;
        if request.annotate {
            // What a JPEG file begins with, and what a pen would write; in two parts.
            let pen =
                |(label, _): &&(String, f32)| request.captions.get(label).unwrap_or(label).clone();
            let written: Vec<_> = seen.iter().map(pen).collect();
            for part in [&b"\xff\xd8\xff"[..], written.join(",").as_bytes()] {
                let media_type = "image/jpeg".to_owned();
                sink.data(&PicturePart { media_type, part: STANDARD.encode(part) })?;
            }
        }
        Ok(Completion::stop(Usage { input_tokens: 1, output_tokens: 0 }))
    }
}

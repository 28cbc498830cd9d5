//! A model that hears what a test says, in whatever sound.

use std::time::{Duration, Instant};

use qudao_plugin_api::{
    Completion, Host, ModelPlugin, PluginError, Sink,
    wire::{Segment, TranscribeRequest, Usage},
};
use qudao_plugin_host::{DataClass, InstanceSettings, ModelEntry, ModelKind, PluginHost};
use serde_json::json;

/// A model without a library: it is part of the test. A stretch of speech is a second long, and a second is
/// a token. A sound that it is to refuse has no stretches.
#[derive(Debug)]
pub struct Ear(Option<Vec<String>>);

impl Ear {
    /// Registers it under this name and waits until it serves. It hears one stretch of speech after the
    /// other, or refuses every sound.
    ///
    /// # Panics
    /// If it does not serve within ten seconds.
    pub async fn register(host: &PluginHost, name: &str, hears: Option<&[&str]>) {
        Self::serve(host, ModelEntry::of_kind(name, ModelKind::Transcribe), hears).await;
    }

    /// As [`Self::register`], as a model by which sounds leave the machine.
    ///
    /// # Panics
    /// As [`Self::register`].
    pub async fn register_remote(host: &PluginHost, name: &str, hears: Option<&[&str]>) {
        let entry = ModelEntry::of_kind(name, ModelKind::Transcribe);
        Self::serve(host, ModelEntry { data_class: DataClass::Remote, ..entry }, hears).await;
    }

    async fn serve(host: &PluginHost, entry: ModelEntry, hears: Option<&[&str]>) {
        let name = entry.name.clone();
        let name = name.as_str();
        let settings = InstanceSettings {
            config: json!(hears),
            models: vec![entry],
            ..InstanceSettings::new(name, "ear", name)
        };
        host.register_static::<Self>(settings);
        let begun = Instant::now();
        while !host.model(name).is_some_and(|report| report.state.serves()) {
            assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", host.model(name));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

impl ModelPlugin for Ear {
    type Config = Option<Vec<String>>;

    fn create(_: Host, hears: Self::Config) -> Result<Self, PluginError> {
        Ok(Self(hears))
    }

    fn transcribe(
        &self,
        request: TranscribeRequest,
        sink: &Sink<'_>,
    ) -> Result<Completion, PluginError> {
        let Some(said) = &self.0 else {
            return Err(PluginError::bad_request("damaged: as the test says"));
        };
        let language = Some(request.language.unwrap_or_else(|| "en".to_owned()));
        for (at, text) in (0_u32..).zip(said) {
            let (start_ms, language) = (at * 1_000, language.clone());
            sink.data(&Segment {
                start_ms,
                end_ms: start_ms + 1_000,
                text: text.clone(),
                language,
                confidence: None,
            })?;
        }
        let seconds = u32::try_from(said.len().max(1)).unwrap_or(u32::MAX);
        Ok(Completion::stop(Usage { input_tokens: seconds, output_tokens: 0 }))
    }
}

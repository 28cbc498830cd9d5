//! A model that reads and does not speak: vectors and classes that a test can work out by hand.

use std::time::{Duration, Instant};

use qudao_plugin_api::{
    Completion, Host, ModelPlugin, PluginError, Sink,
    wire::{Classified, ClassifyRequest, EmbedRequest, Embedded, Score, Usage, Word},
};
use qudao_plugin_host::{InstanceSettings, ModelEntry, ModelKind, PluginHost};
use serde::{Deserialize, Serialize};

/// How it answers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Manner {
    /// As it should, the last text first.
    #[default]
    Well,
    /// Without a word about the first text.
    LeavesOut,
    /// Twice about the first text.
    Repeats,
    /// With something else than was asked.
    Babbles,
    /// With a failure after the first text.
    Fails,
}

/// A model without a library: it is part of the test. A word is a token.
#[derive(Debug)]
pub struct Reader(Manner);

impl Reader {
    /// Registers it under this name and waits until it serves.
    ///
    /// # Panics
    /// If it does not serve within ten seconds.
    pub async fn register(host: &PluginHost, name: &str, kind: ModelKind, manner: Manner) {
        Self::register_entry(host, ModelEntry::of_kind(name, kind), manner).await;
    }

    /// The same, of a model with more to say of it.
    ///
    /// # Panics
    /// As [`Self::register`].
    pub async fn register_entry(host: &PluginHost, entry: ModelEntry, manner: Manner) {
        let name = entry.name.clone();
        let name = name.as_str();
        let settings = InstanceSettings {
            config: serde_json::to_value(manner).expect("a manner is JSON"),
            models: vec![entry],
            ..InstanceSettings::new(name, "reader", name)
        };
        host.register_static::<Self>(settings);
        let begun = Instant::now();
        while !host.model(name).is_some_and(|report| report.state.serves()) {
            assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", host.model(name));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn answer<T: Serialize>(
        &self,
        texts: &[String],
        sink: &Sink<'_>,
        of: impl Fn(u32, &str) -> T,
    ) -> Result<(), PluginError> {
        for (at, text) in texts.iter().enumerate().rev() {
            let index = u32::try_from(at).unwrap_or(u32::MAX);
            match self.0 {
                Manner::LeavesOut if at == 0 => continue,
                Manner::Repeats if at == 0 => sink.data(&of(index, text))?,
                Manner::Babbles => {
                    sink.data(&serde_json::json!({ "weather": "fine" }))?;
                    continue;
                }
                Manner::Fails if at + 1 < texts.len() || texts.len() == 1 => {
                    return Err(PluginError::internal("as the test says"));
                }
                _ => {}
            }
            sink.data(&of(index, text))?;
        }
        Ok(())
    }
}

/// Letters of the longest text whose vector is one of the whole text.
const LONGEST: u16 = 1000;

fn words(text: &str) -> u32 {
    u32::try_from(text.split_whitespace().count()).unwrap_or(u32::MAX)
}

fn read(texts: &[String], written: u32) -> Completion {
    let input_tokens = texts.iter().map(|text| words(text)).sum();
    Completion::stop(Usage { input_tokens, output_tokens: written })
}

impl ModelPlugin for Reader {
    type Config = Manner;

    fn create(_: Host, manner: Manner) -> Result<Self, PluginError> {
        Ok(Self(manner))
    }

    fn embed(&self, request: EmbedRequest, sink: &Sink<'_>) -> Result<Completion, PluginError> {
        self.answer(&request.texts, sink, |index, text| {
            let letters = u16::try_from(text.chars().count()).unwrap_or(u16::MAX);
            let words = u16::try_from(words(text)).unwrap_or(u16::MAX);
            let embedding = vec![f32::from(letters), f32::from(words), 0.1];
            Embedded { index, embedding, truncated: LONGEST < letters }
        })?;
        Ok(read(&request.texts, 0))
    }

    fn classify(
        &self,
        request: ClassifyRequest,
        sink: &Sink<'_>,
    ) -> Result<Completion, PluginError> {
        self.answer(&request.texts, sink, |index, text| classified(index, text, request.explain))?;
        let explained =
            if request.explain { request.texts.iter().map(|text| words(text)).sum() } else { 0 };
        Ok(read(&request.texts, explained))
    }
}

/// `good` and `bad` decide; with both or neither the model is not sure.
fn classified(index: u32, text: &str, explain: bool) -> Classified {
    let weight = |word: &str| match word {
        "good" => 1.0,
        "bad" => -1.0,
        _ => 0.0,
    };
    let sum: f32 = text.split_whitespace().map(weight).sum();
    let (label, likely) = match sum {
        sum if 0.0 < sum => (Some("positive"), 0.75),
        sum if sum < 0.0 => (Some("negative"), 0.75),
        _ => (None, 0.5),
    };
    let first = label.unwrap_or("positive");
    let second = if first == "positive" { "negative" } else { "positive" };
    let score = |label: &str, probability| Score { label: label.to_owned(), probability };
    let mut words = Vec::new();
    let mut at = 0;
    for word in text.split_whitespace().filter(|_| explain) {
        let length = u32::try_from(word.chars().count()).unwrap_or(u32::MAX);
        words.push(Word {
            text: word.to_owned(),
            start: at,
            end: at + length,
            weight: weight(word),
        });
        at += length + 1;
    }
    Classified {
        index,
        label: label.map(str::to_owned),
        scores: vec![score(first, likely), score(second, 1.0 - likely)],
        words,
        truncated: false,
    }
}

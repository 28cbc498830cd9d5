//! Sentiment of English and Chinese texts: negative, neutral or positive with calibrated probabilities, no
//! class where the head is not sure, and the words that decided.
//!
//! One thread computes for all requests; what comes meanwhile goes together into the next batch.

use std::path::PathBuf;

use qudao_device::end_if_lost;
use qudao_encoder::{BATCH_TOKENS, EncoderError, Job, Queue, Read};
use qudao_plugin_api::{
    BatchPlugin, Completion, Host, LogLevel, OwnedRequest, PluginError, Step, StepSink,
    wire::{Ask, Classified, ClassifyRequest, ErrorKind, Score, Usage, Word},
};
use serde::Deserialize;

mod head;
mod model;

pub use head::Head;
pub use model::{Judged, Method, Model, SERVED};

/// Vectors are made and freed hundreds of times per batch.
#[cfg(not(test))]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Requests that may wait; a single one may hold thousands of texts.
const WAITING_MAX: usize = 256;
/// Words of an event: more would not fit its 64 KiB. The first ones are told.
const WORDS_MAX: usize = 400;

/// The `config` of an instance of this plugin.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The encoder's file.
    pub path: PathBuf,
    /// The least probability of a class that is named; the head's own if absent.
    #[serde(default)]
    pub abstain_below: Option<f32>,
    /// `cpu`, `cuda:0` and so on, or `auto`.
    #[serde(default = "default_device")]
    pub device: String,
}

fn default_device() -> String {
    "auto".to_owned()
}

/// What a request asks beside the classes.
#[derive(Debug, Clone, Copy)]
struct Wish {
    explain: bool,
    words: u32,
}

/// A classifier that serves.
#[derive(Debug)]
pub struct Sentiment {
    host: Host,
    model: Model,
    abstain_below: f32,
    queue: Queue<Wish>,
}

impl BatchPlugin for Sentiment {
    type Config = Config;

    fn create(host: Host, config: Config) -> Result<Self, PluginError> {
        let model = Model::load_on(&config.path, &config.device)
            .map_err(|error| PluginError::new(ErrorKind::Unavailable, error))?;
        let abstain_below = config.abstain_below.unwrap_or(model.head().abstain_below);
        if !(0.0..=1.0).contains(&abstain_below) {
            return Err(PluginError::bad_request("abstain_below has to be from 0 to 1"));
        }
        host.log(LogLevel::Info, &format!("classes: {}", model.head().labels.join(", ")));
        Ok(Self { host, model, abstain_below, queue: Queue::default() })
    }

    fn admit(&mut self, request: OwnedRequest) -> Result<(), PluginError> {
        let Ask::Classify(ClassifyRequest { texts, explain, .. }) = request.ask()? else {
            return Err(PluginError::not_supported("do anything but classify texts"));
        };
        if WAITING_MAX <= self.queue.len() {
            let error =
                PluginError::new(ErrorKind::Overloaded, "too many requests wait for this model");
            return Err(error.with_retry_after_ms(1_000));
        }
        if texts.is_empty() {
            return Err(PluginError::bad_request("there is no text"));
        }
        let texts = texts.iter().map(|text| self.model.read(text));
        let texts = texts.collect::<Result<Vec<Read>, _>>().map_err(failed)?;
        let words = if explain {
            texts.iter().map(|text| text.words.len().min(WORDS_MAX)).sum::<usize>()
        } else {
            0
        };
        let words = u32::try_from(words).unwrap_or(u32::MAX);
        self.queue.push(Job::new(request.id, texts, Wish { explain, words }));
        Ok(())
    }

    fn step(&mut self, sink: &mut StepSink<'_>) -> Result<Step, PluginError> {
        let places = self.queue.take(BATCH_TOKENS);
        let texts: Vec<(Read, bool)> = places
            .iter()
            .filter_map(|place| {
                let job = self.queue.find(place.id)?;
                Some((job.text(place.index)?.clone(), job.what.explain))
            })
            .collect();
        let ids: Vec<&[u32]> = texts.iter().map(|(text, _)| text.ids.as_slice()).collect();
        let judged = self.model.judge(&ids).map_err(|error| self.lost(error))?;
        for ((place, (text, explain)), judged) in places.iter().zip(&texts).zip(&judged) {
            let index = u32::try_from(place.index).unwrap_or(u32::MAX);
            let mut answer = self.answer(index, text, judged);
            if *explain {
                let explained = self.model.explain(text, judged, SERVED);
                answer.words = words(text, &explained.map_err(|error| self.lost(error))?);
            }
            sink.data(place.id, &serde_json::json!(answer));
            if let Some(job) = self.queue.finish(place.id) {
                let usage = Usage { input_tokens: job.tokens(), output_tokens: job.what.words };
                sink.finish(place.id, Completion::stop(usage));
            }
        }
        Ok(if self.queue.has_work() { Step::Busy } else { Step::Idle })
    }

    fn cancel(&mut self, id: u64) -> Option<Usage> {
        let input_tokens = self.queue.cancel(id)?;
        Some(Usage { input_tokens, output_tokens: 0 })
    }

    fn park(&mut self, id: u64, parked: bool) {
        self.queue.park(id, parked);
    }
}

impl Sentiment {
    fn answer(&self, index: u32, text: &Read, judged: &Judged) -> Classified {
        let labels = &self.model.head().labels;
        let score = |(label, probability): (&String, &f32)| Score {
            label: label.clone(),
            probability: *probability,
        };
        let mut scores: Vec<Score> = labels.iter().zip(&judged.probabilities).map(score).collect();
        scores.sort_by(|a, b| b.probability.total_cmp(&a.probability));
        let sure = self.abstain_below <= judged.probabilities[judged.class];
        Classified {
            index,
            label: sure.then(|| labels[judged.class].clone()),
            scores,
            words: Vec::new(),
            truncated: text.truncated,
        }
    }
}

fn words(text: &Read, weights: &[f32]) -> Vec<Word> {
    let place = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
    let words = text.words.iter().zip(weights).take(WORDS_MAX);
    words
        .map(|(word, weight)| Word {
            text: word.text.clone(),
            start: place(word.start),
            end: place(word.end),
            weight: *weight,
        })
        .collect()
}

impl Sentiment {
    /// A failure of the requests of a batch, unless it is one of the process.
    fn lost(&self, error: EncoderError) -> PluginError {
        end_if_lost(&error.to_string(), |line| self.host.log(LogLevel::Error, line));
        failed(error)
    }
}

fn failed(error: EncoderError) -> PluginError {
    PluginError::internal(error.to_string())
}

qudao_plugin_api::export_batch_plugin!(Sentiment);

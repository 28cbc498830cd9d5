//! Sentence vectors: the mean of a text's tokens after the last layer, of length 1, as the model cards of
//! multilingual-e5-small and all-MiniLM-L6-v2 say.
//!
//! One thread computes for all requests. What comes while it computes waits and goes together into the
//! next batch: nothing waits on purpose, and under load the batches grow of themselves.

use std::path::PathBuf;

use qudao_device::end_if_lost;
use qudao_encoder::{BATCH_TOKENS, Encoder, EncoderError, Job, Queue};
use qudao_plugin_api::{
    BatchPlugin, Completion, Host, LogLevel, OwnedRequest, PluginError, Step, StepSink,
    wire::{Ask, EmbedRequest, Embedded, ErrorKind, Purpose, Usage},
};
use serde::Deserialize;

/// Vectors are made and freed hundreds of times per batch.
#[cfg(not(test))]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Requests that may wait; a single one may hold thousands of texts.
const WAITING_MAX: usize = 256;

/// The `config` of an instance of this plugin.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The encoder's file.
    pub path: PathBuf,
    /// `cpu`, `cuda:0` and so on, or `auto`.
    #[serde(default = "default_device")]
    pub device: String,
}

fn default_device() -> String {
    "auto".to_owned()
}

/// An encoder that serves.
#[derive(Debug)]
pub struct Embedder {
    host: Host,
    encoder: Encoder,
    queue: Queue<()>,
}

impl BatchPlugin for Embedder {
    type Config = Config;

    fn create(host: Host, config: Config) -> Result<Self, PluginError> {
        let encoder = Encoder::load_on(&config.path, &config.device)
            .map_err(|error| PluginError::new(ErrorKind::Unavailable, error.to_string()))?;
        let network = encoder.network();
        let line = format!("{} layers of {} are ready", network.layers, network.hidden);
        host.log(LogLevel::Info, &line);
        Ok(Self { host, encoder, queue: Queue::default() })
    }

    fn admit(&mut self, request: OwnedRequest) -> Result<(), PluginError> {
        let Ask::Embed(EmbedRequest { texts, purpose, .. }) = request.ask()? else {
            return Err(PluginError::not_supported("do anything but make vectors of texts"));
        };
        if WAITING_MAX <= self.queue.len() {
            let error =
                PluginError::new(ErrorKind::Overloaded, "too many requests wait for this model");
            return Err(error.with_retry_after_ms(1_000));
        }
        if texts.is_empty() {
            return Err(PluginError::bad_request("there is no text"));
        }
        let card = self.encoder.card();
        let prefix = match purpose {
            None | Some(Purpose::Query) => &card.query,
            Some(Purpose::Passage) => &card.passage,
        };
        let texts = texts.iter().map(|text| self.encoder.read(prefix, text));
        let texts = texts.collect::<Result<Vec<_>, _>>().map_err(failed)?;
        self.queue.push(Job::new(request.id, texts, ()));
        Ok(())
    }

    fn step(&mut self, sink: &mut StepSink<'_>) -> Result<Step, PluginError> {
        let places = self.queue.take(BATCH_TOKENS);
        let texts = places
            .iter()
            .filter_map(|place| self.queue.find(place.id)?.text(place.index))
            .collect::<Vec<_>>();
        let ids: Vec<&[u32]> = texts.iter().map(|text| text.ids.as_slice()).collect();
        let truncated: Vec<bool> = texts.iter().map(|text| text.truncated).collect();
        let last = self.encoder.network().layers;
        let means = self.encoder.means(&ids, &[last]).map_err(|error| self.lost(error))?;
        for ((place, embedding), truncated) in places.iter().zip(means).zip(truncated) {
            let index = u32::try_from(place.index).unwrap_or(u32::MAX);
            let embedding = of_length_one(embedding);
            sink.data(place.id, &serde_json::json!(Embedded { index, embedding, truncated }));
            if let Some(job) = self.queue.finish(place.id) {
                let usage = Usage { input_tokens: job.tokens(), output_tokens: 0 };
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

impl Embedder {
    /// A failure of the requests of a batch, unless it is one of the process.
    fn lost(&self, error: EncoderError) -> PluginError {
        end_if_lost(&error.to_string(), |line| self.host.log(LogLevel::Error, line));
        failed(error)
    }
}

fn failed(error: EncoderError) -> PluginError {
    PluginError::internal(error.to_string())
}

fn of_length_one(mut vector: Vec<f32>) -> Vec<f32> {
    let length = vector.iter().map(|number| number * number).sum::<f32>().sqrt();
    if 0.0 < length {
        vector.iter_mut().for_each(|number| *number /= length);
    }
    vector
}

qudao_plugin_api::export_batch_plugin!(Embedder);

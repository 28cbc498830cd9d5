//! The ear as a plugin of the platform.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use qudao_device::end_if_lost;
use qudao_plugin_api::{
    Completion, Host, LogLevel, ModelPlugin, PluginError, Sink,
    wire::{ErrorKind, TranscribeRequest, Usage},
};

use crate::{
    config::Config,
    error::ListenError,
    model::{Model, Wishes},
};

/// A Whisper that serves.
pub struct Speech {
    host: Host,
    model: Model,
}

/// Why a request was not answered.
enum Failure {
    Listen(ListenError),
    /// Of the sink: the caller is gone.
    Plugin(PluginError),
}

impl From<ListenError> for Failure {
    fn from(error: ListenError) -> Self {
        Self::Listen(error)
    }
}

impl From<Failure> for PluginError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Plugin(error) => error,
            Failure::Listen(error @ (ListenError::Sound(_) | ListenError::Language(_))) => {
                Self::bad_request(error.to_string())
            }
            Failure::Listen(error) => Self::internal(error.to_string()),
        }
    }
}

impl ModelPlugin for Speech {
    type Config = Config;

    fn create(host: Host, config: Config) -> Result<Self, PluginError> {
        let model = Model::load(&config)
            .map_err(|error| PluginError::new(ErrorKind::Unavailable, error.to_string()))?;
        host.log(LogLevel::Info, &format!("languages: {}", model.languages()));
        Ok(Self { host, model })
    }

    fn transcribe(
        &self,
        request: TranscribeRequest,
        sink: &Sink<'_>,
    ) -> Result<Completion, PluginError> {
        let bytes = STANDARD
            .decode(&request.sound)
            .map_err(|error| PluginError::bad_request(format!("the sound's base64: {error}")))?;
        let stop = || sink.is_cancelled();
        let mut take = |segment| sink.data(&segment).map_err(Failure::Plugin);
        let wishes = Wishes {
            language: request.language.as_deref(),
            prompt: request.prompt.as_deref(),
            temperature: request.temperature.unwrap_or_default(),
        };
        let heard = self.model.listen(&bytes, wishes, &stop, &mut take).inspect_err(|failure| {
            if let Failure::Listen(ListenError::Computation(error)) = failure {
                let log = |line: &str| self.host.log(LogLevel::Error, line);
                end_if_lost(&error.to_string(), log);
            }
        })?;
        if heard.stopped {
            return Err(PluginError::cancelled());
        }
        // A second is a token in the books.
        let usage = Usage { input_tokens: heard.seconds.max(1), output_tokens: 0 };
        Ok(Completion::stop(usage))
    }
}

qudao_plugin_api::export_plugin!(Speech);

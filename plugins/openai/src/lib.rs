//! Models of any provider that speaks OpenAI's chat completions.
//!
//! Requests go out as they came in; what comes back is handed on as the network brings it. See
//! `docs/openai.md` for the settings and for what each failure means.

pub mod estimate;
pub mod events;
pub mod failure;
#[cfg(test)]
mod lender;
#[cfg(test)]
mod mini;
pub mod provider;
pub mod reply;
pub mod request;
pub mod settings;
pub mod transport;

use qudao_plugin_api::{
    AsyncModelPlugin, AsyncSink, Completion, Host, LogLevel, OwnedRequest, PluginError,
    abi::QD_KIND_CHAT,
};

use crate::{
    failure::Failure,
    provider::{Gone, Output, Piece, Provider, Unanswered},
    settings::Settings,
};

/// A reply is many small allocations.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// An instance: one provider with one key.
pub struct OpenAi {
    provider: Provider,
}

impl AsyncModelPlugin for OpenAi {
    type Config = Settings;

    /// The host's threads do the work: in the platform's process a call does not change threads.
    fn worker_threads(_: &Settings) -> usize {
        0
    }

    fn create(_host: Host, settings: Settings) -> Result<Self, PluginError> {
        let provider = Provider::new(settings).map_err(plugin_error)?;
        Ok(Self { provider })
    }

    async fn run(
        &self,
        request: OwnedRequest,
        sink: &AsyncSink,
    ) -> Result<Completion, PluginError> {
        if request.kind != QD_KIND_CHAT {
            return Err(PluginError::bad_request("this plugin serves chat requests only"));
        }
        let mut reader = Reader(sink);
        let OwnedRequest { payload, deadline, trace, .. } = &request;
        let net = sink.net()?;
        match self.provider.chat(payload, *deadline, trace, &net, &mut reader).await {
            Ok(answered) => {
                if answered.estimated {
                    sink.progress("the provider reported no usage: it is estimated").await?;
                }
                Ok(Completion { usage: answered.usage, finish_reason: answered.finish_reason })
            }
            Err(Unanswered::Cancelled) => Err(PluginError::cancelled()),
            Err(Unanswered::Failed(failure)) => {
                let mut line =
                    format!("the provider failed: {:?}, status {:?}", failure.kind, failure.status);
                // The provider's message is left out: it may quote the person.
                if failure.own_words {
                    line = format!("{line}: {}", failure.message);
                }
                sink.log(LogLevel::Info, &line);
                Err(plugin_error(failure))
            }
        }
    }
}

qudao_plugin_api::export_async_plugin!(OpenAi);

/// The host's side of a call.
struct Reader<'a>(&'a AsyncSink);

impl Output for Reader<'_> {
    async fn take(&mut self, pieces: Vec<Piece>) -> Result<(), Gone> {
        let pieces: Vec<_> = pieces.iter().map(lend).collect();
        // The sink fails for one reason only: the caller left.
        self.0.pieces(&pieces).await.map_err(|_| Gone)
    }
}

fn lend(piece: &Piece) -> qudao_plugin_api::Piece<'_> {
    match piece {
        Piece::Text(text) => qudao_plugin_api::Piece::Text(text),
        Piece::Reasoning(text) => qudao_plugin_api::Piece::Reasoning(text),
        Piece::Data(json) => qudao_plugin_api::Piece::Json(json),
    }
}

fn plugin_error(failure: Failure) -> PluginError {
    let mut error = PluginError::new(failure.kind, failure.message);
    error.status = failure.status;
    error.retry_after_ms =
        failure.retry_after.map(|wait| u64::try_from(wait.as_millis()).unwrap_or(u64::MAX));
    error
}

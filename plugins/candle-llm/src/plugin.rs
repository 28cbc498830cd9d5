//! The engine as a plugin of the platform.

use std::collections::VecDeque;

use qudao_device::end_if_lost;
use qudao_plugin_api::wire::{
    ChatParams, ChatRequest, Content, ErrorKind, FinishReason, Role, Usage,
};
use qudao_plugin_api::{
    BatchPlugin, Completion, Host, LogLevel, OwnedRequest, PluginError, Step, StepSink,
};

use crate::config::Config;
use crate::engine::{AdmitError, Engine, Finish, Job, Output};
use crate::sampling::Settings;
use crate::template::Message;

/// Requests that may wait for a place, for each place.
const WAITING_PER_PLACE: usize = 16;
/// Limit of a reply for requests that name none.
const DEFAULT_MAX_TOKENS: usize = 1024;

/// A local model.
pub struct CandleLlm {
    host: Host,
    engine: Engine,
    waiting: VecDeque<(u64, Job)>,
    seed: Option<u64>,
}

impl BatchPlugin for CandleLlm {
    type Config = Config;

    fn create(host: Host, config: Config) -> Result<Self, PluginError> {
        let mut progress = |text: &str| host.log(LogLevel::Info, text);
        let engine = Engine::load(&config, &mut progress)
            .map_err(|error| PluginError::new(ErrorKind::Unavailable, error.to_string()))?;
        Ok(Self { host, engine, waiting: VecDeque::new(), seed: config.seed })
    }

    fn admit(&mut self, request: OwnedRequest) -> Result<(), PluginError> {
        if self.waiting.len() >= self.engine.places() * WAITING_PER_PLACE {
            let error =
                PluginError::new(ErrorKind::Overloaded, "too many requests wait for this model");
            return Err(error.with_retry_after_ms(5_000));
        }
        let job = job(&request.chat()?, self.seed)?;
        self.waiting.push_back((request.id, job));
        Ok(())
    }

    fn step(&mut self, sink: &mut StepSink<'_>) -> Result<Step, PluginError> {
        while self.engine.running() < self.engine.places() {
            let Some((id, job)) = self.waiting.pop_front() else { break };
            if let Err(AdmitError::Template(reason)) = self.engine.admit(id, job) {
                sink.fail(id, PluginError::bad_request(reason));
            }
        }
        if !self.engine.has_work() {
            return Ok(Step::Idle);
        }
        let outputs = self.engine.step().map_err(|error| lost(self.host, &error.to_string()))?;
        for (id, output) in outputs {
            match output {
                Output::Text { text, token } => sink.token(id, text, token, 0.0),
                Output::End { finish, input_tokens, output_tokens } => {
                    let usage = Usage {
                        input_tokens: count(input_tokens),
                        output_tokens: count(output_tokens),
                    };
                    let finish_reason = match finish {
                        Finish::Stop => FinishReason::Stop,
                        Finish::Length => FinishReason::Length,
                    };
                    sink.finish(id, Completion { usage, finish_reason });
                }
            }
        }
        let more = self.engine.has_work() || !self.waiting.is_empty();
        Ok(if more { Step::Busy } else { Step::Idle })
    }

    fn cancel(&mut self, id: u64) -> Option<Usage> {
        self.waiting.retain(|(waiting, _)| *waiting != id);
        let (input, output) = self.engine.cancel(id)?;
        Some(Usage { input_tokens: count(input), output_tokens: count(output) })
    }

    fn park(&mut self, id: u64, parked: bool) {
        self.engine.park(id, parked);
    }
}

/// A failure of the replies that run, unless it is one of the process.
fn lost(host: Host, said: &str) -> PluginError {
    end_if_lost(said, |line| host.log(LogLevel::Error, line));
    PluginError::internal(said)
}

fn count(tokens: usize) -> u32 {
    u32::try_from(tokens).unwrap_or(u32::MAX)
}

/// A request in the engine's terms. Roles that templates do not know become ones they do.
fn job(request: &ChatRequest, seed: Option<u64>) -> Result<Job, PluginError> {
    let messages: Vec<Message> = request
        .messages
        .iter()
        .map(|message| {
            let role = match message.role {
                Role::System => "system",
                Role::User | Role::Tool => "user",
                Role::Assistant => "assistant",
            };
            Message::new(role, message.content.as_ref().map(Content::to_text).unwrap_or_default())
        })
        .collect();
    if !messages.iter().any(|message| message.role == "user") {
        return Err(PluginError::bad_request("the conversation has no message of a user"));
    }
    let params = &request.params;
    Ok(Job {
        messages,
        max_tokens: params.max_tokens.map_or(DEFAULT_MAX_TOKENS, |tokens| tokens as usize),
        stop: params.stop.clone(),
        settings: settings(params, seed),
    })
}

/// Defaults that suit small models: some repetition penalty, and the unlikely tail cut off.
fn settings(params: &ChatParams, seed: Option<u64>) -> Settings {
    Settings {
        temperature: params.temperature.unwrap_or(0.7).clamp(0.0, 2.0),
        top_p: params.top_p.unwrap_or(0.9).clamp(0.0, 1.0),
        top_k: params.top_k.unwrap_or(40) as usize,
        repeat_penalty: params.repeat_penalty.unwrap_or(1.1).clamp(0.5, 2.0),
        frequency_penalty: params.frequency_penalty.unwrap_or(0.0),
        presence_penalty: params.presence_penalty.unwrap_or(0.0),
        seed: params.seed.or(seed).unwrap_or_else(rand::random),
    }
}

qudao_plugin_api::export_batch_plugin!(CandleLlm);

#[cfg(test)]
mod tests {
    use qudao_plugin_api::wire::ChatMessage;

    use super::*;

    #[test]
    fn a_request_keeps_its_order_and_its_settings() {
        let mut request = ChatRequest::new(
            "m",
            vec![ChatMessage::text(Role::System, "s"), ChatMessage::text(Role::User, "u")],
        );
        request.params.temperature = Some(0.0);
        request.params.max_tokens = Some(7);
        let job = job(&request, Some(3)).unwrap();
        assert_eq!(job.messages, [Message::new("system", "s"), Message::new("user", "u")]);
        assert_eq!((job.max_tokens, job.settings.seed, job.settings.temperature), (7, 3, 0.0));
    }

    #[test]
    fn a_conversation_without_a_question_is_a_bad_request() {
        let request = ChatRequest::new("m", vec![ChatMessage::text(Role::Assistant, "a")]);
        assert_eq!(job(&request, None).unwrap_err().kind, ErrorKind::BadRequest);
    }
}

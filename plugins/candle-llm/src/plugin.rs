//! The engine as a plugin of the platform.

use qudao_device::end_if_lost;
use qudao_plugin_api::wire::{
    ChatParams, ChatRequest, Content, ErrorKind, FinishReason, Role, Usage,
};
use qudao_plugin_api::{
    BatchPlugin, Completion, Host, LogLevel, OwnedRequest, PluginError, Step, StepSink,
};

use serde_json::{Value, json};

use crate::config::Config;
use crate::constraint::Form;
use crate::engine::{Engine, Finish, Job, Output};
use crate::logprobs::TokenLogprob;
use crate::sampling::Settings;
use crate::template::Message;
use crate::tokens::Tokens;

/// Requests that may wait for a place, for each place.
const WAITING_PER_PLACE: usize = 16;
/// Alternatives of which the probabilities are told, at most; as at OpenAI.
const TOP_LOGPROBS_MAX: u32 = 20;
/// Limit of a reply for requests that name none.
const DEFAULT_MAX_TOKENS: usize = 1024;

/// A local model.
pub struct CandleLlm {
    host: Host,
    engine: Engine,
    seed: Option<u64>,
}

impl BatchPlugin for CandleLlm {
    type Config = Config;

    fn create(host: Host, config: Config) -> Result<Self, PluginError> {
        let mut progress = |text: &str| host.log(LogLevel::Info, text);
        let engine = Engine::load(&config, &mut progress)
            .map_err(|error| PluginError::new(ErrorKind::Unavailable, error.to_string()))?;
        Ok(Self { host, engine, seed: config.seed })
    }

    fn admit(&mut self, request: OwnedRequest) -> Result<(), PluginError> {
        let job = job(&request.chat()?, self.seed)?;
        if self.is_full(&job.salt) {
            let error =
                PluginError::new(ErrorKind::Overloaded, "too many requests wait for this model");
            return Err(error.with_retry_after_ms(5_000));
        }
        let admitted = self.engine.admit(request.id, job);
        admitted.map_err(|error| PluginError::bad_request(error.to_string()))
    }

    fn step(&mut self, sink: &mut StepSink<'_>) -> Result<Step, PluginError> {
        if !self.engine.has_work() {
            return Ok(Step::Idle);
        }
        let outputs = self.engine.step().map_err(|error| lost(self.host, &error.to_string()))?;
        for (id, output) in outputs {
            match output {
                Output::Text { text, token, logprob } => sink.token(id, text, token, logprob),
                Output::Logprobs(told) => {
                    sink.data(id, &logprobs(&told, self.engine.tokens()));
                }
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
                Output::Failed(reason) => sink.fail(id, PluginError::internal(reason)),
            }
        }
        Ok(if self.engine.has_work() { Step::Busy } else { Step::Idle })
    }

    fn cancel(&mut self, id: u64) -> Option<Usage> {
        let (input, output) = self.engine.cancel(id)?;
        Some(Usage { input_tokens: count(input), output_tokens: count(output) })
    }

    fn park(&mut self, id: u64, parked: bool) {
        self.engine.park(id, parked);
    }
}

impl CandleLlm {
    /// Whether no more of this tenant's requests may wait. Where all wait together for too long,
    /// those who have less than their share of the queue still come in.
    fn is_full(&self, salt: &str) -> bool {
        let most = self.engine.places() * WAITING_PER_PLACE;
        let (all, own, tenants) = self.engine.waiting(salt);
        most <= all && most / (tenants + usize::from(own == 0)) <= own
    }
}

/// Probabilities in OpenAI's form.
fn logprobs(told: &[TokenLogprob], tokens: &Tokens) -> Value {
    let one = |token: u32, logprob: f32| {
        let bytes = tokens.bytes(token);
        // A token that the model held impossible has no JSON number; OpenAI writes this one.
        let logprob = if logprob.is_finite() { logprob } else { -9999.0 };
        let text = match bytes {
            [] => tokens.name(token).into(),
            bytes => String::from_utf8_lossy(bytes),
        };
        json!({ "token": text, "logprob": logprob, "bytes": bytes })
    };
    let content = told.iter().map(|told| {
        let mut entry = one(told.token, told.logprob);
        entry["top_logprobs"] = told.top.iter().map(|(token, p)| one(*token, *p)).collect();
        entry
    });
    json!({ "logprobs": { "content": content.collect::<Vec<_>>() } })
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
    let form = request.response_format.as_ref().map(Form::read).transpose();
    let form = form.map_err(|error| PluginError::bad_request(error.to_string()))?.flatten();
    let top = params.top_logprobs.unwrap_or(0);
    if TOP_LOGPROBS_MAX < top {
        let reason = format!("top_logprobs must be at most {TOP_LOGPROBS_MAX}");
        return Err(PluginError::bad_request(reason));
    }
    let mut settings = settings(params, seed);
    if form.is_some() && params.repeat_penalty.is_none() {
        // Quotes and braces repeat, and must.
        settings.repeat_penalty = 1.0;
    }
    Ok(Job {
        messages,
        max_tokens: params.max_tokens.map_or(DEFAULT_MAX_TOKENS, |tokens| tokens as usize),
        stop: params.stop.clone(),
        settings,
        form,
        logprobs: params.logprobs.unwrap_or(false).then_some(top as usize),
        salt: request.cache_salt.clone().unwrap_or_default(),
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
    fn forms_and_probabilities_are_read_and_wrong_ones_are_bad_requests() {
        let mut request = ChatRequest::new("m", vec![ChatMessage::text(Role::User, "u")]);
        request.response_format = Some(json!({ "type": "json_object" }));
        request.params.logprobs = Some(true);
        request.params.top_logprobs = Some(2);
        request.cache_salt = Some("tenant".to_owned());
        let read = job(&request, None).unwrap();
        assert!(matches!(read.form, Some(Form::Schema(_))));
        assert_eq!((read.logprobs, read.salt.as_str()), (Some(2), "tenant"));
        assert!((read.settings.repeat_penalty - 1.0).abs() < f32::EPSILON);
        request.params.top_logprobs = Some(21);
        assert_eq!(job(&request, None).unwrap_err().kind, ErrorKind::BadRequest);
        request.params.top_logprobs = None;
        request.response_format = Some(json!({ "type": "yaml" }));
        let error = job(&request, None).unwrap_err();
        assert_eq!(error.kind, ErrorKind::BadRequest);
        assert!(error.message.contains("response_format"), "{}", error.message);
    }

    #[test]
    fn a_conversation_without_a_question_is_a_bad_request() {
        let request = ChatRequest::new("m", vec![ChatMessage::text(Role::Assistant, "a")]);
        assert_eq!(job(&request, None).unwrap_err().kind, ErrorKind::BadRequest);
    }
}

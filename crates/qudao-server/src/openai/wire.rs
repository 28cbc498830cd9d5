//! OpenAI's JSON of a chat completion, as far as the models of plugins can serve it. Fields that
//! OpenAI knows and no model serves are ignored, as OpenAI's own servers do with unknown ones.

use qudao_plugin_api::wire::{CHAT_SCHEMA, ChatMessage, ChatParams, ChatRequest};
use serde::Deserialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::pictures;
use crate::error::{ApiError, FieldCheck};

/// The longest list of stop texts, as at OpenAI.
const MAX_STOPS: usize = 4;

/// A request for a chat completion.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct CompletionRequest {
    /// One of the models of `GET /v1/models`.
    #[schema(min_length = 1)]
    pub(crate) model: String,
    /// The conversation so far, oldest first: objects with `role` (`system`, `developer`, `user`,
    /// `assistant`, `tool`) and `content` (a text, or a list of parts).
    #[schema(value_type = Vec<Object>, min_items = 1)]
    pub(crate) messages: Vec<ChatMessage>,
    /// Whether the answer is sent piece by piece, as server-sent events.
    pub(crate) stream: Option<bool>,
    /// What a stream carries besides.
    pub(crate) stream_options: Option<StreamOptions>,
    /// The longest answer, in tokens.
    #[schema(minimum = 1, maximum = 4294967295_u32)]
    pub(crate) max_completion_tokens: Option<u32>,
    /// The older name of `max_completion_tokens`.
    #[schema(minimum = 1, maximum = 4294967295_u32)]
    pub(crate) max_tokens: Option<u32>,
    /// How freely the model chooses, 0 to 2.
    #[schema(minimum = 0, maximum = 2)]
    pub(crate) temperature: Option<f32>,
    /// Choose among the likeliest tokens that together have this probability.
    #[schema(minimum = 0, maximum = 1)]
    pub(crate) top_p: Option<f32>,
    /// Choose among this many tokens. Not known to OpenAI's own models.
    #[schema(minimum = 0, maximum = 4294967295_u32)]
    pub(crate) top_k: Option<u32>,
    /// Above 1, what was said becomes less likely. Not known to OpenAI's own models.
    pub(crate) repeat_penalty: Option<f32>,
    /// −2 to 2: the more often a token was said, the less likely it becomes.
    #[schema(minimum = -2, maximum = 2)]
    pub(crate) frequency_penalty: Option<f32>,
    /// −2 to 2: a token that was said becomes less likely.
    #[schema(minimum = -2, maximum = 2)]
    pub(crate) presence_penalty: Option<f32>,
    /// The same seed gives the same answer, where the model can.
    pub(crate) seed: Option<i64>,
    /// One text or up to four at which the answer ends.
    pub(crate) stop: Option<Stop>,
    /// How many answers; only 1 is served.
    #[schema(minimum = 1, maximum = 1)]
    pub(crate) n: Option<u32>,
    /// Functions that the model may call.
    pub(crate) tools: Option<Value>,
    /// Which of them it must call.
    pub(crate) tool_choice: Option<Value>,
    /// The form of the answer, such as JSON.
    pub(crate) response_format: Option<Value>,
    /// The caller's end user, for the model's provider.
    pub(crate) user: Option<String>,
    /// Whether to return the probabilities of the tokens.
    pub(crate) logprobs: Option<bool>,
    /// For how many alternatives each.
    #[schema(minimum = 0, maximum = 4294967295_u32)]
    pub(crate) top_logprobs: Option<u32>,
}

/// One text or several.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum Stop {
    /// One.
    One(String),
    /// Several.
    Many(Vec<String>),
}

/// What a stream carries besides the answer.
#[derive(Debug, Clone, Copy, Default, Deserialize, ToSchema)]
pub(crate) struct StreamOptions {
    /// Whether a last chunk tells how many tokens were used.
    #[serde(default)]
    pub(crate) include_usage: Option<bool>,
}

impl CompletionRequest {
    pub(crate) fn is_stream(&self) -> bool {
        self.stream.unwrap_or(false)
    }

    pub(crate) fn include_usage(&self) -> bool {
        self.stream_options.and_then(|options| options.include_usage).unwrap_or(false)
    }

    /// The request as plugins read it.
    ///
    /// # Errors
    /// `validation_failed` with the parameter at fault.
    pub(crate) fn into_chat(self) -> Result<ChatRequest, ApiError> {
        let mut check = FieldCheck::default();
        if self.messages.is_empty() {
            check.refuse("/messages", "must have at least one message");
        }
        if self.model.is_empty() {
            check.refuse("/model", "must not be empty");
        }
        self.check_ranges(&mut check);
        let stream = Some(self.is_stream());
        let stop = match self.stop {
            None => Vec::new(),
            Some(Stop::One(text)) => vec![text],
            Some(Stop::Many(texts)) => texts,
        };
        if MAX_STOPS < stop.len() {
            check.refuse("/stop", format_args!("may have {MAX_STOPS} texts at most"));
        }
        for (at, message) in self.messages.iter().enumerate() {
            // Only an assistant that called a tool may have said nothing.
            if message.content.is_none() && message.tool_calls.is_none() {
                check.refuse(&format!("/messages/{at}/content"), "is missing");
            }
        }
        pictures::check(&self.messages, &mut check);
        check.finish(Some(ChatRequest {
            schema: CHAT_SCHEMA.to_owned(),
            model: self.model,
            messages: self.messages,
            params: ChatParams {
                max_tokens: self.max_completion_tokens.or(self.max_tokens),
                temperature: self.temperature,
                top_p: self.top_p,
                top_k: self.top_k,
                repeat_penalty: self.repeat_penalty,
                frequency_penalty: self.frequency_penalty,
                presence_penalty: self.presence_penalty,
                // A seed is a label and not a number: any mapping to unsigned is as good.
                seed: self.seed.map(i64::cast_unsigned),
                stop,
                logprobs: self.logprobs,
                top_logprobs: self.top_logprobs,
            },
            tools: self.tools,
            tool_choice: self.tool_choice,
            response_format: self.response_format,
            user: self.user,
            // The core knows whose request it is.
            cache_salt: None,
            stream,
        }))
    }

    fn check_ranges(&self, check: &mut FieldCheck) {
        let ranges = [
            ("/temperature", self.temperature, 0.0, 2.0),
            ("/top_p", self.top_p, 0.0, 1.0),
            ("/frequency_penalty", self.frequency_penalty, -2.0, 2.0),
            ("/presence_penalty", self.presence_penalty, -2.0, 2.0),
        ];
        for (pointer, value, least, most) in ranges {
            if value.is_some_and(|value| !(least..=most).contains(&value)) {
                check.refuse(pointer, format_args!("has to be between {least} and {most}"));
            }
        }
        for (pointer, value) in [
            ("/max_completion_tokens", self.max_completion_tokens),
            ("/max_tokens", self.max_tokens),
        ] {
            if value == Some(0) {
                check.refuse(pointer, "has to be at least 1");
            }
        }
    }
}

//! The body that a provider gets: the platform's request with our parameters' names made theirs.
//!
//! Messages, tools and formats are carried as the bytes they came in, so tool calls, images and
//! fields that nobody here has heard of arrive unchanged, and cost no parsing.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::settings::{MaxTokensField, Settings};

/// A request of the schema `qudao.chat.v1`.
#[derive(Debug, Deserialize)]
pub struct Asked<'a> {
    /// The provider's name of the model.
    #[serde(borrow)]
    pub model: Cow<'a, str>,
    /// The conversation.
    #[serde(borrow)]
    pub messages: &'a RawValue,
    #[serde(default, borrow)]
    params: Params<'a>,
    #[serde(default, borrow)]
    tools: Option<&'a RawValue>,
    #[serde(default, borrow)]
    tool_choice: Option<&'a RawValue>,
    #[serde(default, borrow)]
    response_format: Option<&'a RawValue>,
    #[serde(default, borrow)]
    user: Option<Cow<'a, str>>,
    /// Whether anybody reads along. Providers answer a whole reply with less work.
    #[serde(default = "yes")]
    pub stream: bool,
}

fn yes() -> bool {
    true
}

/// Numbers stay as they were written: what came as `0.7` must not leave as `0.699999988`.
#[derive(Debug, Default, Deserialize, Serialize)]
struct Params<'a> {
    #[serde(default, borrow, skip_serializing)]
    max_tokens: Option<&'a RawValue>,
    #[serde(default, borrow, skip_serializing)]
    top_k: Option<&'a RawValue>,
    #[serde(default, borrow, skip_serializing)]
    repeat_penalty: Option<&'a RawValue>,
    #[serde(default, borrow, skip_serializing)]
    stop: Option<&'a RawValue>,
    #[serde(default, borrow, skip_serializing_if = "Option::is_none")]
    temperature: Option<&'a RawValue>,
    #[serde(default, borrow, skip_serializing_if = "Option::is_none")]
    top_p: Option<&'a RawValue>,
    #[serde(default, borrow, skip_serializing_if = "Option::is_none")]
    frequency_penalty: Option<&'a RawValue>,
    #[serde(default, borrow, skip_serializing_if = "Option::is_none")]
    presence_penalty: Option<&'a RawValue>,
    #[serde(default, borrow, skip_serializing_if = "Option::is_none")]
    seed: Option<&'a RawValue>,
    #[serde(default, borrow, skip_serializing_if = "Option::is_none")]
    logprobs: Option<&'a RawValue>,
    #[serde(default, borrow, skip_serializing_if = "Option::is_none")]
    top_logprobs: Option<&'a RawValue>,
}

/// A request in the provider's words.
#[derive(Debug, Serialize)]
pub struct Body<'a> {
    model: &'a str,
    messages: &'a RawValue,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_tokens: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_completion_tokens: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stop: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_k: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    repetition_penalty: Option<&'a RawValue>,
    #[serde(flatten)]
    params: &'a Params<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tools: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_choice: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_format: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<&'a str>,
    stream: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    stream_options: Option<StreamOptions>,
}

#[derive(Debug, Serialize)]
struct StreamOptions {
    include_usage: bool,
}

impl<'a> Asked<'a> {
    /// The body for a provider with these settings.
    #[must_use]
    pub fn body(&'a self, settings: &Settings) -> Body<'a> {
        let (max_tokens, max_completion_tokens) = match settings.max_tokens_field {
            MaxTokensField::MaxTokens => (self.params.max_tokens, None),
            MaxTokensField::MaxCompletionTokens => (None, self.params.max_tokens),
        };
        let usage = self.stream && settings.stream_usage;
        Body {
            model: &self.model,
            messages: self.messages,
            max_tokens,
            max_completion_tokens,
            stop: self.params.stop.filter(|stop| stop.get() != "[]"),
            top_k: self.params.top_k.filter(|_| settings.sampling_extensions),
            repetition_penalty: self.params.repeat_penalty.filter(|_| settings.sampling_extensions),
            params: &self.params,
            tools: self.tools,
            tool_choice: self.tool_choice,
            response_format: self.response_format,
            user: self.user.as_deref(),
            stream: self.stream,
            stream_options: usage.then_some(StreamOptions { include_usage: true }),
        }
    }
}

#[cfg(test)]
mod tests;

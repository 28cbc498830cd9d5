//! The JSON of requests and of the events' payloads. It grows: readers ignore what they do not
//! know, writers leave out what is not set.

use serde::{Deserialize, Serialize};
use serde_json::Value;

mod ask;
mod media;
mod texts;

pub use ask::Ask;
pub use media::{
    Confidence, DETECT_SCHEMA, DetectRequest, Detected, Object, PicturePart, Segment,
    TRANSCRIBE_SCHEMA, TranscribeRequest,
};
pub use texts::{
    CLASSIFY_SCHEMA, Classified, ClassifyRequest, EMBED_SCHEMA, EmbedRequest, Embedded, Purpose,
    Score, Word,
};

/// Names the form of [`ChatRequest`].
pub const CHAT_SCHEMA: &str = "qudao.chat.v1";

fn chat_schema() -> String {
    CHAT_SCHEMA.to_owned()
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
const fn is_false(value: &bool) -> bool {
    !*value
}

/// Answer a conversation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChatRequest {
    /// [`CHAT_SCHEMA`].
    #[serde(default = "chat_schema")]
    pub schema: String,
    /// The model, by the name that the plugin knows it by.
    pub model: String,
    /// What was said, oldest first.
    pub messages: Vec<ChatMessage>,
    /// How to answer.
    #[serde(default)]
    pub params: ChatParams,
    /// Tools that the model may ask for, in OpenAI's form.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tools: Option<Value>,
    /// Whether and which tool, in OpenAI's form.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_choice: Option<Value>,
    /// The form of the answer, in OpenAI's form.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response_format: Option<Value>,
    /// Whom it is for, opaque; lets a provider tell abuse apart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Whose request it is, opaque and set by the platform: what a model computed for one is used
    /// again only for the same, and different ones take turns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_salt: Option<String>,
    /// False if nobody reads the answer before it is complete: a plugin may then ask its
    /// provider for the whole at once. Absent counts as true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<bool>,
}

impl ChatRequest {
    /// A request with default parameters.
    pub fn new(model: impl Into<String>, messages: Vec<ChatMessage>) -> Self {
        Self {
            schema: CHAT_SCHEMA.to_owned(),
            model: model.into(),
            messages,
            params: ChatParams::default(),
            tools: None,
            tool_choice: None,
            response_format: None,
            user: None,
            cache_salt: None,
            stream: None,
        }
    }

    /// The text of the last message of the user, or nothing.
    pub fn last_user_text(&self) -> String {
        let last = self.messages.iter().rev().find(|message| message.role == Role::User);
        last.and_then(|message| message.content.as_ref()).map(Content::to_text).unwrap_or_default()
    }
}

/// One thing that was said.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChatMessage {
    /// Who said it.
    pub role: Role,
    /// What; absent when the assistant only asked for tools.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<Content>,
    /// A name for the speaker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The tools that the assistant asked for, in OpenAI's form.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_calls: Option<Value>,
    /// Which request for a tool this answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_call_id: Option<String>,
}

impl ChatMessage {
    /// A plain message.
    pub fn text(role: Role, text: impl Into<String>) -> Self {
        Self {
            role,
            content: Some(Content::Text(text.into())),
            name: None,
            tool_calls: None,
            tool_call_id: None,
        }
    }
}

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// The persona's instructions.
    #[serde(alias = "developer")]
    System,
    /// The person.
    User,
    /// The model.
    Assistant,
    /// A tool's result.
    Tool,
}

/// Plain text, or parts such as images in OpenAI's form.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Content {
    /// Plain.
    Text(String),
    /// `{"type":"text","text":…}`, `{"type":"image_url",…}` and what else comes.
    Parts(Vec<Value>),
}

impl Content {
    /// The text, that of several parts joined by line ends; pictures are left out.
    pub fn to_text(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Parts(parts) => {
                let texts = parts.iter().filter_map(|part| part["text"].as_str());
                texts.collect::<Vec<_>>().join("\n")
            }
        }
    }
}

/// How to answer. What is absent is the model's default.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ChatParams {
    /// The longest answer, in tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<u32>,
    /// 0 always takes the likeliest token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f32>,
    /// Nucleus: the likeliest tokens whose probabilities add up to this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top_p: Option<f32>,
    /// This many of the likeliest tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top_k: Option<u32>,
    /// Divides the logits of tokens that occurred of late; 1 does nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repeat_penalty: Option<f32>,
    /// As OpenAI defines it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frequency_penalty: Option<f32>,
    /// As OpenAI defines it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub presence_penalty: Option<f32>,
    /// The same seed and request give the same answer, where the model can.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// Texts at which the answer ends; they are not part of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stop: Vec<String>,
    /// Whether to tell the tokens' probabilities.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logprobs: Option<bool>,
    /// Of how many alternatives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top_logprobs: Option<u32>,
}

/// What a request took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Tokens of the question.
    pub input_tokens: u32,
    /// Tokens of the answer.
    pub output_tokens: u32,
}

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// The model was done, or a stop text came.
    Stop,
    /// The longest answer was reached.
    Length,
    /// The model asks for a tool.
    ToolCalls,
    /// The provider withheld the rest.
    ContentFilter,
    /// The request was cancelled.
    Cancelled,
}

impl FinishReason {
    /// As it is written in an `END` event.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::ToolCalls => "tool_calls",
            Self::ContentFilter => "content_filter",
            Self::Cancelled => "cancelled",
        }
    }

    /// The reason with this text form, if there is one.
    pub fn find(text: &str) -> Option<Self> {
        [Self::Stop, Self::Length, Self::ToolCalls, Self::ContentFilter, Self::Cancelled]
            .into_iter()
            .find(|reason| reason.as_str() == text)
    }
}

/// What kind of failure it was, so that the operator knows what to do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// The provider refuses the key.
    Auth,
    /// There is no such model.
    UnknownModel,
    /// Too many requests; wait.
    RateLimited,
    /// The provider cannot be reached or is broken.
    Unavailable,
    /// The request is wrong.
    BadRequest,
    /// No answer in time.
    Timeout,
    /// The provider does not answer to this.
    ContentFilter,
    /// The queue is full.
    Overloaded,
    /// The plugin failed.
    Internal,
}

/// `extra` of an `ERROR` event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorDetail {
    /// What kind of failure.
    pub kind: ErrorKind,
    /// The provider's HTTP status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// When to try again, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
}

#[cfg(test)]
mod tests;

//! What can go wrong at a provider, sorted by what an operator does about it.

use std::time::Duration;

use async_openai::error::ApiError;
use qudao_plugin_api::{NetError, wire::ErrorKind};
use serde::Deserialize;

/// Providers write whole pages into some errors; a log line needs its beginning.
const MESSAGE_CHARS: usize = 500;

/// A failed request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// What to do about it.
    pub kind: ErrorKind,
    /// The provider's words or our own, without the key.
    pub message: String,
    /// The provider's status, when it answered.
    pub status: Option<u16>,
    /// When the provider wants to be asked again.
    pub retry_after: Option<Duration>,
    /// Whether another attempt may succeed.
    pub passing: bool,
    /// Nobody is quoted in the message, neither the provider nor a person: a log may have it.
    pub own_words: bool,
}

impl Failure {
    /// A setting that cannot be used.
    #[must_use]
    pub fn settings(message: &str) -> Self {
        Self::new(ErrorKind::BadRequest, message)
    }

    /// No answer in time; `what` names which patience ended.
    #[must_use]
    pub fn timeout(what: &str, after: Duration) -> Self {
        let message = format!("the provider was too slow: {what} after {} ms", after.as_millis());
        Self { passing: true, ..Self::new(ErrorKind::Timeout, &message) }.in_own_words()
    }

    /// The connection broke or never stood.
    #[must_use]
    pub fn unavailable(message: &str) -> Self {
        Self { passing: true, ..Self::new(ErrorKind::Unavailable, message) }
    }

    /// A request that the platform should not have sent.
    #[must_use]
    pub fn bad_request(message: &str) -> Self {
        Self::new(ErrorKind::BadRequest, message)
    }

    fn new(kind: ErrorKind, message: &str) -> Self {
        let message = message.chars().take(MESSAGE_CHARS).collect();
        Self { kind, message, status: None, retry_after: None, passing: false, own_words: false }
    }

    /// The same, with a message in which nobody is quoted.
    #[must_use]
    pub fn in_own_words(self) -> Self {
        Self { own_words: true, ..self }
    }

    /// The same with every occurrence of the key blotted out: some providers echo it.
    #[must_use]
    pub fn without(mut self, key: Option<&str>) -> Self {
        if let Some(key) = key.filter(|key| !key.is_empty()) {
            self.message = self.message.replace(key, "[key]");
        }
        self
    }
}

impl From<NetError> for Failure {
    fn from(error: NetError) -> Self {
        let (kind, message) = match error {
            NetError::Refused(why) => return Self::bad_request(&why).in_own_words(),
            NetError::ConnectTimeout(_) => {
                let message = "the provider did not accept a connection in time";
                (ErrorKind::Timeout, message.to_owned())
            }
            NetError::Unreachable(why) => {
                (ErrorKind::Unavailable, format!("the provider cannot be reached: {why}"))
            }
            NetError::Broken(why) => {
                (ErrorKind::Unavailable, format!("the connection to the provider broke: {why}"))
            }
            NetError::Stalled(why) => {
                (ErrorKind::Timeout, format!("the connection to the provider broke: {why}"))
            }
            NetError::Host(why) => return Self::new(ErrorKind::Unavailable, &why).in_own_words(),
        };
        Self { passing: true, ..Self::new(kind, &message) }.in_own_words()
    }
}

/// `{"error": {…}}`, the form of all compatible servers; some send only a text.
#[derive(Deserialize)]
struct Body {
    error: Said,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Said {
    Whole(Box<ApiError>),
    /// An error object with other types than OpenAI's, for example a number as `code`.
    Loose(serde_json::Map<String, serde_json::Value>),
    Text(String),
}

impl Said {
    fn parts(self) -> (String, String) {
        match self {
            Self::Whole(error) => {
                let marks = [error.code, error.r#type, error.param].into_iter().flatten();
                (error.message, marks.collect::<Vec<_>>().join(" "))
            }
            Self::Loose(fields) => {
                let text = |name: &str| match fields.get(name) {
                    Some(serde_json::Value::String(text)) => text.clone(),
                    Some(serde_json::Value::Null) | None => String::new(),
                    Some(other) => other.to_string(),
                };
                (text("message"), format!("{} {}", text("code"), text("type")))
            }
            Self::Text(text) => (text, String::new()),
        }
    }
}

/// Sorts a refusal by its status and the provider's code.
#[must_use]
pub fn from_reply(status: u16, body: &[u8], retry_after: Option<Duration>) -> Failure {
    let (said, marks) = match serde_json::from_slice::<Body>(body) {
        Ok(body) => body.error.parts(),
        Err(_) => (String::from_utf8_lossy(body).trim().to_owned(), String::new()),
    };
    let kind = kind(Some(status), &marks);
    let message = format!("the provider answered {status}: {said}");
    Failure {
        status: Some(status),
        retry_after,
        passing: passes(status) && !marks.contains("insufficient_quota"),
        ..Failure::new(kind, &message)
    }
}

/// Sorts an error object in the middle of a stream, where there is no status.
#[must_use]
pub fn from_stream(error: &str) -> Failure {
    let said = serde_json::from_str::<Said>(error).map(Said::parts);
    let (said, marks) = said.unwrap_or_else(|_| (error.to_owned(), String::new()));
    Failure::new(kind(None, &marks), &format!("the provider broke off the answer: {said}"))
}

fn kind(status: Option<u16>, marks: &str) -> ErrorKind {
    let marked = |mark: &str| marks.contains(mark);
    if marked("content_filter") || marked("content_policy") {
        return ErrorKind::ContentFilter;
    }
    if marked("model_not_found") {
        return ErrorKind::UnknownModel;
    }
    if marked("invalid_api_key") {
        return ErrorKind::Auth;
    }
    if marked("rate_limit") || marked("insufficient_quota") {
        return ErrorKind::RateLimited;
    }
    match status {
        Some(401 | 403) => ErrorKind::Auth,
        Some(404) => ErrorKind::UnknownModel,
        Some(408 | 504) => ErrorKind::Timeout,
        Some(429) => ErrorKind::RateLimited,
        Some(400..=499) => ErrorKind::BadRequest,
        Some(_) | None => ErrorKind::Unavailable,
    }
}

fn passes(status: u16) -> bool {
    matches!(status, 408 | 409 | 425 | 429 | 500..=599)
}

#[cfg(test)]
mod tests;

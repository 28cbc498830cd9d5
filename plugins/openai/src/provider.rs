//! One provider: sends a conversation there and hands on what comes back.

use std::{
    borrow::Cow,
    future::Future,
    time::{Duration, Instant},
};

use async_openai::config::Config as _;
use qudao_egress::Rules;
use qudao_plugin_api::{
    Answer as Response, Net, NetError,
    wire::{FinishReason, Usage},
};
use reqwest::{Url, header};
use serde_json::value::RawValue;

use crate::{
    estimate,
    events::Events,
    failure::{self, Failure},
    reply::{Counted, Delta, Reply},
    request::Asked,
    settings::Settings,
    transport::{Patience, Transport, is_whole},
};

/// When a request brings no deadline of its own.
const DEFAULT_DEADLINE: Duration = Duration::from_secs(600);
/// Between `[DONE]` and the end of the body.
const LINGER: Duration = Duration::from_millis(10);
/// A whole reply is held in memory; none that we know of comes near.
const MAX_REPLY_BYTES: usize = 32 << 20;

/// A piece of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// Text.
    Text(String),
    /// The model's thinking.
    Reasoning(String),
    /// A JSON object with fields of the delta other than text.
    Data(String),
}

/// Takes what came in one read of the network.
pub trait Output: Send {
    /// Hands the pieces on in order, waiting while the reader is slow.
    fn take(&mut self, pieces: Vec<Piece>) -> impl Future<Output = Result<(), Gone>> + Send;
}

/// Nobody waits for the rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gone;

/// Why a conversation has no (whole) answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unanswered {
    /// The provider's side.
    Failed(Failure),
    /// Ours: the reader left.
    Cancelled,
}

impl From<Failure> for Unanswered {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl From<Gone> for Unanswered {
    fn from(_: Gone) -> Self {
        Self::Cancelled
    }
}

/// How an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answered {
    /// Why the model stopped.
    pub finish_reason: FinishReason,
    /// Tokens, by the provider or by [`estimate`].
    pub usage: Usage,
    /// The provider did not count.
    pub estimated: bool,
}

/// A provider with its key and connections.
pub struct Provider {
    settings: Settings,
    key: Option<String>,
    transport: Transport,
}

impl Provider {
    /// Reads the key and checks every setting; opens no connection.
    ///
    /// # Errors
    /// Names the setting that cannot be used.
    pub fn new(settings: Settings) -> Result<Self, Failure> {
        let rules = settings.rules();
        Self::within(settings, rules.as_ref())
    }

    /// The same by given rules.
    fn within(settings: Settings, rules: Option<&Rules>) -> Result<Self, Failure> {
        if let Some(rules) = rules {
            settings.check_reach(rules)?;
        }
        let key = settings.key()?;
        let config = settings.client_config(key.as_deref())?;
        let Settings { timeouts, max_retries, .. } = &settings;
        let url = Url::parse(&config.url("/chat/completions"))
            .map_err(|error| Failure::settings(&format!("`base_url`: {error}")))?;
        let mut headers = config.headers();
        // The configuration writes the header also without a key.
        let empty = |value: &header::HeaderValue| value.as_bytes().trim_ascii() == b"Bearer";
        if key.is_none() && headers.get(header::AUTHORIZATION).is_some_and(empty) {
            headers.remove(header::AUTHORIZATION);
        }
        headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
        let headers = headers
            .iter()
            .map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec()))
            .collect();
        let public = rules.is_some();
        let transport = Transport::new(url.into(), headers, timeouts, *max_retries, public);
        Ok(Self { settings, key, transport })
    }

    /// Answers one conversation, streamed if somebody reads along. `trace` is a W3C `traceparent`
    /// for the provider, or empty.
    ///
    /// Dropping the future closes the connection to the provider at once.
    ///
    /// # Errors
    /// See [`Unanswered`].
    pub async fn chat(
        &self,
        payload: &[u8],
        deadline: Option<Instant>,
        trace: &str,
        net: &Net,
        out: &mut impl Output,
    ) -> Result<Answered, Unanswered> {
        let asked: Asked<'_> = serde_json::from_slice(payload)
            .map_err(|error| Failure::bad_request(&format!("not a chat request: {error}")))?;
        let deadline = deadline.unwrap_or_else(|| Instant::now() + DEFAULT_DEADLINE);
        let mut answer = Answer::new(asked.messages);
        let read = if asked.stream {
            self.streamed(&asked, deadline, (trace, net), &mut answer, out).await
        } else {
            self.whole(&asked, deadline, (trace, net), &mut answer, out).await
        };
        read.map_err(|unanswered| match unanswered {
            Unanswered::Failed(failure) => Unanswered::Failed(failure.without(self.key.as_deref())),
            Unanswered::Cancelled => Unanswered::Cancelled,
        })?;
        Ok(answer.close())
    }

    async fn whole(
        &self,
        asked: &Asked<'_>,
        deadline: Instant,
        (trace, net): (&str, &Net),
        answer: &mut Answer<'_>,
        out: &mut impl Output,
    ) -> Result<(), Unanswered> {
        let response = self.send(asked, (trace, net), self.patience(deadline, None)).await?;
        Self::read_whole(response, answer, out).await
    }

    async fn streamed(
        &self,
        asked: &Asked<'_>,
        deadline: Instant,
        (trace, net): (&str, &Net),
        answer: &mut Answer<'_>,
        out: &mut impl Output,
    ) -> Result<(), Unanswered> {
        let first_byte = Some(self.settings.timeouts.first_byte());
        let response = self.send(asked, (trace, net), self.patience(deadline, first_byte)).await?;
        if is_whole(&response) {
            // Some servers ignore `stream` for some models.
            return Self::read_whole(response, answer, out).await;
        }
        Self::events(response, net, answer, out).await
    }

    fn patience(&self, deadline: Instant, first_byte: Option<Duration>) -> Patience {
        Patience { deadline, first_byte, idle: self.settings.timeouts.idle() }
    }

    async fn send<'a>(
        &self,
        asked: &Asked<'_>,
        (trace, net): (&str, &'a Net),
        patience: Patience,
    ) -> Result<Response<'a>, Failure> {
        let body = serde_json::to_vec(&asked.body(&self.settings))
            .map_err(|error| Failure::bad_request(&error.to_string()))?;
        self.transport.send(net, trace, &body, patience).await
    }

    async fn read_whole(
        mut response: Response<'_>,
        answer: &mut Answer<'_>,
        out: &mut impl Output,
    ) -> Result<(), Unanswered> {
        let mut body = Vec::new();
        while let Some(bytes) = Self::read(&mut response).await? {
            if body.len() + bytes.len() > MAX_REPLY_BYTES {
                return Err(Failure::unavailable("the provider's answer has no end")
                    .in_own_words()
                    .into());
            }
            body.extend_from_slice(&bytes);
        }
        let pieces = answer.read(&body)?;
        answer.finished.ok_or_else(no_choice)?;
        Ok(out.take(pieces).await?)
    }

    async fn events(
        mut response: Response<'_>,
        net: &Net,
        answer: &mut Answer<'_>,
        out: &mut impl Output,
    ) -> Result<(), Unanswered> {
        let mut events = Events::default();
        while let Some(bytes) = Self::read(&mut response).await? {
            events
                .push(&bytes)
                .map_err(|error| Failure::unavailable(&error.to_string()).in_own_words())?;
            let mut pieces = Vec::new();
            let mut failed = None;
            let mut done = false;
            while let Some(data) = events.next_data() {
                if data == b"[DONE]" {
                    done = true;
                    break;
                }
                match answer.read(data) {
                    Ok(more) => pieces.extend(more),
                    Err(failure) => {
                        failed = Some(failure);
                        break;
                    }
                }
            }
            if !pieces.is_empty() {
                out.take(pieces).await?;
            }
            if let Some(failure) = failed {
                return Err(failure.into());
            }
            if done {
                // The end of the body is read too, or the connection could not be used again;
                // but the answer does not wait for a server that forgets to end it.
                let _ = net.within(Instant::now() + LINGER, response.chunk()).await;
                return Ok(());
            }
        }
        if answer.finished.is_some() {
            return Ok(());
        }
        Err(Failure::unavailable("the stream ended in the middle of the answer")
            .in_own_words()
            .into())
    }

    async fn read(response: &mut Response<'_>) -> Result<Option<Vec<u8>>, Failure> {
        let begun = Instant::now();
        response.chunk().await.map_err(|error| match error {
            NetError::Stalled(_) => Failure::timeout("the answer stalled", begun.elapsed()),
            other => other.into(),
        })
    }
}

/// What is known of an answer so far.
struct Answer<'a> {
    messages: &'a RawValue,
    finished: Option<FinishReason>,
    counted: Option<Counted>,
    /// Estimated tokens of the pieces; one for each at least, as providers send them.
    guessed: u32,
}

impl<'a> Answer<'a> {
    fn new(messages: &'a RawValue) -> Self {
        Self { messages, finished: None, counted: None, guessed: 0 }
    }

    /// Reads one event's data, or a whole reply.
    fn read(&mut self, json: &[u8]) -> Result<Vec<Piece>, Failure> {
        let reply: Reply<'_> = serde_json::from_slice(json)
            .map_err(|error| Failure::unavailable(&format!("the provider's event: {error}")))?;
        if let Some(error) = reply.error.filter(|error| error.get() != "null") {
            return Err(failure::from_stream(error.get()));
        }
        self.counted = reply.usage.or(self.counted);
        let mut pieces = Vec::new();
        let Some(choice) = reply.choices.into_iter().next() else { return Ok(pieces) };
        if let Some(delta) = choice.delta.or(choice.message) {
            self.split(delta, &mut pieces);
        }
        if let Some(logprobs) = choice.logprobs.filter(|logprobs| logprobs.get() != "null") {
            pieces.push(Piece::Data(format!("{{\"logprobs\":{}}}", logprobs.get())));
        }
        if let Some(reason) = choice.finish_reason {
            self.finished = Some(finish_reason(&reason));
        }
        Ok(pieces)
    }

    fn split(&mut self, delta: Delta<'_>, pieces: &mut Vec<Piece>) {
        let rest = delta.rest_json();
        let full = |text: &Cow<'_, str>| !text.is_empty();
        if let Some(text) = delta.reasoning.filter(full) {
            self.guessed = self.guessed.saturating_add(estimate::tokens(&text));
            pieces.push(Piece::Reasoning(text.into_owned()));
        }
        if let Some(text) = delta.content.filter(full) {
            self.guessed = self.guessed.saturating_add(estimate::tokens(&text));
            pieces.push(Piece::Text(text.into_owned()));
        }
        if let Some(json) = rest {
            self.guessed = self.guessed.saturating_add(estimate::tokens(&json));
            pieces.push(Piece::Data(json));
        }
    }

    fn close(self) -> Answered {
        let usage = match self.counted {
            Some(counted) => Usage {
                input_tokens: counted.prompt_tokens,
                output_tokens: counted.completion_tokens,
            },
            None => Usage {
                input_tokens: estimate::conversation(self.messages.get()),
                output_tokens: self.guessed,
            },
        };
        Answered {
            finish_reason: self.finished.unwrap_or(FinishReason::Stop),
            usage,
            estimated: self.counted.is_none(),
        }
    }
}

fn no_choice() -> Failure {
    Failure::unavailable("the provider's answer has no choice in it").in_own_words()
}

/// Providers have names of their own beside OpenAI's; an unknown one is an ordinary end.
fn finish_reason(text: &str) -> FinishReason {
    match text {
        "length" | "max_tokens" => FinishReason::Length,
        "tool_calls" | "function_call" => FinishReason::ToolCalls,
        "content_filter" | "safety" => FinishReason::ContentFilter,
        _ => FinishReason::Stop,
    }
}

#[cfg(test)]
mod tests;

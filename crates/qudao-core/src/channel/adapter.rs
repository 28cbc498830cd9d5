//! The contract of a channel's adapter. It is pure: bytes in, events and plans of requests out. Its
//! host owns sockets, TLS, retries, rates, secrets, files and metrics, so an adapter is tested on
//! bytes and cannot lose anything.

use std::time::Duration;

use http::HeaderMap;
use jiff::Timestamp;
use qudao_domain::{
    capability::Capabilities,
    message::{Media, Message},
};
use serde_json::Value;

use super::{
    config::{ChannelConfig, Manifest},
    event::Event,
    plan::{HttpPlan, Plan, RawResponse},
};

/// What is different from one messaging platform to another.
pub trait ChannelAdapter: Send + Sync + 'static {
    /// What it is called and which settings it has.
    fn manifest(&self) -> &'static Manifest;

    /// What the platform can show and do. A channel's settings may narrow it.
    fn capabilities(&self, config: &ChannelConfig) -> Capabilities;

    /// Looks at settings beyond what the manifest says of each field: one message per fault.
    ///
    /// # Errors
    /// The field's name and what is wrong with it.
    fn check(&self, _config: &ChannelConfig) -> Result<(), (&'static str, String)> {
        Ok(())
    }

    /// Reads a request that came to the channel's inbound address. It is verified before anything
    /// of it is believed, over the bytes as they came. `now` is for time windows.
    ///
    /// Everything that can be read is returned, also of a batch with a bad element: what cannot is
    /// an [`EventBody::Unknown`](super::event::EventBody::Unknown) with its raw form.
    ///
    /// # Errors
    /// [`Reject`]; nothing is stored then.
    fn verify_and_parse(
        &self,
        config: &ChannelConfig,
        request: &RawRequest,
        now: Timestamp,
    ) -> Result<Parsed, Reject>;

    /// The answer to an inbound request that carries the reply itself, for platforms that take it
    /// within the answer ([`Parsed::patience`]).
    fn passive_answer(
        &self,
        _config: &ChannelConfig,
        _request: &RawRequest,
        _out: &Outgoing<'_>,
        _now: Timestamp,
    ) -> Option<Answer> {
        None
    }

    /// The requests that send a message which was rendered for [`Self::capabilities`], in order.
    ///
    /// # Errors
    /// Why it can never be sent.
    fn render(&self, config: &ChannelConfig, out: &Outgoing<'_>) -> Result<Vec<Plan>, Failure>;

    /// What the platform's answer to a plan means.
    fn classify(&self, config: &ChannelConfig, plan: &Plan, response: &RawResponse) -> Outcome;

    /// The request for an access token that plans name by [`ACCESS_TOKEN`](super::plan::ACCESS_TOKEN),
    /// where the platform has such.
    fn token(&self, _config: &ChannelConfig) -> Option<HttpPlan> {
        None
    }

    /// Reads the answer to [`Self::token`].
    ///
    /// # Errors
    /// What the platform says is wrong, in words for the tenant.
    fn read_token(&self, _response: &RawResponse) -> Result<Token, String> {
        Err("this channel has no access tokens".to_owned())
    }

    /// The requests that try the credentials and tell the platform where to send messages, in
    /// order. None if there is nothing to try.
    fn connect(&self, _config: &ChannelConfig) -> Vec<HttpPlan> {
        Vec::new()
    }

    /// Reads the answer to a plan of [`Self::connect`]: as whom the channel speaks, if it says so.
    ///
    /// # Errors
    /// What is wrong and what to do, in words for the tenant.
    fn connected(
        &self,
        _config: &ChannelConfig,
        _plan: &HttpPlan,
        _response: &RawResponse,
    ) -> Result<Option<String>, String> {
        Ok(None)
    }

    /// The request for what has arrived since `cursor`, for platforms that are asked.
    fn poll(&self, _config: &ChannelConfig, _cursor: Option<&Value>) -> Option<HttpPlan> {
        None
    }

    /// Reads the answer to [`Self::poll`].
    ///
    /// # Errors
    /// What it means when it is none with events.
    fn polled(
        &self,
        _config: &ChannelConfig,
        _response: &RawResponse,
        _now: Timestamp,
    ) -> Result<Polled, Outcome> {
        Ok(Polled::default())
    }

    /// The request that shows "writes…" for as long as the capabilities say.
    fn typing(&self, _config: &ChannelConfig, _thread: &str) -> Option<HttpPlan> {
        None
    }

    /// The request that shows an answer as far as it has grown.
    fn preview(
        &self,
        _config: &ChannelConfig,
        _thread: &str,
        _preview: &Preview<'_>,
    ) -> Option<HttpPlan> {
        None
    }

    /// The request that must be made within seconds of an event, beside and before its turn: a
    /// pressed button's receipt, a payment's check.
    fn acknowledge(&self, _config: &ChannelConfig, _event: &Event) -> Option<HttpPlan> {
        None
    }

    /// Whether people are reached here by their telephone numbers.
    fn reaches_phones(&self) -> bool {
        false
    }

    /// As whom the channel knows a telephone number, given as digits with the country's code.
    fn phone_peer(&self, _config: &ChannelConfig, _digits: &str) -> Option<String> {
        None
    }

    /// The request that brings a code in the platform's own form for codes; `None` if the channel
    /// has none, and it is said in words.
    fn code(&self, _config: &ChannelConfig, _thread: &str, _code: &str) -> Option<Plan> {
        None
    }

    /// What a payment adds to the tenant's wallet, in micro-units of its currency, if this event is
    /// one that counts. It is added once for each charge, and taken out once for a payment that was
    /// given back.
    fn credit(&self, _config: &ChannelConfig, _event: &Event) -> Option<i64> {
        None
    }

    /// The request for a file's bytes, or for where they are.
    fn fetch(&self, _config: &ChannelConfig, _media: &Media) -> Option<HttpPlan> {
        None
    }

    /// Reads the answer to [`Self::fetch`] or to what it led to.
    fn fetched(&self, _config: &ChannelConfig, _response: &RawResponse) -> Fetched {
        Fetched::Bytes
    }
}

/// A request as it came in.
#[derive(Debug, Clone, Default)]
pub struct RawRequest {
    /// In capitals.
    pub method: String,
    /// What follows the channel's inbound address, without the first `/`.
    pub tail: String,
    /// The query string as it came.
    pub query: String,
    /// The header.
    pub headers: HeaderMap,
    /// The body as it came.
    pub body: Vec<u8>,
}

impl RawRequest {
    /// A header's text, if there is exactly one such header and it is text.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut all = self.headers.get_all(name).iter();
        let first = all.next()?;
        all.next().is_none().then(|| first.to_str().ok()).flatten()
    }

    /// A parameter of the query, decoded.
    pub fn parameter(&self, name: &str) -> Option<String> {
        let pairs = url::form_urlencoded::parse(self.query.as_bytes());
        pairs.into_iter().find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
    }
}

/// What a request holds.
#[derive(Debug, Clone)]
pub struct Parsed {
    /// In the order in which they are to be accepted.
    pub events: Vec<Event>,
    /// What is answered once all of them are durable.
    pub answer: Answer,
    /// For how long the platform waits for a reply within its answer
    /// ([`ChannelAdapter::passive_answer`]).
    pub patience: Option<Duration>,
}

impl Parsed {
    /// Events, and an empty 200 for them.
    pub fn events(events: Vec<Event>) -> Self {
        Self { events, answer: Answer::ok(), patience: None }
    }

    /// No event: a challenge, a ping.
    pub fn answer(answer: Answer) -> Self {
        Self { events: Vec::new(), answer, patience: None }
    }
}

/// An answer to a platform.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The body's media type.
    pub content_type: &'static str,
    /// The body.
    pub body: Vec<u8>,
}

impl Answer {
    /// 200 without words.
    pub fn ok() -> Self {
        Self::text("")
    }

    /// 200 with words.
    pub fn text(body: impl Into<String>) -> Self {
        let body = body.into().into_bytes();
        Self { status: 200, content_type: "text/plain; charset=utf-8", body }
    }

    /// 200 with JSON.
    pub fn json(body: &Value) -> Self {
        Self { status: 200, content_type: "application/json", body: body.to_string().into() }
    }
}

/// Why a request is not taken. Its sender learns the status alone.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Reject {
    /// 401: no signature, a wrong one, or one that is too old.
    #[error("the signature is not right: {0}")]
    Unauthorized(&'static str),
    /// 400: signed, but not what the platform sends.
    #[error("the body cannot be read: {0}")]
    Malformed(&'static str),
    /// 404: nothing is here.
    #[error("there is nothing at this address")]
    NotFound,
    /// 405.
    #[error("this method is not used here")]
    MethodNotAllowed,
    /// 503: a secret that the check needs is not set. Never "no check".
    #[error("the channel is not set up: {0} is missing")]
    NotConfigured(&'static str),
}

/// What was found by polling.
#[derive(Debug, Clone, Default)]
pub struct Polled {
    /// In order.
    pub events: Vec<Event>,
    /// Where to go on, kept once the events are durable.
    pub cursor: Option<Value>,
}

/// A message on its way out: one of those that [`qudao_domain::render::render`] made.
#[derive(Debug, Clone)]
pub struct Outgoing<'a> {
    /// The outbox's id: the same whenever it is sent again. With `piece` it is the key by which a
    /// platform may recognise a repetition.
    pub id: &'a str,
    /// Which of the outbox message's pieces, from 0.
    pub piece: u32,
    /// The channel's own id of the conversation.
    pub thread: &'a str,
    /// What to send.
    pub message: &'a Message,
    /// The message that is answered.
    pub answered: Option<Answered<'a>>,
    /// The platform's id of the message that showed this answer while it grew: the first piece takes
    /// its place where messages can be edited.
    pub preview_id: Option<&'a str>,
    /// The time.
    pub now: Timestamp,
}

/// The message that is answered, as it came.
#[derive(Debug, Clone, Copy)]
pub struct Answered<'a> {
    /// The channel's own id of it.
    pub external_id: &'a str,
    /// The event as the platform sent it.
    pub raw: &'a Value,
    /// When it was accepted.
    pub at: Timestamp,
}

/// An answer as far as it has grown.
#[derive(Debug, Clone, Copy)]
pub struct Preview<'a> {
    /// A number of this turn's own, above 0.
    pub draft: u64,
    /// Everything said so far.
    pub text: &'a str,
    /// What the first preview's answer named as the message's id.
    pub message_id: Option<&'a str>,
}

/// What a platform's answer means.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// It has the message, under this id if it says.
    Sent {
        /// The platform's id of the message.
        external_id: Option<String>,
    },
    /// These requests come in the place of the plan: an upload's next step, the same as plain text.
    Then(Vec<Plan>),
    /// Not now; after this time if the platform says.
    Retry {
        /// How long to wait at least.
        after: Option<Duration>,
        /// What it said.
        detail: String,
    },
    /// The access token is not valid any more. A new one is fetched once.
    TokenExpired,
    /// Never.
    Failed(Failure),
}

impl Outcome {
    /// Not now, and nobody said when.
    pub fn retry(detail: impl Into<String>) -> Self {
        Self::Retry { after: None, detail: detail.into() }
    }

    /// Never, for this reason.
    pub fn failed(reason: FailureReason, detail: impl Into<String>) -> Self {
        Self::Failed(Failure { reason, detail: detail.into() })
    }
}

/// Why a message can never be sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {detail}", reason.as_str())]
pub struct Failure {
    /// The kind of reason.
    pub reason: FailureReason,
    /// What the platform said.
    pub detail: String,
}

/// The kinds of reasons why a message can never be sent, as the partner protocol names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureReason {
    /// The person does not want messages: they are marked unreachable.
    Blocked,
    /// The platform's reply window has closed.
    WindowClosed,
    /// The platform cannot show this.
    Unsupported,
    /// It is too long all the same.
    TooLong,
    /// Nobody is there by this id.
    RecipientUnknown,
    /// The file was refused.
    MediaRejected,
    /// The credentials are not valid: the tenant must set them anew.
    Auth,
    /// Against the platform's rules.
    Policy,
    /// Whatever else the platform says.
    ProviderError,
    /// It is too late.
    Expired,
}

impl FailureReason {
    /// As the partner protocol writes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Blocked => "blocked",
            Self::WindowClosed => "window_closed",
            Self::Unsupported => "unsupported",
            Self::TooLong => "too_long",
            Self::RecipientUnknown => "recipient_unknown",
            Self::MediaRejected => "media_rejected",
            Self::Auth => "auth",
            Self::Policy => "policy",
            Self::ProviderError => "provider_error",
            Self::Expired => "expired",
        }
    }
}

/// An access token. Shown to nobody.
#[derive(Clone)]
pub struct Token {
    /// What stands in the place of [`ACCESS_TOKEN`](super::plan::ACCESS_TOKEN).
    pub text: String,
    /// How long it is valid.
    pub ttl: Duration,
}

/// What came of asking for a file.
#[derive(Debug, Clone)]
pub enum Fetched {
    /// The answer's body is the file.
    Bytes,
    /// This request brings it.
    Then(HttpPlan),
    /// It cannot be had, for this reason.
    Failed(String),
}

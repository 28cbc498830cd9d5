//! Requests that an adapter wants made.

use std::time::Duration;

use http::HeaderMap;
use qudao_domain::message::Media;
use serde_json::Value;

/// What stands in a plan's address and headers in the place of the access token.
pub const ACCESS_TOKEN: &str = "{access_token}";

/// The largest file that is fetched, in bytes.
const FILE_MAX: usize = 25 << 20;

/// How long a request with files may take.
const UPLOAD_TIME: Duration = Duration::from_secs(20);

/// Something to send.
#[derive(Debug, Clone, PartialEq)]
pub enum Plan {
    /// A request over HTTP.
    Http(HttpPlan),
    /// A message over SMTP.
    Mail(MailPlan),
    /// Nothing is sent: the reply waits for the platform's next question, in whose answer it goes
    /// ([`ChannelAdapter::passive_answer`](super::adapter::ChannelAdapter::passive_answer)).
    Passive,
}

/// A request over HTTP. Holds secrets: its `Debug` shows neither address nor header.
#[derive(Clone, PartialEq, Eq)]
pub struct HttpPlan {
    /// In capitals.
    pub method: &'static str,
    /// The address; may name [`ACCESS_TOKEN`].
    pub url: String,
    /// The header; values may name [`ACCESS_TOKEN`].
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
    /// In the place of the body: what the host makes of its own copies of files.
    pub upload: Option<Upload>,
    /// The request that needs to know this one's answer, such as the id of what was uploaded. The
    /// adapter puts in what the answer says and returns it as
    /// [`Outcome::Then`](super::adapter::Outcome::Then).
    pub then: Option<Box<HttpPlan>>,
    /// How long the answer may take.
    pub timeout: Duration,
    /// How many bytes of the answer are read.
    pub answer_max: usize,
    /// What the request is for, by which the adapter knows its answer.
    pub purpose: &'static str,
    /// What the adapter wants to know of it when it reads the answer. It is not sent.
    pub note: String,
}

impl std::fmt::Debug for HttpPlan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HttpPlan")
            .field("method", &self.method)
            .field("purpose", &self.purpose)
            .field("body_bytes", &self.body.len())
            .finish_non_exhaustive()
    }
}

impl HttpPlan {
    /// A request without a body.
    pub fn get(purpose: &'static str, url: impl Into<String>) -> Self {
        Self {
            method: "GET",
            url: url.into(),
            headers: Vec::new(),
            body: Vec::new(),
            upload: None,
            then: None,
            timeout: Duration::from_secs(15),
            answer_max: 1 << 20,
            purpose,
            note: String::new(),
        }
    }

    /// A request with JSON.
    pub fn post_json(purpose: &'static str, url: impl Into<String>, body: &Value) -> Self {
        let plan = Self { method: "POST", ..Self::get(purpose, url) };
        Self {
            body: body.to_string().into_bytes(),
            ..plan.header("content-type", "application/json")
        }
    }

    /// A request with a form, in which files may be.
    pub fn post_form(purpose: &'static str, url: impl Into<String>, parts: Vec<FormPart>) -> Self {
        Self { method: "POST", ..Self::get(purpose, url) }.with_upload(Upload::Form(parts))
    }

    /// A request whose body is a file.
    pub fn post_file(purpose: &'static str, url: impl Into<String>, file: OwnFile) -> Self {
        let plan = Self { method: "POST", ..Self::get(purpose, url) };
        let mime = file.mime.clone();
        plan.with_upload(Upload::Raw(Box::new(file))).header("content-type", mime)
    }

    /// With a body that is made of files.
    #[must_use]
    pub fn with_upload(self, upload: Upload) -> Self {
        Self { upload: Some(upload), ..self.within(UPLOAD_TIME) }
    }

    /// With the request that follows once this one's answer is known.
    #[must_use]
    pub fn then(self, next: Self) -> Self {
        Self { then: Some(Box::new(next)), ..self }
    }

    /// The body as JSON, with `value` at a JSON pointer. Stays as it is where nothing can stand there.
    #[must_use]
    pub fn filled(self, pointer: &str, value: Value) -> Self {
        let mut body: Value = serde_json::from_slice(&self.body).unwrap_or_default();
        let Some(place) = body.pointer_mut(pointer) else { return self };
        *place = value;
        Self { body: body.to_string().into_bytes(), ..self }
    }

    /// With another method.
    #[must_use]
    pub fn method(self, method: &'static str) -> Self {
        Self { method, ..self }
    }

    /// With one more line in the header.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// With `Authorization: Bearer`.
    #[must_use]
    pub fn bearer(self, token: &str) -> Self {
        self.header("authorization", format!("Bearer {token}"))
    }

    /// With a note for when its answer is read.
    #[must_use]
    pub fn note(self, note: impl Into<String>) -> Self {
        Self { note: note.into(), ..self }
    }

    /// For a file: as many bytes of the answer as the platform's own copies have, and the time that
    /// they take.
    #[must_use]
    pub fn file(self) -> Self {
        Self { answer_max: FILE_MAX, timeout: Duration::from_secs(60), ..self }
    }

    /// With another time limit.
    #[must_use]
    pub fn within(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }
}

/// A body that the host makes of its own copies of files. One that is not kept any more is a request
/// that cannot be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Upload {
    /// `multipart/form-data` with these parts in order; the host writes its content type.
    Form(Vec<FormPart>),
    /// The file's bytes alone.
    Raw(Box<OwnFile>),
}

/// A field of a form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FormPart {
    /// Its name.
    pub name: String,
    /// What is in it.
    pub content: FormContent,
}

/// What a field of a form holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FormContent {
    /// Words.
    Text(String),
    /// The text of JSON, and said to be.
    Json(String),
    /// A file.
    File(OwnFile),
}

impl FormPart {
    /// A field with words.
    pub fn text(name: impl Into<String>, text: impl Into<String>) -> Self {
        Self { name: name.into(), content: FormContent::Text(text.into()) }
    }

    /// A field with a file.
    pub fn file(name: impl Into<String>, file: OwnFile) -> Self {
        Self { name: name.into(), content: FormContent::File(file) }
    }
}

/// The platform's own copy of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnFile {
    /// Which.
    pub upload_id: String,
    /// What it is called there.
    pub name: String,
    /// Its media type.
    pub mime: String,
    /// Bytes.
    pub size: u64,
}

impl OwnFile {
    /// The copy of a message's file, where there is one and all of it is known: the host sees to
    /// that before it lets a message be rendered.
    pub fn of(media: &Media, stand_in: &str) -> Option<Self> {
        Some(Self {
            upload_id: media.upload_id.clone()?,
            name: media.name.clone().unwrap_or_else(|| stand_in.to_owned()),
            mime: media.mime.clone()?,
            size: media.size?,
        })
    }
}

/// A message over SMTP.
#[derive(Clone, PartialEq, Eq)]
pub struct MailPlan {
    /// The server's name or address.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// How the connection is protected.
    pub security: MailSecurity,
    /// Name and password, where the server asks for them.
    pub credentials: Option<(String, String)>,
    /// The envelope's sender.
    pub from: String,
    /// The envelope's recipients.
    pub to: Vec<String>,
    /// The whole message, as RFC 5322 writes it.
    pub message: Vec<u8>,
    /// Its `Message-ID`.
    pub message_id: String,
}

impl std::fmt::Debug for MailPlan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MailPlan").field("message_id", &self.message_id).finish_non_exhaustive()
    }
}

/// How a connection to a mail server is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MailSecurity {
    /// TLS from the first byte.
    Tls,
    /// Plain first, then TLS, or nothing is sent.
    StartTls,
    /// Not at all: for a server on the same machine.
    Plain,
}

/// A platform's answer. To a [`MailPlan`] it is the server's code as the status and its words as
/// the body.
#[derive(Debug, Clone, Default)]
pub struct RawResponse {
    /// The status.
    pub status: u16,
    /// The header.
    pub headers: HeaderMap,
    /// The body, as much as was to be read.
    pub body: Vec<u8>,
}

impl RawResponse {
    /// The body as JSON; `Null` if it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// A header's text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// Whether the status says yes.
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// The seconds of `Retry-After`, where it has some.
    pub fn retry_after(&self) -> Option<Duration> {
        self.header("retry-after")?.trim().parse().ok().map(Duration::from_secs)
    }

    /// The body's first characters, for a person who looks for the fault.
    pub fn excerpt(&self) -> String {
        let text = String::from_utf8_lossy(self.body.get(..400).unwrap_or(&self.body)).into_owned();
        format!("{} {text}", self.status)
    }
}

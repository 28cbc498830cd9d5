//! A refusal on its way to the client. Failures of the layers below become an [`ApiError`] in
//! `failure.rs`; its JSON is written in one place, `scope.rs`, where the request id is known.

use std::{borrow::Cow, fmt, time::Duration};

use actix_web::{HttpResponse, ResponseError, http::StatusCode};
use qudao_storage::Standing;
use serde::Serialize;
use utoipa::ToSchema;

use crate::code::Code;

/// One wrong field.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct FieldError {
    /// Where it is: a JSON pointer into the body.
    #[schema(example = "/name")]
    pub(crate) pointer: String,
    /// What is wrong, in words.
    #[schema(example = "must not be empty")]
    pub(crate) detail: String,
}

/// A refusal.
#[derive(Debug, Clone)]
pub(crate) struct ApiError {
    code: Code,
    detail: Cow<'static, str>,
    fields: Vec<FieldError>,
    retry_after: Option<Duration>,
    standings: Vec<Standing>,
    allow: Option<String>,
    closing: bool,
}

/// Of so many wrong fields an error's sentence tells.
const FIELDS_TOLD: usize = 5;

impl ApiError {
    /// A refusal with words for this occurrence.
    pub(crate) fn new(code: Code, detail: impl Into<Cow<'static, str>>) -> Self {
        Self {
            code,
            detail: detail.into(),
            fields: Vec::new(),
            retry_after: None,
            standings: Vec::new(),
            allow: None,
            closing: false,
        }
    }

    /// What a stranger's id and an unknown id both get.
    pub(crate) fn not_found(noun: &'static str) -> Self {
        Self::new(Code::NotFound, format!("there is no such {noun}"))
    }

    /// Wrong fields of the body.
    pub(crate) fn fields(fields: Vec<FieldError>) -> Self {
        let words =
            |field: &FieldError| format!("{} {}", display_pointer(&field.pointer), field.detail);
        let detail = match fields.as_slice() {
            [only] => words(only),
            // OpenAI's shape has no list: its readers learn of the others here.
            many => {
                let some: Vec<String> = many.iter().take(FIELDS_TOLD).map(words).collect();
                format!("{} fields are wrong: {}", many.len(), some.join("; "))
            }
        };
        Self { fields, ..Self::new(Code::ValidationFailed, detail) }
    }

    /// One wrong field of the body.
    pub(crate) fn field(pointer: impl Into<String>, detail: impl fmt::Display) -> Self {
        Self::fields(vec![FieldError { pointer: pointer.into(), detail: detail.to_string() }])
    }

    /// Says when to come back.
    #[must_use]
    pub(crate) fn retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    /// Says where the caller's allowances stand.
    #[must_use]
    pub(crate) fn standings(mut self, standings: Vec<Standing>) -> Self {
        self.standings = standings;
        self
    }

    pub(crate) fn rates(&self) -> &[Standing] {
        &self.standings
    }

    /// Says which methods the endpoint knows.
    #[must_use]
    pub(crate) fn allowing(mut self, methods: String) -> Self {
        self.allow = Some(methods);
        self
    }

    /// Ends the connection with the answer.
    #[must_use]
    pub(crate) fn closing(mut self) -> Self {
        self.closing = true;
        self
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.closing
    }

    /// The kind of refusal.
    pub(crate) fn code(&self) -> Code {
        self.code
    }

    /// What happened this time.
    pub(crate) fn detail(&self) -> &str {
        &self.detail
    }

    /// The value of the header `Retry-After`: whole seconds, at least one.
    pub(crate) fn retry_after_secs(&self) -> Option<u64> {
        self.retry_after
            .map(|wait| wait.as_millis().div_ceil(1000).try_into().unwrap_or(u64::MAX))
            .map(|seconds: u64| seconds.max(1))
    }

    pub(crate) fn allow(&self) -> Option<&str> {
        self.allow.as_deref()
    }

    /// The refusal as `application/problem+json`.
    pub(crate) fn problem<'a>(&'a self, request_id: &'a str) -> Problem<'a> {
        let row = self.code.row();
        Problem {
            kind: format!("/docs/errors#{}", row.code),
            title: row.title,
            status: row.status,
            code: row.code,
            detail: &self.detail,
            request_id,
            errors: &self.fields,
            retry_after: self.retry_after_secs(),
            retryable: matches!(row.status, 408 | 425 | 429 | 500..=599)
                || self.code == Code::IdempotencyKeyInFlight,
        }
    }

    /// The refusal in OpenAI's shape.
    pub(crate) fn openai(&self) -> OpenAiProblem<'_> {
        let form = self.code.row().openai;
        let param = self.fields.first().map(|field| openai_param(&field.pointer));
        OpenAiProblem {
            error: OpenAiErrorBody {
                message: &self.detail,
                kind: form.kind,
                param,
                code: form.code,
            },
        }
    }
}

/// The words for a pointer; the empty one means the body as a whole.
fn display_pointer(pointer: &str) -> &str {
    if pointer.is_empty() { "the body" } else { pointer }
}

/// `/messages/0/role` as OpenAI writes it: `messages[0].role`.
fn openai_param(pointer: &str) -> String {
    let mut param = String::new();
    for part in pointer.split('/').skip(1) {
        if !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()) {
            param.push_str(&format!("[{part}]"));
        } else {
            if !param.is_empty() {
                param.push('.');
            }
            param.push_str(part);
        }
    }
    param
}

/// An error as RFC 9457 writes it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Problem<'a> {
    /// Where the code is explained.
    #[serde(rename = "type")]
    #[schema(example = "/docs/errors#not_found")]
    pub(crate) kind: String,
    /// What the code is called.
    pub(crate) title: &'static str,
    /// The HTTP status.
    #[schema(example = 404)]
    pub(crate) status: u16,
    /// The stable name of the kind of refusal.
    #[schema(example = "not_found")]
    pub(crate) code: &'static str,
    /// What happened this time.
    pub(crate) detail: &'a str,
    /// Names this request in the logs.
    pub(crate) request_id: &'a str,
    /// The wrong fields, if fields are what is wrong.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub(crate) errors: &'a [FieldError],
    /// Seconds to wait before the next try.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) retry_after: Option<u64>,
    /// Whether the same request may be served another time.
    pub(crate) retryable: bool,
}

/// An error as OpenAI writes it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct OpenAiProblem<'a> {
    /// The error.
    pub(crate) error: OpenAiErrorBody<'a>,
}

/// What is in it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct OpenAiErrorBody<'a> {
    /// What happened, for a person.
    pub(crate) message: &'a str,
    /// The family of the error.
    #[serde(rename = "type")]
    pub(crate) kind: &'static str,
    /// The parameter at fault.
    pub(crate) param: Option<String>,
    /// The stable name, where OpenAI has one.
    pub(crate) code: Option<&'static str>,
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code.as_str(), self.detail)
    }
}

impl std::error::Error for ApiError {}

impl ResponseError for ApiError {
    fn status_code(&self) -> StatusCode {
        StatusCode::from_u16(self.code.row().status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// Leaves the error itself in the response; `scope.rs` writes status, headers and body.
    fn error_response(&self) -> HttpResponse {
        let mut response = HttpResponse::new(self.status_code());
        response.extensions_mut().insert(self.clone());
        response
    }
}

/// Collects what is wrong with a body, so that its sender learns all of it at once.
#[derive(Debug, Default)]
pub(crate) struct FieldCheck(Vec<FieldError>);

impl FieldCheck {
    /// Notes the failure of one field and goes on.
    pub(crate) fn take<T, E: fmt::Display>(
        &mut self,
        pointer: &str,
        parsed: Result<T, E>,
    ) -> Option<T> {
        parsed.inspect_err(|error| self.refuse(pointer, error)).ok()
    }

    /// As [`Self::take`], for a field that may be left out.
    pub(crate) fn take_optional<T, E: fmt::Display>(
        &mut self,
        pointer: &str,
        parsed: Option<Result<T, E>>,
    ) -> Option<T> {
        parsed.and_then(|parsed| self.take(pointer, parsed))
    }

    /// Notes that a field is wrong.
    pub(crate) fn refuse(&mut self, pointer: &str, detail: impl fmt::Display) {
        self.0.push(FieldError { pointer: pointer.to_owned(), detail: detail.to_string() });
    }

    /// The failures, if there were any; else whatever `build` makes.
    pub(crate) fn finish<T>(self, value: Option<T>) -> Result<T, ApiError> {
        match value {
            Some(value) if self.0.is_empty() => Ok(value),
            _ => Err(ApiError::fields(self.0)),
        }
    }
}

#[cfg(test)]
mod tests;

//! The one table of error codes. It decides status, wording and OpenAI form of every refusal, and
//! `docs/errors.md` is written from it. A code is never renamed.

use serde::Serialize;

/// How a refusal looks to a client of the OpenAI-compatible endpoints.
#[derive(Debug, Clone, Copy)]
pub struct OpenAiForm {
    /// The HTTP status.
    pub status: u16,
    /// The error's `type`.
    pub kind: &'static str,
    /// The error's `code`; OpenAI leaves it `null` for most malformed requests.
    pub code: Option<&'static str>,
}

/// One row of the table.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// The stable name.
    pub code: &'static str,
    /// The HTTP status on all endpoints that are not OpenAI-compatible.
    pub status: u16,
    /// What it is called; the same for every occurrence.
    pub title: &'static str,
    /// What the caller can do about it.
    pub remedy: &'static str,
    /// The form under the OpenAI-compatible endpoints.
    pub openai: OpenAiForm,
}

macro_rules! codes {
    ($($variant:ident = $code:literal, $status:literal, $title:literal,
       openai($ostatus:literal, $okind:literal, $ocode:expr), $remedy:literal;)+) => {
        /// A kind of refusal.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Code {
            $(#[doc = $title] $variant),+
        }

        impl Code {
            /// Every code, in the order of the table.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// What the table says about it.
            pub const fn row(self) -> Row {
                match self {
                    $(Self::$variant => Row {
                        code: $code, status: $status, title: $title, remedy: $remedy,
                        openai: OpenAiForm { status: $ostatus, kind: $okind, code: $ocode },
                    }),+
                }
            }
        }
    };
}

codes! {
    BadRequest = "bad_request", 400, "The request cannot be understood",
        openai(400, "invalid_request_error", None),
        "Look at `detail`: it names the part of the request that could not be read.";
    MalformedJson = "malformed_json", 400, "The body is not JSON",
        openai(400, "invalid_request_error", None),
        "Send one JSON value in UTF-8, nested less than 128 levels deep.";
    InvalidQuery = "invalid_query", 400, "A query parameter is unknown or wrong",
        openai(400, "invalid_request_error", None),
        "Send only the parameters that the endpoint documents. `limit` is 1 to 200.";
    InvalidCursor = "invalid_cursor", 400, "The cursor was not issued by this endpoint",
        openai(400, "invalid_request_error", None),
        "Pass `next_cursor` of the previous page unchanged, or leave it out to start anew.";
    UnsupportedVersion = "unsupported_version", 400, "The version of the protocol is not spoken here",
        openai(400, "invalid_request_error", None),
        "Send `pcp-version` with a date that `detail` names.";
    IdempotencyKeyRequired = "idempotency_key_required", 400, "Money moves only with an idempotency key",
        openai(400, "invalid_request_error", Some("idempotency_key_required")),
        "Send the header `Idempotency-Key` with 1 to 255 printable ASCII characters of your choice.";
    IdempotencyKeyInvalid = "idempotency_key_invalid", 400, "The idempotency key cannot be used",
        openai(400, "invalid_request_error", Some("idempotency_key_invalid")),
        "Send the header `Idempotency-Key` once, with 1 to 255 printable ASCII characters.";
    Unauthenticated = "unauthenticated", 401, "Credentials are missing",
        openai(401, "invalid_request_error", Some("invalid_api_key")),
        "Send `Authorization: Bearer <key>`.";
    InvalidCredentials = "invalid_credentials", 401, "The credentials are not valid",
        openai(401, "invalid_request_error", Some("invalid_api_key")),
        "The key is unknown, mistyped, expired or revoked, or is used from where it may not be; or the session is over, or the password is wrong.";
    SignatureInvalid = "signature_invalid", 401, "The event is not signed, or not by a valid key",
        openai(401, "invalid_request_error", None),
        "Sign `webhook-id.webhook-timestamp.body` over the bytes that are sent, with a valid secret and a clock that is right.";
    SecondFactorNeeded = "second_factor_needed", 401, "A code of the authenticator app is needed",
        openai(401, "invalid_request_error", None),
        "Send the same request with `code`: six digits of the app, or a recovery code.";
    InsufficientCredits = "insufficient_credits", 402, "The wallet is empty",
        openai(402, "insufficient_quota", Some("insufficient_quota")),
        "Add credits to the tenant, then send the request again. Nothing was charged or stored.";
    Forbidden = "forbidden", 403, "The credentials do not reach this far",
        openai(403, "invalid_request_error", Some("insufficient_permissions")),
        "Use a key with the scope that `detail` names.";
    OriginRefused = "origin_refused", 403, "Another web site sent this",
        openai(403, "invalid_request_error", None),
        "Open the page on this server, and let a proxy in front of it keep the header `Host`. A page with the widget has to be listed under `origins` in the channel's settings.";
    CsrfTokenInvalid = "csrf_token_invalid", 403, "The token against forged requests is missing or wrong",
        openai(403, "invalid_request_error", None),
        "Read `csrf_token` with `GET /v1/session` and send it in the header `X-CSRF-Token`.";
    NotFound = "not_found", 404, "There is no such thing",
        openai(404, "invalid_request_error", None),
        "Check the id. What belongs to another tenant is answered like what does not exist.";
    ModelNotFound = "model_not_found", 404, "There is no such model",
        openai(404, "invalid_request_error", Some("model_not_found")),
        "List the models that the key may use with `GET /v1/models`.";
    MethodNotAllowed = "method_not_allowed", 405, "The endpoint does not know this method",
        openai(405, "invalid_request_error", None),
        "The header `Allow` lists the methods of the endpoint.";
    Conflict = "conflict", 409, "It collides with what exists",
        openai(409, "invalid_request_error", None),
        "Look at `detail`, read the present state, and decide again.";
    AnotherCustomer = "another_customer", 409, "The visitor is another customer already",
        openai(409, "invalid_request_error", None),
        "Begin with a new visitor (`POST /v1/widget/{key}/token` without `visitor`) and show the token again.";
    IdReused = "id_reused", 409, "The id was used for another event",
        openai(409, "invalid_request_error", None),
        "Give each event an id of its own; repeat an event only with its own bytes.";
    EndpointUnverified = "endpoint_unverified", 409, "The endpoint did not show that it is the partner's",
        openai(409, "invalid_request_error", None),
        "Answer `endpoint.verify` with 200 and `{\"challenge\": …}`, and try again.";
    IdempotencyKeyInFlight = "idempotency_key_in_flight", 409, "A request with this idempotency key is under way",
        openai(409, "invalid_request_error", Some("idempotency_key_in_flight")),
        "Wait for as many seconds as `Retry-After` says and repeat the request: it gets the answer of the first.";
    ChannelClosed = "channel_closed", 409, "The channel takes no messages",
        openai(409, "invalid_request_error", None),
        "Open the channel or use another one.";
    BodyTooLarge = "body_too_large", 413, "The body is too large",
        openai(413, "invalid_request_error", None),
        "Send less. `detail` names the limit in bytes.";
    UnsupportedMediaType = "unsupported_media_type", 415, "The body is of a type that is not understood",
        openai(415, "invalid_request_error", None),
        "Send what `detail` names; nearly everywhere that is `Content-Type: application/json`.";
    ValidationFailed = "validation_failed", 422, "Some fields are wrong",
        openai(400, "invalid_request_error", None),
        "`errors` lists each field with what is wrong with it.";
    ReportRefused = "report_refused", 422, "The report does not lift the sandbox",
        openai(422, "invalid_request_error", None),
        "Run the conformance kit again until all is green, and sign with a key that the platform knows.";
    ContextTooLong = "context_length_exceeded", 422, "The messages do not fit the model",
        openai(400, "invalid_request_error", Some("context_length_exceeded")),
        "Shorten the messages or take a model with a larger context.";
    WrongModelKind = "wrong_model_kind", 422, "The model does something else",
        openai(400, "invalid_request_error", Some("wrong_model_kind")),
        "Take a model of the right `kind`; `GET /v1/models` tells each one's.";
    IdempotencyKeyReused = "idempotency_key_reused", 422, "The idempotency key was used for another request",
        openai(422, "invalid_request_error", Some("idempotency_key_reused")),
        "Use a new key for a new request; repeat a request only with its own body.";
    ContentFiltered = "content_filtered", 422, "The provider refused the content",
        openai(400, "invalid_request_error", Some("content_filter")),
        "Change the messages. Another model of the route may have other rules.";
    ChannelRefused = "channel_refused", 422, "The messaging platform refused the channel",
        openai(422, "invalid_request_error", None),
        "Mend what `detail` names in the channel's settings or secrets, and connect again.";
    RateLimited = "rate_limited", 429, "Too many requests",
        openai(429, "requests", Some("rate_limit_exceeded")),
        "Wait for as many seconds as `Retry-After` says.";
    HeadersTooLarge = "headers_too_large", 431, "The headers are too large",
        openai(431, "invalid_request_error", None),
        "Send fewer or shorter headers. `detail` names the limit.";
    Internal = "internal", 500, "Qudao failed",
        openai(500, "server_error", None),
        "Send the request again. If it fails again, tell the operator the `request_id`.";
    SandboxFailure = "sandbox_failure", 500, "The sandbox failed because it was asked to",
        openai(500, "server_error", None),
        "Send the event again under its id, as after any failure of a server.";
    ModelFailed = "model_failed", 502, "The model failed",
        openai(502, "server_error", Some("model_failed")),
        "Send the request again. What was not delivered is not charged.";
    ProviderMisconfigured = "provider_misconfigured", 502, "The provider refused the platform's credentials or model",
        openai(502, "server_error", Some("provider_misconfigured")),
        "The operator has to mend the settings of the plugin; the log names the reason.";
    Unavailable = "unavailable", 503, "A service that Qudao needs is away",
        openai(503, "server_error", Some("unavailable")),
        "Wait for as many seconds as `Retry-After` says.";
    ModelNotReady = "model_not_ready", 503, "The model is not ready",
        openai(503, "server_error", Some("model_not_ready")),
        "Wait for as many seconds as `Retry-After` says; `/readyz` shows the state of each model.";
    ModelUnavailable = "model_unavailable", 503, "The model failed too often and is left alone",
        openai(503, "server_error", Some("model_unavailable")),
        "Wait for as many seconds as `Retry-After` says, or name another model, or a route that lists several.";
    Overloaded = "overloaded", 503, "Too much is under way",
        openai(503, "server_error", Some("overloaded")),
        "Wait for as many seconds as `Retry-After` says.";
    Draining = "draining", 503, "This node is shutting down",
        openai(503, "server_error", Some("draining")),
        "Send the request again: another node, or this one after its restart, takes it.";
    ModelTimeout = "model_timeout", 504, "The model took too long",
        openai(504, "server_error", Some("model_timeout")),
        "Ask for fewer tokens or take a faster model.";
}

impl Code {
    /// The stable name.
    pub const fn as_str(self) -> &'static str {
        self.row().code
    }
}

impl Serialize for Code {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// The table as the Markdown page `docs/errors.md`.
pub fn reference_markdown() -> String {
    let mut page = String::from(
        "# Error codes\n\n\
         <!-- Written from crates/qudao-server/src/code.rs; change the table there. -->\n\n\
         Every refusal is `application/problem+json` (RFC 9457) with a `code` from this table, which is\n\
         never renamed, and a `request_id`. The OpenAI-compatible endpoints (`/v1/chat/completions`,\n\
         `/v1/embeddings`, `/v1/classifications`, `/v1/detections`, `/v1/audio/transcriptions`,\n\
         `/v1/models`) answer in OpenAI's shape with the status and code of the last two columns.\n\n\
         A request whose head is not HTTP/1.1 (a malformed header line, for instance) is refused with an\n\
         empty 400 before it reaches any endpoint; the connection is closed.\n\n\
         | code | status | meaning | what to do | OpenAI status | OpenAI code |\n\
         |---|---|---|---|---|---|\n",
    );
    for row in Code::ALL.iter().map(|code| code.row()) {
        let openai_code =
            row.openai.code.map_or_else(|| "null".to_owned(), |code| format!("`{code}`"));
        page.push_str(&format!(
            "| `{}` | {} | {} | {} | {} | {openai_code} |\n",
            row.code, row.status, row.title, row.remedy, row.openai.status,
        ));
    }
    page
}

/// The table as the page `/docs/errors`.
pub(crate) fn reference_html() -> String {
    let escape = |text: &str| text.replace('&', "&amp;").replace('<', "&lt;");
    let mut page = String::from(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>Qudao: error codes</title>\
         <h1>Error codes</h1><dl>",
    );
    for row in Code::ALL.iter().map(|code| code.row()) {
        let Row { code, status, title, remedy, .. } = row;
        page.push_str(&format!(
            "<dt id=\"{code}\"><code>{code}</code> ({status})<dd>{}. {}",
            escape(title),
            escape(remedy)
        ));
    }
    page.push_str("</dl></html>");
    page
}

#[cfg(test)]
mod tests;

//! What surrounds every request: its id and trace, its metrics, and the one place where a refusal
//! becomes JSON.

use std::time::Instant;

use actix_web::{
    Error, FromRequest, HttpMessage as _, HttpRequest, HttpResponse, ResponseError as _,
    body::{BoxBody, MessageBody},
    dev::{Payload, ServiceRequest, ServiceResponse},
    http::{
        StatusCode,
        header::{self, HeaderMap, HeaderName, HeaderValue},
    },
    middleware::Next,
    web,
};
use futures_util::future::{Ready, ready};
use qudao_domain::TurnId;
use qudao_telemetry::{Redacted, Span, SpanKind, Trace};
use tracing::Instrument as _;

use crate::{
    code::Code,
    error::ApiError,
    gate, meter, openai,
    rate::{self, Standings},
    shield::shield,
    state::AppState,
    widget::entrance,
};

/// The header that carries the id of a request, in and out.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const MAX_REQUEST_ID: usize = 64;

/// What names a request in logs, in other services and in errors.
#[derive(Debug, Clone)]
pub(crate) struct RequestContext {
    /// The client's own id if it sent a usable one.
    pub(crate) request_id: HeaderValue,
    /// Where in which trace it is served: a child of the client's `traceparent` if it sent one. It
    /// is handed down to the plugin.
    pub(crate) trace: Trace,
}

impl RequestContext {
    fn read(headers: &HeaderMap) -> Self {
        let request_id = headers.get(REQUEST_ID).filter(|value| is_request_id(value)).cloned();
        let trace = headers.get(TRACEPARENT).and_then(|value| value.to_str().ok());
        Self {
            request_id: request_id.unwrap_or_else(new_request_id),
            trace: trace.and_then(Trace::parse).unwrap_or_else(Trace::begin),
        }
    }

    /// The context of a request, as the middleware read it.
    pub(crate) fn of(request: &HttpRequest) -> Self {
        let found = request.extensions().get::<Self>().cloned();
        found.unwrap_or_else(|| Self::read(request.headers()))
    }

    /// The id as text; it is ASCII by construction.
    pub(crate) fn id(&self) -> &str {
        self.request_id.to_str().unwrap_or_default()
    }
}

impl FromRequest for RequestContext {
    type Error = Error;
    type Future = Ready<Result<Self, Error>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(Ok(Self::of(request)))
    }
}

/// The middleware.
pub(crate) async fn scope<B: MessageBody + 'static>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let started = Instant::now();
    let mut context = RequestContext::read(request.headers());
    let mut span = match request.path() {
        // Probes ask every few seconds, and nobody asks how that went.
        "/livez" | "/readyz" | "/metrics" => Span::silent(context.trace),
        _ => Span::remote_child("http", SpanKind::Server, context.trace),
    };
    context.trace = span.place();
    request.extensions_mut().insert(context.clone());
    // A request whose trace is recorded tells it in every log line; of the others those that failed
    // do, since a scope costs more than all else here.
    let scope = if span.is_recorded() {
        tracing::error_span!("request", trace_id = %context.trace.id())
    } else {
        tracing::Span::none()
    };
    let limits = request.app_data::<web::Data<AppState>>().map(|state| &state.settings.limits);
    let response = match limits.map_or(Ok(()), |limits| gate::check(&request, limits)) {
        Ok(()) => next.call(request).instrument(scope).await?.map_into_boxed_body(),
        Err(refusal) => request.error_response(refusal),
    };
    let mut response = match take_failure(&response) {
        Some(failure) => {
            let body = render(&failure, &context, is_openai(response.request().path()));
            log_failure(&failure, &context, response.request());
            response.into_response(body)
        }
        None => {
            let standings = response.request().extensions_mut().remove::<Standings>();
            let mut response = response;
            if let Some(Standings(standings)) = standings {
                rate::tell(response.headers_mut(), &standings);
            }
            response
        }
    };
    entrance::tell(&mut response);
    describe(&mut span, &response);
    response.headers_mut().insert(REQUEST_ID, context.request_id);
    let state = response.request().app_data::<web::Data<AppState>>().cloned();
    shield(response.headers_mut(), state.as_ref().and_then(|state| state.hsts.as_ref()));
    meter::count(&response, started);
    Ok(response)
}

/// The pattern and not the path, which has ids in it.
fn describe(span: &mut Span, response: &ServiceResponse<BoxBody>) {
    if !span.is_recorded() {
        return;
    }
    let (request, status) = (response.request(), response.status());
    let method = meter::method_label(request.method());
    if let Some(pattern) = request.match_pattern() {
        span.rename(|| format!("{method} {pattern}"));
        span.set("http.route", pattern);
    }
    span.set("http.request.method", method);
    span.set("http.response.status_code", i64::from(status.as_u16()));
    if status.is_server_error() {
        span.fail("server_error");
    }
}

/// The refusal that a handler, an extractor or actix itself left in the response.
fn take_failure<B>(response: &ServiceResponse<B>) -> Option<ApiError> {
    let inner = response.response();
    if let Some(failure) = inner.extensions().get::<ApiError>() {
        return Some(failure.clone());
    }
    let error = inner.error()?;
    let detail = error.to_string();
    Some(match inner.status() {
        StatusCode::PAYLOAD_TOO_LARGE => ApiError::new(Code::BodyTooLarge, detail),
        status if status.is_client_error() => ApiError::new(Code::BadRequest, detail),
        _ => {
            tracing::error!(error = %Redacted(&detail), "a handler failed without saying how");
            ApiError::new(Code::Internal, "the request could not be served")
        }
    })
}

/// Writes a refusal in the shape that the endpoint's clients understand.
fn render(failure: &ApiError, context: &RequestContext, openai: bool) -> HttpResponse {
    let status = if openai {
        StatusCode::from_u16(failure.code().row().openai.status).unwrap_or(failure.status_code())
    } else {
        failure.status_code()
    };
    let mut builder = HttpResponse::build(status);
    if let Some(seconds) = failure.retry_after_secs() {
        builder.insert_header((header::RETRY_AFTER, seconds.to_string()));
    }
    if openai {
        openai::rate::tell(&mut builder, failure.rates());
    }
    if status == StatusCode::UNAUTHORIZED {
        builder.insert_header((header::WWW_AUTHENTICATE, "Bearer"));
    }
    if let Some(methods) = failure.allow() {
        builder.insert_header((header::ALLOW, methods));
    }
    builder.insert_header((header::CACHE_CONTROL, "no-store"));
    if failure.is_closing() {
        builder.force_close();
    }
    let mut response = if openai {
        builder.json(failure.openai())
    } else {
        builder.content_type("application/problem+json");
        builder.body(serde_json::to_vec(&failure.problem(context.id())).unwrap_or_default())
    };
    if !openai {
        rate::tell(response.headers_mut(), failure.rates());
    }
    response
}

/// Whether the clients of this path expect OpenAI's error shape.
fn is_openai(path: &str) -> bool {
    let alike = ["/v1/models", "/v1/embeddings", "/v1/classifications", "/v1/detections"];
    let below = ["/v1/chat/", "/v1/audio/"];
    below.iter().any(|begin| path.starts_with(begin))
        || alike.contains(&path)
        || path.starts_with("/v1/models/")
}

fn log_failure(failure: &ApiError, context: &RequestContext, request: &HttpRequest) {
    let (id, trace_id, code) = (context.id(), context.trace.id(), failure.code().as_str());
    // The endpoint and not the path: a channel's key is in that one. The code and not the words:
    // they may repeat what the caller sent.
    let pattern = request.match_pattern();
    let endpoint = pattern.as_deref().unwrap_or("none");
    if failure.code().row().status < 500 {
        tracing::debug!(request_id = id, %trace_id, endpoint, code, "refused");
    } else {
        tracing::warn!(request_id = id, %trace_id, endpoint, code, "failed");
    }
}

fn is_request_id(value: &HeaderValue) -> bool {
    let plain =
        |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b':');
    (1..=MAX_REQUEST_ID).contains(&value.len()) && value.as_bytes().iter().all(plain)
}

fn new_request_id() -> HeaderValue {
    // The domain's ids sort by time, which is what a person with two log files needs.
    let id = format!("req_{}", TurnId::new().as_uuid().simple());
    HeaderValue::from_str(&id).unwrap_or_else(|_| HeaderValue::from_static("req_unknown"))
}

#[cfg(test)]
mod tests;

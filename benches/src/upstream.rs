//! A provider that is not there: speaks OpenAI's chat completions and answers by the model's name.
//!
//! | model | reply |
//! |---|---|
//! | `mock-json` or any other name | one short answer, whole or as 35 events back to back |
//! | `mock-paced` | the same, a word every 5 ms; as with real providers, the end comes at once after the last |
//! | `mock-slow` | nothing for 30 s, then the answer |
//! | `mock-tools` | a call of the tool `get_weather` |
//! | `mock-429` | rate limited, `retry-after: 1` |
//! | `mock-401`, `mock-500` | a wrong key, an outage |
//! | `mock-unknown` | the provider does not know the model |
//! | `mock-cut` | five events, then the connection breaks |
//!
//! `GET /stats` tells how many requests came, how many are still open, and what the last one said.

use std::{
    net::TcpListener,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use actix_web::{
    App, HttpRequest, HttpResponse, HttpServer, dev::Server, http::StatusCode, http::header, web,
};
use futures_util::{Stream, stream};
use serde::Deserialize;
use serde_json::{Value, json};

mod replies;

/// Between two events of `mock-paced`.
pub const PACE: Duration = Duration::from_millis(5);
/// How long `mock-slow` keeps silent.
pub const SLOW: Duration = Duration::from_secs(30);
/// Events of a streamed answer, the closing `[DONE]` among them, the usage not.
pub const EVENTS: usize = 35;

/// What the mock has seen.
#[derive(Default)]
struct Seen {
    requests: AtomicU64,
    open: AtomicU64,
    last: Mutex<Value>,
}

/// Counts a request as open for as long as it lives.
struct Open(Arc<Seen>);

impl Open {
    fn new(seen: &Arc<Seen>) -> Self {
        seen.requests.fetch_add(1, Relaxed);
        seen.open.fetch_add(1, Relaxed);
        Self(Arc::clone(seen))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Relaxed);
    }
}

#[derive(Deserialize)]
struct Asked<'a> {
    #[serde(borrow, default)]
    model: std::borrow::Cow<'a, str>,
    #[serde(default)]
    stream: bool,
    #[serde(default)]
    stream_options: StreamOptions,
}

#[derive(Deserialize, Default)]
struct StreamOptions {
    #[serde(default)]
    include_usage: bool,
}

/// Serves the mock on a bound listener; await the result to keep it running.
///
/// # Errors
/// Only when the listener cannot be used.
pub fn serve(listener: TcpListener, workers: usize) -> std::io::Result<Server> {
    let seen = Arc::new(Seen::default());
    let server = HttpServer::new(move || {
        App::new()
            .app_data(web::Data::new(Arc::clone(&seen)))
            .app_data(web::PayloadConfig::new(16 << 20))
            .route("/v1/chat/completions", web::post().to(answer))
            .route("/v1/models", web::get().to(models))
            .route("/stats", web::get().to(stats))
    })
    .workers(workers)
    .tcp_nodelay(true)
    .listen(listener)?;
    Ok(server.run())
}

async fn stats(seen: web::Data<Arc<Seen>>) -> HttpResponse {
    let last = seen.last.lock().unwrap_or_else(PoisonError::into_inner).clone();
    HttpResponse::Ok().json(json!({
        "requests": seen.requests.load(Relaxed),
        "open": seen.open.load(Relaxed),
        "last": last,
    }))
}

async fn models() -> HttpResponse {
    HttpResponse::Ok().json(json!({
        "object": "list",
        "data": [{ "id": "mock-json", "object": "model", "created": 0, "owned_by": "mock" }],
    }))
}

async fn answer(
    request: HttpRequest,
    body: web::Bytes,
    seen: web::Data<Arc<Seen>>,
) -> HttpResponse {
    let open = Open::new(&seen);
    let Ok(asked) = serde_json::from_slice::<Asked<'_>>(&body) else {
        return replies::error(StatusCode::BAD_REQUEST, "invalid_request_error", None, "not JSON");
    };
    if asked.model != "mock-json" && asked.model != "mock-paced" {
        remember(&seen, &request, &body);
    }
    match &*asked.model {
        "mock-401" => replies::wrong_key(),
        "mock-429" => replies::rate_limited(),
        "mock-500" => replies::outage(),
        "mock-unknown" => replies::unknown_model(&asked.model),
        "mock-slow" => {
            tokio::time::sleep(SLOW).await;
            finish(&asked, open, Pace::None, EVENTS)
        }
        "mock-cut" => cut(&asked, open),
        "mock-paced" => finish(&asked, open, Pace::Every(PACE), EVENTS),
        "mock-tools" if asked.stream => streamed(replies::tool_events(), open, Pace::None, false),
        "mock-tools" => HttpResponse::Ok().json(replies::tool_call()),
        _ => finish(&asked, open, Pace::None, EVENTS),
    }
}

/// Keeps the request for `/stats`; the measured models skip it, it would cost more than they do.
fn remember(seen: &Seen, request: &HttpRequest, body: &[u8]) {
    let header = |name| request.headers().get(name).and_then(|v| v.to_str().ok()).unwrap_or("");
    let last = json!({
        "authorization": header(header::AUTHORIZATION),
        "body": serde_json::from_slice::<Value>(body).unwrap_or(Value::Null),
    });
    *seen.last.lock().unwrap_or_else(PoisonError::into_inner) = last;
}

#[derive(Clone, Copy)]
enum Pace {
    None,
    Every(Duration),
}

fn finish(asked: &Asked<'_>, open: Open, pace: Pace, events: usize) -> HttpResponse {
    if !asked.stream {
        return HttpResponse::Ok().content_type("application/json").body(replies::COMPLETION);
    }
    streamed(replies::text_events(events, asked.stream_options.include_usage), open, pace, false)
}

fn cut(asked: &Asked<'_>, open: Open) -> HttpResponse {
    let mut events = replies::text_events(EVENTS, false);
    events.truncate(5);
    if asked.stream { streamed(events, open, Pace::None, true) } else { replies::outage() }
}

fn streamed(events: Vec<web::Bytes>, open: Open, pace: Pace, broken: bool) -> HttpResponse {
    HttpResponse::Ok()
        .content_type("text/event-stream")
        .insert_header((header::CACHE_CONTROL, "no-cache"))
        .streaming(written(events, open, pace, broken))
}

/// One write for each event: the body yields between two of them, so that they are not merged.
fn written(
    events: Vec<web::Bytes>,
    open: Open,
    pace: Pace,
    broken: bool,
) -> impl Stream<Item = std::io::Result<web::Bytes>> {
    stream::unfold((events.into_iter(), open, true), move |(mut left, open, first)| async move {
        let Some(event) = left.next() else {
            return broken
                .then(|| (Err(std::io::ErrorKind::BrokenPipe.into()), (left, open, false)));
        };
        match pace {
            _ if first => {}
            Pace::Every(gap) if is_text(&event) => tokio::time::sleep(gap).await,
            Pace::None | Pace::Every(_) => tokio::task::yield_now().await,
        }
        Some((Ok(event), (left, open, false)))
    })
}

fn is_text(event: &[u8]) -> bool {
    event.windows(TEXT.len()).any(|part| part == TEXT)
}

const TEXT: &[u8] = br#""content":"w"#;

#[cfg(test)]
mod tests;

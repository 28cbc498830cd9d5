//! The other ends of channels: what takes deliveries at once, and the references of the channels'
//! bench, each the least that a server on actix-web can do for the same job.

use std::{
    net::TcpListener,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use actix_web::{
    App, Error, HttpRequest, HttpResponse, HttpServer, error::ErrorInternalServerError, rt, web,
};
use actix_ws::AggregatedMessage;
use anyhow::Context as _;
use serde_json::{Value, json};

use crate::postgres::Session;

/// Threads of each, as many as the platform has on the machine that the figures are given for.
const WORKERS: usize = 2;
/// How long a connection may be idle, as with the platform: what is measured is not how one is opened.
const KEPT: Duration = Duration::from_secs(75);

/// Where messaging platforms told that they would be sent to: address and secret.
type Hooks = Mutex<Vec<(String, String)>>;

/// Takes whatever is posted, at once: as a partner's endpoint, and as far as a bot needs it as a Bot
/// API. `GET /hooks` lists the addresses that bots were given.
///
/// # Errors
/// Only when the listener cannot be used.
pub async fn run(listener: TcpListener) -> std::io::Result<()> {
    let hooks: Arc<Hooks> = Arc::default();
    HttpServer::new(move || {
        App::new()
            .app_data(web::Data::from(Arc::clone(&hooks)))
            .route("/hooks", web::get().to(listed))
            .default_service(web::to(take))
    })
    .workers(WORKERS)
    .keep_alive(KEPT)
    .client_request_timeout(Duration::ZERO)
    .tcp_nodelay(true)
    .listen(listener)?
    .run()
    .await
}

async fn listed(hooks: web::Data<Hooks>) -> HttpResponse {
    HttpResponse::Ok().json(&*hooks.lock().unwrap_or_else(PoisonError::into_inner))
}

async fn take(request: HttpRequest, body: web::Bytes, hooks: web::Data<Hooks>) -> HttpResponse {
    let Some(method) = request.path().strip_prefix("/bot").and_then(|it| it.split('/').nth(1))
    else {
        let asked = body.windows(9).any(|word| word == b"challenge");
        let asked: Value =
            asked.then(|| serde_json::from_slice(&body).ok()).flatten().unwrap_or_default();
        return match asked.pointer("/data/challenge") {
            Some(challenge) => HttpResponse::Ok().json(json!({ "challenge": challenge })),
            None => HttpResponse::Ok().json(json!({})),
        };
    };
    let result = match method {
        "getMe" => json!({ "id": 1, "is_bot": true, "first_name": "B", "username": "b_bot" }),
        "setWebhook" => {
            let told: Value = serde_json::from_slice(&body).unwrap_or_default();
            let text = |name: &str| told[name].as_str().unwrap_or_default().to_owned();
            let hook = (text("url"), text("secret_token"));
            hooks.lock().unwrap_or_else(PoisonError::into_inner).push(hook);
            json!(true)
        }
        "sendMessage" => json!({ "message_id": 1, "chat": { "id": 1 } }),
        _ => json!(true),
    };
    HttpResponse::Ok().json(json!({ "ok": true, "result": result }))
}

/// The reference of a webhook: reads the body and commits it durably as one row before it answers.
///
/// # Errors
/// Only when the listener cannot be used.
pub async fn hook(listener: TcpListener, database_url: String) -> std::io::Result<()> {
    let table = Table { database_url, idle: Mutex::default() };
    let made = table.with(|session| {
        session.query("CREATE TABLE IF NOT EXISTS public.bench_hooks (id bigserial, body text)")
    });
    made.map_err(std::io::Error::other)?;
    let table = web::Data::new(table);
    HttpServer::new(move || {
        App::new().app_data(web::Data::clone(&table)).default_service(web::to(keep))
    })
    .workers(WORKERS)
    .keep_alive(KEPT)
    .client_request_timeout(Duration::ZERO)
    .tcp_nodelay(true)
    .listen(listener)?
    .run()
    .await
}

struct Table {
    database_url: String,
    idle: Mutex<Vec<Session>>,
}

impl Table {
    fn with<T>(&self, work: impl FnOnce(&mut Session) -> anyhow::Result<T>) -> anyhow::Result<T> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut session = match idle {
            Some(session) => session,
            None => Session::connect(&self.database_url).context("the reference's database")?,
        };
        let done = work(&mut session)?;
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(session);
        Ok(done)
    }
}

async fn keep(body: web::Bytes, table: web::Data<Table>) -> Result<HttpResponse, Error> {
    let text = String::from_utf8_lossy(&body).replace('\'', "''");
    let insert = format!("INSERT INTO public.bench_hooks (body) VALUES ('{text}')");
    let kept = web::block(move || table.with(|session| session.query(&insert))).await?;
    kept.map_err(ErrorInternalServerError)?;
    Ok(HttpResponse::Ok().finish())
}

/// The reference of an open chat: says each message back.
///
/// # Errors
/// Only when the listener cannot be used.
pub async fn echo(listener: TcpListener) -> std::io::Result<()> {
    HttpServer::new(|| App::new().default_service(web::to(open)))
        .workers(WORKERS)
        .keep_alive(KEPT)
        .client_request_timeout(Duration::ZERO)
        .tcp_nodelay(true)
        .listen(listener)?
        .run()
        .await
}

async fn open(request: HttpRequest, payload: web::Payload) -> Result<HttpResponse, Error> {
    let (response, mut socket, stream) = actix_ws::handle(&request, payload)?;
    let mut stream = stream.aggregate_continuations();
    rt::spawn(async move {
        while let Some(Ok(message)) = stream.recv().await {
            let sent = match message {
                AggregatedMessage::Text(text) => socket.text(text).await,
                AggregatedMessage::Ping(bytes) => socket.pong(&bytes).await,
                AggregatedMessage::Close(_) => return,
                _ => Ok(()),
            };
            if sent.is_err() {
                return;
            }
        }
    });
    Ok(response)
}

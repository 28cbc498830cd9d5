//! The fake platform, which delivers messages until they are acknowledged and sometimes twice,
//! and the callers of the API.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Context as _;
use futures_util::StreamExt as _;
use qudao_domain::key::random_secret;
use qudao_testkit::TestTenant;
use reqwest::{Client, Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use tokio::time;

use crate::{
    node::Doors,
    plan::OPERATOR,
    record::{Record, Seen},
};

/// How long one request may take: a frozen node must not keep a sender for ever.
const PATIENCE: Duration = Duration::from_secs(5);
/// The wait before a message is delivered again that was not acknowledged.
const AGAIN: Duration = Duration::from_millis(50);

/// What no node says whatever becomes of it: the check itself asks for the wrong thing.
const MISTAKES: [StatusCode; 4] = [
    StatusCode::BAD_REQUEST,
    StatusCode::UNAUTHORIZED,
    StatusCode::NOT_FOUND,
    StatusCode::UNPROCESSABLE_ENTITY,
];

/// Somebody who writes on the web chat of a tenant.
#[derive(Debug, Clone)]
pub struct Visitor {
    token: String,
    public_key: String,
}

impl Visitor {
    /// A new one.
    pub fn of(tenant: &TestTenant) -> Self {
        Self { token: format!("vt_{}", random_secret()), public_key: tenant.public_key.clone() }
    }

    /// What the chat page keeps of them.
    pub(crate) fn token(&self) -> &str {
        &self.token
    }

    /// The chat that they write on.
    pub(crate) fn public_key(&self) -> &str {
        &self.public_key
    }
}

/// What became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// It was acknowledged.
    Acknowledged,
    /// It was refused for want of credits.
    Refused,
    /// Nobody acknowledged it in time.
    Unheard,
}

/// The senders' side of a run.
#[derive(Debug, Clone)]
pub struct Platform {
    http: Client,
    doors: Doors,
    record: Record,
    turn: Arc<AtomicUsize>,
}

impl Platform {
    /// Sends to whichever node lives.
    ///
    /// # Errors
    /// If the client cannot be made.
    pub fn new(doors: Doors, record: Record) -> anyhow::Result<Self> {
        let http = Client::builder()
            .no_proxy()
            .tcp_nodelay(true)
            // Each request may meet another node.
            .pool_max_idle_per_host(0)
            .timeout(PATIENCE)
            .build()
            .context("making the platform's client")?;
        Ok(Self { http, doors, record, turn: Arc::default() })
    }

    /// Delivers a message again and again until it is acknowledged.
    ///
    /// # Errors
    /// If the record cannot be written.
    pub async fn deliver(
        &self,
        visitor: &Visitor,
        id: &str,
        text: &str,
        patience: Duration,
    ) -> anyhow::Result<Sent> {
        let path = format!("v1/web/{}/messages", visitor.public_key);
        self.ring(id, patience, |http, door| {
            http.post(format!("http://{door}/{path}"))
                .bearer_auth(&visitor.token)
                .json(&json!({ "id": id, "text": text }))
        })
        .await
    }

    /// Makes a request again and again, of one node after the other, until the message `id` in it is
    /// acknowledged.
    ///
    /// # Errors
    /// If the record cannot be written.
    pub async fn ring(
        &self,
        id: &str,
        patience: Duration,
        request: impl Fn(&Client, SocketAddr) -> RequestBuilder,
    ) -> anyhow::Result<Sent> {
        let until = Instant::now() + patience;
        while Instant::now() < until {
            let status = match self.door() {
                Some(door) => request(&self.http, door).send().await.map(|it| it.status()).ok(),
                None => None,
            };
            match status {
                Some(status) if status.is_success() => {
                    self.record.add(Seen::Acknowledged { id: id.to_owned() })?;
                    return Ok(Sent::Acknowledged);
                }
                Some(StatusCode::PAYMENT_REQUIRED) => return Ok(Sent::Refused),
                Some(status) if MISTAKES.contains(&status) => {
                    anyhow::bail!("a request of the check is answered with {status}")
                }
                _ => time::sleep(AGAIN).await,
            }
        }
        Ok(Sent::Unheard)
    }

    /// Asks a node for something that is to be there before anything goes wrong.
    ///
    /// # Errors
    /// If it refuses.
    pub async fn ask(
        &self,
        (method, path): (Method, &str),
        key: &str,
        body: Option<&Value>,
    ) -> anyhow::Result<Value> {
        let door = self.door().context("a node that serves")?;
        let mut request =
            self.http.request(method, format!("http://{door}{path}")).bearer_auth(key);
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = request.send().await?;
        let status = response.status();
        let said = response.text().await?;
        anyhow::ensure!(status.is_success(), "{path}: {status} {said}");
        Ok(serde_json::from_str(&said).unwrap_or_default())
    }

    /// Makes one call of the API and reads it to its end. Whether it came.
    ///
    /// # Errors
    /// If the record cannot be written.
    pub async fn call(&self, tenant: &TestTenant, max_tokens: u32) -> anyhow::Result<bool> {
        let name = tenant.id.as_uuid().to_string();
        self.record.add(Seen::Called { tenant: name.clone() })?;
        let Some(response) = self.begin_call(tenant, "fake", "two words", max_tokens).await else {
            return Ok(false);
        };
        let mut body = response.bytes_stream();
        let mut text = Vec::new();
        while let Some(Ok(piece)) = body.next().await {
            text.extend_from_slice(&piece);
            if text.ends_with(b"data: [DONE]\n\n") {
                self.record.add(Seen::Confirmed { tenant: name })?;
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Opens a call of the API, for a caller who may hang up.
    pub async fn begin_call(
        &self,
        tenant: &TestTenant,
        model: &str,
        text: &str,
        max_tokens: u32,
    ) -> Option<reqwest::Response> {
        let request = self
            .http
            .post(format!("http://{}/v1/chat/completions", self.door()?))
            .bearer_auth(tenant.api_key.reveal())
            .json(&json!({
                "model": model, "stream": true, "max_tokens": max_tokens,
                "messages": [{ "role": "user", "content": text }],
            }));
        let response = request.send().await.ok()?;
        response.status().is_success().then_some(response)
    }

    /// Lets a plugin that crashed too often serve again.
    pub async fn lift_quarantine(&self, plugin: &str) {
        let Some(door) = self.door() else { return };
        let path = format!("http://{door}/v1/plugins/{plugin}/lift-quarantine");
        // There may be none to lift.
        let _ = self.http.post(path).bearer_auth(OPERATOR).send().await;
    }

    /// The next node that serves.
    pub(crate) fn door(&self) -> Option<SocketAddr> {
        self.doors.pick(self.turn.fetch_add(1, Ordering::Relaxed))
    }
}

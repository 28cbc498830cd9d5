//! The kit as a partner, against a platform: it posts events, and is the endpoint to which the
//! platform delivers.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, ensure as ensure_that};
use jiff::Timestamp;
use qudao_pcp::{Conversation, Event, Secret, Sender, Signed, Verifier, header};
use reqwest::Client;
use serde_json::{Value, json};
use tokio::{net::TcpListener, time::Instant};

use crate::{
    case::{Miss, Verdict, failed},
    client::{Answer, Keys, Made, answer, client, post},
    http::{Reply, Request, serve},
};

mod rich;
mod security;
mod text;

/// What the kit has to know of a platform.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where the platform is.
    pub base: String,
    /// The tenant.
    pub tenant: String,
    /// A key of the tenant that may change channels: it sets the endpoint.
    pub api_key: String,
    /// The channel's keys.
    pub keys: Keys,
    /// Longer than the platform waits for an endpoint.
    pub silence: Duration,
}

/// The kit as a partner.
#[derive(Clone)]
pub struct Partner {
    config: Config,
    client: Client,
    endpoint: Arc<Endpoint>,
    url: String,
}

/// What the endpoint got.
#[derive(Debug, Clone)]
struct Got {
    at: Instant,
    id: String,
    replay: bool,
    event: Value,
    verified: bool,
}

/// What the endpoint answers once.
#[derive(Debug, Clone, Default)]
struct Plan {
    status: u16,
    header: Option<(&'static str, String)>,
    delay: Duration,
}

#[derive(Default)]
struct Endpoint {
    got: Mutex<Vec<Got>>,
    plans: Mutex<HashMap<String, VecDeque<Plan>>>,
    secrets: Mutex<Vec<Secret>>,
    lies: AtomicBool,
    stolen: AtomicUsize,
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Endpoint {
    /// Believes a new secret beside those before.
    fn know(&self, secret: &Secret) {
        let mut secrets = held(&self.secrets);
        secrets.insert(0, secret.clone());
        secrets.truncate(4);
    }

    fn answer(&self, request: &Request) -> Reply {
        if request.path != "/pcp" {
            self.stolen.fetch_add(1, Ordering::SeqCst);
            return Reply::status(200);
        }
        let event: Value = serde_json::from_slice(&request.body).unwrap_or_default();
        if event["type"] == "endpoint.verify" {
            let lie = self.lies.load(Ordering::SeqCst);
            let challenge = if lie { json!("a lie") } else { event["data"]["challenge"].clone() };
            return Reply::json(200, &json!({ "challenge": challenge }));
        }
        let verifier = Verifier { secrets: held(&self.secrets).clone(), ..Verifier::default() };
        let signed = Signed {
            id: request.header(header::ID),
            timestamp: request.header(header::TIMESTAMP),
            signature: request.header(header::SIGNATURE),
        };
        let verified = verifier.verify(signed, &request.body, Timestamp::now()).is_ok();
        let room = room_of(&event).to_owned();
        held(&self.got).push(Got {
            at: Instant::now(),
            id: request.header(header::ID).to_owned(),
            replay: request.header(header::REPLAY) == "1",
            event: event.clone(),
            verified,
        });
        let plan = match event["seq"].is_i64() {
            true => held(&self.plans).get_mut(&room).and_then(VecDeque::pop_front),
            false => None,
        };
        let sent = json!({ "status": "sent", "external_message_id": format!("x-{}", request.header(header::ID)) });
        let Some(plan) = plan else { return Reply::json(200, &sent) };
        let mut reply =
            if plan.status == 200 { Reply::json(200, &sent) } else { Reply::status(plan.status) };
        reply.headers.extend(plan.header.map(|(name, value)| (name.to_owned(), value)));
        Reply { delay: plan.delay, ..reply }
    }
}

fn room_of(event: &Value) -> &str {
    event["conversation"]["external_id"].as_str().unwrap_or_default()
}

/// The words of a message's parts.
fn words(event: &Value) -> String {
    let parts = event["data"]["message"]["parts"].as_array().into_iter().flatten();
    let texts = parts.filter_map(|part| part["text"].as_str());
    texts.collect::<Vec<_>>().join("\n")
}

impl Partner {
    /// Opens an endpoint on this machine, enters it, and shows that it is ours.
    ///
    /// # Errors
    /// When the platform takes no endpoint on this machine, or does not answer.
    pub async fn start(config: Config) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}/pcp", listener.local_addr()?);
        let endpoint = Arc::new(Endpoint::default());
        held(&endpoint.secrets).clone_from(&config.keys.secrets);
        let answering = Arc::clone(&endpoint);
        let handler = move |request: Request| {
            let reply = answering.answer(&request);
            Box::pin(async move { reply }) as std::pin::Pin<Box<dyn Future<Output = Reply> + Send>>
        };
        serve(listener, Arc::new(handler));
        let partner = Self { config, client: client()?, endpoint, url };
        partner.enter().await?;
        partner.declare(&partner.capabilities()).await?;
        Ok(partner)
    }

    /// The secret that signs from now on: the cases rotate it.
    pub fn newest_secret(&self) -> Option<String> {
        held(&self.endpoint.secrets).first().map(Secret::reveal)
    }

    /// Runs one case.
    ///
    /// # Errors
    /// Why it did not pass.
    pub async fn run(&self, id: &str) -> Verdict {
        match id.split_at(1) {
            ("S", _) => self.security(id).await,
            ("T", _) => self.text(id).await,
            _ => self.rich(id).await,
        }
    }

    async fn enter(&self) -> Result<()> {
        let Config { base, tenant, api_key, keys, .. } = &self.config;
        let to = json!({
            "endpoint_url": self.url,
            "transport": "webhook",
            "public_key": keys.private.public().to_string(),
        });
        let path = format!("{base}/v1/tenants/{tenant}/channels/{}/partner-endpoint", keys.channel);
        let request = self.client.put(path).bearer_auth(api_key).json(&to);
        let set = answer(request).await.context("entering the endpoint")?;
        ensure_that!(
            set.is_yes(),
            "the platform does not take {}: {} {}",
            self.url,
            set.status,
            set.json()
        );
        // What a channel is set to is known on every node within a second.
        tokio::time::sleep(Duration::from_millis(1100)).await;
        let verified = self.ask("POST", "endpoint:verify", None).await?;
        ensure_that!(verified.is_yes(), "the endpoint is not verified: {}", verified.json());
        Ok(())
    }

    fn capabilities(&self) -> Value {
        json!({
            "text": { "max": 200, "unit": "utf16" },
            "media": { "image": {}, "file": {} },
            "buttons": { "level": "native", "max": 3, "label_max": 20 },
            "list": { "level": "degrade" },
            "reply_to": "native",
            "typing": { "level": "native", "ttl_s": 7 },
            "receipts": ["sent", "delivered", "read"],
        })
    }

    async fn declare(&self, capabilities: &Value) -> Result<()> {
        let declared = self.ask("PUT", "capabilities", Some(capabilities)).await?;
        ensure_that!(declared.is_yes(), "the capabilities are refused: {}", declared.json());
        Ok(())
    }

    fn path(&self, path: &str) -> String {
        format!("{}/v1/pcp/channels/{}/{path}", self.config.base, self.config.keys.channel)
    }

    /// A request with the bearer key alone.
    async fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Answer> {
        let method = method.parse().context("a method")?;
        let request = self.client.request(method, self.path(path));
        let request = request.bearer_auth(&self.config.keys.bearer);
        let request = match body {
            Some(body) => request.json(body),
            None => request,
        };
        answer(request).await.with_context(|| path.to_owned())
    }

    /// The keys as they are now.
    fn keys(&self) -> Keys {
        Keys { secrets: held(&self.endpoint.secrets).clone(), ..self.config.keys.clone() }
    }

    /// Posts an event, again if it is told to wait.
    async fn report(&self, event: &Event, made: &Made, query: &str) -> Result<Answer, Miss> {
        loop {
            let url = self.path(&format!("events{query}"));
            let answer = post(&self.client, &url, &self.keys(), event, made).await?;
            if answer.status != 429 {
                return Ok(answer);
            }
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    }

    /// Says something in a room, well signed, and it has to be taken.
    async fn say(&self, room: &str, text: &str) -> Result<Event, Miss> {
        let event = message(room, text);
        let made = Made::well(&self.keys());
        let answer = self.report(&event, &made, "").await?;
        if answer.is_yes() {
            return Ok(event);
        }
        failed(format!("{text:?} was answered with {} {}", answer.status, answer.json()))
    }

    /// What the endpoint got of a room, once that is as wanted.
    async fn wait(
        &self,
        room: &str,
        what: &str,
        wanted: impl Fn(&[Got]) -> bool,
    ) -> Result<Vec<Got>, Miss> {
        let until = Instant::now() + Duration::from_secs(30);
        loop {
            let got = self.got(room);
            if wanted(&got) {
                return Ok(got);
            }
            if until <= Instant::now() {
                let seen: Vec<_> = got
                    .iter()
                    .map(|got| format!("{} {:?}", got.event["type"], words(&got.event)))
                    .collect();
                return failed(format!("{what} did not come; the endpoint got {seen:?}"));
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
    }

    fn got(&self, room: &str) -> Vec<Got> {
        let got = held(&self.endpoint.got);
        got.iter().filter(|got| room_of(&got.event) == room).cloned().collect()
    }

    /// The messages of a room by the place of their first arrival.
    async fn messages(&self, room: &str, count: usize) -> Result<Vec<Got>, Miss> {
        let what = format!("{count} signed messages");
        let got = self.wait(room, &what, |got| count <= first_arrivals(got).len()).await?;
        Ok(first_arrivals(&got))
    }

    fn plan(&self, room: &str, plans: Vec<Plan>) {
        held(&self.endpoint.plans).insert(room.to_owned(), plans.into());
    }
}

/// Verified messages, each once.
fn first_arrivals(got: &[Got]) -> Vec<Got> {
    let mut seen = Vec::new();
    let mut kept = Vec::new();
    for one in got.iter().filter(|one| one.verified && one.event["type"] == "message.created") {
        if !seen.contains(&&one.id) {
            seen.push(&one.id);
            kept.push(one.clone());
        }
    }
    kept
}

/// A name that nobody used before.
fn room(case: &str) -> String {
    let id = qudao_pcp::EventId::generate();
    format!("conform-{case}-{}", &id.as_str()[4..16])
}

fn event(room: &str, kind: &str, data: Value) -> Event {
    Event {
        conversation: Some(Conversation { external_id: room.to_owned(), ..Default::default() }),
        sender: Some(Sender { external_id: "kit".to_owned(), ..Default::default() }),
        ..Event::new(kind, Timestamp::now(), data)
    }
}

fn parts(room: &str, parts: &Value) -> Event {
    let mut made = event(room, "message.created", Value::Null);
    made.data = json!({ "message": { "external_id": format!("m-{}", made.id), "parts": parts } });
    made
}

fn message(room: &str, text: &str) -> Event {
    parts(room, &json!([{ "type": "text", "text": text }]))
}

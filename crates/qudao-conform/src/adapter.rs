//! The kit as the platform, against an adapter. It sees what the adapter shows by the *mirror*: of a
//! conversation whose id begins with `conform-` the adapter sends back, as a person's message, what
//! it would show, and presses the first button.

use std::{
    collections::{HashMap, VecDeque},
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result};
use jiff::{SignedDuration, Timestamp};
use qudao_pcp::{Conversation, Event, EventId, Signed, Verifier, header};
use reqwest::Client;
use serde_json::{Value, json};
use tokio::{net::TcpListener, time::Instant};

use crate::{
    case::{Miss, Verdict, ensure, failed},
    client::{Answer, Keys, Made, client, post},
    http::{Reply, Request, serve},
};

mod rich;
mod security;
mod text;

/// What the kit has to know of an adapter.
#[derive(Debug, Clone)]
pub struct Config {
    /// The adapter's endpoint.
    pub url: String,
    /// Where the adapter finds the kit in the platform's place.
    pub listen: SocketAddr,
    /// What both know; two secrets.
    pub keys: Keys,
    /// Longer than the adapter waits for the platform.
    pub silence: Duration,
}

/// The kit as the platform.
#[derive(Clone)]
pub struct Platform {
    config: Config,
    client: Client,
    door: Arc<Door>,
    base: String,
}

/// What the adapter reported.
#[derive(Debug, Clone)]
struct Heard {
    at: Instant,
    id: String,
    event: Value,
    verified: bool,
}

#[derive(Debug, Clone, Default)]
struct Plan {
    status: u16,
    header: Option<(&'static str, String)>,
    delay: Duration,
}

struct Door {
    keys: Keys,
    heard: Mutex<Vec<Heard>>,
    plans: Mutex<HashMap<String, VecDeque<Plan>>>,
    stolen: AtomicUsize,
    renewed: AtomicUsize,
    seq: AtomicI64,
    base: Mutex<String>,
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Door {
    fn answer(&self, request: &Request) -> Reply {
        let path = request.path.split('?').next().unwrap_or_default();
        let channel = format!("/v1/pcp/channels/{}/", self.keys.channel);
        let bearer = format!("Bearer {}", self.keys.bearer);
        match path.strip_prefix(&channel) {
            _ if path == "/media/stale" => Reply::status(403),
            _ if path.starts_with("/media/") => {
                Reply { body: rich::PICTURE.to_vec(), ..Reply::status(200) }
                    .header("content-type", "image/png")
            }
            Some(_) if request.header("authorization") != bearer => Reply::status(401),
            Some("events") if request.method == "POST" => self.event(request),
            Some("capabilities") => Reply::json(200, &json!({})),
            Some(rest) if rest.starts_with("media/") => {
                self.renewed.fetch_add(1, Ordering::SeqCst);
                let url = format!("{}/media/fresh", held(&self.base));
                Reply::json(200, &json!({ "url": url }))
            }
            _ => {
                self.stolen.fetch_add(1, Ordering::SeqCst);
                Reply::status(404)
            }
        }
    }

    fn event(&self, request: &Request) -> Reply {
        let event: Value = serde_json::from_slice(&request.body).unwrap_or_default();
        let public_keys = vec![self.keys.private.public()];
        let verifier = Verifier { secrets: self.keys.secrets.clone(), public_keys };
        let signed = Signed {
            id: request.header(header::ID),
            timestamp: request.header(header::TIMESTAMP),
            signature: request.header(header::SIGNATURE),
        };
        let verified = verifier.verify(signed, &request.body, Timestamp::now()).is_ok();
        let room = room_of(&event).to_owned();
        let id = request.header(header::ID).to_owned();
        let duplicate = held(&self.heard).iter().any(|heard| heard.id == id);
        let (at, kind) = (Instant::now(), event["type"].clone());
        held(&self.heard).push(Heard { at, id: id.clone(), event, verified });
        if !verified {
            return Reply::status(401);
        }
        let plan = match kind == "message.created" {
            true => held(&self.plans).get_mut(&room).and_then(VecDeque::pop_front),
            false => None,
        };
        let body = json!({ "event_id": id, "duplicate": duplicate });
        let taken = Reply::json(if duplicate { 200 } else { 202 }, &body);
        let Some(plan) = plan else { return taken };
        let mut reply = if plan.status == 202 { taken } else { Reply::status(plan.status) };
        reply.headers.extend(plan.header.map(|(name, value)| (name.to_owned(), value)));
        Reply { delay: plan.delay, ..reply }
    }
}

fn room_of(event: &Value) -> &str {
    event["conversation"]["external_id"].as_str().unwrap_or_default()
}

fn words(event: &Value) -> String {
    let parts = event["data"]["message"]["parts"].as_array().into_iter().flatten();
    let texts = parts.filter_map(|part| part["text"].as_str());
    texts.collect::<Vec<_>>().join("\n")
}

impl Platform {
    /// Listens in the platform's place.
    ///
    /// # Errors
    /// When it cannot.
    pub async fn start(config: Config) -> Result<Self> {
        let listener = TcpListener::bind(config.listen).await.context("listening")?;
        let base = format!("http://{}", listener.local_addr()?);
        let door = Arc::new(Door {
            keys: config.keys.clone(),
            heard: Mutex::default(),
            plans: Mutex::default(),
            stolen: AtomicUsize::new(0),
            renewed: AtomicUsize::new(0),
            seq: AtomicI64::new(0),
            base: Mutex::new(base.clone()),
        });
        let answering = Arc::clone(&door);
        let handler = move |request: Request| {
            let reply = answering.answer(&request);
            Box::pin(async move { reply }) as std::pin::Pin<Box<dyn Future<Output = Reply> + Send>>
        };
        serve(listener, Arc::new(handler));
        Ok(Self { config, client: client()?, door, base })
    }

    /// Waits until the adapter listens, for a while.
    ///
    /// # Errors
    /// When nothing does.
    pub async fn wait_for_adapter(&self) -> Result<()> {
        let until = Instant::now() + Duration::from_secs(20);
        loop {
            match self.client.get(&self.config.url).send().await {
                Err(error) if error.is_connect() && Instant::now() < until => {
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
                Err(error) if error.is_connect() => {
                    return Err(error).context("nothing listens at the adapter's address");
                }
                _ => return Ok(()),
            }
        }
    }

    /// Where it listens.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// Where the adapter is, if that was not known at the start.
    pub fn set_url(&mut self, url: String) {
        self.config.url = url;
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

    async fn send(&self, event: &Event, made: &Made) -> Result<Answer, Miss> {
        Ok(post(&self.client, &self.config.url, &self.config.keys, event, made).await?)
    }

    /// Sends a well signed event, which has to be taken.
    async fn deliver(&self, event: &Event) -> Verdict {
        let answer = self.send(event, &Made::well(&self.config.keys)).await?;
        let status = answer.status;
        ensure(answer.is_yes(), || format!("{} is answered with {status}", event.kind))
    }

    async fn say(&self, room: &str, text: &str) -> Result<Event, Miss> {
        let event = self.message(room, &json!([{ "type": "text", "text": text }]));
        self.deliver(&event).await?;
        Ok(event)
    }

    fn message(&self, room: &str, parts: &Value) -> Event {
        let seq = self.door.seq.fetch_add(1, Ordering::SeqCst) + 1;
        let id = EventId::generate();
        let message_id = id.as_str().replacen("evt_", "msg_", 1);
        let data = json!({
            "turn": { "id": message_id, "index": 0, "final": true },
            "message": {
                "id": message_id, "role": "assistant", "idempotency_key": message_id, "parts": parts,
            },
        });
        let later = Timestamp::now().saturating_add(SignedDuration::from_hours(24)).ok();
        Event { id, seq: Some(seq), expires_at: later, ..self.event(room, "message.created", data) }
    }

    fn event(&self, room: &str, kind: &str, data: Value) -> Event {
        Event {
            tenant: Some("ten_conform".to_owned()),
            channel: Some(self.config.keys.channel.clone()),
            conversation: Some(Conversation {
                external_id: room.to_owned(),
                ..Conversation::default()
            }),
            ..Event::new(kind, Timestamp::now(), data)
        }
    }

    fn heard(&self, room: &str) -> Vec<Heard> {
        let heard = held(&self.door.heard);
        heard.iter().filter(|heard| room_of(&heard.event) == room).cloned().collect()
    }

    async fn wait(
        &self,
        room: &str,
        what: &str,
        wanted: impl Fn(&[Heard]) -> bool,
    ) -> Result<Vec<Heard>, Miss> {
        let until = Instant::now() + Duration::from_secs(20);
        loop {
            let heard = self.heard(room);
            if wanted(&heard) {
                return Ok(heard);
            }
            if until <= Instant::now() {
                let seen: Vec<_> = heard
                    .iter()
                    .map(|heard| format!("{} {:?}", heard.event["type"], words(&heard.event)))
                    .collect();
                return failed(format!("{what} did not come; the adapter reported {seen:?}"));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// What the adapter shows in a room: so many messages, each once, in order.
    async fn mirror(&self, room: &str, count: usize) -> Result<Vec<Heard>, Miss> {
        let what = format!("a mirror of {count} messages");
        let heard = self.wait(room, &what, |heard| count <= shown(heard).len()).await?;
        Ok(shown(&heard))
    }

    fn plan(&self, room: &str, plans: Vec<Plan>) {
        held(&self.door.plans).insert(room.to_owned(), plans.into());
    }
}

fn shown(heard: &[Heard]) -> Vec<Heard> {
    let mut kept: Vec<Heard> = Vec::new();
    for one in heard.iter().filter(|one| one.verified && one.event["type"] == "message.created") {
        if !kept.iter().any(|known| known.id == one.id) {
            kept.push(one.clone());
        }
    }
    kept
}

fn room(case: &str) -> String {
    format!("conform-{case}-{}", &EventId::generate().as_str()[4..16])
}

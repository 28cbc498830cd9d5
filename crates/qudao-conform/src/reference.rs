//! A whole adapter, as an example and as what the kit is tried with: it has no platform behind it,
//! it shows by the mirror alone. Told the name of a case, it misbehaves in just that.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::Result;
use jiff::Timestamp;
use qudao_domain::message::Part;
use qudao_pcp::{Conversation, Event, EventId, Sender, Signed, Verifier, header, read_part};
use reqwest::Client;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::{net::TcpListener, sync::mpsc};

use crate::{
    client::{Answer, Keys, Made, answer, post},
    http::{Reply, Request, serve},
};

/// How long the adapter waits for the platform.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// Between two edits that are shown.
const EDIT_EVERY: Duration = Duration::from_secs(1);

/// An adapter.
pub struct Reference {
    platform: String,
    keys: Keys,
    fault: String,
    client: Client,
    /// Events that were taken, by the hash of their bytes.
    seen: Mutex<HashMap<String, [u8; 32]>>,
    /// One queue for each conversation: what is reported of it goes out in order.
    lanes: Mutex<HashMap<String, mpsc::UnboundedSender<Event>>>,
    /// The newest text of each message that is edited, and whether somebody shows it already.
    edits: Mutex<HashMap<String, (Event, bool)>>,
    stopped: AtomicBool,
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Reference {
    /// Listens, and says where. `fault` names a case to misbehave in; empty for none.
    ///
    /// # Errors
    /// When it cannot listen.
    pub async fn start(listen: &str, platform: &str, keys: Keys, fault: &str) -> Result<String> {
        let listener = TcpListener::bind(listen).await?;
        let url = format!("http://{}/pcp", listener.local_addr()?);
        let follow = match fault {
            "S15" => reqwest::redirect::Policy::limited(3),
            _ => reqwest::redirect::Policy::none(),
        };
        let client = Client::builder().redirect(follow).no_proxy().timeout(PATIENCE).build()?;
        let adapter = Arc::new(Self {
            platform: platform.to_owned(),
            keys,
            fault: fault.to_owned(),
            client,
            seen: Mutex::default(),
            lanes: Mutex::default(),
            edits: Mutex::default(),
            stopped: AtomicBool::new(false),
        });
        let handler = move |request: Request| {
            let adapter = Arc::clone(&adapter);
            Box::pin(async move { adapter.take(request).await })
                as std::pin::Pin<Box<dyn Future<Output = Reply> + Send>>
        };
        serve(listener, Arc::new(handler));
        Ok(url)
    }

    fn errs(&self, id: &str) -> bool {
        self.fault == id
    }

    async fn take(self: Arc<Self>, request: Request) -> Reply {
        if let Err(status) = self.verify(&request) {
            return Reply::status(status);
        }
        let Ok(event) = Event::read(&request.body) else { return Reply::status(400) };
        let hash: [u8; 32] = Sha256::digest(&request.body).into();
        let before = held(&self.seen).insert(event.id.to_string(), hash);
        let again = self.errs("S10") || (self.errs("P07") && request.header(header::REPLAY) == "1");
        match before {
            Some(before) if before != hash && !self.errs("S11") => return Reply::status(409),
            Some(_) if !again => return Reply::json(200, &json!({ "status": "sent" })),
            _ => {}
        }
        let expired = event.expires_at.is_some_and(|until| until <= Timestamp::now());
        if expired && !self.errs("T11") {
            return Reply::json(200, &json!({ "status": "expired" }));
        }
        self.act(event).await
    }

    /// 401 unless a key that is known signed these bytes a moment ago.
    fn verify(&self, request: &Request) -> Result<(), u16> {
        let signature = request.header(header::SIGNATURE);
        let believes = ["S04", "S05", "S13"].iter().any(|id| self.errs(id));
        if believes || (self.errs("S08") && signature.is_empty()) {
            return Ok(());
        }
        if self.errs("S01") {
            return Err(401);
        }
        if self.errs("S09") && signature.split(' ').any(|entry| !entry.contains(',')) {
            return Err(500);
        }
        let known = if self.errs("S02") { 1 } else { self.keys.secrets.len() };
        let secrets = self.keys.secrets.iter().take(known).cloned().collect();
        let pairs = if self.errs("S03") { vec![] } else { vec![self.keys.private.public()] };
        let verifier = Verifier { secrets, public_keys: pairs };
        let timestamp = request.header(header::TIMESTAMP);
        let signature = match self.errs("P06") {
            true => signature.split(' ').next().unwrap_or_default(),
            false => signature,
        };
        let now = match (self.errs("S06") || self.errs("S07"), timestamp.parse()) {
            (true, Ok(second)) => Timestamp::from_second(second).unwrap_or_default(),
            _ => Timestamp::now(),
        };
        let signed = Signed { id: request.header(header::ID), timestamp, signature };
        verifier.verify(signed, &request.body, now).map(drop).map_err(|_| 401)
    }

    async fn act(self: Arc<Self>, event: Event) -> Reply {
        let done = Reply::json(200, &json!({ "status": "queued" }));
        match event.kind.as_str() {
            "endpoint.verify" => {
                self.stopped.store(false, Ordering::SeqCst);
                let lie = json!("a lie");
                let challenge = if self.errs("S14") { &lie } else { &event.data["challenge"] };
                return Reply::json(200, &json!({ "challenge": challenge }));
            }
            "message.created" => self.show(&event).await,
            "message.updated" => self.edit(event),
            "typing.started" if self.errs("P01") => {
                tokio::time::sleep(Duration::from_secs(5)).await;
            }
            "handoff.requested" => {
                if !self.errs("P08") {
                    self.report(&event, "handoff.accepted", json!({}));
                }
                self.report(&event, "handoff.returned", json!({}));
            }
            "weather.changed" if self.errs("T09") => return Reply::status(400),
            // What is not known is acknowledged.
            _ => {}
        }
        done
    }

    /// Shows a message: here, sends it back.
    async fn show(self: &Arc<Self>, event: &Event) {
        let Ok(data) = event.message() else { return };
        let mut parts = Vec::new();
        let mut press = None;
        for part in &data.message.parts {
            let known = serde_json::from_value::<Part>(part.clone()).is_ok();
            if !known && self.errs("T10") {
                continue;
            }
            match read_part(part) {
                Some(Part::Image(_)) => parts.push(self.picture(part).await),
                Some(Part::List { .. }) if self.errs("R04") => parts.push(text("[list]")),
                Some(Part::Buttons { .. }) => {
                    parts.push(text(part["fallback_text"].as_str().unwrap_or_default()));
                    press = Some(part["items"][0].clone());
                }
                Some(part) => parts.push(text(&self.spoil(part.to_text()))),
                None => {}
            }
        }
        if self.errs("T01") || parts.is_empty() {
            return;
        }
        let answered = if self.errs("R05") { None } else { data.message.id.clone() };
        let mirrored = json!({ "message": {
            "external_id": format!("mirror-{}", EventId::generate()),
            "reply_to": answered,
            "parts": parts,
        }});
        let message = json!({ "message_id": data.message.id });
        self.report(event, "message.created", mirrored);
        let kinds = match self.errs("P02") {
            true => ["message.read", "message.delivered"],
            false => ["message.delivered", "message.read"],
        };
        kinds.into_iter().for_each(|kind| self.report(event, kind, message.clone()));
        if let Some(item) = press.filter(|_| !self.errs("R03")) {
            let pressed = json!({
                "message_id": data.message.id, "item_id": item["id"], "value": item["value"],
            });
            self.report(event, "button.pressed", pressed);
        }
    }

    fn spoil(&self, text: String) -> String {
        match self.fault.as_str() {
            "S12" => text.chars().filter(char::is_ascii).collect(),
            "T02" => text.chars().take(100).collect(),
            _ => text,
        }
    }

    /// Fetches a picture; by a fresh address if the one in the message is not good any more.
    async fn picture(&self, part: &Value) -> Value {
        let get = async |url: &str| answer(self.client.get(url)).await.ok();
        let url = part["url"].as_str().unwrap_or_default();
        let mut fetched = get(url).await.filter(Answer::is_yes);
        if fetched.is_none() && !self.errs("R02") {
            let upload = part["upload_id"].as_str().unwrap_or_default();
            let path =
                format!("{}/v1/pcp/channels/{}/media/{upload}", self.platform, self.keys.channel);
            let renewed = answer(self.client.post(path).bearer_auth(&self.keys.bearer)).await;
            let fresh = renewed.map(|renewed| renewed.json()["url"].clone()).unwrap_or_default();
            fetched = get(fresh.as_str().unwrap_or_default()).await.filter(Answer::is_yes);
        }
        let mut bytes = fetched.map(|fetched| fetched.body).unwrap_or_default();
        if self.errs("R01") {
            bytes.pop();
        }
        json!({ "type": "image", "mime": part["mime"], "sha256": hex::encode(Sha256::digest(&bytes)) })
    }

    /// Shows the newest text of a message, no oftener than once a second.
    fn edit(self: &Arc<Self>, event: Event) {
        let id = event.data["message"]["id"].as_str().unwrap_or_default().to_owned();
        if self.errs("P03") {
            self.report(&event, "message.updated", event.data.clone());
            return;
        }
        let mut edits = held(&self.edits);
        let waits = edits.get(&id).is_some_and(|(_, waits)| *waits);
        edits.insert(id.clone(), (event, true));
        drop(edits);
        if waits {
            return;
        }
        let adapter = Arc::clone(self);
        tokio::spawn(async move {
            tokio::time::sleep(EDIT_EVERY).await;
            let newest = held(&adapter.edits).remove(&id);
            if let Some((event, _)) = newest {
                adapter.report(&event, "message.updated", event.data.clone());
            }
        });
    }

    /// Puts an event into its conversation's queue.
    fn report(self: &Arc<Self>, of: &Event, kind: &str, data: Value) {
        let room = of.conversation.as_ref().map_or("", |it| it.external_id.as_str());
        let lane = if self.errs("T04") { "one for all" } else { room };
        let event = Event {
            conversation: Some(Conversation {
                external_id: room.to_owned(),
                ..Conversation::default()
            }),
            sender: Some(Sender { external_id: "mirror".to_owned(), ..Sender::default() }),
            ..Event::new(kind, Timestamp::now(), data)
        };
        if self.errs("T03") {
            let adapter = Arc::clone(self);
            let late = u64::from(event.id.as_str().as_bytes()[5]) * 5;
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(late)).await;
                adapter.post(event).await;
            });
            return;
        }
        let mut lanes = held(&self.lanes);
        let lane = lanes.entry(lane.to_owned()).or_insert_with(|| {
            let (queue, mut waiting) = mpsc::unbounded_channel();
            let adapter = Arc::clone(self);
            tokio::spawn(async move {
                while let Some(event) = waiting.recv().await {
                    adapter.post(event).await;
                }
            });
            queue
        });
        // The lane lives as long as the adapter.
        let _ = lane.send(event);
    }

    /// Posts an event until the platform has it or will never take it.
    async fn post(&self, mut event: Event) {
        let url = format!("{}/v1/pcp/channels/{}/events", self.platform, self.keys.channel);
        for attempt in 0..8 {
            if self.stopped.load(Ordering::SeqCst) && !self.errs("T12") {
                return;
            }
            let sent = post(&self.client, &url, &self.keys, &event, &Made::well(&self.keys)).await;
            let (status, after) = match &sent {
                Ok(answer) => (answer.status, answer.headers.get("retry-after").cloned()),
                Err(_) => (0, None),
            };
            match status {
                200..=299 => return,
                410 => return self.stopped.store(true, Ordering::SeqCst),
                400 | 409 | 413 | 422 if !self.errs("T08") => return,
                _ if self.errs("T05") => return,
                0 if self.errs("T06") => event.id = EventId::generate(),
                _ => {}
            }
            let asked = after.and_then(|after| after.to_str().ok()?.parse().ok());
            let asked = asked.filter(|_| !self.errs("T07")).map(Duration::from_secs);
            let wait = Duration::from_millis(200 << attempt);
            tokio::time::sleep(asked.unwrap_or(wait)).await;
        }
    }
}

fn text(text: &str) -> Value {
    json!({ "type": "text", "text": text })
}

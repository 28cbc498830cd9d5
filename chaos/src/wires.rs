//! The other ends of real adapters, in the check's own process: a Bot API of Telegram's and the
//! endpoint of a partner. Both fail on purpose, once for each message at most, and write down what
//! they took before they say so.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::Context as _;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, BufStream},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time,
};

use crate::record::{Record, Seen};

/// How late an answer is that is late.
const LATE: Duration = Duration::from_millis(400);
/// A request of the platform is smaller.
const BODY_MAX: usize = 1 << 20;
const HEAD_MAX: usize = 32 << 10;

/// The other ends.
#[derive(Debug)]
pub struct Wires {
    /// Where they listen.
    pub addr: SocketAddr,
    desk: Arc<Desk>,
    _serving: JoinSet<()>,
}

#[derive(Debug)]
struct Desk {
    record: Record,
    /// How many of a hundred messages meet a fault.
    faults: AtomicU32,
    /// Messages that were taken although the platform heard nothing of it.
    unheard: AtomicUsize,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    random: StdRng,
    /// Messages that have met one.
    failed: HashSet<String>,
    /// Where bots are sent to, by their token: address and secret.
    hooks: HashMap<String, (String, String)>,
}

/// What becomes of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Taken,
    TakenLate,
    /// Taken, and nobody hears of it.
    TakenUnheard,
    HungUp,
    Broken,
    Throttled,
}

impl Wires {
    /// Listens. With `faults` of a hundred messages something goes wrong first.
    ///
    /// # Errors
    /// If there is no port.
    pub async fn open(record: Record, seed: u64, faults: u32) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("opening the wires")?;
        let addr = listener.local_addr()?;
        let random = StdRng::seed_from_u64(seed);
        let inner = Inner { random, failed: HashSet::new(), hooks: HashMap::new() };
        let desk = Arc::new(Desk {
            record,
            faults: faults.into(),
            unheard: AtomicUsize::new(0),
            inner: Mutex::new(inner),
        });
        let mut serving = JoinSet::new();
        let taking = Arc::clone(&desk);
        serving.spawn(async move {
            let mut open = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                open.spawn(serve(stream, Arc::clone(&taking)));
                while open.try_join_next().is_some() {}
            }
        });
        Ok(Self { addr, desk, _serving: serving })
    }

    /// `http://host:port`.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Messages that may have come again because the platform could not know that they were taken.
    pub fn unheard(&self) -> usize {
        self.desk.unheard.load(Ordering::SeqCst)
    }

    /// Where a bot is sent to, and with which secret, once it was told.
    pub fn hook(&self, token: &str) -> Option<(String, String)> {
        self.desk.inner().hooks.get(token).cloned()
    }
}

impl Desk {
    fn inner(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fate(&self, message: &str) -> Fate {
        let mut inner = self.inner();
        let fails = inner.random.random_range(0..100) < self.faults.load(Ordering::SeqCst);
        if !fails || !inner.failed.insert(message.to_owned()) {
            return Fate::Taken;
        }
        let kinds = [
            Fate::TakenLate,
            Fate::TakenUnheard,
            Fate::TakenUnheard,
            Fate::HungUp,
            Fate::Broken,
            Fate::Throttled,
        ];
        kinds[inner.random.random_range(0..kinds.len())]
    }

    /// Takes a message, or does not. `None` hangs up.
    async fn take(&self, message: &str, seen: Seen, answer: Value) -> Option<(u16, Value)> {
        let fate = self.fate(message);
        match fate {
            Fate::HungUp => return None,
            Fate::Broken => return Some((500, json!("oops"))),
            Fate::Throttled => {
                let body = json!({ "ok": false, "error_code": 429,
                    "parameters": { "retry_after": 1 } });
                return Some((429, body));
            }
            Fate::TakenUnheard => {
                self.unheard.fetch_add(1, Ordering::SeqCst);
            }
            Fate::Taken | Fate::TakenLate => {}
        }
        self.record.add(seen).ok()?;
        if fate == Fate::TakenLate {
            time::sleep(LATE).await;
        }
        (fate != Fate::TakenUnheard).then_some((200, answer))
    }

    async fn telegram(&self, token: &str, method: &str, body: &Value) -> Option<(u16, Value)> {
        let ok = |result: Value| json!({ "ok": true, "result": result });
        let text = |name: &str| body[name].as_str().unwrap_or_default().to_owned();
        let result = match method {
            "getMe" => json!({ "id": 1, "is_bot": true, "first_name": "B", "username": "b_bot" }),
            "setWebhook" => {
                let hook = (text("url"), text("secret_token"));
                self.inner().hooks.insert(token.to_owned(), hook);
                json!(true)
            }
            "sendMessage" => {
                let peer = body["chat_id"].to_string().trim_matches('"').to_owned();
                let message = format!("{peer}/{}", text("text"));
                let answer = ok(json!({ "message_id": 1, "chat": { "id": body["chat_id"] } }));
                return self.take(&message, Seen::Taken { peer, outbox: None }, answer).await;
            }
            _ => json!(true),
        };
        Some((200, ok(result)))
    }

    /// The id of an event names the outbox's message and the piece of it.
    async fn partner(&self, event: &Value) -> Option<(u16, Value)> {
        let challenge = event.pointer("/data/challenge").cloned();
        let id = event["id"].as_str().unwrap_or_default();
        let message = id.strip_prefix("evt_").and_then(|id| id.split_once('_'));
        match (message, event["type"].as_str()) {
            (Some((outbox, _)), Some("message.created")) => {
                let peer = event.pointer("/conversation/external_id").and_then(Value::as_str);
                let (peer, outbox) = (peer.unwrap_or_default().to_owned(), Some(outbox.to_owned()));
                self.take(id, Seen::Taken { peer, outbox }, json!({})).await
            }
            _ => Some((200, challenge.map_or(json!({}), |it| json!({ "challenge": it })))),
        }
    }
}

async fn serve(stream: TcpStream, desk: Arc<Desk>) {
    let mut stream = BufStream::new(stream);
    while let Some((path, body)) = request(&mut stream).await {
        let body = serde_json::from_slice(&body).unwrap_or_default();
        let bot = path.strip_prefix("/bot").and_then(|rest| rest.split_once('/'));
        let answer = match bot {
            Some((token, method)) => desk.telegram(token, method, &body).await,
            None => desk.partner(&body).await,
        };
        let Some((status, body)) = answer else { return };
        let body = body.to_string();
        let wait = if status == 429 { "retry-after: 1\r\n" } else { "" };
        let head = format!(
            "HTTP/1.1 {status} x\r\ncontent-type: application/json\r\n{wait}content-length: {}\r\n\r\n",
            body.len(),
        );
        let sent = stream.write_all((head + &body).as_bytes()).await;
        if sent.is_err() || stream.flush().await.is_err() {
            return;
        }
    }
}

/// The path and the body of the next request on a connection.
async fn request(stream: &mut BufStream<TcpStream>) -> Option<(String, Vec<u8>)> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if HEAD_MAX < head.len() {
            return None;
        }
        head.push(stream.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).ok()?;
    let path = head.split(' ').nth(1)?.to_owned();
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
    });
    let mut body = vec![0; length.unwrap_or_default()];
    if BODY_MAX < body.len() {
        return None;
    }
    stream.read_exact(&mut body).await.ok()?;
    Some((path, body))
}

//! A small Discord: as much of its API as a conversation needs, and its gateway, which remembers what
//! each session has been told and misbehaves on demand.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    task::JoinSet,
};
use tokio_tungstenite::{
    WebSocketStream, accept_async,
    tungstenite::{
        Message,
        protocol::{CloseFrame, frame::coding::CloseCode},
    },
};
use wiremock::{Mock, MockServer, Request, Respond, ResponseTemplate, matchers::any};

pub(crate) const TOKEN: &str = "b.o.t";
pub(crate) const PUBLIC_KEY: &str =
    "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
/// The bot's own user.
pub(crate) const OWN: &str = "900";
/// Between two heartbeats, in milliseconds.
const BEAT: u64 = 1000;
/// The intent that a developer has to switch on.
const MESSAGE_CONTENT: u64 = 1 << 15;

/// What is done to an open socket.
enum Order {
    Say(Value),
    Close(u16),
}

#[derive(Default)]
struct State {
    gateway: String,
    /// What each session was told, in order; the place in the list is the number.
    sessions: HashMap<String, Vec<Value>>,
    /// The one that is told what happens, and its socket if it has one.
    current: String,
    line: Option<(usize, UnboundedSender<Order>)>,
    sockets: usize,
    identified: usize,
    resumed: usize,
    is_deaf: bool,
    may_read_all: bool,
    refusal: Option<u16>,
    /// Channel, id and words.
    messages: Vec<(String, String, String)>,
    nonces: HashMap<String, usize>,
    next: u64,
}

/// The server.
pub(crate) struct DiscordApi {
    rest: MockServer,
    gateway: SocketAddr,
    state: Arc<Mutex<State>>,
    _serving: JoinSet<()>,
}

struct Rest(Arc<Mutex<State>>);

impl DiscordApi {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let gateway = listener.local_addr().unwrap();
        let state = State { gateway: format!("ws://{gateway}"), next: 1000, ..State::default() };
        let state = Arc::new(Mutex::new(state));
        let rest = MockServer::start().await;
        Mock::given(any()).respond_with(Rest(Arc::clone(&state))).mount(&rest).await;
        let mut serving = JoinSet::new();
        let desk = Arc::clone(&state);
        serving.spawn(async move {
            let mut open = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                open.spawn(serve(stream, Arc::clone(&desk)));
            }
        });
        Self { rest, gateway, state, _serving: serving }
    }

    pub(crate) fn url(&self) -> String {
        self.rest.uri()
    }

    /// What the platform may request, for its settings file.
    pub(crate) fn egress(&self) -> String {
        format!(
            "[egress]\nallow_http = true\nallow_networks = [\"127.0.0.0/8\"]\nports = [{}, {}]\n",
            self.rest.address().port(),
            self.gateway.port()
        )
    }

    /// Something happens: the bot is told now, or when it comes back.
    pub(crate) fn dispatch(&self, kind: &str, data: &Value) {
        let mut state = self.state.lock().unwrap();
        let current = state.current.clone();
        let told = state.sessions.get_mut(&current).expect("a session");
        let frame = json!({ "op": 0, "t": kind, "s": told.len() + 1, "d": data });
        told.push(frame.clone());
        if let Some((_, line)) = &state.line {
            let _ = line.send(Order::Say(frame));
        }
    }

    /// Somebody writes: directly, or in a server.
    pub(crate) fn write(&self, message: u64, channel: &str, text: &str, more: &Value) {
        let mut data = json!({ "id": message.to_string(), "channel_id": channel, "type": 0,
            "content": text, "timestamp": "2026-11-28T12:00:00+00:00",
            "author": { "id": "7", "username": "ada" } });
        for (name, value) in more.as_object().into_iter().flatten() {
            data[name] = value.clone();
        }
        self.dispatch("MESSAGE_CREATE", &data);
    }

    /// Says something over the open socket, with no number.
    pub(crate) fn say(&self, frame: Value) {
        let state = self.state.lock().unwrap();
        let (_, line) = state.line.as_ref().expect("a socket");
        line.send(Order::Say(frame)).unwrap();
    }

    /// Closes the open socket with this code.
    pub(crate) fn close(&self, code: u16) {
        let state = self.state.lock().unwrap();
        let (_, line) = state.line.as_ref().expect("a socket");
        line.send(Order::Close(code)).unwrap();
    }

    /// Whether heartbeats are left without an answer.
    pub(crate) fn set_deaf(&self, is_deaf: bool) {
        self.state.lock().unwrap().is_deaf = is_deaf;
    }

    /// Whoever identifies is refused with this code.
    pub(crate) fn refuse(&self, code: Option<u16>) {
        self.state.lock().unwrap().refusal = code;
    }

    /// Forgets every session.
    pub(crate) fn forget_sessions(&self) {
        self.state.lock().unwrap().sessions.clear();
    }

    /// How often a bot identified and resumed.
    pub(crate) fn counts(&self) -> (usize, usize) {
        let state = self.state.lock().unwrap();
        (state.identified, state.resumed)
    }

    /// Waits until a bot has identified so many times and resumed so many times or more, and is told
    /// what happens. It resumes once more for each heartbeat that was answered late.
    pub(crate) async fn await_counts(&self, identified: usize, resumed: usize) {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let is_open = self.state.lock().unwrap().line.is_some();
            let counts = self.counts();
            if is_open && counts.0 == identified && resumed <= counts.1 {
                return;
            }
            assert!(Instant::now() < deadline, "not {identified} and {resumed} but {counts:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// What stands in a channel by the bot.
    pub(crate) fn said_in(&self, channel: &str) -> Vec<String> {
        let state = self.state.lock().unwrap();
        let there = state.messages.iter().filter(|(place, _, _)| place == channel);
        there.map(|(_, _, text)| text.clone()).collect()
    }

    /// Waits until this stands in a channel.
    pub(crate) async fn await_said(&self, channel: &str, all: &[&str]) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while self.said_in(channel) != all {
            let there = self.said_in(channel);
            assert!(Instant::now() < deadline, "{all:?} is not {there:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

async fn serve(stream: TcpStream, state: Arc<Mutex<State>>) {
    let Ok(mut socket) = accept_async(stream).await else { return };
    let hello = json!({ "op": 10, "d": { "heartbeat_interval": BEAT } });
    let _ = socket.send(Message::text(hello.to_string())).await;
    let (line, mut orders) = unbounded_channel();
    let own = {
        let mut state = state.lock().unwrap();
        state.sockets += 1;
        state.sockets
    };
    talk(&mut socket, &state, (own, &line), &mut orders).await;
    let mut state = state.lock().unwrap();
    if state.line.as_ref().is_some_and(|(socket, _)| *socket == own) {
        state.line = None;
    }
}

async fn talk(
    socket: &mut WebSocketStream<TcpStream>,
    state: &Mutex<State>,
    (own, line): (usize, &UnboundedSender<Order>),
    orders: &mut UnboundedReceiver<Order>,
) {
    loop {
        let said = tokio::select! {
            order = orders.recv() => {
                match order.unwrap() {
                    Order::Say(frame) => {
                        let _ = socket.send(Message::text(frame.to_string())).await;
                    }
                    Order::Close(code) => {
                        let frame = CloseFrame { code: CloseCode::from(code), reason: "x".into() };
                        let _ = socket.close(Some(frame)).await;
                        return;
                    }
                }
                continue;
            }
            said = socket.next() => said,
        };
        let Some(Ok(Message::Text(text))) = said else { return };
        let frame: Value = serde_json::from_str(&text).unwrap();
        state.lock().unwrap().hear(&frame, own, line);
    }
}

impl State {
    fn hear(&mut self, frame: &Value, own: usize, line: &UnboundedSender<Order>) {
        let say = |frame: Value| line.send(Order::Say(frame)).unwrap();
        let data = &frame["d"];
        match frame["op"].as_u64() {
            Some(1) if !self.is_deaf => say(json!({ "op": 11 })),
            Some(2) => {
                self.identified += 1;
                let asks_all = data["intents"].as_u64().unwrap() & MESSAGE_CONTENT != 0;
                let denied = (asks_all && !self.may_read_all).then_some(4014);
                let forged = (data["token"] != TOKEN).then_some(4004);
                if let Some(code) = self.refusal.or(forged).or(denied) {
                    line.send(Order::Close(code)).unwrap();
                    return;
                }
                self.current = format!("session-{}", self.identified);
                let ready = json!({ "op": 0, "t": "READY", "s": 1, "d": {
                    "session_id": self.current, "resume_gateway_url": self.gateway,
                    "user": { "id": OWN } } });
                self.sessions.insert(self.current.clone(), vec![ready.clone()]);
                say(ready);
                self.line = Some((own, line.clone()));
            }
            Some(6) => {
                assert_eq!(data["token"], TOKEN);
                let known = data["session_id"].as_str().and_then(|id| self.sessions.get(id));
                let Some(told) = known else {
                    say(json!({ "op": 9, "d": false }));
                    return;
                };
                self.resumed += 1;
                let seen = usize::try_from(data["seq"].as_u64().unwrap()).unwrap();
                told.iter().skip(seen).cloned().for_each(&say);
                say(json!({ "op": 0, "t": "RESUMED", "s": told.len(), "d": {} }));
                self.line = Some((own, line.clone()));
            }
            _ => {}
        }
    }
}

impl Respond for Rest {
    fn respond(&self, request: &Request) -> ResponseTemplate {
        let ok = |body: Value| ResponseTemplate::new(200).set_body_json(body);
        let authorized = request.headers.get("authorization");
        if authorized.is_none_or(|given| given != format!("Bot {TOKEN}").as_str()) {
            return ResponseTemplate::new(401).set_body_json(json!({ "message": "401" }));
        }
        let mut state = self.0.lock().unwrap();
        let path: Vec<&str> = request.url.path().trim_start_matches('/').split('/').collect();
        let body: Value = serde_json::from_slice(&request.body).unwrap_or_default();
        match (request.method.as_str(), &path[..]) {
            ("GET", ["gateway", "bot"]) => ok(json!({ "url": state.gateway, "shards": 1,
                "session_start_limit": { "remaining": 5 } })),
            (_, ["applications", "@me"]) => ok(json!({ "id": "900", "verify_key": PUBLIC_KEY,
                "name": "Shop", "bot": { "username": "shop" } })),
            ("POST", ["channels", channel, "messages"]) => {
                ok(json!({ "id": state.post(channel, &body), "channel_id": channel }))
            }
            ("PATCH", ["channels", _, "messages", id]) => {
                let text = body["content"].as_str().unwrap_or_default().to_owned();
                match state.messages.iter_mut().find(|(_, known, _)| known == id) {
                    Some(message) => {
                        message.2 = text;
                        ok(json!({ "id": id }))
                    }
                    None => ResponseTemplate::new(404).set_body_json(json!({ "code": 10_008 })),
                }
            }
            _ => ok(json!({ "id": "1" })),
        }
    }
}

impl State {
    /// The same message again, by its nonce, is the one that is there.
    fn post(&mut self, channel: &str, body: &Value) -> String {
        let nonce = body["nonce"].as_str().map(|nonce| format!("{channel}/{nonce}"));
        if let Some(at) = nonce.as_ref().and_then(|nonce| self.nonces.get(nonce)) {
            return self.messages[*at].1.clone();
        }
        self.next += 1;
        let text = body["content"].as_str().unwrap_or_default().to_owned();
        self.messages.push((channel.to_owned(), self.next.to_string(), text));
        self.nonces.extend(nonce.map(|nonce| (nonce, self.messages.len() - 1)));
        self.next.to_string()
    }
}

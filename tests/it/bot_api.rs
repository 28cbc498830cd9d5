//! A small server of Telegram's Bot API: enough of it for a conversation, with faults on demand.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use wiremock::{Mock, MockServer, Request, Respond, ResponseTemplate, matchers::any};

pub(crate) const TOKEN: &str = "4242:AAtest-token_x";
/// How long a question for updates stays open when there are none.
const IDLE: Duration = Duration::from_millis(100);

/// What the server does with the next call of a method.
#[derive(Debug, Clone)]
pub(crate) enum Fault {
    /// 429, and come back after so many seconds.
    Wait(u64),
    /// 500 with a page.
    Broken,
    /// The marks cannot be read.
    BadMarks,
    /// The person blocked the bot.
    Blocked,
    /// It is done, and the answer comes after so long.
    Slow(Duration),
    /// The token is not known.
    Unauthorized,
}

/// A call that was answered with `ok`.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) method: String,
    pub(crate) body: Value,
    pub(crate) at: Instant,
}

#[derive(Default)]
struct State {
    updates: Vec<Value>,
    calls: Vec<Call>,
    faults: HashMap<String, VecDeque<Fault>>,
    refused: usize,
    webhook: Option<(String, String)>,
    next_message: i64,
    next_update: i64,
}

/// The server.
pub(crate) struct BotApi {
    server: MockServer,
    state: Arc<Mutex<State>>,
}

struct Answerer(Arc<Mutex<State>>);

impl BotApi {
    pub(crate) async fn start() -> Self {
        let server = MockServer::start().await;
        let state = Arc::new(Mutex::new(State { next_message: 1000, ..State::default() }));
        Mock::given(any()).respond_with(Answerer(Arc::clone(&state))).mount(&server).await;
        Self { server, state }
    }

    pub(crate) fn url(&self) -> String {
        self.server.uri()
    }

    pub(crate) fn port(&self) -> u16 {
        self.server.address().port()
    }

    /// What the platform may request, for its settings file.
    pub(crate) fn egress(&self) -> String {
        format!(
            "[egress]\nallow_http = true\nallow_networks = [\"127.0.0.0/8\"]\nports = [{}]\n",
            self.port()
        )
    }

    /// The next calls of a method meet these faults.
    pub(crate) fn fault(&self, method: &str, faults: impl IntoIterator<Item = Fault>) {
        let mut state = self.state.lock().unwrap();
        state.faults.entry(method.to_owned()).or_default().extend(faults);
    }

    /// An update that carries this, with an id of its own.
    pub(crate) fn update(&self, kind: &str, inner: Value) -> Value {
        let mut state = self.state.lock().unwrap();
        state.next_update += 1;
        let mut update = json!({ "update_id": state.next_update });
        update[kind] = inner;
        update
    }

    /// A message of a person, as an update.
    pub(crate) fn message(&self, chat: i64, text: &str) -> Value {
        let id = {
            let mut state = self.state.lock().unwrap();
            state.next_message += 1;
            state.next_message
        };
        let kind = if chat < 0 { "supergroup" } else { "private" };
        self.update(
            "message",
            json!({
                "message_id": id, "date": 1_795_443_493, "text": text,
                "from": { "id": chat.abs(), "first_name": "Ada", "language_code": "en" },
                "chat": { "id": chat, "type": kind },
            }),
        )
    }

    /// Waits for the next question for updates.
    pub(crate) fn offer(&self, update: Value) {
        self.state.lock().unwrap().updates.push(update);
    }

    /// The address and secret that the platform told.
    pub(crate) fn webhook(&self) -> Option<(String, String)> {
        self.state.lock().unwrap().webhook.clone()
    }

    /// The calls of a method that were answered with `ok`.
    pub(crate) fn calls(&self, method: &str) -> Vec<Call> {
        let state = self.state.lock().unwrap();
        state.calls.iter().filter(|call| call.method == method).cloned().collect()
    }

    /// How many calls met a fault.
    pub(crate) fn refused(&self) -> usize {
        self.state.lock().unwrap().refused
    }

    /// Waits until so many calls of a method were answered with `ok`.
    pub(crate) async fn await_calls(&self, method: &str, count: usize) -> Vec<Call> {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let calls = self.calls(method);
            if count <= calls.len() {
                return calls;
            }
            assert!(Instant::now() < deadline, "{count} × {method}, and there are {calls:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Respond for Answerer {
    fn respond(&self, request: &Request) -> ResponseTemplate {
        let path = request.url.path().to_owned();
        if let Some(file) = path.strip_prefix(&format!("/file/bot{TOKEN}/")) {
            return ResponseTemplate::new(200)
                .set_body_raw(format!("bytes of {file}"), "application/octet-stream");
        }
        let Some(method) = path.strip_prefix(&format!("/bot{TOKEN}/")) else {
            let body = json!({ "ok": false, "error_code": 401, "description": "Unauthorized" });
            return ResponseTemplate::new(401).set_body_json(body);
        };
        let body: Value = serde_json::from_slice(&request.body).unwrap_or_default();
        let mut state = self.0.lock().unwrap();
        let fault = state.faults.get_mut(method).and_then(VecDeque::pop_front);
        let delay = match fault {
            Some(Fault::Slow(delay)) => delay,
            Some(fault) => {
                state.refused += 1;
                return refusal(&fault);
            }
            None => Duration::ZERO,
        };
        answer(&mut state, method, &body).set_delay(delay)
    }
}

fn refusal(fault: &Fault) -> ResponseTemplate {
    let no = |status: u16, words: &str, parameters: Value| {
        let body = json!({ "ok": false, "error_code": status, "description": words,
                           "parameters": parameters });
        ResponseTemplate::new(status).set_body_json(body)
    };
    match fault {
        Fault::Wait(seconds) => no(429, "Too Many Requests", json!({ "retry_after": seconds })),
        Fault::Broken => ResponseTemplate::new(500).set_body_string("<html>oops</html>"),
        Fault::BadMarks => no(400, "Bad Request: can't parse entities: x", json!({})),
        Fault::Blocked => no(403, "Forbidden: bot was blocked by the user", json!({})),
        Fault::Unauthorized => no(401, "Unauthorized", json!({})),
        Fault::Slow(_) => unreachable!(),
    }
}

fn answer(state: &mut State, method: &str, body: &Value) -> ResponseTemplate {
    let ok = |result: Value| {
        ResponseTemplate::new(200).set_body_json(json!({ "ok": true, "result": result }))
    };
    let text = body["text"].as_str().unwrap_or_default();
    let units = text.encode_utf16().count();
    let too_long = 4096 + 4096 < units || (body["parse_mode"].is_null() && 4096 < units);
    let bad = |words: &str| {
        let body = json!({ "ok": false, "error_code": 400, "description": words });
        ResponseTemplate::new(400).set_body_json(body)
    };
    if method.starts_with("send") && method.ends_with("Message") && (text.is_empty() || too_long) {
        return bad("Bad Request: message text is empty or too long");
    }
    let result = match method {
        "getMe" => {
            json!({ "id": 4242, "is_bot": true, "first_name": "Shop", "username": "shop_bot" })
        }
        "getUpdates" => {
            let offset = body["offset"].as_i64().unwrap_or_default();
            state.updates.retain(|update| offset <= update["update_id"].as_i64().unwrap());
            if state.updates.is_empty() {
                return ok(json!([])).set_delay(IDLE);
            }
            return ok(json!(state.updates));
        }
        "setWebhook" => {
            let told = |name: &str| body[name].as_str().unwrap_or_default().to_owned();
            state.webhook = Some((told("url"), told("secret_token")));
            json!(true)
        }
        "deleteWebhook" => {
            state.webhook = None;
            json!(true)
        }
        "getFile" => json!({ "file_id": body["file_id"], "file_path": "photos/a.jpg" }),
        "editMessageText" => {
            json!({ "message_id": body["message_id"], "chat": { "id": body["chat_id"] } })
        }
        name if name.starts_with("send")
            && !matches!(name, "sendMessageDraft" | "sendChatAction") =>
        {
            state.next_message += 1;
            json!({ "message_id": state.next_message, "chat": { "id": body["chat_id"] } })
        }
        _ => json!(true),
    };
    let call = Call { method: method.to_owned(), body: body.clone(), at: Instant::now() };
    state.calls.push(call);
    ok(result)
}

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

    /// The pictures of an album, as updates, the first with words.
    pub(crate) fn album(&self, chat: i64, pictures: usize, words: &str) -> Vec<Value> {
        let album = self.state.lock().unwrap().next_update.to_string();
        let picture = |at: usize| {
            let mut update = self.message(chat, "");
            let message = update["message"].as_object_mut().unwrap();
            message.remove("text");
            message.insert("media_group_id".to_owned(), json!(album));
            let sizes = json!([{ "file_id": format!("f{at}"), "width": 9, "height": 9 }]);
            message.insert("photo".to_owned(), sizes);
            if at == 0 && !words.is_empty() {
                message.insert("caption".to_owned(), json!(words));
            }
            update
        };
        (0..pictures).map(picture).collect()
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
        let body = match boundary(request) {
            Some(boundary) => form(&request.body, &boundary),
            None => serde_json::from_slice(&request.body).unwrap_or_default(),
        };
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
    if let Some(words) = fault_of(method, body) {
        return bad(&format!("Bad Request: {words}"));
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
        "sendMediaGroup" => {
            let sent = body["media"].as_array().unwrap().iter().map(|_| {
                state.next_message += 1;
                json!({ "message_id": state.next_message, "chat": { "id": body["chat_id"] } })
            });
            sent.collect()
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

/// What is wrong with a call, as the API says it.
fn fault_of(method: &str, body: &Value) -> Option<&'static str> {
    let rows = body["reply_markup"]["inline_keyboard"].as_array();
    let buttons = rows.into_iter().flatten().filter_map(Value::as_array).flatten();
    let data = buttons.filter_map(|button| button["callback_data"].as_str());
    if data.map(str::len).any(|length| !(1..=64).contains(&length)) {
        return Some("BUTTON_DATA_INVALID");
    }
    match method {
        "sendMediaGroup" => {
            let items = body["media"].as_array().map(Vec::as_slice).unwrap_or_default();
            let is_there = |item: &Value| {
                let media = item["media"].as_str().unwrap_or_default();
                media.strip_prefix("attach://").is_none_or(|name| body[name]["bytes"].is_string())
            };
            let spoiled = |item: &Value| item["media"].as_str().is_some_and(|m| m.contains("gone"));
            if !(2..=10).contains(&items.len()) || !items.iter().all(is_there) {
                return Some("wrong number of items or no such attachment");
            }
            items.iter().any(spoiled).then_some("failed to get HTTP URL content")
        }
        "sendInvoice" => {
            let payload = body["payload"].as_str().unwrap_or_default().len();
            let prices = body["prices"].as_array().map_or(0, Vec::len);
            let free = body["currency"] == "XTR" && body["provider_token"] == "";
            let whole = free && prices == 1 && (1..=128).contains(&payload);
            (!whole).then_some("the invoice is not one in Stars")
        }
        _ => None,
    }
}

fn boundary(request: &Request) -> Option<String> {
    let kind = request.headers.get("content-type")?.to_str().ok()?;
    Some(kind.strip_prefix("multipart/form-data; boundary=")?.to_owned())
}

/// The fields of a form: words as JSON where they are some, files with what is in them.
fn form(body: &[u8], boundary: &str) -> Value {
    // Each byte is one character, so that files of any kind are cut right.
    let text: String = body.iter().copied().map(char::from).collect();
    let mut fields = json!({});
    for part in text.split(&format!("--{boundary}")).filter(|part| part.starts_with("\r\n")) {
        let (head, content) = part[2..].split_once("\r\n\r\n").unwrap();
        let content = content.strip_suffix("\r\n").unwrap();
        let told = |name: &str| {
            let after = head.split_once(&format!("{name}=\""))?.1;
            Some(after.split('"').next().unwrap().to_owned())
        };
        let bytes: Vec<u8> = content.chars().map(|letter| u8::try_from(letter).unwrap()).collect();
        let name = told("; name").unwrap();
        fields[name] = match told("filename") {
            Some(file) => {
                let kind = head.lines().find_map(|line| line.strip_prefix("content-type: "));
                json!({ "file": file, "type": kind, "bytes": content })
            }
            None => {
                let words = String::from_utf8(bytes).unwrap();
                serde_json::from_str(&words).unwrap_or_else(|_| json!(words))
            }
        };
    }
    fields
}

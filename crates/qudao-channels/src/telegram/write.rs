//! What goes out to Telegram, and what its answers mean.

use std::time::Duration;

use qudao_core::channel::{
    adapter::{FailureReason, Outcome, Outgoing, Preview},
    config::ChannelConfig,
    plan::{HttpPlan, Plan, RawResponse},
};
use qudao_domain::message::{Button, ButtonAction, Part, TextFormat};
use serde_json::{Map, Value, json};

use super::{
    call, files,
    html::{escape, telegram_html},
};

/// The longest text of a draft, in characters.
const DRAFT_MAX: usize = 4096;
/// Bytes of what a button carries.
const DATA_MAX: usize = 64;

/// A body with the chat and topic of a thread.
pub(super) fn addressed(thread: &str, body: Value) -> Value {
    let Value::Object(mut fields) = body else { return body };
    let (chat, topic) = thread.split_once(':').map_or((thread, None), |(c, t)| (c, Some(t)));
    fields.insert("chat_id".to_owned(), number(chat));
    if let Some(topic) = topic {
        fields.insert("message_thread_id".to_owned(), number(topic));
    }
    Value::Object(fields)
}

fn number(text: &str) -> Value {
    text.parse::<i64>().map_or_else(|_| json!(text), |number| json!(number))
}

/// A chat in which one person writes: its id is the person's, and above 0.
fn is_private(thread: &str) -> bool {
    !thread.starts_with('-')
}

pub(super) fn render(config: &ChannelConfig, out: &Outgoing<'_>) -> Vec<HttpPlan> {
    let mut plans = Vec::new();
    if let Some(album) = files::album(config, out) {
        return vec![album];
    }
    let keyboard = out.message.parts.iter().find_map(|part| keyboard(out, part));
    let mut words = None;
    for part in &out.message.parts {
        plans.extend(files::file(config, out, part));
        match part {
            Part::Text { format, text } => words = Some((*format, text.clone())),
            Part::Quote { .. } | Part::Card { .. } => {
                words = Some((TextFormat::Plain, part.to_text()));
            }
            Part::Buttons { fallback_text, .. } | Part::List { fallback_text, .. } => {
                let stand_in = if fallback_text.is_empty() { "…" } else { fallback_text };
                words = words.or_else(|| Some((TextFormat::Plain, stand_in.to_owned())));
            }
            Part::Location { latitude, longitude, name, address } => {
                plans.push(place(config, out, (*latitude, *longitude), name, address));
            }
            Part::Contact { name, phone } => {
                let body = json!({ "first_name": name, "phone_number": phone });
                plans.push(call(config, "sendContact", &addressed(out.thread, body)));
            }
            Part::Image(_) | Part::Audio(_) | Part::Video(_) | Part::File(_) => {}
        }
    }
    if let Some((format, text)) = words {
        plans.push(text_plan(config, out, format, &text, keyboard));
    }
    plans
}

pub(super) fn text_plan(
    config: &ChannelConfig,
    out: &Outgoing<'_>,
    format: TextFormat,
    text: &str,
    keyboard: Option<Value>,
) -> HttpPlan {
    let html = match format {
        TextFormat::Plain => escape(text),
        TextFormat::Markdown => telegram_html(text),
    };
    // A message of marks alone has no words.
    let html = if html.trim().is_empty() { escape(text) } else { html };
    let mut body = Map::from_iter([
        ("text".to_owned(), json!(html)),
        ("parse_mode".to_owned(), json!("HTML")),
        // For the try without marks, should Telegram not read them.
        ("link_preview_options".to_owned(), json!({ "is_disabled": true })),
    ]);
    if let Some(keyboard) = keyboard {
        body.insert("reply_markup".to_owned(), keyboard);
    }
    let preview = out.preview_id.filter(|_| out.piece == 0).and_then(|id| id.split_once(':'));
    if let Some((_, message)) = preview {
        body.insert("message_id".to_owned(), number(message));
        let mut body = addressed(out.thread, Value::Object(body));
        if let Some(fields) = body.as_object_mut() {
            fields.remove("message_thread_id");
        }
        return call(config, "editMessageText", &body);
    }
    reply(out, &mut body);
    call(config, "sendMessage", &addressed(out.thread, Value::Object(body)))
}

/// In a group the answer names what it answers; between two people that is noise.
pub(super) fn reply(out: &Outgoing<'_>, body: &mut Map<String, Value>) {
    let answered = out.answered.map(|answered| answered.external_id);
    let wanted = out
        .message
        .reply_to
        .as_deref()
        .or_else(|| answered.filter(|_| out.piece == 0 && !is_private(out.thread)));
    if let Some((_, message)) = wanted.and_then(|id| id.split_once(':')) {
        let to = json!({ "message_id": number(message), "allow_sending_without_reply": true });
        body.insert("reply_parameters".to_owned(), to);
    }
}

fn place(
    config: &ChannelConfig,
    out: &Outgoing<'_>,
    (latitude, longitude): (f64, f64),
    name: &Option<String>,
    address: &Option<String>,
) -> HttpPlan {
    let spot = json!({ "latitude": latitude, "longitude": longitude });
    match (name, address) {
        (Some(name), Some(address)) => {
            let mut spot = spot;
            spot["title"] = json!(name);
            spot["address"] = json!(address);
            call(config, "sendVenue", &addressed(out.thread, spot))
        }
        _ => call(config, "sendLocation", &addressed(out.thread, spot)),
    }
}

/// Buttons below a message, one to a line where the words are long.
fn keyboard(out: &Outgoing<'_>, part: &Part) -> Option<Value> {
    let button = |button: &Button| match &button.action {
        ButtonAction::Url { url } => json!({ "text": button.label, "url": url }),
        ButtonAction::Postback { value } => {
            json!({ "text": button.label, "callback_data": data(out, &button.id, value) })
        }
    };
    let buttons: Vec<_> = match part {
        Part::Buttons { items, .. } | Part::Card { items, .. } => {
            items.iter().map(|item| (button(item), item.label.chars().count())).collect()
        }
        Part::List { rows, .. } => rows
            .iter()
            .map(|row| {
                let data = data(out, &row.id, &row.value);
                (json!({ "text": row.label, "callback_data": data }), usize::MAX)
            })
            .collect(),
        _ => return None,
    };
    let mut rows: Vec<Vec<Value>> = Vec::new();
    let mut room = 0;
    for (button, length) in buttons {
        match rows.last_mut() {
            Some(row) if length <= room && row.len() < 3 => {
                row.push(button);
                room -= length;
            }
            _ => {
                rows.push(vec![button]);
                room = 24_usize.saturating_sub(length);
            }
        }
    }
    (!rows.is_empty()).then(|| json!({ "inline_keyboard": rows }))
}

/// What a button carries: its value if that fits, else where to find it. One without a value says the
/// words on it, which Telegram gives back with the press.
fn data(out: &Outgoing<'_>, id: &str, value: &str) -> String {
    let carried = if value.is_empty() { format!("b:{id}") } else { format!("v:{value}") };
    if carried.len() <= DATA_MAX {
        return carried;
    }
    format!("r:{}", out.reference(id, value))
}

/// An answer as far as it has grown: a draft between two people, an edited message in a group.
pub(super) fn preview(
    config: &ChannelConfig,
    thread: &str,
    preview: &Preview<'_>,
) -> Option<HttpPlan> {
    let text: String = preview.text.chars().take(DRAFT_MAX - 1).collect();
    let soon = Duration::from_secs(5);
    if is_private(thread) {
        let body = json!({ "draft_id": preview.draft, "text": text });
        return Some(call(config, "sendMessageDraft", &addressed(thread, body)).within(soon));
    }
    let units = text.encode_utf16().count();
    if 4096 <= units {
        return None;
    }
    match preview.message_id.and_then(|id| id.split_once(':')) {
        Some((chat, message)) => {
            let body = json!({
                "chat_id": number(chat), "message_id": number(message), "text": format!("{text} …"),
            });
            Some(call(config, "editMessageText", &body).within(soon))
        }
        None => {
            let body = json!({ "text": format!("{text} …"), "disable_notification": true });
            Some(call(config, "sendMessage", &addressed(thread, body)).within(soon))
        }
    }
}

pub(super) fn classify(plan: &Plan, response: &RawResponse) -> Outcome {
    let answer = response.json();
    if answer["ok"].as_bool() == Some(true) {
        let result = &answer["result"];
        // Of an album the first.
        let result = result.get(0).unwrap_or(result);
        let external_id = result["message_id"].is_i64().then(|| super::read::message_id(result));
        return Outcome::Sent { external_id };
    }
    let said = answer["description"].as_str().unwrap_or_default().to_lowercase();
    let says = |words: &str| said.contains(words);
    if says("message is not modified") {
        return Outcome::Sent { external_id: None };
    }
    if let Plan::Http(made) = plan {
        if response.status == 400
            && (says("can't parse entities") || says("message is too long"))
            && let Some(plain) = without_marks(made)
        {
            return Outcome::Then(vec![Plan::Http(plain)]);
        }
        if made.purpose == "editMessageText"
            && (says("message to edit not found") || says("message can't be edited"))
        {
            return Outcome::Then(vec![Plan::Http(sent_anew(made))]);
        }
        if let Some(chat) = answer["parameters"]["migrate_to_chat_id"].as_i64() {
            return Outcome::Then(vec![Plan::Http(with_field(made, "chat_id", json!(chat)))]);
        }
    }
    let outcome = refusal(response);
    if let (Plan::Http(made), Outcome::Failed(failure)) = (plan, &outcome)
        && made.purpose == "sendMediaGroup"
        && matches!(failure.reason, FailureReason::MediaRejected | FailureReason::ProviderError)
    {
        let singles = files::one_by_one(made);
        return Outcome::Then(singles.into_iter().map(Plan::Http).collect());
    }
    outcome
}

/// What an answer means that is none.
pub(super) fn refusal(response: &RawResponse) -> Outcome {
    let answer = response.json();
    let words = answer["description"].as_str().unwrap_or_default();
    let said = words.to_lowercase();
    let says = |words: &str| said.contains(words);
    match response.status {
        429 => {
            let seconds = answer["parameters"]["retry_after"].as_u64();
            let after = seconds.map(Duration::from_secs).or_else(|| response.retry_after());
            Outcome::Retry {
                after: Some(after.unwrap_or(Duration::from_secs(5))),
                detail: "Telegram asks to wait".to_owned(),
            }
        }
        401 | 404 => Outcome::failed(FailureReason::Auth, format!("Telegram: {words}")),
        403 => Outcome::failed(FailureReason::Blocked, words),
        400 if says("chat not found") || says("user not found") || says("peer_id_invalid") => {
            Outcome::failed(FailureReason::RecipientUnknown, words)
        }
        400 if says("too long") => Outcome::failed(FailureReason::TooLong, words),
        400 if says("not enough rights") || says("have no rights") => {
            Outcome::failed(FailureReason::Policy, words)
        }
        400 if says("failed to get http url content") || says("wrong file") || says("photo") => {
            Outcome::failed(FailureReason::MediaRejected, words)
        }
        400..500 => Outcome::failed(FailureReason::ProviderError, words),
        _ => Outcome::retry(response.excerpt()),
    }
}

fn body_of(plan: &HttpPlan) -> Map<String, Value> {
    match serde_json::from_slice(&plan.body) {
        Ok(Value::Object(body)) => body,
        _ => Map::new(),
    }
}

fn with_body(plan: &HttpPlan, body: Map<String, Value>) -> HttpPlan {
    HttpPlan { body: Value::Object(body).to_string().into_bytes(), ..plan.clone() }
}

fn with_field(plan: &HttpPlan, name: &str, value: Value) -> HttpPlan {
    if let Some(form) = files::with_form_field(plan, name, &value) {
        return form;
    }
    let mut body = body_of(plan);
    body.insert(name.to_owned(), value);
    with_body(plan, body)
}

/// The same words without tags; `None` if there are no tags, or after a try without them.
fn without_marks(plan: &HttpPlan) -> Option<HttpPlan> {
    let mut body = body_of(plan);
    body.remove("parse_mode")?;
    let text = body.get("text").and_then(Value::as_str).map(plain_of_html)?;
    let short: String = text.chars().take(2000).collect();
    let fits = text.encode_utf16().count() <= 4096;
    body.insert("text".to_owned(), json!(if fits { text } else { short }));
    Some(with_body(plan, body))
}

/// The words of the HTML that this module made.
fn plain_of_html(html: &str) -> String {
    let mut text = String::with_capacity(html.len());
    let mut inside = false;
    for letter in html.chars() {
        match letter {
            '<' => inside = true,
            '>' if inside => inside = false,
            _ if !inside => text.push(letter),
            _ => {}
        }
    }
    text.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"").replace("&amp;", "&")
}

/// An edit as a message of its own.
fn sent_anew(plan: &HttpPlan) -> HttpPlan {
    let mut body = body_of(plan);
    body.remove("message_id");
    let url = plan.url.replace("/editMessageText", "/sendMessage");
    HttpPlan { url, purpose: "sendMessage", ..with_body(plan, body) }
}

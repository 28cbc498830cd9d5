//! Messages to Feishu: words as text, Markdown and buttons as a card.

use std::time::Duration;

use qudao_core::channel::{
    adapter::{Failure, FailureReason, Outcome, Outgoing, Preview},
    config::ChannelConfig,
    plan::{ACCESS_TOKEN, FormPart, HttpPlan, OwnFile, Plan, RawResponse},
};
use qudao_domain::message::{Button, ButtonAction, Message, Part, TextFormat};
use serde_json::{Value, json};

use super::api;
use crate::lenient;

/// The largest picture that is shown as one, in bytes.
const IMAGE_MAX: u64 = 10 << 20;

/// The request that sends a message. The platform sends one with a `uuid` that it has seen within
/// the hour only once.
pub(super) fn message(config: &ChannelConfig, out: &Outgoing<'_>) -> Result<Vec<Plan>, Failure> {
    let shown = out.preview_id.filter(|id| out.piece == 0 && is_message_id(id));
    if let Some(id) = shown.filter(|_| file(out.message).is_none()) {
        let plan = patch(config, "send", id, &card(elements(out.message)));
        return Ok(vec![Plan::Http(plan)]);
    }
    let file = file(out.message);
    let (kind, content) = match &file {
        Some((kind, _)) => (*kind, json!({})),
        None => content(out.message),
    };
    let piece = out.piece.to_be_bytes();
    let uuid = &lenient::hash(&[out.id.as_bytes(), b"\0", &piece])[..32];
    let (chat, thread) = place(out.thread);
    if chat.is_empty() {
        let detail = "the conversation names no chat".to_owned();
        return Err(Failure { reason: FailureReason::RecipientUnknown, detail });
    }
    // In a thread one can only answer.
    let answered = out.answered.map(|answered| answered.external_id);
    let parent = out.message.reply_to.as_deref().or(answered.filter(|_| thread.is_some()));
    let parent = parent.filter(|id| is_message_id(id));
    let mut body = json!({"msg_type": kind, "content": content.to_string(), "uuid": uuid});
    let path = match parent {
        Some(parent) => {
            body["reply_in_thread"] = json!(thread.is_some());
            format!("im/v1/messages/{parent}/reply")
        }
        None => {
            body["receive_id"] = json!(chat);
            format!("im/v1/messages?receive_id_type={}", id_type(chat))
        }
    };
    let plan = HttpPlan::post_json("send", api(config, &path), &body).bearer(ACCESS_TOKEN);
    Ok(vec![Plan::Http(match file {
        Some((kind, file)) => upload(config, kind, file).then(plan),
        None => plan,
    })])
}

/// A message's file of which there is a copy, and as what kind of message it is sent.
fn file(message: &Message) -> Option<(&'static str, OwnFile)> {
    let [part] = message.parts.as_slice() else { return None };
    let media = part.media()?;
    let picture = matches!(part, Part::Image(_)) && media.size.is_some_and(|it| it <= IMAGE_MAX);
    if picture {
        return Some(("image", OwnFile::of(media, "image")?));
    }
    OwnFile::of(media, "file").map(|file| ("file", file))
}

/// The request that puts a file into the platform's keeping; its answer has the key by which it is
/// sent.
fn upload(config: &ChannelConfig, kind: &str, file: OwnFile) -> HttpPlan {
    let (path, parts) = if kind == "image" {
        let parts = vec![FormPart::text("image_type", "message"), FormPart::file("image", file)];
        ("im/v1/images", parts)
    } else {
        let parts = vec![
            FormPart::text("file_type", "stream"),
            FormPart::text("file_name", file.name.clone()),
            FormPart::file("file", file),
        ];
        ("im/v1/files", parts)
    };
    HttpPlan::post_form("upload", api(config, path), parts).bearer(ACCESS_TOKEN)
}

/// The message that waits for the key of what was uploaded.
fn keyed(next: &HttpPlan, body: &Value) -> Option<HttpPlan> {
    let keys = ["image_key", "file_key"].into_iter();
    let (name, key) = keys
        .filter_map(|name| Some((name, lenient::some_text(body, &format!("/data/{name}"))?)))
        .next()?;
    let content = json!({ name: key }).to_string();
    Some(next.clone().filled("/content", json!(content)))
}

/// The request that shows an answer so far: a card first, then its changes.
pub(super) fn preview(config: &ChannelConfig, thread: &str, preview: &Preview<'_>) -> HttpPlan {
    let text = without_tags(preview.text);
    let content = card(vec![json!({"tag": "markdown", "content": text})]);
    match preview.message_id.filter(|id| is_message_id(id)) {
        Some(id) => patch(config, "preview", id, &content),
        None => {
            let content = content.to_string();
            let (chat, _) = place(thread);
            let path = format!("im/v1/messages?receive_id_type={}", id_type(chat));
            let uuid = format!("preview.{}", preview.draft);
            let body = json!({
                "receive_id": chat, "msg_type": "interactive", "content": content, "uuid": uuid,
            });
            HttpPlan::post_json("preview", api(config, &path), &body).bearer(ACCESS_TOKEN)
        }
    }
}

/// The request that puts a card in the place of another.
fn patch(config: &ChannelConfig, purpose: &'static str, id: &str, card: &Value) -> HttpPlan {
    let url = api(config, &format!("im/v1/messages/{id}"));
    let body = json!({"content": card.to_string()});
    HttpPlan::post_json(purpose, url, &body).method("PATCH").bearer(ACCESS_TOKEN)
}

/// A conversation's chat and thread.
fn place(thread: &str) -> (&str, Option<&str>) {
    thread.split_once(' ').map_or((thread, None), |(chat, thread)| (chat, Some(thread)))
}

/// People and chats have ids of their own.
fn id_type(id: &str) -> &'static str {
    if id.starts_with("ou_") { "open_id" } else { "chat_id" }
}

/// An id stands in the path of an address.
fn is_message_id(id: &str) -> bool {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '_' | '-');
    id.starts_with("om_") && id.chars().all(plain)
}

fn content(message: &Message) -> (&'static str, Value) {
    if let [Part::Text { format: TextFormat::Plain, text }] = message.parts.as_slice() {
        return ("text", json!({"text": without_tags(text)}));
    }
    ("interactive", card(elements(message)))
}

/// The parts of a card.
fn elements(message: &Message) -> Vec<Value> {
    let elements = message.parts.iter().flat_map(|part| match part {
        Part::Text { format: TextFormat::Markdown, text } => {
            vec![json!({"tag": "markdown", "content": without_tags(text)})]
        }
        Part::Buttons { items, .. } => items.iter().map(button).collect(),
        other => {
            let text = json!({"tag": "plain_text", "content": other.to_text()});
            vec![json!({"tag": "div", "text": text})]
        }
    });
    elements.collect()
}

/// Words in which nothing is a tag: a model that writes one would ring everybody in a group.
fn without_tags(text: &str) -> String {
    text.replace("<at", "<\u{200b}at")
}

fn card(elements: Vec<Value>) -> Value {
    json!({"schema": "2.0", "config": {"update_multi": true}, "body": {"elements": elements}})
}

fn button(button: &Button) -> Value {
    let behaviour = match &button.action {
        ButtonAction::Url { url } => json!({"type": "open_url", "default_url": url}),
        ButtonAction::Postback { value } => {
            let value = if value.is_empty() { &button.label } else { value };
            json!({"type": "callback", "value": {"id": button.id, "value": value}})
        }
    };
    json!({
        "tag": "button",
        "text": {"tag": "plain_text", "content": button.label},
        "behaviors": [behaviour],
    })
}

/// What the platform's answer means, by its own codes.
pub(super) fn classify(plan: &Plan, response: &RawResponse) -> Outcome {
    let body = response.json();
    let detail = response.excerpt();
    let reset = response.header("x-ogw-ratelimit-reset").and_then(|text| text.trim().parse().ok());
    let after = reset.map(Duration::from_secs).or_else(|| response.retry_after());
    let Some(code) = lenient::number(&body, "/code") else {
        // Only its gateway answers without a code.
        return match response.status {
            400 | 404 | 405 => Outcome::failed(FailureReason::ProviderError, detail),
            413 => Outcome::failed(FailureReason::TooLong, detail),
            _ => Outcome::Retry { after, detail },
        };
    };
    if code == 0
        && let Plan::Http(HttpPlan { then: Some(next), .. }) = plan
    {
        return match keyed(next, &body) {
            Some(next) => Outcome::Then(vec![Plan::Http(next)]),
            None => Outcome::retry(detail),
        };
    }
    match code {
        0 => {
            let made = lenient::some_text(&body, "/data/message_id");
            Outcome::Sent { external_id: made.or_else(|| edited(plan)) }
        }
        99_991_400 | 230_020 | 230_049 | 11_232 | 11_233 => Outcome::Retry { after, detail },
        99_991_661 | 99_991_663 | 99_991_664 | 99_991_665 | 99_991_668 | 99_991_671 => {
            Outcome::TokenExpired
        }
        99_991_662 | 99_991_672 | 99_991_679 | 10_003 | 10_014 | 230_027 => {
            Outcome::failed(FailureReason::Auth, detail)
        }
        // Out of the chat, or out of the person's reach.
        230_002 | 230_013 | 230_034 | 230_035 | 230_053 => {
            Outcome::failed(FailureReason::Blocked, detail)
        }
        230_025 => Outcome::failed(FailureReason::TooLong, detail),
        230_006 | 230_018 | 230_028 => Outcome::failed(FailureReason::Policy, detail),
        230_029 | 230_030 | 232_009 | 230_003 => {
            Outcome::failed(FailureReason::RecipientUnknown, detail)
        }
        _ if response.status == 429 || response.status >= 500 => Outcome::Retry { after, detail },
        _ => Outcome::failed(FailureReason::ProviderError, detail),
    }
}

/// The message that a plan changes: the answer does not name it.
fn edited(plan: &Plan) -> Option<String> {
    let Plan::Http(plan) = plan else { return None };
    let id = plan.url.rsplit('/').next().filter(|id| plan.method == "PATCH" && is_message_id(id));
    id.map(str::to_owned)
}

//! Messages as bodies of the Send API of Messenger and Instagram.

use qudao_core::channel::adapter::{Failure, FailureReason, Outgoing};
use qudao_domain::{
    capability::Unit,
    message::{Button, ButtonAction, Media, Part, Row},
    render::split,
};
use serde_json::{Value, json};

use super::{
    Meta,
    cloud::{POINTER, with_links},
};
use crate::press;

/// The longest words beside buttons, and each of a card's two lines.
const TEMPLATE_MAX: usize = 640;
const LINE_MAX: usize = 80;
/// The most of what a button carries, in bytes.
const DATA_MAX: usize = 900;
/// The most buttons of one template.
const BUTTONS_MAX: usize = 3;

/// The bodies that say it, in order.
pub(super) fn render(kind: Meta, out: &Outgoing<'_>) -> Result<Vec<Value>, Failure> {
    let mut said = String::new();
    let mut messages = Vec::new();
    for part in &out.message.parts {
        match part {
            Part::Text { text, .. } => said.clone_from(text),
            Part::Buttons { items, .. } => {
                let (buttons, rest) = items.split_at(items.len().min(BUTTONS_MAX));
                let all = with_links(std::mem::take(&mut said), &rest.iter().collect::<Vec<_>>());
                let fits = !all.is_empty() && Unit::Utf16.count(&all) <= TEMPLATE_MAX;
                if !fits {
                    messages.extend(words(kind, &all));
                }
                let text = if fits { &all } else { POINTER };
                messages.push(template(json!({ "template_type": "button", "text": text,
                    "buttons": buttons.iter().map(button).collect::<Vec<_>>() })));
            }
            Part::List { rows, .. } => {
                let mut pieces = words(kind, &said);
                said.clear();
                let mut last = pieces.pop().unwrap_or_else(|| json!({ "text": POINTER }));
                last["quick_replies"] = rows.iter().map(quick_reply).collect();
                messages.extend(pieces);
                messages.push(last);
            }
            Part::Card { title, text, image_url, items, .. } => {
                messages.extend(words(kind, &said));
                said.clear();
                let (buttons, rest) = items.split_at(items.len().min(BUTTONS_MAX));
                messages.push(card(title, text.as_deref(), image_url.as_deref(), buttons));
                let long = text.as_deref().filter(|text| LINE_MAX < text.chars().count());
                let below = long.unwrap_or_default().to_owned();
                said = with_links(below, &rest.iter().collect::<Vec<_>>());
            }
            own if own.media().is_some_and(is_own) => said.push_str(&own.to_text()),
            Part::Image(media) => messages.push(file("image", media)?),
            Part::Audio(media) => messages.push(file("audio", media)?),
            Part::Video(media) => messages.push(file("video", media)?),
            Part::File(media) => messages.push(file("file", media)?),
            other => said.push_str(&other.to_text()),
        }
    }
    messages.extend(words(kind, &said));
    let body = |message: Value| {
        json!({ "recipient": { "id": out.thread }, "messaging_type": "RESPONSE",
            "message": message })
    };
    Ok(messages.into_iter().map(body).collect())
}

fn words(kind: Meta, text: &str) -> Vec<Value> {
    let (max, unit) =
        if kind == Meta::Instagram { (1000, Unit::Bytes) } else { (2000, Unit::Utf16) };
    split(text, max, unit).into_iter().map(|text| json!({ "text": text })).collect()
}

fn template(payload: Value) -> Value {
    json!({ "attachment": { "type": "template", "payload": payload } })
}

fn card(title: &str, text: Option<&str>, image: Option<&str>, items: &[Button]) -> Value {
    let mut element = json!({ "title": press::cut(title, LINE_MAX) });
    if let Some(text) = text {
        element["subtitle"] = json!(press::cut(text, LINE_MAX));
    }
    if let Some(image) = image {
        element["image_url"] = json!(image);
    }
    if !items.is_empty() {
        element["buttons"] = items.iter().map(button).collect();
    }
    template(json!({ "template_type": "generic", "elements": [element] }))
}

fn button(item: &Button) -> Value {
    let title = press::cut(&item.label, 20);
    match &item.action {
        ButtonAction::Url { url } => json!({ "type": "web_url", "url": url, "title": title }),
        ButtonAction::Postback { value } => {
            let payload = press::carry(&item.id, value, DATA_MAX);
            json!({ "type": "postback", "title": title, "payload": payload })
        }
    }
}

fn quick_reply(row: &Row) -> Value {
    let payload = press::carry(&row.id, &row.value, DATA_MAX);
    json!({ "content_type": "text", "title": press::cut(&row.label, 20), "payload": payload })
}

/// A file of which nobody but the platform has a copy: Meta cannot fetch it, so it is told in words.
fn is_own(media: &Media) -> bool {
    media.upload_id.is_some() && media.url.is_none()
}

fn file(kind: &str, media: &Media) -> Result<Value, Failure> {
    let url = media.url.as_deref().ok_or_else(|| Failure {
        reason: FailureReason::MediaRejected,
        detail: "the file has no address that Meta could fetch".to_owned(),
    })?;
    Ok(json!({ "attachment": { "type": kind, "payload": { "url": url, "is_reusable": false } } }))
}

//! Messages as bodies of the WhatsApp Cloud API.

use qudao_core::channel::{
    adapter::{Failure, FailureReason, Outgoing},
    plan::OwnFile,
};
use qudao_domain::{
    capability::Unit,
    message::{Button, ButtonAction, Media, Part, Row, TextFormat},
    render::split,
};
use serde_json::{Value, json};

use super::marks;
use crate::press;

/// The longest words of one message, and of one with buttons.
const TEXT_MAX: usize = 4096;
const BODY_MAX: usize = 1024;
/// The most of what a button carries, in bytes; of a row it is less.
const DATA_MAX: usize = 200;
/// What stands above buttons that nothing was said to.
pub(super) const POINTER: &str = "👇";

/// The bodies that say it, in order.
pub(super) fn render(out: &Outgoing<'_>) -> Result<Vec<Value>, Failure> {
    // The thread is the own number's id and the person's.
    let to = out.thread.rsplit('/').next().unwrap_or(out.thread);
    let mut said = String::new();
    let mut bodies = Vec::new();
    for part in &out.message.parts {
        match part {
            Part::Text { format: TextFormat::Markdown, text } => said = marks::whatsapp(text),
            Part::Text { text, .. } => said.clone_from(text),
            Part::Buttons { items, .. } => {
                bodies.extend(with_buttons(std::mem::take(&mut said), None, items));
            }
            Part::List { label, rows, .. } => {
                let (before, body) = tail(&std::mem::take(&mut said), BODY_MAX);
                bodies.extend(before.iter().map(|text| words(text)));
                bodies.push(list(&body, label, rows));
            }
            Part::Card { title, text, image_url, items, .. } => {
                let title = format!("*{title}*");
                let lines = [said.as_str(), &title, text.as_deref().unwrap_or_default()];
                let lines: Vec<_> = lines.into_iter().filter(|line| !line.is_empty()).collect();
                said = lines.join("\n\n");
                let said = std::mem::take(&mut said);
                bodies.extend(with_buttons(said, image_url.as_deref(), items));
            }
            Part::Image(media) => bodies.push(file("image", media)?),
            Part::Audio(media) => bodies.push(file("audio", media)?),
            Part::Video(media) => bodies.push(file("video", media)?),
            Part::File(media) => bodies.push(file("document", media)?),
            Part::Location { latitude, longitude, name, address } => {
                bodies.push(json!({ "type": "location", "location": { "latitude": latitude,
                    "longitude": longitude, "name": name, "address": address } }));
            }
            Part::Contact { name, phone } => bodies.push(contact(name, phone.as_deref())),
            Part::Quote { .. } => said.push_str(&part.to_text()),
        }
    }
    let rest = split(&said, TEXT_MAX, Unit::Utf16);
    bodies.extend(rest.iter().map(|text| words(text)));
    for body in &mut bodies {
        address(body, to);
    }
    if let (Some(first), Some(answered)) = (bodies.first_mut(), &out.message.reply_to) {
        first["context"] = json!({ "message_id": answered });
    }
    Ok(bodies)
}

/// A code by an authentication template, whose button takes it over on the person's telephone.
pub(super) fn code(thread: &str, (template, language): (&str, &str), code: &str) -> Value {
    let said = json!([{ "type": "text", "text": code }]);
    let mut body = json!({ "type": "template", "template": {
        "name": template, "language": { "code": language },
        "components": [
            { "type": "body", "parameters": said },
            { "type": "button", "sub_type": "url", "index": "0", "parameters": said },
        ],
    } });
    address(&mut body, thread.rsplit('/').next().unwrap_or(thread));
    body
}

fn with_buttons(said: String, image: Option<&str>, items: &[Button]) -> Vec<Value> {
    let (buttons, links) = links(items);
    let (before, body) = tail(&with_links(said, &links), BODY_MAX);
    let before = before.iter().map(|text| words(text));
    before.chain(std::iter::once(interactive(image, &body, &buttons))).collect()
}

/// Who shows no number is known by an id with letters, which has a field of its own.
fn address(body: &mut Value, to: &str) {
    body["messaging_product"] = json!("whatsapp");
    body["recipient_type"] = json!("individual");
    let number = to.bytes().all(|byte| byte.is_ascii_digit());
    body[if number { "to" } else { "recipient" }] = json!(to);
}

fn words(text: &str) -> Value {
    json!({ "type": "text", "text": { "preview_url": false, "body": text } })
}

/// What is too long to stand with buttons, and its end, which stands with them.
pub(super) fn tail(text: &str, max: usize) -> (Option<String>, String) {
    let pieces = split(text, max, Unit::Utf16);
    match pieces.last() {
        None => (None, POINTER.to_owned()),
        Some(only) if pieces.len() == 1 => (None, only.clone()),
        Some(last) => match text.trim_end().strip_suffix(last.trim_end()) {
            Some(before) if Unit::Utf16.count(before) <= TEXT_MAX => {
                (Some(before.trim_end().to_owned()), last.clone())
            }
            _ => (Some(text.to_owned()), POINTER.to_owned()),
        },
    }
}

/// Buttons that WhatsApp can show together: those that say something, or a single page.
fn links(items: &[Button]) -> (Vec<&Button>, Vec<&Button>) {
    if items.len() == 1 {
        return (items.iter().collect(), Vec::new());
    }
    let says = |item: &&Button| matches!(item.action, ButtonAction::Postback { .. });
    let (mut says, mut others): (Vec<_>, Vec<_>) = items.iter().partition(says);
    others.extend(says.drain(says.len().min(3)..));
    (says, others)
}

pub(super) fn with_links(mut said: String, links: &[&Button]) -> String {
    for link in links {
        if !said.is_empty() {
            said.push('\n');
        }
        said.push_str(&link.to_text());
    }
    said
}

fn interactive(image: Option<&str>, body: &str, buttons: &[&Button]) -> Value {
    let header = image.map(|link| json!({ "type": "image", "image": { "link": link } }));
    let mut interactive = match buttons {
        [] => {
            return match image {
                Some(link) => {
                    json!({ "type": "image", "image": { "link": link, "caption": body } })
                }
                None => words(body),
            };
        }
        [Button { label, action: ButtonAction::Url { url }, .. }] => {
            let parameters = json!({ "display_text": press::cut(label, 20), "url": url });
            json!({ "type": "cta_url", "action": { "name": "cta_url", "parameters": parameters } })
        }
        buttons => {
            let reply = |button: &&Button| {
                let value = match &button.action {
                    ButtonAction::Postback { value } => value.as_str(),
                    ButtonAction::Url { url } => url.as_str(),
                };
                let id = press::carry(&button.id, value, DATA_MAX);
                json!({ "type": "reply", "reply": { "id": id, "title": press::cut(&button.label, 20) } })
            };
            let buttons: Vec<_> = buttons.iter().map(reply).collect();
            json!({ "type": "button", "action": { "buttons": buttons } })
        }
    };
    interactive["body"] = json!({ "text": body });
    if let Some(header) = header {
        interactive["header"] = header;
    }
    json!({ "type": "interactive", "interactive": interactive })
}

fn list(body: &str, label: &str, rows: &[Row]) -> Value {
    let row = |row: &Row| {
        let id = press::carry(&row.id, &row.value, DATA_MAX);
        let mut made = json!({ "id": id, "title": press::cut(&row.label, 24) });
        if let Some(words) = row.description.as_deref().filter(|words| !words.is_empty()) {
            made["description"] = json!(press::cut(words, 72));
        }
        made
    };
    let rows: Vec<_> = rows.iter().map(row).collect();
    json!({ "type": "interactive", "interactive": {
        "type": "list", "body": { "text": body },
        "action": { "button": press::cut(label, 20), "sections": [{ "rows": rows }] } } })
}

/// A file by its address, or by the id that its upload will have.
fn file(kind: &str, media: &Media) -> Result<Value, Failure> {
    let mut body =
        if own(media).is_some() { json!({ "id": "" }) } else { json!({ "link": link(media)? }) };
    if let Some(caption) = media.caption.as_deref().filter(|_| kind != "audio") {
        body["caption"] = json!(caption);
    }
    if let Some(name) = media.name.as_deref().filter(|_| kind == "document") {
        body["filename"] = json!(name);
    }
    Ok(json!({ "type": kind, kind: body }))
}

/// The platform's own copy of a file.
pub(super) fn own(media: &Media) -> Option<OwnFile> {
    OwnFile::of(media, "file")
}

/// Where the id of what was uploaded belongs in a body that waits for it.
pub(super) fn place_of_id(body: &Value) -> Option<String> {
    let kind = body["type"].as_str()?;
    (body[kind]["id"] == "").then(|| format!("/{kind}/id"))
}

fn link(media: &Media) -> Result<&str, Failure> {
    media.url.as_deref().ok_or_else(|| Failure {
        reason: FailureReason::MediaRejected,
        detail: "the file has no address that WhatsApp could fetch".to_owned(),
    })
}

fn contact(name: &str, phone: Option<&str>) -> Value {
    let phones: Vec<_> = phone.iter().map(|phone| json!({ "phone": phone })).collect();
    let name = json!({ "formatted_name": name, "first_name": name });
    json!({ "type": "contacts", "contacts": [{ "name": name, "phones": phones }] })
}

//! Messages and events of both platforms, which have one form.

use jiff::Timestamp;
use qudao_core::channel::event::{Attribution, Event, EventBody, Person, Thread};
use qudao_domain::message::{Media, Message, Part, TextFormat};
use serde_json::Value;

use crate::lenient::{self, decimal, kind, some_text, text};

/// What a document says.
pub(super) fn event(raw: Value) -> Event {
    let what = text(&raw, "/MsgType");
    let sender = text(&raw, "/FromUserName");
    let created = text(&raw, "/CreateTime");
    let body = match what.as_str() {
        _ if sender.is_empty() => unknown("message_without_sender"),
        "event" => happened(&raw),
        _ => said(&what, &raw),
    };
    let attribution =
        scene(&raw).map(|scene| Attribution { reference: Some(scene), ..Attribution::default() });
    Event {
        id: id(&raw),
        thread: Thread { external_id: lenient::id(&sender), group: false },
        sender: Person { external_id: lenient::id(&sender), ..Person::default() },
        body,
        attribution,
        at: created.parse().ok().and_then(|second| Timestamp::from_second(second).ok()),
        raw,
    }
}

/// Whether somebody waits for an answer.
pub(super) fn wants_answer(event: &Event) -> bool {
    matches!(event.body, EventBody::Message { .. } | EventBody::Pressed { .. })
}

/// A message's id; an event is its sender's at its second.
fn id(raw: &Value) -> String {
    if let Some(id) = some_text(raw, "/MsgId").filter(|id| id != "0") {
        return lenient::id(&id);
    }
    let parts = ["/FromUserName", "/CreateTime", "/MsgType", "/Event", "/EventKey", "/TaskId"];
    let parts = parts.map(|pointer| text(raw, pointer));
    lenient::hash(&[parts.join("\n").as_bytes()])
}

fn unknown(name: &str) -> EventBody {
    EventBody::Unknown { kind: kind(name) }
}

fn said(what: &str, raw: &Value) -> EventBody {
    // A menu that was sent as a message: what was chosen comes as a message too.
    if let Some(value) = some_text(raw, "/bizmsgmenuid") {
        return EventBody::Pressed { value };
    }
    let Some(part) = part(what, raw) else { return unknown(&format!("message_{what}")) };
    let message = Message { parts: vec![part], reply_to: None };
    EventBody::Message { external_id: id(raw), message }
}

fn part(what: &str, raw: &Value) -> Option<Part> {
    let plain = |text: String| Part::Text { format: TextFormat::Plain, text };
    let file = |mime: Option<&str>| {
        let external_id = some_text(raw, "/MediaId").map(|id| lenient::id(&id));
        external_id.map(|id| Media {
            external_id: Some(id),
            mime: mime.map(str::to_owned),
            ..Media::default()
        })
    };
    Some(match what {
        "text" => plain(some_text(raw, "/Content")?),
        "image" => Part::Image(file(Some("image/jpeg"))?),
        "voice" => {
            let heard = some_text(raw, "/Recognition");
            let mime = match text(raw, "/Format").as_str() {
                "speex" => "audio/speex",
                _ => "audio/amr",
            };
            // What the platform heard is what the person said, as far as anybody knows.
            Part::Audio(Media { voice: true, caption: heard, ..file(Some(mime))? })
        }
        "video" | "shortvideo" => Part::Video(file(Some("video/mp4"))?),
        "file" => Part::File(Media { name: some_text(raw, "/FileName"), ..file(None)? }),
        "location" => Part::Location {
            latitude: decimal(raw, "/Location_X").filter(|degrees| degrees.abs() <= 90.0)?,
            longitude: decimal(raw, "/Location_Y").filter(|degrees| degrees.abs() <= 180.0)?,
            name: None,
            address: some_text(raw, "/Label"),
        },
        "link" => {
            let words = ["/Title", "/Description", "/Url"].map(|pointer| text(raw, pointer));
            let words: Vec<_> = words.into_iter().filter(|text| !text.is_empty()).collect();
            (!words.is_empty()).then(|| plain(words.join("\n")))?
        }
        _ => return None,
    })
}

fn happened(raw: &Value) -> EventBody {
    let what = text(raw, "/Event");
    match what.to_ascii_lowercase().as_str() {
        "subscribe" | "scan" => EventBody::Reachable,
        "unsubscribe" => EventBody::Unreachable,
        "click" | "template_card_event" => match some_text(raw, "/EventKey") {
            Some(value) => EventBody::Pressed { value },
            None => unknown(&what),
        },
        _ => unknown(&format!("event_{}", what.to_ascii_lowercase())),
    }
}

/// The scene of the QR code through which somebody came.
fn scene(raw: &Value) -> Option<String> {
    let key = some_text(raw, "/EventKey")?;
    let scene = match text(raw, "/Event").to_ascii_lowercase().as_str() {
        "subscribe" => key.strip_prefix("qrscene_")?,
        "scan" => &key,
        _ => return None,
    };
    (!scene.is_empty()).then(|| scene.chars().take(200).collect())
}

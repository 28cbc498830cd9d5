//! What LINE sends, as events.

use qudao_core::channel::event::{Event, EventBody, Person, Thread};
use qudao_domain::message::{Media, Message, Part, TextFormat};
use serde_json::Value;

use crate::{
    press,
    wire::{id, list, made_id, millis, owned, stored, text, unknown},
};

/// The events of a body that was verified: none if LINE only tries the address.
pub(super) fn read(body: &Value) -> Vec<Event> {
    match body.pointer("/events").and_then(Value::as_array) {
        Some(events) => events.iter().map(read_event).collect(),
        None => vec![stored("body_without_events", body)],
    }
}

fn read_event(event: &Value) -> Event {
    let kind = text(event, "/type").unwrap_or("unnamed");
    let group = ["/source/groupId", "/source/roomId"].iter().find_map(|at| id(event, at));
    let who = id(event, "/source/userId").unwrap_or_default();
    let mut read = Event {
        id: id(event, "/webhookEventId").unwrap_or_else(|| made_id(event)),
        thread: Thread {
            group: group.is_some(),
            external_id: group.unwrap_or_else(|| who.clone()),
        },
        sender: Person { external_id: who, ..Person::default() },
        at: millis(event, "/timestamp"),
        ..stored(kind, event)
    };
    if read.thread.external_id.is_empty() {
        return read;
    }
    // Another module of the account has the conversation.
    if text(event, "/mode") == Some("standby") {
        read.body = EventBody::Overheard;
        return read;
    }
    match kind {
        "message" => read.body = message(event, read.thread.group),
        "postback" => {
            let value = press::said(text(event, "/postback/data").unwrap_or_default(), None);
            if !value.is_empty() {
                read.body = EventBody::Pressed { value };
            }
        }
        "unsend" => {
            if let Some(external_id) = id(event, "/unsend/messageId") {
                read.body = EventBody::Deleted { external_id };
            }
        }
        "follow" => read.body = EventBody::Reachable,
        "unfollow" => read.body = EventBody::Unreachable,
        _ => {}
    }
    read
}

fn message(event: &Value, group: bool) -> EventBody {
    let kind = text(event, "/message/type").unwrap_or("unnamed");
    let Some(external_id) = id(event, "/message/id") else {
        return unknown("message_without_id");
    };
    if group && !is_called(event) {
        return EventBody::Overheard;
    }
    match part(kind, event) {
        Some(part) => {
            let reply_to = id(event, "/message/quotedMessageId");
            EventBody::Message { external_id, message: Message { parts: vec![part], reply_to } }
        }
        None => unknown(&format!("message_{kind}")),
    }
}

fn is_called(event: &Value) -> bool {
    let named = list(event, "/message/mention/mentionees");
    named.iter().any(|one| one.pointer("/isSelf") == Some(&Value::Bool(true)))
}

fn part(kind: &str, event: &Value) -> Option<Part> {
    let degrees = |at: &str| event.pointer(at).and_then(Value::as_f64);
    Some(match kind {
        "text" => words(text(event, "/message/text")?),
        "image" => Part::Image(media(event)),
        "audio" => Part::Audio(Media { voice: true, ..media(event) }),
        "video" => Part::Video(media(event)),
        "file" => Part::File(media(event)),
        "location" => Part::Location {
            latitude: degrees("/message/latitude")?,
            longitude: degrees("/message/longitude")?,
            name: owned(event, "/message/title"),
            address: owned(event, "/message/address"),
        },
        "sticker" => {
            let written = owned(event, "/message/text");
            let meant = list(event, "/message/keywords").iter().filter_map(Value::as_str);
            let meant = meant.take(3).collect::<Vec<_>>().join(", ");
            match written.unwrap_or(meant) {
                meant if meant.is_empty() => words("[sticker]"),
                meant => words(&format!("[sticker: {meant}]")),
            }
        }
        _ => return None,
    })
}

fn words(text: &str) -> Part {
    Part::Text { format: TextFormat::Plain, text: text.to_owned() }
}

/// A file is LINE's, by the message's id, or its sender's, by an address.
fn media(event: &Value) -> Media {
    let external = text(event, "/message/contentProvider/type") == Some("external");
    let address = owned(event, "/message/contentProvider/originalContentUrl");
    Media {
        external_id: if external { None } else { id(event, "/message/id") },
        url: address.filter(|_| external),
        name: owned(event, "/message/fileName"),
        size: event.pointer("/message/fileSize").and_then(Value::as_u64),
        ..Media::default()
    }
}

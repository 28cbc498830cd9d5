//! What Discord sends, as events: interactions, and what is dispatched over the socket.

use qudao_core::channel::event::{Event, EventBody, Person, Thread};
use qudao_domain::message::{Media, Message, Part, TextFormat};
use serde_json::{Value, json};

use crate::{
    press,
    wire::{id, list, made_id, owned, short, stored, text, unknown},
};

/// An interaction. `raw` is what of it is kept.
pub(super) fn interaction(body: &Value, raw: Value) -> Event {
    let kind = body.get("type").and_then(Value::as_i64).unwrap_or_default();
    let channel = id(body, "/channel_id").or_else(|| id(body, "/channel/id"));
    let user = ["/member/user", "/user"].iter().find_map(|at| body.pointer(at));
    let user = user.unwrap_or(&Value::Null);
    let own_id = id(body, "/id");
    let mut read = Event {
        id: own_id.clone().unwrap_or_else(|| made_id(body)),
        thread: Thread {
            external_id: channel.clone().unwrap_or_default(),
            group: id(body, "/guild_id").is_some() || body.pointer("/context") == Some(&json!(2)),
        },
        sender: Person { locale: owned(body, "/locale"), ..person(user) },
        ..stored(&format!("interaction_{kind}"), &raw)
    };
    let (Some(own_id), Some(_)) = (own_id, channel) else { return read };
    let says = |parts: Vec<Part>| {
        let message = Message { parts, reply_to: None };
        EventBody::Message { external_id: own_id.clone(), message }
    };
    match kind {
        2 => read.body = says(command(body)),
        3 => {
            if let Some(value) = pressed(body) {
                read.body = EventBody::Pressed { value };
            }
        }
        5 => {
            let mut fields = Vec::new();
            written(body.pointer("/data/components").unwrap_or(&Value::Null), 0, &mut fields);
            if !fields.is_empty() {
                read.body = says(vec![words(&fields.join("\n"))]);
            }
        }
        _ => {}
    }
    read
}

fn words(text: &str) -> Part {
    Part::Text { format: TextFormat::Plain, text: text.to_owned() }
}

/// A command says its options, and the message that it was called upon; else its name.
fn command(body: &Value) -> Vec<Part> {
    let mut told = Vec::new();
    let mut parts = Vec::new();
    let mut open = vec![list(body, "/data/options")];
    while let Some(options) = open.pop() {
        for option in options {
            open.push(list(option, "/options"));
            let value = option.get("value").unwrap_or(&Value::Null);
            let file = value
                .as_str()
                .and_then(|id| body.pointer(&format!("/data/resolved/attachments/{id}")));
            match (file, value) {
                (Some(file), _) => parts.push(attachment(file, false)),
                (None, Value::String(text)) => told.push(text.clone()),
                (None, Value::Number(_) | Value::Bool(_)) => told.push(value.to_string()),
                _ => {}
            }
        }
    }
    if let Some(target) = text(body, "/data/target_id") {
        let message = body.pointer(&format!("/data/resolved/messages/{target}"));
        let said = message.and_then(|message| owned(message, "/content"));
        if let Some(said) = said {
            parts.push(Part::Quote { text: said, message_id: Some(short(target)) });
        }
    }
    let name = text(body, "/data/name").unwrap_or("command");
    if !told.is_empty() {
        parts.insert(0, words(&told.join("\n")));
    } else if parts.is_empty() || matches!(parts[0], Part::Quote { .. }) {
        parts.insert(0, words(&format!("/{name}")));
    }
    parts
}

fn pressed(body: &Value) -> Option<String> {
    let components = body.pointer("/message/components").unwrap_or(&Value::Null);
    let chosen = list(body, "/data/values").iter().filter_map(Value::as_str);
    let chosen: Vec<_> = chosen.map(|data| said(components, data)).collect();
    let value = if chosen.is_empty() {
        said(components, text(body, "/data/custom_id")?)
    } else {
        chosen.join(", ")
    };
    (!value.is_empty()).then_some(value)
}

fn said(components: &Value, data: &str) -> String {
    press::said(data, label(components, data, 0))
}

/// What the button or option with this data says. Components stand within components.
fn label<'a>(value: &'a Value, data: &str, depth: u32) -> Option<&'a str> {
    match value {
        Value::Array(items) if depth < 8 => {
            items.iter().find_map(|item| label(item, data, depth + 1))
        }
        Value::Object(fields) if depth < 8 => {
            let here = ["custom_id", "value"]
                .iter()
                .any(|name| fields.get(*name).and_then(Value::as_str) == Some(data));
            let own = fields.get("label").and_then(Value::as_str).filter(|_| here);
            let inner = ["components", "options"].iter().filter_map(|name| fields.get(*name));
            own.or_else(|| inner.into_iter().find_map(|inner| label(inner, data, depth + 1)))
        }
        _ => None,
    }
}

/// The texts of a form.
fn written(value: &Value, depth: u32, fields: &mut Vec<String>) {
    match value {
        Value::Array(items) if depth < 8 => {
            items.iter().for_each(|item| written(item, depth + 1, fields));
        }
        Value::Object(inner) if depth < 8 => {
            if let Some(text) = inner.get("value").and_then(Value::as_str)
                && !text.is_empty()
            {
                fields.push(text.to_owned());
            }
            for name in ["component", "components"] {
                written(inner.get(name).unwrap_or(&Value::Null), depth + 1, fields);
            }
        }
        _ => {}
    }
}

/// What was dispatched over the socket. `own` is the bot's user.
pub(super) fn dispatched(kind: &str, data: &Value, own: Option<&str>) -> Vec<Event> {
    let raw = json!({ "t": kind, "d": data });
    if kind == "INTERACTION_CREATE" {
        return vec![interaction(data, raw)];
    }
    let mut read = Event {
        thread: Thread {
            external_id: id(data, "/channel_id").unwrap_or_default(),
            group: id(data, "/guild_id").is_some(),
        },
        at: text(data, "/timestamp").and_then(|at| at.parse().ok()),
        ..stored(&kind.to_ascii_lowercase(), &raw)
    };
    if read.thread.external_id.is_empty() {
        return vec![read];
    }
    let message_id = id(data, "/id");
    match (kind, message_id) {
        ("MESSAGE_CREATE", Some(message_id)) => created(data, own, message_id, &mut read),
        ("MESSAGE_UPDATE", Some(message_id)) => {
            read.sender = person(data.pointer("/author").unwrap_or(&Value::Null));
            let bot = data.pointer("/author/bot") == Some(&Value::Bool(true));
            // Without a time of editing it is the preview of a link.
            if let (Some(at), false) = (text(data, "/edited_timestamp"), bot) {
                read.id = short(&format!("{message_id}:{at}"));
                let message = content(data, own);
                read.body = EventBody::Edited { external_id: message_id, message };
            }
        }
        ("MESSAGE_DELETE", Some(message_id)) => {
            read.id = short(&format!("{message_id}:deleted"));
            read.body = EventBody::Deleted { external_id: message_id };
        }
        ("MESSAGE_DELETE_BULK", _) => {
            let ids = list(data, "/ids").iter().filter_map(|one| id(one, ""));
            let deleted = ids.map(|message_id| Event {
                id: short(&format!("{message_id}:deleted")),
                body: EventBody::Deleted { external_id: message_id },
                ..read.clone()
            });
            let deleted: Vec<_> = deleted.collect();
            return if deleted.is_empty() { vec![read] } else { deleted };
        }
        ("MESSAGE_REACTION_ADD" | "MESSAGE_REACTION_REMOVE", _) => {
            read.sender.external_id = id(data, "/user_id").unwrap_or_default();
            let own_sign = own.is_some() && own == Some(read.sender.external_id.as_str());
            if let (Some(external_id), false) = (id(data, "/message_id"), own_sign) {
                let sign = owned(data, "/emoji/name").unwrap_or_default();
                let added = kind == "MESSAGE_REACTION_ADD";
                read.body = EventBody::Reaction { external_id, sign, added };
            }
        }
        ("TYPING_START", _) => {
            read.sender.external_id = id(data, "/user_id").unwrap_or_default();
            read.body = EventBody::Typing;
        }
        _ => {}
    }
    vec![read]
}

fn created(data: &Value, own: Option<&str>, message_id: String, read: &mut Event) {
    let author = data.pointer("/author").unwrap_or(&Value::Null);
    read.id.clone_from(&message_id);
    read.sender = person(author);
    let is_own = own.is_some() && text(author, "/id") == own;
    let bot = author.get("bot") == Some(&Value::Bool(true)) || data.get("webhook_id").is_some();
    if is_own || bot {
        read.body = unknown(if is_own { "echo" } else { "message_of_a_bot" });
        return;
    }
    // 0 is a message and 19 a reply; the others tell of people who came, and the like.
    let kind = data.get("type").and_then(Value::as_i64).unwrap_or_default();
    if kind != 0 && kind != 19 {
        read.body = unknown(&format!("message_type_{kind}"));
        return;
    }
    let to_own = |user: &Value| own.is_some() && text(user, "/id") == own;
    let called = list(data, "/mentions").iter().any(to_own)
        || data.pointer("/referenced_message/author").is_some_and(to_own);
    if read.thread.group && !called {
        read.body = EventBody::Overheard;
        return;
    }
    let message = content(data, own);
    read.body = if message.parts.is_empty() {
        unknown("message_without_words")
    } else {
        EventBody::Message { external_id: message_id, message }
    };
}

fn content(data: &Value, own: Option<&str>) -> Message {
    let mut said = text(data, "/content").unwrap_or_default().to_owned();
    for user in list(data, "/mentions") {
        let Some(user_id) = text(user, "/id") else { continue };
        let name = text(user, "/global_name").or_else(|| text(user, "/username"));
        let name = name.filter(|_| Some(user_id) != own).map(|name| format!("@{name}"));
        let name = name.unwrap_or_default();
        for mark in [format!("<@{user_id}>"), format!("<@!{user_id}>")] {
            said = said.replace(&mark, &name);
        }
    }
    let said = said.trim();
    let mut parts: Vec<_> = (!said.is_empty()).then(|| words(said)).into_iter().collect();
    // The flag of a voice message.
    let voice = data.get("flags").and_then(Value::as_u64).unwrap_or_default() & 8192 != 0;
    parts.extend(list(data, "/attachments").iter().map(|file| attachment(file, voice)));
    let stickers = list(data, "/sticker_items").iter().filter_map(|one| text(one, "/name"));
    parts.extend(stickers.map(|name| words(&format!("[sticker: {name}]"))));
    Message { parts, reply_to: id(data, "/message_reference/message_id") }
}

fn attachment(file: &Value, voice: bool) -> Part {
    let mime = owned(file, "/content_type");
    let kind = mime.clone().unwrap_or_default();
    let media = Media {
        external_id: owned(file, "/url"),
        size: file.get("size").and_then(Value::as_u64),
        name: owned(file, "/filename"),
        alt: owned(file, "/description"),
        mime,
        voice,
        ..Media::default()
    };
    match kind.split('/').next() {
        Some("image") => Part::Image(media),
        Some("audio") => Part::Audio(media),
        Some("video") => Part::Video(media),
        _ => Part::File(media),
    }
}

fn person(user: &Value) -> Person {
    Person {
        external_id: id(user, "/id").unwrap_or_default(),
        name: owned(user, "/global_name").or_else(|| owned(user, "/username")),
        locale: None,
    }
}

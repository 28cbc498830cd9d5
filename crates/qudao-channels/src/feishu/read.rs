//! Events of Feishu.

use qudao_core::channel::{
    adapter::{Answer, Parsed},
    config::ChannelConfig,
    event::{Event, EventBody, Person, ReceiptState, Thread},
};
use qudao_domain::message::{Media, Message, Part, TextFormat};
use serde_json::{Value, json};

use crate::lenient::{self, decimal, kind, list, number, some_text, text};

/// Messages that one receipt may name.
const RECEIPTS_MAX: usize = 100;

/// What an event of the platform says, in as many events as it takes.
pub(super) fn parsed(config: &ChannelConfig, raw: &Value) -> Parsed {
    let what = some_text(raw, "/header/event_type").unwrap_or_else(|| text(raw, "/event/type"));
    let event = raw.pointer("/event").unwrap_or(&Value::Null);
    let events = match what.as_str() {
        "im.message.receive_v1" => message(config, event).map(|found| vec![found]),
        "im.message.message_read_v1" => Some(receipts(event)),
        "im.message.recalled_v1" => Some(vec![Found {
            thread: text(event, "/chat_id"),
            body: EventBody::Deleted { external_id: lenient::id(&text(event, "/message_id")) },
            ..Found::default()
        }]),
        "im.message.reaction.created_v1" => Some(vec![reaction(event, true)]),
        "im.message.reaction.deleted_v1" => Some(vec![reaction(event, false)]),
        "card.action.trigger" => Some(vec![pressed(event)]),
        other => Some(vec![Found { body: unknown(other), ..Found::default() }]),
    };
    let number = |(at, found): (usize, Found)| found.into_event(raw, at);
    let events = events.unwrap_or_default().into_iter().enumerate().map(number).collect();
    // A pressed button shows an error unless its answer is JSON.
    Parsed { events, ..Parsed::answer(Answer::json(&json!({}))) }
}

/// An event before it has an id.
struct Found {
    thread: String,
    group: bool,
    sender: String,
    body: EventBody,
    at: Option<i64>,
}

impl Default for Found {
    fn default() -> Self {
        let body = unknown("");
        Self { thread: String::new(), group: false, sender: String::new(), body, at: None }
    }
}

impl Found {
    fn into_event(self, raw: &Value, at: usize) -> Event {
        let named = some_text(raw, "/header/event_id").or_else(|| some_text(raw, "/uuid"));
        let id = named.unwrap_or_else(|| lenient::hash(&[raw.to_string().as_bytes()]));
        let id = if at == 0 { id } else { format!("{id}:{at}") };
        let created = number(raw, "/header/create_time");
        // What belongs to no conversation is its sender's.
        let thread = if self.thread.is_empty() { self.sender.clone() } else { self.thread };
        Event {
            id: lenient::id(&id),
            thread: Thread { external_id: lenient::id(&thread), group: self.group },
            sender: Person { external_id: lenient::id(&self.sender), ..Person::default() },
            body: self.body,
            attribution: None,
            at: self.at.or(created).and_then(lenient::from_millis),
            raw: raw.clone(),
        }
    }
}

fn unknown(name: &str) -> EventBody {
    EventBody::Unknown { kind: kind(name) }
}

/// A message; `None` for one of the bot's own.
fn message(config: &ChannelConfig, event: &Value) -> Option<Found> {
    // Other bots too: who answers them talks to a machine for ever.
    if matches!(text(event, "/sender/sender_type").as_str(), "app" | "bot") {
        return None;
    }
    let id = text(event, "/message/message_id");
    let chat = text(event, "/message/chat_id");
    let thread = some_text(event, "/message/thread_id");
    let group = matches!(text(event, "/message/chat_type").as_str(), "group" | "topic_group");
    let what = text(event, "/message/message_type");
    let content: Value = serde_json::from_str(&text(event, "/message/content")).unwrap_or_default();
    let mentions = list(event, "/message/mentions");
    let parts = parts(&what, &id, &content, mentions, super::own_id(config));
    let body = match parts {
        _ if id.is_empty() || chat.is_empty() => unknown("message_without_id"),
        None => unknown(&format!("message_{what}")),
        Some(_) if group && !is_meant(config, mentions) => EventBody::Overheard,
        Some(parts) => {
            let reply_to = some_text(event, "/message/parent_id").map(|id| lenient::id(&id));
            EventBody::Message {
                external_id: lenient::id(&id),
                message: Message { parts, reply_to },
            }
        }
    };
    Some(Found {
        thread: thread.map_or_else(|| chat.clone(), |thread| format!("{chat} {thread}")),
        group,
        sender: text(event, "/sender/sender_id/open_id"),
        body,
        at: number(event, "/message/create_time"),
    })
}

/// Whether a group's message names the bot. A bot whose own id is not set hears only what names it,
/// unless it was given more rights than it needs.
fn is_meant(config: &ChannelConfig, mentions: &[Value]) -> bool {
    match super::own_id(config) {
        Some(own) => mentions.iter().any(|mention| text(mention, "/id/open_id") == own),
        None => !mentions.is_empty(),
    }
}

fn parts(
    what: &str,
    message: &str,
    content: &Value,
    mentions: &[Value],
    own: Option<&str>,
) -> Option<Vec<Part>> {
    let file = |key: &str, kind: &str| {
        let key = some_text(content, key)?;
        Some(Media {
            external_id: Some(lenient::id(&format!("{message} {key} {kind}"))),
            name: some_text(content, "/file_name").map(|name| name.chars().take(200).collect()),
            ..Media::default()
        })
    };
    Some(match what {
        "text" => vec![plain(named(&some_text(content, "/text")?, mentions, own))?],
        "post" => post(message, content, mentions, own)?,
        "image" => vec![Part::Image(file("/image_key", "image")?)],
        "file" => vec![Part::File(file("/file_key", "file")?)],
        "audio" => vec![Part::Audio(Media { voice: true, ..file("/file_key", "file")? })],
        "media" => vec![Part::Video(file("/file_key", "file")?)],
        "location" => vec![Part::Location {
            latitude: decimal(content, "/latitude").filter(|degrees| degrees.abs() <= 90.0)?,
            longitude: decimal(content, "/longitude").filter(|degrees| degrees.abs() <= 180.0)?,
            name: some_text(content, "/name"),
            address: None,
        }],
        _ => return None,
    })
}

fn plain(text: String) -> Option<Part> {
    let text = text.trim().to_owned();
    (!text.is_empty()).then_some(Part::Text { format: TextFormat::Plain, text })
}

/// Words with the names of those whom they mention, and without the bot's own.
fn named(words: &str, mentions: &[Value], own: Option<&str>) -> String {
    let mut words = words.to_owned();
    // The longest first, or `@_user_1` would be found in `@_user_12`.
    let mut known: Vec<_> = mentions.iter().take(100).map(|one| (text(one, "/key"), one)).collect();
    known.sort_by_key(|(key, _)| std::cmp::Reverse(key.len()));
    // A bot that is named alone needs no id to know itself.
    let alone = mentions.len() == 1;
    for (key, mention) in known.into_iter().filter(|(key, _)| !key.is_empty()) {
        let is_own = own.map_or(alone, |own| text(mention, "/id/open_id") == own);
        let name = if is_own { String::new() } else { format!("@{}", text(mention, "/name")) };
        words = words.replace(&key, &name);
    }
    words
}

/// A text with a title, links, pictures and the like.
fn post(
    message: &str,
    content: &Value,
    mentions: &[Value],
    own: Option<&str>,
) -> Option<Vec<Part>> {
    let mut words = text(content, "/title");
    let mut pictures = Vec::new();
    for line in list(content, "/content").iter().take(1000) {
        if !words.is_empty() {
            words.push('\n');
        }
        for piece in line.as_array().into_iter().flatten().take(1000) {
            match text(piece, "/tag").as_str() {
                "a" => {
                    words.push_str(&format!("{} ({})", text(piece, "/text"), text(piece, "/href")))
                }
                "at" => words.push_str(&text(piece, "/user_id")),
                "img" => pictures.extend(some_text(piece, "/image_key").map(|key| {
                    let external_id = Some(lenient::id(&format!("{message} {key} image")));
                    Part::Image(Media { external_id, ..Media::default() })
                })),
                _ => words.push_str(&text(piece, "/text")),
            }
        }
    }
    let words = plain(named(&words, mentions, own));
    let parts: Vec<_> = words.into_iter().chain(pictures).collect();
    (!parts.is_empty()).then_some(parts)
}

fn receipts(event: &Value) -> Vec<Found> {
    let reader = text(event, "/reader/reader_id/open_id");
    let messages = list(event, "/message_id_list").iter().take(RECEIPTS_MAX);
    let receipt = |id: &str| Found {
        sender: reader.clone(),
        body: EventBody::Receipt { external_id: lenient::id(id), state: ReceiptState::Read },
        at: number(event, "/reader/read_time"),
        ..Found::default()
    };
    let found: Vec<_> = messages.filter_map(Value::as_str).map(receipt).collect();
    if found.is_empty() {
        vec![Found { sender: reader, body: unknown("message_read"), ..Found::default() }]
    } else {
        found
    }
}

fn reaction(event: &Value, added: bool) -> Found {
    Found {
        sender: text(event, "/user_id/open_id"),
        body: EventBody::Reaction {
            external_id: lenient::id(&text(event, "/message_id")),
            sign: text(event, "/reaction_type/emoji_type").chars().take(64).collect(),
            added,
        },
        at: number(event, "/action_time"),
        ..Found::default()
    }
}

fn pressed(event: &Value) -> Found {
    let value =
        some_text(event, "/action/value/value").or_else(|| some_text(event, "/action/option"));
    let body = match value {
        Some(value) => EventBody::Pressed { value },
        None => unknown("card_action"),
    };
    Found {
        thread: text(event, "/context/open_chat_id"),
        sender: text(event, "/operator/open_id"),
        body,
        ..Found::default()
    }
}

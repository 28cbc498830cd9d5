//! Updates as Telegram sends them. Read leniently: the API grows every month, and what is not known
//! here must neither lose the words beside it nor the update.

use jiff::Timestamp;
use qudao_core::channel::event::{Attribution, Event, EventBody, Payment, Person, Thread};
use qudao_domain::message::{Media, Message, Part, TextFormat};
use serde_json::Value;

use super::stars;
use crate::wire;

/// Who the bot is, as far as it is known.
#[derive(Debug, Clone, Copy)]
pub(super) struct Own<'a> {
    /// Its id: what stands before the `:` of its token.
    pub(super) id: i64,
    /// Its name without the `@`.
    pub(super) username: Option<&'a str>,
    /// It answers everything that is said in groups.
    pub(super) answers_all: bool,
    /// It sends invoices to those who ask for them.
    pub(super) sells: bool,
}

/// What happened. Always one event: what is not known is one of an unknown kind.
pub(super) fn read_update(update: &Value, own: Own<'_>) -> Event {
    let id = update["update_id"].as_i64().unwrap_or_default();
    let known = update.as_object().into_iter().flatten().find(|(name, _)| *name != "update_id");
    let (kind, inner) =
        known.map_or(("empty", &Value::Null), |(name, inner)| (name.as_str(), inner));
    let mut event = match kind {
        "message" => read_message(inner, own),
        "edited_message" => read_edit(inner, own),
        "callback_query" => read_press(inner),
        "my_chat_member" => read_membership(inner),
        "message_reaction" => read_reaction(inner),
        "channel_post" | "edited_channel_post" => elsewhere(inner, EventBody::Overheard),
        _ => elsewhere(inner, wire::unknown(kind)),
    };
    event.id = format!("u{id}");
    event.raw = update.clone();
    event
}

fn elsewhere(inner: &Value, body: EventBody) -> Event {
    let from = if inner["from"].is_object() { &inner["from"] } else { &inner["user"] };
    let thread = match inner["chat"]["id"].as_i64() {
        Some(_) => thread_of(inner),
        None => Thread { external_id: text_id(&from["id"]), group: false },
    };
    Event {
        id: String::new(),
        thread,
        sender: person(from),
        body,
        attribution: None,
        at: inner["date"].as_i64().and_then(|s| Timestamp::from_second(s).ok()),
        raw: Value::Null,
    }
}

fn text_id(id: &Value) -> String {
    id.as_i64().map_or_else(|| "0".to_owned(), |id| id.to_string())
}

/// A chat, and the topic in it: of a forum, or of a private chat with topics.
fn thread_of(message: &Value) -> Thread {
    let chat = &message["chat"];
    let topic = message["message_thread_id"].as_i64();
    let topic = topic.filter(|_| message["is_topic_message"].as_bool().unwrap_or(false));
    let id = text_id(&chat["id"]);
    let external_id = topic.map_or_else(|| id.clone(), |topic| format!("{id}:{topic}"));
    Thread { external_id, group: matches!(chat["type"].as_str(), Some("group" | "supergroup")) }
}

fn person(from: &Value) -> Person {
    let names = [&from["first_name"], &from["last_name"]];
    let name: Vec<_> = names.iter().filter_map(|name| name.as_str()).collect();
    let name = name.join(" ").trim().to_owned();
    Person {
        external_id: text_id(&from["id"]),
        name: (!name.is_empty()).then_some(name),
        locale: from["language_code"].as_str().map(str::to_owned),
    }
}

/// `chat:message`, which is no other message's in the bot's whole life.
pub(super) fn message_id(message: &Value) -> String {
    format!("{}:{}", text_id(&message["chat"]["id"]), text_id(&message["message_id"]))
}

fn read_message(message: &Value, own: Own<'_>) -> Event {
    let body = match service(message) {
        Some(body) => body,
        None if message["from"]["is_bot"].as_bool() == Some(true) => EventBody::Overheard,
        None => spoken(message, own),
    };
    let mut event = elsewhere(message, body);
    event.attribution = start_payload(message)
        .map(|reference| Attribution { reference: Some(reference), ..Attribution::default() });
    event
}

/// What Telegram itself says in a chat.
fn service(message: &Value) -> Option<EventBody> {
    if let Some(to) = message["migrate_to_chat_id"].as_i64() {
        return Some(EventBody::Moved { to: to.to_string() });
    }
    if message["migrate_from_chat_id"].is_i64() {
        return Some(EventBody::Overheard);
    }
    let payment = |paid: &Value| Payment {
        charge_id: paid["telegram_payment_charge_id"].as_str().unwrap_or_default().to_owned(),
        currency: paid["currency"].as_str().unwrap_or_default().to_owned(),
        amount: paid["total_amount"].as_i64().unwrap_or_default(),
        payload: paid["invoice_payload"].as_str().unwrap_or_default().to_owned(),
    };
    if message["successful_payment"].is_object() {
        return Some(EventBody::Paid(payment(&message["successful_payment"])));
    }
    message["refunded_payment"]
        .is_object()
        .then(|| EventBody::Refunded(payment(&message["refunded_payment"])))
}

fn spoken(message: &Value, own: Own<'_>) -> EventBody {
    let text = message["text"].as_str().or_else(|| message["caption"].as_str()).unwrap_or_default();
    let group = thread_of(message).group;
    let addressed = !group || own.answers_all || is_addressed(message, text, own);
    let album = message["media_group_id"].as_str();
    if (!addressed && album.is_none()) || is_for_another_bot(text, own) {
        return EventBody::Overheard;
    }
    if own.sells && stars::is_asked(text) {
        return wire::unknown(stars::TOPUP);
    }
    let message_of = compose(message, &without_mention(text, own));
    if message_of.parts.is_empty() {
        return wire::unknown(&unread_kind(message));
    }
    let (external_id, message) = (message_id(message), message_of);
    match album {
        Some(album) => {
            EventBody::Piece { external_id, message, album: album.to_owned(), addressed }
        }
        None => EventBody::Message { external_id, message },
    }
}

/// What a message without any part that is known here is, by the field that tells.
fn unread_kind(message: &Value) -> String {
    const COMMON: &[&str] = &[
        "message_id",
        "from",
        "chat",
        "date",
        "message_thread_id",
        "is_topic_message",
        "reply_to_message",
        "sender_chat",
        "edit_date",
    ];
    let told = message.as_object().into_iter().flatten();
    let told = told.map(|(name, _)| name.as_str()).find(|name| !COMMON.contains(name));
    format!("message_{}", told.unwrap_or("empty"))
}

fn is_addressed(message: &Value, text: &str, own: Own<'_>) -> bool {
    if message["reply_to_message"]["from"]["id"].as_i64() == Some(own.id) {
        return true;
    }
    if text.starts_with('/') {
        return true;
    }
    let mentions = |entity: &Value| entity["user"]["id"].as_i64() == Some(own.id);
    let entities = [&message["entities"], &message["caption_entities"]];
    if entities.iter().filter_map(|list| list.as_array()).flatten().any(mentions) {
        return true;
    }
    own.username.is_some_and(|name| find_mention(text, name).is_some())
}

/// Where `@name` stands, with no more letters of a name behind it.
fn find_mention(text: &str, name: &str) -> Option<std::ops::Range<usize>> {
    let (lower, mention) = (text.to_ascii_lowercase(), format!("@{}", name.to_ascii_lowercase()));
    let mut from = 0;
    while let Some(at) = lower[from..].find(&mention).map(|at| at + from) {
        let end = at + mention.len();
        let goes_on = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
        if !lower.as_bytes().get(end).is_some_and(goes_on) {
            return Some(at..end);
        }
        from = end;
    }
    None
}

/// `/command@other`.
fn is_for_another_bot(text: &str, own: Own<'_>) -> bool {
    let Some(command) = text.strip_prefix('/') else { return false };
    let word = command.split_whitespace().next().unwrap_or_default();
    match (word.split_once('@'), own.username) {
        (Some((_, to)), Some(name)) => !to.eq_ignore_ascii_case(name),
        _ => false,
    }
}

fn without_mention(text: &str, own: Own<'_>) -> String {
    let Some(range) = own.username.and_then(|name| find_mention(text, name)) else {
        return text.to_owned();
    };
    let (before, after) = (&text[..range.start], &text[range.end..]);
    if before.is_empty() { after.trim_start().to_owned() } else { format!("{before}{after}") }
}

/// What a deep link carries: `/start payload`, of at most 64 letters, digits, `_` and `-`.
fn start_payload(message: &Value) -> Option<String> {
    let text = message["text"].as_str()?;
    let mut words = text.split_whitespace();
    let command = words.next()?;
    let payload = words.next().filter(|_| command == "/start" || command.starts_with("/start@"))?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    (payload.len() <= 64 && payload.bytes().all(plain)).then(|| payload.to_owned())
}

/// The parts of a message: its files first, then its words.
fn compose(message: &Value, text: &str) -> Message {
    let mut parts = Vec::new();
    let quoted = message["quote"]["text"].as_str();
    if let Some(quoted) = quoted {
        let message_id =
            message["reply_to_message"]["message_id"].as_i64().map(|id| id.to_string());
        parts.push(Part::Quote { text: quoted.to_owned(), message_id });
    }
    parts.extend(files(message));
    parts.extend(others(message));
    let shown = if text.starts_with("/start") { "/start" } else { text };
    if !shown.trim().is_empty() {
        parts.push(Part::Text { format: TextFormat::Plain, text: shown.to_owned() });
    }
    let reply_to = message["reply_to_message"].as_object().map(|_| {
        let replied = &message["reply_to_message"];
        format!("{}:{}", text_id(&message["chat"]["id"]), text_id(&replied["message_id"]))
    });
    Message { parts, reply_to }
}

fn files(message: &Value) -> Vec<Part> {
    let mut parts = Vec::new();
    let media = |file: &Value, mime: &str, voice: bool| Media {
        external_id: file["file_id"].as_str().map(str::to_owned),
        mime: Some(file["mime_type"].as_str().unwrap_or(mime).to_owned()),
        size: file["file_size"].as_u64(),
        name: file["file_name"].as_str().map(str::to_owned),
        voice,
        ..Media::default()
    };
    let largest = |sizes: &Value| {
        let by_area = |size: &&Value| {
            size["width"].as_u64().unwrap_or_default() * size["height"].as_u64().unwrap_or_default()
        };
        sizes.as_array()?.iter().max_by_key(by_area).cloned()
    };
    if let Some(photo) = largest(&message["photo"]) {
        parts.push(Part::Image(media(&photo, "image/jpeg", false)));
    }
    type Make = fn(Media) -> Part;
    let known: [(&str, Make, &str, bool); 5] = [
        ("voice", Part::Audio, "audio/ogg", true),
        ("audio", Part::Audio, "audio/mpeg", false),
        ("video", Part::Video, "video/mp4", false),
        ("video_note", Part::Video, "video/mp4", false),
        ("document", Part::File, "application/octet-stream", false),
    ];
    for (name, part, mime, voice) in known {
        // An animation comes as a document too.
        if message[name]["file_id"].is_string() {
            parts.push(part(media(&message[name], mime, voice)));
        }
    }
    parts
}

fn others(message: &Value) -> Vec<Part> {
    let mut parts = Vec::new();
    let text = |text: String| Part::Text { format: TextFormat::Plain, text };
    let words = |value: &Value| value.as_str().map(str::to_owned);
    let place = |spot: &Value, name: Option<String>, address: Option<String>| {
        let (latitude, longitude) = (spot["latitude"].as_f64()?, spot["longitude"].as_f64()?);
        Some(Part::Location { latitude, longitude, name, address })
    };
    let venue = &message["venue"];
    if venue.is_object() {
        parts.extend(place(&venue["location"], words(&venue["title"]), words(&venue["address"])));
    } else {
        parts.extend(place(&message["location"], None, None));
    }
    let contact = &message["contact"];
    if let Some(name) = contact["first_name"].as_str() {
        let name = [Some(name), contact["last_name"].as_str()].into_iter().flatten();
        let name = name.collect::<Vec<_>>().join(" ");
        parts.push(Part::Contact { name, phone: words(&contact["phone_number"]) });
    }
    if let Some(emoji) = message["sticker"]["emoji"].as_str() {
        parts.push(text(emoji.to_owned()));
    }
    if let Some(question) = message["poll"]["question"].as_str() {
        parts.push(text(format!("[poll: {question}]")));
    }
    parts
}

fn read_edit(message: &Value, own: Own<'_>) -> Event {
    let text = message["text"].as_str().or_else(|| message["caption"].as_str()).unwrap_or_default();
    let message_now = compose(message, &without_mention(text, own));
    let body = EventBody::Edited { external_id: message_id(message), message: message_now };
    elsewhere(message, body)
}

/// A pressed button. What it says is what was put into it, or the words on it.
fn read_press(query: &Value) -> Event {
    let data = query["data"].as_str().unwrap_or_default();
    let label = || {
        let rows = query["message"]["reply_markup"]["inline_keyboard"].as_array();
        let mut buttons = rows.into_iter().flatten().filter_map(Value::as_array).flatten();
        buttons
            .find(|button| button["callback_data"].as_str() == Some(data))
            .and_then(|button| button["text"].as_str())
            .map(str::to_owned)
    };
    if let Some(reference) = data.strip_prefix("r:") {
        let reference = reference.to_owned();
        return pressed(query, EventBody::Recalled { reference });
    }
    let value = match data.strip_prefix("v:") {
        Some(value) => value.to_owned(),
        None => label().unwrap_or_else(|| data.to_owned()),
    };
    let body = if value.is_empty() {
        EventBody::Unknown { kind: "callback_query_game".to_owned() }
    } else {
        EventBody::Pressed { value }
    };
    pressed(query, body)
}

/// In the chat and topic of the message with the button.
fn pressed(query: &Value, body: EventBody) -> Event {
    let mut event = elsewhere(query, body);
    if query["message"]["chat"]["id"].is_i64() {
        event.thread = thread_of(&query["message"]);
    }
    event
}

fn read_membership(change: &Value) -> Event {
    let body = match change["new_chat_member"]["status"].as_str() {
        Some("kicked" | "left") => EventBody::Unreachable,
        Some("member" | "administrator" | "creator") => EventBody::Reachable,
        other => wire::unknown(&format!("member_{}", other.unwrap_or("unknown"))),
    };
    elsewhere(change, body)
}

fn read_reaction(change: &Value) -> Event {
    let sign = |list: &Value| {
        let first = list.as_array()?.first()?;
        first["emoji"].as_str().or_else(|| first["custom_emoji_id"].as_str()).map(str::to_owned)
    };
    let (new, old) = (sign(&change["new_reaction"]), sign(&change["old_reaction"]));
    let added = new.is_some();
    let body = EventBody::Reaction {
        external_id: message_id(change),
        sign: new.or(old).unwrap_or_default(),
        added,
    };
    elsewhere(change, body)
}

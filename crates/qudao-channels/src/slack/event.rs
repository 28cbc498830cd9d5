//! What Slack sends, as events.

use qudao_core::channel::event::{Event, EventBody, Person, Thread};
use qudao_domain::message::{Media, Message, Part, TextFormat};
use serde_json::Value;

use crate::{
    press,
    wire::{id, is_within, list, made_id, owned, seconds, short, stored, text, unknown},
};

/// The events of a body that was verified.
pub(super) fn read(mut body: Value) -> Vec<Event> {
    // A word from before there were signatures, by which some still recognise Slack.
    if let Some(fields) = body.as_object_mut() {
        fields.remove("token");
    }
    match text(&body, "/type") {
        Some("event_callback") => vec![callback(&body)],
        Some("block_actions") => {
            let actions = list(&body, "/actions");
            let read = actions.iter().enumerate().map(|(at, action)| pressed(&body, at, action));
            let read: Vec<_> = read.collect();
            if read.is_empty() { vec![stored("block_actions", &body)] } else { read }
        }
        Some(other) => vec![stored(other, &body)],
        None if text(&body, "/command").is_some() => vec![command(&body)],
        None => vec![stored("unnamed", &body)],
    }
}

fn callback(body: &Value) -> Event {
    let event = body.pointer("/event").unwrap_or(&Value::Null);
    let kind = text(event, "/type").unwrap_or_default();
    let mut read = Event {
        id: id(body, "/event_id").unwrap_or_else(|| made_id(body)),
        sender: person(event, "/user"),
        at: seconds(event, "/event_ts").or_else(|| seconds(body, "/event_time")),
        ..stored(kind, body)
    };
    match kind {
        "message" | "app_mention" => message(body, event, kind, &mut read),
        "reaction_added" | "reaction_removed" => {
            let (Some(channel), Some(ts)) = (id(event, "/item/channel"), id(event, "/item/ts"))
            else {
                return read;
            };
            read.thread = thread(&channel, None, &ts);
            read.body = EventBody::Reaction {
                external_id: message_id(&channel, &ts),
                sign: owned(event, "/reaction").unwrap_or_default(),
                added: kind == "reaction_added",
            };
        }
        _ => {}
    }
    read
}

fn message(body: &Value, event: &Value, kind: &str, read: &mut Event) {
    let Some(channel) = id(event, "/channel") else { return };
    let subtype = text(event, "/subtype").unwrap_or_default();
    match subtype {
        "" | "file_share" | "thread_broadcast" | "me_message" => {}
        "message_changed" => return changed(event, &channel, read),
        "message_deleted" => {
            let Some(ts) = id(event, "/deleted_ts") else { return };
            let parent = text(event, "/previous_message/thread_ts");
            read.thread = thread(&channel, parent, &ts);
            read.sender = person(event, "/previous_message/user");
            read.body = EventBody::Deleted { external_id: message_id(&channel, &ts) };
            return;
        }
        _ => {
            read.body = unknown(&format!("message_{subtype}"));
            return;
        }
    }
    let Some(ts) = id(event, "/ts") else { return };
    read.thread = thread(&channel, text(event, "/thread_ts"), &ts);
    let bot = bot(body);
    let own = bot.is_some() && text(event, "/user") == bot;
    if own || text(event, "/bot_id").is_some() {
        read.body = unknown(if own { "echo" } else { "message_of_a_bot" });
        return;
    }
    let direct = !read.thread.group || kind == "app_mention";
    let called = bot.is_some_and(|bot| {
        let words = text(event, "/text").unwrap_or_default();
        words.contains(&format!("<@{bot}>")) || text(event, "/parent_user_id") == Some(bot)
    });
    if !direct && !called {
        read.body = EventBody::Overheard;
        return;
    }
    let message = content(event, &channel, bot);
    if message.parts.is_empty() {
        read.body = unknown("message_without_words");
        return;
    }
    read.body = EventBody::Message { external_id: message_id(&channel, &ts), message };
}

/// Slack tells of previews of links as of changes: only new words count.
fn changed(event: &Value, channel: &str, read: &mut Event) {
    let Some(now) = event.pointer("/message") else { return };
    let Some(ts) = id(now, "/ts") else { return };
    read.thread = thread(channel, text(now, "/thread_ts"), &ts);
    read.sender = person(now, "/user");
    let same = text(now, "/text") == text(event, "/previous_message/text");
    if same || text(now, "/bot_id").is_some() {
        read.body = unknown("message_changed");
        return;
    }
    let message = content(now, channel, None);
    read.body = EventBody::Edited { external_id: message_id(channel, &ts), message };
}

fn content(event: &Value, channel: &str, bot: Option<&str>) -> Message {
    let mut parts = Vec::new();
    let words = text(event, "/text").map(|raw| plain(raw, bot)).unwrap_or_default();
    if !words.trim().is_empty() {
        parts.push(Part::Text { format: TextFormat::Plain, text: words.trim().to_owned() });
    }
    parts.extend(list(event, "/files").iter().map(file));
    for shared in list(event, "/attachments") {
        if let Some(words) = text(shared, "/text").or_else(|| text(shared, "/fallback")) {
            parts.push(Part::Quote { text: plain(words, None), message_id: None });
        }
    }
    let parent = text(event, "/thread_ts").filter(|parent| Some(*parent) != text(event, "/ts"));
    Message { parts, reply_to: parent.map(|ts| message_id(channel, ts)) }
}

fn file(file: &Value) -> Part {
    let address = text(file, "/url_private_download").or_else(|| text(file, "/url_private"));
    let mime = owned(file, "/mimetype");
    let kind = mime.as_deref().unwrap_or_default().split('/').next().map(str::to_owned);
    let media = Media {
        external_id: address.filter(|address| is_slacks(address)).map(str::to_owned),
        size: file.pointer("/size").and_then(Value::as_u64),
        name: owned(file, "/name").or_else(|| owned(file, "/title")),
        alt: owned(file, "/alt_txt"),
        voice: text(file, "/subtype") == Some("slack_audio"),
        mime,
        ..Media::default()
    };
    match kind.as_deref() {
        Some("image") => Part::Image(media),
        Some("audio") => Part::Audio(media),
        Some("video") if media.voice => Part::Audio(media),
        Some("video") => Part::Video(media),
        _ => Part::File(media),
    }
}

fn pressed(body: &Value, at: usize, action: &Value) -> Event {
    let channel = id(body, "/channel/id").or_else(|| id(body, "/container/channel_id"));
    let ts = id(body, "/container/message_ts").or_else(|| id(body, "/message/ts"));
    let trigger = id(body, "/trigger_id");
    let mut read = Event {
        id: trigger.map_or_else(|| made_id(action), |trigger| short(&format!("{trigger}:{at}"))),
        sender: person(body, "/user/id"),
        at: seconds(action, "/action_ts"),
        ..stored("block_actions", body)
    };
    read.sender.name = owned(body, "/user/name").or_else(|| owned(body, "/user/username"));
    let (Some(channel), Some(ts)) = (channel, ts) else { return read };
    let parent = text(body, "/container/thread_ts").or_else(|| text(body, "/message/thread_ts"));
    read.thread = thread(&channel, parent, &ts);
    if text(action, "/action_id").is_some_and(|name| name.starts_with("url:")) {
        read.body = unknown("url_button");
        return read;
    }
    let data = ["/value", "/selected_option/value"].iter().find_map(|at| text(action, at));
    let label = ["/text/text", "/selected_option/text/text"].iter().find_map(|at| text(action, at));
    let value = press::said(data.unwrap_or_default(), label);
    if !value.is_empty() {
        read.body = EventBody::Pressed { value };
    }
    read
}

/// A command is a message in the channel where it was written; others do not see it.
fn command(body: &Value) -> Event {
    let name = text(body, "/command").unwrap_or_default();
    let words = text(body, "/text").unwrap_or(name);
    let trigger = id(body, "/trigger_id").unwrap_or_else(|| made_id(body));
    let Some(channel) = id(body, "/channel_id") else { return stored("command", body) };
    Event {
        id: trigger.clone(),
        thread: Thread { group: !channel.starts_with('D'), external_id: channel },
        sender: Person { name: owned(body, "/user_name"), ..person(body, "/user_id") },
        body: EventBody::Message {
            external_id: short(&format!("command:{trigger}")),
            message: Message::text(TextFormat::Plain, words),
        },
        ..stored("command", body)
    }
}

/// The app's own user in the workspace that the event comes from.
fn bot(body: &Value) -> Option<&str> {
    let all = list(body, "/authorizations").iter();
    let mut bots = all.filter(|one| one.pointer("/is_bot") == Some(&Value::Bool(true)));
    bots.find_map(|one| text(one, "/user_id"))
}

fn person(value: &Value, pointer: &str) -> Person {
    Person { external_id: id(value, pointer).unwrap_or_default(), ..Person::default() }
}

/// A direct channel is one conversation; anywhere else each thread is one, and a message outside
/// of threads begins its own.
fn thread(channel: &str, parent: Option<&str>, ts: &str) -> Thread {
    if channel.starts_with('D') {
        return Thread { external_id: channel.to_owned(), group: false };
    }
    let external_id = short(&format!("{channel}/{}", parent.unwrap_or(ts)));
    Thread { external_id, group: true }
}

/// Slack numbers messages within their channel.
fn message_id(channel: &str, ts: &str) -> String {
    short(&format!("{channel}:{ts}"))
}

/// Whether the token may be shown at this address.
pub(super) fn is_slacks(address: &str) -> bool {
    is_within(address, &["slack.com", "slack-files.com"])
}

/// Slack's marks in plain words. The call of the bot by its name is left out.
fn plain(raw: &str, bot: Option<&str>) -> String {
    let mut out = String::with_capacity(raw.len());
    let mut rest = raw;
    while let Some((before, after)) = rest.split_once('<') {
        out.push_str(before);
        let Some((mark, behind)) = after.split_once('>') else {
            out.push('<');
            rest = after;
            continue;
        };
        out.push_str(&meant(mark, bot));
        rest = behind;
    }
    out.push_str(rest);
    out.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
}

fn meant(mark: &str, bot: Option<&str>) -> String {
    let (what, label) = mark.split_once('|').map_or((mark, None), |(a, b)| (a, Some(b)));
    if let Some(user) = what.strip_prefix('@') {
        let name = label.unwrap_or(user);
        return if Some(user) == bot { String::new() } else { format!("@{name}") };
    }
    if let Some(channel) = what.strip_prefix('#') {
        return format!("#{}", label.unwrap_or(channel));
    }
    if let Some(special) = what.strip_prefix('!') {
        return label.map_or_else(|| format!("@{special}"), str::to_owned);
    }
    match label {
        Some(label) if !what.ends_with(label) => format!("{label} ({what})"),
        Some(label) => label.to_owned(),
        None => what.to_owned(),
    }
}

//! Transactions of a homeserver as events.

use qudao_core::channel::{
    config::ChannelConfig,
    event::{Event, EventBody, Person, ReceiptState, Thread},
};
use qudao_domain::message::{Media, Message, Part, TextFormat};
use serde_json::Value;

use crate::lenient::{self, kind, list, number, some_text, text};

/// Characters of a message that are read; an event of Matrix has at most 65,536 bytes.
const TEXT_MAX: usize = 65_536;

/// The events of a transaction, in order. A transaction that comes again has the same ids.
pub(super) fn transaction(config: &ChannelConfig, id: &str, body: &Value) -> Vec<Event> {
    let own = config.setting("user_id").unwrap_or_default();
    let lasting = list(body, "/events").iter().enumerate();
    let lasting = lasting.filter_map(|(at, raw)| lasting_event(config, own, (id, at), raw));
    let passing = ["/ephemeral", "/de.sorunome.msc2409.ephemeral"];
    let passing = passing.into_iter().flat_map(|pointer| list(body, pointer)).enumerate();
    let passing = passing.flat_map(|(at, raw)| passing_events(own, (id, at), raw));
    lasting.chain(passing).collect()
}

/// The room of an invitation that may be accepted.
pub(super) fn invitation(config: &ChannelConfig, raw: &Value) -> Option<String> {
    let own = config.setting("user_id")?;
    let ours = text(raw, "/type") == "m.room.member"
        && text(raw, "/state_key") == own
        && text(raw, "/content/membership") == "invite";
    let allowed = config.list("allow_servers");
    let sender = text(raw, "/sender");
    let server = sender.split_once(':').map_or("", |(_, server)| server);
    let welcome = allowed.is_empty() || allowed.contains(&server);
    some_text(raw, "/room_id").filter(|_| ours && welcome)
}

/// What stays in a room. `None` for what the assistant itself did.
fn lasting_event(
    config: &ChannelConfig,
    own: &str,
    (txn, at): (&str, usize),
    raw: &Value,
) -> Option<Event> {
    let sender = text(raw, "/sender");
    let what = text(raw, "/type");
    if sender == own && !own.is_empty() {
        return None;
    }
    let id =
        some_text(raw, "/event_id").map_or_else(|| nameless(txn, at, raw), |id| lenient::id(&id));
    let room = text(raw, "/room_id");
    let content = raw.pointer("/content").unwrap_or(&Value::Null);
    let relation = text(content, "/m.relates_to/rel_type");
    let thread = match relation.as_str() {
        "m.thread" => format!("{room} {}", text(content, "/m.relates_to/event_id")),
        _ => room.clone(),
    };
    let fits = !room.is_empty() && thread.chars().count() <= 200 && sender.chars().count() <= 200;
    let body = match what.as_str() {
        _ if !fits => EventBody::Unknown { kind: "id_missing_or_too_long".to_owned() },
        "m.room.message" => message(config, own, &id, content),
        "m.room.redaction" => match redacted(raw) {
            Some(external_id) => EventBody::Deleted { external_id },
            None => EventBody::Unknown { kind: kind(&what) },
        },
        "m.reaction" => EventBody::Reaction {
            external_id: lenient::id(&text(content, "/m.relates_to/event_id")),
            sign: text(content, "/m.relates_to/key").chars().take(64).collect(),
            added: true,
        },
        "m.room.member" => membership(own, raw),
        other => EventBody::Unknown { kind: kind(other) },
    };
    Some(Event {
        id,
        thread: Thread {
            external_id: lenient::id(&thread),
            group: config.flag("require_mention", false),
        },
        sender: Person {
            external_id: lenient::id(&sender),
            name: some_text(content, "/displayname").filter(|_| what == "m.room.member"),
            locale: None,
        },
        body,
        attribution: None,
        at: number(raw, "/origin_server_ts").and_then(lenient::from_millis),
        raw: raw.clone(),
    })
}

/// What passes: somebody writes, somebody has read. One event per person.
fn passing_events(own: &str, (txn, at): (&str, usize), raw: &Value) -> Vec<Event> {
    let room = text(raw, "/room_id");
    let event = |who: &str, number: usize, body: EventBody| Event {
        id: format!("{}:{number}", nameless(txn, at, raw)),
        thread: Thread { external_id: lenient::id(&room), group: false },
        sender: Person { external_id: lenient::id(who), ..Person::default() },
        body,
        attribution: None,
        at: None,
        raw: raw.clone(),
    };
    match text(raw, "/type").as_str() {
        "m.typing" => {
            let people = list(raw, "/content/user_ids").iter().filter_map(Value::as_str);
            let people = people.filter(|who| *who != own).take(50).enumerate();
            people.map(|(number, who)| event(who, number, EventBody::Typing)).collect()
        }
        "m.receipt" => {
            let messages = raw.pointer("/content").and_then(Value::as_object);
            let read = messages.into_iter().flatten().flat_map(|(id, kinds)| {
                let readers = kinds.pointer("/m.read").and_then(Value::as_object);
                readers.into_iter().flatten().map(move |(who, _)| (id, who))
            });
            let read = read.filter(|(_, who)| *who != own).take(200).enumerate();
            let receipt = |(number, (id, who)): (usize, (&String, &String))| {
                let external_id = lenient::id(id);
                let state = ReceiptState::Read;
                event(who, number, EventBody::Receipt { external_id, state })
            };
            read.map(receipt).collect()
        }
        // Who is online is nobody's business here and comes all the time.
        "m.presence" => Vec::new(),
        other => vec![event("", 0, EventBody::Unknown { kind: kind(other) })],
    }
}

fn message(config: &ChannelConfig, own: &str, id: &str, content: &Value) -> EventBody {
    let relation = text(content, "/m.relates_to/rel_type");
    let edits = relation == "m.replace";
    let said = content.pointer("/m.new_content").filter(|_| edits).unwrap_or(content);
    let Some(part) = part(said) else {
        // A redacted message has no content left.
        let name = some_text(said, "/msgtype").unwrap_or_else(|| "m.room.message".to_owned());
        return EventBody::Unknown { kind: kind(&name) };
    };
    let answers = some_text(content, "/m.relates_to/m.in_reply_to/event_id");
    // Within a thread the newest message stands there for clients that know no threads.
    let falls_back = content.pointer("/m.relates_to/is_falling_back") == Some(&Value::Bool(true));
    let reply_to = answers.filter(|_| !falls_back).map(|id| lenient::id(&id));
    let message = Message { parts: vec![part], reply_to };
    if edits {
        let external_id = lenient::id(&text(content, "/m.relates_to/event_id"));
        return EventBody::Edited { external_id, message };
    }
    // Notices are what machines say; who answers them talks to a machine for ever.
    if text(said, "/msgtype") == "m.notice" || !is_meant(config, own, content) {
        return EventBody::Overheard;
    }
    EventBody::Message { external_id: id.to_owned(), message }
}

/// Whether a message is for the assistant: it names it, or it names nobody where nobody has to.
fn is_meant(config: &ChannelConfig, own: &str, content: &Value) -> bool {
    let named = list(content, "/m.mentions/user_ids").iter().filter_map(Value::as_str);
    let named: Vec<_> = named.collect();
    if named.contains(&own) {
        return true;
    }
    let words = text(content, "/body");
    let short = own.trim_start_matches('@').split(':').next().unwrap_or_default();
    let called = !short.is_empty()
        && words
            .split(|letter: char| !letter.is_alphanumeric() && !"_-.=".contains(letter))
            .any(|word| word.eq_ignore_ascii_case(short));
    let linked = text(content, "/formatted_body").contains(&format!("matrix.to/#/{own}"));
    if called || linked || words.contains(own) {
        return true;
    }
    named.is_empty() && !config.flag("require_mention", false)
}

fn part(content: &Value) -> Option<Part> {
    let words = some_text(content, "/body")?;
    let file = || Media {
        external_id: media_address(content),
        mime: some_text(content, "/info/mimetype").map(|mime| mime.chars().take(100).collect()),
        size: number(content, "/info/size").and_then(|size| u64::try_from(size).ok()),
        // With a file's name beside them, the words are a caption.
        name: Some(some_text(content, "/filename").unwrap_or_else(|| words.clone())),
        caption: some_text(content, "/filename")
            .filter(|name| *name != words)
            .map(|_| words.clone()),
        ..Media::default()
    };
    Some(match text(content, "/msgtype").as_str() {
        "m.text" | "m.notice" => plain(without_fallback(content, &words)),
        "m.emote" => plain(format!("* {words}")),
        "m.image" | "m.sticker" => Part::Image(file()),
        "m.audio" => {
            let voice = content.get("org.matrix.msc3245.voice").is_some();
            Part::Audio(Media { voice, ..file() })
        }
        "m.video" => Part::Video(file()),
        "m.file" => Part::File(file()),
        "m.location" => place(content, words)?,
        _ => return None,
    })
}

fn plain(words: String) -> Part {
    Part::Text { format: TextFormat::Plain, text: words.chars().take(TEXT_MAX).collect() }
}

/// The words without the quoted message that older clients put before a reply.
fn without_fallback(content: &Value, words: &str) -> String {
    let replies = content.pointer("/m.relates_to/m.in_reply_to").is_some();
    if !replies || !words.starts_with("> ") {
        return words.to_owned();
    }
    let own = words.lines().skip_while(|line| line.starts_with('>')).collect::<Vec<_>>().join("\n");
    let own = own.trim_start();
    if own.is_empty() { words.to_owned() } else { own.to_owned() }
}

fn place(content: &Value, words: String) -> Option<Part> {
    let address = text(content, "/geo_uri");
    let (latitude, rest) = address.strip_prefix("geo:")?.split_once(',')?;
    let longitude = rest.split([',', ';']).next()?;
    let degrees = |text: &str, max: f64| {
        text.parse::<f64>().ok().filter(|number| number.is_finite() && number.abs() <= max)
    };
    Some(Part::Location {
        latitude: degrees(latitude, 90.0)?,
        longitude: degrees(longitude, 180.0)?,
        name: Some(words),
        address: None,
    })
}

fn media_address(content: &Value) -> Option<String> {
    let address = some_text(content, "/url")?;
    (address.starts_with("mxc://") && address.chars().count() <= 200).then_some(address)
}

/// The redacted event, which newer rooms name in the content.
fn redacted(raw: &Value) -> Option<String> {
    let named = some_text(raw, "/redacts").or_else(|| some_text(raw, "/content/redacts"));
    named.map(|id| lenient::id(&id))
}

/// The assistant was invited or put out; what others do is only counted.
fn membership(own: &str, raw: &Value) -> EventBody {
    let ours = text(raw, "/state_key") == own;
    match text(raw, "/content/membership").as_str() {
        "invite" if ours => EventBody::Unknown { kind: "invite".to_owned() },
        "leave" | "ban" if ours => EventBody::Unreachable,
        other => EventBody::Unknown { kind: kind(&format!("member_{other}")) },
    }
}

fn nameless(txn: &str, at: usize, raw: &Value) -> String {
    lenient::hash(&[
        txn.as_bytes(),
        b"\0",
        at.to_string().as_bytes(),
        b"\0",
        raw.to_string().as_bytes(),
    ])
}

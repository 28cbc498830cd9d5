//! What Messenger and Instagram send, as events. One request may hold events of several people and
//! of several pages.

use qudao_core::channel::{
    config::ChannelConfig,
    event::{Attribution, Event, EventBody, Person, ReceiptState, Thread},
};
use qudao_domain::message::{Media, Message, Part, TextFormat};
use serde_json::Value;

use super::{Meta, manifest};
use crate::{
    press,
    wire::{id, list, made_id, millis, owned, short, stored, text, unknown},
};

pub(super) fn read(kind: Meta, config: &ChannelConfig, body: &Value) -> Vec<Event> {
    let own = config.setting(manifest::account(kind));
    let mut events = Vec::new();
    let entries = list(body, "/entry");
    for entry in entries {
        let before = events.len();
        let page = id(entry, "/id");
        for item in list(entry, "/messaging") {
            events.extend(read_item(page.as_deref(), item));
        }
        // Another app has the conversation: it is heard and not answered.
        for item in list(entry, "/standby") {
            events.push(Event {
                body: EventBody::Overheard,
                ..base(page.as_deref(), item, "standby")
            });
        }
        for change in list(entry, "/changes") {
            events.push(stored(text(change, "/field").unwrap_or("change"), change));
        }
        if page.as_deref() != own {
            events[before..].iter_mut().for_each(|event| {
                event.thread = Thread::default();
                event.body = unknown("other_account");
            });
        }
        if events.len() == before {
            events.push(stored("entry_without_events", entry));
        }
    }
    if entries.is_empty() {
        events.push(stored("body_without_entries", body));
    }
    events
}

fn base(page: Option<&str>, item: &Value, kind: &str) -> Event {
    let sender = id(item, "/sender/id").unwrap_or_default();
    // What the page itself says, on whichever device, belongs to the one to whom it was said.
    let from_page = page == Some(sender.as_str());
    let who = if from_page { id(item, "/recipient/id").unwrap_or_default() } else { sender };
    Event {
        thread: Thread { external_id: who.clone(), group: false },
        sender: Person { external_id: who, ..Person::default() },
        at: millis(item, "/timestamp"),
        ..stored(kind, item)
    }
}

fn read_item(page: Option<&str>, item: &Value) -> Vec<Event> {
    const ENVELOPE: [&str; 3] = ["sender", "recipient", "timestamp"];
    let fields = item.as_object().into_iter().flatten();
    let mut kinds = fields.map(|(name, _)| name.as_str()).filter(|name| !ENVELOPE.contains(name));
    let known = ["message", "postback", "reaction", "read", "delivery", "message_edit", "referral"];
    let kind = known.into_iter().find(|kind| item.get(kind).is_some());
    let kind = kind.or_else(|| kinds.next()).unwrap_or("unnamed");
    let what = item.get(kind).unwrap_or(&Value::Null);
    let mut read = base(page, item, kind);
    let Some(who) = Some(&read.thread.external_id).filter(|who| !who.is_empty()) else {
        return vec![read];
    };
    let mid = id(what, "/mid");
    match (kind, &mid) {
        ("delivery", _) => return delivered(&read, what),
        ("message", Some(mid)) => message(mid, what, &mut read),
        ("postback", _) => {
            let data = text(what, "/payload").unwrap_or_default();
            let value = press::said(data, text(what, "/title"));
            read.id = short(&format!("{}:postback", mid.unwrap_or_else(|| made_id(item))));
            read.attribution = what.pointer("/referral").map(referral);
            if !value.is_empty() {
                read.body = EventBody::Pressed { value };
            }
        }
        ("reaction", Some(mid)) => {
            let sign = text(what, "/emoji").or_else(|| text(what, "/reaction"));
            read.body = EventBody::Reaction {
                external_id: mid.clone(),
                sign: sign.unwrap_or_default().to_owned(),
                added: text(what, "/action") != Some("unreact"),
            };
        }
        ("read", Some(mid)) => {
            read.id = short(&format!("{mid}:read:{who}"));
            read.body = EventBody::Receipt { external_id: mid.clone(), state: ReceiptState::Read };
        }
        ("message_edit", Some(mid)) => {
            if let Some(text) = text(what, "/text") {
                let message = Message::text(TextFormat::Plain, text);
                read.body = EventBody::Edited { external_id: mid.clone(), message };
            }
        }
        ("referral", _) => read.attribution = Some(referral(what)),
        _ => {}
    }
    vec![read]
}

fn message(mid: &str, what: &Value, read: &mut Event) {
    let is = |name: &str| what.get(name) == Some(&Value::Bool(true));
    read.id = mid.to_owned();
    read.attribution = what.pointer("/referral").map(referral);
    if is("is_echo") {
        read.id = short(&format!("{mid}:echo"));
        read.body = unknown("echo");
    } else if is("is_deleted") {
        read.id = short(&format!("{mid}:deleted"));
        read.body = EventBody::Deleted { external_id: mid.to_owned() };
    } else if let Some(data) = text(what, "/quick_reply/payload") {
        read.body = EventBody::Pressed { value: press::said(data, text(what, "/text")) };
    } else {
        let words = text(what, "/text")
            .map(|text| Part::Text { format: TextFormat::Plain, text: text.to_owned() });
        let files = list(what, "/attachments").iter().map(attachment);
        let parts: Vec<_> = words.into_iter().chain(files).collect();
        if parts.is_empty() {
            read.body = unknown("message_without_parts");
            return;
        }
        let message = Message { parts, reply_to: id(what, "/reply_to/mid") };
        read.body = EventBody::Message { external_id: mid.to_owned(), message };
    }
}

fn attachment(attachment: &Value) -> Part {
    let url = owned(attachment, "/payload/url");
    let title = ["/payload/title", "/title"].iter().find_map(|at| owned(attachment, at));
    let kind = text(attachment, "/type").unwrap_or("attachment");
    let degrees = |name: &str| attachment.pointer(name).and_then(Value::as_f64);
    let place = degrees("/payload/coordinates/lat").zip(degrees("/payload/coordinates/long"));
    if let Some((latitude, longitude)) = place {
        return Part::Location { latitude, longitude, name: title, address: None };
    }
    let media = Media { external_id: url.clone(), name: title.clone(), ..Media::default() };
    match (kind, &url) {
        ("image", Some(_)) => Part::Image(media),
        ("audio", Some(_)) => Part::Audio(Media { voice: true, ..media }),
        ("video", Some(_)) => Part::Video(media),
        ("file", Some(_)) => Part::File(media),
        _ => {
            let words = [title, owned(attachment, "/url").or(url)].into_iter().flatten();
            let words = std::iter::once(format!("[{kind}]")).chain(words);
            let text = words.collect::<Vec<_>>().join(" ");
            Part::Text { format: TextFormat::Plain, text }
        }
    }
}

fn delivered(read: &Event, what: &Value) -> Vec<Event> {
    let ids = list(what, "/mids").iter().filter_map(|mid| id(mid, ""));
    let receipt = |mid: String| Event {
        id: short(&format!("{mid}:delivered")),
        body: EventBody::Receipt { external_id: mid, state: ReceiptState::Delivered },
        ..read.clone()
    };
    let receipts: Vec<_> = ids.map(receipt).collect();
    if receipts.is_empty() { vec![read.clone()] } else { receipts }
}

fn referral(referral: &Value) -> Attribution {
    Attribution {
        reference: owned(referral, "/ref").or_else(|| owned(referral, "/ad_id")),
        reseller: None,
        click_id: owned(referral, "/ad_id"),
        source_url: owned(referral, "/referer_uri"),
    }
}

//! What the WhatsApp Cloud API sends, as events. One request may hold messages and statuses of
//! several people, and numbers of several businesses where one app serves them.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use qudao_core::channel::{
    config::ChannelConfig,
    event::{Attribution, Event, EventBody, Person, ReceiptState, Thread},
};
use qudao_domain::message::{Media, Message, Part, TextFormat};
use serde_json::{Value, json};

use crate::{
    press,
    wire::{id, list, owned, seconds, short, stored, text, unknown},
};

pub(super) fn read(config: &ChannelConfig, body: &Value) -> Vec<Event> {
    let mut events = Vec::new();
    let entries = list(body, "/entry");
    for entry in entries {
        let changes = list(entry, "/changes");
        changes.iter().for_each(|change| read_change(config, change, &mut events));
        if changes.is_empty() {
            events.push(stored("entry_without_changes", entry));
        }
    }
    if entries.is_empty() {
        events.push(stored("body_without_entries", body));
    }
    events
}

fn read_change(config: &ChannelConfig, change: &Value, events: &mut Vec<Event>) {
    let field = text(change, "/field").unwrap_or("unnamed");
    let value = change.pointer("/value").unwrap_or(&Value::Null);
    let number = id(value, "/metadata/phone_number_id");
    let ours = number.as_deref().is_none_or(|one| config.setting("phone_number_id") == Some(one));
    let before = events.len();
    for message in list(value, "/messages") {
        events.push(read_message(config, value, message));
    }
    for status in list(value, "/statuses") {
        events.push(read_status(config, value, status));
    }
    for echo in list(value, "/message_echoes") {
        events.push(stored("echo", echo));
    }
    for choice in list(value, "/user_preferences") {
        events.push(read_preference(config, choice));
    }
    if !ours {
        // Another channel's: its own address is told of it, or nobody is.
        events[before..].iter_mut().for_each(|event| {
            event.thread = Thread::default();
            event.body = unknown("other_phone_number");
        });
    }
    if events.len() == before {
        events.push(stored(field, change));
    }
}

pub(super) fn thread(config: &ChannelConfig, who: &str) -> Thread {
    let number = config.setting("phone_number_id").unwrap_or_default();
    Thread { external_id: short(&format!("{number}/{who}")), group: false }
}

fn read_message(config: &ChannelConfig, value: &Value, message: &Value) -> Event {
    // A person with a username may show no number.
    let who = id(message, "/from").or_else(|| id(message, "/from_user_id"));
    let (Some(who), Some(message_id)) = (who, id(message, "/id")) else {
        return stored("message_without_id", message);
    };
    let contacts = list(value, "/contacts");
    let of = |contact: &&Value| {
        [id(contact, "/wa_id"), id(contact, "/user_id")].contains(&Some(who.clone()))
    };
    let contact = contacts.iter().find(of).or(contacts.first().filter(|_| contacts.len() == 1));
    let raw =
        json!({ "metadata": value["metadata"], "contacts": [contact], "messages": [message] });
    let kind = text(message, "/type").unwrap_or("unnamed");
    let mut read = Event {
        id: message_id.clone(),
        thread: thread(config, &who),
        sender: Person {
            name: contact.and_then(|contact| owned(contact, "/profile/name")),
            external_id: who,
            locale: None,
        },
        attribution: message.pointer("/referral").map(referral),
        at: seconds(message, "/timestamp"),
        ..stored(&format!("message_{kind}"), &raw)
    };
    if let Some(group) = id(message, "/group_id") {
        read.thread = Thread { external_id: group, group: true };
        read.body = EventBody::Overheard;
        return read;
    }
    if let Some(body) = body(config, &message_id, kind, message) {
        read.body = body;
    }
    read
}

fn referral(referral: &Value) -> Attribution {
    Attribution {
        reference: owned(referral, "/source_id"),
        reseller: None,
        click_id: owned(referral, "/ctwa_clid"),
        source_url: owned(referral, "/source_url"),
    }
}

/// What a message of a kind says; `None` if that is not known.
fn body(config: &ChannelConfig, own_id: &str, kind: &str, message: &Value) -> Option<EventBody> {
    Some(match kind {
        "interactive" => {
            let reply = ["/interactive/button_reply", "/interactive/list_reply"];
            let reply = reply.iter().find_map(|at| message.pointer(at))?;
            pressed(text(reply, "/id"), text(reply, "/title"))?
        }
        "button" => pressed(text(message, "/button/payload"), text(message, "/button/text"))?,
        "reaction" => {
            let sign = text(message, "/reaction/emoji");
            EventBody::Reaction {
                external_id: id(message, "/reaction/message_id")?,
                sign: sign.unwrap_or_default().to_owned(),
                added: sign.is_some(),
            }
        }
        "revoke" => EventBody::Deleted { external_id: id(message, "/revoke/original_message_id")? },
        "edit" => {
            let now = message.pointer("/edit/message")?;
            let parts = parts(text(now, "/type")?, now);
            (!parts.is_empty()).then_some(())?;
            EventBody::Edited {
                external_id: id(message, "/edit/original_message_id")?,
                message: Message { parts, reply_to: None },
            }
        }
        "system" => {
            let new = ["/system/wa_id", "/system/new_wa_id"].iter();
            let new = new.clone().find_map(|at| id(message, at))?;
            EventBody::Moved { to: thread(config, &new).external_id }
        }
        _ => {
            let parts = parts(kind, message);
            (!parts.is_empty()).then_some(())?;
            let message = Message { parts, reply_to: id(message, "/context/id") };
            EventBody::Message { external_id: own_id.to_owned(), message }
        }
    })
}

fn pressed(data: Option<&str>, label: Option<&str>) -> Option<EventBody> {
    let value = press::said(data.unwrap_or_default(), label);
    (!value.is_empty()).then_some(EventBody::Pressed { value })
}

fn parts(kind: &str, message: &Value) -> Vec<Part> {
    let at = |name: &str| message.pointer(name);
    match kind {
        "text" => text(message, "/text/body").map(words).into_iter().collect(),
        "image" => at("/image").and_then(media).map(Part::Image).into_iter().collect(),
        "sticker" => at("/sticker").and_then(media).map(Part::Image).into_iter().collect(),
        "audio" => at("/audio").and_then(media).map(Part::Audio).into_iter().collect(),
        "video" => at("/video").and_then(media).map(Part::Video).into_iter().collect(),
        "document" => at("/document").and_then(media).map(Part::File).into_iter().collect(),
        "location" => {
            let degrees = |name: &str| at(name).and_then(Value::as_f64);
            let place = degrees("/location/latitude").zip(degrees("/location/longitude"));
            let part = place.map(|(latitude, longitude)| Part::Location {
                latitude,
                longitude,
                name: owned(message, "/location/name"),
                address: owned(message, "/location/address"),
            });
            part.into_iter().collect()
        }
        "contacts" => list(message, "/contacts").iter().filter_map(contact).collect(),
        "order" => {
            let items = list(message, "/order/product_items");
            let mut lines: Vec<_> =
                text(message, "/order/text").map(str::to_owned).into_iter().collect();
            lines.extend(items.iter().map(ordered));
            if lines.is_empty() { Vec::new() } else { vec![words(&lines.join("\n"))] }
        }
        _ => Vec::new(),
    }
}

fn words(text: &str) -> Part {
    Part::Text { format: TextFormat::Plain, text: text.to_owned() }
}

fn ordered(item: &Value) -> String {
    let word = |name: &str| item.get(name).map(ToString::to_string).unwrap_or_default();
    let [count, what, price, currency] =
        ["quantity", "product_retailer_id", "item_price", "currency"].map(word);
    format!("{count} × {what}: {price} {currency}").replace('"', "")
}

fn media(media: &Value) -> Option<Media> {
    let sha256 = text(media, "/sha256").and_then(|hash| STANDARD.decode(hash).ok());
    Some(Media {
        external_id: Some(id(media, "/id")?),
        mime: owned(media, "/mime_type"),
        sha256: sha256.map(hex::encode),
        name: owned(media, "/filename"),
        caption: owned(media, "/caption"),
        voice: media.pointer("/voice") == Some(&Value::Bool(true)),
        ..Media::default()
    })
}

fn contact(contact: &Value) -> Option<Part> {
    let name = ["/name/formatted_name", "/name/first_name", "/org/company"].iter();
    let name = name.clone().find_map(|at| owned(contact, at));
    let phone = ["/phones/0/phone", "/phones/0/wa_id"].iter();
    let phone = phone.clone().find_map(|at| owned(contact, at));
    let name = name.or_else(|| phone.clone())?;
    Some(Part::Contact { name, phone })
}

fn read_status(config: &ChannelConfig, value: &Value, status: &Value) -> Event {
    let who = id(status, "/recipient_id").or_else(|| id(status, "/recipient_user_id"));
    let (Some(external_id), Some(state)) = (id(status, "/id"), text(status, "/status")) else {
        return stored("status_without_id", status);
    };
    let raw = json!({ "metadata": value["metadata"], "statuses": [status] });
    let mut read = Event {
        id: short(&format!("{external_id}:{state}")),
        at: seconds(status, "/timestamp"),
        ..stored(&format!("status_{state}"), &raw)
    };
    if let Some(who) = who {
        read.thread = thread(config, &who);
        read.sender.external_id = who;
    }
    let state = match state {
        "sent" => ReceiptState::Sent,
        "delivered" => ReceiptState::Delivered,
        "read" | "played" => ReceiptState::Read,
        "failed" => ReceiptState::Failed,
        _ => return read,
    };
    read.body = EventBody::Receipt { external_id, state };
    read
}

/// Somebody stopped or resumed what a business sends unasked.
fn read_preference(config: &ChannelConfig, choice: &Value) -> Event {
    let mut read = stored("user_preference", choice);
    let Some(who) = id(choice, "/wa_id").or_else(|| id(choice, "/user_id")) else { return read };
    read.thread = thread(config, &who);
    read.sender.external_id = who;
    read.at = seconds(choice, "/timestamp");
    match text(choice, "/value") {
        Some("stop") => read.body = EventBody::Unreachable,
        Some("resume") => read.body = EventBody::Reachable,
        _ => {}
    }
    read
}

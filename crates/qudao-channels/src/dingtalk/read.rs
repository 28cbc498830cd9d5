//! Messages to a robot of DingTalk.

use qudao_core::channel::event::{Event, EventBody, Person, Thread};
use qudao_domain::message::{Media, Message, Part, TextFormat};
use serde_json::Value;

use crate::lenient::{self, kind, list, number, some_text, text};

/// What a message says; `None` for one of the robot's own.
pub(super) fn event(raw: Value) -> Option<Event> {
    let (sender, robot) = (text(&raw, "/senderId"), text(&raw, "/chatbotUserId"));
    if !sender.is_empty() && sender == robot {
        return None;
    }
    let id = some_text(&raw, "/msgId");
    let id = id.map_or_else(|| lenient::hash(&[raw.to_string().as_bytes()]), |id| lenient::id(&id));
    let group = text(&raw, "/conversationType") == "2";
    let staff = some_text(&raw, "/senderStaffId");
    let conversation = text(&raw, "/conversationId");
    // A colleague can be written to by their number, anybody else only where they wrote.
    let thread = match &staff {
        Some(staff) if !group => format!("user:{staff}"),
        _ if conversation.is_empty() => String::new(),
        _ if group => format!("group:{conversation}"),
        _ => format!("conversation:{conversation}"),
    };
    let what = text(&raw, "/msgtype");
    let body = if thread.is_empty() {
        EventBody::Unknown { kind: "message_without_conversation".to_owned() }
    } else if group && raw.pointer("/isInAtList") == Some(&Value::Bool(false)) {
        EventBody::Overheard
    } else {
        match parts(&what, &raw) {
            Some(parts) => {
                let reply_to = some_text(&raw, "/originalMsgId").map(|id| lenient::id(&id));
                EventBody::Message { external_id: id.clone(), message: Message { parts, reply_to } }
            }
            None => EventBody::Unknown { kind: kind(&format!("message_{what}")) },
        }
    };
    Some(Event {
        id,
        thread: Thread { external_id: lenient::id(&thread), group },
        sender: Person {
            external_id: lenient::id(&staff.unwrap_or(sender)),
            name: some_text(&raw, "/senderNick").map(|name| name.chars().take(200).collect()),
            locale: None,
        },
        body,
        attribution: None,
        at: number(&raw, "/createAt").and_then(lenient::from_millis),
        raw,
    })
}

fn parts(what: &str, raw: &Value) -> Option<Vec<Part>> {
    let file = || {
        let code = some_text(raw, "/content/downloadCode")?;
        Some(Media {
            // Longer than other ids: whoever asks for the file needs it whole.
            external_id: Some(code),
            name: some_text(raw, "/content/fileName").map(|name| name.chars().take(200).collect()),
            ..Media::default()
        })
    };
    Some(match what {
        "text" => vec![plain(&text(raw, "/text/content"))?],
        "picture" => vec![Part::Image(file()?)],
        "audio" => {
            let heard = some_text(raw, "/content/recognition");
            vec![Part::Audio(Media { voice: true, caption: heard, ..file()? })]
        }
        "video" => vec![Part::Video(file()?)],
        "file" => vec![Part::File(file()?)],
        "richText" => rich(raw)?,
        _ => return None,
    })
}

fn plain(words: &str) -> Option<Part> {
    let words = words.trim();
    (!words.is_empty()).then(|| Part::Text { format: TextFormat::Plain, text: words.to_owned() })
}

fn rich(raw: &Value) -> Option<Vec<Part>> {
    let mut words = String::new();
    let mut pictures = Vec::new();
    for piece in list(raw, "/content/richText").iter().take(1000) {
        words.push_str(&text(piece, "/text"));
        if let Some(code) = some_text(piece, "/downloadCode") {
            pictures.push(Part::Image(Media { external_id: Some(code), ..Media::default() }));
        }
    }
    let parts: Vec<_> = plain(&words).into_iter().chain(pictures).collect();
    (!parts.is_empty()).then_some(parts)
}

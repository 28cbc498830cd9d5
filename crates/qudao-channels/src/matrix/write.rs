//! Messages as events of Matrix.

use std::time::Duration;

use qudao_core::channel::{
    adapter::{Failure, FailureReason, Outcome, Outgoing, Preview},
    config::ChannelConfig,
    plan::{HttpPlan, OwnFile, Plan, RawResponse},
};
use qudao_domain::{
    message::{Message, Part, TextFormat},
    render::plain_text,
};
use serde_json::{Value, json};

use super::{as_user, client, encoded, homeserver, signed};
use crate::{lenient, markup};

/// The requests that send a message. A homeserver knows a transaction's id again and answers with
/// the event that it made the first time.
pub(super) fn message(config: &ChannelConfig, out: &Outgoing<'_>) -> Result<Vec<Plan>, Failure> {
    let (room, _) = place(out.thread);
    if !room.starts_with('!') {
        let detail = "the conversation names no room".to_owned();
        return Err(Failure { reason: FailureReason::RecipientUnknown, detail });
    }
    let shown = out.preview_id.filter(|_| out.piece == 0);
    let contents = contents(out.message);
    let plans = contents.into_iter().enumerate().map(|(at, (mut content, file))| {
        match shown.filter(|_| at == 0 && file.is_none()) {
            Some(id) => content = edit(content, id),
            None => {
                let reply_to = out.message.reply_to.as_deref().filter(|_| at == 0);
                relate(&mut content, out.thread, reply_to);
            }
        }
        let txn = format!("{}.{}.{at}", out.id, out.piece);
        let plan = send(config, "send", room, &txn, &content);
        Plan::Http(match file {
            Some(file) => upload(config, file).then(plan),
            None => plan,
        })
    });
    Ok(plans.collect())
}

/// The request that shows an answer so far: a message first, then its edits. The same words are
/// the same transaction.
pub(super) fn preview(config: &ChannelConfig, thread: &str, preview: &Preview<'_>) -> HttpPlan {
    let (room, _) = place(thread);
    let mut content = words(TextFormat::Markdown, preview.text);
    let txn = format!("preview.{}.{}", preview.draft, preview.text.len());
    match preview.message_id {
        None => relate(&mut content, thread, None),
        Some(id) => content = edit(content, id),
    }
    send(config, "preview", room, &txn, &content)
}

/// The request that puts a file into the homeserver's keeping.
fn upload(config: &ChannelConfig, file: OwnFile) -> HttpPlan {
    let path = format!("{}/_matrix/media/v3/upload", homeserver(config));
    let url = format!("{}&filename={}", as_user(config, &path), encoded(&file.name));
    signed(config, HttpPlan::post_file("upload", url, file))
}

fn send(
    config: &ChannelConfig,
    purpose: &'static str,
    room: &str,
    txn: &str,
    content: &Value,
) -> HttpPlan {
    let path = format!("rooms/{}/send/m.room.message/{}", encoded(room), encoded(txn));
    let plan = HttpPlan::post_json(purpose, client(config, &path), content).method("PUT");
    signed(config, plan)
}

/// What puts new words in the place of a message.
fn edit(content: Value, id: &str) -> Value {
    json!({
        "msgtype": content["msgtype"],
        "body": format!("* {}", lenient::text(&content, "/body")),
        "m.mentions": {},
        "m.new_content": content,
        "m.relates_to": {"rel_type": "m.replace", "event_id": id},
    })
}

/// A conversation's room and the root of its thread.
fn place(thread: &str) -> (&str, Option<&str>) {
    thread.split_once(' ').map_or((thread, None), |(room, root)| (room, Some(root)))
}

fn relate(content: &mut Value, thread: &str, reply_to: Option<&str>) {
    let relation = match (place(thread).1, reply_to) {
        (Some(root), reply_to) => json!({
            "rel_type": "m.thread", "event_id": root,
            "is_falling_back": reply_to.is_none(),
            "m.in_reply_to": {"event_id": reply_to.unwrap_or(root)},
        }),
        (None, Some(id)) => json!({"m.in_reply_to": {"event_id": id}}),
        (None, None) => return,
    };
    content["m.relates_to"] = relation;
}

/// The events that a message needs: places and files stand alone, all else is one text. The address of
/// a file is known when it was uploaded.
fn contents(message: &Message) -> Vec<(Value, Option<OwnFile>)> {
    let mut contents = Vec::new();
    for part in &message.parts {
        if let Some((content, file)) = file(part) {
            contents.push((content, Some(file)));
            continue;
        }
        let content = match part {
            Part::Location { latitude, longitude, name, .. } => json!({
                "msgtype": "m.location",
                "body": name.clone().unwrap_or_else(|| part.to_text()),
                "geo_uri": format!("geo:{latitude},{longitude}"),
            }),
            Part::Text { format, text } => words(*format, text),
            other => words(TextFormat::Plain, &other.to_text()),
        };
        contents.push((content, None));
    }
    contents
}

/// A file of which there is a copy.
fn file(part: &Part) -> Option<(Value, OwnFile)> {
    let media = part.media()?;
    let (kind, stand_in) = match part {
        Part::Image(_) => ("m.image", "image"),
        Part::Audio(_) => ("m.audio", "audio"),
        Part::Video(_) => ("m.video", "video"),
        _ => ("m.file", "file"),
    };
    let file = OwnFile::of(media, stand_in)?;
    let content = json!({
        "msgtype": kind, "url": "", "filename": file.name,
        "body": media.caption.as_deref().unwrap_or(&file.name),
        "info": { "mimetype": file.mime, "size": file.size }, "m.mentions": {},
    });
    Some((content, file))
}

fn words(format: TextFormat, text: &str) -> Value {
    let mut content = match format {
        TextFormat::Plain => json!({"msgtype": "m.text", "body": text}),
        TextFormat::Markdown => json!({
            "msgtype": "m.text",
            "body": plain_text(text),
            "format": "org.matrix.custom.html",
            "formatted_body": markup::html(text),
        }),
    };
    // Names nobody: a name within the words rings nowhere.
    content["m.mentions"] = json!({});
    content
}

/// What a homeserver's answer means.
pub(super) fn classify(plan: &Plan, response: &RawResponse) -> Outcome {
    let body = response.json();
    let detail = response.excerpt();
    if response.is_success() {
        let next = if let Plan::Http(plan) = plan { plan.then.as_deref() } else { None };
        if let Some(next) = next {
            let Some(address) = lenient::some_text(&body, "/content_uri") else {
                return Outcome::retry(detail);
            };
            let next = next.clone().filled("/url", json!(address));
            return Outcome::Then(vec![Plan::Http(next)]);
        }
        return Outcome::Sent { external_id: lenient::some_text(&body, "/event_id") };
    }
    let wait = lenient::number(&body, "/retry_after_ms").and_then(|ms| u64::try_from(ms).ok());
    let after = response.retry_after().or(wait.map(Duration::from_millis));
    match (response.status, lenient::text(&body, "/errcode").as_str()) {
        (429, _) | (_, "M_LIMIT_EXCEEDED") => Outcome::Retry { after, detail },
        (_, "M_UNKNOWN_TOKEN" | "M_MISSING_TOKEN" | "M_EXCLUSIVE") | (401, _) => {
            Outcome::failed(FailureReason::Auth, detail)
        }
        // Not in the room any more, or not allowed to speak there.
        (403, _) => Outcome::failed(FailureReason::Blocked, detail),
        (413, _) | (_, "M_TOO_LARGE") => Outcome::failed(FailureReason::TooLong, detail),
        (404, "M_NOT_FOUND") => Outcome::failed(FailureReason::RecipientUnknown, detail),
        (400, _) => Outcome::failed(FailureReason::ProviderError, detail),
        // A homeserver that restarts answers anything, also that it knows no such address.
        _ => Outcome::Retry { after, detail },
    }
}

//! Messages as requests of LINE's Messaging API.

use std::time::Duration;

use jiff::Timestamp;
use qudao_core::channel::{
    adapter::{Failure, FailureReason, Outgoing},
    config::ChannelConfig,
    plan::{HttpPlan, Plan},
};
use qudao_domain::{
    capability::Unit,
    message::{Button, ButtonAction, Media, Part, Row},
    render::split,
};
use serde_json::{Value, json};

use super::manifest;
use crate::{press, signature::sha256, wire};

/// The longest words of one message, of a template, and of one with a picture or a title.
const TEXT_MAX: usize = 5000;
const TEMPLATE_MAX: usize = 160;
const CARD_MAX: usize = 60;
/// The most messages of one request, and buttons of one template.
const MESSAGES_MAX: usize = 5;
const BUTTONS_MAX: usize = 4;
/// The most of what a button carries.
const DATA_MAX: usize = 290;
/// How long a reply token is used: LINE takes it for a minute, and the request takes time.
const TOKEN_AGE: Duration = Duration::from_secs(50);
/// What stands above buttons that nothing was said to.
const POINTER: &str = "👇";

pub(super) fn render(config: &ChannelConfig, out: &Outgoing<'_>) -> Result<Vec<Plan>, Failure> {
    let token = config.secret("access_token").map_err(|_| Failure {
        reason: FailureReason::Auth,
        detail: "the channel access token is not set".to_owned(),
    })?;
    let messages = messages(out)?;
    let chunks = messages.chunks(MESSAGES_MAX).enumerate();
    let plan = |(at, messages): (usize, &[Value])| {
        let key = retry_key(out, at);
        match reply_token(out).filter(|_| at == 0) {
            Some(reply) => reply_plan(config, token, reply, out.thread, &key, messages),
            None => push_plan(config, token, out.thread, &key, messages),
        }
    };
    Ok(chunks.map(plan).map(Plan::Http).collect())
}

/// The token of what is answered, while it is valid and was not used by an earlier piece.
fn reply_token<'a>(out: &Outgoing<'a>) -> Option<&'a str> {
    let answered = out.answered?;
    // LINE sends again what it could not deliver, with the token that it had.
    let born = wire::millis(answered.raw, "/timestamp").unwrap_or(answered.at);
    let young = |at: Timestamp| out.now.duration_since(at).unsigned_abs() < TOKEN_AGE;
    let young = young(answered.at) && young(born);
    let token = wire::text(answered.raw, "/replyToken")?;
    // Of a conversation that only moved on to another person nothing may be told to the first.
    let here = ["/source/groupId", "/source/roomId", "/source/userId"].iter();
    let here = here.clone().find_map(|at| wire::text(answered.raw, at)) == Some(out.thread);
    (young && here && out.piece == 0).then_some(token)
}

/// The same whenever the same piece is sent again, so that LINE takes it once.
fn retry_key(out: &Outgoing<'_>, at: usize) -> String {
    let parts = format!("{}\n{}\n{at}", out.id, out.piece);
    let hash = sha256(&[b"line retry key\n", parts.as_bytes()]);
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash[..16]);
    uuid::Builder::from_random_bytes(bytes).into_uuid().to_string()
}

/// A reply. To whom it goes and under which key is noted: with it a refused reply becomes a push.
fn reply_plan(
    config: &ChannelConfig,
    token: &str,
    reply: &str,
    to: &str,
    key: &str,
    messages: &[Value],
) -> HttpPlan {
    let url = format!("{}/v2/bot/message/reply", manifest::api(config));
    let body = json!({ "replyToken": reply, "messages": messages });
    HttpPlan::post_json("reply", url, &body).bearer(token).note(format!("{to}/{key}"))
}

fn push_plan(
    config: &ChannelConfig,
    token: &str,
    to: &str,
    key: &str,
    messages: &[Value],
) -> HttpPlan {
    let url = format!("{}/v2/bot/message/push", manifest::api(config));
    let body = json!({ "to": to, "messages": messages });
    HttpPlan::post_json("push", url, &body).bearer(token).header("x-line-retry-key", key)
}

/// The push that says what a reply could not.
pub(super) fn instead(config: &ChannelConfig, reply: &HttpPlan) -> Option<HttpPlan> {
    let (to, key) = reply.note.split_once('/')?;
    let body: Value = serde_json::from_slice(&reply.body).ok()?;
    let token = config.secret("access_token").ok()?;
    Some(push_plan(config, token, to, key, wire::list(&body, "/messages")))
}

fn messages(out: &Outgoing<'_>) -> Result<Vec<Value>, Failure> {
    let mut said = String::new();
    let mut messages = Vec::new();
    for part in &out.message.parts {
        match part {
            Part::Text { text, .. } => said.clone_from(text),
            Part::Buttons { items, .. } => {
                let said = std::mem::take(&mut said);
                messages.extend(with_buttons(&said, items));
            }
            Part::List { rows, .. } => {
                let mut pieces = words(&said);
                said.clear();
                let mut last = pieces.pop().unwrap_or_else(|| text(POINTER));
                last["quickReply"] = json!({ "items": rows.iter().map(row).collect::<Vec<_>>() });
                messages.extend(pieces);
                messages.push(last);
            }
            Part::Card { title, text, image_url, items, .. } => {
                messages.extend(words(&std::mem::take(&mut said)));
                messages.extend(card(title, text.as_deref(), image_url.as_deref(), items));
            }
            Part::Image(media) if !is_own(media) => messages.push(image(media)?),
            Part::Location { latitude, longitude, name, address } => {
                let name = name.as_deref().unwrap_or("📍");
                let address = address.clone().unwrap_or(format!("{latitude:.6}, {longitude:.6}"));
                messages.push(json!({ "type": "location", "title": press::cut(name, 100),
                    "address": press::cut(&address, 100),
                    "latitude": latitude, "longitude": longitude }));
            }
            other => said.push_str(&other.to_text()),
        }
    }
    messages.extend(words(&said));
    Ok(messages)
}

fn text(text: &str) -> Value {
    json!({ "type": "text", "text": text })
}

fn words(said: &str) -> Vec<Value> {
    split(said, TEXT_MAX, Unit::Utf16).iter().map(|piece| text(piece)).collect()
}

/// Short words stand in the template itself, long ones before it.
fn with_buttons(said: &str, items: &[Button]) -> Vec<Value> {
    let fits = !said.is_empty() && Unit::Utf16.count(said) <= TEMPLATE_MAX;
    let mut messages = if fits { Vec::new() } else { words(said) };
    let body = if fits { said } else { POINTER };
    let actions: Vec<_> = items.iter().take(BUTTONS_MAX).map(action).collect();
    let told = items.iter().map(Button::to_text).collect::<Vec<_>>().join("\n");
    messages
        .push(json!({ "type": "template", "altText": press::cut(&format!("{body}\n{told}"), 400),
        "template": { "type": "buttons", "text": body, "actions": actions } }));
    messages
}

/// A template needs a button: a card without one is a picture and words.
fn card(title: &str, text: Option<&str>, image: Option<&str>, items: &[Button]) -> Vec<Value> {
    let long = text.filter(|text| CARD_MAX < Unit::Utf16.count(text));
    let image = image.filter(|address| address.starts_with("https://"));
    if items.is_empty() {
        let picture = image.map(
            |url| json!({ "type": "image", "originalContentUrl": url, "previewImageUrl": url }),
        );
        let lines = std::iter::once(title).chain(text).collect::<Vec<_>>().join("\n");
        return picture.into_iter().chain(words(&lines)).collect();
    }
    let body = text.filter(|text| !text.is_empty()).unwrap_or(title);
    let actions: Vec<_> = items.iter().take(BUTTONS_MAX).map(action).collect();
    let mut template = json!({ "type": "buttons", "title": press::cut(title, 40),
        "text": press::cut(body, CARD_MAX), "actions": actions });
    if let Some(image) = image {
        template["thumbnailImageUrl"] = json!(image);
    }
    let told = press::cut(&format!("{title}\n{}", text.unwrap_or_default()), 400);
    let card = json!({ "type": "template", "altText": told, "template": template });
    std::iter::once(card).chain(long.map(words).unwrap_or_default()).collect()
}

fn action(item: &Button) -> Value {
    let label = press::cut(&item.label, 20);
    match &item.action {
        ButtonAction::Url { url } => json!({ "type": "uri", "label": label, "uri": url }),
        ButtonAction::Postback { value } => postback(&item.id, value, &item.label, &label),
    }
}

fn row(row: &Row) -> Value {
    let label = press::cut(&row.label, 20);
    json!({ "type": "action", "action": postback(&row.id, &row.value, &row.label, &label) })
}

/// LINE gives back the data alone, so what the button says goes along where it has no value.
fn postback(id: &str, value: &str, said: &str, label: &str) -> Value {
    let value = if value.is_empty() { said } else { value };
    let mut data = press::carry(id, value, DATA_MAX);
    if press::said(&data, None) != value {
        data = press::carry(id, label, DATA_MAX);
    }
    json!({ "type": "postback", "label": label, "data": data, "displayText": label })
}

/// A file of which nobody but the platform has a copy: LINE cannot fetch it, so it is told in words.
fn is_own(media: &Media) -> bool {
    media.upload_id.is_some() && media.url.is_none()
}

fn image(media: &Media) -> Result<Value, Failure> {
    let url = media.url.as_deref().filter(|address| address.starts_with("https://"));
    let url = url.ok_or_else(|| Failure {
        reason: FailureReason::MediaRejected,
        detail: "the picture has no https address that LINE could fetch".to_owned(),
    })?;
    Ok(json!({ "type": "image", "originalContentUrl": url, "previewImageUrl": url }))
}

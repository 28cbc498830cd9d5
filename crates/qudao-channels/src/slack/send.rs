//! Messages as requests of Slack's Web API.

use std::time::Duration;

use qudao_core::channel::{
    adapter::{Failure, FailureReason, Outgoing, Preview},
    config::ChannelConfig,
    plan::{HttpPlan, Plan},
};
use qudao_domain::{
    capability::Unit,
    message::{Button, ButtonAction, Media, Message, Part, Row, TextFormat},
    render::{plain_text, split},
};
use serde_json::{Map, Value, json};

use super::{event::is_slacks, files, manifest::API};
use crate::{press, wire};

/// The most of one text in a block that reads no Markdown.
const SECTION_MAX: usize = 3000;
/// A command can be answered at its own address for half an hour and five times.
const COMMAND_AGE: Duration = Duration::from_secs(29 * 60);
const COMMAND_USES: u32 = 5;

pub(super) fn api(config: &ChannelConfig) -> String {
    config.address("api_url", API)
}

/// A call of a method; `None` without a token.
pub(super) fn call(
    config: &ChannelConfig,
    method: &str,
    purpose: &'static str,
    body: &Value,
) -> Option<HttpPlan> {
    let token = config.secret("bot_token").ok()?;
    let plan = HttpPlan::post_json(purpose, format!("{}/{method}", api(config)), body);
    Some(plan.bearer(token))
}

pub(super) fn render(config: &ChannelConfig, out: &Outgoing<'_>) -> Result<Vec<Plan>, Failure> {
    let place = place(out);
    if let Some(plan) = files::upload(config, out, place) {
        return Ok(vec![Plan::Http(plan)]);
    }
    let mut body = content(out.message)?;
    if let Some(plan) = instead_of_preview(config, out, &body) {
        return Ok(vec![Plan::Http(plan)]);
    }
    if let Some(address) = command_address(config, out) {
        body.insert("response_type".to_owned(), json!("in_channel"));
        if let Some(text) = body.remove("markdown_text") {
            body.insert("blocks".to_owned(), json!([{ "type": "markdown", "text": text }]));
        }
        let plan = HttpPlan::post_json("respond", address, &Value::Object(body));
        return Ok(vec![Plan::Http(plan)]);
    }
    let (channel, ts) = place;
    body.insert("channel".to_owned(), json!(channel));
    if let Some(ts) = ts {
        body.insert("thread_ts".to_owned(), json!(ts));
    }
    let plan = call(config, "chat.postMessage", "send", &Value::Object(body));
    let plan = plan.ok_or_else(|| Failure {
        reason: FailureReason::Auth,
        detail: "the bot token is not set".to_owned(),
    })?;
    Ok(vec![Plan::Http(plan)])
}

/// The channel, and the thread in it.
fn place<'a>(out: &Outgoing<'a>) -> (&'a str, Option<&'a str>) {
    let (channel, ts) =
        out.thread.split_once('/').map_or((out.thread, None), |(a, b)| (a, Some(b)));
    // In a direct channel a person may ask within a thread.
    let asked = out.answered.and_then(|answered| wire::text(answered.raw, "/event/thread_ts"));
    (channel, ts.or(asked))
}

/// The answer in the place of what showed it while it grew. Where it would go otherwise is noted.
fn instead_of_preview(
    config: &ChannelConfig,
    out: &Outgoing<'_>,
    body: &Map<String, Value>,
) -> Option<HttpPlan> {
    let (channel, ts) = out.preview_id.filter(|_| out.piece == 0)?.split_once(':')?;
    let mut body = body.clone();
    ["unfurl_links", "mrkdwn"].iter().for_each(|name| drop(body.remove(*name)));
    body.insert("channel".to_owned(), json!(channel));
    body.insert("ts".to_owned(), json!(ts));
    let plan = call(config, "chat.update", "edit", &Value::Object(body))?;
    Some(plan.note(out.thread))
}

/// The same as a message of its own, if what is to be changed cannot be.
pub(super) fn anew(config: &ChannelConfig, edit: &HttpPlan) -> Option<HttpPlan> {
    let mut body: Map<String, Value> = serde_json::from_slice(&edit.body).ok()?;
    body.remove("ts");
    if let Some((_, ts)) = edit.note.split_once('/') {
        body.insert("thread_ts".to_owned(), json!(ts));
    }
    call(config, "chat.postMessage", "send", &Value::Object(body))
}

fn command_address<'a>(config: &ChannelConfig, out: &Outgoing<'a>) -> Option<&'a str> {
    let answered = out.answered?;
    wire::text(answered.raw, "/command")?;
    let young = out.now.duration_since(answered.at).unsigned_abs() < COMMAND_AGE;
    let address = wire::text(answered.raw, "/response_url")?;
    let known = is_slacks(address) || wire::same_origin(address, &api(config));
    (young && known && out.piece < COMMAND_USES).then_some(address)
}

/// An answer as far as it has grown: a message that is changed again and again.
pub(super) fn preview(
    config: &ChannelConfig,
    thread: &str,
    preview: &Preview<'_>,
) -> Option<HttpPlan> {
    let text = split(preview.text, 12_000, Unit::Utf16).into_iter().next()?;
    let (channel, parent) = thread.split_once('/').map_or((thread, None), |(a, b)| (a, Some(b)));
    let mut body = json!({ "channel": channel, "markdown_text": calm(&text) });
    match preview.message_id {
        Some(id) => {
            let ts = id.rsplit(':').next().unwrap_or(id);
            body["ts"] = json!(ts);
            call(config, "chat.update", "preview", &body)
        }
        None => {
            if let Some(parent) = parent {
                body["thread_ts"] = json!(parent);
            }
            call(config, "chat.postMessage", "preview", &body)
        }
    }
}

/// The fields that say what is said: `markdown_text` or `text` for words alone, else blocks and, as
/// what a notification shows, `text`.
fn content(message: &Message) -> Result<Map<String, Value>, Failure> {
    let mut body = Map::new();
    body.insert("unfurl_links".to_owned(), json!(false));
    if let [Part::Text { format, text }] = message.parts.as_slice() {
        match format {
            TextFormat::Markdown => body.insert("markdown_text".to_owned(), json!(calm(text))),
            TextFormat::Plain => {
                body.insert("mrkdwn".to_owned(), json!(false));
                body.insert("text".to_owned(), json!(escape(text)))
            }
        };
        return Ok(body);
    }
    let mut blocks = Vec::new();
    for part in &message.parts {
        add(part, &mut blocks)?;
    }
    let told = press::cut(&plain_text(&message.to_text()), SECTION_MAX);
    body.insert("text".to_owned(), json!(escape(&told)));
    body.insert("blocks".to_owned(), Value::Array(blocks));
    Ok(body)
}

fn add(part: &Part, blocks: &mut Vec<Value>) -> Result<(), Failure> {
    match part {
        Part::Text { format: TextFormat::Markdown, text } => {
            blocks.push(json!({ "type": "markdown", "text": calm(text) }));
        }
        Part::Text { format: TextFormat::Plain, text } => words(text, blocks),
        Part::Image(media) => blocks.extend(image(media)?),
        Part::Buttons { items, .. } => {
            blocks.extend(items.chunks(25).map(buttons));
        }
        Part::List { label, rows, .. } => {
            let options: Vec<_> = rows.iter().take(100).map(option).collect();
            let select = json!({ "type": "static_select", "action_id": "rows",
                "placeholder": plain(label, 150), "options": options });
            blocks.push(json!({ "type": "actions", "elements": [select] }));
        }
        Part::Card { title, text, image_url, items, .. } => {
            blocks.push(json!({ "type": "header", "text": plain(title, 150) }));
            if let Some(text) = text {
                words(text, blocks);
            }
            if let Some(address) = image_url {
                let alt = press::cut(title, 2000);
                blocks.push(json!({ "type": "image", "image_url": address, "alt_text": alt }));
            }
            blocks.extend(items.chunks(25).map(buttons));
        }
        other => words(&other.to_text(), blocks),
    }
    Ok(())
}

fn words(text: &str, blocks: &mut Vec<Value>) {
    let pieces = split(text, SECTION_MAX, Unit::Utf16).into_iter();
    blocks.extend(pieces.map(
        |piece| json!({ "type": "section", "text": { "type": "plain_text", "text": piece } }),
    ));
}

fn image(media: &Media) -> Result<Vec<Value>, Failure> {
    let address = media.url.as_deref().ok_or_else(|| Failure {
        reason: FailureReason::MediaRejected,
        detail: "the picture has no address that Slack could fetch".to_owned(),
    })?;
    let alt = [&media.alt, &media.name].into_iter().flatten().next();
    let alt = press::cut(alt.map_or("image", String::as_str), 2000);
    let mut blocks = vec![json!({ "type": "image", "image_url": address, "alt_text": alt })];
    if let Some(caption) = &media.caption {
        words(caption, &mut blocks);
    }
    Ok(blocks)
}

fn buttons(items: &[Button]) -> Value {
    let element = |item: &Button| {
        let mut element = json!({ "type": "button", "text": plain(&item.label, 75) });
        match &item.action {
            ButtonAction::Url { url } => {
                element["url"] = json!(url);
                element["action_id"] = json!(format!("url:{}", press::cut(&item.id, 200)));
            }
            ButtonAction::Postback { value } => {
                element["value"] = json!(press::carry(&item.id, value, 2000));
                element["action_id"] = json!(format!("press:{}", press::cut(&item.id, 200)));
            }
        }
        element
    };
    json!({ "type": "actions", "elements": items.iter().map(element).collect::<Vec<_>>() })
}

fn option(row: &Row) -> Value {
    let value = press::carry(&row.id, &row.value, 75);
    let mut option = json!({ "text": plain(&row.label, 75), "value": value });
    if let Some(words) = row.description.as_deref().filter(|words| !words.is_empty()) {
        option["description"] = plain(words, 75);
    }
    option
}

fn plain(text: &str, max: usize) -> Value {
    let text = press::cut(text, max);
    json!({ "type": "plain_text", "text": if text.is_empty() { "…" } else { &text }, "emoji": true })
}

/// The three characters that Slack gives a meaning, in `text`.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// Words that a model chose must not call a whole channel.
fn calm(markdown: &str) -> String {
    let calls = ["channel", "here", "everyone", "subteam"];
    calls.iter().fold(markdown.to_owned(), |text, call| {
        text.replace(&format!("<!{call}"), &format!("<\u{200b}!{call}"))
    })
}

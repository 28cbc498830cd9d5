//! Messages as requests of Discord's API.

use std::time::Duration;

use qudao_core::channel::{
    adapter::{Failure, FailureReason, Outgoing, Preview},
    config::ChannelConfig,
    plan::{FormContent, FormPart, HttpPlan, OwnFile, Plan, Upload},
};
use qudao_domain::{
    capability::Unit,
    message::{Button, ButtonAction, Media, Part, Row},
    render::split,
};
use serde_json::{Map, Value, json};

use super::manifest;
use crate::{press, signature::sha256, wire};

/// The most words of a message, and of what a button carries.
const TEXT_MAX: usize = 2000;
const DATA_MAX: usize = 100;
/// How long an interaction's token is used: it is valid for a quarter of an hour.
const TOKEN_AGE: Duration = Duration::from_secs(14 * 60 + 30);

pub(super) fn is_id(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// A request as the bot; `None` without its token.
pub(super) fn as_bot(
    config: &ChannelConfig,
    purpose: &'static str,
    path: &str,
    body: Option<&Value>,
) -> Option<HttpPlan> {
    let token = config.secret("bot_token").ok()?;
    let url = format!("{}/{path}", manifest::api(config));
    let plan = match body {
        Some(body) => HttpPlan::post_json(purpose, url, body),
        None => HttpPlan::get(purpose, url),
    };
    Some(plan.header("authorization", format!("Bot {token}")))
}

pub(super) fn render(config: &ChannelConfig, out: &Outgoing<'_>) -> Result<Vec<Plan>, Failure> {
    if !is_id(out.thread) {
        let detail = "the conversation is no channel of Discord".to_owned();
        return Err(Failure { reason: FailureReason::RecipientUnknown, detail });
    }
    let (body, files) = content(out)?;
    let shown = out.preview_id.filter(|id| out.piece == 0 && is_id(id));
    if let Some(answer) = follow_up(config, out, &body) {
        // What showed it growing stands beside the answer, and is taken back.
        let path = |id| format!("channels/{}/messages/{id}", out.thread);
        let shown = shown.and_then(|id| as_bot(config, "withdraw", &path(id), None));
        let shown = shown.map(|plan| plan.method("DELETE"));
        let answer = with_files(answer, files);
        return Ok(std::iter::once(answer).chain(shown).map(Plan::Http).collect());
    }
    let plan = match shown {
        Some(id) => edit(config, out, id, &body),
        None => {
            let reply_to = out.message.reply_to.as_deref();
            message(config, out.thread, &nonce(out), body, reply_to)
        }
    };
    let plan = plan.ok_or_else(|| Failure {
        reason: FailureReason::Auth,
        detail: "the bot token is not set".to_owned(),
    })?;
    Ok(vec![Plan::Http(with_files(plan, files))])
}

/// The same request with files beside it. The body stays, for whoever makes another request of it.
fn with_files(mut plan: HttpPlan, files: Vec<FormPart>) -> HttpPlan {
    if files.is_empty() {
        return plan;
    }
    plan.headers.retain(|(name, _)| name != "content-type");
    let body = String::from_utf8_lossy(&plan.body).into_owned();
    let json = FormPart { name: "payload_json".to_owned(), content: FormContent::Json(body) };
    let parts = std::iter::once(json).chain(files).collect();
    plan.with_upload(Upload::Form(parts))
}

/// The files beside a request.
fn files_of(plan: &HttpPlan) -> Vec<FormPart> {
    let Some(Upload::Form(parts)) = &plan.upload else { return Vec::new() };
    parts.iter().filter(|part| matches!(part.content, FormContent::File(_))).cloned().collect()
}

/// The answer in the place of what showed it while it grew.
fn edit(config: &ChannelConfig, out: &Outgoing<'_>, id: &str, body: &Value) -> Option<HttpPlan> {
    let path = format!("channels/{}/messages/{id}", out.thread);
    let plan = as_bot(config, "edit", &path, Some(body))?;
    Some(plan.method("PATCH").note(format!("{}/{}", out.thread, nonce(out))))
}

/// The same whenever the same piece is sent again: Discord takes it once within some minutes.
fn nonce(out: &Outgoing<'_>) -> String {
    let parts = format!("{}\n{}", out.id, out.piece);
    hex::encode(&sha256(&[b"discord nonce\n", parts.as_bytes()])[..12])
}

/// A message of the bot.
fn message(
    config: &ChannelConfig,
    channel: &str,
    nonce: &str,
    mut body: Value,
    reply_to: Option<&str>,
) -> Option<HttpPlan> {
    body["nonce"] = json!(nonce);
    body["enforce_nonce"] = json!(true);
    if let Some(id) = reply_to.filter(|id| is_id(id)) {
        body["message_reference"] = json!({ "message_id": id, "fail_if_not_exists": false });
    }
    as_bot(config, "send", &format!("channels/{channel}/messages"), Some(&body))
}

/// An interaction within what is kept of it.
fn interaction(raw: &Value) -> Option<&Value> {
    let gateway = wire::text(raw, "/t").is_some();
    let body = if gateway { raw.get("d")? } else { raw };
    let waits = [2, 3, 5].iter().any(|kind| body.get("type") == Some(&json!(kind)));
    // A message of the socket has a type as well, and no token.
    (waits && is_token(wire::text(body, "/token")?)).then_some(body)
}

fn is_token(token: &str) -> bool {
    token.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.~=".contains(&byte))
}

/// The answer to an interaction, while its token is valid. Where it would go otherwise, and under
/// which nonce, is noted: with it a refused answer becomes a message of the bot.
fn follow_up(config: &ChannelConfig, out: &Outgoing<'_>, body: &Value) -> Option<HttpPlan> {
    let answered = out.answered?;
    let young = out.now.duration_since(answered.at).unsigned_abs() < TOKEN_AGE;
    let asked = interaction(answered.raw)?;
    let here = wire::id(asked, "/channel_id").as_deref() == Some(out.thread);
    let token = wire::text(asked, "/token")?;
    let app = wire::id(asked, "/application_id").filter(|app| is_id(app))?;
    (young && here).then_some(())?;
    let base = format!("{}/webhooks/{app}/{token}", manifest::api(config));
    let instead = format!("{}/{}", out.thread, nonce(out));
    Some(if out.piece == 0 {
        let url = format!("{base}/messages/@original");
        HttpPlan::post_json("original", url, body).method("PATCH").note(instead)
    } else {
        HttpPlan::post_json("follow_up", format!("{base}?wait=true"), body).note(instead)
    })
}

/// The bot's message that says what an answer could not.
pub(super) fn instead(config: &ChannelConfig, answer: &HttpPlan) -> Option<HttpPlan> {
    let (channel, nonce) = answer.note.split_once('/')?;
    let body = serde_json::from_slice(&answer.body).ok()?;
    let plan = message(config, channel, nonce, body, None)?;
    Some(with_files(plan, files_of(answer)))
}

pub(super) fn acknowledge(config: &ChannelConfig, raw: &Value) -> Option<HttpPlan> {
    wire::text(raw, "/t")?;
    let asked = interaction(raw)?;
    let id = wire::id(asked, "/id").filter(|id| is_id(id))?;
    let token = wire::text(asked, "/token")?;
    let url = format!("{}/interactions/{id}/{token}/callback", manifest::api(config));
    Some(HttpPlan::post_json("acknowledge", url, &json!({ "type": 5 })))
}

/// An answer as far as it has grown: a message that is changed again and again.
pub(super) fn preview(
    config: &ChannelConfig,
    thread: &str,
    preview: &Preview<'_>,
) -> Option<HttpPlan> {
    is_id(thread).then_some(())?;
    let text = split(preview.text, TEXT_MAX, Unit::Utf16).into_iter().next()?;
    let body = json!({ "content": text, "allowed_mentions": { "parse": [] } });
    let path = format!("channels/{thread}/messages");
    match preview.message_id {
        Some(id) if is_id(id) => {
            let plan = as_bot(config, "preview", &format!("{path}/{id}"), Some(&body));
            plan.map(|plan| plan.method("PATCH"))
        }
        Some(_) => None,
        None => as_bot(config, "preview", &path, Some(&body)),
    }
}

fn content(out: &Outgoing<'_>) -> Result<(Value, Vec<FormPart>), Failure> {
    let mut said = Vec::new();
    let (mut files, mut attachments) = (Vec::new(), Vec::new());
    let mut embeds = Vec::new();
    let mut components = Vec::new();
    for part in &out.message.parts {
        let own = part.media().and_then(|media| Some((media, OwnFile::of(media, "file")?)));
        if let Some((media, file)) = own {
            let at = files.len();
            let mut attachment = json!({ "id": at, "filename": file.name });
            if let Some(alt) = &media.alt {
                attachment["description"] = json!(press::cut(alt, 1024));
            }
            attachments.push(attachment);
            files.push(FormPart::file(format!("files[{at}]"), file));
            said.extend(media.caption.clone());
            continue;
        }
        match part {
            Part::Text { text, .. } => said.push(text.clone()),
            Part::Buttons { items, .. } => components.extend(rows_of(items)),
            Part::List { label, rows, .. } => components.push(select(label, rows)),
            Part::Card { title, text, image_url, items, .. } => {
                let mut embed = json!({ "title": press::cut(title, 256) });
                if let Some(text) = text {
                    embed["description"] = json!(press::cut(text, 4096));
                }
                if let Some(url) = image_url {
                    embed["image"] = json!({ "url": url });
                }
                embeds.push(embed);
                components.extend(rows_of(items));
            }
            Part::Image(media) => {
                embeds.push(image(media)?);
                said.extend(media.caption.clone());
            }
            other => said.push(other.to_text()),
        }
    }
    let mut body = Map::new();
    // Words that a model chose must not call a whole server.
    body.insert("allowed_mentions".to_owned(), json!({ "parse": [], "replied_user": true }));
    let text = said.join("\n\n");
    if !text.is_empty() {
        body.insert("content".to_owned(), json!(text));
    }
    if !embeds.is_empty() {
        body.insert("embeds".to_owned(), Value::Array(embeds));
    }
    if !components.is_empty() {
        body.insert("components".to_owned(), Value::Array(components));
    }
    if !attachments.is_empty() {
        body.insert("attachments".to_owned(), Value::Array(attachments));
    }
    Ok((Value::Object(body), files))
}

/// Five buttons a row, and five rows.
fn rows_of(items: &[Button]) -> Vec<Value> {
    let row = |(row, items): (usize, &[Button])| {
        let buttons = (0_usize..).zip(items).map(|(at, item)| button(item, row * 5 + at));
        json!({ "type": 1, "components": buttons.collect::<Vec<_>>() })
    };
    items.chunks(5).take(5).enumerate().map(row).collect()
}

fn button(item: &Button, at: usize) -> Value {
    let label = press::cut(&item.label, 80);
    match &item.action {
        ButtonAction::Url { url } => json!({ "type": 2, "style": 5, "label": label, "url": url }),
        ButtonAction::Postback { value } => {
            // Discord wants no two that are the same.
            let id = format!("{at}.{}", item.id);
            json!({ "type": 2, "style": 2, "label": label,
                "custom_id": press::carry(&id, value, DATA_MAX) })
        }
    }
}

fn select(label: &str, rows: &[Row]) -> Value {
    let option = |(at, row): (usize, &Row)| {
        let id = format!("{at}.{}", row.id);
        let mut option = json!({ "label": press::cut(&row.label, 100),
            "value": press::carry(&id, &row.value, DATA_MAX) });
        if let Some(words) = row.description.as_deref().filter(|words| !words.is_empty()) {
            option["description"] = json!(press::cut(words, 100));
        }
        option
    };
    let options: Vec<_> = rows.iter().take(25).enumerate().map(option).collect();
    let select = json!({ "type": 3, "custom_id": "rows", "placeholder": press::cut(label, 150),
        "options": options });
    json!({ "type": 1, "components": [select] })
}

fn image(media: &Media) -> Result<Value, Failure> {
    let url = media.url.as_deref().ok_or_else(|| Failure {
        reason: FailureReason::MediaRejected,
        detail: "the picture has no address that Discord could fetch".to_owned(),
    })?;
    let mut embed = json!({ "image": { "url": url } });
    if let Some(alt) = &media.alt {
        embed["footer"] = json!({ "text": press::cut(alt, 2048) });
    }
    Ok(embed)
}

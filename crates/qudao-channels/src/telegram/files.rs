//! Files on their way out: by Telegram's id of them, from the platform's own copy, or by address; one
//! by one, or as an album.

use std::time::Duration;

use qudao_core::channel::{
    adapter::Outgoing,
    config::ChannelConfig,
    plan::{FormContent, FormPart, HttpPlan, OwnFile, Upload},
};
use qudao_domain::message::{Media, Part, TextFormat};
use serde_json::{Map, Value, json};

use super::{
    call,
    write::{addressed, reply, text_plan},
};

/// The largest picture that is shown as one, in bytes; a larger one goes as a document.
const PHOTO_MAX: u64 = 10 << 20;
/// Before the name of a field in which a file comes along.
const ATTACHED: &str = "attach://";

/// How a file is sent: the method, the field that has it, its type in an album, and a name for one
/// that has none.
struct How {
    method: &'static str,
    field: &'static str,
    stand_in: &'static str,
}

fn how(part: &Part) -> Option<(How, &Media)> {
    let of = |method, field, stand_in| How { method, field, stand_in };
    Some(match part {
        Part::Image(media) if is_too_large(media) => {
            (of("sendDocument", "document", "picture"), media)
        }
        Part::Image(media) => (of("sendPhoto", "photo", "picture.jpg"), media),
        Part::Audio(media) if media.voice => (of("sendVoice", "voice", "voice.ogg"), media),
        Part::Audio(media) => (of("sendAudio", "audio", "audio.mp3"), media),
        Part::Video(media) => (of("sendVideo", "video", "video.mp4"), media),
        Part::File(media) => (of("sendDocument", "document", "file"), media),
        _ => return None,
    })
}

fn is_too_large(media: &Media) -> bool {
    media.external_id.is_none()
        && media.upload_id.is_some()
        && media.size.is_some_and(|size| PHOTO_MAX < size)
}

/// What stands for a file: a text, or the file itself.
enum Source {
    Told(String),
    Own(OwnFile),
}

fn source(media: &Media, stand_in: &str) -> Option<Source> {
    if let Some(id) = &media.external_id {
        return Some(Source::Told(id.clone()));
    }
    OwnFile::of(media, stand_in).map(Source::Own).or_else(|| media.url.clone().map(Source::Told))
}

/// The request that sends one file; `None` if the part is none.
pub(super) fn file(config: &ChannelConfig, out: &Outgoing<'_>, part: &Part) -> Option<HttpPlan> {
    let (How { method, field, stand_in }, media) = how(part)?;
    let Some(source) = source(media, stand_in) else {
        return Some(text_plan(config, out, TextFormat::Plain, &part.to_text(), None));
    };
    let mut body = Map::new();
    if let Some(caption) = &media.caption {
        body.insert("caption".to_owned(), json!(caption));
    }
    let mut files = Vec::new();
    match source {
        Source::Told(told) => drop(body.insert(field.to_owned(), json!(told))),
        Source::Own(file) => files.push(FormPart::file(field, file)),
    }
    reply(out, &mut body);
    Some(with_files(config, method, addressed(out.thread, Value::Object(body)), files))
}

/// The request that sends all parts of a message as an album; `None` if they are none.
pub(super) fn album(config: &ChannelConfig, out: &Outgoing<'_>) -> Option<HttpPlan> {
    let parts = &out.message.parts;
    if !(2..=10).contains(&parts.len()) {
        return None;
    }
    let (mut items, mut files) = (Vec::new(), Vec::new());
    for part in parts {
        let (How { field, stand_in, .. }, media) =
            how(part).filter(|(how, _)| matches!(how.field, "photo" | "video"))?;
        let shown = match source(media, stand_in)? {
            Source::Told(told) => told,
            Source::Own(file) => {
                let name = format!("file{}", files.len());
                let shown = format!("{ATTACHED}{name}");
                files.push(FormPart::file(name, file));
                shown
            }
        };
        let mut item = json!({ "type": field, "media": shown });
        if let Some(caption) = &media.caption {
            item["caption"] = json!(caption);
        }
        items.push(item);
    }
    let mut body = Map::from_iter([("media".to_owned(), Value::Array(items))]);
    reply(out, &mut body);
    let body = addressed(out.thread, Value::Object(body));
    Some(with_files(config, "sendMediaGroup", body, files))
}

/// A call whose fields go as JSON, or as a form where files come along.
fn with_files(
    config: &ChannelConfig,
    method: &'static str,
    body: Value,
    files: Vec<FormPart>,
) -> HttpPlan {
    let plan = call(config, method, &body);
    if files.is_empty() {
        return plan.within(Duration::from_secs(20));
    }
    let fields = body.as_object().into_iter().flatten().map(|(name, value)| field(name, value));
    HttpPlan::post_form(method, plan.url, fields.chain(files).collect())
}

fn field(name: &str, value: &Value) -> FormPart {
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    FormPart::text(name, text)
}

/// The same call with another value in a field of its form; `None` if it has no form.
pub(super) fn with_form_field(plan: &HttpPlan, name: &str, value: &Value) -> Option<HttpPlan> {
    let Some(Upload::Form(parts)) = &plan.upload else { return None };
    let kept = parts.iter().filter(|part| part.name != name).cloned();
    let parts = kept.chain([field(name, value)]).collect();
    Some(HttpPlan { upload: Some(Upload::Form(parts)), ..plan.clone() })
}

/// An album as a message for each of its files: one that Telegram does not take spoils all of it.
pub(super) fn one_by_one(plan: &HttpPlan) -> Vec<HttpPlan> {
    let parts = match &plan.upload {
        Some(Upload::Form(parts)) => parts.as_slice(),
        _ => &[],
    };
    let mut common: Map<String, Value> = parts
        .iter()
        .filter_map(|part| match &part.content {
            FormContent::Text(text) => Some((part.name.clone(), parsed(text))),
            _ => None,
        })
        .chain(serde_json::from_slice::<Map<String, Value>>(&plan.body).unwrap_or_default())
        .collect();
    let Some(Value::Array(items)) = common.remove("media") else { return Vec::new() };
    let single = |item: Value| {
        let (method, name) =
            if item["type"] == "video" { ("sendVideo", "video") } else { ("sendPhoto", "photo") };
        let mut body = common.clone();
        if let Some(caption) = item["caption"].as_str() {
            body.insert("caption".to_owned(), json!(caption));
        }
        let shown = item["media"].as_str().unwrap_or_default();
        let url = plan.url.replace("/sendMediaGroup", &format!("/{method}"));
        let attached = shown.strip_prefix(ATTACHED);
        let Some(part) = attached.and_then(|of| parts.iter().find(|part| part.name == of)) else {
            body.insert(name.to_owned(), json!(shown));
            return HttpPlan::post_json(method, url, &Value::Object(body));
        };
        let file = FormPart { name: name.to_owned(), content: part.content.clone() };
        let fields = body.iter().map(|(name, value)| field(name, value));
        HttpPlan::post_form(method, url, fields.chain([file]).collect())
    };
    items.into_iter().map(single).collect()
}

/// A form's field as JSON writes it: what stood there as JSON is that again.
fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| json!(text))
}

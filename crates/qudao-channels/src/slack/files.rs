//! Files on their way to Slack: where to put one is asked first, then come its bytes, then the message
//! that shows it. <https://docs.slack.dev/messaging/working-with-files>

use qudao_core::channel::{
    adapter::{FailureReason, Outcome, Outgoing},
    config::ChannelConfig,
    plan::{HttpPlan, OwnFile, Plan, RawResponse},
};
use qudao_domain::message::Part;
use serde_json::{Value, json};

use super::{
    event::is_slacks,
    send::{api, call},
};
use crate::wire::{same_origin, text};

const PLACE: &str = "upload_place";
const BYTES: &str = "upload_bytes";
const SHOW: &str = "upload_show";

/// The request that leads to a message with the file, which the platform has a copy of; `None` if the
/// message is no such file.
pub(super) fn upload(
    config: &ChannelConfig,
    out: &Outgoing<'_>,
    (channel, thread): (&str, Option<&str>),
) -> Option<HttpPlan> {
    let [part] = out.message.parts.as_slice() else { return None };
    let media = part.media()?;
    let file = OwnFile::of(media, if matches!(part, Part::Image(_)) { "image" } else { "file" })?;
    let title = media.alt.as_deref().unwrap_or(&file.name);
    let mut body = json!({ "files": [{ "id": "", "title": title }], "channel_id": channel });
    if let Some(caption) = &media.caption {
        body["initial_comment"] = json!(caption);
    }
    if let Some(thread) = thread {
        body["thread_ts"] = json!(thread);
    }
    let show = call(config, "files.completeUploadExternal", SHOW, &body)?;
    // The method reads forms alone.
    let size = file.size.to_string();
    let form = url::form_urlencoded::Serializer::new(String::new())
        .append_pair("filename", &file.name)
        .append_pair("length", &size)
        .finish();
    let mut place = call(config, "files.getUploadURLExternal", PLACE, &Value::Null)?;
    place.headers.retain(|(name, _)| name != "content-type");
    let place = place.header("content-type", "application/x-www-form-urlencoded");
    let bytes = HttpPlan::post_file(BYTES, "", file).then(show);
    Some(HttpPlan { body: form.into_bytes(), ..place }.then(bytes))
}

/// What follows on the answer to one of these requests; `None` if it is another's, or if the answer is
/// no success.
pub(super) fn next(
    config: &ChannelConfig,
    plan: &HttpPlan,
    response: &RawResponse,
) -> Option<Outcome> {
    let body = response.json();
    let done = response.is_success() && body.pointer("/ok") == Some(&Value::Bool(true));
    let then = |plan: HttpPlan| Some(Outcome::Then(vec![Plan::Http(plan)]));
    match plan.purpose {
        PLACE if done => {
            let (address, id) = (text(&body, "/upload_url")?, text(&body, "/file_id")?);
            if !is_slacks(address) && !same_origin(address, &api(config)) {
                let detail = "the address for the file is not one of Slack";
                return Some(Outcome::failed(FailureReason::ProviderError, detail));
            }
            let mut bytes = plan.then.as_deref()?.clone();
            let show = bytes.then.take()?.filled("/files/0/id", json!(id));
            address.clone_into(&mut bytes.url);
            then(bytes.then(show))
        }
        BYTES if response.is_success() => then(plan.then.as_deref()?.clone()),
        SHOW if done => Some(Outcome::Sent { external_id: None }),
        // The app was installed without the scope files:write: the words stand in for the file.
        PLACE if text(&body, "/error") == Some("missing_scope") => {
            let bytes = plan.then.as_deref()?;
            then(in_words(config, bytes.then.as_deref()?)?)
        }
        _ => None,
    }
}

fn in_words(config: &ChannelConfig, show: &HttpPlan) -> Option<HttpPlan> {
    let told: Value = serde_json::from_slice(&show.body).ok()?;
    let title = format!("[{}]", text(&told, "/files/0/title")?);
    let words = std::iter::once(title.as_str()).chain(text(&told, "/initial_comment"));
    let words = words.collect::<Vec<_>>().join("\n");
    let mut body = json!({ "channel": told["channel_id"], "text": words, "mrkdwn": false });
    if told["thread_ts"].is_string() {
        body["thread_ts"] = told["thread_ts"].clone();
    }
    call(config, "chat.postMessage", "send", &body)
}

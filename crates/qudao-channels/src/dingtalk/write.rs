//! Messages from a robot of DingTalk: by the address that came with the question while that is
//! valid, later by the API.

use std::time::Duration;

use qudao_core::channel::{
    adapter::{Answered, Failure, FailureReason, Outcome, Outgoing},
    config::ChannelConfig,
    plan::{HttpPlan, Plan, RawResponse},
};
use qudao_domain::message::{Button, ButtonAction, Message, Part, TextFormat};
use serde_json::{Value, json};
use url::Url;

use super::{api, robot, with_token};
use crate::lenient;

/// What is left of the address's time when it is used, at least.
const SESSION_LEFT_MS: i64 = 30_000;
/// A robot that sent too much to a group is not heard for ten minutes.
const PENALTY: Duration = Duration::from_secs(600);

/// What a message is shown as.
enum Shape {
    Text(String),
    Markdown { title: String, text: String },
    Image(String),
    Card { title: String, text: String, buttons: Vec<(String, String)> },
}

pub(super) fn message(config: &ChannelConfig, out: &Outgoing<'_>) -> Result<Vec<Plan>, Failure> {
    let shapes = shapes(out.message);
    if let Some(url) = out.answered.and_then(|answered| session(config, answered, out)) {
        let plan =
            |shape: &Shape| Plan::Http(HttpPlan::post_json("session", &url, &shape.session()));
        return Ok(shapes.iter().map(plan).collect());
    }
    let fail = |reason, detail: &str| Failure { reason, detail: detail.to_owned() };
    let code = robot(config).ok_or_else(|| fail(FailureReason::Auth, "no robot code is set"))?;
    let (kind, id) = out.thread.split_once(':').unwrap_or_default();
    let (path, whom) = match kind {
        "user" => ("robot/oToMessages/batchSend", json!({"userIds": [id]})),
        "group" => ("robot/groupMessages/send", json!({"openConversationId": id})),
        "conversation" => {
            let detail = "somebody outside of the company can be answered for a while only";
            return Err(fail(FailureReason::WindowClosed, detail));
        }
        _ => return Err(fail(FailureReason::RecipientUnknown, "the conversation has no such id")),
    };
    let plan = |shape: &Shape| {
        let (key, parameters) = shape.template();
        let mut body = whom.clone();
        body["robotCode"] = json!(code);
        body["msgKey"] = json!(key);
        body["msgParam"] = json!(parameters.to_string());
        Plan::Http(with_token(HttpPlan::post_json("send", api(config, path), &body)))
    };
    Ok(shapes.iter().map(plan).collect())
}

/// The address at which a conversation can be answered, if it is valid and the platform's own.
fn session(config: &ChannelConfig, answered: Answered<'_>, out: &Outgoing<'_>) -> Option<String> {
    let until = lenient::number(answered.raw, "/sessionWebhookExpiredTime")?;
    let address = lenient::text(answered.raw, "/sessionWebhook");
    let left = until.saturating_sub(out.now.as_millisecond());
    let url = Url::parse(&address).ok()?;
    let own = Url::parse(&api(config, "")).ok()?;
    let host = url.host_str()?;
    let trusted =
        (url.scheme() == "https" && host.ends_with(".dingtalk.com") && url.port().is_none())
            || (config.setting("api_url").is_some() && url.origin() == own.origin());
    let plain = url.username().is_empty() && url.password().is_none();
    (left > SESSION_LEFT_MS && trusted && plain).then(|| url.into())
}

fn shapes(message: &Message) -> Vec<Shape> {
    let buttons = message.parts.iter().find_map(|part| match part {
        Part::Buttons { items, .. } => Some(items),
        _ => None,
    });
    if let Some(items) = buttons {
        let words = message.parts.iter().filter(|part| !matches!(part, Part::Buttons { .. }));
        let text = words.map(Part::to_text).collect::<Vec<_>>().join("\n\n");
        let text = if text.is_empty() { "…".to_owned() } else { text };
        let buttons = items.iter().map(|item| (item.label.clone(), address(item))).collect();
        return vec![Shape::Card { title: title(&text), text, buttons }];
    }
    let shape = |part: &Part| match part {
        Part::Text { format: TextFormat::Markdown, text } => {
            Shape::Markdown { title: title(text), text: text.clone() }
        }
        Part::Image(media) => match &media.url {
            Some(url) if url.starts_with("http") => Shape::Image(url.clone()),
            _ => Shape::Text(part.to_text()),
        },
        other => Shape::Text(other.to_text()),
    };
    message.parts.iter().map(shape).collect()
}

/// Pressing a button opens a page, or says its words in the person's name.
fn address(item: &Button) -> String {
    match &item.action {
        ButtonAction::Url { url } => url.clone(),
        ButtonAction::Postback { value } => {
            let words = if value.is_empty() { &item.label } else { value };
            let words: String = url::form_urlencoded::byte_serialize(words.as_bytes()).collect();
            format!("dtmd://dingtalkclient/sendMessage?content={}", words.replace('+', "%20"))
        }
    }
}

/// What a notification shows.
fn title(text: &str) -> String {
    let plain = qudao_domain::render::plain_text(text);
    let line = plain.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or("…");
    line.chars().take(40).collect()
}

impl Shape {
    /// As the address of a conversation takes it.
    fn session(&self) -> Value {
        match self {
            Self::Text(text) => json!({"msgtype": "text", "text": {"content": text}}),
            Self::Markdown { title, text } => {
                json!({"msgtype": "markdown", "markdown": {"title": title, "text": text}})
            }
            Self::Image(url) => {
                let text = format!("![]({url})");
                json!({"msgtype": "markdown", "markdown": {"title": "…", "text": text}})
            }
            Self::Card { title, text, buttons } => {
                let buttons =
                    buttons.iter().map(|(label, url)| json!({"title": label, "actionURL": url}));
                let buttons: Vec<_> = buttons.collect();
                json!({"msgtype": "actionCard", "actionCard": {
                    "title": title, "text": text, "btnOrientation": "0", "btns": buttons,
                }})
            }
        }
    }

    /// As the API takes it: a template and its parameters.
    fn template(&self) -> (String, Value) {
        match self {
            Self::Text(text) => ("sampleText".to_owned(), json!({"content": text})),
            Self::Markdown { title, text } => {
                ("sampleMarkdown".to_owned(), json!({"title": title, "text": text}))
            }
            Self::Image(url) => ("sampleImageMsg".to_owned(), json!({"photoURL": url})),
            Self::Card { title, text, buttons } => {
                let mut parameters = json!({"title": title, "text": text});
                if let [(label, url)] = buttons.as_slice() {
                    parameters["singleTitle"] = json!(label);
                    parameters["singleURL"] = json!(url);
                    return ("sampleActionCard".to_owned(), parameters);
                }
                for (at, (label, url)) in buttons.iter().enumerate() {
                    parameters[format!("actionTitle{}", at + 1)] = json!(label);
                    parameters[format!("actionURL{}", at + 1)] = json!(url);
                }
                (format!("sampleActionCard{}", buttons.len()), parameters)
            }
        }
    }
}

/// What the platform's answer means: numbers from a conversation's address, words from the API.
pub(super) fn classify(plan: &Plan, response: &RawResponse) -> Outcome {
    let body = response.json();
    let detail = response.excerpt();
    let after = response.retry_after();
    let by_session = matches!(plan, Plan::Http(plan) if plan.purpose == "session");
    if let Some(code) = lenient::number(&body, "/errcode").filter(|_| by_session) {
        return match code {
            0 => Outcome::Sent { external_id: None },
            130_101 | 410_100 => Outcome::Retry { after: Some(PENALTY), detail },
            -1 => Outcome::Retry { after, detail },
            300_001 | 300_005 | 400_013 => Outcome::failed(FailureReason::WindowClosed, detail),
            460_101 => Outcome::failed(FailureReason::TooLong, detail),
            310_000 | 430_101..=430_104 => Outcome::failed(FailureReason::Policy, detail),
            _ => Outcome::failed(FailureReason::ProviderError, detail),
        };
    }
    if response.is_success() {
        let lost = ["/invalidStaffIdList", "/flowControlledStaffIdList"]
            .map(|at| !lenient::list(&body, at).is_empty());
        return match lost {
            [true, _] => Outcome::failed(FailureReason::RecipientUnknown, detail),
            [_, true] => Outcome::Retry { after, detail },
            _ => Outcome::Sent { external_id: lenient::some_text(&body, "/processQueryKey") },
        };
    }
    let code = lenient::text(&body, "/code").to_ascii_lowercase();
    match response.status {
        _ if code.contains("invalidauthentication") || code.contains("accesstoken") => {
            Outcome::TokenExpired
        }
        _ if code.contains("qpslimit")
            || code.contains("throttling")
            || code.contains("flowcontrol") =>
        {
            Outcome::Retry { after, detail }
        }
        429 | 408 | 500..=599 => Outcome::Retry { after, detail },
        401 => Outcome::TokenExpired,
        403 => Outcome::failed(FailureReason::Auth, detail),
        400 if code.contains("staffid") || code.contains("userid") => {
            Outcome::failed(FailureReason::RecipientUnknown, detail)
        }
        400 if code.contains("conversation") => {
            Outcome::failed(FailureReason::RecipientUnknown, detail)
        }
        _ => Outcome::failed(FailureReason::ProviderError, detail),
    }
}

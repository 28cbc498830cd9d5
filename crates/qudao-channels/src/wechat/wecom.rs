//! An app of WeCom.

use std::time::Duration;

use jiff::Timestamp;
use qudao_core::channel::{
    adapter::{
        Answer, ChannelAdapter, Failure, FailureReason, Fetched, Outcome, Outgoing, Parsed,
        RawRequest, Reject, Token,
    },
    config::{ChannelConfig, Field, FieldForm, Manifest},
    plan::{ACCESS_TOKEN, HttpPlan, Plan, RawResponse},
};
use qudao_domain::{
    capability::{ButtonsCapability, Capabilities, Level, RateCapability, TextCapability, Unit},
    message::{Button, ButtonAction, Media, Message, Part, TextFormat},
    state::ChannelKind,
};
use serde_json::{Value, json};

use super::{
    crypto::{self, Cipher},
    read, xml,
};
use crate::lenient;

/// An app of WeCom as a channel.
#[derive(Debug, Clone, Copy, Default)]
pub struct Wecom;

/// How far a signature's time may be from now. Whoever's clock is minutes off has other troubles.
const WINDOW_S: i64 = 600;

static MANIFEST: Manifest = Manifest {
    kind: ChannelKind::Wecom,
    name: "WeCom",
    name_zh: "企业微信",
    webhook: true,
    fields: &[
        Field::text("corp_id", "Corp ID", "企业 ID")
            .form(FieldForm::Text(64))
            .help("Admin console → My Company (我的企业), at the bottom of the page."),
        Field::text("agent_id", "Agent ID", "AgentId")
            .form(FieldForm::Number(1, 99_999_999))
            .help("Admin console → App Management (应用管理) → your app."),
        Field::secret("secret", "App secret", "应用 Secret")
            .help("On the app's page, under Secret; it is shown in the WeCom client."),
        Field::secret("token", "Callback token", "Token")
            .help("On the app's page → Receive Messages (接收消息) → Set API Reception."),
        Field::secret("aes_key", "EncodingAESKey", "EncodingAESKey")
            .help("Beside the token: 43 letters and digits."),
        Field::text("markdown", "Markdown", "发送 Markdown").optional().form(FieldForm::Bool).help(
            "On unless people read the app's messages within WeChat, which shows no Markdown.",
        ),
        Field::text("api_url", "API address", "API 地址").optional().form(FieldForm::Url),
    ],
};

impl ChannelAdapter for Wecom {
    fn manifest(&self) -> &'static Manifest {
        &MANIFEST
    }

    fn capabilities(&self, config: &ChannelConfig) -> Capabilities {
        let native = ["bold", "link", "code", "quote", "heading"];
        let formats = native.map(|format| (format.to_owned(), Level::Native));
        let markdown = config.flag("markdown", true);
        Capabilities {
            text: TextCapability {
                max: 2048,
                unit: Unit::Bytes,
                formats: if markdown { formats.into() } else { Default::default() },
            },
            buttons: ButtonsCapability { level: Level::Native, max: 6, label_max: 10 },
            rate: RateCapability { per_s: Some(10.0), per_conversation_per_s: Some(0.5) },
            ..Capabilities::default()
        }
    }

    fn check(&self, config: &ChannelConfig) -> Result<(), (&'static str, String)> {
        check_key(config)
    }

    fn verify_and_parse(
        &self,
        config: &ChannelConfig,
        request: &RawRequest,
        now: Timestamp,
    ) -> Result<Parsed, Reject> {
        let receiver = config.setting("corp_id").ok_or(Reject::NotConfigured("corp_id"))?;
        if !request.tail.is_empty() {
            return Err(Reject::NotFound);
        }
        match request.method.as_str() {
            "GET" => {
                let sealed = request.parameter("echostr").unwrap_or_default();
                let opened = open(config, request, &sealed, receiver, now)?;
                let echo = String::from_utf8(opened).map_err(|_| Reject::Malformed("echostr"))?;
                Ok(Parsed::answer(Answer::text(echo)))
            }
            "POST" => {
                // The envelope is read to find what is signed; nothing of it is believed.
                let envelope = xml::read(&request.body);
                let sealed = envelope.as_ref().map(|envelope| lenient::text(envelope, "/Encrypt"));
                let opened = open(config, request, &sealed.unwrap_or_default(), receiver, now)?;
                let raw = xml::read(&opened).ok_or(Reject::Malformed("the message is no XML"))?;
                Ok(Parsed::events(vec![read::event(raw)]))
            }
            _ => Err(Reject::MethodNotAllowed),
        }
    }

    fn render(&self, config: &ChannelConfig, out: &Outgoing<'_>) -> Result<Vec<Plan>, Failure> {
        let fail = |reason, detail: &str| Failure { reason, detail: detail.to_owned() };
        let agent = agent(config).ok_or_else(|| fail(FailureReason::Auth, "no agent_id is set"))?;
        // A `|` would make one person several, `@all` everybody.
        if out.thread.is_empty() || out.thread.contains('|') || out.thread.starts_with('@') {
            return Err(fail(FailureReason::RecipientUnknown, "the conversation names no person"));
        }
        let url = api(config, "message/send?access_token=") + ACCESS_TOKEN;
        let bodies = bodies(out);
        let plan = |mut body: Value| {
            body["touser"] = json!(out.thread);
            body["agentid"] = json!(agent);
            Plan::Http(HttpPlan::post_json("send", &url, &body))
        };
        Ok(bodies.into_iter().map(plan).collect())
    }

    fn classify(&self, _config: &ChannelConfig, _plan: &Plan, response: &RawResponse) -> Outcome {
        let body = response.json();
        let lost = ["/invaliduser", "/unlicenseduser"]
            .iter()
            .any(|at| lenient::some_text(&body, at).is_some());
        match classify(response) {
            Outcome::Sent { .. } if lost => {
                Outcome::failed(FailureReason::RecipientUnknown, response.excerpt())
            }
            other => other,
        }
    }

    fn token(&self, config: &ChannelConfig) -> Option<HttpPlan> {
        let (corp, secret) = (config.setting("corp_id")?, config.secret("secret").ok()?);
        let pairs = [("corpid", corp), ("corpsecret", secret)];
        let query =
            url::form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish();
        Some(HttpPlan::get("token", api(config, "gettoken?") + &query))
    }

    fn read_token(&self, response: &RawResponse) -> Result<Token, String> {
        read_token(response)
    }

    fn connect(&self, config: &ChannelConfig) -> Vec<HttpPlan> {
        let agent = agent(config).unwrap_or_default();
        let query = format!("agent/get?access_token={ACCESS_TOKEN}&agentid={agent}");
        vec![HttpPlan::get("agent", api(config, &query))]
    }

    fn connected(
        &self,
        _config: &ChannelConfig,
        _plan: &HttpPlan,
        response: &RawResponse,
    ) -> Result<Option<String>, String> {
        let body = response.json();
        match lenient::number(&body, "/errcode") {
            Some(0) => Ok(lenient::some_text(&body, "/name")),
            _ => Err(wrong(response)),
        }
    }

    fn fetch(&self, config: &ChannelConfig, media: &Media) -> Option<HttpPlan> {
        Some(fetch(api(config, "media/get"), media.external_id.as_deref()?))
    }

    fn fetched(&self, _config: &ChannelConfig, response: &RawResponse) -> Fetched {
        fetched(response)
    }
}

/// Opens what any token signed and any key sealed for the receiver.
pub(super) fn open(
    config: &ChannelConfig,
    request: &RawRequest,
    sealed: &str,
    receiver: &str,
    now: Timestamp,
) -> Result<Vec<u8>, Reject> {
    let tokens = config.candidates("token")?;
    let keys = config.candidates("aes_key")?;
    let given = |name| request.parameter(name).unwrap_or_default();
    let (time, nonce) = (given("timestamp"), given("nonce"));
    if !crypto::is_signed(&tokens, &[&time, &nonce, sealed], &given("msg_signature")) {
        return Err(Reject::Unauthorized("the signature is missing or another"));
    }
    fresh(&time, now)?;
    let ciphers: Vec<_> = keys.iter().filter_map(|key| Cipher::new(key)).collect();
    if ciphers.is_empty() {
        return Err(Reject::NotConfigured("aes_key"));
    }
    let opened = ciphers.iter().find_map(|cipher| cipher.open(sealed, receiver));
    opened.ok_or(Reject::Unauthorized("it is sealed with another key or for another receiver"))
}

/// Whether a signature's time is close enough.
pub(super) fn fresh(time: &str, now: Timestamp) -> Result<(), Reject> {
    let at: i64 = time.parse().map_err(|_| Reject::Unauthorized("the signature has no time"))?;
    if lenient::within(at, now, WINDOW_S, WINDOW_S) {
        Ok(())
    } else {
        Err(Reject::Unauthorized("the signature is too old or from the future"))
    }
}

/// Whether each key is one.
pub(super) fn check_key(config: &ChannelConfig) -> Result<(), (&'static str, String)> {
    let keys = config.candidates("aes_key").unwrap_or_default();
    if keys.iter().any(|key| Cipher::new(key).is_none()) {
        return Err(("aes_key", "an EncodingAESKey has 43 letters and digits".to_owned()));
    }
    Ok(())
}

/// Reads the answer to asking for a token, which is the same on both platforms.
pub(super) fn read_token(response: &RawResponse) -> Result<Token, String> {
    let body = response.json();
    let ttl = lenient::number(&body, "/expires_in").and_then(|s| u64::try_from(s).ok());
    match (lenient::some_text(&body, "/access_token"), ttl) {
        (Some(text), Some(ttl)) => Ok(Token { text, ttl: Duration::from_secs(ttl) }),
        _ => Err(wrong(response)),
    }
}

/// What the platform says is wrong, in words for the tenant.
pub(super) fn wrong(response: &RawResponse) -> String {
    let body = response.json();
    match lenient::number(&body, "/errcode") {
        Some(40_001 | 40_125 | 42_001) => "the secret is wrong".to_owned(),
        Some(40_013) => "the Corp ID or App ID is wrong".to_owned(),
        Some(40_164 | 60_020) => format!(
            "this platform's address is not on the app's list of trusted IP addresses: {}",
            lenient::text(&body, "/errmsg")
        ),
        _ => format!("the platform answers: {}", response.excerpt()),
    }
}

/// What an answer means, by the codes that both platforms share.
pub(super) fn classify(response: &RawResponse) -> Outcome {
    let body = response.json();
    let detail = response.excerpt();
    let after = response.retry_after();
    let Some(code) = lenient::number(&body, "/errcode") else {
        return Outcome::Retry { after, detail };
    };
    let minute = Some(Duration::from_secs(60));
    match code {
        0 => Outcome::Sent { external_id: lenient::some_text(&body, "/msgid") },
        40_001 | 40_014 | 41_001 | 42_001 | 42_007 | 42_009 => Outcome::TokenExpired,
        -1 | 50_001 => Outcome::Retry { after, detail },
        45_033 | 45_011 => Outcome::Retry { after: after.or(minute), detail },
        // So many of a day or an hour were sent.
        45_009 => Outcome::Retry { after: Some(Duration::from_secs(1800)), detail },
        45_015 | 45_047 => Outcome::failed(FailureReason::WindowClosed, detail),
        43_004 | 45_065 => Outcome::failed(FailureReason::Blocked, detail),
        40_003 | 40_031 | 60_111 | 81_013 | 46_004 => {
            Outcome::failed(FailureReason::RecipientUnknown, detail)
        }
        45_002 | 45_008 | 44_004 => Outcome::failed(FailureReason::TooLong, detail),
        40_164 | 60_020 | 60_011 | 48_002 | 301_002 | 40_056 | 40_013 => {
            Outcome::failed(FailureReason::Auth, detail)
        }
        48_001 | 48_004 | 48_006 => Outcome::failed(FailureReason::Policy, detail),
        40_004 | 40_005 | 40_007 | 40_009 => Outcome::failed(FailureReason::MediaRejected, detail),
        _ if response.status >= 500 => Outcome::Retry { after, detail },
        _ => Outcome::failed(FailureReason::ProviderError, detail),
    }
}

/// The request for a file.
pub(super) fn fetch(address: String, id: &str) -> HttpPlan {
    let id: String = url::form_urlencoded::byte_serialize(id.as_bytes()).collect();
    let url = format!("{address}?access_token={ACCESS_TOKEN}&media_id={id}");
    let plan = HttpPlan { answer_max: 25 << 20, ..HttpPlan::get("media", url) };
    plan.within(Duration::from_secs(60))
}

/// A file, or JSON that says where it is or why there is none.
pub(super) fn fetched(response: &RawResponse) -> Fetched {
    let kind = response.header("content-type").unwrap_or_default();
    let body = response.json();
    if !(kind.contains("json") || kind.starts_with("text/plain")) || !body.is_object() {
        return Fetched::Bytes;
    }
    match lenient::some_text(&body, "/video_url").filter(|url| url.starts_with("http")) {
        Some(url) => {
            Fetched::Then(HttpPlan { answer_max: 25 << 20, ..HttpPlan::get("media", url) })
        }
        None => Fetched::Failed(response.excerpt()),
    }
}

fn agent(config: &ChannelConfig) -> Option<i64> {
    config.number("agent_id").or_else(|| config.setting("agent_id")?.parse().ok())
}

fn api(config: &ChannelConfig, path: &str) -> String {
    format!("{}/cgi-bin/{path}", config.address("api_url", "https://qyapi.weixin.qq.com"))
}

/// The messages that a message needs: buttons are a card of their own.
fn bodies(out: &Outgoing<'_>) -> Vec<Value> {
    let Message { parts, .. } = out.message;
    let mut words: Vec<&Part> = Vec::new();
    let mut card = None;
    for part in parts {
        match part {
            Part::Buttons { items, .. } => card = Some(items),
            other => words.push(other),
        }
    }
    let mut bodies = Vec::new();
    for part in words {
        bodies.push(match part {
            Part::Text { format: TextFormat::Markdown, text } => {
                json!({"msgtype": "markdown", "markdown": {"content": text}})
            }
            other => json!({"msgtype": "text", "text": {"content": other.to_text()}}),
        });
    }
    bodies.extend(card.map(|items| buttons(out, items)));
    bodies
}

fn buttons(out: &Outgoing<'_>, items: &[Button]) -> Value {
    let button = |item: &Button| match &item.action {
        ButtonAction::Url { url } => json!({"type": 1, "text": item.label, "url": url}),
        ButtonAction::Postback { value } => {
            let key = if value.is_empty() { &item.label } else { value };
            json!({"type": 0, "text": item.label, "key": key})
        }
    };
    // Each card has a task of its own: letters, digits and `_-@`.
    let task = lenient::hash(&[out.id.as_bytes(), b"\0", &out.piece.to_be_bytes()]);
    let items: Vec<_> = items.iter().map(button).collect();
    json!({
        "msgtype": "template_card",
        "template_card": {
            "card_type": "button_interaction",
            "main_title": {"title": "…"},
            "task_id": task[..32],
            "button_list": items,
        },
    })
}

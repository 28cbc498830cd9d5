//! A WeChat Official Account. The platform waits five seconds for an answer and asks three times;
//! what takes longer goes out as a customer-service message, which only verified accounts may
//! send, or with the answer to the person's next message.

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
    capability::{
        ButtonsCapability, Capabilities, Level, RateCapability, TextCapability, TypingCapability,
        Unit,
    },
    message::{Button, ButtonAction, Media, Message, Part},
    state::ChannelKind,
};
use serde_json::{Value, json};

use super::{
    crypto::{self, Cipher},
    read,
    wecom::{check_key, classify, fetch, fetched, fresh, open, read_token, wrong},
    xml,
};
use crate::lenient;

/// An Official Account of WeChat as a channel.
#[derive(Debug, Clone, Copy, Default)]
pub struct Wechat;

/// Of the platform's five seconds, what is left after the way there and back.
const PATIENCE: Duration = Duration::from_millis(4500);
/// What tells the platform that nothing comes and that it need not ask again.
const NOTHING: &str = "success";
/// Bytes of a text.
const TEXT_MAX: usize = 2048;

static MANIFEST: Manifest = Manifest {
    kind: ChannelKind::Wechat,
    name: "WeChat Official Account",
    name_zh: "微信公众号",
    webhook: true,
    fields: &[
        Field::text("app_id", "App ID", "AppID")
            .form(FieldForm::Text(64))
            .help("mp.weixin.qq.com → Settings & Development (设置与开发) → Basic Configuration."),
        Field::secret("app_secret", "App secret", "AppSecret").optional().help(
            "On the same page. Needed for customer-service messages and for files. This \
                   platform's address must be on the IP allow-list there.",
        ),
        Field::secret("token", "Token", "Token")
            .help("Basic Configuration → Server Configuration: a text of your own choice."),
        Field::text("mode", "Encryption", "消息加解密方式")
            .optional()
            .form(FieldForm::Choice(&["safe", "plain"]))
            .help(
                "safe for the safe mode (安全模式), which is the default. In plain mode the \
                   platform does not sign what a message says.",
            ),
        Field::secret("aes_key", "EncodingAESKey", "EncodingAESKey")
            .optional()
            .help("Beside the token: 43 letters and digits. Needed in safe mode."),
        Field::text("customer_service", "Customer-service messages", "客服消息")
            .optional()
            .form(FieldForm::Bool)
            .help(
                "On for verified accounts. Answers that take longer than five seconds are then \
                   sent at once instead of with the answer to the next message.",
            ),
        Field::text("api_url", "API address", "API 地址").optional().form(FieldForm::Url),
    ],
};

impl ChannelAdapter for Wechat {
    fn manifest(&self) -> &'static Manifest {
        &MANIFEST
    }

    fn capabilities(&self, config: &ChannelConfig) -> Capabilities {
        let active = config.flag("customer_service", false);
        let level = |able| if able { Level::Native } else { Level::Degrade };
        Capabilities {
            text: TextCapability { max: TEXT_MAX, unit: Unit::Bytes, ..TextCapability::default() },
            buttons: ButtonsCapability { level: level(active), max: 10, label_max: 20 },
            typing: TypingCapability {
                level: if active { Level::Native } else { Level::Drop },
                ttl_s: 15,
            },
            reply_window_s: active.then_some(48 * 3600),
            max_replies_per_window: active.then_some(5),
            rate: RateCapability { per_s: Some(20.0), per_conversation_per_s: Some(1.0) },
            ..Capabilities::default()
        }
    }

    fn check(&self, config: &ChannelConfig) -> Result<(), (&'static str, String)> {
        let key = config.candidates("aes_key");
        if is_safe(config) && key.is_err() {
            return Err(("aes_key", "safe mode needs the EncodingAESKey".to_owned()));
        }
        if config.flag("customer_service", false) && config.secret("app_secret").is_err() {
            let missing = "customer-service messages need the App secret";
            return Err(("app_secret", missing.to_owned()));
        }
        check_key(config)
    }

    fn verify_and_parse(
        &self,
        config: &ChannelConfig,
        request: &RawRequest,
        now: Timestamp,
    ) -> Result<Parsed, Reject> {
        if !request.tail.is_empty() {
            return Err(Reject::NotFound);
        }
        match request.method.as_str() {
            "GET" => {
                verify_plain(config, request, now)?;
                let echo = request.parameter("echostr").unwrap_or_default();
                let plain =
                    |letter: char| letter.is_ascii_alphanumeric() || "+/=_-".contains(letter);
                if echo.is_empty() || echo.len() > 512 || !echo.chars().all(plain) {
                    return Err(Reject::Malformed("echostr"));
                }
                Ok(Parsed::answer(Answer::text(echo)))
            }
            "POST" => {
                let event = read::event(document(config, request, now)?);
                let patience = read::wants_answer(&event).then_some(PATIENCE);
                Ok(Parsed { events: vec![event], answer: Answer::text(NOTHING), patience })
            }
            _ => Err(Reject::MethodNotAllowed),
        }
    }

    fn passive_answer(
        &self,
        config: &ChannelConfig,
        request: &RawRequest,
        out: &Outgoing<'_>,
        now: Timestamp,
    ) -> Option<Answer> {
        let raw = document(config, request, now).ok()?;
        let (person, account) =
            (lenient::text(&raw, "/FromUserName"), lenient::text(&raw, "/ToUserName"));
        // The answer goes to who asked; a host that names somebody else has the wrong one.
        if !out.thread.is_empty() && person != out.thread {
            return None;
        }
        let text = words(out.message)?;
        let second = now.as_second();
        let plain = format!(
            "<xml><ToUserName>{}</ToUserName><FromUserName>{}</FromUserName>\
             <CreateTime>{second}</CreateTime><MsgType><![CDATA[text]]></MsgType>\
             <Content>{}</Content></xml>",
            xml::cdata(&person),
            xml::cdata(&account),
            xml::cdata(&text),
        );
        let body = if is_safe(config) {
            let seed = format!("{}\n{}\n{second}", out.id, out.piece);
            seal(config, request, &plain, &seed, second)?
        } else {
            plain
        };
        let content_type = "application/xml; charset=utf-8";
        Some(Answer { status: 200, content_type, body: body.into_bytes() })
    }

    fn render(&self, config: &ChannelConfig, out: &Outgoing<'_>) -> Result<Vec<Plan>, Failure> {
        if !config.flag("customer_service", false) {
            return Ok(vec![Plan::Passive]);
        }
        if out.thread.is_empty() {
            let detail = "the conversation names no person".to_owned();
            return Err(Failure { reason: FailureReason::RecipientUnknown, detail });
        }
        let body = match menu(out.message) {
            Some((head, list)) => {
                let menu = json!({"head_content": head, "list": list, "tail_content": ""});
                json!({"touser": out.thread, "msgtype": "msgmenu", "msgmenu": menu})
            }
            None => {
                let text = words(out.message).unwrap_or_default();
                json!({"touser": out.thread, "msgtype": "text", "text": {"content": text}})
            }
        };
        let url = api(config, "message/custom/send?access_token=") + ACCESS_TOKEN;
        Ok(vec![Plan::Http(HttpPlan::post_json("send", url, &body))])
    }

    fn classify(&self, _config: &ChannelConfig, _plan: &Plan, response: &RawResponse) -> Outcome {
        classify(response)
    }

    fn token(&self, config: &ChannelConfig) -> Option<HttpPlan> {
        // The stable token: asking for one does not end another node's.
        let body = json!({
            "grant_type": "client_credential",
            "appid": config.setting("app_id")?,
            "secret": config.secret("app_secret").ok()?,
        });
        Some(HttpPlan::post_json("token", api(config, "stable_token"), &body))
    }

    fn read_token(&self, response: &RawResponse) -> Result<Token, String> {
        read_token(response)
    }

    fn connect(&self, config: &ChannelConfig) -> Vec<HttpPlan> {
        if config.secret("app_secret").is_err() {
            return Vec::new();
        }
        let url = api(config, "getcallbackip?access_token=") + ACCESS_TOKEN;
        vec![HttpPlan::get("callback_ip", url)]
    }

    fn connected(
        &self,
        config: &ChannelConfig,
        _plan: &HttpPlan,
        response: &RawResponse,
    ) -> Result<Option<String>, String> {
        match response.json().get("ip_list") {
            Some(_) => Ok(config.setting("app_id").map(str::to_owned)),
            None => Err(wrong(response)),
        }
    }

    fn typing(&self, config: &ChannelConfig, thread: &str) -> Option<HttpPlan> {
        if !config.flag("customer_service", false) {
            return None;
        }
        let url = api(config, "message/custom/typing?access_token=") + ACCESS_TOKEN;
        let body = json!({"touser": thread, "command": "Typing"});
        Some(HttpPlan::post_json("typing", url, &body))
    }

    fn fetch(&self, config: &ChannelConfig, media: &Media) -> Option<HttpPlan> {
        config.secret("app_secret").ok()?;
        Some(fetch(api(config, "media/get"), media.external_id.as_deref()?))
    }

    fn fetched(&self, _config: &ChannelConfig, response: &RawResponse) -> Fetched {
        fetched(response)
    }
}

fn is_safe(config: &ChannelConfig) -> bool {
    config.setting("mode") != Some("plain")
}

fn api(config: &ChannelConfig, path: &str) -> String {
    format!("{}/cgi-bin/{path}", config.address("api_url", "https://api.weixin.qq.com"))
}

/// The signature over time and nonce alone.
fn verify_plain(
    config: &ChannelConfig,
    request: &RawRequest,
    now: Timestamp,
) -> Result<(), Reject> {
    let tokens = config.candidates("token")?;
    let given = |name| request.parameter(name).unwrap_or_default();
    let (time, nonce) = (given("timestamp"), given("nonce"));
    if !crypto::is_signed(&tokens, &[&time, &nonce], &given("signature")) {
        return Err(Reject::Unauthorized("the signature is missing or another"));
    }
    fresh(&time, now)
}

/// What a request says, verified.
fn document(config: &ChannelConfig, request: &RawRequest, now: Timestamp) -> Result<Value, Reject> {
    if !is_safe(config) {
        verify_plain(config, request, now)?;
        return xml::read(&request.body).ok_or(Reject::Malformed("the message is no XML"));
    }
    let receiver = config.setting("app_id").ok_or(Reject::NotConfigured("app_id"))?;
    let envelope = xml::read(&request.body);
    let sealed = envelope.as_ref().map(|envelope| lenient::text(envelope, "/Encrypt"));
    let opened = open(config, request, &sealed.unwrap_or_default(), receiver, now)?;
    xml::read(&opened).ok_or(Reject::Malformed("the message is no XML"))
}

/// An answer sealed with the key with which the question was, so that the platform can open it also
/// while keys change.
fn seal(
    config: &ChannelConfig,
    request: &RawRequest,
    plain: &str,
    seed: &str,
    second: i64,
) -> Option<String> {
    let receiver = config.setting("app_id")?;
    let asked = lenient::text(&xml::read(&request.body)?, "/Encrypt");
    let keys = config.candidates("aes_key").ok()?;
    let ciphers = keys.iter().filter_map(|key| Cipher::new(key));
    let cipher = ciphers.into_iter().find(|cipher| cipher.open(&asked, receiver).is_some())?;
    let tokens = config.candidates("token").ok()?;
    let given = |name| request.parameter(name).unwrap_or_default();
    let (asked_at, asked_nonce, shown) =
        (given("timestamp"), given("nonce"), given("msg_signature"));
    let signed =
        |token: &&&str| crypto::is_signed(&[token], &[&asked_at, &asked_nonce, &asked], &shown);
    let token = tokens.iter().find(signed)?;
    let sealed = cipher.seal(seed.as_bytes(), plain.as_bytes(), receiver);
    let (time, nonce) = (second.to_string(), lenient::hash(&[seed.as_bytes()])[..16].to_owned());
    let signature = crypto::sign(token, &[&time, &nonce, &sealed]);
    Some(format!(
        "<xml><Encrypt><![CDATA[{sealed}]]></Encrypt>\
         <MsgSignature><![CDATA[{signature}]]></MsgSignature>\
         <TimeStamp>{time}</TimeStamp><Nonce><![CDATA[{nonce}]]></Nonce></xml>"
    ))
}

/// A message in words; `None` if it has none.
fn words(message: &Message) -> Option<String> {
    Some(message.to_text()).filter(|text| !text.trim().is_empty())
}

/// Buttons as a menu: pressing one sends its words, with its id beside them.
fn menu(message: &Message) -> Option<(String, Vec<Value>)> {
    let items = message.parts.iter().find_map(|part| match part {
        Part::Buttons { items, .. } => Some(items),
        _ => None,
    })?;
    let entry = |item: &Button| match &item.action {
        ButtonAction::Postback { value } => {
            let id = if value.is_empty() { &item.label } else { value };
            Some(json!({"id": id, "content": item.label}))
        }
        ButtonAction::Url { .. } => None,
    };
    let entries = items.iter().map(entry).collect::<Option<Vec<_>>>()?;
    let head = message.parts.iter().filter(|part| !matches!(part, Part::Buttons { .. }));
    let head: Vec<_> = head.map(Part::to_text).collect();
    Some((head.join("\n\n"), entries))
}

//! A robot of DingTalk that receives messages over HTTP, or over a connection that it opens.
//!
//! DingTalk signs the time of a request and not its body: whoever saw one request could send others
//! for an hour. So nothing of a body is believed that would lead a request elsewhere; the address
//! at which the conversation can be answered for a while has to be DingTalk's own.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use jiff::Timestamp;
use qudao_core::channel::{
    adapter::{
        ChannelAdapter, Failure, Fetched, Outcome, Outgoing, Parsed, RawRequest, Reject, Token,
    },
    config::{ChannelConfig, Field, FieldForm, Manifest},
    plan::{ACCESS_TOKEN, HttpPlan, Plan, RawResponse},
    session::{ChannelSession, OpenError, SessionAdapter},
};
use qudao_domain::{
    capability::{
        ButtonsCapability, Capabilities, Level, MediaCapability, RateCapability, TextCapability,
        Unit,
    },
    message::Media,
    state::ChannelKind,
};
use serde_json::{Value, json};

mod read;
mod stream;
mod write;

use crate::{lenient, signature};

/// A robot of DingTalk as a channel.
#[derive(Debug, Clone, Copy, Default)]
pub struct Dingtalk;

/// How long a signature is valid, by the platform's own rule.
const WINDOW_S: i64 = 3600;

static MANIFEST: Manifest = Manifest {
    kind: ChannelKind::Dingtalk,
    name: "DingTalk",
    name_zh: "钉钉",
    webhook: true,
    fields: &[
        Field::text("app_key", "Client ID (AppKey)", "Client ID（AppKey）")
            .form(FieldForm::Text(64))
            .help("open-dev.dingtalk.com → your app → Credentials (凭证与基础信息)."),
        Field::secret("app_secret", "Client secret (AppSecret)", "Client Secret（AppSecret）")
            .help("Beside the Client ID. Requests are signed with it."),
        Field::text("robot_code", "Robot code", "机器人编码 RobotCode")
            .optional()
            .form(FieldForm::Text(64))
            .help("Your app → Robot (机器人). The Client ID if left empty, which is what it mostly is."),
        Field::text("receive", "How messages come in", "接收方式")
            .optional()
            .form(FieldForm::Choice(&["http", "stream"]))
            .help(
                "The mode of the robot: http sends messages to this server, which needs a public \
                 address; with stream this server opens a connection, which works from anywhere.",
            ),
        Field::text("api_url", "API address", "API 地址").optional().form(FieldForm::Url),
    ],
};

impl ChannelAdapter for Dingtalk {
    fn manifest(&self) -> &'static Manifest {
        &MANIFEST
    }

    fn capabilities(&self, _config: &ChannelConfig) -> Capabilities {
        let native = ["bold", "italic", "link", "list", "quote", "heading"];
        let image = MediaCapability {
            mimes: vec!["image/*".to_owned()],
            max_bytes: Some(20 << 20),
            caption_max: None,
            ..MediaCapability::default()
        };
        Capabilities {
            text: TextCapability {
                max: 15_000,
                unit: Unit::Bytes,
                formats: native.map(|format| (format.to_owned(), Level::Native)).into(),
            },
            media: [("image".to_owned(), image)].into(),
            buttons: ButtonsCapability { level: Level::Native, max: 5, label_max: 20 },
            // Twenty a minute in a group, or none for ten minutes.
            rate: RateCapability { per_s: Some(20.0), per_conversation_per_s: Some(0.33) },
            ..Capabilities::default()
        }
    }

    fn verify_and_parse(
        &self,
        config: &ChannelConfig,
        request: &RawRequest,
        now: Timestamp,
    ) -> Result<Parsed, Reject> {
        let secrets = config.candidates("app_secret")?;
        if request.method != "POST" {
            return Err(Reject::MethodNotAllowed);
        }
        if !request.tail.is_empty() {
            return Err(Reject::NotFound);
        }
        let time = request.header("timestamp").unwrap_or_default().trim();
        let shown = request.header("sign").unwrap_or_default().trim();
        if !signature::any(secrets, shown.as_bytes(), |secret| sign(secret, time).into_bytes()) {
            return Err(Reject::Unauthorized("the signature is missing or another"));
        }
        let at: i64 =
            time.parse().map_err(|_| Reject::Unauthorized("the signature has no time"))?;
        if !lenient::within(at.div_euclid(1000), now, WINDOW_S, WINDOW_S) {
            return Err(Reject::Unauthorized("the signature is too old or from the future"));
        }
        let body: Value = serde_json::from_slice(&request.body)
            .map_err(|_| Reject::Malformed("a message is JSON"))?;
        if !body.is_object() {
            return Err(Reject::Malformed("a message is an object"));
        }
        let shown = lenient::some_text(&body, "/robotCode");
        // Robots within a group of old name no code.
        if shown.is_some_and(|code| Some(code.as_str()) != robot(config) && code != "normal") {
            return Err(Reject::Unauthorized("the message is another robot's"));
        }
        Ok(Parsed::events(read::event(body).into_iter().collect()))
    }

    fn render(&self, config: &ChannelConfig, out: &Outgoing<'_>) -> Result<Vec<Plan>, Failure> {
        write::message(config, out)
    }

    fn classify(&self, _config: &ChannelConfig, plan: &Plan, response: &RawResponse) -> Outcome {
        write::classify(plan, response)
    }

    fn token(&self, config: &ChannelConfig) -> Option<HttpPlan> {
        let body = json!({
            "appKey": config.setting("app_key")?,
            "appSecret": config.secret("app_secret").ok()?,
        });
        Some(HttpPlan::post_json("token", api(config, "oauth2/accessToken"), &body))
    }

    fn read_token(&self, response: &RawResponse) -> Result<Token, String> {
        let body = response.json();
        let ttl = lenient::number(&body, "/expireIn").and_then(|s| u64::try_from(s).ok());
        match (lenient::some_text(&body, "/accessToken"), ttl) {
            (Some(text), Some(ttl)) => Ok(Token { text, ttl: Duration::from_secs(ttl) }),
            _ if lenient::text(&body, "/code").starts_with("invalidClient") => {
                Err("the Client ID or the Client secret is wrong".to_owned())
            }
            _ => Err(format!("DingTalk gives no token: {}", response.excerpt())),
        }
    }

    fn connect(&self, config: &ChannelConfig) -> Vec<HttpPlan> {
        // The token is the test: it takes both the id and the secret.
        self.token(config).into_iter().collect()
    }

    fn connected(
        &self,
        config: &ChannelConfig,
        _plan: &HttpPlan,
        response: &RawResponse,
    ) -> Result<Option<String>, String> {
        self.read_token(response).map(|_| robot(config).map(str::to_owned))
    }

    fn fetch(&self, config: &ChannelConfig, media: &Media) -> Option<HttpPlan> {
        let body = json!({
            "downloadCode": media.external_id.as_deref()?, "robotCode": robot(config)?,
        });
        let url = api(config, "robot/messageFiles/download");
        Some(with_token(HttpPlan::post_json("media", url, &body)))
    }

    fn fetched(&self, _config: &ChannelConfig, response: &RawResponse) -> Fetched {
        let json = response.header("content-type").is_some_and(|kind| kind.contains("json"));
        let body = response.json();
        match lenient::some_text(&body, "/downloadUrl").filter(|_| json) {
            Some(url) => {
                let plan = HttpPlan { answer_max: 25 << 20, ..HttpPlan::get("media", url) };
                Fetched::Then(plan.within(Duration::from_secs(60)))
            }
            None if json && body.get("code").is_some() => Fetched::Failed(response.excerpt()),
            None => Fetched::Bytes,
        }
    }
}

impl SessionAdapter for Dingtalk {
    fn is_held(&self, config: &ChannelConfig) -> bool {
        stream::is_chosen(config)
    }

    fn locate(&self, config: &ChannelConfig) -> Option<HttpPlan> {
        stream::locate(config)
    }

    fn open(
        &self,
        config: &ChannelConfig,
        located: Option<&RawResponse>,
        _kept: Option<&Value>,
    ) -> Result<Box<dyn ChannelSession>, OpenError> {
        stream::open(config, located)
    }
}

/// The signature of a time in milliseconds.
fn sign(secret: &str, time: &str) -> String {
    let parts = [time.as_bytes(), b"\n", secret.as_bytes()];
    STANDARD.encode(signature::hmac_sha256(secret.as_bytes(), &parts))
}

fn robot(config: &ChannelConfig) -> Option<&str> {
    config.setting("robot_code").or_else(|| config.setting("app_key"))
}

fn api(config: &ChannelConfig, path: &str) -> String {
    format!("{}/v1.0/{path}", config.address("api_url", "https://api.dingtalk.com"))
}

fn with_token(plan: HttpPlan) -> HttpPlan {
    plan.header("x-acs-dingtalk-access-token", ACCESS_TOKEN)
}

#[cfg(test)]
mod tests;

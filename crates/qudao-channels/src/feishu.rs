//! A bot of Feishu, or of Lark, which is the same outside of China.
//!
//! Events come encrypted and signed with one key, so a channel has to have it: a bot that is set up
//! without would be open to whoever finds its address.

use jiff::Timestamp;
use qudao_core::channel::{
    adapter::{
        ChannelAdapter, Failure, Outcome, Outgoing, Parsed, Preview, RawRequest, Reject, Token,
    },
    config::{ChannelConfig, Field, FieldForm, Manifest},
    plan::{ACCESS_TOKEN, HttpPlan, Plan, RawResponse},
};
use qudao_domain::{
    capability::{
        ButtonsCapability, Capabilities, EditCapability, Level, MediaCapability, RateCapability,
        Streaming, TextCapability, Unit,
    },
    message::Media,
    state::ChannelKind,
};
use serde_json::json;

mod envelope;
mod read;
mod write;

use crate::lenient;

/// A bot of Feishu or Lark as a channel.
#[derive(Debug, Clone, Copy, Default)]
pub struct Feishu;

static MANIFEST: Manifest = Manifest {
    kind: ChannelKind::Feishu,
    name: "Feishu / Lark",
    name_zh: "飞书",
    webhook: true,
    fields: &[
        Field::text("region", "Platform", "平台")
            .optional()
            .form(FieldForm::Choice(&["feishu", "lark"]))
            .help("feishu for open.feishu.cn, which is the default; lark for open.larksuite.com."),
        Field::text("app_id", "App ID", "App ID")
            .form(FieldForm::Text(64))
            .help("Developer console → your app → Credentials & Basic Info."),
        Field::secret("app_secret", "App Secret", "App Secret")
            .help("Beside the App ID: Credentials & Basic Info."),
        Field::secret("encrypt_key", "Encrypt Key", "Encrypt Key").help(
            "Developer console → Events & Callbacks → Encryption Strategy. Set one there \
                   first; without it events are not signed.",
        ),
        Field::secret("verification_token", "Verification Token", "Verification Token")
            .optional()
            .help("On the same page. If it is set, each event must show it too."),
        Field::text("bot_open_id", "Open ID of the bot", "机器人 Open ID")
            .optional()
            .form(FieldForm::Text(64))
            .help(
                "Only for bots that may read all messages of a group: those that mention this id \
                   are answered. The answer to a connection test names it.",
            ),
        Field::text("api_url", "API address", "API 地址").optional().form(FieldForm::Url),
    ],
};

impl ChannelAdapter for Feishu {
    fn manifest(&self) -> &'static Manifest {
        &MANIFEST
    }

    fn capabilities(&self, _config: &ChannelConfig) -> Capabilities {
        let native = ["bold", "italic", "strike", "code", "code_block", "link", "list", "heading"];
        Capabilities {
            // A card may have 30 KB as JSON, a text 150 KB.
            text: TextCapability {
                max: 9_000,
                unit: Unit::Bytes,
                formats: native.map(|format| (format.to_owned(), Level::Native)).into(),
            },
            media: ["image", "audio", "video", "file"]
                .map(|kind| (kind.to_owned(), MediaCapability::uploads(25 << 20, None)))
                .into(),
            buttons: ButtonsCapability { level: Level::Native, max: 10, label_max: 40 },
            reply_to: Level::Native,
            edit: EditCapability {
                level: Level::Native,
                min_interval_ms: 500,
                max_age_s: Some(14 * 86_400),
            },
            stream: Streaming::Edit,
            receipts: vec!["read".to_owned()],
            rate: RateCapability { per_s: Some(50.0), per_conversation_per_s: Some(5.0) },
            ..Capabilities::default()
        }
    }

    fn check(&self, config: &ChannelConfig) -> Result<(), (&'static str, String)> {
        let app_id = config.setting("app_id").unwrap_or_default();
        if !app_id.starts_with("cli_") {
            return Err(("app_id", "an App ID begins with cli_".to_owned()));
        }
        Ok(())
    }

    fn verify_and_parse(
        &self,
        config: &ChannelConfig,
        request: &RawRequest,
        now: Timestamp,
    ) -> Result<Parsed, Reject> {
        match envelope::open(config, request, now)? {
            envelope::Opened::Challenge(answer) => Ok(Parsed::answer(answer)),
            envelope::Opened::Event(event) => Ok(read::parsed(config, &event)),
        }
    }

    fn render(&self, config: &ChannelConfig, out: &Outgoing<'_>) -> Result<Vec<Plan>, Failure> {
        write::message(config, out)
    }

    fn classify(&self, _config: &ChannelConfig, plan: &Plan, response: &RawResponse) -> Outcome {
        write::classify(plan, response)
    }

    fn token(&self, config: &ChannelConfig) -> Option<HttpPlan> {
        let body = json!({
            "app_id": config.setting("app_id")?,
            "app_secret": config.secret("app_secret").ok()?,
        });
        let url = api(config, "auth/v3/tenant_access_token/internal");
        Some(HttpPlan::post_json("token", url, &body))
    }

    fn read_token(&self, response: &RawResponse) -> Result<Token, String> {
        let body = response.json();
        let token = lenient::text(&body, "/tenant_access_token");
        let ttl = lenient::number(&body, "/expire").and_then(|s| u64::try_from(s).ok());
        match (lenient::number(&body, "/code"), ttl) {
            (Some(0), Some(ttl)) if !token.is_empty() => {
                Ok(Token { text: token, ttl: std::time::Duration::from_secs(ttl) })
            }
            (Some(10_003 | 10_014), _) => Err("the App ID or the App Secret is wrong".to_owned()),
            _ => Err(format!("Feishu gives no token: {}", response.excerpt())),
        }
    }

    fn connect(&self, config: &ChannelConfig) -> Vec<HttpPlan> {
        vec![HttpPlan::get("bot", api(config, "bot/v3/info")).bearer(ACCESS_TOKEN)]
    }

    fn connected(
        &self,
        _config: &ChannelConfig,
        _plan: &HttpPlan,
        response: &RawResponse,
    ) -> Result<Option<String>, String> {
        let body = response.json();
        if lenient::number(&body, "/code") != Some(0) {
            return Err(format!(
                "Feishu answers {}: is the bot's ability switched on and the app published?",
                response.excerpt()
            ));
        }
        let name = lenient::text(&body, "/bot/app_name");
        Ok(Some(format!("{name} ({})", lenient::text(&body, "/bot/open_id"))))
    }

    fn preview(
        &self,
        config: &ChannelConfig,
        thread: &str,
        preview: &Preview<'_>,
    ) -> Option<HttpPlan> {
        Some(write::preview(config, thread, preview))
    }

    fn fetch(&self, config: &ChannelConfig, media: &Media) -> Option<HttpPlan> {
        let mut name = media.external_id.as_deref()?.split(' ');
        let (message, key, kind) = (name.next()?, name.next()?, name.next()?);
        let plain = |text: &str| {
            text.chars().all(|letter| letter.is_ascii_alphanumeric() || "_-".contains(letter))
        };
        if ![message, key, kind].into_iter().all(plain) {
            return None;
        }
        let url = api(config, &format!("im/v1/messages/{message}/resources/{key}?type={kind}"));
        let plan = HttpPlan { answer_max: 50 << 20, ..HttpPlan::get("media", url) };
        Some(plan.within(std::time::Duration::from_secs(60)).bearer(ACCESS_TOKEN))
    }
}

/// The bot's own id: as it was set, or as the platform named it when the channel was connected.
fn own_id(config: &ChannelConfig) -> Option<&str> {
    let named = || config.account.as_deref()?.rsplit_once('(')?.1.strip_suffix(')');
    config.setting("bot_open_id").or_else(named).filter(|id| !id.is_empty())
}

/// A path of the open platform's API.
fn api(config: &ChannelConfig, path: &str) -> String {
    let host = match config.setting("region") {
        Some("lark") => "https://open.larksuite.com",
        _ => "https://open.feishu.cn",
    };
    format!("{}/open-apis/{path}", config.address("api_url", host))
}

#[cfg(test)]
mod tests;

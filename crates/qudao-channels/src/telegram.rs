//! Bots of Telegram. Updates are read from raw JSON, because typed clients lag behind the API and
//! lose what they do not know; methods are plain requests. <https://core.telegram.org/bots/api>

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;
use qudao_core::channel::{
    adapter::{
        ChannelAdapter, Failure, FailureReason, Fetched, Outcome, Outgoing, Parsed, Polled,
        Preview, RawRequest, Reject,
    },
    config::{ChannelConfig, Field, FieldForm, Manifest},
    event::{Event, EventBody},
    plan::{HttpPlan, Plan, RawResponse},
};
use qudao_domain::{
    capability::{
        ButtonsCapability, Capabilities, EditCapability, Level, ListCapability, MediaCapability,
        RateCapability, Streaming, TextCapability, TypingCapability, Unit,
    },
    message::Media,
    state::ChannelKind,
};
use serde_json::{Value, json};

use crate::signature;

mod files;
mod html;
mod press;
mod read;
mod stars;
mod write;

#[cfg(test)]
mod tests;

use read::{Own, read_update};

const API: &str = "https://api.telegram.org";
const SECRET_HEADER: &str = "x-telegram-bot-api-secret-token";
/// How long a question for updates is kept open, in seconds.
const POLL_S: u64 = 25;
/// The largest file that a bot may fetch, in bytes.
const FETCH_MAX: usize = 20 << 20;
/// What Telegram is to tell.
const UPDATES: [&str; 6] = [
    "message",
    "edited_message",
    "callback_query",
    "my_chat_member",
    "pre_checkout_query",
    "message_reaction",
];

const MANIFEST: Manifest = Manifest {
    kind: ChannelKind::Telegram,
    name: "Telegram",
    name_zh: "Telegram",
    fields: &[
        Field::secret("bot_token", "Bot token", "机器人令牌")
            .help("Send /newbot to @BotFather in Telegram and copy the token that it answers."),
        Field::text("receive", "How messages come in", "接收方式")
            .help(
                "webhook: Telegram sends them to this server, which needs a public https address. \
                 poll: this server asks for them, which works from anywhere.",
            )
            .form(FieldForm::Choice(&["webhook", "poll"]))
            .optional(),
        Field::text("groups", "In groups", "群组中")
            .help("mention: answer when the bot is mentioned, replied to or given a command.")
            .form(FieldForm::Choice(&["mention", "all"]))
            .optional(),
        Field::text("username", "The bot's user name", "机器人用户名")
            .help("Found out when the channel is connected; without the @.")
            .form(FieldForm::Text(40))
            .optional(),
        Field::text("stars_value", "What one Star adds", "每颗星的额度")
            .help(
                "Micro-units of the tenant's currency that one Telegram Star adds to its wallet; \
                 Stars are only written down if this is left out.",
            )
            .form(FieldForm::Number(1, 1_000_000_000))
            .optional(),
        Field::text("stars_offers", "Top-ups on offer", "可充值的星数")
            .help(
                "Numbers of Stars, such as 50 and 250: the command /topup sends an invoice. Needs \
                 what one Star adds.",
            )
            .form(FieldForm::List(10))
            .optional(),
        Field::text("api_url", "Bot API server", "Bot API 服务器")
            .help("Leave empty for Telegram's own.")
            .form(FieldForm::Url)
            .optional(),
    ],
    webhook: true,
};

/// Telegram.
#[derive(Debug, Clone, Copy)]
pub struct Telegram;

/// What Telegram shows in the header of each request: made of the bot's token, so that it needs no
/// keeping, is told apart by channel, and changes with the token.
pub fn webhook_secret(config: &ChannelConfig, token: &str) -> String {
    let channel = config.channel_id.to_string();
    let parts: [&[u8]; 2] = [b"qudao telegram webhook ", channel.as_bytes()];
    hex::encode(signature::hmac_sha256(token.as_bytes(), &parts))
}

fn own(config: &ChannelConfig) -> Own<'_> {
    let token = config.secret("bot_token").unwrap_or_default();
    let id = token.split(':').next().and_then(|id| id.parse().ok()).unwrap_or_default();
    let account = config.account.as_deref().and_then(|name| name.strip_prefix('@'));
    Own {
        id,
        username: config.setting("username").map(|name| name.trim_start_matches('@')).or(account),
        answers_all: config.setting("groups") == Some("all"),
        sells: stars::sells(config),
    }
}

fn polls(config: &ChannelConfig) -> bool {
    match config.setting("receive") {
        Some(receive) => receive == "poll",
        None => !is_reachable(config),
    }
}

/// Whether messages can be sent to this server: Telegram itself takes https alone, a Bot API server
/// of one's own takes both.
fn is_reachable(config: &ChannelConfig) -> bool {
    let own_server = config.setting("api_url").is_some();
    config.inbound_url.starts_with("https://") || (own_server && !config.inbound_url.is_empty())
}

/// The address of a method of the API.
fn address(config: &ChannelConfig, method: &str) -> String {
    let token = config.secret("bot_token").unwrap_or_default();
    format!("{}/bot{token}/{method}", config.address("api_url", API))
}

fn call(config: &ChannelConfig, method: &'static str, body: &Value) -> HttpPlan {
    HttpPlan::post_json(method, address(config, method), body)
}

impl ChannelAdapter for Telegram {
    fn manifest(&self) -> &'static Manifest {
        &MANIFEST
    }

    fn capabilities(&self, _: &ChannelConfig) -> Capabilities {
        let native = ["bold", "italic", "strike", "code", "code_block", "link", "list", "quote"];
        let file = |max_bytes| MediaCapability {
            mimes: Vec::new(),
            max_bytes: Some(max_bytes),
            upload_max_bytes: Some(50 << 20),
            caption_max: Some(1024),
        };
        Capabilities {
            text: TextCapability {
                max: 4096,
                unit: Unit::Utf16,
                formats: native.map(|name| (name.to_owned(), Level::Native)).into(),
            },
            // By address Telegram fetches 5 MB of a picture and 20 MB of anything else.
            media: BTreeMap::from([
                ("image".to_owned(), file(5 << 20)),
                ("audio".to_owned(), file(20 << 20)),
                ("video".to_owned(), file(20 << 20)),
                ("file".to_owned(), file(20 << 20)),
            ]),
            album_max: 10,
            buttons: ButtonsCapability { level: Level::Native, max: 100, label_max: 64 },
            list: ListCapability { level: Level::Native, max_rows: 100 },
            location: Level::Native,
            contact: Level::Native,
            reply_to: Level::Native,
            edit: EditCapability {
                level: Level::Native,
                min_interval_ms: 1000,
                max_age_s: Some(48 * 3600),
            },
            stream: Streaming::Draft,
            typing: TypingCapability { level: Level::Native, ttl_s: 5 },
            rate: RateCapability { per_s: Some(30.0), per_conversation_per_s: Some(1.0) },
            ..Capabilities::default()
        }
    }

    fn check(&self, config: &ChannelConfig) -> Result<(), (&'static str, String)> {
        let token = config.secret("bot_token").unwrap_or_default();
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
        let whole = token.split_once(':').is_some_and(|(id, rest)| {
            id.parse::<u64>().is_ok() && !rest.is_empty() && rest.bytes().all(plain)
        });
        if !whole {
            let fault =
                "is not a bot's token, which looks like 123456:ABC-DEF; copy it from @BotFather";
            return Err(("bot_token", fault.to_owned()));
        }
        if let Some(fault) = stars::fault(config) {
            return Err(("stars_offers", fault));
        }
        if !polls(config) && !is_reachable(config) {
            let fault = "Telegram sends to https addresses only: set server.public_url, or receive \
                         to poll";
            return Err(("receive", fault.to_owned()));
        }
        Ok(())
    }

    fn verify_and_parse(
        &self,
        config: &ChannelConfig,
        request: &RawRequest,
        _: Timestamp,
    ) -> Result<Parsed, Reject> {
        if request.method != "POST" {
            return Err(Reject::MethodNotAllowed);
        }
        if !request.tail.is_empty() {
            return Err(Reject::NotFound);
        }
        let given = request.header(SECRET_HEADER).unwrap_or_default();
        let made = |token: &str| webhook_secret(config, token).into_bytes();
        if !signature::any(config.candidates("bot_token")?, given.as_bytes(), made) {
            return Err(Reject::Unauthorized("the secret token is missing or wrong"));
        }
        let update: Value =
            serde_json::from_slice(&request.body).map_err(|_| Reject::Malformed("no JSON"))?;
        if !update["update_id"].is_i64() {
            return Err(Reject::Malformed("an update without an id"));
        }
        Ok(Parsed::events(vec![read_update(&update, own(config))]))
    }

    fn render(&self, config: &ChannelConfig, out: &Outgoing<'_>) -> Result<Vec<Plan>, Failure> {
        Ok(write::render(config, out).into_iter().map(Plan::Http).collect())
    }

    fn classify(&self, _: &ChannelConfig, plan: &Plan, response: &RawResponse) -> Outcome {
        write::classify(plan, response)
    }

    fn connect(&self, config: &ChannelConfig) -> Vec<HttpPlan> {
        let me = call(config, "getMe", &json!({}));
        if polls(config) {
            return vec![me, call(config, "deleteWebhook", &json!({}))];
        }
        let token = config.secret("bot_token").unwrap_or_default();
        let hook = json!({
            "url": config.inbound_url, "secret_token": webhook_secret(config, token),
            "allowed_updates": UPDATES, "max_connections": 40,
        });
        vec![me, call(config, "setWebhook", &hook)]
    }

    fn connected(
        &self,
        _: &ChannelConfig,
        plan: &HttpPlan,
        response: &RawResponse,
    ) -> Result<Option<String>, String> {
        let answer = response.json();
        if answer["ok"].as_bool() != Some(true) {
            let said = answer["description"].as_str().unwrap_or("no answer that can be read");
            return Err(match response.status {
                401 | 404 => {
                    format!("Telegram does not know this bot token ({said}): copy it anew")
                }
                _ => format!("Telegram refused {}: {said}", plan.purpose),
            });
        }
        Ok(answer["result"]["username"].as_str().map(|name| format!("@{name}")))
    }

    fn poll(&self, config: &ChannelConfig, cursor: Option<&Value>) -> Option<HttpPlan> {
        if !polls(config) {
            return None;
        }
        let offset = cursor.and_then(Value::as_i64).unwrap_or_default();
        let body = json!({
            "offset": offset, "timeout": POLL_S, "limit": 100, "allowed_updates": UPDATES,
        });
        let plan = call(config, "getUpdates", &body);
        Some(HttpPlan { answer_max: 16 << 20, ..plan.within(Duration::from_secs(POLL_S + 10)) })
    }

    fn polled(
        &self,
        config: &ChannelConfig,
        response: &RawResponse,
        _: Timestamp,
    ) -> Result<Polled, Outcome> {
        let answer = response.json();
        let Some(updates) = answer["result"].as_array() else {
            return Err(match response.status {
                409 => Outcome::failed(
                    FailureReason::ProviderError,
                    "another program asks for this bot's messages, or a webhook is set: stop it, \
                     or connect the channel again",
                ),
                _ => write::refusal(response),
            });
        };
        let last = updates.iter().filter_map(|update| update["update_id"].as_i64()).max();
        let own = own(config);
        let known = updates.iter().filter(|update| update["update_id"].is_i64());
        Ok(Polled {
            events: known.map(|update| read_update(update, own)).collect(),
            cursor: last.map(|last| json!(last + 1)),
        })
    }

    fn typing(&self, config: &ChannelConfig, thread: &str) -> Option<HttpPlan> {
        let body = write::addressed(thread, json!({ "action": "typing" }));
        Some(call(config, "sendChatAction", &body).within(Duration::from_secs(5)))
    }

    fn preview(
        &self,
        config: &ChannelConfig,
        thread: &str,
        preview: &Preview<'_>,
    ) -> Option<HttpPlan> {
        write::preview(config, thread, preview)
    }

    fn acknowledge(&self, config: &ChannelConfig, event: &Event) -> Option<HttpPlan> {
        press::receipt(config, event)
            .or_else(|| stars::check(config, event))
            .or_else(|| stars::offer(config, event))
    }

    fn fetch(&self, config: &ChannelConfig, media: &Media) -> Option<HttpPlan> {
        if media.size.is_some_and(|size| FETCH_MAX as u64 <= size) {
            return None;
        }
        Some(call(config, "getFile", &json!({ "file_id": media.external_id.as_deref()? })))
    }

    fn fetched(&self, config: &ChannelConfig, response: &RawResponse) -> Fetched {
        // The file itself never comes as JSON of the API: it is served as plain bytes.
        let kind = response.header("content-type").unwrap_or_default();
        let answer =
            if kind.starts_with("application/json") { response.json() } else { Value::Null };
        let Some(path) = answer["result"]["file_path"].as_str() else {
            return Fetched::Bytes;
        };
        if path.split('/').any(|part| part == "..") {
            return Fetched::Failed("the file's path leads elsewhere".to_owned());
        }
        let token = config.secret("bot_token").unwrap_or_default();
        let url = format!("{}/file/bot{token}/{path}", config.address("api_url", API));
        let plan = HttpPlan::get("file", url).within(Duration::from_secs(60));
        Fetched::Then(HttpPlan { answer_max: FETCH_MAX, ..plan })
    }

    fn credit(&self, config: &ChannelConfig, event: &Event) -> Option<i64> {
        let (EventBody::Paid(paid) | EventBody::Refunded(paid)) = &event.body else { return None };
        let value = config.number("stars_value")?;
        (paid.currency == "XTR" && !paid.charge_id.is_empty() && 0 < paid.amount)
            .then(|| paid.amount.checked_mul(value))
            .flatten()
    }
}

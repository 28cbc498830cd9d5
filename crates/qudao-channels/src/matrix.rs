//! A homeserver of Matrix, which the channel joins as an application service: the homeserver posts
//! what happens in ordered transactions and repeats each until it is taken.
//!
//! Rooms are not encrypted end to end for an application service; messages of encrypted rooms are
//! stored as unknown and cannot be read.

use jiff::Timestamp;
use qudao_core::channel::{
    adapter::{
        Answer, ChannelAdapter, Failure, Outcome, Outgoing, Parsed, Preview, RawRequest, Reject,
    },
    config::{ChannelConfig, Field, FieldForm, Manifest},
    event::Event,
    plan::{HttpPlan, Plan, RawResponse},
};
use qudao_domain::{
    capability::{
        Capabilities, EditCapability, Level, MediaCapability, RateCapability, Streaming,
        TextCapability, TypingCapability, Unit,
    },
    message::Media,
    state::ChannelKind,
};
use serde_json::{Value, json};

mod read;
mod write;

use crate::{lenient, signature};

/// A homeserver as a channel.
#[derive(Debug, Clone, Copy, Default)]
pub struct Matrix;

static MANIFEST: Manifest = Manifest {
    kind: ChannelKind::Matrix,
    name: "Matrix",
    name_zh: "Matrix",
    webhook: true,
    fields: &[
        Field::text("homeserver_url", "Homeserver", "主服务器地址")
            .form(FieldForm::Url)
            .help("Where the homeserver's client API is, such as https://matrix.example.org."),
        Field::text("user_id", "User", "用户 ID").form(FieldForm::Text(255)).help(
            "As whom the assistant speaks, such as @support:example.org. Its name must lie \
                   in the namespace of the registration file.",
        ),
        Field::secret("as_token", "Token of the application service", "应用服务令牌 (as_token)")
            .help("as_token of the registration file: a long random text of your own."),
        Field::secret("hs_token", "Token of the homeserver", "主服务器令牌 (hs_token)")
            .help("hs_token of the registration file: another long random text."),
        Field::text("registration_id", "Registration", "注册 ID")
            .optional()
            .form(FieldForm::Text(100))
            .help(
                "id of the registration file. If it is set, connecting also tests whether the \
                   homeserver reaches this platform.",
            ),
        Field::text("require_mention", "Only when mentioned", "仅在被提及时回复")
            .optional()
            .form(FieldForm::Bool)
            .help(
                "For rooms of several people: answer only messages that name the assistant or \
                   reply to it.",
            ),
        Field::text("allow_servers", "Invitations from", "接受邀请的服务器")
            .optional()
            .form(FieldForm::List(50))
            .help(
                "Names of servers whose people may invite the assistant. Everybody may if empty.",
            ),
    ],
};

impl ChannelAdapter for Matrix {
    fn manifest(&self) -> &'static Manifest {
        &MANIFEST
    }

    fn capabilities(&self, _config: &ChannelConfig) -> Capabilities {
        let formats = [
            "bold",
            "italic",
            "strike",
            "code",
            "code_block",
            "link",
            "list",
            "quote",
            "heading",
            "table",
        ];
        let files = MediaCapability::uploads(25 << 20, Some(1000));
        Capabilities {
            // An event may have 65,536 bytes as JSON and holds the words twice, as HTML too.
            text: TextCapability {
                max: 12_000,
                unit: Unit::Bytes,
                formats: formats.map(|format| (format.to_owned(), Level::Native)).into(),
            },
            media: ["image", "audio", "video", "file"]
                .map(|kind| (kind.to_owned(), files.clone()))
                .into(),
            location: Level::Native,
            reply_to: Level::Native,
            edit: EditCapability { level: Level::Native, min_interval_ms: 1500, max_age_s: None },
            stream: Streaming::Edit,
            typing: TypingCapability { level: Level::Native, ttl_s: 20 },
            receipts: vec!["read".to_owned()],
            rate: RateCapability { per_s: Some(10.0), per_conversation_per_s: Some(2.0) },
            ..Capabilities::default()
        }
    }

    fn check(&self, config: &ChannelConfig) -> Result<(), (&'static str, String)> {
        let user = config.setting("user_id").unwrap_or_default();
        let form = user.strip_prefix('@').and_then(|rest| rest.split_once(':'));
        if !form.is_some_and(|(name, server)| !name.is_empty() && !server.is_empty()) {
            return Err(("user_id", "a user of Matrix looks like @support:example.org".to_owned()));
        }
        let weak =
            |name| config.candidates(name).is_ok_and(|all| all.iter().any(|one| one.len() < 16));
        for name in ["as_token", "hs_token"] {
            if weak(name) {
                return Err((name, "use at least 16 random characters".to_owned()));
            }
        }
        Ok(())
    }

    fn verify_and_parse(
        &self,
        config: &ChannelConfig,
        request: &RawRequest,
        _now: Timestamp,
    ) -> Result<Parsed, Reject> {
        let tokens = config.candidates("hs_token")?;
        let shown = request.header("authorization").and_then(|line| line.strip_prefix("Bearer "));
        let shown = shown.ok_or(Reject::Unauthorized("there is no bearer token"))?;
        let hashed = |text: &str| signature::sha256(&[text.as_bytes()]).to_vec();
        if !signature::any(tokens, &hashed(shown), hashed) {
            return Err(Reject::Unauthorized("this is not the homeserver's token"));
        }
        let tail = request.tail.trim_start_matches('/');
        // Homeservers of before 2021 leave the prefix out.
        let tail = tail.strip_prefix("_matrix/app/v1/").unwrap_or(tail);
        let empty = || Parsed::answer(Answer::json(&json!({})));
        match (request.method.as_str(), tail.split_once('/')) {
            ("PUT", Some(("transactions", id))) if !id.is_empty() => {
                let body: Value = serde_json::from_slice(&request.body)
                    .map_err(|_| Reject::Malformed("a transaction is JSON"))?;
                if !body.is_object() {
                    return Err(Reject::Malformed("a transaction is an object"));
                }
                Ok(Parsed { events: read::transaction(config, id, &body), ..empty() })
            }
            ("POST", None) if tail == "ping" => Ok(empty()),
            ("GET", Some(("users", user))) => {
                let user = percent_decoded(user);
                if config.setting("user_id") == Some(user.as_str()) {
                    Ok(empty())
                } else {
                    Err(Reject::NotFound)
                }
            }
            (_, Some(("transactions", _))) => Err(Reject::MethodNotAllowed),
            _ => Err(Reject::NotFound),
        }
    }

    fn render(&self, config: &ChannelConfig, out: &Outgoing<'_>) -> Result<Vec<Plan>, Failure> {
        write::message(config, out)
    }

    fn classify(&self, _config: &ChannelConfig, plan: &Plan, response: &RawResponse) -> Outcome {
        write::classify(plan, response)
    }

    fn connect(&self, config: &ChannelConfig) -> Vec<HttpPlan> {
        let user = config.setting("user_id").unwrap_or_default();
        let name = user.trim_start_matches('@').split(':').next().unwrap_or_default();
        let account = json!({
            "type": "m.login.application_service", "username": name, "inhibit_login": true,
        });
        let register = format!("{}/_matrix/client/v3/register?kind=user", homeserver(config));
        let whoami = format!("{}/_matrix/client/v3/account/whoami", homeserver(config));
        let mut plans = vec![
            signed(config, HttpPlan::post_json("register", register, &account)),
            signed(config, HttpPlan::get("whoami", as_user(config, &whoami))),
        ];
        if let Some(id) = config.setting("registration_id") {
            let path = format!("/_matrix/client/v1/appservice/{}/ping", encoded(id));
            let url = homeserver(config) + &path;
            plans.push(signed(config, HttpPlan::post_json("ping", url, &json!({}))));
        }
        plans
    }

    fn connected(
        &self,
        _config: &ChannelConfig,
        plan: &HttpPlan,
        response: &RawResponse,
    ) -> Result<Option<String>, String> {
        let body = response.json();
        let code = lenient::text(&body, "/errcode");
        if plan.purpose == "register" && code == "M_USER_IN_USE" {
            return Ok(None);
        }
        if response.is_success() {
            return Ok(lenient::some_text(&body, "/user_id").filter(|_| plan.purpose == "whoami"));
        }
        Err(match code.as_str() {
            "M_UNKNOWN_TOKEN" | "M_MISSING_TOKEN" => {
                "the homeserver does not know the as_token: is the registration file installed, and \
                 was the homeserver started again?"
                    .to_owned()
            }
            "M_EXCLUSIVE" | "M_FORBIDDEN" => {
                "the user is not in the namespace of the registration file".to_owned()
            }
            "M_BAD_STATUS" | "M_CONNECTION_FAILED" | "M_CONNECTION_TIMEOUT" => format!(
                "the homeserver does not reach this platform at the registration file's url: {}",
                lenient::text(&body, "/error")
            ),
            _ => format!("the homeserver answers: {}", response.excerpt()),
        })
    }

    fn typing(&self, config: &ChannelConfig, thread: &str) -> Option<HttpPlan> {
        let user = config.setting("user_id")?;
        let room = thread.split(' ').next()?;
        let path = format!("rooms/{}/typing/{}", encoded(room), encoded(user));
        let body = json!({"typing": true, "timeout": 20_000});
        Some(HttpPlan::post_json("typing", client(config, &path), &body).method("PUT"))
            .map(|plan| signed(config, plan))
    }

    fn preview(
        &self,
        config: &ChannelConfig,
        thread: &str,
        preview: &Preview<'_>,
    ) -> Option<HttpPlan> {
        Some(write::preview(config, thread, preview))
    }

    fn acknowledge(&self, config: &ChannelConfig, event: &Event) -> Option<HttpPlan> {
        let room = read::invitation(config, &event.raw)?;
        let url = client(config, &format!("join/{}", encoded(&room)));
        Some(signed(config, HttpPlan::post_json("join", url, &json!({}))))
    }

    fn fetch(&self, config: &ChannelConfig, media: &Media) -> Option<HttpPlan> {
        let (server, id) = media.external_id.as_deref()?.strip_prefix("mxc://")?.split_once('/')?;
        let path = format!("/_matrix/client/v1/media/download/{}/{}", encoded(server), encoded(id));
        let url = as_user(config, &(homeserver(config) + &path));
        let plan = HttpPlan { answer_max: 50 << 20, ..HttpPlan::get("media", url) };
        Some(signed(config, plan))
    }
}

/// The registration file that tells a homeserver of this channel; `id` is a name of the operator's
/// choice. `None` if the channel is not set up.
pub fn registration(config: &ChannelConfig, id: &str) -> Option<String> {
    let user = config.setting("user_id")?;
    let name = user.trim_start_matches('@').split(':').next()?;
    let file = json!({
        "id": id,
        "url": config.inbound_url,
        "as_token": config.secret("as_token").ok()?,
        "hs_token": config.secret("hs_token").ok()?,
        "sender_localpart": name,
        "rate_limited": false,
        "receive_ephemeral": true,
        "namespaces": {
            "users": [{"exclusive": true, "regex": regex_of(user)}], "aliases": [], "rooms": [],
        },
    });
    // JSON is YAML, and says exactly what is meant.
    serde_json::to_string_pretty(&file).ok().map(|text| text + "\n")
}

/// An expression that matches a user's id and nothing else.
fn regex_of(user: &str) -> String {
    let escaped = user.chars().map(|letter| {
        if letter.is_ascii_alphanumeric() || matches!(letter, '@' | ':' | '_' | '=' | '-' | '/') {
            letter.to_string()
        } else {
            format!("\\{letter}")
        }
    });
    escaped.collect()
}

fn homeserver(config: &ChannelConfig) -> String {
    config.address("homeserver_url", "http://localhost")
}

/// A path of the client API, asked for as the assistant's user.
fn client(config: &ChannelConfig, path: &str) -> String {
    as_user(config, &format!("{}/_matrix/client/v3/{path}", homeserver(config)))
}

fn as_user(config: &ChannelConfig, url: &str) -> String {
    format!("{url}?user_id={}", encoded(config.setting("user_id").unwrap_or_default()))
}

fn signed(config: &ChannelConfig, plan: HttpPlan) -> HttpPlan {
    plan.bearer(config.secret("as_token").unwrap_or_default())
}

/// A text as one segment of a path.
fn encoded(text: &str) -> String {
    url::form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>().replace('+', "%20")
}

fn percent_decoded(text: &str) -> String {
    // Nothing is a `+` in a path.
    let pair = format!("x={}", text.replace('+', "%2B").replace('&', "%26"));
    let mut pairs = url::form_urlencoded::parse(pair.as_bytes());
    pairs.next().map(|(_, value)| value.into_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests;

//! Discord: an app with a bot. Commands and pressed buttons come as signed requests; messages come
//! over the gateway's socket alone. What was acknowledged can be answered for a quarter of an hour
//! under its own token, later as a message of the bot.

use ed25519_dalek::{Signature, VerifyingKey};
use jiff::Timestamp;
use qudao_core::channel::{
    adapter::{
        Answer, ChannelAdapter, Failure, Fetched, Outcome, Outgoing, Parsed, Preview, RawRequest,
        Reject,
    },
    config::{ChannelConfig, Manifest},
    event::Event,
    plan::{HttpPlan, Plan, RawResponse},
    session::{ChannelSession, OpenError, SessionAdapter},
};
use qudao_domain::{capability::Capabilities, message::Media};
use serde_json::{Value, json};

use crate::wire;

mod answer;
mod event;
mod manifest;
mod send;
mod session;
#[cfg(test)]
mod tests;

/// The adapter.
pub struct Discord;

/// The kinds of interactions.
const PING: i64 = 1;
const AUTOCOMPLETE: i64 = 4;

impl ChannelAdapter for Discord {
    fn manifest(&self) -> &'static Manifest {
        &manifest::MANIFEST
    }

    fn capabilities(&self, _config: &ChannelConfig) -> Capabilities {
        manifest::capabilities()
    }

    fn check(&self, config: &ChannelConfig) -> Result<(), (&'static str, String)> {
        if config.setting("public_key").is_some() && public_key(config).is_err() {
            let why = "the public key has 64 digits, 0 to 9 and a to f".to_owned();
            return Err(("public_key", why));
        }
        let id = config.setting("application_id").unwrap_or_default();
        if !id.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(("application_id", "the application's id has digits alone".to_owned()));
        }
        let command = manifest::command(config);
        let plain = |letter: char| letter == '-' || letter == '_' || letter.is_alphanumeric();
        if 32 < command.chars().count() || !command.chars().all(plain) {
            let why = "a command has at most 32 letters and digits, and no spaces".to_owned();
            return Err(("command", why));
        }
        Ok(())
    }

    fn verify_and_parse(
        &self,
        config: &ChannelConfig,
        request: &RawRequest,
        now: Timestamp,
    ) -> Result<Parsed, Reject> {
        verify(config, request, now)?;
        let body = wire::json(&request.body)?;
        if body.get("event").is_some() || body.get("version").is_some() {
            // Events of the application itself: Discord wants no words in the answer.
            let answer = Answer { status: 204, ..Answer::ok() };
            let ping = body.get("type").and_then(Value::as_i64) == Some(0);
            let name = wire::text(&body, "/event/type").unwrap_or("application_event");
            let events = if ping { Vec::new() } else { vec![wire::stored(name, &body)] };
            return Ok(Parsed { events, answer, patience: None });
        }
        let kind = body.get("type").and_then(Value::as_i64).unwrap_or_default();
        if kind == PING {
            return Ok(Parsed::answer(Answer::json(&json!({ "type": 1 }))));
        }
        let answer = match kind {
            AUTOCOMPLETE => json!({ "type": 8, "data": { "choices": [] } }),
            // "Thinks…", until the answer takes its place.
            _ => json!({ "type": 5 }),
        };
        let events = vec![event::interaction(&body, body.clone())];
        Ok(Parsed { events, answer: Answer::json(&answer), patience: None })
    }

    fn render(&self, config: &ChannelConfig, out: &Outgoing<'_>) -> Result<Vec<Plan>, Failure> {
        send::render(config, out)
    }

    fn classify(&self, config: &ChannelConfig, plan: &Plan, response: &RawResponse) -> Outcome {
        answer::classify(config, plan, response)
    }

    /// Who the bot is; its command, which is made anew or stays as it is; and where Discord sends
    /// interactions, which it tries at once.
    fn connect(&self, config: &ChannelConfig) -> Vec<HttpPlan> {
        let known = send::as_bot(config, "connect", "applications/@me", None);
        let id = config.setting("application_id").unwrap_or_default();
        let command = json!({ "name": manifest::command(config), "type": 1,
            "description": "Ask the assistant", "description_localizations": { "zh-CN": "向助手提问" },
            "options": [{ "type": 3, "name": "question", "description": "What you want to know",
                "description_localizations": { "zh-CN": "您想知道什么" }, "required": true }] });
        let path = format!("applications/{id}/commands");
        let command = send::as_bot(config, "command", &path, Some(&command));
        let address = json!({ "interactions_endpoint_url": config.inbound_url });
        let address = send::as_bot(config, "endpoint", "applications/@me", Some(&address));
        // Discord takes an address over TLS alone.
        let address = address.filter(|_| config.inbound_url.starts_with("https://"));
        known.into_iter().chain(command).chain(address.map(|plan| plan.method("PATCH"))).collect()
    }

    fn connected(
        &self,
        config: &ChannelConfig,
        plan: &HttpPlan,
        response: &RawResponse,
    ) -> Result<Option<String>, String> {
        answer::connected(config, plan, response)
    }

    fn typing(&self, config: &ChannelConfig, thread: &str) -> Option<HttpPlan> {
        send::is_id(thread).then_some(())?;
        send::as_bot(config, "typing", &format!("channels/{thread}/typing"), Some(&json!({})))
    }

    fn preview(
        &self,
        config: &ChannelConfig,
        thread: &str,
        preview: &Preview<'_>,
    ) -> Option<HttpPlan> {
        send::preview(config, thread, preview)
    }

    /// What came over the socket has no answer of its own: it is acknowledged by a request.
    fn acknowledge(&self, config: &ChannelConfig, event: &Event) -> Option<HttpPlan> {
        send::acknowledge(config, &event.raw)
    }

    /// Files are at addresses that need no token and do not last.
    fn fetch(&self, config: &ChannelConfig, media: &Media) -> Option<HttpPlan> {
        let address = media.external_id.as_deref()?;
        let known = wire::is_within(address, &["discordapp.com", "discordapp.net"])
            || wire::same_origin(address, &manifest::api(config));
        known.then(|| HttpPlan::get("file", address).file())
    }

    fn fetched(&self, _config: &ChannelConfig, response: &RawResponse) -> Fetched {
        if response.is_success() {
            Fetched::Bytes
        } else {
            Fetched::Failed(format!("Discord answered {} for a file", response.status))
        }
    }
}

impl SessionAdapter for Discord {
    fn locate(&self, config: &ChannelConfig) -> Option<HttpPlan> {
        send::as_bot(config, "gateway", "gateway/bot", None)
    }

    fn open(
        &self,
        config: &ChannelConfig,
        located: Option<&RawResponse>,
        kept: Option<&Value>,
    ) -> Result<Box<dyn ChannelSession>, OpenError> {
        session::open(config, located, kept)
    }
}

fn public_key(config: &ChannelConfig) -> Result<VerifyingKey, Reject> {
    const MISSING: Reject = Reject::NotConfigured("public_key");
    let digits = config.setting("public_key").ok_or(MISSING)?;
    let mut key = [0; 32];
    hex::decode_to_slice(digits.trim(), &mut key).map_err(|_| MISSING)?;
    VerifyingKey::from_bytes(&key).map_err(|_| MISSING)
}

/// Ed25519 over time and body. Discord sends wrong signatures on purpose and wants 401 for them.
fn verify(config: &ChannelConfig, request: &RawRequest, now: Timestamp) -> Result<(), Reject> {
    let key = public_key(config)?;
    if request.method != "POST" {
        return Err(Reject::MethodNotAllowed);
    }
    let signed_at = request.header("x-signature-timestamp");
    let signed_at = signed_at.ok_or(Reject::Unauthorized("no x-signature-timestamp"))?;
    let given = request.header("x-signature-ed25519");
    let given = given.ok_or(Reject::Unauthorized("no x-signature-ed25519"))?;
    if !wire::is_fresh(signed_at, now) {
        return Err(Reject::Unauthorized("its time is too far from now"));
    }
    let mut signature = [0; 64];
    hex::decode_to_slice(given, &mut signature)
        .map_err(|_| Reject::Unauthorized("the signature has not 128 digits"))?;
    let signed = [signed_at.as_bytes(), &request.body].concat();
    key.verify_strict(&signed, &Signature::from_bytes(&signature))
        .map_err(|_| Reject::Unauthorized("the key does not make this signature"))
}

//! Slack: an app of a workspace. Events, pressed buttons and commands come to one address; answers
//! go out through the Web API. Slack waits three seconds for an acknowledgement and repeats three
//! times, so nothing is answered within the request.

use jiff::Timestamp;
use qudao_core::channel::{
    adapter::{
        Answer, ChannelAdapter, Failure, Fetched, Outcome, Outgoing, Parsed, Preview, RawRequest,
        Reject,
    },
    config::{ChannelConfig, Manifest},
    plan::{HttpPlan, Plan, RawResponse},
};
use qudao_domain::{capability::Capabilities, message::Media};
use serde_json::Value;

use crate::{
    signature::{any, hmac_sha256},
    wire,
};

mod answer;
mod event;
mod files;
mod manifest;
mod send;
#[cfg(test)]
mod tests;

/// The adapter.
pub struct Slack;

impl ChannelAdapter for Slack {
    fn manifest(&self) -> &'static Manifest {
        &manifest::MANIFEST
    }

    fn capabilities(&self, _config: &ChannelConfig) -> Capabilities {
        manifest::capabilities()
    }

    fn check(&self, config: &ChannelConfig) -> Result<(), (&'static str, String)> {
        let token = config.secret("bot_token").unwrap_or_default();
        // An app has tokens of several kinds, and an emulator its own.
        if !token.is_empty() && !token.starts_with("xoxb-") && config.setting("api_url").is_none() {
            let why = "this is another kind of token: the bot's begins with xoxb-".to_owned();
            return Err(("bot_token", why));
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
        let body = match form(request)? {
            Some(command) => command,
            None => wire::json(&request.body)?,
        };
        if wire::text(&body, "/type") == Some("url_verification") {
            let challenge = wire::text(&body, "/challenge");
            let challenge = challenge.ok_or(Reject::Malformed("there is no challenge"))?;
            return Ok(Parsed::answer(Answer::text(challenge)));
        }
        Ok(Parsed::events(event::read(body)))
    }

    fn render(&self, config: &ChannelConfig, out: &Outgoing<'_>) -> Result<Vec<Plan>, Failure> {
        send::render(config, out)
    }

    fn classify(&self, config: &ChannelConfig, plan: &Plan, response: &RawResponse) -> Outcome {
        answer::classify(config, plan, response)
    }

    fn connect(&self, config: &ChannelConfig) -> Vec<HttpPlan> {
        let plan = send::call(config, "auth.test", "connect", &Value::Object(Default::default()));
        plan.into_iter().collect()
    }

    fn connected(
        &self,
        _config: &ChannelConfig,
        _plan: &HttpPlan,
        response: &RawResponse,
    ) -> Result<Option<String>, String> {
        answer::connected(response)
    }

    fn preview(
        &self,
        config: &ChannelConfig,
        thread: &str,
        preview: &Preview<'_>,
    ) -> Option<HttpPlan> {
        send::preview(config, thread, preview)
    }

    /// Events name the file's address, which only the app's token opens.
    fn fetch(&self, config: &ChannelConfig, media: &Media) -> Option<HttpPlan> {
        let address = media.external_id.as_deref()?;
        let known = event::is_slacks(address) || wire::same_origin(address, &send::api(config));
        let token = config.secret("bot_token").ok()?;
        known.then(|| HttpPlan::get("file", address).file().bearer(token))
    }

    /// Without the scope `files:read` Slack leads to a page for signing in.
    fn fetched(&self, _config: &ChannelConfig, response: &RawResponse) -> Fetched {
        if response.is_success() {
            return Fetched::Bytes;
        }
        let hint = "the app may lack the scope files:read";
        Fetched::Failed(format!("Slack answered {} for a file: {hint}", response.status))
    }
}

/// `v0=` and the HMAC of version, time and body, in lower-case hexadecimal digits.
fn verify(config: &ChannelConfig, request: &RawRequest, now: Timestamp) -> Result<(), Reject> {
    let secrets = config.candidates("signing_secret")?;
    if request.method != "POST" {
        return Err(Reject::MethodNotAllowed);
    }
    let signed_at = request.header("x-slack-request-timestamp");
    let signed_at = signed_at.ok_or(Reject::Unauthorized("no x-slack-request-timestamp"))?;
    let given = request.header("x-slack-signature");
    let given = given.ok_or(Reject::Unauthorized("no x-slack-signature"))?;
    if !wire::is_fresh(signed_at, now) {
        return Err(Reject::Unauthorized("its time is too far from now"));
    }
    let made = |secret: &str| {
        let parts: [&[u8]; 4] = [b"v0:", signed_at.as_bytes(), b":", &request.body];
        format!("v0={}", hex::encode(hmac_sha256(secret.as_bytes(), &parts))).into_bytes()
    };
    if any(secrets, given.as_bytes(), made) {
        Ok(())
    } else {
        Err(Reject::Unauthorized("no secret makes this signature"))
    }
}

/// What came as a form: a pressed button's JSON in its field `payload`, or a command's fields.
fn form(request: &RawRequest) -> Result<Option<Value>, Reject> {
    let kind = request.header("content-type").unwrap_or_default();
    if !kind.starts_with("application/x-www-form-urlencoded") {
        return Ok(None);
    }
    let mut fields = serde_json::Map::new();
    for (name, value) in url::form_urlencoded::parse(&request.body) {
        if name == "payload" {
            return wire::json(value.as_bytes()).map(Some);
        }
        fields.insert(name.into_owned(), Value::String(value.into_owned()));
    }
    if fields.is_empty() {
        Err(Reject::Malformed("the form is empty"))
    } else {
        Ok(Some(Value::Object(fields)))
    }
}

//! LINE: an Official Account over the Messaging API. A reply token is free of charge, valid once
//! and for about a minute; what comes later is pushed, which the account pays for.

use jiff::Timestamp;
use qudao_core::channel::{
    adapter::{ChannelAdapter, Failure, Fetched, Outcome, Outgoing, Parsed, RawRequest, Reject},
    config::{ChannelConfig, Manifest},
    plan::{HttpPlan, Plan, RawResponse},
};
use qudao_domain::{capability::Capabilities, message::Media};
use serde_json::json;

use base64::{Engine as _, engine::general_purpose::STANDARD};

use crate::{
    signature::{any, hmac_sha256},
    wire,
};

mod answer;
mod event;
mod manifest;
mod send;
#[cfg(test)]
mod tests;

/// The adapter.
pub struct Line;

impl ChannelAdapter for Line {
    fn manifest(&self) -> &'static Manifest {
        &manifest::MANIFEST
    }

    fn capabilities(&self, _config: &ChannelConfig) -> Capabilities {
        manifest::capabilities()
    }

    fn verify_and_parse(
        &self,
        config: &ChannelConfig,
        request: &RawRequest,
        _now: Timestamp,
    ) -> Result<Parsed, Reject> {
        verify(config, request)?;
        Ok(Parsed::events(event::read(&wire::json(&request.body)?)))
    }

    fn render(&self, config: &ChannelConfig, out: &Outgoing<'_>) -> Result<Vec<Plan>, Failure> {
        send::render(config, out)
    }

    fn classify(&self, config: &ChannelConfig, plan: &Plan, response: &RawResponse) -> Outcome {
        answer::classify(config, plan, response)
    }

    fn connect(&self, config: &ChannelConfig) -> Vec<HttpPlan> {
        let Ok(token) = config.secret("access_token") else { return Vec::new() };
        let api = manifest::api(config);
        let known = HttpPlan::get("connect", format!("{api}/v2/bot/info")).bearer(token);
        let webhook = format!("{api}/v2/bot/channel/webhook/endpoint");
        let address = json!({ "endpoint": config.inbound_url });
        let webhook = HttpPlan::post_json("webhook", webhook, &address).method("PUT").bearer(token);
        // LINE takes an address over TLS alone.
        let reachable = config.inbound_url.starts_with("https://");
        std::iter::once(known).chain(reachable.then_some(webhook)).collect()
    }

    fn connected(
        &self,
        _config: &ChannelConfig,
        plan: &HttpPlan,
        response: &RawResponse,
    ) -> Result<Option<String>, String> {
        answer::connected(plan, response)
    }

    /// LINE shows it in a conversation with one person alone.
    fn typing(&self, config: &ChannelConfig, thread: &str) -> Option<HttpPlan> {
        thread.starts_with('U').then_some(())?;
        let token = config.secret("access_token").ok()?;
        let url = format!("{}/v2/bot/chat/loading/start", manifest::api(config));
        let body = json!({ "chatId": thread, "loadingSeconds": manifest::TYPING_S });
        Some(HttpPlan::post_json("typing", url, &body).bearer(token))
    }

    fn fetch(&self, config: &ChannelConfig, media: &Media) -> Option<HttpPlan> {
        let id = media.external_id.as_deref()?;
        id.bytes().all(|byte| byte.is_ascii_alphanumeric()).then_some(())?;
        let token = config.secret("access_token").ok()?;
        let url = format!("{}/v2/bot/message/{id}/content", manifest::data(config));
        Some(HttpPlan::get("file", url).file().bearer(token))
    }

    /// Sounds and films are prepared first: 202 until then.
    fn fetched(&self, _config: &ChannelConfig, response: &RawResponse) -> Fetched {
        match response.status {
            202 => Fetched::Failed("LINE is still preparing the file".to_owned()),
            410 => Fetched::Failed("the file was taken back, or is gone by its age".to_owned()),
            _ if response.is_success() => Fetched::Bytes,
            status => Fetched::Failed(format!("LINE answered {status} for a file")),
        }
    }
}

/// The HMAC of the body as it came, in Base64. LINE signs no time; what comes again is known by
/// the ids in it.
fn verify(config: &ChannelConfig, request: &RawRequest) -> Result<(), Reject> {
    let secrets = config.candidates("channel_secret")?;
    if request.method != "POST" {
        return Err(Reject::MethodNotAllowed);
    }
    let given = request.header("x-line-signature");
    let given = given.ok_or(Reject::Unauthorized("no x-line-signature"))?;
    let made = |secret: &str| {
        STANDARD.encode(hmac_sha256(secret.as_bytes(), &[&request.body])).into_bytes()
    };
    if any(secrets, given.as_bytes(), made) {
        Ok(())
    } else {
        Err(Reject::Unauthorized("no secret makes this signature"))
    }
}

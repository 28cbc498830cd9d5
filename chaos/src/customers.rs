//! People who write over real adapters: to a bot of Telegram's, and by way of a partner.

use std::time::Duration;

use anyhow::Context as _;
use qudao_domain::{Clock as _, SystemClock};
use qudao_pcp::{Conversation, Event, Secret, Signer, VERSION, header, kind};
use qudao_testkit::TestTenant;
use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    plan::OPERATOR,
    platform::{Platform, Sent},
    stage::Stage,
};

/// A tenant's bot, as Telegram sees it.
#[derive(Debug, Clone)]
pub struct Bot {
    path: String,
    secret: String,
}

/// A partner's channel, as the partner sees it.
#[derive(Debug, Clone)]
pub struct Partner {
    path: String,
    bearer: String,
    signer: Signer,
}

async fn channel(
    stage: &Stage,
    tenant: &TestTenant,
    kind: &str,
    more: (Value, Value),
) -> anyhow::Result<String> {
    let base = format!("/v1/tenants/{}/channels", tenant.id);
    let body = json!({ "name": "Chaos", "kind": kind, "settings": more.0, "secrets": more.1,
        "assistant_id": tenant.assistant_id.to_string() });
    let made = stage.platform.ask((Method::POST, &base), OPERATOR, Some(&body)).await?;
    Ok(made["id"].as_str().context("a channel's id")?.to_owned())
}

impl Bot {
    /// Makes one and connects it. A node has to live, and the run to have wires.
    ///
    /// # Errors
    /// If a node refuses.
    pub async fn make(stage: &Stage, tenant: &TestTenant) -> anyhow::Result<Self> {
        let wires = stage.wires.as_ref().context("wires")?;
        let token = format!("{}:AAchaos", rand::random::<u32>());
        let settings = json!({ "receive": "webhook", "api_url": wires.url() });
        let secrets = json!({ "bot_token": token });
        let id = channel(stage, tenant, "telegram", (settings, secrets)).await?;
        let path = format!("/v1/tenants/{}/channels/{id}/connect", tenant.id);
        stage.platform.ask((Method::POST, &path), OPERATOR, None).await?;
        let (url, secret) = wires.hook(&token).context("an address that Telegram was told")?;
        let path = url.find("/v1/inbound/").and_then(|at| url.get(at..)).context("an address")?;
        Ok(Self { path: path.to_owned(), secret })
    }

    /// Sends a person's only message, until it is acknowledged. The person and the message have the
    /// same number, so that an answer tells which message it is of.
    ///
    /// # Errors
    /// If the record cannot be written.
    pub async fn send(
        &self,
        platform: &Platform,
        number: u32,
        patience: Duration,
    ) -> anyhow::Result<Sent> {
        let update = json!({ "update_id": number, "message": {
            "message_id": number, "date": SystemClock.now().as_second(), "text": "what now",
            "from": { "id": number, "first_name": "Ada" },
            "chat": { "id": number, "type": "private" } } });
        platform
            .ring(&number.to_string(), patience, |http, door| {
                http.post(format!("http://{door}{}", self.path))
                    .header("x-telegram-bot-api-secret-token", &self.secret)
                    .json(&update)
            })
            .await
    }
}

impl Partner {
    /// Makes one whose endpoint is verified, out of the sandbox. A node has to live, and the run to
    /// have wires.
    ///
    /// # Errors
    /// If a node refuses.
    pub async fn make(stage: &Stage, tenant: &TestTenant) -> anyhow::Result<Self> {
        let wires = stage.wires.as_ref().context("wires")?;
        let id = channel(stage, tenant, "partner", (json!({}), json!({}))).await?;
        let of = |what: &str| format!("/v1/tenants/{}/channels/{id}/{what}", tenant.id);
        let keys = stage.platform.ask((Method::POST, &of("partner-keys")), OPERATOR, None).await?;
        let text = |name: &str| keys[name].as_str().context("a key").map(str::to_owned);
        let (bearer, secret) = (text("bearer_key")?, Secret::parse(&text("signing_secret")?)?);
        // Whether an endpoint outside of the sandbox may be here, the nodes' rules of the run say.
        stage.sql("UPDATE partner_channels SET sandbox = false, live_at = now()");
        let endpoint = json!({ "endpoint_url": format!("{}/events", wires.url()) });
        let path = of("partner-endpoint");
        stage.platform.ask((Method::PUT, &path), OPERATOR, Some(&endpoint)).await?;
        let path = format!("/v1/pcp/channels/{id}/endpoint:verify");
        stage.platform.ask((Method::POST, &path), &bearer, None).await?;
        let signer = Signer { secrets: vec![secret], private_keys: Vec::new() };
        Ok(Self { path: format!("/v1/pcp/channels/{id}/events"), bearer, signer })
    }

    /// Sends a message of somebody in `room`, until it is acknowledged: the same event each time,
    /// signed anew.
    ///
    /// # Errors
    /// If the record cannot be written.
    pub async fn send(
        &self,
        platform: &Platform,
        (room, message): (&str, &str),
        patience: Duration,
    ) -> anyhow::Result<Sent> {
        let data = json!({ "message": { "external_id": message,
            "parts": [{ "type": "text", "text": "what now" }] } });
        let mut event = Event::new(kind::MESSAGE_CREATED, SystemClock.now(), data);
        // A partner that sends a message again sends it under the id that it had.
        event.id = qudao_pcp::EventId::parse(&format!("evt_{message:0>16}"))?;
        event.time = Default::default();
        event.conversation =
            Some(Conversation { external_id: room.to_owned(), ..Conversation::default() });
        let body = event.to_bytes();
        platform
            .ring(message, patience, |http, door| {
                let now = SystemClock.now();
                let signature = self.signer.sign(&event.id, now, &body).unwrap_or_default();
                http.post(format!("http://{door}{}", self.path))
                    .bearer_auth(&self.bearer)
                    .header("content-type", "application/json")
                    .header(header::VERSION, VERSION)
                    .header(header::ID, event.id.as_str())
                    .header(header::TIMESTAMP, now.as_second())
                    .header(header::SIGNATURE, signature)
                    .body(body.clone())
            })
            .await
    }
}

//! Meta's three: WhatsApp (Cloud API), Messenger and Instagram. They share the signature, the
//! challenge and the errors; WhatsApp has its own messages, the other two have the same.

use jiff::Timestamp;
use qudao_core::channel::{
    adapter::{
        Answer, ChannelAdapter, Failure, FailureReason, Fetched, Outcome, Outgoing, Parsed,
        RawRequest, Reject,
    },
    config::{ChannelConfig, Manifest},
    event::{Event, EventBody},
    plan::{FormPart, HttpPlan, OwnFile, Plan, RawResponse},
};
use qudao_domain::{capability::Capabilities, message::Media};
use serde_json::{Value, json};

use crate::{
    signature::{any, hmac_sha256},
    wire,
};

mod answer;
mod cloud;
mod manifest;
mod marks;
mod page;
mod send;
#[cfg(test)]
mod tests;
mod whatsapp;

/// The adapters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meta {
    /// A number of the WhatsApp Business Platform.
    Whatsapp,
    /// A page's Messenger.
    Messenger,
    /// A professional account of Instagram.
    Instagram,
}

/// Where files are that Graph names.
const FILE_HOSTS: &[&str] =
    &["fbsbx.com", "fbcdn.net", "facebook.com", "whatsapp.net", "cdninstagram.com"];
/// For how many seconds after a person's last message they may be answered.
const WINDOW_S: u64 = 24 * 3600;

impl ChannelAdapter for Meta {
    fn manifest(&self) -> &'static Manifest {
        match self {
            Self::Whatsapp => &manifest::WHATSAPP,
            Self::Messenger => &manifest::MESSENGER,
            Self::Instagram => &manifest::INSTAGRAM,
        }
    }

    fn capabilities(&self, _config: &ChannelConfig) -> Capabilities {
        match self {
            Self::Whatsapp => manifest::whatsapp(),
            Self::Messenger => manifest::messenger(),
            Self::Instagram => manifest::instagram(),
        }
    }

    fn check(&self, config: &ChannelConfig) -> Result<(), (&'static str, String)> {
        manifest::check(*self, config)
    }

    fn reaches_phones(&self) -> bool {
        *self == Self::Whatsapp
    }

    fn phone_peer(&self, config: &ChannelConfig, digits: &str) -> Option<String> {
        (*self == Self::Whatsapp).then(|| whatsapp::thread(config, digits).external_id)
    }

    fn code(&self, config: &ChannelConfig, thread: &str, code: &str) -> Option<Plan> {
        let template = config.setting("code_template").filter(|_| *self == Self::Whatsapp)?;
        let language = config.setting("code_language").unwrap_or("en_US");
        let token = config.secret("access_token").ok()?;
        let body = cloud::code(thread, (template, language), code);
        Some(Plan::Http(
            HttpPlan::post_json("send", self.messages_url(config), &body).bearer(token),
        ))
    }

    fn verify_and_parse(
        &self,
        config: &ChannelConfig,
        request: &RawRequest,
        _now: Timestamp,
    ) -> Result<Parsed, Reject> {
        match request.method.as_str() {
            "GET" => challenge(config, request),
            "POST" => {
                verify(config, request)?;
                let body = wire::json(&request.body)?;
                let object = wire::text(&body, "/object").unwrap_or("unnamed");
                let events = match (self, object) {
                    (Self::Whatsapp, "whatsapp_business_account") => whatsapp::read(config, &body),
                    (Self::Messenger, "page") | (Self::Instagram, "instagram") => {
                        page::read(*self, config, &body)
                    }
                    (_, other) => vec![wire::stored(&format!("object_{other}"), &body)],
                };
                Ok(Parsed::events(events))
            }
            _ => Err(Reject::MethodNotAllowed),
        }
    }

    fn render(&self, config: &ChannelConfig, out: &Outgoing<'_>) -> Result<Vec<Plan>, Failure> {
        if let Some(answered) = out.answered {
            let age = out.now.duration_since(answered.at).unsigned_abs();
            if WINDOW_S < age.as_secs() {
                let detail = "the person's last message is more than 24 hours old".to_owned();
                return Err(Failure { reason: FailureReason::WindowClosed, detail });
            }
        }
        let bodies = match self {
            Self::Whatsapp => cloud::render(out)?,
            Self::Messenger | Self::Instagram => send::render(*self, out)?,
        };
        let token = config.secret("access_token").map_err(|_| Failure {
            reason: FailureReason::Auth,
            detail: "the access token is not set".to_owned(),
        })?;
        let url = self.messages_url(config);
        let own = out.message.parts.iter().find_map(|part| cloud::own(part.media()?));
        let plan = |body: &Value| {
            let plan = HttpPlan::post_json("send", &url, body).bearer(token);
            let file = own.as_ref().filter(|_| cloud::place_of_id(body).is_some());
            match file {
                Some(file) => upload(&url, file).bearer(token).then(plan),
                None => plan,
            }
        };
        Ok(bodies.iter().map(|body| Plan::Http(plan(body))).collect())
    }

    fn classify(&self, _config: &ChannelConfig, plan: &Plan, response: &RawResponse) -> Outcome {
        match plan {
            Plan::Http(HttpPlan { then: Some(next), .. }) => answer::uploaded(next, response),
            _ => answer::classify(response),
        }
    }

    fn connect(&self, config: &ChannelConfig) -> Vec<HttpPlan> {
        manifest::connect(*self, config)
    }

    fn connected(
        &self,
        config: &ChannelConfig,
        plan: &HttpPlan,
        response: &RawResponse,
    ) -> Result<Option<String>, String> {
        answer::connected(*self, config, plan, response)
    }

    fn typing(&self, config: &ChannelConfig, thread: &str) -> Option<HttpPlan> {
        // WhatsApp shows it with the receipt of a certain message: see `acknowledge`.
        (*self != Self::Whatsapp).then_some(())?;
        let token = config.secret("access_token").ok()?;
        let body = json!({ "recipient": { "id": thread }, "sender_action": "typing_on" });
        Some(HttpPlan::post_json("typing", self.messages_url(config), &body).bearer(token))
    }

    /// On WhatsApp: the message was seen, and "writes…" for 25 seconds or until the answer.
    fn acknowledge(&self, config: &ChannelConfig, event: &Event) -> Option<HttpPlan> {
        let asks = matches!(event.body, EventBody::Message { .. } | EventBody::Pressed { .. });
        (*self == Self::Whatsapp && asks && config.flag("mark_read", true)).then_some(())?;
        let id = wire::text(&event.raw, "/messages/0/id")?;
        let token = config.secret("access_token").ok()?;
        let body = json!({ "messaging_product": "whatsapp", "status": "read", "message_id": id,
            "typing_indicator": { "type": "text" } });
        Some(HttpPlan::post_json("seen", self.messages_url(config), &body).bearer(token))
    }

    /// WhatsApp names a file by its id and tells its address for five minutes; the others name an
    /// address that needs no token and does not last.
    fn fetch(&self, config: &ChannelConfig, media: &Media) -> Option<HttpPlan> {
        let id = media.external_id.as_deref()?;
        if *self == Self::Whatsapp {
            let plain = id.bytes().all(|byte| byte.is_ascii_alphanumeric());
            let token = config.secret("access_token").ok()?;
            let url = format!("{}/{id}", manifest::graph(*self, config));
            return plain.then(|| HttpPlan::get("media", url).bearer(token));
        }
        let known = wire::is_within(id, FILE_HOSTS)
            || wire::same_origin(id, &manifest::graph(*self, config));
        known.then(|| HttpPlan::get("file", id).file())
    }

    fn fetched(&self, config: &ChannelConfig, response: &RawResponse) -> Fetched {
        if !response.is_success() {
            return Fetched::Failed(format!("Meta answered {} for a file", response.status));
        }
        if *self != Self::Whatsapp {
            return Fetched::Bytes;
        }
        let body = response.json();
        if wire::text(&body, "/messaging_product") != Some("whatsapp") {
            return Fetched::Bytes;
        }
        // A person may send a file that looks like this answer: the token goes to Meta alone.
        let Some(address) = wire::text(&body, "/url") else { return Fetched::Bytes };
        let known = wire::is_within(address, FILE_HOSTS)
            || wire::same_origin(address, &manifest::graph(*self, config));
        match config.secret("access_token") {
            Ok(token) if known => {
                Fetched::Then(HttpPlan::get("file", address).file().bearer(token))
            }
            _ => Fetched::Bytes,
        }
    }
}

impl Meta {
    fn messages_url(self, config: &ChannelConfig) -> String {
        let graph = manifest::graph(self, config);
        let from = match self {
            Self::Whatsapp => config.setting("phone_number_id").unwrap_or_default(),
            Self::Messenger | Self::Instagram => "me",
        };
        format!("{graph}/{from}/messages")
    }
}

/// The request that puts a file into WhatsApp's keeping, beside the messages' address.
fn upload(messages_url: &str, file: &OwnFile) -> HttpPlan {
    let base = messages_url.strip_suffix("/messages").unwrap_or(messages_url);
    let parts = vec![
        FormPart::text("messaging_product", "whatsapp"),
        FormPart::text("type", file.mime.clone()),
        FormPart::file("file", file.clone()),
    ];
    HttpPlan::post_form("upload", format!("{base}/media"), parts)
}

/// Meta asks whether the address is ours, once, when it is entered.
fn challenge(config: &ChannelConfig, request: &RawRequest) -> Result<Parsed, Reject> {
    let tokens = config.candidates("verify_token")?;
    let given = request.parameter("hub.verify_token");
    let given = given.ok_or(Reject::Unauthorized("no hub.verify_token"))?;
    if !any(tokens, given.as_bytes(), |token| token.as_bytes().to_vec()) {
        return Err(Reject::Unauthorized("another hub.verify_token"));
    }
    if request.parameter("hub.mode").as_deref() != Some("subscribe") {
        return Err(Reject::Malformed("hub.mode is not subscribe"));
    }
    let challenge = request.parameter("hub.challenge");
    let challenge = challenge.ok_or(Reject::Malformed("no hub.challenge"))?;
    Ok(Parsed::answer(Answer::text(challenge)))
}

/// `sha256=` and the HMAC of the body as it came, in lower-case hexadecimal digits. Meta signs no
/// time; what comes again is known by the ids in it.
fn verify(config: &ChannelConfig, request: &RawRequest) -> Result<(), Reject> {
    let secrets = config.candidates("app_secret")?;
    let given = request.header("x-hub-signature-256");
    let given = given.ok_or(Reject::Unauthorized("no x-hub-signature-256"))?;
    let made = |secret: &str| {
        let mac = hmac_sha256(secret.as_bytes(), &[&request.body]);
        format!("sha256={}", hex::encode(mac)).into_bytes()
    };
    if any(secrets, given.as_bytes(), made) {
        Ok(())
    } else {
        Err(Reject::Unauthorized("no secret makes this signature"))
    }
}

//! What Graph's answers mean. The numbers are those of the error references of the Graph API, the
//! Cloud API and the Messenger Platform.

use qudao_core::channel::{
    adapter::{FailureReason, Outcome},
    config::ChannelConfig,
    plan::{HttpPlan, Plan, RawResponse},
};
use serde_json::Value;

use super::{Meta, cloud, manifest};
use crate::wire::{id, text};

pub(super) fn classify(response: &RawResponse) -> Outcome {
    let body = response.json();
    let number = |at: &str| body.pointer(at).and_then(Value::as_i64).unwrap_or_default();
    let (code, detail) = (number("/error/code"), number("/error/error_subcode"));
    if response.is_success() && body.pointer("/error").is_none() {
        let external_id = id(&body, "/messages/0/id").or_else(|| id(&body, "/message_id"));
        return Outcome::Sent { external_id };
    }
    let words = words(&body, response);
    let passing = body.pointer("/error/is_transient") == Some(&Value::Bool(true));
    if response.status == 429 || response.status >= 500 || passing {
        return Outcome::Retry { after: response.retry_after(), detail: words };
    }
    match why(code, detail, response.status) {
        Some(reason) => Outcome::failed(reason, words),
        None => Outcome::Retry { after: response.retry_after(), detail: words },
    }
}

/// What the answer to an upload means: the message that waits for its id.
pub(super) fn uploaded(next: &HttpPlan, response: &RawResponse) -> Outcome {
    let sent: Value = serde_json::from_slice(&next.body).unwrap_or_default();
    let place = cloud::place_of_id(&sent);
    match (id(&response.json(), "/id"), place) {
        (Some(id), Some(place)) if response.is_success() => {
            let next = next.clone().filled(&place, Value::String(id));
            Outcome::Then(vec![Plan::Http(next)])
        }
        _ if response.is_success() => Outcome::retry(response.excerpt()),
        _ => classify(response),
    }
}

/// Why it can never be sent; `None` if it can later.
fn why(code: i64, detail: i64, status: u16) -> Option<FailureReason> {
    use FailureReason as Why;
    Some(match (code, detail) {
        // Too fast, by the app, the account, the number or the pair of two numbers; not ready.
        (1 | 2 | 4 | 17 | 32 | 341 | 613 | 1200 | 80_007, _)
        | (130_429 | 131_000 | 131_016 | 131_048 | 131_056 | 131_057 | 133_004, _) => return None,
        (10, 2_018_278 | 2_534_022) | (131_047, _) => Why::WindowClosed,
        (551, _) | (200, 1_545_041) | (131_050, _) => Why::Blocked,
        (100, 2_018_001 | 2_534_014) | (131_026 | 131_030 | 133_010, _) => Why::RecipientUnknown,
        (131_051, _) => Why::Unsupported,
        (131_052 | 131_053, _) | (100, 2_018_008 | 2_018_047) | (546, _) => Why::MediaRejected,
        (368 | 130_472 | 130_497 | 131_031 | 131_049, _) => Why::Policy,
        (0 | 3 | 10 | 102 | 190 | 200..=299 | 131_005, _) if status != 404 => Why::Auth,
        _ => Why::ProviderError,
    })
}

fn words(body: &Value, response: &RawResponse) -> String {
    let Some(said) = text(body, "/error/message") else { return response.excerpt() };
    match text(body, "/error/error_data/details") {
        Some(details) => format!("{said}: {details}"),
        None => said.to_owned(),
    }
}

/// As whom the channel speaks, or what is wrong with its settings.
pub(super) fn connected(
    kind: Meta,
    config: &ChannelConfig,
    plan: &HttpPlan,
    response: &RawResponse,
) -> Result<Option<String>, String> {
    let body = response.json();
    if !response.is_success() || body.pointer("/error").is_some() {
        let words = words(&body, response);
        return Err(match body.pointer("/error/code").and_then(Value::as_i64) {
            Some(190) => format!(
                "Meta does not take this access token; make a new one, for good by a system user: \
                 {words}"
            ),
            Some(100) if kind == Meta::Whatsapp => format!(
                "Meta does not know this phone number ID (it is not the number itself), or the \
                 token may not use it: {words}"
            ),
            Some(10 | 200..=299) => format!("the token lacks a permission: {words}"),
            _ => format!("Meta answers: {words}"),
        });
    }
    if plan.purpose != "connect" {
        return Ok(None);
    }
    let own = config.setting(manifest::account(kind)).unwrap_or_default();
    let told = match kind {
        Meta::Whatsapp => return Ok(whatsapp_name(&body)),
        Meta::Messenger => id(&body, "/id"),
        Meta::Instagram => id(&body, "/user_id"),
    };
    match told {
        Some(told) if told != own => {
            Err(format!("the token is one of the account {told}, and the setting says {own}"))
        }
        _ => Ok(["/name", "/username"].iter().find_map(|at| text(&body, at)).map(str::to_owned)),
    }
}

fn whatsapp_name(body: &Value) -> Option<String> {
    let number = text(body, "/display_phone_number")?;
    Some(match text(body, "/verified_name") {
        Some(name) => format!("{name} ({number})"),
        None => number.to_owned(),
    })
}

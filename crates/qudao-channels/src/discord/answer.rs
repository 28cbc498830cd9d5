//! What Discord's answers mean. The numbers are those of its JSON error codes.

use std::time::Duration;

use qudao_core::channel::{
    adapter::{FailureReason, Outcome},
    config::ChannelConfig,
    plan::{HttpPlan, Plan, RawResponse},
};
use serde_json::Value;

use super::send;
use crate::wire::{id, text};

pub(super) fn classify(config: &ChannelConfig, plan: &Plan, response: &RawResponse) -> Outcome {
    use FailureReason as Why;
    let Plan::Http(plan) = plan else {
        return Outcome::failed(Why::Unsupported, "Discord is asked over HTTP alone");
    };
    let body = response.json();
    if response.is_success() {
        return Outcome::Sent { external_id: id(&body, "/id") };
    }
    let code = body.pointer("/code").and_then(Value::as_i64).unwrap_or_default();
    let said = text(&body, "/message").map_or_else(|| response.excerpt(), str::to_owned);
    if response.status == 429 {
        return Outcome::Retry { after: wait(&body, response), detail: said };
    }
    if response.status >= 500 {
        return Outcome::retry(said);
    }
    if plan.purpose == "withdraw" {
        // Whatever became of it, the answer is there.
        return Outcome::Sent { external_id: None };
    }
    let answers = ["original", "follow_up"].contains(&plan.purpose);
    let gone = plan.purpose == "edit" && response.status == 404;
    // The interaction's token is not valid any more, or was never acknowledged.
    if gone || answers && matches!(response.status, 401 | 403 | 404) {
        return match send::instead(config, plan) {
            Some(message) => Outcome::Then(vec![Plan::Http(message)]),
            None => Outcome::failed(Why::Expired, said),
        };
    }
    let why = match (response.status, code) {
        (_, 50_007 | 50_278) => Why::Blocked,
        (_, 10_003 | 10_004 | 10_013 | 50_001 | 50_024) => Why::RecipientUnknown,
        (_, 40_005) => Why::MediaRejected,
        (_, 50_013 | 160_002 | 200_000 | 240_000 | 20_022 | 40_062) => Why::Policy,
        (_, 50_006) => Why::Unsupported,
        (401, _) | (_, 40_001 | 50_014) => Why::Auth,
        (_, 50_035) if said_too_long(&body) => Why::TooLong,
        _ => Why::ProviderError,
    };
    Outcome::failed(why, said)
}

fn said_too_long(body: &Value) -> bool {
    let errors = body.pointer("/errors/content/_errors/0/code").and_then(Value::as_str);
    errors == Some("BASE_TYPE_MAX_LENGTH")
}

/// Discord says it in seconds with a fraction.
fn wait(body: &Value, response: &RawResponse) -> Option<Duration> {
    let told = body.pointer("/retry_after").and_then(Value::as_f64);
    let told = told.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    told.or_else(|| response.retry_after())
}

/// As whom the bot speaks, or what is wrong with its settings.
pub(super) fn connected(
    config: &ChannelConfig,
    plan: &HttpPlan,
    response: &RawResponse,
) -> Result<Option<String>, String> {
    let body = response.json();
    if response.status == 401 {
        return Err("Discord does not take this bot token: reset it on the Bot page of the \
                    developer portal and copy the new one"
            .to_owned());
    }
    if !response.is_success() {
        let said = text(&body, "/message").map_or_else(|| response.excerpt(), str::to_owned);
        return Err(match plan.purpose {
            "endpoint" => {
                format!("Discord tried this channel's address and it did not pass: {said}")
            }
            "command" => format!("Discord does not take the command: {said}"),
            _ => format!("Discord answers: {said}"),
        });
    }
    if plan.purpose != "connect" {
        return Ok(None);
    }
    let own = config.setting("application_id").unwrap_or_default();
    if let Some(told) = id(&body, "/id")
        && told != own
    {
        return Err(format!("the token is of the application {told}, and the setting says {own}"));
    }
    let key = config.setting("public_key").unwrap_or_default();
    if text(&body, "/verify_key").is_some_and(|told| told != key) {
        return Err("the public key is another than the one of this application: copy it from \
                    General Information"
            .to_owned());
    }
    let name = ["/bot/username", "/name"].iter().find_map(|at| text(&body, at));
    Ok(name.map(str::to_owned))
}

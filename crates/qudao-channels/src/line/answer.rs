//! What LINE's answers mean.

use qudao_core::channel::{
    adapter::{FailureReason, Outcome},
    config::ChannelConfig,
    plan::{HttpPlan, Plan, RawResponse},
};

use super::send;
use crate::wire::{id, text};

pub(super) fn classify(config: &ChannelConfig, plan: &Plan, response: &RawResponse) -> Outcome {
    let body = response.json();
    let said = text(&body, "/message").unwrap_or_default();
    // 409: a request with the same retry key came before; LINE names it once that one was taken.
    let named = response.header("x-line-accepted-request-id").is_some();
    let taken_before = named || said.contains("already accepted");
    if response.is_success() || (response.status == 409 && taken_before) {
        return Outcome::Sent { external_id: id(&body, "/sentMessages/0/id") };
    }
    let detail = text(&body, "/details/0/message");
    let words = [said, detail.unwrap_or_default()].join(" ");
    let words = if words.trim().is_empty() { response.excerpt() } else { words.trim().to_owned() };
    match response.status {
        400 if said.contains("reply token") => {
            let Plan::Http(plan) = plan else { return rejected(words) };
            match send::instead(config, plan) {
                Some(push) => Outcome::Then(vec![Plan::Http(push)]),
                None => rejected(words),
            }
        }
        400 if said.contains("'to'") || said.contains("user hasn't added") => {
            Outcome::failed(FailureReason::RecipientUnknown, words)
        }
        // Not the rate: the account's messages of this month are used up.
        429 if said.contains("monthly limit") => Outcome::failed(FailureReason::Policy, words),
        // The first request is still under way, and may yet fail.
        409 | 429 => Outcome::Retry { after: response.retry_after(), detail: words },
        401 | 403 => Outcome::failed(FailureReason::Auth, words),
        404 => Outcome::failed(FailureReason::RecipientUnknown, words),
        413 => Outcome::failed(FailureReason::TooLong, words),
        status if status >= 500 => Outcome::retry(words),
        _ => rejected(words),
    }
}

fn rejected(words: String) -> Outcome {
    Outcome::failed(FailureReason::ProviderError, words)
}

/// As whom the account speaks, or what is wrong with its settings.
pub(super) fn connected(plan: &HttpPlan, response: &RawResponse) -> Result<Option<String>, String> {
    let body = response.json();
    if response.is_success() {
        let name = text(&body, "/displayName");
        return Ok(name.map(|name| match text(&body, "/basicId") {
            Some(id) => format!("{name} ({id})"),
            None => name.to_owned(),
        }));
    }
    let said = text(&body, "/message").map_or_else(|| response.excerpt(), str::to_owned);
    Err(match (response.status, plan.purpose) {
        (401, _) => format!(
            "LINE does not take this channel access token: issue a new one in the console ({said})"
        ),
        (_, "webhook") => format!("LINE does not take the webhook's address: {said}"),
        _ => format!("LINE answers: {said}"),
    })
}

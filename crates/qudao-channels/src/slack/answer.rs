//! What Slack's answers mean. Most failures come with the status 200 and `"ok": false`.

use qudao_core::channel::{
    adapter::{FailureReason, Outcome},
    config::ChannelConfig,
    plan::{HttpPlan, Plan, RawResponse},
};
use serde_json::Value;

use super::{files, send};
use crate::wire::{id, short, text};

pub(super) fn classify(config: &ChannelConfig, plan: &Plan, response: &RawResponse) -> Outcome {
    let Plan::Http(plan) = plan else {
        return Outcome::failed(FailureReason::Unsupported, "Slack is asked over HTTP alone");
    };
    let body = response.json();
    let error = text(&body, "/error").unwrap_or_default();
    if response.status == 429 || error == "ratelimited" || error == "rate_limited" {
        return Outcome::Retry { after: response.retry_after(), detail: response.excerpt() };
    }
    if response.status >= 500 {
        return Outcome::retry(response.excerpt());
    }
    if let Some(outcome) = files::next(config, plan, response) {
        return outcome;
    }
    if plan.purpose == "respond" && response.is_success() {
        return Outcome::Sent { external_id: None };
    }
    if response.is_success() && body.pointer("/ok") == Some(&Value::Bool(true)) {
        let place = [id(&body, "/channel"), id(&body, "/ts")];
        let external_id = match place {
            [Some(channel), Some(ts)] => Some(short(&format!("{channel}:{ts}"))),
            _ => None,
        };
        return Outcome::Sent { external_id };
    }
    let gone = ["message_not_found", "cant_update_message", "edit_window_closed"];
    if plan.purpose == "edit"
        && gone.contains(&error)
        && let Some(plan) = send::anew(config, plan)
    {
        return Outcome::Then(vec![Plan::Http(plan)]);
    }
    if let Some(plain) = without_blocks(plan, error) {
        return Outcome::Then(vec![Plan::Http(plain)]);
    }
    meaning(error, response)
}

/// The same as words, if Slack did not take the blocks: a picture that it cannot fetch, say.
fn without_blocks(plan: &HttpPlan, error: &str) -> Option<HttpPlan> {
    if plan.purpose == "plain" || !error.starts_with("invalid_blocks") {
        return None;
    }
    let mut body: Value = serde_json::from_slice(&plan.body).ok()?;
    let fields = body.as_object_mut()?;
    fields.remove("blocks")?;
    fields.contains_key("text").then_some(())?;
    Some(HttpPlan { body: body.to_string().into_bytes(), purpose: "plain", ..plan.clone() })
}

fn meaning(error: &str, response: &RawResponse) -> Outcome {
    use FailureReason as Why;
    let why = match error {
        "fatal_error"
        | "internal_error"
        | "service_unavailable"
        | "request_timeout"
        | "team_added_to_org" => return Outcome::retry(error),
        "invalid_auth"
        | "not_authed"
        | "account_inactive"
        | "token_revoked"
        | "token_expired"
        | "missing_scope"
        | "no_permission"
        | "org_login_required"
        | "access_denied"
        | "not_allowed_token_type"
        | "team_access_not_granted"
        | "ekm_access_denied" => Why::Auth,
        "channel_not_found" | "user_not_found" | "not_in_channel" | "is_archived"
        | "thread_not_found" => Why::RecipientUnknown,
        "user_disabled" | "messages_tab_disabled" | "cannot_dm_bot" => Why::Blocked,
        "msg_too_long" | "msg_blocks_too_long" => Why::TooLong,
        "invalid_blocks" | "invalid_blocks_format" | "no_text" | "too_many_attachments" => {
            Why::Unsupported
        }
        _ if error.starts_with("restricted_action") => Why::Policy,
        _ if response.status == 401 || response.status == 403 => Why::Auth,
        _ => Why::ProviderError,
    };
    let detail = if error.is_empty() { response.excerpt() } else { error.to_owned() };
    Outcome::failed(why, detail)
}

/// As whom the app speaks, or what is wrong with its token.
pub(super) fn connected(response: &RawResponse) -> Result<Option<String>, String> {
    let body = response.json();
    if body.pointer("/ok") != Some(&Value::Bool(true)) {
        let error = text(&body, "/error").unwrap_or_default();
        return Err(match error {
            "invalid_auth" | "not_authed" => {
                "Slack does not know this bot token: copy it anew from OAuth & Permissions; it \
                 begins with xoxb-"
                    .to_owned()
            }
            "account_inactive" | "token_revoked" => {
                "the app was removed from the workspace: install it again and copy the new token"
                    .to_owned()
            }
            "" => format!("Slack answered {}", response.excerpt()),
            other => format!("Slack answers {other}"),
        });
    }
    let scopes = response.header("x-oauth-scopes");
    if scopes.is_some_and(|scopes| !scopes.split(',').any(|scope| scope.trim() == "chat:write")) {
        return Err("the app lacks the scope chat:write: add it under OAuth & Permissions and \
                    install the app again"
            .to_owned());
    }
    let user = text(&body, "/user").unwrap_or("the app");
    let team = text(&body, "/team").unwrap_or("the workspace");
    Ok(Some(format!("{user} in {team}")))
}

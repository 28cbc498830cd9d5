//! Top-ups with Telegram Stars: what is offered, the invoice, and its check before somebody pays.

use qudao_core::channel::{
    config::ChannelConfig,
    event::{Event, EventBody},
    plan::HttpPlan,
};
use serde_json::{Value, json};

use super::{
    call,
    press::{IN_TIME, speaks_chinese},
    write::addressed,
};
use crate::signature;

/// The most Stars of one invoice.
const MOST: i64 = 10_000;
/// What a question for a top-up is called in the table of events.
pub(super) const TOPUP: &str = "topup";

/// The amounts that are offered, in Stars; none unless a Star is worth something here.
fn offers(config: &ChannelConfig) -> Vec<i64> {
    if config.number("stars_value").is_none() {
        return Vec::new();
    }
    config.list("stars_offers").into_iter().filter_map(amount).collect()
}

fn amount(text: &str) -> Option<i64> {
    text.trim().parse().ok().filter(|stars| (1..=MOST).contains(stars))
}

/// Whether Stars are sold at all.
pub(super) fn sells(config: &ChannelConfig) -> bool {
    !offers(config).is_empty()
}

/// What is wrong with the settings.
pub(super) fn fault(config: &ChannelConfig) -> Option<String> {
    let listed = config.list("stars_offers");
    if listed.is_empty() {
        return None;
    }
    if let Some(odd) = listed.iter().find(|text| amount(text).is_none()) {
        return Some(format!("{odd:?} is not a number of Stars from 1 to {MOST}"));
    }
    config.number("stars_value").is_none().then(|| "needs stars_value".to_owned())
}

/// Whether a text asks for a top-up: `/topup`, `/topup 50`, `/topup_50`, with or without `@bot`.
pub(super) fn is_asked(text: &str) -> bool {
    wanted(text).is_some()
}

/// The amount that is asked for; 0 if none is named.
fn wanted(text: &str) -> Option<i64> {
    let (command, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    let command = command.split('@').next().unwrap_or_default();
    match command.strip_prefix("/topup")? {
        "" => Some(amount(rest).unwrap_or_default()),
        named => named.strip_prefix('_').and_then(amount),
    }
}

/// The answer to a question for a top-up: the invoice, or what there is to choose from.
pub(super) fn offer(config: &ChannelConfig, event: &Event) -> Option<HttpPlan> {
    if !matches!(&event.body, EventBody::Unknown { kind } if kind == TOPUP) {
        return None;
    }
    let wanted = wanted(event.raw["message"]["text"].as_str()?)?;
    let (offers, chinese) = (offers(config), speaks_chinese(config, event));
    let thread = &event.thread.external_id;
    let chosen = offers.iter().copied().find(|offer| *offer == wanted || offers.len() == 1);
    let Some(stars) = chosen else {
        let lines = offers.iter().map(|stars| format!("/topup_{stars} — {stars} ⭐"));
        let head = if chinese { "请选择充值数量：" } else { "Choose an amount:" };
        let text = std::iter::once(head.to_owned()).chain(lines).collect::<Vec<_>>().join("\n");
        return Some(call(config, "sendMessage", &addressed(thread, json!({ "text": text }))));
    };
    let (title, text) = if chinese {
        ("充值", format!("用 {stars} 颗星充值。"))
    } else {
        ("Top-up", format!("A top-up of {stars} Stars."))
    };
    let invoice = json!({
        "title": title, "description": text, "currency": "XTR", "provider_token": "",
        "payload": payload(config, &event.sender.external_id, stars)?,
        "prices": [{ "label": title, "amount": stars }],
    });
    Some(call(config, "sendInvoice", &addressed(thread, invoice)))
}

/// What an invoice carries: for whom it is and how much, and that this channel made it.
fn payload(config: &ChannelConfig, payer: &str, stars: i64) -> Option<String> {
    let token = config.secret("bot_token").ok()?;
    Some(format!("topup:{payer}:{stars}:{}", seal(config, token, payer, stars)))
}

fn seal(config: &ChannelConfig, token: &str, payer: &str, stars: i64) -> String {
    let said = format!("qudao telegram stars {} {payer} {stars}", config.channel_id);
    hex::encode(&signature::hmac_sha256(token.as_bytes(), &[said.as_bytes()])[..16])
}

/// Whether an invoice is of this channel, for this payer and this amount. A token that was exchanged
/// meanwhile is as good as the new one while it is valid.
fn is_ours(config: &ChannelConfig, payload: &str, payer: &str, stars: i64) -> bool {
    let Some(rest) = payload.strip_prefix(&format!("topup:{payer}:{stars}:")) else {
        return false;
    };
    let sealed = |token: &str| seal(config, token, payer, stars).into_bytes();
    config
        .candidates("bot_token")
        .is_ok_and(|tokens| signature::any(tokens, rest.as_bytes(), sealed))
}

/// The answer to the question whether a payment may be made.
pub(super) fn check(config: &ChannelConfig, event: &Event) -> Option<HttpPlan> {
    let query = &event.raw["pre_checkout_query"];
    let id = query["id"].as_str()?;
    let stars = query["total_amount"].as_i64().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let ours = query["currency"] == "XTR"
        && config.number("stars_value").is_some()
        && is_ours(config, &text(&query["invoice_payload"]), &event.sender.external_id, stars);
    let mut body = json!({ "pre_checkout_query_id": id, "ok": ours });
    if !ours {
        body["error_message"] = json!(if speaks_chinese(config, event) {
            "这张账单不是开给您的，或已失效。请发送 /topup 获取新的账单。"
        } else {
            "This invoice is not yours or no longer valid. Send /topup for a new one."
        });
    }
    Some(call(config, "answerPreCheckoutQuery", &body).within(IN_TIME))
}

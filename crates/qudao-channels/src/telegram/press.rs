//! The receipt of a pressed button, and in which language it is given.

use std::time::Duration;

use qudao_core::channel::{
    config::ChannelConfig,
    event::{Event, EventBody},
    plan::HttpPlan,
};
use serde_json::json;

use super::call;

/// Telegram waits ten seconds for what it asks at once.
pub(super) const IN_TIME: Duration = Duration::from_secs(8);

/// The receipt. What cannot be found any more is said.
pub(super) fn receipt(config: &ChannelConfig, event: &Event) -> Option<HttpPlan> {
    let id = event.raw["callback_query"]["id"].as_str()?;
    let mut body = json!({ "callback_query_id": id });
    if event.body == EventBody::Lapsed {
        body["show_alert"] = json!(true);
        body["text"] = json!(if speaks_chinese(config, event) {
            "这个按钮已失效，请直接写下您想说的话。"
        } else {
            "This button is no longer valid. Please write what you would like instead."
        });
    }
    Some(call(config, "answerCallbackQuery", &body).within(IN_TIME))
}

/// What a person reads, else what the channel speaks.
pub(super) fn speaks_chinese(config: &ChannelConfig, event: &Event) -> bool {
    is_chinese(event.sender.locale.as_deref().unwrap_or(&config.locale))
}

fn is_chinese(locale: &str) -> bool {
    let language = locale.split(['-', '_']).next().unwrap_or_default();
    language.eq_ignore_ascii_case("zh")
}

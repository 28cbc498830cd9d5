//! What the adapters' tests have in common.

use jiff::Timestamp;
use qudao_core::channel::{
    adapter::{Answered, ChannelAdapter, Outgoing, Parsed, RawRequest, Reject},
    config::ChannelConfig,
    event::{Event, EventBody},
    plan::{HttpPlan, Plan, RawResponse},
};
use qudao_domain::{
    ChannelId, TenantId,
    message::{Button, ButtonAction, Message, Part, Row, TextFormat},
    render,
};
use serde_json::Value;

/// 2026-11-28 12:00 UTC.
pub(crate) const NOW_S: i64 = 1_795_867_200;

pub(crate) fn now() -> Timestamp {
    Timestamp::from_second(NOW_S).unwrap()
}

pub(crate) fn config(settings: Value, secrets: &[(&str, &[&str])]) -> ChannelConfig {
    let owned = |(name, values): &(&str, &[&str])| {
        ((*name).to_owned(), values.iter().map(|value| (*value).to_owned()).collect())
    };
    ChannelConfig {
        tenant_id: TenantId::from_uuid(uuid::Uuid::nil()),
        channel_id: ChannelId::from_uuid(uuid::Uuid::nil()),
        locale: "en".to_owned(),
        settings: settings.as_object().cloned().unwrap_or_default(),
        secrets: secrets.iter().map(owned).collect(),
        account: None,
        inbound_url: "https://chat.example/v1/inbound/key".to_owned(),
    }
}

pub(crate) fn post(headers: &[(&'static str, String)], body: impl Into<Vec<u8>>) -> RawRequest {
    let mut request =
        RawRequest { method: "POST".to_owned(), body: body.into(), ..RawRequest::default() };
    for (name, value) in headers {
        request.headers.append(*name, value.parse().unwrap());
    }
    request
}

pub(crate) fn get(query: &str) -> RawRequest {
    RawRequest { method: "GET".to_owned(), query: query.to_owned(), ..RawRequest::default() }
}

pub(crate) fn response(status: u16, body: &Value) -> RawResponse {
    RawResponse { status, body: body.to_string().into_bytes(), ..RawResponse::default() }
}

pub(crate) fn bodies(parsed: Result<Parsed, Reject>) -> Vec<EventBody> {
    parsed.unwrap().events.into_iter().map(|event| event.body).collect()
}

pub(crate) fn one(parsed: Result<Parsed, Reject>) -> Event {
    let mut events = parsed.unwrap().events;
    assert_eq!(events.len(), 1);
    events.remove(0)
}

/// A message of words.
pub(crate) fn says(external_id: &str, text: &str) -> EventBody {
    let message = Message::text(TextFormat::Plain, text);
    EventBody::Message { external_id: external_id.to_owned(), message }
}

pub(crate) fn unknown(kind: &str) -> EventBody {
    EventBody::Unknown { kind: kind.to_owned() }
}

pub(crate) fn markdown(text: &str) -> Message {
    Message::text(TextFormat::Markdown, text)
}

pub(crate) fn postback(id: &str, label: &str, value: &str) -> Button {
    let action = ButtonAction::Postback { value: value.to_owned() };
    Button { id: id.to_owned(), label: label.to_owned(), action }
}

pub(crate) fn link(id: &str, label: &str, url: &str) -> Button {
    let action = ButtonAction::Url { url: url.to_owned() };
    Button { id: id.to_owned(), label: label.to_owned(), action }
}

pub(crate) fn buttons(items: Vec<Button>) -> Part {
    Part::Buttons { fallback_text: String::new(), items }
}

pub(crate) fn rows(count: usize) -> Part {
    let row = |at: usize| Row {
        id: format!("r{at}"),
        label: format!("Row {at}"),
        description: Some(format!("The {at}. row")),
        value: format!("row {at}"),
    };
    let rows = (1..=count).map(row).collect();
    Part::List { fallback_text: String::new(), label: "Choose".to_owned(), rows }
}

/// A message as its way out: rendered for the adapter, then made into plans.
pub(crate) fn sent(
    adapter: &dyn ChannelAdapter,
    config: &ChannelConfig,
    thread: &str,
    message: &Message,
    answered: Option<Answered<'_>>,
) -> Vec<HttpPlan> {
    let mut plans = Vec::new();
    let pieces = render::render(message, &adapter.capabilities(config)).unwrap();
    for (piece, message) in (0..).zip(&pieces) {
        let out = Outgoing {
            id: "out_1",
            piece,
            thread,
            message,
            answered,
            preview_id: None,
            now: now(),
        };
        for plan in adapter.render(config, &out).unwrap() {
            let Plan::Http(plan) = plan else { panic!("not over HTTP") };
            plans.push(plan);
        }
    }
    plans
}

pub(crate) fn sent_json(plan: &HttpPlan) -> Value {
    serde_json::from_slice(&plan.body).unwrap_or_default()
}

pub(crate) fn header<'a>(plan: &'a HttpPlan, name: &str) -> Option<&'a str> {
    plan.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
}

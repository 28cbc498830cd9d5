//! Channels and requests for tests.

use jiff::Timestamp;
use qudao_core::channel::{
    adapter::{Answered, ChannelAdapter, Outgoing, Parsed, RawRequest, Reject},
    config::ChannelConfig,
    event::{Event, EventBody},
    plan::{HttpPlan, Plan, RawResponse},
};
use qudao_domain::{ChannelId, TenantId, message::Message};
use serde_json::Value;

/// When everything happens: 2026-11-28 20:00:00 UTC.
pub(crate) const NOW_S: i64 = 1_795_896_000;

pub(crate) fn now() -> Timestamp {
    Timestamp::from_second(NOW_S).unwrap()
}

/// A channel with these settings, and secrets that have one value or several.
pub(crate) fn config(settings: Value, secrets: Value) -> ChannelConfig {
    let secrets = secrets.as_object().unwrap().iter().map(|(name, value)| {
        let all = match value {
            Value::Array(all) => all.iter().map(|one| one.as_str().unwrap().to_owned()).collect(),
            one => vec![one.as_str().unwrap().to_owned()],
        };
        (name.clone(), all)
    });
    ChannelConfig {
        tenant_id: TenantId::from_uuid(Default::default()),
        channel_id: ChannelId::from_uuid(Default::default()),
        locale: "en".to_owned(),
        settings: settings.as_object().unwrap().clone(),
        secrets: secrets.collect(),
        account: None,
        inbound_url: "https://qudao.example/v1/inbound/key".to_owned(),
    }
}

/// A request with this body.
pub(crate) fn request(method: &str, body: impl Into<Vec<u8>>) -> RawRequest {
    RawRequest { method: method.to_owned(), body: body.into(), ..RawRequest::default() }
}

/// The same with one more line in its header.
pub(crate) fn with(mut request: RawRequest, name: &'static str, value: &str) -> RawRequest {
    request.headers.append(name, value.parse().unwrap());
    request
}

/// What an adapter makes of a request now.
pub(crate) fn parse(
    adapter: &dyn ChannelAdapter,
    config: &ChannelConfig,
    request: &RawRequest,
) -> Result<Parsed, Reject> {
    adapter.verify_and_parse(config, request, now())
}

/// The one event of what was parsed.
pub(crate) fn only(parsed: Result<Parsed, Reject>) -> Event {
    let mut events = parsed.unwrap().events;
    assert_eq!(events.len(), 1, "{events:?}");
    events.remove(0)
}

/// The words of a message that was heard.
pub(crate) fn words(event: &Event) -> String {
    match &event.body {
        EventBody::Message { message, .. } | EventBody::Edited { message, .. } => message.to_text(),
        other => panic!("no message: {other:?}"),
    }
}

/// What an unknown event is counted by.
pub(crate) fn unknown(event: &Event) -> &str {
    match &event.body {
        EventBody::Unknown { kind } => kind,
        other => panic!("known: {other:?}"),
    }
}

/// A message on its way to a thread.
pub(crate) fn out<'a>(
    thread: &'a str,
    message: &'a Message,
    answered: Option<(&'a str, &'a Value)>,
) -> Outgoing<'a> {
    let answered = answered.map(|(external_id, raw)| Answered { external_id, raw, at: now() });
    Outgoing { id: "out_1", piece: 0, thread, message, answered, preview_id: None, now: now() }
}

/// The one request of a plan, with its body.
pub(crate) fn http(plans: &[Plan]) -> (&HttpPlan, Value) {
    match plans {
        [Plan::Http(plan)] => (plan, serde_json::from_slice(&plan.body).unwrap_or_default()),
        other => panic!("not one request: {other:?}"),
    }
}

/// A platform's answer.
pub(crate) fn response(status: u16, body: &Value) -> RawResponse {
    RawResponse { status, body: body.to_string().into_bytes(), ..RawResponse::default() }
}

//! Events in, and the log of events out for those who read it.

use std::time::Duration;

use actix_web::{HttpMessage as _, HttpRequest, HttpResponse, http::header::HeaderMap, web};
use qudao_channels::partner::{Keys, Received, Setting, receive};
use qudao_core::Core;
use qudao_pcp::{Accepted, Event, Signed, VERSIONS, VerifyError, header};
use qudao_storage::{PartnerEvent, PartnerState, StorageError, Topic};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json, value::RawValue};
use tokio::time::Instant;
use utoipa::ToSchema;

use super::{PartnerCaller, PartnerDoor, parse_cursor, read_body, stream};
use crate::{
    code::Code,
    error::ApiError,
    extract::{Body, NoQuery, Query},
    oidc::base_url,
    rate::Standings,
    scope::RequestContext,
    state::AppState,
};

/// The longest that a partner may wait for an answer in the response.
const LONGEST_WAIT: u64 = 25;
/// How often the log is looked at, should its hint have been lost.
pub(super) const LOOK: Duration = Duration::from_millis(500);

/// How the answer to a message comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ReplyMode {
    Wait,
    Sse,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PostQuery {
    reply: Option<ReplyMode>,
    timeout: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PullQuery {
    after: Option<String>,
    limit: Option<u32>,
}

/// How far a partner has read.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Ack {
    /// `cursor` of the page that was read.
    #[schema(example = "17")]
    cursor: String,
}

/// How far the channel is acknowledged.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Acked {
    cursor: String,
}

/// What became of an event.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AcceptedBody {
    #[schema(example = "evt_01JD0AAAAAAAAAAAAAAAAAAAA1")]
    event_id: String,
    /// The platform's id of the message, if the event is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    message_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    conversation_id: Option<String>,
    /// It had been taken before; nothing changed.
    duplicate: bool,
    /// With `reply=wait`: the events of the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<Object>>)]
    messages: Option<Vec<Value>>,
}

/// A part of the log.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct EventPage {
    /// Envelopes, the oldest first, as the endpoint would get them.
    #[schema(value_type = Vec<Object>)]
    events: Vec<Box<RawValue>>,
    /// Pass it as `after` to read on, and acknowledge it.
    cursor: String,
    has_more: bool,
}

impl AcceptedBody {
    fn of(accepted: Accepted) -> Self {
        Self {
            event_id: accepted.event_id.to_string(),
            message_id: accepted.message_id,
            conversation_id: accepted.conversation_id,
            duplicate: accepted.duplicate,
            messages: None,
        }
    }
}

pub(crate) async fn post(
    state: web::Data<AppState>,
    request: HttpRequest,
    PartnerCaller(door): PartnerCaller,
    Query(query): Query<PostQuery>,
    payload: web::Payload,
) -> Result<HttpResponse, ApiError> {
    let body = read_body(&request, payload).await?;
    let event = verify(&state, &request, &door, &body)?;
    if !door.setup.open {
        return Err(ApiError::new(Code::ChannelClosed, "the channel is closed"));
    }
    let thread = event.conversation.as_ref().map_or("", |it| it.external_id.as_str());
    let paced = state.core.may_report(door.tenant_id, door.channel_id, thread);
    let standings = state.within(paced).await?;
    request.extensions_mut().insert(Standings(standings));
    let origin = RequestContext::of(&request).trace;
    let (core, setup, partner) = (state.core.clone(), door.setup.clone(), door.partner.clone());
    let (base, bytes) = (base_url(&state, &request), body.to_vec());
    let receiving = async move {
        let setting = Setting {
            core: &core,
            channel: &setup,
            partner: &partner,
            base: base.as_deref(),
            origin,
        };
        receive(&setting, &event, &bytes).await
    };
    let received: Received = state.on_runtime(receiving).await?;
    match (query.reply, received.answers) {
        (Some(ReplyMode::Wait), Some(answers)) => {
            let timeout = query.timeout.unwrap_or(LONGEST_WAIT).min(LONGEST_WAIT);
            wait(&state, &door, received, answers, Duration::from_secs(timeout)).await
        }
        (Some(ReplyMode::Sse), Some(answers)) => {
            Ok(stream::of_turn(&state, &door, received, answers))
        }
        _ => Ok(answer(received.accepted)),
    }
}

fn answer(accepted: Accepted) -> HttpResponse {
    let mut response =
        if accepted.duplicate { HttpResponse::Ok() } else { HttpResponse::Accepted() };
    response.json(AcceptedBody::of(accepted))
}

/// The event, if it is signed and fresh. Nothing of the body is believed before that.
fn verify(
    state: &AppState,
    request: &HttpRequest,
    door: &PartnerDoor,
    body: &[u8],
) -> Result<Event, ApiError> {
    let headers = request.headers();
    let version = text(headers, header::VERSION);
    if !VERSIONS.contains(&version) {
        let known = VERSIONS.join(", ");
        let detail = format!("the header pcp-version has to be one of: {known}");
        return Err(ApiError::new(Code::UnsupportedVersion, detail));
    }
    let signed = Signed {
        id: text(headers, header::ID),
        timestamp: text(headers, header::TIMESTAMP),
        signature: text(headers, header::SIGNATURE),
    };
    let keys = Keys::of(&door.setup.config);
    let id = keys
        .verifier
        .verify(signed, body, state.core.clock.now())
        .map_err(|error: VerifyError| ApiError::new(Code::SignatureInvalid, error.to_string()))?;
    // Whatever is refused from here on is a partner's who can be trusted to read why.
    crate::extract::parse_object(body)?;
    let event = Event::read(body).map_err(|error| ApiError::field("", error))?;
    if event.id != id {
        return Err(ApiError::field("/id", "has to be equal to webhook-id"));
    }
    Ok(event)
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// Answers when the turn's messages are there, or says that they come later.
async fn wait(
    state: &web::Data<AppState>,
    door: &PartnerDoor,
    received: Received,
    answers: i64,
    patience: Duration,
) -> Result<HttpResponse, ApiError> {
    let (core, channel_id, tenant_id) = (state.core.clone(), door.channel_id, door.tenant_id);
    let thread = received.thread.clone();
    let until = Instant::now() + patience;
    let waiting = async move {
        let mut changed = core.bus.subscribe(&Topic::Partner(channel_id));
        loop {
            let events = turn(&core, (tenant_id, channel_id), &thread, answers).await?;
            if events.iter().any(|event| event.is_final) || until <= Instant::now() {
                return Ok::<_, StorageError>(events);
            }
            tokio::select! {
                _ = changed.next() => {}
                () = tokio::time::sleep(LOOK) => {}
                () = tokio::time::sleep_until(until) => {}
            }
        }
    };
    let events = state.on_runtime(waiting).await?;
    if !events.iter().any(|event| event.is_final) {
        return Ok(answer(received.accepted));
    }
    let messages = events.iter().filter_map(|event| serde_json::from_slice(&event.body).ok());
    let body =
        AcceptedBody { messages: Some(messages.collect()), ..AcceptedBody::of(received.accepted) };
    Ok(HttpResponse::Ok().json(body))
}

/// The messages that answer a place of a conversation, or a later one.
pub(super) async fn turn(
    core: &Core,
    (tenant_id, channel_id): (qudao_domain::TenantId, qudao_domain::ChannelId),
    thread: &str,
    answers: i64,
) -> Result<Vec<PartnerEvent>, StorageError> {
    let mut tx = core.store.begin_reading(tenant_id).await?;
    let found = tx.partner_answers(channel_id, thread, answers).await?;
    tx.commit().await?;
    Ok(found)
}

/// What a reader of the log is shown: not what is of no use any more, and nothing beyond what is
/// not due yet, since a cursor that went past it would hide it.
pub(super) fn readable(events: Vec<PartnerEvent>, now: jiff::Timestamp) -> Vec<PartnerEvent> {
    let due = |event: &PartnerEvent| {
        event.state != PartnerState::Ready || event.attempts != 0 || event.next_at <= now
    };
    let useful = |event: &PartnerEvent| {
        event.state != PartnerState::Expired
            && !(event.is_expired && event.state != PartnerState::Done)
    };
    events.into_iter().take_while(due).filter(useful).collect()
}

pub(crate) async fn pull(
    state: web::Data<AppState>,
    PartnerCaller(door): PartnerCaller,
    Query(query): Query<PullQuery>,
) -> Result<HttpResponse, ApiError> {
    let limit = query.limit.unwrap_or(100);
    if !(1..=200).contains(&limit) {
        return Err(ApiError::new(Code::InvalidQuery, "limit has to be between 1 and 200"));
    }
    let after = match query.after.as_deref().filter(|after| !after.is_empty()) {
        Some(after) => parse_cursor(after)?,
        None => door.partner.acked_cursor,
    };
    let (core, tenant_id, channel_id) = (state.core.clone(), door.tenant_id, door.channel_id);
    let reading = async move {
        let mut tx = core.store.begin_reading(tenant_id).await?;
        let events = tx.partner_events_after(channel_id, after, None, limit).await?;
        tx.commit().await?;
        Ok::<_, StorageError>(events)
    };
    let events = state.on_runtime(reading).await?;
    let full = events.len() == limit as usize;
    let events = readable(events, state.core.clock.now());
    let cursor = events.last().map_or(after, |event| event.cursor);
    let raw = |event: &PartnerEvent| {
        let text = String::from_utf8(event.body.clone()).ok()?;
        RawValue::from_string(text).ok()
    };
    Ok(HttpResponse::Ok().insert_header(("cache-control", "no-store")).json(EventPage {
        events: events.iter().filter_map(raw).collect(),
        cursor: cursor.to_string(),
        has_more: full,
    }))
}

pub(crate) async fn ack(
    state: web::Data<AppState>,
    PartnerCaller(door): PartnerCaller,
    _: Query<NoQuery>,
    Body(Ack { cursor }): Body<Ack>,
) -> Result<HttpResponse, ApiError> {
    let cursor = parse_cursor(&cursor)?;
    let (core, tenant_id, channel_id) = (state.core.clone(), door.tenant_id, door.channel_id);
    let acking = async move {
        let mut tx = core.store.begin(tenant_id).await?;
        let acked = tx.ack_partner_events(channel_id, cursor).await?;
        tx.commit().await?;
        Ok::<_, StorageError>(acked)
    };
    let acked = state.on_runtime(acking).await?;
    Ok(HttpResponse::Ok().json(Acked { cursor: acked.to_string() }))
}

/// An example of an event, for the description.
pub(crate) fn example() -> Value {
    json!({
        "spec": "pcp/1",
        "id": "evt_01JD0AAAAAAAAAAAAAAAAAAAA1",
        "type": "message.created",
        "time": "2026-11-23T14:00:00.120Z",
        "conversation": { "external_id": "room-42", "kind": "direct" },
        "sender": { "external_id": "u-9", "name": "Ada", "verified": true },
        "data": { "message": {
            "external_id": "m-1001",
            "parts": [{ "type": "text", "text": "Where is order 17?" }],
        } },
    })
}

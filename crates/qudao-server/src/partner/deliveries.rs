//! What was sent to a partner, and sending it again.

use actix_web::{HttpResponse, web};
use jiff::Timestamp;
use qudao_channels::partner::announce;
use qudao_domain::{ChannelId, TenantId};
use qudao_storage::{PartnerEvent, PartnerState, StorageError, Tx};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{PartnerCaller, parse_cursor};
use crate::{
    code::Code,
    error::ApiError,
    extract::{Body, NoQuery, Query},
    state::AppState,
};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ListQuery {
    status: Option<String>,
    before: Option<String>,
    limit: Option<u32>,
}

/// One event to the partner and what became of it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Delivery {
    cursor: String,
    event_id: String,
    #[serde(rename = "type")]
    kind: String,
    /// The partner's conversation; empty if it concerns the channel.
    conversation: String,
    seq: Option<i64>,
    /// `ready`, `sending`, `done`, `dead` or `expired`.
    status: &'static str,
    attempts: u32,
    /// It is sent again after it had been given up.
    replayed: bool,
    last_status: Option<i32>,
    last_error: Option<String>,
    /// The first 2 KB of the last answer.
    response: Option<String>,
    external_message_id: Option<String>,
    /// `sent`, `delivered`, `read` or `failed`.
    receipt: Option<String>,
    created_at: String,
    next_attempt_at: Option<String>,
}

/// Deliveries, the newest first.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DeliveryList {
    data: Vec<Delivery>,
    /// Pass it as `before` to read older ones.
    next: Option<String>,
}

/// What to send again: these ids, or all of a status that were made in a time.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Replay {
    /// Ids of events, 500 at most.
    ids: Option<Vec<String>>,
    /// `dead` if left out; `done` and `expired` are the others.
    status: Option<String>,
    /// From when on, RFC 3339.
    #[schema(value_type = Option<String>)]
    since: Option<Timestamp>,
    /// Until when, RFC 3339.
    #[schema(value_type = Option<String>)]
    until: Option<Timestamp>,
}

/// How many events are sent again.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Replayed {
    pub(crate) replayed: u64,
}

impl Delivery {
    fn of(event: PartnerEvent) -> Self {
        let waits = event.state == PartnerState::Ready;
        Self {
            cursor: event.cursor.to_string(),
            event_id: event.event_id,
            kind: event.kind,
            conversation: event.thread,
            seq: event.seq,
            status: event.state.as_str(),
            attempts: event.attempts,
            replayed: event.replayed,
            last_status: event.last_status,
            last_error: event.last_error,
            response: event.answer.filter(|text| !text.is_empty()),
            external_message_id: event.external_id,
            receipt: event.receipt,
            created_at: event.created_at.to_string(),
            next_attempt_at: waits.then(|| event.next_at.to_string()),
        }
    }
}

fn parse_status(text: &str) -> Result<PartnerState, ApiError> {
    let unknown = || {
        let detail = "status has to be ready, sending, done, dead or expired";
        ApiError::new(Code::InvalidQuery, detail)
    };
    PartnerState::find(text).ok_or_else(unknown)
}

pub(crate) async fn list(
    state: web::Data<AppState>,
    PartnerCaller(door): PartnerCaller,
    Query(query): Query<ListQuery>,
) -> Result<HttpResponse, ApiError> {
    let listed = deliveries(&state, (door.tenant_id, door.channel_id), query).await?;
    Ok(HttpResponse::Ok().json(listed))
}

/// The deliveries of a channel.
///
/// # Errors
/// `invalid_query`, and what the database says.
pub(crate) async fn deliveries(
    state: &AppState,
    (tenant_id, channel_id): (TenantId, ChannelId),
    query: ListQuery,
) -> Result<DeliveryList, ApiError> {
    let status = query.status.as_deref().map(parse_status).transpose()?;
    let before = query.before.as_deref().map(parse_cursor).transpose()?;
    let limit = query.limit.unwrap_or(50);
    if !(1..=200).contains(&limit) {
        return Err(ApiError::new(Code::InvalidQuery, "limit has to be between 1 and 200"));
    }
    let core = state.core.clone();
    let reading = async move {
        let mut tx = core.store.begin_reading(tenant_id).await?;
        let found = tx.partner_deliveries(channel_id, status, before, limit).await?;
        tx.commit().await?;
        Ok::<_, StorageError>(found)
    };
    let found = state.on_runtime(reading).await?;
    let full = found.len() == limit as usize;
    let next = found.last().filter(|_| full).map(|event| event.cursor.to_string());
    let data = found.into_iter().map(Delivery::of).collect();
    Ok(DeliveryList { data, next })
}

pub(crate) async fn replay(
    state: web::Data<AppState>,
    PartnerCaller(door): PartnerCaller,
    _: Query<NoQuery>,
    Body(replay): Body<Replay>,
) -> Result<HttpResponse, ApiError> {
    let which = replay.parse()?;
    let (core, tenant_id, channel_id) = (state.core.clone(), door.tenant_id, door.channel_id);
    let replaying = async move {
        let mut tx = core.store.begin(tenant_id).await?;
        let replayed = which.send_again(&mut tx, channel_id).await?;
        tx.commit().await?;
        announce(&core, channel_id).await;
        Ok::<_, StorageError>(replayed)
    };
    let replayed = state.on_runtime(replaying).await?;
    Ok(HttpResponse::Accepted().json(Replayed { replayed }))
}

/// Which events to send again.
pub(crate) struct Which {
    ids: Option<Vec<String>>,
    status: PartnerState,
    between: (Option<Timestamp>, Option<Timestamp>),
}

impl Replay {
    /// # Errors
    /// `validation_failed`.
    pub(crate) fn parse(self) -> Result<Which, ApiError> {
        let Self { ids, status, since, until } = self;
        if ids.as_ref().is_some_and(|ids| 500 < ids.len()) {
            return Err(ApiError::field("/ids", "has 500 ids at most"));
        }
        let wrong = || ApiError::field("/status", "has to be dead, done or expired");
        let status = match status.as_deref() {
            None => PartnerState::Dead,
            Some(text) => PartnerState::find(text).ok_or_else(wrong)?,
        };
        Ok(Which { ids, status, between: (since, until) })
    }
}

impl Which {
    /// Has them sent again. How many.
    ///
    /// # Errors
    /// [`StorageError`].
    pub(crate) async fn send_again(
        &self,
        tx: &mut Tx,
        channel_id: ChannelId,
    ) -> Result<u64, StorageError> {
        tx.replay_partner_events(channel_id, self.ids.as_deref(), self.status, self.between).await
    }
}

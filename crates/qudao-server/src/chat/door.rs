//! From the public key in the address to the channel, and from there to what was said.

use std::{net::IpAddr, sync::Arc, time::Duration};

use actix_web::HttpRequest;
use qudao_core::{Accepted, Core, PreviewEvent, Sender};
use qudao_domain::{
    TenantId,
    message::Part,
    state::ChannelKind,
    text::{ExternalId, MessageText},
};
use qudao_storage::{
    ChannelDoor, Inbound, MessageBody, Standing, TimelineCursor, TimelineItem, TimelineRole, Topic,
};
use qudao_telemetry::Trace;
use tokio::time::Instant;

use super::{
    frame::{MessageFrame, MessageKey, Role},
    session::Page,
};
use crate::{code::Code, error::ApiError, places::Place, site, state::AppState};

/// The longest public key that is looked up.
const MAX_KEY: usize = 64;
/// After this a client may try to open a chat again where too many are open.
const CROWDED: Duration = Duration::from_secs(10);

/// A visitor in front of a channel.
#[derive(Debug, Clone)]
pub(crate) struct Visit {
    pub(crate) door: Arc<ChannelDoor>,
    /// The hash of the visitor's token.
    pub(crate) peer: Arc<str>,
    /// Where the visitor writes from.
    pub(crate) address: IpAddr,
    /// When the visitor's token ends, if it does. A connection ends with it.
    pub(crate) until: Option<Instant>,
}

impl Visit {
    /// Where the visitor's open tabs hear that there is a conversation now.
    pub(crate) fn arrival(&self) -> Option<Topic> {
        let mut peer = [0; 32];
        hex::decode_to_slice(&*self.peer, &mut peer).ok()?;
        Some(Topic::Arrival(self.door.channel_id, peer))
    }
}

/// The web channel that the path names.
///
/// # Errors
/// `not_found` for an unknown key, and for a channel that is none of the web.
pub(crate) async fn find_door(
    state: &AppState,
    request: &HttpRequest,
) -> Result<Arc<ChannelDoor>, ApiError> {
    let (core, key) = (Arc::clone(&state.core), public_key(request)?);
    let found = state.on_runtime(async move { core.store.find_channel_by_public_key(&key).await });
    of_the_web(found.await?.map(Arc::new))
}

/// The same as it was a second ago at the earliest, for those who write: whether the channel takes
/// their message is decided where it is stored.
///
/// # Errors
/// As [`find_door`].
pub(crate) async fn known_door(
    state: &AppState,
    request: &HttpRequest,
) -> Result<Arc<ChannelDoor>, ApiError> {
    of_the_web(Some(find(state, request).await?))
}

/// The channel that the path names, of whatever kind, as it was a second ago at the earliest.
///
/// # Errors
/// `not_found` for an unknown key.
pub(crate) async fn find(
    state: &AppState,
    request: &HttpRequest,
) -> Result<Arc<ChannelDoor>, ApiError> {
    let (core, key) = (Arc::clone(&state.core), public_key(request)?);
    let found = match core.remembered_door(&key).await {
        Some(found) => found,
        None => {
            let asked = state.on_runtime(async move {
                core.door(&key).await.map_err(|error| ApiError::from(error.as_ref()))
            });
            asked.await?
        }
    };
    found.ok_or_else(|| ApiError::not_found("channel"))
}

fn public_key(request: &HttpRequest) -> Result<String, ApiError> {
    let key = request.match_info().get("key").unwrap_or_default();
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    if MAX_KEY < key.len() || !key.bytes().all(plain) {
        return Err(ApiError::not_found("channel"));
    }
    Ok(key.to_owned())
}

fn of_the_web(found: Option<Arc<ChannelDoor>>) -> Result<Arc<ChannelDoor>, ApiError> {
    let door = found.filter(|door| door.kind == ChannelKind::Web);
    door.ok_or_else(|| ApiError::not_found("channel"))
}

/// Refuses a socket that another web site opened in a visitor's browser. A browser always names
/// the site; what is no browser holds no visitor's token by accident.
pub(crate) fn check_origin(request: &HttpRequest) -> Result<(), ApiError> {
    if site::is_own_origin(request) {
        return Ok(());
    }
    Err(ApiError::new(Code::OriginRefused, "the chat may be opened from its own site only"))
}

/// The place of one more open chat of a tenant.
///
/// # Errors
/// `rate_limited`.
pub(crate) fn take_tenant_chat(
    state: &AppState,
    tenant: TenantId,
) -> Result<Place<TenantId>, ApiError> {
    let place = state.tenant_chats.take(&tenant, state.settings.limits.chats_per_tenant);
    place.ok_or_else(|| too_many("this service has too many chats open"))
}

/// The place of one more open chat of a visitor.
///
/// # Errors
/// `rate_limited`.
pub(crate) fn take_visitor_chat(
    state: &AppState,
    peer: &Arc<str>,
) -> Result<Place<Arc<str>>, ApiError> {
    let place = state.visitor_chats.take(peer, state.settings.limits.chats_per_visitor);
    place.ok_or_else(|| too_many("too many chats of this visitor are open"))
}

fn too_many(detail: &'static str) -> ApiError {
    ApiError::new(Code::RateLimited, detail).retry_after(CROWDED)
}

/// What follows `after` in the visitor's conversation.
///
/// # Errors
/// Those of the database.
pub(crate) async fn read_page(
    core: &Core,
    visit: &Visit,
    after: TimelineCursor,
    limit: u32,
) -> Result<Page, ApiError> {
    let mut tx = core.store.begin(visit.door.tenant_id).await?;
    let found = tx.find_conversation_of(visit.door.channel_id, &visit.peer).await?;
    let Some(conversation) = found else {
        tx.commit().await?;
        return Ok(Page::default());
    };
    // One more than asked for tells whether there is more.
    let mut items = tx.timeline(conversation.id, after, limit.saturating_add(1)).await?;
    tx.commit().await?;
    let more = (limit as usize) < items.len();
    items.truncate(limit as usize);
    Ok(Page {
        conversation: Some(conversation.id),
        messages: items.into_iter().map(|item| message(item, &visit.peer)).collect(),
        more,
        answer_due: conversation.done_seq < conversation.last_seq,
    })
}

fn message(item: TimelineItem, peer: &str) -> MessageFrame {
    let (key, role) = match item.role {
        TimelineRole::User(_) => (MessageKey::Inbound(item.seq), Role::User),
        TimelineRole::Assistant(_) => (MessageKey::Outbound(item.seq), Role::Assistant),
        TimelineRole::Notice(_) => (MessageKey::Outbound(item.seq), Role::Notice),
    };
    let own_id = |id: &str| Some(id.strip_prefix(peer)?.strip_prefix(':')?.to_owned());
    MessageFrame {
        cursor: item.cursor,
        key,
        role,
        text: item.text,
        parts: item.parts,
        client_id: item.external_id.as_deref().and_then(own_id),
        turn: item.turn_id,
        at: item.at,
    }
}

/// Stores what a visitor wrote. The id is unique in the channel, so it holds the visitor too: no
/// visitor can take another's id. `parts` are empty where
/// the text is all of it; `origin` is the request that brought it.
///
/// # Errors
/// `rate_limited`, `insufficient_credits`, `channel_closed`, and those of the database; nothing
/// was stored then.
pub(crate) async fn accept(
    state: &AppState,
    visit: &Visit,
    id: &ExternalId,
    text: MessageText,
    parts: Vec<Part>,
    origin: Trace,
) -> Result<(Accepted, Vec<Standing>), ApiError> {
    let sender = Sender {
        tenant_id: visit.door.tenant_id,
        channel_id: visit.door.channel_id,
        assistant_id: visit.door.assistant_id,
        peer: &visit.peer,
        address: Some(visit.address),
    };
    let standings = state.within(state.core.may_write(sender)).await?;
    let internal = |_| ApiError::new(Code::Internal, "the message could not be stored");
    let inbound = Inbound {
        channel_id: visit.door.channel_id,
        external_id: ExternalId::parse(&format!("{}:{id}", visit.peer)).map_err(internal)?,
        peer: ExternalId::parse(&visit.peer).map_err(internal)?,
        body: MessageBody { parts, ..MessageBody::text(text.into_string()) },
    };
    let accepted = state.core.accept_from(visit.door.tenant_id, inbound, origin).await?;
    if accepted.seq == 1 && !accepted.duplicate {
        announce(state, visit);
    }
    Ok((accepted, standings))
}

/// Tells the visitor's other tabs that there is a conversation to watch.
fn announce(state: &AppState, visit: &Visit) {
    let Some(topic) = visit.arrival() else { return };
    let bus = state.core.bus.clone();
    let hint = PreviewEvent::Message { out_seq: 0 }.to_bytes();
    let publish = async move { bus.publish(&topic, hint).await };
    state.core.tasks.spawn_on(publish, &state.runtime);
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;

    use super::*;

    #[test]
    fn only_the_own_site_may_open_a_socket_from_a_browser() {
        let allowed = |origin: Option<&str>| {
            let mut request = TestRequest::default().insert_header(("host", "chat.example:8080"));
            if let Some(origin) = origin {
                request = request.insert_header(("origin", origin));
            }
            check_origin(&request.to_http_request()).is_ok()
        };
        assert!(allowed(None));
        assert!(allowed(Some("http://chat.example:8080")));
        for origin in
            ["http://chat.example", "https://evil.example", "null", "", "chat.example:8080"]
        {
            assert!(!allowed(Some(origin)), "{origin}");
        }
    }
}

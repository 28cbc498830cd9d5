//! What was said.

use actix_web::{HttpResponse, web};
use jiff::Timestamp;
use qudao_domain::{ChannelId, ContactId, ConversationId, TurnId};
use qudao_storage::{Conversation, StorageError, TimelineCursor, TimelineItem, TimelineRole};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{List, in_tenant, page};
use crate::{
    access::TenantScope,
    code::Code,
    error::ApiError,
    extract::{Id, PageQuery, Query},
    state::AppState,
};

/// A conversation.
#[derive(Debug, Serialize, ToSchema)]
#[schema(title = "Conversation", as = Conversation)]
pub(crate) struct ConversationBody {
    #[schema(value_type = String, example = "cnv_0198c0de00007000800000000000a001")]
    id: ConversationId,
    #[schema(value_type = String)]
    channel_id: ChannelId,
    #[schema(value_type = String)]
    contact_id: ContactId,
    /// How many messages came in.
    messages_in: i64,
    /// How many of them are answered.
    messages_answered: i64,
    /// How many messages went out.
    messages_out: i64,
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
}

impl From<Conversation> for ConversationBody {
    fn from(conversation: Conversation) -> Self {
        let Conversation {
            id,
            channel_id,
            contact_id,
            last_seq,
            done_seq,
            out_seq,
            created_at,
            ..
        } = conversation;
        Self {
            id,
            channel_id,
            contact_id,
            messages_in: last_seq,
            messages_answered: done_seq,
            messages_out: out_seq,
            created_at,
        }
    }
}

/// A message of a conversation.
#[derive(Debug, Serialize, ToSchema)]
#[schema(title = "Message", as = Message)]
pub(crate) struct MessageBody {
    /// Names the message within the conversation: `i:<n>` came in, `o:<n>` went out.
    #[schema(example = "i:3")]
    key: String,
    /// `user`, `assistant` or `notice`.
    role: &'static str,
    /// What became of it: `accepted`, `answered`, `rejected`, `dead`; or `queued`, `sending`,
    /// `delivered`, `dead`.
    state: &'static str,
    text: String,
    #[schema(value_type = Option<String>)]
    turn_id: Option<TurnId>,
    #[schema(value_type = String, format = DateTime)]
    at: Timestamp,
}

impl From<TimelineItem> for MessageBody {
    fn from(item: TimelineItem) -> Self {
        let (side, role, state) = match item.role {
            TimelineRole::User(state) => ("i", "user", state.as_str()),
            TimelineRole::Assistant(state) => ("o", "assistant", state.as_str()),
            TimelineRole::Notice(state) => ("o", "notice", state.as_str()),
        };
        Self {
            key: format!("{side}:{}", item.seq),
            role,
            state,
            text: item.text,
            turn_id: item.turn_id,
            at: item.at,
        }
    }
}

/// Which conversations to list.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ConversationQuery {
    contact: Option<String>,
    limit: Option<u32>,
    cursor: Option<String>,
}

pub(crate) async fn list(
    state: web::Data<AppState>,
    TenantScope(tenant_id): TenantScope,
    Query(ConversationQuery { contact, limit, cursor }): Query<ConversationQuery>,
) -> Result<HttpResponse, ApiError> {
    let page = page(&PageQuery::new(limit, cursor))?;
    let wrong = |error| ApiError::new(Code::InvalidQuery, format!("contact {error}"));
    let contact = contact.map(|id| id.parse::<ContactId>().map_err(wrong)).transpose()?;
    let listing = in_tenant(&state, tenant_id, move |tx| {
        Box::pin(async move { Ok(tx.list_conversations(&page, contact).await?) })
    });
    Ok(HttpResponse::Ok().json(List::<ConversationBody>::of(listing.await?)))
}

/// The oldest first, unlike other lists: this is how a conversation is read.
pub(crate) async fn messages(
    state: web::Data<AppState>,
    TenantScope(tenant_id): TenantScope,
    Id(id): Id<ConversationId>,
    Query(query): Query<PageQuery>,
) -> Result<HttpResponse, ApiError> {
    let limit = query.limit()?;
    let after: TimelineCursor =
        query.cursor().unwrap_or_default().parse().map_err(|error: StorageError| error)?;
    let items = in_tenant(&state, tenant_id, move |tx| {
        Box::pin(async move {
            if tx.find_conversation(id).await?.is_none() {
                return Err(ApiError::not_found("conversation"));
            }
            // One more than asked for tells whether there is more.
            Ok(tx.timeline(id, after, limit.saturating_add(1)).await?)
        })
    });
    let mut items = items.await?;
    let has_more = usize::try_from(limit).is_ok_and(|limit| limit < items.len());
    items.truncate(limit as usize);
    let last = items.last().map(|item| item.cursor.to_string());
    Ok(HttpResponse::Ok().json(List {
        next_cursor: last.filter(|_| has_more),
        has_more,
        data: items.into_iter().map(MessageBody::from).collect::<Vec<_>>(),
    }))
}

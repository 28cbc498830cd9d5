//! Members who are signed in, as those see them who look after members.

use actix_web::{HttpResponse, web};
use jiff::Timestamp;
use qudao_domain::{MemberId, SessionId};
use qudao_storage::SessionRecord;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{List, in_tenant, page};
use crate::{
    access::TenantScope,
    act::{Act, change},
    code::Code,
    error::ApiError,
    extract::{Id, NoQuery, PageQuery, Query},
    state::AppState,
};

/// A session.
#[derive(Debug, Serialize, ToSchema)]
#[schema(title = "Session", as = Session)]
pub(crate) struct SessionBody {
    #[schema(value_type = String, example = "ses_0198c0de00007000800000000000a001")]
    id: SessionId,
    #[schema(value_type = String, example = "mbr_0198c0de00007000800000000000a001")]
    member_id: MemberId,
    /// How they came in: `password`, `invitation` or `oidc`.
    method: String,
    /// Where from.
    address: String,
    /// What the browser called itself.
    user_agent: String,
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    /// The last request, up to a minute late.
    #[schema(value_type = String, format = DateTime)]
    seen_at: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    expires_at: Timestamp,
    #[schema(value_type = Option<String>, format = DateTime)]
    ended_at: Option<Timestamp>,
}

impl From<SessionRecord> for SessionBody {
    fn from(session: SessionRecord) -> Self {
        let SessionRecord {
            id,
            member_id,
            method,
            address,
            user_agent,
            created_at,
            seen_at,
            expires_at,
            ended_at,
        } = session;
        Self {
            id,
            member_id,
            method,
            address,
            user_agent,
            created_at,
            seen_at,
            expires_at,
            ended_at,
        }
    }
}

/// Whose sessions.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SessionQuery {
    member_id: Option<String>,
    limit: Option<u32>,
    cursor: Option<String>,
}

pub(crate) async fn list(
    state: web::Data<AppState>,
    TenantScope(tenant_id): TenantScope,
    Query(SessionQuery { member_id, limit, cursor }): Query<SessionQuery>,
) -> Result<HttpResponse, ApiError> {
    let member = member_id.map(|text| {
        text.parse()
            .map_err(|_| ApiError::new(Code::InvalidQuery, "member_id is not a member's id"))
    });
    let member: Option<MemberId> = member.transpose()?;
    let page = page(&PageQuery::new(limit, cursor))?;
    let listing = in_tenant(&state, tenant_id, move |tx| {
        Box::pin(async move { Ok(tx.list_sessions(member, &page).await?) })
    });
    Ok(HttpResponse::Ok().json(List::<SessionBody>::of(listing.await?)))
}

pub(crate) async fn end(
    state: web::Data<AppState>,
    TenantScope(tenant_id): TenantScope,
    act: Act,
    Id(id): Id<SessionId>,
    _: Query<NoQuery>,
) -> Result<HttpResponse, ApiError> {
    let ended = change(&state, act, tenant_id, move |tx| {
        Box::pin(async move {
            let ended = tx.end_session(id).await?;
            ended.then_some(()).ok_or_else(|| ApiError::not_found("session"))
        })
    });
    ended.await?;
    Ok(HttpResponse::NoContent().finish())
}

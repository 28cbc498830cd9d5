//! Who did what.

use actix_web::{HttpResponse, web};
use jiff::Timestamp;
use qudao_storage::{AuditRecord, Once};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::{List, in_tenant, page};
use crate::{
    access::TenantScope,
    error::ApiError,
    extract::{PageQuery, Query},
    state::AppState,
};

/// An administrative act.
#[derive(Debug, Serialize, ToSchema)]
#[schema(title = "AuditEvent", as = AuditEvent)]
pub(crate) struct AuditBody {
    /// Its number among the tenant's acts, from 1 and without a gap.
    seq: i64,
    #[schema(value_type = String, format = DateTime)]
    at: Timestamp,
    /// Who: `operator`, or the id of a key or an account.
    actor: String,
    /// What was done.
    #[schema(example = "channel.update")]
    action: String,
    /// To what, by its id.
    target: String,
    /// What else there is to know.
    #[schema(value_type = Object)]
    detail: Value,
    /// The request that caused it.
    request_id: Option<String>,
    /// Where the request came from.
    address: Option<String>,
}

impl From<AuditRecord> for AuditBody {
    fn from(record: AuditRecord) -> Self {
        let AuditRecord { seq, at, event } = record;
        Self {
            seq,
            at,
            actor: event.actor,
            action: event.action,
            target: event.target,
            detail: event.detail,
            request_id: event.request_id,
            address: event.address,
        }
    }
}

pub(crate) async fn list(
    state: web::Data<AppState>,
    TenantScope(tenant_id): TenantScope,
    Query(query): Query<PageQuery>,
) -> Result<HttpResponse, ApiError> {
    let page = page(&query)?;
    let listing = in_tenant(&state, tenant_id, move |tx| {
        Box::pin(async move { Ok(tx.list_audit(&page).await?) })
    });
    Ok(HttpResponse::Ok().json(List::<AuditBody>::of(listing.await?)))
}

/// What concerns no tenant.
pub(crate) async fn list_platform(
    state: web::Data<AppState>,
    Query(query): Query<PageQuery>,
) -> Result<HttpResponse, ApiError> {
    let (page, core) = (page(&query)?, state.core.clone());
    let listing = state.on_runtime(async move {
        let mut tx = core.store.begin(Once::OPERATOR).await?;
        let listing = tx.list_audit(&page).await?;
        tx.commit().await?;
        Ok::<_, ApiError>(listing)
    });
    Ok(HttpResponse::Ok().json(List::<AuditBody>::of(listing.await?)))
}

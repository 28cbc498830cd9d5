//! API keys. The secret is in one answer and nowhere else.

use actix_web::{HttpResponse, web};
use jiff::Timestamp;
use qudao_domain::{ApiKeyId, key::ApiKey, text::Name};
use qudao_storage::{ApiKeyRecord, NewApiKey};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{List, created, in_tenant, page};
use crate::{
    access::{TenantScope, scope},
    error::{ApiError, FieldCheck},
    extract::{Body, Id, NoQuery, PageQuery, Query},
    state::AppState,
};

/// A key to be made.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CreateApiKey {
    /// What it is called; 1 to 120 characters.
    name: String,
    /// What it may do: `chat` (call models), `admin` (manage the tenant). `["chat"]` if left out.
    scopes: Option<Vec<String>>,
    /// Until when it works; for ever if left out.
    #[schema(value_type = Option<String>, format = DateTime)]
    expires_at: Option<String>,
}

struct Draft {
    name: Name,
    scopes: Vec<String>,
    expires_at: Option<Timestamp>,
}

impl CreateApiKey {
    fn parse(self, now: Timestamp) -> Result<Draft, ApiError> {
        let mut check = FieldCheck::default();
        let name = check.take("/name", Name::parse(&self.name));
        let mut scopes = self.scopes.unwrap_or_else(|| vec![scope::CHAT.to_owned()]);
        if scopes.is_empty() {
            check.refuse("/scopes", "must not be empty");
        }
        for (at, wanted) in scopes.iter().enumerate() {
            if !scope::ALL.contains(&wanted.as_str()) {
                check.refuse(&format!("/scopes/{at}"), "has to be chat or admin");
            }
        }
        scopes.sort();
        scopes.dedup();
        let expires_at = self.expires_at.as_deref().map(|text| {
            text.parse::<Timestamp>().map_err(|_| "has to be a time such as 2030-01-01T00:00:00Z")
        });
        let expires_at = check.take_optional("/expires_at", expires_at);
        if expires_at.is_some_and(|end| end <= now) {
            check.refuse("/expires_at", "has to be in the future");
        }
        check.finish(name.map(|name| Draft { name, scopes, expires_at }))
    }
}

/// A key, without its secret.
#[derive(Debug, Serialize, ToSchema)]
#[schema(title = "ApiKey", as = ApiKey)]
pub(crate) struct ApiKeyBody {
    #[schema(value_type = String, example = "key_0198c0de00007000800000000000a001")]
    id: ApiKeyId,
    name: String,
    /// The last four characters of the secret.
    last4: String,
    scopes: Vec<String>,
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    #[schema(value_type = Option<String>, format = DateTime)]
    expires_at: Option<Timestamp>,
    #[schema(value_type = Option<String>, format = DateTime)]
    revoked_at: Option<Timestamp>,
}

/// A key that was just made.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct NewKey {
    /// The whole key. It is not shown again.
    #[schema(example = "qk_live_0198c0de00007000800000000000a001_…")]
    key: String,
    #[serde(flatten)]
    record: ApiKeyBody,
}

impl From<ApiKeyRecord> for ApiKeyBody {
    fn from(key: ApiKeyRecord) -> Self {
        let ApiKeyRecord { id, name, last4, scopes, created_at, expires_at, revoked_at } = key;
        Self { id, name, last4, scopes, created_at, expires_at, revoked_at }
    }
}

pub(crate) async fn create(
    state: web::Data<AppState>,
    TenantScope(tenant_id): TenantScope,
    _: Query<NoQuery>,
    Body(body): Body<CreateApiKey>,
) -> Result<HttpResponse, ApiError> {
    let Draft { name, scopes, expires_at } = body.parse(state.core.clock.now())?;
    let key = ApiKey::generate();
    let shown = key.reveal();
    let record = in_tenant(&state, tenant_id, move |tx| {
        Box::pin(async move {
            let new = NewApiKey { name, key: &key, scopes, expires_at };
            Ok(tx.create_api_key(&new).await?)
        })
    });
    let record = record.await?;
    let location = format!("/v1/tenants/{tenant_id}/api-keys/{}", record.id);
    let mut response = created(&location, &NewKey { key: shown, record: record.into() });
    // The one answer that holds a secret must not stay in any cache.
    let no_store = actix_web::http::header::HeaderValue::from_static("no-store");
    response.headers_mut().insert(actix_web::http::header::CACHE_CONTROL, no_store);
    Ok(response)
}

pub(crate) async fn list(
    state: web::Data<AppState>,
    TenantScope(tenant_id): TenantScope,
    Query(query): Query<PageQuery>,
) -> Result<HttpResponse, ApiError> {
    let page = page(&query)?;
    let listing = in_tenant(&state, tenant_id, move |tx| {
        Box::pin(async move { Ok(tx.list_api_keys(&page).await?) })
    });
    Ok(HttpResponse::Ok().json(List::<ApiKeyBody>::of(listing.await?)))
}

pub(crate) async fn revoke(
    state: web::Data<AppState>,
    TenantScope(tenant_id): TenantScope,
    Id(id): Id<ApiKeyId>,
    _: Query<NoQuery>,
) -> Result<HttpResponse, ApiError> {
    let revoked = in_tenant(&state, tenant_id, move |tx| {
        Box::pin(async move { Ok(tx.revoke_api_key(id).await?) })
    });
    if !revoked.await? {
        return Err(ApiError::not_found("API key"));
    }
    Ok(HttpResponse::NoContent().finish())
}

//! API keys. The secret is in one answer and nowhere else.

use actix_web::{HttpResponse, web};
use jiff::Timestamp;
use qudao_domain::{ApiKeyId, key::ApiKey, text::Name};
use qudao_storage::{ApiKeyRecord, NewApiKey};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{List, in_tenant, page};
use crate::{
    access::{TenantScope, scope},
    error::{ApiError, FieldCheck},
    extract::{Id, NoQuery, PageQuery, Query},
    once::{Posted, Reply, commit_once},
    state::AppState,
};

/// What a key may do. Only for the description: what comes is checked with words of our own.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
#[expect(dead_code, reason = "stands for a text in the description")]
pub(crate) enum KeyScope {
    /// Call models.
    Chat,
    /// Manage the tenant.
    Admin,
}

/// A key to be made.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CreateApiKey {
    /// What it is called; 1 to 120 characters.
    #[schema(min_length = 1, max_length = 120, pattern = r"^[^\x00]*[^\s\x00][^\x00]*$")]
    name: String,
    /// What it may do: `chat` (call models), `admin` (manage the tenant). `["chat"]` if left out.
    #[schema(value_type = Option<Vec<KeyScope>>, min_items = 1)]
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
    /// The whole key. It is not shown again: `null` where the request is repeated under its
    /// `Idempotency-Key`.
    #[schema(example = "qk_live_0198c0de00007000800000000000a001_…")]
    key: Option<String>,
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
    Posted { body, once }: Posted<CreateApiKey>,
) -> Result<HttpResponse, ApiError> {
    let Draft { name, scopes, expires_at } = body.parse(state.core.clock.now())?;
    let key = ApiKey::generate();
    let made = commit_once(&state, tenant_id, once, move |tx| {
        Box::pin(async move {
            let new = NewApiKey { name, key: &key, scopes, expires_at };
            let record = tx.create_api_key(&new).await?;
            let location = format!("/v1/tenants/{tenant_id}/api-keys/{}", record.id);
            let mut body = NewKey { key: Some(key.reveal()), record: record.into() };
            let reply = Reply::created(location, &body);
            body.key = None;
            Ok(reply.repeated_as(&body))
        })
    });
    made.await
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

//! API keys. The secret is in one answer and nowhere else.

use std::time::Duration;

use actix_web::{HttpResponse, web};
use ipnet::IpNet;
use jiff::Timestamp;
use qudao_domain::{ApiKeyId, access::Scopes, key::ApiKey, text::Name};
use qudao_storage::{ApiKeyRecord, NewApiKey};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    List, in_tenant, page,
    roles::{ScopeWord, parse_scopes},
};
use crate::{
    access::{Actor, TenantScope},
    act::{Act, change},
    code::Code,
    error::{ApiError, FieldCheck},
    extract::{Id, NoQuery, PageQuery, Query},
    once::{Posted, Reply, commit_once},
    state::AppState,
};

const MAX_NETWORKS: usize = 64;
/// How long both keys work after a rotation unless the request says otherwise.
const OVERLAP: Duration = Duration::from_secs(24 * 3600);
const MAX_OVERLAP: Duration = Duration::from_secs(30 * 24 * 3600);

/// A key to be made.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CreateApiKey {
    /// What it is called; 1 to 120 characters.
    #[schema(min_length = 1, max_length = 120, pattern = r"^[^\x00]*[^\s\x00\x85][^\x00]*$")]
    name: String,
    /// What it may do: `chat` (call models), `admin` (everything else), or parts of that such as
    /// `conversations:read`. `["chat"]` if left out. Nobody hands on what they do not have.
    #[schema(value_type = Option<Vec<ScopeWord>>, min_items = 1)]
    scopes: Option<Vec<String>>,
    /// Until when it works; for ever if left out.
    #[schema(value_type = Option<String>, format = DateTime)]
    expires_at: Option<String>,
    /// The networks that it may be used from, such as `203.0.113.0/24`; from anywhere if left out.
    #[schema(max_items = 64, example = json!(["203.0.113.0/24"]))]
    allowed_networks: Option<Vec<String>>,
}

/// How a key is exchanged for a new one.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RotateApiKey {
    /// For how many seconds the old one still works; a day if left out, 30 days at most, 0 to end
    /// it now.
    #[schema(minimum = 0, maximum = 2592000)]
    overlap_seconds: Option<u64>,
}

struct Draft {
    name: Name,
    scopes: Scopes,
    expires_at: Option<Timestamp>,
    allowed_networks: Vec<String>,
}

impl CreateApiKey {
    fn parse(self, now: Timestamp) -> Result<Draft, ApiError> {
        let mut check = FieldCheck::default();
        let name = check.take("/name", Name::parse(&self.name));
        let scopes = self.scopes.unwrap_or_else(|| vec!["chat".to_owned()]);
        let scopes = parse_scopes(&mut check, &scopes);
        let expires_at = self.expires_at.as_deref().map(|text| {
            text.parse::<Timestamp>().map_err(|_| "has to be a time such as 2030-01-01T00:00:00Z")
        });
        let expires_at = check.take_optional("/expires_at", expires_at);
        if expires_at.is_some_and(|end| end <= now) {
            check.refuse("/expires_at", "has to be in the future");
        }
        let networks = self.allowed_networks.unwrap_or_default();
        let allowed_networks = parse_networks(&mut check, &networks);
        check.finish(name.zip(scopes).map(|(name, scopes)| Draft {
            name,
            scopes,
            expires_at,
            allowed_networks,
        }))
    }
}

/// Networks in one spelling. An address alone is the network of that address.
fn parse_networks(check: &mut FieldCheck, texts: &[String]) -> Vec<String> {
    if MAX_NETWORKS < texts.len() {
        check.refuse("/allowed_networks", format_args!("has more than {MAX_NETWORKS} networks"));
        return Vec::new();
    }
    let mut networks = Vec::new();
    for (at, text) in texts.iter().enumerate() {
        let alone = || text.parse::<std::net::IpAddr>().ok().map(IpNet::from);
        match text.parse::<IpNet>().ok().or_else(alone) {
            Some(network) => networks.push(network.trunc().to_string()),
            None => check.refuse(
                &format!("/allowed_networks/{at}"),
                "has to be a network such as 203.0.113.0/24 or 2001:db8::/32",
            ),
        }
    }
    networks
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
    scopes: Vec<&'static str>,
    /// The networks that it may be used from; from anywhere if empty.
    allowed_networks: Vec<String>,
    /// Who made it: `operator`, or the id of a key or a member.
    made_by: String,
    /// The key whose place it took.
    #[schema(value_type = Option<String>)]
    replaces: Option<ApiKeyId>,
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    /// The last call, some seconds late.
    #[schema(value_type = Option<String>, format = DateTime)]
    last_used_at: Option<Timestamp>,
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
        let ApiKeyRecord {
            id,
            name,
            last4,
            scopes,
            created_at,
            expires_at,
            revoked_at,
            allowed_networks,
            last_used_at,
            made_by,
            replaces,
        } = key;
        let scopes = scopes.words();
        Self {
            id,
            name,
            last4,
            scopes,
            allowed_networks,
            made_by,
            replaces,
            created_at,
            last_used_at,
            expires_at,
            revoked_at,
        }
    }
}

/// The one answer that has the secret.
fn made(location: String, key: &ApiKey, record: ApiKeyRecord) -> Reply {
    let mut body = NewKey { key: Some(key.reveal()), record: record.into() };
    let reply = Reply::created(location, &body);
    body.key = None;
    reply.repeated_as(&body)
}

pub(crate) async fn create(
    state: web::Data<AppState>,
    TenantScope(tenant_id): TenantScope,
    actor: Actor,
    _: Query<NoQuery>,
    Posted { body, once }: Posted<CreateApiKey>,
) -> Result<HttpResponse, ApiError> {
    let draft = body.parse(state.core.clock.now())?;
    actor.may_grant(draft.scopes)?;
    let key = ApiKey::generate();
    let (made_by, location) = (actor.name.to_string(), path(tenant_id, key.id()));
    let created = commit_once(&state, tenant_id, once, move |tx| {
        Box::pin(async move {
            let Draft { name, scopes, expires_at, allowed_networks } = draft;
            let record = tx
                .create_api_key(&NewApiKey {
                    name,
                    key: &key,
                    scopes,
                    expires_at,
                    allowed_networks,
                    made_by,
                    replaces: None,
                })
                .await?;
            Ok(made(location, &key, record))
        })
    });
    created.await
}

pub(crate) async fn rotate(
    state: web::Data<AppState>,
    TenantScope(tenant_id): TenantScope,
    actor: Actor,
    Id(old_id): Id<ApiKeyId>,
    _: Query<NoQuery>,
    Posted { body, once }: Posted<RotateApiKey>,
) -> Result<HttpResponse, ApiError> {
    let overlap = body.overlap_seconds.map_or(OVERLAP, Duration::from_secs);
    if MAX_OVERLAP < overlap {
        let most = MAX_OVERLAP.as_secs();
        return Err(ApiError::field("/overlap_seconds", format_args!("has to be at most {most}")));
    }
    let key = ApiKey::generate();
    let (made_by, location) = (actor.name.to_string(), path(tenant_id, key.id()));
    let rotated = commit_once(&state, tenant_id, once, move |tx| {
        Box::pin(async move {
            let unknown = || ApiError::not_found("API key");
            let old = tx.api_key(old_id).await?.ok_or_else(unknown)?;
            actor.may_grant(old.scopes)?;
            if !tx.expire_api_key(old_id, overlap).await? {
                let detail = "the key does not work any more; make a new one";
                return Err(ApiError::new(Code::Conflict, detail));
            }
            let record = tx
                .create_api_key(&NewApiKey {
                    name: Name::parse(&old.name)
                        .map_err(|error| ApiError::field("/name", error))?,
                    key: &key,
                    scopes: old.scopes,
                    expires_at: old.expires_at,
                    allowed_networks: old.allowed_networks,
                    made_by,
                    replaces: Some(old_id),
                })
                .await?;
            Ok(made(location, &key, record))
        })
    });
    let answer = rotated.await?;
    tell(&state, old_id).await?;
    Ok(answer)
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
    act: Act,
    Id(id): Id<ApiKeyId>,
    _: Query<NoQuery>,
) -> Result<HttpResponse, ApiError> {
    let revoked = change(&state, act, tenant_id, move |tx| {
        Box::pin(async move {
            let revoked = tx.revoke_api_key(id).await?;
            revoked.then_some(()).ok_or_else(|| ApiError::not_found("API key"))
        })
    });
    revoked.await?;
    tell(&state, id).await?;
    Ok(HttpResponse::NoContent().finish())
}

/// Every node forgets what it knew of a key.
async fn tell(state: &web::Data<AppState>, id: ApiKeyId) -> Result<(), ApiError> {
    let core = state.core.clone();
    let telling = async move {
        core.key_changed(id).await;
        Ok::<_, ApiError>(())
    };
    state.on_runtime(telling).await
}

fn path(tenant_id: qudao_domain::TenantId, id: ApiKeyId) -> String {
    format!("/v1/tenants/{tenant_id}/api-keys/{id}")
}

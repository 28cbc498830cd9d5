//! What a tenant decides about a partner's channel: its keys and its endpoint.

use std::time::Duration;

use actix_web::{HttpResponse, web};
use qudao_channels::partner::{self, NewKeys};
use qudao_domain::{ChannelId, state::ChannelKind};
use qudao_storage::{ChannelActivity, ChannelRecord, Tx};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::in_tenant;
use crate::{
    access::TenantScope,
    act::{Act, change},
    code::Code,
    error::ApiError,
    extract::{Body, Id, NoQuery, Query},
    once::{Once, Posted, Reply, commit_once, run_once},
    partner::{
        deliveries::{self, ListQuery, Replay, Replayed},
        endpoint::{challenge, endpoint_state},
        unreadable,
    },
    state::AppState,
};

/// How long the keys before stay valid.
const OVERLAP: Duration = Duration::from_secs(24 * 3600);

/// Keys of a partner's channel, shown once.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct PartnerKeys {
    #[schema(value_type = String)]
    channel_id: ChannelId,
    /// Names the channel: `Authorization: Bearer …`.
    #[schema(example = "pck_test_…")]
    bearer_key: Option<String>,
    /// Signs events, in both directions.
    #[schema(example = "whsec_…")]
    signing_secret: Option<String>,
    key_id: String,
    /// Keys that were there before are valid for so long.
    old_keys_valid_for_s: u64,
}

/// How a partner's channel is doing.
#[derive(Debug, Serialize, ToSchema)]
#[schema(title = "Partner", as = Partner)]
pub(crate) struct PartnerBody {
    /// Answers are made up and nothing is charged, until a report of `qudao-conform` lifts it.
    sandbox: bool,
    /// `webhook`, `sse` or `pull`.
    transport: String,
    /// `none`, `unverified`, `active`, `paused` (after failures; it is tried again) or `disabled`
    /// (it said that it is gone).
    endpoint: &'static str,
    /// Failures of the endpoint in a row.
    failures: u32,
    /// Bearer keys that are valid.
    keys: u32,
    /// The log's end, and how far a reader acknowledged it.
    last_cursor: String,
    acked_cursor: String,
}

impl PartnerBody {
    pub(crate) fn of(channel: &ChannelRecord, activity: Option<&ChannelActivity>) -> Self {
        let setting = |name: &str| {
            let text = channel.settings.get(name).and_then(Value::as_str);
            text.filter(|text| !text.is_empty())
        };
        let url = setting("endpoint_url");
        let partner = activity.and_then(|activity| activity.partner.as_ref());
        let unverified = if url.is_some() { "unverified" } else { "none" };
        let cursor = |cursor: i64| cursor.to_string();
        Self {
            sandbox: partner.is_none_or(|partner| partner.sandbox),
            transport: setting("transport").unwrap_or("webhook").to_owned(),
            endpoint: partner.map_or(unverified, |partner| endpoint_state(url, partner)),
            failures: partner.map_or(0, |partner| partner.failures),
            keys: activity.map_or(0, |activity| activity.partner_keys),
            last_cursor: cursor(partner.map_or(0, |partner| partner.last_cursor)),
            acked_cursor: cursor(partner.map_or(0, |partner| partner.acked_cursor)),
        }
    }
}

/// Where a partner takes its events.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PartnerEndpoint {
    /// Over https, with a public address. Empty for a partner who reads the log.
    #[serde(default)]
    #[schema(example = "https://partner.example/qudao")]
    endpoint_url: String,
    /// `webhook`, `sse` or `pull`.
    #[serde(default = "webhook")]
    #[schema(example = "webhook", pattern = "^(webhook|sse|pull)$")]
    transport: String,
    /// The partner's own `whpk_…`, if it signs with a key pair.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    public_key: Option<String>,
}

fn webhook() -> String {
    "webhook".to_owned()
}

pub(crate) async fn create_keys(
    state: web::Data<AppState>,
    TenantScope(tenant_id): TenantScope,
    Id(id): Id<ChannelId>,
    _: Query<NoQuery>,
    once: Once,
) -> Result<HttpResponse, ApiError> {
    let core = state.core.clone();
    let made = commit_once(&state, tenant_id, once, move |tx| {
        Box::pin(async move {
            let unknown = || ApiError::not_found("channel");
            let channel = tx.find_channel(id).await?.ok_or_else(unknown)?;
            if channel.kind != ChannelKind::Partner {
                return Err(ApiError::field("", "only partners' channels have such keys"));
            }
            let live = tx.partner_channel(id).await?.is_some_and(|partner| !partner.sandbox);
            let keys = NewKeys::generate(tenant_id, live);
            tx.retire_partner_keys(id, OVERLAP).await?;
            partner::keep_keys(tx, &core, id, &keys, OVERLAP).await?;
            core.forget_channel(tenant_id, id).await;
            let shown = PartnerKeys {
                channel_id: id,
                bearer_key: Some(keys.bearer.clone()),
                signing_secret: Some(keys.secret.reveal()),
                key_id: keys.secret.id(),
                old_keys_valid_for_s: OVERLAP.as_secs(),
            };
            let kept = PartnerKeys { bearer_key: None, signing_secret: None, ..shown.clone() };
            let location = format!("/v1/tenants/{tenant_id}/channels/{id}");
            Ok(Reply::created(location, &shown).repeated_as(&kept))
        })
    });
    made.await
}

/// The channel, if it is a partner's.
async fn partner_channel(tx: &mut Tx, id: ChannelId) -> Result<ChannelRecord, ApiError> {
    let channel = tx.find_channel(id).await?.ok_or_else(|| ApiError::not_found("channel"))?;
    if channel.kind == ChannelKind::Partner {
        return Ok(channel);
    }
    Err(ApiError::new(Code::Conflict, "this is no partner's channel"))
}

/// Ends every key at once: for keys that others have seen.
pub(crate) async fn revoke_keys(
    state: web::Data<AppState>,
    TenantScope(tenant_id): TenantScope,
    act: Act,
    Id(id): Id<ChannelId>,
    _: Query<NoQuery>,
) -> Result<HttpResponse, ApiError> {
    let core = state.core.clone();
    change(&state, act, tenant_id, move |tx| {
        Box::pin(async move {
            partner_channel(tx, id).await?;
            tx.retire_partner_keys(id, Duration::ZERO).await?;
            Ok(partner::drop_keys(tx, &core, id).await?)
        })
    })
    .await?;
    state.core.forget_channel(tenant_id, id).await;
    Ok(HttpResponse::NoContent().finish())
}

pub(crate) async fn verify_endpoint(
    state: web::Data<AppState>,
    TenantScope(tenant_id): TenantScope,
    Id(id): Id<ChannelId>,
    _: Query<NoQuery>,
    once: Once,
) -> Result<HttpResponse, ApiError> {
    let found = in_tenant(&state, tenant_id, move |tx| {
        Box::pin(async move {
            partner_channel(tx, id).await?;
            Ok(tx.partner_channel(id).await?.is_none_or(|partner| partner.sandbox))
        })
    });
    let sandbox = found.await?;
    state.core.forget_channel(tenant_id, id).await;
    let own = state.clone().into_inner();
    let tried = async move {
        let setup = own.core.channel_setup(tenant_id, id).await;
        let setup = setup.map_err(|error| unreadable(&error))?;
        let setup = setup.ok_or_else(|| ApiError::not_found("channel"))?;
        Ok(Reply::ok(&Box::pin(challenge(&own, &setup, sandbox)).await?))
    };
    Box::pin(run_once(&state, tenant_id, once, tried)).await
}

pub(crate) async fn deliveries(
    state: web::Data<AppState>,
    TenantScope(tenant_id): TenantScope,
    Id(id): Id<ChannelId>,
    Query(query): Query<ListQuery>,
) -> Result<HttpResponse, ApiError> {
    let found = in_tenant(&state, tenant_id, move |tx| Box::pin(partner_channel(tx, id)));
    found.await?;
    let listed = deliveries::deliveries(&state, (tenant_id, id), query).await?;
    Ok(HttpResponse::Ok().json(listed))
}

pub(crate) async fn replay(
    state: web::Data<AppState>,
    TenantScope(tenant_id): TenantScope,
    Id(id): Id<ChannelId>,
    _: Query<NoQuery>,
    Posted { body, once }: Posted<Replay>,
) -> Result<HttpResponse, ApiError> {
    let which = body.parse()?;
    let replayed = commit_once(&state, tenant_id, once, move |tx| {
        Box::pin(async move {
            partner_channel(tx, id).await?;
            let replayed = which.send_again(tx, id).await?;
            Ok(Reply::ok(&Replayed { replayed }))
        })
    });
    let replayed = replayed.await?;
    let core = state.core.clone();
    state.within(async move { partner::announce(&core, id).await }).await;
    Ok(replayed)
}

pub(crate) async fn set_endpoint(
    state: web::Data<AppState>,
    TenantScope(tenant_id): TenantScope,
    act: Act,
    Id(id): Id<ChannelId>,
    _: Query<NoQuery>,
    Body(to): Body<PartnerEndpoint>,
) -> Result<HttpResponse, ApiError> {
    if !["webhook", "sse", "pull"].contains(&to.transport.as_str()) {
        return Err(ApiError::field("/transport", "has to be webhook, sse or pull"));
    }
    if let Some(key) = to.public_key.as_deref() {
        qudao_pcp::PublicKey::parse(key).map_err(|error| ApiError::field("/public_key", error))?;
    }
    let (core, courier) = (state.core.clone(), state.settings.partner.courier.clone());
    let wanted = to.clone();
    change(&state, act, tenant_id, move |tx| {
        Box::pin(async move {
            let unknown = || ApiError::not_found("channel");
            let channel = tx.find_channel(id).await?.ok_or_else(unknown)?;
            if channel.kind != ChannelKind::Partner {
                return Err(ApiError::field("", "only partners' channels have an endpoint"));
            }
            let known = tx.partner_channel(id).await?;
            let sandbox = known.is_none_or(|partner| partner.sandbox);
            if !wanted.endpoint_url.is_empty() {
                let checked = courier.check(&wanted.endpoint_url, sandbox);
                checked.map_err(|words| ApiError::field("/endpoint_url", words))?;
            }
            tx.ensure_partner_channel(id).await?;
            let key = wanted.public_key.as_deref();
            let to = (wanted.endpoint_url.as_str(), wanted.transport.as_str(), key);
            partner::set_endpoint(tx, &core, id, to).await?;
            Ok(())
        })
    })
    .await?;
    state.core.forget_channel(tenant_id, id).await;
    Ok(HttpResponse::Ok().json(to))
}

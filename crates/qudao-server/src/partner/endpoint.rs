//! A partner's own settings of its channel: what it can show, its endpoint, its keys.

use actix_web::{HttpResponse, web};
use qudao_channels::partner::{Keys, capabilities, rotate};
use qudao_core::channel::setup::OpenChannel;
use qudao_domain::{ChannelId, TenantId, capability::Capabilities};
use qudao_pcp::{Delivered, Event, VERSION, kind};
use qudao_storage::{PartnerChannel, StorageError};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use super::{PartnerCaller, secret_json};
use crate::{
    code::Code,
    error::ApiError,
    extract::{Body, NoQuery, Query},
    state::AppState,
};

/// What a partner can show and do. What is left out has its default.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
pub(crate) struct CapabilityDocument {
    #[serde(flatten)]
    #[schema(value_type = Object)]
    document: Map<String, Value>,
}

/// Whether the endpoint is the partner's.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Verified {
    verified: bool,
    /// What the endpoint answered.
    status: u16,
}

/// A new secret, shown once.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Rotated {
    key_id: String,
    #[schema(example = "whsec_…")]
    secret: String,
    /// The secrets before stay valid for so long.
    old_keys_valid_for_s: u64,
    keys: Vec<KeyState>,
}

/// A key and what it is for at the moment.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct KeyState {
    id: String,
    /// `active`, or `retiring` beside a newer one. Both sign and both are accepted.
    state: &'static str,
}

/// How the channel is doing.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Pong {
    time: String,
    pcp_version: &'static str,
    /// Answers are made up and nothing is charged.
    sandbox: bool,
    open: bool,
    transport: String,
    /// `none`, `unverified`, `active`, `paused` or `disabled`.
    endpoint: &'static str,
    failures: u32,
    /// The log's end, and how far it is acknowledged.
    last_cursor: String,
    acked_cursor: String,
}

/// Public keys with which the platform signs what it sends to a channel.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct PublicKeys {
    keys: Vec<PublicKeyBody>,
}

/// A public key.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct PublicKeyBody {
    id: String,
    #[schema(example = "ed25519")]
    algorithm: &'static str,
    #[schema(example = "whpk_…")]
    key: String,
}

/// As the envelope of every event names them.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct KeysQuery {
    tenant: String,
    channel: String,
}

pub(crate) async fn get_capabilities(
    PartnerCaller(door): PartnerCaller,
    _: Query<NoQuery>,
) -> Result<HttpResponse, ApiError> {
    Ok(HttpResponse::Ok().json(capabilities(&door.partner.capabilities)))
}

pub(crate) async fn put_capabilities(
    state: web::Data<AppState>,
    PartnerCaller(door): PartnerCaller,
    _: Query<NoQuery>,
    Body(CapabilityDocument { document }): Body<CapabilityDocument>,
) -> Result<HttpResponse, ApiError> {
    let declared = Value::Object(document);
    let read: Result<Capabilities, _> = serde_path_to_error::deserialize(&declared);
    let effective = read.map_err(|error| {
        ApiError::field(crate::extract::pointer_of(error.path()), error.inner())
    })?;
    if !(20..=1_000_000).contains(&effective.text.max) {
        return Err(ApiError::field("/text/max", "has to be between 20 and 1000000"));
    }
    let (core, tenant_id, channel_id) = (state.core.clone(), door.tenant_id, door.channel_id);
    let keeping = async move {
        let mut tx = core.store.begin(tenant_id).await?;
        tx.set_partner_capabilities(channel_id, &declared).await?;
        tx.commit().await
    };
    state.on_runtime(keeping).await?;
    Ok(HttpResponse::Ok().json(effective))
}

pub(crate) async fn verify(
    state: web::Data<AppState>,
    PartnerCaller(door): PartnerCaller,
    _: Query<NoQuery>,
) -> Result<HttpResponse, ApiError> {
    let verified = challenge(&state, &door.setup, door.partner.sandbox).await?;
    Ok(HttpResponse::Ok().json(verified))
}

/// Asks a channel's endpoint whether it is its partner's, and keeps that it is.
///
/// # Errors
/// `endpoint_unverified`, and what the database says.
pub(crate) async fn challenge(
    state: &AppState,
    setup: &OpenChannel,
    sandbox: bool,
) -> Result<Verified, ApiError> {
    let config = &setup.config;
    let (tenant_id, channel_id) = (config.tenant_id, config.channel_id);
    let url = config.setting("endpoint_url").ok_or_else(no_endpoint)?.to_owned();
    let challenge = qudao_domain::key::random_secret();
    let now = state.core.clock.now();
    let mut event = Event::new(kind::ENDPOINT_VERIFY, now, json!({ "challenge": challenge }));
    event.tenant = Some(tenant_id.to_string());
    event.channel = Some(channel_id.to_string());
    let keys = Keys::of(config);
    let courier = state.settings.partner.courier.clone();
    let address = url.clone();
    let posting = async move {
        let body = event.to_bytes();
        let to = (address.as_str(), sandbox);
        Ok::<_, ApiError>(courier.post(to, &keys, (&event.id, &body, false), now).await)
    };
    let posted = state.on_runtime(posting).await?;
    let posted = posted.map_err(|words| ApiError::new(Code::EndpointUnverified, words))?;
    let answer: Delivered = serde_json::from_slice(&posted.body).unwrap_or_default();
    let status = posted.status;
    if !(200..300).contains(&status) || answer.challenge.as_deref() != Some(&challenge) {
        let detail = format!(
            "the endpoint answered {status} and not 200 with the challenge: \
             {{\"challenge\": …}}"
        );
        return Err(ApiError::new(Code::EndpointUnverified, detail));
    }
    let core = state.core.clone();
    let keeping = async move {
        let mut tx = core.store.begin(tenant_id).await?;
        tx.verify_partner_endpoint(channel_id, &url).await?;
        tx.record_channel_connection(channel_id, Ok(None)).await?;
        tx.commit().await?;
        qudao_channels::partner::announce(&core, channel_id).await;
        Ok::<_, StorageError>(())
    };
    state.on_runtime(keeping).await?;
    Ok(Verified { verified: true, status })
}

fn no_endpoint() -> ApiError {
    let detail = "no endpoint is set; the tenant sets it among the channel's settings";
    ApiError::new(Code::EndpointUnverified, detail)
}

pub(crate) async fn rotate_keys(
    state: web::Data<AppState>,
    PartnerCaller(door): PartnerCaller,
    _: Query<NoQuery>,
) -> Result<HttpResponse, ApiError> {
    let (core, setup) = (state.core.clone(), door.setup.clone());
    let rotating = async move { rotate(&core, &setup).await };
    let secret = state.on_runtime(rotating).await.map_err(|error| match error.code() {
        Code::Internal => ApiError::new(Code::Conflict, "the channel was changed meanwhile"),
        _ => error,
    })?;
    let before = Keys::of(&door.setup.config).signer.secrets;
    let mut keys = vec![KeyState { id: secret.id(), state: "active" }];
    keys.extend(before.iter().map(|key| KeyState { id: key.id(), state: "retiring" }));
    Ok(secret_json(&Rotated {
        key_id: secret.id(),
        secret: secret.reveal(),
        old_keys_valid_for_s: 24 * 3600,
        keys,
    }))
}

pub(crate) async fn ping(
    state: web::Data<AppState>,
    PartnerCaller(door): PartnerCaller,
    _: Query<NoQuery>,
) -> Result<HttpResponse, ApiError> {
    let partner = &door.partner;
    Ok(HttpResponse::Ok().json(Pong {
        time: state.core.clock.now().to_string(),
        pcp_version: VERSION,
        sandbox: partner.sandbox,
        open: door.setup.open,
        transport: door.setup.config.setting("transport").unwrap_or("webhook").to_owned(),
        endpoint: endpoint_state(door.setup.config.setting("endpoint_url"), partner),
        failures: partner.failures,
        last_cursor: partner.last_cursor.to_string(),
        acked_cursor: partner.acked_cursor.to_string(),
    }))
}

/// What can be said of the endpoint at this address.
pub(crate) fn endpoint_state(url: Option<&str>, partner: &PartnerChannel) -> &'static str {
    match url {
        None => "none",
        Some(_) if partner.disabled => "disabled",
        Some(url) if partner.verified_url.as_deref() != Some(url) => "unverified",
        Some(_) if partner.paused => "paused",
        Some(_) => "active",
    }
}

/// A channel that does not exist has no keys, like one that has none.
pub(crate) async fn public_keys(
    state: web::Data<AppState>,
    Query(query): Query<KeysQuery>,
) -> Result<HttpResponse, ApiError> {
    let ids = query.tenant.parse::<TenantId>().ok().zip(query.channel.parse::<ChannelId>().ok());
    let mut keys = Vec::new();
    if let Some((tenant_id, channel_id)) = ids {
        let core = state.core.clone();
        let reading = async move {
            let setup = core.channel_setup(tenant_id, channel_id).await;
            setup.map_err(|error| super::unreadable(&error))
        };
        if let Some(setup) = state.on_runtime(reading).await? {
            let signer = Keys::of(&setup.config).signer;
            keys.extend(signer.private_keys.iter().map(|key| PublicKeyBody {
                id: key.public().id(),
                algorithm: "ed25519",
                key: key.public().to_string(),
            }));
        }
    }
    Ok(HttpResponse::Ok()
        .insert_header(("cache-control", "public, max-age=300"))
        .json(PublicKeys { keys }))
}

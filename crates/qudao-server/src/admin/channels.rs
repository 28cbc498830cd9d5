//! Channels: where a tenant's end users write.

use actix_web::{HttpResponse, web};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jiff::Timestamp;
use qudao_domain::{AssistantId, ChannelId, key, state::ChannelKind, text::Name};
use qudao_storage::{ChannelRecord, NewChannel};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{List, dangling, in_tenant, page, parse_locale};
use crate::{
    access::TenantScope,
    act::{Act, change},
    error::{ApiError, FieldCheck},
    extract::{Body, Id, NoQuery, PageQuery, Query},
    once::{Posted, Reply, commit_once},
    state::AppState,
};

/// A channel to be made.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CreateChannel {
    /// What it is called; 1 to 120 characters.
    #[schema(min_length = 1, max_length = 120, pattern = r"^[^\x00]*[^\s\x00][^\x00]*$")]
    name: String,
    /// `web`. The channel of the API exists in every tenant.
    #[schema(pattern = r"^web$")]
    kind: String,
    /// Who answers.
    #[schema(pattern = r"^ast_[0-9a-f]{32}$")]
    assistant_id: String,
    /// The language of what the platform itself says there; the tenant's if left out.
    #[schema(max_length = 35, pattern = r"^[A-Za-z]{2,3}(-[A-Za-z0-9]{1,8})*$")]
    locale: Option<String>,
}

/// What is to change of a web channel.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct UpdateChannel {
    /// Whether messages are accepted.
    open: bool,
}

/// A new channel, but for the locale, which may be the tenant's.
struct Draft {
    name: Name,
    assistant_id: AssistantId,
    locale: Option<String>,
}

impl CreateChannel {
    fn parse(self) -> Result<Draft, ApiError> {
        let mut check = FieldCheck::default();
        let name = check.take("/name", Name::parse(&self.name));
        if self.kind != ChannelKind::Web.as_str() {
            check.refuse("/kind", "has to be web");
        }
        let assistant_id = check.take("/assistant_id", self.assistant_id.parse::<AssistantId>());
        let locale = check.take_optional("/locale", self.locale.as_deref().map(parse_locale));
        let parts = name.zip(assistant_id);
        check.finish(parts.map(|(name, assistant_id)| Draft { name, assistant_id, locale }))
    }
}

/// `wk_` and 128 random bits: not to be guessed, and no secret either.
fn public_key() -> String {
    let hash = key::SecretHash::of(&key::random_secret());
    format!("wk_{}", URL_SAFE_NO_PAD.encode(&hash.as_bytes()[..16]))
}

/// A channel.
#[derive(Debug, Serialize, ToSchema)]
#[schema(title = "Channel", as = Channel)]
pub(crate) struct ChannelBody {
    #[schema(value_type = String, example = "chn_0198c0de00007000800000000000a001")]
    id: ChannelId,
    name: String,
    #[schema(value_type = String, example = "web")]
    kind: ChannelKind,
    /// Under which key strangers find it.
    public_key: Option<String>,
    /// Where its chat page is, on this server.
    #[schema(example = "/chat/wk_3vQB7B6MrGQZaxCuFg4oh0")]
    chat_path: Option<String>,
    #[schema(value_type = Option<String>)]
    assistant_id: Option<AssistantId>,
    locale: String,
    /// Whether messages are accepted.
    open: bool,
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
}

impl From<ChannelRecord> for ChannelBody {
    fn from(channel: ChannelRecord) -> Self {
        let ChannelRecord { id, name, kind, public_key, assistant_id, locale, open, created_at } =
            channel;
        let chat_path = public_key.as_ref().map(|key| format!("/chat/{key}"));
        Self { id, name, kind, public_key, chat_path, assistant_id, locale, open, created_at }
    }
}

pub(crate) async fn create(
    state: web::Data<AppState>,
    TenantScope(tenant_id): TenantScope,
    _: Query<NoQuery>,
    Posted { body, once }: Posted<CreateChannel>,
) -> Result<HttpResponse, ApiError> {
    let Draft { name, assistant_id, locale } = body.parse()?;
    let made = commit_once(&state, tenant_id, once, move |tx| {
        Box::pin(async move {
            let tenant = tx.tenant().await?.ok_or_else(|| ApiError::not_found("tenant"))?;
            let new = NewChannel {
                name,
                kind: ChannelKind::Web,
                public_key: Some(public_key()),
                assistant_id,
                locale: locale.unwrap_or(tenant.locale),
            };
            let made = tx.create_channel(&new).await;
            let made = made.map_err(dangling("/assistant_id", "assistant"))?;
            let location = format!("/v1/tenants/{tenant_id}/channels/{}", made.id);
            Ok(Reply::created(location, &ChannelBody::from(made)))
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
        Box::pin(async move { Ok(tx.list_channels(&page).await?) })
    });
    Ok(HttpResponse::Ok().json(List::<ChannelBody>::of(listing.await?)))
}

pub(crate) async fn get(
    state: web::Data<AppState>,
    TenantScope(tenant_id): TenantScope,
    Id(id): Id<ChannelId>,
    _: Query<NoQuery>,
) -> Result<HttpResponse, ApiError> {
    let found = in_tenant(&state, tenant_id, move |tx| {
        Box::pin(async move { Ok(tx.find_channel(id).await?) })
    });
    let channel = found.await?.ok_or_else(|| ApiError::not_found("channel"))?;
    Ok(HttpResponse::Ok().json(ChannelBody::from(channel)))
}

pub(crate) async fn update(
    state: web::Data<AppState>,
    TenantScope(tenant_id): TenantScope,
    act: Act,
    Id(id): Id<ChannelId>,
    _: Query<NoQuery>,
    Body(UpdateChannel { open }): Body<UpdateChannel>,
) -> Result<HttpResponse, ApiError> {
    let changed = change(&state, act, tenant_id, move |tx| {
        Box::pin(async move {
            let unknown = || ApiError::not_found("channel");
            let channel = tx.find_channel(id).await?.ok_or_else(unknown)?;
            if channel.kind != ChannelKind::Web {
                // Calls of the API are not messages of a channel; what ends them is the key.
                return Err(ApiError::field("/open", "can be changed of web channels only"));
            }
            tx.set_channel_open(id, open).await?;
            Ok(ChannelRecord { open, ..channel })
        })
    });
    Ok(HttpResponse::Ok().json(ChannelBody::from(changed.await?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_public_key_has_22_characters_and_is_never_the_same() {
        let (one, other) = (public_key(), public_key());
        assert_eq!(one.len(), 25);
        assert_ne!(one, other);
    }
}

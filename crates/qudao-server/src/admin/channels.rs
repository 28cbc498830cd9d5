//! Channels: where a tenant's end users write.

use std::{collections::BTreeMap, time::Duration};

use actix_web::{HttpResponse, web};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jiff::Timestamp;
use qudao_core::channel::{
    config::{Field, FieldForm, Manifest},
    secrets::Secrets,
    setup::{INBOUND, SetupError},
};
use qudao_domain::{AssistantId, ChannelId, TenantId, key, state::ChannelKind, text::Name};
use qudao_storage::{ChannelChange, ChannelRecord, NewChannel, SealedSecrets};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::{List, dangling, in_tenant, page, parse_locale};
use crate::{
    access::TenantScope,
    act::{Act, change},
    code::Code,
    error::{ApiError, FieldCheck},
    extract::{Body, Id, NoQuery, PageQuery, Query},
    once::{Posted, Reply, commit_once, run_once},
    state::AppState,
};

/// How long an old secret stays valid beside a new one, unless the caller says otherwise.
const OVERLAP: u64 = 24 * 3600;
const LONGEST_OVERLAP: u64 = 7 * 24 * 3600;

/// A channel to be made.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CreateChannel {
    /// What it is called.
    #[schema(min_length = 1, max_length = 120)]
    name: String,
    /// What kind of place it is; `GET …/channel-kinds` lists them.
    #[schema(example = "web", max_length = 20)]
    kind: String,
    /// Who answers.
    #[schema(pattern = r"^ast_[0-9a-f]{32}$")]
    assistant_id: String,
    /// The language of what the platform itself says there; the tenant's if left out.
    #[schema(max_length = 35, pattern = r"^[A-Za-z]{2,3}(-[A-Za-z0-9]{1,8})*$")]
    locale: Option<String>,
    /// What its kind can be set, but for secrets.
    #[schema(value_type = Option<Object>)]
    settings: Option<Map<String, Value>>,
    /// What its kind needs that nobody may see: encrypted, and shown to nobody.
    secrets: Option<BTreeMap<String, String>>,
}

/// What is to change of a channel. What is left out stays.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct UpdateChannel {
    /// What it is called.
    #[schema(min_length = 1, max_length = 120)]
    name: Option<String>,
    /// Whether messages are accepted.
    open: Option<bool>,
    /// Who answers.
    #[schema(pattern = r"^ast_[0-9a-f]{32}$")]
    assistant_id: Option<String>,
    /// All settings anew.
    #[schema(value_type = Option<Object>)]
    settings: Option<Map<String, Value>>,
    /// Secrets that get another value. The old ones stay valid for a while, so that nothing is
    /// refused while the platform is told. An empty text removes a secret at once.
    secrets: Option<BTreeMap<String, String>>,
    /// For how many seconds old secrets stay valid; a day if left out.
    #[schema(maximum = 604_800)]
    secrets_overlap_s: Option<u64>,
}

/// A new channel, but for the locale, which may be the tenant's.
struct Draft {
    name: Name,
    kind: ChannelKind,
    assistant_id: AssistantId,
    locale: Option<String>,
    settings: Map<String, Value>,
    secrets: BTreeMap<String, String>,
}

impl CreateChannel {
    fn parse(self) -> Result<Draft, ApiError> {
        let mut check = FieldCheck::default();
        let name = check.take("/name", Name::parse(&self.name));
        let assistant_id = check.take("/assistant_id", self.assistant_id.parse::<AssistantId>());
        let locale = check.take_optional("/locale", self.locale.as_deref().map(parse_locale));
        let kind = check.take("/kind", find_kind(&self.kind));
        let settings = self.settings.unwrap_or_default();
        let secrets = self.secrets.unwrap_or_default();
        if let Some((_, manifest)) = kind {
            for (pointer, fault) in manifest.faults(&settings, &secrets, &[]) {
                check.refuse(&pointer, fault);
            }
        }
        let parts = name.zip(assistant_id).zip(kind);
        check.finish(parts.map(|((name, assistant_id), (kind, _))| Draft {
            name,
            kind,
            assistant_id,
            locale,
            settings,
            secrets,
        }))
    }
}

fn manifest_of(kind: ChannelKind) -> Option<&'static Manifest> {
    qudao_channels::manifests().into_iter().find(|manifest| manifest.kind == kind)
}

fn find_kind(text: &str) -> Result<(ChannelKind, &'static Manifest), String> {
    let known = ChannelKind::find(text).and_then(|kind| Some((kind, manifest_of(kind)?)));
    known.ok_or_else(|| {
        let kinds: Vec<_> =
            qudao_channels::manifests().iter().map(|one| one.kind.as_str()).collect();
        format!("has to be one of {}", kinds.join(", "))
    })
}

/// 128 random bits behind a prefix: not to be guessed, and no secret either.
fn public_key(kind: ChannelKind) -> String {
    let prefix = if kind == ChannelKind::Web { "wk" } else { "ik" };
    let hash = key::SecretHash::of(&key::random_secret());
    format!("{prefix}_{}", URL_SAFE_NO_PAD.encode(&hash.as_bytes()[..16]))
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
    /// Under which key strangers and platforms find it.
    public_key: Option<String>,
    /// Where its chat page is, on this server.
    #[schema(example = "/chat/wk_3vQB7B6MrGQZaxCuFg4oh0")]
    chat_path: Option<String>,
    /// Where its platform sends messages, on this server.
    #[schema(example = "/v1/inbound/ik_3vQB7B6MrGQZaxCuFg4oh0")]
    inbound_path: Option<String>,
    #[schema(value_type = Option<String>)]
    assistant_id: Option<AssistantId>,
    locale: String,
    /// Whether messages are accepted.
    open: bool,
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    /// What is set, but for secrets.
    #[schema(value_type = Object)]
    settings: Map<String, Value>,
    /// The names of the secrets that are set.
    secrets_set: Vec<String>,
    /// As whom its platform knows it, once that was tried.
    account: Option<String>,
    /// When its credentials were found good.
    #[schema(value_type = Option<String>, format = DateTime)]
    connected_at: Option<Timestamp>,
    /// What is wrong with them, and what to do.
    fault: Option<String>,
}

impl From<ChannelRecord> for ChannelBody {
    fn from(channel: ChannelRecord) -> Self {
        let key = channel.public_key.as_deref();
        let web = channel.kind == ChannelKind::Web;
        let chat_path = key.filter(|_| web).map(|key| format!("/chat/{key}"));
        let inbound_path = key.filter(|_| !web).map(|key| format!("{INBOUND}{key}"));
        Self {
            id: channel.id,
            name: channel.name,
            kind: channel.kind,
            public_key: channel.public_key,
            chat_path,
            inbound_path,
            assistant_id: channel.assistant_id,
            locale: channel.locale,
            open: channel.open,
            created_at: channel.created_at,
            settings: channel.settings,
            secrets_set: channel.secret_names,
            account: channel.account,
            connected_at: channel.connected_at,
            fault: channel.fault,
        }
    }
}

pub(crate) async fn create(
    state: web::Data<AppState>,
    TenantScope(tenant_id): TenantScope,
    _: Query<NoQuery>,
    Posted { body, once }: Posted<CreateChannel>,
) -> Result<HttpResponse, ApiError> {
    let Draft { name, kind, assistant_id, locale, settings, secrets } = body.parse()?;
    let id = ChannelId::new();
    // The vault has transactions of its own.
    let sealed = if secrets.is_empty() {
        None
    } else {
        in_tenant(&state, tenant_id, |_| Box::pin(async { Ok(()) })).await?;
        Some(seal(&state, tenant_id, id, Secrets::default(), secrets, Duration::ZERO).await?)
    };
    let made = commit_once(&state, tenant_id, once, move |tx| {
        Box::pin(async move {
            let tenant = tx.tenant().await?.ok_or_else(|| ApiError::not_found("tenant"))?;
            let new = NewChannel {
                id,
                name,
                kind,
                // A partner's channel is found by the partner's own key.
                public_key: (kind != ChannelKind::Partner).then(|| public_key(kind)),
                assistant_id,
                locale: locale.unwrap_or(tenant.locale),
                settings,
                secrets: sealed,
            };
            let made = tx.create_channel(&new).await;
            let made = made.map_err(dangling("/assistant_id", "assistant"))?;
            let location = format!("/v1/tenants/{tenant_id}/channels/{}", made.id);
            Ok(Reply::created(location, &ChannelBody::from(made)))
        })
    });
    made.await
}

/// Puts new values beside the old ones and encrypts all of them.
async fn seal(
    state: &web::Data<AppState>,
    tenant_id: TenantId,
    id: ChannelId,
    mut secrets: Secrets,
    new: BTreeMap<String, String>,
    overlap: Duration,
) -> Result<SealedSecrets, ApiError> {
    let core = state.core.clone();
    let sealed = state.on_runtime(async move {
        let now = core.clock.now();
        new.iter().for_each(|(name, text)| secrets.set(name, text, overlap, now));
        let names = secrets.names().map(str::to_owned).collect();
        let sealed = core.seal_channel_secrets(tenant_id, id, &secrets).await?;
        Ok::<_, SetupError>(SealedSecrets { sealed, names })
    });
    sealed.await
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
    Body(wanted): Body<UpdateChannel>,
) -> Result<HttpResponse, ApiError> {
    let unknown = || ApiError::not_found("channel");
    let found = in_tenant(&state, tenant_id, move |tx| {
        Box::pin(async move { Ok((tx.find_channel(id).await?, tx.channel_setup(id).await?)) })
    });
    let (Some(channel), Some(setup)) = found.await? else { return Err(unknown()) };
    if channel.kind == ChannelKind::Api {
        // Calls of the API are not messages of a channel; what ends them is the key.
        return Err(ApiError::field("", "the channel of the API cannot be changed"));
    }
    let (mut asked, secrets, overlap) = wanted.parse(&channel)?;
    if !secrets.is_empty() {
        let before = opened(&state, tenant_id, id, setup.secrets_sealed).await?;
        asked.secrets = Some(seal(&state, tenant_id, id, before, secrets, overlap).await?);
    }
    let changed = change(&state, act, tenant_id, move |tx| {
        Box::pin(async move {
            let changed = tx.change_channel(id, channel.revision, &asked).await;
            let changed = changed.map_err(dangling("/assistant_id", "assistant"))?;
            let detail = "somebody else changed the channel at the same moment";
            changed.ok_or_else(|| ApiError::new(Code::Conflict, detail))
        })
    });
    let changed = changed.await?;
    state.core.forget_channel(tenant_id, id).await;
    Ok(HttpResponse::Ok().json(ChannelBody::from(changed)))
}

impl UpdateChannel {
    fn parse(
        self,
        channel: &ChannelRecord,
    ) -> Result<(ChannelChange, BTreeMap<String, String>, Duration), ApiError> {
        let mut check = FieldCheck::default();
        if matches!(
            self,
            Self { name: None, open: None, assistant_id: None, settings: None, secrets: None, .. }
        ) {
            check.refuse("", "names nothing to change");
        }
        let name = check.take_optional("/name", self.name.as_deref().map(Name::parse));
        let assistant_id = self.assistant_id.as_deref().map(str::parse::<AssistantId>);
        let assistant_id = check.take_optional("/assistant_id", assistant_id);
        let overlap = self.secrets_overlap_s.unwrap_or(OVERLAP);
        if LONGEST_OVERLAP < overlap {
            check.refuse("/secrets_overlap_s", "has to be at most 604800, a week");
        }
        let secrets = self.secrets.unwrap_or_default();
        if self.settings.is_some() || !secrets.is_empty() {
            let settings = self.settings.as_ref().unwrap_or(&channel.settings);
            match manifest_of(channel.kind) {
                Some(manifest) => {
                    for (pointer, fault) in
                        manifest.faults(settings, &secrets, &channel.secret_names)
                    {
                        check.refuse(&pointer, fault);
                    }
                }
                None => check.refuse("/settings", "this kind of channel has none"),
            }
        }
        let change = ChannelChange {
            name,
            open: self.open,
            assistant_id,
            settings: self.settings,
            secrets: None,
        };
        check.finish(Some((change, secrets, Duration::from_secs(overlap))))
    }
}

/// The secrets as they are.
async fn opened(
    state: &web::Data<AppState>,
    tenant_id: TenantId,
    id: ChannelId,
    sealed: Option<Vec<u8>>,
) -> Result<Secrets, ApiError> {
    let Some(sealed) = sealed else { return Ok(Secrets::default()) };
    let core = state.core.clone();
    state.on_runtime(async move { core.open_channel_secrets(tenant_id, id, &sealed).await }).await
}

/// What came of trying a channel's credentials.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Connected {
    /// As whom its platform knows the channel, if it says so.
    account: Option<String>,
}

pub(crate) async fn connect(
    state: web::Data<AppState>,
    TenantScope(tenant_id): TenantScope,
    Id(id): Id<ChannelId>,
    _: Query<NoQuery>,
    once: crate::once::Once,
) -> Result<HttpResponse, ApiError> {
    let found = in_tenant(&state, tenant_id, move |tx| {
        Box::pin(async move { Ok(tx.find_channel(id).await?) })
    });
    found.await?.ok_or_else(|| ApiError::not_found("channel"))?;
    let host = state.channels.clone();
    let tried = async move {
        let account = Box::pin(host.connect(tenant_id, id)).await?;
        Ok(Reply::ok(&Connected { account }))
    };
    Box::pin(run_once(&state, tenant_id, once, tried)).await
}

/// A kind of channel.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ChannelKindBody {
    #[schema(value_type = String, example = "telegram")]
    kind: ChannelKind,
    /// What it is called, in English.
    name: &'static str,
    /// And in Chinese.
    name_zh: &'static str,
    /// What can be set.
    fields: Vec<FieldBody>,
}

/// One setting of a kind of channel.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct FieldBody {
    name: &'static str,
    label: &'static str,
    label_zh: &'static str,
    /// Where to find it.
    help: &'static str,
    /// It belongs into `secrets`.
    secret: bool,
    required: bool,
    /// `text`, `url`, `number`, `bool`, `list` or `choice`.
    form: &'static str,
    /// What can be chosen.
    choices: &'static [&'static str],
}

impl From<&Field> for FieldBody {
    fn from(field: &Field) -> Self {
        let (form, choices): (_, &[&str]) = match field.form {
            FieldForm::Text(_) | FieldForm::Key(_) => ("text", &[]),
            FieldForm::Url => ("url", &[]),
            FieldForm::Number(..) => ("number", &[]),
            FieldForm::Bool => ("bool", &[]),
            FieldForm::List(_) => ("list", &[]),
            FieldForm::Choice(choices) => ("choice", choices),
        };
        Self {
            name: field.name,
            label: field.label,
            label_zh: field.label_zh,
            help: field.help,
            secret: field.secret,
            required: field.required,
            form,
            choices,
        }
    }
}

/// Every kind of channel.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ChannelKindList {
    data: Vec<ChannelKindBody>,
}

pub(crate) async fn kinds(_: TenantScope, _: Query<NoQuery>) -> HttpResponse {
    let body = |manifest: &'static Manifest| ChannelKindBody {
        kind: manifest.kind,
        name: manifest.name,
        name_zh: manifest.name_zh,
        fields: manifest.fields.iter().map(FieldBody::from).collect(),
    };
    let data = qudao_channels::manifests().into_iter().map(body).collect();
    HttpResponse::Ok().json(ChannelKindList { data })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_public_key_has_22_characters_and_is_never_the_same() {
        let (one, other) = (public_key(ChannelKind::Web), public_key(ChannelKind::Web));
        assert_eq!(one.len(), 25);
        assert_ne!(one, other);
        assert!(public_key(ChannelKind::Telegram).starts_with("ik_"));
    }
}

//! Services that a tenant's members may sign in with.

use actix_web::{HttpResponse, web};
use jiff::Timestamp;
use qudao_domain::{IdentityProviderId, access::Role, text::Name};
use qudao_identity::{
    Email,
    oidc::{self, ProviderDraft},
};
use qudao_storage::{IdentityProvider, MemberRole};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{in_tenant, parse_optional_text};
use crate::{
    access::{Actor, TenantScope},
    act::{Act, change},
    error::{ApiError, FieldCheck},
    extract::{Id, NoQuery, Query},
    once::{Posted, Reply, commit_once},
    state::AppState,
};

const MAX_TEXT: usize = 2_000;
const MAX_DOMAINS: usize = 64;

/// A service to be used.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CreateIdentityProvider {
    /// What members see on the button; 1 to 120 characters.
    #[schema(min_length = 1, max_length = 120, pattern = r"^[^\x00]*[^\s\x00\x85][^\x00]*$")]
    name: String,
    /// Its address, exactly as its discovery document names it. It is asked before it is kept.
    #[schema(
        min_length = 1,
        max_length = 2000,
        pattern = r"[^\s\x85]",
        example = "https://login.example.com"
    )]
    issuer: String,
    /// What it calls this platform.
    #[schema(min_length = 1, max_length = 2000, pattern = r"[^\s\x85]")]
    client_id: String,
    /// What proves to it that this is the platform. It is kept encrypted and not shown again.
    #[schema(min_length = 1, max_length = 2000, pattern = r"[^\s\x85]")]
    client_secret: String,
    /// What somebody new becomes: `admin`, `billing`, `editor`, `agent` or `viewer`. If left out,
    /// only members may come in.
    #[schema(pattern = "^(admin|billing|editor|agent|viewer)$")]
    join_role: Option<String>,
    /// The domains of the verified addresses of which somebody new may be; needed with `join_role`.
    #[schema(max_items = 64)]
    join_domains: Option<Vec<String>>,
}

/// A service, without its secret.
#[derive(Debug, Serialize, ToSchema)]
#[schema(title = "IdentityProvider", as = IdentityProvider)]
pub(crate) struct IdentityProviderBody {
    #[schema(value_type = String, example = "idp_0198c0de00007000800000000000a001")]
    id: IdentityProviderId,
    name: String,
    issuer: String,
    client_id: String,
    #[schema(value_type = Option<String>)]
    join_role: Option<&'static str>,
    join_domains: Vec<String>,
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
}

/// All services of a tenant.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct IdentityProviderList {
    data: Vec<IdentityProviderBody>,
}

impl From<IdentityProvider> for IdentityProviderBody {
    fn from(provider: IdentityProvider) -> Self {
        let IdentityProvider {
            id,
            name,
            issuer,
            client_id,
            join_role,
            join_domains,
            created_at,
            ..
        } = provider;
        let join_role = join_role.map(Role::as_str);
        Self { id, name, issuer, client_id, join_role, join_domains, created_at }
    }
}

impl CreateIdentityProvider {
    fn parse(self) -> Result<ProviderDraft, ApiError> {
        let mut check = FieldCheck::default();
        let name = check.take("/name", Name::parse(&self.name));
        for (pointer, text) in [
            ("/issuer", &self.issuer),
            ("/client_id", &self.client_id),
            ("/client_secret", &self.client_secret),
        ] {
            if text.trim().is_empty() {
                check.refuse(pointer, "must not be empty");
            }
            check.take(pointer, parse_optional_text(text, MAX_TEXT));
        }
        let join_role = self.join_role.as_deref().map(|text| {
            Role::find(text)
                .filter(|role| *role != Role::Owner)
                .ok_or("has to be admin, billing, editor, agent or viewer")
        });
        let join_role = check.take_optional("/join_role", join_role);
        let mut join_domains = self.join_domains.unwrap_or_default();
        if MAX_DOMAINS < join_domains.len() {
            check.refuse("/join_domains", format_args!("has more than {MAX_DOMAINS} domains"));
        }
        for (at, domain) in join_domains.iter_mut().enumerate() {
            match Email::parse(&format!("a@{}", domain.trim())) {
                Ok(email) => *domain = email.domain().to_owned(),
                Err(_) => check.refuse(
                    &format!("/join_domains/{at}"),
                    "has to be a domain such as example.com",
                ),
            }
        }
        if join_role.is_some() && join_domains.is_empty() {
            check.refuse("/join_domains", "name the domains from which somebody new may come");
        }
        let Self { issuer, client_id, client_secret, .. } = self;
        check.finish(name.map(|name| ProviderDraft {
            name,
            issuer,
            client_id,
            client_secret,
            join_role,
            join_domains,
        }))
    }
}

pub(crate) async fn create(
    state: web::Data<AppState>,
    TenantScope(tenant_id): TenantScope,
    actor: Actor,
    _: Query<NoQuery>,
    Posted { body, once }: Posted<CreateIdentityProvider>,
) -> Result<HttpResponse, ApiError> {
    let draft = body.parse()?;
    // Whoever answers for a provider decides who everybody is, the owners too.
    actor.may_touch(MemberRole::Common(Role::Owner))?;
    let (identity, asked) = (state.identity.clone(), draft.clone());
    let id = IdentityProviderId::new();
    let examined = async move {
        identity.examine_provider(&asked.issuer).await?;
        identity.seal_provider(tenant_id, id, &asked).await
    };
    let sealed = state.on_runtime(examined).await?;
    let created = commit_once(&state, tenant_id, once, move |tx| {
        Box::pin(async move {
            let made = tx.create_identity_provider(&oidc::to_keep(id, &draft, &sealed)).await?;
            let location = format!("/v1/tenants/{tenant_id}/identity-providers/{id}");
            Ok(Reply::created(location, &IdentityProviderBody::from(made)))
        })
    });
    created.await
}

pub(crate) async fn list(
    state: web::Data<AppState>,
    TenantScope(tenant_id): TenantScope,
    _: Query<NoQuery>,
) -> Result<HttpResponse, ApiError> {
    let found = in_tenant(&state, tenant_id, move |tx| {
        Box::pin(async move { Ok(tx.list_identity_providers().await?) })
    });
    let data = found.await?.into_iter().map(Into::into).collect();
    Ok(HttpResponse::Ok().json(IdentityProviderList { data }))
}

pub(crate) async fn delete(
    state: web::Data<AppState>,
    TenantScope(tenant_id): TenantScope,
    actor: Actor,
    act: Act,
    Id(id): Id<IdentityProviderId>,
    _: Query<NoQuery>,
) -> Result<HttpResponse, ApiError> {
    actor.may_touch(MemberRole::Common(Role::Owner))?;
    let deleted = change(&state, act, tenant_id, move |tx| {
        Box::pin(async move {
            let deleted = tx.delete_identity_provider(id).await?;
            deleted.then_some(()).ok_or_else(|| ApiError::not_found("identity provider"))
        })
    });
    deleted.await?;
    Ok(HttpResponse::NoContent().finish())
}

//! Signing in by an identity provider: a browser goes there and comes back.

use actix_web::{HttpRequest, HttpResponse, http::header, web};
use qudao_domain::{IdentityProviderId, TenantId};
use qudao_identity::oidc::OidcError;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    address::client_address,
    code::Code,
    cookie,
    error::ApiError,
    extract::{Id, NoQuery, Query, path_id},
    sign_in::visit,
    state::AppState,
};

/// How members of a tenant may sign in.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SignInOptions {
    /// Services beside the password.
    identity_providers: Vec<SignInOption>,
}

/// A service to sign in with.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SignInOption {
    name: String,
    /// Where to send the browser.
    url: String,
}

/// What a provider adds to the address that it sends a browser back to. Providers may add more.
#[derive(Deserialize)]
pub(crate) struct Callback {
    #[serde(default)]
    state: String,
    #[serde(default)]
    code: String,
    error: Option<String>,
}

/// A tenant that does not exist has no services, like one that has none.
pub(crate) async fn options(
    state: web::Data<AppState>,
    request: HttpRequest,
    _: Query<NoQuery>,
) -> Result<HttpResponse, ApiError> {
    let tenant_id: TenantId = path_id(&request)?;
    let core = state.core.clone();
    let reading = async move {
        let mut tx = core.store.begin_reading(tenant_id).await?;
        let found = tx.list_identity_providers().await?;
        tx.commit().await?;
        Ok::<_, ApiError>(found)
    };
    let option = |provider: qudao_storage::IdentityProvider| SignInOption {
        url: format!("/v1/tenants/{tenant_id}/identity-providers/{}/sign-in", provider.id),
        name: provider.name,
    };
    let found = state.on_runtime(reading).await?;
    let identity_providers = found.into_iter().map(option).collect();
    Ok(HttpResponse::Ok().json(SignInOptions { identity_providers }))
}

pub(crate) async fn depart(
    state: web::Data<AppState>,
    request: HttpRequest,
    Id(provider_id): Id<IdentityProviderId>,
    _: Query<NoQuery>,
) -> Result<HttpResponse, ApiError> {
    let tenant_id: TenantId = path_id(&request)?;
    let base_url = base_url(&state, &request)?;
    let account = provider_id.to_string();
    let address = client_address(&request);
    state.within(state.core.may_sign_in(tenant_id, &account, address)).await?;
    let identity = state.identity.clone();
    let departing = async move { identity.depart(tenant_id, provider_id, &base_url).await };
    let departure = state.on_runtime(departing).await?;
    let departure = departure.ok_or_else(|| ApiError::not_found("identity provider"))?;
    Ok(HttpResponse::SeeOther()
        .insert_header((header::LOCATION, departure.url))
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .cookie(cookie::flow(departure.cookie, departure.good_for))
        .finish())
}

pub(crate) async fn arrive(
    state: web::Data<AppState>,
    request: HttpRequest,
    Query(Callback { state: flow, code, error }): Query<Callback>,
) -> Result<HttpResponse, ApiError> {
    let base_url = base_url(&state, &request)?;
    let waiting = cookie::read_flow(&request).ok_or(OidcError::Stray)?;
    if let Some(error) = error {
        let word: String = error.chars().filter(char::is_ascii_graphic).take(60).collect();
        return Err(OidcError::Unconfirmed(word).into());
    }
    let (identity, visit) = (state.identity.clone(), visit(&request));
    let arriving = async move { identity.arrive(&waiting, &flow, &code, &base_url, &visit).await };
    let signed_in = state.on_runtime(arriving).await?;
    Ok(HttpResponse::SeeOther()
        .insert_header((header::LOCATION, "/console"))
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .cookie(cookie::issue(&signed_in, state.identity.settings.session))
        .cookie(cookie::forget_flow())
        .finish())
}

/// What others call this server: providers send browsers back there, and compare it letter by
/// letter. The name in a request is believed where only this machine can have sent it.
fn base_url(state: &AppState, request: &HttpRequest) -> Result<String, ApiError> {
    if let Some(url) = &state.settings.public_url {
        return Ok(url.trim_end_matches('/').to_owned());
    }
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    let local = |host: &&str| {
        let name = host.rsplit_once(':').map_or(*host, |(name, _)| name);
        matches!(name, "localhost" | "127.0.0.1" | "[::1]")
    };
    host.filter(local).map(|host| format!("http://{host}")).ok_or_else(|| {
        let detail = "the operator has to set server.public_url before anybody can sign in by an \
                      identity provider";
        ApiError::new(Code::Unavailable, detail)
    })
}

impl From<OidcError> for ApiError {
    fn from(error: OidcError) -> Self {
        let detail = error.to_string();
        match error {
            OidcError::Provider(_) => Self::field("/issuer", detail),
            OidcError::Stray => Self::new(Code::BadRequest, detail),
            OidcError::Unconfirmed(_) => Self::new(Code::InvalidCredentials, detail),
            OidcError::NotAMember => Self::new(Code::Forbidden, detail),
            OidcError::Identity(error) => error.into(),
        }
    }
}

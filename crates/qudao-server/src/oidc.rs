//! Signing in by an identity provider: a browser goes there and comes back.

use actix_web::{HttpRequest, HttpResponse, HttpResponseBuilder, http::header, web};
use qudao_core::TooFast;
use qudao_domain::{IdentityProviderId, TenantId};
use qudao_identity::{
    SignedIn,
    oidc::{Departure, OidcError, Returned},
};
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
    Ok(match begin(&state, &request, tenant_id, provider_id).await {
        Ok(departure) => see_other(&departure.url)
            .cookie(cookie::flow(departure.cookie, departure.good_for))
            .finish(),
        Err(failure) => see_other(&failure.page()).finish(),
    })
}

async fn begin(
    state: &web::Data<AppState>,
    request: &HttpRequest,
    tenant_id: TenantId,
    provider_id: IdentityProviderId,
) -> Result<Departure, Failure> {
    let base_url = base_url(state, request).ok_or(Failure::NotSetUp)?;
    let (account, address) = (provider_id.to_string(), client_address(request));
    state.within(state.core.may_sign_in(tenant_id, &account, address)).await?;
    let identity = state.identity.clone();
    let departing = async move { Ok(identity.depart(tenant_id, provider_id, &base_url).await) };
    state.on_runtime::<_, ApiError, _>(departing).await??.ok_or(Failure::ProviderGone)
}

pub(crate) async fn arrive(
    state: web::Data<AppState>,
    request: HttpRequest,
    Query(callback): Query<Callback>,
) -> HttpResponse {
    match finish(&state, &request, callback).await {
        Ok(signed_in) => see_other("/console")
            .cookie(cookie::issue(&signed_in, state.identity.settings.session))
            .cookie(cookie::forget_flow())
            .finish(),
        // What waits may still be good: this was not the return that it waits for.
        Err(Failure::Stray) => see_other(&Failure::Stray.page()).finish(),
        Err(failure) => see_other(&failure.page()).cookie(cookie::forget_flow()).finish(),
    }
}

async fn finish(
    state: &web::Data<AppState>,
    request: &HttpRequest,
    Callback { state: flow, code, error }: Callback,
) -> Result<SignedIn, Failure> {
    let base_url = base_url(state, request).ok_or(Failure::NotSetUp)?;
    let waiting = cookie::read_flow(request).ok_or(Failure::Stray)?;
    let word = |error: String| error.chars().filter(char::is_ascii_graphic).take(60).collect();
    let outcome = error.map(word).map_or(Ok(code), Err);
    let (identity, visit) = (state.identity.clone(), visit(request));
    let returned = Returned { state: flow, outcome };
    let arriving = async move { Ok(identity.arrive(&waiting, returned, &base_url, &visit).await) };
    Ok(state.on_runtime::<_, ApiError, _>(arriving).await??)
}

fn see_other(place: &str) -> HttpResponseBuilder {
    let mut response = HttpResponse::SeeOther();
    response
        .insert_header((header::LOCATION, place))
        .insert_header((header::CACHE_CONTROL, "no-store"));
    response
}

/// Why nobody was signed in, as the console is told: a closed list, for which it has the words. A
/// browser that follows links is shown a page, and what a provider said is none of ours to show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    /// It did not begin in this browser, or took too long.
    Stray,
    /// The provider, or the person there, said no.
    Refused,
    /// What the provider said does not hold.
    Unconfirmed,
    /// The provider did not verify the address.
    EmailUnverified,
    /// The tenant does not know them.
    NotAMember,
    /// The provider does not take the platform's client id and secret.
    ClientRefused,
    /// The provider does not answer as it should.
    ProviderAway,
    /// The tenant has no such provider any more.
    ProviderGone,
    /// Too many attempts.
    RateLimited,
    /// The operator has not said what others call this server.
    NotSetUp,
    /// Something else.
    Failed,
}

impl Failure {
    /// All of them.
    #[cfg(test)]
    pub(crate) const ALL: &'static [Self] = &[
        Self::Stray,
        Self::Refused,
        Self::Unconfirmed,
        Self::EmailUnverified,
        Self::NotAMember,
        Self::ClientRefused,
        Self::ProviderAway,
        Self::ProviderGone,
        Self::RateLimited,
        Self::NotSetUp,
        Self::Failed,
    ];

    /// As it stands in the console's address. Never renamed.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Stray => "stray",
            Self::Refused => "refused",
            Self::Unconfirmed => "unconfirmed",
            Self::EmailUnverified => "email_unverified",
            Self::NotAMember => "not_a_member",
            Self::ClientRefused => "client_refused",
            Self::ProviderAway => "provider_away",
            Self::ProviderGone => "provider_gone",
            Self::RateLimited => "rate_limited",
            Self::NotSetUp => "not_set_up",
            Self::Failed => "failed",
        }
    }

    fn page(self) -> String {
        format!("/console#/sign-in-failed?code={}", self.as_str())
    }
}

impl From<OidcError> for Failure {
    fn from(error: OidcError) -> Self {
        // The page tells the kind alone; whoever has to mend it finds the rest in the log.
        tracing::info!(%error, "nobody was signed in by an identity provider");
        match error {
            OidcError::Provider(_) => Self::ProviderAway,
            OidcError::Stray => Self::Stray,
            OidcError::Refused(_) => Self::Refused,
            OidcError::ClientRefused => Self::ClientRefused,
            OidcError::Unconfirmed(_) => Self::Unconfirmed,
            OidcError::Unverified => Self::EmailUnverified,
            OidcError::NotAMember => Self::NotAMember,
            OidcError::Identity(error) => ApiError::from(error).into(),
        }
    }
}

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        if error.code() == Code::RateLimited { Self::RateLimited } else { Self::Failed }
    }
}

impl From<TooFast> for Failure {
    fn from(_: TooFast) -> Self {
        Self::RateLimited
    }
}

/// What others call this server: providers send browsers back there, and compare it letter by
/// letter. The name in a request is believed where only this machine can have sent it. `None` where
/// the operator has to set `server.public_url` first.
pub(crate) fn base_url(state: &AppState, request: &HttpRequest) -> Option<String> {
    if let Some(url) = &state.settings.public_url {
        return Some(url.trim_end_matches('/').to_owned());
    }
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    let local = |host: &&str| {
        let name = host.rsplit_once(':').map_or(*host, |(name, _)| name);
        matches!(name, "localhost" | "127.0.0.1" | "[::1]")
    };
    host.filter(local).map(|host| format!("http://{host}"))
}

impl From<OidcError> for ApiError {
    fn from(error: OidcError) -> Self {
        let detail = error.to_string();
        match error {
            OidcError::Provider(_) => Self::field("/issuer", detail),
            OidcError::Stray => Self::new(Code::BadRequest, detail),
            OidcError::Refused(_)
            | OidcError::ClientRefused
            | OidcError::Unconfirmed(_)
            | OidcError::Unverified => Self::new(Code::InvalidCredentials, detail),
            OidcError::NotAMember => Self::new(Code::Forbidden, detail),
            OidcError::Identity(error) => error.into(),
        }
    }
}

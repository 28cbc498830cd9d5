//! Signing in by an identity provider of the tenant's choice: OpenID Connect, the authorisation code
//! flow with PKCE.
//!
//! The provider's address is the tenant's, so it is only ever asked through [`Egress`]. What a
//! browser has to bring back (state, nonce and the verifier of PKCE) waits in an encrypted cookie of
//! that browser: nothing is stored of whoever never comes back, and nobody finishes what another
//! browser began.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use openidconnect::{
    AccessToken, AuthorizationCode, ClientId, ClientSecret, CsrfToken, EndpointMaybeSet,
    EndpointNotSet, EndpointSet, IssuerUrl, Nonce, OAuth2TokenResponse as _, PkceCodeChallenge,
    PkceCodeVerifier, RedirectUrl, RequestTokenError, Scope, SubjectIdentifier, TokenResponse as _,
    core::{
        CoreAuthenticationFlow, CoreClient, CoreErrorResponseType, CoreProviderMetadata,
        CoreUserInfoClaims,
    },
};
use qudao_core::vault::Place;
use qudao_domain::{IdentityProviderId, TenantId, access::Role, text::Name};
use qudao_egress::{Egress, EgressError};
use qudao_storage::{
    IdentityProvider, Member, MemberRole, NewIdentityProvider, NewMember, SignIn, StorageError, Tx,
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{Email, Identity, IdentityError, SignedIn, Visit, sign_in::may_enter};

/// How long somebody may take at the provider.
const PATIENCE: Duration = Duration::from_secs(600);
/// Where the provider sends a browser back to.
pub const CALLBACK: &str = "/v1/oidc/callback";

type Client = CoreClient<
    EndpointSet,
    EndpointNotSet,
    EndpointNotSet,
    EndpointNotSet,
    EndpointMaybeSet,
    EndpointMaybeSet,
>;

/// A provider to be used.
#[derive(Clone)]
pub struct ProviderDraft {
    /// What members see on the button.
    pub name: Name,
    /// Its address, exactly as it names itself.
    pub issuer: String,
    /// What it calls this platform.
    pub client_id: String,
    /// What proves to it that this is the platform.
    pub client_secret: String,
    /// What somebody new becomes.
    pub join_role: Option<Role>,
    /// The domains of the addresses of which somebody new may be.
    pub join_domains: Vec<String>,
}

/// Where to send a browser, and what it has to bring back.
#[derive(Debug)]
pub struct Departure {
    /// The provider's page.
    pub url: String,
    /// The value of a cookie.
    pub cookie: String,
    /// How long it is good.
    pub good_for: Duration,
}

/// Signing in by a provider does not work.
#[derive(Debug, thiserror::Error)]
pub enum OidcError {
    /// The provider's address may not be asked, or it does not answer as it should.
    #[error("the identity provider cannot be used: {0}")]
    Provider(String),
    /// The browser brought nothing that began here, or brought it too late.
    #[error("this sign-in did not begin in this browser, or took too long; begin again")]
    Stray,
    /// The provider, or the person there, said no.
    #[error("the identity provider refused: {0}")]
    Refused(String),
    /// The provider does not take the client's id or secret for what it gave out.
    #[error("the identity provider does not know this platform by its client id and secret")]
    ClientRefused,
    /// The provider said something that does not hold.
    #[error("the identity provider did not confirm who you are: {0}")]
    Unconfirmed(String),
    /// Somebody new, whose address the provider did not verify.
    #[error("the identity provider did not verify your e-mail address")]
    Unverified,
    /// The provider knows them, and the tenant does not.
    #[error("you are not a member here; ask for an invitation")]
    NotAMember,
    /// Something else.
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

impl From<StorageError> for OidcError {
    fn from(error: StorageError) -> Self {
        Self::Identity(error.into())
    }
}

/// What a provider adds to the address that it sends a browser back to.
pub struct Returned {
    /// What the browser took along.
    pub state: String,
    /// To be exchanged for who it is; or the provider's word for why not.
    pub outcome: Result<String, String>,
}

/// What waits in the cookie.
#[derive(Serialize, Deserialize)]
struct Flow {
    tenant_id: TenantId,
    provider_id: IdentityProviderId,
    state: String,
    nonce: String,
    verifier: String,
    /// Seconds since 1970.
    until: i64,
}

/// Who somebody is, as the provider says.
struct Claims {
    subject: String,
    /// Verified by the provider.
    email: Option<Email>,
    name: Option<String>,
}

impl Identity {
    /// Asks a provider whether it is one, and makes it one of the tenant's in `tx` on success.
    ///
    /// # Errors
    /// [`OidcError::Provider`] says what is wrong with its address or its answer.
    pub async fn examine_provider(&self, issuer: &str) -> Result<(), OidcError> {
        self.discover(issuer).await.map(drop)
    }

    /// Encrypts a provider's secret for the row that it will stand in.
    ///
    /// # Errors
    /// [`OidcError`].
    pub async fn seal_provider(
        &self,
        tenant_id: TenantId,
        id: IdentityProviderId,
        draft: &ProviderDraft,
    ) -> Result<Vec<u8>, OidcError> {
        let secret = draft.client_secret.as_bytes();
        let sealed = self.core.vault.seal(tenant_id, secret_place(id), secret).await;
        Ok(sealed.map_err(IdentityError::from)?)
    }

    /// Begins to sign somebody in by a provider. `None` if the tenant has no such provider.
    ///
    /// # Errors
    /// [`OidcError`].
    pub async fn depart(
        &self,
        tenant_id: TenantId,
        provider_id: IdentityProviderId,
        base_url: &str,
    ) -> Result<Option<Departure>, OidcError> {
        let Some(provider) = self.provider(tenant_id, provider_id).await? else { return Ok(None) };
        let client = self.client(tenant_id, &provider, base_url).await?;
        let (challenge, verifier) = PkceCodeChallenge::new_random_sha256();
        let (url, state, nonce) = client
            .authorize_url(
                CoreAuthenticationFlow::AuthorizationCode,
                CsrfToken::new_random,
                Nonce::new_random,
            )
            .add_scope(Scope::new("email".to_owned()))
            .add_scope(Scope::new("profile".to_owned()))
            .set_pkce_challenge(challenge)
            .url();
        if !matches!(url.scheme(), "https" | "http") {
            return Err(OidcError::Provider("its sign-in page is no web page".to_owned()));
        }
        let flow = Flow {
            tenant_id,
            provider_id,
            state: state.into_secret(),
            nonce: nonce.secret().clone(),
            verifier: verifier.into_secret(),
            until: self.core.clock.now().as_second() + PATIENCE.as_secs().cast_signed(),
        };
        let cookie = self.seal_flow(&flow).await?;
        Ok(Some(Departure { url: url.into(), cookie, good_for: PATIENCE }))
    }

    /// Lets somebody in who comes back from a provider.
    ///
    /// # Errors
    /// [`OidcError`].
    pub async fn arrive(
        &self,
        cookie: &str,
        returned: Returned,
        base_url: &str,
        visit: &Visit,
    ) -> Result<SignedIn, OidcError> {
        let Returned { state, outcome } = returned;
        let flow = self.open_flow(cookie).await?;
        let now = self.core.clock.now().as_second();
        let own: bool =
            subtle::ConstantTimeEq::ct_eq(flow.state.as_bytes(), state.as_bytes()).into();
        if !own || flow.until < now {
            return Err(OidcError::Stray);
        }
        let code = outcome.map_err(OidcError::Refused)?;
        let Flow { tenant_id, provider_id, nonce, verifier, .. } = flow;
        let provider = self.provider(tenant_id, provider_id).await?.ok_or(OidcError::Stray)?;
        let client = self.client(tenant_id, &provider, base_url).await?;
        let claims = self.claims(&client, &code, verifier, nonce).await?;
        let mut tx = self.core.store.begin(tenant_id).await?;
        let member = whoever_is(&mut tx, &provider, &claims).await?;
        let signed_in = self.begin_session(&mut tx, member, SignIn::Oidc, visit).await?;
        tx.commit().await?;
        Ok(signed_in)
    }

    async fn provider(
        &self,
        tenant_id: TenantId,
        id: IdentityProviderId,
    ) -> Result<Option<IdentityProvider>, OidcError> {
        let mut tx = self.core.store.begin_reading(tenant_id).await?;
        let provider = tx.identity_provider(id).await?;
        tx.commit().await?;
        Ok(provider)
    }

    fn egress(&self) -> Result<&Egress, OidcError> {
        let missing = || "this machine cannot request addresses; the log says why".to_owned();
        self.egress.as_ref().ok_or_else(|| OidcError::Provider(missing()))
    }

    async fn discover(&self, issuer: &str) -> Result<CoreProviderMetadata, OidcError> {
        let wrong = |error: &dyn std::fmt::Display| OidcError::Provider(error.to_string());
        self.egress()?.url(issuer).map_err(|error| wrong(&error))?;
        let issuer = IssuerUrl::new(issuer.to_owned()).map_err(|error| wrong(&error))?;
        let discovered =
            CoreProviderMetadata::discover_async(issuer, &http(self.egress()?.clone())).await;
        discovered.map_err(|error| wrong(&innermost(&error)))
    }

    async fn client(
        &self,
        tenant_id: TenantId,
        provider: &IdentityProvider,
        base_url: &str,
    ) -> Result<Client, OidcError> {
        let metadata = self.discover(&provider.issuer).await?;
        let sealed = &provider.client_secret_sealed;
        let secret = self.core.vault.open(tenant_id, secret_place(provider.id), sealed).await;
        let secret = secret.map_err(IdentityError::from)?;
        let secret = String::from_utf8_lossy(secret.reveal()).into_owned();
        let redirect = RedirectUrl::new(format!("{base_url}{CALLBACK}"))
            .map_err(|error| OidcError::Provider(error.to_string()))?;
        let id = ClientId::new(provider.client_id.clone());
        let client =
            CoreClient::from_provider_metadata(metadata, id, Some(ClientSecret::new(secret)));
        Ok(client.set_redirect_uri(redirect))
    }

    /// Exchanges the code for what the provider says of whoever brought it.
    async fn claims(
        &self,
        client: &Client,
        code: &str,
        verifier: String,
        nonce: String,
    ) -> Result<Claims, OidcError> {
        let wrong = |error: &dyn std::fmt::Display| OidcError::Unconfirmed(error.to_string());
        let http = http(self.egress()?.clone());
        let exchange = client
            .exchange_code(AuthorizationCode::new(code.to_owned()))
            .map_err(|error| wrong(&error))?
            .set_pkce_verifier(PkceCodeVerifier::new(verifier));
        let tokens = exchange.request_async(&http).await;
        let tokens = tokens.map_err(|error| match &error {
            RequestTokenError::ServerResponse(said) if is_about_client(said.error()) => {
                OidcError::ClientRefused
            }
            _ => wrong(&innermost(&error)),
        })?;
        let id_token = tokens.id_token().ok_or_else(|| wrong(&"it sent no ID token"))?;
        let claims = id_token.claims(&client.id_token_verifier(), &Nonce::new(nonce));
        let claims = claims.map_err(|error| wrong(&error))?;
        let subject = claims.subject().clone();
        let name = claims.name().and_then(|name| name.get(None)).map(|name| name.to_string());
        let verified = claims.email_verified() == Some(true);
        let email = claims.email().filter(|_| verified).map(|email| email.to_string());
        let (email, name) = match email {
            Some(email) => (Some(email), name),
            // Many providers tell it there only.
            None => self.user_info(client, tokens.access_token().clone(), &subject).await?,
        };
        let email = email.and_then(|email| Email::parse(&email).ok());
        Ok(Claims { subject: subject.to_string(), email, name })
    }

    async fn user_info(
        &self,
        client: &Client,
        token: AccessToken,
        subject: &SubjectIdentifier,
    ) -> Result<(Option<String>, Option<String>), OidcError> {
        let Ok(request) = client.user_info(token, Some(subject.clone())) else {
            return Ok((None, None));
        };
        let asked = request.request_async(&http(self.egress()?.clone())).await;
        let info: CoreUserInfoClaims =
            asked.map_err(|error| OidcError::Unconfirmed(innermost(&error)))?;
        let verified = info.email_verified() == Some(true);
        let email = info.email().filter(|_| verified).map(|email| email.to_string());
        let name = info.name().and_then(|name| name.get(None)).map(|name| name.to_string());
        Ok((email, name))
    }

    async fn seal_flow(&self, flow: &Flow) -> Result<String, OidcError> {
        let id = Uuid::from_u128(rand::random());
        let plain = serde_json::to_vec(flow).unwrap_or_default();
        let sealed = self.core.vault.seal_platform(flow_place(id), &plain).await;
        let sealed = sealed.map_err(IdentityError::from)?;
        Ok(URL_SAFE_NO_PAD.encode([id.as_bytes().as_slice(), &sealed].concat()))
    }

    async fn open_flow(&self, cookie: &str) -> Result<Flow, OidcError> {
        let bytes = URL_SAFE_NO_PAD.decode(cookie).map_err(|_| OidcError::Stray)?;
        let (id, sealed) = bytes.split_at_checked(16).ok_or(OidcError::Stray)?;
        let id = Uuid::from_slice(id).map_err(|_| OidcError::Stray)?;
        let plain = self.core.vault.open_platform(flow_place(id), sealed).await;
        let plain = plain.map_err(|_| OidcError::Stray)?;
        serde_json::from_slice(plain.reveal()).map_err(|_| OidcError::Stray)
    }
}

/// The member whom a provider knows: by its own name for them, else by an address that it verified.
/// Somebody new comes in only where the tenant said as what, and from which domains.
async fn whoever_is(
    tx: &mut Tx,
    provider: &IdentityProvider,
    claims: &Claims,
) -> Result<Member, OidcError> {
    if let Some(known) = tx.member_by_subject(provider.id, &claims.subject).await? {
        return Some(known).filter(may_enter).ok_or(OidcError::NotAMember);
    }
    let email = claims.email.as_ref().ok_or(OidcError::Unverified)?;
    let member = match tx.member_by_email(email.as_str()).await? {
        Some((member, _)) => Some(member).filter(may_enter).ok_or(OidcError::NotAMember)?,
        None => join(tx, provider, email, claims).await?,
    };
    tx.link_identity(provider.id, &claims.subject, member.id).await?;
    Ok(member)
}

async fn join(
    tx: &mut Tx,
    provider: &IdentityProvider,
    email: &Email,
    claims: &Claims,
) -> Result<Member, OidcError> {
    let role = provider.join_role.ok_or(OidcError::NotAMember)?;
    if !provider.join_domains.iter().any(|domain| domain == email.domain()) {
        return Err(OidcError::NotAMember);
    }
    let shortened: String =
        claims.name.as_deref().unwrap_or_default().chars().take(Name::MAX_CHARS).collect();
    let name = Name::parse(&shortened).or_else(|_| Name::parse(email.as_str()));
    let name = name.map_err(|error| OidcError::Unconfirmed(error.to_string()))?;
    let new = NewMember {
        email: email.as_str(),
        name: &name,
        role: MemberRole::Common(role),
        password_hash: None,
    };
    Ok(tx.create_member(&new).await?)
}

fn is_about_client(error: &CoreErrorResponseType) -> bool {
    matches!(
        error,
        CoreErrorResponseType::InvalidClient | CoreErrorResponseType::UnauthorizedClient
    )
}

/// A provider to be kept, its secret sealed.
pub fn to_keep<'a>(
    id: IdentityProviderId,
    draft: &'a ProviderDraft,
    sealed: &'a [u8],
) -> NewIdentityProvider<'a> {
    NewIdentityProvider {
        id,
        name: &draft.name,
        issuer: &draft.issuer,
        client_id: &draft.client_id,
        client_secret_sealed: sealed,
        join_role: draft.join_role,
        join_domains: &draft.join_domains,
    }
}

fn secret_place(id: IdentityProviderId) -> Place {
    Place { table: "identity_providers", column: "client_secret_sealed", row: id.as_uuid() }
}

fn flow_place(id: Uuid) -> Place {
    Place { table: "cookie", column: "oidc", row: id }
}

/// The library's requests, sent by the one client that may reach what a tenant aims at.
fn http(
    egress: Egress,
) -> impl Fn(
    openidconnect::HttpRequest,
) -> std::pin::Pin<
    Box<dyn Future<Output = Result<openidconnect::HttpResponse, EgressError>> + Send>,
> {
    move |request| {
        let egress = egress.clone();
        Box::pin(async move { egress.send(request).await })
    }
}

/// What went wrong first; the library's own words only say in which step.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

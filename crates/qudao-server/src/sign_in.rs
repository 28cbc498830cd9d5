//! How members come in, and what they change about their own ways in.

use actix_web::{HttpRequest, HttpResponse, http::header, web};
use jiff::Timestamp;
use qudao_domain::{
    MemberId, SessionId, TenantId,
    key::{Ticket, TicketKind},
    text::Name,
};
use qudao_identity::{
    Credentials, Email, IdentityError, Newcomer, Password, PasswordError, Proof, Session, SignedIn,
    Visit,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    access::MemberCaller,
    address::{client_address, peer_address},
    admin::roles::role_words,
    code::Code,
    cookie,
    error::{ApiError, FieldCheck},
    extract::{Body, NoQuery, Query, path_id},
    failure::SHED,
    scope::RequestContext,
    site,
    state::AppState,
};

/// What a member signs in with.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SignIn {
    #[schema(
        max_length = 254,
        pattern = r"^\s*[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*@([A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?\s*$"
    )]
    email: String,
    password: String,
    /// Six digits of the authenticator app, or a recovery code; needed by whoever has set one up.
    code: Option<String>,
}

/// Somebody who takes up an invitation.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Accept {
    /// From the invitation.
    token: String,
    /// What they are called; 1 to 120 characters.
    #[schema(min_length = 1, max_length = 120, pattern = r"^[^\x00]*[^\s\x00\x85][^\x00]*$")]
    name: String,
    /// 10 to 128 characters that are not easy to guess.
    #[schema(min_length = 10, max_length = 128)]
    password: String,
}

/// Who is signed in.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SessionFace {
    #[schema(value_type = String, example = "ten_0198c0de00007000800000000000a001")]
    tenant_id: TenantId,
    #[schema(value_type = String, example = "mbr_0198c0de00007000800000000000a001")]
    member_id: MemberId,
    #[schema(value_type = String, example = "ses_0198c0de00007000800000000000a001")]
    session_id: SessionId,
    name: String,
    email: String,
    role: String,
    /// Whether they have a password here.
    has_password: bool,
    /// Whether they need a code of an authenticator app.
    has_second_factor: bool,
    /// What they may do at this moment.
    scopes: Vec<&'static str>,
    /// To be sent in the header `X-CSRF-Token` of every request that changes something.
    csrf_token: String,
    #[schema(value_type = String, format = DateTime)]
    expires_at: Timestamp,
}

/// A password for another.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ChangePassword {
    password: String,
    /// Needed by whoever has a second factor.
    code: Option<String>,
    /// 10 to 128 characters that are not easy to guess.
    #[schema(min_length = 10, max_length = 128)]
    new_password: String,
}

/// What a member shows again.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ShowAgain {
    password: String,
    /// Needed by whoever has a second factor.
    code: Option<String>,
}

/// The password that a member shows again.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ShowPassword {
    password: String,
}

/// What an authenticator app needs.
#[derive(Serialize, ToSchema)]
pub(crate) struct SecondFactor {
    /// To be typed in.
    secret: String,
    /// To be shown as a QR code.
    #[schema(example = "otpauth://totp/…")]
    url: String,
}

/// The first code of the app.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ConfirmSecondFactor {
    code: String,
}

/// For the day when the device is lost.
#[derive(Serialize, ToSchema)]
pub(crate) struct RecoveryCodes {
    /// Each is good once. They are not shown again.
    recovery_codes: Vec<String>,
}

impl SessionFace {
    fn of(session: &Session) -> Self {
        let holder = &session.holder;
        Self {
            tenant_id: session.tenant_id,
            member_id: holder.member_id,
            session_id: session.id,
            name: holder.name.clone(),
            email: holder.email.clone(),
            role: role_words(holder.role),
            has_password: holder.has_password,
            has_second_factor: holder.has_totp,
            scopes: holder.scopes.words(),
            csrf_token: session.csrf_token.clone(),
            expires_at: holder.expires_at,
        }
    }
}

pub(crate) fn visit(request: &HttpRequest) -> Visit {
    let agent = request.headers().get(header::USER_AGENT).map(header::HeaderValue::as_bytes);
    Visit {
        address: peer_address(request),
        user_agent: String::from_utf8_lossy(agent.unwrap_or_default()).into_owned(),
        request_id: RequestContext::of(request).id().to_owned(),
    }
}

pub(crate) async fn create(
    state: web::Data<AppState>,
    request: HttpRequest,
    _: Query<NoQuery>,
    Body(body): Body<SignIn>,
) -> Result<HttpResponse, ApiError> {
    // Nobody is to be signed in as somebody else by another site.
    if !site::is_own_origin(&request) {
        return Err(ApiError::new(Code::OriginRefused, "another web site sent this request"));
    }
    let tenant_id: TenantId = path_id(&request)?;
    let email = Email::parse(&body.email).map_err(|error| ApiError::field("/email", error))?;
    let address = client_address(&request);
    state.within(state.core.may_sign_in(tenant_id, email.as_str(), address)).await?;
    let credentials = Credentials { email, password: body.password, code: body.code };
    let (identity, visit) = (state.identity.clone(), visit(&request));
    let signing = async move {
        let signed_in = identity.sign_in(tenant_id, &credentials, &visit).await;
        if let Err(IdentityError::Wrong) = signed_in {
            // Who it was meant to be is nobody's affair in a log.
            tracing::info!(tenant = %tenant_id, address = %visit.address, "a sign-in was refused");
        }
        signed_in
    };
    welcome(&state, state.on_runtime(signing).await?).await
}

pub(crate) async fn accept(
    state: web::Data<AppState>,
    request: HttpRequest,
    _: Query<NoQuery>,
    Body(body): Body<Accept>,
) -> Result<HttpResponse, ApiError> {
    if !site::is_own_origin(&request) {
        return Err(ApiError::new(Code::OriginRefused, "another web site sent this request"));
    }
    let mut check = FieldCheck::default();
    let name = check.take("/name", Name::parse(&body.name));
    // Said before the link is looked at, so that it tells nothing about links.
    check.take("/password", Password::choose(&body.password, &[&body.name]));
    let name = check.finish(name)?;
    let link = Ticket::parse(TicketKind::Invitation, body.token.trim());
    let link = link.ok_or(IdentityError::NoInvitation)?;
    let address = client_address(&request);
    let account = link.id().to_string();
    state.within(state.core.may_sign_in(link.tenant_id(), &account, address)).await?;
    let newcomer = Newcomer { name, password: body.password };
    let (identity, visit) = (state.identity.clone(), visit(&request));
    let accepting = async move { identity.accept(&link, &newcomer, &visit).await };
    welcome(&state, state.on_runtime(accepting).await?).await
}

/// Answers with the session and its cookie.
pub(crate) async fn welcome(
    state: &web::Data<AppState>,
    signed_in: SignedIn,
) -> Result<HttpResponse, ApiError> {
    let (identity, value) = (state.identity.clone(), signed_in.ticket.reveal());
    let session = state.on_runtime(async move { identity.session(&value).await }).await?;
    let session = session.ok_or(IdentityError::Wrong)?;
    let cookie = cookie::issue(&signed_in, state.identity.settings.session);
    Ok(HttpResponse::Created()
        .insert_header((header::LOCATION, "/v1/session"))
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .cookie(cookie)
        .json(SessionFace::of(&session)))
}

pub(crate) async fn get(MemberCaller(session): MemberCaller, _: Query<NoQuery>) -> HttpResponse {
    HttpResponse::Ok()
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .json(SessionFace::of(&session))
}

pub(crate) async fn delete(
    state: web::Data<AppState>,
    MemberCaller(session): MemberCaller,
    request: HttpRequest,
    _: Query<NoQuery>,
) -> Result<HttpResponse, ApiError> {
    let (identity, session) = (state.identity.clone(), (*session).clone());
    let visit = visit(&request);
    state.on_runtime(async move { identity.sign_out(&session, &visit).await }).await?;
    Ok(HttpResponse::NoContent().cookie(cookie::forget()).finish())
}

pub(crate) async fn change_password(
    state: web::Data<AppState>,
    MemberCaller(session): MemberCaller,
    request: HttpRequest,
    _: Query<NoQuery>,
    Body(body): Body<ChangePassword>,
) -> Result<HttpResponse, ApiError> {
    may_prove(&state, &session, &request).await?;
    let (identity, session) = (state.identity.clone(), (*session).clone());
    let (proof, visit) = (Proof { password: body.password, code: body.code }, visit(&request));
    let changing = async move {
        let changed = identity.change_password(&session, &proof, &body.new_password, &visit).await;
        changed.map_err(|error| match error {
            IdentityError::Password(error) if error != PasswordError::Busy => {
                ApiError::field("/new_password", error)
            }
            error => error.into(),
        })
    };
    state.on_runtime(changing).await?;
    Ok(HttpResponse::NoContent().finish())
}

pub(crate) async fn offer_second_factor(
    state: web::Data<AppState>,
    MemberCaller(session): MemberCaller,
    request: HttpRequest,
    _: Query<NoQuery>,
    Body(ShowPassword { password }): Body<ShowPassword>,
) -> Result<HttpResponse, ApiError> {
    may_prove(&state, &session, &request).await?;
    let (identity, session) = (state.identity.clone(), (*session).clone());
    let offering = async move { identity.offer_totp(&session, &password).await };
    let enrolment = state.on_runtime(offering).await?;
    let body = SecondFactor { secret: enrolment.base32, url: enrolment.url };
    Ok(HttpResponse::Ok().insert_header((header::CACHE_CONTROL, "no-store")).json(body))
}

pub(crate) async fn confirm_second_factor(
    state: web::Data<AppState>,
    MemberCaller(session): MemberCaller,
    request: HttpRequest,
    _: Query<NoQuery>,
    Body(ConfirmSecondFactor { code }): Body<ConfirmSecondFactor>,
) -> Result<HttpResponse, ApiError> {
    may_prove(&state, &session, &request).await?;
    let (identity, session) = (state.identity.clone(), (*session).clone());
    let visit = visit(&request);
    let confirming = async move { identity.confirm_totp(&session, &code, &visit).await };
    let confirmed = state.on_runtime(confirming).await?;
    let body = RecoveryCodes { recovery_codes: confirmed.recovery_codes };
    Ok(HttpResponse::Ok().insert_header((header::CACHE_CONTROL, "no-store")).json(body))
}

pub(crate) async fn remove_second_factor(
    state: web::Data<AppState>,
    MemberCaller(session): MemberCaller,
    request: HttpRequest,
    _: Query<NoQuery>,
    Body(body): Body<ShowAgain>,
) -> Result<HttpResponse, ApiError> {
    may_prove(&state, &session, &request).await?;
    let (identity, session) = (state.identity.clone(), (*session).clone());
    let (proof, visit) = (Proof { password: body.password, code: body.code }, visit(&request));
    let removing = async move { identity.remove_totp(&session, &proof, &visit).await };
    state.on_runtime(removing).await?;
    Ok(HttpResponse::NoContent().finish())
}

/// Whoever took over a browser must not guess the password through it: an attempt counts like one
/// at the door.
async fn may_prove(
    state: &web::Data<AppState>,
    session: &Session,
    request: &HttpRequest,
) -> Result<(), ApiError> {
    let (account, address) = (session.holder.email.as_str(), client_address(request));
    state.within(state.core.may_sign_in(session.tenant_id, account, address)).await?;
    Ok(())
}

impl From<IdentityError> for ApiError {
    fn from(error: IdentityError) -> Self {
        let detail = error.to_string();
        match error {
            IdentityError::Wrong => Self::new(Code::InvalidCredentials, detail),
            IdentityError::CodeNeeded => Self::new(Code::SecondFactorNeeded, detail),
            IdentityError::NoInvitation => Self::new(Code::NotFound, detail),
            IdentityError::Known | IdentityError::Unfit(_) => Self::new(Code::Conflict, detail),
            IdentityError::Password(PasswordError::Busy) => {
                Self::new(Code::Overloaded, detail).retry_after(SHED)
            }
            IdentityError::Password(error) => Self::field("/password", error),
            IdentityError::Storage(error) => error.into(),
            IdentityError::Vault(error) => {
                tracing::error!(%error, "a secret could not be used");
                Self::new(Code::Internal, "the request could not be served")
            }
        }
    }
}

//! Who may call what. Each endpoint names one [`Access`] in the list of endpoints, and the check
//! runs before its body is read.

use std::{fmt, rc::Rc, sync::Arc};

use actix_web::{
    Error, FromRequest, HttpMessage as _, HttpRequest,
    body::BoxBody,
    dev::{Payload, ServiceRequest, ServiceResponse},
    http::header,
    middleware::Next,
};
use futures_util::future::{Ready, ready};
use qudao_core::Principal;
use qudao_domain::{
    MemberId, TenantId,
    access::{Role, Scope, Scopes},
    key::{ApiKey, SecretHash},
};
use qudao_identity::Session;
use qudao_storage::MemberRole;

use crate::{
    act::Action,
    address::{client_address, peer_address},
    code::Code,
    cookie,
    error::ApiError,
    extract,
    partner::{self, PartnerDoor},
    rate::Standings,
    site,
    state::AppState,
    widget::token,
};

/// What an endpoint asks of its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Nothing.
    Public,
    /// The operator's key.
    Operator,
    /// The operator's key, or a key or a member of the tenant in the path with this scope.
    Tenant(Scope),
    /// A key of any tenant with this scope.
    Key(Scope),
    /// A member who is signed in, whatever they may do.
    Member,
    /// The secret that a visitor's browser made up.
    Visitor,
    /// A partner's key of the channel in the path.
    Partner,
    /// The token of a widget, from the site to which it was given.
    Widget,
}

/// The visitor's token as the browser keeps it: `vt_` and 43 random characters.
pub(crate) fn visitor_peer(token: &str) -> Option<String> {
    let secret = token.strip_prefix("vt_")?;
    let url_safe = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    (secret.len() == 43 && secret.bytes().all(url_safe))
        .then(|| hex::encode(SecretHash::of(token).as_bytes()))
}

/// The caller, once let in.
#[derive(Debug, Clone)]
pub(crate) enum Caller {
    /// The operator.
    Operator,
    /// A tenant's key.
    Key(Rc<Principal>),
    /// A member of a tenant.
    Member(Rc<Session>),
    /// A visitor of a chat page, by the hash of the token.
    Visitor(Rc<str>),
    /// A partner.
    Partner(Rc<PartnerDoor>),
}

/// The tenant that the request may act on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TenantScope(pub(crate) TenantId);

/// Who administers: what they may hand on, and what the audit log calls them.
#[derive(Debug, Clone)]
pub(crate) struct Actor {
    /// `operator`, or the id of a key or a member.
    pub(crate) name: Arc<str>,
    /// What they may do.
    pub(crate) scopes: Scopes,
    /// Which member they are, and what.
    pub(crate) member: Option<(MemberId, MemberRole)>,
}

impl Actor {
    /// As whom this caller acts; visitors administer nothing.
    pub(crate) fn of(caller: &Caller) -> Option<Self> {
        let named = |id: &dyn fmt::Display| Arc::from(id.to_string());
        match caller {
            Caller::Operator => {
                Some(Self { name: "operator".into(), scopes: Scopes::ALL, member: None })
            }
            Caller::Key(key) => {
                Some(Self { name: named(&key.key_id), scopes: key.scopes(), member: None })
            }
            Caller::Member(session) => Some(Self {
                name: named(&session.holder.member_id),
                scopes: session.holder.scopes,
                member: Some((session.holder.member_id, session.holder.role)),
            }),
            Caller::Visitor(_) | Caller::Partner(_) => None,
        }
    }

    /// Refuses to hand on what the actor does not have.
    ///
    /// # Errors
    /// `forbidden`, which names what is missing.
    pub(crate) fn may_grant(&self, scopes: Scopes) -> Result<(), ApiError> {
        if self.scopes.covers(scopes) {
            return Ok(());
        }
        let lacking: Vec<_> = self.scopes.lacks(scopes).map(Scope::as_str).collect();
        let detail = format!("you cannot hand on what you do not have: {}", lacking.join(", "));
        Err(ApiError::new(Code::Forbidden, detail))
    }

    /// Owners are made and unmade by owners, and by the operator.
    ///
    /// # Errors
    /// `forbidden`.
    pub(crate) fn may_touch(&self, role: MemberRole) -> Result<(), ApiError> {
        let owner = MemberRole::Common(Role::Owner);
        let mighty = &*self.name == "operator" || self.member.is_some_and(|(_, own)| own == owner);
        if role != owner || mighty {
            return Ok(());
        }
        Err(ApiError::new(Code::Forbidden, "only an owner can do this to an owner"))
    }
}

/// The middleware of one endpoint.
pub(crate) async fn guard(
    access: Access,
    action: Option<Action>,
    request: ServiceRequest,
    next: Next<BoxBody>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let admitted = match admit(access, request.request()).await {
        Ok(caller) => pace(caller.as_ref(), request.request()).await.map(|()| caller),
        refused => refused,
    };
    match admitted {
        Ok(caller) => {
            if let Some(caller) = caller {
                request.extensions_mut().insert(caller);
            }
            if let Some(action) = action {
                request.extensions_mut().insert(action);
            }
            next.call(request).await
        }
        Err(refusal) => Ok(request.error_response(refusal)),
    }
}

async fn admit(access: Access, request: &HttpRequest) -> Result<Option<Caller>, ApiError> {
    let refused = |detail| Err(ApiError::new(Code::Forbidden, detail));
    match access {
        Access::Public => Ok(None),
        Access::Visitor => {
            let peer = visitor_peer(bearer(request)?).ok_or_else(invalid)?;
            Ok(Some(Caller::Visitor(peer.into())))
        }
        Access::Partner => {
            let door = partner::admit(request, bearer(request)?).await?;
            Ok(Some(Caller::Partner(Rc::new(door))))
        }
        Access::Widget => {
            let pass = token::admit(request, bearer(request)?).await?;
            let peer = Rc::clone(&pass.peer);
            request.extensions_mut().insert(pass);
            Ok(Some(Caller::Visitor(peer)))
        }
        Access::Operator => match credentials(request).await? {
            Caller::Operator => Ok(Some(Caller::Operator)),
            _ => refused("this endpoint takes the operator's key"),
        },
        Access::Tenant(scope) => {
            let caller = credentials(request).await?;
            let tenant_id: TenantId = extract::path_id(request)?;
            let (owner, scopes) = match &caller {
                Caller::Operator => (tenant_id, Scopes::ALL),
                Caller::Key(principal) => (principal.tenant_id, principal.scopes()),
                Caller::Member(session) => (session.tenant_id, session.holder.scopes),
                Caller::Visitor(_) | Caller::Partner(_) => return Err(invalid()),
            };
            // First whose it is, then what it may: a stranger learns nothing.
            if owner != tenant_id {
                return Err(ApiError::not_found("tenant"));
            }
            require(scopes, scope)?;
            request.extensions_mut().insert(TenantScope(tenant_id));
            Ok(Some(caller))
        }
        Access::Key(scope) => match credentials(request).await? {
            Caller::Key(principal) => {
                require(principal.scopes(), scope)?;
                Ok(Some(Caller::Key(principal)))
            }
            _ => Err(ApiError::new(
                Code::InvalidCredentials,
                "this endpoint takes the API key of a tenant",
            )),
        },
        Access::Member => match credentials(request).await? {
            Caller::Member(session) => {
                request.extensions_mut().insert(TenantScope(session.tenant_id));
                Ok(Some(Caller::Member(session)))
            }
            _ => refused("this endpoint is for members who are signed in"),
        },
    }
}

/// Whether somebody who administers goes too fast. Calls and messages have limits of their own.
async fn pace(caller: Option<&Caller>, request: &HttpRequest) -> Result<(), ApiError> {
    let who = match caller {
        Some(Caller::Operator) => None,
        Some(Caller::Key(principal)) if request.extensions().get::<TenantScope>().is_some() => {
            Some((principal.tenant_id, principal.key_id.as_uuid()))
        }
        Some(Caller::Member(session)) => {
            Some((session.tenant_id, session.holder.member_id.as_uuid()))
        }
        _ => return Ok(()),
    };
    let state = AppState::of(request);
    let standings = state.within(state.core.may_administer(who, client_address(request))).await?;
    request.extensions_mut().insert(Standings(standings));
    Ok(())
}

fn require(scopes: Scopes, wanted: Scope) -> Result<(), ApiError> {
    if scopes.has(wanted) {
        return Ok(());
    }
    Err(ApiError::new(Code::Forbidden, format!("the scope {wanted} is needed")))
}

/// A key in the header, or the cookie of a member. A request that names a key is judged by the key
/// alone.
async fn credentials(request: &HttpRequest) -> Result<Caller, ApiError> {
    if !request.headers().contains_key(header::AUTHORIZATION)
        && let Some(value) = cookie::read(request)
    {
        return session(request, value).await;
    }
    let token = bearer(request)?;
    let state = AppState::of(request);
    if token.starts_with("qo_") {
        let matches = SecretHash::of(token).matches(&state.settings.operator_key);
        return if matches { Ok(Caller::Operator) } else { Err(invalid()) };
    }
    let key = ApiKey::parse(token).ok_or_else(invalid)?;
    let found = state.within(state.core.authenticate(&key, peer_address(request))).await?;
    Ok(Caller::Key(Rc::new(found.ok_or_else(invalid)?)))
}

/// The member behind a cookie. A browser adds cookies to what other sites make it send, so the
/// request has to come from this site, and one that changes something has to bring the token too.
async fn session(request: &HttpRequest, cookie: String) -> Result<Caller, ApiError> {
    site::check_same_site(request)?;
    let state = AppState::of(request);
    let identity = state.identity.clone();
    let found = state.on_runtime(async move { identity.session(&cookie).await }).await?;
    let session = found.ok_or_else(|| {
        ApiError::new(Code::InvalidCredentials, "the session is over; sign in again")
    })?;
    if !request.method().is_safe() {
        site::check_csrf(request, &session.csrf_token)?;
    }
    Ok(Caller::Member(Rc::new(session)))
}

fn bearer(request: &HttpRequest) -> Result<&str, ApiError> {
    let missing = || ApiError::new(Code::Unauthenticated, "the header Authorization is missing");
    let value = request.headers().get(header::AUTHORIZATION).ok_or_else(missing)?;
    let text = value.to_str().map_err(|_| invalid())?;
    let (scheme, token) = text.split_once(' ').ok_or_else(invalid)?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(ApiError::new(Code::Unauthenticated, "the scheme has to be Bearer"));
    }
    Ok(token.trim())
}

/// One wording for unknown, mistyped, expired and revoked keys.
fn invalid() -> ApiError {
    ApiError::new(Code::InvalidCredentials, "the key is not valid")
}

/// An extractor of what [`guard`] found; an endpoint without the right access gets a 401.
fn found<T: Clone + 'static>(request: &HttpRequest) -> Ready<Result<T, Error>> {
    let found = request.extensions().get::<T>().cloned();
    ready(found.ok_or_else(|| invalid().into()))
}

impl FromRequest for TenantScope {
    type Error = Error;
    type Future = Ready<Result<Self, Error>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        found(request)
    }
}

impl FromRequest for Actor {
    type Error = Error;
    type Future = Ready<Result<Self, Error>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let actor = request.extensions().get::<Caller>().and_then(Self::of);
        ready(actor.ok_or_else(|| invalid().into()))
    }
}

/// The member who called.
pub(crate) struct MemberCaller(pub(crate) Rc<Session>);

impl FromRequest for MemberCaller {
    type Error = Error;
    type Future = Ready<Result<Self, Error>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(match request.extensions().get::<Caller>() {
            Some(Caller::Member(session)) => Ok(Self(Rc::clone(session))),
            _ => Err(invalid().into()),
        })
    }
}

/// The tenant's key that called.
pub(crate) struct KeyCaller(pub(crate) Rc<Principal>);

impl FromRequest for KeyCaller {
    type Error = Error;
    type Future = Ready<Result<Self, Error>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(match request.extensions().get::<Caller>() {
            Some(Caller::Key(principal)) => Ok(Self(Rc::clone(principal))),
            _ => Err(invalid().into()),
        })
    }
}

/// The visitor who called: the hash of the token, under which the conversation is kept.
pub(crate) struct VisitorCaller(pub(crate) Rc<str>);

impl FromRequest for VisitorCaller {
    type Error = Error;
    type Future = Ready<Result<Self, Error>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(match request.extensions().get::<Caller>() {
            Some(Caller::Visitor(peer)) => Ok(Self(Rc::clone(peer))),
            _ => Err(invalid().into()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_visitor_is_kept_as_the_hash_of_the_token() {
        let token = format!("vt_{}", "a".repeat(43));
        let peer = visitor_peer(&token).unwrap();
        assert_eq!(peer.len(), 64);
        assert!(!peer.contains(&token[3..]));
    }

    #[test]
    fn what_no_browser_made_up_is_not_a_visitor() {
        for text in ["", "vt_", "vt_short", &format!("vt_{}", "é".repeat(43)), &"a".repeat(46)] {
            assert_eq!(visitor_peer(text), None, "{text}");
        }
    }
}

//! Who may call what. Each endpoint names one [`Access`] in the list of endpoints, and the check
//! runs before its body is read.

use std::rc::Rc;

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
    TenantId,
    key::{ApiKey, SecretHash},
};

use crate::{
    address::client_address, code::Code, error::ApiError, extract, rate::Standings, state::AppState,
};

/// What an API key may be allowed to do.
pub(crate) mod scope {
    /// Call models.
    pub(crate) const CHAT: &str = "chat";
    /// Manage the tenant.
    pub(crate) const ADMIN: &str = "admin";
    /// Every scope that a key may have.
    pub(crate) const ALL: &[&str] = &[CHAT, ADMIN];
}

/// What an endpoint asks of its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Nothing.
    Public,
    /// The operator's key.
    Operator,
    /// The operator's key, or a key of the tenant in the path with the scope `admin`.
    Tenant,
    /// A key of any tenant with the scope `chat`.
    Chat,
    /// The secret that a visitor's browser made up.
    Visitor,
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
    /// A visitor of a chat page, by the hash of the token.
    Visitor(Rc<str>),
}

/// The tenant that the request may act on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TenantScope(pub(crate) TenantId);

/// The middleware of one endpoint.
pub(crate) async fn guard(
    access: Access,
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
            next.call(request).await
        }
        Err(refusal) => Ok(request.error_response(refusal)),
    }
}

async fn admit(access: Access, request: &HttpRequest) -> Result<Option<Caller>, ApiError> {
    match access {
        Access::Public => Ok(None),
        Access::Visitor => {
            let peer = visitor_peer(bearer(request)?).ok_or_else(invalid)?;
            Ok(Some(Caller::Visitor(peer.into())))
        }
        Access::Operator => match credentials(request).await? {
            Caller::Operator => Ok(Some(Caller::Operator)),
            Caller::Key(_) | Caller::Visitor(_) => {
                Err(ApiError::new(Code::Forbidden, "this endpoint takes the operator's key"))
            }
        },
        Access::Tenant => {
            let caller = credentials(request).await?;
            let tenant_id: TenantId = extract::path_id(request)?;
            if let Caller::Key(principal) = &caller {
                // First whose it is, then what it may: a stranger learns nothing.
                if principal.tenant_id != tenant_id {
                    return Err(ApiError::not_found("tenant"));
                }
                require(principal, scope::ADMIN)?;
            }
            request.extensions_mut().insert(TenantScope(tenant_id));
            Ok(Some(caller))
        }
        Access::Chat => match credentials(request).await? {
            Caller::Key(principal) => {
                require(&principal, scope::CHAT)?;
                Ok(Some(Caller::Key(principal)))
            }
            Caller::Operator | Caller::Visitor(_) => Err(ApiError::new(
                Code::InvalidCredentials,
                "this endpoint takes the API key of a tenant",
            )),
        },
    }
}

/// Whether somebody who administers goes too fast. Calls and messages have limits of their own.
async fn pace(caller: Option<&Caller>, request: &HttpRequest) -> Result<(), ApiError> {
    let key = match caller {
        Some(Caller::Operator) => None,
        Some(Caller::Key(principal)) if request.extensions().get::<TenantScope>().is_some() => {
            Some((principal.tenant_id, principal.key_id))
        }
        _ => return Ok(()),
    };
    let state = AppState::of(request);
    let standings = state.within(state.core.may_administer(key, client_address(request))).await?;
    request.extensions_mut().insert(Standings(standings));
    Ok(())
}

fn require(principal: &Principal, wanted: &'static str) -> Result<(), ApiError> {
    if principal.may(wanted) {
        return Ok(());
    }
    Err(ApiError::new(Code::Forbidden, format!("the key lacks the scope {wanted}")))
}

async fn credentials(request: &HttpRequest) -> Result<Caller, ApiError> {
    let token = bearer(request)?;
    let state = AppState::of(request);
    if token.starts_with("qo_") {
        let matches = SecretHash::of(token).matches(&state.settings.operator_key);
        return if matches { Ok(Caller::Operator) } else { Err(invalid()) };
    }
    let key = ApiKey::parse(token).ok_or_else(invalid)?;
    let principal = state.within(state.core.authenticate(&key)).await?.ok_or_else(invalid)?;
    Ok(Caller::Key(Rc::new(principal)))
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

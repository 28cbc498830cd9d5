//! What an operation's description says of who is let in.

use utoipa::openapi::extensions::{Extensions, ExtensionsBuilder};

use crate::{access::Access, code::Code};

pub(super) const OPERATOR: &str = "operator_key";
pub(super) const API_KEY: &str = "api_key";
pub(super) const VISITOR: &str = "visitor_token";
pub(super) const WIDGET: &str = "widget_token";
pub(super) const SESSION: &str = "session";
pub(super) const PARTNER: &str = "partner_key";

/// Who is let in, for programs: `x-qudao-access`, and `x-qudao-scope` where one is needed.
pub(super) fn extensions(access: Access) -> Extensions {
    let (kind, scope) = match access {
        Access::Public => ("public", None),
        Access::Operator => ("operator", None),
        Access::Tenant(scope) => ("tenant", Some(scope)),
        Access::Key(scope) => ("key", Some(scope)),
        Access::Member => ("member", None),
        Access::Visitor => ("visitor", None),
        Access::Partner => ("partner", None),
        Access::Widget => ("widget", None),
    };
    let named = ExtensionsBuilder::new().add("x-qudao-access", kind);
    let scope = scope.map(|scope| ("x-qudao-scope", scope.as_str()));
    scope.into_iter().fold(named, |all, (name, scope)| all.add(name, scope)).build()
}

/// Any one of the named schemes opens the endpoint.
pub(super) fn schemes(access: Access) -> Option<&'static [&'static str]> {
    match access {
        Access::Public => None,
        Access::Operator => Some(&[OPERATOR]),
        Access::Tenant(_) => Some(&[OPERATOR, API_KEY, SESSION]),
        Access::Key(_) => Some(&[API_KEY]),
        Access::Member => Some(&[SESSION]),
        Access::Visitor => Some(&[VISITOR]),
        Access::Partner => Some(&[PARTNER]),
        Access::Widget => Some(&[WIDGET]),
    }
}

pub(super) fn failures(access: Access) -> &'static [Code] {
    match access {
        Access::Public => &[],
        Access::Visitor | Access::Partner => &[Code::Unauthenticated, Code::InvalidCredentials],
        Access::Widget => &[Code::Unauthenticated, Code::InvalidCredentials, Code::OriginRefused],
        Access::Operator | Access::Key(_) => {
            &[Code::Unauthenticated, Code::InvalidCredentials, Code::Forbidden]
        }
        Access::Tenant(_) | Access::Member => &[
            Code::Unauthenticated,
            Code::InvalidCredentials,
            Code::Forbidden,
            Code::OriginRefused,
            Code::CsrfTokenInvalid,
        ],
    }
}

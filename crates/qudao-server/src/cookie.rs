//! The cookie of a member who is signed in.
//!
//! Its name begins with `__Host-`: a browser takes it from this host alone, over TLS (or from the
//! same machine), for all paths, so that no neighbouring site can plant or read it.

use actix_web::{
    HttpRequest,
    cookie::{Cookie, SameSite, time},
};
use qudao_identity::SignedIn;

pub(crate) const NAME: &str = "__Host-qudao";
const FLOW: &str = "__Host-qudao-oidc";

/// What the browser sent.
pub(crate) fn read(request: &HttpRequest) -> Option<String> {
    request.cookie(NAME).map(|cookie| cookie.value().to_owned())
}

/// For a browser that just came in.
pub(crate) fn issue(signed_in: &SignedIn, max_age: std::time::Duration) -> Cookie<'static> {
    let max_age = i64::try_from(max_age.as_secs()).unwrap_or(i64::MAX);
    cookie(signed_in.ticket.reveal(), time::Duration::seconds(max_age))
}

/// For a browser that goes.
pub(crate) fn forget() -> Cookie<'static> {
    cookie(String::new(), time::Duration::ZERO)
}

/// What waits while a browser is at an identity provider.
pub(crate) fn flow(value: String, max_age: std::time::Duration) -> Cookie<'static> {
    let max_age = i64::try_from(max_age.as_secs()).unwrap_or(i64::MAX);
    build(FLOW, value, time::Duration::seconds(max_age))
}

/// What waited.
pub(crate) fn read_flow(request: &HttpRequest) -> Option<String> {
    request.cookie(FLOW).map(|cookie| cookie.value().to_owned())
}

/// Once the browser is back.
pub(crate) fn forget_flow() -> Cookie<'static> {
    build(FLOW, String::new(), time::Duration::ZERO)
}

fn cookie(value: String, max_age: time::Duration) -> Cookie<'static> {
    build(NAME, value, max_age)
}

fn build(name: &'static str, value: String, max_age: time::Duration) -> Cookie<'static> {
    Cookie::build(name, value)
        .path("/")
        .secure(true)
        .http_only(true)
        // Lax: a link in a mail or the return from an identity provider finds one signed in.
        .same_site(SameSite::Lax)
        .max_age(max_age)
        .finish()
}

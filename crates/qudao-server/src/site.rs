//! Whether a browser's request comes from a page of this server. A browser adds cookies by itself, so
//! requests that are authenticated by one are forged as soon as this is not asked.

use actix_web::{HttpRequest, http::header};
use subtle::ConstantTimeEq as _;

use crate::{code::Code, error::ApiError};

/// The header in which a page sends back the token that it got when the member came in.
pub(crate) const CSRF: &str = "x-csrf-token";
const FETCH_SITE: &str = "sec-fetch-site";

/// Refuses what another site made a browser send. `Sec-Fetch-Site` says where a request began;
/// browsers that do not send it name the site in `Origin` when something may change.
///
/// # Errors
/// `origin_refused`.
pub(crate) fn check_same_site(request: &HttpRequest) -> Result<(), ApiError> {
    let refused = || ApiError::new(Code::OriginRefused, "another web site sent this request");
    if let Some(site) = request.headers().get(FETCH_SITE) {
        let own = matches!(site.as_bytes(), b"same-origin" | b"none");
        return if own && is_own_origin(request) { Ok(()) } else { Err(refused()) };
    }
    let named = request.headers().contains_key(header::ORIGIN);
    let needs_name = !request.method().is_safe();
    if (named || !needs_name) && is_own_origin(request) { Ok(()) } else { Err(refused()) }
}

/// Whether the site that the browser names is this one; `true` if it names none.
pub(crate) fn is_own_origin(request: &HttpRequest) -> bool {
    let Some(origin) = request.headers().get(header::ORIGIN) else { return true };
    let origin = origin.to_str().ok().and_then(|text| text.split_once("://")).map(|(_, host)| host);
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    matches!((origin, host), (Some(origin), Some(host)) if origin.eq_ignore_ascii_case(host))
}

/// Refuses a request without the token that belongs to the session.
///
/// # Errors
/// `csrf_token_invalid`.
pub(crate) fn check_csrf(request: &HttpRequest, token: &str) -> Result<(), ApiError> {
    let sent = request.headers().get(CSRF).map_or(&b""[..], |value| value.as_bytes());
    if bool::from(sent.ct_eq(token.as_bytes())) {
        return Ok(());
    }
    let detail = "send the session's csrf_token in the header X-CSRF-Token";
    Err(ApiError::new(Code::CsrfTokenInvalid, detail))
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;

    use super::*;

    fn allowed(method: &str, headers: &[(&str, &str)]) -> bool {
        let request = TestRequest::with_uri("/").method(method.parse().unwrap());
        let request =
            headers.iter().fold(request, |request, header| request.insert_header(*header));
        check_same_site(&request.insert_header(("host", "qudao.example:8443")).to_http_request())
            .is_ok()
    }

    #[test]
    fn only_this_site_reaches_through_a_browser() {
        let own = ("origin", "https://qudao.example:8443");
        let other = ("origin", "https://evil.example");
        for (method, headers, expected) in [
            ("POST", vec![own], true),
            ("POST", vec![own, (FETCH_SITE, "same-origin")], true),
            ("POST", vec![], false),
            ("POST", vec![other], false),
            ("POST", vec![("origin", "null")], false),
            ("POST", vec![("origin", "https://qudao.example")], false),
            ("POST", vec![("origin", "https://qudao.example:8443.evil.example")], false),
            ("POST", vec![own, (FETCH_SITE, "cross-site")], false),
            ("POST", vec![own, (FETCH_SITE, "same-site")], false),
            ("POST", vec![other, (FETCH_SITE, "same-origin")], false),
            ("GET", vec![], true),
            ("GET", vec![(FETCH_SITE, "none")], true),
            ("GET", vec![(FETCH_SITE, "cross-site")], false),
            ("GET", vec![other], false),
            ("DELETE", vec![], false),
            ("PATCH", vec![own], true),
        ] {
            assert_eq!(allowed(method, &headers), expected, "{method} {headers:?}");
        }
    }

    #[test]
    fn the_token_has_to_be_the_sessions_own() {
        let request =
            |token: &str| TestRequest::default().insert_header((CSRF, token)).to_http_request();
        assert!(check_csrf(&request("abc"), "abc").is_ok());
        for token in ["", "ab", "abcd", "abd"] {
            assert!(check_csrf(&request(token), "abc").is_err(), "{token}");
        }
        assert!(check_csrf(&TestRequest::default().to_http_request(), "abc").is_err());
    }
}

//! What every answer tells a browser, so that nothing of ours is taken for something else.
//!
//! A page names its own policy (`assets.rs`); everything else is data, and gets the policy under
//! which a browser that shows it as a page can do nothing with it.

use std::time::Duration;

use actix_web::http::header::{self, HeaderMap, HeaderName, HeaderValue};

/// The policy of what is no page.
const DATA_POLICY: &str = "default-src 'none'; base-uri 'none'; form-action 'none'; \
    frame-ancestors 'none'; sandbox";

pub(crate) const RESOURCE_POLICY: HeaderName =
    HeaderName::from_static("cross-origin-resource-policy");
const OPENER_POLICY: HeaderName = HeaderName::from_static("cross-origin-opener-policy");
const PERMISSIONS_POLICY: HeaderName = HeaderName::from_static("permissions-policy");
const DNS_PREFETCH: HeaderName = HeaderName::from_static("x-dns-prefetch-control");

macro_rules! permissions {
    ($microphone:literal) => {
        concat!(
            "accelerometer=(), autoplay=(), camera=(), display-capture=(), encrypted-media=(), ",
            "fullscreen=(), geolocation=(), gyroscope=(), magnetometer=(), microphone=",
            $microphone,
            ", midi=(), payment=(), publickey-credentials-get=(), screen-wake-lock=(), serial=(), ",
            "usb=(), xr-spatial-tracking=(), clipboard-read=(), clipboard-write=(self)"
        )
    };
}

/// What pages of ours need of a device: nothing but the clipboard, on a press.
pub(crate) const CLIPBOARD: &str = permissions!("()");
/// And of a page on which a person may speak the microphone, which the browser asks the person about.
pub(crate) const MICROPHONE: &str = permissions!("(self)");

/// Adds to an answer what it does not say itself.
pub(crate) fn shield(headers: &mut HeaderMap, hsts: Option<&HeaderValue>) {
    let mut set = |name: HeaderName, value: &'static str| {
        if !headers.contains_key(&name) {
            headers.insert(name, HeaderValue::from_static(value));
        }
    };
    set(header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    set(header::REFERRER_POLICY, "no-referrer");
    set(header::CONTENT_SECURITY_POLICY, DATA_POLICY);
    set(header::X_FRAME_OPTIONS, "DENY");
    set(header::CACHE_CONTROL, "no-store");
    set(RESOURCE_POLICY, "same-origin");
    if let Some(hsts) = hsts {
        headers.insert(header::STRICT_TRANSPORT_SECURITY, hsts.clone());
    }
}

/// What a page says beside its policy. `framing` is for browsers that do not know the policy's
/// `frame-ancestors`; `permissions` is one of those above.
pub(crate) fn page_headers(
    framing: &'static str,
    permissions: &'static str,
) -> [(HeaderName, &'static str); 4] {
    [
        (header::X_FRAME_OPTIONS, framing),
        (OPENER_POLICY, "same-origin"),
        (PERMISSIONS_POLICY, permissions),
        // The name of a host in a link of a model would be looked up without a press, and the
        // look-up can carry what was said.
        (DNS_PREFETCH, "off"),
    ]
}

/// Tells browsers to come by https only, for so long.
pub(crate) fn hsts(lasts: Option<Duration>) -> Option<HeaderValue> {
    HeaderValue::from_str(&format!("max-age={}", lasts?.as_secs())).ok()
}

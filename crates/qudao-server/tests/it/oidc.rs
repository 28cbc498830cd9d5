//! Signing in by an identity provider, as far as it goes without one; `tests/e2e/oidc.test.mjs` has
//! one.

use qudao_domain::IdentityProviderId;

use crate::world::World;

/// The server of these tests is called by a name that it was not told.
#[tokio::test]
async fn a_browser_that_cannot_be_signed_in_is_led_to_a_page_that_says_why() {
    let world = World::start().await;
    let tenant = world.tenant(0).await;
    let id = IdentityProviderId::new();
    let depart = format!("/v1/tenants/{}/identity-providers/{id}/sign-in", tenant.id);
    for path in [
        depart.as_str(),
        "/v1/oidc/callback?state=x&code=y",
        "/v1/oidc/callback?error=access_denied&error_description=%3Cb%3E",
        "/v1/oidc/callback",
    ] {
        let answer = world.send("GET", path, "", "").await;
        assert_eq!(answer.status, 303, "{path}: {}", answer.body);
        let place = answer.header("location").unwrap();
        assert_eq!(place, "/console#/sign-in-failed?code=not_set_up", "{path}");
        assert_eq!(answer.header("cache-control"), Some("no-store"), "{path}");
        assert!(answer.header("set-cookie").is_none_or(|cookie| !cookie.contains("qudao=qs_")));
    }
}

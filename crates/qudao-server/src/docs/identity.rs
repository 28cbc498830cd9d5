//! Keys, members, and signing in.

use serde_json::json;

use super::LOCATION;
use crate::{
    admin::{
        api_keys::{ApiKeyBody, CreateApiKey, NewKey, RotateApiKey},
        identity_providers::{CreateIdentityProvider, IdentityProviderBody, IdentityProviderList},
        members::{CreateInvitation, InvitationBody, MemberBody, NewInvitationBody, UpdateMember},
        roles::{CreateRole, RoleBody, RoleList, UpdateRole},
        sessions::SessionBody,
    },
    code::Code,
    oidc::SignInOptions,
    openapi::Doc,
    sign_in::{
        Accept, ChangePassword, ConfirmSecondFactor, RecoveryCodes, SecondFactor, SessionFace,
        ShowAgain, ShowPassword, SignIn,
    },
};

/// How an attempt to show a password or a code fails.
const PROOF: &[Code] = &[
    Code::InvalidCredentials,
    Code::SecondFactorNeeded,
    Code::RateLimited,
    Code::Overloaded,
    Code::Unavailable,
];

pub(crate) fn create_api_key() -> Doc {
    Doc::new("API keys", "Create an API key")
        .once()
        .act("api_key.create")
        .about(
            "The answer holds the whole key. It is not shown again: where the request is repeated \
             under its `Idempotency-Key`, `key` is `null`. A key that was lost with its answer is \
             revoked by the `id`, and another made. Nobody gives a key a scope that they do not \
             have.",
        )
        .body::<CreateApiKey>(json!({ "name": "Back office", "scopes": ["chat"] }))
        .returns::<NewKey>(201, LOCATION)
}

pub(crate) fn list_api_keys() -> Doc {
    Doc::new("API keys", "List the API keys")
        .about("Revoked and expired ones too.")
        .paged()
        .lists::<ApiKeyBody>("The keys, the newest first.")
}

pub(crate) fn rotate_api_key() -> Doc {
    Doc::new("API keys", "Exchange an API key for a new one")
        .once()
        .act("api_key.rotate")
        .about(
            "The new key may do what the old one may, from where it may. Both work for \
             `overlap_seconds`, so that whoever uses the key can be told in peace; then the old one \
             ends.",
        )
        .body::<RotateApiKey>(json!({ "overlap_seconds": 86400 }))
        .returns::<NewKey>(201, LOCATION)
        .fails(&[Code::Conflict])
}

pub(crate) fn revoke_api_key() -> Doc {
    Doc::new("API keys", "Revoke an API key")
        .act("api_key.revoke")
        .about(
            "It stops working at once on every node; on a node that Redis does not reach, within a \
             second. Revoking twice is no error.",
        )
        .returns_nothing(204, "Revoked.")
}

pub(crate) fn list_members() -> Doc {
    Doc::new("Members", "List the members")
        .paged()
        .lists::<MemberBody>("The members, the newest first.")
}

pub(crate) fn get_member() -> Doc {
    Doc::new("Members", "Read a member").returns::<MemberBody>(200, "The member.")
}

pub(crate) fn update_member() -> Doc {
    Doc::new("Members", "Change a member")
        .act("member.update")
        .about(
            "Takes effect with the member's next request. Nobody makes somebody more than they are \
             themselves, owners are made and unmade by owners, and the last owner stays one.",
        )
        .body::<UpdateMember>(json!({ "role": "editor" }))
        .returns::<MemberBody>(200, "The member as they are now.")
        .fails(&[Code::Conflict])
}

pub(crate) fn delete_member() -> Doc {
    Doc::new("Members", "Remove a member")
        .act("member.remove")
        .about("Their sessions end at once. API keys that they made stay: revoke them apart.")
        .returns_nothing(204, "Removed.")
        .fails(&[Code::Conflict, Code::ValidationFailed])
}

pub(crate) fn invite() -> Doc {
    Doc::new("Members", "Invite somebody")
        .once()
        .act("invitation.create")
        .about(
            "The answer holds the link's token; send it to whoever is invited. Open invitations of \
             the same address are taken back: only the last one works.",
        )
        .body::<CreateInvitation>(json!({ "email": "ann@example.com", "role": "editor" }))
        .returns::<NewInvitationBody>(201, LOCATION)
}

pub(crate) fn list_invitations() -> Doc {
    Doc::new("Members", "List the invitations")
        .paged()
        .lists::<InvitationBody>("The invitations, the newest first, past ones too.")
}

pub(crate) fn revoke_invitation() -> Doc {
    Doc::new("Members", "Take an invitation back")
        .act("invitation.revoke")
        .returns_nothing(204, "Taken back.")
}

pub(crate) fn create_role() -> Doc {
    Doc::new("Members", "Create a role")
        .once()
        .act("role.create")
        .about("For members who shall do something else than the six roles that every tenant has.")
        .body::<CreateRole>(json!({
            "name": "Night shift",
            "scopes": ["conversations:read", "contacts:read"],
        }))
        .returns::<RoleBody>(201, LOCATION)
}

pub(crate) fn list_roles() -> Doc {
    Doc::new("Members", "List the roles")
        .about("The six that every tenant has, then the tenant's own.")
        .returns::<RoleList>(200, "The roles.")
}

pub(crate) fn update_role() -> Doc {
    Doc::new("Members", "Change a role")
        .act("role.update")
        .about("For all who have it, with their next request.")
        .body::<UpdateRole>(json!({ "scopes": ["conversations:read"] }))
        .returns::<RoleBody>(200, "The role as it is now.")
}

pub(crate) fn delete_role() -> Doc {
    Doc::new("Members", "Remove a role")
        .act("role.delete")
        .returns_nothing(204, "Removed.")
        .fails(&[Code::Conflict])
}

pub(crate) fn list_sessions() -> Doc {
    Doc::new("Members", "List the sessions")
        .query("member_id", "Of this member only.")
        .paged()
        .lists::<SessionBody>("The sessions, the newest first, past ones too.")
}

pub(crate) fn end_session() -> Doc {
    Doc::new("Members", "End a session")
        .act("session.end")
        .about("At once, on every node.")
        .returns_nothing(204, "Ended.")
}

pub(crate) fn sign_in() -> Doc {
    Doc::new("Signing in", "Sign in")
        .about(
            "Sets the session's cookie, which a browser keeps from scripts and sends over TLS only \
             (or to the same machine). Whether the address, the password or the code is wrong is \
             not told.",
        )
        .body::<SignIn>(json!({ "email": "ann@example.com", "password": "correct horse battery" }))
        .returns::<SessionFace>(201, "Signed in.")
        .fails(PROOF)
        .fails(&[Code::OriginRefused])
}

pub(crate) fn accept_invitation() -> Doc {
    Doc::new("Signing in", "Take up an invitation")
        .about("Makes whoever has the token a member and signs them in.")
        .body::<Accept>(json!({
            "token": "qi_…",
            "name": "Ann",
            "password": "correct horse battery",
        }))
        .returns::<SessionFace>(201, "A member, and signed in.")
        .fails(&[
            Code::NotFound,
            Code::Conflict,
            Code::OriginRefused,
            Code::RateLimited,
            Code::Overloaded,
            Code::Unavailable,
        ])
}

pub(crate) fn get_session() -> Doc {
    Doc::new("Signing in", "Read who is signed in")
        .returns::<SessionFace>(200, "The member, and the token against forged requests.")
}

pub(crate) fn sign_out() -> Doc {
    Doc::new("Signing in", "Sign out").returns_nothing(204, "The session is over.")
}

pub(crate) fn change_password() -> Doc {
    Doc::new("Signing in", "Change the password")
        .about("All other sessions of the member end.")
        .body::<ChangePassword>(json!({
            "password": "correct horse battery",
            "new_password": "a river runs behind the shop",
        }))
        .returns_nothing(204, "Changed.")
        .fails(PROOF)
}

pub(crate) fn offer_second_factor() -> Doc {
    Doc::new("Signing in", "Set up a second factor")
        .about("Six digits of an authenticator app (RFC 6238). In force once it is confirmed.")
        .body::<ShowPassword>(json!({ "password": "correct horse battery" }))
        .returns::<SecondFactor>(200, "What the app needs.")
        .fails(PROOF)
        .fails(&[Code::Conflict])
}

pub(crate) fn confirm_second_factor() -> Doc {
    Doc::new("Signing in", "Confirm the second factor")
        .body::<ConfirmSecondFactor>(json!({ "code": "123456" }))
        .returns::<RecoveryCodes>(
            200,
            "In force. The codes are for the day when the device is lost.",
        )
        .fails(PROOF)
        .fails(&[Code::Conflict])
}

pub(crate) fn remove_second_factor() -> Doc {
    Doc::new("Signing in", "Remove the second factor")
        .body::<ShowAgain>(json!({ "password": "correct horse battery", "code": "123456" }))
        .returns_nothing(204, "Removed.")
        .fails(PROOF)
}

pub(crate) fn create_provider() -> Doc {
    Doc::new("Members", "Add an identity provider")
        .once()
        .act("identity_provider.create")
        .about(
            "A service with OpenID Connect by which members sign in. Register \
             `<this server>/v1/oidc/callback` there. For owners and the operator: whoever answers \
             for a provider decides who everybody is.",
        )
        .body::<CreateIdentityProvider>(json!({
            "name": "Company account",
            "issuer": "https://login.example.com",
            "client_id": "qudao",
            "client_secret": "…",
            "join_role": "viewer",
            "join_domains": ["example.com"],
        }))
        .returns::<IdentityProviderBody>(201, LOCATION)
}

pub(crate) fn list_providers() -> Doc {
    Doc::new("Members", "List the identity providers")
        .returns::<IdentityProviderList>(200, "The identity providers, the oldest first.")
}

pub(crate) fn delete_provider() -> Doc {
    Doc::new("Members", "Remove an identity provider")
        .act("identity_provider.delete")
        .about("Nobody comes in by it any more. Sessions that it began go on until they end.")
        .returns_nothing(204, "Removed.")
}

pub(crate) fn sign_in_options() -> Doc {
    Doc::new("Signing in", "Read how to sign in")
        .about("For a sign-in page. A tenant that does not exist has no identity providers either.")
        .returns::<SignInOptions>(200, "What there is beside the password.")
        .fails(&[Code::Unavailable])
}

pub(crate) fn depart() -> Doc {
    Doc::new("Signing in", "Sign in by an identity provider")
        .about(
            "Sends the browser to the provider, which sends it back to `/v1/oidc/callback`; or, if \
             that cannot be, to the console, as the callback does.",
        )
        .returns_nothing(303, "To the provider's page, or to the console.")
}

pub(crate) fn arrive() -> Doc {
    Doc::new("Signing in", "Come back from an identity provider")
        .about(
            "For browsers, not for programs: they are sent to a page in any case. Whoever was not \
             signed in comes to `/console#/sign-in-failed?code=…`. The code is one of `stray` (it \
             did not begin in this browser, or took too long), `refused` (by the provider or the \
             person there), `unconfirmed` (what the provider said does not hold), \
             `email_unverified`, `not_a_member`, `client_refused` (the provider does not take the \
             client id and secret), `provider_away`, `provider_gone`, `rate_limited`, `not_set_up` \
             (`server.public_url` is missing) and `failed`.",
        )
        .query("state", "From the provider.")
        .query("code", "From the provider.")
        .query("error", "From the provider, if it refused.")
        .returns_nothing(303, "To the console.")
        .fails(&[Code::InvalidQuery])
}

#[cfg(test)]
mod tests {
    use crate::oidc::Failure;

    #[test]
    fn every_reason_not_to_be_signed_in_is_described() {
        let described = crate::openapi_json();
        for failure in Failure::ALL {
            assert!(described.contains(&format!("`{}`", failure.as_str())), "{failure:?}");
        }
    }
}

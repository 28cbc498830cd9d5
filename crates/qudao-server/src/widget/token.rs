//! What a page shows instead of a key: sealed by this platform, for a quarter of an hour.
//!
//! It is sealed with the tenant's data key for the channel, as a secret in the database is. So every
//! node opens it, nothing has to be stored or looked up, and a token of another tenant or channel
//! does not open at all. What stands in it is compared with what is true now.

use std::{rc::Rc, sync::Arc, time::Duration};

use actix_web::HttpRequest;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jiff::Timestamp;
use qudao_core::{
    Core,
    vault::{Place, VaultError},
};
use qudao_domain::{AssistantId, key::SecretHash};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::entrance::{Entrance, entrance};
use crate::{code::Code, error::ApiError, state::AppState};

/// How long a token is good for.
pub(crate) const GOOD_FOR: Duration = Duration::from_secs(15 * 60);
const PREFIX: &str = "qw_";
/// The longest text that is opened. An origin has 260 characters at most.
const MAX_CHARS: usize = 1024;

/// What is sealed. The tenant and the channel are what it is sealed for.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sealed {
    assistant: AssistantId,
    origin: String,
    peer: String,
    /// Seconds since 1970.
    until: i64,
}

/// A visitor with a good token.
#[derive(Debug, Clone)]
pub(crate) struct Pass {
    /// The hash of the visitor's secret.
    pub(crate) peer: Rc<str>,
    /// When the token ends.
    pub(crate) until: Instant,
}

/// The secret of a visitor of a widget, which their browser keeps: `vw_` and 43 characters. It buys
/// tokens where the page's site is listed, and nothing else: the chat page takes another kind.
pub(crate) fn peer_of(visitor: &str) -> Option<String> {
    let secret = visitor.strip_prefix("vw_")?;
    let url_safe = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    (secret.len() == 43 && secret.bytes().all(url_safe))
        .then(|| hex::encode(SecretHash::of(visitor).as_bytes()))
}

/// Makes a token for a visitor of this page.
///
/// # Errors
/// Those of the vault.
pub(crate) async fn issue(
    state: &AppState,
    entrance: &Entrance,
    peer: String,
) -> Result<String, ApiError> {
    let now = state.core.clock.now().as_second();
    let good_for = i64::try_from(GOOD_FOR.as_secs()).unwrap_or(i64::MAX);
    let sealed = Sealed {
        assistant: entrance.door.assistant_id,
        origin: entrance.origin.as_str().to_owned(),
        peer,
        until: now.saturating_add(good_for),
    };
    let plain = serde_json::to_vec(&sealed).unwrap_or_default();
    let (core, tenant) = (Arc::clone(&state.core), entrance.door.tenant_id);
    let place = place(entrance);
    let sealed = state.on_runtime(async move {
        core.vault.seal(tenant, place, &plain).await.map_err(|error| vault_failed(&error))
    });
    Ok(format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(sealed.await?)))
}

/// Lets in whoever shows a token that this page was given.
///
/// # Errors
/// `invalid_credentials` for every token that is not good here and now, and `origin_refused`.
pub(crate) async fn admit(request: &HttpRequest, token: &str) -> Result<Pass, ApiError> {
    let bytes = decode(token).ok_or_else(stale)?;
    open(AppState::of(request), &*entrance(request)?, bytes).await
}

/// As [`admit`], for a token that comes after the request.
///
/// # Errors
/// As [`admit`].
pub(crate) async fn admit_to(
    state: &AppState,
    entrance: &Entrance,
    token: &str,
) -> Result<Pass, ApiError> {
    open(state, entrance, decode(token).ok_or_else(stale)?).await
}

fn decode(token: &str) -> Option<Vec<u8>> {
    let text = token.strip_prefix(PREFIX).filter(|text| text.len() <= MAX_CHARS)?;
    URL_SAFE_NO_PAD.decode(text).ok()
}

async fn open(state: &AppState, entrance: &Entrance, bytes: Vec<u8>) -> Result<Pass, ApiError> {
    let (core, tenant) = (Arc::clone(&state.core), entrance.door.tenant_id);
    let place = place(entrance);
    let opened = state.on_runtime(async move {
        match core.vault.open(tenant, place, &bytes).await {
            Ok(plain) => serde_json::from_slice(plain.reveal()).map_err(|_| stale()),
            Err(VaultError::Storage(error)) => Err(ApiError::from(error)),
            Err(_) => Err(stale()),
        }
    });
    judge(&state.core, entrance, opened.await?)
}

fn judge(core: &Core, entrance: &Entrance, sealed: Sealed) -> Result<Pass, ApiError> {
    let left = left(core.clock.now(), sealed.until);
    let fits =
        sealed.origin == entrance.origin.as_str() && sealed.assistant == entrance.door.assistant_id;
    match left.filter(|_| fits) {
        Some(left) => Ok(Pass { peer: sealed.peer.into(), until: Instant::now() + left }),
        None => Err(stale()),
    }
}

/// The time until `until`, if there is any. Never more than a token is good for.
fn left(now: Timestamp, until: i64) -> Option<Duration> {
    let seconds = u64::try_from(until.saturating_sub(now.as_second())).ok()?;
    (0 < seconds).then(|| Duration::from_secs(seconds).min(GOOD_FOR))
}

/// No row of a table: what else is sealed for the tenant does not open as a token.
fn place(entrance: &Entrance) -> Place {
    Place { table: "token", column: "widget", row: entrance.door.channel_id.as_uuid() }
}

/// One wording for every token that is not good, so that nobody learns what is wrong with one.
fn stale() -> ApiError {
    ApiError::new(
        Code::InvalidCredentials,
        "the token is not good here, or not any more: ask for a new one",
    )
}

fn vault_failed(error: &VaultError) -> ApiError {
    if let VaultError::Storage(error) = error {
        return ApiError::from(error);
    }
    tracing::error!(%error, "a token could not be sealed");
    ApiError::new(Code::Internal, "the token could not be made")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_visitor_of_a_widget_is_none_of_the_chat_page() {
        let secret = "a".repeat(43);
        assert_eq!(peer_of(&format!("vw_{secret}")).map(|peer| peer.len()), Some(64));
        assert_eq!(crate::access::visitor_peer(&format!("vw_{secret}")), None);
        for text in ["", "vw_", &format!("vt_{secret}"), &format!("vw_{secret}a")] {
            assert_eq!(peer_of(text), None, "{text}");
        }
    }

    #[test]
    fn a_token_ends_when_it_says_and_never_lasts_longer() {
        let now = Timestamp::from_second(1000).unwrap();
        assert_eq!(left(now, 1060), Some(Duration::from_secs(60)));
        for over in [1000, 999, 0, i64::MIN] {
            assert_eq!(left(now, over), None, "{over}");
        }
        assert_eq!(left(now, i64::MAX), Some(GOOD_FOR));
    }
}

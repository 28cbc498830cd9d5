//! The envelope of what Feishu posts: its signature and its cipher.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use jiff::Timestamp;
use qudao_core::channel::{
    adapter::{Answer, RawRequest, Reject},
    config::ChannelConfig,
};
use serde_json::{Value, json};

use crate::{ciphers, lenient, signature};

/// How old a signature may be. An event that was not taken comes again for some seven hours, and
/// nothing says that it is signed anew; a repetition is known by its id for longer than that.
const PAST_S: i64 = 8 * 3600;
const FUTURE_S: i64 = 300;

/// What was in the envelope.
pub(super) enum Opened {
    /// The platform tests the address.
    Challenge(Answer),
    /// An event.
    Event(Value),
}

pub(super) fn open(
    config: &ChannelConfig,
    request: &RawRequest,
    now: Timestamp,
) -> Result<Opened, Reject> {
    let keys = config.candidates("encrypt_key")?;
    if request.method != "POST" {
        return Err(Reject::MethodNotAllowed);
    }
    if !request.tail.is_empty() {
        return Err(Reject::NotFound);
    }
    let signed = is_signed(&keys, request, now);
    let body: Value = serde_json::from_slice(&request.body).map_err(|_| match signed {
        Ok(()) => Reject::Malformed("an event is JSON"),
        Err(unsigned) => Reject::Unauthorized(unsigned),
    })?;
    let sealed = lenient::some_text(&body, "/encrypt");
    // Whoever has the key may open; that alone does not make an event.
    let opened = sealed.and_then(|sealed| keys.iter().find_map(|key| decrypt(key, &sealed)));
    // The test of an address comes without a signature.
    let test = opened.as_ref().unwrap_or(&body);
    if lenient::text(test, "/type") == "url_verification" {
        let proved = opened.is_some() || config.candidates("verification_token").is_ok();
        if !proved || !shows_token(config, &lenient::text(test, "/token")) {
            return Err(Reject::Unauthorized("the address's test shows no secret"));
        }
        let challenge = json!({"challenge": lenient::text(test, "/challenge")});
        return Ok(Opened::Challenge(Answer::json(&challenge)));
    }
    signed.map_err(Reject::Unauthorized)?;
    // With a key, events are always encrypted.
    let event = opened.ok_or(Reject::Malformed("the event is not encrypted with this key"))?;
    let token = lenient::some_text(&event, "/header/token")
        .or_else(|| lenient::some_text(&event, "/token"));
    if !shows_token(config, &token.unwrap_or_default()) {
        return Err(Reject::Unauthorized("the verification token is another"));
    }
    let app = lenient::some_text(&event, "/header/app_id");
    if app.is_some_and(|app| config.setting("app_id") != Some(app.as_str())) {
        return Err(Reject::Unauthorized("the event is another app's"));
    }
    Ok(Opened::Event(event))
}

/// Whether the body is signed with any of the keys, lately enough.
fn is_signed(keys: &[&str], request: &RawRequest, now: Timestamp) -> Result<(), &'static str> {
    let line = |name: &str| request.header(name).filter(|text| !text.is_empty());
    let (Some(time), Some(nonce), Some(shown)) =
        (line("x-lark-request-timestamp"), line("x-lark-request-nonce"), line("x-lark-signature"))
    else {
        return Err("there is no signature");
    };
    let at: i64 = time.parse().map_err(|_| "the signature has no time")?;
    let parts = |key: &str| {
        let parts = [time.as_bytes(), nonce.as_bytes(), key.as_bytes(), &request.body];
        hex::encode(signature::sha256(&parts)).into_bytes()
    };
    if !signature::any(keys.iter().copied(), shown.as_bytes(), parts) {
        return Err("the signature is another");
    }
    if lenient::within(at, now, PAST_S, FUTURE_S) {
        Ok(())
    } else {
        Err("the signature is too old")
    }
}

/// Whether a token is the channel's; any is if the channel has none.
fn shows_token(config: &ChannelConfig, shown: &str) -> bool {
    config.candidates("verification_token").map_or(true, |all| {
        signature::any(all, shown.as_bytes(), |token| token.as_bytes().to_vec())
    })
}

/// AES-256-CBC with the key's hash; the first block is the vector.
pub(super) fn decrypt(key: &str, sealed: &str) -> Option<Value> {
    let sealed = STANDARD.decode(sealed).ok()?;
    let (iv, rest) = sealed.split_first_chunk::<16>()?;
    let padded = ciphers::open(&signature::sha256(&[key.as_bytes()]), iv, rest)?;
    let value: Value = serde_json::from_slice(&ciphers::unpad(padded, 16)?).ok()?;
    value.is_object().then_some(value)
}

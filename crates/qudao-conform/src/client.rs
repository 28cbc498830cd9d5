//! Signed requests, well made and badly made.

use std::time::Duration;

use anyhow::{Context as _, Result};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use hmac::{Hmac, KeyInit as _, Mac as _};
use jiff::{SignedDuration, Timestamp};
use qudao_pcp::{Event, EventId, PrivateKey, Secret, Signer, VERSION, header};
use reqwest::{Client, header::HeaderMap};
use serde_json::Value;
use sha2::Sha256;

/// Everything that the two sides share.
#[derive(Debug, Clone)]
pub struct Keys {
    /// The channel.
    pub channel: String,
    /// Names the channel to the platform.
    pub bearer: String,
    /// Shared secrets, the newest first.
    pub secrets: Vec<Secret>,
    /// The kit's own pair.
    pub private: PrivateKey,
}

/// How a request is made.
#[derive(Debug, Clone)]
pub struct Made {
    /// What signs.
    pub signer: Signer,
    /// Seconds that the clock is ahead.
    pub skew: i64,
    /// In the place of the signature; `None` for no such header.
    pub signature: Option<Option<String>>,
    /// In the place of the bytes that were signed.
    pub body: Option<Vec<u8>>,
    /// It is a replay.
    pub replay: bool,
}

/// An answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status; 0 if there was none in time.
    pub status: u16,
    /// The header.
    pub headers: HeaderMap,
    /// The body.
    pub body: Vec<u8>,
}

impl Answer {
    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// Whether it says yes.
    pub fn is_yes(&self) -> bool {
        (200..300).contains(&self.status)
    }
}

impl Made {
    /// As it should be.
    pub fn well(keys: &Keys) -> Self {
        let signer = Signer { secrets: keys.secrets.clone(), ..Signer::default() };
        Self { signer, skew: 0, signature: None, body: None, replay: false }
    }

    /// Signed with this secret alone.
    pub fn with(secret: &Secret) -> Self {
        let signer = Signer { secrets: vec![secret.clone()], ..Signer::default() };
        Self { signer, skew: 0, signature: None, body: None, replay: false }
    }

    /// Signed with a pair alone.
    pub fn with_pair(key: &PrivateKey) -> Self {
        let signer = Signer { secrets: Vec::new(), private_keys: vec![key.clone()] };
        Self { signer, skew: 0, signature: None, body: None, replay: false }
    }
}

/// A client that follows nothing.
///
/// # Errors
/// When the TLS library cannot be set up.
pub fn client() -> Result<Client> {
    let builder = Client::builder().redirect(reqwest::redirect::Policy::none()).no_proxy();
    builder.timeout(Duration::from_secs(40)).build().context("setting up the client")
}

/// Posts an event.
///
/// # Errors
/// When it cannot be signed or sent.
pub async fn post(
    client: &Client,
    url: &str,
    keys: &Keys,
    event: &Event,
    made: &Made,
) -> Result<Answer> {
    let signed = event.to_bytes();
    let now = Timestamp::now().checked_add(SignedDuration::from_secs(made.skew))?;
    let signature = match &made.signature {
        Some(instead) => instead.clone(),
        None => Some(made.signer.sign(&event.id, now, &signed)?),
    };
    let mut request = client
        .post(url)
        .header("content-type", "application/json")
        .header("authorization", format!("Bearer {}", keys.bearer))
        .header(header::VERSION, VERSION)
        .header(header::ID, event.id.as_str())
        .header(header::TIMESTAMP, now.as_second().to_string())
        .body(made.body.clone().unwrap_or(signed));
    if let Some(signature) = signature {
        request = request.header(header::SIGNATURE, signature);
    }
    if made.replay {
        request = request.header(header::REPLAY, "1");
    }
    answer(request).await
}

/// Sends a request.
///
/// # Errors
/// When nothing answers.
pub async fn answer(request: reqwest::RequestBuilder) -> Result<Answer> {
    let response = request.send().await.context("no answer")?;
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let body = response.bytes().await.context("an answer that broke off")?.to_vec();
    Ok(Answer { status, headers, body })
}

/// A signature with the empty secret, which a careless verifier takes for "no check".
pub fn empty_signature(id: &EventId, body: &[u8]) -> Option<String> {
    let mut mac = Hmac::<Sha256>::new_from_slice(b"").ok()?;
    mac.update(format!("{id}.{}.", Timestamp::now().as_second()).as_bytes());
    mac.update(body);
    Some(format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes())))
}

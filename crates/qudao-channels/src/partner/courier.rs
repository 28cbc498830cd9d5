//! Posts to partners' endpoints.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Method, header::CONTENT_TYPE};
use jiff::Timestamp;
use qudao_egress::Egress;
use qudao_pcp::{EventId, VERSION, header};

use super::keys::Keys;

/// The clients that reach partners' endpoints.
#[derive(Debug, Clone, Default)]
pub struct Courier {
    /// Reaches what the operator allows.
    pub public: Option<Egress>,
    /// Reaches this machine as well, for channels in the sandbox, if the operator allows that.
    pub sandbox: Option<Egress>,
}

/// An answer of an endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Posted {
    /// The status.
    pub status: u16,
    /// The body.
    pub body: Vec<u8>,
    /// How long to wait, if it says.
    pub retry_after: Option<Duration>,
}

impl Courier {
    /// Whether an address may be an endpoint.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn check(&self, url: &str, sandbox: bool) -> Result<(), String> {
        let client = self.client(sandbox)?;
        client.url(url).map(drop).map_err(|refusal| refusal.to_string())
    }

    /// Signs these bytes anew and posts them.
    ///
    /// # Errors
    /// Why there is no answer, in words that name no address.
    pub async fn post(
        &self,
        (url, sandbox): (&str, bool),
        keys: &Keys,
        (id, body, replayed): (&EventId, &[u8], bool),
        now: Timestamp,
    ) -> Result<Posted, String> {
        let client = self.client(sandbox)?;
        let url = client.url(url).map_err(|refusal| refusal.to_string())?;
        let signature = keys.signer.sign(id, now, body).map_err(|error| error.to_string())?;
        let mut headers = HeaderMap::new();
        let mut put = |name: &'static str, value: &str| {
            if let Ok(value) = HeaderValue::from_str(value) {
                headers.insert(HeaderName::from_static(name), value);
            }
        };
        put(header::ID, id.as_str());
        put(header::TIMESTAMP, &now.as_second().to_string());
        put(header::SIGNATURE, &signature);
        put(header::VERSION, VERSION);
        put(header::KEY_ID, &keys.signer.key_id().unwrap_or_default());
        if replayed {
            put(header::REPLAY, "1");
        }
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let sent = client.request(Method::POST, &url, headers, Some(body.to_vec())).await;
        let answer = sent.map_err(|error| error.to_string())?;
        let after = answer.headers().get(http::header::RETRY_AFTER);
        let after = after.and_then(|value| value.to_str().ok()?.trim().parse().ok());
        Ok(Posted {
            status: answer.status().as_u16(),
            retry_after: after.map(Duration::from_secs),
            body: answer.into_body(),
        })
    }

    fn client(&self, sandbox: bool) -> Result<&Egress, String> {
        let own = if sandbox { self.sandbox.as_ref() } else { None };
        let missing = || "this platform requests no addresses of partners".to_owned();
        own.or(self.public.as_ref()).ok_or_else(missing)
    }
}

//! Requests to addresses that tenants choose.

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::Deserialize;

/// Requests to addresses that tenants choose: webhooks, models, media, sign-in providers. Addresses
/// that the operator writes into this file are not meant.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Egress {
    /// Networks that are not public and may be requested all the same, as `10.1.0.0/16`: every
    /// tenant can then reach every service in them at one of `ports`. The addresses at which clouds
    /// serve a machine's secrets are refused in any case.
    #[schemars(with = "Vec<String>")]
    pub allow_networks: Vec<IpNet>,
    /// Whether plain http may be used. Its port has to be among `ports`.
    pub allow_http: bool,
    /// The ports that may be requested.
    pub ports: Vec<u16>,
    /// Milliseconds until a connection stands, the look-up of the name included.
    pub connect_timeout_ms: u64,
    /// Milliseconds until the last byte of an answer.
    pub timeout_ms: u64,
    /// Kibibytes of an answer's body.
    pub body_kib: usize,
}

impl Default for Egress {
    fn default() -> Self {
        Self {
            allow_networks: Vec::new(),
            allow_http: false,
            ports: vec![443, 8443],
            connect_timeout_ms: 5000,
            timeout_ms: 15_000,
            body_kib: 1024,
        }
    }
}

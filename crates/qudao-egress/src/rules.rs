//! What an operator allows.

use std::net::IpAddr;

use ipnet::IpNet;
use url::Url;

use crate::{Refusal, address};

/// Names that mean this machine or the network that it is in, with everything below them.
const LOCAL_NAMES: &[&str] = &[
    "localhost",
    "localdomain",
    "local",
    "internal",
    "intranet",
    "private",
    "corp",
    "home",
    "lan",
    "home.arpa",
    "test",
    "invalid",
    "onion",
    "in-addr.arpa",
    "ip6.arpa",
];
/// Names of metadata services. Refused although an operator allows networks.
const METADATA_NAMES: &[&str] = &[
    "metadata.google.internal",
    "metadata.goog",
    "metadata",
    "instance-data",
    "instance-data.ec2.internal",
    "metadata.azure.internal",
    "metadata.azure.com",
    "metadata.tencentyun.com",
    "metadata.platformequinix.com",
];

/// Which addresses may be requested.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    allow_networks: Vec<IpNet>,
    allow_http: bool,
    ports: Vec<u16>,
    any_port: bool,
}

/// Why rules cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RulesError {
    /// It would allow everything.
    #[error("the network {0} holds every address; name the networks that are meant")]
    EveryAddress(IpNet),
    /// No port could be used.
    #[error("at least one port is needed, and 0 is none")]
    Ports,
    /// Plain http has no port that it could use.
    #[error("plain http is allowed and port 80 is not; add it, or the port that is meant")]
    HttpWithoutPort,
}

impl Default for Rules {
    /// Public addresses, https, ports 443 and 8443.
    fn default() -> Self {
        Self {
            allow_networks: Vec::new(),
            allow_http: false,
            ports: vec![443, 8443],
            any_port: false,
        }
    }
}

impl Rules {
    /// Public addresses and those in `allow_networks`, at `ports`, by https and, with `allow_http`,
    /// http.
    ///
    /// # Errors
    /// When a network holds every address, no port is left, or http has none.
    pub fn new(
        allow_networks: Vec<IpNet>,
        allow_http: bool,
        ports: Vec<u16>,
    ) -> Result<Self, RulesError> {
        if let Some(all) = allow_networks.iter().find(|network| network.prefix_len() == 0) {
            return Err(RulesError::EveryAddress(*all));
        }
        if ports.is_empty() || ports.contains(&0) {
            return Err(RulesError::Ports);
        }
        if allow_http && ports.iter().all(|port| matches!(port, 443 | 8443)) {
            return Err(RulesError::HttpWithoutPort);
        }
        Ok(Self { allow_networks, allow_http, ports, any_port: false })
    }

    /// What these rules allow, and this machine by http at any port: for endpoints that somebody
    /// tries out beside the platform.
    #[must_use]
    pub fn with_this_machine(&self) -> Self {
        let own = [IpAddr::from([127, 0, 0, 1]), IpAddr::V6(std::net::Ipv6Addr::LOCALHOST)];
        let mut rules = Self { allow_http: true, any_port: true, ..self.clone() };
        rules.allow_networks.extend(own.map(IpNet::from));
        rules
    }

    /// Whether only https may be used.
    #[must_use]
    pub fn https_only(&self) -> bool {
        !self.allow_http
    }

    /// Whether an address may be connected to.
    #[must_use]
    pub fn allows(&self, address: IpAddr) -> bool {
        if address::is_public(address) {
            return true;
        }
        let listed = self.allow_networks.iter().any(|network| network.contains(&address));
        let inner = match address {
            IpAddr::V6(address) => address::embedded(address).map(IpAddr::V4),
            IpAddr::V4(_) => None,
        };
        listed
            && !address::is_metadata(address)
            && inner.is_none_or(|inner| !address::is_metadata(inner) && self.allows(inner))
    }

    /// Whether a name may be looked up at all. The address that it has decides in any case; this
    /// spares the look-up of what can only be internal.
    pub(crate) fn allows_name(&self, name: &str) -> bool {
        let name = name.strip_suffix('.').unwrap_or(name);
        if METADATA_NAMES.contains(&name) {
            return false;
        }
        // Operators who allow networks have names for what is in them.
        if !self.allow_networks.is_empty() {
            return true;
        }
        let below = |local: &&str| {
            name.strip_suffix(*local).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        };
        name.contains('.') && !LOCAL_NAMES.iter().any(below)
    }

    /// Judges what was read from a text, literal addresses included.
    pub(crate) fn judge(&self, url: &Url) -> Result<(), Refusal> {
        match url.scheme() {
            "https" => {}
            "http" if self.allow_http => {}
            _ => return Err(Refusal::SchemeNotAllowed),
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(Refusal::HasUserInfo);
        }
        let allowed = match url.host() {
            Some(url::Host::Domain(name)) => self.allows_name(name),
            Some(url::Host::Ipv4(address)) => self.allows(address.into()),
            Some(url::Host::Ipv6(address)) => self.allows(address.into()),
            None => return Err(Refusal::Malformed),
        };
        if !allowed {
            return Err(Refusal::AddressNotPublic);
        }
        // After the address: which ports are allowed is no secret, what is inside is.
        match url.port_or_known_default() {
            Some(port) if port != 0 && (self.any_port || self.ports.contains(&port)) => Ok(()),
            _ => Err(Refusal::PortNotAllowed),
        }
    }
}

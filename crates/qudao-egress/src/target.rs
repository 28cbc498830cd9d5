//! An address that passed the rules.

use std::fmt;

use url::{Host, Url};

use crate::{Refusal, Rules};

/// No address that anybody uses is longer.
const MAX_BYTES: usize = 2048;

/// An address that was read once and passed the rules. Whoever requests it passes this value on,
/// never the text that it was read from.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct PublicUrl(Url);

impl PublicUrl {
    /// Reads an address and holds it against the rules. Nothing is looked up: a name is judged by
    /// its address when it is connected to.
    ///
    /// # Errors
    /// Which rule it breaks.
    pub fn parse(text: &str, rules: &Rules) -> Result<Self, Refusal> {
        if text.len() > MAX_BYTES {
            return Err(Refusal::TooLong);
        }
        // The reader would drop some of these silently, and others keep them.
        let odd = |char: char| char.is_control() || char.is_whitespace() || char == '\\';
        if text.contains(odd) {
            return Err(Refusal::Malformed);
        }
        let url = Url::parse(text).map_err(|_| Refusal::Malformed)?;
        rules.judge(&url)?;
        if url.fragment().is_some() || !is_plain(text, &url) {
            return Err(Refusal::Malformed);
        }
        Ok(Self(url))
    }

    /// What was read.
    #[must_use]
    pub fn as_url(&self) -> &Url {
        &self.0
    }

    /// The whole address, in its one spelling.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// The host, in its one spelling.
    #[must_use]
    pub fn host(&self) -> &str {
        self.0.host_str().unwrap_or_default()
    }
}

impl fmt::Display for PublicUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Without path and query, which may hold a token.
impl fmt::Debug for PublicUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicUrl({}://{}/…)", self.0.scheme(), self.host())
    }
}

/// Whether the host is written in the way in which every reader reads it: after two slashes, an
/// address in its usual spelling, a name in letters that stand for themselves. `0x8.8.2056` and
/// `ex%61mple.com` are addresses to one reader and names, or nothing, to another.
fn is_plain(text: &str, url: &Url) -> bool {
    let Some(rest) = text.get(url.scheme().len()..).and_then(|rest| rest.strip_prefix("://"))
    else {
        return false;
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    // The port may be written although it is the usual one; the host ends before it.
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    };
    match url.host() {
        Some(Host::Domain(name)) if host.is_ascii() => {
            host.eq_ignore_ascii_case(name) && !has_odd_labels(name)
        }
        // Names in other scripts are common. What they must not do is turn into letters, digits or
        // dots of this one: `①②⑦。0。0。①` is 127.0.0.1.
        Some(Host::Domain(name)) => {
            let (written, read) = (host.split('.'), name.split('.'));
            written.clone().count() == read.clone().count()
                && !has_odd_labels(name)
                && written.zip(read).all(|(written, read)| match written.is_ascii() {
                    true => written.eq_ignore_ascii_case(read),
                    false => read.starts_with("xn--"),
                })
        }
        Some(Host::Ipv4(address)) => host == address.to_string(),
        Some(Host::Ipv6(_)) => host.eq_ignore_ascii_case(url.host_str().unwrap_or_default()),
        None => false,
    }
}

/// Empty labels, and what no name of a host holds.
fn has_odd_labels(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    name.len() > 253
        || name
            .split('.')
            .any(|label| label.is_empty() || label.len() > 63 || !label.bytes().all(plain))
}

//! The `Message-ID`s of what we send: `<qd.TIME.NUMBER.TAG@DOMAIN>`. The tag is made with a secret
//! of the channel over the rest and the recipient, so a bounce that names one of them is believed
//! only if it is about a mail that we did send to that address. The time tells a loop from a talk.

use qudao_core::channel::config::ChannelConfig;

use crate::signature::{any, hmac_sha256, sha256};

/// Secrets that may make the tag, the first that is set.
const KEYS: [&str; 3] = ["smtp_password", "inbound_secret", "imap_password"];

/// What one of our ids says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Own {
    /// When the mail that it answers came, in seconds of the Unix epoch; 0 if it answers none.
    pub(super) at: i64,
}

/// The id of a mail to one recipient, without the angle brackets. The same for each attempt.
pub(super) fn make(config: &ChannelConfig, at: i64, out: &str, piece: u32, to: &str) -> String {
    let number = sha256(&[out.as_bytes(), b"\0", &piece.to_be_bytes()]);
    let number = hex::encode(&number[..8]);
    let key = keys(config).into_iter().next().unwrap_or_default();
    let tag = tag(&key, &format!("{at}.{number}"), to);
    format!("qd.{at}.{number}.{tag}@{}", domain(config))
}

/// Reads an id as one of ours, for which the form is enough.
pub(super) fn read(config: &ChannelConfig, id: &str) -> Option<Own> {
    let (local, at_domain) = id.trim_matches(['<', '>']).rsplit_once('@')?;
    let mut fields = local.strip_prefix("qd.")?.split('.');
    let at = fields.next()?.parse().ok()?;
    let rest = [fields.next()?, fields.next()?];
    let whole = fields.next().is_none() && rest.iter().all(|field| field.len() == 16);
    (whole && at_domain.eq_ignore_ascii_case(domain(config))).then_some(Own { at })
}

/// Whether we sent a mail with this id to this address.
pub(super) fn proves(config: &ChannelConfig, id: &str, to: &str) -> bool {
    let id = id.trim_matches(['<', '>']);
    let Some((body, shown)) = id.rsplit_once('@').and_then(|(local, _)| local.rsplit_once('.'))
    else {
        return false;
    };
    let Some(body) = body.strip_prefix("qd.") else { return false };
    let keys = keys(config);
    any(keys.iter().map(String::as_str), shown.as_bytes(), |key| tag(key, body, to).into_bytes())
}

fn tag(key: &str, body: &str, to: &str) -> String {
    let to = to.to_lowercase();
    let made =
        hmac_sha256(key.as_bytes(), &[b"qudao mail\0", body.as_bytes(), b"\0", to.as_bytes()]);
    hex::encode(&made[..8])
}

/// Every key that may have made a tag. A channel without any secret has its own id, which is none,
/// but known to few.
fn keys(config: &ChannelConfig) -> Vec<String> {
    let set = KEYS.iter().find_map(|name| config.candidates(name).ok());
    match set {
        Some(all) => all.into_iter().map(str::to_owned).collect(),
        None => vec![config.channel_id.to_string()],
    }
}

fn domain(config: &ChannelConfig) -> &str {
    let address = config.setting("address").unwrap_or_default();
    address.rsplit_once('@').map_or("localhost", |(_, domain)| domain)
}

//! Addresses of files that a partner may fetch for a while without credentials.

use std::time::Duration;

use jiff::Timestamp;
use qudao_core::channel::config::ChannelConfig;
use qudao_domain::{ChannelId, TenantId, message::Part};
use subtle::ConstantTimeEq as _;
use uuid::Uuid;

use super::keys::SIGNING_SECRET;
use crate::signature::hmac_sha256;

/// How long such an address is good.
pub const MEDIA_GOOD_FOR: Duration = Duration::from_secs(3600);
const PREFIX: &str = "upl_";

/// Makes and checks addresses of a channel's files. They are signed with the channel's secret, so
/// that every node can check them.
#[derive(Clone)]
pub struct MediaLink {
    base: String,
    tenant_id: TenantId,
    channel_id: ChannelId,
    secrets: Vec<String>,
}

impl MediaLink {
    /// `None` if the platform does not know its own address or the channel has no secret.
    pub fn of(config: &ChannelConfig, base: Option<&str>) -> Option<Self> {
        let secrets = config.secrets.get(SIGNING_SECRET).filter(|all| !all.is_empty())?.clone();
        let base = base?.trim_end_matches('/').to_owned();
        Some(Self { base, tenant_id: config.tenant_id, channel_id: config.channel_id, secrets })
    }

    /// The id by which messages name a file.
    pub fn name(id: Uuid) -> String {
        format!("{PREFIX}{}", id.simple())
    }

    /// The file's id in such a name.
    pub fn parse(name: &str) -> Option<Uuid> {
        Uuid::try_parse(name.strip_prefix(PREFIX)?).ok()
    }

    /// An address that is good until `until`.
    pub fn url(&self, upload: &str, until: Timestamp) -> String {
        let Self { base, tenant_id, channel_id, secrets } = self;
        let until = until.as_second();
        let mac = secrets.first().map(|secret| self.mac(secret, upload, until)).unwrap_or_default();
        format!(
            "{base}/v1/pcp/channels/{channel_id}/media/{upload}?tenant={tenant_id}&until={until}&sig={}",
            hex::encode(mac)
        )
    }

    /// Whether an address is of this channel and good.
    pub fn is_good(&self, upload: &str, until: i64, signature: &str, now: Timestamp) -> bool {
        let given = hex::decode(signature).unwrap_or_default();
        let known = self.secrets.iter().fold(false, |known, secret| {
            known | bool::from(self.mac(secret, upload, until).ct_eq(given.as_slice()))
        });
        known && now.as_second() < until
    }

    fn mac(&self, secret: &str, upload: &str, until: i64) -> [u8; 32] {
        let text = format!("media\n{}\n{}\n{upload}\n{until}", self.tenant_id, self.channel_id);
        hmac_sha256(secret.as_bytes(), &[text.as_bytes()])
    }

    /// Gives a part's file an address, if it is the platform's own copy.
    pub(crate) fn give(&self, part: &mut Part, until: Timestamp) {
        if let Some(media) = part.media_mut()
            && let Some(upload) = media.upload_id.clone()
        {
            media.url = Some(self.url(&upload, until));
        }
    }
}

//! The keys of a partner's channel.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use qudao_core::{
    Core,
    channel::{config::ChannelConfig, secrets::Secrets, setup::OpenChannel},
};
use qudao_domain::{
    ChannelId, TenantId,
    key::{SecretHash, random_secret},
};
use qudao_pcp::{PrivateKey, PublicKey, Secret, Signer, Verifier, kind};
use qudao_storage::{ChannelChange, SealedSecrets, StorageError, Tx};
use serde_json::json;
use uuid::Uuid;

use super::queue::{Place, announce, tell};

/// The shared secret, with which both sides sign.
pub const SIGNING_SECRET: &str = "signing_secret";
/// The platform's own pair, for partners who verify without a shared secret.
pub const SIGNING_KEY: &str = "signing_key";
/// The public half of the partner's pair.
pub const PUBLIC_KEY: &str = "partner_public_key";

/// Every key of a channel that is valid.
#[derive(Debug, Clone)]
pub struct Keys {
    /// What is sent is signed with all of them.
    pub signer: Signer,
    /// What comes may be signed with any of them.
    pub verifier: Verifier,
}

impl Keys {
    /// The keys in a channel's secrets. One that cannot be read is none: it lets nobody in.
    pub fn of(config: &ChannelConfig) -> Self {
        fn read<T, E>(
            config: &ChannelConfig,
            name: &str,
            parse: fn(&str) -> Result<T, E>,
        ) -> Vec<T> {
            let texts = config.secrets.get(name).map(Vec::as_slice).unwrap_or_default();
            texts.iter().filter_map(|text| parse(text).ok()).collect()
        }
        let secrets = read(config, SIGNING_SECRET, Secret::parse);
        Self {
            signer: Signer {
                secrets: secrets.clone(),
                private_keys: read(config, SIGNING_KEY, PrivateKey::parse),
            },
            verifier: Verifier { secrets, public_keys: read(config, PUBLIC_KEY, PublicKey::parse) },
        }
    }
}

/// A bearer key and signing keys that were just made. They are shown once.
pub struct NewKeys {
    /// `pck_…`, which names tenant and channel to the platform.
    pub bearer: String,
    /// `whsec_…`.
    pub secret: Secret,
}

impl NewKeys {
    /// New keys of a channel; `live` if it is out of the sandbox.
    pub fn generate(tenant_id: TenantId, live: bool) -> Self {
        let stage = if live { "live" } else { "test" };
        let tenant = tenant_id.as_uuid().simple();
        Self {
            bearer: format!("pck_{stage}_{tenant}_{}", random_secret()),
            secret: Secret::generate(),
        }
    }

    /// Whose key this is, and its hash; `None` for a text of another form. Nothing is looked up.
    pub fn read_bearer(text: &str) -> Option<(TenantId, SecretHash)> {
        let rest = text.strip_prefix("pck_live_").or_else(|| text.strip_prefix("pck_test_"))?;
        let (tenant, secret) = rest.split_at_checked(32)?;
        let tenant = Uuid::try_parse(tenant).ok()?;
        let fits = secret.len() == 44 && secret.starts_with('_');
        fits.then(|| (TenantId::from_uuid(tenant), SecretHash::of(text)))
    }

    /// Puts the signing keys among a channel's secrets. Those that were there stay valid for
    /// `overlap`.
    pub fn add_to(&self, secrets: &mut Secrets, overlap: Duration, now: Timestamp) {
        secrets.set(SIGNING_SECRET, &self.secret.reveal(), overlap, now);
        if !secrets.names().any(|name| name == SIGNING_KEY) {
            secrets.set(SIGNING_KEY, &PrivateKey::generate().reveal(), overlap, now);
        }
    }
}

/// How long the keys before stay valid after a rotation.
const OVERLAP: Duration = Duration::from_secs(24 * 3600);

/// Changes a channel's secrets and, if there are some, settings. Of two changes at the same moment
/// one loses.
async fn change(
    tx: &mut Tx,
    core: &Core,
    id: ChannelId,
    settings: &[(&str, &str)],
    secrets_to: impl FnOnce(&mut Secrets),
) -> Result<(), StorageError> {
    let broken = |detail: &str| StorageError::Inconsistent { detail: detail.to_owned() };
    let tenant_id = tx.tenant_id();
    let setup = tx.channel_setup(id).await?.ok_or_else(|| broken("a channel is gone"))?;
    let unopened = |_| broken("the secrets of a channel cannot be opened");
    let mut secrets = match &setup.secrets_sealed {
        Some(sealed) => core.open_channel_secrets(tenant_id, id, sealed).await.map_err(unopened)?,
        None => Secrets::default(),
    };
    secrets_to(&mut secrets);
    let sealed = core.seal_channel_secrets(tenant_id, id, &secrets).await.map_err(unopened)?;
    let mut all = setup.settings;
    for (name, value) in settings {
        all.insert((*name).to_owned(), (*value).into());
    }
    let names = secrets.names().map(str::to_owned).collect();
    let change = ChannelChange {
        settings: Some(all),
        secrets: Some(SealedSecrets { sealed, names }),
        ..ChannelChange::default()
    };
    let changed = tx.change_channel(id, setup.revision, &change).await?;
    changed.map(drop).ok_or_else(|| broken("a channel was changed meanwhile"))
}

/// Keeps new keys of a channel: the hash of the one, the other sealed.
///
/// # Errors
/// [`StorageError`].
pub async fn keep_keys(
    tx: &mut Tx,
    core: &Core,
    id: ChannelId,
    keys: &NewKeys,
    overlap: Duration,
) -> Result<(), StorageError> {
    let now = core.clock.now();
    change(tx, core, id, &[], |secrets| keys.add_to(secrets, overlap, now)).await?;
    tx.add_partner_key(id, &SecretHash::of(&keys.bearer)).await
}

/// Removes the signing keys of a channel at once.
///
/// # Errors
/// [`StorageError`].
pub async fn drop_keys(tx: &mut Tx, core: &Core, id: ChannelId) -> Result<(), StorageError> {
    let now = core.clock.now();
    change(tx, core, id, &[], |secrets| {
        for name in [SIGNING_SECRET, SIGNING_KEY, PUBLIC_KEY] {
            secrets.set(name, "", Duration::ZERO, now);
        }
    })
    .await
}

/// Sets where a partner takes its events, how, and what it signs with besides the shared secret.
///
/// # Errors
/// [`StorageError`].
pub async fn set_endpoint(
    tx: &mut Tx,
    core: &Core,
    id: ChannelId,
    (url, transport, public_key): (&str, &str, Option<&str>),
) -> Result<(), StorageError> {
    let now = core.clock.now();
    let settings = [("endpoint_url", url), ("transport", transport)];
    change(tx, core, id, &settings, |secrets| {
        if let Some(key) = public_key {
            secrets.set(PUBLIC_KEY, key, OVERLAP, now);
        }
    })
    .await
}

/// Gives a channel a new shared secret beside the one that it has, and tells the partner. In the
/// sandbox the event carries the secret, so that a rotation can be practised.
///
/// # Errors
/// [`StorageError`]; of two rotations at the same moment one loses.
pub(super) async fn rotate_in(
    tx: &mut Tx,
    core: &Core,
    channel: &OpenChannel,
    told: bool,
) -> Result<Secret, StorageError> {
    let config = &channel.config;
    let (tenant_id, channel_id, now) = (config.tenant_id, config.channel_id, core.clock.now());
    let secret = Secret::generate();
    change(tx, core, channel_id, &[], |secrets| {
        secrets.set(SIGNING_SECRET, &secret.reveal(), OVERLAP, now);
    })
    .await?;
    let retiring = now.saturating_add(OVERLAP).unwrap_or(now);
    let mut data = json!({ "key_id": secret.id(), "old_keys_valid_until": retiring });
    if told && let Some(data) = data.as_object_mut() {
        data.insert("secret".to_owned(), secret.reveal().into());
    }
    let place = Place { tenant_id, channel_id, thread: "", conversation_id: None };
    tell(tx, place, kind::KEY_ROTATED, data, now).await?;
    Ok(secret)
}

/// As [`rotate_in`], in a transaction of its own. The new secret is shown once.
///
/// # Errors
/// [`StorageError`].
pub async fn rotate(core: &Arc<Core>, channel: &OpenChannel) -> Result<Secret, StorageError> {
    let config = &channel.config;
    let mut tx = core.store.begin(config.tenant_id).await?;
    let secret = rotate_in(&mut tx, core, channel, false).await?;
    tx.commit().await?;
    core.forget_channel(config.tenant_id, config.channel_id).await;
    announce(core, config.channel_id).await;
    Ok(secret)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bearer_key_tells_whose_it_is_and_other_texts_do_not() {
        let tenant = TenantId::new();
        let keys = NewKeys::generate(tenant, false);
        let (found, hash) = NewKeys::read_bearer(&keys.bearer).unwrap();
        assert_eq!(found, tenant);
        assert!(hash.matches(&SecretHash::of(&keys.bearer)));
        for text in
            ["", "pck_test_", "pck_live_é", &keys.bearer[..50], &format!("{}x", keys.bearer)]
        {
            assert!(NewKeys::read_bearer(text).is_none(), "{text}");
        }
    }
}

//! The master keys: configured, or made once and kept in the home.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use qudao_core::vault::{MasterKeySource, Vault};
use qudao_services::MASTER_KEY as FILE;
use qudao_storage::Store;
use qudao_vault::{MasterKey, MasterKeys};

use crate::{context::Context, operator_key::write_secret, terminal};

/// What seals and opens secrets. A key is made if none is configured and the database has none yet.
pub(crate) async fn unlock(context: &Context, store: &Store) -> anyhow::Result<Vault> {
    let source = find(context)?;
    let made = match &source {
        MasterKeySource::File(path) if *path == home_file(context) && !path.exists() => {
            make(store, path).await?
        }
        _ => None,
    };
    let unlocked = Vault::unlock(store.clone(), source).await;
    if let (Err(_), Some(path)) = (&unlocked, &made) {
        // Another node was faster: this key has never wrapped anything.
        let _ = std::fs::remove_file(path);
    }
    let vault = unlocked.context("unlocking the secrets of the database")?;
    if let Some(path) = &made {
        terminal::say(&format!(
            "A master key was made in {}. Backups do not hold it: keep a copy beside them, or no \
             secret of a restored database opens.",
            path.display()
        ));
    }
    Ok(vault)
}

/// Where the keys are, or would be.
pub(crate) fn find(context: &Context) -> anyhow::Result<MasterKeySource> {
    let security = &context.settings.security;
    if let Some(text) = &security.master_key {
        let keys = MasterKeys::parse(text.reveal())
            .context("setting security.master_key (QUDAO_MASTER_KEY)")?;
        return Ok(MasterKeySource::Given(keys));
    }
    let file = security.master_key_file.clone();
    Ok(MasterKeySource::File(file.unwrap_or_else(|| home_file(context))))
}

fn home_file(context: &Context) -> PathBuf {
    context.home.join(FILE)
}

async fn make(store: &Store, path: &Path) -> anyhow::Result<Option<PathBuf>> {
    if let Some(used) = store.master_keys().await?.iter().find(|key| key.in_use) {
        bail!(
            "the secrets of this database are protected by the master key {}, and {} does not \
             exist: copy it from another node or from where it is kept beside the backups, or set \
             QUDAO_MASTER_KEY",
            used.id,
            path.display()
        );
    }
    write_keys(path, &[&MasterKey::generate()])?;
    Ok(Some(path.to_owned()))
}

/// Writes a file of keys, the one to use first.
pub(crate) fn write_keys(path: &Path, keys: &[&MasterKey]) -> anyhow::Result<()> {
    let lines: String = keys.iter().map(|key| format!("{}\n", *key.reveal())).collect();
    write_secret(path, &lines)
}

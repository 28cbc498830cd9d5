//! `qudao keys`: which keys protect the secrets of the database, and others in their place.

use std::{path::Path, process::ExitCode};

use anyhow::{Context as _, bail};
use qudao_core::vault::{MasterKeySource, Vault};
use qudao_domain::TenantId;
use qudao_storage::{MasterKeyRecord, Once, Store};
use qudao_vault::{MasterKey, MasterKeys};
use serde_json::{Value, json};

use crate::{args::KeysCommand, context::Context, master_key, terminal};

pub(crate) async fn run(
    command: KeysCommand,
    context: &Context,
    json: bool,
) -> anyhow::Result<ExitCode> {
    let work = async |store: &Store| match command {
        KeysCommand::Status => status(context, store, json).await,
        KeysCommand::RotateMaster => rotate_master(context, store, json).await,
        KeysCommand::RotateTenant { tenant } => rotate_tenant(context, store, &tenant, json).await,
    };
    context.with_store(work).await.map(|()| ExitCode::SUCCESS)
}

async fn status(context: &Context, store: &Store, json: bool) -> anyhow::Result<()> {
    let present = master_key::find(context)?.load();
    let known = store.master_keys().await?;
    let here = |record: &MasterKeyRecord| {
        present.as_ref().is_ok_and(|keys| {
            keys.iter().any(|key| key.id().as_str() == record.id && key.made(&record.check_value))
        })
    };
    if json {
        let as_json = |record: &MasterKeyRecord| -> Value {
            json!({
                "id": record.id, "in_use": record.in_use, "wraps": record.wraps,
                "here": here(record),
            })
        };
        let keys: Vec<Value> = known.iter().map(as_json).collect();
        terminal::print_json(&json!({ "master_keys": keys }));
        return Ok(());
    }
    for record in &known {
        let used = if record.in_use { "in use" } else { "older" };
        let place = if here(record) { "here" } else { "not here" };
        terminal::print(&format!("{} {used}, wraps {} keys, {place}", record.id, record.wraps));
    }
    if let Err(error) = present {
        terminal::say(&format!("no master key here: {error}"));
    }
    Ok(())
}

async fn rotate_master(context: &Context, store: &Store, json: bool) -> anyhow::Result<()> {
    let source = master_key::find(context)?;
    let keys = source.load().context("reading the master keys")?;
    // Refuses keys that are not those of this database before anything is written.
    Vault::unlock(store.clone(), source.clone()).await?;
    let known = store.master_keys().await?;
    let settled = known.iter().all(|record| {
        let first = record.id == keys.first().id().as_str();
        first == record.in_use && (first || record.wraps == 0)
    });
    match &source {
        // What a rotation that was broken off left is finished before another one begins.
        MasterKeySource::File(path) if settled => put_new_key(path, &keys)?,
        MasterKeySource::Given(_) if settled => bail!(
            "the first key of QUDAO_MASTER_KEY wraps all keys already: put a new one in front of \
             it on every node (`openssl rand -base64 32`), restart them, and rotate then"
        ),
        _ => {}
    }
    let vault = Vault::unlock(store.clone(), source).await?;
    let done = vault.rotate_master().await?;
    if json {
        terminal::print_json(&json!({ "master_key": done.master_key_id, "rewrapped": done.keys }));
        return Ok(());
    }
    terminal::print(&format!(
        "{} keys are wrapped by the master key {} now",
        done.keys, done.master_key_id
    ));
    terminal::say("Keep the older master key for as long as you keep backups of before.");
    Ok(())
}

/// Nodes on this machine read the file again when they meet a key that the new one wraps.
fn put_new_key(path: &Path, keys: &MasterKeys) -> anyhow::Result<()> {
    let new = MasterKey::generate();
    let all: Vec<&MasterKey> = std::iter::once(&new).chain(keys.iter()).collect();
    master_key::write_keys(path, &all)?;
    terminal::say(&format!("A new key is the first in {}", path.display()));
    Ok(())
}

async fn rotate_tenant(
    context: &Context,
    store: &Store,
    tenant: &str,
    json: bool,
) -> anyhow::Result<()> {
    let tenant_id: TenantId = match tenant {
        "platform" => Once::OPERATOR,
        id => id.parse().with_context(|| format!("{id:?} is not a tenant"))?,
    };
    let vault = Vault::unlock(store.clone(), master_key::find(context)?).await?;
    let version = vault.rotate_tenant(tenant_id).await?;
    let resealed = vault.reseal(tenant_id).await?;
    if json {
        terminal::print_json(&json!({ "version": version, "resealed": resealed }));
    } else {
        terminal::print(&format!("version {version} is in use; {resealed} secrets sealed anew"));
    }
    Ok(())
}

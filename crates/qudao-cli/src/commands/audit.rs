//! `qudao audit`: who did what, and whether the record of it is what it was.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context as _;
use qudao_core::{
    Vault,
    audit::{self, Verification},
};
use qudao_domain::TenantId;
use qudao_storage::{AuditRecord, Once, Page, Store};
use serde_json::{Value, json};

use crate::{
    args::{AuditCommand, AuditListOptions, AuditVerifyOptions},
    context::Context,
    master_key, terminal,
};

/// The file of signed heads in the home.
pub(crate) const HEADS: &str = "audit-heads.jsonl";

pub(crate) async fn run(
    command: AuditCommand,
    context: &Context,
    json: bool,
) -> anyhow::Result<ExitCode> {
    let work = async |store: &Store| match command {
        AuditCommand::Verify(options) => verify(options, context, store, json).await,
        AuditCommand::List(options) => list(options, store, json).await,
    };
    context.with_store(work).await
}

/// A tenant's id, or `platform`.
fn tenant(text: &str) -> anyhow::Result<TenantId> {
    match text {
        "platform" => Ok(Once::OPERATOR),
        id => id.parse().with_context(|| format!("{id:?} is not a tenant")),
    }
}

async fn verify(
    options: AuditVerifyOptions,
    context: &Context,
    store: &Store,
    json: bool,
) -> anyhow::Result<ExitCode> {
    let tenant_id = options.tenant.as_deref().map(tenant).transpose()?;
    let mut files: Vec<PathBuf> = vec![context.home.join(HEADS)];
    files.extend(options.heads);
    let vault = Vault::unlock(store.clone(), master_key::find(context)?).await;
    if let Err(error) = &vault {
        terminal::say(&format!("signatures are not checked, and cut tails not seen: {error}"));
    }
    let found = audit::verify(store, vault.as_ref().ok(), tenant_id, &files).await?;
    if json {
        terminal::print_json(&as_json(&found, vault.is_ok()));
    } else {
        tell(&found);
    }
    Ok(if found.holds() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn tell(found: &Verification) {
    for (chain, fault) in found.faults() {
        terminal::print(&format!("{} row {}: {}", chain.name, fault.seq, fault.reason));
    }
    for forged in &found.forged {
        terminal::print(forged);
    }
    let rows: i64 = found.chains.iter().map(|chain| chain.rows).sum();
    let verdict = if found.holds() { "nothing is wrong" } else { "the log was tampered with" };
    terminal::say(&format!(
        "{rows} rows of {} chains, {} signed heads: {verdict}",
        found.chains.len(),
        found.signed
    ));
}

fn as_json(found: &Verification, signatures: bool) -> Value {
    let chains: Vec<Value> = found
        .chains
        .iter()
        .map(|chain| {
            let fault = chain.fault.as_ref();
            let fault = fault.map(|fault| json!({ "row": fault.seq, "reason": fault.reason }));
            json!({
                "chain": chain.name, "rows": chain.rows, "signed_heads": chain.known,
                "first_bad": fault,
            })
        })
        .collect();
    json!({
        "ok": found.holds(), "signatures_checked": signatures, "chains": chains,
        "forged": found.forged,
    })
}

async fn list(options: AuditListOptions, store: &Store, json: bool) -> anyhow::Result<ExitCode> {
    let mut tx = store.begin(tenant(&options.tenant)?).await?;
    let mut records = Vec::new();
    let mut page = Page::first(Page::MAX_LIMIT);
    while records.len() < options.limit {
        let listing = tx.list_audit(&page).await?;
        records.extend(listing.items);
        match listing.next {
            Some(next) => page.cursor = Some(next),
            None => break,
        }
    }
    tx.commit().await?;
    records.truncate(options.limit);
    if json {
        let all: Vec<Value> = records.iter().map(record_json).collect();
        terminal::print_json(&json!({ "audit_events": all }));
    } else {
        for record in &records {
            let AuditRecord { seq, at, event } = record;
            let from = event.address.as_deref().unwrap_or("-");
            terminal::print(&format!(
                "{seq:>6} {at} {} {} {} from {from} {}",
                event.actor, event.action, event.target, event.detail
            ));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn record_json(record: &AuditRecord) -> Value {
    let AuditRecord { seq, at, event } = record;
    json!({
        "seq": seq, "at": at, "actor": event.actor, "action": event.action,
        "target": event.target, "detail": event.detail, "request_id": event.request_id,
        "address": event.address,
    })
}

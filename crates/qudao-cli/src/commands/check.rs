//! `qudao check`: the invariants that SQL can see, on a live database.

use std::{fmt::Write as _, process::ExitCode, time::Duration};

use anyhow::{Context as _, bail};
use qudao_services::running_instance;
use qudao_storage::{Finding, Scope, Store, StoreSettings};
use serde_json::{Value, json};

use crate::{context::Context, terminal};

/// Long enough for a database that is busy with something else.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

pub(crate) async fn run(context: &Context, json: bool) -> anyhow::Result<ExitCode> {
    let private = context.settings.database.url.is_none();
    let untouched = !context.home.join("data").exists();
    if private && untouched && running_instance(&context.home).is_none() {
        bail!(
            "there is nothing to check in {}: set DATABASE_URL, or QUDAO_HOME to the directory of \
             an instance",
            context.home.display()
        );
    }
    let database = context.database().await?;
    let outcome = findings(&database.url).await;
    database.close().await;
    let findings = outcome?;
    let violated = findings.iter().any(is_violation);
    if json {
        let list: Vec<Value> = findings.iter().map(as_json).collect();
        terminal::print_json(&json!({ "ok": !violated, "findings": list }));
    } else {
        for finding in &findings {
            terminal::print(&line(finding));
        }
        let unchecked = qudao_storage::UNCHECKED;
        terminal::say(&format!(
            "{} invariants checked; {} more show from outside only (docs/invariants.md)",
            findings.len(),
            unchecked.len()
        ));
    }
    Ok(if violated { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

async fn findings(url: &str) -> anyhow::Result<Vec<Finding>> {
    let settings = StoreSettings {
        max_connections: 1,
        acquire_timeout: CONNECT_TIMEOUT,
        ..StoreSettings::new(url)
    };
    let store = Store::connect(settings).await.context("connecting to the database")?;
    let findings = store.check().await.context("checking the invariants");
    store.close().await;
    findings
}

/// What has to hold after a drain only says nothing while work is under way.
fn is_violation(finding: &Finding) -> bool {
    finding.scope == Scope::Always && 0 < finding.violations
}

fn verdict(finding: &Finding) -> &'static str {
    match (finding.scope, finding.violations) {
        (_, 0) if finding.examined == 0 => "empty",
        (_, 0) => "holds",
        (Scope::Always, _) => "VIOLATED",
        (Scope::AfterDrain, _) => "open",
    }
}

fn line(finding: &Finding) -> String {
    let Finding { id, title, violations, examined, .. } = finding;
    let mut line = format!("{id:<4} {:<9} {title} ({examined} examined", verdict(finding));
    if 0 < *violations {
        let _ = write!(line, ", {violations} do not");
    }
    line.push(')');
    if finding.scope == Scope::AfterDrain {
        line.push_str(" [once nothing is under way]");
    }
    if let Some(sample) = &finding.sample {
        let _ = write!(line, "\n     such as: {sample}");
    }
    line
}

fn as_json(finding: &Finding) -> Value {
    let scope = match finding.scope {
        Scope::Always => "always",
        Scope::AfterDrain => "after_drain",
    };
    json!({
        "id": finding.id,
        "title": finding.title,
        "scope": scope,
        "state": verdict(finding).to_lowercase(),
        "violations": finding.violations,
        "examined": finding.examined,
        "sample": finding.sample,
    })
}

//! `qudao doctor`: finds what would stop a start and says how to mend it. `--quick` asks the
//! running instance for a sign of life only.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use qudao_services::running_instance;
use serde::Serialize;
use serde_json::json;

use crate::{context::Context, terminal};

mod data;
mod machine;
mod models;

/// What was looked at and what was found.
#[derive(Debug, Serialize)]
pub(crate) struct Check {
    name: &'static str,
    state: State,
    evidence: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    fix: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum State {
    Ok,
    /// A start succeeds with less than it could.
    Warning,
    /// A start fails.
    Failed,
}

impl Check {
    fn ok(name: &'static str, evidence: impl Into<String>) -> Self {
        Self { name, state: State::Ok, evidence: evidence.into(), fix: None }
    }

    fn warning(name: &'static str, evidence: impl Into<String>, fix: impl Into<String>) -> Self {
        let (evidence, fix) = (evidence.into(), Some(fix.into()));
        Self { name, state: State::Warning, evidence, fix }
    }

    fn failed(name: &'static str, evidence: impl Into<String>, fix: impl Into<String>) -> Self {
        let (evidence, fix) = (evidence.into(), Some(fix.into()));
        Self { name, state: State::Failed, evidence, fix }
    }
}

pub(crate) async fn run(
    config: Option<&Path>,
    home: Option<PathBuf>,
    quick: bool,
    json: bool,
) -> anyhow::Result<ExitCode> {
    let checks = match Context::load(config, home) {
        Err(error) => vec![Check::failed(
            "settings",
            format!("{error:#}"),
            "correct the setting; config/qudao.toml lists them all",
        )],
        Ok(context) if quick => vec![sign_of_life(&context).await],
        Ok(context) => examine(&context).await,
    };
    let failed = checks.iter().any(|check| check.state == State::Failed);
    if json {
        terminal::print_json(&json!({ "ok": !failed, "checks": checks }));
    } else {
        checks.iter().for_each(show);
    }
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

async fn examine(context: &Context) -> Vec<Check> {
    let source = context.file.as_ref().map_or_else(
        || "defaults and environment".to_owned(),
        |file| format!("{} and environment", file.display()),
    );
    let mut checks = vec![Check::ok("settings", source)];
    checks.push(machine::home(context));
    checks.push(machine::master_key(context));
    checks.push(machine::certificates());
    checks.push(machine::sockets());
    checks.push(machine::postgres(context));
    checks.push(machine::redis(context));
    checks.push(instance(context));
    checks.push(machine::port(context));
    checks.push(data::database(context).await);
    checks.push(data::redis(context).await);
    checks.extend(models::plugins(context).await);
    checks.extend(models::instances(context));
    checks.push(machine::sandbox(context));
    checks.extend(models::models(context));
    checks.push(machine::memory(models::bytes_present(context)));
    checks
}

fn instance(context: &Context) -> Check {
    match running_instance(&context.home) {
        None => Check::ok("instance", "no other uses this home"),
        Some(instance) => Check::ok(
            "instance",
            format!("process {} uses this home, at {}", instance.pid, instance.base_url),
        ),
    }
}

async fn sign_of_life(context: &Context) -> Check {
    let Some(instance) = running_instance(&context.home) else {
        return Check::failed(
            "instance",
            format!("nothing runs in {}", context.home.display()),
            "start it with `qudao serve`",
        );
    };
    if instance.base_url.is_empty() {
        // It is starting; holding its lock is its sign of life.
        return Check::ok("instance", format!("process {} runs", instance.pid));
    }
    let url = format!("{}/livez", instance.base_url);
    match ask(&url).await {
        Ok(status) if status.is_success() => Check::ok("instance", format!("{url}: {status}")),
        Ok(status) => Check::failed("instance", format!("{url}: {status}"), "see its log"),
        Err(error) => Check::failed("instance", format!("{url}: {error}"), "see its log"),
    }
}

async fn ask(url: &str) -> Result<reqwest::StatusCode, reqwest::Error> {
    let timeout = Duration::from_secs(2);
    let client = reqwest::Client::builder().no_proxy().timeout(timeout).build()?;
    Ok(client.get(url).send().await?.status())
}

fn show(check: &Check) {
    let mark = match check.state {
        State::Ok => "ok  ",
        State::Warning => "warn",
        State::Failed => "FAIL",
    };
    terminal::print(&format!("{mark} {:<12} {}", check.name, check.evidence));
    if let Some(fix) = &check.fix {
        terminal::print(&format!("                  → {fix}"));
    }
}

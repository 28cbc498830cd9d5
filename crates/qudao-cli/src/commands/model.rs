//! `qudao model …`: what is done with model files.

mod bench;
mod card;
mod quantize;
mod shelf;

use std::{
    io::Write as _,
    process::ExitCode,
    sync::Mutex,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use qudao_models::{Choice, HuggingFace, Pulled, Puller, add_detector, default_models};
use serde_json::{Value, json};

use crate::{
    args::{AddOptions, ModelCommand, PullOptions},
    context::{Context, variable},
    instances::catalogue,
    terminal,
};

/// Another site than the publisher's, as with Hugging Face's own tools.
const HF_ENDPOINT: &str = "HF_ENDPOINT";

pub(crate) async fn run(
    command: ModelCommand,
    context: &Context,
    json: bool,
) -> anyhow::Result<ExitCode> {
    match command {
        ModelCommand::List => list(context, json),
        ModelCommand::Card { name } => card::show(&name, context, json),
        ModelCommand::Pull(options) => pull(options, context, json).await,
        ModelCommand::Add(options) => add(&options, context, json),
        ModelCommand::Rm(options) => shelf::remove(&options, context, json),
        ModelCommand::Export(options) => shelf::export(&options, context, json),
        ModelCommand::Import(options) => shelf::import(&options, context, json),
        ModelCommand::Quantize(options) => quantize::run(&options, context, json).await,
        ModelCommand::Bench(options) => bench::run(options, context, json).await,
    }
}

fn list(context: &Context, json: bool) -> anyhow::Result<ExitCode> {
    let catalogue = catalogue(context)?;
    let dir = context.models_dir();
    let rows: Vec<Value> = catalogue
        .models
        .iter()
        .map(|model| {
            let path = dir.join(model.file_name());
            json!({
                "name": model.name,
                "title": model.title,
                "languages": model.languages,
                "licence": model.licence,
                "context_tokens": model.context_tokens,
                "bytes": model.bytes,
                "memory_mib": model.memory_mib(),
                "notes": model.notes,
                "path": path.is_file().then_some(path),
            })
        })
        .collect();
    if json {
        terminal::print_json(&json!({ "models": rows }));
        return Ok(ExitCode::SUCCESS);
    }
    for (model, row) in catalogue.models.iter().zip(&rows) {
        let here = if row["path"].is_null() { "-" } else { "here" };
        let size =
            model.bytes.map_or_else(|| "?".to_owned(), |bytes| format!("{} MB", bytes / 1_000_000));
        let memory = model.memory_mib().map_or_else(|| "?".to_owned(), |mib| format!("{mib} MiB"));
        terminal::print(&format!(
            "{:<30} {here:<5} {size:>8} {memory:>9}  {:<8} {}",
            model.name,
            model.languages.join(","),
            model.licence
        ));
        if !model.notes.is_empty() {
            terminal::print(&format!("{:<30} {}", "", model.notes));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn add(options: &AddOptions, context: &Context, json: bool) -> anyhow::Result<ExitCode> {
    let AddOptions { name, file, accept_unverified } = options;
    let path = add_detector(name, file, &context.models_dir(), *accept_unverified)?;
    if json {
        terminal::print_json(&json!({ "name": name, "path": path }));
    } else {
        terminal::print(&format!("{name}: {}", path.display()));
    }
    Ok(ExitCode::SUCCESS)
}

async fn pull(options: PullOptions, context: &Context, json: bool) -> anyhow::Result<ExitCode> {
    let mut puller = Puller::new(catalogue(context)?);
    puller.accept_unverified = options.accept_unverified;
    if let Some(site) = variable(HF_ENDPOINT) {
        puller.huggingface = HuggingFace::at(&site);
    }
    let (name, pulled) = match options.name {
        Some(name) => {
            let pulled = pull_one(&puller, &name, context).await?;
            (name, pulled)
        }
        None => pull_default(&puller, context).await?,
    };
    if json {
        terminal::print_json(&json!({
            "name": name,
            "path": pulled.path,
            "sha256": pulled.sha256,
            "source": pulled.source,
            "verified": pulled.verified,
        }));
    } else {
        let checked = if pulled.verified { "verified" } else { "not verified" };
        terminal::print(&format!(
            "{name}: {} ({}, {checked})",
            pulled.path.display(),
            pulled.source
        ));
    }
    Ok(ExitCode::SUCCESS)
}

/// The first of the defaults that can be had.
async fn pull_default(puller: &Puller, context: &Context) -> anyhow::Result<(String, Pulled)> {
    let mut failures = Vec::new();
    for Choice { name, remark: (english, chinese) } in default_models() {
        match pull_one(puller, &name, context).await {
            Ok(pulled) => {
                for line in [english, chinese] {
                    if !line.is_empty() {
                        terminal::say(line);
                    }
                }
                return Ok((name, pulled));
            }
            Err(error) => {
                terminal::say(&format!("{name}: not available, trying the next"));
                failures.push(format!("{error:#}"));
            }
        }
    }
    bail!("no default model can be fetched:\n{}", failures.join("\n"))
}

async fn pull_one(puller: &Puller, name: &str, context: &Context) -> anyhow::Result<Pulled> {
    let progress = progress();
    let dir = context.models_dir();
    let pulled = puller.pull(name, &dir, &progress).await;
    clear();
    pulled.with_context(|| format!("pulling {name}"))
}

/// Tells how far something is, now and then.
fn progress() -> impl Fn(&str, u64, Option<u64>) + Send + Sync {
    let begun = Instant::now();
    let last = Mutex::new(None::<Instant>);
    let watched = terminal::is_watched();
    move |what: &str, done: u64, total: Option<u64>| {
        let pause = if watched { Duration::from_millis(200) } else { Duration::from_secs(10) };
        let Ok(mut last) = last.lock() else { return };
        if last.is_some_and(|at| at.elapsed() < pause) && Some(done) != total {
            return;
        }
        *last = Some(Instant::now());
        report(what, done, total, begun.elapsed(), watched);
    }
}

/// Takes the line of progress away.
fn clear() {
    if terminal::is_watched() {
        let _ = write!(std::io::stderr(), "\r\x1b[K");
    }
}

/// Bytes from a site, or parts of an archive.
fn report(what: &str, done: u64, total: Option<u64>, elapsed: Duration, watched: bool) {
    let amount = match total {
        Some(total) if total < 10_000 => format!("{done} of {total}"),
        Some(total) => format!("{} of {} MB", done / 1_000_000, total / 1_000_000),
        None => format!("{} MB", done / 1_000_000),
    };
    let line = format!("{what}: {amount} ({} s)", elapsed.as_secs());
    if watched {
        let _ = write!(std::io::stderr(), "\r\x1b[K{line}");
    } else {
        terminal::say(&line);
    }
}

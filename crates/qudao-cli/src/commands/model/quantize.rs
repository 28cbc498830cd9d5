//! `qudao model quantize`: asks the program that is laid out beside the plugin `candle-llm`, since
//! nothing here computes with weights.

use std::{
    path::PathBuf,
    process::{ExitCode, Stdio},
};

use anyhow::{Context as _, bail};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader},
    process::Command,
};

use super::{clear, progress};
use crate::{args::QuantizeOptions, context::Context, terminal};

/// The plugin beside which the program lies, and the program.
const PROGRAM: (&str, &str) = ("candle-llm", "qudao-quantize");

pub(super) async fn run(
    options: &QuantizeOptions,
    context: &Context,
    json: bool,
) -> anyhow::Result<ExitCode> {
    let QuantizeOptions { source, to, kind, force } = options;
    if to.exists() && !force {
        bail!("{} is there already; say --force to write over it", to.display());
    }
    let program = program(context)?;
    let mut child = Command::new(&program)
        .arg(source)
        .arg(to)
        .args(["--kind", kind.as_str()])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("starting {}", program.display()))?;
    let (Some(out), Some(mut errors)) = (child.stdout.take(), child.stderr.take()) else {
        bail!("{} cannot be heard", program.display());
    };
    let hear = progress();
    let listening = async {
        let mut done = None;
        let mut lines = BufReader::new(out).lines();
        while let Some(line) = lines.next_line().await? {
            let said: Value = serde_json::from_str(&line).unwrap_or_default();
            let number = |key: &str| said[key].as_u64();
            match (number("tensor"), number("of")) {
                (Some(tensor), of) => hear("tensors", tensor, of),
                _ => done = Some(said),
            }
        }
        anyhow::Ok(done)
    };
    let mut complaint = String::new();
    let (done, _) = tokio::join!(listening, errors.read_to_string(&mut complaint));
    let status = child.wait().await?;
    clear();
    let done = done?.filter(|_| status.success());
    let Some(done) = done else {
        let last = complaint.lines().last().unwrap_or("it ended without a word");
        bail!("{} was not made: {last}", to.display());
    };
    if json {
        terminal::print_json(&done);
    } else {
        let mb = |key: &str| done[key].as_u64().unwrap_or_default() / 1_000_000;
        terminal::print(&format!(
            "{}: {}, {} MB out of {} MB, sha256 {}",
            to.display(),
            kind.as_str(),
            mb("bytes"),
            mb("source_bytes"),
            done["sha256"].as_str().unwrap_or("?"),
        ));
    }
    Ok(ExitCode::SUCCESS)
}

fn program(context: &Context) -> anyhow::Result<PathBuf> {
    let (plugin, name) = PROGRAM;
    let beside = context.plugin_dirs().into_iter().map(|dir| dir.join(plugin).join(name));
    let found = beside.into_iter().find(|path| path.is_file());
    // Whoever could put it there could make it do anything.
    let Some(path) = found else {
        bail!(
            "the program {name} is not beside the plugin {plugin}: cargo xtask plugins lays it out"
        );
    };
    qudao_plugin_host::guarded(&path)
        .map_err(|reason| anyhow::anyhow!("{} is not started: {reason}", path.display()))?;
    Ok(path)
}

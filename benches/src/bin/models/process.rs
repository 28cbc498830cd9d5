//! What needs a process of its own: the time and memory of loading, and of full contexts.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use qudao_plugin_candle_llm::config::Config;
use qudao_plugin_candle_llm::engine::Engine;

use crate::ours;

/// Between two looks at a process.
const LOOK: Duration = Duration::from_millis(2);
/// The contexts that are filled.
const STREAMS: usize = 16;
/// Tokens of each.
const CONTEXT: usize = 2048;
const MIB: f64 = 1024.0 * 1024.0;

/// What a process of this program does.
#[derive(Clone, Copy, clap::ValueEnum)]
pub(crate) enum Deed {
    /// Loads the engine, which computes a token, and ends.
    Load,
    /// Fills 16 contexts of 2,048 tokens and says what that took.
    Fill,
}

/// What a process cost.
#[derive(Clone, Copy)]
pub(crate) struct Cost {
    pub(crate) seconds: f64,
    pub(crate) peak_mib: f64,
}

impl Cost {
    pub(crate) fn least(self, other: Self) -> Self {
        Self {
            seconds: self.seconds.min(other.seconds),
            peak_mib: self.peak_mib.min(other.peak_mib),
        }
    }
}

/// This program again.
pub(crate) fn child(deed: Deed, model: &Path, threads: usize) -> Result<Command> {
    let deed = match deed {
        Deed::Load => "load",
        Deed::Fill => "fill",
    };
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["--child", deed, "--threads", &threads.to_string(), "--model"]).arg(model);
    Ok(command)
}

/// Runs a process to its end and notes the most memory it had.
pub(crate) fn watch(command: &mut Command) -> Result<Cost> {
    let start = Instant::now();
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let mut peak = 0u64;
    let status = loop {
        peak = peak.max(peak_kib(child.id()).unwrap_or(0));
        if let Some(status) = child.try_wait()? {
            break status;
        }
        std::thread::sleep(LOOK);
    };
    if !status.success() {
        bail!("{command:?} ended with {status}");
    }
    Ok(Cost { seconds: start.elapsed().as_secs_f64(), peak_mib: peak as f64 / 1024.0 })
}

fn peak_kib(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("VmHWM")?;
    line.split_whitespace().next().context("a number")?.parse().context("a number")
}

/// The computed size of the keys and values and what was found above the weights, in MiB.
pub(crate) fn filled(mut command: Command) -> Result<(f64, f64)> {
    let output = command.output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    let mut numbers = said.split_whitespace().map(str::parse::<f64>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(computed)), Some(Ok(found))) => Ok((computed, found)),
        _ => bail!("{said}{}", String::from_utf8_lossy(&output.stderr)),
    }
}

pub(crate) fn obey(deed: Deed, models: &[PathBuf], threads: usize) -> Result<()> {
    let model = models.first().context("no model")?;
    let config = |context, sequences| Config {
        threads: Some(threads),
        context_tokens: Some(context),
        max_sequences: sequences,
        ..Config::new(model)
    };
    match deed {
        Deed::Load => {
            Engine::load(&config(512, 4), &mut |_| ())?;
            Ok(())
        }
        Deed::Fill => {
            let engine = Engine::load(&config(CONTEXT, STREAMS), &mut |_| ())?;
            let weights = engine.weight_bytes().context("on the processor")?;
            let per_token = engine.cache_bytes_per_token().context("on the processor")?;
            let resident = fill(engine)?;
            let computed = (per_token * CONTEXT * STREAMS) as f64 / MIB;
            println!("{computed} {}", (resident - weights as f64) / MIB);
            Ok(())
        }
    }
}

/// Bytes that lie in memory when all contexts are full.
fn fill(mut engine: Engine) -> Result<f64> {
    // Almost the whole context: the template and the reply need a little of it.
    for number in 0..STREAMS {
        let persona = ours::text(&engine, CONTEXT - 128, number);
        let id = u64::try_from(number)?;
        let job = ours::job(&persona, "Tell me about all rules.", 90);
        engine.admit(id, job).map_err(|error| anyhow!("{error}"))?;
    }
    let mut resident = 0u64;
    while engine.has_work() {
        engine.step()?;
        resident = resident.max(qudao_benches::memory::resident_kib(std::process::id())?);
    }
    Ok(resident as f64 * 1024.0)
}

//! `cargo xtask bench plugin`: what a call and a token cost between the platform and a plugin, in
//! this process and in a child, beside a bare call through a C function pointer.
//!
//! The plugin is `echo`, loaded from its library like any other: verified, sealed, opened.
#![expect(clippy::print_stdout, reason = "a command-line tool talks on stdout")]

use std::{
    hint::black_box,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Parser;
use qudao_plugin_api::{
    manifest::public_key,
    wire::{ChatMessage, ChatRequest, Role},
};
use qudao_plugin_host::{
    Call, Event, HostSettings, InstanceSettings, ModelKind, Placement, PluginHost, pack,
};

/// Measures a plugin call and a token, in process and in a child.
#[derive(Parser)]
struct Args {
    /// Folder with `libqudao_plugin_echo.so` and `qudao-plugin-host`; built when absent.
    #[arg(long)]
    built: Option<PathBuf>,
    /// Calls of one token.
    #[arg(long, default_value_t = 4_000)]
    calls: usize,
    /// Tokens of a long answer.
    #[arg(long, default_value_t = 20_000)]
    tokens: u32,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

const ROUNDS: usize = 5;
/// Signs what this program packs for itself.
const SECRET: [u8; 32] = [9; 32];

/// Microseconds.
#[derive(Debug, serde::Serialize)]
struct Figures {
    placement: &'static str,
    call_p50: f64,
    call_p99: f64,
    token: f64,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let built = args.built.as_ref().map_or_else(build, |built| Ok(built.clone()))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let raw = raw_call_ns();
    let figures = runtime.block_on(measure(&built, &args))?;
    if args.json {
        println!("{}", serde_json::json!({ "raw_call_ns": raw, "us": figures }));
        return Ok(());
    }
    println!("a bare call through a C function pointer: {raw:.1} ns\n");
    println!("{:<12}{:>14}{:>14}{:>14}", "µs", "call p50", "call p99", "per token");
    for line in figures {
        println!(
            "{:<12}{:>14.2}{:>14.2}{:>14.3}",
            line.placement, line.call_p50, line.call_p99, line.token
        );
    }
    Ok(())
}

fn build() -> Result<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(["build", "--release", "--quiet", "-p", "qudao-plugin-echo"])
        .args(["-p", "qudao-plugin-host"])
        .current_dir(&root)
        .status()
        .context("running cargo")?;
    ensure!(status.success(), "the plugin could not be built");
    let own = std::env::current_exe()?;
    Ok(own.parent().context("a program without a folder")?.to_owned())
}

/// The least that any boundary costs: a call that the compiler cannot see through.
fn raw_call_ns() -> f64 {
    extern "C" fn add(left: u64, right: u64) -> u64 {
        left.wrapping_add(right)
    }
    const CALLS: u64 = 20_000_000;
    let function: extern "C" fn(u64, u64) -> u64 = black_box(add);
    let started = Instant::now();
    let sum = (0..CALLS).fold(0, |sum, at| black_box(function)(sum, at));
    black_box(sum);
    nanoseconds(started.elapsed()) / f64::from(u32::try_from(CALLS).unwrap_or(u32::MAX))
}

fn nanoseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e9
}

async fn measure(built: &Path, args: &Args) -> Result<Vec<Figures>> {
    let folder = tempfile::tempdir()?;
    let dist = folder.path().join("plugins");
    let template = Path::new(env!("CARGO_MANIFEST_DIR")).join("../plugins/echo/plugin.toml");
    pack(&template, built, &dist, &SECRET)?;
    let placements = [("in process", Placement::Inproc), ("child", Placement::Process)];
    let mut instances = Vec::new();
    for (name, placement) in placements {
        // Echo says "x" and then " " and "x" for each further round.
        for (size, count) in [("short", 1), ("long", args.tokens / 2 + 1)] {
            let model = format!("{name} {size}");
            let mut settings = InstanceSettings::new(&model, "echo", &model);
            settings.placement = placement;
            settings.config = serde_json::json!({ "count": count });
            instances.push(settings);
        }
    }
    let models: Vec<_> = instances.iter().map(|instance| instance.name.clone()).collect();
    let host = PluginHost::start(HostSettings {
        plugin_dirs: vec![dist],
        state_dir: folder.path().join("state"),
        host_binary: built.join("qudao-plugin-host"),
        trusted_keys: vec![public_key(&SECRET)],
        allow_unsigned: false,
        instances,
        ..HostSettings::default()
    })
    .await;
    for model in &models {
        ready(&host, model).await?;
    }
    let mut taken = [Samples::default(), Samples::default()];
    // The placements take turns, so that a noisy machine is noisy for both.
    for _ in 0..ROUNDS {
        for ((name, _), samples) in placements.iter().zip(&mut taken) {
            samples.round(&host, name, args.calls / ROUNDS).await?;
        }
    }
    host.shutdown(Duration::from_secs(5)).await;
    let names = placements.iter().map(|(name, _)| *name);
    Ok(names.zip(taken).map(|(name, samples)| samples.figures(name)).collect())
}

async fn ready(host: &PluginHost, model: &str) -> Result<()> {
    for _ in 0..1_000 {
        if host.ready(model).is_ok() {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    bail!("{model} did not start: {:?}", host.ready(model).err());
}

#[derive(Default)]
struct Samples {
    calls: Vec<f64>,
    tokens: Vec<f64>,
}

impl Samples {
    async fn round(&mut self, host: &PluginHost, name: &str, calls: usize) -> Result<()> {
        let (short, long) = (format!("{name} short"), format!("{name} long"));
        for _ in 0..calls {
            let (time, _) = call(host, &short).await?;
            self.calls.push(nanoseconds(time) / 1e3);
        }
        let (time, tokens) = call(host, &long).await?;
        self.tokens.push(nanoseconds(time) / 1e3 / f64::from(tokens));
        Ok(())
    }

    fn figures(mut self, placement: &'static str) -> Figures {
        self.calls.sort_by(f64::total_cmp);
        self.tokens.sort_by(f64::total_cmp);
        let at = |of: &[f64], percent: usize| {
            of.get((of.len() * percent / 100).min(of.len().saturating_sub(1))).copied()
        };
        Figures {
            placement,
            call_p50: at(&self.calls, 50).unwrap_or_default(),
            call_p99: at(&self.calls, 99).unwrap_or_default(),
            token: at(&self.tokens, 50).unwrap_or_default(),
        }
    }
}

/// One call from its start to its last event, and how many tokens came.
async fn call(host: &PluginHost, model: &str) -> Result<(Duration, u32)> {
    let request = ChatRequest::new(model, vec![ChatMessage::text(Role::User, "x")]);
    let payload = serde_json::to_vec(&request)?;
    let call = Call {
        kind: ModelKind::Chat,
        payload,
        timeout: Duration::from_secs(60),
        trace: qudao_plugin_host::Trace::NONE,
    };
    let started = Instant::now();
    let mut stream = host.call(model, call)?;
    let mut tokens = 0;
    while let Some(event) = stream.next().await {
        match event {
            Event::Token { .. } => tokens += 1,
            Event::Error(error) => return Err(error.into()),
            _ => {}
        }
    }
    ensure!(0 < tokens, "{model} said nothing");
    Ok((started.elapsed(), tokens))
}

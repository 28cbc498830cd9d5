//! `cargo xtask bench channels`: what open chats cost and how soon their first word is there; how
//! soon a webhook is acknowledged; how fast deliveries go out in order. Each beside the least that
//! a bare server or client does for the same job, in the same run.
#![expect(clippy::print_stdout, reason = "a command-line tool talks on stdout")]

use std::{path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, ensure};
use clap::{Parser, Subcommand};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use qudao_benches::{
    part::{self, Running},
    platform::{self, Platform},
    sink,
};

mod chats;
mod hooks;
mod lanes;

/// Measures open chats, webhooks and deliveries beside bare ones.
#[derive(Parser)]
struct Args {
    /// The program; beside this one when absent.
    #[arg(long)]
    qudao: Option<PathBuf>,
    /// The laid-out plugins; `dist/plugins` when absent.
    #[arg(long)]
    plugins: Option<PathBuf>,
    /// A tenth of everything: whether it still works, and roughly how fast.
    #[arg(long)]
    short: bool,
    /// Chats that are open and silent.
    #[arg(long, default_value_t = 5000)]
    idle: usize,
    /// Chats in which somebody writes.
    #[arg(long, default_value_t = 500)]
    active: usize,
    /// Seconds between an answer and the same person's next message.
    #[arg(long, default_value_t = 5)]
    pause: u64,
    /// Webhooks per second.
    #[arg(long, default_value_t = 100)]
    rate: u32,
    /// Seconds of each phase.
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// Only these phases, with commas between: chats, hooks, lanes.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    #[command(subcommand)]
    part: Option<Part>,
}

/// The other processes of a run are this program again.
#[derive(Subcommand)]
enum Part {
    /// Be a bare WebSocket server.
    #[command(hide = true)]
    Echo,
    /// Be a bare webhook.
    #[command(hide = true)]
    Hook {
        /// Where it keeps what it is told.
        database_url: String,
    },
    /// Be the messaging platform and the partner that are delivered to.
    #[command(hide = true)]
    Sink,
}

impl Args {
    fn of(&self, whole: usize) -> usize {
        if self.short { whole / 10 } else { whole }
    }

    fn length(&self) -> Duration {
        Duration::from_secs(if self.short { (self.seconds / 5).max(2) } else { self.seconds })
    }

    fn wants(&self, phase: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| phase == only)
    }
}

fn main() -> Result<()> {
    let args = Args::parse();
    match args.part {
        Some(Part::Echo) => part::serve(sink::echo),
        Some(Part::Hook { database_url }) => part::serve(|it| sink::hook(it, database_url)),
        Some(Part::Sink) => part::serve(sink::run),
        None => measure(&args),
    }
}

fn measure(args: &Args) -> Result<()> {
    allow_files(args)?;
    let (binary, plugins) = platform::find(args.qudao.clone(), args.plugins.clone())?;
    let sink = Running::start(&["sink"])?;
    let settings = settings(&plugins.display().to_string(), &sink)?;
    let platform = Platform::start_with(&binary, &settings, &[])?;
    phases(args, &platform, &sink).map_err(|error| error.context(platform.log()))
}

fn phases(args: &Args, platform: &Platform, sink: &Running) -> Result<()> {
    if args.wants("chats") {
        chats::measure(args, platform)?;
    }
    if args.wants("lanes") {
        lanes::measure(args, platform, sink)?;
    }
    if args.wants("hooks") {
        hooks::measure(args, platform, sink)?;
    }
    println!("\n{}", platform.command(&["check"])?);
    Ok(())
}

/// Both ends of every chat are files of this machine: of the platform, and of this process. The
/// limit of a process is inherited by those that it starts.
fn allow_files(args: &Args) -> Result<()> {
    let wanted = u64::try_from(args.of(args.idle) + args.of(args.active))? + 1000;
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    ensure!(
        wanted <= hard,
        "this needs {wanted} open files and the hard limit is {hard}: ulimit -Hn {wanted}, or LimitNOFILE="
    );
    if soft < wanted {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    Ok(())
}

/// A model that answers at once, so that what is measured is the platform's. All people come from one
/// address here, which is why that address has no limit; a chat's own limits stay as they are shipped.
fn settings(plugins: &str, sink: &Running) -> Result<String> {
    let (_, port) = sink.address().rsplit_once(':').context("a port")?;
    Ok(format!(
        "[plugins]\ndirs = [{plugins:?}]\nallow_unsigned = true\n\n\
         [server]\npublic_url = \"http://$BIND\"\nconnections_per_address = 0\n\n\
         [limits]\naddress_messages_per_minute = 0\n\n\
         [egress]\nallow_http = true\nallow_networks = [\"127.0.0.0/8\"]\nports = [{port}]\n\n\
         [demo]\nmodel = \"echo\"\ncredits = \"1000000\"\n\n\
         [[instances]]\nname = \"echo\"\nplugin = \"echo\"\nmax_concurrency = 256\n\
         [[instances.models]]\nname = \"echo\"\n\
         prices = [{{ currency = \"CNY\", input_per_mtok = \"1.20\", output_per_mtok = \"4.80\" }}]\n",
    ))
}

fn verdict(reached: bool) -> &'static str {
    if reached { "reached" } else { "MISSED" }
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

//! `cargo xtask check chaos`: proves the pipeline under faults, and that the proof can fail.
#![expect(clippy::print_stdout, reason = "a command-line tool reports on stdout")]

use std::{process::ExitCode, time::Instant};

use clap::{Parser, Subcommand};
use qudao_chaos::{
    adapters, cancel, deps, failover, mutants, plugins, points, storm, verdict::Verdict,
};

/// The pipeline under faults.
#[derive(Parser)]
struct Arguments {
    /// All of them when absent.
    #[command(subcommand)]
    mode: Option<Mode>,
}

#[derive(Clone, Subcommand)]
enum Mode {
    /// Ends a node once at every named point.
    Points {
        /// Only points whose name contains one of these.
        only: Vec<String>,
    },
    /// Kills, freezes and repeats at random.
    Random {
        /// Decides what comes in and what goes wrong; several are tried when absent.
        #[arg(long)]
        seed: Option<u64>,
        /// How long each run takes, its end apart.
        #[arg(long, default_value_t = 40)]
        seconds: u64,
    },
    /// The same over real adapters: a bot and a partner, whose other ends fail as well, and messages
    /// that come up to five times.
    Adapters {
        /// As of `random`.
        #[arg(long)]
        seed: Option<u64>,
        /// How long each run takes, its end apart.
        #[arg(long, default_value_t = 40)]
        seconds: u64,
    },
    /// The same over nodes with roles, a primary with a standby, which is promoted under load, and
    /// a Redis Cluster, which loses a master.
    Failover {
        /// As of `random`.
        #[arg(long)]
        seed: Option<u64>,
        /// How long each run takes, its end apart.
        #[arg(long, default_value_t = 40)]
        seconds: u64,
        /// The primary does not wait for its standby: messages are lost, and the check must say so.
        #[arg(long)]
        asynchronous: bool,
    },
    /// Seeds bugs and looks whether each is caught.
    Mutants {
        /// Only bugs whose name contains one of these.
        only: Vec<String>,
    },
    /// Takes away Redis, the model, the remote, the disk and Postgres.
    Deps,
    /// Lets clients hang up at random moments.
    Cancel {
        /// How many.
        #[arg(long, default_value_t = 1000)]
        clients: usize,
        /// Decides who hangs up when.
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Lets a plugin break every rule.
    Plugin,
}

/// The seeds that are tried when none is named.
const SEEDS: &[u64] = &[1, 7, 11];

/// The same for failovers; even ones freeze the primary.
const FAILOVER_SEEDS: &[u64] = &[1, 2, 7];

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let modes = match Arguments::parse().mode {
        Some(mode) => vec![mode],
        None => vec![
            Mode::Points { only: Vec::new() },
            Mode::Mutants { only: Vec::new() },
            Mode::Random { seed: None, seconds: 40 },
            Mode::Adapters { seed: None, seconds: 40 },
            Mode::Failover { seed: None, seconds: 40, asynchronous: false },
            Mode::Deps,
            Mode::Cancel { clients: 1000, seed: 1 },
            Mode::Plugin,
        ],
    };
    let mut holds = true;
    for mode in modes {
        holds &= run(mode).await?;
    }
    Ok(if holds { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn run(mode: Mode) -> anyhow::Result<bool> {
    let began = Instant::now();
    let say = |line: &str| println!("{line}");
    let holds = match mode {
        Mode::Points { only } => {
            let (verdict, crashes) = points::run(&only, say).await;
            println!("points: {crashes} crashes");
            report(&verdict)
        }
        Mode::Mutants { only } => {
            let (tried, unnoticed) = mutants::run(&only, say).await?;
            println!("mutants: {tried} seeded bugs, {unnoticed} not as expected");
            unnoticed == 0
        }
        Mode::Random { seed, seconds } => {
            let seeds = seed.map_or_else(|| SEEDS.to_vec(), |seed| vec![seed]);
            let mut holds = true;
            for seed in seeds {
                let (verdict, damage) = storm::run(seed, seconds).await?;
                println!("random: seed {seed}, {damage:?}");
                holds &= report(&verdict);
            }
            holds
        }
        Mode::Adapters { seed, seconds } => {
            let mut holds = true;
            for seed in seed.map_or_else(|| SEEDS.to_vec(), |seed| vec![seed]) {
                let (verdict, damage) = adapters::run(seed, seconds).await?;
                println!("adapters: seed {seed}, {damage:?}");
                holds &= report(&verdict);
            }
            holds
        }
        Mode::Failover { seed, seconds, asynchronous } => {
            let mut holds = true;
            for seed in seed.map_or_else(|| FAILOVER_SEEDS.to_vec(), |seed| vec![seed]) {
                let (verdict, damage, account) = failover::run(seed, seconds, asynchronous).await?;
                println!("failover: seed {seed}, {damage:?}\n{account}");
                holds &= report(&verdict);
            }
            holds
        }
        Mode::Deps => {
            let verdict = deps::run(say).await?;
            println!("deps:");
            report(&verdict)
        }
        Mode::Cancel { clients, seed } => {
            let verdict = cancel::run(seed, clients).await?;
            println!("cancel: {clients} clients, seed {seed}");
            report(&verdict)
        }
        Mode::Plugin => {
            let verdict = plugins::run().await?;
            println!("plugin:");
            report(&verdict)
        }
    };
    println!("{:.0} s\n", began.elapsed().as_secs_f64());
    Ok(holds)
}

/// Prints a line per invariant. Whether all of them held.
fn report(verdict: &Verdict) -> bool {
    for line in &verdict.lines {
        let word = match (line.violations, line.examined) {
            (0, 0) => "empty",
            (0, _) => "holds",
            _ => "VIOLATED",
        };
        let sample = line.sample.as_deref().map(|what| format!(": {what}")).unwrap_or_default();
        println!(
            "{:<4} {word:<9} examined {:<6} violations {:<4} {}{sample}",
            line.id, line.examined, line.violations, line.title
        );
    }
    println!(
        "redundant sends {}, model redos {}, the slowest answer after {:.1} s",
        verdict.redundant,
        verdict.redos,
        verdict.slowest.as_secs_f64()
    );
    verdict.violated().is_empty()
}

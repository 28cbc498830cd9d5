//! `cargo xtask bench gateway`: Qudao's OpenAI-compatible door in front of a mock provider, beside
//! the bare provider and a plain proxy, all in one run and each in a process of its own.
//!
//! Every figure is taken in interleaved rounds, so that a noisy machine is noisy for all alike.
#![expect(clippy::print_stdout, reason = "a command-line tool talks on stdout")]

use std::{path::PathBuf, time::Duration};

use anyhow::Result;
use clap::{Parser, Subcommand};
use qudao_benches::{
    cpu::{self, Spent},
    load::{self, Run, Target},
    part::{self, Running},
    platform::{self, INPROC, PACED, PROCESS, Platform},
    postgres, proxy, upstream,
};

/// Measures `/v1/chat/completions` beside the bare provider and a plain proxy.
#[derive(Parser)]
struct Args {
    /// The program; beside this one when absent.
    #[arg(long)]
    qudao: Option<PathBuf>,
    /// The laid-out plugins; `dist/plugins` when absent.
    #[arg(long)]
    plugins: Option<PathBuf>,
    /// The reference alone, without Qudao: says what the machine and the load generator give.
    #[arg(long)]
    reference_only: bool,
    /// Requests of the busy phase, for each target.
    #[arg(long, default_value_t = 12_800)]
    busy: usize,
    #[command(subcommand)]
    part: Option<Part>,
}

/// The other processes of a run are this program again.
#[derive(Subcommand)]
enum Part {
    /// Be the mock provider.
    #[command(hide = true)]
    Upstream,
    /// Be the plain proxy.
    #[command(hide = true)]
    Proxy {
        /// Where to forward to.
        to: String,
    },
}

const CLIENTS: usize = 32;
const ROUNDS: usize = 5;

fn main() -> Result<()> {
    let args = Args::parse();
    match args.part {
        Some(Part::Upstream) => {
            part::serve(|listener| async { upstream::serve(listener, 1)?.await })
        }
        Some(Part::Proxy { to }) => part::serve(|listener| proxy::run(listener, to)),
        None => measure(&args),
    }
}

/// Something that answers chat completions.
struct Subject {
    name: &'static str,
    pid: u32,
    json: Target,
    stream: Target,
    paced: Target,
}

impl Subject {
    fn new(name: &'static str, pid: u32, base: &str, key: &str, models: [&str; 2]) -> Result<Self> {
        let [plain, paced] = models;
        Ok(Self {
            name,
            pid,
            json: Target::chat(base, key, plain, false)?,
            stream: Target::chat(base, key, plain, true)?,
            paced: Target::chat(base, key, paced, true)?,
        })
    }
}

/// What was measured of one subject.
#[derive(Default)]
struct Measured {
    json: Run,
    stream: Run,
    paced: Run,
    busy: Run,
    cpu: Spent,
    busy_stream: Run,
    cpu_stream: Spent,
}

impl Measured {
    fn per_request(&self, spent: Duration) -> Duration {
        spent / u32::try_from(self.busy.samples.len()).unwrap_or(u32::MAX).max(1)
    }
}

fn measure(args: &Args) -> Result<()> {
    let provider = Running::start(&["upstream"])?;
    let proxy = Running::start(&["proxy", &provider.base])?;
    let mock = ["mock-json", "mock-paced"];
    let mut subjects = vec![
        Subject::new("direct", provider.pid(), &provider.base, "none", mock)?,
        Subject::new("proxy", proxy.pid(), &proxy.base, "none", mock)?,
    ];
    let platform = if args.reference_only {
        None
    } else {
        let (binary, plugins) = platform::find(args.qudao.clone(), args.plugins.clone())?;
        let platform = Platform::start(&binary, &plugins, &provider.base)?;
        let Platform { demo, .. } = &platform;
        for (name, plain, paced) in [("inproc", INPROC, PACED[0]), ("process", PROCESS, PACED[1])] {
            let models = [plain, paced];
            let subject =
                Subject::new(name, platform.pid(), &demo.base_url, &demo.api_key, models)?;
            subjects.push(subject);
        }
        Some(platform)
    };
    let measured = run_all(&subjects, args.busy).map_err(|error| match &platform {
        Some(platform) => error.context(platform.log()),
        None => error,
    })?;
    let commit = match &platform {
        Some(platform) => {
            Some(postgres::Session::connect(&platform.demo.database_url)?.durable_commit(300)?)
        }
        None => None,
    };
    table(&subjects, &measured);
    if let Some(commit) = commit {
        goals(&measured, commit);
    }
    Ok(())
}

fn run_all(subjects: &[Subject], busy: usize) -> Result<Vec<Measured>> {
    let mut all: Vec<Measured> = subjects.iter().map(|_| Measured::default()).collect();
    for subject in subjects {
        load::run(&subject.json, 4, 50)?;
        load::run(&subject.stream, 4, 25)?;
    }
    for _ in 0..ROUNDS {
        for (subject, measured) in subjects.iter().zip(&mut all) {
            measured.json.merge(load::run(&subject.json, 1, 300)?);
            measured.stream.merge(load::run(&subject.stream, 1, 60)?);
            measured.paced.merge(load::run(&subject.paced, 1, 3)?);
            let before = cpu::of_tree(subject.pid);
            measured.busy.merge(load::run(&subject.json, CLIENTS, busy / CLIENTS / ROUNDS)?);
            let after = cpu::of_tree(subject.pid);
            measured.busy_stream.merge(load::run(&subject.stream, CLIENTS, 10)?);
            add(&mut measured.cpu, after.since(before));
            add(&mut measured.cpu_stream, cpu::of_tree(subject.pid).since(after));
        }
    }
    Ok(all)
}

fn add(sum: &mut Spent, more: Spent) {
    sum.own += more.own;
    sum.postgres += more.postgres;
    sum.redis += more.redis;
}

fn us(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

fn table(subjects: &[Subject], measured: &[Measured]) {
    println!(
        "{:<8} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9}",
        "",
        "json p50",
        "json p99",
        "ttfb p50",
        "gap p99",
        "paced p99",
        "json c32",
        "cpu/req",
        "pg/req",
        "redis/req",
        "sse c32",
        "cpu/sse"
    );
    println!(
        "{:<8} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9}",
        "", "us", "us", "us", "us", "us", "req/s", "us", "us", "us", "req/s", "us"
    );
    for (subject, m) in subjects.iter().zip(measured) {
        let streams = u32::try_from(m.busy_stream.samples.len()).unwrap_or(u32::MAX).max(1);
        println!(
            "{:<8} {:>9.0} {:>9.0} {:>9.0} {:>9.0} {:>9.0} {:>9.0} {:>9.1} {:>9.1} {:>9.1} {:>9.0} {:>9.1}",
            subject.name,
            us(m.json.quantile(0.5, |s| s.whole)),
            us(m.json.quantile(0.99, |s| s.whole)),
            us(m.stream.quantile(0.5, |s| s.first)),
            us(m.stream.gap(0.99)),
            us(m.paced.gap(0.99)),
            m.busy.rate(),
            us(m.per_request(m.cpu.own)),
            us(m.per_request(m.cpu.postgres)),
            us(m.per_request(m.cpu.redis)),
            m.busy_stream.rate(),
            us(m.cpu_stream.own / streams),
        );
    }
}

fn goals(measured: &[Measured], commit: Duration) {
    let [direct, proxy, ours @ ..] = measured else { return };
    println!("\ndurable commit, one client, p50: {:.0} us", us(commit));
    for (name, m) in ["inproc", "process"].into_iter().zip(ours) {
        println!("\nQudao, plugin {name}");
        let added = |m: &Measured, of: fn(&Measured) -> Duration| of(m).saturating_sub(of(direct));
        let ttfb: fn(&Measured) -> Duration = |m| m.stream.quantile(0.5, |s| s.first);
        let json: fn(&Measured) -> Duration = |m| m.json.quantile(0.5, |s| s.whole);
        let tail: fn(&Measured) -> Duration = |m| m.json.quantile(0.99, |s| s.whole);
        let gap: fn(&Measured) -> Duration = |m| m.stream.gap(0.99).max(m.paced.gap(0.99));
        let cpu: fn(&Measured) -> Duration = |m| m.per_request(m.cpu.own);
        let line = |what: &str, got: Duration, of_proxy: Duration, limit: Duration| {
            let ratio = us(got) / us(of_proxy).max(1.0);
            let verdict = if got <= limit { "reached" } else { "MISSED" };
            println!(
                "  {what:<34} {:>8.0} us = {ratio:>5.2} x proxy's {:>6.0} us; goal {:>7.0} us: {verdict}",
                us(got),
                us(of_proxy),
                us(limit)
            );
        };
        let reference = added(proxy, ttfb);
        line("added time to first token, p50", added(m, ttfb), reference, reference * 2);
        let reference = added(proxy, json);
        line("added JSON p50", added(m, json), reference, reference * 2 + commit);
        println!(
            "  added JSON p99: {:.0} us, proxy's {:.0} us",
            us(added(m, tail)),
            us(added(proxy, tail))
        );
        line("processor time per request, c=32", cpu(m), cpu(proxy), cpu(proxy) * 2);
        let postgres = m.per_request(m.cpu.postgres);
        line("Postgres per request, c=32", postgres, cpu(proxy), Duration::from_micros(150));
        let reference = added(proxy, gap);
        line("added gap between events, p99", added(m, gap), reference, Duration::from_millis(5));
        println!(
            "  requests per second at c=32: {:.0} = {:.2} x proxy's",
            m.busy.rate(),
            m.busy.rate() / proxy.busy.rate()
        );
    }
}

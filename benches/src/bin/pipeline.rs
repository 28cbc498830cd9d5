//! `cargo xtask bench pipeline`: how many messages a node takes, answers and delivers, what an
//! overload does to it, and how fast it is back after a crash; beside pgbench on its own Postgres.
#![expect(clippy::print_stdout, reason = "a command-line tool talks on stdout")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use qudao_benches::{
    cpu, load, memory, pgbench,
    pipeline::{self, Ledger, People},
    platform::{self, Platform},
    postgres::Session,
};

/// Measures the pipeline beside pgbench.
#[derive(Parser)]
struct Args {
    /// The program; beside this one when absent.
    #[arg(long)]
    qudao: Option<PathBuf>,
    /// The laid-out plugins; `dist/plugins` when absent.
    #[arg(long)]
    plugins: Option<PathBuf>,
    /// Seconds of each phase.
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    /// Turns per second of the steady phase.
    #[arg(long, default_value_t = 500)]
    rate: u32,
    /// Makes each durable commit of the phase accept wait so many milliseconds for company, pgbench's
    /// too.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(..=100))]
    commit_ms: u32,
    /// Only phases whose name contains one of these: accept, steady, overload, recovery.
    only: Vec<String>,
}

/// Clients of pgbench.
const CLIENTS: usize = 32;
/// Connections of those who write as fast as they can: as many, and as many as leave it to the
/// platform how many messages share a commit.
const WRITERS: [usize; 2] = [CLIENTS, 256];
/// Connections of those who write at a rate: more than are ever busy.
const CONNECTIONS: usize = 128;
const PEOPLE: usize = 4000;
/// Turns that the node runs at the same time: more than there are under way.
const TURNS: usize = 1024;
/// Unanswered messages of the tenant, as is usual.
const BACKLOG: usize = 10_000;
const DRAIN: Duration = Duration::from_secs(120);
/// How far above its rate an overload is.
const OVERLOAD: u32 = 5;

fn main() -> Result<()> {
    let args = Args::parse();
    let (binary, plugins) = platform::find(args.qudao.clone(), args.plugins.clone())?;
    let settings = |backlog| pipeline::settings(&plugins, TURNS, backlog);
    let wanted = |phase: &str| {
        args.only.is_empty() || args.only.iter().any(|only| phase.contains(only.as_str()))
    };
    if wanted("accept") {
        accept(&args, &binary, &settings(1_000_000))?;
    }
    let mut platform = Platform::start_with(&binary, &settings(BACKLOG), &[])?;
    let measured = phases(&args, &mut platform, wanted);
    measured.map_err(|error| error.context(platform.log()))
}

fn phases(args: &Args, platform: &mut Platform, wanted: impl Fn(&str) -> bool) -> Result<()> {
    if wanted("steady") {
        steady(args, platform)?;
    }
    if wanted("overload") {
        overload(args, platform)?;
    }
    if wanted("recovery") {
        recovery(platform)?;
    }
    println!("\n{}", platform.command(&["check"])?);
    Ok(())
}

fn verdict(reached: bool) -> &'static str {
    if reached { "reached" } else { "MISSED" }
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// A node that only takes messages, so that nothing else competes for the machine; in turns with
/// pgbench on the same server.
fn accept(args: &Args, binary: &Path, settings: &str) -> Result<()> {
    let platform = Platform::start_with(binary, settings, &["--role", "api"])?;
    if 0 < args.commit_ms {
        Session::connect(&platform.demo.database_url)?.slow_commits(args.commit_ms)?;
    }
    let people = People::new(&platform.demo, 0, PEOPLE)?;
    people.hurry(CLIENTS, Duration::from_secs(2))?;
    let (mut runs, mut reference) = (WRITERS.map(|_| load::Run::default()), Vec::new());
    for _ in 0..3 {
        let seconds = (args.seconds / 3).max(2);
        let url = &platform.demo.database_url;
        reference.push(pgbench::one_row_per_commit(url, CLIENTS, u32::try_from(seconds)?)?);
        for (run, writers) in runs.iter_mut().zip(WRITERS) {
            run.merge(people.hurry(writers, Duration::from_secs(seconds))?);
        }
    }
    let reference = reference.iter().sum::<f64>() / reference.len() as f64;
    println!("accept; pgbench, {CLIENTS} clients: {reference:.0} one-row commits/s");
    for (run, writers) in runs.iter().zip(WRITERS) {
        let (ratio, p99) = (run.rate() / reference, run.quantile(0.99, |sample| sample.whole));
        ensure!(run.refused() == 0, "{} messages were refused", run.refused());
        println!("  {writers} connections, {} messages, no errors", run.samples.len());
        println!(
            "    {:.0} messages/s = {ratio:.2} x pgbench; goal 1.5: {}",
            run.rate(),
            verdict(1.5 <= ratio)
        );
        println!(
            "    p50 {:.1} ms, p99 {:.1} ms; goal 150 ms: {}",
            ms(run.quantile(0.5, |sample| sample.whole)),
            ms(p99),
            verdict(p99 < Duration::from_millis(150))
        );
    }
    Ok(())
}

/// Messages at a rate, from their acceptance to the delivery of their answers.
fn steady(args: &Args, platform: &Platform) -> Result<()> {
    let people = People::new(&platform.demo, 1, PEOPLE)?;
    let mut ledger = Ledger::open(&platform.demo)?;
    // Every person's conversation, plans, caches and pools are there before it counts.
    let warm = Duration::from_secs(u64::try_from(PEOPLE)? / u64::from(args.rate) + 2);
    people.steady(CONNECTIONS, args.rate, warm)?;
    ledger.drain(DRAIN)?;
    // As many are under way when the counting begins as when it ends.
    people.steady(CONNECTIONS, args.rate, Duration::from_secs(2))?;
    let third = Duration::from_secs((args.seconds / 3).max(2));
    let (before, delivered) = (cpu::of_tree(platform.pid()), ledger.delivered()?);
    let begun = Instant::now();
    let (mut run, mut backlogs, mut resident) = (load::Run::default(), Vec::new(), Vec::new());
    for _ in 0..3 {
        run.merge(people.steady(CONNECTIONS, args.rate, third)?);
        backlogs.push(ledger.backlog()?);
        resident.push(memory::resident_kib(platform.pid())? / 1024);
    }
    let turns = ledger.delivered()? - delivered;
    let rate = turns as f64 / begun.elapsed().as_secs_f64();
    let spent = cpu::of_tree(platform.pid()).since(before);
    let per_turn = |time: Duration| time.as_secs_f64() * 1e6 / turns.max(1) as f64;
    println!("\nsteady, {} messages/s for {:.0} s", args.rate, begun.elapsed().as_secs_f64());
    println!(
        "  {rate:.0} turns/s delivered; goal 500, gate 200: {}",
        verdict(500.0 * 0.98 <= rate)
    );
    println!(
        "  accept p50 {:.1} ms, p99 {:.1} ms; to the delivery p50 {} ms, p99 {} ms (the model's: 300, 760)",
        ms(run.quantile(0.5, |sample| sample.whole)),
        ms(run.quantile(0.99, |sample| sample.whole)),
        ledger.end_to_end(0.5, turns)?,
        ledger.end_to_end(0.99, turns)?
    );
    let (first, last) = (backlogs[0], backlogs[backlogs.len() - 1]);
    println!("  backlog {backlogs:?}; goal flat: {}", verdict(last <= first + first / 4 + 50));
    let growth = resident[resident.len() - 1] as f64 / resident[0] as f64 - 1.0;
    println!(
        "  resident memory {resident:?} MiB, {:+.1} %; goal 5 %: {}",
        growth * 100.0,
        verdict(growth <= 0.05)
    );
    println!(
        "  processor per turn: Postgres {:.0} us (goal 900: {}), Redis {:.0} us, Qudao {:.0} us",
        per_turn(spent.postgres),
        verdict(per_turn(spent.postgres) < 900.0),
        per_turn(spent.redis),
        per_turn(spent.own)
    );
    ledger.drain(DRAIN)?;
    Ok(())
}

/// Several times as many messages as before for a while, and the way back.
fn overload(args: &Args, platform: &Platform) -> Result<()> {
    let people = People::new(&platform.demo, 2, PEOPLE)?;
    let mut ledger = Ledger::open(&platform.demo)?;
    let length = Duration::from_secs((args.seconds / 2).max(5));
    let run = people.steady(CONNECTIONS, args.rate * OVERLOAD, length)?;
    let (backlog, ended) = (ledger.backlog()?, Instant::now());
    // Ordinary traffic goes on; normal is what it was before.
    let normal = args.rate as usize;
    let mut back = None;
    while back.is_none() && ended.elapsed() < DRAIN {
        people.steady(CONNECTIONS, args.rate / 2, Duration::from_secs(1))?;
        back = (ledger.backlog()? <= normal).then(|| ended.elapsed());
    }
    let back = back.context("it never came back")?;
    println!(
        "\noverload, {} messages/s for {:.0} s",
        args.rate * OVERLOAD,
        run.elapsed.as_secs_f64()
    );
    println!(
        "  {:.0} messages/s answered, of which {:.0} % with 429 or 503; p99 {:.0} ms; backlog {backlog}",
        run.rate(),
        100.0 * run.refused() as f64 / run.samples.len().max(1) as f64,
        ms(run.quantile(0.99, |sample| sample.whole))
    );
    println!(
        "  normal again after {:.1} s with half the usual traffic; goal 30 s: {}",
        back.as_secs_f64(),
        verdict(back < Duration::from_secs(30))
    );
    ledger.drain(DRAIN)?;
    Ok(())
}

/// The end of the platform without a word, and that of its Postgres.
fn recovery(platform: &mut Platform) -> Result<()> {
    let people = People::new(&platform.demo, 3, 100)?;
    people.hurry(CLIENTS, Duration::from_secs(2))?;
    let ready = platform.kill_and_restart()?;
    println!("\nkill -9 of the platform with {} messages under way", people.written());
    println!(
        "  ready again after {:.2} s; goal 2 s: {}",
        ready.as_secs_f64(),
        verdict(ready < Duration::from_secs(2))
    );
    let people = People::new(&platform.demo, 4, 100)?;
    people.hurry(CLIENTS, Duration::from_secs(2))?;
    quit_postgres(&platform.postgres_data())?;
    let begun = Instant::now();
    let serving = loop {
        ensure!(begun.elapsed() < DRAIN, "Postgres did not come back");
        // The first message that is taken again.
        let run = people.hurry(1, Duration::from_millis(1));
        if run.is_ok_and(|run| run.refused() == 0) {
            break begun.elapsed();
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    println!("immediate stop of Postgres");
    println!(
        "  the next message accepted after {:.2} s; goal 10 s: {}",
        serving.as_secs_f64(),
        verdict(serving < Duration::from_secs(10))
    );
    Ledger::open(&platform.demo)?.drain(DRAIN)?;
    Ok(())
}

/// Returns when it is gone.
fn quit_postgres(data: &Path) -> Result<()> {
    let pid = fs::read_to_string(data.join("postmaster.pid"))?;
    let pid = pid.lines().next().context("the postmaster's id")?.trim();
    let status = Command::new("kill").args(["-QUIT", pid]).status()?;
    ensure!(status.success(), "kill: {status}");
    let process = Path::new("/proc").join(pid);
    while process.exists() {
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

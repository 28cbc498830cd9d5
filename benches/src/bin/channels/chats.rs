//! Open chats: their memory while nobody writes, and the way from a message to the first word.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use qudao_benches::{
    cpu,
    crowd::{Seen, With},
    load::quantile,
    memory::resident_kib,
    part::Running,
    platform::Platform,
};
use tokio::time::sleep;

use crate::{Args, ms, verdict};

/// People who come and go before it counts, and what they write.
const WARM: (usize, usize) = (64, 3);
/// How long nobody writes while the processor's time is looked at.
const QUIET: Duration = Duration::from_secs(10);
/// Kibibytes that an open, silent chat may cost.
const GOAL_KIB: f64 = 50.0;

/// What was measured of one server.
struct Measured {
    /// Kibibytes for each open connection of whom nothing was heard yet.
    fresh: f64,
    /// Kibibytes for each when everybody has had an answer and keeps silent.
    idle: f64,
    /// The share of one processor that silent connections take.
    quiet: f64,
    seen: Seen,
}

pub(crate) fn measure(args: &Args, platform: &Platform) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let key = platform.demo.chat_url.rsplit('/').next().context("a chat page")?;
    let address = platform.demo.base_url.trim_start_matches("http://").to_owned();
    let chat = With::Chat { address, path: format!("/v1/web/{key}/socket") };
    let ours = runtime.block_on(one(args, &chat, platform.pid()))?;
    let echo = Running::start(&["echo"])?;
    let bare = With::Echo { address: echo.address().to_owned() };
    let bare = runtime.block_on(one(args, &bare, echo.pid()))?;
    tell(args, &ours, &bare);
    ensure!(ours.seen.lost + ours.seen.surplus == 0, "answers were lost or came twice");
    Ok(())
}

async fn one(args: &Args, with: &With, pid: u32) -> Result<Measured> {
    let (idle, active) = (args.of(args.idle), args.of(args.active));
    drop(with.come_in(1_000_000, WARM.0, WARM.1).await?);
    sleep(Duration::from_secs(1)).await;
    let empty = resident_kib(pid)?;
    let each = |now: u64| now.saturating_sub(empty) as f64 / idle as f64;
    let half = idle / 2;
    // Half of them only listen; the other half have had their answer.
    let (mut silent, _) = with.come_in(0, half, 0).await?;
    sleep(Duration::from_secs(1)).await;
    let fresh = each(resident_kib(pid)?) * 2.0;
    let (mut others, mut all) = with.come_in(half, idle - half, 1).await?;
    sleep(Duration::from_secs(2)).await;
    let resting = each(resident_kib(pid)?);
    let before = cpu::of_tree(pid).own;
    sleep(QUIET).await;
    let quiet = (cpu::of_tree(pid).own - before).as_secs_f64() / QUIET.as_secs_f64();
    let pause = Duration::from_secs(args.pause);
    let seen = with.talk(2_000_000, active, pause, args.length()).await?;
    silent.check()?;
    others.check()?;
    all = Seen { lost: all.lost + seen.lost, surplus: all.surplus + seen.surplus, ..seen };
    Ok(Measured { fresh, idle: resting, quiet, seen: all })
}

fn tell(args: &Args, ours: &Measured, bare: &Measured) {
    let (idle, active) = (args.of(args.idle), args.of(args.active));
    println!("chats, {idle} open and silent, half of them after an answer");
    println!(
        "  memory for each: {:.1} KiB (before a word was said: {:.1}) = {:.1} x the bare server's {:.1}; \
         goal {GOAL_KIB:.0}: {}",
        ours.idle,
        ours.fresh,
        ours.idle / bare.idle.max(0.1),
        bare.idle,
        verdict(ours.idle <= GOAL_KIB)
    );
    println!(
        "  processor while nobody writes: {:.1} % of one core, the bare server's {:.1} %",
        ours.quiet * 100.0,
        bare.quiet * 100.0
    );
    let seen = &ours.seen;
    println!("chats, {active} of them write as well, {} messages", seen.written);
    let line = |what: &str, times: &[Duration], reference: &[Duration]| {
        let of = |times: &[Duration], q| quantile(times.to_vec(), q);
        println!(
            "  {what:<14} p50 {:>6.1} ms, p99 {:>6.1} ms = {:.1} x and {:.1} x the bare echo's",
            ms(of(times, 0.5)),
            ms(of(times, 0.99)),
            of(times, 0.5).as_secs_f64() / of(reference, 0.5).as_secs_f64().max(1e-6),
            of(times, 0.99).as_secs_f64() / of(reference, 0.99).as_secs_f64().max(1e-6),
        );
    };
    let reference = &bare.seen.answered;
    line("accepted", &seen.accepted, reference);
    line("first word", &seen.first_word, reference);
    line("whole answer", &seen.answered, reference);
    println!("  answers lost {}, twice or unasked {}", seen.lost, seen.surplus);
}

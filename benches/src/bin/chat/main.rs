//! Tokens per second of candle-llm beside llama.cpp: the same file, the same threads, the same
//! minute, prompt and reply apart. Only the ratios mean anything on a shared machine. Then the
//! platform's own time per turn, from the receipt of a message to its answer, with a model that
//! takes none.

#![expect(clippy::print_stdout, reason = "the result of a benchmark goes to the terminal")]

mod turns;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use anyhow::Result;
use clap::Parser;
use qudao_benches::llama::{self, Llama};
use qudao_models::{Catalogue, Puller};
use qudao_plugin_candle_llm::decoder::{Cache, Decoder, Span};
use qudao_plugin_candle_llm::gguf::Gguf;
use qudao_plugin_candle_llm::pool::Pool;
use qudao_plugin_candle_llm::shape::Shape;

const PROMPT: usize = 128;
const REPLY: usize = 64;
const SIDE_BY_SIDE: usize = 8;

/// Measures candle-llm beside llama.cpp, and the platform's own time per turn.
#[derive(Parser)]
struct Args {
    /// GGUF files; default: SmolLM2 135M, fetched, and the small Qwen if it is here already.
    #[arg(long)]
    model: Vec<PathBuf>,
    /// Threads of both engines, several runs if several are named.
    #[arg(long, value_delimiter = ',', default_value = "1,2")]
    threads: Vec<usize>,
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
    /// The platform's program; beside this one when absent.
    #[arg(long)]
    qudao: Option<PathBuf>,
    /// The laid-out plugins; `dist/plugins` when absent.
    #[arg(long)]
    plugins: Option<PathBuf>,
    /// Turns of which the platform's own time is taken; 0 for none.
    #[arg(long, default_value_t = 200)]
    turns: usize,
    /// The platform's own time alone.
    #[arg(long)]
    turns_only: bool,
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
    if !args.turns_only {
        std::fs::create_dir_all(&args.work)?;
        let models =
            if args.model.is_empty() { default_models(&args)? } else { args.model.clone() };
        let peer = match &args.llama {
            Some(folder) => Llama::at(folder),
            None => llama::build(&args.work)?,
        };
        println!(
            "prompt of {PROMPT} tokens, reply of {REPLY}, best of {} alternating rounds, tokens/s",
            args.rounds
        );
        for model in &models {
            compare(&args, &peer, model)?;
        }
    }
    if args.turns > 0 {
        turns::print(args.qudao, args.plugins, args.turns)?;
    }
    Ok(())
}

/// One model through both engines.
fn compare(args: &Args, peer: &Llama, model: &Path) -> Result<()> {
    println!("\n{}", model.display());
    println!("{:>7} {:>9} {:>10} {:>10} {:>6}", "threads", "", "llama.cpp", "candle-llm", "ratio");
    for &threads in &args.threads {
        let ours = Ours::load(model, threads)?;
        let (mut theirs, mut own) = (Speed::default(), Speed::default());
        for _ in 0..args.rounds {
            let streamed = peer.stream(model, threads, PROMPT, REPLY)?;
            let (prompt, reply) = (streamed.prompt, streamed.reply);
            theirs = theirs.best(Speed { prompt, reply, side_by_side: 0.0 });
            own = own.best(ours.run());
        }
        let line = |what: &str, theirs: f64, own: f64| {
            println!("{threads:>7} {what:>9} {theirs:>10.1} {own:>10.1} {:>5.2}x", own / theirs);
        };
        line("prompt", theirs.prompt, own.prompt);
        line("reply", theirs.reply, own.reply);
        println!(
            "{threads:>7} {:>9} {:>10} {:>10.1} {:>5.2}x of one reply",
            "8 at once",
            "",
            own.side_by_side,
            own.side_by_side / own.reply
        );
        println!("{threads:>7} {:>9} {:>10} {:>10.1} s", "loading", "", ours.loading);
    }
    Ok(())
}

/// SmolLM2, and the small Qwen only where it has been pulled before.
fn default_models(args: &Args) -> Result<Vec<PathBuf>> {
    let directory = match &args.models {
        Some(directory) => directory.clone(),
        None => std::env::home_dir().unwrap_or_default().join(".cache/qudao/models"),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let puller = Puller::new(Catalogue::built_in()?);
    let pulled =
        runtime.block_on(puller.pull("smollm2-135m-instruct", &directory, &|_, _, _| ()))?;
    let mut models = vec![pulled.path];
    for name in ["qwen2.5-0.5b-instruct", "qwen2.5-coder-0.5b-instruct"] {
        let path = directory.join(puller.catalogue.model(name)?.file_name());
        if path.is_file() {
            models.push(path);
            break;
        }
    }
    Ok(models)
}

/// The decoder with its threads, as an instance of the plugin has them.
struct Ours {
    pool: Pool,
    decoder: Decoder,
    /// Seconds.
    loading: f64,
}

impl Ours {
    fn load(model: &Path, threads: usize) -> Result<Self> {
        let begun = Instant::now();
        let pool = Pool::new(threads)?;
        let gguf = Arc::new(Gguf::open(model)?);
        let shape = Arc::new(Shape::read(&gguf)?);
        let decoder = Decoder::load(&gguf, shape, &pool, &mut |_, _| ())?;
        Ok(Self { pool, decoder, loading: begun.elapsed().as_secs_f64() })
    }

    fn run(&self) -> Speed {
        let tokens: Vec<u32> = (100..4000).step_by(37).cycle().take(PROMPT).collect();
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

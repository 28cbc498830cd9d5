//! Starts the measuring programs of `benches/`, optimised.

use anyhow::Result;

/// `cargo xtask bench`
#[derive(clap::Args)]
pub(crate) struct Args {
    /// What to measure.
    subject: Subject,
    /// Handed to the measuring program.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<String>,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Subject {
    /// Open chats, webhooks and deliveries beside a bare server and a bare client.
    Channels,
    /// Tokens per second of the local engine beside llama.cpp, and the platform's own time per turn.
    Chat,
    /// The OpenAI-compatible door beside the bare upstream and a plain proxy.
    Gateway,
    /// Local models beside llama.cpp and ONNX Runtime, figure by figure, with what each should reach.
    Models,
    /// The pipeline from the acknowledgement to the delivery, beside pgbench on the same Postgres.
    Pipeline,
    /// A plugin call and a token, in process and in a child.
    Plugin,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let name = match args.subject {
        Subject::Channels => "channels",
        Subject::Chat => "chat",
        Subject::Gateway => "gateway",
        Subject::Models => "models",
        Subject::Pipeline => "pipeline",
        Subject::Plugin => "plugin",
    };
    let mut cargo = crate::cargo();
    cargo.args(["run", "--release", "--quiet", "--package", "qudao-benches", "--bin", name]);
    if matches!(args.subject, Subject::Chat | Subject::Models) {
        // Nobody waits for the engine to be compiled who does not measure it.
        cargo.args(["--features", "engine"]);
    }
    if matches!(args.subject, Subject::Models) {
        // As the plugins are built that `make plugins` lays out; llama.cpp is, too.
        cargo.env("RUSTFLAGS", "-C target-cpu=native").args(["--target-dir", "target/native"]);
    }
    crate::run(cargo.arg("--").args(&args.rest))
}

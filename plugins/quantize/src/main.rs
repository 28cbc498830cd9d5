//! `qudao-quantize FOLDER FILE [--kind q8_0|q4_k]`: what `qudao model quantize` starts. Tells its progress
//! and its result as one JSON object a line on standard output, and why it failed on standard error.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use qudao_quantize::{Kind, convert};
use serde_json::{Value, json};

/// Makes a GGUF file of fewer bits out of published weights.
#[derive(Debug, Parser)]
#[command(name = "qudao-quantize", version)]
struct Arguments {
    /// A folder with config.json, tokenizer.json and safetensors.
    source: PathBuf,
    /// The file to write.
    to: PathBuf,
    /// How matrices are stored.
    #[arg(long, value_enum, default_value_t = Stored::Q8_0)]
    kind: Stored,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Stored {
    #[value(name = "q8_0")]
    Q8_0,
    #[value(name = "q4_k")]
    Q4K,
}

fn say(line: &Value) {
    // Nobody listens any more: the file is made all the same.
    let _ = writeln!(std::io::stdout(), "{line}");
}

fn main() -> ExitCode {
    let Arguments { source, to, kind } = Arguments::parse();
    let kind = match kind {
        Stored::Q8_0 => Kind::Q8_0,
        Stored::Q4K => Kind::Q4K,
    };
    let mut progress = |tensor: usize, of: usize| say(&json!({ "tensor": tensor, "of": of }));
    match convert(&source, &to, kind, &mut progress) {
        Ok(made) => {
            say(&json!({
                "path": to,
                "tensors": made.tensors,
                "bytes": made.bytes,
                "source_bytes": made.source_bytes,
                "sha256": made.sha256,
            }));
            ExitCode::SUCCESS
        }
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "{error}");
            ExitCode::FAILURE
        }
    }
}

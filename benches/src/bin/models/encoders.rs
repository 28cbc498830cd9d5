//! Texts a second of the encoders beside ONNX Runtime: the same weights, threads and tokens. The
//! reference is a float32 graph made of the very file (`tests/peers/encoders/network.py`).

use std::{
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use qudao_encoder::Encoder;

use crate::{Args, Reach, print};

/// Encoders of the catalogue.
const MODELS: [&str; 2] = ["multilingual-e5-small", "all-minilm-l6-v2"];
/// Texts in a batch, and tokens of each.
const SHAPES: [[usize; 2]; 4] = [[1, 32], [1, 128], [32, 32], [32, 128]];
/// How long each shape is repeated in a round.
const SPAN: Duration = Duration::from_secs(1);
/// Where the reference's Python environment is kept; `make test` has the same.
const ENVIRONMENT: &str = "target/tools/encoders";

/// Measures every encoder and prints a line for each shape.
pub(crate) fn measure(args: &Args) -> Result<()> {
    environment()?;
    for name in MODELS {
        let path = crate::pull(args, name)?;
        println!("\n{}", path.display());
        crate::head();
        let encoder = Encoder::load(&path)?;
        let (mut theirs, mut own) = ([0f64; SHAPES.len()], [0f64; SHAPES.len()]);
        for _ in 0..args.rounds {
            let found = reference(&path, args.threads)?;
            theirs = std::array::from_fn(|at| theirs[at].max(found[at]));
            for (best, [texts, tokens]) in own.iter_mut().zip(SHAPES) {
                *best = best.max(texts_per_second(&encoder, texts, tokens)?);
            }
        }
        for (at, [texts, tokens]) in SHAPES.into_iter().enumerate() {
            let figure = format!("{texts} texts of {tokens} tokens, texts/s");
            print(&figure, theirs[at], own[at], Reach::AtLeast(1.0));
        }
    }
    Ok(())
}

/// Its threads are as many as there are cores, or as `RAYON_NUM_THREADS` says.
fn texts_per_second(encoder: &Encoder, texts: usize, tokens: usize) -> Result<f64> {
    let ids: Vec<u32> = (1000..9000).step_by(37).cycle().take(tokens).collect();
    let batch = vec![ids.as_slice(); texts];
    let layers = [encoder.network().layers];
    encoder.means(&batch, &layers)?;
    let start = Instant::now();
    let mut runs = 0u32;
    while start.elapsed() < SPAN {
        std::hint::black_box(encoder.means(&batch, &layers)?);
        runs += 1;
    }
    Ok(f64::from(runs) * texts as f64 / start.elapsed().as_secs_f64())
}

fn environment() -> Result<()> {
    let script = format!(
        ". scripts/python-env.sh && python_env {ENVIRONMENT} tests/peers/encoders/requirements.txt"
    );
    let status = Command::new("bash").args(["-euc", &script]).status()?;
    if !status.success() {
        bail!("the reference's Python packages could not be installed");
    }
    Ok(())
}

fn reference(model: &Path, threads: usize) -> Result<[f64; SHAPES.len()]> {
    let mut command = Command::new(format!("{ENVIRONMENT}/bin/python"));
    command.arg("tests/peers/encoders/speed.py").arg(model);
    command.args([threads.to_string(), SPAN.as_secs_f64().to_string()]);
    command.args(SHAPES.map(|[texts, tokens]| format!("{texts}x{tokens}")));
    let output = command.stderr(Stdio::inherit()).output().context("starting python")?;
    let said = String::from_utf8_lossy(&output.stdout);
    let numbers: Vec<f64> = said.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    <[f64; SHAPES.len()]>::try_from(numbers.as_slice()).with_context(|| format!("it said {said:?}"))
}

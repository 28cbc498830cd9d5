//! The detector beside ONNX Runtime: the same weights, the same threads, in turns. It is a program of its own
//! here: two plugins in one would have two allocators.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{Reach, print};

/// Makes the programs of the comparison.
const MAKE: &str = "set -e
    . scripts/python-env.sh
    python_env target/tools/vision tests/peers/vision/requirements.txt
    RUSTFLAGS='-C target-cpu=native' cargo build --quiet --release --target-dir target/native \
        -p qudao-plugin-vision --example look";
const LOOK: &str = "target/native/release/examples/look";
const PYTHON: &str = "target/tools/vision/bin/python";
/// Any picture: what is in it makes no difference to the time.
const PICTURE: &str = "tests/e2e/photos/cat.jpg";
/// Pictures of a round, of which the median counts.
const PICTURES: &str = "60";
/// The part of the peer's pictures that the detector should look at in the same time.
const REACH: f64 = 0.8;

/// Prints how many pictures of 416 × 416 are looked at in a second, if somebody names the weights.
/// Has to run in the project's folder.
///
/// # Errors
/// Whatever goes wrong with the peer, the weights or the detector.
pub(crate) fn compare(threads: usize, rounds: usize, work: &Path) -> Result<()> {
    let Some(onnx) = std::env::var_os("QUDAO_YOLOX_ONNX").map(PathBuf::from) else {
        println!(
            "\nthe detector is left out: set QUDAO_YOLOX_ONNX to yolox_nano.onnx (docs/vision.md)"
        );
        return Ok(());
    };
    said(Command::new("bash").args(["-c", MAKE]))?;
    let weights = work.join("yolox-nano.safetensors");
    qudao_models::convert_detector(&onnx, &weights)?;
    let threads = threads.to_string();
    let (mut theirs, mut own) = (0f64, 0f64);
    for _ in 0..rounds {
        let mut peer = Command::new(PYTHON);
        peer.arg("tests/peers/vision/speed.py").arg(&onnx).args([&*threads, PICTURES]);
        theirs = theirs.max(said(&mut peer)?.trim().parse().context("reading the peer's speed")?);
        let mut look = Command::new(LOOK);
        look.arg(&weights).args(["--threads", &threads, "--rounds", PICTURES, PICTURE]);
        let told: Value = serde_json::from_str(&said(&mut look)?).context("reading our speed")?;
        let took = told["time"]["network_ms"].as_f64().context("no time was told")?;
        own = own.max(1e3 / took);
    }
    println!("\n{}", onnx.display());
    print("look at 416 × 416, pictures/s", theirs, own, Reach::AtLeast(REACH));
    Ok(())
}

/// What a program prints.
fn said(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("starting {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

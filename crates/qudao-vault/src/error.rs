//! Why something stays shut.

use std::path::PathBuf;

use crate::MasterKeyId;

/// A key or a sealed value that cannot be used. No variant holds any of the secret.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VaultError {
    /// The text of a master key is not one.
    #[error("a master key is the base64 of exactly 32 bytes")]
    BadMasterKey,
    /// The file of the master keys cannot be read, or holds none.
    #[error("{}: {reason}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// What was wrapped needs a master key that is not configured here.
    #[error("it is wrapped by the master key {0}, which is not configured here")]
    UnknownMasterKey(MasterKeyId),
    /// The data key of this version is not the one that was asked.
    #[error("it was sealed with version {wanted} of the data key, not {present}")]
    OtherKeyVersion {
        /// The version that sealed it.
        wanted: u32,
        /// The version that was to open it.
        present: u32,
    },
    /// These bytes are no sealed value of a format that is known here.
    #[error("not a sealed value")]
    NotSealed,
    /// The tag does not fit: another key, another place, or bytes that were changed.
    #[error("it does not open: it was changed, or belongs to another place or key")]
    DoesNotOpen,
    /// More plaintext than the cipher or this format takes.
    #[error("too long to be sealed")]
    TooLong,
}

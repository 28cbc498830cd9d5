//! Envelope encryption of what is kept secret in the database: a master key that is never there
//! wraps a data key for each tenant, and the data key seals the tenant's secrets. No I/O but the
//! reading of the master keys' file; where keys and sealed values are kept is the caller's affair.
//!
//! The cipher is XChaCha20-Poly1305 (draft-irtf-cfrg-xchacha-03): its nonces of 192 bits may be
//! drawn at random without a count of how often. What a value belongs to (tenant, table, column,
//! row) is authenticated with it, so a ciphertext that is copied to another place does not open.
//!
//! A sealed value:
//!
//! | bytes | |
//! |---|---|
//! | 1 | the version of this format, 1 |
//! | 4 | the version of the data key, big-endian |
//! | 24 | the nonce |
//! | n + 16 | the ciphertext and its tag |
//!
//! A wrapped data key is the same with the master key in the place of the data key; the version in
//! it is the one of the key that is wrapped.

mod error;
mod master;
mod sealed;
mod secret;
mod source;

pub use error::VaultError;
pub use master::{MasterKey, MasterKeyId, MasterKeys};
pub use sealed::{DataKey, Place, key_version};
pub use secret::SecretBytes;
pub use source::MasterKeySource;

/// What a function of this crate returns.
pub type Result<T, E = VaultError> = std::result::Result<T, E>;

//! The master key that all tests have.

use qudao_vault::{MasterKey, MasterKeySource, MasterKeys};

/// The one master key of the nodes of a test.
pub fn master_keys() -> MasterKeySource {
    let key = MasterKey::from_bytes(*b"a master key that all tests have");
    MasterKeySource::Given(MasterKeys::new(key, Vec::new()))
}

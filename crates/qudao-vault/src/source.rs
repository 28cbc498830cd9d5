//! Where a node has its master keys from.

use std::{
    fs,
    path::{Path, PathBuf},
};

use zeroize::Zeroizing;

use crate::{MasterKeys, Result, VaultError};

/// Where the master keys are. A file is read again when a key is missed, so that a rotation
/// reaches nodes that serve.
#[derive(Debug, Clone)]
pub enum MasterKeySource {
    /// Given at the start, as from the environment.
    Given(MasterKeys),
    /// A file with a key in base64 on each line, the one in use first.
    File(PathBuf),
}

impl MasterKeySource {
    /// The keys as they are now.
    ///
    /// # Errors
    /// [`VaultError::File`].
    pub fn load(&self) -> Result<MasterKeys> {
        match self {
            Self::Given(keys) => Ok(keys.clone()),
            Self::File(path) => read(path),
        }
    }
}

fn read(path: &Path) -> Result<MasterKeys> {
    let refused = |reason: String| VaultError::File { path: path.to_owned(), reason };
    let text = fs::read_to_string(path).map_err(|error| refused(error.to_string()))?;
    MasterKeys::parse(&Zeroizing::new(text)).map_err(|error| refused(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MasterKey;

    #[test]
    fn a_file_is_read_as_it_is_now() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("master.key");
        let source = MasterKeySource::File(path.clone());
        let missing = source.load().unwrap_err().to_string();
        assert!(missing.contains("master.key"), "{missing}");
        let (old, new) = (MasterKey::generate(), MasterKey::generate());
        fs::write(&path, &*old.reveal()).unwrap();
        assert_eq!(source.load().unwrap().first().id(), old.id());
        fs::write(&path, format!("{}\n{}\n", *new.reveal(), *old.reveal())).unwrap();
        assert_eq!(source.load().unwrap().first().id(), new.id());
        fs::write(&path, "nonsense").unwrap();
        let refused = source.load().unwrap_err().to_string();
        assert!(refused.contains("32 bytes") && !refused.contains("nonsense"), "{refused}");
    }
}

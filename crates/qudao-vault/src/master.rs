//! The keys that wrap data keys.

use std::{fmt, str::FromStr};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use qudao_domain::TenantId;
use rand::Rng as _;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::{
    DataKey, Result, VaultError,
    sealed::{open, seal},
};

/// What a check value is of.
const CHECK: &[u8] = b"qudao master key";

/// Which master key: 16 hexadecimal digits of a hash of it. Tells nothing of the key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MasterKeyId(String);

impl MasterKeyId {
    /// The id as the database keeps it.
    pub fn from_text(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for MasterKeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// 32 bytes that are never in the database.
#[derive(Clone)]
pub struct MasterKey {
    id: MasterKeyId,
    key: Zeroizing<[u8; 32]>,
}

impl MasterKey {
    /// A new key.
    pub fn generate() -> Self {
        let mut key = Zeroizing::new([0; 32]);
        rand::rng().fill_bytes(key.as_mut_slice());
        Self::new(key)
    }

    /// The key of these bytes.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self::new(Zeroizing::new(bytes))
    }

    fn new(key: Zeroizing<[u8; 32]>) -> Self {
        let mut hash = Sha256::new();
        hash.update(b"qudao master key id");
        hash.update(key.as_slice());
        Self { id: MasterKeyId(hex::encode(&hash.finalize()[..8])), key }
    }

    /// Which key it is.
    pub fn id(&self) -> &MasterKeyId {
        &self.id
    }

    /// The key as text, for its file.
    pub fn reveal(&self) -> Zeroizing<String> {
        Zeroizing::new(STANDARD.encode(self.key.as_slice()))
    }

    /// Makes a data key fit for the database.
    ///
    /// # Errors
    /// None that can occur: a key is short.
    pub fn wrap(&self, key: &DataKey) -> Result<Vec<u8>> {
        let context = wrap_context(key.tenant_id());
        seal(&self.key, key.version(), &context, key.bytes())
    }

    /// The data key of a tenant that [`MasterKey::wrap`] wrapped.
    ///
    /// # Errors
    /// [`VaultError::DoesNotOpen`], also for the key of another tenant or version.
    pub fn unwrap(&self, tenant_id: TenantId, version: u32, wrapped: &[u8]) -> Result<DataKey> {
        let wanted = crate::key_version(wrapped)?;
        if wanted != version {
            return Err(VaultError::OtherKeyVersion { wanted, present: version });
        }
        let opened = open(&self.key, &wrap_context(tenant_id), wrapped)?;
        DataKey::new(tenant_id, version, opened.reveal())
    }

    /// What is kept in the database to tell this key from a wrong one.
    ///
    /// # Errors
    /// None that can occur.
    pub fn check_value(&self) -> Result<Vec<u8>> {
        seal(&self.key, 0, CHECK, CHECK)
    }

    /// Whether a check value was made with this key.
    pub fn made(&self, check_value: &[u8]) -> bool {
        open(&self.key, CHECK, check_value).is_ok_and(|opened| opened.reveal() == CHECK)
    }
}

fn wrap_context(tenant_id: TenantId) -> Vec<u8> {
    [b"qudao data key".as_slice(), tenant_id.as_uuid().as_bytes()].concat()
}

/// Reads base64, with or without padding.
impl FromStr for MasterKey {
    type Err = VaultError;

    fn from_str(text: &str) -> Result<Self> {
        let bytes =
            Zeroizing::new(STANDARD.decode(text.trim()).map_err(|_| VaultError::BadMasterKey)?);
        let mut key = Zeroizing::new([0; 32]);
        if bytes.len() != key.len() {
            return Err(VaultError::BadMasterKey);
        }
        key.copy_from_slice(&bytes);
        Ok(Self::new(key))
    }
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MasterKey({}, …)", self.id)
    }
}

/// The master keys of a node: the one that is to wrap from now on, and older ones that some data
/// keys may still be wrapped by.
#[derive(Debug, Clone)]
pub struct MasterKeys {
    first: MasterKey,
    older: Vec<MasterKey>,
}

impl MasterKeys {
    /// One key, and perhaps older ones.
    pub fn new(first: MasterKey, older: Vec<MasterKey>) -> Self {
        Self { first, older }
    }

    /// Reads keys in base64, parted by white space or commas, the one in use first.
    ///
    /// # Errors
    /// [`VaultError::BadMasterKey`].
    pub fn parse(text: &str) -> Result<Self> {
        let words = text.split(|letter: char| letter.is_whitespace() || letter == ',');
        let mut keys: Vec<MasterKey> = Vec::new();
        for word in words.filter(|word| !word.is_empty()) {
            keys.push(word.parse()?);
        }
        let mut keys = keys.into_iter();
        let first = keys.next().ok_or(VaultError::BadMasterKey)?;
        Ok(Self { first, older: keys.collect() })
    }

    /// The key that is to be used.
    pub fn first(&self) -> &MasterKey {
        &self.first
    }

    /// The key with this id.
    ///
    /// # Errors
    /// [`VaultError::UnknownMasterKey`].
    pub fn get(&self, id: &MasterKeyId) -> Result<&MasterKey> {
        let found = self.iter().find(|key| key.id() == id);
        found.ok_or_else(|| VaultError::UnknownMasterKey(id.clone()))
    }

    /// All keys, the one in use first.
    pub fn iter(&self) -> impl Iterator<Item = &MasterKey> {
        std::iter::once(&self.first).chain(&self.older)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_data_key_survives_its_wrapping_for_its_tenant_and_version_only() {
        let (master, tenant_id) = (MasterKey::generate(), TenantId::new());
        let key = DataKey::generate(tenant_id, 3);
        let wrapped = master.wrap(&key).unwrap();
        assert_eq!(master.unwrap(tenant_id, 3, &wrapped).unwrap().bytes(), key.bytes());
        assert!(master.unwrap(tenant_id, 2, &wrapped).is_err());
        assert!(master.unwrap(TenantId::new(), 3, &wrapped).is_err());
        assert!(MasterKey::generate().unwrap(tenant_id, 3, &wrapped).is_err());
        assert!(!wrapped.windows(8).any(|part| part == &key.bytes()[..8]));
    }

    #[test]
    fn keys_are_read_from_text_the_one_in_use_first() {
        let (new, old) = (MasterKey::generate(), MasterKey::generate());
        let text = format!("{}\n{}\n", *new.reveal(), *old.reveal());
        let keys = MasterKeys::parse(&text).unwrap();
        assert_eq!(keys.first().id(), new.id());
        assert_eq!(keys.get(old.id()).unwrap().id(), old.id());
        let unknown = MasterKey::generate();
        assert!(matches!(keys.get(unknown.id()), Err(VaultError::UnknownMasterKey(_))));
        for text in ["", "hunter2", "AAAA", &format!("{}A", *new.reveal())] {
            let refused = MasterKeys::parse(text).unwrap_err();
            assert!(matches!(refused, VaultError::BadMasterKey), "{text}");
        }
    }

    #[test]
    fn a_check_value_tells_a_wrong_key() {
        let key = MasterKey::from_bytes([7; 32]);
        let check = key.check_value().unwrap();
        assert!(key.made(&check) && !MasterKey::generate().made(&check));
        let shown = format!("{key:?}");
        assert!(!shown.contains(&*key.reveal()), "{shown}");
    }
}

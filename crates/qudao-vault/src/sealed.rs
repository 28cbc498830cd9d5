//! Data keys, and what they seal.

use std::fmt;

use chacha20poly1305::{
    KeyInit as _, XChaCha20Poly1305, XNonce,
    aead::{Aead as _, Payload},
};
use qudao_domain::TenantId;
use rand::Rng as _;
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::{Result, SecretBytes, VaultError};

const FORMAT: u8 = 1;
const NONCE: usize = 24;
const HEAD: usize = 1 + 4;
const TAG: usize = 16;
/// Secrets are short; what is longer is a mistake.
const PLAINTEXT_MAX: usize = 1 << 20;

/// Where a sealed value is kept. It opens there and nowhere else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The table.
    pub table: &'static str,
    /// The column.
    pub column: &'static str,
    /// The row, by its id within the tenant.
    pub row: Uuid,
}

impl Place {
    /// What is authenticated beside the ciphertext. Every part has a length, so that no two places
    /// read the same.
    fn context(&self, tenant_id: TenantId) -> Vec<u8> {
        let Self { table, column, row } = self;
        let mut context = Vec::with_capacity(96);
        let (tenant, row) = (tenant_id.as_uuid(), *row);
        for part in [
            b"qudao seal".as_slice(),
            tenant.as_bytes(),
            table.as_bytes(),
            column.as_bytes(),
            row.as_bytes(),
        ] {
            context.extend_from_slice(&(part.len() as u64).to_be_bytes());
            context.extend_from_slice(part);
        }
        context
    }
}

/// A tenant's key of one version.
#[derive(Clone)]
pub struct DataKey {
    tenant_id: TenantId,
    version: u32,
    key: Zeroizing<[u8; 32]>,
}

impl DataKey {
    /// A new key.
    pub fn generate(tenant_id: TenantId, version: u32) -> Self {
        let mut key = Zeroizing::new([0; 32]);
        rand::rng().fill_bytes(key.as_mut_slice());
        Self { tenant_id, version, key }
    }

    pub(crate) fn new(tenant_id: TenantId, version: u32, bytes: &[u8]) -> Result<Self> {
        let mut key = Zeroizing::new([0; 32]);
        if bytes.len() != key.len() {
            return Err(VaultError::NotSealed);
        }
        key.copy_from_slice(bytes);
        Ok(Self { tenant_id, version, key })
    }

    /// Whose it is.
    pub fn tenant_id(&self) -> TenantId {
        self.tenant_id
    }

    /// Which of the tenant's keys it is, from 1.
    pub fn version(&self) -> u32 {
        self.version
    }

    pub(crate) fn bytes(&self) -> &[u8; 32] {
        &self.key
    }

    /// Seals a value for its place.
    ///
    /// # Errors
    /// [`VaultError::TooLong`] above 1 MiB.
    pub fn seal(&self, place: Place, plaintext: &[u8]) -> Result<Vec<u8>> {
        seal(&self.key, self.version, &place.context(self.tenant_id), plaintext)
    }

    /// Opens what was sealed with this key for this place.
    ///
    /// # Errors
    /// [`VaultError::NotSealed`], [`VaultError::OtherKeyVersion`] or [`VaultError::DoesNotOpen`].
    pub fn open(&self, place: Place, sealed: &[u8]) -> Result<SecretBytes> {
        let wanted = key_version(sealed)?;
        if wanted != self.version {
            return Err(VaultError::OtherKeyVersion { wanted, present: self.version });
        }
        open(&self.key, &place.context(self.tenant_id), sealed)
    }
}

impl fmt::Debug for DataKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DataKey({}, version {}, …)", self.tenant_id, self.version)
    }
}

/// Which version of the data key a value was sealed with.
///
/// # Errors
/// [`VaultError::NotSealed`].
pub fn key_version(sealed: &[u8]) -> Result<u32> {
    if sealed.len() < HEAD + NONCE + TAG || sealed[0] != FORMAT {
        return Err(VaultError::NotSealed);
    }
    let mut version = [0; 4];
    version.copy_from_slice(&sealed[1..HEAD]);
    Ok(u32::from_be_bytes(version))
}

pub(crate) fn seal(
    key: &[u8; 32],
    version: u32,
    context: &[u8],
    plaintext: &[u8],
) -> Result<Vec<u8>> {
    if PLAINTEXT_MAX < plaintext.len() {
        return Err(VaultError::TooLong);
    }
    let mut nonce = [0; NONCE];
    rand::rng().fill_bytes(&mut nonce);
    let mut sealed = Vec::with_capacity(HEAD + NONCE + plaintext.len() + TAG);
    sealed.push(FORMAT);
    sealed.extend_from_slice(&version.to_be_bytes());
    let aad = with_head(context, &sealed);
    sealed.extend_from_slice(&nonce);
    let payload = Payload { msg: plaintext, aad: &aad };
    let cipher = XChaCha20Poly1305::new(key.into());
    let ciphertext =
        cipher.encrypt(&XNonce::from(nonce), payload).map_err(|_| VaultError::TooLong)?;
    sealed.extend_from_slice(&ciphertext);
    Ok(sealed)
}

pub(crate) fn open(key: &[u8; 32], context: &[u8], sealed: &[u8]) -> Result<SecretBytes> {
    key_version(sealed)?;
    let aad = with_head(context, &sealed[..HEAD]);
    let mut nonce = [0; NONCE];
    nonce.copy_from_slice(&sealed[HEAD..HEAD + NONCE]);
    let payload = Payload { msg: &sealed[HEAD + NONCE..], aad: &aad };
    let cipher = XChaCha20Poly1305::new(key.into());
    let opened = cipher.decrypt(&XNonce::from(nonce), payload);
    opened.map(SecretBytes::new).map_err(|_| VaultError::DoesNotOpen)
}

/// The head is authenticated as well: it cannot be exchanged for one of another version.
fn with_head(context: &[u8], head: &[u8]) -> Vec<u8> {
    [head, context].concat()
}

#[cfg(test)]
mod tests;

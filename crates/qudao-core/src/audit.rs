//! Signed heads of the audit chains. Whoever cuts rows off the end of a chain, or writes a whole
//! chain anew, cannot sign; and copies of what was signed lie in a file of each node.
//!
//! The key is sealed like other secrets of the platform: the database alone does not hold it.

use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions},
    io::{BufRead as _, BufReader, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use jiff::Timestamp;
use qudao_domain::{Clock, TenantId};
use qudao_storage::{
    AuditFault, AuditHead, AuditReport, AuditSigner, KnownHead, Once, SignedHead, StorageError,
    Store,
};
use rand::Rng as _;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::vault::{Place, Vault, VaultError};

/// The last line of the file is looked for in so many bytes.
const TAIL: u64 = 4096;

/// Why heads are neither signed nor verified.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuditError {
    /// The database failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The signing key cannot be had.
    #[error("the key that signs the audit log's heads")]
    Key(#[from] VaultError),
    /// The file of heads cannot be read or written.
    #[error("{}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

/// A line of the file.
#[derive(Debug, Serialize, Deserialize)]
struct Line {
    no: i64,
    tenant_id: Uuid,
    seq: i64,
    hash: String,
    signed_at: Timestamp,
    signer: Uuid,
    signature: String,
}

/// Signs the heads of chains that have grown, and brings the file up to date with all signed heads.
/// Returns how many this call signed. Safe to repeat.
///
/// # Errors
/// [`AuditError`].
pub async fn sign_heads(
    store: &Store,
    vault: &Vault,
    clock: &dyn Clock,
    file: &Path,
) -> Result<u64, AuditError> {
    let mut signed = 0;
    let (signer_id, key) = signing_key(store, vault).await?;
    loop {
        let mut tx = store.begin_platform().await?;
        tx.lock_signing().await?;
        let heads = tx.unsigned_heads().await?;
        let done = heads.is_empty();
        for head in heads {
            // The database keeps microseconds.
            let now = clock.now().as_microsecond();
            let signed_at = Timestamp::from_microsecond(now).unwrap_or_default();
            let signature = key.sign(&head.message(signed_at)).to_bytes().to_vec();
            tx.add_signed_head(&SignedHead { no: 0, head, signed_at, signer_id, signature })
                .await?;
            signed += 1;
        }
        tx.commit().await?;
        if done {
            break;
        }
    }
    append_new(store, file).await?;
    Ok(signed)
}

async fn signing_key(store: &Store, vault: &Vault) -> Result<(Uuid, SigningKey), AuditError> {
    let mut tx = store.begin(Once::OPERATOR).await?;
    let signers = tx.audit_signers().await?;
    tx.commit().await?;
    if let Some(signer) = signers.first() {
        return Ok((signer.id, open(vault, signer).await?));
    }
    let mut seed = [0; 32];
    rand::rng().fill_bytes(&mut seed);
    let key = SigningKey::from_bytes(&seed);
    // Of the form of other ids, so that the newest sorts last.
    let id = qudao_domain::EntryId::new().as_uuid();
    let sealed_seed = vault.seal_platform(place(id), &seed).await?;
    let public_key = key.verifying_key().to_bytes().to_vec();
    let mut tx = store.begin(Once::OPERATOR).await?;
    tx.add_audit_signer(&AuditSigner { id, public_key, sealed_seed }).await?;
    tx.commit().await?;
    Ok((id, key))
}

fn place(signer: Uuid) -> Place {
    Place { table: "audit_signers", column: "sealed_seed", row: signer }
}

async fn open(vault: &Vault, signer: &AuditSigner) -> Result<SigningKey, VaultError> {
    let seed = vault.open_platform(place(signer.id), &signer.sealed_seed).await?;
    let seed: Result<&[u8; 32], _> = seed.reveal().try_into();
    seed.map(SigningKey::from_bytes)
        .map_err(|_| VaultError::Seal(crate::vault::SealError::NotSealed))
}

async fn append_new(store: &Store, path: &Path) -> Result<(), AuditError> {
    let failed = |source| AuditError::File { path: path.to_owned(), source };
    let mut options = OpenOptions::new();
    options.read(true).append(true).create(true).mode(0o600);
    let mut file = options.open(path).map_err(failed)?;
    let (mut last, whole) = last_number(&mut file).map_err(failed)?;
    let mut text = String::from(if whole { "" } else { "\n" });
    loop {
        let signed = store.signed_heads(last).await?;
        let Some(newest) = signed.last() else { break };
        last = newest.no;
        for head in &signed {
            // A struct of numbers and texts has a JSON form.
            text += &serde_json::to_string(&Line::of(head)).unwrap_or_default();
            text.push('\n');
        }
        file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
        text.clear();
    }
    Ok(())
}

/// The number in the last line, and whether the file ends with a whole line.
fn last_number(file: &mut File) -> std::io::Result<(i64, bool)> {
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
    let mut tail = Vec::new();
    file.read_to_end(&mut tail)?;
    let tail = String::from_utf8_lossy(&tail);
    let last = tail.lines().rev().find_map(|line| serde_json::from_str::<Line>(line).ok());
    Ok((last.map_or(0, |line| line.no), tail.is_empty() || tail.ends_with('\n')))
}

impl Line {
    fn of(signed: &SignedHead) -> Self {
        Self {
            no: signed.no,
            tenant_id: signed.head.tenant_id.as_uuid(),
            seq: signed.head.seq,
            hash: hex::encode(&signed.head.hash),
            signed_at: signed.signed_at,
            signer: signed.signer_id,
            signature: hex::encode(&signed.signature),
        }
    }

    fn signed(self) -> Option<SignedHead> {
        let tenant_id = TenantId::from_uuid(self.tenant_id);
        let head = AuditHead { tenant_id, seq: self.seq, hash: hex::decode(&self.hash).ok()? };
        let signature = hex::decode(&self.signature).ok()?;
        let (no, signed_at, signer_id) = (self.no, self.signed_at, self.signer);
        Some(SignedHead { no, head, signed_at, signer_id, signature })
    }
}

/// What a verification found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verification {
    /// Each chain.
    pub chains: Vec<AuditReport>,
    /// Signed heads that are not genuine: in the table or the file, with the reason.
    pub forged: Vec<String>,
    /// How many signed heads were found genuine.
    pub signed: usize,
}

impl Verification {
    /// Whether nothing is wrong.
    pub fn holds(&self) -> bool {
        self.forged.is_empty() && self.faults().next().is_none()
    }

    /// The first bad row of each chain that has one.
    pub fn faults(&self) -> impl Iterator<Item = (&AuditReport, &AuditFault)> {
        self.chains.iter().filter_map(|chain| Some((chain, chain.fault.as_ref()?)))
    }
}

/// Verifies the chain of one tenant, or all of them, against the signed heads of the database and
/// of `files`. Without a vault nothing vouches for signatures, and only the chains are looked at.
///
/// # Errors
/// [`AuditError`].
pub async fn verify(
    store: &Store,
    vault: Option<&Vault>,
    tenant_id: Option<TenantId>,
    files: &[PathBuf],
) -> Result<Verification, AuditError> {
    let (mut known, mut forged) = (Vec::new(), Vec::new());
    if let Some(vault) = vault {
        let keys = genuine_keys(store, vault).await?;
        let mut check = |signed: SignedHead, place: &str| {
            let source = format!("the head signed at {} ({place})", signed.signed_at);
            if is_genuine(&keys, &signed) {
                known.push(KnownHead { head: signed.head, source });
            } else {
                let (tenant, seq) = (signed.head.tenant_id, signed.head.seq);
                forged.push(format!("{tenant} row {seq}: {source} is not genuine"));
            }
        };
        for path in files {
            for signed in read_file(path)? {
                check(signed, "in the file");
            }
        }
        let mut after = 0;
        loop {
            let signed = store.signed_heads(after).await?;
            let Some(newest) = signed.last() else { break };
            after = newest.no;
            signed.into_iter().for_each(|signed| check(signed, "in the database"));
        }
    }
    let chains = store.verify_audit(tenant_id, &known).await?;
    Ok(Verification { chains, forged, signed: known.len() })
}

/// The public keys whose private key this platform has: a row that somebody planted has none.
async fn genuine_keys(
    store: &Store,
    vault: &Vault,
) -> Result<BTreeMap<Uuid, VerifyingKey>, AuditError> {
    let mut tx = store.begin(Once::OPERATOR).await?;
    let signers = tx.audit_signers().await?;
    tx.commit().await?;
    let mut keys = BTreeMap::new();
    for signer in signers {
        if let Ok(key) = open(vault, &signer).await {
            keys.insert(signer.id, key.verifying_key());
        }
    }
    Ok(keys)
}

fn is_genuine(keys: &BTreeMap<Uuid, VerifyingKey>, signed: &SignedHead) -> bool {
    let Some(key) = keys.get(&signed.signer_id) else { return false };
    let Ok(signature) = Signature::from_slice(&signed.signature) else { return false };
    key.verify_strict(&signed.head.message(signed.signed_at), &signature).is_ok()
}

/// A last line that a crash cut off was not signed to anybody's knowledge.
fn read_file(path: &Path) -> Result<Vec<SignedHead>, AuditError> {
    let failed = |source| AuditError::File { path: path.to_owned(), source };
    let file = match File::open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        file => file.map_err(failed)?,
    };
    let mut heads = Vec::new();
    for line in BufReader::new(file).lines() {
        let line = line.map_err(failed)?;
        heads.extend(serde_json::from_str::<Line>(&line).ok().and_then(Line::signed));
    }
    Ok(heads)
}

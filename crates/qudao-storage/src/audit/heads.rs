//! The ends of chains, as they were when somebody signed them.

use jiff::Timestamp;
use qudao_domain::TenantId;
use sqlx::{Row as _, postgres::PgRow};
use uuid::Uuid;

use crate::{PlatformTx, Result, Store, Tx, row};

/// The end of a chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditHead {
    /// Whose chain.
    pub tenant_id: TenantId,
    /// The number of its last row.
    pub seq: i64,
    /// The hash of that row.
    pub hash: Vec<u8>,
}

impl AuditHead {
    /// What is signed.
    pub fn message(&self, signed_at: Timestamp) -> Vec<u8> {
        let mut message = b"qudao audit head".to_vec();
        message.extend_from_slice(self.tenant_id.as_uuid().as_bytes());
        message.extend_from_slice(&self.seq.to_be_bytes());
        message.extend_from_slice(&signed_at.as_microsecond().to_be_bytes());
        message.extend_from_slice(&self.hash);
        message
    }
}

/// A head with its signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedHead {
    /// Its number; later ones have higher ones.
    pub no: i64,
    /// The head.
    pub head: AuditHead,
    /// When it was signed, to the microsecond.
    pub signed_at: Timestamp,
    /// By which key.
    pub signer_id: Uuid,
    /// The ed25519 signature of [`AuditHead::message`].
    pub signature: Vec<u8>,
}

/// A key that signs heads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditSigner {
    /// Which.
    pub id: Uuid,
    /// The ed25519 public key.
    pub public_key: Vec<u8>,
    /// The seed of the private key, sealed.
    pub sealed_seed: Vec<u8>,
}

impl Tx {
    /// The keys that sign heads, the newest first; of the transaction of the platform's own scope.
    ///
    /// # Errors
    /// [`StorageError`](crate::StorageError).
    pub async fn audit_signers(&mut self) -> Result<Vec<AuditSigner>> {
        let rows = sqlx::query(
            "SELECT signer_id, public_key, sealed_seed FROM audit_signers \
             WHERE tenant_id = $1 ORDER BY signer_id DESC LIMIT 1000",
        )
        .bind(self.tenant_id().as_uuid())
        .fetch_all(self.connection())
        .await?;
        let read = |row: &PgRow| {
            Ok(AuditSigner {
                id: row.try_get("signer_id")?,
                public_key: row.try_get("public_key")?,
                sealed_seed: row.try_get("sealed_seed")?,
            })
        };
        rows.iter().map(read).collect()
    }

    /// Adds a key that signs heads.
    ///
    /// # Errors
    /// [`StorageError`](crate::StorageError).
    pub async fn add_audit_signer(&mut self, signer: &AuditSigner) -> Result<()> {
        sqlx::query(
            "INSERT INTO audit_signers (tenant_id, signer_id, public_key, sealed_seed) \
             VALUES ($1, $2, $3, $4)",
        )
        .bind(self.tenant_id().as_uuid())
        .bind(signer.id)
        .bind(&signer.public_key)
        .bind(&signer.sealed_seed)
        .execute(self.connection())
        .await?;
        Ok(())
    }
}

impl PlatformTx {
    /// Waits for whoever else signs, until the transaction ends: numbers of signed heads become
    /// visible in their order.
    ///
    /// # Errors
    /// [`StorageError`](crate::StorageError).
    pub async fn lock_signing(&mut self) -> Result<()> {
        sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended('qudao audit heads', 0))")
            .execute(self.connection())
            .await?;
        Ok(())
    }

    /// Some chains that have grown since their head was signed last.
    ///
    /// # Errors
    /// [`StorageError`](crate::StorageError).
    pub async fn unsigned_heads(&mut self) -> Result<Vec<AuditHead>> {
        let rows = sqlx::query("SELECT tenant_id, seq, hash FROM app.unsigned_audit_heads($1)")
            .bind(1000_i64)
            .fetch_all(self.connection())
            .await?;
        rows.iter().map(|row| Ok(read_head(row)?)).collect()
    }

    /// Keeps a signed head, unless there is one of its number already.
    ///
    /// # Errors
    /// [`StorageError`](crate::StorageError).
    pub async fn add_signed_head(&mut self, signed: &SignedHead) -> Result<()> {
        sqlx::query("SELECT app.add_signed_head($1, $2, $3, $4, $5, $6)")
            .bind(signed.head.tenant_id.as_uuid())
            .bind(signed.head.seq)
            .bind(&signed.head.hash)
            .bind(signed.signed_at.as_microsecond())
            .bind(signed.signer_id)
            .bind(&signed.signature)
            .execute(self.connection())
            .await?;
        Ok(())
    }
}

impl Store {
    /// Signed heads with a number above `after`, in order; at most a thousand.
    ///
    /// # Errors
    /// [`StorageError`](crate::StorageError).
    pub async fn signed_heads(&self, after: i64) -> Result<Vec<SignedHead>> {
        let mut tx = self.begin_platform().await?;
        let rows = sqlx::query(
            "SELECT signed_no, tenant_id, seq, hash, signed_at, signer_id, signature \
             FROM app.list_signed_heads($1, $2)",
        )
        .bind(after)
        .bind(1000_i64)
        .fetch_all(tx.connection())
        .await?;
        tx.commit().await?;
        let read = |row: &PgRow| {
            Ok(SignedHead {
                no: row.try_get("signed_no")?,
                head: read_head(row)?,
                signed_at: row::time(row, "signed_at")?,
                signer_id: row.try_get("signer_id")?,
                signature: row.try_get("signature")?,
            })
        };
        rows.iter().map(read).collect()
    }
}

pub(super) fn read_head(row: &PgRow) -> Result<AuditHead, sqlx::Error> {
    Ok(AuditHead {
        tenant_id: row::id(row, "tenant_id", TenantId::from_uuid)?,
        seq: row.try_get("seq")?,
        hash: row.try_get("hash")?,
    })
}

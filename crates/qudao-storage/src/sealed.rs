//! Columns that hold sealed values: what a rotation of a tenant's key has to seal anew.

use sqlx::{AssertSqlSafe, Row as _};
use uuid::Uuid;

use crate::{Result, Tx};

/// Every such column. A table that gets one is added here.
pub const SEALED: &[SealedColumn] = &[
    SealedColumn { table: "audit_signers", column: "sealed_seed", row: "signer_id" },
    SealedColumn { table: "channels", column: "secrets_sealed", row: "channel_id" },
    SealedColumn { table: "mails", column: "sealed", row: "mail_id" },
    SealedColumn { table: "members", column: "totp_sealed", row: "member_id" },
    SealedColumn {
        table: "identity_providers",
        column: "client_secret_sealed",
        row: "identity_provider_id",
    },
];

/// A column with sealed values. The row is named by a UUID that is unique within its tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SealedColumn {
    /// The table.
    pub table: &'static str,
    /// The column.
    pub column: &'static str,
    /// The column with the row's id.
    pub row: &'static str,
}

impl Tx {
    /// Sealed values of the tenant in the order of their rows, from after `after`.
    ///
    /// # Errors
    /// [`StorageError`](crate::StorageError).
    pub async fn sealed_values(
        &mut self,
        of: SealedColumn,
        after: Option<Uuid>,
        limit: u32,
    ) -> Result<Vec<(Uuid, Vec<u8>)>> {
        let SealedColumn { table, column, row } = of;
        let sql = format!(
            "SELECT {row}, {column} FROM {table} \
             WHERE tenant_id = $1 AND ($2::uuid IS NULL OR {row} > $2) AND {column} IS NOT NULL \
             ORDER BY {row} LIMIT $3"
        );
        // Made of names in this program alone.
        let rows = sqlx::query(AssertSqlSafe(sql))
            .bind(self.tenant_id().as_uuid())
            .bind(after)
            .bind(i64::from(limit))
            .fetch_all(self.connection())
            .await?;
        rows.iter().map(|found| Ok((found.try_get(0)?, found.try_get(1)?))).collect()
    }

    /// Puts another sealed value in the place of `before`. `false` if that is no longer there.
    ///
    /// # Errors
    /// [`StorageError`](crate::StorageError).
    pub async fn replace_sealed(
        &mut self,
        of: SealedColumn,
        row_id: Uuid,
        before: &[u8],
        sealed: &[u8],
    ) -> Result<bool> {
        let SealedColumn { table, column, row } = of;
        let sql = format!(
            "UPDATE {table} SET {column} = $4 \
             WHERE tenant_id = $1 AND {row} = $2 AND {column} = $3"
        );
        let done = sqlx::query(AssertSqlSafe(sql))
            .bind(self.tenant_id().as_uuid())
            .bind(row_id)
            .bind(before)
            .bind(sealed)
            .execute(self.connection())
            .await?;
        Ok(done.rows_affected() == 1)
    }
}

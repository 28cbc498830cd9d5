//! Mails of the platform itself on their way out.

use std::time::Duration;

use qudao_domain::{ContactId, MailId, TenantId};
use sqlx::{Row as _, postgres::PgRow};

use crate::{Result, Store, Tx, claim::millis, row};

/// Characters that are kept of what a mail server said.
const ERROR_MAX: usize = 500;

/// A mail to be sent.
#[derive(Debug, Clone, Copy)]
pub struct NewMail<'a> {
    /// Which.
    pub id: MailId,
    /// What it is for: `code`, `transcript` or `notice`.
    pub kind: &'a str,
    /// Whom it concerns, so that an erasure finds it.
    pub contact_id: Option<ContactId>,
    /// What it says and to whom.
    pub sealed: &'a [u8],
    /// After that it is of no use.
    pub good_for: Duration,
}

/// A mail that this node may send, until its lease ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MailClaim {
    /// Whose it is.
    pub tenant_id: TenantId,
    /// Which.
    pub id: MailId,
    /// How often it was claimed, this time included.
    pub attempts: u32,
    /// What it says and to whom.
    pub sealed: Vec<u8>,
    /// It is of no use any more.
    pub expired: bool,
}

impl Store {
    /// Mails that this node may send now, for as long as `lease`.
    ///
    /// # Errors
    /// [`StorageError`](crate::StorageError); what was claimed is ready again when the lease ends.
    pub async fn claim_mails(&self, limit: u32, lease: Duration) -> Result<Vec<MailClaim>> {
        let mut tx = self.begin_claim().await?;
        let rows = sqlx::query(
            "SELECT tenant_id, mail_id, attempts, sealed, expired FROM app.claim_mails($1, $2)",
        )
        .bind(i32::try_from(limit).unwrap_or(i32::MAX))
        .bind(millis(lease))
        .fetch_all(tx.connection())
        .await?;
        tx.commit().await?;
        let read = |row: &PgRow| {
            Ok(MailClaim {
                tenant_id: row::id(row, "tenant_id", TenantId::from_uuid)?,
                id: row::id(row, "mail_id", MailId::from_uuid)?,
                attempts: row::count(row, "attempts")?,
                sealed: row.try_get::<Option<_>, _>("sealed")?.unwrap_or_default(),
                expired: row.try_get("expired")?,
            })
        };
        rows.iter().map(read).collect()
    }

    /// Lets go of codes and mails that were over a week ago. Returns how many; more may be there.
    ///
    /// # Errors
    /// [`StorageError`](crate::StorageError).
    pub async fn forget_mails(&self, limit: u32) -> Result<u64> {
        let mut tx = self.begin_claim().await?;
        let gone: i64 = sqlx::query_scalar("SELECT app.forget_mails($1)")
            .bind(i32::try_from(limit).unwrap_or(i32::MAX))
            .fetch_one(tx.connection())
            .await?;
        tx.commit().await?;
        Ok(gone.unsigned_abs())
    }
}

impl Tx {
    /// Puts a mail on its way.
    ///
    /// # Errors
    /// [`StorageError`](crate::StorageError).
    pub async fn add_mail(&mut self, new: NewMail<'_>) -> Result<()> {
        sqlx::query(
            "INSERT INTO mails (tenant_id, mail_id, kind, contact_id, sealed, good_until) \
             VALUES ($1, $2, $3, $4, $5, now() + $6 * interval '1 millisecond')",
        )
        .bind(self.tenant_id().as_uuid())
        .bind(new.id.as_uuid())
        .bind(new.kind)
        .bind(new.contact_id.map(ContactId::as_uuid))
        .bind(new.sealed)
        .bind(millis(new.good_for))
        .execute(self.connection())
        .await?;
        Ok(())
    }

    /// The end of a claimed mail: sent, or given up for what `error` says. What it said is gone
    /// then. `false` if another node has it by now.
    ///
    /// # Errors
    /// [`StorageError`](crate::StorageError).
    pub async fn end_mail(
        &mut self,
        id: MailId,
        attempts: u32,
        error: Option<&str>,
    ) -> Result<bool> {
        let done = sqlx::query(
            "UPDATE mails SET state = CASE WHEN $4::text IS NULL THEN 'sent' ELSE 'dead' END, \
                 error = $4, sealed = NULL, ended_at = now() \
             WHERE tenant_id = $1 AND mail_id = $2 AND attempts = $3 AND state = 'waiting'",
        )
        .bind(self.tenant_id().as_uuid())
        .bind(id.as_uuid())
        .bind(i32::try_from(attempts).unwrap_or(i32::MAX))
        .bind(error.map(cut))
        .execute(self.connection())
        .await?;
        Ok(done.rows_affected() == 1)
    }

    /// Lets a claimed mail be tried again after `delay`. `false` if another node has it by now.
    ///
    /// # Errors
    /// [`StorageError`](crate::StorageError).
    pub async fn retry_mail(
        &mut self,
        id: MailId,
        attempts: u32,
        delay: Duration,
        error: &str,
    ) -> Result<bool> {
        let done = sqlx::query(
            "UPDATE mails SET ready_at = now() + $4 * interval '1 millisecond', error = $5 \
             WHERE tenant_id = $1 AND mail_id = $2 AND attempts = $3 AND state = 'waiting'",
        )
        .bind(self.tenant_id().as_uuid())
        .bind(id.as_uuid())
        .bind(i32::try_from(attempts).unwrap_or(i32::MAX))
        .bind(millis(delay))
        .bind(cut(error))
        .execute(self.connection())
        .await?;
        Ok(done.rows_affected() == 1)
    }
}

fn cut(text: &str) -> String {
    text.chars().filter(|char| *char != '\0').take(ERROR_MAX).collect()
}

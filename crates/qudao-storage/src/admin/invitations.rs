//! Invitations, by which somebody becomes a member.

use std::time::Duration;

use jiff::Timestamp;
use qudao_domain::{InvitationId, key::SecretHash};
use sqlx::{AssertSqlSafe, Row as _, postgres::PgRow};

use super::roles::MemberRole;
use crate::{Listing, Page, Result, Tx, page::id_cursor, row};

/// An invitation to be made.
#[derive(Debug, Clone)]
pub struct NewInvitation<'a> {
    /// Which.
    pub id: InvitationId,
    /// Whom.
    pub email: &'a str,
    /// What they will be.
    pub role: MemberRole,
    /// Of the link's secret.
    pub secret_hash: &'a SecretHash,
    /// Who invites, as the audit log names them.
    pub made_by: &'a str,
    /// How long the link is good.
    pub good_for: Duration,
}

/// An invitation as members see it.
#[derive(Debug, Clone)]
pub struct Invitation {
    /// Which.
    pub id: InvitationId,
    /// Whom.
    pub email: String,
    /// What they will be.
    pub role: MemberRole,
    /// Who invited.
    pub made_by: String,
    /// When.
    pub created_at: Timestamp,
    /// Until when the link is good.
    pub expires_at: Timestamp,
    /// When it was taken up.
    pub accepted_at: Option<Timestamp>,
    /// When it was taken back.
    pub revoked_at: Option<Timestamp>,
    /// To compare the link's secret with.
    pub secret_hash: SecretHash,
}

const INVITATION: &str = "invitation_id, email, role, role_id, made_by, secret_hash, \
     app.micros(created_at) AS created_at, app.micros(expires_at) AS expires_at, \
     app.micros(accepted_at) AS accepted_at, app.micros(revoked_at) AS revoked_at";

impl Tx {
    /// Makes an invitation. Open ones for the same address are taken back: only the last link works.
    ///
    /// # Errors
    /// [`crate::StorageError::MissingParent`] if the tenant has no such role.
    pub async fn create_invitation(&mut self, new: &NewInvitation<'_>) -> Result<Invitation> {
        let (role, role_id) = new.role.columns();
        sqlx::query(
            "UPDATE invitations SET revoked_at = now() \
             WHERE tenant_id = $1 AND email = $2 AND accepted_at IS NULL AND revoked_at IS NULL",
        )
        .bind(self.tenant_id().as_uuid())
        .bind(new.email)
        .execute(self.connection())
        .await?;
        let statement = format!(
            "INSERT INTO invitations (tenant_id, invitation_id, email, role, role_id, secret_hash, \
                 made_by, expires_at) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, now() + $8::bigint * interval '1 second') \
             RETURNING {INVITATION}"
        );
        let row = sqlx::query(AssertSqlSafe(statement))
            .bind(self.tenant_id().as_uuid())
            .bind(new.id.as_uuid())
            .bind(new.email)
            .bind(role)
            .bind(role_id)
            .bind(new.secret_hash.as_bytes().as_slice())
            .bind(new.made_by)
            .bind(i64::try_from(new.good_for.as_secs()).unwrap_or(i64::MAX))
            .fetch_one(self.connection())
            .await?;
        Ok(read_invitation(&row)?)
    }

    /// An invitation that can be taken up now. It stays as it is until the transaction ends.
    ///
    /// # Errors
    /// [`crate::StorageError`].
    pub async fn open_invitation(&mut self, id: InvitationId) -> Result<Option<Invitation>> {
        let statement = format!(
            "SELECT {INVITATION} FROM invitations \
             WHERE tenant_id = $1 AND invitation_id = $2 AND accepted_at IS NULL \
               AND revoked_at IS NULL AND now() < expires_at FOR UPDATE"
        );
        let row = sqlx::query(AssertSqlSafe(statement))
            .bind(self.tenant_id().as_uuid())
            .bind(id.as_uuid())
            .fetch_optional(self.connection())
            .await?;
        Ok(row.as_ref().map(read_invitation).transpose()?)
    }

    /// Marks an invitation as taken up.
    ///
    /// # Errors
    /// [`crate::StorageError`].
    pub async fn accept_invitation(&mut self, id: InvitationId) -> Result<()> {
        sqlx::query(
            "UPDATE invitations SET accepted_at = now() \
             WHERE tenant_id = $1 AND invitation_id = $2",
        )
        .bind(self.tenant_id().as_uuid())
        .bind(id.as_uuid())
        .execute(self.connection())
        .await?;
        Ok(())
    }

    /// The invitations, the newest first, past ones too.
    ///
    /// # Errors
    /// [`crate::StorageError::BadCursor`] and others.
    pub async fn list_invitations(&mut self, page: &Page) -> Result<Listing<Invitation>> {
        let statement = format!(
            "SELECT {INVITATION} FROM invitations \
             WHERE tenant_id = $1 AND ($2::uuid IS NULL OR invitation_id < $2) \
             ORDER BY invitation_id DESC LIMIT $3"
        );
        let rows = sqlx::query(AssertSqlSafe(statement))
            .bind(self.tenant_id().as_uuid())
            .bind(page.after_id()?)
            .bind(page.probe_limit())
            .fetch_all(self.connection())
            .await?;
        let items = rows.iter().map(read_invitation).collect::<Result<Vec<_>, _>>()?;
        Ok(Listing::cut(items, page, |invitation| id_cursor(invitation.id.as_uuid())))
    }

    /// Takes an invitation back. `false` if it is not this tenant's or was taken up.
    ///
    /// # Errors
    /// [`crate::StorageError`].
    pub async fn revoke_invitation(&mut self, id: InvitationId) -> Result<bool> {
        let done = sqlx::query(
            "UPDATE invitations SET revoked_at = COALESCE(revoked_at, now()) \
             WHERE tenant_id = $1 AND invitation_id = $2 AND accepted_at IS NULL",
        )
        .bind(self.tenant_id().as_uuid())
        .bind(id.as_uuid())
        .execute(self.connection())
        .await?;
        Ok(done.rows_affected() == 1)
    }
}

fn read_invitation(row: &PgRow) -> Result<Invitation, sqlx::Error> {
    Ok(Invitation {
        id: row::id(row, "invitation_id", InvitationId::from_uuid)?,
        email: row.try_get("email")?,
        role: MemberRole::read(row)?,
        made_by: row.try_get("made_by")?,
        created_at: row::time(row, "created_at")?,
        expires_at: row::time(row, "expires_at")?,
        accepted_at: row::optional_time(row, "accepted_at")?,
        revoked_at: row::optional_time(row, "revoked_at")?,
        secret_hash: row::secret_hash(row)?,
    })
}

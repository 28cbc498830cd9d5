//! Services that a tenant's members may sign in with.

use jiff::Timestamp;
use qudao_domain::{IdentityProviderId, MemberId, access::Role, text::Name};
use sqlx::{AssertSqlSafe, Row as _, postgres::PgRow};

use super::members::Member;
use crate::{Result, Tx, row};

/// A service to be kept.
#[derive(Debug, Clone)]
pub struct NewIdentityProvider<'a> {
    /// Which: its secret is encrypted for it.
    pub id: IdentityProviderId,
    /// What members see on the button.
    pub name: &'a Name,
    /// Its address, exactly as it names itself.
    pub issuer: &'a str,
    /// What it calls this platform.
    pub client_id: &'a str,
    /// Encrypted.
    pub client_secret_sealed: &'a [u8],
    /// What somebody new becomes; `None` if only members may come in.
    pub join_role: Option<Role>,
    /// The domains of the addresses of which somebody new may be.
    pub join_domains: &'a [String],
}

/// A service.
#[derive(Clone)]
pub struct IdentityProvider {
    /// Which.
    pub id: IdentityProviderId,
    /// What members see on the button.
    pub name: String,
    /// Its address.
    pub issuer: String,
    /// What it calls this platform.
    pub client_id: String,
    /// Encrypted.
    pub client_secret_sealed: Vec<u8>,
    /// What somebody new becomes.
    pub join_role: Option<Role>,
    /// The domains of the addresses of which somebody new may be.
    pub join_domains: Vec<String>,
    /// When it was made.
    pub created_at: Timestamp,
}

const COLUMNS: &str = "identity_provider_id, name, issuer, client_id, client_secret_sealed, \
     join_role, join_domains, app.micros(created_at) AS created_at";

impl Tx {
    /// Keeps a service.
    ///
    /// # Errors
    /// [`crate::StorageError`].
    pub async fn create_identity_provider(
        &mut self,
        new: &NewIdentityProvider<'_>,
    ) -> Result<IdentityProvider> {
        let statement = format!(
            "INSERT INTO identity_providers (tenant_id, identity_provider_id, name, issuer, \
                 client_id, client_secret_sealed, join_role, join_domains) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8) RETURNING {COLUMNS}"
        );
        let row = sqlx::query(AssertSqlSafe(statement))
            .bind(self.tenant_id().as_uuid())
            .bind(new.id.as_uuid())
            .bind(new.name.as_str())
            .bind(new.issuer)
            .bind(new.client_id)
            .bind(new.client_secret_sealed)
            .bind(new.join_role.map(Role::as_str))
            .bind(new.join_domains)
            .fetch_one(self.connection())
            .await?;
        Ok(read(&row)?)
    }

    /// The services, the oldest first. There are few.
    ///
    /// # Errors
    /// [`crate::StorageError`].
    pub async fn list_identity_providers(&mut self) -> Result<Vec<IdentityProvider>> {
        let statement = format!(
            "SELECT {COLUMNS} FROM identity_providers \
             WHERE tenant_id = $1 ORDER BY identity_provider_id LIMIT 100"
        );
        let rows = sqlx::query(AssertSqlSafe(statement))
            .bind(self.tenant_id().as_uuid())
            .fetch_all(self.connection())
            .await?;
        Ok(rows.iter().map(read).collect::<Result<_, _>>()?)
    }

    /// One service.
    ///
    /// # Errors
    /// [`crate::StorageError`].
    pub async fn identity_provider(
        &mut self,
        id: IdentityProviderId,
    ) -> Result<Option<IdentityProvider>> {
        let statement = format!(
            "SELECT {COLUMNS} FROM identity_providers \
             WHERE tenant_id = $1 AND identity_provider_id = $2"
        );
        let row = sqlx::query(AssertSqlSafe(statement))
            .bind(self.tenant_id().as_uuid())
            .bind(id.as_uuid())
            .fetch_optional(self.connection())
            .await?;
        Ok(row.as_ref().map(read).transpose()?)
    }

    /// Removes a service; whoever came by it comes no more. `false` if it is not this tenant's.
    ///
    /// # Errors
    /// [`crate::StorageError`].
    pub async fn delete_identity_provider(&mut self, id: IdentityProviderId) -> Result<bool> {
        let done = sqlx::query(
            "DELETE FROM identity_providers WHERE tenant_id = $1 AND identity_provider_id = $2",
        )
        .bind(self.tenant_id().as_uuid())
        .bind(id.as_uuid())
        .execute(self.connection())
        .await?;
        Ok(done.rows_affected() == 1)
    }

    /// The member whom a service knows by this subject.
    ///
    /// # Errors
    /// [`crate::StorageError`].
    pub async fn member_by_subject(
        &mut self,
        provider: IdentityProviderId,
        subject: &str,
    ) -> Result<Option<Member>> {
        let id: Option<uuid::Uuid> = sqlx::query_scalar(
            "SELECT member_id FROM member_identities \
             WHERE tenant_id = $1 AND identity_provider_id = $2 AND subject = $3",
        )
        .bind(self.tenant_id().as_uuid())
        .bind(provider.as_uuid())
        .bind(subject)
        .fetch_optional(self.connection())
        .await?;
        match id {
            Some(id) => self.member(MemberId::from_uuid(id)).await,
            None => Ok(None),
        }
    }

    /// Keeps that a service knows a member by this subject.
    ///
    /// # Errors
    /// [`crate::StorageError::Conflict`] if it knows another one by it.
    pub async fn link_identity(
        &mut self,
        provider: IdentityProviderId,
        subject: &str,
        member: MemberId,
    ) -> Result<()> {
        sqlx::query(
            "INSERT INTO member_identities (tenant_id, identity_provider_id, subject, member_id) \
             VALUES ($1, $2, $3, $4)",
        )
        .bind(self.tenant_id().as_uuid())
        .bind(provider.as_uuid())
        .bind(subject)
        .bind(member.as_uuid())
        .execute(self.connection())
        .await?;
        Ok(())
    }
}

fn read(row: &PgRow) -> Result<IdentityProvider, sqlx::Error> {
    let join_role: Option<String> = row.try_get("join_role")?;
    Ok(IdentityProvider {
        id: row::id(row, "identity_provider_id", IdentityProviderId::from_uuid)?,
        name: row.try_get("name")?,
        issuer: row.try_get("issuer")?,
        client_id: row.try_get("client_id")?,
        client_secret_sealed: row.try_get("client_secret_sealed")?,
        join_role: join_role.as_deref().and_then(Role::find),
        join_domains: row.try_get("join_domains")?,
        created_at: row::time(row, "created_at")?,
    })
}

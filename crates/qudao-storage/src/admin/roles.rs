//! Roles: those of the platform are in the code, those that a tenant made up are rows.

use jiff::Timestamp;
use qudao_domain::{
    RoleId,
    access::{Role, Scopes},
    text::Name,
};
use sqlx::{Row as _, postgres::PgRow};
use uuid::Uuid;

use crate::{Result, Tx, row};

/// What a member is: a role of the platform, or one that their tenant made up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemberRole {
    /// One that every tenant has.
    Common(Role),
    /// One of the tenant's own.
    Custom(RoleId),
}

impl MemberRole {
    pub(crate) fn columns(self) -> (Option<&'static str>, Option<Uuid>) {
        match self {
            Self::Common(role) => (Some(role.as_str()), None),
            Self::Custom(id) => (None, Some(id.as_uuid())),
        }
    }

    pub(crate) fn read(row: &PgRow) -> Result<Self, sqlx::Error> {
        match row::optional_id(row, "role_id", RoleId::from_uuid)? {
            Some(id) => Ok(Self::Custom(id)),
            None => row::state(row, "role", Role::find).map(Self::Common),
        }
    }
}

/// A role that a tenant made up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CustomRole {
    /// Which.
    pub id: RoleId,
    /// What it is called.
    pub name: String,
    /// What it may do.
    pub scopes: Scopes,
    /// When it was made.
    pub created_at: Timestamp,
}

impl Tx {
    /// Makes a role.
    ///
    /// # Errors
    /// [`crate::StorageError::Conflict`] if the name is taken.
    pub async fn create_role(&mut self, name: &Name, scopes: Scopes) -> Result<CustomRole> {
        let row = sqlx::query(
            "INSERT INTO roles (tenant_id, role_id, name, scopes) VALUES ($1, $2, $3, $4) \
             RETURNING role_id, name, scopes, app.micros(created_at) AS created_at",
        )
        .bind(self.tenant_id().as_uuid())
        .bind(RoleId::new().as_uuid())
        .bind(name.as_str())
        .bind(scopes.words())
        .fetch_one(self.connection())
        .await?;
        Ok(read_role(&row)?)
    }

    /// The tenant's own roles, the oldest first. There are few.
    ///
    /// # Errors
    /// [`crate::StorageError`].
    pub async fn list_roles(&mut self) -> Result<Vec<CustomRole>> {
        let rows = sqlx::query(
            "SELECT role_id, name, scopes, app.micros(created_at) AS created_at FROM roles \
             WHERE tenant_id = $1 ORDER BY role_id LIMIT 1000",
        )
        .bind(self.tenant_id().as_uuid())
        .fetch_all(self.connection())
        .await?;
        Ok(rows.iter().map(read_role).collect::<Result<_, _>>()?)
    }

    /// One of the tenant's own roles. It stays as it is until the transaction ends.
    ///
    /// # Errors
    /// [`crate::StorageError`].
    pub async fn role(&mut self, id: RoleId) -> Result<Option<CustomRole>> {
        let row = sqlx::query(
            "SELECT role_id, name, scopes, app.micros(created_at) AS created_at FROM roles \
             WHERE tenant_id = $1 AND role_id = $2 FOR UPDATE",
        )
        .bind(self.tenant_id().as_uuid())
        .bind(id.as_uuid())
        .fetch_optional(self.connection())
        .await?;
        Ok(row.as_ref().map(read_role).transpose()?)
    }

    /// Changes what a role may do, for all who have it.
    ///
    /// # Errors
    /// [`crate::StorageError::Conflict`] if the name is taken.
    pub async fn update_role(&mut self, id: RoleId, name: &str, scopes: Scopes) -> Result<()> {
        sqlx::query(
            "UPDATE roles SET name = $3, scopes = $4 WHERE tenant_id = $1 AND role_id = $2",
        )
        .bind(self.tenant_id().as_uuid())
        .bind(id.as_uuid())
        .bind(name)
        .bind(scopes.words())
        .execute(self.connection())
        .await?;
        Ok(())
    }

    /// Removes a role. `false` if it is not this tenant's.
    ///
    /// # Errors
    /// [`crate::StorageError::MissingParent`] while members or invitations have it.
    pub async fn delete_role(&mut self, id: RoleId) -> Result<bool> {
        let done = sqlx::query("DELETE FROM roles WHERE tenant_id = $1 AND role_id = $2")
            .bind(self.tenant_id().as_uuid())
            .bind(id.as_uuid())
            .execute(self.connection())
            .await?;
        Ok(done.rows_affected() == 1)
    }
}

fn read_role(row: &PgRow) -> Result<CustomRole, sqlx::Error> {
    Ok(CustomRole {
        id: row::id(row, "role_id", RoleId::from_uuid)?,
        name: row.try_get("name")?,
        scopes: row::scopes(row)?,
        created_at: row::time(row, "created_at")?,
    })
}

//! Members of a tenant.

use jiff::Timestamp;
use qudao_domain::{MemberId, access::Role, key::SecretHash, text::Name};
use sqlx::{AssertSqlSafe, Row as _, postgres::PgRow};

use super::roles::MemberRole;
use crate::{Listing, Page, Result, Tx, page::id_cursor, row};

/// A member to be made.
#[derive(Debug, Clone)]
pub struct NewMember<'a> {
    /// Lower case; unique in the tenant.
    pub email: &'a str,
    /// What they are called.
    pub name: &'a Name,
    /// What they are.
    pub role: MemberRole,
    /// argon2id in its own text form; `None` for who signs in elsewhere.
    pub password_hash: Option<&'a str>,
}

/// A member as others see them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Which.
    pub id: MemberId,
    /// What they sign in with.
    pub email: String,
    /// What they are called.
    pub name: String,
    /// What they are.
    pub role: MemberRole,
    /// Whether they have a password here.
    pub has_password: bool,
    /// Whether they need a second factor.
    pub has_totp: bool,
    /// When they came.
    pub created_at: Timestamp,
    /// Since when they may not come in.
    pub suspended_at: Option<Timestamp>,
}

/// What is kept of a member's ways in.
#[derive(Clone)]
pub struct Lock {
    /// argon2id in its own text form.
    pub password_hash: Option<String>,
    /// The shared secret of the second factor, encrypted.
    pub totp_sealed: Option<Vec<u8>>,
    /// Whether the second factor is in force.
    pub totp_confirmed: bool,
}

const MEMBER: &str = "member_id, email, name, role, role_id, \
     password_hash IS NOT NULL AS has_password, totp_confirmed_at IS NOT NULL AS has_totp, \
     app.micros(created_at) AS created_at, app.micros(suspended_at) AS suspended_at";
impl Tx {
    /// Makes a member.
    ///
    /// # Errors
    /// [`crate::StorageError::Conflict`] if the tenant has one with this address,
    /// [`crate::StorageError::MissingParent`] if it has no such role.
    pub async fn create_member(&mut self, new: &NewMember<'_>) -> Result<Member> {
        let (role, role_id) = new.role.columns();
        let statement = format!(
            "INSERT INTO members (tenant_id, member_id, email, name, role, role_id, password_hash) \
             VALUES ($1, $2, $3, $4, $5, $6, $7) RETURNING {MEMBER}"
        );
        let row = sqlx::query(AssertSqlSafe(statement))
            .bind(self.tenant_id().as_uuid())
            .bind(MemberId::new().as_uuid())
            .bind(new.email)
            .bind(new.name.as_str())
            .bind(role)
            .bind(role_id)
            .bind(new.password_hash)
            .fetch_one(self.connection())
            .await?;
        Ok(read_member(&row)?)
    }

    /// A member. They stay as they are until the transaction ends.
    ///
    /// # Errors
    /// [`crate::StorageError`].
    pub async fn member(&mut self, id: MemberId) -> Result<Option<Member>> {
        let statement = format!(
            "SELECT {MEMBER} FROM members WHERE tenant_id = $1 AND member_id = $2 FOR UPDATE"
        );
        let row = sqlx::query(AssertSqlSafe(statement))
            .bind(self.tenant_id().as_uuid())
            .bind(id.as_uuid())
            .fetch_optional(self.connection())
            .await?;
        Ok(row.as_ref().map(read_member).transpose()?)
    }

    /// A member as they are at this moment.
    ///
    /// # Errors
    /// [`crate::StorageError`].
    pub async fn find_member(&mut self, id: MemberId) -> Result<Option<Member>> {
        let statement =
            format!("SELECT {MEMBER} FROM members WHERE tenant_id = $1 AND member_id = $2");
        let row = sqlx::query(AssertSqlSafe(statement))
            .bind(self.tenant_id().as_uuid())
            .bind(id.as_uuid())
            .fetch_optional(self.connection())
            .await?;
        Ok(row.as_ref().map(read_member).transpose()?)
    }

    /// The member who signs in with this address, and what their door is locked with.
    ///
    /// # Errors
    /// [`crate::StorageError`].
    pub async fn member_by_email(&mut self, email: &str) -> Result<Option<(Member, Lock)>> {
        let statement = format!(
            "SELECT {MEMBER}, password_hash, totp_sealed FROM members \
             WHERE tenant_id = $1 AND email = $2"
        );
        let row = sqlx::query(AssertSqlSafe(statement))
            .bind(self.tenant_id().as_uuid())
            .bind(email)
            .fetch_optional(self.connection())
            .await?;
        let Some(row) = row else { return Ok(None) };
        Ok(Some((read_member(&row)?, read_lock(&row)?)))
    }

    /// What a member's door is locked with.
    ///
    /// # Errors
    /// [`crate::StorageError`].
    pub async fn member_lock(&mut self, id: MemberId) -> Result<Option<Lock>> {
        let row = sqlx::query(
            "SELECT password_hash, totp_sealed, totp_confirmed_at IS NOT NULL AS has_totp \
             FROM members WHERE tenant_id = $1 AND member_id = $2 FOR UPDATE",
        )
        .bind(self.tenant_id().as_uuid())
        .bind(id.as_uuid())
        .fetch_optional(self.connection())
        .await?;
        Ok(row.as_ref().map(read_lock).transpose()?)
    }

    /// The members, the newest first.
    ///
    /// # Errors
    /// [`crate::StorageError::BadCursor`] and others.
    pub async fn list_members(&mut self, page: &Page) -> Result<Listing<Member>> {
        let statement = format!(
            "SELECT {MEMBER} FROM members \
             WHERE tenant_id = $1 AND ($2::uuid IS NULL OR member_id < $2) \
             ORDER BY member_id DESC LIMIT $3"
        );
        let rows = sqlx::query(AssertSqlSafe(statement))
            .bind(self.tenant_id().as_uuid())
            .bind(page.after_id()?)
            .bind(page.probe_limit())
            .fetch_all(self.connection())
            .await?;
        let items = rows.iter().map(read_member).collect::<Result<Vec<_>, _>>()?;
        Ok(Listing::cut(items, page, |member| id_cursor(member.id.as_uuid())))
    }

    /// Changes what a member is and whether they may come in. Whoever may not is signed out.
    ///
    /// # Errors
    /// [`crate::StorageError::MissingParent`] if the tenant has no such role.
    pub async fn update_member(
        &mut self,
        id: MemberId,
        name: &str,
        role: MemberRole,
        suspended: bool,
    ) -> Result<()> {
        let (role, role_id) = role.columns();
        sqlx::query(
            "UPDATE members SET name = $3, role = $4, role_id = $5, \
                 suspended_at = CASE WHEN $6 THEN COALESCE(suspended_at, now()) END \
             WHERE tenant_id = $1 AND member_id = $2",
        )
        .bind(self.tenant_id().as_uuid())
        .bind(id.as_uuid())
        .bind(name)
        .bind(role)
        .bind(role_id)
        .bind(suspended)
        .execute(self.connection())
        .await?;
        if suspended {
            self.end_sessions_of(id, None).await?;
        }
        Ok(())
    }

    /// Removes a member with all that lets them in.
    ///
    /// # Errors
    /// [`crate::StorageError`].
    pub async fn delete_member(&mut self, id: MemberId) -> Result<()> {
        sqlx::query("DELETE FROM members WHERE tenant_id = $1 AND member_id = $2")
            .bind(self.tenant_id().as_uuid())
            .bind(id.as_uuid())
            .execute(self.connection())
            .await?;
        Ok(())
    }

    /// How many owners could come in if this member were none. No owner changes until the
    /// transaction ends.
    ///
    /// # Errors
    /// [`crate::StorageError`].
    pub async fn owners_besides(&mut self, id: MemberId) -> Result<usize> {
        let rows = sqlx::query(
            "SELECT member_id FROM members \
             WHERE tenant_id = $1 AND role = $2 AND suspended_at IS NULL \
             ORDER BY member_id FOR UPDATE",
        )
        .bind(self.tenant_id().as_uuid())
        .bind(Role::Owner.as_str())
        .fetch_all(self.connection())
        .await?;
        let others = rows.iter().filter(|row| {
            row::id(row, "member_id", MemberId::from_uuid).is_ok_and(|owner| owner != id)
        });
        Ok(others.count())
    }

    /// Sets a member's password.
    ///
    /// # Errors
    /// [`crate::StorageError`].
    pub async fn set_password(&mut self, id: MemberId, hash: &str) -> Result<()> {
        sqlx::query(
            "UPDATE members SET password_hash = $3 WHERE tenant_id = $1 AND member_id = $2",
        )
        .bind(self.tenant_id().as_uuid())
        .bind(id.as_uuid())
        .bind(hash)
        .execute(self.connection())
        .await?;
        Ok(())
    }

    /// Keeps the secret of a second factor that is not in force yet.
    ///
    /// # Errors
    /// [`crate::StorageError`].
    pub async fn offer_totp(&mut self, id: MemberId, sealed: &[u8]) -> Result<()> {
        sqlx::query(
            "UPDATE members SET totp_sealed = $3, totp_confirmed_at = NULL, totp_last_step = 0 \
             WHERE tenant_id = $1 AND member_id = $2",
        )
        .bind(self.tenant_id().as_uuid())
        .bind(id.as_uuid())
        .bind(sealed)
        .execute(self.connection())
        .await?;
        Ok(())
    }

    /// Puts the second factor in force, with codes for the day when the device is lost. Those from
    /// before are void.
    ///
    /// # Errors
    /// [`crate::StorageError`].
    pub async fn confirm_totp(&mut self, id: MemberId, recovery: &[SecretHash]) -> Result<()> {
        let hashes: Vec<_> = recovery.iter().map(|hash| hash.as_bytes().to_vec()).collect();
        self.drop_recovery_codes(id).await?;
        sqlx::query(
            "UPDATE members SET totp_confirmed_at = now() WHERE tenant_id = $1 AND member_id = $2",
        )
        .bind(self.tenant_id().as_uuid())
        .bind(id.as_uuid())
        .execute(self.connection())
        .await?;
        sqlx::query(
            "INSERT INTO recovery_codes (tenant_id, member_id, code_hash) \
             SELECT $1, $2, unnest($3::bytea[])",
        )
        .bind(self.tenant_id().as_uuid())
        .bind(id.as_uuid())
        .bind(hashes)
        .execute(self.connection())
        .await?;
        Ok(())
    }

    /// Takes the second factor away.
    ///
    /// # Errors
    /// [`crate::StorageError`].
    pub async fn drop_totp(&mut self, id: MemberId) -> Result<()> {
        self.drop_recovery_codes(id).await?;
        sqlx::query(
            "UPDATE members SET totp_sealed = NULL, totp_confirmed_at = NULL, totp_last_step = 0 \
             WHERE tenant_id = $1 AND member_id = $2",
        )
        .bind(self.tenant_id().as_uuid())
        .bind(id.as_uuid())
        .execute(self.connection())
        .await?;
        Ok(())
    }

    async fn drop_recovery_codes(&mut self, id: MemberId) -> Result<()> {
        sqlx::query("DELETE FROM recovery_codes WHERE tenant_id = $1 AND member_id = $2")
            .bind(self.tenant_id().as_uuid())
            .bind(id.as_uuid())
            .execute(self.connection())
            .await?;
        Ok(())
    }

    /// Takes a code's step, once: `false` if it or a later one was taken before.
    ///
    /// # Errors
    /// [`crate::StorageError`].
    pub async fn take_totp_step(&mut self, id: MemberId, step: i64) -> Result<bool> {
        let done = sqlx::query(
            "UPDATE members SET totp_last_step = $3 \
             WHERE tenant_id = $1 AND member_id = $2 AND totp_last_step < $3",
        )
        .bind(self.tenant_id().as_uuid())
        .bind(id.as_uuid())
        .bind(step)
        .execute(self.connection())
        .await?;
        Ok(done.rows_affected() == 1)
    }

    /// Takes a recovery code, once.
    ///
    /// # Errors
    /// [`crate::StorageError`].
    pub async fn take_recovery_code(&mut self, id: MemberId, code: &SecretHash) -> Result<bool> {
        let done = sqlx::query(
            "UPDATE recovery_codes SET used_at = now() \
             WHERE tenant_id = $1 AND member_id = $2 AND code_hash = $3 AND used_at IS NULL",
        )
        .bind(self.tenant_id().as_uuid())
        .bind(id.as_uuid())
        .bind(code.as_bytes().as_slice())
        .execute(self.connection())
        .await?;
        Ok(done.rows_affected() == 1)
    }
}

fn read_member(row: &PgRow) -> Result<Member, sqlx::Error> {
    Ok(Member {
        id: row::id(row, "member_id", MemberId::from_uuid)?,
        email: row.try_get("email")?,
        name: row.try_get("name")?,
        role: MemberRole::read(row)?,
        has_password: row.try_get("has_password")?,
        has_totp: row.try_get("has_totp")?,
        created_at: row::time(row, "created_at")?,
        suspended_at: row::optional_time(row, "suspended_at")?,
    })
}

fn read_lock(row: &PgRow) -> Result<Lock, sqlx::Error> {
    Ok(Lock {
        password_hash: row.try_get("password_hash")?,
        totp_sealed: row.try_get("totp_sealed")?,
        totp_confirmed: row.try_get("has_totp")?,
    })
}

//! Members who are signed in.

use std::time::Duration;

use jiff::Timestamp;
use qudao_domain::{
    MemberId, SessionId,
    access::{Role, Scopes},
    key::SecretHash,
};
use sqlx::{Row as _, postgres::PgRow};

use super::roles::MemberRole;
use crate::{Listing, Page, Result, Tx, page::id_cursor, row};

/// How a member came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignIn {
    /// With a password, and the second factor if they have one.
    Password,
    /// With the link of an invitation.
    Invitation,
    /// By an identity provider.
    Oidc,
}

impl SignIn {
    /// As it stands in JSON and in the database.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Password => "password",
            Self::Invitation => "invitation",
            Self::Oidc => "oidc",
        }
    }
}

/// A session to be made.
#[derive(Debug, Clone)]
pub struct NewSession<'a> {
    /// Which.
    pub id: SessionId,
    /// Whose.
    pub member_id: MemberId,
    /// Of the cookie's secret.
    pub secret_hash: &'a SecretHash,
    /// How they came in.
    pub method: SignIn,
    /// Where from.
    pub address: &'a str,
    /// What their browser calls itself, cut to 300 characters.
    pub user_agent: &'a str,
    /// How long it is good for at most.
    pub good_for: Duration,
}

/// A session as the door sees it.
#[derive(Debug, Clone)]
pub struct SessionHolder {
    /// To compare the cookie's secret with.
    pub secret_hash: SecretHash,
    /// Whose.
    pub member_id: MemberId,
    /// What they are called.
    pub name: String,
    /// What they sign in with.
    pub email: String,
    /// What they are.
    pub role: MemberRole,
    /// What they may do at this moment.
    pub scopes: Scopes,
    /// Whether they have a password here.
    pub has_password: bool,
    /// Whether a second factor is in force.
    pub has_totp: bool,
    /// Until when it is good.
    pub expires_at: Timestamp,
}

/// A session as members see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionRecord {
    /// Which.
    pub id: SessionId,
    /// Whose.
    pub member_id: MemberId,
    /// How they came in.
    pub method: String,
    /// Where from.
    pub address: String,
    /// What their browser calls itself.
    pub user_agent: String,
    /// When it began.
    pub created_at: Timestamp,
    /// When it was last used, up to a minute late.
    pub seen_at: Timestamp,
    /// Until when it is good.
    pub expires_at: Timestamp,
    /// When it was ended before that.
    pub ended_at: Option<Timestamp>,
}

impl Tx {
    /// Makes a session.
    ///
    /// # Errors
    /// [`crate::StorageError::MissingParent`] if there is no such member.
    pub async fn create_session(&mut self, new: &NewSession<'_>) -> Result<Timestamp> {
        let row = sqlx::query(
            "INSERT INTO sessions (tenant_id, session_id, member_id, secret_hash, method, address, \
                 user_agent, expires_at) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, now() + $8::bigint * interval '1 second') \
             RETURNING app.micros(expires_at) AS expires_at",
        )
        .bind(self.tenant_id().as_uuid())
        .bind(new.id.as_uuid())
        .bind(new.member_id.as_uuid())
        .bind(new.secret_hash.as_bytes().as_slice())
        .bind(new.method.as_str())
        .bind(new.address)
        .bind(new.user_agent)
        .bind(i64::try_from(new.good_for.as_secs()).unwrap_or(i64::MAX))
        .fetch_one(self.connection())
        .await?;
        Ok(row::time(&row, "expires_at")?)
    }

    /// The session with this id if it is good now and its member may come in. A session that was
    /// not used for `idle` is good no more.
    ///
    /// # Errors
    /// [`crate::StorageError`].
    pub async fn find_session(
        &mut self,
        id: SessionId,
        idle: Duration,
    ) -> Result<Option<SessionHolder>> {
        let row = sqlx::query(
            "SELECT s.secret_hash, s.member_id, m.name, m.email, m.role, m.role_id, \
                    COALESCE(r.scopes, '{}') AS scopes, app.micros(s.expires_at) AS expires_at, \
                    m.password_hash IS NOT NULL AS has_password, \
                    m.totp_confirmed_at IS NOT NULL AS has_totp, \
                    s.seen_at < now() - interval '1 minute' AS stale \
             FROM sessions s \
             JOIN members m ON m.tenant_id = s.tenant_id AND m.member_id = s.member_id \
             LEFT JOIN roles r ON r.tenant_id = m.tenant_id AND r.role_id = m.role_id \
             WHERE s.tenant_id = $1 AND s.session_id = $2 AND s.ended_at IS NULL \
               AND now() < s.expires_at AND m.suspended_at IS NULL \
               AND now() - s.seen_at < $3::bigint * interval '1 second'",
        )
        .bind(self.tenant_id().as_uuid())
        .bind(id.as_uuid())
        .bind(i64::try_from(idle.as_secs()).unwrap_or(i64::MAX))
        .fetch_optional(self.connection())
        .await?;
        let Some(row) = row else { return Ok(None) };
        if row.try_get("stale")? {
            self.touch_session(id).await?;
        }
        Ok(Some(read_holder(&row)?))
    }

    async fn touch_session(&mut self, id: SessionId) -> Result<()> {
        sqlx::query("UPDATE sessions SET seen_at = now() WHERE tenant_id = $1 AND session_id = $2")
            .bind(self.tenant_id().as_uuid())
            .bind(id.as_uuid())
            .execute(self.connection())
            .await?;
        Ok(())
    }

    /// Ends a session. `false` if it is not this tenant's. Ending it twice keeps the first time.
    ///
    /// # Errors
    /// [`crate::StorageError`].
    pub async fn end_session(&mut self, id: SessionId) -> Result<bool> {
        let done = sqlx::query(
            "UPDATE sessions SET ended_at = COALESCE(ended_at, now()) \
             WHERE tenant_id = $1 AND session_id = $2",
        )
        .bind(self.tenant_id().as_uuid())
        .bind(id.as_uuid())
        .execute(self.connection())
        .await?;
        Ok(done.rows_affected() == 1)
    }

    /// Ends all sessions of a member, or all but one.
    ///
    /// # Errors
    /// [`crate::StorageError`].
    pub async fn end_sessions_of(
        &mut self,
        member: MemberId,
        but: Option<SessionId>,
    ) -> Result<u64> {
        let done = sqlx::query(
            "UPDATE sessions SET ended_at = now() \
             WHERE tenant_id = $1 AND member_id = $2 AND ended_at IS NULL \
               AND session_id IS DISTINCT FROM $3",
        )
        .bind(self.tenant_id().as_uuid())
        .bind(member.as_uuid())
        .bind(but.map(SessionId::as_uuid))
        .execute(self.connection())
        .await?;
        Ok(done.rows_affected())
    }

    /// The sessions, the newest first, past ones too; of one member if one is named.
    ///
    /// # Errors
    /// [`crate::StorageError::BadCursor`] and others.
    pub async fn list_sessions(
        &mut self,
        member: Option<MemberId>,
        page: &Page,
    ) -> Result<Listing<SessionRecord>> {
        let rows = sqlx::query(
            "SELECT session_id, member_id, method, address, user_agent, \
                    app.micros(created_at) AS created_at, app.micros(seen_at) AS seen_at, \
                    app.micros(expires_at) AS expires_at, app.micros(ended_at) AS ended_at \
             FROM sessions \
             WHERE tenant_id = $1 AND ($2::uuid IS NULL OR session_id < $2) \
               AND ($4::uuid IS NULL OR member_id = $4) \
             ORDER BY session_id DESC LIMIT $3",
        )
        .bind(self.tenant_id().as_uuid())
        .bind(page.after_id()?)
        .bind(page.probe_limit())
        .bind(member.map(MemberId::as_uuid))
        .fetch_all(self.connection())
        .await?;
        let items = rows.iter().map(read_session).collect::<Result<Vec<_>, _>>()?;
        Ok(Listing::cut(items, page, |session| id_cursor(session.id.as_uuid())))
    }
}

fn read_holder(row: &PgRow) -> Result<SessionHolder, sqlx::Error> {
    let role = MemberRole::read(row)?;
    let scopes = match role {
        MemberRole::Common(role) => Role::scopes(role),
        MemberRole::Custom(_) => row::scopes(row)?,
    };
    Ok(SessionHolder {
        secret_hash: row::secret_hash(row)?,
        member_id: row::id(row, "member_id", MemberId::from_uuid)?,
        name: row.try_get("name")?,
        email: row.try_get("email")?,
        role,
        scopes,
        has_password: row.try_get("has_password")?,
        has_totp: row.try_get("has_totp")?,
        expires_at: row::time(row, "expires_at")?,
    })
}

fn read_session(row: &PgRow) -> Result<SessionRecord, sqlx::Error> {
    Ok(SessionRecord {
        id: row::id(row, "session_id", SessionId::from_uuid)?,
        member_id: row::id(row, "member_id", MemberId::from_uuid)?,
        method: row.try_get("method")?,
        address: row.try_get("address")?,
        user_agent: row.try_get("user_agent")?,
        created_at: row::time(row, "created_at")?,
        seen_at: row::time(row, "seen_at")?,
        expires_at: row::time(row, "expires_at")?,
        ended_at: row::optional_time(row, "ended_at")?,
    })
}

//! Channels of partners: keys, state of the endpoint, and the log of events, which is the queue of
//! deliveries and the cursor of readers at once.

use std::time::Duration;

use qudao_domain::{ChannelId, TenantId, key::SecretHash};
use serde_json::Value;
use sqlx::{Row as _, postgres::PgRow, types::Json};

use crate::{Result, Store, Tx, claim::millis, row};

mod events;
mod inbound;

pub use events::{NewPartnerEvent, PartnerEnd, PartnerEvent, PartnerState};
pub use inbound::{KnownInbound, PartnerThread};

/// A partner's channel beside its settings.
#[derive(Debug, Clone, PartialEq)]
pub struct PartnerChannel {
    /// Answers are made up and nothing is charged.
    pub sandbox: bool,
    /// What the partner can show, as it declared it.
    pub capabilities: Value,
    /// The address that has shown that it is the partner's.
    pub verified_url: Option<String>,
    /// The endpoint said that it is gone.
    pub disabled: bool,
    /// The last cursor that was given out.
    pub last_cursor: i64,
    /// The last cursor that a reader acknowledged.
    pub acked_cursor: i64,
    /// Failures in a row.
    pub failures: u32,
    /// Nothing is sent: the breaker is open.
    pub paused: bool,
}

/// What a node may do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PartnerClaim {
    /// Send this event.
    Event {
        /// Whose.
        tenant_id: TenantId,
        /// On which channel.
        channel_id: ChannelId,
        /// Which.
        cursor: i64,
    },
    /// Try whether a paused endpoint answers.
    Probe {
        /// Whose.
        tenant_id: TenantId,
        /// Of which channel.
        channel_id: ChannelId,
    },
}

impl Store {
    /// Claims events that may be sent. A claim comes free after `lease`; a paused endpoint is
    /// probed once per `pause`.
    ///
    /// # Errors
    /// [`StorageError`](crate::StorageError); what was claimed comes free when the lease ends.
    pub async fn claim_partner_events(
        &self,
        limit: u32,
        lease: Duration,
        pause: Duration,
    ) -> Result<Vec<PartnerClaim>> {
        let mut tx = self.begin_claim().await?;
        let rows = sqlx::query(
            "SELECT tenant_id, channel_id, event_cursor, probe \
             FROM app.claim_partner_events($1, $2, $3)",
        )
        .bind(i32::try_from(limit).unwrap_or(i32::MAX))
        .bind(millis(lease))
        .bind(millis(pause))
        .fetch_all(tx.connection())
        .await?;
        tx.commit().await?;
        rows.iter().map(|row| Ok(read_claim(row)?)).collect()
    }

    /// Forgets events that ended before this age, so many at most. How many.
    ///
    /// # Errors
    /// [`StorageError`](crate::StorageError).
    pub async fn forget_partner_events(&self, age: Duration, limit: u32) -> Result<i64> {
        let mut tx = self.begin_claim().await?;
        let gone = sqlx::query_scalar("SELECT app.forget_partner_events($1, $2)")
            .bind(millis(age))
            .bind(i32::try_from(limit).unwrap_or(i32::MAX))
            .fetch_one(tx.connection())
            .await?;
        tx.commit().await?;
        Ok(gone)
    }
}

impl Tx {
    /// Lets a partner in by a key, and makes the channel a partner's if it was none.
    ///
    /// # Errors
    /// [`StorageError::MissingParent`](crate::StorageError) if the channel is not this tenant's.
    pub async fn add_partner_key(&mut self, id: ChannelId, hash: &SecretHash) -> Result<()> {
        self.ensure_partner_channel(id).await?;
        sqlx::query(
            "INSERT INTO partner_keys (tenant_id, channel_id, secret_hash) VALUES ($1, $2, $3)",
        )
        .bind(self.tenant_id().as_uuid())
        .bind(id.as_uuid())
        .bind(&hash.as_bytes()[..])
        .execute(self.connection())
        .await?;
        Ok(())
    }

    /// Ends the keys that were there before, after `overlap`.
    ///
    /// # Errors
    /// [`StorageError`](crate::StorageError).
    pub async fn retire_partner_keys(&mut self, id: ChannelId, overlap: Duration) -> Result<()> {
        sqlx::query(
            "UPDATE partner_keys SET expires_at = \
                 least(expires_at, now() + $3 * interval '1 millisecond') \
             WHERE tenant_id = $1 AND channel_id = $2",
        )
        .bind(self.tenant_id().as_uuid())
        .bind(id.as_uuid())
        .bind(millis(overlap))
        .execute(self.connection())
        .await?;
        Ok(())
    }

    /// Whether this key opens the channel.
    ///
    /// # Errors
    /// [`StorageError`](crate::StorageError).
    pub async fn has_partner_key(&mut self, id: ChannelId, hash: &SecretHash) -> Result<bool> {
        let found = sqlx::query(
            "SELECT secret_hash FROM partner_keys \
             WHERE tenant_id = $1 AND channel_id = $2 AND (expires_at IS NULL OR now() < expires_at)",
        )
        .bind(self.tenant_id().as_uuid())
        .bind(id.as_uuid())
        .fetch_all(self.connection())
        .await?;
        // Compared here and in constant time, not by an index.
        found.iter().try_fold(false, |known, row| Ok(known | row::secret_hash(row)?.matches(hash)))
    }

    /// Makes the channel a partner's if it was none.
    ///
    /// # Errors
    /// [`StorageError`](crate::StorageError).
    pub async fn ensure_partner_channel(&mut self, id: ChannelId) -> Result<()> {
        sqlx::query(
            "INSERT INTO partner_channels (tenant_id, channel_id) VALUES ($1, $2) \
             ON CONFLICT DO NOTHING",
        )
        .bind(self.tenant_id().as_uuid())
        .bind(id.as_uuid())
        .execute(self.connection())
        .await?;
        Ok(())
    }

    /// The channel, if it is a partner's.
    ///
    /// # Errors
    /// [`StorageError`](crate::StorageError).
    pub async fn partner_channel(&mut self, id: ChannelId) -> Result<Option<PartnerChannel>> {
        let row = sqlx::query(
            "SELECT sandbox, capabilities, verified_url, disabled_at IS NOT NULL AS disabled, \
                    last_cursor, acked_cursor, failures, paused_until IS NOT NULL AS paused \
             FROM partner_channels WHERE tenant_id = $1 AND channel_id = $2",
        )
        .bind(self.tenant_id().as_uuid())
        .bind(id.as_uuid())
        .fetch_optional(self.connection())
        .await?;
        Ok(row.as_ref().map(read_channel).transpose()?)
    }

    /// Keeps what a partner can show.
    ///
    /// # Errors
    /// [`StorageError`](crate::StorageError).
    pub async fn set_partner_capabilities(&mut self, id: ChannelId, to: &Value) -> Result<()> {
        sqlx::query(
            "UPDATE partner_channels SET capabilities = $3 \
             WHERE tenant_id = $1 AND channel_id = $2",
        )
        .bind(self.tenant_id().as_uuid())
        .bind(id.as_uuid())
        .bind(Json(to))
        .execute(self.connection())
        .await?;
        Ok(())
    }

    /// The endpoint has shown that it is the partner's: what is ready may go there.
    ///
    /// # Errors
    /// [`StorageError`](crate::StorageError).
    pub async fn verify_partner_endpoint(&mut self, id: ChannelId, url: &str) -> Result<()> {
        sqlx::query(
            "UPDATE partner_channels SET verified_url = $3, disabled_at = NULL, failures = 0, \
                 failing_since = NULL, paused_until = NULL \
             WHERE tenant_id = $1 AND channel_id = $2",
        )
        .bind(self.tenant_id().as_uuid())
        .bind(id.as_uuid())
        .bind(url)
        .execute(self.connection())
        .await?;
        Ok(())
    }

    /// The endpoint is gone: nothing is sent until it is verified again.
    ///
    /// # Errors
    /// [`StorageError`](crate::StorageError).
    pub async fn disable_partner_endpoint(&mut self, id: ChannelId) -> Result<()> {
        sqlx::query(
            "UPDATE partner_channels SET disabled_at = now() \
             WHERE tenant_id = $1 AND channel_id = $2",
        )
        .bind(self.tenant_id().as_uuid())
        .bind(id.as_uuid())
        .execute(self.connection())
        .await?;
        Ok(())
    }

    /// The breaker: an attempt went well, or not. It opens after `most` failures in a row, or when
    /// they last longer than `longest`. Whether it opened now.
    ///
    /// # Errors
    /// [`StorageError`](crate::StorageError).
    pub async fn count_partner_attempt(
        &mut self,
        id: ChannelId,
        went_well: bool,
        (most, longest, pause): (u32, Duration, Duration),
    ) -> Result<bool> {
        let query = if went_well {
            sqlx::query(
                "UPDATE partner_channels SET failures = 0, failing_since = NULL, \
                     paused_until = NULL \
                 WHERE tenant_id = $1 AND channel_id = $2 AND failures > 0 \
                 RETURNING false AS opened",
            )
            .bind(self.tenant_id().as_uuid())
            .bind(id.as_uuid())
        } else {
            sqlx::query(
                "UPDATE partner_channels h SET failures = h.failures + 1, \
                     failing_since = COALESCE(h.failing_since, now()), \
                     paused_until = CASE \
                         WHEN h.failures + 1 >= $3 \
                              OR h.failing_since < now() - $4 * interval '1 millisecond' \
                         THEN now() + $5 * interval '1 millisecond' ELSE h.paused_until END \
                 FROM partner_channels b \
                 WHERE h.tenant_id = $1 AND h.channel_id = $2 \
                   AND b.tenant_id = h.tenant_id AND b.channel_id = h.channel_id \
                 RETURNING b.paused_until IS NULL AND h.paused_until IS NOT NULL AS opened",
            )
            .bind(self.tenant_id().as_uuid())
            .bind(id.as_uuid())
            .bind(i32::try_from(most).unwrap_or(i32::MAX))
            .bind(millis(longest))
            .bind(millis(pause))
        };
        let row = query.fetch_optional(self.connection()).await?;
        Ok(row.map(|row| row.try_get("opened")).transpose()?.unwrap_or(false))
    }

    /// Lifts a channel out of the sandbox. `false` if it was out already.
    ///
    /// # Errors
    /// [`StorageError`](crate::StorageError).
    pub async fn lift_partner_sandbox(&mut self, id: ChannelId) -> Result<bool> {
        let done = sqlx::query(
            "UPDATE partner_channels SET sandbox = false, live_at = now() \
             WHERE tenant_id = $1 AND channel_id = $2 AND sandbox",
        )
        .bind(self.tenant_id().as_uuid())
        .bind(id.as_uuid())
        .execute(self.connection())
        .await?;
        Ok(done.rows_affected() == 1)
    }
}

pub(crate) fn read_channel(row: &PgRow) -> Result<PartnerChannel, sqlx::Error> {
    let Json(capabilities) = row.try_get("capabilities")?;
    Ok(PartnerChannel {
        sandbox: row.try_get("sandbox")?,
        capabilities,
        verified_url: row.try_get("verified_url")?,
        disabled: row.try_get("disabled")?,
        last_cursor: row.try_get("last_cursor")?,
        acked_cursor: row.try_get("acked_cursor")?,
        failures: row::count(row, "failures")?,
        paused: row.try_get("paused")?,
    })
}

fn read_claim(row: &PgRow) -> Result<PartnerClaim, sqlx::Error> {
    let tenant_id = row::id(row, "tenant_id", TenantId::from_uuid)?;
    let channel_id = row::id(row, "channel_id", ChannelId::from_uuid)?;
    if row.try_get("probe")? {
        return Ok(PartnerClaim::Probe { tenant_id, channel_id });
    }
    Ok(PartnerClaim::Event { tenant_id, channel_id, cursor: row.try_get("event_cursor")? })
}

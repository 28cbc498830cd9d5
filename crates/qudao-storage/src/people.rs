//! People's data: exported, erased, and not kept for longer than a tenant wants.
//!
//! Which table holds what of whom is declared in one place, [`TABLES`]; a test compares it with the
//! catalogue, so that a table which is not declared does not get in.

use jiff::Timestamp;
use qudao_domain::{ChannelId, ContactId, ConversationId, TenantId};
use sqlx::{AssertSqlSafe, Row as _, postgres::PgRow};

use crate::{Listing, Page, Result, StorageError, Store, Tx, claim::millis, page::id_cursor, row};

mod claims;
mod export;
mod map;
mod merges;

pub use claims::{ClaimKind, ContactClaim, NewClaimCode, Proof, Proven, TriedCode};
pub use export::{Export, ExportOf, ExportedRows};
pub use map::{Erase, Link, TABLES, TableRule};
pub use merges::{Evidence, Merge, Merged, NewMerge};

/// Messages that one transaction takes the words out of, in each direction.
const BATCH: i32 = 500;

/// An end user, as far as the platform knows one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contact {
    /// Which.
    pub id: ContactId,
    /// When they wrote first.
    pub created_at: Timestamp,
    /// When their erasure was asked for.
    pub erase_asked_at: Option<Timestamp>,
    /// When it was complete.
    pub erased_at: Option<Timestamp>,
    /// The contact that this one turned out to be.
    pub merged_into: Option<ContactId>,
}

/// How a channel calls a contact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The channel.
    pub channel_id: ChannelId,
    /// The channel's own id of the person.
    pub external_id: String,
    /// Since when.
    pub created_at: Timestamp,
    /// What the person calls themselves there.
    pub name: Option<String>,
    /// Since when the person cannot be reached there, as its platform says.
    pub unreachable_at: Option<Timestamp>,
    /// Since when the person wants no message there that they did not ask for.
    pub unsubscribed_at: Option<Timestamp>,
}

/// A contact in short.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Calling {
    /// Which.
    pub id: ContactId,
    /// What the person called themselves last, on any channel.
    pub name: Option<String>,
    /// Where they write.
    pub channels: Vec<ChannelId>,
}

/// What the first step of an erasure found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fence {
    /// There is no such contact.
    Unknown,
    /// Nobody works for it any more; its words are to be taken out.
    Fenced,
    /// It was erased before.
    Erased,
}

/// An erasure that was begun and is not finished.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unfinished {
    /// Of whom.
    pub tenant_id: TenantId,
    /// The contact; the whole tenant when absent.
    pub contact_id: Option<ContactId>,
}

const CONTACT: &str = "contact_id, app.micros(created_at) AS created_at, \
                       app.micros(erase_asked_at) AS erase_asked_at, \
                       app.micros(erased_at) AS erased_at, merged_into";

impl Tx {
    /// The tenant's contacts, the newest first. Erased ones too, without anything that they said.
    /// `search` leaves those whose name or id, here or on a channel, holds the text; capitals do
    /// not matter.
    ///
    /// # Errors
    /// [`StorageError::BadCursor`] and others.
    pub async fn list_contacts(
        &mut self,
        page: &Page,
        search: Option<&str>,
    ) -> Result<Listing<Contact>> {
        let id = search.and_then(|text| text.parse::<ContactId>().ok());
        let rows = sqlx::query(AssertSqlSafe(format!(
            "SELECT {CONTACT} FROM contacts c \
             WHERE tenant_id = $1 AND ($2::uuid IS NULL OR contact_id < $2) \
               AND ($4::text IS NULL OR contact_id = $5 OR EXISTS ( \
                   SELECT 1 FROM identities i \
                   WHERE i.tenant_id = $1 AND i.contact_id = c.contact_id \
                     AND (strpos(lower(i.name), lower($4)) > 0 \
                          OR strpos(lower(i.external_id), lower($4)) > 0))) \
             ORDER BY contact_id DESC LIMIT $3"
        )))
        .bind(self.tenant_id().as_uuid())
        .bind(page.after_id()?)
        .bind(page.probe_limit())
        .bind(search)
        .bind(id.map(ContactId::as_uuid))
        .fetch_all(self.connection())
        .await?;
        let items = rows.iter().map(read_contact).collect::<Result<Vec<_>, _>>()?;
        Ok(Listing::cut(items, page, |item| id_cursor(item.id.as_uuid())))
    }

    /// The contact, if it is this tenant's.
    ///
    /// # Errors
    /// [`StorageError`].
    pub async fn find_contact(&mut self, id: ContactId) -> Result<Option<Contact>> {
        let row = sqlx::query(AssertSqlSafe(format!(
            "SELECT {CONTACT} FROM contacts WHERE tenant_id = $1 AND contact_id = $2"
        )))
        .bind(self.tenant_id().as_uuid())
        .bind(id.as_uuid())
        .fetch_optional(self.connection())
        .await?;
        Ok(row.as_ref().map(read_contact).transpose()?)
    }

    /// What these contacts call themselves and where they write, in any order. None of those who
    /// have no identity.
    ///
    /// # Errors
    /// [`StorageError`].
    pub async fn callings(&mut self, ids: &[ContactId]) -> Result<Vec<Calling>> {
        let ids: Vec<_> = ids.iter().map(|id| id.as_uuid()).collect();
        let rows = sqlx::query(
            "SELECT contact_id, array_agg(DISTINCT channel_id) AS channels, \
                    (array_agg(name ORDER BY created_at DESC) FILTER (WHERE name <> ''))[1] AS name \
             FROM identities WHERE tenant_id = $1 AND contact_id = ANY ($2) GROUP BY contact_id",
        )
        .bind(self.tenant_id().as_uuid())
        .bind(ids)
        .fetch_all(self.connection())
        .await?;
        let read = |row: &PgRow| {
            let channels: Vec<_> = row.try_get("channels")?;
            Ok(Calling {
                id: row::id(row, "contact_id", ContactId::from_uuid)?,
                name: row.try_get("name")?,
                channels: channels.into_iter().map(ChannelId::from_uuid).collect(),
            })
        };
        rows.iter().map(read).collect()
    }

    /// How channels call a contact; none after its erasure.
    ///
    /// # Errors
    /// [`StorageError`].
    pub async fn identities(&mut self, id: ContactId) -> Result<Vec<Identity>> {
        let rows = sqlx::query(
            "SELECT channel_id, external_id, app.micros(created_at) AS created_at, name, \
                    app.micros(unreachable_at) AS unreachable_at, \
                    app.micros(unsubscribed_at) AS unsubscribed_at \
             FROM identities WHERE tenant_id = $1 AND contact_id = $2 \
             ORDER BY channel_id, external_id LIMIT 1000",
        )
        .bind(self.tenant_id().as_uuid())
        .bind(id.as_uuid())
        .fetch_all(self.connection())
        .await?;
        let read = |row: &PgRow| {
            Ok(Identity {
                channel_id: row::id(row, "channel_id", ChannelId::from_uuid)?,
                external_id: row.try_get("external_id")?,
                created_at: row::time(row, "created_at")?,
                name: row.try_get("name")?,
                unreachable_at: row::optional_time(row, "unreachable_at")?,
                unsubscribed_at: row::optional_time(row, "unsubscribed_at")?,
            })
        };
        rows.iter().map(read).collect()
    }

    /// The first step of a contact's erasure: nobody answers or sends for it any more, and the same
    /// person will be somebody else. Safe to repeat.
    ///
    /// # Errors
    /// [`StorageError`].
    pub async fn fence_contact(&mut self, id: ContactId) -> Result<Fence> {
        // While the channel's name of the person is still known.
        for table in ["channel_events", "claim_codes", "partner_events", "partner_threads"] {
            sqlx::query(sqlx::AssertSqlSafe(format!(
                "DELETE FROM {table} e USING conversations c \
                 WHERE c.tenant_id = $1 AND c.contact_id = $2 AND e.tenant_id = c.tenant_id \
                   AND e.channel_id = c.channel_id AND e.thread = c.peer"
            )))
            .bind(self.tenant_id().as_uuid())
            .bind(id.as_uuid())
            .execute(self.connection())
            .await?;
        }
        let outcome: String = sqlx::query_scalar("SELECT app.fence_contact($1)")
            .bind(id.as_uuid())
            .fetch_one(self.connection())
            .await?;
        match outcome.as_str() {
            "unknown" => Ok(Fence::Unknown),
            "fenced" => Ok(Fence::Fenced),
            "erased" => Ok(Fence::Erased),
            other => Err(StorageError::unknown_outcome("app.fence_contact", other)),
        }
    }

    /// Conversations of a contact that still say something, at most a hundred.
    ///
    /// # Errors
    /// [`StorageError`].
    pub async fn spoken_conversations(&mut self, id: ContactId) -> Result<Vec<ConversationId>> {
        let rows = sqlx::query(
            "SELECT conversation_id FROM conversations \
             WHERE tenant_id = $1 AND contact_id = $2 \
               AND (erased_in < last_seq OR erased_out < out_seq) \
             ORDER BY conversation_id LIMIT 100",
        )
        .bind(self.tenant_id().as_uuid())
        .bind(id.as_uuid())
        .fetch_all(self.connection())
        .await?;
        let read = |row| Ok(row::id(row, "conversation_id", ConversationId::from_uuid)?);
        rows.iter().map(read).collect()
    }

    /// Takes the words out of a batch of a conversation's messages that are over and `age_days` old;
    /// 0 for all. Returns how many; none when there are no more.
    ///
    /// # Errors
    /// [`StorageError`].
    pub async fn blank_messages(&mut self, id: ConversationId, age_days: u32) -> Result<u64> {
        let blanked: i64 = sqlx::query_scalar(
            "SELECT app.blank_messages($1, CASE $2 WHEN 0 THEN 'infinity'::timestamptz \
                 ELSE now() - $2 * interval '1 day' END, $3)",
        )
        .bind(id.as_uuid())
        .bind(days_column(age_days))
        .bind(BATCH)
        .fetch_one(self.connection())
        .await?;
        Ok(blanked.unsigned_abs())
    }

    /// The last step of a contact's erasure: all that [`TABLES`] says, and the mark that it is over.
    /// `false` if something was said meanwhile: begin again with the first step.
    ///
    /// # Errors
    /// [`StorageError`].
    pub async fn finish_contact(&mut self, id: ContactId) -> Result<bool> {
        let tenant_id = self.tenant_id();
        for rule in TABLES {
            let Some(sql) = rule.erase_contact_sql() else { continue };
            sqlx::query(AssertSqlSafe(sql))
                .bind(tenant_id.as_uuid())
                .bind(id.as_uuid())
                .execute(self.connection())
                .await?;
        }
        let done = sqlx::query(
            "UPDATE contacts c SET erased_at = now() \
             WHERE c.tenant_id = $1 AND c.contact_id = $2 AND c.erased_at IS NULL \
               AND NOT EXISTS (SELECT FROM conversations v \
                   WHERE v.tenant_id = $1 AND v.contact_id = $2 \
                     AND (v.erased_in < v.last_seq OR v.erased_out < v.out_seq \
                          OR v.peer <> 'erased:' || v.conversation_id)) \
               AND NOT EXISTS (SELECT FROM identities d \
                   WHERE d.tenant_id = $1 AND d.contact_id = $2)",
        )
        .bind(tenant_id.as_uuid())
        .bind(id.as_uuid())
        .execute(self.connection())
        .await?;
        Ok(done.rows_affected() == 1)
    }

    /// Whether the tenant was erased.
    ///
    /// # Errors
    /// [`StorageError`].
    pub async fn is_erased(&mut self) -> Result<bool> {
        let erased: Option<bool> =
            sqlx::query_scalar("SELECT erased_at IS NOT NULL FROM tenants WHERE tenant_id = $1")
                .bind(self.tenant_id().as_uuid())
                .fetch_optional(self.connection())
                .await?;
        Ok(erased.unwrap_or_default())
    }

    /// Closes a tenant that is to be erased: its channels take nothing, its keys and sessions open
    /// nothing.
    ///
    /// # Errors
    /// [`StorageError`].
    pub async fn close_tenant(&mut self) -> Result<()> {
        for sql in [
            "UPDATE tenants SET erase_asked_at = COALESCE(erase_asked_at, now()) WHERE tenant_id = $1",
            "UPDATE channels SET open = false WHERE tenant_id = $1",
            "UPDATE api_keys SET revoked_at = COALESCE(revoked_at, now()) WHERE tenant_id = $1",
            "UPDATE sessions SET ended_at = COALESCE(ended_at, now()) WHERE tenant_id = $1",
            "UPDATE members SET suspended_at = COALESCE(suspended_at, now()) WHERE tenant_id = $1",
            "UPDATE invitations SET revoked_at = now() \
             WHERE tenant_id = $1 AND accepted_at IS NULL AND revoked_at IS NULL",
        ] {
            let tenant_id = self.tenant_id().as_uuid();
            sqlx::query(sql).bind(tenant_id).execute(self.connection()).await?;
        }
        Ok(())
    }

    /// Contacts of the tenant that are not erased yet, at most a hundred.
    ///
    /// # Errors
    /// [`StorageError`].
    pub async fn contacts_to_erase(&mut self) -> Result<Vec<ContactId>> {
        let rows = sqlx::query(
            "SELECT contact_id FROM contacts \
             WHERE tenant_id = $1 AND erased_at IS NULL ORDER BY contact_id LIMIT 100",
        )
        .bind(self.tenant_id().as_uuid())
        .fetch_all(self.connection())
        .await?;
        let read = |row| Ok(row::id(row, "contact_id", ContactId::from_uuid)?);
        rows.iter().map(read).collect()
    }

    /// The last step of a tenant's erasure: all that [`TABLES`] says. Its keys go with it, and what
    /// they sealed, wherever a copy of that may be.
    ///
    /// # Errors
    /// [`StorageError`].
    pub async fn finish_tenant(&mut self) -> Result<()> {
        let tenant_id = self.tenant_id();
        for rule in TABLES {
            let Some(sql) = rule.erase_tenant_sql() else { continue };
            sqlx::query(AssertSqlSafe(sql))
                .bind(tenant_id.as_uuid())
                .execute(self.connection())
                .await?;
        }
        sqlx::query(
            "UPDATE tenants SET erased_at = COALESCE(erased_at, now()) WHERE tenant_id = $1",
        )
        .bind(tenant_id.as_uuid())
        .execute(self.connection())
        .await?;
        Ok(())
    }

    /// Says for how many days messages are kept; `None` for ever.
    ///
    /// # Errors
    /// [`StorageError::Refused`] outside of 1 to 36,500.
    pub async fn set_retention(&mut self, days: Option<u32>) -> Result<()> {
        sqlx::query("UPDATE tenants SET retention_days = $2 WHERE tenant_id = $1")
            .bind(self.tenant_id().as_uuid())
            .bind(days.map(days_column))
            .execute(self.connection())
            .await?;
        Ok(())
    }

    /// Conversations after `after` that may have messages older than so many days, in order.
    ///
    /// # Errors
    /// [`StorageError`].
    pub async fn aged_conversations(
        &mut self,
        age_days: u32,
        after: Option<ConversationId>,
        limit: u32,
    ) -> Result<Vec<ConversationId>> {
        let rows = sqlx::query(
            "SELECT conversation_id FROM conversations \
             WHERE tenant_id = $1 AND ($3::uuid IS NULL OR conversation_id > $3) \
               AND created_at < now() - $2 * interval '1 day' \
               AND (erased_in < done_seq OR erased_out < out_seq) \
             ORDER BY conversation_id LIMIT $4",
        )
        .bind(self.tenant_id().as_uuid())
        .bind(days_column(age_days))
        .bind(after.map(ConversationId::as_uuid))
        .bind(i64::from(limit))
        .fetch_all(self.connection())
        .await?;
        let read = |row| Ok(row::id(row, "conversation_id", ConversationId::from_uuid)?);
        rows.iter().map(read).collect()
    }
}

impl Store {
    /// Erasures that were begun so long ago and are not finished: their node died, or will not be
    /// hindered by somebody who helps.
    ///
    /// # Errors
    /// [`StorageError`].
    pub async fn unfinished_erasures(
        &self,
        older_than: std::time::Duration,
    ) -> Result<Vec<Unfinished>> {
        let mut tx = self.begin_claim().await?;
        let rows = sqlx::query("SELECT tenant_id, contact_id FROM app.unfinished_erasures($1, $2)")
            .bind(millis(older_than))
            .bind(100_i64)
            .fetch_all(tx.connection())
            .await?;
        tx.commit().await?;
        let read = |row| {
            Ok(Unfinished {
                tenant_id: row::id(row, "tenant_id", TenantId::from_uuid)?,
                contact_id: row::optional_id(row, "contact_id", ContactId::from_uuid)?,
            })
        };
        rows.iter().map(read).collect()
    }

    /// Tenants that keep messages for so many days only, in order after `after`.
    ///
    /// # Errors
    /// [`StorageError`].
    pub async fn tenants_with_retention(
        &self,
        after: Option<TenantId>,
        limit: u32,
    ) -> Result<Vec<(TenantId, u32)>> {
        let mut tx = self.begin_claim().await?;
        let rows =
            sqlx::query("SELECT tenant_id, retention_days FROM app.tenants_with_retention($1, $2)")
                .bind(after.map(TenantId::as_uuid))
                .bind(i64::from(limit))
                .fetch_all(tx.connection())
                .await?;
        tx.commit().await?;
        let read = |row| {
            let tenant_id = row::id(row, "tenant_id", TenantId::from_uuid)?;
            Ok((tenant_id, row::count(row, "retention_days")?))
        };
        rows.iter().map(read).collect()
    }
}

fn days_column(days: u32) -> i32 {
    i32::try_from(days).unwrap_or(i32::MAX)
}

fn read_contact(row: &PgRow) -> Result<Contact, sqlx::Error> {
    Ok(Contact {
        id: row::id(row, "contact_id", ContactId::from_uuid)?,
        created_at: row::time(row, "created_at")?,
        erase_asked_at: row::optional_time(row, "erase_asked_at")?,
        erased_at: row::optional_time(row, "erased_at")?,
        merged_into: row::optional_id(row, "merged_into", ContactId::from_uuid)?,
    })
}

//! Contacts that turned out to be one person.

use jiff::Timestamp;
use qudao_domain::{ContactId, ConversationId, MergeId};
use serde_json::Value;
use sqlx::{Row as _, postgres::PgRow, types::Json};

use crate::{Result, Tx, row};

/// On whose word two contacts are one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Evidence {
    /// Somebody who works for the tenant looked at both.
    Member,
    /// The tenant's site signed that they are the same customer.
    Token,
    /// Both proved that they read the same address.
    Code,
}

impl Evidence {
    /// As the database and the wire write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Member => "member",
            Self::Token => "token",
            Self::Code => "code",
        }
    }

    fn find(text: &str) -> Option<Self> {
        [Self::Member, Self::Token, Self::Code].into_iter().find(|one| one.as_str() == text)
    }
}

/// Two contacts to be made one.
#[derive(Debug, Clone, Copy)]
pub struct NewMerge<'a> {
    /// Who stays.
    pub into: ContactId,
    /// Whose conversations and identities go over.
    pub from: ContactId,
    /// On whose word.
    pub evidence: Evidence,
    /// Who does it.
    pub made_by: &'a str,
    /// What the person agreed to.
    pub consent: &'a str,
}

/// Two contacts that were made one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Merge {
    /// Which.
    pub id: MergeId,
    /// Who stayed.
    pub into: ContactId,
    /// Whose conversations and identities went over.
    pub from: ContactId,
    /// On whose word.
    pub evidence: Evidence,
    /// Who did it.
    pub made_by: String,
    /// What the person agreed to.
    pub consent: String,
    /// When.
    pub made_at: Timestamp,
    /// When it was undone.
    pub undone_at: Option<Timestamp>,
}

/// What came of a merge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Merged {
    /// They are one now.
    Done(Merge),
    /// One of the two is not the tenant's.
    Unknown,
    /// One of the two was erased or merged before, or they are the same.
    NotPossible,
}

const COLUMNS: &str = "merge_id, into_contact, from_contact, evidence, made_by, consent, \
                       app.micros(made_at) AS made_at, app.micros(undone_at) AS undone_at";

impl Tx {
    /// Makes two contacts one: conversations and identities of one go over to the other, whose way
    /// of coming stays if it is known.
    ///
    /// # Errors
    /// [`StorageError`](crate::StorageError).
    pub async fn merge_contacts(&mut self, new: NewMerge<'_>) -> Result<Merged> {
        let tenant = self.tenant_id().as_uuid();
        let (into, from) = (new.into.as_uuid(), new.from.as_uuid());
        // In the order of the keys, so that two merges never wait for each other.
        let rows = sqlx::query(
            "SELECT erase_asked_at IS NULL AND merged_into IS NULL AS whole FROM contacts \
             WHERE tenant_id = $1 AND contact_id IN ($2, $3) ORDER BY contact_id FOR UPDATE",
        )
        .bind(tenant)
        .bind(into)
        .bind(from)
        .fetch_all(self.connection())
        .await?;
        if new.into == new.from && !rows.is_empty() {
            return Ok(Merged::NotPossible);
        }
        if rows.len() < 2 {
            return Ok(Merged::Unknown);
        }
        for row in &rows {
            if !row.try_get::<bool, _>("whole")? {
                return Ok(Merged::NotPossible);
            }
        }
        // Acceptance takes this lock where it opens a conversation of an identity.
        sqlx::query(
            "SELECT pg_advisory_xact_lock(hashtextextended(channel_id::text || external_id, 0)) \
             FROM (SELECT channel_id, external_id FROM identities \
                   WHERE tenant_id = $1 AND contact_id = $2 ORDER BY channel_id, external_id) d",
        )
        .bind(tenant)
        .bind(from)
        .execute(self.connection())
        .await?;
        let merge = self.move_over(new).await?;
        Ok(Merged::Done(merge))
    }

    async fn move_over(&mut self, new: NewMerge<'_>) -> Result<Merge> {
        let row = sqlx::query(sqlx::AssertSqlSafe(format!(
            "WITH said AS (UPDATE conversations SET contact_id = $2 \
                 WHERE tenant_id = $1 AND contact_id = $3 RETURNING conversation_id), \
             known AS (UPDATE identities SET contact_id = $2 \
                 WHERE tenant_id = $1 AND contact_id = $3 RETURNING channel_id, external_id), \
             claimed AS (UPDATE contact_claims SET contact_id = $2 \
                 WHERE tenant_id = $1 AND contact_id = $3 \
                 RETURNING kind, encode(value_hash, 'hex') AS hash), \
             came AS (INSERT INTO attributions (tenant_id, contact_id, channel_id, body, at) \
                 SELECT tenant_id, $2, channel_id, body, at FROM attributions \
                 WHERE tenant_id = $1 AND contact_id = $3 ON CONFLICT DO NOTHING), \
             gone AS (UPDATE contacts SET merged_into = $2 \
                 WHERE tenant_id = $1 AND contact_id = $3) \
             INSERT INTO contact_merges (tenant_id, merge_id, into_contact, from_contact, evidence, \
                 made_by, consent, conversations, identities, claims) \
             SELECT $1, $4, $2, $3, $5, $6, $7, \
                 COALESCE((SELECT array_agg(conversation_id) FROM said), '{{}}'), \
                 COALESCE((SELECT jsonb_agg(jsonb_build_array(channel_id, external_id)) FROM known), \
                          '[]'), \
                 COALESCE((SELECT jsonb_agg(jsonb_build_array(kind, hash)) FROM claimed), '[]') \
             RETURNING {COLUMNS}"
        )))
        .bind(self.tenant_id().as_uuid())
        .bind(new.into.as_uuid())
        .bind(new.from.as_uuid())
        .bind(MergeId::new().as_uuid())
        .bind(new.evidence.as_str())
        .bind(new.made_by)
        .bind(new.consent)
        .fetch_one(self.connection())
        .await?;
        Ok(read(&row)?)
    }

    /// Takes a merge back: what moved then and is still there goes home. `None` if there is no such
    /// merge, or it was undone, or one of the two was erased or merged on since.
    ///
    /// # Errors
    /// [`StorageError`](crate::StorageError).
    pub async fn undo_merge(&mut self, id: MergeId) -> Result<Option<Merge>> {
        let found = sqlx::query(
            "SELECT m.into_contact, m.from_contact, m.conversations, m.identities, m.claims \
             FROM contact_merges m \
             JOIN contacts a ON a.tenant_id = m.tenant_id AND a.contact_id = m.into_contact \
             JOIN contacts b ON b.tenant_id = m.tenant_id AND b.contact_id = m.from_contact \
             WHERE m.tenant_id = $1 AND m.merge_id = $2 AND m.undone_at IS NULL \
               AND a.erase_asked_at IS NULL AND b.erase_asked_at IS NULL \
               AND a.merged_into IS NULL AND b.merged_into = m.into_contact \
             FOR UPDATE",
        )
        .bind(self.tenant_id().as_uuid())
        .bind(id.as_uuid())
        .fetch_optional(self.connection())
        .await?;
        let Some(found) = found else { return Ok(None) };
        let into = row::id(&found, "into_contact", ContactId::from_uuid)?;
        let from = row::id(&found, "from_contact", ContactId::from_uuid)?;
        let conversations: Vec<sqlx::types::Uuid> = found.try_get("conversations")?;
        let Json(identities): Json<Value> = found.try_get("identities")?;
        let Json(claims): Json<Value> = found.try_get("claims")?;
        let row = sqlx::query(sqlx::AssertSqlSafe(format!(
            "WITH said AS (UPDATE conversations SET contact_id = $3 \
                 WHERE tenant_id = $1 AND contact_id = $2 AND conversation_id = ANY ($4)), \
             known AS (UPDATE identities i SET contact_id = $3 \
                 FROM jsonb_array_elements($5) e \
                 WHERE i.tenant_id = $1 AND i.contact_id = $2 \
                   AND i.channel_id = (e ->> 0)::uuid AND i.external_id = e ->> 1), \
             claimed AS (UPDATE contact_claims c SET contact_id = $3 \
                 FROM jsonb_array_elements($7) e \
                 WHERE c.tenant_id = $1 AND c.contact_id = $2 \
                   AND c.kind = e ->> 0 AND c.value_hash = decode(e ->> 1, 'hex')), \
             back AS (UPDATE contacts SET merged_into = NULL \
                 WHERE tenant_id = $1 AND contact_id = $3) \
             UPDATE contact_merges SET undone_at = now() \
             WHERE tenant_id = $1 AND merge_id = $6 RETURNING {COLUMNS}"
        )))
        .bind(self.tenant_id().as_uuid())
        .bind(into.as_uuid())
        .bind(from.as_uuid())
        .bind(&conversations)
        .bind(Json(&identities))
        .bind(id.as_uuid())
        .bind(Json(&claims))
        .fetch_one(self.connection())
        .await?;
        Ok(Some(read(&row)?))
    }

    /// The merges of a contact, the newest first.
    ///
    /// # Errors
    /// [`StorageError`](crate::StorageError).
    pub async fn merges_of(&mut self, id: ContactId) -> Result<Vec<Merge>> {
        let rows = sqlx::query(sqlx::AssertSqlSafe(format!(
            "SELECT {COLUMNS} FROM contact_merges \
             WHERE tenant_id = $1 AND (into_contact = $2 OR from_contact = $2) \
             ORDER BY merge_id DESC LIMIT 100"
        )))
        .bind(self.tenant_id().as_uuid())
        .bind(id.as_uuid())
        .fetch_all(self.connection())
        .await?;
        Ok(rows.iter().map(read).collect::<Result<_, _>>()?)
    }

    /// The contact of a conversation.
    ///
    /// # Errors
    /// [`StorageError`](crate::StorageError).
    pub async fn contact_of(&mut self, id: ConversationId) -> Result<Option<ContactId>> {
        let row = sqlx::query(
            "SELECT contact_id FROM conversations WHERE tenant_id = $1 AND conversation_id = $2",
        )
        .bind(self.tenant_id().as_uuid())
        .bind(id.as_uuid())
        .fetch_optional(self.connection())
        .await?;
        let read = |row: &PgRow| row::id(row, "contact_id", ContactId::from_uuid);
        Ok(row.as_ref().map(read).transpose()?)
    }

    /// Whether a person wants messages that they did not ask for. `false` if nobody is known there
    /// by this name.
    ///
    /// # Errors
    /// [`StorageError`](crate::StorageError).
    pub async fn set_subscribed(
        &mut self,
        contact_id: ContactId,
        channel_id: qudao_domain::ChannelId,
        subscribed: bool,
    ) -> Result<bool> {
        let done = sqlx::query(
            "UPDATE identities SET unsubscribed_at = CASE WHEN $4 THEN NULL \
                 ELSE COALESCE(unsubscribed_at, now()) END \
             WHERE tenant_id = $1 AND contact_id = $2 AND channel_id = $3",
        )
        .bind(self.tenant_id().as_uuid())
        .bind(contact_id.as_uuid())
        .bind(channel_id.as_uuid())
        .bind(subscribed)
        .execute(self.connection())
        .await?;
        Ok(0 < done.rows_affected())
    }
}

fn read(row: &PgRow) -> Result<Merge, sqlx::Error> {
    Ok(Merge {
        id: row::id(row, "merge_id", MergeId::from_uuid)?,
        into: row::id(row, "into_contact", ContactId::from_uuid)?,
        from: row::id(row, "from_contact", ContactId::from_uuid)?,
        evidence: row::state(row, "evidence", Evidence::find)?,
        made_by: row.try_get("made_by")?,
        consent: row.try_get("consent")?,
        made_at: row::time(row, "made_at")?,
        undone_at: row::optional_time(row, "undone_at")?,
    })
}

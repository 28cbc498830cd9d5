//! The log of events to a partner.

use std::time::Duration;

use jiff::Timestamp;
use qudao_domain::{ChannelId, OutboxId};
use sqlx::{AssertSqlSafe, Row as _, postgres::PgRow};

use crate::{Result, Tx, claim::millis, row};

/// What became of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PartnerState {
    /// Waits to be sent.
    Ready,
    /// Is on its way.
    Sending,
    /// The partner has it.
    Done,
    /// Given up.
    Dead,
    /// Was of no use any more before it could be sent.
    Expired,
}

impl PartnerState {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Ready, Self::Sending, Self::Done, Self::Dead, Self::Expired];

    /// As the database and the wire write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Sending => "sending",
            Self::Done => "done",
            Self::Dead => "dead",
            Self::Expired => "expired",
        }
    }

    /// The state with this text form.
    pub fn find(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }
}

/// An event to be kept.
#[derive(Debug, Clone, Copy)]
pub struct NewPartnerEvent<'a> {
    /// Its id in the protocol.
    pub event_id: &'a str,
    /// Its kind.
    pub kind: &'a str,
    /// The conversation; empty if it concerns the channel.
    pub thread: &'a str,
    /// Its place there, if it has one.
    pub seq: Option<i64>,
    /// What is signed and sent.
    pub body: &'a [u8],
    /// Which piece of which message it is.
    pub piece: Option<(OutboxId, i32)>,
    /// The last message that it answers, and whether nothing follows.
    pub answers: Option<(i64, bool)>,
    /// When it may be sent first.
    pub delay: Duration,
    /// When it is of no use any more.
    pub expires_in: Option<Duration>,
    /// What goes wrong on purpose.
    pub fault: Option<&'a str>,
}

/// An event as it is kept.
#[derive(Debug, Clone, PartialEq)]
pub struct PartnerEvent {
    /// Its place in the channel's log.
    pub cursor: i64,
    /// Its id in the protocol.
    pub event_id: String,
    /// Its kind.
    pub kind: String,
    /// The conversation; empty if it concerns the channel.
    pub thread: String,
    /// Its place there.
    pub seq: Option<i64>,
    /// What is signed and sent.
    pub body: Vec<u8>,
    /// The last message that it answers.
    pub answers: Option<i64>,
    /// Nothing follows in this answer.
    pub is_final: bool,
    /// What became of it.
    pub state: PartnerState,
    /// Attempts so far, the present one included; fences a claim.
    pub attempts: u32,
    /// Attempts of the present round.
    pub tries: u32,
    /// It is sent again after it had been given up.
    pub replayed: bool,
    /// What goes wrong on purpose.
    pub fault: Option<String>,
    /// It is of no use any more.
    pub is_expired: bool,
    /// The status of the last answer.
    pub last_status: Option<i32>,
    /// What went wrong last.
    pub last_error: Option<String>,
    /// The first bytes of the last answer.
    pub answer: Option<String>,
    /// The partner's id of the message.
    pub external_id: Option<String>,
    /// What became of the message.
    pub receipt: Option<String>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When the next attempt is.
    pub next_at: Timestamp,
}

/// How an attempt ended.
#[derive(Debug, Clone, Copy)]
pub struct PartnerEnd<'a> {
    /// The state that follows.
    pub state: PartnerState,
    /// When the next attempt is, if there is one.
    pub delay: Duration,
    /// The answer's status.
    pub status: Option<u16>,
    /// What went wrong.
    pub error: Option<&'a str>,
    /// What the answer said.
    pub answer: &'a str,
    /// The partner's id of the message.
    pub external_id: Option<&'a str>,
}

const COLUMNS: &str = "cursor, event_id, kind, thread, seq, body, answers, is_final, state, \
    attempts, tries, replayed, fault, \
    expires_at IS NOT NULL AND expires_at <= now() AS is_expired, last_status, last_error, answer, \
    external_id, receipt, app.micros(created_at) AS created_at, app.micros(next_at) AS next_at";

impl Tx {
    /// Puts an event at the log's end. Others of the channel wait until this transaction ends, so
    /// that a reader never sees a later cursor before an earlier one.
    ///
    /// # Errors
    /// [`StorageError`](crate::StorageError).
    pub async fn add_partner_event(
        &mut self,
        channel_id: ChannelId,
        new: &NewPartnerEvent<'_>,
    ) -> Result<i64> {
        let cursor: i64 = sqlx::query_scalar(
            "UPDATE partner_channels SET last_cursor = last_cursor + 1 \
             WHERE tenant_id = $1 AND channel_id = $2 RETURNING last_cursor",
        )
        .bind(self.tenant_id().as_uuid())
        .bind(channel_id.as_uuid())
        .fetch_one(self.connection())
        .await?;
        sqlx::query(
            "INSERT INTO partner_events (tenant_id, channel_id, cursor, event_id, kind, thread, \
                 seq, body, outbox_id, piece, answers, is_final, fault, next_at, expires_at) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, \
                 now() + $14 * interval '1 millisecond', now() + $15 * interval '1 millisecond')",
        )
        .bind(self.tenant_id().as_uuid())
        .bind(channel_id.as_uuid())
        .bind(cursor)
        .bind(new.event_id)
        .bind(new.kind)
        .bind(new.thread)
        .bind(new.seq)
        .bind(new.body)
        .bind(new.piece.map(|(id, _)| id.as_uuid()))
        .bind(new.piece.map_or(0, |(_, piece)| piece))
        .bind(new.answers.map(|(seq, _)| seq))
        .bind(new.answers.is_some_and(|(_, last)| last))
        .bind(new.fault)
        .bind(millis(new.delay))
        .bind(new.expires_in.map(millis))
        .execute(self.connection())
        .await?;
        Ok(cursor)
    }

    /// Whether a message's events are kept already.
    ///
    /// # Errors
    /// [`StorageError`](crate::StorageError).
    pub async fn has_partner_pieces(&mut self, outbox_id: OutboxId) -> Result<bool> {
        Ok(sqlx::query_scalar(
            "SELECT EXISTS (SELECT 1 FROM partner_events WHERE tenant_id = $1 AND outbox_id = $2)",
        )
        .bind(self.tenant_id().as_uuid())
        .bind(outbox_id.as_uuid())
        .fetch_one(self.connection())
        .await?)
    }

    /// Events after a cursor, in order, of one conversation if one is named.
    ///
    /// # Errors
    /// [`StorageError`](crate::StorageError).
    pub async fn partner_events_after(
        &mut self,
        channel_id: ChannelId,
        after: i64,
        thread: Option<&str>,
        limit: u32,
    ) -> Result<Vec<PartnerEvent>> {
        let rows = sqlx::query(AssertSqlSafe(format!(
            "SELECT {COLUMNS} FROM partner_events \
             WHERE tenant_id = $1 AND channel_id = $2 AND cursor > $3 \
               AND ($4::text IS NULL OR thread = $4) \
             ORDER BY cursor LIMIT $5"
        )))
        .bind(self.tenant_id().as_uuid())
        .bind(channel_id.as_uuid())
        .bind(after)
        .bind(thread)
        .bind(i64::from(limit))
        .fetch_all(self.connection())
        .await?;
        rows.iter().map(|row| Ok(read(row)?)).collect()
    }

    /// The messages that answer a place of a conversation, or a later one, by their number.
    ///
    /// # Errors
    /// [`StorageError`](crate::StorageError).
    pub async fn partner_answers(
        &mut self,
        channel_id: ChannelId,
        thread: &str,
        answers: i64,
    ) -> Result<Vec<PartnerEvent>> {
        let rows = sqlx::query(AssertSqlSafe(format!(
            "SELECT {COLUMNS} FROM partner_events \
             WHERE tenant_id = $1 AND channel_id = $2 AND thread = $3 AND answers >= $4 \
             ORDER BY seq LIMIT 100"
        )))
        .bind(self.tenant_id().as_uuid())
        .bind(channel_id.as_uuid())
        .bind(thread)
        .bind(answers)
        .fetch_all(self.connection())
        .await?;
        rows.iter().map(|row| Ok(read(row)?)).collect()
    }

    /// An event.
    ///
    /// # Errors
    /// [`StorageError`](crate::StorageError).
    pub async fn partner_event(
        &mut self,
        channel_id: ChannelId,
        cursor: i64,
    ) -> Result<Option<PartnerEvent>> {
        let before = cursor.saturating_sub(1);
        let found = self.partner_events_after(channel_id, before, None, 1).await?;
        Ok(found.into_iter().find(|event| event.cursor == cursor))
    }

    /// The newest events of a state, or of any.
    ///
    /// # Errors
    /// [`StorageError`](crate::StorageError).
    pub async fn partner_deliveries(
        &mut self,
        channel_id: ChannelId,
        state: Option<PartnerState>,
        before: Option<i64>,
        limit: u32,
    ) -> Result<Vec<PartnerEvent>> {
        let rows = sqlx::query(AssertSqlSafe(format!(
            "SELECT {COLUMNS} FROM partner_events \
             WHERE tenant_id = $1 AND channel_id = $2 AND ($3::text IS NULL OR state = $3) \
               AND ($4::bigint IS NULL OR cursor < $4) \
             ORDER BY cursor DESC LIMIT $5"
        )))
        .bind(self.tenant_id().as_uuid())
        .bind(channel_id.as_uuid())
        .bind(state.map(PartnerState::as_str))
        .bind(before)
        .bind(i64::from(limit))
        .fetch_all(self.connection())
        .await?;
        rows.iter().map(|row| Ok(read(row)?)).collect()
    }

    /// Sends events again that ended: those with these ids, else all of `state` that were made
    /// between two times. Their ids stay. How many.
    ///
    /// # Errors
    /// [`StorageError`](crate::StorageError).
    pub async fn replay_partner_events(
        &mut self,
        channel_id: ChannelId,
        ids: Option<&[String]>,
        state: PartnerState,
        (since, until): (Option<Timestamp>, Option<Timestamp>),
    ) -> Result<u64> {
        let done = sqlx::query(
            "UPDATE partner_events SET state = 'ready', replayed = true, tries = 0, \
                 next_at = now(), fault = NULL, expires_at = NULL \
             WHERE tenant_id = $1 AND channel_id = $2 AND state IN ('done', 'dead', 'expired') \
               AND (event_id = ANY ($3) OR $3 IS NULL AND state = $4 \
                    AND app.micros(created_at) BETWEEN COALESCE($5, 0) \
                                                   AND COALESCE($6, 9223372036854775807))",
        )
        .bind(self.tenant_id().as_uuid())
        .bind(channel_id.as_uuid())
        .bind(ids)
        .bind(state.as_str())
        .bind(since.map(Timestamp::as_microsecond))
        .bind(until.map(Timestamp::as_microsecond))
        .execute(self.connection())
        .await?;
        Ok(done.rows_affected())
    }

    /// Acknowledges what was read: a reader has all up to this cursor. How far it is now.
    ///
    /// # Errors
    /// [`StorageError`](crate::StorageError).
    pub async fn ack_partner_events(&mut self, channel_id: ChannelId, cursor: i64) -> Result<i64> {
        let acked: i64 = sqlx::query_scalar(
            "UPDATE partner_channels \
             SET acked_cursor = greatest(acked_cursor, least($3, last_cursor)) \
             WHERE tenant_id = $1 AND channel_id = $2 RETURNING acked_cursor",
        )
        .bind(self.tenant_id().as_uuid())
        .bind(channel_id.as_uuid())
        .bind(cursor)
        .fetch_one(self.connection())
        .await?;
        sqlx::query(
            "UPDATE partner_events SET state = 'done', done_at = now() \
             WHERE tenant_id = $1 AND channel_id = $2 AND cursor <= $3 AND state = 'ready'",
        )
        .bind(self.tenant_id().as_uuid())
        .bind(channel_id.as_uuid())
        .bind(acked)
        .execute(self.connection())
        .await?;
        Ok(acked)
    }

    /// Writes down how an attempt ended. `false` if the claim was taken over.
    ///
    /// # Errors
    /// [`StorageError`](crate::StorageError); safe to repeat.
    pub async fn end_partner_attempt(
        &mut self,
        channel_id: ChannelId,
        (cursor, attempts): (i64, u32),
        end: &PartnerEnd<'_>,
    ) -> Result<bool> {
        let done = sqlx::query(
            "UPDATE partner_events SET state = $5, lease_until = NULL, \
                 next_at = now() + $6 * interval '1 millisecond', last_status = $7, \
                 last_error = left($8, 500), answer = left($9, 2048), \
                 external_id = COALESCE(left($10, 200), external_id), \
                 receipt = CASE WHEN $5 = 'done' AND $10 IS NOT NULL \
                                THEN COALESCE(receipt, 'sent') ELSE receipt END, \
                 done_at = CASE WHEN $5 IN ('ready', 'sending') THEN NULL ELSE now() END \
             WHERE tenant_id = $1 AND channel_id = $2 AND cursor = $3 AND attempts = $4 \
               AND state = 'sending'",
        )
        .bind(self.tenant_id().as_uuid())
        .bind(channel_id.as_uuid())
        .bind(cursor)
        .bind(i32::try_from(attempts).unwrap_or(i32::MAX))
        .bind(end.state.as_str())
        .bind(millis(end.delay))
        .bind(end.status.map(i32::from))
        .bind(end.error)
        .bind(end.answer)
        .bind(end.external_id)
        .execute(self.connection())
        .await?;
        Ok(done.rows_affected() == 1)
    }

    /// What became of a message of ours, by our id of its event or message or the partner's. A
    /// later word never takes back an earlier one. Whether anything changed.
    ///
    /// # Errors
    /// [`StorageError`](crate::StorageError).
    pub async fn record_partner_receipt(
        &mut self,
        channel_id: ChannelId,
        message: &str,
        receipt: &str,
    ) -> Result<bool> {
        let done = sqlx::query(
            "UPDATE partner_events SET receipt = $4 \
             WHERE tenant_id = $1 AND channel_id = $2 AND (event_id = $3 OR external_id = $3) \
               AND array_position(ARRAY['sent', 'delivered', 'read', 'failed'], $4) > \
                   COALESCE(array_position(ARRAY['sent', 'delivered', 'read', 'failed'], \
                                           receipt), 0)",
        )
        .bind(self.tenant_id().as_uuid())
        .bind(channel_id.as_uuid())
        .bind(message)
        .bind(receipt)
        .execute(self.connection())
        .await?;
        Ok(done.rows_affected() != 0)
    }
}

fn read(row: &PgRow) -> Result<PartnerEvent, sqlx::Error> {
    Ok(PartnerEvent {
        cursor: row.try_get("cursor")?,
        event_id: row.try_get("event_id")?,
        kind: row.try_get("kind")?,
        thread: row.try_get("thread")?,
        seq: row.try_get("seq")?,
        body: row.try_get("body")?,
        answers: row.try_get("answers")?,
        is_final: row.try_get("is_final")?,
        state: row::state(row, "state", PartnerState::find)?,
        attempts: row::count(row, "attempts")?,
        tries: row::count(row, "tries")?,
        replayed: row.try_get("replayed")?,
        fault: row.try_get("fault")?,
        is_expired: row.try_get("is_expired")?,
        last_status: row.try_get("last_status")?,
        last_error: row.try_get("last_error")?,
        answer: row.try_get("answer")?,
        external_id: row.try_get("external_id")?,
        receipt: row.try_get("receipt")?,
        created_at: row::time(row, "created_at")?,
        next_at: row::time(row, "next_at")?,
    })
}

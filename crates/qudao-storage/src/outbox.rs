//! T5 and T6: what was said goes out, in order within each conversation.

use std::time::Duration;

use qudao_domain::{
    ChannelId, ConversationId, NodeId, OutboxId, TenantId, TurnId, state::ChannelKind,
};
use sqlx::{Row as _, types::Json};

use crate::{ReplyBody, Result, Store, Tx, claim::millis, row};

/// What an outbound message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutboxKind {
    /// A model's answer.
    Reply,
    /// Word from the platform: no funds, or given up.
    Notice,
}

impl OutboxKind {
    /// As the database and the wire write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Reply => "reply",
            Self::Notice => "notice",
        }
    }

    /// The value with this text form, if there is one.
    pub fn find(text: &str) -> Option<Self> {
        [Self::Reply, Self::Notice].into_iter().find(|kind| kind.as_str() == text)
    }
}

/// An outbound message that this node may send until its lease runs out.
#[derive(Debug, Clone, PartialEq)]
pub struct OutboxClaim {
    /// Whose it is.
    pub tenant_id: TenantId,
    /// Which. The other side recognises a message that comes twice by it.
    pub outbox_id: OutboxId,
    /// The conversation.
    pub conversation_id: ConversationId,
    /// Where to send it.
    pub channel_id: ChannelId,
    /// What kind of place that is.
    pub channel_kind: ChannelKind,
    /// The channel's own id of the person.
    pub peer: String,
    /// Its place among the conversation's outbound messages, from 1.
    pub out_seq: i64,
    /// The last message that it answers.
    pub to_seq: i64,
    /// The turn that made it.
    pub turn_id: Option<TurnId>,
    /// What it is.
    pub kind: OutboxKind,
    /// What it says.
    pub body: ReplyBody,
    /// The fencing number: later steps name it.
    pub epoch: i64,
    /// Which attempt this is, from 1.
    pub attempts: u32,
}

impl Store {
    /// Claims up to `limit` outbound messages. Only the first open one of a conversation can be
    /// claimed, which keeps them in order.
    ///
    /// # Errors
    /// [`StorageError`](crate::StorageError); what was claimed comes free when the lease ends.
    pub async fn claim_outbox(
        &self,
        node: NodeId,
        limit: u32,
        lease: Duration,
    ) -> Result<Vec<OutboxClaim>> {
        let query = || {
            sqlx::query(
                "SELECT tenant_id, outbox_id, conversation_id, channel_id, channel_kind, peer, \
                        out_seq, to_seq, turn_id, kind, body, epoch, attempts \
                 FROM app.claim_outbox($1, $2, $3)",
            )
            .bind(node.as_uuid())
            .bind(i32::try_from(limit).unwrap_or(i32::MAX))
            .bind(millis(lease))
        };
        let rows = self.rows_of_one_claim(query).await?;
        rows.iter().map(|row| Ok(read_claim(row)?)).collect()
    }

    /// T6: the other side has these messages: tenant, message and the claim's fencing number each.
    /// When this returns it is durable. A message whose claim was taken over is left to the other
    /// node. Whether a conversation has another message that was waiting behind one of these.
    ///
    /// # Errors
    /// [`StorageError`](crate::StorageError); safe to repeat.
    pub async fn finish_deliveries(&self, sent: &[(TenantId, OutboxId, i64)]) -> Result<bool> {
        let mut sent = sent.to_vec();
        // Two such statements take their locks in one order.
        sent.sort_unstable();
        let query = || {
            sqlx::query("SELECT app.finish_deliveries($1, $2, $3)")
                .bind(sent.iter().map(|(tenant, ..)| tenant.as_uuid()).collect::<Vec<_>>())
                .bind(sent.iter().map(|(_, id, _)| id.as_uuid()).collect::<Vec<_>>())
                .bind(sent.iter().map(|(.., epoch)| *epoch).collect::<Vec<_>>())
        };
        Ok(self.one_statement(query).await?.try_get(0)?)
    }
}

impl Tx {
    /// The other side did not take the message; it may be claimed again after `delay`. `false`
    /// if another node has it.
    ///
    /// # Errors
    /// [`StorageError`](crate::StorageError); safe to repeat.
    pub async fn retry_outbox(
        &mut self,
        outbox_id: OutboxId,
        epoch: i64,
        delay: Duration,
        error: &str,
    ) -> Result<bool> {
        self.requeue((outbox_id, epoch), delay, error, true).await
    }

    /// The other side said when to come again: the message may be claimed after `delay`, and this
    /// try is not counted. `false` if another node has it.
    ///
    /// # Errors
    /// [`StorageError`](crate::StorageError); safe to repeat.
    pub async fn defer_outbox(
        &mut self,
        outbox_id: OutboxId,
        epoch: i64,
        delay: Duration,
        error: &str,
    ) -> Result<bool> {
        self.requeue((outbox_id, epoch), delay, error, false).await
    }

    async fn requeue(
        &mut self,
        (outbox_id, epoch): (OutboxId, i64),
        delay: Duration,
        error: &str,
        counted: bool,
    ) -> Result<bool> {
        let done = sqlx::query(
            "UPDATE outbox \
             SET state = 'queued', lease_until = NULL, owner = NULL, last_error = left($5, 1000), \
                 next_at = now() + $4 * interval '1 millisecond', \
                 attempts = CASE WHEN $6 THEN attempts ELSE greatest(attempts - 1, 0) END \
             WHERE tenant_id = $1 AND outbox_id = $2 AND epoch = $3 AND state = 'sending'",
        )
        .bind(self.tenant_id().as_uuid())
        .bind(outbox_id.as_uuid())
        .bind(epoch)
        .bind(millis(delay))
        .bind(error)
        .bind(counted)
        .execute(self.connection())
        .await?;
        Ok(done.rows_affected() == 1)
    }

    /// Gives a claim back at once, for another sender to take, and does not count it as an
    /// attempt. `false` if another node has the message.
    ///
    /// # Errors
    /// [`StorageError`](crate::StorageError); safe to repeat.
    pub async fn release_outbox(&mut self, outbox_id: OutboxId, epoch: i64) -> Result<bool> {
        let done = sqlx::query(
            "UPDATE outbox \
             SET state = 'queued', lease_until = NULL, owner = NULL, next_at = now(), \
                 attempts = greatest(attempts - 1, 0) \
             WHERE tenant_id = $1 AND outbox_id = $2 AND epoch = $3 AND state = 'sending'",
        )
        .bind(self.tenant_id().as_uuid())
        .bind(outbox_id.as_uuid())
        .bind(epoch)
        .execute(self.connection())
        .await?;
        Ok(done.rows_affected() == 1)
    }

    /// The conversation's first open message, for an answer that goes out now; locked until this
    /// transaction ends. `None` if there is none, or if a sender has it.
    ///
    /// # Errors
    /// [`StorageError`](crate::StorageError).
    pub async fn open_reply(
        &mut self,
        conversation_id: ConversationId,
    ) -> Result<Option<PassiveReply>> {
        let row = sqlx::query(
            "SELECT outbox_id, to_seq, kind, body FROM outbox \
             WHERE tenant_id = $1 AND state = 'queued' AND outbox_id = ( \
                 SELECT o.outbox_id FROM outbox o \
                 WHERE o.tenant_id = $1 AND o.conversation_id = $2 \
                   AND o.state IN ('queued', 'sending') \
                 ORDER BY o.out_seq LIMIT 1) \
             FOR UPDATE SKIP LOCKED",
        )
        .bind(self.tenant_id().as_uuid())
        .bind(conversation_id.as_uuid())
        .fetch_optional(self.connection())
        .await?;
        Ok(row.as_ref().map(read_passive).transpose()?)
    }

    /// A message goes out within an answer: all of it, or, with `rest`, a piece of it, and what is
    /// left is not sent by other means before that time.
    ///
    /// # Errors
    /// [`StorageError`](crate::StorageError).
    pub async fn give_as_answer(
        &mut self,
        outbox_id: OutboxId,
        rest: Option<Duration>,
    ) -> Result<()> {
        sqlx::query(
            "UPDATE outbox SET epoch = epoch + 1, lease_until = NULL, owner = NULL, \
                 state = CASE WHEN $3::bigint IS NULL THEN 'delivered' ELSE 'queued' END, \
                 delivered_at = CASE WHEN $3::bigint IS NULL THEN now() ELSE delivered_at END, \
                 next_at = CASE WHEN $3::bigint IS NULL THEN next_at \
                           ELSE now() + $3 * interval '1 millisecond' END \
             WHERE tenant_id = $1 AND outbox_id = $2 AND state = 'queued'",
        )
        .bind(self.tenant_id().as_uuid())
        .bind(outbox_id.as_uuid())
        .bind(rest.map(millis))
        .execute(self.connection())
        .await?;
        Ok(())
    }

    /// The message of which a piece went out under this mark, and which piece: for a platform that
    /// asks the same again.
    ///
    /// # Errors
    /// [`StorageError`](crate::StorageError).
    pub async fn answer_given(
        &mut self,
        conversation_id: ConversationId,
        mark: &str,
        channel_id: ChannelId,
    ) -> Result<Option<(PassiveReply, u32)>> {
        let row = sqlx::query(
            "SELECT o.outbox_id, o.to_seq, o.kind, o.body, p.piece FROM delivery_pieces p \
             JOIN outbox o ON o.tenant_id = p.tenant_id AND o.outbox_id = p.outbox_id \
             WHERE p.tenant_id = $1 AND p.channel_id = $4 AND p.conversation_id = $2 \
               AND p.external_id = $3 \
             ORDER BY o.out_seq LIMIT 1",
        )
        .bind(self.tenant_id().as_uuid())
        .bind(conversation_id.as_uuid())
        .bind(mark)
        .bind(channel_id.as_uuid())
        .fetch_optional(self.connection())
        .await?;
        let read = |row: &sqlx::postgres::PgRow| {
            Ok::<_, sqlx::Error>((read_passive(row)?, row::count(row, "piece")?))
        };
        Ok(row.as_ref().map(read).transpose()?)
    }

    /// The other side will never take the message. The next one of the conversation may go out.
    /// `false` if another node has it.
    ///
    /// # Errors
    /// [`StorageError`](crate::StorageError); safe to repeat.
    pub async fn bury_outbox(
        &mut self,
        outbox_id: OutboxId,
        epoch: i64,
        error: &str,
    ) -> Result<bool> {
        let done = sqlx::query(
            "UPDATE outbox \
             SET state = 'dead', lease_until = NULL, owner = NULL, last_error = left($4, 1000) \
             WHERE tenant_id = $1 AND outbox_id = $2 AND epoch = $3 AND state = 'sending'",
        )
        .bind(self.tenant_id().as_uuid())
        .bind(outbox_id.as_uuid())
        .bind(epoch)
        .bind(error)
        .execute(self.connection())
        .await?;
        Ok(done.rows_affected() == 1)
    }
}

/// A message that goes out within the answer to a platform's request.
#[derive(Debug, Clone, PartialEq)]
pub struct PassiveReply {
    /// Which.
    pub outbox_id: OutboxId,
    /// The last message that it answers.
    pub to_seq: i64,
    /// What it is.
    pub kind: OutboxKind,
    /// What it says.
    pub body: ReplyBody,
}

fn read_passive(row: &sqlx::postgres::PgRow) -> Result<PassiveReply, sqlx::Error> {
    let Json(body) = row.try_get("body")?;
    Ok(PassiveReply {
        outbox_id: row::id(row, "outbox_id", OutboxId::from_uuid)?,
        to_seq: row.try_get("to_seq")?,
        kind: row::state(row, "kind", OutboxKind::find)?,
        body,
    })
}

fn read_claim(row: &sqlx::postgres::PgRow) -> Result<OutboxClaim, sqlx::Error> {
    let Json(body) = row.try_get("body")?;
    Ok(OutboxClaim {
        tenant_id: row::id(row, "tenant_id", TenantId::from_uuid)?,
        outbox_id: row::id(row, "outbox_id", OutboxId::from_uuid)?,
        conversation_id: row::id(row, "conversation_id", ConversationId::from_uuid)?,
        channel_id: row::id(row, "channel_id", ChannelId::from_uuid)?,
        channel_kind: row::state(row, "channel_kind", ChannelKind::find)?,
        peer: row.try_get("peer")?,
        out_seq: row.try_get("out_seq")?,
        to_seq: row.try_get("to_seq")?,
        turn_id: row::optional_id(row, "turn_id", TurnId::from_uuid)?,
        kind: row::state(row, "kind", OutboxKind::find)?,
        body,
        epoch: row.try_get("epoch")?,
        attempts: row::count(row, "attempts")?,
    })
}

//! A conversation as a person sees it: what came in and what went out, in one order.

use jiff::Timestamp;
use qudao_domain::{
    ConversationId, TurnId,
    message::Part,
    state::{InboxState, OutboxState},
};
use sqlx::{Row as _, postgres::PgRow, types::Json};

use crate::{OutboxKind, ReplyBody, Result, StorageError, Tx, row};

/// How much of a conversation somebody has seen: up to which message in each direction.
/// Text form `<in>.<out>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TimelineCursor {
    /// The last inbound message.
    pub in_seq: i64,
    /// The last outbound message.
    pub out_seq: i64,
}

impl std::fmt::Display for TimelineCursor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.in_seq, self.out_seq)
    }
}

impl std::str::FromStr for TimelineCursor {
    type Err = StorageError;

    /// The empty text is the beginning.
    fn from_str(text: &str) -> Result<Self> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        let number = |part: &str| {
            let digits = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
            if digits { part.parse().ok() } else { None }
        };
        let (in_seq, out_seq) = text.split_once('.').ok_or(StorageError::BadCursor)?;
        match (number(in_seq), number(out_seq)) {
            (Some(in_seq), Some(out_seq)) => Ok(Self { in_seq, out_seq }),
            _ => Err(StorageError::BadCursor),
        }
    }
}

/// Who says an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimelineRole {
    /// The person.
    User(InboxState),
    /// The assistant.
    Assistant(OutboxState),
    /// The platform.
    Notice(OutboxState),
}

/// Something that was said.
#[derive(Debug, Clone, PartialEq)]
pub struct TimelineItem {
    /// By whom, and what became of it.
    pub role: TimelineRole,
    /// Its place among the messages of its direction.
    pub seq: i64,
    /// What was said.
    pub text: String,
    /// What it is made of, if that is more than the text.
    pub parts: Vec<Part>,
    /// The channel's own id of an inbound message.
    pub external_id: Option<String>,
    /// The turn that answered it or that it comes from.
    pub turn_id: Option<TurnId>,
    /// When it was stored.
    pub at: Timestamp,
    /// How much somebody has seen who has seen everything up to this item.
    pub cursor: TimelineCursor,
}

impl Tx {
    /// What was said after `after`, the oldest first, at most `limit` items. Replies stand
    /// behind the messages that they answer. What was erased is left out.
    ///
    /// # Errors
    /// [`StorageError`].
    pub async fn timeline(
        &mut self,
        conversation_id: ConversationId,
        after: TimelineCursor,
        limit: u32,
    ) -> Result<Vec<TimelineItem>> {
        let rows = sqlx::query(
            "SELECT place, outbound, seq, kind, state, body, external_id, turn_id, at FROM ( \
                 (SELECT seq AS place, false AS outbound, seq, NULL AS kind, state, body, \
                         external_id, turn_id, app.micros(accepted_at) AS at \
                  FROM inbox \
                  WHERE tenant_id = $1 AND conversation_id = $2 AND seq > $3 \
                    AND body -> 'erased' IS NULL \
                  ORDER BY seq LIMIT $5) \
                 UNION ALL \
                 (SELECT to_seq, true, out_seq, kind, state, body, \
                         NULL, turn_id, app.micros(created_at) \
                  FROM outbox \
                  WHERE tenant_id = $1 AND conversation_id = $2 AND out_seq > $4 \
                    AND body -> 'erased' IS NULL \
                  ORDER BY out_seq LIMIT $5) \
             ) said \
             ORDER BY place, outbound, seq LIMIT $5",
        )
        .bind(self.tenant_id().as_uuid())
        .bind(conversation_id.as_uuid())
        .bind(after.in_seq)
        .bind(after.out_seq)
        .bind(i64::from(limit))
        .fetch_all(self.connection())
        .await?;
        let mut seen = after;
        rows.iter().map(|row| Ok(read_item(row, &mut seen)?)).collect()
    }
}

fn read_item(row: &PgRow, seen: &mut TimelineCursor) -> Result<TimelineItem, sqlx::Error> {
    let seq = row.try_get("seq")?;
    let outbound: bool = row.try_get("outbound")?;
    let role = if outbound {
        seen.out_seq = seq;
        let state = row::state(row, "state", OutboxState::find)?;
        match row::state(row, "kind", OutboxKind::find)? {
            OutboxKind::Reply => TimelineRole::Assistant(state),
            OutboxKind::Notice => TimelineRole::Notice(state),
        }
    } else {
        seen.in_seq = seq;
        TimelineRole::User(row::state(row, "state", InboxState::find)?)
    };
    let Json(ReplyBody { text, parts }) = row.try_get("body")?;
    Ok(TimelineItem {
        role,
        seq,
        text,
        parts,
        external_id: row.try_get("external_id")?,
        turn_id: row::optional_id(row, "turn_id", TurnId::from_uuid)?,
        at: row::time(row, "at")?,
        cursor: *seen,
    })
}

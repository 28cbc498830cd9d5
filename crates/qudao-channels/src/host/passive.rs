//! Replies that go within the answer to a platform's own request.

use std::time::Duration;

use qudao_core::{
    Accepted,
    channel::{
        adapter::{Answer, ChannelAdapter, Outgoing, RawRequest},
        setup::OpenChannel,
    },
};
use qudao_domain::{message::Message, render::render};
use qudao_storage::{PassiveReply, SentPiece, StorageError, Tx};
use tokio::time::{Instant, sleep};

use super::{Host, deliver::whole_message};

/// How often a reply is looked for that the platform waits for.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// What is left of a reply waits so long before it is tried by other means.
const REST: Duration = Duration::from_millis(4800);

/// A piece of a reply that goes within an answer.
pub(super) struct PassivePiece {
    id: String,
    piece: u32,
    message: Message,
}

impl Host {
    /// The next piece of the reply to a message, taken from the outbox if it is there in time. A
    /// platform that asks the same again is given the same.
    pub(super) async fn await_reply(
        &self,
        channel: &OpenChannel,
        adapter: &dyn ChannelAdapter,
        accepted: Accepted,
        until: Instant,
    ) -> Result<Option<PassivePiece>, StorageError> {
        loop {
            let mut tx = self.core.store.begin(channel.config.tenant_id).await?;
            let found = take(&mut tx, channel, adapter, accepted).await?;
            tx.commit().await?;
            if found.is_some() || until <= Instant::now() {
                return Ok(found);
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// The answer that carries a piece.
    pub(super) fn passive_answer(
        &self,
        channel: &OpenChannel,
        adapter: &dyn ChannelAdapter,
        request: &RawRequest,
        taken: &PassivePiece,
    ) -> Option<Answer> {
        let now = self.core.clock.now();
        let out = Outgoing {
            id: &taken.id,
            piece: taken.piece,
            thread: "",
            message: &taken.message,
            answered: None,
            preview_id: None,
            now,
        };
        adapter.passive_answer(&channel.config, request, &out, now)
    }
}

async fn take(
    tx: &mut Tx,
    channel: &OpenChannel,
    adapter: &dyn ChannelAdapter,
    accepted: Accepted,
) -> Result<Option<PassivePiece>, StorageError> {
    let conversation_id = accepted.conversation_id;
    // By which a question that is asked again is told from the next one.
    let mark = format!("answer:{}", accepted.seq);
    if accepted.duplicate
        && let Some((reply, piece)) =
            tx.answer_given(conversation_id, &mark, channel.config.channel_id).await?
    {
        return Ok(piece_of(channel, adapter, &reply, piece).map(|(piece, _)| piece));
    }
    let Some(reply) = tx.open_reply(conversation_id).await? else { return Ok(None) };
    let sent = tx.pieces_sent(reply.outbox_id).await?;
    let piece = (0..).find(|at| !sent.contains(at)).unwrap_or_default();
    let Some((taken, last)) = piece_of(channel, adapter, &reply, piece) else { return Ok(None) };
    tx.record_piece(SentPiece {
        outbox_id: reply.outbox_id,
        piece,
        channel_id: channel.config.channel_id,
        conversation_id,
        external_id: Some(&mark),
    })
    .await?;
    tx.give_as_answer(reply.outbox_id, (!last).then_some(REST)).await?;
    Ok(Some(taken))
}

/// A piece, and whether it is the last one.
fn piece_of(
    channel: &OpenChannel,
    adapter: &dyn ChannelAdapter,
    reply: &PassiveReply,
    piece: u32,
) -> Option<(PassivePiece, bool)> {
    let capabilities = adapter.capabilities(&channel.config);
    let pieces = render(&whole_message(reply.kind, &reply.body), &capabilities).ok()?;
    let last = pieces.len() <= piece as usize + 1;
    let message = pieces.into_iter().nth(piece as usize)?;
    Some((PassivePiece { id: reply.outbox_id.to_string(), piece, message }, last))
}

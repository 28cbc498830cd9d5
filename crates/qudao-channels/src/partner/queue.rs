//! Puts events at the end of a partner's log.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use qudao_core::Core;
use qudao_domain::{
    ChannelId, ConversationId, OutboxId, TenantId,
    capability::Capabilities,
    message::Message,
    render::{Rejected, render},
};
use qudao_pcp::{Conversation, Event, EventId, MessageData, TurnData, WireMessage, kind};
use qudao_storage::{NewPartnerEvent, StorageError, Topic, Tx};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    media::{MEDIA_GOOD_FOR, MediaLink},
    rules::{GOOD_FOR, good_for},
};

/// A conversation of a partner.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// Whose.
    pub tenant_id: TenantId,
    /// On which channel.
    pub channel_id: ChannelId,
    /// What the partner calls it; empty for the channel as a whole.
    pub thread: &'a str,
    /// What the platform calls it.
    pub conversation_id: Option<&'a str>,
}

/// Something to be said.
#[derive(Debug, Clone, Copy)]
pub struct Say<'a> {
    /// What, before it is rendered for the partner.
    pub message: &'a Message,
    /// `assistant` or `notice`.
    pub role: &'a str,
    /// The turn that made it.
    pub turn: Option<&'a str>,
    /// The partner's id of the message that is answered.
    pub in_reply_to: Option<&'a str>,
    /// The place of the last message that is answered.
    pub answers: i64,
    /// The outbox's message that this is.
    pub from: Option<OutboxId>,
    /// When it may be sent first.
    pub delay: Duration,
    /// When it is of no use any more.
    pub expires_in: Duration,
    /// What goes wrong on purpose.
    pub fault: Option<&'a str>,
}

static NOTHING: Message = Message { parts: Vec::new(), reply_to: None };

impl Default for Say<'_> {
    fn default() -> Self {
        Self {
            message: &NOTHING,
            role: "assistant",
            turn: None,
            in_reply_to: None,
            answers: 0,
            from: None,
            delay: Duration::ZERO,
            expires_in: GOOD_FOR,
            fault: None,
        }
    }
}

/// Says things in a conversation, in order: the last of them ends the answer.
///
/// # Errors
/// [`StorageError`]; a [`Rejected`] says that the partner takes no such part, and nothing is kept.
pub(super) async fn say_with(
    tx: &mut Tx,
    place: Place<'_>,
    caps: &Capabilities,
    links: Option<&MediaLink>,
    all: &[Say<'_>],
    now: Timestamp,
) -> Result<Result<(), Rejected>, StorageError> {
    let mut pieces = Vec::new();
    for say in all {
        match render(say.message, caps) {
            Ok(rendered) => pieces.extend(rendered.into_iter().map(|piece| (say, piece))),
            Err(rejected) => return Ok(Err(rejected)),
        }
    }
    let mut thread = tx.lock_partner_thread(place.channel_id, place.thread).await?;
    let (first, count) = (thread.out_seq + 1, pieces.len());
    let mut numbered: Vec<_> = pieces.into_iter().enumerate().collect();
    // In the sandbox: the second stands before the first in the log, not by number.
    if numbered.iter().any(|(_, (say, _))| say.fault == Some("reorder")) {
        numbered.reverse();
    }
    for (index, (say, mut piece)) in numbered {
        if let Some(links) = links {
            let until = now.saturating_add(MEDIA_GOOD_FOR).unwrap_or(now);
            piece.parts.iter_mut().for_each(|part| links.give(part, until));
        }
        let last = index + 1 == count;
        let seq = first + i64::try_from(index).unwrap_or_default();
        let id = match say.from {
            Some(outbox) => EventId::parse(&format!("evt_{}_{index}", outbox.as_uuid().simple())),
            None => Ok(EventId::generate()),
        };
        let id = id.unwrap_or_else(|_| EventId::generate());
        let event = message_event(place, say, &piece, (id, seq, index, last), now);
        let new = NewPartnerEvent {
            event_id: event.id.as_str(),
            kind: &event.kind,
            thread: place.thread,
            seq: Some(seq),
            body: &event.to_bytes(),
            piece: say.from.map(|outbox| (outbox, i32::try_from(index).unwrap_or_default())),
            answers: Some((say.answers, last)),
            delay: say.delay,
            expires_in: Some(say.delay + say.expires_in),
            fault: say.fault,
        };
        tx.add_partner_event(place.channel_id, &new).await?;
    }
    thread.out_seq += i64::try_from(count).unwrap_or_default();
    tx.set_partner_thread(place.channel_id, place.thread, thread).await?;
    Ok(Ok(()))
}

fn message_event(
    place: Place<'_>,
    say: &Say<'_>,
    piece: &Message,
    (id, seq, index, is_final): (EventId, i64, usize, bool),
    now: Timestamp,
) -> Event {
    let message_id = id.as_str().replacen("evt_", "msg_", 1);
    let turn = say.turn.unwrap_or(&message_id).to_owned();
    let data = MessageData {
        turn: Some(TurnData {
            id: turn,
            in_reply_to: say.in_reply_to.map(str::to_owned),
            index,
            is_final,
        }),
        message: WireMessage {
            id: Some(message_id.clone()),
            role: Some(say.role.to_owned()),
            idempotency_key: Some(message_id),
            reply_to: piece.reply_to.clone(),
            ..WireMessage::of(&piece.parts)
        },
    };
    Event {
        id,
        seq: Some(seq),
        expires_at: now.saturating_add(say.delay + say.expires_in).ok(),
        ..envelope(
            place,
            kind::MESSAGE_CREATED,
            serde_json::to_value(data).unwrap_or_default(),
            now,
        )
    }
}

fn envelope(place: Place<'_>, of: &str, data: Value, now: Timestamp) -> Event {
    let conversation = (!place.thread.is_empty()).then(|| Conversation {
        id: place.conversation_id.map(str::to_owned),
        external_id: place.thread.to_owned(),
        ..Conversation::default()
    });
    Event {
        tenant: Some(place.tenant_id.to_string()),
        channel: Some(place.channel_id.to_string()),
        conversation,
        ..Event::new(of, now, data)
    }
}

/// Tells a partner something that waits for nobody and that nobody waits for.
///
/// # Errors
/// [`StorageError`].
pub(super) async fn tell(
    tx: &mut Tx,
    place: Place<'_>,
    of: &str,
    data: Value,
    now: Timestamp,
) -> Result<(), StorageError> {
    tell_later(tx, place, of, data, (Duration::ZERO, now)).await
}

/// As [`tell`], after a while.
///
/// # Errors
/// [`StorageError`].
pub(super) async fn tell_later(
    tx: &mut Tx,
    place: Place<'_>,
    of: &str,
    data: Value,
    (delay, now): (Duration, Timestamp),
) -> Result<(), StorageError> {
    let good_for = good_for(of);
    let event = Event {
        expires_at: good_for.and_then(|time| now.saturating_add(time).ok()),
        ..envelope(place, of, data, now)
    };
    let new = NewPartnerEvent {
        event_id: event.id.as_str(),
        kind: of,
        thread: place.thread,
        seq: None,
        body: &event.to_bytes(),
        piece: None,
        answers: None,
        delay,
        expires_in: good_for.map(|time| delay + time),
        fault: None,
    };
    tx.add_partner_event(place.channel_id, &new).await.map(drop)
}

/// Tells a partner something about its channel.
///
/// # Errors
/// [`StorageError`].
pub async fn say(
    tx: &mut Tx,
    place: Place<'_>,
    of: &str,
    data: Value,
    now: Timestamp,
) -> Result<(), StorageError> {
    tell(tx, place, of, data, now).await
}

/// A conversation lost messages.
pub(super) async fn tell_gap(
    tx: &mut Tx,
    place: Place<'_>,
    seq: i64,
    reason: &str,
    now: Timestamp,
) -> Result<(), StorageError> {
    let data = json!({ "from_seq": seq, "to_seq": seq, "reason": reason });
    tell(tx, place, kind::DELIVERY_GAP, data, now).await
}

/// Tells senders and readers on every node that a channel's log has grown.
pub async fn announce(core: &Arc<Core>, channel_id: ChannelId) {
    tell_readers(core, channel_id, Vec::new()).await;
}

/// A message that will be answered: whoever follows the channel may watch the answer grow.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Asked {
    /// The platform's conversation.
    pub conversation_id: ConversationId,
    /// The partner's.
    pub thread: String,
}

/// [`announce`], and where the answer will grow.
pub(super) async fn announce_asked(core: &Arc<Core>, channel_id: ChannelId, asked: &Asked) {
    tell_readers(core, channel_id, serde_json::to_vec(asked).unwrap_or_default()).await;
}

async fn tell_readers(core: &Arc<Core>, channel_id: ChannelId, hint: Vec<u8>) {
    core.wake.partner.notify_one();
    core.bus.publish(&Topic::Partner(channel_id), hint).await;
}

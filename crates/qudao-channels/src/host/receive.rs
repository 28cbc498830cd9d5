//! What comes in: verified and read by the adapter, durable before it is acknowledged.

use std::{sync::Arc, time::Duration};

use metrics::counter;
use qudao_core::{
    AcceptError, Accepted, TooFast,
    channel::{
        adapter::{Answer, ChannelAdapter, Parsed, RawRequest, Reject},
        event::{Event, EventBody, ReceiptState},
        setup::{OpenChannel, SetupError},
    },
    failpoint,
};
use qudao_domain::{
    ChannelId, Micros, TenantId,
    key::SecretHash,
    message::{Message, Part, TextFormat},
    text::{ExternalId, IdempotencyKey, MessageText},
};
use qudao_storage::{ChannelEvent, CreditSource, Inbound, MessageBody, NewCredit, StorageError};
use qudao_telemetry::Trace;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{Host, HostError};

/// How much of an event's raw form is kept, in bytes of JSON. More is left out, and said so.
const RAW_MAX: usize = 256 << 10;
/// What is answered is on its way by then.
const ANSWER_ROOM: Duration = Duration::from_millis(300);

/// What is answered to a platform.
#[derive(Debug)]
pub struct Received {
    /// The answer.
    pub answer: Answer,
    /// How many events of the request were new.
    pub fresh: usize,
}

/// Why a request was not taken. Nothing of it counts; the platform may send it again.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReceiveError {
    /// It is not what the platform sends.
    #[error(transparent)]
    Rejected(#[from] Reject),
    /// The platform itself cannot take it now.
    #[error(transparent)]
    Host(#[from] HostError),
    /// Messages come too fast.
    #[error(transparent)]
    TooFast(#[from] TooFast),
    /// A message could not be accepted now.
    #[error(transparent)]
    Accept(#[from] AcceptError),
}

impl From<StorageError> for ReceiveError {
    fn from(error: StorageError) -> Self {
        HostError::from(error).into()
    }
}

impl From<Arc<SetupError>> for ReceiveError {
    fn from(error: Arc<SetupError>) -> Self {
        HostError::from(error).into()
    }
}

/// Where a message stands that was accepted, or had been before.
pub(super) type Stood = Option<Accepted>;

impl Host {
    /// Takes a request that came to a channel's inbound address. When this returns, everything in
    /// it is durable.
    ///
    /// # Errors
    /// [`ReceiveError`].
    pub async fn receive(
        self: &Arc<Self>,
        tenant_id: TenantId,
        channel_id: ChannelId,
        request: &RawRequest,
        origin: Trace,
    ) -> Result<Received, ReceiveError> {
        let arrived = Instant::now();
        let (channel, adapter) = self.open(tenant_id, channel_id).await?;
        let now = self.core.clock.now();
        let Parsed { events, answer, patience } =
            adapter.verify_and_parse(&channel.config, request, now)?;
        let (fresh, last) = self.take_in(&channel, adapter, &events, origin).await?;
        failpoint!("inbound.taken");
        let mut answer = answer;
        if let (Some(patience), Some(accepted)) = (patience, last) {
            let until = arrived + patience.saturating_sub(ANSWER_ROOM);
            let reply = self.await_reply(&channel, &**adapter, accepted, until).await?;
            if let Some(passive) =
                reply.and_then(|reply| self.passive_answer(&channel, &**adapter, request, &reply))
            {
                answer = passive;
            }
        }
        Ok(Received { answer, fresh })
    }

    /// Makes events durable, in order. How many were new, and where the last message stands.
    ///
    /// # Errors
    /// [`ReceiveError`]; the events before the one that failed are durable, and the same events may
    /// be given again.
    pub(super) async fn take_in(
        self: &Arc<Self>,
        channel: &Arc<OpenChannel>,
        adapter: &Arc<dyn ChannelAdapter>,
        events: &[Event],
        origin: Trace,
    ) -> Result<(usize, Stood), ReceiveError> {
        let (mut fresh, mut last) = (0, None);
        for event in events {
            let event = &*self.recall(channel, event).await?;
            let kind = kind_of(&event.body);
            let (new, stood) = self.take_event(channel, event, origin).await?;
            last = stood.or(last);
            fresh += usize::from(new);
            counter!(
                "qudao_channel_events_total", "channel" => channel.kind.as_str(),
                "kind" => kind, "outcome" => if new { "new" } else { "repeated" }
            )
            .increment(1);
            if new {
                self.acknowledge(channel, adapter, event);
            }
        }
        Ok((fresh, last))
    }

    /// What a platform wants within seconds does not wait for a turn.
    fn acknowledge(
        self: &Arc<Self>,
        channel: &Arc<OpenChannel>,
        adapter: &Arc<dyn ChannelAdapter>,
        event: &Event,
    ) {
        let Some(plan) = adapter.acknowledge(&channel.config, event) else { return };
        let (host, channel, adapter) = (Arc::clone(self), Arc::clone(channel), Arc::clone(adapter));
        self.core.tasks.spawn_on(
            async move {
                let made = host.request(&channel, &*adapter, &plan).await;
                let failed = made.as_ref().map_or(true, |response| !response.is_success());
                if failed {
                    tracing::info!(purpose = plan.purpose, "an acknowledgement was not taken");
                }
            },
            &self.runtime,
        );
    }

    /// Writes an event down and does what it says, in one transaction. `false` if it had come
    /// before.
    pub(super) async fn note(
        &self,
        channel: &OpenChannel,
        event: &Event,
        kind: &str,
    ) -> Result<bool, StorageError> {
        let config = &channel.config;
        let (id, thread) = (clipped(&event.id), clipped(&event.thread.external_id));
        let body = kept_raw(&event.raw);
        let named = match &event.body {
            EventBody::Unknown { kind: known_as } => unknown_kind(known_as),
            _ => kind.to_owned(),
        };
        let mut tx = self.core.store.begin(config.tenant_id).await?;
        let noted = ChannelEvent {
            channel_id: config.channel_id,
            event_id: &id,
            kind: &named,
            thread: &thread,
            body: &body,
        };
        if !tx.note_channel_event(noted).await? {
            tx.commit().await?;
            return Ok(false);
        }
        match &event.body {
            EventBody::Receipt { external_id, state } => {
                tx.record_receipt(config.channel_id, external_id, receipt(*state)).await?;
            }
            EventBody::Unreachable => {
                tx.set_reachable(config.channel_id, &thread, false).await?;
            }
            EventBody::Reachable => {
                tx.set_reachable(config.channel_id, &thread, true).await?;
            }
            EventBody::Paid(paid) => {
                if let Some(credit) = self.credit(channel, event, &paid.charge_id) {
                    tx.add_credit(&credit).await?;
                }
            }
            EventBody::Refunded(paid) => {
                if let Some(credit) = self.credit(channel, event, &paid.charge_id) {
                    // It may be told before the payment: then the payment finds itself taken back.
                    tx.add_credit(&credit).await?;
                    tx.reverse_credit(&credit.idempotency_key).await?;
                }
            }
            EventBody::Moved { to } => {
                tx.move_conversation(config.channel_id, &thread, &clipped(to)).await?;
            }
            _ => {}
        }
        if let Some(attribution) = &event.attribution {
            tx.attribute(config.channel_id, &thread, &json!(attribution)).await?;
        }
        tx.commit().await?;
        Ok(true)
    }

    /// What a payment adds to the wallet. The charge's id is the key: however often it is told, it
    /// counts once.
    fn credit(&self, channel: &OpenChannel, event: &Event, charge_id: &str) -> Option<NewCredit> {
        let adapter = self.adapters.get(&channel.kind)?;
        let amount = adapter.credit(&channel.config, event).filter(|amount| 0 < *amount)?;
        let key = format!("{}:{}", channel.config.channel_id, clipped(charge_id));
        let idempotency_key = IdempotencyKey::parse(&key).ok()?;
        Some(NewCredit {
            idempotency_key,
            amount: Micros::new(amount),
            source: CreditSource::Cash,
            note: format!("{} payment", channel.kind.as_str()),
        })
    }
}

/// The message as the inbox keeps it; `None` if it says nothing or its ids cannot be kept.
pub(super) fn inbound(
    channel: &OpenChannel,
    event: &Event,
    external_id: &str,
    message: &Message,
) -> Option<Inbound> {
    let text: String = message.to_text().replace('\0', "");
    let text: String = text.trim().chars().take(MessageText::MAX_CHARS).collect();
    if text.is_empty() {
        return None;
    }
    let plain = matches!(message.parts[..], [Part::Text { format: TextFormat::Plain, .. }]);
    let mut parts = if plain { Vec::new() } else { message.parts.clone() };
    scrub_parts(&mut parts);
    let sender = &event.sender;
    let known = sender.name.is_some() || event.thread.group;
    Some(Inbound {
        channel_id: channel.config.channel_id,
        external_id: ExternalId::parse(&clipped(external_id)).ok()?,
        peer: ExternalId::parse(&clipped(&event.thread.external_id)).ok()?,
        body: MessageBody {
            text,
            parts,
            reply_to: message.reply_to.clone(),
            sender: known.then(|| scrubbed(json!(sender))),
            album: None,
            raw: Some(kept_raw(&event.raw)),
        },
    })
}

/// An id as it is kept: at most 200 characters. A longer one is told from others by its hash.
pub(super) fn clipped(id: &str) -> String {
    let id = id.replace('\0', "");
    if id.chars().count() <= ExternalId::MAX_CHARS {
        return if id.is_empty() { "-".to_owned() } else { id };
    }
    let kept: String = id.chars().take(ExternalId::MAX_CHARS - 65).collect();
    format!("{kept}#{}", hex::encode(SecretHash::of(&id).as_bytes()))
}

fn kept_raw(raw: &Value) -> Value {
    let size = raw.to_string().len();
    if RAW_MAX < size {
        return json!({ "left_out": "too large", "bytes": size });
    }
    scrubbed(raw.clone())
}

/// Without the character U+0000, which Postgres cannot keep in JSON.
fn scrubbed(mut value: Value) -> Value {
    match &mut value {
        Value::String(text) if text.contains('\0') => *text = text.replace('\0', ""),
        Value::Array(items) => {
            for item in items {
                *item = scrubbed(item.take());
            }
        }
        Value::Object(fields) => {
            let taken = std::mem::take(fields).into_iter();
            *fields = taken.map(|(name, item)| (name.replace('\0', ""), scrubbed(item))).collect();
        }
        _ => {}
    }
    value
}

fn scrub_parts(parts: &mut Vec<qudao_domain::message::Part>) {
    let kept = serde_json::to_value(&*parts).map(scrubbed).and_then(serde_json::from_value);
    *parts = kept.unwrap_or_default();
}

/// `unknown:` and what the platform calls it.
fn unknown_kind(known_as: &str) -> String {
    let plain = known_as.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '_' || *c == '.');
    format!("unknown:{}", plain.take(50).collect::<String>())
}

const fn receipt(state: ReceiptState) -> &'static str {
    match state {
        ReceiptState::Sent => "sent",
        ReceiptState::Delivered => "delivered",
        ReceiptState::Read => "read",
        ReceiptState::Failed => "failed",
    }
}

/// What an event is called in the table of events and in metrics.
pub(super) const fn kind_of(body: &EventBody) -> &'static str {
    match body {
        EventBody::Message { .. } => "message",
        EventBody::Piece { .. } => "piece",
        EventBody::Overheard => "overheard",
        EventBody::Edited { .. } => "edited",
        EventBody::Deleted { .. } => "deleted",
        EventBody::Pressed { .. } | EventBody::Recalled { .. } => "pressed",
        EventBody::Lapsed => "lapsed",
        EventBody::Reaction { .. } => "reaction",
        EventBody::Typing => "typing",
        EventBody::Receipt { .. } => "receipt",
        EventBody::Unreachable => "unreachable",
        EventBody::Reachable => "reachable",
        EventBody::Moved { .. } => "moved",
        EventBody::Paid(_) => "paid",
        EventBody::Refunded(_) => "refunded",
        EventBody::Unknown { .. } => "unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_postgres_cannot_keep_is_taken_out() {
        let value = json!({ "a\0": ["b\0c", { "d": "\0" }], "n": 1 });
        assert_eq!(scrubbed(value), json!({ "a": ["bc", { "d": "" }], "n": 1 }));
    }

    #[test]
    fn a_long_id_stays_one_and_no_other() {
        let (one, other) = ("x".repeat(300), format!("{}y", "x".repeat(299)));
        assert_eq!(clipped("short"), "short");
        assert_eq!(clipped(&one).chars().count(), 200);
        assert_ne!(clipped(&one), clipped(&other));
    }
}

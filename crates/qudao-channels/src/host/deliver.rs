//! What the outbox hands over goes to its platform: rendered by the channel's capabilities, piece by
//! piece, each written down when the other side has it.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use metrics::counter;
use qudao_core::{
    Channel, DeliverError, PreviewEvent,
    channel::{
        adapter::{Answered, ChannelAdapter, Failure, FailureReason, Outcome, Outgoing},
        plan::{Plan, RawResponse},
        setup::OpenChannel,
    },
    failpoint,
};
use qudao_domain::{
    capability::RateCapability,
    message::{Message, TextFormat},
    render::render,
    state::ChannelKind,
};
use qudao_storage::{
    AnsweredMessage, Bucket, OutboxClaim, OutboxKind, Owner, Rate, ReplyBody, SentPiece,
    StorageError, Topic, Verdict,
};

use super::{Host, HostError, SHORT_WAIT, requests::NoAnswer};

/// Plans that one piece may lead to: uploads in steps, the same as plain text.
const MOST_PLANS: usize = 16;
/// A reply that only an answer can carry is tried by other means after this time from the question,
/// then again and again, and given up in the end.
const PASSIVE_FIRST: Duration = Duration::from_millis(4800);
const PASSIVE_AGAIN: Duration = Duration::from_secs(60);
const PASSIVE_LIFE: Duration = Duration::from_secs(48 * 3600);
/// How long a delivery waits whose channel's credentials are not valid: the tenant has to act.
const CREDENTIALS_WAIT: Duration = Duration::from_secs(60);

/// All channels of one kind, as the outbox sees them.
pub struct HostedChannel {
    host: Arc<Host>,
    kind: ChannelKind,
}

impl HostedChannel {
    pub(super) fn new(host: Arc<Host>, kind: ChannelKind) -> Self {
        Self { host, kind }
    }
}

#[async_trait]
impl Channel for HostedChannel {
    fn kind(&self) -> ChannelKind {
        self.kind
    }

    async fn deliver(&self, message: &OutboxClaim) -> Result<(), DeliverError> {
        let (channel, adapter) = match self.host.open(message.tenant_id, message.channel_id).await {
            Ok(found) => found,
            Err(error) => return Err(DeliverError::retry(error.to_string())),
        };
        let delivery =
            Delivery { host: &self.host, channel: &channel, adapter: &**adapter, message };
        delivery.run().await
    }
}

struct Delivery<'a> {
    host: &'a Host,
    channel: &'a OpenChannel,
    adapter: &'a dyn ChannelAdapter,
    message: &'a OutboxClaim,
}

/// What the database knows of a delivery.
struct Known {
    /// The message that is answered.
    answered: Option<AnsweredMessage>,
    /// The pieces that the other side has.
    sent: BTreeSet<u32>,
    /// The message that showed the answer while it grew.
    preview: Option<String>,
}

impl Delivery<'_> {
    async fn run(&self) -> Result<(), DeliverError> {
        let capabilities = self.adapter.capabilities(&self.channel.config);
        let mut whole = whole_message(self.message.kind, &self.message.body);
        self.host.know_files(&self.channel.config, &mut whole).await.map_err(storage)?;
        let pieces = render(&whole, &capabilities)
            .map_err(|rejected| DeliverError::refused(format!("unsupported: {rejected}")))?;
        self.host.previews.end(self.message.conversation_id).await;
        let known = self.read().await.map_err(storage)?;
        for (at, piece) in (0..).zip(&pieces) {
            if !known.sent.contains(&at) {
                self.keep_to_rate(&capabilities.rate).await?;
                self.send_piece(at, piece, &known).await?;
                failpoint!("delivery.piece");
            }
        }
        // Whoever shows the turn on another node stops.
        let hint = PreviewEvent::Message { out_seq: self.message.out_seq };
        let topic = Topic::Preview(self.message.conversation_id);
        self.host.core.bus.publish(&topic, hint.to_bytes()).await;
        Ok(())
    }

    async fn read(&self) -> Result<Known, StorageError> {
        let mut tx = self.host.core.store.begin(self.message.tenant_id).await?;
        let message = self.message;
        let answered = tx.answered_message(message.conversation_id, message.to_seq).await?;
        // The first try has sent nothing yet.
        let sent =
            if 1 < message.epoch { tx.pieces_sent(message.outbox_id).await? } else { Vec::new() };
        let preview = match message.turn_id {
            Some(turn) => tx.preview_of(turn).await?,
            None => None,
        };
        tx.commit().await?;
        Ok(Known { answered, sent: sent.into_iter().collect(), preview })
    }

    async fn send_piece(
        &self,
        at: u32,
        piece: &Message,
        known: &Known,
    ) -> Result<(), DeliverError> {
        let id = self.message.outbox_id.to_string();
        let out = Outgoing {
            id: &id,
            piece: at,
            thread: &self.message.peer,
            message: piece,
            answered: known.answered.as_ref().map(|answered| Answered {
                external_id: &answered.external_id,
                raw: &answered.raw,
                at: answered.at,
            }),
            preview_id: known.preview.as_deref(),
            now: self.host.core.clock.now(),
        };
        let plans = match self.adapter.render(&self.channel.config, &out) {
            Ok(plans) => plans,
            Err(failure) => return self.fail(failure).await,
        };
        let (mut waiting, mut made) = (VecDeque::from(plans), 0);
        let mut external_id = None;
        while let Some(plan) = waiting.pop_front() {
            made += 1;
            if plan == Plan::Passive {
                return Err(self.wait_for_question(&out));
            }
            if MOST_PLANS < made {
                return Err(DeliverError::refused("the platform asks for too many steps"));
            }
            match self.carry_out(&plan).await? {
                Outcome::Sent { external_id: id } => external_id = id.or(external_id),
                Outcome::Then(plans) => plans.into_iter().rev().for_each(|p| waiting.push_front(p)),
                Outcome::Retry { after: Some(after), detail } => {
                    return Err(DeliverError::wait(after, detail));
                }
                Outcome::Retry { after: None, detail } => return Err(DeliverError::retry(detail)),
                Outcome::TokenExpired => {
                    return Err(DeliverError::retry("the access token is not accepted"));
                }
                Outcome::Failed(failure) => return self.fail(failure).await,
            }
        }
        failpoint!("delivery.piece_sent");
        self.record(at, external_id.as_deref()).await.map_err(storage)
    }

    /// The reply stays in the outbox, where the answer to the platform's next question finds it
    /// ([`Host::receive`]), up to a point.
    fn wait_for_question(&self, out: &Outgoing<'_>) -> DeliverError {
        let age = out.answered.map_or(PASSIVE_LIFE, |answered| {
            Duration::try_from(out.now.duration_since(answered.at)).unwrap_or_default()
        });
        if PASSIVE_LIFE <= age {
            return DeliverError::refused("expired: the person did not write again");
        }
        let again = if age < PASSIVE_FIRST { PASSIVE_FIRST - age } else { PASSIVE_AGAIN };
        DeliverError::wait(again, "waits for the platform's question")
    }

    async fn carry_out(&self, plan: &Plan) -> Result<Outcome, DeliverError> {
        let config = &self.channel.config;
        for last_try in [false, true] {
            let response = match self.answer_to(plan).await {
                Ok(response) => response,
                Err(NoAnswer::NoToken(why)) => {
                    return Ok(Outcome::failed(FailureReason::Auth, why));
                }
                // A file that was let go of since the message was rendered: another try knows of it.
                Err(error) => return Err(DeliverError::retry(error.to_string())),
            };
            let outcome = self.adapter.classify(config, plan, &response);
            if outcome != Outcome::TokenExpired || last_try {
                return Ok(outcome);
            }
            self.host.drop_token(self.channel).await;
        }
        Ok(Outcome::TokenExpired)
    }

    async fn answer_to(&self, plan: &Plan) -> Result<RawResponse, NoAnswer> {
        match plan {
            Plan::Http(plan) => self.host.request(self.channel, self.adapter, plan).await,
            Plan::Mail(mail) => self.host.send_mail(mail).await,
            Plan::Passive => Ok(RawResponse::default()),
        }
    }

    /// What can never be sent, and what that says of the person and of the channel.
    async fn fail(&self, failure: Failure) -> Result<(), DeliverError> {
        counter!(
            "qudao_channel_failures_total",
            "channel" => self.channel.kind.as_str(), "reason" => failure.reason.as_str()
        )
        .increment(1);
        let told = self.tell(&failure).await;
        if let Err(error) = told {
            tracing::warn!(%error, "what a platform said is not written down");
        }
        let detail = failure.to_string();
        match failure.reason {
            // The message waits until the tenant has mended it, as long as any message waits.
            FailureReason::Auth => Err(DeliverError::wait(CREDENTIALS_WAIT, detail)),
            _ => Err(DeliverError::refused(detail)),
        }
    }

    async fn tell(&self, failure: &Failure) -> Result<(), StorageError> {
        let (message, config) = (self.message, &self.channel.config);
        let mut tx = self.host.core.store.begin(message.tenant_id).await?;
        match failure.reason {
            FailureReason::Blocked => {
                tx.set_reachable(message.channel_id, &message.peer, false).await?;
            }
            FailureReason::Auth => {
                let fault =
                    format!("the platform does not accept the credentials: {}", failure.detail);
                tx.record_channel_connection(config.channel_id, Err(&fault)).await?;
            }
            _ => {}
        }
        tx.commit().await
    }

    async fn record(&self, piece: u32, external_id: Option<&str>) -> Result<(), StorageError> {
        let message = self.message;
        let mut tx = self.host.core.store.begin(message.tenant_id).await?;
        tx.record_piece(SentPiece {
            outbox_id: message.outbox_id,
            piece,
            channel_id: message.channel_id,
            conversation_id: message.conversation_id,
            external_id,
        })
        .await?;
        tx.commit().await
    }

    /// Takes a message from the channel's and the conversation's rate, in Redis for all nodes.
    async fn keep_to_rate(&self, rate: &RateCapability) -> Result<(), DeliverError> {
        let channel = self.message.channel_id.to_string();
        let thread = self.message.conversation_id.to_string();
        let bucket = |kind, id: &str, per_s: Option<f64>| {
            let rate = rate_of(per_s.filter(|per_s| 0.0 < *per_s)?)?;
            Some(Bucket { kind, id: id.to_owned(), cost: 1, rate })
        };
        let buckets: Vec<_> = [
            bucket("channel_out", &channel, rate.per_s),
            bucket("thread_out", &thread, rate.per_conversation_per_s),
        ]
        .into_iter()
        .flatten()
        .collect();
        if buckets.is_empty() {
            return Ok(());
        }
        let mut waited = Duration::ZERO;
        loop {
            let owner = Owner::Tenant(self.message.tenant_id);
            let Verdict::Refused { retry_after, .. } =
                self.host.limiter.take(owner, &buckets).await
            else {
                return Ok(());
            };
            waited += retry_after;
            if SHORT_WAIT < waited {
                return Err(DeliverError::wait(retry_after, "the channel's rate"));
            }
            tokio::time::sleep(retry_after).await;
        }
    }
}

/// A rate per second in the limiter's terms.
fn rate_of(per_s: f64) -> Option<Rate> {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "bounded")]
    let whole = |rate: f64| rate.clamp(1.0, 1_000_000.0) as u32;
    Rate::per_minute(whole((per_s * 60.0).round()), whole(per_s.ceil()))
}

/// A model's answer is Markdown, the platform's own words are plain.
pub(super) fn whole_message(kind: OutboxKind, body: &ReplyBody) -> Message {
    if !body.parts.is_empty() {
        return Message { parts: body.parts.clone(), reply_to: None };
    }
    let format = match kind {
        OutboxKind::Reply => TextFormat::Markdown,
        OutboxKind::Notice => TextFormat::Plain,
    };
    Message::text(format, body.text.clone())
}

fn storage(error: StorageError) -> DeliverError {
    DeliverError::retry(HostError::from(error).to_string())
}

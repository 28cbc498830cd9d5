//! A turn: one or more unanswered messages and the reply to them; the unit of work and of charge.
//!
//! A worker that dies at any point is followed by another one, which derives the same turn id,
//! finds the same hold, and is the only one whose epoch the database accepts. A model may be
//! called twice for a turn; the tenant is charged once.

use std::{ops::RangeInclusive, sync::Arc, time::Duration};

use metrics::{counter, histogram};
use qudao_domain::{Micros, TenantId, TurnId, message::Part};
use qudao_storage::{
    Claim, Commit, CommitTurn, EndTurn, ReplyBody, StorageError, Topic, TurnContext, UsageLine,
};
use qudao_telemetry::{Span, SpanKind, Trace};
use rand::RngExt as _;
use tokio::time::{self, Instant};
use tracing::Instrument as _;

use crate::{
    AssistantState, Core, PreviewEvent, WatchedTurn, failpoint, faults::seeded_bug, notice::Notice,
    spans,
};

mod attached;
mod generate;
mod hold;
mod listen;
mod look;
mod prompt;
mod reply;
mod route;
mod steps;
mod stop;
mod typing;

pub(crate) use steps::TurnSteps;
pub(crate) use stop::RunningTurns;

use generate::{Answer, Generated};
use route::Routed;

/// How often the end of a turn is tried while the database does not answer.
const COMMIT_TRIES: u32 = 5;
/// How long a turn stands back that waits for what others have at the moment.
const POSTPONED: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(5);

/// What became of a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TurnOutcome {
    /// A reply was committed.
    Answered,
    /// The person stopped the answer; what they saw of it was committed.
    Stopped,
    /// No model was called: the wallet does not cover it. The person got a notice.
    Rejected,
    /// This attempt failed; the conversation is ready again after this wait.
    Released {
        /// The wait.
        retry_in: Duration,
    },
    /// The last attempt failed. The person got an apology, and the credits went back.
    Buried,
    /// Another node has the conversation, or the turn was over. Nothing was changed.
    Lost,
    /// The database does not answer. The lease will run out.
    Stuck,
}

impl TurnOutcome {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Stopped => "stopped",
            Self::Rejected => "rejected",
            Self::Released { .. } => "released",
            Self::Buried => "buried",
            Self::Lost => "lost",
            Self::Stuck => "stuck",
        }
    }
}

/// A claim and what it is about.
struct Turn {
    claim: Claim,
    id: TurnId,
    context: TurnContext,
    /// Pictures that the reply shows beside its words.
    shown: Vec<Part>,
    /// This attempt, in the turn's trace.
    place: Trace,
}

impl Core {
    /// Answers the messages of a claim, or ends the claim in another way.
    pub async fn run_turn(self: &Arc<Self>, claim: Claim) -> TurnOutcome {
        let mut span = spans::turn(&claim);
        // For the log lines of the turn, of whatever level.
        let scope = tracing::error_span!("turn", trace_id = %span.place().id());
        let outcome = self.attempt(claim, span.place()).instrument(scope).await;
        span.set("qudao.turn.outcome", outcome.as_str());
        if matches!(outcome, TurnOutcome::Buried | TurnOutcome::Stuck) {
            span.fail(outcome.as_str());
        }
        if outcome == TurnOutcome::Buried {
            let messages = (claim.to_seq - claim.from_seq + 1).unsigned_abs();
            counter!("qudao_messages_dead_total").increment(messages);
        }
        outcome
    }

    async fn attempt(self: &Arc<Self>, claim: Claim, place: Trace) -> TurnOutcome {
        let began = Instant::now();
        let attempt = match claim.attempts {
            0 | 1 => "1",
            2 => "2",
            3 => "3",
            _ => "more",
        };
        counter!("qudao_turn_attempts_total", "attempt" => attempt).increment(1);
        let outcome = match self.try_turn(claim, place).await {
            Ok(outcome) => outcome,
            Err(error) => {
                tracing::warn!(?error, conversation = %claim.conversation_id, "a turn is stuck");
                self.unstick(&claim, &error).await.unwrap_or_else(|error| {
                    let conversation = claim.conversation_id;
                    tracing::warn!(%error, %conversation, "a stuck turn keeps its lease");
                    TurnOutcome::Stuck
                })
            }
        };
        tracing::debug!(conversation = %claim.conversation_id, ?outcome, "turn");
        counter!("qudao_turns_total", "outcome" => outcome.as_str()).increment(1);
        histogram!("qudao_turn_seconds").record(began.elapsed());
        outcome
    }

    /// Gives a claim back at once, for another node to take. It does not count as an attempt: a
    /// node that shuts down says nothing about the question.
    pub async fn abandon_turn(&self, claim: &Claim) {
        match self.unclaim(claim, Duration::ZERO).await {
            Ok(true) => self.bus.publish(&Topic::WakeTurns, Vec::new()).await,
            Ok(false) => {}
            Err(error) => {
                tracing::warn!(%error, conversation = %claim.conversation_id, "cannot release a turn");
            }
        }
    }

    /// After an error of the database. One that passes does not count as an attempt; another one
    /// would come back for ever, so it ends like any failure.
    async fn unstick(
        self: &Arc<Self>,
        claim: &Claim,
        error: &StorageError,
    ) -> Result<TurnOutcome, StorageError> {
        if error.is_transient() {
            return self.postpone(claim).await;
        }
        if self.settings.turns.max_attempts <= claim.attempts {
            // The tenant's language may be what cannot be read.
            let both = ["zh", "en"].map(|locale| Notice::GaveUp.text(locale)).join("\n");
            let id = turn_id(claim);
            return self.bury(claim.tenant_id, &end_turn(claim, id, both)).await;
        }
        self.retry(claim).await
    }

    async fn try_turn(
        self: &Arc<Self>,
        claim: Claim,
        place: Trace,
    ) -> Result<TurnOutcome, StorageError> {
        let id = turn_id(&claim);
        let context = self.taken(claim).await?;
        if context.pending.is_empty() {
            self.release(&claim, Duration::ZERO).await?;
            return Ok(TurnOutcome::Lost);
        }
        failpoint!("turn.read");
        self.record_wait(&context, place);
        let mut turn = Turn { claim, id, context, shown: Vec::new(), place };
        if self.settings.turns.max_attempts < claim.attempts {
            return self.bury(claim.tenant_id, &turn.end(Notice::GaveUp)).await;
        }
        if 1 < claim.attempts {
            let reset = PreviewEvent::Reset { turn: id, epoch: claim.epoch };
            self.show(claim.conversation_id, &reset).await;
        }
        self.show_status(claim.conversation_id, AssistantState::Thinking).await;
        self.tell_watcher(&turn);
        let generated = tokio::select! {
            biased;
            () = self.lose_lease(&claim) => {
                counter!("qudao_leases_lost_total").increment(1);
                return Ok(TurnOutcome::Lost);
            }
            // Boxed: it is most of a turn, and a turn is a part of many futures.
            generated = Box::pin(async {
                self.look(&mut turn).await;
                self.listen(&mut turn).await;
                self.generate(&turn).await
            }) => generated?,
        };
        let (generated, routed) = generated;
        self.finish(turn, generated, routed).await
    }

    async fn finish(
        self: &Arc<Self>,
        turn: Turn,
        generated: Generated,
        routed: Routed,
    ) -> Result<TurnOutcome, StorageError> {
        if !matches!(generated, Generated::Answer(_) | Generated::Fenced) {
            self.record_unanswered(&turn, routed.clone(), generated.end());
        }
        match generated {
            Generated::Answer(answer) => {
                let stopped = answer.stopped;
                if stopped {
                    self.show_status(turn.claim.conversation_id, AssistantState::Stopped).await;
                }
                let core = Arc::clone(self);
                // A task of its own: shutdown must not stop a commit half way.
                let commit = async move { core.commit(&turn, *answer, routed).await };
                let commit = self.spawn(commit.in_current_span());
                let committed = commit.await.unwrap_or(Ok(false))?;
                Ok(match (committed, stopped) {
                    (false, _) => TurnOutcome::Lost,
                    (true, true) => TurnOutcome::Stopped,
                    (true, false) => TurnOutcome::Answered,
                })
            }
            Generated::Nothing => {
                self.show_status(turn.claim.conversation_id, AssistantState::Stopped).await;
                self.reject(&turn, Notice::Stopped, TurnOutcome::Stopped).await
            }
            Generated::NoFunds => self.reject(&turn, Notice::NoFunds, TurnOutcome::Rejected).await,
            Generated::Busy { detail } => self.wait(&turn, &detail).await,
            Generated::Fenced => Ok(TurnOutcome::Lost),
            Generated::Failed { detail, hopeless } => self.fail(&turn, &detail, hopeless).await,
        }
    }

    fn tell_watcher(&self, turn: &Turn) {
        let Some(watcher) = self.watcher.get() else { return };
        Arc::clone(watcher).turn_begins(WatchedTurn {
            tenant_id: turn.claim.tenant_id,
            channel_id: turn.context.channel_id,
            channel_kind: turn.context.channel_kind,
            conversation_id: turn.claim.conversation_id,
            turn_id: turn.id,
            epoch: turn.claim.epoch,
        });
    }

    fn record_wait(&self, context: &TurnContext, place: Trace) {
        let Some(first) = context.pending.first() else { return };
        let waited = self.clock.now().duration_since(first.at).as_secs_f64();
        let waited = Duration::try_from_secs_f64(waited).unwrap_or_default();
        histogram!("qudao_turn_wait_seconds").record(waited);
        Span::child("wait", SpanKind::Internal, place).backdate(waited);
    }

    /// Extends the lease again and again. Returns when the lease is lost.
    async fn lose_lease(&self, claim: &Claim) {
        let settings = &self.settings.turns;
        let mut good_until = Instant::now() + settings.lease;
        loop {
            time::sleep(settings.heartbeat).await;
            let asked = Instant::now();
            let beat = time::timeout_at(good_until, self.beat(claim, settings.lease));
            let beat = beat.await;
            let outcome = match &beat {
                Ok(Ok(true)) => "kept",
                Ok(Ok(false)) => "lost",
                Ok(Err(_)) | Err(_) => "failed",
            };
            counter!("qudao_lease_renewals_total", "outcome" => outcome).increment(1);
            match beat {
                Ok(Ok(true)) => good_until = asked + settings.lease,
                Ok(Ok(false)) | Err(_) => return,
                Ok(Err(_)) if good_until <= Instant::now() => return,
                Ok(Err(error)) => {
                    tracing::warn!(%error, conversation = %claim.conversation_id, "no heartbeat");
                }
            }
        }
    }

    async fn beat(&self, claim: &Claim, lease: Duration) -> Result<bool, StorageError> {
        let mut tx = self.store.begin(claim.tenant_id).await?;
        let kept = tx.heartbeat(claim.conversation_id, claim.epoch, lease).await?;
        tx.commit().await?;
        failpoint!("turn.lease_extended");
        Ok(kept)
    }

    /// T4. Whether this node was still the one to do it.
    async fn commit(
        self: &Arc<Self>,
        turn: &Turn,
        answer: Answer,
        routed: Routed,
    ) -> Result<bool, StorageError> {
        let mut span = Span::child("commit", SpanKind::Client, turn.place);
        let Turn { claim, id, context, .. } = turn;
        let usage = answer.usage_line(*id, claim.conversation_id, context);
        count_usage(&usage);
        let end = if answer.stopped { "stopped" } else { "answered" };
        let decision = routed.draft.finish(Some(&usage.model), "chat", end);
        let trial = routed.on_trial(turn).map(|shadow| (shadow, answer.text.clone()));
        let commit = CommitTurn {
            conversation_id: claim.conversation_id,
            epoch: claim.epoch,
            turn_id: *id,
            to_seq: claim.to_seq,
            // Who stopped the answer has seen enough.
            reply: match answer.stopped {
                true => ReplyBody::text(answer.text),
                false => ReplyBody::with_files(answer.text, turn.shown.clone()),
            },
            usage,
            decision,
        };
        let mut tries = 1;
        loop {
            match self.taken((claim.tenant_id, commit.clone())).await {
                // Whether the last commit arrived is unknown. If it did, the repetition is
                // refused, and the reply waits in the outbox all the same.
                Err(error) if error.is_transient() && tries < COMMIT_TRIES => {
                    tracing::warn!(%error, turn = %id, "a commit is tried again");
                    time::sleep(Duration::from_millis(200) * tries).await;
                    tries += 1;
                }
                Ok(Commit::Done { .. }) => {
                    failpoint!("turn.committed");
                    // What was written meanwhile can be answered from now on, and the hint that it came
                    // was followed while it could not.
                    if self.backlog.exceeds(claim.tenant_id, claim.to_seq - claim.from_seq + 1) {
                        self.wake.turns.notify_one();
                    }
                    if let Some((shadow, answer)) = trial {
                        self.go_on_trial(shadow, Some(answer), None);
                    }
                    return Ok(true);
                }
                Ok(Commit::Fenced) => {
                    span.fail("fenced");
                    return Ok(false);
                }
                Err(error) => {
                    span.fail("database");
                    return Err(error);
                }
            }
        }
    }

    async fn fail(
        self: &Arc<Self>,
        turn: &Turn,
        detail: &str,
        hopeless: bool,
    ) -> Result<TurnOutcome, StorageError> {
        let Claim { conversation_id, attempts, .. } = turn.claim;
        tracing::warn!(conversation = %conversation_id, turn = %turn.id, attempts, detail, "a turn failed");
        if hopeless || self.settings.turns.max_attempts <= attempts {
            return self.bury(turn.claim.tenant_id, &turn.end(Notice::GaveUp)).await;
        }
        self.retry(&turn.claim).await
    }

    /// Models or credits are there, but not for this turn at the moment.
    async fn wait(
        self: &Arc<Self>,
        turn: &Turn,
        detail: &str,
    ) -> Result<TurnOutcome, StorageError> {
        let first = turn.context.pending.first().map(|message| message.at);
        let waited = first.map_or(0.0, |at| self.clock.now().duration_since(at).as_secs_f64());
        if self.settings.turns.patience.as_secs_f64() < waited {
            return self.fail(turn, detail, false).await;
        }
        tracing::debug!(conversation = %turn.claim.conversation_id, detail, "a turn waits");
        self.postpone(&turn.claim).await
    }

    /// Gives a claim back for the next attempt.
    async fn retry(&self, claim: &Claim) -> Result<TurnOutcome, StorageError> {
        let retry_in = self.backoff(claim.attempts);
        let released = self.release(claim, retry_in).await?;
        Ok(if released { TurnOutcome::Released { retry_in } } else { TurnOutcome::Lost })
    }

    /// Gives a claim back for the same attempt once more.
    async fn postpone(&self, claim: &Claim) -> Result<TurnOutcome, StorageError> {
        let retry_in = rand::rng().random_range(POSTPONED);
        let released = self.unclaim(claim, retry_in).await?;
        Ok(if released { TurnOutcome::Released { retry_in } } else { TurnOutcome::Lost })
    }

    /// Undoes a claim; the attempt does not count.
    async fn unclaim(&self, claim: &Claim, retry_in: Duration) -> Result<bool, StorageError> {
        let mut tx = self.store.begin(claim.tenant_id).await?;
        let given_back = tx.postpone_turn(claim.conversation_id, claim.epoch, retry_in).await?;
        tx.commit().await?;
        Ok(given_back)
    }

    /// Full jitter: conversations that failed together do not come back together.
    fn backoff(&self, attempts: u32) -> Duration {
        let steps = &self.settings.turns.backoff;
        let step = (attempts.max(1) as usize - 1).min(steps.len().saturating_sub(1));
        let longest = steps.get(step).copied().unwrap_or_default();
        longest.mul_f64(rand::rng().random_range(0.0..=1.0))
    }

    async fn release(&self, claim: &Claim, retry_in: Duration) -> Result<bool, StorageError> {
        let mut tx = self.store.begin(claim.tenant_id).await?;
        let released = tx.release_turn(claim.conversation_id, claim.epoch, retry_in).await?;
        tx.commit().await?;
        failpoint!("turn.released");
        Ok(released)
    }

    async fn bury(
        self: &Arc<Self>,
        tenant: TenantId,
        end: &EndTurn,
    ) -> Result<TurnOutcome, StorageError> {
        let mut tx = self.store.begin(tenant).await?;
        let buried = tx.bury_turn(end).await?;
        failpoint!("turn.burying");
        tx.commit().await?;
        failpoint!("turn.buried");
        Ok(self.ended(buried, TurnOutcome::Buried))
    }

    async fn reject(
        self: &Arc<Self>,
        turn: &Turn,
        notice: Notice,
        outcome: TurnOutcome,
    ) -> Result<TurnOutcome, StorageError> {
        let mut tx = self.store.begin(turn.claim.tenant_id).await?;
        let rejected = tx.reject_turn(&turn.end(notice)).await?;
        failpoint!("turn.rejecting");
        tx.commit().await?;
        failpoint!("turn.rejected");
        Ok(self.ended(rejected, outcome))
    }

    fn ended(self: &Arc<Self>, commit: Commit, outcome: TurnOutcome) -> TurnOutcome {
        match commit {
            Commit::Done { .. } => {
                self.wake_outbox();
                outcome
            }
            Commit::Fenced => TurnOutcome::Lost,
        }
    }
}

impl Turn {
    fn end(&self, notice: Notice) -> EndTurn {
        end_turn(&self.claim, self.id, notice.text(&self.context.locale).to_owned())
    }
}

/// The same for whoever takes the turn over.
fn turn_id(claim: &Claim) -> TurnId {
    seeded_bug!("random_turn_id", TurnId::new());
    TurnId::derive(claim.conversation_id, claim.from_seq)
}

fn end_turn(claim: &Claim, turn_id: TurnId, notice: String) -> EndTurn {
    EndTurn {
        conversation_id: claim.conversation_id,
        epoch: claim.epoch,
        turn_id,
        to_seq: claim.to_seq,
        notice: ReplyBody::text(notice),
    }
}

fn count_usage(usage: &UsageLine) {
    let micros = |amount: Micros| amount.get().unsigned_abs();
    counter!("qudao_tokens_total", "door" => "chat", "side" => "input")
        .increment(u64::from(usage.input_tokens));
    counter!("qudao_tokens_total", "door" => "chat", "side" => "output")
        .increment(u64::from(usage.output_tokens));
    counter!("qudao_charged_micros_total", "door" => "chat").increment(micros(usage.charge));
    if Micros::ZERO < usage.absorbed {
        tracing::warn!(turn = %usage.turn_id, absorbed = %usage.absorbed, "a turn cost more than its hold");
        counter!("qudao_absorbed_micros_total", "door" => "chat").increment(micros(usage.absorbed));
    }
}

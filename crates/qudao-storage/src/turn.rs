//! T3 and T4: credits are set aside before the model runs; the reply, its charge and its way out
//! become durable together. Both steps are refused to a node whose claim was taken over.

use std::time::Duration;

use qudao_domain::{
    AttemptId, BlockId, ConversationId, Currency, Micros, OutboxId, TenantId, TurnId,
};
use sqlx::{Row as _, postgres::PgRow, types::Json};

use crate::{
    NewDecision, ReplyBody, Result, StorageError, Store, Tx, UsageLine, claim::millis, row,
};

/// Credits to set aside for a turn.
#[derive(Debug, Clone)]
pub struct HoldTurn {
    /// The conversation.
    pub conversation_id: ConversationId,
    /// The claim's fencing number.
    pub epoch: i64,
    /// The turn.
    pub turn_id: TurnId,
    /// How much; more than zero.
    pub amount: Micros,
    /// In the tenant's currency.
    pub currency: Currency,
    /// Which model will be asked.
    pub model: String,
}

/// Whether the model may be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// The credits are set aside.
    Held {
        /// How much.
        amount: Micros,
    },
    /// An earlier attempt set them aside already, and they were raised if this one asked for
    /// more; that amount is the limit of the charge.
    Found {
        /// How much, by now.
        amount: Micros,
    },
    /// Another node has the conversation, or the turn is over.
    Fenced,
    /// The wallet does not cover the amount. Nothing changed.
    NoFunds,
}

/// A reply, to be committed with everything that belongs to it.
#[derive(Debug, Clone)]
pub struct CommitTurn {
    /// The conversation.
    pub conversation_id: ConversationId,
    /// The claim's fencing number.
    pub epoch: i64,
    /// The turn.
    pub turn_id: TurnId,
    /// The last message that the reply answers.
    pub to_seq: i64,
    /// What to say.
    pub reply: ReplyBody,
    /// What it costs. The charge must not exceed the hold.
    pub usage: UsageLine,
    /// What led to it.
    pub decision: NewDecision,
}

/// A turn that ends without a reply.
#[derive(Debug, Clone)]
pub struct EndTurn {
    /// The conversation.
    pub conversation_id: ConversationId,
    /// The claim's fencing number.
    pub epoch: i64,
    /// The turn. If credits are set aside for it, they return to the wallet.
    pub turn_id: TurnId,
    /// The last message that the notice is about.
    pub to_seq: i64,
    /// What to tell the person.
    pub notice: ReplyBody,
}

/// Whether a turn was ended by this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Commit {
    /// Yes, once the transaction commits.
    Done {
        /// The message that goes out.
        outbox_id: OutboxId,
        /// Its place among the conversation's outbound messages, from 1.
        out_seq: i64,
    },
    /// Another node has the conversation, or the turn is over. Nothing changed.
    Fenced,
}

impl Store {
    /// T3 of one turn: [`Store::hold_turns`].
    ///
    /// # Errors
    /// As there.
    pub async fn hold_turn(&self, tenant_id: TenantId, hold: &HoldTurn) -> Result<Hold> {
        only(self.hold_turns(&[(tenant_id, hold.clone())]).await?)
    }

    /// T3: sets credits aside for turns and records that models will be asked, for all of them or
    /// none. When this returns it is durable. The answers stand in the order of the turns.
    ///
    /// # Errors
    /// [`StorageError`]; safe to repeat, together or one by one.
    pub async fn hold_turns(&self, holds: &[(TenantId, HoldTurn)]) -> Result<Vec<Hold>> {
        let order = order(holds, |(tenant_id, hold)| {
            (*tenant_id, hold.currency.as_str(), hold.conversation_id)
        });
        let sorted = || order.iter().map(|at| &holds[*at]);
        let each = || sorted().map(|(_, hold)| hold);
        let query = || {
            sqlx::query(
                "SELECT place, outcome, amount FROM app.hold_turns( \
                 $1, $2, $3, $4, $5, $6, $7, $8, $9)",
            )
            .bind(sorted().map(|(tenant_id, _)| tenant_id.as_uuid()).collect::<Vec<_>>())
            .bind(each().map(|hold| hold.conversation_id.as_uuid()).collect::<Vec<_>>())
            .bind(each().map(|hold| hold.epoch).collect::<Vec<_>>())
            .bind(each().map(|hold| hold.turn_id.as_uuid()).collect::<Vec<_>>())
            .bind(each().map(|hold| hold.amount.get()).collect::<Vec<_>>())
            .bind(each().map(|hold| hold.currency.as_str()).collect::<Vec<_>>())
            .bind(each().map(|hold| hold.model.as_str()).collect::<Vec<_>>())
            .bind(each().map(|_| BlockId::new().as_uuid()).collect::<Vec<_>>())
            .bind(each().map(|_| AttemptId::new().as_uuid()).collect::<Vec<_>>())
        };
        let mut answers = vec![None; holds.len()];
        for row in self.rows_of_one_statement(query).await? {
            *place(&row, &order, &mut answers)? = Some(read_hold(&row)?);
        }
        let missing = || StorageError::unknown_outcome("app.hold_turns", "");
        answers.into_iter().map(|answer| answer.ok_or_else(missing)).collect()
    }

    /// T4 of one turn: [`Store::commit_turns`].
    ///
    /// # Errors
    /// As there.
    pub async fn commit_turn(&self, tenant_id: TenantId, commit: &CommitTurn) -> Result<Commit> {
        only(self.commit_turns(&[(tenant_id, commit.clone())]).await?)
    }

    /// T4: commits replies, each with its usage, its settlement, its ledger entries and its place in
    /// the outbox: all of them or none. When this returns they are durable. The answers stand in the
    /// order of the replies.
    ///
    /// # Errors
    /// [`StorageError::Refused`] if a charge exceeds its hold: commit each by itself then. Other
    /// [`StorageError`]s are safe to repeat.
    pub async fn commit_turns(&self, commits: &[(TenantId, CommitTurn)]) -> Result<Vec<Commit>> {
        let order = order(commits, |(tenant_id, commit)| {
            (*tenant_id, commit.usage.currency.as_str(), commit.conversation_id)
        });
        let sorted = || order.iter().map(|at| &commits[*at]);
        let each = || sorted().map(|(_, commit)| commit);
        let usage = || each().map(|commit| &commit.usage);
        let query = || {
            sqlx::query(
                "SELECT place, outbox_id, out_seq FROM app.commit_routed_turns( \
                 $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, \
                 $19)",
            )
            .bind(sorted().map(|(tenant_id, _)| tenant_id.as_uuid()).collect::<Vec<_>>())
            .bind(each().map(|commit| commit.conversation_id.as_uuid()).collect::<Vec<_>>())
            .bind(each().map(|commit| commit.epoch).collect::<Vec<_>>())
            .bind(each().map(|commit| commit.turn_id.as_uuid()).collect::<Vec<_>>())
            .bind(each().map(|commit| commit.to_seq).collect::<Vec<_>>())
            .bind(each().map(|commit| Json(&commit.reply)).collect::<Vec<_>>())
            .bind(each().map(|_| OutboxId::new().as_uuid()).collect::<Vec<_>>())
            .bind(usage().map(|usage| usage.channel_id.as_uuid()).collect::<Vec<_>>())
            .bind(usage().map(|usage| usage.model.as_str()).collect::<Vec<_>>())
            .bind(usage().map(|usage| usage.price_version).collect::<Vec<_>>())
            .bind(usage().map(|usage| i64::from(usage.input_tokens)).collect::<Vec<_>>())
            .bind(usage().map(|usage| i64::from(usage.output_tokens)).collect::<Vec<_>>())
            .bind(usage().map(|usage| i64::from(usage.delivered_tokens)).collect::<Vec<_>>())
            .bind(usage().map(|usage| usage.charge.get()).collect::<Vec<_>>())
            .bind(usage().map(|usage| usage.absorbed.get()).collect::<Vec<_>>())
            .bind(usage().map(|usage| usage.currency.as_str()).collect::<Vec<_>>())
            .bind(usage().map(|usage| usage.policy.as_str()).collect::<Vec<_>>())
            .bind(usage().map(|usage| usage.end_reason.as_str()).collect::<Vec<_>>())
            .bind(each().map(|commit| commit.decision.row()).collect::<Vec<_>>())
        };
        let mut answers = vec![Commit::Fenced; commits.len()];
        for row in self.rows_of_one_statement(query).await? {
            *place(&row, &order, &mut answers)? = read_commit(Some(&row))?;
        }
        Ok(answers)
    }
}

impl Tx {
    /// Ends a turn for which no model may be asked: no funds or a policy. Its hold, if there is
    /// one, is voided.
    ///
    /// # Errors
    /// [`StorageError`]; safe to repeat.
    pub async fn reject_turn(&mut self, end: &EndTurn) -> Result<Commit> {
        self.end_turn(end, "rejected").await
    }

    /// Gives a turn up after its last attempt. Its hold, if there is one, is voided.
    ///
    /// # Errors
    /// [`StorageError`]; safe to repeat.
    pub async fn bury_turn(&mut self, end: &EndTurn) -> Result<Commit> {
        self.end_turn(end, "dead").await
    }

    async fn end_turn(&mut self, end: &EndTurn, state: &str) -> Result<Commit> {
        let row =
            sqlx::query("SELECT outbox_id, out_seq FROM app.end_turn($1, $2, $3, $4, $5, $6, $7)")
                .bind(end.conversation_id.as_uuid())
                .bind(end.epoch)
                .bind(end.turn_id.as_uuid())
                .bind(end.to_seq)
                .bind(state)
                .bind(Json(&end.notice))
                .bind(OutboxId::new().as_uuid())
                .fetch_optional(self.connection())
                .await?;
        read_commit(row.as_ref())
    }

    /// Gives a claim back, to be taken again after `retry_in`. The hold stays for the next
    /// attempt. `false` if another node has the conversation.
    ///
    /// # Errors
    /// [`StorageError`]; safe to repeat.
    pub async fn release_turn(
        &mut self,
        conversation_id: ConversationId,
        epoch: i64,
        retry_in: Duration,
    ) -> Result<bool> {
        self.give_back(conversation_id, epoch, retry_in, 0).await
    }

    /// [`Tx::release_turn`] of an attempt that does not count: it failed for want of something
    /// that others have at the moment, and not because of the question.
    ///
    /// # Errors
    /// [`StorageError`]; safe to repeat.
    pub async fn postpone_turn(
        &mut self,
        conversation_id: ConversationId,
        epoch: i64,
        retry_in: Duration,
    ) -> Result<bool> {
        self.give_back(conversation_id, epoch, retry_in, 1).await
    }

    async fn give_back(
        &mut self,
        conversation_id: ConversationId,
        epoch: i64,
        retry_in: Duration,
        uncounted: i32,
    ) -> Result<bool> {
        let done = sqlx::query(
            "UPDATE conversations \
             SET lease_until = NULL, owner = NULL, attempts = greatest(attempts - $5, 0), \
                 ready_at = now() + $4 * interval '1 millisecond' \
             WHERE tenant_id = $1 AND conversation_id = $2 AND epoch = $3 \
               AND lease_until IS NOT NULL",
        )
        .bind(self.tenant_id().as_uuid())
        .bind(conversation_id.as_uuid())
        .bind(epoch)
        .bind(millis(retry_in))
        .bind(uncounted)
        .execute(self.connection())
        .await?;
        Ok(done.rows_affected() == 1)
    }
}

/// Where the steps stand in the arrays: those of a tenant side by side, and those of a conversation,
/// so that two such statements take their locks in one order.
pub(crate) fn order<'a, T, K: Ord>(steps: &'a [T], key: impl Fn(&'a T) -> K) -> Vec<usize> {
    let mut order: Vec<usize> = (0..steps.len()).collect();
    order.sort_by_key(|at| key(&steps[*at]));
    order
}

/// The answer that a row is: its place is that in the arrays, from 1.
pub(crate) fn place<'a, T>(
    row: &PgRow,
    order: &[usize],
    answers: &'a mut [T],
) -> Result<&'a mut T> {
    let place: i32 = row.try_get("place")?;
    let at = usize::try_from(place).ok().and_then(|place| order.get(place.checked_sub(1)?));
    at.and_then(|at| answers.get_mut(*at)).ok_or_else(|| StorageError::Inconsistent {
        detail: format!("an answer to step {place} of {}", order.len()),
    })
}

fn only<T>(answers: Vec<T>) -> Result<T> {
    answers.into_iter().next().ok_or_else(StorageError::unfinished)
}

fn read_hold(row: &PgRow) -> Result<Hold> {
    let outcome: String = row.try_get("outcome")?;
    match outcome.as_str() {
        "held" => Ok(Hold::Held { amount: row::micros(row, "amount")? }),
        "found" => Ok(Hold::Found { amount: row::micros(row, "amount")? }),
        "fenced" => Ok(Hold::Fenced),
        "no_funds" => Ok(Hold::NoFunds),
        other => Err(StorageError::unknown_outcome("app.hold_turns", other)),
    }
}

fn read_commit(row: Option<&PgRow>) -> Result<Commit> {
    let Some(row) = row else { return Ok(Commit::Fenced) };
    Ok(Commit::Done {
        outbox_id: row::id(row, "outbox_id", OutboxId::from_uuid)?,
        out_seq: row.try_get("out_seq")?,
    })
}

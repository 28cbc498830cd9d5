//! The API path: a node sets a block of credits aside, spends from it in memory, and settles
//! many calls in one commit.

use std::time::Duration;

use qudao_domain::{
    ApiKeyId, BlockId, ChannelId, ConversationId, Currency, Micros, NodeId, TenantId, TurnId,
    state::{EndReason, FairCharging},
};
use sqlx::{Postgres, Row as _, postgres::PgArguments, query::Query};

use crate::{KeptCall, Result, StorageError, Store, Tx, claim::millis};

/// One line of usage: what a turn or an API call consumed and what it costs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsageLine {
    /// The turn; for an API call an id of its own. Settling the same id twice charges once.
    pub turn_id: TurnId,
    /// Where it took place.
    pub channel_id: ChannelId,
    /// The key that called, on the API.
    pub api_key_id: Option<ApiKeyId>,
    /// The conversation, on a messaging channel.
    pub conversation_id: Option<ConversationId>,
    /// Which model answered.
    pub model: String,
    /// Which version of the price book applies: [`PriceRow::version`](crate::PriceRow).
    pub price_version: i64,
    /// Tokens that the model read.
    pub input_tokens: u32,
    /// Tokens that the model wrote.
    pub output_tokens: u32,
    /// Tokens of those that reached the other side.
    pub delivered_tokens: u32,
    /// What the tenant pays.
    pub charge: Micros,
    /// What the platform bears because it exceeds the hold.
    pub absorbed: Micros,
    /// The currency of both.
    pub currency: Currency,
    /// The policy that applied.
    pub policy: FairCharging,
    /// Why the reply ended.
    pub end_reason: EndReason,
    /// What a repetition of the call is answered, where it has an idempotency key: it is kept in
    /// the transaction that settles the line.
    pub kept: Option<KeptCall>,
}

/// Whether calls were settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settle {
    /// They are, once the transaction commits. Lines that were settled before are passed over.
    Done,
    /// The block is closed: its lease ran out. Nothing changed. Reserve another block and settle
    /// there.
    Fenced,
}

impl Settle {
    fn read(outcome: &str) -> Result<Self> {
        match outcome {
            "done" => Ok(Self::Done),
            "fenced" => Ok(Self::Fenced),
            other => Err(StorageError::unknown_outcome("app.settle_calls", other)),
        }
    }
}

/// Whether a block was extended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extend {
    /// It holds that much more, and its lease begins anew.
    Extended,
    /// The wallet does not cover more. Only the lease begins anew.
    NoFunds,
    /// The block is closed: its lease ran out.
    Gone,
}

/// What a sweep gave back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Swept {
    /// Blocks whose lease had run out.
    pub blocks: u64,
    /// Holds of turns that nobody works on.
    pub holds: u64,
}

impl Tx {
    /// Sets aside exactly `amount` for a node. `false` if the wallet does not cover it.
    ///
    /// # Errors
    /// [`StorageError`]; safe to repeat with the same id.
    pub async fn reserve_block(
        &mut self,
        block_id: BlockId,
        node: NodeId,
        amount: Micros,
        lease: Duration,
    ) -> Result<bool> {
        let reserved = self.reserve_block_up_to(block_id, node, amount, amount, lease).await?;
        Ok(reserved.is_some())
    }

    /// Sets aside as much as there is for a node, but at least `least` and at most `most`.
    /// `None` if the wallet does not cover `least`.
    ///
    /// # Errors
    /// [`StorageError`]; safe to repeat with the same id.
    pub async fn reserve_block_up_to(
        &mut self,
        block_id: BlockId,
        node: NodeId,
        least: Micros,
        most: Micros,
        lease: Duration,
    ) -> Result<Option<Micros>> {
        let reserved: Option<i64> =
            sqlx::query_scalar("SELECT app.reserve_block($1, $2, $3, $4, $5)")
                .bind(block_id.as_uuid())
                .bind(node.as_uuid())
                .bind(least.get())
                .bind(most.get())
                .bind(millis(lease))
                .fetch_one(self.connection())
                .await?;
        Ok(reserved.map(Micros::new))
    }

    /// Begins a block's lease anew and adds `more` to it, which may be zero.
    ///
    /// # Errors
    /// [`StorageError`].
    pub async fn extend_block(
        &mut self,
        block_id: BlockId,
        more: Micros,
        lease: Duration,
    ) -> Result<Extend> {
        let outcome: String = sqlx::query_scalar("SELECT app.extend_block($1, $2, $3)")
            .bind(block_id.as_uuid())
            .bind(more.get())
            .bind(millis(lease))
            .fetch_one(self.connection())
            .await?;
        match outcome.as_str() {
            "extended" => Ok(Extend::Extended),
            "no_funds" => Ok(Extend::NoFunds),
            "gone" => Ok(Extend::Gone),
            other => Err(StorageError::unknown_outcome("app.extend_block", other)),
        }
    }

    /// Settles calls against a block, all or none. Safe to repeat.
    ///
    /// # Errors
    /// [`StorageError::Refused`] if the charges exceed what is left of the block.
    pub async fn settle_calls(&mut self, block_id: BlockId, lines: &[UsageLine]) -> Result<Settle> {
        Settle::read(&self.record_calls(Some(block_id), lines).await?)
    }

    /// Records calls that the platform bears: for calls that were served, whose block is closed
    /// and whose tenant has no credits for another. Every line must have a charge of zero, and
    /// all the same currency.
    ///
    /// # Errors
    /// [`StorageError::Refused`] if they do not.
    pub async fn absorb_calls(&mut self, lines: &[UsageLine]) -> Result<()> {
        let mixed = lines.iter().any(|line| line.currency != lines[0].currency);
        if mixed || lines.iter().any(|line| line.charge != Micros::ZERO) {
            return Err(StorageError::Refused { constraint: "absorbed_without_charge".to_owned() });
        }
        self.record_calls(None, lines).await.map(|_| ())
    }

    async fn record_calls(
        &mut self,
        block: Option<BlockId>,
        lines: &[UsageLine],
    ) -> Result<String> {
        let call = sqlx::query(
            "SELECT app.settle_calls($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)",
        );
        let row = bind_calls(call, block, lines).fetch_one(self.connection()).await?;
        let outcome: String = row.try_get(0)?;
        if outcome == "done" {
            for kept in lines.iter().filter_map(|line| line.kept.as_ref()) {
                self.keep_call(kept).await?;
            }
        }
        Ok(outcome)
    }

    /// Gives the rest of a block back. `false` if it was closed already.
    ///
    /// # Errors
    /// [`StorageError`]; safe to repeat.
    pub async fn close_block(&mut self, block_id: BlockId) -> Result<bool> {
        let closed = sqlx::query_scalar("SELECT app.close_block($1)")
            .bind(block_id.as_uuid())
            .fetch_one(self.connection())
            .await?;
        Ok(closed)
    }
}

type CallQuery<'q> = Query<'q, Postgres, PgArguments>;

/// The arguments of `app.settle_calls`, one array for each column.
fn bind_calls<'q>(
    call: CallQuery<'q>,
    block: Option<BlockId>,
    lines: &'q [UsageLine],
) -> CallQuery<'q> {
    macro_rules! column {
        ($line:ident => $value:expr) => {
            lines.iter().map(|$line| $value).collect::<Vec<_>>()
        };
    }
    call.bind(block.map(BlockId::as_uuid))
        .bind(column!(line => line.turn_id.as_uuid()))
        .bind(column!(line => line.channel_id.as_uuid()))
        .bind(column!(line => line.api_key_id.map(ApiKeyId::as_uuid)))
        .bind(column!(line => line.conversation_id.map(ConversationId::as_uuid)))
        .bind(column!(line => line.model.as_str()))
        .bind(column!(line => line.price_version))
        .bind(column!(line => i64::from(line.input_tokens)))
        .bind(column!(line => i64::from(line.output_tokens)))
        .bind(column!(line => i64::from(line.delivered_tokens)))
        .bind(column!(line => line.charge.get()))
        .bind(column!(line => line.absorbed.get()))
        .bind(column!(line => line.currency.as_str()))
        .bind(column!(line => line.policy.as_str()))
        .bind(column!(line => line.end_reason.as_str()))
}

impl Store {
    /// Settles calls of one tenant against a block, all or none, durable when this returns: one
    /// statement, one round trip, unless answers are to be kept with them. Safe to repeat.
    ///
    /// # Errors
    /// As [`Tx::settle_calls`]; after [`StorageError::Unavailable`] it is unknown whether the
    /// calls are settled.
    pub async fn settle_calls(
        &self,
        tenant_id: TenantId,
        block_id: BlockId,
        lines: &[UsageLine],
    ) -> Result<Settle> {
        if lines.iter().any(|line| line.kept.is_some()) {
            // Their answers are kept in the same transaction, which is more than one statement.
            let mut tx = self.begin(tenant_id).await?;
            let settled = tx.settle_calls(block_id, lines).await?;
            tx.commit().await?;
            return Ok(settled);
        }
        let call = || {
            let call = sqlx::query(
                "SELECT app.settle_calls_of(\
                 $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)",
            );
            bind_calls(call.bind(tenant_id.as_uuid()), Some(block_id), lines)
        };
        Settle::read(self.one_statement_here(call).await?.try_get(0)?)
    }

    /// Gives back the rest of blocks whose lease ran out, and the holds of turns that nobody has
    /// worked on for a quarter of an hour, which is longer than any turn may take. A node that
    /// wakes up later finds itself fenced.
    ///
    /// # Errors
    /// [`StorageError`]; safe to repeat.
    pub async fn sweep(&self) -> Result<Swept> {
        self.sweep_older_than(Duration::from_secs(15 * 60)).await
    }

    /// [`Store::sweep`] with another age for the holds of turns.
    ///
    /// # Errors
    /// [`StorageError`]; safe to repeat.
    pub async fn sweep_older_than(&self, turn_hold_age: Duration) -> Result<Swept> {
        let mut tx = self.begin_claim().await?;
        let row = sqlx::query("SELECT blocks, holds FROM app.sweep($1, $2)")
            .bind(millis(turn_hold_age))
            .bind(200)
            .fetch_one(tx.connection())
            .await?;
        tx.commit().await?;
        let number = |column| row.try_get::<i64, _>(column).map(i64::unsigned_abs);
        Ok(Swept { blocks: number("blocks")?, holds: number("holds")? })
    }
}

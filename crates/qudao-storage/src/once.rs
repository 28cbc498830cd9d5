//! Requests that carry an `Idempotency-Key`: what was answered to them is kept for 24 hours, in
//! the transaction of their effect.
//!
//! Work that fits one transaction asks [`Tx::find_once`] first and ends with [`Tx::keep_once`].
//! Work that does not, such as a call of a model, claims its key with [`Store::claim_once`] and
//! is kept where it is settled ([`UsageLine::kept`](crate::UsageLine)) or by [`Store::keep_claim`].

use std::{fmt, time::Duration};

use qudao_domain::{TenantId, TurnId, text::IdempotencyKey};
use sqlx::{Row as _, postgres::PgRow};
use uuid::Uuid;

use crate::{Result, StorageError, Store, Tx, claim::millis, row};

/// What tells one request from all others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Once {
    /// Whose it is: a tenant, or [`Once::OPERATOR`].
    pub scope: TenantId,
    /// Method and path, with its ids.
    pub endpoint: String,
    /// The caller's key.
    pub key: IdempotencyKey,
    /// The SHA-256 of the body: another body under the same key is a mistake.
    pub fingerprint: [u8; 32],
}

impl Once {
    /// The scope of what an operator does for no tenant.
    pub const OPERATOR: TenantId = TenantId::from_uuid(Uuid::nil());
}

/// An answer, as it is repeated.
#[derive(Clone, PartialEq, Eq)]
pub struct KeptReply {
    /// The HTTP status.
    pub status: u16,
    /// The address of what was made.
    pub location: Option<String>,
    /// The body; empty if there was none.
    pub body: Vec<u8>,
}

/// The body is a customer's affair and stays out of the log.
impl fmt::Debug for KeptReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeptReply({}, {} bytes)", self.status, self.body.len())
    }
}

/// What is known of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found<T = ()> {
    /// Nothing: it is to be served.
    Fresh(T),
    /// It was served, with this answer.
    Kept(KeptReply),
    /// The key was used with another body.
    OtherBody,
    /// It is being served at this moment.
    UnderWay,
}

/// The right to serve a claimed request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ticket {
    once: Once,
    claim_id: TurnId,
    epoch: i64,
}

impl Ticket {
    /// The id of the usage that the request makes. It stays the same when a dead node's request
    /// is taken over, so that it is charged once.
    pub fn turn_id(&self) -> TurnId {
        self.claim_id
    }
}

/// What becomes of a claim with the settlement of its call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptCall {
    /// The claim.
    pub ticket: Ticket,
    /// What a repetition is answered; `None` lets the key go.
    pub reply: Option<KeptReply>,
}

impl Tx {
    /// Whether a request was served before. If not, its key is locked for this transaction.
    ///
    /// # Errors
    /// [`StorageError`].
    pub async fn find_once(&mut self, once: &Once) -> Result<Found> {
        let row = sqlx::query(
            "SELECT outcome, status, location, body FROM app.find_once($1, $2, $3, $4)",
        )
        .bind(once.scope.as_uuid())
        .bind(&once.endpoint)
        .bind(once.key.as_str())
        .bind(once.fingerprint.as_slice())
        .fetch_one(self.connection())
        .await?;
        read_found(&row, |_| Ok(()))
    }

    /// Keeps the answer of a request that [`Tx::find_once`] called fresh in this transaction.
    ///
    /// # Errors
    /// [`StorageError`].
    pub async fn keep_once(&mut self, once: &Once, reply: &KeptReply) -> Result<()> {
        sqlx::query("SELECT app.keep_once($1, $2, $3, $4, $5, $6, $7)")
            .bind(once.scope.as_uuid())
            .bind(&once.endpoint)
            .bind(once.key.as_str())
            .bind(once.fingerprint.as_slice())
            .bind(status_column(reply))
            .bind(&reply.location)
            .bind(&reply.body)
            .execute(self.connection())
            .await?;
        Ok(())
    }

    /// Keeps what a claimed request is answered, or lets its key go. The first answer stays.
    pub(crate) async fn keep_call(&mut self, call: &KeptCall) -> Result<()> {
        let KeptCall { ticket, reply } = call;
        let Some(reply) = reply else { return self.let_go(ticket).await };
        sqlx::query(
            "UPDATE idempotency_records \
             SET status = $5, location = $6, body = $7, lease_until = NULL, created_at = now() \
             WHERE tenant_id = $1 AND endpoint = $2 AND idempotency_key = $3 \
               AND claim_id = $4 AND status IS NULL",
        )
        .bind(ticket.once.scope.as_uuid())
        .bind(&ticket.once.endpoint)
        .bind(ticket.once.key.as_str())
        .bind(ticket.claim_id.as_uuid())
        .bind(status_column(reply))
        .bind(&reply.location)
        .bind(&reply.body)
        .execute(self.connection())
        .await?;
        Ok(())
    }

    /// Not if another node has taken the claim over.
    async fn let_go(&mut self, ticket: &Ticket) -> Result<()> {
        sqlx::query(
            "DELETE FROM idempotency_records \
             WHERE tenant_id = $1 AND endpoint = $2 AND idempotency_key = $3 \
               AND claim_id = $4 AND epoch = $5 AND status IS NULL",
        )
        .bind(ticket.once.scope.as_uuid())
        .bind(&ticket.once.endpoint)
        .bind(ticket.once.key.as_str())
        .bind(ticket.claim_id.as_uuid())
        .bind(ticket.epoch)
        .execute(self.connection())
        .await?;
        Ok(())
    }
}

impl Store {
    /// Claims the key of a request whose work does not fit one transaction.
    ///
    /// # Errors
    /// [`StorageError`].
    pub async fn claim_once(&self, once: &Once, lease: Duration) -> Result<Found<Ticket>> {
        let mut tx = self.begin(once.scope).await?;
        let row = sqlx::query(
            "SELECT outcome, status, location, body, claim_id, epoch \
             FROM app.claim_once($1, $2, $3, $4, $5, $6)",
        )
        .bind(once.scope.as_uuid())
        .bind(&once.endpoint)
        .bind(once.key.as_str())
        .bind(once.fingerprint.as_slice())
        .bind(TurnId::new().as_uuid())
        .bind(millis(lease))
        .fetch_one(tx.connection())
        .await?;
        let found = read_found(&row, |row| {
            let claim_id = row::id(row, "claim_id", TurnId::from_uuid)?;
            Ok(Ticket { once: once.clone(), claim_id, epoch: row.try_get("epoch")? })
        })?;
        tx.commit().await?;
        Ok(found)
    }

    /// Begins the lease of a claim anew. `false` if it is over or was taken over.
    ///
    /// # Errors
    /// [`StorageError`].
    pub async fn renew_claim(&self, ticket: &Ticket, lease: Duration) -> Result<bool> {
        let mut tx = self.begin(ticket.once.scope).await?;
        let done = sqlx::query(
            "UPDATE idempotency_records \
             SET lease_until = now() + $6 * interval '1 millisecond' \
             WHERE tenant_id = $1 AND endpoint = $2 AND idempotency_key = $3 \
               AND claim_id = $4 AND epoch = $5 AND status IS NULL",
        )
        .bind(ticket.once.scope.as_uuid())
        .bind(&ticket.once.endpoint)
        .bind(ticket.once.key.as_str())
        .bind(ticket.claim_id.as_uuid())
        .bind(ticket.epoch)
        .bind(millis(lease))
        .execute(tx.connection())
        .await?;
        tx.commit().await?;
        Ok(done.rows_affected() == 1)
    }

    /// Ends a claim whose work has no settlement to be kept with.
    ///
    /// # Errors
    /// [`StorageError`].
    pub async fn keep_claim(&self, call: &KeptCall) -> Result<()> {
        let mut tx = self.begin(call.ticket.once.scope).await?;
        tx.keep_call(call).await?;
        tx.commit().await
    }

    /// Forgets what is older than a day. How many records that were.
    ///
    /// # Errors
    /// [`StorageError`]; safe to repeat.
    pub async fn forget_once(&self) -> Result<u64> {
        let mut tx = self.begin_claim().await?;
        let forgotten: i64 = sqlx::query_scalar("SELECT app.forget_once($1)")
            .bind(10_000)
            .fetch_one(tx.connection())
            .await?;
        tx.commit().await?;
        Ok(forgotten.unsigned_abs())
    }
}

fn status_column(reply: &KeptReply) -> i16 {
    // An HTTP status has three digits.
    i16::try_from(reply.status).unwrap_or(i16::MAX)
}

fn read_found<T>(row: &PgRow, fresh: impl FnOnce(&PgRow) -> Result<T>) -> Result<Found<T>> {
    let outcome: String = row.try_get("outcome")?;
    match outcome.as_str() {
        "fresh" => fresh(row).map(Found::Fresh),
        "kept" => {
            let status: i16 = row.try_get("status")?;
            Ok(Found::Kept(KeptReply {
                status: status.unsigned_abs(),
                location: row.try_get("location")?,
                body: row.try_get::<Option<Vec<u8>>, _>("body")?.unwrap_or_default(),
            }))
        }
        "other_body" => Ok(Found::OtherBody),
        "under_way" => Ok(Found::UnderWay),
        other => Err(StorageError::unknown_outcome("app.find_once", other)),
    }
}

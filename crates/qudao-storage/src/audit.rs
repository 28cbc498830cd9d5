//! The audit log: who did what to whose things, as a chain of hashes for each tenant.
//!
//! An act is recorded in its own transaction: one is never there without the other. What concerns
//! no tenant is recorded under [`Once::OPERATOR`](crate::Once::OPERATOR), the nil id.

use jiff::Timestamp;
use qudao_domain::TenantId;
use serde_json::Value;
use sqlx::{Row as _, postgres::PgRow, types::Json};

use crate::{Listing, Page, Result, Tx, row};

mod chain;
mod heads;
mod verify;

pub use heads::{AuditHead, AuditSigner, SignedHead};
pub(crate) use verify::verify;
pub use verify::{AuditFault, AuditReport, KnownHead};

/// An act, as it is recorded. No secret and no text of a person's belongs into it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditEvent {
    /// Who: `operator`, a key's or an account's id.
    pub actor: String,
    /// What was done, such as `channel.update`: small letters, digits, `_`, `.` and `-`.
    pub action: String,
    /// To what, by its id.
    pub target: String,
    /// What else an auditor has to know; an object of at most 16 KiB.
    pub detail: Value,
    /// The request that caused it.
    pub request_id: Option<String>,
    /// Where the request came from.
    pub address: Option<String>,
}

/// An act as it was recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditRecord {
    /// Its number in the tenant's chain, from 1 and without a gap.
    pub seq: i64,
    /// When.
    pub at: Timestamp,
    /// What.
    pub event: AuditEvent,
}

impl Tx {
    /// Records an act of this transaction and returns its number. Others who record for this tenant
    /// wait until the transaction ends, so do it last.
    ///
    /// # Errors
    /// [`StorageError::Refused`](crate::StorageError::Refused) if a part is too long, and others.
    pub async fn record_audit(&mut self, event: &AuditEvent) -> Result<i64> {
        let AuditEvent { actor, action, target, detail, request_id, address } = event;
        let seq = sqlx::query_scalar("SELECT app.record_audit($1, $2, $3, $4, $5, $6)")
            .bind(actor)
            .bind(action)
            .bind(target)
            .bind(Json(detail))
            .bind(request_id)
            .bind(address)
            .fetch_one(self.connection())
            .await?;
        Ok(seq)
    }

    /// The tenant's acts, the newest first.
    ///
    /// # Errors
    /// [`StorageError::BadCursor`](crate::StorageError::BadCursor) and others.
    pub async fn list_audit(&mut self, page: &Page) -> Result<Listing<AuditRecord>> {
        let rows = sqlx::query(
            "SELECT seq, app.micros(at) AS at, actor, action, target, detail, request_id, address \
             FROM audit_events \
             WHERE tenant_id = $1 AND ($2::bigint IS NULL OR seq < $2) \
             ORDER BY seq DESC LIMIT $3",
        )
        .bind(self.tenant_id().as_uuid())
        .bind(page.after_number()?)
        .bind(page.probe_limit())
        .fetch_all(self.connection())
        .await?;
        let items = rows.iter().map(read_record).collect::<Result<Vec<_>, _>>()?;
        Ok(Listing::cut(items, page, |item| item.seq.to_string()))
    }
}

fn read_record(row: &PgRow) -> Result<AuditRecord, sqlx::Error> {
    let event = AuditEvent {
        actor: row.try_get("actor")?,
        action: row.try_get("action")?,
        target: row.try_get("target")?,
        detail: row.try_get::<Json<Value>, _>("detail")?.0,
        request_id: row.try_get("request_id")?,
        address: row.try_get("address")?,
    };
    Ok(AuditRecord { seq: row.try_get("seq")?, at: row::time(row, "at")?, event })
}

/// The hash before the first row of a chain.
pub(crate) const BEGINNING: [u8; 32] = [0; 32];

/// How a tenant is called in messages; the platform's own chain has a name.
fn chain_name(tenant_id: TenantId) -> String {
    if tenant_id == crate::Once::OPERATOR { "platform".to_owned() } else { tenant_id.to_string() }
}

//! Whether the chains are what they were.

use std::collections::BTreeMap;

use qudao_domain::TenantId;
use sqlx::{Row as _, postgres::PgRow};

use super::{AuditHead, BEGINNING, chain::Link, chain_name, heads::read_head};
use crate::{PlatformTx, Result, Store};

/// Rows that are read at a time.
const BATCH: i64 = 1000;

/// A head that somebody knows from elsewhere, such as a signed one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownHead {
    /// The head.
    pub head: AuditHead,
    /// Where it is known from, for the message.
    pub source: String,
}

/// The first row of a chain that is not what it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditFault {
    /// Its number.
    pub seq: i64,
    /// What is wrong with it.
    pub reason: String,
}

/// What the verification of one chain found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditReport {
    /// Whose chain; the nil id is the platform's.
    pub tenant_id: TenantId,
    /// How it is called: the tenant's id, or `platform`.
    pub name: String,
    /// How many rows were read.
    pub rows: i64,
    /// How many heads it was compared with.
    pub known: usize,
    /// The first bad row, if there is one.
    pub fault: Option<AuditFault>,
}

impl Store {
    /// Verifies the chain of one tenant, or all of them, in one snapshot; compares them with their
    /// heads and with those in `known`.
    ///
    /// # Errors
    /// [`StorageError::Forbidden`](crate::StorageError::Forbidden) if the role of the URL does not
    /// see every tenant's rows.
    pub async fn verify_audit(
        &self,
        tenant_id: Option<TenantId>,
        known: &[KnownHead],
    ) -> Result<Vec<AuditReport>> {
        let mut tx = self.begin_check().await?;
        let reports = verify(&mut tx, tenant_id, known).await?;
        tx.commit().await?;
        Ok(reports)
    }
}

/// The same within the snapshot of a check.
pub(crate) async fn verify(
    tx: &mut PlatformTx,
    tenant_id: Option<TenantId>,
    known: &[KnownHead],
) -> Result<Vec<AuditReport>> {
    let wanted = |id: &TenantId| tenant_id.is_none_or(|one| one == *id);
    let mut heads: BTreeMap<TenantId, Option<AuditHead>> = BTreeMap::new();
    let ids: Vec<uuid::Uuid> = sqlx::query_scalar("SELECT DISTINCT tenant_id FROM audit_events")
        .fetch_all(tx.connection())
        .await?;
    heads.extend(ids.into_iter().map(|id| (TenantId::from_uuid(id), None)));
    heads.extend(known.iter().map(|known| (known.head.tenant_id, None)));
    let rows = sqlx::query("SELECT tenant_id, seq, hash FROM audit_heads")
        .fetch_all(tx.connection())
        .await?;
    for row in &rows {
        let head = read_head(row)?;
        heads.insert(head.tenant_id, Some(head));
    }
    let mut reports = Vec::new();
    for (tenant_id, head) in heads.into_iter().filter(|(id, _)| wanted(id)) {
        let mut of_chain: Vec<&KnownHead> =
            known.iter().filter(|known| known.head.tenant_id == tenant_id).collect();
        of_chain.sort_by_key(|known| known.head.seq);
        reports.push(verify_chain(tx, tenant_id, head, &of_chain).await?);
    }
    Ok(reports)
}

async fn verify_chain(
    tx: &mut PlatformTx,
    tenant_id: TenantId,
    head: Option<AuditHead>,
    known: &[&KnownHead],
) -> Result<AuditReport> {
    let mut walk = Walk::new(tenant_id, known);
    loop {
        let links = read_links(tx, tenant_id, walk.read).await?;
        if links.is_empty() {
            break;
        }
        for link in &links {
            walk.step(link);
        }
    }
    walk.finish(head.as_ref());
    let name = chain_name(tenant_id);
    Ok(AuditReport { tenant_id, name, rows: walk.rows, known: known.len(), fault: walk.fault })
}

/// The way along one chain.
struct Walk<'a> {
    tenant_id: TenantId,
    /// Known heads that were not passed yet, by their numbers.
    known: &'a [&'a KnownHead],
    /// The number up to which rows were read.
    read: i64,
    rows: i64,
    /// The number of the last good row, and its hash.
    seq: i64,
    hash: Vec<u8>,
    /// The number of the last row that a known head vouches for.
    vouched: i64,
    fault: Option<AuditFault>,
}

impl<'a> Walk<'a> {
    fn new(tenant_id: TenantId, known: &'a [&'a KnownHead]) -> Self {
        let hash = BEGINNING.to_vec();
        Self { tenant_id, known, read: i64::MIN, rows: 0, seq: 0, hash, vouched: 0, fault: None }
    }

    fn step(&mut self, link: &Link) {
        self.read = link.seq;
        self.rows += 1;
        if self.fault.is_some() {
            return;
        }
        let next = self.seq + 1;
        if link.seq < next {
            return self.blame(link.seq, "it is before the beginning of the chain".to_owned());
        }
        if next < link.seq {
            let last = link.seq - 1;
            return self.blame(next, format!("rows {next} to {last} are missing"));
        }
        if link.expected(self.tenant_id).as_slice() != link.hash {
            return self.blame(next, "its content is not what was recorded".to_owned());
        }
        if link.prev_hash != self.hash {
            return self.blame(next, "it does not follow the row before it".to_owned());
        }
        self.seq = link.seq;
        self.hash.clone_from(&link.hash);
        while let Some((first, rest)) = self.known.split_first()
            && first.head.seq <= self.seq
        {
            self.known = rest;
            if first.head.seq == self.seq && first.head.hash == self.hash {
                self.vouched = self.seq;
            } else {
                let (from, to) = (self.vouched + 1, first.head.seq);
                let reason = format!("rows {from} to {to} are not those of {}", first.source);
                return self.blame(from, reason);
            }
        }
    }

    fn finish(&mut self, head: Option<&AuditHead>) {
        if self.fault.is_some() {
            return;
        }
        let next = self.seq + 1;
        if let Some(known) = self.known.last() {
            let (last, source) = (known.head.seq, &known.source);
            return self.blame(next, format!("rows {next} to {last} of {source} are missing"));
        }
        match head {
            None if self.seq == 0 => {}
            None => self.blame(self.seq, "the chain's head is missing".to_owned()),
            Some(head) if self.seq < head.seq => {
                self.blame(next, format!("rows {next} to {} are missing", head.seq));
            }
            Some(head) if head.seq < self.seq => {
                let from = head.seq + 1;
                self.blame(from, "it is after the chain's head".to_owned());
            }
            Some(head) if head.hash != self.hash => {
                self.blame(self.seq, "the chain's head is of another row".to_owned());
            }
            Some(_) => {}
        }
    }

    fn blame(&mut self, seq: i64, reason: String) {
        self.fault = Some(AuditFault { seq, reason });
    }
}

async fn read_links(tx: &mut PlatformTx, tenant_id: TenantId, after: i64) -> Result<Vec<Link>> {
    let rows = sqlx::query(
        "SELECT seq, app.micros(at) AS at, actor, action, target, detail::text AS detail, \
                request_id, address, prev_hash, hash \
         FROM audit_events WHERE tenant_id = $1 AND seq > $2 ORDER BY seq LIMIT $3",
    )
    .bind(tenant_id.as_uuid())
    .bind(after)
    .bind(BATCH)
    .fetch_all(tx.connection())
    .await?;
    rows.iter().map(|row| Ok(read_link(row)?)).collect()
}

fn read_link(row: &PgRow) -> Result<Link, sqlx::Error> {
    Ok(Link {
        seq: row.try_get("seq")?,
        at_micros: row.try_get("at")?,
        actor: row.try_get("actor")?,
        action: row.try_get("action")?,
        target: row.try_get("target")?,
        detail: row.try_get("detail")?,
        request_id: row.try_get("request_id")?,
        address: row.try_get("address")?,
        prev_hash: row.try_get("prev_hash")?,
        hash: row.try_get("hash")?,
    })
}

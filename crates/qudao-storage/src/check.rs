//! The invariants that SQL can see on a live database.

use sqlx::{AssertSqlSafe, Row as _, postgres::PgRow};

use crate::{PlatformTx, Result, StorageError, Store, audit};

mod invariants;

use invariants::{INVARIANTS, Invariant, SAME_TENANT};

/// When an invariant holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// At every moment, also under load.
    Always,
    /// Once no work is left: nothing comes in and the workers are done.
    AfterDrain,
}

/// What a check of one invariant found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Its number in `docs/invariants.md`, such as `I7`.
    pub id: &'static str,
    /// What must hold.
    pub title: &'static str,
    /// When it must hold.
    pub scope: Scope,
    /// How many times it does not.
    pub violations: i64,
    /// How many rows were looked at; zero proves nothing.
    pub examined: i64,
    /// One violation, for the operator.
    pub sample: Option<String>,
}

/// An invariant that this check cannot decide.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unchecked {
    /// Its number in `docs/invariants.md`.
    pub id: &'static str,
    /// What must hold.
    pub title: &'static str,
    /// Why SQL cannot see it.
    pub reason: &'static str,
}

/// What SQL cannot decide, with the reason.
pub const UNCHECKED: &[Unchecked] = &[
    Unchecked {
        id: "I1",
        title: "every acknowledged message is in the inbox",
        reason: "needs the sender's own record of what was acknowledged",
    },
    Unchecked {
        id: "I14",
        title: "first deliveries arrive in the order of out_seq",
        reason: "needs the receiver's own record",
    },
    Unchecked {
        id: "I15",
        title: "every reply reached the other side",
        reason: "needs the receiver's own record",
    },
    Unchecked {
        id: "I16",
        title: "one turn, one reply id on the other side",
        reason: "needs the receiver's own record",
    },
    Unchecked {
        id: "I19",
        title: "no answer later than lease, deadline and slack",
        reason: "needs the times at which an outsider asked and was answered",
    },
    Unchecked {
        id: "I20",
        title: "partner accruals equal the split of what was settled",
        reason: "there are no partners yet",
    },
    Unchecked {
        id: "I21",
        title: "every usage row is on at most one invoice line",
        reason: "there are no invoices yet",
    },
    Unchecked {
        id: "I25",
        title: "redundant sends are at most kills times messages in flight",
        reason: "needs the count of kills and the receiver's own record",
    },
    Unchecked {
        id: "I26",
        title: "an API call whose end its caller read is settled",
        reason: "needs the callers' own record",
    },
];

impl Store {
    /// Looks for violations of every invariant that SQL can see, all in one snapshot, so that
    /// work under way does not look like a violation.
    ///
    /// # Errors
    /// [`StorageError::Forbidden`](crate::StorageError) if the role of the URL does not see every
    /// tenant's rows.
    pub async fn check(&self) -> Result<Vec<Finding>> {
        let mut tx = self.begin_check().await?;
        let mut findings = Vec::with_capacity(INVARIANTS.len() + 1);
        for invariant in INVARIANTS {
            let row = tx.probe(invariant.violations, invariant.examined).await?;
            findings.push(invariant.finding(&row)?);
        }
        let row = tx.probe_parents().await?;
        findings.push(SAME_TENANT.finding(&row)?);
        findings.push(tx.probe_audit().await?);
        tx.commit().await?;
        findings.sort_by_key(|finding| finding.id[1..].parse::<u32>().unwrap_or(u32::MAX));
        Ok(findings)
    }
}

impl PlatformTx {
    /// Both texts are constants of this crate, or made of names quoted by the database.
    async fn probe(&mut self, violations: &str, examined: &str) -> Result<PgRow> {
        let sql = format!(
            "WITH bad (what) AS MATERIALIZED ({violations}) \
             SELECT (SELECT count(*) FROM bad) AS violations, \
                    ({examined})::bigint AS examined, \
                    (SELECT min(what) FROM bad) AS sample"
        );
        Ok(sqlx::query(AssertSqlSafe(sql)).fetch_one(self.connection()).await?)
    }

    /// I23. What the signed heads tell beyond it is `qudao audit verify`'s.
    async fn probe_audit(&mut self) -> Result<Finding> {
        let chains = audit::verify(self, None, &[]).await?;
        let bad = chains.iter().filter_map(|chain| Some((&chain.name, chain.fault.as_ref()?)));
        let bad: Vec<String> =
            bad.map(|(name, fault)| format!("{name} {}: {}", fault.seq, fault.reason)).collect();
        Ok(Finding {
            id: "I23",
            title: "the audit chain verifies",
            scope: Scope::Always,
            violations: i64::try_from(bad.len()).unwrap_or(i64::MAX),
            examined: chains.iter().map(|chain| chain.rows).sum(),
            sample: bad.into_iter().min(),
        })
    }

    /// I24, written by the database itself from its foreign keys: a key that is added later is
    /// looked at without a change here.
    async fn probe_parents(&mut self) -> Result<PgRow> {
        let keys: Vec<(String, String)> =
            sqlx::query_as(invariants::FOREIGN_KEYS).fetch_all(self.connection()).await?;
        let (violations, examined): (Vec<_>, Vec<_>) = keys.into_iter().unzip();
        if violations.is_empty() {
            let detail = "no table of a tenant has a foreign key".to_owned();
            return Err(StorageError::Inconsistent { detail });
        }
        self.probe(&violations.join(" UNION ALL "), &examined.join(" + ")).await
    }
}

impl Invariant {
    fn finding(&self, row: &PgRow) -> Result<Finding> {
        Ok(Finding {
            id: self.id,
            title: self.title,
            scope: self.scope,
            violations: row.try_get("violations")?,
            examined: row.try_get("examined")?,
            sample: row.try_get("sample")?,
        })
    }
}

//! What routes decided, and how their models on trial do.

use std::time::Duration;

use jiff::Timestamp;
use qudao_domain::{
    ConversationId, DecisionId, Micros, RouteId, TenantId, TurnId,
    routing::{Arm, ArmFigures, Routing},
};
use serde::Serialize;
use serde_json::Value;
use sqlx::{Row as _, postgres::PgRow, types::Json};
use uuid::Uuid;

use crate::{Listing, Page, Result, Store, Tx, claim::millis, page::id_cursor, row};

/// A decision to be written down.
#[derive(Debug, Clone, PartialEq)]
pub struct NewDecision {
    /// Which.
    pub id: DecisionId,
    /// About which turn or call.
    pub turn_id: TurnId,
    /// By which route.
    pub route_id: RouteId,
    /// Of which conversation, if there is one.
    pub conversation_id: Option<ConversationId>,
    /// Who answered; `None` if nobody did.
    pub model: Option<String>,
    /// Models that were asked or passed over before.
    pub fallbacks: u32,
    /// On which side of the route's trial.
    pub arm: Arm,
    /// Whether the first model that was asked failed; `None` if none was.
    pub failed: Option<bool>,
    /// How long it took until its first word.
    pub latency: Option<Duration>,
    /// What was considered, with which signals, and why.
    pub body: Value,
}

/// A decision as `app.add_decision` reads it.
#[derive(Serialize)]
struct DecisionRow<'a> {
    decision_id: Uuid,
    turn_id: Uuid,
    route_id: Uuid,
    conversation_id: Option<Uuid>,
    model: Option<&'a str>,
    fallbacks: u32,
    arm: &'static str,
    failed: Option<bool>,
    latency_ms: Option<i32>,
    body: &'a Value,
}

impl NewDecision {
    pub(crate) fn row(&self) -> Json<impl Serialize> {
        Json(DecisionRow {
            decision_id: self.id.as_uuid(),
            turn_id: self.turn_id.as_uuid(),
            route_id: self.route_id.as_uuid(),
            conversation_id: self.conversation_id.map(ConversationId::as_uuid),
            model: self.model.as_deref(),
            fallbacks: self.fallbacks,
            arm: self.arm.as_str(),
            failed: self.failed,
            latency_ms: self.latency.map(whole_millis),
            body: &self.body,
        })
    }
}

fn whole_millis(span: Duration) -> i32 {
    i32::try_from(span.as_millis()).unwrap_or(i32::MAX)
}

/// A decision as it was written down.
#[derive(Debug, Clone, PartialEq)]
pub struct DecisionRecord {
    /// Which.
    pub id: DecisionId,
    /// About which turn or call.
    pub turn_id: TurnId,
    /// By which route.
    pub route_id: RouteId,
    /// Of which conversation, if there is one.
    pub conversation_id: Option<ConversationId>,
    /// Who answered.
    pub model: Option<String>,
    /// Models that were asked or passed over before.
    pub fallbacks: u32,
    /// On which side of the route's trial.
    pub arm: Arm,
    /// What was considered, with which signals, and why.
    pub body: Value,
    /// When.
    pub at: Timestamp,
}

/// How a turn or call was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// By the first model.
    First,
    /// By another, after some were asked or passed over.
    Fallback,
    /// By nobody.
    Nobody,
}

impl Outcome {
    /// The one with this text form.
    pub fn find(text: &str) -> Option<Self> {
        [Self::First, Self::Fallback, Self::Nobody].into_iter().find(|one| one.as_str() == text)
    }

    /// As it stands in queries.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::Fallback => "fallback",
            Self::Nobody => "nobody",
        }
    }
}

/// Which decisions to list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DecisionFilter {
    /// Those about this turn or call.
    pub turn_id: Option<TurnId>,
    /// Those of this route.
    pub route_id: Option<RouteId>,
    /// Those of this conversation.
    pub conversation_id: Option<ConversationId>,
    /// Those that this model answered.
    pub model: Option<String>,
    /// Those on this side of a trial.
    pub arm: Option<Arm>,
    /// Those that were answered like this.
    pub outcome: Option<Outcome>,
}

/// What came of asking a canary as well.
#[derive(Debug, Clone, PartialEq)]
pub struct ShadowRun {
    /// Beside which decision.
    pub decision_id: DecisionId,
    /// Whether it failed.
    pub failed: bool,
    /// How long it took until its first word.
    pub latency: Option<Duration>,
    /// How well its answer agrees with the one that was given.
    pub agreement: Option<f64>,
    /// What it cost, who pays, and what went wrong.
    pub body: Value,
}

impl Store {
    /// Writes decisions of any tenants down. Safe to repeat.
    ///
    /// # Errors
    /// [`StorageError`](crate::StorageError).
    pub async fn record_decisions(&self, decisions: &[(TenantId, NewDecision)]) -> Result<()> {
        let mut sorted: Vec<_> = decisions.iter().collect();
        sorted.sort_by_key(|(tenant, _)| *tenant);
        let tenants: Vec<_> = sorted.iter().map(|(tenant, _)| tenant.as_uuid()).collect();
        let rows: Vec<_> = sorted.iter().map(|(_, decision)| decision.row()).collect();
        let query =
            || sqlx::query("SELECT app.record_decisions($1, $2)").bind(tenants.clone()).bind(&rows);
        self.rows_of_one_statement(query).await?;
        Ok(())
    }

    /// Forgets decisions that are older, so many at most. How many.
    ///
    /// # Errors
    /// [`StorageError`](crate::StorageError).
    pub async fn forget_route_decisions(&self, older_than: Duration, limit: u32) -> Result<u64> {
        let mut tx = self.begin_claim().await?;
        let gone: i64 = sqlx::query_scalar("SELECT app.forget_route_decisions($1, $2)")
            .bind(millis(older_than))
            .bind(i32::try_from(limit).unwrap_or(i32::MAX))
            .fetch_one(tx.connection())
            .await?;
        tx.commit().await?;
        Ok(gone.unsigned_abs())
    }
}

const COLUMNS: &str = "decision_id, turn_id, route_id, conversation_id, model, fallbacks, arm, \
                       body, app.micros(decided_at) AS at";

impl Tx {
    /// The tenant's decisions, the newest first.
    ///
    /// # Errors
    /// [`StorageError::BadCursor`](crate::StorageError) and others.
    pub async fn list_decisions(
        &mut self,
        filter: DecisionFilter,
        page: &Page,
    ) -> Result<Listing<DecisionRecord>> {
        let sql = format!(
            "SELECT {COLUMNS} FROM route_decisions \
             WHERE tenant_id = $1 AND ($2::uuid IS NULL OR decision_id < $2) \
               AND ($3::uuid IS NULL OR turn_id = $3) AND ($4::uuid IS NULL OR route_id = $4) \
               AND ($5::uuid IS NULL OR conversation_id = $5) \
               AND ($6::text IS NULL OR model = $6) AND ($7::text IS NULL OR arm = $7) \
               AND CASE $8::text WHEN 'first' THEN model IS NOT NULL AND fallbacks = 0 \
                                 WHEN 'fallback' THEN model IS NOT NULL AND 0 < fallbacks \
                                 WHEN 'nobody' THEN model IS NULL ELSE true END \
             ORDER BY decision_id DESC LIMIT $9"
        );
        let rows = sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(self.tenant_id().as_uuid())
            .bind(page.after_id()?)
            .bind(filter.turn_id.map(TurnId::as_uuid))
            .bind(filter.route_id.map(RouteId::as_uuid))
            .bind(filter.conversation_id.map(ConversationId::as_uuid))
            .bind(filter.model)
            .bind(filter.arm.map(Arm::as_str))
            .bind(filter.outcome.map(Outcome::as_str))
            .bind(page.probe_limit())
            .fetch_all(self.connection())
            .await?;
        let items = rows.iter().map(read_decision).collect::<Result<Vec<_>, _>>()?;
        Ok(Listing::cut(items, page, |decision| id_cursor(decision.id.as_uuid())))
    }

    /// The decision, if it is this tenant's.
    ///
    /// # Errors
    /// [`StorageError`](crate::StorageError).
    pub async fn find_decision(&mut self, id: DecisionId) -> Result<Option<DecisionRecord>> {
        let sql = format!(
            "SELECT {COLUMNS} FROM route_decisions WHERE tenant_id = $1 AND decision_id = $2"
        );
        let row = sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(self.tenant_id().as_uuid())
            .bind(id.as_uuid())
            .fetch_optional(self.connection())
            .await?;
        Ok(row.as_ref().map(read_decision).transpose()?)
    }

    /// Writes down what came of asking the canary as well.
    ///
    /// # Errors
    /// [`StorageError`](crate::StorageError); safe to repeat.
    pub async fn record_shadow(&mut self, run: &ShadowRun) -> Result<()> {
        sqlx::query(
            "UPDATE route_decisions \
             SET shadow_failed = $3, shadow_latency_ms = $4, agreement = $5, \
                 body = body || jsonb_build_object('shadow', $6::jsonb) \
             WHERE tenant_id = $1 AND decision_id = $2",
        )
        .bind(self.tenant_id().as_uuid())
        .bind(run.decision_id.as_uuid())
        .bind(run.failed)
        .bind(run.latency.map(whole_millis))
        .bind(run.agreement)
        .bind(&run.body)
        .execute(self.connection())
        .await?;
        Ok(())
    }

    /// How a route's canary and the models beside it did in the last so many minutes, since the trial
    /// began: the canary's figures first.
    ///
    /// # Errors
    /// [`StorageError`](crate::StorageError).
    pub async fn trial_figures(
        &mut self,
        route_id: RouteId,
        model: &str,
        minutes: u32,
    ) -> Result<(ArmFigures, ArmFigures)> {
        let row = sqlx::query(
            "SELECT count(c.failed) AS tried, count(*) FILTER (WHERE c.failed) AS tried_failed, \
                    avg(c.latency) FILTER (WHERE NOT c.failed)::float8 AS tried_latency, \
                    count(c.agreement) AS compared, avg(c.agreement)::float8 AS agreement, \
                    count(s.failed) AS stable, count(*) FILTER (WHERE s.failed) AS stable_failed, \
                    avg(s.latency) FILTER (WHERE NOT s.failed)::float8 AS stable_latency \
             FROM route_decisions d \
             LEFT JOIN LATERAL (SELECT \
                 CASE d.arm WHEN 'canary' THEN d.failed ELSE d.shadow_failed END AS failed, \
                 CASE d.arm WHEN 'canary' THEN d.latency_ms ELSE d.shadow_latency_ms END AS latency, \
                 d.agreement) c ON d.body ->> 'trial' = $4 AND d.arm <> 'stable' \
             LEFT JOIN LATERAL (SELECT d.failed, d.latency_ms AS latency) s ON d.arm <> 'canary' \
             WHERE d.tenant_id = $1 AND d.route_id = $2 \
               AND now() - $3 * interval '1 minute' <= d.decided_at",
        )
        .bind(self.tenant_id().as_uuid())
        .bind(route_id.as_uuid())
        .bind(i32::try_from(minutes).unwrap_or(i32::MAX))
        .bind(model)
        .fetch_one(self.connection())
        .await?;
        let count = |column| -> Result<u32> {
            let number: i64 = row.try_get(column)?;
            Ok(u32::try_from(number).unwrap_or(u32::MAX))
        };
        let average = |column| -> Result<f64> {
            Ok(row.try_get::<Option<f64>, _>(column)?.unwrap_or_default())
        };
        let canary = ArmFigures {
            calls: count("tried")?,
            failures: count("tried_failed")?,
            latency_ms: average("tried_latency")?,
            compared: count("compared")?,
            agreement: average("agreement")?,
        };
        let stable = ArmFigures {
            calls: count("stable")?,
            failures: count("stable_failed")?,
            latency_ms: average("stable_latency")?,
            ..ArmFigures::default()
        };
        Ok((canary, stable))
    }

    /// Takes a route's canary back, if it is this one and it runs. Whether this call did it.
    ///
    /// # Errors
    /// [`StorageError`](crate::StorageError).
    pub async fn roll_back_canary(&mut self, route_id: RouteId, model: &str) -> Result<bool> {
        let done = sqlx::query(
            "UPDATE routes SET routing = jsonb_set(routing, '{canary,state}', '\"rolled_back\"') \
             WHERE tenant_id = $1 AND route_id = $2 AND routing #>> '{canary,model}' = $3 \
               AND COALESCE(routing #>> '{canary,state}', 'running') = 'running'",
        )
        .bind(self.tenant_id().as_uuid())
        .bind(route_id.as_uuid())
        .bind(model)
        .execute(self.connection())
        .await?;
        Ok(done.rows_affected() == 1)
    }

    /// What the tenant was charged since the month began, in UTC.
    ///
    /// # Errors
    /// [`StorageError`](crate::StorageError).
    pub async fn spent_this_month(&mut self) -> Result<Micros> {
        let spent: i64 = sqlx::query_scalar(
            "SELECT COALESCE(sum(charge), 0)::bigint FROM usage_events \
             WHERE tenant_id = $1 AND at >= date_trunc('month', now(), 'UTC')",
        )
        .bind(self.tenant_id().as_uuid())
        .fetch_one(self.connection())
        .await?;
        Ok(Micros::new(spent))
    }
}

fn read_decision(row: &PgRow) -> Result<DecisionRecord, sqlx::Error> {
    Ok(DecisionRecord {
        id: row::id(row, "decision_id", DecisionId::from_uuid)?,
        turn_id: row::id(row, "turn_id", TurnId::from_uuid)?,
        route_id: row::id(row, "route_id", RouteId::from_uuid)?,
        conversation_id: row::optional_id(row, "conversation_id", ConversationId::from_uuid)?,
        model: row.try_get("model")?,
        fallbacks: row::count(row, "fallbacks")?,
        arm: row::state(row, "arm", Arm::find)?,
        body: row.try_get("body")?,
        at: row::time(row, "at")?,
    })
}

/// What a route has beside its models. Unreadable rules are an error: passing them over might show
/// a message to a model that must not see it.
pub(crate) fn read_routing(row: &PgRow) -> Result<Routing, sqlx::Error> {
    let Json(routing) = row.try_get::<Json<Routing>, _>("routing")?;
    Ok(routing)
}

//! What came through a route, from what it decided.

use qudao_domain::RouteId;
use sqlx::{Row as _, postgres::PgRow};

use crate::{Result, Tx};

/// Reasons that are told apart; rarer ones are left out.
const REASONS: i64 = 50;

/// What a route decided within a span of time.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Traffic {
    /// Who answered, the busiest first.
    pub models: Vec<ModelTraffic>,
    /// Which rules matched, the most frequent first.
    pub rules: Vec<RuleTraffic>,
    /// Who was asked in vain or passed over, and why, the most frequent first.
    pub passed_over: Vec<PassedOver>,
}

/// A model that answered; `None` counts those that nobody answered.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelTraffic {
    /// Which.
    pub model: Option<String>,
    /// How many turns and calls.
    pub decisions: u64,
    /// Of those, how many after another was asked or passed over.
    pub fallbacks: u64,
    /// How long its first word took where it was asked first, in milliseconds on average.
    pub latency_ms: Option<f64>,
}

/// A rule that matched; `None` counts those that no rule matched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleTraffic {
    /// Which.
    pub rule: Option<String>,
    /// How many turns and calls.
    pub decisions: u64,
}

/// A model that did not answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PassedOver {
    /// Which.
    pub model: String,
    /// Why: a word of a closed set.
    pub why: String,
    /// How often.
    pub times: u64,
}

/// What is counted: the decisions of a route of the last so many minutes.
const WITHIN: &str = "FROM route_decisions d \
     WHERE d.tenant_id = $1 AND d.route_id = $2 \
       AND now() - $3 * interval '1 minute' <= d.decided_at";

impl Tx {
    /// What a route decided in the last so many minutes.
    ///
    /// # Errors
    /// [`StorageError`](crate::StorageError).
    pub async fn route_traffic(&mut self, route_id: RouteId, minutes: u32) -> Result<Traffic> {
        let models = format!(
            "SELECT d.model, count(*) AS decisions, count(*) FILTER (WHERE 0 < d.fallbacks) AS fallbacks, \
                    avg(d.latency_ms) FILTER (WHERE d.failed IS FALSE)::float8 AS latency \
             {WITHIN} GROUP BY d.model ORDER BY decisions DESC, d.model LIMIT $4"
        );
        let rules = format!(
            "SELECT d.body ->> 'rule' AS rule, count(*) AS decisions \
             {WITHIN} GROUP BY 1 ORDER BY decisions DESC, rule LIMIT $4"
        );
        let passed_over = format!(
            "SELECT t.tried ->> 'model' AS model, t.tried ->> 'outcome' AS why, count(*) AS times \
             FROM (SELECT jsonb_array_elements(d.body -> 'tries') AS tried {WITHIN}) t \
             WHERE t.tried ->> 'outcome' <> 'answered' \
             GROUP BY 1, 2 ORDER BY times DESC, model, why LIMIT $4"
        );
        Ok(Traffic {
            models: self.within(models, route_id, minutes, read_model).await?,
            rules: self.within(rules, route_id, minutes, read_rule).await?,
            passed_over: self.within(passed_over, route_id, minutes, read_passed_over).await?,
        })
    }

    async fn within<T>(
        &mut self,
        sql: String,
        route_id: RouteId,
        minutes: u32,
        read: fn(&PgRow) -> Result<T, sqlx::Error>,
    ) -> Result<Vec<T>> {
        let rows = sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(self.tenant_id().as_uuid())
            .bind(route_id.as_uuid())
            .bind(i32::try_from(minutes).unwrap_or(i32::MAX))
            .bind(REASONS)
            .fetch_all(self.connection())
            .await?;
        Ok(rows.iter().map(read).collect::<Result<Vec<_>, _>>()?)
    }
}

fn number(row: &PgRow, column: &str) -> Result<u64, sqlx::Error> {
    Ok(row.try_get::<i64, _>(column)?.unsigned_abs())
}

fn read_model(row: &PgRow) -> Result<ModelTraffic, sqlx::Error> {
    Ok(ModelTraffic {
        model: row.try_get("model")?,
        decisions: number(row, "decisions")?,
        fallbacks: number(row, "fallbacks")?,
        latency_ms: row.try_get("latency")?,
    })
}

fn read_rule(row: &PgRow) -> Result<RuleTraffic, sqlx::Error> {
    Ok(RuleTraffic { rule: row.try_get("rule")?, decisions: number(row, "decisions")? })
}

fn read_passed_over(row: &PgRow) -> Result<PassedOver, sqlx::Error> {
    Ok(PassedOver {
        model: row.try_get("model")?,
        why: row.try_get("why")?,
        times: number(row, "times")?,
    })
}

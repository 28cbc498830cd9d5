//! What came through a route: who answered, by which rules, and how its trial does.

use actix_web::{HttpResponse, web};
use qudao_domain::{RouteId, routing::ArmFigures};
use qudao_storage::{ModelTraffic, PassedOver, RuleTraffic, Traffic};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::in_tenant;
use crate::{
    access::TenantScope,
    code::Code,
    error::ApiError,
    extract::{Id, Query},
    state::AppState,
};

const DEFAULT_MINUTES: u32 = 60;
/// A week.
pub(crate) const MAX_MINUTES: u32 = 10_080;

/// Over how long.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TrafficQuery {
    minutes: Option<u32>,
}

/// What a route decided within a span of time.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct RouteTraffic {
    /// Over so many minutes.
    minutes: u32,
    /// How many turns and calls.
    decisions: u64,
    /// Who answered, the busiest first.
    models: Vec<ModelShare>,
    /// Which rules matched, the most frequent first.
    rules: Vec<RuleShare>,
    /// Who was asked in vain or passed over, and why, the most frequent first.
    passed_over: Vec<PassedOverBody>,
    /// How the trial does, within the window that the route's `rollback` names; null without one.
    trial: Option<TrialFigures>,
}

/// A model that answered.
#[derive(Debug, Serialize, ToSchema)]
struct ModelShare {
    /// Null counts those that nobody answered.
    model: Option<String>,
    decisions: u64,
    /// Of those, how many after another was asked or passed over.
    fallbacks: u64,
    /// How long its first word took where it was asked first, in milliseconds on average.
    latency_ms: Option<f64>,
}

/// A rule that matched.
#[derive(Debug, Serialize, ToSchema)]
struct RuleShare {
    /// Null counts those that no rule matched.
    rule: Option<String>,
    decisions: u64,
}

/// A model that did not answer.
#[derive(Debug, Serialize, ToSchema)]
#[schema(title = "PassedOver", as = PassedOver)]
struct PassedOverBody {
    model: String,
    /// A word such as `breaker_open`, `remote`, `no_funds` or `provider_unavailable`.
    #[schema(example = "breaker_open")]
    why: String,
    times: u64,
}

/// A model on trial beside those that serve.
#[derive(Debug, Serialize, ToSchema)]
struct TrialFigures {
    canary: SideFigures,
    stable: SideFigures,
}

/// One side of a trial.
#[derive(Debug, Serialize, ToSchema)]
struct SideFigures {
    calls: u32,
    /// Of those, how many failed.
    failures: u32,
    /// How long those took that succeeded, in milliseconds on average; null without any.
    latency_ms: Option<f64>,
    /// How many answers were compared with the ones that were given.
    compared: u32,
    /// How well they agreed, on average; null without any.
    agreement: Option<f64>,
}

impl From<ArmFigures> for SideFigures {
    fn from(figures: ArmFigures) -> Self {
        let ArmFigures { calls, failures, latency_ms, compared, agreement } = figures;
        Self {
            calls,
            failures,
            latency_ms: (failures < calls).then_some(latency_ms),
            compared,
            agreement: (0 < compared).then_some(agreement),
        }
    }
}

impl RouteTraffic {
    fn new(minutes: u32, traffic: Traffic, trial: Option<(ArmFigures, ArmFigures)>) -> Self {
        let Traffic { models, rules, passed_over } = traffic;
        let model = |ModelTraffic { model, decisions, fallbacks, latency_ms }| ModelShare {
            model,
            decisions,
            fallbacks,
            latency_ms,
        };
        let rule = |RuleTraffic { rule, decisions }| RuleShare { rule, decisions };
        let passed = |PassedOver { model, why, times }| PassedOverBody { model, why, times };
        Self {
            minutes,
            decisions: models.iter().map(|model| model.decisions).sum(),
            models: models.into_iter().map(model).collect(),
            rules: rules.into_iter().map(rule).collect(),
            passed_over: passed_over.into_iter().map(passed).collect(),
            trial: trial.map(|(canary, stable)| TrialFigures {
                canary: canary.into(),
                stable: stable.into(),
            }),
        }
    }
}

pub(crate) async fn get(
    state: web::Data<AppState>,
    TenantScope(tenant_id): TenantScope,
    Id(id): Id<RouteId>,
    Query(TrafficQuery { minutes }): Query<TrafficQuery>,
) -> Result<HttpResponse, ApiError> {
    let minutes = minutes.unwrap_or(DEFAULT_MINUTES);
    if !(1..=MAX_MINUTES).contains(&minutes) {
        return Err(ApiError::new(Code::InvalidQuery, "minutes has to be between 1 and 10080"));
    }
    let found = in_tenant(&state, tenant_id, move |tx| {
        Box::pin(async move {
            let Some(route) = tx.find_route(id).await? else { return Ok(None) };
            let traffic = tx.route_traffic(id, minutes).await?;
            let trial = match &route.routing.canary {
                Some(canary) => {
                    let window = canary.rollback.window_minutes;
                    Some(tx.trial_figures(id, &canary.model, window).await?)
                }
                None => None,
            };
            Ok(Some((traffic, trial)))
        })
    });
    let (traffic, trial) = found.await?.ok_or_else(|| ApiError::not_found("route"))?;
    Ok(HttpResponse::Ok().json(RouteTraffic::new(minutes, traffic, trial)))
}

//! What routes decided, and how models do.

use actix_web::{HttpResponse, web};
use jiff::Timestamp;
use qudao_core::BreakerReport;
use qudao_domain::{ConversationId, DecisionId, RouteId, TurnId, routing::Arm};
use qudao_storage::{DecisionFilter, DecisionRecord, Outcome};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::{List, in_tenant, page};
use crate::{
    access::TenantScope,
    code::Code,
    error::ApiError,
    extract::{Id, NoQuery, PageQuery, Query},
    state::AppState,
};

/// Which decisions to list.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DecisionQuery {
    limit: Option<u32>,
    cursor: Option<String>,
    turn_id: Option<String>,
    route_id: Option<String>,
    conversation_id: Option<String>,
    model: Option<String>,
    arm: Option<String>,
    outcome: Option<String>,
}

impl DecisionQuery {
    fn parse(self) -> Result<(DecisionFilter, PageQuery), ApiError> {
        let filter = DecisionFilter {
            turn_id: read_id::<TurnId>("turn_id", self.turn_id.as_deref())?,
            route_id: read_id::<RouteId>("route_id", self.route_id.as_deref())?,
            conversation_id: read_id::<ConversationId>(
                "conversation_id",
                self.conversation_id.as_deref(),
            )?,
            model: self.model.map(read_model).transpose()?,
            arm: read_word("arm", self.arm.as_deref(), Arm::find)?,
            outcome: read_word("outcome", self.outcome.as_deref(), Outcome::find)?,
        };
        Ok((filter, PageQuery::new(self.limit, self.cursor)))
    }
}

fn read_id<T: std::str::FromStr>(name: &str, text: Option<&str>) -> Result<Option<T>, ApiError>
where
    T::Err: std::fmt::Display,
{
    let read = text.map(str::parse::<T>).transpose();
    read.map_err(|error| ApiError::new(Code::InvalidQuery, format!("{name} is {error}")))
}

fn read_word<T>(
    name: &str,
    text: Option<&str>,
    find: fn(&str) -> Option<T>,
) -> Result<Option<T>, ApiError> {
    let unknown = || ApiError::new(Code::InvalidQuery, format!("{name} is none of its words"));
    text.map(|text| find(text).ok_or_else(unknown)).transpose()
}

fn read_model(name: String) -> Result<String, ApiError> {
    let visible = name.chars().all(|c| !c.is_control() && !c.is_whitespace());
    if name.is_empty() || !visible {
        return Err(ApiError::new(Code::InvalidQuery, "model is no name of a model"));
    }
    Ok(name)
}

/// What a route decided about an attempt at a turn, or about a call by its name.
#[derive(Debug, Serialize, ToSchema)]
#[schema(title = "Decision", as = Decision)]
pub(crate) struct DecisionBody {
    #[schema(value_type = String, example = "dec_0198c0de00007000800000000000a001")]
    id: DecisionId,
    /// The turn or API call, as in the usage.
    #[schema(value_type = String)]
    turn_id: TurnId,
    #[schema(value_type = String)]
    route_id: RouteId,
    #[schema(value_type = Option<String>)]
    conversation_id: Option<ConversationId>,
    /// Who answered; null where nobody did.
    model: Option<String>,
    /// Models that were asked or passed over before.
    fallbacks: u32,
    /// Which side of the route's trial it stands on: `stable`, `canary` or `shadow`.
    #[schema(value_type = String, example = "stable")]
    arm: Arm,
    /// `rule` (null where none matched), `considered` (each rule with what it failed on), `signals`
    /// (what was found, or `unknown` and why), `candidates` in order, `local_only`, `tries` (each model
    /// that was asked or passed over, with `outcome` and `latency_ms`), `end`, `door`; on trial `trial`,
    /// and `shadow` with how it did, what it cost and who pays.
    #[schema(value_type = Object)]
    detail: Value,
    #[schema(value_type = String, format = DateTime)]
    at: Timestamp,
}

impl From<DecisionRecord> for DecisionBody {
    fn from(record: DecisionRecord) -> Self {
        let DecisionRecord {
            id,
            turn_id,
            route_id,
            conversation_id,
            model,
            fallbacks,
            arm,
            body,
            at,
        } = record;
        Self { id, turn_id, route_id, conversation_id, model, fallbacks, arm, detail: body, at }
    }
}

pub(crate) async fn list(
    state: web::Data<AppState>,
    TenantScope(tenant_id): TenantScope,
    Query(query): Query<DecisionQuery>,
) -> Result<HttpResponse, ApiError> {
    let (filter, part) = query.parse()?;
    let page = page(&part)?;
    let listing = in_tenant(&state, tenant_id, move |tx| {
        Box::pin(async move { Ok(tx.list_decisions(filter, &page).await?) })
    });
    Ok(HttpResponse::Ok().json(List::<DecisionBody>::of(listing.await?)))
}

pub(crate) async fn get(
    state: web::Data<AppState>,
    TenantScope(tenant_id): TenantScope,
    Id(id): Id<DecisionId>,
    _: Query<NoQuery>,
) -> Result<HttpResponse, ApiError> {
    let found = in_tenant(&state, tenant_id, move |tx| {
        Box::pin(async move { Ok(tx.find_decision(id).await?) })
    });
    let decision = found.await?.ok_or_else(|| ApiError::not_found("decision"))?;
    Ok(HttpResponse::Ok().json(DecisionBody::from(decision)))
}

/// How the models of this node do that were asked.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct BreakerList {
    data: Vec<BreakerBody>,
}

/// How a model does.
#[derive(Debug, Serialize, ToSchema)]
#[schema(title = "Breaker", as = Breaker)]
pub(crate) struct BreakerBody {
    model: String,
    /// `closed` (it is asked), `half_open` (it is tried with a few calls) or `open` (it is left alone).
    #[schema(example = "closed")]
    state: &'static str,
    /// Calls of this node within the window.
    calls: u32,
    /// Of those, how many failed.
    failures: u32,
    /// In how many seconds it is tried again, if it is left alone.
    open_for_s: Option<f64>,
}

impl From<BreakerReport> for BreakerBody {
    fn from(report: BreakerReport) -> Self {
        let BreakerReport { model, health, calls, failures, open_for } = report;
        let open_for_s = open_for.map(|rest| rest.as_secs_f64());
        Self { model, state: health.as_str(), calls, failures, open_for_s }
    }
}

pub(crate) async fn breakers(
    state: web::Data<AppState>,
    _: Query<NoQuery>,
) -> Result<HttpResponse, ApiError> {
    let data = state.core.breakers().into_iter().map(BreakerBody::from).collect();
    Ok(HttpResponse::Ok().json(BreakerList { data }))
}

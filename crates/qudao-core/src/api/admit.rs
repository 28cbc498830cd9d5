//! What stands before a call: its parameters, its rates, the tenant's models, the price.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock, atomic::AtomicUsize},
};

use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};
use moka::future::Cache;
use qudao_billing::hold_amount;
use qudao_domain::{Currency, Micros, TenantId, TurnId};
use qudao_plugin_api::wire::Ask;
use qudao_plugin_host::{CallError, ModelEntry, ModelKind, ModelState};
use qudao_storage::{PriceRow, Standing, StorageError, UsageLine};
use qudao_telemetry::{Span, SpanKind, Trace};

use super::{
    ApiError, ApiReply, ApiRequest, CallSlot, asked,
    credit::{GrantError, Lane},
    kept::Keeping,
    reply::{Bill, OpenCall},
    route::{RoutedCall, TenantRoutes},
};
use crate::{
    Core, Principal,
    price::ask_tokens,
    rates::{Caller, NotNow, TokenCharge},
    routing::Permit,
    settings::ApiSettings,
};

/// What the API path keeps in memory.
pub(crate) struct ApiState {
    lanes: RwLock<HashMap<TenantId, Arc<Lane>>>,
    pub(super) routes: Cache<TenantId, Arc<TenantRoutes>>,
    /// Calls that are open on this node.
    pub(super) in_flight: Arc<AtomicUsize>,
    pub(super) meters: Meters,
}

/// Handles of what every call counts, so that a call does not look them up.
pub(crate) struct Meters {
    pub(super) in_flight: Gauge,
    calls: Vec<(ModelKind, Counter)>,
    pub(super) input_tokens: Counter,
    pub(super) output_tokens: Counter,
    pub(super) charged: Counter,
    pub(super) absorbed: Counter,
    pub(super) first_event: Histogram,
    pub(super) batch: Histogram,
    pub(super) settle: Histogram,
}

impl Meters {
    fn new() -> Self {
        Self {
            in_flight: gauge!("qudao_api_calls_in_flight"),
            calls: ASKED.map(|kind| (kind, calls(kind))).to_vec(),
            input_tokens: counter!("qudao_tokens_total", "door" => "api", "side" => "input"),
            output_tokens: counter!("qudao_tokens_total", "door" => "api", "side" => "output"),
            charged: counter!("qudao_charged_micros_total", "door" => "api"),
            absorbed: counter!("qudao_absorbed_micros_total", "door" => "api"),
            first_event: histogram!("qudao_api_first_event_seconds"),
            batch: histogram!("qudao_settle_batch_calls"),
            settle: histogram!("qudao_settle_seconds"),
        }
    }
}

/// The kinds of models that can be asked.
pub(crate) const ASKED: [ModelKind; 5] = [
    ModelKind::Chat,
    ModelKind::Embed,
    ModelKind::Classify,
    ModelKind::Detect,
    ModelKind::Transcribe,
];

fn calls(kind: ModelKind) -> Counter {
    counter!("qudao_api_calls_total", "kind" => kind.as_str())
}

impl Meters {
    pub(super) fn called(&self, kind: ModelKind) {
        if let Some((_, calls)) = self.calls.iter().find(|(of, _)| *of == kind) {
            calls.increment(1);
        }
    }

    pub(super) fn count(&self, line: &UsageLine) {
        let micros = |amount: Micros| amount.get().unsigned_abs();
        self.input_tokens.increment(u64::from(line.input_tokens));
        self.output_tokens.increment(u64::from(line.output_tokens));
        self.charged.increment(micros(line.charge));
        self.absorbed.increment(micros(line.absorbed));
    }
}

impl ApiState {
    pub(crate) fn new(settings: &ApiSettings) -> Self {
        let routes = Cache::builder().max_capacity(100_000).time_to_live(settings.profile_cache);
        Self {
            lanes: RwLock::default(),
            routes: routes.build(),
            in_flight: Arc::default(),
            meters: Meters::new(),
        }
    }

    pub(super) fn lane(&self, tenant: TenantId) -> Arc<Lane> {
        let lanes = self.lanes.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(lane) = lanes.get(&tenant) {
            return Arc::clone(lane);
        }
        drop(lanes);
        let mut lanes = self.lanes.write().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(lanes.entry(tenant).or_insert_with(|| Arc::new(Lane::new(tenant))))
    }

    pub(crate) fn lanes(&self) -> Vec<Arc<Lane>> {
        let lanes = self.lanes.read().unwrap_or_else(PoisonError::into_inner);
        lanes.values().cloned().collect()
    }
}

impl Core {
    /// Serves a call of the API, whatever kind of model it asks. When this returns, the model has
    /// begun to answer; what a refused call had reserved is free again.
    ///
    /// # Errors
    /// [`ApiError`]. Nothing is charged then.
    pub async fn api_call(
        self: &Arc<Self>,
        principal: &Principal,
        mut request: ApiRequest,
    ) -> Result<ApiReply, ApiError> {
        let entry = self.let_in(principal, &mut request).await?;
        self.serve(principal, request, entry, None).await
    }

    /// What is asked of a request before anything is done for it.
    pub(super) async fn let_in(
        self: &Arc<Self>,
        principal: &Principal,
        request: &mut ApiRequest,
    ) -> Result<Entry, ApiError> {
        asked::check(request)?;
        let (plan, tokens) = match self.counts_tokens() {
            true => self.measure(principal, request).await,
            false => (None, 0),
        };
        let Principal { tenant_id, key_id, .. } = *principal;
        let caller = Caller { tenant_id, key_id, address: request.address };
        match self.may_call(&caller, tokens).await {
            Ok((standings, charge)) => {
                let slot = request.slot.take();
                Ok(Entry { plan, standings, pass: Pass { charge, _slot: slot } })
            }
            Err(NotNow::TooFast(too_fast)) => Err(too_fast.into()),
            Err(NotNow::TooDear { burst }) => {
                let (param, advice) = match request.ask {
                    Ask::Chat(_) => ("max_tokens", "shorten the messages or lower max_tokens"),
                    _ => ("input", "send less at a time"),
                };
                let detail = format!(
                    "the call may take up to {tokens} tokens, and {burst} in a minute are allowed: \
                     {advice}"
                );
                Err(ApiError::InvalidParameter { param, detail })
            }
        }
    }

    /// Serves a call that was let in, and keeps its answer if it has a key.
    pub(super) async fn serve(
        self: &Arc<Self>,
        principal: &Principal,
        request: ApiRequest,
        entry: Entry,
        mut keeping: Option<Keeping>,
    ) -> Result<ApiReply, ApiError> {
        let mut span = Span::child("call", SpanKind::Internal, request.trace);
        let Entry { plan, standings, pass } = entry;
        let admission = Span::child("admission", SpanKind::Internal, span.place());
        let id = keeping.as_ref().and_then(Keeping::turn_id).unwrap_or_else(TurnId::new);
        let plan = match plan {
            Some(plan) => plan,
            None => self.plan_of(principal, &request, id).await,
        };
        admission.end();
        let opened = match plan {
            Ok(plan) => {
                let way = Way { id, pass, place: span.place() };
                self.open(principal, &request, plan, way, &mut keeping).await
            }
            Err(refusal) => Err(refusal),
        };
        let (mut call, model, max_tokens) = match opened {
            Ok(opened) => opened,
            Err(refusal) => {
                span.fail(refusal.class());
                // The key is free again before the caller hears of it.
                if let Some(keeping) = keeping {
                    keeping.let_go().await;
                }
                return Err(refusal);
            }
        };
        span.set_with("qudao.turn.id", || call.turn_id().to_string());
        call.span = span;
        Ok(call.begin(request, model, max_tokens).await?.with_standings(standings))
    }

    /// The plan of a call by a model's name, and the tokens that a call may take. What a route decides
    /// is decided once and later: it may have to ask a model.
    async fn measure(
        self: &Arc<Self>,
        principal: &Principal,
        request: &ApiRequest,
    ) -> (Option<Result<Plan, ApiError>>, u32) {
        let name = request.ask.model();
        let routes = match self.tenant_routes(principal.tenant_id).await {
            Ok(routes) => routes,
            Err(refusal) => return (Some(Err(refusal)), 0),
        };
        if !routes.models.iter().any(|model| model == name) && routes.find(name).is_some() {
            return (None, self.most_tokens(request));
        }
        let plan = self.plan(principal.tenant_id, principal.holder.currency, request).await;
        let tokens = plan.as_ref().map_or(0, |plan| plan.size.tokens());
        (Some(plan), tokens)
    }

    /// How a call by the name of a model or of a route is served. Of one that both have it is the
    /// model's.
    async fn plan_of(
        self: &Arc<Self>,
        principal: &Principal,
        request: &ApiRequest,
        id: TurnId,
    ) -> Result<Plan, ApiError> {
        let name = request.ask.model();
        let routes = self.tenant_routes(principal.tenant_id).await?;
        if !routes.models.iter().any(|model| model == name)
            && let Some(route) = routes.find(name)
        {
            // Calls by a model's name shall not carry this along.
            return Box::pin(self.plan_route(principal, request, id, route)).await;
        }
        self.plan(principal.tenant_id, principal.holder.currency, request).await
    }

    /// Which model answers, at which price, and how large the call may become.
    pub(super) async fn plan(
        &self,
        tenant: TenantId,
        currency: Currency,
        request: &ApiRequest,
    ) -> Result<Plan, ApiError> {
        let name = request.ask.model().to_owned();
        let models = self.tenant_models(tenant).await?;
        if !models.contains(&name) {
            return Err(ApiError::UnknownModel { model: name });
        }
        let asked = ModelKind::of(&request.ask);
        if let Some(offers) = self.plugins.kind(&name).filter(|offers| *offers != asked) {
            return Err(ApiError::WrongKind { model: name, offers, asked });
        }
        let model = self.ready_model(&name)?;
        let price = self.price(&name, currency).await?;
        let Some(price) = price else { return Err(ApiError::NoPrice { model: name }) };
        let size = self.size(request, &model, &price)?;
        let permit = self.permit(&name)?;
        Ok(Plan { model, price, size, permit, routed: None })
    }

    async fn open(
        self: &Arc<Self>,
        principal: &Principal,
        request: &ApiRequest,
        plan: Plan,
        Way { id, pass, place }: Way,
        keeping: &mut Option<Keeping>,
    ) -> Result<(Box<OpenCall>, Arc<ModelEntry>, u32), ApiError> {
        let Plan { model, price, size, permit, routed } = plan;
        let lane = self.api.lane(principal.tenant_id);
        let credit = Span::child("credit", SpanKind::Internal, place);
        let grant = self.grant(&lane, size.hold).await?;
        credit.end();
        let holder = &principal.holder;
        let bill = Bill {
            channel_id: holder.channel_id,
            key_id: Some(holder.key_id),
            policy: holder.fair_charging,
            model: model.name.clone(),
            kind: ModelKind::of(&request.ask),
            price,
            input_bound: size.input_bound,
            streamed: request.stream,
        };
        let call = OpenCall::new(Arc::clone(self), lane, grant, bill, keeping.take(), pass);
        let call = call.known_as(id).by(request.ask.model(), permit, routed);
        Ok((Box::new(call), model, size.max_tokens))
    }

    pub(super) fn ready_model(&self, name: &str) -> Result<Arc<ModelEntry>, ApiError> {
        let unavailable = |detail: &str| ApiError::Unavailable { detail: detail.to_owned() };
        let state = match self.plugins.ready(name) {
            Ok(model) => return Ok(model),
            Err(CallError::NotReady { state }) => state,
            Err(_) => return Err(unavailable("no plugin offers it")),
        };
        Err(match state {
            ModelState::Loading { note } => unavailable(&format!("loading: {note}")),
            // Why it failed is for the operator.
            ModelState::Failed { .. } => unavailable("it failed"),
            ModelState::Quarantined { .. } => unavailable("it is quarantined"),
            ModelState::Ready | ModelState::Degraded => unavailable("it is starting"),
        })
    }

    /// That a model may be asked, as its breaker says.
    pub(super) fn permit(&self, name: &str) -> Result<Permit, ApiError> {
        let permit = self.routes.breakers.admit(name);
        permit.map_err(|rest| ApiError::LeftAlone { model: name.to_owned(), rest })
    }

    pub(super) fn size(
        &self,
        request: &ApiRequest,
        model: &ModelEntry,
        price: &PriceRow,
    ) -> Result<Size, ApiError> {
        let default = self.settings.api.default_max_tokens;
        let max_tokens = asked::output_bound(&request.ask, model, default);
        let input_bound = ask_tokens(&request.ask, model.context_tokens);
        let hold = hold_amount(&price.rates(), input_bound, max_tokens)
            .map_err(|_| ApiError::InsufficientCredits)?;
        // A free model still takes the least amount: every call is booked against a block.
        Ok(Size { hold: hold.max(Micros::new(1)), max_tokens, input_bound })
    }
}

/// A call that was let in.
pub(super) struct Entry {
    /// Made already where the call's size decided whether it is let in.
    plan: Option<Result<Plan, ApiError>>,
    standings: Vec<Standing>,
    pass: Pass,
}

/// What an open call holds until its end.
#[derive(Default)]
pub(super) struct Pass {
    pub(super) charge: Option<TokenCharge>,
    pub(super) _slot: Option<CallSlot>,
}

/// What a call has when it is opened.
struct Way {
    id: TurnId,
    pass: Pass,
    place: Trace,
}

/// How a call is going to be served.
pub(super) struct Plan {
    pub(super) model: Arc<ModelEntry>,
    pub(super) price: Arc<PriceRow>,
    pub(super) size: Size,
    pub(super) permit: Permit,
    /// What its route decided, if it named one.
    pub(super) routed: Option<Box<RoutedCall>>,
}

/// How large a call may become.
pub(super) struct Size {
    pub(super) hold: Micros,
    pub(super) max_tokens: u32,
    pub(super) input_bound: u32,
}

impl Size {
    fn tokens(&self) -> u32 {
        self.input_bound.saturating_add(self.max_tokens)
    }
}

pub(super) fn storage_error(error: &StorageError) -> ApiError {
    tracing::warn!(?error, "the API path has no database");
    ApiError::Storage
}

impl From<StorageError> for ApiError {
    fn from(error: StorageError) -> Self {
        storage_error(&error)
    }
}

impl From<GrantError> for ApiError {
    fn from(error: GrantError) -> Self {
        match error {
            GrantError::NoFunds => Self::InsufficientCredits,
            GrantError::ShuttingDown => Self::Unavailable { detail: "shutting down".to_owned() },
            GrantError::Storage(error) => storage_error(&error),
        }
    }
}

//! Routes: which models may serve, under which conditions, in which order.

use actix_web::{HttpResponse, web};
use jiff::Timestamp;
use qudao_core::PluginHost;
use qudao_domain::{
    RouteId,
    routing::{Canary, Routing, Rule},
    text::Name,
};
use qudao_storage::{NewRoute, Route, RouteChange};
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

use super::{List, in_tenant, page};
use crate::{
    access::{Actor, TenantScope},
    act::{Act, change},
    error::{ApiError, FieldCheck},
    extract::{Body, Id, NoQuery, PageQuery, Query},
    once::{Posted, Reply, commit_once},
    state::AppState,
};

mod described;
mod rules;

use described::{RouteCanary, RouteRule};
use rules::{Asker, check_route};

const MAX_MODELS: usize = 20;
const MAX_MODEL_CHARS: usize = 200;

/// The name of a model. Only for the description: what comes is checked with words of our own.
#[derive(ToSchema)]
#[schema(min_length = 1, max_length = 200, pattern = r"^[^\s\x00-\x1f\x7f-\x9f]+$")]
#[expect(dead_code, reason = "stands for a text in the description")]
pub(crate) struct ModelName(String);

/// A route to be made.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CreateRoute {
    /// What it is called; 1 to 120 characters.
    #[schema(min_length = 1, max_length = 120, pattern = r"^[^\x00]*[^\s\x00\x85][^\x00]*$")]
    name: String,
    /// The models that answer where no rule matches, the preferred first; 1 to 20 names.
    #[schema(value_type = Vec<ModelName>, min_items = 1, max_items = 20)]
    models: Vec<String>,
    /// The first rule that matches decides who answers.
    #[serde(default)]
    #[schema(value_type = Vec<RouteRule>, max_items = 32)]
    rules: Vec<Rule>,
    /// The model that finds the sentiment of messages, where a rule asks for it.
    #[serde(default)]
    #[schema(value_type = Option<ModelName>)]
    sentiment_model: Option<String>,
    /// A model that is tried on a part of the traffic.
    #[serde(default)]
    #[schema(value_type = Option<RouteCanary>)]
    canary: Option<Canary>,
}

impl CreateRoute {
    fn parse(self, plugins: &PluginHost, asker: Asker) -> Result<NewRoute, ApiError> {
        let Self { name, models, rules, sentiment_model, canary } = self;
        let routing = Routing { rules, sentiment_model, canary };
        let mut check = FieldCheck::default();
        let name = check.take("/name", Name::parse(&name));
        check_route(&models, &routing, plugins, asker, &mut check);
        check.finish(name.map(|name| NewRoute { name, models, routing }))
    }
}

/// What is to change of a route. What is left out stays.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct UpdateRoute {
    /// What it is called; 1 to 120 characters.
    #[schema(min_length = 1, max_length = 120, pattern = r"^[^\x00]*[^\s\x00\x85][^\x00]*$")]
    name: Option<String>,
    /// The models that answer where no rule matches, the preferred first; 1 to 20 names.
    #[schema(value_type = Option<Vec<ModelName>>, min_items = 1, max_items = 20)]
    models: Option<Vec<String>>,
    /// All rules anew.
    #[schema(value_type = Option<Vec<RouteRule>>, max_items = 32)]
    rules: Option<Vec<Rule>>,
    /// The model that finds the sentiment of messages; `null` takes it away.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<ModelName>)]
    sentiment_model: Option<Option<String>>,
    /// The model on trial, anew; `null` ends the trial.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<RouteCanary>)]
    canary: Option<Option<Canary>>,
}

/// Tells a field that is `null` from one that is left out.
fn given<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

impl UpdateRoute {
    /// What becomes of the route.
    fn apply(
        self,
        route: Route,
        plugins: &PluginHost,
        asker: Asker,
    ) -> Result<RouteChange, ApiError> {
        let Self { name, models, rules, sentiment_model, canary } = self;
        let mut check = FieldCheck::default();
        let nothing = name.is_none() && models.is_none() && rules.is_none();
        if nothing && sentiment_model.is_none() && canary.is_none() {
            check.refuse("", "names nothing to change");
        }
        let name = check.take_optional("/name", name.as_deref().map(Name::parse));
        let untouched = canary.is_none();
        let routing = Routing {
            rules: rules.unwrap_or(route.routing.rules),
            sentiment_model: sentiment_model.unwrap_or(route.routing.sentiment_model),
            canary: canary.unwrap_or(route.routing.canary),
        };
        let models = models.unwrap_or(route.models);
        // A canary that the operator pays stays as it is while others change the rest.
        let asker = Asker { is_operator: asker.is_operator || untouched };
        check_route(&models, &routing, plugins, asker, &mut check);
        let change = RouteChange { name, models: Some(models), routing: Some(routing) };
        check.finish(Some(change))
    }
}

/// Checks the models that answer where no rule matches.
fn check_models(models: &[String], plugins: &PluginHost, check: &mut FieldCheck) {
    if !(1..=MAX_MODELS).contains(&models.len()) {
        check.refuse("/models", format_args!("has to name 1 to {MAX_MODELS} models"));
    }
    for (at, model) in models.iter().enumerate() {
        let pointer = format!("/models/{at}");
        if check_model_name(model, &pointer, check) && models[..at].contains(model) {
            check.refuse(&pointer, "is named twice");
        }
    }
    check_kinds(models, plugins, check);
}

/// Whether it is of the form of a model's name.
fn check_model_name(model: &str, at: &str, check: &mut FieldCheck) -> bool {
    let visible = model.chars().all(|c| !c.is_control() && !c.is_whitespace());
    let good = !model.is_empty() && model.chars().count() <= MAX_MODEL_CHARS && visible;
    if !good {
        check.refuse(at, format_args!("has to be 1 to {MAX_MODEL_CHARS} visible characters"));
    }
    good
}

/// The models of a route stand in for each other, so all have to do the same. What no plugin of this node
/// offers at the moment may do anything.
fn check_kinds(models: &[String], plugins: &PluginHost, check: &mut FieldCheck) {
    let known = |model: &String| plugins.kind(model).map(|kind| (model.clone(), kind));
    let Some((first, kind)) = models.iter().find_map(known) else { return };
    for (at, model) in models.iter().enumerate() {
        if let Some(other) = plugins.kind(model).filter(|other| *other != kind) {
            let detail = format_args!(
                "{}, and `{first}` {}: a route has one kind",
                other.deed(),
                kind.deed()
            );
            check.refuse(&format!("/models/{at}"), detail);
        }
    }
}

/// A route.
#[derive(Debug, Serialize, ToSchema)]
#[schema(title = "Route", as = Route)]
pub(crate) struct RouteBody {
    #[schema(value_type = String, example = "rte_0198c0de00007000800000000000a001")]
    id: RouteId,
    name: String,
    models: Vec<String>,
    #[schema(value_type = Vec<RouteRule>)]
    rules: Vec<Rule>,
    sentiment_model: Option<String>,
    #[schema(value_type = Option<RouteCanary>)]
    canary: Option<Canary>,
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
}

impl From<Route> for RouteBody {
    fn from(route: Route) -> Self {
        let Route { id, name, models, routing, created_at } = route;
        let Routing { rules, sentiment_model, canary } = routing;
        Self { id, name, models, rules, sentiment_model, canary, created_at }
    }
}

fn asker(actor: &Actor) -> Asker {
    Asker { is_operator: &*actor.name == "operator" }
}

pub(crate) async fn create(
    state: web::Data<AppState>,
    TenantScope(tenant_id): TenantScope,
    actor: Actor,
    _: Query<NoQuery>,
    Posted { body, once }: Posted<CreateRoute>,
) -> Result<HttpResponse, ApiError> {
    let new = body.parse(&state.core.plugins, asker(&actor))?;
    let made = commit_once(&state, tenant_id, once, move |tx| {
        Box::pin(async move {
            let route = tx.create_route(&new).await?;
            let location = format!("/v1/tenants/{tenant_id}/routes/{}", route.id);
            Ok(Reply::created(location, &RouteBody::from(route)))
        })
    });
    let made = made.await?;
    state.core.forget_routes(tenant_id).await;
    Ok(made)
}

pub(crate) async fn update(
    state: web::Data<AppState>,
    TenantScope(tenant_id): TenantScope,
    actor: Actor,
    act: Act,
    Id(id): Id<RouteId>,
    _: Query<NoQuery>,
    Body(wanted): Body<UpdateRoute>,
) -> Result<HttpResponse, ApiError> {
    let (plugins, asker) = (state.core.plugins.clone(), asker(&actor));
    let changed = change(&state, act, tenant_id, move |tx| {
        Box::pin(async move {
            let unknown = || ApiError::not_found("route");
            let route = tx.lock_route(id).await?.ok_or_else(unknown)?;
            let change = wanted.apply(route, &plugins, asker)?;
            tx.update_route(id, &change).await?.ok_or_else(unknown)
        })
    });
    let changed = changed.await?;
    state.core.forget_routes(tenant_id).await;
    Ok(HttpResponse::Ok().json(RouteBody::from(changed)))
}

pub(crate) async fn list(
    state: web::Data<AppState>,
    TenantScope(tenant_id): TenantScope,
    Query(query): Query<PageQuery>,
) -> Result<HttpResponse, ApiError> {
    let page = page(&query)?;
    let listing = in_tenant(&state, tenant_id, move |tx| {
        Box::pin(async move { Ok(tx.list_routes(&page).await?) })
    });
    Ok(HttpResponse::Ok().json(List::<RouteBody>::of(listing.await?)))
}

pub(crate) async fn get(
    state: web::Data<AppState>,
    TenantScope(tenant_id): TenantScope,
    Id(id): Id<RouteId>,
    _: Query<NoQuery>,
) -> Result<HttpResponse, ApiError> {
    let found = in_tenant(&state, tenant_id, move |tx| {
        Box::pin(async move { Ok(tx.find_route(id).await?) })
    });
    let route = found.await?.ok_or_else(|| ApiError::not_found("route"))?;
    Ok(HttpResponse::Ok().json(RouteBody::from(route)))
}

//! Calls that name a route in a model's place: the route's rules choose who answers, and the next one is
//! asked while nothing of an answer has come.

use std::{collections::VecDeque, sync::Arc};

use qudao_domain::{
    Currency, DecisionId, RouteId, TenantId, TurnId,
    routing::{Arm, Modality},
};
use qudao_plugin_api::wire::{Ask, ChatRequest, Content, ErrorKind, Role};
use qudao_plugin_host::{CallError, DataClass, ModelEntry, ModelKind};
use qudao_storage::{Page, PriceRow, Route, StorageError};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    ApiError, ApiRequest,
    admit::{Plan, Size},
};
use crate::{
    Core, Principal,
    price::ask_tokens,
    routing::{Draft, Matter, Permit, Shadow},
};

/// A tenant's routes, and the models that they name.
pub(crate) struct TenantRoutes {
    /// In order and without repetition.
    pub(super) models: Arc<[String]>,
    /// The newest first.
    routes: Vec<Arc<Route>>,
}

impl TenantRoutes {
    /// The route of this name, of several the oldest; or of this id.
    pub(super) fn find(&self, name: &str) -> Option<&Arc<Route>> {
        let named = |route: &&Arc<Route>| route.name == name || route.id.to_string() == name;
        self.routes.iter().rev().find(named)
    }

    /// Routes whose names a call may give, which are no names of models.
    fn aliases(&self) -> Vec<&Arc<Route>> {
        let mut aliases: Vec<&Arc<Route>> = Vec::new();
        for route in self.routes.iter().rev() {
            let known = |name: &String| aliases.iter().any(|alias| alias.name == *name);
            if !self.models.contains(&route.name) && !known(&route.name) {
                aliases.push(route);
            }
        }
        aliases
    }
}

/// Who served a call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Served {
    /// The model.
    pub model: String,
    /// How it was chosen, if the call named a route.
    pub routed: Option<ServedBy>,
}

/// The route that chose who serves a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServedBy {
    /// Which.
    pub route_id: RouteId,
    /// What it decided.
    pub decision_id: DecisionId,
    /// Models that were asked or passed over before.
    pub fallbacks: u32,
}

/// A call by the name of a route.
pub(super) struct RoutedCall {
    pub(super) draft: Draft,
    /// Who has not been asked yet.
    rest: VecDeque<String>,
    route: Arc<Route>,
    matter: Matter,
    currency: Currency,
    /// What is said, where a model on trial is to say it too.
    said: String,
}

/// A model that may answer a call.
pub(super) struct Rung {
    pub(super) model: Arc<ModelEntry>,
    pub(super) price: Arc<PriceRow>,
    pub(super) size: Size,
    pub(super) permit: Permit,
}

impl RoutedCall {
    pub(super) fn served_by(&self) -> ServedBy {
        ServedBy {
            route_id: self.route.id,
            decision_id: self.draft.id,
            fallbacks: self.draft.fallbacks(),
        }
    }

    /// Notes what is said, if that matters.
    pub(super) fn note(&mut self, text: &str) {
        if self.draft.choice.arm == Arm::Shadow {
            self.said.push_str(text);
        }
    }

    /// Writes down what became of it; a trial goes on then. `whole` says that `model` answered to the
    /// end.
    pub(super) fn close(
        self,
        core: &Arc<Core>,
        model: Option<&str>,
        end: &str,
        whole: bool,
        request: Option<ChatRequest>,
    ) {
        let Self { draft, route, matter, said, .. } = self;
        let trial = request.and_then(|ask| Shadow::of(&route.routing, &matter, &draft, ask));
        let recorded = core.record(matter.tenant_id, draft.finish(model, "api", end));
        if let Some(shadow) = trial {
            core.go_on_trial(shadow, whole.then_some(said), recorded);
        }
    }

    /// Whether what was asked is needed at the end.
    pub(super) fn is_on_trial(&self) -> bool {
        self.draft.choice.arm != Arm::Stable
    }
}

/// Whether another model may do better. What depends on the request alone would fail there too.
pub(super) fn is_worth_another(error: &CallError) -> bool {
    match error {
        CallError::Poison | CallError::Cancelled => false,
        CallError::Provider { kind, .. } => {
            !matches!(kind, ErrorKind::BadRequest | ErrorKind::ContentFilter)
        }
        _ => true,
    }
}

impl Core {
    /// The models that the tenant's routes name, in order and without repetition.
    ///
    /// # Errors
    /// [`StorageError`], shared with whoever asked at the same moment.
    pub async fn tenant_models(&self, tenant: TenantId) -> Result<Arc<[String]>, ApiError> {
        Ok(Arc::clone(&self.tenant_routes(tenant).await?.models))
    }

    /// The names of the tenant's routes that may stand in a model's place, and what their models do as
    /// far as that is known.
    ///
    /// # Errors
    /// As [`Self::tenant_models`].
    pub async fn tenant_aliases(
        &self,
        tenant: TenantId,
    ) -> Result<Vec<(String, Option<ModelKind>)>, ApiError> {
        let routes = self.tenant_routes(tenant).await?;
        let kind = |route: &Route| route.models.iter().find_map(|name| self.plugins.kind(name));
        let aliases = routes.aliases().into_iter();
        Ok(aliases.map(|route| (route.name.clone(), kind(route))).collect())
    }

    /// Has the tenant's routes read anew on this node. Other nodes do within the time for which they
    /// keep them.
    pub async fn forget_routes(&self, tenant: TenantId) {
        self.api.routes.invalidate(&tenant).await;
    }

    pub(super) async fn tenant_routes(
        &self,
        tenant: TenantId,
    ) -> Result<Arc<TenantRoutes>, ApiError> {
        if let Some(routes) = self.api.routes.get(&tenant).await {
            return Ok(routes);
        }
        let read = Box::pin(self.api.routes.try_get_with(tenant, self.read_routes(tenant)));
        read.await.map_err(|error| super::admit::storage_error(&error))
    }

    async fn read_routes(&self, tenant: TenantId) -> Result<Arc<TenantRoutes>, StorageError> {
        let mut tx = self.store.begin(tenant).await?;
        let mut page = Page::first(Page::MAX_LIMIT);
        let (mut models, mut routes): (Vec<String>, Vec<_>) = (Vec::new(), Vec::new());
        loop {
            let listing = tx.list_routes(&page).await?;
            for route in listing.items {
                for model in route.models.iter().map(String::as_str).chain(route.routing.models()) {
                    if !models.iter().any(|known| known == model) {
                        models.push(model.to_owned());
                    }
                }
                routes.push(Arc::new(route));
            }
            match listing.next {
                Some(cursor) => page.cursor = Some(cursor),
                None => break,
            }
        }
        tx.commit().await?;
        Ok(Arc::new(TenantRoutes { models: models.into(), routes }))
    }

    /// How a call is served that names this route.
    pub(super) async fn plan_route(
        self: &Arc<Self>,
        principal: &Principal,
        request: &ApiRequest,
        id: TurnId,
        route: &Arc<Route>,
    ) -> Result<Plan, ApiError> {
        let matter = matter(principal, request, id);
        let chosen = self.choose(&route.routing, &route.models, &matter).await;
        let draft = Draft::new(route.id, &route.routing, &matter, chosen);
        let mut routed = Box::new(RoutedCall {
            rest: draft.choice.candidates.clone().into(),
            draft,
            route: Arc::clone(route),
            matter,
            currency: principal.holder.currency,
            said: String::new(),
        });
        match self.next_rung(request, &mut routed).await {
            Ok(Rung { model, price, size, permit }) => {
                Ok(Plan { model, price, size, permit, routed: Some(routed) })
            }
            Err(refusal) => {
                routed.close(self, None, refusal.class(), false, None);
                Err(refusal)
            }
        }
    }

    /// The next model of the route that may be asked.
    ///
    /// # Errors
    /// Why the first of the rest may not; of several that are left alone, the one that is tried first.
    pub(super) async fn next_rung(
        &self,
        request: &ApiRequest,
        routed: &mut RoutedCall,
    ) -> Result<Rung, ApiError> {
        let mut first = None;
        while let Some(name) = routed.rest.pop_front() {
            match self.rung(&name, request, routed).await {
                Ok(rung) => return Ok(rung),
                Err((why, refusal)) => {
                    routed.draft.passed_over(&name, why);
                    first = Some(sooner(first, refusal));
                }
            }
        }
        let nobody = || unavailable("no model of the route is left");
        Err(first.unwrap_or_else(nobody))
    }

    async fn rung(
        &self,
        name: &str,
        request: &ApiRequest,
        routed: &RoutedCall,
    ) -> Result<Rung, (&'static str, ApiError)> {
        let asked = ModelKind::of(&request.ask);
        if let Some(offers) = self.plugins.kind(name).filter(|offers| *offers != asked) {
            let refusal = ApiError::WrongKind { model: name.to_owned(), offers, asked };
            return Err(("wrong_kind", refusal));
        }
        let model = self.ready_model(name).map_err(|refusal| ("not_ready", refusal))?;
        if routed.draft.choice.local_only && model.data_class == DataClass::Remote {
            return Err(("remote", unavailable("its rule is for local models only")));
        }
        let price = self.price(name, routed.currency).await;
        let price = price.map_err(|error| ("storage", error.into()))?;
        let Some(price) = price else {
            return Err(("no_price", ApiError::NoPrice { model: name.to_owned() }));
        };
        let size = self.size(request, &model, &price).map_err(|refusal| ("no_funds", refusal))?;
        let permit = self.permit(name).map_err(|refusal| ("breaker_open", refusal))?;
        Ok(Rung { model, price, size, permit })
    }

    /// The most tokens that a call by a route's name may take, whoever answers it.
    pub(super) fn most_tokens(&self, request: &ApiRequest) -> u32 {
        let written = match &request.ask {
            Ask::Chat(chat) => chat.params.max_tokens,
            _ => None,
        };
        let default = match &request.ask {
            Ask::Chat(_) | Ask::Transcribe(_) => self.settings.api.default_max_tokens,
            Ask::Embed(_) | Ask::Classify(_) | Ask::Detect(_) => 0,
        };
        ask_tokens(&request.ask, 0).saturating_add(written.unwrap_or(default))
    }
}

/// What a caller is told of two refusals.
fn sooner(first: Option<ApiError>, next: ApiError) -> ApiError {
    match (&first, &next) {
        (Some(ApiError::LeftAlone { rest, .. }), ApiError::LeftAlone { rest: other, .. })
            if other < rest =>
        {
            next
        }
        _ => first.unwrap_or(next),
    }
}

fn unavailable(detail: &str) -> ApiError {
    ApiError::Unavailable { detail: detail.to_owned() }
}

fn matter(principal: &Principal, request: &ApiRequest, id: TurnId) -> Matter {
    let holder = &principal.holder;
    let (text, all, modality) = words_of(&request.ask);
    let user = match &request.ask {
        Ask::Chat(chat) => chat.user.as_ref(),
        _ => None,
    };
    // Calls of one user stay with their model.
    let key = match user {
        Some(user) => [b"user:", user.as_bytes()].concat(),
        None => id.as_uuid().as_bytes().to_vec(),
    };
    Matter {
        tenant_id: principal.tenant_id,
        currency: holder.currency,
        policy: holder.fair_charging,
        channel_id: holder.channel_id,
        id,
        conversation_id: None,
        place: request.trace,
        prompt_bytes: all.iter().map(String::len).sum(),
        text,
        all,
        modality,
        available: None,
        key,
    }
}

/// What is to be answered, all that a model would read, and what the former is made of.
fn words_of(ask: &Ask) -> (String, Vec<String>, Vec<Modality>) {
    match ask {
        Ask::Chat(chat) => {
            let told = chat.messages.iter().filter(|message| message.role != Role::System);
            let contents = told.filter_map(|message| message.content.as_ref());
            let all: Vec<_> = contents.map(Content::to_text).collect();
            let last = chat.messages.iter().rev().find(|message| message.role == Role::User);
            let modality = last.and_then(|message| message.content.as_ref()).map(modality_of);
            (chat.last_user_text(), all, modality.unwrap_or_default())
        }
        Ask::Embed(embed) => (embed.texts.join("\n"), embed.texts.clone(), vec![Modality::Text]),
        Ask::Classify(classify) => {
            (classify.texts.join("\n"), classify.texts.clone(), vec![Modality::Text])
        }
        Ask::Detect(_) => (String::new(), Vec::new(), vec![Modality::Image]),
        Ask::Transcribe(_) => (String::new(), Vec::new(), vec![Modality::Audio]),
    }
}

fn modality_of(content: &Content) -> Vec<Modality> {
    let Content::Parts(parts) = content else { return vec![Modality::Text] };
    let kind = |part: &Value| match part.get("type").and_then(Value::as_str) {
        Some("image_url") => Modality::Image,
        Some("input_audio") => Modality::Audio,
        Some("video_url") => Modality::Video,
        Some("file") => Modality::File,
        _ => Modality::Text,
    };
    let mut found: Vec<_> = parts.iter().map(kind).collect();
    found.sort_unstable();
    found.dedup();
    found
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_a_request_is_made_of_is_told_from_its_parts() {
        let chat: ChatRequest = serde_json::from_value(json!({
            "model": "r",
            "messages": [
                { "role": "system", "content": "Write to help@shop.example." },
                { "role": "user", "content": "first" },
                { "role": "assistant", "content": "second" },
                { "role": "user", "content": [
                    { "type": "text", "text": "third" },
                    { "type": "image_url", "image_url": { "url": "data:" } },
                ] },
            ],
        }))
        .unwrap();
        let (text, all, modality) = words_of(&chat.into());
        assert_eq!(text, "third");
        assert_eq!(all, ["first", "second", "third"], "the tenant's own words are not looked at");
        assert_eq!(modality, [Modality::Text, Modality::Image]);
    }

    #[test]
    fn of_models_that_are_left_alone_the_one_that_is_tried_first_tells_how_long_to_wait() {
        let alone = |model: &str, seconds| ApiError::LeftAlone {
            model: model.to_owned(),
            rest: std::time::Duration::from_secs(seconds),
        };
        let told = sooner(Some(alone("a", 9)), alone("b", 4));
        assert_eq!(told, alone("b", 4));
        assert_eq!(sooner(Some(told), alone("c", 5)), alone("b", 4));
        let other = unavailable("no plugin offers it");
        assert_eq!(sooner(Some(other.clone()), alone("a", 1)), other);
        assert_eq!(sooner(None, alone("a", 1)), alone("a", 1));
    }

    #[test]
    fn what_is_wrong_with_the_request_is_wrong_everywhere() {
        let provider = |kind| CallError::Provider {
            kind,
            message: String::new(),
            status: None,
            retry_after_ms: None,
        };
        assert!(!is_worth_another(&provider(ErrorKind::BadRequest)));
        assert!(!is_worth_another(&CallError::Poison));
        assert!(is_worth_another(&provider(ErrorKind::RateLimited)));
        assert!(is_worth_another(&CallError::Overloaded));
    }
}

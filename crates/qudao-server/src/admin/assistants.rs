//! Assistants: a tenant's personas.

use actix_web::{HttpResponse, web};
use jiff::Timestamp;
use qudao_core::{ModelKind, PluginHost};
use qudao_domain::{
    AssistantId, RouteId,
    text::{Name, SystemPrompt},
};
use qudao_storage::{Assistant, NewAssistant};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::{List, dangling, in_tenant, page, parse_optional_text};
use crate::{
    access::TenantScope,
    error::{ApiError, FieldCheck},
    extract::{Id, NoQuery, PageQuery, Query},
    once::{Posted, Reply, commit_once},
    state::AppState,
};

const MAX_GREETING_CHARS: usize = 2_000;
/// Nothing is likely enough for less, and a float is not exact enough.
const LEAST_TOP_P: f32 = 0.000_001;
const MAX_REPLY_TOKENS: u32 = 65_536;

/// An assistant to be made.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CreateAssistant {
    /// What it is called; 1 to 120 characters.
    #[schema(min_length = 1, max_length = 120, pattern = r"^[^\x00]*[^\s\x00\x85][^\x00]*$")]
    name: String,
    /// What it is told; 1 to 32,000 characters.
    #[schema(min_length = 1, max_length = 32000, pattern = r"^[^\x00]*[^\s\x00\x85][^\x00]*$")]
    system_prompt: String,
    /// What a person sees before they write; at most 2,000 characters.
    #[schema(max_length = 2000, pattern = r"^[^\x00]*$")]
    greeting: Option<String>,
    /// How it chooses its words.
    params: Option<Sampling>,
    /// Which models may answer.
    #[schema(pattern = r"^rte_[0-9a-f]{32}$")]
    route_id: String,
}

/// A text at which a reply ends. Only for the description.
#[derive(ToSchema)]
#[schema(min_length = 1, max_length = 200, pattern = r"^[^\x00]+$")]
#[expect(dead_code, reason = "stands for a text in the description")]
pub(crate) struct StopText(String);

/// How an assistant chooses its words. What is left out is the model's default.
#[derive(Debug, Default, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Sampling {
    /// The longest reply, in tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 65536)]
    max_tokens: Option<u32>,
    /// 0 to 2.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 2)]
    temperature: Option<f32>,
    /// More than 0, up to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0.000001, maximum = 1)]
    top_p: Option<f32>,
    /// At least 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 4294967295_u32)]
    top_k: Option<u32>,
    /// 0.5 to 2.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0.5, maximum = 2)]
    repeat_penalty: Option<f32>,
    /// The same seed gives the same answer, where the model can.
    #[serde(skip_serializing_if = "Option::is_none")]
    seed: Option<u64>,
    /// Up to four texts at which a reply ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<StopText>>, max_items = 4)]
    stop: Option<Vec<String>>,
    /// A model of the tenant's routes that looks at pictures: what it finds in those that people send is
    /// told to the model that answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 120, pattern = r"^[A-Za-z0-9._:/-]+$")]
    vision_model: Option<String>,
    /// Whether the reply shows those pictures with what was found drawn into them, where the channel can
    /// send pictures. Without a `vision_model` it means nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    vision_annotate: Option<bool>,
    /// A model of the tenant's routes that listens to voice messages and other sounds: what is said in
    /// those that people send is told to the model that answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 120, pattern = r"^[A-Za-z0-9._:/-]+$")]
    speech_model: Option<String>,
}

impl Sampling {
    fn check(&self, check: &mut FieldCheck) {
        let ranges = [
            ("/params/temperature", self.temperature, 0.0..=2.0),
            ("/params/top_p", self.top_p, LEAST_TOP_P..=1.0),
            ("/params/repeat_penalty", self.repeat_penalty, 0.5..=2.0),
        ];
        for (pointer, value, range) in ranges {
            if value.is_some_and(|value| !range.contains(&value)) {
                let (least, most) = (range.start().round(), range.end());
                check.refuse(pointer, format_args!("has to be between {least} and {most}"));
            }
        }
        if self.max_tokens.is_some_and(|tokens| !(1..=MAX_REPLY_TOKENS).contains(&tokens)) {
            check.refuse(
                "/params/max_tokens",
                format_args!("has to be between 1 and {MAX_REPLY_TOKENS}"),
            );
        }
        if self.top_k == Some(0) {
            check.refuse("/params/top_k", "has to be at least 1");
        }
        for (pointer, model) in [
            ("/params/vision_model", &self.vision_model),
            ("/params/speech_model", &self.speech_model),
        ] {
            if model.as_ref().is_some_and(|name| !is_model_name(name)) {
                check.refuse(pointer, "has to be a model's name");
            }
        }
        let stops = self.stop.as_deref().unwrap_or_default();
        if 4 < stops.len() || stops.iter().any(|stop| stop.is_empty() || 200 < stop.len()) {
            check.refuse("/params/stop", "may have four texts of 1 to 200 bytes at most");
        }
    }
}

fn is_model_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._:/-".contains(c);
    (1..=120).contains(&name.len()) && name.chars().all(plain)
}

impl CreateAssistant {
    fn parse(self) -> Result<NewAssistant, ApiError> {
        let mut check = FieldCheck::default();
        let name = check.take("/name", Name::parse(&self.name));
        let prompt = check.take("/system_prompt", SystemPrompt::parse(&self.system_prompt));
        let greeting = self.greeting.as_deref().unwrap_or_default();
        let greeting = check.take("/greeting", parse_optional_text(greeting, MAX_GREETING_CHARS));
        let route_id = check.take("/route_id", self.route_id.parse::<RouteId>());
        let params = self.params.unwrap_or_default();
        params.check(&mut check);
        let params = check.take("/params", serde_json::to_value(&params));
        let whole = name.zip(prompt).zip(greeting).zip(route_id).zip(params);
        check.finish(whole.map(|((((name, system_prompt), greeting), route_id), params)| {
            NewAssistant { name, system_prompt, greeting, params, route_id }
        }))
    }
}

/// An assistant.
#[derive(Debug, Serialize, ToSchema)]
#[schema(title = "Assistant", as = Assistant)]
pub(crate) struct AssistantBody {
    #[schema(value_type = String, example = "ast_0198c0de00007000800000000000a001")]
    id: AssistantId,
    name: String,
    system_prompt: String,
    greeting: String,
    #[schema(value_type = Sampling)]
    params: Value,
    #[schema(value_type = String, example = "rte_0198c0de00007000800000000000a001")]
    route_id: RouteId,
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
}

impl From<Assistant> for AssistantBody {
    fn from(assistant: Assistant) -> Self {
        let Assistant { id, name, system_prompt, greeting, params, route_id, created_at } =
            assistant;
        Self { id, name, system_prompt, greeting, params, route_id, created_at }
    }
}

pub(crate) async fn create(
    state: web::Data<AppState>,
    TenantScope(tenant_id): TenantScope,
    _: Query<NoQuery>,
    Posted { body, once }: Posted<CreateAssistant>,
) -> Result<HttpResponse, ApiError> {
    let new = body.parse()?;
    let plugins = state.core.plugins.clone();
    let made = commit_once(&state, tenant_id, once, move |tx| {
        Box::pin(async move {
            let route = tx.find_route(new.route_id).await?;
            can_chat(&route.map(|route| route.models).unwrap_or_default(), &plugins)?;
            let made = tx.create_assistant(&new).await.map_err(dangling("/route_id", "route"))?;
            let location = format!("/v1/tenants/{tenant_id}/assistants/{}", made.id);
            Ok(Reply::created(location, &AssistantBody::from(made)))
        })
    });
    made.await
}

/// An assistant talks, so each model of its route has to. What no plugin of this node offers at the moment
/// may do anything.
fn can_chat(models: &[String], plugins: &PluginHost) -> Result<(), ApiError> {
    let mute = |model: &&String| plugins.kind(model).is_some_and(|kind| kind != ModelKind::Chat);
    let Some(model) = models.iter().find(mute) else { return Ok(()) };
    let deed = plugins.kind(model).unwrap_or_default().deed();
    let detail =
        format!("leads to the model `{model}`, which {deed}: an assistant needs one that chats");
    Err(ApiError::field("/route_id", detail))
}

pub(crate) async fn list(
    state: web::Data<AppState>,
    TenantScope(tenant_id): TenantScope,
    Query(query): Query<PageQuery>,
) -> Result<HttpResponse, ApiError> {
    let page = page(&query)?;
    let listing = in_tenant(&state, tenant_id, move |tx| {
        Box::pin(async move { Ok(tx.list_assistants(&page).await?) })
    });
    Ok(HttpResponse::Ok().json(List::<AssistantBody>::of(listing.await?)))
}

pub(crate) async fn get(
    state: web::Data<AppState>,
    TenantScope(tenant_id): TenantScope,
    Id(id): Id<AssistantId>,
    _: Query<NoQuery>,
) -> Result<HttpResponse, ApiError> {
    let found = in_tenant(&state, tenant_id, move |tx| {
        Box::pin(async move { Ok(tx.find_assistant(id).await?) })
    });
    let assistant = found.await?.ok_or_else(|| ApiError::not_found("assistant"))?;
    Ok(HttpResponse::Ok().json(AssistantBody::from(assistant)))
}

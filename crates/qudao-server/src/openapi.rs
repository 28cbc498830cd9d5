//! The API description, written from the list of endpoints: what is served is described, and what
//! is described is served.

use actix_web::http::Method;
use serde_json::Value;
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{
        Components, Content, Header, HeaderBuilder, HttpMethod, InfoBuilder, LicenseBuilder,
        OpenApi, OpenApiBuilder, PathItem, PathsBuilder, Ref, RefOr, Response, ResponseBuilder,
        Schema, ServerBuilder,
        path::{Operation, OperationBuilder, ParameterIn},
        schema::{AnyOfBuilder, ObjectBuilder, Type},
        security::{
            ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme,
        },
        tag::TagBuilder,
    },
};

use crate::{
    access::Access,
    act::Action,
    admin::List,
    code::Code,
    endpoints::Endpoint,
    error::{FieldError, OpenAiErrorBody, OpenAiProblem, Problem},
    openai::served,
};

mod access;
mod body;
mod parameter;
mod webhooks;

use access::{API_KEY, OPERATOR, PARTNER, SESSION, VISITOR, WIDGET, extensions, failures, schemes};
use body::Body;
use parameter::{parameter, path_words};

/// Each with its media type.
type Contents = Vec<(&'static str, Content)>;
type Schemas = Vec<(String, RefOr<Schema>)>;

/// What one endpoint does, for people and for generators of clients.
#[derive(Clone)]
pub struct Doc {
    tag: &'static str,
    summary: &'static str,
    description: &'static str,
    body: Body,
    parameters: Vec<(ParameterIn, &'static str, bool, &'static str)>,
    successes: Vec<(u16, &'static str, Contents)>,
    failures: Vec<Code>,
    openai: bool,
    once: bool,
    /// Its answers tell which model gave them.
    served: bool,
    action: Option<Action>,
    schemas: Schemas,
}

impl std::fmt::Debug for Doc {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Doc({})", self.summary)
    }
}

impl Doc {
    pub(crate) fn new(tag: &'static str, summary: &'static str) -> Self {
        Self {
            tag,
            summary,
            description: "",
            body: Body::Nothing,
            parameters: Vec::new(),
            successes: Vec::new(),
            failures: Vec::new(),
            openai: false,
            once: false,
            served: false,
            action: None,
            schemas: Vec::new(),
        }
    }

    /// Is an administrative act of this name, such as `api_key.create`, and is written down.
    pub(crate) fn act(mut self, name: &'static str) -> Self {
        self.action = Some(Action(name));
        self
    }

    pub(crate) fn action(&self) -> Option<Action> {
        self.action
    }

    pub(crate) fn about(mut self, description: &'static str) -> Self {
        self.description = description;
        self
    }

    /// Takes a JSON body.
    pub(crate) fn body<T: ToSchema>(mut self, example: Value) -> Self {
        self.body = Body::Json(self.refer::<T>(), example);
        self.fails(&[Code::MalformedJson, Code::BodyTooLarge, Code::UnsupportedMediaType])
            .fails(&[Code::ValidationFailed])
    }

    /// Answers with JSON.
    pub(crate) fn returns<T: ToSchema>(mut self, status: u16, description: &'static str) -> Self {
        let content = Content::new(Some(self.refer::<T>()));
        self.successes.push((status, description, vec![("application/json", content)]));
        self
    }

    /// Answers with a part of a list.
    pub(crate) fn lists<T: ToSchema>(mut self, description: &'static str) -> Self {
        self.refer::<T>();
        // Named after what it lists: under one name the last list would stand for all of them.
        let name = format!("{}List", T::name());
        self.schemas.push((name.clone(), <List<T> as PartialSchema>::schema()));
        let content = Content::new(Some(RefOr::Ref(Ref::from_schema_name(name))));
        self.successes.push((200, description, vec![("application/json", content)]));
        self
    }

    /// Answers with something that is no JSON.
    pub(crate) fn returns_text(
        mut self,
        status: u16,
        media_type: &'static str,
        description: &'static str,
    ) -> Self {
        self.successes.push((status, description, vec![(media_type, text_content(media_type))]));
        self
    }

    /// The last success may also come as a text of this type.
    pub(crate) fn or_text(mut self, media_type: &'static str) -> Self {
        if let Some((_, _, contents)) = self.successes.last_mut() {
            contents.push((media_type, text_content(media_type)));
        }
        self
    }

    /// Answers without a body.
    pub(crate) fn returns_nothing(mut self, status: u16, description: &'static str) -> Self {
        self.successes.push((status, description, Vec::new()));
        self
    }

    /// Is a list that is read in pages.
    pub(crate) fn paged(self) -> Self {
        self.query("limit", "At most this many items, 1 to 200; 50 if left out.")
            .query("cursor", "`next_cursor` of the page before.")
            .fails(&[Code::InvalidQuery, Code::InvalidCursor])
    }

    pub(crate) fn needs_query(mut self, name: &'static str, description: &'static str) -> Self {
        self.parameters.push((ParameterIn::Query, name, true, description));
        self
    }

    pub(crate) fn query(mut self, name: &'static str, description: &'static str) -> Self {
        self.parameters.push((ParameterIn::Query, name, false, description));
        self
    }

    /// May be repeated under an idempotency key.
    pub(crate) fn once(self) -> Self {
        self.idempotent(false)
    }

    /// Takes effect only with an idempotency key.
    pub(crate) fn only_once(self) -> Self {
        self.idempotent(true).fails(&[Code::IdempotencyKeyRequired])
    }

    fn idempotent(mut self, required: bool) -> Self {
        let words = "1 to 255 printable ASCII characters of your choice. For 24 hours a repetition \
                     with the same key and body gets the same answer with \
                     `Idempotent-Replayed: true` and changes nothing.";
        self.parameters.push((ParameterIn::Header, "Idempotency-Key", required, words));
        self.once = true;
        self.fails(&[
            Code::IdempotencyKeyInvalid,
            Code::IdempotencyKeyInFlight,
            Code::IdempotencyKeyReused,
        ])
    }

    pub(crate) fn fails(mut self, codes: &[Code]) -> Self {
        self.failures.extend(codes);
        self
    }

    /// The same as the widget asks it.
    pub(crate) fn of_the_widget(mut self) -> Self {
        self.tag = "Widget";
        self
    }

    /// Takes a body that is no JSON.
    pub(crate) fn file(mut self) -> Self {
        self.body = Body::File;
        self.fails(&[Code::BodyTooLarge, Code::UnsupportedMediaType])
    }

    /// Takes a form with a file in it.
    pub(crate) fn form<T: ToSchema>(mut self) -> Self {
        self.body = Body::Form(self.refer::<T>());
        self.fails(&[Code::BadRequest, Code::BodyTooLarge, Code::UnsupportedMediaType])
            .fails(&[Code::ValidationFailed])
    }

    /// Answers with JSON of one of two forms.
    pub(crate) fn returns_either<A: ToSchema, B: ToSchema>(
        mut self,
        status: u16,
        description: &'static str,
    ) -> Self {
        let (a, b) = (self.refer::<A>(), self.refer::<B>());
        let either = AnyOfBuilder::new().item(a).item(b).build();
        let content = Content::new(Some(RefOr::T(Schema::AnyOf(either))));
        self.successes.push((status, description, vec![("application/json", content)]));
        self
    }

    /// Tells which model answered.
    pub(crate) fn served(mut self) -> Self {
        self.served = true;
        self
    }

    /// Refuses in OpenAI's shape.
    pub(crate) fn openai(mut self) -> Self {
        self.openai = true;
        self
    }

    fn refer<T: ToSchema>(&mut self) -> RefOr<Schema> {
        let name = T::name().into_owned();
        self.schemas.push((name.clone(), T::schema()));
        T::schemas(&mut self.schemas);
        RefOr::Ref(Ref::from_schema_name(name))
    }

    fn operation(&self, endpoint: &Endpoint) -> Operation {
        let mut operation = OperationBuilder::new()
            .tag(self.tag)
            .summary(Some(self.summary))
            .operation_id(Some(operation_id(&endpoint.method, &plain_path(endpoint.path))));
        operation = operation.extensions(Some(extensions(endpoint.access)));
        let description = self.description_with(endpoint.access);
        if !description.is_empty() {
            operation = operation.description(Some(description));
        }
        for name in path_parameters(endpoint.path) {
            operation =
                operation.parameter(parameter(ParameterIn::Path, name, true, path_words(name)));
        }
        for (place, name, required, words) in &self.parameters {
            operation = operation.parameter(parameter(place.clone(), name, *required, words));
        }
        operation = operation.request_body(self.body.describe());
        for (status, description, contents) in &self.successes {
            let mut response = ResponseBuilder::new().description(*description);
            if self.once {
                response = response.header("Idempotent-Replayed", replayed_header());
            }
            for (name, words) in served::HEADERS.into_iter().filter(|_| self.served) {
                response = response.header(name, text_header(words));
            }
            for (media_type, content) in contents {
                response = response.content(*media_type, content.clone());
            }
            operation = operation.response(status.to_string(), response.build());
        }
        for (status, response) in self.refusals(endpoint) {
            operation = operation.response(status.to_string(), response);
        }
        if let Some(scheme) = schemes(endpoint.access) {
            for name in scheme {
                operation = operation.security(SecurityRequirement::new(*name, [""; 0]));
            }
        }
        operation.build()
    }

    fn description_with(&self, access: Access) -> String {
        let mut parts = Vec::new();
        if !self.description.is_empty() {
            parts.push(self.description.to_owned());
        }
        if let Access::Tenant(scope) | Access::Key(scope) = access {
            parts.push(format!("Needs the scope `{scope}`."));
        }
        if let Some(Action(name)) = self.action {
            parts.push(format!("Stands in the audit log as `{name}`."));
        }
        parts.join("\n\n")
    }

    /// One response per status, with the codes that it may carry.
    fn refusals(&self, endpoint: &Endpoint) -> Vec<(u16, Response)> {
        let mut codes = failures(endpoint.access).to_vec();
        if endpoint.path.contains('{') {
            codes.push(Code::NotFound);
        }
        codes.extend(&self.failures);
        if matches!(endpoint.access, Access::Operator | Access::Tenant(_) | Access::Member) {
            codes.push(Code::RateLimited);
        }
        codes.push(Code::Internal);
        if endpoint.access != Access::Public {
            codes.push(Code::Unavailable);
        }
        let mut by_status: Vec<(u16, Vec<Code>)> = Vec::new();
        for code in codes {
            let status = if self.openai { code.row().openai.status } else { code.row().status };
            match by_status.iter_mut().find(|(known, _)| *known == status) {
                Some((_, codes)) if codes.contains(&code) => {}
                Some((_, codes)) => codes.push(code),
                None => by_status.push((status, vec![code])),
            }
        }
        by_status.sort_by_key(|(status, _)| *status);
        by_status.into_iter().map(|(status, codes)| (status, self.refusal(&codes))).collect()
    }

    fn refusal(&self, codes: &[Code]) -> Response {
        let lines: Vec<_> = codes
            .iter()
            .map(|code| match (self.openai, code.row().openai.code) {
                (false, _) => format!("`{}`: {}", code.as_str(), code.row().title),
                (true, Some(name)) => format!("`{name}`: {}", code.row().title),
                (true, None) => code.row().title.to_owned(),
            })
            .collect();
        let (media_type, name) = if self.openai {
            ("application/json", OpenAiProblem::name())
        } else {
            ("application/problem+json", Problem::name())
        };
        let schema: RefOr<Schema> = RefOr::Ref(Ref::from_schema_name(name));
        ResponseBuilder::new()
            .description(lines.join("; "))
            .content(media_type, Content::new(Some(schema)))
            .build()
    }
}

/// A stream is told apart in events by its type, and whether a schema means an event or all of them is
/// read differently by every tool: it has none.
fn text_content(media_type: &str) -> Content {
    if media_type == "text/event-stream" {
        return Content::default();
    }
    Content::new(Some(Schema::Object(ObjectBuilder::new().schema_type(Type::String).build())))
}

fn text_header(words: &'static str) -> Header {
    let kind = ObjectBuilder::new().schema_type(Type::String);
    HeaderBuilder::new().schema(Some(Schema::Object(kind.build()))).description(Some(words)).build()
}

fn replayed_header() -> Header {
    let kind = ObjectBuilder::new().schema_type(Type::String).enum_values(Some(["true"]));
    HeaderBuilder::new()
        .schema(Some(Schema::Object(kind.build())))
        .description(Some("The request was answered before under its key; this is that answer."))
        .build()
}

fn path_parameters(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter_map(|part| {
        let inside = part.strip_prefix('{')?.strip_suffix('}')?;
        Some(inside.split_once(':').map_or(inside, |(name, _)| name))
    })
}

/// The path without the patterns of its parameters.
fn plain_path(path: &str) -> String {
    let parts = path.split('/').map(|part| match part.split_once(':') {
        Some((name, _)) if name.starts_with('{') => format!("{name}}}"),
        _ => part.to_owned(),
    });
    parts.collect::<Vec<_>>().join("/")
}

/// `GET /v1/tenants/{tenant_id}/wallet` becomes `get_tenants_tenant_id_wallet`: stable names for
/// generated clients.
fn operation_id(method: &Method, path: &str) -> String {
    let words: String = path
        .trim_start_matches("/v1")
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { ' ' })
        .collect();
    let words: Vec<_> = words.split_whitespace().collect();
    format!("{}_{}", method.as_str().to_ascii_lowercase(), words.join("_"))
}

const TAGS: &[(&str, &str)] = &[
    ("Models", "The OpenAI-compatible API. Point any OpenAI client at `<this server>/v1`."),
    ("Tenants", "Tenants, their credits, and what was charged."),
    ("Assistants", "Personas, and the models that may serve them."),
    ("Channels", "Where a tenant's end users write."),
    ("API keys", "Credentials of a tenant."),
    ("Members", "People who work for a tenant, and what they may do."),
    ("Signing in", "How members come in, and what they change about their own ways in."),
    ("Conversations", "What was said."),
    ("Contacts", "End users: all that is kept of them, and its end."),
    ("Web chat", "What the chat page speaks."),
    (
        "Widget",
        "The chat on pages of other sites, which have to be listed in the channel's settings.",
    ),
    ("Partner channels", "The partner channel protocol, PCP/1: a channel of one's own."),
    ("Plugins", "The plugins of this node."),
    ("Operations", "Health, metrics, and this description."),
];

/// The whole description.
pub(crate) fn describe(endpoints: &[Endpoint]) -> OpenApi {
    let mut components = Components::new();
    let mut schemas: Schemas = vec![
        (Problem::name().into_owned(), <Problem<'_> as utoipa::PartialSchema>::schema()),
        (
            OpenAiProblem::name().into_owned(),
            <OpenAiProblem<'_> as utoipa::PartialSchema>::schema(),
        ),
        (
            OpenAiErrorBody::name().into_owned(),
            <OpenAiErrorBody<'_> as utoipa::PartialSchema>::schema(),
        ),
        (FieldError::name().into_owned(), <FieldError as utoipa::PartialSchema>::schema()),
    ];
    let mut paths = PathsBuilder::new();
    for endpoint in endpoints {
        let Some(doc) = &endpoint.doc else { continue };
        schemas.extend(doc.schemas.iter().cloned());
        let item = PathItem::new(http_method(&endpoint.method), doc.operation(endpoint));
        paths = paths.path(plain_path(endpoint.path), item);
    }
    let webhooks = webhooks::webhooks(&mut schemas);
    components.schemas.extend(schemas);
    for (name, words) in [
        (OPERATOR, "The operator's key, `qo_…`, from `$QUDAO_HOME/operator_key`."),
        (API_KEY, "A tenant's API key, `qk_live_…`, shown once when it was made."),
        (PARTNER, "A partner's key of its channel, `pck_live_…` or `pck_test_…`, shown once."),
        (VISITOR, "The visitor's token, `vt_…`, from `POST /v1/web/{key}/session`."),
        (
            WIDGET,
            "The widget's token, `qw_…`, from `POST /v1/widget/{key}/token`: for 15 minutes, and \
             from the site to which it was given.",
        ),
    ] {
        let scheme =
            HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some(words)).build();
        components.add_security_scheme(name, SecurityScheme::Http(scheme));
    }
    let words = "The cookie of a member who signed in with `POST /v1/tenants/{tenant_id}/sessions`. \
                 What changes something needs the header `X-CSRF-Token` as well.";
    let cookie = ApiKeyValue::with_description(crate::cookie::NAME, words);
    components.add_security_scheme(SESSION, SecurityScheme::ApiKey(ApiKey::Cookie(cookie)));
    let tags = TAGS
        .iter()
        .map(|(name, words)| TagBuilder::new().name(*name).description(Some(*words)).build());
    OpenApiBuilder::new()
        .info(info())
        .servers(Some([ServerBuilder::new().url("/").description(Some("This server")).build()]))
        .tags(Some(tags))
        .paths(paths)
        .webhooks(Some(webhooks))
        .components(Some(components))
        .build()
}

fn info() -> InfoBuilder {
    InfoBuilder::new()
        .title("Qudao")
        .version(env!("CARGO_PKG_VERSION"))
        .license(Some(LicenseBuilder::new().name("Apache-2.0").identifier(Some("Apache-2.0")).build()))
        .description(Some(
            "Customer service over many channels, with models that run in plugins.\n\n\
             Refusals are `application/problem+json` with a stable `code`; the endpoints under *Models* \
             use OpenAI's error shape. Amounts are decimal texts with a currency. Lists are read in \
             pages. Every answer carries `X-Request-Id`, taken from the request if it has one.",
        ))
}

fn http_method(method: &Method) -> HttpMethod {
    match *method {
        Method::POST => HttpMethod::Post,
        Method::PUT => HttpMethod::Put,
        Method::PATCH => HttpMethod::Patch,
        Method::DELETE => HttpMethod::Delete,
        _ => HttpMethod::Get,
    }
}

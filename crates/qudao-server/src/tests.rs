use std::collections::HashSet;

use actix_web::{dev::ServiceResponse, http::Method, test as client};
use serde_json::Value;

use super::*;

fn header<'a, B>(response: &'a ServiceResponse<B>, name: &str) -> &'a str {
    response.headers().get(name).unwrap().to_str().unwrap()
}

fn description() -> Value {
    serde_json::from_str(&openapi_json()).unwrap()
}

fn operations(description: &Value) -> Vec<(String, Value)> {
    let paths = description["paths"].as_object().unwrap();
    paths
        .iter()
        .flat_map(|(path, item)| {
            let methods = item.as_object().unwrap().iter();
            methods.map(move |(method, operation)| {
                (format!("{} {path}", method.to_uppercase()), operation.clone())
            })
        })
        .collect()
}

#[test]
fn every_endpoint_but_pages_is_described_and_nothing_else_is() {
    let served: HashSet<_> = list_endpoints()
        .into_iter()
        .filter(|endpoint| endpoint.doc.is_some())
        .map(|endpoint| format!("{} {}", endpoint.method, endpoint.path.replace(":.+", "")))
        .collect();
    let described: HashSet<_> =
        operations(&description()).into_iter().map(|(name, _)| name).collect();
    assert_eq!(served, described);
}

#[test]
fn an_endpoint_that_is_not_public_names_its_credentials() {
    for endpoint in list_endpoints() {
        let Some(_) = endpoint.doc else {
            // Pages, and the doors of messaging platforms.
            let door = endpoint.path.starts_with("/v1/inbound/");
            assert!(endpoint.access == Public && (endpoint.method == Method::GET || door));
            continue;
        };
        let path = endpoint.path.replace(":.+", "");
        let method = endpoint.method.as_str().to_lowercase();
        let operation = &description()["paths"][&path][&method];
        let schemes: Vec<_> = operation["security"]
            .as_array()
            .into_iter()
            .flatten()
            .flat_map(|requirement| requirement.as_object().unwrap().keys().cloned())
            .collect();
        let expected: &[&str] = match endpoint.access {
            Public => &[],
            Operator => &["operator_key"],
            Tenant(_) => &["operator_key", "api_key", "session"],
            Key(_) => &["api_key"],
            Member => &["session"],
            Visitor => &["visitor_token"],
            access::Access::Widget => &["widget_token"],
            Partner => &["partner_key"],
        };
        assert_eq!(schemes, expected, "{method} {path}");
        // Whoever signs in may show something wrong although the door is open to everybody.
        let signs_in = operation["tags"][0] == "Signing in";
        let refuses = operation["responses"]["401"].is_object();
        assert!(refuses == (endpoint.access != Public) || signs_in, "{path}");
    }
}

#[test]
fn tenant_resources_are_closed_to_strangers_and_operator_resources_to_tenants() {
    for endpoint in list_endpoints() {
        let Endpoint { method, path, access, .. } = endpoint;
        // Money comes from the operator, and a whole tenant is erased by nobody else.
        let operators = path.ends_with("/credits")
            || path == "/v1/tenants/{tenant_id}/erase"
            || ["/v1/tenants", "/v1/audit-events"].contains(&path)
            || path.starts_with("/v1/plugins");
        let open = path.ends_with("/sign-in-options")
            || path.ends_with("/sign-in")
            || (method == Method::POST && path.ends_with("/sessions"));
        let fits = match path {
            _ if open => access == Public,
            _ if operators => access == Operator,
            path if path.starts_with("/v1/tenants/") => matches!(access, Tenant(_)),
            path if path.starts_with("/v1/chat/") || path.starts_with("/v1/models") => {
                access == Key(Scope::Chat)
            }
            path if path.starts_with("/v1/session") => access == Member,
            _ => continue,
        };
        assert!(fits, "{method} {path}: {access:?}");
    }
}

/// Reading needs a scope to read, changing one to change: no viewer changes anything.
#[test]
fn what_changes_something_asks_for_more_than_sight_and_is_written_down() {
    let mut acts = HashSet::new();
    for endpoint in list_endpoints() {
        let Endpoint { method, path, access, doc } = endpoint;
        let action = doc.as_ref().and_then(openapi::Doc::action);
        let reads = method == Method::GET;
        if let Tenant(scope) = access {
            let words = scope.as_str();
            let sight = words.ends_with(":read") || words.ends_with(":export");
            assert_eq!(sight, reads, "{method} {path}: {scope}");
        }
        let administers = matches!(access, Operator | Tenant(_)) && !reads;
        assert_eq!(action.is_some(), administers, "{method} {path}");
        if let Some(act::Action(name)) = action {
            assert!(acts.insert(name), "{name} stands for two acts");
        }
    }
    assert!(15 < acts.len());
}

#[test]
fn the_description_is_complete_enough_for_generators_of_clients() {
    let description = description();
    assert_eq!(description["openapi"], "3.1.0");
    let tags: HashSet<_> =
        description["tags"].as_array().unwrap().iter().map(|tag| &tag["name"]).collect();
    let mut ids = HashSet::new();
    for (name, operation) in operations(&description) {
        assert!(ids.insert(operation["operationId"].as_str().unwrap().to_owned()), "{name}");
        assert!(tags.contains(&operation["tags"][0]), "{name}");
        assert!(!operation["summary"].as_str().unwrap().is_empty(), "{name}");
        for (status, response) in operation["responses"].as_object().unwrap() {
            let words = response["description"].as_str().unwrap_or_default();
            assert!(!words.is_empty(), "{name} {status}");
        }
        if operation["requestBody"].is_object() {
            let content = &operation["requestBody"]["content"];
            let file = content["application/octet-stream"].is_object();
            let form = content["multipart/form-data"]["schema"].is_object();
            let json = content["application/json"]["example"].is_object();
            assert!(file || form || json, "{name}");
        }
        for parameter in name.split('/').filter_map(|part| part.strip_prefix('{')) {
            let parameter = parameter.trim_end_matches('}');
            let listed = operation["parameters"].as_array().unwrap();
            assert!(listed.iter().any(|listed| listed["name"] == parameter), "{name}");
        }
    }
}

/// The web chat and the widget have the ids of its messages for that. What has to do with passwords is not kept for
/// a day to be told again: an invitation is good once, and each sign-in is another session.
#[test]
fn every_post_but_the_web_chats_and_those_of_signing_in_may_be_repeated_under_a_key() {
    for (name, operation) in operations(&description()) {
        let listed = operation["parameters"].as_array().cloned().unwrap_or_default();
        let keyed = listed.iter().any(|parameter| parameter["name"] == "Idempotency-Key");
        let apart = ["/v1/web/", "/v1/widget/", "/v1/pcp/", "/v1/session/", "/v1/invitations/"]
            .iter()
            .any(|path| name.starts_with(&format!("POST {path}")))
            || name.ends_with("/sessions");
        let expected = name.starts_with("POST ") && !apart;
        assert_eq!(keyed, expected, "{name}");
        if !keyed {
            continue;
        }
        for status in ["400", "409", "422"] {
            assert!(operation["responses"][status].is_object(), "{name} {status}");
        }
        let successes = operation["responses"].as_object().unwrap().iter();
        for (status, response) in successes.filter(|(status, _)| status.starts_with('2')) {
            assert!(response["headers"]["Idempotent-Replayed"].is_object(), "{name} {status}");
        }
    }
}

/// Partners' endpoints are described as well, each kind of event with what it carries.
#[test]
fn what_the_platform_sends_to_partners_is_described() {
    let description = description();
    let webhooks = description["webhooks"].as_object().unwrap();
    assert_eq!(webhooks.len(), 9);
    for (kind, item) in webhooks {
        let schema = &item["post"]["requestBody"]["content"]["application/json"]["schema"];
        assert_eq!(schema["allOf"][1]["properties"]["type"]["enum"][0], kind.as_str());
        let names = item["post"]["parameters"].as_array().unwrap().iter();
        assert!(names.map(|one| &one["name"]).any(|name| name == "webhook-signature"));
    }
}

#[test]
fn every_reference_of_the_description_leads_somewhere() {
    fn references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
        match value {
            Value::Object(fields) => {
                found.extend(fields.get("$ref").and_then(Value::as_str));
                fields.values().for_each(|field| references(field, found));
            }
            Value::Array(items) => items.iter().for_each(|item| references(item, found)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
    let description = description();
    let mut found = Vec::new();
    references(&description, &mut found);
    assert!(50 < found.len());
    for reference in found {
        let pointer = reference.strip_prefix('#').unwrap();
        assert!(description.pointer(pointer).is_some(), "{reference}");
    }
}

#[test]
fn the_description_has_the_bounds_that_are_checked() {
    use qudao_domain::text::{IdempotencyKey, MessageText, Name, SystemPrompt};
    let description = description();
    let bound = |schema: &str, field: &str, key: &str| {
        description["components"]["schemas"][schema]["properties"][field][key].as_u64()
    };
    let at = |max: usize| u64::try_from(max).ok();
    let things = ["Tenant", "Route", "Assistant", "Channel", "ApiKey"];
    for schema in things.map(|thing| format!("Create{thing}")) {
        assert_eq!(bound(&schema, "name", "maxLength"), at(Name::MAX_CHARS), "{schema}");
        assert_eq!(bound(&schema, "name", "minLength"), Some(1), "{schema}");
    }
    let prompt = bound("CreateAssistant", "system_prompt", "maxLength");
    assert_eq!(prompt, at(SystemPrompt::MAX_CHARS));
    assert_eq!(bound("PostMessage", "text", "maxLength"), at(MessageText::MAX_CHARS));
    assert_eq!(bound("CreateRoute", "models", "maxItems"), Some(20));
    for (name, operation) in operations(&description) {
        for parameter in operation["parameters"].as_array().into_iter().flatten() {
            let most = match parameter["name"].as_str().unwrap() {
                "limit" => (u64::from(extract::MAX_PAGE), "maximum"),
                "Idempotency-Key" => (IdempotencyKey::MAX_CHARS as u64, "maxLength"),
                _ => continue,
            };
            assert_eq!(parameter["schema"][most.1], most.0, "{name}");
        }
    }
}

#[test]
fn each_list_is_described_as_a_list_of_its_own_things() {
    let description = description();
    for (name, things) in [("tenants", "Tenant"), ("routes", "Route"), ("ledger", "Entry")] {
        let path = match name {
            "tenants" => "/v1/tenants".to_owned(),
            name => format!("/v1/tenants/{{tenant_id}}/{name}"),
        };
        let response = &description["paths"][&path]["get"]["responses"]["200"];
        let schema = response["content"]["application/json"]["schema"]["$ref"].as_str().unwrap();
        let list = description.pointer(&schema[1..]).unwrap();
        let item = list["properties"]["data"]["items"]["$ref"].as_str().unwrap();
        assert_eq!(item, format!("#/components/schemas/{things}"), "{name}");
    }
}

#[actix_web::test]
async fn pages_run_nothing_that_this_server_did_not_send() {
    let app = App::new()
        .route("/chat/{key}", web::get().to(assets::chat_page))
        .route("/docs", web::get().to(assets::docs_page))
        .route("/console", web::get().to(assets::console_page))
        .route("/assets/{path:.+}", web::get().to(assets::asset))
        .wrap(from_fn(scope::scope));
    let app = client::init_service(app).await;
    for path in ["/chat/wk_any", "/docs", "/console"] {
        let request = client::TestRequest::get().uri(path).to_request();
        let response = client::call_service(&app, request).await;
        assert_eq!(response.status(), 200);
        let policy = header(&response, "content-security-policy");
        assert!(policy.starts_with("default-src 'none'; script-src 'self';"), "{policy}");
        assert!(!policy.contains("unsafe") && !policy.contains('*'), "{policy}");
        for closed in ["base-uri 'none'", "form-action 'none'"] {
            assert!(policy.contains(closed), "{policy}");
        }
        let chat = path.starts_with("/chat");
        let (ancestors, framing) = if chat { ("'self'", "SAMEORIGIN") } else { ("'none'", "DENY") };
        assert!(policy.contains(&format!("frame-ancestors {ancestors}")), "{policy}");
        assert_eq!(header(&response, "x-frame-options"), framing);
        assert_eq!(policy.contains("trusted-types 'none'"), path != "/docs");
        let permissions = header(&response, "permissions-policy");
        assert!(permissions.contains("camera=()"));
        // Whoever chats may speak; nobody else needs a microphone.
        let microphone = if chat { "microphone=(self)," } else { "microphone=()," };
        assert!(permissions.contains(microphone), "{permissions}");
        assert_eq!(header(&response, "cross-origin-opener-policy"), "same-origin");
        assert_eq!(header(&response, "x-dns-prefetch-control"), "off");
        if let Some(tag) = response.headers().get("etag").cloned() {
            let again = client::TestRequest::get().uri(path).insert_header(("if-none-match", tag));
            let unchanged = client::call_service(&app, again.to_request()).await;
            assert_eq!(unchanged.status(), 304);
            assert_eq!(header(&unchanged, "content-security-policy"), policy);
            assert_eq!(header(&unchanged, "x-frame-options"), framing);
        }
        assert_shielded(&response);
    }
    for path in ["/assets/chat/none.js", "/assets/../Cargo.toml", "/assets/%2e%2e/Cargo.toml"] {
        let request = client::TestRequest::get().uri(path).to_request();
        let response = client::call_service(&app, request).await;
        assert_eq!(response.status(), 404, "{path}");
        assert_shielded(&response);
        let body: Value = client::read_body_json(response).await;
        assert_eq!(body["code"], "not_found");
    }
}

/// What every answer says, a page or not.
#[track_caller]
fn assert_shielded<B>(response: &ServiceResponse<B>) {
    assert_eq!(header(response, "x-content-type-options"), "nosniff");
    assert_eq!(header(response, "referrer-policy"), "no-referrer");
    assert_eq!(header(response, "cross-origin-resource-policy"), "same-origin");
    assert!(header(response, "content-security-policy").starts_with("default-src 'none'; "));
    assert!(response.headers().get("strict-transport-security").is_none(), "only by a setting");
}

#[actix_web::test]
async fn what_is_no_page_can_do_nothing_when_it_is_shown_as_one() {
    let app = App::new()
        .route("/json", web::get().to(operations::livez))
        .route("/docs/errors", web::get().to(assets::errors_page))
        .default_service(web::to(nowhere))
        .wrap(from_fn(scope::scope));
    let app = client::init_service(app).await;
    for path in ["/json", "/json?x=1", "/none", "/docs/errors"] {
        let request = client::TestRequest::get().uri(path).to_request();
        let response = client::call_service(&app, request).await;
        assert_shielded(&response);
        assert_eq!(header(&response, "x-frame-options"), "DENY");
        let policy = header(&response, "content-security-policy");
        assert!(policy.contains("frame-ancestors 'none'") && !policy.contains("script-src"));
        if path != "/docs/errors" {
            assert!(policy.ends_with("; sandbox"), "{policy}");
            assert_eq!(header(&response, "cache-control"), "no-store");
        }
    }
}

#[test]
fn the_header_for_https_is_there_if_it_was_asked_for() {
    let mut headers = actix_web::http::header::HeaderMap::new();
    let day = shield::hsts(Some(std::time::Duration::from_secs(86_400)));
    shield::shield(&mut headers, day.as_ref());
    assert_eq!(headers.get("strict-transport-security").unwrap(), "max-age=86400");
    assert!(shield::hsts(None).is_none());
}

#[actix_web::test]
async fn every_refusal_is_a_problem_with_the_id_of_the_request() {
    let app = App::new()
        .route("/here", web::get().to(|| async { "here" }))
        .default_service(web::to(nowhere))
        .wrap(from_fn(scope::scope));
    let app = client::init_service(app).await;
    let request =
        client::TestRequest::get().uri("/there").insert_header(("x-request-id", "mine-1"));
    let response = client::call_service(&app, request.to_request()).await;
    assert_eq!(header(&response, "content-type"), "application/problem+json");
    assert_eq!(header(&response, "x-request-id"), "mine-1");
    let body: Value = client::read_body_json(response).await;
    assert_eq!((&body["request_id"], &body["status"]), (&"mine-1".into(), &404.into()));
    let request = client::TestRequest::get().uri("/here").to_request();
    let response = client::call_service(&app, request).await;
    assert!(header(&response, "x-request-id").starts_with("req_"));
    let request = client::TestRequest::get().uri("/v1/models/x").to_request();
    let body: Value = client::read_body_json(client::call_service(&app, request).await).await;
    assert_eq!(body["error"]["type"], "invalid_request_error");
}

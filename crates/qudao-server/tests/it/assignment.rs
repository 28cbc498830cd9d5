//! Nobody gives themselves more by a field that the description does not have.

use std::{collections::BTreeSet, time::Duration};

use actix_web::http::Method;
use qudao_domain::{ClaimId, ContactId};
use qudao_server::{Access, list_endpoints, openapi_json};
use serde_json::{Value, json};

use crate::{
    model::Script,
    world::{JSON, OPERATOR, World, bearer},
};

/// What records have and bodies must not set, and what has nothing to do here.
const FIELDS: &[&str] = &[
    "id",
    "tenant_id",
    "tenant",
    "owner",
    "owner_id",
    "role",
    "roles",
    "scope",
    "scopes",
    "permissions",
    "operator",
    "is_operator",
    "admin",
    "is_admin",
    "balance",
    "posted",
    "held",
    "available",
    "credits",
    "amount",
    "currency",
    "price",
    "prices",
    "public_key",
    "key",
    "secret",
    "secret_hash",
    "last4",
    "epoch",
    "state",
    "status",
    "created_at",
    "updated_at",
    "revoked_at",
    "expires_at",
    "fair_charging",
    "api_key_id",
    "conversation_id",
    "data_class",
    "egress",
    "__proto__",
    "constructor",
    "Tenant_ID",
    "name ",
    "",
];

/// A site that may show the widget.
const SHOP: &str = "origin: https://shop.example\r\n";

struct Things {
    world: World,
    tenant: String,
    route_id: Value,
    assistant_id: Value,
    channel_id: String,
    key: String,
    visitor: String,
    widget: String,
    api_key_id: String,
    role_id: String,
    /// An owner: their id, and what their browser sends.
    member_id: String,
    browser: String,
    asked: usize,
}

impl Things {
    async fn new() -> Self {
        let world = World::start().await;
        let made = world.post("/v1/tenants", OPERATOR, &json!({ "name": "Acme" })).await;
        let tenant = made.body["id"].as_str().unwrap().to_owned();
        let own = format!("/v1/tenants/{tenant}");
        let credits = format!("{}{JSON}idempotency-key: c\r\n", bearer(OPERATOR));
        world.send("POST", &format!("{own}/credits"), &credits, r#"{"amount":"5"}"#).await;
        let route = json!({ "name": "Local", "models": ["fake"] });
        let route = world.post(&format!("{own}/routes"), OPERATOR, &route).await.body["id"].clone();
        let ada = json!({ "name": "Ada", "system_prompt": "Be kind.", "route_id": route });
        let ada = world.post(&format!("{own}/assistants"), OPERATOR, &ada).await.body["id"].clone();
        let web = json!({ "name": "Site", "kind": "web", "assistant_id": ada });
        let web = world.post(&format!("{own}/channels"), OPERATOR, &web).await.body;
        let key = web["public_key"].as_str().unwrap().to_owned();
        let listed = r#"{"origins":["https://shop.example"],"uploads":true}"#;
        world.db.psql(&format!("UPDATE channels SET settings = '{listed}'"));
        let opened = world.send("POST", &format!("/v1/web/{key}/session"), JSON, "").await;
        let path = format!("/v1/widget/{key}/token");
        let given = world.send("POST", &path, &format!("{SHOP}{JSON}"), "{}").await;
        let name = json!({ "name": "Mine" });
        let api_key = world.post(&format!("{own}/api-keys"), OPERATOR, &name).await.body;
        let role = json!({ "name": "Mine", "scopes": ["chat"] });
        let role = world.post(&format!("{own}/roles"), OPERATOR, &role).await.body;
        let owner = json!({ "email": "owner@example.com", "role": "owner" });
        let invited = world.post(&format!("{own}/invitations"), OPERATOR, &owner).await.body;
        let accept = json!({
            "token": invited["token"], "name": "Owner", "password": "correct horse battery",
        });
        let path = "/v1/invitations/accept";
        let accepted = world.send("POST", path, JSON, &accept.to_string()).await;
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        assert_eq!((opened.status, given.status), (200, 200), "{} {}", opened.body, given.body);
        let browser = format!(
            "cookie: {}\r\norigin: http://test\r\nx-csrf-token: {}\r\n",
            accepted.cookie.unwrap(),
            text(&accepted.body["csrf_token"]),
        );
        Self {
            api_key_id: text(&api_key["id"]),
            role_id: text(&role["id"]),
            member_id: text(&accepted.body["member_id"]),
            browser,
            tenant,
            route_id: route,
            assistant_id: ada,
            channel_id: web["id"].as_str().unwrap().to_owned(),
            key,
            widget: text(&given.body["token"]),
            visitor: text(&opened.body["token"]),
            asked: 0,
            world,
        }
    }

    /// The example of the description, with ids that exist.
    fn body(&self, operation: &Value) -> Option<Value> {
        let mut body = operation.pointer("/requestBody/content/application~1json/example")?.clone();
        // The channel has to stay open for the messages after it.
        let open = json!(true);
        for (field, value) in
            [("route_id", &self.route_id), ("assistant_id", &self.assistant_id), ("open", &open)]
        {
            if body.get(field).is_some() {
                body[field] = value.clone();
            }
        }
        Some(body)
    }

    async fn ask(
        &mut self,
        method: &Method,
        path: &str,
        access: Access,
        body: &Value,
    ) -> (u16, Value) {
        self.asked += 1;
        let path = path
            .replace("{tenant_id}", &self.tenant)
            .replace("{route_id}", self.route_id.as_str().unwrap())
            .replace("{channel_id}", &self.channel_id)
            .replace("{api_key_id}", &self.api_key_id)
            .replace("{role_id}", &self.role_id)
            .replace("{member_id}", &self.member_id)
            // One of the right form, whom nobody knows: what a body says is read before that.
            .replace("{contact_id}", &ContactId::new().to_string())
            .replace("{claim_id}", &ClaimId::new().to_string())
            .replace("{key}", &self.key);
        let credential = match access {
            Access::Visitor => bearer(&self.visitor),
            Access::Widget => format!("{SHOP}{}", bearer(&self.widget)),
            Access::Public => SHOP.to_owned(),
            Access::Member => self.browser.clone(),
            _ => bearer(OPERATOR),
        };
        let headers = format!("{credential}{JSON}idempotency-key: k{}\r\n", self.asked);
        let answer = self.world.send(method.as_str(), &path, &headers, &body.to_string()).await;
        (answer.status, answer.body)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_body_refuses_fields_that_it_does_not_document() {
    let mut things = Things::new().await;
    let description: Value = serde_json::from_str(&openapi_json()).unwrap();
    let (mut tried, mut done) = (BTreeSet::new(), 0);
    let mut endpoints = list_endpoints();
    // What is erased takes its channel's key along.
    endpoints.sort_by_key(|endpoint| endpoint.path.ends_with("/erase"));
    for endpoint in endpoints {
        // OpenAI's own servers ignore what they do not know, and clients of the models' endpoints count
        // on that; see the test below.
        // Partners' events and documents may be of a newer version of the protocol.
        if matches!(endpoint.access, Access::Key(_) | Access::Partner) {
            continue;
        }
        let method = endpoint.method.as_str().to_lowercase();
        let operation = &description["paths"][endpoint.path][&method];
        let Some(body) = things.body(operation) else { continue };
        let (status, answer) =
            things.ask(&endpoint.method, endpoint.path, endpoint.access, &body).await;
        // Some examples name what there is not here: a wrong password, a provider to be asked.
        assert!(status < 500, "{}: {status} {answer}", endpoint.path);
        done += usize::from(status < 300);
        let schema = operation
            .pointer("/requestBody/content/application~1json/schema/$ref")
            .and_then(Value::as_str)
            .unwrap();
        let known = description.pointer(&schema[1..]).unwrap()["properties"].as_object().unwrap();
        for field in FIELDS.iter().filter(|field| !known.contains_key(**field)) {
            for value in [json!("operator"), json!(true), json!(1_000_000), json!({}), Value::Null]
            {
                let mut more = body.clone();
                more[*field] = value;
                let (status, answer) =
                    things.ask(&endpoint.method, endpoint.path, endpoint.access, &more).await;
                assert_eq!(status, 422, "{} {field:?}: {answer}", endpoint.path);
                assert_eq!(answer["code"], "validation_failed");
                assert!(answer.to_string().contains("unknown field"), "{answer}");
            }
        }
        tried.insert(format!("{} {}", endpoint.method, endpoint.path));
    }
    // Whoever adds an endpoint with a body gets it tried; whoever takes one away says so here.
    assert!(21 <= tried.len(), "{tried:?}");
    assert!(10 <= done, "{done} of the examples do what they are an example of");
    println!("{} endpoints, {} requests", tried.len(), things.asked);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_completion_that_names_another_tenant_is_paid_by_its_own_key_alone() {
    let script = Script::says(&["Hello"], Duration::ZERO);
    let world = World::with_model(&script).await;
    let (rich, poor) = (world.tenant(1_000_000).await, world.tenant(1_000_000).await);
    let other = rich.id.to_string();
    let more = json!({
        "tenant_id": other, "tenant": other, "user": other, "metadata": { "tenant_id": other },
        "operator": true, "role": "operator", "scopes": ["admin"], "balance": "1000", "price": 0,
        "charge": 0,
    });
    let answer = world.complete(&poor, &more).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    for (tenant, calls) in [(&rich, 0), (&poor, 1)] {
        let usage = world.get(&format!("/v1/tenants/{}/usage", tenant.id), OPERATOR).await;
        assert_eq!(usage.body["data"].as_array().unwrap().len(), calls, "{}", usage.body);
    }
}

//! The admin API, and what every endpoint refuses.

use std::time::Duration;

use serde_json::json;

use crate::world::{OPERATOR, World, refusal};

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_sets_up_a_tenant_and_credits_count_once() {
    let world = World::start().await;
    let made = world.post("/v1/tenants", OPERATOR, &json!({ "name": " Acme " })).await;
    assert_eq!((made.status, &made.body["name"]), (201, &json!("Acme")));
    let tenant = format!("/v1/tenants/{}", made.body["id"].as_str().unwrap());
    assert!(made.head.contains(&format!("location: {tenant}")), "{}", made.head);

    let credits = format!("{tenant}/credits");
    let keyless = world.post(&credits, OPERATOR, &json!({ "amount": "5" })).await;
    assert_eq!(refusal(&keyless), (400, "idempotency_key_required".to_owned()));
    let headers = format!(
        "authorization: Bearer {OPERATOR}\r\ncontent-type: application/json\r\nidempotency-key: a\r\n"
    );
    let first = world.send("POST", &credits, &headers, r#"{"amount":"5.5"}"#).await;
    let again = world.send("POST", &credits, &headers, r#"{"amount":"5.5"}"#).await;
    let other = world.send("POST", &credits, &headers, r#"{"amount":"6"}"#).await;
    assert_eq!((first.status, again.status), (201, 201));
    assert_eq!(first.body, again.body);
    assert!(
        !first.head.contains("idempotent-replayed")
            && again.head.contains("idempotent-replayed: true")
    );
    assert_eq!(refusal(&other), (422, "idempotency_key_reused".to_owned()));
    let wallet = world.get(&format!("{tenant}/wallet"), OPERATOR).await;
    assert_eq!(wallet.body["available"], json!({ "amount": "5.5", "currency": "CNY" }));

    let route = json!({ "name": "Local", "models": ["fake"] });
    let route = world.post(&format!("{tenant}/routes"), OPERATOR, &route).await;
    let assistant =
        json!({ "name": "Ada", "system_prompt": "Be kind.", "route_id": route.body["id"] });
    let assistant = world.post(&format!("{tenant}/assistants"), OPERATOR, &assistant).await;
    let channel = json!({ "name": "Site", "kind": "web", "assistant_id": assistant.body["id"] });
    let channel = world.post(&format!("{tenant}/channels"), OPERATOR, &channel).await;
    assert_eq!([route.status, assistant.status, channel.status], [201; 3], "{}", channel.body);
    let key = world.post(&format!("{tenant}/api-keys"), OPERATOR, &json!({ "name": "k" })).await;
    let secret = key.body["key"].as_str().unwrap();
    assert_eq!(world.get("/v1/models", secret).await.body["data"][0]["id"], "fake");
    assert_eq!(refusal(&world.get(&tenant, secret).await), (403, "forbidden".to_owned()));
    let path = format!("{tenant}/api-keys/{}", key.body["id"].as_str().unwrap());
    let auth = format!("authorization: Bearer {OPERATOR}\r\n");
    assert_eq!(world.send("DELETE", &path, &auth, "").await.status, 204);
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    assert_eq!(
        refusal(&world.get("/v1/models", secret).await),
        (401, "invalid_api_key".to_owned())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_input_is_refused_in_the_envelope_and_changes_nothing() {
    let world = World::start().await;
    let tenant = world.tenant(1_000_000).await;
    let base = format!("/v1/tenants/{}", tenant.id);
    let key = tenant.api_key.reveal();
    let before = world.db.psql("SELECT count(*) FROM routes");
    let auth = format!("authorization: Bearer {key}\r\n");
    let json = format!("{auth}content-type: application/json\r\n");
    let big = format!("{{\"name\":\"{}\"}}", "x".repeat(300_000));
    let long = json!({ "name": "字".repeat(121), "models": ["a"] }).to_string();
    let unknown = format!("{base}x");
    let routes = format!("{base}/routes");
    let model_less = format!("{base}/routes?limit=0");
    let odd = format!("{base}/routes?page=2");
    let cursor = format!("{base}/routes?cursor=nonsense");
    let nobody = format!("{base}/conversations/cnv_{}/messages", "0".repeat(32));
    let cases: &[(&str, &str, &str, &str, u16, &str)] = &[
        ("POST", &routes, &json, "{", 400, "malformed_json"),
        ("POST", &routes, &json, "[]", 422, "validation_failed"),
        ("POST", &routes, &json, r#"{"name":1,"models":[]}"#, 422, "validation_failed"),
        ("POST", &routes, &json, r#"{"name":"a","models":[]}"#, 422, "validation_failed"),
        ("POST", &routes, &json, r#"{"name":"a","models":["a"],"x":1}"#, 422, "validation_failed"),
        ("POST", &routes, &json, r#"{"name":"a\u0000","models":["a"]}"#, 422, "validation_failed"),
        ("POST", &routes, &json, &long, 422, "validation_failed"),
        ("POST", &routes, &json, &big, 413, "body_too_large"),
        ("POST", &routes, &auth, r#"{"name":"a","models":["a"]}"#, 415, "unsupported_media_type"),
        ("PUT", &routes, &json, "{}", 405, "method_not_allowed"),
        ("GET", &model_less, &auth, "", 400, "invalid_query"),
        ("GET", &odd, &auth, "", 400, "invalid_query"),
        ("GET", &cursor, &auth, "", 400, "invalid_cursor"),
        ("GET", &nobody, &auth, "", 404, "not_found"),
        ("GET", &unknown, &auth, "", 404, "not_found"),
        ("GET", &base, "", "", 401, "unauthenticated"),
        ("GET", &base, "authorization: Bearer qk_live_x\r\n", "", 401, "invalid_credentials"),
        ("GET", "/v1/tenants", &auth, "", 403, "forbidden"),
        ("GET", "/nowhere", "", "", 404, "not_found"),
        ("POST", "/v1/chat/completions", &json, "{", 400, "none"),
        ("POST", "/v1/chat/completions", &json, r#"{"model":"fake"}"#, 400, "none"),
        ("GET", "/v1/models/none", &auth, "", 404, "model_not_found"),
        ("POST", "/v1/chat/completions", "", "{}", 401, "invalid_api_key"),
    ];
    for (method, path, headers, body, status, code) in cases {
        let answer = world.send(method, path, headers, body).await;
        let shown = &body[..body.len().min(60)];
        assert_eq!(refusal(&answer), (*status, (*code).to_owned()), "{method} {path} {shown}");
        assert!(answer.head.contains("x-request-id: "), "{method} {path}");
    }
    assert_eq!(world.db.psql("SELECT count(*) FROM routes"), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_is_told_the_same_as_of_what_does_not_exist() {
    let world = World::start().await;
    let (acme, rival) = (world.tenant(1).await, world.tenant(1).await);
    let key = rival.api_key.reveal();
    let nobody = format!("ten_{}", "0".repeat(32));
    for suffix in
        ["", "/wallet", "/routes", "/assistants", "/channels", "/api-keys", "/usage", "/ledger"]
    {
        let theirs = world.get(&format!("/v1/tenants/{}{suffix}", acme.id), &key).await;
        let unknown = world.get(&format!("/v1/tenants/{nobody}{suffix}"), &key).await;
        assert_eq!((theirs.status, unknown.status), (404, 404), "{suffix}");
        assert_eq!(theirs.body["detail"], unknown.body["detail"]);
    }
    let own = |id: &str| format!("/v1/tenants/{}/routes/{id}", rival.id);
    let theirs = world.get(&own(&acme.route_id.to_string()), &key).await;
    let unknown = world.get(&own(&format!("rte_{}", "0".repeat(32))), &key).await;
    assert_eq!((theirs.status, &theirs.body["detail"]), (404, &unknown.body["detail"]));
    let body = json!({ "name": "a", "system_prompt": "b", "route_id": acme.route_id.to_string() });
    let foreign = world.post(&format!("/v1/tenants/{}/assistants", rival.id), &key, &body).await;
    assert_eq!((foreign.status, &foreign.body["errors"][0]["pointer"]), (422, &json!("/route_id")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_visitors_message_is_stored_once_and_not_at_all_without_credits() {
    let world = World::start().await;
    let (rich, poor) = (world.tenant(10_000_000).await, world.tenant(0).await);
    let opened = world.send("POST", &format!("/v1/web/{}/session", rich.public_key), "", "").await;
    let token = opened.body["token"].as_str().unwrap();
    let path = format!("/v1/web/{}/messages", rich.public_key);
    let message = json!({ "id": "m1", "text": "你好" });
    let first = world.post(&path, token, &message).await;
    let again = world.post(&path, token, &message).await;
    assert_eq!((first.status, &first.body["duplicate"]), (202, &json!(false)));
    assert_eq!((again.status, &again.body["duplicate"]), (202, &json!(true)));
    let history = world.get(&path, token).await;
    assert_eq!(history.body["data"].as_array().unwrap().len(), 1);
    assert_eq!(history.body["data"][0]["client_id"], "m1");
    let stranger = format!("vt_{}", "b".repeat(43));
    assert_eq!(world.get(&path, &stranger).await.body["data"], json!([]));
    let refused =
        world.post(&format!("/v1/web/{}/messages", poor.public_key), token, &message).await;
    assert_eq!(refusal(&refused), (402, "insufficient_credits".to_owned()));
    assert_eq!(world.db.psql("SELECT count(*) FROM inbox"), "1");
    let unknown = world.send("POST", "/v1/web/wk_unknown/session", "", "").await;
    assert_eq!(refusal(&unknown), (404, "not_found".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_is_not_http_gets_an_empty_400() {
    let world = World::start().await;
    let answer = world.send("GET", "/livez", "no header at all\r\n", "").await;
    assert_eq!((answer.status, answer.body), (400, json!("")));
    assert_eq!(world.send("GET", "/livez", "", "").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_channel_takes_no_message_until_it_is_opened_again() {
    let world = World::start().await;
    let (tenant, rival) = (world.tenant(10_000_000).await, world.tenant(1).await);
    let path = format!("/v1/tenants/{}/channels/{}", tenant.id, tenant.channel_id);
    let headers =
        |key: &str| format!("authorization: Bearer {key}\r\ncontent-type: application/json\r\n");
    let own = headers(&tenant.api_key.reveal());
    let session = format!("/v1/web/{}/session", tenant.public_key);
    let messages = format!("/v1/web/{}/messages", tenant.public_key);
    let visitor = format!("vt_{}", "c".repeat(43));
    let message = |id: &str| json!({ "id": id, "text": "Hello" });
    assert_eq!(world.post(&messages, &visitor, &message("a")).await.status, 202);

    let closed = world.send("PATCH", &path, &own, r#"{"open":false}"#).await;
    assert_eq!((closed.status, &closed.body["open"]), (200, &json!(false)), "{}", closed.body);
    assert_eq!(world.get(&path, OPERATOR).await.body, closed.body);
    let refused = world.post(&messages, &visitor, &message("b")).await;
    assert_eq!(refusal(&refused).1, "channel_closed");
    assert_eq!(refusal(&world.send("POST", &session, "", "").await).1, "channel_closed");
    let said = world.get(&messages, &visitor).await;
    assert_eq!(said.body["data"].as_array().map(Vec::len), Some(1));

    let foreign = headers(&rival.api_key.reveal());
    let stranger = world.send("PATCH", &path, &foreign, r#"{"open":true}"#).await;
    assert_eq!(refusal(&stranger), (404, "not_found".to_owned()));
    let empty = world.send("PATCH", &path, &own, "{}").await;
    assert_eq!(refusal(&empty), (422, "validation_failed".to_owned()));
    let all = world.get(&format!("/v1/tenants/{}/channels", tenant.id), OPERATOR).await;
    let api = all.body["data"].as_array().unwrap().iter().find(|one| one["kind"] == "api");
    let api = api.unwrap()["id"].as_str().unwrap();
    let api = format!("/v1/tenants/{}/channels/{api}", tenant.id);
    let refused = world.send("PATCH", &api, &own, r#"{"open":false}"#).await;
    assert_eq!(refusal(&refused), (422, "validation_failed".to_owned()));

    let opened = world.send("PATCH", &path, &own, r#"{"open":true}"#).await;
    assert_eq!((opened.status, &opened.body["open"]), (200, &json!(true)));
    assert_eq!(world.post(&messages, &visitor, &message("b")).await.status, 202);
}

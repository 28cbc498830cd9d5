//! People's data over HTTP: what a tenant asks for its contacts, and an operator for a tenant.

use serde_json::{Value, json};

use crate::world::{OPERATOR, World, bearer, refusal, visitor};

/// Someone says something in a tenant's chat.
async fn say(world: &World, public_key: &str, token: &str, text: &str) {
    let path = format!("/v1/web/{public_key}/messages");
    let sent = world.post(&path, token, &json!({ "id": "m1", "text": text })).await;
    assert_eq!(sent.status, 202, "{}", sent.body);
}

/// The lines of an export.
fn lines(text: &str) -> Vec<Value> {
    text.lines()
        .filter(|line| line.starts_with('{'))
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_exports_and_erases_a_contact_of_its_own_and_no_other() {
    let world = World::start().await;
    let (tenant, rival) = (world.tenant(1_000_000).await, world.tenant(1_000_000).await);
    say(&world, &tenant.public_key, &visitor(), "canary of ann").await;
    say(&world, &tenant.public_key, &visitor(), "canary of bob").await;
    let contacts = format!("/v1/tenants/{}/contacts", tenant.id);
    let key = tenant.api_key.reveal();
    let listed = world.get(&contacts, &key).await;
    assert_eq!(listed.body["data"].as_array().unwrap().len(), 2, "{}", listed.body);
    let ann = listed.body["data"][1]["id"].as_str().unwrap().to_owned();
    let contact = world.get(&format!("{contacts}/{ann}"), &key).await;
    assert_eq!(contact.body["identities"].as_array().unwrap().len(), 1, "{}", contact.body);
    assert_eq!(contact.body["erased_at"], Value::Null);

    let path = format!("{contacts}/{ann}/export");
    let text = world.stream("GET", &path, &key, "").await.all().await;
    let rows = lines(&text);
    let (head, last) = (&rows[0], rows.last().unwrap());
    assert_eq!((&head["export"], &head["contact_id"]), (&json!("contact"), &json!(ann)));
    assert_eq!(last, &json!({ "complete": true, "rows": rows.len() - 2 }), "{text}");
    assert!(text.contains("canary of ann") && !text.contains("canary of bob"), "{text}");

    // A stranger learns nothing of it, under whichever tenant's path.
    for (path, key) in [
        (format!("{contacts}/{ann}/erase"), rival.api_key.reveal()),
        (format!("/v1/tenants/{}/contacts/{ann}/erase", rival.id), rival.api_key.reveal()),
        (format!("{contacts}/cnt_{:032}/erase", 1), key.clone()),
    ] {
        assert_eq!(refusal(&world.send("POST", &path, &bearer(&key), "").await).0, 404, "{path}");
    }
    let erase = format!("{contacts}/{ann}/erase");
    let erased = world.send("POST", &erase, &bearer(&key), "").await;
    assert_eq!((erased.status, &erased.body), (200, &json!({ "erased": true, "messages": 1 })));
    let again = world.send("POST", &erase, &bearer(&key), "").await;
    assert_eq!(again.body, json!({ "erased": true, "messages": 0 }));
    let contact = world.get(&format!("{contacts}/{ann}"), &key).await;
    assert_eq!(contact.body["identities"], json!([]));
    assert!(contact.body["erased_at"].is_string(), "{}", contact.body);
    let stream = world.stream("GET", &path, &key, "").await;
    assert!(!stream.all().await.contains("canary"));
    assert_eq!(world.db.psql("SELECT count(*) FROM inbox WHERE body ->> 'text' <> ''").trim(), "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn days_of_retention_are_set_and_taken_back() {
    let world = World::start().await;
    let tenant = world.tenant(0).await;
    let path = format!("/v1/tenants/{}", tenant.id);
    let key = tenant.api_key.reveal();
    let headers = format!("{}content-type: application/json\r\n", bearer(&key));
    for (days, kept) in [("90", json!(90)), ("null", Value::Null)] {
        let body = format!("{{\"retention_days\": {days}}}");
        let set = world.send("PATCH", &path, &headers, &body).await;
        assert_eq!((set.status, &set.body["retention_days"]), (200, &kept), "{}", set.body);
        assert_eq!(world.get(&path, &key).await.body["retention_days"], kept);
        let listed = world.get("/v1/tenants", OPERATOR).await;
        assert_eq!(listed.body["data"][0]["retention_days"], kept);
    }
    for bad in ["{\"retention_days\": 0}", "{\"retention_days\": 36501}", "{}"] {
        let refused = world.send("PATCH", &path, &headers, bad).await;
        assert_eq!(refused.status, 422, "{bad} {}", refused.body);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_erases_a_tenant_by_its_name_and_nobody_else_does() {
    let world = World::start().await;
    let tenant = world.tenant(1_000_000).await;
    say(&world, &tenant.public_key, &visitor(), "canary").await;
    let path = format!("/v1/tenants/{}/erase", tenant.id);
    let name = json!({ "confirm": "Test tenant" });
    let key = tenant.api_key.reveal();
    assert_eq!(refusal(&world.post(&path, &key, &name).await).0, 403);
    let other = json!({ "confirm": "Other" });
    assert_eq!(refusal(&world.post(&path, OPERATOR, &other).await).0, 422);
    assert_eq!(
        world.db.psql("SELECT count(*) FROM tenants WHERE erase_asked_at IS NULL").trim(),
        "1"
    );
    let export = format!("/v1/tenants/{}/export", tenant.id);
    let text = world.stream("GET", &export, &key, "").await.all().await;
    assert!(text.contains("canary") && text.contains("\"complete\":true"), "{text}");
    let erased = world.post(&path, OPERATOR, &name).await;
    assert_eq!(erased.body, json!({ "erased": true, "messages": 1 }), "{}", erased.status);
    let again = world.post(&path, OPERATOR, &name).await;
    assert_eq!(again.body, json!({ "erased": true, "messages": 0 }), "{}", again.status);
    let text = world.stream("GET", &export, OPERATOR, "").await.all().await;
    assert!(!text.contains("canary") && !text.contains("Test tenant"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_person_on_two_channels_becomes_one_contact_and_two_again() {
    let world = World::start().await;
    let (tenant, rival) = (world.tenant(1_000_000).await, world.tenant(1_000_000).await);
    say(&world, &tenant.public_key, &visitor(), "on the web").await;
    say(&world, &tenant.public_key, &visitor(), "on the telephone").await;
    let contacts = format!("/v1/tenants/{}/contacts", tenant.id);
    let key = tenant.api_key.reveal();
    let listed = world.get(&contacts, &key).await.body;
    let id = |at: usize| listed["data"][at]["id"].as_str().unwrap().to_owned();
    let (one, other) = (id(0), id(1));
    let merges = format!("{contacts}/{one}/merges");
    let identities = async |contact: &str| {
        let body = world.get(&format!("{contacts}/{contact}"), &key).await.body;
        body["identities"].as_array().unwrap().len()
    };

    let wanted = json!({ "from": other, "consent": "said so on the telephone" });
    for (path, key) in [
        (merges.clone(), rival.api_key.reveal()),
        (format!("/v1/tenants/{}/contacts/{one}/merges", rival.id), rival.api_key.reveal()),
    ] {
        assert_eq!(refusal(&world.post(&path, &key, &wanted).await).0, 404, "{path}");
    }
    let unknown = json!({ "from": format!("cnt_{:032}", 1), "consent": "c" });
    assert_eq!(refusal(&world.post(&merges, &key, &unknown).await).0, 404);
    let silent = json!({ "from": other, "consent": " " });
    assert_eq!(refusal(&world.post(&merges, &key, &silent).await).0, 422);
    let itself = json!({ "from": one, "consent": "c" });
    assert_eq!(refusal(&world.post(&merges, &key, &itself).await).0, 409);

    let made = world.post(&merges, &key, &wanted).await;
    assert_eq!((made.status, &made.body["evidence"]), (201, &json!("member")), "{}", made.body);
    assert_eq!((identities(&one).await, identities(&other).await), (2, 0));
    let gone = world.get(&format!("{contacts}/{other}"), &key).await;
    assert_eq!(gone.body["merged_into"], json!(one));
    assert_eq!(refusal(&world.post(&merges, &key, &wanted).await).0, 409);

    let merge = made.body["id"].as_str().unwrap();
    let undo = format!("{merges}/{merge}/undo");
    let undone = world.send("POST", &undo, &bearer(&key), "").await;
    assert!(undone.status == 200 && undone.body["undone_at"].is_string(), "{}", undone.body);
    assert_eq!((identities(&one).await, identities(&other).await), (1, 1));
    assert_eq!(refusal(&world.send("POST", &undo, &bearer(&key), "").await).0, 409);
    let all = world.get(&merges, &key).await;
    assert_eq!(all.body["data"].as_array().map(Vec::len), Some(1));

    let identity = format!("{contacts}/{one}/channels/{}", tenant.channel_id);
    let json_headers = format!("{}content-type: application/json\r\n", bearer(&key));
    let stopped = world.send("PATCH", &identity, &json_headers, r#"{"subscribed":false}"#).await;
    assert_eq!(stopped.status, 204, "{}", stopped.body);
    let contact = world.get(&format!("{contacts}/{one}"), &key).await.body;
    assert!(contact["identities"][0]["unsubscribed_at"].is_string(), "{contact}");
}

#[tokio::test(flavor = "multi_thread")]
async fn contacts_are_found_by_name_or_id_and_only_within_the_tenant() {
    let world = World::start().await;
    let (tenant, rival) = (world.tenant(1_000_000).await, world.tenant(1_000_000).await);
    for (owner, text) in [(&tenant, "one"), (&tenant, "two"), (&rival, "three")] {
        say(&world, &owner.public_key, &visitor(), text).await;
    }
    // As an adapter keeps them; the percent sign is a letter like others.
    world.db.psql("UPDATE identities SET name = 'Ann 100%'");
    let contacts = format!("/v1/tenants/{}/contacts", tenant.id);
    let key = tenant.api_key.reveal();
    let found = async |search: &str| world.get(&format!("{contacts}?search={search}"), &key).await;
    let all = found("").await.body;
    let (two, one) = (&all["data"][0], &all["data"][1]);
    assert_eq!(all["data"].as_array().unwrap().len(), 2, "{all}");
    assert_eq!(
        (&one["name"], &one["channels"]),
        (&json!("Ann 100%"), &json!([tenant.channel_id.to_string()]))
    );
    let id = one["id"].as_str().unwrap();
    let contact = world.get(&format!("{contacts}/{id}"), &key).await.body;
    assert_eq!(contact["name"], "Ann 100%");
    let external = contact["identities"][0]["external_id"].as_str().unwrap().to_owned();
    for (search, expected) in [
        ("aNN", vec![two, one]),
        ("00%25", vec![two, one]),
        ("n%25n", vec![]),
        ("an_", vec![]),
        (id, vec![one]),
        (&external[4..20], vec![one]),
        ("%27%3B--", vec![]),
    ] {
        assert_eq!(found(search).await.body["data"], json!(expected), "{search}");
    }
    assert_eq!(refusal(&found(&"x".repeat(201)).await).0, 400);
    assert_eq!(refusal(&found("a%00b").await).0, 400);

    let conversations = format!("/v1/tenants/{}/conversations", tenant.id);
    let theirs = world.get(&format!("{conversations}?contact={id}"), &key).await.body;
    let ids: Vec<_> =
        theirs["data"].as_array().unwrap().iter().map(|one| &one["contact_id"]).collect();
    assert_eq!(ids, [id], "{theirs}");
    let nobody = format!("{conversations}?contact=cnt_{:032}", 1);
    assert_eq!(world.get(&nobody, &key).await.body["data"], json!([]));
    assert_eq!(refusal(&world.get(&format!("{conversations}?contact=ann"), &key).await).0, 400);

    let channel = format!("/v1/tenants/{}/channels/{}", tenant.id, tenant.channel_id);
    let heard = world.get(&channel, &key).await.body;
    assert!(heard["last_message_at"].is_string() && heard["partner"].is_null(), "{heard}");
}

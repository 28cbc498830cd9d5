//! Every operation of the API, asked by whoever must not have it: another tenant's key and member, a
//! lower role, a visitor, a key that was revoked, and nobody. Every text that the tenant has is a
//! canary, and is looked for in answers, log lines, traces and Redis.
#![expect(clippy::print_stderr, reason = "a check says what it did")]

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use reqwest::{Client, Method, StatusCode, header};
use serde_json::{Value, json};

use crate::{
    collector::Collector,
    platform::{Platform, SLOW, Wanted},
    secrets::redis_contents,
    visitor::Visitor,
};

const CANARY: &str = "canary-";
const PASSWORD: &str = "correct horse battery";
/// What the owner of a channel or of a sign-in page shows to everybody who has its address.
const PUBLIC: &[&str] = &[
    "assistants-greeting",
    "assistants-name",
    "channels-locale",
    "channels-name",
    "identity_providers-name",
];
/// Columns that decide how the platform works rather than say something, one that is an address, and
/// the names of models, which are the operator's.
const STRUCTURAL: &[(&str, &str)] = &[
    ("channels", "public_key"),
    ("api_keys", "scopes"),
    ("roles", "scopes"),
    ("routes", "models"),
    ("credits", "currency"),
    ("holds", "currency"),
    ("ledger_entries", "currency"),
    ("usage_events", "currency"),
    ("wallets", "currency"),
];
/// Tables without a text that a tenant or a person chose.
const WITHOUT_TEXT: &[&str] = &[
    "audit_heads",
    "audit_heads_signed",
    "audit_signers",
    "contacts",
    "holds",
    "ledger_entries",
    "recovery_codes",
    "tenant_keys",
    "wallets",
];

/// Where it is written down that somebody signed out.
const RECORDED: &[&str] = &["audit_events", "audit_heads"];
/// Where a visitor, who may write to everybody's channel, leaves something.
const VISITED: &[&str] = &[
    "audit_events",
    "audit_heads",
    "contacts",
    "conversations",
    "holds",
    "identities",
    "inbox",
    "ledger_entries",
    "model_attempts",
    "outbox",
    "usage_events",
    "wallets",
];

struct Operation {
    method: Method,
    path: String,
    access: String,
    scope: String,
    body: Option<Value>,
    takes_key: bool,
}

/// Somebody who asks.
struct Asker {
    name: &'static str,
    headers: Vec<(&'static str, String)>,
}

#[derive(Default)]
struct Tally {
    asked: usize,
    by_status: BTreeMap<(&'static str, u16), usize>,
    leaks: Vec<String>,
    wrong: Vec<String>,
}

struct Probe {
    platform: Platform,
    collector: Collector,
    http: Client,
    /// The ids of the tenant that must stay closed, by the parameter that names them.
    ids: BTreeMap<String, String>,
    viewer_scopes: BTreeSet<String>,
}

impl Probe {
    async fn start() -> Self {
        let collector = Collector::start().await;
        let environment = vec![
            ("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url()),
            ("QUDAO_LOG", "debug,hyper=info,h2=info".to_owned()),
        ];
        let settings = SLOW.to_owned();
        let wanted = Wanted { settings, environment, ..Wanted::default() };
        let platform = Platform::start_with(wanted).await;
        let http = Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none());
        let http = http.timeout(Duration::from_secs(20)).build().unwrap();
        Self { platform, collector, http, ids: BTreeMap::new(), viewer_scopes: BTreeSet::new() }
    }

    async fn operations(&self) -> Vec<Operation> {
        let text = self.http.get(self.platform.url("/openapi.json")).send().await.unwrap();
        let document: Value = serde_json::from_str(&text.text().await.unwrap()).unwrap();
        let mut operations = Vec::new();
        for (path, item) in document["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                let text = |field: &str| operation[field].as_str().unwrap_or_default().to_owned();
                let example = operation.pointer("/requestBody/content/application~1json/example");
                let parameters = operation["parameters"].as_array().cloned().unwrap_or_default();
                operations.push(Operation {
                    method: method.to_uppercase().parse().unwrap(),
                    path: path.clone(),
                    access: text("x-qudao-access"),
                    scope: text("x-qudao-scope"),
                    body: example.cloned(),
                    takes_key: parameters.iter().any(|one| one["name"] == "Idempotency-Key"),
                });
            }
        }
        operations
    }

    /// Gives the tenant something of everything.
    async fn furnish(&mut self) -> Vec<Asker> {
        let tenant = self.platform.text("tenant_id").to_owned();
        let base = format!("/v1/tenants/{tenant}");
        let operator = self.platform.text("operator_key").to_owned();
        let made = async |path: String, body: Value| {
            let (status, body) = self.platform.operator(Method::POST, &path, Some(body)).await;
            assert!(status.is_success(), "{path}: {status} {body}");
            body
        };
        let mut visitor = Visitor::arrive(&self.platform).await;
        visitor.say("m1", "a question").await;
        visitor.reply().await;
        let role = made(format!("{base}/roles"), json!({ "name": "r", "scopes": ["chat"] })).await;
        let doomed = made(format!("{base}/api-keys"), json!({ "name": "k" })).await;
        let once = [("idempotency-key", "k")];
        let (path, body) = (format!("{base}/api-keys"), Some(json!({ "name": "k2" })));
        let (_, kept) = self.platform.send(Method::POST, &path, &operator, &once, body).await;
        let doomed_path = format!("{base}/api-keys/{}", doomed["id"].as_str().unwrap());
        let (status, _) = self.platform.operator(Method::DELETE, &doomed_path, None).await;
        assert_eq!(status, StatusCode::NO_CONTENT);
        let viewer = self.member(&operator, &base, "viewer@example.com", "viewer").await;
        self.member(&operator, &base, "owner@example.com", "owner").await;
        let open = json!({ "email": "open@example.com", "role": "viewer" });
        let invitation = made(format!("{base}/invitations"), open).await;
        let rival = made("/v1/tenants".to_owned(), json!({ "name": "Rival" })).await;
        let rival_base = format!("/v1/tenants/{}", rival["id"].as_str().unwrap());
        let all = json!({ "name": "k", "scopes": ["admin", "chat"] });
        let rival_key = made(format!("{rival_base}/api-keys"), all).await;
        let rival_owner = self.member(&operator, &rival_base, "owner@example.com", "owner").await;

        let sql = |query: &str| self.platform.sql(&query.replace("$tenant", &uuid(&tenant)));
        sql(
            "INSERT INTO identity_providers (tenant_id, identity_provider_id, name, issuer, client_id, \
             client_secret_sealed) VALUES ('$tenant', gen_random_uuid(), 'p', 'https://p.example', 'c', '\\x00')",
        );
        sql("INSERT INTO member_identities (tenant_id, identity_provider_id, subject, member_id) \
             SELECT p.tenant_id, p.identity_provider_id, 's', m.member_id \
             FROM identity_providers p JOIN members m USING (tenant_id) LIMIT 1");
        sql("INSERT INTO recovery_codes (tenant_id, member_id, code_hash) \
             SELECT tenant_id, member_id, decode(repeat('00', 32), 'hex') FROM members LIMIT 1");
        let first = |table: &str, column: &str, prefix: &str| {
            let query = format!(
                "SELECT replace({column}::text, '-', '') FROM {table} WHERE tenant_id = '$tenant' LIMIT 1"
            );
            format!("{prefix}_{}", sql(&query))
        };
        let text = |body: &Value| body["id"].as_str().unwrap().to_owned();
        let chat = self.platform.text("chat_url").rsplit_once('/').unwrap().1.to_owned();
        self.ids = [
            ("tenant_id", tenant.clone()),
            ("role_id", text(&role)),
            ("api_key_id", text(&kept)),
            ("invitation_id", text(&invitation)),
            ("assistant_id", self.platform.text("assistant_id").to_owned()),
            ("route_id", first("routes", "route_id", "rte")),
            ("channel_id", first("channels", "channel_id", "chn")),
            ("conversation_id", first("conversations", "conversation_id", "cnv")),
            ("contact_id", first("contacts", "contact_id", "cnt")),
            ("member_id", first("members", "member_id", "mbr")),
            ("session_id", first("sessions", "session_id", "ses")),
            ("identity_provider_id", first("identity_providers", "identity_provider_id", "idp")),
            ("plugin_id", "echo".to_owned()),
            ("model", "slow".to_owned()),
            ("key", chat),
            ("rival", text(&rival)),
        ]
        .map(|(name, id)| (name.to_owned(), id))
        .into();
        let scopes = viewer.1["scopes"].as_array().unwrap();
        self.viewer_scopes =
            scopes.iter().map(|scope| scope.as_str().unwrap().to_owned()).collect();
        let bearer = |token: &str| vec![("authorization", format!("Bearer {token}"))];
        let stranger = format!("vt_{}", "a".repeat(43));
        vec![
            Asker { name: "rival's key", headers: bearer(rival_key["key"].as_str().unwrap()) },
            Asker { name: "rival's owner", headers: rival_owner.0 },
            Asker { name: "lower role", headers: viewer.0 },
            Asker { name: "revoked key", headers: bearer(doomed["key"].as_str().unwrap()) },
            Asker { name: "nobody", headers: Vec::new() },
            Asker { name: "visitor", headers: bearer(&stranger) },
        ]
    }

    /// Invites somebody and lets them in; returns what their browser sends.
    async fn member(
        &self,
        operator: &str,
        base: &str,
        email: &str,
        role: &str,
    ) -> (Vec<(&'static str, String)>, Value) {
        let body = json!({ "email": email, "role": role });
        let path = format!("{base}/invitations");
        let (status, invited) =
            self.platform.send(Method::POST, &path, operator, &[], Some(body)).await;
        assert_eq!(status, StatusCode::CREATED, "{invited}");
        let body = json!({ "token": invited["token"], "name": "Somebody", "password": PASSWORD });
        let url = self.platform.url("/v1/invitations/accept");
        let response = self.http.post(url).json(&body).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::CREATED);
        let cookie = response.headers()[header::SET_COOKIE].to_str().unwrap().to_owned();
        let cookie = cookie.split(';').next().unwrap().to_owned();
        let face: Value = response.json().await.unwrap();
        let csrf = face["csrf_token"].as_str().unwrap().to_owned();
        let origin = self.platform.url("");
        (vec![("cookie", cookie), ("x-csrf-token", csrf), ("origin", origin)], face)
    }

    /// Makes every text of the tenant a canary that names its column. Returns how many there are.
    fn plant(&self) -> usize {
        let tenant = uuid(&self.ids["tenant_id"]);
        let skipped: Vec<_> =
            STRUCTURAL.iter().map(|(table, column)| format!("'{table}.{column}'")).collect();
        let notices = self.platform.sql_with_notices(&format!(
            "SET session_replication_role = replica;
             DO $$ DECLARE r record; n bigint; BEGIN
               FOR r IN SELECT c.table_name AS t, c.column_name AS c, c.data_type AS d
                        FROM information_schema.columns c
                        JOIN information_schema.columns k ON k.table_schema = c.table_schema
                             AND k.table_name = c.table_name AND k.column_name = 'tenant_id'
                        WHERE c.table_schema = 'public' AND c.data_type IN ('text', 'jsonb', 'ARRAY')
                          AND c.table_name || '.' || c.column_name NOT IN ({skipped})
                        ORDER BY 1, 2 LOOP
                 BEGIN
                   IF r.d = 'text' THEN
                     EXECUTE format('UPDATE %I SET %I = %L || substr(md5(ctid::text), 1, 6) WHERE tenant_id = %L',
                                    r.t, r.c, '{CANARY}' || r.t || '-' || r.c || '-', '{tenant}');
                   ELSIF r.d = 'jsonb' THEN
                     EXECUTE format('UPDATE %I SET %I = %I || jsonb_build_object(''text'', %L) WHERE tenant_id = %L',
                                    r.t, r.c, r.c, '{CANARY}' || r.t || '-' || r.c || '-json', '{tenant}');
                   ELSE
                     EXECUTE format('UPDATE %I SET %I = ARRAY[%L] WHERE tenant_id = %L',
                                    r.t, r.c, '{CANARY}' || r.t || '-' || r.c || '-list', '{tenant}');
                   END IF;
                   GET DIAGNOSTICS n = ROW_COUNT;
                   IF n > 0 THEN RAISE NOTICE 'planted %.%', r.t, r.c;
                   ELSE RAISE NOTICE 'empty %.%', r.t, r.c; END IF;
                 EXCEPTION WHEN check_violation OR unique_violation OR invalid_text_representation OR others THEN
                   RAISE NOTICE 'refused %.%: %', r.t, r.c, SQLERRM;
                 END;
               END LOOP;
             END $$;",
            skipped = skipped.join(", "),
        ));
        let planted: BTreeSet<_> = notices
            .lines()
            .filter_map(|line| {
                line.split_once("planted ").map(|(_, column)| column.trim().to_owned())
            })
            .collect();
        let tables: BTreeSet<_> =
            planted.iter().map(|c| c.split('.').next().unwrap().to_owned()).collect();
        let all = self.platform.sql(
            "SELECT string_agg(table_name, ' ' ORDER BY table_name) FROM information_schema.columns \
             WHERE table_schema = 'public' AND column_name = 'tenant_id'",
        );
        let bare = |table: &&str| !tables.contains(*table) && !WITHOUT_TEXT.contains(table);
        let bare: Vec<_> = all.split(' ').filter(bare).collect();
        assert!(bare.is_empty(), "without a canary nothing is proven of {bare:?}:\n{notices}");
        planted.len()
    }

    /// What the tenant has, so that a change shows.
    fn fingerprint(&self, but: &[&str]) -> String {
        let but: Vec<_> = but.iter().map(|table| format!("'{table}'")).collect();
        let but = but.join(", ");
        let tenant = uuid(&self.ids["tenant_id"]);
        self.platform.sql(&format!(
            "SELECT string_agg(h, ' ') FROM (
               SELECT t || '=' || (xpath('//h/text()', query_to_xml(format(
                 'SELECT md5(string_agg((to_jsonb(x) - ''seen_at'' - ''ended_at'' - ''last_used_at'')::text, '',''
                         ORDER BY x::text)) AS h FROM %I x WHERE tenant_id = %L', t, '{tenant}'),
                 true, true, '')))[1]::text AS h
               FROM (SELECT DISTINCT table_name::text AS t FROM information_schema.columns
                     WHERE table_schema = 'public' AND column_name = 'tenant_id'
                       AND table_name <> ALL (ARRAY[{but}])
                     ORDER BY 1) tables) all_of_them"
        ))
    }

    fn path(&self, operation: &Operation, tenant: &str) -> String {
        let mut path = operation.path.clone();
        for (name, id) in &self.ids {
            let id = if name == "tenant_id" { &self.ids[tenant] } else { id };
            path = path.replace(&format!("{{{name}}}"), id);
        }
        assert!(!path.contains('{'), "{path} names something that the probe has no id for");
        path
    }

    /// An example body, with the tenant's own ids in place of the example's.
    fn body(&self, operation: &Operation) -> Option<Value> {
        let mut body = operation.body.clone()?;
        for (name, id) in &self.ids {
            if body.get(name).is_some() {
                body[name] = id.clone().into();
            }
        }
        Some(body)
    }

    async fn ask(&self, operation: &Operation, path: &str, asker: &Asker) -> (u16, String) {
        let mut request = self.http.request(operation.method.clone(), self.platform.url(path));
        for (name, value) in &asker.headers {
            request = request.header(*name, value);
        }
        if operation.takes_key {
            request = request.header("idempotency-key", format!("{}{path}", asker.name));
        }
        if let Some(body) = self.body(operation) {
            request = request.json(&body);
        }
        let mut response = request.send().await.unwrap();
        let status = response.status().as_u16();
        let mut text = format!("{:?}", response.headers());
        // A stream has no end: what it says at once is what it says of the past.
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(2) {
            let chunk = tokio::time::timeout(Duration::from_millis(700), response.chunk()).await;
            match chunk {
                Ok(Ok(Some(chunk))) => text.push_str(&String::from_utf8_lossy(&chunk)),
                _ => break,
            }
        }
        (status, text)
    }

    async fn round(
        &self,
        operations: &[Operation],
        asker: &Asker,
        tenant: &str,
        tally: &mut Tally,
    ) {
        for operation in operations {
            let path = self.path(operation, tenant);
            let (status, text) = self.ask(operation, &path, asker).await;
            tally.asked += 1;
            *tally.by_status.entry((asker.name, status)).or_default() += 1;
            let shown = format!("{} {path} by {}: {status}", operation.method, asker.name);
            let own_path = tenant == "rival";
            if !self.may_be(operation, asker.name, status, own_path) {
                tally.wrong.push(shown.clone());
            }
            let allowed = asker.name == "lower role"
                && (self.viewer_scopes.contains(&operation.scope) || operation.access == "member");
            for found in text.split(CANARY).skip(1) {
                let column: Vec<_> = found.splitn(3, '-').take(2).collect();
                let public = matches!(operation.access.as_str(), "public" | "visitor")
                    && PUBLIC.contains(&column.join("-").as_str());
                if !allowed && !public {
                    let told: String = found.chars().take(40).collect();
                    tally.leaks.push(format!("{shown} told {CANARY}{told}"));
                }
            }
        }
    }

    /// Whether this answer is one that this asker may get. Doors that are open to everybody may
    /// answer as they like, short of failing.
    fn may_be(&self, operation: &Operation, asker: &str, status: u16, own_path: bool) -> bool {
        let key = asker == "rival's key";
        match (operation.access.as_str(), asker) {
            (_, _) if 500 <= status => false,
            ("public", _) => true,
            ("visitor", "visitor") => true,
            (_, "nobody" | "visitor" | "revoked key") => status == 401,
            ("visitor", _) => status == 401,
            ("tenant", "rival's key" | "rival's owner") => {
                // Within their own tenant they may do as they like, short of reaching ours.
                status == 404
                    || (own_path && !operation.path.contains("_id}/") && status < 500)
                    || (own_path
                        && matches!(
                            status,
                            200 | 201 | 204 | 400 | 402 | 403 | 404 | 409 | 422 | 429
                        ))
            }
            ("tenant", "lower role") => {
                self.viewer_scopes.contains(&operation.scope) || status == 403
            }
            ("operator", _) => status == 403,
            ("key", _) if key => true,
            ("key", _) => status == 401,
            ("member", _) if key => status == 403,
            ("member", _) => true,
            _ => false,
        }
    }

    async fn search_elsewhere(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut look = |place: &str, text: &str| {
            if let Some(at) = text.find(CANARY) {
                let told: String = text[at..].chars().take(60).collect();
                found.push(format!("{place}: {told}"));
            }
        };
        look("log", &self.platform.log());
        look("traces", &String::from_utf8_lossy(&self.collector.raw().await));
        look("metrics", &self.platform.metrics().await);
        let redis = redis_contents(&self.platform);
        assert!(!redis.trim().is_empty(), "Redis holds the rates at least");
        look("keys and values of Redis", &redis);
        found
    }
}

/// An id as the database writes it.
fn uuid(id: &str) -> String {
    let hex = id.rsplit_once('_').map_or(id, |(_, hex)| hex);
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

#[tokio::test]
async fn isolation_no_operation_tells_or_changes_anything_of_another_tenant() {
    let mut probe = Probe::start().await;
    let askers = probe.furnish().await;
    let operations = probe.operations().await;
    // Every list and every thing answers its owner: a probe of what is not there proves nothing.
    let planted = probe.plant();
    assert!(40 <= planted, "{planted} columns are canaries");
    let owner = Asker {
        name: "operator",
        headers: vec![("authorization", format!("Bearer {}", probe.platform.text("operator_key")))],
    };
    let mut seen = BTreeSet::new();
    for operation in operations.iter().filter(|o| o.method == Method::GET && o.access == "tenant") {
        let path = probe.path(operation, "tenant_id");
        let (status, text) = probe.ask(operation, &path, &owner).await;
        assert!(status == 200, "{path}: {status} {text}");
        seen.extend(text.contains(CANARY).then(|| operation.path.clone()));
    }
    assert!(12 <= seen.len(), "the owner's own answers hold canaries: {seen:?}");

    let before = probe.fingerprint(RECORDED);
    let before_visit = probe.fingerprint(VISITED);
    let logged = probe.platform.log().len();
    let mut tally = Tally::default();
    let (signs_out, others): (Vec<_>, Vec<_>) = operations
        .into_iter()
        .partition(|operation| operation.method == Method::DELETE && operation.access == "member");
    for asker in &askers {
        if asker.name == "visitor" {
            assert_eq!(probe.fingerprint(RECORDED), before, "something of the tenant was changed");
        }
        probe.round(&others, asker, "tenant_id", &mut tally).await;
        if asker.name.starts_with("rival") {
            // Their own tenant in the path, ours in all other places.
            probe.round(&others, asker, "rival", &mut tally).await;
        }
        probe.round(&signs_out, asker, "tenant_id", &mut tally).await;
    }
    let elsewhere = probe.search_elsewhere().await;
    eprintln!(
        "{} operations x {} askers, {} requests; {planted} columns of canaries; {} leaks; \
         {} wrong answers; {} bytes of log searched",
        others.len() + signs_out.len(),
        askers.len(),
        tally.asked,
        tally.leaks.len() + elsewhere.len(),
        tally.wrong.len(),
        probe.platform.log().len() - logged,
    );
    for ((name, status), count) in &tally.by_status {
        eprintln!("  {name:<14} {status} x {count}");
    }
    assert_eq!(tally.leaks, Vec::<String>::new());
    assert_eq!(tally.wrong, Vec::<String>::new());
    assert_eq!(elsewhere, Vec::<String>::new());
    let after_visit = probe.fingerprint(VISITED);
    assert_eq!(after_visit, before_visit, "a visitor changed more than their own conversation");
    how_long_a_stranger_waits(&probe, &askers[0]).await;
}

/// Another tenant's id is answered like one that nobody has, in the same words. The times are shown.
async fn how_long_a_stranger_waits(probe: &Probe, rival: &Asker) {
    let unknown = "ten_00000000000070008000000000000000";
    let mut times = [Vec::new(), Vec::new()];
    let mut words = [String::new(), String::new()];
    for _ in 0..200 {
        let tenants = [probe.ids["tenant_id"].as_str(), unknown];
        for ((times, words), tenant) in times.iter_mut().zip(&mut words).zip(tenants) {
            let url = probe.platform.url(&format!("/v1/tenants/{tenant}/assistants"));
            let mut request = probe.http.get(url);
            for (name, value) in &rival.headers {
                request = request.header(*name, value);
            }
            let begun = Instant::now();
            let response = request.send().await.unwrap();
            assert_eq!(response.status(), StatusCode::NOT_FOUND);
            let mut body: Value = response.json().await.unwrap();
            times.push(begun.elapsed());
            body["request_id"] = Value::Null;
            *words = body.to_string();
        }
    }
    assert_eq!(words[0], words[1]);
    let [theirs, nobodys] = times.map(|mut times| {
        times.sort();
        times[100]
    });
    eprintln!("median time to refuse another tenant's id {theirs:?}, an unknown one {nobodys:?}");
}

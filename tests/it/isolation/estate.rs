//! What the tenant has that must stay closed: something of everything, every text of it a canary.

use std::collections::BTreeSet;

use reqwest::{Method, StatusCode, header};
use serde_json::{Value, json};

use super::{Asker, CANARY, Probe};
use crate::visitor::Visitor;

const PASSWORD: &str = "correct horse battery";
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
/// A site that the tenant lists.
const SHOP: &str = "https://shop.example";
/// Tables without a text that a tenant or a person chose.
const WITHOUT_TEXT: &[&str] = &[
    "audit_heads",
    "audit_heads_signed",
    "credit_reversals",
    "audit_signers",
    "contact_claims",
    "contacts",
    "holds",
    "ledger_entries",
    "partner_keys",
    "ratings",
    "recovery_codes",
    "tenant_keys",
    "wallets",
];

impl Probe {
    /// Gives the tenant something of everything.
    pub(super) async fn furnish(&mut self) -> Vec<Asker> {
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
        sql("INSERT INTO credit_reversals (tenant_id, credit_txn, txn_id, taken) \
             SELECT tenant_id, txn_id, gen_random_uuid(), 0 FROM credits \
             WHERE tenant_id = '$tenant' LIMIT 1");
        sql("INSERT INTO channel_events (tenant_id, channel_id, event_id, kind, thread, body) \
             SELECT tenant_id, channel_id, 'e', 'edited', peer, '{}' FROM conversations \
             WHERE tenant_id = '$tenant' LIMIT 1");
        sql(
            "INSERT INTO delivery_pieces (tenant_id, outbox_id, piece, channel_id, conversation_id, \
             external_id) SELECT o.tenant_id, o.outbox_id, 0, c.channel_id, c.conversation_id, 'x' \
             FROM outbox o JOIN conversations c USING (tenant_id, conversation_id) \
             WHERE o.tenant_id = '$tenant' LIMIT 1",
        );
        sql("INSERT INTO channel_previews (tenant_id, turn_id, conversation_id, external_id) \
             SELECT tenant_id, gen_random_uuid(), conversation_id, 'x' FROM conversations \
             WHERE tenant_id = '$tenant' LIMIT 1");
        sql("INSERT INTO attributions (tenant_id, contact_id, channel_id, body) \
             SELECT tenant_id, contact_id, channel_id, '{\"ref\": \"r\"}' FROM conversations \
             WHERE tenant_id = '$tenant' LIMIT 1");
        sql("INSERT INTO contacts (tenant_id, contact_id) VALUES ('$tenant', gen_random_uuid())");
        sql("INSERT INTO ratings (tenant_id, conversation_id, day, channel_id, score) \
             SELECT tenant_id, conversation_id, '2026-11-28', channel_id, 5 FROM conversations \
             WHERE tenant_id = '$tenant' LIMIT 1");
        sql("INSERT INTO partner_threads (tenant_id, channel_id, thread) \
             SELECT tenant_id, channel_id, peer FROM conversations WHERE tenant_id = '$tenant' LIMIT 1 \
             ON CONFLICT DO NOTHING");
        sql(
            "INSERT INTO partner_events (tenant_id, channel_id, cursor, event_id, kind, body, state) \
             SELECT tenant_id, channel_id, 1, 'evt_00000001', 'ping', '{}', 'done' FROM conversations \
             WHERE tenant_id = '$tenant' LIMIT 1",
        );
        sql("INSERT INTO contact_claims (tenant_id, kind, value_hash, contact_id) \
             SELECT tenant_id, 'customer', decode(repeat('00', 32), 'hex'), contact_id \
             FROM conversations WHERE tenant_id = '$tenant' LIMIT 1");
        sql("INSERT INTO claim_codes (tenant_id, claim_id, channel_id, thread, kind, value_hash, \
             code_hash, good_until) \
             SELECT tenant_id, gen_random_uuid(), channel_id, peer, 'email', \
             decode(repeat('00', 32), 'hex'), decode(repeat('00', 32), 'hex'), now() \
             FROM conversations WHERE tenant_id = '$tenant' LIMIT 1");
        sql(
            "INSERT INTO mails (tenant_id, mail_id, kind, contact_id, state, error, good_until, ended_at) \
             SELECT tenant_id, gen_random_uuid(), 'code', contact_id, 'dead', 'e', now(), now() \
             FROM conversations WHERE tenant_id = '$tenant' LIMIT 1",
        );
        sql(
            "INSERT INTO contact_merges (tenant_id, merge_id, into_contact, from_contact, evidence, \
             made_by, consent, conversations, identities) \
             SELECT a.tenant_id, gen_random_uuid(), a.contact_id, b.contact_id, 'member', 'm', 'c', \
             '{}', '[]' FROM contacts a JOIN contacts b USING (tenant_id) \
             WHERE a.contact_id < b.contact_id AND a.tenant_id = '$tenant' LIMIT 1",
        );
        sql("INSERT INTO channel_polls (tenant_id, channel_id, cursor, owner, lease_until) \
             SELECT tenant_id, channel_id, '{}', gen_random_uuid(), 'infinity' FROM channels \
             WHERE tenant_id = '$tenant' LIMIT 1");
        sql(
            "INSERT INTO media (tenant_id, media_id, channel_id, mime, name, size, sha256, bytes) \
             SELECT tenant_id, gen_random_uuid(), channel_id, 'text/plain', 'n', 1, \
             decode(repeat('00', 32), 'hex'), 'x' FROM channels WHERE tenant_id = '$tenant' LIMIT 1",
        );
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
            ("decision_id", first("route_decisions", "decision_id", "dec")),
            ("channel_id", first("channels", "channel_id", "chn")),
            ("conversation_id", first("conversations", "conversation_id", "cnv")),
            ("contact_id", first("contacts", "contact_id", "cnt")),
            ("merge_id", first("contact_merges", "merge_id", "mrg")),
            ("claim_id", first("claim_codes", "claim_id", "clm")),
            ("upload_id", first("media", "media_id", "upl")),
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
        let widget = self.widget(&operator, &base).await;
        let partner = self.partner_channel(&operator, &base).await;
        self.ids.insert("partner_channel_id".to_owned(), partner);
        vec![
            Asker { name: "rival's key", headers: bearer(rival_key["key"].as_str().unwrap()) },
            Asker { name: "rival's owner", headers: rival_owner.0 },
            Asker { name: "lower role", headers: viewer.0 },
            Asker { name: "revoked key", headers: bearer(doomed["key"].as_str().unwrap()) },
            Asker { name: "nobody", headers: Vec::new() },
            Asker { name: "visitor", headers: bearer(&stranger) },
            Asker {
                name: "widget token",
                headers: [bearer(&widget), vec![("origin", SHOP.to_owned())]].concat(),
            },
        ]
    }

    /// A channel that a partner brings.
    async fn partner_channel(&self, operator: &str, base: &str) -> String {
        let new = json!({
            "name": "Partner", "kind": "partner", "assistant_id": self.ids["assistant_id"],
        });
        let path = format!("{base}/channels");
        let (status, made) =
            self.platform.send(Method::POST, &path, operator, &[], Some(new)).await;
        assert_eq!(status, StatusCode::CREATED, "{made}");
        made["id"].as_str().unwrap().to_owned()
    }

    /// The token of somebody who came to the tenant's own site.
    async fn widget(&self, operator: &str, base: &str) -> String {
        let key = self.ids["key"].clone();
        let found = self.platform.sql(&format!(
            "SELECT replace(channel_id::text, '-', '') FROM channels WHERE public_key = '{key}'"
        ));
        let body = json!({ "settings": { "origins": [SHOP] } });
        let path = format!("{base}/channels/chn_{found}");
        let (status, changed) =
            self.platform.send(Method::PATCH, &path, operator, &[], Some(body)).await;
        assert_eq!(status, StatusCode::OK, "{changed}");
        let url = self.platform.url(&format!("/v1/widget/{key}/token"));
        let asked = self.http.post(url).header("origin", SHOP).json(&json!({}));
        let answer: Value = asked.send().await.unwrap().json().await.unwrap();
        answer["token"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
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
    pub(super) fn plant(&self) -> usize {
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
    pub(super) fn fingerprint(&self, but: &[&str]) -> String {
        let but: Vec<_> = but.iter().map(|table| format!("'{table}'")).collect();
        let but = but.join(", ");
        let tenant = uuid(&self.ids["tenant_id"]);
        self.platform.sql(&format!(
            "SELECT string_agg(h, ' ') FROM (
               SELECT t || '=' || (xpath('//h/text()', query_to_xml(format(
                 'SELECT md5(string_agg((to_jsonb(x) - ''seen_at'' - ''ended_at'' - ''lease_until'' - ''last_used_at'')::text, '',''
                         ORDER BY x::text)) AS h FROM %I x WHERE tenant_id = %L', t, '{tenant}'),
                 true, true, '')))[1]::text AS h
               FROM (SELECT DISTINCT table_name::text AS t FROM information_schema.columns
                     WHERE table_schema = 'public' AND column_name = 'tenant_id'
                       AND table_name <> ALL (ARRAY[{but}])
                     ORDER BY 1) tables) all_of_them"
        ))
    }
}

/// An id as the database writes it.
fn uuid(id: &str) -> String {
    let hex = id.rsplit_once('_').map_or(id, |(_, hex)| hex);
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

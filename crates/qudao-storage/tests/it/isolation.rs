//! Nobody sees or changes the rows of another tenant. The probes are made from the catalogue, so
//! that a new table is probed without a change here.

use std::time::Duration;

use qudao_domain::{
    BlockId, IdentityProviderId, InvitationId, Micros, SessionId, TenantId,
    access::Scopes,
    key::SecretHash,
    text::{IdempotencyKey, Name},
};
use qudao_storage::{
    AddKey, AuditSigner, ChannelChange, KeptReply, MemberRole, NewIdentityProvider, NewInvitation,
    NewMember, NewSession, Once, SignIn, SignedHead, StorageError, Tx, WrappedKey,
};
use sqlx::{
    AssertSqlSafe, Connection as _, Executor as _, PgConnection, Row as _, error::DatabaseError,
};

use crate::world::{LEASE, World};

/// What the application reaches through functions alone.
const CLOSED: [&str; 2] = ["audit_heads", "audit_heads_signed"];

const MASTER: &str = "0123456789abcdef";

/// A row in every table of a tenant, for two tenants.
async fn two_full_tenants() -> (World, TenantId) {
    let mut world = World::new().await;
    let rival = world.other_tenant().await;
    fill(&world).await;
    let first = std::mem::replace(&mut world.tenant, rival);
    fill(&world).await;
    let rival = std::mem::replace(&mut world.tenant, first);
    (world, rival.id)
}

/// What channels of other platforms leave, for every tenant that has a conversation.
const CHANNELS: &str = "\
    INSERT INTO channel_events (tenant_id, channel_id, event_id, kind, thread, body) \
        SELECT tenant_id, channel_id, 'e', 'edited', peer, '{}' FROM conversations \
        ON CONFLICT DO NOTHING; \
    INSERT INTO delivery_pieces (tenant_id, outbox_id, piece, channel_id, conversation_id) \
        SELECT o.tenant_id, o.outbox_id, 0, c.channel_id, c.conversation_id \
        FROM outbox o JOIN conversations c USING (tenant_id, conversation_id) \
        ON CONFLICT DO NOTHING; \
    INSERT INTO channel_previews (tenant_id, turn_id, conversation_id, external_id) \
        SELECT tenant_id, gen_random_uuid(), conversation_id, 'x' FROM conversations; \
    INSERT INTO attributions (tenant_id, contact_id, channel_id, body) \
        SELECT tenant_id, contact_id, channel_id, '{}' FROM conversations ON CONFLICT DO NOTHING; \
    INSERT INTO contact_claims (tenant_id, kind, value_hash, contact_id) \
        SELECT tenant_id, 'customer', decode(repeat('00', 32), 'hex'), contact_id \
        FROM conversations ON CONFLICT DO NOTHING; \
    INSERT INTO claim_codes (tenant_id, claim_id, channel_id, thread, kind, value_hash, code_hash, \
            good_until) \
        SELECT tenant_id, gen_random_uuid(), channel_id, peer, 'email', \
            decode(repeat('00', 32), 'hex'), decode(repeat('00', 32), 'hex'), now() \
        FROM conversations; \
    INSERT INTO mails (tenant_id, mail_id, kind, contact_id, sealed, good_until) \
        SELECT tenant_id, gen_random_uuid(), 'code', contact_id, '\\x00', now() FROM conversations; \
    INSERT INTO contacts (tenant_id, contact_id) \
        SELECT tenant_id, gen_random_uuid() FROM conversations; \
    INSERT INTO contact_merges (tenant_id, merge_id, into_contact, from_contact, evidence, made_by, \
            consent, conversations, identities) \
        SELECT c.tenant_id, gen_random_uuid(), c.contact_id, d.contact_id, 'member', 'm', 'c', \
            '{}', '[]' \
        FROM conversations c JOIN contacts d USING (tenant_id) WHERE d.contact_id <> c.contact_id; \
    INSERT INTO credit_reversals (tenant_id, credit_txn, txn_id, taken) \
        SELECT tenant_id, txn_id, gen_random_uuid(), 0 FROM credits ON CONFLICT DO NOTHING; \
    INSERT INTO channel_polls (tenant_id, channel_id) \
        SELECT tenant_id, channel_id FROM conversations ON CONFLICT DO NOTHING; \
    INSERT INTO media (tenant_id, media_id, channel_id, mime, size, sha256) \
        SELECT tenant_id, gen_random_uuid(), channel_id, 'text/plain', 1, \
            decode(repeat('00', 32), 'hex') FROM conversations; \
    INSERT INTO ratings (tenant_id, conversation_id, day, channel_id, score) \
        SELECT tenant_id, conversation_id, '2026-11-28', channel_id, 5 FROM conversations \
        ON CONFLICT DO NOTHING; \
    INSERT INTO partner_channels (tenant_id, channel_id) \
        SELECT tenant_id, channel_id FROM conversations ON CONFLICT DO NOTHING; \
    INSERT INTO partner_keys (tenant_id, channel_id, secret_hash) \
        SELECT tenant_id, channel_id, decode(repeat('00', 32), 'hex') FROM conversations \
        ON CONFLICT DO NOTHING; \
    INSERT INTO partner_threads (tenant_id, channel_id, thread) \
        SELECT tenant_id, channel_id, peer FROM conversations ON CONFLICT DO NOTHING; \
    INSERT INTO partner_events (tenant_id, channel_id, cursor, event_id, kind, body) \
        SELECT tenant_id, channel_id, 1, 'evt_00000001', 'ping', '{}' FROM conversations \
        ON CONFLICT DO NOTHING";

async fn fill(world: &World) {
    let mut platform = world.store.begin_platform().await.unwrap();
    platform.add_master_key(MASTER, &[0]).await.unwrap();
    platform.commit().await.unwrap();
    world.chat("ann", "m1").await;
    let mut tx = world.store.begin(world.tenant.id).await.unwrap();
    let amount = Micros::new(10);
    tx.reserve_block(BlockId::new(), world.node, amount, Duration::from_secs(30)).await.unwrap();
    let once = Once {
        scope: world.tenant.id,
        endpoint: "POST /things".to_owned(),
        key: IdempotencyKey::parse("k").unwrap(),
        fingerprint: [0; 32],
    };
    let reply = KeptReply { status: 201, location: None, body: b"{}".to_vec() };
    tx.keep_once(&once, &reply).await.unwrap();
    let key = WrappedKey { version: 1, wrapped: vec![0], master_key_id: MASTER.to_owned() };
    assert_eq!(tx.add_data_key(&key).await.unwrap(), AddKey::Added);
    tx.record_audit(&crate::audit::act("channel.update", 1)).await.unwrap();
    let id = BlockId::new().as_uuid();
    let signer = AuditSigner { id, public_key: vec![0; 32], sealed_seed: vec![0] };
    tx.add_audit_signer(&signer).await.unwrap();
    employ(&mut tx).await;
    tx.commit().await.unwrap();
    world.db.psql(CHANNELS);
    let mut platform = world.store.begin_platform().await.unwrap();
    for head in platform.unsigned_heads().await.unwrap() {
        let signed_at = Default::default();
        let signed = SignedHead { no: 0, head, signed_at, signer_id: id, signature: vec![0] };
        platform.add_signed_head(&signed).await.unwrap();
    }
    platform.commit().await.unwrap();
}

/// Somebody who works for the tenant, with every way in.
async fn employ(tx: &mut Tx) {
    let (name, hash) = (Name::parse("Ann").unwrap(), SecretHash::of("a secret"));
    let role = tx.create_role(&name, Scopes::ADMIN).await.unwrap();
    let role = MemberRole::Custom(role.id);
    let new = NewMember {
        email: "ann@example.com",
        name: &name,
        role,
        password_hash: Some("$argon2id$"),
    };
    let member = tx.create_member(&new).await.unwrap();
    tx.offer_totp(member.id, b"sealed").await.unwrap();
    tx.confirm_totp(member.id, &[hash]).await.unwrap();
    let new = NewInvitation {
        id: InvitationId::new(),
        email: "bob@example.com",
        role,
        secret_hash: &hash,
        made_by: "operator",
        good_for: Duration::from_secs(60),
    };
    tx.create_invitation(&new).await.unwrap();
    let id = IdentityProviderId::new();
    let new = NewIdentityProvider {
        id,
        name: &name,
        issuer: "https://login.example.com",
        client_id: "qudao",
        client_secret_sealed: b"sealed",
        join_role: None,
        join_domains: &[],
    };
    tx.create_identity_provider(&new).await.unwrap();
    tx.link_identity(id, "subject", member.id).await.unwrap();
    let new = NewSession {
        id: SessionId::new(),
        member_id: member.id,
        secret_hash: &hash,
        method: SignIn::Password,
        address: "203.0.113.1",
        user_agent: "a browser",
        good_for: Duration::from_secs(60),
    };
    tx.create_session(&new).await.unwrap();
}

async fn tenant_tables(connection: &mut PgConnection) -> Vec<String> {
    sqlx::query_scalar(
        "SELECT c.relname::text FROM pg_class c \
         JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'tenant_id' \
         WHERE c.relkind IN ('r', 'p') AND c.relnamespace = 'public'::regnamespace \
         ORDER BY c.relname",
    )
    .fetch_all(connection)
    .await
    .unwrap()
}

/// What the application can do as this tenant (or as none) with rows of `victim`.
async fn probe(connection: &mut PgConnection, tenant: Option<TenantId>, sql: &str) -> Outcome {
    let setting = tenant.map_or(String::new(), |id| id.as_uuid().to_string());
    let opening = format!("BEGIN; SET LOCAL ROLE qudao_app; SET LOCAL app.tenant_id = '{setting}'");
    connection.execute(AssertSqlSafe(opening)).await.unwrap();
    let outcome = match connection.execute(AssertSqlSafe(sql.to_owned())).await {
        Ok(done) if done.rows_affected() == 0 => Outcome::Nothing,
        Ok(_) => Outcome::Reached,
        Err(error) => match error.as_database_error().and_then(DatabaseError::code).as_deref() {
            Some("42501") => Outcome::Refused,
            other => panic!("{sql}: {other:?} {error}"),
        },
    };
    connection.execute("ROLLBACK").await.unwrap();
    outcome
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Reached,
    Nothing,
    Refused,
}

#[tokio::test]
async fn no_row_of_another_tenant_can_be_read_changed_removed_or_planted() {
    let (world, victim) = two_full_tenants().await;
    let me = world.tenant.id;
    let mut connection = PgConnection::connect(world.db.url()).await.unwrap();
    let tables = tenant_tables(&mut connection).await;
    assert!(29 <= tables.len(), "{tables:?}");
    let theirs = victim.as_uuid();
    let mut probes = 0;
    for table in &tables {
        let count = format!("SELECT count(*) FROM {table} WHERE tenant_id = '{theirs}'");
        let rows: i64 =
            sqlx::query(AssertSqlSafe(count)).fetch_one(&mut connection).await.unwrap().get(0);
        assert!(0 < rows, "the probe of {table} proves nothing without a row to reach");

        // The probe itself works: the owner of the rows reaches them.
        let read = format!("SELECT 1 FROM {table} WHERE tenant_id = '{theirs}'");
        let own =
            if CLOSED.contains(&table.as_str()) { Outcome::Refused } else { Outcome::Reached };
        assert_eq!(probe(&mut connection, Some(victim), &read).await, own, "{table}");

        let change =
            format!("UPDATE {table} SET tenant_id = tenant_id WHERE tenant_id = '{theirs}'");
        let steal = format!("UPDATE {table} SET tenant_id = '{}'", me.as_uuid());
        let remove = format!("DELETE FROM {table} WHERE tenant_id = '{theirs}'");
        let empty = format!("TRUNCATE {table} CASCADE");
        let columns = insertable(&mut connection, table).await;
        let plant = format!(
            "INSERT INTO {table} ({columns}) OVERRIDING SYSTEM VALUE \
             SELECT {columns} FROM json_populate_recordset(NULL::{table}, '{}')",
            rows_as_json(&mut connection, table, victim).await.replace('\'', "''"),
        );
        for tenant in [Some(me), None] {
            for sql in [&read, &change, &remove, &empty] {
                let outcome = probe(&mut connection, tenant, sql).await;
                probes += 1;
                assert_ne!(outcome, Outcome::Reached, "{tenant:?}: {sql}");
            }
            // Row-level security refuses before any constraint is looked at.
            assert_eq!(probe(&mut connection, tenant, &plant).await, Outcome::Refused, "{plant}");
            probes += 1;
        }
        // As nobody there is nothing to steal, and as myself only what is mine already.
        assert_ne!(probe(&mut connection, None, &steal).await, Outcome::Reached, "{steal}");
        probes += 1;
    }
    eprintln!("{probes} probes over {} tables, none of them empty; 0 reached", tables.len());
}

async fn insertable(connection: &mut PgConnection, table: &str) -> String {
    sqlx::query_scalar(
        "SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) FROM pg_attribute \
         WHERE attrelid = $1::regclass AND attnum > 0 AND NOT attisdropped",
    )
    .bind(table)
    .fetch_one(connection)
    .await
    .unwrap()
}

async fn rows_as_json(connection: &mut PgConnection, table: &str, tenant: TenantId) -> String {
    let sql = format!("SELECT json_agg(t)::text FROM {table} t WHERE tenant_id = $1");
    sqlx::query_scalar(AssertSqlSafe(sql))
        .bind(tenant.as_uuid())
        .fetch_one(connection)
        .await
        .unwrap()
}

#[tokio::test]
async fn the_claim_role_sees_no_table_and_the_app_role_claims_nothing() {
    let world = World::new().await;
    let mut connection = PgConnection::connect(world.db.url()).await.unwrap();
    for table in tenant_tables(&mut connection).await {
        for role in ["qudao_claim", "qudao_admin"] {
            let sql = format!("BEGIN; SET LOCAL ROLE {role}; SELECT 1 FROM {table}");
            let refused = connection.execute(AssertSqlSafe(sql)).await.is_err();
            assert!(refused, "{role} reads {table}");
            connection.execute("ROLLBACK").await.unwrap();
        }
    }
    for call in [
        "app.claim_conversations(gen_random_uuid(), 1, 1)",
        "app.claim_turns(gen_random_uuid(), 1, 1, NULL, '{}', '{}', 1)",
        "app.backlog(1)",
        "app.claim_outbox(gen_random_uuid(), 1, 1)",
        "app.sweep(1, 1)",
        "app.forget_once(1)",
        "app.list_tenants(NULL, 1)",
        "app.count_tenant_keys()",
        "app.unfinished_erasures(1, 1)",
        "app.tenants_with_retention(NULL, 1)",
        "app.page_of_tenants(NULL, 1)",
        "app.unsigned_audit_heads(1)",
        "app.list_signed_heads(0, 1)",
        "app.add_signed_head(gen_random_uuid(), 1, '', 1, gen_random_uuid(), '')",
        "app.list_tenant_keys_of_others('x', 1)",
        "app.find_api_key(gen_random_uuid())",
        "app.find_key_holder(gen_random_uuid())",
    ] {
        let sql = format!("BEGIN; SET LOCAL ROLE qudao_app; SELECT {call}");
        assert!(connection.execute(AssertSqlSafe(sql)).await.is_err(), "{call}");
        connection.execute("ROLLBACK").await.unwrap();
    }
}

#[tokio::test]
async fn another_tenants_ids_are_unknown_ids() {
    let world = World::new().await;
    world.say("ann", "m1").await;
    let claim = world.claim_one().await;
    let rival = world.other_tenant().await;
    let mut tx = world.store.begin(rival.id).await.unwrap();
    assert_eq!(tx.find_conversation(claim.conversation_id).await.unwrap(), None);
    assert_eq!(tx.find_assistant(world.tenant.assistant_id).await.unwrap(), None);
    assert_eq!(tx.find_route(world.tenant.route_id).await.unwrap(), None);
    assert_eq!(tx.find_channel(world.tenant.channel_id).await.unwrap(), None);
    assert!(!tx.revoke_api_key(world.tenant.api_key.id()).await.unwrap());
    let close = ChannelChange { open: Some(false), ..ChannelChange::default() };
    assert!(tx.change_channel(world.tenant.channel_id, 0, &close).await.unwrap().is_none());
    assert!(!tx.heartbeat(claim.conversation_id, claim.epoch, LEASE).await.unwrap());
    let usage = world.usage(qudao_domain::TurnId::new(), world.tenant.channel_id, 0);
    let error = tx.absorb_calls(&[usage]).await.unwrap_err();
    assert!(matches!(error, StorageError::MissingParent { .. }), "{error:?}");
}

//! A person's data comes out whole and goes away whole, and the books do not notice.

use std::{process::Command, sync::Arc, time::Duration};

use qudao_core::{
    TurnOutcome,
    people::{Erased, RetentionCursor},
};
use qudao_domain::{ContactId, TenantId, text::ExternalId};
use qudao_plugin_api::wire::Content;
use qudao_storage::{ExportOf, Fence, Inbound, MessageBody, TimelineCursor};
use qudao_testkit::TestTenant;

use crate::stage::{Script, Stage, done, tenant};

/// Says what it was told last, so that replies hold canaries as well.
fn parrot() -> Arc<Script> {
    Script::new(|request, sink| {
        let last = request.messages.last().and_then(|message| message.content.as_ref());
        sink.token(&last.map(Content::to_text).unwrap_or_default())?;
        Ok(done(1))
    })
}

fn dump(stage: &Stage) -> String {
    let output = Command::new("pg_dump").args(["--data-only", "--dbname", stage.url()]).output();
    let output = output.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn count(stage: &Stage, sql: &str) -> i64 {
    stage.sql(sql).trim().parse().unwrap()
}

async fn say(stage: &Stage, tenant: &TestTenant, peer: &str, number: u32) {
    let inbound = Inbound {
        channel_id: tenant.channel_id,
        external_id: ExternalId::parse(&format!("canary-id-{peer}-{number}")).unwrap(),
        peer: ExternalId::parse(&format!("canary-peer-{peer}")).unwrap(),
        body: MessageBody::text(format!("canary-text-{peer} {number}")),
    };
    stage.core.accept(tenant.id, inbound).await.unwrap();
}

/// Says it, has it answered, and marks the answer as delivered.
async fn chat(stage: &Stage, tenant: &TestTenant, peer: &str, number: u32) {
    say(stage, tenant, peer, number).await;
    assert_eq!(stage.answer().await, TurnOutcome::Answered);
    let node = stage.core.node;
    for claim in stage.store.claim_outbox(node, 10, Duration::from_secs(30)).await.unwrap() {
        let sent = (claim.tenant_id, claim.outbox_id, claim.epoch);
        stage.store.finish_deliveries(&[sent]).await.unwrap();
    }
}

async fn contact_of(stage: &Stage, tenant_id: TenantId, peer: &str) -> ContactId {
    let sql = format!(
        "SELECT contact_id FROM identities WHERE external_id = 'canary-peer-{peer}' \
         AND tenant_id = '{}'",
        tenant_id.as_uuid()
    );
    ContactId::from_uuid(stage.sql(&sql).trim().parse().unwrap())
}

async fn export(stage: &Stage, tenant_id: TenantId, of: ExportOf) -> String {
    let mut export = stage.store.export(tenant_id, of);
    let mut text = String::new();
    while let Some(page) = export.next().await.unwrap() {
        for row in page.rows {
            text += &format!("{} {row}\n", page.table);
        }
    }
    text
}

/// Ann and Bob of one tenant, Carl of another.
async fn three_people(model: &Arc<Script>) -> (Stage, TestTenant) {
    let stage = Stage::new(tenant(), &[("fake", model)]).await;
    let rival = tenant().create(&stage.store).await;
    for number in 1..=2 {
        chat(&stage, &stage.tenant, "ann", number).await;
        chat(&stage, &stage.tenant, "bob", number).await;
        chat(&stage, &rival, "carl", number).await;
    }
    (stage, rival)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_holds_all_of_a_person_and_nothing_of_another() {
    let (stage, _) = three_people(&parrot()).await;
    let ann = contact_of(&stage, stage.tenant.id, "ann").await;
    let text = export(&stage, stage.tenant.id, ExportOf::Contact(ann)).await;
    for canary in ["peer-ann", "id-ann-1", "id-ann-2", "text-ann 1", "text-ann 2"] {
        assert!(text.contains(canary), "{canary} is missing:\n{text}");
    }
    for stranger in ["bob", "carl"] {
        assert!(!text.contains(stranger), "{stranger} is in it:\n{text}");
    }
    let of = |table: &str| text.lines().filter(|line| line.starts_with(table)).count();
    let found = [
        "contacts",
        "identities",
        "conversations",
        "inbox",
        "outbox",
        "usage_events",
        "holds",
        "model_attempts",
    ]
    .map(|table| of(&format!("{table} ")));
    assert_eq!(found, [1, 1, 1, 2, 2, 2, 2, 2]);

    let all = export(&stage, stage.tenant.id, ExportOf::Tenant).await;
    assert!(all.contains("text-ann 1") && all.contains("text-bob 2") && !all.contains("carl"));
    assert!(all.contains("ledger_entries ") && !all.contains("secret_hash"), "{all}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_of_many_rows_comes_in_pages_and_misses_none() {
    let stage = Stage::new(tenant(), &[]).await;
    flood(&stage, 1203).await;
    let ann = contact_of(&stage, stage.tenant.id, "ann").await;
    let text = export(&stage, stage.tenant.id, ExportOf::Contact(ann)).await;
    let mut seqs: Vec<i64> = text
        .lines()
        .filter_map(|line| line.strip_prefix("inbox "))
        .map(|row| serde_json::from_str::<serde_json::Value>(row).unwrap()["seq"].as_i64().unwrap())
        .collect();
    seqs.sort_unstable();
    assert_eq!(seqs, (1..=1203).collect::<Vec<_>>());
}

/// So many messages of Ann, unanswered.
async fn flood(stage: &Stage, messages: u32) {
    say(stage, &stage.tenant, "ann", 1).await;
    stage.sql(&format!(
        "INSERT INTO inbox (tenant_id, channel_id, external_id, conversation_id, seq, body) \
         SELECT tenant_id, channel_id, 'canary-id-ann-' || n, conversation_id, n, \
             jsonb_build_object('text', 'canary-text-ann ' || n) \
         FROM inbox, generate_series(2, {messages}) n; \
         UPDATE conversations SET last_seq = {messages}"
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_erasure_leaves_no_canary_and_the_books_balance() {
    let (stage, rival) = three_people(&parrot()).await;
    let ann = contact_of(&stage, stage.tenant.id, "ann").await;
    let (wallet, ledger) =
        (stage.wallet().await, stage.sql("SELECT * FROM ledger_entries ORDER BY 1, 2, 3"));
    assert!(dump(&stage).contains("text-ann"), "the dump would show it");
    assert_eq!(
        stage.core.erase_contact(stage.tenant.id, ann).await.unwrap(),
        Erased::Done { messages: 4 }
    );
    let after = dump(&stage);
    assert!(!after.contains("-ann"), "{after}");
    for other in ["text-bob 1", "text-bob 2", "peer-bob", "text-carl 1", "peer-carl"] {
        assert!(after.contains(other), "{other} is gone");
    }
    assert_eq!(stage.wallet().await, wallet);
    assert_eq!(stage.sql("SELECT * FROM ledger_entries ORDER BY 1, 2, 3"), ledger);
    stage.assert_sound().await;
    // Again is no error, somebody else's is unknown.
    let again = stage.core.erase_contact(stage.tenant.id, ann).await.unwrap();
    assert_eq!(again, Erased::Done { messages: 0 });
    let carl = contact_of(&stage, rival.id, "carl").await;
    let unknown = stage.core.erase_contact(stage.tenant.id, carl).await.unwrap();
    assert_eq!(unknown, Erased::Unknown);

    // The same person begins anew as somebody else, and what they said is told to no model.
    chat(&stage, &stage.tenant, "ann", 1).await;
    let anew = contact_of(&stage, stage.tenant.id, "ann").await;
    assert_ne!(anew, ann);
    let text = export(&stage, stage.tenant.id, ExportOf::Contact(anew)).await;
    assert!(text.contains("text-ann 1") && !text.contains("text-ann 2"), "{text}");
    stage.assert_sound().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_turn_under_way_is_cancelled_and_costs_nothing() {
    let model = Script::talks_on();
    let stage = Stage::new(tenant(), &[("fake", &model)]).await;
    say(&stage, &stage.tenant, "ann", 1).await;
    let before = stage.wallet().await;
    let claim = stage.claim().await;
    let turn = async { stage.core.run_turn(claim).await };
    let erase = async {
        while model.calls() == 0 || stage.wallet().await.1 == qudao_domain::Micros::ZERO {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let ann = contact_of(&stage, stage.tenant.id, "ann").await;
        stage.core.erase_contact(stage.tenant.id, ann).await.unwrap()
    };
    let erased = tokio::select! {
        erased = erase => erased,
        outcome = turn => panic!("the turn ended before: {outcome:?}"),
    };
    assert_eq!(erased, Erased::Done { messages: 1 });
    // A commit that was on its way is fenced.
    assert_eq!(stage.core.run_turn(claim).await, TurnOutcome::Lost);
    assert_eq!(stage.wallet().await, before, "what was set aside came back");
    let dump = dump(&stage);
    assert!(!dump.contains("-ann"), "{dump}");
    assert_eq!(count(&stage, "SELECT count(*) FROM conversations WHERE ready_at IS NOT NULL"), 0);
    stage.assert_sound().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_erasure_that_broke_off_is_finished_by_another_node() {
    let stage = Stage::new(tenant(), &[]).await;
    flood(&stage, 1203).await;
    let ann = contact_of(&stage, stage.tenant.id, "ann").await;
    // The steps of a node that dies after two of three batches.
    let mut tx = stage.store.begin(stage.tenant.id).await.unwrap();
    assert_eq!(tx.fence_contact(ann).await.unwrap(), Fence::Fenced);
    tx.commit().await.unwrap();
    stage.assert_sound().await;
    for _ in 0..2 {
        let mut tx = stage.store.begin(stage.tenant.id).await.unwrap();
        let conversation = tx.spoken_conversations(ann).await.unwrap()[0];
        assert_eq!(tx.blank_messages(conversation, 0).await.unwrap(), 500);
        tx.commit().await.unwrap();
        stage.assert_sound().await;
    }
    let mut tx = stage.store.begin(stage.tenant.id).await.unwrap();
    assert!(!tx.finish_contact(ann).await.unwrap(), "it is not over");
    tx.commit().await.unwrap();
    assert!(dump(&stage).contains("text-ann 1203"));
    let other = stage.another_node(&[]).await;
    assert_eq!(other.resume_erasures().await.unwrap(), 0, "it may still be at work");
    assert_eq!(other.resume_erasures_after(Duration::ZERO).await.unwrap(), 1);
    assert_eq!(other.resume_erasures_after(Duration::ZERO).await.unwrap(), 0);
    assert!(!dump(&stage).contains("-ann"));
    stage.assert_sound().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn words_are_kept_as_long_as_the_tenant_wants_and_no_longer() {
    let (stage, rival) = three_people(&parrot()).await;
    // Everything is forty days old but the last message of Bob.
    stage.sql(
        "UPDATE conversations SET created_at = created_at - interval '40 days'; \
         UPDATE inbox SET accepted_at = accepted_at - interval '40 days' \
             WHERE body ->> 'text' <> 'canary-text-bob 2'; \
         UPDATE outbox SET created_at = created_at - interval '40 days' \
             WHERE body ->> 'text' NOT LIKE '%bob 2'",
    );
    let mut cursor = RetentionCursor::default();
    assert_eq!(stage.core.keep_no_longer(&mut cursor).await.unwrap(), 0, "nobody asked for it");
    let mut tx = stage.store.begin(stage.tenant.id).await.unwrap();
    tx.set_retention(Some(30)).await.unwrap();
    assert_eq!(tx.tenant().await.unwrap().unwrap().retention_days, Some(30));
    tx.commit().await.unwrap();
    // What is old and not answered is not taken away.
    say(&stage, &stage.tenant, "dora", 1).await;
    stage.sql("UPDATE inbox SET accepted_at = accepted_at - interval '40 days' WHERE body ->> 'text' LIKE '%dora%'; \
               UPDATE conversations SET created_at = now() - interval '40 days'");
    let mut blanked = 0;
    for _ in 0..3 {
        blanked += stage.core.keep_no_longer(&mut cursor).await.unwrap();
    }
    assert_eq!(blanked, 6, "four of Ann's and two of Bob's");
    let after = dump(&stage);
    for gone in ["text-ann", "id-ann", "text-bob 1"] {
        assert!(!after.contains(gone), "{gone} is there:\n{after}");
    }
    for kept in ["peer-ann", "text-bob 2", "text-dora 1", "text-carl 1"] {
        assert!(after.contains(kept), "{kept} is gone");
    }
    stage.assert_sound().await;
    // The conversation goes on, and the model hears nothing of what is gone.
    assert_eq!(stage.answer().await, TurnOutcome::Answered);
    chat(&stage, &stage.tenant, "ann", 3).await;
    stage.assert_sound().await;
    let mut tx = stage.store.begin(stage.tenant.id).await.unwrap();
    let channel = stage.tenant.channel_id;
    let anns = tx.find_conversation_of(channel, "canary-peer-ann").await.unwrap().unwrap();
    let seen = tx.timeline(anns.id, TimelineCursor::default(), 100).await.unwrap();
    let seen: Vec<_> = seen.iter().map(|item| item.text.as_str()).collect();
    assert_eq!(seen, ["canary-text-ann 3"; 2], "nobody sees empty messages");
    drop(tx);
    let mut tx = stage.store.begin(rival.id).await.unwrap();
    assert_eq!(tx.tenant().await.unwrap().unwrap().retention_days, None);
    drop(tx);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_erased_tenant_leaves_numbers_and_no_words() {
    let model = parrot();
    let stage = Stage::new(tenant().prompt("canary-prompt"), &[("fake", &model)]).await;
    let rival = tenant().create(&stage.store).await;
    chat(&stage, &stage.tenant, "ann", 1).await;
    chat(&stage, &rival, "carl", 1).await;
    say(&stage, &stage.tenant, "bob", 1).await;
    let vault = &stage.core.vault;
    let place = qudao_core::Place {
        table: "secrets",
        column: "sealed",
        row: stage.tenant.channel_id.as_uuid(),
    };
    let sealed = vault.seal(stage.tenant.id, place, b"secret").await.unwrap();
    stage.sql(&format!(
        "UPDATE tenants SET name = 'canary-name' WHERE tenant_id = '{0}'; \
         INSERT INTO idempotency_records (tenant_id, endpoint, idempotency_key, fingerprint, status, body) \
         VALUES ('{0}', 'POST /v1/chat/completions', 'k', decode(repeat('00', 32), 'hex'), 200, \
                 convert_to('canary-body', 'UTF8'))",
        stage.tenant.id.as_uuid()
    ));
    let numbers = "SELECT (SELECT count(*) FROM usage_events), (SELECT sum(charge) FROM usage_events), \
                   (SELECT count(*) FROM ledger_entries), (SELECT sum(posted) FROM wallets)";
    let before = stage.sql(numbers);
    let erased = stage.core.erase_tenant(stage.tenant.id).await.unwrap();
    assert_eq!(erased, Erased::Done { messages: 3 });
    let after = dump(&stage);
    let hex: String = "canary-body".bytes().map(|byte| format!("{byte:02x}")).collect();
    for gone in ["-ann", "-bob", "canary-prompt", "canary-name", &hex, &stage.tenant.public_key] {
        assert!(!after.contains(gone), "{gone} is there:\n{after}");
    }
    assert!(after.contains("text-carl 1") && after.contains(&rival.public_key));
    assert_eq!(stage.sql(numbers), before);
    stage.assert_sound().await;
    // Its key opens nothing, and what its data key sealed is gone for good.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert!(
        stage
            .core
            .authenticate(&stage.tenant.api_key, std::net::Ipv4Addr::LOCALHOST.into())
            .await
            .unwrap()
            .is_none()
    );
    let shut = vault.open(stage.tenant.id, place, &sealed).await.unwrap_err();
    assert!(matches!(shut, qudao_core::VaultError::NoSuchKey { version: 1 }), "{shut:?}");
    assert_eq!(count(&stage, "SELECT count(*) FROM tenant_keys"), 0);
    assert!(matches!(
        stage.core.erase_tenant(stage.tenant.id).await,
        Ok(Erased::Done { messages: 0 })
    ));
    assert_eq!(stage.core.erase_tenant(TenantId::new()).await.unwrap(), Erased::Unknown);
    stage.assert_sound().await;
}

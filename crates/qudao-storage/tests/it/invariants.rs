//! Each invariant finds what it is there for: a violation is planted behind the back of every
//! constraint, and exactly the invariants that must see it do.

use std::collections::BTreeSet;

use qudao_domain::{BlockId, Micros};
use qudao_storage::{Scope, UNCHECKED};

use crate::world::{LEASE, World};

/// Two finished turns, a settled API call, everything delivered, nothing open.
async fn finished() -> World {
    let world = World::new().await;
    world.chat("ann", "m1").await;
    world.chat("ann", "m2").await;
    let block = BlockId::new();
    let lines = world.calls(&[100]).await;
    let mut tx = world.store.begin(world.tenant.id).await.unwrap();
    tx.reserve_block(block, world.node, Micros::new(500), LEASE).await.unwrap();
    tx.settle_calls(block, &lines).await.unwrap();
    tx.close_block(block).await.unwrap();
    tx.record_audit(&crate::audit::act("channel.update", 1)).await.unwrap();
    tx.commit().await.unwrap();
    while 0 < world.deliver().await {}
    world
}

#[tokio::test]
async fn a_platform_that_worked_correctly_passes_and_every_check_had_something_to_look_at() {
    let world = finished().await;
    let findings = world.store.check().await.unwrap();
    for finding in &findings {
        assert_eq!(finding.violations, 0, "{finding:?}");
        assert!(0 < finding.examined, "{finding:?}");
    }
    let ids: Vec<_> = findings.iter().map(|finding| finding.id).collect();
    let unchecked: Vec<_> = UNCHECKED.iter().map(|unchecked| unchecked.id).collect();
    let all: BTreeSet<_> = ids.iter().chain(&unchecked).map(|id| (*id).to_owned()).collect();
    assert_eq!(all, (1..=27).map(|n| format!("I{n}")).collect());
    assert_eq!(ids.len() + unchecked.len(), 27, "none is in both lists");
}

#[tokio::test]
async fn work_under_way_is_not_a_violation() {
    let world = finished().await;
    world.say("bob", "m3").await;
    let claim = world.claim_one().await;
    world.hold(&claim, 1000).await;
    let bad = world.violated().await;
    assert!(bad.iter().all(|finding| finding.scope == Scope::AfterDrain), "{bad:#?}");
    assert_eq!(bad.iter().map(|finding| finding.id).collect::<Vec<_>>(), ["I4", "I12"]);
}

/// Breaks something and returns the invariants that noticed.
async fn caught(sql: &str) -> Vec<&'static str> {
    let world = finished().await;
    // The owner may switch triggers and foreign keys off; checks and keys are dropped.
    world.db.psql(
        "DO $$ DECLARE c record; BEGIN \
           FOR c IN SELECT conrelid::regclass AS t, conname FROM pg_constraint \
                    WHERE contype = 'c' AND connamespace = 'public'::regnamespace LOOP \
             EXECUTE format('ALTER TABLE %s DROP CONSTRAINT %I', c.t, c.conname); \
           END LOOP; END $$",
    );
    world.db.psql(&format!("SET session_replication_role = replica; {sql}"));
    let bad = world.violated().await;
    assert!(bad.iter().all(|finding| finding.sample.is_some()), "{bad:#?}");
    bad.iter().map(|finding| finding.id).collect()
}

macro_rules! planted {
    ($($name:ident: $sql:expr => $ids:expr;)+) => {
        $(
            #[tokio::test]
            async fn $name() {
                assert_eq!(caught($sql).await, $ids);
            }
        )+
    };
}

planted! {
    i2_sees_a_message_that_is_there_twice:
        "ALTER TABLE inbox DROP CONSTRAINT inbox_pk; \
         UPDATE inbox SET external_id = 'm1'" => ["I2"];
    i3_sees_a_gap:
        "UPDATE inbox SET seq = 7 WHERE seq = 2; UPDATE outbox SET to_seq = 7 WHERE to_seq = 2; \
         UPDATE conversations SET done_seq = 7" => ["I3"];
    i3_sees_a_message_that_is_gone:
        "UPDATE conversations SET last_seq = 3" => ["I3"];
    i4_sees_a_message_without_an_answer:
        "UPDATE inbox SET state = 'accepted', turn_id = NULL WHERE seq = 2; \
         UPDATE outbox SET kind = 'notice' WHERE out_seq = 2; \
         UPDATE usage_events SET conversation_id = NULL" => ["I4", "I6"];
    i5_sees_an_answer_that_is_gone:
        "DELETE FROM outbox WHERE out_seq = 2" => ["I5", "I6"];
    i5_sees_a_reply_to_nothing:
        "UPDATE inbox SET state = 'dead' WHERE seq = 2" => ["I5"];
    i6_sees_a_reply_that_was_not_metered:
        "UPDATE usage_events SET conversation_id = NULL" => ["I6"];
    i7_sees_a_transaction_with_one_leg:
        "INSERT INTO ledger_entries (tenant_id, txn_id, leg, account, amount, currency) \
         SELECT tenant_id, txn_id, 9, 'bonus', 5, currency FROM credits" => ["I7"];
    i8_sees_a_balance_that_the_ledger_does_not_know:
        "UPDATE wallets SET posted = posted + 1" => ["I8"];
    i9_sees_credits_that_nobody_holds:
        "UPDATE wallets SET held = held + 1" => ["I9"];
    i10_sees_usage_that_was_not_booked:
        "UPDATE usage_events SET charge = charge + 1 WHERE conversation_id IS NULL" => ["I10"];
    i10_sees_a_cost_that_nobody_bears:
        "UPDATE usage_events SET absorbed = 3 WHERE conversation_id IS NULL" => ["I10"];
    i10_sees_revenue_without_usage:
        "DELETE FROM usage_events WHERE conversation_id IS NULL" => ["I10"];
    i11_sees_an_overdrawn_wallet:
        "UPDATE wallets SET held = posted + 1" => ["I9", "I11"];
    i12_sees_what_is_left_on_hold:
        "INSERT INTO holds (tenant_id, hold_id, kind, currency, amount, node_id, lease_until) \
         SELECT tenant_id, gen_random_uuid(), 'block', currency, 0, gen_random_uuid(), now() \
         FROM wallets" => ["I12"];
    i13_sees_what_was_not_sent:
        "UPDATE outbox SET state = 'sending' WHERE out_seq = 2" => ["I13"];
    i17_sees_more_settled_than_held:
        "UPDATE holds SET settled = amount + 1 WHERE kind = 'block'" => ["I17"];
    i17_sees_a_hold_that_settled_another_amount_than_was_charged:
        "UPDATE holds SET settled = settled - 1 WHERE kind = 'turn'" => ["I17"];
    i18_sees_replies_in_the_wrong_order:
        "UPDATE outbox SET out_seq = 3 WHERE out_seq = 1; \
         UPDATE outbox SET out_seq = 1 WHERE out_seq = 2; \
         UPDATE outbox SET out_seq = 2 WHERE out_seq = 3" => ["I18"];
    i22_sees_a_credit_that_was_not_booked:
        "UPDATE credits SET amount = amount + 1" => ["I22"];
    i22_sees_credits_that_were_taken_back_and_not_booked:
        "INSERT INTO credit_reversals (tenant_id, credit_txn, txn_id, taken) \
         SELECT tenant_id, txn_id, gen_random_uuid(), 0 FROM credits" => ["I22"];
    i22_sees_money_from_nowhere:
        "DELETE FROM credits" => ["I22"];
    a_word_that_an_erasure_left_behind:
        "UPDATE conversations SET erased_in = 1" => ["I27"];
    a_person_who_is_still_found_after_an_erasure:
        "UPDATE contacts SET erased_at = now()" => ["I27"];
    an_act_that_was_changed:
        "UPDATE audit_events SET actor = 'somebody else'" => ["I23"];
    i24_sees_a_row_that_belongs_to_another_tenants_row:
        "UPDATE channels SET assistant_id = gen_random_uuid() WHERE kind = 'web'" => ["I24"];
}

#[tokio::test]
async fn a_check_in_the_middle_of_work_sees_one_moment() {
    let world = World::new().await;
    let work = async {
        for n in 0..30 {
            world.chat("ann", &format!("m{n}")).await;
        }
    };
    let checks = async {
        for _ in 0..12 {
            world.assert_sound().await;
        }
    };
    tokio::join!(work, checks);
    assert_eq!(world.number("SELECT count(*) FROM usage_events"), 30);
}

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use qudao_core::{CoreSettings, PreviewEvent, TurnOutcome};
use qudao_domain::{BlockId, Micros};
use qudao_plugin_api::{
    PluginError,
    wire::{Content, ErrorKind},
};
use qudao_storage::{BusEvent, Topic};
use qudao_testkit::TestRedis;

use crate::{
    charging::hear,
    stage::{Script, Stage, done, tenant, units},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_message_is_answered_and_charged_once() {
    let model = Script::says(&["Hi", " ", "there"]);
    let stage = Stage::new(tenant(), &[("fake", &model)]).await;
    let first = stage.say("m1", "Hello").await;
    let again = stage.say("m1", "Hello").await;
    assert!(!first.duplicate && again.duplicate && first.seq == again.seq);
    assert_eq!(stage.answer().await, TurnOutcome::Answered);
    assert_eq!(stage.texts().await, ["Hello", "Hi there"]);
    assert_eq!(stage.wallet().await, (Micros::new(units(100).get() - 3_000), Micros::ZERO));
    assert_eq!(model.calls(), 1);
    stage.assert_sound().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_becomes_one_turn_and_later_turns_see_what_was_said() {
    let model = Script::new(|request, sink| {
        let said: Vec<_> = request
            .messages
            .iter()
            .filter_map(|m| m.content.as_ref())
            .map(Content::to_text)
            .collect();
        sink.token(&said.join("|"))?;
        Ok(done(1))
    });
    let stage = Stage::new(tenant().prompt("P"), &[("fake", &model)]).await;
    stage.say("1", "a").await;
    stage.say("2", "b").await;
    assert_eq!(stage.answer().await, TurnOutcome::Answered);
    stage.say("3", "c").await;
    assert_eq!(stage.answer().await, TurnOutcome::Answered);
    let replies: Vec<_> = stage.texts().await.into_iter().filter(|t| t.contains('|')).collect();
    assert_eq!(replies, ["P|a\nb", "P|a\nb|P|a\nb|c"]);
    assert_eq!(model.calls(), 2);
    stage.assert_sound().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_during_an_answer_is_looked_for_right_after_it() {
    let goes_on = Arc::new(AtomicBool::new(false));
    let waits = Arc::clone(&goes_on);
    let model = Script::new(move |_, sink| {
        while !waits.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(1));
        }
        sink.token("Hi")?;
        Ok(done(1))
    });
    let stage = Stage::new(tenant(), &[("fake", &model)]).await;
    stage.say("1", "a").await;
    let answer = async { assert_eq!(stage.answer().await, TurnOutcome::Answered) };
    let hint = || async {
        let hint = stage.core.wake.turns.notified();
        tokio::time::timeout(Duration::from_secs(10), hint).await.expect("a hint");
    };
    let writes_on = async {
        while model.calls() == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        stage.say("2", "b").await;
        // Who follows it now finds the conversation taken.
        hint().await;
        goes_on.store(true, Ordering::SeqCst);
    };
    tokio::join!(answer, writes_on);
    hint().await;
    assert_eq!(stage.answer().await, TurnOutcome::Answered);
    assert_eq!(stage.texts().await, ["a", "Hi", "b", "Hi"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wallet_that_affords_no_answer_gets_a_notice_and_no_model_call() {
    let model = Script::says(&["Hi"]);
    // Fifteen tokens' worth; an answer needs sixteen at least.
    let poor = tenant().credits(Micros::new(15_000)).locale("zh");
    let stage = Stage::new(poor, &[("fake", &model)]).await;
    stage.say("1", "你好").await;
    assert_eq!(stage.answer().await, TurnOutcome::Rejected);
    assert!(stage.texts().await[1].contains("抱歉"));
    assert_eq!(model.calls(), 0);
    assert_eq!(stage.wallet().await, (Micros::new(15_000), Micros::ZERO));
    stage.assert_sound().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_wallet_gets_a_shorter_answer() {
    let model = Script::new(|request, sink| {
        sink.token(&request.params.max_tokens.unwrap_or_default().to_string())?;
        Ok(done(20))
    });
    let stage = Stage::new(tenant().credits(Micros::new(20_500)), &[("fake", &model)]).await;
    stage.say("1", "Hello").await;
    assert_eq!(stage.answer().await, TurnOutcome::Answered);
    assert_eq!(stage.texts().await[1], "20");
    assert_eq!(stage.wallet().await, (Micros::new(500), Micros::ZERO));
    stage.assert_sound().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn three_failures_end_in_an_apology_and_give_the_hold_back() {
    let model = Script::fails();
    let stage = Stage::new(tenant(), &[("fake", &model)]).await;
    stage.say("1", "Hello").await;
    for _ in 0..2 {
        assert!(matches!(stage.answer().await, TurnOutcome::Released { .. }));
        assert!(Micros::ZERO < stage.wallet().await.1, "the hold stays for the next attempt");
        stage.skip_backoff();
    }
    assert_eq!(stage.answer().await, TurnOutcome::Buried);
    assert!(stage.texts().await[1].starts_with("Sorry"));
    assert_eq!(stage.wallet().await, (units(100), Micros::ZERO));
    assert_eq!(model.calls(), 3);
    stage.assert_sound().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_route_falls_to_the_next_model_past_empty_and_unpriced_ones() {
    let (broken, empty) = (Script::fails(), Script::says(&[]));
    let (unpriced, good) = (Script::says(&["no"]), Script::says(&["yes"]));
    let models = ["absent", "broken", "empty", "unpriced", "good"];
    let stage = Stage::new(
        tenant().models(&models),
        &[("broken", &broken), ("empty", &empty), ("unpriced", &unpriced), ("good", &good)],
    )
    .await;
    stage.sql("ALTER TABLE price_books DISABLE TRIGGER ALL");
    stage.sql("DELETE FROM price_books WHERE model = 'unpriced'");
    stage.say("1", "Hello").await;
    assert_eq!(stage.answer().await, TurnOutcome::Answered);
    assert_eq!(stage.texts().await[1], "yes");
    assert_eq!([&broken, &empty, &unpriced, &good].map(|m| m.calls()), [1, 1, 0, 1]);
    stage.assert_sound().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stop_button_keeps_and_charges_what_was_delivered() {
    let (model, began) = Script::talks_on_and_tells();
    let stage = Stage::new(tenant(), &[("fake", &model)]).await;
    let said = stage.say("1", "Go on").await;
    let core = stage.core.clone();
    let stop = async {
        hear(&began).await;
        core.cancel_turn(said.conversation_id).await;
    };
    let (outcome, ()) = tokio::join!(stage.answer(), stop);
    assert_eq!(outcome, TurnOutcome::Stopped);
    let reply = &stage.texts().await[1];
    assert!(!reply.is_empty() && reply.bytes().all(|byte| byte == b'x'), "{reply:?}");
    let paid = i64::try_from(reply.len()).unwrap() * 1_000;
    assert_eq!(stage.wallet().await, (Micros::new(units(100).get() - paid), Micros::ZERO));
    assert_eq!(stage.sql("SELECT end_reason FROM usage_events"), "cancelled");
    stage.assert_sound().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_turn_that_dies_after_the_hold_is_finished_by_another_node() {
    let ((stuck, began), model) = (Script::talks_on_and_tells(), Script::says(&["done"]));
    let stage = Stage::new(tenant(), &[("fake", &stuck)]).await;
    stage.say("1", "Hello").await;
    let claim = stage.claim().await;
    // The worker is gone in the middle of the answer.
    tokio::select! {
        outcome = stage.core.run_turn(claim) => panic!("{outcome:?}"),
        () = hear(&began) => {}
    }
    stage.expire_leases();
    let other = stage.another_node(&[("fake", &model)]).await;
    let taken = stage.claim().await;
    assert_eq!(taken.epoch, claim.epoch + 1);
    assert_eq!(other.run_turn(taken).await, TurnOutcome::Answered);
    assert_eq!(stage.texts().await, ["Hello", "done"]);
    assert_eq!(stage.wallet().await, (Micros::new(units(100).get() - 1_000), Micros::ZERO));
    assert_eq!(stage.sql("SELECT count(*) FROM usage_events"), "1");
    stage.assert_sound().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_zombie_is_fenced_and_leaves_one_reply_and_one_charge() {
    let lost = Arc::new(AtomicBool::new(false));
    let late = Arc::clone(&lost);
    let slow = Script::new(move |_, sink| {
        while !late.load(Ordering::SeqCst) && !sink.is_cancelled() {
            std::thread::sleep(Duration::from_millis(5));
        }
        sink.token("late")?;
        Ok(done(1))
    });
    let model = Script::says(&["in time"]);
    let stage = Stage::new(tenant(), &[("fake", &slow)]).await;
    stage.say("1", "Hello").await;
    let claim = stage.claim().await;
    let core = stage.core.clone();
    let takeover = async {
        while slow.calls() == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        stage.expire_leases();
        let other = stage.another_node(&[("fake", &model)]).await;
        let taken = stage.claim().await;
        lost.store(true, Ordering::SeqCst);
        other.run_turn(taken).await
    };
    let (zombie, other) = tokio::join!(core.run_turn(claim), takeover);
    assert_eq!((zombie, other), (TurnOutcome::Lost, TurnOutcome::Answered));
    assert_eq!(stage.texts().await, ["Hello", "in time"]);
    assert_eq!(stage.wallet().await, (Micros::new(units(100).get() - 1_000), Micros::ZERO));
    stage.assert_sound().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watcher_sees_the_answer_grow_and_stops_it_from_another_node() {
    let redis = TestRedis::new().await;
    let model = Script::talks_on();
    let stage = Stage::on_bus(tenant(), &[("fake", &model)], redis.url()).await;
    let other = stage.another_node(&[]).await;
    let said = stage.say("1", "Go on").await;
    let mut preview = other.bus.subscribe(&Topic::Preview(said.conversation_id));
    assert_eq!(preview.next().await, BusEvent::Ready);
    let watch = async {
        let mut seen = 0;
        while seen < 10 {
            let BusEvent::Message(bytes) = preview.next().await else { continue };
            if let PreviewEvent::Delta { offset, text, .. } =
                serde_json::from_slice(&bytes).unwrap()
            {
                // A piece that Redis did not take in time leaves a hole.
                assert!(seen <= offset, "{text:?} at {offset} came again");
                seen = offset + text.len() as u64;
            }
        }
        other.cancel_turn(said.conversation_id).await;
    };
    let both = async { tokio::join!(stage.answer(), watch) };
    let (outcome, ()) = tokio::time::timeout(Duration::from_secs(20), both).await.unwrap();
    assert_eq!(outcome, TurnOutcome::Stopped);
    assert!(10 <= stage.texts().await[1].len());
    stage.assert_sound().await;
}

/// A model that has no place for anybody.
fn crowded() -> Arc<Script> {
    Script::new(|_, _| Err(PluginError::new(ErrorKind::Overloaded, "full")))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_turn_waits_for_a_busy_model() {
    let times = AtomicUsize::new(0);
    let model = Script::new(move |_, sink| {
        if times.fetch_add(1, Ordering::SeqCst) < 5 {
            return Err(PluginError::new(ErrorKind::Overloaded, "full"));
        }
        sink.token("at last")?;
        Ok(done(1))
    });
    let stage = Stage::new(tenant(), &[("fake", &model)]).await;
    stage.say("1", "Hello").await;
    assert_eq!(stage.answer().await, TurnOutcome::Answered);
    assert_eq!(stage.texts().await[1], "at last");
    assert_eq!(stage.sql("SELECT count(*) FROM model_attempts"), "1", "one hold for all tries");
    stage.assert_sound().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_stays_busy_costs_no_attempt_until_patience_ends() {
    let model = crowded();
    let mut settings = CoreSettings::default();
    settings.turns.ready_wait = Duration::ZERO;
    let stage = Stage::with(tenant(), &[("fake", &model)], settings).await;
    stage.say("1", "Hello").await;
    for _ in 0..5 {
        assert!(matches!(stage.answer().await, TurnOutcome::Released { .. }));
        assert_eq!(stage.attempts(), "0");
        stage.skip_backoff();
    }
    stage.sql("UPDATE inbox SET accepted_at = now() - interval '1 hour'");
    for _ in 0..2 {
        assert!(matches!(stage.answer().await, TurnOutcome::Released { .. }));
        stage.skip_backoff();
    }
    assert_eq!(stage.answer().await, TurnOutcome::Buried);
    assert_eq!(stage.wallet().await, (units(100), Micros::ZERO));
    stage.assert_sound().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_model_leaves_the_turn_to_the_next_one() {
    let (busy, free) = (crowded(), Script::says(&["yes"]));
    let models = [("busy", &busy), ("free", &free)];
    let stage = Stage::new(tenant().models(&["busy", "free"]), &models).await;
    stage.say("1", "Hello").await;
    assert_eq!(stage.answer().await, TurnOutcome::Answered);
    assert_eq!(stage.texts().await[1], "yes");
    stage.assert_sound().await;
}

/// Sets what a model costs per million tokens written.
fn reprice(stage: &Stage, model: &str, output: i64) {
    stage.sql("ALTER TABLE price_books DISABLE TRIGGER ALL");
    stage
        .sql(&format!("UPDATE price_books SET output_per_mtok = {output} WHERE model = '{model}'"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dearer_model_raises_the_hold_of_a_free_one() {
    let (free, dear) = (Script::fails(), Script::says(&["yes"]));
    let models = [("free", &free), ("dear", &dear)];
    let stage = Stage::new(tenant().models(&["free", "dear"]), &models).await;
    reprice(&stage, "free", 0);
    stage.say("1", "Hello").await;
    assert_eq!(stage.answer().await, TurnOutcome::Answered);
    assert_eq!(stage.texts().await[1], "yes");
    assert_eq!(stage.wallet().await, (Micros::new(units(100).get() - 1_000), Micros::ZERO));
    stage.assert_sound().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_beyond_the_wallet_leaves_the_turn_to_a_cheaper_one() {
    let (dear, cheap) = (Script::says(&["no"]), Script::says(&["yes"]));
    let models = [("dear", &dear), ("cheap", &cheap)];
    let stage = Stage::new(tenant().models(&["dear", "cheap"]), &models).await;
    reprice(&stage, "dear", units(1_000_000).get());
    reprice(&stage, "cheap", 1_000_000);
    let mut tx = stage.store.begin(stage.tenant.id).await.unwrap();
    let lease = Duration::from_secs(60);
    let rest = Micros::new(units(100).get() - 15_000);
    assert!(tx.reserve_block(BlockId::new(), stage.core.node, rest, lease).await.unwrap());
    tx.commit().await.unwrap();
    stage.say("1", "Hello").await;
    assert_eq!(stage.answer().await, TurnOutcome::Answered);
    assert_eq!(stage.texts().await[1], "yes");
    assert_eq!(dear.calls(), 0);
    stage.assert_sound().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn credits_that_others_set_aside_are_waited_for() {
    let model = Script::says(&["yes"]);
    let stage = Stage::new(tenant(), &[("fake", &model)]).await;
    let block = BlockId::new();
    let mut tx = stage.store.begin(stage.tenant.id).await.unwrap();
    let lease = Duration::from_secs(60);
    assert!(tx.reserve_block(block, stage.core.node, units(100), lease).await.unwrap());
    tx.commit().await.unwrap();
    stage.say("1", "Hello").await;
    for _ in 0..4 {
        assert!(matches!(stage.answer().await, TurnOutcome::Released { .. }));
        assert_eq!(stage.attempts(), "0");
        stage.skip_backoff();
    }
    let mut tx = stage.store.begin(stage.tenant.id).await.unwrap();
    assert!(tx.close_block(block).await.unwrap());
    tx.commit().await.unwrap();
    assert_eq!(stage.answer().await, TurnOutcome::Answered);
    stage.assert_sound().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_turn_that_cannot_be_read_is_buried_after_its_last_attempt() {
    let model = Script::says(&["yes"]);
    let stage = Stage::new(tenant(), &[("fake", &model)]).await;
    stage.say("1", "Hello").await;
    stage.sql("ALTER TABLE channels DROP CONSTRAINT channels_assistant_unless_api");
    stage.sql("UPDATE channels SET assistant_id = NULL");
    for _ in 0..2 {
        assert!(matches!(stage.answer().await, TurnOutcome::Released { .. }));
        stage.skip_backoff();
    }
    assert_eq!(stage.answer().await, TurnOutcome::Buried);
    let apology = &stage.texts().await[1];
    assert!(apology.contains("抱歉") && apology.contains("Sorry"), "{apology}");
    stage.assert_sound().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_passing_error_of_the_database_costs_no_attempt() {
    let model = Script::says(&["yes"]);
    let stage = Stage::new(tenant(), &[("fake", &model)]).await;
    stage.sql(
        "CREATE FUNCTION contended() RETURNS trigger LANGUAGE plpgsql AS \
         $$ BEGIN RAISE EXCEPTION 'busy' USING ERRCODE = '40001'; END $$; \
         CREATE TRIGGER contended BEFORE INSERT ON model_attempts \
         FOR EACH ROW EXECUTE FUNCTION contended()",
    );
    stage.say("1", "Hello").await;
    for _ in 0..4 {
        assert!(matches!(stage.answer().await, TurnOutcome::Released { .. }));
        assert_eq!(stage.attempts(), "0");
        stage.skip_backoff();
    }
    stage.sql("DROP TRIGGER contended ON model_attempts");
    assert_eq!(stage.answer().await, TurnOutcome::Answered);
    stage.assert_sound().await;
}

//! What an answer costs that is cut short, at each moment and under each policy, to the micro-unit.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use qudao_core::TurnOutcome;
use qudao_domain::{Micros, state::FairCharging};
use qudao_plugin_api::{PluginError, wire::Usage};

use crate::{
    api::{request, settle_down},
    stage::{Script, Stage, done, tenant, units},
};

const POLICIES: [FairCharging; 3] = [
    FairCharging::BillDelivered,
    FairCharging::BillGenerated,
    FairCharging::FreeIfNothingDelivered,
];
const LAST: u32 = 5;

/// Thinks `thoughts` tokens and says `words`, a token each; then waits to be cancelled, and says
/// what it made.
fn cut_short(thoughts: u32, words: u32) -> (Arc<Script>, Arc<AtomicBool>) {
    let said = Arc::new(AtomicBool::new(false));
    let heard = Arc::clone(&said);
    let script = Script::new(move |_, sink| {
        for _ in 0..thoughts {
            sink.reasoning("hm")?;
        }
        for _ in 0..words {
            sink.token("x")?;
        }
        heard.store(true, Ordering::SeqCst);
        while !sink.is_cancelled() {
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(done((thoughts + words) as usize))
    });
    (script, said)
}

/// What the tenant paid, in tokens.
async fn paid(stage: &Stage) -> i64 {
    (units(100).get() - stage.wallet().await.0.get()) / 1_000
}

/// Until what the model said has come through.
pub(crate) async fn hear(said: &AtomicBool) {
    while !said.load(Ordering::SeqCst) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // After each of these the turn beside goes on with what came, however late that is.
    for _ in 0..10 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn expected(policy: FairCharging, made: u32, delivered: u32) -> i64 {
    i64::from(match policy {
        FairCharging::BillDelivered => delivered,
        FairCharging::BillGenerated => made,
        FairCharging::FreeIfNothingDelivered if delivered == 0 => 0,
        FairCharging::FreeIfNothingDelivered => made,
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_its_caller_leaves_costs_exactly_what_the_policy_says() {
    for policy in POLICIES {
        for (made, taken) in [(1, 0), (1, 1), (3, 0), (3, 1), (LAST, 3), (LAST, LAST)] {
            let (model, said) = cut_short(0, made);
            let stage = Stage::new(tenant().fair_charging(policy), &[("fake", &model)]).await;
            let principal = stage.principal().await;
            let mut reply = stage.core.api_call(&principal, request("fake")).await.unwrap();
            for _ in 0..taken {
                reply.next().await.unwrap().unwrap();
            }
            hear(&said).await;
            drop(reply);
            settle_down(&stage).await;
            let tokens = expected(policy, made, taken);
            assert_eq!(paid(&stage).await, tokens, "{policy:?}: {taken} of {made}");
            stage.assert_sound().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_who_leaves_before_anything_was_made_pays_nothing() {
    for policy in POLICIES {
        let (model, said) = cut_short(0, 0);
        let stage = Stage::new(tenant().fair_charging(policy), &[("fake", &model)]).await;
        let principal = stage.principal().await;
        let call = stage.core.api_call(&principal, request("fake"));
        let left = async { hear(&said).await };
        tokio::select! {
            reply = call => panic!("{reply:?}"),
            () = left => {}
        }
        settle_down(&stage).await;
        assert_eq!(paid(&stage).await, 0, "{policy:?}");
        stage.assert_sound().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_nobody_reads_piece_by_piece_is_delivered_whole_or_not_at_all() {
    for policy in POLICIES {
        let (model, said) = cut_short(0, 3);
        let stage = Stage::new(tenant().fair_charging(policy), &[("fake", &model)]).await;
        let mut whole = request("fake");
        whole.stream = false;
        let principal = stage.principal().await;
        let mut reply = stage.core.api_call(&principal, whole).await.unwrap();
        for _ in 0..3 {
            reply.next().await.unwrap().unwrap();
        }
        hear(&said).await;
        drop(reply);
        settle_down(&stage).await;
        assert_eq!(paid(&stage).await, expected(policy, 3, 0), "{policy:?}");
        stage.assert_sound().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_turn_that_the_person_stops_costs_exactly_what_the_policy_says() {
    for policy in POLICIES {
        for (thoughts, words) in [(0, 0), (4, 0), (0, 1), (2, 3), (0, LAST)] {
            let (model, said) = cut_short(thoughts, words);
            let stage = Stage::new(tenant().fair_charging(policy), &[("fake", &model)]).await;
            let message = stage.say("1", "Hello").await;
            let core = Arc::clone(&stage.core);
            let stop = async {
                hear(&said).await;
                core.cancel_turn(message.conversation_id).await;
            };
            let (outcome, ()) = tokio::join!(stage.answer(), stop);
            assert_eq!(outcome, TurnOutcome::Stopped);
            let made = thoughts + words;
            let tokens = expected(policy, made, words);
            assert_eq!(paid(&stage).await, tokens, "{policy:?}: {words} of {made}");
            let reply = stage.texts().await.pop().unwrap();
            let seen = "x".repeat(words as usize);
            assert_eq!(reply, if words == 0 { "Stopped.".to_owned() } else { seen });
            assert_eq!(stage.wallet().await.1, Micros::ZERO, "nothing stays set aside");
            stage.assert_sound().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_fails_half_way_costs_what_was_delivered_of_it() {
    for policy in POLICIES {
        let model = Script::new(|_, sink| {
            for _ in 0..3 {
                sink.token("x")?;
            }
            sink.usage(Usage { input_tokens: 10, output_tokens: 3 })?;
            Err(PluginError::internal("no"))
        });
        let stage = Stage::new(tenant().fair_charging(policy), &[("fake", &model)]).await;
        let principal = stage.principal().await;
        let mut reply = stage.core.api_call(&principal, request("fake")).await.unwrap();
        let mut taken = 0;
        while reply.next().await.unwrap().is_ok() {
            taken += 1;
        }
        settle_down(&stage).await;
        assert_eq!(paid(&stage).await, expected(policy, 3, taken), "{policy:?}");
        stage.assert_sound().await;
    }
}

//! Routes: rules, fallback, breakers, records and canaries, with real books.

use std::{sync::Arc, time::Duration};

use qudao_billing::Rates;
use qudao_core::{ApiError, CoreSettings, TurnOutcome, settings::RoutingSettings};
use qudao_domain::{
    Micros,
    routing::{BreakerSettings, Health},
};
use qudao_plugin_api::{PluginError, wire::ErrorKind};
use qudao_plugin_host::ModelKind;
use qudao_storage::{DecisionFilter, DecisionRecord, ModelPrice, Page};
use qudao_testkit::{Manner, Reader, TestRedis};
use serde_json::{Value, json};

use crate::{
    api::{collect, request, settle_down},
    stage::{PER_CALL, Script, Stage, done, tenant, units},
};

/// What the tenant's route decided, the newest first.
async fn decisions(stage: &Stage) -> Vec<DecisionRecord> {
    let mut tx = stage.store.begin(stage.tenant.id).await.unwrap();
    let page = Page::first(200);
    tx.list_decisions(DecisionFilter::default(), &page).await.unwrap().items
}

/// The newest decision, as soon as there are so many.
async fn decision(stage: &Stage, count: usize) -> DecisionRecord {
    for _ in 0..400 {
        let mut found = decisions(stage).await;
        if found.len() == count {
            return found.remove(0);
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("{:?}", decisions(stage).await);
}

fn outcomes(decision: &DecisionRecord) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let tries = decision.body["tries"].as_array().unwrap();
    tries.iter().map(|one| (text(&one["model"]), text(&one["outcome"]))).collect()
}

fn pairs(tries: &[(&str, &str)]) -> Vec<(String, String)> {
    tries.iter().map(|(model, outcome)| ((*model).to_owned(), (*outcome).to_owned())).collect()
}

fn usage(stage: &Stage) -> String {
    stage.sql("SELECT string_agg(model || '=' || charge, ' ' ORDER BY model) FROM usage_events")
}

fn moody() -> Value {
    json!({
        "sentiment_model": "moods",
        "rules": [{
            "name": "upset",
            "when": [{ "signal": "sentiment", "any_of": ["negative"], "at_least": 0.7 }],
            "targets": [{ "model": "large" }],
        }],
    })
}

fn refuses(kind: ErrorKind) -> Arc<Script> {
    Script::new(move |_, _| Err(PluginError::new(kind, "as the test says")))
}

/// Fails the first time.
fn second_time_lucky() -> Arc<Script> {
    let failed = std::sync::atomic::AtomicBool::new(false);
    Script::new(move |_, sink| {
        if !failed.swap(true, std::sync::atomic::Ordering::SeqCst) {
            return Err(PluginError::internal("not yet"));
        }
        sink.token("Sorry")?;
        Ok(done(1))
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sentiment_decides_and_is_paid_once_however_often_the_turn_begins() {
    let (fake, large) = (Script::says(&["Hi"]), second_time_lucky());
    let tenant = tenant().rates(PER_CALL).routing(moody());
    let stage = Stage::new(tenant, &[("fake", &fake), ("large", &large)]).await;
    Reader::register(&stage.core.plugins, "moods", ModelKind::Classify, Manner::Well).await;
    stage.say("1", "this is bad").await;
    assert!(matches!(stage.answer().await, TurnOutcome::Released { .. }));
    stage.skip_backoff();
    assert_eq!(stage.answer().await, TurnOutcome::Answered);
    assert_eq!((fake.calls(), large.calls()), (0, 2));
    assert_eq!(usage(&stage), "large=1000000 moods=1000000");
    let made = decision(&stage, 2).await;
    assert_eq!(made.model.as_deref(), Some("large"));
    assert_eq!(made.body["rule"], "upset");
    let sentiment = json!({ "label": "negative", "probability": 0.75 });
    assert_eq!(made.body["signals"], json!({ "sentiment": sentiment }));
    settle_down(&stage).await;
    stage.assert_sound().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_model_a_sentiment_is_unknown_and_the_others_answer() {
    let (fake, large) = (Script::says(&["Hi"]), Script::says(&["Sorry"]));
    let tenant = tenant().rates(PER_CALL).routing(moody());
    let stage = Stage::new(tenant, &[("fake", &fake), ("large", &large)]).await;
    stage.say("1", "this is bad").await;
    assert_eq!(stage.answer().await, TurnOutcome::Answered);
    assert_eq!((fake.calls(), large.calls()), (1, 0));
    let made = decision(&stage, 1).await;
    assert_eq!(made.body["signals"]["sentiment"], json!({ "unknown": "unavailable" }));
    assert_eq!(made.body["considered"][0]["failed_on"], "sentiment");
    assert_eq!(usage(&stage), "fake=1000000");
}

#[tokio::test(flavor = "multi_thread")]
async fn personal_data_stays_with_its_model_as_long_as_a_model_would_read_it() {
    let (remote, local) = (Script::says(&["remote"]), Script::says(&["local"]));
    let routing = json!({ "rules": [{
        "name": "private",
        "when": [{ "signal": "personal_data", "any_of": ["phone", "card"] }],
        "targets": [{ "model": "local" }], "local_only": true,
    }] });
    let stage =
        Stage::new(tenant().routing(routing), &[("fake", &remote), ("local", &local)]).await;
    for (id, text) in [("1", "Hello"), ("2", "Call me: 13812345678"), ("3", "And now?")] {
        stage.say(id, text).await;
        assert_eq!(stage.answer().await, TurnOutcome::Answered);
    }
    assert_eq!((remote.calls(), local.calls()), (1, 2));
    let made = decision(&stage, 3).await;
    assert_eq!(made.body["signals"], json!({ "personal_data": ["phone"] }));
    let words = stage.sql("SELECT count(*) FROM route_decisions WHERE body::text LIKE '%138%'");
    assert_eq!(words, "0", "a record holds no word of a message");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_fails_is_not_asked_again_and_the_charge_is_one() {
    let (broken, fake) = (Script::fails(), Script::says(&["Hi"]));
    let tenant = tenant().models(&["broken", "fake"]).rates(PER_CALL);
    let stage = Stage::new(tenant, &[("broken", &broken), ("fake", &fake)]).await;
    stage.say("1", "Hello").await;
    assert_eq!(stage.answer().await, TurnOutcome::Answered);
    assert_eq!((broken.calls(), fake.calls()), (1, 1));
    let made = decision(&stage, 1).await;
    assert_eq!((made.model.as_deref(), made.fallbacks), (Some("fake"), 1));
    let tries = pairs(&[("broken", "provider_internal"), ("fake", "answered")]);
    assert_eq!(outcomes(&made), tries);
    assert_eq!(usage(&stage), "fake=1000000");
    stage.assert_sound().await;
}

fn nervous() -> CoreSettings {
    let breaker = BreakerSettings { min_calls: 2, ..BreakerSettings::default() };
    let routing = RoutingSettings { breaker, judge_every: Duration::ZERO };
    CoreSettings { routing, ..CoreSettings::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_keeps_failing_is_left_alone() {
    let (broken, fake) = (Script::fails(), Script::says(&["Hi"]));
    let tenant = tenant().models(&["broken", "fake"]);
    let models = [("broken", &broken), ("fake", &fake)];
    let stage = Stage::with(tenant, &models, nervous()).await;
    for id in ["1", "2", "3"] {
        stage.say(id, "Hello").await;
        assert_eq!(stage.answer().await, TurnOutcome::Answered);
    }
    assert_eq!((broken.calls(), fake.calls()), (2, 3));
    let made = decision(&stage, 3).await;
    assert_eq!(outcomes(&made), pairs(&[("broken", "breaker_open"), ("fake", "answered")]));
    let states: Vec<_> =
        stage.core.breakers().into_iter().map(|one| (one.model, one.health)).collect();
    let expected = [("broken", Health::Open), ("fake", Health::Closed)];
    assert_eq!(states, expected.map(|(model, health)| (model.to_owned(), health)));
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_tell_each_other_of_a_model_that_fails_and_those_that_start_later_hear_of_it() {
    let redis = TestRedis::new().await;
    let (broken, fake) = (Script::fails(), Script::says(&["Hi"]));
    let tenant = tenant().models(&["broken", "fake"]);
    let models = [("broken", &broken), ("fake", &fake)];
    let stage = Stage::on_bus(tenant, &models, redis.url()).await;
    let other = stage.another_node(&models).await;
    let open = async |core: &Arc<qudao_core::Core>| {
        for _ in 0..400 {
            let health = |one: &qudao_core::BreakerReport| {
                one.model == "broken" && one.health == Health::Open
            };
            if core.breakers().iter().any(health) {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        false
    };
    tokio::time::sleep(Duration::from_millis(300)).await;
    let principal = stage.principal().await;
    for _ in 0..10 {
        let refused = stage.core.api_call(&principal, request("broken")).await;
        assert!(refused.is_err());
    }
    assert!(open(&stage.core).await, "it found out by itself");
    assert!(open(&other).await, "it was told");
    let late = stage.another_node(&models).await;
    assert!(open(&late).await, "it was kept");
    for core in [&other, &late] {
        core.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_by_a_routes_name_is_answered_by_the_next_model_and_told_by_whom() {
    let (broken, fake) = (refuses(ErrorKind::Unavailable), Script::says(&["Hi", "!"]));
    let tenant = tenant().models(&["broken", "fake"]);
    let stage = Stage::new(tenant, &[("broken", &broken), ("fake", &fake)]).await;
    let reply =
        stage.core.api_call(&stage.principal().await, request("Test tenant")).await.unwrap();
    let served = reply.served();
    assert_eq!((reply.model(), served.model.as_str()), ("Test tenant", "fake"));
    let by = served.routed.unwrap();
    assert_eq!((by.route_id, by.fallbacks), (stage.tenant.route_id, 1));
    let id = reply.turn_id();
    assert_eq!(collect(reply).await, ("Hi!".to_owned(), Some(Micros::new(2_000))));
    let made = decision(&stage, 1).await;
    assert_eq!((made.id, made.turn_id), (by.decision_id, id));
    let tries = pairs(&[("broken", "provider_unavailable"), ("fake", "answered")]);
    assert_eq!(outcomes(&made), tries);
    assert_eq!(usage(&stage), "fake=2000");
    settle_down(&stage).await;
    stage.assert_sound().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_the_first_word_there_is_no_switch() {
    let breaks = Script::new(|_, sink| {
        sink.token("Hi")?;
        Err(PluginError::internal("no more"))
    });
    let fake = Script::says(&["Hello"]);
    let tenant = tenant().models(&["breaks", "fake"]);
    let stage = Stage::new(tenant, &[("breaks", &breaks), ("fake", &fake)]).await;
    let route = stage.tenant.route_id.to_string();
    let mut reply = stage.core.api_call(&stage.principal().await, request(&route)).await.unwrap();
    assert!(reply.next().await.unwrap().is_ok());
    assert!(matches!(reply.next().await, Some(Err(ApiError::Provider { .. }))));
    assert_eq!(fake.calls(), 0);
    let made = decision(&stage, 1).await;
    assert_eq!(made.model, None);
    assert_eq!(outcomes(&made), pairs(&[("breaks", "broke_off")]));
    settle_down(&stage).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_request_is_not_tried_elsewhere() {
    let (strict, fake) = (refuses(ErrorKind::BadRequest), Script::says(&["Hello"]));
    let tenant = tenant().models(&["strict", "fake"]);
    let stage = Stage::new(tenant, &[("strict", &strict), ("fake", &fake)]).await;
    let refused = stage.core.api_call(&stage.principal().await, request("Test tenant")).await;
    assert!(matches!(refused, Err(ApiError::Provider { kind: ErrorKind::BadRequest, .. })));
    assert_eq!(fake.calls(), 0);
    settle_down(&stage).await;
    assert_eq!(stage.wallet().await, (units(100), Micros::ZERO));
}

/// A stage whose second model costs fifty times as much.
async fn dear(credits: Micros) -> (Stage, Arc<Script>) {
    let (broken, dear) = (Script::fails(), Script::says(&["Hi"]));
    let tenant = tenant().models(&["broken", "dear"]).rates(PER_CALL).credits(credits);
    let stage = Stage::new(tenant, &[("broken", &broken), ("dear", &dear)]).await;
    let rates = Rates { per_call: units(50), ..PER_CALL };
    let price = |model: &str, rates| ModelPrice {
        model: model.to_owned(),
        currency: stage.tenant.currency,
        rates,
    };
    let prices = [price("broken", PER_CALL), price("dear", rates)];
    stage.store.sync_prices(&prices).await.unwrap();
    (stage, dear)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dearer_model_takes_its_own_credits_or_is_not_asked() {
    let (rich, dear_one) = dear(units(100)).await;
    let reply = rich.core.api_call(&rich.principal().await, request("Test tenant")).await.unwrap();
    assert_eq!(collect(reply).await.1, Some(units(50)));
    settle_down(&rich).await;
    assert_eq!(rich.wallet().await, (units(50), Micros::ZERO));
    assert_eq!(dear_one.calls(), 1);
    rich.assert_sound().await;

    let (poor, dear_one) = dear(units(20)).await;
    let refused = poor.core.api_call(&poor.principal().await, request("Test tenant")).await;
    assert!(refused.is_err());
    assert_eq!(dear_one.calls(), 0);
    let made = decision(&poor, 1).await;
    assert_eq!(outcomes(&made), pairs(&[("broken", "provider_internal"), ("dear", "no_funds")]));
    settle_down(&poor).await;
    assert_eq!(poor.wallet().await, (units(20), Micros::ZERO));
    poor.assert_sound().await;
}

fn trial(mode: &str, paid_by: &str, rollback: Value) -> Value {
    json!({ "canary": {
        "model": "new", "mode": mode, "percent": 100, "paid_by": paid_by,
        "agreement": { "by": "text" }, "rollback": rollback,
    } })
}

async fn eventually(stage: &Stage, sql: &str, wanted: &str) {
    for _ in 0..400 {
        if stage.sql(sql) == wanted {
            return;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("{sql}: {}, not {wanted}", stage.sql(sql));
}

const STATE: &str = "SELECT routing #>> '{canary,state}' FROM routes";
const ACTS: &str = "SELECT count(*) FROM audit_events WHERE action = 'route.roll_back_canary'";

#[tokio::test(flavor = "multi_thread")]
async fn a_shadow_answers_nobody_is_compared_and_is_taken_back_when_it_disagrees() {
    let (fake, new) = (Script::says(&["Yes", "."]), Script::says(&["No"]));
    let rollback = json!({ "min_calls": 2, "agreement_below": 0.5, "latency_ratio_above": 1000 });
    let tenant = tenant().rates(PER_CALL).routing(trial("shadow", "tenant", rollback));
    let stage = Stage::with(tenant, &[("fake", &fake), ("new", &new)], nervous()).await;
    stage.say("1", "Is it open?").await;
    assert_eq!(stage.answer().await, TurnOutcome::Answered);
    eventually(&stage, "SELECT count(agreement) FROM route_decisions", "1").await;
    let made = decision(&stage, 1).await;
    assert_eq!(made.model.as_deref(), Some("fake"));
    assert_eq!(made.body["shadow"]["agreement"], 0.0);
    assert_eq!(made.body["shadow"]["cost"], "1");
    assert_eq!(stage.sql(STATE), "running", "one call says nothing yet");
    stage.say("2", "Really?").await;
    assert_eq!(stage.answer().await, TurnOutcome::Answered);
    eventually(&stage, STATE, "rolled_back").await;
    assert_eq!(stage.sql(ACTS), "1");
    stage.say("3", "Sure?").await;
    assert_eq!(stage.answer().await, TurnOutcome::Answered);
    let texts = stage.texts().await;
    assert_eq!(texts.iter().filter(|text| *text == "Yes.").count(), 3);
    settle_down(&stage).await;
    assert_eq!((fake.calls(), new.calls()), (3, 2));
    assert_eq!(stage.wallet().await.0, units(95), "three answers and two shadows");
    stage.assert_sound().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_operator_pays_is_booked_to_nobody_and_seen() {
    let (fake, new) = (Script::says(&["Yes"]), Script::says(&["yes", "!"]));
    let tenant = tenant().rates(PER_CALL).routing(trial("shadow", "operator", json!({})));
    let stage = Stage::with(tenant, &[("fake", &fake), ("new", &new)], nervous()).await;
    let reply =
        stage.core.api_call(&stage.principal().await, request("Test tenant")).await.unwrap();
    assert_eq!(collect(reply).await.0, "Yes");
    eventually(&stage, "SELECT count(agreement) FROM route_decisions", "1").await;
    let shadow = decision(&stage, 1).await.body["shadow"].clone();
    assert_eq!((&shadow["agreement"], &shadow["paid_by"]), (&json!(1.0), &json!("operator")));
    assert_eq!(shadow["cost"], "1");
    assert_eq!(usage(&stage), "fake=1000000");
    settle_down(&stage).await;
    assert_eq!(stage.wallet().await, (units(99), Micros::ZERO));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_live_canary_that_fails_is_covered_for_and_taken_back_once() {
    let (fake, new) = (Script::says(&["Hi"]), Script::fails());
    let rollback = json!({ "min_calls": 1, "latency_ratio_above": 1000 });
    let tenant = tenant().rates(PER_CALL).routing(trial("live", "tenant", rollback));
    let stage = Stage::with(tenant, &[("fake", &fake), ("new", &new)], nervous()).await;
    stage.say("1", "Hello").await;
    assert_eq!(stage.answer().await, TurnOutcome::Answered);
    eventually(&stage, STATE, "rolled_back").await;
    assert_eq!(stage.sql(ACTS), "1");
    stage.say("2", "Hello").await;
    assert_eq!(stage.answer().await, TurnOutcome::Answered);
    assert_eq!((fake.calls(), new.calls()), (2, 1));
    assert_eq!(usage(&stage), "fake=1000000 fake=1000000");
    let told = stage.sql("SELECT detail ->> 'reason' FROM audit_events");
    assert_eq!(told, "error_rate");
    stage.assert_sound().await;
}

use std::{net::Ipv4Addr, sync::Arc, thread, time::Duration};

use qudao_core::{ApiError, ApiEvent, ApiReply, ApiRequest, CoreSettings};
use qudao_domain::{Micros, state::FairCharging};
use qudao_plugin_api::wire::{Ask, ChatMessage, ChatRequest, Role};
use qudao_storage::{Rate, UsageRecord};

use crate::stage::{PER_CALL, Script, Stage, done, tenant, units};

pub(crate) fn request(model: &str) -> ApiRequest {
    let mut chat = ChatRequest::new(model, vec![ChatMessage::text(Role::User, "Hello")]);
    chat.params.max_tokens = Some(100);
    ApiRequest {
        ask: chat.into(),
        choices: None,
        stream: true,
        trace: qudao_core::Trace::NONE,
        address: None,
        slot: None,
    }
}

pub(crate) async fn collect(mut reply: ApiReply) -> (String, Option<Micros>) {
    let mut text = String::new();
    while let Some(event) = reply.next().await {
        match event.unwrap() {
            ApiEvent::Delta { text: piece, .. } => text.push_str(&piece),
            ApiEvent::Data(_) => {}
            ApiEvent::End { charge, .. } => return (text, Some(charge)),
        }
    }
    (text, None)
}

async fn usage(stage: &Stage) -> Vec<UsageRecord> {
    let mut tx = stage.store.begin(stage.tenant.id).await.unwrap();
    tx.list_usage(&qudao_storage::Page::first(200)).await.unwrap().items
}

/// Waits until nothing is under way, then gives the credits back.
pub(crate) async fn settle_down(stage: &Stage) {
    for _ in 0..200 {
        stage.core.close().await;
        if stage.wallet().await.1 == Micros::ZERO {
            return;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("credits stay set aside: {:?}", stage.wallet().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_is_settled_when_its_end_is_handed_out() {
    let model = Script::says(&["Hi", " there"]);
    let stage = Stage::new(tenant(), &[("fake", &model)]).await;
    let reply = stage.core.api_call(&stage.principal().await, request("fake")).await.unwrap();
    assert_eq!(collect(reply).await, ("Hi there".to_owned(), Some(Micros::new(2_000))));
    assert_eq!(usage(&stage).await.len(), 1);
    assert_eq!(stage.wallet().await.0, Micros::new(units(100).get() - 2_000));
    stage.assert_sound().await;
    settle_down(&stage).await;
    stage.assert_sound().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_served_is_refused_before_a_model_is_called() {
    let model = Script::says(&["Hi"]);
    let mut settings = CoreSettings::default();
    // So slow that nothing flows back while the test runs.
    settings.rates.key = Rate::per_minute(1, 2);
    let stage = Stage::with(tenant(), &[("fake", &model)], settings).await;
    let principal = stage.principal().await;
    let mut two = request("fake");
    two.choices = Some(2);
    let refused = stage.core.api_call(&principal, two).await.unwrap_err();
    assert!(matches!(refused, ApiError::InvalidParameter { param: "n", .. }));
    let refused = stage.core.api_call(&principal, request("other")).await.unwrap_err();
    assert!(matches!(refused, ApiError::UnknownModel { .. }));
    stage.core.api_call(&principal, request("other")).await.unwrap_err();
    let refused = stage.core.api_call(&principal, request("fake")).await.unwrap_err();
    assert!(matches!(refused, ApiError::RateLimited { .. }), "{refused:?}");
    assert_eq!(model.calls(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_calls_at_once_with_credit_for_37_let_exactly_37_through() {
    let model = Script::new(|_, sink| {
        std::thread::sleep(Duration::from_millis(50));
        sink.token("ok")?;
        Ok(done(1))
    });
    let poor = tenant().rates(PER_CALL).credits(units(37));
    let stage = Arc::new(Stage::new(poor, &[("fake", &model)]).await);
    let principal = stage.principal().await;
    let calls = (0..200).map(|_| {
        let (stage, principal) = (Arc::clone(&stage), principal.clone());
        #[expect(clippy::disallowed_methods, reason = "a test's callers")]
        tokio::spawn(async move {
            match stage.core.api_call(&principal, request("fake")).await {
                Ok(reply) => collect(reply).await.1.is_some(),
                Err(error) => {
                    assert_eq!(error, ApiError::InsufficientCredits);
                    false
                }
            }
        })
    });
    let mut served = 0;
    for call in calls.collect::<Vec<_>>() {
        served += usize::from(call.await.unwrap());
    }
    assert_eq!((served, model.calls()), (37, 37));
    stage.assert_sound().await;
    settle_down(&stage).await;
    assert_eq!(stage.wallet().await, (Micros::ZERO, Micros::ZERO));
    assert_eq!(stage.sql("SELECT sum(amount) FROM ledger_entries"), "0");
    let commits = stage.sql("SELECT count(DISTINCT at) FROM usage_events");
    assert!(commits.parse::<usize>().unwrap() < 37, "calls are settled together: {commits}");
    stage.assert_sound().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_aborted_stream_costs_what_the_policy_says() {
    use FairCharging::{BillDelivered, BillGenerated, FreeIfNothingDelivered};
    for policy in [BillDelivered, BillGenerated, FreeIfNothingDelivered] {
        for taken in [0_u32, 1, 3, 5] {
            let model = Script::says(&["a", "b", "c", "d", "e"]);
            let stage = Stage::new(tenant().fair_charging(policy), &[("fake", &model)]).await;
            let principal = stage.principal().await;
            let mut reply = stage.core.api_call(&principal, request("fake")).await.unwrap();
            for _ in 0..taken {
                reply.next().await.unwrap().unwrap();
            }
            // Once the model is done, what it made is known.
            while model.ended() == 0 {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            drop(reply);
            settle_down(&stage).await;
            let tokens = match policy {
                BillDelivered => taken,
                BillGenerated => 5,
                FreeIfNothingDelivered if taken == 0 => 0,
                FreeIfNothingDelivered => 5,
            };
            let paid = units(100).get() - stage.wallet().await.0.get();
            assert_eq!(paid, i64::from(tokens) * 1_000, "{policy:?} after {taken}");
            let lines = usage(&stage).await;
            assert!(lines.len() <= 1 && lines.iter().all(|line| line.delivered_tokens == taken));
            stage.assert_sound().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_fails_before_its_first_token_costs_nothing() {
    let model = Script::fails();
    let stage = Stage::new(tenant(), &[("fake", &model)]).await;
    let failed = stage.core.api_call(&stage.principal().await, request("fake")).await.unwrap_err();
    assert!(matches!(failed, ApiError::Provider { .. }), "{failed:?}");
    settle_down(&stage).await;
    assert_eq!(stage.wallet().await, (units(100), Micros::ZERO));
    assert!(usage(&stage).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_dead_node_reserved_returns_less_what_it_settled() {
    let model = Script::says(&["Hi"]);
    let stage = Stage::new(tenant(), &[("fake", &model)]).await;
    let principal = stage.principal().await;
    let reply = stage.core.api_call(&principal, request("fake")).await.unwrap();
    collect(reply).await;
    assert!(Micros::ZERO < stage.wallet().await.1, "the block is open");
    // Nobody renews the lease any more.
    stage.sql("UPDATE holds SET lease_until = now() - interval '1 second' WHERE state = 'held'");
    assert_eq!(stage.store.sweep().await.unwrap().blocks, 1);
    let paid = Micros::new(units(100).get() - 1_000);
    assert_eq!(stage.wallet().await, (paid, Micros::ZERO));
    // The node was only asleep: it reserves anew and charges once more.
    let reply = stage.core.api_call(&principal, request("fake")).await.unwrap();
    assert_eq!(collect(reply).await.1, Some(Micros::new(1_000)));
    assert_eq!(usage(&stage).await.len(), 2);
    stage.assert_sound().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn chat_and_api_share_one_wallet() {
    let model = Script::says(&["Hi"]);
    let stage = Stage::new(tenant(), &[("fake", &model)]).await;
    let principal = stage.principal().await;
    stage.say("1", "Hello").await;
    let api = async {
        let reply = stage.core.api_call(&principal, request("fake")).await.unwrap();
        collect(reply).await.1
    };
    let (_, charge) = tokio::join!(stage.answer(), api);
    assert_eq!(charge, Some(Micros::new(1_000)));
    settle_down(&stage).await;
    let left = Micros::new(units(100).get() - 2_000);
    assert_eq!(stage.wallet().await, (left, Micros::ZERO));
    stage.assert_sound().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_key_stops_working_within_a_second() {
    let stage = Stage::new(tenant(), &[]).await;
    stage.principal().await;
    let mut tx = stage.store.begin(stage.tenant.id).await.unwrap();
    tx.revoke_api_key(stage.tenant.api_key.id()).await.unwrap();
    tx.commit().await.unwrap();
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    assert!(
        stage
            .core
            .authenticate(&stage.tenant.api_key, Ipv4Addr::LOCALHOST.into())
            .await
            .unwrap()
            .is_none()
    );
    let stranger = qudao_domain::key::ApiKey::generate();
    assert!(
        stage.core.authenticate(&stranger, Ipv4Addr::LOCALHOST.into()).await.unwrap().is_none()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_cannot_be_settled_does_not_fail_its_neighbours() {
    let model = Script::new(|request, sink| {
        sink.token("ok")?;
        Ok(done(request.params.max_tokens.unwrap_or_default() as usize))
    });
    let mut settings = CoreSettings::default();
    settings.api.settle.max_wait = Duration::from_secs(2);
    let stage = Stage::with(tenant(), &[("fake", &model)], settings).await;
    stage.sql("ALTER TABLE usage_events ADD CONSTRAINT unlucky CHECK (output_tokens <> 13)");
    let principal = stage.principal().await;
    let mut replies = Vec::new();
    for max_tokens in [12, 13, 14] {
        let mut request = request("fake");
        let Ask::Chat(chat) = &mut request.ask else { panic!("a chat is asked") };
        chat.params.max_tokens = Some(max_tokens);
        replies.push(stage.core.api_call(&principal, request).await.unwrap());
    }
    let ends = replies.into_iter().map(|mut reply| async move {
        loop {
            match reply.next().await.unwrap() {
                Ok(ApiEvent::End { .. }) => return true,
                Ok(_) => {}
                Err(error) => {
                    assert_eq!(error, ApiError::Unsettled);
                    return false;
                }
            }
        }
    });
    let [one, two, three] = <[_; 3]>::try_from(ends.collect::<Vec<_>>()).ok().unwrap();
    assert_eq!(tokio::join!(one, two, three), (true, false, true));
    assert_eq!(usage(&stage).await.len(), 2);
    stage.assert_sound().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_settles_what_was_served_before_it_gives_the_credits_back() {
    let model = Script::new(|_, sink| {
        sink.token("a")?;
        while !sink.is_cancelled() {
            std::thread::sleep(Duration::from_millis(5));
        }
        // Its last words take a while.
        std::thread::sleep(Duration::from_millis(500));
        Ok(done(1))
    });
    let stage = Stage::new(tenant(), &[("fake", &model)]).await;
    let mut reply = stage.core.api_call(&stage.principal().await, request("fake")).await.unwrap();
    reply.next().await.unwrap().unwrap();
    drop(reply);
    assert!(stage.core.drain(Duration::from_secs(20)).await);
    assert_eq!(stage.wallet().await, (Micros::new(units(100).get() - 1_000), Micros::ZERO));
    for finding in stage.store.check().await.unwrap() {
        assert_eq!(finding.violations, 0, "{finding:?}");
    }
}

/// The thread of an HTTP server may end while the database keeps a settlement waiting: a drain does not
/// wait for ever, and a thread may break down.
#[tokio::test(flavor = "multi_thread")]
async fn a_settlement_outlives_the_thread_that_began_it_and_charges_once() {
    let model = Script::says(&["Hi"]);
    let stage = Arc::new(Stage::new(tenant(), &[("fake", &model)]).await);
    let principal = stage.principal().await;
    collect(stage.core.api_call(&principal, request("fake")).await.unwrap()).await;

    // Longer than a lock is waited for.
    let lock = stage.hold("LOCK TABLE usage_events IN EXCLUSIVE MODE; SELECT pg_sleep(4)");
    let held = "SELECT count(*) FROM pg_locks WHERE mode = 'ExclusiveLock' AND granted \
                AND relation = 'usage_events'::regclass";
    while stage.sql(held) != "1" {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }

    let calling = Arc::clone(&stage);
    let server = thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            qudao_core::work_here();
            let reply = calling.core.api_call(&principal, request("fake")).await.unwrap();
            let whole = tokio::time::timeout(Duration::from_millis(300), collect(reply)).await;
            assert!(whole.is_err(), "its end waits for the settlement: {whole:?}");
        });
    });
    tokio::task::spawn_blocking(|| server.join().unwrap()).await.unwrap();
    assert!(!lock.is_finished());
    stage.release();
    tokio::task::spawn_blocking(|| lock.join().unwrap()).await.unwrap();

    settle_down(&stage).await;
    assert_eq!(usage(&stage).await.len(), 2);
    let left = Micros::new(units(100).get() - 2_000);
    assert_eq!(stage.wallet().await, (left, Micros::ZERO));
    stage.assert_sound().await;
}

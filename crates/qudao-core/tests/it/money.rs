//! Credit for exactly 37 answers, and 200 askers at once: through the chat, and through the chat
//! and the API together, on one node and on two.

use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;
use qudao_core::{ApiError, Core};
use qudao_domain::{Micros, text::ExternalId};
use qudao_storage::{Inbound, MessageBody};

use crate::{
    api::{collect, request, settle_down},
    stage::{PER_CALL, Script, Stage, done, tenant, units},
};

const ASKERS: usize = 200;
const FUNDED: usize = 37;

fn slow() -> Arc<Script> {
    Script::new(|_, sink| {
        std::thread::sleep(Duration::from_millis(20));
        sink.token("ok")?;
        Ok(done(1))
    })
}

/// A message each of this many visitors.
async fn speak(stage: &Stage, visitors: usize) {
    join_all((0..visitors).map(|visitor| {
        let inbound = Inbound {
            channel_id: stage.tenant.channel_id,
            external_id: ExternalId::parse(&format!("m{visitor}")).unwrap(),
            peer: ExternalId::parse(&format!("v{visitor}")).unwrap(),
            body: MessageBody::text("Hello"),
        };
        async move { stage.core.accept(stage.tenant.id, inbound).await.unwrap() }
    }))
    .await;
}

/// Runs turns on these nodes until no message waits.
async fn answer_all(stage: &Stage, nodes: &[Arc<Core>]) {
    for _ in 0..200 {
        let rounds = nodes.iter().map(|node| async move {
            let lease = Duration::from_secs(30);
            let claims = stage.store.claim_conversations(node.node, 100, lease).await.unwrap();
            join_all(claims.into_iter().map(|claim| node.run_turn(claim))).await;
        });
        join_all(rounds).await;
        if stage.sql("SELECT count(*) FROM inbox WHERE state = 'accepted'") == "0" {
            return;
        }
        // Those that wait for credits which others have set aside need not wait in a test.
        stage.skip_backoff();
    }
    panic!("messages are left without an answer");
}

/// Half of the callers on each of the nodes. How many were served.
async fn call_all(stage: &Stage, nodes: &[Arc<Core>], callers: usize) -> usize {
    let principal = stage.principal().await;
    let calls = (0..callers).map(|caller| {
        let (node, principal) = (&nodes[caller % nodes.len()], &principal);
        async move {
            match node.api_call(principal, request("fake")).await {
                Ok(reply) => usize::from(collect(reply).await.1.is_some()),
                Err(error) => {
                    assert_eq!(error, ApiError::InsufficientCredits);
                    0
                }
            }
        }
    });
    join_all(calls).await.into_iter().sum()
}

async fn assert_spent(stage: &Stage, nodes: &[Arc<Core>], model: &Script) {
    for node in nodes {
        node.close().await;
    }
    settle_down(stage).await;
    assert_eq!(stage.wallet().await, (Micros::ZERO, Micros::ZERO));
    let charges = stage.sql("SELECT count(*), sum(charge), min(charge) FROM usage_events");
    let each = Micros::UNIT.get();
    assert_eq!(charges, format!("{FUNDED}|{}|{each}", each * 37));
    assert_eq!(model.calls(), FUNDED, "no model works for nothing");
    assert_eq!(stage.sql("SELECT sum(amount) FROM ledger_entries"), "0");
    for finding in stage.store.check().await.unwrap() {
        // Nobody delivers in these tests.
        assert!(finding.violations == 0 || finding.id == "I13", "{finding:?}");
    }
}

async fn race(nodes: usize, visitors: usize) {
    let model = slow();
    let poor = tenant().rates(PER_CALL).credits(units(37));
    let stage = Stage::new(poor, &[("fake", &model)]).await;
    let mut cores = vec![Arc::clone(&stage.core)];
    for _ in 1..nodes {
        cores.push(stage.another_node(&[("fake", &model)]).await);
    }
    speak(&stage, visitors).await;
    let ((), served) =
        tokio::join!(answer_all(&stage, &cores), call_all(&stage, &cores, ASKERS - visitors));
    let answered: usize =
        stage.sql("SELECT count(*) FROM inbox WHERE state = 'answered'").parse().unwrap();
    let rejected: usize =
        stage.sql("SELECT count(*) FROM inbox WHERE state = 'rejected'").parse().unwrap();
    assert_eq!(answered + served, FUNDED, "{answered} in the chat, {served} by the API");
    assert_eq!(rejected, visitors - answered);
    assert_spent(&stage, &cores, &model).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_messages_at_once_with_credit_for_37_get_exactly_37_answers() {
    race(1, ASKERS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_messages_on_two_nodes_with_credit_for_37_get_exactly_37_answers() {
    race(2, ASKERS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_messages_and_calls_mixed_spend_exactly_what_is_there() {
    race(1, ASKERS / 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_messages_and_calls_on_two_nodes_spend_exactly_what_is_there() {
    race(2, ASKERS / 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_calls_on_two_nodes_spend_exactly_what_is_there() {
    race(2, 0).await;
}

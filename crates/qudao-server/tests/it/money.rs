//! Credit for exactly 37 calls, and 200 callers at once: over HTTP, on one node and on two.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use futures_util::future::join_all;
use qudao_billing::Rates;
use qudao_core::Core;
use qudao_domain::Micros;
use qudao_storage::Scope;
use qudao_testkit::TestTenant;
use serde_json::json;

use crate::{
    http,
    model::{Script, done},
    world::{JSON, World, bearer, completion, refusal},
};

const CALLERS: usize = 200;
const FUNDED: usize = 37;

/// A tenant with credit for [`FUNDED`] calls of one unit each.
async fn poor(world: &World) -> TestTenant {
    let rates = Rates {
        input_per_mtok: Micros::ZERO,
        output_per_mtok: Micros::ZERO,
        per_call: Micros::UNIT,
    };
    let credits = Micros::new(37 * Micros::UNIT.get());
    TestTenant::builder().credits(credits).rates(rates).create(&world.db.store()).await
}

fn slow() -> Arc<Script> {
    Script::new(|sink| {
        std::thread::sleep(Duration::from_millis(20));
        sink.token("ok")?;
        Ok(done(1, qudao_plugin_api::wire::FinishReason::Stop))
    })
}

/// Every second call is a stream, and every fourth has a key of its own. How many were served.
async fn call_all(nodes: &[SocketAddr], tenant: &TestTenant) -> usize {
    let auth = tenant.api_key.reveal();
    let calls = (0..CALLERS).map(|caller| {
        let body = completion(&json!({ "stream": caller % 2 == 0 })).to_string();
        let mut headers = format!("{}{JSON}", bearer(&auth));
        if caller % 4 < 2 {
            headers.push_str(&format!("idempotency-key: call-{caller}\r\n"));
        }
        let node = nodes[caller % nodes.len()];
        async move {
            let answer = http::send(node, "POST", "/v1/chat/completions", &headers, &body).await;
            if answer.status == 200 {
                return 1;
            }
            assert_eq!(refusal(&answer), (402, "insufficient_quota".to_owned()));
            assert_eq!(answer.status, 402);
            0
        }
    });
    join_all(calls).await.into_iter().sum()
}

async fn assert_spent(world: &World, cores: &[&Arc<Core>], model: &Script) {
    assert_eq!(model.calls(), FUNDED);
    for core in cores {
        core.close().await;
    }
    world.eventually("SELECT posted, held FROM wallets", "0|0").await;
    assert_eq!(world.db.psql("SELECT count(*), sum(charge) FROM usage_events"), "37|37000000");
    assert_eq!(world.db.psql("SELECT sum(amount) FROM ledger_entries"), "0");
    // The keys of those who were refused are free again.
    let held = "SELECT count(*) FROM idempotency_records WHERE status IS NULL";
    assert_eq!(world.db.psql(held), "0");
    for finding in world.db.store().check().await.unwrap() {
        assert!(finding.violations == 0 || finding.scope != Scope::Always, "{finding:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_callers_at_once_with_credit_for_37_get_exactly_37_answers() {
    let model = slow();
    let world = World::with_model(&model).await;
    let tenant = poor(&world).await;
    assert_eq!(call_all(&[world.addr()], &tenant).await, FUNDED);
    assert_spent(&world, &[&world.core], &model).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_callers_on_two_nodes_with_credit_for_37_get_exactly_37_answers() {
    let model = slow();
    let world = World::with_model(&model).await;
    let (server, core) = world.another_node(&model).await;
    let tenant = poor(&world).await;
    let nodes = [world.addr(), server.addrs()[0]];
    assert_eq!(call_all(&nodes, &tenant).await, FUNDED);
    assert_spent(&world, &[&world.core, &core], &model).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_key_on_two_nodes_is_one_call() {
    let model = slow();
    let world = World::with_model(&model).await;
    let (server, _core) = world.another_node(&model).await;
    let tenant = poor(&world).await;
    let auth = tenant.api_key.reveal();
    let headers = format!("{}{JSON}idempotency-key: same\r\n", bearer(&auth));
    let body = completion(&json!({})).to_string();
    let nodes = [world.addr(), server.addrs()[0]];
    let calls = (0..20).map(|caller| {
        let node = nodes[caller % 2];
        http::send(node, "POST", "/v1/chat/completions", &headers, &body)
    });
    let answers = join_all(calls).await;
    let fresh = answers
        .iter()
        .filter(|answer| answer.status == 200 && answer.header("idempotent-replayed").is_none());
    assert_eq!(fresh.count(), 1);
    let others = answers.iter().filter(|answer| answer.status != 200);
    for answer in others {
        assert_eq!(refusal(answer), (409, "idempotency_key_in_flight".to_owned()));
    }
    let again = http::send(nodes[1], "POST", "/v1/chat/completions", &headers, &body).await;
    assert_eq!(again.header("idempotent-replayed"), Some("true"));
    assert_eq!(model.calls(), 1);
    assert_eq!(world.db.psql("SELECT count(*), sum(charge) FROM usage_events"), "1|1000000");
}

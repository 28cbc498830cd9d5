//! Steps of several tenants that share a statement.

use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;
use qudao_core::{AcceptError, Accepted, Core};
use qudao_domain::text::ExternalId;
use qudao_storage::{Inbound, MessageBody, StorageError};
use qudao_testkit::TestTenant;

use crate::stage::{Script, Stage, tenant};

/// What a visitor of the tenant writes; each message another visitor's, but for the first.
async fn say(
    core: &Arc<Core>,
    tenant: &TestTenant,
    peer: &str,
    id: &str,
) -> Result<Accepted, AcceptError> {
    let inbound = Inbound {
        channel_id: tenant.channel_id,
        external_id: ExternalId::parse(id).unwrap(),
        peer: ExternalId::parse(peer).unwrap(),
        body: MessageBody::text("Hello"),
    };
    core.accept(tenant.id, inbound).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_somebody_holds_costs_nobody_else_their_message() {
    let model = Script::says(&["yes"]);
    let stage = Stage::new(tenant(), &[("fake", &model)]).await;
    let other = tenant().create(&stage.store).await;
    say(&stage.core, &stage.tenant, "visitor", "0").await.unwrap();
    // Longer than a lock is waited for.
    let holds = stage.hold("SELECT FROM conversations FOR UPDATE");
    let held = "SELECT count(*) FROM pg_stat_activity \
                WHERE datname = current_database() AND wait_event = 'PgSleep'";
    while stage.sql(held) == "0" {
        assert!(!holds.is_finished(), "nobody holds it");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // However those who come at one moment are divided in two, some of both share a statement.
    let ids: Vec<_> = (1..=6).map(|id| id.to_string()).collect();
    let (core, stage_tenant, other) = (&stage.core, &stage.tenant, &other);
    let said = join_all(ids.iter().enumerate().map(|(n, id)| async move {
        match n % 2 {
            0 => say(core, stage_tenant, "visitor", id).await,
            _ => say(core, other, &format!("visitor {id}"), id).await,
        }
    }));
    for (n, outcome) in said.await.into_iter().enumerate() {
        match (n % 2, outcome) {
            (0, Err(AcceptError::Storage(error))) => {
                assert!(matches!(*error, StorageError::Locked(_)), "{error:?}");
            }
            (1, Ok(accepted)) => assert!(!accepted.duplicate),
            (_, outcome) => panic!("{n}: {outcome:?}"),
        }
    }
    assert!(!holds.is_finished(), "the row was held all the time");
    stage.release();
    holds.join().unwrap();
    say(core, stage_tenant, "visitor", "1").await.unwrap();
    assert_eq!(stage.sql("SELECT count(*) FROM inbox"), "5");
}

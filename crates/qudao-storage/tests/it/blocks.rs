use std::{thread, time::Duration};

use qudao_domain::{BlockId, Currency, Micros, TurnId};
use qudao_storage::{Extend, Page, Settle, StorageError, UsageLine, connect_here};
use tokio::{
    runtime::Builder,
    time::{sleep, timeout},
};

use crate::{
    accept::join_all,
    world::{LEASE, World},
};

impl World {
    async fn api_channel(&self) -> qudao_domain::ChannelId {
        self.store.find_api_key(self.tenant.api_key.id()).await.unwrap().unwrap().channel_id
    }

    async fn reserve(&self, block: BlockId, amount: i64, lease: Duration) -> bool {
        let mut tx = self.store.begin(self.tenant.id).await.unwrap();
        let amount = Micros::new(amount);
        let reserved = tx.reserve_block(block, self.node, amount, lease).await.unwrap();
        tx.commit().await.unwrap();
        reserved
    }

    pub(crate) async fn calls(&self, charges: &[i64]) -> Vec<UsageLine> {
        let channel = self.api_channel().await;
        let key = Some(self.tenant.api_key.id());
        let call = |charge: &i64| UsageLine {
            api_key_id: key,
            ..self.usage(TurnId::new(), channel, *charge)
        };
        charges.iter().map(call).collect()
    }

    async fn settle(&self, block: BlockId, lines: &[UsageLine]) -> Settle {
        self.store.settle_calls(self.tenant.id, block, lines).await.unwrap()
    }

    async fn close(&self, block: BlockId) -> bool {
        let mut tx = self.store.begin(self.tenant.id).await.unwrap();
        let closed = tx.close_block(block).await.unwrap();
        tx.commit().await.unwrap();
        closed
    }
}

#[tokio::test]
async fn calls_are_settled_in_bulk_and_the_rest_returns() {
    let world = World::with_credits(Micros::new(10_000)).await;
    let block = BlockId::new();
    assert!(world.reserve(block, 4000, LEASE).await);
    assert_eq!(world.wallet().await, (10_000, 4000));
    let lines = world.calls(&[100, 250, 0, 650]).await;
    assert_eq!(world.settle(block, &lines).await, Settle::Done);
    assert_eq!(world.wallet().await, (9000, 3000));
    world.assert_sound().await;
    assert!(world.close(block).await);
    assert!(!world.close(block).await);
    assert_eq!(world.wallet().await, (9000, 0));
    world.assert_sound().await;

    let mut tx = world.store.begin(world.tenant.id).await.unwrap();
    let usage = tx.list_usage(&Page::default()).await.unwrap();
    assert_eq!(usage.items.len(), 4);
    // Four calls of which one was free, and the credit.
    assert_eq!(tx.list_ledger(&Page::default()).await.unwrap().items.len(), 8);
}

#[tokio::test]
async fn a_batch_that_is_repeated_charges_once_even_when_the_block_is_closed() {
    let world = World::with_credits(Micros::new(10_000)).await;
    let block = BlockId::new();
    world.reserve(block, 4000, LEASE).await;
    let mut lines = world.calls(&[100, 200]).await;
    assert_eq!(world.settle(block, &lines).await, Settle::Done);
    lines.extend(world.calls(&[300]).await);
    assert_eq!(world.settle(block, &lines).await, Settle::Done);
    assert_eq!(world.wallet().await, (9400, 3400));
    world.close(block).await;
    assert_eq!(world.settle(block, &lines).await, Settle::Done);
    lines.extend(world.calls(&[1]).await);
    assert_eq!(world.settle(block, &lines).await, Settle::Fenced);
    assert_eq!(world.wallet().await, (9400, 0));
    world.assert_sound().await;
}

/// Runs `work` on a thread that has a runtime and connections of its own, both only as long as it takes.
async fn on_its_own<T: Send + 'static>(work: impl AsyncFnOnce() -> T + Send + 'static) -> T {
    let own = || {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            connect_here();
            work().await
        })
    };
    tokio::task::spawn_blocking(|| thread::spawn(own).join().unwrap()).await.unwrap()
}

#[tokio::test]
async fn a_thread_settles_over_connections_of_its_own_and_those_of_all_when_it_needs_more() {
    let world = World::with_credits(Micros::new(10_000)).await;
    let (block, tenant) = (BlockId::new(), world.tenant.id);
    assert!(world.reserve(block, 4000, LEASE).await);
    let lines = world.calls(&[1, 10, 100, 1000]).await;
    // The processes that serve settlements.
    let serving = || {
        world.db.psql(
            "SELECT string_agg(pid::text, ' ' ORDER BY pid) FROM pg_stat_activity \
             WHERE datname = current_database() AND query LIKE '%settle_calls_of%' \
             AND pid <> pg_backend_pid()",
        )
    };
    world.settle(block, &lines[..1]).await;
    let shared = serving();

    let (store, one) = (world.store.clone(), lines[1].clone());
    let settled = on_its_own(async move || store.settle_calls(tenant, block, &[one]).await).await;
    assert_eq!(settled.unwrap(), Settle::Done);
    let both = serving();
    assert!(both.contains(&shared) && shared.len() < both.len(), "{shared}; {both}");

    // Three at a time, of which two have a connection of the thread's own.
    let (store, all) = (world.store.clone(), lines.clone());
    let settled = on_its_own(async move || {
        let each = [1, 2, 3].map(|at| store.settle_calls(tenant, block, &all[at..=at]));
        join_all(each).await
    });
    for settled in settled.await {
        assert_eq!(settled.unwrap(), Settle::Done);
    }
    assert_eq!(world.wallet().await, (10_000 - 1111, 4000 - 1111));
    world.assert_sound().await;

    // Also those of threads that are gone. A process goes a moment after its connection.
    timeout(Duration::from_secs(20), world.store.close()).await.unwrap();
    for _ in 0..400 {
        if serving().is_empty() {
            return;
        }
        sleep(Duration::from_millis(50)).await;
    }
    panic!("still there: {}", serving());
}

/// The connections of single statements serve all tenants in turn.
#[tokio::test]
async fn a_settlement_leaves_its_tenant_on_no_connection() {
    let world = World::with_credits(Micros::new(10_000)).await;
    let rival = world.other_tenant().await;
    let block = BlockId::new();
    world.reserve(block, 4000, LEASE).await;
    for _ in 0..8 {
        let lines = world.calls(&[1]).await;
        assert_eq!(world.settle(block, &lines).await, Settle::Done);
        let lines = world.calls(&[1]).await;
        let stolen = world.store.settle_calls(rival.id, block, &lines).await.unwrap();
        assert_eq!(stolen, Settle::Fenced);
    }
    assert_eq!(world.wallet().await, (9992, 3992));
    assert_eq!(world.number("SELECT count(DISTINCT tenant_id) FROM usage_events"), 1);
    world.assert_sound().await;
}

#[tokio::test]
async fn more_than_a_block_holds_cannot_be_settled() {
    let world = World::with_credits(Micros::new(10_000)).await;
    let block = BlockId::new();
    world.reserve(block, 500, LEASE).await;
    let lines = world.calls(&[300, 201]).await;
    let mut tx = world.store.begin(world.tenant.id).await.unwrap();
    let error = tx.settle_calls(block, &lines).await.unwrap_err();
    assert!(matches!(error, StorageError::Refused { .. }), "{error:?}");
    drop(tx);
    assert_eq!(world.wallet().await, (10_000, 500));
    assert_eq!(world.number("SELECT count(*) FROM usage_events"), 0);
}

#[tokio::test]
async fn a_call_in_another_currency_undoes_the_batch() {
    let world = World::new().await;
    let block = BlockId::new();
    world.reserve(block, 500, LEASE).await;
    let mut lines = world.calls(&[1, 1]).await;
    lines[1].currency = Currency::USD;
    let mut tx = world.store.begin(world.tenant.id).await.unwrap();
    let error = tx.settle_calls(block, &lines).await.unwrap_err();
    assert!(matches!(error, StorageError::Inconsistent { .. }), "{error:?}");
}

#[tokio::test]
async fn eighty_blocks_at_once_take_no_more_than_there_is() {
    let mut world = World::with_credits(Micros::new(3700)).await;
    world.store = world.patient_store().await;
    let blocks = (0..80).map(|_| world.reserve(BlockId::new(), 100, LEASE));
    let reserved = join_all(blocks).await.into_iter().filter(|reserved| *reserved).count();
    assert_eq!(reserved, 37);
    assert_eq!(world.wallet().await, (3700, 3700));
    world.assert_sound().await;
}

#[tokio::test]
async fn a_block_takes_what_there_is_between_two_bounds() {
    let world = World::with_credits(Micros::new(700)).await;
    let mut tx = world.store.begin(world.tenant.id).await.unwrap();
    let (least, most) = (Micros::new(100), Micros::new(500));
    let mut reserve =
        async |block| tx.reserve_block_up_to(block, world.node, least, most, LEASE).await.unwrap();
    let first = BlockId::new();
    assert_eq!(reserve(first).await, Some(most));
    assert_eq!(reserve(first).await, Some(most), "a repeated request reserves once");
    assert_eq!(reserve(BlockId::new()).await, Some(Micros::new(200)));
    assert_eq!(reserve(BlockId::new()).await, None);
}

#[tokio::test]
async fn a_block_grows_within_the_wallet() {
    let world = World::with_credits(Micros::new(700)).await;
    let block = BlockId::new();
    world.reserve(block, 500, LEASE).await;
    let mut tx = world.store.begin(world.tenant.id).await.unwrap();
    let more = Micros::new(150);
    assert_eq!(tx.extend_block(block, more, LEASE).await.unwrap(), Extend::Extended);
    assert_eq!(tx.extend_block(block, more, LEASE).await.unwrap(), Extend::NoFunds);
    assert_eq!(tx.extend_block(block, Micros::ZERO, LEASE).await.unwrap(), Extend::Extended);
    assert_eq!(tx.extend_block(BlockId::new(), more, LEASE).await.unwrap(), Extend::Gone);
    tx.commit().await.unwrap();
    assert_eq!(world.wallet().await, (700, 650));
    world.assert_sound().await;
}

#[tokio::test]
async fn a_block_whose_lease_ran_out_is_voided_less_what_was_settled() {
    let world = World::with_credits(Micros::new(10_000)).await;
    let (dead, alive) = (BlockId::new(), BlockId::new());
    world.reserve(dead, 4000, Duration::ZERO).await;
    world.reserve(alive, 1000, LEASE).await;
    let lines = world.calls(&[300]).await;
    world.settle(dead, &lines).await;
    assert_eq!(world.store.sweep().await.unwrap().blocks, 1);
    assert_eq!(world.wallet().await, (9700, 1000));
    // The node comes back and finds itself fenced.
    assert_eq!(world.settle(dead, &world.calls(&[1]).await).await, Settle::Fenced);
    let mut tx = world.store.begin(world.tenant.id).await.unwrap();
    assert_eq!(tx.extend_block(dead, Micros::ZERO, LEASE).await.unwrap(), Extend::Gone);
    drop(tx);
    assert_eq!(world.settle(alive, &world.calls(&[1]).await).await, Settle::Done);
    world.assert_sound().await;
}

#[tokio::test]
async fn calls_that_nobody_pays_for_are_still_on_record() {
    let world = World::new().await;
    let mut lines = world.calls(&[0]).await;
    lines[0].absorbed = Micros::new(40);
    let mut tx = world.store.begin(world.tenant.id).await.unwrap();
    tx.absorb_calls(&lines).await.unwrap();
    lines[0].charge = Micros::new(1);
    assert!(matches!(tx.absorb_calls(&lines).await, Err(StorageError::Refused { .. })));
    tx.commit().await.unwrap();
    let borne = "SELECT sum(amount) FROM ledger_entries WHERE account = 'platform_absorbed'";
    assert_eq!(world.number(borne), -40);
    world.assert_sound().await;
}

#[tokio::test]
async fn the_schema_refuses_a_charge_without_a_block() {
    let world = World::new().await;
    let line = &world.calls(&[0]).await[0];
    world.db.psql(
        "CREATE FUNCTION overcharge() RETURNS trigger LANGUAGE plpgsql AS \
         $$ BEGIN NEW.charge := 7; RETURN NEW; END $$; \
         CREATE TRIGGER overcharge BEFORE INSERT ON usage_events \
         FOR EACH ROW EXECUTE FUNCTION overcharge()",
    );
    let mut tx = world.store.begin(world.tenant.id).await.unwrap();
    let refused = tx.absorb_calls(std::slice::from_ref(line)).await.unwrap_err();
    assert!(matches!(refused, StorageError::Inconsistent { .. }), "{refused:?}");
    drop(tx);
    assert_eq!(world.number("SELECT count(*) FROM usage_events"), 0);
    world.assert_sound().await;
}

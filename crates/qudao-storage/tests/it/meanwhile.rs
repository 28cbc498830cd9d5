//! Steps of turns while somebody else writes into the rows that they change.

use std::time::{Duration, Instant};

use qudao_storage::Commit;
use sqlx::{Connection as _, Executor as _, PgConnection};

use crate::world::{LEASE, World};

impl World {
    /// Does this while a transaction of somebody else has changed the rows, which ends once it is
    /// waited for.
    async fn while_changing<T>(&self, change: &'static str, step: impl Future<Output = T>) -> T {
        let mut other = PgConnection::connect(self.db.url()).await.unwrap();
        let mut witness = PgConnection::connect(self.db.url()).await.unwrap();
        other.execute("BEGIN").await.unwrap();
        other.execute(change).await.unwrap();
        let begun = Instant::now();
        let end = async {
            let waiting = "SELECT count(*) FROM pg_stat_activity \
                           WHERE datname = current_database() AND wait_event_type = 'Lock'";
            while sqlx::query_scalar::<_, i64>(waiting).fetch_one(&mut witness).await.unwrap() == 0
            {
                assert!(begun.elapsed() < Duration::from_secs(20), "nobody waits for it");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            other.execute("COMMIT").await.unwrap();
        };
        tokio::join!(step, end).0
    }
}

#[tokio::test]
async fn a_message_that_is_written_into_meanwhile_is_answered_all_the_same() {
    let world = World::new().await;
    world.say("ada", "m1").await;
    let claim = world.claim_one().await;
    world.hold(&claim, 1000).await;
    // As when a photo's copy arrives.
    let change = "UPDATE inbox SET body = body || '{\"text\": \"and more\"}'";
    let commit = world.while_changing(change, world.commit(&claim, 700)).await;
    assert!(matches!(commit, Commit::Done { .. }));
    assert_eq!(world.number("SELECT count(*) FROM inbox WHERE state = 'answered'"), 1);
    world.assert_sound().await;
}

#[tokio::test]
async fn a_delivery_that_is_written_into_meanwhile_is_finished_all_the_same() {
    let world = World::new().await;
    world.chat("ada", "m1").await;
    let claims = world.store.claim_outbox(world.node, 64, LEASE).await.unwrap();
    let change = "UPDATE outbox SET last_error = 'looked at'";
    world.while_changing(change, world.finish(&claims[0])).await;
    assert_eq!(world.number("SELECT count(*) FROM outbox WHERE state = 'delivered'"), 1);
    world.assert_sound().await;
}

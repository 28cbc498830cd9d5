//! Steps of turns while somebody else writes into the rows that they change.

use std::{thread::JoinHandle, time::Duration};

use qudao_storage::Commit;

use crate::world::{LEASE, World};

impl World {
    /// Begins a transaction of somebody else that stays open for a second, and waits until it has
    /// changed its rows.
    async fn changing(&self, change: &str) -> JoinHandle<String> {
        let other = self.db.psql_beside(&format!("BEGIN; {change}; SELECT pg_sleep(1); COMMIT"));
        let asleep = "SELECT count(*) FROM pg_stat_activity \
                      WHERE datname = current_database() AND wait_event = 'PgSleep'";
        while self.number(asleep) == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        other
    }
}

#[tokio::test]
async fn a_message_that_is_written_into_meanwhile_is_answered_all_the_same() {
    let world = World::new().await;
    world.say("ada", "m1").await;
    let claim = world.claim_one().await;
    world.hold(&claim, 1000).await;
    // As when a photo's copy arrives.
    let other = world.changing("UPDATE inbox SET body = body || '{\"text\": \"and more\"}'").await;
    assert!(matches!(world.commit(&claim, 700).await, Commit::Done { .. }));
    other.join().unwrap();
    assert_eq!(world.number("SELECT count(*) FROM inbox WHERE state = 'answered'"), 1);
    world.assert_sound().await;
}

#[tokio::test]
async fn a_delivery_that_is_written_into_meanwhile_is_finished_all_the_same() {
    let world = World::new().await;
    world.chat("ada", "m1").await;
    let claims = world.store.claim_outbox(world.node, 64, LEASE).await.unwrap();
    let other = world.changing("UPDATE outbox SET last_error = 'looked at'").await;
    world.finish(&claims[0]).await;
    other.join().unwrap();
    assert_eq!(world.number("SELECT count(*) FROM outbox WHERE state = 'delivered'"), 1);
    world.assert_sound().await;
}

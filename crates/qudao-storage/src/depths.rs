//! Reads how much waits in the database, for the metrics.

use std::time::Duration;

use metrics::{counter, gauge};
use sqlx::Row as _;

use crate::{Bus, Result, Store};

/// Where counting ends.
const MOST: i32 = 100_000;
/// How long the reading may take: whoever waits for it would rather do without.
pub(crate) const PATIENCE: Duration = Duration::from_secs(2);

impl Store {
    /// Reads the depths of all queues in one statement, and the state of this node's connections,
    /// into their gauges; closes connections that have rested for too long. Takes no lock that
    /// anybody waits for, and gives up after two seconds.
    ///
    /// # Errors
    /// [`StorageError`](crate::StorageError); the gauges stay as they were.
    pub async fn watch(&self) -> Result<()> {
        self.close_idle();
        for (pool, (size, idle, most)) in
            [("work", self.work_load()), ("settle", self.settle_load())]
        {
            let set = |state, number: u32| {
                gauge!("qudao_db_connections", "pool" => pool, "state" => state).set(number);
            };
            set("in_use", size.saturating_sub(idle));
            set("idle", idle);
            gauge!("qudao_db_connections_max", "pool" => pool).set(most);
        }
        let read = self.read_depths().await;
        let outcome = if read.is_ok() { "ok" } else { "failed" };
        counter!("qudao_depths_reads_total", "outcome" => outcome).increment(1);
        for (what, amount) in read? {
            tell(&what, amount.unwrap_or(0.0));
        }
        Ok(())
    }

    /// The names of `app.queue_depths` with their numbers; none is the oldest of nothing.
    async fn read_depths(&self) -> Result<Vec<(String, Option<f64>)>> {
        let mut tx = self.begin_watch().await?;
        let rows = sqlx::query("SELECT what, amount FROM app.queue_depths($1)")
            .bind(MOST)
            .fetch_all(tx.connection())
            .await?;
        tx.commit().await?;
        rows.iter().map(|row| Ok((row.try_get("what")?, row.try_get("amount")?))).collect()
    }
}

impl Bus {
    /// Asks Redis for a sign of life and tells the gauge.
    pub async fn watch(&self) {
        gauge!("qudao_bus_connected").set(f64::from(u8::from(self.ping().await)));
    }
}

fn tell(what: &str, amount: f64) {
    let of_conversations = |state| gauge!("qudao_conversations", "state" => state).set(amount);
    let of_outbox = |state| gauge!("qudao_outbox", "state" => state).set(amount);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "counts of Postgres, which are whole and not negative"
    )]
    let total = amount as u64;
    match what {
        "conversations_ready" => of_conversations("ready"),
        "conversations_postponed" => of_conversations("postponed"),
        "conversations_leased" => of_conversations("leased"),
        "conversations_lapsed" => of_conversations("lapsed"),
        "conversations_ready_age" => gauge!("qudao_conversations_oldest_ready_seconds").set(amount),
        "messages_unanswered" => gauge!("qudao_messages_unanswered").set(amount),
        "outbox_due" => of_outbox("due"),
        "outbox_postponed" => of_outbox("postponed"),
        "outbox_sending" => of_outbox("sending"),
        "outbox_age" => gauge!("qudao_outbox_oldest_seconds").set(amount),
        "holds_open" => gauge!("qudao_holds_open").set(amount),
        "holds_micros" => gauge!("qudao_holds_micros").set(amount),
        "holds_age" => gauge!("qudao_holds_oldest_seconds").set(amount),
        "blocks_open" => gauge!("qudao_blocks_open").set(amount),
        "blocks_micros" => gauge!("qudao_blocks_micros").set(amount),
        "blocks_lapsed" => gauge!("qudao_blocks_lapsed").set(amount),
        "idempotency_records" => gauge!("qudao_idempotency_records").set(amount),
        "archive_enabled" => gauge!("qudao_archive_enabled").set(amount),
        "archive_done" => counter!("qudao_archive_segments_total").absolute(total),
        "archive_failed" => counter!("qudao_archive_failures_total").absolute(total),
        "archive_age" => gauge!("qudao_archive_age_seconds").set(amount),
        "archive_failing" => gauge!("qudao_archive_failing").set(amount),
        "connections" => gauge!("qudao_postgres_connections").set(amount),
        "connections_most" => gauge!("qudao_postgres_connections_max").set(amount),
        "deadlocks" => counter!("qudao_postgres_deadlocks_total").absolute(total),
        // A later release reads more.
        _ => {}
    }
}

//! The metrics of this crate: what waits in the database, its connections, and the bus.

use qudao_telemetry::{Label, Metric, Unit};

/// All of them.
pub const METRICS: &[Metric] = &[
    Metric::gauge("qudao_conversations", "Conversations with unanswered messages: `ready` to be claimed, `postponed` until a retry, `leased` by a node, `lapsed` with a lease that ran out; counted up to 100,000")
        .by(&[Label { name: "state", values: &["ready", "postponed", "leased", "lapsed"] }]),
    Metric::gauge("qudao_conversations_oldest_ready_seconds", "For how long the first ready conversation has waited for a node")
        .in_unit(Unit::Seconds),
    Metric::gauge("qudao_messages_unanswered", "Messages that were accepted and are not answered, refused or given up yet"),
    Metric::gauge("qudao_outbox", "Replies and notices that are not delivered: `due` now, `postponed` until a retry, `sending`; counted up to 100,000")
        .by(&[Label { name: "state", values: &["due", "postponed", "sending"] }]),
    Metric::gauge("qudao_outbox_oldest_seconds", "The age of the oldest reply or notice that is not delivered")
        .in_unit(Unit::Seconds),
    Metric::gauge("qudao_holds_open", "Holds of turns that are neither settled nor voided"),
    Metric::gauge("qudao_holds_micros", "What these holds keep of wallets, all currencies together")
        .in_unit(Unit::Micros),
    Metric::gauge("qudao_holds_oldest_seconds", "The age of the oldest open hold of a turn")
        .in_unit(Unit::Seconds),
    Metric::gauge("qudao_blocks_open", "Credit blocks that nodes hold for API calls"),
    Metric::gauge("qudao_blocks_micros", "What these blocks keep of wallets, all currencies together")
        .in_unit(Unit::Micros),
    Metric::gauge("qudao_blocks_lapsed", "Credit blocks whose lease ran out and that no sweep has given back yet"),
    Metric::gauge("qudao_idempotency_records", "Answers kept under an `Idempotency-Key`, as of the table's last ANALYZE"),
    Metric::gauge("qudao_archive_enabled", "1 if Postgres archives its log"),
    Metric::counter("qudao_archive_segments_total", "Segments of the log that Postgres has archived"),
    Metric::counter("qudao_archive_failures_total", "Tries of Postgres to archive a segment that failed"),
    Metric::gauge("qudao_archive_age_seconds", "How long ago Postgres last archived a segment; 0 if it never did")
        .in_unit(Unit::Seconds),
    Metric::gauge("qudao_archive_failing", "1 if the last try to archive a segment failed"),
    Metric::gauge("qudao_postgres_connections", "Connections to this database, of all nodes and others"),
    Metric::gauge("qudao_postgres_connections_max", "How many connections the Postgres server allows"),
    Metric::counter("qudao_postgres_deadlocks_total", "Deadlocks that Postgres broke"),
    Metric::counter("qudao_depths_reads_total", "Readings of the numbers above from the database; while they fail, the gauges are stale")
        .by(&[Label { name: "outcome", values: &["ok", "failed"] }]),
    Metric::counter("qudao_limiter_fallbacks_total", "Rates that this node decided alone, since Redis did not answer in time"),
    Metric::gauge("qudao_db_connections", "Open connections of this node: pool `work` for transactions, `settle` for the steps that are one statement: acceptance, turns, deliveries, settlements")
        .by(&[
            Label { name: "pool", values: &["work", "settle"] },
            Label { name: "state", values: &["in_use", "idle"] },
        ]),
    Metric::gauge("qudao_db_connections_max", "The most connections of the pool")
        .by(&[Label { name: "pool", values: &["work", "settle"] }]),
    Metric::histogram("qudao_db_begin_seconds", Unit::Seconds, "The wait for a connection and the opening of a transaction"),
    Metric::counter("qudao_db_errors_total", "Failures of the database: `unavailable`, `timeout` (of a statement or the wait for a connection), `locked` (another transaction held a lock), `contended`, `defect` (a bug)")
        .by(&[Label { name: "class", values: &["unavailable", "timeout", "locked", "contended", "defect"] }]),
    Metric::gauge("qudao_bus_connected", "1 if Redis answered last time"),
    Metric::counter("qudao_bus_dropped_total", "Hints and pieces of previews that were not published, because Redis was away or slow"),
    Metric::counter("qudao_bus_listens_total", "How often the connection that listens to Redis was made; each time after the first it had been lost"),
    Metric::gauge("qudao_bus_watchers", "Subscriptions of this node"),
    Metric::counter("qudao_bus_overflows_total", "Messages that pushed an older one out of the full mailbox of a slow subscription; it reads the database instead"),
];

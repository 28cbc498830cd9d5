//! What numbers may be: a value that makes no sense is refused with its key.

use std::ops::RangeInclusive;

use super::Problem;
use crate::{
    Settings,
    settings::{Database, Egress, Limits, Routing, Server, Worker},
};

type Row = (&'static str, u64, RangeInclusive<u64>);

/// Every number that cannot be used.
pub(super) fn check(settings: &Settings) -> Vec<Problem> {
    let Settings { server, database, worker, limits, routing, egress, .. } = settings;
    let rates = of_rates(limits).into_iter().chain(of_administration(limits));
    let rows = of_worker(worker).into_iter().chain(rates).chain(of_limits(limits));
    let rows = rows.chain(of_routing(routing));
    let rows = rows.chain(of_server(server)).chain(of_database(database)).chain(of_egress(egress));
    let mut problems: Vec<_> =
        rows.filter_map(|(key, value, range)| outside(key, value, &range)).collect();
    for (key, values, range) in [
        ("worker.turn_backoff_s", &worker.turn_backoff_s, 1..=86_400),
        ("worker.delivery_backoff_s", &worker.delivery_backoff_s, 1..=604_800),
    ] {
        let wrong = values.iter().find_map(|value| outside(key, *value, &range));
        problems.extend(wrong);
        if values.len() > 50 {
            problems.push(problem(key, "must have at most 50 entries".to_owned()));
        }
    }
    problems.extend(check_pairs(server, worker, limits));
    problems
}

/// Numbers that only make sense beside another.
fn check_pairs(server: &Server, worker: &Worker, limits: &Limits) -> Vec<Problem> {
    let pairs = [
        (
            server.heartbeat_s < server.socket_idle_s,
            "server.socket_idle_s",
            "must be more than server.heartbeat_s",
        ),
        (
            worker.turn_heartbeat_s < worker.turn_lease_s,
            "worker.turn_heartbeat_s",
            "must be less than worker.turn_lease_s",
        ),
        (
            worker.tenant_turns_in_flight <= worker.turns_in_flight,
            "worker.tenant_turns_in_flight",
            "must be at most worker.turns_in_flight",
        ),
        (
            limits.tenant_calls_in_flight <= limits.calls_in_flight,
            "limits.tenant_calls_in_flight",
            "must be at most limits.calls_in_flight",
        ),
        (
            limits.tenant_backlog <= limits.platform_backlog,
            "limits.tenant_backlog",
            "must be at most limits.platform_backlog",
        ),
        (
            limits.completion_body_kib <= server.bodies_mib.saturating_mul(1024),
            "server.bodies_mib",
            "must hold a body of limits.completion_body_kib",
        ),
    ];
    let broken = pairs.into_iter().filter(|(holds, ..)| !holds);
    broken.map(|(_, key, reason)| problem(key, reason.to_owned())).collect()
}

fn outside(key: &str, value: u64, range: &RangeInclusive<u64>) -> Option<Problem> {
    let (least, most) = (range.start(), range.end());
    (!range.contains(&value)).then(|| problem(key, format!("must be from {least} to {most}")))
}

fn problem(key: &str, reason: String) -> Problem {
    Problem { key: key.to_owned(), reason }
}

fn size(value: usize) -> u64 {
    u64::try_from(value).unwrap_or(u64::MAX)
}

fn of_server(server: &Server) -> Vec<Row> {
    vec![
        ("server.connections_per_worker", size(server.connections_per_worker), 1..=1_000_000),
        ("server.connections_per_address", size(server.connections_per_address), 0..=1_000_000),
        ("server.hsts_s", server.hsts_s, 0..=63_072_000),
        ("server.headers", size(server.headers), 8..=96),
        ("server.header_kib", size(server.header_kib), 1..=128),
        ("server.request_head_timeout_s", server.request_head_timeout_s, 1..=3600),
        ("server.request_body_timeout_s", server.request_body_timeout_s, 1..=3600),
        ("server.keep_alive_s", server.keep_alive_s, 1..=3600),
        ("server.bodies_mib", size(server.bodies_mib), 1..=1_048_576),
        ("server.heartbeat_s", server.heartbeat_s, 1..=3600),
        ("server.socket_idle_s", server.socket_idle_s, 2..=86_400),
        ("server.slow_client_s", server.slow_client_s, 1..=3600),
        ("server.socket_message_kib", size(server.socket_message_kib), 1..=1_048_576),
        ("server.outgoing_frames", size(server.outgoing_frames), 1..=1_000_000),
        ("server.waiting_messages", size(server.waiting_messages), 1..=1_000_000),
        ("server.chats_per_visitor", size(server.chats_per_visitor), 1..=1_000_000),
        ("server.chats_per_tenant", size(server.chats_per_tenant), 1..=10_000_000),
    ]
}

fn of_database(database: &Database) -> Vec<Row> {
    vec![
        ("database.acquire_timeout_ms", database.acquire_timeout_ms, 10..=60_000),
        ("database.statement_timeout_ms", database.statement_timeout_ms, 100..=600_000),
        ("database.lock_timeout_ms", database.lock_timeout_ms, 10..=600_000),
    ]
}

fn of_egress(egress: &Egress) -> Vec<Row> {
    vec![
        ("egress.connect_timeout_ms", egress.connect_timeout_ms, 100..=60_000),
        ("egress.timeout_ms", egress.timeout_ms, 100..=600_000),
        ("egress.body_kib", size(egress.body_kib), 1..=1_048_576),
    ]
}

fn of_routing(routing: &Routing) -> Vec<Row> {
    vec![
        ("routing.breaker_window_s", routing.breaker_window_s, 1..=3600),
        ("routing.breaker_min_calls", u64::from(routing.breaker_min_calls), 1..=1_000_000),
        ("routing.breaker_failure_percent", u64::from(routing.breaker_failure_percent), 1..=100),
        ("routing.breaker_open_s", routing.breaker_open_s, 1..=3600),
        ("routing.breaker_probes", u64::from(routing.breaker_probes), 1..=1000),
        ("routing.canary_judge_s", routing.canary_judge_s, 1..=3600),
    ]
}

fn of_worker(worker: &Worker) -> Vec<Row> {
    vec![
        ("worker.tenant_turns_in_flight", size(worker.tenant_turns_in_flight), 0..=1_000_000),
        ("worker.turn_lease_s", worker.turn_lease_s, 2..=3600),
        ("worker.turn_heartbeat_s", worker.turn_heartbeat_s, 1..=3600),
        ("worker.turn_attempts", u64::from(worker.turn_attempts), 1..=1000),
        ("worker.model_wait_s", worker.model_wait_s, 1..=86_400),
        ("worker.turn_patience_s", worker.turn_patience_s, 1..=604_800),
        ("worker.delivery_lease_s", worker.delivery_lease_s, 2..=3600),
        ("worker.sweep_s", worker.sweep_s, 1..=3600),
        ("worker.turns_in_flight", size(worker.turns_in_flight), 1..=1_000_000),
        ("worker.deliveries_in_flight", size(worker.deliveries_in_flight), 1..=1_000_000),
        ("worker.claim_batch", u64::from(worker.claim_batch), 1..=1000),
        ("worker.poll_ms", worker.poll_ms, 10..=60_000),
    ]
}

fn of_administration(limits: &Limits) -> Vec<Row> {
    vec![
        (
            "limits.admin_requests_per_minute",
            u64::from(limits.admin_requests_per_minute),
            0..=1_000_000,
        ),
        ("limits.admin_burst", u64::from(limits.admin_burst), 1..=1_000_000),
        (
            "limits.admin_address_requests_per_minute",
            u64::from(limits.admin_address_requests_per_minute),
            0..=1_000_000,
        ),
        ("limits.admin_address_burst", u64::from(limits.admin_address_burst), 1..=1_000_000),
        (
            "limits.sign_in_attempts_per_minute",
            u64::from(limits.sign_in_attempts_per_minute),
            0..=1_000_000,
        ),
        ("limits.sign_in_burst", u64::from(limits.sign_in_burst), 1..=1_000_000),
        (
            "limits.address_sign_in_attempts_per_minute",
            u64::from(limits.address_sign_in_attempts_per_minute),
            0..=1_000_000,
        ),
        ("limits.address_sign_in_burst", u64::from(limits.address_sign_in_burst), 1..=1_000_000),
    ]
}

fn of_rates(limits: &Limits) -> Vec<Row> {
    vec![
        ("limits.requests_per_second", u64::from(limits.requests_per_second), 0..=1_000_000),
        ("limits.burst", u64::from(limits.burst), 1..=1_000_000),
        (
            "limits.tenant_requests_per_second",
            u64::from(limits.tenant_requests_per_second),
            0..=1_000_000,
        ),
        ("limits.tenant_burst", u64::from(limits.tenant_burst), 1..=1_000_000),
        (
            "limits.address_requests_per_second",
            u64::from(limits.address_requests_per_second),
            0..=1_000_000,
        ),
        ("limits.address_request_burst", u64::from(limits.address_request_burst), 1..=1_000_000),
        (
            "limits.key_tokens_per_minute",
            u64::from(limits.key_tokens_per_minute),
            0..=1_000_000_000,
        ),
        (
            "limits.tenant_tokens_per_minute",
            u64::from(limits.tenant_tokens_per_minute),
            0..=1_000_000_000,
        ),
        (
            "limits.visitor_messages_per_minute",
            u64::from(limits.visitor_messages_per_minute),
            0..=1_000_000,
        ),
        ("limits.visitor_burst", u64::from(limits.visitor_burst), 1..=1_000_000),
        (
            "limits.address_messages_per_minute",
            u64::from(limits.address_messages_per_minute),
            0..=1_000_000,
        ),
        ("limits.address_burst", u64::from(limits.address_burst), 1..=1_000_000),
        (
            "limits.assistant_messages_per_minute",
            u64::from(limits.assistant_messages_per_minute),
            0..=1_000_000,
        ),
        ("limits.assistant_burst", u64::from(limits.assistant_burst), 1..=1_000_000),
        (
            "limits.tenant_messages_per_minute",
            u64::from(limits.tenant_messages_per_minute),
            0..=1_000_000,
        ),
        ("limits.tenant_message_burst", u64::from(limits.tenant_message_burst), 1..=1_000_000),
        ("limits.nodes", u64::from(limits.nodes), 1..=10_000),
        ("limits.redis_patience_ms", limits.redis_patience_ms, 1..=10_000),
        ("limits.redis_rest_ms", limits.redis_rest_ms, 1..=60_000),
    ]
}

fn of_limits(limits: &Limits) -> Vec<Row> {
    vec![
        ("limits.calls_in_flight", size(limits.calls_in_flight), 1..=1_000_000),
        ("limits.tenant_calls_in_flight", size(limits.tenant_calls_in_flight), 0..=1_000_000),
        ("limits.tenant_backlog", u64::from(limits.tenant_backlog), 1..=1_000_000),
        ("limits.platform_backlog", u64::from(limits.platform_backlog), 1..=1_000_000),
        ("limits.body_kib", size(limits.body_kib), 1..=1_000_000),
        ("limits.completion_body_kib", size(limits.completion_body_kib), 1..=1_000_000),
        ("limits.max_reply_tokens", u64::from(limits.max_reply_tokens), 1..=1_000_000),
        ("limits.default_max_tokens", u64::from(limits.default_max_tokens), 1..=1_000_000),
        ("limits.history_messages", u64::from(limits.history_messages), 0..=10_000),
        ("limits.turn_timeout_s", limits.turn_timeout_s, 1..=86_400),
        ("limits.call_timeout_s", limits.call_timeout_s, 1..=86_400),
        ("limits.settle_batch", size(limits.settle_batch), 1..=1000),
        ("limits.settle_timeout_s", limits.settle_timeout_s, 1..=3600),
        ("limits.block_lease_s", limits.block_lease_s, 3..=3600),
    ]
}

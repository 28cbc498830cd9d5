use super::*;

/// The settings with these keys, each set to what no default is.
fn with(keys: &[(&str, &str)]) -> Settings {
    let variable = |(key, value): &(&str, &str)| {
        let name = format!("QUDAO__{}", key.replace('.', "__").to_uppercase());
        (name, (*value).to_owned())
    };
    qudao_config::load(None, keys.iter().map(variable)).unwrap().settings
}

fn key() -> SecretHash {
    SecretHash::of("qo_")
}

#[test]
fn the_bounds_of_the_server_come_from_the_settings() {
    let limits = server(
        &with(&[
            ("server.connections_per_worker", "11"),
            ("server.connections_per_address", "12"),
            ("server.headers", "13"),
            ("server.header_kib", "14"),
            ("server.request_head_timeout_s", "15"),
            ("server.request_body_timeout_s", "16"),
            ("server.keep_alive_s", "17"),
            ("server.bodies_mib", "38"),
            ("server.heartbeat_s", "19"),
            ("server.socket_idle_s", "20"),
            ("server.slow_client_s", "21"),
            ("server.socket_message_kib", "22"),
            ("server.outgoing_frames", "23"),
            ("server.waiting_messages", "24"),
            ("server.chats_per_visitor", "25"),
            ("server.chats_per_tenant", "26"),
            ("limits.body_kib", "27"),
            ("limits.completion_body_kib", "28"),
        ]),
        key(),
    )
    .limits;
    let counts = [
        limits.connections_per_worker,
        limits.connections_per_address,
        limits.headers,
        limits.header_bytes / 1024,
        limits.bodies_bytes >> 20,
        limits.socket_message_bytes / 1024,
        limits.outgoing_frames,
        limits.waiting_messages,
        limits.chats_per_visitor,
        limits.chats_per_tenant,
        limits.body_bytes / 1024,
        limits.completion_body_bytes / 1024,
    ];
    assert_eq!(counts, [11, 12, 13, 14, 38, 22, 23, 24, 25, 26, 27, 28]);
    let times = [
        limits.request_head_timeout,
        limits.request_body_timeout,
        limits.keep_alive,
        limits.heartbeat,
        limits.socket_idle_timeout,
        limits.slow_client_timeout,
    ];
    assert_eq!(times, [15, 16, 17, 19, 20, 21].map(secs));
}

#[test]
fn the_bounds_of_the_pipeline_come_from_the_settings() {
    let settings = with(&[
        ("worker.turns_in_flight", "80"),
        ("worker.tenant_turns_in_flight", "31"),
        ("worker.turn_lease_s", "32"),
        ("worker.turn_heartbeat_s", "11"),
        ("worker.turn_attempts", "34"),
        ("worker.turn_backoff_s", "1,2"),
        ("worker.model_wait_s", "35"),
        ("worker.turn_patience_s", "36"),
        ("worker.delivery_lease_s", "37"),
        ("worker.delivery_backoff_s", "3,4"),
        ("worker.sweep_s", "38"),
        ("limits.calls_in_flight", "40"),
        ("limits.tenant_calls_in_flight", "39"),
        ("limits.tenant_backlog", "41"),
        ("limits.platform_backlog", "42"),
        ("limits.settle_batch", "43"),
        ("limits.settle_timeout_s", "44"),
        ("limits.block_lease_s", "45"),
    ]);
    let core = core(&settings);
    let turns = &core.turns;
    let times = [turns.lease, turns.heartbeat, turns.ready_wait, turns.patience];
    assert_eq!(times, [32, 11, 35, 36].map(secs));
    assert_eq!((turns.max_attempts, &*turns.backoff), (34, &[secs(1), secs(2)][..]));
    assert_eq!((core.api.in_flight, core.api.tenant_in_flight), (40, 39));
    assert_eq!((core.backlog.tenant, core.backlog.platform), (41, 42));
    assert_eq!((core.api.settle.max_batch, core.api.settle.timeout), (43, secs(44)));
    assert_eq!((core.api.blocks.lease, core.api.blocks.renew), (secs(45), secs(15)));
    let worker = worker(&settings);
    assert_eq!((worker.turns_in_flight, worker.tenant_turns_in_flight), (80, 31));
    assert_eq!(worker.delivery_backoff, [secs(3), secs(4)]);
    assert_eq!((worker.delivery_lease, worker.sweep_every), (secs(37), secs(38)));
}

#[test]
fn the_rates_come_from_the_settings_and_a_rate_of_zero_is_none() {
    let rates = core(&with(&[
        ("limits.requests_per_second", "1"),
        ("limits.burst", "2"),
        ("limits.tenant_requests_per_second", "3"),
        ("limits.tenant_burst", "4"),
        ("limits.address_requests_per_second", "5"),
        ("limits.address_request_burst", "6"),
        ("limits.key_tokens_per_minute", "700"),
        ("limits.tenant_tokens_per_minute", "800"),
        ("limits.visitor_messages_per_minute", "9"),
        ("limits.visitor_burst", "10"),
        ("limits.address_messages_per_minute", "0"),
        ("limits.assistant_messages_per_minute", "13"),
        ("limits.assistant_burst", "14"),
        ("limits.tenant_messages_per_minute", "15"),
        ("limits.tenant_message_burst", "16"),
        ("limits.admin_requests_per_minute", "17"),
        ("limits.admin_burst", "18"),
        ("limits.admin_address_requests_per_minute", "19"),
        ("limits.admin_address_burst", "20"),
        ("limits.sign_in_attempts_per_minute", "24"),
        ("limits.sign_in_burst", "25"),
        ("limits.address_sign_in_attempts_per_minute", "26"),
        ("limits.address_sign_in_burst", "27"),
        ("limits.nodes", "3"),
        ("limits.redis_patience_ms", "22"),
        ("limits.redis_rest_ms", "23"),
    ]))
    .rates;
    assert_eq!(rates.key, Rate::per_second(1, 2));
    assert_eq!(rates.tenant, Rate::per_second(3, 4));
    assert_eq!(rates.address, Rate::per_second(5, 6));
    assert_eq!(rates.key_tokens, Rate::per_minute(700, 700));
    assert_eq!(rates.tenant_tokens, Rate::per_minute(800, 800));
    assert_eq!(rates.visitor, Rate::per_minute(9, 10));
    assert_eq!(rates.chat_address, None);
    assert_eq!(rates.assistant, Rate::per_minute(13, 14));
    assert_eq!(rates.tenant_messages, Rate::per_minute(15, 16));
    assert_eq!(rates.admin, Rate::per_minute(17, 18));
    assert_eq!(rates.admin_address, Rate::per_minute(19, 20));
    assert_eq!(rates.sign_in, Rate::per_minute(24, 25));
    assert_eq!(rates.sign_in_address, Rate::per_minute(26, 27));
    let limiter = rates.limiter;
    let times = (limiter.nodes, limiter.patience, limiter.rest);
    assert_eq!(times, (3, millis(22), millis(23)));
}

#[test]
fn what_is_left_at_zero_is_a_share_so_that_no_tenant_has_it_all() {
    let settings = with(&[("worker.turns_in_flight", "1"), ("limits.calls_in_flight", "8")]);
    assert_eq!(worker(&settings).tenant_turns_in_flight, 1);
    assert_eq!(worker(&with(&[])).tenant_turns_in_flight, 56);
    assert_eq!(core(&settings).api.tenant_in_flight, 6);
}

#[test]
fn the_waits_for_the_database_come_from_the_settings() {
    let settings = with(&[
        ("database.acquire_timeout_ms", "111"),
        ("database.statement_timeout_ms", "222"),
        ("database.lock_timeout_ms", "33"),
    ]);
    let context = Setup { settings, file: None, home: "home".into() };
    let store = store(&context, "postgres://");
    let times = [store.acquire_timeout, store.statement_timeout, store.lock_timeout];
    assert_eq!(times, [111, 222, 33].map(millis));
}

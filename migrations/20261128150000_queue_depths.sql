-- How much waits, is leased, is set aside, and for how long: numbers of the whole platform and of no
-- tenant. A node reads them every few seconds for its metrics.
--
-- Rows of a name and a number, not columns, so that a later release can add to them while nodes of
-- this one read on. Counts end at p_most: reading a queue that has grown without bound must not
-- become a burden of its own, and beyond that number it makes no difference how long it is. Ages
-- are then those of the rows that were read.
CREATE FUNCTION app.queue_depths(p_most int) RETURNS TABLE (what text, amount double precision)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
    WITH waiting AS MATERIALIZED (
        SELECT c.ready_at, c.lease_until, c.last_seq - c.done_seq AS messages
        FROM public.conversations c
        WHERE c.ready_at IS NOT NULL
        LIMIT p_most
    ), outgoing AS MATERIALIZED (
        SELECT o.state, o.next_at, o.created_at
        FROM public.outbox o
        WHERE o.state IN ('queued', 'sending')
        ORDER BY o.next_at
        LIMIT p_most
    ), turn_holds AS MATERIALIZED (
        SELECT h.amount, h.created_at
        FROM public.holds h
        WHERE h.kind = 'turn' AND h.state = 'held'
        ORDER BY h.created_at
        LIMIT p_most
    ), blocks AS MATERIALIZED (
        SELECT h.amount - h.settled AS kept, h.lease_until
        FROM public.holds h
        WHERE h.kind = 'block' AND h.state = 'held'
        ORDER BY h.lease_until
        LIMIT p_most
    )
    SELECT v.what, v.amount
    FROM (SELECT
            count(*) FILTER (WHERE w.lease_until IS NULL AND w.ready_at <= now()) AS ready,
            count(*) FILTER (WHERE w.lease_until IS NULL AND w.ready_at > now()) AS postponed,
            count(*) FILTER (WHERE w.lease_until > now()) AS leased,
            count(*) FILTER (WHERE w.lease_until <= now()) AS lapsed,
            extract(epoch FROM now() - min(w.ready_at)
                FILTER (WHERE w.lease_until IS NULL AND w.ready_at <= now())) AS ready_age,
            sum(w.messages) AS messages
        FROM waiting w) s
    CROSS JOIN LATERAL (VALUES
        ('conversations_ready', s.ready::float8), ('conversations_postponed', s.postponed),
        ('conversations_leased', s.leased), ('conversations_lapsed', s.lapsed),
        ('conversations_ready_age', s.ready_age::float8), ('messages_unanswered', s.messages::float8)
    ) AS v (what, amount)
    UNION ALL
    SELECT v.what, v.amount
    FROM (SELECT
            count(*) FILTER (WHERE o.state = 'queued' AND o.next_at <= now()) AS due,
            count(*) FILTER (WHERE o.state = 'queued' AND o.next_at > now()) AS postponed,
            count(*) FILTER (WHERE o.state = 'sending') AS sending,
            extract(epoch FROM now() - min(o.created_at)) AS age
        FROM outgoing o) s
    CROSS JOIN LATERAL (VALUES
        ('outbox_due', s.due::float8), ('outbox_postponed', s.postponed),
        ('outbox_sending', s.sending), ('outbox_age', s.age::float8)
    ) AS v (what, amount)
    UNION ALL
    SELECT v.what, v.amount
    FROM (SELECT count(*) AS open, sum(h.amount) AS held,
            extract(epoch FROM now() - min(h.created_at)) AS age
        FROM turn_holds h) s
    CROSS JOIN LATERAL (VALUES
        ('holds_open', s.open::float8), ('holds_micros', s.held::float8),
        ('holds_age', s.age::float8)
    ) AS v (what, amount)
    UNION ALL
    SELECT v.what, v.amount
    FROM (SELECT count(*) AS open, sum(b.kept) AS kept,
            count(*) FILTER (WHERE b.lease_until <= now()) AS lapsed
        FROM blocks b) s
    CROSS JOIN LATERAL (VALUES
        ('blocks_open', s.open::float8), ('blocks_micros', s.kept::float8),
        ('blocks_lapsed', s.lapsed)
    ) AS v (what, amount)
    UNION ALL
    -- As of the last ANALYZE: to count them would read the whole table.
    SELECT 'idempotency_records', greatest(r.reltuples, 0)::float8
    FROM pg_class r
    WHERE r.oid = 'public.idempotency_records'::regclass
    UNION ALL
    SELECT v.what, v.amount
    FROM pg_stat_archiver a
    CROSS JOIN LATERAL (VALUES
        ('archive_enabled', (current_setting('archive_mode') <> 'off')::int::float8),
        ('archive_done', a.archived_count::float8), ('archive_failed', a.failed_count::float8),
        ('archive_age', extract(epoch FROM now() - a.last_archived_time)::float8),
        ('archive_failing',
            (a.last_failed_time > coalesce(a.last_archived_time, '-infinity'))::int::float8)
    ) AS v (what, amount)
    UNION ALL
    SELECT v.what, v.amount
    FROM pg_stat_database d
    CROSS JOIN LATERAL (VALUES
        ('connections', d.numbackends::float8),
        ('connections_most', current_setting('max_connections')::float8),
        ('deadlocks', d.deadlocks::float8)
    ) AS v (what, amount)
    WHERE d.datname = current_database()
$$;
GRANT EXECUTE ON FUNCTION app.queue_depths TO qudao_claim;

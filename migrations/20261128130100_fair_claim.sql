-- T2, in turns: of the tenants whose conversations are due, those with the fewest turns under way
-- on this node come first, and among equals the one that follows the last that was served. So a
-- tenant with ten thousand conversations that are due does not stand before one that has one.
-- Within a tenant the longest waiting comes first.
--
--   p_after              the tenant that was served last
--   p_tenants, p_running the turns under way on this node, by tenant
--   p_most               how many a tenant may have under way there
--
-- Every step follows conversations_waiting from one tenant to the next, so it costs as much as
-- there are tenants with work, however much work each of them has. The rows are found before they
-- are locked and looked at again then: what another node took meanwhile is passed over.
CREATE FUNCTION app.claim_turns(
    p_node uuid, p_limit int, p_lease_ms bigint,
    p_after uuid, p_tenants uuid[], p_running int[], p_most int
) RETURNS TABLE (
    tenant_id uuid, conversation_id uuid, epoch bigint, from_seq bigint, to_seq bigint,
    attempts int
)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
#variable_conflict use_column
DECLARE
    v_until   timestamptz := now() + p_lease_ms * interval '1 millisecond';
    v_none    uuid := '00000000-0000-0000-0000-000000000000';
    v_from    uuid := COALESCE(p_after, v_none);
    v_to      uuid := 'ffffffff-ffff-ffff-ffff-ffffffffffff';
    v_found   uuid[];
    v_ring    uuid[] := '{}';
    v_counts  int[];
    v_rows    tid[];
BEGIN
    -- First the tenants after the one that was served last, then those up to it.
    LOOP
        WITH RECURSIVE waiting (tenant_id) AS (
            SELECT v_from
            UNION ALL
            SELECT (
                SELECT r.tenant_id
                FROM public.conversations r
                WHERE r.ready_at IS NOT NULL AND r.tenant_id > w.tenant_id
                ORDER BY r.tenant_id
                LIMIT 1)
            FROM waiting w
            WHERE w.tenant_id < v_to
        )
        SELECT array_agg(d.tenant_id) INTO v_found
        FROM (
            SELECT w.tenant_id
            FROM waiting w
            WHERE w.tenant_id > v_from AND w.tenant_id <= v_to
              AND COALESCE(p_running[array_position(p_tenants, w.tenant_id)], 0) < p_most
              AND (
                  SELECT r.ready_at
                  FROM public.conversations r
                  WHERE r.tenant_id = w.tenant_id AND r.ready_at IS NOT NULL
                  ORDER BY r.ready_at
                  LIMIT 1) <= now()
            LIMIT GREATEST(p_limit, 32) - cardinality(v_ring)
        ) d;
        v_ring := v_ring || v_found;
        EXIT WHEN v_from = v_none OR cardinality(v_ring) >= GREATEST(p_limit, 32);
        v_to := v_from;
        v_from := v_none;
    END LOOP;
    SELECT array_agg(COALESCE(p_running[array_position(p_tenants, u.tenant_id)], 0) ORDER BY u.seat)
    INTO v_counts
    FROM unnest(v_ring) WITH ORDINALITY u (tenant_id, seat);

    -- Twice as many as are wanted, for those that other nodes are taking at this moment.
    SELECT array_agg(d.place ORDER BY d.turn, d.seat) INTO v_rows
    FROM (
        SELECT h.place, t.seat, t.running + row_number() OVER (
                   PARTITION BY t.seat ORDER BY h.ready_at) AS turn
        FROM unnest(v_ring, v_counts) WITH ORDINALITY t (tenant_id, running, seat)
        CROSS JOIN LATERAL (
            SELECT r.ctid AS place, r.ready_at
            FROM public.conversations r
            WHERE r.tenant_id = t.tenant_id AND r.ready_at <= now()
            ORDER BY r.ready_at
            LIMIT LEAST(p_most - t.running, 2 * p_limit)
        ) h
        ORDER BY turn, t.seat
        LIMIT 2 * p_limit
    ) d;

    RETURN QUERY
    UPDATE public.conversations c
    SET epoch = c.epoch + 1, owner = p_node, lease_until = v_until, ready_at = v_until,
        attempts = c.attempts + 1
    WHERE c.ctid = ANY (ARRAY(
        SELECT r.ctid
        FROM public.conversations r
        WHERE r.ctid = ANY (v_rows) AND r.ready_at <= now()
        ORDER BY array_position(v_rows, r.ctid)
        LIMIT p_limit
        FOR UPDATE SKIP LOCKED))
    RETURNING c.tenant_id, c.conversation_id, c.epoch, c.done_seq + 1, c.last_seq, c.attempts;
END $$;

-- What a node of the version before calls: it remembers nothing, so it begins anywhere.
CREATE OR REPLACE FUNCTION app.claim_conversations(p_node uuid, p_limit int, p_lease_ms bigint)
RETURNS TABLE (
    tenant_id uuid, conversation_id uuid, epoch bigint, from_seq bigint, to_seq bigint,
    attempts int
)
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
    SELECT * FROM app.claim_turns(p_node, p_limit, p_lease_ms, gen_random_uuid(), '{}', '{}', p_limit)
$$;

-- How many messages of each tenant wait for an answer, as far as `p_most` conversations show it.
CREATE FUNCTION app.backlog(p_most bigint)
RETURNS TABLE (tenant_id uuid, messages bigint)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
    SELECT w.tenant_id, sum(w.last_seq - w.done_seq)::bigint
    FROM (
        SELECT r.tenant_id, r.last_seq, r.done_seq
        FROM public.conversations r
        WHERE r.ready_at IS NOT NULL
        LIMIT p_most
    ) w
    GROUP BY w.tenant_id
$$;

-- As app.find_channel_by_public_key, which nodes of the version before call, with the assistant.
CREATE FUNCTION app.find_door(p_key text)
RETURNS TABLE (
    tenant_id uuid, channel_id uuid, name text, kind text, open boolean, locale text,
    assistant_id uuid, assistant_name text, greeting text
)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
    SELECT c.tenant_id, c.channel_id, c.name, c.kind, c.open, c.locale, a.assistant_id, a.name,
        a.greeting
    FROM public.channels c
    JOIN public.assistants a ON a.tenant_id = c.tenant_id AND a.assistant_id = c.assistant_id
    WHERE c.public_key = p_key
    ORDER BY c.channel_id
    LIMIT 1
$$;

GRANT EXECUTE ON FUNCTION app.claim_turns, app.backlog TO qudao_claim;
GRANT EXECUTE ON FUNCTION app.find_door TO qudao_admin;

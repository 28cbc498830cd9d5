-- The steps of a turn, as before, with less work for each of the turns that share a statement. What
-- costs here is not the rows but the statements inside of the functions: each one that is run anew
-- makes its plan ready, and one that changes rows reads all checks of its table again. So each step
-- runs as few as there are kinds of rows, and not as many as there are turns.
--
-- A plan that was made while a table was small and without statistics is kept until the next ANALYZE,
-- and the smaller of two such tables is read whole. So rows that are to be changed are found by their
-- keys, one by one, and changed by their places. A LIMIT of as many as there are leaves none out: the
-- planner reads it as few, and begins with them. A place is a row's only as long as nobody else may
-- change it, so the rows are locked by the statement before, or it is noticed when one is missing.

-- In words that never depend on the time zone: the planner puts a function in its place only if what
-- it is made of is as constant as it says it is itself. Before, each call ran a statement.
CREATE OR REPLACE FUNCTION app.micros(p_at timestamptz) RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN (extract(epoch FROM p_at - '1970-01-01 00:00:00+00'::timestamptz) * 1000000)::bigint;

-- Mostly all of them are one tenant's.
CREATE OR REPLACE FUNCTION app.run_of(p_tenants uuid[], p_keys text[], p_first int) RETURNS int
LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    v_last int := p_first;
BEGIN
    IF p_first = 1 AND p_tenants[1] = ALL (p_tenants)
       AND (p_keys IS NULL OR p_keys[1] = ALL (p_keys)) THEN
        RETURN cardinality(p_tenants);
    END IF;
    WHILE p_tenants[v_last + 1] = p_tenants[p_first]
      AND (p_keys IS NULL OR p_keys[v_last + 1] = p_keys[p_first]) LOOP
        v_last := v_last + 1;
    END LOOP;
    RETURN v_last;
END $$;

-- T1, as before, but for the answers: those of messages that were all stored together are one
-- statement.
CREATE OR REPLACE FUNCTION app.accept_together(
    p_tenants uuid[], p_channels uuid[], p_externals text[], p_peers text[], p_bodies jsonb[],
    p_conversations uuid[], p_contacts uuid[]
) RETURNS TABLE (outcome text, conversation_id uuid, seq bigint)
LANGUAGE plpgsql
SET enable_hashjoin = off SET enable_mergejoin = off SET enable_material = off
SET enable_seqscan = off AS $$
#variable_conflict use_column
DECLARE
    v_first    int := 1;
    v_last     int;
    v_tenant   uuid;
    v_places   int[];
    v_convs    uuid[];
    v_seqs     bigint[];
    v_stored   int;
    v_funds    boolean;
BEGIN
    WHILE v_first <= cardinality(p_tenants) LOOP
        v_last := app.run_of(p_tenants, NULL, v_first);
        v_tenant := p_tenants[v_first];
        PERFORM set_config('app.tenant_id', v_tenant::text, true);

        v_funds := EXISTS (
            SELECT 1 FROM wallets w
            JOIN tenants t ON t.tenant_id = w.tenant_id AND t.currency = w.currency
            WHERE w.tenant_id = v_tenant AND w.posted > 0);
        -- The first of each id: a repetition within the batch finds it stored. Two messages of one
        -- conversation keep their order.
        SELECT array_agg(n.place), array_agg(n.conversation_id), array_agg(n.seq)
        INTO v_places, v_convs, v_seqs
        FROM (
            SELECT k.place, k.conversation_id, l.last_seq + row_number() OVER (
                       PARTITION BY k.conversation_id ORDER BY k.place) AS seq
            FROM (
                SELECT i.place, f.conversation_id
                FROM (
                    SELECT DISTINCT ON (p_channels[g], p_externals[g]) g AS place
                    FROM generate_series(v_first, v_last) g
                    ORDER BY p_channels[g], p_externals[g], g
                ) i
                CROSS JOIN LATERAL (
                    SELECT c.conversation_id FROM conversations c
                    WHERE c.tenant_id = v_tenant AND c.channel_id = p_channels[i.place]
                      AND c.peer = p_peers[i.place]
                    OFFSET 0
                ) f
                WHERE v_funds
                  AND (SELECT ch.open AND ch.assistant_id IS NOT NULL FROM channels ch
                       WHERE ch.tenant_id = v_tenant AND ch.channel_id = p_channels[i.place])
                  AND (SELECT b.seq FROM inbox b
                       WHERE b.tenant_id = v_tenant AND b.channel_id = p_channels[i.place]
                         AND b.external_id = p_externals[i.place]) IS NULL
                ORDER BY f.conversation_id
            ) k
            CROSS JOIN LATERAL (
                SELECT c.last_seq FROM conversations c
                WHERE c.tenant_id = v_tenant AND c.conversation_id = k.conversation_id
                FOR NO KEY UPDATE
            ) l
        ) n;

        IF v_places IS NOT NULL THEN
            INSERT INTO inbox (tenant_id, channel_id, external_id, conversation_id, seq, body)
            SELECT v_tenant, p_channels[u.place], p_externals[u.place], u.conversation, u.seq,
                   p_bodies[u.place]
            FROM unnest(v_places, v_convs, v_seqs) u (place, conversation, seq)
            ON CONFLICT ON CONSTRAINT inbox_pk DO NOTHING;
            GET DIAGNOSTICS v_stored = ROW_COUNT;
            IF v_stored <> cardinality(v_places) THEN
                RAISE EXCEPTION 'another transaction stored one of the messages meanwhile'
                    USING ERRCODE = '40001';
            END IF;
            UPDATE conversations c
            SET last_seq = u.seq, ready_at = COALESCE(c.ready_at, now())
            FROM (
                SELECT n.seq, k.at
                FROM (
                    SELECT n.conversation, max(n.seq) AS seq
                    FROM unnest(v_convs, v_seqs) n (conversation, seq)
                    GROUP BY n.conversation
                    LIMIT cardinality(v_convs)
                ) n
                CROSS JOIN LATERAL (
                    SELECT k.ctid AS at FROM conversations k
                    WHERE k.tenant_id = v_tenant AND k.conversation_id = n.conversation
                    OFFSET 0
                ) k
            ) u
            WHERE c.ctid = u.at AND c.tenant_id = v_tenant;
        END IF;

        IF cardinality(v_places) = v_last - v_first + 1 THEN
            RETURN QUERY SELECT 'new', u.conversation, u.seq
            FROM unnest(v_places, v_convs, v_seqs) u (place, conversation, seq)
            ORDER BY u.place;
        ELSE
            FOR i IN v_first..v_last LOOP
                v_stored := array_position(v_places, i);
                IF v_stored IS NOT NULL THEN
                    RETURN QUERY SELECT 'new', v_convs[v_stored], v_seqs[v_stored];
                ELSE
                    RETURN QUERY SELECT a.outcome, a.conversation_id, a.seq
                    FROM app.accept(
                        p_channels[i], p_externals[i], p_peers[i], p_bodies[i],
                        p_conversations[i], p_contacts[i]) a;
                END IF;
            END LOOP;
        END IF;
        v_first := v_last + 1;
    END LOOP;
    PERFORM set_config('app.tenant_id', '', true);
END $$;

-- T2, as before, by plans that do not depend on how large the table was when they were made: the walk
-- from tenant to tenant asks for the order of conversations_waiting, which no other index has, and
-- rows that were found are looked at again one by one, by their places.
CREATE OR REPLACE FUNCTION app.claim_turns(
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
    v_rows    tid[];
BEGIN
    -- First the tenants after the one that was served last, then those up to it.
    LOOP
        WITH RECURSIVE waiting (tenant_id, ready_at) AS (
            SELECT v_from, NULL::timestamptz
            UNION ALL
            SELECT n.tenant_id, n.ready_at
            FROM waiting w
            CROSS JOIN LATERAL (
                SELECT r.tenant_id, r.ready_at
                FROM public.conversations r
                WHERE r.ready_at IS NOT NULL AND r.tenant_id > w.tenant_id
                ORDER BY r.tenant_id, r.ready_at
                LIMIT 1
            ) n
            WHERE w.tenant_id < v_to
        )
        SELECT array_agg(d.tenant_id) INTO v_found
        FROM (
            SELECT w.tenant_id
            FROM waiting w
            WHERE w.tenant_id > v_from AND w.tenant_id <= v_to AND w.ready_at <= now()
              AND COALESCE(p_running[array_position(p_tenants, w.tenant_id)], 0) < p_most
            LIMIT GREATEST(p_limit, 32) - cardinality(v_ring)
        ) d;
        v_ring := v_ring || v_found;
        EXIT WHEN v_from = v_none OR cardinality(v_ring) >= GREATEST(p_limit, 32);
        v_to := v_from;
        v_from := v_none;
    END LOOP;
    IF cardinality(v_ring) = 0 THEN
        RETURN;
    END IF;

    -- Twice as many as are wanted, for those that other nodes are taking at this moment.
    SELECT array_agg(d.place ORDER BY d.turn, d.seat) INTO v_rows
    FROM (
        SELECT h.place, t.seat, t.running + row_number() OVER (
                   PARTITION BY t.seat ORDER BY h.ready_at) AS turn
        FROM (
            SELECT u.tenant_id, u.seat,
                   COALESCE(p_running[array_position(p_tenants, u.tenant_id)], 0) AS running
            FROM unnest(v_ring) WITH ORDINALITY u (tenant_id, seat)
        ) t
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
        SELECT l.place
        FROM unnest(v_rows) u (place)
        CROSS JOIN LATERAL (
            SELECT r.ctid AS place
            FROM public.conversations r
            WHERE r.ctid = u.place AND r.ready_at <= now()
            FOR UPDATE SKIP LOCKED
        ) l
        LIMIT p_limit))
    RETURNING c.tenant_id, c.conversation_id, c.epoch, c.done_seq + 1, c.last_seq, c.attempts;
END $$;

-- What the answers need, as app.routed_contexts_of, one statement for all turns of a tenant. Each row
-- is found by its key, from the conversation on. What was said comes as arrays, the earlier messages
-- the newest first: of them their words alone, and who said them.
CREATE FUNCTION app.turn_contexts(
    p_tenants uuid[], p_conversations uuid[], p_turns uuid[], p_from bigint[], p_to bigint[],
    p_history int
) RETURNS TABLE (
    place int, currency text, fair_charging text, posted bigint, available bigint, locale text,
    channel_id uuid, kind text, models text[], routing jsonb, route_id uuid, assistant_id uuid,
    name text, system_prompt text, params jsonb, pending_seqs bigint[], pending_bodies jsonb[],
    pending_at bigint[], history_texts text[], history_outbound boolean[]
)
LANGUAGE plpgsql
SET enable_hashjoin = off SET enable_mergejoin = off SET enable_material = off
SET enable_seqscan = off AS $$
#variable_conflict use_column
DECLARE
    v_first  int := 1;
    v_last   int;
    v_tenant uuid;
BEGIN
    WHILE v_first <= cardinality(p_tenants) LOOP
        v_last := app.run_of(p_tenants, NULL, v_first);
        v_tenant := p_tenants[v_first];
        PERFORM set_config('app.tenant_id', v_tenant::text, true);
        RETURN QUERY
        SELECT i.place, t.currency, t.fair_charging, t.posted,
               (t.posted - t.held + COALESCE((
                   SELECT h.amount FROM holds h
                   WHERE h.tenant_id = v_tenant AND h.turn_id = p_turns[i.place]
                     -- That is 'held', in words that fit the index by turn.
                     AND h.kind = 'turn' AND h.state <> 'voided' AND h.state <> 'settled'
                     AND h.currency = t.currency), 0))::bigint,
               ch.locale, c.channel_id, ch.kind, r.models, r.routing, a.route_id, ch.assistant_id,
               a.name, a.system_prompt, a.params, p.seqs, p.bodies, p.at, l.texts, l.outbound
        FROM (
            SELECT t.currency, t.fair_charging, w.posted, w.held FROM tenants t
            JOIN wallets w ON w.tenant_id = v_tenant AND w.currency = t.currency
            WHERE t.tenant_id = v_tenant
            OFFSET 0
        ) t
        CROSS JOIN generate_series(v_first, v_last) i (place)
        CROSS JOIN LATERAL (
            SELECT c.channel_id FROM conversations c
            WHERE c.tenant_id = v_tenant AND c.conversation_id = p_conversations[i.place]
            OFFSET 0
        ) c
        CROSS JOIN LATERAL (
            SELECT ch.locale, ch.kind, ch.assistant_id FROM channels ch
            WHERE ch.tenant_id = v_tenant AND ch.channel_id = c.channel_id
            OFFSET 0
        ) ch
        CROSS JOIN LATERAL (
            SELECT a.name, a.system_prompt, a.params, a.route_id FROM assistants a
            WHERE a.tenant_id = v_tenant AND a.assistant_id = ch.assistant_id
            OFFSET 0
        ) a
        CROSS JOIN LATERAL (
            SELECT r.models, r.routing FROM routes r
            WHERE r.tenant_id = v_tenant AND r.route_id = a.route_id
            OFFSET 0
        ) r
        CROSS JOIN LATERAL (
            SELECT COALESCE(array_agg(m.seq), '{}') AS seqs,
                   COALESCE(array_agg(m.body), '{}') AS bodies,
                   COALESCE(array_agg(app.micros(m.accepted_at)), '{}') AS at
            FROM (
                SELECT b.seq, b.body, b.accepted_at FROM inbox b
                WHERE b.tenant_id = v_tenant AND b.conversation_id = p_conversations[i.place]
                  AND b.seq BETWEEN p_from[i.place] AND p_to[i.place] AND b.state = 'accepted'
                ORDER BY b.seq
                OFFSET 0
            ) m
        ) p
        CROSS JOIN LATERAL (
            SELECT COALESCE(array_agg(m.body ->> 'text'), '{}') AS texts,
                   COALESCE(array_agg(m.outbound), '{}') AS outbound
            FROM (
                SELECT s.outbound, s.body FROM (
                    (SELECT b.seq AS place, false AS outbound, 0::bigint AS out_seq, b.body
                     FROM inbox b
                     WHERE b.tenant_id = v_tenant AND b.conversation_id = p_conversations[i.place]
                       AND b.seq < p_from[i.place] AND b.state = 'answered'
                     ORDER BY b.seq DESC LIMIT p_history)
                    UNION ALL
                    (SELECT o.to_seq, true, o.out_seq, o.body FROM outbox o
                     WHERE o.tenant_id = v_tenant AND o.conversation_id = p_conversations[i.place]
                       AND o.kind = 'reply'
                     ORDER BY o.out_seq DESC LIMIT p_history)
                ) s
                ORDER BY s.place DESC, s.outbound DESC, s.out_seq DESC
                LIMIT p_history
            ) m
        ) l;
        v_first := v_last + 1;
    END LOOP;
    PERFORM set_config('app.tenant_id', '', true);
END $$;

-- T4 with the decisions that led to the replies: both or neither. No row for a turn means that another
-- node has the conversation or the turn is over; a decision is written where its reply is. If one of
-- them is refused, all are: the caller commits each by itself then.
CREATE OR REPLACE FUNCTION app.commit_routed_turns(
    p_tenants uuid[], p_conversations uuid[], p_epochs bigint[], p_turns uuid[], p_to bigint[],
    p_replies jsonb[], p_outbox uuid[], p_channels uuid[], p_models text[],
    p_price_versions bigint[], p_input bigint[], p_output bigint[], p_delivered bigint[],
    p_charges bigint[], p_absorbed bigint[], p_currencies text[], p_policies text[],
    p_end_reasons text[], p_decisions jsonb[]
) RETURNS TABLE (place int, outbox_id uuid, out_seq bigint)
LANGUAGE plpgsql
SET enable_hashjoin = off SET enable_mergejoin = off SET enable_material = off
SET enable_seqscan = off AS $$
#variable_conflict use_column
DECLARE
    v_first   int := 1;
    v_last    int;
    v_tenant  uuid;
    v_places  int[];
    v_done    bigint[];
    v_seqs    bigint[];
    v_closed  bigint;
    v_held    bigint;
    v_charged bigint;
BEGIN
    WHILE v_first <= cardinality(p_tenants) LOOP
        v_last := app.run_of(p_tenants, p_currencies, v_first);
        v_tenant := p_tenants[v_first];
        PERFORM set_config('app.tenant_id', v_tenant::text, true);

        SELECT array_agg(l.place), array_agg(l.done_seq), array_agg(l.out_seq + 1)
        INTO v_places, v_done, v_seqs
        FROM (
            SELECT i.place, c.done_seq, c.out_seq
            FROM generate_series(v_first, v_last) i (place)
            CROSS JOIN LATERAL (
                SELECT c.done_seq, c.out_seq FROM conversations c
                WHERE c.tenant_id = v_tenant AND c.conversation_id = p_conversations[i.place]
                  AND c.epoch = p_epochs[i.place] AND c.lease_until IS NOT NULL
                  AND c.done_seq < p_to[i.place]
                FOR NO KEY UPDATE
            ) c
        ) l;
        v_first := v_last + 1;
        CONTINUE WHEN v_places IS NULL;

        UPDATE conversations c
        SET done_seq = p_to[u.place], out_seq = u.seq, attempts = 0, owner = NULL,
            lease_until = NULL, ready_at = CASE WHEN c.last_seq > p_to[u.place] THEN now() END
        FROM (
            SELECT n.place, n.seq, k.at
            FROM (
                SELECT n.place, n.seq FROM unnest(v_places, v_seqs) n (place, seq)
                LIMIT cardinality(v_places)
            ) n
            CROSS JOIN LATERAL (
                SELECT k.ctid AS at FROM conversations k
                WHERE k.tenant_id = v_tenant AND k.conversation_id = p_conversations[n.place]
                OFFSET 0
            ) k
        ) u
        WHERE c.ctid = u.at AND c.tenant_id = v_tenant;

        WITH closed AS (
            UPDATE holds h
            SET state = 'settled', settled = p_charges[u.place], closed_at = now()
            FROM (
                SELECT n.place, k.at
                FROM (
                    SELECT n.place FROM unnest(v_places) n (place) LIMIT cardinality(v_places)
                ) n
                CROSS JOIN LATERAL (
                    SELECT k.ctid AS at FROM holds k
                    WHERE k.tenant_id = v_tenant AND k.turn_id = p_turns[n.place]
                      -- That is 'held', in words that fit the index by turn and not the one of
                      -- all open holds, which would be read whole.
                      AND k.kind = 'turn' AND k.state <> 'voided' AND k.state <> 'settled'
                    OFFSET 0
                ) k
            ) u
            WHERE h.ctid = u.at AND h.tenant_id = v_tenant AND h.turn_id = p_turns[u.place]
              AND h.state = 'held' AND h.currency = p_currencies[u.place]
            RETURNING h.amount, p_charges[u.place] AS charge
        )
        SELECT count(*), sum(closed.amount), sum(closed.charge)
        INTO v_closed, v_held, v_charged
        FROM closed;
        IF v_closed <> cardinality(v_places) THEN
            RAISE EXCEPTION '% of % turns have no open hold',
                cardinality(v_places) - v_closed, cardinality(v_places) USING ERRCODE = 'QD001';
        END IF;
        UPDATE wallets w
        SET held = w.held - v_held, posted = w.posted - v_charged
        WHERE w.tenant_id = v_tenant AND w.currency = p_currencies[v_last];

        INSERT INTO usage_events (
            tenant_id, turn_id, channel_id, conversation_id, model, price_version, input_tokens,
            output_tokens, delivered_tokens, charge, absorbed, currency, policy, end_reason)
        SELECT v_tenant, p_turns[u.place], p_channels[u.place], p_conversations[u.place],
               p_models[u.place], p_price_versions[u.place], p_input[u.place], p_output[u.place],
               p_delivered[u.place], p_charges[u.place], p_absorbed[u.place],
               p_currencies[u.place], p_policies[u.place], p_end_reasons[u.place]
        FROM unnest(v_places) u (place);
        -- As app.book_usage, in one statement: the balance is checked once per statement.
        INSERT INTO ledger_entries (tenant_id, txn_id, leg, account, amount, currency)
        SELECT v_tenant, p_turns[u.place], l.leg, l.account, l.amount, p_currencies[u.place]
        FROM unnest(v_places) u (place)
        CROSS JOIN LATERAL (VALUES
            (0::smallint, 'wallet', -p_charges[u.place]),
            (1::smallint, 'revenue', p_charges[u.place]),
            (2::smallint, 'platform_absorbed', -p_absorbed[u.place]),
            (3::smallint, 'revenue', p_absorbed[u.place])
        ) AS l (leg, account, amount)
        WHERE l.amount <> 0;

        -- By keys and not by places: nobody holds these rows, and what is copied from a channel is
        -- written into them meanwhile. A row that was changed is at another place.
        UPDATE inbox i
        SET state = 'answered', turn_id = p_turns[u.place]
        FROM unnest(v_places, v_done) u (place, done)
        WHERE i.tenant_id = v_tenant AND i.conversation_id = p_conversations[u.place]
          AND i.seq > u.done AND i.seq <= p_to[u.place] AND i.state = 'accepted';
        INSERT INTO outbox (
            tenant_id, outbox_id, conversation_id, out_seq, to_seq, turn_id, kind, body)
        SELECT v_tenant, p_outbox[u.place], p_conversations[u.place], u.seq, p_to[u.place],
               p_turns[u.place], 'reply', p_replies[u.place]
        FROM unnest(v_places, v_seqs) u (place, seq);
        -- As app.add_decision.
        IF p_decisions IS NOT NULL THEN
            INSERT INTO route_decisions (
                tenant_id, decision_id, turn_id, route_id, conversation_id, model, fallbacks, arm,
                failed, latency_ms, body)
            SELECT v_tenant, d.decision_id, d.turn_id, d.route_id, d.conversation_id, d.model,
                   d.fallbacks, d.arm, d.failed, d.latency_ms, d.body
            FROM unnest(v_places) u (place)
            CROSS JOIN LATERAL jsonb_to_record(p_decisions[u.place]) AS d (
                decision_id uuid, turn_id uuid, route_id uuid, conversation_id uuid, model text,
                fallbacks int, arm text, failed boolean, latency_ms int, body jsonb)
            ON CONFLICT ON CONSTRAINT route_decisions_pk DO NOTHING;
        END IF;
        RETURN QUERY SELECT u.place, p_outbox[u.place], u.seq
        FROM unnest(v_places, v_seqs) u (place, seq);
    END LOOP;
    PERFORM set_config('app.tenant_id', '', true);
END $$;

-- T4 of a node that decides nothing.
CREATE OR REPLACE FUNCTION app.commit_turns(
    p_tenants uuid[], p_conversations uuid[], p_epochs bigint[], p_turns uuid[], p_to bigint[],
    p_replies jsonb[], p_outbox uuid[], p_channels uuid[], p_models text[],
    p_price_versions bigint[], p_input bigint[], p_output bigint[], p_delivered bigint[],
    p_charges bigint[], p_absorbed bigint[], p_currencies text[], p_policies text[],
    p_end_reasons text[]
) RETURNS TABLE (place int, outbox_id uuid, out_seq bigint)
LANGUAGE plpgsql AS $$
BEGIN
    RETURN QUERY SELECT t.place, t.outbox_id, t.out_seq
    FROM app.commit_routed_turns(
        p_tenants, p_conversations, p_epochs, p_turns, p_to, p_replies, p_outbox, p_channels,
        p_models, p_price_versions, p_input, p_output, p_delivered, p_charges, p_absorbed,
        p_currencies, p_policies, p_end_reasons, NULL) t;
END $$;

-- Decisions of any tenants, as before, one statement for all of a tenant. Callers sort by tenant.
CREATE OR REPLACE FUNCTION app.record_decisions(p_tenants uuid[], p_decisions jsonb[])
RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    v_first int := 1;
    v_last  int;
BEGIN
    WHILE v_first <= cardinality(p_tenants) LOOP
        v_last := app.run_of(p_tenants, NULL, v_first);
        PERFORM set_config('app.tenant_id', p_tenants[v_first]::text, true);
        INSERT INTO route_decisions (
            tenant_id, decision_id, turn_id, route_id, conversation_id, model, fallbacks, arm,
            failed, latency_ms, body)
        SELECT p_tenants[v_first], d.decision_id, d.turn_id, d.route_id, d.conversation_id, d.model,
               d.fallbacks, d.arm, d.failed, d.latency_ms, d.body
        FROM generate_series(v_first, v_last) i (place)
        CROSS JOIN LATERAL jsonb_to_record(p_decisions[i.place]) AS d (
            decision_id uuid, turn_id uuid, route_id uuid, conversation_id uuid, model text,
            fallbacks int, arm text, failed boolean, latency_ms int, body jsonb)
        ON CONFLICT ON CONSTRAINT route_decisions_pk DO NOTHING;
        v_first := v_last + 1;
    END LOOP;
    PERFORM set_config('app.tenant_id', '', true);
END $$;

-- T6, as before, one statement for all deliveries of a tenant.
CREATE OR REPLACE FUNCTION app.finish_deliveries(
    p_tenants uuid[], p_outbox uuid[], p_epochs bigint[]
) RETURNS boolean
LANGUAGE plpgsql
SET enable_hashjoin = off SET enable_mergejoin = off SET enable_material = off
SET enable_seqscan = off AS $$
DECLARE
    v_first         int := 1;
    v_last          int;
    v_tenant        uuid;
    v_rows          tid[];
    v_conversations uuid[];
    v_more          boolean := false;
BEGIN
    WHILE v_first <= cardinality(p_tenants) LOOP
        v_last := app.run_of(p_tenants, NULL, v_first);
        v_tenant := p_tenants[v_first];
        PERFORM set_config('app.tenant_id', v_tenant::text, true);
        -- Locked first: a row that somebody changes meanwhile is at another place then.
        SELECT array_agg(k.at) INTO v_rows
        FROM (
            SELECT n.outbox, n.epoch
            FROM unnest(p_outbox[v_first:v_last], p_epochs[v_first:v_last]) n (outbox, epoch)
            LIMIT v_last - v_first + 1
        ) n
        CROSS JOIN LATERAL (
            -- Equality, in words that ask for an order which the primary key alone has: to a table
            -- without statistics all indexes look alike.
            SELECT k.ctid AS at, k.epoch, k.state FROM outbox k
            WHERE k.tenant_id = v_tenant AND k.outbox_id BETWEEN n.outbox AND n.outbox
            ORDER BY k.outbox_id
            LIMIT 1
            FOR NO KEY UPDATE
        ) k
        WHERE k.epoch = n.epoch AND k.state = 'sending';
        WITH sent AS (
            UPDATE outbox o
            SET state = 'delivered', delivered_at = now(), lease_until = NULL, owner = NULL
            FROM (
                SELECT n.at FROM unnest(v_rows) n (at) LIMIT cardinality(v_rows)
            ) u
            WHERE o.ctid = u.at AND o.tenant_id = v_tenant
            RETURNING o.conversation_id
        )
        SELECT array_agg(s.conversation_id) INTO v_conversations FROM sent s;
        -- A statement of its own: these are delivered where it looks.
        v_more := v_more OR EXISTS (
            SELECT 1 FROM unnest(v_conversations) u (conversation)
            CROSS JOIN LATERAL (
                SELECT 1 FROM outbox o
                WHERE o.tenant_id = v_tenant AND o.conversation_id = u.conversation
                  AND o.state IN ('queued', 'sending')
                LIMIT 1
            ) w);
        v_first := v_last + 1;
    END LOOP;
    PERFORM set_config('app.tenant_id', '', true);
    RETURN v_more;
END $$;

GRANT EXECUTE ON FUNCTION app.turn_contexts TO qudao_app;

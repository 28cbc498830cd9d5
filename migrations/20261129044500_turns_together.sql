-- T1, the reading before T3, T3 and T4 for several turns in one statement each, which is then a
-- transaction of its own: what costs once per transaction (the commit, the lock of a wallet, the
-- checks of the tenant's own rows) costs once for all of them. What is unusual about one of them
-- is left to the step that knows one turn, so that every rule of money stands in one place.
--
-- The planner knows neither how many steps come nor how large a tenant is, and a plan is kept for
-- as long as the connection. Each step is one row of each table, so it is found by its key: by
-- subqueries that cannot be turned into joins, and where rows are changed, without plans that read
-- a table whole.
--
-- Every step takes its locks in one order: tenants, then conversations by their ids, then holds,
-- then the wallet. Callers sort by tenant and conversation; arrays are parallel.

-- The end of the run of equal tenants and keys that begins at p_first.
CREATE FUNCTION app.run_of(p_tenants uuid[], p_keys text[], p_first int) RETURNS int
LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    v_last int := p_first;
BEGIN
    WHILE p_tenants[v_last + 1] = p_tenants[p_first]
      AND (p_keys IS NULL OR p_keys[v_last + 1] = p_keys[p_first]) LOOP
        v_last := v_last + 1;
    END LOOP;
    RETURN v_last;
END $$;

-- T1. Messages of known conversations that were not stored before are stored together; every other
-- one goes through app.accept, in the order of the arrays. The answers stand in that order.
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
                SELECT n.conversation, max(n.seq) AS seq
                FROM unnest(v_convs, v_seqs) n (conversation, seq)
                GROUP BY n.conversation
            ) u
            WHERE c.tenant_id = v_tenant AND c.conversation_id = u.conversation;
        END IF;

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
        v_first := v_last + 1;
    END LOOP;
    PERFORM set_config('app.tenant_id', '', true);
END $$;

-- What one answer needs, as before, but for how its hold is found: by the turn.
CREATE OR REPLACE FUNCTION app.turn_context_of(
    p_tenant uuid, p_conversation uuid, p_turn uuid, p_from bigint, p_to bigint, p_history int
) RETURNS TABLE (
    currency text, fair_charging text, posted bigint, available bigint, locale text,
    channel_id uuid, kind text, models text[], assistant_id uuid, name text, system_prompt text,
    params jsonb, pending jsonb, history jsonb
)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
    PERFORM set_config('app.tenant_id', p_tenant::text, true);
    RETURN QUERY
    SELECT t.currency, t.fair_charging, w.posted,
           (w.posted - w.held + COALESCE(h.amount, 0))::bigint,
           ch.locale, ch.channel_id, ch.kind, r.models,
           a.assistant_id, a.name, a.system_prompt, a.params,
           (SELECT COALESCE(jsonb_agg(jsonb_build_object(
                       'seq', i.seq, 'body', i.body, 'at', app.micros(i.accepted_at))
                       ORDER BY i.seq), '[]')
            FROM inbox i
            WHERE i.tenant_id = p_tenant AND i.conversation_id = p_conversation
              AND i.seq BETWEEN p_from AND p_to AND i.state = 'accepted'),
           (SELECT COALESCE(jsonb_agg(jsonb_build_object(
                       'outbound', l.outbound, 'body', l.body)
                       ORDER BY l.place, l.outbound, l.out_seq), '[]')
            FROM (
                SELECT s.place, s.outbound, s.out_seq, s.body FROM (
                    (SELECT i.seq AS place, false AS outbound, 0::bigint AS out_seq, i.body
                     FROM inbox i
                     WHERE i.tenant_id = p_tenant AND i.conversation_id = p_conversation
                       AND i.seq < p_from AND i.state = 'answered'
                     ORDER BY i.seq DESC LIMIT p_history)
                    UNION ALL
                    (SELECT o.to_seq, true, o.out_seq, o.body FROM outbox o
                     WHERE o.tenant_id = p_tenant AND o.conversation_id = p_conversation
                       AND o.kind = 'reply'
                     ORDER BY o.out_seq DESC LIMIT p_history)
                ) s
                ORDER BY s.place DESC, s.outbound DESC, s.out_seq DESC
                LIMIT p_history
            ) l)
    FROM conversations c
    JOIN tenants t ON t.tenant_id = c.tenant_id
    JOIN wallets w ON w.tenant_id = c.tenant_id AND w.currency = t.currency
    LEFT JOIN holds h ON h.tenant_id = c.tenant_id AND h.turn_id = p_turn
         AND h.kind = 'turn' AND h.state <> 'voided' AND h.state <> 'settled'
         AND h.currency = t.currency
    JOIN channels ch ON ch.tenant_id = c.tenant_id AND ch.channel_id = c.channel_id
    JOIN assistants a ON a.tenant_id = c.tenant_id AND a.assistant_id = ch.assistant_id
    JOIN routes r ON r.tenant_id = c.tenant_id AND r.route_id = a.route_id
    WHERE c.tenant_id = p_tenant AND c.conversation_id = p_conversation;
END $$;

-- What the answers need, one row for each conversation that is there. `place` is its place in the
-- arrays, from 1.
CREATE FUNCTION app.turn_contexts_of(
    p_tenants uuid[], p_conversations uuid[], p_turns uuid[], p_from bigint[], p_to bigint[],
    p_history int
) RETURNS TABLE (
    place int, currency text, fair_charging text, posted bigint, available bigint, locale text,
    channel_id uuid, kind text, models text[], assistant_id uuid, name text, system_prompt text,
    params jsonb, pending jsonb, history jsonb
)
LANGUAGE plpgsql AS $$
BEGIN
    FOR i IN 1..cardinality(p_tenants) LOOP
        RETURN QUERY SELECT i, t.*
        FROM app.turn_context_of(
            p_tenants[i], p_conversations[i], p_turns[i], p_from[i], p_to[i], p_history) t;
    END LOOP;
    PERFORM set_config('app.tenant_id', '', true);
END $$;

-- T3. Turns that are asked for the first time and that the wallet covers all together are held
-- together; every other one goes through app.hold_turn, in the order of the arrays.
CREATE FUNCTION app.hold_turns(
    p_tenants uuid[], p_conversations uuid[], p_epochs bigint[], p_turns uuid[],
    p_amounts bigint[], p_currencies text[], p_models text[], p_holds uuid[], p_attempts uuid[]
) RETURNS TABLE (place int, outcome text, amount bigint)
LANGUAGE plpgsql
SET enable_hashjoin = off SET enable_mergejoin = off SET enable_material = off
SET enable_seqscan = off AS $$
#variable_conflict use_column
DECLARE
    v_first  int := 1;
    v_last   int;
    v_tenant uuid;
    v_ours   int[];
    v_usual  int[];
    v_sum    bigint;
BEGIN
    WHILE v_first <= cardinality(p_tenants) LOOP
        v_last := app.run_of(p_tenants, p_currencies, v_first);
        v_tenant := p_tenants[v_first];
        PERFORM set_config('app.tenant_id', v_tenant::text, true);

        SELECT array_agg(i.place) INTO v_ours
        FROM generate_series(v_first, v_last) i (place)
        CROSS JOIN LATERAL (
            SELECT 1 FROM conversations c
            WHERE c.tenant_id = v_tenant AND c.conversation_id = p_conversations[i.place]
              AND c.epoch = p_epochs[i.place] AND c.lease_until IS NOT NULL
            FOR NO KEY UPDATE
        ) l;
        -- A statement of its own: it sees what was committed while the locks were waited for.
        SELECT array_agg(u.place), sum(p_amounts[u.place]) INTO v_usual, v_sum
        FROM unnest(v_ours) u (place)
        WHERE (SELECT h.amount FROM holds h
               WHERE h.tenant_id = v_tenant AND h.turn_id = p_turns[u.place]
                 AND h.kind = 'turn' AND h.state <> 'voided') IS NULL;

        IF v_usual IS NOT NULL THEN
            UPDATE wallets w
            SET held = w.held + v_sum
            WHERE w.tenant_id = v_tenant AND w.currency = p_currencies[v_first]
              AND w.posted - w.held >= v_sum;
            IF FOUND THEN
                INSERT INTO holds (
                    tenant_id, hold_id, kind, currency, amount, turn_id, conversation_id)
                SELECT v_tenant, p_holds[u.place], 'turn', p_currencies[v_first],
                       p_amounts[u.place], p_turns[u.place], p_conversations[u.place]
                FROM unnest(v_usual) u (place);
                INSERT INTO model_attempts (
                    tenant_id, attempt_id, turn_id, conversation_id, epoch, model)
                SELECT v_tenant, p_attempts[u.place], p_turns[u.place], p_conversations[u.place],
                       p_epochs[u.place], p_models[u.place]
                FROM unnest(v_usual) u (place);
                RETURN QUERY SELECT u.place, 'held', p_amounts[u.place]
                FROM unnest(v_usual) u (place);
            ELSE
                v_usual := NULL;
            END IF;
        END IF;

        FOR i IN v_first..v_last LOOP
            CONTINUE WHEN i = ANY (v_usual);
            RETURN QUERY SELECT i, h.outcome, h.amount
            FROM app.hold_turn(
                p_conversations[i], p_epochs[i], p_turns[i], p_amounts[i], p_currencies[i],
                p_models[i], p_holds[i], p_attempts[i]) h;
        END LOOP;
        v_first := v_last + 1;
    END LOOP;
    PERFORM set_config('app.tenant_id', '', true);
END $$;

-- T4. No row for a turn means that another node has the conversation or the turn is over. If one
-- of them is refused, all are: the caller commits each by itself then.
CREATE FUNCTION app.commit_turns(
    p_tenants uuid[], p_conversations uuid[], p_epochs bigint[], p_turns uuid[], p_to bigint[],
    p_replies jsonb[], p_outbox uuid[], p_channels uuid[], p_models text[],
    p_price_versions bigint[], p_input bigint[], p_output bigint[], p_delivered bigint[],
    p_charges bigint[], p_absorbed bigint[], p_currencies text[], p_policies text[],
    p_end_reasons text[]
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
        FROM unnest(v_places, v_seqs) u (place, seq)
        WHERE c.tenant_id = v_tenant AND c.conversation_id = p_conversations[u.place];

        WITH closed AS (
            UPDATE holds h
            SET state = 'settled', settled = p_charges[u.place], closed_at = now()
            FROM unnest(v_places) u (place)
            WHERE h.tenant_id = v_tenant AND h.turn_id = p_turns[u.place] AND h.kind = 'turn'
              -- That is 'held', in words that fit the index by turn and not the one of all open
              -- holds, which would be read whole.
              AND h.state <> 'voided' AND h.state <> 'settled'
              AND h.currency = p_currencies[u.place]
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
        RETURN QUERY SELECT u.place, p_outbox[u.place], u.seq
        FROM unnest(v_places, v_seqs) u (place, seq);
    END LOOP;
    PERFORM set_config('app.tenant_id', '', true);
END $$;

GRANT EXECUTE ON FUNCTION
    app.turn_contexts_of, app.run_of, app.hold_turns, app.commit_turns TO qudao_app;

-- The API path: blocks of credits, and calls settled many at a time.

-- NULL if the wallet does not cover p_least. Repeating with the same id returns what was
-- reserved the first time, so that a lost answer does no harm.
CREATE FUNCTION app.reserve_block(
    p_block uuid, p_node uuid, p_least bigint, p_most bigint, p_lease_ms bigint
) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    v_tenant   uuid := app.tenant();
    v_currency text;
    v_amount   bigint;
BEGIN
    SELECT h.amount INTO v_amount FROM holds h
    WHERE h.tenant_id = v_tenant AND h.hold_id = p_block AND h.node_id = p_node
      AND h.state = 'held';
    IF FOUND THEN
        RETURN v_amount;
    END IF;

    SELECT w.currency, LEAST(p_most, w.posted - w.held) INTO v_currency, v_amount
    FROM wallets w
    JOIN tenants t ON t.tenant_id = w.tenant_id AND t.currency = w.currency
    WHERE w.tenant_id = v_tenant
    FOR UPDATE OF w;
    IF NOT FOUND OR v_amount < p_least THEN
        RETURN NULL;
    END IF;
    UPDATE wallets w
    SET held = w.held + v_amount
    WHERE w.tenant_id = v_tenant AND w.currency = v_currency;
    INSERT INTO holds (tenant_id, hold_id, kind, currency, amount, node_id, lease_until)
    VALUES (v_tenant, p_block, 'block', v_currency, v_amount, p_node,
            now() + p_lease_ms * interval '1 millisecond');
    RETURN v_amount;
END $$;

CREATE FUNCTION app.extend_block(p_block uuid, p_more bigint, p_lease_ms bigint) RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
    v_tenant   uuid := app.tenant();
    v_currency text;
BEGIN
    UPDATE holds h
    SET lease_until = now() + p_lease_ms * interval '1 millisecond'
    WHERE h.tenant_id = v_tenant AND h.hold_id = p_block AND h.kind = 'block' AND h.state = 'held'
    RETURNING h.currency INTO v_currency;
    IF NOT FOUND THEN
        RETURN 'gone';
    END IF;
    IF p_more = 0 THEN
        RETURN 'extended';
    END IF;
    UPDATE wallets w
    SET held = w.held + p_more
    WHERE w.tenant_id = v_tenant AND w.currency = v_currency AND w.posted - w.held >= p_more;
    IF NOT FOUND THEN
        RETURN 'no_funds';
    END IF;
    UPDATE holds h
    SET amount = h.amount + p_more
    WHERE h.tenant_id = v_tenant AND h.hold_id = p_block;
    RETURN 'extended';
END $$;

-- Usage and ledger in bulk, the block and the wallet once. Calls that were settled before are
-- passed over, so a batch may be repeated after a lost answer even if the block is closed by now.
-- Without a block the lines must be free of charge: the platform bears them.
CREATE FUNCTION app.settle_calls(
    p_block uuid, p_turns uuid[], p_channels uuid[], p_api_keys uuid[], p_conversations uuid[],
    p_models text[], p_price_versions bigint[], p_inputs bigint[], p_outputs bigint[],
    p_delivereds bigint[], p_charges bigint[], p_absorbeds bigint[], p_currencies text[],
    p_policies text[], p_end_reasons text[]
) RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
    v_tenant    uuid := app.tenant();
    v_currency  text;
    v_turns     uuid[];
    v_charges   bigint[];
    v_absorbeds bigint[];
    v_total     bigint;
BEGIN
    IF p_block IS NOT NULL THEN
        SELECT h.currency INTO v_currency FROM holds h
        WHERE h.tenant_id = v_tenant AND h.hold_id = p_block AND h.kind = 'block'
          AND h.state = 'held'
        FOR UPDATE;
        IF NOT FOUND THEN
            PERFORM 1 FROM unnest(p_turns) AS n (turn_id)
            WHERE NOT EXISTS (
                SELECT 1 FROM usage_events u
                WHERE u.tenant_id = v_tenant AND u.turn_id = n.turn_id);
            RETURN CASE WHEN FOUND THEN 'fenced' ELSE 'done' END;
        END IF;
        IF NOT (v_currency = ALL (p_currencies)) THEN
            RAISE EXCEPTION 'block % is in %, and a call is not', p_block, v_currency
                USING ERRCODE = 'QD001';
        END IF;
    END IF;

    -- What is new is learnt from the insert itself: a look-up before it, planned while the table
    -- is new, would read all usage of the tenant at every settlement.
    WITH fresh AS (
        INSERT INTO usage_events (
            tenant_id, turn_id, channel_id, api_key_id, conversation_id, model, price_version,
            input_tokens, output_tokens, delivered_tokens, charge, absorbed, currency, policy,
            end_reason)
        SELECT v_tenant, n.*
        FROM unnest(
            p_turns, p_channels, p_api_keys, p_conversations, p_models, p_price_versions,
            p_inputs, p_outputs, p_delivereds, p_charges, p_absorbeds, p_currencies, p_policies,
            p_end_reasons) AS n
        ON CONFLICT ON CONSTRAINT usage_events_pk DO NOTHING
        RETURNING turn_id, charge, absorbed
    )
    SELECT array_agg(f.turn_id), array_agg(f.charge), array_agg(f.absorbed), sum(f.charge)
    INTO v_turns, v_charges, v_absorbeds, v_total
    FROM fresh f;

    -- Before the ledger, whose foreign key looks at the wallet once per entry: a row that this
    -- transaction has changed already costs it nothing.
    IF v_total > 0 AND p_block IS NULL THEN
        RAISE EXCEPTION 'calls without a block are charged %', v_total USING ERRCODE = 'QD001';
    END IF;
    IF v_total > 0 THEN
        UPDATE holds h
        SET settled = h.settled + v_total
        WHERE h.tenant_id = v_tenant AND h.hold_id = p_block;
        UPDATE wallets w
        SET held = w.held - v_total, posted = w.posted - v_total
        WHERE w.tenant_id = v_tenant AND w.currency = v_currency;
    END IF;

    INSERT INTO ledger_entries (tenant_id, txn_id, leg, account, amount, currency)
    SELECT v_tenant, f.turn_id, l.leg, l.account, l.amount, COALESCE(v_currency, p_currencies[1])
    FROM unnest(v_turns, v_charges, v_absorbeds) AS f (turn_id, charge, absorbed)
    CROSS JOIN LATERAL (VALUES
        (0::smallint, 'wallet', -f.charge),
        (1::smallint, 'revenue', f.charge),
        (2::smallint, 'platform_absorbed', -f.absorbed),
        (3::smallint, 'revenue', f.absorbed)
    ) AS l (leg, account, amount)
    WHERE l.amount <> 0;
    RETURN 'done';
END $$;

CREATE FUNCTION app.close_block(p_block uuid) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
    v_tenant uuid := app.tenant();
    v_hold   record;
BEGIN
    UPDATE holds h
    SET state = CASE WHEN h.settled > 0 THEN 'settled' ELSE 'voided' END, closed_at = now()
    WHERE h.tenant_id = v_tenant AND h.hold_id = p_block AND h.kind = 'block' AND h.state = 'held'
    RETURNING h.currency, h.amount - h.settled AS rest INTO v_hold;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    UPDATE wallets w
    SET held = w.held - v_hold.rest
    WHERE w.tenant_id = v_tenant AND w.currency = v_hold.currency;
    RETURN true;
END $$;

-- Gives back what nobody will use. One sweeper at a time: it may touch many wallets, and two of
-- them could wait for each other. A node that comes back finds its block closed, or its epoch
-- passed: the epoch is raised before the hold is voided, so it cannot settle in between.
CREATE FUNCTION app.sweep(p_turn_age_ms bigint, p_limit int)
RETURNS TABLE (blocks bigint, holds bigint)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
#variable_conflict use_column
DECLARE
    v_blocks bigint := 0;
    v_holds  bigint := 0;
    v_hold   record;
BEGIN
    IF NOT pg_try_advisory_xact_lock(hashtextextended('qudao.sweep', 0)) THEN
        RETURN QUERY SELECT 0::bigint, 0::bigint;
        RETURN;
    END IF;

    FOR v_hold IN
        SELECT h.tenant_id, h.hold_id, h.currency, h.amount - h.settled AS rest
        FROM public.holds h
        WHERE h.kind = 'block' AND h.state = 'held' AND h.lease_until < now()
        ORDER BY h.lease_until
        LIMIT p_limit
        FOR UPDATE SKIP LOCKED
    LOOP
        UPDATE public.holds h
        SET state = CASE WHEN h.settled > 0 THEN 'settled' ELSE 'voided' END, closed_at = now()
        WHERE h.tenant_id = v_hold.tenant_id AND h.hold_id = v_hold.hold_id;
        UPDATE public.wallets w
        SET held = w.held - v_hold.rest
        WHERE w.tenant_id = v_hold.tenant_id AND w.currency = v_hold.currency;
        v_blocks := v_blocks + 1;
    END LOOP;

    FOR v_hold IN
        SELECT h.tenant_id, h.hold_id, h.conversation_id, h.currency, h.amount
        FROM public.holds h
        WHERE h.kind = 'turn' AND h.state = 'held'
          AND h.created_at < now() - p_turn_age_ms * interval '1 millisecond'
        ORDER BY h.created_at
        LIMIT p_limit
    LOOP
        PERFORM 1 FROM public.conversations c
        WHERE c.tenant_id = v_hold.tenant_id AND c.conversation_id = v_hold.conversation_id
          AND (c.lease_until IS NULL OR c.lease_until < now())
        FOR UPDATE SKIP LOCKED;
        CONTINUE WHEN NOT FOUND;
        UPDATE public.conversations c
        SET epoch = c.epoch + 1, owner = NULL, lease_until = NULL,
            ready_at = CASE WHEN c.last_seq > c.done_seq THEN now() END
        WHERE c.tenant_id = v_hold.tenant_id AND c.conversation_id = v_hold.conversation_id;
        UPDATE public.holds h
        SET state = 'voided', closed_at = now()
        WHERE h.tenant_id = v_hold.tenant_id AND h.hold_id = v_hold.hold_id AND h.state = 'held';
        CONTINUE WHEN NOT FOUND;
        UPDATE public.wallets w
        SET held = w.held - v_hold.amount
        WHERE w.tenant_id = v_hold.tenant_id AND w.currency = v_hold.currency;
        v_holds := v_holds + 1;
    END LOOP;
    RETURN QUERY SELECT v_blocks, v_holds;
END $$;

GRANT EXECUTE ON FUNCTION
    app.reserve_block, app.extend_block, app.settle_calls, app.close_block
    TO qudao_app;
GRANT EXECUTE ON FUNCTION app.sweep TO qudao_claim;

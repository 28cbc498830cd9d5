-- The steps of a turn as one statement each, which is then a transaction of its own: no round trip
-- stands between the lock of a wallet and the commit that lets go of it. The tenant is set as
-- `BEGIN; SET LOCAL` would do, before any row is looked at, and ends with the transaction.

-- What the answer to the messages p_from to p_to needs, with at most p_history earlier ones.
-- Answered messages and the replies to them: what was refused or given up only confuses a model.
CREATE FUNCTION app.turn_context_of(
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
         AND h.kind = 'turn' AND h.state = 'held' AND h.currency = t.currency
    JOIN channels ch ON ch.tenant_id = c.tenant_id AND ch.channel_id = c.channel_id
    JOIN assistants a ON a.tenant_id = c.tenant_id AND a.assistant_id = ch.assistant_id
    JOIN routes r ON r.tenant_id = c.tenant_id AND r.route_id = a.route_id
    WHERE c.tenant_id = p_tenant AND c.conversation_id = p_conversation;
END $$;

-- T3.
CREATE FUNCTION app.hold_turn_of(
    p_tenant uuid,
    p_conversation uuid, p_epoch bigint, p_turn uuid, p_amount bigint, p_currency text,
    p_model text, p_hold uuid, p_attempt uuid
) RETURNS TABLE (outcome text, amount bigint)
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('app.tenant_id', p_tenant::text, true);
    RETURN QUERY SELECT h.outcome, h.amount
    FROM app.hold_turn(
        p_conversation, p_epoch, p_turn, p_amount, p_currency, p_model, p_hold, p_attempt) h;
END $$;

-- T4.
CREATE FUNCTION app.commit_turn_of(
    p_tenant uuid,
    p_conversation uuid, p_epoch bigint, p_turn uuid, p_to bigint, p_reply jsonb, p_outbox uuid,
    p_channel uuid, p_model text, p_price_version bigint, p_input bigint, p_output bigint,
    p_delivered bigint, p_charge bigint, p_absorbed bigint, p_currency text, p_policy text,
    p_end_reason text
) RETURNS TABLE (outbox_id uuid, out_seq bigint)
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('app.tenant_id', p_tenant::text, true);
    RETURN QUERY SELECT t.outbox_id, t.out_seq
    FROM app.commit_turn(
        p_conversation, p_epoch, p_turn, p_to, p_reply, p_outbox, p_channel, p_model,
        p_price_version, p_input, p_output, p_delivered, p_charge, p_absorbed, p_currency,
        p_policy, p_end_reason) t;
END $$;

-- T6 for deliveries of any tenants: whether a conversation of theirs has another message that was
-- waiting behind one of these. Callers sort by tenant, so that two such statements take their
-- locks in the same order.
CREATE FUNCTION app.finish_deliveries(p_tenants uuid[], p_outbox uuid[], p_epochs bigint[])
RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
    v_tenant       uuid;
    v_conversation uuid;
    v_more         boolean := false;
BEGIN
    FOR i IN 1..cardinality(p_tenants) LOOP
        IF v_tenant IS DISTINCT FROM p_tenants[i] THEN
            v_tenant := p_tenants[i];
            PERFORM set_config('app.tenant_id', v_tenant::text, true);
        END IF;
        UPDATE outbox o
        SET state = 'delivered', delivered_at = now(), lease_until = NULL, owner = NULL
        WHERE o.tenant_id = v_tenant AND o.outbox_id = p_outbox[i] AND o.epoch = p_epochs[i]
          AND o.state = 'sending'
        RETURNING o.conversation_id INTO v_conversation;
        v_more := v_more OR FOUND AND EXISTS (
            SELECT 1 FROM outbox o
            WHERE o.tenant_id = v_tenant AND o.conversation_id = v_conversation
              AND o.state IN ('queued', 'sending'));
    END LOOP;
    PERFORM set_config('app.tenant_id', '', true);
    RETURN v_more;
END $$;

GRANT EXECUTE ON FUNCTION
    app.turn_context_of, app.hold_turn_of, app.commit_turn_of, app.finish_deliveries TO qudao_app;

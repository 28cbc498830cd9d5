-- The steps of the pipeline. Those of a tenant run with the caller's rights, so row-level
-- security applies inside them; those that find work across tenants (claims, the sweep) run with
-- the owner's rights, have a pinned search path, and return ids of work rather than its contents
-- wherever they can.
--
-- Every step takes its locks in the order conversation, hold, wallet, so that none of them can
-- deadlock with another.

-- T1. A message that was accepted before is recognised first of all: it is answered the same way
-- even when the tenant ran out of credits or the channel was closed in the meantime.
CREATE FUNCTION app.accept(
    p_channel uuid, p_external text, p_peer text, p_body jsonb,
    p_conversation uuid, p_contact uuid
) RETURNS TABLE (outcome text, conversation_id uuid, seq bigint)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    v_tenant       uuid := app.tenant();
    v_conversation uuid;
    v_contact      uuid;
    v_seq          bigint;
BEGIN
    SELECT i.conversation_id, i.seq INTO v_conversation, v_seq
    FROM inbox i
    WHERE i.tenant_id = v_tenant AND i.channel_id = p_channel AND i.external_id = p_external;
    IF FOUND THEN
        RETURN QUERY SELECT 'duplicate', v_conversation, v_seq;
        RETURN;
    END IF;

    PERFORM 1 FROM channels c
    WHERE c.tenant_id = v_tenant AND c.channel_id = p_channel AND c.open
      AND c.assistant_id IS NOT NULL;
    IF NOT FOUND THEN
        RETURN QUERY SELECT 'channel_closed', NULL::uuid, NULL::bigint;
        RETURN;
    END IF;

    -- Credits that are only set aside at the moment do not make a tenant poor.
    PERFORM 1
    FROM wallets w
    JOIN tenants t ON t.tenant_id = w.tenant_id AND t.currency = w.currency
    WHERE w.tenant_id = v_tenant AND w.posted > 0;
    IF NOT FOUND THEN
        RETURN QUERY SELECT 'no_funds', NULL::uuid, NULL::bigint;
        RETURN;
    END IF;

    SELECT c.conversation_id, c.last_seq + 1 INTO v_conversation, v_seq
    FROM conversations c
    WHERE c.tenant_id = v_tenant AND c.channel_id = p_channel AND c.peer = p_peer
    FOR UPDATE;
    IF NOT FOUND THEN
        -- The first messages of a new person may come at the same moment; one of them opens the
        -- conversation and the others wait for it here.
        PERFORM pg_advisory_xact_lock(hashtextextended(p_channel::text || p_peer, 0));
        SELECT c.conversation_id, c.last_seq + 1 INTO v_conversation, v_seq
        FROM conversations c
        WHERE c.tenant_id = v_tenant AND c.channel_id = p_channel AND c.peer = p_peer
        FOR UPDATE;
        IF NOT FOUND THEN
            SELECT d.contact_id INTO v_contact
            FROM identities d
            WHERE d.tenant_id = v_tenant AND d.channel_id = p_channel AND d.external_id = p_peer;
            IF NOT FOUND THEN
                v_contact := p_contact;
                INSERT INTO contacts (tenant_id, contact_id) VALUES (v_tenant, v_contact);
                INSERT INTO identities (tenant_id, channel_id, external_id, contact_id)
                VALUES (v_tenant, p_channel, p_peer, v_contact);
            END IF;
            v_conversation := p_conversation;
            v_seq := 1;
            INSERT INTO conversations (tenant_id, conversation_id, channel_id, contact_id, peer)
            VALUES (v_tenant, v_conversation, p_channel, v_contact, p_peer);
        END IF;
    END IF;

    INSERT INTO inbox (tenant_id, channel_id, external_id, conversation_id, seq, body)
    VALUES (v_tenant, p_channel, p_external, v_conversation, v_seq, p_body)
    ON CONFLICT ON CONSTRAINT inbox_pk DO NOTHING;
    IF NOT FOUND THEN
        RETURN QUERY SELECT 'duplicate', i.conversation_id, i.seq
        FROM inbox i
        WHERE i.tenant_id = v_tenant AND i.channel_id = p_channel AND i.external_id = p_external;
        RETURN;
    END IF;

    -- COALESCE: a message that comes while a node works on the conversation does not shorten
    -- that node's lease.
    UPDATE conversations c
    SET last_seq = v_seq, ready_at = COALESCE(c.ready_at, now())
    WHERE c.tenant_id = v_tenant AND c.conversation_id = v_conversation;
    RETURN QUERY SELECT 'new', v_conversation, v_seq;
END $$;

-- T2. By = ANY(ARRAY(…)) and not by a join: a join gets a plan that reads the whole table at
-- every claim. By row address, because the rows are locked by this very statement and the keys
-- lead with a tenant that is not known here.
CREATE FUNCTION app.claim_conversations(p_node uuid, p_limit int, p_lease_ms bigint)
RETURNS TABLE (
    tenant_id uuid, conversation_id uuid, epoch bigint, from_seq bigint, to_seq bigint,
    attempts int
)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
#variable_conflict use_column
DECLARE
    v_until timestamptz := now() + p_lease_ms * interval '1 millisecond';
BEGIN
    RETURN QUERY
    UPDATE public.conversations c
    SET epoch = c.epoch + 1, owner = p_node, lease_until = v_until, ready_at = v_until,
        attempts = c.attempts + 1
    WHERE c.ctid = ANY (ARRAY(
        SELECT r.ctid
        FROM public.conversations r
        WHERE r.ready_at <= now()
        ORDER BY r.ready_at
        LIMIT p_limit
        FOR UPDATE SKIP LOCKED))
    RETURNING c.tenant_id, c.conversation_id, c.epoch, c.done_seq + 1, c.last_seq, c.attempts;
END $$;

-- T3. An earlier attempt's hold is found again, because the turn's id is derived from what it
-- answers. It is raised if this attempt asks for more: for a dearer model, or because more
-- messages came. It is never lowered; the settlement returns what was not needed.
CREATE FUNCTION app.hold_turn(
    p_conversation uuid, p_epoch bigint, p_turn uuid, p_amount bigint, p_currency text,
    p_model text, p_hold uuid, p_attempt uuid
) RETURNS TABLE (outcome text, amount bigint)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    v_tenant  uuid := app.tenant();
    v_outcome text := 'found';
    v_amount  bigint;
    v_state   text;
    v_held_in text;
BEGIN
    PERFORM 1 FROM conversations c
    WHERE c.tenant_id = v_tenant AND c.conversation_id = p_conversation AND c.epoch = p_epoch
      AND c.lease_until IS NOT NULL
    FOR UPDATE;
    IF NOT FOUND THEN
        RETURN QUERY SELECT 'fenced', NULL::bigint;
        RETURN;
    END IF;

    SELECT h.amount, h.state, h.currency INTO v_amount, v_state, v_held_in
    FROM holds h
    WHERE h.tenant_id = v_tenant AND h.turn_id = p_turn AND h.kind = 'turn'
      AND h.state <> 'voided'
    FOR UPDATE;
    IF v_state = 'settled' THEN
        RETURN QUERY SELECT 'fenced', NULL::bigint;
        RETURN;
    END IF;

    IF v_state IS NULL THEN
        v_outcome := 'held';
        v_amount := p_amount;
        UPDATE wallets w
        SET held = w.held + p_amount
        WHERE w.tenant_id = v_tenant AND w.currency = p_currency
          AND w.posted - w.held >= p_amount;
        IF NOT FOUND THEN
            RETURN QUERY SELECT 'no_funds', NULL::bigint;
            RETURN;
        END IF;
        INSERT INTO holds (tenant_id, hold_id, kind, currency, amount, turn_id, conversation_id)
        VALUES (v_tenant, p_hold, 'turn', p_currency, p_amount, p_turn, p_conversation);
    ELSIF v_amount < p_amount THEN
        UPDATE wallets w
        SET held = w.held + (p_amount - v_amount)
        WHERE w.tenant_id = v_tenant AND w.currency = p_currency AND v_held_in = p_currency
          AND w.posted - w.held >= p_amount - v_amount;
        IF NOT FOUND THEN
            RETURN QUERY SELECT 'no_funds', NULL::bigint;
            RETURN;
        END IF;
        UPDATE holds h
        SET amount = p_amount
        WHERE h.tenant_id = v_tenant AND h.turn_id = p_turn AND h.kind = 'turn'
          AND h.state = 'held';
        v_amount := p_amount;
    END IF;

    INSERT INTO model_attempts (tenant_id, attempt_id, turn_id, conversation_id, epoch, model)
    VALUES (v_tenant, p_attempt, p_turn, p_conversation, p_epoch, p_model);
    RETURN QUERY SELECT v_outcome, v_amount;
END $$;

-- The ledger's side of usage: the wallet pays the charge, the platform bears the rest, revenue
-- gets both. Legs of zero are left out.
CREATE FUNCTION app.book_usage(
    p_tenant uuid, p_turn uuid, p_charge bigint, p_absorbed bigint, p_currency text
) RETURNS void
LANGUAGE sql AS $$
    INSERT INTO ledger_entries (tenant_id, txn_id, leg, account, amount, currency)
    SELECT p_tenant, p_turn, l.leg, l.account, l.amount, p_currency
    FROM (VALUES
        (0::smallint, 'wallet', -p_charge),
        (1::smallint, 'revenue', p_charge),
        (2::smallint, 'platform_absorbed', -p_absorbed),
        (3::smallint, 'revenue', p_absorbed)
    ) AS l (leg, account, amount)
    WHERE l.amount <> 0
$$;

-- T4. No row means that another node has the conversation or the turn is over.
CREATE FUNCTION app.commit_turn(
    p_conversation uuid, p_epoch bigint, p_turn uuid, p_to bigint, p_reply jsonb, p_outbox uuid,
    p_channel uuid, p_model text, p_price_version bigint, p_input bigint, p_output bigint,
    p_delivered bigint, p_charge bigint, p_absorbed bigint, p_currency text, p_policy text,
    p_end_reason text
) RETURNS TABLE (outbox_id uuid, out_seq bigint)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    v_tenant  uuid := app.tenant();
    v_out_seq bigint;
    v_held    bigint;
BEGIN
    UPDATE conversations c
    SET done_seq = p_to, out_seq = c.out_seq + 1, attempts = 0, owner = NULL, lease_until = NULL,
        ready_at = CASE WHEN c.last_seq > p_to THEN now() END
    WHERE c.tenant_id = v_tenant AND c.conversation_id = p_conversation AND c.epoch = p_epoch
      AND c.lease_until IS NOT NULL AND c.done_seq < p_to
    RETURNING c.out_seq INTO v_out_seq;
    IF NOT FOUND THEN
        RETURN;
    END IF;

    UPDATE holds h
    SET state = 'settled', settled = p_charge, closed_at = now()
    WHERE h.tenant_id = v_tenant AND h.turn_id = p_turn AND h.kind = 'turn' AND h.state = 'held'
      AND h.currency = p_currency
    RETURNING h.amount INTO v_held;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'turn % has no open hold in %', p_turn, p_currency USING ERRCODE = 'QD001';
    END IF;
    UPDATE wallets w
    SET held = w.held - v_held, posted = w.posted - p_charge
    WHERE w.tenant_id = v_tenant AND w.currency = p_currency;

    INSERT INTO usage_events (
        tenant_id, turn_id, channel_id, conversation_id, model, price_version, input_tokens,
        output_tokens, delivered_tokens, charge, absorbed, currency, policy, end_reason)
    VALUES (
        v_tenant, p_turn, p_channel, p_conversation, p_model, p_price_version, p_input,
        p_output, p_delivered, p_charge, p_absorbed, p_currency, p_policy, p_end_reason);
    PERFORM app.book_usage(v_tenant, p_turn, p_charge, p_absorbed, p_currency);

    UPDATE inbox i
    SET state = 'answered', turn_id = p_turn
    WHERE i.tenant_id = v_tenant AND i.conversation_id = p_conversation AND i.seq <= p_to
      AND i.state = 'accepted';
    INSERT INTO outbox (
        tenant_id, outbox_id, conversation_id, out_seq, to_seq, turn_id, kind, body)
    VALUES (v_tenant, p_outbox, p_conversation, v_out_seq, p_to, p_turn, 'reply', p_reply);
    RETURN QUERY SELECT p_outbox, v_out_seq;
END $$;

-- The ends without a reply: the messages become p_state, an open hold is voided, and a notice
-- goes out. No row means that another node has the conversation or the turn is over.
CREATE FUNCTION app.end_turn(
    p_conversation uuid, p_epoch bigint, p_turn uuid, p_to bigint, p_state text, p_notice jsonb,
    p_outbox uuid
) RETURNS TABLE (outbox_id uuid, out_seq bigint)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    v_tenant  uuid := app.tenant();
    v_out_seq bigint;
    v_hold    record;
BEGIN
    UPDATE conversations c
    SET done_seq = p_to, out_seq = c.out_seq + 1, attempts = 0, owner = NULL, lease_until = NULL,
        ready_at = CASE WHEN c.last_seq > p_to THEN now() END
    WHERE c.tenant_id = v_tenant AND c.conversation_id = p_conversation AND c.epoch = p_epoch
      AND c.lease_until IS NOT NULL AND c.done_seq < p_to
    RETURNING c.out_seq INTO v_out_seq;
    IF NOT FOUND THEN
        RETURN;
    END IF;

    UPDATE holds h
    SET state = 'voided', closed_at = now()
    WHERE h.tenant_id = v_tenant AND h.turn_id = p_turn AND h.kind = 'turn' AND h.state = 'held'
    RETURNING h.amount, h.currency INTO v_hold;
    IF FOUND THEN
        UPDATE wallets w
        SET held = w.held - v_hold.amount
        WHERE w.tenant_id = v_tenant AND w.currency = v_hold.currency;
    END IF;

    UPDATE inbox i
    SET state = p_state, turn_id = p_turn
    WHERE i.tenant_id = v_tenant AND i.conversation_id = p_conversation AND i.seq <= p_to
      AND i.state = 'accepted';
    INSERT INTO outbox (
        tenant_id, outbox_id, conversation_id, out_seq, to_seq, turn_id, kind, body)
    VALUES (v_tenant, p_outbox, p_conversation, v_out_seq, p_to, p_turn, 'notice', p_notice);
    RETURN QUERY SELECT p_outbox, v_out_seq;
END $$;

-- T5. A message whose predecessor is still open waits, which keeps each conversation in order.
CREATE FUNCTION app.claim_outbox(p_node uuid, p_limit int, p_lease_ms bigint)
RETURNS TABLE (
    tenant_id uuid, outbox_id uuid, conversation_id uuid, channel_id uuid, channel_kind text,
    peer text, out_seq bigint, to_seq bigint, turn_id uuid, kind text, body jsonb, epoch bigint,
    attempts int
)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
#variable_conflict use_column
DECLARE
    v_until timestamptz := now() + p_lease_ms * interval '1 millisecond';
BEGIN
    RETURN QUERY
    UPDATE public.outbox o
    SET state = 'sending', epoch = o.epoch + 1, attempts = o.attempts + 1, owner = p_node,
        lease_until = v_until, next_at = v_until
    FROM public.conversations c, public.channels ch
    WHERE o.ctid = ANY (ARRAY(
        SELECT d.ctid
        FROM public.outbox d
        WHERE d.state IN ('queued', 'sending') AND d.next_at <= now()
          AND NOT EXISTS (
              SELECT 1 FROM public.outbox e
              WHERE e.tenant_id = d.tenant_id AND e.conversation_id = d.conversation_id
                AND e.out_seq < d.out_seq AND e.state IN ('queued', 'sending'))
        ORDER BY d.next_at
        LIMIT p_limit
        FOR UPDATE SKIP LOCKED))
      AND c.tenant_id = o.tenant_id AND c.conversation_id = o.conversation_id
      AND ch.tenant_id = c.tenant_id AND ch.channel_id = c.channel_id
    RETURNING o.tenant_id, o.outbox_id, o.conversation_id, c.channel_id, ch.kind, c.peer,
              o.out_seq, o.to_seq, o.turn_id, o.kind, o.body, o.epoch, o.attempts;
END $$;

GRANT EXECUTE ON FUNCTION
    app.accept, app.hold_turn, app.book_usage, app.commit_turn, app.end_turn
    TO qudao_app;
GRANT EXECUTE ON FUNCTION app.claim_conversations, app.claim_outbox TO qudao_claim;

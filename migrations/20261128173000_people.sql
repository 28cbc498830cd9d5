-- People's data: what is erased at somebody's wish, and what is not kept for longer than the tenant
-- wants. Rows stay, for they are counted and charged; what they say goes. So numbers have no gap,
-- and every line of the books has its turn.

ALTER TABLE contacts ADD COLUMN erase_asked_at timestamptz, ADD COLUMN erased_at timestamptz;
ALTER TABLE tenants
    ADD COLUMN retention_days int,
    ADD COLUMN erase_asked_at timestamptz,
    ADD COLUMN erased_at timestamptz,
    ADD CONSTRAINT tenants_retention_days_range
        CHECK (retention_days BETWEEN 1 AND 36500) NOT VALID;
-- Up to which of its messages a conversation says nothing any more.
ALTER TABLE conversations
    ADD COLUMN erased_in bigint NOT NULL DEFAULT 0,
    ADD COLUMN erased_out bigint NOT NULL DEFAULT 0;

GRANT UPDATE (erase_asked_at, erased_at) ON contacts TO qudao_app;
GRANT UPDATE (name, retention_days, erase_asked_at, erased_at) ON tenants TO qudao_app;
GRANT DELETE ON identities TO qudao_app;
GRANT DELETE ON tenant_keys TO qudao_app;

-- Asks for the erasure of a contact and fences it: whoever answers one of its conversations at this
-- moment writes nothing, nothing is sent any more, and what the channel calls the person is
-- forgotten, so that the same person begins anew as somebody else. 'unknown', 'fenced' or 'erased'.
CREATE FUNCTION app.fence_contact(p_contact uuid) RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
    v_tenant       uuid := app.tenant();
    v_erased       timestamptz;
    v_conversation uuid;
    v_turn         uuid;
    v_hold         record;
BEGIN
    UPDATE contacts c
    SET erase_asked_at = COALESCE(c.erase_asked_at, now())
    WHERE c.tenant_id = v_tenant AND c.contact_id = p_contact
    RETURNING c.erased_at INTO v_erased;
    IF NOT FOUND THEN
        RETURN 'unknown';
    END IF;
    FOR v_conversation IN
        SELECT c.conversation_id FROM conversations c
        WHERE c.tenant_id = v_tenant AND c.contact_id = p_contact
          AND c.peer <> 'erased:' || c.conversation_id
        ORDER BY c.conversation_id
        FOR UPDATE
    LOOP
        UPDATE conversations c
        SET epoch = c.epoch + 1, done_seq = c.last_seq, ready_at = NULL, lease_until = NULL,
            owner = NULL, attempts = 0, peer = 'erased:' || c.conversation_id
        WHERE c.tenant_id = v_tenant AND c.conversation_id = v_conversation;
        v_turn := NULL;
        FOR v_hold IN
            UPDATE holds h
            SET state = 'voided', closed_at = now()
            WHERE h.tenant_id = v_tenant AND h.conversation_id = v_conversation
              AND h.kind = 'turn' AND h.state = 'held'
            RETURNING h.turn_id, h.amount, h.currency
        LOOP
            v_turn := v_hold.turn_id;
            UPDATE wallets w
            SET held = w.held - v_hold.amount
            WHERE w.tenant_id = v_tenant AND w.currency = v_hold.currency;
        END LOOP;
        UPDATE inbox i
        SET state = 'rejected', turn_id = COALESCE(v_turn, gen_random_uuid())
        WHERE i.tenant_id = v_tenant AND i.conversation_id = v_conversation
          AND i.state = 'accepted';
        UPDATE outbox o
        SET state = 'dead', epoch = o.epoch + 1, lease_until = NULL, owner = NULL
        WHERE o.tenant_id = v_tenant AND o.conversation_id = v_conversation
          AND o.state IN ('queued', 'sending');
    END LOOP;
    DELETE FROM identities d WHERE d.tenant_id = v_tenant AND d.contact_id = p_contact;
    RETURN CASE WHEN v_erased IS NULL THEN 'fenced' ELSE 'erased' END;
END $$;

-- Takes the words out of a conversation's oldest messages: what is over and older than p_before, at
-- most p_limit in each direction. Returns how many messages that were; 0 when there are no more.
CREATE FUNCTION app.blank_messages(p_conversation uuid, p_before timestamptz, p_limit int)
RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    v_tenant   uuid := app.tenant();
    v_nothing  jsonb := '{"text": "", "erased": true}';
    v_in       bigint;
    v_out      bigint;
    v_to_in    bigint;
    v_to_out   bigint;
BEGIN
    SELECT c.erased_in, c.erased_out INTO v_in, v_out
    FROM conversations c
    WHERE c.tenant_id = v_tenant AND c.conversation_id = p_conversation
    FOR UPDATE;
    IF NOT FOUND THEN
        RETURN 0;
    END IF;
    -- In order, up to the first message that is to stay.
    SELECT COALESCE(min(b.seq) FILTER (WHERE b.stays) - 1, max(b.seq), v_in) INTO v_to_in
    FROM (SELECT i.seq, i.state = 'accepted' OR i.accepted_at >= p_before AS stays
          FROM inbox i
          WHERE i.tenant_id = v_tenant AND i.conversation_id = p_conversation AND i.seq > v_in
          ORDER BY i.seq LIMIT p_limit) b;
    SELECT COALESCE(min(b.out_seq) FILTER (WHERE b.stays) - 1, max(b.out_seq), v_out) INTO v_to_out
    FROM (SELECT o.out_seq, o.state IN ('queued', 'sending') OR o.created_at >= p_before AS stays
          FROM outbox o
          WHERE o.tenant_id = v_tenant AND o.conversation_id = p_conversation
            AND o.out_seq > v_out
          ORDER BY o.out_seq LIMIT p_limit) b;
    IF v_to_in = v_in AND v_to_out = v_out THEN
        RETURN 0;
    END IF;
    UPDATE inbox i
    SET body = v_nothing, external_id = 'erased:' || i.conversation_id || ':' || i.seq
    WHERE i.tenant_id = v_tenant AND i.conversation_id = p_conversation
      AND i.seq > v_in AND i.seq <= v_to_in;
    UPDATE outbox o
    SET body = v_nothing, last_error = NULL
    WHERE o.tenant_id = v_tenant AND o.conversation_id = p_conversation
      AND o.out_seq > v_out AND o.out_seq <= v_to_out;
    UPDATE conversations c
    SET erased_in = v_to_in, erased_out = v_to_out
    WHERE c.tenant_id = v_tenant AND c.conversation_id = p_conversation;
    RETURN v_to_in - v_in + v_to_out - v_out;
END $$;

-- What was asked for and is not finished: of a node that died over it. A row without a contact is a
-- whole tenant.
CREATE FUNCTION app.unfinished_erasures(p_older_than_ms bigint, p_limit bigint)
RETURNS TABLE (tenant_id uuid, contact_id uuid)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
    (SELECT t.tenant_id, NULL::uuid
     FROM public.tenants t
     WHERE t.erased_at IS NULL
       AND t.erase_asked_at < now() - p_older_than_ms * interval '1 millisecond'
     LIMIT p_limit)
    UNION ALL
    (SELECT c.tenant_id, c.contact_id
     FROM public.contacts c
     WHERE c.erased_at IS NULL
       AND c.erase_asked_at < now() - p_older_than_ms * interval '1 millisecond'
     LIMIT p_limit)
$$;

-- The tenants that keep messages for so many days only.
CREATE FUNCTION app.tenants_with_retention(p_after uuid, p_limit bigint)
RETURNS TABLE (tenant_id uuid, retention_days int)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
    SELECT t.tenant_id, t.retention_days
    FROM public.tenants t
    WHERE t.retention_days IS NOT NULL AND (p_after IS NULL OR t.tenant_id > p_after)
    ORDER BY t.tenant_id
    LIMIT p_limit
$$;

-- app.list_tenants with how long messages are kept.
CREATE FUNCTION app.page_of_tenants(p_before uuid, p_limit bigint)
RETURNS TABLE (
    tenant_id uuid, name text, currency text, locale text, fair_charging text,
    created_at timestamptz, retention_days int
)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
    SELECT t.tenant_id, t.name, t.currency, t.locale, t.fair_charging, t.created_at,
           t.retention_days
    FROM public.tenants t
    WHERE p_before IS NULL OR t.tenant_id < p_before
    ORDER BY t.tenant_id DESC
    LIMIT p_limit
$$;

GRANT EXECUTE ON FUNCTION app.fence_contact, app.blank_messages TO qudao_app;
GRANT EXECUTE ON FUNCTION app.unfinished_erasures, app.tenants_with_retention TO qudao_claim;
GRANT EXECUTE ON FUNCTION app.page_of_tenants TO qudao_admin;

-- Routes with rules, and what they decided.

-- Rules, the model that finds sentiment, and a model on trial. `models` answer where no rule matches,
-- and are all that nodes know which came before this.
ALTER TABLE routes ADD COLUMN routing jsonb NOT NULL DEFAULT '{}';

-- What was considered and chosen for each attempt of a turn and each call by a route's name. Classes,
-- numbers and names of models; no word of anybody.
CREATE TABLE route_decisions (
    tenant_id         uuid        NOT NULL,
    decision_id       uuid        NOT NULL,
    turn_id           uuid        NOT NULL,
    route_id          uuid        NOT NULL,
    conversation_id   uuid,
    -- Who answered; null where nobody did.
    model             text,
    -- Models that were asked or passed over before.
    fallbacks         int         NOT NULL DEFAULT 0,
    -- Which side of the route's trial it stands on, and how the first model that was asked did.
    arm               text        NOT NULL DEFAULT 'stable',
    failed            boolean,
    latency_ms        int,
    -- How the canary did that was asked as well.
    shadow_failed     boolean,
    shadow_latency_ms int,
    agreement         double precision,
    body              jsonb       NOT NULL,
    decided_at        timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT route_decisions_pk PRIMARY KEY (tenant_id, decision_id),
    CONSTRAINT route_decisions_route_fk
        FOREIGN KEY (tenant_id, route_id) REFERENCES routes (tenant_id, route_id),
    CONSTRAINT route_decisions_conversation_fk FOREIGN KEY (tenant_id, conversation_id)
        REFERENCES conversations (tenant_id, conversation_id),
    CONSTRAINT route_decisions_arm_known CHECK (arm IN ('stable', 'canary', 'shadow'))
);
CREATE INDEX route_decisions_by_turn ON route_decisions (tenant_id, turn_id);
CREATE INDEX route_decisions_by_route ON route_decisions (tenant_id, route_id, decided_at);
CREATE INDEX route_decisions_by_age ON route_decisions (decided_at);

ALTER TABLE route_decisions ENABLE ROW LEVEL SECURITY;
ALTER TABLE route_decisions FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_rows ON route_decisions USING (tenant_id = (SELECT app.tenant()))
    WITH CHECK (tenant_id = (SELECT app.tenant()));
GRANT SELECT, INSERT, UPDATE, DELETE ON route_decisions TO qudao_app;

-- app.turn_contexts_of, with the route that decides.
CREATE FUNCTION app.routed_contexts_of(
    p_tenants uuid[], p_conversations uuid[], p_turns uuid[], p_from bigint[], p_to bigint[],
    p_history int
) RETURNS TABLE (
    place int, currency text, fair_charging text, posted bigint, available bigint, locale text,
    channel_id uuid, kind text, models text[], assistant_id uuid, name text, system_prompt text,
    params jsonb, pending jsonb, history jsonb, route_id uuid, routing jsonb
)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
    FOR i IN 1..cardinality(p_tenants) LOOP
        PERFORM set_config('app.tenant_id', p_tenants[i]::text, true);
        RETURN QUERY
        SELECT i, t.*, r.route_id, r.routing
        FROM app.turn_context_of(
            p_tenants[i], p_conversations[i], p_turns[i], p_from[i], p_to[i], p_history) t
        JOIN assistants a ON a.tenant_id = p_tenants[i] AND a.assistant_id = t.assistant_id
        JOIN routes r ON r.tenant_id = p_tenants[i] AND r.route_id = a.route_id;
    END LOOP;
    PERFORM set_config('app.tenant_id', '', true);
END $$;

-- Adds a decision of the tenant that is set; one that is there stays as it is.
CREATE FUNCTION app.add_decision(p_decision jsonb) RETURNS void
LANGUAGE sql AS $$
    INSERT INTO route_decisions (
        tenant_id, decision_id, turn_id, route_id, conversation_id, model, fallbacks, arm, failed,
        latency_ms, body)
    SELECT app.tenant(), d.decision_id, d.turn_id, d.route_id, d.conversation_id, d.model,
           d.fallbacks, d.arm, d.failed, d.latency_ms, d.body
    FROM jsonb_to_record(p_decision) AS d (
        decision_id uuid, turn_id uuid, route_id uuid, conversation_id uuid, model text,
        fallbacks int, arm text, failed boolean, latency_ms int, body jsonb)
    ON CONFLICT ON CONSTRAINT route_decisions_pk DO NOTHING
$$;

-- T4 with the decisions that led to the replies: both or neither. One is written where its reply is.
CREATE FUNCTION app.commit_routed_turns(
    p_tenants uuid[], p_conversations uuid[], p_epochs bigint[], p_turns uuid[], p_to bigint[],
    p_replies jsonb[], p_outbox uuid[], p_channels uuid[], p_models text[],
    p_price_versions bigint[], p_input bigint[], p_output bigint[], p_delivered bigint[],
    p_charges bigint[], p_absorbed bigint[], p_currencies text[], p_policies text[],
    p_end_reasons text[], p_decisions jsonb[]
) RETURNS TABLE (place int, outbox_id uuid, out_seq bigint)
LANGUAGE plpgsql AS $$
DECLARE
    v_places int[];
    v_outbox uuid[];
    v_seqs   bigint[];
BEGIN
    SELECT array_agg(t.place ORDER BY t.place), array_agg(t.outbox_id ORDER BY t.place),
           array_agg(t.out_seq ORDER BY t.place)
    INTO v_places, v_outbox, v_seqs
    FROM app.commit_turns(
        p_tenants, p_conversations, p_epochs, p_turns, p_to, p_replies, p_outbox, p_channels,
        p_models, p_price_versions, p_input, p_output, p_delivered, p_charges, p_absorbed,
        p_currencies, p_policies, p_end_reasons) t;
    IF v_places IS NULL THEN
        RETURN;
    END IF;
    FOR i IN 1..cardinality(v_places) LOOP
        PERFORM set_config('app.tenant_id', p_tenants[v_places[i]]::text, true);
        PERFORM app.add_decision(p_decisions[v_places[i]]);
    END LOOP;
    PERFORM set_config('app.tenant_id', '', true);
    RETURN QUERY SELECT * FROM unnest(v_places, v_outbox, v_seqs);
END $$;

-- Decisions of any tenants. Callers sort by tenant.
CREATE FUNCTION app.record_decisions(p_tenants uuid[], p_decisions jsonb[]) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    v_tenant uuid;
BEGIN
    FOR i IN 1..cardinality(p_tenants) LOOP
        IF v_tenant IS DISTINCT FROM p_tenants[i] THEN
            v_tenant := p_tenants[i];
            PERFORM set_config('app.tenant_id', v_tenant::text, true);
        END IF;
        PERFORM app.add_decision(p_decisions[i]);
    END LOOP;
    PERFORM set_config('app.tenant_id', '', true);
END $$;

-- Decisions that nobody asks for any more.
CREATE FUNCTION app.forget_route_decisions(p_older_than_ms bigint, p_limit int) RETURNS bigint
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
    WITH gone AS (
        DELETE FROM public.route_decisions d
        WHERE d.ctid = ANY (ARRAY(
            SELECT o.ctid FROM public.route_decisions o
            WHERE o.decided_at < now() - p_older_than_ms * interval '1 millisecond'
            ORDER BY o.decided_at LIMIT p_limit))
        RETURNING 1)
    SELECT count(*) FROM gone
$$;

GRANT EXECUTE ON FUNCTION app.routed_contexts_of, app.add_decision, app.commit_routed_turns,
    app.record_decisions TO qudao_app;
GRANT EXECUTE ON FUNCTION app.forget_route_decisions TO qudao_claim;

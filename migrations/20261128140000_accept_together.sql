-- T1 for several messages in one statement, which is a transaction of its own: messages that come
-- at about the same moment share one commit, whoever's they are. Each sees its own tenant's rows
-- only, as after `BEGIN; SET LOCAL`. Callers sort the messages by tenant, channel and peer, so that
-- two such statements take their locks in the same order.
CREATE FUNCTION app.accept_together(
    p_tenants uuid[], p_channels uuid[], p_externals text[], p_peers text[], p_bodies jsonb[],
    p_conversations uuid[], p_contacts uuid[]
) RETURNS TABLE (outcome text, conversation_id uuid, seq bigint)
LANGUAGE plpgsql AS $$
BEGIN
    FOR i IN 1..cardinality(p_tenants) LOOP
        PERFORM set_config('app.tenant_id', p_tenants[i]::text, true);
        RETURN QUERY SELECT a.outcome, a.conversation_id, a.seq
        FROM app.accept(
            p_channels[i], p_externals[i], p_peers[i], p_bodies[i],
            p_conversations[i], p_contacts[i]) a;
    END LOOP;
    PERFORM set_config('app.tenant_id', '', true);
END $$;

GRANT EXECUTE ON FUNCTION app.accept_together TO qudao_app;

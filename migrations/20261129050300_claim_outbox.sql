-- T5, as before, by plans that do not depend on what the planner believes of a table that changes
-- with every turn. Messages that are due are read in the order of the index until enough of them
-- are first in their conversations; where each goes is looked up by keys, after it was taken.
CREATE OR REPLACE FUNCTION app.claim_outbox(p_node uuid, p_limit int, p_lease_ms bigint)
RETURNS TABLE (
    tenant_id uuid, outbox_id uuid, conversation_id uuid, channel_id uuid, channel_kind text,
    peer text, out_seq bigint, to_seq bigint, turn_id uuid, kind text, body jsonb, epoch bigint,
    attempts int
)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp
SET enable_bitmapscan = off SET enable_sort = off SET enable_hashjoin = off
SET enable_mergejoin = off AS $$
#variable_conflict use_column
DECLARE
    v_until timestamptz := now() + p_lease_ms * interval '1 millisecond';
BEGIN
    RETURN QUERY
    WITH taken AS (
        UPDATE public.outbox o
        SET state = 'sending', epoch = o.epoch + 1, attempts = o.attempts + 1, owner = p_node,
            lease_until = v_until, next_at = v_until
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
        RETURNING o.tenant_id, o.outbox_id, o.conversation_id, o.out_seq, o.to_seq, o.turn_id,
                  o.kind, o.body, o.epoch, o.attempts)
    SELECT t.tenant_id, t.outbox_id, t.conversation_id, w.channel_id, w.kind, w.peer, t.out_seq,
           t.to_seq, t.turn_id, t.kind, t.body, t.epoch, t.attempts
    FROM taken t
    CROSS JOIN LATERAL (
        SELECT c.channel_id, c.peer, (
                   SELECT ch.kind FROM public.channels ch
                   WHERE ch.tenant_id = c.tenant_id AND ch.channel_id = c.channel_id) AS kind
        FROM public.conversations c
        WHERE c.tenant_id = t.tenant_id AND c.conversation_id = t.conversation_id
        OFFSET 0
    ) w;
END $$;

-- Events for endpoints, as before: of a conversation's ordered ones only the first. It is found by
-- one pass over the lanes of the channels that can be sent to, where a search for predecessors at
-- every event that waits cost the square of the longest lane. What another node is taking at this
-- moment is passed over.
CREATE OR REPLACE FUNCTION app.claim_partner_events(p_limit int, p_lease_ms bigint, p_pause_ms bigint)
RETURNS TABLE (tenant_id uuid, channel_id uuid, event_cursor bigint, probe boolean)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    WITH probes AS (
        UPDATE public.partner_channels h
        SET paused_until = now() + p_pause_ms * interval '1 millisecond'
        WHERE h.paused_until <= now()
          AND EXISTS (SELECT 1 FROM public.partner_events e
                      WHERE e.tenant_id = h.tenant_id AND e.channel_id = h.channel_id
                        AND e.state IN ('ready', 'sending'))
        RETURNING h.tenant_id, h.channel_id),
    claimed AS (
        UPDATE public.partner_events p
        SET state = 'sending', attempts = p.attempts + 1, tries = p.tries + 1,
            lease_until = now() + p_lease_ms * interval '1 millisecond'
        WHERE p.ctid = ANY (ARRAY(
            SELECT e.ctid
            FROM public.partner_events e
            WHERE e.ctid = ANY (ARRAY(
                    SELECT f.place
                    FROM public.partner_channels h
                    JOIN public.channels c
                      ON c.tenant_id = h.tenant_id AND c.channel_id = h.channel_id
                    CROSS JOIN LATERAL (
                        (SELECT DISTINCT ON (o.thread)
                                o.ctid AS place, o.state, o.next_at, o.lease_until
                         FROM public.partner_events o
                         WHERE o.tenant_id = h.tenant_id AND o.channel_id = h.channel_id
                           AND o.seq IS NOT NULL AND o.state IN ('ready', 'sending')
                         ORDER BY o.thread, o.cursor)
                        UNION ALL
                        (SELECT o.ctid, o.state, o.next_at, o.lease_until
                         FROM public.partner_events o
                         WHERE o.tenant_id = h.tenant_id AND o.channel_id = h.channel_id
                           AND o.seq IS NULL AND o.state IN ('ready', 'sending'))
                    ) f
                    WHERE c.open AND COALESCE(c.settings->>'transport', 'webhook') = 'webhook'
                      AND h.verified_url = c.settings->>'endpoint_url'
                      AND h.disabled_at IS NULL AND h.paused_until IS NULL
                      AND (f.state = 'ready' AND f.next_at <= now()
                           OR f.state = 'sending' AND f.lease_until <= now())
                    -- Twice as many as are wanted, for those that are being taken.
                    ORDER BY f.next_at
                    LIMIT 2 * p_limit))
              AND (e.state = 'ready' AND e.next_at <= now()
                   OR e.state = 'sending' AND e.lease_until <= now())
            ORDER BY e.next_at
            LIMIT p_limit
            FOR UPDATE SKIP LOCKED))
        RETURNING p.tenant_id, p.channel_id, p.cursor)
    SELECT c.tenant_id, c.channel_id, c.cursor, false FROM claimed c
    UNION ALL
    SELECT p.tenant_id, p.channel_id, 0::bigint, true FROM probes p;
END $$;
